//! Runs under the guard and maps memory, in a way named by the first argument. It keeps its own
//! ledger of what it has mapped, and compares the statistics page with that and with /proc/self.
//! Exit status 0 if all agree; owns no other judgement.
//!
//! Exit status 99: the guard is not loaded. `edges` and `cost` run without it too, to compare.

use std::{
    ffi::{c_int, c_void},
    fs,
    ptr::null_mut,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

#[path = "../../guard/src/stats_page.rs"]
#[allow(missing_docs)]
mod stats_page;

use stats_page::{PlaneState, RegionKind, Snapshot, State};

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let argument = |number: usize| args.get(number).map_or("", String::as_str);
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc");
    let loaded = maps.contains("libclaude_guard");
    match argument(1) {
        "edges" => return edges(),
        "cost" => return cost(),
        _ if !loaded => std::process::exit(99),
        _ => {}
    }
    let book = Book::open(argument(2));
    match argument(1) {
        "rounds" => rounds(&book),
        "storm" => storm(&book),
        "remap" => remap(&book),
        "kinds" => kinds(&book),
        "sparse" => sparse(&book, argument(3).parse().expect("GiB"), argument(4)),
        "fork" => fork(&book),
        "handler" => handler(&book),
        "suspend" => suspend(&book),
        other => panic!("no scenario {other:?}"),
    }
}

/// The statistics page, mapped: it can be read when no file can be opened.
struct Book(&'static [u8]);

impl Book {
    fn open(path: &str) -> Self {
        let path = std::ffi::CString::new(path).expect("a path");
        // SAFETY: a shared mapping of the page's file, which stays as long as it is. The guard
        // writes to it: it is only read as a copy, see plane.
        unsafe {
            let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            let at = libc::mmap(
                null_mut(),
                stats_page::LEN,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file,
                0,
            );
            assert_ne!(at, libc::MAP_FAILED, "the page");
            Self(std::slice::from_raw_parts(at.cast(), stats_page::LEN))
        }
    }

    fn plane(&self) -> PlaneState {
        let copy = std::hint::black_box(self.0).to_vec();
        let page = Snapshot::from_bytes(&copy).expect("a page");
        assert_ne!(page.state, State::Starting);
        page.plane
    }

    fn mapped_bytes(&self) -> u64 {
        self.plane().kinds.iter().map(|kind| kind.bytes).sum()
    }

    fn bytes_of(&self, kind: RegionKind) -> u64 {
        self.plane().kinds[kind as usize].bytes
    }

    /// Makes harmless calls until an estimate is there that was begun after now.
    fn wait_for_estimate(&self) -> PlaneState {
        let begun = self.plane().estimated_ms;
        let until = Instant::now() + PATIENCE;
        let page = map(PAGE);
        loop {
            // SAFETY: our own page.
            assert_eq!(unsafe { libc::mprotect(page, PAGE, 3) }, 0);
            let plane = self.plane();
            // Two: the first may have begun before this call.
            if plane.estimated_ms > begun + 1_500 {
                unmap(page, PAGE);
                return plane;
            }
            assert!(Instant::now() < until, "no estimate");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn map_with(hint: *mut c_void, len: usize, protection: c_int, flags: c_int) -> *mut c_void {
    // SAFETY: anonymous memory; hints and fixed places are the caller's own.
    let at = unsafe {
        libc::mmap(
            hint,
            len,
            protection,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    assert_ne!(at, libc::MAP_FAILED);
    at
}

fn map(len: usize) -> *mut c_void {
    map_with(null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, 0)
}

fn unmap(at: *mut c_void, len: usize) {
    // SAFETY: the caller's own mapping.
    assert_eq!(unsafe { libc::munmap(at, len) }, 0);
}

/// A small generator of our own: the same sequence for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// What a thread has mapped: start and length in bytes.
type Ledger = Vec<(usize, usize)>;

/// Regions that one thread keeps: all threads together fit in the map.
const KEPT: usize = 300;

/// One random call, entered in the ledger. At most two events for the guard.
fn step(random: &mut Random, ledger: &mut Ledger) {
    let choice = if ledger.len() > KEPT {
        2
    } else {
        random.below(6)
    };
    match choice {
        0 | 1 => {
            let len = (1 + random.below(64)) * PAGE;
            ledger.push((map(len) as usize, len));
        }
        2 if !ledger.is_empty() => {
            let (at, len) = ledger.swap_remove(random.below(ledger.len()));
            unmap(at as _, len);
        }
        // A hole, or an end cut off.
        3 if !ledger.is_empty() => {
            let index = random.below(ledger.len());
            let (at, len) = ledger[index];
            let pages = len / PAGE;
            let from = random.below(pages);
            let to = from + 1 + random.below(pages - from);
            ledger.swap_remove(index);
            unmap((at + from * PAGE) as _, (to - from) * PAGE);
            for (start, end) in [(0, from), (to, pages)] {
                if start < end {
                    ledger.push((at + start * PAGE, (end - start) * PAGE));
                }
            }
        }
        4 if !ledger.is_empty() => {
            let index = random.below(ledger.len());
            let (at, len) = ledger[index];
            let new_len = (1 + random.below(96)) * PAGE;
            // SAFETY: our own mapping, which nobody uses.
            let new = unsafe { libc::mremap(at as _, len, new_len, libc::MREMAP_MAYMOVE) };
            assert_ne!(new, libc::MAP_FAILED);
            ledger[index] = (new as usize, new_len);
        }
        5 if !ledger.is_empty() => {
            let (at, len) = ledger[random.below(ledger.len())];
            let protection = [libc::PROT_NONE, libc::PROT_READ | libc::PROT_WRITE];
            // SAFETY: our own mapping, which nobody uses.
            unsafe {
                assert_eq!(libc::mprotect(at as _, len, protection[random.below(2)]), 0);
                assert_eq!(libc::madvise(at as _, len, libc::MADV_DONTNEED), 0);
            }
        }
        _ => {}
    }
}

fn sum(ledger: &Ledger) -> u64 {
    ledger.iter().map(|&(_, len)| len as u64).sum()
}

/// The ledger itself is true: all of it is mapped, as the kernel sees it.
fn assert_mapped(ledger: &Ledger) {
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc");
    let ranges: Vec<(usize, usize)> = maps
        .lines()
        .filter_map(|line| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).ok();
            Some((number(start)?, number(end)?))
        })
        .collect();
    for &(at, len) in ledger {
        let mut reached = at;
        for &(start, end) in &ranges {
            if start <= reached && reached < end {
                reached = end;
            }
        }
        assert!(reached >= at + len, "{at:x} + {len:x} is not mapped");
    }
}

fn assert_exact(book: &Book, before: u64, ledger: &Ledger) {
    assert_mapped(ledger);
    let plane = book.plane();
    assert_eq!(plane.lost, 0, "{plane:?}");
    assert_eq!(book.mapped_bytes() - before, sum(ledger), "{plane:?}");
}

/// Threads side by side, in rounds that are small enough for the queue: whatever the scheduler
/// does, nothing may be lost, and after each round the page is exact.
fn rounds(book: &Book) {
    const THREADS: usize = 4;
    const ROUNDS: usize = 300;
    const STEPS: usize = 20;
    let before = Arc::new(AtomicUsize::new(0));
    let barrier = Barrier::new(THREADS + 1);
    let ledgers: Vec<std::sync::Mutex<Ledger>> = (0..THREADS).map(|_| Vec::new().into()).collect();
    std::thread::scope(|scope| {
        for (number, ledger) in ledgers.iter().enumerate() {
            let barrier = &barrier;
            scope.spawn(move || {
                let mut random = Random(0x9E37_79B9 + number as u64);
                let mut own: Ledger = Vec::with_capacity(100_000);
                barrier.wait();
                for _ in 0..ROUNDS {
                    barrier.wait();
                    for _ in 0..STEPS {
                        step(&mut random, &mut own);
                    }
                    ledger.lock().expect("a ledger").clone_from(&own);
                    barrier.wait();
                }
                // Stays until all has been looked at: what std maps for a thread goes with it.
                barrier.wait();
            });
        }
        barrier.wait();
        // All threads are there: what std maps for them is mapped.
        before.store(book.mapped_bytes() as usize, SeqCst);
        for _ in 0..ROUNDS {
            barrier.wait();
            barrier.wait();
            // One call of our own: whatever waits in the queue is entered.
            unmap(map(PAGE), PAGE);
            let all: Ledger = ledgers
                .iter()
                .flat_map(|ledger| ledger.lock().expect("a ledger").clone())
                .collect();
            assert_exact(book, before.load(SeqCst) as u64, &all);
        }
        barrier.wait();
    });
}

/// As fast as it goes: something may be lost, but then that is said.
fn storm(book: &Book) {
    let before = book.mapped_bytes();
    let workers: Vec<_> = (0..4_u64)
        .map(|number| {
            std::thread::spawn(move || {
                let mut random = Random(77 + number);
                let mut ledger = Vec::new();
                for _ in 0..50_000 {
                    step(&mut random, &mut ledger);
                }
                ledger
            })
        })
        .collect();
    let ledger: Ledger = workers
        .into_iter()
        .flat_map(|worker| worker.join().expect("a worker"))
        .collect();
    unmap(map(PAGE), PAGE);
    assert_mapped(&ledger);
    let plane = book.plane();
    if plane.lost == 0 {
        assert_eq!(book.mapped_bytes() - before, sum(&ledger));
    }
    println!(
        "lost={} calls={} mapped={} ledger={}",
        plane.lost,
        plane.calls,
        book.mapped_bytes() - before,
        sum(&ledger)
    );
}

/// mremap in all its ways, and places mapped over.
fn remap(book: &Book) {
    let before = book.mapped_bytes();
    let expect = |pages: usize| {
        let plane = book.plane();
        assert_eq!(plane.lost, 0);
        assert_eq!(book.mapped_bytes() - before, (pages * PAGE) as u64);
    };
    // SAFETY: all ranges lie in mappings made here, which nobody else uses.
    unsafe {
        let remap = |old: usize, old_pages: usize, new_pages: usize, flags: c_int, new: usize| {
            let at = libc::mremap(
                old as _,
                old_pages * PAGE,
                new_pages * PAGE,
                flags,
                new as *mut c_void,
            );
            if at == libc::MAP_FAILED {
                0
            } else {
                at as usize
            }
        };
        let room = map(64 * PAGE) as usize;
        expect(64);
        unmap((room + 16 * PAGE) as _, 48 * PAGE);
        expect(16);
        // In place, into the room behind.
        assert_eq!(remap(room, 16, 32, 0, 0), room);
        expect(32);
        assert_eq!(remap(room, 32, 8, 0, 0), room);
        expect(8);
        // Must move: the page behind is taken.
        let wall = map_with((room + 8 * PAGE) as _, PAGE, 3, libc::MAP_FIXED) as usize;
        expect(9);
        assert_eq!(remap(room, 8, 24, 0, 0), 0, "grown over the wall");
        expect(9);
        let moved = remap(room, 8, 24, libc::MREMAP_MAYMOVE, 0);
        assert!(moved != 0 && moved != room);
        expect(25);
        // Over another region.
        let target = map(40 * PAGE) as usize;
        expect(65);
        let fixed = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        assert_eq!(
            remap(moved, 24, 24, fixed, target + 8 * PAGE),
            target + 8 * PAGE
        );
        expect(41);
        // Refused: overlap, and a place that is no page's start.
        assert_eq!(remap(target, 8, 8, fixed, target + PAGE), 0);
        assert_eq!(remap(target, 8, 8, fixed, target + 1), 0);
        expect(41);
        // The old place stays.
        let copy = remap(
            target,
            8,
            8,
            libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP,
            0,
        );
        assert_ne!(copy, 0);
        expect(49);
        // Length 0: refused for private memory; shared memory isn't ours, nor is its double.
        assert_eq!(remap(copy, 0, 8, libc::MREMAP_MAYMOVE, 0), 0);
        expect(49);
        let shared = libc::mmap(
            null_mut(),
            4 * PAGE,
            3,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        ) as usize;
        assert_ne!(remap(shared, 0, 4, libc::MREMAP_MAYMOVE, 0), 0);
        expect(49);
        // A file, and shared memory, over private pages.
        let file = fs::File::open("/proc/self/exe").expect("our file");
        let over = libc::mmap(
            copy as _,
            PAGE,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_FIXED,
            std::os::fd::AsRawFd::as_raw_fd(&file),
            0,
        );
        assert_eq!(over as usize, copy);
        expect(48);
        // Failing calls change nothing.
        assert_eq!(libc::munmap((wall + 1) as _, PAGE), -1);
        assert_eq!(libc::munmap(wall as _, 0), -1);
        expect(48);
        unmap(wall as _, PAGE);
        unmap(copy as _, 8 * PAGE);
        unmap(target as _, 40 * PAGE);
        expect(0);
    }
}

/// Each kind by its arguments; a reserve that is cut and made usable stays what it was.
fn kinds(book: &Book) {
    const GIB: usize = 1 << 30;
    let kinds = [
        RegionKind::Arena,
        RegionKind::JsHeap,
        RegionKind::Stack,
        RegionKind::Other,
    ];
    let (none, both) = (libc::PROT_NONE, libc::PROT_READ | libc::PROT_WRITE);
    let reserve = libc::MAP_NORESERVE;
    let is = |kind: RegionKind, hint: usize, len: usize, protection: c_int, flags: c_int| {
        let before = kinds.map(|kind| book.bytes_of(kind));
        let at = map_with(hint as _, len, protection, flags);
        for (kind_there, before) in kinds.into_iter().zip(before) {
            let expected = before + if kind_there == kind { len as u64 } else { 0 };
            assert_eq!(book.bytes_of(kind_there), expected, "{kind:?} of {len}");
        }
        at
    };
    is(RegionKind::Arena, 0x100_0000_0000, GIB, both, reserve);
    is(RegionKind::Arena, 0, 128 * GIB, both, reserve);
    is(RegionKind::JsHeap, 0, 8 * GIB, both, reserve);
    is(RegionKind::JsHeap, 0, 32 * MIB, both, reserve);
    is(RegionKind::JsHeap, 0, 520_192, none, reserve);
    is(
        RegionKind::JsHeap,
        0,
        64 * MIB + 2 * PAGE,
        both | libc::PROT_EXEC,
        reserve,
    );
    is(RegionKind::Stack, 0, 8 * MIB, none, libc::MAP_STACK);
    is(RegionKind::Other, 0, 64 * 1024, both, reserve);
    is(RegionKind::Other, 0, 5 * MIB, both, 0);
    // Part of a reserve, made usable and given back as V8 does it: still that reserve.
    let cage = is(RegionKind::Arena, 0, 10 * GIB, none, reserve);
    let before = kinds.map(|kind| book.bytes_of(kind));
    // SAFETY: the first MiB of our own reserve.
    assert_eq!(unsafe { libc::mprotect(cage, MIB, both) }, 0);
    map_with(cage, MIB, both, libc::MAP_FIXED);
    map_with(cage, MIB, none, libc::MAP_FIXED | reserve | libc::MAP_STACK);
    let changed = kinds.map(|kind| book.bytes_of(kind));
    // The last one is a stack by its own word, and leaves the arena.
    assert_eq!(
        changed[RegionKind::Arena as usize],
        before[RegionKind::Arena as usize] - MIB as u64
    );
    assert_eq!(
        changed[RegionKind::Stack as usize],
        before[RegionKind::Stack as usize] + MIB as u64
    );
}

/// A reserved arena of which little is touched: half in blocks, half in single pages.
fn sparse(book: &Book, gib: usize, how: &str) {
    let len = gib << 30;
    let touched = 200 * MIB;
    let arena = map_with(null_mut(), len, 3, libc::MAP_NORESERVE) as usize;
    let mut random = Random(0x51AB);
    let touch = |at: usize| {
        // SAFETY: inside the arena.
        unsafe { (at as *mut u8).write_volatile(1) };
    };
    for _ in 0..touched / 2 / MIB {
        let block = arena + random.below(len / MIB) * MIB;
        for page in 0..MIB / PAGE {
            touch(block + page * PAGE);
        }
    }
    // Single pages cost a page table each: fewer of them, in one part.
    for _ in 0..touched / 2 / PAGE {
        touch(arena + random.below((len / 16) / PAGE) * PAGE);
    }
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let no_files = how == "without-files";
    // SAFETY: the record is ours. Without descriptors the page table's file can't be opened.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        if no_files {
            let none = libc::rlimit {
                rlim_cur: 0,
                ..limit
            };
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none), 0);
        }
    }
    let begun = Instant::now();
    // It may take several: go on until the walk has come to the arena's end.
    let plane = loop {
        let plane = book.wait_for_estimate();
        if plane.kinds[RegionKind::Arena as usize].resident_bytes != 0 {
            break plane;
        }
        assert!(begun.elapsed() < PATIENCE, "the arena was never counted");
    };
    // SAFETY: as above.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    let arena_state = plane.kinds[RegionKind::Arena as usize];
    println!(
        "estimate={} rss={} regions={} bytes={}",
        arena_state.resident_bytes,
        rss(arena, arena + len),
        arena_state.regions,
        arena_state.bytes
    );
    let copy = self_copy(book);
    let largest = stats_page::regions_from_bytes(&copy)
        .next()
        .expect("a region");
    assert_eq!(largest.start, arena as u64);
    assert_eq!(largest.bytes, len as u64);
}

fn self_copy(book: &Book) -> Vec<u8> {
    std::hint::black_box(book.0).to_vec()
}

/// Resident bytes of the mappings in a range, as smaps has them.
fn rss(start: usize, end: usize) -> u64 {
    let text = fs::read_to_string("/proc/self/smaps").expect("/proc");
    let mut inside = false;
    let mut sum = 0;
    for line in text.lines() {
        if let Some((from, _)) = line.split_once('-')
            && let Ok(from) = usize::from_str_radix(from, 16)
        {
            inside = (start..end).contains(&from);
        } else if inside && let Some(kib) = line.strip_prefix("Rss:") {
            sum += kib
                .trim()
                .trim_end_matches(" kB")
                .parse::<u64>()
                .expect("kB")
                * 1024;
        }
    }
    sum
}

/// Forks, by libc and raw, in the middle of other threads' calls: the children map and unmap
/// freely, none is stuck, and what they do isn't on the parent's page.
fn fork(book: &Book) {
    /// What a round's calls queue, while the thread that holds the map does not run, must find room in the queue of
    /// 256: two for each.
    const CALLS_A_ROUND: usize = 64;
    static STOP: AtomicBool = AtomicBool::new(false);
    static ALLOWED: AtomicUsize = AtomicUsize::new(0);
    static DONE: AtomicUsize = AtomicUsize::new(0);
    let worker = std::thread::spawn(|| {
        while !STOP.load(SeqCst) {
            if DONE.load(SeqCst) < ALLOWED.load(SeqCst) {
                unmap(map(8 * PAGE), 8 * PAGE);
                DONE.fetch_add(1, SeqCst);
            } else {
                std::hint::spin_loop();
            }
        }
    });
    let mut kept = Vec::new();
    let before = book.mapped_bytes();
    for round in 0..400 {
        ALLOWED.fetch_add(CALLS_A_ROUND, SeqCst);
        kept.push(map(PAGE));
        // SAFETY: the child only makes calls that are safe after a fork, and ends by _exit.
        unsafe {
            let pid = if round % 2 == 0 {
                libc::fork()
            } else {
                libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as libc::pid_t
            };
            if pid == 0 {
                for _ in 0..600 {
                    let at = map(PAGE * 3);
                    let at = libc::mremap(at, PAGE * 3, PAGE * 5, libc::MREMAP_MAYMOVE);
                    if at == libc::MAP_FAILED {
                        libc::_exit(1);
                    }
                    libc::madvise(at, PAGE, libc::MADV_DONTNEED);
                }
                libc::_exit(0);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
            assert_eq!(status, 0, "a child");
        }
        while DONE.load(SeqCst) < ALLOWED.load(SeqCst) {
            std::thread::yield_now();
        }
    }
    STOP.store(true, SeqCst);
    worker.join().expect("the worker");
    unmap(map(PAGE), PAGE);
    let plane = book.plane();
    assert_eq!(plane.lost, 0);
    // The worker's own mappings of std are gone with it: less than before is possible, by those.
    let grown = book.mapped_bytes() as i64 - before as i64;
    let expected = (kept.len() * PAGE) as i64;
    assert!(
        (expected - 64 * PAGE as i64..=expected).contains(&grown),
        "{grown} of {expected}"
    );
}

static IN_HANDLER: AtomicUsize = AtomicUsize::new(0);

/// A signal handler that maps and unmaps, above calls of the same thread.
fn handler(book: &Book) {
    extern "C" fn on_alarm(_signal: c_int) {
        for _ in 0..4 {
            let at = map(2 * PAGE);
            // SAFETY: our own page.
            unsafe { libc::mprotect(at, PAGE, libc::PROT_NONE) };
            unmap(at, 2 * PAGE);
        }
        IN_HANDLER.fetch_add(1, SeqCst);
    }
    let before = book.mapped_bytes();
    every_300_us(on_alarm);
    let mut random = Random(4);
    let mut ledger = Vec::with_capacity(100_000);
    let until = Instant::now() + PATIENCE;
    while IN_HANDLER.load(SeqCst) < 2_000 {
        assert!(Instant::now() < until, "the handler ran too rarely");
        step(&mut random, &mut ledger);
    }
    every_300_us_ends();
    unmap(map(PAGE), PAGE);
    assert_exact(book, before, &ledger);
}

fn every_300_us(handler: extern "C" fn(c_int)) {
    // SAFETY: zeroed records are valid; the handler makes only system calls through libc.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(
            libc::sigaction(libc::SIGALRM, &raw const action, null_mut()),
            0
        );
        let every = libc::timeval {
            tv_sec: 0,
            tv_usec: 300,
        };
        let timer = libc::itimerval {
            it_interval: every,
            it_value: every,
        };
        assert_eq!(
            libc::setitimer(libc::ITIMER_REAL, &raw const timer, null_mut()),
            0
        );
    }
}

fn every_300_us_ends() {
    // SAFETY: a zeroed record is a timer that is off.
    unsafe {
        let off: libc::itimerval = std::mem::zeroed();
        assert_eq!(
            libc::setitimer(libc::ITIMER_REAL, &raw const off, null_mut()),
            0
        );
    }
}

static STOPPED: AtomicUsize = AtomicUsize::new(0);
static RESUMED: AtomicUsize = AtomicUsize::new(0);
static WORKER_STEPS: AtomicUsize = AtomicUsize::new(0);

/// A thread is stopped by a signal at any point of its calls, as JavaScriptCore does it, and the
/// others go on without it.
fn suspend(book: &Book) {
    extern "C" fn on_stop(_signal: c_int) {
        let round = STOPPED.fetch_add(1, SeqCst) + 1;
        while RESUMED.load(SeqCst) < round {
            // SAFETY: takes nothing.
            unsafe { libc::sched_yield() };
        }
    }
    static STOP: AtomicBool = AtomicBool::new(false);
    static LEDGER: std::sync::Mutex<Ledger> = std::sync::Mutex::new(Vec::new());
    // SAFETY: a zeroed record is valid; the handler only waits.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_stop as extern "C" fn(c_int) as usize;
        assert_eq!(
            libc::sigaction(libc::SIGUSR2, &raw const action, null_mut()),
            0
        );
    }
    let (ready, go) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let worker = std::thread::spawn({
        let (ready, go) = (ready.clone(), go.clone());
        move || {
            let mut random = Random(11);
            let mut ledger: Ledger = Vec::with_capacity(1_000_000);
            ready.wait();
            go.wait();
            while !STOP.load(SeqCst) {
                step(&mut random, &mut ledger);
                WORKER_STEPS.fetch_add(1, SeqCst);
            }
            *LEDGER.lock().expect("the ledger") = ledger;
            // Stays: what std maps for a thread stays with it.
            ready.wait();
            go.wait();
        }
    });
    let thread = std::os::unix::thread::JoinHandleExt::as_pthread_t(&worker);
    ready.wait();
    let before = book.mapped_bytes();
    go.wait();
    let (mut own, mut random) = (Ledger::with_capacity(100_000), Random(12));
    for round in 1..=300 {
        // SAFETY: the thread lives until it is joined.
        assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR2) }, 0);
        let until = Instant::now() + PATIENCE;
        while STOPPED.load(SeqCst) < round {
            assert!(Instant::now() < until, "the thread was not stopped");
            std::thread::yield_now();
        }
        // Fewer events than the queue has places: none is lost even if the map is held.
        for _ in 0..60 {
            step(&mut random, &mut own);
        }
        let steps = WORKER_STEPS.load(SeqCst);
        RESUMED.store(round, SeqCst);
        // Out of the call it was stopped in, or the next stop would be the same one.
        while WORKER_STEPS.load(SeqCst) < steps + 2 {
            assert!(Instant::now() < until, "the thread did not go on");
            std::thread::yield_now();
        }
    }
    STOP.store(true, SeqCst);
    ready.wait();
    unmap(map(PAGE), PAGE);
    let mut all = LEDGER.lock().expect("the ledger").clone();
    all.extend(own);
    assert_exact(book, before, &all);
    go.wait();
    worker.join().expect("the worker");
}

/// Prints result and errno of calls at the edges, addresses relative to what was mapped.
fn edges() {
    // SAFETY: ranges are our own or such that the kernel refuses them.
    unsafe {
        let errno = libc::__errno_location();
        let base = map(32 * PAGE) as usize;
        let show = |name: &str, result: usize| {
            let errno = *libc::__errno_location();
            let value = match result.wrapping_sub(base) {
                offset if offset < 32 * PAGE => format!("base+{offset}"),
                _ if result == usize::MAX => "-1".into(),
                _ if result < PAGE => result.to_string(),
                _ => "elsewhere".into(),
            };
            println!("{name}: {value} errno {errno}");
            *libc::__errno_location() = 123;
        };
        *errno = 123;
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let at = |page: usize| (base + page * PAGE) as *mut c_void;
        let m = |hint: *mut c_void, len, prot, flags| {
            libc::mmap(hint, len, prot, flags, -1, 0) as usize
        };
        show("mmap", m(null_mut(), PAGE, 3, anonymous));
        show("mmap of nothing", m(null_mut(), 0, 3, anonymous));
        show(
            "mmap of too much",
            m(null_mut(), usize::MAX / 2, 3, anonymous),
        );
        show("mmap of all", m(null_mut(), usize::MAX, 3, anonymous));
        show(
            "mmap of no kind",
            m(null_mut(), PAGE, 3, libc::MAP_ANONYMOUS),
        );
        show(
            "mmap without a file",
            m(null_mut(), PAGE, 3, libc::MAP_PRIVATE),
        );
        show("mmap fixed", m(at(1), PAGE, 3, anonymous | libc::MAP_FIXED));
        show(
            "mmap fixed, odd",
            m((base + 1) as _, PAGE, 3, anonymous | libc::MAP_FIXED),
        );
        show(
            "mmap there already",
            m(at(1), PAGE, 3, anonymous | libc::MAP_FIXED_NOREPLACE),
        );
        show(
            "mmap at the kernel",
            m(usize::MAX as _, PAGE, 3, anonymous | libc::MAP_FIXED),
        );
        show(
            "munmap, odd",
            libc::munmap((base + 1) as _, PAGE) as isize as usize,
        );
        show(
            "munmap of nothing",
            libc::munmap(at(2), 0) as isize as usize,
        );
        show(
            "munmap of all",
            libc::munmap(at(2), usize::MAX) as isize as usize,
        );
        show(
            "munmap, half a page",
            libc::munmap(at(2), 1) as isize as usize,
        );
        show("munmap again", libc::munmap(at(2), PAGE) as isize as usize);
        let r = |old: *mut c_void, len, new_len, flags, new: *mut c_void| {
            libc::mremap(old, len, new_len, flags, new) as usize
        };
        let (may, fixed) = (
            libc::MREMAP_MAYMOVE,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
        );
        show(
            "mremap, odd",
            r((base + 1) as _, PAGE, PAGE, may, null_mut()),
        );
        show("mremap to nothing", r(at(3), PAGE, 0, may, null_mut()));
        show(
            "mremap of a hole",
            r(at(2), PAGE, 2 * PAGE, may, null_mut()),
        );
        show("mremap, no room", r(at(3), PAGE, 2 * PAGE, 0, null_mut()));
        show(
            "mremap, bad flags",
            r(at(3), PAGE, PAGE, 1 << 20, null_mut()),
        );
        show(
            "mremap fixed alone",
            r(at(3), PAGE, PAGE, libc::MREMAP_FIXED, at(2)),
        );
        show(
            "mremap fixed, overlap",
            r(at(3), 2 * PAGE, 2 * PAGE, fixed, at(4)),
        );
        show(
            "mremap fixed, odd",
            r(at(3), PAGE, PAGE, fixed, (base + 9 * PAGE + 1) as _),
        );
        (at(3) as *mut u8).write(42);
        show("mremap fixed", r(at(3), PAGE, PAGE, fixed, at(9)));
        show("its content", (at(9) as *mut u8).read() as usize);
        show("mremap smaller", r(at(10), 4 * PAGE, PAGE, 0, null_mut()));
        show("mremap in place", r(at(10), PAGE, 4 * PAGE, 0, null_mut()));
        show("mremap, twice private", r(at(10), 0, PAGE, may, null_mut()));
        // Without a fifth argument at all.
        show(
            "mremap, four arguments",
            libc::mremap(at(10), 4 * PAGE, 2 * PAGE, 0) as usize,
        );
        show(
            "mprotect",
            libc::mprotect(at(10), PAGE, libc::PROT_READ) as isize as usize,
        );
        show(
            "mprotect, odd",
            libc::mprotect((base + 1) as _, PAGE, 3) as isize as usize,
        );
        show(
            "mprotect of a hole",
            libc::mprotect(at(2), PAGE, 3) as isize as usize,
        );
        show(
            "mprotect, no such",
            libc::mprotect(at(10), PAGE, 1 << 20) as isize as usize,
        );
        show(
            "madvise",
            libc::madvise(at(10), PAGE, libc::MADV_DONTNEED) as isize as usize,
        );
        show(
            "madvise, no such",
            libc::madvise(at(10), PAGE, 9999) as isize as usize,
        );
        show(
            "madvise of a hole",
            libc::madvise(at(2), PAGE, libc::MADV_DONTNEED) as isize as usize,
        );
        // An offset beyond 32 bits, by both names.
        let file = libc::memfd_create(c"edges".as_ptr(), libc::MFD_CLOEXEC);
        let far: i64 = 5 << 32;
        assert_eq!(libc::pwrite(file, c"far".as_ptr().cast(), 4, far), 4);
        *errno = 123;
        for name in ["mmap", "mmap64"] {
            let map = if name == "mmap" {
                libc::mmap
            } else {
                libc::mmap64
            };
            let there = map(null_mut(), PAGE, 1, libc::MAP_SHARED, file, far);
            show(name, usize::from(there != libc::MAP_FAILED));
            show("its byte", there.cast::<u8>().read() as usize);
        }
        show(
            "mmap, odd offset",
            libc::mmap(null_mut(), PAGE, 1, libc::MAP_SHARED, file, 1) as usize,
        );
    }
}

/// Nanoseconds a call; the least of several runs.
fn cost() {
    let time = |name: &str, calls: usize, run: &mut dyn FnMut()| {
        let best = (0..7)
            .map(|_| {
                let begun = Instant::now();
                for _ in 0..20_000 {
                    run();
                }
                begun.elapsed().as_nanos() / (20_000 * calls as u128)
            })
            .min();
        println!("{name}_ns={}", best.expect("runs"));
    };
    // Many regions, as a large program has them.
    let regions: Vec<_> = (0..500).map(|_| map(2 * PAGE)).collect();
    for at in &regions {
        unmap((*at as usize + PAGE) as _, PAGE);
    }
    let page = map(PAGE);
    time("mmap_munmap", 2, &mut || unmap(map(PAGE), PAGE));
    time("mprotect", 1, &mut || {
        // SAFETY: our own page.
        unsafe { libc::mprotect(page, PAGE, 3) };
    });
    time("madvise", 1, &mut || {
        // SAFETY: our own page.
        unsafe { libc::madvise(page, PAGE, libc::MADV_DONTNEED) };
    });
}
