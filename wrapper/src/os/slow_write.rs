//! One write(2) that may take long, made by a short-lived child: a write to a file of the kernel (`memory.reclaim`)
//! lasts as long as the work that it asks for. Owns that child. Never waits for it, never has a second write in it.
//!
//! # Safety
//! fork(2): the child makes system calls only, on integers and on what was prepared before, and leaves by _exit(2).
#![allow(unsafe_code)]

use super::process::own_pid;
use super::signals;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A write under way.
pub struct SlowWrite {
    pid: i32,
    ended: bool,
}

/// What a write came to. An errno has its meaning here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// All of it was taken.
    All,
    /// EAGAIN: of what was asked for, the kernel found less.
    Less,
    /// EINVAL: this text is not understood.
    NotUnderstood,
    /// ENODEV, ENOENT: what the file stood for is gone.
    Gone,
    /// EINTR, or the child was killed.
    Cut,
    /// Another errno.
    Failed(u8),
}

/// What the child says when not every byte was taken: no errno has this number.
const SHORT: i32 = 255;

impl SlowWrite {
    /// Starts to write `text` to `file`, which the child alone keeps open. The child holds no other descriptor, has our
    /// signal mask (all blocked), and dies with us; the time that the kernel spends is on our account.
    ///
    /// # Errors
    /// As fork(2).
    pub fn start(file: File, text: &[u8]) -> io::Result<Self> {
        let parent = own_pid();
        let fd = file.as_raw_fd();
        // SAFETY: see the header.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: calls with integers, a static string, and text, which the child has a copy of; it never returns.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    libc::prctl(libc::PR_SET_NAME, c"cs-reclaim".as_ptr());
                    // What reads the session's output must see its end, whatever we are still busy with.
                    close_all_but(fd);
                    if libc::getppid() != parent {
                        libc::_exit(libc::EINTR);
                    }
                    let written = libc::write(fd, text.as_ptr().cast(), text.len());
                    libc::_exit(if written < 0 {
                        io::Error::last_os_error()
                            .raw_os_error()
                            .unwrap_or(libc::EIO)
                    } else if written.cast_unsigned() < text.len() {
                        SHORT
                    } else {
                        0
                    })
                }
            }
            pid => Ok(Self { pid, ended: false }),
        }
    }

    /// What it came to and the time of a processor that it took, milliseconds, if it has ended; asks without waiting.
    /// `None` for ever after it was told once.
    pub fn outcome(&mut self) -> Option<(Written, u64)> {
        if self.ended {
            return None;
        }
        let mut status = 0;
        // SAFETY: an all-zero rusage is valid.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: status and usage live on this stack and are of the kernel's types.
        if unsafe { libc::wait4(self.pid, &mut status, libc::WNOHANG, &mut usage) } != self.pid {
            return None;
        }
        self.ended = true;
        let ms = |time: libc::timeval| time.tv_sec as u64 * 1000 + time.tv_usec as u64 / 1000;
        let cpu_ms = ms(usage.ru_utime) + ms(usage.ru_stime);
        let code = if libc::WIFEXITED(status) {
            libc::WEXITSTATUS(status)
        } else {
            libc::EINTR
        };
        let written = match code {
            0 => Written::All,
            libc::EAGAIN => Written::Less,
            libc::EINVAL => Written::NotUnderstood,
            libc::ENODEV | libc::ENOENT => Written::Gone,
            libc::EINTR => Written::Cut,
            other => Written::Failed(other as u8),
        };
        Some((written, cpu_ms))
    }

    /// Cuts it short: the kernel leaves its work at the next batch of pages. [`SlowWrite::outcome`] still has to be asked.
    pub fn cut(&self) {
        if !self.ended {
            let _ = signals::send(self.pid, signals::SIGKILL);
        }
    }
}

impl Drop for SlowWrite {
    /// Cut, not waited for: a child that hangs in the kernel must not hold up the end of a session.
    fn drop(&mut self) {
        self.cut();
        let _ = self.outcome();
    }
}

/// Closes every descriptor but one.
///
/// # Safety
/// The caller uses no other descriptor any more: it is a child that is about to leave.
pub(super) unsafe fn close_all_but(fd: i32) {
    // SAFETY: integers only; see above.
    unsafe {
        let below = fd == 0 || libc::syscall(libc::SYS_close_range, 0, fd - 1, 0) == 0;
        if !below || libc::syscall(libc::SYS_close_range, fd + 1, u32::MAX, 0) != 0 {
            for other in (0..1024).filter(|other| *other != fd) {
                libc::close(other);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;
    use std::io::Read;
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::time::{Duration, Instant};

    fn outcome_within(write: &mut SlowWrite, seconds: u64) -> Option<Written> {
        let until = Instant::now() + Duration::from_secs(seconds);
        loop {
            match write.outcome() {
                None if Instant::now() < until => std::thread::yield_now(),
                outcome => return outcome.map(|(written, _)| written),
            }
        }
    }

    /// A pipe: (to read, to write).
    fn pipe() -> (File, File) {
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors, which are new and nobody else's.
        unsafe {
            assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
            let [read, write] = ends.map(|end| OwnedFd::from_raw_fd(end));
            (read.into(), write.into())
        }
    }

    #[test]
    fn the_text_arrives_and_its_outcome_is_told_once() {
        let scratch = Scratch::new();
        let path = scratch.path().join("file");
        let file = File::create(&path).unwrap();
        let mut write = SlowWrite::start(file, b"1048576 swappiness=200").unwrap();
        assert_eq!(outcome_within(&mut write, 20), Some(Written::All));
        assert_eq!(write.outcome(), None);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "1048576 swappiness=200");
    }

    #[test]
    fn an_errno_arrives_as_what_it_means() {
        let open = |path: &str, write: bool| {
            let options = File::options().read(!write).write(write).to_owned();
            options.open(path).unwrap()
        };
        for (file, outcome) in [
            (open("/dev/full", true), Written::Failed(libc::ENOSPC as u8)),
            (open("/dev/null", false), Written::Failed(libc::EBADF as u8)),
            // The kernel takes nothing but a number here, and refuses before it changes anything.
            (
                open("/proc/self/oom_score_adj", true),
                Written::NotUnderstood,
            ),
        ] {
            let mut write = SlowWrite::start(file, b"nonsense").unwrap();
            assert_eq!(outcome_within(&mut write, 20), Some(outcome));
        }
    }

    #[test]
    fn we_go_on_while_it_writes_and_can_cut_it() {
        let (mut to_read, to_write) = pipe();
        let (mut other_to_read, other_to_write) = pipe();
        // A pipe takes 64 KiB: the rest of this text waits for a reader.
        let text = vec![b'x'; 1 << 20];
        let mut write = SlowWrite::start(to_write, &text).unwrap();
        let mut first = [0];
        to_read.read_exact(&mut first).unwrap();
        assert_eq!(write.outcome(), None, "still writing");
        // It holds nothing but its own file: with our end closed, the other pipe is at its end.
        drop(other_to_write);
        assert_eq!(other_to_read.read(&mut [0]).unwrap(), 0);
        assert_eq!(write.outcome(), None, "still writing");
        write.cut();
        assert_eq!(outcome_within(&mut write, 20), Some(Written::Cut));
    }

    #[test]
    fn it_ends_with_its_owner() {
        let (mut to_read, to_write) = pipe();
        let write = SlowWrite::start(to_write, &vec![b'x'; 1 << 20]).unwrap();
        to_read.read_exact(&mut [0]).unwrap();
        drop(write);
        let mut rest = Vec::new();
        to_read.read_to_end(&mut rest).unwrap();
        assert!(rest.len() < 1 << 20, "it was not read to its end by us");
    }

    #[test]
    fn it_ends_with_a_wrapper_that_is_killed() {
        let (mut to_read, to_write) = pipe();
        let text = vec![b'x'; 1 << 20];
        // SAFETY: the child makes system calls only, but for what start does, which allocates nothing.
        let wrapper = unsafe { libc::fork() };
        if wrapper == 0 {
            let started = SlowWrite::start(to_write, &text);
            std::mem::forget(started);
            loop {
                // SAFETY: takes nothing.
                unsafe { libc::pause() };
            }
        }
        drop(to_write);
        to_read.read_exact(&mut [0]).unwrap();
        signals::send(wrapper, signals::SIGKILL).unwrap();
        super::super::process::reap(wrapper).unwrap();
        let mut rest = Vec::new();
        to_read.read_to_end(&mut rest).unwrap();
        assert!(rest.len() < 1 << 20, "it wrote on alone");
    }
}
