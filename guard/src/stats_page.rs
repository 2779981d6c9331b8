//! The statistics page: one fixed layout that a guarded process writes and anybody may read.
//!
//! Owns the layout and its arithmetic, nothing else: no system call, no allocation, `core` only,
//! because the wrapper includes this very file. The guard writes through a shared mapping; a
//! reader should `pread` the file and call [`Snapshot::from_bytes`] rather than map it.
//!
//! Counters wrap and are read while they move: a snapshot is not one instant.

// Two crates include this file, and each needs about half of it.
#![allow(dead_code, unreachable_pub)]

use core::sync::atomic::{
    AtomicI64, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// First eight bytes of a page that a guard has taken.
pub const MAGIC: u64 = u64::from_le_bytes(*b"clguard\n");
/// Changes with every change of the layout.
pub const VERSION: u32 = 1;
/// Number of counter shards; a power of two.
pub const SHARDS: usize = 64;
/// Size of the page in bytes, and of the file behind it.
pub const LEN: usize = size_of::<StatsPage>();

/// What the guard does in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// The guard has the page, and hasn't finished looking round.
    Starting = 0,
    /// Calls are passed on and counted.
    Standby = 1,
    /// The watched class is served from the pool.
    Active = 2,
    /// The program does not take its memory from a `malloc` that a preload can see.
    Unreachable = 3,
}

/// Who answers SIGUSR1 in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Usr1 {
    /// Nobody of ours: it was inherited as ignored. A SIGUSR1 has no effect.
    None = 0,
    /// The guard: a SIGUSR1 writes the line.
    Ours = 1,
    /// The program has set the disposition itself (a handler, or the default, which kills).
    Program = 2,
}

/// Counters of the threads that hash here, on a cache line of their own.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Shard {
    /// Requests of the watched class that were served.
    pub alloc: AtomicU64,
    /// Chunks of the watched class that were freed.
    pub free: AtomicU64,
    /// Chunks of the class given to requests of another class, less the reverse (an allocator may
    /// hand out the next larger chunk). Live chunks are `alloc + stray - free`.
    pub stray: AtomicI64,
    /// Requests that the pool served.
    pub pool_hit: AtomicU64,
}

/// The page itself. All zeros is a page that no guard has taken yet.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct StatsPage {
    magic: AtomicU64,
    version: AtomicU32,
    len: AtomicU32,
    pid: AtomicU32,
    state: AtomicU32,
    usr1: AtomicU32,
    watched_size: AtomicU32,
    shards: [Shard; SHARDS],
}

impl Shard {
    const fn new() -> Self {
        Self {
            alloc: AtomicU64::new(0),
            free: AtomicU64::new(0),
            stray: AtomicI64::new(0),
            pool_hit: AtomicU64::new(0),
        }
    }
}

impl StatsPage {
    /// A page that no guard has taken.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            magic: AtomicU64::new(0),
            version: AtomicU32::new(0),
            len: AtomicU32::new(0),
            pid: AtomicU32::new(0),
            state: AtomicU32::new(State::Starting as u32),
            usr1: AtomicU32::new(Usr1::None as u32),
            watched_size: AtomicU32::new(0),
            shards: [const { Shard::new() }; SHARDS],
        }
    }

    /// Takes the page for a process, with all counters at zero.
    pub fn take(&self, pid: u32, watched_size: u32) {
        self.magic.store(0, Relaxed);
        self.clear_counters();
        self.name(pid, watched_size);
    }

    /// Writes the header and leaves the counters: for a page that has been counted on. The magic
    /// comes last.
    pub fn name(&self, pid: u32, watched_size: u32) {
        self.version.store(VERSION, Relaxed);
        self.len.store(LEN as u32, Relaxed);
        self.pid.store(pid, Relaxed);
        self.state.store(State::Starting as u32, Relaxed);
        self.usr1.store(Usr1::None as u32, Relaxed);
        self.watched_size.store(watched_size, Relaxed);
        self.magic.store(MAGIC, Release);
    }

    /// Sets every counter to zero.
    pub fn clear_counters(&self) {
        for shard in &self.shards {
            shard.alloc.store(0, Relaxed);
            shard.free.store(0, Relaxed);
            shard.stray.store(0, Relaxed);
            shard.pool_hit.store(0, Relaxed);
        }
    }

    /// Moves the counts of `from` to this page; each count is on exactly one of the two.
    pub fn absorb(&self, from: &StatsPage) {
        for (into, from) in self.shards.iter().zip(&from.shards) {
            into.alloc.fetch_add(from.alloc.swap(0, Relaxed), Relaxed);
            into.free.fetch_add(from.free.swap(0, Relaxed), Relaxed);
            into.stray.fetch_add(from.stray.swap(0, Relaxed), Relaxed);
            into.pool_hit
                .fetch_add(from.pool_hit.swap(0, Relaxed), Relaxed);
        }
    }

    /// The shard of a number in `0..SHARDS`; larger numbers wrap.
    #[inline(always)]
    #[must_use]
    pub fn shard(&self, number: usize) -> &Shard {
        &self.shards[number % SHARDS]
    }

    /// Process that took the page.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.load(Relaxed)
    }

    /// Says what the guard does.
    pub fn set_state(&self, state: State) {
        self.state.store(state as u32, Relaxed);
    }

    /// Says who answers SIGUSR1.
    pub fn set_usr1(&self, usr1: Usr1) {
        self.usr1.store(usr1 as u32, Relaxed);
    }

    /// Reads the page. Fails if no guard of this version has taken it.
    pub fn snapshot(&self) -> Result<Snapshot, Unreadable> {
        let magic = self.magic.load(Acquire);
        let mut snapshot = Snapshot::from_header(
            magic,
            self.version.load(Relaxed),
            self.len.load(Relaxed),
            [
                self.pid.load(Relaxed),
                self.state.load(Relaxed),
                self.usr1.load(Relaxed),
                self.watched_size.load(Relaxed),
            ],
        )?;
        for shard in &self.shards {
            snapshot.add(
                shard.alloc.load(Relaxed),
                shard.free.load(Relaxed),
                shard.stray.load(Relaxed),
                shard.pool_hit.load(Relaxed),
            );
        }
        Ok(snapshot)
    }
}

impl Default for StatsPage {
    fn default() -> Self {
        Self::new()
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
    OtherVersion(u32),
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
    /// Request size that names the watched class, in bytes.
    pub watched_size: u32,
    /// Requests of the watched class that were served.
    pub alloc: u64,
    /// Chunks of the watched class that were freed.
    pub free: u64,
    /// See [`Shard::stray`].
    pub stray: i64,
    /// Requests that the pool served.
    pub pool_hit: u64,
}

impl Snapshot {
    /// Chunks of the watched class that are live; 0 if more were freed than were seen to be made
    /// (they are older than the guard's count).
    #[must_use]
    pub fn live(&self) -> u64 {
        let live = self
            .alloc
            .wrapping_add_signed(self.stray)
            .wrapping_sub(self.free);
        if live as i64 >= 0 { live } else { 0 }
    }

    /// Reads the bytes of a page's file; at least [`LEN`] of them, in this machine's byte order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Unreadable> {
        let u64_at = |at: usize| -> Option<u64> {
            Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
        };
        let u32_at = |at: usize| -> Option<u32> {
            Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        let read = || -> Option<Result<Self, Unreadable>> {
            let header = Self::from_header(
                u64_at(core::mem::offset_of!(StatsPage, magic))?,
                u32_at(core::mem::offset_of!(StatsPage, version))?,
                u32_at(core::mem::offset_of!(StatsPage, len))?,
                [
                    u32_at(core::mem::offset_of!(StatsPage, pid))?,
                    u32_at(core::mem::offset_of!(StatsPage, state))?,
                    u32_at(core::mem::offset_of!(StatsPage, usr1))?,
                    u32_at(core::mem::offset_of!(StatsPage, watched_size))?,
                ],
            );
            let mut snapshot = match header {
                Ok(snapshot) => snapshot,
                Err(unreadable) => return Some(Err(unreadable)),
            };
            for number in 0..SHARDS {
                let shard = core::mem::offset_of!(StatsPage, shards) + number * size_of::<Shard>();
                snapshot.add(
                    u64_at(shard + core::mem::offset_of!(Shard, alloc))?,
                    u64_at(shard + core::mem::offset_of!(Shard, free))?,
                    u64_at(shard + core::mem::offset_of!(Shard, stray))? as i64,
                    u64_at(shard + core::mem::offset_of!(Shard, pool_hit))?,
                );
            }
            Some(Ok(snapshot))
        };
        read().unwrap_or(Err(Unreadable::NotAPage))
    }

    fn from_header(
        magic: u64,
        version: u32,
        len: u32,
        [pid, state, usr1, watched_size]: [u32; 4],
    ) -> Result<Self, Unreadable> {
        match (magic, version) {
            (0, _) => return Err(Unreadable::Blank),
            (MAGIC, VERSION) if len as usize == LEN => {}
            (MAGIC, VERSION) => return Err(Unreadable::NotAPage),
            (MAGIC, other) => return Err(Unreadable::OtherVersion(other)),
            _ => return Err(Unreadable::NotAPage),
        }
        Ok(Self {
            pid,
            state: match state {
                0 => State::Starting,
                1 => State::Standby,
                2 => State::Active,
                3 => State::Unreachable,
                _ => return Err(Unreadable::NotAPage),
            },
            usr1: match usr1 {
                0 => Usr1::None,
                1 => Usr1::Ours,
                2 => Usr1::Program,
                _ => return Err(Unreadable::NotAPage),
            },
            watched_size,
            alloc: 0,
            free: 0,
            stray: 0,
            pool_hit: 0,
        })
    }

    fn add(&mut self, alloc: u64, free: u64, stray: i64, pool_hit: u64) {
        self.alloc = self.alloc.wrapping_add(alloc);
        self.free = self.free.wrapping_add(free);
        self.stray = self.stray.wrapping_add(stray);
        self.pool_hit = self.pool_hit.wrapping_add(pool_hit);
    }
}
