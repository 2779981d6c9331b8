//! Reads the end of a transcript: was a turn under way? Pure over bytes; never writes.
//!
//! A transcript is one JSON object a line. Only entries of the main conversation count: side chains
//! are subagents, meta entries are the client's own.

use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Is the model, or one of its tools, at work?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The last word was the model's: the user is next.
    Idle,
    /// A prompt or a tool's result has not been answered, or a tool call has no result.
    Busy,
    /// Nothing that tells.
    Unknown,
}

/// How much of the end is read at first, and at the most: one entry can hold a whole file's text.
const TAIL_BYTES: [u64; 3] = [64 << 10, 1 << 20, 16 << 20];

/// Whether a turn was under way when this transcript was last written.
pub fn turn_of(path: &Path) -> Turn {
    let Ok(mut file) = File::open(path) else {
        return Turn::Unknown;
    };
    let Ok(len) = file.seek(SeekFrom::End(0)) else {
        return Turn::Unknown;
    };
    for tail in TAIL_BYTES {
        let from = len.saturating_sub(tail);
        let mut text = Vec::new();
        if file.seek(SeekFrom::Start(from)).is_err()
            || (&mut file).take(tail).read_to_end(&mut text).is_err()
        {
            return Turn::Unknown;
        }
        let turn = turn_of_tail(&text);
        if turn != Turn::Unknown || from == 0 {
            return turn;
        }
    }
    Turn::Unknown
}

/// The same for the last bytes of a transcript, which may begin and end in the middle of a line.
pub fn turn_of_tail(tail: &[u8]) -> Turn {
    tail.rsplit(|b| *b == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .find_map(|entry| turn_after(&entry))
        .unwrap_or(Turn::Unknown)
}

/// What one entry says, if it is of the kind that does.
fn turn_after(entry: &Value) -> Option<Turn> {
    let is = |name: &str| entry.get(name).and_then(Value::as_bool).unwrap_or(false);
    if is("isSidechain") || is("isMeta") {
        return None;
    }
    let content = entry.get("message")?.get("content")?;
    match entry.get("type")?.as_str()? {
        "assistant" if is("isApiErrorMessage") => Some(Turn::Idle),
        // A text ahead of a tool call is a line of its own, and says "tool_use" as well.
        "assistant" => {
            let stop = entry
                .get("message")?
                .get("stop_reason")
                .and_then(Value::as_str);
            let calls = stop == Some("tool_use") || has_block(content, "tool_use");
            Some(if calls { Turn::Busy } else { Turn::Idle })
        }
        "user" => Some(if is_prompt_or_result(content) {
            Turn::Busy
        } else {
            Turn::Idle
        }),
        _ => None,
    }
}

fn has_block(content: &Value, kind: &str) -> bool {
    blocks(content).any(|b| b.get("type").and_then(Value::as_str) == Some(kind))
}

fn blocks(content: &Value) -> impl Iterator<Item = &Value> {
    content.as_array().into_iter().flatten()
}

/// A user's entry that the model has to answer: not an interruption by the user, not the echo of a
/// command that the client ran by itself.
fn is_prompt_or_result(content: &Value) -> bool {
    if has_block(content, "tool_result") {
        return true;
    }
    let text = match content {
        Value::String(text) => text.as_str(),
        _ => blocks(content)
            .find_map(|b| b.get("text")?.as_str())
            .unwrap_or(""),
    };
    const NOT_FOR_THE_MODEL: [&str; 6] = [
        "[Request interrupted by user",
        "<command-name>",
        "<command-message>",
        "<local-command-stdout>",
        "<local-command-stderr>",
        "<bash-stdout>",
    ];
    !NOT_FOR_THE_MODEL
        .iter()
        .any(|start| text.trim_start().starts_with(start))
}

/// What the first lines of a transcript tell.
pub struct Head {
    /// It began with a `/clear`.
    pub cleared: bool,
    /// `promptId` of its first user entry: the last prompt of the conversation before the `/clear`.
    pub prompt_id: Option<String>,
}

/// The first lines of a transcript.
pub fn head_of(path: &Path) -> Option<Head> {
    let mut text = Vec::new();
    File::open(path)
        .ok()?
        .take(TAIL_BYTES[0])
        .read_to_end(&mut text)
        .ok()?;
    let mut head = Head {
        cleared: false,
        prompt_id: None,
    };
    for entry in entries(&text).filter(|e| text_of(e, "type") == Some("user")) {
        if head.prompt_id.is_none() {
            head.prompt_id = text_of(&entry, "promptId").map(str::to_owned);
        }
        if entry.get("isMeta").and_then(Value::as_bool) != Some(true) {
            let content = entry.get("message").and_then(|m| m.get("content"));
            head.cleared = content
                .and_then(Value::as_str)
                .is_some_and(|c| c.trim_start().starts_with("<command-name>/clear"));
            break;
        }
    }
    Some(head)
}

/// `promptId` of the last user entry that has one, in the last mebibyte.
pub fn last_prompt_id(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let len = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES[1])))
        .ok()?;
    let mut text = Vec::new();
    file.take(TAIL_BYTES[1]).read_to_end(&mut text).ok()?;
    let ids = entries(&text).filter_map(|e| text_of(&e, "promptId").map(str::to_owned));
    ids.last()
}

/// The working folder that the last entry which names one names.
pub fn folder_of(path: &Path) -> Option<PathBuf> {
    let mut text = Vec::new();
    File::open(path)
        .ok()?
        .take(TAIL_BYTES[1])
        .read_to_end(&mut text)
        .ok()?;
    let folder = entries(&text)
        .filter_map(|e| text_of(&e, "cwd").map(PathBuf::from))
        .last()?;
    folder.is_dir().then_some(folder)
}

fn entries(text: &[u8]) -> impl Iterator<Item = Value> {
    text.split(|b| *b == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
}

fn text_of<'a>(entry: &'a Value, key: &str) -> Option<&'a str> {
    entry.get(key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = r#"{"type":"user","message":{"role":"user","content":"do it"}}"#;
    const CALL: &str = r#"{"type":"assistant","message":{"content":[{"type":"text","text":"x"},{"type":"tool_use","id":"t"}]}}"#;
    const RESULT: &str = r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t","content":"[Request interrupted by user"}]}}"#;
    const ANSWER: &str =
        r#"{"type":"assistant","message":{"content":[{"type":"text","text":"done"}]}}"#;
    const SIDE: &str =
        r#"{"type":"assistant","isSidechain":true,"message":{"content":[{"type":"tool_use"}]}}"#;
    const STOPPED: &str = r#"{"type":"user","message":{"content":[{"type":"text","text":"[Request interrupted by user for tool use]"}]}}"#;
    const OTHER: &str = r#"{"type":"file-history-snapshot","messageId":"m"}"#;

    fn after(lines: &[&str]) -> Turn {
        turn_of_tail(lines.join("\n").as_bytes())
    }

    #[test]
    fn a_turn_is_under_way_from_the_prompt_to_the_answer() {
        assert_eq!(after(&[PROMPT]), Turn::Busy);
        assert_eq!(after(&[PROMPT, CALL]), Turn::Busy);
        assert_eq!(after(&[PROMPT, CALL, RESULT]), Turn::Busy);
        assert_eq!(after(&[PROMPT, CALL, RESULT, ANSWER, ""]), Turn::Idle);
        assert_eq!(after(&[PROMPT, CALL, RESULT, ANSWER, PROMPT]), Turn::Busy);
    }

    #[test]
    fn a_text_ahead_of_a_tool_call_does_not_end_the_turn() {
        let text = r#"{"type":"assistant","message":{"stop_reason":"tool_use","content":[{"type":"text","text":"first"}]}}"#;
        assert_eq!(after(&[PROMPT, text]), Turn::Busy);
        let last = r#"{"type":"assistant","message":{"stop_reason":"end_turn","content":[{"type":"text","text":"done"}]}}"#;
        assert_eq!(after(&[PROMPT, text, CALL, RESULT, last]), Turn::Idle);
    }

    #[test]
    fn a_clear_is_linked_to_the_conversation_before_it() {
        let base = std::env::temp_dir().join(format!("cs-head-{}", std::process::id()));
        let prompt = r#"{"promptId":"p1","type":"user","message":{"content":"go"}}"#;
        let caveat = r#"{"promptId":"p1","isMeta":true,"type":"user","message":{"content":"<local-command-caveat>"}}"#;
        let clear = r#"{"promptId":"p1","type":"user","message":{"content":"<command-name>/clear</command-name>"}}"#;
        std::fs::write(&base, format!("{OTHER}\n{caveat}\n{clear}\n{prompt}\n")).unwrap();
        let head = head_of(&base).unwrap();
        assert!(head.cleared);
        assert_eq!(head.prompt_id.as_deref(), Some("p1"));
        std::fs::write(&base, format!("{OTHER}\n{prompt}\n{clear}\n")).unwrap();
        assert!(!head_of(&base).unwrap().cleared);
        assert_eq!(last_prompt_id(&base).as_deref(), Some("p1"));
        std::fs::remove_file(base).unwrap();
    }

    #[test]
    fn an_interruption_by_the_user_ends_a_turn() {
        assert_eq!(after(&[PROMPT, CALL, STOPPED]), Turn::Idle);
    }

    #[test]
    fn subagents_and_bookkeeping_say_nothing() {
        assert_eq!(after(&[PROMPT, ANSWER, SIDE, OTHER]), Turn::Idle);
        assert_eq!(after(&[SIDE, OTHER]), Turn::Unknown);
    }

    #[test]
    fn torn_and_foreign_lines_are_passed_over() {
        let torn = format!("{}\n{ANSWER}\n{{\"type\":\"user\",\"mess", &CALL[20..]);
        assert_eq!(turn_of_tail(torn.as_bytes()), Turn::Idle);
        assert_eq!(turn_of_tail(b"\xff\xfe\n[]\n3\n\"x\"\n{}"), Turn::Unknown);
        assert_eq!(turn_of_tail(b""), Turn::Unknown);
    }

    #[test]
    fn an_entry_larger_than_the_first_tail_is_found() {
        let path = std::env::temp_dir().join(format!("cs-transcript-{}", std::process::id()));
        let big = format!(
            r#"{{"type":"user","message":{{"content":[{{"type":"tool_result","content":"{}"}}]}}}}"#,
            "x".repeat(200_000)
        );
        std::fs::write(&path, format!("{ANSWER}\n{big}\n{OTHER}\n")).unwrap();
        assert_eq!(turn_of(&path), Turn::Busy);
        std::fs::remove_file(path).unwrap();
    }
}
