//! Leaks objects of one size on several threads, amid churn, threads that end, forks, vforks and
//! spawns, and proves that every one of them is still what was written to it, to the last byte.
//!
//! Owns its bookkeeping: eight bytes an object in a *shared* mapping, so that `RssAnon` is the
//! allocator's (but for stacks and a few pages) and can be compared between allocators. Contents
//! are computed again from index and seed, never kept.
//!
//! Arguments are `name=value`: `size` of the leaked objects in bytes (16 to 1024), `mib` to leak in
//! all, `threads`, `seconds` that the load goes on (the leak takes the first half), `seed`, `fork`
//! (`on`, `off`), `mix` of contents (`all`, `identical`, `pointers`, `random`), `fault` (`none`;
//! `object` and `child` break something on purpose: the program must find it).
//!
//! One line of `name=value` on stdout. Exit status: 0 all is right, 1 something is wrong, 2 it
//! refuses the arguments, 3 it took more memory than it may, 4 it did not get done in time.

use std::{
    ffi::{CString, c_char, c_int, c_void},
    hint::black_box,
    os::unix::ffi::OsStrExt,
    ptr::{null, null_mut},
    sync::atomic::{
        AtomicBool, AtomicU64, AtomicUsize,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::{Duration, Instant},
};

const MIB: usize = 1 << 20;
const MAX_MIB: usize = 6 * 1024;
const MAX_THREADS: usize = 32;
/// One of so many leaked objects is read all the time.
const HOT_EVERY: usize = 1000;
/// Objects in a row with contents of the same kind.
const RUN_OF_A_KIND: usize = 4096;
/// Live objects of the churn, shared by all threads.
const SLOTS: usize = 4096;
const BURST: usize = 256;
/// Bursts in the life of a thread.
const BURSTS_PER_LIFE: usize = 64;
/// A child that takes longer hangs.
const CHILD_DEADLINE_S: u32 = 60;
const STORM_PAUSE: Duration = Duration::from_millis(10);

/// The allocator through pointers that the compiler can't see through: it knows malloc's family by
/// name, and would take calloc's zeros for granted.
struct Allocator {
    malloc: unsafe extern "C" fn(usize) -> *mut c_void,
    calloc: unsafe extern "C" fn(usize, usize) -> *mut c_void,
    realloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    posix_memalign: unsafe extern "C" fn(*mut *mut c_void, usize, usize) -> c_int,
    aligned_alloc: unsafe extern "C" fn(usize, usize) -> *mut c_void,
    usable_size: unsafe extern "C" fn(*mut c_void) -> usize,
    free: unsafe extern "C" fn(*mut c_void),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Identical,
    /// Addresses of other leaked objects, and small integers.
    Pointers,
    Random,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Object,
    Child,
}

struct Options {
    size: usize,
    mib: usize,
    threads: usize,
    seconds: u64,
    seed: u64,
    fork: bool,
    /// `None`: all in turn.
    mix: Option<Kind>,
    fault: Fault,
}

/// What was done and what was wrong.
#[derive(Default)]
struct Tally {
    /// Requests of the class of the leaked objects.
    class_calls: u64,
    /// Of objects of the class by realloc to a size of the class.
    class_moves: u64,
    churned: u64,
    hot_reads: u64,
    wrong_reads: u64,
    /// Not aligned to 16 bytes, or smaller than asked for.
    misplaced: u64,
    not_zeroed: u64,
    /// Null.
    refused: u64,
}

impl Tally {
    const ZERO: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

    fn fields(&mut self) -> [&mut u64; 8] {
        [
            &mut self.class_calls,
            &mut self.class_moves,
            &mut self.churned,
            &mut self.hot_reads,
            &mut self.wrong_reads,
            &mut self.misplaced,
            &mut self.not_zeroed,
            &mut self.refused,
        ]
    }

    fn add_to(mut self, total: &[AtomicU64; 8]) {
        for (total, field) in total.iter().zip(self.fields()) {
            total.fetch_add(*field, Relaxed);
        }
    }

    fn of(total: &[AtomicU64; 8]) -> Tally {
        let mut tally = Tally::default();
        for (total, field) in total.iter().zip(tally.fields()) {
            *field = total.load(Relaxed);
        }
        tally
    }
}

/// The part of the leaked objects that one thread at a time makes.
#[repr(align(64))]
struct Lane {
    /// Objects that are made, written and entered in the table.
    published: AtomicUsize,
}

static LANES: [Lane; MAX_THREADS] = [const {
    Lane {
        published: AtomicUsize::new(0),
    }
}; MAX_THREADS];

/// Live objects of the churn: address and size, see [`pack`]. Whoever swaps one out owns it.
static CHURN: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];

struct World {
    options: Options,
    allocator: Allocator,
    per_lane: usize,
    /// Addresses of the leaked objects; those of a lane lie together.
    table: &'static [AtomicUsize],
    began: Instant,
    total: [AtomicU64; 8],
    threads_started: AtomicU64,
    load_is_over: AtomicBool,
}

/// A well mixed word (SplitMix64's last step).
fn mixed(seed: u64) -> u64 {
    let x = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(1);
        (mixed(self.0) % limit as u64) as usize
    }
}

/// Writes `len` bytes: word after word, the last one in part.
///
/// # Safety
/// `object` can be written for `len` bytes and is aligned to 8.
unsafe fn fill(object: *mut u8, len: usize, word: impl Fn(usize) -> u64) {
    // SAFETY: the caller's promise; no write goes beyond `len`.
    unsafe {
        for number in 0..len / 8 {
            object.cast::<u64>().add(number).write(word(number));
        }
        let rest = word(len / 8).to_ne_bytes();
        object
            .add(len / 8 * 8)
            .copy_from_nonoverlapping(rest.as_ptr(), len % 8);
    }
}

/// Are these the bytes that [`fill`] wrote?
///
/// # Safety
/// `object` can be read for `len` bytes and is aligned to 8.
unsafe fn holds(object: *const u8, len: usize, word: impl Fn(usize) -> u64) -> bool {
    // SAFETY: the caller's promise; no read goes beyond `len`. Volatile: the compiler must not keep
    // what it saw written.
    unsafe {
        let words = (0..len / 8)
            .all(|number| object.cast::<u64>().add(number).read_volatile() == word(number));
        let rest = word(len / 8).to_ne_bytes();
        let tail = object.add(len / 8 * 8);
        words && (0..len % 8).all(|at| tail.add(at).read_volatile() == rest[at])
    }
}

/// Contents of an object of the churn at this address.
fn churn_word(address: usize, size: usize) -> impl Fn(usize) -> u64 {
    let base = mixed((address ^ (size << 48)) as u64);
    move |number| mixed(base ^ number as u64)
}

/// Addresses of programs have 47 bits, sizes here fewer than 16.
fn pack(address: usize, size: usize) -> u64 {
    (address as u64) << 16 | size as u64
}

fn unpack(packed: u64) -> Option<(*mut u8, usize)> {
    (packed != 0).then_some((
        (packed >> 16) as usize as *mut u8,
        (packed & 0xFFFF) as usize,
    ))
}

/// One thread's, or one forked child's, dealings with the allocator.
struct Hand<'a> {
    world: &'a World,
    random: Random,
    tally: Tally,
}

impl Hand<'_> {
    fn class_has(&self, size: usize) -> bool {
        // glibc's rule, which names the guard's classes: 8 bytes more, rounded up to 16.
        let chunk = |size: usize| (size + 8).next_multiple_of(16).max(32);
        chunk(size) == chunk(self.world.options.size)
    }

    /// A size that is asked for now.
    fn asked(&mut self, size: usize) -> usize {
        self.tally.class_calls += u64::from(self.class_has(size));
        size
    }

    /// A new object by one of the functions; `how` may be any number. Null is counted.
    fn make(&mut self, size: usize, how: u64) -> *mut u8 {
        let allocator = &self.world.allocator;
        self.asked(size);
        // SAFETY: the contracts of malloc(3) and posix_memalign(3).
        let object = unsafe {
            match how % 20 {
                0..=8 => (allocator.malloc)(size),
                9..=13 => {
                    let object = if how & 32 == 0 || size % 8 != 0 {
                        (allocator.calloc)(1, size)
                    } else {
                        (allocator.calloc)(size / 8, 8)
                    };
                    if !object.is_null() && !holds(object.cast(), size, |_| 0) {
                        self.tally.not_zeroed += 1;
                    }
                    object
                }
                14..=16 => self.regrown(size, (size / 4).max(16)),
                17 => self.regrown(size, size * 3),
                18 => {
                    let mut object = null_mut();
                    (allocator.posix_memalign)(&raw mut object, 16, size);
                    object
                }
                _ => (allocator.aligned_alloc)(16, size),
            }
        };
        self.judge(object.cast(), size)
    }

    /// An object that began with another size; what fits of its contents must be kept.
    ///
    /// # Safety
    /// None beyond the allocator's.
    unsafe fn regrown(&mut self, size: usize, from: usize) -> *mut c_void {
        let allocator = &self.world.allocator;
        let from = self.asked(from);
        // SAFETY: the contracts of malloc(3); the first object ends with the call of realloc.
        unsafe {
            let first = (allocator.malloc)(from).cast::<u8>();
            if first.is_null() {
                return null_mut();
            }
            let word = churn_word(first.addr(), from);
            fill(first, from, &word);
            let object = (allocator.realloc)(first.cast(), size);
            if !object.is_null() && !holds(object.cast(), from.min(size) & !7, &word) {
                self.tally.wrong_reads += 1;
            }
            object
        }
    }

    fn judge(&mut self, object: *mut u8, size: usize) -> *mut u8 {
        if object.is_null() {
            self.tally.refused += 1;
            return object;
        }
        // SAFETY: a live object.
        let usable = unsafe { (self.world.allocator.usable_size)(object.cast()) };
        if !object.addr().is_multiple_of(16) || usable < size {
            self.tally.misplaced += 1;
        }
        object
    }

    fn leak_one(&mut self, lane: usize) {
        let world = self.world;
        let number = LANES[lane].published.load(Relaxed);
        let index = lane * world.per_lane + number;
        let object = self.make(world.options.size, mixed(world.options.seed ^ index as u64));
        if object.is_null() {
            return;
        }
        // SAFETY: a new object of this size, ours alone.
        unsafe { fill(object, world.options.size, |word| world.word(index, word)) };
        world.table[index].store(object.addr(), Relaxed);
        LANES[lane].published.store(number + 1, Release);
    }

    /// Makes an object of the class or about it, and ends or changes another, most likely one that
    /// another thread has made.
    fn churn(&mut self) {
        let size = match self.random.below(10) {
            0..5 => {
                let class_top = (self.world.options.size + 8).next_multiple_of(16).max(32) - 8;
                class_top - self.random.below(8)
            }
            5..9 => (self.world.options.size + self.random.below(128)).saturating_sub(64),
            _ => self.random.below(4000),
        }
        .max(16);
        self.tally.churned += 1;
        let slot = &CHURN[self.random.below(SLOTS)];
        if self.random.below(4) == 0 {
            let object = self.taken(slot).and_then(|old| self.changed(old, size));
            if let Some(object) = object {
                self.put(slot, object, size);
            }
        } else {
            let how = self.random.below(64) as u64;
            let object = self.make(size, how);
            if !object.is_null() {
                self.put(slot, object, size);
            }
        }
    }

    /// An object out of its slot, checked.
    fn taken(&mut self, slot: &AtomicU64) -> Option<(*mut u8, usize)> {
        let (object, size) = unpack(slot.swap(0, AcqRel))?;
        self.check(object, size);
        Some((object, size))
    }

    fn check(&mut self, object: *mut u8, size: usize) {
        // SAFETY: a live object of that size: it came out of a slot, and so is ours alone.
        if !unsafe { holds(object, size, churn_word(object.addr(), size)) } {
            self.tally.wrong_reads += 1;
        }
    }

    fn changed(&mut self, (old, old_size): (*mut u8, usize), size: usize) -> Option<*mut u8> {
        if self.class_has(old_size) && self.class_has(size) {
            self.tally.class_moves += 1;
        } else {
            self.asked(size);
        }
        let word = churn_word(old.addr(), old_size);
        // SAFETY: a live object that is ours alone; after a failure it still is.
        unsafe {
            let object = (self.world.allocator.realloc)(old.cast(), size).cast::<u8>();
            if self.judge(object, size).is_null() {
                (self.world.allocator.free)(old.cast());
                return None;
            }
            if !holds(object, old_size.min(size) & !7, &word) {
                self.tally.wrong_reads += 1;
            }
            Some(object)
        }
    }

    /// Writes the object, puts it in the slot, and frees the one that was there.
    fn put(&mut self, slot: &AtomicU64, object: *mut u8, size: usize) {
        // SAFETY: a live object of that size that is ours alone; so is the one swapped out.
        unsafe {
            fill(object, size, churn_word(object.addr(), size));
            if let Some((old, old_size)) = unpack(slot.swap(pack(object.addr(), size), AcqRel)) {
                self.check(old, old_size);
                (self.world.allocator.free)(old.cast());
            }
        }
    }

    fn empty_slots(&mut self, slots: &[AtomicU64]) {
        for slot in slots {
            if let Some((object, _)) = self.taken(slot) {
                // SAFETY: it came out of the slot.
                unsafe { (self.world.allocator.free)(object.cast()) };
            }
        }
    }

    fn is_clean(&self) -> bool {
        let tally = &self.tally;
        tally.wrong_reads + tally.misplaced + tally.not_zeroed + tally.refused == 0
    }
}

impl World {
    fn kind(&self, index: usize) -> Kind {
        self.options.mix.unwrap_or(match index / RUN_OF_A_KIND % 3 {
            0 => Kind::Identical,
            1 => Kind::Pointers,
            _ => Kind::Random,
        })
    }

    /// A word of a leaked object. Those with pointers point to earlier objects of their lane, which
    /// are in the table.
    fn word(&self, index: usize, word: usize) -> u64 {
        let seed = self.options.seed;
        let hash = || mixed(mixed(seed ^ index as u64) ^ word as u64);
        match self.kind(index) {
            Kind::Identical => mixed(seed ^ word as u64),
            Kind::Random => hash(),
            Kind::Pointers => {
                let earlier = index % self.per_lane;
                let back = match word % 16 {
                    _ if earlier == 0 => 0,
                    // Near ones for the most part, as in a list.
                    0 | 4 | 8 | 12 => 1 + hash() as usize % earlier.min(64),
                    5 => 1 + hash() as usize % earlier,
                    _ => 0,
                };
                match back {
                    0 => 1 + hash() % 1000,
                    back => self.table[index - back].load(Relaxed) as u64,
                }
            }
        }
    }

    fn is_intact(&self, index: usize) -> bool {
        let object = self.table[index].load(Relaxed) as *const u8;
        // SAFETY: a published object: never freed, never written again.
        unsafe { holds(object, self.options.size, |word| self.word(index, word)) }
    }

    fn hand(&self, number: u64) -> Hand<'_> {
        Hand {
            world: self,
            random: Random(mixed(self.options.seed.wrapping_add(number) ^ 0xC0FFEE)),
            tally: Tally::default(),
        }
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Objects that a lane should have by now.
    fn due(&self) -> usize {
        let half_ms = u128::from(self.options.seconds) * 500;
        let now_ms = self.elapsed().as_millis();
        if now_ms >= half_ms {
            return self.per_lane;
        }
        (self.per_lane as u128 * now_ms / half_ms) as usize
    }

    fn is_done(&self, lane: usize) -> bool {
        self.elapsed().as_secs() >= self.options.seconds
            && LANES[lane].published.load(Relaxed) == self.per_lane
    }

    /// The load of one thread, from its begin to its end.
    fn live(&self, lane: usize) {
        let mut hand = self.hand(self.threads_started.fetch_add(1, Relaxed));
        for _ in 0..BURSTS_PER_LIFE {
            if self.is_done(lane) {
                break;
            }
            let due = self.due();
            let before = LANES[lane].published.load(Relaxed);
            for _ in 0..BURST {
                if LANES[lane].published.load(Relaxed) < due {
                    hand.leak_one(lane);
                }
                hand.churn();
            }
            if LANES[lane].published.load(Relaxed) == before {
                // Nothing is due: a bounded load.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        hand.tally.add_to(&self.total);
    }

    /// Reads the hot objects until the load is over, and watches over memory and time.
    fn read_hot(&self) {
        let mut tally = Tally::default();
        // Garbage and the tables of forked children come on top of what is leaked.
        let most_kib = (self.options.mib * 5 / 4 + 256) * 1024;
        let latest_s = self.options.seconds * 4 + 120;
        while !self.load_is_over.load(Acquire) {
            for (number, lane) in LANES.iter().enumerate() {
                for at in (0..lane.published.load(Acquire)).step_by(HOT_EVERY) {
                    tally.hot_reads += 1;
                    tally.wrong_reads += u64::from(!self.is_intact(number * self.per_lane + at));
                }
            }
            give_up_if(rss_anon_kib() > most_kib, 3, "more memory than it may take");
            give_up_if(self.elapsed().as_secs() > latest_s, 4, "not done in time");
            std::thread::sleep(Duration::from_millis(2));
        }
        tally.add_to(&self.total);
    }

    /// What a forked child does: reads objects that were there before the fork, ends some of the
    /// churn (its own copies), makes some of its own.
    fn child(&self, published: &[usize; MAX_THREADS], number: u64) -> bool {
        let mut hand = self.hand(number ^ 0xF0_0000);
        let mut right = !(self.options.fault == Fault::Child && number == 1);
        for (lane, published) in published.iter().enumerate().filter(|lane| *lane.1 > 0) {
            for _ in 0..100 {
                right &= self.is_intact(lane * self.per_lane + hand.random.below(*published));
            }
        }
        let first = hand.random.below(SLOTS - 64);
        hand.empty_slots(&CHURN[first..first + 64]);
        for _ in 0..200 {
            hand.churn();
        }
        right && hand.is_clean()
    }
}

fn give_up_if(condition: bool, status: i32, why: &str) {
    if condition {
        eprintln!("leaker: {why}");
        std::process::exit(status);
    }
}

/// What became of the children.
#[derive(Default)]
struct Children {
    forks: u64,
    vforks: u64,
    spawns: u64,
    bad: u64,
}

impl Children {
    /// Waits for a child; anything but exit status 0 is bad, and so is one that was never made.
    fn wait(&mut self, pid: libc::pid_t) {
        let mut status = 0;
        // SAFETY: a child of ours that nobody else waits for.
        let ended = pid > 0 && unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid;
        if !ended || status != 0 {
            eprintln!("leaker: child {pid}: status {status:#x}");
            self.bad += 1;
        }
    }
}

/// Forks, vforks and spawns, round after round, until the load is over.
fn storm(world: &World, children: &mut Children) {
    let own = std::env::current_exe().expect("/proc/self/exe");
    let own = CString::new(own.as_os_str().as_bytes()).expect("a path");
    let arguments: [*const c_char; 3] = [own.as_ptr(), c"child".as_ptr(), null()];
    unsafe extern "C" {
        static environ: *const *mut c_char;
    }
    while !world.load_is_over.load(Acquire) {
        let began = Instant::now();
        // Read before the fork: the table is shared with the child and grows on.
        let published = std::array::from_fn(|lane| LANES[lane].published.load(Acquire));
        let forked = [0, 1].map(|_| {
            children.forks += 1;
            // SAFETY: the child calls the allocator, which fork leaves usable, and _exit.
            unsafe {
                let pid = libc::fork();
                if pid == 0 {
                    libc::alarm(CHILD_DEADLINE_S);
                    let right = world.child(&published, children.forks);
                    libc::_exit(c_int::from(!right));
                }
                pid
            }
        });
        for exec in [false, true] {
            children.vforks += 1;
            // SAFETY: the child makes one call that doesn't touch memory of ours.
            #[allow(deprecated)]
            let pid = unsafe {
                let pid = libc::vfork();
                if pid == 0 {
                    if exec {
                        libc::execve(own.as_ptr(), arguments.as_ptr(), environ.cast());
                    }
                    libc::_exit(c_int::from(exec));
                }
                pid
            };
            children.wait(pid);
        }
        children.spawns += 1;
        let mut spawned = 0;
        // SAFETY: terminated strings and lists.
        let failed = unsafe {
            libc::posix_spawn(
                &raw mut spawned,
                own.as_ptr(),
                null(),
                null(),
                arguments.as_ptr().cast(),
                environ,
            )
        };
        children.wait(if failed == 0 { spawned } else { -1 });
        for pid in forked {
            children.wait(pid);
        }
        // A bounded rate: at least half of the time without.
        std::thread::sleep(began.elapsed().max(STORM_PAUSE));
    }
}

/// Resident anonymous memory of this process, without the help of an allocator.
fn rss_anon_kib() -> usize {
    let mut buffer = [0_u8; 4096];
    // SAFETY: at most the buffer's length is read.
    let len = unsafe {
        let file = libc::open(
            c"/proc/self/status".as_ptr(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        );
        let len = libc::read(file, buffer.as_mut_ptr().cast(), buffer.len());
        libc::close(file);
        len
    };
    let text = std::str::from_utf8(&buffer[..usize::try_from(len).expect("/proc")]);
    let line = text
        .expect("text")
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.trim().split(' ').next());
    number
        .and_then(|number| number.parse().ok())
        .expect("RssAnon")
}

/// Zeroed words that no allocator knows of, in shared memory: no part of RssAnon.
fn shared_words(count: usize) -> &'static [AtomicUsize] {
    // SAFETY: a new mapping, never unmapped; zero is a value of AtomicUsize.
    unsafe {
        let mapping = libc::mmap(
            null_mut(),
            count * size_of::<AtomicUsize>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(mapping, libc::MAP_FAILED, "no room for the bookkeeping");
        std::slice::from_raw_parts(mapping.cast(), count)
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        size: 160,
        mib: 64,
        threads: 4,
        seconds: 2,
        seed: 1,
        fork: true,
        mix: None,
        fault: Fault::None,
    };
    for argument in std::env::args().skip(1) {
        let wrong = || format!("{argument:?}?");
        let (name, value) = argument.split_once('=').ok_or_else(wrong)?;
        let number = |low: usize, high: usize| {
            let number = value.parse().ok().filter(|n| (low..=high).contains(n));
            number.ok_or_else(|| format!("{argument:?}: not in {low}..={high}"))
        };
        match (name, value) {
            ("size", _) => options.size = number(16, 1024)?,
            ("mib", _) => options.mib = number(1, MAX_MIB)?,
            ("threads", _) => options.threads = number(1, MAX_THREADS)?,
            ("seconds", _) => options.seconds = number(0, 24 * 3600)? as u64,
            ("seed", _) => options.seed = number(0, usize::MAX)? as u64,
            ("fork", "on") => options.fork = true,
            ("fork", "off") => options.fork = false,
            ("mix", "all") => options.mix = None,
            ("mix", "identical") => options.mix = Some(Kind::Identical),
            ("mix", "pointers") => options.mix = Some(Kind::Pointers),
            ("mix", "random") => options.mix = Some(Kind::Random),
            ("fault", "none") => options.fault = Fault::None,
            ("fault", "object") => options.fault = Fault::Object,
            ("fault", "child") => options.fault = Fault::Child,
            _ => return Err(wrong()),
        }
    }
    Ok(options)
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("child") {
        // What vfork and posix_spawn start.
        return;
    }
    let options = options().unwrap_or_else(|why| {
        eprintln!("leaker: {why}");
        std::process::exit(2);
    });
    let per_lane = options.mib * MIB / options.size / options.threads;
    let world = World {
        allocator: black_box(Allocator {
            malloc: libc::malloc,
            calloc: libc::calloc,
            realloc: libc::realloc,
            posix_memalign: libc::posix_memalign,
            aligned_alloc: libc::aligned_alloc,
            usable_size: libc::malloc_usable_size,
            free: libc::free,
        }),
        per_lane,
        table: shared_words(per_lane * options.threads),
        options,
        began: Instant::now(),
        total: Tally::ZERO,
        threads_started: AtomicU64::new(0),
        load_is_over: AtomicBool::new(false),
    };
    let world = &world;
    let threads = world.options.threads;
    let mut children = Children::default();

    std::thread::scope(|scope| {
        scope.spawn(|| world.read_hot());
        if world.options.fork {
            scope.spawn(|| storm(world, &mut children));
        }
        std::thread::scope(|scope| {
            for lane in 0..threads {
                scope.spawn(move || {
                    while !world.is_done(lane) {
                        // One thread after the other; their objects live on.
                        std::thread::scope(|scope| {
                            scope.spawn(|| world.live(lane));
                        });
                    }
                });
            }
        });
        world.load_is_over.store(true, Release);
    });

    let resident_kib = rss_anon_kib();
    let load_s = world.elapsed().as_secs_f64();
    if world.options.fault == Fault::Object {
        let object = world.table[world.table.len() / 2 + 7].load(Relaxed) as *mut u8;
        // SAFETY: a published object; nobody else is there any more.
        unsafe { *object.add(world.options.size - 1) ^= 1 };
    }
    let mut hand = world.hand(u64::MAX);
    hand.empty_slots(&CHURN);
    hand.tally.add_to(&world.total);
    std::thread::scope(|scope| {
        for lane in 0..threads {
            scope.spawn(move || {
                let range = lane * per_lane..(lane + 1) * per_lane;
                let wrong = range.filter(|index| !world.is_intact(*index)).count();
                let tally = Tally {
                    wrong_reads: wrong as u64,
                    ..Tally::default()
                };
                tally.add_to(&world.total);
            });
        }
    });
    let overlaps = overlaps(world);

    let tally = Tally::of(&world.total);
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc");
    println!(
        "size={} mib={} threads={threads} guard={} leaked={} churned={} class_calls={} class_moves={} \
         hot_reads={} wrong_reads={} overlaps={overlaps} misplaced={} not_zeroed={} refused={} \
         forks={} vforks={} spawns={} bad_children={} threads_started={} resident_kib={resident_kib} \
         seconds={load_s:.1} all_seconds={:.1}",
        world.options.size,
        world.options.mib,
        if maps.contains("libclaude_guard") {
            "yes"
        } else {
            "no"
        },
        world.table.len(),
        tally.churned,
        tally.class_calls,
        tally.class_moves,
        tally.hot_reads,
        tally.wrong_reads,
        tally.misplaced,
        tally.not_zeroed,
        tally.refused,
        children.forks,
        children.vforks,
        children.spawns,
        children.bad,
        world.threads_started.load(Relaxed),
        world.elapsed().as_secs_f64(),
    );
    let wrong = tally.wrong_reads + tally.misplaced + tally.not_zeroed + tally.refused;
    std::process::exit(i32::from(wrong + overlaps + children.bad != 0));
}

/// Leaked objects that lie in one another: identical ones would pass for each other. Sorts the
/// table, which is of no other use afterwards.
fn overlaps(world: &World) -> u64 {
    // SAFETY: no other thread is there any more; an AtomicUsize is a usize in memory, and the
    // mapping is writable.
    let addresses = unsafe {
        let table = world.table;
        std::slice::from_raw_parts_mut(table.as_ptr().cast_mut().cast::<usize>(), table.len())
    };
    addresses.sort_unstable();
    let pairs = addresses.windows(2);
    pairs
        .filter(|pair| pair[1] - pair[0] < world.options.size)
        .count() as u64
}
