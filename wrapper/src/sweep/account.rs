//! What a sweep has done: counts, and for those who want to see it each thing with its reason.

use std::path::PathBuf;

/// What is swept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `claude-XXXX-cwd`: in which folder a shell command ended.
    CwdFiles,
    /// `claude-UID/…/tasks`: what commands in the background said.
    TaskOutputs,
    /// `cc-socks/PID.sock`: where a session could be spoken to.
    Sockets,
}

/// All of them, in the order in which they are swept.
pub const SECTIONS: [Section; 3] = [Section::CwdFiles, Section::TaskOutputs, Section::Sockets];

impl Section {
    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Section::CwdFiles => "files of shell commands",
            Section::TaskOutputs => "task outputs of dead sessions",
            Section::Sockets => "sockets of dead sessions",
        }
    }

    /// For programs.
    pub fn key(self) -> &'static str {
        match self {
            Section::CwdFiles => "cwd_files",
            Section::TaskOutputs => "task_outputs",
            Section::Sockets => "sockets",
        }
    }
}

/// Why something stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Not old enough.
    Fresh,
    /// A session that lives may need it.
    InUse,
    /// It belongs to somebody else.
    Foreign,
    /// No regular file (or socket, where one is expected): a symlink, a folder, a fifo.
    OddKind,
    /// It has a second name.
    TwoNames,
    /// A folder that holds something that we don't know.
    Unknown,
    /// We may not, or the kernel failed us.
    Failed,
}

const KEPT: [Kept; 7] = [
    Kept::Fresh,
    Kept::InUse,
    Kept::Foreign,
    Kept::OddKind,
    Kept::TwoNames,
    Kept::Unknown,
    Kept::Failed,
];

impl Kept {
    /// For people.
    pub fn in_words(self) -> &'static str {
        match self {
            Kept::Fresh => "not old enough",
            Kept::InUse => "in use",
            Kept::Foreign => "somebody else's",
            Kept::OddKind => "not a regular file",
            Kept::TwoNames => "has a second name",
            Kept::Unknown => "holds something else",
            Kept::Failed => "could not be removed",
        }
    }

    /// For programs.
    pub fn key(self) -> &'static str {
        match self {
            Kept::Fresh => "fresh",
            Kept::InUse => "in_use",
            Kept::Foreign => "foreign",
            Kept::OddKind => "odd_kind",
            Kept::TwoNames => "two_names",
            Kept::Unknown => "unknown",
            Kept::Failed => "failed",
        }
    }
}

/// What became of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is gone (or would be).
    Removed,
    /// It stays.
    Kept(Kept),
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is one of.
    pub section: Section,
    /// Where it lies, or lay.
    pub path: PathBuf,
    /// What it takes on disk.
    pub bytes: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// The counts of one section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Files, sockets and empty folders that are gone.
    pub removed: u64,
    /// What they took on disk.
    pub bytes: u64,
    kept: [u64; KEPT.len()],
}

impl Account {
    /// Counts one thing.
    pub fn note(&mut self, bytes: u64, outcome: Outcome) {
        match outcome {
            Outcome::Removed => {
                self.removed += 1;
                self.bytes = self.bytes.saturating_add(bytes);
            }
            Outcome::Kept(why) => self.kept[why as usize] += 1,
        }
    }

    /// How many stay for that reason.
    pub fn kept(&self, why: Kept) -> u64 {
        self.kept[why as usize]
    }

    /// The reasons for which something stays, with their counts.
    pub fn reasons(&self) -> impl Iterator<Item = (Kept, u64)> {
        let counted = KEPT.into_iter().zip(self.kept);
        counted.filter(|(_, count)| *count > 0)
    }
}

/// What one sweep has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    accounts: [Account; SECTIONS.len()],
    /// The time was over before everything was looked at: the next sweep goes on there.
    pub is_unfinished: bool,
    /// Why a folder could not be swept at all.
    pub trouble: Option<String>,
}

impl Report {
    /// The counts of a section.
    pub fn of(&self, section: Section) -> &Account {
        &self.accounts[section as usize]
    }

    pub(super) fn account(&mut self, section: Section) -> &mut Account {
        &mut self.accounts[section as usize]
    }

    /// Things that are gone, of all sections.
    pub fn removed(&self) -> u64 {
        self.accounts.iter().map(|account| account.removed).sum()
    }

    /// What they took on disk, bytes.
    pub fn bytes(&self) -> u64 {
        self.accounts.iter().map(|account| account.bytes).sum()
    }

    /// What the parent of a sweep needs to know of it, as one line.
    pub fn text(&self) -> String {
        let trouble = self.trouble.as_deref().unwrap_or_default();
        let unfinished = u8::from(self.is_unfinished);
        format!("{} {} {unfinished} {trouble}", self.removed(), self.bytes())
    }
}

/// That line, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Things that are gone.
    pub removed: u64,
    /// What they took on disk.
    pub bytes: u64,
    /// Is there more to sweep?
    pub is_unfinished: bool,
    /// Why a folder could not be swept.
    pub trouble: Option<String>,
}

impl Summary {
    /// `None`: the child was killed before it told.
    pub fn parse(text: &str) -> Option<Summary> {
        let mut words = text.splitn(4, ' ');
        let removed = words.next()?.parse().ok()?;
        let bytes = words.next()?.parse().ok()?;
        let is_unfinished = words.next()? == "1";
        let trouble = words.next()?;
        Some(Summary {
            removed,
            bytes,
            is_unfinished,
            trouble: (!trouble.is_empty()).then(|| trouble.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_counted_under_its_own_name() {
        let mut account = Account::default();
        for (at, why) in KEPT.into_iter().enumerate() {
            assert_eq!(why as usize, at);
            for _ in 0..=at {
                account.note(7, Outcome::Kept(why));
            }
        }
        account.note(5, Outcome::Removed);
        assert_eq!((account.removed, account.bytes), (1, 5));
        let told: Vec<u64> = account.reasons().map(|(_, count)| count).collect();
        assert_eq!(told, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(account.kept(Kept::Failed), 7);
        for (at, section) in SECTIONS.into_iter().enumerate() {
            assert_eq!(section as usize, at);
        }
    }

    #[test]
    fn the_line_between_two_processes_is_read_as_it_was_written() {
        let mut report = Report::default();
        for text in [None, Some("/t m/p: it can't be opened".to_owned())] {
            report.trouble = text;
            report.account(Section::Sockets).note(9, Outcome::Removed);
            let told = Summary::parse(&report.text()).unwrap();
            assert_eq!(
                (told.removed, told.bytes),
                (report.removed(), report.bytes())
            );
            assert_eq!(told.trouble, report.trouble);
            assert!(!told.is_unfinished);
        }
        for cut in ["", "1", "1 2", "1 2 0", "x 2 0 "] {
            assert_eq!(Summary::parse(cut), None);
        }
    }
}
