//! What the running processes name: temporary files in command lines, conversations in command lines and open
//! files. Looked at once a sweep, and only when something would be removed. Reads command lines and the names of
//! open files; never an environment.

use super::cwd_files::{NAME_BYTES, number_of};
use crate::client::args::is_uuid;
use crate::watch::proc_fs::Proc;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What was found.
pub(super) struct Processes {
    /// Files of shell commands that a shell will write, sorted.
    cwd_files: Vec<u16>,
    /// Conversations, sorted.
    conversations: Vec<String>,
    /// Nothing can be said: `/proc` can't be read, or there is too much to remember.
    unknown: bool,
}

/// Letters of a UUID.
const UUID_BYTES: usize = 36;

/// More conversations than this are not remembered.
const MAX_CONVERSATIONS: usize = 4096;

impl Processes {
    /// Looks at command lines; with `open_files` also at the names of what is open, which is 20 times the work.
    pub(super) fn look(proc: &mut Proc, open_files: bool) -> Processes {
        let mut found = Processes {
            cwd_files: Vec::new(),
            conversations: Vec::new(),
            unknown: false,
        };
        let mut pids = Vec::new();
        found.unknown = proc.pids(&mut pids).is_err() || pids.is_empty();
        for pid in pids {
            // Gone, or hidden from us: then it is another user's, and can't use what is ours alone.
            if let Ok(text) = proc.command_line(pid) {
                found.read(text);
            }
            if open_files {
                found.read_open_files(&proc.root().join(pid.to_string()).join("fd"));
            }
        }
        proc.shrink();
        found.cwd_files.sort_unstable();
        found.conversations.sort_unstable();
        found.conversations.dedup();
        found
    }

    fn read(&mut self, text: &[u8]) {
        // The client's shell ends with `pwd -P >| FOLDER/claude-XXXX-cwd`, in whatever quotes.
        for start in memchr::memchr_iter(b'c', text) {
            let word = text.get(start..start + NAME_BYTES);
            self.cwd_files.extend(word.and_then(number_of));
        }
        self.read_conversations(text);
    }

    /// Of open files those count that lie in a folder of outputs. Not the folder: a sweep has that open itself.
    fn read_open_files(&mut self, folder: &Path) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(target) = std::fs::read_link(entry.path()) else {
                continue;
            };
            if target
                .parent()
                .is_some_and(|parent| parent.ends_with("tasks"))
            {
                self.read_conversations(target.as_os_str().as_bytes());
            }
        }
    }

    fn read_conversations(&mut self, text: &[u8]) {
        // The first `-` of a UUID stands behind eight digits.
        for dash in memchr::memchr_iter(b'-', text) {
            let Some(start) = dash.checked_sub(8) else {
                continue;
            };
            let word = text.get(start..start + UUID_BYTES);
            let word = word.and_then(|word| std::str::from_utf8(word).ok());
            if let Some(id) = word.filter(|word| is_uuid(word)) {
                if self.conversations.len() == MAX_CONVERSATIONS {
                    self.conversations.sort_unstable();
                    self.conversations.dedup();
                }
                self.unknown |= self.conversations.len() >= MAX_CONVERSATIONS;
                if !self.unknown {
                    self.conversations.push(id.to_owned());
                }
            }
        }
    }

    /// May a running command still write this file, or its client read it?
    pub(super) fn may_use_cwd_file(&self, number: u16) -> bool {
        self.unknown || self.cwd_files.binary_search(&number).is_ok()
    }

    /// May a process have to do with this conversation?
    pub(super) fn may_use_conversation(&self, id: &str) -> bool {
        let known = |own: &String| own.as_str().cmp(id);
        self.unknown || self.conversations.binary_search_by(known).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::fixture::FakeProc;

    const ID: &str = "2df5e19f-c78d-4a44-8cab-bf9dc4cde34e";

    #[test]
    fn a_file_that_a_shell_will_write_is_found_in_any_quotes() {
        let fake = FakeProc::new();
        fake.process(10, 1, b"zsh", 5, 1);
        let line = b"/bin/zsh\0-c\0eval 'sleep 3' < /dev/null && pwd -P >| /t/claude-55e5-cwd\0";
        fake.write(10, "cmdline", line);
        fake.process(11, 1, b"sh", 5, 1);
        fake.write(
            11,
            "cmdline",
            b"sh\0-c\0pwd >'/claude-x/claude-00ff-cwd'\0claude-ABCD-cwd",
        );
        let found = Processes::look(&mut Proc::new(fake.path()), false);
        for (number, used) in [(0x55e5, true), (0x00ff, true), (0xabcd, false), (0, false)] {
            assert_eq!(found.may_use_cwd_file(number), used, "{number:x}");
        }
    }

    #[test]
    fn a_conversation_is_found_in_command_lines_and_among_open_files() {
        let fake = FakeProc::new();
        fake.process(10, 1, b"claude", 5, 1);
        fake.write(10, "cmdline", format!("claude\0--resume={ID}\0").as_bytes());
        let other = ID.replace('2', "3");
        fake.process(11, 1, b"sleep", 5, 1);
        let fd = fake.path().join("11/fd");
        std::fs::create_dir(&fd).unwrap();
        let third = ID.replace('2', "4");
        for (number, target) in [
            (
                "1",
                format!("/t/claude-0/-work/{other}/tasks/b1.output (deleted)"),
            ),
            ("2", format!("/t/claude-0/-work/{third}/tasks")),
        ] {
            std::os::unix::fs::symlink(target, fd.join(number)).unwrap();
        }
        let lines = Processes::look(&mut Proc::new(fake.path()), false);
        assert!(lines.may_use_conversation(ID) && !lines.may_use_conversation(&other));
        let all = Processes::look(&mut Proc::new(fake.path()), true);
        assert!(all.may_use_conversation(ID) && all.may_use_conversation(&other));
        assert!(
            !all.may_use_conversation(&third),
            "that is a sweep's own look"
        );
    }

    #[test]
    fn where_nothing_is_known_everything_may_be_in_use() {
        let nowhere = std::path::Path::new("/nowhere");
        let found = Processes::look(&mut Proc::new(nowhere), true);
        assert!(found.may_use_cwd_file(1) && found.may_use_conversation(ID));
    }

    #[test]
    fn a_long_command_line_is_read_to_its_end() {
        let fake = FakeProc::new();
        fake.process(10, 1, b"sh", 5, 1);
        let mut line = vec![b'c'; 130 << 10];
        line.extend_from_slice(b" /t/claude-beef-cwd\0");
        fake.write(10, "cmdline", &line);
        let found = Processes::look(&mut Proc::new(fake.path()), false);
        assert!(found.may_use_cwd_file(0xbeef));
    }
}
