//! The kernel says no: to the n-th system call of the guard, for every n, once and from then on; and
//! from outside, by limits on memory. The program's bytes stay right, it ends as it does alone, and
//! what failed is on the statistics page.
//!
//! The guard is built with `--features inject` for it (guard/src/os.rs). Which numbers stand for
//! which calls is there too: `os::Call`.

use claude_safe_tests::artifacts::guard_with_faults;
use claude_safe_tests::{Sandbox, artifacts, program};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

#[path = "../src/guarded.rs"]
mod guarded;

use guarded::Guard;
use guarded::stats_page::{Snapshot, State};

/// `os::Call`.
const MAP_STATS_PAGE: u64 = 1;
const READ_STATM: u64 = 5;
const CALLS: u64 = 7;
/// More calls of the guard than any of the workloads needs.
const ENOUGH: u64 = 400;

/// A program and the guard's threshold; what it prints is the same in every run, but for the words
/// that begin so.
struct Workload {
    program: &'static str,
    arguments: &'static [&'static str],
    threshold_mb: u64,
    varies: &'static [&'static str],
}

/// Pools from the beginning, fills and empties slabs, and asks for the log line in the end.
const POOLED: Workload = Workload {
    program: "alloc-model",
    arguments: &[
        "seeds=6",
        "steps=20000",
        "leak=168",
        "bulk=3000",
        "usr1=yes",
    ],
    threshold_mb: 0,
    varies: &["ms=", "guard="],
};

/// Looks at its own size first.
const LOOKING: Workload = Workload {
    program: "alloc-model",
    arguments: &["seeds=30", "steps=2000", "leak=160", "usr1=yes"],
    threshold_mb: 1,
    varies: &["ms=", "guard="],
};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Workload {
    /// What it printed that doesn't vary.
    fn said(&self, output: &Output) -> String {
        let said = text(&output.stdout);
        let varies = |word: &&str| !self.varies.iter().any(|start| word.starts_with(start));
        said.split_whitespace()
            .filter(varies)
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn alone(&self) -> String {
        let sandbox = Sandbox::new();
        let mut command = sandbox.command(program(self.program));
        // Nobody answers SIGUSR1.
        command.args(
            self.arguments
                .iter()
                .filter(|argument| !argument.starts_with("usr1")),
        );
        let output = command.output().expect("it starts");
        assert!(output.status.success(), "{output:?}");
        self.said(&output)
    }

    fn under_faults(&self, sandbox: &Sandbox, fault: &str) -> Output {
        let guard = Guard {
            library: guard_with_faults(),
            sizes: "160",
            threshold_mb: self.threshold_mb,
        };
        let mut command = guarded::handed_over(sandbox, &guard, &[], &program(self.program));
        command
            .args(self.arguments)
            .env("CLAUDE_GUARD_INJECT", fault);
        command.output().expect("it starts")
    }
}

/// The page, if the guard could take it.
fn page(sandbox: &Sandbox) -> Option<Snapshot> {
    let bytes = std::fs::read(sandbox.file("page")).expect("the page");
    Snapshot::from_bytes(&bytes).ok()
}

/// The SIGUSR1 line is in the log, or where it goes if that can't be opened.
fn has_line(sandbox: &Sandbox) -> bool {
    let other = sandbox.state().join("claude-safe/claude_malloc_guard.log");
    [sandbox.file("guard.log"), other]
        .iter()
        .filter_map(|log| std::fs::read_to_string(log).ok())
        .any(|log| log.contains("[malloc-guard] 160B"))
}

/// Lets one call after the other fail until there is none left; which calls they were.
fn fail_each_call(workload: &Workload, errno: i32, persistent: bool) -> BTreeSet<u64> {
    let alone = workload.alone();
    let mut seen = BTreeSet::new();
    let mut number = 0;
    loop {
        number += 1;
        assert!(number < ENOUGH, "there is no end to the calls");
        let plus = if persistent { "+" } else { "" };
        let fault = format!("{number}{plus}:{errno}");
        let sandbox = Sandbox::new();
        let output = workload.under_faults(&sandbox, &fault);
        let what = format!("{} {fault}", workload.program);
        assert!(output.status.success(), "{what}: {output:?}");
        assert_eq!(workload.said(&output), alone, "{what}");
        assert!(
            text(&output.stdout).contains("guard=yes"),
            "{what}: no guard"
        );
        assert_eq!(text(&output.stderr), "", "{what}");
        let Some(page) = page(&sandbox) else {
            // The page itself: then the log line is what is left, if that isn't refused as well.
            assert_eq!(number, MAP_STATS_PAGE, "{what}: no page");
            assert!(persistent || has_line(&sandbox), "{what}: no line");
            seen.insert(MAP_STATS_PAGE);
            continue;
        };
        assert!(
            matches!(page.state, State::Standby | State::Active),
            "{what}: {page:?}"
        );
        if page.faults.count == 0 {
            // Fewer calls than that: nothing was injected, and the guard is as it should be.
            assert_eq!(page.state, State::Active, "{what}");
            assert!(page.first().pool_hit > 1000 && has_line(&sandbox), "{what}");
            let _ = writeln!(
                std::io::stderr(),
                "faults: {} threshold {} errno {errno}{plus}: {} calls",
                workload.program,
                workload.threshold_mb,
                number - 1
            );
            return seen;
        }
        assert_eq!(page.faults.errno, errno as u64, "{what}: {page:?}");
        if !persistent {
            assert_eq!(page.faults.count, 1, "{what}: {page:?}");
            seen.insert(page.faults.call);
        }
    }
}

fn skipped() -> bool {
    let of_a_package = std::env::var_os("CLAUDE_SAFE_TEST_BIN_DIR").is_some();
    if of_a_package {
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        let _ = writeln!(
            std::io::stderr(),
            "skipped: {name}: the guard of CLAUDE_SAFE_TEST_BIN_DIR has no seam for faults"
        );
    }
    of_a_package
}

#[test]
fn every_call_can_fail_once() {
    if skipped() {
        return;
    }
    for errno in [libc::ENOMEM, libc::EPERM] {
        let seen = fail_each_call(&POOLED, errno, false);
        let wanted: BTreeSet<u64> = (1..=CALLS).filter(|&call| call != READ_STATM).collect();
        assert_eq!(seen, wanted);
    }
}

#[test]
fn every_call_can_fail_from_some_time_on() {
    if skipped() {
        return;
    }
    for errno in [libc::ENOMEM, libc::EPERM] {
        fail_each_call(&POOLED, errno, true);
    }
}

#[test]
fn every_call_of_a_guard_that_looks_at_its_size_can_fail() {
    if skipped() {
        return;
    }
    let seen = fail_each_call(&LOOKING, libc::EPERM, false);
    assert!(seen.contains(&READ_STATM), "{seen:?}");
}

/// The leaker counts for itself: no byte may change, no child may fail.
#[test]
fn no_leaked_byte_changes_when_a_call_fails() {
    if skipped() {
        return;
    }
    let leaker = Workload {
        program: "leaker",
        arguments: &["size=160", "seconds=1", "mib=16", "threads=2"],
        threshold_mb: 0,
        varies: &[],
    };
    // Page, range, caches, first and later steps of two kinds, and all at once.
    for fault in [
        "2:12", "3:12", "4:12", "5:1", "6+:12", "9+:1", "12:12", "1+:12",
    ] {
        let sandbox = Sandbox::new();
        let output = leaker.under_faults(&sandbox, fault);
        let said = text(&output.stdout);
        assert!(output.status.success(), "{fault}: {output:?}");
        for right in [
            "wrong_reads=0",
            "bad_children=0",
            "overlaps=0",
            "refused=0",
            "guard=yes",
        ] {
            assert!(
                said.split_whitespace().any(|word| word == right),
                "{fault}: {said}"
            );
        }
        match page(&sandbox) {
            Some(page) => assert!(page.faults.count > 0, "{fault}: {page:?}"),
            None => assert_eq!(fault, "1+:12", "no page"),
        }
    }
}

/// Around what the model needs, around the sizes of a range, and where there is room for a pool.
const LIMITS_MIB: [u64; 13] = [
    16, 40, 64, 80, 100, 140, 200, 280, 400, 560, 720, 1100, 8192,
];

/// Runs the model, which keeps some 75 MB, under a limit.
fn limited(limit: &str, mib: u64, guard: Option<&Guard<'_>>) -> (Output, Option<Snapshot>) {
    let sandbox = Sandbox::new();
    let prlimit = Path::new("/usr/bin/prlimit");
    let mut command: Command = match guard {
        Some(guard) => {
            let launchers = [Path::new("/bin/sh"), prlimit];
            guarded::handed_over(&sandbox, guard, &launchers, prlimit)
        }
        None => sandbox.command(prlimit),
    };
    command
        .arg(format!("--{limit}={}", mib << 20))
        .arg(program("alloc-model"))
        .args(["seeds=60", "steps=2000", "leak=4096"]);
    let output = command.output().expect("prlimit starts");
    let page = guard.and_then(|_| page(&sandbox));
    (output, page)
}

/// What the guard itself may take under a limit: a sixteenth of the address space (os::reserve), and
/// some megabytes for the threads' caches and the first slabs.
fn without_the_guards_part(mib: u64) -> u64 {
    mib - mib / 16 - 8
}

#[test]
fn what_fits_in_a_limit_alone_fits_under_the_guard_in_little_more() {
    let guard = Guard {
        library: &artifacts().guard,
        sizes: "160",
        threshold_mb: 0,
    };
    let whole = |output: &Output| {
        let said = POOLED.said(output);
        (output.status.success() && said.contains(" nulls=0 ")).then_some(said)
    };
    for limit in ["as", "data"] {
        let (mut fitted, mut refused, mut pooled) = (0, 0, 0);
        for mib in LIMITS_MIB {
            let (alone, _) = limited(limit, without_the_guards_part(mib), None);
            let (guarded, page) = limited(limit, mib, Some(&guard));
            let what = format!("{limit} {mib} MiB");
            // 3: it ends itself, for want of room for its tables.
            for output in [&alone, &guarded] {
                let code = output.status.code();
                assert!(matches!(code, Some(0 | 3)), "{what}: {output:?}");
            }
            match whole(&alone) {
                Some(said) => {
                    fitted += 1;
                    assert_eq!(whole(&guarded), Some(said), "{what}: {guarded:?}");
                }
                None => refused += 1,
            }
            let page = page.expect("a page is small");
            pooled += u32::from(page.state == State::Active);
            assert!(
                page.state == State::Active || page.faults.count > 0,
                "{what}: {page:?}"
            );
        }
        assert!(
            fitted > 5 && refused > 1,
            "{limit}: {fitted} fitted, {refused} did not"
        );
        assert!(pooled > 1, "{limit}: the pool never found room");
    }
}
