//! Tests of the harness itself: a harness that sees nothing lets every other test pass.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use claude_safe_tests::clients::{
    self, PINNED, client_required, distinct, prepare_home, real_client, tool_calls, transcripts,
};
use claude_safe_tests::mock::Options;
use claude_safe_tests::pty::{piped, send_signal};
use claude_safe_tests::{
    Isolated, JobSetup, KillOnDrop, Mock, Modes, Pty, Sandbox, Scenario, poll_until, proc_view,
    program, skip, wait_until,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(60);
const SESSION: &str = "11111111-2222-4333-8444-555555555555";

fn lines_of_json(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|l| serde_json::from_str(l).expect("a line of JSON"))
        .collect()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

// ---------------------------------------------------------------------------------------------
// Sandbox

#[test]
fn sandbox_is_private_and_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    let root = sandbox.root().to_owned();
    assert!(
        root.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("cs-test-")
    );
    assert_eq!(
        fs::metadata(sandbox.run()).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let locked = sandbox.home().join("locked/deeper");
    fs::create_dir_all(&locked).unwrap();
    fs::write(locked.join("file"), "x").unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).unwrap();
    fs::set_permissions(locked.parent().unwrap(), fs::Permissions::from_mode(0o000)).unwrap();
    drop(sandbox);
    assert!(!root.exists());
}

#[test]
fn sandbox_does_not_follow_symlinks_out_when_it_cleans_up() {
    let outside = Sandbox::new();
    fs::write(outside.file("precious"), "x").unwrap();
    fs::set_permissions(outside.root(), fs::Permissions::from_mode(0o500)).unwrap();
    let inside = Sandbox::new();
    std::os::unix::fs::symlink(outside.root(), inside.home().join("link")).unwrap();
    drop(inside);
    assert!(outside.file("precious").exists());
    assert_eq!(
        fs::metadata(outside.root()).unwrap().permissions().mode() & 0o777,
        0o500
    );
}

#[test]
fn sandbox_command_sees_nothing_of_the_test_run() {
    let sandbox = Sandbox::new();
    let output = sandbox.command("/usr/bin/env").output().unwrap();
    let mut names: Vec<String> = stdout(&output)
        .lines()
        .filter_map(|l| l.split_once('='))
        .map(|(name, _)| name.to_owned())
        .collect();
    names.sort();
    let expected = [
        "HOME",
        "LANG",
        "PATH",
        "TERM",
        "TMPDIR",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_RUNTIME_DIR",
        "XDG_STATE_HOME",
    ];
    assert_eq!(names, expected);
}

#[test]
fn wait_until_gives_up_and_says_for_what() {
    let outcome = std::panic::catch_unwind(|| {
        wait_until("pigs that fly", Duration::from_millis(20), || None::<()>)
    });
    let message = *outcome.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("pigs that fly"), "{message}");
}

// ---------------------------------------------------------------------------------------------
// Terminal and job control

#[test]
fn pty_program_is_session_leader_with_the_terminal() {
    let sandbox = Sandbox::new();
    let report = sandbox.file("report");
    let mut pty = Pty::open().unwrap();
    let mut command = fake(&sandbox, &format!("report={};tui=on", report.display()));
    command.arg("hello");
    let mut child = KillOnDrop(pty.spawn(command).unwrap());
    pty.expect("ALL DONE", SOON);
    let report = &lines_of_json(&report)[0];
    let pid = json!(child.0.id());
    assert_eq!(
        (&report["pgid"], &report["sid"], &report["foreground"]),
        (&pid, &pid, &pid)
    );
    assert_eq!(report["tty"], json!([true, true, true]));
    pty.write(b"/exit\r").unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
}

#[test]
fn pty_shows_modes_and_passes_on_its_size() {
    let sandbox = Sandbox::new();
    let mut pty = Pty::open().unwrap();
    assert_eq!(pty.modes().unwrap(), Modes::SANE);
    let mut child = KillOnDrop(pty.spawn(fake(&sandbox, "")).unwrap());
    pty.expect("size 80x24", SOON);
    assert_eq!(
        pty.modes().unwrap(),
        Modes {
            isig: false,
            icanon: false,
            echo: false,
            opost: false
        }
    );
    pty.resize(123, 45).unwrap();
    pty.expect("size 123x45", SOON);
    pty.write(b"\x04").unwrap();
    child.0.wait().unwrap();
    assert_eq!(pty.modes().unwrap(), Modes::SANE);
}

#[test]
fn pty_expect_does_not_find_the_same_output_twice() {
    let sandbox = Sandbox::new();
    let mut pty = Pty::open().unwrap();
    let mut command = sandbox.command("/bin/sh");
    command.args(["-c", "echo once; read line"]);
    let _child = KillOnDrop(pty.spawn(command).unwrap());
    pty.expect("once", SOON);
    assert!(!pty.sees("once", Duration::from_millis(50)));
    assert!(pty.text().contains("once"));
}

#[test]
fn pty_hang_up_reaches_the_session_leader() {
    let sandbox = Sandbox::new();
    let mut pty = Pty::open().unwrap();
    let mut command = sandbox.command("/bin/sh");
    command.args(["-c", "echo up; read line; read line"]);
    let mut child = KillOnDrop(pty.spawn(command).unwrap());
    pty.expect("up", SOON);
    pty.hang_up();
    let status = wait_until("the end of the shell", SOON, || child.0.try_wait().unwrap());
    assert_eq!(status.signal(), Some(libc::SIGHUP));
}

#[test]
fn a_client_killed_on_the_terminal_leaves_it_dirty() {
    let sandbox = Sandbox::new();
    let mut pty = Pty::open().unwrap();
    let mut child = KillOnDrop(pty.spawn(fake(&sandbox, "")).unwrap());
    pty.expect("fake-claude ready", SOON);
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    assert_ne!(pty.modes().unwrap(), Modes::SANE);
    assert!(pty.text().contains("\x1b[?1049h") && !pty.text().contains("\x1b[?1049l"));
}

#[test]
fn jobshell_tells_stop_continue_and_exit_apart() {
    let sandbox = Sandbox::new();
    let mut pty = Pty::open().unwrap();
    let mut command = sandbox.command("/bin/sh");
    command.args(["-c", "echo started; read line; exit 7"]);
    let mut job = pty
        .spawn_under_shell(&command, &JobSetup::default())
        .unwrap();
    pty.expect("started", SOON);
    let stat = proc_view::stat(job.pid()).unwrap();
    assert_eq!(
        (stat.group, stat.foreground, stat.session),
        (job.pid(), job.pid(), job.shell_pid())
    );
    pty.write(b"\x1a").unwrap();
    assert_eq!(
        job.report(SOON).unwrap(),
        format!("stopped {}", libc::SIGTSTP)
    );
    assert_eq!(pty.foreground().unwrap(), job.shell_pid());
    job.send("fg").unwrap();
    assert_eq!(job.report(SOON).unwrap(), "continued");
    assert_eq!(pty.foreground().unwrap(), job.pid());
    pty.write(b"\n").unwrap();
    assert_eq!(job.report(SOON).unwrap(), "exited 7");
}

#[test]
fn jobshell_background_job_is_stopped_by_reading_the_terminal() {
    let sandbox = Sandbox::new();
    let mut pty = Pty::open().unwrap();
    let mut command = sandbox.command("/bin/sh");
    command.args(["-c", "read line; exit 3"]);
    let setup = JobSetup {
        background: true,
        ..JobSetup::default()
    };
    let mut job = pty.spawn_under_shell(&command, &setup).unwrap();
    assert_eq!(
        job.report(SOON).unwrap(),
        format!("stopped {}", libc::SIGTTIN)
    );
    job.send("fg").unwrap();
    assert_eq!(job.report(SOON).unwrap(), "continued");
    pty.write(b"\n").unwrap();
    assert_eq!(job.report(SOON).unwrap(), "exited 3");
}

#[test]
fn jobshell_signals_leader_and_group_and_hands_down_dispositions() {
    let sandbox = Sandbox::new();
    let report = sandbox.file("report");
    let setup = JobSetup {
        ignore: vec![libc::SIGQUIT, libc::SIGUSR2, libc::SIGPIPE],
        block: vec![libc::SIGALRM],
        background: false,
    };
    let mut pty = Pty::open().unwrap();
    let command = fake(&sandbox, &format!("report={};tui=on", report.display()));
    let mut job = pty.spawn_under_shell(&command, &setup).unwrap();
    pty.expect("fake-claude ready", SOON);
    let seen = &lines_of_json(&report)[0];
    assert_eq!(
        seen["ignored"],
        json!([libc::SIGQUIT, libc::SIGUSR2, libc::SIGPIPE])
    );
    assert_eq!(seen["blocked"], json!([libc::SIGALRM]));
    let fds: Vec<&String> = seen["fds"].as_object().unwrap().keys().collect();
    assert_eq!(fds, ["0", "1", "2"], "the harness hands no descriptor down");
    job.send(&format!("killpid {}", libc::SIGUSR1)).unwrap();
    assert_eq!(
        job.report(SOON).unwrap(),
        format!("signaled {}", libc::SIGUSR1)
    );
}

#[test]
fn jobshell_gives_the_modes_of_a_stopped_job_back() {
    let sandbox = Sandbox::new();
    let mut pty = Pty::open().unwrap();
    let mut job = pty
        .spawn_under_shell(&fake(&sandbox, ""), &JobSetup::default())
        .unwrap();
    pty.expect("fake-claude ready", SOON);
    pty.write(b"\x1a").unwrap();
    assert_eq!(
        job.report(SOON).unwrap(),
        format!("stopped {}", libc::SIGSTOP)
    );
    assert_eq!(pty.modes().unwrap(), Modes::SANE);
    job.send("fg").unwrap();
    assert_eq!(job.report(SOON).unwrap(), "continued");
    pty.expect("redrawn", SOON);
    assert!(!pty.modes().unwrap().icanon);
    job.send(&format!("kill {}", libc::SIGTERM)).unwrap();
    assert_eq!(job.report(SOON).unwrap(), "exited 143");
    assert_eq!(pty.modes().unwrap(), Modes::SANE);
}

// ---------------------------------------------------------------------------------------------
// The fake client

fn fake(sandbox: &Sandbox, plan: &str) -> Command {
    let mut command = sandbox.command(program("fake-claude"));
    command.env("FAKE_CLAUDE", plan);
    command
}

fn fake_transcript(sandbox: &Sandbox) -> Option<PathBuf> {
    transcripts(&sandbox.home()).pop()
}

#[test]
fn fake_client_refuses_what_the_client_refuses() {
    let sandbox = Sandbox::new();
    let refusal = |arguments: &[&str]| {
        let output = fake(&sandbox, "rounds=1;round_ms=1")
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(stdout(&output), "");
        (output.status.code(), stderr(&output))
    };
    let unknown = refusal(&["-p", "x", "--resume", SESSION]);
    assert_eq!(
        unknown,
        (
            Some(1),
            format!("No conversation found with session ID: {SESSION}\n")
        )
    );
    let both = refusal(&["-p", "x", "--resume", SESSION, "--session-id", SESSION]);
    assert_eq!(both.0, Some(1));
    assert_eq!(
        refusal(&["--frobnicate"]),
        (Some(1), "error: unknown option '--frobnicate'\n".into())
    );
    let first = fake(&sandbox, "rounds=1;round_ms=1")
        .args(["-p", "x", "--session-id", SESSION])
        .output()
        .unwrap();
    assert_eq!(
        (first.status.code(), stdout(&first).as_str()),
        (Some(0), "ALL DONE\n")
    );
    let again = refusal(&["-p", "x", "--session-id", SESSION]);
    assert_eq!(
        again,
        (
            Some(1),
            format!("Error: Session ID {SESSION} is already in use.\n")
        )
    );
}

#[test]
fn fake_client_resumed_goes_on_where_it_stopped() {
    for (version, signal) in [
        ("2.1.329", libc::SIGTERM),
        ("2.1.329", libc::SIGKILL),
        ("2.1.110", libc::SIGTERM),
    ] {
        let sandbox = Sandbox::new();
        let plan = format!("version={version};rounds=6;round_ms=100");
        let mut command = fake(&sandbox, &plan);
        command.args(["-p", "go", "--session-id", SESSION]);
        piped(&mut command);
        let mut child = KillOnDrop(command.spawn().unwrap());
        wait_until("two rounds", SOON, || {
            let calls = tool_calls(&fake_transcript(&sandbox)?);
            (calls.iter().filter(|c| c.1.is_some()).count() >= 2).then_some(())
        });
        send_signal(child.0.id() as i32, signal).unwrap();
        let status = child.0.wait().unwrap();
        assert_eq!(
            status.code().or(status.signal()),
            Some(if signal == libc::SIGTERM { 143 } else { 9 })
        );
        let before = tool_calls(&fake_transcript(&sandbox).unwrap());
        assert!(
            before.iter().any(|c| c.1.is_none()),
            "a call was cut off: {before:?}"
        );
        let output = fake(&sandbox, &plan)
            .args(["-p", "go on", "--resume", SESSION])
            .output()
            .unwrap();
        assert_eq!(
            (output.status.code(), stdout(&output).as_str()),
            (Some(0), "ALL DONE\n"),
            "{}",
            stderr(&output)
        );
        let results: Vec<String> = tool_calls(&fake_transcript(&sandbox).unwrap())
            .into_iter()
            .filter_map(|c| c.1)
            .collect();
        assert_eq!(
            results,
            [
                "round-1", "round-2", "round-3", "round-4", "round-5", "round-6"
            ]
        );
        assert_eq!(transcripts(&sandbox.home()).len(), 1);
    }
}

#[test]
fn fake_client_prints_the_answer_once_in_every_format() {
    let sandbox = Sandbox::new();
    for (format, lines) in [("text", 1), ("json", 1), ("stream-json", 1 + 2 * 2 + 1 + 1)] {
        let output = fake(&sandbox, "rounds=2;round_ms=1;answer=token-42")
            .args(["-p", "go", "--output-format", format])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        let text = stdout(&output);
        assert_eq!(text.lines().count(), lines, "{text}");
        let last = text.lines().last().unwrap();
        if format == "text" {
            assert_eq!(last, "token-42");
        } else {
            assert_eq!(
                serde_json::from_str::<Value>(last).unwrap()["result"],
                "token-42"
            );
        }
    }
}

#[test]
fn fake_client_takes_piped_and_streamed_prompts() {
    let sandbox = Sandbox::new();
    let feed = |arguments: &[&str], input: &str| {
        let mut command = fake(&sandbox, "rounds=1;round_ms=1");
        let mut child = piped(command.args(arguments)).spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    };
    let output = feed(&["-p"], "a prompt\n");
    assert_eq!(stdout(&output), "ALL DONE\n");
    assert!(
        fs::read_to_string(fake_transcript(&sandbox).unwrap())
            .unwrap()
            .contains("a prompt")
    );
    let message = "{\"type\":\"user\",\"message\":{\"role\":\"user\",\"content\":\"hi\"}}\n";
    let output = feed(
        &[
            "-p",
            "--input-format",
            "stream-json",
            "--output-format",
            "stream-json",
        ],
        &message.repeat(2),
    );
    let results = stdout(&output)
        .lines()
        .filter(|l| l.contains("\"type\":\"result\""))
        .count();
    assert_eq!(results, 2);
    assert_eq!(feed(&["-p"], "").status.code(), Some(1));
}

#[test]
fn fake_client_session_file_follows_clear_as_its_version_does() {
    for (version, follows) in [("2.1.329", true), ("2.1.110", false)] {
        let sandbox = Sandbox::new();
        let mut pty = Pty::open().unwrap();
        let mut command = fake(&sandbox, &format!("version={version};rounds=1;round_ms=1"));
        command.args(["--session-id", SESSION]);
        let mut child = KillOnDrop(pty.spawn(command).unwrap());
        pty.expect("fake-claude ready", SOON);
        let file = sandbox
            .home()
            .join(format!(".claude/sessions/{}.json", child.0.id()));
        let session =
            || serde_json::from_str::<Value>(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(session()["sessionId"], SESSION);
        pty.write(b"go\r").unwrap();
        pty.expect("ALL DONE", SOON);
        pty.write(b"/clear\r").unwrap();
        pty.expect("cleared", SOON);
        assert_eq!(session()["sessionId"] != SESSION, follows);
        assert_eq!(session().get("status").is_some(), follows);
        assert_eq!(transcripts(&sandbox.home()).len(), 2);
        pty.write(b"/exit\r").unwrap();
        child.0.wait().unwrap();
        assert!(!file.exists());
    }
}

#[test]
fn fake_client_leaks_what_it_was_told_and_where() {
    for place in ["self", "tool", "tool_group", "tool_same", "grandchild"] {
        let sandbox = Sandbox::new();
        let plan =
            format!("leak_mib=64;leak_mib_per_s=640;leak_in={place};round_ms=20000;rounds=1");
        let mut command = fake(&sandbox, &plan);
        command.args(["-p", "go"]);
        let child = KillOnDrop(piped(&mut command).spawn().unwrap());
        let root = child.0.id() as i32;
        let fat = wait_until(&format!("64 MiB in {place}"), SOON, || {
            let mut tree = proc_view::descendants(root);
            tree.push(root);
            tree.into_iter()
                .find(|p| proc_view::status_kib(*p, "RssAnon").is_some_and(|k| k >= 64 << 10))
        });
        let (fat_stat, root_stat) = (
            proc_view::stat(fat).unwrap(),
            proc_view::stat(root).unwrap(),
        );
        assert_eq!(fat == root, place == "self");
        assert_eq!(
            fat_stat.session == root_stat.session,
            matches!(place, "self" | "tool_group" | "tool_same")
        );
        assert_eq!(
            fat_stat.group == root_stat.group,
            matches!(place, "self" | "tool_same")
        );
        assert_eq!(
            fat_stat.parent == root || fat == root,
            place != "grandchild"
        );
        for pid in proc_view::descendants(root) {
            send_signal(pid, libc::SIGKILL).unwrap();
        }
    }
}

#[test]
fn fake_client_shares_memory_with_its_fork_and_storms() {
    let sandbox = Sandbox::new();
    let mut command = fake(&sandbox, "cow_mib=64;storm=40;round_ms=20000;rounds=1");
    command.args(["-p", "go"]);
    let mut child = KillOnDrop(piped(&mut command).spawn().unwrap());
    let root = child.0.id() as i32;
    let all = wait_until("1 fork, 40 of the storm, 1 tool", SOON, || {
        let found = proc_view::children(root);
        (found.len() == 42).then_some(found)
    });
    let fork = all
        .iter()
        .copied()
        .find(|p| proc_view::status_kib(*p, "RssAnon").is_some_and(|k| k >= 64 << 10))
        .unwrap();
    let rollup = fs::read_to_string(format!("/proc/{fork}/smaps_rollup")).unwrap();
    let pss: u64 = rollup
        .lines()
        .find_map(|l| l.strip_prefix("Pss_Anon:"))
        .unwrap()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .unwrap();
    assert!(pss < 48 << 10, "shared, not copied: {pss} KiB");
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    wait_until("the helpers end with the client", SOON, || {
        let left = all.iter().filter(|p| proc_view::alive(**p)).count();
        // The tool is the one that outlives its client, as the client's do.
        (left <= 1).then_some(())
    });
    for pid in all {
        if proc_view::stat(pid)
            .is_some_and(|s| s.comm == "exe" || s.comm.starts_with("fake-claude"))
        {
            let _ = send_signal(pid, libc::SIGKILL);
        }
    }
}

#[test]
fn fake_client_records_every_signal_and_who_sent_it() {
    let sandbox = Sandbox::new();
    let record = sandbox.file("signals");
    let mut command = fake(
        &sandbox,
        &format!(
            "signals={};ignore=all;round_ms=30000;rounds=1",
            record.display()
        ),
    );
    command.args(["-p", "go"]);
    let child = KillOnDrop(piped(&mut command).spawn().unwrap());
    let pid = child.0.id() as i32;
    wait_until("the handlers", SOON, || record.exists().then_some(()));
    let sent: Vec<i32> = (1..32)
        .filter(|s| ![libc::SIGKILL, libc::SIGSTOP].contains(s))
        .collect();
    for signal in &sent {
        send_signal(pid, *signal).unwrap();
        wait_until(&format!("signal {signal}"), SOON, || {
            lines_of_json(&record)
                .iter()
                .any(|l| l["signal"] == *signal && l["pid"] == std::process::id())
                .then_some(())
        });
    }
    assert!(proc_view::alive(pid));
    for tool in proc_view::children(pid) {
        send_signal(tool, libc::SIGKILL).unwrap();
    }
}

/// A process whose first thread has ended, and whose second goes on until its input ends.
fn without_its_first_thread() -> Command {
    let script = format!(
        "import ctypes, sys, threading\n\
         threading.Thread(target=sys.stdin.read).start()\n\
         ctypes.CDLL(None).syscall({}, 0)\n",
        libc::SYS_exit
    );
    let mut command = Command::new("python3");
    command.args(["-c", &script]);
    command
}

#[test]
fn a_process_is_alive_until_its_last_thread_has_ended() {
    let mut child = KillOnDrop(piped(&mut without_its_first_thread()).spawn().unwrap());
    let pid = child.0.id() as i32;
    let state = || proc_view::stat(pid).map(|s| s.state);
    wait_until("the end of its first thread", SOON, || {
        (state() == Some('Z')).then_some(())
    });
    assert!(proc_view::alive(pid));
    drop(child.0.stdin.take());
    wait_until("the end of the other", SOON, || {
        (!proc_view::alive(pid)).then_some(())
    });
    assert_eq!(state(), Some('Z'), "nobody has reaped it yet");
}

#[test]
fn fake_client_ends_as_it_was_told() {
    let sandbox = Sandbox::new();
    for code in [0, 1, 42, 143, 255] {
        let status = fake(&sandbox, &format!("exit={code};round_ms=20000"))
            .args(["-p", "x"])
            .output()
            .unwrap()
            .status;
        assert_eq!(status.code(), Some(code));
    }
    for signal in [libc::SIGSEGV, libc::SIGKILL, libc::SIGTERM, libc::SIGUSR1] {
        let mut command = fake(&sandbox, &format!("die={signal};rounds=1;round_ms=500"));
        let status = command
            .args(["-p", "x"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(signal));
    }
}

#[test]
fn fake_client_that_ignores_term_must_be_killed_and_is_well_the_second_time() {
    let sandbox = Sandbox::new();
    let plan = format!(
        "ignore=15;once={};leak_mib=32;round_ms=300;rounds=2",
        sandbox.file("claim").display()
    );
    let start = |resume: bool| {
        let mut command = fake(&sandbox, &plan);
        command.args([
            "-p",
            "go",
            if resume { "--resume" } else { "--session-id" },
            SESSION,
        ]);
        KillOnDrop(piped(&mut command).spawn().unwrap())
    };
    let mut child = start(false);
    let pid = child.0.id() as i32;
    wait_until("the leak", SOON, || {
        (proc_view::status_kib(pid, "RssAnon")? >= 32 << 10).then_some(())
    });
    wait_until("the transcript", SOON, || fake_transcript(&sandbox));
    send_signal(pid, libc::SIGTERM).unwrap();
    assert!(poll_until(Duration::from_millis(200), || child.0.try_wait().unwrap()).is_none());
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    let second = start(true);
    let pid = second.0.id() as i32;
    let peak = poll_until(Duration::from_millis(150), || {
        proc_view::status_kib(pid, "RssAnon").filter(|k| *k >= 32 << 10)
    });
    assert_eq!(peak, None);
}

// ---------------------------------------------------------------------------------------------
// The mock API

fn conversation(results: &[(&str, &str, bool)]) -> Value {
    let mut messages = vec![json!({ "role": "user", "content": "go" })];
    for (id, text, is_error) in results {
        messages.push(json!({ "role": "assistant", "content": [
            { "type": "tool_use", "id": id, "name": "Bash", "input": {} } ] }));
        messages.push(json!({ "role": "user", "content": [
            { "type": "tool_result", "tool_use_id": id, "content": text, "is_error": is_error } ] }));
    }
    json!({ "model": "m", "stream": true, "tools": [ { "name": "Bash" } ], "messages": messages })
}

fn http(stream: &mut (impl Read + Write), path: &str, body: &Value) -> String {
    let body = body.to_string();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream.flush().unwrap();
    let mut answer = Vec::new();
    // A cut connection is one of the things that are tested.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn ask(mock: &Mock, path: &str, body: &Value) -> String {
    let url = mock.url();
    let mut stream = std::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    http(&mut stream, path, body)
}

/// The events of an SSE answer in order.
fn events(answer: &str) -> Vec<Value> {
    answer
        .lines()
        .filter_map(|l| l.strip_prefix("data: "))
        .map(|d| serde_json::from_str(d).unwrap())
        .collect()
}

fn called_tool(answer: &str) -> Option<(String, String)> {
    let events = events(answer);
    let start = events
        .iter()
        .find(|e| e["content_block"]["type"] == "tool_use")?;
    let input: String = events
        .iter()
        .filter(|e| e["delta"]["type"] == "input_json_delta")
        .map(|e| e["delta"]["partial_json"].as_str().unwrap())
        .collect();
    let input: Value = serde_json::from_str(&input).unwrap();
    Some((
        start["content_block"]["id"].as_str()?.to_owned(),
        input["command"].as_str()?.to_owned(),
    ))
}

#[test]
fn mock_reads_the_round_from_the_conversation_alone() {
    let scenario = Scenario {
        rounds: 3,
        command: "do {n}".into(),
        final_text: "THE END".into(),
        ..Scenario::default()
    };
    let mock = Mock::start(scenario, Options::default()).unwrap();
    let mut history: Vec<(String, &str, bool)> = Vec::new();
    let answer = |history: &[(String, &str, bool)]| {
        let borrowed: Vec<(&str, &str, bool)> = history
            .iter()
            .map(|(a, b, c)| (a.as_str(), *b, *c))
            .collect();
        ask(&mock, "/v1/messages?beta=true", &conversation(&borrowed))
    };
    let mut ids = Vec::new();
    for round in 1..=3 {
        // Asked twice: the first answer never reached the client.
        let lost = called_tool(&answer(&history)).unwrap();
        let (id, command) = called_tool(&answer(&history)).unwrap();
        assert_eq!(command, format!("do {round}"));
        assert_ne!(lost.0, id, "ids are never used twice");
        if round == 2 {
            history.push((
                id.clone(),
                "[Tool call interrupted: the session ended]",
                true,
            ));
            let again = called_tool(&answer(&history)).unwrap();
            assert_eq!(again.1, "do 2", "an interrupted round comes again");
            history.push((again.0, "ok", false));
        } else {
            history.push((id.clone(), "ok", false));
        }
        ids.push(id);
    }
    let end = answer(&history);
    assert_eq!(called_tool(&end), None);
    let text: String = events(&end)
        .iter()
        .filter_map(|e| e["delta"]["text"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text, "THE END");
    assert!(
        events(&end)
            .iter()
            .any(|e| e["delta"]["stop_reason"] == "end_turn")
    );
}

#[test]
fn mock_gives_up_a_round_that_keeps_failing() {
    let mock = Mock::start(
        Scenario {
            rounds: 1,
            attempts: 2,
            ..Scenario::default()
        },
        Options::default(),
    )
    .unwrap();
    let failed = ("toolu_cs_r0001_1", "Exit code 143", true);
    assert!(called_tool(&ask(&mock, "/v1/messages", &conversation(&[failed]))).is_some());
    let twice = [failed, ("toolu_cs_r0001_2", "Exit code 143", true)];
    assert_eq!(
        called_tool(&ask(&mock, "/v1/messages", &conversation(&twice))),
        None
    );
}

#[test]
fn mock_answers_side_calls_overload_and_nonsense() {
    let sandbox = Sandbox::new();
    let log = sandbox.file("log");
    let scenario = Scenario {
        overloaded_first: 1,
        drop_first: 1,
        ..Scenario::default()
    };
    let mock = Mock::start(
        scenario,
        Options {
            log: Some(log.clone()),
            tls_dir: None,
        },
    )
    .unwrap();
    let side = ask(
        &mock,
        "/v1/messages",
        &json!({ "model": "haiku", "messages": [{ "role": "user", "content": "title?" }] }),
    );
    assert!(
        side.starts_with("HTTP/1.1 200") && side.contains("\"stop_reason\":\"end_turn\""),
        "{side}"
    );
    let overloaded = ask(&mock, "/v1/messages", &conversation(&[]));
    assert!(
        overloaded.starts_with("HTTP/1.1 529") && overloaded.contains("overloaded_error"),
        "{overloaded}"
    );
    let dropped = ask(&mock, "/v1/messages", &conversation(&[]));
    assert!(
        dropped.contains("message_start") && !dropped.contains("message_stop"),
        "{dropped}"
    );
    assert!(called_tool(&ask(&mock, "/v1/messages", &conversation(&[]))).is_some());
    assert!(ask(&mock, "/v1/messages/count_tokens", &conversation(&[])).contains("input_tokens"));
    assert!(ask(&mock, "/v1/nothing", &json!({})).starts_with("HTTP/1.1 404"));
    let actions: Vec<Value> = lines_of_json(&log)
        .into_iter()
        .map(|mut l| l["action"].take())
        .collect();
    assert_eq!(
        actions,
        [
            "answered",
            "overloaded",
            "dropped",
            "answered",
            "count_tokens",
            "not_found"
        ]
    );
}

#[test]
fn mock_keeps_a_connection_and_takes_chunked_bodies() {
    let mock = Mock::start(Scenario::default(), Options::default()).unwrap();
    let url = mock.url();
    let mut stream = std::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let body = conversation(&[]).to_string();
    let (head, tail) = body.split_at(body.len() / 2);
    write!(
        stream,
        "POST /v1/messages/count_tokens HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .unwrap();
    write!(
        stream,
        "{:x}\r\n{head}\r\n{:x}\r\n{tail}\r\n0\r\n\r\n",
        head.len(),
        tail.len()
    )
    .unwrap();
    let second = http(&mut stream, "/v1/messages", &conversation(&[]));
    assert!(
        second.contains(&format!("\"input_tokens\":{}", body.len() / 4 + 1)),
        "{second}"
    );
    assert!(called_tool(&second).is_some());
}

#[test]
fn mock_speaks_tls_with_a_certificate_of_its_own_ca() {
    let sandbox = Sandbox::new();
    let options = Options {
        log: None,
        tls_dir: Some(sandbox.root().to_owned()),
    };
    let mock = Mock::start(Scenario::default(), options).unwrap();
    let url = mock.url();
    let address = url.strip_prefix("https://").unwrap();
    use rustls::pki_types::pem::PemObject;
    let ca = rustls::pki_types::CertificateDer::from_pem_file(sandbox.file("ca.pem")).unwrap();
    let connect = |roots: rustls::RootCertStore, name: &'static str| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connection =
            rustls::ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let socket = std::net::TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        rustls::StreamOwned::new(connection, socket)
    };
    for name in ["localhost", "127.0.0.1"] {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.clone()).unwrap();
        let answer = http(
            &mut connect(roots, name),
            "/v1/messages",
            &conversation(&[]),
        );
        assert!(called_tool(&answer).is_some(), "{answer}");
    }
    let mut stranger = connect(rustls::RootCertStore::empty(), "localhost");
    assert!(
        stranger
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .and_then(|()| stranger.flush())
            .is_err()
    );
}

#[test]
fn scenario_survives_its_own_json_and_refuses_mistakes() {
    let scenario = Scenario {
        rounds: 30,
        command: "echo \"{n}\"".into(),
        chunk_delay_ms: 5,
        ..Scenario::default()
    };
    assert_eq!(
        Scenario::from_json(&scenario.to_json()).unwrap().to_json(),
        scenario.to_json()
    );
    assert!(
        Scenario::from_json("{\"ruonds\": 3}")
            .unwrap_err()
            .contains("ruonds")
    );
    assert!(Scenario::from_json("{\"rounds\": -3}").is_err());
}

#[test]
fn isolated_command_reaches_the_mock_and_nothing_else() {
    let sandbox = Sandbox::new();
    let mock = match Isolated::start(&sandbox, &Scenario::default(), false) {
        Ok(mock) => mock,
        Err(reason) => skip!("no network namespace here: {reason}"),
    };
    let mut command = sandbox.command("/bin/cat");
    command.arg("/proc/self/net/dev");
    mock.enter(&mut command).unwrap();
    let text = stdout(&command.output().unwrap());
    let devices: Vec<&str> = text
        .lines()
        .filter_map(|l| l.split_once(':'))
        .map(|(name, _)| name.trim())
        .collect();
    assert!(devices.contains(&"lo"), "{devices:?}");
    assert!(
        !devices
            .iter()
            .any(|d| d.starts_with("eth") || d.starts_with("en")),
        "{devices:?}"
    );
    // Here, outside, nobody listens at that address.
    let address = mock.url().strip_prefix("http://").unwrap();
    assert!(std::net::TcpStream::connect(address).is_err());
}

// ---------------------------------------------------------------------------------------------
// The mock with the real client

fn real(version: &str, test: impl FnOnce(&Sandbox, PathBuf)) -> Result<(), String> {
    let Some(client) = real_client(version) else {
        return Err(format!(
            "client {version} is not there (`cargo run -p claude-safe-tests --bin fetch-client {version}`)"
        ));
    };
    let sandbox = Sandbox::new();
    prepare_home(&sandbox);
    test(&sandbox, client);
    Ok(())
}

fn thirty_rounds() -> Scenario {
    Scenario {
        rounds: 30,
        command: "echo round-{n} >> rounds.log".into(),
        final_text: "ALL DONE token-7f3a".into(),
        ..Scenario::default()
    }
}

fn thirty_rounds_ran(sandbox: &Sandbox) {
    let expected: Vec<String> = (1..=30).map(|n| format!("round-{n}")).collect();
    let log = fs::read_to_string(sandbox.work().join("rounds.log")).unwrap();
    assert_eq!(log.lines().collect::<Vec<_>>(), expected);
    let calls = distinct(tool_calls(transcripts(&sandbox.home()).last().unwrap()));
    assert_eq!(calls.len(), 30, "{calls:?}");
    assert!(calls.iter().all(|c| c.1.is_some()), "{calls:?}");
}

#[test]
fn real_client_runs_thirty_rounds_with_the_mock_in_print_mode() {
    for pinned in PINNED {
        for (format, tls) in [("text", false), ("json", true)] {
            let outcome = real(pinned.version, |sandbox, client| {
                let mock = Isolated::start(sandbox, &thirty_rounds(), tls).unwrap();
                let mut command = sandbox.command(client);
                command.args([
                    "-p",
                    "go",
                    "--dangerously-skip-permissions",
                    "--output-format",
                    format,
                ]);
                clients::set_up(&mut command, &mock).unwrap();
                let output = command.output().unwrap();
                assert_eq!(
                    output.status.code(),
                    Some(0),
                    "{} {}",
                    stdout(&output),
                    stderr(&output)
                );
                if format == "json" {
                    let result: Value = serde_json::from_str(&stdout(&output)).unwrap();
                    assert_eq!(result["result"], "ALL DONE token-7f3a");
                } else {
                    assert_eq!(stdout(&output), "ALL DONE token-7f3a\n");
                }
                thirty_rounds_ran(sandbox);
            });
            if let Err(reason) = outcome {
                skip!("{reason}");
            }
        }
    }
}

#[test]
fn real_client_comes_up_without_questions_and_runs_thirty_rounds_in_its_tui() {
    for pinned in PINNED {
        let outcome = real(pinned.version, |sandbox, client| {
            let mock = Isolated::start(sandbox, &thirty_rounds(), false).unwrap();
            let mut pty = Pty::open().unwrap();
            pty.resize(120, 40).unwrap();
            let mut command = sandbox.command(client);
            command.args([
                "--dangerously-skip-permissions",
                "--session-id",
                SESSION,
                "go",
            ]);
            clients::set_up(&mut command, &mock).unwrap();
            let mut child = KillOnDrop(pty.spawn(command).unwrap());
            wait_until("the last request", LONG, || {
                mock.requests()
                    .iter()
                    .any(|r| r["final"] == true)
                    .then_some(())
            });
            pty.expect("token-7f3a", SOON);
            // The client writes its transcript behind what it shows.
            wait_until("thirty results in the transcript", SOON, || {
                let calls = distinct(tool_calls(transcripts(&sandbox.home()).last()?));
                (calls.iter().filter(|c| c.1.is_some()).count() >= 30).then_some(())
            });
            send_signal(child.0.id() as i32, libc::SIGTERM).unwrap();
            let status = wait_until("the end of the client", SOON, || {
                child.0.try_wait().unwrap()
            });
            assert_eq!(status.code(), Some(143));
            assert_eq!(pty.modes().unwrap(), Modes::SANE);
            thirty_rounds_ran(sandbox);
        });
        if let Err(reason) = outcome {
            skip!("{reason}");
        }
    }
}

#[test]
fn real_client_killed_in_mid_turn_is_resumed_and_finishes() {
    for pinned in PINNED {
        let outcome = real(pinned.version, |sandbox, client| {
            let scenario = Scenario {
                command: "echo round-{n} >> rounds.log; sleep 0.2".into(),
                rounds: 6,
                ..thirty_rounds()
            };
            let mock = Isolated::start(sandbox, &scenario, false).unwrap();
            let start = |session: [&str; 2], prompt: &str| {
                let mut command = sandbox.command(&client);
                command
                    .args(["-p", prompt, "--dangerously-skip-permissions"])
                    .args(session);
                clients::set_up(&mut command, &mock).unwrap();
                piped(&mut command).stdin(Stdio::null()).spawn().unwrap()
            };
            let mut child = KillOnDrop(start(["--session-id", SESSION], "go"));
            wait_until("the third round", LONG, || {
                mock.requests()
                    .iter()
                    .any(|r| r["round"] == 3)
                    .then_some(())
            });
            child.0.kill().unwrap();
            child.0.wait().unwrap();
            let output = start(["--resume", SESSION], "Continue.")
                .wait_with_output()
                .unwrap();
            assert_eq!(
                stdout(&output),
                "ALL DONE token-7f3a\n",
                "{}",
                stderr(&output)
            );
            let calls = distinct(tool_calls(transcripts(&sandbox.home()).last().unwrap()));
            let finished: Vec<&str> = calls
                .iter()
                .filter(|c| c.1.is_some())
                .map(|c| &c.0[..15])
                .collect();
            let expected: Vec<String> = (1..=6).map(|n| format!("toolu_cs_r{n:04}_")).collect();
            assert_eq!(finished, expected, "every completed call exactly once");
        });
        if let Err(reason) = outcome {
            skip!("{reason}");
        }
    }
}

#[test]
fn real_client_leaks_at_the_ordered_speed_up_to_the_cap_and_only_the_first_does() {
    for pinned in PINNED {
        let outcome = real(pinned.version, |sandbox, client| {
            let scenario = Scenario {
                command: "sleep 1".into(),
                rounds: 60,
                ..thirty_rounds()
            };
            let mock = Isolated::start(sandbox, &scenario, false).unwrap();
            let leak = clients::Leak {
                mib_per_s: 200,
                cap_mib: 600,
                first_clients: Some(1),
                after: None,
            };
            let options = clients::leak_options(sandbox, &leak);
            let start = || {
                let mut command = sandbox.command(&client);
                command
                    .args(["-p", "go", "--dangerously-skip-permissions"])
                    .env("BUN_OPTIONS", &options);
                clients::set_up(&mut command, &mock).unwrap();
                KillOnDrop(piped(&mut command).stdin(Stdio::null()).spawn().unwrap())
            };
            let rss_mib = |pid: i32| proc_view::status_kib(pid, "RssAnon").map(|k| k >> 10);
            let first = start();
            let pid = first.0.id() as i32;
            let begun = std::time::Instant::now();
            wait_until("600 MiB", LONG, || (rss_mib(pid)? >= 600).then_some(()));
            assert!(
                begun.elapsed() > Duration::from_millis(1500),
                "not faster than ordered"
            );
            // Not at once: on a busy machine the leak may be there before the first request.
            wait_until("the tool loop beside the leak", LONG, || {
                mock.requests()
                    .iter()
                    .any(|r| r["round"] == 2)
                    .then_some(())
            });
            let over = poll_until(Duration::from_secs(2), || {
                rss_mib(pid).filter(|m| *m > 1200)
            });
            assert_eq!(over, None, "the cap holds");
            drop(first);
            let rounds_before = mock.requests().len();
            let second = start();
            let pid = second.0.id() as i32;
            wait_until("the second client at work", LONG, || {
                (mock.requests().len() >= rounds_before + 3).then_some(())
            });
            assert!(rss_mib(pid).unwrap() < 500, "{:?}", rss_mib(pid));
        });
        if let Err(reason) = outcome {
            skip!("{reason}");
        }
    }
}

#[test]
fn a_missing_client_is_an_error_when_it_is_required() {
    // The macro's own contract: it returns from the test, or it panics, by one variable.
    fn skipped() {
        skip!("this is what a skipped test prints; it is here on purpose");
    }
    let outcome = std::panic::catch_unwind(skipped);
    assert_eq!(outcome.is_err(), client_required());
}

/// Tests that were started under nohup, or in the background of a script, see what others see.
#[test]
fn a_program_in_a_sandbox_inherits_no_ignored_signal() {
    let sandbox = Sandbox::new();
    // The premise is our own: a test process of which a signal is ignored.
    // SAFETY: SIGUSR2 means nothing to this process; other tests here don't ask what it does with it.
    let before = unsafe { libc::signal(libc::SIGUSR2, libc::SIG_IGN) };
    let mut command = sandbox.command("/bin/cat");
    let output = command.arg("/proc/self/status").output().unwrap();
    // SAFETY: as above; it is put back.
    unsafe { libc::signal(libc::SIGUSR2, before) };
    let status = String::from_utf8(output.stdout).unwrap();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:\t"));
    // Real-time signals are nobody's business here.
    let ignored = u64::from_str_radix(ignored.unwrap(), 16).unwrap();
    assert_eq!(ignored & 0x7fff_ffff, 0, "{ignored:x}");
}
