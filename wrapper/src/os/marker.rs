//! Owns the mark by which one copy of claude-safe knows another one.
//!
//! A copy has its own inode, and a package may install it under any name, so neither tells. The
//! mark is a section of its own in the ELF file; `strip` keeps it, because it is loaded.
//!
//! # Safety
//!
//! `link_section` can put data where the loader expects something else. The section here has a
//! name that no loader knows.
#![allow(unsafe_code)]

/// The section that carries the mark, in both artifacts.
pub const SECTION: &str = ".claude_safe";

/// How the mark of the wrapper begins.
pub const WRAPPER: &[u8] = b"claude-safe\0";

/// How the mark of the guard library begins: `guard/` puts it into the same section.
pub const GUARD: &[u8] = b"claude-guard\0";

#[used]
// SAFETY: plain constant data in a section that only this crate names.
#[unsafe(link_section = ".claude_safe")]
static CLAUDE_SAFE_MARKER: [u8; 16] = *b"claude-safe\0\0\0\0\0";

/// The mark of this program. Going through it keeps the section: `#[used]` holds it against the
/// compiler, but a linker that collects unreferenced sections would still drop it.
pub fn own() -> &'static [u8] {
    std::hint::black_box(&CLAUDE_SAFE_MARKER)
}
