//! Owns what the tests know about the real client: where its pinned versions lie (and the runtimes
//! of its JavaScript edition), the files and variables with which it runs without questions and without a network, and a way to make it
//! leak. Never downloads anything: `fetch-client` does, when a human asks for it.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::artifacts::workspace;
use crate::netns::Isolated;
use crate::sandbox::Sandbox;

/// Something that the tests know, and its npm tarball.
#[derive(Clone, Copy, Debug)]
pub struct Pinned {
    /// What it is called here, and its folder: for a native client its version number.
    pub version: &'static str,
    /// The npm package with its version.
    pub package: &'static str,
    /// The file in it that is run.
    pub file: &'static str,
    /// SHA-512 of the tarball, in hexadecimal.
    pub sha512: &'static str,
}

/// All pinned native clients, oldest first.
pub const PINNED: &[Pinned] = &[
    Pinned {
        version: "2.1.110",
        package: "@anthropic-ai/claude-code-linux-x64@2.1.110",
        file: "claude",
        sha512: "aaafa3f3e71122648574b5b056f0a04a638ce17c47d56087365acce0cf63c894\
                 14301f66061e417284b7145e93bca1c3969973a74e01acaa0953b8b89d1b209e",
    },
    Pinned {
        version: "2.1.329",
        package: "@anthropic-ai/claude-code-linux-x64@2.1.329",
        file: "claude",
        sha512: "fa7e25bb5b9b600a74d98d17fcc0149f1c3dc98e921c767bec5f88a16f95d305\
                 6816e888f68a5d1fa8287e37f5e205c908460c4cda64b3b1a7d62f1765328058",
    },
];

/// What is pinned besides: the last client that ran on a runtime of the user's, and and a
/// runtime besides Node whose malloc a preload can reach.
pub const PINNED_JS: &[Pinned] = &[
    Pinned {
        version: "bun-1.2.18",
        package: "@oven/bun-linux-x64@1.2.18",
        file: "bin/bun",
        sha512: "a241ddcbdf98a2fe41bc8d7d1729e7bec99050fe3bed234946fdf74c81f1b3d7\
                 298ff0a581a617322852fb21f42c2cd80c521ea237c0062207741554166c6ab5",
    },
    Pinned {
        version: "js-2.1.81",
        package: "@anthropic-ai/claude-code@2.1.81",
        file: "cli.js",
        sha512: "0b24266ebb0271cab1ee436083bff8f8bf467141ba55a4d962d079d733c7cbce\
                 73d55bdb3eb9d13fe8c53f8b1ec91f4bfdcdd71d20d4d4b547cca2b277521c19",
    },
];

/// The pinned thing of that name.
#[must_use]
pub fn pinned(version: &str) -> Option<&'static Pinned> {
    PINNED
        .iter()
        .chain(PINNED_JS)
        .find(|p| p.version == version)
}

/// The key that the client is given. Its last 20 characters are approved in `.claude.json`.
const DUMMY_KEY: &str = "sk-ant-dummy-dummy-dummy-dummy-0123456789";

/// The folder that has `VERSION/FILE`: `CLAUDE_SAFE_TEST_CLIENTS`, else `.cache/clients` in the
/// workspace.
#[must_use]
pub fn clients_dir() -> PathBuf {
    env::var_os("CLAUDE_SAFE_TEST_CLIENTS")
        .map_or_else(|| workspace().join(".cache/clients"), PathBuf::from)
}

/// The file to run of the pinned thing of that name, if it was fetched.
#[must_use]
pub fn real_client(version: &str) -> Option<PathBuf> {
    let path = clients_dir().join(version).join(pinned(version)?.file);
    path.is_file().then_some(path)
}

/// Whether tests that cannot run must fail: `CLAUDE_SAFE_REQUIRE_CLIENT=1`.
#[must_use]
pub fn client_required() -> bool {
    env::var("CLAUDE_SAFE_REQUIRE_CLIENT").is_ok_and(|v| v == "1")
}

/// Ends the test here, with a line on stderr that is shown without `--nocapture` too. With
/// `CLAUDE_SAFE_REQUIRE_CLIENT=1` it fails instead.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        assert!(!$crate::clients::client_required(), $($reason)*);
        // The macros for printing are captured by the test runner; stderr itself is not.
        let line = format!("skipped: {}: {}\n", std::thread::current().name().unwrap_or("?"), format_args!($($reason)*));
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
        return;
    }};
}

/// Writes `.claude.json` and `.claude/settings.json` with which the client starts without a
/// question in the sandbox's `work`.
///
/// # Panics
/// When they cannot be written.
pub fn prepare_home(sandbox: &Sandbox) {
    let folder = sandbox.home().join(".claude");
    fs::create_dir_all(&folder).expect("a folder in the sandbox");
    let mut projects = serde_json::Map::new();
    let trusted = json!({ "hasTrustDialogAccepted": true, "hasCompletedProjectOnboarding": true });
    projects.insert(sandbox.work().display().to_string(), trusted);
    let state = json!({
        "hasCompletedOnboarding": true,
        "theme": "dark",
        "bypassPermissionsModeAccepted": true,
        "customApiKeyResponses": { "approved": [&DUMMY_KEY[DUMMY_KEY.len() - 20..]], "rejected": [] },
        "projects": projects,
    });
    fs::write(sandbox.home().join(".claude.json"), state.to_string())
        .expect("a file in the sandbox");
    let settings = json!({ "skipDangerousModePermissionPrompt": true });
    fs::write(folder.join("settings.json"), settings.to_string()).expect("a file in the sandbox");
}

/// Gives `command` the variables of the client and puts it into the mock's namespace. `command`
/// may be the client itself or something that starts it.
///
/// # Errors
/// The mock is gone.
pub fn set_up(command: &mut Command, mock: &Isolated) -> io::Result<()> {
    command
        .env("ANTHROPIC_API_KEY", DUMMY_KEY)
        .env("ANTHROPIC_BASE_URL", mock.url())
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
        .env("DISABLE_AUTOUPDATER", "1")
        .env("IS_SANDBOX", "1")
        .env("SHELL", "/bin/sh");
    if let Some(ca) = mock.ca() {
        command.env("NODE_EXTRA_CA_CERTS", ca);
    }
    mock.enter(command)
}

/// How the real client is made to leak: anonymous memory outside of the JS heap, written once and
/// never touched again. It packs about 2.5 : 1, as what leaks does (pointers): zeros would fit into swap for ever.
#[derive(Clone, Debug)]
pub struct Leak {
    /// MiB each second.
    pub mib_per_s: u32,
    /// It stops there, MiB; keep it below what the machine can bear.
    pub cap_mib: u32,
    /// Only the first so many clients leak; `None`: every one. A restarted client is a further
    /// one; its short-lived helpers do not count.
    pub first_clients: Option<u32>,
    /// It begins when this file is there; `None`: at once. A client that is full before its first round has nothing
    /// saved to resume.
    pub after: Option<PathBuf>,
}

/// Writes the script of a leak and returns the value for `BUN_OPTIONS`.
///
/// # Panics
/// When it cannot be written.
#[must_use]
pub fn leak_options(sandbox: &Sandbox, leak: &Leak) -> String {
    let script = sandbox.file("leak.js");
    let claims = leak.first_clients.map(|count| {
        (0..count)
            .map(|i| {
                sandbox
                    .file(&format!("leak-claim-{i}"))
                    .display()
                    .to_string()
            })
            .collect::<Vec<_>>()
    });
    let text = LEAK_JS
        .replace("@MIB_PER_S@", &leak.mib_per_s.to_string())
        .replace("@CAP_MIB@", &leak.cap_mib.to_string())
        .replace(
            "@CLAIMS@",
            &claims.map_or(Value::Null, |c| json!(c)).to_string(),
        );
    let after = leak.after.as_ref().map(|path| path.display().to_string());
    let text = text.replace("@AFTER@", &json!(after).to_string());
    fs::write(&script, text).expect("a file in the sandbox");
    format!("--preload {}", script.display())
}

/// Every 100 ms as many blocks as are due. Waits 300 ms before it claims a turn, so that the
/// client's short-lived runs of itself as `rg` or `ugrep` do not use one up; `unref` keeps the
/// timer from holding the client back when it wants to end.
const LEAK_JS: &str = r#"(() => {
  const fs = require("fs");
  const claims = @CLAIMS@, after = @AFTER@;
  const block = 16 << 20, page = 4096, kept = [];
  const noise = crypto.getRandomValues(new Uint8Array(1536));
  const start = () => {
    if (after !== null && !fs.existsSync(after)) {
      setTimeout(start, 50).unref();
      return;
    }
    if (claims !== null && !claims.some((path) => {
      try { fs.closeSync(fs.openSync(path, "wx")); return true; } catch { return false; }
    })) return;
    const begun = Date.now();
    const timer = setInterval(() => {
      const due = Math.min(@CAP_MIB@, (Date.now() - begun) / 1000 * @MIB_PER_S@) * (1 << 20);
      // A few at a time: the client must stay as responsive as one that leaks by itself.
      for (let i = 0; i < 8 && (kept.length + 1) * block <= due; i++) {
        const bytes = new Uint8Array(block);
        for (let at = 0; at < block; at += page) bytes.set(noise, at);
        kept.push(bytes);
      }
    }, 100);
    timer.unref();
  };
  setTimeout(start, 300).unref();
})();
"#;

/// The transcripts below a home, newest last.
#[must_use]
pub fn transcripts(home: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for project in fs::read_dir(home.join(".claude/projects"))
        .into_iter()
        .flatten()
        .flatten()
    {
        for entry in fs::read_dir(project.path()).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "jsonl") {
                let changed = entry.metadata().and_then(|m| m.modified()).ok();
                found.push((changed, path));
            }
        }
    }
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// The tool calls of a transcript in order: id, and the result's text if there is a result that is
/// no error. A last line without its newline is still being written and does not count.
///
/// # Panics
/// When the transcript cannot be read or a whole line of it is no JSON.
#[must_use]
pub fn tool_calls(transcript: &Path) -> Vec<(String, Option<String>)> {
    let text = fs::read_to_string(transcript).expect("a transcript");
    let mut calls: Vec<(String, Option<String>)> = Vec::new();
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    for line in whole.lines() {
        let entry: Value = serde_json::from_str(line).expect("a line of JSON");
        for block in entry["message"]["content"].as_array().into_iter().flatten() {
            match block["type"].as_str() {
                Some("tool_use") => {
                    calls.push((block["id"].as_str().unwrap_or_default().to_owned(), None))
                }
                Some("tool_result") if block["is_error"] != json!(true) => {
                    let id = block["tool_use_id"].as_str().unwrap_or_default();
                    let content = block["content"]
                        .as_str()
                        .map_or_else(|| block["content"].to_string(), str::to_owned);
                    if let Some(call) = calls.iter_mut().rev().find(|(i, _)| i == id) {
                        call.1 = Some(content);
                    }
                }
                _ => {}
            }
        }
    }
    calls
}

/// What a transcript says happened, without what differs from run to run (ids, times, reminders):
/// one line for each content block, with the text of the model, the calls, and their results. A
/// call or a result that is recorded twice counts once, see [`distinct`].
///
/// # Panics
/// When the transcript cannot be read or a line of it is no JSON.
#[must_use]
pub fn shape(transcript: &Path) -> Vec<String> {
    let text = fs::read_to_string(transcript).expect("a transcript");
    let mut seen = std::collections::BTreeSet::new();
    let mut found = Vec::new();
    for line in text.lines() {
        let entry: Value = serde_json::from_str(line).expect("a line of JSON");
        let message = &entry["message"];
        let Some(role) = message["role"].as_str() else {
            continue;
        };
        if let Some(prompt) = message["content"].as_str() {
            found.push(format!("{role}: {prompt}"));
        }
        for block in message["content"].as_array().into_iter().flatten() {
            let kind = block["type"].as_str().unwrap_or("?");
            let id = block["id"].as_str().or(block["tool_use_id"].as_str());
            if id.is_some_and(|id| !seen.insert((kind.to_owned(), id.to_owned()))) {
                continue;
            }
            let what = match kind {
                "tool_use" => format!("{} {}", block["name"], block["input"]),
                "tool_result" => {
                    format!("{} {}", block["is_error"] == json!(true), block["content"])
                }
                "text" if role == "assistant" => block["text"].to_string(),
                _ => String::new(),
            };
            found.push(format!("{role} {kind} {what}"));
        }
    }
    found
}

/// Calls with the same id as one. The mock never gives an id twice, so lines with one id are
/// records of one answer; 2.1.329 was seen, rarely and on a busy machine, to record a call and its
/// result twice that had run once. That a call ran once is for the test's own log to show.
#[must_use]
pub fn distinct(calls: Vec<(String, Option<String>)>) -> Vec<(String, Option<String>)> {
    let mut found: Vec<(String, Option<String>)> = Vec::new();
    for (id, result) in calls {
        match found.iter_mut().find(|(known, _)| *known == id) {
            Some(known) => known.1 = known.1.take().or(result),
            None => found.push((id, result)),
        }
    }
    found
}
