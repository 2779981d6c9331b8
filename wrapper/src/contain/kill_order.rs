//! Who dies first when memory runs out: a tool before the client, the client before the user's other programs.
//! The kernel kills whoever has the most memory, counted in thousandths of all there is, plus `oom_score_adj`
//! (proc_pid_oom_score_adj(5)); systemd-oomd kills whole groups, and chooses by memory and pressure alone.
//!
//! Only ever raises: that needs no right, and lowering would undo what somebody has set on purpose.

use crate::watch::{ProcessId, Sample};
use std::fs;

/// The client's, above what it inherits: a session of no size comes before a program with a fifth of the memory.
const CLIENT_MORE: i32 = 200;
/// A tool's, above the client's: the client has at most half of all memory (tier 2), which is 500.
const TOOL_MORE: i32 = 500;
/// The most that the kernel takes.
const MOST: i32 = 1000;

/// Keeps the order in one session.
pub struct KillOrder {
    wanted: bool,
    client: ProcessId,
    tool_score: i32,
    /// Processes that are done, in the order of their pids.
    done: Vec<ProcessId>,
}

impl KillOrder {
    /// `wanted`: `CLAUDE_SAFE_CONTAIN` has not switched it off.
    pub fn new(wanted: bool) -> Self {
        Self {
            wanted,
            client: ProcessId::default(),
            tool_score: MOST,
            done: Vec::new(),
        }
    }

    /// A client runs: what it starts from now on inherits its place.
    pub fn client_started(&mut self, client: ProcessId) {
        self.client = client;
        self.done.clear();
        if let Some(score) = self.raise_client(client.pid) {
            self.tool_score = (score + TOOL_MORE).min(MOST);
        }
    }

    fn raise_client(&self, pid: i32) -> Option<i32> {
        let inherited = self.wanted.then(|| score(pid))??;
        let wanted = (inherited + CLIENT_MORE).clamp(CLIENT_MORE, MOST);
        // A client that is not ours to write to (set-user-ID) keeps what it has.
        Some(if raise(pid, wanted) {
            wanted
        } else {
            inherited
        })
    }

    /// Looks after the processes that are new.
    pub fn look(&mut self, sample: &Sample) {
        if !self.wanted {
            return;
        }
        let mut done = Vec::with_capacity(sample.processes.len());
        for process in &sample.processes {
            let id = process.id;
            // The client and what leads to it (a shell that stands for it) have the client's place.
            let is_tool = id != sample.client && id != self.client;
            if is_tool && self.done.binary_search(&id).is_err() {
                raise(id.pid, self.tool_score);
            }
            done.push(id);
        }
        done.sort_unstable();
        self.done = done;
    }
}

/// What a process has. `None`: it has ended.
fn score(pid: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok()?;
    text.trim().parse().ok()
}

/// Raises it, unless it is that high already. Has it that much now?
fn raise(pid: i32, wanted: i32) -> bool {
    match score(pid) {
        Some(score) if score < wanted => {
            fs::write(format!("/proc/{pid}/oom_score_adj"), wanted.to_string()).is_ok()
        }
        Some(_) => true,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{Look, Watcher};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    /// A shell with a child of its own; both wait for their standard input to close.
    fn family() -> Child {
        Command::new("sh")
            .args(["-c", "cat; exit 0"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap()
    }

    #[test]
    fn tools_stand_before_the_client_and_nobody_is_lowered() {
        let mut client = family();
        let pid = client.id().cast_signed();
        let mut watcher = Watcher::new(Path::new("/proc"), pid, Vec::new());
        let sample = loop {
            match watcher.look(0, 0) {
                Look::Running(sample) if sample.processes.len() == 2 => break sample.clone(),
                Look::Running(_) => std::thread::yield_now(),
                Look::ClientGone(_) => panic!("it has ended"),
            }
        };
        let tool = sample.processes[1].id;
        let before = score(pid).unwrap();
        let mut order = KillOrder::new(true);
        order.client_started(sample.client);
        order.look(&sample);
        let of_client = score(pid).unwrap();
        assert_eq!(of_client, (before + CLIENT_MORE).clamp(CLIENT_MORE, MOST));
        assert_eq!(score(tool.pid), Some((of_client + TOOL_MORE).min(MOST)));
        // Somebody has put it first of all: it stays so, also for the next session's eyes.
        assert!(raise(tool.pid, MOST));
        let mut again = KillOrder::new(true);
        again.tool_score = 1;
        again.look(&sample);
        assert_eq!(score(tool.pid), Some(MOST));
        drop(client.stdin.take());
        client.wait().unwrap();
        assert_eq!(score(pid), None);
    }

    #[test]
    fn switched_off_nothing_is_written() {
        let mut client = family();
        let pid = client.id().cast_signed();
        let before = score(pid).unwrap();
        let id = ProcessId {
            pid,
            start_ticks: 1,
        };
        let mut order = KillOrder::new(false);
        order.client_started(id);
        assert_eq!(score(pid), Some(before));
        drop(client.stdin.take());
        client.wait().unwrap();
    }
}
