//! `claude-safectl hook session-start [FOLDER]`: the client tells which conversation it holds now
//! (at a start, after `/clear` and `/resume`), as JSON on standard input. Writes the id into the
//! session's folder; without FOLDER (the installed plugin knows none) into that of the session whose
//! client we descend from. Says nothing, and never fails the client: what goes wrong here costs the
//! knowledge, not the session.

use super::sessions::Sessions;
use crate::client::args::is_uuid;
use crate::os::proc::parent_pid;
use crate::os::process;
use crate::watch::proc_fs::Proc;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most that is read: a hook's input is a few hundred bytes.
const INPUT_BYTES: u64 = 1 << 20;

/// The most ancestors that are looked at: the client, its shell, and a few that wrap it.
const MAX_ANCESTORS: usize = 16;

/// Takes the id from the input and keeps it in `folder`, or in that of our own session.
pub(super) fn session_start(input: impl Read, folder: Option<&Path>) {
    match folder {
        Some(folder) => keep(input, folder),
        None => {
            if let Some(folder) = own_session() {
                keep(input, &folder);
            }
        }
    }
}

/// The folder of the session whose client is the nearest among our ancestors.
fn own_session() -> Option<PathBuf> {
    let sessions = Sessions::of_this_user(&mut Proc::new(Path::new("/proc")));
    let parent = |pid: &i32| parent_pid(&Path::new("/proc").join(pid.to_string()));
    let ancestors = std::iter::successors(Some(process::own_pid()), parent);
    let mut sought = ancestors
        .skip(1)
        .take(MAX_ANCESTORS)
        .take_while(|pid| *pid > 1);
    sought.find_map(|pid| {
        let session = sessions.running.iter().find(|session| session.is_of(pid))?;
        Some(session.folder.clone())
    })
}

fn keep(input: impl Read, folder: &Path) {
    let mut text = Vec::new();
    if input.take(INPUT_BYTES).read_to_end(&mut text).is_err() {
        return;
    }
    let Some(id) = session_id(&text) else { return };
    let draft = folder.join(".conversation");
    if fs::write(&draft, id).is_ok() {
        let _ = fs::rename(draft, folder.join("conversation"));
    }
}

fn session_id(text: &[u8]) -> Option<String> {
    let told: serde_json::Value = serde_json::from_slice(text).ok()?;
    let id = told.get("session_id")?.as_str()?;
    is_uuid(id).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "12345678-1234-1234-1234-123456789abc";

    #[test]
    fn only_a_uuid_is_kept() {
        let folder = std::env::temp_dir().join(format!("cs-hook-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let kept = folder.join("conversation");
        for junk in [
            "",
            "{}",
            "[]",
            r#"{"session_id":7}"#,
            r#"{"session_id":"../../x"}"#,
            "\u{0}",
        ] {
            session_start(junk.as_bytes(), Some(&folder));
            assert!(!kept.exists(), "{junk}");
        }
        session_start(
            format!(r#"{{"hook_event_name":"SessionStart","session_id":"{ID}"}}"#).as_bytes(),
            Some(&folder),
        );
        assert_eq!(fs::read_to_string(&kept).unwrap(), ID);
        fs::remove_dir_all(folder).unwrap();
    }
}
