//! What tier 1 is to do next in a running session, and what is written down of tiers 0 and 1. The mechanisms are in
//! [`crate::contain`], [`crate::reclaim`] and the guard.

use super::conversation::Observed;
use super::transcript::Turn;
use super::{Life, Seen, Supervisor};
use crate::guard_page;
use crate::os::process;
use crate::reclaim::Goal;
use crate::stats_page;
use std::path::Path;

/// A session counts as idle when nothing has been done in it for this long.
const IDLE_MS: u64 = 60_000;

/// How often is asked whether it is, milliseconds: its transcript is read for that.
const IDLE_LOOK_MS: u64 = 10_000;

/// Since when the conversation waits for its user.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Idleness {
    since_ms: Option<u64>,
    asked_ms: u64,
}

impl Idleness {
    /// When it has been waiting for long enough, if nothing is done until then.
    fn due_ms(self) -> Option<u64> {
        self.since_ms.map(|since| since + IDLE_MS)
    }

    /// Is it time to ask again? At the latest when it becomes idle: something may have been done since.
    fn is_to_be_asked(self, now_ms: u64) -> bool {
        let becomes_idle = |due| self.asked_ms < due && due <= now_ms;
        now_ms >= self.asked_ms + IDLE_LOOK_MS || self.due_ms().is_some_and(becomes_idle)
    }

    /// The turn as it is now, and for how long it has been so, where that is known: between two looks there may have been
    /// another one. Not longer than since `started_ms`: a conversation of last year was resumed now.
    fn note(&mut self, now_ms: u64, turn: Turn, ago_ms: Option<u64>, started_ms: u64) {
        let told = ago_ms.map(|ago| now_ms.saturating_sub(ago).max(started_ms));
        self.asked_ms = now_ms;
        self.since_ms = match turn {
            Turn::Idle => told.or(self.since_ms).or(Some(now_ms)),
            Turn::Busy | Turn::Unknown => None,
        };
    }

    fn is_idle(self, now_ms: u64) -> bool {
        self.due_ms().is_some_and(|due| due <= now_ms)
    }
}

/// Is the guard to be told to use its pool? Once a life, when the tree first fills the threshold; never without one.
fn tier_1_is_due(total_kib: u64, threshold_mib: Option<u64>, told: bool) -> bool {
    !told && threshold_mib.is_some_and(|mib| total_kib >= mib.saturating_mul(1024))
}

impl Supervisor<'_> {
    /// Tier 1 by the kernel: asks for the next step, if it is time for one.
    pub(super) fn steer(&mut self, life: &mut Life) {
        let now = process::now_ms();
        let config = self.setup.config;
        let is_wanted = config.reclaims_by("cgroup") && life.ending.is_none();
        let threshold_kib = config.guard_threshold_mib.saturating_mul(1024);
        let goal = if !is_wanted {
            Goal::Rest
        } else if self.is_idle(life, now) {
            Goal::Idle { threshold_kib }
        } else {
            Goal::Hold { threshold_kib }
        };
        let next_ms = self.reclaim.look(self.containment.folder(), now, goal);
        let idle_ms = life.idleness.due_ms().filter(|due| *due > now);
        life.reclaim_at_ms = next_ms.map(|ms| (now + ms).min(idle_ms.unwrap_or(u64::MAX)));
        let weight = self.reclaim.report().swap_weight_permille;
        if weight > 0 {
            life.watcher.weigh_swap(weight);
        }
    }

    /// Has the conversation waited for its user for a while?
    pub(super) fn is_idle(&mut self, life: &mut Life, now_ms: u64) -> bool {
        let Some(seen) = life.last.filter(|_| !self.setup.invocation.is_print()) else {
            return false;
        };
        if life.idleness.is_to_be_asked(now_ms) {
            let Observed { turn, since, .. } = self.conversation.observe(seen.client.pid);
            // Of a file from the future it is not known.
            let ago = since.and_then(|since| since.elapsed().ok());
            let ago_ms = ago.map(|ago| ago.as_millis().try_into().unwrap_or(u64::MAX));
            life.idleness.note(now_ms, turn, ago_ms, life.started_ms);
        }
        life.idleness.is_idle(now_ms)
    }

    /// Tells the guard, once, that the tree has passed the tier 1 threshold. A page that its guard has not taken
    /// yet, or that can't be written now, is tried again at the next look.
    pub(super) fn tell_guard(&self, seen: Seen, life: &mut Life) {
        let threshold_mib = self.setup.config.pool_threshold_mib();
        if !tier_1_is_due(seen.total_kib, threshold_mib, life.guard_told) {
            return;
        }
        let handover = self.setup.handover.as_ref();
        let Some(page) = handover.and_then(|handover| handover.page.as_deref()) else {
            return;
        };
        life.guard_told = guard_page::ask_for_pool(page, seen.client.pid).unwrap_or(false);
    }

    /// A page for the next life: what the earlier one counted, and what it was told, is not for this one.
    pub(super) fn make_page_anew(&self) {
        let handover = self.setup.handover.as_ref();
        let has_page = handover.is_some_and(|handover| handover.page.is_some());
        if let Some(folder) = self.setup.folder.as_ref().filter(|_| has_page) {
            // Failed: there is none, and the guard counts on a page of its own.
            let _ = folder.make_page(stats_page::LEN);
        }
    }

    /// Writes down where the session is contained and what tier 1 does, when either has changed.
    pub(super) fn note_tiers(&self, life: &mut Life) {
        let report = self.reclaim.report();
        let mut notes = life.notes.clone();
        notes.contained = Some(self.containment.state().in_words().to_owned());
        notes.group_folder = self.containment.folder().map(Path::to_owned);
        if let Some(daemon) = self.containment.daemon() {
            notes.daemon_pid = Some(daemon.pid);
            notes.daemon_start_ticks = Some(daemon.start_ticks);
        }
        notes.reclaim = Some(report.state.text().to_owned());
        notes.given_kib = Some(report.given_kib);
        notes.back_kib = Some(report.back_kib);
        notes.no_history = self.chronicle.trouble().map(str::to_owned);
        if notes != life.notes {
            life.notes = notes;
            self.register(&life.notes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_idle_a_minute_after_its_last_word_whenever_we_looked() {
        let mut idleness = Idleness::default();
        assert!(idleness.is_to_be_asked(100_000));
        assert!(!idleness.is_idle(100_000));
        // Its last word was 25 s ago.
        idleness.note(100_000, Turn::Idle, Some(25_000), 10_000);
        assert_eq!(idleness.due_ms(), Some(135_000));
        assert!(!idleness.is_to_be_asked(109_999) && idleness.is_to_be_asked(110_000));
        idleness.note(130_000, Turn::Idle, Some(55_000), 10_000);
        assert!(!idleness.is_to_be_asked(134_999) && !idleness.is_idle(134_999));
        assert!(idleness.is_to_be_asked(135_000) && idleness.is_idle(135_000));
        idleness.note(135_000, Turn::Idle, Some(60_000), 10_000);
        assert!(!idleness.is_to_be_asked(135_001) && idleness.is_idle(135_001));
        // A whole turn between two looks, then one that goes on.
        idleness.note(145_000, Turn::Idle, Some(2_000), 10_000);
        assert!(!idleness.is_idle(145_000));
        assert_eq!(idleness.due_ms(), Some(203_000));
        idleness.note(155_000, Turn::Busy, Some(1_000), 10_000);
        assert_eq!(idleness.due_ms(), None);
    }

    #[test]
    fn how_long_it_has_waited_is_never_more_than_it_lives_and_may_be_unknown() {
        let year_ms = 31_536_000_000;
        let mut idleness = Idleness::default();
        idleness.note(20_000, Turn::Idle, Some(year_ms), 10_000);
        assert_eq!(idleness.due_ms(), Some(70_000));
        let mut idleness = Idleness::default();
        for now_ms in [20_000, 50_000] {
            idleness.note(now_ms, Turn::Idle, None, 10_000);
            assert_eq!(idleness.due_ms(), Some(80_000), "as far as we saw");
        }
        idleness.note(60_000, Turn::Unknown, None, 10_000);
        assert!(!idleness.is_idle(u64::MAX));
    }

    #[test]
    fn the_guard_is_told_once_from_the_threshold_on() {
        for (total_kib, threshold_mib, told, due) in [
            (1023, Some(1), false, false),
            (1024, Some(1), false, true),
            (u64::MAX, Some(1), false, true),
            (u64::MAX, Some(1), true, false),
            (0, Some(0), false, true),
            (0, Some(0), true, false),
            (u64::MAX - 1, Some(u64::MAX), false, false),
            (u64::MAX, None, false, false),
        ] {
            let found = tier_1_is_due(total_kib, threshold_mib, told);
            assert_eq!(
                found, due,
                "{total_kib} KiB of {threshold_mib:?} MiB, {told}"
            );
        }
    }
}
