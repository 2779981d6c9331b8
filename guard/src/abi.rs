//! The functions of the malloc family that the program calls in place of libc's, and those by which
//! it takes SIGUSR1. With abi_pages.rs, the only exported symbols.
//!
//! By its size a request is passed on, passed on and counted, or served by the pool (route.rs). What
//! the program sees is the next allocator's: results, errno, alignment; where the pool serves, they
//! are glibc's.

use core::{
    ffi::{c_int, c_void},
    ptr::{copy_nonoverlapping, null_mut, write_bytes},
};

use crate::{
    counters, early, next,
    os::{self, ErrnoKept, SigAction},
    page,
    pool::{self, Place, Taken},
    report,
    route::{self, Route, Watch},
    thread,
};

// The contracts are those of malloc(3), posix_memalign(3), malloc_usable_size(3), sigaction(2).
// SAFETY, for every call of counters::count_alloc and counters::End::of below: the object is the
// next allocator's, just served or, by the program's contract, live; objects of early.rs and of the
// pool are sorted out first, or can't occur.

#[unsafe(no_mangle)]
unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    allocate(size)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let request = count.saturating_mul(size);
    let route = Route::of(request);
    if let Some(kind) = route.kind()
        && let Some(taken) = pool::take_cached(kind)
    {
        return zeroed(taken, request);
    }
    if route == Route::PASS {
        return next::calloc(count, size);
    }
    allocate_zeroed(count, size, route)
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

/// The same as free (C23 7.24.3.4): libc's would not know an object of the pool.
#[unsafe(no_mangle)]
unsafe extern "C" fn free_sized(object: *mut c_void, _size: usize) {
    release(object);
}

/// The same as free (C23 7.24.3.5).
#[unsafe(no_mangle)]
unsafe extern "C" fn free_aligned_sized(object: *mut c_void, _align: usize, _size: usize) {
    release(object);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    if is_malloc_aligned(align, size) {
        return allocate(size);
    }
    served(next::aligned_alloc(align, size), size)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    if is_malloc_aligned(align, size) {
        return allocate(size);
    }
    served(next::memalign(align, size), size)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    // SAFETY: the program's contract: `out` can be written, and after a success it has been.
    unsafe {
        if is_malloc_aligned(align, size)
            && align >= size_of::<*mut c_void>()
            && let Some(kind) = Route::of(size).kind()
            && let Some(taken) = pool::take(kind)
        {
            *out = taken.object;
            return 0;
        }
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

/// Rounds the request up to pages: of a class that can be watched only if nothing is asked for.
#[unsafe(no_mangle)]
unsafe extern "C" fn pvalloc(size: usize) -> *mut c_void {
    let object = next::pvalloc(size);
    if size == 0 {
        return served(object, 0);
    }
    object
}

#[unsafe(no_mangle)]
unsafe extern "C" fn malloc_usable_size(object: *mut c_void) -> usize {
    if let Some(place) = pool::place(object) {
        return place.stride();
    }
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

/// The way that leads here is to be laid out beside the common one, which then has no taken branch:
/// these are a third of what standing in front of malloc costs.
#[cold]
#[inline(always)]
fn rare() {}

/// An alignment that a request of this size is given anyway.
fn is_malloc_aligned(align: usize, size: usize) -> bool {
    align.is_power_of_two()
        && align <= 16
        && (Route::of(size).kind()).is_none_or(|kind| pool::is_aligned(kind, align))
}

#[inline(always)]
fn allocate(size: usize) -> *mut c_void {
    if !route::is_request_of_interest(size) {
        // SAFETY: the constructor lets go of requests only if there is a malloc (boot.rs).
        return unsafe { next::malloc_known(size) };
    }
    rare();
    let route = Route::of_interest(size);
    match route.kind() {
        Some(kind) => match pool::take_cached(kind) {
            Some(taken) => taken.object,
            None => allocate_pooled(size, kind),
        },
        None => allocate_counted(size, route),
    }
}

/// A request that the pool serves, but not from the thread's cache.
#[inline(never)]
fn allocate_pooled(size: usize, kind: usize) -> *mut c_void {
    if let Some(taken) = pool::take(kind) {
        return taken.object;
    }
    served(next::malloc(size), size)
}

/// A request whose chunk is to be looked at.
#[inline(never)]
fn allocate_counted(size: usize, route: Route) -> *mut c_void {
    let object = next::malloc(size);
    // SAFETY: above.
    unsafe { counters::count_alloc(object, size, route.watch_of_looked_at()) };
    object
}

/// The same for calloc.
#[inline(never)]
fn allocate_zeroed(count: usize, size: usize, route: Route) -> *mut c_void {
    let request = count.saturating_mul(size);
    if let Some(kind) = route.kind()
        && let Some(taken) = pool::take(kind)
    {
        return zeroed(taken, request);
    }
    served(next::calloc(count, size), request)
}

/// The object of a request, its bytes zero.
#[inline(always)]
fn zeroed(taken: Taken, request: usize) -> *mut c_void {
    if !taken.is_zero {
        // SAFETY: a slot has room for every request of its kind.
        unsafe { write_bytes(taken.object.cast::<u8>(), 0, request) };
    }
    taken.object
}

/// Counts a request that the next allocator served, and hands it through.
#[inline(always)]
fn served(object: *mut c_void, request: usize) -> *mut c_void {
    let route = Route::of(request);
    if route != Route::PASS {
        // SAFETY: above.
        unsafe { counters::count_alloc(object, request, route.watch()) };
    }
    object
}

#[inline(always)]
fn reallocate(object: *mut c_void, size: usize) -> *mut c_void {
    if object.is_null() {
        return allocate(size);
    }
    if let Some(place) = pool::place(object) {
        return reallocate_pooled(object, place, size);
    }
    if early::owns(object) {
        return served(next::realloc_early(object, size), size);
    }
    let route = Route::of(size);
    // Size 0 is glibc's way to free: no object is wanted.
    if size != 0
        && let Some(kind) = route.kind()
        && let Some(taken) = pool::take(kind)
    {
        // SAFETY: above; both objects are live, different, and have so many bytes.
        unsafe {
            let len = next::malloc_usable_size(object).min(size);
            copy_nonoverlapping(object.cast::<u8>(), taken.object.cast(), len);
        }
        release(object);
        return taken.object;
    }
    // SAFETY: above; the object is judged before the call, which may end it.
    let (end, new) = unsafe { (counters::End::of(object), next::realloc(object, size)) };
    // Null is a failure, which leaves the object alone; for size 0 it is glibc's way to free.
    if !new.is_null() || size == 0 {
        end.count();
    }
    served(new, size)
}

#[cold]
#[inline(never)]
fn reallocate_pooled(object: *mut c_void, place: Place, size: usize) -> *mut c_void {
    if size == 0 {
        pool::put(object, place);
        return null_mut();
    }
    if Route::of(size).kind() == Some(place.kind()) {
        // In place. As elsewhere, one object ends and one begins.
        thread::count_free(place.class());
        thread::count_hit(place.class());
        return object;
    }
    let new = allocate(size);
    if new.is_null() {
        // To make an object smaller never fails; to make it larger may.
        return if size <= place.stride() { object } else { new };
    }
    // SAFETY: both objects are live, different, and have so many bytes.
    unsafe {
        copy_nonoverlapping(object.cast::<u8>(), new.cast(), place.stride().min(size));
    }
    pool::put(object, place);
    new
}

#[inline(always)]
fn release(object: *mut c_void) {
    if let Some(place) = pool::place(object) {
        rare();
        return pool::put(object, place);
    }
    // SAFETY: above, and the program's contract.
    unsafe {
        let Some(header) = next::header(object) else {
            rare();
            return release_from_any(object);
        };
        if route::is_header_of_interest(header) {
            rare();
            let watch = Watch::of_chunk(header);
            match watch.just_counted().zip(thread::own_shard()) {
                Some((class, shard)) => {
                    page::add_own(&shard.classes[class].free, 1);
                }
                None => return release_slowly(object),
            }
        }
        // There are headers, so there is a free.
        next::free_known(object);
    }
}

/// An object of which more has to be done, or less, than to count it on the thread's own shard.
#[inline(never)]
fn release_slowly(object: *mut c_void) {
    if early::owns(object) {
        return;
    }
    // SAFETY: above, and the program's contract.
    unsafe {
        counters::End::of(object).count();
        next::free(object);
    }
}

/// The same for an allocator of which nothing is known: its free may set errno when it gives memory
/// back (as glibc's did before 2.33).
#[inline(never)]
fn release_from_any(object: *mut c_void) {
    if object.is_null() || early::owns(object) {
        return;
    }
    let _errno = ErrnoKept::new();
    // SAFETY: above, and the program's contract.
    unsafe {
        counters::End::of(object).count();
        next::free(object);
    }
}
