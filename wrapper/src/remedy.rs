//! What a user of this machine can do about it, in one line. Decides by files that say what the machine is; changes nothing.

use std::path::Path;

/// What this machine runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Hardware, or a virtual machine of its own.
    Plain,
    /// A container: its host decides about groups and swap.
    Container,
    /// The Windows Subsystem for Linux.
    Wsl,
}

impl Host {
    /// As the files below `root` (`/`) tell.
    pub fn find(root: &Path) -> Host {
        let release =
            std::fs::read_to_string(root.join("proc/sys/kernel/osrelease")).unwrap_or_default();
        let marks = ["run/systemd/container", ".dockerenv", "run/.containerenv"];
        if marks.iter().any(|mark| root.join(mark).exists()) {
            Host::Container
        } else if release.to_ascii_lowercase().contains("microsoft") {
            Host::Wsl
        } else {
            Host::Plain
        }
    }
}

/// There is no swap.
pub fn no_swap(root: &Path) -> &'static str {
    match Host::find(root) {
        Host::Container => "swap is the host's: it needs some, and the container a share of it",
        Host::Wsl => "set swap= in .wslconfig",
        Host::Plain => match distribution(root).as_str() {
            "nixos" => "set zramSwap.enable = true;",
            "debian" | "ubuntu" | "linuxmint" | "pop" | "raspbian" => {
                "`apt install systemd-zram-generator && echo '[zram0]' > /etc/systemd/zram-generator.conf && systemctl daemon-reload \
                 && systemctl start systemd-zram-setup@zram0` gives compressed swap in memory"
            }
            _ => "install zram-generator: compressed swap in memory",
        },
    }
}

/// There is no memory controller in cgroup v2.
pub fn no_cgroup(root: &Path) -> &'static str {
    match Host::find(root) {
        Host::Container => {
            "start the container with a cgroup v2 namespace of its own, or claude-safe outside of it"
        }
        Host::Wsl => "set kernelCommandLine=cgroup_no_v1=all in .wslconfig",
        Host::Plain => "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all",
    }
}

/// `ID` of os-release(5), or what it is like.
fn distribution(root: &Path) -> String {
    let text = std::fs::read_to_string(root.join("etc/os-release")).unwrap_or_default();
    let value = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(line.trim().trim_matches('"').to_owned())
    };
    match value("ID_LIKE") {
        Some(like) if like.split(' ').any(|word| word == "debian") => "debian".to_owned(),
        _ => value("ID").unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;

    #[test]
    fn each_machine_has_its_own_line() {
        for (files, swap, cgroup) in [
            (
                &[("etc/os-release", "NAME=x\nID=nixos\n")][..],
                "zramSwap",
                "boot with",
            ),
            (
                &[("etc/os-release", "ID=debian\n")],
                "apt install",
                "boot with",
            ),
            (
                &[("etc/os-release", "ID=zorin\nID_LIKE=\"ubuntu debian\"\n")],
                "apt install",
                "boot with",
            ),
            (
                &[("etc/os-release", "ID=\"arch\"\n")],
                "zram-generator",
                "boot with",
            ),
            (&[], "zram-generator", "boot with"),
            (
                &[(".dockerenv", ""), ("etc/os-release", "ID=debian\n")],
                "host's",
                "container",
            ),
            (
                &[
                    (
                        "proc/sys/kernel/osrelease",
                        "5.15.1-Microsoft-standard-WSL2\n",
                    ),
                    ("etc/os-release", "ID=ubuntu\n"),
                ],
                ".wslconfig",
                ".wslconfig",
            ),
        ] {
            let scratch = Scratch::new();
            for (name, text) in files {
                scratch.write(name, text);
            }
            assert!(
                no_swap(scratch.path()).contains(swap),
                "{files:?}: {}",
                no_swap(scratch.path())
            );
            assert!(no_cgroup(scratch.path()).contains(cgroup), "{files:?}");
        }
    }
}
