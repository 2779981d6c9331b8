//! What is written down of a running session for those who ask later: the history, and the one line for Claude Code's
//! `statusLine`. Called at looks; never tells the user anything, and no failure of it reaches the session.

use super::Setup;
use crate::history::ring::{CONTAINED, ENDING, RECLAIMING};
use crate::history::{self, About, Kind, Point, Recorder};
use crate::notice;
use crate::os::clock::wall_ms;
use crate::reclaim::{Report, State};
use crate::state::{STATUSLINE, SessionFolder};
use crate::watch::Limits;
use std::path::Path;

/// A line says how fast memory grows from here on, KiB a second: below, it is noise.
const FAST_KIB_S: u64 = 1024;

/// What one look saw.
pub struct Glance {
    /// The client's pid.
    pub client_pid: i32,
    /// Memory of the tree.
    pub total_kib: u64,
    /// How fast it grows.
    pub rate_kib_s: u64,
    /// How often the client was started again.
    pub restarts: u64,
    /// The session is in a cgroup of its own.
    pub is_contained: bool,
    /// The client is being ended.
    pub is_ending: bool,
    /// Tier 1.
    pub reclaim: Report,
    /// Output files on tmpfs, KiB.
    pub tmp_kib: u64,
    /// Open descriptors, and the masters of pseudo-terminals among them.
    pub descriptors: (u64, u64),
}

/// Owns both.
pub struct Chronicle<'a> {
    recorder: Recorder,
    folder: Option<&'a SessionFolder>,
    limits: Limits,
    /// The line as it was written last.
    line: String,
    was_hot: bool,
}

impl<'a> Chronicle<'a> {
    /// Of this session, which runs the client in this file.
    pub fn new(setup: &'a Setup<'a>, limits: Limits, since_unix_s: u64, client: &Path) -> Self {
        // Without our own start time the file's name would not be ours alone.
        let folder = setup
            .us
            .and_then(|_| history::folder(|name| std::env::var_os(name)));
        let about = About {
            wrapper: setup.us.unwrap_or_default(),
            since_unix_s,
            tier_1_kib: (setup.config.pool_threshold_mib())
                .map_or(0, |mib| mib.saturating_mul(1024)),
            warn_kib: limits.warn_kib,
            tier_2_kib: limits.limit_kib,
            about: format!(
                "claude-safe {}, {}",
                env!("CARGO_PKG_VERSION"),
                client.display()
            ),
        };
        Self {
            recorder: Recorder::new(folder, about),
            folder: setup
                .folder
                .as_ref()
                .filter(|_| setup.invocation.is_interactive()),
            limits,
            line: String::new(),
            was_hot: false,
        }
    }

    /// Takes down what a look saw.
    pub fn look(&mut self, now_ms: u64, seen: &Glance) {
        let flag = |is: bool, flag| if is { flag } else { 0 };
        let is_reclaiming = matches!(
            seen.reclaim.state,
            State::Holding | State::Proving | State::Learning | State::Shrinking
        );
        let point = Point {
            at_unix_ms: wall_ms(),
            total_kib: seen.total_kib,
            swap_kib: seen.reclaim.swapped_kib,
            given_kib: seen.reclaim.given_kib,
            restarts: u16::try_from(seen.restarts).unwrap_or(u16::MAX),
            flags: flag(seen.is_contained, CONTAINED)
                | flag(is_reclaiming, RECLAIMING)
                | flag(seen.is_ending, ENDING),
            client_pid: seen.client_pid,
            tmp_kib: seen.tmp_kib,
            fds: u32::try_from(seen.descriptors.0).unwrap_or(u32::MAX),
            ptys: u32::try_from(seen.descriptors.1).unwrap_or(u32::MAX),
        };
        self.recorder.take(now_ms, point);
        let is_hot = seen.reclaim.state == State::Hot;
        if is_hot && !self.was_hot {
            self.recorder
                .incident(Kind::ReclaimGivenUp, seen.reclaim.state.text());
        }
        self.was_hot = is_hot;
        let line = line(seen, &self.limits);
        if let Some(folder) = self.folder.filter(|_| line != self.line) {
            let _ = folder.write(STATUSLINE, &line);
            self.line = line;
        }
    }

    /// Writes down what happened. Names of programs may stand in `text`, no arguments.
    pub fn incident(&mut self, kind: Kind, text: &str) {
        self.recorder.incident(kind, text);
    }

    /// Why no history is kept any more.
    pub fn trouble(&self) -> Option<&str> {
        self.recorder.trouble()
    }
}

/// The line: `1024 MiB of 60.0 GiB, +80 MiB/s, restarted 2 times`.
fn line(seen: &Glance, limits: &Limits) -> String {
    let mut line = notice::memory(seen.total_kib);
    if limits.limit_kib > 0 {
        line.push_str(" of ");
        line.push_str(&notice::memory(limits.limit_kib));
    }
    if seen.rate_kib_s >= FAST_KIB_S {
        line.push_str(&format!(", +{} MiB/s", seen.rate_kib_s / 1024));
    }
    if seen.is_ending {
        line.push_str(", ending");
    } else if limits.warn_kib > 0 && seen.total_kib >= limits.warn_kib {
        line.push_str(", near the limit");
    }
    match seen.restarts {
        0 => {}
        1 => line.push_str(", restarted once"),
        times => line.push_str(&format!(", restarted {times} times")),
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_matters_and_no_more() {
        let limits = Limits::new(60 << 10, 0);
        let quiet = Glance {
            tmp_kib: 0,
            descriptors: (0, 0),
            client_pid: 1,
            total_kib: 412 << 10,
            rate_kib_s: FAST_KIB_S - 1,
            restarts: 0,
            is_contained: true,
            is_ending: false,
            reclaim: Report::default(),
        };
        assert_eq!(line(&quiet, &limits), "412 MiB of 60.0 GiB\n");
        assert_eq!(line(&quiet, &Limits::new(0, 0)), "412 MiB\n");
        let growing = Glance {
            total_kib: 45 << 20,
            rate_kib_s: 80 << 10,
            restarts: 1,
            ..quiet
        };
        assert_eq!(
            line(&growing, &limits),
            "45.0 GiB of 60.0 GiB, +80 MiB/s, near the limit, restarted once\n"
        );
        let ending = Glance {
            is_ending: true,
            restarts: 2,
            ..growing
        };
        assert_eq!(
            line(&ending, &limits),
            "45.0 GiB of 60.0 GiB, +80 MiB/s, ending, restarted 2 times\n"
        );
    }
}
