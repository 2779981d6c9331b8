//! What this kernel and this process can do. Probes only: leaves nothing behind.
//!
//! # Safety
//!
//! Plain system calls on values that this file owns.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The user in whose name this process touches files: geteuid(2).
pub fn effective_uid() -> u32 {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Does pidfd_open(2) work here (kernel >= 5.3, not forbidden by a seccomp filter)?
pub fn pidfd_works() -> bool {
    let pid = std::process::id();
    // SAFETY: no pointers; the result is checked before it is used as a descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0u32) };
    if fd < 0 {
        return false;
    }
    // SAFETY: fd is a fresh descriptor of this process, and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    true
}

/// Why the kernel does not let this process set a memory pressure trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PressureTrigger {
    /// A trigger can be set.
    Permitted,
    /// The kernel has no pressure information (not built in, or off at boot).
    NoPressureInformation,
    /// There is pressure information, but no right to set a trigger.
    NotPermitted,
}

/// Tries a trigger of 150 ms in 2 s at `pressure_file`, and drops it again. Unprivileged processes
/// may only use windows that are multiples of 2 s.
pub fn pressure_trigger(pressure_file: &Path) -> PressureTrigger {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(pressure_file);
    match opened {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            // Read-only where the kernel is older than 6.2 or /proc is mounted read-only.
            PressureTrigger::NotPermitted
        }
        Err(error) if error.raw_os_error() == Some(libc::EROFS) => PressureTrigger::NotPermitted,
        Err(_) => PressureTrigger::NoPressureInformation,
        Ok(mut file) => match file.write_all(b"some 150000 2000000\0") {
            Ok(()) => PressureTrigger::Permitted,
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                PressureTrigger::NoPressureInformation
            }
            Err(_) => PressureTrigger::NotPermitted,
        },
    }
}

/// Is standard output a terminal?
pub fn stdout_is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stdout())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pressure_file_that_is_not_there_means_no_pressure_information() {
        assert_eq!(
            pressure_trigger(Path::new("/proc/self/no-such-file")),
            PressureTrigger::NoPressureInformation
        );
    }
}
