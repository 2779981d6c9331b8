//! The main job on the real client, offline: a mock of the API on loopback, a network namespace of
//! its own, a client that is made to leak. Each test runs for the oldest and the newest version that we
//! promise to work with, one after the other: two at once are too much for a small machine.

use claude_safe_tests::clients::{
    Leak, distinct, leak_options, prepare_home, set_up, tool_calls, transcripts,
};
use claude_safe_tests::mock::Scenario;
use claude_safe_tests::{
    Isolated, Pty, Sandbox, artifacts, proc_view, real_client, skip, wait_until,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

const OLDEST: &str = "2.1.110";
const NEWEST: &str = "2.1.329";

/// Above what a healthy client takes (150 to 400 MiB), low enough for a small machine.
const LIMIT_MIB: u32 = 900;

/// A minute: a client that starts on a busy machine takes seconds.
const PATIENCE: Duration = Duration::from_secs(90);

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A sandbox with a mock, and the client in it.
struct Stage {
    mock: Isolated,
    client: PathBuf,
    sandbox: Sandbox,
    _turn: MutexGuard<'static, ()>,
}

/// Makes the stage, or leaves the test with the reason why not.
macro_rules! stage {
    ($version:expr, $scenario:expr) => {{
        let turn = one_at_a_time();
        let Some(client) = real_client($version) else {
            skip!(
                "client {} is not here: cargo fetch-client {}",
                $version,
                $version
            );
        };
        let sandbox = Sandbox::new();
        prepare_home(&sandbox);
        match Isolated::start(&sandbox, &$scenario, false) {
            Ok(mock) => Stage {
                mock,
                client,
                sandbox,
                _turn: turn,
            },
            Err(why) => skip!("no network namespace: {why}"),
        }
    }};
}

impl Stage {
    /// `claude-safe ARGUMENTS` with the real client behind it.
    fn claude_safe(&self, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.command(&artifacts().claude_safe);
        command
            .args(arguments)
            .env("CLAUDE_SAFE_BIN", &self.client)
            .env("CLAUDE_WATCHDOG_THRESHOLD_MB", LIMIT_MIB.to_string());
        set_up(&mut command, &self.mock).expect("the mock lives");
        command
    }

    /// The same in a client of which the first one leaks.
    fn leaking(&self, arguments: &[&str], mib_per_s: u32) -> Command {
        let leak = Leak {
            mib_per_s,
            cap_mib: 2 * LIMIT_MIB,
            first_clients: Some(1),
            after: Some(self.sandbox.work().join("rounds.log")),
        };
        let mut command = self.claude_safe(arguments);
        command.env("BUN_OPTIONS", leak_options(&self.sandbox, &leak));
        command
    }

    fn transcript(&self) -> PathBuf {
        transcripts(&self.sandbox.home())
            .pop()
            .expect("a transcript")
    }
}

/// Thirty rounds that each leave a line, and take a while.
fn thirty_rounds() -> Scenario {
    Scenario {
        rounds: 30,
        command: "echo round-{n} >> rounds.log; sleep 0.2".into(),
        final_text: "ALL DONE 7f3a".into(),
        ..Scenario::default()
    }
}

fn text(output: &Output) -> (String, String) {
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Every round has exactly one call that was completed, and the work of each was done.
fn assert_each_round_completed_once(stage: &Stage, rounds: u32) {
    let mut completed: BTreeMap<u32, u32> = BTreeMap::new();
    for (id, result) in distinct(tool_calls(&stage.transcript())) {
        if result.is_some_and(|r| !r.contains("interrupted")) {
            *completed.entry(round_of(&id)).or_default() += 1;
        }
    }
    let expected: BTreeMap<u32, u32> = (1..=rounds).map(|round| (round, 1)).collect();
    assert_eq!(completed, expected, "completed calls by round");
    let log = fs::read_to_string(stage.sandbox.work().join("rounds.log")).expect("rounds.log");
    for round in 1..=rounds {
        assert!(
            log.lines().any(|l| l == format!("round-{round}")),
            "round {round} left no line"
        );
    }
}

/// `toolu_cs_r7_…` is of round 7.
fn round_of(id: &str) -> u32 {
    let digits: String = id
        .trim_start_matches("toolu_cs_r")
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits
        .parse()
        .unwrap_or_else(|_| panic!("not an id of the mock: {id}"))
}

fn restarts(stderr: &str) -> usize {
    stderr
        .matches("restarting claude and resuming conversation")
        .count()
}

fn print_mode_is_restarted_and_finishes(version: &str, format: &str) {
    let stage = stage!(version, thirty_rounds());
    let output = stage
        .leaking(
            &[
                "-p",
                "do the rounds",
                "--output-format",
                format,
                "--dangerously-skip-permissions",
            ],
            250,
        )
        .output()
        .expect("claude-safe");
    let (stdout, stderr) = text(&output);
    assert_eq!(
        output.status.code(),
        Some(0),
        "stdout: {stdout}\nstderr: {stderr}"
    );
    assert_eq!(restarts(&stderr), 1, "{stderr}");
    assert!(
        stderr.contains("memory of this session is at"),
        "no warning: {stderr}"
    );
    assert_eq!(stdout.matches("ALL DONE 7f3a").count(), 1, "{stdout}");
    if format == "json" {
        let result: serde_json::Value =
            serde_json::from_str(stdout.trim()).expect("one JSON result");
        let transcript = stage.transcript();
        assert_eq!(
            result["session_id"].as_str(),
            transcript.file_stem().and_then(|s| s.to_str())
        );
    }
    assert_each_round_completed_once(&stage, 30);
    assert_nothing_is_left(&stage);
}

/// No process of the session, no state folder.
fn assert_nothing_is_left(stage: &Stage) {
    let sessions = stage.sandbox.run().join("claude-safe");
    assert_eq!(
        fs::read_dir(&sessions).map_or(0, Iterator::count),
        0,
        "{}",
        sessions.display()
    );
}

#[test]
fn oldest_print_text_is_restarted_and_finishes() {
    print_mode_is_restarted_and_finishes(OLDEST, "text");
}

#[test]
fn newest_print_text_is_restarted_and_finishes() {
    print_mode_is_restarted_and_finishes(NEWEST, "text");
}

#[test]
fn oldest_print_json_is_restarted_and_finishes() {
    print_mode_is_restarted_and_finishes(OLDEST, "json");
}

#[test]
fn newest_print_json_is_restarted_and_finishes() {
    print_mode_is_restarted_and_finishes(NEWEST, "json");
}

fn tui_is_restarted_and_finishes(version: &str) {
    let stage = stage!(version, thirty_rounds());
    let mut pty = Pty::open().expect("a terminal");
    pty.resize(120, 40).expect("a size");
    let before = pty.modes().expect("modes");
    let mut child = pty
        .spawn(stage.leaking(&["--dangerously-skip-permissions", "do the rounds"], 250))
        .expect("claude-safe");
    pty.expect("restarting claude and resuming conversation", PATIENCE);
    pty.expect("ALL DONE 7f3a", PATIENCE);
    // Both versions write the last entry and then wait for the user.
    wait_until("the turn's end in the transcript", PATIENCE, || {
        let text = fs::read_to_string(stage.transcript()).ok()?;
        text.contains("ALL DONE 7f3a").then_some(())
    });
    leave(&pty);
    let status = child.wait().expect("claude-safe ends");
    assert_eq!(status.code(), Some(0), "{:?}", pty.text());
    assert_eq!(pty.modes().expect("modes"), before);
    assert_each_round_completed_once(&stage, 30);
    assert_nothing_is_left(&stage);
}

/// Types `/exit` into the prompt; the menu that opens meanwhile takes the Return.
fn leave(pty: &Pty) {
    pty.write(b"/exit").expect("typed");
    pty.write(b"\r").expect("typed");
}

#[test]
fn oldest_tui_is_restarted_and_finishes() {
    tui_is_restarted_and_finishes(OLDEST);
}

#[test]
fn newest_tui_is_restarted_and_finishes() {
    tui_is_restarted_and_finishes(NEWEST);
}

/// The client's pid: the child of the wrapper that executes it.
fn client_pid(wrapper: i32, client: &Path) -> i32 {
    wait_until("the client's process", PATIENCE, || {
        proc_view::children(wrapper)
            .into_iter()
            .find(|pid| proc_view::exe(*pid).as_deref() == Some(client))
    })
}

fn a_kill_that_is_not_ours_is_reported(version: &str) {
    let scenario = Scenario {
        command: "echo round-{n} >> rounds.log; sleep 1".into(),
        ..thirty_rounds()
    };
    let stage = stage!(version, scenario);
    let mut pty = Pty::open().expect("a terminal");
    let before = pty.modes().expect("modes");
    let mut child = pty
        .spawn(stage.claude_safe(&["--dangerously-skip-permissions", "do the rounds"]))
        .expect("claude-safe");
    wait_until("the first round", PATIENCE, || {
        stage
            .sandbox
            .work()
            .join("rounds.log")
            .exists()
            .then_some(())
    });
    assert_ne!(
        pty.modes().expect("modes"),
        before,
        "the client has the terminal"
    );
    let client = fs::canonicalize(&stage.client).expect("the client");
    let pid = client_pid(child.id() as i32, &client);
    claude_safe_tests::pty::send_signal(pid, libc::SIGKILL).expect("ours to kill");
    assert_eq!(child.wait().expect("ends").code(), Some(137));
    pty.expect("claude was ended by SIGKILL, not by claude-safe", PATIENCE);
    assert!(!pty.text().contains("restarting claude"));
    assert_eq!(pty.modes().expect("modes"), before);
}

#[test]
fn oldest_killed_by_somebody_is_reported_and_leaves_a_sane_terminal() {
    a_kill_that_is_not_ours_is_reported(OLDEST);
}

#[test]
fn newest_killed_by_somebody_is_reported_and_leaves_a_sane_terminal() {
    a_kill_that_is_not_ours_is_reported(NEWEST);
}

/// Killed in mid-turn, as the kernel does it when memory runs out, at a time when a restart was due.
fn a_kill_near_the_limit_is_survived(version: &str) {
    let scenario = Scenario {
        rounds: 24,
        command: "echo round-{n} >> rounds.log; sleep 0.6".into(),
        ..thirty_rounds()
    };
    let stage = stage!(version, scenario);
    let mut command = stage.leaking(
        &["-p", "do the rounds", "--dangerously-skip-permissions"],
        60,
    );
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("claude-safe");
    let client = fs::canonicalize(&stage.client).expect("the client");
    let pid = client_pid(child.id() as i32, &client);
    // Past 90 % a restart is due; the turn is not over, so it waits for 100 %.
    wait_until("the client at 94 % of the limit", PATIENCE, || {
        let kib = proc_view::status_kib(pid, "RssAnon").expect("it was killed too late");
        (kib > u64::from(LIMIT_MIB) * 1024 / 100 * 94).then_some(())
    });
    claude_safe_tests::pty::send_signal(pid, libc::SIGKILL).expect("ours to kill");
    let output = child.wait_with_output().expect("claude-safe");
    let (stdout, stderr) = text(&output);
    assert_eq!(
        output.status.code(),
        Some(0),
        "stdout: {stdout}\nstderr: {stderr}"
    );
    assert!(stderr.contains("killed claude (SIGKILL)"), "{stderr}");
    assert_eq!(restarts(&stderr), 1, "{stderr}");
    assert_eq!(stdout.matches("ALL DONE 7f3a").count(), 1, "{stdout}");
    assert_each_round_completed_once(&stage, 24);
}

#[test]
fn oldest_killed_near_the_limit_is_resumed() {
    a_kill_near_the_limit_is_survived(OLDEST);
}

#[test]
fn newest_killed_near_the_limit_is_resumed() {
    a_kill_near_the_limit_is_survived(NEWEST);
}

/// After a `/clear` the conversation has another id: that one is resumed, at the first idle moment.
fn a_clear_is_followed(version: &str) {
    let scenario = Scenario {
        rounds: 2,
        command: "echo round-{n} >> rounds.log".into(),
        final_text: "ALL DONE 7f3a".into(),
        ..Scenario::default()
    };
    let stage = stage!(version, scenario);
    let mut pty = Pty::open().expect("a terminal");
    pty.resize(120, 40).expect("a size");
    let mut child = pty
        .spawn(stage.leaking(
            &["--dangerously-skip-permissions", "do the first rounds"],
            40,
        ))
        .expect("claude-safe");
    let files = || transcripts(&stage.sandbox.home());
    let finished = |count: usize| {
        wait_until("a finished conversation", PATIENCE, || {
            let done =
                |f: &PathBuf| fs::read_to_string(f).is_ok_and(|t| t.contains("ALL DONE 7f3a"));
            (files().iter().filter(|f| done(f)).count() == count).then_some(())
        });
    };
    finished(1);
    let first = files();
    pty.write(b"/clear").expect("typed");
    pty.write(b"\r").expect("typed");
    let second = wait_until("the transcript of the cleared session", PATIENCE, || {
        files().into_iter().find(|f| !first.contains(f))
    });
    if version == OLDEST {
        // It does not keep its own file up to date: the hook of our plugin tells.
        let id = second.file_stem().and_then(|s| s.to_str());
        wait_until("the hook's word", PATIENCE, || {
            let sessions = fs::read_dir(stage.sandbox.run().join("claude-safe")).ok()?;
            let mut told = sessions.flatten().map(|s| s.path().join("conversation"));
            told.find(|told| fs::read_to_string(told).ok().as_deref() == id)
        });
    }
    pty.write(b"do the second rounds").expect("typed");
    pty.write(b"\r").expect("typed");
    finished(2);
    let id = second
        .file_stem()
        .and_then(|s| s.to_str())
        .expect("a uuid")
        .to_owned();
    pty.expect(&format!("resuming conversation {id}"), PATIENCE);
    assert!(
        pty.text().contains("while the session was idle"),
        "{:?}",
        pty.text()
    );
    // The resumed screen shows what was said after the /clear.
    pty.expect("do the second rounds", PATIENCE);
    leave(&pty);
    assert_eq!(
        child.wait().expect("ends").code(),
        Some(0),
        "{:?}",
        pty.text()
    );
}

#[test]
fn oldest_clear_is_followed() {
    a_clear_is_followed(OLDEST);
}

#[test]
fn newest_clear_is_followed() {
    a_clear_is_followed(NEWEST);
}

fn every_way_of_use_is_as_without_us(version: &str) {
    let scenario = Scenario {
        rounds: 1,
        command: "env > tool.env".into(),
        final_text: "ALL DONE 7f3a".into(),
        ..Scenario::default()
    };
    let stage = stage!(version, scenario);
    let bare = |arguments: &[&str]| {
        let mut command = stage.sandbox.command(&stage.client);
        command.args(arguments);
        set_up(&mut command, &stage.mock).expect("the mock lives");
        command
    };
    // The doctor of 2.1.110 waits for a server that is not there, with us and without.
    let mut ways = vec![
        vec!["--version"],
        vec!["mcp", "list"],
        vec!["--nonsense"],
        vec!["mcp", "--help"],
    ];
    if version != OLDEST {
        ways.push(vec!["doctor"]);
    }
    for words in &ways {
        let with = stage.claude_safe(words).output().expect("claude-safe");
        let without = bare(words).output().expect("claude");
        assert_eq!(text(&with), text(&without), "{words:?}");
        assert_eq!(with.status.code(), without.status.code(), "{words:?}");
    }
    let version_line = stage
        .claude_safe(&["--version"])
        .output()
        .expect("claude-safe");
    assert_eq!(
        text(&version_line).0.trim(),
        format!("{version} (Claude Code)")
    );

    // The prompt through stdin, and the environment of a tool.
    let piped = |mut command: Command| {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut stdin, b"do the round\n").expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(text(&output).0.trim(), "ALL DONE 7f3a");
        let tool = fs::read_to_string(stage.sandbox.work().join("tool.env")).expect("tool.env");
        let mut names: Vec<String> = tool
            .lines()
            .filter_map(|l| Some(l.split_once('=')?.0.to_owned()))
            .collect();
        names.sort();
        assert!(!tool.contains("libclaude_guard"), "{tool}");
        names
    };
    let mut with = stage.claude_safe(&["-p", "--dangerously-skip-permissions"]);
    with.env("LD_PRELOAD", "libc.so.6");
    let mut without = bare(&["-p", "--dangerously-skip-permissions"]);
    without.env("LD_PRELOAD", "libc.so.6");
    let (with, without) = (piped(with), piped(without));
    // What the user set for claude-safe is his, and stays.
    let ours = ["CLAUDE_SAFE_BIN", "CLAUDE_WATCHDOG_THRESHOLD_MB"];
    let with: Vec<&String> = with
        .iter()
        .filter(|n| !ours.contains(&n.as_str()))
        .collect();
    assert_eq!(with, without.iter().collect::<Vec<_>>());
}

#[test]
fn oldest_is_used_as_without_us() {
    every_way_of_use_is_as_without_us(OLDEST);
}

#[test]
fn newest_is_used_as_without_us() {
    every_way_of_use_is_as_without_us(NEWEST);
}

/// The plugin that packages install: its format, and its word of a conversation that nobody else tells
/// us of, since the wrapper adds no hook of its own where the client keeps its file up to date.
fn the_installed_plugin_is_taken(version: &str) {
    let scenario = Scenario {
        rounds: 1,
        command: "cat \"$XDG_RUNTIME_DIR\"/claude-safe/*/conversation > told".into(),
        final_text: "ALL DONE 7f3a".into(),
        ..Scenario::default()
    };
    let stage = stage!(version, scenario);
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wrapper/plugin");
    let plugin = fs::canonicalize(plugin)
        .expect("the plugin")
        .display()
        .to_string();
    let judged = stage.claude_safe(&["plugin", "validate", &plugin]);
    let judged = { judged }.output().expect("claude-safe");
    assert_eq!(judged.status.code(), Some(0), "{:?}", text(&judged));

    // Its hook finds the program on PATH here.
    let bin = artifacts()
        .claude_safectl
        .parent()
        .expect("a folder")
        .display()
        .to_string();
    let words = [
        "-p",
        "do it",
        "--plugin-dir",
        &plugin,
        "--dangerously-skip-permissions",
    ];
    let mut command = stage.claude_safe(&words);
    command.env("PATH", format!("{bin}:{}", stage.sandbox.path()));
    let output = command.output().expect("claude-safe");
    assert_eq!(
        text(&output).0.trim(),
        "ALL DONE 7f3a",
        "{:?}",
        text(&output)
    );
    let told = fs::read_to_string(stage.sandbox.work().join("told")).expect("what the hook told");
    let transcript = stage.transcript();
    assert_eq!(
        Some(told.as_str()),
        transcript.file_stem().and_then(|stem| stem.to_str())
    );
}

#[test]
fn oldest_takes_the_installed_plugin() {
    the_installed_plugin_is_taken(OLDEST);
}

#[test]
fn newest_takes_the_installed_plugin() {
    the_installed_plugin_is_taken(NEWEST);
}
