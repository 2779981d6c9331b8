//! Opens pressure-stall triggers (Linux `Documentation/accounting/psi.rst`). Owns nothing after
//! the descriptor is handed out. Never waits on it: that is the supervisor's one poll.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Arms a trigger on a pressure file (`/proc/pressure/memory`, or `memory.pressure` of a cgroup).
/// The descriptor becomes ready with `POLLPRI` each time the stall is reached, at most once a
/// window, and with `POLLERR` when its cgroup is gone. Closing it disarms the trigger.
///
/// `None`: the kernel has no PSI (or it is switched off), or refuses this trigger: without
/// CAP_SYS_RESOURCE only windows that are multiples of 2 s are granted, since Linux 6.5.
#[must_use]
pub fn open_trigger(pressure_file: &Path, trigger: &str) -> Option<OwnedFd> {
    // The kernel wants the terminating zero in the same write.
    let mut text = [0_u8; 64];
    let length = trigger.len();
    text.get_mut(..length)?.copy_from_slice(trigger.as_bytes());
    let with_zero = text.get(..=length)?;
    // std adds O_CLOEXEC.
    let mut trigger_file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(pressure_file)
        .ok()?;
    // A regular file (a bind mount, a fake) would take the write and poll as ready for ever;
    // files of the kernel have no length.
    if trigger_file.metadata().ok()?.len() != 0 {
        return None;
    }
    match trigger_file.write(with_zero) {
        Ok(written) if written == with_zero.len() => Some(trigger_file.into()),
        _ => None,
    }
}
