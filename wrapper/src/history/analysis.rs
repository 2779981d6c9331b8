//! What samples tell: how fast memory grows, and what a curve of few columns shows of it. Pure functions.

use super::ring::Point;

/// A slope over less than this is noise, milliseconds.
const SHORTEST_MS: u64 = 60_000;

/// Those of the last `span_ms` before `now_unix_ms`, in their order.
pub fn recent(points: &[Point], now_unix_ms: u64, span_ms: u64) -> Vec<Point> {
    let from = now_unix_ms.saturating_sub(span_ms);
    let is_recent = |point: &&Point| (from..=now_unix_ms).contains(&point.at_unix_ms);
    let mut recent: Vec<Point> = points.iter().filter(is_recent).copied().collect();
    in_order_of_time(&mut recent);
    recent
}

/// A clock that was set back leaves them in another order; a curve needs that of the times.
pub fn in_order_of_time(points: &mut [Point]) {
    points.sort_unstable_by_key(|point| point.at_unix_ms);
}

/// How fast memory grows, KiB an hour, by least squares over the samples of the present life of the client: a
/// collector's sawtooth, or a single odd look, moves it little. `None`: too few, or within too short a time.
pub fn growth_kib_h(recent: &[Point]) -> Option<i64> {
    let last = recent.last()?;
    let life = recent
        .iter()
        .rposition(|point| point.restarts != last.restarts);
    let life = &recent[life.map_or(0, |before| before + 1)..];
    let first = life.first()?;
    let span_ms = last.at_unix_ms.saturating_sub(first.at_unix_ms);
    if span_ms < SHORTEST_MS || life.len() < 3 {
        return None;
    }
    let count = life.len() as i128;
    let (mut t, mut y, mut tt, mut ty) = (0_i128, 0_i128, 0_i128, 0_i128);
    for point in life {
        let at = i128::from(point.at_unix_ms - first.at_unix_ms);
        let kib = i128::from(point.total_kib);
        t += at;
        y += kib;
        tt += at * at;
        ty += at.checked_mul(kib)?;
    }
    let below = count * tt - t * t;
    let above = (count * ty - t * y).checked_mul(3_600_000)?;
    i64::try_from(above.checked_div(below)?).ok()
}

/// The most that was seen in each of so many equal parts of `span_ms` before `now_unix_ms`, KiB; the last known one
/// goes on where there was no look. `None`: before the first sample.
pub fn columns(points: &[Point], now_unix_ms: u64, span_ms: u64, count: usize) -> Vec<Option<u64>> {
    let mut columns: Vec<Option<u64>> = vec![None; count];
    let from = now_unix_ms.saturating_sub(span_ms);
    let mut before = None;
    for point in points {
        if point.at_unix_ms < from {
            before = Some(point.total_kib);
            continue;
        }
        let at = u128::from(point.at_unix_ms - from) * count as u128;
        let column = (at / u128::from(span_ms.max(1))) as usize;
        // The very last moment belongs to the last column; what is later, to none.
        if point.at_unix_ms <= now_unix_ms && count > 0 {
            let column = &mut columns[column.min(count - 1)];
            *column = Some(column.unwrap_or(0).max(point.total_kib));
        }
    }
    let lasts = last_in_each(points, from, span_ms, count);
    for (column, last) in columns.iter_mut().zip(lasts) {
        *column = column.or(before);
        before = last.or(before);
    }
    columns
}

/// The sample with which each part ended: that, not the most, goes on.
fn last_in_each(points: &[Point], from: u64, span_ms: u64, count: usize) -> Vec<Option<u64>> {
    let mut lasts = vec![None; count];
    for point in points.iter().filter(|point| point.at_unix_ms >= from) {
        let at = u128::from(point.at_unix_ms - from) * count as u128;
        let column = (at / u128::from(span_ms.max(1))) as usize;
        if let Some(last) = lasts.get_mut(column) {
            *last = Some(point.total_kib);
        }
    }
    lasts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at_s: u64, mib: u64, restarts: u16) -> Point {
        Point {
            at_unix_ms: at_s * 1000,
            total_kib: mib << 10,
            restarts,
            ..Point::default()
        }
    }

    #[test]
    fn growth_is_of_this_life_and_needs_a_minute() {
        let line = |restarts, mib_per_10_s: u64| {
            (0..20).map(move |n| point(n * 10, 100 + n * mib_per_10_s, restarts))
        };
        let steady: Vec<Point> = line(0, 2).collect();
        assert_eq!(growth_kib_h(&steady), Some(720 << 10));
        assert_eq!(growth_kib_h(&steady[..6]), None);
        assert_eq!(growth_kib_h(&steady[..7]), Some(720 << 10));
        let mut lives: Vec<Point> = line(0, 100).collect();
        lives.extend(line(1, 2).map(|mut point| {
            point.at_unix_ms += 1_000_000;
            point
        }));
        assert_eq!(growth_kib_h(&lives), Some(720 << 10));
        let falling: Vec<Point> = (0..20).map(|n| point(n * 10, 100 - n, 0)).collect();
        assert_eq!(growth_kib_h(&falling), Some(-360 << 10));
        assert_eq!(growth_kib_h(&[]), None);
        let same_time = vec![point(1, 1, 0); 5];
        assert_eq!(growth_kib_h(&same_time), None);
        let huge: Vec<Point> = (0..3).map(|n| point(n << 40, u64::MAX >> 10, 0)).collect();
        let _ = growth_kib_h(&huge);
    }

    #[test]
    fn a_sawtooth_is_no_growth() {
        let saw: Vec<Point> = (0..60)
            .map(|n| point(n * 10, 300 + n % 6 * 10, 0))
            .collect();
        let mib_h = growth_kib_h(&saw).unwrap() >> 10;
        assert!((-60..=60).contains(&mib_h), "{mib_h}");
    }

    #[test]
    fn a_column_has_the_most_and_goes_on_with_the_last() {
        let points = [
            point(10, 5, 0),
            point(100, 9, 0),
            point(105, 3, 0),
            point(170, 4, 0),
        ];
        let mib = |now_s: u64, span_s: u64, count| {
            columns(&points, now_s * 1000, span_s * 1000, count)
                .into_iter()
                .map(|kib| kib.map(|kib| kib >> 10))
                .collect::<Vec<_>>()
        };
        assert_eq!(mib(200, 200, 4), [Some(5), Some(5), Some(9), Some(4)]);
        assert_eq!(mib(200, 120, 3), [Some(9), Some(3), Some(4)]);
        assert_eq!(mib(300, 120, 2), [Some(4), Some(4)]);
        assert_eq!(mib(10, 20, 2), [None, Some(5)]);
        assert_eq!(mib(9, 9, 2), [None, None]);
        assert_eq!(mib(9, 9, 0), []);
        assert_eq!(mib(0, 0, 2), [None, None]);
    }

    #[test]
    fn what_is_recent_stands_in_the_order_of_time() {
        let points = [
            point(5, 1, 0),
            point(9, 2, 0),
            point(7, 3, 0),
            point(20, 4, 0),
        ];
        let found: Vec<u64> = recent(&points, 10_000, 4_000)
            .iter()
            .map(|point| point.at_unix_ms / 1000)
            .collect();
        assert_eq!(found, [7, 9]);
    }
}
