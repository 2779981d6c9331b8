//! What tier 1 is to do next in a running session, and what is written down of tiers 0 and 1. The mechanisms are in
//! [`crate::contain`], [`crate::reclaim`] and the guard.

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
        life.reclaim_at_ms = next_ms.map(|ms| now + ms);
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
        if now_ms >= life.idle_asked_ms + IDLE_LOOK_MS {
            life.idle_asked_ms = now_ms;
            let waits = self.conversation.observe(seen.client.pid).turn == Turn::Idle;
            life.idle_since_ms = waits.then(|| life.idle_since_ms.unwrap_or(now_ms));
        }
        life.idle_since_ms
            .is_some_and(|since| now_ms >= since + IDLE_MS)
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
