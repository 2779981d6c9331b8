//! The client's background daemon (`claude daemon run`, from 2.1.2xx on). A session starts it, and it serves the next
//! ones when that session has ended: it is nobody's tool. Only finds it.

use crate::os::files::FileId;
use crate::watch::{ProcessId, Sample};
use std::path::Path;

/// What it is called with, behind its name.
const WORDS: [&[u8]; 2] = [b"daemon", b"run"];

/// Looks for it below one client.
#[derive(Default)]
pub struct Apart {
    daemon: Option<ProcessId>,
}

impl Apart {
    /// The daemon that this session started, if it was seen.
    pub fn daemon(&self) -> Option<ProcessId> {
        self.daemon
    }

    /// Finds it in a sample, with all that is below it. Empty: none, or the one that was found before.
    pub fn look(&mut self, sample: &Sample, proc_root: &Path) -> Vec<ProcessId> {
        let Some(client) = FileId::of(&file_of(proc_root, sample.client.pid, "exe")) else {
            return Vec::new();
        };
        for subtree in &sample.subtrees {
            let pid = subtree.leader.pid;
            if has_its_words(&file_of(proc_root, pid, "cmdline"))
                && FileId::of(&file_of(proc_root, pid, "exe")) == Some(client)
            {
                self.daemon = Some(subtree.leader);
                return sample
                    .members(subtree)
                    .iter()
                    .map(|process| process.id)
                    .collect();
            }
        }
        Vec::new()
    }
}

fn file_of(proc_root: &Path, pid: i32, name: &str) -> std::path::PathBuf {
    proc_root.join(format!("{pid}/{name}"))
}

fn has_its_words(command_line: &Path) -> bool {
    let text = std::fs::read(command_line).unwrap_or_default();
    let mut words = text.split(|byte| *byte == 0).skip(1);
    WORDS.iter().all(|word| words.next() == Some(*word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;

    #[test]
    fn the_daemon_is_known_by_its_words_and_its_file() {
        let scratch = Scratch::new();
        let client = scratch.write("client", "");
        let other = scratch.write("other", "");
        let proc_root = scratch.path().join("proc");
        for (pid, exe, line) in [
            (1, &client, "claude\0"),
            (2, &client, "claude\0daemon\0run\0--origin\0transient\0"),
            (3, &other, "docker\0daemon\0run\0"),
            (4, &client, "claude\0daemon\0status\0"),
            (5, &client, "claude\0-p\0daemon\0run\0"),
            (6, &client, "claude\0daemon"),
        ] {
            scratch.write(&format!("proc/{pid}/cmdline"), line);
            std::os::unix::fs::symlink(exe, proc_root.join(format!("{pid}/exe"))).unwrap();
        }
        for (leader, found) in [
            (2, true),
            (3, false),
            (4, false),
            (5, false),
            (6, false),
            (7, false),
        ] {
            let sample = Sample::of_tools(1, &[leader]);
            let mut apart = Apart::default();
            let members = apart.look(&sample, &proc_root);
            assert_eq!(
                members.iter().map(|id| id.pid).collect::<Vec<_>>(),
                if found { vec![leader] } else { vec![] }
            );
            assert_eq!(apart.daemon().is_some(), found, "{leader}");
        }
    }
}
