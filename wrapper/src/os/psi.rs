//! Opens pressure-stall triggers (Linux `Documentation/accounting/psi.rst`). Owns nothing after
//! the descriptor is handed out. Never waits on it: that is the supervisor's one poll.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Why the kernel gives no trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTrigger {
    /// It has no pressure information (not built in, or off at boot).
    NoPressureInformation,
    /// It has, but we may not set this trigger.
    NotPermitted,
}

/// Arms a trigger on a pressure file (`/proc/pressure/memory`, or `memory.pressure` of a cgroup).
/// The descriptor becomes ready with `POLLPRI` each time the stall is reached, at most once a
/// window, and with `POLLERR` when its cgroup is gone. Closing it disarms the trigger.
///
/// # Errors
/// Why there is none. Without CAP_SYS_RESOURCE only windows that are multiples of 2 s are granted,
/// since Linux 6.5.
pub fn open_trigger(pressure_file: &Path, trigger: &str) -> Result<OwnedFd, NoTrigger> {
    // The kernel wants the terminating zero in the same write.
    let with_zero = format!("{trigger}\0");
    // std adds O_CLOEXEC.
    let mut trigger_file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(pressure_file)
        .map_err(|failure| match failure.raw_os_error() {
            // Read-only where the kernel is older, or /proc is mounted so.
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => NoTrigger::NotPermitted,
            _ => NoTrigger::NoPressureInformation,
        })?;
    // A regular file (a bind mount, a fake) would take the write and poll as ready for ever;
    // files of the kernel have no length.
    if trigger_file.metadata().map_or(1, |m| m.len()) != 0 {
        return Err(NoTrigger::NoPressureInformation);
    }
    match trigger_file.write(with_zero.as_bytes()) {
        Ok(written) if written == with_zero.len() => Ok(trigger_file.into()),
        Err(failure) if failure.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Err(NoTrigger::NoPressureInformation)
        }
        _ => Err(NoTrigger::NotPermitted),
    }
}
