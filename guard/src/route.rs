//! What becomes of a request by its size, and what is to be counted of a chunk by its length.
//!
//! Owns which classes are watched and which of them are pooled: two small tables, and in front of
//! them two ranges that leave out nearly everything with one comparison. Nobody writes them in
//! normal operation. A call that reads them while they change takes the old way or the new one;
//! both are right.
//!
//! Until the constructor has run, every call is of interest: nothing is known yet of the next
//! allocator, and threads have nothing of their own.

use core::sync::atomic::{
    AtomicU8, AtomicUsize,
    Ordering::{Relaxed, Release},
};

use crate::{
    early,
    size_class::{DEFAULT_SIZE, GRANULE, GRANULES, MAX_REQUEST, SizeClass, granule},
    stats_page::CLASSES,
};

/// Number of slot sizes: two per class.
pub(crate) const KINDS: usize = 2 * CLASSES;

/// Chunks of glibc are told apart in steps of 16 bytes: that of a request is as long as the request
/// and a header of 8.
const CHUNK_STEP: usize = 16;

/// Number of chunk lengths that are told apart.
const CHUNKS: usize = (MAX_REQUEST + 8) / CHUNK_STEP + 1;

/// Sizes from `low` to `low + span`, both included.
struct Range {
    low: AtomicUsize,
    span: AtomicUsize,
}

impl Range {
    #[inline(always)]
    fn contains(&self, value: usize) -> bool {
        value.wrapping_sub(self.low.load(Relaxed)) <= self.span.load(Relaxed)
    }

    /// `last < low` for the empty range: only a value that can't occur is in it.
    fn set(&self, low: usize, last: usize) {
        // The span first shrinks to nothing, so that no mixture is larger than both.
        self.span.store(0, Relaxed);
        self.low.store(low, Relaxed);
        self.span.store(last.saturating_sub(low), Release);
    }
}

/// On one cache line, which no thread writes.
#[repr(align(64))]
struct OfInterest {
    requests: Range,
    headers: Range,
}

static OF_INTEREST: OfInterest = OfInterest {
    requests: Range {
        low: AtomicUsize::new(0),
        span: AtomicUsize::new(usize::MAX),
    },
    headers: Range {
        low: AtomicUsize::new(0),
        span: AtomicUsize::new(usize::MAX),
    },
};

/// A value that is neither a request that could be served, nor a header.
const NEVER: usize = usize::MAX;

/// Not just to be counted on the thread's own shard: see `counters`.
const SLOWLY: u8 = 0x80;
/// The chunk that a request got is to be looked at.
const LOOK: u8 = 0x40;

/// The way of a request. A byte, so that one load tells it: 0, to the next allocator; up to `KINDS`,
/// to the pool; else to the next allocator, and the class's number plus 1, 0 for none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route(u8);

/// What is to be counted of a chunk: the class's number plus 1, 0 for none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watch(u8);

#[repr(align(64))]
struct Table<const LEN: usize>([AtomicU8; LEN]);

/// Length of the table of routes: whatever the lowest byte of a granule is, it is in it.
const ROUTES_LEN: usize = 256;
const _: () = assert!(GRANULES <= ROUTES_LEN);

/// [`Route`] by the granule of the request.
static ROUTES: Table<ROUTES_LEN> = {
    let class = SizeClass::of(DEFAULT_SIZE);
    let mut table = Table([const { AtomicU8::new(0) }; ROUTES_LEN]);
    let mut at = granule(class.candidates().low);
    while at <= granule(class.end() - 1) {
        let of_class = (at >= granule(class.low)) as u8;
        table.0[at] = AtomicU8::new(LOOK | SLOWLY | of_class);
        at += 1;
    }
    table
};

/// [`Watch`] by the length of the chunk over [`CHUNK_STEP`].
static WATCHED: Table<CHUNKS> = {
    let mut table = Table([const { AtomicU8::new(0) }; CHUNKS]);
    table.0[chunk_number(SizeClass::of(DEFAULT_SIZE))] = AtomicU8::new(SLOWLY | 1);
    table
};

const fn chunk_number(class: SizeClass) -> usize {
    (class.end() - 1 + 8) / CHUNK_STEP
}

/// Is there anything to do about a request of this size but to pass it on?
#[inline(always)]
pub(crate) fn is_request_of_interest(request: usize) -> bool {
    OF_INTEREST.requests.contains(request)
}

/// The same for the end of an object with this header.
#[inline(always)]
pub(crate) fn is_header_of_interest(header: usize) -> bool {
    OF_INTEREST.headers.contains(header)
}

impl Route {
    /// To the next allocator.
    pub(crate) const PASS: Self = Self(0);

    /// The way of a request.
    #[inline(always)]
    pub(crate) fn of(request: usize) -> Self {
        if request > MAX_REQUEST {
            return Self::PASS;
        }
        Self(ROUTES.0[granule(request)].load(Relaxed))
    }

    /// The same for a request that is of interest. Of a larger one than [`MAX_REQUEST`], which is of
    /// interest only until the constructor has run, it may say no more than that it is not pooled.
    #[inline(always)]
    pub(crate) fn of_interest(request: usize) -> Self {
        // The granule, of which only the lowest byte counts.
        let at = request.wrapping_add(GRANULE - 1) / GRANULE % ROUTES_LEN;
        Self(ROUTES.0[at].load(Relaxed))
    }

    /// The slot size that serves the request, if the pool does.
    #[inline(always)]
    pub(crate) fn kind(self) -> Option<usize> {
        let kind = usize::from(self.0.wrapping_sub(1));
        (kind < KINDS).then_some(kind)
    }

    /// What is to be counted of a request that is not pooled.
    #[inline(always)]
    pub(crate) fn watch_of_looked_at(self) -> Watch {
        Watch(self.0 & !LOOK)
    }

    /// What is to be counted of the request.
    #[inline(always)]
    pub(crate) fn watch(self) -> Watch {
        if self.0 & LOOK != 0 {
            return self.watch_of_looked_at();
        }
        // Pooled, or nothing.
        Watch(self.0.div_ceil(2))
    }
}

impl Watch {
    /// What is to be counted of a chunk with this header, whose low bits are flags.
    #[inline(always)]
    pub(crate) fn of_chunk(header: usize) -> Self {
        let number = header / CHUNK_STEP;
        if number >= CHUNKS {
            return Self(0);
        }
        Self(WATCHED.0[number].load(Relaxed))
    }

    /// The number of its class, if that is watched.
    #[inline(always)]
    pub(crate) fn class(self) -> Option<usize> {
        Self(self.0 & !SLOWLY).just_counted()
    }

    /// The same, if there is nothing else to be done about it than to count it on the thread's own
    /// shard.
    #[inline(always)]
    pub(crate) fn just_counted(self) -> Option<usize> {
        let number = usize::from(self.0.wrapping_sub(1));
        (number < CLASSES).then_some(number)
    }

    #[inline(always)]
    pub(crate) fn is_nothing(self) -> bool {
        self.0 == 0
    }
}

/// Watches the classes of these sizes from now on (the first `CLASSES` of them), and no others.
/// Pools nothing.
pub(crate) fn watch(sizes: &[usize]) {
    for route in &ROUTES.0 {
        route.store(Route::PASS.0, Relaxed);
    }
    for watched in &WATCHED.0 {
        watched.store(0, Relaxed);
    }
    let classes = || sizes.iter().take(CLASSES).map(|&size| SizeClass::of(size));
    for class in classes() {
        let candidates = class.candidates();
        for at in granule(candidates.low)..granule(class.low) {
            // A class further down may be watched as well.
            ROUTES.0[at].fetch_or(LOOK, Relaxed);
        }
    }
    for (number, class) in classes().enumerate() {
        for at in granule(class.low)..=granule(class.end() - 1) {
            ROUTES.0[at].store(LOOK | (number as u8 + 1), Relaxed);
        }
        WATCHED.0[chunk_number(class)].store(number as u8 + 1, Relaxed);
    }
    let requests = (
        classes().map(|class| class.candidates().low).min(),
        classes().map(|class| class.end() - 1).max(),
    );
    let chunks = (
        classes().map(chunk_number).min(),
        classes().map(chunk_number).max(),
    );
    match (requests, chunks) {
        ((Some(low), Some(last)), (Some(first_chunk), Some(last_chunk))) => {
            OF_INTEREST.requests.set(low, last);
            let header_last = last_chunk * CHUNK_STEP + CHUNK_STEP - 1;
            let header_low = first_chunk * CHUNK_STEP;
            OF_INTEREST.headers.set(header_low, header_last);
        }
        _ => {
            OF_INTEREST.requests.set(NEVER, NEVER);
            OF_INTEREST.headers.set(NEVER, NEVER);
        }
    }
    if early::is_used() {
        // Their header is 0, and libc must not get one of them.
        OF_INTEREST.headers.set(0, CHUNKS * CHUNK_STEP - 1);
    }
}

/// Takes the slow way for every request and every chunk, where they are sampled.
pub(crate) fn sample_all() {
    for route in ROUTES.0.iter().take(GRANULES) {
        route.fetch_or(LOOK | SLOWLY, Relaxed);
    }
    for watched in &WATCHED.0 {
        watched.fetch_or(SLOWLY, Relaxed);
    }
    OF_INTEREST.requests.set(0, MAX_REQUEST);
    OF_INTEREST.headers.set(0, CHUNKS * CHUNK_STEP - 1);
}

/// Sends the requests of a class, whose number is below `CLASSES`, to the pool.
pub(crate) fn pool(number: usize, size: usize) {
    let class = SizeClass::of(size);
    let [lower, _] = class.strides(false);
    for at in granule(class.low)..=granule(class.end() - 1) {
        let kind = 2 * number + usize::from(at * GRANULE > lower);
        ROUTES.0[at].store(kind as u8 + 1, Relaxed);
    }
}
