//! What processes hold open: how many descriptors, how many of them pseudo-terminals. Says who holds too many;
//! never closes, signals or ends anything.
//!
//! | file | owns |
//! |---|---|
//! | [`proc_fd`] | reading `/proc/PID/fd` and the kernel's own counters |
//! | [`judgement`] | when that is worth a word, and to whom it is said: pure, and the same on macOS |
//! | [`table`] | everybody's, for people |
//! | `macos` | what is particular to macOS, without macOS |
//! | [`watch`] | the processes of one session from look to look |
//!
//! A pseudo-terminal's master is an open `/dev/ptmx` (pty(7)), so a process that never closes them is known by
//! its descriptors, and takes terminals from everybody: their number is limited for the machine.

pub mod judgement;
// For wrapper/macos, which is made of this file; here to be tested.
#[cfg(test)]
pub mod macos;
pub mod proc_fd;
pub mod table;
pub mod watch;

use crate::os::proc::Unreadable;
use crate::os::process::{own_ids, own_pid};
use crate::supervise::tool::command_of;
use crate::watch::proc_fs::Proc;
use judgement::Holder;
use proc_fd::ProcFd;
use std::path::Path;
use table::Table;

/// What these processes hold together: open descriptors, and the masters of pseudo-terminals among them. What is gone,
/// or not ours to look into, is left out.
#[must_use]
pub fn of_all(pids: impl Iterator<Item = i32>) -> (u64, u64) {
    let proc_fd = ProcFd::new(Path::new("/proc"));
    pids.filter_map(|pid| proc_fd.scan(pid, &mut |_, _| {}).ok())
        .fold((0, 0), |(open, ptmx), held| {
            (open + held.open, ptmx + held.ptmx)
        })
}

/// Of every process of this user, of all for root, but this one.
#[must_use]
pub fn everybody() -> Table {
    let root = Path::new("/proc");
    let proc_fd = ProcFd::new(root);
    let user = own_ids().euid;
    let mut pids = Vec::new();
    let _ = Proc::new(root).pids(&mut pids);
    pids.retain(|pid| *pid != own_pid() && (user == 0 || proc_fd.user(*pid) == Some(user)));
    let mut table = Table {
        ceiling: proc_fd.ceiling(),
        ..Table::default()
    };
    for pid in pids {
        match proc_fd.scan(pid, &mut |_, _| {}) {
            Ok(scan) => table.holders.push(Holder {
                pid,
                command: name_of(pid),
                open: scan.open,
                limit: proc_fd.limit(pid),
                ptmx: scan.ptmx,
            }),
            Err(Unreadable::Gone) => {}
            Err(_) => table.not_readable += 1,
        }
    }
    judgement::sort(&mut table.holders);
    table
}

/// The command line; of what has none, as a thread of the kernel, its name in brackets.
fn name_of(pid: i32) -> String {
    let command = command_of(pid);
    if command != "?" {
        return command;
    }
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(&name);
    format!("[{}]", name.trim_end().escape_debug())
}
