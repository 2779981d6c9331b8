//! A piece of work in a short-lived child, so that a file system that hangs holds up nobody. Owns that child and the
//! pipe through which it tells its result. Never waits longer than it is told.
//!
//! # Safety
//! fork(2): the wrapper and claude-safectl have one thread, so the child may use everything. It leaves by _exit(2).
#![allow(unsafe_code)]

use super::process::{self, Change, own_pid};
use super::signals;
use super::slow_write::close_all_but;
use super::wait::{self, Source};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};

/// How such a child is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It ends with us, and leaves the processor and the disk to others. Not to all of them for ever, as the idle
    /// classes would: on a busy machine it would never get to its end.
    Patient,
    /// Somebody waits for it. It goes on when we leave.
    Prompt,
}

/// Work under way.
pub struct Aside {
    pid: i32,
    result: File,
    ended: bool,
    manner: Manner,
}

/// The most that a child tells: what a pipe takes without a reader.
const RESULT_BYTES: usize = 4096;

/// The lowest level of `IOPRIO_CLASS_BE` (ioprio_set(2)).
const LAST_AT_DISK: i32 = 2 << 13 | 7;

/// A tenth of the usual share of the processor (sched(7)).
const NICE: i32 = 10;

impl Aside {
    /// Starts `work` in a child, which has none of our descriptors.
    ///
    /// # Errors
    /// As pipe(2) and fork(2).
    pub fn start(manner: Manner, work: impl FnOnce() -> String) -> io::Result<Self> {
        let (result, telling) = io::pipe()?;
        let (result, mut telling) = (
            File::from(std::os::fd::OwnedFd::from(result)),
            File::from(std::os::fd::OwnedFd::from(telling)),
        );
        let parent = own_pid();
        // SAFETY: one thread, see the header.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: integers and a static string; no descriptor but `telling` is used any more.
                unsafe {
                    libc::prctl(libc::PR_SET_NAME, c"cs-sweep".as_ptr());
                    if manner == Manner::Patient {
                        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                        libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
                        libc::syscall(libc::SYS_ioprio_set, 1, 0, LAST_AT_DISK);
                    }
                    close_all_but(telling.as_raw_fd());
                    if manner == Manner::Patient && libc::getppid() != parent {
                        libc::_exit(0);
                    }
                }
                let mut text = work();
                text.truncate(RESULT_BYTES);
                let _ = telling.write_all(text.as_bytes());
                // SAFETY: an integer; it never returns.
                unsafe { libc::_exit(0) }
            }
            pid => Ok(Self {
                pid,
                result,
                ended: false,
                manner,
            }),
        }
    }

    /// What it told, if it has ended; asks without waiting. `None` for ever after it was told once.
    pub fn result(&mut self) -> Option<String> {
        if self.ended || !is_end(process::next_change(self.pid)?) {
            return None;
        }
        self.ended = true;
        let mut text = String::new();
        // Its end of the pipe is closed: this can't wait.
        let _ = self.result.read_to_string(&mut text);
        Some(text)
    }

    /// The same, waiting for its end for so long at most.
    pub fn result_within(&mut self, limit_ms: u64) -> Option<String> {
        let until = process::now_ms() + limit_ms;
        loop {
            if self.ended {
                return None;
            }
            if let Some(text) = self.result() {
                return Some(text);
            }
            let left = until.saturating_sub(process::now_ms());
            if left == 0 {
                return None;
            }
            let end = Source {
                fd: self.result.as_fd(),
                urgent: false,
            };
            wait::wait(&[end], Some(left));
            // The pipe speaks a moment before the process is gone.
            if let Some(handle) = process::PidFd::open(self.pid) {
                let gone = Source {
                    fd: handle.as_fd(),
                    urgent: false,
                };
                wait::wait(&[gone], Some(until.saturating_sub(process::now_ms())));
            }
        }
    }
}

fn is_end(change: Change) -> bool {
    matches!(change, Change::Exited(_) | Change::Signaled(_))
}

impl Drop for Aside {
    /// Cut, not waited for: a child that hangs in the kernel must not hold up the end of a session.
    fn drop(&mut self) {
        if !self.ended && self.manner == Manner::Patient {
            let _ = signals::send(self.pid, signals::SIGKILL);
        }
        let _ = self.result();
    }
}
