//! The controlling terminal: its settings (termios(3)) and whose it is.

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};

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

    /// From now on keys arrive at once, and are not shown; Ctrl-C and Ctrl-Z stay signals. False: it can't be.
    /// [`ControllingTerminal::restore_settings`] is the way back.
    pub fn take_keys(&self) -> bool {
        let mut settings = self.settings.clone();
        settings.local_modes &= !(LocalModes::ICANON | LocalModes::ECHO);
        settings.special_codes[SpecialCodeIndex::VMIN] = 1;
        settings.special_codes[SpecialCodeIndex::VTIME] = 0;
        termios::tcsetattr(&self.fd, OptionalActions::Drain, &settings).is_ok()
    }

    /// What was typed, as far as it is there: `None` when the terminal is gone.
    pub fn typed(&self, keys: &mut [u8]) -> Option<usize> {
        match rustix::io::read(&self.fd, keys) {
            Ok(0) => None,
            Ok(count) => Some(count),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Some(0),
            Err(_) => None,
        }
    }

    /// To wait for keys.
    pub fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        super::fd::lend_back(rustix::fd::AsFd::as_fd(&self.fd))
    }

    /// Columns and rows now.
    pub fn size(&self) -> Option<(u16, u16)> {
        let size = termios::tcgetwinsize(&self.fd).ok()?;
        Some((size.ws_col, size.ws_row))
    }

    /// Writes what fits; a terminal that takes nothing is left alone. False: not all of it.
    pub fn write(&self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(&self.fd, rest) {
                Ok(n) if n > 0 => rest = &rest[n..],
                Err(rustix::io::Errno::INTR) => {}
                _ => return false,
            }
        }
        true
    }
}

/// Columns and rows of the terminal on standard output, if it is one.
pub fn size_of_stdout() -> Option<(u16, u16)> {
    let out = std::io::stdout();
    let size = termios::tcgetwinsize(super::fd::lend(std::os::fd::AsFd::as_fd(&out))).ok()?;
    Some((size.ws_col, size.ws_row))
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
