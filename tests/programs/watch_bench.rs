//! What a look costs: nanoseconds for trees of 1, 10 and 100 processes of 20 threads each, beside
//! a reader that lists everything by path and asks `smaps_rollup` of every process. Both walk the
//! same tree in turn, and the shortest of several rounds counts: trust the ratio.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use claude_safe::watch::{Look, Watcher};

const ROUNDS: u32 = 15;
const THREADS: u32 = 20;

fn main() {
    println!("processes  threads  look_ns  naive_ns  naive/look  core_at_100_ms  watcher_kib");
    for processes in [1_u32, 10, 100] {
        let mut target = Command::new(beside("watch-target"))
            .args(["tree", &processes.to_string(), &THREADS.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("watch-target");
        let mut line = String::new();
        BufReader::new(target.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("ready");
        assert_eq!(line, "ready\n");

        let root = target.id() as i32;
        let before_kib = own_anon_kib();
        let mut watcher = Watcher::new(Path::new("/proc"), root, Vec::new());
        let mut count = || match watcher.look(0, 0) {
            Look::Running(sample) => sample.processes.len(),
            Look::ClientGone(_) => 0,
        };
        // The first look has to find them, the second opens the handles.
        assert_eq!((count(), count()), (processes as usize, processes as usize));
        let watcher_kib = own_anon_kib().saturating_sub(before_kib);
        let repeat = 200 / processes.min(100);
        let (mut look_ns, mut naive_ns) = (u128::MAX, u128::MAX);
        for _ in 0..ROUNDS {
            let started = Instant::now();
            for _ in 0..repeat {
                assert_eq!(count(), processes as usize);
            }
            look_ns = look_ns.min(started.elapsed().as_nanos() / u128::from(repeat));
            let started = Instant::now();
            let mut seen = 0;
            naive(root, &mut seen);
            assert_eq!(seen, processes);
            naive_ns = naive_ns.min(started.elapsed().as_nanos());
        }
        let ratio = naive_ns as f64 / look_ns as f64;
        let core = look_ns as f64 / 1e8 * 100.0;
        println!(
            "{processes:9}  {THREADS:7}  {look_ns:7}  {naive_ns:8}  {ratio:10.1}  {core:13.3}%  {watcher_kib:11}"
        );
        drop(target.stdin.take());
        target.wait().expect("its end");
    }
}

fn beside(name: &str) -> std::path::PathBuf {
    std::env::current_exe()
        .expect("own path")
        .with_file_name(name)
}

/// RssAnon of this program.
fn own_anon_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let word = line.and_then(|line| line.split_ascii_whitespace().next());
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Every thread by path, PSS of everybody.
fn naive(pid: i32, seen: &mut u32) -> u64 {
    *seen += 1;
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let mut kib = rollup
        .lines()
        .filter(|line| line.starts_with("Pss_Anon:") || line.starts_with("SwapPss:"))
        .filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return kib;
    };
    for thread in threads.flatten() {
        let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_ascii_whitespace() {
            kib += child.parse().map_or(0, |child| naive(child, seen));
        }
    }
    kib
}
