//! The line that a SIGUSR1 gets, and who answers that signal.
//!
//! The handler is async-signal-safe: it formats on its stack, makes system calls that leave errno
//! alone, and reads what the constructor has laid down. It takes less than 2 KiB of stack, since
//! alternate stacks are small: no path is ever copied there. Never writes to stdout or stderr.

use core::{
    ffi::c_int,
    fmt::{self, Write},
};

use crate::{
    config::PathBuffer,
    os::{self, ErrnoKept, LogRefused, Usr1Found},
    page,
    stats_page::{Choice, Snapshot, State, Usr1},
};

/// Where lines go.
pub(crate) struct Destinations {
    /// First choice.
    pub(crate) log: PathBuffer,
    /// If the first can't be used: a file in a folder of our own. Empty for none.
    pub(crate) fallback: PathBuffer,
}

static DESTINATIONS: spin::Once<Destinations> = spin::Once::new();

/// Makes SIGUSR1 write the line, unless somebody else has plans for the signal.
pub(crate) fn answer_usr1(destinations: Destinations) {
    DESTINATIONS.call_once(|| destinations);
    let Some(sigaction) = crate::next::sigaction_fn() else {
        return;
    };
    // SAFETY: libc's sigaction; the handler is written to be async-signal-safe.
    let usr1 = unsafe {
        match os::look_at_usr1(sigaction) {
            Some(Usr1Found::Default) if os::handle_usr1(sigaction, on_usr1) => Usr1::Ours,
            Some(Usr1Found::Handled) => Usr1::Program,
            // Whoever started us wants the signal ignored, and so it stays.
            _ => Usr1::None,
        }
    };
    page::current().set_usr1(usr1);
}

/// The program has set the signal's disposition, which is its right.
pub(crate) fn usr1_was_set_to(handler: usize) {
    let page = page::current();
    // The child of a vfork has its own dispositions, but our memory.
    if page.pid() != os::pid() {
        return;
    }
    page.set_usr1(if handler == on_usr1 as extern "C" fn(c_int) as usize {
        Usr1::Ours
    } else {
        Usr1::Program
    });
}

extern "C" fn on_usr1(_signal: c_int) {
    let _errno = ErrnoKept::new();
    page::collect();
    let Ok(snapshot) = page::snapshot() else {
        return;
    };
    let mut line = Line::new();
    if line.describe(&snapshot).is_err() {
        return;
    }
    if let Some(to) = DESTINATIONS.get() {
        append(to, line.as_bytes());
    }
}

/// Ladder: the log; if it can't be used, the state folder; if that can't either, the line is
/// dropped. A full log is no reason to go elsewhere.
fn append(to: &Destinations, line: &[u8]) {
    if let Err(LogRefused::File) = os::append_line(to.log.as_c_str(), line)
        && !to.fallback.as_bytes().is_empty()
    {
        os::make_private_folders_of(to.fallback.as_c_str());
        let _ = os::append_line(to.fallback.as_c_str(), line);
    }
}

/// A line of text on the stack.
struct Line {
    bytes: [u8; 384],
    len: usize,
}

impl Line {
    const fn new() -> Self {
        Self {
            bytes: [0; 384],
            len: 0,
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The documented form; new fields only ever follow.
    fn describe(&mut self, snapshot: &Snapshot) -> fmt::Result {
        let guard = match snapshot.state {
            State::Starting => "starting",
            State::Standby => "standby",
            State::Active => "ACTIVE",
            State::Unreachable => "unreachable",
        };
        write!(
            self,
            "[malloc-guard] {}B alloc={} free={} live={} pool_hit={} guard={guard} pid={} time=",
            snapshot.first().size,
            snapshot.first().alloc,
            snapshot.first().free,
            snapshot.first().live(),
            snapshot.first().pool_hit,
            os::pid(),
        )?;
        self.write_utc(os::unix_time_s())?;
        let choice = match snapshot.choice {
            Choice::Named => "named",
            Choice::Searching => "searching",
            Choice::Found => "found",
        };
        writeln!(
            self,
            " stray={} passed_on={} slabs={} faults={} choice={choice}",
            snapshot.first().stray,
            snapshot.pool.passed_on,
            snapshot.pool.slabs,
            snapshot.faults.count,
        )
    }

    /// `2026-01-31T23:59:59Z`; the civil date by counting from 0000-03-01, so that the leap day is
    /// the last of its year.
    fn write_utc(&mut self, unix_time_s: i64) -> fmt::Result {
        const DAYS_TO_1970: i64 = 719_468;
        const DAYS_IN_400_YEARS: i64 = 146_097;
        let (days, second) = (
            unix_time_s.div_euclid(86_400),
            unix_time_s.rem_euclid(86_400),
        );
        let days = days + DAYS_TO_1970;
        let (era, day_of_era) = (
            days.div_euclid(DAYS_IN_400_YEARS),
            days.rem_euclid(DAYS_IN_400_YEARS),
        );
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 {
            march_month + 3
        } else {
            march_month - 9
        };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        write!(
            self,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
            second / 3_600,
            second / 60 % 60,
            second % 60,
        )
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
