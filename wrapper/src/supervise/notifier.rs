//! What the user is told while the client runs. Never writes a line into a picture that the client
//! draws: there it is a desktop notification now, and the line when the screen is free again.

use super::terminal::TerminalKeeper;
use crate::client::find_program;
use crate::notice;
use crate::os::process::{self, Change, Launch};
use crate::os::signals::Inherited;
use crate::os::terminal::is_terminal;
use std::ffi::{OsStr, OsString};

/// Tells the user.
pub struct Notifier<'a> {
    inherited: &'a Inherited,
    drawn_on: bool,
    held_back: Vec<String>,
    senders: Vec<i32>,
}

impl<'a> Notifier<'a> {
    /// `drawn_on`: the client draws on the terminal that standard error may be.
    pub fn new(drawn_on: bool, inherited: &'a Inherited) -> Self {
        Self {
            inherited,
            drawn_on: drawn_on && is_terminal(2),
            held_back: Vec::new(),
            senders: Vec::new(),
        }
    }

    /// Tells it now, in the way that fits.
    pub fn tell(&mut self, keeper: &TerminalKeeper, text: &str) {
        if !self.drawn_on {
            notice::line(text);
            return;
        }
        self.held_back.push(text.to_owned());
        let vte = std::env::var_os("VTE_VERSION").is_some();
        if !self.notify_send(text) {
            keeper.whisper(&notice::notification_sequence(text, vte));
        }
    }

    /// notify-send(1), where there is a desktop to notify and the program is installed.
    fn notify_send(&mut self, text: &str) -> bool {
        let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        if !set("DBUS_SESSION_BUS_ADDRESS") || !(set("DISPLAY") || set("WAYLAND_DISPLAY")) {
            return false;
        }
        let search = std::env::var_os("PATH");
        let Some(program) = find_program(OsStr::new("notify-send"), search.as_deref()) else {
            return false;
        };
        let argv = ["notify-send", "--app-name=claude-safe", "claude-safe", text];
        // Not std's Command: it is ten times the code of a start that we have already.
        let sender = process::spawn(
            &Launch {
                program: program.as_os_str(),
                argv: &argv.map(OsString::from),
                environment: &|_| process::environment(),
                stdin: None,
                folder: None,
                aside: true,
            },
            self.inherited,
        );
        sender.map(|pid| self.senders.push(pid)).is_ok()
    }

    /// Takes the status of notifications that were sent.
    pub fn reap(&mut self) {
        let ended = |change| matches!(change, Change::Exited(_) | Change::Signaled(_));
        self.senders
            .retain(|pid| !process::next_change(*pid).is_some_and(ended));
    }

    /// The screen is free: the lines that waited.
    pub fn release(&mut self) {
        for text in self.held_back.drain(..) {
            notice::line(&text);
        }
    }
}
