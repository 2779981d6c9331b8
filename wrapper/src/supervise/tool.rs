//! What a tool is called, for people; and which one the kernel has killed. Reads `/proc`; acts on nothing.

use crate::config::vocabulary::shown;
use crate::notice;
use crate::watch::{ProcessId, Sample};
use std::ffi::OsStr;

/// Only tools of this size are worth a name, KiB.
const FAT_KIB: u64 = 64 * 1024;

/// The fattest process below the client in one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fattest {
    id: ProcessId,
    leader: ProcessId,
    kib: u64,
    command: String,
}

impl Fattest {
    /// Of a sample. `earlier`: the last one, whose name need not be read again.
    pub fn of(sample: &Sample, earlier: Option<&Fattest>) -> Option<Fattest> {
        let subtree = sample.subtrees.iter().max_by_key(|subtree| subtree.kib)?;
        let process = sample
            .members(subtree)
            .iter()
            .max_by_key(|process| process.footprint_kib)?;
        if process.footprint_kib < FAT_KIB {
            return None;
        }
        let command = match earlier.filter(|earlier| earlier.leader == subtree.leader) {
            Some(earlier) => earlier.command.clone(),
            None => command_of(subtree.leader.pid),
        };
        Some(Fattest {
            id: process.id,
            leader: subtree.leader,
            kib: process.footprint_kib,
            command,
        })
    }
}

/// One line on what the kernel has killed since the last look, which saw `last`. The client lives.
pub fn killed_by_kernel(last: Option<&Fattest>, sample: &Sample) -> String {
    let is_gone = |fat: &&Fattest| sample.processes.iter().all(|process| process.id != fat.id);
    let what = match last.filter(is_gone) {
        None => "a process of this session".to_owned(),
        Some(fat) => {
            let memory = notice::memory(fat.kib);
            format!(
                "the tool {} (pid {}), seen at {memory}",
                fat.command, fat.id.pid
            )
        }
    };
    format!("the kernel, out of memory, killed {what}; the session goes on")
}

/// The command line of a process, in quotes and on one short line: of a shell that evaluates something, that.
pub fn command_of(pid: i32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line: Vec<u8> = line
        .iter()
        .map(|byte| if *byte == 0 { b' ' } else { *byte })
        .collect();
    let text = String::from_utf8_lossy(&line);
    match evaluated(text.trim()) {
        "" => "?".to_owned(),
        text => shown(OsStr::new(text)),
    }
}

/// Claude runs the command of its Bash tool as `bash -c … eval 'COMMAND' < /dev/null && pwd -P >| FILE`.
fn evaluated(line: &str) -> &str {
    let Some((_, rest)) = line.split_once("eval ") else {
        return line;
    };
    let rest = rest
        .rsplit_once("&& pwd -P")
        .map_or(rest, |(command, _)| command);
    let rest = rest.trim_end().trim_end_matches("< /dev/null").trim();
    let within = |quote: char| rest.strip_prefix(quote)?.strip_suffix(quote);
    within('\'').or_else(|| within('"')).unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_command_is_found_in_the_shells_line() {
        for (line, command) in [
            (
                "/bin/bash -c shopt -u extglob || true && eval 'make all' < /dev/null && pwd -P >| /tmp/claude-1a2b-cwd",
                "make all",
            ),
            ("/bin/bash -c eval \"a 'b'\"", "a 'b'"),
            ("/bin/bash -c eval x && pwd -P >| f", "x"),
            ("node server.js", "node server.js"),
            ("", ""),
        ] {
            assert_eq!(evaluated(line), command);
        }
        let own = command_of(std::process::id().cast_signed());
        assert!(own.starts_with('"') && own.len() > 3, "{own}");
        assert_eq!(command_of(-1), "?");
    }

    #[test]
    fn the_victim_is_named_if_it_was_seen() {
        let mut sample = Sample::of_tools(2, &[10, 20]);
        sample.processes[2].footprint_kib = FAT_KIB;
        sample.subtrees[1].kib = FAT_KIB;
        let earlier = Fattest {
            id: sample.processes[2].id,
            leader: sample.processes[2].id,
            kib: 1,
            command: "\"hog\"".to_owned(),
        };
        let fat = Fattest::of(&sample, Some(&earlier)).unwrap();
        assert_eq!(
            (fat.id.pid, fat.kib, fat.command.as_str()),
            (20, FAT_KIB, "\"hog\"")
        );
        let after = Sample::of_tools(2, &[10]);
        let told = killed_by_kernel(Some(&fat), &after);
        assert!(
            told.contains("killed the tool \"hog\" (pid 20), seen at 64 MiB"),
            "{told}"
        );
        let other = killed_by_kernel(Some(&fat), &sample);
        assert!(
            other.contains("killed a process of this session"),
            "{other}"
        );
        sample.processes[2].footprint_kib = FAT_KIB - 1;
        assert_eq!(Fattest::of(&sample, None), None);
    }
}
