//! Instructions that the guard itself executes for one step (a malloc and its free; a batch of 1000
//! of both), counted by callgrind: exact, whatever else the machine does. None may be more than the
//! one kept in `tests/callgrind.txt`, by more than 2 %.
//!
//! To renew the kept counts: `CLAUDE_SAFE_RENEW=1 cargo test -p claude-safe-tests --test callgrind`.
//! Without valgrind, or with a guard of another compiler or machine, the test is skipped and says so.

use claude_safe_tests::Sandbox;
use claude_safe_tests::artifacts::workspace;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "../src/guarded.rs"]
mod guarded;

use guarded::Rival;

const PERCALL: &str = env!("CARGO_BIN_EXE_percall");
const SIZE: usize = 160;
const TOLERANCE: f64 = 1.02;

/// Scenario of percall, and two numbers of steps: the difference is the cost of the steps alone.
/// The smaller one is large enough for the first objects of a pool to be behind it.
const SCENARIOS: [(&str, u32, u32); 5] = [
    ("pair-160", 4000, 24_000),
    ("batch-160", 10, 40),
    ("calloc-168", 4000, 24_000),
    ("pair-64", 4000, 24_000),
    ("mix", 8192, 32_768),
];

/// Instructions per step, by scenario and state of the guard.
type Counts = BTreeMap<String, f64>;

#[test]
fn the_guard_executes_no_more_instructions_than_were_kept() {
    let kept_in = workspace().join("tests/callgrind.txt");
    let Some(valgrind) = valgrind() else {
        return skip("valgrind is not here");
    };
    let built_by = compiler();
    let kept = fs::read_to_string(&kept_in).unwrap_or_default();
    let renew = std::env::var_os("CLAUDE_SAFE_RENEW").is_some();
    if !renew && kept.lines().next() != Some(&format!("# {built_by}")) {
        return skip(&format!("the kept counts are not of {built_by}"));
    }
    if std::env::var_os("CLAUDE_SAFE_TEST_BIN_DIR").is_some() && !renew {
        return skip("nobody knows what built the guard of CLAUDE_SAFE_TEST_BIN_DIR");
    }

    let mut counts = Counts::new();
    let mut report = String::new();
    for (scenario, few, many) in SCENARIOS {
        for (state, rival) in [
            ("glibc", Rival::Glibc),
            ("standby", Rival::Standby),
            ("active", Rival::Active),
        ] {
            let begin = instructions(&valgrind, &rival, scenario, few);
            let end = instructions(&valgrind, &rival, scenario, many);
            let per_step = |count: fn(&Instructions) -> u64| {
                (count(&end) - count(&begin)) as f64 / f64::from(many - few)
            };
            let (ours, all) = (per_step(|i| i.guard), per_step(|i| i.all));
            let _ = writeln!(report, "{scenario} {state}: {ours:.2} of {all:.2}");
            if rival == Rival::Glibc {
                assert_eq!(end.guard, 0, "there is no guard");
            } else {
                // Half an instruction would mean that the counter looks elsewhere.
                assert!(ours >= 0.5, "{scenario} {state}: {ours}");
                counts.insert(format!("{scenario} {state}"), ours);
            }
        }
    }
    // Past the test runner: for the log of the run.
    let title = "instructions per step, the guard's own of all:";
    let _ = write!(std::io::stderr(), "{title}\n{report}");

    if renew {
        fs::write(&kept_in, text(&built_by, &counts)).expect("tests/callgrind.txt");
        return;
    }
    let worse = worse(&counts, &parsed(&kept));
    assert!(
        worse.is_empty(),
        "{worse}if that is meant to be: CLAUDE_SAFE_RENEW=1 cargo test -p claude-safe-tests --test callgrind\n{report}"
    );
}

#[test]
fn a_count_that_is_higher_or_not_kept_is_named() {
    let kept = parsed("# some compiler\npair-160 standby 20.00\nmix standby 30.00\n");
    let counts = |pair: f64, mix: f64| {
        Counts::from([
            ("pair-160 standby".to_owned(), pair),
            ("mix standby".to_owned(), mix),
        ])
    };
    assert_eq!(worse(&counts(20.0, 1.0), &kept), "");
    assert_eq!(worse(&counts(20.4, 30.6), &kept), "");
    assert_eq!(
        worse(&counts(20.5, 30.0), &kept),
        "pair-160 standby: 20.50 instructions, 20.00 are kept\n"
    );
    assert_eq!(
        worse(&counts(20.0, 30.0), &Counts::new()).lines().count(),
        2
    );
}

#[test]
fn the_cost_of_a_library_is_its_own_without_what_it_calls() {
    let file = "events: Ir\nob=(1) /lib/libclaude_guard.so\nfn=(1) malloc\n0 5\n+3 7\ncob=(2) /lib/libc.so.6\n\
                cfn=(2) malloc\ncalls=3 0\n0 1000\n* 2\n\nob=(2)\nfn=(2)\n0 1000\nfn=(3) x\n0 1\nob=(1)\nfn=(1)\n0 1\n";
    let found = parsed_callgrind(file);
    assert_eq!((found.guard, found.all), (15, 1016));
}

/// In the form of the other suites.
fn skip(reason: &str) {
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    // The macros for printing are captured by the test runner; stderr itself is not.
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {reason}");
}

fn valgrind() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut files = std::env::split_paths(&path).map(|folder| folder.join("valgrind"));
    files.find(|file| file.is_file())
}

/// What the counts depend on.
fn compiler() -> String {
    let rustc = Command::new("rustc").arg("--version").output();
    let version = rustc.map_or_else(
        |_| "an unknown compiler".into(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    format!("{}, {}", version.trim(), std::env::consts::ARCH)
}

fn text(built_by: &str, counts: &Counts) -> String {
    let mut text = format!(
        "# {built_by}\n# Instructions in libclaude_guard.so per step of percall's scenarios; see tests/suite/callgrind.rs.\n"
    );
    for (name, count) in counts {
        let _ = writeln!(text, "{name} {count:.2}");
    }
    text
}

fn parsed(kept: &str) -> Counts {
    let lines = kept.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.rsplit_once(' '));
    pairs
        .map(|(name, count)| (name.to_owned(), count.parse().expect("a count")))
        .collect()
}

/// A line for every count above the kept one, or without one.
fn worse(counts: &Counts, kept: &Counts) -> String {
    let mut worse = String::new();
    for (name, count) in counts {
        match kept.get(name) {
            Some(kept) if *count <= kept * TOLERANCE => (),
            Some(kept) => {
                let _ = writeln!(worse, "{name}: {count:.2} instructions, {kept:.2} are kept");
            }
            None => {
                let _ = writeln!(worse, "{name}: {count:.2} instructions, none are kept");
            }
        }
    }
    worse
}

#[derive(Debug, Default)]
struct Instructions {
    guard: u64,
    all: u64,
}

/// Counts one run of a scenario.
fn instructions(valgrind: &Path, rival: &Rival, scenario: &str, steps: u32) -> Instructions {
    let sandbox = Sandbox::new();
    let counts = sandbox.file("callgrind");
    let mut out_file = OsString::from("--callgrind-out-file=");
    out_file.push(&counts);
    // Debian's is a script that becomes `valgrind.bin`; the counting program itself is static.
    let behind = valgrind.with_extension("bin");
    let launchers = [Path::new("/bin/sh"), valgrind, &behind];
    let mut command = guarded::command(&sandbox, rival, SIZE, &launchers, valgrind);
    command
        .args(["--tool=callgrind", "--quiet", "--dump-instr=no"])
        .arg(out_file)
        .args([PERCALL, "once", scenario, &steps.to_string()]);
    let output = command.output().expect("valgrind starts");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    if *rival != Rival::Glibc {
        // The premise: the guard did its work.
        let page = guarded::page(&sandbox, rival);
        let pooled = page.first().pool_hit > 100;
        let of_the_class = scenario != "pair-64";
        assert_eq!(pooled, *rival == Rival::Active && of_the_class, "{page:?}");
    }
    parsed_callgrind(&fs::read_to_string(&counts).expect("callgrind's file"))
}

/// Self costs in callgrind's file: of the guard, and of all. (Its format: valgrind's manual,
/// "Callgrind Format Specification".)
fn parsed_callgrind(file: &str) -> Instructions {
    let mut names = HashMap::new();
    let mut sum = Instructions::default();
    let (mut in_guard, mut is_call) = (false, false);
    for line in file.lines() {
        let object = line
            .strip_prefix("ob=")
            .or_else(|| line.strip_prefix("cob="));
        if let Some(object) = object {
            // `(7) name` the first time, `(7)` afterwards.
            let (number, name) = object.split_once(' ').unwrap_or((object, ""));
            if !name.is_empty() {
                names.insert(number, name.contains("libclaude_guard"));
            }
            if line.starts_with("ob=") {
                in_guard = names.get(number).copied().unwrap_or(false);
            }
        } else if line.starts_with("calls=") {
            // The next line is the cost of the called function.
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split_whitespace().nth(1);
            let cost: u64 = cost.and_then(|cost| cost.parse().ok()).unwrap_or(0);
            if !std::mem::take(&mut is_call) {
                sum.all += cost;
                sum.guard += if in_guard { cost } else { 0 };
            }
        }
    }
    sum
}
