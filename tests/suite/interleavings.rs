//! The lock-free part of the pool (guard/src/slab.rs) in every order of its steps, and with every
//! value that a load may see, up to a bound of preemptions.
//!
//! Around it stands what pool.rs does with it, in small: threads that free, and one that refills or
//! leaves its bump slab. What must hold in the end: a slab with a free slot is in a list, once; no
//! slot is handed out twice; what a thread wrote before it freed is there for the next owner.

#![allow(missing_docs)]

use std::{
    cell::Cell,
    collections::BTreeSet,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use loom::{
    cell::UnsafeCell,
    sync::Mutex,
    thread::{self, JoinHandle},
};

#[path = "../../guard/src/slab.rs"]
// The suite needs a part of it.
#[allow(dead_code)]
mod slab;

use slab::{GivenBack, NO_SLAB, Pending, Slab};
use sync::AtomicU32;

/// Loom's atomics, which take `SeqCst` for `AcqRel`. What `SeqCst` promises beyond that is put in
/// front of a load as loom's fence: that it comes after the thread's own earlier `SeqCst` writes. A
/// load or a write of a weaker order gets none, so a missing `SeqCst` is found.
mod sync {
    use loom::sync::atomic::{self, fence};
    pub(crate) use std::sync::atomic::Ordering;
    use std::sync::atomic::Ordering::{AcqRel, Release, SeqCst};

    loom::thread_local! {
        /// This thread has made a SeqCst write since its last fence.
        static HAS_WRITTEN: std::cell::Cell<bool> = std::cell::Cell::new(false);
    }

    fn before(reads: bool, order: Ordering) {
        if order == SeqCst && reads && HAS_WRITTEN.with(|written| written.replace(false)) {
            fence(SeqCst);
        }
    }

    fn after(writes: bool, order: Ordering) {
        if order == SeqCst && writes && !super::IS_WEAKENED.get() {
            HAS_WRITTEN.with(|written| written.set(true));
        }
    }

    macro_rules! atomic {
        ($name:ident, $value:ty) => {
            pub(crate) struct $name(atomic::$name);

            #[allow(dead_code)]
            impl $name {
                pub(crate) fn new(value: $value) -> Self {
                    Self(atomic::$name::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    before(true, order);
                    self.0.load(order)
                }

                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    if order == SeqCst {
                        // As a swap, as compiled code does it. Of a plain store loom forgets that
                        // it can't come between the two halves of another thread's swap.
                        self.0.swap(value, Release);
                    } else {
                        self.0.store(value, order);
                    }
                    after(true, order);
                }

                pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.change(order, |order| self.0.swap(value, order))
                }

                pub(crate) fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    self.change(order, |order| self.0.fetch_or(value, order))
                }

                pub(crate) fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                    self.change(order, |order| self.0.fetch_and(value, order))
                }

                pub(crate) fn compare_exchange_weak(
                    &self,
                    old: $value,
                    new: $value,
                    order: Ordering,
                    failed: Ordering,
                ) -> Result<$value, $value> {
                    self.0.compare_exchange_weak(old, new, order, failed)
                }

                fn change(&self, order: Ordering, run: impl FnOnce(Ordering) -> $value) -> $value {
                    before(true, order);
                    let old = run(if order == SeqCst { AcqRel } else { order });
                    after(true, order);
                    old
                }
            }
        };
    }
    atomic!(AtomicU32, u32);
    atomic!(AtomicU64, u64);
}

thread_local! {
    /// Takes from `SeqCst` what it has beyond `AcqRel`. Loom's threads are all on one of the system's.
    static IS_WEAKENED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a scenario in all orders with at most so many preemptions, and tells their number.
fn in_every_order(preemptions: usize, scenario: impl Fn() + Sync + Send + 'static) {
    let (began, count) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let counter = count.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        counter.fetch_add(1, Relaxed);
        scenario();
    });
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    // Past the test runner: figures for the log of the run.
    let _ = writeln!(
        std::io::stderr(),
        "{name}: {} orders, {preemptions} preemptions at the most, {} ms",
        count.load(Relaxed),
        began.elapsed().as_millis()
    );
    assert!(count.load(Relaxed) > 10, "the threads never met");
}

/// A slot's contents; loom tells if two threads are at it without an order between them.
struct Contents(UnsafeCell<u32>);

// SAFETY: loom's cell fails the run on any access that isn't ordered, in place of undefined behaviour.
unsafe impl Sync for Contents {}
// SAFETY: the same.
unsafe impl Send for Contents {}

/// One kind of the pool, in small. A link is a slab's number plus 1, as in pool.rs.
struct Pool {
    slabs: Vec<Slab>,
    slots: usize,
    contents: Vec<Vec<Contents>>,
    pending: Pending,
    /// The list of slabs with free slots.
    partial: Mutex<u32>,
}

impl Pool {
    /// Slabs of which every slot is taken, in no list.
    fn new(slabs: usize, slots: usize) -> Arc<Self> {
        let of_slab = |_| (0..slots).map(|_| Contents(UnsafeCell::new(0))).collect();
        Arc::new(Self {
            slabs: (0..slabs).map(|_| Slab::new()).collect(),
            slots,
            contents: (0..slabs).map(of_slab).collect(),
            pending: Pending(AtomicU32::new(NO_SLAB)),
            partial: Mutex::new(NO_SLAB),
        })
    }

    fn slab(&self, link: u32) -> &Slab {
        &self.slabs[link as usize - 1]
    }

    /// Writes to a slot as its owner would.
    fn write(&self, link: u32, slot: usize) {
        self.contents[link as usize - 1][slot]
            .0
            .with_mut(|contents| {
                // SAFETY: above, at `Sync`.
                unsafe { *contents += 1 }
            });
    }

    /// As `Kind::give_back_word`, for slots of one word.
    fn free(&self, link: u32, slots: &[usize]) -> GivenBack {
        let mut bits = 0;
        for &slot in slots {
            self.write(link, slot);
            bits |= 1 << (slot % 64);
        }
        let slab = self.slab(link);
        let result = slab.give_back(self.slots, slots[0] / 64, bits);
        assert_ne!(result, GivenBack::Twice);
        if slab.must_be_listed() {
            self.pending.push(link, slab);
        }
        result
    }

    /// As `Kind::leave_bump_slab`; `rest` are the slots that were not handed out.
    fn leave_bump_slab(&self, link: u32, rest: &[usize]) {
        let slab = self.slab(link);
        for &slot in rest {
            slab.give_back(self.slots, slot / 64, 1 << (slot % 64));
        }
        if slab.unlist() {
            self.pending.push(link, slab);
        }
    }

    /// As `refill`, as far as it takes slots of slabs that are in the list.
    fn refill(&self, most: usize) -> Vec<(u32, usize)> {
        let mut partial = self.partial.lock().expect("nobody panics");
        self.enter_pending(&mut partial);
        let mut taken = Vec::new();
        while taken.len() < most && *partial != NO_SLAB {
            let link = *partial;
            let slab = self.slab(link);
            slab.take(most - taken.len(), |slot| taken.push((link, slot)));
            if taken.len() == most {
                break;
            }
            *partial = slab.next();
            if slab.unlist() {
                slab.set_next(*partial);
                *partial = link;
            }
        }
        for &(link, slot) in &taken {
            self.write(link, slot);
        }
        taken
    }

    fn enter_pending(&self, partial: &mut u32) {
        let mut link = self.pending.take_all();
        while link != NO_SLAB {
            let slab = self.slab(link);
            let next = slab.next();
            slab.set_next(*partial);
            *partial = link;
            link = next;
        }
    }

    /// When all threads are done: every slot is free in a slab that is in the list, or live, once.
    fn assert_whole(&self, live: &[(u32, usize)]) {
        let mut partial = self.partial.lock().expect("nobody panics");
        self.enter_pending(&mut partial);
        let mut listed = BTreeSet::new();
        let mut found: Vec<_> = live.to_vec();
        let mut link = *partial;
        while link != NO_SLAB {
            assert!(listed.insert(link), "slab {link} is listed twice");
            let slab = self.slab(link);
            slab.take(self.slots, |slot| found.push((link, slot)));
            link = slab.next();
        }
        found.sort_unstable();
        let links = 1..=self.slabs.len() as u32;
        let all: Vec<_> = links
            .flat_map(|link| (0..self.slots).map(move |slot| (link, slot)))
            .collect();
        assert_eq!(found, all, "slots that are live, or free in a listed slab");
    }
}

fn spawn<T: 'static>(pool: &Arc<Pool>, run: impl FnOnce(&Pool) -> T + 'static) -> JoinHandle<T> {
    let pool = pool.clone();
    thread::spawn(move || run(&pool))
}

fn joined<T>(threads: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    let threads = threads.into_iter();
    threads
        .map(|thread| thread.join().expect("it ends"))
        .collect()
}

/// A thread leaves its bump slab while others free what it handed out.
fn bump_slab_is_left(rest: &'static [usize]) {
    let pool = Pool::new(1, 2 + rest.len());
    pool.slab(1).set_listed();
    let threads = [0, 1].map(|slot| spawn(&pool, move |pool| pool.free(1, &[slot])));
    pool.leave_bump_slab(1, rest);
    joined(threads);
    pool.assert_whole(&[]);
}

#[test]
fn a_bump_slab_that_is_used_up_is_not_forgotten() {
    in_every_order(4, || bump_slab_is_left(&[]));
}

#[test]
fn a_bump_slab_that_is_left_early_is_listed_once() {
    in_every_order(4, || bump_slab_is_left(&[2]));
}

/// A refill takes the last free slot of a listed slab while others free some.
fn refill_meets_frees() {
    let pool = Pool::new(1, 3);
    pool.free(1, &[0]);
    let threads = [1, 2].map(|slot| spawn(&pool, move |pool| pool.free(1, &[slot])));
    let mut live = pool.refill(3);
    live.extend(pool.refill(2));
    joined(threads);
    pool.assert_whole(&live);
}

#[test]
fn a_refill_neither_forgets_nor_doubles_what_is_freed_meanwhile() {
    in_every_order(3, refill_meets_frees);
}

#[test]
fn two_threads_that_free_and_refill_never_get_the_same_slot() {
    in_every_order(3, || {
        let pool = Pool::new(2, 2);
        let threads = [1, 2].map(|link| {
            spawn(&pool, move |pool| {
                pool.free(link, &[0]);
                pool.refill(1)
            })
        });
        pool.free(1, &[1]);
        let mut live = joined(threads).concat();
        live.push((2, 1));
        pool.assert_whole(&live);
    });
}

#[test]
fn pending_slabs_are_neither_lost_nor_doubled() {
    in_every_order(4, || {
        let pool = Pool::new(3, 1);
        let threads = [1, 2].map(|link| spawn(&pool, move |pool| pool.free(link, &[0])));
        pool.free(3, &[0]);
        let live = pool.refill(1);
        joined(threads);
        pool.assert_whole(&live);
    });
}

#[test]
fn of_two_threads_that_empty_a_slab_at_least_one_sees_it() {
    // In one word, and in two.
    for (slots, first, second) in [(2, vec![0], vec![1]), (65, (0..64).collect(), vec![64])] {
        in_every_order(4, move || {
            let pool = Pool::new(1, slots);
            let (first, second) = (first.clone(), second.clone());
            let threads = [
                spawn(&pool, move |pool| pool.free(1, &first)),
                spawn(&pool, move |pool| pool.free(1, &second)),
            ];
            let results = joined(threads);
            assert!(results.contains(&GivenBack::All), "{results:?}");
            pool.assert_whole(&[]);
        });
    }
}

/// As `release_empty_slabs` and a refill that finds nothing else: the slab goes round as a fresh one
/// while the thread that emptied it has not got to `must_be_listed` yet.
#[test]
fn an_empty_slab_can_be_reused_before_the_last_free_is_done() {
    in_every_order(5, || {
        let pool = Pool::new(1, 2);
        pool.free(1, &[0]);
        let last = spawn(&pool, |pool| pool.free(1, &[1]));
        let reuser = spawn(&pool, |pool| {
            let mut partial = pool.partial.lock().expect("nobody panics");
            pool.enter_pending(&mut partial);
            let slab = pool.slab(1);
            if *partial == NO_SLAB || !slab.is_all_free(pool.slots) {
                return;
            }
            *partial = slab.next();
            drop(partial);
            slab.take_all();
            slab.set_listed();
            pool.write(1, 0);
            pool.free(1, &[0]);
            pool.leave_bump_slab(1, &[1]);
        });
        joined([last]);
        joined([reuser]);
        pool.assert_whole(&[]);
    });
}

/// The suite's own premise: with less than `SeqCst`, a slab is forgotten.
#[test]
#[should_panic = "slots that are live, or free in a listed slab"]
fn with_a_weaker_order_a_slab_is_forgotten() {
    IS_WEAKENED.set(true);
    in_every_order(4, || bump_slab_is_left(&[]));
}
