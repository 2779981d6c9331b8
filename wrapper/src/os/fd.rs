//! Descriptors between `std` and `rustix`. Without its `std` feature (which would be unified into
//! the no_std guard) rustix has descriptor types of its own.
//!
//! # Safety
//! Ownership moves with the number; a borrow keeps the lifetime of what it borrows from.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// An error number of rustix as an error of `std`.
pub fn error(errno: rustix::io::Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno.raw_os_error())
}

/// A descriptor that rustix opened becomes one of `std`.
pub fn owned(fd: rustix::fd::OwnedFd) -> OwnedFd {
    // SAFETY: into_raw_fd gives up the only owner.
    unsafe { OwnedFd::from_raw_fd(rustix::fd::IntoRawFd::into_raw_fd(fd)) }
}

/// A descriptor of `std`, lent to a call of rustix.
pub fn lend(fd: BorrowedFd<'_>) -> rustix::fd::BorrowedFd<'_> {
    // SAFETY: open for as long as the lifetime says, which is kept.
    unsafe { rustix::fd::BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}

/// A descriptor of `rustix`, lent to a call that takes one of `std`.
pub fn lend_back(fd: rustix::fd::BorrowedFd<'_>) -> BorrowedFd<'_> {
    // SAFETY: open for as long as the lifetime says, which is kept.
    unsafe { BorrowedFd::borrow_raw(rustix::fd::AsRawFd::as_raw_fd(&fd)) }
}
