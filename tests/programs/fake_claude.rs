//! `fake-claude`: a stand-in of the client for the tests of the supervisor and for the demo. Its
//! command line is the client's; what it does is set by the variable `FAKE_CLAUDE`, a list of
//! `name=value` separated by `;`. It reads and writes only below its home, its working folder, its
//! `TMPDIR` and the files named to it; everything it starts ends by itself within a minute.
//!
//! Where it does as the client does: `--session-id`, `--resume`, `--continue`, their refusals and
//! exit codes; `-p` with text, json and stream-json; the transcript, line by line, and
//! `sessions/PID.json`; exit 143, 0 and 129 on TERM, INT and HUP; raw mode, alternate screen and
//! mouse modes on a terminal, `/clear`, Ctrl-Z; one tool child for each round.
//!
//! | name | default | |
//! |---|---|---|
//! | `version` | `2.1.329` | whose habits: `2.1.110` keeps `sessions/PID.json` short and never rewrites it, leaves an interrupted call out on resume, and lets its tool live on after TERM |
//! | `session_file` | `on` | `off`: no `sessions/PID.json` |
//! | `rounds` | `3` | tool calls of the conversation; those with a result in the transcript count |
//! | `round_ms` | `100` | time of one call |
//! | `answer` | `ALL DONE` | final text |
//! | `transcript_ms` | `0` | the transcript appears so long after the turn began |
//! | `once` | – | a file; the process that can create it does the leaks, deaths, storms below, a later one finds it and behaves |
//! | `leak_mib` `leak_mib_per_s` | `0` `0` | anonymous memory, written; speed 0 is as fast as it goes; at most 4096 |
//! | `leak_after_ms` | `0` | when it begins |
//! | `leak_in` | `self` | or `tool` (session of its own, as the client's), `tool_group` (group of its own), `tool_same` (group of the client), `grandchild` (child of a tool) |
//! | `leak_round` `leak_hold_ms` | `1` `30000` | which call's tool leaks, and how long it keeps the memory |
//! | `mark_mib` `mark` | – | writes CLOCK_MONOTONIC, ns, to the file when the leak passes that size |
//! | `arena_mib` `arena_touch_mib` `arena_go` `arena_done` | `0` – – – | one mapping, as an allocator takes it, then an mprotect of it now and then; when the first file is there, so much of it is written without any further call, then the second file |
//! | `script` | – | a script of bash that is the tool of each round; its output goes where the client has it: `claude-UID/FOLDER/SESSION/tasks/rROUND.output` below `CLAUDE_CODE_TMPDIR`, `TMPDIR` |
//! | `open` `open_count` `open_per_s` | – `0` `0` | opens the file so often, and keeps it; 10000 at most |
//! | `objects_per_s` | `0` | so many objects of 160 bytes a second, by malloc, two million at most; kept |
//! | `cow_mib` | `0` | memory that a forked child shares |
//! | `storm` | `0` | so many idle children at once |
//! | `ignore` | – | signals (numbers, or `all`) that are seen and not obeyed |
//! | `term_ms` | `50` | time to end after TERM, INT, HUP |
//! | `exit` `die` `after_ms` | – – `0` | end with that code, or of that signal, after that time |
//! | `signals` | – | a file; each signal that can be caught is recorded there and, but for TERM, INT and HUP, not obeyed |
//! | `report` | – | a file; gets a line of JSON about how this process was started |
//! | `tui` | `auto` | `on`, `off`; auto is on with a terminal on stdin and stdout and without `-p` |
//! | `suspend` | `self` | Ctrl-Z: stop oneself with SIGSTOP; `group`: SIGTSTP to the whole group |

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

/// Calls of this program's tools have ids that start so.
const ID_PREFIX: &str = "toolu_fake_";
/// More than this is never taken, MiB.
const LEAK_LIMIT_MIB: u64 = 4096;
/// No helper process lives longer, milliseconds.
const HELPER_LIFE_MS: u64 = 60_000;

fn main() {
    if let Ok(order) = std::env::var("FAKE_CLAUDE_TOOL") {
        tool_main(&Plan::parse(&order));
    }
    let plan = Plan::parse(&std::env::var("FAKE_CLAUDE").unwrap_or_default());
    if let Some(path) = plan.path("report") {
        append_line(&path, &report());
    }
    restore_sigpipe();
    let words: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let arguments = match Arguments::parse(&words) {
        Ok(arguments) => arguments,
        Err(reason) => fail(&reason),
    };
    if arguments.version {
        println!("{} (Claude Code)", plan.text("version", "2.1.329"));
        return;
    }
    if let Some(command) = &arguments.subcommand {
        subcommand(command, &arguments.rest);
        return;
    }
    run_session(plan, arguments);
}

fn fail(reason: &str) -> ! {
    eprintln!("{reason}");
    std::process::exit(1)
}

// ---------------------------------------------------------------------------------------------
// What was ordered

/// The `name=value` list.
#[derive(Clone, Debug)]
struct Plan(BTreeMap<String, String>);

impl Plan {
    fn parse(text: &str) -> Plan {
        let pairs = text.split([';', '\n']).filter_map(|p| p.split_once('='));
        Plan(
            pairs
                .map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))
                .collect(),
        )
    }

    fn text(&self, name: &str, default: &str) -> String {
        self.0
            .get(name)
            .cloned()
            .unwrap_or_else(|| default.to_owned())
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.0.get(name).map_or(default, |v| {
            v.parse()
                .unwrap_or_else(|_| fail(&format!("FAKE_CLAUDE: {name}={v}")))
        })
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(name).map(PathBuf::from)
    }

    fn duration(&self, name: &str, default_ms: u64) -> Duration {
        Duration::from_millis(self.number(name, default_ms))
    }

    fn old(&self) -> bool {
        self.text("version", "2.1.329") == "2.1.110"
    }
}

/// The client's command line, as far as this program understands it.
#[derive(Clone, Debug, Default)]
struct Arguments {
    print: bool,
    version: bool,
    subcommand: Option<String>,
    rest: Vec<String>,
    session_id: Option<String>,
    /// `Some("")`: without a value.
    resume: Option<String>,
    go_on: bool,
    fork: bool,
    input_format: String,
    output_format: String,
    prompt: Option<String>,
}

const SUBCOMMANDS: &[&str] = &[
    "mcp",
    "doctor",
    "update",
    "config",
    "plugin",
    "agents",
    "install",
    "setup-token",
];
const FLAGS_WITH_VALUE: &[&str] = &[
    "--model",
    "--permission-mode",
    "--settings",
    "--plugin-dir",
    "--append-system-prompt",
    "--system-prompt",
    "--mcp-config",
    "--max-turns",
    "--allowedTools",
    "--disallowedTools",
    "--add-dir",
    "--fallback-model",
];
const FLAGS: &[&str] = &[
    "--dangerously-skip-permissions",
    "--verbose",
    "--debug",
    "--include-partial-messages",
    "--ide",
    "--strict-mcp-config",
];

impl Arguments {
    fn parse(words: &[String]) -> Result<Arguments, String> {
        let mut found = Arguments {
            input_format: "text".into(),
            output_format: "text".into(),
            ..Arguments::default()
        };
        let mut at = 0;
        let mut options = true;
        while at < words.len() {
            let (name, inline) = match words[at].split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (words[at].as_str(), None),
            };
            at += 1;
            if !options || !name.starts_with('-') || name == "-" {
                if found.prompt.is_none() && at == 1 && SUBCOMMANDS.contains(&name) {
                    found.subcommand = Some(name.to_owned());
                    found.rest = words[at..].to_vec();
                    return Ok(found);
                }
                found.prompt.get_or_insert_with(|| words[at - 1].clone());
                continue;
            }
            let mut value = || {
                inline.clone().or_else(|| {
                    at += 1;
                    words.get(at - 1).cloned()
                })
            };
            let missing = || format!("error: option '{name} <value>' argument missing");
            match name {
                "--" => options = false,
                "-p" | "--print" => found.print = true,
                "-v" | "--version" => found.version = true,
                "-c" | "--continue" => found.go_on = true,
                "--fork-session" => found.fork = true,
                "--session-id" => found.session_id = Some(value().ok_or_else(missing)?),
                "--input-format" => found.input_format = value().ok_or_else(missing)?,
                "--output-format" => found.output_format = value().ok_or_else(missing)?,
                "-r" | "--resume" => {
                    let next = inline
                        .clone()
                        .or_else(|| words.get(at).filter(|w| !w.starts_with('-')).cloned());
                    if inline.is_none() && next.is_some() {
                        at += 1;
                    }
                    found.resume = Some(next.unwrap_or_default());
                }
                _ if FLAGS_WITH_VALUE.contains(&name) => {
                    value().ok_or_else(missing)?;
                }
                _ if FLAGS.contains(&name) => {}
                _ => return Err(format!("error: unknown option '{name}'")),
            }
        }
        Ok(found)
    }
}

fn subcommand(name: &str, rest: &[String]) {
    match (name, rest.first().map(String::as_str)) {
        ("mcp", Some("list")) => {
            println!("No MCP servers configured. Use `claude mcp add` to add a server.")
        }
        ("doctor", _) => println!("fake-claude doctor: all is well"),
        _ => println!("fake-claude {name} {}", rest.join(" ")),
    }
}

// ---------------------------------------------------------------------------------------------
// How this process was started

static INHERITED_IGNORED: AtomicU64 = AtomicU64::new(0);
static INHERITED_BLOCKED: AtomicU64 = AtomicU64::new(0);
static SIGPIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

/// Runs ahead of the Rust runtime, which sets SIGPIPE to ignored before `main`.
extern "C" fn note_inherited() {
    // SAFETY: plain system calls that write into locals of the right types; all-zero is valid for
    // both types.
    unsafe {
        let mut ignored = 0u64;
        for signal in 1..=64 {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
            {
                ignored |= 1 << (signal - 1);
            }
        }
        let mut blocked = 0u64;
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &mut set);
        for signal in 1..=64 {
            if libc::sigismember(&set, signal) == 1 {
                blocked |= 1 << (signal - 1);
            }
        }
        INHERITED_IGNORED.store(ignored, Ordering::Relaxed);
        INHERITED_BLOCKED.store(blocked, Ordering::Relaxed);
        SIGPIPE_WAS_IGNORED.store(ignored & (1 << (libc::SIGPIPE - 1)) != 0, Ordering::Relaxed);
    }
}

#[used]
// SAFETY: a function of the type that the loader calls from this section.
#[unsafe(link_section = ".init_array")]
static NOTE_INHERITED: extern "C" fn() = note_inherited;

fn restore_sigpipe() {
    if !SIGPIPE_WAS_IGNORED.load(Ordering::Relaxed) {
        // SAFETY: SIG_DFL needs no handler.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    }
}

fn report() -> Value {
    let fds: BTreeMap<String, String> = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            Some((
                e.file_name().into_string().ok()?,
                fs::read_link(e.path()).ok()?.display().to_string(),
            ))
        })
        // The folder that is being read here.
        .filter(|(_, target)| !target.ends_with(&format!("/{}/fd", std::process::id())))
        .collect();
    let signals = |set: &AtomicU64| {
        let bits = set.load(Ordering::Relaxed);
        (1..=64)
            .filter(|n| bits & (1 << (n - 1)) != 0)
            .collect::<Vec<i32>>()
    };
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .map(|(k, v)| (lossy(k), lossy(v)))
        .collect();
    // SAFETY: none of these takes a pointer, but umask none can change anything, and umask is put
    // back at once, before there is a second thread.
    let (ppid, group, session, foreground, umask) = unsafe {
        let umask = libc::umask(0);
        libc::umask(umask);
        (
            libc::getppid(),
            libc::getpgrp(),
            libc::getsid(0),
            libc::tcgetpgrp(0),
            umask,
        )
    };
    let file = |name: &str| {
        fs::read_to_string(format!("/proc/self/{name}"))
            .unwrap_or_default()
            .trim_end()
            .to_owned()
    };
    json!({
        "argv": std::env::args_os().map(lossy).collect::<Vec<_>>(),
        "env": environment,
        "cwd": std::env::current_dir().map(|d| d.display().to_string()).unwrap_or_default(),
        "pid": std::process::id(),
        "ppid": ppid,
        "pgid": group,
        "sid": session,
        "foreground": foreground,
        "tty": (0..3).map(is_terminal).collect::<Vec<bool>>(),
        "has_controlling_tty": File::open("/dev/tty").is_ok(),
        "fds": fds,
        "ignored": signals(&INHERITED_IGNORED),
        "blocked": signals(&INHERITED_BLOCKED),
        "umask": umask,
        "oom_score_adj": file("oom_score_adj"),
        "cgroup": file("cgroup"),
        "limits": file("limits"),
    })
}

fn is_terminal(fd: i32) -> bool {
    // SAFETY: no pointers; a closed descriptor is answered with 0.
    unsafe { libc::isatty(fd) == 1 }
}

// ---------------------------------------------------------------------------------------------
// A session

struct World {
    plan: Plan,
    print: bool,
    folder: PathBuf,
    cwd: String,
    /// Its own share of the ill behaviour; see `once`.
    ill: bool,
    started_ms: u64,
    tui: AtomicBool,
    tool: AtomicI32,
    state: Mutex<State>,
}

struct State {
    id: String,
    status: &'static str,
    last_prompt: String,
    saved_modes: Option<libc::termios>,
}

impl World {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn project(&self) -> PathBuf {
        self.folder.join("projects").join(slug(&self.cwd))
    }

    fn transcript(&self, id: &str) -> PathBuf {
        self.project().join(format!("{id}.jsonl"))
    }

    fn session_file(&self) -> Option<PathBuf> {
        let on = self.plan.text("session_file", "on") != "off";
        on.then(|| {
            self.folder
                .join("sessions")
                .join(format!("{}.json", std::process::id()))
        })
    }

    fn set_status(&self, status: &'static str) {
        let mut state = self.state();
        state.status = status;
        self.write_session_file(&state, false);
    }

    fn write_session_file(&self, state: &State, first: bool) {
        let Some(path) = self.session_file() else {
            return;
        };
        let entrypoint = if self.print { "sdk-cli" } else { "cli" };
        let mut content = json!({
            "pid": std::process::id(), "sessionId": state.id, "cwd": self.cwd,
            "startedAt": self.started_ms, "kind": "interactive", "entrypoint": entrypoint,
        });
        if self.plan.old() {
            // 2.1.110 writes it once and never again, not even for /clear.
            if !first {
                return;
            }
        } else {
            content["procStart"] = json!(own_start_ticks());
            content["version"] = json!(self.plan.text("version", "2.1.329"));
            content["peerProtocol"] = json!(1);
            content["status"] = json!(state.status);
            content["updatedAt"] = json!(now_ms());
            content["statusUpdatedAt"] = json!(now_ms());
        }
        let partial = path.with_extension("json.tmp");
        private_folder(path.parent().unwrap_or(Path::new(".")));
        if fs::write(&partial, content.to_string()).is_ok() {
            let _ = fs::rename(partial, path);
        }
    }

    fn append(&self, entry: &Value) {
        let path = self.transcript(&self.state().id);
        private_folder(path.parent().unwrap_or(Path::new(".")));
        append_line(&path, entry);
    }

    /// Fields that every line of a conversation has.
    fn entry(&self, kind: &str, message: Value) -> Value {
        json!({
            "type": kind, "message": message, "uuid": uuid(), "timestamp": timestamp(), "isSidechain": false,
            "userType": "external", "entrypoint": if self.print { "sdk-cli" } else { "cli" }, "cwd": self.cwd,
            "sessionId": self.state().id, "version": self.plan.text("version", "2.1.329"), "gitBranch": "HEAD",
        })
    }

    fn say_assistant(&self, block: Value, stop_reason: &str) -> Value {
        let message = json!({
            "id": format!("msg_fake_{}", now_ms()), "type": "message", "role": "assistant", "model": "fake",
            "content": [block], "stop_reason": stop_reason, "stop_sequence": null,
            "usage": { "input_tokens": 1, "output_tokens": 1 },
        });
        let entry = self.entry("assistant", message);
        self.append(&entry);
        entry
    }

    fn say_result(&self, id: &str, content: &str, is_error: bool) {
        let block = json!({ "tool_use_id": id, "type": "tool_result", "content": content, "is_error": is_error });
        let mut entry = self.entry("user", json!({ "role": "user", "content": [block] }));
        entry["toolUseResult"] = if is_error {
            json!(format!("Error: {content}"))
        } else {
            json!({ "stdout": content, "stderr": "", "interrupted": false })
        };
        self.append(&entry);
    }
}

fn run_session(plan: Plan, arguments: Arguments) {
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let folder =
        std::env::var_os("CLAUDE_CONFIG_DIR").map_or_else(|| home.join(".claude"), PathBuf::from);
    let cwd = std::env::current_dir()
        .map(|d| d.display().to_string())
        .unwrap_or_default();
    let project = folder.join("projects").join(slug(&cwd));
    let exists = |id: &str| project.join(format!("{id}.jsonl")).exists();
    let resumes = arguments.resume.is_some() || arguments.go_on;
    if arguments.session_id.is_some() && resumes && !arguments.fork {
        fail("Error: --session-id with --continue or --resume also needs --fork-session.");
    }
    let id = if let Some(id) = &arguments.session_id {
        if !is_uuid(id) {
            fail("Error: Invalid session ID. Must be a valid UUID.");
        }
        if exists(id) {
            fail(&format!("Error: Session ID {id} is already in use."));
        }
        id.clone()
    } else if resumes {
        let wanted = arguments.resume.clone().unwrap_or_default();
        let id = if wanted.is_empty() {
            newest(&project).unwrap_or_default()
        } else {
            wanted
        };
        if !exists(&id) {
            if id.is_empty() {
                fail("No conversation found to continue");
            }
            fail(&format!("No conversation found with session ID: {id}"));
        }
        id
    } else {
        uuid()
    };
    let on_terminal = is_terminal(0) && is_terminal(1) && !arguments.print;
    let tui = match plan.text("tui", "auto").as_str() {
        "on" => true,
        "off" => false,
        _ => on_terminal,
    };
    let ill = match plan.path("once") {
        Some(path) => File::options()
            .write(true)
            .create_new(true)
            .open(path)
            .is_ok(),
        None => true,
    };
    let world = Arc::new(World {
        print: arguments.print || !tui,
        folder,
        cwd,
        ill,
        started_ms: now_ms(),
        tui: AtomicBool::new(false),
        tool: AtomicI32::new(0),
        state: Mutex::new(State {
            id,
            status: "busy",
            last_prompt: String::new(),
            saved_modes: None,
        }),
        plan,
    });
    if tui {
        world.state().status = "idle";
    }
    world.write_session_file(&world.state(), true);
    let _helpers = be_ill(&world);
    listen_to_signals(&world, tui);
    if tui {
        run_tui(&world, arguments.prompt);
    } else {
        run_print(&world, &arguments);
    }
}

fn run_print(world: &Arc<World>, arguments: &Arguments) {
    let json_stream = arguments.output_format == "stream-json";
    let emit = |value: &Value| {
        let mut out = io::stdout().lock();
        if writeln!(out, "{value}").and_then(|()| out.flush()).is_err() {
            end(world, libc::SIGPIPE, 1);
        }
    };
    let id = world.state().id.clone();
    if json_stream {
        emit(&json!({ "type": "system", "subtype": "init", "session_id": id, "cwd": world.cwd }));
    }
    let turn = |prompt: &str| {
        let begun = Instant::now();
        let answer = run_turn(world, prompt, &mut |entry| {
            if json_stream {
                emit(
                    &json!({ "type": entry["type"], "message": entry["message"], "session_id": id }),
                );
            }
        });
        let result = json!({
            "type": "result", "subtype": "success", "is_error": false, "result": answer, "session_id": id,
            "duration_ms": begun.elapsed().as_millis() as u64, "num_turns": 1, "stop_reason": "end_turn",
        });
        match arguments.output_format.as_str() {
            "text" => {
                let mut out = io::stdout().lock();
                if writeln!(out, "{answer}")
                    .and_then(|()| out.flush())
                    .is_err()
                {
                    end(world, libc::SIGPIPE, 1);
                }
            }
            _ => emit(&result),
        }
    };
    if arguments.input_format == "stream-json" {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            let Ok(message) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            if message["type"] == "user" {
                let content = &message["message"]["content"];
                turn(
                    content
                        .as_str()
                        .or(content[0]["text"].as_str())
                        .unwrap_or(""),
                );
            }
        }
    } else {
        let mut piped = String::new();
        if !io::stdin().is_terminal() && arguments.prompt.is_none() {
            let _ = io::stdin().read_to_string(&mut piped);
        }
        let prompt = arguments.prompt.clone().unwrap_or(piped);
        if prompt.trim().is_empty() {
            eprintln!(
                "Error: Input must be provided either through stdin or as a prompt argument when using --print"
            );
            end(world, 0, 1);
        }
        turn(prompt.trim_end());
    }
    end(world, 0, 0);
}

/// One prompt up to its final answer. A resumed conversation goes on behind its last result.
fn run_turn(world: &World, prompt: &str, said: &mut dyn FnMut(&Value)) -> String {
    let plan = &world.plan;
    world.set_status("busy");
    thread::sleep(plan.duration("transcript_ms", 0));
    let id = world.state().id.clone();
    let history = History::read(&world.transcript(&id));
    if let (Some(call), false) = (&history.unanswered, plan.old()) {
        world.say_result(
            call,
            "[Tool call interrupted: the session ended before this call's result was recorded]",
            true,
        );
    }
    if world.print {
        for operation in ["enqueue", "dequeue"] {
            world.append(&json!({ "type": "queue-operation", "operation": operation, "sessionId": id, "timestamp": timestamp() }));
        }
    }
    let mut user = world.entry("user", json!({ "role": "user", "content": prompt }));
    user["promptId"] = json!(uuid());
    world.append(&user);
    world.state().last_prompt = prompt.to_owned();
    for round in history.finished + 1..=plan.number("rounds", 3) {
        said(&world.say_assistant(
            json!({ "type": "text", "text": format!("Round {round}.") }),
            "tool_use",
        ));
        let call = format!("{ID_PREFIX}{round:04}_{}", uuid());
        let input = json!({ "command": format!("echo round-{round} >> rounds.log"), "description": "one round" });
        said(&world.say_assistant(
            json!({ "type": "tool_use", "id": call, "name": "Bash", "input": input }),
            "tool_use",
        ));
        match run_tool(world, round) {
            Ok(()) => world.say_result(&call, &format!("round-{round}"), false),
            Err(reason) => world.say_result(&call, &reason, true),
        }
        // A real terminal shows progress; so does the demo.
        if world.tui.load(Ordering::Relaxed) {
            draw(&format!("round {round} done\r\n"));
        }
    }
    let answer = plan.text("answer", "ALL DONE");
    said(&world.say_assistant(json!({ "type": "text", "text": answer }), "end_turn"));
    if world.print {
        world.append(&json!({ "type": "last-prompt", "lastPrompt": prompt, "sessionId": id }));
    }
    world.set_status("idle");
    answer
}

/// What a transcript says about the rounds.
#[derive(Default)]
struct History {
    finished: u64,
    unanswered: Option<String>,
}

impl History {
    fn read(path: &Path) -> History {
        let mut history = History::default();
        for line in fs::read_to_string(path).unwrap_or_default().lines() {
            let Ok(entry) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            for block in entry["message"]["content"].as_array().into_iter().flatten() {
                match block["type"].as_str() {
                    Some("tool_use") => {
                        history.unanswered = block["id"].as_str().map(str::to_owned)
                    }
                    Some("tool_result") => {
                        history.unanswered = None;
                        let round = block["tool_use_id"].as_str().and_then(|id| {
                            id.strip_prefix(ID_PREFIX)?.split('_').next()?.parse().ok()
                        });
                        if let (Some(round), false) = (round, block["is_error"] == json!(true)) {
                            history.finished = history.finished.max(round);
                        }
                    }
                    _ => {}
                }
            }
        }
        history
    }
}

// ---------------------------------------------------------------------------------------------
// Tools and helpers: this program again, with FAKE_CLAUDE_TOOL set

fn run_tool(world: &World, round: u64) -> Result<(), String> {
    let plan = &world.plan;
    let place = plan.text("leak_in", "self");
    let leaks = world.ill && place != "self" && plan.number("leak_round", 1) == round;
    let mut order = format!("life_ms={};round={round}", plan.number("round_ms", 100));
    if leaks {
        order = format!(
            "life_ms={};round={round}",
            plan.number("leak_hold_ms", 30_000)
        );
        for name in [
            "leak_mib",
            "leak_mib_per_s",
            "leak_after_ms",
            "mark_mib",
            "mark",
        ] {
            if let Some(value) = plan.0.get(name) {
                order += &format!(";{name}={value}");
            }
        }
        if place == "grandchild" {
            order += ";below=1";
        }
    }
    let cwd_file = std::env::temp_dir().join(format!("claude-{:04x}-cwd", now_ms() & 0xffff));
    let _ = fs::write(&cwd_file, &world.cwd);
    let mut command = helper(&order);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(script) = plan.path("script").filter(|_| world.ill) {
        let output = task_output(world, round).map_err(|e| e.to_string())?;
        command = Command::new("bash");
        command
            .arg(script)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(|e| e.to_string())?)
            .stderr(output);
    }
    let own_session = !matches!(place.as_str(), "tool_group" | "tool_same");
    let own_group = place == "tool_group";
    // SAFETY: setsid and setpgid are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            if own_session {
                libc::setsid();
            } else if own_group {
                libc::setpgid(0, 0);
            }
            Ok(())
        });
    }
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    world.tool.store(child.id() as i32, Ordering::Release);
    let status = wait_without_reaping(&mut child);
    // The end has taken the tool away: no answer is due any more.
    if ENDING.load(Ordering::Acquire) {
        wait_for_the_end();
    }
    world.tool.store(0, Ordering::Release);
    let _ = child.wait();
    let _ = fs::remove_file(cwd_file);
    match status {
        0 => Ok(()),
        code => Err(format!("Exit code {code}")),
    }
}

/// The file that the client gives a tool for its standard output and error.
fn task_output(world: &World, round: u64) -> io::Result<File> {
    let base =
        std::env::var_os("CLAUDE_CODE_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
    // SAFETY: takes nothing and cannot fail.
    let uid = unsafe { libc::geteuid() };
    let folder = base
        .join(format!("claude-{uid}"))
        .join(slug(&world.cwd))
        .join(&world.state().id)
        .join("tasks");
    private_folder(&folder);
    File::options()
        .create(true)
        .append(true)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW)
        .open(folder.join(format!("r{round}.output")))
}

/// Opens a file again and again.
fn open_and_keep(path: &Path, count: u64, per_s: u64) {
    let mut kept = Vec::new();
    for _ in 0..count.min(10_000) {
        kept.extend(File::open(path));
        if let Some(pause_us) = 1_000_000_u64.checked_div(per_s) {
            thread::sleep(Duration::from_micros(pause_us));
        }
    }
    // Kept to the end of the process.
    std::mem::forget(kept);
}

/// Waits until the child has ended and leaves it a zombie, so that its number stays its own until
/// nobody has it in hand any more.
fn wait_without_reaping(child: &mut Child) -> i32 {
    // SAFETY: siginfo_t is plain old data; waitid writes one.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        while libc::waitid(
            libc::P_PID,
            child.id(),
            &mut info,
            libc::WEXITED | libc::WNOWAIT,
        ) != 0
        {
            if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return 1;
            }
        }
        if info.si_code == libc::CLD_EXITED {
            info.si_status()
        } else {
            128 + info.si_status()
        }
    }
}

fn helper(order: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("fake-claude-tool")
        .env("FAKE_CLAUDE_TOOL", order);
    command
}

fn tool_main(order: &Plan) -> ! {
    restore_sigpipe();
    let life = Duration::from_millis(order.number("life_ms", 0).min(HELPER_LIFE_MS));
    let until = Instant::now() + life;
    if order.number("below", 0) == 1 {
        let mut deeper = order.0.clone();
        deeper.remove("below");
        let text: Vec<String> = deeper.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let status = helper(&text.join(";")).status();
        std::process::exit(status.map_or(1, |s| s.code().unwrap_or(128 + s.signal().unwrap_or(0))));
    }
    if order.number("with_parent", 0) == 1 {
        thread::spawn(|| {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            std::process::exit(0);
        });
    }
    let leaking = order.number("leak_mib", 0) > 0;
    if leaking {
        leak(order);
    }
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        thread::sleep(left);
    }
    if let Some(round) = order.0.get("round") {
        append(Path::new("rounds.log"), &format!("round-{round}"));
    }
    std::process::exit(0)
}

/// Starts what `FAKE_CLAUDE` asks for beyond the conversation. The helpers end with the answer's
/// drop, or with this process.
fn be_ill(world: &Arc<World>) -> Vec<Child> {
    let plan = &world.plan;
    let mut helpers = Vec::new();
    if !world.ill {
        return helpers;
    }
    let cow_mib = plan.number("cow_mib", 0).min(LEAK_LIMIT_MIB);
    if cow_mib > 0 {
        share_with_fork(cow_mib);
    }
    if let Some(path) = plan.path("open") {
        let (count, per_s) = (plan.number("open_count", 0), plan.number("open_per_s", 0));
        thread::spawn(move || open_and_keep(&path, count, per_s));
    }
    for _ in 0..plan.number("storm", 0).min(2000) {
        let mut command = helper(&format!("life_ms={HELPER_LIFE_MS};with_parent=1"));
        match command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn() {
            Ok(child) => helpers.push(child),
            Err(e) => {
                eprintln!("fake-claude: storm stopped at {}: {e}", helpers.len());
                break;
            }
        }
    }
    if plan.number("leak_mib", 0) > 0 && plan.text("leak_in", "self") == "self" {
        let plan = plan.clone();
        thread::spawn(move || leak(&plan));
    }
    if plan.number("arena_mib", 0) > 0 {
        let plan = plan.clone();
        thread::spawn(move || fill_arena(&plan));
    }
    let objects_per_s = plan.number("objects_per_s", 0);
    if objects_per_s > 0 {
        thread::spawn(move || keep_objects(objects_per_s));
    }
    if plan.0.contains_key("exit") || plan.0.contains_key("die") {
        let world = Arc::clone(world);
        thread::spawn(move || {
            thread::sleep(world.plan.duration("after_ms", 0));
            if world.plan.0.contains_key("exit") {
                end(&world, 0, world.plan.number("exit", 0) as i32);
            }
            die_of(world.plan.number("die", libc::SIGKILL as u64) as i32);
        });
    }
    helpers
}

/// Ends this process by the signal's default action, whatever it does about it otherwise.
fn die_of(signal: i32) -> ! {
    // SAFETY: SIG_DFL needs no handler; the set is initialised by sigemptyset; the file size limit
    // of a core file is set to nothing so that no test leaves one.
    unsafe {
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        libc::signal(signal, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        libc::kill(libc::getpid(), signal);
    }
    // Only for a signal that does not end a process.
    thread::sleep(Duration::from_millis(HELPER_LIFE_MS));
    std::process::exit(1)
}

/// Takes memory and keeps it: at the ordered speed, in steps of 5 ms.
fn leak(plan: &Plan) {
    const MIB: u64 = 1 << 20;
    thread::sleep(plan.duration("leak_after_ms", 0));
    let total = plan.number("leak_mib", 0).min(LEAK_LIMIT_MIB) * MIB;
    let per_s = plan.number("leak_mib_per_s", 0) * MIB;
    let mut mark_at = plan
        .0
        .contains_key("mark")
        .then(|| plan.number("mark_mib", 0) * MIB);
    let begun = Instant::now();
    let mut taken = 0u64;
    while taken < total {
        let due = match per_s {
            0 => total,
            _ => total.min((begun.elapsed().as_micros() as u64).saturating_mul(per_s) / 1_000_000),
        };
        while taken < due {
            let size = (due - taken).min(4 * MIB);
            take(size as usize);
            taken += size;
            if mark_at.is_some_and(|at| taken >= at) {
                mark_at = None;
                if let Some(path) = plan.path("mark") {
                    let _ = fs::write(path, monotonic_ns().to_string());
                }
            }
        }
        if taken < total {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Maps and writes memory that nobody gives back.
fn take(bytes: usize) {
    // SAFETY: a new private mapping; the writes stay below its length.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let place = libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        );
        if place == libc::MAP_FAILED {
            eprintln!("fake-claude: leak: {}", io::Error::last_os_error());
            return;
        }
        // A page of the smallest size, with more than zeros in it.
        for at in (0..bytes).step_by(4096) {
            place
                .cast::<u8>()
                .add(at)
                .write_volatile((at >> 12) as u8 | 1);
        }
    }
}

/// Grows inside one mapping, as today's client does. What ends the waiting comes from outside; while it waits, it calls
/// the mmap family, as a program does that is still mapping.
fn fill_arena(plan: &Plan) {
    const MIB: usize = 1 << 20;
    let size = plan.number("arena_mib", 0).min(LEAK_LIMIT_MIB) as usize * MIB;
    let touched = plan.number("arena_touch_mib", 0) as usize * MIB;
    let (Some(go), Some(done)) = (plan.path("arena_go"), plan.path("arena_done")) else {
        fail("FAKE_CLAUDE: arena_mib without arena_go and arena_done");
    };
    let usable = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new private mapping, all of it readable and writable; the writes stay below its length. Huge pages
    // would be more than what is written.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let place = libc::mmap(std::ptr::null_mut(), size, usable, flags, -1, 0);
        if place == libc::MAP_FAILED {
            fail(&format!(
                "fake-claude: arena: {}",
                io::Error::last_os_error()
            ));
        }
        libc::madvise(place, size, libc::MADV_NOHUGEPAGE);
        while !go.exists() {
            libc::mprotect(place, size, usable);
            thread::sleep(Duration::from_millis(20));
        }
        for at in (0..touched.min(size)).step_by(4096) {
            place.cast::<u8>().add(at).write_volatile(1);
        }
    }
    let _ = fs::write(done, "");
    loop {
        thread::park();
    }
}

/// Takes objects of the reported size at the ordered speed, in steps of 5 ms, and keeps them.
fn keep_objects(per_s: u64) {
    const MOST: u64 = 2_000_000;
    let begun = Instant::now();
    let mut taken = 0;
    while taken < MOST {
        let due = (begun.elapsed().as_micros() as u64).saturating_mul(per_s) / 1_000_000;
        let due = due.min(MOST);
        while taken < due {
            // SAFETY: nobody frees it; the write stays in it. black_box keeps the call.
            unsafe {
                let object = std::hint::black_box(libc::malloc(160));
                if !object.is_null() {
                    object.write_bytes(1, 160);
                }
            }
            taken += 1;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Takes memory and forks a child that has it copy-on-write and waits for this process to end.
fn share_with_fork(mib: u64) {
    take((mib << 20) as usize);
    let Ok((reader, writer)) = pipe() else { return };
    // SAFETY: there is a single thread yet; the child only makes async-signal-safe calls and leaves
    // by _exit.
    unsafe {
        if libc::fork() == 0 {
            libc::close(writer.as_raw_fd());
            libc::alarm((HELPER_LIFE_MS / 1000) as u32);
            let mut byte = 0u8;
            libc::read(reader.as_raw_fd(), (&raw mut byte).cast(), 1);
            libc::_exit(0);
        }
    }
    // The writing end stays open for as long as this process lives.
    std::mem::forget(writer);
}

/// A pipe whose ends no program started from here gets: reading end, writing end.
fn pipe() -> io::Result<(File, File)> {
    let mut fds = [0i32; 2];
    // SAFETY: pipe2 writes two descriptors, which are owned at once.
    unsafe {
        if libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((File::from_raw_fd(fds[0]), File::from_raw_fd(fds[1])))
    }
}

// ---------------------------------------------------------------------------------------------
// Signals and the end

static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

#[repr(C)]
#[derive(Clone, Copy)]
struct Caught {
    t_ns: u64,
    signal: i32,
    code: i32,
    pid: i32,
    uid: u32,
}

extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid siginfo_t (SA_SIGINFO); write and clock_gettime are
    // async-signal-safe; errno is put back for whoever was interrupted.
    unsafe {
        let errno = *libc::__errno_location();
        let caught = Caught {
            t_ns: monotonic_ns(),
            signal,
            code: (*info).si_code,
            pid: (*info).si_pid(),
            uid: (*info).si_uid(),
        };
        let fd = SIGNAL_PIPE.load(Ordering::Relaxed);
        libc::write(fd, (&raw const caught).cast(), size_of::<Caught>());
        *libc::__errno_location() = errno;
    }
}

fn listen_to_signals(world: &Arc<World>, tui: bool) {
    let (mut reader, writer) = match pipe() {
        Ok(pipe) => pipe,
        Err(e) => fail(&format!("fake-claude: pipe: {e}")),
    };
    SIGNAL_PIPE.store(writer.as_raw_fd(), Ordering::Relaxed);
    std::mem::forget(writer);
    let ignore = world.plan.text("ignore", "");
    let ignored =
        |signal: i32| ignore == "all" || ignore.split(',').any(|n| n == signal.to_string());
    let ignored: Vec<bool> = (0..32).map(ignored).collect();
    let record = world.plan.path("signals");
    let mut caught: Vec<i32> = vec![libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
    if tui {
        caught.extend([libc::SIGTSTP, libc::SIGCONT, libc::SIGWINCH]);
    }
    caught.extend((1..32).filter(|s| ignored[*s as usize]));
    if record.is_some() {
        caught = (1..32).collect();
    }
    for signal in caught {
        // Not for SIGCHLD of our own tools; the two that cannot be caught are refused anyway.
        if signal == libc::SIGCHLD && record.is_none() {
            continue;
        }
        // SAFETY: all-zero is a valid sigaction; the handler has the SA_SIGINFO signature.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
    let ready = record.clone();
    let world = Arc::clone(world);
    thread::spawn(move || {
        let mut bytes = [0u8; size_of::<Caught>()];
        while reader.read_exact(&mut bytes).is_ok() {
            // SAFETY: the bytes were written from a Caught, whose fields take any value.
            let caught: Caught = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) };
            if let Some(path) = &record {
                append_line(
                    path,
                    &json!({
                        "signal": caught.signal, "code": caught.code, "pid": caught.pid, "uid": caught.uid, "t_ns": caught.t_ns,
                    }),
                );
            }
            if !ignored
                .get(caught.signal as usize)
                .copied()
                .unwrap_or(false)
            {
                obey(&world, caught.signal);
            }
        }
    });
    if let Some(path) = ready {
        append_line(
            &path,
            &json!({ "ready": std::process::id(), "t_ns": monotonic_ns() }),
        );
    }
}

fn obey(world: &World, signal: i32) {
    let tui = world.tui.load(Ordering::Relaxed);
    match signal {
        libc::SIGTERM => end(world, signal, 143),
        libc::SIGHUP => end(world, signal, 129),
        libc::SIGINT => {
            if world.print && !tui {
                print!("Execution error");
                let _ = io::stdout().flush();
            }
            end(world, signal, 0)
        }
        libc::SIGTSTP => suspend(world),
        libc::SIGCONT if tui => {
            enter_raw(world);
            draw("redrawn\r\n");
        }
        libc::SIGWINCH if tui => draw_size(),
        _ => {}
    }
}

fn wait_for_the_end() -> ! {
    loop {
        thread::park();
    }
}

/// Set by the thread that ends this process: from there on no other one goes on.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Leaves as the client does. `signal` is 0 for an end of its own.
fn end(world: &World, signal: i32, code: i32) -> ! {
    if ENDING.swap(true, Ordering::AcqRel) {
        wait_for_the_end();
    }
    if signal != 0 {
        thread::sleep(world.plan.duration("term_ms", 50));
        let tool = world.tool.load(Ordering::Acquire);
        if tool > 0 && !world.plan.old() {
            // SAFETY: no pointers; the tool is not reaped while its number is kept there. Its group
            // may be ours, so the leader alone.
            unsafe { libc::kill(tool, libc::SIGKILL) };
        }
        let (id, prompt) = {
            let state = world.state();
            (state.id.clone(), state.last_prompt.clone())
        };
        if world.transcript(&id).exists() {
            world.append(&json!({ "type": "last-prompt", "lastPrompt": prompt, "sessionId": id }));
        }
    }
    if let Some(path) = world.session_file() {
        let _ = fs::remove_file(path);
    }
    if world.tui.load(Ordering::Relaxed) {
        leave_raw(world);
        let mut out = io::stdout();
        let _ = write!(
            out,
            "\r\nResume this session with:\r\nclaude --resume {}\r\n",
            world.state().id
        );
        let _ = out.flush();
    }
    // The client leaves by _exit, too: no destructor may run.
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

// ---------------------------------------------------------------------------------------------
// The terminal

const ENTER_SCREEN: &str = "\x1b[?1049h\x1b[?1000h\x1b[?1002h\x1b[?1003h\x1b[?1006h\x1b[?1004h\x1b[?2004h\x1b[?2031h\x1b[>1u\x1b[?25l";
const LEAVE_SCREEN: &str = "\x1b[<u\x1b[?2031l\x1b[?2004l\x1b[?1004l\x1b[?1006l\x1b[?1003l\x1b[?1002l\x1b[?1000l\x1b[?1049l\x1b[?25h";

fn run_tui(world: &Arc<World>, prompt: Option<String>) {
    enter_raw(world);
    draw("fake-claude ready\r\n");
    draw_size();
    let (prompts, queue) = std::sync::mpsc::channel::<String>();
    let worker = Arc::clone(world);
    thread::spawn(move || {
        for prompt in queue {
            draw(&format!("working on {prompt}\r\n"));
            let answer = run_turn(&worker, &prompt, &mut |_| {});
            draw(&format!("{answer}\r\n"));
        }
    });
    if let Some(prompt) = prompt {
        let _ = prompts.send(prompt);
    }
    let mut line = String::new();
    let mut bytes = io::stdin().lock().bytes();
    let mut interrupts = 0;
    loop {
        match bytes.next() {
            // A terminal that is gone: as on HUP.
            None | Some(Err(_)) => end(world, libc::SIGHUP, 129),
            Some(Ok(b'\x1a')) => suspend(world),
            Some(Ok(b'\x04')) => end(world, 0, 0),
            Some(Ok(b'\x03')) => {
                interrupts += 1;
                if interrupts == 2 {
                    end(world, 0, 0);
                }
                draw("Press Ctrl-C again to exit\r\n");
            }
            Some(Ok(b'\r')) => {
                interrupts = 0;
                match line.trim() {
                    "" => {}
                    "/exit" => end(world, 0, 0),
                    "/clear" => clear(world),
                    text => drop(prompts.send(text.to_owned())),
                }
                line.clear();
            }
            Some(Ok(byte)) => {
                line.push(byte as char);
                draw(&(byte as char).to_string());
            }
        }
    }
}

/// A new session with nothing in it, in the same process.
fn clear(world: &World) {
    let id = uuid();
    {
        let mut state = world.state();
        state.id.clone_from(&id);
        world.write_session_file(&state, false);
    }
    let command = "<command-name>/clear</command-name>\n            <command-message>clear</command-message>\n            <command-args></command-args>";
    world.append(&world.entry("user", json!({ "role": "user", "content": command })));
    world.append(&json!({ "type": "system", "subtype": "local_command", "content": "<local-command-stdout></local-command-stdout>", "sessionId": id, "uuid": uuid(), "timestamp": timestamp() }));
    draw("cleared\r\n");
}

fn suspend(world: &World) {
    let tui = world.tui.load(Ordering::Relaxed);
    if tui {
        leave_raw(world);
        draw("suspended\r\n");
    }
    // SAFETY: no pointers. SIGTSTP to the whole group is what a program does that is the only one
    // in its job; its own disposition is the default for that moment.
    unsafe {
        if world.plan.text("suspend", "self") == "group" {
            let old = libc::signal(libc::SIGTSTP, libc::SIG_DFL);
            libc::kill(0, libc::SIGTSTP);
            libc::signal(libc::SIGTSTP, old);
            if tui {
                listen_again(libc::SIGTSTP);
            }
        } else {
            libc::kill(libc::getpid(), libc::SIGSTOP);
        }
    }
}

/// Puts the handler back that `signal` has replaced.
fn listen_again(signal: i32) {
    // SAFETY: as in listen_to_signals.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(signal, &action, std::ptr::null_mut());
    }
}

fn enter_raw(world: &World) {
    // SAFETY: termios is plain old data; both calls read or write one.
    unsafe {
        let mut modes: libc::termios = std::mem::zeroed();
        if libc::tcgetattr(0, &mut modes) == 0 {
            let mut state = world.state();
            if !world.tui.load(Ordering::Relaxed) || state.saved_modes.is_none() {
                state.saved_modes = Some(modes);
            }
            libc::cfmakeraw(&mut modes);
            libc::tcsetattr(0, libc::TCSANOW, &modes);
        }
    }
    world.tui.store(true, Ordering::Relaxed);
    draw(ENTER_SCREEN);
}

fn leave_raw(world: &World) {
    draw(LEAVE_SCREEN);
    if let Some(modes) = world.state().saved_modes.take() {
        // SAFETY: reads one termios.
        unsafe { libc::tcsetattr(0, libc::TCSADRAIN, &modes) };
    }
}

fn draw(text: &str) {
    let mut out = io::stdout().lock();
    // A terminal that is gone is noticed where it is read.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn draw_size() {
    // SAFETY: winsize is plain old data; the ioctl writes one.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        libc::ioctl(1, libc::TIOCGWINSZ, &mut size);
        size
    };
    draw(&format!("size {}x{}\r\n", size.ws_col, size.ws_row));
}

// ---------------------------------------------------------------------------------------------
// Small things

fn append(path: &Path, line: &str) {
    if let Ok(mut file) = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
    {
        // In one call: a reader never sees half a line of a living process.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

fn append_line(path: &Path, value: &Value) {
    append(path, &value.to_string());
}

fn private_folder(path: &Path) {
    let _ = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
}

fn slug(cwd: &str) -> String {
    cwd.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect()
}

fn newest(project: &Path) -> Option<String> {
    let found = fs::read_dir(project)
        .ok()?
        .flatten()
        .filter(|e| e.path().extension().is_some_and(|x| x == "jsonl"));
    let newest = found.max_by_key(|e| e.metadata().and_then(|m| m.modified()).ok())?;
    Some(newest.path().file_stem()?.to_string_lossy().into_owned())
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(i, c)| {
            if [8, 13, 18, 23].contains(&i) {
                c == '-'
            } else {
                c.is_ascii_hexdigit()
            }
        })
}

fn uuid() -> String {
    let mut b = [0u8; 16];
    if File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut b))
        .is_err()
    {
        fail("fake-claude: /dev/urandom");
    }
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: String = b.iter().map(|b| format!("{b:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

fn own_start_ticks() -> String {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let rest = stat.rsplit(')').next().unwrap_or_default();
    rest.split_ascii_whitespace()
        .nth(19)
        .unwrap_or_default()
        .to_owned()
}

fn now_ms() -> u64 {
    SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |d| d.as_millis() as u64)
}

fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The time now as the transcript has it: `2026-01-31T12:00:00.000Z`.
fn timestamp() -> String {
    let ms = now_ms();
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    // Days to a date of the Gregorian calendar; years begin in March, so that the leap day is last.
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        rest % 1000
    )
}
