//! `claude-safectl clean`: removes what dead sessions have left in the temporary folder, and tells what goes, what
//! stays, and why. With `--dry-run` nothing goes. Done when it is asked for, whatever `CLAUDE_SAFE_SWEEP` says.

use super::style::{Tone, columns, size};
use super::{Answer, Flag, Request, exit, orphans};
use crate::json::{self, json};
use crate::os::process::{now_ms, write_stderr};
use crate::os::terminal::is_terminal;
use crate::sweep::account::{Item, Kept, Outcome, Report, SECTIONS, Section};
use crate::sweep::{Places, Wish, run as sweep};
use serde_json::{Map, Value};
use std::path::PathBuf;

pub(super) static DRY_RUN: Flag = Flag {
    name: "dry-run",
    value: None,
    help: "show what would go and why the rest stays, and remove nothing",
};

pub(super) static ORPHANS: Flag = Flag {
    name: "orphans",
    value: None,
    help: "processes instead of files: those of dead sessions go, and whose the others are",
};

/// So many things of a section are named; the rest is counted.
const NAMED: usize = 1_000;

/// From one redrawing of the progress to the next.
const REDRAW_MS: u64 = 100;

pub(super) fn run(request: &Request) -> Answer {
    let dry_run = request.value(&DRY_RUN).is_some();
    if request.value(&ORPHANS).is_some() {
        return orphans::clear_up(request, dry_run);
    }
    let places = Places::of(|name| std::env::var_os(name));
    let mut progress = Progress::new();
    let mut named: Vec<Item> = Vec::new();
    let mut counts = [0_usize; SECTIONS.len()];
    let wish = Wish {
        dry_run,
        ..Wish::now(&SECTIONS, u64::MAX)
    };
    let report = sweep(&places, &wish, &mut |item| {
        progress.count(&item);
        let count = &mut counts[item.section as usize];
        // What really goes is only counted: nobody reads 60,000 names of files that are no more.
        let is_told = dry_run || item.outcome != Outcome::Removed;
        if is_told && *count < NAMED {
            *count += 1;
            named.push(item);
        }
    });
    progress.end();
    let text = if request.json {
        in_json(&places, &report, &named, dry_run)
    } else {
        in_words(request, &places, &report, &named, dry_run)
    };
    let failed = |section: &Section| report.of(*section).kept(Kept::Failed) > 0;
    let code = match report.trouble.is_some() || SECTIONS.iter().any(failed) {
        true => exit::TROUBLE,
        false => exit::DONE,
    };
    Answer { text, code }
}

/// So long `status` may look for that, milliseconds.
const GLANCE_MS: u64 = 100;

/// What a sweep of the temporary folder would remove.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) folder: PathBuf,
    pub(super) count: u64,
    pub(super) bytes: u64,
    /// Everything was looked at in that time.
    pub(super) is_all: bool,
}

/// Looks, for `status`.
pub(super) fn what_would_go() -> Waiting {
    let places = Places::of(|name| std::env::var_os(name));
    let wish = Wish {
        dry_run: true,
        ..Wish::now(&SECTIONS, GLANCE_MS)
    };
    let report = sweep(&places, &wish, &mut |_| {});
    Waiting {
        count: report.removed(),
        bytes: report.bytes(),
        is_all: !report.is_unfinished,
        folder: places.temporary,
    }
}

/// A line on the terminal that counts while there is much to do; not there when standard error is no terminal.
struct Progress {
    is_shown: bool,
    is_drawn: bool,
    next_ms: u64,
    removed: u64,
    seen: u64,
}

impl Progress {
    fn new() -> Progress {
        Progress {
            is_shown: is_terminal(2),
            is_drawn: false,
            next_ms: now_ms() + REDRAW_MS,
            removed: 0,
            seen: 0,
        }
    }

    fn count(&mut self, item: &Item) {
        self.seen += 1;
        self.removed += u64::from(item.outcome == Outcome::Removed);
        // The clock is asked for every 64th: it costs as much as the work.
        if self.is_shown && self.seen.is_multiple_of(64) && now_ms() >= self.next_ms {
            self.next_ms = now_ms() + REDRAW_MS;
            self.is_drawn = true;
            let section = item.section.title();
            let (removed, seen) = (self.removed, self.seen);
            write_stderr(format!("\r{section}: {removed} of {seen}\x1b[K").as_bytes());
        }
    }

    fn end(&self) {
        if self.is_drawn {
            write_stderr(b"\r\x1b[K");
        }
    }
}

fn word(outcome: Outcome, dry_run: bool) -> &'static str {
    match outcome {
        Outcome::Removed if dry_run => "goes",
        Outcome::Removed => "removed",
        Outcome::Kept(why) => why.in_words(),
    }
}

fn in_words(
    request: &Request,
    places: &Places,
    report: &Report,
    named: &[Item],
    dry_run: bool,
) -> String {
    let mut text = String::new();
    let verb = if dry_run { "would go" } else { "removed" };
    for section in SECTIONS {
        let account = report.of(section);
        let title = request.style.paint(Tone::Heading, section.title());
        let mut line = format!("{title}: {} {verb}", account.removed);
        if account.bytes > 0 {
            line.push_str(&format!(", {}", size(account.bytes)));
        }
        for (why, count) in account.reasons() {
            line.push_str(&format!("; {count} {}", why.in_words()));
        }
        text.push_str(&line);
        text.push('\n');
        let rows: Vec<[String; 3]> = named
            .iter()
            .filter(|item| item.section == section)
            .map(|item| {
                let bytes = match item.bytes {
                    0 => "-".to_owned(),
                    bytes => size(bytes),
                };
                let path = item.path.to_string_lossy();
                // A name may hold anything; it must not draw on the terminal.
                let path = path.chars().map(|c| if c.is_control() { '?' } else { c });
                [
                    word(item.outcome, dry_run).to_owned(),
                    bytes,
                    path.collect(),
                ]
            })
            .collect();
        text.push_str(&columns(&rows, 2));
        let stays: u64 = account.reasons().map(|(_, count)| count).sum();
        let all = if dry_run {
            stays + account.removed
        } else {
            stays
        };
        let unnamed = all.saturating_sub(rows.len() as u64);
        if unnamed > 0 {
            text.push_str(&format!("  and {unnamed} more\n"));
        }
    }
    text.push_str(&format!("in {}\n", places.temporary.display()));
    if let Some(trouble) = &report.trouble {
        text.push_str(&format!("{trouble}\n"));
    }
    text
}

fn in_json(places: &Places, report: &Report, named: &[Item], dry_run: bool) -> String {
    let mut sections = Map::new();
    for section in SECTIONS {
        let account = report.of(section);
        let mut kept = Map::new();
        for (why, count) in account.reasons() {
            json::put(&mut kept, why.key(), json!(count));
        }
        let items = named.iter().filter(|item| item.section == section);
        let items: Vec<Value> = items
            .map(|item| {
                let outcome = match item.outcome {
                    Outcome::Removed => "removed",
                    Outcome::Kept(why) => why.key(),
                };
                let path = item.path.to_string_lossy();
                json!({ "path": path, "bytes": item.bytes, "outcome": outcome })
            })
            .collect();
        let value = json!({
            "removed": account.removed,
            "bytes": account.bytes,
            "kept": kept,
            "items": items,
        });
        json::put(&mut sections, section.key(), value);
    }
    json::text(&json!({
        "folder": places.temporary.to_string_lossy(),
        "dry_run": dry_run,
        "sections": sections,
        "trouble": report.trouble.as_ref(),
    }))
}
