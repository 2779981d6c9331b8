//! Decides which of the signals that reach us are passed on. Never handles one itself.
//!
//! The client is in our process group, as it would be without us. A signal of the terminal, of
//! the shell's `kill %1`, of timeout(1) goes to the whole group: the client has it already, and
//! must not get it twice (its second INT means "quit"). A signal to our pid alone was meant for the
//! client. siginfo_t does not tell the two apart; the [`Sentinel`] does.

use crate::os::proc::signal_set;
use crate::os::process::Sentinel;
use crate::os::signals::{self, Signo};
use std::path::Path;

/// Tells signals of the group from ours.
pub struct Relay {
    sentinel: Option<Sentinel>,
    /// Bits of signals that the last sentinel held besides the one it was asked for.
    carried: u64,
}

impl Relay {
    /// Before a client runs: whatever comes then, the client has not had.
    pub fn before_start() -> Self {
        Self {
            sentinel: None,
            carried: 0,
        }
    }

    /// A client was just started: a fresh sentinel, younger than the client. What the group got
    /// before and still waits in our queue is not with this sentinel, and so is passed on: the
    /// client was not there to get it. (One in the moment between the two starts is sent to the
    /// client twice; it has no handler yet that could count.) Without a sentinel (no process
    /// left), the terminal's signals are taken for the group's and all others for ours.
    pub fn client_started(&mut self) {
        *self = Self {
            sentinel: Sentinel::start().ok(),
            carried: 0,
        };
    }

    /// A child of ours has ended: another sentinel, if it was this one.
    pub fn child_ended(&mut self) {
        if self.sentinel.as_ref().is_some_and(Sentinel::has_ended) {
            self.sentinel = Sentinel::start().ok();
        }
    }

    /// Must this signal, just read from our queue, be passed on to the client?
    pub fn meant_for_us_alone(&mut self, signo: Signo) -> bool {
        let bit = 1_u64 << (signo - 1);
        if self.carried & bit != 0 {
            self.carried &= !bit;
            return false;
        }
        let Some(sentinel) = &self.sentinel else {
            return !matches!(
                signo,
                signals::SIGINT | signals::SIGQUIT | signals::SIGTSTP | signals::SIGWINCH
            );
        };
        let pending = pending_of(sentinel);
        if pending & bit == 0 {
            return true;
        }
        // What is pending stays pending: a new sentinel, and only then is the old one ended.
        match Sentinel::start() {
            Ok(fresh) => {
                // Asked again, the old one first: a signal that came since is with the old one alone
                // (carried over), with both, or with the fresh one alone (which tells it then).
                let old = pending_of(sentinel);
                self.carried |= (pending | old) & !bit & !pending_of(&fresh);
                self.sentinel = Some(fresh);
            }
            Err(_) => self.carried |= pending & !bit,
        }
        false
    }
}

/// The signals that wait for the whole process.
fn pending_of(sentinel: &Sentinel) -> u64 {
    let process = format!("/proc/{}", sentinel.pid());
    signal_set(Path::new(&process), "ShdPnd").unwrap_or(0)
}
