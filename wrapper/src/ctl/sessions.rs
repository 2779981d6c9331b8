//! The running sessions of this user, found by the folders of their state. Reads only: the folder of a dead
//! session is passed over here, and removed by the next session. A session whose claude-safe was killed runs on
//! as long as its client does, unwatched.

use crate::os::{private, process};
use crate::state::{self, NOTES, Notes, PAGE};
use crate::watch::ProcessId;
use crate::watch::proc_fs::{Proc, Stat};
use std::io;
use std::path::PathBuf;

/// One running session.
pub(super) struct Session {
    /// Its folder: ours alone.
    pub(super) folder: PathBuf,
    /// The process of claude-safe.
    pub(super) wrapper_pid: i32,
    /// Its start, clock ticks since boot.
    pub(super) wrapper_start_ticks: u64,
    /// Does it run? Without it nobody watches the client.
    pub(super) is_watched: bool,
    /// Its client, while it has one: between two lives there is none.
    pub(super) client: Option<ProcessId>,
    /// What it tells of itself.
    pub(super) notes: Notes,
}

impl Session {
    /// Where its guard counts.
    pub(super) fn page(&self) -> PathBuf {
        self.folder.join(PAGE)
    }

    /// Its claude-safe, running or not.
    pub(super) fn wrapper(&self) -> ProcessId {
        ProcessId {
            pid: self.wrapper_pid,
            start_ticks: self.wrapper_start_ticks,
        }
    }

    /// Its client's process number.
    pub(super) fn client_pid(&self) -> Option<i32> {
        self.client.map(|client| client.pid)
    }

    /// Is it the session of this process, the client's or ours?
    pub(super) fn is_of(&self, pid: i32) -> bool {
        // The number of a claude-safe that is gone may be somebody else's by now.
        (self.is_watched && self.wrapper_pid == pid) || self.client_pid() == Some(pid)
    }
}

/// What a session without its claude-safe is called.
pub(super) const UNWATCHED: &str = "unwatched (claude-safe is gone)";

/// All of them, the oldest process number first.
#[derive(Default)]
pub(super) struct Sessions {
    pub(super) running: Vec<Session>,
    /// Folders that are not looked into, and why.
    pub(super) complaints: Vec<String>,
}

impl Sessions {
    /// Those of the user who asks.
    pub(super) fn of_this_user(processes: &mut Proc) -> Sessions {
        let variable = |name: &str| std::env::var_os(name);
        Sessions::in_folders(&state::bases(variable, process::own_ids().euid), processes)
    }

    /// Those that have their folders in one of these.
    pub(super) fn in_folders(bases: &[PathBuf], processes: &mut Proc) -> Sessions {
        let mut sessions = Sessions::default();
        for base in bases {
            if !sessions.may_look_into(base) {
                continue;
            }
            for found in state::all(base) {
                let mut living = |pid: i32| -> Option<Stat> {
                    let stat = processes.stat(pid, None).ok();
                    stat.filter(|stat| !stat.is_dead())
                };
                let wrapper = living(found.pid);
                let is_watched =
                    wrapper.is_some_and(|stat| stat.id.start_ticks == found.start_ticks);
                // Of what a dead one left behind, nothing needs to be said.
                let may_look = if is_watched {
                    sessions.may_look_into(&found.path)
                } else {
                    private::check_folder(&found.path).is_ok()
                };
                if !may_look {
                    continue;
                }
                let notes = state::read_file(&found.path, NOTES).unwrap_or_default();
                let notes = Notes::parse(&notes);
                let client = notes.client_pid.and_then(&mut living);
                // A client that has ended, and whose number somebody else has now: not our child, or not
                // of that start.
                let client = client.filter(|stat| match notes.client_start_ticks {
                    Some(ticks) => stat.id.start_ticks == ticks,
                    None => is_watched && stat.ppid == found.pid,
                });
                if is_watched || client.is_some() {
                    sessions.running.push(Session {
                        folder: found.path,
                        wrapper_pid: found.pid,
                        wrapper_start_ticks: found.start_ticks,
                        is_watched,
                        client: client.map(|stat| stat.id),
                        notes,
                    });
                }
            }
        }
        sessions
            .running
            .sort_unstable_by_key(|session| session.wrapper_pid);
        sessions
    }

    fn may_look_into(&mut self, folder: &std::path::Path) -> bool {
        match private::check_folder(folder) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                let shown = folder.display();
                self.complaints
                    .push(format!("{shown} is not looked into: {error}"));
                false
            }
        }
    }
}

/// A `/proc` and a folder of sessions for the tests of this room.
#[cfg(test)]
pub(super) mod fixture {
    use super::*;
    use crate::os::files::scratch::Scratch;
    use crate::state::SessionFolder;
    use std::path::Path;

    /// A session whose wrapper is this very process, so that it runs; its client is a child of ours
    /// that waits for the end of its input.
    pub(crate) struct Running {
        pub(crate) base: PathBuf,
        pub(crate) folder: SessionFolder,
        pub(crate) client: std::process::Child,
    }

    impl Running {
        pub(crate) fn new(scratch: &Scratch) -> Running {
            let base = scratch.path().join("sessions");
            let us = Proc::new(Path::new("/proc")).stat(process::own_pid(), None);
            let us = us.unwrap().id;
            let folder = SessionFolder::create(&base, us.pid, us.start_ticks).unwrap();
            let client = std::process::Command::new("cat")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let running = Running {
                base,
                folder,
                client,
            };
            running.tell(Notes::default());
            running
        }

        pub(crate) fn client_pid(&self) -> i32 {
            self.client.id().cast_signed()
        }

        /// Writes the notes, with the true pids.
        pub(crate) fn tell(&self, notes: Notes) {
            let notes = Notes {
                wrapper_pid: Some(process::own_pid()),
                client_pid: Some(self.client_pid()),
                ..notes
            };
            self.folder.write(NOTES, &notes.text()).unwrap();
        }

        pub(crate) fn find(&self) -> Sessions {
            let bases = [self.base.clone()];
            Sessions::in_folders(&bases, &mut Proc::new(Path::new("/proc")))
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            drop(self.client.stdin.take());
            let _ = self.client.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::Running;
    use super::*;
    use crate::os::files::scratch::Scratch;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_session_is_found_by_either_pid_and_the_folder_of_a_dead_one_is_none() {
        let scratch = Scratch::new();
        let running = Running::new(&scratch);
        // Our pid, but not our start: an earlier process of this number. And things that are no session.
        let own = process::own_pid();
        fs::create_dir(running.base.join(format!("{own}.1"))).unwrap();
        fs::create_dir(running.base.join("keep-me")).unwrap();
        fs::write(running.base.join("7.7"), "a file").unwrap();
        let found = running.find();
        assert_eq!(found.complaints, Vec::<String>::new());
        assert_eq!(found.running.len(), 1);
        let session = &found.running[0];
        assert_eq!(session.client_pid(), Some(running.client_pid()));
        assert!(session.is_watched);
        assert!(session.is_of(own) && session.is_of(running.client_pid()));
        assert!(!session.is_of(1));
    }

    #[test]
    fn a_client_that_is_not_the_wrappers_child_is_not_taken_for_it() {
        let scratch = Scratch::new();
        let running = Running::new(&scratch);
        running.folder.write(NOTES, "client_pid=1\n").unwrap();
        assert_eq!(running.find().running[0].client_pid(), None);
        fs::remove_file(running.folder.path().join(NOTES)).unwrap();
        assert_eq!(running.find().running[0].client_pid(), None);
        fs::write(
            scratch.path().join("elsewhere"),
            format!("client_pid={}\n", running.client_pid()),
        )
        .unwrap();
        symlink(
            scratch.path().join("elsewhere"),
            running.folder.path().join(NOTES),
        )
        .unwrap();
        assert_eq!(running.find().running[0].client_pid(), None);
    }

    #[test]
    fn a_client_whose_wrapper_is_gone_is_told_as_long_as_it_lives() {
        let scratch = Scratch::new();
        let running = Running::new(&scratch);
        let own = process::own_pid();
        let client = Proc::new(std::path::Path::new("/proc")).stat(running.client_pid(), None);
        let client = client.unwrap().id;
        let left = |start: &str, notes: Notes| {
            let folder = running.base.join(start);
            private::folder(&folder).unwrap();
            fs::write(folder.join(NOTES), notes.text()).unwrap();
            folder
        };
        let notes = |start_ticks: Option<u64>| Notes {
            client_pid: Some(client.pid),
            client_start_ticks: start_ticks,
            ..Notes::default()
        };
        // Of earlier owners of our number: one told its client's start, one told another's, one none.
        let folder = left(&format!("{own}.1"), notes(Some(client.start_ticks)));
        left(&format!("{own}.2"), notes(Some(client.start_ticks + 1)));
        left(&format!("{own}.3"), notes(None));
        let mut found = running.find().running;
        found.retain(|session| !session.is_watched);
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].folder, found[0].client), (&folder, Some(client)));
        assert!(found[0].is_of(client.pid) && !found[0].is_of(own));
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let found = running.find();
        assert_eq!((found.running.len(), found.complaints.len()), (1, 0));
    }

    #[test]
    fn folders_that_others_could_have_made_are_named_and_not_looked_into() {
        let scratch = Scratch::new();
        let running = Running::new(&scratch);
        let set_mode = |path: &std::path::Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        set_mode(running.folder.path(), 0o755);
        let found = running.find();
        assert!(found.running.is_empty());
        assert!(
            found.complaints[0].contains("others may enter it"),
            "{:?}",
            found.complaints
        );
        set_mode(running.folder.path(), 0o700);
        assert_eq!(running.find().running.len(), 1);

        let link = scratch.path().join("link");
        symlink(&running.base, &link).unwrap();
        let missing = scratch.path().join("none");
        let mut processes = Proc::new(std::path::Path::new("/proc"));
        let found = Sessions::in_folders(&[link, missing], &mut processes);
        assert!(found.running.is_empty());
        assert_eq!(found.complaints.len(), 1, "{:?}", found.complaints);
        assert!(found.complaints[0].contains("is no folder"));

        let foreign = if process::own_ids().euid == 0 {
            std::os::unix::fs::chown(&running.base, Some(1), None).unwrap();
            running.base.clone()
        } else {
            PathBuf::from("/proc")
        };
        let found = Sessions::in_folders(&[foreign], &mut processes);
        assert!(found.running.is_empty());
        assert!(found.complaints[0].contains("belongs to somebody else"));
    }
}
