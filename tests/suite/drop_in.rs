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
        let world = World { sandbox: Sandbox::new() };
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
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
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
    text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
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
    let mut output = Output { status, stdout: Vec::new(), stderr: Vec::new() };
    child.0.stdout.take().unwrap().read_to_end(&mut output.stdout).unwrap();
    child.0.stderr.take().unwrap().read_to_end(&mut output.stderr).unwrap();
    output
}

#[track_caller]
fn ended(child: &mut Child) -> ExitStatus {
    wait_until("its end", SOON, || child.try_wait().unwrap())
}

/// A status as a shell has it in `$?`.
fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
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
    text(stderr).lines().filter(|l| l.starts_with("claude-safe: ")).map(str::to_owned).collect()
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
        let mut answers = BOTH.map(|who| {
            let mut command = world.command(who, "");
            command.args(&case).stderr(Stdio::inherit());
            let output = command.output().unwrap();
            assert!(output.status.success(), "{who:?} {case:?}");
            output.stdout
        });
        // A script's own path is what its interpreter is given for argv[0], by whatever way.
        let wanted: Vec<u8> = case.iter().flat_map(|w| [w.as_bytes(), b"\0"].concat()).collect();
        assert!(answers[0].ends_with(&wanted), "the premise: the witness tells all");
        assert!(answers[0] == answers[1], "{case:?}: {:?}", text(&answers[1]));
        answers[1].clear();
    }
}

#[test]
fn a_fresh_session_is_given_an_id_and_nothing_else_is_touched() {
    let cases: [(&[&str], bool); 12] = [
        (&["-p", "say it"], true),
        (&["--model", "x", "-p", "say it"], true),
        (&["-p", "--", "-x"], true),
        (&["-p", "--output-format=json", "say it"], true),
        (&["--session-id", "11111111-2222-4333-8444-555555555555", "-p", "say it"], false),
        (&["--session-id=11111111-2222-4333-8444-555555555556", "-p", "say it"], false),
        (&["--resume", "11111111-2222-4333-8444-555555555555", "-p", "say it"], false),
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
            assert_eq!((&argv[1][0], &argv[1][3..]), (&argv[0][0], &argv[0][1..]), "{words:?}");
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
        &["--resume", "11111111-2222-4333-8444-555555555555", "-p", "x y"],
        &["-p", "say it"],
    ];
    for words in cases {
        let answers = BOTH.map(|who| {
            let world = World::new();
            let mut command = world.command(who, "rounds=1;round_ms=1;answer=The end.");
            command.args(words);
            let output = run(command);
            (output.status.code(), text(&output.stdout), text(&output.stderr))
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
        let mut child = KillOnDrop(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let mut input = child.0.stdin.take().unwrap();
        let output = child.0.stdout.take().unwrap();
        let writer = std::thread::spawn({
            let sent = sent.clone();
            move || input.write_all(&sent)
        });
        let mut got = Vec::new();
        io::BufReader::new(output).read_to_end(&mut got).unwrap();
        writer.join().unwrap().unwrap();
        assert!(got == sent, "{who:?}: {} of {} bytes", got.len(), sent.len());
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
        child.0.stdin.take().unwrap().write_all(b"do this\n").unwrap();
        let mut answer = String::new();
        child.0.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
        let mut complaints = String::new();
        child.0.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
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
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(code), String::new()));
    }
}

#[test]
fn death_by_a_signal_is_128_and_its_number_and_one_line_says_so() {
    let names: [(i32, &str); 25] = [
        (1, "SIGHUP"), (2, "SIGINT"), (3, "SIGQUIT"), (4, "SIGILL"), (5, "SIGTRAP"),
        (6, "SIGABRT"), (7, "SIGBUS"), (8, "SIGFPE"), (9, "SIGKILL"), (10, "SIGUSR1"),
        (11, "SIGSEGV"), (12, "SIGUSR2"), (13, "SIGPIPE"), (14, "SIGALRM"), (15, "SIGTERM"),
        (16, "SIGSTKFLT"), (24, "SIGXCPU"), (25, "SIGXFSZ"), (26, "SIGVTALRM"), (27, "SIGPROF"),
        (29, "SIGIO"), (30, "SIGPWR"), (31, "SIGSYS"), (34, "signal 34"), (64, "signal 64"),
    ];
    for (signal, name) in names {
        let world = World::new();
        let plan = format!("die={signal};round_ms=30000");
        let bare = run(world.print(Bare, &plan));
        assert_eq!(bare.status.signal(), Some(signal), "the premise: it dies of {signal}");
        let wrapped = run(world.print(Wrapped, &plan));
        assert_eq!(wrapped.status.code(), Some(128 + signal));
        let lines = our_lines(&wrapped.stderr);
        assert_eq!(lines.len(), 1, "{signal}: {:?}", text(&wrapped.stderr));
        assert!(lines[0].contains(&format!(" {name},")), "{lines:?}");
        assert_eq!(text(&wrapped.stderr).lines().count(), 1, "nothing else is said");
    }
}

#[test]
fn a_reader_that_leaves_is_felt_as_bare() {
    // `claude -p … | head -1`: the default SIGPIPE, and an inherited "ignore".
    for ignored in [false, true] {
        let ends = BOTH.map(|who| {
            let world = World::with_client(Path::new("/usr/bin/yes"));
            let mut command = world.command(who, "");
            command.arg("a b").stdout(Stdio::piped()).stderr(Stdio::piped());
            inherit(&mut command, &[(libc::SIGPIPE, ignored)], &[]);
            let mut child = KillOnDrop(command.spawn().unwrap());
            let mut first = [0; 4];
            child.0.stdout.take().unwrap().read_exact(&mut first).unwrap();
            let status = ended(&mut child.0);
            let mut said = String::new();
            child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            (shell_status(status), said)
        });
        assert_eq!(ends[0].0, ends[1].0, "ignored: {ignored}: {ends:?}");
        assert_eq!(ends[0].0, if ignored { 1 } else { 128 + libc::SIGPIPE }, "the premise");
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
                libc::signal(*signal, if *ignored { libc::SIG_IGN } else { libc::SIG_DFL });
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
        if name == "out" { command.stdout(file) } else { command.stderr(file) };
    }
    command.process_group(0);
    prepare(&mut command);
    let mut child = KillOnDrop(command.spawn().unwrap());
    let started = json!(child.0.id());
    let status = ended(&mut child.0);
    assert_eq!(status.code(), Some(0), "{who:?}: {:?}", fs::read_to_string(world.file("err")));
    let mut told = first_line(&report);
    assert_eq!(told["pgid"], started, "{who:?}: the group is that of whom we started");
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
        command.current_dir(world.file("elsewhere")).env("ODD", "a=b;c\nd").env("EMPTY", "");
        keep_descriptor(command, extra.as_raw_fd());
        // SAFETY: three system calls with integers and a structure on this stack.
        unsafe {
            command.pre_exec(|| {
                libc::umask(0o026);
                let few = libc::rlimit { rlim_cur: 77, rlim_max: 99 };
                libc::setrlimit(libc::RLIMIT_NOFILE, &few);
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                libc::setrlimit(libc::RLIMIT_CORE, &none);
                Ok(())
            });
        }
    });
    // The premises.
    assert_eq!((&told["umask"], &told["env"]["ODD"]), (&json!(0o026), &json!("a=b;c\nd")));
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
        assert_eq!((&told["ignored"], &told["blocked"]), (&json!(ignored.to_vec().tap_sort()), &json!(blocked)));
    }
}

trait Sorted {
    fn tap_sort(self) -> Self;
}

impl Sorted for Vec<i32> {
    fn tap_sort(mut self) -> Self {
        self.sort_unstable();
        self
    }
}

#[test]
fn standard_streams_that_are_closed_stay_closed_for_the_client() {
    // A shell opens nothing by itself where a descriptor is missing; it names what is open.
    let script = "#!/bin/sh\nexec 9>\"$OUT\"\nfor fd in 0 1 2 3 4 5 6 7 8; do\n[ -e /proc/$$/fd/$fd ] && readlink /proc/$$/fd/$fd >&9\ndone\nexit 0\n";
    let world = World::with_script(script);
    for closed in [vec![0], vec![1], vec![2], vec![0, 1], vec![1, 2], vec![0, 1, 2]] {
        let seen = BOTH.map(|who| {
            let mut command = world.command(who, "");
            command.env("OUT", world.file("out")).arg("doctor");
            command.stdout(File::create(world.file("one")).unwrap());
            command.stderr(File::create(world.file("two")).unwrap());
            let closed = closed.clone();
            // SAFETY: close is async-signal-safe; nothing of this child uses the three.
            unsafe {
                command.pre_exec(move || {
                    for fd in &closed {
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
        // The script itself is open in its shell.
        assert_eq!(seen[0].lines().count(), 3 - closed.len() + 1, "the premise: {}", seen[0]);
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
            assert!(!text.contains("claude-safe: "), "{}: {text}", file.display());
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
        assert_eq!((seen.group, seen.session, seen.tty), (pid, pid, 0), "{who:?}");
        // SAFETY: integers only.
        assert_eq!(unsafe { libc::getpriority(libc::PRIO_PROCESS, client as u32) }, 7, "{who:?}");
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
        child.stdin.take().unwrap().write_all(b"int cs_harmless(void) { return 1; }\n").unwrap();
        assert!(child.wait().unwrap().success());
        path
    })
}

/// The environment of a running client and of its tool, as the kernel shows both.
fn environments(world: &World, who: Who, preload: Option<&OsStr>, guarded: bool) -> [Vec<String>; 2] {
    let mut command = world.print(who, "rounds=1;round_ms=30000");
    if let Some(preload) = preload {
        command.env("LD_PRELOAD", preload);
    }
    let mut child = KillOnDrop(command.process_group(0).spawn().unwrap());
    let pid = child.0.id() as i32;
    let client = if who == Bare { pid } else { client_of(pid) };
    let fake = program("fake-claude");
    let tool = wait_until("the tool", SOON, || {
        proc_view::children(client).into_iter().find(|t| {
            // Not before its exec: until then it shows its parent's.
            proc_view::exe(*t).as_ref() == Some(&fake)
                && proc_view::cmdline(*t).first().is_some_and(|a| a == "fake-claude-tool")
        })
    });
    let has_guard = |pid| proc_view::maps_contain(pid, "libclaude_guard.so");
    assert_eq!(has_guard(client), guarded, "{who:?}");
    assert!(!has_guard(tool), "a tool is never guarded");
    if preload.is_some_and(|p| !p.is_empty()) {
        assert!(proc_view::maps_contain(client, "libcs_harmless.so"), "{who:?}");
        assert!(proc_view::maps_contain(tool, "libcs_harmless.so"), "{who:?}");
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
        let kept = bare[1].iter().filter(|e| e.starts_with("LD_PRELOAD=")).count();
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
        wait_until("the tool", SOON, || (!proc_view::children(client).is_empty()).then_some(()));
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
            .filter(|p| !p.ends_with(".jsonl"))
            .collect();
        left.sort();
        left
    });
    let added: Vec<&String> = left[1].iter().filter(|p| !left[0].contains(p)).collect();
    assert_eq!(added, ["cache/claude-safe", "cache/claude-safe/clients", "run/claude-safe"]);
    let missing: Vec<&String> = left[0].iter().filter(|p| !left[1].contains(p)).collect();
    assert_eq!(missing, Vec::<&String>::new());
}
