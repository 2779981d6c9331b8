//! The sweeps of a running session: when its client runs, hourly, and at its end. Owns the child in which one is
//! made, so that neither the client nor the watch ever waits for a file system; gives it a bounded moment
//! at the end.

use super::account::{SECTIONS, Section, Summary};
use super::{LIMIT_MS, Places, Wish, run};
use crate::notice;
use crate::os::aside::{Aside, Manner};

/// From one sweep to the next.
const INTERVAL_MS: u64 = 3_600_000;

/// A sweep that was cut short goes on after this.
const GO_ON_MS: u64 = 60_000;

/// So long the end of a session waits for its last sweep.
const AT_END_MS: u64 = 300;

/// From so many things on, or so many bytes, the user hears of it.
const WORTH_TELLING: u64 = 1_000;
const WORTH_TELLING_BYTES: u64 = 1 << 30;

/// Sweeps for one session.
pub struct Attendant {
    places: Option<Places>,
    under_way: Option<Aside>,
    due_ms: u64,
}

impl Attendant {
    /// `None`: nothing is to be swept.
    pub fn new(places: Option<Places>) -> Attendant {
        Attendant {
            places,
            under_way: None,
            due_ms: 0,
        }
    }

    /// Starts a sweep, if it is time for one.
    pub fn look(&mut self, now_ms: u64) {
        if now_ms >= self.due_ms && self.under_way.is_none() {
            self.due_ms = now_ms + INTERVAL_MS;
            self.start(LIMIT_MS);
        }
    }

    fn start(&mut self, limit_ms: u64) {
        let Some(places) = &self.places else { return };
        // No process to be had: the next hour's sweep does it.
        self.under_way = Aside::start(Manner::Patient, || sweep(places, &SECTIONS, limit_ms)).ok();
    }

    /// A child of ours has ended. If it was a sweep: what the user should hear of it.
    pub fn reap(&mut self, now_ms: u64) -> Option<String> {
        let text = self.under_way.as_mut()?.result()?;
        self.under_way = None;
        let summary = Summary::parse(&text)?;
        if summary.is_unfinished {
            self.due_ms = now_ms + GO_ON_MS;
        }
        self.worth_telling(&summary)
    }

    fn worth_telling(&self, summary: &Summary) -> Option<String> {
        let is_much = summary.removed >= WORTH_TELLING || summary.bytes >= WORTH_TELLING_BYTES;
        let places = self.places.as_ref().filter(|_| is_much)?;
        Some(told(summary, places))
    }

    /// The session has ended: a last sweep, as far as it comes in a moment. What its own commands have left is too
    /// young to go; its socket may.
    pub fn end(&mut self) -> Option<String> {
        if self.under_way.is_none() {
            self.start(AT_END_MS);
        }
        let text = self.under_way.take()?.result_within(AT_END_MS)?;
        self.worth_telling(&Summary::parse(&text)?)
    }
}

/// What a sweep has removed, in words.
pub fn told(summary: &Summary, places: &Places) -> String {
    format!(
        "removed {} files ({}) that dead sessions had left in {}",
        summary.removed,
        notice::memory(summary.bytes / 1024),
        places.temporary.display()
    )
}

/// What a child does, and tells its parent.
pub fn sweep(places: &Places, sections: &[Section], limit_ms: u64) -> String {
    run(places, &Wish::now(sections, limit_ms), &mut |_| {}).text()
}
