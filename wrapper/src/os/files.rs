//! Files: which one is it, may it be executed, and can somebody else change it?
//!
//! Never follows a name twice where that matters: a trusted file is judged and read through one
//! descriptor.
//!
//! # Safety
//!
//! faccessat(2), fgetxattr(2), fstatvfs(3) and statfs(2) on C strings and structures that this file owns.
#![allow(unsafe_code)]

use std::ffi::{CString, OsString};
use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use super::process::own_ids;

/// A file's identity while it exists: two names with the same pair are one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The device that holds the file.
    pub dev: u64,
    /// The inode on that device.
    pub ino: u64,
}

impl FileId {
    /// The identity behind `metadata`.
    pub fn of_metadata(metadata: &Metadata) -> FileId {
        FileId {
            dev: metadata.dev(),
            ino: metadata.ino(),
        }
    }

    /// The identity of the file that `path` leads to, through symlinks. `None` when there is none.
    pub fn of(path: &Path) -> Option<FileId> {
        std::fs::metadata(path)
            .ok()
            .map(|metadata| FileId::of_metadata(&metadata))
    }
}

/// Would execve(2) accept `path` as far as its type and permissions go? Symlinks are followed.
///
/// Asks with the effective ids (`AT_EACCESS`), as execve does.
pub fn is_executable_file(path: &Path) -> bool {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        _ => return false,
    }
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: name is a C string that lives across the call.
    unsafe { libc::faccessat(libc::AT_FDCWD, name.as_ptr(), libc::X_OK, libc::AT_EACCESS) == 0 }
}

/// Does `file` carry capabilities (capabilities(7))? The dynamic linker then refuses a preload.
pub fn has_capabilities(file: &File) -> bool {
    let name = c"security.capability";
    // SAFETY: name is a C string; with size 0 nothing is written, only the length is asked for.
    unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

/// Does `file` lie on a file system from which nothing may be executed or mapped executable?
pub fn is_on_noexec_mount(file: &File) -> bool {
    let mut answer = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the descriptor is open as long as `file` is borrowed; answer has room for the result.
    if unsafe { libc::fstatvfs(file.as_raw_fd(), answer.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: fstatvfs succeeded, and zero bytes were a valid value before it.
    let answer = unsafe { answer.assume_init() };
    answer.f_flag & libc::ST_NOEXEC != 0
}

/// The file system behind a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its size; 0 where it has none (a tmpfs without a limit).
    pub total_bytes: u64,
    /// What an ordinary user may still write.
    pub free_bytes: u64,
    /// What is written there takes memory (tmpfs, ramfs).
    pub in_memory: bool,
}

/// The file system of what `path` leads to (statfs(2)). `None` when there is no such file.
pub fn file_system(path: &Path) -> Option<FileSystem> {
    let name = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut answer = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: name is a C string that lives across the call; answer has room for the result.
    if unsafe { libc::statfs(name.as_ptr(), answer.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: statfs succeeded, and zero bytes were a valid value before it.
    let answer = unsafe { answer.assume_init() };
    // The types differ between C libraries and processors.
    #[allow(clippy::unnecessary_cast)]
    let (block_bytes, kind) = (answer.f_frsize as u64, answer.f_type as i64);
    Some(FileSystem {
        total_bytes: answer.f_blocks.saturating_mul(block_bytes),
        free_bytes: answer.f_bavail.saturating_mul(block_bytes),
        in_memory: [TMPFS_MAGIC, RAMFS_MAGIC].contains(&kind),
    })
}

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of linux/magic.h.
const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// Locks the folder or file behind `file` against everybody who asks for the same lock (flock(2)), until
/// `file` is closed. `Ok(false)`: somebody else has it.
///
/// # Errors
/// This file system has no locks.
pub fn try_lock(file: &File) -> io::Result<bool> {
    let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    match rustix::fs::flock(super::fd::lend(file.as_fd()), operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(super::fd::error(errno)),
    }
}

/// Whom a file must belong to, so that we act on what it says.
///
/// Root is always trusted, and so is the user as whom we run. When that is root, nobody else is.
#[derive(Clone, Debug)]
pub struct Trust {
    uid: u32,
    /// Whose write bits are refused.
    others: u32,
    /// Folders from `/` down to this one are taken as they are.
    accepted_base: Option<PathBuf>,
}

impl Trust {
    /// The rule for the user as whom this process runs.
    pub fn of_this_process() -> Trust {
        Trust::of_uid(own_ids().euid)
    }

    /// The rule for another user: what `claude-safectl` would say for them, and for tests.
    pub fn of_uid(uid: u32) -> Trust {
        Trust {
            uid,
            others: 0o022,
            accepted_base: None,
        }
    }

    /// Lets groups write: no more is asked of a folder than of those that are on `PATH` already, and
    /// where users have a group of their own, `~/.local` is often writable for it.
    pub fn accepting_groups(mut self) -> Trust {
        self.others = 0o002;
        self
    }

    /// Takes `base` and the folders above it on faith. For tests, which live below a world-writable
    /// folder; there is no setting that leads here.
    pub fn accepting_base(mut self, base: &Path) -> Trust {
        self.accepted_base = Some(base.to_path_buf());
        self
    }

    fn owner_is_trusted(&self, owner: u32) -> bool {
        owner == 0 || owner == self.uid
    }

    /// Judges one file or folder on the way: its owner, and who may write to it.
    ///
    /// The group's write bit counts even where the group is the user's private one: whether a group
    /// is private is a fact of the user database, which can change and which we can't read here.
    /// An access control list that lets others write shows in the same bit (it is the list's mask).
    fn judge(&self, path: &Path, metadata: &Metadata) -> Result<(), Distrust> {
        if !self.owner_is_trusted(metadata.uid()) {
            return Err(Distrust::ForeignOwner {
                path: path.to_path_buf(),
                owner: metadata.uid(),
            });
        }
        // The sticky bit of a /tmp-like folder does not count here, see trusted_open.
        if metadata.mode() & self.others != 0 {
            return Err(Distrust::OthersMayWrite {
                path: path.to_path_buf(),
                is_folder: metadata.is_dir(),
                mode: metadata.mode() & 0o7777,
            });
        }
        Ok(())
    }
}

/// Why a file is not acted on.
#[derive(Debug)]
pub enum Distrust {
    /// There is no such file: mostly no news at all.
    Missing,
    /// The path does not begin with `/`.
    NotAbsolute,
    /// The file, or a folder on the way to it, belongs to somebody else.
    ForeignOwner {
        /// What belongs to somebody else.
        path: PathBuf,
        /// The owner's numeric user id.
        owner: u32,
    },
    /// The file, or a folder on the way to it, can be written by its group or by everybody.
    OthersMayWrite {
        /// What can be written.
        path: PathBuf,
        /// It is a folder on the way, not the file.
        is_folder: bool,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a regular file.
    NotRegular,
    /// Not a folder.
    NotFolder,
    /// More than 40 symlinks on the way.
    TooManyLinks,
    /// It can't be read.
    Unreadable(io::Error),
}

impl fmt::Display for Distrust {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distrust::Missing => write!(out, "it does not exist"),
            Distrust::NotAbsolute => write!(out, "its path does not begin with /"),
            Distrust::ForeignOwner { path, owner } => {
                write!(out, "{} belongs to user id {owner}", path.display())
            }
            Distrust::OthersMayWrite {
                path,
                is_folder,
                mode,
            } => {
                let who = match (mode & 0o002 != 0, mode & 0o020 != 0) {
                    (true, _) => "everybody",
                    _ => "its group",
                };
                let what = if *is_folder { "the folder " } else { "" };
                let shown = path.display();
                write!(out, "{what}{shown} can be written by {who} (mode {mode:o})")
            }
            Distrust::NotRegular => write!(out, "it is not a regular file"),
            Distrust::NotFolder => write!(out, "it is not a folder"),
            Distrust::TooManyLinks => write!(out, "too many symlinks on the way to it"),
            Distrust::Unreadable(error) => write!(out, "it can't be read: {error}"),
        }
    }
}

/// The most symlinks on one way, as in the kernel.
const MAX_LINKS: usize = 40;

/// Opens `path` for reading if nobody but root and the trusted user can change what it holds.
///
/// Every folder on the way is judged from `/` down, on both sides of each symlink; the file itself
/// is judged through the opened descriptor. A folder that was judged can only be changed by those
/// who are trusted, so nothing can be swapped behind our back. A folder like `/tmp` (writable for
/// everybody, sticky) may be passed through: nobody but its owner can rename a folder or link in it that is
/// root's or the user's own (unlink(2), EPERM). The file itself must not lie there. It may lie in one that is sticky and
/// writable for its *group* only: that is `/nix/store` (1775, the group of the builders), where the
/// file that home-manager links to lies with nothing above it. Its name can't be taken over, for the same reason.
pub fn trusted_open(path: &Path, trust: &Trust) -> Result<File, Distrust> {
    match walk(path, trust)? {
        Walked::ToFile(file) => open_and_judge(&file, trust),
        Walked::ToFolder(_) => Err(Distrust::NotRegular),
    }
}

/// Judges the folder at `path` and every folder on the way to it, as [`trusted_open`] does. `Some`: only
/// what is a folder or link of a trusted owner is safe in it, and this is why nothing else is.
pub fn judge_way(path: &Path, trust: &Trust) -> Result<Option<Distrust>, Distrust> {
    match walk(path, trust)? {
        Walked::ToFolder(sticky) => Ok(sticky),
        Walked::ToFile(_) => Err(Distrust::NotFolder),
    }
}

/// Where a path leads, its way judged: to a folder like `/tmp` (`Some`), any other folder, or something in
/// a folder.
enum Walked {
    ToFolder(Option<Distrust>),
    ToFile(PathBuf),
}

fn walk(path: &Path, trust: &Trust) -> Result<Walked, Distrust> {
    if !path.is_absolute() {
        return Err(Distrust::NotAbsolute);
    }
    // Names still to walk, the next one last.
    let mut to_walk: Vec<OsString> = names_of(path);
    to_walk.reverse();
    let mut at = PathBuf::from("/");
    let mut sticky = judge_folder(&at, trust)?;
    let mut links = 0;
    while let Some(name) = to_walk.pop() {
        if name.as_bytes() == b".." {
            at.pop();
            sticky = judge_folder(&at, trust)?;
            continue;
        }
        let next = at.join(&name);
        let metadata = std::fs::symlink_metadata(&next).map_err(from_io)?;
        if metadata.file_type().is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(Distrust::TooManyLinks);
            }
            if !within_accepted(&next, trust) && !trust.owner_is_trusted(metadata.uid()) {
                return Err(Distrust::ForeignOwner {
                    path: next,
                    owner: metadata.uid(),
                });
            }
            let target = std::fs::read_link(&next).map_err(from_io)?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            sticky = judge_folder(&at, trust)?;
            to_walk.extend(names_of(&target).into_iter().rev());
        } else if metadata.is_dir() {
            at = next;
            sticky = judge_folder(&at, trust)?;
        } else if let Some(distrust) = sticky {
            return Err(distrust);
        } else if to_walk.is_empty() {
            return Ok(Walked::ToFile(next));
        } else {
            return Err(Distrust::Missing);
        }
    }
    Ok(Walked::ToFolder(sticky))
}

/// The names in `path`, with `..` as it is written: it means the folder above the *resolved* one.
fn names_of(path: &Path) -> Vec<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect()
}

fn within_accepted(path: &Path, trust: &Trust) -> bool {
    trust
        .accepted_base
        .as_deref()
        .is_some_and(|base| base.starts_with(path))
}

/// Judges a folder on the way. `Some`: only what is a folder or link of a trusted owner is safe in
/// it, and this is why nothing else is.
fn judge_folder(path: &Path, trust: &Trust) -> Result<Option<Distrust>, Distrust> {
    const STICKY: u32 = 0o1000;
    const FOR_EVERYBODY: u32 = 0o002;
    if within_accepted(path, trust) {
        return Ok(None);
    }
    let metadata = std::fs::symlink_metadata(path).map_err(from_io)?;
    match trust.judge(path, &metadata) {
        Ok(()) => Ok(None),
        Err(distrust @ Distrust::OthersMayWrite { mode, .. }) if mode & STICKY != 0 => {
            Ok(Some(distrust).filter(|_| mode & FOR_EVERYBODY != 0))
        }
        Err(distrust) => Err(distrust),
    }
}

fn open_and_judge(path: &Path, trust: &Trust) -> Result<File, Distrust> {
    // O_NONBLOCK: a pipe in the file's place must not hold us up.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
        .open(path)
        .map_err(from_io)?;
    let metadata = file.metadata().map_err(Distrust::Unreadable)?;
    if !metadata.is_file() {
        return Err(Distrust::NotRegular);
    }
    trust.judge(path, &metadata)?;
    Ok(file)
}

fn from_io(error: io::Error) -> Distrust {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Distrust::Missing,
        _ => Distrust::Unreadable(error),
    }
}

/// A private folder of one test, gone with it.
#[cfg(test)]
pub(crate) mod scratch {
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, Ordering};

    pub(crate) struct Scratch(PathBuf);

    impl Scratch {
        pub(crate) fn new() -> Scratch {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let base = std::fs::canonicalize(std::env::temp_dir()).unwrap();
            loop {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                let path = base.join(format!("cs-unit-{}-{number}", std::process::id()));
                match std::fs::create_dir(&path) {
                    Ok(()) => {
                        super::tests::chmod(&path, 0o700);
                        return Scratch(path);
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    Err(error) => panic!("{}: {error}", path.display()),
                }
            }
        }

        pub(crate) fn path(&self) -> &Path {
            &self.0
        }

        /// Writes `text` to `name` below the folder, with mode 644, and returns the path.
        pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            super::tests::chmod(&path, 0o644);
            path
        }

        /// As `write`, with mode 755.
        pub(crate) fn write_program(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
            let path = self.write(name, text);
            super::tests::chmod(&path, 0o755);
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::scratch::Scratch;
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};

    pub(super) fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn ours(scratch: &Scratch) -> Trust {
        Trust::of_this_process().accepting_base(scratch.path())
    }

    #[test]
    fn a_file_of_ours_in_a_folder_of_ours_is_opened_and_read() {
        let scratch = Scratch::new();
        let path = scratch.write("a/b/file", "content");
        chmod(&scratch.path().join("a"), 0o755);
        chmod(&scratch.path().join("a/b"), 0o755);
        let mut text = String::new();
        trusted_open(&path, &ours(&scratch))
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "content");
    }

    #[test]
    fn a_file_system_tells_its_size_and_whether_it_is_memory() {
        let scratch = Scratch::new();
        let here = file_system(scratch.path()).unwrap();
        assert!(here.total_bytes >= here.free_bytes);
        // A tmpfs on every machine that has one; one that has none says nothing of it.
        if let Some(shm) = file_system(Path::new("/dev/shm")) {
            let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
            let is_tmpfs = mounts.lines().any(|line| {
                let mut words = line.split(' ').skip(1);
                words.next() == Some("/dev/shm") && words.next() == Some("tmpfs")
            });
            assert!(shm.in_memory || !is_tmpfs);
        }
        assert!(!file_system(Path::new("/proc")).unwrap().in_memory);
        assert_eq!(file_system(Path::new("/no/such/path")), None);
    }

    #[test]
    fn a_file_that_is_missing_is_missing_and_nothing_worse() {
        let scratch = Scratch::new();
        for name in ["no", "no/deeper"] {
            let path = scratch.path().join(name);
            assert!(matches!(
                trusted_open(&path, &ours(&scratch)),
                Err(Distrust::Missing)
            ));
        }
        let below_a_file = scratch.write("file", "").join("x");
        assert!(matches!(
            trusted_open(&below_a_file, &ours(&scratch)),
            Err(Distrust::Missing)
        ));
    }

    #[test]
    fn write_bits_of_group_and_others_are_refused_on_the_file_and_on_every_folder() {
        for (mode, says) in [(0o664, "its group"), (0o646, "everybody")] {
            let scratch = Scratch::new();
            let path = scratch.write("file", "");
            chmod(&path, mode);
            let refusal = trusted_open(&path, &ours(&scratch))
                .unwrap_err()
                .to_string();
            assert!(refusal.contains(says), "{refusal}");
            assert!(refusal.contains("file can be written"), "{refusal}");
        }
        for mode in [0o775, 0o777] {
            let scratch = Scratch::new();
            let path = scratch.write("top/inner/file", "");
            chmod(&scratch.path().join("top/inner"), 0o755);
            chmod(&scratch.path().join("top"), mode);
            let refusal = trusted_open(&path, &ours(&scratch))
                .unwrap_err()
                .to_string();
            assert!(refusal.contains("the folder"), "{refusal}");
            assert!(refusal.contains("/top can be written"), "{refusal}");
        }
    }

    #[test]
    fn a_folder_like_tmp_may_be_passed_through_but_not_hold_the_file() {
        let scratch = Scratch::new();
        let deep = scratch.write("top/inner/file", "");
        let shallow = scratch.write("top/file", "");
        symlink("inner", scratch.path().join("top/link")).unwrap();
        chmod(&scratch.path().join("top/inner"), 0o755);
        chmod(&scratch.path().join("top"), 0o1777);
        assert!(trusted_open(&deep, &ours(&scratch)).is_ok());
        assert!(trusted_open(&scratch.path().join("top/link/file"), &ours(&scratch)).is_ok());
        let refusal = trusted_open(&shallow, &ours(&scratch))
            .unwrap_err()
            .to_string();
        assert!(
            refusal.contains("/top can be written by everybody"),
            "{refusal}"
        );
        // Without the sticky bit anybody could put another folder in its place.
        chmod(&scratch.path().join("top"), 0o777);
        assert!(trusted_open(&deep, &ours(&scratch)).is_err());
    }

    #[test]
    fn a_folder_like_the_nix_store_may_hold_the_file() {
        let scratch = Scratch::new();
        let file = scratch.write("store/abc-claude-safe.conf", "");
        symlink("store/abc-claude-safe.conf", scratch.path().join("link")).unwrap();
        let store = scratch.path().join("store");
        chmod(&file, 0o444);
        chmod(&store, 0o1775);
        assert!(trusted_open(&scratch.path().join("link"), &ours(&scratch)).is_ok());
        for mode in [0o775, 0o1777] {
            chmod(&store, mode);
            assert!(trusted_open(&file, &ours(&scratch)).is_err(), "{mode:o}");
        }
        chmod(&store, 0o1775);
        chmod(&file, 0o664);
        assert!(trusted_open(&file, &ours(&scratch)).is_err());
    }

    #[test]
    fn without_an_accepted_base_a_file_below_a_world_writable_folder_is_refused() {
        let scratch = Scratch::new();
        let path = scratch.write("open/file", "");
        chmod(&scratch.path().join("open"), 0o1777);
        let plain = trusted_open(&path, &Trust::of_this_process());
        assert!(matches!(plain, Err(Distrust::OthersMayWrite { .. })));
    }

    #[test]
    fn both_sides_of_a_symlink_are_judged() {
        let scratch = Scratch::new();
        scratch.write("safe/file", "x");
        scratch.write("open/file", "x");
        std::fs::create_dir(scratch.path().join("links")).unwrap();
        for folder in ["safe", "links"] {
            chmod(&scratch.path().join(folder), 0o755);
        }
        chmod(&scratch.path().join("open"), 0o777);
        let from_safe = scratch.path().join("links/to-open");
        symlink("../open/file", &from_safe).unwrap();
        let from_open = scratch.path().join("open/to-safe");
        symlink(scratch.path().join("safe/file"), &from_open).unwrap();
        let good = scratch.path().join("links/to-safe");
        symlink("../safe/file", &good).unwrap();
        assert!(trusted_open(&good, &ours(&scratch)).is_ok());
        for path in [from_safe, from_open] {
            assert!(matches!(
                trusted_open(&path, &ours(&scratch)),
                Err(Distrust::OthersMayWrite { .. })
            ));
        }
    }

    #[test]
    fn a_folder_is_judged_as_a_file_is_and_groups_may_be_let_in() {
        let scratch = Scratch::new();
        let file = scratch.write("top/inner/file", "");
        let (top, inner) = (scratch.path().join("top"), scratch.path().join("top/inner"));
        chmod(&inner, 0o755);
        let strict = ours(&scratch);
        let lenient = ours(&scratch).accepting_groups();
        for (mode, strictly, leniently) in [
            (0o755, true, true),
            (0o775, false, true),
            (0o757, false, false),
            (0o777, false, false),
        ] {
            chmod(&top, mode);
            assert_eq!(judge_way(&inner, &strict).is_ok(), strictly, "{mode:o}");
            assert_eq!(judge_way(&inner, &lenient).is_ok(), leniently, "{mode:o}");
        }
        chmod(&top, 0o1777);
        assert!(matches!(judge_way(&inner, &strict), Ok(None)));
        let sticky = judge_way(&top, &strict).unwrap();
        assert!(matches!(sticky, Some(Distrust::OthersMayWrite { .. })));
        assert!(matches!(
            judge_way(&file, &strict),
            Err(Distrust::OthersMayWrite { .. } | Distrust::NotFolder)
        ));
        let missing = judge_way(&inner.join("none"), &strict);
        assert!(matches!(missing, Err(Distrust::Missing)));
    }

    #[test]
    fn a_lock_has_one_holder_and_ends_with_the_file() {
        let scratch = Scratch::new();
        let open = || File::open(scratch.path()).unwrap();
        let first = open();
        assert!(try_lock(&first).unwrap());
        assert!(!try_lock(&open()).unwrap());
        drop(first);
        assert!(try_lock(&open()).unwrap());
    }

    #[test]
    fn a_ring_of_symlinks_ends() {
        let scratch = Scratch::new();
        symlink("b", scratch.path().join("a")).unwrap();
        symlink("a", scratch.path().join("b")).unwrap();
        assert!(matches!(
            trusted_open(&scratch.path().join("a"), &ours(&scratch)),
            Err(Distrust::TooManyLinks)
        ));
    }

    #[test]
    fn folders_pipes_and_relative_paths_are_refused_without_blocking() {
        let scratch = Scratch::new();
        std::fs::create_dir(scratch.path().join("folder")).unwrap();
        chmod(&scratch.path().join("folder"), 0o755);
        assert!(matches!(
            trusted_open(&scratch.path().join("folder"), &ours(&scratch)),
            Err(Distrust::NotRegular)
        ));
        let pipe = scratch.path().join("pipe");
        let name = CString::new(pipe.as_os_str().as_bytes()).unwrap();
        // SAFETY: name is a C string that lives across the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        assert!(matches!(
            trusted_open(&pipe, &ours(&scratch)),
            Err(Distrust::NotRegular)
        ));
        assert!(matches!(
            trusted_open(Path::new("file"), &ours(&scratch)),
            Err(Distrust::NotAbsolute)
        ));
    }

    #[test]
    fn a_foreign_owner_is_refused_and_named() {
        if own_ids().euid != 0 {
            // Only root can give a file away: take a file of root's in its place, and say that
            // neither root nor we are trusted by asking for the owner rule alone.
            let trust = Trust::of_uid(own_ids().euid);
            assert!(!trust.owner_is_trusted(own_ids().euid.wrapping_add(1)));
            return;
        }
        let scratch = Scratch::new();
        let path = scratch.write("file", "x");
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        let refusal = trusted_open(&path, &ours(&scratch)).unwrap_err();
        assert!(refusal.to_string().contains("user id 12345"), "{refusal}");
        // The same file is its owner's own business.
        let theirs = Trust::of_uid(12345).accepting_base(scratch.path());
        assert!(trusted_open(&path, &theirs).is_ok());
        // A symlink of theirs, even to a file of root's.
        let target = scratch.write("target", "x");
        let link = scratch.path().join("link");
        symlink(&target, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(12345), None).unwrap();
        assert!(matches!(
            trusted_open(&link, &ours(&scratch)),
            Err(Distrust::ForeignOwner { owner: 12345, .. })
        ));
    }

    #[test]
    fn only_a_regular_file_with_an_x_bit_is_executable() {
        let scratch = Scratch::new();
        let program = scratch.write_program("program", "#!/bin/sh\n");
        let text = scratch.write("text", "");
        assert!(is_executable_file(&program));
        assert!(!is_executable_file(&text));
        assert!(!is_executable_file(scratch.path()));
        assert!(!is_executable_file(&scratch.path().join("none")));
    }

    #[test]
    fn a_hard_link_is_the_same_file_and_a_copy_is_not() {
        let scratch = Scratch::new();
        let first = scratch.write("first", "x");
        let link = scratch.path().join("link");
        std::fs::hard_link(&first, &link).unwrap();
        let copy = scratch.write("copy", "x");
        assert_eq!(FileId::of(&first), FileId::of(&link));
        assert_ne!(FileId::of(&first), FileId::of(&copy));
        assert_eq!(FileId::of(&scratch.path().join("none")), None);
    }
}
