//! `cargo leak-picture [FILE]`: records the same leak twice, at the same time, and draws both: the stand-in for claude
//! under claude-safe with a limit of 512 MiB, and alone, until it has 2 GiB. Nothing is made up: the one curve is
//! claude-safe's own history, the other what the kernel says each second. Takes about four minutes; FILE is
//! `wrapper/doc/leak.svg` if it is not given.

use claude_safe::history::{Kind, incidents, ring};
use claude_safe::picture::{Curve, Picture, Tone, svg};
use claude_safe::state;
use claude_safe_tests::artifacts::{build_program, workspace};
use claude_safe_tests::pty::send_signal;
use claude_safe_tests::{KillOnDrop, Sandbox, artifacts, program};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, SystemTime};

const LIMIT_MIB: u64 = 512;
const LEAK_MIB_PER_S: u64 = 8;
/// The one that is alone is ended here: it would go on.
const BOUND_KIB: u64 = 2 << 20;
const AT_MOST: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let given = std::env::args_os().nth(1).map(Into::into);
    let file = given.unwrap_or_else(|| workspace().join("wrapper/doc/leak.svg"));
    build_program("fake-claude");
    let drawn = record().and_then(|picture| {
        std::fs::write(&file, svg(&picture)).map_err(|error| format!("{}: {error}", file.display()))
    });
    match drawn {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed();
    now.map_or(0, |since| since.as_millis() as u64)
}

/// RssAnon and VmSwap of a process, KiB (proc_pid_status(5)).
fn footprint_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    Some(of("RssAnon:")? + of("VmSwap:")?)
}

fn record() -> Result<Picture, String> {
    let (with, alone) = (Sandbox::new(), Sandbox::new());
    let plan = format!("leak_mib=4096;leak_mib_per_s={LEAK_MIB_PER_S};rounds=10000;round_ms=500");
    let start = |mut command: Command| {
        command.args(["-p", "work"]).env("FAKE_CLAUDE", &plan);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
            .spawn()
            .map(KillOnDrop)
            .map_err(|error| error.to_string())
    };
    let mut wrapped = with.command(&artifacts().claude_safe);
    wrapped
        .env("CLAUDE_SAFE_BIN", program("fake-claude"))
        .env("CLAUDE_WATCHDOG_THRESHOLD_MB", LIMIT_MIB.to_string());
    let began_ms = now_ms();
    let mut wrapped = start(wrapped)?;
    let lonely = start(alone.command(program("fake-claude")))?;
    let mut without: Vec<(u64, u64)> = Vec::new();
    let past_end = |at_ms: u64| at_ms > AT_MOST.as_millis() as u64;
    loop {
        let at_ms = now_ms().saturating_sub(began_ms);
        let kib = footprint_kib(lonely.0.id()).ok_or("the one that is alone has ended")?;
        without.push((at_ms, kib));
        if kib >= BOUND_KIB {
            break;
        }
        if past_end(at_ms) {
            return Err(format!("only {kib} KiB after {at_ms} ms"));
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    drop(lonely);
    send_signal(wrapped.0.id().cast_signed(), libc::SIGTERM).map_err(|error| error.to_string())?;
    let _ = wrapped.0.wait();
    let folder = with.state().join("claude-safe/history");
    let [kept] = state::all(&folder)
        .try_into()
        .map_err(|_| "there is no history")?;
    let past = ring::read(&kept.path).map_err(|error| error.to_string())?;
    let told =
        incidents::of_session(&folder, past.header.wrapper).map_err(|error| error.to_string())?;
    let since = |at_unix_ms: u64| at_unix_ms.saturating_sub(began_ms);
    let restarts = told
        .iter()
        .filter(|incident| incident.kind == Kind::Restarted);
    Ok(Picture {
        title: "The same leak, with and without claude-safe".to_owned(),
        subtitle: format!(
            "A stand-in for claude that leaks {LEAK_MIB_PER_S} MiB/s, recorded twice; alone it was stopped at 2 GiB"
        ),
        curves: vec![
            Curve {
                name: "with claude-safe".to_owned(),
                tone: Tone::Main,
                points: past
                    .points
                    .iter()
                    .map(|point| (since(point.at_unix_ms), point.total_kib))
                    .collect(),
            },
            Curve {
                name: "without".to_owned(),
                tone: Tone::Other,
                points: without,
            },
        ],
        limits: vec![("tier 2".to_owned(), LIMIT_MIB << 10)],
        events: restarts
            .map(|incident| (since(incident.at_unix_ms), "restarted, resumed".to_owned()))
            .collect(),
    })
}
