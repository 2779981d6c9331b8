//! Memory over time in a few lines of text, with the limits that are near. Blocks where the terminal has them, `.:#`
//! elsewhere. Pure.

use super::style::size;
use crate::history::{Header, Point, analysis};

/// How it is to look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// The whole width, labels and all.
    pub(super) width: usize,
    /// Without the line under it.
    pub(super) rows: usize,
    pub(super) unicode: bool,
    /// The time of the right edge, milliseconds since 1970.
    pub(super) now_unix_ms: u64,
    pub(super) span_ms: u64,
}

/// Blanks, the label of the scale, the axis: left of the curve.
const LEFT: usize = 2 + 9 + 2;
/// The names of limits, right of it.
const RIGHT: usize = 16;
/// Below this width there is room for the curve only.
const NARROW: usize = LEFT + RIGHT + 10;
/// A limit is near if the highest value comes to so many parts of it.
const NEAR: u64 = 4;

const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const DOTS: [char; 4] = [' ', '.', ':', '#'];

/// The limits of a session that has them.
pub(super) fn limits(header: &Header) -> Vec<(&'static str, u64)> {
    let all = [
        ("tier 1", header.tier_1_kib),
        ("warning", header.warn_kib),
        ("tier 2", header.tier_2_kib),
    ];
    all.into_iter().filter(|(_, kib)| *kib > 0).collect()
}

/// What the top of the scale is: the nearest limit above everything that was seen, if it is near.
fn top_kib(most_kib: u64, limits: &[(&'static str, u64)]) -> u64 {
    let above = limits
        .iter()
        .map(|(_, kib)| *kib)
        .filter(|kib| *kib >= most_kib);
    match above.min() {
        Some(limit) if most_kib >= limit / NEAR => limit,
        _ => most_kib.saturating_add(most_kib / 4).max(1),
    }
}

/// The lines.
pub(super) fn draw(points: &[Point], limits: &[(&'static str, u64)], frame: Frame) -> Vec<String> {
    let is_narrow = frame.width < NARROW;
    let columns = if is_narrow {
        frame.width
    } else {
        frame.width - LEFT - RIGHT
    };
    let values = analysis::columns(points, frame.now_unix_ms, frame.span_ms, columns);
    let most_kib = values.iter().flatten().copied().max().unwrap_or(0);
    let top_kib = top_kib(most_kib, limits);
    let signs: &[char] = if frame.unicode { &BLOCKS } else { &DOTS };
    let (parts, dash) = (signs.len() - 1, if frame.unicode { '╌' } else { '-' });
    let steps = frame.rows * parts;
    let height = |kib: u64| {
        let scaled = u128::from(kib.min(top_kib)) * steps as u128;
        scaled.div_ceil(u128::from(top_kib)) as usize
    };
    let mut lines = Vec::with_capacity(frame.rows + 1);
    for row in (0..frame.rows).rev() {
        let below = row * parts;
        let mut names: Vec<&str> = Vec::new();
        for (name, kib) in limits {
            if *kib <= top_kib && (below + 1..=below + parts).contains(&height(*kib)) {
                names.push(name);
            }
        }
        let empty = if names.is_empty() { ' ' } else { dash };
        let mut line = String::new();
        if !is_narrow {
            let label = match row {
                _ if row + 1 == frame.rows => size(top_kib.saturating_mul(1024)),
                0 => "0".to_owned(),
                _ => String::new(),
            };
            line.push_str(&format!("  {label:>9} |"));
        }
        for value in &values {
            let filled = value
                .map_or(0, |kib| height(kib).max(1))
                .saturating_sub(below);
            line.push(match filled {
                0 => empty,
                filled => signs[filled.min(parts)],
            });
        }
        if !is_narrow && !names.is_empty() {
            line.push(' ');
            // The names of limits that lie together, as many as there is room for.
            let names = names.join(", ");
            line.extend(names.chars().take(RIGHT - 1));
        }
        lines.push(line.trim_end().to_owned());
    }
    if !is_narrow {
        let from = format!("-{} min", frame.span_ms / 60_000);
        let gap = columns.saturating_sub(from.len() + 3).max(1);
        let blank = " ".repeat(LEFT - 1);
        lines.push(format!("{blank} {from}{}now", " ".repeat(gap)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: [(&str, u64); 3] = [("tier 1", 400), ("warning", 600), ("tier 2", 800)];

    fn points(values: &[u64]) -> Vec<Point> {
        let at = |number: usize| number as u64 * 60_000 + 1;
        let each = values.iter().enumerate();
        each.map(|(number, kib)| Point {
            at_unix_ms: at(number),
            total_kib: *kib,
            ..Point::default()
        })
        .collect()
    }

    fn frame(width: usize, unicode: bool) -> Frame {
        Frame {
            width,
            rows: 4,
            unicode,
            now_unix_ms: 10 * 60_000,
            span_ms: 10 * 60_000,
        }
    }

    #[test]
    fn it_shows_height_limits_and_scale_in_both_alphabets() {
        let points = points(&[100, 200, 300, 400, 500, 600, 700, 800, 10, 10]);
        let drawn = draw(&points, &LIMITS, frame(LEFT + 10 + RIGHT, false));
        assert_eq!(
            drawn,
            [
                "    800 KiB |------:#-- tier 2",
                "            |----:###-- warning",
                "            |--:#####-- tier 1",
                "          0 |:#######..",
                "             -10 min now",
            ]
        );
        let drawn = draw(&points, &LIMITS, frame(LEFT + 10 + RIGHT, true));
        assert_eq!(drawn[0], "    800 KiB |╌╌╌╌╌╌▄█╌╌ tier 2");
        assert_eq!(drawn[3], "          0 |▄███████▁▁");
    }

    #[test]
    fn a_limit_that_is_far_is_not_what_the_scale_is_made_for() {
        let drawn = draw(&points(&[100]), &LIMITS[1..], frame(60, false));
        assert!(drawn[0].starts_with("    125 KiB"), "{drawn:?}");
        assert!(!drawn.concat().contains("warning"));
    }

    #[test]
    fn no_width_breaks_it_and_none_is_passed() {
        let points = points(&[100, 900]);
        for width in 0..130 {
            for rows in 0..6 {
                let frame = Frame {
                    rows,
                    ..frame(width, true)
                };
                for line in draw(&points, &LIMITS, frame) {
                    assert!(line.chars().count() <= width, "{width}: {line:?}");
                }
            }
        }
        let none = draw(&[], &[], frame(80, true));
        assert_eq!(none.len(), 5);
    }
}
