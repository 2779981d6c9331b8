//! Waiting: one timer and a poll over a few descriptors.

use super::fd;
use rustix::event::{PollFd, PollFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One timer (timerfd_create(2)) for the nearest deadline of the loop.
pub struct Timer(OwnedFd);

impl Timer {
    /// Makes it, disarmed.
    ///
    /// # Errors
    /// As timerfd_create(2): no descriptor or no memory left.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        timerfd_create(TimerfdClockId::Monotonic, flags)
            .map(|t| Self(fd::owned(t)))
            .map_err(fd::error)
    }

    /// Due in `delay_ms` from now; 0 is at once.
    pub fn arm(&self, delay_ms: u64) {
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // An all-zero value would disarm it: at once is one nanosecond.
        let due = Timespec {
            tv_sec: i64::try_from(delay_ms / 1000).unwrap_or(i64::MAX),
            tv_nsec: ((delay_ms % 1000) * 1_000_000).max(1).cast_signed(),
        };
        let setting = Itimerspec {
            it_interval: zero,
            it_value: due,
        };
        let _ = timerfd_settime(
            fd::lend(self.0.as_fd()),
            TimerfdTimerFlags::empty(),
            &setting,
        );
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A descriptor to wait for, and whether it is "urgent data" (a PSI trigger) or "readable".
pub struct Source<'a> {
    /// The descriptor.
    pub fd: BorrowedFd<'a>,
    /// Wait for POLLPRI instead of POLLIN.
    pub urgent: bool,
}

/// Sleeps until one of at most eight sources is ready, for `timeout_ms` at the longest (`None`: for
/// ever), and says which are, by position. A source with an error counts as ready.
pub fn wait(sources: &[Source<'_>], timeout_ms: Option<u64>) -> [bool; 8] {
    let mut polled: Vec<PollFd<'_>> = sources
        .iter()
        .map(|source| {
            let events = if source.urgent {
                PollFlags::PRI
            } else {
                PollFlags::IN
            };
            PollFd::from_borrowed_fd(fd::lend(source.fd), events)
        })
        .collect();
    let timeout = timeout_ms.map(|ms| Timespec {
        tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        tv_nsec: ((ms % 1000) * 1_000_000).cast_signed(),
    });
    let mut ready = [false; 8];
    if rustix::event::poll(&mut polled, timeout.as_ref()).is_ok() {
        for (slot, fd) in ready.iter_mut().zip(&polled) {
            *slot = !fd.revents().is_empty();
        }
    }
    ready
}
