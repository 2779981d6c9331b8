//! Owns the way to run a JavaScript runtime bare or under the guard, and the loop that leaks in Bun
//! 1.2.18. Says what was seen; never whether that is good.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use crate::artifacts::{artifacts, workspace};
use crate::clients::real_client;
use crate::proc_view;
use crate::pty::KillOnDrop;
use crate::sandbox::Sandbox;

// The file itself, not `claude_safe`: every test links this library, and one that carries the wrapper's mark is taken
// for a claude-safe by the clients that it starts.
#[path = "../../guard/src/stats_page.rs"]
#[allow(missing_docs)]
pub mod stats_page;
use stats_page::Snapshot;

/// A runtime whose malloc a preload can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Bun 1.2.18, fetched.
    Bun,
    /// Node 20, of the machine.
    Node,
}

impl Runtime {
    /// Its program.
    ///
    /// # Errors
    /// Why it is not here.
    pub fn program(self) -> Result<PathBuf, String> {
        match self {
            Runtime::Bun => real_client("bun-1.2.18")
                .ok_or_else(|| "no Bun 1.2.18: cargo fetch-client bun-1.2.18".into()),
            Runtime::Node => node_20(),
        }
    }

    /// For messages and file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Runtime::Bun => "bun",
            Runtime::Node => "node",
        }
    }
}

/// The first `node` on the search path, if it is a Node 20.
fn node_20() -> Result<PathBuf, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let node = env::split_paths(&path)
        .map(|folder| folder.join("node"))
        .find(|file| file.is_file())
        .ok_or("no node on the search path")?;
    let said = Command::new(&node)
        .arg("--version")
        .output()
        .map_err(|e| format!("{}: {e}", node.display()))?;
    let version = String::from_utf8_lossy(&said.stdout);
    if version.starts_with("v20.") {
        Ok(node)
    } else {
        Err(format!("{} is {}, not 20", node.display(), version.trim()))
    }
}

/// The `cli.js` of the client 2.1.81.
///
/// # Errors
/// Why it is not here.
pub fn js_client() -> Result<PathBuf, String> {
    real_client("js-2.1.81").ok_or_else(|| "no js-2.1.81: cargo fetch-client js-2.1.81".into())
}

/// A script in `tests/programs/workloads`.
#[must_use]
pub fn workload(name: &str) -> PathBuf {
    workspace().join("tests/programs/workloads").join(name)
}

/// What the guard is told.
#[derive(Clone, Debug)]
pub struct Orders<'a> {
    /// `CLAUDE_MALLOC_GUARD_SIZES`.
    pub sizes: &'a str,
    /// `CLAUDE_MALLOC_GUARD_THRESHOLD_MB`; 0: the pool is active at once.
    pub threshold_mib: u64,
}

/// Never reached here: the guard stays in standby.
pub const STANDBY_MIB: u64 = 1 << 20;

/// The guard's log in the sandbox.
#[must_use]
pub fn log_file(sandbox: &Sandbox) -> PathBuf {
    sandbox.file("guard.log")
}

/// `program`, preloaded by hand; arguments are for the caller to add.
#[must_use]
pub fn by_hand(sandbox: &Sandbox, orders: &Orders<'_>, program: &Path) -> Command {
    let mut command = sandbox.command(program);
    command
        .env("LD_PRELOAD", &artifacts().guard)
        .env("CLAUDE_MALLOC_GUARD_LOG", log_file(sandbox))
        .env("CLAUDE_MALLOC_GUARD_SIZES", orders.sizes)
        .env(
            "CLAUDE_MALLOC_GUARD_THRESHOLD_MB",
            orders.threshold_mib.to_string(),
        );
    command
}

/// `program`, preloaded as the wrapper does it, with a fresh statistics page; arguments are for the
/// caller to add. A shell names its own pid in the handover and becomes the program by exec.
///
/// # Panics
/// When the page cannot be made.
#[must_use]
pub fn handed_over(sandbox: &Sandbox, orders: &Orders<'_>, program: &Path) -> Command {
    // The guard asks for a page that is the wrapper's own: a fresh file.
    let page = page_file(sandbox);
    let _ = fs::remove_file(&page);
    fs::write(&page, [0; stats_page::LEN]).expect("a page in the sandbox");
    let handover = format!(
        "page={};log={};sizes={};threshold_mb={}",
        page.display(),
        log_file(sandbox).display(),
        orders.sizes,
        orders.threshold_mib
    );
    sandbox.guarded(&artifacts().guard, &handover, program)
}

fn page_file(sandbox: &Sandbox) -> PathBuf {
    sandbox.file("guard.page")
}

/// What the page of [`handed_over`] says.
///
/// # Panics
/// When no guard of this version took it: then the guard was not in the process.
#[must_use]
#[track_caller]
pub fn read_page(sandbox: &Sandbox) -> Snapshot {
    let bytes = fs::read(page_file(sandbox)).expect("a page");
    Snapshot::from_bytes(&bytes).unwrap_or_else(|why| panic!("the statistics page: {why:?}"))
}

/// What the leaked objects take: KiB of resident memory.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    /// Of the C library's heap.
    pub heap_kib: u64,
    /// Of the slabs of the pool.
    pub slabs_kib: u64,
    /// All anonymous memory of the process, most of it the JavaScript engine's.
    pub all_kib: u64,
}

/// How long something took.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// By the clock on the wall, milliseconds: also what others did with the machine.
    pub wall_ms: f64,
    /// On processors, of all threads, milliseconds.
    pub cpu_ms: f64,
}

/// A Bun 1.2.18 in which every failed connection leaks an object of the class 153..=168. It works
/// when it is asked to, and ends when this is dropped.
#[derive(Debug)]
pub struct LeakLoop {
    child: KillOnDrop,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl LeakLoop {
    /// Starts `command`, a Bun without arguments.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> LeakLoop {
        command
            .arg(workload("leak.mjs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("the runtime starts");
        let orders = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        LeakLoop {
            child: KillOnDrop(child),
            orders,
            answers,
        }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.0.id().cast_signed()
    }

    /// Makes that many connections fail; what it took.
    ///
    /// # Panics
    /// When the runtime has died or did not do it.
    pub fn fail(&mut self, connections: u64) -> Took {
        writeln!(self.orders, "{connections}").expect("the runtime reads");
        let mut answer = String::new();
        self.answers
            .read_line(&mut answer)
            .expect("the runtime answers");
        let numbers: Vec<f64> = answer
            .split_ascii_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let [failed, wall_ms, cpu_ms] = numbers[..] else {
            panic!("the runtime died: {:?} {answer}", self.child.0.try_wait());
        };
        assert_eq!(failed, connections as f64, "failed connections");
        Took { wall_ms, cpu_ms }
    }

    /// What its memory is now; `page` is what the statistics page says, if there is one.
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn resident(&self, page: Option<&Snapshot>) -> Resident {
        Resident {
            heap_kib: heap_kib(self.pid()),
            slabs_kib: page.map_or(0, |page| page.pool.slabs * SLAB_KIB),
            all_kib: proc_view::status_kib(self.pid(), "RssAnon").expect("it lives"),
        }
    }
}

/// Size of a slab of the pool.
const SLAB_KIB: u64 = 64;

/// Resident part of `[heap]` (proc_pid_smaps(5)).
fn heap_kib(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("it lives");
    let mut in_heap = false;
    let mut sum = 0;
    for line in text.lines() {
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            in_heap = line.ends_with("[heap]");
        } else if in_heap && first == "Rss:" {
            let kib = line["Rss:".len()..].trim().trim_end_matches(" kB");
            sum += kib.parse::<u64>().expect("a number");
        }
    }
    sum
}
