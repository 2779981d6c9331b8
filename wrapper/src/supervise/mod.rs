//! Runs the client and stays with it: configure, spawn, loop { relay, reap, look, act }.
//!
//! One thread, no signal handler. All that happens arrives through four descriptors: the signal
//! queue, the client's pidfd, one timer, and a pressure trigger where the kernel gives one.
//!
//! | room | owns |
//! |---|---|
//! | [`handover`] | what the guard is told, through the client's environment |
//! | [`holdings`] | when descriptors and output files are looked at |
//! | [`relay`] | which signals are passed on |
//! | [`terminal`] | the terminal, after an abnormal end |
//! | [`chronicle`] | what is written down for later: the history, the status line |
//! | [`conversation`] | which conversation this is, and how it is taken up again |
//! | [`transcript`] | the end of a transcript: was a turn under way? |
//! | [`notifier`] | what the user is told while the client draws on the screen |
//! | [`statistics`] | the SIGUSR1 line |
//! | [`ending`] | TERM, grace, KILL: of the client, of a tool, of what is left |
//! | [`leftovers`] | what a client leaves behind |
//! | `tiers` | what tier 1 is to do next, and what is told of tiers 0 and 1 |
//! | [`restart`] | when to start again, and when to give up |
//! | [`tool`] | what a tool is called, and which one the kernel has killed |

pub mod chronicle;
pub mod conversation;
pub mod ending;
pub mod handover;
pub mod holdings;
pub mod leftovers;
pub mod notifier;
pub mod relay;
pub mod restart;
pub mod statistics;
pub mod terminal;
mod tiers;
pub mod tool;
pub mod transcript;

use crate::client::args::Invocation;
use crate::client::args::StartsSession;
use crate::client::find::Client;
use crate::config::Config;
use crate::config::memory::swap_total_kib;
use crate::contain::{Caps, Containment, group};
use crate::history::Kind;
use crate::notice;
use crate::orphans::Ledger;
use crate::os::clock::wall_ms;
use crate::os::process::{self, Change, Launch, PidFd};
use crate::os::signals::{self, Inherited, SignalFd, Signo};
use crate::os::wait::{self, Source, Timer};
use crate::outputs::News;
use crate::reclaim::Reclaim;
use crate::remedy;
use crate::state::{self, NOTES, Notes, SessionFolder};
use crate::sweep::Places;
use crate::sweep::attendant::Attendant;
use crate::watch::proc_fs::Proc;
use crate::watch::{
    EndTool, FileId, History, Limits, Look, ProcessId, Sample, Verdict, Watcher, next_look_ms,
    pressure, verdict,
};
use chronicle::{Chronicle, Glance};
use conversation::{Conversation, Start};
use ending::{CLIENT_GRACE_MS, Ending, TOOL_GRACE_MS};
use handover::Handover;
use holdings::Holdings;
use notifier::Notifier;
use relay::Relay;
use restart::{Budget, Next};
use statistics::Statistics;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use terminal::TerminalKeeper;
use tiers::Idleness;
use tool::Fattest;
use transcript::Turn;

/// After a restart, a client that ends with an error within this time could not take the
/// conversation up.
const TAKE_UP_MS: u64 = 10_000;

/// A pressure trigger wakes us once in its window of 2 s: one that does so within this time is broken.
const PRESSED_AT_MOST_MS: u64 = 1_000;

/// A SIGKILL this soon after a look near the limit is one for memory. Not "at the last look": a
/// process gives its memory back before its end can be seen, and a look may fall in between.
const NEAR_LIMIT_MS: u64 = 2_000;

/// So long a `-p` session that has its final answer may take to leave by itself.
const LEAVE_MS: u64 = 3_000;

/// Before a sleep of this length the pages that nobody needs meanwhile are given back.
const LONG_SLEEP_MS: u64 = 2_000;

/// A session whose end was asked for this long ago, or less, is not started again.
const ASKED_TO_END_MS: u64 = 15_000;

/// By these signals a user, a terminal, a service manager ends a session.
const ENDS_A_SESSION: [Signo; 4] = [
    signals::SIGHUP,
    signals::SIGINT,
    signals::SIGQUIT,
    signals::SIGTERM,
];

/// The first look comes no later: until then the client's tree is not known.
const FIRST_LOOK_MS: u64 = 1_000;

/// The share of the free swap that one session may be given, percent.
const SWAP_SHARE_PERCENT: u64 = 75;

/// From KILL until the memory is free.
const KILL_MS: u64 = 1_500;

/// Where the kernel tells about processes.
const PROC: &str = "/proc";

/// Everything that was found out before the first start.
pub struct Setup<'a> {
    /// The effective configuration.
    pub config: &'a Config,
    /// This process, where `/proc` tells who it is.
    pub us: Option<ProcessId>,
    /// The command line, understood.
    pub invocation: &'a Invocation,
    /// The client, found anew for a restart: it may have updated itself meanwhile.
    pub find_client: &'a dyn Fn() -> Option<Client>,
    /// The guard, where it can be loaded.
    pub handover: Option<Handover>,
    /// Does this client know `--session-id`?
    pub knows_session_id: bool,
    /// A plugin whose hooks sweep, and tell us of `/clear` and `/resume` where the client doesn't itself.
    pub hook_plugin: Option<PathBuf>,
    /// Where to sweep, if that is wanted.
    pub sweeps: Option<Places>,
    /// The folder of this session's state, if one could be made.
    pub folder: Option<SessionFolder>,
    /// The folder that holds the folders of all sessions.
    pub state_base: PathBuf,
    /// Where the client keeps what it knows: `$CLAUDE_CONFIG_DIR`, else `~/.claude`.
    pub client_folder: Option<PathBuf>,
    /// Files that only exec onward: never the client.
    pub launchers: Vec<FileId>,
    /// The environment as we were given it.
    pub environment: Vec<OsString>,
    /// Mask and dispositions as we were given them.
    pub inherited: Inherited,
}

/// How one life of the client ended.
struct LifeEnd {
    change: Change,
    lived_ms: u64,
    memory: Option<MemoryEnd>,
    /// What it left running, in words.
    left: Option<String>,
}

/// The life ended because of memory: by us, or by the kernel when we were about to.
pub struct MemoryEnd {
    /// One line for the user.
    reason: String,
    /// The conversation it held.
    id: Option<String>,
    /// Its turn just before the end.
    turn: Turn,
}

/// What is kept of the last look.
#[derive(Clone, Copy)]
struct Seen {
    client: ProcessId,
    total_kib: u64,
    /// Part of the total: files in memory.
    files_kib: u64,
}

/// One life of the client while it lasts.
struct Life {
    pid: i32,
    handle: Option<PidFd>,
    watcher: Watcher,
    history: History,
    look_at_ms: u64,
    last: Option<Seen>,
    /// There was a whole look since pages were given back.
    has_looked: bool,
    /// The most that a look saw.
    peak_kib: u64,
    /// When a look last saw more than 90 % of the limit.
    near_limit_at_ms: Option<u64>,
    /// [`oom_kills`] at the first look.
    oom_kills: Option<u64>,
    /// When the pressure trigger woke us last.
    pressed_at_ms: u64,
    /// What it told of itself at its start.
    notes: Notes,
    /// The fattest tool of the last look, by name.
    fattest: Option<Fattest>,
    /// Who belongs to it; from its first look on.
    ledger: Option<Ledger>,
    /// When tier 1 is to look, if at all before something else happens.
    reclaim_at_ms: Option<u64>,
    started_ms: u64,
    idleness: Idleness,
    /// Processes of this session that the kernel has killed for memory, at the last look.
    group_oom_kills: Option<u64>,
    /// The client is being ended.
    ending: Option<Ending>,
    /// Tools that are being ended.
    tools: Vec<Ending>,
    /// When a `-p` session was first seen at the limit with its final answer.
    answered_at_ms: Option<u64>,
    /// The guard has been told that the tier 1 threshold is passed.
    guard_told: bool,
    memory: Option<MemoryEnd>,
}

/// The running supervisor.
struct Supervisor<'a> {
    setup: &'a Setup<'a>,
    processes: Proc,
    conversation: Conversation<'a>,
    signal_queue: SignalFd,
    timer: Timer,
    /// Memory pressure, where the kernel lets us wait for it; from the first look on, because its end
    /// waits for all processors (RCU), which a short command should not.
    trigger: Option<OwnedFd>,
    relay: Relay,
    keeper: TerminalKeeper,
    notifier: Notifier<'a>,
    statistics: Statistics<'a>,
    limits: Limits,
    containment: Containment<'a>,
    reclaim: Reclaim,
    attendant: Attendant,
    holdings: Holdings,
    chronicle: Chronicle<'a>,
    /// Start of the session, seconds since 1970.
    since_unix_s: u64,
    /// The last signal by which somebody asked for the end of the session, and when.
    asked_to_end: Option<(Signo, u64)>,
    /// What dead sessions have left was looked for.
    cleared_up: bool,
    /// That is being ended.
    of_dead_sessions: Option<Ending>,
}

/// Runs the session to its end. The result is our exit status: the client's, 128 + n for a signal,
/// 126 or 127 if it can't be executed.
pub fn run(setup: &Setup<'_>, client: Client) -> u8 {
    let (Ok(signal_queue), Ok(timer)) = (SignalFd::open(), Timer::new()) else {
        // No descriptor left for us: the client may do with one less.
        notice::line("no file descriptor is left to watch with: starting claude unwatched");
        setup.inherited.restore();
        let arguments = client.argv(setup.invocation.arguments());
        let failure = process::exec(client.path.as_os_str(), &arguments, &setup.environment);
        return cannot_execute(&client, &failure);
    };
    let keeper = TerminalKeeper::remember(setup.invocation.is_interactive());
    let limits = Limits::new(setup.config.watchdog_threshold_mib, TOOL_GRACE_MS + KILL_MS);
    let since_unix_s = wall_ms() / 1000;
    let mut supervisor = Supervisor {
        processes: Proc::new(Path::new(PROC)),
        conversation: Conversation::new(setup),
        signal_queue,
        timer,
        trigger: None,
        relay: Relay::before_start(),
        notifier: Notifier::new(keeper.is_drawn_on(), &setup.inherited),
        keeper,
        statistics: Statistics::new(setup),
        limits,
        containment: Containment::new(
            setup.us,
            setup.config.contain,
            Caps::new(
                setup.config.watchdog_threshold_mib,
                setup.config.fleet_max_mib,
                swap_total_kib(Path::new(PROC)),
            ),
            &setup.inherited,
        ),
        reclaim: Reclaim::new(SWAP_SHARE_PERCENT),
        attendant: Attendant::new(setup.sweeps.clone()),
        holdings: Holdings::new(setup.config, &setup.environment),
        chronicle: Chronicle::new(setup, limits, since_unix_s, &client.path),
        since_unix_s,
        asked_to_end: None,
        cleared_up: false,
        of_dead_sessions: None,
        setup,
    };
    let status = supervisor.run(client);
    if let Some(ending) = supervisor.of_dead_sessions.take() {
        // While their folder is there: it is the proof that they are ours.
        ending.finish(&mut supervisor.processes);
    }
    if let Some(text) = supervisor.attendant.end() {
        notice::line(&text);
    }
    state::remove_dead(&setup.state_base, &mut supervisor.processes);
    status
}

/// A client that ended by itself, or by another's hand, has the last word.
fn status_of(change: Change) -> u8 {
    match change {
        Change::Exited(code) => code,
        Change::Signaled(signo) => (128 + signo) as u8,
        Change::Stopped(_) | Change::Continued => unreachable!("not an end"),
    }
}

/// How many processes the kernel has killed for want of memory (`oom_kill` of proc_vmstat(5)).
fn oom_kills() -> u64 {
    group::keyed(Path::new("/proc/vmstat"), "oom_kill").unwrap_or(0)
}

impl LifeEnd {
    fn is_early_failure(&self) -> bool {
        self.lived_ms < TAKE_UP_MS && matches!(self.change, Change::Exited(code) if code != 0)
    }
}

/// One line on a client that can't be executed, and the exit status for it.
pub fn cannot_execute(client: &Client, failure: &io::Error) -> u8 {
    notice::line(&format!(
        "cannot execute {}: {failure}",
        client.path.display()
    ));
    // As a shell says it: 127 not there, 126 there but not executable.
    if failure.kind() == std::io::ErrorKind::NotFound {
        127
    } else {
        126
    }
}

impl Supervisor<'_> {
    /// Lives of the client, one after the other, until one ends that is not to be followed by another.
    fn run(&mut self, first: Client) -> u8 {
        let mut budget = Budget::default();
        let mut client = first;
        let mut start = self.conversation.first_start();
        loop {
            let end = match self.live(&client, &start, budget.restarts()) {
                Ok(end) => end,
                Err(failure) => return cannot_execute(&client, &failure),
            };
            self.settle_terminal(&end);
            if end.memory.is_some() && end.change == Change::Exited(0) {
                // On TERM it would not have left with 0: it had finished.
                notice::line("memory reached the limit just when claude had finished by itself");
                return 0;
            }
            let Some(memory) = &end.memory else {
                let refused = self.recently_asked_to_end().is_none() && end.is_early_failure();
                if let Some(next) = refused
                    .then(|| self.conversation.after_refusal(&start))
                    .flatten()
                {
                    notice::line(&next.announcement(budget.restarts()));
                    start = next;
                    continue;
                }
                if refused && start.is_a_restart() {
                    notice::line(&format!(
                        "claude did not take the conversation up again; {}",
                        start.by_hand()
                    ));
                }
                return self.finish(&end);
            };
            // One line, with what happened and what follows.
            let tell = |what: &str| notice::line(&format!("{}; {what}", memory.reason));
            if let Some(signo) = self.recently_asked_to_end() {
                tell(&format!(
                    "not restarted: {} asked for the end of the session",
                    signals::name(signo)
                ));
                return status_of(end.change);
            }
            let next = match self.conversation.next_start(memory, &start) {
                Ok(next) => next,
                Err(why) => {
                    tell(&format!("not restarted: {why}"));
                    return status_of(end.change);
                }
            };
            match budget.life_ended(end.lived_ms) {
                Next::StartIn { delay_ms } => {
                    tell(&next.announcement(budget.restarts()));
                    self.chronicle.incident(Kind::Restarted, "");
                    if let Some(signo) = self.pause(delay_ms) {
                        return status_of(Change::Signaled(signo));
                    }
                }
                Next::GiveUp { short_lives } => {
                    self.chronicle.incident(Kind::GaveUp, "");
                    tell(&format!(
                        "giving up: the limit was reached {short_lives} times in a row within a minute of the start; {}",
                        next.by_hand()
                    ));
                    return status_of(end.change);
                }
            }
            start = next;
            if let Some(found) = (self.setup.find_client)() {
                client = found;
            }
        }
    }

    /// A signal that asked for the end not long ago. A client that was sent one and lives on has
    /// taken it as something else (INT: stop this turn).
    fn recently_asked_to_end(&self) -> Option<Signo> {
        let (signo, at_ms) = self.asked_to_end?;
        (process::now_ms() - at_ms < ASKED_TO_END_MS).then_some(signo)
    }

    /// One life of the client, from its exec to its end.
    fn live(&mut self, client: &Client, start: &Start, restarts: u32) -> io::Result<LifeEnd> {
        if start.is_a_restart() {
            // What was learnt of the earlier client is not true of this one.
            self.reclaim = Reclaim::new(SWAP_SHARE_PERCENT);
            self.make_page_anew();
        }
        let client_since_unix_s = wall_ms() / 1000;
        let handover = self.setup.handover.as_ref();
        let environment = |pid: i32| match handover {
            Some(handover) => handover.environment(&self.setup.environment, pid),
            None => self.setup.environment.clone(),
        };
        let launch = Launch {
            program: client.path.as_os_str(),
            argv: &client.argv(&start.arguments),
            environment: &environment,
            stdin: start.stdin.as_ref().map(AsFd::as_fd),
            folder: start.folder.as_deref().map(Path::as_os_str),
            aside: false,
        };
        let pid = process::spawn(&launch, &self.setup.inherited)?;
        self.relay.client_started();
        let started_ms = process::now_ms();
        let first_look_ms = next_look_ms(
            &Sample::default(),
            &self.limits,
            &History::default(),
            self.ceiling_s(),
        );
        let mut life = Life {
            pid,
            handle: PidFd::open(pid),
            watcher: Watcher::new(Path::new(PROC), pid, self.setup.launchers.clone()),
            history: History::default(),
            ending: None,
            tools: Vec::new(),
            answered_at_ms: None,
            guard_told: false,
            memory: None,
            last: None,
            has_looked: false,
            peak_kib: 0,
            near_limit_at_ms: None,
            oom_kills: None,
            pressed_at_ms: 0,
            notes: Notes::default(),
            fattest: None,
            ledger: None,
            reclaim_at_ms: None,
            started_ms,
            idleness: Idleness::default(),
            group_oom_kills: None,
            look_at_ms: started_ms + first_look_ms.min(FIRST_LOOK_MS),
        };
        let started = self.processes.stat(pid, None).ok().map(|stat| stat.id);
        if let Some(client) = started {
            let is_session = self.setup.invocation.starts_session() == StartsSession::Yes;
            self.containment.client_started(client, is_session);
        }
        life.notes = Notes {
            client_pid: Some(pid),
            client_start_ticks: started.map(|id| id.start_ticks),
            client_since_unix_s: Some(client_since_unix_s),
            restarts: Some(restarts.into()),
            conversation: start.id().map(str::to_owned),
            ..Notes::default()
        };
        self.register(&life.notes);
        let change = self.watch_until_end(&mut life);
        let memory = life.memory.take().or_else(|| {
            let killed = change == Change::Signaled(signals::SIGKILL);
            let by_kernel = || life.oom_kills.is_some_and(|before| oom_kills() > before);
            let near = life
                .near_limit_at_ms
                .is_some_and(|at| process::now_ms() < at + NEAR_LIMIT_MS);
            let by = match killed {
                false => None,
                true if self.containment.was_ended_by_oomd() => Some("systemd-oomd"),
                true if by_kernel() => Some("the kernel, out of memory,"),
                true => near.then_some("somebody"),
            };
            by.map(|by| self.killed_for_memory(&life, by))
        });
        // What fills the memory goes in any case.
        let left = (self.sweeps() || memory.is_some()).then(|| self.end_leftovers(&life));
        Ok(LifeEnd {
            change,
            lived_ms: process::now_ms() - started_ms,
            memory,
            left: left.flatten(),
        })
    }

    fn ceiling_s(&self) -> u64 {
        u64::from(self.setup.config.watchdog_interval_s)
    }

    /// The loop: sleep, relay, reap, look, act.
    fn watch_until_end(&mut self, life: &mut Life) -> Change {
        loop {
            let now = process::now_ms();
            let due = (life
                .ending
                .iter()
                .chain(&life.tools)
                .chain(&self.of_dead_sessions))
            .filter_map(Ending::due_ms)
            .chain(self.containment.due_ms())
            .chain(self.holdings.due_ms())
            .chain(life.reclaim_at_ms)
            .fold(life.look_at_ms, u64::min);
            let sleep_ms = due.saturating_sub(now);
            self.timer.arm(sleep_ms);
            // Not after each short look: what those need stays, or they cost ten times as much.
            if sleep_ms >= LONG_SLEEP_MS && life.has_looked {
                crate::os::memory::release_text();
                life.has_looked = false;
            }
            let mut sources = vec![
                Source {
                    fd: self.signal_queue.as_fd(),
                    urgent: false,
                },
                Source {
                    fd: self.timer.as_fd(),
                    urgent: false,
                },
            ];
            sources.extend(life.handle.as_ref().map(|h| Source {
                fd: h.as_fd(),
                urgent: false,
            }));
            let trigger_at = sources.len();
            sources.extend(self.trigger.as_ref().map(|t| Source {
                fd: t.as_fd(),
                urgent: true,
            }));
            let ready = wait::wait(&sources, None);

            while let Some(signo) = self.signal_queue.take() {
                self.relay(signo, life);
            }
            if self.reclaim.reap(process::now_ms()) {
                life.reclaim_at_ms = Some(0);
            }
            while let Some(change) = process::next_change(life.pid) {
                match change {
                    Change::Exited(_) | Change::Signaled(_) => return change,
                    // The client stopped (Ctrl-Z): the shell must see its job stop.
                    Change::Stopped(signo) => signals::stop_self(signo, &self.setup.inherited),
                    Change::Continued => {}
                }
            }
            let now = process::now_ms();
            let endings = life.ending.iter_mut().chain(&mut life.tools);
            for ending in endings.chain(&mut self.of_dead_sessions) {
                if ending.due_ms().is_some_and(|due| due <= now) {
                    ending.kill();
                }
            }
            let pressed = self.trigger.is_some() && ready[trigger_at];
            if pressed && now < life.pressed_at_ms + PRESSED_AT_MOST_MS {
                // Once a window is the rule: the trigger is broken (POLLERR), and would keep us awake.
                self.trigger = None;
            }
            if pressed {
                life.pressed_at_ms = now;
            }
            self.look_between(life, now);
            self.containment.tick();
            let contained_due = self.containment.due_ms().is_some_and(|due| due <= now);
            if life.look_at_ms <= now || pressed || contained_due {
                self.look(life);
            }
            if life.reclaim_at_ms.is_some_and(|at| at <= process::now_ms()) {
                self.steer(life);
            }
        }
    }

    /// Passes a signal on, if it was meant for the client and only we got it.
    fn relay(&mut self, signo: Signo, life: &Life) {
        if signo == signals::SIGCHLD {
            self.notifier.reap();
            self.containment.reap();
            if let Some(text) = self.attendant.reap(process::now_ms()) {
                self.notifier.tell(&self.keeper, &text);
            }
            self.relay.child_ended();
            return;
        }
        if ENDS_A_SESSION.contains(&signo) {
            self.asked_to_end = Some((signo, process::now_ms()));
        }
        if !self.relay.meant_for_us_alone(signo) {
            return;
        }
        if signo == signals::SIGUSR1 {
            let memory_kib = life.last.map(|s| s.total_kib);
            self.statistics.write(life.pid, memory_kib);
        } else {
            // Our own child, not yet reaped: the pid is nobody else's.
            let _ = signals::send(life.pid, signo);
        }
    }

    /// What is cheap to look at between two looks at the tree; it may call for one.
    fn look_between(&mut self, life: &mut Life, now_ms: u64) {
        let sample = life.watcher.sample();
        let (news, is_called_for) = (self.holdings).between(&mut self.processes, sample, now_ms);
        self.tell_all(&news);
        if is_called_for {
            life.look_at_ms = now_ms;
        }
    }

    fn tell_all(&mut self, news: &[News]) {
        for News { text, ended } in news {
            self.notifier.tell(&self.keeper, text);
            if let Some(ended) = ended {
                self.chronicle.incident(Kind::ToolEnded, ended);
            }
        }
    }

    /// Looks at the tree and acts on the verdict.
    fn look(&mut self, life: &mut Life) {
        let now = process::now_ms();
        if life.oom_kills.is_none() {
            life.oom_kills = Some(oom_kills());
            self.trigger = self
                .trigger
                .take()
                .or_else(|| pressure::memory_trigger(Path::new(PROC)).ok());
        }
        self.holdings.before_look(&mut life.watcher);
        let Look::Running(sample) = life.watcher.look(now, self.limits.limit_kib) else {
            // Its end comes through the signal queue.
            life.look_at_ms = now + FIRST_LOOK_MS;
            return;
        };
        self.attendant.look(now);
        let news = self.containment.look(sample);
        if let Some(text) = news.tell {
            self.notifier.tell(&self.keeper, &text);
            self.chronicle.incident(Kind::LeftGroup, &text);
        }
        let kills = self.containment.oom_kills();
        let killed = kills
            .zip(life.group_oom_kills)
            .is_some_and(|(now, before)| now > before);
        life.group_oom_kills = kills;
        let fattest = Fattest::of(sample, life.fattest.as_ref());
        if killed {
            let text = tool::killed_by_kernel(life.fattest.as_ref(), sample);
            self.notifier.tell(&self.keeper, &text);
            self.chronicle
                .incident(Kind::Killed, "a process of the session, by the kernel");
        }
        life.fattest = fattest;
        let verdict = verdict(sample, &self.limits, &life.history);
        life.history.note(sample, &self.limits, &verdict);
        life.look_at_ms = now + next_look_ms(sample, &self.limits, &life.history, self.ceiling_s());
        let seen = Seen {
            client: sample.client,
            total_kib: sample.total_kib,
            files_kib: sample.files_kib,
        };
        let held = self.holdings.look(&mut self.processes, sample, now);
        self.tell_all(&held);
        life.peak_kib = life.peak_kib.max(seen.total_kib);
        if seen.total_kib >= self.limits.idle_kib {
            life.near_limit_at_ms = Some(now);
        }
        life.last = Some(seen);
        life.has_looked = true;
        life.watcher.set_apart(&news.apart);
        self.note_ledger(life);
        self.take_down(now, seen, life);
        self.note_tiers(life);
        if life.reclaim_at_ms.is_none() {
            self.steer(life);
        }
        self.tell_guard(seen, life);
        life.tools.retain(|tool| !tool.is_over(&mut self.processes));
        if let Some(ending) = &mut life.ending {
            // It grows on while it should leave: the grace ends a quarter above the limit.
            if !ending.was_killed() && seen.total_kib > self.limits.limit_kib / 4 * 5 {
                ending.kill();
            }
            return;
        }
        match verdict {
            Verdict::Quiet | Verdict::Wait => {}
            Verdict::Warn => self.warn(seen),
            Verdict::EndTool(tool) => self.end_tool(&tool, life),
            Verdict::RestartWhenIdle => {
                // A `-p` session that has nothing to do is about to end by itself.
                if !self.setup.invocation.is_print()
                    && self.conversation.obstacle().is_none()
                    && self.conversation.observe(seen.client.pid).turn == Turn::Idle
                {
                    self.end_client(seen, life, "while the session was idle");
                }
            }
            Verdict::Restart => {
                if !self.is_about_to_finish(seen, life) {
                    self.end_client(seen, life, "at once");
                }
            }
        }
    }

    /// Has a `-p` session its final answer, and a moment left to print it and leave? Ended now and
    /// started again, it would answer twice.
    fn is_about_to_finish(&mut self, seen: Seen, life: &mut Life) -> bool {
        if !self.setup.invocation.is_print()
            || seen.total_kib > self.limits.limit_kib / 4 * 5
            || !self.conversation.has_answered(seen.client.pid)
        {
            return false;
        }
        let now = process::now_ms();
        now < *life.answered_at_ms.get_or_insert(now) + LEAVE_MS
    }

    /// For those who ask later.
    fn take_down(&mut self, now_ms: u64, seen: Seen, life: &Life) {
        let glance = Glance {
            client_pid: seen.client.pid,
            total_kib: seen.total_kib,
            rate_kib_s: life.history.rate_kib_s(),
            restarts: life.notes.restarts.unwrap_or(0),
            is_contained: self.containment.folder().is_some(),
            is_ending: life.ending.is_some(),
            reclaim: *self.reclaim.report(),
            tmp_kib: self.holdings.memory_kib(),
            descriptors: self.holdings.descriptors(),
        };
        self.chronicle.look(now_ms, &glance);
    }

    fn warn(&mut self, seen: Seen) {
        self.chronicle.incident(Kind::Warned, "");
        let can_swap = swap_total_kib(Path::new(PROC)) > 0;
        let remedy = remedy::no_swap(Path::new("/"));
        self.notifier.tell(
            &self.keeper,
            &format!(
                "memory of this session is at {} of {}: at the limit it is {}{}{}",
                notice::memory(seen.total_kib),
                notice::memory(self.limits.limit_kib),
                match self.conversation.obstacle() {
                    None => "restarted and the conversation resumed",
                    Some(_) => "ended",
                },
                match seen.files_kib / 1024 {
                    0 => String::new(),
                    _ => format!(
                        " ({} of it are files in a tmpfs: CLAUDE_CODE_TMPDIR can name a folder on a disk)",
                        notice::memory(seen.files_kib)
                    ),
                },
                match can_swap {
                    true => String::new(),
                    // Nothing could be given back until here.
                    false => format!(" (this machine has no swap: {remedy})"),
                }
            ),
        );
    }

    /// Ends a tool that alone fills the limit: the session stays.
    fn end_tool(&mut self, tool: &EndTool, life: &mut Life) {
        let name = tool::command_of(tool.leader.pid);
        let program = self.processes.name(tool.leader.pid).unwrap_or_default();
        let text = format!(
            "{program} (pid {}), {}",
            tool.leader.pid,
            notice::memory(tool.kib)
        );
        self.chronicle.incident(Kind::ToolEnded, &text);
        self.notifier.tell(
            &self.keeper,
            &format!(
                "ending the tool {name} (pid {}): its memory is {}, the limit of the session {}; the session goes on",
                tool.leader.pid,
                notice::memory(tool.kib),
                notice::memory(self.limits.limit_kib),
            ),
        );
        life.tools.push(Ending::begin(
            &mut self.processes,
            &tool.members,
            tool.pgid,
            TOOL_GRACE_MS,
        ));
    }

    /// Asks the client to leave, for a restart.
    fn end_client(&mut self, seen: Seen, life: &mut Life, when: &str) {
        let observed = self.conversation.observe(seen.client.pid);
        self.chronicle.incident(Kind::Ended, when);
        life.memory = Some(MemoryEnd {
            reason: format!(
                "memory reached {} (limit {}): ended claude {when}",
                notice::memory(seen.total_kib),
                notice::memory(self.limits.limit_kib)
            ),
            id: observed.id,
            turn: observed.turn,
        });
        life.ending = Some(Ending::begin(
            &mut self.processes,
            &[seen.client],
            None,
            CLIENT_GRACE_MS,
        ));
    }

    fn killed_for_memory(&mut self, life: &Life, by: &str) -> MemoryEnd {
        let client_pid = life.last.map_or(life.pid, |s| s.client.pid);
        let observed = self.conversation.observe(client_pid);
        let kib = life.peak_kib;
        self.chronicle
            .incident(Kind::Killed, &format!("claude, by {by} with SIGKILL"));
        MemoryEnd {
            reason: format!(
                "{by} killed claude (SIGKILL); its memory was seen at {}, the limit is {}",
                notice::memory(kib),
                notice::memory(self.limits.limit_kib)
            ),
            id: observed.id,
            turn: observed.turn,
        }
    }

    /// After an end that was not the client's own, the terminal is put right; then the held-back lines.
    fn settle_terminal(&mut self, end: &LifeEnd) {
        if end.memory.is_some() || matches!(end.change, Change::Signaled(_)) {
            self.keeper.restore();
        }
        self.notifier.release();
        if let Some(left) = &end.left {
            notice::line(left);
        }
    }

    /// The last life has ended, not for memory.
    fn finish(&mut self, end: &LifeEnd) -> u8 {
        if let Change::Signaled(signo) = end.change {
            let text = format!("claude, by {}, not by claude-safe", signals::name(signo));
            self.chronicle.incident(Kind::Killed, &text);
            notice::line(&format!(
                "claude was ended by {}, not by claude-safe (exit status {})",
                signals::name(signo),
                128 + signo
            ));
        }
        status_of(end.change)
    }

    /// Waits between two lives. A signal that would have ended the client ends the wait.
    fn pause(&mut self, delay_ms: u64) -> Option<Signo> {
        let until = process::now_ms() + delay_ms;
        loop {
            while let Some(signo) = self.signal_queue.take() {
                match signo {
                    _ if ENDS_A_SESSION.contains(&signo)
                        && !self.setup.inherited.ignores(signo) =>
                    {
                        return Some(signo);
                    }
                    signals::SIGTSTP => signals::stop_self(signo, &self.setup.inherited),
                    _ => {}
                }
            }
            let left = until.saturating_sub(process::now_ms());
            if left == 0 {
                return None;
            }
            wait::wait(
                &[Source {
                    fd: self.signal_queue.as_fd(),
                    urgent: false,
                }],
                Some(left),
            );
        }
    }

    /// Writes down who we are, for `claude-safectl`.
    fn register(&self, of_this_life: &Notes) {
        if let Some(folder) = &self.setup.folder {
            let client_folder = self.setup.client_folder.as_deref();
            let notes = Notes {
                wrapper_pid: Some(process::own_pid()),
                since_unix_s: Some(self.since_unix_s),
                tier_1_kib: (self.setup.config.pool_threshold_mib())
                    .map(|mib| mib.saturating_mul(1024)),
                warn_kib: Some(self.limits.warn_kib),
                tier_2_kib: Some(self.limits.limit_kib),
                client_folder: client_folder.and_then(|folder| std::path::absolute(folder).ok()),
                ..of_this_life.clone()
            };
            let _ = folder.write(NOTES, &notes.text());
        }
    }
}
