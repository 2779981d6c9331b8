//! How an answer looks: columns, and colour where somebody sees it.

/// Whether colour is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = " ".repeat(indent);
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width - cell.chars().count() + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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
