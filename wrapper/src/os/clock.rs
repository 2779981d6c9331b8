//! The clocks by which a file's age is told. Never the one by which we wait: that is [`super::process::now_ms`].
//!
//! # Safety
//! clock_gettime(2) into a structure of this file.
#![allow(unsafe_code)]

/// Milliseconds since 1970 by the clock that people set (`CLOCK_REALTIME`): files are stamped by it.
pub fn wall_ms() -> u64 {
    read_ms(libc::CLOCK_REALTIME)
}

/// Milliseconds since boot, sleep included (`CLOCK_BOOTTIME`): nobody sets it.
pub fn boot_ms() -> u64 {
    read_ms(libc::CLOCK_BOOTTIME)
}

fn read_ms(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: now is ours. A clock that this kernel lacks leaves it at 0.
    unsafe { libc::clock_gettime(clock, &mut now) };
    // Before 1970: as good as 1970.
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000
}
