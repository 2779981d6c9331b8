//! Where a process is in cgroup v2 (Linux `Documentation/admin-guide/cgroup-v2.rst`), and the small files of a
//! group. Reads only.

use crate::config::memory::{self, Mount};
use std::path::{Component, Path, PathBuf};

/// The mounted cgroup v2 hierarchy, with a memory controller in it.
pub struct Groups {
    proc_root: PathBuf,
    mount: Mount,
    /// Our own path in it.
    own: PathBuf,
}

impl Groups {
    /// `None`: there is none, or the memory controller is not in it (cgroup v1, hybrid).
    pub fn of_this_machine(proc_root: &Path) -> Option<Groups> {
        let (mount, own) = memory::unified_mount(proc_root)?;
        let controllers = std::fs::read_to_string(mount.point().join("cgroup.controllers")).ok()?;
        let has_memory = controllers
            .split_ascii_whitespace()
            .any(|name| name == "memory");
        has_memory.then(|| Groups {
            proc_root: proc_root.to_owned(),
            mount,
            own,
        })
    }

    /// The path of the group that holds this process, as `/proc/PID/cgroup` has it. `None`: it has ended.
    pub fn path_of(&self, pid: i32) -> Option<PathBuf> {
        let text = std::fs::read(self.proc_root.join(format!("{pid}/cgroup"))).ok()?;
        memory::unified_path(&String::from_utf8_lossy(&text))
    }

    /// The folder of the group at `path`, up to the part called `name`. `None`: no such part, or no such folder.
    pub fn folder_up_to(&self, path: &Path, name: &str) -> Option<PathBuf> {
        let folder = self.mount.folder_of(&up_to(path, name)?);
        folder.join("cgroup.procs").exists().then_some(folder)
    }

    /// The folder of the group at `path`.
    pub fn folder_of(&self, path: &Path) -> PathBuf {
        self.mount.folder_of(path)
    }

    /// The folder of our own group, and the mount point above it.
    pub fn own_folder(&self) -> (PathBuf, &Path) {
        (self.mount.folder_of(&self.own), self.mount.point())
    }
}

/// The beginning of a path, up to and with the part called `name`.
pub fn up_to(path: &Path, name: &str) -> Option<PathBuf> {
    let wanted = Component::Normal(name.as_ref());
    let at = path.components().position(|part| part == wanted)?;
    Some(path.components().take(at + 1).collect())
}

/// A limit: bytes. `None`: `max`, or no such file.
pub fn limit_bytes(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// One number of a file of `key value` lines (memory.stat, memory.events).
pub fn keyed(file: &Path, key: &str) -> Option<u64> {
    number_after(&std::fs::read_to_string(file).ok()?, key)
}

/// The number behind a key at the beginning of a line of such a text.
pub fn number_after(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(key)).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;

    #[test]
    fn a_part_is_found_as_a_whole_name_only() {
        let path = Path::new("/user.slice/claude-safe-1_2.slice/claude-safe-1_2_1.scope");
        assert_eq!(
            up_to(path, "claude-safe-1_2.slice").as_deref(),
            Some(Path::new("/user.slice/claude-safe-1_2.slice"))
        );
        for name in ["claude-safe-1_2", "claude-safe-1.slice", "slice", ""] {
            assert_eq!(up_to(path, name), None, "{name}");
        }
    }

    #[test]
    fn the_folder_of_a_process_is_found_below_the_mount() {
        let scratch = Scratch::new();
        let point = scratch.path().join("cg").display().to_string();
        scratch.write("proc/self/cgroup", "0::/a\n");
        scratch.write(
            "proc/7/cgroup",
            "1:name=systemd:/x\n0::/a/s-1.slice/s-1_1.scope\n",
        );
        scratch.write(
            "proc/self/mountinfo",
            format!("31 23 0:28 / {point} rw - cgroup2 cgroup2 rw\n"),
        );
        let proc_root = scratch.path().join("proc");
        assert!(
            Groups::of_this_machine(&proc_root).is_none(),
            "no controllers"
        );
        scratch.write("cg/cgroup.controllers", "cpu io pids\n");
        assert!(
            Groups::of_this_machine(&proc_root).is_none(),
            "not the memory controller"
        );
        scratch.write("cg/cgroup.controllers", "cpu memory pids\n");
        let groups = Groups::of_this_machine(&proc_root).unwrap();
        let path = groups.path_of(7).unwrap();
        assert_eq!(path, Path::new("/a/s-1.slice/s-1_1.scope"));
        assert_eq!(groups.path_of(8), None);
        assert_eq!(
            groups.folder_up_to(&path, "s-1.slice"),
            None,
            "the folder is not there"
        );
        scratch.write("cg/a/s-1.slice/cgroup.procs", "");
        assert_eq!(
            groups.folder_up_to(&path, "s-1.slice"),
            Some(scratch.path().join("cg/a/s-1.slice"))
        );
        assert_eq!(groups.folder_up_to(&path, "s-2.slice"), None);
        assert_eq!(groups.own_folder().0, scratch.path().join("cg/a"));
    }

    #[test]
    fn numbers_of_a_group_are_read_as_the_kernel_writes_them() {
        let scratch = Scratch::new();
        let events = scratch.write(
            "memory.events",
            "low 0\nhigh 3\noom 2\noom_kill 1\noom_group_kill 0\n",
        );
        assert_eq!(keyed(&events, "oom_kill"), Some(1));
        assert_eq!(keyed(&events, "oom"), Some(2));
        assert_eq!(keyed(&events, "max"), None);
        assert_eq!(keyed(&scratch.path().join("absent"), "oom"), None);
        let odd = scratch.write("odd", "oom_kill x\noom_kill\n\noom_kill 5\n");
        assert_eq!(keyed(&odd, "oom_kill"), Some(5));
        assert_eq!(limit_bytes(&scratch.write("a", "max\n")), None);
        assert_eq!(limit_bytes(&scratch.write("b", "4096\n")), Some(4096));
    }
}
