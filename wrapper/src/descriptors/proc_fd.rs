//! Reads `/proc/PID/fd` (proc_pid_fd(5)) and the counters of the kernel, below a root that is a parameter. Keeps
//! no process in mind. Never opens what a descriptor leads to: that could be a pipe, or lie on a server that is gone.

use super::judgement::Ceiling;
use crate::os::proc::{Unreadable, meaning};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `/dev/ptmx`: character device 5, 2 (Documentation/admin-guide/devices.txt), as `st_rdev` has it.
const PTMX: u64 = 0x502;

/// The pid namespace of the machine itself (`PROC_PID_INIT_INO` of linux/proc_ns.h).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// What one pass over the descriptors of a process has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// All of them.
    pub open: u64,
    /// Masters of pseudo-terminals.
    pub ptmx: u64,
}

/// Reader of one `/proc`.
#[derive(Clone, Debug)]
pub struct ProcFd {
    root: PathBuf,
    /// A made-up folder's size says nothing.
    is_kernels: bool,
}

impl ProcFd {
    /// `root` is `/proc`, or a folder that looks like it.
    #[must_use]
    pub fn new(root: &Path) -> ProcFd {
        ProcFd {
            root: root.to_path_buf(),
            is_kernels: root == Path::new("/proc"),
        }
    }

    fn folder(&self, pid: i32) -> PathBuf {
        self.root.join(format!("{pid}/fd"))
    }

    /// The link of one descriptor. Following it leads to the open file, whatever its name is by now.
    #[must_use]
    pub fn link(&self, pid: i32, fd: &OsStr) -> PathBuf {
        self.folder(pid).join(fd)
    }

    /// How many descriptors are open: the size of the folder from Linux 6.2 on, else by counting its entries.
    ///
    /// # Errors
    /// The process is gone, or not ours to look into.
    pub fn count(&self, pid: i32) -> Result<u64, Unreadable> {
        let folder = self.folder(pid);
        if self.is_kernels {
            let found = fs::metadata(&folder).map_err(|error| meaning(&error))?;
            if found.len() > 0 {
                return Ok(found.len());
            }
        }
        let entries = fs::read_dir(&folder).map_err(|error| meaning(&error))?;
        Ok(entries.count() as u64)
    }

    /// Passes over all descriptors; `each` gets the number and what it leads to, as readlink(2) has it.
    ///
    /// # Errors
    /// The process is gone, or not ours to look into.
    pub fn scan(&self, pid: i32, each: &mut dyn FnMut(&OsStr, &Path)) -> Result<Scan, Unreadable> {
        let mut scan = Scan::default();
        let entries = fs::read_dir(self.folder(pid)).map_err(|error| meaning(&error))?;
        for entry in entries {
            let entry = entry.map_err(|error| meaning(&error))?;
            scan.open += 1;
            // Closed meanwhile: it was open a moment ago.
            let Ok(target) = fs::read_link(entry.path()) else {
                continue;
            };
            // By name first: a question about a file may wait for a server, a device's never does. By number
            // then: a chroot has a /dev of its own, and anybody may call a file so.
            if target.as_os_str().as_bytes().ends_with(b"/ptmx")
                && fs::metadata(entry.path()).is_ok_and(|found| found.rdev() == PTMX)
            {
                scan.ptmx += 1;
            }
            each(&entry.file_name(), &target);
        }
        Ok(scan)
    }

    /// May this descriptor be written to? `flags` of `/proc/PID/fdinfo/FD` (proc_pid_fdinfo(5)), in octal; the
    /// last two bits are the access mode of open(2): 0 is reading only.
    #[must_use]
    pub fn is_writable(&self, pid: i32, fd: &OsStr) -> bool {
        let folder = self.root.join(format!("{pid}/fdinfo"));
        let text = fs::read_to_string(folder.join(fd)).unwrap_or_default();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        flags
            .and_then(|flags| u64::from_str_radix(flags.trim(), 8).ok())
            .is_some_and(|flags| flags & 3 != 0)
    }

    /// The soft limit of `/proc/PID/limits` (proc_pid_limits(5)). `None`: unlimited, or not told.
    #[must_use]
    pub fn limit(&self, pid: i32) -> Option<u64> {
        let text = fs::read_to_string(self.root.join(format!("{pid}/limits"))).ok()?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    }

    /// The real user of a process (`Uid` of proc_pid_status(5)). Not the owner of its folder: that is root for a
    /// process that must not be looked into, whoever runs it.
    #[must_use]
    pub fn user(&self, pid: i32) -> Option<u32> {
        let text = fs::read(self.root.join(format!("{pid}/status"))).ok()?;
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    }

    fn number(&self, file: &str) -> Option<u64> {
        // In one read, as long as it is: asked every few seconds, and the file's size says nothing.
        let mut text = [0; 64];
        let mut opened = fs::File::open(self.root.join(file)).ok()?;
        let length = opened.read(&mut text).ok()?;
        let text = std::str::from_utf8(&text[..length]).ok()?;
        text.split_ascii_whitespace().next()?.parse().ok()
    }

    /// Pseudo-terminals of the whole machine, and how many there may be (Documentation/admin-guide/sysctl/kernel.rst).
    #[must_use]
    pub fn ceiling(&self) -> Ceiling {
        let max = self.number("sys/kernel/pty/max");
        // What `reserve` holds back is for the machine's own mount of devpts: a container gets that much less.
        // Which mount is used can't be asked, so the namespace stands for it.
        let ours = fs::read_link(self.root.join("self/ns/pid"));
        let kept = match ours.is_ok_and(|ours| ours != Path::new(FIRST_PID_NAMESPACE)) {
            true => self.number("sys/kernel/pty/reserve").unwrap_or(0),
            false => 0,
        };
        Ceiling {
            used: self.terminals_of_machine(),
            max: max.map(|max| max.saturating_sub(kept)),
        }
    }

    /// How many of them are in use, alone.
    #[must_use]
    pub fn terminals_of_machine(&self) -> Option<u64> {
        self.number("sys/kernel/pty/nr")
    }

    /// Open files of the whole machine (`file-nr` of Documentation/admin-guide/sysctl/fs.rst).
    #[must_use]
    pub fn files_of_machine(&self) -> Option<u64> {
        self.number("sys/fs/file-nr")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::fixture::FakeProc;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_made_up_process_is_read_as_the_kernel_would_tell_of_it() {
        let proc = FakeProc::new();
        let read = ProcFd::new(proc.path());
        let folder = proc.path().join("42/fd");
        fs::create_dir_all(&folder).unwrap();
        let lie = proc.path().join("ptmx");
        fs::write(&lie, "a file of that name").unwrap();
        for (fd, target) in [
            ("0", Path::new("/dev/null")),
            ("1", Path::new("/dev/ptmx")),
            ("2", &lie),
            ("9", Path::new("/no/such/file.output")),
        ] {
            symlink(target, folder.join(fd)).unwrap();
        }
        proc.write(42, "fdinfo/1", b"pos:\t0\nflags:\t0502001\nmnt_id:\t3\n");
        proc.write(42, "fdinfo/0", b"pos:\t0\nflags:\t0100000\n");
        proc.write(42, "fdinfo/9", b"flags:\tjunk\n");
        proc.write(
            42,
            "limits",
            b"Limit                     Soft Limit           Hard Limit           Units     \n\
              Max processes             1                    1                    processes \n\
              Max open files            1024                 524288               files     \n",
        );
        proc.write(42, "status", b"Name:\t\xff\nUid:\t1000\t0\t0\t0\n");
        let mut told = Vec::new();
        let scan = read.scan(42, &mut |fd, target| {
            told.push((fd.to_owned(), target.to_owned()));
        });
        assert_eq!(scan, Ok(Scan { open: 4, ptmx: 1 }));
        told.sort();
        assert_eq!(told[3].1, Path::new("/no/such/file.output"));
        let writable = |fd| read.is_writable(42, OsStr::new(fd));
        assert!(writable("1") && !writable("0") && !writable("9") && !writable("7"));
        assert_eq!((read.limit(42), read.user(42)), (Some(1024), Some(1000)));
        assert_eq!(read.scan(7, &mut |_, _| {}), Err(Unreadable::Gone));
        assert_eq!((read.limit(7), read.user(7)), (None, None));
        assert_eq!(read.ceiling(), Ceiling::default());
    }

    #[test]
    fn what_is_reserved_for_the_machine_is_not_counted_in_a_container() {
        let proc = FakeProc::new();
        let read = ProcFd::new(proc.path());
        for (name, text) in [("nr", "7\n"), ("max", "4096\n"), ("reserve", "1024\n")] {
            let path = proc.path().join("sys/kernel/pty").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let link = proc.path().join("self/ns/pid");
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        for (namespace, max) in [(FIRST_PID_NAMESPACE, 4096), ("pid:[4026532001]", 3072)] {
            let _ = fs::remove_file(&link);
            symlink(namespace, &link).unwrap();
            let told = Ceiling {
                used: Some(7),
                max: Some(max),
            };
            assert_eq!(read.ceiling(), told);
        }
    }

    #[test]
    fn our_own_descriptors_are_counted_with_those_that_were_opened_and_closed() {
        let read = ProcFd::new(Path::new("/proc"));
        let us = std::process::id().cast_signed();
        let scan = |pid| read.scan(pid, &mut |_, _| {});
        let before = scan(us).unwrap();
        assert!(before.open >= 3 && read.limit(us).is_some());
        let masters: Vec<fs::File> = (0..5)
            .map(|_| fs::File::open("/dev/ptmx").unwrap())
            .collect();
        // Other tests of this process open and close files meanwhile, no pseudo-terminals.
        assert_eq!(scan(us).unwrap().ptmx, before.ptmx + 5);
        assert!(read.count(us).unwrap() >= 8);
        drop(masters);
        assert_eq!(scan(us).unwrap().ptmx, before.ptmx);
        assert!(scan(-1).is_err());
    }
}
