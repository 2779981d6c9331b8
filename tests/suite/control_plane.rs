//! `claude-safectl status`, `top` and `report` from outside: on running sessions of the stand-in, on sessions that have
//! ended, and on a history that somebody has tampered with. Each test has a home and a state folder of its own.

use claude_safe_tests::pty::send_signal;
use claude_safe_tests::{
    KillOnDrop, Pty, Sandbox, artifacts, proc_view, program, skip, wait_until,
};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(40);

/// What must never be told.
const SECRET: &str = "hunter2-secret-token";

/// A running session of the stand-in, which leaks a little and waits.
struct Session {
    child: KillOnDrop,
    wrapper: i32,
    client: i32,
}

fn claude_safe(sandbox: &Sandbox, plan: &str) -> Command {
    let mut command = sandbox.command(&artifacts().claude_safe);
    command
        .args(["-p", SECRET])
        .env("CLAUDE_SAFE_BIN", program("fake-claude"))
        .env("CLAUDE_WATCHDOG_THRESHOLD_MB", "1024")
        .env("CLAUDE_WATCHDOG_INTERVAL", "1")
        .env("ANTHROPIC_API_KEY", SECRET)
        .env("FAKE_CLAUDE", plan)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn client_of(wrapper: i32) -> i32 {
    let fake = program("fake-claude");
    wait_until("the client", SOON, || {
        let mut children = proc_view::children(wrapper).into_iter();
        children.find(|pid| proc_view::exe(*pid).as_ref() == Some(&fake))
    })
}

impl Session {
    fn start(sandbox: &Sandbox) -> Session {
        let plan = "rounds=1;round_ms=50000;leak_mib=100";
        let child = KillOnDrop(claude_safe(sandbox, plan).spawn().unwrap());
        let wrapper = child.0.id().cast_signed();
        Session {
            client: client_of(wrapper),
            child,
            wrapper,
        }
    }

    fn history(&self, sandbox: &Sandbox) -> PathBuf {
        let start = proc_view::stat(self.wrapper).unwrap().start_ticks;
        folder(sandbox).join(format!("{}.{start}", self.wrapper))
    }

    /// With a history on disk.
    fn start_remembered(sandbox: &Sandbox) -> Session {
        let session = Session::start(sandbox);
        let file = session.history(sandbox);
        wait_until("its history", SOON, || file.exists().then_some(()));
        session
    }

    fn end(self) {
        end(self.child);
    }
}

/// Politely: a client whose claude-safe is killed would stay for a while.
fn end(mut child: KillOnDrop) {
    send_signal(child.0.id().cast_signed(), libc::SIGTERM).unwrap();
    wait_until("its end", SOON, || child.0.try_wait().unwrap());
}

fn folder(sandbox: &Sandbox) -> PathBuf {
    sandbox.state().join("claude-safe/history")
}

fn control(sandbox: &Sandbox, words: &[&str]) -> Command {
    let mut command = sandbox.command(&artifacts().claude_safectl);
    command.args(words);
    command
}

fn ask(sandbox: &Sandbox, words: &[&str]) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = control(sandbox, words).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&stderr), "", "{words:?}");
    (status.code(), String::from_utf8(stdout).unwrap())
}

/// Is it XML? As an independent parser sees it.
fn assert_xml(text: &str) {
    let script = "import sys, xml.dom.minidom as m; m.parseString(sys.stdin.buffer.read())";
    let mut parser = Command::new("python3");
    let child = parser.args(["-c", script]).stdin(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        // The unit tests of the picture have a checker of their own.
        return;
    };
    use std::io::Write;
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
}

#[test]
fn a_running_session_is_shown_with_its_curve_by_status_and_as_metrics() {
    let sandbox = Sandbox::new();
    let session = Session::start_remembered(&sandbox);
    let (code, text) = ask(&sandbox, &["status"]);
    assert_eq!(code, Some(0), "{text}");
    let title = format!(
        "claude {} (claude-safe {}), for ",
        session.client, session.wrapper
    );
    assert!(text.starts_with(&title), "{text}");
    for said in [
        "\n  memory ",
        "\n  limits ",
        "warning 768 MiB, tier 2 1024 MiB",
        " |",
        "-60 min",
    ] {
        assert!(text.contains(said), "{said} in {text}");
    }
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    assert!(text.is_ascii(), "no terminal, no blocks: {text}");
    let (code, told) = ask(&sandbox, &["status", "--json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    let told = &told["sessions"][0];
    assert_eq!((code, &told["no_history"]), (Some(0), &Value::Null));
    let minutes = told["last_hour_bytes"].as_array().unwrap();
    assert!(minutes[59].as_u64().unwrap() > 90 << 20, "{minutes:?}");
    assert_eq!(minutes[0], Value::Null, "there was no session an hour ago");

    let (code, metrics) = ask(&sandbox, &["status", "--prom"]);
    let line = format!(
        "claude_safe_session_memory_bytes{{wrapper=\"{}\",client=\"{}\"}} ",
        session.wrapper, session.client
    );
    let bytes = metrics.lines().find_map(|told| told.strip_prefix(&line));
    assert!(
        bytes.unwrap().parse::<u64>().unwrap() > 90 << 20,
        "{metrics}"
    );
    assert_eq!(code, Some(0));
    let file = sandbox.file("claude.prom");
    let (code, said) = ask(&sandbox, &["status", "--prom", file.to_str().unwrap()]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let written = fs::read_to_string(&file).unwrap();
    assert_eq!(written.lines().count(), metrics.lines().count());
    let (code, said) = ask(&sandbox, &["status", "--prom", "/nowhere/x.prom"]);
    assert_eq!(code, Some(3), "{said}");
    session.end();
}

#[test]
fn a_report_tells_who_grew_and_what_is_in_force_and_no_secret() {
    let sandbox = Sandbox::new();
    let session = Session::start_remembered(&sandbox);
    let home = sandbox.home();
    let home = home.to_str().unwrap();
    let log = format!("{home}/guard.log");
    let about = |pid: &str| {
        let mut command = control(&sandbox, &["report", pid]);
        command.env("CLAUDE_MALLOC_GUARD_LOG", &log);
        command.env("CLAUDE_SAFE_BIN", program("fake-claude"));
        command.env("ANTHROPIC_API_KEY", SECRET);
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (code, text) = about(&session.client.to_string());
    assert_eq!(code, Some(0), "{text}");
    for said in [
        "# claude-safe incident report\n",
        &format!(
            "\n## Claude {} (claude-safe {}), for ",
            session.client, session.wrapper
        ),
        "\n  kernel       Linux ",
        "\n## Settings that are not the default\n",
        "CLAUDE_MALLOC_GUARD_LOG",
        "~/guard.log",
        "\n### The last hour\n\n```\n",
        "\n### Who takes how much\n",
        "grown in 2 s\n",
        "fake-claude",
        "\n### Where the client's memory is\n",
        "\n### What happened\n",
        "\n## In force on this machine\n\ntier 0 contain\n",
        "\ntier 2 restart\n  in force:",
    ] {
        assert!(text.contains(said), "{said:?} in {text}");
    }
    assert!(!text.contains(SECRET) && !text.contains(home), "{text}");
    let cmdline = proc_view::cmdline(session.client).join(" ");
    assert!(cmdline.contains(SECRET), "the premise: {cmdline}");

    // After its end the same pid leads to what was kept. A short life is kept only if something happened.
    let picture = sandbox.file("x.svg");
    let words = ["report", "--svg", picture.to_str().unwrap()];
    assert_eq!(ask(&sandbox, &words), (Some(0), String::new()));
    let drawn = fs::read_to_string(&picture).unwrap();
    assert_xml(&drawn);
    for said in [
        "<svg ",
        "memory of the session",
        "above the picture: tier 1 512 MiB, warning 768 MiB, tier 2 1024 MiB",
        "polyline",
    ] {
        assert!(drawn.contains(said), "{said} in {drawn}");
    }
    let (code, text) = ask(&sandbox, &["report", "1"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("no session of yours, running or remembered, has the process 1\n"));
    session.end();
}

#[test]
fn a_session_that_was_restarted_is_told_after_its_end() {
    let sandbox = Sandbox::new();
    let once = sandbox.file("once").display().to_string();
    let plan = format!("once={once};leak_mib=1200;leak_mib_per_s=200;rounds=6;round_ms=1500");
    let mut command = claude_safe(&sandbox, &plan);
    let mut child = KillOnDrop(
        command
            .env("CLAUDE_WATCHDOG_THRESHOLD_MB", "512")
            .spawn()
            .unwrap(),
    );
    let wrapper = child.0.id().cast_signed();
    wait_until("its end", 2 * SOON, || child.0.try_wait().unwrap());
    let (code, text) = ask(&sandbox, &["report", &wrapper.to_string()]);
    assert_eq!(code, Some(0), "{text}");
    for said in [
        &format!(" (claude-safe {wrapper}), ended\n"),
        "\n  restarts   1\n",
        "warning 384 MiB, tier 2 512 MiB\n",
        "\n### Its end\n",
        "  warned ",
        "  ended ",
        "  restarted ",
    ] {
        assert!(text.contains(said), "{said:?} in {text}");
    }
    assert!(!text.contains(SECRET), "{text}");
    let (_, drawn) = ask(&sandbox, &["report", "--svg", "-"]);
    assert_xml(&drawn);
    assert!(
        drawn.contains(">restarted<") || drawn.contains(">warned<"),
        "{drawn}"
    );
    assert!(drawn.matches("class=\"event\"").count() >= 2, "{drawn}");
    let incidents = fs::read_to_string(folder(&sandbox).join("incidents")).unwrap();
    assert!(!incidents.contains(SECRET), "{incidents}");
}

#[test]
fn a_history_that_is_damaged_foreign_or_a_link_is_refused_in_one_line() {
    let sandbox = Sandbox::new();
    let session = Session::start_remembered(&sandbox);
    let file = session.history(&sandbox);
    let elsewhere = sandbox.file("elsewhere");
    let refused = |why: &str| {
        let (code, text) = ask(&sandbox, &["status"]);
        assert_eq!(code, Some(1), "{text}");
        let line = format!("{} is not used: {why}", file.display());
        assert!(text.contains(&line), "{line} in {text}");
        assert!(text.starts_with("claude "), "the rest is told: {text}");
        let (code, text) = ask(&sandbox, &["top"]);
        assert!(code == Some(1) && text.contains("is not used: "), "{text}");
    };
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    refused("is a symbolic link");
    fs::remove_file(&file).unwrap();
    fs::write(&file, "junk").unwrap();
    refused("is no history of a session");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    refused("is no regular file");
    fs::remove_dir(&file).unwrap();
    fs::hard_link(&elsewhere, &file).unwrap();
    refused("has more than one name");
    fs::remove_file(&file).unwrap();
    let folder = folder(&sandbox);
    fs::rename(&folder, sandbox.file("moved")).unwrap();
    symlink(sandbox.file("moved"), &folder).unwrap();
    let (code, text) = ask(&sandbox, &["status"]);
    assert_eq!(code, Some(1));
    assert!(
        text.contains(&format!("{} is not used: is no folder", folder.display())),
        "{text}"
    );
    session.end();
}

/// `top` on a terminal of its own.
struct Top {
    pty: Pty,
    child: KillOnDrop,
}

impl Top {
    fn start(sandbox: &Sandbox, columns: u16, rows: u16) -> Top {
        let mut pty = Pty::open().unwrap();
        pty.resize(columns, rows).unwrap();
        let child = KillOnDrop(pty.spawn(control(sandbox, &["top"])).unwrap());
        pty.expect("\x1b[?1049h", SOON);
        pty.expect("q quits", SOON);
        Top { pty, child }
    }

    /// How it ended, with the terminal as it was.
    fn ended(mut self, code: i32) {
        let status = wait_until("its end", SOON, || self.child.0.try_wait().unwrap());
        assert_eq!(status.code(), Some(code));
        self.pty.expect("\x1b[?1049l", SOON);
        let text = self.pty.text();
        assert!(
            text.contains("\x1b[?25h") && text.contains("\x1b[?7h"),
            "{text:?}"
        );
        let modes = self.pty.modes().unwrap();
        assert!(modes.icanon && modes.echo && modes.isig, "{modes:?}");
    }
}

#[test]
fn top_draws_resizes_and_quits_with_q_and_the_terminal_is_as_it_was() {
    let sandbox = Sandbox::new();
    let session = Session::start_remembered(&sandbox);
    let mut top = Top::start(&sandbox, 80, 24);
    let modes = top.pty.modes().unwrap();
    assert!(!modes.icanon && !modes.echo && modes.isig, "{modes:?}");
    let text = top.pty.text();
    for said in [
        "claude-safe top: 1 session; ",
        &format!(
            "claude {} (claude-safe {})",
            session.client, session.wrapper
        ),
        "fake-claude",
        "-60 min",
        "\x1b[24;1H\x1b[2Kq quits",
    ] {
        assert!(text.contains(said), "{said:?} in {text:?}");
    }
    for (columns, rows) in [(20, 5), (1, 1), (200, 60)] {
        top.pty.forget_seen();
        top.pty.resize(columns, rows).unwrap();
        let last = format!("\x1b[{rows};1H\x1b[2Kq");
        top.pty.expect(&last, SOON);
    }
    // An arrow key is no Esc.
    top.pty.write(b"\x1b[A").unwrap();
    top.pty.forget_seen();
    top.pty.resize(80, 24).unwrap();
    top.pty.expect("\x1b[24;1H\x1b[2Kq quits", SOON);
    top.pty.write(b"q").unwrap();
    top.ended(0);
    session.end();
}

#[test]
fn top_gives_the_terminal_back_whatever_ends_it() {
    let sandbox = Sandbox::new();
    for (keys, code) in [(&b"\x1b"[..], 0), (b"\x03", 0), (b"Q", 0)] {
        let top = Top::start(&sandbox, 80, 24);
        top.pty.write(keys).unwrap();
        top.ended(code);
    }
    for (signal, code) in [(libc::SIGTERM, 143), (libc::SIGHUP, 129), (libc::SIGINT, 0)] {
        let top = Top::start(&sandbox, 80, 24);
        send_signal(top.child.0.id().cast_signed(), signal).unwrap();
        top.ended(code);
    }
    let mut top = Top::start(&sandbox, 80, 24);
    top.pty.hang_up();
    wait_until("its end", SOON, || top.child.0.try_wait().unwrap());
}

#[test]
fn top_without_a_terminal_is_one_frame_of_plain_text() {
    let sandbox = Sandbox::new();
    assert_eq!(ask(&sandbox, &["top"]).0, Some(0));
    let session = Session::start(&sandbox);
    let (code, text) = ask(&sandbox, &["top"]);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("claude-safe top: 1 session; "), "{text}");
    assert!(
        text.contains("fake-claude") && !text.contains('\x1b'),
        "{text}"
    );
    assert!(!text.contains("q quits"), "{text}");
    session.end();
}

#[test]
fn a_short_call_leaves_no_history_and_a_state_folder_that_is_no_folder_costs_nothing_else() {
    let sandbox = Sandbox::new();
    let run = |sandbox: &Sandbox| {
        let mut command = claude_safe(sandbox, "rounds=1;round_ms=1500");
        let output = command
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(String::from_utf8_lossy(&output.stdout).contains("ALL DONE"));
    };
    run(&sandbox);
    assert_eq!(fs::read_dir(sandbox.state()).unwrap().count(), 0);
    fs::remove_dir(sandbox.state()).unwrap();
    fs::write(sandbox.state(), "in the way").unwrap();
    run(&sandbox);
    let mut session = Session::start(&sandbox);
    let told = wait_until("what status tells", SOON, || {
        let (_, text) = ask(&sandbox, &["status"]);
        text.contains("  no history ").then_some(text)
    });
    assert!(told.starts_with("claude "), "{told}");
    assert!(
        session.child.0.try_wait().unwrap().is_none(),
        "the session lives"
    );
    session.end();
}

#[test]
fn a_full_disk_ends_the_history_and_not_the_session() {
    let sandbox = Sandbox::new();
    // A state folder of 16 KiB, in a mount namespace of the session's own.
    let script = "mount -t tmpfs -o size=16k,mode=700 none \"$XDG_STATE_HOME\" 2>/dev/null || exit 77; \
                  dd if=/dev/zero of=\"$XDG_STATE_HOME/fill\" bs=4k count=4 2>/dev/null; exec \"$@\"";
    let inner = claude_safe(&sandbox, "rounds=1;round_ms=20000;leak_mib=100");
    let mut command = sandbox.command("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
    ]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.envs(
        inner
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = KillOnDrop(command.spawn().unwrap());
    let wrapper = child.0.id().cast_signed();
    let notes = sandbox.run().join("claude-safe");
    let told = wait_until("what it tells", SOON, || {
        if let Some(status) = child.0.try_wait().unwrap() {
            return Some(Err(status));
        }
        let session = fs::read_dir(&notes).ok()?.flatten().next()?;
        let text = fs::read_to_string(session.path().join("session")).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("no_history=").map(str::to_owned))
            .map(Ok)
    });
    match told {
        Err(status) => skip!("no mount namespace: {status}"),
        Ok(why) => assert!(why.contains("No space left"), "{why}"),
    }
    send_signal(wrapper, libc::SIGTERM).unwrap();
    wait_until("its end", SOON, || child.0.try_wait().unwrap());
    let output = std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap();
    assert!(!output.contains("No space"), "not a word of it: {output}");
}

#[test]
fn the_line_for_the_clients_status_line_is_where_the_client_is_told() {
    let sandbox = Sandbox::new();
    let mut command = claude_safe(&sandbox, "tui=on;rounds=1;round_ms=50000;leak_mib=100");
    let mut interactive = sandbox.command(command.get_program());
    interactive.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let mut pty = Pty::open().unwrap();
    let child = KillOnDrop(pty.spawn(interactive).unwrap());
    let client = client_of(child.0.id().cast_signed());
    let variable = || {
        let all = proc_view::environ(client).into_iter();
        all.filter_map(|entry| {
            entry
                .strip_prefix("CLAUDE_SAFE_STATUSLINE=")
                .map(str::to_owned)
        })
        .next()
    };
    let file = wait_until("the variable", SOON, variable);
    let line = wait_until("the line", SOON, || {
        let text = fs::read_to_string(&file).ok()?;
        text.contains(" of 1024 MiB").then_some(text)
    });
    assert_eq!(line.lines().count(), 1, "{line}");
    // As the setting has it.
    let script = "cat \"$CLAUDE_SAFE_STATUSLINE\" 2>/dev/null";
    let shown = Command::new("sh")
        .args(["-c", script])
        .env("CLAUDE_SAFE_STATUSLINE", &file)
        .output();
    assert!(String::from_utf8_lossy(&shown.unwrap().stdout).contains(" MiB of 1024 MiB"));
    end(child);
    // A print session draws nothing, and is told nothing.
    let child = KillOnDrop(command.spawn().unwrap());
    let client = client_of(child.0.id().cast_signed());
    let told = proc_view::environ(client).into_iter();
    assert_eq!(told.filter(|entry| entry.contains("STATUSLINE")).count(), 0);
    end(child);
}

/// The captures of `wrapper/doc/control-plane.md`: command and text.
fn captures() -> Vec<(String, String)> {
    let file = claude_safe_tests::artifacts::workspace().join("wrapper/doc/control-plane.md");
    let text = fs::read_to_string(&file).unwrap();
    let blocks = text.split("~~~").skip(1).step_by(2);
    let found = blocks.filter_map(|block| {
        let (command, shown) = block.split_once("$ claude-safectl ")?.1.split_once('\n')?;
        Some((command.trim().to_owned(), shown.to_owned()))
    });
    found.collect()
}

/// What a capture names that does not depend on the machine: headings, and the names of rows.
fn names_in(capture: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in capture.lines() {
        let is_of_a_session = line.contains("laude ") || line.starts_with("claude-safe ");
        let row = line
            .strip_prefix("  ")
            .filter(|row| row.starts_with(|l: char| l.is_ascii_lowercase()));
        match row {
            Some(row) if row.contains("  ") => {
                names.push(format!("  {} ", row.split("  ").next().unwrap()))
            }
            None if !line.starts_with(' ') && !line.is_empty() && !is_of_a_session => {
                names.push(line.to_owned())
            }
            _ => {}
        }
    }
    names
}

#[test]
fn the_captures_in_the_documentation_are_what_the_program_still_says() {
    let sandbox = Sandbox::new();
    let session = Session::start_remembered(&sandbox);
    let captures = captures();
    let commands: Vec<&str> = captures
        .iter()
        .map(|(command, _)| command.as_str())
        .collect();
    assert_eq!(commands, ["doctor", "status", "top", "report"]);
    for (command, capture) in &captures {
        // What a machine lacks, and the remedy, is as long as it is.
        let is_free = |line: &&str| line.contains("in force: ") || line.contains("typing claude");
        for line in capture.lines().filter(|line| !is_free(line)) {
            assert!(line.chars().count() <= 80, "{line}");
        }
        let mut said = control(&sandbox, &[command]);
        let output = said
            .env("CLAUDE_SAFE_BIN", program("fake-claude"))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let names = names_in(capture);
        assert!(names.len() >= 5, "{command}: {names:?}");
        for name in names {
            assert!(
                said.contains(&name),
                "{command}: {name:?} of the capture is not in\n{said}"
            );
        }
    }
    session.end();
}

#[test]
fn doctor_folds_its_lines_for_a_terminal_and_for_nobody_else() {
    let sandbox = Sandbox::new();
    let doctor = || {
        let mut command = control(&sandbox, &["doctor"]);
        command.env("NO_COLOR", "1");
        command
    };
    let piped = String::from_utf8(doctor().output().unwrap().stdout).unwrap();
    let is_long = |line: &str| line.chars().count() > 80;
    assert!(piped.lines().any(is_long), "the premise: {piped}");
    let mut pty = Pty::open().unwrap();
    pty.resize(80, 24).unwrap();
    let mut child = KillOnDrop(pty.spawn(doctor()).unwrap());
    wait_until("its end", SOON, || child.0.try_wait().unwrap());
    let last = piped.split_whitespace().last().unwrap();
    pty.expect(last, SOON);
    let shown = pty.text();
    for line in shown.lines().filter(|line| is_long(line)) {
        assert_eq!(
            line.split_whitespace().count(),
            1,
            "only a word alone: {line}"
        );
    }
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(words(&shown), words(&piped));
}

/// Claude Code shows the line with the setting that the manual page names.
fn the_status_line_shows_it(version: &str) {
    use claude_safe_tests::clients::{prepare_home, set_up};
    use claude_safe_tests::{Isolated, mock::Scenario, real_client};
    let Some(client) = real_client(version) else {
        skip!("client {version} is not here: cargo fetch-client {version}");
    };
    let sandbox = Sandbox::new();
    prepare_home(&sandbox);
    let file = sandbox.home().join(".claude/settings.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let manual = include_str!("../../wrapper/doc/template/claude-safe.1").replace("\\(rs", "\\");
    let (_, told) = manual.split_once(".EX\n").unwrap();
    let told = format!("{{{}}}", told.split_once(".EE").unwrap().0);
    let told: Value = serde_json::from_str(&told).unwrap();
    settings["statusLine"] = told["statusLine"].clone();
    fs::write(&file, settings.to_string()).unwrap();
    let mock = match Isolated::start(&sandbox, &Scenario::default(), false) {
        Ok(mock) => mock,
        Err(why) => skip!("no network namespace: {why}"),
    };
    let mut command = sandbox.command(&artifacts().claude_safe);
    command
        .arg("--dangerously-skip-permissions")
        .env("CLAUDE_SAFE_BIN", &client)
        .env("CLAUDE_WATCHDOG_THRESHOLD_MB", "3000")
        .env("CLAUDE_WATCHDOG_INTERVAL", "1");
    set_up(&mut command, &mock).unwrap();
    let mut pty = Pty::open().unwrap();
    pty.resize(120, 40).unwrap();
    let mut child = KillOnDrop(pty.spawn(command).unwrap());
    let shown = wait_until("the line", 3 * SOON, || {
        if pty.text().contains("of 3000") {
            return Some(true);
        }
        child.0.try_wait().unwrap().map(|_| false)
    });
    assert!(shown, "{:?}", pty.text());
    end(child);
}

#[test]
fn the_newest_client_shows_the_line_in_its_status_line() {
    the_status_line_shows_it("2.1.329");
}

#[test]
fn the_oldest_client_shows_the_line_in_its_status_line() {
    the_status_line_shows_it("2.1.110");
}
