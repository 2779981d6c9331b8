//! The incidents of all sessions of this user: text lines of five fields with tabs between them, in `incidents`, and
//! the ones before in `incidents.1`. Each line is one append, so sessions never mix theirs. Holds names of programs,
//! never their arguments.

use crate::os::files::{FileId, try_lock};
use crate::os::private::{self, Access};
use crate::watch::ProcessId;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

/// From this size on the file becomes the one before.
pub const ROTATE_BYTES: u64 = 128 << 10;

const NOW: &str = "incidents";
const BEFORE: &str = "incidents.1";

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Memory passed the first mark, and the user was told.
    Warned,
    /// A tool was ended because of memory, or of what it wrote.
    ToolEnded,
    /// The client was ended because of memory.
    Ended,
    /// It was started again.
    Restarted,
    /// It came back to the limit too often.
    GaveUp,
    /// The kernel, or somebody, killed the client or a process of the session.
    Killed,
    /// A process left the session's cgroup.
    LeftGroup,
    /// Tier 1 found all pages hot.
    ReclaimGivenUp,
}

/// Each kind as the file has it.
const WORDS: [(Kind, &str); 8] = [
    (Kind::Warned, "warned"),
    (Kind::ToolEnded, "tool-ended"),
    (Kind::Ended, "ended"),
    (Kind::Restarted, "restarted"),
    (Kind::GaveUp, "gave-up"),
    (Kind::Killed, "killed"),
    (Kind::LeftGroup, "left-cgroup"),
    (Kind::ReclaimGivenUp, "reclaim-given-up"),
];

impl Kind {
    /// For files and people.
    pub fn word(self) -> &'static str {
        WORDS
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("?", |(_, word)| word)
    }
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// When, milliseconds since 1970.
    pub at_unix_ms: u64,
    /// The claude-safe of the session.
    pub session: ProcessId,
    /// What.
    pub kind: Kind,
    /// Memory of the session as it was seen last.
    pub total_kib: u64,
    /// More, for people; one line.
    pub text: String,
}

impl Incident {
    fn line(&self) -> String {
        let text: String = (self.text.chars().take(400))
            .map(|letter| if letter.is_control() { '?' } else { letter })
            .collect();
        format!(
            "{}\t{}.{}\t{}\t{}\t{text}\n",
            self.at_unix_ms,
            self.session.pid,
            self.session.start_ticks,
            self.kind.word(),
            self.total_kib,
        )
    }

    fn parse(line: &str) -> Option<Incident> {
        let mut fields = line.splitn(5, '\t');
        let at_unix_ms = fields.next()?.parse().ok()?;
        let (pid, start) = fields.next()?.split_once('.')?;
        let word = fields.next()?;
        Some(Incident {
            at_unix_ms,
            session: ProcessId {
                pid: pid.parse().ok()?,
                start_ticks: start.parse().ok()?,
            },
            kind: WORDS.iter().find(|(_, known)| *known == word)?.0,
            total_kib: fields.next()?.parse().ok()?,
            text: fields.next()?.to_owned(),
        })
    }
}

/// Adds one.
///
/// # Errors
/// Disk full, no such folder, or the file is not ours alone.
pub fn add(folder: &Path, incident: &Incident) -> io::Result<()> {
    let path = folder.join(NOW);
    let mut file = private::log(&path)?;
    if file.metadata()?.len() >= ROTATE_BYTES {
        rotate(folder, &file);
        file = private::log(&path)?;
    }
    file.write_all(incident.line().as_bytes())
}

/// Two sessions that find it full must not rotate twice: one has the lock, and the file is still that one.
fn rotate(folder: &Path, file: &File) {
    let path = folder.join(NOW);
    let is_ours_to_do = matches!(try_lock(file), Ok(true));
    let opened = file
        .metadata()
        .ok()
        .map(|found| FileId::of_metadata(&found));
    if is_ours_to_do && opened == FileId::of(&path) {
        let _ = fs::rename(path, folder.join(BEFORE));
    }
}

/// All that are kept of a session, the oldest first. Lines that are not understood are passed over.
///
/// # Errors
/// A file is not ours alone. None at all is no error.
pub fn of_session(folder: &Path, session: ProcessId) -> io::Result<Vec<Incident>> {
    let mut all = Vec::new();
    for name in [BEFORE, NOW] {
        let file = match private::file(&folder.join(name), Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let mut text = Vec::new();
        // A line may follow the size at which it is rotated.
        file.take(2 * ROTATE_BYTES).read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let known = text.lines().filter_map(Incident::parse);
        all.extend(known.filter(|incident| incident.session == session));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;

    fn incident(pid: i32, at_unix_ms: u64, text: &str) -> Incident {
        Incident {
            at_unix_ms,
            session: ProcessId {
                pid,
                start_ticks: 9,
            },
            kind: Kind::ToolEnded,
            total_kib: 77,
            text: text.to_owned(),
        }
    }

    #[test]
    fn each_session_finds_its_own_and_junk_is_passed_over() {
        let scratch = Scratch::new();
        let one = incident(1, 10, "a tab\tand more");
        let two = incident(2, 20, "");
        for incident in [&one, &two] {
            add(scratch.path(), incident).unwrap();
        }
        let mut file = private::log(&scratch.path().join(NOW)).unwrap();
        file.write_all(b"junk\n1\t1.9\tno-kind\t0\tx\n\xff\n\n")
            .unwrap();
        let found = |incident: &Incident| of_session(scratch.path(), incident.session).unwrap();
        assert_eq!(found(&two), vec![two.clone()]);
        assert_eq!(found(&one)[0].text, "a tab?and more");
        for (kind, word) in WORDS {
            assert_eq!(kind.word(), word);
        }
    }

    #[test]
    fn they_are_bounded_and_the_newest_are_kept() {
        let scratch = Scratch::new();
        let text = "x".repeat(300);
        let all = 3 * ROTATE_BYTES / 300;
        for at in 0..all {
            add(scratch.path(), &incident(1, at, &text)).unwrap();
        }
        let found = of_session(scratch.path(), incident(1, 0, "").session).unwrap();
        assert_eq!(found.last().unwrap().at_unix_ms, all - 1);
        assert!(
            found
                .windows(2)
                .all(|pair| pair[0].at_unix_ms + 1 == pair[1].at_unix_ms)
        );
        let bytes: u64 = fs::read_dir(scratch.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes <= 2 * (ROTATE_BYTES + 512), "{bytes}");
    }

    #[test]
    fn a_link_in_the_files_place_is_refused() {
        let scratch = Scratch::new();
        let target = scratch.write("target", "");
        std::os::unix::fs::symlink(&target, scratch.path().join(NOW)).unwrap();
        let one = incident(1, 1, "");
        assert!(add(scratch.path(), &one).is_err());
        assert!(of_session(scratch.path(), one.session).is_err());
        assert_eq!(fs::read(target).unwrap(), b"");
    }
}
