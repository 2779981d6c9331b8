//! Counts the calls of the watched class. Owns the choice of page, shard and class.
//!
//! The hot path takes no lock, allocates nothing and writes only to a cache line that it shares
//! with the few threads of the same shard. Never decides whether this process is to be counted:
//! boot.rs does.

use core::{
    ffi::c_void,
    sync::atomic::{
        AtomicPtr, AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use crate::{
    next, os,
    size_class::{DEFAULT_SIZE, SizeClass},
    stats_page::{self, ClassCounters, SHARDS, Snapshot, StatsPage, Unreadable},
};

/// Counts made before the constructor, and all counts of a process that has no shared page.
static PRIVATE: StatsPage = StatsPage::new();

/// The page that is counted on.
static PAGE: AtomicPtr<StatsPage> = AtomicPtr::new((&raw const PRIVATE).cast_mut());

/// The watched class, and the requests that are worth a second look. Together on one line that
/// nobody writes after the constructor.
#[repr(align(64))]
struct Watched {
    low: AtomicUsize,
    len: AtomicUsize,
    candidates_low: AtomicUsize,
    candidates_len: AtomicUsize,
}

static WATCHED: Watched = {
    let class = SizeClass::of(DEFAULT_SIZE);
    let candidates = class.candidates();
    Watched {
        low: AtomicUsize::new(class.low),
        len: AtomicUsize::new(class.len),
        candidates_low: AtomicUsize::new(candidates.low),
        candidates_len: AtomicUsize::new(candidates.len),
    }
};

/// Watches another class. Counts of the class watched so far are forgotten: they are no counts of
/// the new one.
pub(crate) fn watch(size: usize) {
    set_class(SizeClass::of(size));
    page().clear_counters();
}

/// Watches nothing from now on: every call is only passed on.
pub(crate) fn stop() {
    set_class(SizeClass::NONE);
}

fn set_class(class: SizeClass) {
    let candidates = if class.len == 0 {
        SizeClass::NONE
    } else {
        class.candidates()
    };
    // Not one atomic step: a thread that runs beside the constructor may misjudge the call it is
    // in. No thread but the constructor's own is there in practice.
    WATCHED.low.store(class.low, Relaxed);
    WATCHED.len.store(class.len, Relaxed);
    WATCHED.candidates_low.store(candidates.low, Relaxed);
    WATCHED.candidates_len.store(candidates.len, Relaxed);
}

/// The page that is counted on now.
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

/// Counts from zero on a page of this process alone; for the child of a fork.
pub(crate) fn start_afresh_in_private(pid: u32) -> &'static StatsPage {
    take(&PRIVATE, pid);
    PAGE.store((&raw const PRIVATE).cast_mut(), Release);
    &PRIVATE
}

/// Is any class watched?
#[inline(always)]
pub(crate) fn watching() -> bool {
    WATCHED.len.load(Relaxed) != 0
}

/// May a request of this size get a chunk of the watched class? Cheap, and false for nearly all.
#[inline(always)]
pub(crate) fn is_candidate(request: usize) -> bool {
    request.wrapping_sub(WATCHED.candidates_low.load(Relaxed))
        < WATCHED.candidates_len.load(Relaxed)
}

#[inline(always)]
fn is_watched(size: usize) -> bool {
    size.wrapping_sub(WATCHED.low.load(Relaxed)) < WATCHED.len.load(Relaxed)
}

/// Is this live object of the next allocator a chunk of the watched class?
///
/// # Safety
/// `object` is null or a live object of the next allocator.
#[inline(always)]
pub(crate) unsafe fn is_watched_object(object: *mut c_void) -> bool {
    // SAFETY: the caller's promise.
    watching() && is_watched(unsafe { next::chunk_size(object) })
}

/// Counts a served request that [`is_candidate`]. Null (nothing was served) is not counted.
///
/// # Safety
/// `object` is null or a live object of the next allocator.
#[inline(never)]
pub(crate) unsafe fn count_alloc(object: *mut c_void, request: usize) {
    if object.is_null() {
        return;
    }
    // `alloc` goes by the request, so that it is the exact number of calls; `free` can only go by
    // the chunk. The allocator may serve a request with a chunk of the next class: `stray` makes
    // up for it, or `live` would drift in a heap that is merely fragmented.
    let wanted = is_watched(request);
    // SAFETY: the caller's promise.
    let given = is_watched(unsafe { next::chunk_size(object) });
    if wanted {
        shard().alloc.fetch_add(1, Relaxed);
    }
    if wanted != given {
        shard()
            .stray
            .fetch_add((i64::from(given) - i64::from(wanted)) as u64, Relaxed);
    }
}

/// Counts the end of an object that [`is_watched_object`].
#[inline(always)]
pub(crate) fn count_free() {
    shard().free.fetch_add(1, Relaxed);
}

#[inline(always)]
fn shard() -> &'static ClassCounters {
    // Thread control blocks lie a stack apart: their low bits are equal, so the address is mixed
    // (Fibonacci hashing) and the top bits choose.
    let mixed = (os::thread_pointer() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    &page()
        .shard((mixed >> (u64::BITS - SHARDS.trailing_zeros())) as usize)
        .classes[0]
}
