//! Descriptors and pseudo-terminals of a session, from outside: who is warned of and when, and what
//! `claude-safectl pty` says against what `/proc` says.

use claude_safe_tests::{KillOnDrop, Sandbox, artifacts, proc_view, program, wait_until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// From 100 pseudo-terminals to the warning.
const WITHIN: Duration = Duration::from_secs(5);

fn session(sandbox: &Sandbox, plan: &str) -> Command {
    let mut command = sandbox.command(&artifacts().claude_safe);
    command
        .args(["-p", "do it"])
        .env("CLAUDE_SAFE_BIN", program("fake-claude"))
        .env("CLAUDE_SAFE_CONTAIN", "off")
        // Looks as rare as they get: what is found in time is found between them.
        .env("CLAUDE_WATCHDOG_THRESHOLD_MB", "1000000")
        .env("FAKE_CLAUDE", plan)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Its lines as they come, with the moment of each.
fn listen(child: &mut KillOnDrop) -> Receiver<(Instant, String)> {
    let stderr = child.0.stderr.take().expect("a pipe");
    let (to, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let _ = to.send((Instant::now(), line));
        }
    });
    lines
}

fn ptmx_of(pid: i32) -> usize {
    let all = proc_view::descriptors(pid);
    let name = |target: &&std::path::PathBuf| target.ends_with("ptmx");
    all.values().filter(name).count()
}

fn client_of(session: &KillOnDrop) -> i32 {
    let wrapper = session.0.id().cast_signed();
    wait_until("a client", PATIENCE, || {
        proc_view::children(wrapper).first().copied()
    })
}

#[test]
fn a_client_that_leaks_pseudo_terminals_is_named_within_5_seconds_of_the_hundredth() {
    let sandbox = Sandbox::new();
    let plan = "rounds=1;round_ms=60000;open=/dev/ptmx;open_count=120;open_per_s=10";
    let mut session = KillOnDrop(session(&sandbox, plan).spawn().expect("claude-safe"));
    let lines = listen(&mut session);
    let client = client_of(&session);
    let passed = wait_until("100 of them", PATIENCE, || {
        (ptmx_of(client) >= 100).then(Instant::now)
    });
    let (told, line) = lines.recv_timeout(PATIENCE).expect("a warning");
    println!("{:?} after the hundredth: {line}", told - passed);
    assert!(told - passed < WITHIN, "{:?}", told - passed);
    let named = format!("(pid {client}) holds 1");
    assert!(
        line.contains(&named) && line.contains("pseudo-terminals"),
        "{line}"
    );
    assert!(line.contains("fake-claude"), "{line}");
    // Once: it goes on to 120 and stays there over the next looks.
    wait_until("120 of them", PATIENCE, || {
        (ptmx_of(client) == 120).then_some(())
    });
    let again = lines.recv_timeout(Duration::from_secs(9));
    assert!(again.is_err(), "said twice: {again:?}");
}

#[test]
fn a_tool_that_began_after_the_last_look_is_named_as_fast() {
    let sandbox = Sandbox::new();
    let script = sandbox.file("tool.sh");
    // After the first whole look, which knows the shell and not what it starts.
    let text = "sleep 3\nbash -c 'for i in $(seq 110); do exec {fd}<>/dev/ptmx; done\n\
                date +%s%N > \"$HOME/passed\"; sleep 50'\n";
    fs::write(&script, text).expect("a script");
    let plan = format!("rounds=1;script={}", script.display());
    let mut session = KillOnDrop(session(&sandbox, &plan).spawn().expect("claude-safe"));
    let lines = listen(&mut session);
    let passed = wait_until("110 of them", PATIENCE, || {
        fs::read(sandbox.home().join("passed"))
            .ok()
            .map(|_| Instant::now())
    });
    let (told, line) = lines.recv_timeout(PATIENCE).expect("a warning");
    let after = told.saturating_duration_since(passed);
    println!("{after:?} after the hundredth: {line}");
    assert!(after < WITHIN, "{after:?}");
    assert!(line.contains("holds 110 pseudo-terminals"), "{line}");
}

#[test]
fn a_process_nearly_out_of_file_descriptors_is_named() {
    let sandbox = Sandbox::new();
    let plan = "rounds=1;round_ms=60000;open=/dev/null;open_count=250;open_per_s=50";
    let mut command = session(&sandbox, plan);
    let limit = libc::rlimit {
        rlim_cur: 256,
        rlim_max: 256,
    };
    // SAFETY: setrlimit is async-signal-safe and reads one rlimit.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let mut session = KillOnDrop(command.spawn().expect("claude-safe"));
    let lines = listen(&mut session);
    let client = client_of(&session);
    let passed = wait_until("80 % of 256", PATIENCE, || {
        (proc_view::descriptors(client).len() >= 205).then(Instant::now)
    });
    let (told, line) = lines.recv_timeout(PATIENCE).expect("a warning");
    assert!(told.saturating_duration_since(passed) < WITHIN);
    assert!(line.contains(&format!("(pid {client}) has 2")), "{line}");
    assert!(line.contains("of its 256 file descriptors open"), "{line}");
}

#[test]
fn a_session_with_a_handful_of_terminals_is_not_warned_of() {
    let sandbox = Sandbox::new();
    let plan = "rounds=1;round_ms=6000;open=/dev/ptmx;open_count=20";
    let mut command = session(&sandbox, plan);
    let output = command.output().expect("claude-safe");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

/// Everybody's descriptors, counted here: pid to all of them, and those that lead to a ptmx.
fn counted() -> BTreeMap<i64, (u64, u64)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let (Ok(pid), Ok(fds)) = (name.parse(), fs::read_dir(entry.path().join("fd"))) else {
            continue;
        };
        let (mut open, mut ptmx) = (0, 0);
        for fd in fds.flatten() {
            open += 1;
            let target = fs::read_link(fd.path()).unwrap_or_default();
            ptmx += u64::from(target.ends_with("ptmx") && target.starts_with("/dev"));
        }
        all.insert(pid, (open, ptmx));
    }
    all
}

#[test]
fn the_table_equals_what_proc_says() {
    let sandbox = Sandbox::new();
    // A bash that holds 7 masters, one of which has two numbers, and does nothing else.
    let mut holder = sandbox.command("/bin/bash");
    holder.args([
        "-c",
        "for i in 1 2 3 4 5 6; do exec {fd}<>/dev/ptmx; done; exec {again}>&$fd; read -r _",
    ]);
    holder.stdin(Stdio::piped());
    let holder = KillOnDrop(holder.spawn().expect("bash"));
    let pid = i64::from(holder.0.id());
    wait_until("its masters", PATIENCE, || {
        (counted().get(&pid)?.1 == 7).then_some(())
    });
    let read = |name: &str| -> u64 {
        let text = fs::read_to_string(format!("/proc/sys/kernel/pty/{name}")).expect("pty");
        text.trim().parse().expect("a number")
    };
    // Other programs come and go: what was the same before and after must be in it just so.
    let (told, before, after, used) = wait_until("a quiet moment", PATIENCE, || {
        let (before, used) = (counted(), read("nr"));
        let mut control = sandbox.command(&artifacts().claude_safectl);
        let output = control.args(["pty", "--json"]).output().ok()?;
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let after = counted();
        (used == read("nr")).then_some((told, before, after, used))
    });
    let rows = told["processes"].as_array().expect("a list");
    let mut same = 0;
    for (pid, counts) in before
        .iter()
        .filter(|(pid, counts)| after.get(pid) == Some(counts))
    {
        // This process' own threads open files all the time.
        if *pid == i64::from(std::process::id()) {
            continue;
        }
        let row = rows.iter().find(|row| row["pid"] == *pid);
        let row = row.unwrap_or_else(|| panic!("{pid} is missing"));
        let in_row = (row["descriptors"].as_u64(), row["ptmx"].as_u64());
        assert_eq!(in_row, (Some(counts.0), Some(counts.1)), "{row}");
        same += 1;
    }
    assert!(same >= 1, "nobody was the same before and after");
    let row = rows.iter().find(|row| row["pid"] == pid).expect("ours");
    assert_eq!(row["ptmx"], 7);
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let limit = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let limit = limit.and_then(|line| line.split_ascii_whitespace().nth(3)?.parse::<u64>().ok());
    assert_eq!(row["limit"].as_u64(), limit);
    let order: Vec<u64> = rows.iter().filter_map(|row| row["ptmx"].as_u64()).collect();
    assert!(order.is_sorted_by(|a, b| a >= b), "most first");
    assert_eq!(told["ptmx"].as_u64(), Some(order.iter().sum()));
    assert_eq!(told["kernel"]["used"].as_u64(), Some(used));
    assert!(told["kernel"]["max"].as_u64() <= Some(read("max")));

    let mut control = sandbox.command(&artifacts().claude_safectl);
    let output = control.arg("pty").output().expect("claude-safectl");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find(|line| line.contains(&format!(" {pid}  ")));
    assert!(
        line.is_some_and(|line| line.trim_start().starts_with("7 ")),
        "{text}"
    );
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
}
