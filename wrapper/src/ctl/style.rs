//! How an answer looks: columns, and colour and blocks where somebody sees them.

use crate::os::terminal;

/// What the place that an answer goes to can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    /// Colour is used.
    colour: bool,
    /// It is a terminal that shows more than ASCII.
    pub(super) unicode: bool,
    /// Columns.
    pub(super) width: usize,
    /// Somebody reads it there: long lines are folded. For a program each stays one.
    folds: bool,
}

impl Default for Style {
    fn default() -> Style {
        Style {
            colour: false,
            unicode: false,
            width: WIDTH,
            folds: false,
        }
    }
}

/// Of what is no terminal.
pub(super) const WIDTH: usize = 80;

/// Does this locale have UTF-8? The first of the three that is set decides (locale(7)).
fn is_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &&str| variable(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set);
    let name = locale.unwrap_or_default().to_ascii_lowercase();
    name.ends_with("utf-8") || name.ends_with("utf8")
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
        let seen = terminal::is_terminal(1);
        let locale = |name: &str| std::env::var(name).ok();
        let size = terminal::size_of_stdout().filter(|(columns, _)| *columns > 0);
        Style {
            colour: seen && !refused && !dumb,
            unicode: seen && !dumb && is_utf8(locale),
            width: size.map_or(WIDTH, |(columns, _)| columns.into()),
            folds: seen && size.is_some(),
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

impl Style {
    /// Lines that are too long for the terminal, folded at blanks; what goes on stands further in. A word stays whole:
    /// a path is to be copied.
    pub(super) fn fold(self, text: &str) -> String {
        if !self.folds {
            return text.to_owned();
        }
        let mut folded = String::new();
        for line in text.split_inclusive('\n') {
            let indent = line.len() - line.trim_start_matches(' ').len();
            let mut used = indent;
            folded.push_str(&line[..indent]);
            for (at, word) in line[indent..].split_inclusive(' ').enumerate() {
                let wide = visible(word.trim_end());
                if at > 0 && used + wide > self.width {
                    folded.truncate(folded.trim_end_matches(' ').len());
                    used = indent + FOLD_INDENT;
                    folded.push_str(&format!("\n{:used$}", ""));
                }
                folded.push_str(word);
                used += visible(word);
            }
        }
        folded
    }
}

/// So much further in stands what was folded.
const FOLD_INDENT: usize = 4;

/// Columns that a word takes: without what switches colours.
fn visible(word: &str) -> usize {
    let mut is_code = false;
    let seen = word.chars().filter(|letter| {
        is_code |= *letter == '\u{1b}';
        let is_seen = !is_code && *letter != '\n';
        is_code &= *letter != 'm';
        is_seen
    });
    seen.count()
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

/// A moment, `2026-11-21 20:15:07 UTC`.
pub(super) fn moment(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // The calendar repeats every 400 years of 146097 days. Counted from 1 March of the year 0, the leap day is the last
    // day of its year.
    let days = days.min(1 << 40) + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let is_next_year = month >= 10;
    let month = if is_next_year { month - 9 } else { month + 3 };
    let year = era * 400 + year + u64::from(is_next_year);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Without what would draw on a terminal: each control character as `?`.
pub(super) fn plain(text: &str) -> String {
    let shown = |letter: char| if letter.is_control() { '?' } else { letter };
    text.chars().map(shown).collect()
}

/// How fast memory grows: whole MiB an hour, from 10 GiB on tenths of a GiB.
pub(super) fn growth(kib_h: Option<i64>) -> Option<String> {
    let mib = kib_h?.saturating_add(512).div_euclid(1024);
    if mib.unsigned_abs() < 10 << 10 {
        return Some(format!("{mib:+} MiB/h"));
    }
    let sign = if mib < 0 { '-' } else { '+' };
    let tenths = mib.unsigned_abs() * 10 / 1024;
    Some(format!("{sign}{}.{} GiB/h", tenths / 10, tenths % 10))
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
    fn growth_has_a_sign_and_the_unit_that_fits() {
        for (kib_h, says) in [
            (0, "+0 MiB/h"),
            (-1, "+0 MiB/h"),
            (300 << 10, "+300 MiB/h"),
            (-5 << 10, "-5 MiB/h"),
            (11_955 << 10, "+11.6 GiB/h"),
            (i64::MIN, "-8796093022208.0 GiB/h"),
        ] {
            assert_eq!(growth(Some(kib_h)).as_deref(), Some(says), "{kib_h}");
        }
        assert_eq!(growth(None), None);
    }

    #[test]
    fn a_moment_is_a_day_of_the_calendar() {
        for (unix_s, says) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (1_795_292_107, "2026-11-21 20:15:07 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(moment(unix_s), says);
        }
        moment(u64::MAX);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "bä", "c"], ["long", "", ""], ["x", "yyy", "z"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows, 1), " a     bä   c\n long\n x     yyy  z\n");
    }

    #[test]
    fn a_long_line_is_folded_at_blanks_for_those_who_read_it() {
        let text = "short\n  name  one two three\n  /a/path/that/is/long x\n";
        let style = Style {
            width: 16,
            ..Style::default()
        };
        assert_eq!(style.fold(text), text, "a program reads it");
        let folds = true;
        let style = Style { folds, ..style };
        let folded = "short\n  name  one two\n      three\n  /a/path/that/is/long\n      x\n";
        assert_eq!(style.fold(text), folded);
        // Colours take no room.
        let coloured = "  \u{1b}[32mname\u{1b}[0m one two t\n";
        assert_eq!(style.fold(coloured), coloured);
        assert_eq!(style.fold(""), "");
    }

    #[test]
    fn without_colour_text_stays_as_it_is() {
        let style = Style::default();
        assert_eq!(style.paint(Tone::Bad, "x"), "x");
        let colour = true;
        let style = Style { colour, ..style };
        assert_eq!(style.paint(Tone::Bad, "x"), "\u{1b}[33mx\u{1b}[0m");
    }

    #[test]
    fn the_first_locale_that_is_set_decides() {
        let with = |all: [&'static str; 3]| {
            is_utf8(|name| {
                let names = ["LC_ALL", "LC_CTYPE", "LANG"];
                let at = names.iter().position(|known| *known == name)?;
                Some(all[at].to_owned())
            })
        };
        assert!(with(["", "", "C.UTF-8"]) && with(["de_DE.utf8", "C", "C"]));
        assert!(
            !with(["C", "", "C.UTF-8"]) && !with(["", "", ""]) && !with(["", "POSIX", "x.UTF-8"])
        );
    }
}
