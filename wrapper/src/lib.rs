//! `claude-safe`: the drop-in for `claude`, and `claude-safectl`, its control plane.
//!
//! | room | owns |
//! |---|---|
//! | [`os`] | every system call; the only room with `unsafe` |
//! | [`config`] | the vocabulary of variables, where a value came from, the size of this machine |
//! | [`client`] | which file is the client, what it is, what the guard can reach in it, its command line |
//! | [`watch`] | the process tree in `/proc`, its memory, and the verdict on it |
//! | [`descriptors`] | what processes hold open, pseudo-terminals above all |
//! | [`supervise`] | the running session: start, relay, watch, restart, end |
//! | [`reclaim`] | memory of the session that goes to swap before anybody suffers |
//! | [`state`] | the folder of one running session |
//! | [`guard_page`] | reading the guard's statistics page, and the one word written into it |
//! | [`history`] | samples and incidents of sessions, for later |
//! | [`contain`] | tier 0: a control group of the session's own, and the order in which the kernel kills |
//! | [`orphans`] | what a session started and left running when its client ended |
//! | [`sweep`] | what clients leave behind in the temporary folder |
//! | [`ctl`] | `claude-safectl` |
//! | [`notice`] | what the user is told |
//! | [`outputs`] | the output files of the session's tools, and the end of who writes too much |
//! | [`remedy`] | what can be done about a machine that lacks something |
//! | [`picture`] | memory over time as an SVG |
//! | [`stats_page`] | the layout of that page (the guard's own file) |
//!
//! The rule above all rules: every failure of our own ends in one line on standard error, and
//! claude starts all the same.

#![deny(unsafe_code)]

pub mod client;
pub mod config;
pub mod contain;
pub mod ctl;
pub mod descriptors;
pub mod guard_page;
pub mod history;
pub mod json;
mod launch;
#[cfg(test)]
mod manual;
pub mod notice;
pub mod orphans;
pub mod os;
pub mod outputs;
pub mod picture;
pub mod reclaim;
pub mod remedy;
pub mod state;
#[path = "../../guard/src/stats_page.rs"]
pub mod stats_page;
pub mod supervise;
pub mod sweep;
pub mod watch;

pub use launch::{control, main};
