//! `claude-safectl`, the control plane: which commands there are, and what each one answers.
//!
//! Only here do `--help` and `--version` mean us; on `claude-safe` they belong to claude. Changes
//! nothing on this machine; the hook writes into its session's own folder.

use std::ffi::OsString;
use std::io::Write;

mod config;
mod doctor;
mod hook;
mod page;
mod resident;
mod sessions;
mod stats;
mod status;
mod style;

use style::Style;

/// Exit codes.
pub mod exit {
    /// It is done, and nothing is wrong.
    pub const DONE: u8 = 0;
    /// It is done, and something is wrong: no client was found, no such session, a page or folder that is
    /// not trusted or damaged.
    pub const TROUBLE: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// The answer could not be written.
    pub const NO_OUTPUT: u8 = 3;
}

/// One command.
struct Command {
    name: &'static str,
    takes_json: bool,
    takes_pid: bool,
    help: &'static str,
    run: fn(&Request) -> Answer,
}

/// What a command is asked.
struct Request {
    json: bool,
    /// A process of a session.
    pid: Option<i32>,
    style: Style,
}

/// What it answers.
struct Answer {
    text: String,
    code: u8,
}

/// Every command: usage, help and dispatch are made from it.
static COMMANDS: [Command; 4] = [
    Command {
        name: "config",
        takes_json: true,
        takes_pid: false,
        help: "every variable in force, and where its value comes from",
        run: config::run,
    },
    Command {
        name: "doctor",
        takes_json: true,
        takes_pid: false,
        help: "which client, guard and mechanisms are in force on this machine",
        run: doctor::run,
    },
    Command {
        name: "stats",
        takes_json: true,
        takes_pid: true,
        help: "what the guard counts and where memory is, in the running sessions or in the one of process PID",
        run: stats::run,
    },
    Command {
        name: "status",
        takes_json: true,
        takes_pid: false,
        help: "the running sessions: memory, limits, guard, restarts, conversation",
        run: status::run,
    },
];

/// Runs `claude-safectl` with the words behind `argv[0]`; the answer is its exit code, see [`exit`].
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Called by the client, not by people: it answers nothing and never fails the client.
    if let [hook, event, folder] = arguments.as_slice()
        && hook == "hook"
        && event == "session-start"
    {
        hook::session_start(std::io::stdin().lock(), std::path::Path::new(folder));
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
        Ok(Wish::Run(command, json, pid)) => (command.run)(&Request { json, pid, style }),
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
    Run(&'static Command, bool, Option<i32>),
}

fn understand(arguments: impl IntoIterator<Item = OsString>) -> Result<Wish, String> {
    use lexopt::prelude::{Long, Short, Value};
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut command: Option<&'static Command> = None;
    let mut json = false;
    let mut pid = None;
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        match argument {
            Long("help") | Short('h') => return Ok(Wish::Help),
            Long("version") | Short('V') => return Ok(Wish::Version),
            Long("json") if command.is_some_and(|command| command.takes_json) => json = true,
            Value(word) if command.is_none() => {
                let known = COMMANDS.iter().find(|known| word == known.name);
                let unknown = || format!("there is no command {:?}", word.to_string_lossy());
                command = Some(known.ok_or_else(unknown)?);
            }
            Value(word) if pid.is_none() && command.is_some_and(|command| command.takes_pid) => {
                let number = word.to_str().and_then(|word| word.parse().ok());
                let no_pid = || format!("{:?} is no process number", word.to_string_lossy());
                pid = Some(number.filter(|pid| *pid > 0).ok_or_else(no_pid)?);
            }
            other => return Err(other.unexpected().to_string()),
        }
    }
    match command {
        Some(command) => Ok(Wish::Run(command, json, pid)),
        None => Err("which command?".to_owned()),
    }
}

fn forms() -> impl Iterator<Item = (String, &'static str)> {
    let commands = COMMANDS.iter().map(|command| {
        let pid = if command.takes_pid { " [PID]" } else { "" };
        let json = if command.takes_json { " [--json]" } else { "" };
        (format!("{}{pid}{json}", command.name), command.help)
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
    text.push_str(
        "\nExit codes: 0 done, 1 something is wrong (no client, no such session), 2 wrong usage, \
         3 the answer can't be written.\n\nVariables (environment, \
         ~/.config/claude-safe/claude-safe.conf, /etc/claude-safe.conf):\n",
    );
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
            for json in [false, true] {
                let words: &[&str] = if json {
                    &[command.name, "--json"]
                } else {
                    &[command.name]
                };
                match wish(words) {
                    Ok(Wish::Run(found, asked, pid)) => {
                        assert_eq!((found.name, asked, pid), (command.name, json, None));
                    }
                    _ => panic!("{words:?}"),
                }
            }
        }
        for words in [&["stats", "42", "--json"], &["stats", "--json", "42"]] {
            assert!(matches!(wish(words), Ok(Wish::Run(_, true, Some(42)))));
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
            (&["stats", "claude"], "\"claude\" is no process number"),
            (&["stats", "0"], "\"0\""),
            (&["stats", "-1"], "-1"),
            (&["stats", "4294967297"], "4294967297"),
            (&["stats", "1", "2"], "2"),
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
            assert!(text.contains(command.name) && text.contains(command.help));
            assert!(usage().contains(command.name));
        }
        for variable in crate::config::vocabulary::ALL.iter() {
            assert!(text.contains(variable.name));
        }
    }
}
