//! The statistics page that this process counts on, and the private one before and without it. Owns
//! that choice; knows neither what is counted nor when.

use core::sync::atomic::{
    AtomicPtr, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::stats_page::{self, Snapshot, StatsPage, Unreadable};

/// Counts made before the constructor, and all counts of a process that has no shared page.
static PRIVATE: StatsPage = StatsPage::new();

/// The page that is counted on.
static PAGE: AtomicPtr<StatsPage> = AtomicPtr::new((&raw const PRIVATE).cast_mut());

/// The page that is counted on now.
#[inline(always)]
pub(crate) fn current() -> &'static StatsPage {
    // SAFETY: only ever set to PRIVATE or to a mapping that is never unmapped (count_on).
    unsafe { &*PAGE.load(Acquire) }
}

/// Counts on `shared` from now on, and takes along what was counted so far.
pub(crate) fn count_on(shared: &'static StatsPage) {
    PAGE.store(core::ptr::from_ref(shared).cast_mut(), Release);
    collect();
}

/// Brings over counts that a thread made on the private page while the page was being changed.
pub(crate) fn collect() {
    let page = current();
    if !core::ptr::eq(page, &PRIVATE) {
        page.absorb(&PRIVATE);
    }
}

fn words(page: &StatsPage) -> &[AtomicU64] {
    // SAFETY: a page is made of nothing but AtomicU64 (repr(C)), padding included, and lives as
    // long as the slice.
    unsafe {
        core::slice::from_raw_parts(
            core::ptr::from_ref(page).cast::<AtomicU64>(),
            stats_page::LEN / size_of::<AtomicU64>(),
        )
    }
}

/// Takes a page for a process: everything at zero, then the header.
pub(crate) fn take(page: &StatsPage, pid: u32) {
    for word in words(page) {
        word.store(0, Relaxed);
    }
    page.name(pid);
}

/// What is on the page that is counted on.
pub(crate) fn snapshot() -> Result<Snapshot, Unreadable> {
    let words = words(current());
    Snapshot::read(&|at| words[at / size_of::<AtomicU64>()].load(Acquire))
}

/// The child of a fork goes on alone: on the private page, with what the parent's page says of the
/// process (classes, pool, page plane), and counts from zero.
pub(crate) fn start_afresh_in_private(pid: u32) {
    let parent = current();
    if core::ptr::eq(parent, &PRIVATE) {
        PRIVATE.clear_counters();
        PRIVATE.rename(pid);
        return;
    }
    for (own, parents) in words(&PRIVATE).iter().zip(words(parent)) {
        own.store(parents.load(Relaxed), Relaxed);
    }
    PRIVATE.clear_counters();
    PRIVATE.rename(pid);
    PAGE.store((&raw const PRIVATE).cast_mut(), Release);
}

/// Notes a system call that failed, by its number (os::Call).
pub(crate) fn record_fault(call: u64, errno: i32) {
    let faults = &current().faults;
    faults.call.store(call, Relaxed);
    faults.errno.store(errno as u64, Relaxed);
    faults.count.fetch_add(1, Relaxed);
}

/// Adds to a counter of the thread's own; the new value. Nobody else writes it, so two steps do; an
/// atomic one would cost a tenth of a malloc.
#[inline(always)]
pub(crate) fn add_own(counter: &AtomicU64, value: u64) -> u64 {
    let sum = counter.load(Relaxed).wrapping_add(value);
    counter.store(sum, Relaxed);
    sum
}
