//! The controlling terminal: its settings (termios(3)) and whose it is.

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::termios::{self, OptionalActions, Termios};

/// The controlling terminal of this process, and the settings in which we found it.
pub struct ControllingTerminal {
    fd: OwnedFd,
    settings: Termios,
}

impl ControllingTerminal {
    /// `None` where there is none, or its settings can't be read.
    pub fn open() -> Option<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open("/dev/tty", flags, Mode::empty()).ok()?;
        let settings = termios::tcgetattr(&fd).ok()?;
        Some(Self { fd, settings })
    }

    /// Is our process group in its foreground? Only then is it ours to change.
    pub fn is_ours(&self) -> bool {
        termios::tcgetpgrp(&self.fd).is_ok_and(|group| group == rustix::process::getpgrp())
    }

    /// Puts the settings back as they were. Not before what was written is out (TCSADRAIN), and
    /// type-ahead is kept.
    pub fn restore_settings(&self) {
        // SIGTTOU is blocked in this process, so that this call can't stop us.
        let _ = termios::tcsetattr(&self.fd, OptionalActions::Drain, &self.settings);
    }

    /// Writes what fits; a terminal that takes nothing is left alone.
    pub fn write(&self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(&self.fd, rest) {
                Ok(n) if n > 0 => rest = &rest[n..],
                Err(rustix::io::Errno::INTR) => {}
                _ => return,
            }
        }
    }
}

/// Is this standard descriptor (0, 1, 2) a terminal?
pub fn is_terminal(standard: u8) -> bool {
    use std::io::IsTerminal;
    match standard {
        0 => std::io::stdin().is_terminal(),
        1 => std::io::stdout().is_terminal(),
        _ => std::io::stderr().is_terminal(),
    }
}
