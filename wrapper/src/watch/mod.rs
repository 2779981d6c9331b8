//! The eyes of the supervisor: the process tree of a session, its memory, and the verdict on it.
//!
//! | file | owns |
//! |---|---|
//! | [`proc_fs`] | reading and parsing `/proc` |
//! | [`tree`] | who belongs to the session, and how much memory that is, counted once |
//! | [`mod@verdict`] | what follows from it, and when to look again: pure functions |
//! | [`pressure`] | PSI |
//!
//! One look is: `watcher.look(now_ms, limits.limit_kib)`, `verdict(&sample, &limits, &history)`,
//! `history.note(&sample, &limits, &verdict)`, `next_look_ms(&sample, &limits, &history, ceiling_s)`.
//! Nothing here signals, sleeps, prints or starts a thread.

#[cfg(test)]
pub(crate) mod fixture;
pub mod pressure;
pub mod proc_fs;
pub mod tree;
pub mod verdict;

pub use crate::os::files::FileId;
pub use proc_fs::ProcessId;
pub use tree::{Branch, Look, Process, Sample, Subtree, Watcher};
pub use verdict::{EndTool, History, Limits, Verdict, next_look_ms, verdict};
