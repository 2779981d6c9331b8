//! Tier 0 from outside: the kill order, on any machine. What needs systemd or a cgroup of one's own is tested in a
//! machine that has them (tests/vm).

use claude_safe_tests::artifacts::{artifacts, program};
use claude_safe_tests::proc_view;
use claude_safe_tests::sandbox::Sandbox;
use claude_safe_tests::wait::wait_until;
use std::process::{Child, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// A session whose one tool runs for some seconds.
fn session(sandbox: &Sandbox, settings: &[(&str, &str)]) -> Child {
    let mut command = sandbox.command(&artifacts().claude_safe);
    command
        .args(["-p", "do it"])
        .env("CLAUDE_SAFE_BIN", program("fake-claude"))
        .env("FAKE_CLAUDE", "rounds=1;round_ms=8000")
        .env("CLAUDE_WATCHDOG_INTERVAL", "1")
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("claude-safe starts")
}

fn score(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok()?;
    text.trim().parse().ok()
}

/// The client and its tool, once both are there.
fn client_and_tool(wrapper: i32) -> (i32, i32) {
    wait_until("a client with a tool", LIMIT, || {
        let has_tool = |client: &i32| proc_view::children(*client).first().copied();
        let clients = proc_view::children(wrapper);
        clients
            .iter()
            .find_map(|client| Some((*client, has_tool(client)?)))
    })
}

fn finish(mut session: Child) {
    let pid = session.id().cast_signed();
    claude_safe_tests::pty::send_signal(pid, libc::SIGTERM).expect("it runs");
    session.wait().expect("it ends");
}

#[test]
fn the_kernel_is_told_to_take_a_tool_first_and_the_wrapper_last() {
    let sandbox = Sandbox::new();
    let session = session(&sandbox, &[]);
    let wrapper = session.id().cast_signed();
    let own = score(wrapper).expect("it runs");
    let (client, tool) = client_and_tool(wrapper);
    let of_client = (own + 200).clamp(200, 1000);
    wait_until("the client's place", LIMIT, || {
        (score(client)? == of_client).then_some(())
    });
    let of_tool = (of_client + 500).min(1000);
    wait_until("the tool's place", LIMIT, || {
        (score(tool)? == of_tool).then_some(())
    });
    assert_eq!(score(wrapper), Some(own), "the wrapper stays where it was");
    finish(session);
}

#[test]
fn switched_off_the_order_stays_the_machines() {
    let sandbox = Sandbox::new();
    let session = session(&sandbox, &[("CLAUDE_SAFE_CONTAIN", "off")]);
    let wrapper = session.id().cast_signed();
    let own = score(wrapper).expect("it runs");
    let (client, tool) = client_and_tool(wrapper);
    // Two looks later, as the notes of the session tell.
    let notes = sandbox.run().join("claude-safe");
    wait_until("the state of the session", LIMIT, || {
        let folder = std::fs::read_dir(&notes).ok()?.flatten().next()?.path();
        let text = std::fs::read_to_string(folder.join("session")).ok()?;
        text.contains("contained=switched off by CLAUDE_SAFE_CONTAIN")
            .then_some(())
    });
    assert_eq!((score(client), score(tool)), (Some(own), Some(own)));
    finish(session);
}

#[test]
fn status_tells_where_a_session_is_and_what_tier_1_does() {
    let sandbox = Sandbox::new();
    let session = session(&sandbox, &[]);
    let told = wait_until("a session that says where it is", LIMIT, || {
        let mut status = sandbox.command(&artifacts().claude_safectl);
        let output = status.args(["status", "--json"]).output().ok()?;
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let session = told["sessions"].get(0)?.clone();
        (session["contained"].is_string() && session["reclaim"].is_string()).then_some(session)
    });
    // In a group it has the group's folder, and only then.
    let is_inside = ["scope in a slice of its own", "own cgroup"]
        .contains(&told["contained"].as_str().unwrap_or(""));
    assert_eq!(told["group_folder"].is_string(), is_inside, "{told}");
    finish(session);
}
