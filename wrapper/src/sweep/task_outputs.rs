//! `claude-UID/FOLDER/UUID/tasks/*.output`: what commands in the background said, kept by the client on disk (often
//! on a tmpfs, then it is memory). Those of a dead session go, then its empty folders. Never recursive: a folder that
//! holds anything else than what is named here stays, with all that we don't know.

use super::account::{Kept, Outcome, Section};
use super::age::FileClock;
use super::{Sweep, is_ours, names, objection};
use crate::client::args::is_uuid;
use crate::os::folder::{Entry, Folder, Kind, Refusal};
use std::ffi::{CStr, CString};

/// The outputs of a session that is dead are kept for a day after it last wrote one: its conversation may be taken
/// up again and refer to them.
pub(super) const FORGOTTEN_MS: u64 = 24 * 3_600_000;

/// Where a session's outputs lie.
const TASKS: &CStr = c"tasks";

/// What else the client makes beside them; removed when empty.
const BESIDE: [&CStr; 1] = [c"started"];

/// Removes the outputs of dead sessions, as far as the time lasts.
pub(super) fn sweep(sweep: &mut Sweep<'_>, temporary: &Folder) {
    let own = CString::new(format!("claude-{}", sweep.places.uid)).unwrap_or_default();
    let Some(base) = open(sweep, temporary, &[&own]) else {
        return;
    };
    for project in names(&base) {
        let Some(folder) = open(sweep, &base, &[&own, &project]) else {
            continue;
        };
        let sessions = names(&folder);
        for session in &sessions {
            if sweep.is_over(100) {
                sweep.report.is_unfinished = true;
                return;
            }
            let id = session.to_str().ok().filter(|name| is_uuid(name));
            if let Some(id) = id
                && let Some(inner) = open(sweep, &folder, &[&own, &project, session])
            {
                let at = [own.as_c_str(), &project, session];
                one_session(sweep, &folder, &inner, id, &at);
            }
        }
        // One that is new may be about to be filled.
        let is_old = |own: Entry| {
            let clock = sweep.exact_clock(&folder);
            clock.is_older(own.written_ms, FORGOTTEN_MS)
        };
        if sessions.is_empty() && folder.own().is_ok_and(is_old) {
            remove_folder(sweep, &base, &[&own, &project]);
        }
    }
}

/// Opens a folder on the way. `at`: its path from the temporary folder, the last one its name in `parent`.
fn open(sweep: &mut Sweep<'_>, parent: &Folder, at: &[&CStr]) -> Option<Folder> {
    let base = &sweep.places.temporary;
    sweep.open(parent, base, Section::TaskOutputs, at)
}

/// One session's folder. `at`: its path, by name.
fn one_session(sweep: &mut Sweep<'_>, parent: &Folder, folder: &Folder, id: &str, at: &[&CStr; 3]) {
    let [own, project, session] = *at;
    let tasks = folder.inner(TASKS).ok();
    let tasks = tasks.filter(|tasks| is_ours(tasks, sweep.places.uid));
    let outputs = tasks.as_ref().map(names).unwrap_or_default();
    // The youngest of all that is there counts for all.
    let stamps = [Some(folder), tasks.as_ref()].into_iter().flatten();
    let stamps = stamps.map(|folder| folder.own().map_or(u64::MAX, |own| own.written_ms));
    let written_in = |folder: &Folder, name: &CStr| match folder.look(name) {
        Ok(entry) => entry.written_ms,
        Err(Refusal::Gone) => 0,
        Err(_) => u64::MAX,
    };
    let beside = BESIDE.iter().map(|name| written_in(folder, name));
    let inner = tasks
        .iter()
        .flat_map(|tasks| outputs.iter().map(|name| written_in(tasks, name)));
    let written_ms = stamps.chain(beside).chain(inner).max().unwrap_or(u64::MAX);
    let stays = if !sweep.rough_clock().is_older(written_ms, FORGOTTEN_MS)
        || !sweep.exact_clock(folder).is_older(written_ms, FORGOTTEN_MS)
    {
        Some(Kept::Fresh)
    } else if sweep.owners().may_want(id, written_ms) || sweep.open_files().may_use_conversation(id)
    {
        Some(Kept::InUse)
    } else {
        None
    };
    if let Some(why) = stays {
        sweep.note(Section::TaskOutputs, at, 0, Outcome::Kept(why));
        return;
    }
    let mut is_emptied = true;
    if let Some(tasks) = &tasks {
        let clock = sweep.exact_clock(folder);
        for name in &outputs {
            if sweep.is_over(100) {
                sweep.report.is_unfinished = true;
                return;
            }
            let path = [own, project, session, TASKS, name];
            if let Some((bytes, outcome)) = one_output(sweep, tasks, name, &clock) {
                is_emptied &= outcome == Outcome::Removed;
                sweep.note(Section::TaskOutputs, &path, bytes, outcome);
            }
        }
    }
    if sweep.wish.dry_run {
        let is_known = |name: &CString| {
            let empty = |folder: Folder| names(&folder).is_empty();
            name.as_c_str() == TASKS
                || BESIDE.contains(&name.as_c_str()) && folder.inner(name).is_ok_and(empty)
        };
        let goes = is_emptied && reopened(parent, session).iter().all(is_known);
        let outcome = match goes {
            true => Outcome::Removed,
            false => Outcome::Kept(Kept::Unknown),
        };
        sweep.note(Section::TaskOutputs, at, 0, outcome);
        return;
    }
    for name in [TASKS].iter().chain(&BESIDE) {
        // What is not empty, or no folder, shows in the next step.
        let _ = folder.remove_folder(name);
    }
    remove_folder(sweep, parent, at);
}

/// The names in a folder whose own descriptor may have been read to its end.
fn reopened(parent: &Folder, name: &CStr) -> Vec<CString> {
    parent.inner(name).as_ref().map(names).unwrap_or_default()
}

/// What becomes of one file; `None` if it is gone already.
fn one_output(
    sweep: &Sweep<'_>,
    tasks: &Folder,
    name: &CStr,
    clock: &FileClock,
) -> Option<(u64, Outcome)> {
    let kept = |why| Some((0, Outcome::Kept(why)));
    if !name.to_bytes().ends_with(b".output") {
        return kept(Kept::Unknown);
    }
    let entry = match tasks.look(name) {
        Ok(entry) => entry,
        Err(Refusal::Gone) => return None,
        Err(_) => return kept(Kept::Failed),
    };
    if let Some(why) = objection(&entry, Kind::File, sweep.places.uid) {
        return kept(why);
    }
    if !clock.is_older(entry.written_ms, FORGOTTEN_MS) {
        return kept(Kept::Fresh);
    }
    Some((entry.bytes, sweep.remove(|| tasks.remove(name))?))
}

/// Removes an empty folder; one that is not empty is counted. `at`: its path, the last one its name in `parent`.
fn remove_folder(sweep: &mut Sweep<'_>, parent: &Folder, at: &[&CStr]) {
    let Some(name) = at.last() else { return };
    if let Some(outcome) = sweep.remove(|| parent.remove_folder(name)) {
        sweep.note(Section::TaskOutputs, at, 0, outcome);
    }
}
