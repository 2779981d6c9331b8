//! The leaker under the active guard, beside glibc in the same run: no byte may change, no child
//! may fail, the pool must take the class, and take less memory for it.
//!
//! `CLAUDE_SAFE_LEAK_MIB` (default 256) and `CLAUDE_SAFE_LEAK_SECONDS` (default 5, for each of the
//! two) scale the big run.

use claude_safe_tests::{KillOnDrop, Sandbox, wait_until};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

#[path = "../src/guarded.rs"]
mod guarded;

use guarded::Rival;

/// As the issue asks: 160 bytes against glibc's 176 are 0.909.
const RESIDENT_RATIO: f64 = 0.92;

/// Two leakers at once would compete for a small machine's memory and processors.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What the leaker said at its end.
#[derive(Debug)]
struct Outcome {
    status: ExitStatus,
    fields: HashMap<String, String>,
}

impl Outcome {
    #[track_caller]
    fn number(&self, name: &str) -> i64 {
        let value = self.fields.get(name).and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    #[track_caller]
    fn assert_right(&self) {
        let wrong = [
            "wrong_reads",
            "bad_children",
            "overlaps",
            "misplaced",
            "not_zeroed",
            "refused",
        ];
        for name in wrong {
            assert_eq!(self.number(name), 0, "{name}: {self:?}");
        }
        assert!(self.status.success(), "{self:?}");
        // The premise: there was a load.
        for name in [
            "leaked",
            "churned",
            "hot_reads",
            "forks",
            "vforks",
            "spawns",
        ] {
            assert!(self.number(name) > 0, "{name}: {self:?}");
        }
        assert!(self.number("threads_started") > self.number("threads"));
    }
}

fn leak(sandbox: &Sandbox, rival: &Rival, size: usize, seconds: u64, more: &[&str]) -> Outcome {
    let leaker = Path::new(env!("CARGO_BIN_EXE_leaker"));
    let mut command = guarded::command(sandbox, rival, size, &[], leaker);
    command
        .args([format!("size={size}"), format!("seconds={seconds}")])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = KillOnDrop(command.spawn().expect("the leaker starts"));
    // It gives up by itself well before; what it says fits in the pipes.
    let limit = Duration::from_secs(seconds * 5 + 300);
    let status = wait_until("the leaker's end", limit, || {
        child.0.try_wait().expect("ours")
    });
    let said = std::io::read_to_string(child.0.stdout.take().expect("piped")).expect("stdout");
    let complaint = std::io::read_to_string(child.0.stderr.take().expect("piped")).expect("stderr");
    // Printed past the test runner: these are figures for the log of the run.
    let _ = writeln!(std::io::stderr(), "leaker {rival:?}: {said}{complaint}");
    let pairs = said.split_whitespace().filter_map(|w| w.split_once('='));
    let outcome = Outcome {
        status,
        fields: pairs
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    };
    let guarded = matches!(rival, Rival::Standby | Rival::Active);
    let guard = outcome.fields.get("guard").map(String::as_str);
    assert_eq!(
        guard,
        Some(if guarded { "yes" } else { "no" }),
        "{outcome:?}"
    );
    outcome
}

/// The statistics page agrees with what the leaker knows to have done.
fn assert_counted(sandbox: &Sandbox, rival: &Rival, outcome: &Outcome) {
    let page = guarded::page(sandbox, rival);
    let class = page.first();
    let calls = outcome.number("class_calls") as u64;
    // Whether a realloc within the class counts is the guard's business; the runtime (threads,
    // the line that is printed) makes some requests of its own.
    let most = calls + outcome.number("class_moves") as u64 + calls / 100 + 1000;
    assert!(
        (calls..=most).contains(&class.alloc),
        "{} of {calls} calls were counted: {page:?}",
        class.alloc
    );
    // All churn is freed: live is what was leaked, and a few of the runtime's. In glibc's hands
    // chunks are counted, and in a heap in pieces it gives a few objects one of the next size.
    let leaked = outcome.number("leaked") as u64;
    let off = match rival {
        Rival::Active => page.pool.passed_on,
        _ => leaked / 20,
    };
    assert!(
        class.live().abs_diff(leaked) <= off + 1000,
        "live {}, leaked {leaked}: {page:?}",
        class.live()
    );
    if *rival == Rival::Active {
        assert!(class.pooled, "{page:?}");
        assert!(
            class.pool_hit >= calls - calls / 100,
            "the pool served {} of {calls}: {page:?}",
            class.pool_hit
        );
    } else {
        assert_eq!(class.pool_hit, 0, "{page:?}");
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value:?}: not a number"))
    })
}

#[test]
fn every_leaked_byte_stays_and_the_pool_takes_less_than_glibc() {
    let _turn = one_at_a_time();
    let mib = from_environment("CLAUDE_SAFE_LEAK_MIB", 256);
    let seconds = from_environment("CLAUDE_SAFE_LEAK_SECONDS", 5);
    let mib = format!("mib={mib}");
    let sandbox = Sandbox::new();
    let glibc = leak(&sandbox, &Rival::Glibc, 160, seconds, &[&mib]);
    glibc.assert_right();
    let guard = leak(&sandbox, &Rival::Active, 160, seconds, &[&mib]);
    guard.assert_right();
    assert_counted(&sandbox, &Rival::Active, &guard);

    let ratio = guard.number("resident_kib") as f64 / glibc.number("resident_kib") as f64;
    let _ = writeln!(
        std::io::stderr(),
        "leaker: resident, guard / glibc: {ratio:.3}"
    );
    assert!(
        ratio <= RESIDENT_RATIO,
        "{ratio:.3} of glibc's resident memory: {guard:?}, {glibc:?}"
    );
}

#[test]
fn every_leaked_byte_stays_in_standby() {
    let _turn = one_at_a_time();
    let sandbox = Sandbox::new();
    let outcome = leak(&sandbox, &Rival::Standby, 160, 1, &["mib=32"]);
    outcome.assert_right();
    assert_counted(&sandbox, &Rival::Standby, &outcome);
}

#[test]
fn every_leaked_byte_stays_in_pools_of_all_kinds_of_sizes() {
    let _turn = one_at_a_time();
    // The smallest, an odd one, one whose slots are as large as glibc's chunks, the largest.
    for (size, mix) in [
        (16, "mix=all"),
        (75, "mix=pointers"),
        (168, "mix=random"),
        (1024, "mix=identical"),
    ] {
        let sandbox = Sandbox::new();
        let outcome = leak(&sandbox, &Rival::Active, size, 1, &["mib=24", mix]);
        outcome.assert_right();
        assert_counted(&sandbox, &Rival::Active, &outcome);
    }
}

#[test]
fn the_leaker_finds_one_changed_bit_and_one_bad_child() {
    let _turn = one_at_a_time();
    let sandbox = Sandbox::new();
    for (fault, what) in [
        ("fault=object", "wrong_reads"),
        ("fault=child", "bad_children"),
    ] {
        let outcome = leak(&sandbox, &Rival::Glibc, 160, 1, &["mib=8", fault]);
        assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
        assert_eq!(outcome.number(what), 1, "{outcome:?}");
    }
}

#[test]
fn the_leaker_refuses_more_than_it_may_take() {
    let sandbox = Sandbox::new();
    let leaker = Path::new(env!("CARGO_BIN_EXE_leaker"));
    let status = sandbox.command(leaker).arg("mib=6145").status();
    assert_eq!(status.expect("it starts").code(), Some(2));
}
