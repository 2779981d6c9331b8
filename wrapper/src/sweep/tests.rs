//! Sweeps of real files, with a `/proc` and clocks of the test's own.

use super::account::{Account, SECTIONS};
use super::*;
use crate::os::files::scratch::Scratch;
use crate::watch::fixture::FakeProc;
use std::cell::Cell;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 3600;
const ID: &str = "2df5e19f-c78d-4a44-8cab-bf9dc4cde34e";

/// A temporary folder, a folder of sessions, a client's folder, and a `/proc` with one process.
struct Scene {
    scratch: Scratch,
    proc: FakeProc,
    places: Places,
}

impl Scene {
    fn new() -> Scene {
        let (scratch, proc) = (Scratch::new(), FakeProc::new());
        let at = |name: &str| scratch.path().join(name);
        for name in ["tmp", "run", "client", "client/sessions"] {
            fs::create_dir(at(name)).unwrap();
        }
        proc.process(10, 1, b"claude", 500, 1);
        let places = Places {
            temporary: at("tmp"),
            runtime: Some(at("run")),
            client_folders: vec![at("client")],
            state_bases: vec![at("state")],
            record: Some(at("cache/claude-safe/sweep")),
            proc_root: proc.path().to_path_buf(),
            uid: own_ids().euid,
        };
        Scene {
            scratch,
            proc,
            places,
        }
    }

    fn tmp(&self, name: &str) -> PathBuf {
        self.places.temporary.join(name)
    }

    /// A file of that age, its folders made.
    fn file(&self, name: &str, age_s: u64) -> PathBuf {
        let path = self.tmp(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "/somewhere\n").unwrap();
        grow_old(&path, age_s);
        path
    }

    /// The outputs of a session, all of that age, the folders too.
    fn outputs(&self, id: &str, age_s: u64) -> PathBuf {
        let uid = self.places.uid;
        for name in ["a.output", "b.output"] {
            self.file(&format!("claude-{uid}/-work/{id}/tasks/{name}"), age_s);
        }
        let session = self.tmp(&format!("claude-{uid}/-work/{id}"));
        fs::create_dir(session.join("started")).unwrap();
        for folder in ["started", "tasks", ""] {
            grow_old(&session.join(folder), age_s);
        }
        session
    }

    fn sweep(&self) -> Report {
        self.sweep_as(&SECTIONS, false, Now::read(), &|| 0)
    }

    fn sweep_as(
        &self,
        sections: &[Section],
        dry_run: bool,
        now: Now,
        timer_ms: &dyn Fn() -> u64,
    ) -> Report {
        let wish = Wish {
            sections,
            dry_run,
            now,
            timer_ms,
            limit_ms: LIMIT_MS,
        };
        run(&self.places, &wish, &mut |_| {})
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.places.temporary).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn grow_old(path: &Path, age_s: u64) {
    let then = SystemTime::now() - Duration::from_secs(age_s);
    fs::File::open(path).unwrap().set_modified(then).unwrap();
}

fn cwd(report: &Report) -> &Account {
    report.of(Section::CwdFiles)
}

fn outputs(report: &Report) -> &Account {
    report.of(Section::TaskOutputs)
}

fn name(number: u32) -> String {
    format!("claude-{number:04x}-cwd")
}

#[test]
fn of_25_files_the_15_stale_ones_go_and_the_10_fresh_ones_stay() {
    let scene = Scene::new();
    for number in 0..25 {
        scene.file(&name(number), if number < 15 { 2 * MINUTE } else { 0 });
    }
    let report = scene.sweep();
    assert_eq!(
        (cwd(&report).removed, cwd(&report).kept(Kept::Fresh)),
        (15, 10)
    );
    assert_eq!(scene.names(), (15..25).map(name).collect::<Vec<_>>());
    assert!(report.trouble.is_none() && !report.is_unfinished);
}

#[test]
fn a_name_that_is_not_exactly_the_clients_stays() {
    let scene = Scene::new();
    let others = [
        "claude--cwd",
        "claude-1234-cwd.bak",
        "claude-1234-cwd\n",
        "claude-ABCD-cwd",
        "claude-abc-cwd",
        "claude-abcde-cwd",
        "claude-my-backup-cwd",
        "claude_malloc_guard.log",
        "xclaude-1234-cwd",
    ];
    for other in others {
        scene.file(other, DAY);
    }
    scene.file("claude-abcd-cwd", DAY);
    scene.file("claude-1234-cwd", DAY);
    assert_eq!(cwd(&scene.sweep()).removed, 2);
    let mut left = others.map(str::to_owned).to_vec();
    left.sort();
    assert_eq!(scene.names(), left);
}

#[test]
fn a_file_from_the_future_is_fresh() {
    let scene = Scene::new();
    let path = scene.file(&name(1), 0);
    let ahead = SystemTime::now() + Duration::from_secs(DAY);
    fs::File::open(&path).unwrap().set_modified(ahead).unwrap();
    assert_eq!(cwd(&scene.sweep()).kept(Kept::Fresh), 1);
    assert!(path.exists());
}

#[test]
fn what_is_no_plain_file_of_ours_stays_and_what_it_leads_to_too() {
    let scene = Scene::new();
    let precious = scene.file("precious", DAY);
    symlink(&precious, scene.tmp(&name(1))).unwrap();
    symlink(scene.tmp("nowhere"), scene.tmp(&name(2))).unwrap();
    fs::hard_link(&precious, scene.tmp(&name(3))).unwrap();
    fs::create_dir(scene.tmp(&name(4))).unwrap();
    grow_old(&scene.tmp(&name(4)), DAY);
    let fifo = std::process::Command::new("mkfifo")
        .arg(scene.tmp(&name(5)))
        .status();
    assert!(fifo.unwrap().success());
    let listener = UnixListener::bind(scene.tmp(&name(6))).unwrap();
    let before = scene.names();
    let report = scene.sweep();
    assert_eq!(cwd(&report).removed, 0);
    assert_eq!(cwd(&report).kept(Kept::OddKind), 5);
    assert_eq!(cwd(&report).kept(Kept::TwoNames), 1);
    assert_eq!(scene.names(), before);
    drop(listener);
    assert_eq!(fs::read_to_string(precious).unwrap(), "/somewhere\n");
}

/// A symlink takes the file's place again and again, while sweeps go on: at some of them between the look and the end.
#[test]
fn a_symlink_that_is_swapped_in_takes_nothing_with_it() {
    let scene = Scene::new();
    let precious = scene.file("precious", DAY);
    let (at, stop) = (scene.tmp(&name(1)), AtomicBool::new(false));
    let (draft, link) = (scene.tmp("draft"), scene.tmp("link"));
    let (mut removed, mut links) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                symlink(&precious, &link).unwrap();
                fs::write(&draft, "x").unwrap();
                grow_old(&draft, DAY);
                fs::rename(&draft, &at).unwrap();
                // Also with one processor a sweep comes to see it.
                std::thread::yield_now();
                fs::rename(&link, &at).unwrap();
            }
        });
        let until = SystemTime::now() + Duration::from_secs(90);
        while (removed < 100 || links < 100) && SystemTime::now() < until {
            let report = scene.sweep_as(&[Section::CwdFiles], false, Now::read(), &|| 0);
            removed += cwd(&report).removed;
            links += cwd(&report).kept(Kept::OddKind);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(removed > 3 && links > 3, "no race: {removed} {links}");
    let left = fs::metadata(&precious).unwrap();
    assert_eq!((left.nlink(), left.len()), (1, 11));
}

#[test]
fn a_file_that_a_running_shell_will_write_stays_however_old_it_is() {
    let scene = Scene::new();
    let line = format!("/bin/zsh\0-c\0eval 'x' && pwd -P >| /t/{}\0", name(7));
    scene.proc.write(10, "cmdline", line.as_bytes());
    for number in [6, 7, 8] {
        scene.file(&name(number), DAY);
    }
    let report = scene.sweep();
    assert_eq!(
        (cwd(&report).removed, cwd(&report).kept(Kept::InUse)),
        (2, 1)
    );
    assert_eq!(scene.names(), [name(7)]);
}

#[test]
fn where_processes_cannot_be_seen_nothing_goes() {
    let mut scene = Scene::new();
    scene.places.proc_root = scene.scratch.path().join("nowhere");
    scene.file(&name(1), DAY);
    scene.outputs(ID, 9 * DAY);
    let before = scene.names();
    let report = scene.sweep();
    assert_eq!(report.removed(), 0);
    assert_eq!(cwd(&report).kept(Kept::InUse), 1);
    assert_eq!(outputs(&report).kept(Kept::InUse), 1);
    assert_eq!(scene.names(), before);
}

#[test]
fn two_sweeps_at_once_share_the_work_and_neither_fails() {
    let scene = Scene::new();
    for number in 0..4_000 {
        scene.file(&name(number), DAY);
    }
    let sweep = |places: Places| {
        let wish = Wish {
            sections: &SECTIONS,
            dry_run: false,
            now: Now::read(),
            timer_ms: &|| 0,
            limit_ms: LIMIT_MS,
        };
        run(&places, &wish, &mut |_| {})
    };
    let both = std::thread::scope(|scope| {
        let other = scene.places.clone();
        let other = scope.spawn(move || sweep(other));
        [sweep(scene.places.clone()), other.join().unwrap()]
    });
    assert_eq!(both.iter().map(|one| cwd(one).removed).sum::<u64>(), 4_000);
    for one in &both {
        assert_eq!((cwd(one).reasons().count(), &one.trouble), (0, &None));
    }
    assert_eq!(scene.names(), Vec::<String>::new());
}

/// 100,000 names in the folder: every one that the client could give, and others.
#[test]
fn a_folder_of_a_hundred_thousand_is_swept_at_once() {
    let mut scene = Scene::new();
    // In memory, where there is such a folder: to make so many files is what takes long.
    let in_memory = PathBuf::from(format!("/dev/shm/cs-unit-sweep-{}", std::process::id()));
    if fs::create_dir(&in_memory).is_ok() {
        scene.places.temporary = in_memory.clone();
    }
    let old = SystemTime::now() - Duration::from_secs(DAY);
    let make = |name: String| {
        let file = fs::File::create(scene.tmp(&name)).unwrap();
        file.set_modified(old).unwrap();
    };
    (0..=0xffff).map(name).for_each(make);
    (0..34_464)
        .map(|number| format!("other-{number}"))
        .for_each(make);
    let report = scene.sweep();
    let left = scene.names().len();
    let _ = fs::remove_dir_all(in_memory);
    assert_eq!(cwd(&report).removed, 65_536);
    assert_eq!(cwd(&report).reasons().count(), 0);
    assert!(!report.is_unfinished);
    assert_eq!(left, 34_464);
}

#[test]
fn a_sweep_ends_in_time_and_the_next_one_goes_on_there() {
    let scene = Scene::new();
    // None of these may go: what was looked at doesn't get less. Two that may are the first and the last.
    for number in 1..1_000 {
        scene.file(&name(number), 0);
    }
    for number in [0, 1_000] {
        scene.file(&name(number), DAY);
    }
    let (mut sweeps, mut removed) = (0, 0);
    loop {
        // A clock on which each look takes 50 ms.
        let looks = Cell::new(0_u64);
        let slow = || {
            looks.set(looks.get() + 1);
            looks.get() * 50
        };
        let report = scene.sweep_as(&[Section::CwdFiles], false, Now::read(), &slow);
        sweeps += 1;
        assert!(looks.get() * 50 <= LIMIT_MS + 200, "{}", looks.get());
        removed += cwd(&report).removed;
        if !report.is_unfinished {
            break;
        }
        let told = cwd(&report).kept(Kept::Fresh);
        assert!(told > 150 && told < 250, "{told}");
        assert!(sweeps < 10, "no progress is kept");
    }
    assert_eq!((sweeps, removed), (6, 2));
    assert_eq!(scene.names().len(), 999);
    // The next one begins anew.
    scene.file(&name(0), DAY);
    assert_eq!(cwd(&scene.sweep()).removed, 1);
}

#[test]
fn a_clock_that_was_set_forward_since_the_last_sweep_makes_no_fresh_file_old() {
    let scene = Scene::new();
    scene.sweep();
    let path = scene.file(&name(1), 0);
    let now = Now::read();
    let at = |set_s: u64, later_s: u64| Now {
        wall_ms: now.wall_ms + (set_s + later_s) * 1000,
        boot_ms: now.boot_ms + later_s * 1000,
    };
    let sweep = |now| cwd(&scene.sweep_as(&[Section::CwdFiles], false, now, &|| 0)).removed;
    // The file system stays behind: here only the wall clock of the sweep is moved, so it is asked for too.
    assert_eq!(sweep(at(3600, 1)), 0);
    grow_old(&path, 2 * MINUTE);
    assert_eq!(sweep(at(3600, 30)), 0, "half a minute after the jump");
    assert_eq!(sweep(at(3600, 62)), 1);
}

#[test]
fn a_dry_run_says_what_a_real_one_does_and_changes_nothing() {
    let scene = Scene::new();
    for number in 0..5 {
        scene.file(&name(number), if number < 3 { DAY } else { 0 });
    }
    scene.outputs(ID, 2 * DAY);
    let before = scene.names();
    let dry = scene.sweep_as(&SECTIONS, true, Now::read(), &|| 0);
    assert_eq!(scene.names(), before);
    let real = scene.sweep();
    assert_eq!(dry, real);
    assert_eq!((cwd(&real).removed, outputs(&real).removed), (3, 3));
}

#[test]
fn the_outputs_of_a_dead_session_go_with_their_folders() {
    let scene = Scene::new();
    let session = scene.outputs(ID, 2 * DAY);
    let report = scene.sweep();
    // Two files, one session.
    assert_eq!(outputs(&report).removed, 3);
    assert!(outputs(&report).bytes > 0);
    assert!(!session.exists() && session.parent().unwrap().exists());
    // The folder of the project was written just now; a day later it goes too.
    grow_old(session.parent().unwrap(), 2 * DAY);
    assert_eq!(outputs(&scene.sweep()).removed, 1);
    assert!(!session.parent().unwrap().exists());
}

#[test]
fn outputs_stay_for_a_day_after_the_youngest_sign_of_life() {
    let scene = Scene::new();
    for young in ["tasks/b.output", "tasks", "started", ""] {
        let session = scene.outputs(ID, 2 * DAY);
        grow_old(&session.join(young), DAY / 2);
        let report = scene.sweep();
        assert_eq!(outputs(&report).removed, 0, "{young:?}");
        assert_eq!(outputs(&report).kept(Kept::Fresh), 1);
        assert!(session.join("tasks/a.output").exists());
        fs::remove_dir_all(&session).unwrap();
    }
}

#[test]
fn outputs_of_a_session_that_lives_stay_however_old_they_are() {
    let living = |scene: &Scene, how: &str| match how {
        "its client says so" => {
            let text =
                format!(r#"{{"pid":10,"sessionId":"{ID}","procStart":"500","status":"idle"}}"#);
            fs::write(scene.scratch.path().join("client/sessions/10.json"), text).unwrap();
        }
        "a command line names it" => {
            let line = format!("claude\0--resume\0{ID}\0");
            scene.proc.write(10, "cmdline", line.as_bytes());
        }
        _ => {
            let fd = scene.proc.path().join("10/fd");
            fs::create_dir(&fd).unwrap();
            symlink(format!("/t/{ID}/tasks/a.output"), fd.join("1")).unwrap();
        }
    };
    for how in [
        "its client says so",
        "a command line names it",
        "it is open",
    ] {
        let scene = Scene::new();
        let session = scene.outputs(ID, 30 * DAY);
        living(&scene, how);
        let report = scene.sweep();
        assert_eq!(outputs(&report).removed, 0, "{how}");
        assert_eq!(outputs(&report).kept(Kept::InUse), 1, "{how}");
        assert!(session.join("tasks/a.output").exists(), "{how}");
    }
}

#[test]
fn what_is_unknown_in_a_dead_session_stays_and_its_folder_with_it() {
    let scene = Scene::new();
    let session = scene.outputs(ID, 2 * DAY);
    let precious = scene.file("precious", 2 * DAY);
    let tasks = session.join("tasks");
    fs::write(tasks.join("notes.txt"), "x").unwrap();
    symlink(&precious, tasks.join("agent.output")).unwrap();
    fs::hard_link(&precious, tasks.join("twice.output")).unwrap();
    fs::create_dir(tasks.join("folder.output")).unwrap();
    for name in ["notes.txt", "folder.output"] {
        grow_old(&tasks.join(name), 2 * DAY);
    }
    let touch = std::process::Command::new("touch")
        .args(["-h", "-d", "2 days ago"])
        .arg(tasks.join("agent.output"))
        .status();
    assert!(touch.unwrap().success());
    grow_old(&tasks, 2 * DAY);
    let report = scene.sweep();
    assert_eq!(outputs(&report).removed, 2);
    assert_eq!(outputs(&report).kept(Kept::OddKind), 2);
    assert_eq!(outputs(&report).kept(Kept::TwoNames), 1);
    assert_eq!(
        outputs(&report).kept(Kept::Unknown),
        2,
        "the notes, and the folder"
    );
    assert!(tasks.join("notes.txt").exists() && precious.exists());
    assert!(!tasks.join("a.output").exists() && !session.join("started").exists());
}

#[test]
fn no_folder_on_the_way_to_outputs_may_be_a_symlink_or_everybodys() {
    for which in ["claude-UID", "-work", ID, "tasks"] {
        let scene = Scene::new();
        let session = scene.outputs(ID, 2 * DAY);
        let own = format!("claude-{}", scene.places.uid);
        let path = match which {
            "claude-UID" => scene.tmp(&own),
            "-work" => scene.tmp(&own).join("-work"),
            "tasks" => session.join("tasks"),
            _ => session.clone(),
        };
        let elsewhere = scene.scratch.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert_eq!(outputs(&scene.sweep()).bytes, 0, "{which}");
        fs::remove_file(&path).unwrap();
        fs::rename(&elsewhere, &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(outputs(&scene.sweep()).bytes, 0, "{which}");
        assert!(session.join("tasks/a.output").exists(), "{which}");
    }
}

#[test]
fn a_socket_on_which_nobody_listens_goes_and_no_other() {
    for base in ["tmp", "run"] {
        sockets_in(base);
    }
}

fn sockets_in(base: &str) {
    let scene = Scene::new();
    let folder = scene.scratch.path().join(base).join("cc-socks");
    fs::create_dir(&folder).unwrap();
    let bind = |name: &str| UnixListener::bind(folder.join(name)).unwrap();
    let old = |name: &str| {
        let touch = std::process::Command::new("touch")
            .args(["-d", "1 hour ago"])
            .arg(folder.join(name))
            .status();
        assert!(touch.unwrap().success());
    };
    // Dead; dead, but heard by somebody of another container; alive; dead and fresh; no socket; no pid.
    drop(bind("77.sock"));
    let heard = bind("78.sock");
    drop(bind("10.sock"));
    drop(bind("79.sock"));
    fs::write(folder.join("80.sock"), "").unwrap();
    drop(bind("x.sock"));
    for name in ["77.sock", "78.sock", "10.sock", "80.sock", "x.sock"] {
        old(name);
    }
    let report = scene.sweep();
    let sockets = report.of(Section::Sockets);
    assert_eq!(sockets.removed, 1);
    assert_eq!(sockets.kept(Kept::InUse), 2);
    assert_eq!(sockets.kept(Kept::Fresh), 1);
    assert_eq!(sockets.kept(Kept::OddKind), 1);
    assert!(!folder.join("77.sock").exists());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 5);
    drop(heard);
}

#[test]
fn a_folder_that_is_not_there_is_clean_and_one_that_cannot_be_one_is_trouble() {
    let mut scene = Scene::new();
    let file = scene.file("file", 0);
    scene.places.temporary = scene.tmp("not-made-yet");
    assert_eq!(scene.sweep(), Report::default());
    scene.places.temporary = file;
    assert!(
        scene
            .sweep()
            .trouble
            .unwrap()
            .ends_with("/tmp/file can't be read")
    );
}

#[test]
fn the_temporary_folder_may_be_a_symlink_itself() {
    let mut scene = Scene::new();
    let path = scene.file(&name(1), DAY);
    let link = scene.scratch.path().join("link");
    symlink(&scene.places.temporary, &link).unwrap();
    scene.places.temporary = link;
    assert_eq!(cwd(&scene.sweep()).removed, 1);
    assert!(!path.exists());
}

#[test]
fn the_sessions_own_temporary_folder_comes_first() {
    let with = |set: &[(&str, &str)]| {
        let set: Vec<(String, OsString)> = set
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect();
        temporary_folder(&move |name: &str| {
            let found = set.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        })
    };
    let both = [("CLAUDE_CODE_TMPDIR", "/own"), ("TMPDIR", "/t")];
    assert_eq!(with(&both), Path::new("/own"));
    assert_eq!(with(&both[1..]), Path::new("/t"));
    assert_eq!(with(&[]), Path::new("/tmp"));
    assert_eq!(with(&[("TMPDIR", "relative")]), Path::new("/tmp"));
    assert_eq!(
        with(&[("CLAUDE_CODE_TMPDIR", ""), ("TMPDIR", "/t")]),
        Path::new("/t")
    );
}

#[test]
fn the_record_is_believed_only_in_a_file_of_ours() {
    let scene = Scene::new();
    scene.sweep();
    let path = scene.places.record.as_deref().unwrap();
    let record = Record::read(path).unwrap();
    assert_eq!(record.folder, FileId::of(&scene.places.temporary));
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    let elsewhere = scene.scratch.path().join("elsewhere");
    fs::rename(path, &elsewhere).unwrap();
    symlink(&elsewhere, path).unwrap();
    assert_eq!(Record::read(path), None);
    fs::remove_file(path).unwrap();
    for junk in ["", "1 2 3 4", "1 2 3 4\n1 2", "1 2 3 4\n1 2 65536"] {
        fs::write(path, junk).unwrap();
        assert_eq!(Record::read(path), None, "{junk:?}");
    }
}
