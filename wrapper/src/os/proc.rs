//! What watching needs from the kernel beside the files of `/proc`: the page size, the CPU time
//! that a look has cost, the meaning of an errno of `/proc`, and who a process's parent is. Opens
//! nothing but that one `stat`.
//!
//! # Safety
//!
//! Three libc calls: one takes an integer, two fill a struct of ours.

#![allow(unsafe_code)]

use std::path::Path;

/// Why a file of `/proc` could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The process (or thread) is gone: `ENOENT` on opening, `ESRCH` on reading what was opened.
    Gone,
    /// No descriptor or memory left here: says nothing about the process.
    Starved,
    /// Not for our eyes (`EACCES`, `EPERM`: other user, `hidepid`), or an error without a name.
    Denied,
    /// It was read and is not what proc(5) describes: empty, cut off, junk.
    Garbled,
}

/// The meaning of an error of open(2), read(2) or getdents(2) below `/proc`.
#[must_use]
pub fn meaning(error: &std::io::Error) -> Unreadable {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH | libc::ENOTDIR) => Unreadable::Gone,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Unreadable::Starved,
        _ => Unreadable::Denied,
    }
}

/// Size of a page of `statm` in KiB, from the auxiliary vector (sysconf(3)): 4, 16 or 64.
#[must_use]
pub fn page_kib() -> u64 {
    // SAFETY: sysconf takes an integer and touches no memory of ours.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).map_or(4, |bytes| (bytes / 1024).max(1))
}

/// How many descriptors this process may have open: the soft limit (getrlimit(2)).
#[must_use]
pub fn descriptor_limit() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is an rlimit of ours, alive over the call.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    if failed != 0 {
        return 0;
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

/// CPU time this thread has used, in microseconds (`CLOCK_THREAD_CPUTIME_ID`).
///
/// Not wall time: on a machine short of memory or CPU a look is slow although it burns nothing,
/// and a watcher that slows down just then would be of no use.
#[must_use]
pub fn thread_cpu_us() -> u64 {
    let mut spent = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `spent` is a timespec of ours, alive over the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut spent) };
    if failed != 0 {
        return 0;
    }
    let seconds = u64::try_from(spent.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(spent.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanoseconds / 1000
}

/// A set of signals of a process: `ShdPnd`, `SigIgn` or another of proc_pid_status(5), where bit 0 is signal 1.
/// `None`: it is gone, or its file has no such line.
pub fn signal_set(process: &Path, name: &str) -> Option<u64> {
    // A process may have any bytes for a name.
    let status = std::fs::read(process.join("status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// The parent of the process in this folder of `/proc`: the second word behind the name in
/// brackets, which may hold anything, brackets too (proc_pid_stat(5)).
pub fn parent_pid(process: &Path) -> Option<i32> {
    let stat = std::fs::read(process.join("stat")).ok()?;
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;

    #[test]
    fn a_set_of_signals_is_read_as_the_kernel_writes_it() {
        let folder = Scratch::new();
        let process = folder.path();
        let told = |text: &[u8]| {
            std::fs::write(process.join("status"), text).unwrap();
            signal_set(process, "ShdPnd")
        };
        let status = b"Name:\t\xff\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000004002\n";
        assert_eq!(told(status), Some(0x4002));
        assert_eq!(told(b"Name:\tx\n"), None);
        assert_eq!(told(b"ShdPnd:\tnonsense\n"), None);
        assert_eq!(signal_set(&process.join("gone"), "ShdPnd"), None);
    }
}
