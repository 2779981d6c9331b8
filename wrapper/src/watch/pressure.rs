//! Memory pressure (PSI): reads the figures, writes the text of a trigger. The call that opens
//! one is `os::psi`'s. Never decides: pressure tells of trouble, not of growth (an allocator that runs
//! freely makes none), so it wakes the watcher and is no verdict.

use crate::os::psi::{NoTrigger, open_trigger};
use std::os::fd::OwnedFd;
use std::path::Path;

/// One line of a pressure file. Averages in hundredths of a percent (0..=10000).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall {
    /// Share of the last 10 s that was lost.
    pub avg10_centi: u32,
    /// Share of the last 60 s that was lost.
    pub avg60_centi: u32,
    /// Share of the last 300 s that was lost.
    pub avg300_centi: u32,
    /// Time lost since boot, microseconds.
    pub total_us: u64,
}

/// A pressure file: `some` (one task waits for memory), `full` (all do).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// At least one task was stalled.
    pub some: Stall,
    /// All tasks that had work were stalled.
    pub full: Stall,
}

/// Which line of the pressure file a trigger watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallKind {
    /// At least one task is stalled.
    Some,
    /// All are.
    Full,
}

/// The window that an unprivileged trigger is granted: multiples of 2 s only.
pub const UNPRIVILEGED_WINDOW_US: u32 = 2_000_000;

/// Text of a trigger: ready when `stall_us` of any `window_us` were lost. `None` when the kernel
/// would refuse it: a window outside 0.5..=10 s, a stall of 0 or longer than the window.
#[must_use]
pub fn trigger_text(kind: StallKind, stall_us: u32, window_us: u32) -> Option<String> {
    if !(500_000..=10_000_000).contains(&window_us) || stall_us == 0 || stall_us > window_us {
        return None;
    }
    let line = match kind {
        StallKind::Some => "some",
        StallKind::Full => "full",
    };
    Some(format!("{line} {stall_us} {window_us}"))
}

/// A descriptor that is ready (POLLPRI) when tasks waited for memory for 150 ms within 2 s.
///
/// # Errors
/// Why there is none: as [`open_trigger`].
pub fn memory_trigger(proc_root: &Path) -> Result<OwnedFd, NoTrigger> {
    const STALL_US: u32 = 150_000;
    let text = trigger_text(StallKind::Some, STALL_US, UNPRIVILEGED_WINDOW_US);
    let text = text.ok_or(NoTrigger::NotPermitted)?;
    open_trigger(&proc_root.join("pressure/memory"), &text)
}

/// Reads a pressure file. `None`: no PSI here, or not of that form.
#[must_use]
pub fn read(pressure_file: &Path) -> Option<Pressure> {
    // A kernel with PSI switched off has the file, and answers EOPNOTSUPP.
    parse(&std::fs::read_to_string(pressure_file).ok()?)
}

/// Parses the text of a pressure file. A missing `full` line (CPU pressure before 5.13) counts as
/// none; a missing or broken `some` line is `None`.
#[must_use]
pub fn parse(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    let mut seen_some = false;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("some") => {
                pressure.some = stall(words)?;
                seen_some = true;
            }
            Some("full") => pressure.full = stall(words)?,
            _ => {}
        }
    }
    seen_some.then_some(pressure)
}

fn stall<'a>(words: impl Iterator<Item = &'a str>) -> Option<Stall> {
    let mut stall = Stall::default();
    let mut known = 0;
    for word in words {
        let (key, value) = word.split_once('=')?;
        match key {
            "avg10" => stall.avg10_centi = centi(value)?,
            "avg60" => stall.avg60_centi = centi(value)?,
            "avg300" => stall.avg300_centi = centi(value)?,
            "total" => stall.total_us = value.parse().ok()?,
            // A later kernel may say more.
            _ => continue,
        }
        known += 1;
    }
    (known == 4).then_some(stall)
}

/// `12.34` to 1234.
fn centi(value: &str) -> Option<u32> {
    let (whole, part) = value.split_once('.')?;
    if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let whole: u32 = whole.parse().ok()?;
    whole.checked_mul(100)?.checked_add(part.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "some avg10=1.50 avg60=0.07 avg300=100.00 total=18446744073709551615\n\
                        full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";

    #[test]
    fn both_lines_are_read_to_the_hundredth() {
        let pressure = parse(TEXT).unwrap();
        assert_eq!(pressure.some.avg10_centi, 150);
        assert_eq!(pressure.some.avg60_centi, 7);
        assert_eq!(pressure.some.avg300_centi, 10_000);
        assert_eq!(pressure.some.total_us, u64::MAX);
        assert_eq!(pressure.full.total_us, 7);
    }

    #[test]
    fn every_cut_of_the_text_is_refused_or_read_as_far_as_it_goes() {
        let first_line = TEXT.find('\n').unwrap();
        for cut in 0..TEXT.len() {
            let parsed = parse(&TEXT[..cut]);
            if cut < first_line - "18446744073709551615".len() {
                assert_eq!(parsed, None, "cut at {cut}");
            }
        }
    }

    #[test]
    fn junk_and_overflow_are_refused() {
        for text in [
            "",
            "\n\n",
            "some",
            "full avg10=0.00 avg60=0.00 avg300=0.00 total=0",
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=18446744073709551616",
            "some avg10=99999999999.00 avg60=0.00 avg300=0.00 total=0",
            "some avg10=42949673.00 avg60=0.00 avg300=0.00 total=0",
            "some avg10=1.5 avg60=0.00 avg300=0.00 total=0",
            "some avg10=-1.50 avg60=0.00 avg300=0.00 total=0",
            "some avg10=1.+5 avg60=0.00 avg300=0.00 total=0",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_trigger_that_the_kernel_would_refuse_has_no_text() {
        assert_eq!(
            trigger_text(StallKind::Some, 150_000, UNPRIVILEGED_WINDOW_US).as_deref(),
            Some("some 150000 2000000")
        );
        assert_eq!(trigger_text(StallKind::Full, 0, 2_000_000), None);
        assert_eq!(trigger_text(StallKind::Full, 2_000_001, 2_000_000), None);
        assert_eq!(trigger_text(StallKind::Full, 1, 499_999), None);
    }

    #[test]
    fn no_trigger_is_armed_on_a_file_that_is_not_psi() {
        let folder = crate::watch::fixture::Folder::new();
        let fake = folder.path().join("memory");
        std::fs::write(&fake, TEXT).unwrap();
        assert_eq!(read(&fake), parse(TEXT));
        assert!(open_trigger(&fake, "some 150000 2000000").is_err());
        assert_eq!(
            std::fs::read_to_string(&fake).unwrap(),
            TEXT,
            "nothing written"
        );
        let absent = folder.path().join("absent");
        assert!(read(&absent).is_none());
        assert!(open_trigger(&absent, "some 150000 2000000").is_err());
    }

    #[test]
    fn the_kernel_takes_a_good_trigger_and_refuses_a_bad_one() {
        let file = Path::new("/proc/pressure/memory");
        let text = trigger_text(StallKind::Some, 150_000, UNPRIVILEGED_WINDOW_US).unwrap();
        // Without PSI in the kernel there must be no figures either: one ladder, both rungs gone.
        if open_trigger(file, &text).is_ok() {
            assert!(read(file).is_some());
        }
        assert!(open_trigger(file, "some 9 1").is_err());
        assert!(open_trigger(file, "nonsense").is_err());
    }
}
