//! What a thread has of its own: a number, which names its shard of the counters and its cache of
//! the pool. Owns the thread-local block, the set of numbers, and counting on the right shard.
//!
//! The block is declared in assembly, in the initial-exec model: `#[thread_local]` is not in stable
//! Rust, and its default model calls `__tls_get_addr`, which binds a library to ld-linux and may
//! allocate. The model needs no more than that we are loaded with the program, which a preload is.

use core::{
    cell::Cell,
    ffi::c_void,
    ptr::{null, null_mut},
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{AcqRel, Relaxed},
    },
};

use crate::{
    next, os,
    page::{self, add_own},
    stats_page::{ClassCounters, SHARED_SHARD, Shard},
};

/// Where a thread's cache of the pool is. What is in it is the pool's business.
pub(crate) type CachePlace = *mut ();

/// Threads with a number of their own. All others share one.
pub(crate) const THREADS: usize = SHARED_SHARD;

const WORDS: usize = THREADS.div_ceil(64);

/// The thread-local block; zero in a new thread.
#[repr(C)]
pub(crate) struct Local {
    /// The thread's cache of the pool. Null before it has one, and while one of its calls is at
    /// work in it: a signal handler that comes in between finds none, and does without.
    pub(crate) cache: Cell<CachePlace>,
    /// 0: not asked for; n + 1: number n; [`NONE`].
    number: Cell<usize>,
    /// It was given a cache.
    pub(crate) entered: Cell<bool>,
    /// Its counters; null if it has none of its own.
    pub(crate) shard: Cell<*const Shard>,
}

const _: () = assert!(size_of::<Local>() <= 64);

/// The thread shares its shard, and has no cache: there was no number left, or it is ending.
const NONE: usize = SHARED_SHARD + 1;

core::arch::global_asm!(
    ".section .tbss,\"awT\",@nobits",
    ".balign 64",
    ".type claude_guard_local, @object",
    "claude_guard_local:",
    ".zero 64",
    ".size claude_guard_local, 64",
    ".text",
);

/// Numbers in use, a bit each.
static USED: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

/// From the constructor on. Before, our relocations may be missing (a resolver function that
/// allocates), and with them the way to the block.
static READY: AtomicBool = AtomicBool::new(false);

/// The calling thread's block.
#[inline(always)]
pub(crate) fn local() -> &'static Local {
    let address = os::thread_pointer().wrapping_add(offset());
    // SAFETY: 64 zeroed bytes of this thread's alone, which are a Local. It isn't Sync, so the
    // reference doesn't leave the thread; no caller keeps it beyond its own call.
    unsafe { &*(address as *const Local) }
}

/// Distance of the block from the thread pointer, which the loader has put into our GOT.
#[inline(always)]
fn offset() -> usize {
    let offset: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads a word of our own GOT.
    unsafe {
        core::arch::asm!(
            "mov {0}, qword ptr [rip + claude_guard_local@gottpoff]",
            out(reg) offset,
            options(nostack, pure, readonly, preserves_flags),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the same in two steps.
    unsafe {
        core::arch::asm!(
            "adrp {0}, :gottprel:claude_guard_local",
            "ldr {0}, [{0}, #:gottprel_lo12:claude_guard_local]",
            out(reg) offset,
            options(nostack, pure, readonly, preserves_flags),
        );
    }
    offset
}

/// Takes the cache out of the thread's block, for the time of a call.
#[inline(always)]
pub(crate) fn take_cache() -> CachePlace {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the block's first word, by the segment that begins at the thread pointer: one
    // instruction less than by its address, and there are only some twenty in a call.
    unsafe {
        let cache: CachePlace;
        core::arch::asm!(
            "mov {cache}, qword ptr fs:[{offset}]",
            "mov qword ptr fs:[{offset}], 0",
            offset = in(reg) offset(),
            cache = out(reg) cache,
            options(nostack, preserves_flags),
        );
        cache
    }
    #[cfg(not(target_arch = "x86_64"))]
    local().cache.replace(null_mut())
}

/// Puts the cache back.
#[inline(always)]
pub(crate) fn put_cache(cache: CachePlace) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in take_cache.
    unsafe {
        core::arch::asm!(
            "mov qword ptr fs:[{offset}], {cache}",
            offset = in(reg) offset(),
            cache = in(reg) cache,
            options(nostack, preserves_flags),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    local().cache.set(cache);
}

/// The calling thread's number, if it has one of its own. The first call takes it.
#[inline(always)]
pub(crate) fn number() -> Option<usize> {
    if !READY.load(Relaxed) {
        return None;
    }
    match local().number.get() {
        0 => claim(),
        NONE => None,
        taken => Some(taken - 1),
    }
}

/// The calling thread's own counters, if it has any by now. From the constructor on.
#[inline(always)]
pub(crate) fn own_shard() -> Option<&'static Shard> {
    // SAFETY: null, or a shard of a page that is never unmapped.
    unsafe { local().shard.get().as_ref() }
}

/// Allows threads to take numbers; at the end of each, `at_end` runs, which calls [`leave`].
pub(crate) fn make_ready(at_end: extern "C" fn(*mut c_void)) {
    next::make_thread_end_key(at_end);
    READY.store(true, Relaxed);
}

#[cold]
#[inline(never)]
fn claim() -> Option<usize> {
    let local = local();
    let Some(number) = lowest_unused() else {
        local.number.set(NONE);
        return None;
    };
    // Before the call below, which may allocate.
    local.number.set(number + 1);
    if next::set_thread_end_value(number + 1) || os::is_first_thread() {
        local.shard.set(page::current().shard(number));
        return Some(number);
    }
    // Nobody would tell us when it ends: it stays without.
    local.number.set(NONE);
    give_back(number);
    None
}

/// The lowest number that is free; a memory of few threads stays small.
fn lowest_unused() -> Option<usize> {
    for (at, word) in USED.iter().enumerate() {
        let mut used = word.load(Relaxed);
        loop {
            let bit = used.trailing_ones() as usize;
            let number = at * 64 + bit;
            if bit == 64 || number >= THREADS {
                break;
            }
            match word.compare_exchange_weak(used, used | 1 << bit, AcqRel, Relaxed) {
                Ok(_) => return Some(number),
                Err(now) => used = now,
            }
        }
    }
    None
}

fn give_back(number: usize) {
    USED[number / 64].fetch_and(!(1 << (number % 64)), AcqRel);
}

/// The thread ends: it has nothing of its own any more, and what it still calls (destructors that run
/// later) is served without. Its cache is shown to `empty`, then its number goes to the next thread.
pub(crate) fn leave(empty: impl FnOnce(CachePlace)) {
    let local = local();
    let number = local.number.replace(NONE);
    if number == 0 || number == NONE {
        return;
    }
    let cache = local.cache.replace(null_mut());
    if !cache.is_null() {
        empty(cache);
    }
    local.shard.set(null());
    give_back(number - 1);
}

/// In the child of a fork: this is the only thread, and counts on another page. Its number.
pub(crate) fn forget_the_others() -> Option<usize> {
    let taken = local().number.get();
    let own = (taken != 0 && taken != NONE).then(|| taken - 1);
    for (at, word) in USED.iter().enumerate() {
        word.store(
            match own {
                Some(own) if own / 64 == at => 1 << (own % 64),
                _ => 0,
            },
            Relaxed,
        );
    }
    if let Some(own) = own {
        local().shard.set(page::current().shard(own));
    }
    own
}

/// Counts the end of an object of the class with this number.
pub(crate) fn count_free(class: usize) {
    add(class, |counters| &counters.free, 1);
}

/// Counts a request that the pool served, or an object of its that changed hands in place.
pub(crate) fn count_hit(class: usize) {
    add(class, |counters| &counters.pool_hit, 1);
}

/// Adds to a counter of the thread's shard, whichever that is; the new value.
pub(crate) fn add(class: usize, field: fn(&ClassCounters) -> &AtomicU64, value: u64) -> u64 {
    match number() {
        Some(number) => add_own(field(&page::current().shard(number).classes[class]), value),
        None => field(&page::current().shard(SHARED_SHARD).classes[class])
            .fetch_add(value, Relaxed)
            .wrapping_add(value),
    }
}
