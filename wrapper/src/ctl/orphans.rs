//! The section of `claude-safectl clean` on processes: what sessions have left running, what is theirs still, and what
//! was started by a claude but proves nothing. Ends only what a dead session has left, and only when told to.

use super::sessions::Sessions;
use super::style::{Tone, columns};
use super::{Answer, Request, exit};
use crate::json::{self, json};
use crate::orphans::{self, Dead, Fate, Why};
use crate::os::process::own_ids;
use crate::state;
use crate::supervise::ending::end_all;
use crate::supervise::tool::command_of;
use crate::watch::ProcessId;
use crate::watch::proc_fs::{Proc, Stat};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The client sets it for everything that it starts.
const STARTED_BY_CLAUDE: &[u8] = b"CLAUDECODE=";

/// Whose a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// A dead session's, not detached.
    OursDead,
    /// A dead session's, detached on purpose.
    Detached(Why),
    /// A running session's.
    OursLive,
    /// Started by some claude, its parent gone, and no proof that a session of ours is behind it.
    NotOurs,
}

impl Class {
    fn in_words(self) -> &'static str {
        match self {
            Class::OursDead => "ours, session dead",
            Class::Detached(why) => why.in_words(),
            Class::OursLive => "ours, session runs",
            Class::NotOurs => "not ours: no proof",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Class::OursDead => "ours-dead",
            Class::Detached(_) => "detached",
            Class::OursLive => "ours-live",
            Class::NotOurs => "not-ours",
        }
    }
}

/// What was found, and what was done.
struct Found {
    rows: Vec<(ProcessId, Class, String)>,
    is_dry: bool,
}

/// Looks, and ends what dead sessions have left unless this is a dry run.
pub(super) fn clear_up(request: &Request, is_dry: bool) -> Answer {
    let found = look_and_end(is_dry);
    let text = if request.json {
        found.in_json()
    } else {
        found.in_words(request)
    };
    let code = exit::DONE;
    Answer { text, code }
}

fn look_and_end(is_dry: bool) -> Found {
    let mut processes = Proc::new(Path::new("/proc"));
    let bases = state::bases(|name| std::env::var_os(name), own_ids().euid);
    let mut classes: Vec<(ProcessId, Class)> = Vec::new();
    for base in &bases {
        for dead in Dead::in_folder(base, &mut processes) {
            for (left, fate) in dead.left(&mut processes) {
                let class = match fate {
                    Fate::End => Class::OursDead,
                    Fate::Keep(why) => Class::Detached(why),
                };
                classes.push((left.id, class));
            }
        }
    }
    let sessions = Sessions::of_this_user(&mut processes);
    let heads: Vec<i32> = sessions
        .running
        .iter()
        .flat_map(|session| {
            let watcher = session.is_watched.then_some(session.wrapper_pid);
            [session.client_pid(), watcher]
        })
        .flatten()
        .collect();
    let all = orphans::everybody(&mut processes);
    let of_ledgers: Vec<ProcessId> = sessions
        .running
        .iter()
        .filter_map(|session| orphans::of_running(&session.folder))
        .flat_map(|(ledger, notes)| ledger.ids().chain(notes.daemon()).collect::<Vec<_>>())
        .collect();
    let live = orphans::with_descendants(&all, |stat| {
        heads.contains(&stat.id.pid) || of_ledgers.contains(&stat.id)
    });
    for (stat, is_live) in all.iter().zip(live) {
        if stat.is_dead() || classes.iter().any(|(id, _)| *id == stat.id) {
            continue;
        }
        if is_live {
            classes.push((stat.id, Class::OursLive));
        } else if is_orphan(stat, &all) && was_started_by_claude(&processes, stat.id.pid) {
            classes.push((stat.id, Class::NotOurs));
        }
    }
    let rows = classes
        .into_iter()
        .map(|(id, class)| (id, class, command_of(id.pid)))
        .collect();
    let found = Found { rows, is_dry };
    if !is_dry {
        let to_end: Vec<_> = found.of(Class::OursDead).map(|(id, _, _)| *id).collect();
        end_all(&mut processes, &to_end);
    }
    found
}

/// Has its parent ended? Then it is a child of process 1, or of the user's service manager.
fn is_orphan(stat: &Stat, all: &[Stat]) -> bool {
    let parent = all.iter().find(|other| other.id.pid == stat.ppid);
    match parent {
        Some(parent) if parent.id.pid != 1 => {
            let name = fs::read_to_string(format!("/proc/{}/comm", parent.id.pid));
            name.is_ok_and(|name| name.trim() == "systemd")
        }
        _ => true,
    }
}

/// Only a process of this user tells.
fn was_started_by_claude(processes: &Proc, pid: i32) -> bool {
    let folder = processes.root().join(pid.to_string());
    let is_own = fs::metadata(&folder).is_ok_and(|meta| meta.uid() == own_ids().euid);
    let environment = fs::read(folder.join("environ")).unwrap_or_default();
    let mut variables = environment.split(|byte| *byte == 0);
    is_own && variables.any(|variable| variable.starts_with(STARTED_BY_CLAUDE))
}

impl Found {
    fn of(&self, class: Class) -> impl Iterator<Item = &(ProcessId, Class, String)> {
        self.rows
            .iter()
            .filter(move |(_, other, _)| *other == class)
    }

    fn in_words(&self, request: &Request) -> String {
        let mut text = request.style.paint(Tone::Heading, "processes");
        text.push('\n');
        let mut rows = Vec::new();
        for (id, class, command) in &self.rows {
            let what = match (class, self.is_dry) {
                (Class::OursDead, true) => "would be ended",
                (Class::OursDead, false) => "ended",
                _ => "left alone",
            };
            rows.push([
                id.pid.to_string(),
                what.to_owned(),
                class.in_words().to_owned(),
                command.clone(),
            ]);
        }
        if rows.is_empty() {
            text.push_str("  none that a claude has left or runs\n");
        }
        text.push_str(&columns(&rows, 2));
        text
    }

    fn in_json(&self) -> String {
        let row = |(id, class, command): &(ProcessId, Class, String)| {
            json!({
                "pid": id.pid,
                "start_ticks": id.start_ticks,
                "class": class.key(),
                "ended": *class == Class::OursDead && !self.is_dry,
                "why": class.in_words(),
                "command": command.as_str(),
            })
        };
        let rows: Vec<Value> = self.rows.iter().map(row).collect();
        json::text(&json!({ "dry_run": self.is_dry, "processes": rows }))
    }
}
