//! A bounded queue of events for when the map's lock isn't to be had. Owns its places; never waits.
//!
//! Every event gets a ticket, then a place, and is then *published*; one reader at a time takes the
//! published ones in the order of their tickets. A thread may be stopped for ever between two of
//! these steps: its place is passed over, which costs one place and nobody's time.
//!
//! Passing over is right: an event that isn't published yet is of a call that hasn't returned (or
//! hasn't begun to take anything away), so nothing published can depend on it.

// The guard and the tests include this file, and neither needs all of it.
#![allow(dead_code, unreachable_pub)]

use core::{cell::UnsafeCell, mem::MaybeUninit};

// The tests put their own atomics there, which try every order of the threads' steps.
use super::sync::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

/// States of a place; every larger number is the ticket of a published event.
const FREE: u64 = 0;
const CLAIMED: u64 = 1;

/// The queue, with `N` places.
#[derive(Debug)]
pub struct Events<T, const N: usize> {
    /// Tickets given out.
    tickets: AtomicU64,
    /// Claimed and not yet taken: at least as many as are published.
    waiting: AtomicU64,
    states: [AtomicU64; N],
    places: [UnsafeCell<MaybeUninit<T>>; N],
}

// SAFETY: a place belongs to the thread that claimed it until it is published, then to the one
// reader until it is free.
unsafe impl<T: Copy + Send, const N: usize> Sync for Events<T, N> {}

impl<T: Copy, const N: usize> Events<T, N> {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            tickets: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            states: [const { AtomicU64::new(FREE) }; N],
            places: [const { UnsafeCell::new(MaybeUninit::uninit()) }; N],
        }
    }

    /// Publishes an event; false if no place is free.
    #[must_use]
    pub fn push(&self, event: T) -> bool {
        for _ in 0..N {
            let ticket = self.tickets.fetch_add(1, SeqCst) + CLAIMED + 1;
            let place = ticket as usize % N;
            let state = &self.states[place];
            if state.load(Relaxed) == FREE
                && state
                    .compare_exchange(FREE, CLAIMED, Acquire, Relaxed)
                    .is_ok()
            {
                // Counted first: an event that is taken before it is counted would make the next
                // one uncounted.
                self.waiting.fetch_add(1, SeqCst);
                // SAFETY: this thread alone has claimed the place.
                unsafe { (*self.places[place].get()).write(event) };
                state.store(ticket, Release);
                return true;
            }
        }
        false
    }

    /// Is nothing published, nor about to be?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.load(SeqCst) == 0
    }

    /// Takes all published events in order. Those published meanwhile may be left for next time.
    ///
    /// # Safety
    /// One caller at a time, each synchronised with the one before.
    #[inline]
    pub unsafe fn take_all(&self, take: impl FnMut(T)) {
        if !self.is_empty() {
            // SAFETY: the caller's promise.
            unsafe { self.take_published(take) };
        }
    }

    /// # Safety
    /// As of [`Self::take_all`].
    #[inline(never)]
    unsafe fn take_published(&self, mut take: impl FnMut(T)) {
        // An event with a ticket below this depends on nothing but events that are published by
        // now. Without the limit, one could be published on a place just passed, and what depends
        // on it be found and taken before it.
        let limit = self.tickets.load(SeqCst) + CLAIMED + 1;
        // A list to sort would take the stack that a signal handler may not have.
        while let Some(ticket) = self.oldest_below(limit) {
            let place = ticket as usize % N;
            // SAFETY: published, so written (the load of its ticket acquired it); the caller is the
            // only reader, and sets the place free only after this.
            let event = unsafe { (*self.places[place].get()).assume_init() };
            self.states[place].store(FREE, Release);
            self.waiting.fetch_sub(1, SeqCst);
            take(event);
        }
    }

    fn oldest_below(&self, limit: u64) -> Option<u64> {
        let tickets = self.states.iter().map(|state| state.load(Acquire));
        tickets
            .filter(|&ticket| ticket > CLAIMED && ticket < limit)
            .min()
    }
}

impl<T: Copy, const N: usize> Default for Events<T, N> {
    fn default() -> Self {
        Self::new()
    }
}
