//! The functions that the program calls in place of libc's; the only exported ones.
//!
//! Each passes the call on and counts it. None takes a lock, allocates, or changes what the caller
//! sees: results, errno and alignment are the next allocator's.

use core::{
    ffi::{c_int, c_void},
    ptr::null_mut,
};

use crate::{
    counters, early, next,
    os::{self, ErrnoKept, SigAction},
    report,
};

// The contracts are those of malloc(3), posix_memalign(3), malloc_usable_size(3), sigaction(2).
// SAFETY, for every call of counters::count_alloc and counters::is_watched_object below: the object
// is the next allocator's, just served or, by the program's contract, live; objects of early.rs are
// sorted out first, or can't occur.

#[unsafe(no_mangle)]
unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    if counters::is_candidate(size) {
        return served(next::malloc(size), size);
    }
    next::malloc(size)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let request = count.saturating_mul(size);
    if counters::is_candidate(request) {
        return served(next::calloc(count, size), request);
    }
    next::calloc(count, size)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(object: *mut c_void, size: usize) -> *mut c_void {
    reallocate(object, size)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn reallocarray(object: *mut c_void, count: usize, size: usize) -> *mut c_void {
    // Not passed on: old libcs have none, and glibc's comes back to us through realloc.
    match count.checked_mul(size) {
        Some(len) => reallocate(object, len),
        None => {
            os::set_errno(os::ENOMEM);
            null_mut()
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn free(object: *mut c_void) {
    release(object);
}

/// The same as free; gone from glibc since 2.26.
#[unsafe(no_mangle)]
unsafe extern "C" fn cfree(object: *mut c_void) {
    release(object);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    served(next::aligned_alloc(align, size), size)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    served(next::memalign(align, size), size)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    // SAFETY: the program's contract: `out` can be written, and after a success it has been.
    unsafe {
        let result = next::posix_memalign(out, align, size);
        if result == 0 {
            served(*out, size);
        }
        result
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn valloc(size: usize) -> *mut c_void {
    served(next::valloc(size), size)
}

/// Rounds the request up to pages: never one of a class that can be watched.
#[unsafe(no_mangle)]
unsafe extern "C" fn pvalloc(size: usize) -> *mut c_void {
    next::pvalloc(size)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn malloc_usable_size(object: *mut c_void) -> usize {
    if early::owns(object) {
        return early::contents(object).len();
    }
    // SAFETY: the program's contract.
    unsafe { next::malloc_usable_size(object) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sigaction(signal: c_int, new: *const SigAction, old: *mut SigAction) -> c_int {
    // SAFETY: the program's contract; `new` may be the same record as `old`, so it is read first.
    unsafe {
        let handler = (!new.is_null()).then(|| (*new).sa_sigaction);
        let result = next::sigaction(signal, new, old);
        if let Some(handler) = handler
            && result == 0
            && signal == os::SIGUSR1
        {
            report::usr1_was_set_to(handler);
        }
        result
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn signal(signal: c_int, handler: usize) -> usize {
    let old = next::signal(signal, handler);
    if old != os::SIG_ERR && signal == os::SIGUSR1 {
        report::usr1_was_set_to(handler);
    }
    old
}

/// Counts a served request and hands it through.
#[inline(always)]
fn served(object: *mut c_void, request: usize) -> *mut c_void {
    if counters::is_candidate(request) && !early::owns(object) {
        // SAFETY: above.
        unsafe { counters::count_alloc(object, request) };
    }
    object
}

#[inline(always)]
fn reallocate(object: *mut c_void, size: usize) -> *mut c_void {
    if early::owns(object) {
        return served(next::realloc_early(object, size), size);
    }
    // SAFETY: above; the object is judged before the call, which may end it.
    let (was_watched, new) = unsafe {
        (
            counters::is_watched_object(object),
            next::realloc(object, size),
        )
    };
    // Null is a failure, which leaves the object alone; for size 0 it is glibc's way to free.
    if was_watched && (!new.is_null() || size == 0) {
        counters::count_free();
    }
    served(new, size)
}

#[inline(always)]
fn release(object: *mut c_void) {
    if object.is_null() || early::owns(object) {
        return;
    }
    if !next::header_is_size() {
        return release_from_any(object);
    }
    // SAFETY: above, and the program's contract.
    unsafe {
        if counters::is_watched_object(object) {
            counters::count_free();
        }
        next::free(object);
    }
}

/// The same for an allocator of which nothing is known: its free may set errno when it gives memory
/// back (as glibc's did before 2.33).
#[inline(never)]
fn release_from_any(object: *mut c_void) {
    let _errno = ErrnoKept::new();
    // SAFETY: above, and the program's contract.
    unsafe {
        if counters::is_watched_object(object) {
            counters::count_free();
        }
        next::free(object);
    }
}
