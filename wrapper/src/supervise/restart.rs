//! When a session may be started again, and when it is given up. Pure: no clock, no process.

/// A life shorter than this is a short one. Short lives in a row mean that restarting doesn't help.
const SHORT_LIFE_MS: u64 = 60_000;
/// So many short lives in a row may be followed by another start.
const SHORT_LIVES: usize = 5;
/// Wait before the next start, by the number of short lives in a row.
const BACK_OFF_MS: [u64; SHORT_LIVES + 1] = [0, 0, 1_000, 2_000, 4_000, 8_000];

/// The lives of one session so far.
#[derive(Default)]
pub struct Budget {
    short_in_a_row: usize,
    restarts: u32,
}

/// Whether to start again.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// After this wait.
    StartIn {
        /// Milliseconds.
        delay_ms: u64,
    },
    /// The session came back to the limit this often in a row, each time within a minute.
    GiveUp {
        /// Number of lives.
        short_lives: usize,
    },
}

impl Budget {
    /// A life of this length ended at the memory limit.
    pub fn life_ended(&mut self, lived_ms: u64) -> Next {
        if lived_ms >= SHORT_LIFE_MS {
            self.short_in_a_row = 0;
        } else {
            self.short_in_a_row += 1;
        }
        if self.short_in_a_row > SHORT_LIVES {
            return Next::GiveUp {
                short_lives: self.short_in_a_row,
            };
        }
        self.restarts += 1;
        Next::StartIn {
            delay_ms: BACK_OFF_MS[self.short_in_a_row],
        }
    }

    /// How often the session was started again.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_later_ones_wait_longer_and_longer() {
        let mut budget = Budget::default();
        let mut last = 0;
        for round in 0..SHORT_LIVES {
            let Next::StartIn { delay_ms } = budget.life_ended(5_000) else {
                panic!("gave up in round {round}");
            };
            assert!(round > 0 || delay_ms == 0);
            assert!(delay_ms >= last);
            last = delay_ms;
        }
        assert!(last >= 4_000);
        assert_eq!(
            budget.life_ended(5_000),
            Next::GiveUp {
                short_lives: SHORT_LIVES + 1
            }
        );
        assert_eq!(budget.restarts(), 5);
    }

    #[test]
    fn a_long_life_makes_good_for_all_short_ones() {
        let mut budget = Budget::default();
        for _ in 0..100 {
            for _ in 0..SHORT_LIVES {
                assert!(matches!(
                    budget.life_ended(SHORT_LIFE_MS - 1),
                    Next::StartIn { .. }
                ));
            }
            assert_eq!(
                budget.life_ended(SHORT_LIFE_MS),
                Next::StartIn { delay_ms: 0 }
            );
        }
    }
}
