//! Owns the tests' own view of `/proc`, apart from the one in the wrapper, so that one cannot hide
//! the other's mistakes. Only reads.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// The fields of `/proc/PID/stat` that tests ask for (proc_pid_stat(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Process id.
    pub pid: i32,
    /// Name of the program, at most 15 bytes, any bytes.
    pub comm: String,
    /// `R`, `S`, `D`, `T`, `t`, `Z`, `X`, `I`.
    pub state: char,
    /// Parent.
    pub parent: i32,
    /// Process group.
    pub group: i32,
    /// Session.
    pub session: i32,
    /// Device number of the controlling terminal, 0 without one.
    pub tty: i32,
    /// Foreground group of that terminal, -1 without one.
    pub foreground: i32,
    /// Threads that have not ended; the first one counts until the process is reaped.
    pub threads: i32,
    /// Start, clock ticks since boot.
    pub start_ticks: u64,
}

/// Reads `/proc/PID/stat`; `None` when there is no such process.
#[must_use]
pub fn stat(pid: i32) -> Option<Stat> {
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let (open, close) = (text.find('(')?, text.rfind(')')?);
    let fields: Vec<&str> = text[close + 1..].split_ascii_whitespace().collect();
    let number = |i: usize| fields.get(i).and_then(|f| f.parse::<i32>().ok());
    Some(Stat {
        pid: text[..open].trim().parse().ok()?,
        comm: text[open + 1..close].to_owned(),
        state: fields.first()?.chars().next()?,
        parent: number(1)?,
        group: number(2)?,
        session: number(3)?,
        tty: number(4)?,
        foreground: number(5)?,
        threads: number(17)?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// Whether the process runs or is stopped: there, and neither dead nor a zombie. One whose first thread has ended is called a
/// zombie while its others still run or are being ended.
#[must_use]
pub fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|s| s.state != 'X' && (s.state != 'Z' || s.threads > 1))
}

/// The lines of `/proc/PID/status` by name, as they stand there.
#[must_use]
pub fn status(pid: i32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines()
        .filter_map(|l| l.split_once(':'))
        .map(|(k, v)| (k.to_owned(), v.trim().to_owned()))
        .collect()
}

/// A size of `/proc/PID/status` such as `RssAnon`, KiB.
#[must_use]
pub fn status_kib(pid: i32, name: &str) -> Option<u64> {
    status(pid)
        .get(name)?
        .strip_suffix(" kB")?
        .trim()
        .parse()
        .ok()
}

/// A signal set of `/proc/PID/status` such as `SigIgn`: bit n - 1 is signal n.
#[must_use]
pub fn signal_set(pid: i32, name: &str) -> Option<u64> {
    u64::from_str_radix(status(pid).get(name)?, 16).ok()
}

/// The environment that the process was started with, or has made of it in place.
#[must_use]
pub fn environ(pid: i32) -> Vec<String> {
    zero_separated(pid, "environ")
}

/// The arguments of the process.
#[must_use]
pub fn cmdline(pid: i32) -> Vec<String> {
    zero_separated(pid, "cmdline")
}

fn zero_separated(pid: i32, file: &str) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let text = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if text.is_empty() {
        return Vec::new();
    }
    text.split(|b| *b == 0)
        .map(|s| String::from_utf8_lossy(s).into_owned())
        .collect()
}

/// Whether a mapping of the process has `part` in its path.
#[must_use]
pub fn maps_contain(pid: i32, part: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/maps"))
        .unwrap_or_default()
        .lines()
        .any(|l| l.contains(part))
}

/// The program that the process runs.
#[must_use]
pub fn exe(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// The open descriptors and what they stand for.
#[must_use]
pub fn descriptors(pid: i32) -> BTreeMap<i32, PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return BTreeMap::new();
    };
    entries
        .flatten()
        .filter_map(|e| {
            Some((
                e.file_name().to_str()?.parse().ok()?,
                fs::read_link(e.path()).ok()?,
            ))
        })
        .collect()
}

/// The children, in order of their ids. Reads every process's parent: slower than
/// `task/*/children`, but right on every kernel and for every thread that forked.
#[must_use]
pub fn children(pid: i32) -> Vec<i32> {
    let mut found: Vec<i32> = all()
        .into_iter()
        .filter(|p| stat(*p).is_some_and(|s| s.parent == pid))
        .collect();
    found.sort_unstable();
    found
}

/// Children, their children and so on; not the process itself.
#[must_use]
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let mut next = children(pid);
    while let Some(child) = next.pop() {
        found.push(child);
        next.extend(children(child));
    }
    found
}

fn all() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect()
}
