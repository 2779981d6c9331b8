//! What a session leaves for later: samples of its memory, and incidents (warned, ended, restarted). Bounded: one ring
//! of 512 KiB for each of the last 64 sessions, and two files of incidents.
//!
//! | file | owns |
//! |---|---|
//! | [`ring`] | the samples of one session in one file: a write of 64 bytes each, trusted record by record |
//! | [`incidents`] | the incidents of all sessions, a line each |
//! | [`recorder`] | what the supervisor calls: which samples are kept |
//! | [`analysis`] | growth, and the part of the samples that is looked at: pure functions |
//!
//! All in `$XDG_STATE_HOME/claude-safe/history/`, ours alone. Never fails or slows a session: the first write that
//! fails is the last one, and only `claude-safectl` tells.

pub mod analysis;
pub mod incidents;
pub mod recorder;
pub mod ring;

pub use incidents::{Incident, Kind};
pub use recorder::{About, Recorder};
pub use ring::{Header, Past, Point};

use crate::config;
use crate::os::private;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// So many sessions are kept, the running ones among them.
pub const SESSIONS: usize = 64;

/// The folder: `$XDG_STATE_HOME/claude-safe/history/`, by default below `~/.local/state/`.
pub fn folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    Some(config::own_folder(&variable, "XDG_STATE_HOME", ".local/state")?.join("history"))
}

/// Makes the folder, and those above it that are missing.
///
/// # Errors
/// It can't be made, or it is not ours alone.
fn make_folder(folder: &Path) -> io::Result<()> {
    if let Some(above) = folder.parent() {
        fs::create_dir_all(above)?;
    }
    private::folder(folder)
}
