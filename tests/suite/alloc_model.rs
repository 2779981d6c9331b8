//! Sequences of calls of malloc's family, held against a model (tests/programs/alloc_model.rs) under
//! the guard in standby and with pools of all kinds of sizes; and under valgrind.
//!
//! A sequence that goes wrong is printed with the arguments that show it again.
//! `CLAUDE_SAFE_FUZZ_SECONDS` (default 3) is the time for sequences that were never tried before.

use claude_safe_tests::{Sandbox, artifacts, program};
use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::SystemTime;

#[path = "../src/guarded.rs"]
mod guarded;

use guarded::Guard;
use guarded::stats_page::{Choice, Snapshot, State};

/// A threshold that is never reached.
const NEVER_MB: u64 = 1 << 20;

/// The states of the guard in which every sequence is tried.
const GUARDS: [(&str, u64); 5] = [
    ("160", NEVER_MB),
    ("160", 0),
    ("16", 0),
    ("1024", 0),
    ("16,40,64,75,160,176,512,1024", 0),
];

struct Outcome {
    status: ExitStatus,
    fields: HashMap<String, String>,
    complaint: String,
}

impl Outcome {
    fn of(mut command: Command) -> Self {
        let output = command.output().expect("alloc-model starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let pairs = said.split_whitespace().filter_map(|w| w.split_once('='));
        let outcome = Self {
            status: output.status,
            fields: pairs
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            complaint: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        // Past the test runner: figures for the log of the run.
        let _ = write!(std::io::stderr(), "alloc-model: {said}");
        outcome
    }

    #[track_caller]
    fn assert_right(&self) {
        assert!(self.status.success(), "{}: {}", self.status, self.complaint);
        assert_eq!(self.fields["guard"], "yes", "the preload was missing");
    }
}

fn model(guard: &Guard<'_>, arguments: &[&str]) -> (Outcome, Snapshot) {
    let sandbox = Sandbox::new();
    let mut command = guarded::handed_over(&sandbox, guard, &[], &program("alloc-model"));
    command.args(arguments);
    let outcome = Outcome::of(command);
    outcome.assert_right();
    let page = std::fs::read(sandbox.file("page")).expect("the page");
    (
        outcome,
        Snapshot::from_bytes(&page).expect("the guard's page"),
    )
}

fn guard(sizes: &str, threshold_mb: u64) -> Guard<'_> {
    Guard {
        library: &artifacts().guard,
        sizes,
        threshold_mb,
    }
}

/// The guard was in the state that was asked for, and did what it is for.
#[track_caller]
fn assert_at_work(guard: &Guard<'_>, page: &Snapshot) {
    let is_active = guard.threshold_mb == 0;
    let state = if is_active {
        State::Active
    } else {
        State::Standby
    };
    assert_eq!(page.state, state, "{page:?}");
    for class in page.classes.iter().filter(|class| class.size != 0) {
        assert_eq!(class.pooled, is_active, "{page:?}");
        assert_eq!(class.pool_hit > 1000, is_active, "{page:?}");
        assert!(class.alloc > 1000, "{page:?}");
    }
    // Bulk fills slabs and empties them; of the smallest objects it isn't enough.
    if guard.sizes != "16" {
        assert_eq!(page.pool.slabs_released > 0, is_active, "{page:?}");
    }
}

#[test]
fn every_sequence_goes_as_without_the_guard() {
    let arguments = ["seeds=3000", "steps=500", "bulk=9000"];
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(program("alloc-model"));
    command.args(arguments);
    let alone = Outcome::of(command);
    assert!(alone.status.success(), "{}", alone.complaint);
    assert_eq!(alone.fields["guard"], "no");
    for (sizes, threshold_mb) in GUARDS {
        let guard = guard(sizes, threshold_mb);
        let (outcome, page) = model(&guard, &arguments);
        assert_at_work(&guard, &page);
        assert_eq!(page.faults.count, 0, "{page:?}");
        for field in ["seeds", "calls", "nulls", "outcome"] {
            assert_eq!(outcome.fields[field], alone.fields[field], "{field}");
        }
        assert_eq!(outcome.fields["nulls"], "0");
    }
}

#[test]
fn every_object_is_whole_after_going_through_the_hands_of_several_threads() {
    for (sizes, threshold_mb) in GUARDS {
        let guard = guard(sizes, threshold_mb);
        let arguments = ["threads=4", "seeds=500", "steps=500", "bulk=9000"];
        let (_, page) = model(&guard, &arguments);
        assert_at_work(&guard, &page);
    }
}

#[test]
fn auto_takes_a_class_over_in_the_middle_of_a_sequence() {
    // One object of 520 bytes in eight steps is kept; it is found after some nine intervals.
    let arguments = ["seconds=4", "threads=2", "steps=500", "leak=520"];
    let (_, page) = model(&guard("auto", 0), &arguments);
    assert_eq!(page.choice, Choice::Found, "{page:?}");
    assert_eq!(page.state, State::Active, "{page:?}");
    assert_eq!(page.first().size, 512, "{page:?}");
    assert!(page.first().pool_hit > 1000, "{page:?}");
}

#[test]
fn sequences_that_were_never_tried_before_go_right() {
    let seconds = std::env::var("CLAUDE_SAFE_FUZZ_SECONDS");
    let seconds = seconds.map_or(3.0, |text| {
        text.parse::<f64>().expect("a number of seconds")
    });
    let runs = GUARDS.len() as f64 * 2.0;
    let each = format!("seconds={}", (seconds / runs).ceil());
    let now = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |time| time.as_secs());
    let from = format!("from={}", now << 20);
    for (sizes, threshold_mb) in GUARDS.into_iter().skip(usize::from(seconds < runs) * 4) {
        for threads in ["threads=1", "threads=3"] {
            let guard = guard(sizes, threshold_mb);
            model(&guard, &[&from, &each, threads, "steps=2000", "bulk=5000"]);
        }
    }
}

#[test]
fn a_string_of_bytes_is_a_sequence() {
    let sandbox = Sandbox::new();
    let string = sandbox.file("string");
    let bytes: Vec<u8> = (0..200_000_u32)
        .map(|at| (at.wrapping_mul(0x9E37_79B9) >> 21) as u8)
        .collect();
    std::fs::write(&string, bytes).expect("a file of our own");
    let input = format!("input={}", string.display());
    let (outcome, page) = model(&guard("160,16", 0), &[&input]);
    let calls: u64 = outcome.fields["calls"].parse().expect("a number");
    assert!(calls > 20_000, "{calls}");
    assert!(page.first().pool_hit > 100, "{page:?}");
}

#[test]
fn the_model_finds_one_changed_bit() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(program("alloc-model"));
    command.args(["from=7", "fault=yes"]);
    let outcome = Outcome::of(command);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.complaint);
    assert!(
        outcome.complaint.contains("seed 7"),
        "{}",
        outcome.complaint
    );
    assert!(outcome.complaint.contains("byte 0 has changed"));
    assert!(
        outcome
            .complaint
            .contains("to see it again: from=7 fault=yes")
    );
}

/// Memcheck puts its own functions in the place of libc's; the guard's, told by
/// `somalloc=nouserintercepts`, it leaves alone, and sees every read and write that they make. Under
/// it the guard finds no headers before the next allocator's objects; that it looks for one, once and
/// in its constructor, is the one read that is allowed.
#[test]
fn memcheck_finds_no_invalid_read_or_write() {
    let Some(valgrind) = valgrind() else {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: memcheck_finds_no_invalid_read_or_write: valgrind is not here"
        );
        return;
    };
    for (sizes, threshold_mb) in [GUARDS[0], GUARDS[1], GUARDS[4]] {
        let guard = guard(sizes, threshold_mb);
        let sandbox = Sandbox::new();
        let report = sandbox.file("memcheck");
        let allowed = sandbox.file("allowed");
        std::fs::write(
            &allowed,
            "{\nnext::try_header\nMemcheck:Addr8\nobj:*/libclaude_guard.so\nfun:call_init\n}\n",
        )
        .expect("a file of our own");
        // Debian's is a script that becomes `valgrind.bin`; the checking program itself is static.
        let behind = valgrind.with_extension("bin");
        let launchers = [Path::new("/bin/sh"), &*valgrind, &behind];
        let mut command = guarded::handed_over(&sandbox, &guard, &launchers, &valgrind);
        command
            .args([
                "--error-exitcode=9",
                "--soname-synonyms=somalloc=nouserintercepts",
            ])
            .arg(format!("--log-file={}", report.display()))
            .arg(format!("--suppressions={}", allowed.display()))
            .arg(program("alloc-model"))
            .args([
                "plain=yes",
                "seeds=100",
                "steps=500",
                "threads=2",
                "bulk=9000",
            ]);
        let outcome = Outcome::of(command);
        let report = std::fs::read_to_string(report).unwrap_or_default();
        assert!(outcome.status.success(), "{}\n{report}", outcome.complaint);
        assert!(report.contains("ERROR SUMMARY: 0 errors"), "{report}");
        assert_eq!(outcome.fields["guard"], "yes", "the preload was missing");
        let page = std::fs::read(sandbox.file("page")).expect("the page");
        let page = Snapshot::from_bytes(&page).expect("the guard's page");
        assert_at_work(&guard, &page);
        // Valgrind has no room for the largest range: the next smaller one is taken.
        assert!(page.faults.count == 0 || page.faults.call == 2, "{page:?}");
    }
}

fn valgrind() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut files = std::env::split_paths(&path).map(|folder| folder.join("valgrind"));
    files.find(|file| file.is_file())
}
