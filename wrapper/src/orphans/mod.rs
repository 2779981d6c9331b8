//! What a session started and left running when its client ended: tools, MCP servers, subagents.
//!
//! | file | owns |
//! |---|---|
//! | [`ledger`] | who belongs to a session, as its looks saw it; a file in the session's folder |
//! | [`fate`] | which of those that are left are ended, and which were detached on purpose: a pure function |
//!
//! Proof that a process is ours is one of two: a look saw it below the client (its pid and start time are in the
//! ledger), or it is in the session's own control group. Children of such a process are ours too. A name proves
//! nothing, nor does an environment. No child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER): a server that ends when
//! its parent is process 1 would then live for ever. So a process that was started and left alone between two looks
//! is missed where there is no control group.
//!
//! Signals nobody: [`crate::supervise::ending`] does.

pub mod fate;
pub mod ledger;

use crate::contain;
use crate::os::private;
use crate::os::proc::signal_set;
use crate::state::{self, NOTES, Notes};
use crate::watch::ProcessId;
use crate::watch::proc_fs::{Proc, Stat};
pub use fate::{Fate, Left, Why};
pub use ledger::{LEDGER, Ledger};
use std::fs;
use std::path::{Path, PathBuf};

/// A control group has so many floors at most: the slice, the scope, what the client makes.
const GROUP_FLOORS: u8 = 3;

/// All living processes that a session without a client has left, with the fate of each.
///
/// `group`: the folder of the session's control group. `except`: no part of the session (its daemon), nor is what
/// they started.
pub fn left_by(
    processes: &mut Proc,
    ledger: &Ledger,
    group: Option<&Path>,
    except: &[ProcessId],
) -> Vec<(Left, Fate)> {
    let mut grouped = Vec::new();
    if let Some(group) = group {
        pids_in(group, GROUP_FLOORS, &mut grouped);
    }
    let entered = |stat: &Stat| ledger.tie_of(stat.id).is_some();
    if grouped.is_empty() && !ledger.ids().any(|id| processes.is_alive(id)) {
        return Vec::new();
    }
    let all = everybody(processes);
    let spared = with_descendants(&all, |stat| except.contains(&stat.id));
    let ours = with_descendants(&all, |stat| entered(stat) || grouped.contains(&stat.id.pid));
    let mut left: Vec<Left> = Vec::new();
    for (place, stat) in all.iter().enumerate() {
        if ours[place] && !spared[place] && !stat.is_dead() {
            left.push(Left {
                id: stat.id,
                ppid: stat.ppid,
                session: stat.session,
                ignores_hangup: ignores_hangup(processes, stat.id.pid),
            });
        }
    }
    let fates = fate::of_all(&left, ledger);
    left.into_iter().zip(fates).collect()
}

/// A session that nobody watches and that has no client any more, but may have left processes.
pub struct Dead {
    /// Its folder.
    pub folder: PathBuf,
    ledger: Ledger,
    notes: Notes,
    /// Its control group.
    group: Option<PathBuf>,
}

impl Dead {
    /// Those that have a folder in `base`.
    pub fn in_folder(base: &Path, processes: &mut Proc) -> Vec<Dead> {
        if private::check_folder(base).is_err() {
            return Vec::new();
        }
        let dead = state::dead(base, processes);
        dead.into_iter()
            .filter_map(|(found, notes)| {
                private::check_folder(&found.path).ok()?;
                let text = state::read_file(&found.path, LEDGER)?;
                // A group of another name is not this session's, whatever its notes say.
                let is_its_own =
                    |group: &PathBuf| contain::is_group_of(group, found.pid, found.start_ticks);
                Some(Dead {
                    ledger: Ledger::parse(&text),
                    folder: found.path,
                    group: notes.group_folder.clone().filter(is_its_own),
                    notes,
                })
            })
            .collect()
    }

    /// What it left, with the fate of each.
    pub fn left(&self, processes: &mut Proc) -> Vec<(Left, Fate)> {
        let daemon: Vec<_> = self.notes.daemon().into_iter().collect();
        left_by(processes, &self.ledger, self.group.as_deref(), &daemon)
    }
}

/// The ledger and the notes of a session that runs.
pub fn of_running(folder: &Path) -> Option<(Ledger, Notes)> {
    let notes = Notes::parse(&state::read_file(folder, NOTES)?);
    let text = state::read_file(folder, LEDGER).unwrap_or_default();
    Some((Ledger::parse(&text), notes))
}

/// Every process of this machine, in the order of their pids.
pub fn everybody(processes: &mut Proc) -> Vec<Stat> {
    let mut pids = Vec::new();
    let _ = processes.pids(&mut pids);
    pids.sort_unstable();
    pids.iter()
        .filter_map(|pid| processes.stat(*pid, None).ok())
        .collect()
}

/// For each of `all` (in the order of their pids): is it chosen, or below one that is?
pub fn with_descendants(all: &[Stat], chosen: impl Fn(&Stat) -> bool) -> Vec<bool> {
    let mut marked: Vec<bool> = all.iter().map(chosen).collect();
    // As often as a child is found before its parent (pids wrap around): at most once a generation.
    loop {
        let mut more = false;
        for place in 0..all.len() {
            let parent = all.binary_search_by_key(&all[place].ppid, |stat| stat.id.pid);
            if !marked[place] && parent.is_ok_and(|parent| marked[parent]) {
                marked[place] = true;
                more = true;
            }
        }
        if !more {
            return marked;
        }
    }
}

/// The processes of a group and of those below it.
fn pids_in(group: &Path, floors: u8, pids: &mut Vec<i32>) {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    // 0: a process of another pid namespace.
    pids.extend(
        text.lines()
            .filter_map(|line| line.parse::<i32>().ok())
            .filter(|pid| *pid > 0),
    );
    if floors == 0 {
        return;
    }
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids_in(&entry.path(), floors - 1, pids);
        }
    }
}

/// Does this process ignore SIGHUP, as nohup(1) makes it do? (`SigIgn` of proc_pid_status(5): bit 0.)
pub fn ignores_hangup(processes: &mut Proc, pid: i32) -> bool {
    let process = processes.root().join(pid.to_string());
    signal_set(&process, "SigIgn").is_some_and(|set| set & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;

    fn stat(pid: i32, ppid: i32) -> Stat {
        Stat {
            id: ProcessId {
                pid,
                start_ticks: 1,
            },
            state: b'S',
            ppid,
            pgid: pid,
            session: pid,
            minor_faults: 0,
            threads: 1,
            stack_start: 0,
        }
    }

    #[test]
    fn descendants_are_found_when_pids_have_wrapped_around() {
        let all = [
            stat(2, 90),
            stat(5, 2),
            stat(7, 1),
            stat(8, 8),
            stat(90, 100),
            stat(100, 1),
        ];
        let marked = with_descendants(&all, |stat| stat.id.pid == 100);
        assert_eq!(marked, [true, true, false, false, true, true]);
        assert!(
            with_descendants(&all, |_| false)
                .iter()
                .all(|marked| !marked)
        );
    }

    #[test]
    fn a_group_is_read_with_those_below_it_and_absent_ones_are_empty() {
        let scratch = Scratch::new();
        scratch.write("g/cgroup.procs", "");
        scratch.write("g/s.scope/cgroup.procs", "12\n0\n13\n");
        scratch.write("g/claude-code-bash/cgroup.procs", "14\njunk\n");
        let mut pids = Vec::new();
        pids_in(&scratch.path().join("g"), GROUP_FLOORS, &mut pids);
        pids.sort_unstable();
        assert_eq!(pids, [12, 13, 14]);
        pids.clear();
        pids_in(&scratch.path().join("absent"), GROUP_FLOORS, &mut pids);
        assert!(pids.is_empty());
    }
}
