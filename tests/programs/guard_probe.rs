//! Runs under the guard and does one thing, named by the first argument; exit status 0 if all went
//! as it should. Owns no judgement about counts: it prints what the statistics page says.
//!
//! Exit status 99: the guard is not loaded, so whatever a test wanted to show, it didn't.

use std::{
    ffi::{CString, c_char, c_int, c_void},
    hint::black_box,
    os::unix::ffi::OsStrExt,
    ptr::{null, null_mut},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

#[path = "../../guard/src/stats_page.rs"]
#[allow(missing_docs)]
mod stats_page;

use stats_page::{ClassCounts, Snapshot};

/// Objects made before any constructor has run, if the scenario asks for it.
const BEFORE_CONSTRUCTORS: usize = 1000;

/// The program's own constructor list: runs before those of all libraries.
#[used]
#[unsafe(link_section = ".preinit_array")]
static PREINIT: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = preinit;

extern "C" fn preinit(argc: c_int, argv: *const *const c_char, _envp: *const *const c_char) {
    // SAFETY: glibc hands over main's arguments; malloc takes any size.
    unsafe {
        if argc > 1 && libc::strcmp(*argv.add(1), c"preinit".as_ptr()) == 0 {
            for _ in 0..BEFORE_CONSTRUCTORS {
                black_box(libc::malloc(160));
            }
        }
    }
}

unsafe extern "C" {
    fn memalign(align: usize, size: usize) -> *mut c_void;
    fn valloc(size: usize) -> *mut c_void;
    fn pvalloc(size: usize) -> *mut c_void;
    fn reallocarray(object: *mut c_void, count: usize, size: usize) -> *mut c_void;
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let argument = |number: usize| args.get(number).map_or("", String::as_str);
    let number = |at: usize| argument(at).parse::<usize>().expect("a number");
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc");
    if !maps.contains("libclaude_guard") && argument(1) != "environ" {
        std::process::exit(99);
    }
    match argument(1) {
        "preinit" => print(&snapshot(argument(2))),
        "family" => family(argument(2), number(3), number(4)),
        "pvalloc" => counted(argument(2), 1, |_| {
            for _ in 0..1000 {
                // SAFETY: pvalloc takes any size; freed once.
                unsafe { libc::free(black_box(pvalloc(0))) };
            }
        }),
        "churn" => churn(argument(2), number(3), number(4)),
        "leak" => leak(argument(2), number(3)),
        "errno" => errno_is_kept(),
        "edges" => edges(),
        "environ" => environ(),
        "disposition" => println!("usr1 {}", disposition()),
        "line" => line(number(2)),
        "own-handler" => own_handler(argument(2), argument(3)),
        "fork" => fork(argument(2)),
        "storm" => storm(number(2), number(3)),
        "vfork-signal" => vfork_signal(argument(2)),
        other => panic!("no scenario {other:?}"),
    }
}

/// Reads the page without allocating.
fn snapshot(path: &str) -> Snapshot {
    let path = CString::new(path).expect("a path");
    let mut bytes = [0_u8; stats_page::LEN];
    // SAFETY: a terminated path; at most the buffer's length is read.
    let read = unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let read = libc::pread(file, bytes.as_mut_ptr().cast(), bytes.len(), 0);
        libc::close(file);
        read
    };
    assert_eq!(read, stats_page::LEN as isize, "the page is too short");
    Snapshot::from_bytes(&bytes).expect("a page that the guard has taken")
}

fn print(now: &Snapshot) {
    print_difference(now, &ClassCounts::default());
}

fn print_difference(now: &Snapshot, before: &ClassCounts) {
    let class = now.first();
    let alloc = class.alloc - before.alloc;
    let free = class.free - before.free;
    let stray = class.stray - before.stray;
    let pool_hit = class.pool_hit - before.pool_hit;
    println!(
        "alloc={alloc} free={free} stray={stray} live={} pool_hit={pool_hit} state={:?} usr1={:?} pid={} size={} choice={:?}",
        alloc as i64 + stray - free as i64,
        now.state,
        now.usr1,
        now.pid,
        class.size,
        now.choice,
    );
}

/// Runs `work` on several threads and prints what was counted meanwhile. Only that: the threads
/// are up before and still there afterwards.
fn counted(page: &str, threads: usize, work: impl Fn(usize) + Sync) {
    let (ready, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (go, end) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for number in 0..threads {
            let (ready, done, go, end, work) = (&ready, &done, &go, &end, &work);
            scope.spawn(move || {
                ready.fetch_add(1, SeqCst);
                wait(|| go.load(SeqCst));
                work(number);
                done.fetch_add(1, SeqCst);
                wait(|| end.load(SeqCst));
            });
        }
        wait(|| ready.load(SeqCst) == threads);
        let before = snapshot(page);
        go.store(true, SeqCst);
        wait(|| done.load(SeqCst) == threads);
        let after = snapshot(page);
        end.store(true, SeqCst);
        print_difference(&after, before.first());
    });
}

fn wait(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::yield_now();
    }
}

/// Ten requests of the class, one by each function (calloc twice, realloc of a live object), and
/// eight of its neighbours; everything is freed.
fn family(page: &str, threads: usize, rounds: usize) {
    counted(page, threads, |_| {
        for _ in 0..rounds {
            // SAFETY: the contracts of malloc(3) and posix_memalign(3).
            unsafe {
                let mut out = null_mut();
                assert_eq!(libc::posix_memalign(&raw mut out, 64, 160), 0);
                let watched = [
                    libc::malloc(153),
                    libc::malloc(168),
                    libc::calloc(1, 168),
                    libc::calloc(20, 8),
                    libc::realloc(libc::malloc(10), 160),
                    reallocarray(null_mut(), 4, 40),
                    libc::aligned_alloc(32, 160),
                    memalign(16, 155),
                    valloc(160),
                    out,
                ];
                let others = [
                    libc::malloc(152),
                    libc::malloc(169),
                    libc::calloc(1, 152),
                    libc::calloc(usize::MAX, 160),
                    libc::realloc(null_mut(), 169),
                    libc::aligned_alloc(16, 100),
                    pvalloc(160),
                    libc::malloc(0),
                ];
                for object in watched {
                    assert!(!object.is_null());
                    assert!(libc::malloc_usable_size(object) >= 153);
                    libc::free(black_box(object));
                }
                for object in others {
                    libc::free(black_box(object));
                }
            }
        }
    });
}

/// Random calls that leave the heap in pieces, so that requests get chunks of other classes. What
/// is live at the end is counted here by its chunks, and printed first.
fn churn(page: &str, threads: usize, rounds: usize) {
    let (live_chunks, requests) = (AtomicUsize::new(0), AtomicUsize::new(0));
    counted(page, threads, |number| {
        let mut random = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(number as u64 + 1);
        let mut next = |limit: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as usize % limit
        };
        let mut objects = [null_mut::<c_void>(); 512];
        let is_watched = |size: usize| (153..=168).contains(&size);
        let mut mine = 0;
        for _ in 0..rounds {
            let place = next(objects.len());
            // Mostly around the class, some larger, so that remnants of all sizes arise.
            let size = if next(8) == 0 {
                next(4000)
            } else {
                100 + next(120)
            };
            // SAFETY: the contracts of malloc(3); each place owns its object.
            unsafe {
                let old = objects[place];
                objects[place] = match next(4) {
                    0 => {
                        libc::free(old);
                        null_mut()
                    }
                    1 => {
                        libc::free(old);
                        mine += usize::from(is_watched(size));
                        libc::malloc(size)
                    }
                    2 => {
                        libc::free(old);
                        mine += usize::from(is_watched(size));
                        memalign(1 << next(9), size)
                    }
                    _ => {
                        // Size 0 is left out: the one request that may free and serve nothing.
                        let size = size.max(1);
                        mine += usize::from(is_watched(size));
                        libc::realloc(old, size)
                    }
                };
            }
        }
        let chunks = objects
            .iter()
            // SAFETY: null or a live object.
            .filter(|object| unsafe { libc::malloc_usable_size(**object) } == 168)
            .count();
        live_chunks.fetch_add(chunks, SeqCst);
        requests.fetch_add(mine, SeqCst);
    });
    println!("requests={requests:?} chunks={live_chunks:?}");
}

fn leak(page: &str, objects: usize) {
    counted(page, 1, |_| {
        for _ in 0..objects {
            // SAFETY: calloc takes any sizes.
            black_box(unsafe { libc::calloc(1, 168) });
        }
    });
}

fn errno() -> *mut c_int {
    // SAFETY: takes nothing.
    unsafe { libc::__errno_location() }
}

fn errno_is_kept() {
    for size in [1, 160, 5000, 1 << 20, 64 << 20] {
        // SAFETY: the contracts of malloc(3).
        unsafe {
            let object = black_box(libc::malloc(size));
            assert!(!object.is_null());
            *errno() = 77;
            libc::free(object);
            assert_eq!(*errno(), 77, "free of {size}");
            libc::free(black_box(null_mut()));
            assert_eq!(*errno(), 77, "free of null");
        }
    }
    // SAFETY: raise takes any signal.
    unsafe {
        *errno() = 78;
        libc::raise(libc::SIGUSR1);
        assert_eq!(*errno(), 78, "SIGUSR1");
    }
}

/// Answers at the edges are the C library's.
fn edges() {
    // SAFETY: the contracts of malloc(3) and posix_memalign(3).
    unsafe {
        let fails_with_enomem = |what: &str, call: &dyn Fn() -> *mut c_void| {
            *errno() = 0;
            // Without black_box a compiler may take a result that is only compared with null for one
            // that is never null, and leave the call out (it did).
            assert!(black_box(call()).is_null(), "{what}");
            assert_eq!(*errno(), libc::ENOMEM, "{what}");
        };
        let huge = black_box(usize::MAX - 4096);
        fails_with_enomem("malloc", &|| libc::malloc(huge));
        fails_with_enomem("calloc", &|| libc::calloc(huge, 2));
        fails_with_enomem("realloc", &|| libc::realloc(null_mut(), huge));
        fails_with_enomem("reallocarray", &|| reallocarray(null_mut(), huge, 160));
        fails_with_enomem("reallocarray of the class", &|| {
            reallocarray(null_mut(), (usize::MAX / 160) + 2, 160)
        });
        fails_with_enomem("aligned_alloc", &|| libc::aligned_alloc(64, huge));

        let untouched = errno().cast::<c_void>();
        let mut out = untouched;
        assert_eq!(libc::posix_memalign(&raw mut out, 3, 160), libc::EINVAL);
        assert_eq!(out, untouched, "a failure leaves the pointer alone");
        for align in [16, 64, 4096, 1 << 20] {
            assert_eq!(libc::posix_memalign(&raw mut out, align, 160), 0);
            assert_eq!(out as usize % align, 0);
            libc::free(out);
        }

        let kept = libc::malloc(160).cast::<u8>();
        kept.write_bytes(0xA5, 160);
        assert!(black_box(libc::realloc(kept.cast(), huge)).is_null());
        assert!(
            (0..160).all(|at| *kept.add(at) == 0xA5),
            "a failed realloc keeps the object"
        );
        let moved = libc::realloc(kept.cast(), 1 << 20).cast::<u8>();
        assert!((0..160).all(|at| *moved.add(at) == 0xA5));
        libc::free(moved.cast());

        // Gone from today's headers and libraries; old programs call it.
        let cfree = libc::dlsym(libc::RTLD_DEFAULT, c"cfree".as_ptr());
        assert!(!cfree.is_null());
        let cfree: unsafe extern "C" fn(*mut c_void) = std::mem::transmute(cfree);
        cfree(libc::malloc(160));
        cfree(null_mut());
        assert_eq!(libc::malloc_usable_size(null_mut()), 0);
    }
}

/// Prints the environment as the program, /proc and a child have it, each sorted.
fn environ() {
    let show = |title: &str, mut entries: Vec<Vec<u8>>| {
        entries.retain(|entry| !entry.is_empty());
        entries.sort();
        for entry in entries {
            println!("{title} {}", String::from_utf8_lossy(&entry));
        }
    };
    let own = std::env::vars_os()
        .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat())
        .collect();
    show("own", own);
    let proc = std::fs::read("/proc/self/environ").expect("/proc");
    show(
        "proc",
        proc.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect(),
    );
    let child = std::process::Command::new("/usr/bin/env")
        .arg("-0")
        .output()
        .expect("env");
    assert!(child.status.success());
    show(
        "child",
        child
            .stdout
            .split(|byte| *byte == 0)
            .map(<[u8]>::to_vec)
            .collect(),
    );
    let child = std::process::Command::new("/bin/cat")
        .arg("/proc/self/maps")
        .output()
        .expect("cat");
    println!(
        "child is guarded: {}",
        String::from_utf8_lossy(&child.stdout).contains("claude_guard")
    );
}

fn disposition() -> &'static str {
    // SAFETY: sigaction(2) writes the record.
    let now = unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(libc::SIGUSR1, null(), &raw mut now), 0);
        now.sa_sigaction
    };
    match now {
        libc::SIG_DFL => "default",
        libc::SIG_IGN => "ignored",
        _ => "handled",
    }
}

/// Makes objects of the class, frees every second one, asks for the line.
fn line(objects: usize) {
    for number in 0..objects {
        // SAFETY: the contracts of malloc(3).
        unsafe {
            let object = black_box(libc::malloc(160));
            if number % 2 == 1 {
                libc::free(object);
            }
        }
    }
    // SAFETY: raise takes any signal; the disposition is checked, or this ends us.
    assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
}

static RAN: AtomicUsize = AtomicUsize::new(0);

extern "C" fn own(_: c_int) {
    RAN.fetch_add(1, SeqCst);
}

/// Installs a handler of the program's own by `how`, raises, puts the old one back, raises.
fn own_handler(page: &str, how: &str) {
    // SAFETY: the contracts of sigaction(2) and signal(2).
    unsafe {
        println!("before {:?}", snapshot(page).usr1);
        let mut old: libc::sigaction = std::mem::zeroed();
        if how == "signal" {
            old.sa_sigaction = libc::signal(libc::SIGUSR1, own as *const () as usize);
        } else {
            let mut new: libc::sigaction = std::mem::zeroed();
            new.sa_sigaction = own as *const () as usize;
            assert_eq!(
                libc::sigaction(libc::SIGUSR1, &raw const new, &raw mut old),
                0
            );
        }
        libc::raise(libc::SIGUSR1);
        println!("with {:?} ran {}", snapshot(page).usr1, RAN.load(SeqCst));
        assert_eq!(
            libc::sigaction(libc::SIGUSR1, &raw const old, null_mut()),
            0
        );
        println!("after {:?}", snapshot(page).usr1);
        libc::raise(libc::SIGUSR1);
        println!("ran {}", RAN.load(SeqCst));
        libc::signal(libc::SIGUSR1, libc::SIG_DFL);
        println!("default {:?}", snapshot(page).usr1);
    }
}

/// A child that makes 1000 objects and asks for its line; the parent prints what it counted itself.
fn fork(page: &str) {
    let before = snapshot(page);
    // SAFETY: no other thread is there; the child calls async-signal-safe functions and malloc.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            for _ in 0..1000 {
                black_box(libc::malloc(160));
            }
            libc::raise(libc::SIGUSR1);
            libc::_exit(0);
        }
        assert!(child > 0);
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        assert_eq!(status, 0, "the child's end");
        let after = snapshot(page);
        println!("child {child}");
        print_difference(&after, before.first());
    }
}

/// The child of a vfork changes its own disposition of SIGUSR1, in our memory.
fn vfork_signal(page: &str) {
    // SAFETY: the child makes two calls, neither of which touches memory of the parent's.
    #[allow(deprecated)]
    unsafe {
        let child = libc::vfork();
        if child == 0 {
            libc::signal(libc::SIGUSR1, libc::SIG_DFL);
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        assert_eq!(status, 0);
    }
    println!("usr1 {} {:?}", disposition(), snapshot(page).usr1);
}

/// Threads that allocate without a pause while the main thread forks, and asks for lines.
fn storm(threads: usize, forks: usize) {
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..threads {
            let end = &end;
            scope.spawn(move || {
                while !end.load(SeqCst) {
                    // SAFETY: the contracts of malloc(3).
                    unsafe {
                        let objects = [0; 16].map(|_: usize| libc::malloc(140 + number * 7));
                        for object in objects {
                            libc::free(black_box(libc::realloc(object, 160)));
                        }
                    }
                }
            });
        }
        for number in 0..forks {
            // SAFETY: the child only calls malloc, which fork keeps usable in glibc, and _exit.
            unsafe {
                let child = libc::fork();
                if child == 0 {
                    for size in 100..300 {
                        libc::free(black_box(libc::malloc(size)));
                    }
                    libc::_exit(7);
                }
                assert!(child > 0);
                if number % 16 == 0 {
                    libc::kill(libc::getpid(), libc::SIGUSR1);
                }
                let mut status = 0;
                assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
                assert_eq!(libc::WEXITSTATUS(status), 7);
            }
        }
        end.store(true, SeqCst);
    });
}
