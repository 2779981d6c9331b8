//! Whose task outputs are still wanted: the conversations of sessions that live, as the clients and our own
//! sessions wrote them down, each proved by pid and start. Reads small files of this user; never writes.

use crate::client::args::is_uuid;
use crate::os::private::{self, Access};
use crate::state;
use crate::watch::proc_fs::Proc;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most files of one folder that are read.
const MAX_FILES: usize = 4096;

/// The longest of them is a few hundred bytes.
const FILE_BYTES: u64 = 64 << 10;

/// `/proc/PID/stat` counts the start in these (proc_pid_stat(5), USER_HZ).
pub(super) const TICK_MS: u64 = 10;

/// Those who live.
#[derive(Debug, Default)]
pub(super) struct Owners {
    conversations: Vec<String>,
    /// Since when a client runs that does not tell which conversation it holds *now* (2.1.110 after `/clear`).
    silent_since_ms: Option<u64>,
    /// A living client began later by the wall clock than by the clock since boot: the wall clock was set forward
    /// since then.
    pub(super) clock_was_set: bool,
}

/// A clock is taken for set when it is off by more than this.
const STEP_MS: u64 = 2_000;

impl Owners {
    /// `offset_ms`: 0 of the clock since boot, in milliseconds since 1970.
    pub(super) fn look(
        client_folders: &[PathBuf],
        state_bases: &[PathBuf],
        proc: &mut Proc,
        offset_ms: u64,
    ) -> Owners {
        let mut owners = Owners::default();
        let mut folders = client_folders.to_vec();
        for base in state_bases {
            if private::check_folder(base).is_err() {
                continue;
            }
            for (session, notes) in state::living(base, proc) {
                let told = state::read_file(&session.path, "conversation");
                let told = told.map(|id| id.trim().to_owned());
                owners.conversations.extend(told);
                owners.conversations.extend(notes.conversation);
                folders.extend(notes.client_folder.filter(|f| !client_folders.contains(f)));
            }
        }
        folders.dedup();
        for folder in folders {
            owners.read_clients(&folder.join("sessions"), proc, offset_ms);
        }
        owners
    }

    /// `sessions/PID.json` of each client, as far as the process lives.
    fn read_clients(&mut self, folder: &Path, proc: &mut Proc, offset_ms: u64) {
        let own_domain = fs::read_link(proc.root().join("self/ns/pid"));
        let own_domain = own_domain
            .ok()
            .and_then(|name| name.into_os_string().into_string().ok());
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries.take(MAX_FILES) {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let mut text = Vec::new();
            let read = private::file(&path, Access::Read)
                .and_then(|file| file.take(FILE_BYTES).read_to_end(&mut text));
            let Some(told) = read
                .ok()
                .and_then(|_| serde_json::from_slice::<Value>(&text).ok())
            else {
                continue;
            };
            let pid = told.get("pid").and_then(Value::as_i64);
            let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()) else {
                continue;
            };
            // Another container's numbers mean nothing here: it may live.
            let is_elsewhere =
                told.get("pidDomain")
                    .and_then(Value::as_str)
                    .is_some_and(|domain| {
                        own_domain
                            .as_ref()
                            .is_some_and(|own| !domain.ends_with(own.as_str()))
                    });
            let begun = told.get("startedAt").and_then(Value::as_u64);
            if !is_elsewhere {
                let Some(ticks) = proc.start_of(pid) else {
                    continue;
                };
                let wanted = told.get("procStart").and_then(Value::as_str);
                if wanted.is_some_and(|wanted| wanted.parse() != Ok(ticks)) {
                    continue;
                }
                // It writes this down a moment after its start: never before.
                self.clock_was_set |= begun.is_some_and(|begun_ms| {
                    offset_ms + ticks * TICK_MS > begun_ms + STEP_MS && wanted.is_some()
                });
            }
            let id = told.get("sessionId").and_then(Value::as_str);
            if let Some(id) = id.filter(|id| is_uuid(id)) {
                self.conversations.push(id.to_owned());
            }
            if told.get("status").is_none() {
                let begun = begun.unwrap_or(0);
                self.silent_since_ms = Some(self.silent_since_ms.map_or(begun, |at| at.min(begun)));
            }
        }
    }

    /// May a living session still want what this conversation wrote, last at that time?
    pub(super) fn may_want(&self, id: &str, written_ms: u64) -> bool {
        self.conversations.iter().any(|own| own == id)
            || self
                .silent_since_ms
                .is_some_and(|since| written_ms >= since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;
    use crate::state::{NOTES, Notes, SessionFolder};
    use crate::watch::fixture::FakeProc;

    const ONE: &str = "11111111-1111-4111-8111-111111111111";
    const TWO: &str = "22222222-2222-4222-8222-222222222222";
    const THREE: &str = "33333333-3333-4333-8333-333333333333";
    /// The machine was booted at this time; a process of 500 ticks began 5 s later.
    const BOOTED_MS: u64 = 1_700_000_000_000;
    const BEGAN_MS: u64 = BOOTED_MS + 5_000;

    /// A client's folder with these files, and a `/proc` in which 10 lives, begun at tick 500.
    fn owners(files: &[(&str, String)]) -> Owners {
        let (scratch, fake) = (Scratch::new(), FakeProc::new());
        fs::create_dir(scratch.path().join("sessions")).unwrap();
        for (name, text) in files {
            fs::write(scratch.path().join("sessions").join(name), text).unwrap();
        }
        fake.process(10, 1, b"claude", 500, 1);
        fs::create_dir_all(fake.path().join("self/ns")).unwrap();
        std::os::unix::fs::symlink("pid:[4026531836]", fake.path().join("self/ns/pid")).unwrap();
        let folders = [scratch.path().to_path_buf()];
        Owners::look(&folders, &[], &mut Proc::new(fake.path()), BOOTED_MS)
    }

    fn told(pid: i32, id: &str, more: &str) -> String {
        format!(r#"{{"pid":{pid},"sessionId":"{id}","startedAt":{BEGAN_MS}{more}}}"#)
    }

    #[test]
    fn a_conversation_is_wanted_as_long_as_its_client_is_proved_to_live() {
        let status = r#","status":"idle""#;
        let found = owners(&[
            (
                "10.json",
                told(10, ONE, &format!(r#","procStart":"500"{status}"#)),
            ),
            ("11.json", told(11, TWO, status)),
            (
                "12.json",
                told(10, THREE, &format!(r#","procStart":"499"{status}"#)),
            ),
            ("junk.json", "{".to_owned()),
            ("10.txt", told(10, THREE, status)),
        ]);
        assert!(found.may_want(ONE, 0));
        assert!(!found.may_want(TWO, BEGAN_MS), "that process is gone");
        assert!(
            !found.may_want(THREE, BEGAN_MS),
            "the number is another's now"
        );
        assert!(!found.clock_was_set);
    }

    #[test]
    fn a_client_of_another_container_may_live() {
        let elsewhere = r#","status":"idle","procStart":"7","pidDomain":"linux:x:pid:[99]""#;
        let here = r#","status":"idle","procStart":"7","pidDomain":"linux:x:pid:[4026531836]""#;
        let found = owners(&[
            ("1.json", told(10, ONE, elsewhere)),
            ("2.json", told(10, TWO, here)),
        ]);
        assert!(found.may_want(ONE, 0) && !found.may_want(TWO, 0));
    }

    #[test]
    fn while_a_client_lives_that_tells_no_current_conversation_nothing_younger_than_it_goes() {
        let found = owners(&[("10.json", told(10, ONE, ""))]);
        assert!(found.may_want(ONE, 0));
        assert!(found.may_want(TWO, BEGAN_MS) && !found.may_want(TWO, BEGAN_MS - 1));
    }

    #[test]
    fn a_client_that_began_before_it_was_started_shows_that_the_clock_was_set_forward() {
        // It wrote down a start an hour before that of its process.
        let early = BEGAN_MS - 3_600_000;
        let text = |proved: &str| {
            format!(
                r#"{{"pid":10,"sessionId":"{ONE}","startedAt":{early},"status":"idle"{proved}}}"#
            )
        };
        assert!(owners(&[("10.json", text(r#","procStart":"500""#))]).clock_was_set);
        // Without its start, the file may be one that another process has left.
        assert!(!owners(&[("10.json", text(""))]).clock_was_set);
    }

    #[test]
    fn our_own_sessions_tell_their_conversations_too() {
        let (scratch, fake) = (Scratch::new(), FakeProc::new());
        let base = scratch.path().join("claude-safe");
        for (pid, id) in [(10, ONE), (11, TWO)] {
            let folder = SessionFolder::create(&base, pid, 500).unwrap();
            let notes = Notes {
                conversation: Some(id.to_owned()),
                ..Notes::default()
            };
            folder.write(NOTES, &notes.text()).unwrap();
            folder.write("conversation", THREE).unwrap();
            std::mem::forget(folder);
        }
        fake.process(10, 1, b"claude-safe", 500, 1);
        let found = Owners::look(&[], &[base], &mut Proc::new(fake.path()), BOOTED_MS);
        assert!(found.may_want(ONE, 0) && found.may_want(THREE, 0) && !found.may_want(TWO, 0));
    }
}
