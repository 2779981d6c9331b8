//! `claude-safectl hook EVENT`, called by the client with JSON on standard input. Never fails the client, and never
//! holds it up: what goes wrong here costs what the hook is for, not the session.
//!
//! - `session-start [FOLDER]`: the client tells which conversation it holds now (at a start, after `/clear` and
//!   `/resume`). Writes the id into the session's folder; without FOLDER (the installed plugin knows none)
//!   into that of the session whose client we descend from. Says nothing.
//! - `post-tool-use`: a shell command has ended. Sweeps what killed ones have left.
//! - `stop`: the turn is over. Sweeps everything.
//!
//! The two that sweep answer only when there is something to say, and work with no `claude-safe` around.

use super::sessions::Sessions;
use crate::client::args::is_uuid;
use crate::config::{self, Sources};
use crate::json::{self, json};
use crate::os::aside::{Aside, Manner};
use crate::os::proc::parent_pid;
use crate::os::process;
use crate::os::terminal::is_terminal;
use crate::os::wait::{self, Source};
use crate::sweep::account::{SECTIONS, Section, Summary};
use crate::sweep::{Places, attendant};
use crate::watch::proc_fs::Proc;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The most that is read: a hook's input is a few hundred bytes.
const INPUT_BYTES: u64 = 1 << 20;

/// The most ancestors that are looked at: the client, its shell, and a few that wrap it.
const MAX_ANCESTORS: usize = 16;

/// So long a sweep may take, and so long the client waits for it at most (it would kill us after 10 s). One that
/// hangs in a dead file system is left behind.
const SWEEP_MS: u64 = 2_000;
const WAIT_MS: u64 = 3_000;

/// How long the client's input is waited for.
const INPUT_MS: u64 = 1_000;

/// From so many things on the user hears of them.
const WORTH_TELLING: u64 = 100;

/// Does what that event asks for.
pub(super) fn run(event: &OsStr, folder: Option<&Path>) {
    match event.as_encoded_bytes() {
        b"session-start" => session_start(std::io::stdin().lock(), folder),
        b"post-tool-use" => sweep(&[Section::CwdFiles], false),
        b"stop" => sweep(&SECTIONS, true),
        _ => {}
    }
}

/// Sweeps in a child, and says what is worth saying; of what lasts, such as a folder that can't be read, only when the
/// turn is over.
fn sweep(sections: &'static [Section], is_turn_over: bool) {
    drain_input();
    let loaded = config::load(&Sources::of_this_process());
    if !loaded.config.sweep {
        return;
    }
    let places = Places::of(|name| std::env::var_os(name));
    let work = || attendant::sweep(&places, sections, SWEEP_MS);
    let child = Aside::start(Manner::Prompt, work);
    let result = child
        .ok()
        .and_then(|mut child| child.result_within(WAIT_MS));
    let summary = result.and_then(|text| Summary::parse(&text));
    if let Some(text) = summary.and_then(|summary| message(&summary, &places, is_turn_over)) {
        let answer = json!({ "systemMessage": text });
        let _ = std::io::stdout().write_all(json::text(&answer).as_bytes());
    }
}

/// What the user should hear of a sweep.
fn message(summary: &Summary, places: &Places, is_turn_over: bool) -> Option<String> {
    let is_much = summary.removed >= WORTH_TELLING;
    let done = is_much.then(|| format!("claude-safe {}", attendant::told(summary, places)));
    let trouble = summary.trouble.as_ref().filter(|_| is_turn_over);
    done.or_else(|| Some(format!("claude-safe: {}", trouble?)))
}

/// Takes what the client has to say, unread: it must not find our end of the pipe closed while it writes.
fn drain_input() {
    if is_terminal(0) {
        return;
    }
    let until_ms = process::now_ms() + INPUT_MS;
    let mut stdin = std::io::stdin().lock();
    let mut buffer = [0; 16 << 10];
    loop {
        let left_ms = until_ms.saturating_sub(process::now_ms());
        let source = Source {
            fd: stdin.as_fd(),
            urgent: false,
        };
        let is_ready = wait::wait(&[source], Some(left_ms))[0];
        if !is_ready || !matches!(stdin.read(&mut buffer), Ok(1..)) {
            return;
        }
    }
}

/// Takes the id from the input and keeps it in `folder`, or in that of our own session.
fn session_start(input: impl Read, folder: Option<&Path>) {
    match folder {
        Some(folder) => keep(input, folder),
        None => {
            if let Some(folder) = own_session() {
                keep(input, &folder);
            }
        }
    }
}

/// The folder of the session whose client is the nearest among our ancestors.
fn own_session() -> Option<PathBuf> {
    let sessions = Sessions::of_this_user(&mut Proc::new(Path::new("/proc")));
    let parent = |pid: &i32| parent_pid(&Path::new("/proc").join(pid.to_string()));
    let ancestors = std::iter::successors(Some(process::own_pid()), parent);
    let mut sought = ancestors
        .skip(1)
        .take(MAX_ANCESTORS)
        .take_while(|pid| *pid > 1);
    sought.find_map(|pid| {
        let session = sessions.running.iter().find(|session| session.is_of(pid))?;
        Some(session.folder.clone())
    })
}

fn keep(input: impl Read, folder: &Path) {
    let mut text = Vec::new();
    if input.take(INPUT_BYTES).read_to_end(&mut text).is_err() {
        return;
    }
    let Some(id) = session_id(&text) else { return };
    let draft = folder.join(".conversation");
    if fs::write(&draft, id).is_ok() {
        let _ = fs::rename(draft, folder.join("conversation"));
    }
}

fn session_id(text: &[u8]) -> Option<String> {
    let told: serde_json::Value = serde_json::from_slice(text).ok()?;
    let id = told.get("session_id")?.as_str()?;
    is_uuid(id).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "12345678-1234-1234-1234-123456789abc";

    #[test]
    fn only_a_uuid_is_kept() {
        let folder = std::env::temp_dir().join(format!("cs-hook-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let kept = folder.join("conversation");
        for junk in [
            "",
            "{}",
            "[]",
            r#"{"session_id":7}"#,
            r#"{"session_id":"../../x"}"#,
            "\u{0}",
        ] {
            session_start(junk.as_bytes(), Some(&folder));
            assert!(!kept.exists(), "{junk}");
        }
        session_start(
            format!(r#"{{"hook_event_name":"SessionStart","session_id":"{ID}"}}"#).as_bytes(),
            Some(&folder),
        );
        assert_eq!(fs::read_to_string(&kept).unwrap(), ID);
        fs::remove_dir_all(folder).unwrap();
    }
}
