//! One start file of a shell: read whole, replaced whole or not at all.
//!
//! The new text is written beside the file, brought to the disk, and only then takes its name: a full
//! disk, an error or a crash leaves the old file as it was. Mode and group stay. A symlink stays a
//! symlink: what it leads to is replaced. Never writes to a file that its owner has write-protected, that is
//! somebody else's, or that has changed since it was read.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::os::process::own_ids;

/// The largest that is read: nobody writes a start file of this size.
const MAX_BYTES: u64 = 1 << 20;

/// A start file as it was read.
#[derive(Debug)]
pub(super) struct StartFile {
    /// Its name, which may be a symlink.
    path: PathBuf,
    /// The file that the name leads to.
    target: PathBuf,
    found: Option<Metadata>,
    content: Option<Vec<u8>>,
}

impl StartFile {
    /// Reads it. The error is a reason in words.
    pub(super) fn read(path: &Path) -> Result<StartFile, String> {
        let unreadable = |error: io::Error| format!("it can't be read: {error}");
        let mut start_file = StartFile {
            path: path.to_owned(),
            target: path.to_owned(),
            found: None,
            content: None,
        };
        match fs::canonicalize(path) {
            Ok(target) => start_file.target = target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return match fs::read_link(path) {
                    Ok(to) => Err(format!(
                        "it is a link to {}, which is not there",
                        to.display()
                    )),
                    Err(_) => Ok(start_file),
                };
            }
            Err(error) => return Err(unreadable(error)),
        }
        // Asked before it is opened: a pipe in its place must not hold us up.
        let found = fs::metadata(&start_file.target).map_err(unreadable)?;
        if !found.is_file() {
            return Err("it is no regular file".to_owned());
        }
        let file = File::open(&start_file.target).map_err(unreadable)?;
        let mut content = Vec::new();
        let mut file = file.take(MAX_BYTES + 1);
        file.read_to_end(&mut content).map_err(unreadable)?;
        if content.len() as u64 > MAX_BYTES {
            return Err("it has more than 1 MiB: that is no start file".to_owned());
        }
        start_file.found = Some(found);
        start_file.content = Some(content);
        Ok(start_file)
    }

    /// What is in it; `None`: it is not there.
    pub(super) fn content(&self) -> Option<&[u8]> {
        self.content.as_deref()
    }

    /// How many folders above it are not there either.
    pub(super) fn missing_folders(&self) -> u8 {
        let above = self.target.ancestors().skip(1);
        let missing = above.take_while(|folder| !folder.exists()).count();
        u8::try_from(missing).unwrap_or(u8::MAX)
    }

    /// Why it must stay as it is.
    pub(super) fn must_stay(&self) -> Option<String> {
        if self.target.starts_with("/nix/store") {
            return Some("it is made by Nix: there, programs.claude-safe.enable = true".to_owned());
        }
        let found = self.found.as_ref()?;
        let own = own_ids().euid;
        if found.uid() != own {
            return Some(format!("it belongs to user id {}, not {own}", found.uid()));
        }
        if found.mode() & 0o200 == 0 {
            let mode = found.mode() & 0o7777;
            return Some(format!("it is write-protected (mode {mode:o})"));
        }
        if found.nlink() != 1 {
            return Some("it has a second name (a hard link)".to_owned());
        }
        None
    }

    /// Puts `content` in its place; `None` removes it, or leaves it empty if its name is a symlink.
    /// The error is a reason in words; the file is as it was then.
    pub(super) fn replace(&self, content: Option<&[u8]>) -> Result<(), String> {
        if let Some(reason) = self.must_stay() {
            return Err(reason);
        }
        let content = match content {
            None if !self.path.is_symlink() => {
                self.has_not_changed()?;
                return fs::remove_file(&self.target).map_err(|error| error.to_string());
            }
            content => content.unwrap_or_default(),
        };
        if let Some(folder) = self.target.parent() {
            fs::create_dir_all(folder)
                .map_err(|error| format!("{} can't be made: {error}", folder.display()))?;
        }
        let mut beside = self.target.clone().into_os_string();
        // Not `….fish`, nor anything else that a shell reads.
        beside.push(".claude-safe-new");
        let beside = PathBuf::from(beside);
        let written = self
            .write_beside(&beside, content)
            .map_err(|error| format!("a new one can't be written beside it: {error}"))
            .and_then(|()| self.has_not_changed())
            .and_then(|()| fs::rename(&beside, &self.target).map_err(|error| error.to_string()));
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    }

    fn write_beside(&self, beside: &Path, content: &[u8]) -> io::Result<()> {
        // Left behind by one of us that was killed: we hold the lock.
        let _ = fs::remove_file(beside);
        let mode = if self.found.is_some() { 0o600 } else { 0o644 };
        let new = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(beside);
        let mut new = new?;
        new.write_all(content)?;
        if let Some(found) = &self.found {
            if new.metadata()?.gid() != found.gid() {
                fchown(&new, None, Some(found.gid()))?;
            }
            new.set_permissions(Permissions::from_mode(found.mode() & 0o7777))?;
        }
        // Some file systems find out that they are full only here.
        new.sync_all()
    }

    /// An editor may have saved it since it was read.
    fn has_not_changed(&self) -> Result<(), String> {
        let identity = |m: Metadata| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec());
        let now = fs::symlink_metadata(&self.target).ok().map(identity);
        if now == self.found.clone().map(identity) {
            Ok(())
        } else {
            Err("it has just been changed by somebody else: try again".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;
    use std::os::unix::fs::symlink;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn mode_and_symlink_stay_and_nothing_is_left_beside_it() {
        let scratch = Scratch::new();
        let file = scratch.write("dotfiles/profile", "old");
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        let link = scratch.path().join(".profile");
        symlink("dotfiles/profile", &link).unwrap();
        scratch.write("dotfiles/profile.claude-safe-new", "of one that was killed");
        let start_file = StartFile::read(&link).unwrap();
        assert_eq!(start_file.content(), Some(&b"old"[..]));
        start_file.replace(Some(b"new")).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(mode_of(&file), 0o640);
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
        // Taken away, the link would lead nowhere.
        StartFile::read(&link).unwrap().replace(None).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"");
    }

    #[test]
    fn a_file_that_is_not_there_is_made_with_its_folders_and_removed_again() {
        let scratch = Scratch::new();
        let path = scratch.path().join("fish/conf.d/x.fish");
        let start_file = StartFile::read(&path).unwrap();
        assert_eq!(start_file.content(), None);
        start_file.replace(Some(b"text")).unwrap();
        assert_eq!(mode_of(&path) & 0o600, 0o600);
        StartFile::read(&path).unwrap().replace(None).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_changed_meanwhile_is_not_overwritten() {
        let scratch = Scratch::new();
        let path = scratch.write("f", "old");
        let start_file = StartFile::read(&path).unwrap();
        scratch.write("f", "longer than old");
        for content in [Some(&b"new"[..]), None] {
            let refusal = start_file.replace(content).unwrap_err();
            assert!(refusal.contains("just been changed"), "{refusal}");
        }
        let made = StartFile::read(&scratch.path().join("g")).unwrap();
        scratch.write("g", "by somebody else");
        assert!(made.replace(Some(b"new")).is_err());
        assert_eq!(
            fs::read(scratch.path().join("g")).unwrap(),
            b"by somebody else"
        );
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_not_ours_to_write_is_refused_with_the_reason() {
        let scratch = Scratch::new();
        let refusal = |name: &str| match StartFile::read(&scratch.path().join(name)) {
            Err(reason) => reason,
            Ok(start_file) => start_file.replace(Some(b"new")).unwrap_err(),
        };
        let protected = scratch.write("protected", "old");
        fs::set_permissions(&protected, Permissions::from_mode(0o444)).unwrap();
        assert_eq!(refusal("protected"), "it is write-protected (mode 444)");
        let two = scratch.write("two", "old");
        fs::hard_link(&two, scratch.path().join("names")).unwrap();
        assert!(refusal("names").contains("second name"));
        symlink("/no/such", scratch.path().join("nowhere")).unwrap();
        assert_eq!(
            refusal("nowhere"),
            "it is a link to /no/such, which is not there"
        );
        fs::create_dir(scratch.path().join("folder")).unwrap();
        assert_eq!(refusal("folder"), "it is no regular file");
        scratch.write("large", vec![b'x'; (1 << 20) + 1]);
        assert!(refusal("large").contains("1 MiB"));
        symlink("ring", scratch.path().join("ring")).unwrap();
        assert!(refusal("ring").contains("can't be read"));
        let mut of_nix = StartFile::read(&two).unwrap();
        of_nix.target = PathBuf::from("/nix/store/x-hm_bashrc");
        assert!(
            of_nix
                .must_stay()
                .unwrap()
                .contains("programs.claude-safe.enable")
        );
    }
}
