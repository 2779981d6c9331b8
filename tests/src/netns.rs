//! Owns the step into a network namespace with nothing but `lo`, and the mock API in one. Never
//! touches the network of the caller's other processes.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;

use crate::artifacts::program;
use crate::mock::Scenario;
use crate::sandbox::Sandbox;

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

/// A mock API in a network namespace of its own. Commands are put into the same namespace between
/// fork and exec: they are then ordinary children of the test, on whatever terminal it gives them,
/// and reach nothing but the mock. Drop ends the mock; it also ends with the test process.
#[derive(Debug)]
pub struct Isolated {
    mock: Child,
    /// The mock ends when this pipe does.
    _alive: ChildStdin,
    url: String,
    log: PathBuf,
    ca: Option<PathBuf>,
}

impl Isolated {
    /// Starts `mock-api` with its log, and with `tls` its `ca.pem`, in the sandbox's root.
    ///
    /// # Errors
    /// Why it did not start, most often that this system forbids namespaces.
    pub fn start(sandbox: &Sandbox, scenario: &Scenario, tls: bool) -> Result<Isolated, String> {
        let (plan, log) = (
            sandbox.file("scenario.json"),
            sandbox.file("requests.jsonl"),
        );
        fs::write(&plan, scenario.to_json()).map_err(|e| format!("{}: {e}", plan.display()))?;
        let mut command = sandbox.command(program("mock-api"));
        command
            .arg("--own-network")
            .arg("--scenario")
            .arg(plan)
            .arg("--log")
            .arg(&log);
        if tls {
            command.arg("--tls").arg(sandbox.root());
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut mock = command.spawn().map_err(|e| format!("mock-api: {e}"))?;
        let alive = mock.stdin.take().ok_or("mock-api has no stdin")?;
        let mut line = String::new();
        let said = mock.stdout.take().ok_or("mock-api has no stdout")?;
        BufReader::new(said)
            .read_line(&mut line)
            .map_err(|e| format!("mock-api: {e}"))?;
        let Some(url) = line.strip_prefix("listening ") else {
            let mut why = String::new();
            let _ = mock
                .stderr
                .take()
                .map(|mut e| io::Read::read_to_string(&mut e, &mut why));
            let _ = mock.wait();
            return Err(why.trim_end().to_owned());
        };
        let ca = tls.then(|| sandbox.file("ca.pem"));
        Ok(Isolated {
            url: url.trim_end().to_owned(),
            mock,
            _alive: alive,
            log,
            ca,
        })
    }

    /// For `ANTHROPIC_BASE_URL`; good inside the namespace only.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// For `NODE_EXTRA_CA_CERTS`, when the mock speaks TLS.
    #[must_use]
    pub fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// Makes `command` start in the mock's namespace.
    ///
    /// # Errors
    /// The mock is gone.
    pub fn enter(&self, command: &mut Command) -> io::Result<()> {
        let pid = self.mock.id();
        let net = File::open(format!("/proc/{pid}/ns/net"))?;
        let user = File::open(format!("/proc/{pid}/ns/user"))?;
        let same_user = user.metadata()?.ino() == fs::metadata("/proc/self/ns/user")?.ino();
        // SAFETY: setns is async-signal-safe; the child of the fork has the single thread that
        // CLONE_NEWUSER asks for; the closure owns both descriptors.
        unsafe {
            command.pre_exec(move || {
                if !same_user && libc::setns(user.as_raw_fd(), libc::CLONE_NEWUSER) != 0 {
                    return Err(io::Error::last_os_error());
                }
                if libc::setns(net.as_raw_fd(), libc::CLONE_NEWNET) != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        Ok(())
    }

    /// The requests so far, one object each: `n`, `t_ms`, `method`, `path`, `action`, `messages`,
    /// `tools`, `last_role`, `last_text`, and `round` and `attempt`, `final` or `side`.
    #[must_use]
    pub fn requests(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        // The last line may be half written.
        text.lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .collect()
    }
}

impl Drop for Isolated {
    fn drop(&mut self) {
        let _ = self.mock.kill();
        let _ = self.mock.wait();
    }
}
