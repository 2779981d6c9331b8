//! What is particular to macOS, without macOS: the records of libproc as bytes, who Claude Desktop is, and what is
//! said before the terminals run out. Pure; compiled for macOS (wrapper/macos), and here for tests alone.
//!
//! There every `forkpty` of the machine fails when `kern.tty.ptmx_max` masters are open (511 as a rule, and the kernel
//! takes no more). No counter tells how many are: they are counted among the descriptors of the processes that we
//! may look into.

use super::judgement::{Episode, Holder, machine_is_nearly_out, many_terminals};
use super::table::Table;

/// `sizeof(struct proc_fdinfo)` of sys/proc_info.h: a number and a type of 4 bytes each.
pub const FD_RECORD_BYTES: usize = 8;
/// `PROX_FDTYPE_VNODE`: a descriptor of a file.
const FD_IS_FILE: u32 = 1;
/// `sizeof(struct vnode_fdinfowithpath)`: 24 bytes of `proc_fileinfo`, 152 of `vnode_info`, a path of `MAXPATHLEN`.
pub const PATH_RECORD_BYTES: usize = 24 + 152 + 1024;
/// Where the path begins in it.
const PATH_AT: usize = 24 + 152;

/// The descriptors of a buffer that `PROC_PIDLISTFDS` has filled: how many there are, and which are of files.
#[must_use]
pub fn descriptors_in(buffer: &[u8]) -> (u64, Vec<i32>) {
    let word = |bytes: &[u8]| [bytes[0], bytes[1], bytes[2], bytes[3]];
    let records = buffer.chunks_exact(FD_RECORD_BYTES);
    let open = records.len() as u64;
    let files = records
        .filter(|record| u32::from_ne_bytes(word(&record[4..])) == FD_IS_FILE)
        .map(|record| i32::from_ne_bytes(word(record)));
    (open, files.collect())
}

/// The path in a buffer that `PROC_PIDFDVNODEPATHINFO` has filled; `None`: it has not.
#[must_use]
pub fn path_in(buffer: &[u8]) -> Option<&[u8]> {
    let path = buffer.get(PATH_AT..PATH_RECORD_BYTES)?;
    path.split(|byte| *byte == 0).next()
}

/// Is this the device whose descriptors are masters of pseudo-terminals?
#[must_use]
pub fn is_ptmx(path: &[u8]) -> bool {
    path == b"/dev/ptmx"
}

/// Claude Desktop and its helpers, by the bundle that their program lies in.
#[must_use]
pub fn is_desktop(program: &str) -> bool {
    program.contains("/Claude.app/Contents/")
}

/// The only thing that is known to help: the descriptors are the app's own, not those of the shells that it started.
const REMEDY: &str = "quit Claude Desktop and open it again: that gives them back";

/// What was said already, kept between two runs of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    one: Episode,
    machine: Episode,
}

impl Told {
    /// Of such a text; anything else is nothing.
    #[must_use]
    pub fn parse(text: &str) -> Told {
        let has = |word| text.split_ascii_whitespace().any(|found| found == word);
        Told {
            one: Episode::resumed(has("holder")),
            machine: Episode::resumed(has("machine")),
        }
    }

    /// As the file has it.
    #[must_use]
    pub fn text(&self) -> String {
        let of = |episode: Episode, word: &'static str| if episode.is_on() { word } else { "" };
        let words = [of(self.one, "holder"), of(self.machine, "machine")];
        format!("{}\n", words.join(" ").trim())
    }
}

/// What is to be said now, if anything: once in an episode.
pub fn notice(table: &Table, pty_warn: u64, told: &mut Told) -> Option<String> {
    let most = table.holders.first();
    let held = most.map_or(0, |most| most.ptmx);
    let one = told.one.begins(held, pty_warn);
    let ceiling = table.ceiling;
    let machine = (ceiling.used.zip(ceiling.near()))
        .is_some_and(|(used, near)| told.machine.begins(used, near));
    let text = match most {
        _ if machine => machine_is_nearly_out(&ceiling, most),
        Some(most) if one => many_terminals(most, &ceiling),
        _ => return None,
    };
    Some(match most.is_some_and(is_desktops) {
        true => format!("{text}; {REMEDY}"),
        false => text,
    })
}

/// The table for people, with the remedy where it applies.
#[must_use]
pub fn in_words(table: &Table) -> String {
    let mut text = table.in_words();
    if table.holders.iter().any(is_desktops) {
        text.push_str(REMEDY);
        text.push('\n');
    }
    text
}

fn is_desktops(holder: &Holder) -> bool {
    holder.ptmx > 0 && is_desktop(&holder.command)
}

/// The table for programs: as `claude-safectl pty --json` of Linux has it.
#[must_use]
pub fn in_json(table: &Table, pty_warn: u64) -> String {
    let number = |number: Option<u64>| number.map_or("null".to_owned(), |n| n.to_string());
    let one = |holder: &Holder| {
        format!(
            "    {{\"pid\": {}, \"command\": {}, \"ptmx\": {}, \"descriptors\": {}, \"limit\": {}}}",
            holder.pid,
            quoted(&holder.command),
            holder.ptmx,
            holder.open,
            number(holder.limit)
        )
    };
    let processes: Vec<String> = table.holders.iter().map(one).collect();
    format!(
        "{{\n  \"processes\": [\n{}\n  ],\n  \"ptmx\": {},\n  \"descriptors\": {},\n  \"not_readable\": {},\n  \
         \"kernel\": {{\"used\": {}, \"max\": {}}},\n  \"warn_at\": {pty_warn}\n}}\n",
        processes.join(",\n"),
        table.ptmx(),
        table.open(),
        table.not_readable,
        number(table.ceiling.used),
        number(table.ceiling.max)
    )
}

/// A JSON string (RFC 8259).
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter < ' ' => out.push_str(&format!("\\u{:04x}", letter as u32)),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::super::judgement::{Ceiling, sort};
    use super::*;

    const DESKTOP: &str = "/Applications/Claude.app/Contents/MacOS/Claude";

    /// Seed 001, the host of 2026-05-26: one line of `lsof /dev/ptmx` for each descriptor that it names, and what
    /// else such a machine has. COMMAND PID FD.
    const RECORDED: &str = "\
        Claude 812 43\nClaude 812 44\nClaude 812 46\nClaude 812 88\nClaude 812 89\n\
        Claude 812 92\nClaude 812 94\nClaude 812 98\nClaude 812 99\nClaude 812 102\n\
        iTerm2 640 21\niTerm2 640 25\nTerminal 655 9\n";

    /// The table of that listing, with every descriptor of Claude's there `times` over.
    fn recorded(times: u64) -> Table {
        let mut holders: Vec<Holder> = Vec::new();
        for line in RECORDED.lines() {
            let mut words = line.split_ascii_whitespace();
            let (name, pid) = (words.next().unwrap(), words.next().unwrap());
            let (pid, count) = (
                pid.parse().unwrap(),
                if name == "Claude" { times } else { 1 },
            );
            let command = match name {
                "Claude" => DESKTOP.to_owned(),
                name => format!("/Applications/{name}.app/Contents/MacOS/{name}"),
            };
            match holders.iter_mut().find(|holder| holder.pid == pid) {
                Some(holder) => holder.ptmx += count,
                None => holders.push(Holder {
                    pid,
                    command,
                    open: 300,
                    limit: None,
                    ptmx: count,
                }),
            }
        }
        sort(&mut holders);
        let used = holders.iter().map(|holder| holder.ptmx).sum();
        Table {
            holders,
            not_readable: 4,
            ceiling: Ceiling {
                used: Some(used),
                max: Some(511),
            },
        }
    }

    #[test]
    fn claude_desktop_is_named_with_its_remedy_before_the_limit_and_once() {
        let mut told = Told::default();
        assert_eq!(notice(&recorded(1), 100, &mut told), None);
        let text = notice(&recorded(10), 100, &mut told).expect("100 of one process");
        assert!(
            text.contains("(pid 812) holds 100 pseudo-terminals"),
            "{text}"
        );
        assert!(text.ends_with(REMEDY), "{text}");
        assert_eq!(notice(&recorded(30), 100, &mut told), None, "said");
        let text = notice(&recorded(41), 100, &mut told).expect("80 % of 511 are 409");
        assert!(
            text.starts_with("413 of the 511 pseudo-terminals"),
            "{text}"
        );
        assert!(text.ends_with(REMEDY), "{text}");
        // The agent is another process at each of its turns.
        let mut told = Told::parse(&told.text());
        assert_eq!(notice(&recorded(50), 100, &mut told), None);
        assert_eq!(notice(&recorded(1), 100, &mut told), None, "relaunched");
        assert_eq!(told, Told::default());
        assert!(notice(&recorded(10), 100, &mut told).is_some(), "again");
    }

    #[test]
    fn what_was_said_survives_the_file_and_junk_is_nothing_said() {
        for text in ["", "\n", "holder machine\n", "machine", "holder"] {
            let told = Told::parse(text);
            assert_eq!(told.text().trim(), text.trim());
        }
        assert_eq!(Told::parse("\u{0}holders x"), Told::default());
    }

    #[test]
    fn another_program_that_leaks_gets_no_remedy_of_the_desktops() {
        let mut table = recorded(1);
        table.holders[0].command = "/usr/local/bin/leaker".to_owned();
        table.holders[0].ptmx = 200;
        let text = notice(&table, 100, &mut Told::default()).unwrap();
        assert!(text.contains("/usr/local/bin/leaker") && !text.contains("Desktop"));
        assert!(!in_words(&table).contains("Desktop"));
        assert!(in_words(&recorded(1)).ends_with("back\n"));
        for (program, is_one) in [
            (DESKTOP, true),
            (
                "/Applications/Claude.app/Contents/Frameworks/Claude Helper.app/x",
                true,
            ),
            (
                "/Users/x/Applications/Claude.app/Contents/MacOS/Claude",
                true,
            ),
            ("/Users/x/.local/bin/claude", false),
            ("/Applications/NotClaude.app/Contents/MacOS/x", false),
        ] {
            assert_eq!(is_desktop(program), is_one, "{program}");
        }
    }

    #[test]
    fn the_records_of_libproc_are_read_at_their_places() {
        let record = |fd: i32, kind: u32| [fd.to_ne_bytes(), kind.to_ne_bytes()].concat();
        // A file, a socket, a file, and half a record.
        let mut buffer = [record(3, 1), record(4, 2), record(260, 1)].concat();
        buffer.extend([1, 2, 3]);
        assert_eq!(descriptors_in(&buffer), (3, vec![3, 260]));
        assert_eq!(descriptors_in(&[]), (0, vec![]));
        let mut buffer = vec![0xff; PATH_RECORD_BYTES];
        buffer[PATH_AT..PATH_AT + 10].copy_from_slice(b"/dev/ptmx\0");
        assert!(is_ptmx(path_in(&buffer).unwrap()));
        assert_eq!(path_in(&buffer[..PATH_RECORD_BYTES - 1]), None);
        buffer[PATH_AT] = b'x';
        assert!(!is_ptmx(path_in(&buffer).unwrap()));
    }

    #[test]
    fn the_json_is_json_and_says_what_linux_says() {
        let mut table = recorded(2);
        table.holders[0].command = "a \"b\" \\ \u{1} ä".to_owned();
        let told: serde_json::Value = serde_json::from_str(&in_json(&table, 100)).unwrap();
        assert_eq!(told["processes"][0]["command"], table.holders[0].command);
        assert_eq!(told["processes"][0]["ptmx"], 20);
        assert_eq!(told["processes"][1]["limit"], serde_json::Value::Null);
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let linux: serde_json::Value =
            serde_json::from_str(&crate::ctl::pty::in_json(&table, 100)).unwrap();
        assert_eq!(told, linux);
        assert_eq!(keys(&told), keys(&linux));
    }
}
