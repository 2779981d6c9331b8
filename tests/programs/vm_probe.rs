//! `vm-probe`: the measuring instruments and the loads of `tests/vm`, one subcommand each. Ordinary programs of an
//! ordinary user. Every one of them that works on its own ends when the file of `--until` is there, or after an hour; its
//! findings are one line of JSON, the last on stdout.
//!
//! - `ticker --until FILE`: wakes every 100 ms and tells how late the worst wake-up was.
//! - `neighbour --mib N --until FILE [--mark FILE]`: somebody else's program. Holds so much memory that does not compress,
//!   walks over all of it once a second, and tells what happened to it: its own swap, major faults, time of a walk, the time
//!   its cgroup stood still for memory (`memory.pressure`). With `--mark`, from when that file is there; what was before
//!   is the base of comparison.
//! - `record --root PID --until FILE --log FILE [--above-mib N]`: the processes below PID, four times a second: what they hold
//!   resident and in swap, and what the cgroup above theirs does. Each look is a line of the log. With `--above-mib`, also
//!   what was resident in nine of ten looks in which resident and swap together were more than that.
//! - `allocate --mib N --mib-per-s N [--hold-ms N] [--content pointers|random] [--say FILE]`: takes memory, holds it, ends with 0.
//! - `escape FOLDER`: moves its parent, the program that asked for it, into a cgroup of that folder.
//! - `world FOLDER [--leak-mib-per-s N --leak-cap-mib N [--leak-first N]]`: what the real client needs to start without a
//!   question, below FOLDER; prints the variables, one a line.
//! - `terminal -- COMMAND…`: COMMAND on a pseudo-terminal, driven by lines on stdin, each answered by one line of JSON:
//!   `expect MS TEXT`, `settle MS` (until nothing was written for so long), `key C` (time until the first output after it),
//!   `type TEXT`, `enter`, `seen TEXT` (how often, so far), `end`.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use claude_safe_tests::clients::{self, Leak};
use claude_safe_tests::pty::{KillOnDrop, Pty};
use claude_safe_tests::sandbox::Sandbox;
use serde_json::{Value, json};

const PAGE: usize = 4096;
const LONGEST: Duration = Duration::from_secs(3600);

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1);
    let Some(what) = words.next() else {
        return fail("which instrument?");
    };
    let done = Words::read(words).and_then(|words| match what.to_str() {
        Some("ticker") => ticker(&words),
        Some("neighbour") => neighbour(&words),
        Some("record") => record(&words),
        Some("allocate") => allocate(&words),
        Some("escape") => escape(&words),
        Some("world") => world(&words),
        Some("terminal") => terminal(&words),
        _ => Err(format!("no instrument {what:?}")),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => fail(&reason),
    }
}

fn fail(reason: &str) -> ExitCode {
    eprintln!("vm-probe: {reason}");
    ExitCode::FAILURE
}

/// `--name value` pairs, and what is neither; all of what is behind `--`.
struct Words {
    pairs: Vec<(String, OsString)>,
    plain: Vec<OsString>,
}

impl Words {
    fn read(mut words: impl Iterator<Item = OsString>) -> Result<Words, String> {
        let (mut pairs, mut plain) = (Vec::new(), Vec::new());
        while let Some(word) = words.next() {
            match word.to_str().and_then(|word| word.strip_prefix("--")) {
                Some("") => plain.extend(words.by_ref()),
                Some(name) => {
                    let value = words.next().ok_or(format!("--{name} needs a value"))?;
                    pairs.push((name.to_owned(), value));
                }
                None => plain.push(word),
            }
        }
        Ok(Words { pairs, plain })
    }

    fn value(&self, name: &str) -> Option<&OsString> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let number = value.to_str().and_then(|value| value.parse().ok());
        number.map(Some).ok_or(format!("--{name} {value:?}"))
    }

    fn need(&self, name: &str) -> Result<u64, String> {
        self.number(name)?.ok_or(format!("--{name} is missing"))
    }

    fn folder(&self) -> Result<PathBuf, String> {
        self.plain
            .first()
            .map(PathBuf::from)
            .ok_or("a folder is missing".into())
    }
}

/// Says one line, at once: whoever reads may be waiting for it.
fn tell(line: &Value) -> Result<(), String> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|e| e.to_string())
}

fn whole_ms(time: Duration) -> u64 {
    time.as_millis() as u64
}

fn told_to_end(words: &Words, began: Instant) -> bool {
    began.elapsed() > LONGEST || words.path("until").is_none_or(|file| file.exists())
}

// ---------------------------------------------------------------------------------------------
// Instruments

fn ticker(words: &Words) -> Result<(), String> {
    const STEP: Duration = Duration::from_millis(100);
    let began = Instant::now();
    let (mut ticks, mut late_over_200, mut worst) = (0u64, 0u64, Duration::ZERO);
    let mut due = began + STEP;
    while !told_to_end(words, began) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let late = due.elapsed();
        ticks += 1;
        worst = worst.max(late);
        late_over_200 += u64::from(late > Duration::from_millis(200));
        // One delay is one delay, however many ticks it swallowed.
        due = (due + STEP).max(Instant::now());
    }
    tell(
        &json!({ "ticks": ticks, "worst_late_ms": whole_ms(worst), "late_over_200_ms": late_over_200,
                  "seconds": began.elapsed().as_secs() }),
    )
}

/// What the kernel says about this process.
struct Own {
    swap_kib: u64,
    major_faults: u64,
    /// Time in which some task of its cgroup waited for memory; `None` without a cgroup v2 of its own.
    stalled_us: Option<u64>,
}

impl Own {
    fn now() -> Result<Own, String> {
        let status = fs::read_to_string("/proc/self/status").map_err(|e| e.to_string())?;
        let swap = status.lines().find_map(|line| line.strip_prefix("VmSwap:"));
        let swap = swap.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok());
        // proc_pid_stat(5): majflt is the twelfth field, the tenth behind the name.
        let stat = fs::read_to_string("/proc/self/stat").map_err(|e| e.to_string())?;
        let behind = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let faults = behind
            .split_whitespace()
            .nth(9)
            .and_then(|text| text.parse().ok());
        Ok(Own {
            swap_kib: swap.ok_or("no VmSwap")?,
            major_faults: faults.ok_or("no majflt")?,
            stalled_us: stalled_us(),
        })
    }
}

fn stalled_us() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let folder = Path::new("/sys/fs/cgroup").join(own);
    let text = fs::read_to_string(folder.join("memory.pressure")).ok()?;
    let some = text.lines().find(|line| line.starts_with("some "))?;
    some.rsplit_once("total=")?.1.parse().ok()
}

fn neighbour(words: &Words) -> Result<(), String> {
    let mib = words.need("mib")?;
    let mark = words.path("mark");
    let mut memory = Memory::of(mib, Content::Random);
    memory.take(mib);
    tell(&json!({ "ready": mib, "pid": std::process::id() }))?;
    let began = Instant::now();
    let mut base: Vec<u64> = Vec::new();
    let mut later: Vec<u64> = Vec::new();
    let mut marked: Option<(Own, Instant)> = None;
    let mut most_swap_kib = 0;
    while !told_to_end(words, began) {
        let walk = Instant::now();
        memory.walk();
        let took_us = walk.elapsed().as_micros() as u64;
        if marked.is_none() && mark.as_ref().is_none_or(|file| file.exists()) {
            marked = Some((Own::now()?, Instant::now()));
        } else if marked.is_none() {
            base.push(took_us);
        } else {
            later.push(took_us);
            most_swap_kib = most_swap_kib.max(Own::now()?.swap_kib);
        }
        let rest = Duration::from_secs(1).saturating_sub(walk.elapsed());
        std::thread::sleep(rest);
    }
    let (then, since) = marked.ok_or("there was no mark")?;
    let now = Own::now()?;
    let stalled = now
        .stalled_us
        .zip(then.stalled_us)
        .map(|(a, b)| a.saturating_sub(b));
    tell(&json!({
        "walks_before": base.len(), "walk_us_before": median(&mut base),
        "walks": later.len(), "walk_us": median(&mut later), "worst_walk_us": later.last(),
        "swap_kib": most_swap_kib.max(now.swap_kib), "swapped_before_kib": then.swap_kib,
        "major_faults": now.major_faults - then.major_faults,
        "stalled_us": stalled, "elapsed_us": since.elapsed().as_micros() as u64,
    }))
}

/// Of one look at a session.
#[derive(Default)]
struct Look {
    processes: u64,
    resident_kib: u64,
    swap_kib: u64,
}

fn record(words: &Words) -> Result<(), String> {
    let root = u32::try_from(words.need("root")?).map_err(|e| e.to_string())?;
    let above_kib = words.number("above-mib")?.map(|mib| mib << 10);
    let log = words.path("log").ok_or("--log is missing")?;
    let mut log = fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    let began = Instant::now();
    let mut most = Look::default();
    let (mut together_kib, mut looks, mut group_bytes, mut group_swap_bytes) = (0, 0u64, 0, 0);
    let mut above: Vec<u64> = Vec::new();
    let mut above_looks = 0u64;
    while !told_to_end(words, began) {
        let below = tree(root);
        let mut look = Look::default();
        for pid in &below {
            if let Some((resident, swap)) = memory_of(*pid) {
                look.processes += 1;
                look.resident_kib += resident;
                look.swap_kib += swap;
            }
        }
        let group = below.iter().rev().find_map(|pid| session_folder(*pid));
        let in_group = |name: &str| -> Option<u64> {
            let text = fs::read_to_string(group.as_ref()?.join(name)).ok()?;
            text.trim().parse().ok()
        };
        let (bytes, swap_bytes) = (in_group("memory.current"), in_group("memory.swap.current"));
        let line = json!({ "ms": whole_ms(began.elapsed()), "processes": look.processes, "resident_kib": look.resident_kib,
                           "swap_kib": look.swap_kib, "group_bytes": bytes, "group_swap_bytes": swap_bytes });
        writeln!(log, "{line}").map_err(|e| e.to_string())?;
        looks += 1;
        let together = look.resident_kib + look.swap_kib;
        if above_kib.is_some_and(|limit| together > limit) {
            above.push(look.resident_kib);
            above_looks += 1;
        }
        together_kib = together_kib.max(together);
        most.resident_kib = most.resident_kib.max(look.resident_kib);
        most.swap_kib = most.swap_kib.max(look.swap_kib);
        most.processes = most.processes.max(look.processes);
        group_bytes = group_bytes.max(bytes.unwrap_or(0));
        group_swap_bytes = group_swap_bytes.max(swap_bytes.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(250));
    }
    above.sort_unstable();
    let nine_of_ten = above.get(above.len() * 9 / 10).copied();
    tell(&json!({
        "looks": looks, "processes": most.processes, "resident_kib": most.resident_kib, "swap_kib": most.swap_kib,
        "together_kib": together_kib, "group_bytes": group_bytes, "group_swap_bytes": group_swap_bytes,
        "above_looks": above_looks, "above_resident_kib": nine_of_ten,
    }))
}

/// `root` and everything below it, parents first.
fn tree(root: u32) -> Vec<u32> {
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // proc_pid_stat(5): the parent is the second field behind the name.
        let behind = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        if let Some(parent) = behind
            .split_whitespace()
            .nth(1)
            .and_then(|text| text.parse().ok())
        {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(
            parents
                .iter()
                .filter(|(_, p)| *p == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    found
}

/// Anonymous memory and swap of a process, KiB; `None` when it is gone or has no memory.
fn memory_of(pid: u32) -> Option<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |name: &str| -> Option<u64> {
        let text = status.lines().find_map(|line| line.strip_prefix(name))?;
        text.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some((kib("RssAnon:")?, kib("VmSwap:")?))
}

/// The cgroup above that of a process, if the process is in a session of claude-safe.
fn session_folder(pid: u32) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = Path::new(own);
    let is_ours = own
        .components()
        .any(|part| part.as_os_str() == "claude-safe.slice");
    is_ours.then(|| Path::new("/sys/fs/cgroup").join(own.parent().unwrap_or(own)))
}

/// The middle one; the list is in order then.
fn median(values: &mut [u64]) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

// ---------------------------------------------------------------------------------------------
// Loads

#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// What a heap is full of: addresses that are near each other, and small numbers.
    Pointers,
    /// Nothing a compressor could use.
    Random,
}

/// Memory that is taken piece by piece, and written at once.
struct Memory {
    pieces: Vec<Vec<u64>>,
    content: Content,
    seed: u64,
}

impl Memory {
    const PIECE_MIB: u64 = 1;
    const WORDS: usize = (1 << 20) / 8;

    fn of(mib: u64, content: Content) -> Memory {
        Memory {
            pieces: Vec::with_capacity((mib / Self::PIECE_MIB) as usize),
            content,
            seed: 0x9e37_79b9_7f4a_7c15 ^ u64::from(std::process::id()),
        }
    }

    fn mib(&self) -> u64 {
        self.pieces.len() as u64 * Self::PIECE_MIB
    }

    fn take(&mut self, mib: u64) {
        while self.mib() < mib {
            let mut piece = Vec::with_capacity(Self::WORDS);
            for index in 0..Self::WORDS {
                // Marsaglia, Xorshift RNGs (2003).
                self.seed ^= self.seed << 13;
                self.seed ^= self.seed >> 7;
                self.seed ^= self.seed << 17;
                piece.push(match (self.content, index % 4) {
                    (Content::Random, _) => self.seed,
                    (Content::Pointers, 0) => 0x7f3a_0000_0000 + (self.seed & 0xfff_fff8),
                    (Content::Pointers, 1) => self.seed & 0xffff,
                    (Content::Pointers, _) => 0,
                });
            }
            self.pieces.push(piece);
        }
        std::hint::black_box(&self.pieces);
    }

    /// Writes to every page.
    fn walk(&mut self) {
        for piece in &mut self.pieces {
            for word in piece.iter_mut().step_by(PAGE / 8) {
                *word = word.wrapping_add(1);
            }
        }
        std::hint::black_box(&self.pieces);
    }
}

fn allocate(words: &Words) -> Result<(), String> {
    let mib = words.need("mib")?;
    let speed = words.need("mib-per-s")?.max(1);
    let hold = Duration::from_millis(words.number("hold-ms")?.unwrap_or(0)).min(LONGEST);
    let content = match words.value("content").and_then(|text| text.to_str()) {
        None | Some("pointers") => Content::Pointers,
        Some("random") => Content::Random,
        Some(other) => return Err(format!("--content {other}")),
    };
    if let Some(file) = words.path("say") {
        fs::write(&file, format!("{}\n", std::process::id())).map_err(|e| e.to_string())?;
    }
    let mut memory = Memory::of(mib, content);
    let began = Instant::now();
    while memory.mib() < mib {
        let due = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX) * speed / 1000;
        memory.take(mib.min(due.max(1)).min(memory.mib() + 64));
        std::thread::sleep(Duration::from_millis(if memory.mib() < due {
            0
        } else {
            10
        }));
    }
    let took = began.elapsed();
    std::thread::sleep(hold);
    tell(&json!({ "mib": mib, "taken_in_ms": whole_ms(took) }))
}

/// What #60488 reports of the client: out of the cgroup that it was started in.
fn escape(words: &Words) -> Result<(), String> {
    let folder = words.folder()?;
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let parent = std::os::unix::process::parent_id();
    fs::write(folder.join("cgroup.procs"), parent.to_string())
        .map_err(|e| format!("{}: {e}", folder.display()))?;
    tell(&json!({ "moved": parent }))
}

// ---------------------------------------------------------------------------------------------
// The real client

fn world(words: &Words) -> Result<(), String> {
    // Its folders are made in TMPDIR, and stay: they are the scenario's, which has the machine for itself.
    let folder = words.folder()?;
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    if env::temp_dir() != folder {
        return Err(format!("TMPDIR is not {}", folder.display()));
    }
    let sandbox = Sandbox::new();
    clients::prepare_home(&sandbox);
    let mut lines = vec![
        format!("HOME={}", sandbox.home().display()),
        format!("TMPDIR={}", sandbox.tmp().display()),
        format!("WORLD={}", sandbox.root().display()),
        format!("WORK={}", sandbox.work().display()),
    ];
    if let Some(mib_per_s) = words.number("leak-mib-per-s")? {
        let small = |number: u64| u32::try_from(number).map_err(|_| "a leak is smaller".to_owned());
        let leak = Leak {
            mib_per_s: small(mib_per_s)?,
            cap_mib: small(words.need("leak-cap-mib")?)?,
            first_clients: words.number("leak-first")?.map(small).transpose()?,
            after: None,
        };
        lines.push(format!(
            "BUN_OPTIONS={}",
            clients::leak_options(&sandbox, &leak)
        ));
    }
    std::mem::forget(sandbox);
    println!("{}", lines.join("\n"));
    Ok(())
}

fn terminal(words: &Words) -> Result<(), String> {
    let (program, arguments) = words.plain.split_first().ok_or("a command is missing")?;
    let mut command = Command::new(program);
    command.args(arguments);
    let mut pty = Pty::open().map_err(|e| e.to_string())?;
    let mut child = KillOnDrop(
        pty.spawn(command)
            .map_err(|e| format!("{program:?}: {e}"))?,
    );
    tell(&json!({ "pid": child.0.id() }))?;
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|e| e.to_string())?;
        let (order, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match order {
            "expect" => {
                let (limit_ms, text) = rest.split_once(' ').ok_or("expect MS TEXT")?;
                let began = Instant::now();
                let found = pty.sees(text, Duration::from_millis(number(limit_ms)?));
                json!({ "found": found, "ms": whole_ms(began.elapsed()) })
            }
            "settle" => settle(&pty, Duration::from_millis(number(rest)?)),
            "key" => key(&pty, rest)?,
            "type" => {
                pty.write(rest.as_bytes()).map_err(|e| e.to_string())?;
                json!({ "typed": rest })
            }
            "enter" => {
                pty.write(b"\r").map_err(|e| e.to_string())?;
                json!({ "typed": "enter" })
            }
            "seen" => json!({ "times": pty.text().matches(rest).count() }),
            "end" => break,
            _ => return Err(format!("what is {order}?")),
        };
        tell(&answer)?;
    }
    let ended = child.0.try_wait().ok().flatten();
    if let Some(file) = words.path("keep") {
        fs::write(&file, pty.output()).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    tell(&json!({ "ended": ended.map(|status| status.to_string()) }))
}

fn number(text: &str) -> Result<u64, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("{text:?} is no number"))
}

/// Until nothing was written for `quiet`; a minute at most.
fn settle(pty: &Pty, quiet: Duration) -> Value {
    let began = Instant::now();
    let (mut length, mut since) = (pty.output().len(), Instant::now());
    while since.elapsed() < quiet && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
        let now = pty.output().len();
        if now != length {
            (length, since) = (now, Instant::now());
        }
    }
    json!({ "quiet": since.elapsed() >= quiet, "ms": whole_ms(began.elapsed()), "bytes": length })
}

/// From a key to the first byte that the program writes after it; 20 s at most.
fn key(pty: &Pty, text: &str) -> Result<Value, String> {
    let before = pty.output().len();
    let began = Instant::now();
    pty.write(text.as_bytes()).map_err(|e| e.to_string())?;
    while pty.output().len() == before && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let answered = pty.output().len() != before;
    Ok(json!({ "answered": answered, "key_ms": whole_ms(began.elapsed()) }))
}
