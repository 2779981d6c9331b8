//! `CLAUDE_MALLOC_GUARD_SIZES=auto`: finds the class whose live count only grows.
//!
//! Owns a sample of the live objects, per chunk size: those whose *address* hashes into one part of
//! [`SAMPLE`]. An address is the same when an object is made and when it ends, so the sample stays true
//! without a record of what is in it. Its memory is fixed: a counter per class, and nine of them
//! over time.
//!
//! A class leaks if it has grown in each of eight intervals, by enough objects in all. If none has,
//! the intervals are doubled, so that a slow leak is found as well.

use core::{
    ffi::c_void,
    sync::atomic::{
        AtomicBool, AtomicI32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use crate::{lock::Lock, os, size_class::MAX_REQUEST};

/// One object in so many is in the sample; a power of two.
const SAMPLE: u64 = 64;
/// Sampled requests from one look at the clock to the next.
const CLOCK_EVERY: u64 = 64;
/// Growth that makes a leak, in sampled objects (times [`SAMPLE`] in real ones).
const GROWTH_MIN: i32 = 64;
/// First and longest interval between two points of the history, in milliseconds.
const INTERVAL_MIN_MS: u64 = 125;
const INTERVAL_MAX_MS: u64 = 64_000;
/// Points of the history: eight intervals.
const POINTS: usize = 9;
/// Chunk sizes are multiples of 16.
const CHUNK_STEP: usize = 16;
const CHUNKS: usize = (MAX_REQUEST + 8) / CHUNK_STEP + 1;

static LIVE: [AtomicI32; CHUNKS] = [const { AtomicI32::new(0) }; CHUNKS];
static SAMPLED: AtomicU64 = AtomicU64::new(0);
/// The search is on.
static SEARCHING: AtomicBool = AtomicBool::new(false);
/// A class was found.
static FOUND: AtomicBool = AtomicBool::new(false);

struct History {
    next_ms: u64,
    interval_ms: u64,
    len: usize,
    points: [[i32; CHUNKS]; POINTS],
}

static HISTORY: Lock<History> = Lock::new(History {
    next_ms: 0,
    interval_ms: INTERVAL_MIN_MS,
    len: 0,
    points: [[0; CHUNKS]; POINTS],
});

/// Begins to search.
pub(crate) fn search() {
    SEARCHING.store(true, Relaxed);
}

/// Is the search on?
#[inline(always)]
pub(crate) fn is_searching() -> bool {
    SEARCHING.load(Relaxed)
}

/// Ends the search: what was found has been taken over.
pub(crate) fn end() {
    SEARCHING.store(false, SeqCst);
}

/// Is the search over? In sequential consistency with [`end`].
pub(crate) fn is_over() -> bool {
    !SEARCHING.load(SeqCst)
}

#[inline(always)]
fn is_in_sample(object: *mut c_void) -> bool {
    // Objects lie at multiples of 16, and those of one class a constant apart: mixed first
    // (Fibonacci hashing), then the top bits are taken.
    let mixed = (object as u64 / 16).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed >> (u64::BITS - SAMPLE.trailing_zeros()) == 0
}

/// The counter of a chunk by its usable size, which is 8 less than its length.
fn live_of(chunk: usize) -> Option<&'static AtomicI32> {
    LIVE.get((chunk + 8) / CHUNK_STEP)
}

/// An object was made, with a chunk of this usable size. Once, this shows which class leaks: the size
/// that names it.
#[inline(always)]
pub(crate) fn began(object: *mut c_void, chunk: usize) -> Option<usize> {
    if is_in_sample(object) {
        return count_began(chunk);
    }
    None
}

#[cold]
fn count_began(chunk: usize) -> Option<usize> {
    live_of(chunk)?.fetch_add(1, Relaxed);
    if SAMPLED.fetch_add(1, Relaxed).is_multiple_of(CLOCK_EVERY) {
        return observe();
    }
    None
}

/// An object ends.
#[inline(always)]
pub(crate) fn ended(object: *mut c_void, chunk: usize) {
    if is_in_sample(object)
        && let Some(live) = live_of(chunk)
    {
        live.fetch_sub(1, Relaxed);
    }
}

/// Adds a point to the history when it is time, and tells of the class that leaks, once: the size that names it.
fn observe() -> Option<usize> {
    // Whoever finds it locked leaves the point to the holder.
    let mut history = HISTORY.try_lock()?;
    let now_ms = os::monotonic_ms();
    if now_ms < history.next_ms || FOUND.load(Relaxed) {
        return None;
    }
    history.next_ms = now_ms + history.interval_ms;
    let now = core::array::from_fn(|number| LIVE[number].load(Relaxed));
    let number = history.add(now)?;
    // Under the lock: the history is full, and takes no further point.
    FOUND.store(true, Relaxed);
    Some(number * CHUNK_STEP - 16)
}

impl History {
    /// Enters a point; the number of the class that has only grown, if there is one.
    fn add(&mut self, point: [i32; CHUNKS]) -> Option<usize> {
        self.points[self.len] = point;
        self.len += 1;
        if self.len < POINTS {
            return None;
        }
        let leak = self.largest_leak();
        if leak.is_none() {
            // Every second point stays.
            for at in 0..POINTS.div_ceil(2) {
                self.points[at] = self.points[2 * at];
            }
            self.len = POINTS.div_ceil(2);
            self.interval_ms = (self.interval_ms * 2).min(INTERVAL_MAX_MS);
        }
        leak
    }

    /// By bytes.
    fn largest_leak(&self) -> Option<usize> {
        let growth = |number: usize| self.points[POINTS - 1][number] - self.points[0][number];
        let only_grows = |number: &usize| {
            let mut pairs = self.points.windows(2);
            pairs.all(|pair| pair[1][*number] > pair[0][*number]) && growth(*number) >= GROWTH_MIN
        };
        let leaks = (2..CHUNKS).filter(only_grows);
        leaks.max_by_key(|&number| growth(number) as usize * number)
    }
}
