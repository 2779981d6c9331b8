//! The part of a slab's descriptor that several threads change at once: which slots are free, and
//! who has to tell the pool that some are. Lock-free; owns no memory, makes no call.
//!
//! Kept apart, on atomics of `crate::sync`, so that a test can run every interleaving of it.
//!
//! **Protocol.** `free` bits are set by any thread that frees, and cleared only by the thread to
//! which the slab is *assigned*: the holder of the pool's lock, for slabs in the pool's lists. A
//! slab is *listed* while it is in a list of the pool or is some thread's bump slab. Whoever makes
//! a slot of an unlisted slab free lists it, by pushing it on the pool's pending stack. Whoever
//! unlists one looks once more for free slots *afterwards*: of a freeing thread that still saw it
//! listed, and an unlisting one that saw no free slot, at least one must be wrong (Dekker), so no
//! slab with a free slot is forgotten. That needs sequential consistency on both sides.

use crate::sync::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

/// Most slots of a slab. Fewer where every interleaving is run (tests/suite/interleavings.rs).
pub(crate) const SLOTS_MAX: usize = if cfg!(test) { 128 } else { 512 };
const WORDS: usize = SLOTS_MAX / 64;

/// No slab: the end of a list.
pub(crate) const NO_SLAB: u32 = 0;

/// Out of band, one per slab: nothing here touches the slab's own pages. All zero is a slab with
/// every slot taken, in no list.
#[repr(C, align(64))]
pub(crate) struct Slab {
    /// A set bit is a free slot. A line of its own: all that a free touches.
    free: [AtomicU64; WORDS],
    /// 1 while it is in a list of the pool, or a thread's bump slab.
    listed: AtomicU32,
    /// The slab below it in its list, plus 1; [`NO_SLAB`] at the end.
    next: AtomicU32,
}

/// What giving slots back has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivenBack {
    /// One of them was free already.
    Twice,
    /// The slab has other live slots.
    Partly,
    /// No slot of the slab is live.
    All,
}

impl Slab {
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Self {
            free: [(); WORDS].map(|()| AtomicU64::new(0)),
            listed: AtomicU32::new(0),
            next: AtomicU32::new(NO_SLAB),
        }
    }

    /// All slots of this word of a slab with `slots` slots.
    fn full_word(slots: usize, word: usize) -> u64 {
        match slots.saturating_sub(word * 64) {
            0 => 0,
            some @ 1..64 => (1 << some) - 1,
            _ => u64::MAX,
        }
    }

    /// Makes the slots of a bit mask in one word free. The caller then calls [`Self::must_be_listed`].
    pub(crate) fn give_back(&self, slots: usize, word: usize, bits: u64) -> GivenBack {
        let before = self.free[word].fetch_or(bits, SeqCst);
        if before & bits != 0 {
            return GivenBack::Twice;
        }
        if before | bits == Self::full_word(slots, word) && self.is_all_free(slots) {
            return GivenBack::All;
        }
        GivenBack::Partly
    }

    /// Does the calling thread have to put the slab on the pending stack? At most one is told so.
    pub(crate) fn must_be_listed(&self) -> bool {
        self.listed.load(SeqCst) == 0 && self.listed.swap(1, SeqCst) == 0
    }

    /// Marks a slab that is in no list, and of which no slot is free, as listed.
    pub(crate) fn set_listed(&self) {
        self.listed.store(1, Relaxed);
    }

    /// The slab leaves its list, or its thread. True if it must be listed again at once, by the
    /// caller: a slot was freed meanwhile.
    pub(crate) fn unlist(&self) -> bool {
        self.listed.store(0, SeqCst);
        self.has_free() && self.listed.swap(1, SeqCst) == 0
    }

    fn has_free(&self) -> bool {
        self.free.iter().any(|word| word.load(SeqCst) != 0)
    }

    /// No slot is live. Stays true only while nobody is assigned the slab. In sequential consistency
    /// with `give_back`: of two threads that free the last slots in two words, one sees it.
    pub(crate) fn is_all_free(&self, slots: usize) -> bool {
        let words = self.free.iter().enumerate();
        words
            .take(slots.div_ceil(64))
            .all(|(word, free)| free.load(SeqCst) == Self::full_word(slots, word))
    }

    /// Takes at most `most` free slots; shows each. For the thread to which the slab is assigned.
    pub(crate) fn take(&self, most: usize, mut show: impl FnMut(usize)) {
        let mut left = most;
        for (number, word) in self.free.iter().enumerate() {
            let free = word.load(Relaxed);
            if free == 0 {
                continue;
            }
            if left == 0 {
                return;
            }
            let (mut rest, mut taken) = (free, 0);
            while rest != 0 && left != 0 {
                let bit = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                taken |= 1 << bit;
                left -= 1;
            }
            // Acquire: what the freeing threads did to these slots comes before what we do.
            word.fetch_and(!taken, Acquire);
            let mut rest = taken;
            while rest != 0 {
                show(number * 64 + rest.trailing_zeros() as usize);
                rest &= rest - 1;
            }
        }
    }

    /// Takes all slots of a slab that is all free, and assigned to the caller.
    pub(crate) fn take_all(&self) {
        for word in &self.free {
            word.store(0, Relaxed);
        }
    }

    pub(crate) fn next(&self) -> u32 {
        self.next.load(Relaxed)
    }

    pub(crate) fn set_next(&self, next: u32) {
        self.next.store(next, Relaxed);
    }
}

/// Slabs with free slots that wait to be entered in the pool's lists: anybody pushes, one thread (the
/// holder of the pool's lock) takes them all. Nobody pops one, so there is no ABA (Treiber 1986).
/// Begins as [`NO_SLAB`].
pub(crate) struct Pending(pub(crate) AtomicU32);

impl Pending {
    /// Pushes the slab whose number plus 1 is `link`; it is listed, and in no list.
    pub(crate) fn push(&self, link: u32, slab: &Slab) {
        let mut head = self.0.load(Relaxed);
        loop {
            slab.set_next(head);
            match self.0.compare_exchange_weak(head, link, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// All that were pushed, as a list; the last pushed is its head.
    pub(crate) fn take_all(&self) -> u32 {
        // Looked at first: a swap would take the line from the others each time.
        if self.0.load(Relaxed) == NO_SLAB {
            return NO_SLAB;
        }
        self.0.swap(NO_SLAB, Acquire)
    }
}
