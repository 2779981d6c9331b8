//! When the output of a tool is warned of, when who writes it is ended, and when to look again. Pure functions of
//! sizes and times; never looks, never acts.

/// Bytes of a MiB.
const MIB: u64 = 1 << 20;
/// No tool that we know writes faster, bytes per second.
const FASTEST_BYTES_S: u64 = 2 << 30;
/// From a verdict until the writer is gone, if it does not leave by itself: its grace, and a look.
const ENDING_S: u64 = 3;
/// The shortest time between two looks while something is written, milliseconds.
const SHORTEST_MS: u64 = 100;
/// The same while nothing is known to be written: somebody may begin.
const SHORTEST_QUIET_MS: u64 = 250;
/// A file in memory is worth ending somebody from this size on.
const MEMORY_MIN_BYTES: u64 = 64 * MIB;
/// Free space that falls by less is no reason to ask who writes.
const FALL_MIN_BYTES: u64 = 32 * MIB;

/// What one file may take. `None`: whatever it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// The user is told.
    pub warn_bytes: Option<u64>,
    /// Who writes it is ended. Without it nobody is ever ended, for no reason.
    pub max_bytes: Option<u64>,
}

impl Budget {
    /// Of `CLAUDE_SAFE_OUTPUT_WARN_MB` and `CLAUDE_SAFE_OUTPUT_MAX_MB`, where 0 is none.
    #[must_use]
    pub fn of_mib(warn_mib: u64, max_mib: u64) -> Budget {
        let bytes = |mib: u64| (mib > 0).then(|| mib.saturating_mul(MIB));
        Budget {
            warn_bytes: bytes(warn_mib),
            max_bytes: bytes(max_mib),
        }
    }
}

/// A file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Its size.
    pub total_bytes: u64,
    /// What an ordinary user may still write.
    pub free_bytes: u64,
}

impl Space {
    /// What is to stay free: 5 %, or 2 GiB if that is less. Not the greater of the two: 5 % of a disk of 10 TiB
    /// are 500 GiB, and 2 GiB may be more than a small file system has when it is empty.
    #[must_use]
    pub fn reserve_bytes(&self) -> u64 {
        (self.total_bytes / 20).min(2 << 30)
    }

    /// How much may be written until the reserve is touched.
    fn room_bytes(&self) -> u64 {
        self.free_bytes.saturating_sub(self.reserve_bytes())
    }

    /// Free space has fallen so far since `then` that somebody of ours may be writing.
    #[must_use]
    pub fn has_fallen(&self, then: &Space) -> bool {
        let fall = then.free_bytes.saturating_sub(self.free_bytes);
        fall >= (then.room_bytes() / 64).max(FALL_MIN_BYTES)
    }
}

/// How a file grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Bytes that it takes (its blocks: what is a hole takes nothing).
    pub bytes: u64,
    /// Over the last interval, or half of what it was before, if that is more; bytes per second.
    pub rate_bytes_s: u64,
    /// It has grown since the look before.
    pub is_growing: bool,
    seen_ms: Option<u64>,
}

impl Growth {
    /// Takes down the size of now.
    pub fn note(&mut self, now_ms: u64, bytes: u64) {
        let Some(seen_ms) = self.seen_ms else {
            (self.bytes, self.seen_ms) = (bytes, Some(now_ms));
            return;
        };
        let took_ms = now_ms.saturating_sub(seen_ms);
        if took_ms == 0 {
            // Two looks at one moment tell no rate.
            return;
        }
        let grown = bytes.saturating_sub(self.bytes);
        let rate = grown.saturating_mul(1000) / took_ms;
        self.rate_bytes_s = rate.max(self.rate_bytes_s / 2);
        self.is_growing = grown > 0;
        (self.bytes, self.seen_ms) = (bytes, Some(now_ms));
    }
}

/// One file at one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// It.
    pub growth: Growth,
    /// Where it lies, if that is limited and known.
    pub space: Option<Space>,
    /// It lies in memory (tmpfs).
    pub in_memory: bool,
}

/// Why a writer is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The file has reached its limit.
    Size,
    /// The file system is about to be full.
    Space,
    /// It lies in memory, and the session has no more.
    Memory,
}

/// What to do about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Quiet,
    /// Tell the user; once.
    Warn,
    /// End who writes it.
    End(Reason),
}

/// What follows. `memory_is_full`: the session is at its limit.
///
/// For want of space a writer is ended only if its file is growing, and not smaller than the reserve: a small one
/// is not what has filled the disk, and its end would free nothing that counts. At the speed it has, the reserve
/// must hold until it is gone.
#[must_use]
pub fn verdict(sight: &Sight, budget: &Budget, memory_is_full: bool, was_warned: bool) -> Verdict {
    let Growth {
        bytes,
        rate_bytes_s,
        is_growing,
        ..
    } = sight.growth;
    if let Some(max_bytes) = budget.max_bytes {
        if bytes >= max_bytes {
            return Verdict::End(Reason::Size);
        }
        if let Some(space) = sight.space.filter(|_| is_growing)
            && bytes >= space.reserve_bytes()
            && space.room_bytes() <= rate_bytes_s.saturating_mul(ENDING_S)
        {
            return Verdict::End(Reason::Space);
        }
        if sight.in_memory && memory_is_full && is_growing && bytes >= MEMORY_MIN_BYTES {
            return Verdict::End(Reason::Memory);
        }
    }
    match budget.warn_bytes {
        Some(warn_bytes) if bytes >= warn_bytes && !was_warned => Verdict::Warn,
        _ => Verdict::Quiet,
    }
}

/// A writer that was asked to end gets no more grace: half of the reserve would be gone at the next look but one, or
/// its file is a quarter above the limit.
#[must_use]
pub fn must_kill(sight: &Sight, budget: &Budget) -> bool {
    let soon = sight.growth.rate_bytes_s / (1000 / (2 * SHORTEST_MS));
    let is_out =
        |space: Space| space.free_bytes <= (space.reserve_bytes() / 2).saturating_add(soon);
    let is_over = |max_bytes: u64| sight.growth.bytes / 5 >= max_bytes / 4;
    sight.growth.is_growing
        && (sight.space.is_some_and(is_out) || budget.max_bytes.is_some_and(is_over))
}

/// When to look at a file again that somebody has open to write, milliseconds from now: not later than the fastest
/// writer takes to what would end it, nor than a quarter of that at its own speed.
#[must_use]
pub fn next_look_ms(sight: &Sight, budget: &Budget, ceiling_ms: u64) -> u64 {
    let to_limit = budget
        .max_bytes
        .map(|max| max.saturating_sub(sight.growth.bytes));
    let rate = sight.growth.rate_bytes_s;
    let to_reserve = sight
        .space
        .map(|space| (space.room_bytes()).saturating_sub(rate.saturating_mul(ENDING_S)));
    let Some(distance) = to_limit.into_iter().chain(to_reserve).min() else {
        return ceiling_ms;
    };
    let fastest_ms = distance / (FASTEST_BYTES_S / 1000);
    let quarter_ms = distance
        .saturating_mul(250)
        .checked_div(rate)
        .unwrap_or(u64::MAX);
    fastest_ms
        .min(quarter_ms)
        .clamp(SHORTEST_MS, ceiling_ms.max(SHORTEST_MS))
}

/// When to look at a file system on which nobody of ours is known to write: half of what the fastest writer takes,
/// because who it is must be found out first. One that is full already has nothing to lose.
#[must_use]
pub fn next_space_ms(space: &Space, ceiling_ms: u64) -> u64 {
    match space.room_bytes() / 2 / (FASTEST_BYTES_S / 1000) {
        _ if space.room_bytes() == 0 => ceiling_ms,
        ms => ms.clamp(SHORTEST_QUIET_MS, ceiling_ms.max(SHORTEST_QUIET_MS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn budget() -> Budget {
        Budget::of_mib(1024, 5120)
    }

    fn sight(bytes: u64, rate_bytes_s: u64, space: Option<Space>) -> Sight {
        Sight {
            growth: Growth {
                bytes,
                rate_bytes_s,
                is_growing: rate_bytes_s > 0,
                seen_ms: Some(1),
            },
            space,
            in_memory: false,
        }
    }

    fn space(total_bytes: u64, free_bytes: u64) -> Option<Space> {
        Some(Space {
            total_bytes,
            free_bytes,
        })
    }

    fn judged(sight: &Sight) -> Verdict {
        verdict(sight, &budget(), false, false)
    }

    #[test]
    fn the_user_is_told_at_the_first_mark_and_the_writer_ended_at_the_second() {
        for (bytes, what) in [
            (GIB - 1, Verdict::Quiet),
            (GIB, Verdict::Warn),
            (5 * GIB - 1, Verdict::Warn),
            (5 * GIB, Verdict::End(Reason::Size)),
            (u64::MAX, Verdict::End(Reason::Size)),
        ] {
            assert_eq!(judged(&sight(bytes, 0, None)), what, "{bytes}");
        }
        let warned = verdict(&sight(2 * GIB, 0, None), &budget(), false, true);
        assert_eq!(warned, Verdict::Quiet);
    }

    #[test]
    fn without_a_limit_nobody_is_ended_and_without_a_mark_nobody_is_told() {
        let full = sight(u64::MAX, GIB, space(GIB, 0));
        let warn_only = Budget::of_mib(1, 0);
        assert_eq!(verdict(&full, &warn_only, true, false), Verdict::Warn);
        assert_eq!(
            verdict(&full, &Budget::default(), true, false),
            Verdict::Quiet
        );
        assert!(!must_kill(&sight(u64::MAX, 1, None), &warn_only));
    }

    #[test]
    fn for_want_of_space_only_a_file_that_grows_and_counts_is_a_reason() {
        let disk = 100 * GIB;
        let quiet = budget();
        let at = |bytes, rate, free| {
            let sight = sight(bytes, rate, space(disk, free));
            matches!(verdict(&sight, &quiet, false, true), Verdict::End(_))
        };
        assert!(at(3 * GIB, 1, 2 * GIB), "the reserve is 2 GiB");
        assert!(!at(3 * GIB, 1, 2 * GIB + 4), "there is room");
        assert!(!at(3 * GIB, 0, GIB), "it does not grow");
        assert!(!at(2 * GIB - 1, 1, GIB), "it is not what filled the disk");
        // At 1 GiB/s the reserve must hold for three seconds.
        assert!(at(3 * GIB, GIB, 5 * GIB) && !at(3 * GIB, GIB, 5 * GIB + 1));
        // A small file system: 5 %.
        let small = |free| sight(GIB, 1, space(6 * GIB, free));
        assert_eq!(judged(&small(6 * GIB / 20)), Verdict::End(Reason::Space));
        assert_eq!(judged(&small(GIB)), Verdict::Warn);
    }

    #[test]
    fn a_file_in_memory_is_a_reason_when_the_session_has_no_more() {
        let mut file = sight(200 * MIB, MIB, None);
        assert_eq!(verdict(&file, &budget(), true, false), Verdict::Quiet);
        file.in_memory = true;
        assert_eq!(verdict(&file, &budget(), false, false), Verdict::Quiet);
        assert_eq!(
            verdict(&file, &budget(), true, false),
            Verdict::End(Reason::Memory)
        );
        file.growth.is_growing = false;
        assert_eq!(verdict(&file, &budget(), true, false), Verdict::Quiet);
    }

    #[test]
    fn growth_is_the_last_interval_or_half_of_the_one_before() {
        let mut growth = Growth::default();
        growth.note(1_000, 10 * GIB);
        assert_eq!((growth.rate_bytes_s, growth.is_growing), (0, false));
        growth.note(1_000, 11 * GIB);
        assert_eq!(growth.bytes, 10 * GIB, "no time has passed");
        growth.note(1_500, 11 * GIB);
        assert_eq!((growth.rate_bytes_s, growth.is_growing), (2 * GIB, true));
        growth.note(2_500, 11 * GIB);
        assert_eq!((growth.rate_bytes_s, growth.is_growing), (GIB, false));
        // Truncated.
        growth.note(3_500, 0);
        assert_eq!((growth.bytes, growth.is_growing), (0, false));
    }

    /// A writer of constant speed that begins right after a look, on a file system of which nothing else is used.
    fn written_when_ended(rate: u64, total: u64, deaf: bool) -> (u64, u32) {
        let (mut now_ms, mut growth, mut looks) = (0, Growth::default(), 0);
        let file_at = |now_ms: u64| (rate * now_ms / 1000).min(total);
        let space_at = |now_ms: u64| Space {
            total_bytes: total,
            free_bytes: total - file_at(now_ms),
        };
        now_ms += next_space_ms(&space_at(0), 4_000);
        let mut asked_ms = None;
        loop {
            looks += 1;
            growth.note(now_ms, file_at(now_ms));
            let sight = Sight {
                growth,
                space: Some(space_at(now_ms)),
                in_memory: false,
            };
            let is_end = matches!(judged(&sight), Verdict::End(_));
            let asked = *asked_ms.get_or_insert(now_ms);
            if !is_end {
                asked_ms = None;
            } else if !deaf || now_ms >= asked + 2_000 || must_kill(&sight, &budget()) {
                return (file_at(now_ms), looks);
            }
            now_ms += next_look_ms(&sight, &budget(), 4_000);
        }
    }

    #[test]
    fn any_writer_is_stopped_before_the_disk_is_full_even_if_it_ignores_term() {
        for total in [GIB, 6 * GIB, 40 * GIB, 4096 * GIB] {
            for rate in [MIB, 50 * MIB, 300 * MIB, GIB] {
                for deaf in [false, true] {
                    let (written, looks) = written_when_ended(rate, total, deaf);
                    assert!(written < total, "{rate} {total} {deaf}");
                    // Nor far beyond its limit.
                    let most = 5 * GIB + 4 * rate;
                    assert!(written <= most, "{written} {rate} {total} {deaf}");
                    // A look costs some microseconds: a dozen a second at most.
                    let lasted_s = written / rate + 1;
                    assert!(u64::from(looks) <= 12 * lasted_s, "{looks} {rate} {total}");
                }
            }
        }
    }

    #[test]
    fn a_fall_of_free_space_is_news_when_it_is_worth_a_look() {
        let at = |free| space(100 * GIB, free).unwrap();
        assert!(!at(80 * GIB - 1).has_fallen(&at(80 * GIB)));
        assert!(at(78 * GIB).has_fallen(&at(80 * GIB)));
        assert!(!at(81 * GIB).has_fallen(&at(80 * GIB)));
        assert!(at(3 * GIB - FALL_MIN_BYTES).has_fallen(&at(3 * GIB)));
    }

    #[test]
    fn a_full_disk_and_an_empty_one_are_looked_at_rarely() {
        let ms = |total, free| next_space_ms(&space(total, free).unwrap(), 4_000);
        assert_eq!(ms(100 * GIB, GIB), 4_000, "nothing to lose");
        assert_eq!(ms(100 * GIB, 90 * GIB), 4_000);
        assert_eq!(ms(6 * GIB, GIB), 250);
        assert!((1_000..2_000).contains(&ms(6 * GIB, 6 * GIB)));
        let idle = sight(1, 0, None);
        assert_eq!(next_look_ms(&idle, &budget(), 4_000), 2_500);
        assert_eq!(next_look_ms(&idle, &Budget::default(), 4_000), 4_000);
    }
}
