//! TERM, grace, KILL. Never by name, never a pid that could be another's by now: a handle is opened
//! first and the start time compared through it.

use crate::os::process::{PidFd, now_ms, own_ids};
use crate::os::signals::{self, SIGKILL, SIGTERM, Signo};
use crate::os::wait::{self, Source};
use crate::watch::ProcessId;
use crate::watch::proc_fs::Proc;
use std::os::fd::AsFd;

/// What the client gets from TERM to KILL. It leaves within 260 ms as a rule, and within 1.5 s in `-p`.
pub const CLIENT_GRACE_MS: u64 = 8_000;
/// What a tool gets.
pub const TOOL_GRACE_MS: u64 = 2_000;
/// How long who was KILLed is waited for.
const KILLED_MS: u64 = 500;

/// One process with its stable handle, where the kernel has those.
struct Target {
    id: ProcessId,
    handle: Option<PidFd>,
}

impl Target {
    /// `None`: it has ended, or the pid is another's.
    fn open(processes: &mut Proc, id: ProcessId) -> Option<Self> {
        let handle = PidFd::open(id.pid);
        processes.is_alive(id).then_some(Self { id, handle })
    }

    /// Sleeps until it has ended, or the time is over, or for a moment where it has no handle.
    fn await_end(&self, at_most_ms: u64) {
        match &self.handle {
            Some(handle) => {
                let source = Source {
                    fd: handle.as_fd(),
                    urgent: false,
                };
                wait::wait(&[source], Some(at_most_ms));
            }
            None => {
                wait::wait(&[], Some(at_most_ms.min(10)));
            }
        }
    }

    fn send(&self, signo: Signo) {
        let _ = match &self.handle {
            Some(handle) => handle.send(signo),
            // Before Linux 5.3: the pid was right a moment ago.
            None => signals::send(self.id.pid, signo),
        };
    }
}

/// Processes that were asked to end.
pub struct Ending {
    targets: Vec<Target>,
    group: Option<i32>,
    kill_at_ms: u64,
    killed: bool,
}

impl Ending {
    /// Sends TERM to these processes, and to their process group if it is not also ours.
    pub fn begin(
        processes: &mut Proc,
        ids: &[ProcessId],
        group: Option<i32>,
        grace_ms: u64,
    ) -> Self {
        let targets: Vec<Target> = ids
            .iter()
            .filter_map(|id| Target::open(processes, *id))
            .collect();
        let group = group.filter(|g| *g > 1 && *g != own_ids().pgid);
        let ending = Self {
            targets,
            group,
            kill_at_ms: now_ms() + grace_ms,
            killed: false,
        };
        ending.send(SIGTERM);
        ending
    }

    fn send(&self, signo: Signo) {
        if let Some(group) = self.group {
            let _ = signals::send(-group, signo);
        }
        for target in &self.targets {
            target.send(signo);
        }
    }

    /// When KILL is due, unless it was sent.
    pub fn due_ms(&self) -> Option<u64> {
        (!self.killed).then_some(self.kill_at_ms)
    }

    /// Sends KILL now.
    pub fn kill(&mut self) {
        self.killed = true;
        self.send(SIGKILL);
    }

    /// Was KILL needed?
    pub fn was_killed(&self) -> bool {
        self.killed
    }

    /// Have all of them ended?
    pub fn is_over(&self, processes: &mut Proc) -> bool {
        !self.targets.iter().any(|t| processes.is_alive(t.id))
    }

    /// Waits for their end, KILLs at the deadline. Only where no client runs that would have to wait.
    pub fn finish(mut self, processes: &mut Proc) {
        self.targets = settle(processes, self.targets, self.kill_at_ms);
        if !self.targets.is_empty() {
            self.kill();
            // Who is in an uninterruptible sleep then ends when the kernel lets it.
            settle(processes, self.targets, now_ms() + KILLED_MS);
        }
    }
}

/// Waits until all of them have ended, to `until_ms`; those that have not.
fn settle(processes: &mut Proc, mut targets: Vec<Target>, until_ms: u64) -> Vec<Target> {
    loop {
        targets.retain(|target| processes.is_alive(target.id));
        let left_ms = until_ms.saturating_sub(now_ms());
        let Some(first) = targets.first().filter(|_| left_ms > 0) else {
            return targets;
        };
        first.await_end(left_ms);
    }
}

/// Waits until these processes have ended by themselves, for `at_most_ms`; tells who has not.
pub fn await_end(processes: &mut Proc, ids: &[ProcessId], at_most_ms: u64) -> Vec<ProcessId> {
    let targets = ids.iter().filter_map(|id| Target::open(processes, *id));
    let targets = targets.collect();
    let left = settle(processes, targets, now_ms() + at_most_ms);
    left.iter().map(|target| target.id).collect()
}

/// Ends these processes and waits until they have.
pub fn end_all(processes: &mut Proc, ids: &[ProcessId]) {
    if !ids.is_empty() {
        Ending::begin(processes, ids, None, TOOL_GRACE_MS).finish(processes);
    }
}
