//! `figures`: what claude-safe costs and how fast it reacts, side by side with its rival in one
//! run. Prints medians and ratios with their range; judges nothing. The times of a shared machine vary: compare
//! ratios. With `--quick` a fifth of the runs.

use claude_safe_tests::artifacts::build_program;
use claude_safe_tests::{KillOnDrop, Sandbox, artifacts, poll_until, program, wait_until};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

fn main() {
    if std::env::args().any(|word| word == "--clock") {
        println!("{}", clock_ns());
        return;
    }
    let quick = std::env::args().any(|word| word == "--quick");
    build_program("fake-claude");
    println!(
        "start-up: to the first line of a program behind claude-safe, against the program alone"
    );
    start_up(if quick { 41 } else { 201 });
    println!(
        "reaction: from the limit (2048 MiB) passed at 1536 MiB/s to the TERM that the client gets"
    );
    reaction(if quick { 4 } else { 20 });
    println!("hook: claude-safectl hook post-tool-use, against /bin/true");
    hook(if quick { 41 } else { 201 });
    println!("backlog: claude-safectl clean in a folder of 100,000 files");
    backlog(if quick { 1 } else { 5 });
    println!("quiet session: the watcher beside a client that does nothing");
    quiet(Duration::from_secs(if quick { 10 } else { 45 }));
}

/// Nanoseconds of the monotonic clock, the same for all processes.
fn clock_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is on this stack.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Minimum, median, maximum.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (
        values[0],
        values[values.len() / 2],
        values[values.len() - 1],
    )
}

fn show(what: &str, unit: &str, values: Vec<f64>) {
    let count = values.len();
    let (least, median, most) = spread(values);
    println!("  {what}: median {median:.3} {unit} (min {least:.3}, max {most:.3}, {count} runs)");
}

/// From the moment before a start to the first line of the started program, which is this one:
/// `figures --clock` prints the monotonic clock and ends.
fn start_up(runs: usize) {
    let sandbox = Sandbox::new();
    let own = std::env::current_exe().expect("/proc/self/exe");
    let with = || {
        let mut command = sandbox.command(&artifacts().claude_safe);
        command.env("CLAUDE_SAFE_BIN", &own);
        command
    };
    let without = || sandbox.command(&own);
    let time = |mut command: Command| {
        let began_ns = clock_ns();
        let output = command.arg("--clock").output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let there_ns: u64 = text.trim().parse().expect("a clock");
        there_ns.saturating_sub(began_ns) as f64 / 1e6
    };
    // The first one looks through the client's file and keeps the answer.
    time(with());
    let (mut ours, mut plain, mut more, mut ratio) = (vec![], vec![], vec![], vec![]);
    for _ in 0..runs {
        // In turn, so that both see the same machine.
        let (a, b) = (time(with()), time(without()));
        ours.push(a);
        plain.push(b);
        more.push(a - b);
        ratio.push(a / b);
    }
    show("claude-safe", "ms", ours);
    show("plain exec", "ms", plain);
    show("more than a plain exec", "ms", more);
    show("ratio", "", ratio);
}

/// From the start of a program to its end, milliseconds.
fn whole_run_ms(mut command: Command) -> f64 {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let began_ns = clock_ns();
    let status = command.status().expect("it starts");
    assert!(status.success());
    (clock_ns() - began_ns) as f64 / 1e6
}

/// What the client waits for after each shell command, with some files of living sessions there.
fn hook(runs: usize) {
    let sandbox = Sandbox::new();
    for number in 0..10 {
        let file = sandbox.tmp().join(format!("claude-{number:04x}-cwd"));
        fs::write(file, "x").expect("a file in the sandbox");
    }
    let ours = || {
        let mut command = sandbox.command(&artifacts().claude_safectl);
        command.args(["hook", "post-tool-use"]);
        command
    };
    // The first one begins the record of the clocks.
    whole_run_ms(ours());
    let (mut with, mut without, mut ratio) = (vec![], vec![], vec![]);
    for _ in 0..runs {
        let (a, b) = (
            whole_run_ms(ours()),
            whole_run_ms(sandbox.command("/bin/true")),
        );
        with.push(a);
        without.push(b);
        ratio.push(a / b);
    }
    show("the hook", "ms", with);
    show("/bin/true", "ms", without);
    show("ratio", "", ratio);
}

/// Every name that a client could give, and as many others as make 100,000; in memory where there is such a folder.
fn backlog(runs: usize) {
    let sandbox = Sandbox::new();
    let in_memory = Path::new("/dev/shm").join(format!("cs-figures-{}", std::process::id()));
    let folder = match fs::create_dir(&in_memory) {
        Ok(()) => in_memory.clone(),
        Err(_) => sandbox.tmp(),
    };
    let old = SystemTime::now() - Duration::from_secs(3600);
    let make = |name: String| {
        let file = fs::File::create(folder.join(name)).expect("a file of ours");
        file.set_modified(old).expect("a file of ours");
    };
    (0..34_464).for_each(|number| make(format!("other-{number}")));
    let mut times = vec![];
    for _ in 0..runs {
        (0..=0xffff).for_each(|number: u32| make(format!("claude-{number:04x}-cwd")));
        let mut command = sandbox.command(&artifacts().claude_safectl);
        command.arg("clean").env("TMPDIR", &folder);
        times.push(whole_run_ms(command));
    }
    let left = fs::read_dir(&folder).map_or(0, Iterator::count);
    let _ = fs::remove_dir_all(in_memory);
    assert_eq!(left, 34_464, "all of them are gone");
    show("65,536 removed among 100,000", "ms", times);
}

fn reaction(runs: usize) {
    const LIMIT_MIB: u32 = 2048;
    let mut delays_ms = vec![];
    for _ in 0..runs {
        let sandbox = Sandbox::new();
        let (mark, signals) = (sandbox.file("mark"), sandbox.file("signals"));
        let mut command = sandbox.command(&artifacts().claude_safe);
        command
            .args(["-p", "do it"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env("CLAUDE_SAFE_BIN", program("fake-claude"))
            .env("CLAUDE_WATCHDOG_THRESHOLD_MB", LIMIT_MIB.to_string())
            // A `-p` session that may not be continued is ended, not restarted: one crossing, one TERM.
            .env(
                "FAKE_CLAUDE",
                format!(
                    "leak_mib=2600;leak_mib_per_s=1536;leak_after_ms=500;rounds=200;round_ms=100;mark_mib={LIMIT_MIB};mark={};signals={}",
                    mark.display(),
                    signals.display()
                ),
            )
            .env("CLAUDE_SAFE_CONTINUE", "never");
        let mut child = KillOnDrop(command.spawn().expect("claude-safe starts"));
        wait_until("the end of the session", Duration::from_secs(60), || {
            child.0.try_wait().expect("ours")
        });
        match (nanoseconds(&mark), term_at(&signals)) {
            (Some(crossed), Some(term)) => delays_ms.push((term as f64 - crossed as f64) / 1e6),
            missing => println!("  a run without figures: {missing:?}"),
        }
    }
    if !delays_ms.is_empty() {
        show("TERM after the crossing", "ms", delays_ms);
    }
}

fn nanoseconds(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn term_at(signals: &Path) -> Option<u64> {
    let text = fs::read_to_string(signals).ok()?;
    let records = text
        .lines()
        .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    records
        .filter(|r| r["signal"] == libc::SIGTERM)
        .find_map(|r| r["t_ns"].as_u64())
}

fn quiet(length: Duration) {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&artifacts().claude_safe);
    command
        .arg("do nothing for a while")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .env("CLAUDE_SAFE_BIN", program("fake-claude"))
        .env("FAKE_CLAUDE", "rounds=1;round_ms=600000");
    let mut child = KillOnDrop(command.spawn().expect("claude-safe starts"));
    let pid = child.0.id();
    // Behind the first look; what the start took is the first figure's business.
    wait_until("the first look", Duration::from_secs(30), || {
        (sleeps(pid)? >= 2).then_some(())
    });
    let (cpu, began) = (cpu_ns(pid).expect("/proc/PID/schedstat"), Instant::now());
    let mut resident = vec![];
    // The condition never comes unless the session ends, which it must not.
    let ended = poll_until(length, || {
        resident.extend(resident_kib(pid).map(|kib| kib as f64));
        std::thread::sleep(Duration::from_millis(200));
        child.0.try_wait().expect("ours")
    });
    assert!(ended.is_none(), "the session ended");
    let share = (cpu_ns(pid).expect("schedstat") - cpu) as f64 / began.elapsed().as_nanos() as f64;
    println!(
        "  share of one core: {:.4} % over {:.0} s",
        share * 100.0,
        length.as_secs_f64()
    );
    show("resident memory of the watcher", "KiB", resident);
}

/// Nanoseconds on a processor (`/proc/PID/schedstat`).
fn cpu_ns(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

fn status(pid: u32, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.trim_start_matches(':')
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .ok()
}

fn sleeps(pid: u32) -> Option<u64> {
    status(pid, "voluntary_ctxt_switches")
}

fn resident_kib(pid: u32) -> Option<u64> {
    status(pid, "VmRSS")
}
