//! What systemd is asked: which manager, and the words of busctl(1). Speaks no D-Bus itself: busctl comes with systemd
//! and knows it. Starts nothing.
//!
//! The interface is org.freedesktop.systemd1(5): `StartTransientUnit` with the property `PIDs`, which is what
//! systemd-run(1) with `--scope` sends for itself. All limits are properties of units: what is written into
//! a manager's groups directly is lost at its next change.

use super::{Caps, words};
use crate::client::find_program;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The slice above all sessions of one user. systemd puts it into `claude.slice` for its name.
pub const FLEET_SLICE: &str = "claude-safe.slice";

/// How long the manager may take to answer, seconds; it takes some milliseconds as a rule.
const TIMEOUT_S: &str = "--timeout=5";

/// Why no manager can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoManager {
    /// This machine was not booted with systemd.
    NoSystemd,
    /// It was, and this user has no manager that runs.
    NoUserManager,
    /// It runs, and can't be reached: no bus.
    NoBus,
    /// There is no busctl.
    NoBusctl,
    /// It was asked, and refused a scope.
    Refuses,
}

impl NoManager {
    /// For people.
    pub fn in_words(self) -> &'static str {
        match self {
            NoManager::NoSystemd => "this machine does not run systemd",
            NoManager::NoUserManager => {
                "this user has no systemd manager (`loginctl enable-linger` starts one)"
            }
            NoManager::NoBus => {
                "this user's systemd manager has no bus (Debian: install dbus-user-session)"
            }
            NoManager::Refuses => "the service manager refused a scope",
            NoManager::NoBusctl => "there is no busctl (it is a part of systemd)",
        }
    }
}

/// A service manager that can be asked.
#[derive(Debug)]
pub struct Manager {
    busctl: PathBuf,
    is_system: bool,
    /// Variables that busctl needs and this session lacks (cron, su).
    missing: Vec<(&'static str, OsString)>,
}

/// What is left out when the manager refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Scope and slice, with caps.
    Whole,
    /// The slice is there from an earlier life, its caps too.
    WithoutSlice,
    /// systemd before 253 has no OOMPolicy for scopes, and does to them what `continue` says. A wall at `memory.max` is
    /// not asked for then.
    Bare,
}

impl Attempt {
    /// The next one to try.
    pub fn next(self) -> Option<Attempt> {
        match self {
            Attempt::Whole => Some(Attempt::WithoutSlice),
            Attempt::WithoutSlice => Some(Attempt::Bare),
            Attempt::Bare => None,
        }
    }
}

/// One call.
pub enum Request<'a> {
    /// These processes into a new scope.
    StartScope {
        /// Its name.
        scope: &'a str,
        /// The slice it is in.
        slice: &'a str,
        /// The processes.
        pids: &'a [i32],
        /// For the slice.
        caps: Caps,
        /// What to leave out.
        attempt: Attempt,
    },
    /// Limits for a slice, until the next boot.
    Cap {
        /// Its name.
        slice: &'a str,
        /// `memory.max`, bytes.
        memory_bytes: Option<u64>,
        /// `memory.swap.max`, bytes.
        swap_bytes: Option<u64>,
    },
}

impl Manager {
    /// The manager for this user: root's is the system's. `root` stands for `/`.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(
        root: &Path,
        variable: &dyn Fn(&str) -> Option<OsString>,
        euid: u32,
    ) -> Result<Manager, NoManager> {
        // sd_booted(3)
        if !root.join("run/systemd/system").is_dir() {
            return Err(NoManager::NoSystemd);
        }
        let mut missing = Vec::new();
        let is_system = euid == 0;
        if is_system {
            if !root.join("run/dbus/system_bus_socket").exists() {
                return Err(NoManager::NoBus);
            }
        } else {
            let runtime = crate::config::absolute_folder(variable, "XDG_RUNTIME_DIR")
                .unwrap_or_else(|| {
                    let usual = root.join(format!("run/user/{euid}"));
                    missing.push(("XDG_RUNTIME_DIR", usual.clone().into()));
                    usual
                });
            if !runtime.join("systemd").is_dir() {
                return Err(NoManager::NoUserManager);
            }
            if variable("DBUS_SESSION_BUS_ADDRESS").is_none_or(|address| address.is_empty()) {
                let bus = runtime.join("bus");
                if !bus.exists() {
                    return Err(NoManager::NoBus);
                }
                let mut address = OsString::from("unix:path=");
                address.push(bus);
                missing.push(("DBUS_SESSION_BUS_ADDRESS", address));
            }
        }
        let usual = [
            root.join("usr/bin/busctl"),
            root.join("run/current-system/sw/bin/busctl"),
        ];
        let busctl = find_program(OsStr::new("busctl"), variable("PATH").as_deref())
            .filter(|path| path.is_absolute())
            .or_else(|| {
                usual
                    .into_iter()
                    .find(|path| crate::os::files::is_executable_file(path))
            })
            .ok_or(NoManager::NoBusctl)?;
        Ok(Manager {
            busctl,
            is_system,
            missing,
        })
    }

    /// The file of busctl.
    pub fn program(&self) -> &OsStr {
        self.busctl.as_os_str()
    }

    /// The environment for it.
    pub fn environment(&self, mut inherited: Vec<OsString>) -> Vec<OsString> {
        for (name, value) in &self.missing {
            let mut entry = OsString::from(name);
            entry.push("=");
            entry.push(value);
            inherited.push(entry);
        }
        inherited
    }

    /// Its arguments, the name first.
    pub fn words(&self, request: &Request<'_>) -> Vec<OsString> {
        let method = match request {
            Request::StartScope { .. } => "StartTransientUnit",
            Request::Cap { .. } => "SetUnitProperties",
        };
        let manager = "org.freedesktop.systemd1";
        let mut all = words(&[
            "busctl",
            if self.is_system { "--system" } else { "--user" },
            TIMEOUT_S,
            "--quiet",
            "call",
            manager,
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
            method,
        ]);
        match request {
            Request::StartScope {
                scope,
                slice,
                pids,
                caps,
                attempt,
            } => {
                all.extend(words(&["ssa(sv)a(sa(sv))", scope, "fail"]));
                let mut properties = Properties::default();
                properties.text("Description", "Claude Code session (claude-safe)");
                properties.text("Slice", slice);
                properties.list("PIDs", pids);
                properties.text("CollectMode", "inactive-or-failed");
                if *attempt != Attempt::Bare {
                    properties.text("OOMPolicy", "continue");
                }
                all.extend(properties.words());
                if *attempt == Attempt::Whole {
                    let mut of_slice = Properties::default();
                    of_slice.text(
                        "Description",
                        "Claude Code session with all it started (claude-safe)",
                    );
                    of_slice.add("StopWhenUnneeded", "b", ["true"]);
                    of_slice.bytes("MemoryMax", caps.memory_bytes);
                    of_slice.bytes("MemorySwapMax", caps.swap_bytes);
                    all.extend(words(&["1", slice]));
                    all.extend(of_slice.words());
                } else {
                    all.push("0".into());
                }
            }
            Request::Cap {
                slice,
                memory_bytes,
                swap_bytes,
            } => {
                let mut properties = Properties::default();
                properties.bytes("MemoryMax", *memory_bytes);
                properties.bytes("MemorySwapMax", *swap_bytes);
                all.extend(words(&["sba(sv)", slice, "true"]));
                all.extend(properties.words());
            }
        }
        all
    }
}

/// An array of properties, as busctl takes it: their number, then name, type, value of each.
#[derive(Default)]
struct Properties {
    count: usize,
    words: Vec<OsString>,
}

impl Properties {
    fn add<'a>(&mut self, name: &str, kind: &str, value: impl IntoIterator<Item = &'a str>) {
        self.count += 1;
        self.words.extend(words(&[name, kind]));
        self.words.extend(value.into_iter().map(OsString::from));
    }

    fn text(&mut self, name: &str, value: &str) {
        self.add(name, "s", [value]);
    }

    fn bytes(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.add(name, "t", [value.to_string().as_str()]);
        }
    }

    fn list(&mut self, name: &str, pids: &[i32]) {
        let mut texts = vec![pids.len().to_string()];
        texts.extend(pids.iter().map(i32::to_string));
        self.add(name, "au", texts.iter().map(String::as_str));
    }

    fn words(self) -> impl Iterator<Item = OsString> {
        std::iter::once(self.count.to_string().into()).chain(self.words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;

    fn joined(manager: &Manager, request: &Request<'_>) -> String {
        let words: Vec<_> = manager
            .words(request)
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect();
        words.join("|")
    }

    fn manager() -> Manager {
        Manager {
            busctl: "/usr/bin/busctl".into(),
            is_system: false,
            missing: vec![("XDG_RUNTIME_DIR", "/run/user/5".into())],
        }
    }

    const CAPS: Caps = Caps {
        memory_bytes: Some(4096),
        swap_bytes: None,
        fleet_bytes: Some(8192),
    };

    fn start(attempt: Attempt) -> String {
        let request = Request::StartScope {
            scope: "a_1.scope",
            slice: "a.slice",
            pids: &[7, 8],
            caps: CAPS,
            attempt,
        };
        joined(&manager(), &request)
    }

    #[test]
    fn a_scope_is_asked_for_in_one_call_with_its_slice() {
        assert_eq!(
            start(Attempt::Whole),
            "busctl|--user|--timeout=5|--quiet|call|org.freedesktop.systemd1|/org/freedesktop/systemd1|\
             org.freedesktop.systemd1.Manager|StartTransientUnit|ssa(sv)a(sa(sv))|a_1.scope|fail|5|\
             Description|s|Claude Code session (claude-safe)|Slice|s|a.slice|PIDs|au|2|7|8|\
             CollectMode|s|inactive-or-failed|OOMPolicy|s|continue|1|a.slice|3|\
             Description|s|Claude Code session with all it started (claude-safe)|StopWhenUnneeded|b|true|MemoryMax|t|4096"
        );
    }

    #[test]
    fn a_wall_is_never_asked_for_without_the_policy_to_go_on() {
        assert!(start(Attempt::WithoutSlice).ends_with("|OOMPolicy|s|continue|0"));
        let bare = start(Attempt::Bare);
        assert!(
            !bare.contains("OOMPolicy") && !bare.contains("MemoryMax"),
            "{bare}"
        );
        let mut attempts = vec![Attempt::Whole];
        while let Some(next) = attempts.last().unwrap().next() {
            assert!(!attempts.contains(&next), "a circle");
            attempts.push(next);
        }
        assert_eq!(attempts.len(), 3);
    }

    const CAP: Request<'_> = Request::Cap {
        slice: FLEET_SLICE,
        memory_bytes: Some(8192),
        swap_bytes: None,
    };

    #[test]
    fn a_limit_of_a_slice_is_a_property_of_the_unit() {
        let cap = joined(&manager(), &CAP);
        assert!(
            cap.ends_with("SetUnitProperties|sba(sv)|claude-safe.slice|true|1|MemoryMax|t|8192"),
            "{cap}"
        );
    }

    #[test]
    fn a_manager_is_found_step_by_step() {
        let scratch = Scratch::new();
        let root = scratch.path();
        let none = |_: &str| None;
        let mut expected = vec![
            NoManager::NoSystemd,
            NoManager::NoUserManager,
            NoManager::NoBus,
            NoManager::NoBusctl,
        ];
        for step in [
            "run/systemd/system/x",
            "run/user/5/systemd/x",
            "run/user/5/bus",
        ] {
            assert_eq!(
                Manager::find(root, &none, 5).unwrap_err(),
                expected.remove(0)
            );
            scratch.write(step, "");
        }
        assert_eq!(
            Manager::find(root, &none, 5).unwrap_err(),
            expected.remove(0)
        );
        scratch.write_program("usr/bin/busctl", "");
        let found = Manager::find(root, &none, 5).unwrap();
        let runtime = root.join("run/user/5");
        let environment: Vec<String> = found
            .environment(vec!["A=1".into()])
            .into_iter()
            .map(|entry| entry.into_string().unwrap())
            .collect();
        assert_eq!(
            environment,
            [
                "A=1".to_owned(),
                format!("XDG_RUNTIME_DIR={}", runtime.display()),
                format!(
                    "DBUS_SESSION_BUS_ADDRESS=unix:path={}/bus",
                    runtime.display()
                ),
            ]
        );
        // A login session has both.
        let set = |name: &str| match name {
            "XDG_RUNTIME_DIR" => Some(runtime.clone().into_os_string()),
            "DBUS_SESSION_BUS_ADDRESS" => Some("unix:path=/elsewhere".into()),
            _ => None,
        };
        assert_eq!(
            Manager::find(root, &set, 5).unwrap().environment(vec![]),
            Vec::<OsString>::new()
        );
        // Root asks the system's manager.
        assert_eq!(Manager::find(root, &none, 0).unwrap_err(), NoManager::NoBus);
        scratch.write("run/dbus/system_bus_socket", "");
        let system = Manager::find(root, &none, 0).unwrap();
        assert!(joined(&system, &CAP).starts_with("busctl|--system|"));
    }
}
