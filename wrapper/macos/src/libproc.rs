//! Every call of the system: libproc.h and sysctlbyname(3), both in libSystem. Hands on bytes; what they mean is
//! decided elsewhere.
//!
//! # Safety
//! The calls get a buffer with its length in bytes and write no more; the prototypes are those of libproc.h (macOS 10.5)
//! and sys/sysctl.h.
#![allow(unsafe_code)]

use crate::descriptors::macos::{FD_RECORD_BYTES, PATH_RECORD_BYTES};
use std::ffi::{CString, c_char, c_int, c_void};

/// `PROC_ALL_PIDS` and `PROC_RUID_ONLY` of sys/proc_info.h.
const ALL_PIDS: u32 = 1;
const OF_REAL_USER: u32 = 5;
/// `PROC_PIDLISTFDS`.
const LIST_FDS: c_int = 1;
/// `PROC_PIDFDVNODEPATHINFO`.
const FD_PATH: c_int = 2;
/// `PROC_PIDPATHINFO_MAXSIZE`.
const LONGEST_PATH: usize = 4 * 1024;
/// No process has more descriptors (`kern.maxfilesperproc` is 245760 at most).
const MOST_FDS: usize = 1 << 18;

unsafe extern "C" {
    fn proc_listpids(kind: u32, of: u32, buffer: *mut c_void, bytes: c_int) -> c_int;
    fn proc_pidinfo(
        pid: c_int,
        flavor: c_int,
        arg: u64,
        buffer: *mut c_void,
        bytes: c_int,
    ) -> c_int;
    fn proc_pidfdinfo(
        pid: c_int,
        fd: c_int,
        flavor: c_int,
        buffer: *mut c_void,
        bytes: c_int,
    ) -> c_int;
    fn proc_pidpath(pid: c_int, buffer: *mut c_void, bytes: u32) -> c_int;
    fn sysctlbyname(
        name: *const c_char,
        old: *mut c_void,
        old_bytes: *mut usize,
        new: *mut c_void,
        new_bytes: usize,
    ) -> c_int;
    fn getuid() -> u32;
}

/// A call that fills a buffer, with a larger one until it is not filled to the end. `None`: it failed.
fn filled(most_bytes: usize, call: impl Fn(*mut c_void, c_int) -> c_int) -> Option<Vec<u8>> {
    let mut bytes = 4096;
    loop {
        let mut buffer = vec![0_u8; bytes];
        let got = call(buffer.as_mut_ptr().cast(), c_int::try_from(bytes).ok()?);
        let got = usize::try_from(got).ok().filter(|got| *got > 0)?;
        if got < bytes || bytes >= most_bytes {
            buffer.truncate(got);
            return Some(buffer);
        }
        bytes *= 2;
    }
}

/// The processes of this user, of all for root.
pub(crate) fn pids() -> Vec<i32> {
    // SAFETY: takes nothing and cannot fail.
    let user = unsafe { getuid() };
    let (kind, of) = if user == 0 {
        (ALL_PIDS, 0)
    } else {
        (OF_REAL_USER, user)
    };
    let most_bytes = 1 << 20;
    // SAFETY: the buffer has so many bytes.
    let all = filled(most_bytes, |buffer, bytes| unsafe {
        proc_listpids(kind, of, buffer, bytes)
    });
    let all = all.unwrap_or_default();
    let numbers = all
        .chunks_exact(4)
        .map(|word| i32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    numbers.filter(|pid| *pid > 0).collect()
}

/// The descriptors of a process, as records. `None`: it is gone, or not ours to look into.
pub(crate) fn descriptors(pid: i32) -> Option<Vec<u8>> {
    // SAFETY: the buffer has so many bytes.
    filled(MOST_FDS * FD_RECORD_BYTES, |buffer, bytes| unsafe {
        proc_pidinfo(pid, LIST_FDS, 0, buffer, bytes)
    })
}

/// The record of one descriptor of a file, with its path. `None`: it is closed, or no file.
pub(crate) fn path_of(pid: i32, fd: i32) -> Option<Vec<u8>> {
    let mut buffer = vec![0_u8; PATH_RECORD_BYTES];
    let bytes = PATH_RECORD_BYTES as c_int;
    // SAFETY: the buffer has so many bytes.
    let got = unsafe { proc_pidfdinfo(pid, fd, FD_PATH, buffer.as_mut_ptr().cast(), bytes) };
    (got == bytes).then_some(buffer)
}

/// The file that a process executes.
pub(crate) fn program(pid: i32) -> Option<String> {
    let mut buffer = vec![0_u8; LONGEST_PATH];
    // SAFETY: the buffer has so many bytes.
    let got = unsafe { proc_pidpath(pid, buffer.as_mut_ptr().cast(), LONGEST_PATH as u32) };
    buffer.truncate(usize::try_from(got).ok().filter(|got| *got > 0)?);
    let path = String::from_utf8_lossy(&buffer);
    // Shown to people: nothing in it may draw on a terminal.
    Some(
        path.chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect(),
    )
}

/// A number of sysctl(3) that is an `int`.
pub(crate) fn number(name: &str) -> Option<u64> {
    let name = CString::new(name).ok()?;
    let mut value: c_int = 0;
    let mut bytes = size_of::<c_int>();
    // SAFETY: name is a C string; value has so many bytes; nothing is set.
    let failed = unsafe {
        sysctlbyname(
            name.as_ptr(),
            (&raw mut value).cast(),
            &mut bytes,
            std::ptr::null_mut(),
            0,
        )
    };
    (failed == 0 && bytes == size_of::<c_int>())
        .then_some(value)
        .and_then(|value| u64::try_from(value).ok())
}
