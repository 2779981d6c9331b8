//! Runs under the guard with the pool in use and does one thing, named by the first argument; exit
//! status 0 if all went as it should. What went wrong is said on stderr by a panic.
//!
//! Exit status 99: the guard is not loaded, so whatever a test wanted to show, it didn't.

use std::{
    ffi::{c_int, c_void},
    fs,
    hint::black_box,
    mem::zeroed,
    ptr::null_mut,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

#[path = "../../guard/src/stats_page.rs"]
#[allow(missing_docs)]
mod stats_page;

use stats_page::{Snapshot, State};

/// Size of the class that the tests pool, in bytes.
const SIZE: usize = 160;
const DEADLINE: Duration = Duration::from_secs(60);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let argument = |number: usize| args.get(number).map_or("", String::as_str);
    let number = |at: usize| argument(at).parse::<usize>().expect("a number");
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc");
    if !maps.contains("libclaude_guard") {
        std::process::exit(99);
    }
    let page = argument(2);
    match argument(1) {
        "release" => release(page),
        "cold" => cold(page),
        "threads-end" => threads_end(page, number(3)),
        "many-threads" => many_threads(page, number(3)),
        "suspended" => suspended(page, number(3)),
        "handler" => handler(number(3)),
        "clone" => clone_vm(),
        "raw-fork" => raw_fork(),
        "limited" => limited(page, argument(3)),
        "exhaust" => exhaust(page),
        "freed-twice" => freed_twice(argument(3)),
        "leak-of" => leak_of(page, number(3), argument(4) == "churn"),
        "threshold" => threshold(page),
        "wanted" => wanted(page),
        "sized" => sized(),
        "usable" => usable(page, number(3)),
        other => panic!("no scenario {other:?}"),
    }
}

fn read_page(path: &str) -> Snapshot {
    Snapshot::from_bytes(&fs::read(path).expect("page")).expect("a page that the guard has taken")
}

/// An object of the class, filled with a pattern of its own.
#[derive(Clone, Copy)]
struct Object {
    start: *mut u8,
    seed: u64,
}

// SAFETY: an address; what is behind it belongs to whoever has the object.
unsafe impl Send for Object {}
// SAFETY: the same.
unsafe impl Sync for Object {}

impl Object {
    fn new(seed: u64) -> Self {
        // SAFETY: malloc takes any size.
        let start = unsafe { libc::malloc(SIZE) }.cast::<u8>();
        assert!(!start.is_null(), "malloc");
        assert_eq!(start as usize % 16, 0, "alignment");
        let object = Self { start, seed };
        object.fill();
        object
    }

    fn fill(self) {
        for at in 0..SIZE / 8 {
            // SAFETY: SIZE bytes, aligned.
            unsafe { self.start.cast::<u64>().add(at).write(self.word(at)) };
        }
    }

    fn word(self, at: usize) -> u64 {
        (self.seed + 1)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(at as u32)
    }

    fn is_whole(self) -> bool {
        // SAFETY: as in fill.
        (0..SIZE / 8).all(|at| unsafe { self.start.cast::<u64>().add(at).read() } == self.word(at))
    }

    fn free(self) {
        assert!(self.is_whole(), "object {} has other bytes", self.seed);
        // SAFETY: made by malloc, and freed once.
        unsafe { libc::free(self.start.cast()) };
    }
}

fn objects(count: usize) -> Vec<Object> {
    (0..count as u64).map(Object::new).collect()
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse().ok()).expect("RssAnon")
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// What was leaked and freed goes back to the kernel, and what is kept stays whole.
fn release(page: &str) {
    let all = objects(1_000_000);
    let peak_kib = resident_kib();
    assert!(peak_kib > 150 * 1024, "premise: {peak_kib} KiB");
    // One of 5000 stays: 200 slabs at most.
    let mut kept = Vec::new();
    for (at, object) in all.into_iter().enumerate() {
        if at % 5000 == 0 {
            kept.push(object);
        } else {
            object.free();
        }
    }
    let pool = read_page(page).pool;
    assert!(pool.slabs_released > 1000, "{pool:?}");
    let left_kib = resident_kib();
    assert!(
        left_kib < peak_kib / 2,
        "{left_kib} of {peak_kib} KiB are left"
    );
    assert!(kept.iter().all(|object| object.is_whole()));
    // Given-back slabs serve again, and are zero for calloc.
    for _ in 0..300_000 {
        // SAFETY: calloc takes any sizes, and gives as many bytes.
        let bytes = unsafe {
            let object = libc::calloc(1, SIZE);
            assert!(!object.is_null());
            std::slice::from_raw_parts_mut(object.cast::<u64>(), SIZE / 8)
        };
        assert!(bytes.iter().all(|word| *word == 0), "calloc");
        bytes.fill(u64::MAX);
    }
    assert!(kept.iter().all(|object| object.is_whole()));
    println!("peak_kib={peak_kib} left_kib={left_kib}");
}

/// free, and malloc of a freed slot, touch no page of objects: here none may be touched.
fn cold(page: &str) {
    let all = objects(20_000);
    let mut pages: Vec<usize> = all
        .iter()
        .map(|object| object.start as usize & !4095)
        .collect();
    pages.sort_unstable();
    pages.dedup();
    let protect = |protection: c_int| {
        for &start in &pages {
            // SAFETY: pages of the pool, in which only our objects are.
            let done = unsafe { libc::mprotect(start as *mut c_void, 4096, protection) };
            assert_eq!(done, 0, "mprotect");
        }
    };
    let hits = read_page(page).first().pool_hit;
    protect(libc::PROT_NONE);
    for object in all.iter().rev() {
        // SAFETY: made by malloc, freed once.
        unsafe { libc::free(object.start.cast()) };
    }
    // SAFETY: malloc takes any size.
    let again: Vec<*mut c_void> = (0..10_000).map(|_| unsafe { libc::malloc(SIZE) }).collect();
    for &object in &again {
        // SAFETY: made by malloc, freed once.
        unsafe { libc::free(object) };
    }
    protect(libc::PROT_READ | libc::PROT_WRITE);
    let now = read_page(page);
    assert_eq!(
        now.first().pool_hit,
        hits + 10_000,
        "premise: the pool served"
    );
    let in_old_pages = again
        .iter()
        .filter(|object| pages.binary_search(&(**object as usize & !4095)).is_ok());
    assert!(in_old_pages.count() > 9000, "freed slots are used again");
}

/// Threads come and go, far more than there are numbers; their slots and slabs are not lost.
fn threads_end(page: &str, threads: usize) {
    let mut kept = Vec::new();
    for round in 0..threads {
        kept.extend(
            std::thread::spawn(move || {
                let mine = objects(1000);
                let (keep, free) = mine.split_at(10);
                free.iter().for_each(|object| object.free());
                if round % 10 == 0 {
                    keep.to_vec()
                } else {
                    keep.iter().for_each(|object| object.free());
                    Vec::new()
                }
            })
            .join()
            .expect("thread"),
        );
    }
    let now = read_page(page);
    assert!(kept.iter().all(|object| object.is_whole()));
    assert!(now.first().pool_hit >= (threads * 1000) as u64, "{now:?}");
    assert!(
        now.pool.slabs < 32,
        "slabs of ended threads are lost: {:?}",
        now.pool
    );
    assert_eq!(now.pool.passed_on, 0, "{:?}", now.pool);
    assert_eq!(now.first().live(), live_of(&kept), "{now:?}");
    println!("slabs={}", now.pool.slabs);
}

/// Of ours alone: nothing else of the class is live when it is called.
fn live_of(kept: &[Object]) -> u64 {
    kept.len() as u64 + LIVE_AT_START.load(SeqCst)
}

static LIVE_AT_START: AtomicU64 = AtomicU64::new(0);

/// More threads at once than there are caches: those without are served as well.
fn many_threads(page: &str, threads: usize) {
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let barrier = &barrier;
            scope.spawn(move || {
                let mine: Vec<Object> = (0..500)
                    .map(|at| Object::new((thread * 1000 + at) as u64))
                    .collect();
                barrier.wait();
                mine.into_iter().for_each(Object::free);
                barrier.wait();
            });
        }
    });
    let now = read_page(page);
    println!(
        "pool_hit={} passed_on={}",
        now.first().pool_hit,
        now.pool.passed_on
    );
    assert!(now.first().alloc >= (threads * 500) as u64, "{now:?}");
}

/// Which thread is to be stopped, and where it was when it stopped.
static STOPPED: AtomicUsize = AtomicUsize::new(0);
static GO_ON: AtomicBool = AtomicBool::new(false);
static IN_GUARD: AtomicUsize = AtomicUsize::new(0);
static IN_LIBC: AtomicUsize = AtomicUsize::new(0);

/// Bounds of a file's code.
type Code = [AtomicUsize; 2];
static GUARD: Code = [const { AtomicUsize::new(0) }; 2];
static PROGRAM: Code = [const { AtomicUsize::new(0) }; 2];

/// Stays in the handler, as JavaScriptCore's suspended threads do, until it may go on.
extern "C" fn stop(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's record of where the thread was.
    #[cfg(target_arch = "x86_64")]
    let at =
        unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] }
            as usize;
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the same.
    let at = unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.pc } as usize;
    let is_in = |code: &Code| (code[0].load(SeqCst)..code[1].load(SeqCst)).contains(&at);
    if is_in(&GUARD) {
        IN_GUARD.fetch_add(1, SeqCst);
    } else if !is_in(&PROGRAM) {
        // libc has its own locks, for which everybody waits: what needs them has to be left out.
        IN_LIBC.fetch_add(1, SeqCst);
    }
    STOPPED.fetch_add(1, SeqCst);
    while !GO_ON.load(SeqCst) {
        std::hint::spin_loop();
    }
    STOPPED.fetch_sub(1, SeqCst);
}

fn find_code(file: &str, code: &Code) {
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc");
    let mut bounds = maps
        .lines()
        .filter(|line| line.contains(file) && line.contains("r-xp"))
        .map(|line| {
            let (start, rest) = line.split_once('-').expect("a range");
            let end = rest.split(' ').next().expect("an end");
            let parse = |text| usize::from_str_radix(text, 16).expect("hexadecimal");
            (parse(start), parse(end))
        });
    let (start, end) = bounds.next().expect("the code of that file");
    code[0].store(start, SeqCst);
    code[1].store(end, SeqCst);
}

fn handle(signal: c_int, handler: usize) {
    // SAFETY: a zeroed record is a valid value; the handlers here are async-signal-safe, or test
    // what happens if not.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        assert_eq!(libc::sigaction(signal, &raw const action, null_mut()), 0);
    }
}

/// Two threads at work in the pool are stopped in mid-call, again and again; meanwhile the main
/// thread allocates, frees what they made, and forks a child that does the same.
fn suspended(page: &str, rounds: usize) {
    find_code("libclaude_guard", &GUARD);
    find_code("pool-probe", &PROGRAM);
    handle(libc::SIGUSR2, stop as *const () as usize);
    let end = AtomicBool::new(false);
    let mut forks = 0;
    let shared: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];
    std::thread::scope(|scope| {
        let (end, shared, forks) = (&end, &shared, &mut forks);
        let handles: Vec<libc::pthread_t> = (0..2_u64)
            .map(|thread| {
                let (send, receive) = std::sync::mpsc::channel();
                scope.spawn(move || {
                    // SAFETY: always works.
                    send.send(unsafe { libc::pthread_self() }).expect("send");
                    let mut seed = thread << 32;
                    while !end.load(SeqCst) {
                        // Enough at a time to go to the slabs for more, and back.
                        let mine: Vec<Object> = (0..400).map(|at| Object::new(seed + at)).collect();
                        seed += 400;
                        let give = mine[0].start as usize;
                        let old = shared[seed as usize / 400 % 64].swap(give, SeqCst);
                        if old != 0 {
                            // SAFETY: an object that a thread has given away.
                            unsafe { libc::free(old as *mut c_void) };
                        }
                        mine[1..].iter().for_each(|object| object.free());
                    }
                });
                receive.recv().expect("thread")
            })
            .collect();
        for round in 0..rounds {
            GO_ON.store(false, SeqCst);
            IN_LIBC.store(0, SeqCst);
            for &thread in &handles {
                // SAFETY: a live thread: it ends only when `end` is set.
                assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR2) }, 0);
            }
            until("both threads stop", || STOPPED.load(SeqCst) == 2);
            let mine = objects_of_main(round);
            let libc_is_free = IN_LIBC.load(SeqCst) == 0;
            for slot in shared.iter().filter(|_| libc_is_free) {
                let theirs = slot.swap(0, SeqCst);
                if theirs != 0 {
                    // SAFETY: an object that a thread has given away.
                    unsafe { libc::free(theirs as *mut c_void) };
                }
            }
            if libc_is_free && round.is_multiple_of(4) {
                *forks += 1;
                // SAFETY: the child only uses malloc, which fork keeps usable, and _exit.
                unsafe {
                    let child = libc::fork();
                    if child == 0 {
                        let good = mine.iter().all(|object| object.is_whole());
                        let again = objects_of_main(round + 1);
                        let good = good && again.iter().all(|object| object.is_whole());
                        again.into_iter().for_each(Object::free);
                        libc::_exit(if good { 7 } else { 8 });
                    }
                    let mut status = 0;
                    assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
                    assert_eq!(libc::WEXITSTATUS(status), 7, "child");
                }
            }
            mine.into_iter().for_each(Object::free);
            GO_ON.store(true, SeqCst);
            until("both threads go on", || STOPPED.load(SeqCst) == 0);
        }
        end.store(true, SeqCst);
    });
    let in_guard = IN_GUARD.load(SeqCst);
    println!(
        "stopped_in_guard={in_guard} forks={forks} passed_on={}",
        read_page(page).pool.passed_on
    );
    assert!(
        in_guard > rounds / 50,
        "premise: stopped in mid-call ({in_guard} of {rounds} rounds)"
    );
}

/// Without a collection that allocates by itself: the other threads may be stopped inside libc.
fn objects_of_main(round: usize) -> [Object; 300] {
    std::array::from_fn(|at| Object::new((1 << 48) + (round * 1000 + at) as u64))
}

static HANDLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn allocate_in_handler(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    let object = Object::new(u64::MAX / 2);
    let other = Object::new(u64::MAX / 3);
    object.free();
    other.free();
    HANDLED.fetch_add(1, SeqCst);
}

/// A signal handler allocates while the thread it interrupts is in the middle of the same.
fn handler(signals: usize) {
    handle(libc::SIGALRM, allocate_in_handler as *const () as usize);
    // SAFETY: a timer of this process, for the handler above.
    unsafe {
        let interval = libc::timeval {
            tv_sec: 0,
            tv_usec: 50,
        };
        let timer = libc::itimerval {
            it_interval: interval,
            it_value: interval,
        };
        assert_eq!(
            libc::setitimer(libc::ITIMER_REAL, &raw const timer, null_mut()),
            0
        );
    }
    let mut slots: [Option<Object>; 97] = [None; 97];
    let mut seed = 0_u64;
    let deadline = Instant::now() + DEADLINE;
    while HANDLED.load(SeqCst) < signals {
        assert!(Instant::now() < deadline, "signals come too slowly");
        for _ in 0..10_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let slot = &mut slots[(seed >> 33) as usize % 97];
            match slot.take() {
                Some(object) => object.free(),
                None => *slot = Some(Object::new(seed >> 8)),
            }
        }
    }
    // SAFETY: stops the timer.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &zeroed(), null_mut()) };
    slots.into_iter().flatten().for_each(Object::free);
}

extern "C" fn in_clone(kept: *mut c_void) -> c_int {
    let kept = kept.cast::<Object>();
    for at in 0..200 {
        let object = Object::new(at);
        if at < 50 {
            // SAFETY: room for 50.
            unsafe { kept.add(at as usize).write(object) };
        } else {
            object.free();
        }
    }
    7
}

/// The child of a clone(CLONE_VM) shares the heap: what it leaves behind is the parent's.
fn clone_vm() {
    let before = objects(1000);
    let mut stack = vec![0_u8; 256 << 10];
    for round in 0..200 {
        let mut kept = [before[0]; 50];
        // SAFETY: the child has a stack of its own, and the parent waits for it (VFORK).
        let child = unsafe {
            let top = stack.as_mut_ptr_range().end;
            libc::clone(
                in_clone,
                top.cast(),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                kept.as_mut_ptr().cast(),
            )
        };
        assert!(child > 0, "clone");
        let mut status = 0;
        // SAFETY: our child.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(libc::WEXITSTATUS(status), 7, "round {round}");
        kept.into_iter().for_each(Object::free);
    }
    before.into_iter().for_each(Object::free);
}

/// A fork that libc knows nothing of, so that no hook runs.
fn raw_fork() {
    let before = objects(5000);
    for round in 0..50 {
        // SAFETY: the child only uses malloc and _exit; there is one thread.
        unsafe {
            let child = libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as c_int;
            if child == 0 {
                let mine = objects(1000);
                let good = before.iter().chain(&mine).all(|object| object.is_whole());
                mine.into_iter().for_each(Object::free);
                libc::_exit(if good { 7 } else { 8 });
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            assert_eq!(libc::WEXITSTATUS(status), 7, "round {round}");
        }
    }
    before.into_iter().for_each(Object::free);
}

/// Under a limit that was set before: says what the pool got, and that the objects are whole.
fn limited(page: &str, expected: &str) {
    let all = objects(20_000);
    assert!(all.iter().all(|object| object.is_whole()));
    let now = read_page(page);
    println!(
        "state={:?} reserved_mib={} hits={} passed_on={} faults={}",
        now.state,
        now.pool.reserved_bytes >> 20,
        now.first().pool_hit,
        now.pool.passed_on,
        now.faults.count
    );
    match expected {
        "all" => assert!(
            now.first().pool_hit >= 20_000 && now.pool.passed_on == 0,
            "{now:?}"
        ),
        "less" => assert!(
            now.first().pool_hit >= 20_000
                && now.faults.count > 0
                && now.pool.reserved_bytes < 1 << 34,
            "{now:?}"
        ),
        "none" => assert!(
            now.state == State::Standby && now.first().pool_hit == 0 && now.faults.count > 0,
            "{now:?}"
        ),
        other => panic!("{other:?} is not expected"),
    }
    all.into_iter().for_each(Object::free);
}

/// Memory runs out (RLIMIT_DATA, which counts what may be written, as overcommit_memory=2 does):
/// null and ENOMEM, nothing lost, and after some frees there is memory again.
fn exhaust(page: &str) {
    let limit = libc::rlimit {
        rlim_cur: 192 << 20,
        rlim_max: 192 << 20,
    };
    // SAFETY: a limit of our own.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const limit) };
    assert_eq!(done, 0);
    // The list of objects must not run out of memory itself.
    let mut all: Vec<Object> = Vec::with_capacity(2_000_000);
    // For what reads the page afterwards: the memory of freed slots stays the pool's, and libc may
    // have got none. In pieces, since one large one would be a mapping.
    let ballast: Vec<Vec<u8>> = (0..64).map(|_| black_box(vec![1; 32 << 10])).collect();
    // Called by its address: of a malloc that it sees, the compiler assumes that errno stays.
    let malloc = black_box(libc::malloc as unsafe extern "C" fn(usize) -> *mut c_void);
    loop {
        // SAFETY: malloc takes any size; errno is this thread's.
        let start = unsafe {
            *libc::__errno_location() = 0;
            malloc(SIZE)
        };
        if start.is_null() {
            // SAFETY: as above.
            assert_eq!(unsafe { *libc::__errno_location() }, libc::ENOMEM);
            break;
        }
        assert!(all.len() < all.capacity(), "premise: the limit is reached");
        let object = Object {
            start: start.cast(),
            seed: all.len() as u64,
        };
        object.fill();
        all.push(object);
    }
    drop(ballast);
    let served = all.len();
    let half = served / 2;
    all[half..].iter().for_each(|object| object.free());
    all.truncate(half);
    let now = read_page(page);
    println!(
        "objects={served} passed_on={} faults={}",
        now.pool.passed_on, now.faults.count
    );
    assert!(served > 700_000, "{served} objects");
    assert!(now.pool.passed_on > 0 && now.faults.count > 0, "{now:?}");
    for seed in half..served * 9 / 10 {
        all.push(Object::new(seed as u64));
    }
    assert!(all.iter().all(|object| object.is_whole()));
}

/// Ends the process, as glibc does.
fn freed_twice(how: &str) {
    let all = objects(1000);
    let bad = match how {
        "at-once" => all[7].start,
        "later" => all[7].start,
        // SAFETY: within the object.
        "inside" => unsafe { all[7].start.add(16) },
        other => panic!("{other:?}?"),
    };
    let others = match how {
        "at-once" => 0,
        _ => 500,
    };
    // SAFETY: the second one is the fault that is to be noticed.
    unsafe {
        if how != "inside" {
            libc::free(bad.cast());
        }
        for object in &all[100..100 + others / 10] {
            libc::free(object.start.cast());
        }
        libc::free(black_box(bad).cast());
        for object in &all[400..900] {
            libc::free(object.start.cast());
        }
    }
    println!("nothing noticed");
}

/// Leaks objects of a size, with churn of others, until the page says that the search has an end.
fn leak_of(page: &str, size: usize, only_churn: bool) {
    let deadline = Instant::now()
        + if only_churn {
            Duration::from_secs(3)
        } else {
            DEADLINE
        };
    let mut ring = [null_mut::<c_void>(); 512];
    let mut seed = 1_u64;
    let mut leaked = 0_u64;
    let found = || read_page(page).choice == stats_page::Choice::Found;
    while Instant::now() < deadline && !found() {
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let slot = &mut ring[(seed >> 20) as usize % 512];
            // SAFETY: made by malloc or null, freed once.
            unsafe {
                libc::free(*slot);
                *slot = libc::malloc((seed >> 40) as usize % 1000);
                if !only_churn && seed >> 60 == 0 {
                    black_box(libc::malloc(size));
                    leaked += 1;
                }
            }
        }
        // Otherwise a slow machine's leak would be too large before it is old enough.
        std::thread::sleep(Duration::from_millis(1));
    }
    let now = read_page(page);
    println!(
        "choice={:?} size={} leaked={leaked} state={:?}",
        now.choice,
        now.first().size,
        now.state
    );
    if now.choice == stats_page::Choice::Found && now.state == State::Active {
        let before = now.first().pool_hit;
        for _ in 0..1000 {
            // SAFETY: malloc takes any size.
            black_box(unsafe { libc::malloc(size) });
        }
        let hits = read_page(page).first().pool_hit - before;
        println!("hits={hits}");
        assert_eq!(hits, 1000);
    }
}

/// Standby up to the threshold, then the pool; what was made before lives on and can be freed.
fn threshold(page: &str) {
    let mut all = Vec::new();
    let mut active_at_kib = 0;
    for seed in 0..1_500_000 {
        all.push(Object::new(seed));
        if seed % 1024 == 0 {
            // The guard looks at most four times a second.
            std::thread::sleep(Duration::from_micros(300));
            if active_at_kib == 0 && read_page(page).state == State::Active {
                active_at_kib = resident_kib();
            }
        }
    }
    let now = read_page(page);
    println!(
        "active_at_kib={active_at_kib} hits={}",
        now.first().pool_hit
    );
    assert!(
        now.first().pool_hit > 100_000 && now.first().pool_hit < 1_400_000,
        "{now:?}"
    );
    assert_eq!(now.first().live() / 1000, 1500, "{now:?}");
    all.into_iter().for_each(Object::free);
    assert!(
        read_page(page).first().live() < 1000,
        "{:?}",
        read_page(page)
    );
}

/// The wrapper's word on the page opens the pool.
fn wanted(page: &str) {
    use std::os::unix::fs::FileExt;
    let _before = objects(5000);
    assert_eq!(read_page(page).state, State::Standby);
    let file = fs::File::options().write(true).open(page).expect("page");
    file.write_all_at(&1_u64.to_ne_bytes(), stats_page::WANTED_AT as u64)
        .expect("write");
    let mut seed = 0;
    until("the pool opens", || {
        (0..1024).for_each(|_| drop_object(&mut seed));
        read_page(page).state == State::Active
    });
    let hits = read_page(page).first().pool_hit;
    (0..1000).for_each(|_| drop_object(&mut seed));
    assert_eq!(read_page(page).first().pool_hit, hits + 1000);
}

fn drop_object(seed: &mut u64) {
    *seed += 1;
    Object::new(*seed).free();
}

/// The two functions of C23, where a program would find them.
fn sized() {
    type FreeSized = unsafe extern "C" fn(*mut c_void, usize);
    type FreeAlignedSized = unsafe extern "C" fn(*mut c_void, usize, usize);
    for _ in 0..1000 {
        let (one, other) = (Object::new(1), Object::new(2));
        // SAFETY: the types of C23 7.24.3.4 and .5; the objects are live.
        unsafe {
            let free_sized = libc::dlsym(libc::RTLD_DEFAULT, c"free_sized".as_ptr());
            let aligned = libc::dlsym(libc::RTLD_DEFAULT, c"free_aligned_sized".as_ptr());
            assert!(!free_sized.is_null() && !aligned.is_null());
            std::mem::transmute::<*mut c_void, FreeSized>(free_sized)(one.start.cast(), SIZE);
            std::mem::transmute::<*mut c_void, FreeAlignedSized>(aligned)(
                other.start.cast(),
                16,
                SIZE,
            );
        }
    }
}

/// Bytes of memory for each object, and what may be used of it; `upper` for the larger requests of
/// the class.
fn usable(page: &str, upper: usize) {
    for (size, stride) in [(153, 160), (160, 160), (161, upper), (168, upper)] {
        // SAFETY: as aligned_alloc(3) says; freed once.
        unsafe {
            let aligned = libc::aligned_alloc(16, size);
            assert_eq!(aligned as usize % 16, 0, "aligned_alloc");
            libc::free(aligned);
        }
        // SAFETY: malloc takes any size.
        let (first, last) = unsafe {
            let hits = read_page(page).first().pool_hit;
            let objects: Vec<usize> = (0..100_000).map(|_| libc::malloc(size) as usize).collect();
            assert!(
                read_page(page).first().pool_hit >= hits + 100_000,
                "premise: the pool served"
            );
            for &object in &objects {
                let usable = libc::malloc_usable_size(object as *mut c_void);
                assert_eq!(usable, stride, "request of {size}");
                std::ptr::write_bytes(object as *mut u8, 0xa5, usable);
            }
            (objects[0], objects[99_999])
        };
        let bytes = (last - first) as f64 / 99_999.0;
        println!("request={size} bytes_per_object={bytes:.2}");
        assert!(
            (bytes - stride as f64).abs() < 0.5,
            "request of {size}: {bytes}"
        );
    }
}
