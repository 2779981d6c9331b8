//! Owns the step into a network namespace with nothing but `lo`. Never touches the network of the
//! caller's other processes.

use std::fs;
use std::io;

/// Moves the calling process into a network namespace of its own and brings `lo` up there.
///
/// Without the privilege to do so directly, a user namespace is made first, in which the caller
/// keeps its user and group id. Must be called while the process has a single thread
/// (`unshare(2)`: `CLONE_NEWUSER` refuses others with `EINVAL`).
///
/// # Errors
/// What `unshare(2)`, the id maps or the `ioctl` answered; `EPERM` where the system forbids
/// namespaces.
pub fn enter_own() -> io::Result<()> {
    // SAFETY: no pointers; unshare only changes the calling process.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        // SAFETY: geteuid and getegid read two integers and cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        // SAFETY: as above.
        if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    }
    loopback_up()
}

/// Sets `IFF_UP` on `lo` (netdevice(7)), as `ip link set lo up` does.
fn loopback_up() -> io::Result<()> {
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: ifreq is plain old data, for which all-zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    // SAFETY: both calls get a live ifreq with a terminated name; the kernel reads and writes
    // nothing else.
    let answer = unsafe {
        if libc::ioctl(socket, libc::SIOCGIFFLAGS as _, &mut request) < 0 {
            -1
        } else {
            request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
            libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &request)
        }
    };
    let error = io::Error::last_os_error();
    // SAFETY: the descriptor was opened above and is closed once.
    unsafe { libc::close(socket) };
    if answer < 0 { Err(error) } else { Ok(()) }
}
