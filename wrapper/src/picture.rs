//! Draws memory over time as one self-contained SVG: curves, limits, events. Whole numbers only; no script, nothing
//! loaded from elsewhere; legible on light and on dark ground. Never looks at a clock or a file.

use crate::notice::memory;

/// Everything that is drawn.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Above the plot.
    pub title: String,
    /// Under the title; may be empty.
    pub subtitle: String,
    /// At most one of each tone.
    pub curves: Vec<Curve>,
    /// Levels, KiB, with their names. One that is far above every curve is named and not drawn.
    pub limits: Vec<(String, u64)>,
    /// Moments, milliseconds from the left edge, with what happened.
    pub events: Vec<(u64, String)>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Curve {
    /// For the legend.
    pub name: String,
    /// How it looks.
    pub tone: Tone,
    /// Milliseconds from the left edge, KiB; in the order of time.
    pub points: Vec<(u64, u64)>,
}

/// How a curve looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// A line with a filled area.
    Main,
    /// A line, in the colour of warnings.
    Other,
    /// A thin line.
    Aside,
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Tone::Main => "main",
            Tone::Other => "other",
            Tone::Aside => "aside",
        }
    }
}

const WIDTH: u64 = 1600;
const HEIGHT: u64 = 760;
const LEFT: u64 = 150;
const RIGHT: u64 = 1560;
const TOP: u64 = 120;
const BOTTOM: u64 = 620;

/// A limit is drawn if the highest curve comes to so many parts of it.
const NEAR: u64 = 4;

/// So near to an edge a centred name would be cut off.
const EDGE: u64 = 120;

const STYLE: &str = "\
text{font:24px system-ui,sans-serif;fill:#1f2328}.title{font-size:32px;font-weight:600}.small{fill:#59636e}\
.grid{stroke:#d1d9e0;stroke-width:2}.axis{stroke:#59636e;stroke-width:3}\
.main{stroke:#0969da;stroke-width:5;fill:none}.area{fill:#0969da;fill-opacity:.14}\
.other{stroke:#cf222e;stroke-width:5;fill:none}.aside{stroke:#1a7f37;stroke-width:3;fill:none}\
.limit{stroke:#9a6700;stroke-width:3;stroke-dasharray:14 10}.event{stroke:#8250df;stroke-width:3;stroke-dasharray:4 8}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.grid{stroke:#3d444d}.axis{stroke:#9198a1}\
.main{stroke:#4493f8}.area{fill:#4493f8}.other{stroke:#f85149}.aside{stroke:#3fb950}.limit{stroke:#d29922}\
.event{stroke:#ab7df8}}";

/// Text between tags and in attributes. Control characters, which XML 1.0 forbids, become `?`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => out.push('?'),
            letter if letter.is_control() => out.push('?'),
            letter => out.push(letter),
        }
    }
    out
}

/// Where values come to lie.
#[derive(Clone, Copy)]
struct Scale {
    span_ms: u64,
    top_kib: u64,
}

impl Scale {
    fn x(self, at_ms: u64) -> u64 {
        let along = u128::from(at_ms.min(self.span_ms)) * u128::from(RIGHT - LEFT);
        LEFT + (along / u128::from(self.span_ms)) as u64
    }

    fn y(self, kib: u64) -> u64 {
        let up = u128::from(kib.min(self.top_kib)) * u128::from(BOTTOM - TOP);
        BOTTOM - (up / u128::from(self.top_kib)) as u64
    }
}

/// Steps of the time axis, seconds.
const TIME_STEPS_S: [u64; 17] = [
    1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 28_800, 86_400,
];

fn time_step_s(span_s: u64) -> u64 {
    let fits = |step: &&u64| span_s / **step <= 8;
    let days = span_s / 86_400 / 8 + 1;
    TIME_STEPS_S
        .iter()
        .find(fits)
        .copied()
        .unwrap_or(days * 86_400)
}

fn time_label(at_s: u64, step_s: u64) -> String {
    match step_s {
        0..60 => format!("{at_s} s"),
        60..3600 => format!("{} min", at_s / 60),
        3600..86_400 => format!("{} h", at_s / 3600),
        _ => format!("{} d", at_s / 86_400),
    }
}

/// A power of two that divides the height into four to eight parts, KiB.
fn memory_step_kib(most_kib: u64) -> u64 {
    (most_kib / 8)
        .max(1)
        .checked_next_power_of_two()
        .unwrap_or(1 << 63)
}

fn memory_label(kib: u64) -> String {
    match kib {
        kib if kib >= 1 << 20 && kib % (1 << 20) == 0 => format!("{} GiB", kib >> 20),
        kib if kib >= 1 << 10 || kib == 0 => format!("{} MiB", kib >> 10),
        kib => format!("{kib} KiB"),
    }
}

/// The picture as the text of a file.
pub fn svg(picture: &Picture) -> String {
    let points = || picture.curves.iter().flat_map(|curve| &curve.points);
    let most_kib = points().map(|(_, kib)| *kib).max().unwrap_or(0).max(1);
    let span_ms = points()
        .map(|(at_ms, _)| *at_ms)
        .max()
        .unwrap_or(0)
        .max(1000);
    let (drawn, far): (Vec<_>, Vec<_>) =
        (picture.limits.iter()).partition(|(_, kib)| most_kib >= kib / NEAR);
    let most_kib = drawn.iter().map(|(_, kib)| *kib).fold(most_kib, u64::max);
    let step_kib = memory_step_kib(most_kib);
    let scale = Scale {
        span_ms,
        top_kib: most_kib.div_ceil(step_kib).saturating_mul(step_kib),
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\">\n\
         <title>{0}</title>\n<style>{STYLE}</style>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"50\">{0}</text>\n",
        escaped(&picture.title)
    );
    let mut subtitle = picture.subtitle.clone();
    for (number, (name, kib)) in far.iter().enumerate() {
        let before = match (number, subtitle.is_empty()) {
            (0, true) => "above the picture: ",
            (0, false) => "; above the picture: ",
            _ => ", ",
        };
        subtitle.push_str(&format!("{before}{name} {}", memory(*kib)));
    }
    text(&mut out, "small", LEFT, 88, "start", &subtitle);
    axes(&mut out, scale, step_kib);
    for curve in &picture.curves {
        draw(&mut out, scale, curve);
    }
    for (name, kib) in drawn {
        let y = scale.y(*kib);
        line(&mut out, "limit", (LEFT, y), (RIGHT, y));
        let label = format!("{name}, {}", memory(*kib));
        text(&mut out, "small", LEFT + 12, y - 10, "start", &label);
    }
    let mut free_from = 0;
    for (at_ms, what) in &picture.events {
        let x = scale.x(*at_ms);
        line(&mut out, "event", (x, TOP), (x, BOTTOM));
        // Names that would lie on each other are left out; the lines tell the moments.
        if x >= free_from {
            // At the edges, towards the middle.
            let anchor = match x {
                x if x < LEFT + EDGE => "start",
                x if x > RIGHT - EDGE => "end",
                _ => "middle",
            };
            text(&mut out, "small", x, TOP - 8, anchor, what);
            free_from = x + 14 * what.chars().count() as u64;
        }
    }
    let mut x = LEFT;
    for curve in &picture.curves {
        line(
            &mut out,
            curve.tone.class(),
            (x, HEIGHT - 40),
            (x + 60, HEIGHT - 40),
        );
        text(&mut out, "", x + 75, HEIGHT - 32, "start", &curve.name);
        x += 130 + 14 * curve.name.chars().count() as u64;
    }
    out.push_str("</svg>\n");
    out
}

fn line(out: &mut String, class: &str, from: (u64, u64), to: (u64, u64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    out.push_str(&format!(
        "<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>\n"
    ));
}

fn text(out: &mut String, class: &str, x: u64, y: u64, anchor: &str, what: &str) {
    if !what.is_empty() {
        let what = escaped(what);
        out.push_str(&format!(
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{what}</text>\n"
        ));
    }
}

fn axes(out: &mut String, scale: Scale, step_kib: u64) {
    let mut kib = 0;
    while kib <= scale.top_kib {
        let y = scale.y(kib);
        line(out, "grid", (LEFT, y), (RIGHT, y));
        text(out, "small", LEFT - 14, y + 8, "end", &memory_label(kib));
        let Some(next) = kib.checked_add(step_kib) else {
            break;
        };
        kib = next;
    }
    let span_s = scale.span_ms / 1000;
    let step_s = time_step_s(span_s);
    for at_s in (0..=span_s).step_by(step_s as usize) {
        let x = scale.x(at_s.saturating_mul(1000));
        line(out, "axis", (x, BOTTOM), (x, BOTTOM + 10));
        text(
            out,
            "small",
            x,
            BOTTOM + 40,
            "middle",
            &time_label(at_s, step_s),
        );
    }
    line(out, "axis", (LEFT, BOTTOM), (RIGHT, BOTTOM));
    line(out, "axis", (LEFT, TOP), (LEFT, BOTTOM));
}

fn draw(out: &mut String, scale: Scale, curve: &Curve) {
    let places = thinned(scale, &curve.points);
    let (Some(first), Some(last)) = (places.first(), places.last()) else {
        return;
    };
    let list: Vec<String> = places.iter().map(|(x, y)| format!("{x},{y}")).collect();
    let list = list.join(" ");
    if curve.tone == Tone::Main {
        out.push_str(&format!(
            "<polygon class=\"area\" points=\"{},{BOTTOM} {list} {},{BOTTOM}\"/>\n",
            first.0, last.0
        ));
    }
    let class = curve.tone.class();
    out.push_str(&format!(
        "<polyline class=\"{class}\" points=\"{list}\"/>\n"
    ));
}

/// Of all points that fall on one x: the first, the highest, the last.
fn thinned(scale: Scale, points: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut places: Vec<(u64, u64)> = Vec::new();
    let place = |(at_ms, kib): &(u64, u64)| (scale.x(*at_ms), scale.y(*kib));
    let mut rest = points;
    while let Some(first) = rest.first() {
        let x = place(first).0;
        let count = rest.iter().take_while(|point| place(point).0 == x).count();
        let (here, after) = rest.split_at(count);
        let highest = here.iter().max_by_key(|(_, kib)| *kib);
        for point in [here.first(), highest, here.last()].into_iter().flatten() {
            if places.last() != Some(&place(point)) {
                places.push(place(point));
            }
        }
        rest = after;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Picture {
        Picture {
            title: "A <leak> & \"more\"\u{7}".to_owned(),
            subtitle: String::new(),
            curves: vec![
                Curve {
                    name: "with".to_owned(),
                    tone: Tone::Main,
                    points: vec![(0, 0), (50_000, 512 << 10), (100_000, 256 << 10)],
                },
                Curve {
                    name: "without".to_owned(),
                    tone: Tone::Other,
                    points: vec![(0, 0), (100_000, 1 << 20)],
                },
            ],
            limits: vec![
                ("tier 2".to_owned(), 512 << 10),
                ("far".to_owned(), 5 << 20),
            ],
            events: vec![
                (50_000, "restart".to_owned()),
                (51_000, "hidden".to_owned()),
            ],
        }
    }

    /// Each tag is closed in its order, and no bare `&` or `<` stands in a text.
    fn assert_well_formed(xml: &str) {
        let mut open: Vec<&str> = Vec::new();
        for part in xml.split('<').skip(1) {
            let (tag, text) = part.split_once('>').unwrap_or_else(|| panic!("{part}"));
            for entity in text.split('&').skip(1) {
                let known = ["amp;", "lt;", "gt;", "quot;"];
                assert!(
                    known.iter().any(|known| entity.starts_with(known)),
                    "{text}"
                );
            }
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap());
            }
        }
        assert_eq!(open, Vec::<&str>::new());
    }

    #[test]
    fn it_is_well_formed_and_says_what_it_was_told() {
        let drawn = svg(&picture());
        assert_well_formed(&drawn);
        for said in [
            "A &lt;leak&gt; &amp; &quot;more&quot;?",
            ">tier 2, 512 MiB<",
            ">above the picture: far 5120 MiB<",
            ">restart<",
            ">with<",
            ">without<",
            ">1 GiB<",
            ">0 MiB<",
            ">100 s<",
            "prefers-color-scheme:dark",
        ] {
            assert!(drawn.contains(said), "{said} in {drawn}");
        }
        assert!(!drawn.contains("hidden"));
        assert_well_formed(&svg(&Picture::default()));
    }

    #[test]
    fn values_lie_where_the_axes_say() {
        let drawn = svg(&picture());
        // 1 GiB is the top: half of it lies half way up, at half the time.
        let (middle_x, middle_y) = ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2);
        let quarter_y = BOTTOM - (BOTTOM - TOP) / 4;
        assert!(drawn.contains(&format!(
            "<polyline class=\"main\" points=\"{LEFT},{BOTTOM} {middle_x},{middle_y} {RIGHT},{quarter_y}\"/>"
        )));
        assert!(drawn.contains(&format!(
            "<polyline class=\"other\" points=\"{LEFT},{BOTTOM} {RIGHT},{TOP}\"/>"
        )));
        assert!(drawn.contains(&format!(
            "<line class=\"limit\" x1=\"{LEFT}\" y1=\"{middle_y}\" x2=\"{RIGHT}\" y2=\"{middle_y}\"/>"
        )));
        assert!(drawn.contains(&format!(
            "<line class=\"event\" x1=\"{middle_x}\" y1=\"{TOP}\" x2=\"{middle_x}\" y2=\"{BOTTOM}\"/>"
        )));
    }

    #[test]
    fn a_long_history_is_thinned_and_keeps_its_peaks() {
        let mut points: Vec<(u64, u64)> = (0..100_000).map(|n| (n * 1000, 1 << 10)).collect();
        points[50_000].1 = 1 << 20;
        let scale = Scale {
            span_ms: 99_999_000,
            top_kib: 1 << 20,
        };
        let places = thinned(scale, &points);
        assert!(places.len() < 3 * (RIGHT - LEFT) as usize);
        assert!(places.iter().any(|(_, y)| *y == TOP));
    }

    #[test]
    fn ticks_are_few_and_numbers_of_any_size_break_nothing() {
        for span_s in [1, 59, 61, 3_599, 86_399, 1 << 30] {
            let step_s = time_step_s(span_s);
            assert!(span_s / step_s <= 8, "{span_s}");
        }
        for kib in [1, 8, 1000, 1 << 20, 63 << 20, u64::MAX] {
            assert!(kib.div_ceil(memory_step_kib(kib)) <= 8, "{kib}");
        }
        let mut huge = picture();
        huge.curves[0].points = vec![(0, u64::MAX), (u64::MAX, 0)];
        huge.limits.push(("odd".to_owned(), u64::MAX));
        assert_well_formed(&svg(&huge));
    }
}
