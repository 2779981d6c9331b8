//! Serves the watched classes from slabs. Owns one reserved range of addresses: the threads'
//! caches, the slabs' descriptors, the slabs.
//!
//! ```text
//! reserved: | caches | descriptors of kind 0, 1, ... | slabs of kind 0 | slabs of kind 1 | ...
//! ```
//!
//! A *kind* is a slot size (two per class). A *slab* is 64 KiB of slots without headers; which one an
//! object is in, and which slot, follows from its address. Fresh slabs are handed out in address
//! order, a thread at a time, slot by slot: neighbours are of one age. What is known of a slab lies
//! in its descriptor (slab.rs), so nothing here reads or writes a page of objects: not to allocate,
//! not to free, not to find a free slot.
//!
//! A thread allocates from, and frees into, its own *cache*: for each kind a magazine of free slots
//! (Bonwick & Adams, USENIX 2001) and a bump pointer into a fresh slab. That is the whole hot path:
//! no lock, no atomic read-modify-write. A full magazine gives half of it back to the slabs, which
//! takes no lock either. An empty one is filled from the pool's lists, under the lock of its kind.
//!
//! **Nobody waits.** A lock is tried for a bounded time; if it isn't to be had (its holder may have
//! been stopped by a signal), the next allocator serves the request. Slots that were not freed are
//! never handed out again.
//!
//! Fresh slabs are taken in steps (mprotect), so that only what is in use counts against a commit
//! limit. Slabs without live objects are given back (MADV_DONTNEED), but for a sixteenth: taking
//! them again costs 16 page faults each.

use core::{
    ffi::c_void,
    mem, ptr,
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
        Ordering::{Relaxed, Release, SeqCst},
        compiler_fence,
    },
};

use crate::{
    lock::{Held, Lock},
    os,
    page::{self, add_own},
    route::KINDS,
    size_class::SizeClass,
    slab::{GivenBack, NO_SLAB, Pending, SLOTS_MAX, Slab},
    stats_page::{CLASSES, Shard},
    thread::{self, THREADS},
};

/// Size of a slab in bytes: 16 pages of 4 KiB, or one of 64 KiB.
const SLAB_LEN: usize = 64 << 10;
/// Address space of one kind in bytes, the largest that is tried, and the smallest that is of use.
const KIND_LEN_MAX: usize = 256 << 30;
const KIND_LEN_MIN: usize = 16 << 20;
/// Fresh slabs are made usable in steps that double, in bytes.
const STEP_MIN: usize = 2 << 20;
const STEP_MAX: usize = 64 << 20;
/// Free slots that a magazine holds, and how many are moved at a time.
const MAGAZINE_SLOTS: usize = 58;
const BATCH: usize = MAGAZINE_SLOTS / 2;
/// Empty slabs that are kept, at least; above that a sixteenth of all.
const KEPT_MIN: u64 = 16;
/// Turns of the scheduler that a fork gives whoever has a lock, which it can't do without.
const FORK_YIELDS: usize = 4000;

/// One thread's free slots of one kind.
#[repr(C, align(64))]
struct Magazine {
    count: usize,
    /// Next fresh slot, and the end of them, in the bump slab.
    cursor: usize,
    end: usize,
    stride: u32,
    /// Number plus 1 of the bump slab.
    bump_slab: u32,
    /// The free slots begin at 1. Below them is a 0, so that there is always one to compare with.
    slots: [usize; MAGAZINE_SLOTS + 1],
}

/// What one thread has of the pool. Only its own thread looks into it.
#[repr(C)]
struct Cache {
    magazines: [Magazine; KINDS],
    /// The thread's own counters.
    shard: &'static Shard,
}

/// Where everything is. Written once, before `len` is.
#[repr(align(64))]
struct Range {
    /// First slab.
    base: AtomicUsize,
    /// Length of all slabs in bytes; 0 while there is no pool.
    len: AtomicUsize,
    /// log2 of the length of one kind's slabs in bytes.
    kind_shift: AtomicU32,
    slab_table: AtomicUsize,
    caches: AtomicUsize,
}

/// Base of the range while there is none: no program's address is so far above, or below it, that it
/// seems to lie in the range to a thread that has read this base, and then the new length. (0 would
/// take in the heap of a program at low addresses, such as one linked without PIE.)
const NOWHERE: usize = 1 << 63;

static RANGE: Range = Range {
    base: AtomicUsize::new(NOWHERE),
    len: AtomicUsize::new(0),
    kind_shift: AtomicU32::new(0),
    slab_table: AtomicUsize::new(0),
    caches: AtomicUsize::new(0),
};

/// Addresses of programs are below this (both architectures, 48 bits and fewer).
const ADDRESSES: usize = 1 << 48;
const _: () = assert!(ADDRESSES.wrapping_sub(NOWHERE) > KINDS * KIND_LEN_MAX);
const _: () = assert!(0_usize.wrapping_sub(NOWHERE) > KINDS * KIND_LEN_MAX);

/// What all slabs of one kind have in common.
#[repr(align(64))]
struct Kind {
    /// Slot size in bytes, 0 if the kind isn't pooled.
    stride: AtomicU32,
    /// 2^32 / stride, rounded up: an offset in a slab times this is its slot times 2^32.
    reciprocal: AtomicU32,
    pending: Pending,
    /// Slabs that were seen to become empty since the lists were last searched for them.
    emptied: AtomicU64,
    /// Slabs in use.
    slabs: AtomicU64,
    /// For good: in a child whose parent was forked while somebody was at work in the lists.
    closed: AtomicBool,
    lists: Lock<Lists>,
}

/// Guarded by the lock of the kind.
struct Lists {
    /// Slabs with free slots (number plus 1 of the first).
    partial: u32,
    /// Slabs that were given back: as good as fresh.
    released: u32,
    /// Slabs that were handed out at least once.
    used: usize,
    /// Slabs that can be written.
    usable: usize,
    /// Slabs that the next step makes usable.
    step: usize,
    /// Requests to wait before the kernel is asked again, after it has refused memory.
    pause: u32,
    pause_next: u32,
}

static POOL: [Kind; KINDS] = [const {
    Kind {
        stride: AtomicU32::new(0),
        reciprocal: AtomicU32::new(0),
        pending: Pending(AtomicU32::new(NO_SLAB)),
        emptied: AtomicU64::new(0),
        slabs: AtomicU64::new(0),
        closed: AtomicBool::new(false),
        lists: Lock::new(Lists {
            partial: NO_SLAB,
            released: NO_SLAB,
            used: 0,
            usable: 0,
            step: 0,
            pause: 0,
            pause_next: 1,
        }),
    }
}; KINDS];

/// A slot that was handed out.
pub(crate) struct Taken {
    pub(crate) object: *mut c_void,
    /// It was never used: all its bytes are zero.
    pub(crate) is_zero: bool,
}

/// Reserves the range for pools of so many classes. False if there isn't one to be had.
pub(crate) fn reserve(classes: usize) -> bool {
    let kinds = 2 * classes.min(CLASSES);
    let caches_len = (THREADS * size_of::<Cache>()).next_multiple_of(SLAB_LEN);
    let mut kind_len = KIND_LEN_MAX;
    // Ladder: an address-space limit (RLIMIT_AS) leaves less room, or none; os::reserve refuses what
    // the program would miss.
    while kind_len >= KIND_LEN_MIN {
        let table_len = kinds * (kind_len / SLAB_LEN) * size_of::<Slab>();
        let len = caches_len + table_len + kinds * kind_len + SLAB_LEN;
        if let Some(start) = os::reserve(len) {
            let caches = start.next_multiple_of(SLAB_LEN);
            if !os::make_usable(caches, caches_len) {
                os::give_up_reservation(start, len);
                return false;
            }
            let table = caches + caches_len;
            RANGE.caches.store(caches, Relaxed);
            RANGE.slab_table.store(table, Relaxed);
            RANGE.kind_shift.store(kind_len.trailing_zeros(), Relaxed);
            RANGE.base.store(table + table_len, Relaxed);
            RANGE.len.store(kinds * kind_len, Release);
            let gauges = &page::current().pool;
            gauges.start.store(start as u64, Relaxed);
            gauges.reserved_bytes.store(len as u64, Relaxed);
            gauges.usable_bytes.store(caches_len as u64, Relaxed);
            return true;
        }
        kind_len /= 4;
    }
    false
}

/// Readies the two kinds of a class; `number` is below the `classes` of [`reserve`].
pub(crate) fn open_class(number: usize, size: usize, packed: bool) {
    let strides = SizeClass::of(size).strides(packed);
    for (kind, stride) in strides.into_iter().enumerate() {
        let pool = &POOL[2 * number + kind];
        let reciprocal = (1_u64 << 32).div_ceil(stride as u64);
        pool.reciprocal.store(reciprocal as u32, Relaxed);
        pool.stride.store(stride as u32, Release);
    }
}

/// Is the object one of the pool's? Its place in the range, if so. O(1), touches nothing but our
/// own globals.
#[inline(always)]
pub(crate) fn place(object: *mut c_void) -> Option<Place> {
    let offset = (object as usize).wrapping_sub(RANGE.base.load(Relaxed));
    (offset < RANGE.len.load(Relaxed)).then_some(Place(offset))
}

/// Are all slots of the kind at a multiple of this power of two?
pub(crate) fn is_aligned(kind: usize, align: usize) -> bool {
    (POOL[kind].stride.load(Relaxed) as usize).is_multiple_of(align)
}

/// Place of an object in the range.
#[derive(Clone, Copy)]
pub(crate) struct Place(usize);

impl Place {
    #[inline(always)]
    pub(crate) fn kind(self) -> usize {
        // Below KINDS: the range ends with the last kind.
        self.0 >> RANGE.kind_shift.load(Relaxed)
    }

    /// Number of its class.
    pub(crate) fn class(self) -> usize {
        self.kind() / 2
    }

    /// Bytes that the program may use there.
    #[inline(always)]
    pub(crate) fn stride(self) -> usize {
        POOL[self.kind()].stride.load(Relaxed) as usize
    }
}

/// A free slot of the kind from the thread's own cache. `None` if that has none: the caller goes on
/// with [`take`]. Makes no call, so that its caller saves no registers.
#[inline(always)]
pub(crate) fn take_cached(kind: usize) -> Option<Taken> {
    let cache = thread::take_cache().cast::<Cache>();
    if cache.is_null() {
        return None;
    }
    compiler_fence(SeqCst);
    // SAFETY: the thread's own cache (enter), and nobody else has it: it was taken out of the
    // thread's block. The kind is below KINDS (Route::kind).
    let taken = unsafe {
        let magazine = (&raw mut (*cache).magazines).cast::<Magazine>().add(kind);
        let count = (*magazine).count;
        let taken = if count != 0 {
            (*magazine).count = count - 1;
            let slots = (&raw const (*magazine).slots).cast::<usize>();
            Some(Taken {
                object: slots.add(count).read() as *mut c_void,
                is_zero: false,
            })
        } else if (*magazine).cursor != (*magazine).end {
            let object = (*magazine).cursor;
            (*magazine).cursor = object + (*magazine).stride as usize;
            Some(Taken {
                object: object as *mut c_void,
                is_zero: true,
            })
        } else {
            None
        };
        if taken.is_some() {
            add_own(&(*cache).shard.classes.get_unchecked(kind / 2).pool_hit, 1);
        }
        taken
    };
    compiler_fence(SeqCst);
    thread::put_cache(cache.cast());
    taken
}

/// A free slot of the kind. `None`, and noted on the page, if the next allocator has to serve the
/// request.
#[inline(never)]
pub(crate) fn take(kind: usize) -> Option<Taken> {
    let taken = take_or_refill(kind);
    if taken.is_none() {
        page::current().pool.passed_on.fetch_add(1, Relaxed);
    }
    taken
}

fn take_or_refill(kind: usize) -> Option<Taken> {
    if let Some(taken) = take_cached(kind) {
        return Some(taken);
    }
    let local = thread::local();
    if local.cache.get().is_null() && !enter() {
        return None;
    }
    let cache = thread::take_cache().cast::<Cache>();
    compiler_fence(SeqCst);
    // SAFETY: as in take_cached.
    let filled = unsafe { refill(&mut (*cache).magazines[kind], kind) };
    compiler_fence(SeqCst);
    thread::put_cache(cache.cast());
    if filled { take_cached(kind) } else { None }
}

/// Takes an object of the pool's back.
#[inline(always)]
pub(crate) fn put(object: *mut c_void, place: Place) {
    let kind = place.kind();
    let cache = thread::take_cache().cast::<Cache>();
    if cache.is_null() {
        return put_without_cache(object, kind);
    }
    compiler_fence(SeqCst);
    // SAFETY: as in take_cached.
    unsafe {
        let magazine = (&raw mut (*cache).magazines).cast::<Magazine>().add(kind);
        let count = (*magazine).count;
        if count == MAGAZINE_SLOTS {
            return put_in_full(object, kind, cache);
        }
        let top = (&raw mut (*magazine).slots).cast::<usize>().add(count);
        if top.read() == object as usize {
            freed_twice();
        }
        top.add(1).write(object as usize);
        (*magazine).count = count + 1;
        add_own(&(*cache).shard.classes.get_unchecked(kind / 2).free, 1);
    }
    compiler_fence(SeqCst);
    thread::put_cache(cache.cast());
}

/// Makes room in a full magazine first. The cache is the thread's own, and taken out of its block.
#[cold]
#[inline(never)]
fn put_in_full(object: *mut c_void, kind: usize, cache: *mut Cache) {
    // SAFETY: as in take_cached.
    unsafe { flush(&mut (*cache).magazines[kind], kind) };
    compiler_fence(SeqCst);
    thread::put_cache(cache.cast());
    if let Some(place) = place(object) {
        put(object, place);
    }
}

/// Gives the thread its cache, if it may have one.
#[cold]
#[inline(never)]
fn enter() -> bool {
    let local = thread::local();
    let Some(number) = thread::number() else {
        return false;
    };
    if local.entered.replace(true) {
        // A call of this thread is at work in the cache: we are in a signal handler.
        return false;
    }
    let cache = cache_of(number);
    // SAFETY: usable, zeroed or left behind by a thread that has ended, aligned; the number, and
    // with it the cache, is this thread's alone.
    unsafe {
        (&raw mut (*cache).shard).write(page::current().shard(number));
        for (kind, pool) in POOL.iter().enumerate() {
            let magazine = &raw mut (*cache).magazines[kind];
            let stride = pool.stride.load(Relaxed);
            if stride != 0 {
                (*magazine).count = 0;
                (*magazine).cursor = 0;
                (*magazine).end = 0;
                (*magazine).stride = stride;
                (*magazine).bump_slab = NO_SLAB;
            }
        }
    }
    compiler_fence(SeqCst);
    thread::put_cache(cache.cast());
    true
}

fn cache_of(number: usize) -> *mut Cache {
    (RANGE.caches.load(Relaxed) as *mut Cache).wrapping_add(number)
}

#[cold]
#[inline(never)]
fn put_without_cache(object: *mut c_void, kind: usize) {
    give_back(kind, &[object as usize]);
    thread::count_free(kind / 2);
}

/// The program has freed an object twice, or something that is none. glibc ends it here too.
#[cold]
#[inline(never)]
fn freed_twice() -> ! {
    os::abort()
}

/// Fills an empty magazine: from slabs with free slots, or else with a fresh slab to bump through.
/// False if there is neither.
#[cold]
#[inline(never)]
fn refill(magazine: &mut Magazine, kind: usize) -> bool {
    let pool = &POOL[kind];
    magazine.stride = pool.stride.load(Relaxed);
    pool.leave_bump_slab(kind, magazine);
    let Some(mut lists) = pool.lock() else {
        return false;
    };
    pool.enter_pending(kind, &mut lists);
    let stride = magazine.stride as usize;
    while magazine.count < BATCH && lists.partial != NO_SLAB {
        let link = lists.partial;
        let slab = slab_of(kind, link);
        let start = slab_start(kind, link);
        slab.take(BATCH - magazine.count, |slot| {
            magazine.count += 1;
            magazine.slots[magazine.count] = start + slot * stride;
        });
        if magazine.count == BATCH {
            // It may have more. If not, the next refill finds out.
            break;
        }
        lists.partial = slab.next();
        if slab.unlist() {
            slab.set_next(lists.partial);
            lists.partial = link;
        }
    }
    if magazine.count != 0 {
        // Lowest address last in, first out.
        magazine.slots[1..=magazine.count].reverse();
        return true;
    }
    let Some(link) = pool.fresh_slab(kind, &mut lists) else {
        return false;
    };
    drop(lists);
    slab_of(kind, link).set_listed();
    pool.slabs.fetch_add(1, Relaxed);
    page::current().pool.slabs.fetch_add(1, Relaxed);
    magazine.bump_slab = link;
    magazine.cursor = slab_start(kind, link);
    magazine.end = magazine.cursor + slots_of(stride) * stride;
    true
}

/// Gives the older half of a full magazine back to the slabs.
#[cold]
#[inline(never)]
fn flush(magazine: &mut Magazine, kind: usize) {
    give_back(kind, &magazine.slots[1..=BATCH]);
    magazine.slots.copy_within(BATCH + 1.., 1);
    magazine.count = MAGAZINE_SLOTS - BATCH;
}

/// A thread ends: what it has goes to the slabs, and to the next thread.
pub(crate) extern "C" fn thread_ends(_: *mut c_void) {
    thread::leave(|cache| empty_cache(cache.cast()));
}

/// What a cache holds goes back to the slabs. It is the calling thread's own.
fn empty_cache(cache: *mut Cache) {
    for (kind, pool) in POOL.iter().enumerate() {
        if !pool.is_open() {
            continue;
        }
        // SAFETY: the ending thread's own cache, which nobody else has (thread::leave).
        let magazine = unsafe { &mut (*cache).magazines[kind] };
        give_back(kind, &magazine.slots[1..=magazine.count]);
        magazine.count = 0;
        pool.leave_bump_slab(kind, magazine);
    }
}

/// Makes slots free. Slots of one word of one slab that follow each other cost one step.
fn give_back(kind: usize, objects: &[usize]) {
    let pool = &POOL[kind];
    let first = slab_start(kind, 1);
    let reciprocal = u64::from(pool.reciprocal.load(Relaxed));
    let stride = pool.stride.load(Relaxed) as usize;
    let slots = slots_of(stride);
    let locate = |object: usize| {
        let offset = object - first;
        let (slab, within) = (offset / SLAB_LEN, offset % SLAB_LEN);
        let slot = ((within as u64 * reciprocal) >> 32) as usize;
        if slot * stride != within || slot >= slots {
            freed_twice();
        }
        (slab as u32 + 1, slot)
    };
    let mut rest = objects;
    while let [object, tail @ ..] = rest {
        let (link, slot) = locate(*object);
        let (word, mut bits) = (slot / 64, 1 << (slot % 64));
        rest = tail;
        while let [object, tail @ ..] = rest {
            let (same_link, slot) = locate(*object);
            if same_link != link || slot / 64 != word {
                break;
            }
            if bits & 1 << (slot % 64) != 0 {
                freed_twice();
            }
            bits |= 1 << (slot % 64);
            rest = tail;
        }
        pool.give_back_word(kind, link, word, bits);
    }
}

impl Kind {
    fn is_open(&self) -> bool {
        self.stride.load(Relaxed) != 0
    }

    /// The lists, unless they can't be had within a bounded time.
    fn lock(&self) -> Option<Held<'_, Lists>> {
        if self.closed.load(Relaxed) {
            return None;
        }
        self.lists.lock_soon()
    }

    fn give_back_word(&self, kind: usize, link: u32, word: usize, bits: u64) {
        let slab = slab_of(kind, link);
        let slots = slots_of(self.stride.load(Relaxed) as usize);
        let result = slab.give_back(slots, word, bits);
        if result == GivenBack::Twice {
            freed_twice();
        }
        if slab.must_be_listed() {
            self.pending.push(link, slab);
        }
        if result == GivenBack::All {
            self.note_empty_slab(kind);
        }
    }

    /// A slab has no live object any more. When there are many of them, they are given back.
    fn note_empty_slab(&self, kind: usize) {
        let emptied = self.emptied.fetch_add(1, Relaxed) + 1;
        if emptied > KEPT_MIN.max(self.slabs.load(Relaxed) / 8) {
            self.release_empty_slabs(kind);
        }
    }

    /// The thread has no bump slab from now on. What is left of it becomes free slots.
    fn leave_bump_slab(&self, kind: usize, magazine: &mut Magazine) {
        let link = mem::replace(&mut magazine.bump_slab, NO_SLAB);
        let (mut cursor, end) = (magazine.cursor, magazine.end);
        (magazine.cursor, magazine.end) = (0, 0);
        if link == NO_SLAB {
            return;
        }
        let slab = slab_of(kind, link);
        let stride = magazine.stride as usize;
        let start = slab_start(kind, link);
        let mut is_empty = false;
        while cursor != end {
            let slot = (cursor - start) / stride;
            let (word, mut bits) = (slot / 64, 0_u64);
            while cursor != end && (cursor - start) / stride / 64 == word {
                bits |= 1 << ((cursor - start) / stride % 64);
                cursor += stride;
            }
            is_empty = slab.give_back(slots_of(stride), word, bits) == GivenBack::All;
        }
        if slab.unlist() {
            self.pending.push(link, slab);
        }
        if is_empty {
            self.note_empty_slab(kind);
        }
    }

    /// Enters the slabs that were pushed meanwhile in the list of those with free slots.
    fn enter_pending(&self, kind: usize, lists: &mut Lists) {
        let mut link = self.pending.take_all();
        while link != NO_SLAB {
            let slab = slab_of(kind, link);
            let next = slab.next();
            slab.set_next(lists.partial);
            lists.partial = link;
            link = next;
        }
    }

    /// A slab that is all zero, and in no list.
    fn fresh_slab(&self, kind: usize, lists: &mut Lists) -> Option<u32> {
        if lists.released != NO_SLAB {
            let link = lists.released;
            lists.released = slab_of(kind, link).next();
            return Some(link);
        }
        if lists.used == lists.usable && !self.make_more_usable(kind, lists) {
            return None;
        }
        lists.used += 1;
        Some(lists.used as u32)
    }

    fn make_more_usable(&self, kind: usize, lists: &mut Lists) -> bool {
        if lists.pause > 0 {
            lists.pause -= 1;
            return false;
        }
        // A step takes whole pages of descriptors.
        let step_min = (os::page_len() / size_of::<Slab>()).max(STEP_MIN / SLAB_LEN);
        let slabs_max = (1 << RANGE.kind_shift.load(Relaxed)) / SLAB_LEN;
        let mut step = lists.step.max(step_min);
        while lists.usable + step <= slabs_max {
            let slab = slab_start(kind, lists.usable as u32 + 1);
            let descriptor = ptr::from_ref(slab_of(kind, lists.usable as u32 + 1)) as usize;
            if os::make_usable(descriptor, step * size_of::<Slab>())
                && os::make_usable(slab, step * SLAB_LEN)
            {
                lists.usable += step;
                lists.step = (step * 2).min(STEP_MAX / SLAB_LEN);
                lists.pause_next = 1;
                let gauge = &page::current().pool.usable_bytes;
                gauge.fetch_add((step * (size_of::<Slab>() + SLAB_LEN)) as u64, Relaxed);
                return true;
            }
            if step == step_min {
                break;
            }
            step = step_min;
        }
        // Refused (commit limit, memory limit) or at the end of the range: asked again ever less.
        lists.step = 0;
        lists.pause = lists.pause_next;
        lists.pause_next = (lists.pause_next * 2).min(1 << 16);
        false
    }

    /// Gives slabs without live objects back to the kernel, but for some.
    #[cold]
    fn release_empty_slabs(&self, kind: usize) {
        let Some(mut lists) = self.lock() else {
            return;
        };
        self.emptied.store(0, Relaxed);
        self.enter_pending(kind, &mut lists);
        let slots = slots_of(self.stride.load(Relaxed) as usize);
        let mut kept = KEPT_MIN.max(self.slabs.load(Relaxed) / 16);
        let mut before = NO_SLAB;
        let mut link = lists.partial;
        while link != NO_SLAB {
            let slab = slab_of(kind, link);
            let next = slab.next();
            let is_empty = slab.is_all_free(slots);
            if is_empty && kept > 0 {
                kept -= 1;
            } else if is_empty {
                if !os::release_pages(slab_start(kind, link), SLAB_LEN) {
                    // Locked in memory, for instance. It stays where it is, with what is in it.
                    return;
                }
                slab.take_all();
                slab.set_next(lists.released);
                lists.released = link;
                if before == NO_SLAB {
                    lists.partial = next;
                } else {
                    slab_of(kind, before).set_next(next);
                }
                self.slabs.fetch_sub(1, Relaxed);
                let gauges = &page::current().pool;
                gauges.slabs.fetch_sub(1, Relaxed);
                gauges.slabs_released.fetch_add(1, Relaxed);
                link = next;
                continue;
            }
            before = link;
            link = next;
        }
    }
}

/// Slots of a slab.
fn slots_of(stride: usize) -> usize {
    (SLAB_LEN / stride).min(SLOTS_MAX)
}

/// Address of the slab whose number plus 1 is `link`.
fn slab_start(kind: usize, link: u32) -> usize {
    let kind_start = RANGE.base.load(Relaxed) + (kind << RANGE.kind_shift.load(Relaxed));
    kind_start + (link as usize - 1) * SLAB_LEN
}

/// Descriptor of the slab whose number plus 1 is `link`.
fn slab_of(kind: usize, link: u32) -> &'static Slab {
    let slabs_of_kind = (1 << RANGE.kind_shift.load(Relaxed)) / SLAB_LEN;
    let table = RANGE.slab_table.load(Relaxed) as *const Slab;
    // SAFETY: a link names a slab of the kind that was made usable, and its descriptor before it
    // (make_more_usable, which only makes the reference); descriptors are atomics, for which any
    // bits are a value, and the reservation is never unmapped.
    unsafe { &*table.add(kind * slabs_of_kind + link as usize - 1) }
}

/// Takes every lock that can be had within a bounded time, so that the child of a fork finds the
/// lists whole.
pub(crate) extern "C" fn before_fork() {
    for pool in POOL.iter().filter(|pool| pool.is_open()) {
        if let Some(lists) = pool.lists.lock_within(FORK_YIELDS) {
            lists.keep();
        }
    }
}

/// Gives the locks of [`before_fork`] back.
pub(crate) extern "C" fn after_fork_in_parent() {
    for pool in &POOL {
        pool.lists.give_back();
    }
}

/// The same in the child. Where the lock wasn't ours, another thread may have been at work in the
/// lists, and isn't here to finish: that kind is closed, and the next allocator serves its requests.
/// What other threads had in their caches is theirs for ever: it is lost to the child, not handed
/// out, since the parent may have copied the cache and the slabs at different moments.
pub(crate) fn after_fork_in_child(own_number: Option<usize>) {
    for pool in POOL.iter().filter(|pool| pool.is_open()) {
        if !pool.lists.is_own() {
            pool.closed.store(true, Relaxed);
        }
    }
    after_fork_in_parent();
    if let Some(number) = own_number
        && thread::local().entered.get()
    {
        // SAFETY: the only thread's own cache; its counters are on another page now.
        unsafe { (&raw mut (*cache_of(number)).shard).write(page::current().shard(number)) };
    }
}
