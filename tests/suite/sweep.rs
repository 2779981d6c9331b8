//! What dead sessions leave in the temporary folder, swept by `claude-safectl clean`, by the hooks of the plugin, by
//! `claude-safe` around a session, and by the plugin in the real client. Only in folders of the test's own.

use claude_safe_tests::clients::{prepare_home, set_up, tool_calls, transcripts};
use claude_safe_tests::mock::Scenario;
use claude_safe_tests::{
    Isolated, KillOnDrop, Pty, Sandbox, artifacts, poll_until, program, real_client, skip,
    wait_until,
};
use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

const SOON: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(90);
const MINUTE: u64 = 60;
const DAY: u64 = 24 * 3600;

fn grow_old(path: &Path, age_s: u64) {
    let then = SystemTime::now() - Duration::from_secs(age_s);
    let file = fs::File::open(path).expect("a file of the test");
    file.set_modified(then).expect("a file of the test");
}

fn name(number: u32) -> String {
    format!("claude-{number:04x}-cwd")
}

/// A file of that age in the sandbox's temporary folder.
fn put(sandbox: &Sandbox, name: &str, age_s: u64) -> PathBuf {
    let path = sandbox.tmp().join(name);
    fs::write(&path, "/somewhere\n").expect("a file in the sandbox");
    grow_old(&path, age_s);
    path
}

/// The files of shell commands that are there.
fn left_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the temporary folder");
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with("-cwd")).collect();
    names.sort();
    names
}

fn left(sandbox: &Sandbox) -> Vec<String> {
    left_in(&sandbox.tmp())
}

fn ctl(sandbox: &Sandbox, words: &[&str]) -> Command {
    let mut command = sandbox.command(&artifacts().claude_safectl);
    command.args(words);
    command
}

fn said(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr, "", "{command:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    (output.status.code(), text)
}

fn plugin() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wrapper/plugin");
    fs::canonicalize(path).expect("the plugin")
}

fn json_of(file: &str) -> Value {
    let text = fs::read_to_string(plugin().join(file)).expect(file);
    serde_json::from_str(&text).expect(file)
}

/// The command of an event's only hook.
fn hook_line(event: &str) -> String {
    let hooks = json_of("hooks/hooks.json");
    let hook = &hooks["hooks"][event][0]["hooks"][0];
    hook["command"].as_str().expect("a command").to_owned()
}

/// Runs the installed plugin's hook as the client does: by a shell, with JSON on stdin.
fn hook(sandbox: &Sandbox, event: &str, path: &Path, input: &str) -> Output {
    let mut command = sandbox.command("/bin/sh");
    let mut child = command
        .args(["-c", &hook_line(event)])
        .env("CLAUDE_PLUGIN_ROOT", plugin())
        .env("PATH", format!("{}:{}", path.display(), sandbox.path()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("a shell");
    let _ = writer.join();
    output
}

fn bin() -> &'static Path {
    artifacts().claude_safectl.parent().expect("a folder")
}

#[test]
fn the_plugins_files_are_valid_and_name_a_timeout() {
    let manifest = json_of(".claude-plugin/plugin.json");
    let market = json_of(".claude-plugin/marketplace.json");
    assert_eq!(market["plugins"][0]["name"], manifest["name"]);
    assert_eq!(market["plugins"][0]["source"], "./");
    let hooks = json_of("hooks/hooks.json");
    let events = hooks["hooks"].as_object().expect("events");
    let names: Vec<&String> = events.keys().collect();
    assert_eq!(names, ["PostToolUse", "SessionStart", "Stop"]);
    assert_eq!(events["PostToolUse"][0]["matcher"], "Bash");
    assert!(events["Stop"][0].get("matcher").is_none());
    for (event, seconds) in [("PostToolUse", 10), ("Stop", 10), ("SessionStart", 5)] {
        let hook = &events[event][0]["hooks"][0];
        assert_eq!(
            (&hook["type"], &hook["timeout"]),
            (&"command".into(), &seconds.into())
        );
        assert!(!hook_line(event).contains("/tmp"), "{event}");
    }
}

#[test]
fn a_hook_works_alone_and_removes_the_15_stale_of_25_files() {
    for event in ["PostToolUse", "Stop"] {
        let sandbox = Sandbox::new();
        for number in 0..25 {
            put(
                &sandbox,
                &name(number),
                if number < 15 { 2 * MINUTE } else { 0 },
            );
        }
        let output = hook(&sandbox, event, bin(), r#"{"tool_name":"Bash"}"#);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(
            (output.stdout, output.stderr),
            (vec![], vec![]),
            "nothing to say"
        );
        assert_eq!(left(&sandbox), (15..25).map(name).collect::<Vec<_>>());
    }
}

#[test]
fn a_hook_never_fails_the_client_whatever_is_missing() {
    let sandbox = Sandbox::new();
    put(&sandbox, &name(1), DAY);
    // No claude-safectl; one of an earlier version, that knows no such word; one that is killed.
    let odd = sandbox.file("odd");
    fs::create_dir(&odd).unwrap();
    for script in ["exit 2", "echo usage >&2; exit 2", "kill -KILL $$"] {
        fs::write(odd.join("claude-safectl"), format!("#!/bin/sh\n{script}\n")).unwrap();
        let mode = PermissionsExt::from_mode(0o755);
        fs::set_permissions(odd.join("claude-safectl"), mode).unwrap();
        for path in [odd.as_path(), Path::new("/nowhere")] {
            for event in ["PostToolUse", "Stop", "SessionStart"] {
                let output = hook(&sandbox, event, path, "{}");
                assert_eq!(output.status.code(), Some(0), "{event} {script}");
                assert_eq!(output.stdout, b"", "{event} {script}");
            }
        }
    }
    // An event that this version does not know.
    assert_eq!(
        said(ctl(&sandbox, &["hook", "of-tomorrow"])),
        (Some(0), String::new())
    );
    assert_eq!(left(&sandbox), [name(1)]);
}

#[test]
fn a_hook_waits_neither_for_the_end_of_its_input_nor_breaks_a_long_one() {
    let sandbox = Sandbox::new();
    put(&sandbox, &name(1), DAY);
    let began = Instant::now();
    let mut command = ctl(&sandbox, &["hook", "stop"]);
    let mut child = KillOnDrop(command.stdin(Stdio::piped()).spawn().unwrap());
    let open = child.0.stdin.take();
    let status = wait_until("the hook", Duration::from_secs(9), || {
        child.0.try_wait().unwrap()
    });
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(9));
    drop(open);
    assert_eq!(left(&sandbox), Vec::<String>::new());

    let mut command = ctl(&sandbox, &["hook", "post-tool-use"]);
    let mut child = KillOnDrop(command.stdin(Stdio::piped()).spawn().unwrap());
    let mut stdin = child.0.stdin.take().unwrap();
    stdin
        .write_all(&vec![b' '; 8 << 20])
        .expect("all of it is taken");
    drop(stdin);
    let status = wait_until("the hook", SOON, || child.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_long_clean_counts_on_the_terminal_and_takes_its_line_away() {
    let sandbox = Sandbox::new();
    for number in 0..32_768 {
        put(&sandbox, &name(number), DAY);
    }
    let mut pty = Pty::open().expect("a terminal");
    let mut child = KillOnDrop(pty.spawn(ctl(&sandbox, &["clean"])).expect("it starts"));
    wait_until("its end", PATIENCE, || child.0.try_wait().expect("ours"));
    pty.expect("32768 removed", SOON);
    let shown = pty.text();
    let (progress, answer) = shown
        .rsplit_once("\r\x1b[K")
        .expect("the line is taken away");
    assert!(answer.contains("32768 removed"), "{answer:?}");
    let counts: Vec<u64> = progress
        .split('\r')
        .filter_map(|line| {
            let (removed, seen) = line
                .strip_suffix("\x1b[K")?
                .split_once(": ")?
                .1
                .split_once(" of ")?;
            assert_eq!(removed, seen, "all of them are old");
            seen.parse().ok()
        })
        .collect();
    assert!(!counts.is_empty() && counts.is_sorted(), "{progress:?}");
}

#[test]
fn a_backlog_is_worth_a_message_once_and_everyday_work_is_not() {
    let sandbox = Sandbox::new();
    for number in 0..250 {
        put(&sandbox, &name(number), DAY);
    }
    let output = hook(&sandbox, "PostToolUse", bin(), "{}");
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON for the client");
    let text = told["systemMessage"].as_str().expect("a message");
    assert!(
        text.starts_with("claude-safe removed 250 files ("),
        "{text}"
    );
    assert!(
        text.contains(&sandbox.tmp().display().to_string()),
        "{text}"
    );
    assert_eq!(left(&sandbox), Vec::<String>::new());
    assert_eq!(hook(&sandbox, "PostToolUse", bin(), "{}").stdout, b"");
}

#[test]
fn off_stops_what_happens_by_itself_and_not_what_is_asked_for() {
    let sandbox = Sandbox::new();
    put(&sandbox, &name(1), DAY);
    let mut command = ctl(&sandbox, &["hook", "stop"]);
    command.env("CLAUDE_SAFE_SWEEP", "off");
    assert_eq!(said(command), (Some(0), String::new()));
    assert_eq!(left(&sandbox), [name(1)]);
    let mut command = ctl(&sandbox, &["clean"]);
    command.env("CLAUDE_SAFE_SWEEP", "off");
    assert_eq!(said(command).0, Some(0));
    assert_eq!(left(&sandbox), Vec::<String>::new());
}

#[test]
fn the_clients_own_temporary_folder_comes_before_the_users() {
    let sandbox = Sandbox::new();
    let own = sandbox.file("own");
    fs::create_dir(&own).unwrap();
    let there = own.join(name(2));
    fs::write(&there, "x").unwrap();
    grow_old(&there, DAY);
    put(&sandbox, &name(1), DAY);
    let mut command = ctl(&sandbox, &["clean"]);
    command.env("CLAUDE_CODE_TMPDIR", &own);
    let (code, text) = said(command);
    assert_eq!(code, Some(0));
    assert!(text.ends_with(&format!("in {}\n", own.display())), "{text}");
    assert!(!there.exists());
    assert_eq!(left(&sandbox), [name(1)]);
}

#[test]
fn clean_tells_what_goes_and_why_the_rest_stays_in_words_and_for_programs() {
    let sandbox = Sandbox::new();
    let precious = sandbox.file("precious");
    fs::write(&precious, "x").unwrap();
    put(&sandbox, &name(1), DAY);
    put(&sandbox, &name(2), 0);
    symlink(&precious, sandbox.tmp().join(name(3))).unwrap();
    fs::hard_link(&precious, sandbox.tmp().join(name(4))).unwrap();
    fs::create_dir(sandbox.tmp().join(name(5))).unwrap();
    let path = |number| sandbox.tmp().join(name(number)).display().to_string();
    let before = left(&sandbox);
    let (code, dry) = said(ctl(&sandbox, &["clean", "--dry-run"]));
    assert_eq!((code, left(&sandbox)), (Some(0), before));
    for (word, number) in [
        ("goes", 1),
        ("not old enough", 2),
        ("not a regular file", 3),
        ("has a second name", 4),
        ("not a regular file", 5),
    ] {
        let told = |line: &str| line.trim().starts_with(word) && line.ends_with(&path(number));
        assert!(dry.lines().any(told), "{word} {number}: {dry}");
    }
    let (code, text) = said(ctl(&sandbox, &["clean", "--dry-run", "--json"]));
    let told: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &told["dry_run"]), (Some(0), &Value::Bool(true)));
    let section = &told["sections"]["cwd_files"];
    assert_eq!(section["removed"], 1);
    let kept = serde_json::json!({"fresh": 1, "odd_kind": 2, "two_names": 1});
    assert_eq!(section["kept"], kept);
    assert_eq!(section["items"][0]["path"], path(1));
    assert_eq!(section["items"][0]["outcome"], "removed");
    let (code, text) = said(ctl(&sandbox, &["clean"]));
    assert_eq!(code, Some(0));
    assert!(
        text.starts_with("files of shell commands: 1 removed"),
        "{text}"
    );
    assert_eq!(left(&sandbox), [2, 3, 4, 5].map(name));
    assert_eq!(fs::read_to_string(precious).unwrap(), "x");
}

/// Sandboxes for two users: the folders may be passed through, the program lies where both may run it.
struct TwoUsers {
    sandbox: Sandbox,
    program: PathBuf,
}

const NOBODY: u32 = 65_534;

impl TwoUsers {
    /// `None`: we may not become somebody else.
    fn new() -> Option<TwoUsers> {
        // SAFETY: it reads an integer.
        if unsafe { libc::geteuid() } != 0 {
            return None;
        }
        let sandbox = Sandbox::new();
        let program = sandbox.file("claude-safectl");
        fs::copy(&artifacts().claude_safectl, &program).unwrap();
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        open(&program, 0o755);
        for folder in [sandbox.root().to_path_buf(), sandbox.work()] {
            open(&folder, 0o755);
        }
        open(&sandbox.tmp(), 0o1777);
        Some(TwoUsers { sandbox, program })
    }

    fn as_nobody(&self, words: &[&str]) -> Command {
        let mut command = self.sandbox.command(&self.program);
        command.args(words).uid(NOBODY).gid(NOBODY);
        // Nothing of root's.
        for name in ["XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "HOME"] {
            command.env_remove(name);
        }
        command
    }
}

#[test]
fn in_a_sticky_folder_each_user_sweeps_his_own() {
    let Some(users) = TwoUsers::new() else {
        skip!("two users: not root here");
    };
    let sandbox = &users.sandbox;
    put(sandbox, &name(1), DAY);
    let theirs = put(sandbox, &name(2), DAY);
    chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
    let (code, text) = said(users.as_nobody(&["clean"]));
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.starts_with("files of shell commands: 1 removed, "),
        "{text}"
    );
    assert!(text.contains("; 1 somebody else's\n"), "{text}");
    assert_eq!(left(sandbox), [name(1)]);
    let theirs = put(sandbox, &name(3), DAY);
    chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
    // Root could, and does not.
    let (code, text) = said(ctl(sandbox, &["clean"]));
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(left(sandbox), [name(3)]);
}

#[test]
fn a_folder_that_cannot_be_read_or_written_is_said_and_fails_no_hook() {
    let Some(users) = TwoUsers::new() else {
        skip!("another user: not root here");
    };
    let sandbox = &users.sandbox;
    let theirs = put(sandbox, &name(1), DAY);
    chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
    let mode = |mode| {
        fs::set_permissions(sandbox.tmp(), fs::Permissions::from_mode(mode)).unwrap();
    };
    // To be entered, not to be listed.
    mode(0o711);
    let (code, text) = said(users.as_nobody(&["clean"]));
    assert_eq!(code, Some(1));
    assert!(text.ends_with("can't be read\n"), "{text}");
    let (code, text) = said(users.as_nobody(&["hook", "stop"]));
    assert_eq!(code, Some(0));
    let told: Value = serde_json::from_str(&text).expect("JSON for the client");
    let told = told["systemMessage"].as_str().expect("a message");
    assert!(told.ends_with("can't be read"), "{told}");
    // To be listed, not to be changed.
    mode(0o755);
    let (code, text) = said(users.as_nobody(&["clean"]));
    assert_eq!(code, Some(1));
    assert!(
        text.contains("0 removed; 1 could not be removed\n"),
        "{text}"
    );
    assert_eq!(
        said(users.as_nobody(&["hook", "stop"])),
        (Some(0), String::new())
    );
    assert_eq!(left(sandbox), [name(1)]);
}

/// A command by a shell in namespaces of its own; `None` where the machine forbids them.
fn apart(sandbox: &Sandbox, how: &[&str], script: &str) -> Option<(Option<i32>, String)> {
    let may = |words: &[&str]| {
        let mut command = sandbox.command("unshare");
        let output = command.args(words).args(how).arg("true").output();
        output.is_ok_and(|output| output.status.success())
    };
    // SAFETY: it reads an integer.
    let own_user: &[&str] = match unsafe { libc::geteuid() } {
        0 => &[],
        _ => &["--user", "--map-root-user"],
    };
    if !may(own_user) {
        return None;
    }
    let mut command = sandbox.command("unshare");
    command.args(own_user).args(how).args(["sh", "-ec", script]);
    command.env("CTL", &artifacts().claude_safectl);
    Some(said(command))
}

#[test]
fn a_temporary_folder_on_another_file_system_is_swept_too() {
    let sandbox = Sandbox::new();
    // Whoever is named in a command line is in use: these names are put together by the shell.
    let script = "mount -t tmpfs none \"$TMPDIR\"; cd \"$TMPDIR\"; end=cwd; touch claude-0001-$end; \
         touch -d '2 minutes ago' claude-0002-$end claude-zzzz-$end; \
         \"$CTL\" clean >/dev/null; ls; stat -f -c %T .";
    let Some((code, text)) = apart(&sandbox, &["--mount"], script) else {
        skip!("no mount namespace here");
    };
    assert_eq!(
        (code, text),
        (Some(0), format!("{}\nclaude-zzzz-cwd\ntmpfs\n", name(1)))
    );
}

/// The clock since boot goes back for whoever enters another time namespace, as at a boot: how old a file is by the wall
/// clock says nothing then.
#[test]
fn after_a_boot_no_file_is_old_for_a_minute() {
    let sandbox = Sandbox::new();
    assert_eq!(
        said(ctl(&sandbox, &["hook", "post-tool-use"])),
        (Some(0), String::new())
    );
    put(&sandbox, &name(1), 2 * MINUTE);
    let how = ["--time", "--fork", "--boottime", "-600"];
    let script = "\"$CTL\" clean";
    let Some((code, text)) = apart(&sandbox, &how, script) else {
        skip!("no time namespace here, or the machine is up for less than ten minutes");
    };
    assert_eq!(code, Some(0));
    assert!(
        text.starts_with("files of shell commands: 0 removed; 1 not old enough\n"),
        "{text}"
    );
    assert_eq!(left(&sandbox), [name(1)]);
}

/// A session of the stand-in.
fn session(sandbox: &Sandbox, plan: &str) -> Command {
    let mut command = sandbox.command(&artifacts().claude_safe);
    command
        .args(["-p", "do it"])
        .env("CLAUDE_SAFE_BIN", program("fake-claude"))
        .env("FAKE_CLAUDE", plan)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

#[test]
fn a_session_sweeps_while_its_client_runs_and_again_at_its_end() {
    let sandbox = Sandbox::new();
    // The stand-in has one of its own, as the client.
    let stale = put(&sandbox, &name(1), DAY);
    let fresh = put(&sandbox, &name(2), 0);
    let mut command = session(&sandbox, "rounds=1;round_ms=600000");
    let mut child = KillOnDrop(command.spawn().unwrap());
    wait_until("the first sweep", SOON, || (!stale.exists()).then_some(()));
    assert!(child.0.try_wait().unwrap().is_none(), "the session runs");
    assert!(fresh.exists());
    // What becomes stale meanwhile goes at the end.
    grow_old(&fresh, DAY);
    claude_safe_tests::pty::send_signal(child.0.id().cast_signed(), libc::SIGTERM).unwrap();
    let status = wait_until("its end", SOON, || child.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(143));
    assert!(!fresh.exists());
}

#[test]
fn a_session_that_is_not_to_sweep_does_not_and_neither_does_a_command() {
    let sandbox = Sandbox::new();
    put(&sandbox, &name(1), DAY);
    let mut command = session(&sandbox, "rounds=1;round_ms=10");
    command.env("CLAUDE_SAFE_SWEEP", "off");
    assert!(command.status().unwrap().success());
    assert_eq!(left(&sandbox), [name(1)]);
    let mut command = sandbox.command(&artifacts().claude_safe);
    command
        .arg("--version")
        .env("CLAUDE_SAFE_BIN", program("fake-claude"));
    assert!(command.output().unwrap().status.success());
    assert_eq!(left(&sandbox), [name(1)]);
    assert!(
        session(&sandbox, "rounds=1;round_ms=10")
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(left(&sandbox), Vec::<String>::new());
}

#[test]
fn a_big_backlog_is_told_once_by_the_session_that_removed_it() {
    let sandbox = Sandbox::new();
    for number in 0..1_200 {
        put(&sandbox, &name(number), DAY);
    }
    let mut command = session(&sandbox, "rounds=1;round_ms=600000");
    let log = sandbox.file("stderr");
    command.stderr(fs::File::create(&log).unwrap());
    let mut child = KillOnDrop(command.spawn().unwrap());
    let told = || {
        fs::read_to_string(&log)
            .unwrap()
            .matches("removed 1200 files (")
            .count()
    };
    wait_until("the message", PATIENCE, || (told() > 0).then_some(()));
    claude_safe_tests::pty::send_signal(child.0.id().cast_signed(), libc::SIGTERM).unwrap();
    wait_until("its end", SOON, || child.0.try_wait().unwrap());
    assert_eq!(told(), 1);
    assert!((0..1_200).all(|number| !sandbox.tmp().join(name(number)).exists()));
}

// The plugin in the real client.

const OLDEST: &str = "2.1.110";
const NEWEST: &str = "2.1.329";

/// The client itself, with our plugin and no `claude-safe` around it.
fn client(sandbox: &Sandbox, mock: &Isolated, client: &Path) -> Command {
    let mut command = sandbox.command(client);
    command
        .args(["-p", "do it", "--dangerously-skip-permissions"])
        .arg("--plugin-dir")
        .arg(plugin())
        .env("PATH", format!("{}:{}", bin().display(), sandbox.path()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    set_up(&mut command, mock).expect("the mock lives");
    command
}

fn finished(child: Child) -> String {
    let output = child.wait_with_output().expect("the client");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stdout} {stderr}");
    stdout
}

/// Does a running process have this in its command line?
fn is_named(name: &str) -> bool {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let mut lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(name))
}

/// What a client's shell leaves when the client is killed under it, really left by one.
fn a_killed_tools_file_is_gone_after_the_next_command(version: &str) {
    let Some(program) = real_client(version) else {
        skip!("client {version} is not here: cargo fetch-client {version}");
    };
    let sandbox = Sandbox::new();
    prepare_home(&sandbox);
    let scenario = Scenario {
        rounds: 2,
        command: "ls \"$TMPDIR\" > seen-{n}; touch began; sleep 0.3".into(),
        final_text: "ALL DONE 7f3a".into(),
        ..Scenario::default()
    };
    let mock = match Isolated::start(&sandbox, &scenario, false) {
        Ok(mock) => mock,
        Err(why) => skip!("no network namespace: {why}"),
    };
    let mut left_behind = Vec::new();
    // Not every kill leaves one: the client may have taken it with it.
    for _ in 0..5 {
        let _ = fs::remove_file(sandbox.work().join("began"));
        let mut child = KillOnDrop(client(&sandbox, &mock, &program).spawn().unwrap());
        wait_until("a command", PATIENCE, || {
            sandbox.work().join("began").exists().then_some(())
        });
        claude_safe_tests::pty::send_signal(child.0.id().cast_signed(), libc::SIGKILL).unwrap();
        child.0.wait().unwrap();
        let seen = poll_until(Duration::from_secs(3), || {
            Some(left(&sandbox)).filter(|names| !names.is_empty())
        });
        left_behind = seen.unwrap_or_default();
        if !left_behind.is_empty() {
            break;
        }
    }
    assert!(!left_behind.is_empty(), "no kill left a file");
    for name in &left_behind {
        // The shell outlives its client and writes the file once more.
        wait_until("the shell's end", PATIENCE, || {
            (!is_named(name)).then_some(())
        });
        grow_old(&sandbox.tmp().join(name), 2 * MINUTE);
    }
    for number in 1..=2 {
        let _ = fs::remove_file(sandbox.work().join(format!("seen-{number}")));
    }
    let text = finished(client(&sandbox, &mock, &program).spawn().unwrap());
    assert_eq!(text.trim(), "ALL DONE 7f3a");
    let seen = |number: u32| {
        let path = sandbox.work().join(format!("seen-{number}"));
        fs::read_to_string(path).expect("the round ran")
    };
    // There at the first command, gone at the second.
    for name in &left_behind {
        assert!(seen(1).contains(name.as_str()), "{}", seen(1));
        assert!(!seen(2).contains(name.as_str()), "{}", seen(2));
    }
    assert_eq!(left(&sandbox), Vec::<String>::new());
}

#[test]
fn oldest_with_the_plugin_removes_what_a_killed_one_left() {
    a_killed_tools_file_is_gone_after_the_next_command(OLDEST);
}

#[test]
fn newest_with_the_plugin_removes_what_a_killed_one_left() {
    a_killed_tools_file_is_gone_after_the_next_command(NEWEST);
}

/// Each command goes one folder deeper, which the client learns from the file alone: a lost one shows.
fn two_sessions_with_the_plugin_never_lose_a_live_file(version: &str) {
    const ROUNDS: u32 = 8;
    let Some(program) = real_client(version) else {
        skip!("client {version} is not here: cargo fetch-client {version}");
    };
    let sandbox = Sandbox::new();
    prepare_home(&sandbox);
    let scenario = Scenario {
        rounds: ROUNDS,
        command: "mkdir -p d{n}-$NAME && cd d{n}-$NAME && pwd".into(),
        final_text: "ALL DONE 7f3a".into(),
        ..Scenario::default()
    };
    let mock = match Isolated::start(&sandbox, &scenario, false) {
        Ok(mock) => mock,
        Err(why) => skip!("no network namespace: {why}"),
    };
    // So that every sweep has something to do.
    let stale = |from: u32| {
        for number in from..from + 40 {
            put(&sandbox, &name(number), DAY);
        }
    };
    stale(0);
    let sessions = ["one", "two"].map(|name| {
        let mut command = client(&sandbox, &mock, &program);
        command.env("NAME", name).spawn().expect("the client")
    });
    wait_until("a sweep", PATIENCE, || {
        left(&sandbox).len().lt(&40).then_some(())
    });
    stale(100);
    for child in sessions {
        assert_eq!(finished(child).trim(), "ALL DONE 7f3a");
    }
    for name in ["one", "two"] {
        let deepest: PathBuf = (1..=ROUNDS).map(|n| format!("d{n}-{name}")).collect();
        let deepest = sandbox.work().join(deepest);
        assert!(deepest.is_dir(), "{} is not there", deepest.display());
    }
    let calls: usize = transcripts(&sandbox.home())
        .iter()
        .map(|transcript| tool_calls(transcript).len())
        .sum();
    assert!(calls >= 2 * ROUNDS as usize, "{calls}");
    assert_eq!(left(&sandbox), Vec::<String>::new());
}

#[test]
fn oldest_in_two_sessions_with_the_plugin_loses_no_live_file() {
    two_sessions_with_the_plugin_never_lose_a_live_file(OLDEST);
}

#[test]
fn newest_in_two_sessions_with_the_plugin_loses_no_live_file() {
    two_sessions_with_the_plugin_never_lose_a_live_file(NEWEST);
}

/// A folder with the plugin is a marketplace that the client takes it from, and it is enabled then.
fn the_plugin_installs_from_its_own_folder(version: &str) {
    let Some(program) = real_client(version) else {
        skip!("client {version} is not here: cargo fetch-client {version}");
    };
    let sandbox = Sandbox::new();
    prepare_home(&sandbox);
    let mock = match Isolated::start(&sandbox, &Scenario::default(), false) {
        Ok(mock) => mock,
        Err(why) => skip!("no network namespace: {why}"),
    };
    // As installed: nothing of it can be written.
    let plugin = plugin().display().to_string();
    for words in [
        &["plugin", "marketplace", "add", &plugin][..],
        &["plugin", "install", "session-safe@session-safe"],
    ] {
        let mut command = sandbox.command(&program);
        command.args(words);
        set_up(&mut command, &mock).expect("the mock lives");
        let output = command.output().expect("the client");
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
    }
    let settings = fs::read_to_string(sandbox.home().join(".claude/settings.json")).unwrap();
    let settings: Value = serde_json::from_str(&settings).expect("settings");
    assert_eq!(
        settings["enabledPlugins"]["session-safe@session-safe"],
        true
    );
    assert_eq!(
        fs::metadata(&plugin).unwrap().nlink(),
        4,
        "two folders in it, as before"
    );
}

#[test]
fn oldest_installs_the_plugin_from_its_own_folder() {
    the_plugin_installs_from_its_own_folder(OLDEST);
}

#[test]
fn newest_installs_the_plugin_from_its_own_folder() {
    the_plugin_installs_from_its_own_folder(NEWEST);
}
