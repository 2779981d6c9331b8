//! Who belongs to a session, as its looks saw it. Kept as a file in the session's folder, for the next session to read
//! when this one, its claude-safe too, was killed. Never decides what becomes of a process.

use crate::watch::{ProcessId, Sample};

/// The file of the ledger in a session's folder.
pub const LEDGER: &str = "processes";

/// How a process hangs on the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tie {
    /// The client's own child: a tool, an MCP server, a subagent.
    Direct,
    /// Further down, in the kernel's session (setsid(2)) of the tool that started it, or in the client's.
    Within,
    /// Further down, and in another session: a daemon, or on its way to be one.
    Apart,
}

impl Tie {
    const LETTERS: [(Tie, char); 3] = [(Tie::Direct, 'd'), (Tie::Within, 'w'), (Tie::Apart, 'a')];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    id: ProcessId,
    /// Its session when it was seen first.
    session: i32,
    tie: Tie,
}

/// The processes below one client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The client's session; 0: its leader is outside of this pid namespace, as in a container that was entered.
    /// `None`: not known.
    client_session: Option<i32>,
    /// The client itself ignores SIGHUP, and so do its children: it says nothing about them.
    client_ignores_hangup: bool,
    /// In the order of their ids.
    entries: Vec<Entry>,
}

impl Ledger {
    /// For a client that runs now.
    pub fn new(client_session: Option<i32>, client_ignores_hangup: bool) -> Ledger {
        Ledger {
            client_session,
            client_ignores_hangup,
            entries: Vec::new(),
        }
    }

    /// Takes over what a look saw. True: it is not what was known before.
    pub fn note(&mut self, sample: &Sample) -> bool {
        let mut entries: Vec<Entry> = Vec::with_capacity(self.entries.len());
        for subtree in &sample.subtrees {
            let members = sample.members(subtree);
            let Some(leader) = members.first() else {
                continue;
            };
            let leader_tie = self.tie_of(leader.id);
            for process in members {
                let known = self.entry(process.id);
                let within = Some(process.session) == self.client_session
                    || process.session == leader.session && leader_tie != Some(Tie::Apart);
                let tie = match known {
                    _ if process.ppid == sample.client.pid => Tie::Direct,
                    Some(known) => known.tie,
                    None if within => Tie::Within,
                    None => Tie::Apart,
                };
                entries.push(Entry {
                    id: process.id,
                    session: known.map_or(process.session, |known| known.session),
                    tie,
                });
            }
        }
        entries.sort_unstable_by_key(|entry| entry.id);
        let is_news = entries != self.entries;
        self.entries = entries;
        is_news
    }

    fn entry(&self, id: ProcessId) -> Option<&Entry> {
        let place = self.entries.binary_search_by_key(&id, |entry| entry.id);
        Some(&self.entries[place.ok()?])
    }

    /// Everybody in it.
    pub fn ids(&self) -> impl Iterator<Item = ProcessId> {
        self.entries.iter().map(|entry| entry.id)
    }

    /// How this process hangs on the session. `None`: no look saw it.
    pub fn tie_of(&self, id: ProcessId) -> Option<Tie> {
        Some(self.entry(id)?.tie)
    }

    /// Has it gone into another session since it was seen first?
    pub(super) fn has_moved(&self, id: ProcessId, session: i32) -> bool {
        self.entry(id).is_some_and(|entry| entry.session != session)
    }

    /// Is this kernel session the client's, or that of one of its tools?
    pub(super) fn knows_session(&self, session: i32) -> bool {
        let of_tool = |entry: &Entry| match entry.tie {
            Tie::Direct => entry.id.pid == session || entry.session == session,
            Tie::Within => entry.session == session,
            Tie::Apart => false,
        };
        Some(session) == self.client_session || self.entries.iter().any(of_tool)
    }

    /// Does SIGHUP being ignored say nothing in this session?
    pub(super) fn client_ignores_hangup(&self) -> bool {
        self.client_ignores_hangup
    }

    /// As the file has it: a line on the client, then one for each process.
    pub fn text(&self) -> String {
        let hangup = u8::from(self.client_ignores_hangup);
        let session = self
            .client_session
            .map_or("-".to_owned(), |session| session.to_string());
        let mut text = format!("client {session} {hangup}\n");
        for entry in &self.entries {
            let letter = Tie::LETTERS.iter().find(|(tie, _)| *tie == entry.tie);
            let letter = letter.map_or('a', |(_, letter)| *letter);
            let ProcessId { pid, start_ticks } = entry.id;
            text.push_str(&format!("{pid} {start_ticks} {} {letter}\n", entry.session));
        }
        text
    }

    /// Of such a text; a line that is not understood (cut off, of another version) proves nothing and is passed over.
    pub fn parse(text: &str) -> Ledger {
        let mut ledger = Ledger::default();
        // What does not end in a newline was cut off, perhaps within a number.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["client", session, hangup] => {
                    ledger.client_session = session.parse().ok();
                    ledger.client_ignores_hangup = hangup != "0";
                }
                [pid, start_ticks, session, letter] => {
                    let tie = Tie::LETTERS
                        .iter()
                        .find(|(_, known)| letter.len() == 1 && letter.starts_with(*known));
                    if let (Ok(pid), Ok(start_ticks), Ok(session), Some((tie, _))) =
                        (pid.parse(), start_ticks.parse(), session.parse(), tie)
                    {
                        let id = ProcessId { pid, start_ticks };
                        // Process 1 and below is nobody's tool.
                        if pid > 1 {
                            ledger.entries.push(Entry {
                                id,
                                session,
                                tie: *tie,
                            });
                        }
                    }
                }
                _ => {}
            }
        }
        ledger.entries.sort_unstable_by_key(|entry| entry.id);
        ledger
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::watch::{Branch, Process, Subtree};

    fn id(pid: i32) -> ProcessId {
        ProcessId {
            pid,
            start_ticks: 7,
        }
    }

    /// Its members: (pid, parent, session).
    type Members = [(i32, i32, i32)];

    /// A look at these subtrees; the client is 10, in session 5.
    pub(crate) fn sample(subtrees: &[(Branch, &Members)]) -> Sample {
        let mut sample = Sample {
            client: id(10),
            ..Sample::default()
        };
        for (branch, members) in subtrees {
            let first = sample.processes.len();
            for &(pid, ppid, session) in *members {
                sample.processes.push(Process {
                    id: id(pid),
                    ppid,
                    pgid: pid,
                    session,
                    footprint_kib: 0,
                    counted_kib: 0,
                });
            }
            let end = sample.processes.len();
            let leader = id(members[0].0);
            sample
                .subtrees
                .push(Subtree::for_tests(leader, *branch, first, end));
        }
        sample
    }

    fn ties(ledger: &Ledger) -> Vec<(i32, Tie)> {
        let tie = |id| ledger.tie_of(id).unwrap();
        ledger.ids().map(|id| (id.pid, tie(id))).collect()
    }

    #[test]
    fn how_a_process_hangs_on_its_session_is_kept_from_its_first_look() {
        let mut ledger = Ledger::new(Some(5), false);
        let first = sample(&[
            (Branch::Tool, &[(20, 10, 20), (21, 20, 20), (22, 21, 22)]),
            (Branch::Tool, &[(30, 10, 5), (31, 30, 5)]),
        ]);
        assert!(ledger.note(&first));
        assert!(!ledger.note(&first), "nothing new");
        let seen = [
            (20, Tie::Direct),
            (21, Tie::Within),
            (22, Tie::Apart),
            (30, Tie::Direct),
            (31, Tie::Within),
        ];
        assert_eq!(ties(&ledger), seen);
        // The shell of the first tool has ended; its command goes on, with a child; the daemon too.
        let later = sample(&[
            (Branch::Tool, &[(30, 10, 5), (31, 30, 31)]),
            (Branch::Stray, &[(21, 1, 20), (23, 21, 20), (24, 21, 24)]),
            (Branch::Stray, &[(22, 1, 22), (25, 22, 22)]),
        ]);
        assert!(ledger.note(&later));
        let seen = [
            (21, Tie::Within),
            (22, Tie::Apart),
            (23, Tie::Within),
            (24, Tie::Apart),
            (25, Tie::Apart),
            (30, Tie::Direct),
            (31, Tie::Within),
        ];
        assert_eq!(ties(&ledger), seen);
        assert!(ledger.has_moved(id(31), 31) && !ledger.has_moved(id(21), 20));
        assert!(ledger.knows_session(5) && ledger.knows_session(20));
        assert!(!ledger.knows_session(22) && !ledger.knows_session(0));
        assert!(!Ledger::default().knows_session(0));
    }

    #[test]
    fn it_is_read_as_it_was_written_and_a_damaged_one_proves_less() {
        let mut ledger = Ledger::new(Some(5), true);
        ledger.note(&sample(&[(
            Branch::Tool,
            &[(20, 10, 20), (21, 20, 20), (22, 21, 22)],
        )]));
        let text = ledger.text();
        assert_eq!(Ledger::parse(&text), ledger);
        for cut in 0..text.len() {
            let found = Ledger::parse(&text[..cut]);
            assert!(
                found
                    .entries
                    .iter()
                    .all(|entry| ledger.entries.contains(entry)),
                "cut at {cut}"
            );
        }
        for junk in [
            "1 7 1 d\n",
            "0 7 1 d\n",
            "-5 7 1 d\n",
            "20 7 20 x\n",
            "20 7 20\n",
            "20 7 20 dd\n",
            "20  7 20 d\n",
            "x 7 20 d\n",
            "\u{0}\n",
        ] {
            assert_eq!(Ledger::parse(junk).ids().count(), 0, "{junk:?}");
        }
    }

    #[test]
    fn a_session_whose_leader_is_outside_of_the_namespace_is_one_like_any_other() {
        let mut ledger = Ledger::new(Some(0), false);
        ledger.note(&sample(&[(
            Branch::Tool,
            &[(20, 10, 20), (21, 20, 0), (22, 20, 22)],
        )]));
        let seen = [(20, Tie::Direct), (21, Tie::Within), (22, Tie::Apart)];
        assert_eq!(ties(&ledger), seen);
        assert!(ledger.knows_session(0));
        assert_eq!(Ledger::parse(&ledger.text()), ledger);
        let unknown = Ledger::new(None, false);
        assert_eq!(Ledger::parse(&unknown.text()), unknown);
    }
}
