//! How much to give back, and when: a state machine over readings. Knows no clock but the readings', opens no file,
//! starts nothing.
//!
//! Proactive reclaim after Weiner et al., "TMO: Transparent Memory Offloading in Datacenters" (ASPLOS 2022), and senpai:
//! ask for a little, see what it costs, go on from there. Two things differ. They steer by pressure alone, on
//! services that have all day; a leak of 80 MB/s leaves seconds, so the step follows the growth, and what comes back counts
//! before it hurts. And they shrink whatever is cold, for ever; here nothing happens below the threshold but
//! one pass for each time that the session is idle.
//!
//! What was given back is *proven* when it has stayed away for half a minute. The most that is on its way to be proven
//! is bounded (`budget_kib`): it is what may all come back at once.

use super::reading::Reading;
use crate::os::proc::page_kib;
use crate::os::slow_write::Written;

const MIB: u64 = 1024;

/// The smallest step, KiB: below, the child that makes it costs more than it brings.
const MIN_STEP_KIB: u64 = MIB;
/// The biggest.
const MAX_STEP_KIB: u64 = 64 * MIB;
/// How long one step may work, milliseconds: the kernel holds locks that the session waits for.
const STEP_MS: u64 = 100;
/// A step to zram works with a processor and waits for nothing else: what it lasts beyond that, it waited for its turn. A busy
/// machine would else be asked for less and less, however quick the work itself is. Up to this many times its work.
const WAITS_TIMES: u64 = 10;
/// This part above what it is held at, a sixteenth, a session runs away from us: then it may be so long, on zram.
const STEP_LONG_MS: u64 = 400;
const AHEAD_PART: u64 = 16;

/// The distance of two marks, and how many there are.
const MARK_MS: u64 = 4_000;
const MARKS: usize = 10;
/// The last moments: 4 to 8 s, as marks are apart.
const SHORT_MS: u64 = 4_000;
/// After this time away, what was given back is proven cold. The client's own timers come round within it.
const PROOF_MS: u64 = 32_000;

/// The stall that we risk, if all that is not yet proven comes back at once, microseconds.
const STALL_US: u64 = 500_000;
/// What bringing 1 KiB back costs, microseconds, before it was measured: from zram, from a disk that turns, and
/// from zram where no pressure can be seen.
const PRICE_ZRAM_US: u64 = 3;
const PRICE_DISK_US: u64 = 250;
const PRICE_UNSEEN_US: u64 = 10;
/// Up to this price a leak is followed as fast as it grows, on zram at any: that is time of a processor, and where it is
/// dear, all else is as slow.
const PRICE_QUICK_US: u64 = 10;
/// However cheap: the most to begin with, in a busy session; in an idle one, where a usual session is
/// done in one go (its timers touch little at a time); after pages stayed hot.
const UNPROVEN_KIB: u64 = 128 * MIB;
const UNPROVEN_IDLE_KIB: u64 = 256 * MIB;
const UNPROVEN_TRIAL_KIB: u64 = 16 * MIB;

/// Full pressure, thousandths of the time: pause from the first on, a long one from the second. systemd-oomd
/// acts at 500 over 20 s (oomd.conf(5)).
const PRESSED_PERMILLE: u64 = 30;
const PRESSED_HARD_PERMILLE: u64 = 60;
const PRESSED_WINDOW_MS: u64 = 10_000;
const PRESSED_MS: u64 = 500;
const PRESSED_HARD_MS: u64 = 10_000;

/// Pages came back: look at it again after this.
const LEARN_MS: u64 = 1_000;
/// So often in a row most of what was given came back: it is not the working set, it is everything.
const STRIKES: u32 = 3;
/// What has been away for this long tells that there is something cold.
const HOT_AFTER_MS: u64 = 15_000;
/// The first rest after it; each further one is twice as long, up to the longest.
const HOT_REST_MS: u64 = 300_000;
const HOT_REST_LONGEST_MS: u64 = 3_600_000;
/// Less given than this is no attempt.
const ATTEMPT_KIB: u64 = 4 * MIB;

/// A pass over an idle session takes no longer. After it: so long we watch what comes back, and so long there is no further pass.
const PASS_MS: u64 = 150_000;
const WATCH_MS: u64 = 30_000;
const PASS_AGAIN_MS: u64 = 300_000;

/// Swap and its cost are asked about again after this.
const NO_SWAP_MS: u64 = 30_000;
/// The longest time between two looks.
const LONGEST_MS: u64 = 30_000;
const SHORTEST_MS: u64 = 100;
/// No look is needed before an allocator of this speed could be a sixteenth above the threshold, KiB per second.
const ALLOCATOR_KIB_S: u64 = 128 * MIB;

/// zram holds enough to tell how well it packs, and packs too badly (thousandths).
const NO_GAIN_KIB: u64 = 64 * MIB;
const NO_GAIN_PERMILLE: u64 = 900;

/// The kernel takes anonymous pages first: pages of files are not what the session takes from others.
const ANON_FIRST: u8 = 200;

/// What is wanted of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Nothing.
    Rest,
    /// Hold it near the threshold while it is above.
    Hold {
        /// Tier 1, KiB.
        threshold_kib: u64,
    },
    /// The same, and one pass down to what it needs: nobody is using it.
    Idle {
        /// Tier 1, KiB.
        threshold_kib: u64,
    },
}

/// What follows from a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Ask the kernel for this much, then tell [`Steering::ended`].
    Step(Step),
    /// Nothing now; take a reading again in `ms` milliseconds, 1 to 30,000.
    Wait {
        /// From the reading on.
        ms: u64,
    },
}

/// One write to `memory.reclaim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// KiB, 1 to 64 MiB.
    pub kib: u64,
    /// The argument of that name, where the kernel knows it (Linux 6.9).
    pub swappiness: Option<u8>,
}

/// How long a step took, milliseconds: from its beginning to its end, and of a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Took {
    /// Of time.
    pub wall_ms: u64,
    /// Of a processor.
    pub cpu_ms: u64,
}

impl Took {
    /// How long it worked: swap on a disk is waited for as well, and that is part of the work.
    fn work_ms(self, all_zram: bool) -> u64 {
        if all_zram {
            self.cpu_ms.max(self.wall_ms / WAITS_TIMES)
        } else {
            self.wall_ms
        }
    }
}

/// What it is doing, or why it does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing is wanted.
    #[default]
    Resting,
    /// Below the threshold.
    Below,
    /// Above, and held there.
    Holding,
    /// As much is out as may be before it is proven.
    Proving,
    /// Pages came back: they are left from now on.
    Learning,
    /// They all come back: given up for some minutes.
    Hot,
    /// The session waits for its memory.
    Pressed,
    /// Its share of swap is used up.
    SwapUsedUp,
    /// There is no swap.
    NoSwap,
    /// In zram the pages take as much as outside.
    NoGain,
    /// The kernel found less than was asked for.
    NothingLeft,
    /// A pass over an idle session.
    Shrinking,
    /// After it: what comes back?
    Watching,
    /// What came back is what it needs.
    Shrunk,
    /// A step took too long and was cut.
    Cut,
    /// The kernel refused, with this errno.
    Failed(u8),
    /// There is no cgroup of the session's own.
    NoSlice,
    /// We may not write its `memory.reclaim`.
    NotPermitted,
    /// This kernel has none (before Linux 5.19).
    NoFile,
}

impl State {
    /// In words, for status and doctor.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            State::Resting => "off",
            State::Below => "below the threshold",
            State::Holding => "giving memory back, held near the threshold",
            State::Proving => "waiting whether what was given back stays away",
            State::Learning => "pages came back; they are left",
            State::Hot => "pages stay hot: given up, tried again later",
            State::Pressed => "paused: processes wait for memory",
            State::SwapUsedUp => "the session's share of swap is used up",
            State::NoSwap => "no swap to give memory back to",
            State::NoGain => "its pages take as much memory in zram",
            State::NothingLeft => "the kernel finds nothing more to give back",
            State::Shrinking => "idle: giving memory back",
            State::Watching => "idle: watching what comes back",
            State::Shrunk => "idle: given back, but for what it needs",
            State::Cut => "a step took too long and was cut",
            State::Failed(_) => "the kernel refused",
            State::NoSlice => "no cgroup of the session's own",
            State::NotPermitted => "memory.reclaim may not be written",
            State::NoFile => "this kernel has no memory.reclaim (Linux 5.19)",
        }
    }
}

/// Counters at one moment. All but the footprint only grow.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    at_ms: u64,
    /// Held and in swap, KiB.
    footprint_kib: u64,
    given_kib: u64,
    back_kib: u64,
    some_us: u64,
    full_us: u64,
    machine_full_us: u64,
}

impl Mark {
    fn given_since(&self, earlier: &Mark) -> u64 {
        self.given_kib.saturating_sub(earlier.given_kib)
    }

    fn back_since(&self, earlier: &Mark) -> u64 {
        self.back_kib.saturating_sub(earlier.back_kib)
    }
}

/// A step that was decided on, and what it came to.
#[derive(Clone, Copy, Debug)]
struct Asked {
    step: Step,
    current_kib: u64,
    swap_kib: u64,
    outcome: Option<(Written, Took)>,
}

/// A pass over an idle session.
#[derive(Clone, Copy, Debug)]
enum Pass {
    /// Not idle.
    No,
    /// Under way since this mark.
    Running(Mark),
    /// Over; what comes back until then?
    Watching { until_ms: u64 },
    /// Over, its working set is known.
    Done { again_at_ms: u64 },
}

/// The state machine of one session.
#[derive(Clone, Debug)]
pub struct Steering {
    share_percent: u64,
    state: State,
    /// The latest reading's.
    now: Mark,
    /// Earlier ones, the oldest first, since the attempt began.
    marks: [Mark; MARKS],
    marks_len: usize,
    /// The beginning of the attempt, and the last time that too much came back.
    attempt: Mark,
    learnt: Mark,
    asked: Option<Asked>,
    /// The most that the next step asks for.
    step_kib: u64,
    /// When the last step ended, how long it had worked, and how long it had taken: a processor is not ours alone.
    ended_at_ms: u64,
    worked_ms: u64,
    took_ms: u64,
    /// More was held than steps of the usual length had given back.
    runs_away: bool,
    pause: Option<(u64, State)>,
    less_in_a_row: u32,
    /// Below this much held, pages came back. 0: not known.
    floor_kib: u64,
    floor_at_ms: u64,
    /// How often in a row most of what was given came back.
    strikes: u32,
    strike_at_ms: u64,
    /// How often that was given up, and the footprint that ends the rest early.
    hot_times: u32,
    hot_footprint_kib: u64,
    pass: Pass,
    /// What an idle session needs, KiB of `memory.current`.
    idle_floor_kib: u64,
    /// What bringing 1 KiB back cost lately, microseconds.
    price_us: Option<u64>,
    /// The kernel refused the argument.
    no_swappiness: bool,
}

impl Steering {
    /// `share_percent`: how much of the swap that would be free without this session it may use, 0..=100.
    #[must_use]
    pub fn new(share_percent: u64) -> Steering {
        Steering {
            share_percent: share_percent.min(100),
            state: State::Resting,
            now: Mark::default(),
            marks: [Mark::default(); MARKS],
            marks_len: 0,
            attempt: Mark::default(),
            learnt: Mark::default(),
            asked: None,
            step_kib: MIN_STEP_KIB,
            ended_at_ms: 0,
            worked_ms: 0,
            took_ms: 0,
            runs_away: false,
            pause: None,
            less_in_a_row: 0,
            floor_kib: 0,
            floor_at_ms: 0,
            strikes: 0,
            strike_at_ms: 0,
            hot_times: 0,
            hot_footprint_kib: 0,
            pass: Pass::No,
            idle_floor_kib: 0,
            price_us: None,
            no_swappiness: false,
        }
    }

    /// What it is doing, as of the last decision.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Given back so far, KiB: what the kernel took, whether or not it came back.
    #[must_use]
    pub fn given_kib(&self) -> u64 {
        self.now.given_kib
    }

    /// Tells how a step ended, and how long it took.
    pub fn ended(&mut self, outcome: Written, took: Took) {
        if let Some(asked) = &mut self.asked {
            asked.outcome = Some((outcome, took));
        }
    }

    /// The step that was decided on could not be begun.
    pub fn never_began(&mut self) {
        self.asked = None;
    }

    /// What to do next. Readings come in order of time.
    pub fn decide(&mut self, reading: &Reading, goal: Goal) -> Decision {
        self.take_down(reading);
        let (decision, state) = self.next(reading, goal);
        self.state = state;
        decision
    }

    fn next(&mut self, reading: &Reading, goal: Goal) -> (Decision, State) {
        let wait = |ms: u64, state| {
            (
                Decision::Wait {
                    ms: ms.clamp(1, LONGEST_MS),
                },
                state,
            )
        };
        let now_ms = reading.at_ms;
        let threshold_kib = match goal {
            Goal::Rest => {
                self.pass = Pass::No;
                // What happens meanwhile is not known, and is no evidence later.
                self.marks_len = 0;
                return wait(LONGEST_MS, State::Resting);
            }
            Goal::Hold { threshold_kib } => {
                self.pass = Pass::No;
                threshold_kib
            }
            Goal::Idle { threshold_kib } => {
                self.step_of_pass(reading);
                threshold_kib
            }
        };
        if self.asked.is_some() {
            return wait(SHORTEST_MS, self.state);
        }
        if reading.machine.swap_total_kib == 0 {
            return wait(NO_SWAP_MS, State::NoSwap);
        }
        let shrinking = matches!(self.pass, Pass::Running(_));
        if !shrinking && !matches!(self.pass, Pass::Watching { .. }) {
            self.learn(reading);
        }

        let target_kib = threshold_kib.max(self.floor_kib);
        let over_kib = reading.held_kib().saturating_sub(target_kib);
        let idle_kib = if shrinking {
            reading.current_kib.saturating_sub(self.idle_floor_kib)
        } else {
            0
        };
        let want_kib = over_kib.max(idle_kib);
        if let Some((until_ms, why)) = self.pause {
            let grew = why == State::Hot && self.now.footprint_kib > self.hot_footprint_kib;
            if now_ms < until_ms && !grew {
                return wait(until_ms - now_ms, why);
            }
            self.pause = None;
            if why == State::Hot {
                self.begin_attempt();
            }
        }
        if want_kib < MIN_STEP_KIB {
            let (state, at_most_ms) = match self.pass {
                Pass::Watching { until_ms } => (State::Watching, until_ms.saturating_sub(now_ms)),
                Pass::Done { .. } => (State::Shrunk, LONGEST_MS),
                _ if reading.held_kib() < threshold_kib / 16 * 15 => (State::Below, LONGEST_MS),
                _ if reading.held_kib() / 17 * 16 > threshold_kib => (State::Learning, LONGEST_MS),
                _ => (State::Holding, LONGEST_MS),
            };
            let ms = self.unattended_ms(target_kib, reading.held_kib());
            return wait(ms.min(at_most_ms), state);
        }

        if reading.machine.all_zram
            && reading.machine.stored_kib >= NO_GAIN_KIB
            && reading.machine.swap_weight_permille() > NO_GAIN_PERMILLE
        {
            return wait(NO_SWAP_MS, State::NoGain);
        }
        let (room_kib, share_kib) = self.swap_room_kib(reading);
        // Room for a few steps more must have come up before it goes on.
        let least_kib = if self.state == State::SwapUsedUp {
            share_kib / 16
        } else {
            0
        };
        if room_kib < least_kib.max(2 * MIN_STEP_KIB) {
            return wait(PRESSED_HARD_MS, State::SwapUsedUp);
        }
        if let Some(ms) = self.pressed_ms() {
            self.step_kib = (self.step_kib / 2).max(MIN_STEP_KIB);
            self.pause = Some((now_ms.saturating_add(ms), State::Pressed));
            return wait(ms, State::Pressed);
        }
        // Half of a processor at the most; what it waited for its turn is a rest, too.
        let rest_ms = (self.worked_ms.saturating_mul(2)).saturating_sub(self.took_ms);
        let rest_ms = rest_ms.clamp(20, PRESSED_HARD_MS);
        let rested_ms = now_ms.saturating_sub(self.ended_at_ms);
        if rested_ms < rest_ms {
            return wait(rest_ms - rested_ms, self.state);
        }
        self.runs_away = reading.machine.all_zram && over_kib > target_kib / AHEAD_PART;
        let kib = want_kib
            .min(self.step_kib)
            .min(room_kib / 2)
            .min(self.budget_kib(reading, shrinking, over_kib >= MIN_STEP_KIB));
        if kib < MIN_STEP_KIB {
            let ms = self.unattended_ms(target_kib, reading.held_kib());
            return wait(ms.min(LEARN_MS), State::Proving);
        }
        // In an idle session on a disk, pages of files may be the cheaper ones: as the kernel has it.
        let anon_first = !self.no_swappiness && (!shrinking || reading.machine.all_zram);
        let step = Step {
            kib,
            swappiness: anon_first.then_some(ANON_FIRST),
        };
        self.asked = Some(Asked {
            step,
            current_kib: reading.current_kib,
            swap_kib: reading.swap_kib.unwrap_or(u64::MAX),
            outcome: None,
        });
        let state = if shrinking {
            State::Shrinking
        } else {
            State::Holding
        };
        (Decision::Step(step), state)
    }

    /// The counters of this reading, and what the last step came to.
    fn take_down(&mut self, reading: &Reading) {
        let mut back_kib = reading.back_kib;
        if self.no_swappiness {
            // There a step takes pages of files as well.
            back_kib = back_kib.saturating_add(reading.file_back_kib);
        }
        if back_kib < self.now.back_kib || reading.at_ms < self.now.at_ms {
            // Another slice of the same name.
            *self = Steering {
                no_swappiness: self.no_swappiness,
                ..Steering::new(self.share_percent)
            };
        }
        let swap_kib = self.swapped_kib(reading);
        self.now = Mark {
            at_ms: reading.at_ms,
            // A page that came back keeps its place in swap for a while.
            footprint_kib: (reading.held_kib().saturating_add(swap_kib))
                .saturating_sub(reading.swap_cached_kib),
            given_kib: self.now.given_kib,
            back_kib,
            some_us: reading.some_us.unwrap_or(0),
            full_us: reading.full_us.unwrap_or(0),
            machine_full_us: reading.machine.full_us.unwrap_or(0),
        };
        if let Some(Asked {
            step,
            current_kib,
            swap_kib,
            outcome: Some((outcome, took)),
        }) = self.asked
        {
            self.asked = None;
            let gone_kib = current_kib.saturating_sub(reading.current_kib);
            let swapped_kib = reading.swap_kib.unwrap_or(0).saturating_sub(swap_kib);
            let work_ms = took.work_ms(reading.machine.all_zram);
            self.ended_at_ms = reading.at_ms;
            (self.worked_ms, self.took_ms) = (work_ms, took.wall_ms);
            self.step_ended(step, outcome, work_ms, gone_kib.min(step.kib), swapped_kib);
            if outcome == Written::NotUnderstood && step.swappiness.is_some() {
                // From here on pages of files count: as if they always had.
                self.no_swappiness = true;
                self.now.back_kib = back_kib.saturating_add(reading.file_back_kib);
                self.marks_len = 0;
            }
        }
        if self.marks_len == 0 {
            self.begin_attempt();
        } else if self
            .now
            .at_ms
            .saturating_sub(self.marks[self.marks_len - 1].at_ms)
            >= MARK_MS
        {
            if self.marks_len == MARKS {
                self.marks.copy_within(1.., 0);
                self.marks_len -= 1;
            }
            self.marks[self.marks_len] = self.now;
            self.marks_len += 1;
        }
    }

    /// `gone_kib`: by how much the session shrank meanwhile, at the most what was asked for; `swapped_kib`: by how much its
    /// part in swap grew, which may be many times what was asked for (a kernel with MGLRU finishes its round).
    fn step_ended(
        &mut self,
        asked: Step,
        outcome: Written,
        work_ms: u64,
        gone_kib: u64,
        swapped_kib: u64,
    ) {
        let now_ms = self.now.at_ms;
        let mut pause = |ms, state| self.pause = Some((now_ms.saturating_add(ms), state));
        let given_kib = match outcome {
            Written::All => asked.kib.max(swapped_kib),
            _ => gone_kib.max(swapped_kib),
        };
        self.now.given_kib = self.now.given_kib.saturating_add(given_kib);
        match outcome {
            Written::All => self.less_in_a_row = 0,
            // Nearly all of it is good enough.
            Written::Less | Written::Cut if given_kib > asked.kib / 2 => self.less_in_a_row = 0,
            Written::Less => {
                self.less_in_a_row = self.less_in_a_row.saturating_add(1);
                pause(1000 << self.less_in_a_row.min(6), State::NothingLeft);
            }
            Written::NotUnderstood if asked.swappiness.is_some() => return,
            Written::NotUnderstood => pause(HOT_REST_MS, State::Failed(22)),
            Written::Gone => pause(PRESSED_HARD_MS, State::NoSlice),
            Written::Cut => pause(PRESSED_HARD_MS, State::Cut),
            Written::Failed(errno) => pause(HOT_REST_MS, State::Failed(errno)),
        }
        let long_ms = if self.runs_away {
            STEP_LONG_MS
        } else {
            STEP_MS
        };
        let fast_kib = asked.kib.max(given_kib).saturating_mul(long_ms) / work_ms.max(1);
        self.step_kib = match outcome {
            Written::All => self.step_kib.saturating_mul(2).min(fast_kib),
            Written::Cut => MIN_STEP_KIB,
            _ => (self.step_kib / 2).min(fast_kib),
        }
        .clamp(MIN_STEP_KIB, MAX_STEP_KIB);
    }

    fn begin_attempt(&mut self) {
        self.marks[0] = self.now;
        self.marks_len = 1;
        self.attempt = self.now;
        self.learnt = self.now;
        self.strikes = 0;
        self.floor_at_ms = self.now.at_ms;
        self.step_kib = MIN_STEP_KIB;
    }

    /// The latest mark that is at least this old, else the oldest.
    fn mark_before(&self, ms: u64) -> &Mark {
        let marks = &self.marks[..self.marks_len.max(1)];
        let old = |mark: &&Mark| self.now.at_ms.saturating_sub(mark.at_ms) >= ms;
        marks.iter().rev().find(old).unwrap_or(&marks[0])
    }

    /// Draws the conclusions from what came back.
    fn learn(&mut self, reading: &Reading) {
        if self.pause.is_some_and(|(_, why)| why == State::Hot) {
            return;
        }
        let now = self.now;
        let proof = *self.mark_before(PROOF_MS);
        let given_kib = now.given_since(&proof);
        let mut short = *self.mark_before(SHORT_MS);
        if short.at_ms < self.learnt.at_ms {
            short = self.learnt;
        }
        let held_kib = reading.held_kib();
        let bearable_kib = ATTEMPT_KIB.saturating_add(now.given_since(&short) / 4);
        if given_kib > 0 && now.back_since(&short) > bearable_kib {
            let mostly = given_kib >= ATTEMPT_KIB && now.back_since(&proof) >= given_kib / 2;
            if mostly && now.at_ms.saturating_sub(self.strike_at_ms) >= SHORT_MS {
                self.strikes += 1;
                self.strike_at_ms = now.at_ms;
            }
            // It needs what it holds now, and a little more.
            let more_kib = (held_kib / 32).clamp(MIN_STEP_KIB, 16 * MIB);
            self.floor_kib = self.floor_kib.max(held_kib.saturating_add(more_kib));
            self.floor_at_ms = now.at_ms;
            self.learnt = now;
            self.step_kib = (self.step_kib / 2).max(MIN_STEP_KIB);
            self.pause = Some((now.at_ms.saturating_add(LEARN_MS), State::Learning));
            if self.strikes >= STRIKES {
                self.give_up();
            }
            return;
        }
        // What has been away for a while, and stays there, acquits.
        let away_kib = self.mark_before(HOT_AFTER_MS).given_since(&self.learnt);
        if away_kib >= ATTEMPT_KIB && now.back_since(&self.learnt) < away_kib / 4 {
            self.strikes = 0;
            self.hot_times = 0;
        }
        if now.at_ms.saturating_sub(self.floor_at_ms) >= 2 * PROOF_MS {
            // What it needed then it may not need now.
            self.floor_at_ms = now.at_ms;
            self.floor_kib -= (self.floor_kib / 32).min(16 * MIB);
        }
        self.floor_kib = self.floor_kib.min(held_kib.saturating_mul(2));
    }

    /// Everything came back, again and again. The rest ends with time, or when there is much more to give back.
    fn give_up(&mut self) {
        let times = self.hot_times.min(16);
        let rest_ms = (HOT_REST_MS << times).min(HOT_REST_LONGEST_MS);
        let more_kib = (self.now.footprint_kib / 2).saturating_mul(1 << times);
        self.hot_footprint_kib = self.now.footprint_kib.saturating_add(more_kib);
        self.hot_times = times + 1;
        self.pause = Some((self.now.at_ms.saturating_add(rest_ms), State::Hot));
    }

    /// The next stage of the pass over an idle session, if it is time for one.
    fn step_of_pass(&mut self, reading: &Reading) {
        let now_ms = reading.at_ms;
        match self.pass {
            Pass::No => {
                // Sessions change: a little less than last time, and what it needs comes back.
                self.idle_floor_kib -= self.idle_floor_kib / 8;
                self.begin_pass();
            }
            Pass::Running(began) => {
                let given_kib = self.now.given_since(&began);
                let rest_kib = reading.current_kib.saturating_sub(self.idle_floor_kib);
                let hot = given_kib >= ATTEMPT_KIB && self.now.back_since(&began) >= given_kib / 2;
                let long = now_ms.saturating_sub(began.at_ms) > PASS_MS;
                let over = rest_kib < MIN_STEP_KIB || given_kib / 3 * 2 > began.footprint_kib;
                if self.asked.is_none() && (over || hot || long || self.less_in_a_row >= 2) {
                    self.less_in_a_row = 0;
                    self.pass = Pass::Watching {
                        until_ms: now_ms.saturating_add(WATCH_MS),
                    };
                }
            }
            Pass::Watching { until_ms } if now_ms >= until_ms => {
                self.idle_floor_kib = reading.current_kib.saturating_add(reading.current_kib / 8);
                self.pass = Pass::Done {
                    again_at_ms: now_ms.saturating_add(PASS_AGAIN_MS),
                };
                // What came back to an idle session says nothing about a busy one.
                self.begin_attempt();
            }
            Pass::Done { again_at_ms } if now_ms >= again_at_ms => {
                let slack_kib = (self.idle_floor_kib / 2).saturating_add(16 * MIB);
                if reading.current_kib > self.idle_floor_kib.saturating_add(slack_kib) {
                    self.begin_pass();
                }
            }
            _ => {}
        }
    }

    fn begin_pass(&mut self) {
        self.less_in_a_row = 0;
        self.pass = Pass::Running(self.now);
    }

    /// How long the session and the machine may now be left alone, if they wait for memory too much. The machine counts
    /// too: its kernel is reclaiming by itself then, and takes the same pages first.
    fn pressed_ms(&self) -> Option<u64> {
        let mark = self.mark_before(PRESSED_WINDOW_MS - MARK_MS / 2);
        // A single stall in a moment is not much pressure.
        let age_ms = self.now.at_ms.saturating_sub(mark.at_ms);
        let ms = age_ms.max(PRESSED_WINDOW_MS);
        let own_us = self.now.full_us.saturating_sub(mark.full_us);
        let machine_us = (self.now.machine_full_us).saturating_sub(mark.machine_full_us);
        match own_us.max(machine_us) / ms {
            permille if permille > PRESSED_HARD_PERMILLE => Some(PRESSED_HARD_MS),
            permille if permille > PRESSED_PERMILLE => Some(PRESSED_MS),
            _ => None,
        }
    }

    fn swapped_kib(&self, reading: &Reading) -> u64 {
        let given_kib = self.now.given_kib;
        reading.swap_kib.unwrap_or_else(|| {
            given_kib
                .saturating_sub(reading.back_kib)
                .min(reading.machine.swap_total_kib)
        })
    }

    /// How much more of swap this session may use, and how much in all, KiB.
    fn swap_room_kib(&self, reading: &Reading) -> (u64, u64) {
        let swapped_kib = self.swapped_kib(reading);
        let ours_or_free_kib = reading.machine.swap_free_kib.saturating_add(swapped_kib);
        let share_kib = (ours_or_free_kib / 100).saturating_mul(self.share_percent);
        let share_kib = share_kib.min(reading.swap_max_kib.unwrap_or(u64::MAX));
        (share_kib.saturating_sub(swapped_kib), share_kib)
    }

    /// How much more may be given back while what went before is not yet proven cold.
    fn budget_kib(&mut self, reading: &Reading, shrinking: bool, over: bool) -> u64 {
        let proof = *self.mark_before(PROOF_MS);
        let unproven_kib = self.now.given_since(&proof);
        let back_kib = self.now.back_since(&proof);
        let stall_us = self.now.some_us.saturating_sub(proof.some_us);
        if back_kib >= 256 * page_kib() && reading.some_us.is_some() {
            self.price_us = Some((stall_us / back_kib).max(1));
        }
        let price_us = self.price_us.unwrap_or(match reading.some_us {
            _ if !reading.machine.all_zram => PRICE_DISK_US,
            None => PRICE_UNSEEN_US,
            Some(_) => PRICE_ZRAM_US,
        });
        let at_once_kib = STALL_US / price_us;
        let most_kib = match () {
            () if self.hot_times > 0 => UNPROVEN_TRIAL_KIB,
            () if shrinking => UNPROVEN_IDLE_KIB,
            () => UNPROVEN_KIB,
        };
        // Nobody waits for an idle session, and what comes back there comes timer by timer.
        let trust = if shrinking { 4 } else { 2 };
        let base_kib = if shrinking {
            2 * at_once_kib
        } else {
            at_once_kib
        };
        let mut allowed_kib = base_kib.min(most_kib);
        let quick = reading.machine.all_zram && reading.some_us.is_some();
        if quick || price_us <= PRICE_QUICK_US {
            let away_kib = proof.given_since(&self.attempt);
            let proven_kib = away_kib.saturating_sub(self.now.back_since(&self.attempt));
            allowed_kib = allowed_kib.saturating_add(proven_kib.min(trust * at_once_kib));
            if over && self.hot_times == 0 {
                // A leak's pages are new, and cold until the opposite is seen: also those that we are behind with.
                let grown_kib = self.now.footprint_kib.saturating_sub(proof.footprint_kib);
                let all_grown_kib =
                    (self.now.footprint_kib).saturating_sub(self.attempt.footprint_kib);
                let behind_kib = all_grown_kib.saturating_sub(away_kib);
                allowed_kib = allowed_kib.saturating_add(grown_kib.max(behind_kib));
            }
        }
        // No more than what we can afford if as large a part of it comes back as did lately: 3 % of the time.
        let back_of_64 = back_kib.saturating_mul(64).checked_div(unproven_kib);
        let affordable_kib = at_once_kib * 128 / back_of_64.unwrap_or(1).clamp(1, 64);
        let allowed_kib = allowed_kib.min(affordable_kib);
        allowed_kib.saturating_sub(unproven_kib)
    }

    /// How long nobody need look at a session that is below its target: until an allocator could be above it by a sixteenth.
    fn unattended_ms(&self, target_kib: u64, held_kib: u64) -> u64 {
        let short = self.mark_before(SHORT_MS);
        let grown_kib = self.now.footprint_kib.saturating_sub(short.footprint_kib);
        let took_ms = self.now.at_ms.saturating_sub(short.at_ms);
        let rate_kib_s = grown_kib
            .saturating_mul(1000)
            .checked_div(took_ms)
            .unwrap_or(0);
        let slack_kib = target_kib
            .saturating_sub(held_kib)
            .saturating_add(target_kib / 16);
        let ms = slack_kib.saturating_mul(1000) / rate_kib_s.saturating_mul(4).max(ALLOCATOR_KIB_S);
        ms.clamp(SHORTEST_MS, LONGEST_MS)
    }
}
