//! What a session leaves running, from outside: who is ended, who is left alone, and on what proof. The client is a shell
//! script that starts what a client starts; all of it ends by itself within five minutes.

use claude_safe_tests::pty::send_signal;
use claude_safe_tests::{KillOnDrop, Sandbox, artifacts, proc_view, wait_until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// No single step takes longer on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Three servers that stay when their client goes; a tool's shell that starts a daemon, one more with nohup and one
/// plain background process, and ends. Each writes its pid to a file of its name. Then the client waits for the end
/// of its input.
const CLIENT: &str = r#"#!/bin/sh
one() { echo $$ > "$PIDS/$1"; exec sleep 300; }
case ${1-} in one) one "$2" ;; stubborn) trap '' TERM; echo $$ > "$PIDS/stubborn"; while :; do sleep 300; done ;; esac
for name in $SERVERS; do "$0" one "$name" < /dev/null > /dev/null 2>&1 & done
if [ -n "${STUBBORN-}" ]; then "$0" stubborn < /dev/null > /dev/null 2>&1 & fi
if [ -n "${TOOL-}" ]; then
  # The shell lives until a look has seen what it started.
  setsid sh -c 'echo $$ > "$PIDS/shell"; setsid "$0" one daemon < /dev/null > /dev/null 2>&1 &
    nohup "$0" one nohup < /dev/null > /dev/null 2>&1 &
    "$0" one background < /dev/null > /dev/null 2>&1 &
    n=0; while [ ! -e "$PIDS/seen" ] && [ $n -lt 2400 ]; do sleep 0.05; n=$((n + 1)); done' "$0" &
fi
echo $$ > "$PIDS/client"
cat > /dev/null
exit 7
"#;

/// Who is ended by hand, should a test fail.
struct Session {
    sandbox: Sandbox,
    wrapper: Option<KillOnDrop>,
}

impl Session {
    fn command(sandbox: &Sandbox, variables: &[(&str, &str)]) -> Command {
        let client = sandbox.file("claude");
        if !client.exists() {
            fs::write(&client, CLIENT).unwrap();
            fs::set_permissions(&client, fs::Permissions::from_mode(0o755)).unwrap();
            fs::create_dir(sandbox.file("pids")).unwrap();
        }
        let mut command = sandbox.command(&artifacts().claude_safe);
        command
            .env("CLAUDE_SAFE_BIN", client)
            .env("CLAUDE_WATCHDOG_INTERVAL", "1")
            .env("PIDS", sandbox.file("pids"))
            .env("SERVERS", "")
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// A session whose looks have seen all of `names`.
    fn start(variables: &[(&str, &str)], names: &[&str]) -> Session {
        let sandbox = Sandbox::new();
        let wrapper = Session::command(&sandbox, variables).spawn().unwrap();
        let mut session = Session {
            sandbox,
            wrapper: None,
        };
        session.wrapper = Some(KillOnDrop(wrapper));
        let pids: Vec<i32> = names.iter().map(|name| session.pid(name)).collect();
        session.seen(&pids);
        if variables.iter().any(|(name, _)| *name == "TOOL") {
            let shell = session.pid("shell");
            fs::write(session.sandbox.file("pids/seen"), "").unwrap();
            wait_until("the end of the tool's shell", PATIENCE, || {
                (!proc_view::alive(shell)).then_some(())
            });
        }
        session
    }

    fn pid(&self, name: &str) -> i32 {
        let file = self.sandbox.file("pids").join(name);
        wait_until(name, PATIENCE, || {
            let text = fs::read_to_string(&file).ok()?;
            // Written, and become what it is: `sleep`, or the shell that is not to be ended.
            text.trim().parse().ok()
        })
    }

    fn folder(&self) -> PathBuf {
        let base = self.sandbox.run().join("claude-safe");
        let mut all: Vec<_> = fs::read_dir(base).unwrap().flatten().collect();
        assert_eq!(all.len(), 1, "one session");
        all.pop().unwrap().path()
    }

    /// Waits until the ledger holds all of them.
    fn seen(&self, pids: &[i32]) {
        wait_until("the ledger", PATIENCE, || {
            let text = fs::read_to_string(self.folder().join("processes")).ok()?;
            let has = |pid: &i32| text.lines().any(|l| l.starts_with(&format!("{pid} ")));
            pids.iter().all(has).then_some(())
        });
    }

    fn wrapper(&mut self) -> &mut Child {
        &mut self.wrapper.as_mut().unwrap().0
    }

    /// The client's input ends, and so does the client. What claude-safe says, and its status.
    fn finish(&mut self) -> (Option<i32>, String) {
        let result = end_of(self.wrapper());
        self.wrapper = None;
        result
    }

    /// Client and claude-safe are killed at once, as by the end of the machine's memory.
    fn kill(&mut self) {
        let (client, wrapper) = (self.pid("client"), self.wrapper().id() as i32);
        send_signal(wrapper, libc::SIGSTOP).unwrap();
        send_signal(client, libc::SIGKILL).unwrap();
        send_signal(wrapper, libc::SIGKILL).unwrap();
        self.wrapper().wait().unwrap();
        self.wrapper = None;
        wait_until("the client's end", PATIENCE, || {
            (!proc_view::alive(client)).then_some(())
        });
    }

    /// Another session in the same home, from its start to the end of its first look and a bit.
    fn next(&self, arguments: &[(&str, &str)]) -> String {
        let mut command = Session::command(&self.sandbox, arguments);
        fs::remove_file(self.sandbox.file("pids/client")).unwrap();
        let mut child = KillOnDrop(command.spawn().unwrap());
        let client = self.pid("client");
        let ledger = || {
            let base = self.sandbox.run().join("claude-safe");
            let mine = fs::read_dir(base).unwrap().flatten().find(|entry| {
                let name = entry.file_name().into_string().unwrap();
                name.starts_with(&format!("{}.", child.0.id()))
            })?;
            fs::read_to_string(mine.path().join("processes")).ok()
        };
        wait_until("its first look", PATIENCE, ledger);
        assert!(proc_view::alive(client));
        end_of(&mut child.0).1
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.wrapper = None;
        for entry in fs::read_dir(self.sandbox.file("pids"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let pid = fs::read_to_string(entry.path()).unwrap_or_default();
            if let Ok(pid) = pid.trim().parse::<i32>()
                && is_ours(pid)
            {
                let _ = send_signal(pid, libc::SIGKILL);
            }
        }
    }
}

/// Closes its input, and waits for its end: its status, and what it said.
fn end_of(child: &mut Child) -> (Option<i32>, String) {
    drop(child.stdin.take());
    let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    (child.wait().unwrap().code(), said)
}

/// Is it still what the script started?
fn is_ours(pid: i32) -> bool {
    let words = proc_view::cmdline(pid);
    words == ["sleep", "300"] || words.iter().any(|word| word == "stubborn")
}

fn living<'a>(session: &Session, names: &[&'a str]) -> Vec<&'a str> {
    let lives = |name: &&&str| is_ours(session.pid(name));
    names.iter().filter(lives).copied().collect()
}

const SERVERS: [&str; 3] = ["one", "two", "three"];
const ALL: [&str; 6] = ["one", "two", "three", "daemon", "nohup", "background"];
const EVERYTHING: [(&str, &str); 2] = [("SERVERS", "one two three"), ("TOOL", "1")];

#[test]
fn a_session_that_was_killed_leaves_after_the_next_start_exactly_its_daemons() {
    let mut session = Session::start(&EVERYTHING, &ALL);
    session.kill();
    assert_eq!(
        living(&session, &ALL),
        ALL,
        "all of them outlive their client"
    );
    let said = session.next(&[]);
    assert_eq!(living(&session, &ALL), ["daemon", "nohup"]);
    assert!(
        said.contains(
            "ending 4 processes of an earlier session that was killed: \"sleep 300\" (pid"
        ),
        "{said}"
    );
    assert!(!said.contains("left alone"), "{said}");
}

#[test]
fn at_the_end_of_a_client_what_it_left_is_ended_and_its_daemons_are_named() {
    let mut session = Session::start(&EVERYTHING, &ALL);
    let (code, said) = session.finish();
    assert_eq!(code, Some(7), "the client's status: {said}");
    assert_eq!(living(&session, &ALL), ["daemon", "nohup"]);
    let daemon = session.pid("daemon");
    for text in [
        "ended 4 processes that claude left running: ",
        "and 1 more; left alone 2 processes that had detached on purpose: ",
        &format!("(pid {daemon})"),
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn who_does_not_leave_on_term_is_killed() {
    let variables = [("SERVERS", "one"), ("STUBBORN", "1")];
    let mut session = Session::start(&variables, &["one", "stubborn"]);
    let stubborn = session.pid("stubborn");
    assert_eq!(
        proc_view::signal_set(stubborn, "SigIgn").unwrap() & (1 << 14),
        1 << 14
    );
    let (code, said) = session.finish();
    assert_eq!(code, Some(7));
    assert_eq!(living(&session, &["one", "stubborn"]), [""; 0], "{said}");
}

#[test]
fn nothing_is_ended_where_sweeping_is_off() {
    let variables = [("SERVERS", "one two three"), ("CLAUDE_SAFE_SWEEP", "off")];
    let mut session = Session::start(&variables, &SERVERS);
    let (code, said) = session.finish();
    assert_eq!((code, said.as_str()), (Some(7), ""));
    assert_eq!(living(&session, &SERVERS), SERVERS);

    let mut session = Session::start(&[("SERVERS", "one two three")], &SERVERS);
    session.kill();
    assert_eq!(session.next(&[("CLAUDE_SAFE_SWEEP", "off")]), "");
    assert_eq!(living(&session, &SERVERS), SERVERS);
}

#[test]
fn a_process_that_only_has_the_number_of_one_of_ours_is_left_alone() {
    for (more_ticks, lives) in [(1, true), (0, false)] {
        let mut session = Session::start(&[("SERVERS", "one")], &["one"]);
        let pid = session.pid("one");
        let ledger = session.folder().join("processes");
        session.kill();
        // As if the number had a new owner since.
        let text = fs::read_to_string(&ledger).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{pid} ")))
            .unwrap();
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        words[1] = (words[1].parse::<u64>().unwrap() + more_ticks).to_string();
        fs::write(&ledger, text.replace(line, &words.join(" "))).unwrap();
        session.next(&[]);
        assert_eq!(is_ours(pid), lives, "{more_ticks} ticks more");
    }
}

#[test]
fn a_ledger_that_somebody_else_could_have_written_proves_nothing() {
    let mut session = Session::start(&[("SERVERS", "one")], &["one"]);
    let folder = session.folder();
    session.kill();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).unwrap();
    session.next(&[]);
    assert_eq!(living(&session, &["one"]), ["one"]);
}

/// The group is a folder here; that of a kernel is tested in a machine that has one (tests/vm).
#[test]
fn who_is_in_the_groups_of_a_dead_session_is_its_own_though_no_look_has_seen_it() {
    for (is_its_own, ended) in [(true, vec!["two"]), (false, vec![])] {
        let mut session = Session::start(&[("SERVERS", "one two three")], &SERVERS);
        let folder = session.folder();
        let [one, two, three] = SERVERS.map(|name| session.pid(name));
        session.kill();
        // In the ledger: nobody but the client's session.
        let ledger = folder.join("processes");
        let text = fs::read_to_string(&ledger).unwrap();
        fs::write(&ledger, text.lines().next().unwrap().to_owned() + "\n").unwrap();
        let name = folder.file_name().unwrap().to_str().unwrap();
        let group = match is_its_own {
            true => format!("claude-safe-{}.slice", name.replace('.', "_")),
            false => "user.slice".to_owned(),
        };
        let group = session.sandbox.root().join(group);
        fs::create_dir_all(group.join("x.scope")).unwrap();
        fs::write(group.join("x.scope/cgroup.procs"), format!("{two}\n")).unwrap();
        let notes = folder.join("session");
        let text = fs::read_to_string(&notes).unwrap();
        let mut lines: Vec<_> = text
            .lines()
            .filter(|line| !line.starts_with("group_folder="))
            .map(str::to_owned)
            .collect();
        lines.push(format!("group_folder={}\n", group.display()));
        fs::write(&notes, lines.join("\n")).unwrap();
        session.next(&[]);
        let left: Vec<_> = SERVERS
            .into_iter()
            .filter(|name| !ended.contains(name))
            .collect();
        assert_eq!(
            living(&session, &SERVERS),
            left,
            "{one} {two} {three}, {is_its_own}"
        );
    }
}

#[test]
fn clean_tells_whose_each_process_is_and_ends_only_what_dead_sessions_left() {
    let mut session = Session::start(&EVERYTHING, &ALL);
    session.kill();
    // A running session beside it, which is told not to clear up; and what some other claude has left.
    fs::remove_file(session.sandbox.file("pids/client")).unwrap();
    let variables = [("SERVERS", "four"), ("CLAUDE_SAFE_SWEEP", "off")];
    let live = Session::command(&session.sandbox, &variables)
        .spawn()
        .unwrap();
    let mut live = KillOnDrop(live);
    let four = session.pid("four");
    let mut stranger = session.sandbox.command("/usr/bin/setsid");
    let script = r#"echo $$ > "$PIDS/stranger"; exec sleep 300"#;
    stranger
        .args(["-f", "sh", "-c", script])
        .env("PIDS", session.sandbox.file("pids"))
        .env("CLAUDECODE", "1");
    assert!(stranger.status().unwrap().success());
    let stranger = session.pid("stranger");
    let classes = |options: &[&str]| {
        let mut command = session.sandbox.command(&artifacts().claude_safectl);
        let output = command.arg("clean").args(options).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        told["processes"].as_array().unwrap().clone()
    };
    let class = |told: &[serde_json::Value], pid: i32| {
        let row = told.iter().find(|row| row["pid"] == pid)?;
        Some((row["class"].as_str()?.to_owned(), row["ended"].as_bool()?))
    };
    let of = |word: &str, ended| Some((word.to_owned(), ended));
    let told = wait_until("the stranger and the live session", PATIENCE, || {
        let told = classes(&["--orphans", "--dry-run", "--json"]);
        (class(&told, stranger).is_some() && class(&told, four).is_some()).then_some(told)
    });
    for name in ["one", "two", "three", "background"] {
        assert_eq!(
            class(&told, session.pid(name)),
            of("ours-dead", false),
            "{name}"
        );
    }
    for name in ["daemon", "nohup"] {
        assert_eq!(
            class(&told, session.pid(name)),
            of("detached", false),
            "{name}"
        );
    }
    assert_eq!(class(&told, four), of("ours-live", false));
    assert_eq!(class(&told, stranger), of("not-ours", false));
    assert_eq!(class(&told, std::process::id() as i32), None);
    assert_eq!(living(&session, &ALL), ALL, "a dry run ends nobody");

    let told = classes(&["--orphans", "--json"]);
    assert_eq!(class(&told, session.pid("one")), of("ours-dead", true));
    assert_eq!(class(&told, four), of("ours-live", false));
    assert_eq!(living(&session, &ALL), ["daemon", "nohup"]);
    assert_eq!(
        living(&session, &["four", "stranger"]),
        ["four", "stranger"]
    );

    let mut in_words = session.sandbox.command(&artifacts().claude_safectl);
    let output = in_words
        .args(["clean", "--orphans", "--dry-run"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for words in [
        "left alone  detached: a session of its own",
        "not ours: no proof",
        "ours, session runs",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(end_of(&mut live.0).0, Some(7));
}
