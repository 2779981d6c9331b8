//! The file of the guard's statistics page, from the wrapper's side: read by pread only, and one word
//! written into it. Never maps it (a truncated file would be a SIGBUS), never makes or truncates it.

use crate::os::private::{self, Access};
use crate::os::process::now_ms;
use crate::stats_page::{
    LEN, RegionState, Snapshot, State, Unreadable, WANTED_AT, Wanted, regions_from_bytes,
};
use std::fmt;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What a page said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// When it was read, milliseconds of the monotonic clock.
    pub at_ms: u64,
    /// All but the single regions.
    pub snapshot: Snapshot,
    /// The largest regions of the page plane, as they stand in the page.
    pub largest: Vec<RegionState>,
}

/// Why there is nothing to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPage {
    /// No such file: the session has no guard.
    Missing,
    /// A file that is not acted on, or that can't be opened; the reason.
    Refused(String),
    /// No guard has taken the page yet.
    Blank,
    /// Cut off, or not a page at all.
    Damaged,
    /// A page of another version of the guard.
    OtherVersion(u64),
}

impl fmt::Display for NoPage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoPage::Missing => write!(out, "no guard in this session"),
            NoPage::Refused(why) => write!(out, "its statistics page is not read: {why}"),
            NoPage::Blank => write!(
                out,
                "no guard has taken its statistics page: the client is just starting, or did not load the guard"
            ),
            NoPage::Damaged => write!(out, "its statistics page is damaged"),
            NoPage::OtherVersion(version) => write!(
                out,
                "its statistics page is one of another version of the guard (page version {version})"
            ),
        }
    }
}

impl NoPage {
    /// Is something wrong, or is there merely nothing to tell?
    pub fn is_trouble(&self) -> bool {
        !matches!(self, NoPage::Missing | NoPage::Blank)
    }
}

/// What the guard does, in the words of the SIGUSR1 line.
pub fn state_in_words(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Standby => "standby",
        State::Active => "ACTIVE",
        State::Unreachable => "unreachable",
    }
}

/// Reads a page's file, if it is a regular file of ours with one name and of the right size.
///
/// # Errors
/// Why there is nothing to tell.
pub fn read(path: &Path) -> Result<Reading, NoPage> {
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => NoPage::Missing,
        io::ErrorKind::UnexpectedEof => NoPage::Damaged,
        _ => NoPage::Refused(error.to_string()),
    };
    let file = private::file(path, Access::Read).map_err(refused)?;
    let size = file.metadata().map_err(refused)?.len();
    let mut bytes = vec![0; LEN.min(usize::try_from(size).unwrap_or(LEN))];
    file.read_exact_at(&mut bytes, 0).map_err(refused)?;
    // The version before the size: another version's page may well have another size.
    match Snapshot::from_bytes(&bytes) {
        Err(Unreadable::OtherVersion(version)) => Err(NoPage::OtherVersion(version)),
        _ if size != LEN as u64 => Err(NoPage::Damaged),
        Err(Unreadable::Blank) => Err(NoPage::Blank),
        Err(Unreadable::NotAPage) => Err(NoPage::Damaged),
        Ok(snapshot) => Ok(Reading {
            at_ms: now_ms(),
            snapshot,
            largest: regions_from_bytes(&bytes).collect(),
        }),
    }
}

/// Asks the guard of process `pid` to serve the watched classes from its pool. `false`: the page is not
/// that process's (yet). A guard that takes a page sets all of it to zero, so a word written before is lost.
///
/// # Errors
/// The page can't be read or written.
pub fn ask_for_pool(path: &Path, pid: i32) -> io::Result<bool> {
    match read(path) {
        Ok(reading) if reading.snapshot.pid.cast_signed() == pid => {}
        Ok(_) | Err(NoPage::Missing | NoPage::Blank) => return Ok(false),
        Err(refused) => return Err(io::Error::other(refused.to_string())),
    }
    let file = private::file(path, Access::Write)?;
    if file.metadata()?.len() != LEN as u64 {
        return Err(io::Error::other(NoPage::Damaged.to_string()));
    }
    let word = (Wanted::Active as u64).to_ne_bytes();
    file.write_all_at(&word, WANTED_AT as u64)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;
    use crate::os::page_bytes;
    use crate::stats_page::{StatsPage, VERSION};
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::Ordering::Relaxed;

    fn taken(pid: u32) -> Vec<u8> {
        let page = StatsPage::new();
        page.name(pid);
        page.set_state(State::Standby);
        page.classes[0].size.store(160, Relaxed);
        page.shard(3).classes[0].alloc.store(9, Relaxed);
        page.plane.largest[1].start.store(4096, Relaxed);
        page.plane.largest[1].bytes.store(7, Relaxed);
        page_bytes::of(&page)
    }

    #[test]
    fn a_page_that_a_guard_has_taken_is_read_whole() {
        let scratch = Scratch::new();
        let reading = read(&scratch.write("page", taken(42))).unwrap();
        assert_eq!(
            (reading.snapshot.pid, reading.snapshot.state),
            (42, State::Standby)
        );
        assert_eq!(reading.snapshot.first().alloc, 9);
        assert_eq!(reading.largest.len(), 1);
        assert_eq!(
            (reading.largest[0].start, reading.largest[0].bytes),
            (4096, 7)
        );
    }

    #[test]
    fn whatever_is_no_page_of_ours_is_told_apart_and_never_read_through() {
        let scratch = Scratch::new();
        let at = |name: &str| scratch.path().join(name);
        let good = taken(42);
        let mut other = good.clone();
        other[8..16].copy_from_slice(&(VERSION + 1).to_ne_bytes());
        let mut longer = good.clone();
        longer.push(0);
        let mut odd_state = good.clone();
        odd_state[32..40].copy_from_slice(&77_u64.to_ne_bytes());
        for (name, bytes, says) in [
            ("blank", vec![0; LEN], NoPage::Blank),
            ("empty", vec![], NoPage::Damaged),
            ("blank-short", vec![0; LEN - 1], NoPage::Damaged),
            ("cut", good[..LEN - 8].to_vec(), NoPage::Damaged),
            ("cut-in-the-header", good[..20].to_vec(), NoPage::Damaged),
            ("longer", longer, NoPage::Damaged),
            ("junk", vec![0xa5; LEN], NoPage::Damaged),
            ("odd-state", odd_state, NoPage::Damaged),
            ("other", other.clone(), NoPage::OtherVersion(VERSION + 1)),
            (
                "other-short",
                other[..200].to_vec(),
                NoPage::OtherVersion(VERSION + 1),
            ),
        ] {
            assert_eq!(read(&scratch.write(name, bytes)), Err(says), "{name}");
        }
        assert_eq!(read(&at("none")), Err(NoPage::Missing));
        let real = scratch.write("real", &good);
        assert!(read(&real).is_ok(), "the premise");
        symlink(&real, at("link")).unwrap();
        fs::hard_link(scratch.write("one", &good), at("two")).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(at("fifo"))
            .status();
        assert!(made.unwrap().success());
        fs::create_dir(at("folder")).unwrap();
        for (name, why) in [
            ("link", "symbolic link"),
            ("two", "more than one name"),
            ("fifo", "no regular file"),
            ("folder", "no regular file"),
        ] {
            match read(&at(name)) {
                Err(NoPage::Refused(said)) => assert!(said.contains(why), "{name}: {said}"),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_page_of_somebody_else_is_not_read() {
        if crate::os::process::own_ids().euid != 0 {
            // Only root can make one: /etc/passwd is the nearest to it.
            let refused = NoPage::Refused("belongs to somebody else".to_owned());
            assert_eq!(read(Path::new("/etc/passwd")), Err(refused));
            return;
        }
        let scratch = Scratch::new();
        let page = scratch.write("page", taken(42));
        std::os::unix::fs::chown(&page, Some(1), None).unwrap();
        let refused = NoPage::Refused("belongs to somebody else".to_owned());
        assert_eq!(read(&page), Err(refused));
        assert!(ask_for_pool(&page, 42).is_err());
    }

    #[test]
    fn the_wrappers_word_changes_these_eight_bytes_and_only_in_the_page_of_that_process() {
        let scratch = Scratch::new();
        let before = taken(42);
        let page = scratch.write("page", &before);
        assert!(!ask_for_pool(&page, 41).unwrap());
        assert_eq!(fs::read(&page).unwrap(), before);
        assert!(ask_for_pool(&page, 42).unwrap());
        let after = fs::read(&page).unwrap();
        let mut wanted = before.clone();
        wanted[WANTED_AT..WANTED_AT + 8].copy_from_slice(&1_u64.to_ne_bytes());
        assert!(after == wanted && after != before);
        let blank = scratch.write("blank", vec![0; LEN]);
        assert!(!ask_for_pool(&blank, 42).unwrap());
        assert_eq!(fs::read(&blank).unwrap(), vec![0; LEN]);
        assert!(!ask_for_pool(&scratch.path().join("none"), 42).unwrap());
        assert!(!scratch.path().join("none").exists());
        let cut = scratch.write("cut", &before[..LEN - 8]);
        assert!(ask_for_pool(&cut, 42).is_err());
        assert_eq!(fs::metadata(&cut).unwrap().len(), (LEN - 8) as u64);
    }
}
