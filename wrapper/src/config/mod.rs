//! The vocabulary of variables: where each value comes from, and what is wrong with it.
//!
//! Environment > user file > system file > default. Never stops anybody: a value that can't be used
//! costs one line of complaint, and the next lower source is asked in its place.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::os::files::{Distrust, Trust, trusted_open};

pub mod file;
pub mod memory;
pub mod vocabulary;

use memory::Memory;
use vocabulary::{Kind, Variable, shown};

/// The system file.
pub const SYSTEM_FILE: &str = "/etc/claude-safe.conf";

/// The longest file that is read, bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// The most complaints about the lines of one file; the rest is counted.
const MAX_LINE_COMPLAINTS: usize = 10;

const MIB: u64 = 1 << 20;

/// Everything that comes from outside.
pub struct Sources<'a> {
    /// The environment.
    pub environment: &'a dyn Fn(&str) -> Option<OsString>,
    /// The user's file; it need not exist.
    pub user_file: Option<PathBuf>,
    /// The system's file; it need not exist.
    pub system_file: Option<PathBuf>,
    /// The memory from which the default thresholds are made; `None`: unknown.
    pub memory: Option<Memory>,
    /// Whose files are acted on.
    pub trust: Trust,
}

impl Sources<'_> {
    /// This process, on this machine.
    pub fn of_this_process() -> Sources<'static> {
        let environment: &'static dyn Fn(&str) -> Option<OsString> = &|name| std::env::var_os(name);
        Sources {
            environment,
            user_file: user_file(environment),
            system_file: Some(PathBuf::from(SYSTEM_FILE)),
            memory: memory::measure(Path::new("/proc")),
            trust: Trust::of_this_process(),
        }
    }
}

/// `$XDG_CONFIG_HOME/claude-safe/claude-safe.conf`, or the same below `~/.config`. A relative
/// `XDG_CONFIG_HOME` is ignored, as its specification demands.
pub fn user_file(environment: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    Some(own_folder(environment, "XDG_CONFIG_HOME", ".config")?.join("claude-safe.conf"))
}

/// Our folder below a base folder of the XDG specification: the one that `variable` names, else
/// `below_home` in the user's home. Relative paths are ignored.
pub fn own_folder(
    environment: &dyn Fn(&str) -> Option<OsString>,
    variable: &str,
    below_home: &str,
) -> Option<PathBuf> {
    let base = absolute_folder(environment, variable)
        .or_else(|| absolute_folder(environment, "HOME").map(|home| home.join(below_home)))?;
    Some(base.join("claude-safe"))
}

/// The folder that a variable names, if it is named from `/`.
pub fn absolute_folder(
    environment: &dyn Fn(&str) -> Option<OsString>,
    variable: &str,
) -> Option<PathBuf> {
    environment(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

/// Where the guard library is to be looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardLib {
    /// In the usual places.
    UsualPlaces,
    /// Nowhere: no guard is wanted.
    NoGuard,
    /// Here.
    At(PathBuf),
}

/// Which request sizes the guard watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardSizes {
    /// It finds out itself.
    Auto,
    /// These.
    List(Vec<GuardSize>),
}

/// A request size that names a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardSize {
    /// In bytes.
    pub bytes: u32,
    /// `/8` behind it: the pool packs the class at multiples of 8, where malloc promises 16.
    pub is_packed: bool,
}

impl GuardSize {
    /// The size, not packed.
    pub const fn of(bytes: u32) -> Self {
        Self {
            bytes,
            is_packed: false,
        }
    }

    fn text(&self) -> String {
        let packed = if self.is_packed { "/8" } else { "" };
        format!("{}{packed}", self.bytes)
    }
}

impl GuardSizes {
    /// As the variable has it.
    pub fn text(&self) -> String {
        match self {
            GuardSizes::Auto => "auto".to_owned(),
            GuardSizes::List(sizes) => sizes
                .iter()
                .map(GuardSize::text)
                .collect::<Vec<_>>()
                .join(","),
        }
    }
}

/// What tier 1 may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reclaim {
    /// Whatever works here.
    Auto,
    /// Nothing.
    Off,
    /// Only these words of [`vocabulary::MECHANISMS`].
    Only(Vec<&'static str>),
}

/// Every value, typed, after all sources were asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `CLAUDE_MALLOC_GUARD_LIB`
    pub guard_lib: GuardLib,
    /// `CLAUDE_MALLOC_GUARD_THRESHOLD_MB`; 0: at once.
    pub guard_threshold_mib: u64,
    /// `CLAUDE_MALLOC_GUARD_SIZES`
    pub guard_sizes: GuardSizes,
    /// `CLAUDE_MALLOC_GUARD_LOG`
    pub guard_log: PathBuf,
    /// `CLAUDE_WATCHDOG_THRESHOLD_MB`, at least 1.
    pub watchdog_threshold_mib: u64,
    /// `CLAUDE_WATCHDOG_INTERVAL`, 1 to 86400.
    pub watchdog_interval_s: u32,
    /// `CLAUDE_SAFE_BIN`
    pub client_bin: Option<OsString>,
    /// `CLAUDE_SAFE_RECLAIM`
    pub reclaim: Reclaim,
    /// `CLAUDE_SAFE_CONTAIN` is not `off`.
    pub contain: bool,
    /// `CLAUDE_SAFE_FLEET_MAX_MB`; 0: no wall.
    pub fleet_max_mib: u64,
    /// `CLAUDE_SAFE_CONTINUE` is not `never`.
    pub continue_turn: bool,
    /// `CLAUDE_SAFE_SWEEP`
    pub sweep: bool,
    /// `CLAUDE_SAFE_OUTPUT_WARN_MB`; 0: never.
    pub output_warn_mib: u64,
    /// `CLAUDE_SAFE_OUTPUT_MAX_MB`; 0: never.
    pub output_max_mib: u64,
    /// `CLAUDE_SAFE_PTY_WARN`
    pub pty_warn: u32,
    /// `CLAUDE_SAFE_DISABLE`
    pub disable: bool,
}

impl Config {
    /// From which memory on the guard's pool serves, MiB. `None`: never, `CLAUDE_SAFE_RECLAIM` does not have it.
    pub fn pool_threshold_mib(&self) -> Option<u64> {
        self.reclaims_by("pool").then_some(self.guard_threshold_mib)
    }

    /// Is a mechanism of [`vocabulary::MECHANISMS`] wanted by `CLAUDE_SAFE_RECLAIM`?
    pub fn reclaims_by(&self, mechanism: &str) -> bool {
        match &self.reclaim {
            Reclaim::Auto => true,
            Reclaim::Off => false,
            Reclaim::Only(words) => words.contains(&mechanism),
        }
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The environment.
    Environment,
    /// A line of a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Environment => write!(out, "environment"),
            Origin::File { path, line } => write!(out, "{}:{line}", path.display()),
            Origin::Default => write!(out, "default"),
        }
    }
}

/// One variable as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Which one.
    pub name: &'static str,
    /// Its value in words; for a default that is a search, what is searched.
    pub value: String,
    /// Who set it.
    pub origin: Origin,
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// The same for people, in the order of [`vocabulary::ALL`].
    pub settings: Vec<Setting>,
    /// What is wrong: whole lines, each begins with `claude-safe: `.
    pub complaints: Vec<String>,
}

/// The defaults of both thresholds, MiB: tier 1 and tier 2.
///
/// 30720 and 61440, or 25 % and 50 % of the memory if that is less. On a machine (or in a
/// container) under 2 GiB, half of the memory would be less than a healthy client takes, and every
/// session would be restarted: there tier 2 begins at 1024 MiB, or at 80 % if that is less.
pub fn default_thresholds_mib(memory: Option<&Memory>) -> (u64, u64) {
    const TIER_1_MIB: u64 = 30720;
    const TIER_2_MIB: u64 = 61440;
    const HEALTHY_CLIENT_MIB: u64 = 1024;
    let Some(memory) = memory else {
        return (TIER_1_MIB, TIER_2_MIB);
    };
    let all_mib = memory.bytes / MIB;
    let least_mib = HEALTHY_CLIENT_MIB.min(all_mib / 5 * 4);
    let tier_1_mib = TIER_1_MIB.min(all_mib / 4);
    let tier_2_mib = TIER_2_MIB.min(all_mib / 2).max(least_mib).max(1);
    (tier_1_mib, tier_2_mib)
}

/// Reads all sources. Never fails.
pub fn load(sources: &Sources<'_>) -> Loaded {
    let mut resolver = Resolver {
        sources,
        files: Vec::new(),
        settings: Vec::new(),
        complaints: Vec::new(),
    };
    // The higher file first.
    for path in [&sources.user_file, &sources.system_file]
        .into_iter()
        .flatten()
    {
        resolver.read_file(path);
    }
    let config = resolver.config();
    Loaded {
        config,
        settings: resolver.settings,
        complaints: resolver.complaints,
    }
}

struct ReadFile {
    path: PathBuf,
    assignments: Vec<file::Assignment>,
}

struct Resolver<'a> {
    sources: &'a Sources<'a>,
    files: Vec<ReadFile>,
    settings: Vec<Setting>,
    complaints: Vec<String>,
}

/// A value before it is judged, and who set it.
struct Candidate {
    text: OsString,
    origin: Origin,
}

impl Resolver<'_> {
    fn complain(&mut self, what: fmt::Arguments<'_>) {
        self.complaints.push(format!("claude-safe: {what}"));
    }

    fn read_file(&mut self, path: &Path) {
        let shown_path = path.display();
        let opened = match trusted_open(path, &self.sources.trust) {
            Ok(opened) => opened,
            Err(Distrust::Missing) => return,
            Err(reason) => {
                return self.complain(format_args!("{shown_path} is not used: {reason}"));
            }
        };
        let mut bytes = Vec::new();
        match opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes) {
            Ok(_) if bytes.len() as u64 > MAX_FILE_BYTES => {
                return self.complain(format_args!(
                    "{shown_path} is not used: it is longer than {MAX_FILE_BYTES} bytes"
                ));
            }
            Ok(_) => {}
            Err(error) => {
                return self.complain(format_args!("{shown_path} is not used: {error}"));
            }
        }
        let parsed = file::parse(&bytes);
        let mut about_lines: Vec<(usize, String)> = parsed
            .flaws
            .iter()
            .map(|flaw| (flaw.line, flaw.what.to_owned()))
            .collect();
        for assignment in &parsed.assignments {
            if vocabulary::find(&assignment.key).is_none() {
                let key: String = assignment.key.chars().take(80).collect();
                let hint = match vocabulary::nearest(&assignment.key) {
                    Some(meant) => format!("did you mean {meant}?"),
                    None => "it is ignored".to_owned(),
                };
                let what = format!("{key} is not a variable of claude-safe; {hint}");
                about_lines.push((assignment.line, what));
            }
        }
        about_lines.sort_by_key(|(line, _)| *line);
        for (line, what) in about_lines.iter().take(MAX_LINE_COMPLAINTS) {
            self.complain(format_args!("{shown_path}:{line}: {what}"));
        }
        if about_lines.len() > MAX_LINE_COMPLAINTS {
            let more = about_lines.len() - MAX_LINE_COMPLAINTS;
            self.complain(format_args!("{shown_path}: {more} more lines like these"));
        }
        self.files.push(ReadFile {
            path: path.to_path_buf(),
            assignments: parsed.assignments,
        });
    }

    /// What the sources say about a variable, the one that counts most first.
    fn candidates(&self, variable: &Variable) -> Vec<Candidate> {
        let from_environment = (self.sources.environment)(variable.name).map(|text| Candidate {
            text,
            origin: Origin::Environment,
        });
        let from_files = self.files.iter().filter_map(|file| {
            // The last one in a file holds, as in systemd.
            let said = file
                .assignments
                .iter()
                .rev()
                .find(|a| a.key == variable.name)?;
            Some(Candidate {
                text: OsString::from_vec(said.value.clone()),
                origin: Origin::File {
                    path: file.path.clone(),
                    line: said.line,
                },
            })
        });
        // An empty value is as good as none, except where it says something.
        let empty_counts = variable.kind == Kind::PathOrNone;
        from_environment
            .into_iter()
            .chain(from_files)
            .filter(|candidate| empty_counts || !candidate.text.is_empty())
            .collect()
    }

    /// The first good value, or the default; one complaint for each bad one above it.
    fn resolve<T>(
        &mut self,
        variable: &'static Variable,
        understand: impl Fn(&OsStr) -> Option<T>,
        default: T,
        describe: impl Fn(&T) -> String,
    ) -> (T, Origin) {
        let mut value = None;
        let (refused, origin) = self.first_good(variable, &mut |text| {
            value = understand(text);
            value.is_some()
        });
        let value = value.unwrap_or(default);
        self.settle(variable, refused, &origin, describe(&value));
        (value, origin)
    }

    /// The candidates above the first good one, and where that came from.
    fn first_good(
        &self,
        variable: &'static Variable,
        is_good: &mut dyn FnMut(&OsStr) -> bool,
    ) -> (Vec<Candidate>, Origin) {
        let mut refused = Vec::new();
        for candidate in self.candidates(variable) {
            if is_good(&candidate.text) {
                return (refused, candidate.origin);
            }
            refused.push(candidate);
        }
        (refused, Origin::Default)
    }

    /// Enters what is in force, after the complaints about what isn't.
    fn settle(
        &mut self,
        variable: &'static Variable,
        refused: Vec<Candidate>,
        origin: &Origin,
        in_force: String,
    ) {
        for candidate in refused {
            let (name, text) = (variable.name, shown(&candidate.text));
            let expectation = variable.kind.expectation();
            let instead = match origin {
                Origin::Default => in_force.clone(),
                other => format!("{in_force} ({other})"),
            };
            let place = match &candidate.origin {
                Origin::Environment => format!("{name}={text} in the environment"),
                other => format!("{other}: {name}={text}"),
            };
            self.complain(format_args!(
                "{place} is not {expectation}; using {instead}"
            ));
        }
        self.settings.push(Setting {
            name: variable.name,
            value: in_force,
            origin: origin.clone(),
        });
    }

    fn number(&mut self, variable: &'static Variable, default: u64) -> (u64, Origin) {
        let Kind::Number { min, max, .. } = variable.kind else {
            unreachable!("the vocabulary says that {} is a number", variable.name);
        };
        let understand = |text: &OsStr| number_within(text, min, max);
        self.resolve(variable, understand, default, u64::to_string)
    }

    fn switch(&mut self, variable: &'static Variable, default: bool) -> bool {
        let describe = |on: &bool| if *on { "on" } else { "off" }.to_owned();
        self.resolve(variable, switch_of, default, describe).0
    }

    /// A variable of two words: is it the first one?
    fn first_word(&mut self, variable: &'static Variable) -> bool {
        let Kind::Word(words) = variable.kind else {
            unreachable!("the vocabulary says that {} is a word", variable.name);
        };
        let understand = |text: &OsStr| {
            let text = trimmed(text)?;
            words
                .iter()
                .position(|word| word.eq_ignore_ascii_case(text))
        };
        let describe = |index: &usize| words[*index].to_owned();
        self.resolve(variable, understand, 0, describe).0 == 0
    }

    fn config(&mut self) -> Config {
        let defaults = default_thresholds_mib(self.sources.memory.as_ref());
        // Tier 2 first, because the default of tier 1 gives way to it; shown in the table's order.
        let (watchdog_threshold_mib, tier_2_from) =
            self.number(&vocabulary::WATCHDOG_THRESHOLD_MB, defaults.1);
        let tier_1_default = match tier_2_from {
            Origin::Default => defaults.0,
            _ => defaults.0.min(watchdog_threshold_mib / 2),
        };
        let (guard_threshold_mib, tier_1_from) =
            self.number(&vocabulary::GUARD_THRESHOLD_MB, tier_1_default);
        if guard_threshold_mib > watchdog_threshold_mib && tier_1_from != Origin::Default {
            // Not repaired: we can't know which of the two was meant, and both are safe.
            self.complain(format_args!(
                "{}={guard_threshold_mib} ({tier_1_from}) is above \
                 {}={watchdog_threshold_mib} ({tier_2_from}): the client is restarted before \
                 memory is given back",
                vocabulary::GUARD_THRESHOLD_MB.name,
                vocabulary::WATCHDOG_THRESHOLD_MB.name,
            ));
        }
        let config = Config {
            guard_threshold_mib,
            watchdog_threshold_mib,
            guard_lib: self
                .resolve(
                    &vocabulary::GUARD_LIB,
                    guard_lib_of,
                    GuardLib::UsualPlaces,
                    |lib| match lib {
                        GuardLib::UsualPlaces => vocabulary::GUARD_LIB.default.to_owned(),
                        GuardLib::NoGuard => String::new(),
                        GuardLib::At(path) => path.display().to_string(),
                    },
                )
                .0,
            guard_sizes: self
                .resolve(
                    &vocabulary::GUARD_SIZES,
                    sizes_of,
                    GuardSizes::List(vec![GuardSize::of(160)]),
                    GuardSizes::text,
                )
                .0,
            guard_log: self
                .resolve(
                    &vocabulary::GUARD_LOG,
                    absolute_path,
                    self.default_log(),
                    |path| path.display().to_string(),
                )
                .0,
            watchdog_interval_s: self.number(&vocabulary::WATCHDOG_INTERVAL, 30).0 as u32,
            client_bin: self
                .resolve(
                    &vocabulary::SAFE_BIN,
                    |text| program_of(text).map(Some),
                    None,
                    |bin| match bin {
                        Some(bin) => bin.to_string_lossy().into_owned(),
                        None => vocabulary::SAFE_BIN.default.to_owned(),
                    },
                )
                .0,
            reclaim: self
                .resolve(
                    &vocabulary::SAFE_RECLAIM,
                    reclaim_of,
                    Reclaim::Auto,
                    |reclaim| match reclaim {
                        Reclaim::Auto => "auto".to_owned(),
                        Reclaim::Off => "off".to_owned(),
                        Reclaim::Only(words) => words.join(","),
                    },
                )
                .0,
            contain: self.first_word(&vocabulary::SAFE_CONTAIN),
            fleet_max_mib: self.number(&vocabulary::SAFE_FLEET_MAX_MB, 0).0,
            continue_turn: self.first_word(&vocabulary::SAFE_CONTINUE),
            sweep: self.switch(&vocabulary::SAFE_SWEEP, true),
            output_warn_mib: self.number(&vocabulary::SAFE_OUTPUT_WARN_MB, 1024).0,
            output_max_mib: self.number(&vocabulary::SAFE_OUTPUT_MAX_MB, 5120).0,
            pty_warn: self.number(&vocabulary::SAFE_PTY_WARN, 100).0 as u32,
            disable: self.switch(&vocabulary::SAFE_DISABLE, false),
        };
        let place = |setting: &Setting| {
            vocabulary::ALL
                .iter()
                .position(|variable| variable.name == setting.name)
        };
        self.settings.sort_unstable_by_key(place);
        config
    }

    fn default_log(&self) -> PathBuf {
        (self.sources.environment)("TMPDIR")
            .map(PathBuf::from)
            .filter(|folder| folder.is_absolute())
            .unwrap_or_else(|| PathBuf::from("/tmp"))
            .join("claude_malloc_guard.log")
    }
}

fn trimmed(text: &OsStr) -> Option<&str> {
    text.to_str().map(str::trim)
}

fn number_within(text: &OsStr, min: u64, max: u64) -> Option<u64> {
    let digits = trimmed(text)?;
    // u64::from_str would take a plus sign.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits
        .parse()
        .ok()
        .filter(|number| (min..=max).contains(number))
}

fn switch_of(text: &OsStr) -> Option<bool> {
    match trimmed(text)?.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Some(true),
        "0" | "off" | "no" | "false" => Some(false),
        _ => None,
    }
}

fn absolute_path(text: &OsStr) -> Option<PathBuf> {
    Some(PathBuf::from(text)).filter(|path| path.is_absolute())
}

fn guard_lib_of(text: &OsStr) -> Option<GuardLib> {
    if text.is_empty() {
        return Some(GuardLib::NoGuard);
    }
    absolute_path(text).map(GuardLib::At)
}

fn program_of(text: &OsStr) -> Option<OsString> {
    let is_name = !text.as_bytes().contains(&b'/');
    (is_name || text.as_bytes().starts_with(b"/")).then(|| text.to_os_string())
}

fn sizes_of(text: &OsStr) -> Option<GuardSizes> {
    let text = trimmed(text)?;
    if text.eq_ignore_ascii_case("auto") {
        return Some(GuardSizes::Auto);
    }
    let size_of = |item: &str| {
        let (digits, is_packed) = match item.trim().strip_suffix("/8") {
            Some(digits) => (digits, true),
            None => (item, false),
        };
        let most = u64::from(vocabulary::MAX_SIZE_BYTES);
        let bytes = number_within(OsStr::new(digits), 1, most)? as u32;
        Some(GuardSize { bytes, is_packed })
    };
    let sizes: Option<Vec<GuardSize>> = text.split(',').map(size_of).collect();
    sizes.map(GuardSizes::List)
}

fn reclaim_of(text: &OsStr) -> Option<Reclaim> {
    let text = trimmed(text)?.to_ascii_lowercase();
    match text.as_str() {
        "auto" => return Some(Reclaim::Auto),
        "off" => return Some(Reclaim::Off),
        _ => {}
    }
    let known = |item: &str| {
        vocabulary::MECHANISMS
            .iter()
            .copied()
            .find(|word| *word == item.trim())
    };
    let words: Option<Vec<&'static str>> = text.split(',').map(known).collect();
    words.map(Reclaim::Only)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;

    const GIB: u64 = 1 << 30;

    /// Loads with these variables and these two files, on a machine of `gib` GiB.
    fn load_with(environment: &[(&str, &str)], user: &str, system: &str, gib: u64) -> Loaded {
        let scratch = Scratch::new();
        let lookup = |name: &str| {
            environment
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        };
        load_from(&scratch, &lookup, user, system, gib)
    }

    fn load_from(
        scratch: &Scratch,
        environment: &dyn Fn(&str) -> Option<OsString>,
        user: &str,
        system: &str,
        gib: u64,
    ) -> Loaded {
        let sources = Sources {
            environment,
            user_file: Some(scratch.write("user.conf", user)),
            system_file: Some(scratch.write("system.conf", system)),
            memory: Some(Memory {
                bytes: gib * GIB,
                limited_by: None,
            }),
            trust: Trust::of_this_process().accepting_base(scratch.path()),
        };
        load(&sources)
    }

    fn origin_of(loaded: &Loaded, name: &str) -> String {
        let setting = loaded
            .settings
            .iter()
            .find(|setting| setting.name == name)
            .unwrap();
        let origin = setting.origin.to_string();
        origin.rsplit('/').next().unwrap().to_owned()
    }

    #[test]
    fn with_nothing_set_the_defaults_hold_and_nobody_complains() {
        let loaded = load_with(&[], "", "", 256);
        assert_eq!(loaded.complaints, Vec::<String>::new());
        assert_eq!(
            loaded.config,
            Config {
                guard_lib: GuardLib::UsualPlaces,
                guard_threshold_mib: 30720,
                guard_sizes: GuardSizes::List(vec![GuardSize::of(160)]),
                guard_log: PathBuf::from("/tmp/claude_malloc_guard.log"),
                watchdog_threshold_mib: 61440,
                watchdog_interval_s: 30,
                client_bin: None,
                reclaim: Reclaim::Auto,
                contain: true,
                fleet_max_mib: 0,
                continue_turn: true,
                sweep: true,
                output_warn_mib: 1024,
                output_max_mib: 5120,
                pty_warn: 100,
                disable: false,
            }
        );
        let names: Vec<&str> = loaded.settings.iter().map(|setting| setting.name).collect();
        assert_eq!(
            names,
            vocabulary::ALL.iter().map(|v| v.name).collect::<Vec<_>>()
        );
        assert!(
            loaded
                .settings
                .iter()
                .all(|setting| setting.origin == Origin::Default)
        );
    }

    #[test]
    fn the_environment_counts_more_than_the_user_file_and_that_more_than_the_system_file() {
        let system = "CLAUDE_WATCHDOG_INTERVAL=1\nCLAUDE_SAFE_PTY_WARN=1\nCLAUDE_SAFE_SWEEP=off\n";
        let user = "CLAUDE_WATCHDOG_INTERVAL=2\nCLAUDE_SAFE_PTY_WARN=2\n";
        let loaded = load_with(&[("CLAUDE_WATCHDOG_INTERVAL", "3")], user, system, 64);
        assert_eq!(loaded.complaints, Vec::<String>::new());
        assert_eq!(loaded.config.watchdog_interval_s, 3);
        assert_eq!(loaded.config.pty_warn, 2);
        assert!(!loaded.config.sweep);
        assert_eq!(
            origin_of(&loaded, "CLAUDE_WATCHDOG_INTERVAL"),
            "environment"
        );
        assert_eq!(origin_of(&loaded, "CLAUDE_SAFE_PTY_WARN"), "user.conf:2");
        assert_eq!(origin_of(&loaded, "CLAUDE_SAFE_SWEEP"), "system.conf:3");
        assert_eq!(origin_of(&loaded, "CLAUDE_SAFE_BIN"), "default");
    }

    #[test]
    fn a_bad_value_is_one_line_that_names_all_and_the_default_holds() {
        let scratch = Scratch::new();
        let loaded = load_from(
            &scratch,
            &|_| None,
            "",
            "\n#\nCLAUDE_WATCHDOG_INTERVAL=abc\n",
            64,
        );
        let file = scratch.path().join("system.conf");
        assert_eq!(
            loaded.complaints,
            [format!(
                "claude-safe: {}:3: CLAUDE_WATCHDOG_INTERVAL=\"abc\" is not a whole number of \
                 seconds from 1 to 86400; using 30",
                file.display()
            )]
        );
        assert_eq!(loaded.config.watchdog_interval_s, 30);
    }

    #[test]
    fn below_a_bad_value_the_next_lower_source_is_asked() {
        let loaded = load_with(
            &[("CLAUDE_WATCHDOG_INTERVAL", "-1")],
            "CLAUDE_WATCHDOG_INTERVAL=0\n",
            "CLAUDE_WATCHDOG_INTERVAL=45\n",
            64,
        );
        assert_eq!(loaded.config.watchdog_interval_s, 45);
        assert_eq!(loaded.complaints.len(), 2);
        assert!(loaded.complaints[0].contains("\"-1\" in the environment is not"));
        assert!(loaded.complaints[1].contains("user.conf:1: "));
        for complaint in &loaded.complaints {
            assert!(complaint.contains("; using 45 (") && complaint.contains("system.conf:1)"));
        }
    }

    #[test]
    fn every_kind_refuses_what_it_cannot_use() {
        for (name, bad) in [
            ("CLAUDE_MALLOC_GUARD_LIB", &["relative.so", "~/x.so"][..]),
            (
                "CLAUDE_MALLOC_GUARD_THRESHOLD_MB",
                &[
                    "-1",
                    "1.5",
                    "1G",
                    "99999999999999999999",
                    "1073741825",
                    "+1",
                    " ",
                ],
            ),
            (
                "CLAUDE_MALLOC_GUARD_SIZES",
                &["0", "160,", "a", "70000", "160;32"],
            ),
            ("CLAUDE_MALLOC_GUARD_LOG", &["log"]),
            ("CLAUDE_WATCHDOG_THRESHOLD_MB", &["0", "x"]),
            ("CLAUDE_WATCHDOG_INTERVAL", &["0", "86401", "0x10"]),
            ("CLAUDE_SAFE_BIN", &["./claude", "bin/claude"]),
            ("CLAUDE_SAFE_RECLAIM", &["auto,pool", "pool,", "swap"]),
            ("CLAUDE_SAFE_CONTAIN", &["on", "1"]),
            ("CLAUDE_SAFE_CONTINUE", &["no"]),
            ("CLAUDE_SAFE_SWEEP", &["2", "enabled"]),
            ("CLAUDE_SAFE_PTY_WARN", &["0"]),
            ("CLAUDE_SAFE_DISABLE", &["maybe"]),
        ] {
            let before = load_with(&[], "", "", 64);
            for value in bad {
                let loaded = load_with(&[(name, value)], "", "", 64);
                assert_eq!(loaded.complaints.len(), 1, "{name}={value}");
                assert!(loaded.complaints[0].contains(name), "{name}={value}");
                assert_eq!(loaded.config, before.config, "{name}={value}");
            }
        }
    }

    #[test]
    fn every_kind_takes_what_it_can_use() {
        let loaded = load_with(
            &[
                ("CLAUDE_MALLOC_GUARD_LIB", ""),
                ("CLAUDE_MALLOC_GUARD_THRESHOLD_MB", "0"),
                ("CLAUDE_MALLOC_GUARD_SIZES", "32, 160"),
                ("CLAUDE_MALLOC_GUARD_LOG", "/var/x.log"),
                ("CLAUDE_WATCHDOG_THRESHOLD_MB", "1073741824"),
                ("CLAUDE_WATCHDOG_INTERVAL", " 86400 "),
                ("CLAUDE_SAFE_BIN", "claude-next"),
                ("CLAUDE_SAFE_RECLAIM", "Pool, cgroup"),
                ("CLAUDE_SAFE_CONTAIN", "OFF"),
                ("CLAUDE_SAFE_CONTINUE", "never"),
                ("CLAUDE_SAFE_SWEEP", "No"),
                ("CLAUDE_SAFE_PTY_WARN", "7"),
                ("CLAUDE_SAFE_DISABLE", "1"),
            ],
            "",
            "",
            64,
        );
        assert_eq!(loaded.complaints, Vec::<String>::new());
        let config = loaded.config;
        assert_eq!(config.guard_lib, GuardLib::NoGuard);
        assert_eq!(config.guard_threshold_mib, 0);
        assert_eq!(
            config.guard_sizes,
            GuardSizes::List(vec![GuardSize::of(32), GuardSize::of(160)])
        );
        assert_eq!(config.guard_log, PathBuf::from("/var/x.log"));
        assert_eq!(config.watchdog_threshold_mib, 1 << 30);
        assert_eq!(config.watchdog_interval_s, 86400);
        assert_eq!(config.client_bin, Some(OsString::from("claude-next")));
        assert_eq!(config.reclaim, Reclaim::Only(vec!["pool", "cgroup"]));
        assert!(!config.contain && !config.continue_turn && !config.sweep && config.disable);
        assert_eq!(config.pty_warn, 7);
    }

    #[test]
    fn the_pool_has_a_threshold_only_where_reclaim_has_the_pool() {
        for (reclaim, threshold_mib) in [
            ("", Some(7)),
            ("auto", Some(7)),
            ("pool", Some(7)),
            ("cgroup, Pool", Some(7)),
            ("off", None),
            ("cgroup,pageout,compress,foreign", None),
        ] {
            let environment = [
                ("CLAUDE_SAFE_RECLAIM", reclaim),
                ("CLAUDE_MALLOC_GUARD_THRESHOLD_MB", "7"),
            ];
            let config = load_with(&environment, "", "", 64).config;
            assert_eq!(config.pool_threshold_mib(), threshold_mib, "{reclaim:?}");
        }
    }

    #[test]
    fn an_empty_value_is_as_good_as_none_except_for_the_guard() {
        let loaded = load_with(
            &[("CLAUDE_SAFE_BIN", ""), ("CLAUDE_WATCHDOG_INTERVAL", "")],
            "CLAUDE_WATCHDOG_INTERVAL=\nCLAUDE_MALLOC_GUARD_LIB=\n",
            "CLAUDE_WATCHDOG_INTERVAL=9\nCLAUDE_MALLOC_GUARD_LIB=/x.so\n",
            64,
        );
        assert_eq!(loaded.complaints, Vec::<String>::new());
        assert_eq!(loaded.config.watchdog_interval_s, 9);
        assert_eq!(loaded.config.client_bin, None);
        assert_eq!(loaded.config.guard_lib, GuardLib::NoGuard);
    }

    #[test]
    fn the_last_of_two_lines_in_one_file_holds() {
        let text = "CLAUDE_SAFE_PTY_WARN=1\nCLAUDE_SAFE_PTY_WARN=2\n";
        let loaded = load_with(&[], text, "", 64);
        assert_eq!(loaded.config.pty_warn, 2);
        assert_eq!(origin_of(&loaded, "CLAUDE_SAFE_PTY_WARN"), "user.conf:2");
    }

    #[test]
    fn unknown_names_in_a_file_are_named_with_what_was_probably_meant() {
        let text = "CLAUDE_WATCHDOG_INTERVALL=5\nEDITOR=vi\nCLAUDE_SAFE_WONDERS=1\n";
        let complaints = load_with(&[], text, "", 64).complaints;
        assert_eq!(complaints.len(), 3);
        assert!(complaints[0].contains("user.conf:1: CLAUDE_WATCHDOG_INTERVALL is not a variable"));
        assert!(complaints[0].ends_with("did you mean CLAUDE_WATCHDOG_INTERVAL?"));
        assert!(complaints[1].ends_with("EDITOR is not a variable of claude-safe; it is ignored"));
        assert!(complaints[2].contains(":3: CLAUDE_SAFE_WONDERS"));
    }

    #[test]
    fn a_file_full_of_junk_costs_few_lines() {
        let complaints = load_with(&[], &"junk\n".repeat(5000), "", 64).complaints;
        assert_eq!(complaints.len(), MAX_LINE_COMPLAINTS + 1);
        assert!(
            complaints
                .last()
                .unwrap()
                .ends_with("4990 more lines like these")
        );
        let long = format!("# {}\n", "x".repeat(MAX_FILE_BYTES as usize));
        let complaints = load_with(&[], &long, "CLAUDE_SAFE_PTY_WARN=3", 64).complaints;
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].contains("longer than"));
    }

    #[test]
    fn a_path_may_hold_any_bytes_and_a_number_may_not() {
        use std::os::unix::ffi::OsStringExt;
        let scratch = Scratch::new();
        let odd = OsString::from_vec(b"/tmp/\xff.log".to_vec());
        let environment = |name: &str| match name {
            "CLAUDE_MALLOC_GUARD_LOG" | "CLAUDE_WATCHDOG_INTERVAL" => Some(odd.clone()),
            _ => None,
        };
        let loaded = load_from(&scratch, &environment, "", "", 64);
        assert_eq!(loaded.config.guard_log, PathBuf::from(&odd));
        assert_eq!(loaded.config.watchdog_interval_s, 30);
        assert_eq!(loaded.complaints.len(), 1);
    }

    #[test]
    fn a_file_that_others_may_write_is_not_used_and_the_reason_is_given() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch::new();
        let path = scratch.write("loose.conf", "CLAUDE_SAFE_DISABLE=1\n");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o664)).unwrap();
        let sources = Sources {
            environment: &|_| None,
            user_file: Some(path),
            system_file: Some(scratch.path().join("not-there.conf")),
            memory: None,
            trust: Trust::of_this_process().accepting_base(scratch.path()),
        };
        let loaded = load(&sources);
        assert!(!loaded.config.disable);
        assert_eq!(loaded.complaints.len(), 1);
        assert!(
            loaded.complaints[0].contains("is not used"),
            "{:?}",
            loaded.complaints
        );
        assert!(loaded.complaints[0].contains("by its group (mode 664)"));
    }

    #[test]
    fn the_default_thresholds_follow_the_memory() {
        let at = |mib: u64| {
            default_thresholds_mib(Some(&Memory {
                bytes: mib * MIB,
                limited_by: None,
            }))
        };
        assert_eq!(default_thresholds_mib(None), (30720, 61440));
        assert_eq!(at(256 * 1024), (30720, 61440));
        assert_eq!(at(122_880), (30720, 61440));
        assert_eq!(at(64 * 1024), (16384, 32768));
        assert_eq!(at(4096), (1024, 2048));
        assert_eq!(at(2048), (512, 1024));
        assert_eq!(at(1024), (256, 816));
        assert_eq!(at(512), (128, 408));
        assert_eq!(at(0), (0, 1));
    }

    #[test]
    fn tier_1_by_default_stays_below_a_tier_2_that_was_set() {
        let loaded = load_with(&[("CLAUDE_WATCHDOG_THRESHOLD_MB", "2000")], "", "", 64);
        assert_eq!(loaded.config.guard_threshold_mib, 1000);
        assert_eq!(loaded.complaints, Vec::<String>::new());
    }

    #[test]
    fn tier_1_above_tier_2_is_kept_and_complained_about() {
        let loaded = load_with(
            &[("CLAUDE_WATCHDOG_THRESHOLD_MB", "2000")],
            "",
            "CLAUDE_MALLOC_GUARD_THRESHOLD_MB=3000\n",
            64,
        );
        assert_eq!(loaded.config.guard_threshold_mib, 3000);
        assert_eq!(loaded.config.watchdog_threshold_mib, 2000);
        assert_eq!(loaded.complaints.len(), 1);
        assert!(loaded.complaints[0].contains("is above CLAUDE_WATCHDOG_THRESHOLD_MB=2000"));
    }

    #[test]
    fn the_user_file_follows_xdg_and_home() {
        let with = |xdg: Option<&'static str>, home: Option<&'static str>| {
            user_file(&move |name| match name {
                "XDG_CONFIG_HOME" => xdg.map(OsString::from),
                "HOME" => home.map(OsString::from),
                _ => None,
            })
        };
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(
            with(Some("/x"), Some("/h")),
            path("/x/claude-safe/claude-safe.conf")
        );
        for xdg in [None, Some(""), Some("relative")] {
            assert_eq!(
                with(xdg, Some("/h")),
                path("/h/.config/claude-safe/claude-safe.conf")
            );
        }
        assert_eq!(with(None, None), None);
    }
}
