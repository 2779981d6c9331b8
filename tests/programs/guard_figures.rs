//! `guard-figures`: what a call of malloc or free costs behind the guard, beside glibc alone and
//! two other allocators as preloads, all in one run. Prints figures and ratios; judges nothing.
//!
//! The rivals take turns, so that all see the same machine. `--quick`: fewer turns. `--libraries FOLDER`: look there, too, for
//! the other allocators (Debian: libjemalloc2, libmimalloc2.0).

use claude_safe_tests::artifacts::build_program;
use claude_safe_tests::{Sandbox, program};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[path = "../src/guarded.rs"]
mod guarded;

use guarded::Rival;

const SIZE: usize = 160;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let turns = if arguments.iter().any(|word| word == "--quick") {
        7
    } else {
        21
    };
    let folder = arguments
        .iter()
        .skip_while(|word| *word != "--libraries")
        .nth(1)
        .map(PathBuf::from);

    let mut rivals = vec![
        ("glibc", Rival::Glibc),
        ("standby", Rival::Standby),
        ("active", Rival::Active),
    ];
    for (name, file) in [
        ("jemalloc", "libjemalloc.so.2"),
        ("mimalloc", "libmimalloc.so.2"),
    ] {
        match library(folder.as_deref(), file) {
            Some(library) => rivals.push((name, Rival::Preload(library))),
            None => println!("skipped: {name}: {file} is not here"),
        }
    }

    build_program("percall");
    let percall = program("percall");
    let mut order = Vec::new();
    let mut figures: BTreeMap<(String, &str), Vec<f64>> = BTreeMap::new();
    for _ in 0..turns {
        for (name, rival) in &rivals {
            for (scenario, ns) in measured(rival, &percall) {
                if !order.contains(&scenario) {
                    order.push(scenario.clone());
                }
                figures.entry((scenario, name)).or_default().push(ns);
            }
        }
    }

    for values in figures.values_mut() {
        values.sort_by(f64::total_cmp);
    }
    // A busy neighbour on the same core slows all rivals down by half, for seconds: the median
    // shows it, the shortest hardly ever does.
    for (title, at) in [("shortest", 0), ("median", turns / 2)] {
        println!(
            "nanoseconds per call of malloc or free, {title} of {turns} turns; below: times glibc"
        );
        print!("{:22}", "");
        for (name, _) in &rivals {
            print!("{name:>10}");
        }
        println!("{:>18}", "standby - glibc");
        for scenario in &order {
            let figure = |name: &'static str| figures[&(scenario.clone(), name)][at];
            print!("{scenario:22}");
            for (name, _) in &rivals {
                print!("{:10.2}", figure(name));
            }
            println!("{:+18.2}", figure("standby") - figure("glibc"));
            print!("{:22}", "");
            for (name, _) in &rivals {
                print!("{:10.2}", figure(name) / figure("glibc"));
            }
            println!();
        }
    }
}

/// One run of the loops: scenario and nanoseconds per call.
fn measured(rival: &Rival, percall: &Path) -> Vec<(String, f64)> {
    let sandbox = Sandbox::new();
    let mut command = guarded::command(&sandbox, rival, SIZE, &[], percall);
    let output = command.arg("quick").output().expect("it starts");
    let complaint = String::from_utf8_lossy(&output.stderr);
    // The loader only complains when it can't preload: the run would be glibc's.
    assert!(
        output.status.success() && complaint.is_empty(),
        "{rival:?}: {complaint}"
    );
    if matches!(rival, Rival::Standby | Rival::Active) {
        let page = guarded::page(&sandbox, rival);
        assert!(page.first().alloc > 1000, "nothing was counted: {page:?}");
        let pooled = page.first().pool_hit > 1000;
        assert_eq!(pooled, *rival == Rival::Active, "{page:?}");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .map(|(scenario, ns)| (scenario.to_owned(), ns.parse().expect("nanoseconds")))
        .collect()
}

/// The library, from the folder that was named or where the distributions put libraries.
fn library(folder: Option<&Path>, file: &str) -> Option<PathBuf> {
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let usual = [&multiarch, "/usr/lib64", "/usr/lib", "/usr/local/lib"];
    let folders = folder.into_iter().chain(usual.map(Path::new));
    let mut paths = folders.map(|folder| folder.join(file));
    paths.find(|path| path.is_file())
}
