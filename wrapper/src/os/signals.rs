//! Signals: what was inherited, what arrives (signalfd), how one is passed on, how we stop.
//!
//! # Safety
//! Plain calls of rt_sigprocmask(2), sigaction(2), signalfd4(2), kill(2) on sets and structures that
//! live on this stack. No handler is ever installed, so no code runs in signal context.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::FromRawFd;
use std::path::Path;

/// A signal's number, 1..=64 (signal(7)).
pub type Signo = i32;

pub use libc::{
    SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGSTOP, SIGTERM, SIGTSTP, SIGTTIN,
    SIGTTOU, SIGUSR1, SIGWINCH,
};

/// The highest signal number of Linux.
pub const SIGNO_MAX: Signo = 64;

/// The signal mask and the ignored signals with which this process was started: what the client
/// must find too.
#[derive(Default, Clone, Copy)]
pub struct Inherited {
    mask: u64,
    ignored: u64,
}

impl Inherited {
    /// Was this signal ignored when we were started (nohup(1), `trap '' INT`)?
    pub fn ignores(&self, signo: Signo) -> bool {
        (1..=SIGNO_MAX).contains(&signo) && self.ignored & (1 << (signo - 1)) != 0
    }

    /// Gives this process the mask and dispositions that were inherited. For a forked child just
    /// before exec, and for a plain exec.
    pub fn restore(&self) {
        if self.ignores(SIGCHLD) {
            set_disposition(SIGCHLD, libc::SIG_IGN);
        }
        change_mask(libc::SIG_SETMASK, self.mask);
    }
}

fn set_disposition(signo: Signo, handler: libc::sighandler_t) {
    // SAFETY: an all-zero sigaction is valid (empty mask, no flags); the handler is SIG_DFL or SIG_IGN.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        libc::sigaction(signo, &action, std::ptr::null_mut());
    }
}

/// Every signal there is, as the kernel's set: bit n - 1 is signal n. Not sigfillset(3): each C
/// library leaves those out that it keeps for itself (glibc 32 and 33, musl 34 too), and one of
/// them that is sent to us would end us instead of reaching the client.
const ALL: u64 = !0;

/// rt_sigprocmask(2) itself, for the same reason. Returns the mask as it was.
fn change_mask(how: i32, set: u64) -> u64 {
    let mut old = 0_u64;
    // SAFETY: two sets of the size that is given, on this stack. With a valid `how` it can't fail.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            how,
            &raw const set,
            &raw mut old,
            size_of::<u64>(),
        );
    }
    old
}

/// Blocks every signal, so that each is read from [`SignalFd`] in turn, and says what was
/// inherited. A blocked signal is queued even where its disposition is "ignore" (signal(7)), so
/// nothing that is sent to us is lost. SIGCHLD gets its default disposition back: with SIG_IGN
/// inherited, waitid(2) could not see the client's end.
pub fn block_all() -> Inherited {
    let mut ignored = 0_u64;
    for signo in 1..=SIGNO_MAX {
        let mut old = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: a null new action only reads; old is large enough. Numbers that the C library
        // keeps for itself are refused with EINVAL and count as not ignored.
        let rc = unsafe { libc::sigaction(signo, std::ptr::null(), old.as_mut_ptr()) };
        // SAFETY: zeroed is a valid sigaction, and on success the kernel filled it.
        if rc == 0 && unsafe { old.assume_init() }.sa_sigaction == libc::SIG_IGN {
            ignored |= 1 << (signo - 1);
        }
    }
    let mask = change_mask(libc::SIG_SETMASK, ALL);
    set_disposition(SIGCHLD, libc::SIG_DFL);
    Inherited { mask, ignored }
}

/// The queue of blocked signals as a file (signalfd(2)).
pub struct SignalFd(File);

impl SignalFd {
    /// Opens it, non-blocking, close-on-exec.
    ///
    /// # Errors
    /// As signalfd(2): no descriptor or no memory left.
    pub fn open() -> io::Result<Self> {
        let all = ALL;
        // SAFETY: a set of the size that is given; -1 asks for a new descriptor.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_signalfd4,
                -1,
                &raw const all,
                size_of::<u64>(),
                libc::SFD_NONBLOCK | libc::SFD_CLOEXEC,
            )
        } as i32;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fd is new and nobody else's.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// The next signal that waits, if any.
    pub fn take(&mut self) -> Option<Signo> {
        // ssi_signo is the first field of struct signalfd_siginfo, a u32 (signalfd(2)).
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        match self.0.read(&mut info) {
            Ok(n) if n == info.len() => {
                Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
            }
            _ => None,
        }
    }
}

impl std::os::fd::AsFd for SignalFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends a signal to one process, or to a whole process group if `target` is negative (kill(2)).
///
/// # Errors
/// ESRCH: no such process. EPERM: not ours.
pub fn send(target: i32, signo: Signo) -> io::Result<()> {
    // 0, 1 and -1 would reach our own group, init, or everybody: never what is meant here.
    if (-1..=1).contains(&target) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill takes two integers.
    match unsafe { libc::kill(target, signo) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Stops this very process with `signo`, so that our parent sees what it would have seen of the
/// client, and returns when we are continued. All signals are blocked again afterwards.
pub fn stop_self(signo: Signo, inherited: &Inherited) {
    let own_pid = std::process::id().cast_signed();
    let job_control = matches!(signo, SIGTSTP | SIGTTIN | SIGTTOU);
    // The kernel drops these three in an orphaned process group (credentials(7)): SIGSTOP always
    // stops. A pending SIGCONT would tell that we were stopped, but not the lack of one that we
    // were not: the next stop signal to our group takes it away again.
    if job_control && !inherited.ignores(signo) && has_job_control() {
        // Raised while blocked: joins the one that the terminal may have queued for our group.
        let _ = send(own_pid, signo);
        let one = 1 << (signo - 1);
        change_mask(libc::SIG_UNBLOCK, one);
        change_mask(libc::SIG_BLOCK, one);
    } else {
        let _ = send(own_pid, SIGSTOP);
    }
}

/// Is there, above the processes of our group, one of our session that can continue us (a shell)?
/// Then the group is not orphaned. Only ancestors are looked at: a group that is held by the
/// parent of another member alone counts as orphaned here.
fn has_job_control() -> bool {
    const MAX_ANCESTORS: usize = 64;
    // SAFETY: these calls take integers; a process that is gone is answered with -1.
    let (group, session, mut pid) = unsafe { (libc::getpgrp(), libc::getsid(0), libc::getppid()) };
    for _ in 0..MAX_ANCESTORS {
        // SAFETY: as above.
        let (its_group, its_session) = unsafe { (libc::getpgid(pid), libc::getsid(pid)) };
        if its_session != session {
            return false;
        }
        if its_group != group {
            return true;
        }
        match super::proc::parent_pid(Path::new(&format!("/proc/{pid}"))) {
            Some(parent) if parent > 0 => pid = parent,
            _ => return false,
        }
    }
    false
}

/// `SIGTERM` for 15, `signal 34` for a number without a name.
pub fn name(signo: Signo) -> String {
    const NAMES: [&str; 32] = [
        "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV",
        "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU",
        "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    match usize::try_from(signo).ok().and_then(|n| NAMES.get(n)) {
        Some(name) if !name.is_empty() => format!("SIG{name}"),
        _ => format!("signal {signo}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_signal_7() {
        assert_eq!(name(libc::SIGKILL), "SIGKILL");
        assert_eq!(name(libc::SIGSYS), "SIGSYS");
        assert_eq!(name(libc::SIGWINCH), "SIGWINCH");
        assert_eq!(name(40), "signal 40");
        assert_eq!(name(0), "signal 0");
    }

    #[test]
    fn nothing_is_ever_sent_to_everybody() {
        for target in [-1, 0, 1] {
            assert!(send(target, 0).is_err());
        }
    }
}
