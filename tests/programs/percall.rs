//! What a call of the allocator costs: the measured loops themselves, so that anything can be
//! preloaded. Owns no judgement; `guard-figures` compares.
//!
//! Without arguments every scenario is run, and printed as `name nanoseconds` per call (a malloc
//! and its free are two calls): the shortest of many short rounds, which a busy machine disturbs
//! least. `quick` makes fewer of them. `once NAME N` runs N steps of one scenario and prints
//! nothing, for a counter of instructions.

use std::{
    ffi::c_void,
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

/// Live objects of the mix.
const LIVE: usize = 64;
/// Objects of a batch.
const BATCH: usize = 1000;
/// Calls between two looks at the clock, about.
const CALLS_PER_ROUND: usize = 20_000;

/// Called through pointers that the compiler can't see through, or it would leave out a pair of
/// malloc and free.
#[derive(Clone, Copy)]
struct Allocator {
    malloc: unsafe extern "C" fn(usize) -> *mut c_void,
    calloc: unsafe extern "C" fn(usize, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
}

/// Does a number of steps.
type Work = fn(&Allocator, &mut Scratch, usize);

struct Scenario {
    name: &'static str,
    calls_per_step: usize,
    work: Work,
}

const SCENARIOS: [Scenario; 5] = [
    Scenario {
        name: "pair-160",
        calls_per_step: 2,
        work: |allocator, _, steps| pairs(allocator, steps, 160),
    },
    Scenario {
        name: "batch-160",
        calls_per_step: 2 * BATCH,
        work: batches,
    },
    Scenario {
        name: "calloc-168",
        calls_per_step: 2,
        work: zeroed_pairs,
    },
    Scenario {
        name: "pair-64",
        calls_per_step: 2,
        work: |allocator, _, steps| pairs(allocator, steps, 64),
    },
    Scenario {
        name: "mix",
        calls_per_step: 2,
        work: mix,
    },
];

/// Room that is there before the first measured call.
struct Scratch {
    batch: Vec<*mut c_void>,
    live: [*mut c_void; LIVE],
    /// Which object is replaced, and by how many bytes.
    requests: Vec<(usize, usize)>,
}

impl Scratch {
    fn new() -> Scratch {
        // Sizes of a program's small objects: many below 100 bytes, a tail up to 4 KiB, one in
        // sixteen of the watched class.
        const SIZES: [usize; 16] = [
            16, 24, 24, 32, 32, 40, 48, 48, 64, 72, 88, 120, 160, 232, 520, 4096,
        ];
        let mut random = 1_u64;
        let mut below = |limit: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 20) as usize % limit
        };
        Scratch {
            batch: vec![std::ptr::null_mut(); BATCH],
            live: [std::ptr::null_mut(); LIVE],
            requests: (0..4096)
                .map(|_| (below(LIVE), SIZES[below(SIZES.len())]))
                .collect(),
        }
    }
}

fn pairs(allocator: &Allocator, steps: usize, size: usize) {
    let Allocator { malloc, free, .. } = *allocator;
    for _ in 0..steps {
        // SAFETY: the contracts of malloc(3).
        unsafe { free(malloc(size)) };
    }
}

fn zeroed_pairs(allocator: &Allocator, _: &mut Scratch, steps: usize) {
    let Allocator { calloc, free, .. } = *allocator;
    for _ in 0..steps {
        // SAFETY: the contracts of malloc(3).
        unsafe { free(calloc(1, 168)) };
    }
}

fn batches(allocator: &Allocator, scratch: &mut Scratch, steps: usize) {
    for _ in 0..steps {
        for object in &mut scratch.batch {
            // SAFETY: malloc takes any size.
            *object = unsafe { (allocator.malloc)(160) };
        }
        for object in &scratch.batch {
            // SAFETY: made above, freed once.
            unsafe { (allocator.free)(*object) };
        }
    }
}

fn mix(allocator: &Allocator, scratch: &mut Scratch, steps: usize) {
    let requests = scratch.requests.iter().cycle();
    for (place, size) in requests.take(steps) {
        let object = &mut scratch.live[*place];
        // SAFETY: null or a live object of ours; the new one has room for a word.
        unsafe {
            (allocator.free)(*object);
            *object = (allocator.malloc)(*size);
            object.cast::<usize>().write(*size);
        }
    }
}

/// The shortest of `rounds` rounds in this thread; `start` is called before each.
fn shortest(
    allocator: &Allocator,
    work: Work,
    steps: usize,
    rounds: usize,
    start: impl Fn(usize),
) -> Duration {
    let mut scratch = Scratch::new();
    // What is touched for the first time is not the cost of a call.
    work(allocator, &mut scratch, steps);
    let mut shortest = Duration::MAX;
    for round in 0..rounds {
        start(round);
        let began = Instant::now();
        work(allocator, &mut scratch, steps);
        shortest = shortest.min(began.elapsed());
    }
    shortest
}

/// The same on two threads that begin each round together; the slower one counts.
fn shortest_of_two(allocator: &Allocator, work: Work, steps: usize, rounds: usize) -> Duration {
    let arrived = AtomicUsize::new(0);
    let start = |round: usize| {
        arrived.fetch_add(1, SeqCst);
        while arrived.load(SeqCst) < (round + 1) * 2 {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        let threads =
            [(); 2].map(|()| scope.spawn(|| shortest(allocator, work, steps, rounds, start)));
        let [one, other] = threads.map(|thread| thread.join().expect("it does not panic"));
        one.max(other)
    })
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let allocator = black_box(Allocator {
        malloc: libc::malloc,
        calloc: libc::calloc,
        free: libc::free,
    });
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let rounds = match *words {
        ["once", name, steps] => {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
            let scenario = scenario.expect("a scenario's name");
            let steps = steps.parse().expect("a number of steps");
            (scenario.work)(&allocator, &mut Scratch::new(), steps);
            return;
        }
        ["quick"] => 60,
        [] => 300,
        _ => panic!("usage: percall [quick | once NAME STEPS]"),
    };
    let print = |scenario: &Scenario, suffix: &str, steps: usize, shortest: Duration| {
        let calls = (steps * scenario.calls_per_step) as f64;
        let per_call = shortest.as_nanos() as f64 / calls;
        println!("{}{suffix} {per_call:.4}", scenario.name);
    };
    let steps = |scenario: &Scenario| CALLS_PER_ROUND / scenario.calls_per_step;
    // First all that belongs to a process of one thread: glibc goes without locks there, until the
    // first thread is made.
    for scenario in &SCENARIOS {
        let steps = steps(scenario);
        let shortest = shortest(&allocator, scenario.work, steps, rounds, |_| ());
        print(scenario, "", steps, shortest);
    }
    for scenario in &SCENARIOS {
        let steps = steps(scenario);
        let shortest = shortest_of_two(&allocator, scenario.work, steps, rounds);
        print(scenario, "-2-threads", steps, shortest);
    }
}
