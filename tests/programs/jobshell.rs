//! `jobshell CONTROL-FD ignore=N,N block=N,N start=foreground|background PROGRAM [ARGUMENTS]`: what
//! a job-control shell does for one job, and nothing else. It must be the leader of a session with
//! a controlling terminal on its standard streams.
//!
//! It starts the program in a process group of its own, gives it the terminal, and waits with
//! WUNTRACED and WCONTINUED. On CONTROL-FD (a socket) it writes `started PID`, `stopped SIG`,
//! `continued`, `exited CODE`, `signaled SIG`, and reads `fg`, `bg`, `kill SIG` (group), `killpid
//! SIG` (leader), `quit`. Signals are numbers. As a shell does, it takes the terminal and its modes
//! back whenever the job stops or ends, and gives the job's modes back on `fg`.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::ptr;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("jobshell: {reason}");
            ExitCode::FAILURE
        }
    }
}

struct Shell {
    control: UnixStream,
    job: libc::pid_t,
    own_group: libc::pid_t,
    own_modes: libc::termios,
    job_modes: libc::termios,
    over: bool,
}

fn run() -> io::Result<()> {
    let bad = || io::Error::other("usage: jobshell FD ignore= block= start= PROGRAM [ARGUMENTS]");
    let mut arguments = std::env::args_os().skip(1);
    let mut word = |prefix: &str| -> io::Result<String> {
        let word = arguments
            .next()
            .and_then(|w| w.into_string().ok())
            .ok_or_else(bad)?;
        word.strip_prefix(prefix).map(str::to_owned).ok_or_else(bad)
    };
    let control: i32 = word("")?.parse().map_err(|_| bad())?;
    let ignore = signals(&word("ignore=")?)?;
    let block = signals(&word("block=")?)?;
    let foreground = word("start=")? == "foreground";
    let program: OsString = arguments.next().ok_or_else(bad)?;
    // SAFETY: the caller of this program handed the descriptor over for it to own.
    let control = unsafe { UnixStream::from_raw_fd(control) };
    // SAFETY: the descriptor is open; the job must not get it.
    unsafe { libc::fcntl(control.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };

    // What an interactive shell ignores for itself, so that the terminal cannot stop it.
    for signal in [
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ] {
        // SAFETY: SIG_IGN needs no handler that could be wrong.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // Before the job is there: its end must not be missed.
    // SAFETY: the sets are initialised by sigemptyset before use; no pointer outlives its call.
    let children_fd = unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
        libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if children_fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let own_modes = modes()?;
    // SAFETY: getpgrp cannot fail.
    let own_group = unsafe { libc::getpgrp() };

    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: only async-signal-safe calls; the vectors are read, not changed.
    unsafe {
        command.pre_exec(move || {
            libc::setpgid(0, 0);
            if foreground {
                // SIGTTOU is still ignored here, so this works from the background.
                libc::tcsetpgrp(0, libc::getpid());
            }
            for signal in [
                libc::SIGINT,
                libc::SIGQUIT,
                libc::SIGTSTP,
                libc::SIGTTIN,
                libc::SIGTTOU,
            ] {
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut set = MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(set.as_mut_ptr());
            for signal in &ignore {
                libc::signal(*signal, libc::SIG_IGN);
            }
            for signal in &block {
                libc::sigaddset(set.as_mut_ptr(), *signal);
            }
            libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut());
            Ok(())
        });
    }
    let child = command.spawn()?;
    let job = child.id() as libc::pid_t;
    let mut shell = Shell {
        control,
        job,
        own_group,
        own_modes,
        job_modes: own_modes,
        over: false,
    };
    shell.say(&format!("started {job}"))?;
    shell.serve(children_fd)
}

impl Shell {
    fn say(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.control, "{line}")
    }

    fn serve(&mut self, children_fd: i32) -> io::Result<()> {
        let mut commands = BufReader::new(self.control.try_clone()?);
        loop {
            let mut polled = [children_fd, self.control.as_raw_fd()].map(|fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            });
            // SAFETY: two valid entries, both descriptors are open.
            unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) };
            if polled[0].revents != 0 {
                // SAFETY: signalfd_siginfo is plain old data of the size that is read.
                unsafe {
                    let mut info: libc::signalfd_siginfo = zeroed();
                    libc::read(
                        children_fd,
                        ptr::from_mut(&mut info).cast(),
                        size_of_val(&info),
                    );
                }
                self.reap()?;
            }
            if polled[1].revents != 0 {
                let mut line = String::new();
                if commands.read_line(&mut line)? == 0 || line.trim_end() == "quit" {
                    return Ok(());
                }
                self.obey(line.trim_end())?;
                // Lines that came in one piece with this one would not wake poll again.
                while !commands.buffer().is_empty() {
                    line.clear();
                    commands.read_line(&mut line)?;
                    if line.trim_end() == "quit" {
                        return Ok(());
                    }
                    self.obey(line.trim_end())?;
                }
            }
        }
    }

    /// Reports every change of the job that is there to report.
    fn reap(&mut self) -> io::Result<()> {
        while !self.over {
            let mut status = 0;
            // SAFETY: waitpid writes one int.
            let pid = unsafe {
                libc::waitpid(
                    self.job,
                    &mut status,
                    libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED,
                )
            };
            if pid <= 0 {
                return Ok(());
            }
            if libc::WIFCONTINUED(status) {
                self.say("continued")?;
                continue;
            }
            // The terminal first: whoever reads the report finds it in the shell's hand.
            self.job_modes = modes()?;
            // SAFETY: no pointers.
            unsafe { libc::tcsetpgrp(0, self.own_group) };
            set_modes(&self.own_modes);
            if libc::WIFSTOPPED(status) {
                self.say(&format!("stopped {}", libc::WSTOPSIG(status)))?;
            } else if libc::WIFEXITED(status) {
                self.over = true;
                self.say(&format!("exited {}", libc::WEXITSTATUS(status)))?;
            } else {
                self.over = true;
                self.say(&format!("signaled {}", libc::WTERMSIG(status)))?;
            }
        }
        Ok(())
    }

    fn obey(&mut self, line: &str) -> io::Result<()> {
        if self.over {
            // Its number may belong to someone else by now.
            return Ok(());
        }
        let (word, signal) = line.split_once(' ').unwrap_or((line, ""));
        let signal: i32 = signal.parse().unwrap_or(0);
        // SAFETY: no pointers. The job is not reaped, so its number and its group's are its own.
        unsafe {
            match word {
                "fg" => {
                    set_modes(&self.job_modes);
                    libc::tcsetpgrp(0, self.job);
                    libc::kill(-self.job, libc::SIGCONT);
                }
                "bg" => {
                    libc::kill(-self.job, libc::SIGCONT);
                }
                "kill" => {
                    libc::kill(-self.job, signal);
                }
                "killpid" => {
                    libc::kill(self.job, signal);
                }
                _ => return self.say(&format!("unknown {line}")),
            }
        }
        Ok(())
    }
}

fn modes() -> io::Result<libc::termios> {
    // SAFETY: termios is plain old data; tcgetattr writes one.
    unsafe {
        let mut now: libc::termios = zeroed();
        if libc::tcgetattr(0, &mut now) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(now)
    }
}

fn set_modes(modes: &libc::termios) {
    // SAFETY: reads one termios. A hung-up terminal has no modes to restore.
    unsafe { libc::tcsetattr(0, libc::TCSADRAIN, modes) };
}

fn signals(list: &str) -> io::Result<Vec<i32>> {
    let number = |n: &str| {
        n.parse()
            .map_err(|_| io::Error::other(format!("not a signal: {n}")))
    };
    list.split(',')
        .filter(|n| !n.is_empty())
        .map(number)
        .collect()
}
