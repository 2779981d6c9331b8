//! For a machine that may be spoilt: the real kernel, a real cgroup, a program in it that leaks. Not part of the tests that
//! everybody runs: it needs root, a cgroup v2 with the memory controller, zram as swap, and minutes.
//!
//! `CLAUDE_SAFE_TRIAL=leak|hot|idle TEST-BINARY --ignored --exact reclaim::trial::on_a_real_kernel --nocapture`, in a
//! machine of 2 GiB. Every second a line: state, held, in swap, came back, pressure.

use super::reading::{Reading, Roots};
use super::{Goal, Reclaim, State};
use crate::os::process::now_ms;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const MIB: u64 = 1024;
const THRESHOLD_KIB: u64 = 256 * MIB;

/// A number from the environment.
fn setting(name: &str) -> u64 {
    std::env::var(name).map_or(0, |text| text.parse().expect("a number"))
}

/// A MiB that packs about 2.5 : 1: pages of numbers with a random part.
fn mebibyte(seed: &mut u64) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        let number = if index % 5 == 0 {
            *seed
        } else {
            0x7f00_0000 + index as u64 / 64
        };
        word.copy_from_slice(&number.to_ne_bytes());
    }
    bytes
}

fn touch(all: &mut [Vec<u8>]) {
    for page in all.iter_mut().flat_map(|one| one.chunks_exact_mut(4096)) {
        page[0] = page[0].wrapping_add(1);
    }
}

/// The program in the cgroup; started by the trial, and told by the environment what to do.
#[test]
#[ignore = "a part of on_a_real_kernel"]
fn the_session() {
    let Some(procs) = std::env::var_os("CS_TRIAL_PROCS") else {
        return;
    };
    std::fs::write(procs, std::process::id().to_string()).unwrap();
    let seed = &mut 88_172_645_463_325_252_u64;
    let made = |mib: u64, seed: &mut u64| (0..mib).map(|_| mebibyte(seed)).collect::<Vec<_>>();
    let mut in_use = made(setting("CS_TRIAL_IN_USE_MIB"), seed);
    let mut timers = made(setting("CS_TRIAL_TIMERS_MIB"), seed);
    let mut leak = made(setting("CS_TRIAL_COLD_MIB"), seed);
    let (rate, walk_ms) = (setting("CS_TRIAL_LEAK_MIB_S"), setting("CS_TRIAL_WALK_MS"));
    let began_ms = now_ms();
    let (mut leaked, mut walk_at_ms, mut timers_at_ms) = (0, walk_ms, 5_000);
    loop {
        let past_ms = now_ms() - began_ms;
        let turn_ms = now_ms();
        touch(&mut in_use);
        if past_ms >= timers_at_ms {
            touch(&mut timers);
            timers_at_ms = past_ms + 10_000;
        }
        if walk_ms > 0 && past_ms >= walk_at_ms {
            touch(&mut leak);
            walk_at_ms = past_ms + walk_ms;
        }
        while leaked < past_ms * rate / 1000 {
            leak.push(mebibyte(seed));
            leaked += 1;
        }
        let worked_ms = now_ms() - turn_ms;
        std::thread::sleep(Duration::from_millis(
            100_u64.saturating_sub(worked_ms).max(5),
        ));
    }
}

/// The cgroup of the trial, with the program in it.
struct Slice {
    folder: PathBuf,
    child: Child,
}

impl Slice {
    fn start(settings: &[(&str, u64)]) -> Slice {
        let root = Path::new("/sys/fs/cgroup");
        let _ = std::fs::write(root.join("cgroup.subtree_control"), "+memory");
        let folder = root.join(format!("cs-trial-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("root, and a cgroup v2");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "reclaim::trial::the_session"])
            .env("CS_TRIAL_PROCS", folder.join("cgroup.procs"))
            .envs(
                settings
                    .iter()
                    .map(|(name, value)| (*name, value.to_string())),
            )
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Slice { folder, child }
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir(&self.folder);
    }
}

struct Seen {
    at_s: u64,
    reading: Reading,
    state: State,
    steps: u64,
}

impl Seen {
    /// Charged, and what zram takes for the rest.
    fn whole_kib(&self) -> u64 {
        let swapped_kib = self.reading.swap_kib.unwrap_or(0);
        self.reading.current_kib + swapped_kib * self.reading.machine.swap_weight_permille() / 1000
    }
}

fn run(slice: &Slice, seconds: u64, goal: impl Fn(u64) -> Goal) -> Vec<Seen> {
    let mut reclaim = Reclaim::new(75);
    let mut seen: Vec<Seen> = Vec::new();
    let began_ms = now_ms();
    let mut look_at_ms = began_ms;
    while now_ms() - began_ms < seconds * 1000 {
        let now = now_ms();
        let at_s = (now - began_ms) / 1000;
        if reclaim.reap(now) || now >= look_at_ms {
            look_at_ms = now
                + reclaim
                    .look(Some(&slice.folder), now, goal(at_s))
                    .unwrap_or(1000);
        }
        if seen.last().is_none_or(|last| last.at_s < at_s) {
            let reading =
                Reading::take(&slice.folder, Roots::real(), now).expect("the slice is there");
            let report = reclaim.report();
            println!(
                "{at_s:4} s  {:10}  held {:5}  in swap {:5} ({} permille)  came back {:5}  full {:6} ms  some {:6} ms  {} steps",
                format!("{:?}", report.state),
                reading.held_kib() / MIB,
                reading.swap_kib.unwrap_or(0) / MIB,
                reading.machine.swap_weight_permille(),
                report.back_kib / MIB,
                reading.full_us.unwrap_or(0) / 1000,
                reading.some_us.unwrap_or(0) / 1000,
                report.steps,
            );
            let _ = std::io::stdout().flush();
            seen.push(Seen {
                at_s,
                reading,
                state: report.state,
                steps: report.steps,
            });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    seen
}

/// The worst 10 s of full pressure, thousandths.
fn pressure_permille(seen: &[Seen]) -> u64 {
    let full_us = |seen: &Seen| seen.reading.full_us.unwrap_or(0);
    let worst = seen
        .windows(11)
        .map(|ten| full_us(&ten[10]) - full_us(&ten[0]));
    worst.max().unwrap_or(0) / 10_000
}

#[test]
#[ignore = "needs root, a cgroup with the memory controller, zram, and minutes"]
fn on_a_real_kernel() {
    let trial = std::env::var("CLAUDE_SAFE_TRIAL").unwrap_or_else(|_| "leak".to_owned());
    let seconds = match setting("CLAUDE_SAFE_TRIAL_SECONDS") {
        0 => 60,
        seconds => seconds,
    };
    let rate = setting("CLAUDE_SAFE_TRIAL_MIB_S").max(1);
    match trial.as_str() {
        "leak" => {
            let slice = Slice::start(&[
                ("CS_TRIAL_IN_USE_MIB", 60),
                ("CS_TRIAL_TIMERS_MIB", 20),
                ("CS_TRIAL_LEAK_MIB_S", rate),
            ]);
            let seen = run(&slice, seconds, |_| Goal::Hold {
                threshold_kib: THRESHOLD_KIB,
            });
            let most_kib = seen
                .iter()
                .map(|seen| seen.reading.held_kib())
                .max()
                .unwrap();
            println!(
                "most held: {} MiB of {} MiB; {} permille",
                most_kib / MIB,
                THRESHOLD_KIB / MIB,
                pressure_permille(&seen)
            );
            assert!(
                seen.last().unwrap().reading.swap_kib > Some(0),
                "it leaked, and was given back"
            );
            assert!(most_kib <= THRESHOLD_KIB / 10 * 11);
            assert!(pressure_permille(&seen) <= 100);
        }
        "hot" => {
            let slice = Slice::start(&[
                ("CS_TRIAL_IN_USE_MIB", 20),
                ("CS_TRIAL_LEAK_MIB_S", rate),
                ("CS_TRIAL_WALK_MS", 4_000),
            ]);
            let seen = run(&slice, seconds, |_| Goal::Hold {
                threshold_kib: THRESHOLD_KIB,
            });
            println!("{} permille", pressure_permille(&seen));
            let back = seen
                .iter()
                .find(|seen| seen.reading.back_kib > 0)
                .expect("it comes back");
            let hot = seen
                .iter()
                .find(|seen| seen.state == State::Hot)
                .expect("it is given up");
            assert!(hot.at_s - back.at_s <= 60);
            assert!(pressure_permille(&seen) <= 100);
        }
        "idle" => {
            let slice = Slice::start(&[("CS_TRIAL_COLD_MIB", 260), ("CS_TRIAL_TIMERS_MIB", 40)]);
            let settled_s = 20;
            let seen = run(&slice, settled_s + seconds.max(160), |at_s| {
                if at_s < settled_s {
                    Goal::Rest
                } else {
                    Goal::Idle {
                        threshold_kib: 4 * MIB * MIB,
                    }
                }
            });
            let at = |at_s| seen.iter().find(|seen| seen.at_s >= at_s).unwrap();
            let before_kib = at(settled_s - 1).whole_kib();
            let after = seen.iter().filter(|seen| seen.at_s >= settled_s + 120);
            let after_kib = after.map(Seen::whole_kib).max().unwrap();
            println!(
                "{} MiB, then {} MiB; {} permille",
                before_kib / MIB,
                after_kib / MIB,
                pressure_permille(&seen)
            );
            assert!(after_kib * 2 <= before_kib);
            assert_eq!(
                at(settled_s + 100).steps,
                seen.last().unwrap().steps,
                "one pass"
            );
        }
        other => panic!("what is {other}?"),
    }
}
