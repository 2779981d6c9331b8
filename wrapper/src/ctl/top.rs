//! `claude-safectl top`: the sessions live on one screen, drawn anew once a second where something changed. Owns the
//! screen while it runs, and gives it back as it was whatever ends it (q, Esc, Ctrl-C, TERM, HUP, an error). Without a
//! terminal of its own: one frame as plain text.

use super::sessions::Sessions;
use super::status::Status;
use super::style::{Style, Tone, WIDTH, plain, size};
use super::{Answer, Request, exit, past};
use crate::config::memory;
use crate::os::process::now_ms;
use crate::os::signals::{self, SignalFd, Signo};
use crate::os::terminal::{ControllingTerminal, is_terminal};
use crate::os::wait::{self, Source};
use crate::watch::proc_fs::Proc;
use std::os::fd::AsFd;
use std::path::Path;

const EVERY_MS: u64 = 1_000;
/// Of a terminal that does not tell.
const ROWS: usize = 24;
/// Processes of one session, at most.
const PROCESSES: usize = 8;
/// Lines that a session's block of plain text gets.
const PLAIN_ROWS: usize = 20;

/// One look at everything.
struct Seen {
    all: Vec<Status>,
    /// The biggest processes of each session.
    biggest: Vec<Vec<[String; 3]>>,
    complaints: Vec<String>,
    machine: String,
}

impl Seen {
    fn now() -> Seen {
        let mut processes = Proc::new(Path::new("/proc"));
        let sessions = Sessions::of_this_user(&mut processes);
        let folder = past::folder();
        let running = sessions.running.into_iter();
        let all: Vec<Status> = running
            .map(|session| Status::of(session, folder.as_deref()))
            .collect();
        let mut complaints = sessions.complaints;
        complaints.extend(all.iter().filter_map(|status| status.complaint.clone()));
        let each = all.iter();
        Seen {
            biggest: each.map(|status| biggest(status, &mut processes)).collect(),
            all,
            complaints,
            machine: machine(),
        }
    }
}

/// The biggest processes: pid, memory, program.
fn biggest(status: &Status, processes: &mut Proc) -> Vec<[String; 3]> {
    let Some(sample) = &status.sample else {
        return Vec::new();
    };
    let mut all: Vec<_> = sample.processes.iter().collect();
    all.sort_unstable_by_key(|process| std::cmp::Reverse(process.footprint_kib));
    let rows = all.into_iter().take(PROCESSES).map(|process| {
        let pid = process.id.pid;
        let name = processes.name(pid).unwrap_or("?".to_owned());
        [
            pid.to_string(),
            size(process.footprint_kib.saturating_mul(1024)),
            name,
        ]
    });
    rows.collect()
}

fn machine() -> String {
    let proc_root = Path::new("/proc");
    let free = memory::free_kib(proc_root).map(|kib| size(kib.saturating_mul(1024)));
    let all = memory::measure(proc_root).map(|all| size(all.bytes));
    let (free, all) = (
        free.unwrap_or("?".to_owned()),
        all.unwrap_or("?".to_owned()),
    );
    format!("{free} of {all} available")
}

/// One line of a frame.
struct Line {
    text: String,
    is_heading: bool,
}

/// The frame for a screen of this size; no line is longer, and there are no more of them.
fn frame(seen: &Seen, columns: usize, rows: usize, unicode: bool) -> Vec<Line> {
    let mut lines: Vec<(String, bool)> = Vec::new();
    let sessions = match seen.all.len() {
        0 => "no session is running".to_owned(),
        1 => "1 session".to_owned(),
        count => format!("{count} sessions"),
    };
    lines.push((
        format!("claude-safe top: {sessions}; {}", seen.machine),
        true,
    ));
    // The first and the last line are taken; each session has its share of the rest.
    let room = rows.saturating_sub(2 + seen.complaints.len().min(2));
    let shown = seen.all.len().min(room.max(1));
    let share = room / shown.max(1);
    for (status, biggest) in seen.all.iter().zip(&seen.biggest).take(shown) {
        lines.extend(block(status, biggest, columns, share, unicode));
    }
    if shown < seen.all.len() {
        lines.truncate(rows.saturating_sub(2));
        lines.push((format!("and {} more", seen.all.len() - shown), false));
    }
    lines.extend(
        seen.complaints
            .iter()
            .take(2)
            .map(|text| (text.clone(), false)),
    );
    lines.truncate(rows.saturating_sub(1));
    while lines.len() + 1 < rows {
        lines.push((String::new(), false));
    }
    lines.push(("q quits".to_owned(), false));
    lines.truncate(rows);
    let cut = |(text, is_heading): (String, bool)| Line {
        text: plain(&text).chars().take(columns).collect(),
        is_heading,
    };
    lines.into_iter().map(cut).collect()
}

/// One session on at most `share` lines: what matters most comes first, the curve takes what is left.
fn block(
    status: &Status,
    biggest: &[[String; 3]],
    columns: usize,
    share: usize,
    unicode: bool,
) -> Vec<(String, bool)> {
    let mut head = vec![(status.title(), true)];
    let told = super::status::rows(status, false);
    head.extend(
        told.into_iter()
            .map(|[name, value]| (format!("  {name:<9} {value}"), false)),
    );
    head.truncate(share);
    let mut left = share - head.len();
    // A blank line between two sessions.
    left = left.saturating_sub(1);
    let processes = biggest.len().min(left / 2);
    let curve_rows = left.saturating_sub(processes).saturating_sub(1).min(8);
    if curve_rows >= 2 {
        let curve = status.curve(columns, curve_rows, unicode);
        head.extend(curve.into_iter().map(|line| (line, false)));
    }
    let processes = share
        .saturating_sub(1)
        .saturating_sub(head.len())
        .min(biggest.len());
    for [pid, memory, name] in &biggest[..processes] {
        head.push((format!("  {pid:>9} {memory:>10}  {name}"), false));
    }
    if head.len() < share {
        head.push((String::new(), false));
    }
    head
}

pub(super) fn run(request: &Request) -> Answer {
    let terminal =
        ControllingTerminal::open().filter(|terminal| is_terminal(1) && terminal.is_ours());
    let Some(terminal) = terminal else {
        return once(request.style);
    };
    let inherited = signals::block_all();
    let Ok(mut queue) = SignalFd::open() else {
        return once(request.style);
    };
    let mut screen = Screen::new(&terminal, request.style);
    let ended_by = live(&mut screen, &mut queue, &inherited);
    drop(screen);
    Answer {
        text: String::new(),
        code: ended_by.map_or(exit::DONE, |signo| (128 + signo) as u8),
    }
}

/// A frame for a file or a pipe, as long as it needs.
fn once(style: Style) -> Answer {
    let mut seen = Seen::now();
    let complaints = std::mem::take(&mut seen.complaints);
    let rows = 2 + seen.all.len() * PLAIN_ROWS;
    let lines = frame(&seen, style.width.max(WIDTH), rows, style.unicode);
    let count = lines.len().saturating_sub(1);
    let lines = lines.into_iter().take(count).map(|line| line.text);
    let text = lines.collect::<Vec<_>>().join("\n");
    let mut text = text.trim_end().to_owned() + "\n";
    // Whole, as long as they are.
    for complaint in &complaints {
        text.push_str(&format!("{complaint}\n"));
    }
    let code = match complaints.is_empty() {
        true => exit::DONE,
        false => exit::TROUBLE,
    };
    Answer { text, code }
}

/// Until somebody ends it. The result is the signal that did, if it was one that ends programs.
fn live(
    screen: &mut Screen<'_>,
    queue: &mut SignalFd,
    inherited: &signals::Inherited,
) -> Option<Signo> {
    let mut seen = Seen::now();
    let mut seen_ms = now_ms();
    loop {
        if now_ms() >= seen_ms + EVERY_MS {
            seen = Seen::now();
            seen_ms = now_ms();
        }
        screen.show(&seen);
        let sources = [
            Source {
                fd: queue.as_fd(),
                urgent: false,
            },
            Source {
                fd: screen.terminal.as_fd(),
                urgent: false,
            },
        ];
        let left_ms = (seen_ms + EVERY_MS).saturating_sub(now_ms());
        // In the background nothing is read: a key is not for us then.
        let watched = if screen.is_entered {
            &sources[..]
        } else {
            &sources[..1]
        };
        let ready = wait::wait(watched, Some(left_ms));
        while let Some(signo) = queue.take() {
            match signo {
                signals::SIGINT => return None,
                signals::SIGTERM | signals::SIGHUP | signals::SIGQUIT => return Some(signo),
                signals::SIGTSTP => {
                    screen.leave();
                    signals::stop_self(signo, inherited);
                }
                signals::SIGWINCH => screen.forget(),
                _ => {}
            }
        }
        if ready[1] && screen.is_entered && screen.wants_to_quit() {
            return None;
        }
    }
}

/// The screen while it is ours. Dropped, it is as it was.
struct Screen<'a> {
    terminal: &'a ControllingTerminal,
    style: Style,
    is_entered: bool,
    /// What stands there, and on how large a screen.
    shown: Vec<String>,
    size: (usize, usize),
}

/// Alternate screen, no cursor, no wrapping.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &[u8] = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";

impl<'a> Screen<'a> {
    fn new(terminal: &'a ControllingTerminal, style: Style) -> Screen<'a> {
        Screen {
            terminal,
            style,
            is_entered: false,
            shown: Vec::new(),
            size: (0, 0),
        }
    }

    fn leave(&mut self) {
        if self.is_entered && self.terminal.is_ours() {
            self.terminal.write(LEAVE);
            self.terminal.restore_settings();
        }
        self.is_entered = false;
    }

    /// All is drawn again.
    fn forget(&mut self) {
        self.size = (0, 0);
    }

    fn show(&mut self, seen: &Seen) {
        if !self.terminal.is_ours() {
            // Another program has it: it will have drawn on it.
            self.is_entered = false;
            return;
        }
        let mut out: Vec<u8> = Vec::new();
        if !self.is_entered {
            // A terminal that keeps its lines has its keys with Return.
            self.terminal.take_keys();
            self.is_entered = true;
            out.extend_from_slice(ENTER);
            self.forget();
        }
        let size = self
            .terminal
            .size()
            .filter(|(columns, rows)| *columns > 0 && *rows > 0);
        let size = size.map_or((WIDTH, ROWS), |(columns, rows)| {
            (columns.into(), rows.into())
        });
        if size != self.size {
            out.extend_from_slice(b"\x1b[2J");
            self.shown = vec![String::new(); size.1];
            self.size = size;
        }
        let lines = frame(seen, size.0, size.1, self.style.unicode);
        for (row, line) in lines.iter().enumerate() {
            let painted = match line.is_heading {
                true => self.style.paint(Tone::Heading, &line.text),
                false => line.text.clone(),
            };
            if let Some(shown) = self.shown.get_mut(row).filter(|shown| **shown != painted) {
                // The line is emptied first: behind a full one, the end of the line is its last letter.
                out.extend_from_slice(format!("\x1b[{};1H\x1b[2K{painted}", row + 1).as_bytes());
                *shown = painted;
            }
        }
        if !self.terminal.write(&out) {
            // It takes no more now (Ctrl-S): all of it when it does.
            self.forget();
        }
    }

    /// Has a key been pressed that ends it, or is the terminal gone?
    fn wants_to_quit(&self) -> bool {
        let mut keys = [0; 64];
        match self.terminal.typed(&mut keys) {
            None => true,
            // Alone it is the key; with more behind it, an arrow or a mouse.
            Some(1) if keys[0] == 0x1b => true,
            Some(count) if keys[0] != 0x1b => {
                keys[..count].iter().any(|key| b"qQ\x03\x04".contains(key))
            }
            Some(_) => false,
        }
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::super::sessions::fixture::Running;
    use super::*;
    use crate::os::files::scratch::Scratch;
    use crate::state::Notes;

    fn seen(sessions: usize) -> Seen {
        let scratch = Scratch::new();
        let running = Running::new(&scratch);
        running.tell(Notes {
            contained: Some("own\u{1b}[31m cgroup".to_owned()),
            tier_2_kib: Some(1),
            ..Notes::default()
        });
        let made = |_| {
            let session = running.find().running.pop().unwrap();
            Status::of(session, None)
        };
        let all: Vec<Status> = (0..sessions).map(made).collect();
        let biggest = vec![[String::from("1"), "1 MiB".to_owned(), "x".to_owned()]; 8];
        Seen {
            biggest: vec![biggest; sessions],
            all,
            complaints: vec!["a complaint".to_owned(); sessions],
            machine: "1 GiB of 2 GiB available".to_owned(),
        }
    }

    #[test]
    fn no_size_breaks_a_frame_and_none_is_passed() {
        for sessions in [0, 1, 2, 9] {
            let seen = seen(sessions);
            for columns in [0, 1, 5, 20, 80, 300] {
                for rows in 0..60 {
                    let lines = frame(&seen, columns, rows, true);
                    assert_eq!(lines.len(), rows, "{sessions} on {columns}x{rows}");
                    for line in &lines {
                        assert!(line.text.chars().count() <= columns);
                        assert!(!line.text.contains('\u{1b}'));
                    }
                }
            }
        }
    }

    #[test]
    fn a_usual_screen_has_the_session_its_processes_and_how_to_leave() {
        let lines = frame(&seen(1), 80, 24, false);
        let text: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert!(text[0].starts_with("claude-safe top: 1 session; 1 GiB of 2 GiB"));
        assert!(lines[0].is_heading && lines[1].is_heading);
        assert!(text[1].starts_with("claude "), "{text:?}");
        assert!(
            text.iter().any(|line| line.starts_with("  memory ")),
            "{text:?}"
        );
        assert!(
            text.iter().any(|line| line.contains("1 MiB  x")),
            "{text:?}"
        );
        assert!(text.contains(&"a complaint"));
        assert_eq!(text[23], "q quits");
    }

    #[test]
    fn a_small_screen_has_a_line_for_each_session_and_says_how_many_more() {
        let lines = frame(&seen(9), 20, 5, false);
        let text: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert!(text[1].starts_with("claude "), "{text:?}");
        assert_eq!(text[4], "q quits");
    }
}
