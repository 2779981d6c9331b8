//! The documents that packages install, made from the tables that the program itself runs by: manual
//! pages, completions, the commented configuration file, and the vocabulary for the Nix modules.
//!
//! Compiled for tests alone. The documents are kept in the repository, so that no package has to build a
//! generator; the test below compares them, and `CLAUDE_SAFE_RENEW=1 cargo test -p claude-safe manual` writes
//! them anew.

use crate::config::vocabulary::{ALL, Kind, MAX_SIZE_BYTES, Variable};
use crate::ctl::{COMMANDS, Command, EXIT_CODES, Flag, forms};
use serde_json::{Value, json};
use std::fmt::Write;

const CLAUDE_SAFE: &str = include_str!("../doc/template/claude-safe.1");
const CONTROL: &str = include_str!("../doc/template/claude-safectl.1");
const FILE: &str = include_str!("../doc/template/claude-safe.conf.5");

/// Each document and its place below the folder of the repository.
fn documents() -> Vec<(&'static str, String)> {
    vec![
        ("wrapper/doc/claude-safe.1", page(CLAUDE_SAFE)),
        ("wrapper/doc/claude-safectl.1", page(CONTROL)),
        ("wrapper/doc/claude-safe.conf.5", page(FILE)),
        ("wrapper/doc/claude-safe.conf", configuration_file()),
        ("wrapper/completions/claude-safectl.bash", bash()),
        ("wrapper/completions/_claude-safectl", zsh()),
        ("wrapper/completions/claude-safectl.fish", fish()),
        ("nix/vocabulary.json", vocabulary()),
    ]
}

/// What a variable may hold, in a sentence that follows its meaning.
fn expectation(variable: &Variable) -> String {
    format!(
        "Takes {}. Default: {}.",
        variable.kind.expectation(),
        variable.default
    )
}

// Manual pages, in the macros of groff_man(7).

fn page(template: &str) -> String {
    let mut made =
        String::from(".\\\" Made by wrapper/src/manual.rs from the tables of the program.\n");
    made.push_str(
        &template
            .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
            .replace("@VARIABLES@\n", &variables())
            .replace("@COMMANDS@\n", &commands())
            .replace("@OPTIONS@\n", &options())
            .replace("@EXIT_CODES@\n", &exit_codes()),
    );
    made
}

/// Text for roff: a `-` of a program is no hyphen, a backslash is itself, and no line begins a macro.
fn roff(text: &str) -> String {
    let text = text
        .replace('\\', "\\(rs")
        .replace('-', "\\-")
        .replace('…', "\\&...");
    let text = text.replace('~', "\\(ti");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

/// A tagged paragraph.
fn tagged(tag: &str, text: &str) -> String {
    format!(".TP\n.B {}\n{}\n", roff(tag), roff(text))
}

fn variables() -> String {
    let one = |variable: &&Variable| {
        let meaning = format!("{}. {}", capital(variable.help), expectation(variable));
        tagged(variable.name, &meaning)
    };
    ALL.iter().map(one).collect()
}

fn commands() -> String {
    let ours = |(form, _): &(String, &str)| !form.starts_with("--");
    let all = forms().filter(ours);
    all.map(|(form, help)| tagged(&form, &format!("{}.", capital(help))))
        .collect()
}

fn options() -> String {
    let mut text = String::new();
    for flag in flags() {
        let value = flag
            .value
            .map(|value| format!(" {value}"))
            .unwrap_or_default();
        let tag = format!("--{}{value}", flag.name);
        text.push_str(&tagged(&tag, &format!("{}.", capital(flag.help))));
    }
    text
}

fn exit_codes() -> String {
    let all = EXIT_CODES.iter();
    all.map(|(code, means)| tagged(&code.to_string(), means))
        .collect()
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(letters).collect()
}

/// Each option of any command, once.
fn flags() -> Vec<&'static Flag> {
    let mut all: Vec<&'static Flag> = Vec::new();
    for flag in COMMANDS.iter().flat_map(|command| command.options) {
        if !all.contains(flag) {
            all.push(flag);
        }
    }
    all
}

/// `/etc/claude-safe.conf` as it is installed: everything is there to be switched on, nothing is.
fn configuration_file() -> String {
    let mut text = "# Settings of claude-safe for all users: see claude-safe.conf(5).\n\
         # ~/.config/claude-safe/claude-safe.conf wins over this file, the environment over both.\n\
         # Each line shows a variable; remove the # to set it. `claude-safectl config` shows what is in force.\n"
        .to_owned();
    for variable in ALL {
        let _ = write!(
            text,
            "\n# {}\n# {}\n#{}=\n",
            capital(variable.help),
            expectation(variable),
            variable.name
        );
    }
    text
}

// Completions.

fn names(command: &Command) -> Vec<&'static str> {
    command.verbs.iter().map(|verb| verb.name).collect()
}

fn dashed(command: &Command) -> Vec<String> {
    command
        .options
        .iter()
        .map(|flag| format!("--{}", flag.name))
        .collect()
}

fn command_names() -> Vec<&'static str> {
    COMMANDS.iter().map(|command| command.name).collect()
}

/// Options whose value is of this name, whether or not it may be left out.
fn options_with(value: &str) -> Vec<String> {
    let all = flags().into_iter();
    all.filter(|flag| value_name(flag) == Some(value))
        .map(|flag| format!("--{}", flag.name))
        .collect()
}

fn value_name(flag: &Flag) -> Option<&'static str> {
    flag.value.map(|value| value.trim_matches(['[', ']']))
}

fn bash() -> String {
    let mut text = format!(
        "# bash completion for claude-safectl. Made by wrapper/src/manual.rs.\n\
         _claude_safectl() {{\n\
         \x20   local word=${{COMP_WORDS[COMP_CWORD]}} command=${{COMP_WORDS[1]-}} words=\n\
         \x20   COMPREPLY=()\n\
         \x20   if ((COMP_CWORD == 1)); then\n\
         \x20       mapfile -t COMPREPLY < <(compgen -W '{} --help --version' -- \"$word\")\n\
         \x20       return\n\
         \x20   fi\n",
        command_names().join(" ")
    );
    text.push_str("    case ${COMP_WORDS[COMP_CWORD - 1]} in\n");
    for (value, letter) in [("DIR", 'd'), ("FILE", 'f')] {
        let _ = write!(
            text,
            "    {})\n        \
             mapfile -t COMPREPLY < <(compgen -{letter} -- \"$word\")\n        return\n        ;;\n",
            options_with(value).join(" | ")
        );
    }
    text.push_str("    esac\n");
    text.push_str("    case $command in\n");
    for command in &COMMANDS {
        let _ = writeln!(text, "    {})", command.name);
        let verbs = names(command).join(" ");
        if verbs.is_empty() {
            let _ = writeln!(text, "        words='{}'", dashed(command).join(" "));
        } else {
            let _ = writeln!(
                text,
                "        if ((COMP_CWORD == 2)); then words='{verbs}'; else words='{}'; fi",
                dashed(command).join(" ")
            );
        }
        text.push_str("        ;;\n");
    }
    text.push_str(
        "    esac\n    \
             mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n\
         }\n\
         complete -F _claude_safectl claude-safectl\n",
    );
    text
}

/// Text between single quotes in zsh's `_arguments` and `_describe`, where `:` and `[` mean something.
fn zsh_text(text: &str) -> String {
    let text = text.replace('\'', "'\\''").replace(':', "\\:");
    text.replace('[', "\\[").replace(']', "\\]")
}

fn zsh() -> String {
    let mut text = "#compdef claude-safectl\n# Made by wrapper/src/manual.rs.\n\n\
         local curcontext=$curcontext state line\n\
         typeset -A opt_args\n\
         _arguments -C \\\n  \
         '(- *)'{-h,--help}'[show the commands and the variables]' \\\n  \
         '(- *)'{-V,--version}'[show the version]' \\\n  \
         '1:command:->command' \\\n  \
         '*::argument:->argument'\n\n\
         case $state in\n\
         command)\n  \
           local -a commands=(\n"
        .to_owned();
    for command in &COMMANDS {
        let _ = writeln!(text, "    '{}:{}'", command.name, zsh_text(command.help));
    }
    text.push_str(
        "  )\n  _describe -t commands command commands\n  ;;\nargument)\n  case $words[1] in\n",
    );
    for command in &COMMANDS {
        let mut specs: Vec<String> = Vec::new();
        if !command.verbs.is_empty() {
            let verbs = command.verbs.iter();
            let verbs = verbs.map(|verb| format!("{}\\:\"{}\"", verb.name, zsh_text(verb.help)));
            specs.push(format!(
                "'1:word:(({}))'",
                verbs.collect::<Vec<_>>().join(" ")
            ));
        } else if command.takes_pid {
            specs.push("'1:process:_pids'".to_owned());
        }
        for flag in command.options {
            let value = match value_name(flag) {
                Some("DIR") => ":folder:_files -/".to_owned(),
                Some("FILE") if flag.value == Some("[FILE]") => "::file:_files".to_owned(),
                Some("FILE") => ":file:_files".to_owned(),
                Some(value) => format!(":{}:", zsh_text(value)),
                None => String::new(),
            };
            specs.push(format!("'--{}[{}]{value}'", flag.name, zsh_text(flag.help)));
        }
        let specs = specs.join(" ");
        let _ = writeln!(text, "  {}) _arguments {specs} ;;", command.name);
    }
    text.push_str("  esac\n  ;;\nesac\n");
    text
}

fn fish_text(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

fn fish() -> String {
    let mut text = "# fish completion for claude-safectl. Made by wrapper/src/manual.rs.\n\
         complete -c claude-safectl -f\n\
         complete -c claude-safectl -n __fish_use_subcommand -s h -l help -d 'Show the commands and the variables'\n\
         complete -c claude-safectl -n __fish_use_subcommand -s V -l version -d 'Show the version'\n"
        .to_owned();
    for command in &COMMANDS {
        let name = command.name;
        let _ = writeln!(
            text,
            "complete -c claude-safectl -n __fish_use_subcommand -a {name} -d '{}'",
            fish_text(&capital(command.help))
        );
        let seen = format!("'__fish_seen_subcommand_from {name}'");
        let all = names(command).join(" ");
        for verb in command.verbs {
            let _ = writeln!(
                text,
                "complete -c claude-safectl -n '__fish_seen_subcommand_from {name}; and not \
                 __fish_seen_subcommand_from {all}' -a {} -d '{}'",
                verb.name,
                fish_text(&capital(verb.help))
            );
        }
        if command.takes_pid {
            let _ = writeln!(
                text,
                "complete -c claude-safectl -n {seen} -a '(__fish_complete_pids)'"
            );
        }
        for flag in command.options {
            let value = match value_name(flag) {
                Some("FILE") if flag.value == Some("[FILE]") => " -F",
                Some("FILE") => " -r -F",
                Some("DIR") => " -x -a '(__fish_complete_directories)'",
                Some(_) => " -x",
                None => "",
            };
            let _ = writeln!(
                text,
                "complete -c claude-safectl -n {seen} -l {}{value} -d '{}'",
                flag.name,
                fish_text(&capital(flag.help))
            );
        }
    }
    text
}

/// For `nix/options.nix`, which makes one typed option of each.
fn vocabulary() -> String {
    let one = |variable: &&Variable| {
        let mut entry = match variable.kind {
            Kind::Number { unit, min, max } => {
                json!({"kind": "number", "unit": unit, "min": min, "max": max})
            }
            Kind::Path => json!({"kind": "path"}),
            Kind::PathOrNone => json!({"kind": "pathOrNone"}),
            Kind::Program => json!({"kind": "program"}),
            Kind::Sizes => json!({"kind": "sizes", "min": 1, "max": MAX_SIZE_BYTES}),
            Kind::Mechanisms(words) => json!({"kind": "mechanisms", "words": words}),
            Kind::Word(words) => json!({"kind": "word", "words": words}),
            Kind::Switch => json!({"kind": "switch"}),
        };
        entry["name"] = variable.name.into();
        entry["default"] = variable.default.into();
        entry["help"] = variable.help.into();
        entry["expects"] = variable.kind.expectation().into();
        entry
    };
    let all: Value = ALL.iter().map(one).collect();
    let mut text = serde_json::to_string_pretty(&all).expect("a value made here is valid");
    text.push('\n');
    text
}

#[test]
fn the_documents_of_the_packages_say_what_the_tables_say() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap();
    let renew = std::env::var_os("CLAUDE_SAFE_RENEW").is_some_and(|value| value == "1");
    for (name, wanted) in documents() {
        let path = root.join(name);
        if renew {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &wanted).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == wanted,
            "{name} is not what the tables say; CLAUDE_SAFE_RENEW=1 cargo test -p claude-safe manual"
        );
    }
}

#[test]
fn no_placeholder_of_a_template_stays_and_no_line_becomes_a_macro_by_accident() {
    for (name, text) in documents() {
        assert!(!text.contains('@'), "{name}");
        assert!(text.ends_with('\n') && !text.contains("\n\n\n"), "{name}");
    }
    assert_eq!(roff(".x a-b\\c"), "\\&.x a\\-b\\(rsc");
}

#[test]
fn the_plugin_has_our_version() {
    let manifest: Value =
        serde_json::from_str(include_str!("../plugin/.claude-plugin/plugin.json")).unwrap();
    assert_eq!(manifest["version"], env!("CARGO_PKG_VERSION"));
}
