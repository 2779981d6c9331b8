//! `runtime-figures [--rounds N] [--runs N]`: what the guard costs real runtimes. A session of the
//! JavaScript client 2.1.81 in Node 20, bare and in standby in turn; the leaking loop of Bun 1.2.18,
//! bare and with an active pool in turn; bytes per leaked object. Prints medians and ratios with
//! their range; judges nothing.

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use claude_safe_tests::clients::{prepare_home, set_up};
use claude_safe_tests::runtimes::stats_page::State;
use claude_safe_tests::runtimes::{
    LeakLoop, Orders, Runtime, STANDBY_MIB, Took, handed_over, js_client, read_page,
};
use claude_safe_tests::{Isolated, Sandbox, Scenario};

fn main() -> ExitCode {
    let (mut rounds, mut runs) = (60, 9);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let number = words.next().and_then(|n| n.parse().ok());
        match (word.as_str(), number) {
            ("--rounds", Some(number)) => rounds = number,
            ("--runs", Some(number)) if number > 0 => runs = number,
            _ => {
                eprintln!("usage: runtime-figures [--rounds N] [--runs N]");
                return ExitCode::from(2);
            }
        }
    }
    let mut whole = true;
    for figure in [session(rounds, runs), leak(runs)] {
        if let Err(why) = figure {
            println!("  skipped: {why}");
            whole = false;
        }
    }
    ExitCode::from(u8::from(!whole))
}

/// Minimum, median, maximum.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (
        values[0],
        values[values.len() / 2],
        values[values.len() - 1],
    )
}

/// One round of runs: bare, guarded, and bare again.
type Round = [Took; 3];

/// Milliseconds of one kind.
type Measure = fn(&Took) -> f64;

/// Prints the series and their ratios, by the wall and by the processors. On a machine that others
/// use too, the median of the ratios by round says more than the ratio of the medians; the second
/// bare series against the first one shows what is noise.
fn compare(guarded: &str, rounds: &[Round]) {
    let measures: [(&str, Measure); 2] = [("wall", |t| t.wall_ms), ("cpu", |t| t.cpu_ms)];
    let names = ["bare", guarded, "bare again"];
    for (measure, of) in measures {
        let series = |which: usize| rounds.iter().map(move |round| of(&round[which]));
        for (which, name) in names.into_iter().enumerate() {
            let (least, median, most) = spread(series(which).collect());
            println!("  {name}, {measure}: median {median:.1} ms (min {least:.1}, max {most:.1})");
        }
        let whole = |which: usize| spread(series(which).collect()).1;
        for which in [1, 2] {
            let ratios = series(which).zip(series(0)).map(|(one, bare)| one / bare);
            let (least, median, most) = spread(ratios.collect());
            println!(
                "  {} to bare, {measure}: ratio of medians {:.4}, median by round {median:.4} (min {least:.3}, max {most:.3}, {} rounds)",
                names[which],
                whole(which) / whole(0),
                rounds.len()
            );
        }
    }
}

/// Runs all three in turn; another one goes first each time.
fn in_turn(runs: u32, mut run: impl FnMut(bool) -> Took) -> Vec<Round> {
    (0..runs as usize)
        .map(|number| {
            let mut round = [None; 3];
            for place in 0..3 {
                let which = (number + place) % 3;
                round[which] = Some(run(which == 1));
            }
            round.map(|took| took.expect("each was run"))
        })
        .collect()
}

fn session(rounds: u32, runs: u32) -> Result<(), String> {
    println!("client 2.1.81 in Node 20, {rounds} rounds over TLS: bare, and the guard in standby");
    let (node, client) = (Runtime::Node.program()?, js_client()?);
    let sandbox = Sandbox::new();
    prepare_home(&sandbox);
    let scenario = Scenario {
        rounds,
        ..Scenario::default()
    };
    let mock = Isolated::start(&sandbox, &scenario, true)?;
    let orders = Orders {
        sizes: "160",
        threshold_mib: STANDBY_MIB,
    };
    let time = |guarded: bool| {
        let mut command = if guarded {
            handed_over(&sandbox, &orders, &node)
        } else {
            // The same shell in front.
            let mut command = sandbox.command("/bin/sh");
            command.args(["-c", "exec \"$@\"", "sh"]).arg(&node);
            command
        };
        command
            .arg(&client)
            .args(["-p", "do the rounds", "--dangerously-skip-permissions"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        set_up(&mut command, &mock).expect("the mock lives");
        let took = timed(command);
        if guarded {
            // The premise.
            assert_eq!(read_page(&sandbox).state, State::Standby);
        }
        took
    };
    // The first one fills the caches.
    time(false);
    compare("standby", &in_turn(runs, time));
    Ok(())
}

/// Runs to the end: the client, and the tools that it waited for.
fn timed(mut command: Command) -> Took {
    let (began, before_ms) = (Instant::now(), children_cpu_ms());
    let output = command.output().expect("it starts");
    let wall_ms = began.elapsed().as_secs_f64() * 1e3;
    assert!(output.status.success(), "{output:?}");
    Took {
        wall_ms,
        cpu_ms: children_cpu_ms() - before_ms,
    }
}

/// Processor time of all children that were waited for, milliseconds (getrusage(2)).
fn children_cpu_ms() -> f64 {
    // SAFETY: rusage is plain old data, for which all-zero is valid; the call writes only there.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    let ms = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    ms(usage.ru_utime) + ms(usage.ru_stime)
}

fn leak(runs: u32) -> Result<(), String> {
    const CONNECTIONS: u64 = 40_000;
    println!("Bun 1.2.18, {CONNECTIONS} failing connections: bare, and with the pool active");
    let bun = Runtime::Bun.program()?;
    let sandbox = Sandbox::new();
    let orders = Orders {
        sizes: "160",
        threshold_mib: 0,
    };
    let (mut heap, mut pool, mut all) = (vec![], vec![], [vec![], vec![]]);
    let rounds = in_turn(runs, |guarded| {
        let mut bun = LeakLoop::start(if guarded {
            handed_over(&sandbox, &orders, &bun)
        } else {
            sandbox.command(&bun)
        });
        bun.fail(5000);
        let page = || guarded.then(|| read_page(&sandbox));
        let before = bun.resident(page().as_ref());
        let took = bun.fail(CONNECTIONS);
        let last = page();
        if let Some(page) = &last {
            // The premise.
            assert_eq!(page.state, State::Active);
            assert!(page.first().pool_hit >= CONNECTIONS, "{page:?}");
        }
        let after = bun.resident(last.as_ref());
        let each = |kib: u64| kib as f64 * 1024.0 / CONNECTIONS as f64;
        let objects = after.heap_kib + after.slabs_kib - before.heap_kib - before.slabs_kib;
        if guarded { &mut pool } else { &mut heap }.push(each(objects));
        all[usize::from(guarded)].push(each(after.all_kib.saturating_sub(before.all_kib)));
        took
    });
    compare("active", &rounds);
    println!(
        "  bytes per leaked object: glibc {:.1}, pool {:.1}",
        spread(heap).1,
        spread(pool).1
    );
    let [bare, active] = all.map(|bytes| spread(bytes).1);
    println!("  all anonymous memory per connection: bare {bare:.0}, active {active:.0} bytes");
    Ok(())
}
