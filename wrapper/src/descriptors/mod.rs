//! What processes hold open: how many descriptors, how many of them pseudo-terminals. Says who holds too many;
//! never closes, signals or ends anything.
//!
//! | file | owns |
//! |---|---|
//! | [`proc_fd`] | reading `/proc/PID/fd` and the kernel's own counters |
//! | [`judgement`] | when that is worth a word, and to whom it is said: pure, and the same on macOS |
//! | [`watch`] | the processes of one session from look to look |
//!
//! A pseudo-terminal's master is an open `/dev/ptmx` (pty(7)), so a process that never closes them is known by
//! its descriptors, and takes terminals from everybody: their number is limited for the machine.

pub mod judgement;
pub mod proc_fd;
pub mod watch;

use proc_fd::ProcFd;
use std::path::Path;

/// What one process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// Open descriptors of any kind.
    pub open: u64,
    /// How many it may have: the soft RLIMIT_NOFILE (getrlimit(2)). `None`: unlimited, or not told.
    pub limit: Option<u64>,
    /// Those that are masters of pseudo-terminals.
    pub ptmx: u64,
}

/// Of a process. `None`: it is gone, or not ours to look into.
#[must_use]
pub fn of(pid: i32) -> Option<Descriptors> {
    let proc_fd = ProcFd::new(Path::new("/proc"));
    let scan = proc_fd.scan(pid, &mut |_, _| {}).ok()?;
    Some(Descriptors {
        open: scan.open,
        limit: proc_fd.limit(pid),
        ptmx: scan.ptmx,
    })
}
