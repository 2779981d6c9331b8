//! `cargo demo`: the main job, to be watched. A stand-in for claude leaks 120 MiB/s while it works
//! through twelve tool calls; claude-safe, at a limit of 512 MiB, warns, ends it, starts it again and resumes the
//! conversation, which is then finished. All in a home and temporary folder of its own, which are removed.

use claude_safe_tests::artifacts::build_program;
use claude_safe_tests::{Sandbox, artifacts, program};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Instant;

const LIMIT_MIB: u32 = 512;
const ROUNDS: usize = 12;

/// What must be seen, in this order.
const ACTS: [(&str, &str); 4] = [
    ("memory of this session is at", "warned"),
    ("memory reached", "ended"),
    ("resuming conversation", "restarted and resumed"),
    ("THE ANSWER", "finished"),
];

fn main() -> ExitCode {
    say("building claude-safe, its guard, and the stand-in for claude ...");
    build_program("fake-claude");
    let artifacts = artifacts();
    let sandbox = Sandbox::new();
    let once = sandbox.file("once").display().to_string();
    let mut command = sandbox.command(&artifacts.claude_safe);
    command
        .args(["-p", "work through the twelve steps"])
        .env("CLAUDE_SAFE_BIN", program("fake-claude"))
        .env("CLAUDE_WATCHDOG_THRESHOLD_MB", LIMIT_MIB.to_string())
        .env(
            "FAKE_CLAUDE",
            format!("once={once};leak_mib=700;leak_mib_per_s=120;rounds={ROUNDS};round_ms=500;answer=THE ANSWER"),
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    say(&format!(
        "$ CLAUDE_WATCHDOG_THRESHOLD_MB={LIMIT_MIB} claude-safe -p 'work through the twelve steps'"
    ));
    let began = Instant::now();
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(failure) => {
            say(&format!("claude-safe can't be started: {failure}"));
            return ExitCode::FAILURE;
        }
    };
    let (lines, seen) = mpsc::channel();
    let streams: [(&str, Box<dyn Read + Send>); 2] = [
        ("stdout", Box::new(child.stdout.take().expect("a pipe"))),
        ("stderr", Box::new(child.stderr.take().expect("a pipe"))),
    ];
    for (name, stream) in streams {
        let lines = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let _ = lines.send((name, line));
            }
        });
    }
    drop(lines);
    let mut acts = ACTS.iter().peekable();
    for (stream, line) in seen {
        let at = began.elapsed().as_secs_f32();
        say(&format!("{at:5.1} s  {stream}: {line}"));
        while acts.next_if(|(text, _)| line.contains(text)).is_some() {}
    }
    let status = child.wait();
    let completed = completed_calls(&sandbox);
    say(&format!(
        "the transcript holds {completed} completed tool calls of {ROUNDS}, in one conversation"
    ));
    if let Some((_, missing)) = acts.next() {
        say(&format!("FAILED: the session was not {missing}"));
        return ExitCode::FAILURE;
    }
    if !status.is_ok_and(|s| s.success()) || completed != ROUNDS {
        say("FAILED: the session did not finish its work");
        return ExitCode::FAILURE;
    }
    say("warned, ended, restarted, resumed, finished");
    ExitCode::SUCCESS
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Tool results in the session's only transcript.
fn completed_calls(sandbox: &Sandbox) -> usize {
    let projects = std::fs::read_dir(sandbox.home().join(".claude/projects"));
    let files = projects.into_iter().flatten().flatten();
    let transcripts: Vec<_> = files
        .filter_map(|p| std::fs::read_dir(p.path()).ok())
        .flatten()
        .flatten()
        .collect();
    let [transcript] = transcripts.as_slice() else {
        return 0;
    };
    let text = std::fs::read_to_string(transcript.path()).unwrap_or_default();
    let is_result = |line: &&str| {
        serde_json::from_str::<serde_json::Value>(line).is_ok_and(|entry| {
            let blocks = entry["message"]["content"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            blocks
                .iter()
                .any(|b| b["type"] == "tool_result" && b["is_error"] != true)
        })
    };
    text.lines().filter(is_result).count()
}
