//! What becomes of the processes that a client leaves behind: at its end, and those of sessions that were killed
//! together with their claude-safe, at the first look of the next one.

use super::ending::{Ending, TOOL_GRACE_MS, await_end, end_all};
use super::{Life, Supervisor, tool};
use crate::client::args::StartsSession;
use crate::orphans::{self, Dead, Fate, LEDGER, Ledger, Left, left_by};
use crate::watch::ProcessId;
use crate::watch::proc_fs::Proc;
use std::path::Path;

/// So long a process may take to see by itself that its client is gone.
const LEAVE_BY_ITSELF_MS: u64 = 500;

/// The most that are named to the user.
const MOST_NAMES: usize = 3;

impl Supervisor<'_> {
    /// Is what is left behind to be cleared up?
    pub(super) fn sweeps(&self) -> bool {
        self.setup.config.sweep && self.setup.invocation.starts_session() == StartsSession::Yes
    }

    /// Ends what the client of this life has left running, and says so.
    pub(super) fn end_leftovers(&mut self, life: &Life) -> Option<String> {
        // No look, no tool.
        let ledger = life.ledger.as_ref()?;
        let daemon: Vec<_> = self.containment.daemon().into_iter().collect();
        let group = self.containment.folder();
        end_of(&mut self.processes, ledger, group, &daemon)
    }

    /// Keeps in mind, and in the session's folder, who belongs to the session.
    pub(super) fn note_ledger(&mut self, life: &mut Life) {
        let sample = life.watcher.sample();
        let is_first = life.ledger.is_none();
        let ledger = life.ledger.get_or_insert_with(|| {
            let pid = sample.client.pid;
            let stat = self.processes.stat(pid, None);
            let hangup = orphans::ignores_hangup(&mut self.processes, pid);
            Ledger::new(stat.ok().map(|stat| stat.session), hangup)
        });
        let is_news = ledger.note(sample) || is_first;
        if let Some(folder) = self.setup.folder.as_ref().filter(|_| is_news) {
            let _ = folder.write(LEDGER, &ledger.text());
        }
        if is_first && self.sweeps() && !self.cleared_up {
            self.cleared_up = true;
            let left = of_dead_sessions(&self.setup.state_base, &mut self.processes);
            if let Some((ending, text)) = left {
                self.notifier.tell(&self.keeper, &text);
                self.of_dead_sessions = Some(ending);
            }
        }
    }
}

/// Ends what a client left, and waits for it. One line for the user, if there was anything to end or to keep.
///
/// `except`: no part of the session.
fn end_of(
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
fn of_dead_sessions(base: &Path, processes: &mut Proc) -> Option<(Ending, String)> {
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
