//! The guard in the runtimes whose malloc it can reach, Bun 1.2.18 and Node 20, with its pool active
//! from the first call on: what they print is what they print without it. The leak of the reports,
//! and whole sessions of real clients.
//!
//! Every guarded run proves from its statistics page that the guard was there and served the
//! class. Where a runtime is not here, the test is named as skipped. Sockets live in a network
//! namespace with nothing but `lo`. With `CLAUDE_SAFE_ALL_SIZES=1` all 64 pool sizes are run.

use claude_safe_tests::clients::{prepare_home, set_up, shape, transcripts};
use claude_safe_tests::runtimes::stats_page::{Choice, Snapshot, State};
use claude_safe_tests::runtimes::{
    LeakLoop, Orders, Resident, Runtime, by_hand, handed_over, js_client, log_file, read_page,
    workload,
};
use claude_safe_tests::{
    Isolated, KillOnDrop, Sandbox, Scenario, artifacts, proc_view, real_client, skip, wait_until,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// For anything that takes seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The class of the reports.
const CLASS: Orders<'_> = Orders {
    sizes: "160",
    threshold_mib: 0,
};

const WORKLOADS: [&str; 10] = [
    "tls", "http2", "http", "spawn", "intl", "crypto", "zlib", "fs", "sqlite", "threads",
];

/// The value, or the test ends here with the reason why there is none.
macro_rules! or_skip {
    ($value:expr) => {
        match $value {
            Ok(value) => value,
            Err(why) => skip!("{why}"),
        }
    };
}

/// Two runtimes at once are as much as a small machine can bear.
fn one_of_two(turn: usize) -> MutexGuard<'static, ()> {
    static TURNS: [Mutex<()>; 2] = [const { Mutex::new(()) }; 2];
    TURNS[turn].lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder and a network of one's own, and a certificate for the workloads.
struct Stage {
    network: Isolated,
    sandbox: Sandbox,
}

impl Stage {
    fn new() -> Result<Stage, String> {
        let sandbox = Sandbox::new();
        let network = Isolated::start(&sandbox, &Scenario::default(), false)
            .map_err(|why| format!("no network namespace: {why}"))?;
        let names = vec!["localhost".into(), "127.0.0.1".into()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let write = |name: &str, text: String| fs::write(sandbox.file(name), text).expect("a file");
        write("key.pem", made.signing_key.serialize_pem());
        write("cert.pem", made.cert.pem());
        Ok(Stage { network, sandbox })
    }

    /// Runs the workloads to their end. `command` is the runtime, without arguments yet.
    fn run(&self, mut command: Command) -> Seen {
        command
            .arg(workload("main.mjs"))
            .args(WORKLOADS)
            .env("WORKLOAD_KEY", self.sandbox.file("key.pem"))
            .env("WORKLOAD_CERT", self.sandbox.file("cert.pem"))
            .env("WORKLOAD_MAPS", self.maps())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.network.enter(&mut command).expect("the mock lives");
        let child = command.spawn().expect("the runtime starts");
        let pid = child.id();
        let output = child.wait_with_output().expect("ours");
        Seen { pid, output }
    }

    fn maps(&self) -> PathBuf {
        self.sandbox.file("maps")
    }

    /// Was the guard mapped at the end of the last run?
    fn guard_was_there(&self) -> bool {
        fs::read_to_string(self.maps())
            .expect("the last run wrote its mappings")
            .contains("libclaude_guard.so")
    }
}

/// One run of the workloads.
struct Seen {
    pid: u32,
    output: Output,
}

#[track_caller]
fn assert_same(what: &str, bare: &Output, guarded: &Output) {
    let text = |output: &Output| {
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    assert_eq!(text(bare), text(guarded), "{what}: without, with the guard");
}

/// What the runtime prints without the guard: the same each time, and of all workloads.
fn reference(stage: &Stage, program: &Path) -> Output {
    let bare = || stage.run(stage.sandbox.command(program));
    let (first, second) = (bare(), bare());
    assert!(!stage.guard_was_there());
    assert_same("two runs without", &first.output, &second.output);
    assert_eq!(first.output.status.code(), Some(0), "{:?}", first.output);
    let said = String::from_utf8_lossy(&first.output.stdout);
    for name in WORKLOADS {
        assert!(
            said.lines().any(|l| l.starts_with(&format!("{name}: "))),
            "{name} said nothing: {said}"
        );
    }
    first.output
}

fn all_sizes() -> bool {
    std::env::var("CLAUDE_SAFE_ALL_SIZES").is_ok_and(|v| v == "1")
}

/// 16, 32, … 1024, or a few of them that lie far apart.
fn sizes() -> Vec<u64> {
    let all = (1..=64).map(|n| n * 16);
    let spread = [16, 48, 112, 160, 336, 624, 1024];
    all.filter(|size| all_sizes() || spread.contains(size))
        .collect()
}

/// The workloads under the guard in the wrapper's way: they print the same, the page is theirs.
fn run_guarded(stage: &Stage, program: &Path, bare: &Output, sizes: &str) -> Snapshot {
    let orders = Orders {
        sizes,
        threshold_mib: 0,
    };
    let seen = stage.run(handed_over(&stage.sandbox, &orders, program));
    assert_same(&format!("sizes {sizes}"), bare, &seen.output);
    assert!(stage.guard_was_there());
    let page = read_page(&stage.sandbox);
    assert_eq!(page.pid, seen.pid, "the page is of the runtime itself");
    // `auto` has nothing to pool until it has found a class that only grows.
    let expected = match page.choice {
        Choice::Searching => State::Standby,
        Choice::Named | Choice::Found => State::Active,
    };
    assert_eq!(page.state, expected, "sizes {sizes}: {page:?}");
    page
}

/// The class was met, and the pool served it.
#[track_caller]
fn assert_served(page: &Snapshot, number: usize, size: u64) {
    let class = page.classes[number];
    assert_eq!((class.size, class.pooled), (size, true), "{page:?}");
    assert!(class.pool_hit > 0, "size {size} was never served: {page:?}");
    // What it passed on is counted, and is the exception.
    assert!(class.pool_hit >= class.alloc / 2, "size {size}: {page:?}");
}

fn every_pool_size_prints_the_same(runtime: Runtime, turn: usize) {
    let _turn = one_of_two(turn);
    let program = or_skip!(runtime.program());
    let stage = or_skip!(Stage::new());
    let bare = reference(&stage, &program);
    for size in sizes() {
        let page = run_guarded(&stage, &program, &bare, &size.to_string());
        assert_eq!(page.choice, Choice::Named);
        assert_served(&page, 0, size);
        let class = page.first();
        println!(
            "{} size={size} alloc={} pool_hit={} live={} passed_on={} slabs={}",
            runtime.name(),
            class.alloc,
            class.pool_hit,
            class.live(),
            page.pool.passed_on,
            page.pool.slabs
        );
    }
}

#[test]
fn bun_prints_the_same_with_every_pool_size() {
    every_pool_size_prints_the_same(Runtime::Bun, 0);
}

#[test]
fn node_prints_the_same_with_every_pool_size() {
    every_pool_size_prints_the_same(Runtime::Node, 1);
}

fn a_list_and_auto_print_the_same(runtime: Runtime, turn: usize) {
    let _turn = one_of_two(turn);
    let program = or_skip!(runtime.program());
    let stage = or_skip!(Stage::new());
    let bare = reference(&stage, &program);
    let list = [24, 48, 64, 96, 160, 256, 512, 1000];
    let words = list.map(|size| size.to_string()).join(",");
    let page = run_guarded(&stage, &program, &bare, &words);
    assert_eq!(page.choice, Choice::Named);
    for (number, size) in list.into_iter().enumerate() {
        assert_served(&page, number, size);
    }
    let page = run_guarded(&stage, &program, &bare, "auto");
    assert_ne!(page.choice, Choice::Named, "{page:?}");
    assert!(page.first().alloc > 0, "{page:?}");
}

#[test]
fn bun_prints_the_same_with_a_list_of_sizes_and_with_auto() {
    a_list_and_auto_print_the_same(Runtime::Bun, 0);
}

#[test]
fn node_prints_the_same_with_a_list_of_sizes_and_with_auto() {
    a_list_and_auto_print_the_same(Runtime::Node, 1);
}

/// As a user does it who has no wrapper.
fn preloaded_by_hand_prints_the_same(runtime: Runtime, turn: usize) {
    let _turn = one_of_two(turn);
    let program = or_skip!(runtime.program());
    let stage = or_skip!(Stage::new());
    let bare = reference(&stage, &program);
    let seen = stage.run(by_hand(&stage.sandbox, &CLASS, &program));
    assert_same("by hand", &bare, &seen.output);
    assert!(stage.guard_was_there());
}

#[test]
fn bun_preloaded_by_hand_prints_the_same() {
    preloaded_by_hand_prints_the_same(Runtime::Bun, 0);
}

#[test]
fn node_preloaded_by_hand_prints_the_same() {
    preloaded_by_hand_prints_the_same(Runtime::Node, 1);
}

/// `kill -USR1` on a Bun that was preloaded by hand; Node starts its debugger instead.
#[test]
fn bun_preloaded_by_hand_answers_with_an_active_pool() {
    let _turn = one_of_two(0);
    let bun = or_skip!(Runtime::Bun.program());
    let sandbox = Sandbox::new();
    let mut bun = LeakLoop::start(by_hand(&sandbox, &CLASS, &bun));
    bun.fail(1000);
    claude_safe_tests::pty::send_signal(bun.pid(), libc::SIGUSR1).expect("it lives");
    let line = wait_until("the line of the guard", PATIENCE, || {
        let log = fs::read_to_string(log_file(&sandbox)).ok()?;
        log.ends_with('\n').then_some(log)
    });
    assert!(line.starts_with("[malloc-guard] 160B alloc="), "{line}");
    assert!(line.contains(" guard=ACTIVE"), "{line}");
    let hits: u64 = line
        .split_once(" pool_hit=")
        .and_then(|(_, rest)| rest.split_once(' ')?.0.parse().ok())
        .expect("a number");
    assert!(hits >= 1000, "{line}");
}

/// The leak of the reports: each failed connection is one live object more, exactly.
#[test]
fn every_failed_connection_of_bun_is_one_live_object() {
    let _turn = one_of_two(0);
    let bun = or_skip!(Runtime::Bun.program());
    let sandbox = Sandbox::new();
    let mut bun = LeakLoop::start(handed_over(&sandbox, &CLASS, &bun));
    bun.fail(100);
    let before = read_page(&sandbox);
    assert_eq!(
        (before.pid.cast_signed(), before.state),
        (bun.pid(), State::Active)
    );
    let mut expected = before.first().live();
    for connections in [1, 10, 1000, 20_000] {
        bun.fail(connections);
        expected += connections;
        let page = read_page(&sandbox);
        let live = page.first().live();
        println!(
            "{connections} connections more: live {live}, {:?}",
            page.first()
        );
        // Timers and the like of the runtime itself come and go.
        assert!(
            live.abs_diff(expected) <= 16,
            "live {live}, expected {expected}: {page:?}"
        );
    }
}

#[test]
fn auto_finds_the_leaking_class_of_bun() {
    let _turn = one_of_two(0);
    let bun = or_skip!(Runtime::Bun.program());
    let sandbox = Sandbox::new();
    let orders = Orders {
        sizes: "auto",
        threshold_mib: 0,
    };
    let mut bun = LeakLoop::start(handed_over(&sandbox, &orders, &bun));
    let page = wait_until("the leaking class", PATIENCE, || {
        bun.fail(2000);
        let page = read_page(&sandbox);
        (page.choice == Choice::Found).then_some(page)
    });
    let class = page.first();
    assert!((153..=168).contains(&class.size), "{page:?}");
    let served = class.pool_hit;
    bun.fail(2000);
    let after = read_page(&sandbox);
    assert!(after.first().pool_hit >= served + 2000, "{after:?}");
}

/// What an object of the leak takes, with glibc and with the pool.
#[test]
fn a_leaked_object_takes_no_more_than_with_glibc() {
    let _turn = one_of_two(0);
    let bun = or_skip!(Runtime::Bun.program());
    // A slab, of which whole ones are counted, is then 0.4 bytes.
    const CONNECTIONS: u64 = 150_000;
    let bytes_each = |before: Resident, after: Resident| {
        let grown =
            (after.heap_kib + after.slabs_kib) as f64 - (before.heap_kib + before.slabs_kib) as f64;
        grown * 1024.0 / CONNECTIONS as f64
    };
    let sandbox = Sandbox::new();

    let mut bare = LeakLoop::start(sandbox.command(&bun));
    bare.fail(5000);
    let before = bare.resident(None);
    bare.fail(CONNECTIONS);
    let with_glibc = bytes_each(before, bare.resident(None));
    drop(bare);
    // The premise: this is the leak of FACTS, one chunk of 176 bytes for each connection.
    assert!((174.0..=178.5).contains(&with_glibc), "{with_glibc}");

    for (sizes, most) in [("160", with_glibc + 1.0), ("160/8", 168.5)] {
        let orders = Orders { sizes, ..CLASS };
        let mut guarded = LeakLoop::start(handed_over(&sandbox, &orders, &bun));
        guarded.fail(5000);
        let before = guarded.resident(Some(&read_page(&sandbox)));
        guarded.fail(CONNECTIONS);
        let page = read_page(&sandbox);
        let with_pool = bytes_each(before, guarded.resident(Some(&page)));
        assert_eq!(page.state, State::Active);
        assert!(page.first().pool_hit >= CONNECTIONS, "{page:?}");
        println!("bytes per leaked object: glibc {with_glibc:.1}, sizes={sizes} {with_pool:.1}");
        assert!(
            with_pool <= most,
            "{sizes}: {with_pool} against {with_glibc}"
        );
    }
}

/// Thirty rounds over TLS; what it came to, from the transcript.
struct Session<'a> {
    sandbox: &'a Sandbox,
    mock: &'a Isolated,
}

const ROUNDS: u32 = 30;

impl Session<'_> {
    /// The session's shape. `command` is the client, without the arguments of the session yet.
    fn run(&self, mut command: Command, while_it_runs: impl FnOnce(i32)) -> Vec<String> {
        let home = self.sandbox.home();
        let _ = fs::remove_dir_all(home.join(".claude"));
        let _ = fs::remove_file(self.sandbox.work().join("rounds.log"));
        prepare_home(self.sandbox);
        command
            .args(["-p", "do the rounds", "--dangerously-skip-permissions"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        set_up(&mut command, self.mock).expect("the mock lives");
        let mut child = KillOnDrop(command.spawn().expect("the client starts"));
        let output = {
            let out = read_in_thread(child.0.stdout.take().expect("a pipe"));
            let err = read_in_thread(child.0.stderr.take().expect("a pipe"));
            while_it_runs(child.0.id().cast_signed());
            let status = wait_until("the end of the session", PATIENCE, || {
                child.0.try_wait().expect("ours")
            });
            Output {
                status,
                stdout: out.join().expect("a reader"),
                stderr: err.join().expect("a reader"),
            }
        };
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), "ALL DONE 7f3a", "{output:?}");
        let files = transcripts(&home);
        assert_eq!(files.len(), 1, "{files:?}");
        let shape = shape(&files[0]);
        let results = |line: &&String| line.starts_with("user tool_result false");
        assert_eq!(
            shape.iter().filter(results).count(),
            ROUNDS as usize,
            "{shape:#?}"
        );
        shape
    }
}

fn read_in_thread(
    mut from: impl std::io::Read + Send + 'static,
) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("a pipe");
        bytes
    })
}

fn thirty_rounds() -> Scenario {
    Scenario {
        rounds: ROUNDS,
        command: "echo round-{n} >> rounds.log; echo said-{n}".into(),
        final_text: "ALL DONE 7f3a".into(),
        ..Scenario::default()
    }
}

fn the_js_client_works_the_same(runtime: Runtime, turn: usize) {
    let _turn = one_of_two(turn);
    let program = or_skip!(runtime.program());
    let client = or_skip!(js_client());
    let sandbox = Sandbox::new();
    let mock = or_skip!(Isolated::start(&sandbox, &thirty_rounds(), true));
    let session = Session {
        sandbox: &sandbox,
        mock: &mock,
    };
    let mut command = sandbox.command(&program);
    command.arg(&client);
    let bare = session.run(command, |_| {});
    let mut command = handed_over(&sandbox, &CLASS, &program);
    command.arg(&client);
    let mut client_pid = 0;
    let guarded = session.run(command, |pid| client_pid = pid);
    assert_eq!(bare, guarded);
    let page = read_page(&sandbox);
    println!(
        "{}: {:?}",
        runtime.name(),
        (page.state, page.first(), page.pool)
    );
    assert_eq!(page.pid.cast_signed(), client_pid);
    assert_eq!(page.state, State::Active);
    assert_served(&page, 0, 160);
}

#[test]
fn the_js_client_works_the_same_in_bun() {
    the_js_client_works_the_same(Runtime::Bun, 0);
}

#[test]
fn the_js_client_works_the_same_in_node() {
    the_js_client_works_the_same(Runtime::Node, 1);
}

/// Today's client carries its own allocator: it works the same, and is told to be out of reach.
fn a_native_client_works_the_same_and_is_unreachable(version: &str, turn: usize) {
    let _turn = one_of_two(turn);
    let Some(client) = real_client(version) else {
        skip!("client {version} is not here: cargo fetch-client {version}");
    };
    let sandbox = Sandbox::new();
    let mock = or_skip!(Isolated::start(&sandbox, &thirty_rounds(), true));
    let session = Session {
        sandbox: &sandbox,
        mock: &mock,
    };
    let bare = session.run(sandbox.command(&client), |_| {});

    let log = log_file(&sandbox);
    let mut command = sandbox.command(&artifacts().claude_safe);
    command
        .env("CLAUDE_SAFE_BIN", &client)
        .env("CLAUDE_MALLOC_GUARD_LIB", &artifacts().guard)
        .env("CLAUDE_MALLOC_GUARD_THRESHOLD_MB", "0")
        .env("CLAUDE_MALLOC_GUARD_LOG", &log);
    let real = fs::canonicalize(&client).expect("the client");
    let guarded = session.run(command, |wrapper| {
        let rounds = sandbox.work().join("rounds.log");
        wait_until("the first round", PATIENCE, || {
            rounds.exists().then_some(())
        });
        let pid = proc_view::children(wrapper)
            .into_iter()
            .find(|pid| proc_view::exe(*pid).as_ref() == Some(&real))
            .expect("the client is a child of the wrapper");
        assert!(proc_view::maps_contain(pid, "libclaude_guard.so"));
        claude_safe_tests::pty::send_signal(pid, libc::SIGUSR1).expect("it lives");
        let line = wait_until("the line of the guard", PATIENCE, || {
            let text = fs::read_to_string(&log).ok()?;
            text.ends_with('\n').then_some(text)
        });
        println!("{version}: {line}");
        assert!(line.contains(" guard=unreachable"), "{line}");
    });
    assert_eq!(bare, guarded);
}

#[test]
fn the_oldest_native_client_works_the_same_and_is_unreachable() {
    a_native_client_works_the_same_and_is_unreachable("2.1.110", 0);
}

#[test]
fn the_newest_native_client_works_the_same_and_is_unreachable() {
    a_native_client_works_the_same_and_is_unreachable("2.1.329", 1);
}
