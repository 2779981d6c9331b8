//! Which file is the real client.
//!
//! Looks where the user says, then on `PATH`, then in the places where installers put it. Never
//! answers with claude-safe itself, nor with a shim that only leads back to it. Starts nothing.

use std::cell::LazyCell;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::kind::{Kind, examine, is_claude_safe};
use super::script;
use crate::config::vocabulary::SAFE_BIN;
use crate::os::files::{FileId, is_executable_file};
use crate::os::proc::parent_pid;

/// Everything that the search depends on.
#[derive(Clone, Debug)]
pub struct Search {
    /// `CLAUDE_SAFE_BIN`, as the configuration has it.
    pub configured: Option<OsString>,
    /// `PATH`.
    pub path: Option<OsString>,
    /// The user's home folder.
    pub home: Option<PathBuf>,
    /// `/proc`.
    pub proc_root: PathBuf,
    /// `/`, above the known places of the system.
    pub root: PathBuf,
    /// The process that started us; 0: none that matters.
    pub parent_pid: u32,
    /// Launchers that this very process went through already: see [`TRIED_VARIABLE`].
    pub tried: Vec<FileId>,
}

impl Search {
    /// For this process.
    pub fn of_this_process(configured: Option<OsString>) -> Search {
        let proc_root = PathBuf::from("/proc");
        let parent_pid = std::os::unix::process::parent_id();
        let tried = std::env::var_os(TRIED_VARIABLE)
            .map(|text| tried_before(&text, &proc_root, std::process::id(), parent_pid));
        Search {
            configured,
            path: std::env::var_os("PATH"),
            home: std::env::var_os("HOME")
                .map(PathBuf::from)
                .filter(|home| home.is_absolute()),
            proc_root,
            root: PathBuf::from("/"),
            parent_pid,
            tried: tried.unwrap_or_default(),
        }
    }
}

/// By this variable a plain exec (no supervisor) through a launcher leaves word to itself: if the
/// launcher leads back to us, it is the same process that comes along again, and no ancestor tells.
/// The value holds the process id, so that it means nothing to anybody else. Never set for a client
/// that is started directly.
pub const TRIED_VARIABLE: &str = "CLAUDE_SAFE_TRIED";

/// The launchers in a value of [`TRIED_VARIABLE`], if it was meant for this process.
pub fn tried_in(value: &OsStr, own_pid: u32) -> Vec<FileId> {
    let mut words = value.to_str().unwrap_or("").split(' ');
    if words.next() != Some(&own_pid.to_string()) {
        return Vec::new();
    }
    let file_id = |word: &str| {
        let (dev, ino) = word.split_once(':')?;
        Some(FileId {
            dev: dev.parse().ok()?,
            ino: ino.parse().ok()?,
        })
    };
    words.filter_map(file_id).collect()
}

/// The same for this process, or for its parent if that is the very launcher in question: a script
/// that does not exec us but calls us and waits.
fn tried_before(value: &OsStr, proc_root: &Path, own_pid: u32, parent_pid: u32) -> Vec<FileId> {
    let own = tried_in(value, own_pid);
    if !own.is_empty() {
        return own;
    }
    let parents = tried_in(value, parent_pid);
    if runs_a_candidate(&proc_root.join(parent_pid.to_string()), &|| parents.clone()) {
        parents
    } else {
        Vec::new()
    }
}

/// The value of [`TRIED_VARIABLE`] to set before an exec of `client` in this process. `None`: a
/// client that is started directly can't lead back.
pub fn tried_value(search: &Search, client: &Client, own_pid: u32) -> Option<OsString> {
    if !client.kind.is_launcher() {
        return None;
    }
    let mut text = own_pid.to_string();
    for id in search.tried.iter().copied().chain(FileId::of(&client.path)) {
        text.push_str(&format!(" {}:{}", id.dev, id.ino));
    }
    Some(OsString::from(text))
}

/// How the client was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `CLAUDE_SAFE_BIN` names it.
    Configured,
    /// The first on `PATH` that is not us.
    OnPath,
    /// In a place where installers put it.
    KnownPlace,
}

impl fmt::Display for How {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            How::Configured => SAFE_BIN.name,
            How::OnPath => "on PATH",
            How::KnownPlace => "in a known install place",
        })
    }
}

/// The client.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its file, from `/`.
    pub path: PathBuf,
    /// How it was found.
    pub how: How,
    /// What a shell would have given as `argv[0]`.
    pub argv0: OsString,
    /// What kind of program it is.
    pub kind: Kind,
    /// What is wrong, though a client was found: whole lines, each begins with `claude-safe: `.
    pub complaints: Vec<String>,
}

impl Client {
    /// Its `argv` with these words behind `argv[0]`.
    pub fn argv(&self, words: &[OsString]) -> Vec<OsString> {
        let name = std::iter::once(self.argv0.clone());
        name.chain(words.iter().cloned()).collect()
    }
}

/// No client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFound {
    /// Why, and where was looked: whole lines, each begins with `claude-safe: `.
    pub explanation: Vec<String>,
}

/// Finds the client.
pub fn find(search: &Search) -> Result<Client, NotFound> {
    let mut complaints = Vec::new();
    let mut first: Vec<(PathBuf, How)> = Vec::new();
    first.extend(configured(search, &mut complaints));
    let name = OsStr::new("claude");
    let on_path = script::programs_on_path(name, search.path.as_deref());
    first.extend(on_path.map(|path| (path, How::OnPath)));
    // Dozens of places, looked at only if they matter.
    let known: LazyCell<Vec<(PathBuf, How)>, _> = LazyCell::new(|| {
        let places = known_places(search).into_iter();
        let there = places.filter(|path| is_executable_file(path));
        there.map(|path| (path, How::KnownPlace)).collect()
    });
    let all_ids = || {
        let all = first.iter().chain(known.iter());
        all.filter_map(|(path, _)| FileId::of(path)).collect()
    };

    let mut loops = loops_behind_us(search, &all_ids);
    // One file under many names is one candidate.
    let mut seen: Vec<FileId> = Vec::new();
    let candidates = first
        .iter()
        .chain(std::iter::once_with(|| known.iter()).flatten());
    for (path, how) in candidates.cloned() {
        match FileId::of(&path) {
            Some(id) if !seen.contains(&id) => seen.push(id),
            _ => continue,
        }
        if is_claude_safe(&path) {
            if how == How::Configured {
                complaints.push(format!(
                    "claude-safe: {}: {} is claude-safe itself, looking on PATH instead",
                    SAFE_BIN.name,
                    path.display()
                ));
            }
            continue;
        }
        let kind = examine(&path, search.path.as_deref());
        if kind.chain.iter().any(|file| is_claude_safe(file)) {
            // A shim that shows where it goes: no news on PATH, that is how it is installed.
            if how == How::Configured {
                complaints.push(loop_line(&path));
            }
            continue;
        }
        let may_lead_back = may_lead_back(&kind);
        let was_tried = FileId::of(&path).is_some_and(|id| search.tried.contains(&id));
        if was_tried || (loops > 0 && may_lead_back) {
            loops = loops.saturating_sub(1);
            complaints.push(loop_line(&path));
            continue;
        }
        let path = std::path::absolute(&path).unwrap_or(path);
        let argv0 = match how {
            How::OnPath => OsString::from("claude"),
            _ => path.clone().into_os_string(),
        };
        return Ok(Client {
            path,
            how,
            argv0,
            kind,
            complaints,
        });
    }
    let mut explanation = complaints;
    explanation.push(
        "claude-safe: no claude found: neither on PATH nor in the known install places \
         (~/.local/bin, ~/.claude/local, npm, nvm, volta, bun, nix, /usr/local/bin, /usr/bin)"
            .to_owned(),
    );
    explanation.push(format!(
        "claude-safe: install Claude Code, or set {}=/path/to/claude",
        SAFE_BIN.name
    ));
    Err(NotFound { explanation })
}

/// What typing `name` starts with this `PATH`.
pub fn first_on_path(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    script::programs_on_path(OsStr::new(name), path).next()
}

/// Is it claude-safe, or a script that shows that it only starts claude-safe?
pub fn starts_claude_safe(program: &Path, path: Option<&OsStr>) -> bool {
    let chain = || examine(program, path).chain;
    is_claude_safe(program) || chain().iter().any(|file| is_claude_safe(file))
}

fn loop_line(path: &Path) -> String {
    format!(
        "claude-safe: {} only starts claude-safe again, it is skipped",
        path.display()
    )
}

fn configured(search: &Search, complaints: &mut Vec<String>) -> Option<(PathBuf, How)> {
    let said = search.configured.as_deref()?;
    let found = if said.as_bytes().contains(&b'/') {
        Some(PathBuf::from(said)).filter(|path| is_executable_file(path))
    } else {
        script::programs_on_path(said, search.path.as_deref()).find(|path| !is_claude_safe(path))
    };
    if found.is_none() {
        let shown = said.to_string_lossy();
        let reason = if !said.as_bytes().contains(&b'/') {
            "is not on PATH"
        } else if Path::new(said).exists() {
            "is no executable file"
        } else {
            "does not exist"
        };
        complaints.push(format!(
            "claude-safe: {}: {shown} {reason}, looking on PATH instead",
            SAFE_BIN.name
        ));
    }
    found.map(|path| (path, How::Configured))
}

/// Could a start of it end in claude-safe again, for all that can be seen? Not a JavaScript client,
/// and no native one: those have 90 MB and more, which no wrapper has.
fn may_lead_back(kind: &Kind) -> bool {
    const LARGEST_WRAPPER_BYTES: u64 = 1 << 20;
    match &kind.final_program {
        None => true,
        Some(program) if kind.text.as_ref() != Some(program) => false,
        Some(program) => {
            std::fs::metadata(program).is_ok_and(|metadata| metadata.len() < LARGEST_WRAPPER_BYTES)
        }
    }
}

/// Where installers put the client, the likeliest first.
fn known_places(search: &Search) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(home) = &search.home {
        let below_home = |name: &str| home.join(name);
        places.extend(
            [
                // The native installer.
                ".local/bin/claude",
                // The local installation of 1.x.
                ".claude/local/claude",
                ".claude/local/node_modules/.bin/claude",
                ".npm-global/bin/claude",
            ]
            .map(below_home),
        );
        places.extend(of_node_versions(&home.join(".nvm/versions/node")));
        places.extend(
            [
                ".volta/bin/claude",
                ".bun/bin/claude",
                ".nix-profile/bin/claude",
            ]
            .map(below_home),
        );
    }
    places.extend(
        [
            "usr/local/bin/claude",
            "usr/bin/claude",
            "run/current-system/sw/bin/claude",
            "opt/homebrew/bin/claude",
            "home/linuxbrew/.linuxbrew/bin/claude",
        ]
        .map(|name| search.root.join(name)),
    );
    places
}

/// `VERSION/bin/claude` for each version of node that nvm holds, the newest first.
fn of_node_versions(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    let mut versions: Vec<(Vec<u64>, OsString)> = entries
        .flatten()
        .map(|entry| {
            let name = entry.file_name();
            let text = name.to_string_lossy();
            let parts = text
                .trim_start_matches('v')
                .split('.')
                .map(number)
                .collect();
            (parts, name)
        })
        .collect();
    versions.sort_unstable();
    let program = |(_, name): (Vec<u64>, OsString)| folder.join(name).join("bin/claude");
    versions.into_iter().rev().map(program).collect()
}

/// The most ancestors that are looked at.
const MAX_ANCESTORS: usize = 64;

/// How often a client that one of us started turned out to be claude-safe again: our parent is
/// claude-safe (it started us as its client), or a script among the candidates whose parent is.
///
/// A claude-safe that a *tool* of a client runs is no loop: the client stands in between, and it is
/// neither claude-safe nor a shell that runs a candidate.
fn loops_behind_us(search: &Search, candidates: &dyn Fn() -> Vec<FileId>) -> usize {
    let mut loops = 0;
    let mut pid = search.parent_pid;
    for _ in 0..MAX_ANCESTORS {
        if pid <= 1 {
            break;
        }
        let process = search.proc_root.join(pid.to_string());
        if is_claude_safe(&process.join("exe")) {
            loops += 1;
        } else if !runs_a_candidate(&process, candidates) {
            break;
        }
        match parent_pid(&process).and_then(|parent| u32::try_from(parent).ok()) {
            Some(parent) if parent != pid => pid = parent,
            _ => break,
        }
    }
    loops
}

/// Is it an interpreter with one of the candidates as its script? Not a JavaScript runtime: that is
/// the client itself, and what it starts is its business.
fn runs_a_candidate(process: &Path, candidates: &dyn Fn() -> Vec<FileId>) -> bool {
    let Ok(command_line) = std::fs::read(process.join("cmdline")) else {
        return false;
    };
    let words: Vec<&OsStr> = command_line
        .split(|byte| *byte == 0)
        .map(OsStr::from_bytes)
        .collect();
    let runtime = std::fs::read_link(process.join("exe")).unwrap_or_default();
    if script::is_javascript_runtime(runtime.file_name().unwrap_or_default()) {
        return false;
    }
    // INTERPRETER [ARGUMENT] SCRIPT …, as the kernel builds it.
    let cwd = process.join("cwd");
    words
        .iter()
        .skip(1)
        .take(2)
        .filter(|word| !word.is_empty())
        .filter_map(|word| FileId::of(&cwd.join(word)))
        .any(|id| candidates().contains(&id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;
    use std::os::unix::fs::symlink;

    /// A private world: nothing of this machine is looked at.
    struct World {
        scratch: Scratch,
        search: Search,
    }

    impl World {
        fn new() -> World {
            let scratch = Scratch::new();
            let below = |name: &str| scratch.path().join(name);
            let search = Search {
                configured: None,
                path: Some(OsString::from(format!(
                    "{}:{}",
                    below("p1").display(),
                    below("p2").display()
                ))),
                home: Some(below("home")),
                proc_root: below("proc"),
                root: below("root"),
                parent_pid: 0,
                tried: Vec::new(),
            };
            World { scratch, search }
        }

        fn script(&self, name: &str) -> PathBuf {
            // Does not show where it goes.
            self.scratch
                .write_program(name, format!("#!/bin/sh\n: {name}\nsomething \"$@\"\n"))
        }

        /// A copy of this test's program, which carries our mark.
        fn copy_of_us(&self, name: &str) -> PathBuf {
            let path = self.scratch.write_program(name, "");
            std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
            path
        }

        fn link(&self, name: &str, target: &Path) -> PathBuf {
            let path = self.scratch.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(target, &path).unwrap();
            path
        }

        fn process(&self, pid: u32, parent: u32, exe: &Path, words: &[&str]) {
            self.link(&format!("proc/{pid}/exe"), exe);
            self.link(&format!("proc/{pid}/cwd"), Path::new("/"));
            self.scratch.write(
                &format!("proc/{pid}/stat"),
                format!("{pid} (a) R 1 (b) S {parent} 1 1\n"),
            );
            self.scratch
                .write(&format!("proc/{pid}/cmdline"), words.join("\0") + "\0");
        }

        fn found(&self) -> PathBuf {
            find(&self.search).unwrap().path
        }

        fn complaints(&self) -> Vec<String> {
            match find(&self.search) {
                Ok(client) => client.complaints,
                Err(none) => none.explanation,
            }
        }
    }

    #[test]
    fn the_first_on_path_that_is_not_us_is_the_client() {
        let world = World::new();
        let ours = world.copy_of_us("app/claude-safe");
        world.link("p1/claude", &ours);
        let real = world.script("p2/claude");
        let client = find(&world.search).unwrap();
        assert_eq!(client.path, real);
        assert_eq!(client.how, How::OnPath);
        assert_eq!(client.argv0, "claude");
        assert_eq!(client.complaints, Vec::<String>::new());
    }

    #[test]
    fn links_hard_links_and_copies_of_us_are_all_us() {
        let world = World::new();
        world.copy_of_us("p1/claude");
        let own = std::env::current_exe().unwrap();
        world.link("p2/claude", &own);
        assert!(find(&world.search).is_err());
        let hard = world.scratch.path().join("home/.local/bin/claude");
        std::fs::create_dir_all(hard.parent().unwrap()).unwrap();
        std::fs::hard_link(world.scratch.path().join("p1/claude"), hard).unwrap();
        assert!(find(&world.search).is_err());
    }

    #[test]
    fn however_many_shim_folders_there_are_and_however_often_the_client_is_behind_them() {
        let mut world = World::new();
        let ours = world.copy_of_us("usr/bin/claude-safe");
        world.link("packaged/claude", Path::new("../usr/bin/claude-safe"));
        world.link("own/claude", &ours);
        world.link("stale/claude", Path::new("/no/longer/claude-safe"));
        world.copy_of_us("copy/claude");
        world.link("chain/claude", &world.scratch.path().join("own/claude"));
        let real = world.script("p2/claude");
        let shims = ["own", "packaged", "stale", "own", "copy", "chain", "chain"];
        for first in shims {
            let names = [&[first][..], &shims, &["p2"], &shims].concat();
            let folders = names.iter().map(|name| world.scratch.path().join(name));
            world.search.path = Some(std::env::join_paths(folders).unwrap());
            assert_eq!(world.found(), real, "{first}");
            assert_eq!(world.complaints(), Vec::<String>::new(), "{first}");
            let typed = first_on_path("claude", world.search.path.as_deref()).unwrap();
            assert!(starts_claude_safe(&typed, world.search.path.as_deref()));
        }
        assert!(!starts_claude_safe(&real, world.search.path.as_deref()));
    }

    #[test]
    fn a_shim_that_shows_that_it_leads_to_us_is_passed_over() {
        let world = World::new();
        let ours = world.copy_of_us("app/claude-safe");
        let shim = format!("#!/bin/sh\nexec {} \"$@\"\n", ours.display());
        world.scratch.write_program("p1/claude", shim);
        let real = world.script("p2/claude");
        assert_eq!(world.found(), real);
        assert_eq!(world.complaints(), Vec::<String>::new());
    }

    #[test]
    fn what_the_user_names_counts_most_and_may_be_a_name() {
        let mut world = World::new();
        world.script("p1/claude");
        let named = world.script("p2/claude-next");
        world.search.configured = Some(named.clone().into_os_string());
        let client = find(&world.search).unwrap();
        assert_eq!(
            (client.path.as_path(), client.how),
            (named.as_path(), How::Configured)
        );
        assert_eq!(client.argv0, named);
        world.search.configured = Some(OsString::from("claude-next"));
        assert_eq!(world.found(), named);
    }

    #[test]
    fn a_name_that_is_of_no_use_costs_one_line_and_the_search_goes_on() {
        let mut world = World::new();
        let real = world.script("p1/claude");
        let plain = world.scratch.write("plain", "text");
        let ours = world.copy_of_us("app/claude-safe");
        for (said, says) in [
            (OsString::from("/no/such"), "/no/such does not exist"),
            (plain.into_os_string(), "is no executable file"),
            (OsString::from("no-such-name"), "is not on PATH"),
            (ours.into_os_string(), "is claude-safe itself"),
        ] {
            world.search.configured = Some(said);
            assert_eq!(world.found(), real);
            let complaints = world.complaints();
            assert_eq!(complaints.len(), 1);
            assert!(complaints[0].starts_with("claude-safe: CLAUDE_SAFE_BIN: "));
            assert!(complaints[0].contains(says), "{complaints:?}");
        }
    }

    #[test]
    fn known_places_come_last_and_the_newest_node_first() {
        let world = World::new();
        assert!(
            world
                .complaints()
                .iter()
                .any(|line| line.contains("no claude found"))
        );
        for (place, next) in [
            ("root/usr/bin/claude", "root/usr/local/bin/claude"),
            (
                "home/.nvm/versions/node/v9.11.2/bin/claude",
                "home/.nvm/versions/node/v20.1.0/bin/claude",
            ),
            ("home/.claude/local/claude", "home/.local/bin/claude"),
        ] {
            for name in [place, next] {
                let path = world.script(name);
                let client = find(&world.search).unwrap();
                assert_eq!((client.path, client.how), (path, How::KnownPlace));
            }
        }
        let on_path = world.script("p2/claude");
        assert_eq!(world.found(), on_path);
    }

    #[test]
    fn a_client_of_which_we_are_the_child_is_skipped_with_a_line() {
        let mut world = World::new();
        let shim = world.script("p1/claude");
        let real = world.script("p2/claude");
        assert_eq!(world.found(), shim);
        // Shell in the same process: our parent is the supervisor.
        world.process(50, 1, &std::env::current_exe().unwrap(), &["claude-safe"]);
        world.search.parent_pid = 50;
        assert_eq!(world.found(), real);
        assert_eq!(
            world.complaints(),
            [format!(
                "claude-safe: {} only starts claude-safe again, it is skipped",
                shim.display()
            )]
        );
        // The shell waits for us: it stands in between.
        world.process(
            51,
            50,
            Path::new("/bin/sh"),
            &["/bin/sh", shim.to_str().unwrap(), "-p"],
        );
        world.search.parent_pid = 51;
        assert_eq!(world.found(), real);
    }

    #[test]
    fn two_shims_that_lead_back_are_both_skipped() {
        let mut world = World::new();
        world.script("p1/claude");
        world.script("p2/claude");
        let ours = std::env::current_exe().unwrap();
        world.process(50, 1, &ours, &["claude-safe"]);
        world.process(51, 50, &ours, &["claude-safe"]);
        world.search.parent_pid = 51;
        let NotFound { explanation } = find(&world.search).unwrap_err();
        assert_eq!(explanation.len(), 4, "{explanation:?}");
    }

    #[test]
    fn a_tool_of_a_client_may_run_us_again() {
        let mut world = World::new();
        let script = world.script("p1/claude");
        let ours = std::env::current_exe().unwrap();
        world.process(50, 1, &ours, &["claude-safe"]);
        // The client, a shell of its tool, us.
        world.process(51, 50, Path::new("/bin/cat"), &["claude"]);
        world.process(
            52,
            51,
            Path::new("/bin/sh"),
            &["/bin/sh", "-c", "claude -p x"],
        );
        world.search.parent_pid = 52;
        assert_eq!(world.found(), script);
        // An MCP server of a client that is a script of node.
        let node = world.link("bin/node", Path::new("/bin/cat"));
        let node_itself = world.scratch.path().join("node");
        std::fs::copy("/bin/cat", &node_itself).unwrap();
        world.process(
            60,
            50,
            &node_itself,
            &[node.to_str().unwrap(), script.to_str().unwrap()],
        );
        world.search.parent_pid = 60;
        assert_eq!(world.found(), script);
    }

    #[test]
    fn a_launcher_that_this_very_process_went_through_is_skipped() {
        let mut world = World::new();
        let shim = world.script("p1/claude");
        let real = world.script("p2/claude");
        let first = find(&world.search).unwrap();
        let value = tried_value(&world.search, &first, 77).unwrap();
        assert_eq!(tried_in(&value, 78), []);
        world.search.tried = tried_in(&value, 77);
        assert_eq!(world.search.tried, [FileId::of(&shim).unwrap()]);
        let second = find(&world.search).unwrap();
        assert_eq!(second.path, real);
        let value = tried_value(&world.search, &second, 77).unwrap();
        assert_eq!(tried_in(&value, 77).len(), 2);
        for junk in ["", "77", "77 x 1:2:3 a:b", "x 1:2"] {
            assert_eq!(tried_in(OsStr::new(junk), 77), []);
        }
    }

    #[test]
    fn a_folder_of_path_that_is_empty_is_the_current_one_and_the_answer_is_absolute() {
        let mut world = World::new();
        let here = std::env::current_dir().unwrap();
        let up = "../".repeat(here.components().count());
        let real = world.script("p3/claude");
        let relative = format!(
            "{up}{}",
            world
                .scratch
                .path()
                .join("p3")
                .strip_prefix("/")
                .unwrap()
                .display()
        );
        world.search.path = Some(OsString::from(format!(":{relative}")));
        let found = world.found();
        assert!(found.is_absolute());
        assert_eq!(FileId::of(&found), FileId::of(&real));
    }
}
