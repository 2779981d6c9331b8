//! `claude-safectl shim` from outside: in homes of its own, with the real shells of this machine.
//!
//! The client is a script, laid out as the installers lay out theirs; it tells whose child it is. What a
//! shell does not start is never asked of claude-safectl, but of that shell.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use claude_safe_tests::pty::{detach, piped};
use claude_safe_tests::{KillOnDrop, Sandbox, artifacts, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// What a program said, and how it ended.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs to its end, in time. Little is written in these tests: no pipe fills up.
fn run(mut command: Command) -> Said {
    let mut child = KillOnDrop(piped(&mut command).stdin(Stdio::null()).spawn().unwrap());
    let status = wait_until(&format!("the end of {command:?}"), SOON, || {
        child.0.try_wait().unwrap()
    });
    let text = |pipe: &mut dyn std::io::Read| {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Said {
        code: status.code(),
        out: text(child.0.stdout.as_mut().unwrap()),
        err: text(child.0.stderr.as_mut().unwrap()),
    }
}

/// Says why a test does less than its name. Past the harness, which shows nothing of a test that passes.
fn skipped(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what}: {why}");
}

fn is_here(program: &str) -> bool {
    ["/usr/bin", "/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists())
}

/// One way in which a shell starts: its name, and its words up to the script.
type Start = (&'static str, &'static [&'static str]);

const BASH: &[Start] = &[
    ("bash", &["-l", "-c"]),
    ("bash", &["-i", "-c"]),
    ("bash", &["-l", "-i", "-c"]),
];
/// What reads `.profile` and nothing else.
const PROFILE: &[Start] = &[("dash", &["-l", "-c"]), ("bash", &["-l", "-c"])];
const ZSH: &[Start] = &[
    ("zsh", &["-c"]),
    ("zsh", &["-l", "-c"]),
    ("zsh", &["-i", "-c"]),
    ("zsh", &["-l", "-i", "-c"]),
];
const FISH: &[Start] = &[
    ("fish", &["-c"]),
    ("fish", &["-l", "-c"]),
    ("fish", &["-i", "-c"]),
];

/// Each file of a home: its mode and content.
type Everything = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// A user's home.
struct Home {
    sandbox: Sandbox,
    login_shell: &'static str,
}

impl Home {
    fn new(login_shell: &'static str) -> Home {
        let home = Home {
            sandbox: Sandbox::new(),
            login_shell,
        };
        let of = artifacts();
        let bin = home.sandbox.file("bin");
        fs::create_dir(&bin).unwrap();
        home.copy(&[&of.claude_safe, &of.claude_safectl], &bin);
        home
    }

    /// Copies programs, a link as a link. By another process: see [`Home::client`].
    fn copy(&self, programs: &[&Path], to: &Path) {
        let mut command = self.command(Path::new("/bin/cp"));
        assert!(
            command
                .arg("-P")
                .args(programs)
                .arg(to)
                .status()
                .unwrap()
                .success()
        );
    }

    /// claude-safe and claude-safectl, with no package around them whose shim folder would be taken.
    fn safe(&self) -> PathBuf {
        self.sandbox.file("bin/claude-safe")
    }

    fn ctl(&self) -> PathBuf {
        self.sandbox.file("bin/claude-safectl")
    }

    /// As Debian makes a home, with a client of the native installer.
    fn of_debian() -> Home {
        let home = Home::new("/bin/bash");
        for name in [".profile", ".bashrc"] {
            fs::copy(Path::new("/etc/skel").join(name), home.path(name)).unwrap();
        }
        home.native_client("1.0.1");
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sandbox.home().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn shim(&self) -> PathBuf {
        self.path(".local/share/claude-safe/bin")
    }

    /// A client that tells its version, its parent and its arguments, and ends with 7. Written by another
    /// process: what one of ours has open for writing while a thread forks can't be executed (ETXTBSY).
    fn client(&self, path: &Path, version: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = format!(
            "#!/bin/sh\nreadlink /proc/$PPID/exe\nprintf '[%s]' {version} \"$@\"\necho\nexit 7\n"
        );
        let script = "printf %s \"$1\" >\"$2\" && chmod 755 \"$2\"";
        let mut command = self.sandbox.command("/bin/sh");
        command.args(["-c", script, "sh", &text]).arg(path);
        assert!(command.status().unwrap().success());
    }

    /// As the native installer and its self-update do it: a file for each version, and a link that is
    /// replaced.
    fn native_client(&self, version: &str) {
        let file = self.path(".local/share/claude/versions").join(version);
        self.client(&file, version);
        let (link, new) = (
            self.path(".local/bin/claude"),
            self.path(".local/bin/claude.new"),
        );
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(file, &new).unwrap();
        fs::rename(new, link).unwrap();
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = self.sandbox.command(program);
        command
            .env_remove("XDG_CONFIG_HOME")
            .env("PATH", "/usr/bin:/bin")
            .env("SHELL", self.login_shell)
            .env("TERM", "dumb");
        command
    }

    fn shim_command(&self, words: &[&str]) -> Command {
        let mut command = self.command(&self.ctl());
        command.arg("shim").args(words);
        command
    }

    /// `claude-safectl shim …`. All that it says is its answer, and fits 80 columns but for paths.
    #[track_caller]
    fn shim_says(&self, words: &[&str]) -> Said {
        let said = run(self.shim_command(words));
        assert_eq!(said.err, "", "{words:?}");
        for line in said.out.lines().filter(|line| !line.contains('/')) {
            assert!(line.chars().count() <= 80, "{line}");
            assert!(!line.contains('\u{1b}'), "{line:?}");
        }
        said
    }

    #[track_caller]
    fn install(&self) -> String {
        let said = self.shim_says(&["install"]);
        assert_eq!(said.code, Some(0), "{}", said.out);
        said.out
    }

    #[track_caller]
    fn remove(&self) -> String {
        let said = self.shim_says(&["remove"]);
        assert_eq!(said.code, Some(0), "{}", said.out);
        said.out
    }

    fn status(&self) -> (Option<i32>, Value) {
        let said = self.shim_says(&["status", "--json"]);
        (said.code, serde_json::from_str(&said.out).unwrap())
    }

    fn in_shell(&self, start: Start, script: &str) -> Said {
        let mut command = self.command(Path::new("/usr/bin").join(start.0).as_path());
        command.args(start.1).arg(script);
        // An interactive shell would take the terminal of the test run.
        detach(&mut command);
        run(command)
    }

    /// Typing `claude` in these shells starts this version of the client, in claude-safe or bare, with
    /// its arguments and its exit status.
    #[track_caller]
    fn typing_claude_starts(&self, starts: &[Start], version: &str, in_claude_safe: bool) {
        for start in starts {
            if !is_here(start.0) {
                skipped(&format!("{start:?}"), "it is not installed");
                continue;
            }
            let said = self.in_shell(*start, "command -v claude; claude -p 'two words'");
            let lines: Vec<&str> = said.out.lines().collect();
            let [typed, parent, arguments] = lines[..] else {
                panic!("{start:?}: {said:?}");
            };
            let shim = self.shim().join("claude");
            assert_eq!(
                Path::new(typed) == shim,
                in_claude_safe,
                "{start:?}: {said:?}"
            );
            let parent_is_ours = parent.ends_with("/claude-safe");
            assert_eq!(parent_is_ours, in_claude_safe, "{start:?}: {said:?}");
            assert_eq!(
                arguments,
                format!("[{version}][-p][two words]"),
                "{start:?}"
            );
            assert_eq!(said.code, Some(7), "{start:?}: {said:?}");
        }
    }

    /// Everything in the home but what fish writes for itself: its mode and content.
    fn everything(&self) -> Everything {
        fn walk(folder: &Path, all: &mut Everything) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let found = path.symlink_metadata().unwrap();
                let of_fish = ["share/fish", "fish/fish_variables", ".cache"];
                if of_fish.iter().any(|name| path.ends_with(name)) {
                    continue;
                }
                let content = if found.is_dir() {
                    walk(&path, all);
                    Vec::new()
                } else if found.is_symlink() {
                    fs::read_link(&path)
                        .unwrap()
                        .into_os_string()
                        .into_encoded_bytes()
                } else {
                    fs::read(&path).unwrap()
                };
                all.insert(path, (found.mode(), content));
            }
        }
        let mut all = BTreeMap::new();
        walk(&self.sandbox.home(), &mut all);
        all
    }
}

/// The same in both: else the names of what differs, not its bytes.
#[track_caller]
fn same(now: &Everything, then: &Everything, what: &str) {
    let names = now.keys().chain(then.keys());
    let different: Vec<_> = names
        .filter(|name| now.get(*name) != then.get(*name))
        .collect();
    assert!(different.is_empty(), "{what}: {different:?}");
}

/// install, a second install, every shell, a self-update, remove: in a home as it is.
#[track_caller]
fn whole_round(home: &Home, starts: &[&[Start]]) {
    let starts = starts.concat();
    // fish makes its folders when it first starts, zsh asks for none.
    if starts.contains(&FISH[0]) && is_here("fish") {
        assert_eq!(home.in_shell(("fish", &["-c"]), "true").code, Some(0));
    }
    let before = home.everything();
    home.install();
    let installed = home.everything();
    assert_ne!(before, installed);
    let again = home.install();
    assert!(
        !again.contains("added") && !again.contains("made"),
        "{again}"
    );
    same(
        &home.everything(),
        &installed,
        "a second install changes nothing",
    );
    home.typing_claude_starts(&starts, "1.0.1", true);
    home.native_client("1.0.2");
    home.typing_claude_starts(&starts, "1.0.2", true);
    home.native_client("1.0.1");
    fs::remove_file(home.path(".local/share/claude/versions/1.0.2")).unwrap();
    home.remove();
    same(&home.everything(), &before, "every byte is back");
    let nothing = home.remove();
    assert!(nothing.contains("There was nothing"), "{nothing}");
    same(&home.everything(), &before, "as it was");
}

#[test]
fn in_a_home_as_debian_makes_it() {
    let home = Home::of_debian();
    let login = &BASH[..1];
    home.typing_claude_starts(login, "1.0.1", false);
    whole_round(&home, &[BASH, PROFILE]);
    home.typing_claude_starts(login, "1.0.1", false);
}

#[test]
fn in_an_empty_home_of_each_shell() {
    for (shell, starts) in [
        ("/bin/bash", &[BASH, PROFILE][..]),
        ("/bin/sh", &[PROFILE]),
        ("/usr/bin/zsh", &[ZSH, PROFILE]),
        ("/usr/bin/fish", &[FISH, PROFILE]),
    ] {
        let home = Home::new(shell);
        home.native_client("1.0.1");
        whole_round(&home, starts);
    }
}

#[test]
fn where_every_start_file_puts_the_clients_folder_first() {
    let home = Home::new("/bin/bash");
    home.native_client("1.0.1");
    let posix = "export PATH=\"$HOME/.local/bin:$PATH\"";
    // Without a newline, with CR LF, in no encoding, empty.
    home.write(".bash_profile", posix);
    home.write(".bash_login", "");
    home.write(".profile", format!("# caf\u{e9}\n{posix}\n\n\n"));
    home.write(
        ".bashrc",
        [b"# \xff\xfe\r\n", posix.as_bytes(), b"\n"].concat(),
    );
    home.write(".zshenv", format!("{posix}\n"));
    home.write(".zprofile", posix);
    home.write(".zshrc", "typeset -U path\npath=(~/.local/bin $path)\n");
    home.write(".zlogin", format!("{posix}\n"));
    home.write(
        ".config/fish/config.fish",
        "fish_add_path ~/.local/bin\nset -gx PATH ~/.local/bin $PATH",
    );
    let all = [BASH, PROFILE, ZSH, FISH];
    home.typing_claude_starts(&all.concat(), "1.0.1", false);
    whole_round(&home, &all);
    home.typing_claude_starts(&all.concat(), "1.0.1", false);
}

#[test]
fn a_client_of_npm_and_its_update() {
    let home = Home::new("/bin/bash");
    let cli = home.path(".npm-global/lib/node_modules/@anthropic-ai/claude-code/cli.js");
    home.client(&cli, "1.0.1");
    let link = home.path(".npm-global/bin/claude");
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink(
        "../lib/node_modules/@anthropic-ai/claude-code/cli.js",
        &link,
    )
    .unwrap();
    home.write(".profile", "PATH=~/.npm-global/bin:$PATH\n");
    let before = home.everything();
    home.typing_claude_starts(PROFILE, "1.0.1", false);
    home.install();
    home.typing_claude_starts(PROFILE, "1.0.1", true);
    // npm removes the whole package and the link, and puts them there anew.
    fs::remove_file(&link).unwrap();
    fs::remove_file(&cli).unwrap();
    let none = home.in_shell(PROFILE[0], "claude -p x");
    assert_eq!(none.code, Some(127), "{none:?}");
    home.client(&cli, "1.0.2");
    symlink(
        "../lib/node_modules/@anthropic-ai/claude-code/cli.js",
        &link,
    )
    .unwrap();
    home.typing_claude_starts(PROFILE, "1.0.2", true);
    home.remove();
    home.client(&cli, "1.0.1");
    same(&home.everything(), &before, "as it was");
}

#[test]
fn a_line_put_behind_the_block_later_on_is_told_and_the_block_moves_behind_it() {
    let home = Home::of_debian();
    let before = home.read(".profile");
    home.install();
    assert_eq!(home.status().1["new_login_shell"], "yes");
    let line = "export PATH=\"$HOME/.local/bin:$PATH\"\n";
    home.write(".profile", home.read(".profile") + line);
    home.typing_claude_starts(&BASH[..1], "1.0.1", false);
    let (code, status) = home.status();
    assert_eq!(
        (code, &status["new_login_shell"]),
        (Some(1), &"perhaps".into())
    );
    let said = home.install();
    assert!(said.contains("renewed    ~/.profile"), "{said}");
    home.typing_claude_starts(BASH, "1.0.1", true);
    assert_eq!(home.status().1["new_login_shell"], "yes");
    home.remove();
    assert_eq!(home.read(".profile"), before + line);
}

#[test]
fn the_block_neither_fails_a_strict_shell_nor_doubles_its_folder() {
    let home = Home::of_debian();
    home.install();
    let profile = home.write(
        "block",
        home.read(".profile")
            .split_off(home.read(".profile").find("# >>>").unwrap()),
    );
    let shim = home.shim().display().to_string();
    let strict: &[Start] = &[
        ("bash", &["-euc"]),
        ("bash", &["--posix", "-euc"]),
        ("dash", &["-euc"]),
        ("zsh", &["-feuc"]),
        (
            "zsh",
            &[
                "-f",
                "-o",
                "KSH_ARRAYS",
                "-o",
                "SH_WORD_SPLIT",
                "-o",
                "GLOB_SUBST",
                "-o",
                "ERR_RETURN",
                "-euc",
            ],
        ),
    ];
    for start in strict.iter().filter(|start| is_here(start.0)) {
        for (path, becomes) in [
            ("/usr/bin:/bin".to_owned(), format!("{shim}:/usr/bin:/bin")),
            (
                format!("/bin:{shim}:/usr/bin:{shim}:{shim}"),
                format!("{shim}:/bin:/usr/bin"),
            ),
            (shim.clone(), shim.clone()),
            (format!("{shim}:/bin"), format!("{shim}:/bin")),
            (
                format!("{shim}x:/x{shim}"),
                format!("{shim}:{shim}x:/x{shim}"),
            ),
            (":/bin:".to_owned(), format!("{shim}::/bin:")),
        ] {
            let script = format!(
                "PATH='{path}'; . {0}; . {0}; echo \"$PATH ${{_cs-}}${{_csp-}}\"",
                profile.display()
            );
            let said = home.in_shell(*start, &script);
            assert_eq!(said.out, format!("{becomes} \n"), "{start:?} {said:?}");
            assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{start:?}");
        }
        let script = format!("unset PATH; . {}; echo \"$PATH\"", profile.display());
        assert_eq!(
            home.in_shell(*start, &script).out,
            format!("{shim}\n"),
            "{start:?}"
        );
    }
    // The package is gone: nothing breaks, and the client is started bare.
    fs::remove_file(home.shim().join("claude")).unwrap();
    for start in strict.iter().filter(|start| is_here(start.0)) {
        let script = format!("PATH=/a; . {}; echo \"$PATH\"", profile.display());
        let said = home.in_shell(*start, &script);
        assert_eq!(
            (said.code, said.out.as_str(), said.err.as_str()),
            (Some(0), "/a\n", "")
        );
    }
    home.typing_claude_starts(&BASH[..1], "1.0.1", false);
    symlink("/no/longer/claude-safe", home.shim().join("claude")).unwrap();
    home.typing_claude_starts(&BASH[..1], "1.0.1", false);
    assert_eq!(home.status().1["start_files"][0]["state"], "idle");
    let said = home.install();
    assert!(
        said.contains("renewed    ~/.local/share/claude-safe/bin/claude"),
        "{said}"
    );
    home.typing_claude_starts(&BASH[..1], "1.0.1", true);
}

#[test]
fn the_folder_may_have_a_name_that_shells_would_read_otherwise() {
    let home = Home::of_debian();
    home.write(".zshrc", "");
    home.write(".config/fish/config.fish", "");
    let folder = home.path("it's $HOME \\ \"*?[x]`id`/bin");
    let said = home.shim_says(&["install", "--dir", folder.to_str().unwrap()]);
    assert_eq!(said.code, Some(0), "{}", said.out);
    for start in [BASH, PROFILE, ZSH, FISH].concat() {
        if is_here(start.0) {
            let said = home.in_shell(start, "command -v claude");
            assert_eq!(
                Path::new(said.out.trim_end()),
                folder.join("claude"),
                "{start:?} {said:?}"
            );
        }
    }
    home.remove();
    assert!(!folder.exists(), "the blocks tell where the link is");
}

#[test]
fn nothing_is_changed_by_a_dry_run_and_its_diff_is_what_install_does() {
    let home = Home::of_debian();
    let added = |out: &str| -> Vec<String> {
        let lines = out
            .lines()
            .filter(|line| line.starts_with('+') && !line.starts_with("+++"));
        lines.map(|line| line[1..].to_owned()).collect()
    };
    let before = home.everything();
    let shown = home.shim_says(&["install", "--dry-run"]);
    assert_eq!(
        (shown.code, home.everything() == before),
        (Some(0), true),
        "{}",
        shown.out
    );
    home.install();
    let mut expected = Vec::new();
    for name in [".profile", ".bashrc"] {
        let text = home.read(name);
        let block = text.find("# >>>").unwrap();
        expected.extend(text[block..].lines().map(str::to_owned));
    }
    assert_eq!(added(&shown.out), expected);
    let installed = home.everything();
    let shown = home.shim_says(&["install", "--dry-run"]);
    assert_eq!(added(&shown.out), Vec::<String>::new());
    let shown = home.shim_says(&["remove", "--dry-run"]);
    same(&home.everything(), &installed, "as it was");
    let taken = shown
        .out
        .lines()
        .filter(|line| line.starts_with('-') && !line.starts_with("---"));
    assert_eq!(taken.map(|line| &line[1..]).collect::<Vec<_>>(), expected);
}

#[test]
fn markers_that_were_tampered_with_are_left_alone_and_the_rest_is_done() {
    let home = Home::of_debian();
    home.install();
    let good = home.read(".bashrc");
    for (name, text) in [
        (
            "edited",
            good.replace("  export PATH", "  export PATH MINE=1"),
        ),
        ("no end", good.replace("# <<< claude-safe shim <<<\n", "")),
        (
            "twice",
            format!("{good}{}", &good[good.find("# >>>").unwrap()..]),
        ),
        ("CR LF", good.replace('\n', "\r\n")),
    ] {
        home.write(".bashrc", &text);
        for verb in ["install", "remove"] {
            let said = home.shim_says(&[verb]);
            assert_eq!(said.code, Some(1), "{name}: {}", said.out);
            assert!(
                said.out.contains("refused    ~/.bashrc\n           line 1"),
                "{}",
                said.out
            );
            assert_eq!(home.read(".bashrc"), text, "{name}");
            let is_there = home.read(".profile").contains("claude-safe shim");
            assert_eq!(is_there, verb == "install", "the other file is done");
        }
        let (_, status) = home.status();
        let files = status["start_files"].as_array().unwrap();
        assert!(
            files.iter().any(|file| file["state"] == "damaged"),
            "{status}"
        );
    }
}

#[test]
fn start_files_that_are_not_to_be_written_are_refused_with_what_to_do() {
    let home = Home::of_debian();
    let refused = |name: &str, says: &str| {
        let before = home.everything();
        let said = home.shim_says(&["install"]);
        assert_eq!(said.code, Some(1), "{}", said.out);
        let reason = format!("refused    ~/{name}\n           {says}");
        assert!(said.out.contains(&reason), "{}", said.out);
        assert!(
            said.out
                .contains("by hand, at its end:\n           export PATH='"),
            "{}",
            said.out
        );
        let own = home.path(name);
        assert_eq!(home.everything().get(&own), before.get(&own));
        // Nothing but that is a fault, and remove has nothing to say of it.
        let said = home.shim_says(&["remove"]);
        assert_eq!(said.code, Some(0), "{}", said.out);
    };
    let mode = |name: &str, mode| {
        fs::set_permissions(home.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(".bashrc", 0o444);
    refused(".bashrc", "it is write-protected (mode 444)");
    mode(".bashrc", 0o644);
    fs::hard_link(home.path(".bashrc"), home.path("second-name")).unwrap();
    refused(".bashrc", "it has a second name");
    fs::remove_file(home.path("second-name")).unwrap();
    let moved = home.path("moved");
    fs::rename(home.path(".bashrc"), &moved).unwrap();
    symlink(home.path("nowhere"), home.path(".bashrc")).unwrap();
    refused(".bashrc", "it is a link to ");
    fs::remove_file(home.path(".bashrc")).unwrap();
    fs::create_dir(home.path(".bashrc")).unwrap();
    refused(".bashrc", "it is no regular file");
    fs::remove_dir(home.path(".bashrc")).unwrap();
    let pipe = run({
        let mut command = home.command(Path::new("/usr/bin/mkfifo"));
        command.arg(home.path(".bashrc"));
        command
    });
    assert_eq!(pipe.code, Some(0));
    let said = home.shim_says(&["install"]);
    assert!(said.out.contains("it is no regular file"), "{}", said.out);
    home.remove();
    fs::remove_file(home.path(".bashrc")).unwrap();
    home.write(".bashrc", vec![b'#'; 2 << 20]);
    refused(".bashrc", "it has more than 1 MiB");
    fs::rename(moved, home.path(".bashrc")).unwrap();
    if fs::metadata(home.path(".bashrc")).unwrap().uid() == 0 {
        std::os::unix::fs::chown(home.path(".bashrc"), Some(12345), None).unwrap();
        refused(".bashrc", "it belongs to user id 12345, not 0");
    }
}

#[test]
fn a_start_file_that_is_a_link_stays_one_and_modes_stay() {
    let home = Home::of_debian();
    let dotfiles = home.path("dotfiles");
    fs::create_dir(&dotfiles).unwrap();
    fs::rename(home.path(".bashrc"), dotfiles.join("bashrc")).unwrap();
    fs::set_permissions(dotfiles.join("bashrc"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("dotfiles/bashrc", home.path(".bashrc")).unwrap();
    fs::set_permissions(home.path(".profile"), fs::Permissions::from_mode(0o640)).unwrap();
    whole_round(&home, &[BASH]);
}

#[test]
fn a_full_disk_leaves_every_file_as_it_was() {
    let home = Home::of_debian();
    let disk = home.sandbox.file("disk");
    fs::create_dir(&disk).unwrap();
    let kept = home.sandbox.file("kept");
    fs::create_dir(&kept).unwrap();
    let script = "
        mount -t tmpfs -o size=32k,mode=755 none \"$HOME\" && mkdir -p \"$HOME/$BIN\" &&
            cp /etc/skel/.profile /etc/skel/.bashrc \"$HOME\" &&
            cp /etc/skel/.profile /etc/skel/.bashrc \"$KEPT\" &&
            ln -s \"$SAFE\" \"$HOME/$BIN/claude\" || exit 42
        cat /dev/zero 2>/dev/null >\"$HOME/filler\" && exit 43
        \"$CTL\" shim install
        rc=$?
        cmp \"$HOME/.profile\" \"$KEPT/.profile\" && cmp \"$HOME/.bashrc\" \"$KEPT/.bashrc\" || exit 44
        [ \"$(ls -A \"$HOME\" | wc -l)\" = 4 ] || exit 45
        rm \"$HOME/filler\"
        \"$CTL\" shim install || exit 46
        exit $rc";
    if fs::metadata(&disk).unwrap().uid() != 0 {
        // In a user namespace `/` belongs to nobody, and no folder below it is trusted.
        skipped(
            "a_full_disk_leaves_every_file_as_it_was",
            "only root can mount",
        );
        return;
    }
    let mut command = home.command(Path::new("/usr/bin/unshare"));
    command
        .args(["-m", "sh", "-c", script])
        .env("HOME", &disk)
        .env("KEPT", &kept)
        .env("BIN", ".local/share/claude-safe/bin")
        .env("SAFE", home.safe())
        .env("CTL", home.ctl());
    let said = run(command);
    if said.code == Some(42) || said.err.contains("unshare") {
        skipped(
            "a_full_disk_leaves_every_file_as_it_was",
            "no mount namespace here",
        );
        return;
    }
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("refused    ~/.profile\n"), "{said:?}");
    assert!(said.out.contains("No space left on device"), "{said:?}");
    assert!(
        said.out.contains("added to   ~/.bashrc\n"),
        "with room it works: {said:?}"
    );
}

#[test]
fn many_at_once_do_what_one_does() {
    let home = Home::of_debian();
    let before = home.everything();
    home.install();
    let installed = home.everything();
    home.remove();
    for (verb, expected) in [("install", &installed), ("remove", &before)] {
        let mut all: Vec<KillOnDrop> = (0..8)
            .map(|_| {
                let mut command = home.shim_command(&[verb]);
                command.stdout(Stdio::null());
                KillOnDrop(command.spawn().unwrap())
            })
            .collect();
        for child in &mut all {
            let status = wait_until("its end", SOON, || child.0.try_wait().unwrap());
            assert_eq!(status.code(), Some(0), "{verb}");
        }
        same(&home.everything(), expected, verb);
    }
}

#[test]
fn without_a_home_of_ones_own_nothing_is_done() {
    let home = Home::of_debian();
    let file = home.write("file", "");
    let said = |value: Option<&Path>| {
        let mut command = home.shim_command(&["install"]);
        match value {
            Some(value) => command.env("HOME", value),
            None => command.env_remove("HOME"),
        };
        let said = run(command);
        assert_eq!(said.code, Some(1), "{said:?}");
        said.out
    };
    let before = home.everything();
    assert!(said(None).contains("HOME does not name a folder"));
    assert!(said(Some(Path::new("relative"))).contains("HOME does not name a folder"));
    assert!(said(Some(Path::new("/no/such"))).contains("No such file"));
    assert!(said(Some(&file)).contains("which is no folder"));
    let own = fs::metadata(&file).unwrap().uid();
    if own == 0 {
        // As under sudo, which may keep the HOME of the caller.
        std::os::unix::fs::chown(home.sandbox.home(), Some(12345), None).unwrap();
        let told = said(Some(&home.sandbox.home()));
        assert!(told.contains("belongs to user id 12345, not 0"), "{told}");
    } else {
        assert!(said(Some(Path::new("/"))).contains("belongs to user id 0"));
    }
    same(&home.everything(), &before, "as it was");
}

#[test]
fn a_folder_of_ones_choice_is_used_if_nobody_else_can_write_there() {
    let home = Home::of_debian();
    let before = home.everything();
    let folder = home.path("tools/bin");
    let dir = folder.to_str().unwrap();
    let said = home.shim_says(&["install", "--dir", dir]);
    assert_eq!(said.code, Some(0), "{}", said.out);
    let target = fs::read_link(folder.join("claude")).unwrap();
    assert_eq!(target, home.safe());
    assert!(home.read(".profile").contains(dir));
    assert!(!home.shim().exists());
    home.remove();
    same(&home.everything(), &before, "as it was");

    let open = home.path("open");
    fs::create_dir(&open).unwrap();
    for (mode, code) in [(0o777, 1), (0o1777, 1), (0o775, 0), (0o755, 0)] {
        fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
        let said = home.shim_says(&["install", "--dir", open.to_str().unwrap()]);
        assert_eq!(said.code, Some(code), "{mode:o}: {}", said.out);
        let names_it = said.out.contains("can be written by everybody");
        assert_eq!(names_it, code == 1, "{}", said.out);
        assert_eq!(open.join("claude").is_symlink(), code == 0);
        assert_eq!(
            home.read(".profile").contains("claude-safe shim"),
            code == 0
        );
    }
    for (dir, code) in [("/x:y", 1), ("/x\ny", 1), ("", 2)] {
        assert_eq!(
            home.shim_says(&["install", "--dir", dir]).code,
            Some(code),
            "{dir:?}"
        );
    }
}

#[test]
fn a_claude_in_the_folder_that_is_not_our_link_is_left_and_named() {
    let home = Home::of_debian();
    let claude = home.shim().join("claude");
    home.client(&claude, "mine");
    let before = home.everything();
    let said = home.shim_says(&["install"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.out
            .contains("refused    ~/.local/share/claude-safe/bin/claude\n"),
        "{}",
        said.out
    );
    assert!(said.out.contains("it is not claude-safe"), "{}", said.out);
    same(&home.everything(), &before, "as it was");
    fs::remove_file(&claude).unwrap();
    home.install();
    fs::remove_file(&claude).unwrap();
    for is_a_link in [false, true] {
        if is_a_link {
            symlink(home.path(".local/bin/claude"), &claude).unwrap();
        } else {
            home.client(&claude, "mine");
        }
        let said = home.shim_says(&["remove"]);
        assert_eq!(said.code, Some(1), "{}", said.out);
        assert!(
            said.out
                .contains("left       ~/.local/share/claude-safe/bin/claude\n"),
            "{}",
            said.out
        );
        assert!(claude.exists());
        fs::remove_file(&claude).unwrap();
    }
    assert!(!home.read(".profile").contains("claude-safe shim"));
}

/// A package below a folder of its own: the programs, the link of its shim folder.
fn package(home: &Home) -> PathBuf {
    let prefix = home.sandbox.file("prefix");
    let script =
        "mkdir -p \"$2/bin\" \"$2/lib/claude-safe/bin\" && cp \"$1\" \"$2/bin/claude-safe\" &&
        ln -s claude-safe \"$2/bin/claude-safectl\" &&
        ln -s ../../../bin/claude-safe \"$2/lib/claude-safe/bin/claude\" && chmod -R go-w \"$2\"";
    let mut command = home.command(Path::new("/bin/sh"));
    command
        .args(["-c", script, "sh"])
        .arg(home.safe())
        .arg(&prefix);
    assert!(command.status().unwrap().success());
    prefix
}

#[test]
fn the_folder_of_a_package_is_used_as_it_is() {
    let home = Home::of_debian();
    let prefix = package(&home);
    let folder = prefix.join("lib/claude-safe/bin");
    let shim = |verb: &str| {
        let mut command = home.command(&prefix.join("bin/claude-safectl"));
        command.args(["shim", verb]);
        run(command)
    };
    let before = home.everything();
    let said = shim("install");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("-> ../../../bin/claude-safe"), "{said:?}");
    assert!(!home.shim().exists());
    let typed = home.in_shell(BASH[0], "command -v claude; claude -p x");
    let claude = folder.join("claude");
    let safe = prefix.join("bin/claude-safe");
    let expected = format!("{}\n{}\n[1.0.1][-p][x]\n", claude.display(), safe.display());
    assert_eq!((typed.out, typed.code), (expected, Some(7)));
    let said = shim("remove");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        claude.is_symlink() && said.out.contains("it belongs to the package"),
        "{said:?}"
    );
    same(&home.everything(), &before, "as it was");
    // Somebody else could put another claude there.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let said = shim("install");
    assert_eq!(said.code, Some(0), "{said:?}");
    let target = fs::read_link(home.shim().join("claude")).unwrap();
    assert_eq!(target, safe);
    // The name on PATH, which lasts: here as Nix would have it.
    let profile = home.path("profile/bin");
    fs::create_dir_all(&profile).unwrap();
    symlink(&safe, profile.join("claude-safe")).unwrap();
    let mut command = home.command(&prefix.join("bin/claude-safectl"));
    command
        .args(["shim", "install"])
        .env("PATH", format!("{}:/usr/bin", profile.display()));
    assert_eq!(run(command).code, Some(0));
    let target = fs::read_link(home.shim().join("claude")).unwrap();
    assert_eq!(target, profile.join("claude-safe"));
}

#[test]
fn with_every_kind_of_shim_on_the_path_the_client_is_started_once_and_nothing_loops() {
    let home = Home::of_debian();
    home.install();
    let own = home.shim();
    let packaged = package(&home).join("lib/claude-safe/bin");
    let copy = home.path("copy");
    let script = home.path("script");
    for (folder, text) in [
        (&copy, "cp \"$1\" \"$2/claude\""),
        (
            &script,
            "printf '#!/bin/sh\\nexec %s \"$@\"\\n' \"$1\" >\"$2/claude\" && chmod 755 \"$2/claude\"",
        ),
    ] {
        fs::create_dir(folder).unwrap();
        let mut command = home.command(Path::new("/bin/sh"));
        command
            .args(["-c", text, "sh"])
            .arg(home.safe())
            .arg(folder);
        assert!(command.status().unwrap().success());
    }
    let client = home.path(".local/bin");
    let all = [&own, &packaged, &copy, &script];
    for first in all {
        for variable in ["CLAUDE_SAFE_X", "CLAUDE_SAFE_DISABLE"] {
            let folders = [&[first, first][..], &all, &all, &[&client, first]].concat();
            let path: Vec<_> = folders
                .iter()
                .map(|folder| folder.to_str().unwrap())
                .collect();
            let mut command = home.command(&first.join("claude"));
            command
                .args(["-p", "x"])
                .env("PATH", format!("{}:/usr/bin:/bin", path.join(":")))
                // A copy does not know where the guard is.
                .env("CLAUDE_MALLOC_GUARD_LIB", "")
                .env(variable, "1");
            let said = run(command);
            assert_eq!(said.code, Some(7), "{first:?} {said:?}");
            assert_eq!(
                said.out.matches("[1.0.1][-p][x]\n").count(),
                1,
                "{first:?} {said:?}"
            );
            assert_eq!(said.err, "", "{first:?}");
        }
    }
    // No client at all: told, and no loop.
    let mut command = home.command(&own.join("claude"));
    let path = format!(
        "{0}:{1}:{0}:/usr/bin:/bin",
        own.display(),
        packaged.display()
    );
    command.env("PATH", path).env("HOME", home.sandbox.tmp());
    let said = run(command);
    assert_eq!(said.code, Some(127), "{said:?}");
    assert!(said.err.contains("no claude found"), "{said:?}");
}

#[test]
fn status_and_doctor_tell_what_typing_claude_starts() {
    let home = Home::of_debian();
    let ctl = home.ctl().display().to_string();
    let (code, status) = home.status();
    assert_eq!(code, Some(1));
    assert_eq!(
        (
            &status["claude"],
            &status["is_claude_safe"],
            &status["new_login_shell"]
        ),
        (&Value::Null, &false.into(), &"no".into())
    );
    assert_eq!(status["start_files"][0]["state"], "no block");
    // A new login shell: the client itself, and doctor has the remedy.
    let doctor = |words: &str| home.in_shell(BASH[0], &format!("{ctl} {words}"));
    let bare = doctor("doctor");
    // 1 where this machine lacks something else.
    assert!(
        matches!(bare.code, Some(0 | 1)),
        "a note, no failure: {bare:?}"
    );
    assert!(
        bare.out.contains("`claude-safectl shim install`"),
        "{bare:?}"
    );
    let words = doctor("shim status");
    assert_eq!(words.code, Some(1));
    for part in [
        "~/.local/bin/claude\n",
        "does not start claude-safe",
        "claude-safectl shim install",
    ] {
        assert!(words.out.contains(part), "{part}: {words:?}");
    }

    let said = home.install();
    assert!(said.contains("in this one after:\nexport PATH='"), "{said}");
    // Here nothing has changed yet; in a new one it has.
    let (code, status) = home.status();
    assert_eq!((code, &status["new_login_shell"]), (Some(1), &"yes".into()));
    let words = home.shim_says(&["status"]);
    assert!(words.out.contains("Open a new terminal"), "{}", words.out);
    let words = doctor("shim status");
    assert_eq!(words.code, Some(0));
    for part in [
        "typing claude here starts claude-safe",
        "client       ~/.local/bin/claude\n",
        "  block      ~/.bashrc\n",
    ] {
        assert!(words.out.contains(part), "{part}: {words:?}");
    }
    let told: Value = serde_json::from_str(&doctor("shim status --json").out).unwrap();
    assert_eq!(told["claude"], home.shim().join("claude").to_str().unwrap());
    assert_eq!(
        told["client"],
        home.path(".local/bin/claude").to_str().unwrap()
    );
    assert_eq!(told["login_shell"], "/bin/bash");
    let told: Value = serde_json::from_str(&doctor("doctor --json").out).unwrap();
    assert_eq!(told["drop_in"]["is_claude_safe"], true);
    let with = doctor("doctor");
    assert!(!with.out.contains("shim install"), "{with:?}");
}

#[test]
fn what_a_folder_on_the_path_can_not_help_is_told() {
    let home = Home::of_debian();
    let own = home.read(".bashrc");
    let alias = "alias claude=\"$HOME/.claude/local/claude\"\n";
    home.write(".bashrc", format!("{alias}{own}"));
    let said = home.install();
    assert!(
        said.contains("~/.bashrc, line 1: this alias goes past PATH"),
        "{said}"
    );
    home.remove();
    let mut command = home.shim_command(&["install"]);
    command.env("SHELL", "/usr/bin/nu");
    let said = run(command);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.out.contains("Your login shell is /usr/bin/nu"),
        "{said:?}"
    );
    assert_eq!(
        home.status().1["start_files"][0]["state"],
        "block",
        "the others are done"
    );
}

#[test]
fn words_that_make_no_sense_are_refused() {
    let home = Home::new("/bin/sh");
    let before = home.everything();
    for words in [
        &[][..],
        &["dance"],
        &["install", "--dir"],
        &["install", "now"],
        &["install", "--json"],
        &["remove", "--json"],
        &["status", "--dry-run"],
    ] {
        let said = run(home.shim_command(words));
        assert_eq!(said.code, Some(2), "{words:?}");
        assert!(said.err.contains("usage:"), "{words:?}");
    }
    same(&home.everything(), &before, "as it was");
}
