//! What the kernel does for a session on this machine: a cgroup of its own (tier 0), memory given back from outside
//! (tier 1). Tries it out with a process that does nothing, and leaves nothing behind.

use super::doctor::Tier;
use crate::config::Config;
use crate::config::memory::swap_total_kib;
use crate::contain::{Caps, State, group, trial};
use crate::os::process::{Sentinel, own_pid};
use crate::os::signals::Inherited;
use crate::remedy;
use crate::watch::proc_fs::Proc;
use std::fs::OpenOptions;
use std::path::Path;

/// Why a cgroup is not enough.
const UNCOUNTED: &str =
    "the cgroup has no memory controller, systemd keeps it for cgroup v1 on this machine";

/// What a session would get.
#[derive(Debug)]
pub(super) struct KernelTiers {
    pub(super) state: State,
    /// Its folder has the memory controller. systemd on cgroup v1 makes groups in v2 as well, without it.
    pub(super) counts_memory: bool,
    /// `memory.max` of the session's folder, bytes.
    pub(super) cap_bytes: Option<u64>,
    /// `memory.reclaim` is there, and ours to write.
    pub(super) can_reclaim: bool,
    /// All swap of this machine, KiB.
    pub(super) swap_kib: u64,
    /// What to do about the state.
    pub(super) remedy: Option<&'static str>,
}

impl KernelTiers {
    /// As a session with this configuration would get it. Takes some hundredths of a second.
    pub(super) fn tried(config: &Config) -> KernelTiers {
        let proc_root = Path::new("/proc");
        let mut tiers = KernelTiers {
            state: State::NotTried,
            counts_memory: true,
            cap_bytes: None,
            can_reclaim: false,
            swap_kib: swap_total_kib(proc_root),
            remedy: None,
        };
        if config.disable || !config.contain {
            return tiers;
        }
        let mut processes = Proc::new(proc_root);
        let mut id_of = |pid| processes.stat(pid, None).ok().map(|stat| stat.id);
        let Ok(idle) = Sentinel::start() else {
            return tiers;
        };
        let (Some(us), Some(process)) = (id_of(own_pid()), id_of(idle.pid())) else {
            return tiers;
        };
        let caps = Caps::new(config.watchdog_threshold_mib, 0, tiers.swap_kib);
        let (state, folder) = trial(us, process, caps, &Inherited::default());
        if let Some(folder) = &folder {
            tiers.counts_memory = folder.join("memory.current").exists();
            tiers.cap_bytes = group::limit_bytes(&folder.join("memory.max"));
            let reclaim = OpenOptions::new()
                .write(true)
                .open(folder.join("memory.reclaim"));
            tiers.can_reclaim = reclaim.is_ok();
        }
        tiers.remedy = remedy_for(&state, tiers.counts_memory);
        tiers.state = state;
        drop(idle);
        if let Some(folder) = folder {
            crate::contain::own_group::remove_if_ours(&folder, us.pid, us.start_ticks);
        }
        tiers
    }

    /// Adds what is in force, and what is not, to the two tiers.
    pub(super) fn tell(&self, config: &Config, contain: &mut Tier, reclaim: &mut Tier) {
        if config.disable || !config.contain {
            let by = if config.disable {
                "CLAUDE_SAFE_DISABLE"
            } else {
                "CLAUDE_SAFE_CONTAIN"
            };
            contain.not_in_force.push(format!("switched off by {by}"));
            reclaim
                .not_in_force
                .push(format!("cgroup: tier 0 is switched off by {by}"));
            return;
        }
        let is_inside = matches!(self.state, State::InScope | State::InOwnGroup);
        let place = match self.state {
            State::InOwnGroup => "own cgroup: one that claude-safe makes itself".to_owned(),
            _ => format!("own cgroup: {}", self.state.in_words()),
        };
        if is_inside {
            contain.in_force.push(place);
            match self.cap_bytes {
                Some(bytes) => contain.in_force.push(format!(
                    "last wall: the session has {} MiB at most",
                    bytes >> 20
                )),
                None if !self.counts_memory => contain
                    .not_in_force
                    .push(self.with_remedy(format!("last wall: {UNCOUNTED}"))),
                None => contain.not_in_force.push(
                    "last wall: this service manager takes no memory.max that is safe".to_owned(),
                ),
            }
        } else {
            contain.not_in_force.push(self.with_remedy(place));
        }
        contain
            .in_force
            .push("kill order: the kernel takes a tool first, then the session".to_owned());
        let no = |why: &str| format!("cgroup: {why}");
        if !config.reclaims_by("cgroup") {
            reclaim
                .not_in_force
                .push(no("switched off by CLAUDE_SAFE_RECLAIM"));
        } else if !is_inside {
            reclaim
                .not_in_force
                .push(no("the session has no cgroup of its own (tier 0)"));
        } else if !self.counts_memory {
            reclaim.not_in_force.push(no(UNCOUNTED));
        } else if !self.can_reclaim {
            reclaim.not_in_force.push(no(
                "this kernel has no memory.reclaim (Linux 5.19), or it is not ours to write",
            ));
        } else if self.swap_kib == 0 {
            let remedy = remedy::no_swap(Path::new("/"));
            reclaim
                .not_in_force
                .push(no(&format!("there is no swap to give memory to; {remedy}")));
        } else {
            reclaim.in_force.push(format!(
                "cgroup: above {} MiB, and while a session is idle, cold pages go to swap ({} MiB)",
                config.guard_threshold_mib,
                self.swap_kib >> 10
            ));
        }
    }

    fn with_remedy(&self, line: String) -> String {
        match self.remedy {
            Some(remedy) => format!("{line}; {remedy}"),
            None => line,
        }
    }
}

/// What can be done about a machine whose groups can't hold a session; what a manager lacks is told with the state.
fn remedy_for(state: &State, counts_memory: bool) -> Option<&'static str> {
    let has_groups = group::Groups::of_this_machine(Path::new("/proc")).is_some();
    let is_nowhere = matches!(state, State::Nowhere(_));
    (is_nowhere && !has_groups || !counts_memory).then(|| remedy::no_cgroup(Path::new("/")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Reclaim;
    use crate::config::{Sources, load};
    use crate::os::files::Trust;

    fn config() -> Config {
        let sources = Sources {
            environment: &|_| None,
            user_file: None,
            system_file: None,
            memory: None,
            trust: Trust::of_this_process(),
        };
        load(&sources).config
    }

    fn told(tiers: &KernelTiers, config: &Config) -> [Vec<String>; 4] {
        let (mut contain, mut reclaim) = (Tier::new("0"), Tier::new("1"));
        tiers.tell(config, &mut contain, &mut reclaim);
        [
            contain.in_force,
            contain.not_in_force,
            reclaim.in_force,
            reclaim.not_in_force,
        ]
    }

    fn all_there() -> KernelTiers {
        KernelTiers {
            state: State::InScope,
            counts_memory: true,
            cap_bytes: Some(90 << 30),
            can_reclaim: true,
            swap_kib: 1 << 20,
            remedy: None,
        }
    }

    const ORDER: &str = "kill order: the kernel takes a tool first, then the session";

    #[test]
    fn each_rung_has_its_line() {
        let config = config();
        let [contained, not, reclaimed, not_reclaimed] = told(&all_there(), &config);
        assert_eq!(
            contained,
            [
                "own cgroup: scope in a slice of its own",
                "last wall: the session has 92160 MiB at most",
                ORDER
            ]
        );
        assert!(
            reclaimed[0].starts_with("cgroup: above ") && reclaimed[0].contains("(1024 MiB)"),
            "{reclaimed:?}"
        );
        assert_eq!((not.len(), not_reclaimed.len()), (0, 0));

        let nowhere = KernelTiers {
            state: State::Nowhere("no luck"),
            remedy: Some("do this"),
            ..all_there()
        };
        let [contained, not, reclaimed, not_reclaimed] = told(&nowhere, &config);
        assert_eq!(contained, [ORDER]);
        assert_eq!(not, ["own cgroup: no luck; do this"]);
        assert_eq!(reclaimed, Vec::<String>::new());
        assert!(not_reclaimed[0].contains("no cgroup of its own"));
    }

    #[test]
    fn what_is_missing_for_reclaim_is_named() {
        let with = |change: &dyn Fn(&mut KernelTiers, &mut Config)| {
            let (mut tiers, mut config) = (all_there(), config());
            change(&mut tiers, &mut config);
            let [_, not, reclaimed, not_reclaimed] = told(&tiers, &config);
            assert_eq!(reclaimed, Vec::<String>::new());
            [not, not_reclaimed].concat().join("|")
        };
        let uncounted = with(&|tiers, _| {
            tiers.counts_memory = false;
            tiers.cap_bytes = None;
        });
        assert_eq!(
            uncounted,
            format!("last wall: {UNCOUNTED}|cgroup: {UNCOUNTED}")
        );
        assert!(with(&|tiers, _| tiers.swap_kib = 0).contains("no swap to give memory to; "));
        assert!(with(&|tiers, _| tiers.can_reclaim = false).contains("memory.reclaim"));
        assert!(with(&|_, config| config.reclaim = Reclaim::Off).contains("CLAUDE_SAFE_RECLAIM"));
        assert!(
            with(&|_, config| config.contain = false)
                .contains("switched off by CLAUDE_SAFE_CONTAIN|cgroup: ")
        );
        assert!(with(&|_, config| config.disable = true).contains("CLAUDE_SAFE_DISABLE"));
        let uncapped = KernelTiers {
            cap_bytes: None,
            ..all_there()
        };
        assert!(told(&uncapped, &config())[1][0].starts_with("last wall: "));
    }

    #[test]
    fn a_trial_leaves_no_group_behind() {
        let tiers = KernelTiers::tried(&config());
        assert_ne!(tiers.state, State::NotTried);
        assert_ne!(tiers.state, State::Asked);
        let groups = group::Groups::of_this_machine(Path::new("/proc"));
        if groups.is_none() {
            assert!(
                matches!(tiers.state, State::Nowhere(why) if why.contains("cgroup v2")),
                "{:?}",
                tiers.state
            );
            assert!(tiers.remedy.is_some());
        }
    }
}
