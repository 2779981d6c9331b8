//! `claude-safectl` for macOS: `pty` says who holds pseudo-terminals; `pty --notify`, run by launchd, says it as a
//! notification before there are none left. Looks only: it ends nobody.
//!
//! | file | owns |
//! |---|---|
//! | [`libproc`] | every call of the system; the only file with `unsafe` |
//! | [`descriptors`] | the wrapper's own files: judgement, table, and what is particular to macOS |

#![deny(unsafe_code)]

mod descriptors;
mod libproc;

use descriptors::judgement::{Ceiling, Holder, sort};
use descriptors::macos::{self, Told};
use descriptors::table::Table;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const USAGE: &str = "usage: claude-safectl pty [--json | --notify]\n";
/// `CLAUDE_SAFE_PTY_WARN`.
const WARN_AT: u64 = 100;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let warn_at = std::env::var("CLAUDE_SAFE_PTY_WARN");
    let warn_at = warn_at.ok().and_then(|value| value.trim().parse().ok());
    let warn_at = warn_at.filter(|number| *number > 0).unwrap_or(WARN_AT);
    match words.as_slice() {
        ["pty"] => print!("{}", macos::in_words(&table())),
        ["pty", "--json"] => print!("{}", macos::in_json(&table(), warn_at)),
        ["pty", "--notify"] => notify(warn_at),
        ["--help" | "-h"] => print!("{USAGE}"),
        ["--version" | "-V"] => println!("claude-safe {}", env!("CARGO_PKG_VERSION")),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Every process of this user, of all for root, but this one.
fn table() -> Table {
    let mut table = Table::default();
    for pid in libproc::pids() {
        if pid == std::process::id().cast_signed() {
            continue;
        }
        let Some((open, ptmx)) = descriptors_of(pid) else {
            table.not_readable += 1;
            continue;
        };
        table.holders.push(Holder {
            pid,
            command: libproc::program(pid).unwrap_or_else(|| "?".to_owned()),
            open,
            limit: None,
            ptmx,
        });
    }
    sort(&mut table.holders);
    table.ceiling = Ceiling {
        used: Some(table.ptmx()),
        max: libproc::number("kern.tty.ptmx_max"),
    };
    table
}

/// All of a process, and those that are masters of pseudo-terminals.
fn descriptors_of(pid: i32) -> Option<(u64, u64)> {
    let (open, files) = macos::descriptors_in(&libproc::descriptors(pid)?);
    let is_ptmx = |fd: &&i32| {
        let record = libproc::path_of(pid, **fd);
        record.is_some_and(|record| macos::path_in(&record).is_some_and(macos::is_ptmx))
    };
    Some((open, files.iter().filter(is_ptmx).count() as u64))
}

/// Says what is to be said, and keeps in mind that it was.
fn notify(warn_at: u64) {
    let file = told_file();
    let text = file
        .as_ref()
        .and_then(|file| std::fs::read_to_string(file).ok());
    let mut told = Told::parse(&text.unwrap_or_default());
    let before = told;
    if let Some(notice) = macos::notice(&table(), warn_at, &mut told) {
        // Also where nobody is logged in to see it: launchd keeps what is printed.
        eprintln!("claude-safe: {notice}");
        // Handed over as an argument, not as text of the script: a path may hold anything.
        let script = "on run words\ndisplay notification (item 1 of words) with title \"claude-safe\"\nend run";
        let _ = Command::new("/usr/bin/osascript")
            .args(["-e", script, &notice])
            .status();
    }
    if told != before
        && let Some(file) = file
    {
        let _ = file.parent().map(std::fs::create_dir_all);
        let _ = std::fs::write(file, told.text());
    }
}

fn told_file() -> Option<PathBuf> {
    let home = PathBuf::from(std::env::var_os("HOME")?);
    home.is_absolute()
        .then(|| home.join("Library/Caches/claude-safe/pty-told"))
}
