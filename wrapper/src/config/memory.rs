//! How much memory there is for us: of the machine, or of the narrowest cgroup around us.
//!
//! Reads `/proc` and the cgroup file systems; never writes there.

use std::path::{Component, Path, PathBuf};

/// Memory that this process and its children can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes: the smaller one of the machine's memory and every cgroup limit on the way up.
    pub bytes: u64,
    /// The file that holds the narrowest limit; `None` when the machine itself is the limit.
    pub limited_by: Option<PathBuf>,
}

/// The kernel's "no limit" of cgroup v1 is the largest whole number of pages; anything this large
/// means the same.
const V1_NO_LIMIT_BYTES: u64 = 1 << 62;

/// Measures the memory, with `proc_root` in place of `/proc`. `None` when not even the machine's
/// own memory can be read.
pub fn measure(proc_root: &Path) -> Option<Memory> {
    // MemTotal, not sysinfo(2): containers with lxcfs show their own size here.
    let meminfo = read_text(&proc_root.join("meminfo"));
    let machine_bytes = meminfo.as_deref().and_then(memory_total_bytes);
    let limits = cgroup_limits(proc_root).into_iter();
    match (machine_bytes, limits.min_by_key(|(bytes, _)| *bytes)) {
        (Some(machine), Some((limit, file))) if limit < machine => Some(Memory {
            bytes: limit,
            limited_by: Some(file),
        }),
        (Some(machine), _) => Some(Memory {
            bytes: machine,
            limited_by: None,
        }),
        (None, Some((limit, file))) => Some(Memory {
            bytes: limit,
            limited_by: Some(file),
        }),
        (None, None) => None,
    }
}

/// Is there a cgroup v2 hierarchy with us in it, and where is our group's folder?
pub fn unified_cgroup_folder(proc_root: &Path) -> Option<PathBuf> {
    unified_mount(proc_root).map(|(mount, own)| mount.folder_of(&own))
}

/// Where the cgroup v2 hierarchy is mounted, and our path in it.
pub(crate) fn unified_mount(proc_root: &Path) -> Option<(Mount, PathBuf)> {
    let groups = read_text(&proc_root.join("self/cgroup"))?;
    let mounts = read_text(&proc_root.join("self/mountinfo"))?;
    let path = unified_path(&groups)?;
    let mount = mounts_of(&mounts, Hierarchy::Unified).into_iter().next()?;
    Some((mount, path))
}

/// The path in cgroup v2 that a text of `/proc/PID/cgroup` tells.
pub(crate) fn unified_path(groups: &str) -> Option<PathBuf> {
    own_path(groups, Hierarchy::Unified)
}

fn memory_total_bytes(meminfo: &str) -> Option<u64> {
    let kib = meminfo_kib(meminfo, "MemTotal:")?;
    (kib > 0).then(|| kib.saturating_mul(1024))
}

/// One line of `/proc/meminfo` (proc_meminfo(5)), KiB.
fn meminfo_kib(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// What programs could still take without swapping (`MemAvailable`), KiB.
pub fn free_kib(proc_root: &Path) -> Option<u64> {
    meminfo_kib(&read_text(&proc_root.join("meminfo"))?, "MemAvailable:")
}

/// All swap of this machine, in use or not, KiB.
pub fn swap_total_kib(proc_root: &Path) -> u64 {
    let meminfo = read_text(&proc_root.join("meminfo"));
    meminfo
        .and_then(|text| meminfo_kib(&text, "SwapTotal:"))
        .unwrap_or(0)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hierarchy {
    /// cgroup v2: one tree for all controllers.
    Unified,
    /// cgroup v1: the tree of the memory controller.
    Memory,
}

/// One mounted hierarchy: which folder of it is mounted where.
pub(crate) struct Mount {
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// Where it is mounted.
    pub(crate) fn point(&self) -> &Path {
        &self.point
    }

    /// The folder of the group at `path`. Where the group lies outside of what is mounted (a
    /// container that shows its own part, or a cgroup namespace whose paths begin with `/..`), the
    /// mount point itself is the nearest group that can be seen.
    pub(crate) fn folder_of(&self, path: &Path) -> PathBuf {
        let climbs = path.components().any(|part| part == Component::ParentDir);
        match path.strip_prefix(&self.root) {
            // Joining an empty path would leave a slash at the end.
            Ok(below) if !climbs && below != Path::new("") => self.point.join(below),
            _ => self.point.clone(),
        }
    }
}

/// Every limit that holds for us: bytes, and the file that says so.
fn cgroup_limits(proc_root: &Path) -> Vec<(u64, PathBuf)> {
    let mut limits = Vec::new();
    let (Some(groups), Some(mounts)) = (
        read_text(&proc_root.join("self/cgroup")),
        read_text(&proc_root.join("self/mountinfo")),
    ) else {
        return limits;
    };
    // On a hybrid machine both are there, and the memory controller is in one of them only: the
    // other one simply has no such files.
    for hierarchy in [Hierarchy::Unified, Hierarchy::Memory] {
        let Some(path) = own_path(&groups, hierarchy) else {
            continue;
        };
        for mount in mounts_of(&mounts, hierarchy) {
            let own = mount.folder_of(&path);
            for folder in own
                .ancestors()
                .take_while(|at| at.starts_with(&mount.point))
            {
                // memory.high counts as much as memory.max: above it the kernel slows a group
                // down to a crawl (without swap for ever), so acting later would be too late.
                let names: &[&str] = match hierarchy {
                    Hierarchy::Unified => &["memory.max", "memory.high"],
                    Hierarchy::Memory => &["memory.limit_in_bytes"],
                };
                for name in names {
                    let file = folder.join(name);
                    if let Some(bytes) = read_text(&file).as_deref().and_then(limit_bytes) {
                        limits.push((bytes, file));
                    }
                }
            }
            if hierarchy == Hierarchy::Memory {
                // Knows the limits above the mount point too, which a container can't see.
                let file = own.join("memory.stat");
                if let Some(bytes) = read_text(&file)
                    .as_deref()
                    .and_then(hierarchical_limit_bytes)
                {
                    limits.push((bytes, file));
                }
            }
        }
    }
    limits
}

/// A limit as the kernel prints it: a number of bytes, or `max`. Zero and nonsense are no limit.
fn limit_bytes(text: &str) -> Option<u64> {
    let bytes: u64 = text.trim().parse().ok()?;
    (bytes > 0 && bytes < V1_NO_LIMIT_BYTES).then_some(bytes)
}

fn hierarchical_limit_bytes(stat: &str) -> Option<u64> {
    stat.lines()
        .find_map(|line| line.strip_prefix("hierarchical_memory_limit "))
        .and_then(limit_bytes)
}

/// Our path in a hierarchy: the lines of `/proc/self/cgroup` are `id:controllers:path`.
fn own_path(groups: &str, hierarchy: Hierarchy) -> Option<PathBuf> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let found = match hierarchy {
            Hierarchy::Unified => id == "0" && controllers.is_empty(),
            Hierarchy::Memory => controllers.split(',').any(|name| name == "memory"),
        };
        found.then(|| PathBuf::from(path))
    })
}

/// The mounts of a hierarchy in `/proc/self/mountinfo`:
/// `id parent major:minor root point options [tags] - type source super-options`.
fn mounts_of(mounts: &str, hierarchy: Hierarchy) -> Vec<Mount> {
    mounts
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut after = after.split(' ');
            let kind = after.next()?;
            let super_options = after.nth(1).unwrap_or("");
            let wanted = match hierarchy {
                Hierarchy::Unified => kind == "cgroup2",
                Hierarchy::Memory => {
                    kind == "cgroup" && super_options.split(',').any(|name| name == "memory")
                }
            };
            if !wanted {
                return None;
            }
            let mut before = before.split(' ').skip(3);
            Some(Mount {
                root: unescaped(before.next()?),
                point: unescaped(before.next()?),
            })
        })
        .collect()
}

/// Undoes the kernel's `\040`-style escapes of blanks and backslashes.
fn unescaped(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).and_then(|digits| {
            digits.iter().try_fold(0u32, |value, digit| {
                (b'0'..=b'7')
                    .contains(digit)
                    .then(|| value * 8 + u32::from(digit - b'0'))
            })
        });
        match octal {
            Some(value) if bytes[at] == b'\\' && value < 256 => {
                out.push(value as u8);
                at += 4;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

fn read_text(path: &Path) -> Option<String> {
    // mountinfo can be long and may hold any bytes; nothing we look for is other than ASCII.
    std::fs::read(path)
        .ok()
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;

    const GIB: u64 = 1 << 30;

    /// A machine of 64 GiB with the given view of its cgroups. `@` stands for the folder of mounts.
    fn machine(cgroup: &str, mountinfo: &str, files: &[(&str, &str)]) -> (Scratch, PathBuf) {
        let scratch = Scratch::new();
        let point = scratch.path().join("cg").display().to_string();
        scratch.write(
            "proc/meminfo",
            format!("MemTotal: {} kB\nMemFree: 1 kB\n", 64 * GIB / 1024),
        );
        scratch.write("proc/self/cgroup", cgroup);
        scratch.write("proc/self/mountinfo", mountinfo.replace('@', &point));
        for (name, text) in files {
            scratch.write(&format!("cg/{name}"), text);
        }
        let proc_root = scratch.path().join("proc");
        (scratch, proc_root)
    }

    const V2: &str = "22 1 8:1 / / rw - ext4 /dev/sda rw\n31 23 0:28 / @ rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    fn limited(memory: &Memory) -> String {
        memory
            .limited_by
            .as_deref()
            .map_or(String::new(), |file| file.display().to_string())
    }

    #[test]
    fn without_limits_the_machine_counts() {
        let (_scratch, root) = machine(
            "0::/user.slice/a.scope\n",
            V2,
            &[
                ("user.slice/memory.max", "max\n"),
                ("user.slice/a.scope/memory.max", "max\n"),
                ("user.slice/a.scope/memory.high", "max\n"),
            ],
        );
        assert_eq!(
            measure(&root),
            Some(Memory {
                bytes: 64 * GIB,
                limited_by: None
            })
        );
    }

    #[test]
    fn the_narrowest_limit_on_the_way_up_counts_wherever_it_is() {
        for (at, name) in [
            ("a", "memory.max"),
            ("a/b", "memory.max"),
            ("a/b/c", "memory.high"),
        ] {
            let own_limit = format!("{}\n", 4 * GIB);
            let file = format!("{at}/{name}");
            let (_scratch, root) = machine(
                "0::/a/b/c\n",
                V2,
                &[
                    ("a/memory.max", &format!("{}\n", 8 * GIB)),
                    (&file, &own_limit),
                    ("elsewhere/memory.max", "1\n"),
                ],
            );
            let memory = measure(&root).unwrap();
            assert_eq!(memory.bytes, 4 * GIB);
            assert!(limited(&memory).ends_with(&file), "{memory:?}");
        }
    }

    #[test]
    fn a_limit_above_the_machine_is_no_limit() {
        let (_scratch, root) = machine(
            "0::/a\n",
            V2,
            &[("a/memory.max", &format!("{}", 900 * GIB))],
        );
        assert_eq!(measure(&root).unwrap().limited_by, None);
    }

    #[test]
    fn in_a_cgroup_namespace_the_mount_point_is_the_own_group() {
        for (path, root_of_mount) in [
            ("/", "/"),
            ("/../..", "/"),
            ("/", "/.."),
            ("/x", "/docker/9"),
        ] {
            let mounts = format!("31 23 0:28 {root_of_mount} @ rw - cgroup2 cgroup2 rw\n");
            let (_scratch, root) = machine(
                &format!("0::{path}\n"),
                &mounts,
                &[("memory.max", &format!("{GIB}\n"))],
            );
            assert_eq!(measure(&root).unwrap().bytes, GIB, "{path} {root_of_mount}");
        }
    }

    #[test]
    fn a_container_without_a_namespace_sees_its_own_part_at_the_mount_point() {
        let (_scratch, root) = machine(
            "0::/docker/9/inner\n",
            "31 23 0:28 /docker/9 @ rw - cgroup2 cgroup2 rw\n",
            &[
                ("memory.max", &format!("{}", 2 * GIB)),
                ("inner/memory.max", &format!("{GIB}")),
            ],
        );
        assert_eq!(measure(&root).unwrap().bytes, GIB);
    }

    #[test]
    fn the_memory_controller_of_version_1_counts_and_its_huge_number_does_not() {
        let mounts = "30 1 0:20 / @/systemd rw - cgroup cgroup rw,name=systemd\n\
                      35 31 0:32 / @/memory rw - cgroup cgroup rw,memory\n";
        let (_scratch, root) = machine(
            "9:name=systemd:/\n4:cpu,memory:/pod/a\n",
            mounts,
            &[
                ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
                (
                    "memory/pod/memory.limit_in_bytes",
                    &format!("{}\n", 3 * GIB),
                ),
                (
                    "memory/pod/a/memory.limit_in_bytes",
                    "9223372036854771712\n",
                ),
                ("systemd/pod/a/memory.limit_in_bytes", "1\n"),
            ],
        );
        assert_eq!(measure(&root).unwrap().bytes, 3 * GIB);
    }

    #[test]
    fn version_1_knows_limits_above_what_a_container_sees() {
        let (_scratch, root) = machine(
            "4:memory:/docker/9\n",
            "35 31 0:32 /docker/9 @ rw - cgroup cgroup rw,memory\n",
            &[
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                (
                    "memory.stat",
                    &format!("cache 1\nhierarchical_memory_limit {GIB}\n"),
                ),
            ],
        );
        assert_eq!(measure(&root).unwrap().bytes, GIB);
    }

    #[test]
    fn a_hybrid_machine_takes_the_tree_that_has_the_controller() {
        let mounts = "41 31 0:38 / @/unified rw - cgroup2 cgroup2 rw\n\
                      35 31 0:32 / @/memory rw - cgroup cgroup rw,memory\n";
        let (_scratch, root) = machine(
            "4:memory:/a\n0::/b\n",
            mounts,
            &[
                ("unified/b/cgroup.procs", ""),
                ("memory/a/memory.limit_in_bytes", &format!("{GIB}")),
            ],
        );
        assert_eq!(measure(&root).unwrap().bytes, GIB);
        assert!(unified_cgroup_folder(&root).unwrap().ends_with("unified/b"));
    }

    #[test]
    fn junk_in_every_file_is_survived() {
        for junk in ["", "\0\u{ff}", "-5", "99999999999999999999999", "1 2", "0"] {
            let (_scratch, root) = machine("0::/a\nx\n::\n", V2, &[("a/memory.max", junk)]);
            assert_eq!(measure(&root).unwrap().bytes, 64 * GIB, "{junk:?}");
        }
        let (scratch, root) = machine("\n:\n", " - \n - cgroup2\na b c d - cgroup2 x rw\n", &[]);
        assert_eq!(measure(&root).unwrap().bytes, 64 * GIB);
        std::fs::write(scratch.path().join("proc/meminfo"), "MemTotal: soon\n").unwrap();
        assert_eq!(measure(&root), None);
    }

    #[test]
    fn blanks_in_a_mount_point_are_understood() {
        assert_eq!(unescaped(r"/a\040b\134c\9"), PathBuf::from(r"/a b\c\9"));
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(measure(Path::new("/proc")).unwrap().bytes > 1 << 20);
    }
}
