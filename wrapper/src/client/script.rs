//! The first line of a script, and where a script that only starts another program goes on to.
//!
//! Reads text; starts nothing, and guesses nothing: a script that does more than it can show is
//! left unexplained.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What the `#!` line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shebang {
    /// The program that the kernel starts.
    pub(super) interpreter: PathBuf,
    /// The rest of the line: one word to the kernel, whatever is in it.
    pub(super) argument: Option<OsString>,
}

/// Reads `#!INTERPRETER [ARGUMENT]` at the beginning of a file. `None`: no script.
pub(super) fn shebang(start: &[u8]) -> Option<Shebang> {
    let line = start.strip_prefix(b"#!")?;
    let end = line
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(line.len());
    let line = line[..end].trim_ascii();
    let cut = line
        .iter()
        .position(|byte| matches!(byte, b' ' | b'\t'))
        .unwrap_or(line.len());
    let (interpreter, argument) = line.split_at(cut);
    if interpreter.is_empty() {
        return None;
    }
    let argument = argument.trim_ascii();
    Some(Shebang {
        interpreter: PathBuf::from(OsStr::from_bytes(interpreter)),
        argument: (!argument.is_empty()).then(|| OsString::from_vec(argument.to_vec())),
    })
}

/// The program that env(1) will start when the kernel gives it `argument` from a `#!` line.
pub(super) fn env_program(argument: &OsStr) -> Option<OsString> {
    let text = argument.as_bytes();
    // Without -S the kernel's one word is the program's name, blanks and all.
    let split = [&b"-S"[..], b"--split-string=", b"-vS"]
        .iter()
        .find_map(|option| text.strip_prefix(*option));
    let Some(list) = split else {
        let is_program = !text.starts_with(b"-") && !text.contains(&b'=');
        return is_program.then(|| argument.to_os_string());
    };
    let mut words = list
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        match word {
            b"-u" | b"--unset" | b"-C" | b"--chdir" => {
                words.next();
            }
            _ if word.starts_with(b"-") || word.contains(&b'=') => {}
            // Quotes, variables and escapes have a meaning in -S that is not worth following.
            _ if word.iter().any(|byte| b"\"'\\$#".contains(byte)) => return None,
            _ => return Some(OsString::from_vec(word.to_vec())),
        }
    }
    None
}

/// Is this the name of a shell?
pub(super) fn is_shell(name: &OsStr) -> bool {
    const SHELLS: [&[u8]; 10] = [
        b"sh", b"bash", b"dash", b"ash", b"zsh", b"ksh", b"mksh", b"yash", b"fish", b"busybox",
    ];
    SHELLS.contains(&name.as_bytes())
}

/// Is this the name of a JavaScript runtime: the end of the chain?
pub(super) fn is_javascript_runtime(name: &OsStr) -> bool {
    const RUNTIMES: [&[u8]; 4] = [b"node", b"nodejs", b"bun", b"deno"];
    RUNTIMES.contains(&name.as_bytes())
}

/// The longest shell script that is looked into.
pub(super) const MAX_SHIM_BYTES: usize = 16 << 10;

/// The program to which a shell script hands over: its only `exec` line, when that reads
/// `exec [-a NAME] PROGRAM … "$@"` with a plain word for PROGRAM that is a client by its name, or a
/// JavaScript runtime. This is the form of the shims of package managers and of Nix's wrappers;
/// anything cleverer (`exec nice claude "$@"`) is not followed.
pub(super) fn handed_over_to(text: &[u8]) -> Option<OsString> {
    let mut execs = text
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter_map(|line| line.strip_prefix(b"exec "));
    let line = execs.next()?;
    if execs.next().is_some() {
        return None;
    }
    let line = line.trim_ascii();
    if !line.ends_with(b"\"$@\"") {
        return None;
    }
    let (mut word, mut rest) = shell_word(line)?;
    if word == b"-a" {
        // The name may hold variables: only where it ends matters.
        rest = skip_shell_word(rest);
        (word, rest) = shell_word(rest)?;
    }
    let program = OsString::from_vec(word);
    let name = Path::new(&program).file_name()?;
    let is_client = name.as_bytes().windows(6).any(|part| part == b"claude");
    (!rest.is_empty() && (is_client || is_javascript_runtime(name))).then_some(program)
}

/// One word that means itself: bare or in quotes, without variables, commands or escapes.
fn shell_word(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let text = text.trim_ascii_start();
    let (word, rest) = match text.first()? {
        quote @ (b'"' | b'\'') => {
            let end = text[1..].iter().position(|byte| byte == quote)? + 1;
            (&text[1..end], &text[end + 1..])
        }
        _ => {
            let end = text
                .iter()
                .position(u8::is_ascii_whitespace)
                .unwrap_or(text.len());
            text.split_at(end)
        }
    };
    let ends_here = rest.first().is_none_or(u8::is_ascii_whitespace);
    let means_itself = !word
        .iter()
        .any(|byte| b"$`\\\"'*?[]{}~;&|<>()".contains(byte));
    (ends_here && means_itself).then(|| (word.to_vec(), rest.trim_ascii_start()))
}

fn skip_shell_word(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii_start();
    let mut quote = None;
    for (at, byte) in text.iter().enumerate() {
        match (quote, byte) {
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            (None, byte) if byte.is_ascii_whitespace() => return &text[at..],
            _ => {}
        }
    }
    b""
}

/// Finds `name` as execvp(3) does: as it is when it holds a `/`, else in each folder of `search`
/// (an empty one is the current folder), the first executable file.
pub(crate) fn find_program(name: &OsStr, search: Option<&OsStr>) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return crate::os::files::is_executable_file(&path).then_some(path);
    }
    programs_on_path(name, search).next()
}

/// All executable files called `name` in the folders of `search`, in their order.
pub(super) fn programs_on_path<'a>(
    name: &'a OsStr,
    search: Option<&'a OsStr>,
) -> impl Iterator<Item = PathBuf> + 'a {
    search
        .into_iter()
        .flat_map(|search| search.as_bytes().split(|byte| *byte == b':'))
        .map(move |folder| match folder {
            b"" => Path::new(".").join(name),
            folder => Path::new(OsStr::from_bytes(folder)).join(name),
        })
        .filter(|path| crate::os::files::is_executable_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_read_as_the_kernel_reads_it() {
        for (text, interpreter, argument) in [
            ("#!/bin/sh\n", "/bin/sh", None),
            ("#! /bin/sh -e \nexit", "/bin/sh", Some("-e")),
            ("#!/usr/bin/env node", "/usr/bin/env", Some("node")),
            (
                "#!\t/usr/bin/env -S node --x  y\r\n",
                "/usr/bin/env",
                Some("-S node --x  y"),
            ),
        ] {
            let got = shebang(text.as_bytes()).unwrap();
            assert_eq!(got.interpreter, Path::new(interpreter), "{text:?}");
            assert_eq!(
                got.argument.as_deref(),
                argument.map(OsStr::new),
                "{text:?}"
            );
        }
        for text in ["", "#!", "#!  \n/bin/sh", "# !/bin/sh", "\x7fELF"] {
            assert_eq!(shebang(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn the_program_behind_env_is_found_in_each_form() {
        for (argument, program) in [
            ("node", Some("node")),
            ("node --flag", Some("node --flag")),
            ("-S node --flag", Some("node")),
            ("-Snode --flag", Some("node")),
            ("--split-string=node x", Some("node")),
            ("-S -i -u HOME A=1 node", Some("node")),
            ("-S \"node\"", None),
            ("-S $RUNTIME", None),
            ("-S -i", None),
            ("-i", None),
            ("A=1", None),
        ] {
            assert_eq!(
                env_program(OsStr::new(argument)).as_deref(),
                program.map(OsStr::new),
                "{argument}"
            );
        }
    }

    #[test]
    fn a_script_that_only_hands_over_shows_to_whom() {
        for (text, program) in [
            (
                "#!/bin/sh\nexec /opt/c/claude \"$@\"\n",
                Some("/opt/c/claude"),
            ),
            (
                "#!/bin/bash\n# x\nexport A=1\n  exec \"/a b/claude\" --x \"$@\"",
                Some("/a b/claude"),
            ),
            (
                "exec -a \"$0\" \"/nix/store/x/bin/.claude-wrapped\"  \"$@\" \n",
                Some("/nix/store/x/bin/.claude-wrapped"),
            ),
            ("exec claude-safe \"$@\"", Some("claude-safe")),
            ("exec '/x/claude' \"$@\"", Some("/x/claude")),
            ("exec \"$HOME/x\" \"$@\"", None),
            ("exec /x/y", None),
            ("exec /x \"$@\"\nexec /y \"$@\"", None),
            ("exec ~/x \"$@\"", None),
            ("exec \"$@\"", None),
            ("/x/y \"$@\"", None),
            ("exec env A=1 /x/claude \"$@\"", None),
            ("exec nice /x/claude \"$@\"", None),
            ("exec node /x/cli.js \"$@\"", Some("node")),
            ("", None),
        ] {
            assert_eq!(
                handed_over_to(text.as_bytes()).as_deref(),
                program.map(OsStr::new),
                "{text:?}"
            );
        }
    }

    #[test]
    fn programs_are_found_as_execvp_finds_them() {
        let scratch = crate::os::files::scratch::Scratch::new();
        scratch.write("a/claude", "no x bit");
        std::fs::create_dir_all(scratch.path().join("b/claude")).unwrap();
        let good = scratch.write_program("c/claude", "#!/bin/sh\n");
        let later = scratch.write_program("d/claude", "#!/bin/sh\n");
        let at = |name: &str| scratch.path().join(name).into_os_string();
        let search = [at("none"), at("a"), at("b"), at("c"), at("d")].join(OsStr::new(":"));
        let name = OsStr::new("claude");
        assert_eq!(
            find_program(name, Some(&search)).as_deref(),
            Some(good.as_path())
        );
        let all: Vec<PathBuf> = programs_on_path(name, Some(&search)).collect();
        assert_eq!(all, [good.clone(), later]);
        assert_eq!(find_program(name, None), None);
        assert_eq!(find_program(good.as_os_str(), None), Some(good));
    }
}
