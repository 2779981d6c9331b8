//! The output files of tools while they are written, from outside: who is ended, who is warned of, who is left alone.
//! Tools are scripts of the stand-in client; file systems are mounted in namespaces of the test's own.

use claude_safe_tests::{
    Artifacts, KillOnDrop, Sandbox, artifacts, proc_view, program, skip, wait_until,
};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// Writes as fast as it goes, and says with its last words that nobody has stopped it.
const FLOOD: &str = "dd if=/dev/zero bs=1M count=COUNT 2>/dev/null\necho done >> \"$HOME/done\"\n";

fn flood(mib: u64) -> String {
    FLOOD.replace("COUNT", &mib.to_string())
}

/// `claude-safe` whose client runs this script once as its tool, and finishes.
fn session(sandbox: &Sandbox, script: &str) -> Command {
    let mut command = sandbox.command(&artifacts().claude_safe);
    set_up(&mut command, sandbox, &program("fake-claude"), script);
    command
}

fn set_up(command: &mut Command, sandbox: &Sandbox, client: &Path, script: &str) {
    let path = sandbox.file("tool.sh");
    fs::write(&path, script).expect("a script");
    command
        .args(["-p", "do it"])
        .env("CLAUDE_SAFE_BIN", client)
        .env("CLAUDE_SAFE_CONTAIN", "off")
        .env("FAKE_CLAUDE", format!("rounds=1;script={}", path.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
}

fn limits(command: &mut Command, warn_mib: u64, max_mib: u64) -> &mut Command {
    command
        .env("CLAUDE_SAFE_OUTPUT_WARN_MB", warn_mib.to_string())
        .env("CLAUDE_SAFE_OUTPUT_MAX_MB", max_mib.to_string())
}

/// Writes 20 MiB a second for a minute or two: whoever is slow to look still finds it writing.
const STEADY: &str = "for i in $(seq 600); do dd if=/dev/zero bs=1M count=2 2>/dev/null; sleep 0.1; done\n\
    echo done >> \"$HOME/done\"\n";

/// What it said on standard error; it must have come to its own end.
fn finished(command: &mut Command) -> String {
    let output = command.output().expect("claude-safe");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stdout.contains("ALL DONE"), "the session lives: {stderr}");
    stderr
}

fn was_done(sandbox: &Sandbox) -> bool {
    sandbox.home().join("done").exists()
}

/// Is there a mount namespace for us? Then the command runs `script` in one, and the arguments behind it.
fn in_own_mounts(sandbox: &Sandbox, script: &str) -> Option<Command> {
    let mut unshare = Command::new("unshare");
    let works = unshare.args(["--mount", "true"]).stderr(Stdio::null());
    if !works.status().is_ok_and(|status| status.success()) {
        return None;
    }
    let mut command = sandbox.command("/usr/bin/unshare");
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["--mount", "--propagation", "private", "bash", "-ec"])
        .arg(format!("{script}\nexec \"$@\""))
        .arg("bash")
        .arg(&artifacts().claude_safe);
    Some(command)
}

/// The outputs below a temporary folder.
fn outputs(tmp: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![tmp.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == "output") {
                found.push(path);
            }
        }
    }
    found
}

fn start(command: &mut Command) -> KillOnDrop {
    KillOnDrop(command.spawn().expect("it starts"))
}

fn stderr_of(mut child: KillOnDrop) -> (Option<i32>, String) {
    let status = wait_until("its end", PATIENCE, || child.0.try_wait().expect("ours"));
    (
        status.code(),
        std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap(),
    )
}

/// What was seen of a small disk: MiB in all, free before and after, and what was said.
struct SmallDisk {
    free_before_mib: u64,
    free_after_mib: u64,
    said: String,
}

/// A session that runs the script as its tool and has its temporary folder on a file system of 6 GiB; it must live.
/// `Err`: there can be no such file system here.
fn on_6_gib(sandbox: &Sandbox, script: &str) -> Result<SmallDisk, String> {
    let mount = sandbox.file("disk");
    fs::create_dir(&mount).expect("a folder");
    let image = sandbox.file("image");
    let made = fs::File::create(&image).and_then(|file| file.set_len(6 << 30));
    made.expect("a sparse file");
    let mkfs = Command::new("/sbin/mkfs.ext4")
        .args(["-q", "-F", "-m", "0"])
        .arg(&image)
        .status();
    if !mkfs.is_ok_and(|status| status.success()) {
        return Err("no mkfs.ext4".to_owned());
    }
    let free = sandbox.file("free");
    // Free blocks at both ends are written down inside, where they can be seen.
    let around = format!(
        "mount -o loop '{0}' '{1}'; mkdir '{1}/tmp'; stat -f -c '%a %S' '{1}' > '{2}'\n\
         trap 'stat -f -c \"%a %S\" '{1}' >> '{2}'' EXIT\n\"$@\"; exit",
        image.display(),
        mount.display(),
        free.display()
    );
    let mut command = in_own_mounts(sandbox, &around).ok_or("no mount namespace")?;
    set_up(&mut command, sandbox, &program("fake-claude"), script);
    let output = command
        .env("TMPDIR", mount.join("tmp"))
        .output()
        .expect("unshare");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("mount: ") {
        return Err(format!("no loop mount: {said}"));
    }
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("ALL DONE"),
        "{said}"
    );
    let text = fs::read_to_string(&free).expect("numbers");
    let numbers: Vec<u64> = text
        .split_ascii_whitespace()
        .map(|word| word.parse().expect("a number"))
        .collect();
    let mib = |blocks: u64| blocks * numbers[1] / MIB;
    let disk = SmallDisk {
        free_before_mib: mib(numbers[0]),
        free_after_mib: mib(numbers[2]),
        said,
    };
    println!(
        "{} MiB free before, {} after: {}",
        disk.free_before_mib, disk.free_after_mib, disk.said
    );
    Ok(disk)
}

fn assert_ended_in_time(sandbox: &Sandbox, disk: &SmallDisk) {
    assert!(disk.said.contains("ending the tool "), "{}", disk.said);
    assert!(!was_done(sandbox), "the tool came to its own end");
    assert!(disk.free_after_mib > 0, "the file system is full");
    let written_mib = disk.free_before_mib - disk.free_after_mib;
    assert!(written_mib > 256, "nothing much was written");
}

#[test]
fn a_flood_is_ended_before_a_file_system_of_6_gib_is_full_and_the_session_lives() {
    let sandbox = Sandbox::new();
    // 8 GiB do not fit: without the guard the disk is full.
    match on_6_gib(&sandbox, &flood(8192)) {
        Ok(disk) => assert_ended_in_time(&sandbox, &disk),
        Err(why) => skip!("{why} here"),
    }
}

#[test]
fn a_file_that_takes_a_gib_each_second_is_ended_before_6_gib_are_full() {
    let sandbox = Sandbox::new();
    // Whatever this machine's disk can do: blocks are taken by the clock and never written. Deaf to TERM as well.
    let by_the_clock = "trap '' TERM; file=$(readlink /proc/$$/fd/1); have=0; began=${EPOCHREALTIME/./}\n\
         while [ $have -lt 8192 ]; do want=$(((${EPOCHREALTIME/./} - began) / 977))\n\
         if [ $want -gt $have ]; then fallocate -l ${want}MiB \"$file\" || break; have=$want; fi\n\
         sleep 0.01; done\necho done >> \"$HOME/done\"\n";
    match on_6_gib(&sandbox, by_the_clock) {
        Ok(disk) => assert_ended_in_time(&sandbox, &disk),
        Err(why) => skip!("{why} here"),
    }
}

#[test]
fn a_tool_is_warned_of_and_ended_at_its_limit_and_the_command_is_named() {
    let sandbox = Sandbox::new();
    let slow = "for i in $(seq 100); do dd if=/dev/zero bs=1M count=2 2>/dev/null; sleep 0.1; done\n\
                echo done >> \"$HOME/done\"\n";
    let mut command = session(&sandbox, slow);
    let said = finished(limits(&mut command, 8, 32));
    let warned = said.find("the output of the tool ").expect(&said);
    let ended = said.find("ending the tool ").expect(&said);
    assert!(warned < ended && said.contains("tool.sh"), "{said}");
    assert!(said.contains("at 32 MiB the tool is ended"), "{said}");
    assert_eq!(said.lines().count(), 2, "one line each: {said}");
    assert!(!was_done(&sandbox));
    let left = outputs(&sandbox.tmp());
    assert_eq!(left.len(), 1, "the file stays: {left:?}");
    let written = fs::metadata(&left[0]).expect("it is there").blocks() * 512 / MIB;
    assert!((32..150).contains(&written), "{written} MiB");
    let history = sandbox.state().join("claude-safe/history/incidents");
    let history = fs::read_to_string(history).expect("the history");
    assert!(
        history.contains("\ttool-ended\t")
            && history.contains("\tbash (pid ")
            && !history.contains("tool.sh"),
        "programs, no arguments: {history}"
    );
}

#[test]
fn a_writer_that_ignores_term_is_killed() {
    let sandbox = Sandbox::new();
    let mut command = session(&sandbox, &format!("trap '' TERM\n{STEADY}"));
    let said = finished(limits(&mut command, 0, 16));
    assert!(said.contains("ending the tool "), "{said}");
    assert!(!was_done(&sandbox));
}

#[test]
fn a_writer_that_is_not_of_this_session_and_the_files_of_a_dead_one_are_never_touched() {
    let sandbox = Sandbox::new();
    // SAFETY: takes nothing and cannot fail.
    let uid = unsafe { libc::geteuid() };
    let other = sandbox.tmp().join(format!("claude-{uid}/-x/dead/tasks"));
    fs::create_dir_all(&other).expect("a folder");
    let dead = other.join("dead.output");
    fs::write(&dead, vec![1; 40 << 20]).expect("a file");
    // The neighbour's grows all the time.
    let file = fs::File::create(other.join("live.output")).expect("a file");
    let mut neighbour = sandbox.command("/bin/bash");
    neighbour
        .args([
            "-c",
            "while :; do head -c 1048576 /dev/zero; sleep 0.02; done",
        ])
        .stdout(file);
    let mut neighbour = start(&mut neighbour);
    wait_until("its file is big", PATIENCE, || {
        let found = fs::metadata(other.join("live.output")).ok()?;
        (found.len() > 20 << 20).then_some(())
    });
    let mut command = session(&sandbox, STEADY);
    let said = finished(limits(&mut command, 4, 16));
    assert_eq!(said.matches("ending the tool ").count(), 1, "{said}");
    assert!(!said.contains("/dead/tasks/"), "{said}");
    let running = neighbour.0.try_wait().expect("ours");
    assert!(running.is_none(), "the neighbour was ended: {running:?}");
    assert_eq!(fs::metadata(&dead).expect("it stays").len(), 40 << 20);
}

#[test]
fn a_hole_is_not_counted() {
    let sandbox = Sandbox::new();
    let sparse = "truncate -s 40G \"$(readlink /proc/$$/fd/1)\"; echo x; sleep 3\n\
                  echo done >> \"$HOME/done\"\n";
    let mut command = session(&sandbox, sparse);
    command.env("CLAUDE_WATCHDOG_INTERVAL", "1");
    let said = finished(limits(&mut command, 4, 16));
    assert_eq!(said, "", "40 GiB of nothing");
    assert!(was_done(&sandbox));
    let size = fs::metadata(&outputs(&sandbox.tmp())[0]).expect("it stays");
    assert!(size.len() > 40 << 30, "the premise: a file of 40 GiB");
}

#[test]
fn a_file_that_has_lost_its_name_is_watched_on() {
    let sandbox = Sandbox::new();
    let script = format!("rm -rf \"$TMPDIR\"/claude-*\n{STEADY}");
    let mut command = session(&sandbox, &script);
    let said = finished(limits(&mut command, 0, 64));
    assert!(said.contains("ending the tool "), "{said}");
    assert!(!was_done(&sandbox));
}

#[test]
fn a_folder_that_cannot_be_entered_hides_no_writer() {
    const NOBODY: u32 = 65534;
    let sandbox = Sandbox::new();
    if chown(sandbox.home(), Some(NOBODY), None).is_err() {
        skip!("only root can be two users");
    }
    let Artifacts { claude_safe, .. } = artifacts();
    // Theirs, wherever the originals lie.
    let (ours, client) = (sandbox.file("claude-safe"), sandbox.file("fake-claude"));
    fs::copy(claude_safe, &ours).expect("a copy");
    fs::copy(program("fake-claude"), &client).expect("a copy");
    for name in ["", "home", "tmp", "run", "config", "state", "cache", "work"] {
        chown(sandbox.root().join(name), Some(NOBODY), None).expect("root may");
    }
    let script = format!("chmod 0 \"$TMPDIR\"/claude-*\n{STEADY}");
    let mut command = sandbox.command(&ours);
    set_up(&mut command, &sandbox, &client, &script);
    let mode = fs::Permissions::from_mode(0o644);
    fs::set_permissions(sandbox.file("tool.sh"), mode).expect("ours");
    let reaches = Command::new("/bin/ls")
        .arg(sandbox.root())
        .uid(NOBODY)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !reaches.is_ok_and(|status| status.success()) {
        skip!("another user can't reach {}", sandbox.root().display());
    }
    command.uid(NOBODY).gid(NOBODY);
    let said = finished(limits(&mut command, 0, 64));
    assert!(said.contains("ending the tool "), "{said}");
    assert!(!was_done(&sandbox));
}

#[test]
fn switched_off_nobody_is_ended_and_nothing_said() {
    for (name, value) in [
        ("CLAUDE_SAFE_SWEEP", "off"),
        ("CLAUDE_SAFE_OUTPUT_MAX_MB", "0"),
    ] {
        let sandbox = Sandbox::new();
        let mut command = session(&sandbox, &format!("{}sleep 1.5\n", flood(64)));
        limits(&mut command, 0, 8).env("CLAUDE_WATCHDOG_INTERVAL", "1");
        let said = finished(command.env(name, value));
        assert_eq!(said, "", "{name}");
        assert!(was_done(&sandbox));
    }
}

/// A session whose temporary folder is a tmpfs of 600 MiB, at a limit of 192.
fn in_tmpfs(sandbox: &Sandbox, script: &str) -> Option<Command> {
    let mount = format!(
        "mount -t tmpfs -o size=600M none '{}'",
        sandbox.tmp().display()
    );
    let mut command = in_own_mounts(sandbox, &mount)?;
    set_up(&mut command, sandbox, &program("fake-claude"), script);
    command
        .env("CLAUDE_WATCHDOG_THRESHOLD_MB", "192")
        .env("CLAUDE_WATCHDOG_INTERVAL", "1");
    Some(command)
}

#[test]
fn outputs_in_a_tmpfs_count_as_memory_of_the_session_and_are_no_reason_to_restart() {
    let sandbox = Sandbox::new();
    // Written at once and then left: 300 MiB stand against a limit of 192.
    let script = format!("{}sleep 3\n", flood(300));
    let Some(mut command) = in_tmpfs(&sandbox, &script) else {
        skip!("no mount namespace here");
    };
    let said = finished(limits(&mut command, 128, 0));
    assert!(said.contains("memory of this session is at "), "{said}");
    assert!(said.contains("of it are files in a tmpfs"), "{said}");
    assert!(said.contains("it takes memory, not disk"), "{said}");
    assert_eq!(said.matches("CLAUDE_CODE_TMPDIR").count(), 2, "{said}");
    assert!(!said.contains("restarting"), "{said}");
    assert!(was_done(&sandbox), "{said}");
}

#[test]
fn who_fills_the_sessions_memory_through_a_tmpfs_is_ended() {
    let sandbox = Sandbox::new();
    let slow = "for i in $(seq 250); do head -c 2097152 /dev/zero; sleep 0.05; done\n\
                echo done >> \"$HOME/done\"\n";
    let Some(mut command) = in_tmpfs(&sandbox, slow) else {
        skip!("no mount namespace here");
    };
    let said = finished(limits(&mut command, 0, 5120));
    assert!(said.contains("ending the tool "), "{said}");
    assert!(
        said.contains("in memory, and the session is at its limit"),
        "{said}"
    );
    assert!(!said.contains("restarting"), "{said}");
    assert!(!was_done(&sandbox));
}

#[test]
fn a_second_conversation_in_the_same_process_is_watched_too() {
    // What the client does at /clear: another folder below claude-UID, made while it runs.
    let sandbox = Sandbox::new();
    let script = format!(
        "folder=\"$TMPDIR/claude-$(id -u)/-elsewhere/22222222-2222-4222-8222-222222222222/tasks\"\n\
         mkdir -p \"$folder\"; exec >> \"$folder/later.output\"; sleep 1.5\n{STEADY}"
    );
    let mut command = session(&sandbox, &script);
    command.env("CLAUDE_WATCHDOG_INTERVAL", "1");
    let said = finished(limits(&mut command, 0, 64));
    assert!(said.contains("later.output"), "{said}");
    assert!(!was_done(&sandbox));
}

#[test]
fn a_tool_that_is_ended_leaves_no_process_behind() {
    let sandbox = Sandbox::new();
    let script = format!("echo $$ > \"$HOME/pid\"\n{STEADY}");
    let mut command = session(&sandbox, &script);
    let child = start(limits(&mut command, 0, 64));
    let (code, said) = stderr_of(child);
    assert_eq!(code, Some(0), "{said}");
    let pid = fs::read_to_string(sandbox.home().join("pid")).expect("it ran");
    let pid: i32 = pid.trim().parse().expect("a pid");
    assert!(!proc_view::alive(pid), "{said}");
}
