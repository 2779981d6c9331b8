//! For tests: a private folder, a `/proc` made of files, numbers that look random and are not.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A folder of this test's own, removed at the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("cs-watch-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Folder(path),
                // Left by a test run that was killed.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A `/proc` made of files.
pub(crate) struct FakeProc(Folder);

impl FakeProc {
    pub(crate) fn new() -> FakeProc {
        FakeProc(Folder::new())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, pid: i32, file: &str, content: &[u8]) {
        let path = self.path().join(pid.to_string()).join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// A process of one thread and without children, in its parent's group 1.
    pub(crate) fn process(&self, pid: i32, ppid: i32, name: &[u8], start: u64, pages: u64) {
        self.stat(pid, ppid, name, start, 1, b'S', 1);
        self.pages(pid, pages);
        self.write(pid, &format!("task/{pid}/children"), b"");
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn stat(
        &self,
        pid: i32,
        ppid: i32,
        name: &[u8],
        start: u64,
        threads: u64,
        state: u8,
        pgid: i32,
    ) {
        let state = char::from(state);
        let mut text = format!("{pid} (").into_bytes();
        text.extend_from_slice(name);
        let tail = format!(
            ") {state} {ppid} {pgid} {pgid} 0 -1 0 10 0 0 0 0 0 0 0 20 0 {threads} 0 {start} 0 0 0 0 0 0 0\n"
        );
        text.extend_from_slice(tail.as_bytes());
        self.write(pid, "stat", &text);
    }

    pub(crate) fn pages(&self, pid: i32, pages: u64) {
        let resident = pages + 7;
        let text = format!("{} {resident} 7 1 0 9 0\n", resident + 100);
        self.write(pid, "statm", text.as_bytes());
    }

    pub(crate) fn children(&self, pid: i32, tid: i32, children: &[i32]) {
        let text: String = children.iter().map(|child| format!("{child} ")).collect();
        self.write(pid, &format!("task/{tid}/children"), text.as_bytes());
    }

    pub(crate) fn remove(&self, pid: i32) {
        std::fs::remove_dir_all(self.path().join(pid.to_string())).unwrap();
    }
}

/// xorshift64*: the same numbers in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// 0..limit.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.next() % limit }
    }
}
