//! A control group made by ourselves: where no systemd is, and cgroup v2 lets us (root in a container with a writable
//! `/sys/fs/cgroup`, a delegated folder). Never made where systemd manages the groups: they are its own there.
//!
//! The outer folder holds the limits, an inner one the client: a group that the client makes for its tools
//! *beside* its own (`claude-code-bash`) is inside of the limits then.

use super::Caps;
use super::group::Groups;
use std::fs;
use std::path::{Path, PathBuf};

/// The inner folder.
const INNER: &str = "session";

/// Our group; removed on drop, if nothing lives in it any more.
pub struct OwnGroup {
    path: PathBuf,
}

impl OwnGroup {
    /// Makes it, beside our own group or inside it. A group with processes can't have groups with memory limits below it
    /// (the "no internal process" rule), so beside comes first.
    pub fn make(groups: &Groups, name: &str, caps: &Caps) -> Option<OwnGroup> {
        let (own, top) = groups.own_folder();
        let beside = own.parent().filter(|parent| parent.starts_with(top));
        beside
            .into_iter()
            .chain([own.as_path()])
            .find_map(|parent| OwnGroup::make_in(parent, name, caps))
    }

    fn make_in(parent: &Path, name: &str, caps: &Caps) -> Option<OwnGroup> {
        let controls = fs::read_to_string(parent.join("cgroup.subtree_control")).ok()?;
        if !controls
            .split_ascii_whitespace()
            .any(|name| name == "memory")
        {
            fs::write(parent.join("cgroup.subtree_control"), "+memory").ok()?;
        }
        let path = parent.join(name);
        fs::create_dir(&path).ok()?;
        // From here on dropping it removes it.
        let made = OwnGroup { path };
        made.set("cgroup.subtree_control", "+memory")?;
        fs::create_dir(made.path.join(INNER)).ok()?;
        for (file, bytes) in [
            ("memory.max", caps.memory_bytes),
            ("memory.swap.max", caps.swap_bytes),
        ] {
            // Without swap in this kernel there is no such file: nothing to bound then.
            if let Some(bytes) = bytes {
                let _ = made.set(file, &bytes.to_string());
            }
        }
        Some(made)
    }

    fn set(&self, file: &str, text: &str) -> Option<()> {
        // An existing file only: what is not there is not to be made.
        let mut open = fs::OpenOptions::new();
        let mut file = open.write(true).open(self.path.join(file)).ok()?;
        std::io::Write::write_all(&mut file, text.as_bytes()).ok()
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves a process into it.
    pub fn take(&self, pid: i32) -> bool {
        self.set(&format!("{INNER}/cgroup.procs"), &pid.to_string())
            .is_some()
    }
}

impl Drop for OwnGroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes the group that a dead wrapper of this name has left, and no other.
pub fn remove_if_ours(path: &Path, pid: i32, start_ticks: u64) {
    if path.file_name() == Some(super::name_of(pid, start_ticks).as_ref()) {
        remove(path);
    }
}

/// Removes a group and those right below it, if nothing lives there: rmdir(2) of a group with processes is refused.
fn remove(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let _ = fs::remove_dir(entry.path());
    }
    let _ = fs::remove_dir(path);
}
