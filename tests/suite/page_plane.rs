//! The page plane: its map against a model, its queue under every order of steps, the guard in
//! programs that map memory, and the real clients.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use claude_safe_tests::clients::{prepare_home, set_up};
use claude_safe_tests::mock::Scenario;
use claude_safe_tests::{Isolated, Sandbox, artifacts, proc_view, real_client, skip, wait_until};

#[path = "../../guard/src/page_events.rs"]
mod page_events;
#[path = "../../guard/src/page_map.rs"]
mod page_map;
#[path = "../../guard/src/stats_page.rs"]
#[allow(missing_docs)]
mod stats_page;

use page_map::{Event, PageMap, Range, Request, classify};
use stats_page::{RegionKind, Snapshot, State};

const PROBE: &str = env!("CARGO_BIN_EXE_page-probe");
const PATIENCE: Duration = Duration::from_secs(120);
const PAGE: usize = 4096;

// The map against a model

/// The same in the simplest form: the kind of each page that is mapped.
#[derive(Default)]
struct Model {
    pages: BTreeMap<usize, RegionKind>,
    /// Extent of the region that each page is of, as the calls made it.
    owner: BTreeMap<usize, u64>,
    owners: u64,
}

impl Model {
    fn set(&mut self, range: std::ops::Range<usize>, kind: RegionKind) {
        resplit(self, &range);
        self.owners += 1;
        for page in range {
            self.pages.insert(page, kind);
            self.owner.insert(page, self.owners);
        }
    }

    fn clear(&mut self, range: std::ops::Range<usize>) {
        resplit(self, &range);
        for page in range {
            self.pages.remove(&page);
            self.owner.remove(&page);
        }
    }

    /// Runs of pages of one region: start, end, kind.
    fn regions(&self) -> Vec<(usize, usize, RegionKind)> {
        let mut runs: Vec<(usize, usize, RegionKind, u64)> = Vec::new();
        for (&page, &kind) in &self.pages {
            let owner = self.owner[&page];
            match runs.last_mut() {
                Some(run) if run.1 == page && run.3 == owner => run.1 = page + 1,
                _ => runs.push((page, page + 1, kind, owner)),
            }
        }
        runs.into_iter()
            .map(|(start, end, kind, _)| (start * PAGE, end * PAGE, kind))
            .collect()
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

const KINDS: [RegionKind; 4] = [
    RegionKind::Arena,
    RegionKind::JsHeap,
    RegionKind::Stack,
    RegionKind::Other,
];

fn bytes(range: &std::ops::Range<usize>) -> Range {
    Range {
        start: range.start * PAGE,
        end: range.end * PAGE,
    }
}

/// One random call, in the map and in the model.
fn call<const N: usize>(
    random: &mut Random,
    token: &mut u64,
    map: &mut PageMap<N>,
    model: &mut Model,
) {
    const SPACE: usize = 600;
    let mut range = || {
        let start = 1 + random.below(SPACE);
        start..start + 1 + random.below(24)
    };
    let (at, other) = (range(), range());
    *token += 1;
    let token = *token;
    match random.below(8) {
        0..=2 => {
            let kind = KINDS[random.below(4)];
            let fixed = random.below(2) == 0;
            map.apply(Event::Mapped {
                at: bytes(&at),
                kind,
                fixed,
            });
            let owner = model.owner.get(&at.start).copied();
            let inside =
                owner.is_some() && at.clone().all(|p| model.owner.get(&p).copied() == owner);
            let plain = matches!(kind, RegionKind::Arena | RegionKind::Other);
            if !(fixed && inside && (plain || model.pages[&at.start] == kind)) {
                model.set(at, kind);
            }
        }
        3 => {
            map.apply(Event::Taken {
                at: bytes(&at),
                token,
                moves: false,
            });
            model.clear(at);
        }
        4 => {
            map.apply(Event::Replaced { at: bytes(&at) });
            model.clear(at);
        }
        // A call that fails: all is as it was. Meanwhile another one maps something elsewhere.
        5 => {
            let moves = random.below(2) == 0;
            map.apply(Event::Taken {
                at: bytes(&at),
                token,
                moves,
            });
            map.apply(Event::Restored { token, moves });
            // What was cut in two by the taking is two regions now.
            resplit(model, &at);
        }
        6 => remap(random, token, map, model, at, other),
        _ => {
            map.apply(Event::Executable { at: bytes(&at) });
            let owners: Vec<u64> = at.filter_map(|p| model.owner.get(&p).copied()).collect();
            for (page, kind) in &mut model.pages {
                if *kind == RegionKind::Other && owners.contains(&model.owner[page]) {
                    *kind = RegionKind::JsHeap;
                }
            }
        }
    }
}

/// The parts of regions inside `at`, and those behind it, become regions of their own.
fn resplit(model: &mut Model, at: &std::ops::Range<usize>) {
    let mut names: BTreeMap<(u64, u8), u64> = BTreeMap::new();
    for (page, owner) in &mut model.owner {
        let part = u8::from(*page >= at.start) + u8::from(*page >= at.end);
        let owners = &mut model.owners;
        *owner = *names.entry((*owner, part)).or_insert_with(|| {
            *owners += 1;
            *owners
        });
    }
}

/// mremap(2) of `from` to `to`; both lengths are free, so it shrinks, grows, moves, or stays.
fn remap<const N: usize>(
    random: &mut Random,
    token: u64,
    map: &mut PageMap<N>,
    model: &mut Model,
    from: std::ops::Range<usize>,
    to: std::ops::Range<usize>,
) {
    let in_place = random.below(3) == 0;
    let mut to = to;
    if in_place {
        to = from.start..from.start + to.len();
    } else if from.start < to.end && to.start < from.end {
        // Refused by the kernel.
        return;
    }
    // MREMAP_DONTUNMAP wants both lengths equal.
    let kept = !in_place && from.len() == to.len();
    map.apply(Event::Taken {
        at: bytes(&from),
        token,
        moves: true,
    });
    map.apply(Event::Moved {
        token,
        from: bytes(&from),
        to: bytes(&to),
        kept,
    });
    resplit(model, &from);
    let old: Vec<(usize, RegionKind, u64)> = from
        .clone()
        .filter_map(|p| Some((p, *model.pages.get(&p)?, *model.owner.get(&p)?)))
        .collect();
    model.clear(from.clone());
    model.clear(to.clone());
    let mut names: BTreeMap<u64, u64> = BTreeMap::new();
    for &(page, kind, owner) in &old {
        let owners = &mut model.owners;
        let name = *names.entry(owner).or_insert_with(|| {
            *owners += 1;
            *owners
        });
        let put = |model: &mut Model, page: usize| {
            model.pages.insert(page, kind);
            model.owner.insert(page, name);
        };
        let new = page - from.start + to.start;
        if new < to.end {
            put(model, new);
        }
        if page + 1 == from.end {
            for more in to.start + from.len()..to.end {
                put(model, more);
            }
        }
        if kept {
            model.pages.insert(page, kind);
            model.owner.insert(page, owner);
        }
    }
}

fn regions_of<const N: usize>(map: &PageMap<N>) -> Vec<(usize, usize, RegionKind)> {
    map.regions()
        .iter()
        .map(|region| (region.at.start, region.at.end, region.kind))
        .collect()
}

/// Sorted, disjoint, and the totals are the sums.
fn assert_sound<const N: usize>(map: &PageMap<N>) {
    let mut behind = 0;
    let mut sums = [(0, 0, 0); 4];
    for region in map.regions() {
        assert!(region.at.start >= behind && region.at.start < region.at.end);
        behind = region.at.end;
        let sum = &mut sums[region.kind as usize];
        *sum = (
            sum.0 + 1,
            sum.1 + region.at.len(),
            sum.2 + region.resident_bytes,
        );
    }
    let totals = map.totals();
    let totals: Vec<_> = totals
        .iter()
        .map(|t| (t.regions, t.bytes, t.resident_bytes))
        .collect();
    assert_eq!(totals, sums);
}

#[test]
fn the_map_is_what_the_calls_have_made_region_by_region() {
    for seed in 1..=40 {
        let (mut random, mut token) = (Random(seed * 0x9E37), 0);
        let (mut map, mut model) = (Box::new(PageMap::<1024>::new()), Model::default());
        for number in 0..4_000 {
            call(&mut random, &mut token, &mut map, &mut model);
            if random.below(50) == 0
                && let Some(region) = map.regions().get(random.below(64)).copied()
            {
                map.set_resident(region.at, random.below(region.at.len() + 1));
            }
            assert_sound(&map);
            if number % 7 == 0 {
                assert_eq!(
                    regions_of(&map),
                    model.regions(),
                    "seed {seed} call {number}"
                );
            }
        }
        assert_eq!(map.take_lost(), 0);
    }
}

#[test]
fn a_full_map_joins_neighbours_then_counts_what_it_lost_and_stays_sound() {
    let mut map = PageMap::<8>::new();
    let map_page = |map: &mut PageMap<8>, page: usize| {
        map.apply(Event::Mapped {
            at: bytes(&(page..page + 1)),
            kind: RegionKind::Other,
            fixed: false,
        });
    };
    // Neighbours of one kind: there is room for any number.
    for page in 1..=100 {
        map_page(&mut map, page);
    }
    assert_eq!(map.take_lost(), 0);
    assert_eq!(map.totals()[RegionKind::Other as usize].bytes, 100 * PAGE);
    // Apart from each other: there isn't.
    for page in 0..20 {
        map_page(&mut map, 1000 + 2 * page);
    }
    assert!(map.take_lost() > 0);
    assert_sound(&map);
    for seed in 1..=20 {
        let (mut random, mut token) = (Random(seed * 77), 0);
        let (mut small, mut model) = (PageMap::<8>::new(), Model::default());
        let mut lost = 0;
        for _ in 0..5_000 {
            call(&mut random, &mut token, &mut small, &mut model);
            lost += small.take_lost();
            assert_sound(&small);
            if lost == 0 {
                // Joined or not, the same pages are there, of the same kinds.
                let pages: Vec<(usize, RegionKind)> = small
                    .regions()
                    .iter()
                    .flat_map(|r| (r.at.start / PAGE..r.at.end / PAGE).map(|p| (p, r.kind)))
                    .collect();
                let expected: Vec<_> = model.pages.iter().map(|(p, k)| (*p, *k)).collect();
                assert_eq!(pages, expected, "seed {seed}");
            }
        }
        assert!(lost > 0);
    }
}

#[test]
fn what_a_failed_call_took_from_many_regions_comes_back_or_is_counted() {
    for (pieces, comes_back) in [(100, true), (300, false)] {
        let mut map = Box::new(PageMap::<1024>::new());
        for piece in 0..pieces {
            map.apply(Event::Mapped {
                at: bytes(&(2 * piece + 1..2 * piece + 2)),
                kind: RegionKind::Arena,
                fixed: false,
            });
        }
        let before = regions_of(&map);
        map.apply(Event::Taken {
            at: bytes(&(1..1000)),
            token: 1,
            moves: false,
        });
        assert!(map.regions().is_empty());
        map.apply(Event::Restored {
            token: 1,
            moves: false,
        });
        assert_eq!(regions_of(&map) == before, comes_back);
        assert_eq!(map.take_lost() == 0, comes_back);
    }
}

#[test]
fn the_largest_regions_come_first() {
    let mut map = Box::new(PageMap::<256>::new());
    let mut random = Random(5);
    for number in 0..100 {
        let at = bytes(&(100 * number..100 * number + 1 + random.below(90)));
        map.apply(Event::Mapped {
            at,
            kind: RegionKind::Other,
            fixed: false,
        });
        map.set_resident(at, random.below(4) * PAGE);
    }
    let mut expected = map.regions().to_vec();
    expected.sort_by_key(|region| std::cmp::Reverse((region.resident_bytes, region.at.len())));
    for room in [1, 7, 32, 100, 200] {
        let mut into = vec![page_map::Mapped::NONE; room];
        let found = map.largest(&mut into);
        assert_eq!(found, room.min(100));
        let rank = |r: &page_map::Mapped| (r.resident_bytes, r.at.len());
        assert_eq!(
            into[..found].iter().map(rank).collect::<Vec<_>>(),
            expected[..found].iter().map(rank).collect::<Vec<_>>()
        );
    }
}

#[test]
fn ranges_that_the_kernel_refuses_are_none() {
    assert_eq!(Range::of_pages(PAGE + 1, PAGE, PAGE), None);
    assert_eq!(Range::of_pages(PAGE, 0, PAGE), None);
    assert_eq!(Range::of_pages(PAGE, usize::MAX, PAGE), None);
    let pages = Range::of_pages(PAGE, PAGE + 1, PAGE).expect("two pages");
    assert_eq!((pages.start, pages.end), (PAGE, 3 * PAGE));
}

#[test]
fn what_the_clients_map_is_told_apart() {
    let kind = |len: usize, hinted, no_access, executable, no_reserve| {
        classify(&Request {
            hinted,
            len,
            no_access,
            executable,
            no_reserve,
            stack: false,
        })
    };
    // As strace shows the calls of 2.1.329, 2.1.110 and Node 20.
    assert_eq!(kind(1 << 30, true, false, false, true), RegionKind::Arena);
    assert_eq!(
        kind(128 << 30, false, false, false, true),
        RegionKind::Arena
    );
    assert_eq!(kind(32 << 20, true, false, false, true), RegionKind::Arena);
    assert_eq!(
        kind(32 << 20, false, false, false, true),
        RegionKind::JsHeap
    );
    assert_eq!(kind(8 << 30, false, false, false, true), RegionKind::JsHeap);
    assert_eq!(
        kind(67_117_056, false, false, true, true),
        RegionKind::JsHeap
    );
    assert_eq!(kind(520_192, true, true, false, true), RegionKind::JsHeap);
    assert_eq!(
        kind(537_128_960, true, true, false, true),
        RegionKind::JsHeap
    );
    assert_eq!(
        kind(10_737_479_680, false, true, false, true),
        RegionKind::Arena
    );
    assert_eq!(kind(65_536, false, false, false, true), RegionKind::Other);
    assert_eq!(
        kind(2_564_096, false, false, false, false),
        RegionKind::Other
    );
}

// The queue under every order of steps

/// The queue's own atomics: each operation is a step at which another thread may go on. Every
/// order of steps with a bounded number of preemptions is tried, one after the other.
mod sync {
    use std::cell::RefCell;
    use std::sync::{Arc, Condvar, Mutex};

    pub(crate) use std::sync::atomic::Ordering;

    #[derive(Debug)]
    pub(crate) struct AtomicU64(std::sync::atomic::AtomicU64);

    // One order of all steps is tried at a time, so each is as strong as can be.
    impl AtomicU64 {
        pub(crate) const fn new(value: u64) -> Self {
            Self(std::sync::atomic::AtomicU64::new(value))
        }
        pub(crate) fn load(&self, _: Ordering) -> u64 {
            step();
            self.0.load(Ordering::SeqCst)
        }
        pub(crate) fn store(&self, value: u64, _: Ordering) {
            step();
            self.0.store(value, Ordering::SeqCst);
        }
        pub(crate) fn fetch_add(&self, value: u64, _: Ordering) -> u64 {
            step();
            self.0.fetch_add(value, Ordering::SeqCst)
        }
        pub(crate) fn fetch_sub(&self, value: u64, _: Ordering) -> u64 {
            step();
            self.0.fetch_sub(value, Ordering::SeqCst)
        }
        pub(crate) fn compare_exchange(
            &self,
            old: u64,
            new: u64,
            _: Ordering,
            _: Ordering,
        ) -> Result<u64, u64> {
            step();
            self.0
                .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
        }
    }

    /// Which thread went on at each step, and how many others could have.
    #[derive(Default)]
    struct Run {
        choices: Vec<(usize, usize)>,
        taken: usize,
        preemptions_left: usize,
        current: usize,
        live: Vec<bool>,
    }

    type Shared = Arc<(Mutex<Run>, Condvar)>;

    thread_local! {
        static ME: RefCell<Option<(usize, Shared)>> = const { RefCell::new(None) };
    }

    impl Run {
        /// Chooses who goes on: the options are the thread itself if it can, then the others.
        fn choose(&mut self, me: usize) {
            let others = (0..self.live.len()).filter(|&t| t != me && self.live[t]);
            let mut options: Vec<usize> = self.live[me].then_some(me).into_iter().collect();
            if !self.live[me] || self.preemptions_left > 0 {
                options.extend(others);
            }
            let Some(&first) = options.first() else {
                return;
            };
            let choice = match self.choices.get(self.taken) {
                Some(&(choice, count)) => {
                    assert_eq!(count, options.len(), "the run can be repeated");
                    choice
                }
                None => {
                    self.choices.push((0, options.len()));
                    0
                }
            };
            self.taken += 1;
            self.current = options[choice];
            if first == me && choice > 0 {
                self.preemptions_left -= 1;
            }
        }
    }

    /// Lets the others go on when a thread ends, by a failed assertion too.
    struct Ended(usize, Shared);

    impl Drop for Ended {
        fn drop(&mut self) {
            let Ended(number, shared) = self;
            let mut run = shared.0.lock().expect("a run");
            run.live[*number] = false;
            run.choose(*number);
            shared.1.notify_all();
        }
    }

    fn step() {
        ME.with_borrow(|me| {
            if let Some((me, shared)) = me {
                let mut run = shared.0.lock().expect("a run");
                run.choose(*me);
                shared.1.notify_all();
                while run.current != *me {
                    run = shared.1.wait(run).expect("a run");
                }
            }
        });
    }

    /// Runs the threads that `make` gives in every order of their steps with at most so many
    /// preemptions, and `check` after each; how many orders there were.
    pub(crate) fn explore<S: Sync>(
        preemptions: usize,
        make: impl Fn() -> S,
        threads: &[&(dyn Fn(&S) + Sync)],
        check: impl Fn(&S),
    ) -> usize {
        let mut choices: Vec<(usize, usize)> = Vec::new();
        let mut runs = 0;
        loop {
            let state = make();
            let shared: Shared = Arc::new((
                Mutex::new(Run {
                    choices: std::mem::take(&mut choices),
                    preemptions_left: preemptions,
                    live: vec![true; threads.len()],
                    ..Run::default()
                }),
                Condvar::new(),
            ));
            std::thread::scope(|scope| {
                for (number, body) in threads.iter().enumerate() {
                    let (state, shared) = (&state, shared.clone());
                    scope.spawn(move || {
                        {
                            let mut run = shared.0.lock().expect("a run");
                            while run.current != number {
                                run = shared.1.wait(run).expect("a run");
                            }
                        }
                        ME.set(Some((number, shared.clone())));
                        let _ended = Ended(number, shared);
                        body(state);
                    });
                }
            });
            check(&state);
            runs += 1;
            choices = std::mem::take(&mut shared.0.lock().expect("a run").choices);
            while choices
                .last()
                .is_some_and(|&(choice, count)| choice + 1 == count)
            {
                choices.pop();
            }
            match choices.last_mut() {
                Some(last) => last.0 += 1,
                None => return runs,
            }
        }
    }
}

use page_events::Events;
use std::sync::Mutex;
use sync::{AtomicU64 as SteppedU64, Ordering, explore};

/// A queue, who was refused, and what was taken in order.
struct Stage<const N: usize> {
    queue: Events<u32, N>,
    told: SteppedU64,
    refused: Mutex<Vec<u32>>,
    taken: Mutex<Vec<u32>>,
}

impl<const N: usize> Stage<N> {
    fn new() -> Self {
        Self {
            queue: Events::new(),
            told: SteppedU64::new(0),
            refused: Mutex::new(Vec::new()),
            taken: Mutex::new(Vec::new()),
        }
    }

    fn push(&self, event: u32) -> bool {
        let pushed = self.queue.push(event);
        if !pushed {
            self.refused.lock().expect("a list").push(event);
        }
        pushed
    }

    fn take(&self) {
        // SAFETY: one thread takes, and the main thread after it has ended.
        unsafe {
            self.queue
                .take_all(|event| self.taken.lock().expect("a list").push(event));
        }
    }

    /// Everything is taken or refused, once; what was pushed after another in its order.
    fn check(&self, events: &[u32], orders: &[(u32, u32)]) {
        self.take();
        assert!(self.queue.is_empty());
        let taken = self.taken.lock().expect("a list");
        let mut all = [&taken[..], &self.refused.lock().expect("a list")].concat();
        all.sort_unstable();
        assert_eq!(all, events, "{taken:?}");
        for (first, second) in orders {
            let place = |event| taken.iter().position(|e| e == event);
            if let (Some(first), Some(second)) = (place(first), place(second)) {
                assert!(first < second, "{taken:?}");
            }
        }
    }
}

#[test]
fn queued_events_are_taken_once_and_never_before_what_they_depend_on() {
    // 1 is published, its thread says so, and 2 is pushed by another one: an unmap, and a map at
    // the address that became free by it.
    let runs = explore(
        3,
        Stage::<3>::new,
        &[
            &|stage| stage.take(),
            &|stage| {
                stage.push(1);
                stage.told.store(1, Ordering::SeqCst);
            },
            &|stage| {
                if stage.told.load(Ordering::SeqCst) == 1 {
                    stage.push(2);
                } else {
                    stage.push(3);
                }
            },
        ],
        |stage| {
            stage.take();
            let taken = stage.taken.lock().expect("a list").clone();
            assert_eq!(taken.len(), 2, "{taken:?}");
            assert!(taken != [2, 1], "{taken:?}");
        },
    );
    println!("{runs} orders");
    assert!(runs > 1_000);
}

#[test]
fn a_full_queue_refuses_and_loses_nothing_it_took() {
    let runs = explore(
        3,
        Stage::<2>::new,
        &[
            &|stage| {
                stage.push(1);
                stage.push(2);
            },
            &|stage| {
                stage.push(3);
                stage.push(4);
            },
            &|stage| stage.take(),
        ],
        |stage| stage.check(&[1, 2, 3, 4], &[(1, 2), (3, 4)]),
    );
    println!("{runs} orders");
    assert!(runs > 1_000);
}

#[test]
fn a_thread_that_is_stopped_in_mid_push_holds_up_nobody() {
    // The first thread is left wherever it is as soon as another may go on, and comes back last.
    let runs = explore(
        1,
        Stage::<2>::new,
        &[
            &|stage| {
                stage.push(1);
            },
            &|stage| {
                assert!(stage.push(2), "one place is held, the other is free");
                stage.take();
                assert!(stage.taken.lock().expect("a list").contains(&2));
                assert!(stage.push(3));
                stage.take();
                assert!(stage.taken.lock().expect("a list").contains(&3));
            },
        ],
        |stage| stage.check(&[1, 2, 3], &[(2, 3)]),
    );
    assert!(runs > 5);
}

// The guard in programs

fn page_of(sandbox: &Sandbox) -> PathBuf {
    let page = sandbox.file("page");
    fs::write(&page, [0; stats_page::LEN]).expect("page");
    page
}

/// The program as the wrapper would start it, with a page.
fn guarded(sandbox: &Sandbox, program: &Path) -> Command {
    let (page, log) = (page_of(sandbox), sandbox.file("log"));
    let fields = format!("page={};log={}", page.display(), log.display());
    sandbox.guarded(&artifacts().guard, &fields, program)
}

/// Runs to the end, which must come before the deadline; the output of one that succeeds.
fn succeed(mut command: Command) -> String {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let pid = child.id() as i32;
    let reader = std::thread::spawn(move || child.wait_with_output());
    let ended = claude_safe_tests::poll_until(PATIENCE, || reader.is_finished().then_some(()));
    if ended.is_none() {
        // SAFETY: our own child, which nobody has waited for.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    let output: Output = reader.join().expect("a reader").expect("its output");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(ended.is_some(), "{command:?} did not end: {text}");
    assert!(
        output.status.success(),
        "{command:?}: {:?}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn probe(scenario: &str, arguments: &[&str]) -> String {
    let sandbox = Sandbox::new();
    let mut command = guarded(&sandbox, Path::new(PROBE));
    command
        .arg(scenario)
        .arg(sandbox.file("page"))
        .args(arguments);
    succeed(command)
}

fn field(text: &str, name: &str) -> u64 {
    text.split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[test]
fn the_page_is_exact_after_calls_of_four_threads() {
    probe("rounds", &[]);
}

#[test]
fn a_storm_of_calls_is_exact_or_says_that_it_is_not() {
    let said = probe("storm", &[]);
    println!("{said}");
    assert!(field(&said, "calls") > 100_000, "{said}");
}

#[test]
fn mremap_and_fixed_places_are_followed() {
    probe("remap", &[]);
}

#[test]
fn kinds_are_told_by_the_arguments_and_kept() {
    probe("kinds", &[]);
}

fn assert_close(said: &str) {
    println!("{said}");
    let (estimate, rss) = (field(said, "estimate"), field(said, "rss"));
    assert!(rss > 150 << 20, "{said}");
    assert!(estimate.abs_diff(rss) * 10 <= rss, "{said}");
}

#[test]
fn a_sparse_arena_of_64_gib_is_estimated_within_a_tenth() {
    assert_close(&probe("sparse", &["64", "with-files"]));
}

#[test]
fn without_the_page_table_file_mincore_estimates_it() {
    assert_close(&probe("sparse", &["4", "without-files"]));
}

#[test]
fn results_and_errno_at_the_edges_are_those_without_the_guard() {
    let sandbox = Sandbox::new();
    let mut with = guarded(&sandbox, Path::new(PROBE));
    with.arg("edges");
    let mut without = sandbox.command(PROBE);
    without.arg("edges");
    let (with, without) = (succeed(with), succeed(without));
    assert!(without.lines().count() > 40, "{without}");
    assert_eq!(with, without);
    let page = fs::read(sandbox.file("page")).expect("page");
    let plane = Snapshot::from_bytes(&page).expect("a page").plane;
    assert!(plane.calls > 40, "the guard was there");
}

#[test]
fn forked_children_in_mid_call_go_on_and_leave_the_page_alone() {
    probe("fork", &[]);
}

#[test]
fn a_signal_handler_that_maps_above_a_call_is_exact_and_never_stuck() {
    probe("handler", &[]);
}

#[test]
fn a_thread_stopped_in_mid_call_holds_up_nobody() {
    probe("suspend", &[]);
}

#[test]
fn a_program_that_is_not_the_client_has_no_plane() {
    let sandbox = Sandbox::new();
    let page = page_of(&sandbox);
    let mut command = sandbox.command(PROBE);
    command
        .arg("edges")
        .env("LD_PRELOAD", &artifacts().guard)
        .env(
            "CLAUDE_SAFE_HANDOVER",
            format!("1;pid=1;page={}", page.display()),
        );
    succeed(command);
    assert!(fs::read(page).expect("page").iter().all(|&byte| byte == 0));
}

// Real clients

/// A session of the client under the guard, looked at while it runs. What the plane doesn't see of
/// RssAnon: glibc's heap and the stacks of threads (libc's internal calls), the written parts of the
/// program's own file, raw system calls.
fn a_session_is_seen(version: &str) {
    let Some(client) = real_client(version) else {
        skip!("client {version} is not here: cargo fetch-client {version}");
    };
    let sandbox = Sandbox::new();
    prepare_home(&sandbox);
    let scenario = Scenario {
        rounds: 30,
        command: "echo round-{n} >> rounds.log; sleep 0.2".into(),
        final_text: "ALL DONE 7f3a".into(),
        ..Scenario::default()
    };
    let mock = match Isolated::start(&sandbox, &scenario, false) {
        Ok(mock) => mock,
        Err(why) => skip!("no network namespace: {why}"),
    };
    let mut command = guarded(&sandbox, &client);
    command.args(["-p", "do the rounds", "--dangerously-skip-permissions"]);
    set_up(&mut command, &mock).expect("the mock lives");
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the client");
    let pid = child.id() as i32;
    let mut best = u64::MAX;
    let (mut seen, mut estimates) = ((0, 0), 0);
    let mut last_ms = 0;
    // While it runs, right after an estimate: the heap goes up and down.
    let status = wait_until("the client's end", PATIENCE, || {
        let bytes = fs::read(sandbox.file("page")).expect("page");
        if let Ok(page) = Snapshot::from_bytes(&bytes)
            && page.plane.estimated_ms != last_ms
            && let Some(anon_kib) = proc_view::status_kib(pid, "RssAnon")
        {
            last_ms = page.plane.estimated_ms;
            estimates += 1;
            let resident: u64 = page
                .plane
                .kinds
                .iter()
                .map(|kind| kind.resident_bytes)
                .sum();
            let off = (resident >> 10).abs_diff(anon_kib) * 100 / anon_kib.max(1);
            if off < best {
                (best, seen) = (off, (resident >> 10, anon_kib));
            }
        }
        child.try_wait().expect("the client")
    });
    assert!(status.success(), "{status}");
    let rounds = fs::read_to_string(sandbox.work().join("rounds.log")).expect("rounds.log");
    assert_eq!(rounds.lines().count(), 30);
    let bytes = fs::read(sandbox.file("page")).expect("page");
    let page = Snapshot::from_bytes(&bytes).expect("a page");
    println!(
        "{version}: {estimates} estimates, best {seen:?} KiB ({best} % off), {:?}",
        page.plane
    );
    assert_eq!(page.state, State::Unreachable);
    assert_eq!(page.plane.lost, 0);
    assert!(page.plane.kinds[RegionKind::Arena as usize].bytes >= 1 << 30);
    assert!(page.plane.kinds[RegionKind::JsHeap as usize].bytes >= 4 << 30);
    assert!(best <= 25, "{seen:?} KiB");
    let largest = stats_page::regions_from_bytes(&bytes)
        .next()
        .expect("a region");
    assert!(largest.resident_bytes > 10 << 20, "{largest:?}");
}

#[test]
fn the_memory_of_the_oldest_client_is_seen() {
    a_session_is_seen("2.1.110");
}

#[test]
fn the_memory_of_the_newest_client_is_seen() {
    a_session_is_seen("2.1.329");
}
