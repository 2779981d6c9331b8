//! Which files the shells of a user read when they start, and in which order. Only asks whether they
//! are there; starts no shell.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::block::Syntax;
use crate::config::absolute_folder;

/// The shells whose start files we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// sh, dash, ksh: `.profile` is all they read.
    Sh,
    Bash,
    Zsh,
    Fish,
}

/// A start file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    pub(super) syntax: Syntax,
    /// The block belongs in it: it is there, or has to be made.
    pub(super) is_wanted: bool,
}

/// A user's shells.
pub(super) struct Shells {
    home: PathBuf,
    zdotdir: PathBuf,
    fish: PathBuf,
    /// The login shell's name, as in `/bin/bash`.
    pub(super) login: OsString,
}

impl Shells {
    pub(super) fn new(
        home: &Path,
        environment: &dyn Fn(&str) -> Option<OsString>,
        passwd: &[u8],
        uid: u32,
    ) -> Shells {
        let folder = |name| absolute_folder(environment, name);
        let config = folder("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
        let login = environment("SHELL").filter(|shell| !shell.is_empty());
        Shells {
            zdotdir: folder("ZDOTDIR").unwrap_or_else(|| home.to_owned()),
            fish: config.join("fish"),
            login: login
                .or_else(|| of_passwd(passwd, uid))
                .unwrap_or_else(|| "/bin/sh".into()),
            home: home.to_owned(),
        }
    }

    fn family(&self) -> Option<Family> {
        let name = Path::new(&self.login).file_name().unwrap_or_default();
        match name.as_bytes() {
            b"sh" | b"dash" | b"ash" | b"ksh" | b"ksh93" | b"mksh" => Some(Family::Sh),
            b"bash" => Some(Family::Bash),
            b"zsh" => Some(Family::Zsh),
            b"fish" => Some(Family::Fish),
            _ => None,
        }
    }

    /// Every start file in which a block can be.
    ///
    /// `.profile` is wanted always: desktops read it too. A shell is in use if it is the login shell or
    /// has a start file. Then each of its files that is there gets the block, at the end: a later file may
    /// put `~/.local/bin` first again, as Debian's `.profile` does after it has read `.bashrc`.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let candidate = |path: PathBuf, syntax, make: bool| Candidate {
            is_wanted: make || is_there(&path),
            path,
            syntax,
        };
        let at_home = |name: &str| self.home.join(name);
        let is_login = |family| self.family() == Some(family);
        let posix = |path, make| candidate(path, Syntax::Posix, make);
        let mut all = vec![
            posix(at_home(".bash_profile"), false),
            posix(at_home(".bash_login"), false),
            posix(at_home(".profile"), true),
            posix(at_home(".bashrc"), is_login(Family::Bash)),
        ];
        let zsh = self.zsh_files();
        let uses_zsh = is_login(Family::Zsh) || zsh.iter().any(|path| is_there(path));
        let has_zshenv = zsh
            .iter()
            .any(|path| path.ends_with(".zshenv") && is_there(path));
        for path in zsh {
            let is_first = path == self.zdotdir.join(".zshenv");
            all.push(posix(path, is_first && uses_zsh && !has_zshenv));
        }
        let uses_fish = is_login(Family::Fish) || self.fish.is_dir();
        let [first, second] = self.fish_files();
        all.push(candidate(first, Syntax::Fish, uses_fish));
        all.push(candidate(second, Syntax::Fish, false));
        all
    }

    fn zsh_files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.home.join(".zshenv")];
        if self.zdotdir != self.home {
            files.push(self.zdotdir.join(".zshenv"));
        }
        files.extend([".zprofile", ".zshrc", ".zlogin"].map(|name| self.zdotdir.join(name)));
        files
    }

    fn fish_files(&self) -> [PathBuf; 2] {
        ["conf.d/claude-safe.fish", "config.fish"].map(|name| self.fish.join(name))
    }

    /// What a new login shell of the user reads of that, in its order. `None`: a shell that we don't know.
    pub(super) fn login_files(&self) -> Option<Vec<PathBuf>> {
        let mut files = match self.family()? {
            Family::Sh => vec![self.home.join(".profile")],
            Family::Bash => [".bash_profile", ".bash_login", ".profile"]
                .map(|name| self.home.join(name))
                .into(),
            Family::Zsh => self.zsh_files(),
            Family::Fish => self.fish_files().into(),
        };
        files.retain(|path| path.exists());
        if self.family() == Some(Family::Bash) {
            // It reads the first and no other.
            files.truncate(1);
        }
        Some(files)
    }
}

/// A link that leads nowhere is there, too.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The shell of a user in `/etc/passwd`.
fn of_passwd(passwd: &[u8], uid: u32) -> Option<OsString> {
    let uid = uid.to_string();
    let mut entries = passwd
        .split(|byte| *byte == b'\n')
        .map(|line| line.split(|byte| *byte == b':').collect::<Vec<_>>());
    let entry = entries.find(|entry| entry.get(2) == Some(&uid.as_bytes()))?;
    let shell = entry.get(6).filter(|shell| !shell.is_empty())?;
    Some(OsStr::from_bytes(shell).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/bash\nu:x:7:7::/u:/usr/bin/zsh\nv:x:8:8::/v:\n";

    fn shells(home: &Path, environment: &[(&str, &Path)], uid: u32) -> Shells {
        let lookup = |name: &str| {
            let found = environment.iter().find(|(key, _)| *key == name)?;
            Some(found.1.as_os_str().to_owned())
        };
        Shells::new(home, &lookup, PASSWD, uid)
    }

    /// The wanted files, below the home.
    fn wanted(shells: &Shells) -> Vec<String> {
        let candidates = shells.candidates().into_iter();
        let wanted = candidates.filter(|candidate| candidate.is_wanted);
        wanted
            .map(|c| {
                c.path
                    .strip_prefix(&shells.home)
                    .unwrap()
                    .display()
                    .to_string()
            })
            .collect()
    }

    fn login_files(shells: &Shells) -> Vec<String> {
        let files = shells.login_files().unwrap().into_iter();
        let below = files.map(|path| path.strip_prefix(&shells.home).unwrap().to_owned());
        below.map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn the_login_shell_is_the_environments_or_the_user_databases() {
        let home = Path::new("/nowhere");
        for (environment, uid, login, family) in [
            (
                &[("SHELL", Path::new("/bin/fish"))][..],
                0,
                "/bin/fish",
                Some(Family::Fish),
            ),
            (
                &[("SHELL", Path::new(""))],
                0,
                "/bin/bash",
                Some(Family::Bash),
            ),
            (&[], 7, "/usr/bin/zsh", Some(Family::Zsh)),
            (&[], 8, "/bin/sh", Some(Family::Sh)),
            (&[], 9, "/bin/sh", Some(Family::Sh)),
            (
                &[("SHELL", Path::new("/usr/bin/nu"))],
                0,
                "/usr/bin/nu",
                None,
            ),
        ] {
            let shells = shells(home, environment, uid);
            assert_eq!(
                (shells.login.to_str(), shells.family()),
                (Some(login), family)
            );
        }
    }

    #[test]
    fn in_an_empty_home_only_the_login_shell_gets_files() {
        let scratch = Scratch::new();
        for (shell, files) in [
            ("/bin/sh", &[".profile"][..]),
            ("/bin/bash", &[".profile", ".bashrc"]),
            ("/bin/zsh", &[".profile", ".zshenv"]),
            (
                "/bin/fish",
                &[".profile", ".config/fish/conf.d/claude-safe.fish"],
            ),
            ("/bin/nu", &[".profile"]),
        ] {
            let shells = shells(scratch.path(), &[("SHELL", Path::new(shell))], 0);
            assert_eq!(wanted(&shells), files, "{shell}");
        }
    }

    #[test]
    fn each_file_that_is_there_is_wanted_and_bash_reads_only_the_first() {
        let scratch = Scratch::new();
        scratch.write(".bash_login", "");
        scratch.write(".zshrc", "");
        scratch.write(".config/fish/config.fish", "");
        let shells = shells(scratch.path(), &[("SHELL", Path::new("/bin/bash"))], 0);
        let files = [
            ".bash_login",
            ".profile",
            ".bashrc",
            ".zshenv",
            ".zshrc",
            ".config/fish/conf.d/claude-safe.fish",
            ".config/fish/config.fish",
        ];
        assert_eq!(wanted(&shells), files);
        assert_eq!(login_files(&shells), [".bash_login"]);
        scratch.write(".bash_profile", "");
        assert_eq!(login_files(&shells), [".bash_profile"]);
    }

    #[test]
    fn zsh_may_have_its_files_elsewhere() {
        let scratch = Scratch::new();
        let elsewhere = scratch.path().join("z");
        let environment = [("SHELL", Path::new("/bin/zsh")), ("ZDOTDIR", &elsewhere)];
        scratch.write("z/.zshrc", "");
        let shells = shells(scratch.path(), &environment, 0);
        assert_eq!(wanted(&shells), [".profile", "z/.zshenv", "z/.zshrc"]);
        // There a variable is set that leads to the others.
        scratch.write(".zshenv", "export ZDOTDIR=~/z");
        assert_eq!(wanted(&shells), [".profile", ".zshenv", "z/.zshrc"]);
        assert_eq!(login_files(&shells), [".zshenv", "z/.zshrc"]);
    }
}
