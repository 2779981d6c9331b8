//! The guard from outside: the built library, preloaded into programs, and what they then see.
//!
//! Every run has its own folder, home and environment. A probe that finds itself unguarded ends
//! with status 99, so no test passes because the preload was missing.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

#[path = "../../guard/src/stats_page.rs"]
#[allow(missing_docs)]
mod stats_page;

use stats_page::{Snapshot, State, Unreadable, Usr1};

const PROBE: &str = env!("CARGO_BIN_EXE_guard-probe");
const DEADLINE: Duration = Duration::from_secs(120);

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace")
}

/// The library, built the way the README says.
fn guard_library() -> &'static Path {
    &claude_safe_tests::artifacts().guard
}

/// A name, and what makes a file at a path.
type MakeFile<'a> = (&'a str, &'a dyn Fn(&Path));

/// A folder of its own for one test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let mut template = std::env::temp_dir()
            .join("cs-guard-XXXXXX")
            .into_os_string()
            .into_encoded_bytes();
        template.push(0);
        // SAFETY: a terminated template, written in place.
        let made = unsafe { libc::mkdtemp(template.as_mut_ptr().cast()) };
        assert!(!made.is_null(), "mkdtemp");
        template.pop();
        let folder = PathBuf::from(OsStr::from_bytes(&template));
        for name in ["home", "tmp"] {
            fs::create_dir(folder.join(name)).expect("mkdir");
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// An empty statistics page, as the wrapper makes it.
    fn page(&self) -> PathBuf {
        let page = self.path("page");
        fs::write(&page, [0; stats_page::LEN]).expect("page");
        page
    }

    fn read_page(&self) -> Result<Snapshot, Unreadable> {
        Snapshot::from_bytes(&fs::read(self.path("page")).expect("page"))
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .process_group(0);
        command
    }

    /// The program, preloaded by hand; it logs to `log`.
    fn by_hand(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command(program);
        command
            .env("LD_PRELOAD", guard_library())
            .env("CLAUDE_MALLOC_GUARD_LOG", self.path("log"));
        command
    }

    /// The program, handed over as the wrapper does it. `before` are commands that exec it;
    /// `$PID` in the handover stands for the process.
    fn handed_over(&self, handover: &str, before: &[&str], program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command("/bin/sh");
        let script = "CLAUDE_SAFE_HANDOVER=$(printf %s \"$1\" | sed \"s/[$]PID/$$/\") LD_PRELOAD=$2; \
                      export CLAUDE_SAFE_HANDOVER LD_PRELOAD; shift 2; exec \"$@\"";
        command
            .args(["-c", script, "sh", handover])
            .arg(guard_library())
            .args(before)
            .arg(program);
        command
    }

    /// The usual handover: with page and log.
    fn client_handover(&self) -> String {
        format!(
            "1;pid=$PID;page={};log={}",
            self.page().display(),
            self.path("log").display()
        )
    }

    fn client(&self, program: impl AsRef<OsStr>) -> Command {
        self.handed_over(&self.client_handover(), &[], program)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs to the end, which must come before the deadline.
fn run(command: &mut Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let pid = child.id();
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    // Both pipes are read while waiting, or a talkative program would never end.
    let read = |mut from: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).map(|_| bytes)
        })
    };
    let out = read(Box::new(stdout.take().expect("stdout")));
    let err = read(Box::new(stderr.take().expect("stderr")));
    let until = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if Instant::now() > until {
            // SAFETY: the process group that this child was made the leader of.
            unsafe { libc::kill(-(pid as i32), libc::SIGKILL) };
            let _ = child.wait();
            panic!("{command:?} did not end in {DEADLINE:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Output {
        status,
        stdout: out.join().expect("reader").expect("stdout"),
        stderr: err.join().expect("reader").expect("stderr"),
    }
}

/// Runs, must succeed without a word on stderr; what it said on stdout.
fn said(command: &mut Command) -> String {
    let output = run(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{command:?}: {:?}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The `key=value` pairs of a line.
fn fields(line: &str) -> HashMap<&str, &str> {
    line.split_whitespace()
        .filter_map(|word| word.split_once('='))
        .collect()
}

fn number(fields: &HashMap<&str, &str>, key: &str) -> i64 {
    fields
        .get(key)
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {key} in {fields:?}"))
}

fn file_id(path: &str) -> String {
    let file = fs::metadata(path).expect(path);
    format!("{}:{}", file.dev(), file.ino())
}

/// Compiles a C program of tests/programs.
fn compile(scratch: &Scratch, source: &str, output: &str, arguments: &[&str]) -> PathBuf {
    let output = scratch.path(output);
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("programs")
        .join(source);
    let compiled = Command::new("cc")
        .args(["-O1", "-fno-builtin", "-Wall", "-Werror", "-o"])
        .arg(&output)
        .arg(source)
        .args(arguments)
        .output()
        .expect("cc, which Rust needs as its linker too");
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    output
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

// The artifact

#[test]
fn the_library_needs_exports_and_weighs_what_it_may() {
    let script = workspace().join(".ci/check-guard.sh");
    let check = |library: &Path| {
        Command::new("sh")
            .arg(&script)
            .arg(library)
            .output()
            .expect("sh")
    };
    let output = check(guard_library());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // The check is one that can fail.
    assert_eq!(check(Path::new(PROBE)).status.code(), Some(1));
    assert_eq!(check(Path::new("/nonexistent")).status.code(), Some(2));
}

// Counting

/// musl loads it, and runs on as before: standing by, and asked to serve at once.
#[test]
fn harmless_under_musl() {
    if !is_on_path("musl-gcc") {
        println!("skipped: harmless_under_musl: musl-gcc is not here");
        return;
    }
    let scratch = Scratch::new();
    let program = scratch.path("musl");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/guard_musl.c");
    let compiled = Command::new("musl-gcc")
        .args(["-O1", "-Wall", "-o"])
        .args([&program, &source])
        .output()
        .expect("musl-gcc");
    let errors = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{errors}");
    for threshold in ["1000000", "0"] {
        let text = said(
            scratch
                .by_hand(&program)
                .env("CLAUDE_MALLOC_GUARD_THRESHOLD_MB", threshold),
        );
        assert_eq!(text, "guarded=1 done\n");
    }
}

#[test]
fn counts_every_call_of_the_class_exactly_single_and_multi_threaded() {
    for threads in [1, 7] {
        let scratch = Scratch::new();
        let rounds = 3_000;
        let output = said(
            scratch
                .client(PROBE)
                .args(["family".as_ref(), scratch.path("page").as_os_str()])
                .args([threads.to_string(), rounds.to_string()]),
        );
        let counted = fields(&output);
        let calls = 10 * threads * rounds;
        assert_eq!(number(&counted, "alloc"), calls, "{output}");
        assert_eq!(number(&counted, "live"), 0, "{output}");
        assert_eq!(counted["state"], "Standby");
        assert_eq!(counted["size"], "160");
    }
}

#[test]
fn live_is_the_number_of_live_chunks_even_in_a_fragmented_heap() {
    let scratch = Scratch::new();
    let output = said(
        scratch
            .client(PROBE)
            .args(["churn".as_ref(), scratch.path("page").as_os_str()])
            .args(["4", "300000"]),
    );
    let counted = fields(&output);
    assert_eq!(
        number(&counted, "alloc"),
        number(&counted, "requests"),
        "{output}"
    );
    assert_eq!(
        number(&counted, "live"),
        number(&counted, "chunks"),
        "{output}"
    );
    assert_ne!(
        number(&counted, "stray"),
        0,
        "the heap was not fragmented: {output}"
    );
}

#[test]
fn a_leak_of_the_reports_kind_counts_one_live_object_a_call() {
    let scratch = Scratch::new();
    let page = scratch.path("page");
    let output = said(
        scratch
            .client(PROBE)
            .args(["leak".as_ref(), page.as_os_str()])
            .arg("100000"),
    );
    let counted = fields(&output);
    assert_eq!(number(&counted, "alloc"), 100_000, "{output}");
    assert_eq!(number(&counted, "free"), 0, "{output}");
    assert!(
        (99_990..=100_000).contains(&number(&counted, "live")),
        "{output}"
    );
}

#[test]
fn malloc_before_init_array_is_served_and_counted() {
    let scratch = Scratch::new();
    let page = scratch.path("page");
    let output = said(
        scratch
            .client(PROBE)
            .args(["preinit".as_ref(), page.as_os_str()]),
    );
    let counted = fields(&output);
    assert!(number(&counted, "alloc") >= 1000, "{output}");
    assert!(number(&counted, "live") >= 1000, "{output}");
    assert_eq!(
        number(&counted, "pid"),
        i64::from(scratch.read_page().expect("page").pid)
    );
}

/// pvalloc rounds 0 up to 0: an object of the smallest class, whose end is counted.
#[test]
fn a_pvalloc_of_nothing_is_counted_as_it_ends() {
    let scratch = Scratch::new();
    let handover = format!("{};sizes=16", scratch.client_handover());
    let line = said(
        scratch
            .handed_over(&handover, &[], PROBE)
            .args(["pvalloc".into(), scratch.path("page")]),
    );
    let fields = fields(&line);
    assert_eq!(number(&fields, "free"), 1000, "{line}");
    assert_eq!(number(&fields, "live"), 0, "{line}");
}

#[test]
fn another_class_is_counted_when_told_so() {
    for (spec, size, expected) in [
        ("500", "500", 0),
        ("160,500", "160", 1000),
        ("auto", "160", 1000),
        ("0", "160", 1000),
    ] {
        let scratch = Scratch::new();
        let handover = format!("{};sizes={spec}", scratch.client_handover());
        let mut command = scratch.handed_over(&handover, &[], PROBE);
        let output = said(
            command
                .args(["leak".as_ref(), scratch.path("page").as_os_str()])
                .arg("1000"),
        );
        assert_eq!(
            number(&fields(&output), "alloc"),
            expected,
            "{spec}: {output}"
        );
        assert_eq!(fields(&output)["size"], size, "{spec}: {output}");
    }
}

#[test]
fn free_and_the_signal_handler_keep_errno() {
    let scratch = Scratch::new();
    said(scratch.by_hand(PROBE).arg("errno"));
    assert_eq!(scratch.text("log").lines().count(), 1);
}

#[test]
fn answers_at_the_edges_are_those_of_the_c_library() {
    said(Scratch::new().by_hand(PROBE).arg("edges"));
}

#[test]
fn an_odd_allocator_behind_the_guard_is_passed_on_to_but_not_counted() {
    let scratch = Scratch::new();
    let allocator = compile(
        &scratch,
        "guard_odd_allocator.c",
        "odd.so",
        &["-shared", "-fPIC"],
    );
    let program = compile(&scratch, "guard_odd_program.c", "odd", &["-ldl"]);
    let mut preload = guard_library().as_os_str().to_owned();
    preload.push(":");
    preload.push(allocator);
    said(scratch.by_hand(program).env("LD_PRELOAD", preload));
    let log = scratch.text("log");
    assert!(
        log.contains("alloc=0 free=0 live=0 pool_hit=0 guard=unreachable "),
        "{log:?}"
    );
}

// Identity and environment

/// What the probe prints of its environment, under the guard and without it.
fn environ_with(scratch: &Scratch, handover: Option<&str>, preload: &str) -> String {
    let mut command = scratch.command("/bin/sh");
    let script = "[ -z \"$1\" ] || export CLAUDE_SAFE_HANDOVER=$(printf %s \"$1\" | sed \"s/[$]PID/$$/\"); \
                  export FIRST=1 LD_PRELOAD=\"$2\" LAST='a b:c'; shift 2; exec \"$@\"";
    command.args([
        "-c",
        script,
        "sh",
        handover.unwrap_or(""),
        preload,
        PROBE,
        "environ",
    ]);
    let output = run(&mut command);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn environ_without(scratch: &Scratch, preload: Option<&str>) -> String {
    let mut command = scratch.command("/bin/sh");
    let script = "[ \"$1\" = none ] || export LD_PRELOAD=\"$1\"; \
                  export FIRST=1 LAST='a b:c'; shift; exec \"$@\"";
    command.args([
        "-c",
        script,
        "sh",
        preload.unwrap_or("none"),
        PROBE,
        "environ",
    ]);
    let output = run(&mut command);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn environ_of_the_client_and_of_its_children_is_clean() {
    let scratch = Scratch::new();
    let guard = guard_library().to_str().expect("text");
    let page = scratch.page();
    let handover = format!("1;pid=$PID;page={}", page.display());
    let expected = environ_without(&scratch, None);
    assert!(
        expected.contains("own FIRST=1") && expected.contains("proc LAST=a b:c"),
        "{expected}"
    );
    assert_eq!(environ_with(&scratch, Some(&handover), guard), expected);
    assert_eq!(
        scratch.read_page().expect("the guard was there").state,
        State::Standby
    );
    assert_eq!(environ_with(&scratch, None, guard), expected);
}

#[test]
fn user_preload_entries_survive_byte_for_byte() {
    let scratch = Scratch::new();
    let guard = guard_library().to_str().expect("text");
    let bare = guard_library()
        .file_name()
        .and_then(OsStr::to_str)
        .expect("text");
    let link = scratch.path("link.so");
    symlink(guard_library(), &link).expect("symlink");
    let link = link.to_str().expect("text");
    // Real libraries that are harmless anywhere.
    let (a, b) = ("libm.so.6", "libpthread.so.0");
    for (preload, left) in [
        (guard.to_owned(), None),
        (format!("{guard}:"), Some(String::new())),
        (format!("{guard} "), Some(String::new())),
        (format!("{guard}:{a}"), Some(a.to_owned())),
        (format!("{guard}:{a} {b}"), Some(format!("{a} {b}"))),
        (format!("{guard}::{a}: "), Some(format!(":{a}: "))),
        (format!("{a}:{guard}"), Some(a.to_owned())),
        (format!("{a} {guard}:{b}"), Some(format!("{a} {b}"))),
        (format!(" {a}:{guard}::{b}:"), Some(format!(" {a}::{b}:"))),
        (format!("{guard}:{guard}"), None),
        (format!("{guard}:{a}:{guard}"), Some(a.to_owned())),
        (format!("{link}:{guard}:{a}"), Some(a.to_owned())),
        (format!("{guard}:{link}"), None),
        (format!("{bare}:{guard}:{a}"), Some(a.to_owned())),
    ] {
        let handover = format!("1;pid=$PID;page={}", scratch.page().display());
        let expected = environ_without(&scratch, left.as_deref());
        assert_eq!(
            environ_with(&scratch, Some(&handover), &preload),
            expected,
            "{preload:?}"
        );
        assert!(scratch.read_page().is_ok(), "{preload:?}");
    }
}

#[test]
fn inert_and_gone_from_the_environment_in_another_pid() {
    let scratch = Scratch::new();
    let guard = guard_library().to_str().expect("text");
    let handover = format!(
        "1;pid=1;page={};log={}",
        scratch.page().display(),
        scratch.path("log").display()
    );
    let expected = environ_without(&scratch, Some("libm.so.6"));
    assert_eq!(
        environ_with(&scratch, Some(&handover), &format!("{guard}:libm.so.6")),
        expected
    );
    assert_eq!(scratch.read_page(), Err(Unreadable::Blank));
    assert_eq!(
        said(
            scratch
                .handed_over(&handover, &[], PROBE)
                .arg("disposition")
        ),
        "usr1 default\n"
    );
}

#[test]
fn a_launcher_keeps_it_for_exec() {
    let scratch = Scratch::new();
    let launch = format!("{},{}", file_id("/bin/sh"), file_id("/usr/bin/env"));
    let handover = format!("{};launch={launch}", scratch.client_handover());
    for before in [
        &["/usr/bin/env"][..],
        &["/usr/bin/env", "-S", "sh -c 'exec \"$@\"' sh"],
    ] {
        let mut command = scratch.handed_over(&handover, before, PROBE);
        let output = said(
            command
                .args(["leak".as_ref(), scratch.path("page").as_os_str()])
                .arg("10"),
        );
        assert_eq!(
            number(&fields(&output), "alloc"),
            10,
            "{before:?}: {output}"
        );
    }
    // In the launcher itself it did nothing but pass things on.
    let untouched = said(&mut scratch.handed_over(&handover, &["/usr/bin/env"], "/usr/bin/env"));
    assert!(
        untouched.contains("LD_PRELOAD=") && untouched.contains("CLAUDE_SAFE_HANDOVER=1;pid="),
        "{untouched}"
    );
}

#[test]
fn a_program_that_is_no_launcher_is_the_client() {
    let scratch = Scratch::new();
    let handover = format!(
        "{};launch={}",
        scratch.client_handover(),
        file_id("/bin/sh")
    );
    let untouched = said(&mut scratch.handed_over(&handover, &[], "/usr/bin/env"));
    assert!(
        !untouched.contains("LD_PRELOAD=") && !untouched.contains("CLAUDE_SAFE"),
        "{untouched}"
    );
    assert!(scratch.read_page().is_ok());
}

#[test]
fn malformed_handover_is_inert() {
    let scratch = Scratch::new();
    let guard = guard_library().to_str().expect("text");
    let clean = environ_without(&scratch, None);
    let page = scratch.page();
    let page = page.display();
    for handover in [
        " ",
        "0;pid=$PID",
        "2;pid=$PID",
        "1",
        "1;page=/x",
        "1;pid=",
        "1;pid=x",
        "1;pid=-1",
        "1;pid=99999999999999999999999",
        "1;pid=4294967297",
        "1;pid=$PID;pid=$PID",
        "1;pid=$PID;launch=1",
        "1;pid=$PID;launch=1:2,",
        "1;pid=$PID;launch=1:x",
        "1;pid=$PID;page=relative",
        "1;pid=$PID;page=",
        "1;pid=$PID;log=/%0",
        "1;pid=$PID;log=/%zz",
        "1;pid=$PID;log=/%00",
        "1;pid=$PID;word",
        "pid=$PID;1",
    ] {
        let handover = format!("{handover};page={page}").replacen(
            ";page=relative;page",
            ";page=relative;x",
            1,
        );
        assert_eq!(
            environ_with(&scratch, Some(&handover), guard),
            clean,
            "{handover:?}"
        );
        assert_eq!(scratch.read_page(), Err(Unreadable::Blank), "{handover:?}");
        let mut command = scratch.handed_over(&handover, &[], PROBE);
        assert_eq!(
            said(command.arg("disposition")),
            "usr1 default\n",
            "{handover:?}"
        );
    }
    // The same page in a good one, with fields that nobody knows yet: it is the handover's fault.
    let good = format!("1;future=x;threshold_mb=1;;page={page};pid=$PID;");
    assert_eq!(environ_with(&scratch, Some(&good), guard), clean);
    assert!(scratch.read_page().is_ok());
}

#[test]
fn percent_signs_and_semicolons_in_paths_arrive() {
    let scratch = Scratch::new();
    let odd = scratch.path("odd;100% [x]");
    fs::create_dir(&odd).expect("mkdir");
    fs::rename(scratch.page(), odd.join("page")).expect("rename");
    let encoded = odd
        .display()
        .to_string()
        .replace('%', "%25")
        .replace(';', "%3b");
    let handover = format!("1;pid=$PID;page={encoded}/page;log={encoded}/log");
    said(
        scratch
            .handed_over(&handover, &[], PROBE)
            .args(["line", "4"]),
    );
    assert!(
        fs::read_to_string(odd.join("log"))
            .expect("log")
            .contains("guard=standby")
    );
    let page = fs::read(odd.join("page")).expect("page");
    assert!(Snapshot::from_bytes(&page).is_ok());
}

#[test]
fn a_page_that_is_not_the_wrappers_is_left_alone() {
    let scratch = Scratch::new();
    let victim = scratch.path("victim");
    fs::write(&victim, [7; stats_page::LEN]).expect("write");
    let cases: [MakeFile<'_>; 6] = [
        ("missing", &|_| {}),
        ("short", &|path| {
            fs::write(path, [0; stats_page::LEN - 1]).expect("write")
        }),
        ("long", &|path| {
            fs::write(path, [0; stats_page::LEN + 1]).expect("write")
        }),
        ("folder", &|path| fs::create_dir(path).expect("mkdir")),
        ("symlink", &|path| symlink(&victim, path).expect("symlink")),
        ("fifo", &|path| make_fifo(path)),
    ];
    for (name, make) in cases {
        let page = scratch.path(name);
        make(&page);
        let log = scratch.path("log");
        let handover = format!("1;pid=$PID;page={};log={}", page.display(), log.display());
        said(
            scratch
                .handed_over(&handover, &[], PROBE)
                .args(["line", "10"]),
        );
        let line = fs::read_to_string(&log).expect("log");
        assert!(number(&fields(&line), "alloc") >= 10, "{name}: {line}");
        fs::remove_file(&log).expect("rm");
    }
    assert_eq!(fs::read(&victim).expect("victim"), [7; stats_page::LEN]);
    assert!(!scratch.path("missing").exists());
}

// SIGUSR1

fn make_fifo(path: &Path) {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("a path");
    // SAFETY: a terminated path.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

#[test]
fn usr1_appends_the_documented_line() {
    let scratch = Scratch::new();
    fs::write(scratch.path("log"), "kept\n").expect("log");
    said(scratch.by_hand(PROBE).args(["line", "40"]));
    said(scratch.by_hand(PROBE).args(["line", "0"]));
    let log = scratch.text("log");
    let lines: Vec<_> = log.lines().collect();
    let [kept, forty, none] = lines[..] else {
        panic!("{log:?}");
    };
    assert!(log.ends_with('\n'));
    assert_eq!(kept, "kept");
    let count = |line: &str, key: &str| number(&fields(line), key);
    assert_eq!(count(forty, "alloc") - count(none, "alloc"), 40, "{log}");
    assert_eq!(count(forty, "free") - count(none, "free"), 20, "{log}");
    for line in [forty, none] {
        let words: Vec<_> = line.split(' ').collect();
        assert_eq!(words[..2], ["[malloc-guard]", "160B"]);
        let keys: Vec<_> = words[2..]
            .iter()
            .map(|word| word.split_once('=').expect(line).0)
            .collect();
        assert_eq!(
            keys[..7],
            ["alloc", "free", "live", "pool_hit", "guard", "pid", "time"]
        );
        let alloc = count(line, "alloc");
        assert_eq!(
            count(line, "live"),
            alloc + count(line, "stray") - count(line, "free"),
            "{line}"
        );
        assert!(line.contains(" pool_hit=0 guard=standby pid="), "{line}");
    }
    let date = Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:"])
        .output()
        .expect("date");
    let hour = String::from_utf8(date.stdout).expect("text");
    // (Unless the hour has just turned.)
    let next = fields(none)["time"];
    assert!(
        next.starts_with(hour.trim()) || next[14..].starts_with("59:"),
        "{next} {hour}"
    );
    assert!(next.ends_with('Z') && next.len() == 20, "{next}");
    let mode = fs::metadata(scratch.path("log")).expect("log").mode();
    assert_ne!(mode & libc::S_IFREG, 0);
}

#[test]
fn a_new_log_is_private_and_goes_where_the_variables_say() {
    let scratch = Scratch::new();
    let file = "claude_malloc_guard.log";
    said(scratch.by_hand(PROBE).args(["line", "1"]));
    assert_eq!(
        fs::metadata(scratch.path("log")).expect("log").mode() & 0o777,
        0o600
    );
    said(
        scratch
            .by_hand(PROBE)
            .args(["line", "1"])
            .env_remove("CLAUDE_MALLOC_GUARD_LOG"),
    );
    assert!(scratch.path("tmp").join(file).is_file());
    // A relative path is meant from where the program started.
    said(
        scratch
            .by_hand(PROBE)
            .args(["line", "1"])
            .env("CLAUDE_MALLOC_GUARD_LOG", "relative"),
    );
    assert!(scratch.path("relative").is_file());
}

#[test]
fn unreachable_is_said_of_a_program_that_calls_no_malloc_or_brings_its_own() {
    for (name, arguments) in [
        ("without", &[][..]),
        ("own", &["-DOWN_MALLOC", "-rdynamic"]),
    ] {
        let scratch = Scratch::new();
        let program = compile(&scratch, "guard_private_malloc.c", name, arguments);
        said(&mut scratch.by_hand(&program));
        assert!(
            scratch.text("log").contains(" guard=unreachable pid="),
            "{name}: {}",
            scratch.text("log")
        );
        said(&mut scratch.client(&program));
        assert_eq!(
            scratch.read_page().expect("page").state,
            State::Unreachable,
            "{name}"
        );
    }
}

/// As Debian's node is built: the program's file calls no malloc, the library that it names does.
#[test]
fn a_small_program_around_a_library_that_allocates_can_be_reached() {
    let scratch = Scratch::new();
    let library = compile(
        &scratch,
        "guard_private_malloc.c",
        "libwork.so",
        &["-DLIBRARY", "-shared", "-fPIC", "-Wl,-soname,libwork.so"],
    );
    let rpath = format!("-Wl,-rpath,{}", scratch.path("").display());
    let link = library.display().to_string();
    let arguments = ["-DIN_LIBRARY", link.as_str(), rpath.as_str()];
    let program = compile(&scratch, "guard_private_malloc.c", "thin", &arguments);
    said(&mut scratch.by_hand(&program));
    let log = scratch.text("log");
    assert!(log.contains(" guard=standby pid="), "{log}");
    assert!(number(&fields(&log), "alloc") >= 1, "{log}");
}

#[test]
fn a_programs_own_usr1_handler_wins() {
    for how in ["sigaction", "signal"] {
        let scratch = Scratch::new();
        let page = scratch.path("page");
        let output = said(
            scratch
                .client(PROBE)
                .args(["own-handler".as_ref(), page.as_os_str()])
                .arg(how),
        );
        assert_eq!(
            output, "before Ours\nwith Program ran 1\nafter Ours\nran 1\ndefault Program\n",
            "{how}"
        );
        // One line, from the moment when the guard's handler was back.
        assert_eq!(scratch.text("log").lines().count(), 1, "{how}");
    }
}

#[test]
fn an_ignored_usr1_stays_ignored() {
    let scratch = Scratch::new();
    let handover = scratch.client_handover();
    let before = ["/bin/sh", "-c", "trap '' USR1; exec \"$@\"", "sh"];
    let handover = format!("{handover};launch={}", file_id("/bin/sh"));
    let output = said(
        scratch
            .handed_over(&handover, &before, PROBE)
            .arg("disposition"),
    );
    assert_eq!(output, "usr1 ignored\n");
    assert_eq!(scratch.read_page().expect("page").usr1, Usr1::None);
}

#[test]
fn the_child_of_a_vfork_does_not_speak_for_its_parent() {
    let scratch = Scratch::new();
    let page = scratch.path("page");
    let output = said(
        scratch
            .client(PROBE)
            .args(["vfork-signal".as_ref(), page.as_os_str()]),
    );
    assert_eq!(output, "usr1 handled Ours\n");
}

#[test]
fn log_symlink_fifo_hardlink_foreign_are_refused() {
    let scratch = Scratch::new();
    let victim = scratch.path("victim");
    fs::write(&victim, "untouched").expect("write");
    // SAFETY: takes nothing.
    let is_root = unsafe { libc::geteuid() } == 0;
    let cases: [MakeFile<'_>; 7] = [
        ("symlink", &|path| symlink(&victim, path).expect("symlink")),
        ("dangling", &|path| {
            symlink(scratch.path("nowhere"), path).expect("symlink")
        }),
        ("fifo", &|path| make_fifo(path)),
        ("hardlink", &|path| {
            fs::hard_link(&victim, path).expect("link")
        }),
        ("folder", &|path| fs::create_dir(path).expect("mkdir")),
        ("no-folder/log", &|_| {}),
        ("foreign", &|path| {
            fs::write(path, "").expect("write");
            if is_root {
                std::os::unix::fs::chown(path, Some(12345), None).expect("chown");
            } else {
                // Only root can give a file away; to others a file that can't be written is the
                // nearest thing.
                fs::set_permissions(path, fs::Permissions::from_mode(0o400)).expect("chmod");
            }
        }),
    ];
    for (name, make) in cases {
        let log = scratch.path(name);
        make(&log);
        // A reader, so that the fifo could be opened for writing.
        let reader = (name == "fifo").then(|| {
            use std::os::unix::fs::OpenOptionsExt;
            fs::OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&log)
                .expect("fifo")
        });
        let state = scratch.path(&format!("state of {}", name.replace('/', " ")));
        let run = |command: &mut Command| {
            said(
                command
                    .args(["line", "1"])
                    .env("CLAUDE_MALLOC_GUARD_LOG", &log),
            )
        };

        run(scratch.by_hand(PROBE).env("XDG_STATE_HOME", &state));
        let file = state.join("claude-safe/claude_malloc_guard.log");
        assert_eq!(
            fs::read_to_string(&file).expect(name).lines().count(),
            1,
            "{name}"
        );
        assert_eq!(
            fs::metadata(state.join("claude-safe")).expect(name).mode() & 0o777,
            0o700
        );
        assert_eq!(fs::metadata(&file).expect(name).mode() & 0o777, 0o600);

        // Neither can be used: the line is dropped, the program goes on.
        fs::remove_file(&file).expect("rm");
        symlink(&victim, &file).expect("symlink");
        run(scratch.by_hand(PROBE).env("XDG_STATE_HOME", &state));

        if let Some(mut reader) = reader {
            assert!(fs::metadata(&log).expect("fifo").file_type().is_fifo());
            let mut bytes = [0; 1];
            assert_eq!(
                std::io::Read::read(&mut reader, &mut bytes).expect("no writer is left"),
                0
            );
        }
        if name == "foreign" {
            assert_eq!(fs::metadata(&log).expect("foreign").len(), 0);
        }
    }
    assert_eq!(fs::read_to_string(&victim).expect("victim"), "untouched");
    assert!(!scratch.path("nowhere").exists());

    // Without XDG_STATE_HOME it is below HOME.
    said(
        scratch
            .by_hand(PROBE)
            .args(["line", "1"])
            .env("CLAUDE_MALLOC_GUARD_LOG", scratch.path("symlink")),
    );
    assert!(
        scratch
            .path("home/.local/state/claude-safe/claude_malloc_guard.log")
            .is_file()
    );
}

#[test]
fn a_log_at_its_size_limit_is_survived() {
    let scratch = Scratch::new();
    fs::write(scratch.path("log"), [b'x'; 1024]).expect("log");
    // One block of 512 or 1024 bytes, which the log has already: a write would raise SIGXFSZ.
    let mut command = scratch.by_hand("/bin/sh");
    command.args([
        "-c",
        "ulimit -f 1; export LD_PRELOAD=\"$1\"; shift; exec \"$@\"",
        "sh",
    ]);
    said(command.arg(guard_library()).args([PROBE, "line", "1"]));
    assert_eq!(fs::metadata(scratch.path("log")).expect("log").len(), 1024);
    assert!(
        !scratch.path("home/.local").exists(),
        "a full log is no reason to go elsewhere"
    );
}

#[test]
fn a_full_disk_is_survived() {
    let scratch = Scratch::new();
    let disk = scratch.path("disk");
    fs::create_dir(&disk).expect("mkdir");
    // A disk of one page in a mount namespace of our own, which its log fills.
    let script = "mount -t tmpfs -o size=4k none disk && head -c 4096 /dev/zero >disk/log || exit 42; \
                  LD_PRELOAD=$1 CLAUDE_MALLOC_GUARD_LOG=$PWD/disk/log \"$2\" line 1 || exit 1; \
                  rm disk/log; head -c 4096 /dev/zero >disk/fill; truncate -s 0 disk/page; \
                  truncate -s \"$3\" disk/page; export CLAUDE_SAFE_HANDOVER=\"1;pid=$$;page=$PWD/disk/page\" LD_PRELOAD=\"$1\"; \
                  exec \"$2\" line 1";
    let mut command = scratch.command("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
    ]);
    command
        .arg(guard_library())
        .arg(PROBE)
        .arg(stats_page::LEN.to_string());
    let output = run(&mut command);
    if output.status.code() == Some(42)
        || String::from_utf8_lossy(&output.stderr).contains("unshare")
    {
        eprintln!("skipped: no mount namespace here");
        return;
    }
    assert!(output.status.success(), "{output:?}");
    // The second run had no page to count on, and no SIGBUS; its line went to TMPDIR.
    assert!(
        scratch
            .text("tmp/claude_malloc_guard.log")
            .contains("guard=standby")
    );
}

// Fork

#[test]
fn forked_child_does_not_count_into_its_parent() {
    let scratch = Scratch::new();
    let page = scratch.path("page");
    let output = said(
        scratch
            .client(PROBE)
            .args(["fork".as_ref(), page.as_os_str()]),
    );
    assert_eq!(number(&fields(&output), "alloc"), 0, "{output}");
    let child = output
        .strip_prefix("child ")
        .and_then(|rest| rest.lines().next())
        .expect("a child");
    let log = scratch.text("log");
    let line = fields(&log);
    assert_eq!(line["pid"], child, "{log}");
    assert_eq!(number(&line, "alloc"), 1000, "{log}");
    assert_eq!(scratch.read_page().expect("page").usr1, Usr1::Ours);
}

#[test]
fn threads_and_a_fork_storm_do_not_hang() {
    let scratch = Scratch::new();
    said(scratch.client(PROBE).args(["storm", "4", "400"]));
    let log = scratch.text("log");
    assert_eq!(log.lines().count(), 25);
    assert!(
        log.lines()
            .all(|line| line.starts_with("[malloc-guard] 160B alloc=")),
        "{log}"
    );
}

// Programs of the world

/// Runs with and without the guard; status and both outputs must be the same.
fn same_as_without(program: &str, arguments: &[&str]) {
    let scratch = Scratch::new();
    let without = run(scratch.command(program).args(arguments));
    let with = run(scratch.client(program).args(arguments));
    assert_eq!(
        with.status.into_raw(),
        without.status.into_raw(),
        "{program} {arguments:?}\n{with:?}"
    );
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(
        text(&with.stdout),
        text(&without.stdout),
        "{program} {arguments:?}"
    );
    assert_eq!(
        text(&with.stderr),
        text(&without.stderr),
        "{program} {arguments:?}"
    );
    let page = scratch
        .read_page()
        .unwrap_or_else(|why| panic!("{program} was not guarded: {why:?}"));
    assert_ne!(page.state, State::Starting);
}

#[test]
fn real_bin_programs_survive() {
    let source = workspace().to_str().expect("text");
    for (program, arguments) in [
        ("ls", &["-la", "/usr/bin"][..]),
        ("cat", &["/etc/passwd"]),
        ("grep", &["-rn", "malloc", source, "--include=*.rs"]),
        ("find", &["/etc", "-maxdepth", "2"]),
        ("sort", &["/etc/passwd"]),
        (
            "bash",
            &[
                "-c",
                "for i in $(seq 200); do x=$(echo $i); y+=$x; done; echo ${#y}; trap 'echo trapped' USR1; kill -USR1 $$",
            ],
        ),
        (
            "sh",
            &[
                "-c",
                "for i in 1 2 3; do (exit $i); echo $?; done; kill -TERM $$",
            ],
        ),
        ("git", &["-C", source, "log", "--stat", "-3"]),
        (
            "perl",
            &[
                "-e",
                "my %h; $h{$_ % 977} .= $_ for 1..200000; print length(join '', map {$h{$_}} sort keys %h), qq(\\n); print `echo child`",
            ],
        ),
        (
            "awk",
            &["BEGIN { for (i = 0; i < 100000; i++) a[i] = i \"x\"; print length(a[99999]) }"],
        ),
        ("tar", &["-cf", "-", "-C", source, "LICENSE"]),
        ("sed", &["-n", "1,5p", "/etc/passwd"]),
        ("xz", &["--version"]),
        ("openssl", &["version"]),
        (
            "python3",
            &[
                "-c",
                "import threading, subprocess, json, os; t = [threading.Thread(target=lambda: json.loads(json.dumps(list(range(20000))))) for _ in range(4)]; [x.start() for x in t]; [x.join() for x in t]; print(subprocess.check_output(['echo', 'child']), os.environ.get('LD_PRELOAD'), sum(len(str(i)) for i in range(200000)))",
            ],
        ),
    ] {
        if is_on_path(program) {
            same_as_without(program, arguments);
        } else {
            eprintln!("skipped: no {program} here");
        }
    }
}

#[test]
fn works_in_node_when_present() {
    if !is_on_path("node") {
        eprintln!("skipped: no node here");
        return;
    }
    let script = "const { execFileSync } = require('child_process'); const { Worker } = require('worker_threads'); \
        const crypto = require('crypto'), zlib = require('zlib'); \
        let h = crypto.createHash('sha256'); for (let i = 0; i < 20000; i++) h.update('x' + i); console.log(h.digest('hex')); \
        console.log(zlib.gunzipSync(zlib.gzipSync(Buffer.alloc(1 << 20, 'abc'))).length); \
        console.log(new Intl.DateTimeFormat('en', { timeZone: 'UTC' }).format(0)); \
        console.log(Object.keys(process.env).filter(k => /PRELOAD|CLAUDE/.test(k))); \
        console.log(execFileSync('env').toString().split('\\n').filter(l => /PRELOAD|CLAUDE/.test(l))); \
        new Worker('require(\"worker_threads\").parentPort.postMessage(Array.from({ length: 1e5 }, (_, i) => \"s\" + i).join(\"\").length)', { eval: true }).on('message', n => console.log(n));";
    same_as_without("node", &["-e", script]);
    let scratch = Scratch::new();
    // ICU makes objects of exactly 160 bytes; node takes SIGUSR1 for its debugger.
    let loops = "for (let i = 0; i < 1000; i++) new Intl.DateTimeFormat('en').format(0)";
    said(scratch.client("node").args(["-e", loops]));
    let page = scratch.read_page().expect("page");
    assert_eq!((page.state, page.usr1), (State::Standby, Usr1::Program));
    assert!(page.first().alloc > 10_000, "{page:?}");
}
