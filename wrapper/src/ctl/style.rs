//! How an answer looks: columns, and colour where somebody sees it.

/// Whether colour is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    colour: bool,
}

/// What a word says about the state of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Bad,
    Heading,
}

impl Style {
    /// Colour on a terminal, and not where `NO_COLOR` says otherwise or the terminal has none.
    pub(super) fn of_stdout() -> Style {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Style {
            colour: crate::os::terminal::is_terminal(1) && !refused && !dumb,
        }
    }

    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Bad => "33",
            Tone::Heading => "1",
        };
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Rows as aligned columns, `indent` blanks in; the last column is as long as it likes.
pub(super) fn columns<const N: usize>(rows: &[[String; N]], indent: usize) -> String {
    let rows: Vec<&[String]> = rows.iter().map(<[String; N]>::as_slice).collect();
    aligned(&rows, indent)
}

// One for all numbers of columns.
fn aligned(rows: &[&[String]], indent: usize) -> String {
    let mut widths = vec![0; rows.first().map_or(0, |row| row.len())];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(*row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = " ".repeat(indent);
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width - cell.chars().count() + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A size in the unit that fits: whole numbers below 10 GiB, tenths of a GiB above.
pub(super) fn size(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    if bytes < 10 * KIB {
        format!("{bytes} B")
    } else if bytes < 10 << 20 {
        format!("{} KiB", bytes / KIB)
    } else if bytes < 10 << 30 {
        format!("{} MiB", bytes >> 20)
    } else {
        let tenths = (bytes >> 20) * 10 / KIB;
        format!("{}.{} GiB", tenths / 10, tenths % 10)
    }
}

/// How long something has lasted, in its two largest units.
pub(super) fn age(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    if seconds < 60 {
        format!("{seconds} s")
    } else if minutes < 60 {
        format!("{minutes} min")
    } else if hours < 24 {
        format!("{hours} h {} min", minutes % 60)
    } else {
        format!("{} d {} h", hours / 24, hours % 24)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_told_in_the_unit_that_fits() {
        for (bytes, says) in [
            (0, "0 B"),
            (10_239, "10239 B"),
            (10_240, "10 KiB"),
            ((10 << 20) - 1, "10239 KiB"),
            (10 << 20, "10 MiB"),
            ((10 << 30) - 1, "10239 MiB"),
            (10 << 30, "10.0 GiB"),
            (u64::MAX, "17179869183.9 GiB"),
        ] {
            assert_eq!(size(bytes), says);
        }
        for (seconds, says) in [
            (59, "59 s"),
            (60, "1 min"),
            (3_599, "59 min"),
            (11_520, "3 h 12 min"),
            (187_200, "2 d 4 h"),
        ] {
            assert_eq!(age(seconds), says);
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "bä", "c"], ["long", "", ""], ["x", "yyy", "z"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows, 1), " a     bä   c\n long\n x     yyy  z\n");
    }

    #[test]
    fn without_colour_text_stays_as_it_is() {
        assert_eq!(Style { colour: false }.paint(Tone::Bad, "x"), "x");
        assert_eq!(
            Style { colour: true }.paint(Tone::Bad, "x"),
            "\u{1b}[33mx\u{1b}[0m"
        );
    }
}
