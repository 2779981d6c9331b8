//! What a thread has of its own: a number, which names its shard of the counters and its cache of
//! the pool. Owns the thread-local block and the set of numbers.
//!
//! The block is declared in assembly, in the initial-exec model: `#[thread_local]` is not in stable
//! Rust, and its default model calls `__tls_get_addr`, which binds a library to ld-linux and may
//! allocate. The model needs no more than that we are loaded with the program, which a preload is.

use core::{
    cell::Cell,
    ptr::null_mut,
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{AcqRel, Relaxed},
    },
};

use crate::{
    next, os,
    pool::{self, Cache},
    stats_page::SHARED_SHARD,
};

/// Threads with a number of their own. All others share one.
pub(crate) const THREADS: usize = SHARED_SHARD;

const WORDS: usize = THREADS.div_ceil(64);

/// The thread-local block; zero in a new thread.
#[repr(C)]
pub(crate) struct Local {
    /// The thread's cache of the pool. Null before it has one, and while one of its calls is at
    /// work in it: a signal handler that comes in between finds none, and does without.
    pub(crate) cache: Cell<*mut Cache>,
    /// 0: not asked for; n + 1: number n; [`NONE`].
    number: Cell<usize>,
    /// It was given a cache.
    pub(crate) entered: Cell<bool>,
}

const _: () = assert!(size_of::<Local>() <= 32);

/// The thread shares its shard, and has no cache: there was no number left, or it is ending.
const NONE: usize = SHARED_SHARD + 1;

core::arch::global_asm!(
    ".section .tbss,\"awT\",@nobits",
    ".balign 16",
    ".type claude_guard_local, @object",
    "claude_guard_local:",
    ".zero 32",
    ".size claude_guard_local, 32",
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
    let address: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the x86-64 TLS ABI: the thread's control block begins with its own address, and the
    // loader has put the block's distance from it into our GOT.
    unsafe {
        core::arch::asm!(
            "mov {0}, qword ptr fs:[0]",
            "add {0}, qword ptr [rip + claude_guard_local@gottpoff]",
            out(reg) address,
            options(nostack, pure, readonly),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the AArch64 TLS ABI, the same in three steps.
    unsafe {
        core::arch::asm!(
            "adrp {1}, :gottprel:claude_guard_local",
            "ldr {1}, [{1}, #:gottprel_lo12:claude_guard_local]",
            "mrs {0}, tpidr_el0",
            "add {0}, {0}, {1}",
            out(reg) address,
            out(reg) _,
            options(nostack, pure, readonly),
        );
    }
    // SAFETY: 32 zeroed bytes of this thread's alone, which are a Local. It isn't Sync, so the
    // reference doesn't leave the thread; no caller keeps it beyond its own call.
    unsafe { &*(address as *const Local) }
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

/// Allows threads to take numbers; at the end of each, `leave` will run.
pub(crate) fn make_ready() {
    next::make_thread_end_key(leave);
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

/// The thread ends: what it had in its cache goes to the slabs, its number to the next thread. What
/// it still calls (destructors that run later) is served without a cache.
extern "C" fn leave(_number: *mut core::ffi::c_void) {
    let local = local();
    let number = local.number.replace(NONE);
    if number == 0 || number == NONE {
        return;
    }
    let cache = local.cache.replace(null_mut());
    if !cache.is_null() {
        pool::empty_cache(cache);
    }
    give_back(number - 1);
}

/// In the child of a fork: this is the only thread. Its cache, if it has one.
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
    own
}
