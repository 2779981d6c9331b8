//! The rules of the pool (guard/src/lib.rs), one by one: the built library, preloaded into
//! `pool-probe`, which checks every byte and panics if one is wrong.

use claude_safe_tests::{Sandbox, artifacts, program};
use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Output;

#[path = "../../guard/src/stats_page.rs"]
#[allow(missing_docs)]
mod stats_page;

use stats_page::Snapshot;

/// The probe under the guard with these settings of the handover; a page of its own is its first
/// argument after the scenario.
struct Probe {
    sandbox: Sandbox,
    settings: &'static str,
    /// A limit that the program starts with: which one, and bytes.
    limit: Option<(libc::__rlimit_resource_t, u64)>,
}

impl Probe {
    fn new() -> Self {
        Self::with("sizes=160;threshold_mb=0")
    }

    fn with(settings: &'static str) -> Self {
        let sandbox = Sandbox::new();
        fs::write(sandbox.file("page"), [0; stats_page::LEN]).expect("page");
        Self {
            sandbox,
            settings,
            limit: None,
        }
    }

    /// The program starts with this limit.
    fn limited(mut self, resource: libc::__rlimit_resource_t, bytes: u64) -> Self {
        self.limit = Some((resource, bytes));
        self
    }

    fn run(&self, scenario: &str, arguments: &[&str]) -> Output {
        let page = self.sandbox.file("page");
        let log = self.sandbox.file("log");
        let fields = format!(
            "page={};log={};{}",
            page.display(),
            log.display(),
            self.settings
        );
        let guard = &artifacts().guard;
        let mut command = self.sandbox.guarded(guard, &fields, program("pool-probe"));
        command
            .arg(scenario)
            .arg(page)
            .args(arguments)
            .env("RUST_BACKTRACE", "0");
        if let Some((resource, bytes)) = self.limit {
            // SAFETY: setrlimit is async-signal-safe.
            unsafe {
                command.pre_exec(move || {
                    let limit = libc::rlimit {
                        rlim_cur: bytes,
                        rlim_max: bytes,
                    };
                    match libc::setrlimit(resource, &raw const limit) {
                        0 => Ok(()),
                        _ => Err(std::io::Error::last_os_error()),
                    }
                });
            }
        }
        command.output().expect("the probe starts")
    }

    /// Runs, must succeed without a word on stderr; what it said.
    fn said(&self, scenario: &str, arguments: &[&str]) -> String {
        let output = self.run(scenario, arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{scenario}: {:?}\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    fn page(&self) -> Snapshot {
        let bytes = fs::read(self.sandbox.file("page")).expect("page");
        Snapshot::from_bytes(&bytes).expect("a page that the guard has taken")
    }
}

fn number(text: &str, key: &str) -> u64 {
    let value = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {key} in {text:?}"))
}

// Memory

#[test]
fn empty_slabs_go_back_to_the_kernel_and_come_back_as_zeros() {
    Probe::new().said("release", &[]);
}

#[test]
fn neither_free_nor_malloc_touches_a_page_of_objects() {
    Probe::new().said("cold", &[]);
}

#[test]
fn an_object_takes_its_stride_and_not_a_byte_more() {
    let text = Probe::new().said("usable", &["176"]);
    assert_eq!(text.lines().count(), 4, "{text}");
}

/// Packed at multiples of 8, on request; what asks for 16 gets it all the same.
#[test]
fn a_packed_class_takes_168_bytes_for_168() {
    let text = Probe::with("sizes=160/8;threshold_mb=0").said("usable", &["168"]);
    assert_eq!(text.lines().count(), 4, "{text}");
}

// Threads

#[test]
fn threads_that_end_give_their_slots_and_slabs_back() {
    Probe::new().said("threads-end", &["400"]);
}

#[test]
fn more_threads_than_caches_are_all_served() {
    let text = Probe::new().said("many-threads", &["180"]);
    assert!(number(&text, "pool_hit") > 100 * 500, "{text}");
    assert!(number(&text, "passed_on") >= 40 * 500, "premise: {text}");
}

#[test]
fn threads_that_are_stopped_in_mid_call_stop_nobody_else() {
    Probe::new().said("suspended", &["600"]);
}

#[test]
fn a_signal_handler_may_allocate_while_its_thread_does() {
    Probe::new().said("handler", &["20000"]);
}

// Children

#[test]
fn the_child_of_a_clone_that_shares_memory_leaves_a_sound_heap() {
    Probe::new().said("clone", &[]);
}

#[test]
fn the_child_of_a_fork_that_libc_knows_nothing_of_goes_on() {
    Probe::new().said("raw-fork", &[]);
}

// Limits

#[test]
fn an_address_space_limit_makes_the_reservation_smaller_or_none() {
    Probe::new().said("limited", &["all"]);
    let smaller = Probe::new().limited(libc::RLIMIT_AS, 2 << 30);
    smaller.said("limited", &["less"]);
    assert!(smaller.page().pool.reserved_bytes > 0);
    let none = Probe::new().limited(libc::RLIMIT_AS, 100 << 20);
    none.said("limited", &["none"]);
    assert_eq!(none.page().pool.reserved_bytes, 0);
}

#[test]
fn memory_that_runs_out_is_enomem_and_nothing_is_lost() {
    Probe::new().said("exhaust", &[]);
}

/// With `CLAUDE_SAFE_TEST_SYSCTLS=1`, as root: the setting is the machine's, and is put back.
#[test]
fn strict_overcommit_counts_what_is_used_and_not_the_reservation() {
    const SETTING: &str = "/proc/sys/vm/overcommit_memory";
    const RATIO: &str = "/proc/sys/vm/overcommit_ratio";
    struct PutBack(String, String);
    impl Drop for PutBack {
        fn drop(&mut self) {
            let _ = fs::write(SETTING, &self.0);
            let _ = fs::write(RATIO, &self.1);
        }
    }
    if std::env::var_os("CLAUDE_SAFE_TEST_SYSCTLS").is_none() {
        println!("skipped: strict overcommit: CLAUDE_SAFE_TEST_SYSCTLS is not set");
        return;
    }
    let read = |path| fs::read_to_string(path).expect(path).trim().to_owned();
    let was = PutBack(read(SETTING), read(RATIO));
    // Far more than the machine has, for the sake of whatever else runs on it; far less than the
    // reservation.
    if fs::write(RATIO, "1000")
        .and_then(|()| fs::write(SETTING, "2"))
        .is_err()
    {
        println!("skipped: strict overcommit: no right to set it");
        return;
    }
    let text = Probe::new().said("limited", &["all"]);
    drop(was);
    assert!(number(&text, "reserved_mib") > 400_000, "{text}");
}

// Mistakes of the program

#[test]
fn what_is_freed_twice_or_was_never_given_ends_the_program() {
    for how in ["at-once", "later", "inside"] {
        let output = Probe::new().run("freed-twice", &[how]);
        assert_eq!(
            output.status.signal(),
            Some(libc::SIGABRT),
            "{how}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}

#[test]
fn the_sized_frees_of_c23_know_the_pool() {
    Probe::new().said("sized", &[]);
}

// When and what

#[test]
fn the_pool_opens_at_the_threshold_and_not_before() {
    let probe = Probe::with("sizes=160;threshold_mb=96");
    let text = probe.said("threshold", &[]);
    let active_at_kib = number(&text, "active_at_kib");
    assert!((96 * 1024..224 * 1024).contains(&active_at_kib), "{text}");
}

#[test]
fn the_pool_opens_at_the_wrappers_word() {
    Probe::with("sizes=160;threshold_mb=1048576").said("wanted", &[]);
}

#[test]
fn auto_finds_the_class_that_only_grows_and_pools_it() {
    for (size, class) in [("168", 160), ("200", 192), ("24", 16), ("1000", 992)] {
        let text = Probe::with("sizes=auto;threshold_mb=0").said("leak-of", &[size]);
        assert!(text.contains("choice=Found"), "{size}: {text}");
        assert_eq!(number(&text, "size"), class, "{size}: {text}");
        assert_eq!(number(&text, "hits"), 1000, "{size}: {text}");
    }
}

#[test]
fn auto_finds_nothing_in_churn() {
    let text = Probe::with("sizes=auto;threshold_mb=0").said("leak-of", &["200", "churn"]);
    assert!(text.contains("choice=Searching"), "{text}");
    assert!(text.contains("state=Standby"), "{text}");
}

#[test]
fn a_list_pools_each_of_its_classes() {
    let probe = Probe::with("sizes=64,160,500;threshold_mb=0");
    probe.said("sized", &[]);
    let page = probe.page();
    let sizes: Vec<u64> = page.classes.iter().map(|class| class.size).collect();
    assert_eq!(sizes[..4], [64, 160, 500, 0], "{page:?}");
    assert!(
        page.classes[..3].iter().all(|class| class.pooled),
        "{page:?}"
    );
    assert!(page.classes[1].pool_hit >= 2000, "{page:?}");
}
