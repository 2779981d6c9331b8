//! What becomes of the processes that a client leaves behind: at its end, and those of sessions that were killed
//! together with their claude-safe, at the first look of the next one.

use super::ending::{Ending, TOOL_GRACE_MS, await_end, end_all};
use super::tool;
use crate::orphans::{Dead, Fate, Ledger, Left, left_by};
use crate::watch::ProcessId;
use crate::watch::proc_fs::Proc;
use std::path::Path;

/// So long a process may take to see by itself that its client is gone.
const LEAVE_BY_ITSELF_MS: u64 = 500;

/// The most that are named to the user.
const MOST_NAMES: usize = 3;

/// Ends what a client left, and waits for it. One line for the user, if there was anything to end or to keep.
///
/// `except`: no part of the session.
pub fn end_of(
    processes: &mut Proc,
    ledger: &Ledger,
    group: Option<&Path>,
    except: &[ProcessId],
) -> Option<String> {
    let (to_end, kept) = sorted(left_by(processes, ledger, group, except));
    let to_end = await_end(processes, &to_end, LEAVE_BY_ITSELF_MS);
    let kept = await_end(processes, &kept, 0);
    let ended = names("ended", &to_end, "that claude left running");
    let kept = names("left alone", &kept, "that had detached on purpose");
    end_all(processes, &to_end);
    let lines: Vec<_> = ended.into_iter().chain(kept).collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// Asks what dead sessions have left to end. One [`Ending`] for all, and a line for the user.
pub fn of_dead_sessions(base: &Path, processes: &mut Proc) -> Option<(Ending, String)> {
    let mut all = Vec::new();
    for dead in Dead::in_folder(base, processes) {
        all.extend(sorted(dead.left(processes)).0);
    }
    let what = "of an earlier session that was killed";
    let line = names("ending", &all, what)?;
    Some((Ending::begin(processes, &all, None, TOOL_GRACE_MS), line))
}

/// Who is to be ended, and who is kept.
fn sorted(left: Vec<(Left, Fate)>) -> (Vec<ProcessId>, Vec<ProcessId>) {
    let (end, keep): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, fate)| *fate == Fate::End);
    let ids = |part: Vec<(Left, Fate)>| part.iter().map(|(left, _)| left.id).collect();
    (ids(end), ids(keep))
}

fn names(verb: &str, ids: &[ProcessId], what: &str) -> Option<String> {
    let first = ids.iter().take(MOST_NAMES);
    let named: Vec<_> = first
        .map(|id| format!("{} (pid {})", tool::command_of(id.pid), id.pid))
        .collect();
    let more = match ids.len().saturating_sub(MOST_NAMES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let noun = match ids.len() {
        0 => return None,
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    };
    Some(format!("{verb} {noun} {what}: {}{more}", named.join(", ")))
}
