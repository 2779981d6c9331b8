//! A spin lock that knows its owner. Owns no policy about what is locked; never waits for long.
//!
//! Not `spin::Mutex`, which can't say who has it: a signal handler above a call that holds the lock
//! would try in vain for as long as it may, each time, and the call below would never get on; and the
//! child of a fork must know whether the lock was taken for it.

use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
    sync::atomic::{
        AtomicBool, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use crate::os;

/// How often a lock is tried: at once, and with the processor given to others in between (the holder
/// may have been put off it).
const SPINS: usize = 100;
const YIELDS: usize = 4;

/// A value that one thread at a time has.
pub(crate) struct Lock<T> {
    /// Thread pointer of the thread that has it; 0 for none.
    owner: AtomicUsize,
    /// The owner has kept it beyond the call that took it.
    kept: AtomicBool,
    /// Somebody tried for a while in vain. Until it is to be had again, it is tried once only: its
    /// holder is stopped, perhaps until those who try have done something.
    stuck: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: only the owner gets at the value, and there is one (try_lock).
unsafe impl<T: Send> Sync for Lock<T> {}

/// The value, until dropped.
pub(crate) struct Held<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self {
            owner: AtomicUsize::new(0),
            kept: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    pub(crate) fn try_lock(&self) -> Option<Held<'_, T>> {
        if self.owner.load(Relaxed) != 0 {
            return None;
        }
        let me = os::thread_pointer();
        let result = self.owner.compare_exchange(0, me, Acquire, Relaxed);
        result.ok().map(|_| Held { lock: self })
    }

    /// The lock, unless it can't be had within some microseconds and a few turns of the scheduler, or
    /// ever: because this very thread has it.
    pub(crate) fn lock_soon(&self) -> Option<Held<'_, T>> {
        if self.stuck.load(Relaxed) {
            let held = self.try_lock()?;
            self.stuck.store(false, Relaxed);
            return Some(held);
        }
        let held = self.lock_within(YIELDS);
        if held.is_none() && !self.is_own() {
            self.stuck.store(true, Relaxed);
        }
        held
    }

    /// The same, with so many turns of the scheduler.
    pub(crate) fn lock_within(&self, yields: usize) -> Option<Held<'_, T>> {
        for round in 0..=yields {
            for _ in 0..SPINS {
                if let Some(held) = self.try_lock() {
                    return Some(held);
                }
                if self.is_own() {
                    return None;
                }
                core::hint::spin_loop();
            }
            if round < yields {
                os::yield_processor();
            }
        }
        None
    }

    /// Does the calling thread have it?
    pub(crate) fn is_own(&self) -> bool {
        self.owner.load(Relaxed) == os::thread_pointer()
    }

    /// Gives back what the calling thread has kept by [`Held::keep`], and only that: it may also have
    /// the lock below, in a call that a signal handler has interrupted, and which goes on later.
    pub(crate) fn give_back(&self) {
        if self.is_own() && self.kept.swap(false, Relaxed) {
            self.owner.store(0, Release);
        }
    }
}

impl<T> Held<'_, T> {
    /// The lock stays with this thread until [`Lock::give_back`].
    pub(crate) fn keep(self) {
        self.lock.kept.store(true, Relaxed);
        core::mem::forget(self);
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this thread has the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this thread has the lock, and this is the only way to the value.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        self.lock.owner.store(0, Release);
    }
}
