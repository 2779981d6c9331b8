//! How old a file is, when its stamp and the clock may be wrong. Pure: clocks are values here.
//!
//! Files are stamped by the clock that people and NTP set. When that is set forward, every file looks older at
//! once, also one that was written a second ago. The clock since boot is never set: the difference of the two is
//! kept from one sweep to the next ([`ClockRecord`]), and when it has grown, no file from before that moment counts
//! as older than the time since boot that has gone by *since*. Set backward, stamps lie in the future, and such a
//! file is as good as new. Not the kernel's own notice of such a change (timerfd with cancel-on-set): it
//! reaches those only who wait for it, and a hook lives for milliseconds.

/// Both clocks, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970.
    pub wall_ms: u64,
    /// Milliseconds since boot.
    pub boot_ms: u64,
}

impl Now {
    /// Asks the kernel.
    pub fn read() -> Now {
        Now {
            wall_ms: crate::os::clock::wall_ms(),
            boot_ms: crate::os::clock::boot_ms(),
        }
    }

    /// What would be 0 on the clock since boot, in milliseconds since 1970.
    fn offset_ms(self) -> u64 {
        self.wall_ms.saturating_sub(self.boot_ms)
    }
}

/// What one sweep tells the next about the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockRecord {
    /// When it was written.
    pub at: Now,
    /// When the wall clock was last seen to have been set forward.
    pub jump: Option<Now>,
}

/// Shorter steps are not told from the slow correction by NTP and from two clocks read one after the other.
const STEP_MS: u64 = 2_000;

/// The slow correction (adjtimex(2)) is at most 500 ppm: a thousandth leaves room.
const SLEW_SHARE: u64 = 1_000;

/// However long ago the last sweep was, a step of so much is one.
const MOST_SLEW_MS: u64 = 30_000;

impl ClockRecord {
    /// The record of now, from the earlier one of this machine, if there is any. `set_forward`: other evidence says
    /// so.
    pub fn follow(earlier: Option<ClockRecord>, now: Now, set_forward: bool) -> ClockRecord {
        let Some(earlier) = earlier else {
            return ClockRecord {
                at: now,
                jump: set_forward.then_some(now),
            };
        };
        // Written before this boot, or in another time namespace: its files may be from any time.
        let other_boot = now.boot_ms < earlier.at.boot_ms;
        let between_ms = now.boot_ms.saturating_sub(earlier.at.boot_ms);
        let slack_ms = STEP_MS + (between_ms / SLEW_SHARE).min(MOST_SLEW_MS - STEP_MS);
        let stepped = now.offset_ms() > earlier.at.offset_ms() + slack_ms;
        ClockRecord {
            at: now,
            jump: match stepped || other_boot {
                true => Some(now),
                false => earlier.jump,
            },
        }
    }

    /// As a line of a file.
    pub fn text(&self) -> String {
        let jump = self.jump.unwrap_or(Now {
            wall_ms: 0,
            boot_ms: 0,
        });
        format!(
            "{} {} {} {}",
            self.at.wall_ms, self.at.boot_ms, jump.wall_ms, jump.boot_ms
        )
    }

    /// Of such a line.
    pub fn parse(line: &str) -> Option<ClockRecord> {
        let mut numbers = line.split(' ').map(|word| word.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        let at = Now {
            wall_ms: next()?,
            boot_ms: next()?,
        };
        let jump = Now {
            wall_ms: next()?,
            boot_ms: next()?,
        };
        Some(ClockRecord {
            at,
            jump: (jump.wall_ms != 0).then_some(jump),
        })
    }
}

/// The clock by which the files of one folder are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileClock {
    now: Now,
    jump: Option<Now>,
    /// Now, by the file system's own clock, where it told.
    of_file_system_ms: Option<u64>,
}

/// A file system that does not tell its clock may be another machine's, whose clock goes otherwise: nothing counts
/// as old there before this.
pub const UNKNOWN_CLOCK_MS: u64 = 3_600_000;

impl FileClock {
    /// From the record of this sweep.
    pub fn new(record: &ClockRecord, of_file_system_ms: Option<u64>) -> FileClock {
        FileClock {
            now: record.at,
            jump: record.jump,
            of_file_system_ms,
        }
    }

    /// Has a file of this stamp certainly been left alone for longer than `limit_ms`?
    pub fn is_older(&self, written_ms: u64, limit_ms: u64) -> bool {
        let (now_ms, limit_ms) = match self.of_file_system_ms {
            Some(theirs_ms) => (theirs_ms.min(self.now.wall_ms), limit_ms),
            None => (self.now.wall_ms, limit_ms.max(UNKNOWN_CLOCK_MS)),
        };
        let Some(age_ms) = now_ms.checked_sub(written_ms) else {
            return false;
        };
        let since_jump_ms = match self.jump {
            // Whether it was stamped before or after, nobody can tell.
            Some(jump) if written_ms <= jump.wall_ms => {
                self.now.boot_ms.saturating_sub(jump.boot_ms)
            }
            _ => u64::MAX,
        };
        age_ms.min(since_jump_ms) > limit_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: u64 = 60_000;
    const HOUR_MS: u64 = 60 * MINUTE_MS;
    const BOOT: Now = Now {
        wall_ms: 1_700_000_000_000,
        boot_ms: 10_000,
    };

    /// So long after BOOT, with the wall clock set by so much meanwhile.
    fn later(ms: u64, set_ms: i64) -> Now {
        Now {
            wall_ms: (BOOT.wall_ms + ms).checked_add_signed(set_ms).unwrap(),
            boot_ms: BOOT.boot_ms + ms,
        }
    }

    fn record(at: Now) -> ClockRecord {
        ClockRecord { at, jump: None }
    }

    fn clock(record: &ClockRecord) -> FileClock {
        FileClock::new(record, Some(u64::MAX))
    }

    #[test]
    fn a_file_is_old_from_a_minute_on_and_never_when_its_stamp_is_ahead() {
        let now = clock(&record(later(HOUR_MS, 0)));
        let wall_ms = later(HOUR_MS, 0).wall_ms;
        assert!(!now.is_older(wall_ms, MINUTE_MS));
        assert!(!now.is_older(wall_ms - MINUTE_MS, MINUTE_MS));
        assert!(now.is_older(wall_ms - MINUTE_MS - 1, MINUTE_MS));
        assert!(!now.is_older(wall_ms + 1, MINUTE_MS));
        assert!(!now.is_older(u64::MAX, 0));
    }

    #[test]
    fn a_clock_set_forward_makes_no_fresh_file_old() {
        let first = ClockRecord::follow(None, later(0, 0), false);
        let fresh_ms = later(HOUR_MS - 1_000, 0).wall_ms;
        // A second after the file was written, the clock is two days ahead.
        let set_ms = 48 * HOUR_MS as i64;
        let jumped = ClockRecord::follow(Some(first), later(HOUR_MS, set_ms), false);
        assert_eq!(jumped.jump, Some(jumped.at));
        assert!(!clock(&jumped).is_older(fresh_ms, MINUTE_MS));
        // It is old when a minute has really gone by, and a day later for those that may stay a day.
        for (after_ms, is_old) in [(MINUTE_MS, false), (MINUTE_MS + 1, true)] {
            let at = later(HOUR_MS + after_ms, set_ms);
            let next = ClockRecord::follow(Some(jumped), at, false);
            assert_eq!(next.jump, jumped.jump);
            assert_eq!(clock(&next).is_older(fresh_ms, MINUTE_MS), is_old);
            assert!(!clock(&next).is_older(fresh_ms, 24 * HOUR_MS));
        }
        // What is written by the new clock is judged by it.
        let at = later(2 * HOUR_MS, set_ms);
        let next = ClockRecord::follow(Some(jumped), at, false);
        assert!(clock(&next).is_older(at.wall_ms - 2 * MINUTE_MS, MINUTE_MS));
    }

    #[test]
    fn ntp_and_an_idle_day_are_no_jump_and_a_clock_set_back_is_none_either() {
        for (after_ms, set_ms) in [
            (0, 1_900),
            (HOUR_MS, 1_800),
            (24 * HOUR_MS, 29_000),
            (HOUR_MS, -(HOUR_MS as i64) / 2),
        ] {
            let next = ClockRecord::follow(Some(record(BOOT)), later(after_ms, set_ms), false);
            assert_eq!(next.jump, None, "{after_ms} {set_ms}");
        }
        for (after_ms, set_ms) in [(0, 2_100), (HOUR_MS, 5_700), (1_000 * HOUR_MS, 30_100)] {
            let next = ClockRecord::follow(Some(record(BOOT)), later(after_ms, set_ms), false);
            assert_eq!(next.jump, Some(next.at), "{after_ms} {set_ms}");
        }
    }

    #[test]
    fn after_a_boot_nothing_is_old_for_a_minute() {
        let reboot = Now {
            wall_ms: BOOT.wall_ms + 5 * HOUR_MS,
            boot_ms: 5_000,
        };
        let next = ClockRecord::follow(Some(record(later(HOUR_MS, 0))), reboot, false);
        assert_eq!(next.jump, Some(reboot));
        assert!(!clock(&next).is_older(BOOT.wall_ms, MINUTE_MS));
    }

    #[test]
    fn without_a_record_other_evidence_of_a_jump_counts() {
        assert_eq!(ClockRecord::follow(None, BOOT, false).jump, None);
        assert_eq!(ClockRecord::follow(None, BOOT, true).jump, Some(BOOT));
    }

    #[test]
    fn the_clock_of_the_file_system_counts_where_it_is_behind() {
        let record = record(later(HOUR_MS, 0));
        let wall_ms = record.at.wall_ms;
        // Ten minutes behind: a file that it stamps now looks ten minutes old by ours.
        let behind = FileClock::new(&record, Some(wall_ms - 10 * MINUTE_MS));
        assert!(!behind.is_older(wall_ms - 10 * MINUTE_MS, MINUTE_MS));
        assert!(behind.is_older(wall_ms - 12 * MINUTE_MS, MINUTE_MS));
        let untold = FileClock::new(&record, None);
        assert!(!untold.is_older(wall_ms - 10 * MINUTE_MS, MINUTE_MS));
        assert!(untold.is_older(wall_ms - HOUR_MS - 1, MINUTE_MS));
    }

    #[test]
    fn a_record_survives_its_line_and_junk_is_none() {
        for jump in [None, Some(later(5, 5))] {
            let record = ClockRecord { at: BOOT, jump };
            assert_eq!(ClockRecord::parse(&record.text()), Some(record));
        }
        for junk in ["", "1", "1 2 3", "a b c d", "-1 2 3 4"] {
            assert_eq!(ClockRecord::parse(junk), None);
        }
    }
}
