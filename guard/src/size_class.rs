//! Which requests share a chunk size, and how large a slot they get. Pure arithmetic; never reads
//! memory.
//!
//! The rule is glibc's for 64-bit machines: a chunk is the request plus 8 bytes, rounded up to 16,
//! at least 32. 160 therefore stands for requests of 153..=168, chunks of 176.

/// Size that is watched unless the configuration names another one, in bytes.
pub(crate) const DEFAULT_SIZE: usize = 160;

/// Largest size that can be named, in bytes.
pub(crate) const MAX_SIZE: usize = 1024;

/// Largest request in a class that can be named, in bytes.
pub(crate) const MAX_REQUEST: usize = SizeClass::of(MAX_SIZE).end() - 1;

/// Requests are told apart in steps of 8 bytes: no class, and no slot size, has a finer border.
pub(crate) const GRANULE: usize = 8;

/// Number of granules: that of a request is below.
pub(crate) const GRANULES: usize = granule(MAX_REQUEST) + 1;

/// The granule of a request of at most [`MAX_REQUEST`] bytes.
#[inline(always)]
pub(crate) const fn granule(request: usize) -> usize {
    request.div_ceil(GRANULE)
}

/// A run of request sizes: `low..low + len`, in bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SizeClass {
    pub(crate) low: usize,
    pub(crate) len: usize,
}

impl SizeClass {
    /// All requests that get the same chunk as `size`; `size <= MAX_SIZE`.
    pub(crate) const fn of(size: usize) -> Self {
        let rounded = (size + 8).next_multiple_of(16);
        if rounded <= 32 {
            return Self { low: 0, len: 25 };
        }
        Self {
            low: rounded - 8 - 15,
            len: 16,
        }
    }

    /// The first size that is too large for the class.
    pub(crate) const fn end(self) -> usize {
        self.low + self.len
    }

    /// Requests that an allocator might serve with a chunk of this class: its own, and smaller
    /// ones. glibc hands out up to 32 bytes too much rather than keep a remnant, other allocators
    /// space their classes a quarter apart.
    pub(crate) const fn candidates(self) -> Self {
        let slack = if self.low / 4 > 32 { self.low / 4 } else { 32 };
        let low = self.low.saturating_sub(slack);
        Self {
            low,
            len: self.end() - low,
        }
    }

    /// The two slot sizes of the class in bytes: for its smaller requests, up to a multiple of 16,
    /// and for the others.
    ///
    /// malloc promises an alignment of 16 (C11 7.22.3), so slots can't lie closer: a request of 160
    /// bytes needs 160 where glibc takes 176, one of 168 needs 176 either way. *Packed* slots of the
    /// upper half lie at multiples of 8 and take 168. That breaks a program that relies on 16: Bun's
    /// leaked object of 168 bytes is of a type of alignment 16, and though nothing in Bun 1.2.18
    /// makes use of that, the compiler did so for its neighbours (`vmovaps`). Hence only on request.
    pub(crate) const fn strides(self, packed: bool) -> [usize; 2] {
        let last = self.end() - 1;
        let upper = last.next_multiple_of(16);
        [upper - 16, if packed { last } else { upper }]
    }
}
