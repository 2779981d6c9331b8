//! Which options a client knows, so that it is never given one that it would refuse. Found by looking
//! for their names in its file, once a version: the answer is kept in a small cache.

use memchr::memchr_iter;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a client's file says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `--session-id ID` chooses the id of a fresh session.
    pub session_id: bool,
    /// `--plugin-dir DIR` loads hooks for one session.
    pub plugin_dir: bool,
    /// `sessions/PID.json` follows `/clear` and `/resume`, and tells whether a turn is under way.
    pub follows_session: bool,
}

/// The text that gives each of them away. `statusUpdatedAt` is a field of `sessions/PID.json` in the
/// versions that keep the file up to date (2.1.329), and absent from those that write it once (2.1.110).
const SIGNS: [&str; 3] = ["--session-id", "--plugin-dir", "statusUpdatedAt"];

/// Bytes looked at in one go: what this process holds of the client's file.
const WINDOW: usize = 256 << 10;
/// Lines of the cache: one a client version.
const CACHE_LINES: usize = 32;

impl Capabilities {
    /// Of the client in this file. `cache`: a file of ours; unreadable or full of junk, it costs the
    /// search (about 0.1 s), never more.
    pub fn of(program: &Path, cache: Option<&Path>) -> Self {
        let Ok(meta) = fs::metadata(program) else {
            return Self::default();
        };
        let key = format!(
            "{}:{}:{}:{}.{}",
            meta.dev(),
            meta.ino(),
            meta.size(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        let known = cache
            .and_then(|c| fs::read_to_string(c).ok())
            .unwrap_or_default();
        if let Some(found) = known.lines().find_map(|line| Self::from_line(line, &key)) {
            return found;
        }
        let Ok(found) = File::open(program).and_then(Self::search) else {
            return Self::default();
        };
        if let Some(cache) = cache {
            let _ = found.remember(cache, &key, &known);
        }
        found
    }

    fn search(mut file: impl Read) -> std::io::Result<Self> {
        let overlap = SIGNS.iter().map(|s| s.len()).max().unwrap_or(0);
        let mut window = vec![0_u8; WINDOW + overlap];
        let mut held = 0;
        let mut seen = [false; SIGNS.len()];
        loop {
            let read = file.read(&mut window[held..])?;
            if read == 0 || seen == [true; SIGNS.len()] {
                break;
            }
            let filled = held + read;
            for (seen, sign) in seen.iter_mut().zip(SIGNS) {
                *seen |= holds(&window[..filled], sign.as_bytes());
            }
            // A sign may lie across two windows.
            let keep = overlap.min(filled);
            window.copy_within(filled - keep..filled, 0);
            held = keep;
        }
        let [session_id, plugin_dir, follows_session] = seen;
        Ok(Self {
            session_id,
            plugin_dir,
            follows_session,
        })
    }

    fn from_line(line: &str, key: &str) -> Option<Self> {
        let (found_key, bits) = line.split_once(' ')?;
        let &[a, b, c] = bits.as_bytes() else {
            return None;
        };
        let bit = |byte| match byte {
            b'0' => Some(false),
            b'1' => Some(true),
            _ => None,
        };
        (found_key == key).then_some(())?;
        Some(Self {
            session_id: bit(a)?,
            plugin_dir: bit(b)?,
            follows_session: bit(c)?,
        })
    }

    fn remember(self, cache: &Path, key: &str, known: &str) -> std::io::Result<()> {
        let bit = |b: bool| if b { '1' } else { '0' };
        let mut text = format!(
            "{key} {}{}{}\n",
            bit(self.session_id),
            bit(self.plugin_dir),
            bit(self.follows_session)
        );
        for line in known.lines().take(CACHE_LINES - 1) {
            text.push_str(line);
            text.push('\n');
        }
        if let Some(folder) = cache.parent() {
            fs::create_dir_all(folder)?;
        }
        // Sessions that start at once each write a draft of their own; the last rename wins.
        let draft = cache.with_extension(std::process::id().to_string());
        File::create(&draft)?.write_all(text.as_bytes())?;
        fs::rename(draft, cache)
    }
}

/// Is this sign in there? Looks for its rarest byte, a letter that is none of the small ones. memchr's
/// own search for texts is no faster with these signs, and 5 KB.
fn holds(window: &[u8], sign: &[u8]) -> bool {
    let at = sign.iter().position(|byte| !byte.is_ascii_lowercase());
    let at = at.unwrap_or(0);
    memchr_iter(sign[at], window)
        .filter_map(|found| window.get(found.checked_sub(at)?..))
        .any(|text| text.starts_with(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("cs-cap-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn a_sign_across_two_windows_is_found() {
        for shift in 0..SIGNS[0].len() {
            let mut text = vec![b'-'; WINDOW - shift];
            text.extend_from_slice(SIGNS[0].as_bytes());
            text.resize(3 * WINDOW, b'x');
            let found = Capabilities::search(text.as_slice()).unwrap();
            assert!(
                found.session_id && !found.plugin_dir && !found.follows_session,
                "{shift}"
            );
        }
    }

    #[test]
    fn the_answer_is_kept_and_a_changed_file_is_searched_again() {
        let folder = scratch("cache");
        let (client, cache) = (folder.join("c"), folder.join("deep/cache"));
        fs::write(&client, "x --session-id y").unwrap();
        let first = Capabilities::of(&client, Some(&cache));
        assert!(first.session_id && !first.plugin_dir);
        // Proof that the cache is what answers: an answer that the file does not give.
        let forged = fs::read_to_string(&cache).unwrap().replace(" 100", " 011");
        fs::write(&cache, format!("junk\n\n{forged}")).unwrap();
        assert!(!Capabilities::of(&client, Some(&cache)).session_id);
        fs::write(&client, "x --session-id y --plugin-dir").unwrap();
        let changed = Capabilities::of(&client, Some(&cache));
        assert!(changed.session_id && changed.plugin_dir);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_cache_of_junk_or_out_of_reach_costs_nothing_but_the_search() {
        let folder = scratch("junk");
        let client = folder.join("c");
        fs::write(&client, "--plugin-dir").unwrap();
        let cache = folder.join("cache");
        for junk in ["\0\u{ff}", "a", " ", "1:2:3:4.5 19", &"z".repeat(10_000)] {
            fs::write(&cache, junk).unwrap();
            assert!(Capabilities::of(&client, Some(&cache)).plugin_dir);
        }
        assert!(Capabilities::of(&client, Some(Path::new("/dev/null/no"))).plugin_dir);
        assert_eq!(
            Capabilities::of(Path::new("/no/such"), None),
            Capabilities::default()
        );
        fs::remove_dir_all(folder).unwrap();
    }
}
