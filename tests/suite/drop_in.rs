//! claude-safe in place of claude, from outside: what the client sees, what its caller sees, and
//! what a terminal and a shell see, compared with the same client started bare.
//!
//! Each run has a folder, home and environment of its own. The client is found as a user's is: by
//! a `claude` on `PATH`. Never looks into claude-safe: only at its pid, its children and its files.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use claude_safe_tests::pty::{detach, keep_descriptor, piped, send_signal};
use claude_safe_tests::{
    Job, JobSetup, KillOnDrop, Modes, Pty, Sandbox, artifacts, poll_until, proc_view, program,
    wait_until,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// Who is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// The client alone: the measure of all.
    Bare,
    /// The client under claude-safe.
    Wrapped,
}

use Who::{Bare, Wrapped};

const BOTH: [Who; 2] = [Bare, Wrapped];

/// A sandbox with a `claude` on its path.
struct World {
    sandbox: Sandbox,
}

impl World {
    /// The client is the stand-in.
    fn new() -> World {
        World::with_client(&program("fake-claude"))
    }

    fn with_client(client: &Path) -> World {
        let sandbox = Sandbox::new();
        fs::create_dir(sandbox.file("bin")).unwrap();
        symlink(client, sandbox.file("bin/claude")).unwrap();
        World { sandbox }
    }

    fn with_script(text: &str) -> World {
        let world = World {
            sandbox: Sandbox::new(),
        };
        fs::create_dir(world.file("bin")).unwrap();
        executable(&world.file("bin/claude"), text);
        world
    }

    fn file(&self, name: &str) -> PathBuf {
        self.sandbox.file(name)
    }

    fn client(&self) -> PathBuf {
        self.file("bin/claude")
    }

    /// `claude` as a shell would start it, with the same environment whoever it is.
    fn command(&self, who: Who, plan: &str) -> Command {
        let mut command = match who {
            Bare => self.sandbox.command(self.client()),
            Wrapped => self.sandbox.command(&artifacts().claude_safe),
        };
        let path = format!("{}:{}", self.file("bin").display(), self.sandbox.path());
        command.arg0("claude").env("PATH", path);
        if !plan.is_empty() {
            command.env("FAKE_CLAUDE", plan);
        }
        command
    }

    /// `-p` with a prompt that can be no subcommand.
    fn print(&self, who: Who, plan: &str) -> Command {
        let mut command = self.command(who, plan);
        command.args(["-p", "say it"]);
        command
    }

    /// The folders of sessions.
    fn session_folders(&self) -> Vec<PathBuf> {
        entries(&self.sandbox.run().join("claude-safe"))
    }
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    closed_for_writing(path);
}

/// Waits until nobody has the file open for writing: a process that another test's thread forked
/// meanwhile holds it up to its exec, and until then it can't be executed (ETXTBSY). A lease for
/// reading is granted only then (fcntl(2)).
fn closed_for_writing(path: &Path) {
    let file = File::open(path).unwrap();
    wait_until("the last writer's close", SOON, || {
        // SAFETY: integers only; the lease ends with the descriptor.
        let rc = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
        let busy = io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN);
        (rc == 0 || !busy).then_some(())
    });
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    all.sort();
    all
}

/// Everything below a folder.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in entries(folder) {
        if entry.is_dir() && !entry.is_symlink() {
            all.extend(tree(&entry));
        }
        all.push(entry);
    }
    all.sort();
    all
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn lines_of_json(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|l| serde_json::from_str(l).ok())
        .collect()
}

/// The first whole line of a file that a program writes.
fn first_line(path: &Path) -> Value {
    wait_until(&format!("a line in {}", path.display()), SOON, || {
        lines_of_json(path).into_iter().next()
    })
}

/// Runs to its end, in time.
fn run(mut command: Command) -> Output {
    let mut child = KillOnDrop(piped(&mut command).stdin(Stdio::null()).spawn().unwrap());
    // Little is written in these tests: no pipe fills up.
    let status = ended(&mut child.0);
    let mut output = Output {
        status,
        stdout: Vec::new(),
        stderr: Vec::new(),
    };
    child
        .0
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut output.stdout)
        .unwrap();
    child
        .0
        .stderr
        .take()
        .unwrap()
        .read_to_end(&mut output.stderr)
        .unwrap();
    output
}

#[track_caller]
fn ended(child: &mut Child) -> ExitStatus {
    wait_until("its end", SOON, || child.try_wait().unwrap())
}

/// A status as a shell has it in `$?`.
fn shell_status(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap())
}

/// How often each signal is in the stand-in's record.
fn counts(record: &Path) -> BTreeMap<i64, usize> {
    let mut counts = BTreeMap::new();
    for line in lines_of_json(record) {
        if let Some(signal) = line["signal"].as_i64() {
            *counts.entry(signal).or_insert(0) += 1;
        }
    }
    counts
}

#[track_caller]
fn wait_for_signal(record: &Path, signal: i32, times: usize) {
    wait_until(&format!("signal {signal}, {times} times"), SOON, || {
        (counts(record).get(&i64::from(signal)).copied().unwrap_or(0) >= times).then_some(())
    });
}

/// The stand-in that a wrapper runs.
#[track_caller]
fn client_of(wrapper: i32) -> i32 {
    let fake = program("fake-claude");
    wait_until("the client", SOON, || {
        proc_view::children(wrapper)
            .into_iter()
            .find(|pid| proc_view::exe(*pid).as_ref() == Some(&fake))
    })
}

/// The running tool of the stand-in. Not before its exec: until then it is a copy of the client,
/// with its environment, in its group, with its handlers and what they write to; nor before the
/// loader has mapped the C library, and with it all that stands before it.
#[track_caller]
fn tool_of(client: i32) -> i32 {
    wait_until("the tool", SOON, || {
        proc_view::children(client).into_iter().find(|pid| {
            proc_view::cmdline(*pid)
                .first()
                .is_some_and(|a| a == "fake-claude-tool")
                && proc_view::maps_contain(*pid, "/libc.so.6")
        })
    })
}

#[track_caller]
fn sentinel_of(wrapper: i32) -> i32 {
    wait_until("the sentinel", SOON, || {
        proc_view::children(wrapper)
            .into_iter()
            .find(|pid| proc_view::stat(*pid).is_some_and(|s| s.comm == "cs-sentinel"))
    })
}

/// Whether a process group has a member that is more than a zombie.
fn group_lives(group: i32) -> bool {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter_map(proc_view::stat)
        .any(|s| s.group == group && !matches!(s.state, 'Z' | 'X'))
}

/// Lines of ours on standard error.
fn our_lines(stderr: &[u8]) -> Vec<String> {
    text(stderr)
        .lines()
        .filter(|l| l.starts_with("claude-safe: "))
        .map(str::to_owned)
        .collect()
}

// ---------------------------------------------------------------------------------------------
// Arguments, answers, exit codes

/// A client that says how it was called, byte for byte.
const WITNESS: &str = "#!/bin/sh\ncat /proc/$$/cmdline\n";

#[test]
fn every_argument_reaches_the_client_byte_for_byte() {
    let world = World::with_script(WITNESS);
    let odd = OsString::from_vec((1..=255).collect());
    let long = OsString::from_vec(vec![b'x'; 100_000]);
    let words = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
    let mut cases = vec![
        vec![],
        words(&[""]),
        words(&["", "", "-"]),
        words(&["--"]),
        words(&["--", "--", "-p", "--session-id"]),
        words(&["-p", "two words", "--", "--version"]),
        words(&["---", "-=-", "--x=", "=--", "-p=", "--session-id="]),
        words(&["a\nb", "\t", "*", "$(id)", "'\"\\", "é", "\u{1f600}"]),
        words(&["mcp", "add", "x", "--", "npx", "-y", "thing"]),
        vec![odd.clone(), OsString::from_vec(vec![0xff]), odd],
        vec![long],
    ];
    cases.push((0..1000).map(|n| format!("--word-{n}").into()).collect());
    for case in cases {
        let answers = BOTH.map(|who| {
            let mut command = world.command(who, "");
            command.args(&case).stderr(Stdio::inherit());
            let output = command.output().unwrap();
            assert!(output.status.success(), "{who:?} {case:?}");
            output.stdout
        });
        // A script's own path is what its interpreter is given for argv[0], by whatever way.
        let wanted: Vec<u8> = case
            .iter()
            .flat_map(|w| [w.as_bytes(), b"\0"].concat())
            .collect();
        assert!(
            answers[0].ends_with(&wanted),
            "the premise: the witness tells all"
        );
        assert!(
            answers[0] == answers[1],
            "{case:?}: {:?}",
            text(&answers[1])
        );
    }
}

#[test]
fn a_fresh_session_is_given_an_id_and_nothing_else_is_touched() {
    let cases: [(&[&str], bool); 12] = [
        (&["-p", "say it"], true),
        (&["--model", "x", "-p", "say it"], true),
        (&["-p", "--", "-x"], true),
        (&["-p", "--output-format=json", "say it"], true),
        (
            &[
                "--session-id",
                "11111111-2222-4333-8444-555555555555",
                "-p",
                "say it",
            ],
            false,
        ),
        (
            &[
                "--session-id=11111111-2222-4333-8444-555555555556",
                "-p",
                "say it",
            ],
            false,
        ),
        (
            &[
                "--resume",
                "11111111-2222-4333-8444-555555555555",
                "-p",
                "say it",
            ],
            false,
        ),
        (&["--continue", "-p", "say it"], false),
        (&["mcp", "list"], false),
        (&["doctor"], false),
        (&["--version"], false),
        (&["-v"], false),
    ];
    for (words, has_id) in cases {
        let world = World::new();
        let argv = BOTH.map(|who| {
            let report = world.file(&format!("report-{who:?}"));
            let mut command = world.command(who, &format!("report={};rounds=0", report.display()));
            command.args(words);
            run(command);
            first_line(&report)["argv"].as_array().unwrap().clone()
        });
        if has_id {
            assert_eq!(argv[1][1], "--session-id", "{words:?}: {:?}", argv[1]);
            let id = argv[1][2].as_str().unwrap();
            assert!(id.len() == 36 && id.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()));
            assert_eq!(
                (&argv[1][0], &argv[1][3..]),
                (&argv[0][0], &argv[0][1..]),
                "{words:?}"
            );
        } else {
            assert_eq!(argv[1], argv[0], "{words:?}");
        }
    }
}

#[test]
fn subcommands_questions_and_mistakes_answer_as_bare() {
    let cases: [&[&str]; 8] = [
        &["mcp", "list"],
        &["doctor"],
        &["--version"],
        &["update", "--", "now"],
        &["-p"],
        &["--no-such-option"],
        &[
            "--resume",
            "11111111-2222-4333-8444-555555555555",
            "-p",
            "x y",
        ],
        &["-p", "say it"],
    ];
    for words in cases {
        let answers = BOTH.map(|who| {
            let world = World::new();
            let mut command = world.command(who, "rounds=1;round_ms=1;answer=The end.");
            command.args(words);
            let output = run(command);
            (
                output.status.code(),
                text(&output.stdout),
                text(&output.stderr),
            )
        });
        assert_eq!(answers[0], answers[1], "{words:?}");
        assert!(answers[0].0.is_some(), "the premise: it exits");
    }
}

#[test]
fn piped_input_reaches_the_client_whole() {
    let world = World::with_script("#!/bin/sh\nexec cat\n");
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n * 7 / 3) as u8).collect();
    for who in BOTH {
        let mut command = world.command(who, "");
        let mut child = KillOnDrop(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut input = child.0.stdin.take().unwrap();
        let output = child.0.stdout.take().unwrap();
        let writer = std::thread::spawn({
            let sent = sent.clone();
            move || input.write_all(&sent)
        });
        let mut got = Vec::new();
        io::BufReader::new(output).read_to_end(&mut got).unwrap();
        writer.join().unwrap().unwrap();
        assert!(
            got == sent,
            "{who:?}: {} of {} bytes",
            got.len(),
            sent.len()
        );
        assert!(ended(&mut child.0).success());
    }
}

#[test]
fn a_prompt_on_stdin_is_answered_as_bare() {
    let answers = BOTH.map(|who| {
        let world = World::new();
        let mut command = world.command(who, "rounds=1;round_ms=1");
        command.arg("-p");
        let mut child = KillOnDrop(piped(&mut command).spawn().unwrap());
        child
            .0
            .stdin
            .take()
            .unwrap()
            .write_all(b"do this\n")
            .unwrap();
        let answer = std::io::read_to_string(child.0.stdout.take().unwrap()).unwrap();
        let complaints = std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap();
        (ended(&mut child.0).code(), answer, complaints)
    });
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], (Some(0), "ALL DONE\n".into(), String::new()));
}

#[test]
fn every_exit_code_is_the_clients() {
    let world = World::with_script("#!/bin/sh\nexit \"$1\"\n");
    for code in 0..=255 {
        let mut command = world.command(Wrapped, "");
        command.arg(code.to_string());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(text(&output.stderr), "", "exit code {code}");
    }
}

#[test]
fn an_exit_code_of_a_session_is_the_clients_too() {
    for code in [0, 1, 2, 126, 127, 128, 137, 143, 255] {
        let world = World::new();
        let output = run(world.print(Wrapped, &format!("exit={code};round_ms=30000")));
        assert_eq!(
            (output.status.code(), text(&output.stderr)),
            (Some(code), String::new())
        );
    }
}

#[test]
fn death_by_a_signal_is_128_and_its_number_and_one_line_says_so() {
    let names: [(i32, &str); 25] = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (5, "SIGTRAP"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (10, "SIGUSR1"),
        (11, "SIGSEGV"),
        (12, "SIGUSR2"),
        (13, "SIGPIPE"),
        (14, "SIGALRM"),
        (15, "SIGTERM"),
        (16, "SIGSTKFLT"),
        (24, "SIGXCPU"),
        (25, "SIGXFSZ"),
        (26, "SIGVTALRM"),
        (27, "SIGPROF"),
        (29, "SIGIO"),
        (30, "SIGPWR"),
        (31, "SIGSYS"),
        (34, "signal 34"),
        (64, "signal 64"),
    ];
    for (signal, name) in names {
        let world = World::new();
        let plan = format!("die={signal};round_ms=30000");
        let bare = run(world.print(Bare, &plan));
        assert_eq!(
            bare.status.signal(),
            Some(signal),
            "the premise: it dies of {signal}"
        );
        let wrapped = run(world.print(Wrapped, &plan));
        assert_eq!(wrapped.status.code(), Some(128 + signal));
        let lines = our_lines(&wrapped.stderr);
        assert_eq!(lines.len(), 1, "{signal}: {:?}", text(&wrapped.stderr));
        assert!(lines[0].contains(&format!(" {name},")), "{lines:?}");
        assert_eq!(
            text(&wrapped.stderr).lines().count(),
            1,
            "nothing else is said"
        );
    }
}

#[test]
fn a_reader_that_leaves_is_felt_as_bare() {
    // `claude -p … | head -1`: the default SIGPIPE, and an inherited "ignore".
    for ignored in [false, true] {
        let ends = BOTH.map(|who| {
            let world = World::with_client(Path::new("/usr/bin/yes"));
            let mut command = world.command(who, "");
            command
                .arg("a b")
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            inherit(&mut command, &[(libc::SIGPIPE, ignored)], &[]);
            let mut child = KillOnDrop(command.spawn().unwrap());
            let mut first = [0; 4];
            child
                .0
                .stdout
                .take()
                .unwrap()
                .read_exact(&mut first)
                .unwrap();
            let status = ended(&mut child.0);
            let said = std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap();
            (shell_status(status), said)
        });
        assert_eq!(ends[0].0, ends[1].0, "ignored: {ignored}: {ends:?}");
        assert_eq!(
            ends[0].0,
            if ignored { 1 } else { 128 + libc::SIGPIPE },
            "the premise"
        );
    }
}

// ---------------------------------------------------------------------------------------------
// What the client inherits

/// Makes `command` inherit dispositions (ignored or default) and blocked signals.
fn inherit(command: &mut Command, dispositions: &[(i32, bool)], blocked: &[i32]) {
    let (dispositions, blocked) = (dispositions.to_vec(), blocked.to_vec());
    // SAFETY: signal, sigemptyset, sigaddset and sigprocmask are async-signal-safe; the set is
    // initialised before use.
    unsafe {
        command.pre_exec(move || {
            for (signal, ignored) in &dispositions {
                libc::signal(
                    *signal,
                    if *ignored {
                        libc::SIG_IGN
                    } else {
                        libc::SIG_DFL
                    },
                );
            }
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in &blocked {
                libc::sigaddset(&mut set, *signal);
            }
            libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
            Ok(())
        });
    }
}

/// What the client reports of itself, without what differs between any two runs.
fn report_of(world: &World, who: Who, prepare: impl Fn(&mut Command)) -> Value {
    let report = world.file("report");
    let _ = fs::remove_file(&report);
    let plan = format!("report={};rounds=0", report.display());
    let mut command = world.command(who, &plan);
    command.arg("doctor");
    for name in ["out", "err"] {
        let file = File::create(world.file(name)).unwrap();
        if name == "out" {
            command.stdout(file)
        } else {
            command.stderr(file)
        };
    }
    command.process_group(0);
    prepare(&mut command);
    let mut child = KillOnDrop(command.spawn().unwrap());
    let started = json!(child.0.id());
    let status = ended(&mut child.0);
    assert_eq!(
        status.code(),
        Some(0),
        "{who:?}: {:?}",
        fs::read_to_string(world.file("err"))
    );
    let mut told = first_line(&report);
    assert_eq!(
        told["pgid"], started,
        "{who:?}: the group is that of whom we started"
    );
    for differs in ["pid", "ppid", "pgid"] {
        told.as_object_mut().unwrap().remove(differs);
    }
    told
}

#[track_caller]
fn assert_same_inheritance(world: &World, prepare: impl Fn(&mut Command)) -> Value {
    let bare = report_of(world, Bare, &prepare);
    let wrapped = report_of(world, Wrapped, &prepare);
    for (name, value) in bare.as_object().unwrap() {
        assert_eq!(&wrapped[name], value, "{name}");
    }
    assert_eq!(bare, wrapped);
    bare
}

#[test]
fn the_client_inherits_what_it_would_inherit_bare() {
    let world = World::new();
    fs::create_dir(world.file("elsewhere")).unwrap();
    let extra = File::create(world.file("extra")).unwrap();
    let told = assert_same_inheritance(&world, |command| {
        command
            .current_dir(world.file("elsewhere"))
            .env("ODD", "a=b;c\nd")
            .env("EMPTY", "");
        keep_descriptor(command, extra.as_raw_fd());
        // SAFETY: three system calls with integers and a structure on this stack.
        unsafe {
            command.pre_exec(|| {
                libc::umask(0o026);
                let few = libc::rlimit {
                    rlim_cur: 77,
                    rlim_max: 99,
                };
                libc::setrlimit(libc::RLIMIT_NOFILE, &few);
                let none = libc::rlimit {
                    rlim_cur: 0,
                    rlim_max: 0,
                };
                libc::setrlimit(libc::RLIMIT_CORE, &none);
                Ok(())
            });
        }
    });
    // The premises.
    assert_eq!(
        (&told["umask"], &told["env"]["ODD"]),
        (&json!(0o026), &json!("a=b;c\nd"))
    );
    assert!(told["cwd"].as_str().unwrap().ends_with("/elsewhere"));
    assert!(told["limits"].as_str().unwrap().contains(" 77 "));
    assert_eq!(told["fds"].as_object().unwrap().len(), 4, "{}", told["fds"]);
}

#[test]
fn signals_ignored_or_blocked_by_our_parent_are_so_for_the_client() {
    use libc::{SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGWINCH};
    let cases: [(&[i32], &[i32]); 9] = [
        (&[], &[]),
        (&[SIGHUP], &[]),
        (&[SIGINT, SIGQUIT], &[]),
        (&[SIGCHLD], &[]),
        (&[SIGPIPE], &[]),
        (&[SIGTSTP, SIGUSR1], &[]),
        (&[], &[SIGINT, SIGTERM, SIGCHLD, SIGUSR1]),
        (&[], &[34, 40, 64]),
        (&[SIGWINCH, 35], &[SIGHUP, SIGWINCH]),
    ];
    let world = World::new();
    for (ignored, blocked) in cases {
        let told = assert_same_inheritance(&world, |command| {
            let mut dispositions = vec![(SIGPIPE, false)];
            dispositions.extend(ignored.iter().map(|s| (*s, true)));
            inherit(command, &dispositions, blocked);
        });
        assert_eq!(
            (&told["ignored"], &told["blocked"]),
            (
                &json!(ignored.to_vec().in_order()),
                &json!(blocked.to_vec().in_order())
            )
        );
    }
}

trait InOrder {
    fn in_order(self) -> Self;
}

impl InOrder for Vec<i32> {
    fn in_order(mut self) -> Self {
        self.sort_unstable();
        self
    }
}

#[test]
fn standard_streams_that_are_closed_stay_closed_for_the_client() {
    // A shell opens nothing by itself where a descriptor is missing; it names what is open.
    let script = "#!/bin/sh\nexec 9>\"$OUT\"\nfor fd in 0 1 2 3 4 5 6 7 8; do\n[ -e /proc/$$/fd/$fd ] && readlink /proc/$$/fd/$fd >&9\ndone\nexit 0\n";
    let world = World::with_script(script);
    for closed in [
        vec![0],
        vec![1],
        vec![2],
        vec![0, 1],
        vec![1, 2],
        vec![0, 1, 2],
    ] {
        let seen = BOTH.map(|who| {
            let mut command = world.command(who, "");
            command.env("OUT", world.file("out")).arg("doctor");
            command.stdout(File::create(world.file("one")).unwrap());
            command.stderr(File::create(world.file("two")).unwrap());
            let to_close = closed.clone();
            // SAFETY: close is async-signal-safe; nothing of this child uses the three.
            unsafe {
                command.pre_exec(move || {
                    for fd in &to_close {
                        libc::close(*fd);
                    }
                    Ok(())
                });
            }
            let mut child = KillOnDrop(command.spawn().unwrap());
            assert!(ended(&mut child.0).success(), "{who:?} {closed:?}");
            fs::read_to_string(world.file("out")).unwrap()
        });
        assert_eq!(seen[0], seen[1], "closed: {closed:?}");
        // The script itself is open in its shell, with a number above 9.
        assert_eq!(
            seen[0].lines().count(),
            3 - closed.len(),
            "the premise: {}",
            seen[0]
        );
    }
}

#[test]
fn a_client_without_standard_streams_runs_a_session_to_its_end() {
    for who in BOTH {
        let world = World::new();
        let mut command = world.print(who, "rounds=2;round_ms=1");
        // SAFETY: close is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                for fd in 0..=2 {
                    libc::close(fd);
                }
                Ok(())
            });
        }
        let mut child = KillOnDrop(command.spawn().unwrap());
        assert_eq!(ended(&mut child.0).code(), Some(0), "{who:?}");
        let rounds = fs::read_to_string(world.sandbox.work().join("rounds.log")).unwrap();
        assert_eq!(rounds, "round-1\nround-2\n", "{who:?}");
        for file in tree(world.sandbox.root()) {
            let text = fs::read(&file).map(|t| text(&t)).unwrap_or_default();
            assert!(
                !text.contains("claude-safe: "),
                "{}: {text}",
                file.display()
            );
        }
    }
}

#[test]
fn nice_session_and_group_are_as_bare() {
    let world = World::new();
    for who in BOTH {
        let mut command = world.print(who, "rounds=1;round_ms=30000");
        detach(&mut command);
        // SAFETY: nice takes an integer.
        unsafe {
            command.pre_exec(|| {
                libc::nice(7);
                Ok(())
            });
        }
        let mut child = KillOnDrop(command.spawn().unwrap());
        let pid = child.0.id() as i32;
        let client = if who == Bare { pid } else { client_of(pid) };
        let seen = proc_view::stat(client).unwrap();
        assert_eq!(
            (seen.group, seen.session, seen.tty),
            (pid, pid, 0),
            "{who:?}"
        );
        // SAFETY: integers only.
        let nice_of = |pid| unsafe { libc::getpriority(libc::PRIO_PROCESS, pid) };
        assert_eq!(nice_of(client as u32), (nice_of(0) + 7).min(19), "{who:?}");
        send_signal(pid, libc::SIGTERM).unwrap();
        assert_eq!(shell_status(ended(&mut child.0)), 143);
    }
}

// ---------------------------------------------------------------------------------------------
// The guard leaves no trace in the environment

/// A library that does nothing.
fn harmless_library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let path = program("fake-claude").with_file_name("libcs_harmless.so");
        let mut child = Command::new("cc")
            .args(["-shared", "-fPIC", "-x", "c", "-", "-o"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .expect("cc");
        child
            .stdin
            .take()
            .unwrap()
            .write_all(b"int cs_harmless(void) { return 1; }\n")
            .unwrap();
        assert!(child.wait().unwrap().success());
        path
    })
}

/// The environment of a running client and of its tool, as the kernel shows both.
fn environments(
    world: &World,
    who: Who,
    preload: Option<&OsStr>,
    guarded: bool,
) -> [Vec<String>; 2] {
    let mut command = world.print(who, "rounds=1;round_ms=30000");
    if let Some(preload) = preload {
        command.env("LD_PRELOAD", preload);
    }
    let mut child = KillOnDrop(command.process_group(0).spawn().unwrap());
    let pid = child.0.id() as i32;
    let client = if who == Bare { pid } else { client_of(pid) };
    let tool = tool_of(client);
    let has_guard = |pid| proc_view::maps_contain(pid, "libclaude_guard.so");
    assert_eq!(has_guard(client), guarded, "{who:?}");
    assert!(!has_guard(tool), "a tool is never guarded");
    if preload.is_some_and(|p| !p.is_empty()) {
        assert!(
            proc_view::maps_contain(client, "libcs_harmless.so"),
            "{who:?}"
        );
        assert!(
            proc_view::maps_contain(tool, "libcs_harmless.so"),
            "{who:?}"
        );
    }
    let found = [client, tool].map(|pid| {
        let mut all = proc_view::environ(pid);
        // What was taken out in place stays behind as nothing.
        all.retain(|entry| !entry.is_empty());
        all
    });
    send_signal(-pid, libc::SIGKILL).unwrap();
    send_signal(tool, libc::SIGKILL).unwrap();
    ended(&mut child.0);
    found
}

#[test]
fn the_environment_of_the_client_and_its_tools_is_the_bare_one() {
    let library = harmless_library().as_os_str().to_owned();
    let twice = [library.as_bytes(), b":", library.as_bytes()].concat();
    let cases = [
        None,
        Some(OsString::new()),
        Some(library),
        Some(OsString::from_vec(twice)),
    ];
    for preload in cases {
        let world = World::new();
        let bare = environments(&world, Bare, preload.as_deref(), false);
        let wrapped = environments(&world, Wrapped, preload.as_deref(), true);
        assert_eq!(bare, wrapped, "LD_PRELOAD={preload:?}");
        let kept = bare[1]
            .iter()
            .filter(|e| e.starts_with("LD_PRELOAD="))
            .count();
        assert_eq!(kept, usize::from(preload.is_some()), "the premise");
    }
}

#[test]
fn nothing_of_ours_is_open_in_the_client() {
    let world = World::new();
    let open = BOTH.map(|who| {
        let mut command = world.print(who, "rounds=1;round_ms=30000");
        command.stdout(File::create(world.file("out")).unwrap());
        command.stderr(File::create(world.file("err")).unwrap());
        let mut child = KillOnDrop(command.spawn().unwrap());
        let pid = child.0.id() as i32;
        let client = if who == Bare { pid } else { client_of(pid) };
        // By then it has opened what it opens, and it is quiet.
        tool_of(client);
        let open = wait_until("quiet descriptors", SOON, || {
            let open = proc_view::descriptors(client);
            // Two pipe ends are the client's own, and a third only while it starts a tool.
            (open.len() == 5).then_some(open)
        });
        send_signal(pid, libc::SIGTERM).unwrap();
        ended(&mut child.0);
        open.into_iter()
            .map(|(fd, target)| {
                let target = target.display().to_string();
                (fd, target.split(":[").next().unwrap().to_owned())
            })
            .collect::<Vec<_>>()
    });
    assert_eq!(open[0], open[1]);
}

#[test]
fn a_start_leaves_nothing_behind_but_the_cache() {
    let left = BOTH.map(|who| {
        let world = World::new();
        let output = run(world.print(who, "rounds=1;round_ms=1"));
        assert!(output.status.success(), "{}", text(&output.stderr));
        let root = world.sandbox.root().to_owned();
        let mut left: Vec<String> = tree(&root)
            .iter()
            .map(|p| p.strip_prefix(&root).unwrap().display().to_string())
            // The client's own folder is named after the working folder.
            .filter(|p| !p.starts_with("home/.claude/projects/"))
            .collect();
        left.sort();
        left
    });
    let added: Vec<&String> = left[1].iter().filter(|p| !left[0].contains(p)).collect();
    assert_eq!(
        added,
        [
            "cache/claude-safe",
            "cache/claude-safe/clients",
            "cache/claude-safe/sweep",
            "run/claude-safe"
        ]
    );
    let missing: Vec<&String> = left[0].iter().filter(|p| !left[1].contains(p)).collect();
    assert_eq!(missing, Vec::<&String>::new());
}

// ---------------------------------------------------------------------------------------------
// Signals

/// A session in its own group whose client records every signal and obeys none.
struct Recorded {
    child: KillOnDrop,
    pid: i32,
    client: i32,
    record: PathBuf,
}

impl Recorded {
    fn start(world: &World, who: Who) -> Recorded {
        let record = world.file("signals");
        let _ = fs::remove_file(&record);
        let plan = format!(
            "signals={};ignore=all;rounds=1;round_ms=30000",
            record.display()
        );
        let mut command = world.print(who, &plan);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = KillOnDrop(command.process_group(0).spawn().unwrap());
        let pid = child.0.id() as i32;
        let client = first_line(&record)["ready"].as_i64().unwrap() as i32;
        assert_eq!(client == pid, who == Bare);
        tool_of(client);
        Recorded {
            child,
            pid,
            client,
            record,
        }
    }
}

impl Recorded {
    /// Waits until claude-safe has thought about everything that was sent. The same signal twice
    /// within that moment (some 100 microseconds) is one to the kernel, or can't be told apart.
    fn settled(&self) {
        if self.client == self.pid {
            return;
        }
        wait_until("the end of thinking", SOON, || {
            let quiet = |pid| proc_view::signal_set(pid, "ShdPnd") == Some(0);
            let sentinels: Vec<i32> = proc_view::children(self.pid)
                .into_iter()
                .filter(|pid| *pid != self.client)
                .collect();
            let [sentinel] = sentinels[..] else {
                return None;
            };
            (quiet(self.pid) && quiet(sentinel) && proc_view::alive(sentinel)).then_some(())
        });
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let _ = send_signal(-self.pid, libc::SIGKILL);
        let _ = self.child.0.wait();
    }
}

/// All that can be caught, but CHLD: that one tells of children, and ours are not the client's.
/// And but USR1, which has tests of its own.
fn catchable() -> Vec<i32> {
    (1..=31)
        .filter(|s| ![libc::SIGKILL, libc::SIGSTOP, libc::SIGCHLD, libc::SIGUSR1].contains(s))
        .collect()
}

/// Sends each signal once, and what was recorded when a last one has come through.
fn send_each(session: &Recorded, target: i32) -> BTreeMap<i64, usize> {
    for signal in catchable() {
        send_signal(target, signal).unwrap();
        wait_for_signal(&session.record, signal, 1);
    }
    // What is still on its way comes before this one.
    send_signal(target, libc::SIGURG).unwrap();
    wait_for_signal(&session.record, libc::SIGURG, 2);
    let mut counts = counts(&session.record);
    counts.remove(&i64::from(libc::SIGCHLD));
    if counts != once_each() {
        eprintln!(
            "client {}, we {}, record:\n{}",
            session.client,
            session.pid,
            fs::read_to_string(&session.record).unwrap()
        );
    }
    counts
}

fn once_each() -> BTreeMap<i64, usize> {
    let count = |s: i32| if s == libc::SIGURG { 2 } else { 1 };
    catchable()
        .into_iter()
        .map(|s| (i64::from(s), count(s)))
        .collect()
}

#[test]
fn every_signal_sent_to_us_alone_reaches_the_client_once() {
    for who in BOTH {
        let world = World::new();
        let session = Recorded::start(&world, who);
        assert_eq!(send_each(&session, session.pid), once_each(), "{who:?}");
    }
}

#[test]
fn every_signal_sent_to_the_group_reaches_the_client_once() {
    for who in BOTH {
        let world = World::new();
        let session = Recorded::start(&world, who);
        assert_eq!(send_each(&session, -session.pid), once_each(), "{who:?}");
    }
}

#[test]
fn signals_sent_to_the_group_in_a_hurry_are_never_doubled() {
    // As `kill -TERM -N; kill -CONT -N` of a shell or timeout(1) does: the second comes while the
    // first is being thought about.
    for who in BOTH {
        let world = World::new();
        let session = Recorded::start(&world, who);
        let pairs = 150;
        for n in 1..=pairs {
            send_signal(-session.pid, libc::SIGTERM).unwrap();
            // Each pair has another distance, 0 to 750 microseconds.
            let until = Instant::now() + Duration::from_micros(n * 5);
            while Instant::now() < until {}
            send_signal(-session.pid, libc::SIGCONT).unwrap();
            wait_for_signal(&session.record, libc::SIGTERM, n as usize);
            wait_for_signal(&session.record, libc::SIGCONT, n as usize);
            session.settled();
        }
        send_signal(-session.pid, libc::SIGURG).unwrap();
        wait_for_signal(&session.record, libc::SIGURG, 1);
        let counts = counts(&session.record);
        let seen = [libc::SIGTERM, libc::SIGCONT].map(|s| counts[&i64::from(s)]);
        assert_eq!(seen, [pairs as usize; 2], "{who:?}");
    }
}

#[test]
fn a_signal_to_us_alone_after_one_to_the_group_still_reaches_the_client() {
    let world = World::new();
    let session = Recorded::start(&world, Wrapped);
    let mut sent = 0;
    for _ in 0..20 {
        for target in [-session.pid, session.pid, session.pid] {
            send_signal(target, libc::SIGINT).unwrap();
            sent += 1;
            wait_for_signal(&session.record, libc::SIGINT, sent);
            session.settled();
        }
    }
    send_signal(session.pid, libc::SIGURG).unwrap();
    wait_for_signal(&session.record, libc::SIGURG, 1);
    assert_eq!(counts(&session.record)[&i64::from(libc::SIGINT)], sent);
}

#[test]
fn a_signal_to_the_client_itself_is_its_own_affair() {
    let world = World::new();
    let session = Recorded::start(&world, Wrapped);
    for signal in catchable() {
        send_signal(session.client, signal).unwrap();
        wait_for_signal(&session.record, signal, 1);
    }
    send_signal(session.pid, libc::SIGURG).unwrap();
    wait_for_signal(&session.record, libc::SIGURG, 2);
    let mut counts = counts(&session.record);
    counts.remove(&i64::from(libc::SIGCHLD));
    assert_eq!(counts, once_each());
}

#[test]
fn a_killed_sentinel_is_replaced_and_signals_still_arrive_once() {
    let world = World::new();
    let session = Recorded::start(&world, Wrapped);
    let first = sentinel_of(session.pid);
    send_signal(first, libc::SIGKILL).unwrap();
    wait_until("another sentinel", SOON, || {
        let children = proc_view::children(session.pid);
        let fresh = |pid: &i32| ![first, session.client].contains(pid);
        children.into_iter().find(fresh).filter(|pid| {
            // All its signals are blocked from its first instruction on, it inherits that.
            proc_view::stat(*pid).is_some_and(|stat| stat.state == 'S')
        })
    });
    send_signal(-session.pid, libc::SIGUSR2).unwrap();
    wait_for_signal(&session.record, libc::SIGUSR2, 1);
    send_signal(session.pid, libc::SIGURG).unwrap();
    wait_for_signal(&session.record, libc::SIGURG, 1);
    let usr2 = counts(&session.record)
        .get(&i64::from(libc::SIGUSR2))
        .copied();
    assert_eq!(usr2, Some(1));
}

#[test]
fn chld_sent_to_us_is_not_passed_on() {
    // The kernel sends us one for each of our own helpers: they must not look like the client's.
    let world = World::new();
    let session = Recorded::start(&world, Wrapped);
    // The client's tool runs for long: no CHLD of the client's own is due.
    send_signal(session.pid, libc::SIGCHLD).unwrap();
    send_signal(session.pid, libc::SIGURG).unwrap();
    wait_for_signal(&session.record, libc::SIGURG, 1);
    assert_eq!(counts(&session.record).get(&i64::from(libc::SIGCHLD)), None);
}

#[test]
fn every_ending_signal_to_us_alone_ends_the_client_and_is_told() {
    // Real-time ones among them; not SEGV and BUS, whose first is swallowed by the runtime of the
    // stand-in, nor 32 and 33, which are the C library's own (the bare stand-in outlived 32 once).
    // The client has handlers for HUP, INT and TERM only.
    let signals = [
        3, 4, 5, 6, 8, 12, 13, 14, 16, 24, 25, 26, 27, 29, 30, 31, 34, 35, 63, 64,
    ];
    for signal in signals {
        let ends = BOTH.map(|who| {
            let world = World::new();
            let mut command = world.print(who, "rounds=1;round_ms=30000");
            no_core(&mut command);
            let mut child = KillOnDrop(piped(&mut command).process_group(0).spawn().unwrap());
            let pid = child.0.id() as i32;
            let client = if who == Bare { pid } else { client_of(pid) };
            tool_of(client);
            send_signal(pid, signal).unwrap();
            let status = poll_until(SOON, || child.0.try_wait().unwrap()).unwrap_or_else(|| {
                let of = |pid| (pid, proc_view::stat(pid), proc_view::status(pid));
                panic!(
                    "{who:?} lives after {signal}: {:?}; {:?}",
                    of(pid),
                    of(client)
                )
            });
            let mut said = Vec::new();
            child
                .0
                .stderr
                .take()
                .unwrap()
                .read_to_end(&mut said)
                .unwrap();
            assert!(
                !proc_view::alive(client),
                "{who:?} {signal}: the client is gone"
            );
            (status, our_lines(&said))
        });
        assert_eq!(ends[0].0.signal(), Some(signal), "the premise");
        assert_eq!(
            ends[1].0.code(),
            Some(128 + signal),
            "{signal}: {:?}",
            ends[1]
        );
        assert_eq!(ends[1].1.len(), 1, "{signal}: {:?}", ends[1]);
    }
}

fn no_core(command: &mut Command) {
    // SAFETY: setrlimit reads a structure on this stack.
    unsafe {
        command.pre_exec(|| {
            let none = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            Ok(())
        });
    }
}

#[test]
fn the_three_signals_that_the_client_obeys_end_it_with_its_own_status() {
    for (signal, code) in [(libc::SIGTERM, 143), (libc::SIGINT, 0), (libc::SIGHUP, 129)] {
        for to_group in [false, true] {
            let ends = BOTH.map(|who| {
                let world = World::new();
                let record = world.file("signals");
                let plan = format!("signals={};rounds=1;round_ms=30000", record.display());
                let mut command = world.print(who, &plan);
                let mut child = KillOnDrop(piped(&mut command).process_group(0).spawn().unwrap());
                let pid = child.0.id() as i32;
                tool_of(first_line(&record)["ready"].as_i64().unwrap() as i32);
                send_signal(if to_group { -pid } else { pid }, signal).unwrap();
                let code = ended(&mut child.0).code();
                let said = std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap();
                assert_eq!(counts(&record).get(&i64::from(signal)), Some(&1));
                (code, said)
            });
            assert_eq!(ends[0], ends[1], "{signal}, group: {to_group}");
            assert_eq!(ends[0], (Some(code), String::new()), "the premise");
        }
    }
}

#[test]
fn usr1_writes_one_line_and_the_client_lives() {
    // (guard wanted, client ignores USR1 by inheritance, who writes the line)
    for (guarded, ignored, by_us) in [
        (true, false, false),
        (false, false, true),
        (true, true, true),
    ] {
        let world = World::new();
        let log = world.file("log");
        let mut command = world.print(Wrapped, "rounds=1;round_ms=30000");
        command.env("CLAUDE_MALLOC_GUARD_LOG", &log);
        if !guarded {
            command.env("CLAUDE_MALLOC_GUARD_LIB", "");
        }
        inherit(&mut command, &[(libc::SIGUSR1, ignored)], &[]);
        let mut child = KillOnDrop(piped(&mut command).process_group(0).spawn().unwrap());
        let pid = child.0.id() as i32;
        let client = client_of(pid);
        tool_of(client);
        assert_eq!(
            proc_view::maps_contain(client, "libclaude_guard.so"),
            guarded
        );
        let lines = || {
            fs::read_to_string(&log)
                .unwrap_or_default()
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        for count in 1..=3 {
            send_signal(pid, libc::SIGUSR1).unwrap();
            wait_until("a line", SOON, || (lines().len() >= count).then_some(()));
        }
        // A barrier: what else USR1 could have caused is done when TERM has ended it all.
        send_signal(pid, libc::SIGTERM).unwrap();
        assert_eq!(ended(&mut child.0).code(), Some(143));
        let lines = lines();
        assert_eq!(lines.len(), 3, "{lines:?}");
        for line in &lines {
            assert!(line.starts_with("[malloc-guard] 160B alloc="), "{line}");
            assert!(line.contains(&format!(" pid={client}")), "{line}");
            assert_eq!(
                line.contains("by=claude-safe"),
                by_us,
                "guard: {guarded}, {line}"
            );
        }
    }
}

#[test]
fn usr1_to_the_group_of_a_guarded_client_writes_one_line() {
    let world = World::new();
    let log = world.file("log");
    let mut command = world.print(Wrapped, "rounds=1;round_ms=30000;leak_in=tool_group");
    command.env("CLAUDE_MALLOC_GUARD_LOG", &log);
    let mut child = KillOnDrop(command.process_group(0).spawn().unwrap());
    let pid = child.0.id() as i32;
    let client = client_of(pid);
    tool_of(client);
    send_signal(-pid, libc::SIGUSR1).unwrap();
    wait_until("a line", SOON, || {
        fs::read_to_string(&log).ok().filter(|t| t.ends_with('\n'))
    });
    send_signal(-pid, libc::SIGTERM).unwrap();
    assert_eq!(ended(&mut child.0).code(), Some(143));
    assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 1);
}

#[test]
fn a_term_to_the_group_at_any_moment_of_the_start_ends_it_all() {
    term_at_any_moment(true);
}

#[test]
fn a_term_to_us_at_any_moment_of_the_start_ends_it_all() {
    term_at_any_moment(false);
}

fn term_at_any_moment(to_group: bool) {
    let world = World::new();
    // So that the search of the client's file is done, and the moments lie close together.
    assert!(run(world.print(Wrapped, "rounds=0")).status.success());
    for step in 0..240u64 {
        let mut command = world.print(Wrapped, "rounds=1;round_ms=30000");
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let mut child = KillOnDrop(command.spawn().unwrap());
        let pid = child.0.id() as i32;
        let until = Instant::now() + Duration::from_micros(step * 50);
        while Instant::now() < until {}
        send_signal(if to_group { -pid } else { pid }, libc::SIGTERM).unwrap();
        let status = poll_until(SOON, || child.0.try_wait().unwrap());
        if status.is_none() {
            let _ = send_signal(-pid, libc::SIGKILL);
        }
        let status = status.unwrap_or_else(|| panic!("TERM after {} us was lost", step * 50));
        assert_eq!(shell_status(status), 143, "TERM after {} us", step * 50);
        wait_until("nobody of the group", SOON, || {
            (!group_lives(pid)).then_some(())
        });
    }
}

// ---------------------------------------------------------------------------------------------
// Terminal and job control

/// What the shell saw, step by step, and what was on the terminal then.
struct Seat {
    world: World,
    pty: Pty,
    job: Job,
    seen: Vec<String>,
}

impl Seat {
    /// `client` with `words` as a job of a shell.
    fn take(who: Who, client: &Path, words: &[&str], plan: &str, setup: &JobSetup) -> Seat {
        let world = World::with_client(client);
        let plan = plan.replace("SIGNALS", &world.file("signals").display().to_string());
        let mut command = world.command(who, &plan);
        command.args(words);
        let mut pty = Pty::open().unwrap();
        let job = pty.spawn_under_shell(&command, setup).unwrap();
        Seat {
            world,
            pty,
            job,
            seen: Vec::new(),
        }
    }

    /// The next report, which must be another than before: a shell tells no change twice.
    #[track_caller]
    fn report(&mut self) -> String {
        let report = self
            .job
            .report(SOON)
            .unwrap_or_else(|e| panic!("{e}; {:?}; {}", self.seen, self.pty.text()));
        self.seen.push(report.clone());
        report
    }

    fn send(&mut self, command: &str) {
        self.job.send(command).unwrap();
    }

    fn type_in(&mut self, text: &str) {
        self.pty.write(text.as_bytes()).unwrap();
    }

    fn foreground_is_job(&mut self) {
        let job = self.job.pid();
        wait_until("the job in the foreground", SOON, || {
            (self.pty.foreground().ok() == Some(job)).then_some(())
        });
    }
}

const CAT: &str = "/bin/cat";

/// Plays the same scene with both, and demands the same reports but for the last: there a death by
/// signal is 128 + n.
#[track_caller]
fn same_reports(scene: impl Fn(Who) -> Vec<String>) -> Vec<String> {
    let [bare, wrapped] = BOTH.map(scene);
    let as_shown = |report: &String| match report.strip_prefix("signaled ") {
        Some(signal) => format!("exited {}", 128 + signal.parse::<i32>().unwrap()),
        None => report.clone(),
    };
    assert_eq!(bare.iter().map(as_shown).collect::<Vec<_>>(), wrapped);
    bare
}

fn cat_answers(seat: &mut Seat, word: &str) {
    seat.type_in(&format!("{word}\r"));
    // The echo, and cat's own.
    seat.pty.expect(word, SOON);
    seat.pty.expect(word, SOON);
}

#[test]
fn ctrl_c_and_ctrl_backslash_end_a_client_that_lets_them() {
    for (key, end) in [("\x03", "signaled 2"), ("\x1c", "signaled 3")] {
        let reports = same_reports(|who| {
            let mut seat = Seat::take(who, Path::new(CAT), &[], "", &JobSetup::default());
            cat_answers(&mut seat, "hello");
            seat.type_in(key);
            seat.report();
            assert_eq!(seat.pty.modes().unwrap(), Modes::SANE);
            seat.seen
        });
        assert_eq!(reports, [end]);
    }
}

#[test]
fn ctrl_z_stops_and_fg_goes_on_time_and_again() {
    let reports = same_reports(|who| {
        let mut seat = Seat::take(who, Path::new(CAT), &[], "", &JobSetup::default());
        for word in ["one", "two", "three"] {
            cat_answers(&mut seat, word);
            seat.type_in("\x1a");
            seat.report();
            seat.send("fg");
            seat.report();
            seat.foreground_is_job();
        }
        cat_answers(&mut seat, "four");
        seat.type_in("\x04");
        seat.report();
        seat.seen
    });
    let pair = ["stopped 20", "continued"];
    assert_eq!(reports, [&pair[..], &pair, &pair, &["exited 0"]].concat());
}

#[test]
fn bg_lets_it_run_until_it_wants_the_terminal() {
    let reports = same_reports(|who| {
        let mut seat = Seat::take(who, Path::new(CAT), &[], "", &JobSetup::default());
        cat_answers(&mut seat, "one");
        seat.type_in("\x1a");
        seat.report();
        seat.send("bg");
        // cat reads on, and is stopped for it. A shell that is slow to ask learns of the stop only.
        if seat.report() == "continued" {
            seat.seen.pop();
            seat.report();
        }
        seat.send("fg");
        seat.report();
        seat.foreground_is_job();
        cat_answers(&mut seat, "two");
        seat.type_in("\x04");
        seat.report();
        seat.seen
    });
    assert_eq!(
        reports,
        ["stopped 20", "stopped 21", "continued", "exited 0"]
    );
}

#[test]
fn started_in_the_background_it_is_stopped_when_it_wants_the_terminal() {
    let setup = JobSetup {
        background: true,
        ..JobSetup::default()
    };
    for (client, plan, stop) in [
        (PathBuf::from(CAT), "", "stopped 21"),
        (program("fake-claude"), "tui=on", "stopped 22"),
    ] {
        let reports = same_reports(|who| {
            let mut seat = Seat::take(who, &client, &[], plan, &setup);
            seat.report();
            seat.send("fg");
            seat.report();
            seat.foreground_is_job();
            if plan.is_empty() {
                cat_answers(&mut seat, "hello");
            } else {
                seat.pty.expect("fake-claude ready", SOON);
            }
            seat.type_in("\x04");
            seat.report();
            seat.seen
        });
        assert_eq!(reports, [stop, "continued", "exited 0"]);
    }
}

#[test]
fn a_client_in_raw_mode_that_stops_itself_takes_the_job_along() {
    for (plan, stop) in [
        ("suspend=self", "stopped 19"),
        ("suspend=group", "stopped 20"),
    ] {
        let reports = same_reports(|who| {
            let mut seat = Seat::take(
                who,
                &program("fake-claude"),
                &[],
                plan,
                &JobSetup::default(),
            );
            seat.pty.expect("size 80x24", SOON);
            for _ in 0..3 {
                seat.type_in("\x1a");
                seat.pty.expect("suspended", SOON);
                seat.report();
                assert_eq!(seat.pty.modes().unwrap(), Modes::SANE);
                seat.send("fg");
                seat.report();
                seat.pty.expect("redrawn", SOON);
            }
            seat.type_in("\x04");
            seat.report();
            assert_eq!(seat.pty.modes().unwrap(), Modes::SANE);
            seat.seen
        });
        let pair = [stop, "continued"];
        assert_eq!(reports, [&pair[..], &pair, &pair, &["exited 0"]].concat());
    }
}

#[test]
fn stop_and_continue_by_pid_reach_the_client_as_bare() {
    for stop in [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU] {
        let reports = same_reports(|who| {
            let words = ["-p", "say it"];
            let plan = "rounds=1;round_ms=300;report=SIGNALS";
            let mut seat = Seat::take(
                who,
                &program("fake-claude"),
                &words,
                plan,
                &JobSetup::default(),
            );
            first_line(&seat.world.file("signals"));
            seat.send(&format!("killpid {stop}"));
            seat.report();
            seat.send(&format!("killpid {}", libc::SIGCONT));
            seat.report();
            seat.report();
            seat.pty.expect("ALL DONE", SOON);
            seat.seen
        });
        assert_eq!(
            reports,
            [&format!("stopped {stop}"), "continued", "exited 0"]
        );
    }
}

#[test]
fn a_stop_of_the_whole_group_and_its_end_are_as_bare() {
    let reports = same_reports(|who| {
        let words = ["-p", "say it"];
        // Long enough for three stops on a busy machine: its clock runs on meanwhile.
        let plan = "rounds=1;round_ms=3000";
        let fake = program("fake-claude");
        let mut seat = Seat::take(who, &fake, &words, plan, &JobSetup::default());
        // A tool that a stop finds between its fork and its exec stops outside of the group that it leaves, for good, and
        // the client waits for it: with us or without.
        let job = seat.job.pid();
        tool_of(if who == Bare { job } else { client_of(job) });
        for _ in 0..3 {
            seat.send(&format!("kill {}", libc::SIGSTOP));
            seat.report();
            seat.send("fg");
            seat.report();
        }
        seat.report();
        seat.pty.expect("ALL DONE", SOON);
        seat.seen
    });
    let pair = ["stopped 19", "continued"];
    assert_eq!(reports, [&pair[..], &pair, &pair, &["exited 0"]].concat());
}

#[test]
fn a_stop_of_us_alone_can_not_be_passed_on_and_does_no_harm() {
    // SIGSTOP can't be caught: the one difference. The client works on.
    let plan = "rounds=1;round_ms=300;report=SIGNALS";
    let fake = program("fake-claude");
    let mut seat = Seat::take(
        Wrapped,
        &fake,
        &["-p", "say it"],
        plan,
        &JobSetup::default(),
    );
    let client = client_of(seat.job.pid());
    seat.send(&format!("killpid {}", libc::SIGSTOP));
    assert_eq!(seat.report(), "stopped 19");
    seat.pty.expect("ALL DONE", SOON);
    wait_until("its end", SOON, || {
        (!proc_view::alive(client)).then_some(())
    });
    seat.send("fg");
    // It has nothing left to do: where it is gone before its shell looks, that is all the shell sees.
    let mut last = seat.report();
    if last == "continued" {
        last = seat.report();
    }
    assert_eq!(last, "exited 0");
}

#[test]
fn a_new_window_size_reaches_the_client_once() {
    let seen = BOTH.map(|who| {
        let mut seat = Seat::take(
            who,
            &program("fake-claude"),
            &[],
            "signals=SIGNALS",
            &JobSetup::default(),
        );
        let record = seat.world.file("signals");
        seat.pty.expect("size 80x24", SOON);
        for (n, size) in [(100, 30), (60, 20), (132, 43)].into_iter().enumerate() {
            seat.pty.resize(size.0, size.1).unwrap();
            seat.pty
                .expect(&format!("size {}x{}", size.0, size.1), SOON);
            wait_for_signal(&record, libc::SIGWINCH, n + 1);
        }
        seat.type_in("\x04");
        assert_eq!(seat.report(), "exited 0");
        counts(&record).get(&i64::from(libc::SIGWINCH)).copied()
    });
    assert_eq!(seen, [Some(3); 2]);
}

#[test]
fn ctrl_c_in_cooked_mode_reaches_a_client_that_catches_it_once() {
    let plan = "tui=off;signals=SIGNALS;ignore=2,3;rounds=1;round_ms=30000";
    let seen = BOTH.map(|who| {
        let mut seat = Seat::take(
            who,
            &program("fake-claude"),
            &["-p", "say it"],
            plan,
            &JobSetup::default(),
        );
        let record = seat.world.file("signals");
        tool_of(first_line(&record)["ready"].as_i64().unwrap() as i32);
        for n in 1..=5 {
            seat.type_in("\x03");
            wait_for_signal(&record, libc::SIGINT, n);
            seat.type_in("\x1c");
            wait_for_signal(&record, libc::SIGQUIT, n);
        }
        seat.send(&format!("kill {}", libc::SIGTERM));
        assert_eq!(seat.report(), "exited 143");
        [2, 3, 15].map(|s| counts(&record)[&s])
    });
    assert_eq!(seen, [[5, 5, 1]; 2]);
}

#[test]
fn ctrl_c_that_our_parent_has_ignored_ends_nobody() {
    let setup = JobSetup {
        ignore: vec![libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP],
        ..JobSetup::default()
    };
    let reports = same_reports(|who| {
        let mut seat = Seat::take(who, Path::new(CAT), &[], "", &setup);
        cat_answers(&mut seat, "one");
        seat.type_in("\x03\x1c\x1a");
        cat_answers(&mut seat, "two");
        seat.type_in("\x04");
        seat.report();
        seat.seen
    });
    assert_eq!(reports, ["exited 0"]);
}

#[test]
fn a_terminal_that_hangs_up_under_us_is_felt_by_the_client_as_bare() {
    // Without a shell: claude-safe is the session leader, as in `xterm -e claude`.
    let ends = BOTH.map(|who| {
        let world = World::new();
        let record = world.file("signals");
        let mut pty = Pty::open().unwrap();
        // It obeys none: how often it was told must be seen, not how fast it leaves.
        let plan = format!(
            "tui=off;signals={};ignore=all;rounds=1;round_ms=1500",
            record.display()
        );
        let mut child = KillOnDrop(pty.spawn(world.print(who, &plan)).unwrap());
        tool_of(first_line(&record)["ready"].as_i64().unwrap() as i32);
        pty.hang_up();
        wait_for_signal(&record, libc::SIGHUP, 1);
        wait_for_signal(&record, libc::SIGCONT, 1);
        let status = ended(&mut child.0);
        let counts = counts(&record);
        (
            status.code(),
            counts.get(&1).copied(),
            counts.get(&18).copied(),
        )
    });
    assert_eq!(ends[0], ends[1]);
    assert_eq!((ends[0].1, ends[0].2), (Some(1), Some(1)), "the premise");
}

#[test]
fn a_hang_up_ends_the_screen_client_and_us_with_its_status() {
    for under_shell in [false, true] {
        let ends = BOTH.map(|who| {
            let world = World::new();
            let mut pty = Pty::open().unwrap();
            let command = world.command(who, "");
            if under_shell {
                let mut job = pty
                    .spawn_under_shell(&command, &JobSetup::default())
                    .unwrap();
                pty.expect("size 80x24", SOON);
                let group = job.pid();
                pty.hang_up();
                wait_until("the whole job gone", SOON, || {
                    (!group_lives(group)).then_some(())
                });
                let _ = job.wait_shell();
                None
            } else {
                let mut child = KillOnDrop(pty.spawn(command).unwrap());
                pty.expect("size 80x24", SOON);
                let group = child.0.id() as i32;
                pty.hang_up();
                let status = ended(&mut child.0);
                wait_until("the whole group gone", SOON, || {
                    (!group_lives(group)).then_some(())
                });
                Some(shell_status(status))
            }
        });
        assert_eq!(ends[0], ends[1]);
    }
}

#[test]
fn the_client_on_a_terminal_is_where_it_would_be_bare() {
    let world = World::new();
    let reports = BOTH.map(|who| {
        let report = world.file(&format!("report-{who:?}"));
        let mut pty = Pty::open().unwrap();
        let mut command = world.command(who, &format!("report={}", report.display()));
        command.arg("doctor");
        let mut job = pty
            .spawn_under_shell(&command, &JobSetup::default())
            .unwrap();
        assert_eq!(job.report(SOON).unwrap(), "exited 0");
        let told = first_line(&report);
        let (group, shell) = (json!(job.pid()), json!(job.shell_pid()));
        assert_eq!(
            (&told["pgid"], &told["foreground"], &told["sid"]),
            (&group, &group, &shell)
        );
        (
            told["tty"].clone(),
            told["has_controlling_tty"].clone(),
            told["ignored"].clone(),
            told["blocked"].clone(),
        )
    });
    assert_eq!(reports[0], reports[1]);
    assert_eq!(reports[0].0, json!([true, true, true]), "the premise");
}

#[test]
fn a_client_killed_on_the_screen_leaves_a_sane_terminal() {
    let mut seat = Seat::take(
        Wrapped,
        &program("fake-claude"),
        &[],
        "",
        &JobSetup::default(),
    );
    seat.pty.expect("size 80x24", SOON);
    assert_ne!(seat.pty.modes().unwrap(), Modes::SANE, "the premise");
    let client = client_of(seat.job.pid());
    send_signal(client, libc::SIGKILL).unwrap();
    seat.pty.expect("\x1b[?1049l", SOON);
    seat.pty.expect("\x1b[?25h", SOON);
    seat.pty.expect("SIGKILL", SOON);
    assert_eq!(seat.report(), "exited 137");
    assert_eq!(seat.pty.modes().unwrap(), Modes::SANE);
}

// ---------------------------------------------------------------------------------------------
// Our own death, and other sessions

#[test]
fn if_we_are_killed_the_client_lives_on_and_the_next_session_cleans_up() {
    let world = World::new();
    let mut command = world.print(Wrapped, "rounds=3;round_ms=300");
    let mut child = KillOnDrop(piped(&mut command).process_group(0).spawn().unwrap());
    let pid = child.0.id() as i32;
    let (client, sentinel) = (client_of(pid), sentinel_of(pid));
    tool_of(client);
    let left = world.session_folders();
    assert_eq!(left.len(), 1, "{left:?}");
    send_signal(pid, libc::SIGKILL).unwrap();
    assert_eq!(ended(&mut child.0).signal(), Some(libc::SIGKILL));
    assert!(proc_view::alive(client), "the client lives on");
    wait_until("the sentinel's end", SOON, || {
        (!proc_view::alive(sentinel)).then_some(())
    });
    // The pipe is closed when the client has ended: then it has said all.
    let answer = std::io::read_to_string(child.0.stdout.take().unwrap()).unwrap();
    assert_eq!(answer, "ALL DONE\n");
    let rounds = fs::read_to_string(world.sandbox.work().join("rounds.log")).unwrap();
    assert_eq!(rounds, "round-1\nround-2\nround-3\n");
    assert_eq!(
        world.session_folders(),
        left,
        "the premise: something is left"
    );
    assert!(run(world.print(Wrapped, "rounds=0")).status.success());
    assert_eq!(world.session_folders(), Vec::<PathBuf>::new());
}

#[test]
fn if_we_are_killed_a_client_on_the_screen_keeps_its_terminal() {
    let world = World::new();
    let mut pty = Pty::open().unwrap();
    let mut job = pty
        .spawn_under_shell(&world.command(Wrapped, ""), &JobSetup::default())
        .unwrap();
    pty.expect("size 80x24", SOON);
    let client = client_of(job.pid());
    send_signal(job.pid(), libc::SIGKILL).unwrap();
    assert_eq!(job.report(SOON).unwrap(), "signaled 9");
    assert!(proc_view::alive(client));
    assert!(
        !pty.text().contains("\x1b[?1049l"),
        "nobody has touched its screen"
    );
    // The shell has taken the terminal back: the client, now an orphan, gets an error when it reads.
    send_signal(client, libc::SIGTERM).unwrap();
    wait_until("its end", SOON, || {
        (!proc_view::alive(client)).then_some(())
    });
}

#[test]
fn two_sessions_at_once_share_nothing_of_theirs() {
    let world = World::new();
    let log = world.file("log");
    let mut sessions: Vec<(KillOnDrop, i32, i32)> = (0..2)
        .map(|_| {
            let mut command = world.print(Wrapped, "rounds=1;round_ms=30000");
            command
                .env("CLAUDE_MALLOC_GUARD_LOG", &log)
                .stdout(Stdio::null());
            let child = KillOnDrop(command.process_group(0).spawn().unwrap());
            let pid = child.0.id() as i32;
            let client = client_of(pid);
            tool_of(client);
            (child, pid, client)
        })
        .collect();
    let folders = world.session_folders();
    assert_eq!(folders.len(), 2);
    for (_, pid, client) in &sessions {
        let start = proc_view::stat(*pid).unwrap().start_ticks;
        let folder = world
            .sandbox
            .run()
            .join(format!("claude-safe/{pid}.{start}"));
        assert!(folders.contains(&folder), "{folder:?} of {folders:?}");
        assert_eq!(
            fs::metadata(&folder).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let mapped = fs::read_to_string(format!("/proc/{client}/maps")).unwrap();
        let page = folder.join("guard.page");
        assert!(
            mapped.contains(page.to_str().unwrap()),
            "its own page is mapped"
        );
        assert_eq!(mapped.matches("guard.page").count(), 1, "and no other");
        let told = fs::read_to_string(folder.join("session")).unwrap();
        let pids = format!("wrapper_pid={pid}\nclient_pid={client}\n");
        assert!(told.starts_with(&pids), "{told}");
    }
    // The end of one is no affair of the other.
    let (mut first, first_pid, _) = sessions.remove(0);
    send_signal(first_pid, libc::SIGTERM).unwrap();
    assert_eq!(ended(&mut first.0).code(), Some(143));
    assert_eq!(world.session_folders().len(), 1);
    let (mut second, second_pid, second_client) = sessions.remove(0);
    assert!(proc_view::alive(second_client));
    send_signal(second_pid, libc::SIGUSR1).unwrap();
    let line = wait_until("a line", SOON, || {
        fs::read_to_string(&log).ok().filter(|t| t.ends_with('\n'))
    });
    assert!(
        line.contains(&format!(" pid={second_client}")) && line.lines().count() == 1,
        "{line}"
    );
    send_signal(second_pid, libc::SIGTERM).unwrap();
    assert_eq!(ended(&mut second.0).code(), Some(143));
    assert_eq!(world.session_folders(), Vec::<PathBuf>::new());
}

// ---------------------------------------------------------------------------------------------
// Finding the client, and mistakes of the user

/// Places of this machine where a client would be found in spite of an empty `PATH`.
fn client_of_this_machine() -> bool {
    [
        "/usr/local/bin/claude",
        "/usr/bin/claude",
        "/run/current-system/sw/bin/claude",
        "/opt/homebrew/bin/claude",
        "/home/linuxbrew/.linuxbrew/bin/claude",
    ]
    .iter()
    .any(|p| Path::new(p).exists())
}

#[test]
fn without_a_client_it_says_so_and_ends_with_127() {
    if client_of_this_machine() {
        eprintln!("this machine has a client in a known place: nothing to show");
        return;
    }
    for path in [Some("/nowhere"), Some(""), None] {
        for disable in [false, true] {
            let sandbox = Sandbox::new();
            let mut command = sandbox.command(&artifacts().claude_safe);
            match path {
                Some(path) => command.env("PATH", path),
                None => command.env_remove("PATH"),
            };
            if disable {
                command.env("CLAUDE_SAFE_DISABLE", "1");
            }
            let output = run(command);
            assert_eq!(output.status.code(), Some(127), "PATH={path:?}");
            assert_eq!(text(&output.stdout), "");
            let lines = our_lines(&output.stderr);
            assert_eq!(lines.len(), text(&output.stderr).lines().count());
            assert!(lines[0].contains("no claude found"), "{lines:?}");
            assert!(lines[1].contains("CLAUDE_SAFE_BIN="), "{lines:?}");
            assert_eq!(tree(&sandbox.run()), Vec::<PathBuf>::new());
        }
    }
}

#[test]
fn a_configured_client_comes_before_the_one_on_path() {
    let world = World::with_script("#!/bin/sh\necho wrong\n");
    executable(&world.file("mine"), "#!/bin/sh\necho right \"$@\"\n");
    let mut command = world.command(Wrapped, "");
    command
        .env("CLAUDE_SAFE_BIN", world.file("mine"))
        .arg("--version");
    let output = run(command);
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        ("right --version\n".into(), String::new())
    );
}

#[test]
fn a_configured_client_that_is_none_costs_one_line() {
    let world = World::with_script("#!/bin/sh\necho found \"$@\"\n");
    fs::write(world.file("plain"), "no program").unwrap();
    fs::set_permissions(world.file("plain"), fs::Permissions::from_mode(0o644)).unwrap();
    let safe = &artifacts().claude_safe;
    for (wrong, why) in [
        (world.file("missing"), "does not exist"),
        (world.file("plain"), "no executable"),
        (world.file("bin"), "no executable"),
        (safe.clone(), "claude-safe itself"),
        (PathBuf::from("no-such-program"), "not on PATH"),
    ] {
        let mut command = world.command(Wrapped, "");
        command.env("CLAUDE_SAFE_BIN", &wrong).arg("--version");
        let output = run(command);
        assert_eq!(text(&output.stdout), "found --version\n", "{wrong:?}");
        let said = text(&output.stderr);
        assert!(
            said.lines().count() == 1 && said.contains(why) && said.starts_with("claude-safe: "),
            "{said}"
        );
        assert_eq!(output.status.code(), Some(0));
    }
}

/// A name, and what makes a file at a path.
type MakeFile<'a> = (&'a str, &'a dyn Fn(&Path));

/// A folder earlier on `PATH` than the client's, with a `claude` in it.
fn with_shim(world: &World, make: impl FnOnce(&Path)) -> Command {
    let shims = world.file("shims");
    fs::create_dir(&shims).unwrap();
    make(&shims.join("claude"));
    let mut command = Command::new(shims.join("claude"));
    let template = world.command(Wrapped, "rounds=1;round_ms=1");
    command.env_clear();
    for (name, value) in template.get_envs() {
        command.env(name, value.unwrap());
    }
    let path = format!(
        "{}:{}:{}",
        shims.display(),
        world.file("bin").display(),
        world.sandbox.path()
    );
    command.env("PATH", path).current_dir(world.sandbox.work());
    command
}

#[test]
fn a_shim_that_is_us_by_another_name_is_passed_over_without_a_word() {
    let safe = &artifacts().claude_safe;
    // Of a copy and of a hard link, nothing tells where the guard is but the folder it lies in.
    let guard = |to: &Path| {
        let guard = &artifacts().guard;
        fs::copy(guard, to.with_file_name(guard.file_name().unwrap())).unwrap();
    };
    let copy = |to: &Path| {
        fs::copy(safe, to).unwrap();
        closed_for_writing(to);
        guard(to);
    };
    let link = |to: &Path| symlink(safe, to).unwrap();
    let hard = |to: &Path| {
        // No hard link leads across file systems.
        if fs::hard_link(safe, to).is_err() {
            symlink(safe, to).unwrap();
        }
        guard(to);
    };
    let shows = |to: &Path| {
        executable(to, &format!("#!/bin/sh\nexec {} \"$@\"\n", safe.display()));
    };
    let makers: [MakeFile<'_>; 4] = [
        ("copy", &copy),
        ("symlink", &link),
        ("hard link", &hard),
        ("script", &shows),
    ];
    for (name, make) in makers {
        let world = World::new();
        let mut command = with_shim(&world, make);
        command.args(["-p", "say it"]);
        let output = run(command);
        assert_eq!(
            (
                output.status.code(),
                text(&output.stdout),
                text(&output.stderr)
            ),
            (Some(0), "ALL DONE\n".into(), String::new()),
            "{name}"
        );
    }
}

#[test]
fn a_script_that_leads_back_to_us_unseen_is_explained_and_skipped() {
    for (how, disable) in [("call", false), ("exec", false), ("exec", true)] {
        leads_back(how, disable);
    }
}

#[test]
fn a_script_that_calls_us_again_is_skipped_by_a_plain_exec_too() {
    leads_back("call", true);
}

/// A shim whose text does not show what it starts, and which starts claude-safe: as a child, or
/// in its place.
fn leads_back(how: &str, disable: bool) {
    let safe = artifacts().claude_safe.display();
    let last = match how {
        "exec" => "exec \"$x\" \"$@\"",
        _ => "\"$x\" \"$@\"; exit $?",
    };
    let script = format!("#!/bin/sh\nx={safe}\nif true; then {last}; fi\n");
    let world = World::new();
    let mut command = with_shim(&world, |path| executable(path, &script));
    command.args(["-p", "say it"]).process_group(0);
    if disable {
        command.env("CLAUDE_SAFE_DISABLE", "1");
    }
    let mut child = KillOnDrop(piped(&mut command).stdin(Stdio::null()).spawn().unwrap());
    // A loop is a chain of processes that grows: not for long.
    let status = poll_until(Duration::from_secs(5), || child.0.try_wait().unwrap());
    if status.is_none() {
        let _ = send_signal(-(child.0.id() as i32), libc::SIGKILL);
    }
    let (mut answer, mut said) = (String::new(), Vec::new());
    let mut stdout = child.0.stdout.take().unwrap();
    let mut stderr = child.0.stderr.take().unwrap();
    stdout.read_to_string(&mut answer).unwrap();
    stderr.read_to_end(&mut said).unwrap();
    assert_eq!(
        (status.and_then(|s| s.code()), answer.as_str()),
        (Some(0), "ALL DONE\n"),
        "{how}, disabled: {disable}: {}",
        text(&said)
    );
    let lines = our_lines(&said);
    assert_eq!(lines.len(), 1, "{how}, disabled: {disable}: {lines:?}");
    assert_eq!(text(&said).lines().count(), 1);
    assert!(
        lines[0].contains("shims/claude only starts claude-safe again"),
        "{lines:?}"
    );
}

#[test]
fn disabled_it_becomes_the_client_in_the_same_process() {
    let world = World::new();
    let told = BOTH.map(|who| {
        let report = world.file(&format!("report-{who:?}"));
        let mut command = world.print(who, "");
        command.env(
            "FAKE_CLAUDE",
            "report=REPORT;rounds=0".replace("REPORT", report.to_str().unwrap()),
        );
        command
            .env("CLAUDE_SAFE_DISABLE", "1")
            .env("LD_PRELOAD", "");
        inherit(
            &mut command,
            &[
                (libc::SIGPIPE, false),
                (libc::SIGCHLD, true),
                (libc::SIGHUP, true),
            ],
            &[libc::SIGTERM, 34],
        );
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = KillOnDrop(command.spawn().unwrap());
        let pid = child.0.id();
        assert_eq!(ended(&mut child.0).code(), Some(0));
        let mut told = first_line(&report);
        let told = told.as_object_mut().unwrap();
        assert_eq!(told.remove("pid"), Some(json!(pid)), "{who:?}");
        told["env"].as_object_mut().unwrap().remove("FAKE_CLAUDE");
        told.clone()
    });
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0]["ignored"], json!([1, 17]), "the premise");
    assert_eq!(
        tree(&world.sandbox.run()),
        Vec::<PathBuf>::new(),
        "no session of ours"
    );
}

#[test]
fn bad_values_cost_one_line_each_and_the_client_starts() {
    let world = World::new();
    let bad = [
        ("CLAUDE_WATCHDOG_THRESHOLD_MB", "lots"),
        ("CLAUDE_WATCHDOG_INTERVAL", "-1"),
        ("CLAUDE_MALLOC_GUARD_THRESHOLD_MB", "1e9"),
        ("CLAUDE_SAFE_CONTINUE", "perhaps"),
        ("CLAUDE_SAFE_CONTAIN", "\u{1b}[31m"),
        ("CLAUDE_MALLOC_GUARD_LIB", "/nowhere/guard.so"),
    ];
    let mut command = world.print(Wrapped, "rounds=1;round_ms=1");
    command.envs(bad);
    let output = run(command);
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(0), "ALL DONE\n".into())
    );
    let said = text(&output.stderr);
    assert_eq!(
        our_lines(&output.stderr).len(),
        said.lines().count(),
        "{said}"
    );
    for (name, value) in bad {
        let about = said
            .lines()
            .filter(|l| l.contains(name) || l.contains("guard.so") && value.contains("guard.so"))
            .count();
        assert_eq!(about, 1, "{name}: {said}");
    }
    assert_eq!(said.lines().count(), bad.len(), "{said}");
    assert!(
        !said.contains('\u{1b}'),
        "no value draws on the terminal: {said:?}"
    );
}

#[test]
fn a_configuration_that_others_can_write_is_not_used_and_the_client_starts() {
    let world = World::new();
    let folder = world.sandbox.config().join("claude-safe");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("claude-safe.conf");
    fs::write(&file, "CLAUDE_SAFE_BIN=/bin/false\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let output = run(world.print(Wrapped, "rounds=1;round_ms=1"));
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(0), "ALL DONE\n".into())
    );
    let said = our_lines(&output.stderr);
    assert!(
        said.len() == 1 && said[0].contains("claude-safe.conf"),
        "{said:?}"
    );
    // The premise: with the right mode it is used.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(run(world.print(Wrapped, "")).status.code(), Some(1));
}

#[test]
fn a_client_that_can_not_be_executed_is_126_or_127_as_in_a_shell() {
    // An interpreter that is not there, and one that is there and no program.
    for (interpreter, code) in [("missing", 127), ("plain", 126)] {
        for disable in [false, true] {
            let world = World::with_script("");
            fs::write(world.file("plain"), "text").unwrap();
            let content = format!("#!{}\n", world.file(interpreter).display());
            executable(&world.client(), &content);
            let in_shell = {
                let mut command = world.sandbox.command("/bin/sh");
                command
                    .args(["-c", "exec \"$0\" -p 'say it'"])
                    .arg(world.client());
                run(command)
            };
            let mut command = world.print(Wrapped, "");
            if disable {
                command.env("CLAUDE_SAFE_DISABLE", "1");
            }
            let output = run(command);
            let said = our_lines(&output.stderr);
            assert!(
                said.len() == 1
                    && said[0].contains("cannot execute")
                    && said[0].contains("bin/claude"),
                "{said:?}"
            );
            assert_eq!(
                output.status.code(),
                Some(code),
                "disabled: {disable}, {content:?}"
            );
            assert_eq!(
                in_shell.status.code(),
                Some(code),
                "the premise, {content:?}"
            );
            assert_eq!(world.session_folders(), Vec::<PathBuf>::new());
        }
    }
}

#[test]
fn a_folder_of_state_that_can_not_be_made_costs_nothing_but_itself() {
    let world = World::new();
    // Whoever is root can write everywhere: a file in the way stops him too.
    fs::write(world.sandbox.run().join("claude-safe"), "in the way").unwrap();
    let output = run(world.print(Wrapped, "rounds=1;round_ms=1"));
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(0), "ALL DONE\n".into())
    );
    assert_eq!(
        fs::read_to_string(world.sandbox.run().join("claude-safe")).unwrap(),
        "in the way"
    );
}

#[test]
fn with_hardly_a_descriptor_left_the_client_still_starts() {
    let mut started = 0;
    for limit in 4..16u64 {
        let ends = BOTH.map(|who| {
            let world = World::with_script("#!/bin/sh\necho alive\nexit 3\n");
            let mut command = world.command(who, "");
            // SAFETY: setrlimit reads a structure on this stack.
            unsafe {
                command.pre_exec(move || {
                    let few = libc::rlimit {
                        rlim_cur: limit,
                        rlim_max: limit,
                    };
                    libc::setrlimit(libc::RLIMIT_NOFILE, &few);
                    Ok(())
                });
            }
            let output = run(command);
            (
                output.status.code(),
                text(&output.stdout),
                text(&output.stderr),
            )
        });
        if ends[0].0 == Some(3) {
            started += 1;
            assert_eq!(
                (&ends[0].0, &ends[0].1),
                (&ends[1].0, &ends[1].1),
                "limit {limit}: {ends:?}"
            );
        }
    }
    assert!(started > 3, "the premise: {started}");
}
