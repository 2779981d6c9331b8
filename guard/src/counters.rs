//! Counts the calls of the watched classes. Owns the choice of page and shard.
//!
//! The hot path takes no lock, allocates nothing, and writes only to a cache line of its thread.
//! Never decides whether this process is to be counted: boot.rs does.

use core::{
    ffi::c_void,
    sync::atomic::{
        AtomicPtr, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use crate::{
    growth, look, next,
    os::Call,
    route::{self, Watch},
    stats_page::{self, ClassCounters, SHARED_SHARD, Snapshot, StatsPage, Unreadable},
    thread,
};

/// Counts made before the constructor, and all counts of a process that has no shared page.
static PRIVATE: StatsPage = StatsPage::new();

/// The page that is counted on.
static PAGE: AtomicPtr<StatsPage> = AtomicPtr::new((&raw const PRIVATE).cast_mut());

/// Counted requests of one class and thread from one look at the threshold to the next.
const LOOK_EVERY: u64 = 1024;

/// The page that is counted on now.
#[inline(always)]
pub(crate) fn page() -> &'static StatsPage {
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
    let page = page();
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
    let words = words(page());
    Snapshot::read(&|at| words[at / size_of::<AtomicU64>()].load(Acquire))
}

/// The child of a fork goes on alone: on the private page, with what the parent's page says of the
/// process (classes, pool, page plane), and counts from zero.
pub(crate) fn start_afresh_in_private(pid: u32) {
    let parent = page();
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

/// Notes a system call that failed.
pub(crate) fn record_fault(call: Call, errno: i32) {
    let faults = &page().faults;
    faults.call.store(call as u64, Relaxed);
    faults.errno.store(errno as u64, Relaxed);
    faults.count.fetch_add(1, Relaxed);
}

/// Counts a request that the next allocator served, and that is worth a second look. Null (nothing
/// was served) is not counted.
///
/// # Safety
/// `object` is null or a live object of the next allocator.
#[inline(always)]
pub(crate) unsafe fn count_alloc(object: *mut c_void, request: usize) {
    if object.is_null() {
        return;
    }
    // `alloc` goes by the request, so that it is the exact number of calls; `free` can only go by
    // the chunk. The allocator may serve a request with a chunk of the next class: `stray` makes
    // up for it, or `live` would drift in a heap that is merely fragmented.
    // SAFETY: the caller's promise.
    let chunk = unsafe { next::chunk_size(object) };
    let (wanted, given) = (route::watch_of(request), route::watch_of(chunk));
    if let Some(class) = wanted.class() {
        let count = add(class, |counters| &counters.alloc, 1);
        if count % LOOK_EVERY == 0 {
            look::look();
        }
    }
    if wanted != given {
        count_stray(wanted, given);
    }
    if given.is_sampled() {
        growth::began(object, chunk);
    }
}

#[cold]
#[inline(never)]
fn count_stray(wanted: Watch, given: Watch) {
    if wanted.class() == given.class() {
        return;
    }
    for (watch, change) in [(wanted, -1_i64), (given, 1)] {
        if let Some(class) = watch.class() {
            add(class, |counters| &counters.stray, change as u64);
        }
    }
}

/// Counts the end of an object of the next allocator, which may have a chunk of a watched class.
///
/// # Safety
/// `object` is a live object of the next allocator.
#[inline(always)]
pub(crate) unsafe fn count_end(object: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { End::of(object) }.count();
}

/// The end of an object, to be counted once it has come.
pub(crate) struct End {
    object: *mut c_void,
    chunk: usize,
}

impl End {
    /// # Safety
    /// `object` is a live object of the next allocator.
    #[inline(always)]
    pub(crate) unsafe fn of(object: *mut c_void) -> Self {
        Self {
            object,
            // SAFETY: the caller's promise.
            chunk: unsafe { next::chunk_size(object) },
        }
    }

    /// Is there anything to count?
    #[inline(always)]
    pub(crate) fn is_watched(&self) -> bool {
        route::watch_of(self.chunk) != Watch::NOT
    }

    #[inline(always)]
    pub(crate) fn count(self) {
        let watch = route::watch_of(self.chunk);
        if watch == Watch::NOT {
            return;
        }
        if let Some(class) = watch.class() {
            count_free(class);
        }
        if watch.is_sampled() {
            growth::ended(self.object, self.chunk);
        }
    }
}

/// Counts the end of an object of the class with this number.
#[inline(always)]
pub(crate) fn count_free(class: usize) {
    add(class, |counters| &counters.free, 1);
}

/// Counts a request that the pool served, or an object of its that changed hands in place.
pub(crate) fn count_hit(class: usize) {
    add(class, |counters| &counters.pool_hit, 1);
}

/// Adds to a counter of the thread's; the new value.
#[inline(always)]
fn add(class: usize, field: fn(&ClassCounters) -> &AtomicU64, value: u64) -> u64 {
    match thread::number() {
        Some(number) => {
            // Nobody else writes it, so two steps do; an atomic one costs a tenth of a malloc.
            let counter = field(&page().shard(number).classes[class]);
            let sum = counter.load(Relaxed).wrapping_add(value);
            counter.store(sum, Relaxed);
            sum
        }
        None => field(&page().shard(SHARED_SHARD).classes[class])
            .fetch_add(value, Relaxed)
            .wrapping_add(value),
    }
}
