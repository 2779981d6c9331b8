//! The folder of one running session, for everything that must be found from outside while it
//! lives. Owned by us alone: never shared between sessions, never used if somebody else could write there.

use crate::contain::own_group;
use crate::json::{self, json};
use crate::os::private::{self, Access};
use crate::watch::ProcessId;
use crate::watch::proc_fs::Proc;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// `$XDG_RUNTIME_DIR/claude-safe/PID.START/`, else `${TMPDIR:-/tmp}/claude-safe-UID/PID.START/`; removed on drop.
/// PID and START (clock ticks since boot, proc_pid_stat(5)) are the wrapper's: together they never name two sessions.
pub struct SessionFolder {
    path: PathBuf,
}

impl SessionFolder {
    /// Makes it.
    ///
    /// # Errors
    /// No place to make it in, or the place is somebody else's.
    pub fn create(base: &Path, pid: i32, start_ticks: u64) -> io::Result<Self> {
        private::folder(base)?;
        let path = base.join(format!("{pid}.{start_ticks}"));
        private::folder(&path)?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file of the folder as a whole: a reader sees the old text or the new one.
    ///
    /// # Errors
    /// Disk full, folder gone.
    pub fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let draft = self.path.join(".draft");
        let mut file = fs::File::create(&draft)?;
        file.write_all(text.as_bytes())?;
        fs::rename(draft, self.path.join(name))
    }

    /// Makes a plugin for the client in it, with these hooks. Returns the plugin's folder.
    ///
    /// # Errors
    /// Disk full, folder gone.
    pub fn make_hook_plugin(&self, program: &Path, hooks: Hooks) -> io::Result<PathBuf> {
        let plugin = self.path.join("plugin");
        for inner in INNER.iter().rev() {
            fs::create_dir(self.path.join(inner))?;
        }
        let control = self.path.join("claude-safectl");
        std::os::unix::fs::symlink(program, &control)?;
        let mut events = serde_json::Map::new();
        let mut hook = |event: &str, words: &str, timeout_s: u64, matcher: Option<&str>| {
            let command = format!("{} hook {words}", quoted(&control));
            let hook = json!({"type": "command", "command": command, "timeout": timeout_s});
            let mut entry = json!({"hooks": [hook]});
            if let Some(matcher) = matcher {
                entry["matcher"] = matcher.into();
            }
            json::put(&mut events, event, json!([entry]));
        };
        if hooks.conversation {
            let words = format!("session-start {}", quoted(&self.path));
            hook("SessionStart", &words, 5, None);
        }
        if hooks.sweep {
            hook("PostToolUse", "post-tool-use", 10, Some("Bash"));
            hook("Stop", "stop", 10, None);
        }
        let hooks = json!({"hooks": events});
        self.write("plugin/hooks/hooks.json", &json::text(&hooks))?;
        let manifest = json!({
            // The client keeps names that begin with "claude-" for itself.
            "name": "session-safe-hook",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Tells claude-safe which conversation this session holds, and sweeps temporary files",
        });
        self.write("plugin/.claude-plugin/plugin.json", &json::text(&manifest))?;
        Ok(plugin)
    }

    /// A name for the guard that `LD_PRELOAD` can take, whatever its own path holds.
    ///
    /// # Errors
    /// Folder gone, or its own path has a blank or a colon too.
    pub fn link_guard(&self, library: &Path) -> io::Result<PathBuf> {
        let link = self.path.join("guard.so");
        if link
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .any(|b| b" :".contains(b))
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "nor has this folder's path",
            ));
        }
        std::os::unix::fs::symlink(library, &link)?;
        Ok(link)
    }

    /// Makes the file of the guard's statistics page anew, all zero: what an earlier life of the client
    /// has mapped is another file from then on.
    ///
    /// # Errors
    /// Disk full, folder gone. There is no page then, not even the earlier one.
    pub fn make_page(&self, bytes: usize) -> io::Result<PathBuf> {
        let page = self.path.join(PAGE);
        let _ = fs::remove_file(&page);
        let mut file = fs::File::create_new(&page)?;
        let written = file.write_all(&vec![0; bytes]);
        if written.is_err() {
            let _ = fs::remove_file(&page);
        }
        written.map(|()| page)
    }

    /// Reads a file of the folder.
    pub fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path.join(name)).ok()
    }
}

/// What the plugin of a session is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// It writes the conversation's id into the session's folder.
    pub conversation: bool,
    /// It sweeps after each shell command and at the end of each turn.
    pub sweep: bool,
}

/// The file of the guard's statistics page in a session's folder.
pub const PAGE: &str = "guard.page";

/// The file with the one line for Claude Code's `statusLine` setting.
pub const STATUSLINE: &str = "statusline";

/// The variable that tells the client, and what it runs, where that file is.
pub const STATUSLINE_VARIABLE: &str = "CLAUDE_SAFE_STATUSLINE";

/// The file of the [`Notes`] in a session's folder.
pub const NOTES: &str = "session";

/// What a session tells of itself, as `key=value` lines; written at each start of the client. `None`: not
/// told (a wrapper of another version, or not known there).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// The wrapper's pid.
    pub wrapper_pid: Option<i32>,
    /// The client's pid: the wrapper's child.
    pub client_pid: Option<i32>,
    /// The client's start, clock ticks since boot.
    pub client_start_ticks: Option<u64>,
    /// Start of the session, seconds since 1970.
    pub since_unix_s: Option<u64>,
    /// Start of this life of the client, seconds since 1970.
    pub client_since_unix_s: Option<u64>,
    /// How often the client was started again because of memory.
    pub restarts: Option<u64>,
    /// Limit of tier 1, KiB.
    pub tier_1_kib: Option<u64>,
    /// The user is warned from here on, KiB.
    pub warn_kib: Option<u64>,
    /// Limit of tier 2, KiB.
    pub tier_2_kib: Option<u64>,
    /// The conversation that the client was started with.
    pub conversation: Option<String>,
    /// Where the client keeps what it knows.
    pub client_folder: Option<PathBuf>,
    /// How the session is contained, in words.
    pub contained: Option<String>,
    /// The folder of its control group.
    pub group_folder: Option<PathBuf>,
    /// The client's daemon, which this session started: its pid.
    pub daemon_pid: Option<i32>,
    /// Its start, clock ticks since boot.
    pub daemon_start_ticks: Option<u64>,
    /// What tier 1 by the kernel is doing, in words.
    pub reclaim: Option<String>,
    /// What it has given back so far, KiB.
    pub given_kib: Option<u64>,
    /// What of that came back, KiB.
    pub back_kib: Option<u64>,
    /// Why no history of this session is kept any more.
    pub no_history: Option<String>,
}

impl Notes {
    /// As the file has it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut tell = |key: &str, value: Option<String>| {
            // A value of more than one line can't be told.
            if let Some(value) = value.filter(|value| !value.contains('\n')) {
                text.push_str(&format!("{key}={value}\n"));
            }
        };
        tell("wrapper_pid", self.wrapper_pid.map(|n| n.to_string()));
        tell("client_pid", self.client_pid.map(|n| n.to_string()));
        tell("daemon_pid", self.daemon_pid.map(|n| n.to_string()));
        for (key, number) in [
            ("client_start_ticks", self.client_start_ticks),
            ("daemon_start_ticks", self.daemon_start_ticks),
            ("since_unix_s", self.since_unix_s),
            ("client_since_unix_s", self.client_since_unix_s),
            ("restarts", self.restarts),
            ("tier_1_kib", self.tier_1_kib),
            ("warn_kib", self.warn_kib),
            ("tier_2_kib", self.tier_2_kib),
            ("given_kib", self.given_kib),
            ("back_kib", self.back_kib),
        ] {
            tell(key, number.map(|n| n.to_string()));
        }
        tell("conversation", self.conversation.clone());
        let text_of =
            |path: &Option<PathBuf>| path.as_deref().and_then(Path::to_str).map(str::to_owned);
        tell("client_folder", text_of(&self.client_folder));
        tell("contained", self.contained.clone());
        tell("reclaim", self.reclaim.clone());
        tell("group_folder", text_of(&self.group_folder));
        tell("no_history", self.no_history.clone());
        text
    }

    /// The client, beyond doubt: its pid and its start.
    pub fn client(&self) -> Option<ProcessId> {
        Some(ProcessId {
            pid: self.client_pid?,
            start_ticks: self.client_start_ticks?,
        })
    }

    /// The daemon, beyond doubt.
    pub fn daemon(&self) -> Option<ProcessId> {
        Some(ProcessId {
            pid: self.daemon_pid?,
            start_ticks: self.daemon_start_ticks?,
        })
    }

    /// Of such a text; what is not understood is passed over.
    pub fn parse(text: &str) -> Notes {
        let mut notes = Notes::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let number = || value.parse().ok();
            let pid = || value.parse().ok().filter(|pid| *pid > 0);
            match key {
                "wrapper_pid" => notes.wrapper_pid = pid(),
                "client_pid" => notes.client_pid = pid(),
                "client_start_ticks" => notes.client_start_ticks = number(),
                "since_unix_s" => notes.since_unix_s = number(),
                "client_since_unix_s" => notes.client_since_unix_s = number(),
                "restarts" => notes.restarts = number(),
                "tier_1_kib" => notes.tier_1_kib = number(),
                "warn_kib" => notes.warn_kib = number(),
                "tier_2_kib" => notes.tier_2_kib = number(),
                "conversation" => notes.conversation = Some(value.to_owned()),
                "client_folder" => notes.client_folder = Some(value.into()),
                "daemon_pid" => notes.daemon_pid = pid(),
                "daemon_start_ticks" => notes.daemon_start_ticks = number(),
                "given_kib" => notes.given_kib = number(),
                "back_kib" => notes.back_kib = number(),
                "reclaim" => notes.reclaim = Some(value.to_owned()),
                "contained" => notes.contained = Some(value.to_owned()),
                "no_history" => notes.no_history = Some(value.to_owned()),
                "group_folder" => notes.group_folder = Some(value.into()),
                _ => {}
            }
        }
        notes
    }
}

/// Reads a small file of a session's folder as anybody of this user may: a regular file of ours, at
/// most 64 KiB of it.
pub fn read_file(folder: &Path, name: &str) -> Option<String> {
    let mut text = String::new();
    let file = private::file(&folder.join(name), Access::Read).ok()?;
    file.take(64 << 10).read_to_string(&mut text).ok()?;
    Some(text)
}

/// A path as one word of the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

impl Drop for SessionFolder {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// The folder that holds the folders of all sessions of this user.
pub fn base(variable: impl Fn(&str) -> Option<std::ffi::OsString>, uid: u32) -> PathBuf {
    let folder = |name| crate::config::absolute_folder(&variable, name);
    match folder("XDG_RUNTIME_DIR").filter(|p| p.is_dir()) {
        Some(runtime) => runtime.join("claude-safe"),
        None => folder("TMPDIR")
            .unwrap_or_else(|| "/tmp".into())
            .join(format!("claude-safe-{uid}")),
    }
}

/// Every folder that may hold sessions of this user: [`base`], and the one of sessions that were started
/// without a runtime folder (cron, su).
pub fn bases(variable: impl Fn(&str) -> Option<std::ffi::OsString>, uid: u32) -> Vec<PathBuf> {
    let mut all = vec![base(&variable, uid)];
    let without = base(
        |name| variable(name).filter(|_| name != "XDG_RUNTIME_DIR"),
        uid,
    );
    if !all.contains(&without) {
        all.push(without);
    }
    all
}

/// One session as found in the base folder.
pub struct Found {
    /// Its folder.
    pub path: PathBuf,
    /// The wrapper's pid.
    pub pid: i32,
    /// The wrapper's start, clock ticks since boot.
    pub start_ticks: u64,
}

/// All sessions that have a folder, dead ones too.
pub fn all(base: &Path) -> Vec<Found> {
    let Ok(entries) = fs::read_dir(base) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let (pid, start) = name.to_str()?.split_once('.')?;
            Some(Found {
                path: entry.path(),
                pid: pid.parse().ok()?,
                start_ticks: start.parse().ok()?,
            })
        })
        .collect()
}

/// The sessions whose wrapper is dead (killed by KILL, power lost), and whose client is too: one that lives on
/// has its statistics page in the session's folder.
pub fn dead(base: &Path, processes: &mut Proc) -> Vec<(Found, Notes)> {
    told(base, processes, false)
}

/// The other ones: their wrapper lives, or their client does.
pub fn living(base: &Path, processes: &mut Proc) -> Vec<(Found, Notes)> {
    told(base, processes, true)
}

fn told(base: &Path, processes: &mut Proc, alive: bool) -> Vec<(Found, Notes)> {
    let mut told = Vec::new();
    for session in all(base) {
        let wrapper_lives = processes.is_alive(ProcessId {
            pid: session.pid,
            start_ticks: session.start_ticks,
        });
        if wrapper_lives && !alive {
            continue;
        }
        let notes = Notes::parse(&read_file(&session.path, NOTES).unwrap_or_default());
        let client_lives = |client| processes.is_alive(client);
        if (wrapper_lives || notes.client().is_some_and(client_lives)) == alive {
            told.push((session, notes));
        }
    }
    told
}

/// Removes the folders of [`dead`] sessions.
pub fn remove_dead(base: &Path, processes: &mut Proc) {
    for (session, notes) in dead(base, processes) {
        if let Some(group) = notes.group_folder {
            own_group::remove_if_ours(&group, session.pid, session.start_ticks);
        }
        remove(&session.path);
    }
}

/// Folders that a session's folder may hold, the inner ones first.
const INNER: [&str; 3] = ["plugin/hooks", "plugin/.claude-plugin", "plugin"];

/// Removes a session's folder and its files, and of inner folders only those that we make.
fn remove(path: &Path) {
    for inner in INNER {
        empty_and_remove(&path.join(inner));
    }
    empty_and_remove(path);
}

fn empty_and_remove(path: &Path) {
    if let Ok(entries) = fs::read_dir(path) {
        for entry in entries.flatten() {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::fixture::FakeProc;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("cs-state-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn two_sessions_never_share_a_folder_and_leave_nothing() {
        let base = scratch("two");
        {
            let one = SessionFolder::create(&base, 10, 1).unwrap();
            let two = SessionFolder::create(&base, 10, 2).unwrap();
            one.write("session", "a").unwrap();
            two.write("session", "b").unwrap();
            assert_eq!(one.read("session").as_deref(), Some("a"));
            assert_eq!(two.read("session").as_deref(), Some("b"));
            assert_eq!(all(&base).len(), 2);
        }
        assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn only_the_folders_of_dead_wrappers_are_removed() {
        let base = scratch("dead");
        let alive = SessionFolder::create(&base, 11, 5).unwrap();
        let reused = base.join("12.5");
        let stranger = base.join("keep-me");
        fs::create_dir(&reused).unwrap();
        fs::write(reused.join("session"), "x").unwrap();
        fs::create_dir(&stranger).unwrap();
        let unwatched = base.join("13.5");
        fs::create_dir(&unwatched).unwrap();
        fs::write(
            unwatched.join(NOTES),
            "client_pid=14\nclient_start_ticks=6\n",
        )
        .unwrap();
        let both_dead = base.join("15.5");
        fs::create_dir(&both_dead).unwrap();
        fs::write(
            both_dead.join(NOTES),
            "client_pid=16\nclient_start_ticks=7\n",
        )
        .unwrap();
        let fake = FakeProc::new();
        for pid in 11..=16 {
            fake.process(pid, 1, b"x", if pid == 11 { 5 } else { 6 }, 1);
        }
        remove_dead(&base, &mut Proc::new(fake.path()));
        assert!(alive.path().exists() && stranger.exists() && !reused.exists());
        assert!(unwatched.exists() && !both_dead.exists());
        drop(alive);
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn the_hook_plugin_is_removed_with_the_session() {
        let base = scratch("it's a plugin");
        let session = SessionFolder::create(&base, 1, 1).unwrap();
        let all = Hooks {
            conversation: true,
            sweep: true,
        };
        let plugin = session.make_hook_plugin(Path::new("/bin/true"), all);
        let hooks = fs::read(plugin.unwrap().join("hooks/hooks.json")).unwrap();
        let hooks: serde_json::Value = serde_json::from_slice(&hooks).unwrap();
        assert_eq!(hooks["hooks"]["PostToolUse"][0]["matcher"], "Bash");
        for event in ["SessionStart", "PostToolUse", "Stop"] {
            let hook = &hooks["hooks"][event][0]["hooks"][0];
            assert!(hook["timeout"].is_u64(), "{event}");
            let command = hook["command"].as_str().unwrap();
            // The shell finds the program in spite of quotes and spaces in its path.
            let status = std::process::Command::new("sh")
                .args(["-c", command])
                .status();
            assert!(status.unwrap().success(), "{command}");
        }
        drop(session);
        assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn notes_survive_the_file_and_junk_is_passed_over() {
        let notes = Notes {
            wrapper_pid: Some(7),
            client_pid: Some(8),
            client_start_ticks: Some(9),
            since_unix_s: Some(1_700_000_000),
            client_since_unix_s: Some(1_700_000_001),
            restarts: Some(2),
            tier_1_kib: Some(3),
            warn_kib: Some(4),
            tier_2_kib: Some(5),
            conversation: Some("an-id".to_owned()),
            client_folder: Some("/home/a=b/.claude".into()),
            contained: Some("own cgroup".to_owned()),
            group_folder: Some("/sys/fs/cgroup/x".into()),
            daemon_pid: Some(12),
            daemon_start_ticks: Some(13),
            reclaim: Some("idle: watching".to_owned()),
            given_kib: Some(10),
            back_kib: Some(11),
            no_history: Some("disk full".to_owned()),
        };
        assert_eq!(Notes::parse(&notes.text()), notes);
        assert_eq!(Notes::parse(&Notes::default().text()), Notes::default());
        let two_lines = Notes {
            client_folder: Some("/a\nrestarts=9".into()),
            ..Notes::default()
        };
        assert_eq!(two_lines.text(), "");
        let odd = "\nx\n=\nclient_pid=-1\nwrapper_pid=x\nrestarts=99999999999999999999\nnew=1\n";
        assert_eq!(Notes::parse(odd), Notes::default());
    }

    #[test]
    fn a_page_made_anew_is_another_file_and_all_zero() {
        let base = scratch("page");
        let session = SessionFolder::create(&base, 1, 1).unwrap();
        let page = session.make_page(64).unwrap();
        let earlier = fs::OpenOptions::new().write(true).open(&page).unwrap();
        session.make_page(64).unwrap();
        (&earlier).write_all(&[7; 64]).unwrap();
        assert_eq!(fs::read(&page).unwrap(), [0; 64]);
        drop(session);
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn the_runtime_folder_comes_before_the_temporary_one() {
        let variable = |name: &str| match name {
            "XDG_RUNTIME_DIR" => Some("/".into()),
            "TMPDIR" => Some("/elsewhere".into()),
            _ => None,
        };
        assert_eq!(base(variable, 7), Path::new("/claude-safe"));
        let without = |name: &str| variable(name).filter(|_| name == "TMPDIR");
        assert_eq!(base(without, 7), Path::new("/elsewhere/claude-safe-7"));
        assert_eq!(base(|_| None, 7), Path::new("/tmp/claude-safe-7"));
        let both = ["/claude-safe", "/elsewhere/claude-safe-7"].map(PathBuf::from);
        assert_eq!(bases(variable, 7), both);
        assert_eq!(bases(without, 7), both[1..]);
    }
}
