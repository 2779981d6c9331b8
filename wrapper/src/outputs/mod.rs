//! The output files of the session's tools while they are written: a tool's standard output and error are one file,
//! `claude-UID/FOLDER/SESSION/tasks/ID.output`, which the client does not bound (or stops reading, and the tool
//! writes on). Warns of a big one, and ends who writes one that is too big, or that is about to fill a file system.
//! Never removes, shortens or opens a file.
//!
//! Whose file it is needs no guess: it is this session's if a process of its tree has it open to write. And only such
//! a process below the client is ever ended. Not by the folder's name: that is made of a folder and of a session,
//! both of which change while the client runs.

pub mod judgement;

use crate::config::Config;
use crate::descriptors::proc_fd::ProcFd;
use crate::descriptors::watch::Found;
use crate::notice;
use crate::os::files::{FileId, FileSystem, file_system};
use crate::os::process::own_ids;
use crate::supervise::ending::{Ending, TOOL_GRACE_MS};
use crate::supervise::tool::command_of;
use crate::sweep::temporary_folder;
use crate::watch::proc_fs::Proc;
use crate::watch::{ProcessId, Sample};
use judgement::{
    Budget, Reason, Sight, Space, Verdict, must_kill, next_look_ms, next_space_ms, verdict,
};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files that are kept in mind: no session has so many open.
const MOST_FILES: usize = 256;
/// Writers of one file that are: a storm of them has a common ancestor among the first.
const MOST_WRITERS: usize = 64;

/// What the user is to hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// For the user.
    pub text: String,
    /// For the history, where a tool is ended: its program and why, without arguments.
    pub ended: Option<String>,
}

impl From<String> for News {
    fn from(text: String) -> News {
        News { text, ended: None }
    }
}

/// One output file.
struct Output {
    file: FileId,
    path: PathBuf,
    /// Who has it open to write, and under which number.
    writers: Vec<(ProcessId, OsString)>,
    /// At the last look.
    sight: Sight,
    was_warned: bool,
    ending: Option<Ending>,
}

/// All of a session.
pub struct Outputs {
    budget: Budget,
    /// Where the client makes the folder for them.
    base: PathBuf,
    uid: u32,
    proc_fd: ProcFd,
    files: Vec<Output>,
    /// The base's file system, at the last whole look and now.
    space_then: Option<Space>,
    space: Option<Space>,
}

impl Outputs {
    /// Watches as configured; `environment` is the client's.
    #[must_use]
    pub fn new(config: &Config, environment: &[OsString]) -> Outputs {
        let budget = match config.sweep {
            true => Budget::of_mib(config.output_warn_mib, config.output_max_mib),
            false => Budget::default(),
        };
        Outputs {
            budget,
            base: temporary_folder(&|name| variable(environment, name)),
            uid: own_ids().euid,
            proc_fd: ProcFd::new(Path::new("/proc")),
            files: Vec::new(),
            space_then: None,
            space: None,
        }
    }

    /// Is anything wanted at all?
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.budget != Budget::default()
    }

    /// Might this be one of them?
    #[must_use]
    pub fn wants(&self, target: &Path) -> bool {
        self.is_on() && is_output(without_mark(target), self.uid)
    }

    /// Takes down who has what open, as a whole look has found it.
    pub fn note(&mut self, found: Vec<Found>) {
        for Found { id, fd, target } in found {
            let link = self.proc_fd.link(id.pid, &fd);
            if !self.proc_fd.is_writable(id.pid, &fd) {
                continue;
            }
            let Ok(metadata) = std::fs::metadata(&link) else {
                continue;
            };
            let file = FileId::of_metadata(&metadata);
            let path = without_mark(&target);
            let at = match self.files.iter().position(|output| output.file == file) {
                Some(at) => at,
                None if self.files.len() >= MOST_FILES || !metadata.is_file() => continue,
                None => {
                    let folder = path.parent().unwrap_or(Path::new("/"));
                    self.files.push(Output {
                        file,
                        path: path.to_path_buf(),
                        writers: Vec::new(),
                        sight: Sight {
                            in_memory: file_system(folder).is_some_and(|found| found.in_memory),
                            ..Sight::default()
                        },
                        was_warned: false,
                        ending: None,
                    });
                    self.files.len() - 1
                }
            };
            let writers = &mut self.files[at].writers;
            let writer = (id, fd);
            if writers.len() < MOST_WRITERS && !writers.contains(&writer) {
                writers.push(writer);
            }
        }
    }

    /// A whole look has begun: the space of now is what a fall is measured by.
    pub fn begin_whole_look(&mut self) {
        if self.is_on() {
            self.space = space_of(file_system(&self.base));
            self.space_then = self.space;
        }
    }

    /// A short look at the base's file system. Has it lost so much that who writes is to be found out?
    pub fn has_fallen(&mut self) -> bool {
        if !self.is_on() {
            return false;
        }
        self.space = space_of(file_system(&self.base));
        let fallen = |(now, then): (Space, Space)| now.has_fallen(&then);
        self.space.zip(self.space_then).is_some_and(fallen)
    }

    /// Looks at the known files, and ends who has to be. `sample`: the session's processes; nobody else is touched.
    /// The answer is what is to be said, and whether somebody new seems to write.
    pub fn look(
        &mut self,
        processes: &mut Proc,
        sample: &Sample,
        now_ms: u64,
        memory_is_full: bool,
    ) -> (Vec<News>, bool) {
        let mut news = Vec::new();
        let mut is_unknown = false;
        let mut files = std::mem::take(&mut self.files);
        files.retain_mut(|output| {
            let is_there = self.measure(output, now_ms);
            let sight = output.sight;
            if let Some(ending) = &mut output.ending {
                if ending.is_over(processes) {
                    output.ending = None;
                } else if !ending.was_killed() && must_kill(&sight, &self.budget) {
                    ending.kill();
                }
                return is_there || output.ending.is_some();
            }
            if output.writers.is_empty() {
                is_unknown |= sight.growth.is_growing;
                return is_there;
            }
            match verdict(&sight, &self.budget, memory_is_full, output.was_warned) {
                Verdict::Quiet => {}
                Verdict::Warn => {
                    output.was_warned = true;
                    news.push(self.warning(output, sample).into());
                }
                Verdict::End(reason) => {
                    let writers = self.writers_now(output, sample);
                    if writers.is_empty() {
                        // Those that are known are not below the client, or have left it alone.
                        output.writers.clear();
                    } else {
                        output.was_warned = true;
                        news.push(farewell(processes, output, reason, sample, &writers));
                        let ending = Ending::begin(processes, &writers, None, TOOL_GRACE_MS);
                        output.ending = Some(ending);
                    }
                }
            }
            is_there
        });
        self.files = files;
        (news, is_unknown)
    }

    /// Takes down how big it is now. False: it is nowhere any more.
    fn measure(&self, output: &mut Output, now_ms: u64) -> bool {
        let file = output.file;
        let is_it = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            (FileId::of_metadata(&found) == file).then_some(found)
        };
        // A descriptor leads to it also when it has lost its name.
        let mut metadata = None;
        output.writers.retain(|(id, fd)| {
            let found = is_it(&self.proc_fd.link(id.pid, fd));
            let is_there = found.is_some();
            metadata = metadata.take().or(found);
            is_there
        });
        let Some(metadata) = metadata.or_else(|| is_it(&output.path)) else {
            return false;
        };
        let sight = &mut output.sight;
        sight
            .growth
            .note(now_ms, metadata.blocks().saturating_mul(512));
        let folder = output.path.parent().unwrap_or(&self.base);
        // Of a folder that is gone nothing is known; the base lies on the same file system as a rule.
        sight.space = space_of(file_system(folder).or_else(|| file_system(&self.base)));
        true
    }

    /// Who writes it at this moment, below the client: asked anew, because what follows ends them.
    fn writers_now(&self, output: &Output, sample: &Sample) -> Vec<ProcessId> {
        let mut writers = Vec::new();
        for process in sample.subtrees.iter().flat_map(|tree| sample.members(tree)) {
            let pid = process.id.pid;
            let mut writes = false;
            let _ = self.proc_fd.scan(pid, &mut |fd, target| {
                writes |= self.wants(target)
                    && FileId::of(&self.proc_fd.link(pid, fd)) == Some(output.file)
                    && self.proc_fd.is_writable(pid, fd);
            });
            // Read by pid: whether it is still this process is asked again before the signal.
            if writes {
                writers.push(process.id);
            }
        }
        writers
    }

    fn warning(&self, output: &Output, sample: &Sample) -> String {
        let writers = output.writers.iter().map(|(id, _)| *id);
        let tool = writers.filter_map(|writer| tool_of(sample, writer)).next();
        let at = notice::memory(output.sight.growth.bytes / 1024);
        let then = match self.budget.max_bytes {
            Some(max) => format!("; at {} the tool is ended", notice::memory(max / 1024)),
            None => String::new(),
        };
        let hint = match output.sight.in_memory {
            true => " (it takes memory, not disk: CLAUDE_CODE_TMPDIR can name a folder on a disk)",
            false => "",
        };
        let who = tool.map_or(String::new(), |tool| {
            format!("of the tool {} (pid {}) ", command_of(tool.pid), tool.pid)
        });
        let file = output.path.display();
        format!("the output {who}is at {at}{then}{hint}: {file}")
    }

    /// What the session's outputs take of the machine's memory: those that lie in a tmpfs, also when nobody writes
    /// them any more, KiB. No process' own memory holds any of it.
    #[must_use]
    pub fn memory_kib(&self) -> u64 {
        let sights = self.files.iter().map(|output| output.sight);
        let in_memory = sights.filter(|sight| sight.in_memory);
        in_memory.map(|sight| sight.growth.bytes / 1024).sum()
    }

    /// When to look again, milliseconds from now.
    #[must_use]
    pub fn next_look_ms(&self, ceiling_ms: u64) -> u64 {
        if !self.is_on() {
            return ceiling_ms;
        }
        let of_base = self.space.map(|space| next_space_ms(&space, ceiling_ms));
        let files = self.files.iter();
        let written = files.filter(|output| !output.writers.is_empty());
        let of_files = written.map(|output| next_look_ms(&output.sight, &self.budget, ceiling_ms));
        of_files.chain(of_base).fold(ceiling_ms, u64::min)
    }

    /// When somebody who was asked to end gets KILL.
    #[must_use]
    pub fn kill_due_ms(&self) -> Option<u64> {
        let endings = self
            .files
            .iter()
            .filter_map(|output| output.ending.as_ref());
        endings.filter_map(Ending::due_ms).min()
    }

    /// Sends the KILLs that are due.
    pub fn kill_due(&mut self, now_ms: u64) {
        for ending in self
            .files
            .iter_mut()
            .filter_map(|output| output.ending.as_mut())
        {
            if ending.due_ms().is_some_and(|due| due <= now_ms) {
                ending.kill();
            }
        }
    }
}

fn farewell(
    processes: &mut Proc,
    output: &Output,
    reason: Reason,
    sample: &Sample,
    writers: &[ProcessId],
) -> News {
    let tool = tool_of(sample, writers[0]).unwrap_or(writers[0]);
    let sight = output.sight;
    let at = notice::memory(sight.growth.bytes / 1024);
    let why = match (reason, sight.space) {
        (Reason::Space, Some(space)) => format!(
            "its output grows, is at {at}, and leaves {} of {} free",
            notice::memory(space.free_bytes / 1024),
            notice::memory(space.total_bytes / 1024)
        ),
        (Reason::Memory, _) => {
            format!("its output grows, is at {at} in memory, and the session is at its limit")
        }
        _ => format!("its output is at {at}, which is more than it may take"),
    };
    let program = processes.name(tool.pid).unwrap_or_default();
    News {
        text: format!(
            "ending the tool {} (pid {}): {why} ({}); the session goes on",
            command_of(tool.pid),
            tool.pid,
            output.path.display()
        ),
        ended: Some(format!("{program} (pid {}), {why}", tool.pid)),
    }
}

/// The uppermost process of the subtree that a process is in: what the client has started. `None`: it is the client.
fn tool_of(sample: &Sample, id: ProcessId) -> Option<ProcessId> {
    let has_it = |tree: &&crate::watch::Subtree| {
        let members = sample.members(tree);
        members.iter().any(|process| process.id == id)
    };
    let tree = sample.subtrees.iter().find(has_it)?;
    Some(tree.leader)
}

fn space_of(found: Option<FileSystem>) -> Option<Space> {
    // A tmpfs without a limit has no size.
    let found = found.filter(|found| found.total_bytes > 0)?;
    Some(Space {
        total_bytes: found.total_bytes,
        free_bytes: found.free_bytes,
    })
}

/// A variable of an environment that is not ours.
fn variable(environment: &[OsString], name: &str) -> Option<OsString> {
    environment.iter().find_map(|entry| {
        let rest = entry.as_bytes().strip_prefix(name.as_bytes())?;
        Some(OsString::from_vec(rest.strip_prefix(b"=")?.to_vec()))
    })
}

/// The path of a descriptor without what the kernel adds when the file has lost its name (proc_pid_fd(5)).
fn without_mark(target: &Path) -> &Path {
    let bytes = target.as_os_str().as_bytes();
    let name = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    Path::new(std::ffi::OsStr::from_bytes(name))
}

/// `…/claude-UID/FOLDER/SESSION/tasks/ID.output`, wherever the session's base is: within a sandbox of the client's
/// it may have another name.
fn is_output(path: &Path, uid: u32) -> bool {
    let mut folders = path.ancestors().skip(1);
    let is = |folder: Option<&Path>, name: &str| {
        folder
            .and_then(Path::file_name)
            .is_some_and(|found| found == name)
    };
    path.extension()
        .is_some_and(|extension| extension == "output")
        && is(folders.next(), "tasks")
        && is(folders.nth(2), &format!("claude-{uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_outputs_of_this_user_are_wanted() {
        for (path, is_one) in [
            ("/tmp/claude-1000/-home-x/11-22/tasks/abc.output", true),
            ("/x/y/claude-1000/-/s/tasks/.x.output", true),
            ("/tmp/claude-1001/-home-x/11-22/tasks/abc.output", false),
            ("/tmp/claude-1000/11-22/tasks/abc.output", false),
            ("/tmp/claude-1000/-home-x/11-22/tasks/abc.txt", false),
            ("/tmp/claude-1000/-home-x/11-22/tasks/.output", false),
            ("/tmp/claude-1000/-home-x/11-22/task/abc.output", false),
            ("pipe:[123]", false),
            ("/", false),
        ] {
            assert_eq!(is_output(Path::new(path), 1000), is_one, "{path}");
        }
        let gone = Path::new("/tmp/claude-7/-/s/tasks/a.output (deleted)");
        assert!(is_output(without_mark(gone), 7));
    }

    #[test]
    fn the_base_is_the_clients_own_choice() {
        let of = |entries: &[&str]| {
            let environment: Vec<OsString> = entries.iter().map(OsString::from).collect();
            temporary_folder(&|name| variable(&environment, name))
        };
        for (entries, folder) in [
            (&["TMPDIR=/t", "CLAUDE_CODE_TMPDIR=/c"][..], "/c"),
            (&["X=1", "TMPDIR=/t"], "/t"),
            (&["TMPDIRS=/t", "TMPDIR=relative"], "/tmp"),
            (&["TMPDIR"], "/tmp"),
            (&[], "/tmp"),
        ] {
            assert_eq!(of(entries), Path::new(folder), "{entries:?}");
        }
    }
}
