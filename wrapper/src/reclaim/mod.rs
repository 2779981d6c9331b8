//! Tier 1 by the kernel: memory of the session goes to swap before anybody suffers, by writes to `memory.reclaim` of its
//! slice folder (Linux `Documentation/admin-guide/cgroup-v2.rst`). Never `memory.high`: its throttling counts as
//! pressure on the user's whole service manager, and systemd-oomd then kills neighbours.
//!
//! | file | owns |
//! |---|---|
//! | [`reading`] | what the kernel says about the session and about swap |
//! | [`steering`] | how much, and when: a pure state machine |
//! | `os::slow_write` | the write itself, by a short-lived child |
//!
//! The child is in our cgroup, not in the session's: its time is ours, and no stall of the session's. One at a
//! time, cut if it lasts.

pub mod reading;
#[cfg(test)]
mod simulation;
pub mod steering;

use crate::os::slow_write::SlowWrite;
use reading::{Reading, Roots};
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;
use steering::{Decision, Steering, Step};
pub use steering::{Goal, State};

/// A step that lasts longer is cut, milliseconds. It was meant to last 100.
const STEP_AT_MOST_MS: u64 = 2_000;
/// Without a slice folder, or a file in it that can be written: when to look for it again.
const ABSENT_MS: u64 = 10_000;

/// For notes, status and doctor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What it is doing, or why nothing.
    pub state: State,
    /// What it was doing before that: a state that passes is seen for a while.
    pub before: State,
    /// Given back so far, KiB, whether or not it came back.
    pub given_kib: u64,
    /// In swap now, KiB. 0 where the kernel does not say.
    pub swapped_kib: u64,
    /// Came back from swap so far, KiB.
    pub back_kib: u64,
    /// Steps so far.
    pub steps: u64,
    /// What 1 KiB in swap costs in memory, thousandths: 100..=1000; 0 before the first look.
    pub swap_weight_permille: u64,
}

/// The step under way.
struct Running {
    write: SlowWrite,
    since_ms: u64,
}

/// Tier 1 of one session.
pub struct Reclaim {
    steering: Steering,
    running: Option<Running>,
    report: Report,
    /// Came back before we looked first.
    back_before_kib: Option<u64>,
}

impl Reclaim {
    /// `share_percent`: how much of the swap that would be free without the session it may use, 0..=100.
    #[must_use]
    pub fn new(share_percent: u64) -> Reclaim {
        Reclaim {
            steering: Steering::new(share_percent),
            running: None,
            report: Report::default(),
            back_before_kib: None,
        }
    }

    /// Looks, decides, and starts a step if it is time for one; never waits. The result is in how many milliseconds to
    /// call again, unless [`Reclaim::reap`] says so earlier. `None`: not before the goal or the slice is another.
    pub fn look(&mut self, slice: Option<&Path>, now_ms: u64, goal: Goal) -> Option<u64> {
        self.look_with(slice, Roots::real(), now_ms, goal)
    }

    fn look_with(
        &mut self,
        slice: Option<&Path>,
        roots: Roots<'_>,
        now_ms: u64,
        goal: Goal,
    ) -> Option<u64> {
        if let Some(running) = &self.running {
            let left_ms = STEP_AT_MOST_MS.saturating_sub(now_ms.saturating_sub(running.since_ms));
            if left_ms == 0 {
                running.write.cut();
            }
            return Some(left_ms.max(ABSENT_MS / 100));
        }
        let Some(slice) = slice else {
            self.tell(if goal == Goal::Rest {
                State::Resting
            } else {
                State::NoSlice
            });
            return None;
        };
        if goal == Goal::Rest && self.steering.state() == State::Resting {
            // Not a file is read for nothing.
            self.tell(State::Resting);
            return None;
        }
        let Some(reading) = Reading::take(slice, roots, now_ms) else {
            self.tell(State::NoSlice);
            return Some(ABSENT_MS);
        };
        let decision = self.steering.decide(&reading, goal);
        let before_kib = *self.back_before_kib.get_or_insert(reading.back_kib);
        self.report.given_kib = self.steering.given_kib();
        self.report.swapped_kib = reading.swap_kib.unwrap_or(0);
        self.report.back_kib = reading.back_kib.saturating_sub(before_kib);
        self.report.swap_weight_permille = reading.machine.swap_weight_permille();
        match decision {
            Decision::Step(step) => {
                if let Err(why) = self.start(slice, step, now_ms) {
                    self.steering.never_began();
                    self.tell(why);
                    return Some(ABSENT_MS);
                }
                self.tell(self.steering.state());
                Some(STEP_AT_MOST_MS)
            }
            Decision::Wait { ms } => {
                self.tell(self.steering.state());
                (goal != Goal::Rest).then_some(ms)
            }
        }
    }

    fn start(&mut self, slice: &Path, step: Step, now_ms: u64) -> Result<(), State> {
        let mut text = step.kib.saturating_mul(1024).to_string();
        if let Some(swappiness) = step.swappiness {
            text.push_str(" swappiness=");
            text.push_str(&swappiness.to_string());
        }
        let file = OpenOptions::new()
            .write(true)
            .open(slice.join("memory.reclaim"));
        let write = file.and_then(|file| SlowWrite::start(file, text.as_bytes()));
        let write = write.map_err(|failure| match failure.kind() {
            ErrorKind::NotFound => State::NoFile,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => State::NotPermitted,
            _ => State::Failed(failure.raw_os_error().unwrap_or(0) as u8),
        })?;
        self.running = Some(Running {
            write,
            since_ms: now_ms,
        });
        self.report.steps += 1;
        Ok(())
    }

    /// After each SIGCHLD: has the step ended? Then look again at once.
    pub fn reap(&mut self, now_ms: u64) -> bool {
        let Some(running) = &mut self.running else {
            return false;
        };
        let Some(outcome) = running.write.outcome() else {
            return false;
        };
        let took_ms = now_ms.saturating_sub(running.since_ms);
        self.running = None;
        self.steering.ended(outcome, took_ms);
        true
    }

    /// What was done and why, as of the last look.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    fn tell(&mut self, state: State) {
        if state != self.report.state {
            self.report.before = self.report.state;
            self.report.state = state;
        }
    }
}
