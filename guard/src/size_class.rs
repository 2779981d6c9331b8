//! Which requests share a chunk size with the watched one. Pure arithmetic; never reads memory.
//!
//! The rule is glibc's for 64-bit machines: a chunk is the request plus 8 bytes, rounded up to 16,
//! at least 32. 160 therefore stands for requests of 153..=168, chunks of 176.

/// Size that is watched unless the configuration names another one, in bytes.
pub(crate) const DEFAULT_SIZE: usize = 160;

/// Largest size that can be watched, in bytes.
pub(crate) const MAX_SIZE: usize = 1024;

/// A run of sizes: `low..low + len`, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct SizeClass {
    pub(crate) low: usize,
    pub(crate) len: usize,
}

impl SizeClass {
    /// No size is in it.
    pub(crate) const NONE: Self = Self {
        low: usize::MAX,
        len: 0,
    };

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

    /// Requests that an allocator might serve with a chunk of this class: its own, and smaller
    /// ones. glibc hands out up to 32 bytes too much rather than keep a remnant, other allocators
    /// space their classes a quarter apart.
    pub(crate) const fn candidates(self) -> Self {
        let slack = if self.low / 4 > 32 { self.low / 4 } else { 32 };
        let low = self.low.saturating_sub(slack);
        Self {
            low,
            len: self.low + self.len - low,
        }
    }
}
