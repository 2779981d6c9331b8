//! A statistics page as the bytes of its file, for tests.
//!
//! # Safety
//! A page is made of nothing but `AtomicU64` (`repr(C)`): every byte is initialised, padding included.
#![allow(unsafe_code)]

use crate::stats_page::{LEN, StatsPage};

/// The bytes of a page that nobody else writes to.
pub(crate) fn of(page: &StatsPage) -> Vec<u8> {
    // SAFETY: see the header; LEN is the size of the page, which is borrowed.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(page).cast::<u8>(), LEN) }.to_vec()
}
