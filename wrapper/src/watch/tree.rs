//! The process tree of one session and its memory, each page counted once. Owns the identities
//! (pid and start time) of every process it has seen below the client, and open handles of the
//! nearest ones. Never signals anybody, and never decides what a number means.
//!
//! What is counted: RssAnon + VmSwap of every process. Two things would be counted twice:
//!
//! - *One address space, two processes* (`vfork`, `posix_spawn` on their way to execve): asked
//!   with kcmp before the child's memory is read. "Same" may turn into "different" in between,
//!   never the reverse, so a wrong answer leaves out a process that has just begun.
//! - *Pages that a fork left shared* (copy on write): RssAnon has them in both. Only
//!   `smaps_rollup` (PSS) knows, and it is dear. So it is asked when the sum matters, only within
//!   families of processes with the same stack address (fork inherits it, execve draws a new one),
//!   and at bounded cost. In between the last discount is kept, less every page that a member has
//!   touched or given up since: an allocator that breaks the sharing page by page leaves RssAnon
//!   as it is, but each page is one minor fault. So the estimate errs upwards only, and before it
//!   reaches the limit the dear question is asked again.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use super::proc_fs::{Memory, Proc, ProcessId, Stat};
use crate::os::files::FileId;
use crate::os::kcmp::same_address_space;
use crate::os::proc::{Unreadable, descriptor_limit, thread_cpu_us};

/// Handles of threads are opened anew every so many looks: the file of a thread that has ended reads
/// as empty, also when another thread has got its number.
const REOPEN_LOOKS: u64 = 64;
/// Open handles in all. Below the usual soft limit of 1024 descriptors by far: the rest is the
/// supervisor's. Processes beyond it are read by their paths.
const MOST_HANDLES: usize = 256;
/// Processes that a look visits at most; with more, [`Sample::truncated`] says so.
const MOST_PROCESSES: usize = 16 * 1024;
/// A launcher (shell or `env` stand-in) is smaller than this.
const LAUNCHER_KIB: u64 = 64 * 1024;
/// Launchers that may stand in a row before the client.
const MOST_LAUNCHERS: usize = 4;
/// Sharing is of no interest below this.
const SMALL_KIB: u64 = 1024;
/// After asking for PSS, this many times its cost must pass: 1 % of a core on average.
const CONFIRM_TIMES: u64 = 100;
/// The highest [`level`].
const AT_LIMIT: u8 = 3;
/// In one round nobody is asked after this; the rest gets the ratio of its family so far.
const CONFIRM_MS: u64 = 200;

/// A process of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Who it is.
    pub id: ProcessId,
    /// Its parent when it was looked at.
    pub ppid: i32,
    /// Its process group when it was looked at.
    pub pgid: i32,
    /// Its session (setsid(2)) when it was looked at.
    pub session: i32,
    /// RssAnon + VmSwap, KiB; 0 when it runs in its parent's address space.
    pub footprint_kib: u64,
    /// The part of it that is counted here and nowhere else. Pages shared by a family are counted
    /// with its first member (the ancestor): ending another one does not free them.
    pub counted_kib: u64,
}

/// Where a subtree hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    /// Below a direct child of the client: a tool, a subagent, an MCP server.
    Tool,
    /// Below a process whose parent ended: it was seen below the client before.
    Stray,
}

/// A direct child of the client, or a stray, with all its descendants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subtree {
    /// Its uppermost process.
    pub leader: ProcessId,
    /// Tool or stray.
    pub branch: Branch,
    /// Sum of `counted_kib`.
    pub kib: u64,
    pub(super) first: usize,
    pub(super) end: usize,
}

/// What one look saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// When, on the caller's monotonic clock.
    pub at_ms: u64,
    /// The client: the root, or what its launchers lead to. When the client is gone: the root.
    pub client: ProcessId,
    /// Memory of the client alone.
    pub client_kib: u64,
    /// Memory of all: launchers, client, subtrees, strays, and files in memory. Each page once.
    pub total_kib: u64,
    /// Part of the total that no process holds: files in memory that the session wrote ([`Watcher::set_files_kib`]).
    pub files_kib: u64,
    /// Part of the total that belongs to strays.
    pub strays_kib: u64,
    /// What was left out of the total because several processes share it.
    pub shared_kib: u64,
    /// PSS was asked in this look.
    pub confirmed: bool,
    /// There were more processes than a look visits.
    pub truncated: bool,
    /// CPU time of this look without the asking for PSS (bounded by itself), microseconds.
    pub look_cpu_us: u64,
    /// CPU time of asking for PSS, microseconds.
    pub confirm_cpu_us: u64,
    /// All processes; those of one subtree stand together, the leader first.
    pub processes: Vec<Process>,
    /// The subtrees in the order of `processes`.
    pub subtrees: Vec<Subtree>,
}

#[cfg(test)]
impl Subtree {
    /// Of the processes from `first` to `end` of a sample that a test makes.
    pub(crate) fn for_tests(
        leader: ProcessId,
        branch: Branch,
        first: usize,
        end: usize,
    ) -> Subtree {
        Subtree {
            leader,
            branch,
            kib: 0,
            first,
            end,
        }
    }
}

#[cfg(test)]
impl Sample {
    /// A client and tools of one process each, without memory.
    pub(crate) fn of_tools(client: i32, tools: &[i32]) -> Sample {
        let id = |pid| ProcessId {
            pid,
            start_ticks: 1,
        };
        let process = |pid| Process {
            id: id(pid),
            ppid: client,
            pgid: pid,
            session: pid,
            footprint_kib: 0,
            counted_kib: 0,
        };
        Sample {
            client: id(client),
            processes: [client]
                .iter()
                .chain(tools)
                .map(|pid| process(*pid))
                .collect(),
            subtrees: (1..=tools.len())
                .map(|first| Subtree {
                    leader: id(tools[first - 1]),
                    branch: Branch::Tool,
                    kib: 0,
                    first,
                    end: first + 1,
                })
                .collect(),
            ..Sample::default()
        }
    }
}

impl Sample {
    /// Memory of the processes alone: what would be free if they ended.
    #[must_use]
    pub fn held_kib(&self) -> u64 {
        self.total_kib.saturating_sub(self.files_kib)
    }

    /// The processes of a subtree of this sample, the leader first.
    #[must_use]
    pub fn members(&self, subtree: &Subtree) -> &[Process] {
        self.processes
            .get(subtree.first..subtree.end)
            .unwrap_or_default()
    }

    /// The process group of a subtree's leader, when the whole group may be signalled: the group's
    /// first process is a member of this subtree, and nobody else of the session is in the group.
    #[must_use]
    pub fn group_of(&self, subtree: &Subtree) -> Option<i32> {
        let members = self.members(subtree);
        let pgid = members.first()?.pgid;
        let led_here = members.iter().any(|process| process.id.pid == pgid);
        let others = [
            self.processes.get(..subtree.first)?,
            self.processes.get(subtree.end..)?,
        ];
        let shared = others.iter().flat_map(|part| part.iter());
        (led_here && !shared.into_iter().any(|process| process.pgid == pgid)).then_some(pgid)
    }
}

/// The result of a look.
#[derive(Debug)]
pub enum Look<'a> {
    /// The client runs.
    Running(&'a Sample),
    /// It has ended (or waits to be reaped). The sample holds what it left behind, as strays.
    ClientGone(&'a Sample),
}

/// Asks whether two processes run in one address space. `None`: can't be told.
type SameMm = fn(i32, i32) -> Option<bool>;

/// What is kept of a process from look to look.
#[derive(Debug)]
struct Known {
    stat: Stat,
    memory: Memory,
    /// The look that saw it last.
    seen: u64,
    handles: Option<Handles>,
    /// What the last PSS said, until execve or the end of the family.
    shared: Option<Shared>,
}

/// What is kept, by pid. In order, to be found by halving: a BTreeMap is 6 KB more of a program that is to be
/// small. To enter one moves the addresses behind it, which is nothing beside reading its files.
#[derive(Debug, Default)]
struct ByPid(Vec<(i32, Box<Known>)>);

impl ByPid {
    fn place(&self, pid: i32) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.cmp(&pid))
    }

    fn get(&self, pid: i32) -> Option<&Known> {
        Some(&*self.0[self.place(pid).ok()?].1)
    }

    fn get_mut(&mut self, pid: i32) -> Option<&mut Known> {
        let at = self.place(pid).ok()?;
        Some(&mut *self.0[at].1)
    }

    fn get_or_enter(&mut self, pid: i32, new: impl FnOnce() -> Known) -> &mut Known {
        let at = self.place(pid).unwrap_or_else(|at| {
            self.0.insert(at, (pid, Box::new(new())));
            at
        });
        &mut self.0[at].1
    }

    fn pids_if(&self, chosen: impl Fn(&Known) -> bool) -> impl Iterator<Item = i32> {
        let of_chosen = move |(pid, known): &(i32, Box<Known>)| chosen(known).then_some(*pid);
        self.0.iter().filter_map(of_chosen)
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut Known> {
        self.0.iter_mut().map(|(_, known)| &mut **known)
    }

    fn retain(&mut self, mut keep: impl FnMut(&mut Known) -> bool) {
        self.0.retain_mut(|(_, known)| keep(known));
    }
}

impl std::ops::Index<i32> for ByPid {
    type Output = Known;

    /// A process that this look has visited is there.
    fn index(&self, pid: i32) -> &Known {
        self.get(pid).expect("visited in this look")
    }
}

/// Open files of one process.
#[derive(Debug)]
struct Handles {
    stat: File,
    statm: File,
    /// Thread id and its list of children.
    threads: Vec<(i32, File)>,
}

/// Shared memory of a process when PSS was asked.
#[derive(Clone, Copy, Debug)]
struct Shared {
    stack_start: u64,
    /// Footprint less PSS.
    shared_kib: u64,
    footprint_kib: u64,
    minor_faults: u64,
}

/// A process that may share pages with its family.
#[derive(Clone, Copy, Debug)]
struct Relative {
    stack_start: u64,
    /// Place in `Sample::processes`: an ancestor comes first.
    place: usize,
    kib: u64,
}

/// How children are found on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChildrenFrom {
    Unknown,
    /// `task/TID/children` of every thread: the children hang under the thread that forked them.
    Tasks,
    /// No such files (CONFIG_PROC_CHILDREN off): the parent of every process of the machine.
    Scan,
}

/// Watches one session.
#[derive(Debug)]
pub struct Watcher {
    proc: Proc,
    same_mm: SameMm,
    launchers: Vec<FileId>,
    root: Option<ProcessId>,
    root_pid: i32,
    children_from: ChildrenFrom,
    handles_left: usize,
    most_processes: usize,
    looks: u64,
    swapped: bool,
    swap_checked_ms: u64,
    known: ByPid,
    /// No part of the session, though it started them.
    apart: Vec<ProcessId>,
    /// What 1 KiB in swap counts, thousandths of one in memory.
    swap_weight: u64,
    files_kib: u64,
    sample: Sample,
    // When PSS was asked last, what that cost, and how near to the limit the total was then.
    confirmed_at_ms: Option<u64>,
    confirm_cost_us: u64,
    confirmed_level: u8,
    // Buffers, empty between looks.
    stack: Vec<(i32, i32)>,
    children: Vec<i32>,
    tids: Vec<i32>,
    tops: Vec<i32>,
    by_parent: Vec<(i32, i32)>,
    relatives: Vec<Relative>,
}

impl Watcher {
    /// Watches the tree below `root_pid`, read from `proc_root` (`/proc`). `launchers` are
    /// executables (shells, `env`) that are never the client: a small root that runs one of them
    /// and has exactly one child stands for that child.
    ///
    /// The caller must not have reaped `root_pid` yet, or its pid may belong to someone else.
    #[must_use]
    pub fn new(proc_root: &Path, root_pid: i32, launchers: Vec<FileId>) -> Watcher {
        // The pids of a made-up /proc mean other processes to the kernel, or none.
        if proc_root == Path::new("/proc") {
            let handles = MOST_HANDLES.min(descriptor_limit() / 4);
            Watcher::with(proc_root, root_pid, launchers, same_address_space, handles)
        } else {
            Watcher::with(proc_root, root_pid, launchers, |_, _| None, 0)
        }
    }

    fn with(
        proc_root: &Path,
        root_pid: i32,
        launchers: Vec<FileId>,
        same_mm: SameMm,
        handles: usize,
    ) -> Watcher {
        let mut proc = Proc::new(proc_root);
        let root = proc.stat(root_pid, None).ok().map(|stat| stat.id);
        Watcher {
            proc,
            same_mm,
            launchers,
            root,
            root_pid,
            children_from: ChildrenFrom::Unknown,
            handles_left: handles,
            most_processes: MOST_PROCESSES,
            looks: 0,
            swapped: false,
            swap_checked_ms: 0,
            known: ByPid::default(),
            apart: Vec::new(),
            swap_weight: 1000,
            files_kib: 0,
            sample: Sample::default(),
            confirmed_at_ms: None,
            confirm_cost_us: 0,
            confirmed_level: 0,
            stack: Vec::new(),
            children: Vec::new(),
            tids: Vec::new(),
            tops: Vec::new(),
            by_parent: Vec::new(),
            relatives: Vec::new(),
        }
    }

    /// From the next look on these processes, a whole subtree, are no part of the session: neither they nor what
    /// they start is counted.
    pub fn set_apart(&mut self, subtree: &[ProcessId]) {
        self.apart.extend_from_slice(subtree);
    }

    /// From the next look on 1 KiB in swap counts this much of one in memory, thousandths (0..=1000): in zram it
    /// takes what is left of it when it is packed.
    pub fn weigh_swap(&mut self, permille: u64) {
        self.swap_weight = permille.min(1000);
    }

    /// From the next look on so much counts as the session's beside its processes: its files in a tmpfs, which are
    /// in no process' RssAnon.
    pub fn set_files_kib(&mut self, files_kib: u64) {
        self.files_kib = files_kib;
    }

    /// The last look's sample (empty before the first).
    #[must_use]
    pub fn sample(&self) -> &Sample {
        &self.sample
    }

    /// Looks at the whole tree. `now_ms`: the caller's monotonic clock. `limit_kib`: from three
    /// quarters of it on, shared pages are sorted out; 0: never.
    pub fn look(&mut self, now_ms: u64, limit_kib: u64) -> Look<'_> {
        let started_us = thread_cpu_us();
        self.looks += 1;
        self.prepare(now_ms);
        let sample = &mut self.sample;
        sample.processes.clear();
        sample.subtrees.clear();
        *sample = Sample {
            at_ms: now_ms,
            client: self.root.unwrap_or(ProcessId {
                pid: self.root_pid,
                start_ticks: 0,
            }),
            processes: std::mem::take(&mut sample.processes),
            subtrees: std::mem::take(&mut sample.subtrees),
            ..Sample::default()
        };

        let client_place = self.client_and_tools();
        self.walk_strays();
        self.forget_unseen();
        let walked_us = thread_cpu_us();
        self.discount(now_ms, limit_kib);
        let discounted_us = thread_cpu_us();
        self.sum_up();

        let sample = &mut self.sample;
        sample.confirm_cpu_us = discounted_us.saturating_sub(walked_us);
        sample.look_cpu_us = thread_cpu_us()
            .saturating_sub(started_us)
            .saturating_sub(sample.confirm_cpu_us);
        let Some(client_place) = client_place else {
            return Look::ClientGone(sample);
        };
        let client = sample.processes[client_place];
        sample.client = client.id;
        sample.client_kib = client.counted_kib;
        Look::Running(sample)
    }

    /// Finds out what this kernel offers, and whether `statm` is enough.
    fn prepare(&mut self, now_ms: u64) {
        if self.children_from == ChildrenFrom::Unknown {
            self.children_from = match self.proc.has_children_files(self.root_pid) {
                Some(true) => ChildrenFrom::Tasks,
                Some(false) => ChildrenFrom::Scan,
                None => ChildrenFrom::Unknown,
            };
        }
        if self.children_from == ChildrenFrom::Scan {
            self.scan();
        }
        // Once a second: pages leave for swap far slower than they are allocated, and the two
        // files cost as much as the rest of a look at one process.
        if self.looks == 1 || now_ms.saturating_sub(self.swap_checked_ms) >= 1000 {
            self.swap_checked_ms = now_ms;
            // A container may show no swap although the host swaps its pages out: ask the
            // client too.
            let client = match self.sample.client.pid {
                0 => self.root_pid,
                pid => pid,
            };
            self.swapped = self.proc.swap_in_use()
                || self
                    .proc
                    .anon_and_swap_kib(client)
                    .is_ok_and(|(_, swap_kib)| swap_kib > 0);
        }
    }

    /// Fills `by_parent` with (parent, child) of the whole machine, sorted.
    fn scan(&mut self) {
        self.by_parent.clear();
        let mut pids = std::mem::take(&mut self.children);
        if self.proc.pids(&mut pids).is_ok() {
            for &pid in &pids {
                if let Ok(stat) = self.proc.stat(pid, None) {
                    self.by_parent.push((stat.ppid, pid));
                }
            }
        }
        pids.clear();
        self.children = pids;
        self.by_parent.sort_unstable();
    }

    /// Visits the root and everything below it. Returns the place of the client in the sample;
    /// `None` when the root has ended.
    fn client_and_tools(&mut self) -> Option<usize> {
        if self.root.is_none() || !self.visit(self.root_pid, None) {
            return None;
        }
        let mut client = 0;
        let mut tops = std::mem::take(&mut self.tops);
        for launchers in 0..=MOST_LAUNCHERS {
            let process = self.sample.processes[client];
            let children = self.children_of(process.id.pid);
            tops.clear();
            tops.extend_from_slice(&children);
            self.children = children;
            let &[only] = tops.as_slice() else { break };
            if launchers == MOST_LAUNCHERS
                || !self.is_launcher(&process)
                || !self.visit(only, Some(process.id.pid))
            {
                break;
            }
            client += 1;
        }
        let client_pid = self.sample.processes[client].id.pid;
        for top in tops.drain(..) {
            self.walk(top, Some(client_pid), Branch::Tool);
        }
        self.tops = tops;
        Some(client)
    }

    fn is_launcher(&mut self, process: &Process) -> bool {
        !self.launchers.is_empty()
            && process.footprint_kib < LAUNCHER_KIB
            && self
                .proc
                .exe(process.id.pid)
                .is_some_and(|exe| self.launchers.contains(&exe))
    }

    /// Visits the known processes that were not reached from the client, and what is below them.
    fn walk_strays(&mut self) {
        let looks = self.looks;
        let mut lost = std::mem::take(&mut self.tops);
        lost.extend(self.known.pids_if(|known| known.seen != looks));
        // Oldest first, so that a stray's own child is found below it and not beside it (pids
        // wrap around, start times don't).
        lost.sort_by_key(|pid| self.known[*pid].stat.id.start_ticks);
        for pid in lost.drain(..) {
            self.walk(pid, None, Branch::Stray);
        }
        self.tops = lost;
    }

    /// Visits a process and all its descendants, as one subtree.
    fn walk(&mut self, top: i32, parent: Option<i32>, branch: Branch) {
        let first = self.sample.processes.len();
        if !self.visit(top, parent) {
            return;
        }
        let leader = self.sample.processes[first].id;
        let mut stack = std::mem::take(&mut self.stack);
        let mut pid = top;
        loop {
            let mut children = self.children_of(pid);
            stack.extend(children.iter().map(|&child| (child, pid)));
            children.clear();
            self.children = children;
            // Depth first: a subtree's processes stand together.
            let next = loop {
                match stack.pop() {
                    Some((child, parent)) if self.visit(child, Some(parent)) => break Some(child),
                    Some(_) => {}
                    None => break None,
                }
            };
            match next {
                Some(child) => pid = child,
                None => break,
            }
        }
        self.stack = stack;
        self.sample.subtrees.push(Subtree {
            leader,
            branch,
            kib: 0,
            first,
            end: self.sample.processes.len(),
        });
    }

    /// Reads one process and adds it to the sample. False: it is gone, not ours, or was visited
    /// in this look already (children files of a changing tree may name a process twice, and
    /// hostile ones may go in circles). `parent`: who listed it; None: it must be known already.
    fn visit(&mut self, pid: i32, parent: Option<i32>) -> bool {
        if self.sample.processes.len() >= self.most_processes {
            self.sample.truncated = true;
            return false;
        }
        let looks = self.looks;
        let mut known = self.known.get_mut(pid);
        if known.as_ref().is_some_and(|known| known.seen == looks) {
            return false;
        }
        let handle = known
            .as_ref()
            .and_then(|known| known.handles.as_ref())
            .map(|handles| &handles.stat);
        let had_handle = handle.is_some();
        let mut read = self.proc.stat(pid, handle);
        if had_handle && read.is_err() {
            // That process is gone. Its pid may have a new owner.
            if let Some(known) = known.as_deref_mut() {
                release(&mut self.handles_left, &mut known.handles);
            }
            read = self.proc.stat(pid, None);
        }
        if read == Err(Unreadable::Starved) {
            // No descriptors left in this process: ours first.
            for known in self.known.values_mut() {
                release(&mut self.handles_left, &mut known.handles);
            }
            self.handles_left = 0;
            read = self.proc.stat(pid, None);
            known = self.known.get_mut(pid);
        }
        let Ok(stat) = read else { return false };
        if self.apart.contains(&stat.id) {
            return false;
        }
        let is_root = self.root == Some(stat.id);
        let known = known.filter(|known| known.stat.id == stat.id);
        let is_known = known.is_some();
        if is_known {
            if stat.is_dead() && is_root {
                return false;
            }
        } else {
            // The children file was read a moment ago: the pid may be someone else's by now.
            let listed = parent.is_some_and(|parent| parent == stat.ppid);
            if !(listed || is_root) || (is_root && stat.is_dead()) {
                return false;
            }
        }

        let shares = parent.is_some_and(|parent| self.in_parents_memory(&stat, parent));
        let memory = self.memory_of(&stat);
        let footprint_kib = if shares { 0 } else { memory.footprint_kib };

        // Handles from the second look on: in a storm of short-lived processes they don't pay.
        let wants_handles = is_known && !stat.is_dead();
        let known = self.known.get_or_enter(pid, || Known {
            stat,
            memory,
            seen: looks,
            handles: None,
            shared: None,
        });
        if known.stat.id != stat.id {
            release(&mut self.handles_left, &mut known.handles);
            known.shared = None;
        }
        if known
            .shared
            .is_some_and(|shared| shared.stack_start != stat.stack_start)
        {
            // execve: nothing is shared any more.
            known.shared = None;
        }
        known.stat = stat;
        known.memory = memory;
        known.seen = looks;
        if wants_handles && known.handles.is_none() && self.handles_left >= 2 {
            let opened = self.proc.open(pid, "stat").and_then(|stat| {
                Ok(Handles {
                    stat,
                    statm: self.proc.open(pid, "statm")?,
                    threads: Vec::new(),
                })
            });
            if let Ok(handles) = opened {
                // Opened by pid just now: sure to be the same process only if it still is.
                if self
                    .proc
                    .stat(pid, Some(&handles.stat))
                    .is_ok_and(|now| now.id == stat.id)
                {
                    self.handles_left -= 2;
                    known.handles = Some(handles);
                }
            }
        }
        self.sample.processes.push(Process {
            id: stat.id,
            ppid: stat.ppid,
            pgid: stat.pgid,
            session: stat.session,
            footprint_kib,
            counted_kib: footprint_kib,
        });
        true
    }

    /// Whether a process runs in the address space of the parent that listed it.
    fn in_parents_memory(&mut self, stat: &Stat, parent_pid: i32) -> bool {
        let Some(parent) = self.known.get(parent_pid) else {
            return false;
        };
        if parent.memory.footprint_kib < SMALL_KIB {
            return false;
        }
        if let Some(same) = (self.same_mm)(parent_pid, stat.id.pid) {
            return same;
        }
        // kcmp is not permitted. Same program, same stack, and all but the same size at one
        // moment. A child of a plain fork looks like that too, as long as it has not yet diverged
        // by a percent: as long as its pages are its parent's, so leaving it out is right as well.
        if parent.stat.stack_start != stat.stack_start {
            return false;
        }
        let exe = self.proc.exe(parent_pid);
        if exe.is_none() || exe != self.proc.exe(stat.id.pid) {
            return false;
        }
        let (Ok(of_parent), Ok(of_child)) = (
            self.proc.memory(parent_pid, None),
            self.proc.memory(stat.id.pid, None),
        ) else {
            return false;
        };
        close_to(of_parent.size_pages, of_child.size_pages)
            && close_to(of_parent.resident_pages, of_child.resident_pages)
    }

    /// Memory of a process: statm, or status where something may be swapped out. Zero when it is
    /// gone in the meantime.
    fn memory_of(&mut self, stat: &Stat) -> Memory {
        if stat.is_dead() {
            return Memory::default();
        }
        let pid = stat.id.pid;
        let handle = self
            .known
            .get(pid)
            .filter(|known| known.stat.id == stat.id)
            .and_then(|known| known.handles.as_ref())
            .map(|handles| &handles.statm);
        let mut memory = self.proc.memory(pid, handle).unwrap_or_default();
        if stat.state == b'Z' && memory.size_pages == 0 {
            // The first thread has ended, others live on: the memory is seen through them.
            let mut tids = std::mem::take(&mut self.tids);
            if self.proc.threads(pid, &mut tids).is_ok() {
                memory = tids
                    .iter()
                    .filter_map(|&tid| self.proc.memory_of_thread(pid, tid).ok())
                    .find(|memory| memory.size_pages > 0)
                    .unwrap_or_default();
            }
            tids.clear();
            self.tids = tids;
        } else if self.swapped
            && let Ok((kib, swap_kib)) = self.proc.anon_and_swap_kib(pid)
        {
            let saved_kib = swap_kib.saturating_mul(1000 - self.swap_weight) / 1000;
            memory.footprint_kib = kib.saturating_sub(saved_kib);
        }
        memory
    }

    /// The children of a visited process, in the buffer `children`, which must be given back.
    fn children_of(&mut self, pid: i32) -> Vec<i32> {
        let mut children = std::mem::take(&mut self.children);
        children.clear();
        if self.children_from == ChildrenFrom::Scan {
            let start = self.by_parent.partition_point(|&(parent, _)| parent < pid);
            children.extend(
                self.by_parent[start..]
                    .iter()
                    .take_while(|&&(parent, _)| parent == pid)
                    .map(|&(_, child)| child),
            );
            return children;
        }
        let Some(known) = self.known.get_mut(pid) else {
            return children;
        };
        let mut tids = std::mem::take(&mut self.tids);
        tids.clear();
        // The only thread of a living process has the process' number. Several are listed anew
        // each time: their count may be the same while they are not, and the file of a thread
        // that has ended reads as empty, not as gone.
        if known.stat.threads == 1 && known.stat.state != b'Z' {
            tids.push(pid);
        } else if self.proc.threads(pid, &mut tids).is_err() {
            tids.clear();
        }
        let handles_left = &mut self.handles_left;
        if let Some(handles) = known.handles.as_mut() {
            let held = handles.threads.len();
            if self.looks.is_multiple_of(REOPEN_LOOKS) {
                handles.threads.clear();
            }
            handles.threads.retain(|(tid, _)| tids.contains(tid));
            *handles_left += held - handles.threads.len();
        }
        for &tid in &tids {
            let held = known.handles.as_ref().and_then(|handles| {
                let (_, file) = handles.threads.iter().find(|(held, _)| *held == tid)?;
                Some(file)
            });
            if let Some(file) = held {
                let _ = self.proc.children(pid, tid, Some(file), &mut children);
                continue;
            }
            // A thread that vanishes here has handed its children to another one: they are seen
            // in the next look, and known ones are visited as strays in this one.
            let Ok(file) = self.proc.open_children(pid, tid) else {
                continue;
            };
            let _ = self.proc.children(pid, tid, Some(&file), &mut children);
            if let Some(handles) = known.handles.as_mut()
                && *handles_left > 0
            {
                *handles_left -= 1;
                handles.threads.push((tid, file));
            }
        }
        tids.clear();
        self.tids = tids;
        children
    }

    /// Drops what was not seen in this look: it has ended.
    fn forget_unseen(&mut self) {
        let looks = self.looks;
        let handles_left = &mut self.handles_left;
        self.known.retain(|known| {
            let keep = known.seen == looks;
            if !keep {
                release(handles_left, &mut known.handles);
            }
            keep
        });
        // After a storm: no room is kept that a thousand processes would not need.
        let room = self.sample.processes.len().max(1024);
        self.sample.processes.shrink_to(room);
        self.sample.subtrees.shrink_to(room);
        self.stack.shrink_to(room);
        self.children.shrink_to(room);
        self.tids.shrink_to(room);
        self.tops.shrink_to(room);
        self.by_parent.shrink_to(room);
        self.relatives.shrink_to(room);
        self.proc.shrink();
    }

    /// Takes shared pages out of `counted_kib` of all but the first of each family.
    fn discount(&mut self, now_ms: u64, limit_kib: u64) {
        let gross_kib = self.sample.processes.iter().fold(0_u64, |sum, process| {
            sum.saturating_add(process.footprint_kib)
        });
        if limit_kib == 0 || gross_kib < limit_kib / 4 * 3 {
            return;
        }
        let mut relatives = std::mem::take(&mut self.relatives);
        relatives.clear();
        for (place, process) in self.sample.processes.iter().enumerate() {
            if process.footprint_kib >= SMALL_KIB {
                relatives.push(Relative {
                    stack_start: self.known[process.id.pid].stat.stack_start,
                    place,
                    kib: process.footprint_kib,
                });
            }
        }
        relatives.sort_unstable_by_key(|relative| (relative.stack_start, relative.place));

        let kept_kib = self.kept_discount(&relatives);
        let estimate_kib = gross_kib.saturating_sub(kept_kib);
        let matters = relatives
            .chunk_by(|a, b| a.stack_start == b.stack_start)
            .any(|family| may_share_kib(family) > limit_kib / 50);
        let has_unknown = relatives
            .chunk_by(|a, b| a.stack_start == b.stack_start)
            .any(|family| family.len() > 1 && family.iter().any(|one| self.is_unknown(one)));
        if matters && self.must_confirm(now_ms, estimate_kib, limit_kib, has_unknown) {
            let started_us = thread_cpu_us();
            self.ask_for_pss(&relatives, limit_kib);
            self.confirm_cost_us = thread_cpu_us().saturating_sub(started_us);
            self.confirmed_at_ms = Some(now_ms);
            self.sample.confirmed = true;
            let now_kib = gross_kib.saturating_sub(self.kept_discount(&relatives));
            self.confirmed_level = level(now_kib, limit_kib);
        }
        self.apply_discount(&relatives);
        relatives.clear();
        self.relatives = relatives;
    }

    /// Whether the dear question is due: when a mark (75, 90, 100 %) is passed for the first time,
    /// when its cost has been paid off, and at the limit, where what follows ends something,
    /// after four times its cost. Above the first mark also where a family has somebody new: one that
    /// was just forked would count as a whole, be warned of, and be ended for it.
    fn must_confirm(
        &self,
        now_ms: u64,
        estimate_kib: u64,
        limit_kib: u64,
        has_unknown: bool,
    ) -> bool {
        let Some(confirmed_at_ms) = self.confirmed_at_ms else {
            return true;
        };
        let level = level(estimate_kib, limit_kib);
        let times = if level == AT_LIMIT { 4 } else { CONFIRM_TIMES };
        level > self.confirmed_level
            || (level > 0 && has_unknown)
            || now_ms.saturating_sub(confirmed_at_ms) >= self.confirm_cost_us * times / 1000
    }

    /// Was it never asked what this one shares?
    fn is_unknown(&self, relative: &Relative) -> bool {
        let process = self.sample.processes[relative.place];
        self.known[process.id.pid].shared.is_none()
    }

    /// Sum of what the families are known to share.
    fn kept_discount(&self, relatives: &[Relative]) -> u64 {
        relatives
            .chunk_by(|a, b| a.stack_start == b.stack_start)
            .map(|family| self.family_discount(family))
            .fold(0, u64::saturating_add)
    }

    /// What a family shares, by the last PSS: less what its members have touched or given up
    /// since, and never so much that less than the biggest of them would remain.
    fn family_discount(&self, family: &[Relative]) -> u64 {
        let mut shared_kib = 0_u64;
        let mut lost_kib = 0_u64;
        let mut sum_kib = 0_u64;
        let mut biggest_kib = 0;
        for relative in family {
            let process = self.sample.processes[relative.place];
            let known = &self.known[process.id.pid];
            let Some(shared) = known.shared else { continue };
            let touched_kib = known
                .stat
                .minor_faults
                .saturating_sub(shared.minor_faults)
                .saturating_mul(self.proc.page_kib());
            let given_up_kib = shared.footprint_kib.saturating_sub(relative.kib);
            shared_kib = shared_kib.saturating_add(shared.shared_kib);
            // A page that one member no longer shares is lost to the family, whoever's part it
            // was in the PSS: so it is taken from the sum, not from this member's part.
            lost_kib = lost_kib
                .saturating_add(touched_kib)
                .saturating_add(given_up_kib);
            sum_kib = sum_kib.saturating_add(relative.kib);
            biggest_kib = relative.kib.max(biggest_kib);
        }
        let shared_kib = shared_kib.saturating_sub(lost_kib);
        shared_kib.min(sum_kib - biggest_kib)
    }

    /// Asks for the PSS of the members of every family that may share enough to matter.
    fn ask_for_pss(&mut self, relatives: &[Relative], limit_kib: u64) {
        let started = Instant::now();
        for family in relatives.chunk_by(|a, b| a.stack_start == b.stack_start) {
            if may_share_kib(family) <= limit_kib / 50 {
                continue;
            }
            let mut asked_kib = 0_u64;
            let mut shared_kib = 0_u64;
            for relative in family {
                let process = self.sample.processes[relative.place];
                let in_time = started.elapsed().as_millis() < u128::from(CONFIRM_MS);
                let own_kib = if in_time || asked_kib == 0 {
                    match self.proc.share_kib(process.id.pid) {
                        Ok(pss_kib) => {
                            asked_kib = asked_kib.saturating_add(relative.kib);
                            let own_kib = relative.kib.saturating_sub(pss_kib);
                            shared_kib = shared_kib.saturating_add(own_kib);
                            Some(own_kib)
                        }
                        // Not for our eyes, or gone: counted in full.
                        Err(_) => None,
                    }
                } else {
                    // As much of it as of its family so far.
                    let part = u128::from(relative.kib) * u128::from(shared_kib);
                    u64::try_from(part / u128::from(asked_kib.max(1))).ok()
                };
                if let Some(known) = self.known.get_mut(process.id.pid) {
                    known.shared = own_kib.map(|shared_kib| Shared {
                        stack_start: relative.stack_start,
                        shared_kib,
                        footprint_kib: relative.kib,
                        minor_faults: known.stat.minor_faults,
                    });
                }
            }
        }
    }

    /// Takes each family's discount from its members, the last first.
    fn apply_discount(&mut self, relatives: &[Relative]) {
        for family in relatives.chunk_by(|a, b| a.stack_start == b.stack_start) {
            let mut left_kib = self.family_discount(family);
            self.sample.shared_kib = self.sample.shared_kib.saturating_add(left_kib);
            for relative in family.iter().rev() {
                let process = &mut self.sample.processes[relative.place];
                if self.known[process.id.pid].shared.is_some() {
                    let part_kib = left_kib.min(process.footprint_kib);
                    process.counted_kib -= part_kib;
                    left_kib -= part_kib;
                }
            }
        }
    }

    /// The sums of the sample.
    fn sum_up(&mut self) {
        let sample = &mut self.sample;
        let sum = |processes: &[Process]| {
            processes.iter().fold(0_u64, |sum, process| {
                sum.saturating_add(process.counted_kib)
            })
        };
        sample.total_kib = sum(&sample.processes).saturating_add(self.files_kib);
        sample.files_kib = self.files_kib;
        for subtree in &mut sample.subtrees {
            subtree.kib = sum(&sample.processes[subtree.first..subtree.end]);
            if subtree.branch == Branch::Stray {
                sample.strays_kib = sample.strays_kib.saturating_add(subtree.kib);
            }
        }
    }
}

/// Closes a process' handles.
fn release(handles_left: &mut usize, handles: &mut Option<Handles>) {
    if let Some(handles) = handles.take() {
        *handles_left += 2 + handles.threads.len();
    }
}

/// The most that a family can have in common: all but its biggest member.
fn may_share_kib(family: &[Relative]) -> u64 {
    let (sum_kib, biggest_kib) = family.iter().fold((0_u64, 0), |(sum, biggest), relative| {
        (sum.saturating_add(relative.kib), relative.kib.max(biggest))
    });
    sum_kib - biggest_kib
}

/// Which mark a total has reached: 75 %, 90 %, the limit.
fn level(total_kib: u64, limit_kib: u64) -> u8 {
    if total_kib >= limit_kib {
        AT_LIMIT
    } else if total_kib >= limit_kib / 10 * 9 {
        2
    } else {
        u8::from(total_kib >= limit_kib / 4 * 3)
    }
}

/// Equal within 1/128.
fn close_to(a: u64, b: u64) -> bool {
    a.abs_diff(b) <= a.max(b) / 128
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::proc::page_kib;
    use crate::watch::fixture::{FakeProc, Random};

    /// 10 MiB in pages.
    fn pages(mib: u64) -> u64 {
        mib * 1024 / page_kib()
    }

    fn watch(fake: &FakeProc, root: i32) -> Watcher {
        Watcher::new(fake.path(), root, Vec::new())
    }

    #[track_caller]
    fn running(watcher: &mut Watcher) -> Sample {
        match watcher.look(0, 0) {
            Look::Running(sample) => sample.clone(),
            Look::ClientGone(sample) => panic!("gone: {sample:?}"),
        }
    }

    fn gone(watcher: &mut Watcher) -> Sample {
        match watcher.look(0, 0) {
            Look::ClientGone(sample) => sample.clone(),
            Look::Running(sample) => panic!("runs: {sample:?}"),
        }
    }

    /// (leader, members, MiB) of each subtree.
    fn shape(sample: &Sample) -> Vec<(i32, Vec<i32>, u64)> {
        let mut shape: Vec<_> = sample
            .subtrees
            .iter()
            .map(|subtree| {
                let members = sample.members(subtree);
                let mut pids: Vec<i32> = members.iter().map(|process| process.id.pid).collect();
                assert_eq!(pids[0], subtree.leader.pid);
                pids.sort_unstable();
                (subtree.leader.pid, pids, subtree.kib / 1024)
            })
            .collect();
        shape.sort_unstable();
        shape
    }

    /// Client 100 of two threads; 200 (with 201, and 202 below that) under the first, 300 under
    /// the second.
    fn session() -> FakeProc {
        let fake = FakeProc::new();
        fake.stat(100, 1, b"claude", 5, 2, b'S', 100);
        fake.pages(100, pages(400));
        fake.children(100, 100, &[200]);
        fake.children(100, 101, &[300]);
        fake.process(200, 100, b"foo) Z 1 (", 50, pages(1));
        fake.children(200, 200, &[201]);
        fake.process(201, 200, b"a\nb", 51, pages(20));
        fake.children(201, 201, &[202]);
        fake.process(202, 201, b") R 1", 52, pages(300));
        fake.process(300, 100, b"mcp", 60, pages(7));
        fake
    }

    #[test]
    fn the_children_of_every_thread_are_found_and_summed() {
        let fake = session();
        let sample = running(&mut watch(&fake, 100));
        assert_eq!(
            sample.client,
            ProcessId {
                pid: 100,
                start_ticks: 5
            }
        );
        assert_eq!(sample.client_kib, 400 * 1024);
        assert_eq!(sample.total_kib, 728 * 1024);
        assert_eq!(
            shape(&sample),
            [(200, vec![200, 201, 202], 321), (300, vec![300], 7)]
        );
        assert!(
            sample
                .subtrees
                .iter()
                .all(|tree| tree.branch == Branch::Tool)
        );
        assert_eq!(sample.strays_kib, 0);
    }

    #[test]
    fn without_children_files_the_whole_of_proc_is_scanned() {
        let fake = session();
        for (pid, tid) in [
            (100, 100),
            (100, 101),
            (200, 200),
            (201, 201),
            (202, 202),
            (300, 300),
        ] {
            let file = format!("{pid}/task/{tid}/children");
            std::fs::remove_file(fake.path().join(file)).unwrap();
        }
        // Neighbours that are not ours, and entries that are no processes.
        fake.process(900, 1, b"other", 1, pages(999));
        fake.write(901, "stat", b"junk");
        std::fs::create_dir(fake.path().join("sys")).unwrap();
        std::fs::write(fake.path().join("99999999999999"), b"").unwrap();
        let mut watcher = watch(&fake, 100);
        let sample = running(&mut watcher);
        assert_eq!(watcher.children_from, ChildrenFrom::Scan);
        assert_eq!(
            shape(&sample),
            [(200, vec![200, 201, 202], 321), (300, vec![300], 7)]
        );
    }

    #[test]
    fn circles_and_repetitions_are_counted_once() {
        let fake = session();
        fake.children(202, 202, &[201, 200, 100, 202, 300, 1]);
        fake.children(100, 101, &[300, 300, 200, 100]);
        let mut watcher = watch(&fake, 100);
        for _ in 0..3 {
            let sample = running(&mut watcher);
            assert_eq!(sample.total_kib, 728 * 1024);
            assert_eq!(sample.processes.len(), 5);
        }
    }

    #[test]
    fn a_vanished_file_at_any_step_is_never_an_error() {
        for file in ["stat", "statm", "task/201/children", "task/201", "task", ""] {
            for empty in [false, true] {
                let fake = session();
                let mut watcher = watch(&fake, 100);
                let path = fake.path().join("201").join(file);
                if empty && path.is_file() {
                    std::fs::write(&path, b"").unwrap();
                } else if path.is_file() {
                    std::fs::remove_file(&path).unwrap();
                } else {
                    std::fs::remove_dir_all(&path).unwrap();
                }
                let sample = running(&mut watcher);
                assert!(sample.total_kib >= 408 * 1024, "{file}");
                assert!(sample.total_kib <= 728 * 1024, "{file}");
            }
        }
    }

    #[test]
    fn a_listed_process_with_another_parent_is_not_ours() {
        let fake = session();
        fake.process(400, 77, b"reused pid", 70, pages(5000));
        fake.children(300, 300, &[400]);
        let sample = running(&mut watch(&fake, 100));
        assert_eq!(sample.total_kib, 728 * 1024);
    }

    #[test]
    fn orphans_stay_counted_with_their_own_children_as_strays() {
        let fake = session();
        let mut watcher = watch(&fake, 100);
        running(&mut watcher);
        // 200 and 201 end, 202 goes to init and has a child.
        fake.remove(200);
        fake.remove(201);
        fake.children(100, 100, &[]);
        fake.process(202, 1, b"daemon", 52, pages(300));
        fake.process(203, 202, b"child", 80, pages(3));
        fake.children(202, 202, &[203]);
        for _ in 0..3 {
            let sample = running(&mut watcher);
            assert_eq!(
                shape(&sample),
                [(202, vec![202, 203], 303), (300, vec![300], 7)]
            );
            assert_eq!(sample.strays_kib, 303 * 1024);
            assert_eq!(sample.total_kib, 710 * 1024);
        }
        // The pid is used again by a stranger.
        fake.process(202, 1, b"stranger", 99, pages(300));
        fake.remove(203);
        fake.children(202, 202, &[]);
        let sample = running(&mut watcher);
        assert_eq!(shape(&sample), [(300, vec![300], 7)]);
        assert_eq!((sample.strays_kib, sample.total_kib), (0, 407 * 1024));
    }

    #[test]
    fn a_chain_of_orphans_is_one_subtree_although_pids_wrapped_around() {
        let fake = session();
        fake.children(300, 300, &[9]);
        fake.process(9, 300, b"late", 90, pages(2));
        let mut watcher = watch(&fake, 100);
        running(&mut watcher);
        fake.process(300, 1, b"mcp", 60, pages(7));
        fake.children(300, 300, &[9]);
        fake.children(100, 101, &[]);
        let sample = running(&mut watcher);
        assert_eq!(shape(&sample)[1], (300, vec![9, 300], 9));
        assert_eq!(sample.subtrees.len(), 2);
    }

    #[test]
    fn the_end_of_the_client_leaves_the_rest_in_the_sample() {
        for zombie in [false, true] {
            let fake = session();
            let mut watcher = watch(&fake, 100);
            running(&mut watcher);
            if zombie {
                fake.stat(100, 1, b"claude", 5, 1, b'Z', 100);
            } else {
                fake.remove(100);
            }
            for orphan in [200, 300] {
                let start = if orphan == 200 { 50 } else { 60 };
                fake.stat(orphan, 1, b"x", start, 1, b'S', 1);
            }
            for _ in 0..2 {
                let sample = gone(&mut watcher);
                assert_eq!(sample.client.pid, 100);
                assert_eq!(sample.client_kib, 0);
                assert_eq!(sample.strays_kib, 328 * 1024);
                assert_eq!(sample.subtrees.len(), 2);
            }
            // The pid belongs to someone else.
            if !zombie {
                fake.process(100, 1, b"other", 6, pages(1));
                assert_eq!(gone(&mut watcher).total_kib, 328 * 1024);
            }
        }
    }

    #[test]
    fn a_client_that_never_was_is_gone() {
        let fake = FakeProc::new();
        let sample = gone(&mut watch(&fake, 100));
        assert_eq!(sample.total_kib, 0);
    }

    #[test]
    fn a_dead_first_thread_is_not_the_end_of_the_process() {
        let fake = session();
        fake.stat(100, 1, b"claude", 5, 2, b'Z', 100);
        fake.write(100, "statm", b"0 0 0 0 0 0 0\n");
        fake.write(100, "task/100/statm", b"0 0 0 0 0 0 0\n");
        let text = format!("{0} {0} 0 0 0 0 0\n", pages(33));
        fake.write(100, "task/101/statm", text.as_bytes());
        let sample = running(&mut watch(&fake, 100));
        assert_eq!(sample.client_kib, 33 * 1024);
        assert_eq!(sample.subtrees.len(), 2);
    }

    #[test]
    fn a_launcher_with_one_child_stands_for_that_child() {
        let fake = session();
        let shell = fake.path().join("sh");
        let node = fake.path().join("node");
        std::fs::write(&shell, b"").unwrap();
        std::fs::write(&node, b"").unwrap();
        for (pid, exe) in [(50, &shell), (60, &shell), (100, &node)] {
            fake.write(pid, "x", b"");
            let link = fake.path().join(pid.to_string()).join("exe");
            std::os::unix::fs::symlink(exe, link).unwrap();
        }
        fake.process(50, 1, b"sh", 1, pages(1));
        fake.process(60, 50, b"sh", 2, pages(2));
        fake.stat(100, 60, b"claude", 5, 2, b'S', 100);
        fake.children(50, 50, &[60]);
        fake.children(60, 60, &[100]);
        let launchers = vec![FileId::of(&shell).unwrap()];
        let mut watcher = Watcher::new(fake.path(), 50, launchers.clone());
        let sample = running(&mut watcher);
        assert_eq!(sample.client.pid, 100);
        assert_eq!(sample.total_kib, 731 * 1024);
        assert_eq!(shape(&sample).len(), 2);

        // Two children: which one is it? The launcher itself, then.
        fake.process(61, 50, b"sh", 2, pages(2));
        fake.children(50, 50, &[60, 61]);
        assert_eq!(running(&mut watcher).client.pid, 50);
        fake.children(50, 50, &[60]);
        // A launcher as big as this is a program of its own.
        fake.pages(60, pages(64));
        assert_eq!(running(&mut watcher).client.pid, 60);
        // Not yet started, and ended.
        fake.children(50, 50, &[]);
        assert_eq!(
            running(&mut Watcher::new(fake.path(), 50, launchers))
                .client
                .pid,
            50
        );
        assert_eq!(
            running(&mut Watcher::new(fake.path(), 60, Vec::new()))
                .client
                .pid,
            60
        );
    }

    #[test]
    fn swapped_out_memory_is_counted() {
        let fake = session();
        let status = b"Name:\tx\nRssAnon:\t  1024 kB\nVmSwap:\t  2048 kB\n";
        fake.write(300, "status", status);
        // No swap on the machine: status is not read.
        assert_eq!(running(&mut watch(&fake, 100)).total_kib, 728 * 1024);
        std::fs::write(fake.path().join("swaps"), "Filename\n/s file 9 1 0\n").unwrap();
        assert_eq!(running(&mut watch(&fake, 100)).total_kib, 724 * 1024);
        // A container that hides the swap: the client's own tells.
        std::fs::remove_file(fake.path().join("swaps")).unwrap();
        fake.write(100, "status", status);
        let sample = running(&mut watch(&fake, 100));
        assert_eq!((sample.client_kib, sample.total_kib), (3072, 327 * 1024));
        // In zram it takes less: 1024 and a quarter of 2048.
        let mut watcher = watch(&fake, 100);
        watcher.weigh_swap(250);
        assert_eq!(running(&mut watcher).client_kib, 1536);
        watcher.weigh_swap(u64::MAX);
        assert_eq!(running(&mut watcher).client_kib, 3072);
    }

    #[test]
    fn what_is_set_apart_counts_no_more_nor_what_it_starts() {
        let fake = session();
        let mut watcher = watch(&fake, 100);
        let sample = running(&mut watcher);
        let apart = sample.subtrees[0];
        let members: Vec<_> = sample
            .members(&apart)
            .iter()
            .map(|process| process.id)
            .collect();
        let before = sample.processes.len();
        watcher.set_apart(&members);
        let after = running(&mut watcher);
        assert_eq!(after.processes.len(), before - members.len());
        assert_eq!(after.total_kib, sample.total_kib - apart.kib);
        assert!(
            after
                .subtrees
                .iter()
                .all(|subtree| subtree.leader != apart.leader)
        );
        // Its parent has ended, as a daemon's does: it is no stray either.
        fake.stat(
            apart.leader.pid,
            1,
            b"daemon",
            apart.leader.start_ticks,
            1,
            b'S',
            7,
        );
        assert_eq!(running(&mut watcher).total_kib, after.total_kib);
    }

    #[test]
    fn a_group_may_be_signalled_only_if_all_of_it_is_the_tools() {
        let fake = session();
        fake.stat(200, 100, b"own group", 50, 1, b'S', 200);
        fake.stat(201, 200, b"in it", 51, 1, b'S', 200);
        fake.stat(300, 100, b"the client's", 60, 1, b'S', 100);
        let mut watcher = watch(&fake, 100);
        let sample = running(&mut watcher);
        let group = |sample: &Sample, leader: i32| {
            let of_leader = |tree: &&Subtree| tree.leader.pid == leader;
            sample.group_of(sample.subtrees.iter().find(of_leader).unwrap())
        };
        assert_eq!(group(&sample, 200), Some(200));
        assert_eq!(group(&sample, 300), None);
        // A neighbour joins the group.
        fake.stat(300, 100, b"guest", 60, 1, b'S', 200);
        let sample = running(&mut watcher);
        assert_eq!((group(&sample, 200), group(&sample, 300)), (None, None));
    }

    #[test]
    fn a_child_in_its_parents_address_space_counts_nothing() {
        let fake = session();
        fake.pages(201, pages(400));
        fake.pages(200, pages(400));
        let same: SameMm = |parent, child| Some(matches!((parent, child), (100, 200) | (200, 201)));
        let mut watcher = Watcher::with(fake.path(), 100, Vec::new(), same, 0);
        let sample = running(&mut watcher);
        assert_eq!(sample.total_kib, 707 * 1024);
        assert_eq!(shape(&sample)[0], (200, vec![200, 201, 202], 300));
    }

    #[test]
    fn without_kcmp_only_a_twin_of_the_parent_is_taken_for_sharing() {
        let fake = session();
        let program = fake.path().join("program");
        std::fs::write(&program, b"").unwrap();
        for pid in [100, 200, 300] {
            let link = fake.path().join(pid.to_string()).join("exe");
            std::os::unix::fs::symlink(&program, link).unwrap();
        }
        let other = fake.path().join("other");
        std::fs::write(&other, b"").unwrap();
        fake.pages(200, pages(399));
        let mut watcher = watch(&fake, 100);
        assert_eq!(running(&mut watcher).total_kib, 727 * 1024, "200 is a twin");
        fake.pages(200, pages(390));
        assert_eq!(running(&mut watcher).total_kib, 1117 * 1024, "grown apart");
        fake.pages(200, pages(400));
        std::fs::remove_file(fake.path().join("200/exe")).unwrap();
        std::os::unix::fs::symlink(&other, fake.path().join("200/exe")).unwrap();
        assert_eq!(
            running(&mut watcher).total_kib,
            1127 * 1024,
            "another program"
        );
    }

    fn rollup(fake: &FakeProc, pid: i32, pss_mib: u64) {
        let text = format!(
            "x\nPss: 9 kB\nPss_Anon: {} kB\nSwapPss: 0 kB\n",
            pss_mib * 1024
        );
        fake.write(pid, "smaps_rollup", text.as_bytes());
    }

    fn faults(fake: &FakeProc, pid: i32, ppid: i32, start: u64, faults: u64, stack: u64) {
        let text = format!(
            "{pid} (x) S {ppid} 1 1 0 -1 0 {faults} 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0 0 0 0 {stack} 0\n"
        );
        fake.write(pid, "stat", text.as_bytes());
    }

    /// Client 100 and its forked child 200, 300 MiB each, 280 of them the same pages.
    fn forked() -> FakeProc {
        let fake = FakeProc::new();
        fake.process(100, 1, b"x", 5, pages(300));
        fake.process(200, 100, b"x", 6, pages(300));
        fake.children(100, 100, &[200]);
        faults(&fake, 100, 1, 5, 1000, 77);
        faults(&fake, 200, 100, 6, 10, 77);
        rollup(&fake, 100, 160);
        rollup(&fake, 200, 160);
        fake
    }

    const LIMIT_KIB: u64 = 700 * 1024;

    #[track_caller]
    fn look(watcher: &mut Watcher, now_ms: u64) -> (bool, u64) {
        match watcher.look(now_ms, LIMIT_KIB) {
            Look::Running(sample) => {
                let footprints: u64 = sample.processes.iter().map(|one| one.footprint_kib).sum();
                assert_eq!(sample.total_kib + sample.shared_kib, footprints);
                (sample.confirmed, sample.total_kib / 1024)
            }
            Look::ClientGone(sample) => panic!("gone: {sample:?}"),
        }
    }

    #[test]
    fn pages_shared_by_a_fork_are_counted_once_and_with_the_ancestor() {
        let fake = forked();
        let mut watcher = watch(&fake, 100);
        assert_eq!(look(&mut watcher, 0), (true, 320));
        assert_eq!(watcher.sample().client_kib, 300 * 1024);
        assert_eq!(watcher.sample().subtrees[0].kib, 20 * 1024);
        // Far from the limit nobody asks.
        let Look::Running(sample) = watcher.look(0, 10 * LIMIT_KIB) else {
            panic!()
        };
        assert_eq!((sample.confirmed, sample.total_kib), (false, 600 * 1024));
    }

    #[test]
    fn the_discount_is_kept_and_wears_off_with_every_page_touched() {
        let fake = forked();
        let mut watcher = watch(&fake, 100);
        assert_eq!(look(&mut watcher, 0), (true, 320));
        watcher.confirm_cost_us = 1_000_000;
        assert_eq!(look(&mut watcher, 100), (false, 320));
        // The child breaks the sharing of 100 MiB: RssAnon stays, faults tell.
        faults(&fake, 200, 100, 6, 10 + pages(100), 77);
        assert_eq!(look(&mut watcher, 200), (false, 420));
        // It gives 50 MiB back: the sum falls, what is shared falls with it.
        fake.pages(200, pages(250));
        assert_eq!(look(&mut watcher, 300), (false, 420));
        // Paid off: asked again.
        rollup(&fake, 100, 210);
        rollup(&fake, 200, 160);
        assert_eq!(look(&mut watcher, 100_000), (true, 370));
    }

    #[test]
    fn a_mark_that_is_passed_for_the_first_time_is_confirmed_at_any_cost() {
        let fake = forked();
        let mut watcher = watch(&fake, 100);
        assert_eq!(look(&mut watcher, 0), (true, 320));
        watcher.confirm_cost_us = 1_000_000;
        faults(&fake, 200, 100, 6, 10 + pages(210), 77);
        assert_eq!(
            look(&mut watcher, 100),
            (true, 320),
            "530 of 700, but it was not so"
        );
        watcher.confirm_cost_us = 1_000_000;
        rollup(&fake, 100, 300);
        rollup(&fake, 200, 300);
        faults(&fake, 200, 100, 6, 10 + pages(420), 77);
        assert_eq!(look(&mut watcher, 200), (true, 600), "530 of 700, and more");
        watcher.confirm_cost_us = 1_000_000;
        assert_eq!(look(&mut watcher, 300), (false, 600));
    }

    #[test]
    fn at_the_limit_nobody_who_was_just_forked_counts_as_a_whole() {
        let fake = forked();
        let mut watcher = watch(&fake, 100);
        let limit_kib = 310 * 1024;
        let Look::Running(sample) = watcher.look(0, limit_kib) else {
            panic!()
        };
        assert_eq!((sample.confirmed, sample.total_kib), (true, 320 * 1024));
        watcher.confirm_cost_us = 1_000_000;
        fake.process(300, 100, b"x", 7, pages(300));
        faults(&fake, 300, 100, 7, 0, 77);
        fake.children(100, 100, &[200, 300]);
        for (pid, pss_mib) in [(100, 107), (200, 113), (300, 100)] {
            rollup(&fake, pid, pss_mib);
        }
        let Look::Running(sample) = watcher.look(100, limit_kib) else {
            panic!()
        };
        assert_eq!((sample.confirmed, sample.total_kib), (true, 320 * 1024));
        // Nobody new: the cost is to be paid off first.
        watcher.confirm_cost_us = 1_000_000;
        let Look::Running(sample) = watcher.look(200, limit_kib) else {
            panic!()
        };
        assert!(!sample.confirmed);
    }

    #[test]
    fn nothing_is_discounted_for_who_is_gone_or_runs_another_program() {
        for exec in [false, true] {
            let fake = forked();
            let mut watcher = watch(&fake, 100);
            assert_eq!(look(&mut watcher, 0), (true, 320));
            watcher.confirm_cost_us = 1_000_000;
            if exec {
                faults(&fake, 200, 100, 6, 11, 78);
            } else {
                fake.children(100, 100, &[]);
                fake.remove(200);
            }
            // Something else keeps the sum where it matters.
            fake.pages(100, pages(600));
            let expected = if exec { 900 } else { 600 };
            assert_eq!(look(&mut watcher, 100), (false, expected));
        }
    }

    #[test]
    fn a_rollup_that_is_not_for_our_eyes_gives_no_discount() {
        let fake = forked();
        std::fs::remove_file(fake.path().join("100/smaps_rollup")).unwrap();
        std::fs::write(fake.path().join("200/smaps_rollup"), b"Pss_An").unwrap();
        assert_eq!(look(&mut watch(&fake, 100), 0), (true, 600));
    }

    #[test]
    fn a_storm_is_cut_off_and_says_so() {
        let fake = FakeProc::new();
        fake.process(100, 1, b"x", 5, pages(1));
        let children: Vec<i32> = (1000..1100).collect();
        fake.children(100, 100, &children);
        for &pid in &children {
            fake.process(pid, 100, b"storm", 9, pages(1));
        }
        let mut watcher = watch(&fake, 100);
        let sample = running(&mut watcher);
        assert_eq!((sample.processes.len(), sample.truncated), (101, false));
        watcher.most_processes = 40;
        let sample = running(&mut watcher);
        assert_eq!((sample.processes.len(), sample.truncated), (40, true));
    }

    #[test]
    fn no_proc_however_hostile_stops_the_watcher() {
        let mut random = Random::new(11);
        for _ in 0..20 {
            let fake = FakeProc::new();
            fake.process(10, 1, b"root", 1, pages(1));
            for pid in 10..30 {
                hostile(&fake, pid, &mut random);
            }
            let mut watcher = watch(&fake, 10);
            for round in 0..6 {
                let (Look::Running(sample) | Look::ClientGone(sample)) =
                    watcher.look(round * 100, random.below(4 * 1024));
                let mut pids: Vec<i32> = sample.processes.iter().map(|one| one.id.pid).collect();
                pids.sort_unstable();
                pids.dedup();
                assert_eq!(pids.len(), sample.processes.len(), "nobody twice");
                let covered: usize = sample
                    .subtrees
                    .iter()
                    .map(|tree| tree.end - tree.first)
                    .sum();
                assert!(covered <= pids.len());
                for _ in 0..5 {
                    hostile(&fake, 10 + random.below(20) as i32, &mut random);
                }
            }
        }
    }

    /// Rewrites one file of a process with something possible or impossible.
    fn hostile(fake: &FakeProc, pid: i32, random: &mut Random) {
        let any_pid = |random: &mut Random| 9 + random.below(22) as i32;
        match random.below(9) {
            0 => fake.write(pid, "stat", b""),
            1 => fake.write(pid, "statm", b"99999999999999999999 1 1 1 1 1 1"),
            2 => fake.write(
                pid,
                "statm",
                b"18446744073709551615 18446744073709551615 0 0 0 0 0",
            ),
            3 => fake.write(
                pid,
                &format!("task/{pid}/children"),
                b"\0\xff 10 -1 4294967296",
            ),
            4 => {
                let _ = std::fs::remove_dir_all(fake.path().join(pid.to_string()));
            }
            5 => {
                let parent = any_pid(random);
                fake.stat(pid, parent, b"x", random.below(3), random.next(), b'Z', -1);
            }
            _ => {
                let parent = any_pid(random);
                fake.process(pid, parent, b"x) (", random.below(2), random.below(5000));
                let children: Vec<i32> = (0..random.below(8)).map(|_| any_pid(random)).collect();
                fake.children(pid, pid, &children);
                rollup(fake, pid, random.below(9));
            }
        }
    }
}
