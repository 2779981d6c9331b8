//! What clients leave behind in the temporary folder: files of shell commands, task outputs of dead sessions,
//! dead sockets. Owns what may be removed, and the record that one sweep leaves to the next.
//! Never removes a transcript, memory, settings, or anything whose name it does not know; never follows a
//! symlink below the folder that it was given.
//!
//! | room | owns |
//! |---|---|
//! | `cwd_files` | `claude-XXXX-cwd` |
//! | `task_outputs` | `claude-UID/FOLDER/UUID/tasks/*.output`, and the folders when they are empty |
//! | `sockets` | `cc-socks/PID.sock`, also in the user's runtime folder |
//! | [`age`] | how old a file is, whatever the clocks do |
//! | `processes` | what running processes name in command lines and hold open |
//! | `owners` | the conversations of sessions that live |
//! | [`account`] | counts and reasons |
//! | [`attendant`] | the sweeps of a running session |
//!
//! Every failure is a thing that stays and is counted. What everybody may write to, such as `/tmp`, is safe
//! because nothing is done by path: the folder is opened once, each name is looked at and removed through that
//! descriptor, and taking a name away from a symlink takes the link, never its target.

pub mod account;
pub mod age;
pub mod attendant;
mod cwd_files;
mod owners;
mod processes;
mod sockets;
mod task_outputs;

use crate::config::{absolute_folder, own_folder};
use crate::os::files::FileId;
use crate::os::folder::{Entry, Folder, Kind, Refusal};
use crate::os::private::{self, Access};
use crate::os::process::{now_ms, own_ids};
use crate::state;
use crate::supervise::conversation::client_folder;
use crate::watch::proc_fs::Proc;
use account::{Item, Kept, Outcome, Report, Section};
use age::{ClockRecord, FileClock, Now};
use owners::Owners;
use processes::Processes;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// So long a sweep that nobody asked for may take.
pub const LIMIT_MS: u64 = 10_000;

/// Where a session leaves things, and what tells whether it lives.
#[derive(Clone, Debug)]
pub struct Places {
    /// The session's temporary folder.
    pub temporary: PathBuf,
    /// The user's runtime folder, where there is one: clients have their sockets there then.
    pub runtime: Option<PathBuf>,
    /// Where clients keep what they know.
    pub client_folders: Vec<PathBuf>,
    /// Where our own sessions have their folders.
    pub state_bases: Vec<PathBuf>,
    /// The file in which one sweep tells the next about the clocks, and how far it came.
    pub record: Option<PathBuf>,
    /// Where the kernel tells about processes.
    pub proc_root: PathBuf,
    /// Whose files are swept.
    pub uid: u32,
}

impl Places {
    /// As the environment of a session names them.
    pub fn of(variable: impl Fn(&str) -> Option<OsString>) -> Places {
        let uid = own_ids().euid;
        Places {
            temporary: temporary_folder(&variable),
            runtime: absolute_folder(&variable, "XDG_RUNTIME_DIR"),
            client_folders: client_folder(&variable).into_iter().collect(),
            state_bases: state::bases(&variable, uid),
            record: own_folder(&variable, "XDG_CACHE_HOME", ".cache").map(|own| own.join("sweep")),
            proc_root: "/proc".into(),
            uid,
        }
    }
}

/// The folder in which a client makes its temporary files: `CLAUDE_CODE_TMPDIR`, else `TMPDIR`, else `/tmp`.
pub fn temporary_folder(variable: &impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let named = |name| absolute_folder(variable, name);
    named("CLAUDE_CODE_TMPDIR")
        .or_else(|| named("TMPDIR"))
        .unwrap_or_else(|| "/tmp".into())
}

/// What is to be done.
pub struct Wish<'a> {
    /// What to sweep.
    pub sections: &'a [Section],
    /// Only look.
    pub dry_run: bool,
    /// The clocks, at the start.
    pub now: Now,
    /// By which the limit is kept, milliseconds.
    pub timer_ms: &'a dyn Fn() -> u64,
    /// So long it may take.
    pub limit_ms: u64,
}

impl<'a> Wish<'a> {
    /// To sweep these, beginning now, by the kernel's clocks, for so many milliseconds at most.
    pub fn now(sections: &'a [Section], limit_ms: u64) -> Wish<'a> {
        Wish {
            sections,
            dry_run: false,
            now: Now::read(),
            timer_ms: &now_ms,
            limit_ms,
        }
    }
}

/// Sweeps, and tells of each thing that it looked at.
pub fn run(places: &Places, wish: &Wish<'_>, tell: &mut dyn FnMut(Item)) -> Report {
    let folder = match Folder::open(&places.temporary) {
        Ok(folder) => folder,
        Err(refusal) => {
            let mut report = Report::default();
            // A folder that nobody has made yet holds nothing.
            report.trouble = (refusal != Refusal::Gone).then(|| {
                let shown = places.temporary.display();
                format!("{shown} can't be read")
            });
            return report;
        }
    };
    let mut proc = Proc::new(&places.proc_root);
    let earlier = places.record.as_deref().and_then(Record::read);
    let mut owners = None;
    let set_forward = earlier.is_none() && {
        let found = look_at_owners(places, &mut proc, wish.now);
        owners.insert(found).clock_was_set
    };
    let clock = ClockRecord::follow(earlier.map(|r| r.clock), wish.now, set_forward);
    let here = folder.identity().ok();
    let began_ms = (wish.timer_ms)();
    let mut sweep = Sweep {
        places,
        wish,
        tell,
        proc,
        began_ms,
        clock,
        next_cwd_file: earlier
            .filter(|record| record.folder == here)
            .map_or(0, |record| record.next_cwd_file),
        owners,
        command_lines: None,
        open_files: None,
        report: Report::default(),
    };
    for section in wish.sections {
        match section {
            Section::CwdFiles => cwd_files::sweep(&mut sweep, &folder),
            Section::TaskOutputs => task_outputs::sweep(&mut sweep, &folder),
            Section::Sockets => {
                sockets::sweep(&mut sweep, &folder, &places.temporary);
                let runtime = places.runtime.as_deref();
                if let Some(path) = runtime.filter(|path| *path != places.temporary)
                    && let Ok(folder) = Folder::open(path)
                {
                    sockets::sweep(&mut sweep, &folder, path);
                }
            }
        }
    }
    let record = Record {
        clock,
        folder: here,
        next_cwd_file: sweep.next_cwd_file,
    };
    // Who only looks leaves no trace.
    let is_kept = !wish.dry_run && record.is_news(earlier.as_ref());
    if let Some(path) = places.record.as_ref().filter(|_| is_kept) {
        // Lost: the next sweep begins anew.
        let _ = record.write(path);
    }
    sweep.report
}

fn look_at_owners(places: &Places, proc: &mut Proc, now: Now) -> Owners {
    let offset_ms = now.wall_ms.saturating_sub(now.boot_ms);
    Owners::look(&places.client_folders, &places.state_bases, proc, offset_ms)
}

/// A sweep under way.
struct Sweep<'a> {
    places: &'a Places,
    wish: &'a Wish<'a>,
    tell: &'a mut dyn FnMut(Item),
    proc: Proc,
    began_ms: u64,
    clock: ClockRecord,
    next_cwd_file: u16,
    owners: Option<Owners>,
    /// What processes name in their command lines.
    command_lines: Option<Processes>,
    /// The same, and what they have open.
    open_files: Option<Processes>,
    report: Report,
}

impl Sweep<'_> {
    /// Is this share of the time, in percent, over?
    fn is_over(&self, percent: u64) -> bool {
        let spent_ms = (self.wish.timer_ms)().saturating_sub(self.began_ms);
        spent_ms >= self.wish.limit_ms.saturating_mul(percent) / 100
    }

    /// Counts and tells one thing, by its way from the temporary folder.
    fn note(&mut self, section: Section, at: &[&CStr], bytes: u64, outcome: Outcome) {
        self.note_in(&self.places.temporary, section, at, bytes, outcome);
    }

    /// The same, by its way from another folder.
    fn note_in(
        &mut self,
        base: &Path,
        section: Section,
        at: &[&CStr],
        bytes: u64,
        outcome: Outcome,
    ) {
        self.report.account(section).note(bytes, outcome);
        let mut path = base.to_path_buf();
        path.extend(at.iter().map(|name| OsStr::from_bytes(name.to_bytes())));
        (self.tell)(Item {
            section,
            path,
            bytes,
            outcome,
        });
    }

    /// Opens a folder on the way from `base`, which is that of `parent`, if it is ours; one that is not is counted.
    /// `at`: its way, the last name in `parent`.
    fn open(
        &mut self,
        parent: &Folder,
        base: &Path,
        section: Section,
        at: &[&CStr],
    ) -> Option<Folder> {
        let why = match parent.inner(at.last()?) {
            Ok(folder) if is_ours(&folder, self.places.uid) => return Some(folder),
            Ok(_) => Kept::Foreign,
            Err(Refusal::Gone) => return None,
            Err(Refusal::NotAFolder) => Kept::OddKind,
            Err(_) => Kept::Failed,
        };
        self.note_in(base, section, at, 0, Outcome::Kept(why));
        None
    }

    /// Does the real work, unless only looking was asked for; then what became of it.
    fn remove(&self, effect: impl FnOnce() -> Result<(), Refusal>) -> Option<Outcome> {
        if self.wish.dry_run {
            return Some(Outcome::Removed);
        }
        match effect() {
            Ok(()) => Some(Outcome::Removed),
            // Another sweep, or the client, was there first.
            Err(Refusal::Gone) => None,
            Err(Refusal::NotEmpty) => Some(Outcome::Kept(Kept::Unknown)),
            Err(_) => Some(Outcome::Kept(Kept::Failed)),
        }
    }

    fn owners(&mut self) -> &Owners {
        let (places, now) = (self.places, self.wish.now);
        let proc = &mut self.proc;
        self.owners
            .get_or_insert_with(|| look_at_owners(places, proc, now))
    }

    fn command_lines(&mut self) -> &Processes {
        let proc = &mut self.proc;
        self.command_lines
            .get_or_insert_with(|| Processes::look(proc, false))
    }

    fn open_files(&mut self) -> &Processes {
        let proc = &mut self.proc;
        self.open_files
            .get_or_insert_with(|| Processes::look(proc, true))
    }

    /// By which clock the files of this folder are judged, at first sight.
    fn rough_clock(&self) -> FileClock {
        FileClock::new(&self.clock, Some(u64::MAX))
    }

    /// The same for good: the file system is asked for the time. Costs a file without a name.
    fn exact_clock(&self, folder: &Folder) -> FileClock {
        FileClock::new(&self.clock, folder.clock_ms())
    }
}

/// Why a file of ours is none that may go, whatever its age.
fn objection(entry: &Entry, wanted: Kind, uid: u32) -> Option<Kept> {
    if entry.kind != wanted {
        Some(Kept::OddKind)
    } else if entry.uid != uid {
        Some(Kept::Foreign)
    } else if entry.links != 1 {
        Some(Kept::TwoNames)
    } else {
        None
    }
}

/// So many names of one folder are remembered; the next sweep sees the rest.
const MAX_NAMES: usize = 16_384;

/// The names in a folder, in no order.
fn names(folder: &Folder) -> Vec<CString> {
    let mut all = Vec::new();
    let _ = folder.each_name(&mut |name| {
        all.push(name.to_owned());
        all.len() < MAX_NAMES
    });
    all
}

/// May a folder below the temporary one be worked in? The group may write to it: where every user has a group of
/// their own, clients make such folders. What somebody could swap there is still no more than a file of ours.
fn is_ours(folder: &Folder, uid: u32) -> bool {
    const OTHERS_WRITE: u32 = 0o002;
    folder
        .own()
        .is_ok_and(|own| own.uid == uid && own.mode & OTHERS_WRITE == 0)
}

/// What one sweep leaves to the next, in our cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    clock: ClockRecord,
    /// The folder that was swept.
    folder: Option<FileId>,
    /// Where the next sweep of it goes on.
    next_cwd_file: u16,
}

/// A record is a hundred bytes.
const RECORD_BYTES: u64 = 1024;

/// A record as old as this is written anew: the clocks drift apart, slowly.
const RECORD_MS: u64 = 600_000;

impl Record {
    fn read(path: &Path) -> Option<Record> {
        let mut text = String::new();
        let file = private::file(path, Access::Read).ok()?;
        file.take(RECORD_BYTES).read_to_string(&mut text).ok()?;
        let mut lines = text.lines();
        let clock = ClockRecord::parse(lines.next()?)?;
        let mut words = lines.next()?.split(' ');
        let mut next = || words.next()?.parse::<u64>().ok();
        let (dev, ino, next_cwd_file) = (next()?, next()?, next()?);
        Some(Record {
            clock,
            folder: (ino != 0).then_some(FileId { dev, ino }),
            next_cwd_file: u16::try_from(next_cwd_file).ok()?,
        })
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let (dev, ino) = self
            .folder
            .map_or((0, 0), |folder| (folder.dev, folder.ino));
        let next = self.next_cwd_file;
        let text = format!("{}\n{dev} {ino} {next}\n", self.clock.text());
        // Sweeps that end at once each write a draft of their own; the last rename wins.
        let draft = path.with_extension(std::process::id().to_string());
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, path))
            .inspect_err(|_| {
                let _ = fs::remove_file(&draft);
            })
    }

    fn is_news(&self, earlier: Option<&Record>) -> bool {
        earlier.is_none_or(|earlier| {
            earlier.clock.jump != self.clock.jump
                || earlier.folder != self.folder
                || earlier.next_cwd_file != self.next_cwd_file
                || self.clock.at.boot_ms > earlier.clock.at.boot_ms + RECORD_MS
        })
    }
}

#[cfg(test)]
mod tests;
