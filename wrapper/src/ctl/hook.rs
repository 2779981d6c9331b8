//! `claude-safectl hook session-start FOLDER`: the client tells which conversation it holds now
//! (at a start, after `/clear` and `/resume`), as JSON on standard input. Writes the id into the
//! session's folder. Says nothing, and never fails the client: what goes wrong here costs the
//! knowledge, not the session.

use crate::client::args::is_uuid;
use std::fs;
use std::io::Read;
use std::path::Path;

/// The most that is read: a hook's input is a few hundred bytes.
const INPUT_BYTES: u64 = 1 << 20;

/// Takes the id from the input and keeps it.
pub(super) fn session_start(input: impl Read, folder: &Path) {
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
            session_start(junk.as_bytes(), &folder);
            assert!(!kept.exists(), "{junk}");
        }
        session_start(
            format!(r#"{{"hook_event_name":"SessionStart","session_id":"{ID}"}}"#).as_bytes(),
            &folder,
        );
        assert_eq!(fs::read_to_string(&kept).unwrap(), ID);
        fs::remove_dir_all(folder).unwrap();
    }
}
