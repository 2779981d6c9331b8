//! `mock-api [--own-network] [--scenario FILE] [--log FILE] [--tls DIR]`: the mock of the Messages
//! API as a program. Prints `listening URL` once it accepts connections, and ends when its stdin
//! ends, so that it never outlives the test that holds the other end of that pipe.
//!
//! `--own-network` moves it into a network namespace of its own first; others join it through
//! `/proc/PID/ns/net`. `--tls DIR` serves HTTPS and writes `DIR/ca.pem` for `NODE_EXTRA_CA_CERTS`.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use claude_safe_tests::mock::{Mock, Options, Scenario};
use claude_safe_tests::netns;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("mock-api: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut scenario = Scenario::default();
    let mut options = Options::default();
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .map(PathBuf::from)
                .ok_or(format!("{argument:?} needs a value"))
        };
        match argument.to_str() {
            // First, while there is a single thread.
            Some("--own-network") => netns::enter_own().map_err(|e| format!("own network: {e}"))?,
            Some("--scenario") => {
                let path = value()?;
                let text = std::fs::read_to_string(&path)
                    .map_err(|e| format!("{}: {e}", path.display()))?;
                scenario = Scenario::from_json(&text)?;
            }
            Some("--log") => options.log = Some(value()?),
            Some("--tls") => options.tls_dir = Some(value()?),
            _ => return Err(format!("unknown option {argument:?}")),
        }
    }
    let mock = Mock::start(scenario, options).map_err(|e| format!("start: {e}"))?;
    let mut out = io::stdout();
    writeln!(out, "listening {}", mock.url())
        .and_then(|()| out.flush())
        .map_err(|e| e.to_string())?;
    io::copy(&mut io::stdin().take(u64::MAX), &mut io::sink()).map_err(|e| e.to_string())?;
    Ok(())
}
