//! Tier 2 from outside, on the stand-in client: what is ended, what is started again, what is said.

use claude_safe_tests::clients::{tool_calls, transcripts};
use claude_safe_tests::pty::send_signal;
use claude_safe_tests::{
    KillOnDrop, Modes, Pty, Sandbox, artifacts, proc_view, program, wait_until,
};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

// The file itself, not `claude_safe`: a test that carries the wrapper's mark would be taken for one.
#[path = "../../guard/src/stats_page.rs"]
mod stats_page;
use stats_page::{Snapshot, WANTED_AT, Wanted};

/// No single step takes longer on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The limit of most tests. The stand-in itself takes 2 MiB.
const LIMIT_MIB: u64 = 192;

/// `claude-safe` with the stand-in behind it, which does as `plan` says.
fn claude_safe(sandbox: &Sandbox, plan: &str, arguments: &[&str]) -> Command {
    let mut command = sandbox.command(&artifacts().claude_safe);
    command
        .args(arguments)
        .env("CLAUDE_SAFE_BIN", program("fake-claude"))
        .env("CLAUDE_WATCHDOG_THRESHOLD_MB", LIMIT_MIB.to_string())
        .env("FAKE_CLAUDE", plan);
    command
}

/// A plan in which only the first client leaks, up to 4/3 of the limit.
fn first_leaks(sandbox: &Sandbox, more: &str) -> String {
    let once = sandbox.file("once").display().to_string();
    format!("once={once};leak_mib=256;leak_mib_per_s=150;leak_hold_ms=60000;{more}")
}

struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn said(output: Output) -> Said {
    Said {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn run(mut command: Command) -> Said {
    said(command.output().expect("claude-safe"))
}

fn start(mut command: Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("claude-safe")
}

/// The lines of the stand-in's `report=` file: one for each time it was started.
fn reports(sandbox: &Sandbox) -> Vec<Value> {
    let text = fs::read_to_string(sandbox.file("report")).unwrap_or_default();
    // The last one may be on its way.
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn words_of(report: &Value) -> Vec<String> {
    let words = report["argv"].as_array().expect("argv");
    words
        .iter()
        .skip(1)
        .map(|w| w.as_str().expect("text").to_owned())
        .collect()
}

fn the_transcript(sandbox: &Sandbox) -> std::path::PathBuf {
    let all = transcripts(&sandbox.home());
    assert_eq!(all.len(), 1, "one conversation, one transcript: {all:?}");
    all[0].clone()
}

#[test]
fn a_leak_is_warned_about_restarted_and_the_conversation_finished() {
    let sandbox = Sandbox::new();
    let report = sandbox.file("report").display().to_string();
    let plan = first_leaks(
        &sandbox,
        &format!("rounds=12;round_ms=250;answer=THE END;report={report}"),
    );
    let said = run(claude_safe(
        &sandbox,
        &plan,
        &["-p", "--model", "opus", "do it all"],
    ));
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(said.stdout.matches("THE END").count(), 1, "{}", said.stdout);
    let at = |text: &str| {
        said.stderr
            .find(text)
            .unwrap_or_else(|| panic!("no {text:?} in {}", said.stderr))
    };
    assert!(at("memory of this session is at") < at("memory reached"));
    assert!(at("memory reached") < at("restarting claude and resuming conversation"));
    assert_eq!(
        said.stderr.lines().count(),
        2,
        "one line each: {}",
        said.stderr
    );

    let starts = reports(&sandbox);
    assert_eq!(starts.len(), 2);
    let (first, second) = (words_of(&starts[0]), words_of(&starts[1]));
    assert_eq!(first[0], "--session-id");
    let id = &first[1];
    assert_eq!(first[2..], ["-p", "--model", "opus", "do it all"]);
    assert_eq!(second[..2], ["--resume".to_owned(), id.clone()]);
    assert!(
        second[2].contains("Go on exactly where you left off"),
        "{second:?}"
    );
    assert_eq!(second[3..], ["-p", "--model", "opus"]);

    // Every call that was completed was completed once; the one that was cut off may stand without a result.
    let calls = tool_calls(&the_transcript(&sandbox));
    assert_eq!(
        calls.iter().filter(|(_, result)| result.is_some()).count(),
        12,
        "{calls:?}"
    );
}

#[test]
fn a_session_that_never_nears_the_limit_is_left_alone() {
    let sandbox = Sandbox::new();
    let said = run(claude_safe(
        &sandbox,
        "rounds=3;leak_mib=100;leak_mib_per_s=500",
        &["-p", "do it"],
    ));
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_client_that_ignores_term_is_killed_and_the_session_goes_on() {
    let sandbox = Sandbox::new();
    // Only the first one is deaf, or the last would not end either.
    let once = sandbox.file("once").display().to_string();
    let plan =
        format!("once={once};leak_mib=220;leak_mib_per_s=300;ignore=15;rounds=60;round_ms=250");
    let mut child = KillOnDrop(start(claude_safe(&sandbox, &plan, &["-p", "do it"])));
    let status = wait_until("its end", 2 * PATIENCE, || {
        child.0.try_wait().expect("ours")
    });
    let mut stderr = String::new();
    std::io::Read::read_to_string(child.0.stderr.as_mut().expect("a pipe"), &mut stderr)
        .expect("text");
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("resuming conversation"), "{stderr}");
}

#[test]
fn json_output_arrives_once_with_the_same_conversation() {
    let sandbox = Sandbox::new();
    let plan = first_leaks(&sandbox, "rounds=12;round_ms=250");
    let said = run(claude_safe(
        &sandbox,
        &plan,
        &["-p", "--output-format", "json", "do it all"],
    ));
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let result: Value = serde_json::from_str(said.stdout.trim()).expect("exactly one result");
    let transcript = the_transcript(&sandbox);
    assert_eq!(
        result["session_id"].as_str(),
        transcript.file_stem().and_then(|s| s.to_str())
    );
    assert!(said.stderr.contains("resuming conversation"));
}

#[test]
fn a_prompt_through_a_pipe_is_not_asked_for_again() {
    let sandbox = Sandbox::new();
    let mut command = claude_safe(
        &sandbox,
        &first_leaks(&sandbox, "rounds=12;round_ms=250"),
        &["-p"],
    );
    let mut child = start({
        command.stdin(Stdio::piped());
        command
    });
    let mut stdin = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut stdin, b"do it through the pipe\n").expect("it reads");
    drop(stdin);
    let said = said(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stderr.contains("resuming conversation"),
        "{}",
        said.stderr
    );
    assert_eq!(said.stdout.matches("ALL DONE").count(), 1);
}

#[test]
fn a_stream_json_session_is_ended_with_the_reason_and_not_restarted() {
    let sandbox = Sandbox::new();
    let report = sandbox.file("report").display().to_string();
    let plan = first_leaks(&sandbox, &format!("rounds=40;round_ms=250;report={report}"));
    let line = r#"{"type":"user","message":{"role":"user","content":"do it"}}"#;
    let mut command = claude_safe(
        &sandbox,
        &plan,
        &[
            "-p",
            "--input-format",
            "stream-json",
            "--output-format",
            "stream-json",
            "--verbose",
        ],
    );
    command.stdin(Stdio::piped());
    let mut child = start(command);
    let mut stdin = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut stdin, format!("{line}\n").as_bytes()).expect("it reads");
    let said = said(child.wait_with_output().expect("it ends"));
    drop(stdin);
    assert_eq!(said.code, Some(143), "{}", said.stderr);
    assert!(
        said.stderr
            .contains("not restarted: a program feeds this session"),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("claude --resume "), "{}", said.stderr);
    assert_eq!(reports(&sandbox).len(), 1);
}

#[test]
fn continue_never_ends_a_print_session_and_tells_how_to_resume() {
    let sandbox = Sandbox::new();
    let mut command = claude_safe(
        &sandbox,
        &first_leaks(&sandbox, "rounds=40;round_ms=250"),
        &["-p", "do it"],
    );
    command.env("CLAUDE_SAFE_CONTINUE", "never");
    let said = run(command);
    assert_eq!(said.code, Some(143), "{}", said.stderr);
    assert!(
        said.stderr
            .contains("not restarted: CLAUDE_SAFE_CONTINUE=never"),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("claude --resume "), "{}", said.stderr);
}

#[test]
fn before_a_transcript_exists_the_session_starts_anew_under_its_id() {
    let sandbox = Sandbox::new();
    let report = sandbox.file("report").display().to_string();
    let once = sandbox.file("once").display().to_string();
    let plan = format!(
        "once={once};leak_mib=256;leak_mib_per_s=0;transcript_ms=20000;rounds=2;report={report}"
    );
    // The second start must not wait those 20 s: it gets a plan of its own through the file that says so.
    let mut command = claude_safe(&sandbox, &plan, &["-p", "do it"]);
    command.env("CLAUDE_WATCHDOG_THRESHOLD_MB", "64");
    let mut child = KillOnDrop(start(command));
    let starts = wait_until("a second start", PATIENCE, || {
        let starts = reports(&sandbox);
        (starts.len() == 2).then_some(starts)
    });
    let (first, second) = (words_of(&starts[0]), words_of(&starts[1]));
    assert_eq!(first, second, "the same id, the same prompt");
    assert_eq!(first[0], "--session-id");
    send_signal(child.0.id() as i32, libc::SIGTERM).expect("ours");
    assert_eq!(child.0.wait().expect("it ends").code(), Some(143));
}

#[test]
fn stdin_that_was_a_file_is_read_again_when_nothing_was_saved() {
    let sandbox = Sandbox::new();
    let once = sandbox.file("once").display().to_string();
    fs::write(sandbox.file("prompt"), "do it from the file\n").expect("a file");
    let plan = format!(
        "once={once};leak_mib=256;leak_mib_per_s=0;transcript_ms=3000;rounds=2;round_ms=10"
    );
    let mut command = claude_safe(&sandbox, &plan, &["-p"]);
    command
        .env("CLAUDE_WATCHDOG_THRESHOLD_MB", "64")
        .stdin(fs::File::open(sandbox.file("prompt")).expect("the file"));
    let said = run(command);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stderr.contains("begins anew"), "{}", said.stderr);
    let transcript = fs::read_to_string(the_transcript(&sandbox)).expect("text");
    assert!(transcript.contains("do it from the file"), "{transcript}");
}

#[test]
fn stdin_that_was_a_pipe_and_saved_nowhere_is_said_to_be_lost() {
    let sandbox = Sandbox::new();
    let once = sandbox.file("once").display().to_string();
    let plan = format!("once={once};leak_mib=256;leak_mib_per_s=0;transcript_ms=20000");
    let mut command = claude_safe(&sandbox, &plan, &["-p"]);
    command
        .env("CLAUDE_WATCHDOG_THRESHOLD_MB", "64")
        .stdin(Stdio::piped());
    let mut child = start(command);
    drop(
        child
            .stdin
            .take()
            .map(|mut s| std::io::Write::write_all(&mut s, b"do it\n")),
    );
    let said = said(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, Some(143), "{}", said.stderr);
    assert!(
        said.stderr
            .contains("not restarted: what stdin held was read"),
        "{}",
        said.stderr
    );
}

fn a_fat_tool_is_ended(kind: &str) {
    let sandbox = Sandbox::new();
    let report = sandbox.file("report").display().to_string();
    let plan = first_leaks(
        &sandbox,
        &format!("leak_in={kind};rounds=3;round_ms=100;report={report}"),
    );
    let said = run(claude_safe(&sandbox, &plan, &["-p", "do it"]));
    assert_eq!(said.code, Some(0), "{kind}: {}", said.stderr);
    assert!(
        said.stderr.contains("ending the tool "),
        "{kind}: {}",
        said.stderr
    );
    assert!(
        !said.stderr.contains("restarting"),
        "{kind}: {}",
        said.stderr
    );
    assert_eq!(said.stdout.matches("ALL DONE").count(), 1, "{kind}");
    assert_eq!(
        reports(&sandbox).len(),
        1,
        "{kind}: the client lived through it"
    );
}

#[test]
fn a_fat_tool_in_a_session_of_its_own_is_ended_and_the_client_stays() {
    a_fat_tool_is_ended("tool");
}

#[test]
fn a_fat_tool_in_a_group_of_its_own_is_ended_and_the_client_stays() {
    a_fat_tool_is_ended("tool_group");
}

#[test]
fn a_fat_tool_in_the_clients_own_group_is_ended_and_the_client_stays() {
    a_fat_tool_is_ended("tool_same");
}

#[test]
fn a_fat_child_of_a_tool_is_ended_and_the_client_stays() {
    a_fat_tool_is_ended("grandchild");
}

#[test]
fn pages_that_a_fork_shares_are_no_reason_to_restart() {
    let sandbox = Sandbox::new();
    let said = run(claude_safe(
        &sandbox,
        "cow_mib=110;rounds=20;round_ms=150",
        &["-p", "do it"],
    ));
    assert_eq!(
        (said.code, said.stderr.as_str()),
        (Some(0), ""),
        "110 MiB twice are not 220"
    );
}

#[test]
fn a_leak_that_never_ends_is_given_up_with_a_clear_end() {
    let sandbox = Sandbox::new();
    let report = sandbox.file("report").display().to_string();
    let plan = format!("leak_mib=256;leak_mib_per_s=0;rounds=1000;round_ms=50;report={report}");
    let mut command = claude_safe(&sandbox, &plan, &["-p", "do it"]);
    command.env("CLAUDE_WATCHDOG_THRESHOLD_MB", "64");
    let said = run(command);
    assert_eq!(said.code, Some(143), "{}", said.stderr);
    assert!(
        said.stderr
            .contains("giving up: the limit was reached 6 times in a row"),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr
            .lines()
            .last()
            .unwrap_or("")
            .contains("claude --resume "),
        "{}",
        said.stderr
    );
    assert_eq!(reports(&sandbox).len(), 6);
}

#[test]
fn who_ended_the_session_before_it_reached_the_limit_has_ended_it() {
    let sandbox = Sandbox::new();
    let signals = sandbox.file("signals").display().to_string();
    // Asked to end at once, it takes five seconds, and passes the limit meanwhile.
    let plan = format!(
        "leak_mib=205;leak_mib_per_s=100;rounds=100;round_ms=200;term_ms=5000;signals={signals}"
    );
    let child = start(claude_safe(&sandbox, &plan, &["-p", "do it"]));
    wait_until("the client", PATIENCE, || {
        fs::read_to_string(sandbox.file("signals"))
            .ok()
            .filter(|s| s.contains("ready"))
    });
    send_signal(child.id() as i32, libc::SIGTERM).expect("ours");
    let said = said(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, Some(143), "{}", said.stderr);
    assert!(!said.stderr.contains("restarting"), "{}", said.stderr);
}

#[test]
fn who_ends_the_session_while_it_is_restarted_ends_it() {
    let sandbox = Sandbox::new();
    let signals = sandbox.file("signals").display().to_string();
    // Not far above the limit, or the grace would be cut short.
    let plan = format!(
        "leak_mib=205;leak_mib_per_s=150;rounds=100;round_ms=200;term_ms=4000;signals={signals}"
    );
    let child = start(claude_safe(&sandbox, &plan, &["-p", "do it"]));
    // The first TERM is the supervisor's, for the restart; ours comes while the client still lives.
    wait_until("the TERM of the supervisor", PATIENCE, || {
        fs::read_to_string(sandbox.file("signals"))
            .ok()
            .filter(|s| s.contains("\"signal\":15"))
    });
    send_signal(child.id() as i32, libc::SIGTERM).expect("ours");
    let said = said(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, Some(143), "{}", said.stderr);
    assert!(
        said.stderr
            .contains("not restarted: SIGTERM asked for the end"),
        "{}",
        said.stderr
    );
}

#[test]
fn a_client_that_finishes_while_it_is_being_ended_has_finished() {
    let sandbox = Sandbox::new();
    let report = sandbox.file("report").display().to_string();
    // Deaf to TERM, above the limit at once, and gone with 0 within the grace.
    let plan = format!(
        "leak_mib=205;leak_mib_per_s=0;ignore=15;exit=0;after_ms=4000;rounds=100;report={report}"
    );
    let said = run(claude_safe(&sandbox, &plan, &["-p", "do it"]));
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stderr.contains("claude had finished by itself"),
        "{}",
        said.stderr
    );
    assert_eq!(reports(&sandbox).len(), 1);
}

/// A client whose two tools take 110 MiB each, and ignore TERM.
const TWO_FAT_TOOLS: &str = r#"#!/usr/bin/python3
import subprocess
fat = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
kept = b"1" * (110 << 20)
time.sleep(60)
"""
tools = [subprocess.Popen(["/usr/bin/python3", "-c", fat], start_new_session=True) for _ in range(2)]
print([tool.wait() for tool in tools])
"#;

/// A client in Python, where there is one.
fn python_client(sandbox: &Sandbox, text: &str) -> Option<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let script = sandbox.file("claude");
    fs::write(&script, text).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("our script");
    std::path::Path::new("/usr/bin/python3")
        .exists()
        .then_some(script)
}

#[test]
fn two_fat_tools_that_ignore_term_are_not_spared() {
    let sandbox = Sandbox::new();
    let Some(script) = python_client(&sandbox, TWO_FAT_TOOLS) else {
        claude_safe_tests::skip!("no /usr/bin/python3");
    };
    let mut command = claude_safe(&sandbox, "", &["-p", "do it"]);
    command
        .env("CLAUDE_SAFE_BIN", &script)
        .env("CLAUDE_WATCHDOG_THRESHOLD_MB", "100");
    let said = run(command);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(said.stdout.trim(), "[-9, -9]", "{}", said.stderr);
    assert_eq!(
        said.stderr.matches("ending the tool").count(),
        2,
        "{}",
        said.stderr
    );
}

/// A client that has its final answer, is above the limit, and takes a moment to print it and leave.
const SLOW_TO_LEAVE: &str = r#"#!/usr/bin/python3
import json, os, time
conversation = "12345678-1234-4234-8234-123456789abc"
claude = os.path.expanduser("~/.claude")
folder = claude + "/projects/here"
os.makedirs(folder)
os.makedirs(claude + "/sessions")
with open(claude + "/sessions/%d.json" % os.getpid(), "w") as own:
    own.write(json.dumps({"sessionId": conversation, "kind": "interactive", "status": "busy"}))
last = {"stop_reason": "end_turn", "content": [{"type": "text", "text": "THE ANSWER"}]}
with open(folder + "/" + conversation + ".jsonl", "w") as transcript:
    transcript.write(json.dumps({"type": "assistant", "message": last}) + "\n")
kept = b"1" * (205 << 20)
time.sleep(1.5)
print("THE ANSWER")
"#;

#[test]
fn a_print_session_that_has_its_answer_is_let_go_and_answers_once() {
    let sandbox = Sandbox::new();
    let Some(script) = python_client(&sandbox, SLOW_TO_LEAVE) else {
        claude_safe_tests::skip!("no /usr/bin/python3");
    };
    let mut command = claude_safe(&sandbox, "", &["-p", "do it"]);
    command.env("CLAUDE_SAFE_BIN", &script);
    let said = run(command);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(said.stdout, "THE ANSWER\n", "{}", said.stderr);
    assert!(!said.stderr.contains("restarting"), "{}", said.stderr);
}

/// The client's pid as it wrote it down itself.
fn client_pid(sandbox: &Sandbox) -> i32 {
    wait_until("the client's own report", PATIENCE, || {
        reports(sandbox).first()?["pid"]
            .as_i64()
            .map(|pid| pid as i32)
    })
}

#[test]
fn a_kill_near_the_limit_counts_as_memory_and_far_from_it_as_somebody_elses() {
    for (leak_mib, code) in [(180, 0), (60, 137)] {
        let sandbox = Sandbox::new();
        let report = sandbox.file("report").display().to_string();
        let once = sandbox.file("once").display().to_string();
        let plan = format!(
            "once={once};leak_mib={leak_mib};leak_mib_per_s=0;rounds=40;round_ms=200;report={report}"
        );
        let child = start(claude_safe(&sandbox, &plan, &["-p", "do it"]));
        let client = client_pid(&sandbox);
        wait_until("the leak", PATIENCE, || {
            proc_view::status_kib(client, "RssAnon").filter(|kib| *kib > leak_mib * 1024)
        });
        // The supervisor's next look must have seen it: its line for the warning says so.
        if code == 0 {
            wait_until("a look after the leak", PATIENCE, || {
                looked_since(child.id() as i32)
            });
        }
        send_signal(client, libc::SIGKILL).expect("ours");
        let said = said(child.wait_with_output().expect("it ends"));
        assert_eq!(said.code, Some(code), "{}", said.stderr);
        let restarted = said.stderr.contains("resuming conversation");
        assert_eq!(restarted, code == 0, "{}", said.stderr);
        assert!(said.stderr.contains("SIGKILL"), "{}", said.stderr);
    }
}

/// Who has taken the page, and what the wrapper wants of him.
fn asked_of(page: &Path) -> Option<(i32, u64)> {
    let bytes = fs::read(page).ok()?;
    let pid = Snapshot::from_bytes(&bytes).ok()?.pid.cast_signed();
    let word = bytes[WANTED_AT..WANTED_AT + 8].try_into().expect("eight");
    Some((pid, u64::from_ne_bytes(word)))
}

#[test]
fn the_guard_is_told_when_tier_1_is_passed_and_the_next_life_begins_untold() {
    let sandbox = Sandbox::new();
    let report = sandbox.file("report").display().to_string();
    // Below the threshold for a second and a half, above it from 64 MiB on, at the limit at 192.
    let plan = format!(
        "once={};leak_after_ms=1500;leak_mib=256;leak_mib_per_s=40;leak_hold_ms=60000;rounds=60;round_ms=500;report={report}",
        sandbox.file("once").display()
    );
    let mut command = claude_safe(&sandbox, &plan, &["-p", "do it"]);
    command.env("CLAUDE_MALLOC_GUARD_THRESHOLD_MB", "64");
    let mut child = KillOnDrop(start(command));
    let wrapper = child.0.id().cast_signed();
    let started = proc_view::stat(wrapper).expect("it runs").start_ticks;
    let page = sandbox
        .run()
        .join(format!("claude-safe/{wrapper}.{started}/guard.page"));
    let wait_for = |what: &str, wanted: Wanted, pid: Option<i32>| {
        wait_until(what, PATIENCE, || {
            let found = asked_of(&page)?;
            (found.1 == wanted as u64 && pid.is_none_or(|pid| pid == found.0)).then_some(found)
        })
    };
    let (first, _) = wait_for("a page that is taken", Wanted::Nothing, None);
    assert_eq!(first, client_pid(&sandbox));
    let first_page = fs::File::open(&page).expect("the page");
    wait_for("the word for the first life", Wanted::Active, Some(first));
    let anon_kib = proc_view::status_kib(first, "RssAnon");
    assert!(
        anon_kib.is_none_or(|kib| kib >= 60 * 1024),
        "{anon_kib:?}: too early"
    );
    let second = wait_until("the second life", PATIENCE, || {
        reports(&sandbox).get(1)?["pid"]
            .as_i64()
            .map(|pid| pid as i32)
    });
    wait_for("an untold page", Wanted::Nothing, Some(second));
    let names_left = first_page.metadata().expect("open").nlink();
    assert_eq!(names_left, 0, "the second life has a file of its own");

    // The client may be further than its supervisor, which writes down that it has started it.
    let told = wait_until("the second life in the status", PATIENCE, || {
        let mut ask = sandbox.command(&artifacts().claude_safectl);
        let told = ask.args(["status", "--json"]).output().ok()?;
        let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
        let session = told["sessions"].get(0)?.clone();
        (session["client_pid"] == second).then_some(session)
    });
    assert_eq!(told["restarts"], 1);
    assert_eq!(told["tier_1_bytes"], 64 << 20);
    assert_eq!(
        told["conversation"].as_str(),
        the_transcript(&sandbox)
            .file_stem()
            .and_then(|s| s.to_str())
    );
    let (_, untold) = asked_of(&page).expect("its page");
    assert_eq!(untold, Wanted::Nothing as u64);
    send_signal(wrapper, libc::SIGTERM).expect("ours");
    assert_eq!(child.0.wait().expect("it ends").code(), Some(143));
}

/// `Some` when the supervisor has slept and woken at least twenty times more: looks near the limit
/// come every 100 ms.
fn looked_since(wrapper: i32) -> Option<()> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static FIRST: AtomicU64 = AtomicU64::new(u64::MAX);
    let sleeps = proc_view::status(wrapper)
        .get("voluntary_ctxt_switches")?
        .trim()
        .parse()
        .ok()?;
    let first = FIRST.fetch_min(sleeps, Ordering::Relaxed).min(sleeps);
    (sleeps >= first + 20).then_some(())
}

#[test]
fn an_idle_session_between_90_and_100_percent_is_restarted_at_the_idle_moment() {
    let sandbox = Sandbox::new();
    let report = sandbox.file("report").display().to_string();
    let once = sandbox.file("once").display().to_string();
    // 180 of 192 MiB: past 90 %, and it stays there. The turn takes three seconds, then the client waits.
    let plan =
        format!("once={once};leak_mib=178;leak_mib_per_s=0;rounds=10;round_ms=300;report={report}");
    let mut pty = Pty::open().expect("a terminal");
    let mut child = pty
        .spawn(claude_safe(&sandbox, &plan, &["do it all"]))
        .expect("claude-safe");
    pty.expect("while the session was idle", PATIENCE);
    let starts = wait_until("the second start", PATIENCE, || {
        let starts = reports(&sandbox);
        (starts.len() == 2).then_some(starts)
    });
    let (first, second) = (words_of(&starts[0]), words_of(&starts[1]));
    assert_eq!(
        second,
        ["--resume".to_owned(), first[1].clone()],
        "nothing was cut off: no prompt"
    );
    let calls = tool_calls(&the_transcript(&sandbox));
    assert_eq!(
        calls.iter().filter(|(_, r)| r.is_some()).count(),
        10,
        "the turn was finished first"
    );
    send_signal(child.id() as i32, libc::SIGTERM).expect("ours");
    assert_eq!(child.wait().expect("it ends").code(), Some(143));
}

#[test]
fn a_killed_screen_client_leaves_a_sane_terminal_and_the_next_one_goes_on() {
    let sandbox = Sandbox::new();
    let once = sandbox.file("once").display().to_string();
    let plan =
        format!("once={once};leak_mib=250;leak_mib_per_s=400;ignore=15;rounds=200;round_ms=200");
    let mut pty = Pty::open().expect("a terminal");
    let mut child = pty
        .spawn(claude_safe(&sandbox, &plan, &["do it all"]))
        .expect("claude-safe");
    // 250 MiB are more than a quarter above the limit: it is not given the whole grace.
    pty.expect("\x1b[?1049l", PATIENCE);
    pty.expect("memory reached", PATIENCE);
    pty.expect("resuming conversation", PATIENCE);
    pty.expect("\x1b[?1049h", PATIENCE);
    assert_ne!(
        pty.modes().expect("modes"),
        Modes::SANE,
        "the next client has the terminal"
    );
    send_signal(child.id() as i32, libc::SIGKILL).expect("ours");
    let _ = child.wait();
}

#[test]
fn two_sessions_at_once_are_restarted_each_on_its_own() {
    let (one, two) = (Sandbox::new(), Sandbox::new());
    let plan = |sandbox: &Sandbox, answer: &str| {
        first_leaks(sandbox, &format!("rounds=12;round_ms=250;answer={answer}"))
    };
    // One runtime folder for both, as two sessions of one user have.
    let mut second = claude_safe(&two, &plan(&two, "SECOND"), &["-p", "do it"]);
    second.env("XDG_RUNTIME_DIR", one.run());
    let first = start(claude_safe(&one, &plan(&one, "FIRST"), &["-p", "do it"]));
    let second = start(second);
    for (child, answer, sandbox) in [(first, "FIRST", &one), (second, "SECOND", &two)] {
        let said = said(child.wait_with_output().expect("it ends"));
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert_eq!(said.stdout.matches(answer).count(), 1, "{}", said.stdout);
        assert_eq!(
            said.stderr.matches("resuming conversation").count(),
            1,
            "{}",
            said.stderr
        );
        the_transcript(sandbox);
    }
    assert_eq!(
        fs::read_dir(one.run().join("claude-safe"))
            .expect("the base")
            .count(),
        0
    );
}

/// The stand-in behind a script that does `trick` before a start with the option of our choice.
fn tricked(sandbox: &Sandbox, option: &str, trick: &str, plan: &str) -> Said {
    use std::os::unix::fs::PermissionsExt;
    let script = sandbox.file("claude");
    let fake = program("fake-claude");
    let text = format!(
        "#!/bin/sh\ncase $1 in {option}) {trick} ;; esac\nexec '{}' \"$@\"\n",
        fake.display()
    );
    fs::write(&script, text).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("our script");
    let mut command = claude_safe(sandbox, plan, &["-p", "do it"]);
    command.env("CLAUDE_SAFE_BIN", script);
    run(command)
}

#[test]
fn no_conversation_found_is_answered_by_a_start_from_anew() {
    let sandbox = Sandbox::new();
    let report = sandbox.file("report").display().to_string();
    let plan = first_leaks(&sandbox, &format!("rounds=12;round_ms=250;report={report}"));
    let gone = r#"rm -f "$HOME"/.claude/projects/*/"$2".jsonl"#;
    let said = tricked(&sandbox, "--resume", gone, &plan);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stderr.contains("No conversation found"),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("begins anew"), "{}", said.stderr);
    let starts: Vec<_> = reports(&sandbox).iter().map(words_of).collect();
    assert_eq!(starts.len(), 3, "{starts:?}");
    assert_eq!(starts[1][0], "--resume");
    assert_eq!(starts[2], ["--session-id", &starts[1][1], "-p", "do it"]);
}

#[test]
fn already_in_use_is_answered_by_a_resume() {
    let sandbox = Sandbox::new();
    let report = sandbox.file("report").display().to_string();
    let plan = first_leaks(&sandbox, &format!("rounds=12;round_ms=250;report={report}"));
    // The client keeps its transcripts where we don't look: we take the conversation for unsaved.
    let elsewhere = r#"export CLAUDE_CONFIG_DIR="$HOME/elsewhere""#;
    let said = tricked(&sandbox, "*", elsewhere, &plan);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stderr.contains("already in use"), "{}", said.stderr);
    assert_eq!(
        said.stdout.matches("ALL DONE").count(),
        1,
        "{}",
        said.stdout
    );
    let starts: Vec<_> = reports(&sandbox).iter().map(words_of).collect();
    assert_eq!(starts.len(), 3, "{starts:?}");
    assert_eq!(starts[1][..2], starts[0][..2]);
    assert_eq!(
        starts[2][..2],
        ["--resume".to_owned(), starts[0][1].clone()]
    );
}
