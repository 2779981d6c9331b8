//! `fetch-client VERSION...`: fetches pinned versions of the real client (`2.1.110`), of its
//! JavaScript edition (`js-2.1.81`) and of a runtime for it (`bun-1.2.18`) from npm for the tests that want it, with `npm pack` (no install script runs), and unpacks them to
//! `.cache/clients/VERSION/` (or below `CLAUDE_SAFE_TEST_CLIENTS`). A tarball whose SHA-512 is not
//! the pinned one is not unpacked. Without arguments it names the versions it knows.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use claude_safe_tests::clients::{PINNED, PINNED_JS, Pinned, clients_dir, pinned, real_client};

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.is_empty() {
        let all = PINNED.iter().chain(PINNED_JS);
        let known: Vec<&str> = all.map(|p| p.version).collect();
        eprintln!("usage: fetch-client VERSION...   ({})", known.join(", "));
        return ExitCode::from(2);
    }
    let mut failed = false;
    for version in wanted {
        match fetch(&version) {
            Ok(what) => println!("{version}: {what}"),
            Err(reason) => {
                eprintln!("{version}: {reason}");
                failed = true;
            }
        }
    }
    ExitCode::from(u8::from(failed))
}

fn fetch(version: &str) -> Result<String, String> {
    let pinned = pinned(version).ok_or("not a pinned version")?;
    if let Some(path) = real_client(version) {
        return Ok(format!("already there: {}", path.display()));
    }
    let target = clients_dir().join(version);
    let partial = clients_dir().join(format!("{version}.partial-{}", std::process::id()));
    fs::create_dir_all(&partial).map_err(|e| format!("{}: {e}", partial.display()))?;
    let result = download(pinned, &partial).and_then(|()| {
        fs::rename(partial.join("package"), &target)
            .map_err(|e| format!("{}: {e}", target.display()))
    });
    let _ = fs::remove_dir_all(&partial);
    result.map(|()| target.display().to_string())
}

fn download(pinned: &Pinned, folder: &Path) -> Result<(), String> {
    run(Command::new("npm")
        .args(["pack", "--silent", "--pack-destination", "."])
        .arg(pinned.package)
        .current_dir(folder))?;
    let tarball = fs::read_dir(folder)
        .map_err(|e| e.to_string())?
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "tgz"))
        .ok_or("npm pack left no tarball")?;
    let bytes = fs::read(&tarball).map_err(|e| e.to_string())?;
    let digest = ring::digest::digest(&ring::digest::SHA512, &bytes);
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    if hex != pinned.sha512 {
        return Err(format!(
            "the tarball's SHA-512 is {hex}, pinned is {}",
            pinned.sha512
        ));
    }
    run(Command::new("tar")
        .arg("-xzf")
        .arg(tarball)
        .current_dir(folder))
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|e| format!("{name}: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{name}: {status}"))
    }
}
