//! When descriptors are worth a word, and what the word is. Pure: no clock, no system, nothing but `std`, so that the
//! program for macOS is made of this very file (wrapper/macos), and is tested here.

/// Pseudo-terminals of the whole machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ceiling {
    /// In use. `None`: not told.
    pub used: Option<u64>,
    /// How many there may be. `None`: not told.
    pub max: Option<u64>,
}

impl Ceiling {
    /// From this number on the machine is near its end of them.
    #[must_use]
    pub fn near(&self) -> Option<u64> {
        self.max.map(near)
    }
}

/// 80 % of a limit.
#[must_use]
pub fn near(limit: u64) -> u64 {
    // Not `limit * 80 / 100`: that overflows for the largest limits.
    limit - limit / 5
}

/// Something is said once, when a number reaches a threshold, and again only after it has been well below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Episode {
    is_on: bool,
}

impl Episode {
    /// One that was on, or not, in an earlier run.
    #[must_use]
    pub fn resumed(is_on: bool) -> Episode {
        Episode { is_on }
    }

    /// Takes the number of now. True: an episode begins, say it. It lasts until the number is below 90 % of the
    /// threshold: one that swings about it is one episode.
    pub fn begins(&mut self, number: u64, threshold: u64) -> bool {
        let was_on = self.is_on;
        self.is_on = number >= threshold || (was_on && number >= threshold - threshold / 10);
        self.is_on && !was_on
    }

    /// Does it last?
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.is_on
    }
}

/// A process and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: i32,
    /// Its command line or program, fit to be shown.
    pub command: String,
    /// Open descriptors of any kind.
    pub open: u64,
    /// How many it may have. `None`: unlimited, or not told.
    pub limit: Option<u64>,
    /// Masters of pseudo-terminals.
    pub ptmx: u64,
}

/// Most pseudo-terminals first, then most descriptors; the same order in every run.
pub fn sort(holders: &mut [Holder]) {
    holders.sort_unstable_by_key(|holder| {
        use std::cmp::Reverse;
        (Reverse(holder.ptmx), Reverse(holder.open), holder.pid)
    });
}

/// One process holds too many pseudo-terminals.
#[must_use]
pub fn many_terminals(holder: &Holder, ceiling: &Ceiling) -> String {
    let of_all = match ceiling {
        Ceiling {
            used: Some(used),
            max: Some(max),
        } => format!(" (the machine: {used} of {max} in use)"),
        _ => String::new(),
    };
    format!(
        "{} (pid {}) holds {} pseudo-terminals and does not close them{of_all}",
        holder.command, holder.pid, holder.ptmx
    )
}

/// The machine runs out of pseudo-terminals; `most` holds the most, as far as can be seen.
#[must_use]
pub fn machine_is_nearly_out(ceiling: &Ceiling, most: Option<&Holder>) -> String {
    let (used, max) = (ceiling.used.unwrap_or(0), ceiling.max.unwrap_or(0));
    let most = match most.filter(|most| most.ptmx > 0) {
        Some(most) => format!(
            "{} (pid {}) holds the most, {}",
            most.command, most.pid, most.ptmx
        ),
        None => "no process that we may look into holds any".to_owned(),
    };
    format!("{used} of the {max} pseudo-terminals of this machine are in use: {most}")
}

/// One process is about to be refused further files.
#[must_use]
pub fn nearly_no_descriptors(holder: &Holder) -> String {
    format!(
        "{} (pid {}) has {} of its {} file descriptors open",
        holder.command,
        holder.pid,
        holder.open,
        holder.limit.unwrap_or(0)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_episode_is_said_once_and_again_only_after_it_was_over() {
        let mut episode = Episode::default();
        let said: Vec<u64> = [99, 100, 500, 91, 100, 90, 100, 89, 99, 100, 101]
            .into_iter()
            .filter(|number| episode.begins(*number, 100))
            .collect();
        assert_eq!(said, [100, 100]);
        // A threshold of 1 is over at 0 only.
        let mut one = Episode::default();
        assert!(one.begins(1, 1) && !one.begins(2, 1) && !one.begins(0, 1) && one.begins(1, 1));
        let mut largest = Episode::default();
        assert!(!largest.begins(u64::MAX - 1, u64::MAX) && largest.begins(u64::MAX, u64::MAX));
    }

    #[test]
    fn near_is_four_fifths() {
        for (limit, at) in [(4096, 3277), (511, 409), (1024, 820), (1, 1), (0, 0)] {
            assert_eq!(near(limit), at, "{limit}");
        }
        assert!(near(u64::MAX) > u64::MAX / 2);
        let told = Ceiling {
            used: Some(1),
            max: Some(100),
        };
        assert_eq!((told.near(), Ceiling::default().near()), (Some(80), None));
    }

    fn holder(pid: i32, ptmx: u64, open: u64) -> Holder {
        Holder {
            pid,
            command: format!("\"p{pid}\""),
            open,
            limit: Some(1024),
            ptmx,
        }
    }

    #[test]
    fn the_worst_stands_first_and_equals_keep_their_order() {
        let mut all = [
            holder(4, 0, 9),
            holder(2, 0, 9),
            holder(3, 7, 8),
            holder(1, 0, 90),
        ];
        sort(&mut all);
        assert_eq!(all.map(|holder| holder.pid), [3, 1, 2, 4]);
    }

    #[test]
    fn each_word_names_who_and_how_many() {
        let ceiling = Ceiling {
            used: Some(410),
            max: Some(511),
        };
        let leaker = holder(42, 100, 120);
        assert_eq!(
            many_terminals(&leaker, &ceiling),
            "\"p42\" (pid 42) holds 100 pseudo-terminals and does not close them (the machine: 410 of 511 in use)"
        );
        assert_eq!(
            many_terminals(&leaker, &Ceiling::default()),
            "\"p42\" (pid 42) holds 100 pseudo-terminals and does not close them"
        );
        assert_eq!(
            machine_is_nearly_out(&ceiling, Some(&leaker)),
            "410 of the 511 pseudo-terminals of this machine are in use: \"p42\" (pid 42) holds the most, 100"
        );
        let unseen = machine_is_nearly_out(&ceiling, Some(&holder(1, 0, 3)));
        assert!(unseen.ends_with("holds any"), "{unseen}");
        assert_eq!(
            nearly_no_descriptors(&holder(42, 0, 900)),
            "\"p42\" (pid 42) has 900 of its 1024 file descriptors open"
        );
    }
}
