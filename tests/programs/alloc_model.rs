//! Takes a string of bytes for a sequence of calls of malloc's family, makes them, and holds what it
//! gets against a model: contents, overlaps, alignment, usable sizes, zeros, errno.
//!
//! Owns its bookkeeping in tables that are made before the first call: it allocates nothing while it
//! works, so that a null pointer is an answer and not the end.
//!
//! Arguments are `name=value`: `from` and `seeds` (the strings are random ones of these seeds),
//! `steps` a seed, `seconds` (goes on with further seeds until they are over), `input` (a file, `-`
//! for stdin: the string itself, in place of seeds), `threads` (each with its own string; they hand
//! objects over to each other), `bulk` (objects that are made and freed at once, now and then),
//! `leak` (a size: one object of it in eight steps is kept to the end), `usr1=yes` (raises SIGUSR1 at
//! the end), `fault=yes` (breaks one byte: the program must find it), `plain=yes` (without what
//! valgrind has no answer to: pvalloc, and requests that are too large).
//!
//! One line of `name=value` on stdout; `outcome` is a digest of what was null, with which errno: the
//! same with any allocator that answers as glibc does. Exit status: 0 all is right, 1 something is
//! wrong (said on stderr, with the arguments that show it again), 2 it refuses the arguments, 3 there
//! is no memory for the tables.

use std::{
    ffi::{CStr, c_int, c_void},
    fmt::Write as _,
    hint::black_box,
    io::Read as _,
    process::ExitCode,
    ptr::null_mut,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};

/// Live objects of one thread at a time.
const OBJECTS: usize = 192;
/// Objects on their way from one thread to another.
const EXCHANGE: usize = 64;
const LEAKED_MAX: usize = 1 << 18;
/// Where classes and slot sizes of the guard have their borders, and a few around pages and chunks
/// that glibc maps on their own.
const SIZES: [usize; 48] = [
    0, 1, 8, 15, 16, 17, 23, 24, 25, 31, 32, 33, 40, 41, 56, 57, 64, 72, 73, 144, 151, 152, 153,
    156, 159, 160, 161, 165, 167, 168, 169, 176, 184, 185, 504, 505, 512, 520, 521, 1008, 1009,
    1016, 1017, 1024, 1025, 1032, 1033, 4096,
];
const LARGE: [usize; 4] = [4097, 16_384, 70_000, 140_000];
/// No object may be so large.
const TOO_LARGE: [usize; 4] = [
    usize::MAX,
    usize::MAX - 4096,
    isize::MAX as usize + 1,
    isize::MAX as usize,
];
const SENTINEL: c_int = 77;

type Malloc = unsafe extern "C" fn(usize) -> *mut c_void;
type Two = unsafe extern "C" fn(usize, usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);

/// The allocator through pointers that the compiler can't see through.
struct Allocator {
    malloc: Malloc,
    calloc: Two,
    realloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    reallocarray: unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    aligned_alloc: Two,
    memalign: Two,
    posix_memalign: unsafe extern "C" fn(*mut *mut c_void, usize, usize) -> c_int,
    valloc: Malloc,
    pvalloc: Malloc,
    usable_size: unsafe extern "C" fn(*mut c_void) -> usize,
    free: Free,
    cfree: Free,
    free_sized: unsafe extern "C" fn(*mut c_void, usize),
    free_aligned_sized: unsafe extern "C" fn(*mut c_void, usize, usize),
}

unsafe extern "C" fn free_sized_by_free(object: *mut c_void, _size: usize) {
    // SAFETY: the caller's promise.
    unsafe { libc::free(object) }
}

unsafe extern "C" fn free_aligned_sized_by_free(object: *mut c_void, _align: usize, _size: usize) {
    // SAFETY: the caller's promise.
    unsafe { libc::free(object) }
}

impl Allocator {
    fn new() -> Self {
        let find = |name: &CStr| {
            // SAFETY: a terminated name.
            unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
        };
        unsafe extern "C" {
            fn memalign(align: usize, size: usize) -> *mut c_void;
            fn valloc(size: usize) -> *mut c_void;
            fn pvalloc(size: usize) -> *mut c_void;
        }
        let (cfree, sized) = (find(c"cfree"), find(c"free_sized"));
        let aligned_sized = find(c"free_aligned_sized");
        // SAFETY: null, for None, or functions of these names, whose types are C's.
        let (cfree, sized, aligned_sized) = unsafe {
            (
                std::mem::transmute::<*mut c_void, Option<Free>>(cfree),
                std::mem::transmute::<*mut c_void, Option<unsafe extern "C" fn(*mut c_void, usize)>>(
                    sized,
                ),
                std::mem::transmute::<
                    *mut c_void,
                    Option<unsafe extern "C" fn(*mut c_void, usize, usize)>,
                >(aligned_sized),
            )
        };
        black_box(Self {
            malloc: libc::malloc,
            calloc: libc::calloc,
            realloc: libc::realloc,
            reallocarray: libc::reallocarray,
            aligned_alloc: libc::aligned_alloc,
            memalign,
            posix_memalign: libc::posix_memalign,
            valloc,
            pvalloc,
            usable_size: libc::malloc_usable_size,
            free: libc::free,
            cfree: cfree.unwrap_or(libc::free),
            free_sized: sized.unwrap_or(free_sized_by_free),
            free_aligned_sized: aligned_sized.unwrap_or(free_aligned_sized_by_free),
        })
    }
}

/// The string: given, or made of a seed as it is read.
struct Source<'a> {
    given: Option<&'a [u8]>,
    seed: u64,
    word: u64,
    left: usize,
    bytes_left: usize,
}

impl Source<'_> {
    /// The next byte; 0 beyond the end.
    fn byte(&mut self) -> usize {
        if self.bytes_left == 0 {
            return 0;
        }
        self.bytes_left -= 1;
        if let Some(given) = &mut self.given {
            let (byte, rest) = given.split_first().expect("as many as are left");
            *given = rest;
            return usize::from(*byte);
        }
        if self.left == 0 {
            self.seed = self.seed.wrapping_add(1);
            (self.word, self.left) = (mixed(self.seed), 8);
        }
        self.left -= 1;
        let byte = self.word & 0xFF;
        self.word >>= 8;
        byte as usize
    }

    /// A byte or two: one of the borders, any size up to 2 KiB, or seldom a large one.
    fn size(&mut self) -> usize {
        match self.byte() {
            at @ ..192 => SIZES[at % SIZES.len()],
            252.. => LARGE[self.byte() % LARGE.len()],
            high => high % 8 * 256 + self.byte(),
        }
    }
}

/// A well mixed word (SplitMix64's last step).
fn mixed(seed: u64) -> u64 {
    let x = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// How an object was asked for, as far as that names the functions that may end it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Malloc,
    Aligned { align: usize },
    Other,
}

#[derive(Clone, Copy)]
struct Object {
    start: usize,
    /// What was asked for.
    size: usize,
    /// What may be written, and was.
    usable: usize,
    /// Names its contents.
    id: u64,
    origin: Origin,
}

impl Object {
    fn pointer(&self) -> *mut c_void {
        self.start as *mut c_void
    }

    fn word(&self, number: usize) -> u64 {
        // Cheap, and different for every object and word.
        (self.id ^ number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    /// Writes all its usable bytes.
    fn fill(&self) {
        let bytes = self.start as *mut u8;
        // SAFETY: a live object of `usable` bytes that nobody else knows; aligned to 8 and more.
        unsafe {
            for number in 0..self.usable / 8 {
                bytes
                    .cast::<u64>()
                    .add(number)
                    .write_volatile(self.word(number));
            }
            let rest = self.word(self.usable / 8).to_ne_bytes();
            for at in self.usable / 8 * 8..self.usable {
                bytes.add(at).write_volatile(rest[at % 8]);
            }
        }
    }

    /// Offset of the first of `len` bytes that isn't what was written.
    fn first_wrong(&self, start: usize, len: usize) -> Option<usize> {
        let bytes = start as *const u8;
        // SAFETY: `start` has `len` bytes: a live object. Volatile: the compiler must not keep what it
        // saw written.
        unsafe {
            for number in 0..len / 8 {
                if bytes.cast::<u64>().add(number).read_volatile() != self.word(number) {
                    return Some(number * 8);
                }
            }
            let rest = self.word(len / 8).to_ne_bytes();
            (len / 8 * 8..len).find(|&at| bytes.add(at).read_volatile() != rest[at % 8])
        }
    }
}

struct Options {
    from: u64,
    seeds: u64,
    steps: usize,
    seconds: Option<u64>,
    input: Option<String>,
    threads: usize,
    bulk: usize,
    leak: usize,
    usr1: bool,
    fault: bool,
    plain: bool,
}

/// What is wrong.
struct Wrong(String);

struct World {
    options: Options,
    allocator: Allocator,
    exchange: Mutex<Vec<Object>>,
    ids: AtomicU64,
    calls: AtomicU64,
    nulls: AtomicU64,
}

fn lock(objects: &Mutex<Vec<Object>>) -> MutexGuard<'_, Vec<Object>> {
    objects.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The seed that is run, for the last words of a program that crashes.
static RUNNING: AtomicU64 = AtomicU64::new(0);
static FAULT_DUE: AtomicBool = AtomicBool::new(false);

/// One thread's dealings with the allocator.
struct Hand<'a> {
    world: &'a World,
    source: Source<'a>,
    /// By address.
    live: Vec<Object>,
    leaked: Vec<Object>,
    step: usize,
    calls: u64,
    nulls: u64,
    outcome: u64,
}

/// Room for so many objects; without it the program ends before it has begun.
fn table(objects: usize) -> Vec<Object> {
    let mut table = Vec::new();
    if table.try_reserve_exact(objects).is_err() {
        eprintln!("alloc-model: no memory for the tables");
        std::process::exit(3);
    }
    table
}

fn set_errno(value: c_int) {
    // SAFETY: the thread's own errno.
    unsafe { *libc::__errno_location() = value }
}

fn errno() -> c_int {
    // SAFETY: the thread's own errno.
    unsafe { *libc::__errno_location() }
}

impl<'a> Hand<'a> {
    fn new(world: &'a World) -> Self {
        let leaked = if world.options.leak != 0 {
            LEAKED_MAX
        } else {
            0
        };
        Self {
            world,
            source: Source {
                given: None,
                seed: 0,
                word: 0,
                left: 0,
                bytes_left: 0,
            },
            live: table(OBJECTS.max(world.options.bulk) + 1),
            leaked: table(leaked),
            step: 0,
            calls: 0,
            nulls: 0,
            outcome: 0,
        }
    }

    fn wrong<T>(&self, what: &str, object: &Object) -> Result<T, Wrong> {
        let mut text = String::new();
        let _ = write!(
            text,
            "step {}: {what}: {:#x}, {} bytes, {} usable",
            self.step, object.start, object.size, object.usable
        );
        Err(Wrong(text))
    }

    /// Notes an answer that every allocator that does as glibc must give.
    fn note(&mut self, answer: u64) {
        self.outcome = mixed(self.outcome ^ answer);
    }

    /// Enters an object that was just made.
    fn enter(
        &mut self,
        pointer: *mut c_void,
        size: usize,
        origin: Origin,
    ) -> Result<Object, Wrong> {
        let align = match origin {
            Origin::Aligned { align } => align.max(16),
            _ => 16,
        };
        // SAFETY: a live object.
        let usable = unsafe { (self.world.allocator.usable_size)(pointer) };
        let object = Object {
            start: pointer as usize,
            size,
            usable,
            id: self.world.ids.fetch_add(1 << 20, Relaxed),
            origin,
        };
        if !object.start.is_multiple_of(align) {
            return self.wrong("misaligned", &object);
        }
        if usable < size || usable > size.max(24) * 2 + 8192 {
            return self.wrong("a usable size that can't be", &object);
        }
        let at = self
            .live
            .partition_point(|other| other.start < object.start);
        let before = at.checked_sub(1).map(|at| &self.live[at]);
        if before.is_some_and(|other| other.start + other.usable > object.start)
            || (self.live.get(at)).is_some_and(|next| object.start + usable.max(1) > next.start)
        {
            return self.wrong("lies over another object", &object);
        }
        object.fill();
        self.live.insert(at, object);
        Ok(object)
    }

    /// A null pointer where an object was asked for that could be had: out of memory, and nothing
    /// else.
    fn refused(&mut self) -> Result<(), Wrong> {
        self.nulls += 1;
        if errno() == libc::ENOMEM {
            return Ok(());
        }
        Err(Wrong(format!(
            "step {}: null with errno {}",
            self.step,
            errno()
        )))
    }

    /// What can't be served: null, with this errno.
    fn must_refuse(&mut self, pointer: *mut c_void, wanted: c_int) -> Result<(), Wrong> {
        let errno = errno();
        self.note(errno as u64);
        if pointer.is_null() && errno == wanted {
            return Ok(());
        }
        let step = self.step;
        Err(Wrong(format!(
            "step {step}: {pointer:?} with errno {errno} in place of {wanted}"
        )))
    }

    fn check(&self, object: &Object) -> Result<(), Wrong> {
        // SAFETY: a live object.
        let usable = unsafe { (self.world.allocator.usable_size)(object.pointer()) };
        if usable != object.usable {
            return self.wrong("its usable size has changed", object);
        }
        match object.first_wrong(object.start, object.usable) {
            Some(at) => self.wrong(&format!("byte {at} has changed"), object),
            None => Ok(()),
        }
    }

    fn make(&mut self, how: usize, size: usize) -> Result<(), Wrong> {
        let allocator = &self.world.allocator;
        let align = 8 << (self.source.byte() % 10);
        let how = if self.world.options.plain {
            how % 14
        } else {
            how
        };
        self.calls += 1;
        set_errno(SENTINEL);
        // SAFETY: the contracts of malloc(3) and posix_memalign(3).
        let (pointer, origin) = unsafe {
            match how {
                0..=5 => ((allocator.malloc)(size), Origin::Malloc),
                6 | 7 => ((allocator.calloc)(1, size), Origin::Malloc),
                8 => ((allocator.calloc)(size, 1), Origin::Malloc),
                9 => ((allocator.realloc)(null_mut(), size), Origin::Malloc),
                10 => (
                    (allocator.reallocarray)(null_mut(), size, 1),
                    Origin::Malloc,
                ),
                11 => (
                    (allocator.aligned_alloc)(align, size),
                    Origin::Aligned { align },
                ),
                12 => ((allocator.memalign)(align, size), Origin::Aligned { align }),
                13 => {
                    let mut out = SENTINEL as usize as *mut c_void;
                    let result = (allocator.posix_memalign)(&raw mut out, align, size);
                    if result != 0 {
                        set_errno(result);
                        if out as usize != SENTINEL as usize {
                            return Err(Wrong("posix_memalign failed and wrote".into()));
                        }
                        out = null_mut();
                    }
                    (out, Origin::Aligned { align })
                }
                14 => ((allocator.valloc)(size), Origin::Aligned { align: 4096 }),
                _ => ((allocator.pvalloc)(size), Origin::Aligned { align: 4096 }),
            }
        };
        // valloc's alignment is not for free_aligned_sized to know.
        let freed_as = if how >= 14 { Origin::Other } else { origin };
        if pointer.is_null() {
            return self.refused();
        }
        if how >= 14 && !(pointer as usize).is_multiple_of(4096) {
            return Err(Wrong(format!("step {}: valloc: {pointer:?}", self.step)));
        }
        if (6..=8).contains(&how) {
            // SAFETY: a new object of `size` bytes.
            let is_zero =
                unsafe { (0..size).all(|at| pointer.cast::<u8>().add(at).read_volatile() == 0) };
            if !is_zero {
                return Err(Wrong(format!(
                    "step {}: calloc({size}): not zero",
                    self.step
                )));
            }
        }
        self.enter(pointer, size, freed_as)?;
        Ok(())
    }

    /// Takes out one of the live objects.
    fn pick(&mut self) -> Option<Object> {
        let at = self.source.byte() * 256 + self.source.byte();
        (!self.live.is_empty()).then(|| self.live.remove(at % self.live.len()))
    }

    fn end(&mut self, object: &Object, how: usize) -> Result<(), Wrong> {
        self.check(object)?;
        let allocator = &self.world.allocator;
        self.calls += 1;
        set_errno(SENTINEL);
        // SAFETY: a live object that nobody uses any more, ended as its origin allows.
        unsafe {
            match (how % 4, object.origin) {
                (0, Origin::Malloc) => (allocator.free_sized)(object.pointer(), object.size),
                (0, Origin::Aligned { align }) => {
                    (allocator.free_aligned_sized)(object.pointer(), align, object.size);
                }
                (1, _) => (allocator.cfree)(object.pointer()),
                _ => (allocator.free)(object.pointer()),
            }
        }
        if errno() != SENTINEL {
            return self.wrong("free has changed errno", object);
        }
        Ok(())
    }

    fn resize(&mut self, object: &Object, size: usize, as_array: bool) -> Result<(), Wrong> {
        self.check(object)?;
        let allocator = &self.world.allocator;
        self.calls += 1;
        set_errno(SENTINEL);
        // SAFETY: a live object; after a success it is the new one's.
        let new = unsafe {
            if as_array {
                (allocator.reallocarray)(object.pointer(), 1, size)
            } else {
                (allocator.realloc)(object.pointer(), size)
            }
        };
        if size == 0 {
            // glibc's way to free.
            self.note(u64::from(new.is_null()));
            return match new.is_null() {
                true => Ok(()),
                false => self.wrong("realloc to 0 gave an object", object),
            };
        }
        if new.is_null() {
            self.put_back(*object);
            self.check(object)?;
            return self.refused();
        }
        let kept = object.usable.min(size);
        if let Some(at) = object.first_wrong(new as usize, kept) {
            return self.wrong(&format!("realloc to {size} has changed byte {at}"), object);
        }
        self.enter(new, size, Origin::Malloc)?;
        Ok(())
    }

    fn put_back(&mut self, object: Object) {
        let at = self
            .live
            .partition_point(|other| other.start < object.start);
        self.live.insert(at, object);
    }

    /// Requests that have no object for an answer.
    fn edge(&mut self, which: usize) -> Result<(), Wrong> {
        let allocator = &self.world.allocator;
        let huge = TOO_LARGE[self.source.byte() % TOO_LARGE.len()];
        let picked = self.live.first().copied();
        let some = picked.map_or(null_mut(), |object| object.pointer());
        self.calls += 1;
        set_errno(SENTINEL);
        let mut out = SENTINEL as usize as *mut c_void;
        // SAFETY: the contracts of malloc(3) and posix_memalign(3). What fails leaves the object alone.
        let (pointer, wanted) = unsafe {
            match which % 12 {
                0 => ((allocator.malloc)(huge), libc::ENOMEM),
                1 => ((allocator.calloc)(huge, 2), libc::ENOMEM),
                // The product is 0 in 64 bits.
                2 => ((allocator.calloc)(1 << 33, 1 << 31), libc::ENOMEM),
                3 => ((allocator.realloc)(some, huge), libc::ENOMEM),
                4 => ((allocator.reallocarray)(some, 1 << 60, 168), libc::ENOMEM),
                // 160 in 64 bits.
                5 => (
                    (allocator.reallocarray)(some, (1 << 63) + 80, 2),
                    libc::ENOMEM,
                ),
                6 => ((allocator.aligned_alloc)(16, huge), libc::ENOMEM),
                7 => ((allocator.memalign)(64, huge), libc::ENOMEM),
                8..=10 => {
                    let (align, size, wanted) = match which % 12 {
                        8 => (16, huge, libc::ENOMEM),
                        9 => (4, 160, libc::EINVAL),
                        _ => (24, 160, libc::EINVAL),
                    };
                    let result = (allocator.posix_memalign)(&raw mut out, align, size);
                    set_errno(result);
                    (null_mut(), wanted)
                }
                _ => {
                    (allocator.free)(null_mut());
                    let usable = (allocator.usable_size)(null_mut());
                    if usable != 0 || errno() != SENTINEL {
                        return Err(Wrong("the null pointer has a size".into()));
                    }
                    return Ok(());
                }
            }
        };
        if out as usize != SENTINEL as usize {
            return Err(Wrong("posix_memalign failed and wrote".into()));
        }
        self.must_refuse(pointer, wanted)?;
        match picked {
            Some(object) => self.check(&object),
            None => Ok(()),
        }
    }

    /// Gives an object to the other threads, or takes one of theirs.
    fn exchange(&mut self, give: bool) -> Result<(), Wrong> {
        let taken = if give && let Some(object) = self.pick() {
            let mut exchange = lock(&self.world.exchange);
            if exchange.len() < EXCHANGE {
                exchange.push(object);
                return Ok(());
            }
            object
        } else {
            let mut exchange = lock(&self.world.exchange);
            let at = self.source.byte();
            if exchange.is_empty() || self.live.len() >= OBJECTS {
                return Ok(());
            }
            let at = at % exchange.len();
            exchange.swap_remove(at)
        };
        self.check(&taken)?;
        self.put_back(taken);
        Ok(())
    }

    /// Many objects at once: slabs fill, empty, and go back.
    fn bulk(&mut self) -> Result<(), Wrong> {
        let size = self.source.size().min(2048);
        for _ in 0..self.world.options.bulk {
            self.calls += 1;
            set_errno(SENTINEL);
            // SAFETY: malloc(3).
            let pointer = unsafe { (self.world.allocator.malloc)(size) };
            if pointer.is_null() {
                self.refused()?;
                break;
            }
            let object = Object {
                start: pointer as usize,
                size,
                // SAFETY: a live object.
                usable: unsafe { (self.world.allocator.usable_size)(pointer) },
                id: self.world.ids.fetch_add(1 << 20, Relaxed),
                origin: Origin::Malloc,
            };
            object.fill();
            self.live.push(object);
        }
        // In another order than they came: first one half of them, then the other.
        for half in [0, 1] {
            for at in 0..self.live.len() {
                if at % 2 == half {
                    let object = self.live[at];
                    self.end(&object, 2)?;
                }
            }
        }
        self.live.clear();
        Ok(())
    }

    fn leak(&mut self) -> Result<(), Wrong> {
        if self.leaked.len() == self.leaked.capacity() {
            return Ok(());
        }
        let size = self.world.options.leak;
        self.calls += 1;
        set_errno(SENTINEL);
        // SAFETY: calloc(3).
        let pointer = unsafe { (self.world.allocator.calloc)(1, size) };
        if pointer.is_null() {
            return self.refused();
        }
        let object = Object {
            start: pointer as usize,
            size,
            // SAFETY: a live object.
            usable: unsafe { (self.world.allocator.usable_size)(pointer) },
            id: self.world.ids.fetch_add(1 << 20, Relaxed),
            origin: Origin::Malloc,
        };
        object.fill();
        self.leaked.push(object);
        Ok(())
    }

    /// Runs the string to its end, and frees what is live then.
    fn run(&mut self, source: Source<'a>) -> Result<(), Wrong> {
        self.source = source;
        self.step = 0;
        if self.world.options.bulk != 0 && self.source.byte().is_multiple_of(16) {
            self.bulk()?;
        }
        while self.source.bytes_left != 0 {
            self.step += 1;
            if self.world.options.leak != 0 && self.step.is_multiple_of(8) {
                self.leak()?;
            }
            if FAULT_DUE.load(Relaxed)
                && let Some(object) = self.live.first()
                && FAULT_DUE.swap(false, SeqCst)
            {
                // SAFETY: a live object of one byte and more.
                unsafe { *object.pointer().cast::<u8>() ^= 4 };
            }
            let op = self.source.byte();
            let how = op / 16;
            match op % 16 {
                0..=5 if self.live.len() < OBJECTS => {
                    let size = self.source.size();
                    self.make(how, size)?;
                }
                // Small ones more often, and often by malloc.
                6 | 7 if self.live.len() < OBJECTS => {
                    let size = SIZES[self.source.byte() % SIZES.len()];
                    self.make(how % 8, size)?;
                }
                ..=11 => {
                    if let Some(object) = self.pick() {
                        self.end(&object, how)?;
                    }
                }
                12 | 13 => {
                    let size = self.source.size();
                    if let Some(object) = self.pick() {
                        self.resize(&object, size, how % 2 == 1)?;
                    }
                }
                14 => {
                    if let Some(object) = self.pick() {
                        self.check(&object)?;
                        self.put_back(object);
                    }
                    if !self.world.options.plain {
                        self.edge(how)?;
                    }
                }
                _ => self.exchange(how.is_multiple_of(2))?,
            }
        }
        while let Some(object) = self.live.pop() {
            self.end(&object, self.live.len())?;
        }
        Ok(())
    }

    /// The end of the thread.
    fn finish(&mut self) -> Result<(), Wrong> {
        while let Some(object) = self.leaked.pop() {
            self.end(&object, 2)?;
        }
        let mut exchanged = lock(&self.world.exchange).pop();
        while let Some(object) = exchanged {
            self.end(&object, 2)?;
            exchanged = lock(&self.world.exchange).pop();
        }
        self.world.calls.fetch_add(self.calls, Relaxed);
        self.world.nulls.fetch_add(self.nulls, Relaxed);
        Ok(())
    }
}

/// One seed after the other on this thread, or the input; how many, and the digest.
fn lane(world: &World, lane: usize, input: Option<&[u8]>) -> Result<(u64, u64), Wrong> {
    let options = &world.options;
    let began = Instant::now();
    let mut hand = Hand::new(world);
    if let Some(input) = input {
        let part = input.chunks(input.len().div_ceil(options.threads).max(1));
        let part = part.clone().nth(lane).unwrap_or_default();
        hand.run(Source {
            given: Some(part),
            seed: 0,
            word: 0,
            left: 0,
            bytes_left: part.len(),
        })?;
        hand.finish()?;
        return Ok((1, hand.outcome));
    }
    let mut done = 0;
    let limit = options.seconds.map(Duration::from_secs);
    while limit.map_or(done < options.seeds, |limit| began.elapsed() < limit) {
        let seed = options.from + done;
        if lane == 0 {
            RUNNING.store(seed, Relaxed);
        }
        let source = Source {
            given: None,
            seed: mixed(mixed(seed) ^ lane as u64),
            word: 0,
            left: 0,
            bytes_left: options.steps * 4,
        };
        hand.run(source)
            .map_err(|wrong| Wrong(format!("seed {seed}, thread {lane}, {}", wrong.0)))?;
        done += 1;
    }
    hand.finish()?;
    Ok((done, hand.outcome))
}

/// The last words: which seed it was.
extern "C" fn crashed(signal: c_int) {
    let mut text = *b"alloc-model: signal ..., seed ....................\n";
    for (range, mut number) in [(20..23, signal as u64), (30..50, RUNNING.load(Relaxed))] {
        for digit in text[range].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }
    // SAFETY: write(2), signal(2) and raise(3) are async-signal-safe.
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

fn parsed(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options {
        from: 0,
        seeds: 1,
        steps: 1000,
        seconds: None,
        input: None,
        threads: 1,
        bulk: 0,
        leak: 0,
        usr1: false,
        fault: false,
        plain: false,
    };
    for argument in arguments {
        let Some((name, value)) = argument.split_once('=') else {
            return Err(format!("{argument}: not name=value"));
        };
        let number = || value.parse::<u64>().map_err(|e| format!("{argument}: {e}"));
        match name {
            "from" => options.from = number()?,
            "seeds" => options.seeds = number()?,
            "steps" => options.steps = number()?.clamp(1, 1 << 20) as usize,
            "seconds" => options.seconds = Some(number()?),
            "input" => options.input = Some(value.to_owned()),
            "threads" => options.threads = number()?.clamp(1, 32) as usize,
            "bulk" => options.bulk = number()?.min(1 << 18) as usize,
            "leak" => options.leak = number()?.min(4096) as usize,
            "usr1" => options.usr1 = value == "yes",
            "fault" => options.fault = value == "yes",
            "plain" => options.plain = value == "yes",
            _ => return Err(format!("{argument}: unknown")),
        }
    }
    Ok(options)
}

fn input(name: &str) -> std::io::Result<Vec<u8>> {
    if name != "-" {
        return std::fs::read(name);
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = match parsed(&arguments) {
        Ok(options) => options,
        Err(complaint) => {
            eprintln!("alloc-model: {complaint}");
            return ExitCode::from(2);
        }
    };
    let given = match options.input.as_deref().map(input).transpose() {
        Ok(given) => given,
        Err(complaint) => {
            eprintln!("alloc-model: {complaint}");
            return ExitCode::from(2);
        }
    };
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGILL] {
        // SAFETY: the handler is async-signal-safe.
        unsafe { libc::signal(signal, crashed as *const () as usize) };
    }
    FAULT_DUE.store(options.fault, Relaxed);
    let guarded = std::fs::read_to_string("/proc/self/maps")
        .is_ok_and(|maps| maps.contains("libclaude_guard.so"));
    let threads = options.threads;
    let world = World {
        options,
        allocator: Allocator::new(),
        exchange: Mutex::new(Vec::with_capacity(EXCHANGE)),
        ids: AtomicU64::new(1),
        calls: AtomicU64::new(0),
        nulls: AtomicU64::new(0),
    };
    let began = Instant::now();
    let results: Vec<_> = if threads == 1 {
        vec![lane(&world, 0, given.as_deref())]
    } else {
        std::thread::scope(|scope| {
            let (world, given) = (&world, given.as_deref());
            let spawned: Vec<_> = (0..threads)
                .map(|number| scope.spawn(move || lane(world, number, given)))
                .collect();
            let joined = spawned.into_iter().map(|thread| thread.join());
            joined.map(|result| result.expect("no panic")).collect()
        })
    };
    let (mut seeds, mut outcome, mut is_right) = (0, 0, true);
    for result in results {
        match result {
            Ok((done, digest)) => {
                seeds += done;
                outcome = mixed(outcome ^ digest);
            }
            Err(Wrong(what)) => {
                is_right = false;
                let again = arguments.join(" ");
                eprintln!("alloc-model: {what}\nalloc-model: to see it again: {again}");
            }
        }
    }
    if world.options.usr1 {
        // SAFETY: raise(3).
        unsafe { libc::raise(libc::SIGUSR1) };
    }
    println!(
        "seeds={seeds} calls={} nulls={} outcome={outcome:016x} guard={} ms={}",
        world.calls.load(Relaxed),
        world.nulls.load(Relaxed),
        if guarded { "yes" } else { "no" },
        began.elapsed().as_millis()
    );
    ExitCode::from(u8::from(!is_right))
}
