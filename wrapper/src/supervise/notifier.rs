//! What the user is told while the client runs. Never writes a line into a picture that the client
//! draws: there it is a desktop notification now, and the line when the screen is free again.

use super::terminal::TerminalKeeper;
use crate::notice;
use crate::os::terminal::is_terminal;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Tells the user.
pub struct Notifier {
    drawn_on: bool,
    held_back: Vec<String>,
    senders: Vec<Child>,
}

impl Notifier {
    /// `drawn_on`: the client draws on the terminal that standard error may be.
    pub fn new(drawn_on: bool) -> Self {
        Self {
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
        let sender = Command::new("notify-send")
            .args(["--app-name=claude-safe", "claude-safe", text])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        sender.map(|child| self.senders.push(child)).is_ok()
    }

    /// Takes the status of notifications that were sent.
    pub fn reap(&mut self) {
        self.senders
            .retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    /// The screen is free: the lines that waited.
    pub fn release(&mut self) {
        for text in self.held_back.drain(..) {
            notice::line(&text);
        }
    }
}
