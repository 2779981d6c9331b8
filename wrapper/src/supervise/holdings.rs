//! What the session's processes hold beside memory: descriptors, pseudo-terminals, the files that their output goes
//! to. Owns when these are looked at, in and between the looks at memory. What follows is decided by
//! [`crate::descriptors`] and [`crate::outputs`].

use crate::config::Config;
use crate::descriptors::watch::Watch;
use crate::outputs::{News, Outputs};
use crate::watch::proc_fs::Proc;
use crate::watch::{Sample, Watcher};
use std::ffi::OsString;
use std::path::Path;

/// The longest time between two short looks: a leak is to be known within 5 s.
const CEILING_MS: u64 = 4_000;

/// See the top of the file.
pub struct Holdings {
    descriptors: Watch,
    outputs: Outputs,
    /// `None`: there was no whole look yet.
    look_at_ms: Option<u64>,
    count_at_ms: u64,
    /// Somebody unknown writes: the next whole look asks everybody.
    anew: bool,
    limit_kib: u64,
}

impl Holdings {
    /// Of a session that begins.
    #[must_use]
    pub fn new(config: &Config, environment: &[OsString]) -> Holdings {
        Holdings {
            descriptors: Watch::new(Path::new("/proc"), u64::from(config.pty_warn)),
            outputs: Outputs::new(config, environment),
            look_at_ms: None,
            count_at_ms: 0,
            anew: false,
            limit_kib: config.watchdog_threshold_mib.saturating_mul(1024),
        }
    }

    /// When it is time for [`Holdings::between`].
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        self.look_at_ms
            .into_iter()
            .chain(self.outputs.kill_due_ms())
            .min()
    }

    /// At the last whole look: open descriptors of the session, and the masters of pseudo-terminals among them.
    #[must_use]
    pub fn descriptors(&self) -> (u64, u64) {
        self.descriptors.held()
    }

    /// Outputs on tmpfs, KiB.
    #[must_use]
    pub fn memory_kib(&self) -> u64 {
        self.outputs.memory_kib()
    }

    /// Outputs that lie in memory count as the session's.
    pub fn before_look(&mut self, watcher: &mut Watcher) {
        watcher.set_files_kib(self.outputs.memory_kib());
    }

    /// With a look at memory: everything. The answer is what is to be said.
    pub fn look(&mut self, processes: &mut Proc, sample: &Sample, now_ms: u64) -> Vec<News> {
        self.outputs.begin_whole_look();
        let mut found = Vec::new();
        let wants = |target: &Path| self.outputs.wants(target);
        let mut ids = sample.processes.iter().map(|process| process.id);
        let anew = std::mem::take(&mut self.anew);
        let told = (self.descriptors).look(processes, &mut ids, anew, &wants, &mut found);
        let mut news: Vec<News> = told.into_iter().map(News::from).collect();
        self.outputs.note(found);
        let is_full = sample.total_kib >= self.limit_kib;
        news.extend(self.outputs.look(processes, sample, now_ms, is_full).0);
        self.count_at_ms = now_ms + CEILING_MS;
        self.look_at_ms = Some(now_ms + self.outputs.next_look_ms(CEILING_MS));
        news
    }

    /// Between two looks at memory: sizes of known files, and every few seconds numbers of descriptors. `sample` is
    /// of the last look. The answer is what is to be said, and whether a whole look is called for.
    pub fn between(
        &mut self,
        processes: &mut Proc,
        sample: &Sample,
        now_ms: u64,
    ) -> (Vec<News>, bool) {
        self.outputs.kill_due(now_ms);
        if self.look_at_ms.is_none_or(|at| at > now_ms) {
            return (Vec::new(), false);
        }
        let is_full = sample.total_kib >= self.limit_kib;
        let (mut news, is_unknown) = self.outputs.look(processes, sample, now_ms, is_full);
        self.anew |= self.outputs.has_fallen() || is_unknown;
        let mut is_called_for = self.anew;
        if self.count_at_ms <= now_ms {
            let (more, is_grown) = self.descriptors.short_look(processes);
            news.extend(more.into_iter().map(News::from));
            is_called_for |= is_grown;
            self.count_at_ms = now_ms + CEILING_MS;
        }
        let next_ms = self.outputs.next_look_ms(CEILING_MS);
        self.look_at_ms = Some((now_ms + next_ms).min(self.count_at_ms));
        (news, is_called_for)
    }
}
