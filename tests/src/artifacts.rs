//! Owns the way to the programs under test and to the harness's own programs. Never puts anything
//! anywhere but in cargo's target folder.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The three files that are tested.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// The drop-in.
    pub claude_safe: PathBuf,
    /// The control plane.
    pub claude_safectl: PathBuf,
    /// The preload library.
    pub guard: PathBuf,
}

/// The root of the workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
}

/// Builds the artifacts with `cargo build --release --locked`, once per process, and says where
/// they are. With `CLAUDE_SAFE_TEST_BIN_DIR` set, nothing is built and those of that folder are
/// taken: this is how a .deb or a Nix build is tested.
///
/// # Panics
/// When the build fails or a file is missing: there is nothing to test then.
#[must_use]
pub fn artifacts() -> &'static Artifacts {
    static ONCE: OnceLock<Artifacts> = OnceLock::new();
    ONCE.get_or_init(|| {
        let dir = match env::var_os("CLAUDE_SAFE_TEST_BIN_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => build(),
        };
        let file = |name: &str| {
            let path = dir.join(name);
            assert!(path.is_file(), "{} is missing", path.display());
            path
        };
        Artifacts {
            claude_safe: file("claude-safe"),
            claude_safectl: file("claude-safectl"),
            guard: file("libclaude_guard.so"),
        }
    })
}

fn build() -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    let status = Command::new(cargo)
        .args(["build", "--release", "--locked", "--quiet"])
        .current_dir(workspace())
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .expect("cargo can be started");
    assert!(status.success(), "cargo build --release --locked: {status}");
    target.join("release")
}

/// The guard with its seam for faults (`--features inject`), built into a target folder of its own,
/// once per process.
///
/// # Panics
/// When the build fails.
#[must_use]
pub fn guard_with_faults() -> &'static Path {
    static ONCE: OnceLock<PathBuf> = OnceLock::new();
    ONCE.get_or_init(|| {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let target = env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| workspace().join("target"), PathBuf::from)
            .join("inject");
        let status = Command::new(cargo)
            .args(["build", "--release", "--locked", "--quiet"])
            .args(["--package", "claude-guard", "--features", "inject"])
            .current_dir(workspace())
            .env("CARGO_TARGET_DIR", &target)
            .status()
            .expect("cargo can be started");
        assert!(status.success(), "the guard with faults: {status}");
        target.join("release/libclaude_guard.so")
    })
}

/// Builds one program of the harness, for another one of them that was built alone.
///
/// # Panics
/// When the build fails.
pub fn build_program(name: &str) {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--locked",
            "--quiet",
            "--package",
            "claude-safe-tests",
        ])
        .args(["--no-default-features", "--bin", name])
        .current_dir(workspace())
        .status()
        .expect("cargo can be started");
    assert!(status.success(), "cargo build --bin {name}: {status}");
}

/// A program of the harness itself, such as `fake-claude`: it lies where cargo put this test, or
/// one folder up.
///
/// # Panics
/// When it is not there, which means that the package was not built as a whole.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let own = env::current_exe().expect("/proc/self/exe can be read");
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} was not built: run `cargo test -p claude-safe-tests`"))
}
