//! Which of the processes that a client left are ended, and which were detached on purpose. Pure.

use super::ledger::{Ledger, Tie};
use crate::watch::ProcessId;

/// A living process of a session that has no client any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Who it is.
    pub id: ProcessId,
    /// Its parent now.
    pub ppid: i32,
    /// Its kernel session now (setsid(2)).
    pub session: i32,
    /// It ignores SIGHUP (nohup(1)).
    pub ignores_hangup: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is ended.
    End,
    /// It is left alone.
    Keep(Why),
}

/// Why a process is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It left the session of its tool: setsid(1), daemon(3), a tmux server.
    OwnSession,
    /// nohup(1).
    IgnoresHangup,
}

impl Why {
    /// For people.
    pub fn in_words(self) -> &'static str {
        match self {
            Why::OwnSession => "detached: a session of its own",
            Why::IgnoresHangup => "detached: ignores SIGHUP",
        }
    }
}

/// The fate of each. A process whose parent is among them too goes as its parent goes: it is attached to it. So a
/// command that is still run by its tool's shell is ended with it, whatever session it is in; one whose shell had
/// ended before, and that has a session of its own or ignores SIGHUP, was meant to stay.
pub fn of_all(left: &[Left], ledger: &Ledger) -> Vec<Fate> {
    let fate_of_root = |root: &Left| {
        let within = match ledger.tie_of(root.id) {
            // The client's own child is no daemon: nobody but the client had started it for good.
            Some(Tie::Direct) => return Fate::End,
            Some(Tie::Within) => !ledger.has_moved(root.id, root.session),
            Some(Tie::Apart) => false,
            None => ledger.knows_session(root.session),
        };
        if !within {
            Fate::Keep(Why::OwnSession)
        } else if root.ignores_hangup && !ledger.client_ignores_hangup() {
            Fate::Keep(Why::IgnoresHangup)
        } else {
            Fate::End
        }
    };
    left.iter()
        .map(|process| {
            let mut root = process;
            // No longer than the list: a pid that was used again could make a circle.
            for _ in 0..left.len() {
                match left.iter().find(|other| other.id.pid == root.ppid) {
                    Some(parent) if parent.id != root.id => root = parent,
                    _ => break,
                }
            }
            fate_of_root(root)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::ledger::tests::sample;
    use super::*;
    use crate::watch::Branch;

    fn left(pid: i32, ppid: i32, session: i32) -> Left {
        Left {
            id: ProcessId {
                pid,
                start_ticks: 7,
            },
            ppid,
            session,
            ignores_hangup: false,
        }
    }

    fn ledger(ignores_hangup: bool) -> Ledger {
        let mut ledger = Ledger::new(Some(5), ignores_hangup);
        ledger.note(&sample(&[
            (
                Branch::Tool,
                &[(20, 10, 20), (21, 20, 20), (22, 20, 22), (23, 20, 20)],
            ),
            (Branch::Tool, &[(30, 10, 5), (31, 30, 5)]),
            (Branch::Tool, &[(40, 10, 40)]),
        ]));
        ledger
    }

    const OWN: Fate = Fate::Keep(Why::OwnSession);

    #[test]
    fn what_was_detached_stays_and_the_rest_is_ended() {
        let ledger = ledger(false);
        for (process, fate, what) in [
            (left(30, 1, 5), Fate::End, "an MCP server"),
            (left(40, 1, 40), Fate::End, "a tool's shell"),
            (left(21, 1, 20), Fate::End, "`command &` of a tool"),
            (left(22, 1, 22), OWN, "`setsid -f` of a tool"),
            (
                left(23, 1, 23),
                OWN,
                "setsid(2) after it had been seen first",
            ),
            (left(50, 1, 5), Fate::End, "in the group, client's session"),
            (left(51, 1, 20), Fate::End, "in the group, tool's session"),
            (left(52, 1, 40), Fate::End, "in the group, shell's session"),
            (left(53, 1, 22), OWN, "in the group, a daemon's session"),
            (
                left(54, 1, 54),
                OWN,
                "in the group, nothing known: left alone",
            ),
        ] {
            assert_eq!(of_all(&[process], &ledger), [fate], "{what}");
        }
    }

    #[test]
    fn nohup_keeps_a_process_unless_the_client_ignores_hangups_itself() {
        let nohup = |pid, session| Left {
            ignores_hangup: true,
            ..left(pid, 1, session)
        };
        let keep = Fate::Keep(Why::IgnoresHangup);
        assert_eq!(of_all(&[nohup(21, 20)], &ledger(false)), [keep]);
        assert_eq!(of_all(&[nohup(21, 20)], &ledger(true)), [Fate::End]);
        assert_eq!(of_all(&[nohup(30, 5)], &ledger(false)), [Fate::End]);
    }

    #[test]
    fn who_is_attached_goes_with_the_one_it_hangs_on() {
        let ledger = ledger(false);
        // A shell with a command in a session of its own; a daemon with a worker.
        let all = [
            left(20, 1, 20),
            left(22, 20, 22),
            left(60, 22, 60),
            left(70, 1, 70),
            left(71, 70, 5),
        ];
        assert_eq!(
            of_all(&all, &ledger),
            [Fate::End, Fate::End, Fate::End, OWN, OWN]
        );
        // Its shell gone, the same command is a daemon.
        assert_eq!(of_all(&all[1..2], &ledger), [OWN]);
        // Two who are each other's parent, as far as the numbers tell: an answer, and no endless walk.
        let circle = [left(80, 81, 80), left(81, 80, 81)];
        assert_eq!(of_all(&circle, &ledger), [OWN, OWN]);
    }
}
