//! A statistics page in words and in JSON: pure functions of what was read. Every number of a page may be
//! anything; nothing here can overflow.

use super::resident::{Part, Resident};
use super::style::{Style, Tone, columns, size};
use crate::guard_page::{Reading, state_in_words};
use crate::json::{self, json};
use crate::stats_page::{CLASSES, Choice, ClassCounts, KINDS, KindState, RegionState, State, Usr1};
use serde_json::Value;

/// Regions that the words show; JSON has all.
const REGIONS_SHOWN: usize = 8;

/// Kinds of regions by their number in the page: for people, and as a key.
const KIND_NAMES: [(&str, &str); KINDS] = [
    ("arena", "arena"),
    ("JS heap", "js_heap"),
    ("stack", "stack"),
    ("other", "other"),
];

/// The guard's system calls that may fail, by their number in the page less one (`os::Call`).
const CALLS: [(&str, &str); 7] = [
    ("MapStatsPage", "mapping the statistics page"),
    ("Reserve", "reserving address space for the pool"),
    ("MakeUsable", "making a part of the pool usable"),
    ("ReleasePages", "giving pages of the pool back"),
    ("ReadStatm", "reading /proc/self/statm"),
    ("OpenLog", "opening the log"),
    ("AppendLine", "writing to the log"),
];

/// How fast the live counts grow, objects per second, class by class. `None`: not known.
pub(super) type Rates = [Option<i64>; CLASSES];

/// What is told of one session.
pub(super) struct View<'a> {
    /// Its page.
    pub(super) reading: &'a Reading,
    /// From this reading and an earlier one.
    pub(super) rates: &'a Rates,
    /// What the kernel says now, where it was asked.
    pub(super) now: Option<&'a Resident>,
}

/// What the allocator takes for a request of `size` bytes. glibc's rule: 8 bytes more, rounded up to 16,
/// at least 32.
fn chunk_bytes(size: u64) -> u64 {
    (size
        .saturating_add(8)
        .checked_next_multiple_of(16)
        .unwrap_or(u64::MAX))
    .max(32)
}

/// The requests that share the chunk of `size`: 153..168 for 160.
pub(super) fn range_of(size: u64) -> (u64, u64) {
    let chunk = chunk_bytes(size);
    let from = if chunk == 32 { 0 } else { chunk - 23 };
    (from, chunk - 8)
}

/// The most that the live objects of a class take. In the pool, which has no headers and rounds each request up to 16,
/// it is less by up to 16 for each.
fn live_bytes_at_most(class: &ClassCounts) -> u64 {
    class.live().saturating_mul(chunk_bytes(class.size))
}

fn watched(reading: &Reading) -> impl Iterator<Item = (usize, &ClassCounts)> {
    let classes = reading.snapshot.classes.iter().enumerate();
    classes.filter(|(_, class)| class.size != 0)
}

/// Does a second look at this page tell more? Not where the client's malloc can't be seen.
pub(super) fn can_grow(reading: &Reading) -> bool {
    reading.snapshot.state != State::Unreachable && watched(reading).next().is_some()
}

/// From two readings of a page. Nothing, if another process has taken it in between.
pub(super) fn rates(first: &Reading, second: &Reading) -> Rates {
    let took_ms = second.at_ms.saturating_sub(first.at_ms);
    std::array::from_fn(|n| {
        let (before, after) = (&first.snapshot.classes[n], &second.snapshot.classes[n]);
        let same = first.snapshot.pid == second.snapshot.pid
            && before.size == after.size
            && after.size != 0;
        if !same || took_ms == 0 || !can_grow(second) {
            return None;
        }
        let grown = i128::from(after.live()) - i128::from(before.live());
        let per_s = grown * 1000 / i128::from(took_ms);
        Some(i64::try_from(per_s).unwrap_or(i64::MAX))
    })
}

fn rate_in_words(rate: Option<i64>) -> String {
    match rate {
        Some(0) => "0/s".to_owned(),
        Some(rate) => format!("{rate:+}/s"),
        None => "-".to_owned(),
    }
}

fn effect_of(state: State) -> &'static str {
    match state {
        State::Starting => "it is still looking round",
        State::Standby => "calls are passed on and counted",
        State::Active => "pooled classes are served from the pool",
        State::Unreachable => "this client's malloc can't be seen by a preload",
    }
}

fn choice_in_words(choice: Choice) -> &'static str {
    match choice {
        Choice::Named => "named",
        Choice::Searching => "auto: searching",
        Choice::Found => "auto: found",
    }
}

fn choice_word(choice: Choice) -> &'static str {
    match choice {
        Choice::Named => "named",
        Choice::Searching => "searching",
        Choice::Found => "found",
    }
}

fn usr1_word(usr1: Usr1) -> &'static str {
    match usr1 {
        Usr1::None => "none",
        Usr1::Ours => "guard",
        Usr1::Program => "client",
    }
}

fn errno_in_words(errno: u64) -> String {
    match i32::try_from(errno) {
        Ok(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
        Err(_) => format!("error {errno}"),
    }
}

fn kind_name(kind: u64) -> Option<(&'static str, &'static str)> {
    KIND_NAMES.get(usize::try_from(kind).ok()?).copied()
}

/// How long ago resident parts were estimated, milliseconds. `None`: never.
fn estimated_ms_ago(reading: &Reading) -> Option<u64> {
    let at_ms = reading.snapshot.plane.estimated_ms;
    (at_ms != 0).then(|| reading.at_ms.saturating_sub(at_ms))
}

/// The largest regions with what is resident in them now; the one with most resident memory first.
fn largest(view: &View<'_>) -> Vec<(RegionState, Option<Part>)> {
    let parts = view.now.map_or(&[][..], |now| &now.regions);
    let regions = view.reading.largest.iter().enumerate();
    let mut regions: Vec<_> = regions
        .map(|(n, region)| (*region, parts.get(n).copied()))
        .collect();
    regions.sort_by_key(|(region, now)| {
        let resident_bytes = now.map_or(region.resident_bytes, |now| now.bytes);
        std::cmp::Reverse((resident_bytes, region.bytes))
    });
    regions
}

/// What is in no region: for people, as a key, and how much it is now.
fn outside(now: &Resident) -> [(&'static str, &'static str, u64); 5] {
    [
        ("[heap]", "heap", now.heap),
        ("[stack]", "stack", now.stack),
        ("files", "files", now.files),
        ("our pool", "pool", now.pool),
        ("rest", "rest", now.rest),
    ]
}

/// Where the memory of a process is, for people: each place with what it takes, the biggest first.
pub(super) fn places(now: &Resident) -> Vec<(&'static str, u64)> {
    let kinds = KIND_NAMES.iter().zip(now.kinds);
    let kinds = kinds.map(|((name, _), bytes)| (*name, bytes));
    let others = outside(now)
        .into_iter()
        .map(|(name, _, bytes)| (name, bytes));
    let mut all: Vec<_> = kinds
        .chain(others)
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    all.sort_unstable_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    all
}

/// For people: lines that are indented below a heading of the caller's.
pub(super) fn in_words(view: &View<'_>, style: Style) -> String {
    let reading = view.reading;
    let snapshot = &reading.snapshot;
    let tone = match snapshot.state {
        State::Unreachable => Tone::Bad,
        _ => Tone::Good,
    };
    let row = |name: &str, value: String| [name.to_owned(), value];
    let state = style.paint(tone, state_in_words(snapshot.state));
    let mut text = columns(
        &[
            row("guard", format!("{state}: {}", effect_of(snapshot.state))),
            row("classes", choice_in_words(snapshot.choice).to_owned()),
        ],
        2,
    );
    text.push_str(&classes_in_words(reading, view.rates));
    text.push_str(&columns(
        &[
            row("pool", pool_in_words(reading)),
            row("faults", faults_in_words(reading)),
            row("pages", pages_in_words(reading)),
            row("memory", memory_in_words(view)),
        ],
        2,
    ));
    text.push_str(&kinds_in_words(view));
    text.push_str(&regions_in_words(&largest(view)));
    text
}

fn classes_in_words(reading: &Reading, rates: &Rates) -> String {
    let head = [
        "class",
        "requests",
        "pooled",
        "alloc",
        "free",
        "live",
        "at most",
        "pool hits",
        "growth",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for (n, class) in watched(reading) {
        let (from, to) = range_of(class.size);
        rows.push([
            class.size.to_string(),
            format!("{from}..{to}"),
            if class.pooled { "yes" } else { "no" }.to_owned(),
            class.alloc.to_string(),
            class.free.to_string(),
            class.live().to_string(),
            size(live_bytes_at_most(class)),
            class.pool_hit.to_string(),
            rate_in_words(rates[n]),
        ]);
    }
    if rows.len() == 1 {
        return "    none is watched\n".to_owned();
    }
    columns(&rows, 4)
}

fn pool_in_words(reading: &Reading) -> String {
    let pool = &reading.snapshot.pool;
    if *pool == Default::default() {
        return "none".to_owned();
    }
    format!(
        "{} slabs in use, {} given back; {} usable of {} reserved; {} requests passed on",
        pool.slabs,
        pool.slabs_released,
        size(pool.usable_bytes),
        size(pool.reserved_bytes),
        pool.passed_on
    )
}

fn faults_in_words(reading: &Reading) -> String {
    let faults = &reading.snapshot.faults;
    match faults.count {
        0 => "none".to_owned(),
        count => {
            let last = match call(faults.call) {
                Some((_, words)) => words.to_owned(),
                None => format!("call {}", faults.call),
            };
            let errno = errno_in_words(faults.errno);
            format!("{count} system calls failed; the last: {last}, {errno}")
        }
    }
}

fn call(number: u64) -> Option<(&'static str, &'static str)> {
    let at = usize::try_from(number).ok()?.checked_sub(1)?;
    CALLS.get(at).copied()
}

fn pages_in_words(reading: &Reading) -> String {
    let plane = &reading.snapshot.plane;
    if plane.calls == 0 {
        return "no mmap call of the client was seen".to_owned();
    }
    let exact = match plane.lost {
        0 => format!("exact, {} calls seen", plane.calls),
        lost => format!("not exact: {lost} of {} calls lost", plane.calls),
    };
    match estimated_ms_ago(reading) {
        Some(ms) => format!("{exact}; estimate of the guard {} s old", ms / 1000),
        None => format!("{exact}; the guard has not estimated yet"),
    }
}

fn memory_in_words(view: &View<'_>) -> String {
    match view.now {
        Some(now) => format!("{} now, by the kernel", size(now.total())),
        None => "not known now: the client has ended, or may not be looked at".to_owned(),
    }
}

fn kinds_in_words(view: &View<'_>) -> String {
    let head = ["kind", "regions", "reserved", "now", "estimate", "peak"];
    let mut rows = vec![head.map(str::to_owned)];
    let kinds = view.reading.snapshot.plane.kinds.iter().zip(KIND_NAMES);
    for (n, (kind, (name, _))) in kinds.enumerate() {
        let now = view.now.map(|now| now.kinds[n]);
        if *kind != KindState::default() || now.is_some_and(|now| now != 0) {
            rows.push([
                name.to_owned(),
                kind.regions.to_string(),
                size(kind.bytes),
                now.map_or("-".to_owned(), size),
                size(kind.resident_bytes),
                size(kind.peak_bytes.max(now.unwrap_or(0))),
            ]);
        }
    }
    for (name, _, now) in view.now.map(outside).into_iter().flatten() {
        let none = || "-".to_owned();
        rows.push([name.to_owned(), none(), none(), size(now), none(), none()]);
    }
    if rows.len() == 1 {
        return String::new();
    }
    columns(&rows, 4)
}

fn regions_in_words(regions: &[(RegionState, Option<Part>)]) -> String {
    if regions.is_empty() {
        return String::new();
    }
    let head = ["region", "kind", "reserved", "now", "estimate"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(regions.iter().take(REGIONS_SHOWN).map(|(region, now)| {
        // A share is no count: the kernel doesn't tell where in a mapping its memory is.
        let now = now.map_or("-".to_owned(), |now| {
            format!("{}{}", if now.is_share { "~" } else { "" }, size(now.bytes))
        });
        [
            format!("{:#x}", region.start),
            kind_name(region.kind)
                .map_or_else(|| region.kind.to_string(), |(name, _)| name.to_owned()),
            size(region.bytes),
            now,
            size(region.resident_bytes),
        ]
    }));
    columns(&rows, 4)
}

/// For programs: plain numbers, sizes in bytes. `resident_bytes` and `peak_bytes` are the guard's estimates,
/// `resident_now_bytes` is the kernel's count; null: not known. Now, a kind has what its listed regions have: what the
/// page does not list (it has the largest, as of the estimate) is in the rest.
pub(super) fn in_json(view: &View<'_>) -> Value {
    let View {
        reading,
        rates,
        now,
    } = view;
    let snapshot = &reading.snapshot;
    let classes: Vec<Value> = watched(reading)
        .map(|(n, class)| {
            let (from, to) = range_of(class.size);
            json!({
                "size": class.size,
                "from": from,
                "to": to,
                "pooled": class.pooled,
                "alloc": class.alloc,
                "free": class.free,
                "live": class.live(),
                "live_bytes_at_most": live_bytes_at_most(class),
                "pool_hits": class.pool_hit,
                "live_per_s": rates[n],
            })
        })
        .collect();
    let plane = &snapshot.plane;
    let mut kinds = serde_json::Map::new();
    for (n, (kind, (_, key))) in plane.kinds.iter().zip(KIND_NAMES).enumerate() {
        let value = json!({
            "resident_now_bytes": now.map(|now| now.kinds[n]),
            "regions": kind.regions,
            "reserved_bytes": kind.bytes,
            "resident_bytes": kind.resident_bytes,
            "peak_bytes": kind.peak_bytes,
        });
        json::put(&mut kinds, key, value);
    }
    let regions: Vec<Value> = largest(view)
        .iter()
        .map(|(region, now)| {
            json!({
                "start": region.start,
                "kind": kind_name(region.kind).map(|(_, key)| key),
                "reserved_bytes": region.bytes,
                "resident_bytes": region.resident_bytes,
                "resident_now_bytes": now.map(|now| now.bytes),
                "resident_now_is_share": now.map(|now| now.is_share),
            })
        })
        .collect();
    let failed = snapshot.faults.count != 0;
    let last_call = call(snapshot.faults.call).filter(|_| failed);
    let outside = now.map(|now| {
        let mut places = serde_json::Map::new();
        for (_, key, bytes) in outside(now) {
            json::put(&mut places, &format!("{key}_bytes"), json!(bytes));
        }
        places
    });
    json!({
        "pid": snapshot.pid,
        "state": state_in_words(snapshot.state),
        "choice": choice_word(snapshot.choice),
        "sigusr1": usr1_word(snapshot.usr1),
        "classes": classes,
        "pool": {
            "reserved_bytes": snapshot.pool.reserved_bytes,
            "usable_bytes": snapshot.pool.usable_bytes,
            "slabs": snapshot.pool.slabs,
            "slabs_released": snapshot.pool.slabs_released,
            "passed_on": snapshot.pool.passed_on,
        },
        "faults": {
            "count": snapshot.faults.count,
            "last_call": failed.then_some(snapshot.faults.call),
            "last_call_name": last_call.map(|(name, _)| name),
            "last_errno": failed.then_some(snapshot.faults.errno),
            "last_error": failed.then(|| errno_in_words(snapshot.faults.errno)),
        },
        "pages": {
            "calls": plane.calls,
            "lost": plane.lost,
            "exact": plane.lost == 0,
            "estimated_ms_ago": estimated_ms_ago(reading),
            "resident_now_bytes": now.map(Resident::total),
            "outside_now": outside,
            "kinds": kinds,
            "largest": regions,
        },
    })
}

#[cfg(test)]
pub(super) mod fixture {
    use crate::stats_page::{Choice, RegionKind, State, StatsPage, Usr1};
    use std::sync::atomic::Ordering::Relaxed;

    /// A page with something in each place.
    pub(crate) fn full(pid: u32, live: u64) -> StatsPage {
        let page = StatsPage::new();
        page.name(pid);
        page.set_state(State::Active);
        page.set_usr1(Usr1::Ours);
        page.set_choice(Choice::Found);
        page.classes[0].size.store(160, Relaxed);
        page.classes[0].pooled.store(1, Relaxed);
        page.classes[2].size.store(24, Relaxed);
        let counts = &page.shard(5).classes[0];
        counts.alloc.store(4, Relaxed);
        counts.free.store(4, Relaxed);
        counts.pool_hit.store(live, Relaxed);
        page.pool.reserved_bytes.store(64 << 30, Relaxed);
        page.pool.usable_bytes.store(20 << 20, Relaxed);
        page.pool.slabs.store(12, Relaxed);
        page.pool.slabs_released.store(3, Relaxed);
        page.pool.passed_on.store(2, Relaxed);
        page.faults.count.store(1, Relaxed);
        page.faults.call.store(6, Relaxed);
        page.faults.errno.store(12, Relaxed);
        page.plane.calls.store(11, Relaxed);
        let heap = &page.plane.kinds[RegionKind::JsHeap as usize];
        heap.regions.store(2, Relaxed);
        heap.bytes.store(1 << 30, Relaxed);
        heap.resident_bytes.store(30 << 20, Relaxed);
        heap.peak_bytes.store(40 << 20, Relaxed);
        for (place, start, resident) in [(0, 0x7000_0000, 1 << 20), (3, 0x8000_0000, 29 << 20)] {
            let region = &page.plane.largest[place];
            region.start.store(start, Relaxed);
            region.bytes.store(512 << 20, Relaxed);
            region.kind.store(RegionKind::JsHeap as u64, Relaxed);
            region.resident_bytes.store(resident, Relaxed);
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::page_bytes;
    use crate::stats_page::{Snapshot, StatsPage, regions_from_bytes};
    use std::sync::atomic::Ordering::Relaxed;

    const NONE: Rates = [None; CLASSES];

    fn reading(page: &StatsPage, at_ms: u64) -> Reading {
        let bytes = page_bytes::of(page);
        Reading {
            at_ms,
            snapshot: Snapshot::from_bytes(&bytes).unwrap(),
            largest: regions_from_bytes(&bytes).collect(),
        }
    }

    fn words(reading: &Reading, rates: &Rates, now: Option<&Resident>) -> String {
        let view = View {
            reading,
            rates,
            now,
        };
        super::in_words(&view, Style::default())
    }

    fn json(reading: &Reading, rates: &Rates, now: Option<&Resident>) -> Value {
        super::in_json(&View {
            reading,
            rates,
            now,
        })
    }

    /// The words of the line that begins with this one.
    fn line(text: &str, first: &str) -> Vec<String> {
        let found = text
            .lines()
            .find(|line| line.split_whitespace().next() == Some(first));
        let found = found.unwrap_or_else(|| panic!("no {first:?} in {text}"));
        found.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_class_stands_for_the_requests_that_get_its_chunk() {
        for (size, range, chunk) in [
            (160, (153, 168), 176),
            (153, (153, 168), 176),
            (168, (153, 168), 176),
            (169, (169, 184), 192),
            (1, (0, 24), 32),
            (24, (0, 24), 32),
            (25, (25, 40), 48),
            (1024, (1017, 1032), 1040),
        ] {
            assert_eq!(
                (range_of(size), chunk_bytes(size)),
                (range, chunk),
                "{size}"
            );
        }
        assert_eq!(chunk_bytes(u64::MAX), u64::MAX);
    }

    #[test]
    fn words_have_every_part_in_units_that_people_read() {
        let page = fixture::full(42, 1_000_000);
        page.plane.estimated_ms.store(500, Relaxed);
        let mut rates = NONE;
        rates[0] = Some(32_000);
        let text = words(&reading(&page, 5_000), &rates, None);
        assert_eq!(
            line(&text, "160"),
            [
                "160", "153..168", "yes", "1000004", "4", "1000000", "167", "MiB", "1000000",
                "+32000/s"
            ]
        );
        assert_eq!(line(&text, "24")[1], "0..24");
        assert_eq!(line(&text, "24").last().unwrap(), "-");
        for said in [
            "ACTIVE: pooled classes are served",
            "auto: found",
            "12 slabs in use, 3 given back; 20 MiB usable of 64.0 GiB reserved; 2 requests passed on",
            "1 system calls failed; the last: opening the log, ",
            "(os error 12)",
            "exact, 11 calls seen; estimate of the guard 4 s old",
            "memory  not known now",
        ] {
            assert!(text.contains(said), "{said:?} in\n{text}");
        }
        assert!(
            text.lines().any(|line| line
                .split_whitespace()
                .eq("JS heap 2 1024 MiB - 30 MiB 40 MiB".split_whitespace())),
            "{text}"
        );
        // The fattest region first.
        let at = |start: &str| text.find(start).unwrap();
        assert!(at("0x80000000") < at("0x70000000"));
        assert!(!text.contains("stack"), "{text}");
        assert!(!text.contains("rest"), "{text}");
    }

    #[test]
    fn an_unreachable_client_is_said_to_be_so_and_nothing_is_made_up() {
        let page = StatsPage::new();
        page.name(7);
        page.set_state(State::Unreachable);
        page.classes[0].size.store(160, Relaxed);
        page.plane.calls.store(10, Relaxed);
        page.plane.lost.store(3, Relaxed);
        let seen = reading(&page, 100);
        assert!(!can_grow(&seen));
        assert_eq!(rates(&seen, &reading(&page, 1100)), NONE);
        let text = words(&seen, &NONE, None);
        for said in [
            "unreachable: this client's malloc can't be seen",
            "  pool    none\n",
            "  faults  none\n",
            "not exact: 3 of 10 calls lost; the guard has not estimated yet",
        ] {
            assert!(text.contains(said), "{said:?} in\n{text}");
        }
        assert!(!text.contains("region"), "{text}");
    }

    #[test]
    fn the_rate_is_what_live_grew_by_in_the_time_between() {
        let first = reading(&fixture::full(42, 1_000), 10_000);
        let after = |pid, live, at_ms| reading(&fixture::full(pid, live), at_ms);
        assert_eq!(rates(&first, &after(42, 3_000, 12_000))[0], Some(1_000));
        assert_eq!(rates(&first, &after(42, 500, 10_500))[0], Some(-1_000));
        assert_eq!(rates(&first, &after(42, 1_000, 10_500))[0], Some(0));
        assert_eq!(
            rates(&first, &after(42, 1_000, 10_500))[1],
            None,
            "not watched"
        );
        assert_eq!(
            rates(&first, &after(42, 9_000, 10_000)),
            NONE,
            "no time between"
        );
        assert_eq!(
            rates(&first, &after(43, 9_000, 12_000)),
            NONE,
            "another process"
        );
        let huge = rates(&first, &after(42, i64::MAX.cast_unsigned(), 10_001));
        assert_eq!(huge[0], Some(i64::MAX));
        let words = [Some(5), Some(-5), Some(0), None].map(rate_in_words);
        assert_eq!(words, ["+5/s", "-5/s", "0/s", "-"]);
    }

    #[test]
    fn json_has_plain_numbers_under_names_that_stay() {
        let page = fixture::full(42, 1_000);
        let mut rates = NONE;
        rates[0] = Some(-3);
        let text = json(&reading(&page, 5_000), &rates, None).to_string();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["pid"], 42);
        assert_eq!(value["state"], "ACTIVE");
        assert_eq!(value["choice"], "found");
        assert_eq!(value["sigusr1"], "guard");
        assert_eq!(
            value["classes"][0],
            json!({"size": 160, "from": 153, "to": 168, "pooled": true, "alloc": 1004, "free": 4,
                "live": 1000, "live_bytes_at_most": 176_000, "pool_hits": 1000, "live_per_s": -3})
        );
        assert_eq!(value["classes"][1]["live_per_s"], Value::Null);
        assert_eq!(value["classes"].as_array().unwrap().len(), 2);
        assert_eq!(
            value["pool"],
            json!({"reserved_bytes": 64_u64 << 30, "usable_bytes": 20 << 20, "slabs": 12,
                "slabs_released": 3, "passed_on": 2})
        );
        assert_eq!(value["faults"]["last_errno"], 12);
        assert_eq!(value["faults"]["last_call_name"], "OpenLog");
        assert_eq!(value["pages"]["exact"], true);
        assert_eq!(value["pages"]["estimated_ms_ago"], Value::Null);
        let kinds = value["pages"]["kinds"].as_object().unwrap();
        let mut names: Vec<&str> = kinds.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["arena", "js_heap", "other", "stack"]);
        assert_eq!(kinds["js_heap"]["peak_bytes"], 40 << 20);
        assert_eq!(value["pages"]["largest"][0]["start"], 0x8000_0000_u64);
        assert_eq!(value["pages"]["largest"][0]["kind"], "js_heap");
    }

    fn now() -> Resident {
        let part = |mib: u64, is_share| Part {
            bytes: mib << 20,
            is_share,
        };
        let mut kinds = [0; KINDS];
        kinds[1] = 300 << 20;
        Resident {
            regions: vec![part(200, false), part(100, true)],
            kinds,
            heap: 20 << 20,
            stack: 30 << 20,
            files: 40 << 20,
            pool: 60 << 20,
            rest: 50 << 20,
        }
    }

    #[test]
    fn what_is_resident_now_stands_beside_the_estimate() {
        let page = fixture::full(42, 1);
        let seen = reading(&page, 5_000);
        let text = words(&seen, &NONE, Some(&now()));
        assert!(
            text.contains("memory  500 MiB now, by the kernel"),
            "{text}"
        );
        for (first, says) in [
            ("JS", "JS heap 2 1024 MiB 300 MiB 30 MiB 300 MiB"),
            ("[heap]", "[heap] - - 20 MiB - -"),
            ("[stack]", "[stack] - - 30 MiB - -"),
            ("files", "files - - 40 MiB - -"),
            ("rest", "rest - - 50 MiB - -"),
            ("0x70000000", "0x70000000 JS heap 512 MiB 200 MiB 1024 KiB"),
            ("0x80000000", "0x80000000 JS heap 512 MiB ~100 MiB 29 MiB"),
        ] {
            assert_eq!(line(&text, first).join(" "), says);
        }
        // What is fattest now first, whatever the estimate said.
        let at = |start: &str| text.find(start).unwrap();
        assert!(at("0x70000000") < at("0x80000000"));
        let value = json(&seen, &NONE, Some(&now()));
        let pages = &value["pages"];
        assert_eq!(pages["resident_now_bytes"], 500_u64 << 20);
        assert_eq!(
            pages["outside_now"],
            json!({"heap_bytes": 20 << 20, "stack_bytes": 30 << 20, "files_bytes": 40 << 20,
                "pool_bytes": 60 << 20, "rest_bytes": 50 << 20})
        );
        let heap = &pages["kinds"]["js_heap"];
        assert_eq!(
            (&heap["resident_now_bytes"], &heap["resident_bytes"]),
            (&json!(300 << 20), &json!(30 << 20))
        );
        assert_eq!(
            pages["largest"][1],
            json!({"start": 0x8000_0000_u64, "kind": "js_heap", "reserved_bytes": 512 << 20,
                "resident_bytes": 29 << 20, "resident_now_bytes": 100 << 20,
                "resident_now_is_share": true})
        );
        let unknown = json(&seen, &NONE, None);
        for null in ["resident_now_bytes", "outside_now"] {
            assert_eq!(unknown["pages"][null], Value::Null);
        }
    }

    #[test]
    fn the_guards_calls_have_the_guards_names_and_numbers() {
        let source = include_str!("../../../guard/src/os.rs");
        let (_, list) = source.split_once("pub(crate) enum Call {").unwrap();
        let (list, _) = list.split_once('}').unwrap();
        let variants = list
            .lines()
            .filter_map(|line| line.trim().split_once(" = "));
        let theirs: Vec<(&str, u64)> = variants
            .map(|(name, number)| (name, number.trim_end_matches(',').parse().unwrap()))
            .collect();
        let ours: Vec<(&str, u64)> = CALLS.iter().map(|(name, _)| *name).zip(1..).collect();
        assert_eq!(ours, theirs);
        let known = [0, 1, 7, 8, u64::MAX].map(|number| call(number).map(|(name, _)| name));
        let wanted = [None, Some("MapStatsPage"), Some("AppendLine"), None, None];
        assert_eq!(known, wanted);
    }

    #[test]
    fn numbers_that_no_guard_would_write_break_nothing() {
        let page = fixture::full(42, u64::MAX);
        page.classes[7].size.store(u64::MAX, Relaxed);
        page.faults.count.store(u64::MAX, Relaxed);
        page.faults.errno.store(u64::MAX, Relaxed);
        page.plane.estimated_ms.store(u64::MAX, Relaxed);
        page.plane.largest[0].kind.store(99, Relaxed);
        page.plane.largest[0].bytes.store(u64::MAX, Relaxed);
        let seen = reading(&page, 5_000);
        let rates = rates(&reading(&fixture::full(42, 0), 0), &seen);
        let text = words(&seen, &rates, None);
        assert!(text.contains("estimate of the guard 0 s old"), "{text}");
        assert_eq!(
            json(&seen, &rates, None)["pages"]["largest"][1]["kind"],
            Value::Null
        );
    }
}
