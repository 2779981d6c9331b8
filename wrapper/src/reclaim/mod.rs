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
#[cfg(test)]
mod trial;

use crate::os::slow_write::SlowWrite;
use reading::{Reading, Roots};
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;
use steering::{Decision, Steering, Step, Took};
pub use steering::{Goal, State};

/// A step that lasts longer is cut, milliseconds. It was meant to work for 100; the first one of a session goes through
/// all of its pages once.
const STEP_AT_MOST_MS: u64 = 5_000;
/// Without a slice folder, or a file in it that can be written: when to look for it again.
const ABSENT_MS: u64 = 10_000;

/// For notes, status and doctor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What it is doing, or why nothing.
    pub state: State,
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
            self.report.state = if goal == Goal::Rest {
                State::Resting
            } else {
                State::NoSlice
            };
            return None;
        };
        if goal == Goal::Rest && self.steering.state() == State::Resting {
            // Not a file is read for nothing.
            self.report.state = State::Resting;
            return None;
        }
        let Some(reading) = Reading::take(slice, roots, now_ms) else {
            self.report.state = State::NoSlice;
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
                    self.report.state = why;
                    return Some(ABSENT_MS);
                }
                self.report.state = self.steering.state();
                Some(STEP_AT_MOST_MS)
            }
            Decision::Wait { ms } => {
                self.report.state = self.steering.state();
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
        let Some((outcome, cpu_ms)) = running.write.outcome() else {
            return false;
        };
        let wall_ms = now_ms.saturating_sub(running.since_ms);
        self.running = None;
        self.steering.ended(outcome, Took { wall_ms, cpu_ms });
        true
    }

    /// What was done and why, as of the last look.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::process::now_ms;
    use crate::watch::fixture::Folder;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::path::PathBuf;
    use std::process::Command;
    use std::time::{Duration, Instant};

    const GOAL: Goal = Goal::Hold {
        threshold_kib: 102_400,
    };

    /// A session of 256 MiB on a machine with 2 GiB of zram.
    struct Made {
        folder: Folder,
        slice: PathBuf,
    }

    impl Made {
        fn new() -> Made {
            let folder = Folder::new();
            let slice = folder.path().join("slice");
            let made = Made { folder, slice };
            made.write("slice/memory.current", "268435456\n");
            made.write("slice/memory.swap.current", "0\n");
            made.write(
                "slice/memory.stat",
                "anon 268435456\nworkingset_refault_anon 0\n",
            );
            made.write("slice/memory.reclaim", "");
            made.write(
                "proc/meminfo",
                "SwapTotal: 2097148 kB\nSwapFree: 2097148 kB\n",
            );
            made.write("proc/swaps", "head\n/dev/zram0 partition 2097148 0 100\n");
            made.write("sys/block/zram0/mm_stat", "0 0 0 0 0 0 0 0 0\n");
            made
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn look(&self, reclaim: &mut Reclaim, now_ms: u64, goal: Goal) -> Option<u64> {
            let root = self.folder.path();
            let (proc, sys) = (root.join("proc"), root.join("sys"));
            let roots = Roots {
                proc: &proc,
                sys: &sys,
            };
            reclaim.look_with(Some(&self.slice), roots, now_ms, goal)
        }
    }

    fn reaped(reclaim: &mut Reclaim, now_ms: u64) {
        let until = Instant::now() + Duration::from_secs(20);
        while !reclaim.reap(now_ms) {
            assert!(Instant::now() < until, "it does not end");
            std::thread::yield_now();
        }
    }

    #[test]
    fn above_the_threshold_the_kernel_is_asked_in_its_own_words() {
        let made = Made::new();
        let mut reclaim = Reclaim::new(75);
        assert!(made.look(&mut reclaim, 1_000, GOAL).is_some());
        assert_eq!(reclaim.report().state, State::Holding);
        assert_eq!(reclaim.report().steps, 1);
        reaped(&mut reclaim, 1_004);
        assert!(!reclaim.reap(1_004), "told once");
        let text = std::fs::read_to_string(made.slice.join("memory.reclaim")).unwrap();
        assert_eq!(text, "1048576 swappiness=200");
        made.look(&mut reclaim, 1_005, GOAL);
        assert_eq!(reclaim.report().given_kib, 1024);
    }

    #[test]
    fn nothing_is_asked_below_it_at_rest_or_without_a_slice() {
        let made = Made::new();
        let mut reclaim = Reclaim::new(75);
        let high = Goal::Hold {
            threshold_kib: 1 << 30,
        };
        assert!(made.look(&mut reclaim, 1_000, high).is_some());
        assert_eq!(reclaim.report().state, State::Below);
        assert_eq!(made.look(&mut reclaim, 2_000, Goal::Rest), None);
        assert_eq!(reclaim.report().state, State::Resting);
        assert_eq!(reclaim.look(None, 3_000, GOAL), None);
        assert_eq!(reclaim.report().state, State::NoSlice);
        assert_eq!(reclaim.look(None, 3_000, Goal::Rest), None);
        std::fs::remove_dir_all(&made.slice).unwrap();
        assert!(made.look(&mut reclaim, 4_000, GOAL).is_some());
        assert_eq!(reclaim.report().state, State::NoSlice);
        assert_eq!(reclaim.report().steps, 0);
    }

    #[test]
    fn a_file_that_can_not_be_written_is_told_and_tried_again() {
        let made = Made::new();
        let mut reclaim = Reclaim::new(75);
        let path = made.slice.join("memory.reclaim");
        std::fs::remove_file(&path).unwrap();
        assert!(made.look(&mut reclaim, 1_000, GOAL).is_some());
        assert_eq!(reclaim.report().state, State::NoFile);
        std::fs::create_dir(&path).unwrap();
        assert!(made.look(&mut reclaim, 2_000, GOAL).is_some());
        assert!(matches!(reclaim.report().state, State::Failed(_)));
        std::fs::remove_dir(&path).unwrap();
        made.write("slice/memory.reclaim", "");
        made.look(&mut reclaim, 3_000, GOAL);
        assert_eq!(reclaim.report().state, State::Holding);
        reaped(&mut reclaim, 3_001);
    }

    #[test]
    fn a_step_that_lasts_is_left_alone_then_cut_and_never_joined_by_another() {
        let made = Made::new();
        let path = made.slice.join("memory.reclaim");
        std::fs::remove_file(&path).unwrap();
        assert!(
            Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        let mut pipe = File::options().read(true).write(true).open(&path).unwrap();
        // Full: whoever writes now waits.
        pipe.write_all(&[0; 65_536]).unwrap();
        let mut reclaim = Reclaim::new(75);
        let before_ms = now_ms();
        for at_ms in [1_000, 1_500, 5_999] {
            assert!(made.look(&mut reclaim, at_ms, GOAL).is_some());
            assert!(!reclaim.reap(at_ms));
        }
        assert!(now_ms() - before_ms < 5_000, "we do not wait for it");
        assert_eq!(reclaim.report().steps, 1);
        assert!(made.look(&mut reclaim, 6_000, GOAL).is_some());
        reaped(&mut reclaim, 6_001);
        made.look(&mut reclaim, 6_002, GOAL);
        assert_eq!(reclaim.report().state, State::Cut);
        assert_eq!(reclaim.report().given_kib, 0);
        // What was there is there, and nothing else.
        drop(reclaim);
        let mut there = [1; 65_536];
        pipe.read_exact(&mut there).unwrap();
        assert_eq!(there, [0; 65_536]);
    }
}
