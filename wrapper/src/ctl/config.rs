//! `claude-safectl config`: every value in force, and who set it.

use crate::json::{self, json};

use super::style::columns;
use super::{Answer, Request, exit};
use crate::config::{Loaded, Origin, Sources, load};

pub(super) fn run(request: &Request) -> Answer {
    let loaded = load(&Sources::of_this_process());
    let text = if request.json {
        in_json(&loaded)
    } else {
        in_words(&loaded)
    };
    Answer {
        text,
        code: exit::DONE,
    }
}

fn in_words(loaded: &Loaded) -> String {
    let rows: Vec<[String; 3]> = loaded
        .settings
        .iter()
        .map(|setting| {
            [
                setting.name.to_owned(),
                setting.value.clone(),
                format!("({})", setting.origin),
            ]
        })
        .collect();
    let mut text = columns(&rows, 0);
    for complaint in &loaded.complaints {
        text.push_str(&format!("\n{complaint}"));
    }
    if !loaded.complaints.is_empty() {
        text.push('\n');
    }
    text
}

fn in_json(loaded: &Loaded) -> String {
    let settings: Vec<_> = loaded
        .settings
        .iter()
        .map(|setting| {
            let (origin, file, line) = match &setting.origin {
                Origin::Environment => ("environment", None, None),
                Origin::Default => ("default", None, None),
                Origin::File { path, line } => (
                    "file",
                    Some(path.to_string_lossy().into_owned()),
                    Some(*line),
                ),
            };
            json!({
                "name": setting.name,
                "value": &setting.value,
                "origin": origin,
                "file": file,
                "line": line,
            })
        })
        .collect();
    let whole = json!({ "settings": settings, "complaints": loaded.complaints.as_slice() });
    json::text(&whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::Trust;
    use std::ffi::OsString;

    fn loaded() -> Loaded {
        load(&Sources {
            environment: &|name| match name {
                "CLAUDE_SAFE_PTY_WARN" => Some(OsString::from("7")),
                "CLAUDE_WATCHDOG_INTERVAL" => Some(OsString::from("often")),
                _ => None,
            },
            user_file: None,
            system_file: None,
            memory: None,
            trust: Trust::of_this_process(),
        })
    }

    #[test]
    fn words_name_value_origin_and_what_is_wrong() {
        let text = in_words(&loaded());
        let line = |name: &str| {
            text.lines()
                .find(|line| line.starts_with(name))
                .unwrap()
                .to_owned()
        };
        assert!(line("CLAUDE_SAFE_PTY_WARN").ends_with("(environment)"));
        assert!(line("CLAUDE_WATCHDOG_INTERVAL").contains(" 30 "));
        assert!(line("CLAUDE_SAFE_RECLAIM").ends_with("(default)"));
        assert!(line("claude-safe:").contains("\"often\""));
    }

    #[test]
    fn json_says_the_same() {
        let text = in_json(&loaded());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let settings = value["settings"].as_array().unwrap();
        assert_eq!(settings.len(), crate::config::vocabulary::ALL.len());
        let pty = settings
            .iter()
            .find(|s| s["name"] == "CLAUDE_SAFE_PTY_WARN")
            .unwrap();
        assert_eq!(
            (&pty["value"], &pty["origin"]),
            (&json!("7"), &json!("environment"))
        );
        assert_eq!(value["complaints"].as_array().unwrap().len(), 1);
    }
}
