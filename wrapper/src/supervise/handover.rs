//! What the guard is told, and through which hole: the client's environment, and nothing else of it.
//! The guard takes both entries out again before the client's own code runs.

use crate::os::files::FileId;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Name of the one variable that tells the guard where it belongs.
const VARIABLE: &str = "CLAUDE_SAFE_HANDOVER";

/// A guard that is to be preloaded into the client.
pub struct Handover {
    /// The library, by a path without `:` and space (ld.so(8) splits `LD_PRELOAD` at both).
    pub library: PathBuf,
    /// Files that only exec onward in the same pid: the guard sleeps in them.
    pub launchers: Vec<FileId>,
    /// The shared statistics page, made by us.
    pub page: Option<PathBuf>,
    /// The log of SIGUSR1.
    pub log: PathBuf,
    /// `CLAUDE_MALLOC_GUARD_SIZES`.
    pub sizes: String,
    /// From which memory on the pool serves, MiB; `None`: never.
    pub threshold_mib: Option<u64>,
}

/// A threshold that nobody reaches.
const NEVER_MIB: u64 = u64::MAX;

impl Handover {
    /// The environment for the client, which will have this pid: `LD_PRELOAD` with the guard ahead of
    /// what the user preloads, and the handover. Everything else, and the order, as it was.
    pub fn environment(&self, inherited: &[OsString], pid: i32) -> Vec<OsString> {
        let mut all = Vec::with_capacity(inherited.len() + 2);
        let mut preloaded = false;
        for entry in inherited {
            match entry.as_bytes().strip_prefix(b"LD_PRELOAD=") {
                Some(users_own) if !preloaded => {
                    preloaded = true;
                    let mut value = b"LD_PRELOAD=".to_vec();
                    value.extend_from_slice(self.library.as_os_str().as_bytes());
                    value.push(b':');
                    value.extend_from_slice(users_own);
                    all.push(OsString::from_vec(value));
                }
                // Our variable from a session around us is not this session's.
                _ if entry.as_bytes().starts_with(b"CLAUDE_SAFE_HANDOVER=") => {}
                _ => all.push(entry.clone()),
            }
        }
        if !preloaded {
            let mut value = OsString::from("LD_PRELOAD=");
            value.push(&self.library);
            all.push(value);
        }
        all.push(self.variable(pid));
        all
    }

    fn variable(&self, pid: i32) -> OsString {
        let mut text = format!("{VARIABLE}=1;pid={pid}").into_bytes();
        if !self.launchers.is_empty() {
            let pairs: Vec<String> = self
                .launchers
                .iter()
                .map(|file| format!("{}:{}", file.dev, file.ino))
                .collect();
            text.extend_from_slice(format!(";launch={}", pairs.join(",")).as_bytes());
        }
        if let Some(page) = &self.page {
            text.extend_from_slice(b";page=");
            escape(page.as_os_str(), &mut text);
        }
        text.extend_from_slice(b";log=");
        escape(self.log.as_os_str(), &mut text);
        let threshold_mib = self.threshold_mib.unwrap_or(NEVER_MIB);
        text.extend_from_slice(
            format!(";sizes={};threshold_mb={threshold_mib}", self.sizes).as_bytes(),
        );
        OsString::from_vec(text)
    }
}

/// Percent-encodes the two bytes that would end a field or start an escape.
fn escape(path: &OsStr, into: &mut Vec<u8>) {
    for byte in path.as_bytes() {
        match byte {
            b';' => into.extend_from_slice(b"%3B"),
            b'%' => into.extend_from_slice(b"%25"),
            _ => into.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handover() -> Handover {
        Handover {
            library: "/lib/g.so".into(),
            launchers: vec![FileId { dev: 1, ino: 2 }, FileId { dev: 3, ino: 4 }],
            page: Some("/run/a;b%c/page".into()),
            log: "/tmp/l".into(),
            sizes: "160".into(),
            threshold_mib: Some(7),
        }
    }

    fn strings(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    #[test]
    fn users_own_preload_stays_behind_the_guard_and_nothing_else_changes() {
        let given = strings(&["A=1", "LD_PRELOAD=/u.so /v.so", "odd", "B="]);
        let made = handover().environment(&given, 42);
        assert_eq!(made[0], "A=1");
        assert_eq!(made[1], "LD_PRELOAD=/lib/g.so:/u.so /v.so");
        assert_eq!(made[2..4], strings(&["odd", "B="]));
        assert_eq!(
            made[4],
            "CLAUDE_SAFE_HANDOVER=1;pid=42;launch=1:2,3:4;page=/run/a%3Bb%25c/page;log=/tmp/l;sizes=160;threshold_mb=7"
        );
        assert_eq!(made.len(), 5);
    }

    #[test]
    fn an_empty_preload_of_the_user_can_be_told_from_none() {
        assert_eq!(
            handover().environment(&strings(&["LD_PRELOAD="]), 1)[0],
            "LD_PRELOAD=/lib/g.so:"
        );
        assert_eq!(handover().environment(&[], 1)[0], "LD_PRELOAD=/lib/g.so");
    }

    #[test]
    fn without_a_threshold_the_guard_is_told_one_that_nobody_reaches() {
        let never = Handover {
            threshold_mib: None,
            ..handover()
        };
        let variable = never.environment(&[], 1).pop().unwrap();
        let text = variable.to_str().unwrap();
        assert!(
            text.ends_with(";threshold_mb=18446744073709551615"),
            "{text}"
        );
    }

    #[test]
    fn a_handover_of_a_session_around_us_is_replaced() {
        let made = handover().environment(&strings(&["CLAUDE_SAFE_HANDOVER=1;pid=1"]), 9);
        assert_eq!(made.len(), 2);
        assert!(made[1].to_str().unwrap().contains("pid=9;"));
    }
}
