//! `runtime-figures [--rounds N] [--runs N]`: what the guard costs real runtimes. A session of the
//! JavaScript client 2.1.81 in Node 20, bare and in standby in turn; the leaking loop of Bun 1.2.18,
//! bare and with an active pool in turn; bytes per leaked object. Prints medians and ratios with
//! their range; judges nothing.

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use claude_safe_tests::clients::{prepare_home, set_up};
use claude_safe_tests::runtimes::{
    LeakLoop, Orders, Runtime, STANDBY_MIB, handed_over, js_client, read_page,
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

/// Prints both series and the ratio of their medians, and the range of the ratios by pair.
fn compare(unit: &str, names: [&str; 2], pairs: &[(f64, f64)]) {
    let ratios = pairs.iter().map(|(a, b)| b / a).collect();
    let (first, second): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let (first, second) = (spread(first), spread(second));
    for (name, (least, median, most)) in names.into_iter().zip([first, second]) {
        println!("  {name}: median {median:.1} {unit} (min {least:.1}, max {most:.1})");
    }
    let (least, _, most) = spread(ratios);
    println!(
        "  ratio of medians: {:.4} (by pair min {least:.3}, max {most:.3}, {} pairs)",
        second.1 / first.1,
        pairs.len()
    );
}

/// Runs both in turn, the one that goes first in turn too.
fn in_turn(runs: u32, mut run: impl FnMut(bool) -> f64) -> Vec<(f64, f64)> {
    (0..runs)
        .map(|number| {
            if number % 2 == 0 {
                let bare = run(false);
                (bare, run(true))
            } else {
                let guarded = run(true);
                (run(false), guarded)
            }
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
        let ms = timed(command);
        if guarded {
            println!("    {:?}", read_page(&sandbox).state);
        }
        ms
    };
    // The first one fills the caches.
    time(false);
    compare("ms", ["bare", "standby"], &in_turn(runs, time));
    Ok(())
}

/// Milliseconds of user and system time and waiting: what a user waits for.
fn timed(mut command: Command) -> f64 {
    let began = Instant::now();
    let output = command.output().expect("it starts");
    let took = began.elapsed();
    assert!(output.status.success(), "{output:?}");
    took.as_secs_f64() * 1e3
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
    let mut state = None;
    let pairs = in_turn(runs, |guarded| {
        let mut bun = LeakLoop::start(if guarded {
            handed_over(&sandbox, &orders, &bun)
        } else {
            sandbox.command(&bun)
        });
        bun.fail(5000);
        let page = || guarded.then(|| read_page(&sandbox));
        let before = bun.resident(page().as_ref());
        let ms = bun.fail(CONNECTIONS);
        let last = page();
        let after = bun.resident(last.as_ref());
        let each = |kib: u64| kib as f64 * 1024.0 / CONNECTIONS as f64;
        let objects = after.heap_kib + after.slabs_kib - before.heap_kib - before.slabs_kib;
        if guarded { &mut pool } else { &mut heap }.push(each(objects));
        all[usize::from(guarded)].push(each(after.all_kib.saturating_sub(before.all_kib)));
        state = last.map(|page| page.state).or(state);
        ms
    });
    println!("    {state:?}");
    compare("ms", ["bare", "active"], &pairs);
    println!(
        "  bytes per leaked object: glibc {:.1}, pool {:.1}",
        spread(heap).1,
        spread(pool).1
    );
    let [bare, active] = all.map(|bytes| spread(bytes).1);
    println!("  all anonymous memory per connection: bare {bare:.0}, active {active:.0} bytes");
    Ok(())
}
