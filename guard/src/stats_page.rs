//! The statistics page: one fixed layout that a guarded process writes and anybody may read.
//!
//! Owns the layout and its arithmetic, nothing else: no system call, no allocation, `core` only,
//! because the wrapper includes this very file. The guard writes through a shared mapping; a
//! reader should `pread` the file and call [`Snapshot::from_bytes`] rather than map it.
//!
//! Everything is a word of 64 bits in this machine's byte order. Counters wrap and are read while
//! they move: a snapshot is not one instant.

// Two crates include this file, and each needs about half of it.
#![allow(dead_code, unreachable_pub)]

use core::{
    mem::offset_of,
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, Release},
    },
};

/// First eight bytes of a page that a guard has taken.
pub const MAGIC: u64 = u64::from_le_bytes(*b"clguard\n");
/// Changes with every change of the layout.
pub const VERSION: u64 = 2;
/// Number of counter shards. Each but the last is written by one thread at a time.
pub const SHARDS: usize = 128;
/// The shard of all threads that have none of their own: changed by atomic operations only.
pub const SHARED_SHARD: usize = SHARDS - 1;
/// Number of size classes that can be watched at once.
pub const CLASSES: usize = 8;
/// Number of regions of the page plane that the page has room for: the largest ones.
pub const REGIONS: usize = 32;
/// Number of region kinds, see [`RegionKind`].
pub const KINDS: usize = 4;
/// Size of the page in bytes, and of the file behind it.
pub const LEN: usize = size_of::<StatsPage>();

/// Where in the file a request of the wrapper's is written, see [`Wanted`].
pub const WANTED_AT: usize = offset_of!(StatsPage, wanted);

/// What the guard does in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum State {
    /// The guard has the page, and hasn't finished looking round.
    Starting = 0,
    /// Calls are passed on and counted.
    Standby = 1,
    /// The watched classes are served from the pool.
    Active = 2,
    /// The program does not take its memory from a `malloc` that a preload can see.
    Unreachable = 3,
}

/// Who answers SIGUSR1 in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Usr1 {
    /// Nobody of ours: it was inherited as ignored. A SIGUSR1 has no effect.
    None = 0,
    /// The guard: a SIGUSR1 writes the line.
    Ours = 1,
    /// The program has set the disposition itself (a handler, or the default, which kills).
    Program = 2,
}

/// What the wrapper, which sees the whole process tree, asks of the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Wanted {
    /// Nothing: the guard goes by its own look at its threshold.
    Nothing = 0,
    /// The tier 1 threshold is passed: serve the watched classes from the pool.
    Active = 1,
}

/// How the watched classes were chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Choice {
    /// They were named.
    Named = 0,
    /// `auto`: no class has been seen to only grow yet.
    Searching = 1,
    /// `auto`: the first class is one whose live count only grows.
    Found = 2,
}

/// What is known of the regions of one kind in the page plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum RegionKind {
    /// Large reservations that an allocator hands out in parts.
    Arena = 0,
    /// The JavaScript engine's own heap.
    JsHeap = 1,
    /// Stacks of threads.
    Stack = 2,
    /// Everything else.
    Other = 3,
}

/// Counters of one class on one shard.
#[derive(Debug)]
#[repr(C)]
pub struct ClassCounters {
    /// Requests of the class that the next allocator served.
    pub alloc: AtomicU64,
    /// Chunks and slots of the class that were freed.
    pub free: AtomicU64,
    /// Chunks of the class given to requests of another class, less the reverse (an allocator may
    /// hand out the next larger chunk); a signed number. Live are `alloc + pool_hit + stray - free`.
    pub stray: AtomicU64,
    /// Requests that the pool served.
    pub pool_hit: AtomicU64,
}

/// Counters of one thread.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Shard {
    /// In the order of [`StatsPage::classes`].
    pub classes: [ClassCounters; CLASSES],
}

/// One watched class.
#[derive(Debug)]
#[repr(C)]
pub struct WatchedClass {
    /// Request size that names the class, in bytes; 0 for an unused place.
    pub size: AtomicU64,
    /// 1 if the pool serves it.
    pub pooled: AtomicU64,
}

/// State of the pool. All zero while there is none.
#[derive(Debug)]
#[repr(C)]
pub struct PoolGauges {
    /// First address of the space taken for slabs and their metadata.
    pub start: AtomicU64,
    /// Its length in bytes.
    pub reserved_bytes: AtomicU64,
    /// Part of it that may be written, in bytes.
    pub usable_bytes: AtomicU64,
    /// Slabs that hold or held objects, and are not given back.
    pub slabs: AtomicU64,
    /// Slabs whose pages were given back to the kernel, counted each time.
    pub slabs_released: AtomicU64,
    /// Requests of a pooled class that the next allocator had to serve (no slab to be had, a
    /// signal handler in mid-call, a thread at its end).
    pub passed_on: AtomicU64,
}

/// System calls that failed, of those that the guard can do without.
#[derive(Debug)]
#[repr(C)]
pub struct Faults {
    /// How many.
    pub count: AtomicU64,
    /// The last one: number of the call in `os::Call`.
    pub call: AtomicU64,
    /// The last one: its errno.
    pub errno: AtomicU64,
}

/// Sums over one kind of regions.
#[derive(Debug)]
#[repr(C)]
pub struct KindTotals {
    /// Number of regions.
    pub regions: AtomicU64,
    /// Address space that they take, in bytes.
    pub bytes: AtomicU64,
    /// Estimate of the part that is resident, in bytes.
    pub resident_bytes: AtomicU64,
    /// Largest such estimate so far, in bytes.
    pub peak_bytes: AtomicU64,
}

/// One anonymous region of the program.
#[derive(Debug)]
#[repr(C)]
pub struct Region {
    /// First address; 0 for an unused place.
    pub start: AtomicU64,
    /// Length in bytes.
    pub bytes: AtomicU64,
    /// See [`RegionKind`].
    pub kind: AtomicU64,
    /// Estimate of the part that is resident, in bytes.
    pub resident_bytes: AtomicU64,
}

/// The page plane: which anonymous memory the program has mapped.
#[derive(Debug)]
#[repr(C)]
pub struct PagePlane {
    /// Calls of the mmap family that were seen.
    pub calls: AtomicU64,
    /// Calls that could not be entered in the map: while this is 0 the map is exact.
    pub lost: AtomicU64,
    /// When resident parts were last estimated: milliseconds of CLOCK_MONOTONIC.
    pub estimated_ms: AtomicU64,
    /// By [`RegionKind`].
    pub kinds: [KindTotals; KINDS],
    /// The largest regions.
    pub largest: [Region; REGIONS],
}

/// The page itself. All zeros is a page that no guard has taken yet.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct StatsPage {
    magic: AtomicU64,
    version: AtomicU64,
    len: AtomicU64,
    pid: AtomicU64,
    state: AtomicU64,
    usr1: AtomicU64,
    wanted: AtomicU64,
    choice: AtomicU64,
    /// The first one is the class of the SIGUSR1 line.
    pub classes: [WatchedClass; CLASSES],
    /// The pool.
    pub pool: PoolGauges,
    /// What went wrong.
    pub faults: Faults,
    /// The page plane.
    pub plane: PagePlane,
    shards: [Shard; SHARDS],
}

const fn zero() -> AtomicU64 {
    AtomicU64::new(0)
}

impl StatsPage {
    /// A page that no guard has taken.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            magic: zero(),
            version: zero(),
            len: zero(),
            pid: zero(),
            state: zero(),
            usr1: zero(),
            wanted: zero(),
            choice: zero(),
            classes: [const {
                WatchedClass {
                    size: zero(),
                    pooled: zero(),
                }
            }; CLASSES],
            pool: PoolGauges {
                start: zero(),
                reserved_bytes: zero(),
                usable_bytes: zero(),
                slabs: zero(),
                slabs_released: zero(),
                passed_on: zero(),
            },
            faults: Faults {
                count: zero(),
                call: zero(),
                errno: zero(),
            },
            plane: PagePlane {
                calls: zero(),
                lost: zero(),
                estimated_ms: zero(),
                kinds: [const {
                    KindTotals {
                        regions: zero(),
                        bytes: zero(),
                        resident_bytes: zero(),
                        peak_bytes: zero(),
                    }
                }; KINDS],
                largest: [const {
                    Region {
                        start: zero(),
                        bytes: zero(),
                        kind: zero(),
                        resident_bytes: zero(),
                    }
                }; REGIONS],
            },
            shards: [const {
                Shard {
                    classes: [const {
                        ClassCounters {
                            alloc: zero(),
                            free: zero(),
                            stray: zero(),
                            pool_hit: zero(),
                        }
                    }; CLASSES],
                }
            }; SHARDS],
        }
    }

    /// Writes the header and leaves the rest: for a page that has been counted on.
    pub fn name(&self, pid: u32) {
        self.version.store(VERSION, Relaxed);
        self.len.store(LEN as u64, Relaxed);
        self.pid.store(pid.into(), Relaxed);
        self.state.store(State::Starting as u64, Relaxed);
        self.usr1.store(Usr1::None as u64, Relaxed);
        self.magic.store(MAGIC, Release);
    }

    /// Gives the page another process, and leaves the rest: for the child of a fork.
    pub fn rename(&self, pid: u32) {
        self.pid.store(pid.into(), Relaxed);
    }

    /// Sets the counters of all classes to zero.
    pub fn clear_counters(&self) {
        for counters in self.shards.iter().flat_map(|shard| &shard.classes) {
            for counter in counters.all() {
                counter.store(0, Relaxed);
            }
        }
    }

    /// Moves the counts of `from` to the shared shard of this page; each is on exactly one of them.
    pub fn absorb(&self, from: &StatsPage) {
        let into = &self.shards[SHARED_SHARD].classes;
        for shard in &from.shards {
            for (into, from) in into.iter().zip(&shard.classes) {
                for (into, from) in into.all().into_iter().zip(from.all()) {
                    if from.load(Relaxed) != 0 {
                        into.fetch_add(from.swap(0, Relaxed), Relaxed);
                    }
                }
            }
        }
    }

    /// The shard of a number below [`SHARDS`].
    #[inline(always)]
    #[must_use]
    pub fn shard(&self, number: usize) -> &Shard {
        &self.shards[number % SHARDS]
    }

    /// Process that took the page.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.load(Relaxed) as u32
    }

    /// Says what the guard does.
    pub fn set_state(&self, state: State) {
        self.state.store(state as u64, Relaxed);
    }

    /// What the guard does.
    #[must_use]
    pub fn state(&self) -> State {
        match self.state.load(Relaxed) {
            1 => State::Standby,
            2 => State::Active,
            3 => State::Unreachable,
            _ => State::Starting,
        }
    }

    /// Says who answers SIGUSR1.
    pub fn set_usr1(&self, usr1: Usr1) {
        self.usr1.store(usr1 as u64, Relaxed);
    }

    /// Says how the classes were chosen.
    pub fn set_choice(&self, choice: Choice) {
        self.choice.store(choice as u64, Relaxed);
    }

    /// What the wrapper asks for.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        match self.wanted.load(Relaxed) {
            1 => Wanted::Active,
            _ => Wanted::Nothing,
        }
    }
}

impl Default for StatsPage {
    fn default() -> Self {
        Self::new()
    }
}

impl ClassCounters {
    fn all(&self) -> [&AtomicU64; 4] {
        [&self.alloc, &self.free, &self.stray, &self.pool_hit]
    }
}

/// Why a page can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// All well, but no guard has taken the page (yet).
    Blank,
    /// Not a statistics page, or a damaged one.
    NotAPage,
    /// A page of another version of the guard.
    OtherVersion(u64),
}

/// Counts of one class, over all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCounts {
    /// Request size that names the class, in bytes.
    pub size: u64,
    /// Is it served from the pool?
    pub pooled: bool,
    /// Requests of the class that were served, by whomever.
    pub alloc: u64,
    /// Objects of the class that were freed.
    pub free: u64,
    /// See [`ClassCounters::stray`].
    pub stray: i64,
    /// Requests that the pool served.
    pub pool_hit: u64,
}

impl ClassCounts {
    /// Objects of the class that are live; 0 if more were freed than were seen to be made (they
    /// are older than the guard's count).
    #[must_use]
    pub fn live(&self) -> u64 {
        let live = self
            .alloc
            .wrapping_add_signed(self.stray)
            .wrapping_sub(self.free);
        if live as i64 >= 0 { live } else { 0 }
    }
}

/// See [`PoolGauges`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PoolState {
    pub start: u64,
    pub reserved_bytes: u64,
    pub usable_bytes: u64,
    pub slabs: u64,
    pub slabs_released: u64,
    pub passed_on: u64,
}

/// See [`Faults`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct FaultState {
    pub count: u64,
    pub call: u64,
    pub errno: u64,
}

/// See [`KindTotals`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct KindState {
    pub regions: u64,
    pub bytes: u64,
    pub resident_bytes: u64,
    pub peak_bytes: u64,
}

/// See [`Region`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RegionState {
    pub start: u64,
    pub bytes: u64,
    pub kind: u64,
    pub resident_bytes: u64,
}

/// See [`PagePlane`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PlaneState {
    pub calls: u64,
    pub lost: u64,
    pub estimated_ms: u64,
    pub kinds: [KindState; KINDS],
}

/// What a page said at about one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Process that took the page.
    pub pid: u32,
    /// What the guard does there.
    pub state: State,
    /// Who answers SIGUSR1 there.
    pub usr1: Usr1,
    /// How the classes were chosen.
    pub choice: Choice,
    /// The watched classes; `size` is 0 for unused places.
    pub classes: [ClassCounts; CLASSES],
    /// The pool.
    pub pool: PoolState,
    /// Failed system calls.
    pub faults: FaultState,
    /// The page plane, without the single regions (see [`regions_from_bytes`]).
    pub plane: PlaneState,
}

impl Snapshot {
    /// The class of the SIGUSR1 line.
    #[must_use]
    pub fn first(&self) -> &ClassCounts {
        &self.classes[0]
    }

    /// Reads the bytes of a page's file, in this machine's byte order.
    ///
    /// # Errors
    /// When they are no page of this version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Unreadable> {
        let header_len = offset_of!(StatsPage, pid);
        if bytes.len() < header_len {
            return Err(Unreadable::NotAPage);
        }
        let word = |at: usize| word_of(bytes, at);
        check_header(&word)?;
        if bytes.len() < LEN {
            return Err(Unreadable::NotAPage);
        }
        Self::read(&word)
    }

    /// Reads a page by the word at a byte offset, which is below [`LEN`] and a multiple of 8. The
    /// magic is read first: it was written last.
    ///
    /// # Errors
    /// When it is no page of this version.
    pub fn read(word: &dyn Fn(usize) -> u64) -> Result<Self, Unreadable> {
        check_header(word)?;
        let mut classes = [ClassCounts::default(); CLASSES];
        for (number, class) in classes.iter_mut().enumerate() {
            let head = offset_of!(StatsPage, classes) + number * size_of::<WatchedClass>();
            class.size = word(head + offset_of!(WatchedClass, size));
            class.pooled = word(head + offset_of!(WatchedClass, pooled)) != 0;
            if class.size == 0 {
                continue;
            }
            for shard in 0..SHARDS {
                let at = offset_of!(StatsPage, shards)
                    + shard * size_of::<Shard>()
                    + number * size_of::<ClassCounters>();
                let count = |field: usize| word(at + field);
                let pool_hit = count(offset_of!(ClassCounters, pool_hit));
                class.alloc = class
                    .alloc
                    .wrapping_add(count(offset_of!(ClassCounters, alloc)))
                    .wrapping_add(pool_hit);
                class.free = class
                    .free
                    .wrapping_add(count(offset_of!(ClassCounters, free)));
                class.stray = class
                    .stray
                    .wrapping_add(count(offset_of!(ClassCounters, stray)) as i64);
                class.pool_hit = class.pool_hit.wrapping_add(pool_hit);
            }
        }
        let pool = |field: usize| word(offset_of!(StatsPage, pool) + field);
        let fault = |field: usize| word(offset_of!(StatsPage, faults) + field);
        let plane_at = offset_of!(StatsPage, plane);
        let mut kinds = [KindState::default(); KINDS];
        for (number, kind) in kinds.iter_mut().enumerate() {
            let at = plane_at + offset_of!(PagePlane, kinds) + number * size_of::<KindTotals>();
            *kind = KindState {
                regions: word(at + offset_of!(KindTotals, regions)),
                bytes: word(at + offset_of!(KindTotals, bytes)),
                resident_bytes: word(at + offset_of!(KindTotals, resident_bytes)),
                peak_bytes: word(at + offset_of!(KindTotals, peak_bytes)),
            };
        }
        Ok(Self {
            pid: u32::try_from(word(offset_of!(StatsPage, pid)))
                .map_err(|_| Unreadable::NotAPage)?,
            state: match word(offset_of!(StatsPage, state)) {
                0 => State::Starting,
                1 => State::Standby,
                2 => State::Active,
                3 => State::Unreachable,
                _ => return Err(Unreadable::NotAPage),
            },
            usr1: match word(offset_of!(StatsPage, usr1)) {
                0 => Usr1::None,
                1 => Usr1::Ours,
                2 => Usr1::Program,
                _ => return Err(Unreadable::NotAPage),
            },
            choice: match word(offset_of!(StatsPage, choice)) {
                0 => Choice::Named,
                1 => Choice::Searching,
                2 => Choice::Found,
                _ => return Err(Unreadable::NotAPage),
            },
            classes,
            pool: PoolState {
                start: pool(offset_of!(PoolGauges, start)),
                reserved_bytes: pool(offset_of!(PoolGauges, reserved_bytes)),
                usable_bytes: pool(offset_of!(PoolGauges, usable_bytes)),
                slabs: pool(offset_of!(PoolGauges, slabs)),
                slabs_released: pool(offset_of!(PoolGauges, slabs_released)),
                passed_on: pool(offset_of!(PoolGauges, passed_on)),
            },
            faults: FaultState {
                count: fault(offset_of!(Faults, count)),
                call: fault(offset_of!(Faults, call)),
                errno: fault(offset_of!(Faults, errno)),
            },
            plane: PlaneState {
                calls: word(plane_at + offset_of!(PagePlane, calls)),
                lost: word(plane_at + offset_of!(PagePlane, lost)),
                estimated_ms: word(plane_at + offset_of!(PagePlane, estimated_ms)),
                kinds,
            },
        })
    }
}

/// The largest regions of the page plane in the bytes of a page's file; unused places are left out.
pub fn regions_from_bytes(bytes: &[u8]) -> impl Iterator<Item = RegionState> {
    (0..REGIONS).filter_map(move |number| {
        let at = offset_of!(StatsPage, plane)
            + offset_of!(PagePlane, largest)
            + number * size_of::<Region>();
        if bytes.len() < at + size_of::<Region>() {
            return None;
        }
        let region = RegionState {
            start: word_of(bytes, at + offset_of!(Region, start)),
            bytes: word_of(bytes, at + offset_of!(Region, bytes)),
            kind: word_of(bytes, at + offset_of!(Region, kind)),
            resident_bytes: word_of(bytes, at + offset_of!(Region, resident_bytes)),
        };
        (region.start != 0).then_some(region)
    })
}

/// The word at a byte offset; 0 beyond the end.
fn word_of(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + size_of::<u64>());
    word.and_then(|word| word.try_into().ok())
        .map_or(0, u64::from_ne_bytes)
}

fn check_header(word: &dyn Fn(usize) -> u64) -> Result<(), Unreadable> {
    let magic = word(offset_of!(StatsPage, magic));
    let version = word(offset_of!(StatsPage, version));
    match (magic, version) {
        (0, _) => Err(Unreadable::Blank),
        (MAGIC, VERSION) if word(offset_of!(StatsPage, len)) == LEN as u64 => Ok(()),
        (MAGIC, VERSION) => Err(Unreadable::NotAPage),
        (MAGIC, other) => Err(Unreadable::OtherVersion(other)),
        _ => Err(Unreadable::NotAPage),
    }
}
