//! What becomes of a request, by its size: two small tables that nobody writes in normal operation.
//!
//! Owns which classes are watched and which of them are pooled. A call that reads a table while it
//! changes takes the old way or the new one; both are right.

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::{
    size_class::{DEFAULT_SIZE, GRANULES, MAX_REQUEST, SizeClass, granule},
    stats_page::CLASSES,
};

/// Number of slot sizes: two per class.
pub(crate) const KINDS: usize = 2 * CLASSES;

/// The way of a request. A byte, so that one load tells it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route(u8);

impl Route {
    /// To the next allocator.
    pub(crate) const PASS: Self = Self(0);
    /// To the next allocator, and then a look at which chunk it gave.
    const LOOK: Self = Self(0xff);

    /// The slot size that serves the request, if the pool does.
    #[inline(always)]
    pub(crate) fn kind(self) -> Option<usize> {
        let kind = usize::from(self.0.wrapping_sub(1));
        (kind < KINDS).then_some(kind)
    }
}

#[repr(align(64))]
struct Table([AtomicU8; GRANULES]);

/// [`Route`] by the granule of the request.
static ROUTES: Table = {
    let class = SizeClass::of(DEFAULT_SIZE);
    let mut table = Table([const { AtomicU8::new(0) }; GRANULES]);
    let mut at = granule(class.candidates().low);
    while at <= granule(class.end() - 1) {
        table.0[at] = AtomicU8::new(Route::LOOK.0);
        at += 1;
    }
    table
};

/// [`Watch`] by the granule of the request, or of the chunk's usable size.
static WATCHED: Table = {
    let class = SizeClass::of(DEFAULT_SIZE);
    let mut table = Table([const { AtomicU8::new(0) }; GRANULES]);
    let mut at = granule(class.low);
    while at <= granule(class.end() - 1) {
        table.0[at] = AtomicU8::new(1);
        at += 1;
    }
    table
};

/// The way of a request.
#[inline(always)]
pub(crate) fn of(request: usize) -> Route {
    if request > MAX_REQUEST {
        return Route::PASS;
    }
    Route(ROUTES.0[granule(request)].load(Relaxed))
}

/// What is to be counted of a size.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watch(u8);

impl Watch {
    /// Nothing.
    pub(crate) const NOT: Self = Self(0);
    const SAMPLED: u8 = 0x80;

    /// The number of its class, if that is watched.
    #[inline(always)]
    pub(crate) fn class(self) -> Option<usize> {
        let number = usize::from(self.0 & !Self::SAMPLED);
        (number != 0).then(|| (number - 1) % CLASSES)
    }

    /// The search for a class is on, and this one is in it.
    #[inline(always)]
    pub(crate) fn is_sampled(self) -> bool {
        self.0 & Self::SAMPLED != 0
    }
}

/// What is to be counted of a request, or of a chunk by its usable size.
#[inline(always)]
pub(crate) fn watch_of(size: usize) -> Watch {
    if size > MAX_REQUEST {
        return Watch::NOT;
    }
    Watch(WATCHED.0[granule(size)].load(Relaxed))
}

/// Watches the classes of these sizes from now on (the first `CLASSES` of them), and no others.
/// Pools nothing.
pub(crate) fn watch(sizes: &[usize]) {
    // Not one atomic step: a call in between may be judged by halves of both.
    for (route, watched) in ROUTES.0.iter().zip(&WATCHED.0) {
        route.store(Route::PASS.0, Relaxed);
        watched.store(0, Relaxed);
    }
    for (number, &size) in sizes.iter().take(CLASSES).enumerate() {
        let class = SizeClass::of(size);
        fill(&WATCHED, class, number as u8 + 1);
        fill(&ROUTES, class.candidates(), Route::LOOK.0);
    }
}

/// Looks at every request, and samples every class.
pub(crate) fn sample_all() {
    for (route, watched) in ROUTES.0.iter().zip(&WATCHED.0) {
        watched.fetch_or(Watch::SAMPLED, Relaxed);
        route.store(Route::LOOK.0, Relaxed);
    }
}

/// Is every class being sampled?
pub(crate) fn is_sampling() -> bool {
    Watch(WATCHED.0[0].load(Relaxed)).is_sampled()
}

/// Sends the requests of a class, whose number is below `CLASSES`, to the pool.
pub(crate) fn pool(number: usize, size: usize) {
    let class = SizeClass::of(size);
    let [_, upper] = class.strides();
    for at in granule(class.low)..=granule(class.end() - 1) {
        let kind = 2 * number + usize::from(at * crate::size_class::GRANULE > upper - 16);
        ROUTES.0[at].store(kind as u8 + 1, Relaxed);
    }
}

fn fill(table: &Table, class: SizeClass, value: u8) {
    for at in granule(class.low)..=granule(class.end() - 1) {
        table.0[at].store(value, Relaxed);
    }
}
