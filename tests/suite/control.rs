//! `claude-safectl stats` and `status` from outside, on running sessions of the stand-in with the guard in it.
//!
//! Never looks into claude-safectl: only at its answer, its exit code, and what it left untouched.

use claude_safe_tests::pty::send_signal;
use claude_safe_tests::{KillOnDrop, Sandbox, artifacts, proc_view, program, wait_until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

// The file itself, not `claude_safe`: a test that carries the wrapper's mark would be taken for one.
#[path = "../../guard/src/stats_page.rs"]
mod stats_page;
use stats_page::{LEN, Snapshot, State, VERSION, WANTED_AT};

const SOON: Duration = Duration::from_secs(30);

/// A running session of the stand-in.
struct Session {
    child: KillOnDrop,
    wrapper: i32,
    client: i32,
    folder: PathBuf,
}

impl Session {
    fn start(sandbox: &Sandbox, environment: &[(&str, &str)]) -> Session {
        let mut command = sandbox.command(&artifacts().claude_safe);
        command
            .args(["-p", "do it"])
            .env("CLAUDE_SAFE_BIN", program("fake-claude"))
            .env("CLAUDE_MALLOC_GUARD_LOG", sandbox.file("log"))
            .env("FAKE_CLAUDE", "rounds=1;round_ms=50000")
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = KillOnDrop(command.spawn().unwrap());
        let wrapper = child.0.id().cast_signed();
        let fake = program("fake-claude");
        let client = wait_until("the client", SOON, || {
            let mut children = proc_view::children(wrapper).into_iter();
            children.find(|pid| proc_view::exe(*pid).as_ref() == Some(&fake))
        });
        wait_until("the client's tool", SOON, || {
            let mut tools = proc_view::children(client).into_iter();
            tools.find(|pid| {
                proc_view::cmdline(*pid)
                    .first()
                    .is_some_and(|a| a == "fake-claude-tool")
            })
        });
        let start = proc_view::stat(wrapper).unwrap().start_ticks;
        let base = environment
            .iter()
            .find(|(name, _)| *name == "XDG_RUNTIME_DIR");
        let base = match base {
            Some(_) => {
                let uid = fs::metadata(sandbox.tmp()).unwrap().uid();
                sandbox.tmp().join(format!("claude-safe-{uid}"))
            }
            None => sandbox.run().join("claude-safe"),
        };
        let folder = base.join(format!("{wrapper}.{start}"));
        assert!(folder.is_dir(), "{}", folder.display());
        Session {
            child,
            wrapper,
            client,
            folder,
        }
    }

    fn page(&self) -> PathBuf {
        self.folder.join("guard.page")
    }

    fn end(mut self) {
        send_signal(self.wrapper, libc::SIGTERM).unwrap();
        let status = wait_until("its end", SOON, || self.child.0.try_wait().unwrap());
        assert_eq!(status.code(), Some(143));
    }
}

struct Said {
    code: Option<i32>,
    text: String,
}

fn ask(sandbox: &Sandbox, words: &[&str]) -> Said {
    let mut command = sandbox.command(&artifacts().claude_safectl);
    let output = command.args(words).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words:?}");
    Said {
        code: output.status.code(),
        text: String::from_utf8(output.stdout).unwrap(),
    }
}

fn ask_json(sandbox: &Sandbox, words: &[&str]) -> (Option<i32>, Value) {
    let said = ask(sandbox, &[words, &["--json"]].concat());
    let value = serde_json::from_str(&said.text).unwrap_or_else(|e| panic!("{e}: {}", said.text));
    (said.code, value)
}

/// Everything in a folder with its size and time: what a look must leave as it is.
fn state_of(folder: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
    let mut all: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let found = entry.metadata().unwrap();
            (entry.path(), found.ino(), found.mtime(), found.mtime_nsec())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn without_a_session_there_is_none_and_that_is_no_failure() {
    let sandbox = Sandbox::new();
    for command in ["stats", "status"] {
        let said = ask(&sandbox, &[command]);
        assert_eq!(
            (said.code, said.text.as_str()),
            (Some(0), "no session is running\n")
        );
        let (code, value) = ask_json(&sandbox, &[command]);
        let none = match command {
            "status" => {
                let folder = sandbox.tmp();
                let temporary =
                    json!({"folder": folder, "removable": 0, "bytes": 0, "all_seen": true});
                json!({"sessions": [], "daemons": [], "temporary": temporary, "complaints": []})
            }
            _ => json!({"sessions": [], "complaints": []}),
        };
        assert_eq!((code, value), (Some(0), none));
    }
    let said = ask(&sandbox, &["stats", "1"]);
    assert_eq!(said.code, Some(1));
    assert!(said.text.contains("process 1"), "{}", said.text);
    assert!(
        !sandbox.run().join("claude-safe").exists(),
        "asking makes nothing"
    );
}

#[test]
fn stats_tell_what_the_guard_counts_without_a_signal_or_a_trace() {
    let sandbox = Sandbox::new();
    let session = Session::start(&sandbox, &[]);
    assert!(
        proc_view::maps_contain(session.client, "libclaude_guard.so"),
        "the premise"
    );
    wait_until("the wrapper's first look, which it notes", SOON, || {
        let notes = fs::read_to_string(session.folder.join("session")).ok()?;
        notes.contains("reclaim=").then_some(())
    });
    let untouched = state_of(&session.folder);
    let (wrapper, client) = (session.wrapper.to_string(), session.client.to_string());
    let page = || Snapshot::from_bytes(&fs::read(session.page()).unwrap()).unwrap();
    assert!(
        page().first().alloc > 0,
        "the premise: something is counted"
    );
    for words in [&["stats"][..], &["stats", &client], &["stats", &wrapper]] {
        let before = page();
        let (code, value) = ask_json(&sandbox, words);
        assert_eq!(code, Some(0), "{value}");
        assert_eq!(value["sessions"].as_array().unwrap().len(), 1);
        let told = &value["sessions"][0];
        assert_eq!(told["wrapper_pid"], session.wrapper);
        assert_eq!(told["client_pid"], session.client);
        assert_eq!(told["no_guard"], Value::Null);
        let guard = &told["guard"];
        assert_eq!(guard["pid"], session.client);
        assert_eq!(guard["state"], "standby");
        assert_eq!(guard["choice"], "named");
        assert_eq!(guard["sigusr1"], "guard");
        let class = &guard["classes"][0];
        assert_eq!(
            (&class["size"], &class["from"], &class["to"]),
            (&json!(160), &json!(153), &json!(168))
        );
        assert_eq!(class["pooled"], false);
        assert!(class["live_per_s"].is_i64(), "{class}");
        let after = page();
        let between = |told: &Value, before: u64, after: u64| {
            let told = told.as_u64().unwrap();
            assert!((before..=after).contains(&told), "{before} {told} {after}");
        };
        between(&class["alloc"], before.first().alloc, after.first().alloc);
        between(&class["free"], before.first().free, after.first().free);
        between(
            &guard["pages"]["calls"],
            before.plane.calls,
            after.plane.calls,
        );
        let live = class["live"].as_u64().unwrap();
        assert_eq!(class["live_bytes_at_most"], live * 176);
        assert_eq!(guard["faults"]["count"], after.faults.count);
    }
    let said = ask(&sandbox, &["stats", &client]);
    assert_eq!(said.code, Some(0));
    for part in [
        &format!("claude {client} (claude-safe {wrapper})\n"),
        "standby: calls are passed on and counted",
        "153..168",
        "/s\n",
    ] {
        assert!(said.text.contains(part), "{part:?} in {}", said.text);
    }
    assert_eq!(state_of(&session.folder), untouched, "nothing is written");
    assert!(!sandbox.file("log").exists(), "no SIGUSR1 was answered");
    session.end();
    let said = ask(&sandbox, &["stats", &client]);
    assert_eq!(said.code, Some(1), "{}", said.text);
}

#[test]
fn a_session_without_a_guard_is_told_to_have_none() {
    let sandbox = Sandbox::new();
    let session = Session::start(&sandbox, &[("CLAUDE_MALLOC_GUARD_LIB", "")]);
    let said = ask(&sandbox, &["stats"]);
    assert_eq!(said.code, Some(0), "{}", said.text);
    assert!(
        said.text.contains("no guard in this session"),
        "{}",
        said.text
    );
    let (_, value) = ask_json(&sandbox, &["stats"]);
    assert_eq!(value["sessions"][0]["guard"], Value::Null);
    let (_, value) = ask_json(&sandbox, &["status"]);
    assert_eq!(value["sessions"][0]["guard"], Value::Null);
    session.end();
}

#[test]
fn status_has_a_block_for_each_running_session() {
    let sandbox = Sandbox::new();
    let began = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let limits = [
        ("CLAUDE_MALLOC_GUARD_THRESHOLD_MB", "1024"),
        ("CLAUDE_WATCHDOG_THRESHOLD_MB", "2048"),
    ];
    let one = Session::start(&sandbox, &limits);
    // Started without a runtime folder: it is found all the same.
    let two = Session::start(&sandbox, &[limits[0], limits[1], ("XDG_RUNTIME_DIR", "")]);
    let (code, value) = ask_json(&sandbox, &["status"]);
    assert_eq!(code, Some(0), "{value}");
    assert_eq!(value["complaints"], json!([]));
    let all = value["sessions"].as_array().unwrap();
    assert_eq!(all.len(), 2, "{value}");
    let said = ask(&sandbox, &["status"]);
    assert_eq!(
        (
            said.code,
            said.text
                .lines()
                .filter(|line| line.starts_with("claude "))
                .count()
        ),
        (Some(0), 2),
        "{}",
        said.text
    );
    for session in [&one, &two] {
        let told = all
            .iter()
            .find(|told| told["wrapper_pid"] == session.wrapper)
            .unwrap();
        assert_eq!(told["client_pid"], session.client);
        assert_eq!(told["restarts"], 0);
        assert_eq!(told["tier_1_bytes"], 1_u64 << 30);
        assert_eq!(told["warn_bytes"], 3_u64 << 29);
        assert_eq!(told["tier_2_bytes"], 2_u64 << 30);
        assert_eq!(told["guard"], "standby");
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        for since in ["since_unix_s", "client_since_unix_s"] {
            assert!(
                (began..=now).contains(&told[since].as_u64().unwrap()),
                "{told}"
            );
        }
        // Client and tool: more than the client alone, and no more than all that is resident.
        let kib = told["memory_bytes"].as_u64().unwrap() / 1024;
        let client_kib = proc_view::status_kib(session.client, "RssAnon").unwrap();
        let resident_kib: u64 = std::iter::once(session.client)
            .chain(proc_view::descendants(session.client))
            .filter_map(|pid| proc_view::status_kib(pid, "VmRSS"))
            .sum();
        assert!(
            (client_kib / 2..=resident_kib).contains(&kib),
            "{kib}: {client_kib} {resident_kib}"
        );
        let words = proc_view::cmdline(session.client);
        let id = words
            .iter()
            .position(|word| word == "--session-id")
            .map(|at| &words[at + 1]);
        assert_eq!(
            told["conversation"].as_str(),
            id.map(String::as_str),
            "{words:?}"
        );
        let title = format!("(claude-safe {})", session.wrapper);
        let block = said.text.split("\n\n").find(|block| block.contains(&title));
        let block = block.unwrap_or_else(|| panic!("{}", said.text));
        for part in [
            &session.client.to_string(),
            "1024 MiB",
            "1536 MiB",
            "2048 MiB",
            "standby",
            id.unwrap(),
        ] {
            assert!(block.contains(part), "{part:?} in {block}");
        }
    }
    one.end();
    let (_, value) = ask_json(&sandbox, &["status"]);
    assert_eq!(value["sessions"].as_array().unwrap().len(), 1);
    two.end();
}

#[test]
fn what_grows_inside_one_mapping_is_told_by_the_kernel_and_not_by_an_old_estimate() {
    const MIB: u64 = 1 << 20;
    let sandbox = Sandbox::new();
    let (go, done) = (sandbox.file("go"), sandbox.file("done"));
    let plan = format!(
        "rounds=1;round_ms=50000;arena_mib=384;arena_touch_mib=200;arena_go={};arena_done={}",
        go.display(),
        done.display()
    );
    let session = Session::start(&sandbox, &[("FAKE_CLAUDE", &plan)]);
    let stats = || {
        let (code, value) = ask_json(&sandbox, &["stats"]);
        assert_eq!(code, Some(0), "{value}");
        value["sessions"][0]["guard"]["pages"].clone()
    };
    let arena_of = |pages: &Value| {
        let all = pages["largest"].as_array().unwrap();
        let mut arenas = all.iter().filter(|region| region["kind"] == "arena");
        arenas
            .find(|region| region["reserved_bytes"] == 384 * MIB)
            .cloned()
    };
    let before = wait_until("the guard's list of regions", SOON, || arena_of(&stats()));
    let number = |value: &Value| {
        value
            .as_u64()
            .unwrap_or_else(|| panic!("no number: {value}"))
    };
    assert_eq!(number(&before["resident_now_bytes"]), 0, "{before}");
    fs::write(&go, "").unwrap();
    wait_until("the arena's growth", SOON, || done.exists().then_some(()));
    let rss_anon = || proc_view::status_kib(session.client, "RssAnon").unwrap() * 1024;
    let low = rss_anon();
    let pages = stats();
    let high = rss_anon();
    let arena = arena_of(&pages).expect("the arena");
    assert!(
        number(&arena["resident_bytes"]) < 100 * MIB,
        "the premise: the estimate is old: {arena}"
    );
    // With huge pages by default a mapping that is joined to it may hold some more.
    let now = number(&arena["resident_now_bytes"]);
    assert!((198 * MIB..=204 * MIB).contains(&now), "{arena}");
    let kinds = pages["kinds"].as_object().unwrap();
    assert!(number(&kinds["arena"]["resident_now_bytes"]) >= now);
    // The kernel counts RssAnon in batches of some pages a thread and processor.
    let total = number(&pages["resident_now_bytes"]);
    assert!(
        (low - 2 * MIB..=high + 2 * MIB).contains(&total),
        "{low} {total} {high}: {pages}"
    );
    let parts = kinds.values().map(|kind| &kind["resident_now_bytes"]);
    let parts = parts.chain(pages["outside_now"].as_object().unwrap().values());
    assert_eq!(parts.map(number).sum::<u64>(), total, "{pages}");
    assert!(number(&pages["outside_now"]["heap_bytes"]) > 0);
    assert!(number(&pages["outside_now"]["stack_bytes"]) > 0);
    assert!(number(&pages["outside_now"]["files_bytes"]) > 0);
    let said = ask(&sandbox, &["stats"]);
    for part in ["MiB now, by the kernel", "[heap]", "384 MiB", "200 MiB"] {
        assert!(said.text.contains(part), "{part:?} in {}", said.text);
    }
    session.end();
}

/// A client that stays small, and whose tool takes the tree past the threshold: only the wrapper sees that.
fn past_tier_1(sandbox: &Sandbox, reclaim: &str, objects_per_s: u32) -> Session {
    let mark = sandbox.file("mark");
    let plan = format!(
        "rounds=1;objects_per_s={objects_per_s};leak_in=tool;leak_mib=192;mark_mib=190;mark={}",
        mark.display()
    );
    let session = Session::start(
        sandbox,
        &[
            ("FAKE_CLAUDE", &plan),
            ("CLAUDE_SAFE_RECLAIM", reclaim),
            ("CLAUDE_MALLOC_GUARD_THRESHOLD_MB", "160"),
            ("CLAUDE_WATCHDOG_THRESHOLD_MB", "4096"),
            ("CLAUDE_WATCHDOG_INTERVAL", "1"),
        ],
    );
    wait_until("the tool's leak", SOON, || mark.exists().then_some(()));
    session
}

#[test]
fn past_tier_1_the_guard_serves_from_its_pool_at_the_wrappers_word() {
    let sandbox = Sandbox::new();
    let session = past_tier_1(&sandbox, "cgroup,pool", 50_000);
    let guard = wait_until("pool hits", SOON, || {
        let (_, value) = ask_json(&sandbox, &["stats"]);
        let guard = value["sessions"][0]["guard"].clone();
        (guard["classes"][0]["pool_hits"].as_u64()? > 1000).then_some(guard)
    });
    let client_kib = proc_view::status_kib(session.client, "RssAnon").unwrap();
    assert!(
        client_kib < 160 * 1024,
        "the premise: by its own memory the guard would not have begun: {client_kib} KiB"
    );
    assert_eq!(guard["state"], "ACTIVE");
    assert_eq!(guard["classes"][0]["pooled"], true);
    assert!(guard["pool"]["slabs"].as_u64().unwrap() > 0, "{guard}");
    let in_pool = &guard["pages"]["outside_now"]["pool_bytes"];
    assert!(in_pool.as_u64().unwrap() > 64 << 10, "{guard}");
    assert!(guard["classes"][0]["live_per_s"].as_i64().unwrap() > 0);
    let (_, value) = ask_json(&sandbox, &["status"]);
    assert_eq!(value["sessions"][0]["guard"], "ACTIVE");
    let said = ask(&sandbox, &["stats"]);
    let text = "ACTIVE: pooled classes are served from the pool";
    assert!(said.text.contains(text), "{}", said.text);
    session.end();
}

#[test]
fn where_reclaim_has_no_pool_it_never_opens() {
    for reclaim in ["off", "cgroup,pageout"] {
        let sandbox = Sandbox::new();
        let session = past_tier_1(&sandbox, reclaim, 1_000_000);
        // It sleeps between two looks, and only there.
        let sleeps = || {
            let status = proc_view::status(session.wrapper);
            let sleeps = &status["voluntary_ctxt_switches"];
            sleeps.trim().parse::<u64>().unwrap()
        };
        let mut sleeps_before = None;
        let bytes = wait_until("looks of wrapper and guard", SOON, || {
            let (_, value) = ask_json(&sandbox, &["status"]);
            let tree = value["sessions"][0]["memory_bytes"].as_u64()?;
            assert_eq!(value["sessions"][0]["tier_1_bytes"], Value::Null);
            let bytes = fs::read(session.page()).unwrap();
            let seen = Snapshot::from_bytes(&bytes).unwrap();
            // Past the threshold with its own memory too: the guard looks, and would begin by itself.
            let own_kib = proc_view::status_kib(session.client, "RssAnon")?;
            let is_past = tree > 160 << 20 && own_kib > 200 * 1024;
            if !is_past || seen.first().alloc < 1_500_000 {
                return None;
            }
            let before = *sleeps_before.get_or_insert_with(sleeps);
            (sleeps() >= before + 3).then_some(bytes)
        });
        let page = Snapshot::from_bytes(&bytes).unwrap();
        assert_eq!(page.state, State::Standby, "{reclaim}");
        assert_eq!(page.first().pool_hit, 0);
        assert_eq!(
            bytes[WANTED_AT..WANTED_AT + 8],
            [0; 8],
            "{reclaim}: no word"
        );
        session.end();
        let mut command = sandbox.command(&artifacts().claude_safectl);
        let output = command
            .args(["doctor", "--json"])
            .env("CLAUDE_SAFE_BIN", program("fake-claude"))
            .env("CLAUDE_SAFE_RECLAIM", reclaim)
            .output()
            .unwrap();
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        let tier_1 = &value["tiers"][1];
        assert_eq!(tier_1["in_force"], json!([]), "{tier_1}");
        let said = tier_1["not_in_force"].to_string();
        let why = "pool: switched off by CLAUDE_SAFE_RECLAIM";
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn a_client_whose_wrapper_was_killed_is_told_as_unwatched_until_it_ends() {
    let sandbox = Sandbox::new();
    let mut session = Session::start(&sandbox, &[]);
    send_signal(session.wrapper, libc::SIGKILL).unwrap();
    wait_until("its end", SOON, || session.child.0.try_wait().unwrap());
    let untouched = state_of(&session.folder);
    for command in ["stats", "status"] {
        let said = ask(&sandbox, &[command]);
        assert_eq!(said.code, Some(0), "{}", said.text);
        for part in [
            "unwatched (claude-safe is gone)",
            &session.client.to_string(),
            "standby",
        ] {
            assert!(said.text.contains(part), "{part:?} in {}", said.text);
        }
        let (_, value) = ask_json(&sandbox, &[command]);
        assert_eq!(value["sessions"].as_array().unwrap().len(), 1);
        assert_eq!(value["sessions"][0]["watched"], false);
        assert_eq!(value["sessions"][0]["client_pid"], session.client);
    }
    let (_, value) = ask_json(&sandbox, &["stats", &session.client.to_string()]);
    let now = &value["sessions"][0]["guard"]["pages"]["resident_now_bytes"];
    assert!(now.as_u64().unwrap() > 0, "{value}");
    let gone = ask(&sandbox, &["stats", &session.wrapper.to_string()]);
    assert_eq!(gone.code, Some(1), "{}", gone.text);
    // The next session sweeps when it ends; this folder is still in use.
    let next = Session::start(&sandbox, &[]);
    let (_, value) = ask_json(&sandbox, &["status"]);
    assert_eq!(value["sessions"].as_array().unwrap().len(), 2, "{value}");
    next.end();
    assert_eq!(state_of(&session.folder), untouched);
    send_signal(session.client, libc::SIGTERM).unwrap();
    wait_until("the client's end", SOON, || {
        (!proc_view::alive(session.client)).then_some(())
    });
    for command in ["stats", "status"] {
        assert_eq!(ask(&sandbox, &[command]).text, "no session is running\n");
    }
    assert!(session.folder.is_dir(), "asking removes nothing");
    Session::start(&sandbox, &[]).end();
    assert!(!session.folder.exists(), "the next session's end does");
}

#[test]
fn a_page_that_is_not_what_it_should_be_is_named_and_the_rest_is_told() {
    let sandbox = Sandbox::new();
    let session = Session::start(&sandbox, &[]);
    let good = fs::read(session.page()).unwrap();
    assert_eq!(
        Snapshot::from_bytes(&good).map(|page| page.state),
        Ok(State::Standby)
    );
    assert_eq!(good[WANTED_AT..WANTED_AT + 8], [0; 8]);
    let mut other = good.clone();
    other[8..16].copy_from_slice(&(VERSION + 7).to_ne_bytes());
    let version = format!("page version {}", VERSION + 7);
    let elsewhere = sandbox.file("elsewhere");
    fs::write(&elsewhere, &good).unwrap();
    // The client goes on with the file that it has mapped: another one takes its name.
    let put = |bytes: &[u8]| {
        let draft = sandbox.file("draft");
        fs::write(&draft, bytes).unwrap();
        fs::rename(&draft, session.page()).unwrap();
    };
    let cases: [(&str, &dyn Fn()); 6] = [
        ("page is damaged", &|| put(&good[..LEN / 2])),
        ("page is damaged", &|| put(&vec![0xff; LEN])),
        (&version, &|| put(&other)),
        ("symbolic link", &|| {
            symlink(&elsewhere, session.page()).unwrap()
        }),
        ("more than one name", &|| {
            fs::hard_link(&elsewhere, session.page()).unwrap()
        }),
        ("no regular file", &|| {
            let made = Command::new("mkfifo").arg(session.page()).status();
            assert!(made.unwrap().success());
        }),
    ];
    for (says, make) in cases {
        fs::remove_file(session.page()).unwrap();
        make();
        let said = ask(&sandbox, &["stats"]);
        assert!(said.text.contains(says), "{says}: {}", said.text);
        assert_eq!(said.code, Some(1), "{says}");
        let (code, value) = ask_json(&sandbox, &["stats", &session.client.to_string()]);
        assert_eq!(code, Some(1));
        assert!(
            value["sessions"][0]["no_guard"]
                .as_str()
                .unwrap()
                .contains(says),
            "{value}"
        );
        let (code, value) = ask_json(&sandbox, &["status"]);
        assert_eq!(
            (code, &value["sessions"][0]["guard"]),
            (Some(0), &Value::Null),
            "{says}"
        );
        assert_eq!(value["sessions"][0]["client_pid"], session.client);
    }
    assert!(proc_view::alive(session.client));
    session.end();
}

/// The installed plugin's hook knows no folder: it finds the session that it runs in, or none.
#[test]
fn the_hook_of_the_plugin_tells_the_session_that_it_runs_in() {
    const ID: &str = "12345678-1234-4234-8234-123456789abc";
    let sandbox = Sandbox::new();
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wrapper/plugin");
    let hooks = fs::read_to_string(plugin.join("hooks/hooks.json")).unwrap();
    let hooks: Value = serde_json::from_str(&hooks).unwrap();
    let hook = hooks["hooks"]["SessionStart"][0]["hooks"][0]["command"]
        .as_str()
        .unwrap();
    fs::write(
        sandbox.file("told.json"),
        json!({"session_id": ID}).to_string(),
    )
    .unwrap();
    // As the client does: a shell of its own runs the hook.
    let client = sandbox.file("claude");
    let script = format!(
        "#!/bin/sh\n/bin/sh -c \"$HOOK\" < {} || exit 9\ncat \"$XDG_RUNTIME_DIR\"/claude-safe/*/conversation\nexit 7\n",
        sandbox.file("told.json").display()
    );
    fs::write(&client, script).unwrap();
    fs::set_permissions(&client, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let run = |program: &Path, path: &Path| {
        let mut command = sandbox.command(program);
        command
            .env("CLAUDE_SAFE_BIN", &client)
            .env("CLAUDE_PLUGIN_ROOT", &plugin)
            .env("HOOK", hook)
            .env("PATH", format!("{}:{}", path.display(), sandbox.path()));
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            text(output.stdout),
            text(output.stderr),
            output.status.code(),
        )
    };
    let bin = artifacts().claude_safectl.parent().unwrap();
    let told = run(&artifacts().claude_safe, bin);
    assert_eq!(told, (ID.to_owned(), String::new(), Some(7)));
    // Without claude-safe around it, and without claude-safectl: no word, no failure.
    for path in [bin, Path::new("/nowhere")] {
        let (stdout, stderr, code) = run(&client, path);
        assert_eq!((stdout.as_str(), code), ("", Some(7)), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "cat alone complains: {stderr}");
    }
}
