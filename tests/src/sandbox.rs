//! Owns one private world of folders for one test. Never lets a program see the real home, the
//! real temporary folder or the environment of the test run.

use std::env;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use crate::pty::inherit_nothing;
use crate::wait::poll_until;

/// A fresh folder with what a program may want to write to. Drop removes it; with
/// `CLAUDE_SAFE_TEST_KEEP=1` it stays and its path is printed.
#[derive(Debug)]
pub struct Sandbox {
    root: PathBuf,
}

impl Sandbox {
    /// Makes `cs-test-…` below the temporary folder of the test run, mode 0700, with `home`,
    /// `tmp`, `run`, `config`, `state`, `cache` and `work` in it.
    ///
    /// # Panics
    /// When a folder cannot be made.
    #[must_use]
    pub fn new() -> Sandbox {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base = fs::canonicalize(env::temp_dir()).expect("the temporary folder is there");
        let now = SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |d| d.subsec_nanos());
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = base.join(format!("cs-test-{}-{count}-{now:08x}", std::process::id()));
        let mut private = fs::DirBuilder::new();
        private.mode(0o700);
        private.create(&root).expect("a folder of our own");
        let sandbox = Sandbox { root };
        for name in ["home", "tmp", "run", "config", "state", "cache", "work"] {
            private
                .create(sandbox.root.join(name))
                .expect("a folder in our own folder");
        }
        sandbox
    }

    /// The folder that holds all others.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `HOME`.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    /// `TMPDIR`.
    #[must_use]
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// `XDG_RUNTIME_DIR`.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// `XDG_CONFIG_HOME`.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("config")
    }

    /// `XDG_STATE_HOME`.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The folder in which commands start.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// A file beside the folders: for logs and reports of the test itself.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The search path of the sandbox: `CLAUDE_SAFE_TEST_PATH` of the test run, else
    /// `/usr/bin:/bin`.
    #[must_use]
    pub fn path(&self) -> String {
        env::var("CLAUDE_SAFE_TEST_PATH").unwrap_or_else(|_| "/usr/bin:/bin".into())
    }

    /// The same behind a guard, with the wrapper's handover: `fields` are those of it that follow
    /// the pid. A shell becomes the program, so that its pid is the one that is handed over.
    #[must_use]
    pub fn guarded(&self, guard: &Path, fields: &str, program: impl AsRef<Path>) -> Command {
        let script = "CLAUDE_SAFE_HANDOVER=\"1;pid=$$;$1\" LD_PRELOAD=$2; \
                      export CLAUDE_SAFE_HANDOVER LD_PRELOAD; shift 2; exec \"$@\"";
        let mut command = self.command("/bin/sh");
        command
            .args(["-c", script, "sh", fields])
            .arg(guard)
            .arg(program.as_ref());
        command
    }

    /// A command in `work` with an environment made of nothing but this sandbox, an empty stdin,
    /// and no open descriptor of the test run but the three standard ones.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env("HOME", self.home())
            .env("TMPDIR", self.tmp())
            .env("XDG_RUNTIME_DIR", self.run())
            .env("XDG_CONFIG_HOME", self.config())
            .env("XDG_STATE_HOME", self.state())
            .env("XDG_CACHE_HOME", self.root.join("cache"))
            .env("PATH", self.path())
            .env("LANG", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .current_dir(self.work())
            .stdin(Stdio::null());
        inherit_nothing(&mut command);
        command
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Sandbox::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if env::var_os("CLAUDE_SAFE_TEST_KEEP").is_some() {
            eprintln!("kept: {}", self.root.display());
            return;
        }
        // A program that is just ending may still write: try again for a while.
        let removed = poll_until(Duration::from_secs(5), || {
            make_writable(&self.root);
            match fs::remove_dir_all(&self.root) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => None,
                _ => Some(()),
            }
        });
        if removed.is_none() {
            eprintln!("could not remove {}", self.root.display());
        }
    }
}

/// Gives the owner all rights on the folders below `dir`, so that they can be emptied.
fn make_writable(dir: &Path) {
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // Not through a symlink: it may lead out of the sandbox.
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            make_writable(&entry.path());
        }
    }
}
