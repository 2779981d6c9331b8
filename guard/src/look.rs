//! When the pool begins to serve: above the threshold, by our own look at resident memory or by the
//! wrapper's word on the shared page. Owns the threshold and the classes that are to be pooled.
//! Never looks more than four times a second.

use core::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};

use crate::{
    abi_pages,
    config::{Sizes, Threshold},
    growth, os, page, pool, route,
    stats_page::{CLASSES, Choice, State, Wanted},
};

const INTERVAL_MS: u64 = 250;
const KIB_IN_MIB: u64 = 1024;
const KIB_IN_GIB: u64 = 1024 * KIB_IN_MIB;

/// Anonymous resident memory from which on the pool serves, in KiB. 0: at once.
static THRESHOLD_KIB: AtomicU64 = AtomicU64::new(u64::MAX);
/// When the next look may be, in milliseconds.
static NEXT_MS: AtomicU64 = AtomicU64::new(0);
/// The threshold was passed (once; what follows may have to wait for a class to be found).
static DUE: AtomicBool = AtomicBool::new(false);
/// It was tried to open the pool.
static OPENED: AtomicBool = AtomicBool::new(false);
/// Sizes that name the classes, 0 in unused places, and which classes are packed.
static PACKED: [AtomicBool; CLASSES] = [const { AtomicBool::new(false) }; CLASSES];
static SIZES: [AtomicUsize; CLASSES] = [const { AtomicUsize::new(0) }; CLASSES];

/// Says on the page which classes would be watched.
pub(crate) fn name(sizes: &Sizes) {
    for (number, &size) in sizes.as_slice().iter().enumerate() {
        let class = &page::current().classes[number];
        class.size.store(size as u64, Relaxed);
    }
}

/// Watches the classes, from the constructor on.
pub(crate) fn watch(sizes: &Sizes) {
    let page = page::current();
    name(sizes);
    for (number, &size) in sizes.as_slice().iter().enumerate() {
        SIZES[number].store(size, Relaxed);
        PACKED[number].store(sizes.is_packed(number), Relaxed);
    }
    route::watch(sizes.as_slice());
    if sizes.auto {
        page.set_choice(Choice::Searching);
        growth::search();
        route::sample_all();
    }
}

/// Begins to look at the threshold; opens the pool at once if that is 0.
pub(crate) fn start(threshold: Threshold) {
    let kib = match threshold {
        Threshold::Mib(mib) => mib.saturating_mul(KIB_IN_MIB),
        // A quarter of the memory, but not more than 30 GiB (the wrapper's default, which also
        // knows the limits of a cgroup).
        Threshold::Default => (os::total_memory_kib() / 4).min(30 * KIB_IN_GIB),
    };
    THRESHOLD_KIB.store(kib, Relaxed);
    if kib == 0 {
        due();
    }
}

/// Looks, if it is time.
#[cold]
#[inline(never)]
pub(crate) fn look() {
    // The page plane hears of a heap that grows in what is mapped already only from here.
    abi_pages::estimate();
    if DUE.load(Relaxed) {
        return;
    }
    let now_ms = os::monotonic_ms();
    let next_ms = NEXT_MS.load(Relaxed);
    if now_ms < next_ms
        || NEXT_MS
            .compare_exchange(next_ms, now_ms + INTERVAL_MS, Relaxed, Relaxed)
            .is_err()
    {
        return;
    }
    let threshold = THRESHOLD_KIB.load(Relaxed);
    if page::current().wanted() == Wanted::Active
        || os::resident_anon_kib().is_some_and(|kib| kib >= threshold)
    {
        due();
    }
}

fn due() {
    DUE.store(true, SeqCst);
    if growth::is_over() {
        open();
    }
}

/// The search has found the class of this size.
pub(crate) fn found(size: usize) {
    let page = page::current();
    if SIZES[0].swap(size, Relaxed) != size {
        page.classes[0].size.store(size as u64, Relaxed);
        page.clear_counters();
    }
    route::watch(&[size]);
    page.set_choice(Choice::Found);
    // Only now: whoever passes the threshold from here on opens the pool with this class.
    growth::end();
    if DUE.load(SeqCst) {
        open();
    }
}

/// Sends the watched classes to the pool. If there is no room for one, all stays as it is.
fn open() {
    if OPENED.swap(true, SeqCst) {
        return;
    }
    let sizes = || {
        let sizes = SIZES.iter().map(|size| size.load(Relaxed));
        sizes.enumerate().filter(|(_, size)| *size != 0)
    };
    let page = page::current();
    if page.state() != State::Standby || !pool::reserve(sizes().count()) {
        return;
    }
    for (number, size) in sizes() {
        pool::open_class(number, size, PACKED[number].load(Relaxed));
        page.classes[number].pooled.store(1, Relaxed);
    }
    page.set_state(State::Active);
    for (number, size) in sizes() {
        route::pool(number, size);
    }
}
