//! The descriptors of the processes of one session, from look to look, and what is to be said of them. Acts on
//! nobody.
//!
//! Two looks: a whole one, with the watch's own, in which new processes are seen; and a short one in between, so
//! that a leak is known within 5 s though a quiet session is looked at every 30 s. A short look asks each known
//! process for the number of its descriptors, nothing else: a process with fewer than 100 of any kind holds no 100
//! pseudo-terminals. Processes that began since the last whole look are not known in it, but what they open shows
//! in the kernel's own counters, and that calls for a whole look.

use super::judgement::{
    Ceiling, Episode, Holder, machine_is_nearly_out, many_terminals, near, nearly_no_descriptors,
};
use super::proc_fd::ProcFd;
use crate::supervise::tool::command_of;
use crate::watch::ProcessId;
use crate::watch::proc_fs::Proc;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// So many files more on the machine since the last whole look may be one process's. Below the 80 % of the usual
/// limit of 1024 by what it may have had before.
const FILES_GROWN: u64 = 512;
/// What has not changed its number of descriptors is passed over again every so many whole looks.
const RESCAN_LOOKS: u32 = 8;

/// One process.
#[derive(Debug)]
struct Seen {
    id: ProcessId,
    /// Whole looks that have seen it.
    looks: u32,
    open: u64,
    limit: Option<u64>,
    ptmx: u64,
    /// Pseudo-terminals of the machine when its own were counted.
    used: Option<u64>,
    many: Episode,
    full: Episode,
    is_here: bool,
}

/// A descriptor whose target was wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who has it open.
    pub id: ProcessId,
    /// Its number.
    pub fd: OsString,
    /// Where it leads.
    pub target: PathBuf,
}

/// The session's descriptors.
#[derive(Debug)]
pub struct Watch {
    proc_fd: ProcFd,
    pty_warn: u64,
    /// In the order of pids.
    seen: Vec<Seen>,
    ceiling: Ceiling,
    machine: Episode,
    // The machine at the last whole look.
    used_then: u64,
    files_then: u64,
}

impl Watch {
    /// Warns of one process at `pty_warn` pseudo-terminals.
    #[must_use]
    pub fn new(proc_root: &Path, pty_warn: u64) -> Watch {
        Watch {
            proc_fd: ProcFd::new(proc_root),
            pty_warn,
            seen: Vec::new(),
            ceiling: Ceiling::default(),
            machine: Episode::default(),
            used_then: 0,
            files_then: 0,
        }
    }

    /// A whole look at these processes; with `anew`, also at what seems unchanged. `wants` chooses among what descriptors lead to; the chosen are added to
    /// `found`. The answer is what is to be said.
    pub fn look(
        &mut self,
        processes: &mut Proc,
        ids: &mut dyn Iterator<Item = ProcessId>,
        anew: bool,
        wants: &dyn Fn(&Path) -> bool,
        found: &mut Vec<Found>,
    ) -> Vec<String> {
        self.ceiling = self.proc_fd.ceiling();
        self.used_then = self.ceiling.used.unwrap_or(0);
        self.files_then = self.proc_fd.files_of_machine().unwrap_or(0);
        for seen in &mut self.seen {
            seen.is_here = false;
        }
        for id in ids {
            let Ok(open) = self.proc_fd.count(id.pid) else {
                continue;
            };
            let at = self.place_of(id);
            let seen = &self.seen[at];
            // Twice at first: a tool's output is put in place between its fork and its exec.
            let is_due = anew
                || seen.looks < 2
                || seen.open != open
                || seen.looks.is_multiple_of(RESCAN_LOOKS);
            if is_due || self.may_hold_many(at, open) {
                self.scan(processes, at, wants, found);
            }
            let seen = &mut self.seen[at];
            (seen.is_here, seen.open) = (true, open);
            seen.looks += 1;
        }
        self.seen.retain(|seen| seen.is_here);
        self.news()
    }

    /// What the processes of the last whole look held then: open descriptors, and the masters of pseudo-terminals
    /// among them.
    #[must_use]
    pub fn held(&self) -> (u64, u64) {
        let sum = |of: fn(&Seen) -> u64| self.seen.iter().map(of).sum();
        (sum(|seen| seen.open), sum(|seen| seen.ptmx))
    }

    /// A short look at the processes of the last whole one. Is a whole one called for?
    pub fn short_look(&mut self, processes: &mut Proc) -> (Vec<String>, bool) {
        self.ceiling.used = self.proc_fd.terminals_of_machine();
        for at in 0..self.seen.len() {
            let Ok(open) = self.proc_fd.count(self.seen[at].id.pid) else {
                continue;
            };
            if self.may_hold_many(at, open) {
                self.scan(processes, at, &|_| false, &mut Vec::new());
            }
            self.seen[at].open = open;
        }
        let news = self.news();
        let used = self.ceiling.used.unwrap_or(0);
        let files = self.proc_fd.files_of_machine().unwrap_or(0);
        let is_called_for = used.saturating_sub(self.used_then) >= self.pty_warn.div_ceil(2)
            || files.saturating_sub(self.files_then) >= FILES_GROWN;
        (news, is_called_for)
    }

    fn place_of(&mut self, id: ProcessId) -> usize {
        let fresh = Seen {
            id,
            looks: 0,
            open: 0,
            limit: None,
            ptmx: 0,
            used: None,
            many: Episode::default(),
            full: Episode::default(),
            is_here: true,
        };
        match self.seen.binary_search_by_key(&id.pid, |seen| seen.id.pid) {
            Ok(at) if self.seen[at].id == id => at,
            Ok(at) => {
                self.seen[at] = fresh;
                at
            }
            Err(at) => {
                self.seen.insert(at, fresh);
                at
            }
        }
    }

    /// Enough descriptors for the warning, and something has changed since they were told apart.
    fn may_hold_many(&self, at: usize, open: u64) -> bool {
        let seen = &self.seen[at];
        let changed = seen.open != open || seen.used != self.ceiling.used;
        (open >= self.pty_warn || seen.many.is_on()) && changed
    }

    fn scan(
        &mut self,
        processes: &mut Proc,
        at: usize,
        wants: &dyn Fn(&Path) -> bool,
        found: &mut Vec<Found>,
    ) {
        let id = self.seen[at].id;
        let before = found.len();
        let scan = self.proc_fd.scan(id.pid, &mut |fd, target| {
            if wants(target) {
                found.push(Found {
                    id,
                    fd: fd.to_owned(),
                    target: target.to_owned(),
                });
            }
        });
        // Read by pid: it was this process's only if the pid still is.
        let is_same = processes.stat(id.pid, None).is_ok_and(|stat| stat.id == id);
        let seen = &mut self.seen[at];
        match scan {
            Ok(scan) if is_same => {
                seen.ptmx = scan.ptmx;
                seen.used = self.ceiling.used;
                seen.limit = self.proc_fd.limit(id.pid);
            }
            _ => found.truncate(before),
        }
    }

    /// What has begun since the last time.
    fn news(&mut self) -> Vec<String> {
        let mut news = Vec::new();
        let ceiling = self.ceiling;
        for seen in &mut self.seen {
            let holder = || Holder {
                pid: seen.id.pid,
                command: command_of(seen.id.pid),
                open: seen.open,
                limit: seen.limit,
                ptmx: seen.ptmx,
            };
            if seen.many.begins(seen.ptmx, self.pty_warn) {
                news.push(many_terminals(&holder(), &ceiling));
            }
            if let Some(limit) = seen.limit
                && seen.full.begins(seen.open, near(limit))
            {
                news.push(nearly_no_descriptors(&holder()));
            }
        }
        if let (Some(used), Some(near)) = (ceiling.used, ceiling.near())
            && self.machine.begins(used, near)
        {
            // Once in an episode: who holds the most may be anybody.
            let everybody = super::everybody();
            news.push(machine_is_nearly_out(&ceiling, everybody.holders.first()));
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::fixture::FakeProc;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A process of a made-up /proc with so many masters and other descriptors.
    fn holds(proc: &FakeProc, pid: i32, ptmx: usize, others: usize) {
        let folder = proc.path().join(format!("{pid}/fd"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        for fd in 0..ptmx + others {
            let target = if fd < ptmx {
                "/dev/ptmx"
            } else {
                "/x/y.output"
            };
            symlink(target, folder.join(fd.to_string())).unwrap();
        }
    }

    fn id(pid: i32) -> ProcessId {
        ProcessId {
            pid,
            start_ticks: 5,
        }
    }

    fn machine(proc: &FakeProc, used: u64) {
        for (name, number) in [("nr", used), ("max", 1000)] {
            let path = proc.path().join("sys/kernel/pty").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{number}\n")).unwrap();
        }
    }

    #[test]
    fn a_leak_is_told_once_at_the_threshold_by_a_short_look_too() {
        let proc = FakeProc::new();
        let mut processes = Proc::new(proc.path());
        let mut watch = Watch::new(proc.path(), 10);
        proc.process(42, 1, b"leaker", 5, 1);
        let mut found = Vec::new();
        let mut whole = |watch: &mut Watch, processes: &mut Proc| {
            let mut ids = [id(42)].into_iter();
            watch.look(processes, &mut ids, false, &|_| false, &mut found)
        };
        machine(&proc, 9);
        holds(&proc, 42, 9, 90);
        assert_eq!(whole(&mut watch, &mut processes), [""; 0]);
        machine(&proc, 10);
        holds(&proc, 42, 10, 90);
        let (news, called) = watch.short_look(&mut processes);
        assert!(
            news[0].contains("(pid 42) holds 10 pseudo-terminals"),
            "{news:?}"
        );
        assert!(!called, "one more is no reason for a whole look");
        // Descriptors that were changed for pseudo-terminals: the number stays, the machine's does not.
        machine(&proc, 14);
        holds(&proc, 42, 14, 86);
        assert_eq!(watch.short_look(&mut processes), (Vec::new(), true));
        assert_eq!(whole(&mut watch, &mut processes), [""; 0]);
        holds(&proc, 42, 3, 3);
        machine(&proc, 3);
        assert_eq!(watch.short_look(&mut processes), (Vec::new(), false));
        holds(&proc, 42, 12, 3);
        machine(&proc, 12);
        assert_eq!(whole(&mut watch, &mut processes).len(), 1, "a new episode");
    }

    #[test]
    fn a_process_nearly_out_of_descriptors_is_told() {
        let proc = FakeProc::new();
        let mut processes = Proc::new(proc.path());
        let mut watch = Watch::new(proc.path(), 1000);
        proc.process(42, 1, b"leaker", 5, 1);
        proc.write(42, "limits", b"Max open files  20  40  files\n");
        holds(&proc, 42, 0, 15);
        let mut ids = [id(42)].into_iter();
        let news = watch.look(&mut processes, &mut ids, false, &|_| false, &mut Vec::new());
        assert_eq!(news, [""; 0]);
        holds(&proc, 42, 0, 16);
        let (news, _) = watch.short_look(&mut processes);
        assert!(
            news[0].contains("16 of its 20 file descriptors"),
            "{news:?}"
        );
    }

    #[test]
    fn what_another_process_under_the_same_number_holds_is_not_taken_for_it() {
        let proc = FakeProc::new();
        let mut processes = Proc::new(proc.path());
        let mut watch = Watch::new(proc.path(), 10);
        let mut found = Vec::new();
        // The sample says 5, the process that has the number now began at 6.
        proc.process(42, 1, b"other", 6, 1);
        holds(&proc, 42, 50, 4);
        let wants = |target: &Path| target.ends_with("y.output");
        let mut ids = [id(42)].into_iter();
        assert_eq!(
            watch.look(&mut processes, &mut ids, false, &wants, &mut found),
            [""; 0]
        );
        assert_eq!(found, []);
        proc.process(42, 1, b"ours", 5, 1);
        let mut ids = [id(42), id(43)].into_iter();
        watch.look(&mut processes, &mut ids, false, &wants, &mut found);
        assert_eq!(found.len(), 4);
        assert_eq!((found[0].id, watch.seen.len()), (id(42), 1));
    }
}
