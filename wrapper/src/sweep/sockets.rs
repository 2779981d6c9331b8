//! `cc-socks/PID.sock`: where the client with that pid can be spoken to. It lies in `XDG_RUNTIME_DIR`, where that is set,
//! else in the temporary folder. A SIGKILL leaves it behind. Never touches
//! one on which anybody listens, whoever that is.

use super::account::{Kept, Outcome, Section};
use super::cwd_files::STALE_MS;
use super::owners::TICK_MS;
use super::{Sweep, names, objection};
use crate::os::folder::{Folder, Kind, Refusal};
use std::ffi::CStr;
use std::path::Path;

/// Their folder.
const FOLDER: &CStr = c"cc-socks";

/// Removes the dead ones below the folder that is at `path`, as far as the time lasts.
pub(super) fn sweep(sweep: &mut Sweep<'_>, base: &Folder, path: &Path) {
    let Some(folder) = sweep.open(base, path, Section::Sockets, &[FOLDER]) else {
        return;
    };
    for name in &names(&folder) {
        if sweep.is_over(100) {
            sweep.report.is_unfinished = true;
            return;
        }
        if let Some(pid) = pid_of(name.to_bytes())
            && let Some(outcome) = consider(sweep, &folder, name, pid)
        {
            sweep.note_in(path, Section::Sockets, &[FOLDER, name], 0, outcome);
        }
    }
}

/// The pid in such a name.
fn pid_of(name: &[u8]) -> Option<i32> {
    let digits = name.strip_suffix(b".sock")?;
    let plain = digits.iter().all(u8::is_ascii_digit) && !digits.starts_with(b"0");
    let digits = std::str::from_utf8(digits).ok().filter(|_| plain)?;
    digits.parse().ok()
}

/// What becomes of one; `None` if it is gone already.
fn consider(sweep: &mut Sweep<'_>, folder: &Folder, name: &CStr, pid: i32) -> Option<Outcome> {
    let kept = |why| Some(Outcome::Kept(why));
    let entry = match folder.look(name) {
        Ok(entry) => entry,
        Err(Refusal::Gone) => return None,
        Err(_) => return kept(Kept::Failed),
    };
    if let Some(why) = objection(&entry, Kind::Socket, sweep.places.uid) {
        return kept(why);
    }
    // A client that has made it and does not listen yet; a file system that does not tell its clock.
    if !sweep.rough_clock().is_older(entry.written_ms, STALE_MS)
        || !sweep
            .exact_clock(folder)
            .is_older(entry.written_ms, STALE_MS)
    {
        return kept(Kept::Fresh);
    }
    // Whoever has that pid and began before the socket was made has made it. One that began later has not; but
    // a clock that was set could make it look so, and a pid of another container means nothing here. That nobody
    // listens is proof by itself, but a living client is not to be disturbed by the question.
    let offset_ms = (sweep.wish.now.wall_ms).saturating_sub(sweep.wish.now.boot_ms);
    let began_ms = sweep
        .proc
        .start_of(pid)
        .map(|ticks| offset_ms + ticks * TICK_MS);
    if began_ms.is_some_and(|began_ms| began_ms <= entry.written_ms) || !folder.is_deaf_socket(name)
    {
        return kept(Kept::InUse);
    }
    sweep.remove(|| folder.remove(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_number_is_a_pid() {
        assert_eq!(pid_of(b"14138.sock"), Some(14138));
        for other in [
            "0.sock",
            "01.sock",
            "+1.sock",
            "-1.sock",
            ".sock",
            "x.sock",
            "1.socket",
            "1",
            "99999999999.sock",
        ] {
            assert_eq!(pid_of(other.as_bytes()), None, "{other}");
        }
    }
}
