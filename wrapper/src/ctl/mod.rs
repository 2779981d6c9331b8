//! `claude-safectl`, the control plane: which commands there are, and what each one answers.
//!
//! Only here do `--help` and `--version` mean us; on `claude-safe` they belong to claude. Only `shim` and `clean` change
//! anything on this machine, when asked to; the hooks write into the folders of our sessions, and sweep; `status --prom`
//! and `report --svg` write the file that is named to them.

use std::ffi::OsString;
use std::io::Write;

mod clean;
mod config;
mod curve;
mod doctor;
mod hook;
mod kernel_tiers;
mod orphans;
mod page;
mod past;
mod prom;
pub(crate) mod pty;
mod report;
mod resident;
mod sessions;
mod shim;
mod stats;
mod status;
mod style;
mod top;

use style::Style;

/// Exit codes.
pub mod exit {
    /// It is done, and nothing is wrong.
    pub const DONE: u8 = 0;
    /// It is done, and something is wrong: no such session, a page or folder that is not trusted or damaged;
    /// `doctor`: not all is in force that could be, or a setting is refused.
    pub const TROUBLE: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// `doctor`: nothing protects here. As with diff(1), 1 is a finding and 2 the worse.
    pub const UNPROTECTED: u8 = 2;
    /// The answer could not be written.
    pub const NO_OUTPUT: u8 = 3;
}

/// One command: the parser, the help, the manual page and the completions are made from it.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// Words of which one must follow the name.
    pub(crate) verbs: &'static [Verb],
    /// May the number of a process follow?
    pub(crate) takes_pid: bool,
    pub(crate) options: &'static [&'static Flag],
    pub(crate) help: &'static str,
    run: fn(&Request) -> Answer,
}

/// A second word: `shim install`.
pub(crate) struct Verb {
    pub(crate) name: &'static str,
    /// Those options of the command that have a meaning with this word.
    pub(crate) options: &'static [&'static Flag],
    pub(crate) help: &'static str,
}

/// An option of some commands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flag {
    /// Without the dashes.
    pub(crate) name: &'static str,
    /// What the value is called, if it takes one; in brackets: it may be left out.
    pub(crate) value: Option<&'static str>,
    pub(crate) help: &'static str,
}

static JSON: Flag = Flag {
    name: "json",
    value: None,
    help: "for programs: plain numbers, sizes in bytes",
};

/// What a command is asked.
#[derive(Default)]
struct Request {
    json: bool,
    /// The second word, of a command that has any.
    verb: &'static str,
    /// A process of a session.
    pid: Option<i32>,
    /// Options other than `--json`, in the order given, with their values.
    given: Vec<(&'static Flag, OsString)>,
    style: Style,
}

/// What it answers.
struct Answer {
    text: String,
    code: u8,
}

/// Every command.
pub(crate) static COMMANDS: [Command; 9] = [
    Command {
        name: "clean",
        verbs: &[],
        takes_pid: false,
        options: &[&clean::ORPHANS, &clean::DRY_RUN, &JSON],
        help: "remove what dead sessions have left in the temporary folder",
        run: clean::run,
    },
    Command {
        name: "config",
        verbs: &[],
        takes_pid: false,
        options: &[&JSON],
        help: "every variable in force, and where its value comes from",
        run: config::run,
    },
    Command {
        name: "doctor",
        verbs: &[],
        takes_pid: false,
        options: &[&JSON],
        help: "which client, guard and mechanisms are in force on this machine",
        run: doctor::run,
    },
    Command {
        name: "pty",
        verbs: &[],
        takes_pid: false,
        options: &[&JSON],
        help: "who holds pseudo-terminals and file descriptors, most first",
        run: pty::run,
    },
    Command {
        name: "report",
        verbs: &[],
        takes_pid: true,
        options: &[&report::SVG],
        help: "an incident report to paste, of the running sessions, of the one of process PID, or of the last one: \
               who grew and how fast, what is in force, what happened; no arguments, no contents",
        run: report::run,
    },
    Command {
        name: "shim",
        verbs: &shim::VERBS,
        takes_pid: false,
        options: &[&shim::DIR, &shim::DRY_RUN, &JSON],
        help: "whether typing claude starts claude-safe; makes it so, and undoes that",
        run: shim::run,
    },
    Command {
        name: "stats",
        verbs: &[],
        takes_pid: true,
        options: &[&JSON],
        help: "what the guard counts and where memory is, in the running sessions or in the one of process PID",
        run: stats::run,
    },
    Command {
        name: "status",
        verbs: &[],
        takes_pid: false,
        options: &[&JSON, &prom::PROM],
        help: "the running sessions: memory and its last hour, growth, limits, tiers, restarts, conversation",
        run: status::run,
    },
    Command {
        name: "top",
        verbs: &[],
        takes_pid: false,
        options: &[],
        help: "the same live on one screen, with the biggest processes; q, Esc or Ctrl-C ends it",
        run: top::run,
    },
];

/// The exit codes in words, for people.
pub(crate) const EXIT_CODES: &[(u8, &str)] = &[
    (exit::DONE, "done"),
    (
        exit::TROUBLE,
        "something is wrong (no such session; doctor: not all is in force that could be)",
    ),
    (
        exit::USAGE,
        "wrong usage (doctor: nothing protects here, for there is no client or all is switched off)",
    ),
    (exit::NO_OUTPUT, "the answer can't be written"),
];

impl Request {
    /// What was given with this option, empty if it takes nothing; the last one where it was given twice.
    fn value(&self, wanted: &Flag) -> Option<&OsString> {
        let found = self.given.iter().rfind(|(flag, _)| *flag == wanted);
        found.map(|(_, value)| value)
    }
}

/// Runs `claude-safectl` with the words behind `argv[0]`; the answer is its exit code, see [`exit`].
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Called by the client, not by people: it never fails the client, also not for an event that it does not know
    // (a plugin may be newer than this program).
    if let [hook, event, folder @ ..] = arguments.as_slice()
        && hook == "hook"
    {
        hook::run(event, folder.first().map(std::path::Path::new));
        return exit::DONE;
    }
    let style = Style::of_stdout();
    let answer = match understand(arguments) {
        Ok(Wish::Help) => Answer {
            text: help(),
            code: exit::DONE,
        },
        Ok(Wish::Version) => Answer {
            text: format!("claude-safe {}\n", env!("CARGO_PKG_VERSION")),
            code: exit::DONE,
        },
        Ok(Wish::Run(command, request)) => (command.run)(&Request { style, ..request }),
        Err(complaint) => {
            eprint!("claude-safectl: {complaint}\n{}", usage());
            return exit::USAGE;
        }
    };
    let mut out = std::io::stdout().lock();
    match out
        .write_all(answer.text.as_bytes())
        .and_then(|()| out.flush())
    {
        Ok(()) => answer.code,
        // Whoever reads has read enough: `claude-safectl doctor | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => answer.code,
        Err(error) => {
            eprintln!("claude-safectl: the answer can't be written: {error}");
            exit::NO_OUTPUT
        }
    }
}

enum Wish {
    Help,
    Version,
    Run(&'static Command, Request),
}

fn understand(arguments: impl IntoIterator<Item = OsString>) -> Result<Wish, String> {
    use lexopt::prelude::{Long, Short, Value};
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut chosen: Option<&'static Command> = None;
    let mut request = Request::default();
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        match (argument, chosen) {
            (Long("help") | Short('h'), _) => return Ok(Wish::Help),
            (Long("version") | Short('V'), _) => return Ok(Wish::Version),
            (Value(word), None) => {
                let known = COMMANDS.iter().find(|known| word == known.name);
                let unknown = || format!("there is no command {:?}", word.to_string_lossy());
                chosen = Some(known.ok_or_else(unknown)?);
            }
            (Value(word), Some(command))
                if !command.verbs.is_empty() && request.verb.is_empty() =>
            {
                let known = command.verbs.iter().find(|verb| word == verb.name);
                let unknown = || {
                    let word = word.to_string_lossy();
                    format!("{word:?} is not one of: {}", verbs(command))
                };
                request.verb = known.ok_or_else(unknown)?.name;
            }
            (Value(word), Some(command)) if command.takes_pid && request.pid.is_none() => {
                let number = word.to_str().and_then(|word| word.parse().ok());
                let no_pid = || format!("{:?} is no process number", word.to_string_lossy());
                request.pid = Some(number.filter(|pid| *pid > 0).ok_or_else(no_pid)?);
            }
            (Long(name), Some(command)) => {
                let known = command.options.iter().find(|flag| flag.name == name);
                let Some(flag) = known else {
                    return Err(Long(name).unexpected().to_string());
                };
                if **flag == JSON {
                    request.json = true;
                } else {
                    let value = match flag.value {
                        None => Ok(OsString::new()),
                        Some(name) if name.starts_with('[') => Ok(optional_value(&mut parser)),
                        Some(_) => parser.value(),
                    };
                    request
                        .given
                        .push((flag, value.map_err(|error| error.to_string())?));
                }
            }
            (other, _) => return Err(other.unexpected().to_string()),
        }
    }
    match chosen {
        Some(command) if !command.verbs.is_empty() && request.verb.is_empty() => Err(format!(
            "{}: which one of: {}?",
            command.name,
            verbs(command)
        )),
        Some(command) => match stray(command, &request) {
            None => Ok(Wish::Run(command, request)),
            Some(flag) => Err(format!(
                "{} {} has no --{}",
                command.name, request.verb, flag.name
            )),
        },
        None => Err("which command?".to_owned()),
    }
}

/// The value behind an option that may stand alone: after `=`, or the next word if that is no option. Empty: none.
fn optional_value(parser: &mut lexopt::Parser) -> OsString {
    if let Some(value) = parser.optional_value() {
        return value;
    }
    let is_value =
        |word: &std::ffi::OsStr| word == "-" || !word.as_encoded_bytes().starts_with(b"-");
    let words = parser.try_raw_args();
    let word = words.and_then(|mut words| words.next_if(is_value));
    word.unwrap_or_default()
}

/// An option that was given and has no meaning with the second word.
fn stray(command: &Command, request: &Request) -> Option<&'static Flag> {
    let verb = command
        .verbs
        .iter()
        .find(|verb| verb.name == request.verb)?;
    let given = request.given.iter().map(|(flag, _)| *flag);
    let mut all = given.chain(request.json.then_some(&JSON));
    all.find(|flag| !verb.options.contains(flag))
}

fn verbs(command: &Command) -> String {
    let names: Vec<_> = command.verbs.iter().map(|verb| verb.name).collect();
    names.join(", ")
}

/// Each form of the command line with its meaning, in the order of the help.
pub(crate) fn forms() -> impl Iterator<Item = (String, &'static str)> {
    let commands = COMMANDS.iter().flat_map(|command| {
        let name = command.name;
        let form = |words: String, options: &[&Flag]| {
            let pid = if command.takes_pid { " [PID]" } else { "" };
            let mut form = format!("{words}{pid}");
            for flag in options {
                let value = flag.value.map(|value| format!(" {value}"));
                form.push_str(&format!(" [--{}{}]", flag.name, value.unwrap_or_default()));
            }
            form
        };
        let no_verbs = command.verbs.is_empty();
        let whole = no_verbs.then(|| (form(name.to_owned(), command.options), command.help));
        let verbs = command.verbs.iter();
        let verbs = verbs.map(move |verb| {
            let words = format!("{name} {}", verb.name);
            (form(words, verb.options), verb.help)
        });
        whole.into_iter().chain(verbs)
    });
    commands.chain([
        ("--help".to_owned(), "this text"),
        ("--version".to_owned(), "the version of claude-safe"),
    ])
}

fn usage() -> String {
    let lines = forms().map(|(form, _)| format!("claude-safectl {form}"));
    format!("usage: {}\n", lines.collect::<Vec<_>>().join("\n       "))
}

fn help() -> String {
    let mut text = "The control plane of claude-safe.\n\n".to_owned();
    let rows: Vec<[String; 2]> = forms()
        .map(|(form, help)| [format!("claude-safectl {form}"), help.to_owned()])
        .collect();
    text.push_str(&style::columns(&rows, 2));
    let codes: Vec<_> = EXIT_CODES
        .iter()
        .map(|(code, means)| format!("{code} {means}"))
        .collect();
    text.push_str(&format!(
        "\nExit codes: {}.\n\nVariables (environment, \
         ~/.config/claude-safe/claude-safe.conf, /etc/claude-safe.conf):\n",
        codes.join(", ")
    ));
    let variables: Vec<[String; 2]> = crate::config::vocabulary::ALL
        .iter()
        .map(|variable| [variable.name.to_owned(), variable.help.to_owned()])
        .collect();
    text.push_str(&style::columns(&variables, 2));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(words: &[&str]) -> Result<Wish, String> {
        understand(words.iter().map(OsString::from))
    }

    #[test]
    fn each_command_and_option_is_understood() {
        for command in &COMMANDS {
            let takes_json = |verb: &&Verb| verb.options.contains(&&JSON);
            let verb = command.verbs.iter().find(takes_json).map(|verb| verb.name);
            for json in [false, true] {
                if json && verb.is_none() && !command.options.contains(&&JSON) {
                    continue;
                }
                let words: Vec<&str> = [command.name]
                    .into_iter()
                    .chain(verb)
                    .chain(json.then_some("--json"))
                    .collect();
                match wish(&words) {
                    Ok(Wish::Run(found, request)) => {
                        let seen = (found.name, request.verb, request.json, request.pid);
                        assert_eq!(seen, (command.name, verb.unwrap_or(""), json, None));
                    }
                    _ => panic!("{words:?}"),
                }
            }
        }
        for words in [&["stats", "42", "--json"], &["stats", "--json", "42"]] {
            let understood = wish(words);
            assert!(matches!(&understood, Ok(Wish::Run(_, r)) if r.json && r.pid == Some(42)));
        }
        for (words, value) in [
            (&["status", "--prom"][..], ""),
            (&["status", "--prom", "--json"], ""),
            (&["status", "--prom", "-"], "-"),
            (&["status", "--prom", "x.prom"], "x.prom"),
            (&["status", "--prom=x.prom", "--json"], "x.prom"),
            (&["report", "--svg", "x.svg", "42"], "x.svg"),
        ] {
            let understood = wish(words);
            let given = |request: &Request| request.given[0].1 == value;
            assert!(
                matches!(&understood, Ok(Wish::Run(_, r)) if given(r)),
                "{words:?}"
            );
        }
        assert!(matches!(wish(&["--help"]), Ok(Wish::Help)));
        assert!(matches!(wish(&["doctor", "-h"]), Ok(Wish::Help)));
        assert!(matches!(wish(&["--version"]), Ok(Wish::Version)));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (words, says) in [
            (&[][..], "which command"),
            (&["dance"], "\"dance\""),
            (&["config", "extra"], "extra"),
            (&["--json"], "--json"),
            (&["config", "--yaml"], "--yaml"),
            (&["config", "--json=1"], "--json"),
            (&["status", "42"], "42"),
            (&["status", "--prom", "x", "y"], "y"),
            (&["report", "--svg"], "--svg"),
            (&["top", "--json"], "--json"),
            (&["stats", "claude"], "\"claude\" is no process number"),
            (&["stats", "0"], "\"0\""),
            (&["stats", "-1"], "-1"),
            (&["stats", "4294967297"], "4294967297"),
            (&["stats", "1", "2"], "2"),
            (&["shim"], "which one of: install, remove, status"),
            (
                &["shim", "dance"],
                "\"dance\" is not one of: install, remove",
            ),
            (&["shim", "install", "--dir"], "--dir"),
            (&["shim", "install", "--json"], "shim install has no --json"),
            (
                &["shim", "--dry-run", "status"],
                "shim status has no --dry-run",
            ),
            (&["shim", "install", "--dry-run=1"], "--dry-run"),
        ] {
            let Err(complaint) = wish(words) else {
                panic!("{words:?}")
            };
            assert!(complaint.contains(says), "{words:?}: {complaint}");
        }
    }

    #[test]
    fn the_help_names_every_command_and_every_variable() {
        let text = help();
        for command in &COMMANDS {
            let verbs = command.verbs.iter().map(|verb| verb.help);
            let mut helps: Vec<&str> = verbs.collect();
            if helps.is_empty() {
                helps.push(command.help);
            }
            assert!(text.contains(command.name) && helps.iter().all(|help| text.contains(help)));
            assert!(usage().contains(command.name));
        }
        for variable in crate::config::vocabulary::ALL.iter() {
            assert!(text.contains(variable.name));
        }
    }
}
