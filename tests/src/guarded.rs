//! Owns the way a program is started under the guard with the wrapper's handover, and the
//! statistics page of such a run. Included by path from the suites and programs that need it.

// Each of them needs a part of it.
#![allow(dead_code, unreachable_pub)]

use claude_safe_tests::{Sandbox, artifacts};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "../../guard/src/stats_page.rs"]
#[allow(missing_docs)]
pub mod stats_page;

use stats_page::{Snapshot, State};

/// What stands between the program and glibc's malloc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rival {
    /// Nothing.
    Glibc,
    /// The guard, with a threshold that is never reached.
    Standby,
    /// The guard, with threshold 0.
    Active,
    /// Another allocator: its library.
    Preload(PathBuf),
}

/// A command that starts `program` so. A guarded one gets a fresh statistics page in the sandbox,
/// and pools (if it does) the class of `size` bytes. `launchers` are programs that come first in the
/// same process, and are left alone.
#[must_use]
pub fn command(
    sandbox: &Sandbox,
    rival: &Rival,
    size: usize,
    launchers: &[&Path],
    program: &Path,
) -> Command {
    let threshold_mb = match rival {
        Rival::Glibc => return sandbox.command(program),
        Rival::Preload(library) => {
            let mut command = sandbox.command(program);
            command.env("LD_PRELOAD", library);
            return command;
        }
        Rival::Standby => 1 << 20,
        Rival::Active => 0,
    };
    let sizes = size.to_string();
    let guard = Guard {
        library: &artifacts().guard,
        sizes: &sizes,
        threshold_mb,
    };
    handed_over(sandbox, &guard, launchers, program)
}

/// A guard that the program gets, and what it is told.
#[derive(Clone, Copy, Debug)]
pub struct Guard<'a> {
    /// The library.
    pub library: &'a Path,
    /// As in `CLAUDE_MALLOC_GUARD_SIZES`.
    pub sizes: &'a str,
    /// As in `CLAUDE_MALLOC_GUARD_THRESHOLD_MB`.
    pub threshold_mb: u64,
}

/// The program under this guard; the rest as in [`command`].
pub fn handed_over(
    sandbox: &Sandbox,
    guard: &Guard<'_>,
    launchers: &[&Path],
    program: &Path,
) -> Command {
    let page = sandbox.file("page");
    fs::write(&page, [0; stats_page::LEN]).expect("the page");
    let launch: Vec<String> = launchers
        .iter()
        .filter_map(|launcher| fs::metadata(launcher).ok())
        .map(|file| format!("{}:{}", file.dev(), file.ino()))
        .collect();
    let fields = format!(
        "launch={};page={};log={};sizes={};threshold_mb={}",
        launch.join(","),
        page.display(),
        sandbox.file("guard.log").display(),
        guard.sizes,
        guard.threshold_mb
    );
    sandbox.guarded(guard.library, &fields, program)
}

/// What the page says of the last guarded run.
///
/// # Panics
/// When no guard took the page, or it did not do in the end what was asked for: then the run
/// showed nothing.
#[must_use]
pub fn page(sandbox: &Sandbox, rival: &Rival) -> Snapshot {
    let bytes = fs::read(sandbox.file("page")).expect("the page");
    let page = Snapshot::from_bytes(&bytes).expect("a page that the guard has taken");
    let expected = match rival {
        Rival::Standby => State::Standby,
        Rival::Active => State::Active,
        other => panic!("{other:?} has no page"),
    };
    assert_eq!(page.state, expected, "the guard did not do what was asked");
    page
}
