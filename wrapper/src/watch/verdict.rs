//! What follows from a sample, and when to look again. Pure functions of a sample, the limits and
//! the history; only [`History::note`] changes anything, and only the history. Never looks, never
//! acts, knows no clock but the sample's.

use super::proc_fs::ProcessId;
use super::tree::{Sample, Subtree};

/// No allocator that we know is faster: KiB per second. The interval never lets one that starts
/// right after a look get past the limit by more than [`SHORTEST_MS`] of this.
const FASTEST_KIB_S: u64 = 2 * 1024 * 1024;
/// The shortest interval.
const SHORTEST_MS: u64 = 100;
/// An interval is this many times the CPU time of a look, at least: 5 % of a core.
const PAUSE_TIMES: u64 = 20;
/// The same within 10 % of the limit: 20 % of a core, for as long as that lasts. It makes the
/// interval longer than [`SHORTEST_MS`] only in trees of thousands of processes.
const PAUSE_TIMES_NEAR: u64 = 4;

/// The marks, KiB. All 0: no limit, every verdict is [`Verdict::Quiet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// 75 %: the user is told once.
    pub warn_kib: u64,
    /// 90 %: the next idle moment is used.
    pub idle_kib: u64,
    /// 100 %: something ends.
    pub limit_kib: u64,
    /// How long a tool that is being ended may take, milliseconds.
    pub tool_grace_ms: u64,
}

impl Limits {
    /// The marks of a limit in MiB (0: none). `tool_grace_ms` is the whole time from TERM over
    /// KILL until the memory is free.
    #[must_use]
    pub fn new(limit_mib: u64, tool_grace_ms: u64) -> Limits {
        let limit_kib = limit_mib.saturating_mul(1024);
        Limits {
            warn_kib: limit_kib / 4 * 3,
            idle_kib: limit_kib / 10 * 9,
            limit_kib,
            tool_grace_ms,
        }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Quiet,
    /// Tell the user, once: the total has passed 75 %.
    Warn,
    /// Over the limit, but a tool is being ended and its end will do. Look again.
    Wait,
    /// A tool is what is fat: end it, the session stays.
    EndTool(EndTool),
    /// 90 to 100 %: restart at the next idle moment.
    RestartWhenIdle,
    /// At the limit: restart now.
    Restart,
}

/// The subtree that is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndTool {
    /// Its uppermost process.
    pub leader: ProcessId,
    /// All its processes, the leader first. Check the start time before each signal.
    pub members: Vec<ProcessId>,
    /// Its process group, if the whole group may be signalled ([`Sample::group_of`]).
    pub pgid: Option<i32>,
    /// Its memory.
    pub kib: u64,
}

/// What was seen and done so far. One for each run of the client.
#[derive(Clone, Debug, Default)]
pub struct History {
    warned: bool,
    last: Option<(u64, u64)>,
    rate_kib_s: u64,
    /// Memory when the total was below the first mark last; `None`: it never was.
    calm: Option<Calm>,
    ended: Vec<Ended>,
}

#[derive(Clone, Debug, Default)]
struct Calm {
    total_kib: u64,
    client_kib: u64,
    subtrees: Vec<(ProcessId, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Ended {
    leader: ProcessId,
    at_ms: u64,
}

impl History {
    /// How fast the total grows, KiB per second: over the last interval, or half of what it was
    /// before, whichever is more (a collector's sawtooth is no end of growth).
    #[must_use]
    pub fn rate_kib_s(&self) -> u64 {
        self.rate_kib_s
    }

    /// Takes down a sample and what was decided on it. After this, the next sample may be judged.
    pub fn note(&mut self, sample: &Sample, limits: &Limits, verdict: &Verdict) {
        if let Some((at_ms, kib)) = self.last {
            let took_ms = sample.at_ms.saturating_sub(at_ms);
            let grown_kib = sample.held_kib().saturating_sub(kib);
            // Two samples of one moment tell no rate.
            if let Some(rate_kib_s) = grown_kib.saturating_mul(1000).checked_div(took_ms) {
                self.rate_kib_s = rate_kib_s.max(self.rate_kib_s / 2);
            }
        }
        self.last = Some((sample.at_ms, sample.held_kib()));

        if *verdict == Verdict::Warn {
            self.warned = true;
        } else if sample.total_kib < limits.limit_kib / 2 {
            // What was warned of is over (a tool has ended): the next time is news again.
            self.warned = false;
        }

        if sample.total_kib < limits.warn_kib {
            let calm = self.calm.get_or_insert_default();
            calm.total_kib = sample.held_kib();
            calm.client_kib = sample.client_kib;
            calm.subtrees.clear();
            calm.subtrees
                .extend(sample.subtrees.iter().map(|tool| (tool.leader, tool.kib)));
        }

        self.ended.retain(|ended| {
            sample
                .subtrees
                .iter()
                .any(|tool| tool.leader == ended.leader)
        });
        if let Verdict::EndTool(tool) = verdict {
            self.ended.push(Ended {
                leader: tool.leader,
                at_ms: sample.at_ms,
            });
        }
    }

    fn ended(&self, tool: &Subtree) -> Option<&Ended> {
        self.ended.iter().find(|ended| ended.leader == tool.leader)
    }

    /// Whether a tool is what grew since the total was below the first mark: twice as much as the
    /// client, and half of all growth.
    fn grew(&self, tool: &Subtree, sample: &Sample) -> bool {
        let Some(calm) = &self.calm else { return false };
        let was_kib = calm
            .subtrees
            .iter()
            .find(|(leader, _)| *leader == tool.leader)
            .map_or(0, |&(_, kib)| kib);
        let grown_kib = tool.kib.saturating_sub(was_kib);
        let client_kib = sample.client_kib.saturating_sub(calm.client_kib);
        let all_kib = sample.held_kib().saturating_sub(calm.total_kib);
        grown_kib > client_kib.saturating_mul(2) && grown_kib >= all_kib / 2
    }
}

/// What follows from a sample.
///
/// A tool is ended instead of the session if the tools that are bigger than the client, or are
/// what grew, would by their end bring the total below the first mark: the fattest first, one by
/// one. Strays count as tools here: the session started them. A tool that is still there after
/// its grace is not tried again; what it holds is then a reason to restart. Files in memory are a reason to warn, and
/// no more: they stay when processes end.
#[must_use]
pub fn verdict(sample: &Sample, limits: &Limits, history: &History) -> Verdict {
    if limits.limit_kib == 0 || sample.total_kib < limits.warn_kib {
        return Verdict::Quiet;
    }
    let held_kib = sample.held_kib();
    if held_kib < limits.limit_kib {
        if !history.warned {
            return Verdict::Warn;
        }
        let tools_are_it = culprit(sample, limits, history, held_kib).is_some();
        // A restart would end a session that is not at fault, and leave the memory where it is.
        if held_kib < limits.idle_kib || tools_are_it {
            return Verdict::Quiet;
        }
        return Verdict::RestartWhenIdle;
    }
    let leaving_kib = sample
        .subtrees
        .iter()
        .filter(|tool| {
            history.ended(tool).is_some_and(|ended| {
                sample.at_ms.saturating_sub(ended.at_ms) < limits.tool_grace_ms
            })
        })
        .fold(0_u64, |sum, tool| sum.saturating_add(tool.kib));
    let staying_kib = held_kib.saturating_sub(leaving_kib);
    if staying_kib < limits.limit_kib {
        return Verdict::Wait;
    }
    match culprit(sample, limits, history, staying_kib) {
        Some(tool) => Verdict::EndTool(EndTool {
            leader: tool.leader,
            members: sample
                .members(tool)
                .iter()
                .map(|process| process.id)
                .collect(),
            pgid: sample.group_of(tool),
            kib: tool.kib,
        }),
        None => Verdict::Restart,
    }
}

/// The fattest of the tools that are at fault, if all of them together are enough.
fn culprit<'a>(
    sample: &'a Sample,
    limits: &Limits,
    history: &History,
    staying_kib: u64,
) -> Option<&'a Subtree> {
    let at_fault = || {
        sample.subtrees.iter().filter(|tool| {
            history.ended(tool).is_none()
                && (tool.kib > sample.client_kib || history.grew(tool, sample))
        })
    };
    let fault_kib = at_fault().fold(0_u64, |sum, tool| sum.saturating_add(tool.kib));
    if staying_kib.saturating_sub(fault_kib) >= limits.warn_kib {
        return None;
    }
    at_fault().max_by_key(|tool| tool.kib)
}

/// When to look again, milliseconds from now: 100 up to `ceiling_s` seconds (at least one).
///
/// - Never longer than the fastest allocator takes from here to the limit, so one that starts now
///   is seen at the limit, or within 100 ms behind it.
/// - A quarter of the time to the limit at the measured rate. The limit only: aiming at the lower
///   marks too would make the interval shrink towards each of them and jump back behind it, for a
///   warning that may as well come a moment later.
/// - Never so short that looking costs more than 5 % of a core, 20 % near the limit (CPU time, so
///   a busy machine does not blind us). The ceiling stands above that.
#[must_use]
pub fn next_look_ms(sample: &Sample, limits: &Limits, history: &History, ceiling_s: u64) -> u64 {
    let ceiling_ms = ceiling_s.max(1).saturating_mul(1000);
    if limits.limit_kib == 0 {
        return ceiling_ms;
    }
    // Files in memory are looked at on their own.
    let distance_kib = limits.limit_kib.saturating_sub(sample.held_kib());
    let distance = distance_kib.saturating_mul(1000);
    let fastest_ms = distance / FASTEST_KIB_S;
    let quarter_ms = distance
        .checked_div(history.rate_kib_s.saturating_mul(4))
        .unwrap_or(u64::MAX);
    let times = if sample.held_kib() >= limits.idle_kib {
        PAUSE_TIMES_NEAR
    } else {
        PAUSE_TIMES
    };
    let pause_ms = sample.look_cpu_us.saturating_mul(times).div_ceil(1000);
    fastest_ms
        .min(quarter_ms)
        .max(SHORTEST_MS)
        .max(pause_ms)
        .min(ceiling_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::fixture::Random;
    use crate::watch::tree::{Branch, Process};

    const GIB: u64 = 1024 * 1024;
    const GRACE_MS: u64 = 5000;

    fn id(pid: i32) -> ProcessId {
        ProcessId {
            pid,
            start_ticks: pid as u64 * 10,
        }
    }

    /// A client and tools of two processes each: (pid of the leader, KiB).
    fn sample(at_ms: u64, client_kib: u64, tools: &[(i32, u64)]) -> Sample {
        let process = |pid, pgid, kib| Process {
            id: id(pid),
            ppid: 1,
            pgid,
            session: pgid,
            footprint_kib: kib,
            counted_kib: kib,
        };
        let mut sample = Sample {
            at_ms,
            client: id(2),
            client_kib,
            total_kib: client_kib,
            processes: vec![process(2, 2, client_kib)],
            ..Sample::default()
        };
        for &(leader, kib) in tools {
            let first = sample.processes.len();
            sample.processes.push(process(leader, leader, 0));
            sample.processes.push(process(leader + 1, leader, kib));
            sample.total_kib += kib;
            sample.subtrees.push(Subtree {
                leader: id(leader),
                branch: Branch::Tool,
                kib,
                first,
                end: first + 2,
            });
        }
        sample
    }

    /// Judges and notes, as the supervisor does.
    fn step(sample: &Sample, limits: &Limits, history: &mut History) -> Verdict {
        let verdict = verdict(sample, limits, history);
        history.note(sample, limits, &verdict);
        verdict
    }

    fn ended_leader(verdict: &Verdict) -> Option<i32> {
        match verdict {
            Verdict::EndTool(tool) => Some(tool.leader.pid),
            _ => None,
        }
    }

    #[test]
    fn files_in_memory_are_warned_of_and_no_reason_to_restart() {
        let limits = Limits::new(10 * 1024, GRACE_MS);
        let mut history = History::default();
        let with_files = |at_ms, client_kib, files_kib| {
            let mut sample = sample(at_ms, client_kib, &[]);
            sample.total_kib += files_kib;
            sample.files_kib = files_kib;
            sample
        };
        let full = with_files(0, GIB, 11 * GIB);
        assert_eq!(step(&full, &limits, &mut history), Verdict::Warn);
        let full = with_files(1_000, GIB, 12 * GIB);
        assert_eq!(step(&full, &limits, &mut history), Verdict::Quiet);
        assert_eq!(history.rate_kib_s(), 0, "the processes do not grow");
        assert!(
            next_look_ms(&full, &limits, &history, 30) > 1_000,
            "nor near the limit"
        );
        // The session itself is.
        let full = with_files(2_000, 10 * GIB, 12 * GIB);
        assert_eq!(step(&full, &limits, &mut history), Verdict::Restart);
    }

    #[test]
    fn a_growing_client_is_warned_of_once_then_restarted_when_idle_then_at_once() {
        let limits = Limits::new(60 * 1024, GRACE_MS);
        let mut history = History::default();
        let mut said = Vec::new();
        for second in 0..70_u64 {
            let verdict = step(
                &sample(second * 1000, second * GIB, &[]),
                &limits,
                &mut history,
            );
            if said.last().is_none_or(|(_, last)| *last != verdict) {
                said.push((second, verdict));
            }
        }
        assert_eq!(
            said,
            [
                (0, Verdict::Quiet),
                (45, Verdict::Warn),
                (46, Verdict::Quiet),
                (54, Verdict::RestartWhenIdle),
                (60, Verdict::Restart)
            ]
        );
    }

    #[test]
    fn a_jump_over_the_marks_is_warned_of_before_the_idle_restart() {
        let limits = Limits::new(1024, GRACE_MS);
        let mut history = History::default();
        let high = sample(0, 950 * 1024, &[]);
        assert_eq!(step(&high, &limits, &mut history), Verdict::Warn);
        assert_eq!(step(&high, &limits, &mut history), Verdict::RestartWhenIdle);
    }

    #[test]
    fn the_warning_is_news_again_after_the_total_fell_below_half() {
        let limits = Limits::new(1000, GRACE_MS);
        let mut history = History::default();
        let mut warnings = 0;
        for (at, mib) in [800, 600, 800, 760, 490, 800, 800].into_iter().enumerate() {
            let now = sample(at as u64 * 1000, mib * 1024, &[]);
            warnings += u32::from(step(&now, &limits, &mut history) == Verdict::Warn);
        }
        assert_eq!(warnings, 2);
    }

    #[test]
    fn no_limit_is_always_quiet() {
        let limits = Limits::new(0, GRACE_MS);
        let now = sample(0, u64::MAX, &[]);
        assert_eq!(verdict(&now, &limits, &History::default()), Verdict::Quiet);
        assert_eq!(next_look_ms(&now, &limits, &History::default(), 30), 30_000);
    }

    #[test]
    fn a_fat_tool_is_ended_and_the_session_stays() {
        let limits = Limits::new(60 * 1024, GRACE_MS);
        let history = History::default();
        let now = sample(0, GIB, &[(10, GIB), (20, 59 * GIB), (30, 0)]);
        let Verdict::EndTool(tool) = verdict(&now, &limits, &history) else {
            panic!("{:?}", verdict(&now, &limits, &history))
        };
        assert_eq!(tool.leader, id(20));
        assert_eq!(tool.members, [id(20), id(21)]);
        assert_eq!(tool.pgid, Some(20));
        assert_eq!(tool.kib, 59 * GIB);
    }

    #[test]
    fn a_tool_whose_end_would_not_do_is_no_reason_to_spare_the_session() {
        let limits = Limits::new(60 * 1024, GRACE_MS);
        let history = History::default();
        // 46 of 60 would stay.
        let now = sample(0, 46 * GIB, &[(10, 47 * GIB)]);
        assert_eq!(verdict(&now, &limits, &history), Verdict::Restart);
        // Smaller than the client, and nothing known of growth.
        let now = sample(0, 32 * GIB, &[(10, 29 * GIB)]);
        assert_eq!(verdict(&now, &limits, &history), Verdict::Restart);
    }

    #[test]
    fn a_tool_smaller_than_the_client_is_ended_if_it_is_what_grew() {
        let limits = Limits::new(60 * 1024, GRACE_MS);
        let mut history = History::default();
        let before = sample(0, 31 * GIB, &[(10, GIB)]);
        assert_eq!(step(&before, &limits, &mut history), Verdict::Quiet);
        let grown = sample(1000, 32 * GIB, &[(10, 29 * GIB)]);
        assert_eq!(ended_leader(&verdict(&grown, &limits, &history)), Some(10));
        let both = sample(1000, 42 * GIB, &[(10, 18 * GIB)]);
        assert_eq!(verdict(&both, &limits, &history), Verdict::Restart);
    }

    #[test]
    fn several_fat_tools_are_ended_one_by_one_and_waited_for() {
        let limits = Limits::new(60 * 1024, GRACE_MS);
        let mut history = History::default();
        let tools = [(10, 40 * GIB), (20, 50 * GIB), (30, 45 * GIB)];
        let at = |ms| sample(ms, GIB, &tools);
        assert_eq!(ended_leader(&step(&at(0), &limits, &mut history)), Some(20));
        assert_eq!(
            ended_leader(&step(&at(100), &limits, &mut history)),
            Some(30)
        );
        // 41 GiB stay: below the limit.
        assert_eq!(step(&at(200), &limits, &mut history), Verdict::Wait);
        assert_eq!(step(&at(4999), &limits, &mut history), Verdict::Wait);
        // The first one's grace is over and it is still there: its 50 GiB count again, and
        // ending the third would leave them.
        assert_eq!(step(&at(5000), &limits, &mut history), Verdict::Restart);
    }

    #[test]
    fn a_tool_that_left_something_behind_gives_way_to_the_next_one() {
        let limits = Limits::new(60 * 1024, GRACE_MS);
        let mut history = History::default();
        let first = sample(0, GIB, &[(10, 70 * GIB)]);
        assert_eq!(ended_leader(&step(&first, &limits, &mut history)), Some(10));
        // Its leader ended, the fat child lives on as a stray.
        let second = sample(100, GIB, &[(12, 70 * GIB)]);
        assert_eq!(
            ended_leader(&step(&second, &limits, &mut history)),
            Some(12)
        );
        let third = sample(200, GIB, &[]);
        assert_eq!(step(&third, &limits, &mut history), Verdict::Quiet);
        assert!(history.ended.is_empty());
    }

    #[test]
    fn a_reused_pid_is_not_the_tool_that_was_ended() {
        let limits = Limits::new(60 * 1024, GRACE_MS);
        let mut history = History::default();
        step(&sample(0, GIB, &[(10, 70 * GIB)]), &limits, &mut history);
        let mut reused = sample(60_000, GIB, &[(10, 70 * GIB)]);
        reused.subtrees[0].leader.start_ticks += 1;
        assert_eq!(ended_leader(&verdict(&reused, &limits, &history)), Some(10));
    }

    #[test]
    fn an_idle_session_is_not_restarted_for_a_fat_tool() {
        let limits = Limits::new(60 * 1024, GRACE_MS);
        let mut history = History::default();
        let now = sample(0, GIB, &[(10, 55 * GIB)]);
        assert_eq!(step(&now, &limits, &mut history), Verdict::Warn);
        assert_eq!(step(&now, &limits, &mut history), Verdict::Quiet);
    }

    #[test]
    fn the_verdict_rises_with_the_client_and_never_falls() {
        let rank = |verdict: &Verdict| match verdict {
            Verdict::Quiet => 0,
            Verdict::Warn => 1,
            Verdict::RestartWhenIdle => 2,
            Verdict::Restart => 3,
            other => panic!("{other:?} without tools"),
        };
        let mut random = Random::new(1);
        for _ in 0..5000 {
            let limits = Limits::new(1 + random.below(100_000), GRACE_MS);
            let history = History {
                warned: random.below(2) == 0,
                ..History::default()
            };
            let low = random.below(2 * limits.limit_kib);
            let high = low + random.below(limits.limit_kib);
            let low = verdict(&sample(0, low, &[]), &limits, &history);
            let high = verdict(&sample(0, high, &[]), &limits, &history);
            let warned_twice = history.warned && high == Verdict::Warn;
            assert!(
                rank(&low) <= rank(&high) && !warned_twice,
                "{low:?} {high:?}"
            );
        }
    }

    #[test]
    fn hostile_sizes_never_overflow() {
        let mut random = Random::new(2);
        let mut history = History::default();
        for _ in 0..20_000 {
            let mut any = |_| match random.below(4) {
                0 => u64::MAX - random.below(3),
                1 => random.below(10),
                _ => random.next(),
            };
            let limits = Limits::new(any(0), any(0));
            let mut now = sample(any(0), any(0) / 4, &[(10, any(0) / 4), (20, any(0) / 4)]);
            now.look_cpu_us = any(0);
            now.total_kib = any(0);
            let ceiling_s = any(0);
            step(&now, &limits, &mut history);
            let next_ms = next_look_ms(&now, &limits, &history, ceiling_s);
            assert!(next_ms >= 100 && next_ms <= ceiling_s.max(1).saturating_mul(1000));
        }
    }

    fn with_rate(rate_kib_s: u64) -> History {
        History {
            rate_kib_s,
            ..History::default()
        }
    }

    #[test]
    fn the_interval_shrinks_with_the_distance_and_with_the_rate() {
        let mut random = Random::new(3);
        for _ in 0..20_000 {
            let limits = Limits::new(100 + random.below(200_000), GRACE_MS);
            let ceiling_s = 1 + random.below(120);
            let rate = random.below(4 * FASTEST_KIB_S);
            let low = random.below(limits.limit_kib);
            let high = low + random.below(limits.limit_kib);
            let at = |kib, rate| {
                next_look_ms(&sample(0, kib, &[]), &limits, &with_rate(rate), ceiling_s)
            };
            assert!(at(high, rate) <= at(low, rate), "distance");
            assert!(
                at(low, rate + random.below(FASTEST_KIB_S)) <= at(low, rate),
                "rate"
            );
            assert!((100..=ceiling_s * 1000).contains(&at(low, rate)), "bounds");
            let fastest_ms = (limits.limit_kib - low) * 1000 / FASTEST_KIB_S;
            assert!(
                at(low, rate) <= fastest_ms.max(100),
                "the fastest allocator"
            );
        }
        // What it comes to: default limit, quiet client.
        let limits = Limits::new(60 * 1024, GRACE_MS);
        let quiet = sample(0, 400 * 1024, &[]);
        assert_eq!(
            next_look_ms(&quiet, &limits, &History::default(), 30),
            29_804
        );
        assert_eq!(next_look_ms(&quiet, &limits, &History::default(), 5), 5000);
    }

    #[test]
    fn a_dear_look_is_paid_off_before_the_next() {
        let mut random = Random::new(4);
        for _ in 0..5000 {
            let limits = Limits::new(100 + random.below(200_000), GRACE_MS);
            let mut now = sample(0, random.below(limits.limit_kib * 2), &[]);
            now.look_cpu_us = random.below(400_000);
            let next_ms = next_look_ms(&now, &limits, &with_rate(FASTEST_KIB_S), 30);
            let times = if now.total_kib < limits.idle_kib {
                20
            } else {
                4
            };
            assert!(next_ms * 1000 >= now.look_cpu_us * times);
        }
    }

    /// An allocator that rests for any time and then grows at rates up to the fastest, changing
    /// them at any moment; looked at in the intervals that we compute ourselves.
    #[test]
    fn every_allocator_is_caught_within_100_ms_of_the_limit() {
        let mut random = Random::new(5);
        let mut latest_us = 0;
        for run in 0..3000 {
            let limits = Limits::new(500 + random.below(120_000), GRACE_MS);
            let ceiling_s = 1 + random.below(60);
            let mut kib = random.below(limits.limit_kib) as f64;
            let mut history = History::default();
            // Microseconds; a look is an instant and its cost is up to 5 ms of CPU.
            let mut now_us = 0_u64;
            let mut look_us = 0_u64;
            let mut rate = 0.0;
            let mut rate_until_us = random.below(90_000_000);
            let crossed_us = loop {
                if now_us == look_us {
                    let mut seen = sample(now_us / 1000, kib as u64, &[]);
                    seen.look_cpu_us = random.below(5000);
                    let verdict = step(&seen, &limits, &mut history);
                    assert_ne!(verdict, Verdict::Restart, "not yet at the limit");
                    look_us += 1000 * next_look_ms(&seen, &limits, &history, ceiling_s);
                }
                if now_us == rate_until_us {
                    rate = match (run % 3, random.below(3)) {
                        (0, _) | (_, 0) => FASTEST_KIB_S as f64,
                        (_, 1) => random.below(FASTEST_KIB_S) as f64,
                        _ => random.below(200 * 1024) as f64,
                    };
                    rate_until_us += 1 + random.below(20_000_000);
                }
                let next_us = look_us.min(rate_until_us);
                let after = kib + rate * (next_us - now_us) as f64 / 1e6;
                if after >= limits.limit_kib as f64 {
                    break now_us + ((limits.limit_kib as f64 - kib) / rate * 1e6) as u64;
                }
                kib = after;
                now_us = next_us;
            };
            let late_us = look_us.saturating_sub(crossed_us);
            assert!(late_us <= 101_000, "run {run}: {late_us} us");
            latest_us = latest_us.max(late_us);
        }
        assert!(
            latest_us > 50_000,
            "the bound is not met by chance: {latest_us} us"
        );
    }
}
