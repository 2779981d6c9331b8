//! The vocabulary: every variable, what it may hold, and what it means.
//!
//! The one table from which the configuration is read and `claude-safectl config`, the help and the
//! documentation are made. Holds no value of this machine.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// What a variable may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number in decimal digits, `min` and `max` included.
    Number {
        /// What is counted, for messages.
        unit: &'static str,
        /// The smallest value.
        min: u64,
        /// The largest value.
        max: u64,
    },
    /// The path of a file, from `/`.
    Path,
    /// The path of a file, from `/`; an empty value means none at all.
    PathOrNone,
    /// A program: a path from `/`, or a name that is looked up in `PATH`.
    Program,
    /// `auto`, or sizes in bytes with commas between them.
    Sizes,
    /// `auto`, `off`, or words of the list with commas between them.
    Mechanisms(&'static [&'static str]),
    /// One word of the list.
    Word(&'static [&'static str]),
    /// `1`, `on`, `yes`, `true`, or `0`, `off`, `no`, `false`.
    Switch,
}

impl Kind {
    /// What a good value is, in words that follow "is not ".
    pub fn expectation(&self) -> String {
        match self {
            Kind::Number { unit, min, max } => {
                format!("a whole number of {unit} from {min} to {max}")
            }
            Kind::Path => "a path that begins with /".to_owned(),
            Kind::PathOrNone => "a path that begins with /, or empty".to_owned(),
            Kind::Program => "a path that begins with /, or the name of a program".to_owned(),
            Kind::Sizes => {
                format!(
                    "auto, or sizes from 1 to {MAX_SIZE_BYTES} (/8: packed) with commas between them"
                )
            }
            Kind::Mechanisms(words) => {
                format!("auto, off, or a list of {}", words.join(","))
            }
            Kind::Word(words) => words.join(" or "),
            Kind::Switch => "on or off".to_owned(),
        }
    }
}

/// The largest request size that the guard may be told to watch.
pub const MAX_SIZE_BYTES: u32 = 1024;

/// One variable.
#[derive(Debug)]
pub struct Variable {
    /// Its name in the environment and in the files.
    pub name: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// The default in words, for people.
    pub default: &'static str,
    /// What it is for, in one line.
    pub help: &'static str,
}

/// The largest threshold: 1 PiB, so that a number of bytes never overflows.
const MAX_MIB: u64 = 1 << 30;

/// The words of `CLAUDE_SAFE_RECLAIM`.
pub const MECHANISMS: &[&str] = &["cgroup", "pageout", "pool", "compress", "foreign"];

/// Path of the guard library.
pub static GUARD_LIB: Variable = Variable {
    name: "CLAUDE_MALLOC_GUARD_LIB",
    kind: Kind::PathOrNone,
    default: "beside the binary, ../lib/claude-safe/, /usr/lib/claude-safe/, /usr/local/lib/",
    help: "path of the guard library; empty: no guard",
};

/// Where tier 1 begins.
pub static GUARD_THRESHOLD_MB: Variable = Variable {
    name: "CLAUDE_MALLOC_GUARD_THRESHOLD_MB",
    kind: Kind::Number {
        unit: "MiB",
        min: 0,
        max: MAX_MIB,
    },
    default: "30720, or 25 % of the memory if that is less",
    help: "tier 1 begins here: the watched classes are served from the pool; 0: at once",
};

/// Which request sizes the guard watches.
pub static GUARD_SIZES: Variable = Variable {
    name: "CLAUDE_MALLOC_GUARD_SIZES",
    kind: Kind::Sizes,
    default: "160",
    help: "request sizes whose allocator class is watched: a list, or auto",
};

/// Where the guard writes its statistics.
pub static GUARD_LOG: Variable = Variable {
    name: "CLAUDE_MALLOC_GUARD_LOG",
    kind: Kind::Path,
    default: "${TMPDIR:-/tmp}/claude_malloc_guard.log",
    help: "where the guard appends its statistics on SIGUSR1",
};

/// Where tier 2 begins.
pub static WATCHDOG_THRESHOLD_MB: Variable = Variable {
    name: "CLAUDE_WATCHDOG_THRESHOLD_MB",
    kind: Kind::Number {
        unit: "MiB",
        min: 1,
        max: MAX_MIB,
    },
    default: "61440, or 50 % of the memory if that is less",
    help: "tier 2 begins here: the client is restarted and resumes",
};

/// The longest time between two looks.
pub static WATCHDOG_INTERVAL: Variable = Variable {
    name: "CLAUDE_WATCHDOG_INTERVAL",
    kind: Kind::Number {
        unit: "seconds",
        min: 1,
        max: 86400,
    },
    default: "30",
    help: "the longest time between two looks at the memory, seconds",
};

/// The real client.
pub static SAFE_BIN: Variable = Variable {
    name: "CLAUDE_SAFE_BIN",
    kind: Kind::Program,
    default: "the first claude on PATH that is not claude-safe, then the known install places",
    help: "the real client",
};

/// The mechanisms of tier 1.
pub static SAFE_RECLAIM: Variable = Variable {
    name: "CLAUDE_SAFE_RECLAIM",
    kind: Kind::Mechanisms(MECHANISMS),
    default: "auto",
    help: "mechanisms of tier 1: auto, off, or a list",
};

/// Tier 0.
pub static SAFE_CONTAIN: Variable = Variable {
    name: "CLAUDE_SAFE_CONTAIN",
    kind: Kind::Word(&["auto", "off"]),
    default: "auto",
    help: "tier 0, own cgroup and kill order: auto or off",
};

/// All sessions of a user together.
pub static SAFE_FLEET_MAX_MB: Variable = Variable {
    name: "CLAUDE_SAFE_FLEET_MAX_MB",
    kind: Kind::Number {
        unit: "MiB",
        min: 0,
        max: MAX_MIB,
    },
    default: "0",
    help: "memory of all contained sessions of a user together, a wall; 0: none",
};

/// Whether a turn that was cut off is taken up again.
pub static SAFE_CONTINUE: Variable = Variable {
    name: "CLAUDE_SAFE_CONTINUE",
    kind: Kind::Word(&["auto", "never"]),
    default: "auto",
    help: "take up a turn that a restart cut off: auto or never",
};

/// Sweeping of what clients leave behind.
pub static SAFE_SWEEP: Variable = Variable {
    name: "CLAUDE_SAFE_SWEEP",
    kind: Kind::Switch,
    default: "on",
    help: "sweep temporary files, outputs and orphans: on or off",
};

/// When the user is told of a tool's output.
pub static SAFE_OUTPUT_WARN_MB: Variable = Variable {
    name: "CLAUDE_SAFE_OUTPUT_WARN_MB",
    kind: Kind::Number {
        unit: "MiB",
        min: 0,
        max: MAX_MIB,
    },
    default: "1024",
    help: "warn when the output file of a tool takes this much; 0: never",
};

/// When a tool is ended because of its output.
pub static SAFE_OUTPUT_MAX_MB: Variable = Variable {
    name: "CLAUDE_SAFE_OUTPUT_MAX_MB",
    kind: Kind::Number {
        unit: "MiB",
        min: 0,
        max: MAX_MIB,
    },
    default: "5120",
    help: "end a tool whose output file takes this much, or is about to fill its file system; 0: never",
};

/// When pseudo-terminals leak.
pub static SAFE_PTY_WARN: Variable = Variable {
    name: "CLAUDE_SAFE_PTY_WARN",
    kind: Kind::Number {
        unit: "descriptors",
        min: 1,
        max: 1_000_000,
    },
    default: "100",
    help: "warn when one process holds this many /dev/ptmx descriptors",
};

/// The way out.
pub static SAFE_DISABLE: Variable = Variable {
    name: "CLAUDE_SAFE_DISABLE",
    kind: Kind::Switch,
    default: "off",
    help: "1: start the client and do nothing else",
};

/// Every variable, in the order in which it is shown.
pub static ALL: [&Variable; 16] = [
    &GUARD_LIB,
    &GUARD_THRESHOLD_MB,
    &GUARD_SIZES,
    &GUARD_LOG,
    &WATCHDOG_THRESHOLD_MB,
    &WATCHDOG_INTERVAL,
    &SAFE_BIN,
    &SAFE_RECLAIM,
    &SAFE_CONTAIN,
    &SAFE_FLEET_MAX_MB,
    &SAFE_CONTINUE,
    &SAFE_SWEEP,
    &SAFE_OUTPUT_WARN_MB,
    &SAFE_OUTPUT_MAX_MB,
    &SAFE_PTY_WARN,
    &SAFE_DISABLE,
];

/// The variable of that name.
pub fn find(name: &str) -> Option<&'static Variable> {
    ALL.iter().copied().find(|variable| variable.name == name)
}

/// The known name that an unknown one was probably meant to be.
pub fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_uppercase();
    ALL.iter()
        .copied()
        .map(|variable| {
            (
                distance(name.as_bytes(), variable.name.as_bytes()),
                variable.name,
            )
        })
        .min()
        // Further off than a third of the name is another word.
        .filter(|(far, best)| *far <= best.len() / 3)
        .map(|(_, best)| best)
}

/// How many bytes must be put in, left out or changed to get from `a` to `b` (Levenshtein).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, byte_a) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, byte_b) in b.iter().enumerate() {
            let change = diagonal + usize::from(byte_a != byte_b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A value for people: in quotes, on one line, and not longer than a line takes.
pub fn shown(value: &OsStr) -> String {
    const MOST: usize = 60;
    let text = String::from_utf8_lossy(value.as_bytes());
    let mut out = String::from("\"");
    for (count, letter) in text.chars().enumerate() {
        if count == MOST {
            out.push('…');
            break;
        }
        out.extend(letter.escape_debug());
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_the_one_that_was_meant() {
        for (name, meant) in [
            ("CLAUDE_WATCHDOG_INTERVALL", "CLAUDE_WATCHDOG_INTERVAL"),
            ("CLAUDE_WATCHDOG_THRESHOLD", "CLAUDE_WATCHDOG_THRESHOLD_MB"),
            ("CLAUDE_SAVE_DISABLE", "CLAUDE_SAFE_DISABLE"),
            ("claude_safe_bin", "CLAUDE_SAFE_BIN"),
        ] {
            assert_eq!(nearest(name), Some(meant));
        }
        assert_eq!(nearest("PATH"), None);
        assert_eq!(nearest("SOMETHING_ELSE_ENTIRELY"), None);
    }

    #[test]
    fn a_value_is_shown_on_one_short_line() {
        assert_eq!(
            shown(OsStr::new("a\"b\n\u{1b}[31m")),
            r#""a\"b\n\u{1b}[31m""#
        );
        let long = "x".repeat(500);
        assert!(shown(OsStr::new(&long)).chars().count() < 70);
    }

    #[test]
    fn each_name_leads_to_its_own_variable() {
        for variable in ALL.iter().copied() {
            assert!(std::ptr::eq(find(variable.name).unwrap(), variable));
        }
    }
}
