//! Reads and parses the files of `/proc` (proc(5)), below a root that is a parameter. Owns one
//! path and one text buffer, used again for every file. Never keeps a process in mind and never
//! decides: an entry that vanishes at any step is [`Unreadable::Gone`], not an error.
//!
//! What a read costs (Linux 6.18, 20 threads, 400 MiB; nanoseconds, trust the ratios):
//!
//! | file | open, read, close | read of an open handle |
//! |---|---|---|
//! | `statm` | 5450 | 1200 |
//! | `stat` | 8400 | 3800 |
//! | `status` | 12600 | 8000 |
//! | `task/TID/children` | 4800 | 460 |
//! | listing of `task/` | 14400 | – |
//! | `smaps_rollup` | 78700, and it grows with the memory | 74400 |
//!
//! So: `stat` (who it is, its threads and faults) and `statm` for everybody. `statm` knows no
//! swap: `status` is read instead where something may be swapped out ([`Proc::swap_in_use`]).
//! `task/` is listed only for a process of several threads. Once opened, the file of a thread that
//! has ended reads as empty; every other file of a dead process fails with `ESRCH`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::os::files::FileId;
use crate::os::proc::{Unreadable, meaning, page_kib};

/// A process without any doubt: a pid is used again, a pid with its start time is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    /// Process id as seen in this `/proc`.
    pub pid: i32,
    /// Start time in clock ticks since boot (field 22 of `stat`).
    pub start_ticks: u64,
}

/// What is used of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Who it is.
    pub id: ProcessId,
    /// `R`, `S`, `D`, `T`, `Z` ... as the letter.
    pub state: u8,
    /// Parent.
    pub ppid: i32,
    /// Process group.
    pub pgid: i32,
    /// Session.
    pub session: i32,
    /// Page faults without a read from disk, of all threads, since the start.
    pub minor_faults: u64,
    /// Threads, a dead leader that still waits for them included.
    pub threads: u64,
    /// Bottom of the stack: chosen at random by execve, inherited by fork, so equal in processes
    /// that may share pages. 0 when the kernel does not tell us.
    pub stack_start: u64,
}

impl Stat {
    /// Dead, as far as memory goes: a zombie whose threads are all gone, or on its way out.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'X' | b'x') || (self.state == b'Z' && self.threads <= 1)
    }
}

/// Memory of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// RssAnon + VmSwap, KiB. Not file pages (the kernel can drop them), not shmem (counted where
    /// its files are).
    pub footprint_kib: u64,
    /// Size of the address space in pages.
    pub size_pages: u64,
    /// Resident pages of any kind.
    pub resident_pages: u64,
}

/// Reader of one `/proc`.
#[derive(Debug)]
pub struct Proc {
    root: Vec<u8>,
    path: Vec<u8>,
    text: Vec<u8>,
    page_kib: u64,
}

/// First read of a file: all of `stat`, `statm`, `status` in one system call.
const CHUNK: usize = 4096;
/// No file that we read is longer: `children` of one thread with 32768 children.
const LONGEST: usize = 256 * 1024;
/// The longest record of a `children` file and more: a read that is shorter than asked by this
/// much was the last one (saves the read that would return 0).
const RECORD: usize = 64;

impl Proc {
    /// `root` is `/proc`, or a folder that looks like it.
    #[must_use]
    pub fn new(root: &Path) -> Proc {
        Proc {
            root: root.as_os_str().as_bytes().to_vec(),
            path: Vec::with_capacity(64),
            text: Vec::new(),
            page_kib: page_kib(),
        }
    }

    /// Where it reads.
    #[must_use]
    pub fn root(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.root))
    }

    /// KiB of a page.
    #[must_use]
    pub fn page_kib(&self) -> u64 {
        self.page_kib
    }

    /// Path of a file of one process; `file` is relative to `/proc/PID/`.
    fn path_of(&mut self, pid: i32, file: &str) -> &Path {
        self.path.clear();
        self.path.extend_from_slice(&self.root);
        // Writing to a Vec can't fail.
        let _ = write!(self.path, "/{pid}/{file}");
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// Path of the list of children of one thread.
    fn children_path(&mut self, pid: i32, tid: i32) -> &Path {
        self.path.clear();
        self.path.extend_from_slice(&self.root);
        let _ = write!(self.path, "/{pid}/task/{tid}/children");
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// Opens a file of a process, to be read again and again. A handle stays with *this* process:
    /// after its end every read fails, also when the pid has a new owner.
    pub fn open(&mut self, pid: i32, file: &str) -> Result<File, Unreadable> {
        File::open(self.path_of(pid, file)).map_err(|error| meaning(&error))
    }

    /// Opens the list of children of one thread.
    pub fn open_children(&mut self, pid: i32, tid: i32) -> Result<File, Unreadable> {
        File::open(self.children_path(pid, tid)).map_err(|error| meaning(&error))
    }

    /// Reads an open file from its start into the buffer.
    fn slurp(&mut self, file: &File) -> Result<(), Unreadable> {
        let mut filled = 0;
        loop {
            if self.text.len() < filled + CHUNK {
                self.text.resize(filled + CHUNK, 0);
            }
            let room = self.text.len() - filled;
            let got = file
                .read_at(&mut self.text[filled..], filled as u64)
                .map_err(|error| meaning(&error))?;
            filled += got;
            if got == 0 || got + RECORD < room || filled >= LONGEST {
                break;
            }
        }
        // Only the length: the buffer keeps its room until `shrink`.
        self.text.truncate(filled);
        Ok(())
    }

    /// Gives back what an unusually long file has made the buffer grow to.
    pub fn shrink(&mut self) {
        if self.text.capacity() > 4 * CHUNK {
            self.text = Vec::new();
        }
    }

    /// `/proc/PID/stat`, through a handle or by its path.
    pub fn stat(&mut self, pid: i32, handle: Option<&File>) -> Result<Stat, Unreadable> {
        match handle {
            Some(file) => self.slurp(file)?,
            None => {
                let file = self.open(pid, "stat")?;
                self.slurp(&file)?;
            }
        }
        parse_stat(&self.text)
            .filter(|stat| stat.id.pid == pid)
            .ok_or(Unreadable::Garbled)
    }

    /// The start of a process that lives, clock ticks since boot. `None`: there is none of this number, or a zombie
    /// that nobody reaps.
    pub fn start_of(&mut self, pid: i32) -> Option<u64> {
        let stat = self.stat(pid, None).ok()?;
        (!stat.is_dead()).then_some(stat.id.start_ticks)
    }

    /// Does this very process live?
    pub fn is_alive(&mut self, id: ProcessId) -> bool {
        self.start_of(id.pid) == Some(id.start_ticks)
    }

    /// Memory without swap, from `statm`. All zero: no address space (a zombie).
    pub fn memory(&mut self, pid: i32, handle: Option<&File>) -> Result<Memory, Unreadable> {
        match handle {
            Some(file) => self.slurp(file)?,
            None => {
                let file = self.open(pid, "statm")?;
                self.slurp(&file)?;
            }
        }
        parse_statm(&self.text, self.page_kib).ok_or(Unreadable::Garbled)
    }

    /// Memory of a process by one of its threads: what is left when the first thread has ended.
    pub fn memory_of_thread(&mut self, pid: i32, tid: i32) -> Result<Memory, Unreadable> {
        self.path.clear();
        self.path.extend_from_slice(&self.root);
        let _ = write!(self.path, "/{pid}/task/{tid}/statm");
        let path = Path::new(OsStr::from_bytes(&self.path));
        let file = File::open(path).map_err(|error| meaning(&error))?;
        self.slurp(&file)?;
        parse_statm(&self.text, self.page_kib).ok_or(Unreadable::Garbled)
    }

    /// RssAnon + VmSwap from `status`, KiB, and VmSwap alone.
    pub fn anon_and_swap_kib(&mut self, pid: i32) -> Result<(u64, u64), Unreadable> {
        let file = self.open(pid, "status")?;
        self.slurp(&file)?;
        let anon = kib_of(&self.text, b"RssAnon:").ok_or(Unreadable::Garbled)?;
        let swap = kib_of(&self.text, b"VmSwap:").ok_or(Unreadable::Garbled)?;
        Ok((anon.saturating_add(swap), swap))
    }

    /// Name of the program (`comm`, at most 15 bytes), as far as it is printable ASCII; `?` for the rest.
    pub fn name(&mut self, pid: i32) -> Result<String, Unreadable> {
        let file = self.open(pid, "comm")?;
        self.slurp(&file)?;
        let printable = |byte: &u8| matches!(byte, b' '..=b'~');
        let shown = |byte: &u8| {
            if printable(byte) {
                char::from(*byte)
            } else {
                '?'
            }
        };
        Ok(self.text.trim_ascii_end().iter().map(shown).collect())
    }

    /// Private memory plus this process' share of what it shares: Pss_Anon + SwapPss of
    /// `smaps_rollup`, KiB. Dear: walks the page tables and holds the lock of the address space.
    pub fn share_kib(&mut self, pid: i32) -> Result<u64, Unreadable> {
        let file = self.open(pid, "smaps_rollup")?;
        self.slurp(&file)?;
        let swap = kib_of(&self.text, b"SwapPss:").unwrap_or(0);
        let anon = match kib_of(&self.text, b"Pss_Anon:") {
            Some(kib) => kib,
            // Before 5.4: all of Pss, files included, but no more than what is anonymous.
            None => {
                let anonymous = kib_of(&self.text, b"Anonymous:").ok_or(Unreadable::Garbled)?;
                let pss = kib_of(&self.text, b"Pss:").ok_or(Unreadable::Garbled)?;
                pss.min(anonymous)
            }
        };
        Ok(anon.saturating_add(swap))
    }

    /// Adds to `children` the children that one thread has started.
    pub fn children(
        &mut self,
        pid: i32,
        tid: i32,
        handle: Option<&File>,
        children: &mut Vec<i32>,
    ) -> Result<(), Unreadable> {
        match handle {
            Some(file) => self.slurp(file)?,
            None => {
                let file = self.open_children(pid, tid)?;
                self.slurp(&file)?;
            }
        }
        for word in self.text.split(u8::is_ascii_whitespace) {
            if let Some(child) = pid_of(word) {
                children.push(child);
            }
        }
        Ok(())
    }

    /// Writes the thread ids of a process to `tids`.
    pub fn threads(&mut self, pid: i32, tids: &mut Vec<i32>) -> Result<(), Unreadable> {
        tids.clear();
        numbers_in(self.path_of(pid, "task"), tids)
    }

    /// Writes all pids to `pids`.
    pub fn pids(&mut self, pids: &mut Vec<i32>) -> Result<(), Unreadable> {
        pids.clear();
        numbers_in(Path::new(OsStr::from_bytes(&self.root)), pids)
    }

    /// Whether this kernel lists children (CONFIG_PROC_CHILDREN). `None` when the process is gone.
    pub fn has_children_files(&mut self, pid: i32) -> Option<bool> {
        match self.open_children(pid, pid) {
            Err(Unreadable::Gone) => self.open(pid, "stat").is_ok().then_some(false),
            _ => Some(true),
        }
    }

    /// The command line of a process, its words ended by zero bytes; at most 256 KiB of it. Empty: a zombie, or a
    /// thread of the kernel.
    pub fn command_line(&mut self, pid: i32) -> Result<&[u8], Unreadable> {
        let file = self.open(pid, "cmdline")?;
        self.slurp(&file)?;
        Ok(&self.text)
    }

    /// The file that a process executes. `None` when it is gone or not for our eyes.
    pub fn exe(&mut self, pid: i32) -> Option<FileId> {
        FileId::of(self.path_of(pid, "exe"))
    }

    /// Whether any swap is used on this machine. Within a container the file may be made up: the
    /// watcher also asks the client's own VmSwap.
    pub fn swap_in_use(&mut self) -> bool {
        self.path.clear();
        self.path.extend_from_slice(&self.root);
        self.path.extend_from_slice(b"/swaps");
        let Ok(file) = File::open(OsStr::from_bytes(&self.path)) else {
            return false;
        };
        if self.slurp(&file).is_err() {
            return false;
        }
        self.text.split(|&byte| byte == b'\n').skip(1).any(|line| {
            words(line)
                .nth(3)
                .and_then(number)
                .is_some_and(|used| used > 0)
        })
    }
}

/// The entries of a folder that are numbers above 0, without an order.
fn numbers_in(folder: &Path, numbers: &mut Vec<i32>) -> Result<(), Unreadable> {
    let entries = std::fs::read_dir(folder).map_err(|error| meaning(&error))?;
    for entry in entries {
        match entry {
            Ok(entry) => numbers.extend(pid_of(&entry.file_name().into_vec())),
            // The process ended while its threads were listed.
            Err(error) => return Err(meaning(&error)),
        }
    }
    Ok(())
}

/// Parses `stat`. The name in the parentheses may hold anything, parentheses and newlines too:
/// the numbers begin after the *last* closing one.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let pid = pid_of(text.get(..open)?.trim_ascii())?;
    // Fields by their number in proc(5): 3 is the first after the name.
    let mut fields = words(text.get(close + 1..)?);
    let state = match fields.next()? {
        [letter] if letter.is_ascii_alphabetic() => *letter,
        _ => return None,
    };
    let ppid = signed(fields.next()?)?;
    let pgid = signed(fields.next()?)?;
    let session = signed(fields.next()?)?;
    let minor_faults = number(fields.nth(3)?)?; // 10
    let threads = number(fields.nth(9)?)?; // 20
    let start_ticks = number(fields.nth(1)?)?; // 22
    let stack_start = fields.nth(5).and_then(number).unwrap_or(0); // 28
    Some(Stat {
        id: ProcessId { pid, start_ticks },
        state,
        ppid,
        pgid,
        session,
        minor_faults,
        threads,
        stack_start,
    })
}

/// Parses `statm`: size, resident, shared (file and shmem) in pages.
fn parse_statm(text: &[u8], page_kib: u64) -> Option<Memory> {
    let mut fields = words(text);
    let size_pages = number(fields.next()?)?;
    let resident_pages = number(fields.next()?)?;
    let shared_pages = number(fields.next()?)?;
    // Four more follow: a cut-off third number must not pass for a smaller one.
    fields.next()?;
    Some(Memory {
        footprint_kib: resident_pages
            .saturating_sub(shared_pages)
            .saturating_mul(page_kib),
        size_pages,
        resident_pages,
    })
}

/// The number of a line `KEY:   123 kB`.
fn kib_of(text: &[u8], key: &[u8]) -> Option<u64> {
    let line = text
        .split(|&byte| byte == b'\n')
        .find(|line| line.starts_with(key))?;
    let mut fields = words(&line[key.len()..]);
    let kib = number(fields.next()?)?;
    (fields.next()? == b"kB").then_some(kib)
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

/// A decimal number without a sign. `None` for anything else and for what does not fit.
fn number(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0_u64, |sum, &byte| {
        let digit = u64::from(byte.wrapping_sub(b'0'));
        if digit > 9 {
            return None;
        }
        sum.checked_mul(10)?.checked_add(digit)
    })
}

fn signed(word: &[u8]) -> Option<i32> {
    match word.strip_prefix(b"-") {
        Some(rest) => i32::try_from(number(rest)?).ok()?.checked_neg(),
        None => i32::try_from(number(word)?).ok(),
    }
}

/// A pid: 1 and above.
fn pid_of(word: &[u8]) -> Option<i32> {
    i32::try_from(number(word)?).ok().filter(|&pid| pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::fixture::{FakeProc, Random};

    const TAIL: &[u8] = b"S 7 8 9 34816 -1 4194560 1234 0 0 0 5 6 0 0 20 0 21 0 130530 \
        3133440 360 18446744073709551615 94169430315008 94169430334889 140720693309168 0 0";

    fn stat_text(name: &[u8]) -> Vec<u8> {
        [b"42 (", name, b") ", TAIL, b"\n"].concat()
    }

    #[test]
    fn a_name_may_hold_anything() {
        for name in [
            &b"claude"[..],
            b"",
            b"foo) Z ",
            b"a\nb",
            b") R 1 1 1 (",
            b"((()))",
            b"2.1.224",
            b"\xff\xfe )",
            b"tmux: server",
        ] {
            let stat = parse_stat(&stat_text(name)).unwrap();
            assert_eq!(
                (stat.id.pid, stat.id.start_ticks),
                (42, 130_530),
                "{name:?}"
            );
            assert_eq!((stat.ppid, stat.pgid, stat.session), (7, 8, 9));
            assert_eq!((stat.state, stat.threads), (b'S', 21));
            assert_eq!(stat.minor_faults, 1234);
            assert_eq!(stat.stack_start, 140_720_693_309_168);
        }
    }

    #[test]
    fn a_cut_stat_is_garbled_until_the_start_time_is_there() {
        let text = stat_text(b"foo) Z ");
        let needed = text.len() - TAIL.len() + find(TAIL, b" 130530");
        for cut in 0..text.len() {
            let parsed = parse_stat(&text[..cut]);
            if cut <= needed {
                assert_eq!(parsed, None, "cut at {cut}");
            } else if let Some(stat) = parsed {
                assert_eq!(stat.id.pid, 42);
            }
        }
    }

    fn find(text: &[u8], part: &[u8]) -> usize {
        text.windows(part.len())
            .position(|window| window == part)
            .unwrap()
    }

    #[test]
    fn junk_never_panics_and_never_overflows() {
        let mut random = Random::new(7);
        let alphabet = b"0123456789999 ()-+\n\tSZ:kBRssAnonVmSwap\0\xff";
        for _ in 0..20_000 {
            let text: Vec<u8> = (0..random.below(200))
                .map(|_| alphabet[random.below(alphabet.len() as u64) as usize])
                .collect();
            let _ = parse_stat(&text);
            let _ = parse_statm(&text, 64);
            let _ = kib_of(&text, b"RssAnon:");
        }
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(number(b"18446744073709551616"), None);
        assert_eq!(number(b"+1"), None);
        assert_eq!(signed(b"-2147483648"), None, "no pid, no group");
        assert_eq!(signed(b"-1"), Some(-1));
        assert_eq!(pid_of(b"0"), None);
        assert_eq!(pid_of(b"4294967297"), None);
    }

    #[test]
    fn statm_gives_resident_less_shared_in_kib() {
        let memory = parse_statm(b"765 407 379 5 0 123 0\n", 4).unwrap();
        assert_eq!(memory.footprint_kib, 112);
        assert_eq!((memory.size_pages, memory.resident_pages), (765, 407));
        assert_eq!(
            parse_statm(b"765 407 379 5 0 123 0\n", 64)
                .unwrap()
                .footprint_kib,
            28 * 64
        );
        // The three counters are not read at one instant.
        assert_eq!(parse_statm(b"9 3 5 0 0 0 0\n", 4).unwrap().footprint_kib, 0);
        let huge = parse_statm(b"1 18446744073709551615 0 0 0 0 0\n", 4).unwrap();
        assert_eq!(huge.footprint_kib, u64::MAX);
        for text in [
            &b""[..],
            b"765",
            b"765 407 3",
            b"765 x 379 5",
            b"765 407 379",
        ] {
            assert_eq!(parse_statm(text, 4), None);
        }
    }

    #[test]
    fn the_unit_belongs_to_the_number() {
        let text = b"Name:\tRssAnon:\nVmSwap:\t     100 kB\nRssAnon:\t  144 kB\nx";
        assert_eq!(kib_of(text, b"RssAnon:"), Some(144));
        assert_eq!(kib_of(text, b"VmSwap:"), Some(100));
        assert_eq!(kib_of(b"RssAnon:\t 14", b"RssAnon:"), None, "cut off");
        assert_eq!(kib_of(b"RssAnon:\t 14 MB\n", b"RssAnon:"), None);
    }

    #[test]
    fn files_are_read_from_any_root_and_absence_is_gone() {
        let fake = FakeProc::new();
        fake.process(10, 1, b"a) b", 5, 1000);
        fake.write(
            10,
            "task/10/children",
            b"11 12 nonsense 13 -4 0 99999999999 14",
        );
        let mut proc = Proc::new(fake.path());
        assert_eq!(proc.stat(10, None).unwrap().ppid, 1);
        assert_eq!(
            proc.memory(10, None).unwrap().footprint_kib,
            1000 * page_kib()
        );
        let mut children = Vec::new();
        proc.children(10, 10, None, &mut children).unwrap();
        assert_eq!(children, [11, 12, 13, 14]);
        assert_eq!(proc.stat(11, None), Err(Unreadable::Gone));
        assert_eq!(proc.memory(11, None), Err(Unreadable::Gone));
        assert_eq!(proc.threads(11, &mut children), Err(Unreadable::Gone));
        fake.write(10, "stat", b"");
        assert_eq!(proc.stat(10, None), Err(Unreadable::Garbled));
        fake.write(
            10,
            "stat",
            b"11 (x) S 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0 5 0 0",
        );
        assert_eq!(
            proc.stat(10, None),
            Err(Unreadable::Garbled),
            "another pid's"
        );
    }

    #[test]
    fn a_children_file_longer_than_the_buffer_is_read_whole() {
        let fake = FakeProc::new();
        fake.process(10, 1, b"storm", 5, 1);
        let text: String = (1000..9000).map(|pid| format!("{pid} ")).collect();
        assert!(text.len() > 8 * CHUNK);
        fake.write(10, "task/10/children", text.as_bytes());
        let mut proc = Proc::new(fake.path());
        let mut children = Vec::new();
        proc.children(10, 10, None, &mut children).unwrap();
        assert_eq!(children, (1000..9000).collect::<Vec<_>>());
        assert_eq!(
            proc.stat(10, None).unwrap().id.pid,
            10,
            "the buffer is clean again"
        );
        proc.shrink();
        assert!(proc.text.capacity() <= 4 * CHUNK);
    }

    #[test]
    fn swap_counts_as_used_when_a_line_says_so() {
        let fake = FakeProc::new();
        let mut proc = Proc::new(fake.path());
        assert!(!proc.swap_in_use(), "no file");
        let header = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        for (line, used) in [
            ("", false),
            ("/dev/zram0 partition 100 0 100\n", false),
            (
                "/dev/zram0 partition 100 0 100\n/swap\\040file file 9 3 -2\n",
                true,
            ),
            ("/dev/zram0 partition 100", false),
        ] {
            std::fs::write(fake.path().join("swaps"), format!("{header}{line}")).unwrap();
            assert_eq!(proc.swap_in_use(), used, "{line:?}");
        }
    }

    #[test]
    fn a_handle_stays_with_its_process() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        let mut proc = Proc::new(Path::new("/proc"));
        let stat = proc.open(pid, "stat").unwrap();
        let children = proc.open_children(pid, pid).unwrap();
        assert_eq!(
            proc.stat(pid, Some(&stat)).unwrap().ppid,
            std::process::id() as i32
        );
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(proc.stat(pid, Some(&stat)), Err(Unreadable::Gone));
        let mut none = Vec::new();
        let read = proc.children(pid, pid, Some(&children), &mut none);
        assert!(none.is_empty(), "{read:?}");
    }

    #[test]
    fn both_readers_agree_on_a_real_process() {
        let mut proc = Proc::new(Path::new("/proc"));
        let me = std::process::id() as i32;
        let held = vec![1_u8; 64 << 20];
        let statm = proc.memory(me, None).unwrap().footprint_kib;
        let (status, swap) = proc.anon_and_swap_kib(me).unwrap();
        // Other tests of this program allocate meanwhile.
        assert!(
            statm + swap > 64 * 1024 && status > 64 * 1024,
            "{statm} {status}"
        );
        assert!(proc.share_kib(me).unwrap() > 64 * 1024);
        assert!(std::hint::black_box(&held).len() == 64 << 20);
    }
}
