//! The SIGUSR1 line and the guard's statistics page.

use super::Setup;
use crate::config;
use crate::guard_page;
use crate::os::private;
use crate::os::signals::{self, SIGUSR1};
use crate::stats_page::{Snapshot, Usr1};
use std::io::Write;
use std::path::PathBuf;

/// Answers SIGUSR1.
pub struct Statistics<'a> {
    setup: &'a Setup<'a>,
}

impl<'a> Statistics<'a> {
    /// Of this session.
    pub fn new(setup: &'a Setup<'a>) -> Self {
        Self { setup }
    }

    /// Passes SIGUSR1 on where the guard's own handler waits for it, as its page says; writes the
    /// line ourselves otherwise: a client without a handler would die of the signal, and one with its own
    /// (Node starts its debugger) did not mean ours.
    pub fn write(&self, client_pid: i32, memory_kib: Option<u64>) {
        let page = self.page().filter(|p| p.pid.cast_signed() == client_pid);
        if page.is_some_and(|p| p.usr1 == Usr1::Ours) {
            let _ = signals::send(client_pid, SIGUSR1);
            return;
        }
        let (alloc, free, live, pool_hit) = page.as_ref().map_or((0, 0, 0, 0), |p| {
            let class = p.first();
            (class.alloc, class.free, class.live(), class.pool_hit)
        });
        // Without a page there is no guard: nothing of this client can be reached.
        let guard = page.map_or("unreachable", |p| guard_page::state_in_words(p.state));
        let size = page.map_or(160, |p| p.first().size);
        let loaded = if page.is_some() { "yes" } else { "no" };
        let mut line = format!(
            "[malloc-guard] {size}B alloc={alloc} free={free} live={live} pool_hit={pool_hit} guard={guard} \
             pid={client_pid} by=claude-safe loaded={loaded}"
        );
        if let Some(kib) = memory_kib {
            line.push_str(&format!(" tree_kib={kib}"));
        }
        line.push('\n');
        for path in self.places() {
            if let Ok(mut log) = private::log(&path) {
                let _ = log.write_all(line.as_bytes());
                return;
            }
        }
    }

    /// The configured log, then the one in the state folder.
    fn places(&self) -> Vec<PathBuf> {
        let mut places = vec![self.setup.config.guard_log.clone()];
        let environment = |name: &str| std::env::var_os(name);
        let state = config::own_folder(&environment, "XDG_STATE_HOME", ".local/state");
        if let Some(state) = state.filter(|s| std::fs::create_dir_all(s).is_ok()) {
            places.push(state.join("claude_malloc_guard.log"));
        }
        places
    }

    fn page(&self) -> Option<Snapshot> {
        let path = self.setup.handover.as_ref()?.page.as_ref()?;
        Some(guard_page::read(path).ok()?.snapshot)
    }
}
