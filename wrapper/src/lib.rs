//! `claude-safe`: the drop-in for `claude`, and `claude-safectl`, its control plane.
//!
//! | room | owns |
//! |---|---|
//! | [`os`] | every system call; the only room with `unsafe` |
//! | [`config`] | the vocabulary of variables, where a value came from, the size of this machine |
//! | [`client`] | which file is the client, what it is, what the guard can reach in it |
//! | [`ctl`] | the commands of `claude-safectl` |
//! | [`watch`] | the process tree in `/proc`, its memory, and the verdict on it |

#![deny(unsafe_code)]

pub mod client;
pub mod config;
pub mod ctl;
pub mod os;
pub mod watch;
