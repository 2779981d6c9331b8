//! Owns a pseudo-terminal and the programs that are started on it. Never uses the terminal of the
//! test run.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::artifacts::program;
use crate::wait::poll_until;

/// A pseudo-terminal of 80 columns and 24 rows. All output is read at once, by a thread, and kept:
/// a program is never held up by a test that looks elsewhere.
#[derive(Debug)]
pub struct Pty {
    master: Option<Arc<OwnedFd>>,
    slave: PathBuf,
    /// Keeps the terminal from hanging up before the first program is there.
    held_slave: Option<File>,
    output: Arc<Mutex<Vec<u8>>>,
    /// Output before this place was waited for already.
    seen: usize,
    reader: Option<JoinHandle<()>>,
    stop_reader: Option<UnixStream>,
}

/// The four switches that tell a sane terminal from one in raw mode (termios(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes {
    /// Ctrl-C and its like make signals.
    pub isig: bool,
    /// Input comes in lines.
    pub icanon: bool,
    /// Input is echoed.
    pub echo: bool,
    /// Output is processed (newline becomes carriage return and newline).
    pub opost: bool,
}

impl Modes {
    /// What a fresh terminal has, and what a program that ends must leave behind.
    pub const SANE: Modes = Modes {
        isig: true,
        icanon: true,
        echo: true,
        opost: true,
    };
}

impl Pty {
    /// Opens a new pseudo-terminal (pts(4)).
    ///
    /// # Errors
    /// What posix_openpt(3) and its relatives answer: no pts file system, too many terminals.
    pub fn open() -> io::Result<Pty> {
        // SAFETY: posix_openpt takes no pointer; the new descriptor is owned at once.
        let master = unsafe {
            let fd = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let mut name = [0u8; 128];
        // SAFETY: the descriptor is open, and ptsname_r gets the true length of the buffer.
        let bad = unsafe {
            libc::grantpt(master.as_raw_fd()) != 0
                || libc::unlockpt(master.as_raw_fd()) != 0
                || libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr().cast(), name.len()) != 0
        };
        if bad {
            return Err(io::Error::last_os_error());
        }
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        let slave = PathBuf::from(OsStr::from_bytes(&name[..end]));
        let held_slave = open_slave(&slave)?;
        let master = Arc::new(master);
        let output = Arc::new(Mutex::new(Vec::new()));
        let (stop_reader, stopped) = UnixStream::pair()?;
        let reader = std::thread::spawn({
            let (master, output) = (Arc::clone(&master), Arc::clone(&output));
            move || read_all(&master, &stopped, &output)
        });
        let pty = Pty {
            master: Some(master),
            slave,
            held_slave: Some(held_slave),
            output,
            seen: 0,
            reader: Some(reader),
            stop_reader: Some(stop_reader),
        };
        pty.resize(80, 24)?;
        Ok(pty)
    }

    /// Starts `command` with all three standard streams on the terminal, as leader of a new
    /// session whose controlling terminal this is.
    ///
    /// # Errors
    /// What starting a program answers.
    pub fn spawn(&mut self, mut command: Command) -> io::Result<Child> {
        let slave = open_slave(&self.slave)?;
        command
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave);
        // SAFETY: setsid and ioctl are async-signal-safe, and nothing else is done between fork
        // and exec.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn()?;
        // The program holds the terminal now; its last close must be seen as the hang-up it is.
        self.held_slave = None;
        Ok(child)
    }

    /// Starts `command` as the foreground job of `jobshell`, the harness's stand-in of a
    /// job-control shell, which is the session leader.
    ///
    /// # Errors
    /// What starting a program answers, or the shell's own word on why the job did not start.
    pub fn spawn_under_shell(&mut self, command: &Command, setup: &JobSetup) -> io::Result<Job> {
        let (control, shell_end) = UnixStream::pair()?;
        let mut shell = Command::new(program("jobshell"));
        shell.env_clear().envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        if let Some(dir) = command.get_current_dir() {
            shell.current_dir(dir);
        }
        shell.arg(shell_end.as_raw_fd().to_string());
        shell
            .arg(format!("ignore={}", numbers(&setup.ignore)))
            .arg(format!("block={}", numbers(&setup.block)));
        shell.arg(format!(
            "start={}",
            if setup.background {
                "background"
            } else {
                "foreground"
            }
        ));
        shell.arg(command.get_program()).args(command.get_args());
        inherit_nothing(&mut shell);
        keep_descriptor(&mut shell, shell_end.as_raw_fd());
        let shell = self.spawn(shell)?;
        drop(shell_end);
        let mut job = Job {
            shell,
            reports: BufReader::new(control.try_clone()?),
            control,
            pid: 0,
            pidfd: None,
        };
        let first = job.report(Duration::from_secs(10))?;
        job.pid = first
            .strip_prefix("started ")
            .and_then(|pid| pid.parse().ok())
            .ok_or_else(|| io::Error::other(format!("jobshell: {first}")))?;
        job.pidfd = pidfd(job.pid);
        Ok(job)
    }

    /// Everything that was written to the terminal so far.
    #[must_use]
    pub fn output(&self) -> Vec<u8> {
        lock(&self.output).clone()
    }

    /// [`Pty::output`] as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.output)).into_owned()
    }

    /// Waits until `needle` is written behind everything that was waited for before.
    ///
    /// # Panics
    /// When the time is over; the message has the output.
    #[track_caller]
    pub fn expect(&mut self, needle: &str, limit: Duration) {
        if !self.sees(needle, limit) {
            let text = self.text();
            panic!(
                "not within {limit:?}: {needle:?} on the terminal; behind what was seen:\n{:?}",
                text.get(self.seen..).unwrap_or(&text)
            );
        }
    }

    /// As [`Pty::expect`], but answers whether it came.
    pub fn sees(&mut self, needle: &str, limit: Duration) -> bool {
        let from = self.seen;
        let found = poll_until(limit, || {
            let output = lock(&self.output);
            find(&output[from..], needle.as_bytes())
        });
        if let Some(place) = found {
            self.seen = from + place + needle.len();
        }
        found.is_some()
    }

    /// From here on only new output is waited for.
    pub fn forget_seen(&mut self) {
        self.seen = lock(&self.output).len();
    }

    /// Types `bytes`.
    ///
    /// # Errors
    /// The terminal is hung up.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        File::from(self.master()?.try_clone()?).write_all(bytes)
    }

    /// Changes the size of the window, which sends `SIGWINCH` to the foreground group.
    ///
    /// # Errors
    /// The terminal is hung up.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the descriptor is open and `size` is what this ioctl reads.
        let answer = unsafe { libc::ioctl(self.master()?.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        if answer < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// The modes of the terminal as they are now.
    ///
    /// # Errors
    /// The terminal is hung up.
    pub fn modes(&self) -> io::Result<Modes> {
        // SAFETY: termios is plain old data, for which all-zero is valid.
        let mut now: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open; tcgetattr writes one termios. The master shows the
        // slave's modes.
        if unsafe { libc::tcgetattr(self.master()?.as_raw_fd(), &mut now) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Modes {
            isig: now.c_lflag & libc::ISIG != 0,
            icanon: now.c_lflag & libc::ICANON != 0,
            echo: now.c_lflag & libc::ECHO != 0,
            opost: now.c_oflag & libc::OPOST != 0,
        })
    }

    /// The foreground process group.
    ///
    /// # Errors
    /// The terminal is hung up or nobody's controlling terminal.
    pub fn foreground(&self) -> io::Result<i32> {
        let mut group: libc::pid_t = 0;
        // SAFETY: the descriptor is open and the ioctl writes one pid_t. tcgetpgrp would refuse:
        // this is not the caller's own terminal.
        let answer =
            unsafe { libc::ioctl(self.master()?.as_raw_fd(), libc::TIOCGPGRP, &mut group) };
        if answer < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(group)
        }
    }

    /// Closes the terminal from outside, as a window that is closed or a connection that breaks.
    pub fn hang_up(&mut self) {
        self.held_slave = None;
        self.stop_reader = None;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.master = None;
    }

    fn master(&self) -> io::Result<&OwnedFd> {
        self.master
            .as_deref()
            .ok_or_else(|| io::Error::other("the terminal is hung up"))
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        self.hang_up();
    }
}

fn open_slave(path: &PathBuf) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(path)
}

/// Appends what the terminal shows until it hangs up or `stopped` ends.
fn read_all(master: &OwnedFd, stopped: &UnixStream, output: &Mutex<Vec<u8>>) {
    let Ok(mut file) = master.try_clone().map(File::from) else {
        return;
    };
    let mut buffer = [0u8; 16 << 10];
    loop {
        let mut polled = [master.as_raw_fd(), stopped.as_raw_fd()].map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
        // SAFETY: two valid entries, both descriptors are open.
        if unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) } < 0 {
            continue;
        }
        if polled[1].revents != 0 {
            return;
        }
        match file.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => lock(output).extend_from_slice(&buffer[..count]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // EIO: the last one on the other side has closed.
            Err(_) => return,
        }
    }
}

fn lock(output: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    output
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len().max(1)).position(|w| w == needle)
}

fn numbers(signals: &[i32]) -> String {
    signals
        .iter()
        .map(i32::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// With what a job starts.
#[derive(Clone, Debug, Default)]
pub struct JobSetup {
    /// Signals that it inherits as ignored.
    pub ignore: Vec<i32>,
    /// Signals that it inherits as blocked.
    pub block: Vec<i32>,
    /// Whether it starts in the background.
    pub background: bool,
}

/// The job of a `jobshell`. Drop kills the job's group and the shell.
#[derive(Debug)]
pub struct Job {
    shell: Child,
    control: UnixStream,
    reports: BufReader<UnixStream>,
    pid: i32,
    /// For the end of a job whose shell is gone: a number could be someone else's by then.
    pidfd: Option<OwnedFd>,
}

/// pidfd_open(2); `None` when the process is gone already.
fn pidfd(pid: i32) -> Option<OwnedFd> {
    // SAFETY: no pointers; the new descriptor is owned at once.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0) as RawFd;
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }
}

impl Job {
    /// The job's leader; its process group has the same number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The shell itself.
    #[must_use]
    pub fn shell_pid(&self) -> i32 {
        self.shell.id() as i32
    }

    /// Gives the shell a command: `fg`, `bg`, `kill SIG` (to the group), `killpid SIG` (to the
    /// leader alone) or `quit` (ends the shell and leaves the job alone). SIG is a number.
    ///
    /// # Errors
    /// The shell is gone.
    pub fn send(&mut self, command: &str) -> io::Result<()> {
        writeln!(self.control, "{command}")
    }

    /// The next report: `stopped SIG`, `continued`, `exited CODE` or `signaled SIG`.
    ///
    /// # Errors
    /// Nothing came in time, or the shell is gone.
    pub fn report(&mut self, limit: Duration) -> io::Result<String> {
        self.control.set_read_timeout(Some(limit))?;
        let mut line = String::new();
        if self.reports.read_line(&mut line)? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the shell is gone",
            ));
        }
        Ok(line.trim_end().to_owned())
    }

    /// Waits until the shell itself has ended.
    ///
    /// # Errors
    /// What wait4(2) answers.
    pub fn wait_shell(&mut self) -> io::Result<std::process::ExitStatus> {
        self.shell.wait()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let shell_lives = matches!(self.shell.try_wait(), Ok(None));
        if shell_lives {
            let _ = self.send(&format!("kill {}", libc::SIGKILL));
            let _ = self.send("quit");
            let _ = poll_until(Duration::from_secs(2), || {
                self.shell.try_wait().ok().flatten()
            });
        }
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        if let Some(pidfd) = &self.pidfd {
            // SAFETY: no pointers but a null one, which is allowed. ESRCH is the usual answer.
            unsafe {
                let null = std::ptr::null::<libc::siginfo_t>();
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    pidfd.as_raw_fd(),
                    libc::SIGKILL,
                    null,
                    0,
                );
            }
        }
    }
}

/// Sends `signal` to a process that the caller started and has not waited for yet.
///
/// # Errors
/// What kill(2) answers.
pub fn send_signal(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    if unsafe { libc::kill(pid, signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A [`Child`] that is killed and reaped when the test is over, however it ends.
#[derive(Debug)]
pub struct KillOnDrop(pub Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes `command` start with no controlling terminal, in a session of its own, with its streams
/// left as they are.
pub fn detach(command: &mut Command) -> &mut Command {
    // SAFETY: setsid is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(())
            }
        })
    }
}

/// Three pipes as standard streams.
pub fn piped(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
}

/// Makes `command` start as from a terminal, however the tests were started: without the descriptors above 2 that
/// this process has open, whoever opened them, and with no signal ignored (a job in the background of a script ignores
/// INT and QUIT, one under nohup HUP). Later calls of [`keep_descriptor`] and `pre_exec` make exceptions.
pub fn inherit_nothing(command: &mut Command) -> &mut Command {
    // SAFETY: close_range is a plain system call. They are marked, not closed: the pipe on which
    // std reports a failing exec is among them. Before Linux 5.11 they stay open. signal is
    // async-signal-safe; KILL and STOP are refused, which changes nothing.
    unsafe {
        command.pre_exec(|| {
            for number in 1..32 {
                libc::signal(number, libc::SIG_DFL);
            }
            libc::syscall(
                libc::SYS_close_range,
                3,
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
            Ok(())
        })
    }
}

/// Makes `command` start with `fd` open under the same number. It must be open when the command
/// starts.
pub fn keep_descriptor(command: &mut Command, fd: RawFd) -> &mut Command {
    // SAFETY: fcntl is async-signal-safe; a wrong number is answered with EBADF.
    unsafe {
        command.pre_exec(move || {
            if libc::fcntl(fd, libc::F_SETFD, 0) < 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(())
            }
        })
    }
}
