//! `claude-safectl shim`: typing `claude` starts claude-safe, by a folder ahead of all others on `PATH`
//! that holds nothing but a link `claude` to claude-safe.
//!
//! Not by a change to the client's own files: its self-update writes those anew. What install writes is the
//! link and one block in each start file of the user's shells; remove takes out that, and nothing
//! else. Starts no shell. Never touches another user's files, nor a `claude` that is not its own link.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::json::{self, json};
use serde_json::Value;

use super::style::columns;
use super::{Answer, Flag, JSON, Request, Verb, exit};
use crate::client::find::{Search, find, first_on_path, starts_claude_safe};
use crate::client::guard_lib::own_folder as program_folder;
use crate::client::kind::is_claude_safe;
use crate::config::{Sources, load, own_folder};
use crate::os::files::{Distrust, Trust, is_executable_file, judge_way, try_lock};
use crate::os::process::own_ids;

mod block;
mod shells;
mod start_file;

use block::{Block, Left, Syntax, by_hand, diff, put, take};
use shells::Shells;
use start_file::StartFile;

pub(super) static VERBS: [Verb; 3] = [
    Verb {
        name: "install",
        options: &[&DIR, &DRY_RUN],
        help: "make typing claude start claude-safe, in every new shell",
    },
    Verb {
        name: "remove",
        options: &[&DIR, &DRY_RUN],
        help: "undo that: take out what install put in",
    },
    Verb {
        name: "status",
        options: &[&DIR, &JSON],
        help: "what typing claude starts, here and in a new shell",
    },
];

pub(super) static DIR: Flag = Flag {
    name: "dir",
    value: Some("DIR"),
    help: "the folder for the link, if not the usual one",
};

pub(super) static DRY_RUN: Flag = Flag {
    name: "dry-run",
    value: None,
    help: "show what would change, as a diff, and change nothing",
};

pub(super) fn run(request: &Request) -> Answer {
    let is_dry = request.value(&DRY_RUN).is_some();
    let folder = match request.value(&DIR).map(std::path::absolute) {
        None => None,
        // Without `.`, `//` and a `/` at the end.
        Some(Ok(folder)) => Some(folder.components().collect()),
        Some(Err(error)) => return failure(exit::USAGE, &format!("--dir: {error}")),
    };
    let user = match User::of_this_process(folder) {
        Ok(user) => user,
        Err(reason) => return failure(exit::TROUBLE, &reason),
    };
    if request.verb == "status" {
        return status(&user, request.json);
    }
    let _lock = match if is_dry { Ok(None) } else { lock(&user.home) } {
        Ok(lock) => lock,
        Err(reason) => return failure(exit::TROUBLE, &reason),
    };
    let mut report = Report {
        home: &user.home,
        is_dry,
        text: String::new(),
        diffs: String::new(),
        has_trouble: false,
    };
    if request.verb == "install" {
        install(&user, &mut report);
    } else {
        remove(&user, &mut report);
    }
    report.answer()
}

fn failure(code: u8, reason: &str) -> Answer {
    Answer {
        text: format!("claude-safectl: {reason}\n"),
        code,
    }
}

/// One of us at a time. `None`: this file system has no locks; what a file looked like is asked again
/// before it is replaced.
fn lock(home: &Path) -> Result<Option<File>, String> {
    const ATTEMPTS: u32 = 50;
    let Ok(folder) = File::open(home) else {
        return Ok(None);
    };
    for _ in 0..ATTEMPTS {
        match try_lock(&folder) {
            Ok(true) => return Ok(Some(folder)),
            Ok(false) => std::thread::sleep(Duration::from_millis(100)),
            Err(_) => return Ok(None),
        }
    }
    Err("another claude-safectl is at work here: try again".to_owned())
}

/// Who asks, and where everything is.
struct User {
    home: PathBuf,
    shells: Shells,
    /// The folder for the link.
    folder: PathBuf,
    /// The one that we would make.
    own_folder: PathBuf,
    path: Option<OsString>,
}

impl User {
    fn of_this_process(asked: Option<PathBuf>) -> Result<User, String> {
        let environment = |name: &str| std::env::var_os(name);
        let path = environment("PATH");
        let home = environment("HOME").map(PathBuf::from);
        let home = home.filter(|home| home.is_absolute());
        let home = home.ok_or("HOME does not name a folder: whose start files are meant?")?;
        let shown = home.display();
        let found = fs::metadata(&home).map_err(|error| format!("HOME is {shown}: {error}"))?;
        let uid = own_ids().euid;
        if !found.is_dir() {
            return Err(format!("HOME is {shown}, which is no folder"));
        }
        if found.uid() != uid {
            let owner = found.uid();
            return Err(format!(
                "HOME is {shown}, which belongs to user id {owner}, not {uid}: run it as that user"
            ));
        }
        let own_folder = own_folder(&environment, "XDG_DATA_HOME", ".local/share");
        let own_folder = own_folder.unwrap_or_else(|| home.join(".local/share/claude-safe"));
        let own_folder = own_folder.join("bin");
        let folder = asked
            .or_else(|| packaged_folder(path.as_deref()))
            .unwrap_or_else(|| own_folder.clone());
        if folder
            .as_os_str()
            .as_bytes()
            .iter()
            .any(|byte| *byte == b':' || *byte < b' ')
        {
            return Err(format!(
                "{folder:?} can't be on PATH: it has a colon or a control character"
            ));
        }
        let passwd = fs::read("/etc/passwd").unwrap_or_default();
        Ok(User {
            shells: Shells::new(&home, &environment, &passwd, uid),
            home,
            folder,
            own_folder,
            path,
        })
    }
}

fn trust() -> Trust {
    Trust::of_this_process().accepting_groups()
}

/// The name of claude-safe that lasts: the first on `PATH` that is this very program. A package keeps
/// that one up to date; what a link of Nix leads to is collected as garbage some day.
fn program(path: Option<&OsStr>) -> Option<PathBuf> {
    let folder = program_folder()?;
    let on_path = first_on_path("claude-safe", path).filter(|named| {
        let real = fs::canonicalize(named).ok();
        named.is_absolute() && real.is_some_and(|real| real.parent() == Some(&folder))
    });
    let beside = folder.join("claude-safe");
    on_path.or_else(|| is_executable_file(&beside).then_some(beside))
}

/// The folder that a package installed beside this program, for all its users.
fn packaged_folder(path: Option<&OsStr>) -> Option<PathBuf> {
    let program = program(path)?;
    if program.starts_with("/nix/store") {
        return None;
    }
    let folder = program.parent()?.parent()?.join("lib/claude-safe/bin");
    let is_fit =
        is_claude_safe(&folder.join("claude")) && matches!(judge_way(&folder, &trust()), Ok(None));
    is_fit.then_some(folder)
}

/// What is called `claude` in a shim folder.
enum Occupant {
    Nobody,
    /// A link as install makes it: it names claude-safe from `/`. Whether that is still there is no matter.
    OurLink(PathBuf),
    /// A package's link, or a copy.
    ClaudeSafe,
    Other,
}

impl Occupant {
    fn of(folder: &Path) -> Occupant {
        let claude = folder.join("claude");
        match fs::read_link(&claude) {
            Ok(target) if target.is_absolute() && target.ends_with("claude-safe") => {
                Occupant::OurLink(target)
            }
            _ if is_claude_safe(&claude) => Occupant::ClaudeSafe,
            _ if claude.symlink_metadata().is_ok() => Occupant::Other,
            _ => Occupant::Nobody,
        }
    }
}

/// What was done, or would be.
struct Report<'a> {
    home: &'a Path,
    is_dry: bool,
    text: String,
    diffs: String,
    has_trouble: bool,
}

impl Report<'_> {
    fn line(&mut self, what: &str, path: &Path) {
        let path = shown(path, self.home);
        self.text.push_str(&format!("{what:<11}{path}\n"));
    }

    fn because(&mut self, reason: &str) {
        self.text.push_str(&format!("{:11}{reason}\n", ""));
    }

    fn trouble(&mut self, what: &str, path: &Path, reason: &str) {
        self.has_trouble = true;
        self.line(what, path);
        self.because(reason);
    }

    fn note(&mut self, note: &str) {
        self.text.push_str(&format!("{note}\n"));
    }

    fn answer(self) -> Answer {
        let head = if self.is_dry {
            "Nothing is changed now. It would be:\n"
        } else {
            ""
        };
        Answer {
            text: format!("{head}{}{}", self.text, self.diffs),
            code: if self.has_trouble {
                exit::TROUBLE
            } else {
                exit::DONE
            },
        }
    }
}

/// With `~` for the home folder.
fn shown(path: &Path, home: &Path) -> String {
    match path.strip_prefix(home) {
        Ok(below) => format!("~/{}", below.display()),
        Err(_) => path.display().to_string(),
    }
}

fn install(user: &User, report: &mut Report<'_>) {
    if let Err(reason) = make_link(user, report) {
        report.trouble("refused", &user.folder.join("claude"), &reason);
        return;
    }
    let wanted = user.shells.candidates().into_iter();
    for candidate in wanted.filter(|candidate| candidate.is_wanted) {
        let (path, syntax) = (&candidate.path, candidate.syntax);
        let changed = StartFile::read(path).and_then(|file| {
            let old = file.content();
            let found = match old {
                Some(old) => Left::Content(old.to_vec()),
                None => Left::NoFile(file.missing_folders()),
            };
            let had_block = |old| take(old).is_ok_and(|without| without.block.is_some());
            let content = put(found, &user.folder, syntax).map_err(|damage| damage.to_string())?;
            let what = match old {
                None => "made",
                Some(old) if old == content => "unchanged",
                Some(old) if had_block(old) => "renewed",
                Some(_) => "added to",
            };
            change(&file, Some(&content), path, report)?;
            Ok(what)
        });
        match changed {
            Ok(what) => report.line(what, path),
            Err(reason) => {
                report.trouble("refused", path, &reason);
                report.because("by hand, at its end:");
                report.because(&by_hand(&user.folder, syntax));
            }
        }
    }
    for note in notes(user) {
        report.note(&note);
    }
    let is_here = typed(user).is_some_and(|(_, is_claude_safe)| is_claude_safe);
    if !report.is_dry && !is_here {
        report.note("Typing claude starts claude-safe in every new terminal; in this one after:");
        let syntax = match user.shells.login.as_bytes().ends_with(b"fish") {
            true => Syntax::Fish,
            false => Syntax::Posix,
        };
        report.note(&by_hand(&user.folder, syntax));
    }
}

/// Replaces a start file, or shows how.
fn change(
    file: &StartFile,
    content: Option<&[u8]>,
    path: &Path,
    report: &mut Report<'_>,
) -> Result<(), String> {
    if file.content() == content {
        return Ok(());
    }
    if !report.is_dry {
        return file.replace(content);
    }
    if let Some(reason) = file.must_stay() {
        return Err(reason);
    }
    let name = path.display().to_string();
    report.diffs.push_str(&diff(&name, file.content(), content));
    Ok(())
}

/// Sees to it that `claude` in the shim folder is claude-safe. The error is a reason in words.
fn make_link(user: &User, report: &mut Report<'_>) -> Result<(), String> {
    let folder = &user.folder;
    let claude = folder.join("claude");
    let not_trusted = |distrust: Distrust| distrust.to_string();
    let Some(program) = program(user.path.as_deref()) else {
        return Err("there is no claude-safe beside this claude-safectl".to_owned());
    };
    // A folder is made only where nobody else can put another one in its place.
    let there = folder.ancestors().find(|at| at.symlink_metadata().is_ok());
    let there = there.unwrap_or(Path::new("/"));
    let sticky = judge_way(there, &trust()).map_err(not_trusted)?;
    if let Some(distrust) = sticky.filter(|_| there == folder) {
        return Err(not_trusted(distrust));
    }
    let what = match Occupant::of(folder) {
        Occupant::ClaudeSafe => "unchanged",
        Occupant::OurLink(target) if target == program => "unchanged",
        Occupant::OurLink(_) => "renewed",
        Occupant::Nobody => "made",
        Occupant::Other => return Err("it is there, and it is not claude-safe".to_owned()),
    };
    if what != "unchanged" && !report.is_dry {
        let failed = |error: std::io::Error| error.to_string();
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(failed)?;
        let beside = folder.join("claude.claude-safe-new");
        let _ = fs::remove_file(&beside);
        let made = symlink(&program, &beside).and_then(|()| fs::rename(&beside, &claude));
        if made.is_err() {
            let _ = fs::remove_file(&beside);
        }
        made.map_err(failed)?;
    }
    report.line(what, &claude);
    if let Ok(target) = fs::read_link(&claude) {
        report.because(&format!("-> {}", shown(&target, &user.home)));
    }
    Ok(())
}

fn remove(user: &User, report: &mut Report<'_>) {
    let mut folders = vec![user.own_folder.clone(), user.folder.clone()];
    let mut found_any = false;
    for candidate in user.shells.candidates() {
        let path = &candidate.path;
        let file = match StartFile::read(path) {
            Ok(file) => file,
            Err(reason) => {
                // No fault: install puts nothing into such a file.
                report.line("left", path);
                report.because(&reason);
                continue;
            }
        };
        let Some(content) = file.content() else {
            continue;
        };
        let without = match take(content) {
            Ok(without) => without,
            Err(damage) => {
                report.trouble("refused", path, &damage.to_string());
                report.because("take the block out by hand");
                continue;
            }
        };
        let Some(Block { folder, .. }) = without.block else {
            continue;
        };
        found_any = true;
        folders.push(folder);
        match (
            change(&file, without.left.content(), path, report),
            without.left,
        ) {
            (Err(reason), _) => report.trouble("refused", path, &reason),
            (Ok(()), Left::Content(_)) => report.line("taken out", path),
            (Ok(()), Left::NoFile(folders)) => {
                report.line("removed", path);
                let above = path.ancestors().skip(1);
                remove_if_empty(above.take(folders.into()), report);
            }
        }
    }
    let mut seen: Vec<PathBuf> = Vec::new();
    for folder in folders {
        if seen.contains(&folder) {
            continue;
        }
        seen.push(folder.clone());
        let claude = folder.join("claude");
        match Occupant::of(&folder) {
            Occupant::OurLink(_) => {
                found_any = true;
                let gone = report.is_dry || fs::remove_file(&claude).is_ok();
                if gone {
                    report.line("removed", &claude);
                    let in_home = |at: &&Path| at.starts_with(&user.home) && *at != user.home;
                    let above = folder.ancestors().skip(1).take_while(in_home);
                    remove_if_empty(std::iter::once(&*folder).chain(above), report);
                } else {
                    report.trouble("refused", &claude, "it can't be removed");
                }
            }
            Occupant::Other => {
                report.trouble("left", &claude, "it is no link that shim install has made");
            }
            Occupant::ClaudeSafe => {
                report.line("left", &claude);
                report.because("it belongs to the package");
            }
            Occupant::Nobody => {}
        }
    }
    if !found_any && !report.has_trouble {
        report.note("There was nothing of shim install to take out.");
    }
}

/// Removes these folders, each in the one before, up to the first that is not empty.
fn remove_if_empty<'a>(mut folders: impl Iterator<Item = &'a Path>, report: &Report<'_>) {
    let _ = report.is_dry || folders.any(|folder| fs::remove_dir(folder).is_err());
}

/// What typing `claude` starts, and whether that is claude-safe.
pub(super) fn typed_on(path: Option<&OsStr>) -> Option<(PathBuf, bool)> {
    let claude = first_on_path("claude", path)?;
    let is_claude_safe = starts_claude_safe(&claude, path);
    Some((claude, is_claude_safe))
}

fn typed(user: &User) -> Option<(PathBuf, bool)> {
    typed_on(user.path.as_deref())
}

/// What the user should know, whatever is asked.
fn notes(user: &User) -> Vec<String> {
    let mut notes = Vec::new();
    if user.shells.login_files().is_none() {
        notes.push(format!(
            "Your login shell is {}: its own start file has to put first on PATH\n  {}",
            Path::new(&user.shells.login).display(),
            user.folder.display()
        ));
    }
    for candidate in user.shells.candidates() {
        let Ok(file) = StartFile::read(&candidate.path) else {
            continue;
        };
        let lines = file
            .content()
            .unwrap_or_default()
            .split(|byte| *byte == b'\n');
        for (index, _) in lines
            .enumerate()
            .filter(|(_, line)| is_alias_past_path(line))
        {
            notes.push(format!(
                "{}, line {}: this alias goes past PATH, to the client itself",
                shown(&candidate.path, &user.home),
                index + 1
            ));
        }
        let text = file.content().unwrap_or_default();
        if candidate.path.ends_with(".zshenv")
            && std::env::var_os("ZDOTDIR").is_none()
            && memchr::memmem::find(text, b"ZDOTDIR").is_some()
        {
            notes.push(
                "~/.zshenv has ZDOTDIR, which is not set here: ask again from zsh".to_owned(),
            );
        }
    }
    notes
}

/// As older clients wrote it: `alias claude="/home/me/.claude/local/claude"`.
fn is_alias_past_path(line: &[u8]) -> bool {
    let value = line.trim_ascii_start().strip_prefix(b"alias claude");
    value.is_some_and(|value| {
        matches!(value.first(), Some(b'=' | b' '))
            && memchr::memmem::find(value, b"/claude").is_some()
    })
}

/// Would a new login shell start claude-safe?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Login {
    Yes,
    /// Something is read after the block that may change `PATH`.
    Perhaps,
    No,
    /// We don't know this shell.
    Unknown,
}

impl Login {
    fn of(user: &User) -> Login {
        let Some(files) = user.shells.login_files() else {
            return Login::Unknown;
        };
        let mut answer = Login::No;
        for path in files {
            let Ok(file) = StartFile::read(&path) else {
                continue;
            };
            let content = file.content().unwrap_or_default();
            let block = take(content).ok().and_then(|without| without.block);
            match block {
                Some(block) if is_claude_safe(&block.folder.join("claude")) => {
                    answer = if block.is_last {
                        Login::Yes
                    } else {
                        Login::Perhaps
                    };
                }
                _ if answer == Login::Yes && !content.trim_ascii().is_empty() => {
                    answer = Login::Perhaps;
                }
                _ => {}
            }
        }
        answer
    }

    fn word(self) -> &'static str {
        match self {
            Login::Yes => "yes",
            Login::Perhaps => "perhaps",
            Login::No => "no",
            Login::Unknown => "unknown",
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Login::Yes => "a new one starts claude-safe",
            Login::Perhaps => "a new one may not: lines behind the block may change PATH",
            Login::No => "a new one does not, by its start files",
            Login::Unknown => "its start files are not known to us",
        }
    }
}

/// How a start file is, in a word and a reason.
fn state_of(path: &Path) -> (&'static str, Option<String>) {
    let file = match StartFile::read(path) {
        Ok(file) => file,
        Err(reason) => return ("unreadable", Some(reason)),
    };
    let Some(content) = file.content() else {
        return ("missing", None);
    };
    match take(content).map(|without| without.block) {
        Err(damage) => ("damaged", Some(damage.to_string())),
        Ok(None) => ("no block", None),
        Ok(Some(block)) if !is_claude_safe(&block.folder.join("claude")) => {
            let folder = block.folder.display();
            ("idle", Some(format!("there is no claude-safe in {folder}")))
        }
        Ok(Some(block)) if !block.is_last => {
            let reason = "lines behind the block may change PATH: install moves it";
            ("not last", Some(reason.to_owned()))
        }
        Ok(Some(_)) => ("block", None),
    }
}

fn status(user: &User, in_json: bool) -> Answer {
    let typed = typed(user);
    let is_here = typed
        .as_ref()
        .is_some_and(|(_, is_claude_safe)| *is_claude_safe);
    let config = load(&Sources::of_this_process()).config;
    let client = find(&Search::of_this_process(config.client_bin)).ok();
    let login = Login::of(user);
    let is_in_order = is_claude_safe(&user.folder.join("claude"));
    let candidates = user.shells.candidates().into_iter();
    let files: Vec<_> = candidates
        .filter(|candidate| candidate.is_wanted)
        .map(|candidate| (state_of(&candidate.path), candidate.path))
        .collect();
    let notes = notes(user);
    let code = if is_here { exit::DONE } else { exit::TROUBLE };
    let path = |path: &Path| path.to_string_lossy().into_owned();
    if in_json {
        let files: Vec<Value> = files
            .iter()
            .map(
                |((state, reason), at)| json!({"path": path(at), "state": *state, "reason": reason.clone()}),
            )
            .collect();
        let whole = json!({
            "claude": typed.as_ref().map(|(claude, _)| path(claude)),
            "is_claude_safe": is_here,
            "client": client.map(|client| path(&client.path)),
            "folder": path(&user.folder),
            "folder_has_claude_safe": is_in_order,
            "login_shell": user.shells.login.to_string_lossy(),
            "new_login_shell": login.word(),
            "start_files": files,
            "notes": notes,
        });
        let text = json::text(&whole);
        return Answer { text, code };
    }
    let row = |name: &str, value: String| [name.to_owned(), value];
    let mut rows = Vec::new();
    let mut rows_of = |name: &str, value: String, meaning: &str| {
        rows.push(row(name, value));
        rows.push(row("", meaning.to_owned()));
    };
    let home = &user.home;
    rows_of(
        "claude",
        typed
            .as_ref()
            .map_or("not on PATH".to_owned(), |(claude, _)| shown(claude, home)),
        match (&typed, is_here) {
            (_, true) => "typing claude here starts claude-safe",
            (Some(_), false) => "typing claude here does not start claude-safe",
            (None, false) => "typing claude here starts nothing",
        },
    );
    let client = client.map_or("none found".to_owned(), |client| shown(&client.path, home));
    rows_of("client", client, "what claude-safe starts");
    let order = match is_in_order {
        true => "its claude is claude-safe",
        false => "there is no claude-safe in it",
    };
    rows_of("shim folder", shown(&user.folder, home), order);
    let shell = Path::new(&user.shells.login).display().to_string();
    rows_of("login shell", shell, login.in_words());
    let mut text = columns(&rows, 0);
    text.push_str("start files\n");
    for ((state, reason), path) in &files {
        text.push_str(&format!("  {state:<11}{}\n", shown(path, home)));
        if let Some(reason) = reason {
            text.push_str(&format!("{:13}{reason}\n", ""));
        }
    }
    for note in notes {
        text.push_str(&format!("{note}\n"));
    }
    if !is_here && login == Login::Yes {
        text.push_str("Open a new terminal: this one was there before the start files changed.\n");
    } else if !is_here {
        text.push_str("To make typing claude start claude-safe: claude-safectl shim install\n");
    }
    Answer { text, code }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_told_only_if_it_goes_past_the_path() {
        for (line, is_told) in [
            ("alias claude=\"/home/u/.claude/local/claude\"", true),
            ("  alias claude=~/.claude/local/claude", true),
            ("alias claude '/x/claude'", true),
            ("alias claude='claude --verbose'", false),
            ("alias claude-next=/x/claude", false),
            ("# alias claude=/x/claude", false),
            ("", false),
        ] {
            assert_eq!(is_alias_past_path(line.as_bytes()), is_told, "{line}");
        }
    }
}
