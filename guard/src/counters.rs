//! Judges the calls that are worth a second look: what a request wanted, what its chunk is, what ends.
//!
//! The hot path takes no lock, allocates nothing, and writes only to a cache line of its thread.

use core::ffi::c_void;

use crate::{
    early, growth, look, next,
    page::add_own,
    route::{Route, Watch},
    thread::{self, add, count_free},
};

/// Counted requests of one class and thread from one look at the threshold to the next.
const LOOK_EVERY: u64 = 1024;

/// Counts a request that the next allocator served, and whose chunk is to be looked at. Null
/// (nothing was served) is not counted.
///
/// # Safety
/// `object` is null, or a live object of the next allocator or of early.rs.
#[inline(always)]
pub(crate) unsafe fn count_alloc(object: *mut c_void, request: usize, wanted: Watch) {
    // SAFETY: the caller's promise.
    if let Some(header) = unsafe { next::header(object) }
        && Watch::of_chunk(header) == wanted
    {
        if let Some(class) = wanted.just_counted()
            && let Some(shard) = thread::own_shard()
        {
            let count = add_own(&shard.classes[class].alloc, 1);
            if count.is_multiple_of(LOOK_EVERY) {
                look::look();
            }
            return;
        }
        if wanted.is_nothing() {
            return;
        }
    }
    // SAFETY: the caller's promise.
    unsafe { count_alloc_slowly(object, request) };
}

/// # Safety
/// As [`count_alloc`].
#[cold]
#[inline(never)]
unsafe fn count_alloc_slowly(object: *mut c_void, request: usize) {
    if object.is_null() || early::owns(object) {
        return;
    }
    // `alloc` goes by the request, so that it is the exact number of calls; `free` can only go by
    // the chunk. The allocator may serve a request with a chunk of the next class: `stray` makes
    // up for it, or `live` would drift in a heap that is merely fragmented.
    // SAFETY: the caller's promise.
    let end = unsafe { End::of(object) };
    let (wanted, given) = (Route::of(request).watch().class(), end.class);
    if let Some(class) = wanted
        && add(class, |counters| &counters.alloc, 1).is_multiple_of(LOOK_EVERY)
    {
        look::look();
    }
    if wanted != given {
        for (class, change) in [(wanted, -1_i64), (given, 1)] {
            if let Some(class) = class {
                add(class, |counters| &counters.stray, change as u64);
            }
        }
    }
    if growth::is_searching()
        && let Some(size) = growth::began(object, end.chunk)
    {
        look::found(size);
    }
}

/// The end of an object, to be counted once it has come.
pub(crate) struct End {
    object: *mut c_void,
    /// Its usable size as the next allocator has it, in bytes.
    chunk: usize,
    class: Option<usize>,
}

impl End {
    /// # Safety
    /// `object` is a live object of the next allocator.
    pub(crate) unsafe fn of(object: *mut c_void) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(header) = next::header(object) {
                return Self {
                    object,
                    // A chunk that is a mapping of its own has less room; it is in no class.
                    chunk: (header & !0b111).saturating_sub(8),
                    class: Watch::of_chunk(header).class(),
                };
            }
            let chunk = next::chunk_size(object);
            Self {
                object,
                chunk,
                class: Route::of(chunk).watch().class(),
            }
        }
    }

    pub(crate) fn count(self) {
        if let Some(class) = self.class {
            count_free(class);
        }
        if growth::is_searching() {
            growth::ended(self.object, self.chunk);
        }
    }
}
