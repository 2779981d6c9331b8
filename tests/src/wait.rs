//! Owns waiting: for a condition, with a deadline. Never for a fixed time.

use std::thread;
use std::time::{Duration, Instant};

/// Asks `look` again and again until it answers, at most for `limit`.
///
/// # Panics
/// When the time is over; the message names `what`.
#[track_caller]
pub fn wait_until<T>(what: &str, limit: Duration, look: impl FnMut() -> Option<T>) -> T {
    match poll_until(limit, look) {
        Some(value) => value,
        None => panic!("not within {limit:?}: {what}"),
    }
}

/// As [`wait_until`], for a condition that may well not come: `None` when the time is over.
pub fn poll_until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = look() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}
