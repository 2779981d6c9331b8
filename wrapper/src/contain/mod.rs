//! Tier 0: the session in a control group of its own, and who is killed first when memory runs out.
//!
//! | file | owns |
//! |---|---|
//! | [`group`] | where a process is in cgroup v2, and the files of a group |
//! | [`manager`] | what systemd is asked, through busctl(1) |
//! | [`own_group`] | a group made by ourselves, where there is no systemd |
//! | [`kill_order`] | `oom_score_adj` |
//! | [`apart`] | the client's daemon, which serves other sessions too |
//!
//! The client is started as it is without all this, and moved while it runs: nothing here can keep it from
//! starting, and its start takes no longer. What it has allocated by then (the first few hundredths of a second)
//! stays charged to the group that it was started in.
//!
//! The ladder: a scope in a slice of the session (systemd), a group of our own (delegated cgroup v2), none. A rung counts
//! once `/proc/PID/cgroup` says so, and is looked at again after 3 s, after 30 s, and at every look. Never sets
//! `memory.high`: its throttling is pressure on everybody else's account too.

pub mod apart;
pub mod group;
pub mod kill_order;
pub mod manager;
pub mod own_group;

use crate::os::folder::Folder;
use crate::os::process::{self, Change, Launch, now_ms};
use crate::os::signals::Inherited;
use crate::os::wait;
use crate::watch::{ProcessId, Sample};
use group::Groups;
use kill_order::KillOrder;
use manager::{Manager, NoManager, Request};
use own_group::OwnGroup;
use std::ffi::{CStr, OsString};
use std::path::{Path, PathBuf};

/// After these times from the move on, who is inside is looked at in any case, milliseconds.
const CHECKS_MS: [u64; 2] = [3_000, 30_000];
/// Looks near the limit follow each other faster than this; who is inside is then not asked every time, milliseconds.
const CHECK_AT_MOST_EVERY_MS: u64 = 1_000;
/// The manager answers before it moves a process: some milliseconds as a rule.
const MOVE_MS: u64 = 5_000;
/// How often is looked in that time.
const MOVE_LOOK_MS: u64 = 20;
/// How often one process is brought back: one that leaves again means it.
const BRING_BACK_TIMES: u8 = 2;

/// What bounds the session as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// `memory.max` of the session, bytes: a last wall, half as much again as tier 2.
    pub memory_bytes: Option<u64>,
    /// `memory.swap.max` of the session, bytes.
    pub swap_bytes: Option<u64>,
    /// `memory.max` of all sessions of this user together, bytes.
    pub fleet_bytes: Option<u64>,
}

impl Caps {
    /// From the limits in MiB (0: none) and the machine's swap in KiB: three quarters of the swap, so that a session
    /// leaves some to others.
    pub fn new(tier_2_mib: u64, fleet_mib: u64, swap_total_kib: u64) -> Caps {
        let bytes = |mib: u64| (mib > 0).then(|| mib.saturating_mul(1 << 20));
        Caps {
            memory_bytes: bytes(tier_2_mib.saturating_add(tier_2_mib / 2)),
            swap_bytes: (swap_total_kib > 0).then(|| (swap_total_kib / 4 * 3).saturating_mul(1024)),
            fleet_bytes: bytes(fleet_mib),
        }
    }
}

/// Where the session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not tried: switched off, or this is no session.
    NotTried,
    /// The manager has been asked.
    Asked,
    /// In a scope of its own.
    InScope,
    /// In a group of our own.
    InOwnGroup,
    /// In none, and why.
    Nowhere(&'static str),
}

impl State {
    /// For people.
    pub fn in_words(&self) -> &'static str {
        match self {
            State::NotTried => "not tried",
            State::Asked => "the service manager was asked",
            State::InScope => "scope in a slice of its own",
            State::InOwnGroup => "own cgroup",
            State::Nowhere(why) => why,
        }
    }
}

/// What was asked of the manager last.
/// How systemd-oomd marks whom it ends.
const OOMD_MARK: &CStr = c"user.oomd_ooms";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    /// A scope for the client, so many things left out.
    Scope(manager::Attempt),
    /// For processes that left it, for the daemon, or a limit.
    Other,
}

/// What a look has found.
#[derive(Debug, Default)]
pub struct News {
    /// For the user.
    pub tell: Option<String>,
    /// The client's daemon and what is below it: from now on no part of the session.
    pub apart: Vec<ProcessId>,
}

/// The manager has taken the errand and moves the client.
#[derive(Clone, Copy, Debug)]
struct Moving {
    until_ms: u64,
    next_ms: u64,
}

/// The containment of one session.
pub struct Containment<'a> {
    inherited: &'a Inherited,
    groups: Option<Groups>,
    manager: Result<Manager, NoManager>,
    own_group: Option<OwnGroup>,
    /// `claude-safe-PID_START` of the wrapper.
    name: String,
    caps: Caps,
    lives: u32,
    client: ProcessId,
    state: State,
    /// The slice, or our group: the folder of the whole session.
    folder: Option<PathBuf>,
    /// The client's own group, open: what is written on it outlives it.
    scope: Option<(PathBuf, Folder)>,
    /// Calls of busctl that have not ended.
    errands: Vec<(i32, Errand)>,
    moving: Option<Moving>,
    began_ms: u64,
    checked_ms: u64,
    checks_done: usize,
    /// Who was brought back, and how often.
    brought_back: Vec<(ProcessId, u8)>,
    /// How many scopes were made for that.
    returns: u32,
    /// How often a slice without its wall was given one.
    walls: u32,
    told_outside: bool,
    kill_order: KillOrder,
    apart: apart::Apart,
}

impl<'a> Containment<'a> {
    /// For the wrapper that is `us`. `wanted`: `CLAUDE_SAFE_CONTAIN` has not switched it off.
    pub fn new(us: Option<ProcessId>, wanted: bool, caps: Caps, inherited: &'a Inherited) -> Self {
        let us = us.filter(|_| wanted);
        let name = us.map_or(String::new(), |us| name_of(us.pid, us.start_ticks));
        Self {
            inherited,
            groups: None,
            manager: Err(NoManager::NoSystemd),
            own_group: None,
            name,
            caps,
            lives: 0,
            client: ProcessId::default(),
            state: State::NotTried,
            folder: None,
            scope: None,
            errands: Vec::new(),
            moving: None,
            began_ms: 0,
            checked_ms: 0,
            checks_done: 0,
            brought_back: Vec::new(),
            returns: 0,
            walls: 0,
            told_outside: false,
            kill_order: KillOrder::new(wanted),
            apart: apart::Apart::default(),
        }
    }

    /// A client runs. It is moved as soon as that may be; where this is perhaps no session but a question
    /// (`--version`), only at the first look.
    pub fn client_started(&mut self, client: ProcessId, at_once: bool) {
        self.client = client;
        self.state = State::NotTried;
        // Where the earlier one was: this one is not there yet, and has not left it either.
        self.folder = None;
        self.scope = None;
        self.moving = None;
        for (_, errand) in &mut self.errands {
            // For an earlier client: its answer is no news any more.
            *errand = Errand::Other;
        }
        self.brought_back.clear();
        if at_once {
            self.begin();
        }
    }

    /// What this machine has for it: looked for when the first client runs already, and never where it is not wanted.
    fn find_means(&mut self) {
        let variable = |name: &str| std::env::var_os(name);
        self.groups = Groups::of_this_machine(Path::new("/proc"));
        self.manager = Manager::find(Path::new("/"), &variable, process::own_ids().euid);
    }

    fn begin(&mut self) {
        if self.lives == 0 && !self.name.is_empty() {
            self.find_means();
        }
        self.lives += 1;
        self.began_ms = now_ms();
        self.checks_done = 0;
        self.kill_order.client_started(self.client);
        self.state = if self.name.is_empty() {
            State::Nowhere("switched off by CLAUDE_SAFE_CONTAIN")
        } else if self.groups.is_none() {
            State::Nowhere("this machine has no cgroup v2 with a memory controller")
        } else if self.manager.is_ok() {
            self.ask_for_scope(manager::Attempt::Whole)
        } else {
            self.make_own_group()
        };
    }

    fn slice(&self) -> String {
        format!("{}.slice", self.name)
    }

    fn ask_for_scope(&mut self, attempt: manager::Attempt) -> State {
        if attempt == manager::Attempt::Whole && self.lives == 1 && self.caps.fleet_bytes.is_some()
        {
            let request = Request::Cap {
                slice: manager::FLEET_SLICE,
                memory_bytes: self.caps.fleet_bytes,
                swap_bytes: None,
            };
            self.send(&request, Errand::Other);
        }
        let scope = format!("{}_{}.scope", self.name, self.lives);
        if self.start_scope(&scope, &[self.client.pid], attempt, Errand::Scope(attempt)) {
            State::Asked
        } else {
            self.make_own_group()
        }
    }

    fn start_scope(
        &mut self,
        scope: &str,
        pids: &[i32],
        attempt: manager::Attempt,
        errand: Errand,
    ) -> bool {
        let slice = self.slice();
        let request = Request::StartScope {
            scope,
            slice: &slice,
            pids,
            caps: self.caps,
            attempt,
        };
        self.send(&request, errand)
    }

    /// Starts busctl; its end comes as SIGCHLD.
    fn send(&mut self, request: &Request<'_>, errand: Errand) -> bool {
        let Ok(manager) = &self.manager else {
            return false;
        };
        let started = process::spawn(
            &Launch {
                program: manager.program(),
                argv: &manager.words(request),
                environment: &|_| manager.environment(process::environment()),
                stdin: None,
                folder: None,
                aside: true,
            },
            self.inherited,
        );
        if let Ok(pid) = started {
            self.errands.push((pid, errand));
        }
        started.is_ok()
    }

    fn make_own_group(&mut self) -> State {
        let Some(groups) = &self.groups else {
            return State::Nowhere("this machine has no cgroup v2 with a memory controller");
        };
        match self.manager {
            Err(NoManager::NoSystemd) => {}
            // Where systemd is, the groups are its own.
            Err(why) => return State::Nowhere(why.in_words()),
            Ok(_) => return State::Nowhere("busctl can't be started"),
        }
        if self.own_group.is_none() {
            self.own_group = OwnGroup::make(groups, &self.name, &self.caps);
        }
        match &self.own_group {
            None => State::Nowhere("no systemd to ask, and no right to make a cgroup"),
            Some(own) if own.take(self.client.pid) => {
                self.folder = Some(own.path().to_owned());
                State::InOwnGroup
            }
            Some(_) => State::Nowhere("the cgroup of our own does not take the client"),
        }
    }

    /// A child of ours has ended: an errand, perhaps.
    pub fn reap(&mut self) {
        let mut at = 0;
        while let Some(&(pid, errand)) = self.errands.get(at) {
            match process::next_change(pid) {
                Some(change @ (Change::Exited(_) | Change::Signaled(_))) => {
                    self.errands.swap_remove(at);
                    self.errand_ended(errand, change == Change::Exited(0));
                }
                _ => at += 1,
            }
        }
    }

    fn errand_ended(&mut self, errand: Errand, well: bool) {
        let Errand::Scope(attempt) = errand else {
            return;
        };
        if self.state != State::Asked {
            return;
        }
        match (well, attempt.next()) {
            (true, _) => {
                let now = now_ms();
                self.moving = Some(Moving {
                    until_ms: now + MOVE_MS,
                    next_ms: now,
                });
            }
            (false, Some(next)) => self.state = self.ask_for_scope(next),
            (false, None) => {
                // Not asked again in the next life.
                self.manager = Err(NoManager::Refuses);
                self.state = self.make_own_group();
            }
        }
    }

    /// The manager answers before it moves: has it by now? To be called when it is due.
    pub fn tick(&mut self) {
        let now = now_ms();
        let Some(moving) = self.moving.filter(|moving| moving.next_ms <= now) else {
            return;
        };
        if let Some(folder) = self.find_folder() {
            self.moving = None;
            self.began_ms = now;
            self.checks_done = 0;
            self.folder = Some(folder);
            self.state = State::InScope;
            self.keep_scope();
            self.keep_wall();
        } else if now >= moving.until_ms {
            self.moving = None;
            self.state =
                State::Nowhere("the service manager made a scope, and the client is not in it");
        } else {
            self.moving = Some(Moving {
                next_ms: now + MOVE_LOOK_MS,
                ..moving
            });
        }
    }

    /// A slice ends with the last process in it, and one of the same name that comes after it has no limits: a client
    /// that left and was brought back, or the next life of a session, would be without its wall.
    fn keep_wall(&mut self) {
        let missing = self.folder().is_some_and(has_no_wall);
        // One that the manager does not set is not asked for at every look.
        let often = self.walls >= self.lives + self.returns;
        if self.own_group.is_some() || self.caps.memory_bytes.is_none() || !missing || often {
            return;
        }
        self.walls += 1;
        let slice = self.slice();
        let (memory_bytes, swap_bytes) = (self.caps.memory_bytes, self.caps.swap_bytes);
        self.send(
            &Request::Cap {
                slice: &slice,
                memory_bytes,
                swap_bytes,
            },
            Errand::Other,
        );
    }

    /// Opens the group that the client is in now, for [`Containment::was_ended_by_oomd`].
    fn keep_scope(&mut self) {
        let path = (self.groups.as_ref()).and_then(|groups| {
            let path = groups.path_of(self.client.pid)?;
            Some(groups.folder_of(&path))
        });
        let is_kept = |path: &PathBuf| self.scope.as_ref().is_some_and(|(kept, _)| kept == path);
        if let Some(path) = path.filter(|path| !is_kept(path))
            && let Ok(folder) = Folder::open(&path)
        {
            self.scope = Some((path, folder));
        }
    }

    /// Did systemd-oomd(8) choose the client's group? It writes that on the group before it kills, and the group is gone
    /// soon after (`user.oomd_ooms`, in src/oom/oomd-util.c of systemd).
    pub fn was_ended_by_oomd(&self) -> bool {
        let scope = self.scope.as_ref();
        scope.is_some_and(|(_, folder)| folder.has_attribute(OOMD_MARK))
    }

    /// The folder of the slice, from where the client says it is.
    fn find_folder(&self) -> Option<PathBuf> {
        let groups = self.groups.as_ref()?;
        groups.folder_up_to(&groups.path_of(self.client.pid)?, &self.slice())
    }

    /// When [`Containment::tick`] or [`Containment::look`] has something to do, on the monotonic clock, milliseconds.
    pub fn due_ms(&self) -> Option<u64> {
        if let Some(moving) = self.moving {
            return Some(moving.next_ms);
        }
        let after = CHECKS_MS.get(self.checks_done)?;
        self.folder.as_ref().map(|_| self.began_ms + after)
    }

    /// The folder of the whole session, where it has one: its slice, or our own group.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Where the session is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The client's daemon, as seen in the last look: not of this session alone.
    pub fn daemon(&self) -> Option<ProcessId> {
        self.apart.daemon()
    }

    /// Looks after every process of the session: its place in the kill order, and whether it is inside.
    pub fn look(&mut self, sample: &Sample) -> News {
        if self.state == State::NotTried {
            self.begin();
        }
        self.kill_order.look(sample);
        let mut news = News::default();
        let now = sample.at_ms;
        let is_due = self.due_ms().is_some_and(|due| due <= now);
        if !is_due && now < self.checked_ms.saturating_add(CHECK_AT_MOST_EVERY_MS) {
            return news;
        }
        self.checked_ms = now;
        while self.due_ms().is_some_and(|due| due <= now) {
            self.checks_done += 1;
        }
        news.apart = self.apart.look(sample, Path::new("/proc"));
        if let Some(daemon) = news.apart.first() {
            self.give_daemon_a_scope(*daemon, &news.apart);
        }
        if self.folder.is_some() {
            let mut outside = self.outside(sample);
            outside.retain(|id| !news.apart.contains(id));
            self.brought_back
                .retain(|(id, _)| sample.processes.iter().any(|process| process.id == *id));
            news.tell = self.bring_back(&outside);
            self.keep_scope();
            self.keep_wall();
        }
        news
    }

    /// Who is not in the session's folder.
    fn outside(&self, sample: &Sample) -> Vec<ProcessId> {
        let Some(groups) = &self.groups else {
            return Vec::new();
        };
        let name = if self.own_group.is_some() {
            self.name.clone()
        } else {
            self.slice()
        };
        let is_outside = |id: &ProcessId| {
            groups
                .path_of(id.pid)
                .is_some_and(|path| group::up_to(&path, &name).is_none())
        };
        sample
            .processes
            .iter()
            .map(|process| process.id)
            .filter(is_outside)
            .collect()
    }

    fn bring_back(&mut self, outside: &[ProcessId]) -> Option<String> {
        let mut pids = Vec::new();
        let mut stays = None;
        for id in outside {
            let times = match self.brought_back.iter_mut().find(|(other, _)| other == id) {
                Some((_, times)) => times,
                None => {
                    self.brought_back.push((*id, 0));
                    &mut self.brought_back.last_mut()?.1
                }
            };
            if *times < BRING_BACK_TIMES {
                *times += 1;
                pids.push(id.pid);
            } else {
                stays = Some(id.pid);
            }
        }
        if !pids.is_empty() {
            match &self.own_group {
                Some(own) => pids.iter().for_each(|pid| {
                    own.take(*pid);
                }),
                None => {
                    // Another scope in the same slice: none takes processes once it is made.
                    self.returns += 1;
                    // Verified as the first move was.
                    self.began_ms = now_ms();
                    self.checks_done = 0;
                    let scope = format!("{}_{}_{}.scope", self.name, self.lives, self.returns);
                    self.start_scope(&scope, &pids, manager::Attempt::WithoutSlice, Errand::Other);
                }
            }
        }
        let news = match stays {
            _ if self.told_outside => None,
            Some(pid) => Some(format!(
                "process {pid} of this session stays outside of its cgroup: it is counted, and not capped"
            )),
            None if outside.contains(&self.client) => {
                Some("claude left its cgroup and is brought back".to_owned())
            }
            None => None,
        };
        self.told_outside |= news.is_some();
        news
    }

    /// The client's daemon outlives this session: it gets a scope beside the sessions.
    fn give_daemon_a_scope(&mut self, daemon: ProcessId, all: &[ProcessId]) {
        let scope = format!(
            "claude-safe-daemon_{}_{}.scope",
            daemon.pid, daemon.start_ticks
        );
        let pids: Vec<i32> = all.iter().map(|id| id.pid).collect();
        self.send(
            &Request::StartScope {
                scope: &scope,
                slice: manager::FLEET_SLICE,
                pids: &pids,
                caps: Caps::default(),
                attempt: manager::Attempt::WithoutSlice,
            },
            Errand::Other,
        );
    }

    /// What the kernel has killed in this session for want of memory (`oom_kill` of memory.events), processes.
    pub fn oom_kills(&self) -> Option<u64> {
        group::keyed(&self.folder()?.join("memory.events"), "oom_kill")
    }
}

/// For `doctor`: what a session would get here, tried with a process of ours that does nothing. Waits some seconds at
/// most. The folder is gone when the process has ended.
pub fn trial(
    us: ProcessId,
    process: ProcessId,
    caps: Caps,
    inherited: &Inherited,
) -> (State, Option<PathBuf>) {
    let mut containment = Containment::new(
        Some(us),
        true,
        Caps {
            fleet_bytes: None,
            ..caps
        },
        inherited,
    );
    containment.client_started(process, true);
    loop {
        for (pid, errand) in std::mem::take(&mut containment.errands) {
            let change = process::reap(pid);
            containment.errand_ended(errand, matches!(change, Ok(Change::Exited(0))));
        }
        containment.tick();
        match containment.moving {
            Some(moving) => {
                wait::wait(&[], Some(moving.next_ms.saturating_sub(now_ms()).max(1)));
            }
            None if containment.errands.is_empty() => break,
            None => {}
        }
    }
    let folder = containment.folder.take();
    (containment.state.clone(), folder)
}

/// Is there no limit for this group, where one could be?
fn has_no_wall(folder: &Path) -> bool {
    std::fs::read_to_string(folder.join("memory.max")).is_ok_and(|text| text.trim_ascii() == "max")
}

/// What the groups of the wrapper with this pid and start are called.
fn name_of(pid: i32, start_ticks: u64) -> String {
    format!("claude-safe-{pid}_{start_ticks}")
}

/// Is this the folder of a group (a slice, or our own) of the wrapper with this pid and start?
pub fn is_group_of(folder: &Path, pid: i32, start_ticks: u64) -> bool {
    let name = name_of(pid, start_ticks);
    let is_called = |called: &str| called == name || called.strip_suffix(".slice") == Some(&name);
    let called = folder.file_name().and_then(|called| called.to_str());
    called.is_some_and(is_called)
}

/// Words of a command line.
fn words(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;

    fn containment(inherited: &Inherited, manager: Result<Manager, NoManager>) -> Containment<'_> {
        let us = ProcessId {
            pid: process::own_pid(),
            start_ticks: 1,
        };
        let mut made = Containment::new(Some(us), true, Caps::default(), inherited);
        made.kill_order = KillOrder::new(false);
        // As in a later life: what the machine has is known.
        made.lives = 1;
        made.manager = manager;
        made
    }

    #[test]
    fn the_caps_stand_above_tier_2_and_leave_swap_to_others() {
        let caps = Caps::new(61440, 0, 8 << 20);
        assert_eq!(caps.memory_bytes, Some(90 << 30));
        assert_eq!(caps.swap_bytes, Some(6 << 30));
        assert_eq!(caps.fleet_bytes, None);
        assert_eq!(Caps::new(0, 0, 0), Caps::default());
        assert_eq!(Caps::new(1, 2, 0).fleet_bytes, Some(2 << 20));
        assert_eq!(
            Caps::new(u64::MAX, u64::MAX, u64::MAX).memory_bytes,
            Some(u64::MAX)
        );
    }

    #[test]
    fn what_oomd_writes_on_the_clients_group_is_read_when_the_group_is_gone() {
        let scratch = Scratch::new();
        let group = scratch.path().join("x.scope");
        std::fs::create_dir(&group).unwrap();
        let inherited = Inherited::default();
        let mut contain = containment(&inherited, Err(NoManager::NoSystemd));
        assert!(!contain.was_ended_by_oomd());
        contain.scope = Some((group.clone(), Folder::open(&group).unwrap()));
        assert!(!contain.was_ended_by_oomd());
        let flags = rustix::fs::XattrFlags::empty();
        // A file system without attributes of users (a tmpfs before Linux 6.6) can't stand in for cgroup v2.
        if rustix::fs::setxattr(group.as_os_str().as_encoded_bytes(), OOMD_MARK, b"1", flags)
            .is_ok()
        {
            std::fs::remove_dir(&group).unwrap();
            assert!(contain.was_ended_by_oomd());
        }
        // The next life begins with a group of its own.
        contain.client_started(ProcessId::default(), false);
        assert!(!contain.was_ended_by_oomd());
    }

    #[test]
    fn where_systemd_is_no_group_is_made_beside_it() {
        let inherited = Inherited::default();
        let client = ProcessId {
            pid: -1,
            start_ticks: 1,
        };
        for why in [
            NoManager::NoUserManager,
            NoManager::NoBus,
            NoManager::NoBusctl,
            NoManager::Refuses,
        ] {
            let mut made = containment(&inherited, Err(why));
            made.groups = Groups::of_this_machine(Path::new("/proc"));
            made.client_started(client, true);
            assert!(made.own_group.is_none() && made.folder().is_none());
            let expected = match made.groups {
                Some(_) => why.in_words(),
                None => "this machine has no cgroup v2 with a memory controller",
            };
            assert_eq!(made.state().in_words(), expected);
        }
    }

    #[test]
    fn a_slice_that_came_back_without_its_wall_is_given_one_once_for_each_return() {
        let scratch = crate::os::files::scratch::Scratch::new();
        let slice = scratch.path().join("cg/a.slice");
        // Asked for by a program that writes down what it was asked.
        let asked = scratch.path().join("asked");
        scratch.write("run/systemd/system/x", "");
        scratch.write("run/dbus/system_bus_socket", "");
        let script = format!("#!/bin/sh\necho \"$@\" >>{}\n", asked.display());
        scratch.write_program("usr/bin/busctl", &script);
        let manager = Manager::find(scratch.path(), &|_| None, 0).unwrap();
        let inherited = Inherited::default();
        let mut made = containment(&inherited, Ok(manager));
        made.caps.memory_bytes = Some(4096);
        made.folder = Some(slice.clone());
        let times_asked = |made: &mut Containment<'_>| {
            made.keep_wall();
            for (pid, _) in std::mem::take(&mut made.errands) {
                process::reap(pid).unwrap();
            }
            let text = std::fs::read_to_string(&asked).unwrap_or_default();
            assert!(text.lines().all(|line| line.ends_with("MemoryMax t 4096")));
            text.lines().count()
        };
        assert_eq!(times_asked(&mut made), 0, "there is no group");
        scratch.write("cg/a.slice/memory.max", "4096\n");
        assert_eq!(times_asked(&mut made), 0, "the wall stands");
        scratch.write("cg/a.slice/memory.max", "max\n");
        assert_eq!(times_asked(&mut made), 1);
        assert_eq!(times_asked(&mut made), 1, "not again for the same one");
        made.returns += 1;
        assert_eq!(times_asked(&mut made), 2);
        made.caps.memory_bytes = None;
        made.returns += 1;
        assert_eq!(times_asked(&mut made), 2, "none is wanted");
    }

    #[test]
    fn an_answer_for_an_earlier_client_is_no_news() {
        let inherited = Inherited::default();
        let mut made = containment(&inherited, Err(NoManager::NoBus));
        // As if it had been asked for a scope, and the client then ended.
        made.state = State::Asked;
        made.errands
            .push((-1, Errand::Scope(manager::Attempt::Whole)));
        made.folder = Some("/of/the/earlier/client".into());
        made.client_started(ProcessId::default(), false);
        assert_eq!(made.errands, [(-1, Errand::Other)]);
        assert_eq!(
            (made.folder(), made.due_ms()),
            (None, None),
            "nobody has left it"
        );
        made.errand_ended(Errand::Other, false);
        assert_eq!(
            (made.state(), made.moving.is_some()),
            (&State::NotTried, false)
        );
    }

    #[test]
    fn only_groups_of_a_sessions_own_name_are_its_own() {
        for (folder, is_its_own) in [
            ("/sys/fs/cgroup/a/claude-safe-12_34.slice", true),
            ("/a/claude-safe-12_34", true),
            (
                "/a/claude-safe-12_34.slice/claude-safe-12_34_1.scope",
                false,
            ),
            ("/a/claude-safe-12_345.slice", false),
            ("/a/claude-safe-12_34.scope", false),
            ("/a/claude-safe.slice", false),
            ("/", false),
            ("", false),
        ] {
            assert_eq!(
                is_group_of(Path::new(folder), 12, 34),
                is_its_own,
                "{folder}"
            );
        }
    }
}
