//! `claude-safectl status --prom [FILE]`: the sessions in the text format of Prometheus, for node_exporter's textfile
//! collector. A file is written as a whole, by rename, and may be read by everybody; without one, standard output.

use super::status::{Status, daemons};
use super::{Answer, Flag, exit};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub(super) static PROM: Flag = Flag {
    name: "prom",
    value: Some("[FILE]"),
    help: "for node_exporter: the sessions as metrics, to FILE (a name that ends in .prom) or standard output",
};

/// One number of each session.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    of: fn(&Status) -> Option<u64>,
}

fn in_bytes(kib: Option<u64>) -> Option<u64> {
    kib.map(|kib| kib.saturating_mul(1024))
}

const METRICS: [Metric; 11] = [
    Metric {
        name: "memory_bytes",
        kind: "gauge",
        help: "Anonymous memory and swap of the client and all that it started.",
        of: |status| in_bytes(status.memory_kib),
    },
    Metric {
        name: "tier_1_bytes",
        kind: "gauge",
        help: "Limit of tier 1.",
        of: |status| in_bytes(status.session.notes.tier_1_kib),
    },
    Metric {
        name: "warn_bytes",
        kind: "gauge",
        help: "From here on the user is warned.",
        of: |status| in_bytes(status.session.notes.warn_kib),
    },
    Metric {
        name: "tier_2_bytes",
        kind: "gauge",
        help: "Limit of tier 2.",
        of: |status| in_bytes(status.session.notes.tier_2_kib),
    },
    Metric {
        name: "restarts_total",
        kind: "counter",
        help: "Restarts of the client because of memory.",
        of: |status| status.session.notes.restarts,
    },
    Metric {
        name: "given_back_bytes",
        kind: "gauge",
        help: "Given back by tier 1 since this client began.",
        of: |status| in_bytes(status.session.notes.given_kib),
    },
    Metric {
        name: "came_back_bytes",
        kind: "gauge",
        help: "What of that came back.",
        of: |status| in_bytes(status.session.notes.back_kib),
    },
    Metric {
        name: "descriptors",
        kind: "gauge",
        help: "Open file descriptors of the client and all that it started.",
        of: |status| Some(status.held?.0),
    },
    Metric {
        name: "pseudo_terminals",
        kind: "gauge",
        help: "Masters of pseudo-terminals among them.",
        of: |status| Some(status.held?.1),
    },
    Metric {
        name: "start_time_seconds",
        kind: "gauge",
        help: "Start of the session, seconds since 1970.",
        of: |status| status.session.notes.since_unix_s,
    },
    Metric {
        name: "watched",
        kind: "gauge",
        help: "1: its claude-safe runs.",
        of: |status| Some(status.session.is_watched.into()),
    },
];

/// The value of a label: backslash, quote and line break are escaped; other control characters become `?`.
fn label(out: &mut String, name: &str, value: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    for letter in value.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            letter if letter.is_control() => out.push('?'),
            letter => out.push(letter),
        }
    }
    out.push('"');
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}

fn labels_of(out: &mut String, status: &Status) {
    label(out, "wrapper", &status.session.wrapper_pid.to_string());
    if let Some(pid) = status.session.client_pid() {
        label(out, "client", &pid.to_string());
    }
}

fn metrics(all: &[Status]) -> String {
    let mut out = String::new();
    head(
        &mut out,
        "claude_safe_build_info",
        "gauge",
        "The version that says all this.",
    );
    out.push_str("claude_safe_build_info{");
    label(&mut out, "version", env!("CARGO_PKG_VERSION"));
    out.push_str("} 1\n");
    head(
        &mut out,
        "claude_safe_sessions",
        "gauge",
        "Running sessions of this user.",
    );
    out.push_str(&format!("claude_safe_sessions {}\n", all.len()));
    for metric in &METRICS {
        let known: Vec<(&Status, u64)> = all
            .iter()
            .filter_map(|status| Some((status, (metric.of)(status)?)))
            .collect();
        if known.is_empty() {
            continue;
        }
        let name = format!("claude_safe_session_{}", metric.name);
        head(&mut out, &name, metric.kind, metric.help);
        for (status, number) in known {
            out.push_str(&name);
            out.push('{');
            labels_of(&mut out, status);
            out.push_str(&format!("}} {number}\n"));
        }
    }
    if !all.is_empty() {
        head(
            &mut out,
            "claude_safe_session_info",
            "gauge",
            "What a session is, in words.",
        );
    }
    for status in all {
        let notes = &status.session.notes;
        out.push_str("claude_safe_session_info{");
        labels_of(&mut out, status);
        for (name, value) in [
            ("conversation", status.conversation.as_deref()),
            ("guard", status.guard),
            ("tier_0", notes.contained.as_deref()),
            ("tier_1", notes.reclaim.as_deref()),
        ] {
            label(&mut out, name, value.unwrap_or(""));
        }
        out.push_str("} 1\n");
    }
    let daemons = daemons(all);
    if !daemons.is_empty() {
        let name = "claude_safe_daemon_memory_bytes";
        head(
            &mut out,
            name,
            "gauge",
            "Memory of the client's daemon, which all sessions share.",
        );
        for (pid, kib) in daemons {
            out.push_str(&format!(
                "{name}{{pid=\"{pid}\"}} {}\n",
                kib.saturating_mul(1024)
            ));
        }
    }
    out
}

/// To a file, or as the answer; `code` is what the sessions are worth.
pub(super) fn answer(all: &[Status], file: &Path, code: u8) -> Answer {
    let text = metrics(all);
    if file.as_os_str().is_empty() || file == Path::new("-") {
        return Answer { text, code };
    }
    match write_whole(file, text.as_bytes()) {
        Ok(()) => Answer {
            text: String::new(),
            code,
        },
        Err(error) => Answer {
            text: format!("{} can't be written: {error}\n", file.display()),
            code: exit::NO_OUTPUT,
        },
    }
}

/// Writes a file that readers see as the old one or the new one. The draft beside it has a name that no collector
/// takes, and is never somebody else's.
pub(super) fn write_whole(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(file.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(format!(".{}", std::process::id()));
    let draft = file.with_file_name(name);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&draft)?
        .write_all(bytes)
        .and_then(|()| fs::rename(&draft, file));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::super::sessions::fixture::Running;
    use super::*;
    use crate::os::files::scratch::Scratch;
    use crate::state::Notes;

    fn made(scratch: &Scratch) -> String {
        let running = Running::new(scratch);
        running.tell(Notes {
            restarts: Some(3),
            tier_2_kib: Some(2),
            contained: Some("a \"b\" \\c\u{7}".to_owned()),
            ..Notes::default()
        });
        let all: Vec<Status> = running
            .find()
            .running
            .into_iter()
            .map(|session| Status::of(session, None))
            .collect();
        metrics(&all)
    }

    /// A line of the format: `name{label="value",…} number`.
    fn assert_sample(line: &str) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
        assert!(
            name.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
            "{line}"
        );
        let number = rest.rsplit(' ').next().unwrap();
        assert!(number.parse::<u64>().is_ok(), "{line}");
        if let Some(labels) = rest.strip_prefix('{') {
            let inner = labels.strip_suffix(&format!("}} {number}")).unwrap();
            let bare = inner.replace("\\\\", "").replace("\\\"", "");
            assert_eq!(bare.matches('"').count() % 2, 0, "{line}");
        }
    }

    #[test]
    fn each_metric_is_described_once_and_its_samples_follow() {
        let text = made(&Scratch::new());
        let mut described = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let name = rest.split(' ').next().unwrap();
                assert!(!described.contains(&name), "{name} twice");
                described.push(name);
            } else if !line.starts_with('#') {
                assert_sample(line);
                assert!(line.starts_with(described.last().unwrap()), "{line}");
            }
        }
        for said in [
            "claude_safe_sessions 1\n",
            "claude_safe_session_restarts_total{wrapper=\"",
            "tier_0=\"a \\\"b\\\" \\\\c?\"",
            "} 2048\n",
        ] {
            assert!(text.contains(said), "{said} in {text}");
        }
        assert!(
            !text.contains("tier_1_bytes"),
            "what is not known is not told"
        );
        assert!(metrics(&[]).ends_with("claude_safe_sessions 0\n"));
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_no_draft_stays() {
        let scratch = Scratch::new();
        let file = scratch.write("x.prom", "old");
        write_whole(&file, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(write_whole(&scratch.path().join("none/x.prom"), b"new").is_err());
        assert!(write_whole(Path::new("/"), b"new").is_err());
        // A folder in the file's place: the rename fails.
        fs::create_dir(scratch.path().join("folder")).unwrap();
        assert!(write_whole(&scratch.path().join("folder"), b"new").is_err());
        let left: Vec<_> = fs::read_dir(scratch.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
