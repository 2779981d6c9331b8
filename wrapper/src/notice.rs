//! What we say to the user: one line each, on standard error, or past a screen that the client
//! draws. Never more than it takes, never in the middle of the client's picture.

use crate::os::process::write_stderr;

/// One line on standard error, headed by our name. Control characters are shown as `?`: a path or a
/// value must not draw on the terminal.
pub fn line(text: &str) {
    let mut out = String::with_capacity(text.len() + 16);
    if !text.starts_with("claude-safe: ") {
        out.push_str("claude-safe: ");
    }
    out.extend(text.chars().map(|c| if c.is_control() { '?' } else { c }));
    out.push('\n');
    write_stderr(out.as_bytes());
}

/// A desktop notification as an escape sequence which terminals that don't know it pass over: OSC 777 where a
/// VTE terminal is known to be there, OSC 9 elsewhere. Ended by ST, so that no bell rings.
pub fn notification_sequence(text: &str, vte: bool) -> Vec<u8> {
    let clean: String = text
        .chars()
        .filter(|c| !c.is_control() && *c != ';')
        .collect();
    if vte {
        format!("\x1b]777;notify;claude-safe;{clean}\x1b\\").into_bytes()
    } else {
        format!("\x1b]9;{clean}\x1b\\").into_bytes()
    }
}

/// `812 MiB` below 10 GiB, `12.1 GiB` from there on.
pub fn memory(kib: u64) -> String {
    if kib < 10 * 1024 * 1024 {
        format!("{} MiB", kib / 1024)
    } else {
        let tenths = kib / 1024 * 10 / 1024;
        format!("{}.{} GiB", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_the_unit_that_fits() {
        assert_eq!(memory(0), "0 MiB");
        assert_eq!(memory(512 * 1024), "512 MiB");
        assert_eq!(memory(61440 * 1024), "60.0 GiB");
        assert_eq!(memory(12_690_000), "12.1 GiB");
    }

    #[test]
    fn a_notification_rings_no_bell_and_carries_no_escape() {
        for vte in [false, true] {
            let sequence = notification_sequence("a\x07b\x1b]0;x", vte);
            assert!(!sequence.contains(&7));
            assert_eq!(sequence.iter().filter(|b| **b == 0x1b).count(), 2);
        }
    }
}
