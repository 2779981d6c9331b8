//! The history of sessions, as far as it may be read. Complains by name about what is not ours alone or damaged, and
//! never follows it.

use super::sessions::Session;
use crate::history::{self, Incident, Past, incidents, ring};
use crate::os::private;
use crate::state;
use crate::watch::ProcessId;
use std::io;
use std::path::{Path, PathBuf};

/// Where it is looked for.
pub(super) fn folder() -> Option<PathBuf> {
    history::folder(|name| std::env::var_os(name))
}

fn refused<T>(path: &Path, error: io::Error) -> Result<Option<T>, String> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(format!("{} is not used: {error}", path.display())),
    }
}

fn read(folder: &Path, name: &str) -> Result<Option<Past>, String> {
    if let Err(error) = private::check_folder(folder) {
        return refused(folder, error);
    }
    let path = folder.join(name);
    ring::read(&path).map_or_else(|error| refused(&path, error), |past| Ok(Some(past)))
}

/// Of a running session. `None`: it has none, or not yet.
pub(super) fn of(folder: &Path, session: &Session) -> Result<Option<Past>, String> {
    let id = session.wrapper();
    let found = read(folder, &format!("{}.{}", id.pid, id.start_ticks))?;
    // Of an earlier boot, in which the same number began at the same tick.
    let since = session.notes.since_unix_s;
    let is_its = |past: &Past| {
        past.header.wrapper == id && since.is_none_or(|since| since == past.header.since_unix_s)
    };
    Ok(found.filter(is_its))
}

/// Of all sessions that have ended, the latest last.
pub(super) fn ended(folder: &Path, running: &[Session]) -> (Vec<Past>, Vec<String>) {
    let (mut all, mut complaints) = (Vec::new(), Vec::new());
    for found in state::all(folder) {
        let id = ProcessId {
            pid: found.pid,
            start_ticks: found.start_ticks,
        };
        if running.iter().any(|session| session.wrapper() == id) {
            continue;
        }
        match read(folder, &format!("{}.{}", id.pid, id.start_ticks)) {
            Ok(past) => all.extend(past.filter(|past| !past.points.is_empty())),
            Err(complaint) => complaints.push(complaint),
        }
    }
    all.sort_unstable_by_key(|past| past.points.last().map(|point| point.at_unix_ms));
    (all, complaints)
}

/// What happened in a session.
pub(super) fn incidents(folder: &Path, id: ProcessId) -> Result<Vec<Incident>, String> {
    let told = private::check_folder(folder).and_then(|()| incidents::of_session(folder, id));
    let told = told.map_or_else(|error| refused(folder, error), |all| Ok(Some(all)));
    told.map(Option::unwrap_or_default)
}
