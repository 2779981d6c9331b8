//! `libclaude_guard.so`: sits in front of malloc in the client, counts one size class, tells the
//! count, and otherwise isn't there.
//!
//! ```text
//! program ── abi ── next ── elf ── os        a call, passed on; who is next
//!             ├──── counters ── stats_page   what is counted, and where it can be read
//!             └──── report                   SIGUSR1: who answers, and the line
//!         ── abi_pages ── page_events, page_map   the mmap family, and what it has mapped
//! loader ─── boot ── environ, config         what we are in this process
//! ```
//!
//! | file | owns |
//! |---|---|
//! | abi | the exported functions; no other symbol leaves the library |
//! | next, elf | the definitions after ours in load order, found without dlsym |
//! | early | a few bytes for malloc calls that come while these are being looked up |
//! | boot, environ, config | the constructor, the environment, the handover |
//! | counters, size_class, stats_page | the class, the shards, the page (shared with the wrapper) |
//! | abi_pages | the exported mmap family, and the lock of the map |
//! | page_map, page_events | which anonymous memory is mapped; events that wait to be entered |
//! | report | the SIGUSR1 line |
//! | os | every call of kernel and libc |
//!
//! **Locks**: none of our own. The loader's lock is taken (dl_iterate_phdr) by the first call that
//! finds `next` empty and by the constructor, never later.
//!
//! **Fork**: the child leaves the shared page for a private one before fork returns in it
//! (boot::in_forked_child). vfork, posix_spawn and clone(CLONE_VM) children share our memory: what
//! they count is the parent's heap, and their signal dispositions are not taken for the parent's.
//! A raw clone without CLONE_VM can't be hooked: it counts on the parent's page until it execs.
//!
//! **Threads** that are stopped by a signal in mid-call hold nothing that another one waits for.
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
mod next;
mod os;
mod page_events;
mod page_map;
mod report;
mod size_class;
mod stats_page;

/// Those of page_events, which the tests replace by their own.
mod atomics {
    pub(crate) use core::sync::atomic::{AtomicU64, Ordering};
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
