//! Every process with what it holds, as `claude-safectl pty` shows it. Pure and without anything but `std`, as
//! [`super::judgement`]: the program for macOS shows the same.

use super::judgement::{Ceiling, Holder, near};

/// Everybody whom we may look into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The worst first ([`super::judgement::sort`]).
    pub holders: Vec<Holder>,
    /// Processes that don't let us.
    pub not_readable: u64,
    /// Of the machine.
    pub ceiling: Ceiling,
}

impl Table {
    /// Pseudo-terminals of all of them.
    #[must_use]
    pub fn ptmx(&self) -> u64 {
        self.holders.iter().map(|holder| holder.ptmx).sum()
    }

    /// Descriptors of all of them.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.holders.iter().map(|holder| holder.open).sum()
    }

    /// Does anybody hold so many that it is to be said?
    #[must_use]
    pub fn is_trouble(&self, pty_warn: u64) -> bool {
        let many = |holder: &Holder| holder.ptmx >= pty_warn || is_nearly_out(holder);
        self.holders.iter().any(many)
            || (self.ceiling.used.zip(self.ceiling.near())).is_some_and(|(used, near)| used >= near)
    }

    /// For people, on 80 columns: those that hold a pseudo-terminal or are nearly out of descriptors.
    #[must_use]
    pub fn in_words(&self) -> String {
        let mut text = String::new();
        let told = |holder: &&Holder| holder.ptmx > 0 || is_nearly_out(holder);
        for holder in self.holders.iter().filter(told) {
            if text.is_empty() {
                text.push_str("  ptys  descriptors  of at most      pid  process\n");
            }
            let limit = holder
                .limit
                .map_or("-".to_owned(), |limit| limit.to_string());
            text.push_str(&format!(
                "{:>6}  {:>11}  {limit:>10}  {:>7}  {}\n",
                holder.ptmx,
                holder.open,
                holder.pid,
                cut(&holder.command)
            ));
        }
        let count = self.holders.len();
        text.push_str(&format!(
            "{} pseudo-terminals and {} descriptors in {count} processes",
            self.ptmx(),
            self.open()
        ));
        if self.not_readable > 0 {
            text.push_str(&format!("; {} not readable", self.not_readable));
        }
        if let Ceiling {
            used: Some(used),
            max: Some(max),
        } = self.ceiling
        {
            text.push_str(&format!(
                "\nthe machine: {used} of {max} pseudo-terminals in use"
            ));
        }
        text.push('\n');
        text
    }
}

fn is_nearly_out(holder: &Holder) -> bool {
    holder.limit.is_some_and(|limit| holder.open >= near(limit))
}

/// What is left of 80 columns.
fn cut(command: &str) -> String {
    const ROOM: usize = 36;
    match command.char_indices().nth(ROOM) {
        None => command.to_owned(),
        // One place is the mark's.
        Some(_) => command.chars().take(ROOM - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let holder = |pid, ptmx, open, limit, command: &str| Holder {
            pid,
            command: command.to_owned(),
            open,
            limit,
            ptmx,
        };
        Table {
            holders: vec![
                holder(4_194_303, 98, 120, None, &"x".repeat(60)),
                holder(7, 1, 9, Some(1024), "\"sh\""),
                holder(8, 0, 820, Some(1024), "\"db\""),
                holder(9, 0, 819, Some(1024), "\"well\""),
            ],
            not_readable: 2,
            ceiling: Ceiling {
                used: Some(99),
                max: Some(4096),
            },
        }
    }

    #[test]
    fn the_table_names_who_holds_what_on_80_columns() {
        let text = table().in_words();
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines.iter().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert_eq!(lines.len(), 6, "{text}");
        assert!(lines[1].starts_with("    98          120           -  4194303  xxx"));
        assert!(lines[3].ends_with("8  \"db\""), "{text}");
        assert!(!text.contains("well"));
        assert_eq!(
            lines[4..],
            [
                "99 pseudo-terminals and 1768 descriptors in 4 processes; 2 not readable",
                "the machine: 99 of 4096 pseudo-terminals in use"
            ]
        );
        let none = Table::default().in_words();
        assert_eq!(
            none,
            "0 pseudo-terminals and 0 descriptors in 0 processes\n"
        );
    }

    #[test]
    fn trouble_is_a_holder_of_many_one_nearly_out_or_the_machine() {
        let mut table = table();
        assert!(table.is_trouble(1000), "820 of 1024 descriptors");
        table.holders.remove(2);
        assert!(table.is_trouble(98) && !table.is_trouble(99));
        table.ceiling.used = Some(3277);
        assert!(table.is_trouble(1000));
    }
}
