//! Files and folders that must be ours alone, in places where others can write (`/tmp`).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned())
}

fn is_foreign(found: &fs::Metadata) -> bool {
    found.uid() != super::process::own_ids().euid
}

/// Makes a folder with mode 0700, or takes one that is there if it is ours, nobody else may enter
/// it, and it is no symbolic link.
///
/// # Errors
/// It can't be made, or it is there and not as described.
pub fn folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(failure) if failure.kind() != io::ErrorKind::AlreadyExists => return Err(failure),
        _ => {}
    }
    check_folder(path)
}

/// Is it a folder of ours that nobody else may enter, and no symbolic link?
///
/// # Errors
/// It is not there, or not as described.
pub fn check_folder(path: &Path) -> io::Result<()> {
    // Looked at without following: a link that somebody put there is refused.
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() {
        return Err(refused("is no folder"));
    }
    if is_foreign(&found) {
        return Err(refused("belongs to somebody else"));
    }
    if found.mode() & 0o077 != 0 {
        return Err(refused("others may enter it"));
    }
    Ok(())
}

/// Opens a log for appending, made with mode 0600 if missing: only a regular file of ours with one
/// link, never through a symbolic link, and never waiting for a fifo's reader.
///
/// # Errors
/// It can't be opened, or it is not such a file.
pub fn log(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    check_file(&file)?;
    Ok(file)
}

/// How [`file()`] opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read.
    Read,
    /// To write into what is there.
    Write,
}

/// Opens a file that must be there, and be what [`log()`] asks for. Never makes, never truncates it.
///
/// # Errors
/// It can't be opened, or it is not such a file.
pub fn file(path: &Path, access: Access) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(access == Access::Read)
        .write(access == Access::Write)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => refused("is a symbolic link"),
            _ => error,
        })?;
    check_file(&file)?;
    Ok(file)
}

fn check_file(file: &File) -> io::Result<()> {
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(refused("is no regular file"));
    }
    if is_foreign(&found) {
        return Err(refused("belongs to somebody else"));
    }
    if found.nlink() != 1 {
        return Err(refused("has more than one name"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("cs-private-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn a_folder_is_taken_only_if_it_is_ours_alone() {
        let base = scratch("folder");
        let fresh = base.join("fresh");
        folder(&fresh).unwrap();
        folder(&fresh).unwrap();
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o770)).unwrap();
        assert!(folder(&fresh).is_err());
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o700)).unwrap();
        symlink(&fresh, base.join("link")).unwrap();
        assert!(folder(&base.join("link")).is_err());
        std::fs::write(base.join("file"), "").unwrap();
        assert!(folder(&base.join("file")).is_err());
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn a_log_is_no_link_no_second_name_no_fifo() {
        let base = scratch("log");
        let real = base.join("real");
        writeln!(log(&real).unwrap(), "one").unwrap();
        writeln!(log(&real).unwrap(), "two").unwrap();
        assert_eq!(std::fs::read_to_string(&real).unwrap(), "one\ntwo\n");
        assert_eq!(
            std::fs::metadata(&real).unwrap().permissions().mode() & 0o777,
            0o600
        );
        symlink(&real, base.join("link")).unwrap();
        assert!(log(&base.join("link")).is_err());
        std::fs::hard_link(&real, base.join("second")).unwrap();
        assert!(log(&real).is_err());
        let fifo = base.join("fifo");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        assert!(log(&fifo).is_err());
        assert!(log(&base).is_err());
        for hostile in ["real", "link", "second", "fifo", "", "none"] {
            for access in [Access::Read, Access::Write] {
                let refused = file(&base.join(hostile), access);
                assert!(refused.is_err(), "{hostile} {access:?}");
            }
        }
        assert!(!base.join("none").exists());
        std::fs::remove_file(base.join("second")).unwrap();
        assert!(file(&real, Access::Read).is_ok());
        std::fs::remove_dir_all(base).unwrap();
    }
}
