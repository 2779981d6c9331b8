//! Leaves the terminal as it was found when the client could not do so itself. Never touches it
//! while a client runs, nor while another process group has it.

use crate::os::terminal::{ControllingTerminal, is_terminal};

/// What a killed client leaves switched on (measured on 2.1.110 and 2.1.329), undone in one write:
/// synchronised output 2026, mouse 1000/1002/1003/1006/1015/1016, focus 1004, bracketed paste 2004,
/// colour reports 2031, the CSI-u and modifyOtherKeys keyboards, application cursor keys, the
/// alternate screen, scroll margins, attributes; wrapping and the cursor switched on.
/// The cursor is saved first: leaving the alternate screen restores the cursor saved at its entry,
/// and where none was entered, this one; setting margins would send it home.
const SANE: &[u8] =
    b"\x1b[?2026l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1015l\x1b[?1016l\
\x1b[?1004l\x1b[?2004l\x1b[?2031l\x1b[<u\x1b[>4m\x1b[?1l\x1b7\x1b[?1049l\x1b7\x1b[r\x1b8\
\x1b[0m\x1b[?7h\x1b[?25h\r\n";

/// The terminal's state at our start, to be put back after an abnormal end.
pub struct TerminalKeeper {
    terminal: Option<ControllingTerminal>,
    screen: bool,
}

impl TerminalKeeper {
    /// Remembers the settings. `interactive`: the client draws on the screen.
    pub fn remember(interactive: bool) -> Self {
        let terminal = ControllingTerminal::open();
        Self {
            terminal,
            screen: interactive && is_terminal(1),
        }
    }

    /// Does the client draw on this terminal?
    pub fn is_drawn_on(&self) -> bool {
        self.screen
    }

    /// Puts settings and modes back, if the terminal is there and ours.
    pub fn restore(&self) {
        if let Some(terminal) = self.terminal.as_ref().filter(|t| t.is_ours()) {
            if self.screen {
                terminal.write(SANE);
            }
            terminal.restore_settings();
        }
    }

    /// Writes an escape sequence that shows nothing by itself, as a notification.
    pub fn whisper(&self, sequence: &[u8]) {
        if let Some(terminal) = self.terminal.as_ref().filter(|t| t.is_ours()) {
            terminal.write(sequence);
        }
    }
}
