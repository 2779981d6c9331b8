//! The mmap family, exported: passed on as it is, and entered in the map of the page plane. Owns
//! that map, its lock and its queue; eyes only: results and errno are libc's.
//!
//! **What is seen**: calls of the program and its libraries through the PLT, from our constructor
//! on. Not seen: libc's own calls (its heap, the stacks of pthread_create), the loader's, raw system
//! calls, and what was mapped before. If such a call takes away a region that we know, it stays in
//! the map until something is seen to be mapped there.
//!
//! **Order**: what is unmapped leaves the map *before* the call (and comes back if that fails), what
//! is mapped enters *after* it. So a thread that is given an address which another one has just
//! unmapped can't lose its region to the other's bookkeeping.
//!
//! **No thread waits**: the lock is tried for a bounded time. Whoever doesn't get it leaves an event in the queue, and
//! the next holder enters it first. This holds for a thread that is stopped in mid-call for good,
//! and for a signal handler above a call on the same thread. When the queue is full, the event is
//! lost and counted.
//!
//! **Fork**: the child's copy may be locked by a thread that the child doesn't have. Its plane is
//! off, by a word that the kernel wipes in every copy of our memory; children of vfork share memory,
//! map and plane.

use core::{
    ffi::{c_int, c_void},
    ptr::null_mut,
    sync::atomic::{
        AtomicPtr, AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
        fence,
    },
};

use crate::{
    lock::Lock,
    next,
    os::{self, ResidentLook},
    page,
    page_events::Events,
    page_map::{self, Event, Mapped, PageMap, Range, Request},
    stats_page::REGIONS,
};

/// Room of the map, 32 bytes each; a client has 9 to 25, Node one for each 256 KiB of its heap.
const MAP_REGIONS: usize = 4096;
/// Room of the queue.
const QUEUE: usize = 256;
/// How often a holder looks again for events that came while it held the lock.
const ROUNDS: usize = 4;
/// Every so many calls of madvise one looks at the clock.
const ADVICE_PER_LOOK: u64 = 16;
/// Shortest time between two estimates.
const ESTIMATE_EVERY_MS: u64 = 1_000;
/// Longest time that one estimate takes, about. What it doesn't reach is for the next ones: 1 GiB
/// of resident memory takes some 3 ms.
const ESTIMATE_US: u64 = 2_000;

static MAP: Lock<PageMap<MAP_REGIONS>> = Lock::new(PageMap::new());
static QUEUED: Events<Event, QUEUE> = Events::new();
/// Number of the next call that takes something away; 0 is none.
static TOKENS: AtomicU64 = AtomicU64::new(1);
/// 1 in the word: the plane is on in this process. Null: it never was.
static SWITCH: AtomicPtr<AtomicU32> = AtomicPtr::new(null_mut());

static ESTIMATE: Lock<Estimate> = Lock::new(Estimate {
    look: ResidentLook::new(),
    region: Range { start: 0, end: 0 },
    reached: 0,
    resident_bytes: 0,
    largest: [Mapped::NONE; REGIONS],
});
/// When the last estimate began, in ms of the coarse clock.
static ESTIMATED_MS: AtomicU64 = AtomicU64::new(0);

/// A walk over all regions, which goes on from estimate to estimate.
struct Estimate {
    look: ResidentLook,
    /// The region that it is in, and how far.
    region: Range,
    reached: usize,
    /// What was found in that region so far.
    resident_bytes: usize,
    /// Not on the stack: a signal handler may have little.
    largest: [Mapped; REGIONS],
}

/// Switches the plane on, for an armed process. Stays off where the kernel (before 4.14) can't
/// switch it off in children.
pub(crate) fn watch() {
    if let Some(word) = os::word_wiped_in_children() {
        word.store(1, Relaxed);
        SWITCH.store(core::ptr::from_ref(word).cast_mut(), Release);
    }
}

#[inline(always)]
fn watching() -> bool {
    let word = SWITCH.load(Acquire);
    // SAFETY: null, or set once to a mapping that stays (watch).
    !word.is_null() && unsafe { &*word }.load(Relaxed) != 0
}

// The contracts are those of mmap(2), mremap(2), madvise(2), mprotect(2).

#[unsafe(no_mangle)]
unsafe extern "C" fn mmap(
    hint: *mut c_void,
    len: usize,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the program's contract.
    let result = unsafe { next::mmap(hint, len, protection, flags, file, offset) };
    if watching() {
        mapped(hint as usize, len, protection, flags, result);
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mmap64(
    hint: *mut c_void,
    len: usize,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the program's contract.
    let result = unsafe { next::mmap64(hint, len, protection, flags, file, offset) };
    if watching() {
        mapped(hint as usize, len, protection, flags, result);
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn munmap(start: *mut c_void, len: usize) -> c_int {
    if !watching() {
        // SAFETY: the program's contract.
        return unsafe { next::munmap(start, len) };
    }
    let taken = take_away(pages(start as usize, len), false);
    // SAFETY: the program's contract.
    let result = unsafe { next::munmap(start, len) };
    if result != 0
        && let Some(token) = taken
    {
        enter(Event::Restored {
            token,
            moves: false,
        });
    }
    count_call();
    result
}

/// Variadic in C: the fifth argument is only there with `MREMAP_FIXED`. Both conventions (x86-64,
/// aarch64) pass it in the same register as here; without it that holds anything, and is passed on
/// unread.
#[unsafe(no_mangle)]
unsafe extern "C" fn mremap(
    old: *mut c_void,
    old_len: usize,
    new_len: usize,
    flags: c_int,
    new: *mut c_void,
) -> *mut c_void {
    if !watching() {
        // SAFETY: the program's contract.
        return unsafe { next::mremap(old, old_len, new_len, flags, new) };
    }
    // Length 0: shared memory is mapped a second time, nothing is taken.
    let from = pages(old as usize, old_len);
    let taken = take_away(from, true);
    // SAFETY: the program's contract.
    let result = unsafe { next::mremap(old, old_len, new_len, flags, new) };
    let to = if is_failure(result) {
        None
    } else {
        pages(result as usize, new_len)
    };
    match (taken, from, to) {
        (Some(token), Some(from), Some(to)) => enter(Event::Moved {
            token,
            from,
            to,
            kept: flags & os::MREMAP_DONTUNMAP != 0,
        }),
        (Some(token), _, None) => enter(Event::Restored { token, moves: true }),
        (_, _, Some(at)) => enter(Event::Replaced { at }),
        (None, _, None) => {}
    }
    if is_failure(result) && flags & os::MREMAP_FIXED != 0 {
        target_may_be_gone();
    }
    count_call();
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn madvise(start: *mut c_void, len: usize, advice: c_int) -> c_int {
    // SAFETY: the program's contract.
    let result = unsafe { next::madvise(start, len, advice) };
    if watching() {
        let before = page::current().plane.calls.fetch_add(1, Relaxed);
        if before.is_multiple_of(ADVICE_PER_LOOK) {
            estimate();
        }
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mprotect(start: *mut c_void, len: usize, protection: c_int) -> c_int {
    // SAFETY: the program's contract.
    let result = unsafe { next::mprotect(start, len, protection) };
    if watching() {
        if result == 0
            && protection & os::PROT_EXEC != 0
            && let Some(at) = pages(start as usize, len)
        {
            enter(Event::Executable { at });
        }
        count_call();
    }
    result
}

fn is_failure(result: *mut c_void) -> bool {
    result as usize == usize::MAX
}

fn pages(start: usize, len: usize) -> Option<Range> {
    Range::of_pages(start, len, os::page_len())
}

/// Enters a mapping that was made (or not).
fn mapped(hint: usize, len: usize, protection: c_int, flags: c_int, result: *mut c_void) {
    let set = |flag: c_int| flags & flag != 0;
    if is_failure(result) {
        if set(os::MAP_FIXED) {
            target_may_be_gone();
        }
    } else if let Some(at) = pages(result as usize, len) {
        let is_anonymous = set(os::MAP_ANONYMOUS) && flags & os::MAP_TYPE == os::MAP_PRIVATE;
        // Huge pages of the pool that the administrator set aside are no part of RssAnon.
        enter(if is_anonymous && !set(os::MAP_HUGETLB) {
            let kind = page_map::classify(&Request {
                hinted: hint != 0,
                len: at.len(),
                no_access: protection == os::PROT_NONE,
                executable: protection & os::PROT_EXEC != 0,
                no_reserve: set(os::MAP_NORESERVE),
                stack: set(os::MAP_STACK | os::MAP_GROWSDOWN),
            });
            Event::Mapped {
                at,
                kind,
                fixed: set(os::MAP_FIXED),
            }
        } else {
            Event::Replaced { at }
        });
    }
    count_call();
}

/// Takes a range out of the map ahead of the call; the token brings it back.
fn take_away(at: Option<Range>, moves: bool) -> Option<u64> {
    let at = at?;
    let token = TOKENS.fetch_add(1, Relaxed);
    enter(Event::Taken { at, token, moves });
    Some(token)
}

/// A call that was to map something at a given place has failed. Kernels before 6.12 may have
/// unmapped the place first when memory ran out on the way.
fn target_may_be_gone() {
    if os::failed_for_memory() {
        lose(1);
    }
}

fn lose(count: u64) {
    page::current().plane.lost.fetch_add(count, Relaxed);
}

fn count_call() {
    page::current().plane.calls.fetch_add(1, Relaxed);
    estimate();
}

/// Enters an event now, or leaves it to whoever holds the map.
fn enter(event: Event) {
    let mut own = Some(event);
    for _ in 0..ROUNDS {
        let Some(mut map) = MAP.lock_soon() else {
            let Some(event) = own.take() else { return };
            if !QUEUED.push(event) {
                lose(1);
                return;
            }
            // The holder may have looked before this event was there, and be gone now.
            fence(SeqCst);
            continue;
        };
        // First what came before this call: it may be about the same place.
        // SAFETY: the lock of the map is held.
        unsafe { QUEUED.take_all(|event| map.apply(event)) };
        if let Some(event) = own.take() {
            map.apply(event);
        }
        publish_totals(&mut map);
        drop(map);
        fence(SeqCst);
        if QUEUED.is_empty() {
            return;
        }
    }
}

fn publish_totals(map: &mut PageMap<MAP_REGIONS>) {
    let plane = &page::current().plane;
    for (kind, totals) in plane.kinds.iter().zip(map.totals()) {
        kind.regions.store(totals.regions as u64, Relaxed);
        kind.bytes.store(totals.bytes as u64, Relaxed);
        kind.resident_bytes
            .store(totals.resident_bytes as u64, Relaxed);
    }
    match map.take_lost() {
        0 => {}
        count => lose(count),
    }
}

/// Estimates what is resident, at most once a second and for about 2 ms; to be called from
/// anywhere. Async-signal-safe: waits for nothing, keeps errno, and needs little stack.
#[inline]
pub(crate) fn estimate() {
    let now_ms = os::monotonic_ms();
    let last_ms = ESTIMATED_MS.load(Relaxed);
    if now_ms.wrapping_sub(last_ms) >= ESTIMATE_EVERY_MS
        && watching()
        && ESTIMATED_MS
            .compare_exchange(last_ms, now_ms, Relaxed, Relaxed)
            .is_ok()
        && let Some(mut walk) = ESTIMATE.try_lock()
        && walk.go_on()
    {
        walk.publish(now_ms);
    }
}

impl Estimate {
    /// Looks at regions, each to its end, until all were seen or the time is over. False if nobody
    /// can say what is resident.
    #[inline(never)]
    fn go_on(&mut self) -> bool {
        let until_us = os::precise_us() + ESTIMATE_US;
        let table = self.look.open();
        let (mut told, mut refused) = (false, false);
        // The map is let go while we look: others have events to enter.
        while let Some(next) = MAP.try_lock().map(|map| map.next_region(self.reached)) {
            let Some(region) = next else {
                // All were seen; the next estimate begins anew.
                (self.region, self.reached) = (Range { start: 0, end: 0 }, 0);
                break;
            };
            // A region that has changed at its end goes on, or it might be begun for ever.
            if self.region.start != region.at.start || self.reached <= region.at.start {
                (self.reached, self.resident_bytes) = (region.at.start, 0);
            }
            self.region = region.at;
            while self.reached < self.region.end {
                if os::precise_us() >= until_us {
                    return told;
                }
                match self.look.count(&table, self.reached, self.region.end) {
                    Some((bytes, reached)) => {
                        self.resident_bytes += bytes;
                        self.reached = reached;
                        told = true;
                    }
                    // Gone meanwhile, or nobody can say.
                    None => {
                        self.reached = self.region.end;
                        refused = true;
                    }
                }
            }
            if let Some(mut map) = MAP.try_lock() {
                map.set_resident(self.region, self.resident_bytes);
            }
        }
        told || !refused
    }

    fn publish(&mut self, now_ms: u64) {
        let Some(mut map) = MAP.try_lock() else {
            return;
        };
        publish_totals(&mut map);
        let count = map.largest(&mut self.largest);
        drop(map);
        let plane = &page::current().plane;
        for kind in &plane.kinds {
            let resident_bytes = kind.resident_bytes.load(Relaxed);
            kind.peak_bytes.fetch_max(resident_bytes, Relaxed);
        }
        self.largest[count..].fill(Mapped::NONE);
        for (place, region) in plane.largest.iter().zip(&self.largest) {
            place.start.store(region.at.start as u64, Relaxed);
            place.bytes.store(region.at.len() as u64, Relaxed);
            place.kind.store(region.kind as u64, Relaxed);
            place
                .resident_bytes
                .store(region.resident_bytes as u64, Relaxed);
        }
        plane.estimated_ms.store(now_ms, Relaxed);
    }
}
