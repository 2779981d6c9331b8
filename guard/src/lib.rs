//! `libclaude_guard.so`: sits in front of malloc and mmap in the client, counts, pools the class that
//! leaks, keeps a map of what is mapped, tells it, and otherwise isn't there.
//!
//! ```text
//! program ── abi ──┬─ next ── elf ── os         a call, passed on; who is next
//!                  ├─ route ── size_class       which way a request takes
//!                  ├─ counters ── page          what is counted, and where it can be read
//!                  ├─ pool ── slab, thread      slots without headers; what a thread has of its own
//!                  ├─ growth, look              which class leaks; when the pool begins
//!                  └─ report                    SIGUSR1: who answers, and the line
//! program ── abi_pages ── page_events, page_map the mmap family, and what it has mapped
//! loader ─── boot ── environ, config            what we are in this process
//! ```
//!
//! | file | owns |
//! |---|---|
//! | abi | the exported malloc family, and the functions that set SIGUSR1 |
//! | next, elf | the definitions after ours in load order, found without dlsym |
//! | early | a few bytes for malloc calls that come while these are being looked up |
//! | boot, environ, config | the constructor, the environment, the handover |
//! | route, size_class | which classes are watched and which are pooled, by size |
//! | counters | what a call means for the counts |
//! | page, stats_page | the page that is counted on, its layout (shared with the wrapper) |
//! | pool, slab | the slabs, the threads' caches of free slots, the lock-free part of a slab |
//! | lock | a spin lock that knows its owner |
//! | thread | the thread-local block, the numbers of threads, counting on the right shard |
//! | growth, look | the search for the class that only grows, the threshold |
//! | abi_pages | the exported mmap family, and the lock of the map |
//! | page_map, page_events | which anonymous memory is mapped; events that wait to be entered |
//! | report | the SIGUSR1 line |
//! | os | every call of kernel and libc |
//!
//! # Rules
//!
//! **Nobody waits.** A thread may be stopped by a signal in the middle of any call, and not go on
//! before others have (JavaScriptCore stops threads so to scan their stacks). So every lock is tried
//! for a bounded time, and there is a way without it: the next allocator serves the request, a slot
//! that is freed waits on the slab's pending stack, an event of the page plane waits in its queue.
//! The one exception is not ours: the loader's lock, which the first call of all and the constructor
//! take (dl_iterate_phdr), never later.
//!
//! **Lock order.** One lock per kind of the pool (pool::Kind::lists), one of the search
//! (growth::HISTORY), one of the page map (abi_pages). No code takes one of them while it holds
//! another, but before_fork, which takes those of the pool in the order of their numbers.
//!
//! **Re-entrancy.** A signal handler that allocates while its thread is at work in its cache finds
//! the cache taken (thread::take_cache), and is served by the next allocator; what it frees goes to
//! the slab directly. Our own calls allocate nothing, but pthread_setspecific may, once per thread.
//!
//! | what happens | the rule | test |
//! |---|---|---|
//! | fork(2) | before it the pool's locks are taken, for a bounded time; the child leaves the shared page for a private one, keeps its own thread's cache, loses what other threads had in theirs, and closes a kind whose lock was not to be had | pool, leaker |
//! | vfork, posix_spawn, clone(CLONE_VM \| CLONE_VFORK) | the child shares our memory while its thread in the parent waits: it goes on with that thread's cache, and what it counts is the parent's heap. Its signal dispositions are not taken for the parent's | pool, guard |
//! | clone(CLONE_VM) without VFORK, with the parent's thread pointer | as with glibc, whose own caches are thread-local too: the two must not allocate at the same time | - |
//! | clone without CLONE_VM, past libc | can't be hooked: the child has a copy of everything and goes on; it counts on the parent's page until it execs | pool |
//! | a thread ends | its slots and the rest of its bump slab go back to the slabs, its number to the next thread; what its later destructors call is served without a cache | pool |
//! | more threads than numbers | the others are served by the next allocator, and share a shard | pool |
//! | a thread is stopped by a signal | see *Nobody waits* | pool |
//! | RLIMIT_AS | the reservation takes no more than a sixteenth of it: it is tried at a quarter of the size again and again; below 16 MiB per kind there is no pool, and the guard stays in standby | pool, faults |
//! | overcommit_memory=2, RLIMIT_DATA | the reservation counts nothing (PROT_NONE); slabs become writable in steps of 2 to 64 MiB | pool |
//! | no memory | the next allocator is asked, whose null and ENOMEM the program gets; the kernel is asked again ever less often | pool |
//! | a system call of ours fails | it is noted on the page, and done without | faults |
//! | free of a slot that is free, or of no slot | the process ends (abort), as with glibc | pool |
//!
//! No `std`, no `alloc`: the memory they would take is the memory that we count.

#![no_std]

mod abi;
mod abi_pages;
mod boot;
mod config;
mod counters;
mod early;
mod elf;
mod environ;
mod growth;
mod lock;
mod look;
mod next;
mod os;
mod page;
mod page_events;
mod page_map;
mod pool;
mod report;
mod route;
mod size_class;
mod slab;
mod stats_page;
mod thread;

/// What the lock-free code is built on; tests put their own in its place.
mod sync {
    pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
}

/// Silent: the program's stdout and stderr are not ours.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    os::abort()
}

// `core` is compiled with unwinding and refers to its personality routine. A fully optimised build
// drops the reference together with the code; in others it stays and must be defined, or the
// library wouldn't load. Hidden: it is nobody else's.
core::arch::global_asm!(
    ".globl rust_eh_personality",
    ".hidden rust_eh_personality",
    ".type rust_eh_personality, %function",
    "rust_eh_personality:",
    #[cfg(target_arch = "x86_64")]
    "ud2",
    #[cfg(target_arch = "aarch64")]
    "brk #1",
);
