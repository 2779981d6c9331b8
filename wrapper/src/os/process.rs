//! Processes: starting the client, seeing how it ended, the sentinel, a plain exec.
//!
//! # Safety
//! fork(2) and clone(2) are called only while this process has one thread (the wrapper never starts
//! another), so the child may use everything until it execs. The rest are plain calls with checked
//! results.
#![allow(unsafe_code)]

use super::fd;
use super::signals::{Inherited, Signo};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What a program is started with.
pub struct Launch<'a> {
    /// The file to execute.
    pub program: &'a OsStr,
    /// `argv`, with `argv[0]`.
    pub argv: &'a [OsString],
    /// The environment, made in the child, which is told its own pid.
    pub environment: &'a dyn Fn(i32) -> Vec<OsString>,
    /// Standard input from here instead of ours.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Start in this folder instead of ours.
    pub folder: Option<&'a OsStr>,
    /// In a process group of its own, with nothing of our standard descriptors.
    pub aside: bool,
}

/// How a child changed its state (waitid(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Left by exit(2) with this status, 0..=255.
    Exited(u8),
    /// Ended by this signal.
    Signaled(Signo),
    /// Stopped by this signal.
    Stopped(Signo),
    /// Continued.
    Continued,
}

fn c_strings<'a>(items: impl Iterator<Item = &'a OsString>) -> Vec<CString> {
    // A NUL can't come out of an argv or an environment; one that does is left out, not fatal.
    items
        .filter_map(|s| CString::new(s.as_bytes()).ok())
        .collect()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain(std::iter::once(std::ptr::null()))
        .collect()
}

/// Replaces this process. Returns only on failure, with its reason. A script without `#!` is
/// given to `/bin/sh`, as execvp(3) and every shell do.
pub fn exec(program: &OsStr, argv: &[OsString], environment: &[OsString]) -> io::Error {
    let Ok(path) = CString::new(program.as_bytes()) else {
        return io::Error::from_raw_os_error(libc::ENOENT);
    };
    let arguments = c_strings(argv.iter());
    let environment = c_strings(environment.iter());
    let environment = pointers(&environment);
    // SAFETY: path, arguments and environment are NUL-terminated and outlive the call.
    unsafe {
        libc::execve(
            path.as_ptr(),
            pointers(&arguments).as_ptr(),
            environment.as_ptr(),
        )
    };
    let failure = io::Error::last_os_error();
    if failure.raw_os_error() == Some(libc::ENOEXEC) {
        let shell = c"/bin/sh";
        let words = arguments.into_iter().skip(1);
        let arguments: Vec<CString> = [shell.to_owned(), path].into_iter().chain(words).collect();
        // SAFETY: as above.
        unsafe {
            libc::execve(
                shell.as_ptr(),
                pointers(&arguments).as_ptr(),
                environment.as_ptr(),
            )
        };
    }
    failure
}

/// What the child of [`spawn`] has to do, and how it tells of a failure: in our memory, which it shares.
struct Errand<'a> {
    launch: &'a Launch<'a>,
    inherited: &'a Inherited,
    errno: i32,
}

/// The child's own code, up to its exec.
extern "C" fn run_errand(errand: *mut libc::c_void) -> i32 {
    // SAFETY: spawn passes an Errand that outlives the child's stay in our memory.
    let errand = unsafe { &mut *errand.cast::<Errand<'_>>() };
    let launch = errand.launch;
    if launch.aside {
        // SAFETY: integers and a static path. Without a /dev/null the program has our descriptors.
        unsafe {
            libc::setpgid(0, 0);
            let nothing = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            for fd in 0..=2 {
                libc::dup2(nothing, fd);
            }
        }
    }
    if let Some(stdin) = launch.stdin {
        // SAFETY: both are open descriptors of this process.
        unsafe { libc::dup2(stdin.as_raw_fd(), 0) };
    }
    if let Some(folder) = launch.folder.and_then(|f| CString::new(f.as_bytes()).ok()) {
        // SAFETY: a NUL-terminated path. A folder that has gone leaves us where we are.
        unsafe { libc::chdir(folder.as_ptr()) };
    }
    let environment = (launch.environment)(own_pid());
    errand.inherited.restore();
    let failure = exec(launch.program, launch.argv, &environment);
    errand.errno = failure.raw_os_error().unwrap_or(libc::EINVAL);
    127
}

/// Starts a program. Unless it is to be aside, the child is in our process group and session, with our descriptors, and
/// with the signal mask and dispositions that we inherited: the kernel can't tell it from a
/// child of our parent but for its parent's pid.
///
/// As posix_spawn(3) does it: the child runs on a stack of its own in our memory while we stand still
/// (CLONE_VM, CLONE_VFORK), so that nothing is copied that exec would throw away. What it allocates
/// stays with us: an environment's worth for each start.
///
/// # Errors
/// The errno of clone(2) or of the child's execve(2): nothing is left running then.
pub fn spawn(launch: &Launch<'_>, inherited: &Inherited) -> io::Result<i32> {
    const STACK_BYTES: usize = 256 << 10;
    let mut stack: Vec<u128> = Vec::with_capacity(STACK_BYTES / size_of::<u128>());
    let mut errand = Errand {
        launch,
        inherited,
        errno: 0,
    };
    // SAFETY: the stack is ours, aligned to 16 bytes, and grows downward from its end; errand lives
    // until the child has left our memory, because clone returns only then (CLONE_VFORK). All signals
    // are blocked until the child has its own mask, and no handler of ours is installed.
    let pid = unsafe {
        libc::clone(
            run_errand,
            stack.as_mut_ptr().add(stack.capacity()).cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut errand).cast(),
        )
    };
    match (pid, errand.errno) {
        (-1, _) => Err(io::Error::last_os_error()),
        (pid, 0) => Ok(pid),
        (pid, errno) => {
            let _ = reap(pid);
            Err(io::Error::from_raw_os_error(errno))
        }
    }
}

/// Waits for the end of a child of ours and takes its status.
///
/// # Errors
/// ECHILD: it is no child of ours, or already reaped.
pub fn reap(pid: i32) -> io::Result<Change> {
    loop {
        match wait_flags(pid, libc::WEXITED) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(Some(change)) => return Ok(change),
            Ok(None) => {}
        }
    }
}

/// What has happened to this child since the last call, if anything: never waits.
pub fn next_change(pid: i32) -> Option<Change> {
    wait_flags(
        pid,
        libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG,
    )
    .ok()
    .flatten()
}

fn wait_flags(pid: i32, flags: i32) -> io::Result<Option<Change>> {
    // SAFETY: an all-zero siginfo_t is valid, and is how waitid says "nothing" under WNOHANG.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: info is large enough and lives on this stack.
    if unsafe { libc::waitid(libc::P_PID, pid.cast_unsigned(), &mut info, flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid fills the SIGCHLD members of the union, or leaves the zeroes.
    let (changed_pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if changed_pid == 0 {
        return Ok(None);
    }
    Ok(Some(match info.si_code {
        libc::CLD_EXITED => Change::Exited((status & 0xff) as u8),
        libc::CLD_KILLED | libc::CLD_DUMPED => Change::Signaled(status),
        libc::CLD_STOPPED | libc::CLD_TRAPPED => Change::Stopped(status),
        _ => Change::Continued,
    }))
}

/// A stable handle on a process (pidfd_open(2)): readable when it has ended, and never another's.
pub struct PidFd(OwnedFd);

impl PidFd {
    /// `None` where the kernel has no pidfd (before 5.3), or the process is gone.
    pub fn open(pid: i32) -> Option<Self> {
        let pid = rustix::process::Pid::from_raw(pid)?;
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
        Some(Self(fd::owned(pidfd)))
    }

    /// Sends a signal to exactly this process.
    ///
    /// # Errors
    /// ESRCH: it has ended. EPERM: not ours.
    pub fn send(&self, signo: Signo) -> io::Result<()> {
        // SAFETY: the descriptor is a pidfd; no siginfo is passed, so the kernel fills it as kill(2) does.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signo,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A child in our process group that does nothing but hold every signal pending. It tells
/// apart a signal that was sent to the whole group from one that was sent to us alone: the
/// kernel signals a group from its youngest member to its oldest (the pid's list is filled at the
/// head), so by the time we see a group's signal, the sentinel has it.
pub struct Sentinel {
    pid: i32,
}

impl Sentinel {
    /// Starts it. It dies with us (PR_SET_PDEATHSIG), and holds no descriptor, no folder.
    ///
    /// # Errors
    /// As fork(2).
    pub fn start() -> io::Result<Self> {
        let parent = own_pid();
        // SAFETY: this process has one thread, see the header; the child makes only system calls.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: calls with integers and static strings; the child never returns.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    libc::prctl(libc::PR_SET_NAME, c"cs-sentinel".as_ptr());
                    if libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) != 0 {
                        for fd in 0..1024 {
                            libc::close(fd);
                        }
                    }
                    libc::chdir(c"/".as_ptr());
                    // Our parent may have died before PR_SET_PDEATHSIG took effect.
                    while libc::getppid() == parent {
                        libc::pause();
                    }
                    libc::_exit(0)
                }
            }
            pid => Ok(Self { pid }),
        }
    }

    /// Has somebody killed it? It stays a zombie until it is dropped, so its pid is nobody else's.
    pub fn has_ended(&self) -> bool {
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        !matches!(wait_flags(self.pid, flags), Ok(None))
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = super::signals::send(self.pid, libc::SIGKILL);
        let _ = reap(self.pid);
    }
}

/// The arguments of `main`, which `std::env::args_os` has only where the C library hands them to
/// `.init_array` (glibc, not musl).
///
/// # Safety
/// `argv` points to `argc` NUL-terminated strings, as the C library passes them to `main`.
pub unsafe fn arguments(argc: i32, argv: *const *const libc::c_char) -> Vec<OsString> {
    (0..usize::try_from(argc).unwrap_or(0))
        .map(|i| {
            // SAFETY: i < argc; the caller guarantees the strings.
            let argument = unsafe { CStr::from_ptr(*argv.add(i)) };
            OsString::from_vec(argument.to_bytes().to_vec())
        })
        .collect()
}

/// The environment as `KEY=VALUE` strings, also those without `=` that a parent may have made.
pub fn environment() -> Vec<OsString> {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    let mut all = Vec::new();
    // SAFETY: environ is a NULL-terminated array of C strings; this process has one thread, which
    // changes no variable.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            all.push(OsString::from_vec(
                CStr::from_ptr(*entry).to_bytes().to_vec(),
            ));
            entry = entry.add(1);
        }
    }
    all
}

/// Occupies the descriptors 0 to 2 where our parent closed them, so that no file of ours lands
/// there and gets what is meant for standard error. Closed again by exec.
pub fn occupy_standard_descriptors() {
    for fd in 0..=2 {
        // SAFETY: integers and a static path. open returns the lowest free number, which is fd.
        unsafe {
            if libc::fcntl(fd, libc::F_GETFD) < 0 {
                libc::open(c"/".as_ptr(), libc::O_PATH | libc::O_CLOEXEC);
            }
        }
    }
}

/// Writes to standard error as a whole, as far as it goes; nobody can be told of a failure.
pub fn write_stderr(bytes: &[u8]) {
    // SAFETY: the bytes outlive the call. Descriptor 2 is never ours, see occupy_standard_descriptors.
    unsafe { libc::write(2, bytes.as_ptr().cast(), bytes.len()) };
}

/// A descriptor of ours that stands for standard input, where it is open.
pub fn stdin_copy() -> Option<File> {
    // SAFETY: integers only; a non-negative result is a new descriptor of ours.
    unsafe {
        let fd = libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3);
        (fd >= 0).then(|| File::from_raw_fd(fd))
    }
}

/// Our pid.
pub fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

/// Our process group and user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnIds {
    /// Process group id.
    pub pgid: i32,
    /// Effective user id.
    pub euid: u32,
}

/// Asks the kernel for [`OwnIds`].
pub fn own_ids() -> OwnIds {
    // SAFETY: these calls take nothing and can't fail.
    unsafe {
        OwnIds {
            pgid: libc::getpgrp(),
            euid: libc::geteuid(),
        }
    }
}

/// Milliseconds of the monotonic clock (clock_gettime(2)).
pub fn now_ms() -> u64 {
    // libc's, not rustix's: that one brings its own search through the vDSO, 2.5 KB.
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: now is ours. This clock is everywhere: the call can't fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec.cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000
}

/// A random UUID, version 4 (RFC 9562).
pub fn random_uuid() -> String {
    let mut bytes = [0_u8; 16];
    // SAFETY: the buffer is as long as said. 16 bytes come at once (getrandom(2)).
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_uuid_is_a_uuid_and_random() {
        let (one, two) = (random_uuid(), random_uuid());
        assert!(crate::client::args::is_uuid(&one) && one != two);
        assert_eq!(&one[14..15], "4");
        assert!("89ab".contains(&one[19..20]));
    }
}
