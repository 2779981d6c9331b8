//! `claude-safectl doctor`: what is in force on this machine, for this client, and why the rest is not.
//!
//! Claims nothing that it did not check here, and no mechanism that is not built yet. Probes; leaves
//! nothing behind.

use std::path::{Path, PathBuf};

use crate::json::{self, json};
use serde_json::Value;

use super::kernel_tiers::KernelTiers;
use super::page::range_of;
use super::shim::typed_on;
use super::style::{Style, Tone, columns};
use super::{Answer, Request, exit, past};
use crate::client::capabilities::Capabilities;
use crate::client::find::{Client, NotFound, Search, find};
use crate::client::guard_lib::{self, GuardFile};
use crate::client::kind::{Family, GuardLoad, Program};
use crate::config::memory::{Memory, unified_cgroup_folder};
use crate::config::{Config, GuardSizes, Loaded, Setting, Sources, load};
use crate::contain::State;
use crate::os::private::check_folder;
use crate::os::process::{PidFd, own_pid};
use crate::os::psi::NoTrigger;
use crate::watch::pressure::memory_trigger;

pub(super) fn run(request: &Request) -> Answer {
    let report = Report::of_this_machine();
    let text = if request.json {
        json::text(&report.in_json())
    } else {
        report.in_words(request.style)
    };
    Answer {
        text,
        code: report.verdict(),
    }
}

/// The tiers as they are here, for a report.
pub(super) fn tiers() -> (Loaded, Option<Client>, String) {
    let mut report = Report::of_this_machine();
    let text = report.tiers_in_words(Style::default());
    let loaded = Loaded {
        config: report.config,
        settings: std::mem::take(&mut report.settings),
        complaints: report.complaints,
    };
    (loaded, report.client.ok(), text)
}

/// What this kernel offers.
struct Kernel {
    pidfd: bool,
    pressure: Result<(), NoTrigger>,
    /// `/proc/PID/task/TID/children`
    children_files: bool,
    /// Swap areas in use, by their names in `/proc/swaps`.
    swaps: Vec<String>,
    /// Our folder in cgroup v2.
    cgroup: Option<PathBuf>,
}

impl Kernel {
    fn probe(proc_root: &Path) -> Kernel {
        let children = format!("self/task/{}/children", std::process::id());
        let swaps = std::fs::read_to_string(proc_root.join("swaps")).unwrap_or_default();
        Kernel {
            pidfd: PidFd::open(own_pid()).is_some(),
            pressure: memory_trigger(proc_root).map(drop),
            children_files: std::fs::read(proc_root.join(children)).is_ok(),
            swaps: swaps
                .lines()
                .skip(1)
                .filter_map(|line| line.split_ascii_whitespace().next())
                .map(str::to_owned)
                .collect(),
            cgroup: unified_cgroup_folder(proc_root).filter(|folder| folder.is_dir()),
        }
    }

    fn swap_in_words(&self) -> String {
        match self.swaps.as_slice() {
            [] => "none".to_owned(),
            names => names.join(", "),
        }
    }

    fn pressure_in_words(&self) -> &'static str {
        match self.pressure {
            Ok(()) => "trigger permitted",
            Err(NoTrigger::NotPermitted) => "no right to set a trigger: polling",
            Err(NoTrigger::NoPressureInformation) => "not in this kernel: polling",
        }
    }
}

/// One tier, as it is here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tier {
    name: &'static str,
    pub(super) in_force: Vec<String>,
    pub(super) not_in_force: Vec<String>,
}

impl Tier {
    pub(super) fn new(name: &'static str) -> Tier {
        Tier {
            name,
            in_force: Vec::new(),
            not_in_force: Vec::new(),
        }
    }
}

/// See [`Report::pool`].
#[derive(Debug, PartialEq, Eq)]
enum Pool {
    InForce(String),
    NotInForce(Vec<String>),
}

impl Pool {
    fn no(why: String) -> Pool {
        Pool::NotInForce(vec![why])
    }
}

fn pool_in_words(threshold_mib: u64, sizes: &GuardSizes) -> String {
    let from = match threshold_mib {
        0 => "at once".to_owned(),
        mib => format!("above {mib} MiB"),
    };
    let what = match sizes {
        GuardSizes::Auto => "the requests that are found to only grow in number".to_owned(),
        GuardSizes::List(sizes) => {
            let ranges: Vec<String> = sizes
                .iter()
                .map(|size| {
                    let (low, high) = range_of(u64::from(size.bytes));
                    format!("{low}..{high}")
                })
                .collect();
            format!("requests of {} bytes", ranges.join(", "))
        }
    };
    format!("pool: {from}, {what} get dense slabs of their own")
}

struct Report {
    config: Config,
    settings: Vec<Setting>,
    complaints: Vec<String>,
    memory: Option<Memory>,
    client: Result<Client, NotFound>,
    knows: Option<Capabilities>,
    guard: GuardFile,
    kernel: Kernel,
    kernel_tiers: KernelTiers,
    /// The folder of the history.
    history: Option<PathBuf>,
    /// What typing `claude` starts, and whether that is claude-safe.
    typed: Option<(PathBuf, bool)>,
}

impl Report {
    fn of_this_machine() -> Report {
        let sources = Sources::of_this_process();
        let Loaded {
            config,
            settings,
            complaints,
        } = load(&sources);
        let client = find(&Search::of_this_process(config.client_bin.clone()));
        let text = client
            .as_ref()
            .ok()
            .and_then(|client| client.kind.text.as_deref());
        let own_folder = guard_lib::own_folder();
        let guard = guard_lib::locate(
            &config.guard_lib,
            own_folder.as_deref(),
            Path::new("/"),
            &sources.trust,
        );
        Report {
            // Without the cache: a doctor looks for himself, and writes nothing.
            knows: text.map(|text| Capabilities::of(text, None)),
            kernel_tiers: KernelTiers::tried(&config),
            config,
            settings,
            complaints,
            memory: sources.memory,
            client,
            guard,
            kernel: Kernel::probe(Path::new("/proc")),
            history: past::folder(),
            typed: typed_on(std::env::var_os("PATH").as_deref()),
        }
    }

    /// A note, not a fault: whoever types `claude-safe` needs nothing else.
    fn typed_in_words(&self) -> String {
        let remedy = "`claude-safectl shim install` makes it claude-safe";
        match &self.typed {
            Some((path, true)) => format!("{}, which is claude-safe", path.display()),
            Some((path, false)) => format!("{}, without claude-safe; {remedy}", path.display()),
            None => format!("nothing; {remedy}"),
        }
    }

    /// What the guard does here, in words.
    fn guard_effect(&self) -> String {
        match (&self.guard, &self.client) {
            (GuardFile::NotUsed { reason, .. }, _) => reason.clone(),
            (_, Err(_)) => "no client to load it into".to_owned(),
            (_, Ok(client)) => client.kind.guard_in_words(),
        }
    }

    /// What a guard could do in this client, whether there is one or not.
    fn guard_reach(&self) -> String {
        match &self.client {
            Ok(client) => client.kind.guard_in_words(),
            Err(_) => "no client to load it into".to_owned(),
        }
    }

    /// What the guard's pool does for this client.
    fn pool(&self) -> Pool {
        let config = &self.config;
        if config.disable {
            return Pool::no("guard: switched off by CLAUDE_SAFE_DISABLE".to_owned());
        }
        let Some(threshold_mib) = config.pool_threshold_mib() else {
            return Pool::no("pool: switched off by CLAUDE_SAFE_RECLAIM".to_owned());
        };
        let kind = match (&self.guard, &self.client) {
            (GuardFile::Usable { .. }, Ok(client)) if client.kind.guard == GuardLoad::CanLoad => {
                &client.kind
            }
            _ => return Pool::no(format!("guard: {}", self.guard_effect())),
        };
        if kind.program != Program::GlibcElf {
            // It loads, and does no harm; nothing more was ever shown to work there.
            let why = "pool: not claimed for a client whose C library is not glibc";
            return Pool::no(why.to_owned());
        }
        match kind.reach {
            Some(reach) if reach.malloc == Family::Imported => {
                Pool::InForce(pool_in_words(threshold_mib, &config.guard_sizes))
            }
            reach => {
                let mut lines = vec![format!("pool: {}", self.guard_effect())];
                // Eyes only: it gives nothing back, so it is no mechanism of this tier.
                lines.push(match reach.map(|reach| reach.mmap) {
                    Some(Family::Imported) => {
                        "page plane: eyes only, it shows in which regions this client's memory grows"
                            .to_owned()
                    }
                    Some(_) => "page plane: sees nothing, this client's mmap is unreachable too".to_owned(),
                    None => "page plane: what it sees of this client is unknown".to_owned(),
                });
                Pool::NotInForce(lines)
            }
        }
    }

    fn tiers(&self) -> [Tier; 3] {
        let config = &self.config;
        let mut tier_0 = Tier::new("0 contain");
        let mut tier_1 = Tier::new("1 reclaim");
        self.kernel_tiers.tell(config, &mut tier_0, &mut tier_1);
        match self.pool() {
            Pool::InForce(line) => tier_1.in_force.push(line),
            Pool::NotInForce(lines) => tier_1.not_in_force.extend(lines),
        }
        let mut tier_2 = Tier::new("2 restart");
        match (&self.client, config.disable) {
            (_, true) => tier_2
                .not_in_force
                .push("switched off by CLAUDE_SAFE_DISABLE".to_owned()),
            (Err(_), _) => tier_2.not_in_force.push("there is no client".to_owned()),
            (Ok(_), false) => {
                let mib = config.watchdog_threshold_mib;
                let every = config.watchdog_interval_s;
                tier_2.in_force.push(format!(
                    "watch the session's processes, at least every {every} s; restart at {mib} MiB"
                ));
                match self.knows {
                    Some(knows) if knows.session_id => {
                        tier_2
                            .in_force
                            .push("resume the same conversation".to_owned());
                        if !knows.follows_session {
                            tier_2.not_in_force.push(
                                "following /clear through sessions/PID.json: this client does not \
                                 keep that file up to date"
                                    .to_owned(),
                            );
                        }
                    }
                    Some(_) => tier_2.not_in_force.push(
                        "choosing the conversation's id: this client has no --session-id"
                            .to_owned(),
                    ),
                    None => tier_2.not_in_force.push(
                        "choosing the conversation's id: what this client knows can't be read"
                            .to_owned(),
                    ),
                }
            }
        }
        [tier_0, tier_1, tier_2]
    }

    fn memory_in_words(&self) -> String {
        match &self.memory {
            None => "unknown".to_owned(),
            Some(memory) => {
                let mib = memory.bytes >> 20;
                match &memory.limited_by {
                    None => format!("{mib} MiB, of the machine"),
                    Some(file) => format!("{mib} MiB, limited by {}", file.display()),
                }
            }
        }
    }

    fn guard_file_in_words(&self) -> String {
        match &self.guard {
            GuardFile::Usable { path, .. } => path.display().to_string(),
            GuardFile::NotUsed { reason, .. } => format!("none: {reason}"),
        }
    }

    fn in_words(&self, style: Style) -> String {
        let mut text = String::new();
        let mut section = |name: &str, rows: &[[String; 2]]| {
            text.push_str(&style.paint(Tone::Heading, name));
            text.push('\n');
            text.push_str(&columns(rows, 2));
        };
        let row = |name: &str, value: String| [name.to_owned(), value];
        match &self.client {
            Ok(client) => {
                let mut rows = vec![
                    row("file", client.path.display().to_string()),
                    row("found", client.how.to_string()),
                    row("kind", client.kind.program.to_string()),
                ];
                if client.kind.is_launcher() {
                    let last = client.kind.final_program.as_ref();
                    let last =
                        last.map_or("can't be known".to_owned(), |p| p.display().to_string());
                    rows.push(row("ends in", last));
                }
                if let Some(reach) = client.kind.reach {
                    rows.push(row("malloc", reach.malloc.as_str().to_owned()));
                    rows.push(row("mmap", reach.mmap.as_str().to_owned()));
                    rows.push(row("sigaction", reach.sigaction.as_str().to_owned()));
                }
                section("client", &rows);
            }
            Err(_) => section(
                "client",
                &[row("file", style.paint(Tone::Bad, "none found"))],
            ),
        }
        section(
            "drop-in",
            &[row("typing claude starts", self.typed_in_words())],
        );
        section(
            "guard",
            &[
                row("library", self.guard_file_in_words()),
                row("reach", self.guard_reach()),
            ],
        );
        section(
            "memory",
            &[
                row("size", self.memory_in_words()),
                row(
                    "tier 1 from",
                    format!("{} MiB", self.config.guard_threshold_mib),
                ),
                row(
                    "tier 2 from",
                    format!("{} MiB", self.config.watchdog_threshold_mib),
                ),
            ],
        );
        let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let cgroup = self.kernel.cgroup.as_ref();
        section(
            "kernel",
            &[
                row("pidfd", yes_no(self.kernel.pidfd)),
                row("pressure", self.kernel.pressure_in_words().to_owned()),
                row("children files", yes_no(self.kernel.children_files)),
                row("swap", self.kernel.swap_in_words()),
                row(
                    "cgroup v2",
                    cgroup.map_or("no".to_owned(), |at| at.display().to_string()),
                ),
            ],
        );
        section("history", &[row("kept in", self.history_in_words())]);
        text.push_str(&self.tiers_in_words(style));
        for line in self.all_complaints() {
            text.push_str(&format!("{line}\n"));
        }
        style.fold(&text)
    }

    /// Where samples and incidents are kept; a folder that is refused is named here, and costs the history only.
    fn history_in_words(&self) -> String {
        let Some(folder) = &self.history else {
            return "nowhere: no folder for it (neither XDG_STATE_HOME nor HOME)".to_owned();
        };
        match check_folder(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                format!("not kept: {} {error}", folder.display())
            }
            _ => folder.display().to_string(),
        }
    }

    /// 0: every tier has something in force, the session a cgroup of its own, and no setting is refused. 1: not so; why,
    /// and what can be done, is in the answer. 2: nothing protects, for there is no client or all is switched off.
    fn verdict(&self) -> u8 {
        let tiers = self.tiers();
        if tiers[2].in_force.is_empty() {
            return exit::UNPROTECTED;
        }
        let is_whole = tiers.iter().all(|tier| !tier.in_force.is_empty());
        let has_group = matches!(self.kernel_tiers.state, State::InScope | State::InOwnGroup);
        match is_whole && has_group && self.all_complaints().next().is_none() {
            true => exit::DONE,
            false => exit::TROUBLE,
        }
    }

    fn tiers_in_words(&self, style: Style) -> String {
        let mut text = String::new();
        for tier in self.tiers() {
            text.push_str(&style.paint(Tone::Heading, &format!("tier {}", tier.name)));
            text.push('\n');
            for line in &tier.in_force {
                text.push_str(&format!(
                    "  {} {line}\n",
                    style.paint(Tone::Good, "in force:")
                ));
            }
            for line in &tier.not_in_force {
                text.push_str(&format!(
                    "  {} {line}\n",
                    style.paint(Tone::Bad, "not in force:")
                ));
            }
        }
        text
    }

    fn all_complaints(&self) -> impl Iterator<Item = &String> {
        let of_client = match &self.client {
            Ok(client) => &client.complaints,
            Err(none) => &none.explanation,
        };
        self.complaints.iter().chain(of_client)
    }

    fn in_json(&self) -> Value {
        let client = match &self.client {
            Err(_) => Value::Null,
            Ok(client) => json!({
                "path": client.path.to_string_lossy(),
                "found": client.how.to_string(),
                "kind": client.kind.program.to_string(),
                "final_program": client.kind.final_program.as_ref().map(|p| p.to_string_lossy()),
                "malloc": client.kind.reach.map(|reach| reach.malloc.as_str()),
                "mmap": client.kind.reach.map(|reach| reach.mmap.as_str()),
                "sigaction": client.kind.reach.map(|reach| reach.sigaction.as_str()),
                "knows_session_id": self.knows.map(|knows| knows.session_id),
                "knows_plugin_dir": self.knows.map(|knows| knows.plugin_dir),
                "follows_session": self.knows.map(|knows| knows.follows_session),
            }),
        };
        let tiers: Vec<Value> = self
            .tiers()
            .into_iter()
            .map(|tier| {
                json!({
                    "tier": tier.name,
                    "in_force": tier.in_force,
                    "not_in_force": tier.not_in_force,
                })
            })
            .collect();
        let library = match &self.guard {
            GuardFile::Usable { path, .. } => Some(path.to_string_lossy()),
            GuardFile::NotUsed { .. } => None,
        };
        let limited_by = self
            .memory
            .as_ref()
            .and_then(|memory| memory.limited_by.as_ref());
        json!({
            "client": client,
            "drop_in": {
                "claude": self.typed.as_ref().map(|(path, _)| path.to_string_lossy()),
                "is_claude_safe": self.typed.as_ref().is_some_and(|(_, is_it)| *is_it),
            },
            "guard": { "library": library, "effect": self.guard_effect(), "reach": self.guard_reach() },
            "history": self.history_in_words(),
            "memory": {
                "bytes": self.memory.as_ref().map(|memory| memory.bytes),
                "limited_by": limited_by.map(|file| file.to_string_lossy()),
                "tier_1_mib": self.config.guard_threshold_mib,
                "tier_2_mib": self.config.watchdog_threshold_mib,
            },
            "kernel": {
                "pidfd": self.kernel.pidfd,
                "pressure_trigger": self.kernel.pressure.is_ok(),
                "children_files": self.kernel.children_files,
                "swaps": self.kernel.swaps.as_slice(),
                "cgroup_v2": self.kernel.cgroup.as_ref().map(|at| at.to_string_lossy()),
            },
            "tiers": tiers,
            "complaints": self.all_complaints().collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::find::How;
    use crate::client::kind::Reach;
    use crate::client::kind::examine;
    use crate::config::GuardSize;
    use crate::config::Reclaim;
    use crate::os::files::Trust;
    use serde_json::json;
    use std::ffi::OsString;

    fn report(with_client: bool, environment: &[(&str, &str)], knows: Capabilities) -> Report {
        let lookup = |name: &str| {
            environment
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        };
        let sources = Sources {
            environment: &lookup,
            user_file: None,
            system_file: None,
            memory: Some(Memory {
                bytes: 8 << 30,
                limited_by: None,
            }),
            trust: Trust::of_this_process(),
        };
        let Loaded {
            config,
            settings,
            complaints,
        } = load(&sources);
        let path = std::env::current_exe().unwrap();
        let client = if with_client {
            Ok(Client {
                kind: examine(&path, None),
                path,
                how: How::OnPath,
                argv0: OsString::from("claude"),
                complaints: Vec::new(),
            })
        } else {
            Err(NotFound {
                explanation: vec!["claude-safe: no claude found".to_owned()],
            })
        };
        Report {
            config,
            settings,
            history: None,
            complaints,
            memory: sources.memory,
            client,
            knows: with_client.then_some(knows),
            guard: GuardFile::Usable {
                path: "/x/libclaude_guard.so".into(),
                needs_link: false,
            },
            kernel: Kernel::probe(Path::new("/proc")),
            kernel_tiers: KernelTiers {
                counts_memory: true,
                state: State::Nowhere("no luck"),
                cap_bytes: None,
                can_reclaim: false,
                swap_kib: 0,
                remedy: None,
            },
            typed: None,
        }
    }

    const NEW_CLIENT: Capabilities = Capabilities {
        session_id: true,
        plugin_dir: true,
        follows_session: true,
    };

    #[test]
    fn only_what_is_built_and_works_is_claimed() {
        let [tier_0, tier_1, tier_2] = report(true, &[], NEW_CLIENT).tiers();
        let order = "kill order: the kernel takes a tool first, then the session";
        assert_eq!(tier_0.in_force, [order]);
        assert_eq!(tier_0.not_in_force, ["own cgroup: no luck"]);
        // This test's own program is the client: its malloc is glibc's, and imported.
        let pool = "pool: above 2048 MiB, requests of 153..168 bytes get dense slabs of their own";
        assert_eq!(tier_1.in_force, [pool]);
        assert_eq!(
            tier_1.not_in_force,
            ["cgroup: the session has no cgroup of its own (tier 0)"]
        );
        assert!(tier_2.in_force[0].contains("restart at 4096 MiB"));
        assert_eq!(tier_2.in_force.len(), 2);
        let old = Capabilities {
            follows_session: false,
            ..NEW_CLIENT
        };
        let [.., tier_2] = report(true, &[], old).tiers();
        assert!(tier_2.not_in_force[0].contains("/clear"));
        let [.., tier_2] = report(true, &[], Capabilities::default()).tiers();
        assert!(tier_2.not_in_force[0].contains("no --session-id"));
    }

    #[test]
    fn the_pool_is_claimed_only_where_it_reaches_the_clients_malloc() {
        let with = |change: &dyn Fn(&mut Report)| {
            let mut report = report(true, &[], NEW_CLIENT);
            change(&mut report);
            report.pool()
        };
        let kind = |report: &mut Report, change: &dyn Fn(&mut crate::client::kind::Kind)| {
            if let Ok(client) = &mut report.client {
                change(&mut client.kind);
            }
        };
        let reach = |malloc, mmap| {
            with(&|report| {
                kind(report, &|kind| {
                    kind.reach = Some(Reach {
                        malloc,
                        mmap,
                        sigaction: Family::Imported,
                    });
                });
            })
        };
        assert!(matches!(
            reach(Family::Imported, Family::Absent),
            Pool::InForce(_)
        ));
        let asked = Reclaim::Only(vec!["cgroup", "pool"]);
        let pool = with(&|report| report.config.reclaim = asked.clone());
        assert!(matches!(pool, Pool::InForce(_)), "{pool:?}");
        let today = reach(Family::Exported, Family::Imported);
        let Pool::NotInForce(lines) = today else {
            panic!("{today:?}");
        };
        assert_eq!(
            lines,
            [
                "pool: malloc unreachable, this client exports its own allocator",
                "page plane: eyes only, it shows in which regions this client's memory grows",
            ]
        );
        let Pool::NotInForce(lines) = reach(Family::Absent, Family::Absent) else {
            panic!("its own allocator");
        };
        assert!(lines[1].contains("mmap is unreachable too"), "{lines:?}");
        for (says, pool) in [
            ("unknown", with(&|r| kind(r, &|kind| kind.reach = None))),
            (
                "not glibc",
                with(&|r| kind(r, &|kind| kind.program = Program::MuslElf)),
            ),
            (
                "guard: can't be loaded: static",
                with(&|r| {
                    kind(r, &|kind| {
                        kind.guard = GuardLoad::CanNot("static".to_owned())
                    })
                }),
            ),
            ("CLAUDE_SAFE_DISABLE", with(&|r| r.config.disable = true)),
            (
                "CLAUDE_SAFE_RECLAIM",
                with(&|r| r.config.reclaim = Reclaim::Off),
            ),
            (
                "CLAUDE_SAFE_RECLAIM",
                with(&|r| r.config.reclaim = Reclaim::Only(vec!["cgroup", "foreign"])),
            ),
            (
                "guard: no client",
                with(&|r| *r = self::report(false, &[], NEW_CLIENT)),
            ),
            (
                "guard: gone",
                with(&|r| {
                    r.guard = GuardFile::NotUsed {
                        reason: "gone".to_owned(),
                        on_purpose: true,
                    };
                }),
            ),
        ] {
            let Pool::NotInForce(lines) = pool else {
                panic!("{says}: {pool:?}");
            };
            assert!(lines[0].contains(says), "{says}: {lines:?}");
        }
    }

    #[test]
    fn the_pool_is_told_with_its_threshold_and_its_requests() {
        for (mib, sizes, says) in [
            (
                0,
                GuardSizes::Auto,
                "pool: at once, the requests that are found to only grow",
            ),
            (
                7,
                GuardSizes::List(vec![GuardSize::of(24), GuardSize::of(160)]),
                "pool: above 7 MiB, requests of 0..24, 153..168 bytes",
            ),
        ] {
            let said = pool_in_words(mib, &sizes);
            assert!(said.starts_with(says), "{said}");
        }
    }

    #[test]
    fn without_a_client_or_switched_off_tier_2_is_not_claimed() {
        for report in [
            report(false, &[], NEW_CLIENT),
            report(true, &[("CLAUDE_SAFE_DISABLE", "1")], NEW_CLIENT),
        ] {
            let [.., tier_2] = report.tiers();
            assert_eq!(tier_2.in_force, Vec::<String>::new());
            assert_eq!(tier_2.not_in_force.len(), 1);
            assert_eq!(report.verdict(), exit::UNPROTECTED);
        }
    }

    #[test]
    fn the_verdict_is_whole_only_with_something_in_force_in_every_tier() {
        let mut told = report(true, &[], NEW_CLIENT);
        let tiers = &mut told.kernel_tiers;
        (tiers.state, tiers.can_reclaim, tiers.swap_kib) = (State::InScope, true, 1 << 20);
        assert!(
            told.tiers().iter().all(|tier| !tier.in_force.is_empty()),
            "the premise"
        );
        assert_eq!(told.verdict(), exit::DONE);
        told.complaints
            .push("claude-safe: a setting is refused".to_owned());
        assert_eq!(told.verdict(), exit::TROUBLE);
        told.complaints.clear();
        told.kernel_tiers.state = State::Nowhere("no cgroup v2");
        assert_eq!(told.verdict(), exit::TROUBLE);
    }

    #[test]
    fn what_typing_claude_starts_is_told_with_the_remedy() {
        for (typed, says, json) in [
            (
                None,
                "nothing; `claude-safectl shim install`",
                json!([null, false]),
            ),
            (
                Some((PathBuf::from("/x/claude"), false)),
                "/x/claude, without claude-safe; `claude-safectl shim install`",
                json!(["/x/claude", false]),
            ),
            (
                Some((PathBuf::from("/y/claude"), true)),
                "/y/claude, which is claude-safe\n",
                json!(["/y/claude", true]),
            ),
        ] {
            let mut report = report(true, &[], NEW_CLIENT);
            report.typed = typed;
            let words = report.in_words(Style::default());
            assert!(
                words.contains(&format!("typing claude starts  {says}")),
                "{words}"
            );
            let told = &report.in_json()["drop_in"];
            assert_eq!(json!([told["claude"], told["is_claude_safe"]]), json);
        }
    }

    #[test]
    fn words_and_json_agree_on_what_is_in_force() {
        let report = report(true, &[("CLAUDE_SAFE_CONTAIN", "no")], NEW_CLIENT);
        let words = report.in_words(Style::of_stdout());
        let json = report.in_json();
        for tier in json["tiers"].as_array().unwrap() {
            for list in ["in_force", "not_in_force"] {
                for line in tier[list].as_array().unwrap() {
                    assert!(words.contains(line.as_str().unwrap()), "{line}");
                }
            }
        }
        assert_eq!(json["memory"]["tier_2_mib"], 4096);
        assert_eq!(json["complaints"].as_array().unwrap().len(), 1);
        assert!(words.contains("CLAUDE_SAFE_CONTAIN=\"no\""));
    }
}
