//! The page plane's map: which anonymous private memory the program has mapped, and what for.
//!
//! Owns disjoint regions sorted by address in a fixed array, and what became of those that a call
//! was about to take away. Pure: no system call, no lock, `core` only; the tests include this very
//! file. Never grows: what finds no room is counted as lost, and the rest stays right.
//!
//! A *region* is what one call mapped, or what is left of it. Neighbours of one kind are only made
//! one when the array is full.

// The guard and the tests include this file, and neither needs all of it.
#![allow(dead_code, unreachable_pub)]

use crate::stats_page::{KINDS, RegionKind};

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// Number of pieces taken away that are remembered, for the case that the call fails.
const TAKEN: usize = 128;

/// What a call of mmap(2) asks for, as far as it tells what the memory is for.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools)]
pub struct Request {
    /// The caller wishes an address.
    pub hinted: bool,
    /// Length in bytes.
    pub len: usize,
    /// `PROT_NONE`: address space, to be made usable later.
    pub no_access: bool,
    /// `PROT_EXEC`.
    pub executable: bool,
    /// `MAP_NORESERVE`.
    pub no_reserve: bool,
    /// `MAP_STACK` or `MAP_GROWSDOWN`.
    pub stack: bool,
}

/// What the memory is for, told from the arguments of the call alone. First rule that fits:
///
/// | arguments | kind | seen in |
/// |---|---|---|
/// | `MAP_STACK`, `MAP_GROWSDOWN` | stack | nobody: the stacks of pthread_create are libc's internal calls, which no preload sees |
/// | `PROT_EXEC` | JS heap | code of JavaScriptCore: 64 MiB + 2 pages (client 2.1.329), 1 GiB + 2 pages (2.1.110) |
/// | no access, no reserve, below 4 GiB | JS heap | V8 (Node 20): 256 KiB pages cut out of 508 KiB, large objects, 512 MiB of code |
/// | read-write, no reserve, exactly 8 GiB | JS heap | JavaScriptCore's structures, cut to the aligned 4 GiB (both clients) |
/// | read-write, no reserve, exactly 32 MiB, no hint | JS heap | libpas: JS cells and what the engine allocates (2.1.110) |
/// | 32 MiB and more | arena | mimalloc: 1 GiB with a hint (2.1.329: JS cells, buffers, everything), 32 MiB and 1 GiB (2.1.110); Gigacage: 128 GiB cut to 64 (array buffers of 2.1.110); WebAssembly memory of Node (10 GiB, no access) |
/// | anything else | other | tables, single large objects |
///
/// 2.1.329 keeps JS cells, strings and buffers in one arena: which of them grew can't be told
/// from outside.
#[must_use]
pub fn classify(request: &Request) -> RegionKind {
    let writable_reserve = request.no_reserve && !request.no_access;
    if request.stack {
        RegionKind::Stack
    } else if request.executable
        || request.no_access && request.no_reserve && request.len < 4 * GIB
        || writable_reserve && request.len == 8 * GIB
        || writable_reserve && request.len == 32 * MIB && !request.hinted
    {
        RegionKind::JsHeap
    } else if request.len >= 32 * MIB {
        RegionKind::Arena
    } else {
        RegionKind::Other
    }
}

/// Addresses from `start` up to, not including, `end`; multiples of the page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: usize,
    /// First address behind it.
    pub end: usize,
}

impl Range {
    /// The pages of `len` bytes at `start`. `None` where the kernel refuses such a range: not at a
    /// page's start, empty, or beyond the last address. `page` is a power of two.
    #[must_use]
    pub fn of_pages(start: usize, len: usize, page: usize) -> Option<Range> {
        let end = start.checked_add(len)?.checked_next_multiple_of(page)?;
        (start.is_multiple_of(page) && len != 0).then_some(Range { start, end })
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Nothing in it?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn overlaps(&self, other: &Range) -> bool {
        self.start < other.end && other.start < self.end
    }

    fn without(&self, cut: &Range) -> (Range, Range, Range) {
        let (from, to) = (self.start.max(cut.start), self.end.min(cut.end));
        let range = |start, end| Range { start, end };
        (
            range(self.start, from),
            range(from, to),
            range(to, self.end),
        )
    }
}

/// What happened to the program's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Anonymous private memory was mapped there, over whatever was there.
    Mapped {
        /// Where.
        at: Range,
        /// What for.
        kind: RegionKind,
        /// `MAP_FIXED`: inside one region it is a part of that region made usable or unusable,
        /// and no region of its own (V8 gives pages back that way).
        fixed: bool,
    },
    /// Something else was mapped there.
    Replaced {
        /// Where.
        at: Range,
    },
    /// A call is about to take this away. The token is the call's own and grows from call to call.
    Taken {
        /// Where.
        at: Range,
        /// Tells the call.
        token: u64,
        /// By mremap(2), which needs to be told what it moved; else by munmap(2), which needs it only
        /// if it fails.
        moves: bool,
    },
    /// The call failed: everything is as it was.
    Restored {
        /// Tells the call.
        token: u64,
        /// As when it was taken.
        moves: bool,
    },
    /// mremap(2) has moved, cut or enlarged what was taken.
    Moved {
        /// Tells the call.
        token: u64,
        /// What was taken.
        from: Range,
        /// Where it is now.
        to: Range,
        /// `MREMAP_DONTUNMAP`: it is still mapped at the old place too, empty.
        kept: bool,
    },
    /// Pages were made executable: a small region of no known kind is code then.
    Executable {
        /// Which.
        at: Range,
    },
}

/// One region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Where.
    pub at: Range,
    /// What for.
    pub kind: RegionKind,
    /// Estimate of the resident part in bytes, as of the last look.
    pub resident_bytes: usize,
}

impl Mapped {
    /// No region.
    pub const NONE: Mapped = Mapped {
        at: Range { start: 0, end: 0 },
        kind: RegionKind::Arena,
        resident_bytes: 0,
    };

    /// The part of it at `at`, with its share of what is resident.
    fn part(&self, at: Range) -> Mapped {
        let share = self.resident_bytes as u128 * at.len() as u128 / self.at.len().max(1) as u128;
        Mapped {
            at,
            resident_bytes: share as usize,
            ..*self
        }
    }
}

/// Sums over the regions of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of regions.
    pub regions: usize,
    /// Address space in bytes.
    pub bytes: usize,
    /// Estimate of the resident part in bytes.
    pub resident_bytes: usize,
}

/// The map, with room for `N` regions. All zeros is an empty one.
#[derive(Debug)]
pub struct PageMap<const N: usize> {
    regions: [Mapped; N],
    len: usize,
    totals: [Totals; KINDS],
    /// Taken by munmap, by mremap. Apart, since nothing ever ends the former: they would push the
    /// latter out while a thread is stopped in its call.
    taken: [Pieces; 2],
    lost: u64,
}

/// Pieces that were taken, the oldest overwritten first when there is no room. Token 0 is none.
#[derive(Debug)]
struct Pieces {
    pieces: [(u64, Mapped); TAKEN],
    next: usize,
    /// Largest token of which a piece was overwritten.
    forgotten: u64,
}

impl Pieces {
    const NONE: Pieces = Pieces {
        pieces: [(0, Mapped::NONE); TAKEN],
        next: 0,
        forgotten: 0,
    };

    /// With `reuse`, places of calls that have ended are taken first.
    fn remember(&mut self, token: u64, piece: Mapped, reuse: bool) {
        let mut ended = (0..TAKEN).filter(|&index| reuse && self.pieces[index].0 == 0);
        let index = ended.next().unwrap_or_else(|| {
            self.next = (self.next + 1) % TAKEN;
            self.next
        });
        self.forgotten = self.forgotten.max(self.pieces[index].0);
        self.pieces[index] = (token, piece);
    }
}

impl<const N: usize> PageMap<N> {
    /// An empty map.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            regions: [Mapped::NONE; N],
            len: 0,
            totals: [Totals {
                regions: 0,
                bytes: 0,
                resident_bytes: 0,
            }; KINDS],
            taken: [Pieces::NONE; 2],
            lost: 0,
        }
    }

    /// The regions, lowest address first.
    #[must_use]
    pub fn regions(&self) -> &[Mapped] {
        &self.regions[..self.len]
    }

    /// Sums by [`RegionKind`].
    #[must_use]
    pub fn totals(&self) -> &[Totals; KINDS] {
        &self.totals
    }

    /// How many regions found no room since this was last asked: while this is 0, the map is exact.
    pub fn take_lost(&mut self) -> u64 {
        core::mem::take(&mut self.lost)
    }

    /// Enters what happened.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Mapped { at, kind, fixed } => {
                // What has a purpose of its own (a stack, code) keeps it wherever it lies.
                let is_plain = matches!(kind, RegionKind::Other | RegionKind::Arena);
                if fixed
                    && let Some(around) = self.kind_around(at)
                    && (is_plain || around == kind)
                {
                    return;
                }
                self.cut(at, None);
                self.insert(Mapped {
                    at,
                    kind,
                    resident_bytes: 0,
                });
            }
            Event::Replaced { at } => self.cut(at, None),
            Event::Taken { at, token, moves } => self.cut(at, Some((token, moves))),
            Event::Restored { token, moves } => self.each_taken(token, moves, |map, piece| {
                map.cut(piece.at, None);
                map.insert(piece);
            }),
            Event::Moved {
                token,
                from,
                to,
                kept,
            } => {
                self.cut(to, None);
                self.each_taken(token, true, |map, piece| {
                    if let Some(moved) = moved(&piece, from, to) {
                        map.cut(moved.at, None);
                        map.insert(moved);
                    }
                    if kept {
                        map.cut(piece.at, None);
                        map.insert(Mapped {
                            resident_bytes: 0,
                            ..piece
                        });
                    }
                });
            }
            Event::Executable { at } => {
                let mut index = self.first_ending_after(at.start);
                while index < self.len && self.regions[index].at.start < at.end {
                    if self.regions[index].kind == RegionKind::Other {
                        self.count(index, false);
                        self.regions[index].kind = RegionKind::JsHeap;
                        self.count(index, true);
                    }
                    index += 1;
                }
            }
        }
    }

    /// The first region that ends behind `address`.
    #[must_use]
    pub fn next_region(&self, address: usize) -> Option<Mapped> {
        self.regions()
            .get(self.first_ending_after(address))
            .copied()
    }

    /// Notes how much of a region is resident; nothing if it isn't there as it was.
    pub fn set_resident(&mut self, at: Range, resident_bytes: usize) {
        let index = self.first_ending_after(at.start);
        if index < self.len && self.regions[index].at == at {
            self.count(index, false);
            self.regions[index].resident_bytes = resident_bytes.min(at.len());
            self.count(index, true);
        }
    }

    /// The regions with most resident bytes, then the longest, in that order; how many.
    pub fn largest(&self, into: &mut [Mapped]) -> usize {
        let rank = |region: &Mapped| (region.resident_bytes, region.at.len());
        let mut found = 0;
        for region in self.regions() {
            let place = into[..found].partition_point(|other| rank(other) >= rank(region));
            if place == into.len() {
                continue;
            }
            found = (found + 1).min(into.len());
            into.copy_within(place..found - 1, place + 1);
            into[place] = *region;
        }
        found
    }

    fn kind_around(&self, at: Range) -> Option<RegionKind> {
        let region = self.regions().get(self.first_ending_after(at.start))?;
        (region.at.start <= at.start && at.end <= region.at.end).then_some(region.kind)
    }

    fn first_ending_after(&self, address: usize) -> usize {
        self.regions()
            .partition_point(|region| region.at.end <= address)
    }

    fn count(&mut self, index: usize, there: bool) {
        let region = &self.regions[index];
        let totals = &mut self.totals[region.kind as usize];
        let change = |sum: &mut usize, by: usize| {
            *sum = if there { *sum + by } else { *sum - by };
        };
        change(&mut totals.regions, 1);
        change(&mut totals.bytes, region.at.len());
        change(&mut totals.resident_bytes, region.resident_bytes);
    }

    /// Takes everything at `cut` out of the map; remembers it if a call has `taken` it.
    fn cut(&mut self, cut: Range, taken: Option<(u64, bool)>) {
        if cut.is_empty() {
            return;
        }
        let first = self.first_ending_after(cut.start);
        let (mut behind, mut left, mut right) = (first, None, None);
        while behind < self.len && self.regions[behind].at.start < cut.end {
            let region = self.regions[behind];
            self.count(behind, false);
            let (before, inside, after) = region.at.without(&cut);
            if !before.is_empty() {
                left = Some(region.part(before));
            }
            if !after.is_empty() {
                right = Some(region.part(after));
            }
            if let Some((token, moves)) = taken {
                self.taken[usize::from(moves)].remember(token, region.part(inside), moves);
            }
            behind += 1;
        }
        // First the room, then what is left: one region may have become two.
        self.regions.copy_within(behind..self.len, first);
        self.len -= behind - first;
        for piece in [left, right].into_iter().flatten() {
            self.insert(piece);
        }
    }

    /// Enters a region where there is none.
    fn insert(&mut self, region: Mapped) {
        if self.len == N {
            self.join_neighbours();
        }
        if self.len == N {
            self.lost += 1;
            return;
        }
        let index = self.first_ending_after(region.at.start);
        debug_assert!(
            self.regions()
                .get(index)
                .is_none_or(|next| !next.at.overlaps(&region.at))
        );
        self.regions.copy_within(index..self.len, index + 1);
        self.regions[index] = region;
        self.len += 1;
        self.count(index, true);
    }

    fn join_neighbours(&mut self) {
        let mut last = 0;
        for index in 1..self.len {
            let next = self.regions[index];
            let joined = &mut self.regions[last];
            if joined.at.end == next.at.start && joined.kind == next.kind {
                joined.at.end = next.at.end;
                joined.resident_bytes += next.resident_bytes;
                self.totals[next.kind as usize].regions -= 1;
            } else {
                last += 1;
                self.regions[last] = next;
            }
        }
        self.len = (last + 1).min(self.len);
    }

    /// Hands over, once, the pieces that were taken under the token.
    fn each_taken(&mut self, token: u64, moves: bool, mut put: impl FnMut(&mut Self, Mapped)) {
        let by = usize::from(moves);
        if token <= self.taken[by].forgotten {
            self.lost += 1;
        }
        for index in 0..TAKEN {
            let (of, piece) = self.taken[by].pieces[index];
            if of == token {
                self.taken[by].pieces[index].0 = 0;
                put(self, piece);
            }
        }
    }
}

impl<const N: usize> Default for PageMap<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// Where mremap(2) put a piece of what it moved: in the same place within the range, cut at its new
/// end. The piece at the end is the one that grows.
fn moved(piece: &Mapped, from: Range, to: Range) -> Option<Mapped> {
    let grows = piece.at.end == from.end && to.len() > from.len();
    let start = piece.at.start - from.start;
    let end = if grows {
        to.len()
    } else {
        (piece.at.end - from.start).min(to.len())
    };
    let kept = Range {
        start: piece.at.start,
        end: piece.at.end.min(from.start + to.len()),
    };
    (start < end).then(|| Mapped {
        at: Range {
            start: to.start + start,
            end: to.start + end,
        },
        ..piece.part(kept)
    })
}
