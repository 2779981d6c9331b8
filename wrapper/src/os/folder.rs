//! A folder held open, and what is done below it by name: list, look at, remove. A name is one step: it never
//! holds a `/`, and no symlink is ever followed through it, so whatever is swapped above or in the folder, nothing
//! outside of it is reached.
//!
//! # Safety
//! socket(2) and connect(2) on a structure of this file.
#![allow(unsafe_code)]

use super::fd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Why something could not be done below a folder. An errno has its meaning here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// ENOENT: it is not there (any more).
    Gone,
    /// ENOTDIR, ELOOP: no folder, or a symlink where none may be.
    NotAFolder,
    /// EACCES, EPERM, EROFS: we may not.
    Denied,
    /// ENOTEMPTY, EEXIST: the folder holds something.
    NotEmpty,
    /// Another errno.
    Failed(i32),
}

impl Refusal {
    fn of(errno: Errno) -> Refusal {
        match errno {
            Errno::NOENT => Refusal::Gone,
            Errno::NOTDIR | Errno::LOOP => Refusal::NotAFolder,
            Errno::ACCESS | Errno::PERM | Errno::ROFS => Refusal::Denied,
            Errno::NOTEMPTY | Errno::EXIST => Refusal::NotEmpty,
            other => Refusal::Failed(other.raw_os_error()),
        }
    }
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symlink.
    Link,
    /// A socket.
    Socket,
    /// A fifo or a device.
    Other,
}

/// A directory entry, not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its owner.
    pub uid: u32,
    /// Its permission bits.
    pub mode: u32,
    /// How many names it has.
    pub links: u64,
    /// What it takes on disk, bytes.
    pub bytes: u64,
    /// Last written, milliseconds since 1970.
    pub written_ms: u64,
}

impl Entry {
    // The fields differ in width and sign from machine to machine.
    #[allow(clippy::unnecessary_cast)]
    fn of(stat: &Stat) -> Entry {
        let seconds = u64::try_from(stat.st_mtime as i64).unwrap_or(0);
        Entry {
            kind: match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Kind::File,
                FileType::Directory => Kind::Folder,
                FileType::Symlink => Kind::Link,
                FileType::Socket => Kind::Socket,
                _ => Kind::Other,
            },
            uid: stat.st_uid,
            mode: stat.st_mode & 0o7777,
            links: stat.st_nlink as u64,
            bytes: u64::try_from(stat.st_blocks as i64).unwrap_or(0) * 512,
            written_ms: seconds.saturating_mul(1000) + stat.st_mtime_nsec as u64 / 1_000_000,
        }
    }
}

/// An open folder.
#[derive(Debug)]
pub struct Folder(OwnedFd);

const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// getdents(2) fills this much at once: some 800 names of a temporary folder.
const LISTING_BYTES: usize = 32 << 10;

impl Folder {
    /// Opens the folder at `path`, which may be a symlink to it (`/tmp` often is).
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: &Path) -> Result<Folder, Refusal> {
        let opened = rustix::fs::open(path.as_os_str().as_bytes(), OPEN, Mode::empty());
        opened.map(|f| Folder(fd::owned(f))).map_err(Refusal::of)
    }

    /// Opens the folder of that name in this one: no symlink.
    ///
    /// # Errors
    /// As openat(2).
    pub fn inner(&self, name: &CStr) -> Result<Folder, Refusal> {
        let flags = OPEN | OFlags::NOFOLLOW;
        let opened = rustix::fs::openat(fd::lend(self.0.as_fd()), name, flags, Mode::empty());
        opened.map(|f| Folder(fd::owned(f))).map_err(Refusal::of)
    }

    /// The folder itself.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn own(&self) -> Result<Entry, Refusal> {
        let stat = rustix::fs::fstat(fd::lend(self.0.as_fd()));
        stat.map(|stat| Entry::of(&stat)).map_err(Refusal::of)
    }

    /// Has it an extended attribute of this name (xattr(7))? It may have lost its own name meanwhile.
    pub fn has_attribute(&self, name: &CStr) -> bool {
        rustix::fs::fgetxattr_query(fd::lend(self.0.as_fd()), name).is_ok()
    }

    /// The number of the folder on its file system, and that of the file system.
    ///
    /// # Errors
    /// As fstat(2).
    #[allow(clippy::unnecessary_cast)]
    pub fn identity(&self) -> Result<super::files::FileId, Refusal> {
        let stat = rustix::fs::fstat(fd::lend(self.0.as_fd())).map_err(Refusal::of)?;
        Ok(super::files::FileId {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
        })
    }

    /// What has that name.
    ///
    /// # Errors
    /// As fstatat(2).
    pub fn look(&self, name: &CStr) -> Result<Entry, Refusal> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(fd::lend(self.0.as_fd()), name, flags);
        let entry = stat.map(|stat| Entry::of(&stat)).map_err(Refusal::of)?;
        match entry.links {
            // Found by its name, which another process took away before the file was looked at.
            0 => Err(Refusal::Gone),
            _ => Ok(entry),
        }
    }

    /// Takes that name away from a file; of a symlink the link goes, never its target. Never a folder.
    ///
    /// # Errors
    /// As unlinkat(2).
    pub fn remove(&self, name: &CStr) -> Result<(), Refusal> {
        let removed = rustix::fs::unlinkat(fd::lend(self.0.as_fd()), name, AtFlags::empty());
        removed.map_err(Refusal::of)
    }

    /// Removes the *empty* folder of that name.
    ///
    /// # Errors
    /// As unlinkat(2) with `AT_REMOVEDIR`.
    pub fn remove_folder(&self, name: &CStr) -> Result<(), Refusal> {
        let removed = rustix::fs::unlinkat(fd::lend(self.0.as_fd()), name, AtFlags::REMOVEDIR);
        removed.map_err(Refusal::of)
    }

    /// Hands out each name, until `take` has had enough (`false`) or all are told. Once for each time that the
    /// folder is opened.
    ///
    /// # Errors
    /// As getdents64(2).
    pub fn each_name(&self, take: &mut dyn FnMut(&CStr) -> bool) -> Result<(), Refusal> {
        let mut buffer = vec![MaybeUninit::uninit(); LISTING_BYTES];
        let mut listing = RawDir::new(fd::lend(self.0.as_fd()), &mut buffer);
        while let Some(entry) = listing.next() {
            let entry = entry.map_err(Refusal::of)?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") && !take(name) {
                break;
            }
        }
        Ok(())
    }

    /// Now, by the clock of the file system itself, which may be another machine's: the stamp of a file made
    /// without a name (`O_TMPFILE`), which is gone at once. `None` where such files can't be made.
    pub fn clock_ms(&self) -> Option<u64> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(fd::lend(self.0.as_fd()), c".", flags, mode).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        Some(Entry::of(&stat).written_ms)
    }

    /// Is it certain that nobody listens on the socket of that name (ECONNREFUSED)? Asked by a connection that
    /// is closed at once and never waits.
    pub fn is_deaf_socket(&self, name: &CStr) -> bool {
        let path = format!("/proc/self/fd/{}/", self.0.as_raw_fd());
        // SAFETY: all zero bytes are a valid sockaddr_un.
        let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        let bytes = path.bytes().chain(name.to_bytes().iter().copied());
        let (room, mut used) = (address.sun_path.len() - 1, 0);
        for byte in bytes {
            if used == room {
                return false;
            }
            address.sun_path[used] = byte.cast_signed() as libc::c_char;
            used += 1;
        }
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: integers only.
        let socket = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
        if socket < 0 {
            return false;
        }
        // SAFETY: a new descriptor of nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        // SAFETY: the address is ours, as long as said, and ends with a zero byte.
        let failed = unsafe {
            libc::connect(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_un>() as libc::socklen_t,
            )
        } != 0;
        let errno = std::io::Error::last_os_error().raw_os_error();
        failed && errno == Some(libc::ECONNREFUSED)
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::scratch::Scratch;
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_takes_a_files_place_after_the_look_goes_and_its_target_stays() {
        let scratch = Scratch::new();
        let precious = scratch.write("precious", "text");
        let name = c"claude-0001-cwd";
        let path = scratch.write("claude-0001-cwd", "x");
        let folder = Folder::open(scratch.path()).unwrap();
        assert_eq!(folder.look(name).unwrap().kind, Kind::File);
        std::fs::remove_file(&path).unwrap();
        symlink(&precious, &path).unwrap();
        assert_eq!(folder.remove(name), Ok(()));
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "text");
        std::fs::create_dir(&path).unwrap();
        assert!(folder.remove(name).is_err() && path.is_dir());
    }

    #[test]
    fn a_folder_that_was_opened_stays_the_same_whatever_takes_its_name() {
        let scratch = Scratch::new();
        let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
        for folder in [&one, &two] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("x"), "text").unwrap();
        }
        let outer = Folder::open(scratch.path()).unwrap();
        let folder = outer.inner(c"one").unwrap();
        std::fs::rename(&one, scratch.path().join("moved")).unwrap();
        symlink(&two, &one).unwrap();
        assert_eq!(folder.remove(c"x"), Ok(()));
        assert!(two.join("x").exists() && !scratch.path().join("moved/x").exists());
        assert_eq!(outer.inner(c"one").unwrap_err(), Refusal::NotAFolder);
        assert_eq!(folder.look(c"x"), Err(Refusal::Gone));
    }

    #[test]
    fn every_name_is_told_once_however_long_the_folder_is() {
        let scratch = Scratch::new();
        let wanted: Vec<String> = (0..3_000)
            .map(|number| format!("name-{number:04}"))
            .collect();
        for name in &wanted {
            scratch.write(name, "");
        }
        let folder = Folder::open(scratch.path()).unwrap();
        let mut told = Vec::new();
        let all = folder.each_name(&mut |name| {
            told.push(name.to_str().unwrap().to_owned());
            true
        });
        told.sort();
        assert_eq!((all, told), (Ok(()), wanted));
    }
}
