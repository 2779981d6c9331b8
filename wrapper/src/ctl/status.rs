//! `claude-safectl status`: the running sessions, a line each. Memory is counted as the watcher counts it, but
//! in a single look: what an ended parent has left behind is not seen.

use super::sessions::{Session, Sessions, UNWATCHED};
use super::style::{age, columns, size};
use super::{Answer, Request, exit};
use crate::client::args::is_uuid;
use crate::guard_page::{self, state_in_words};
use crate::json::{self, json};
use crate::os::process::now_ms;
use crate::state;
use crate::supervise::conversation::own_words;
use crate::supervise::transcript::Turn;
use crate::watch::proc_fs::Proc;
use crate::watch::{Look, ProcessId, Watcher};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, SystemTime};

pub(super) fn run(request: &Request) -> Answer {
    let proc_root = Path::new("/proc");
    let sessions = Sessions::of_this_user(&mut Proc::new(proc_root));
    answer(sessions, request)
}

/// One session, as it is now.
struct Status {
    session: Session,
    /// Of the whole tree.
    memory_kib: Option<u64>,
    /// The guard's state, where it has a page.
    guard: Option<&'static str>,
    conversation: Option<String>,
}

impl Status {
    fn of(session: Session) -> Status {
        let limit_kib = session.notes.tier_2_kib.unwrap_or(0);
        let memory_kib = session.client_pid().and_then(|pid| {
            let (_, kib) = memory_of(pid, session.notes.daemon(), limit_kib)?;
            Some(kib)
        });
        let page = guard_page::read(&session.page()).ok();
        Status {
            memory_kib,
            guard: page.map(|reading| state_in_words(reading.snapshot.state)),
            conversation: conversation(&session),
            session,
        }
    }
}

/// Who has this pid now, and the memory of its tree, KiB, without that of the daemon.
fn memory_of(pid: i32, daemon: Option<ProcessId>, limit_kib: u64) -> Option<(ProcessId, u64)> {
    let mut watcher = Watcher::new(Path::new("/proc"), pid, Vec::new());
    watcher.set_apart(daemon.as_slice());
    match watcher.look(now_ms(), limit_kib) {
        Look::Running(sample) => Some((sample.client, sample.total_kib)),
        Look::ClientGone(_) => None,
    }
}

/// The daemons that these sessions started and that run, each once, with their memory in KiB.
fn daemons(all: &[Status]) -> Vec<(i32, u64)> {
    let mut ids: Vec<_> = all
        .iter()
        .filter_map(|status| status.session.notes.daemon())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter()
        .filter_map(|id| {
            let (found, kib) = memory_of(id.pid, None, 0)?;
            (found == id).then_some((id.pid, kib))
        })
        .collect()
}

/// As the supervisor asks, the surest first: what the client says now, what its hook told, what it was
/// started with.
fn conversation(session: &Session) -> Option<String> {
    let notes = &session.notes;
    let told = || {
        let began = Duration::from_secs(notes.client_since_unix_s?);
        let began = SystemTime::UNIX_EPOCH.checked_add(began)?;
        own_words(
            notes.client_folder.as_deref()?,
            session.client_pid()?,
            began,
        )
    };
    let told = told();
    // Without a turn (old clients) the file names the conversation of the start, for ever.
    let is_current = told.as_ref().is_some_and(|told| told.turn != Turn::Unknown);
    let told = told.and_then(|told| told.id);
    let hook = || {
        let id = state::read_file(&session.folder, "conversation")?;
        Some(id.trim().to_owned())
    };
    told.clone()
        .filter(|_| is_current)
        .or_else(|| hook().filter(|id| is_uuid(id)))
        .or_else(|| notes.conversation.clone().filter(|id| is_uuid(id)))
        .or(told)
}

fn answer(sessions: Sessions, request: &Request) -> Answer {
    let complaints = sessions.complaints;
    let all: Vec<Status> = sessions.running.into_iter().map(Status::of).collect();
    let text = if request.json {
        in_json(&all, &complaints)
    } else {
        let now = SystemTime::UNIX_EPOCH.elapsed();
        in_words(&all, &complaints, now.map_or(0, |now| now.as_secs()))
    };
    let code = if complaints.is_empty() {
        exit::DONE
    } else {
        exit::TROUBLE
    };
    Answer { text, code }
}

fn in_words(all: &[Status], complaints: &[String], now_unix_s: u64) -> String {
    let kib = |kib: Option<u64>| kib.map_or("?".to_owned(), |kib| size(kib.saturating_mul(1024)));
    let head = [
        "claude-safe",
        "claude",
        "for",
        "memory",
        "tier 1",
        "warn",
        "tier 2",
        "restarts",
        "guard",
        "conversation",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for status in all {
        let notes = &status.session.notes;
        let pid = status.session.client_pid();
        let since = notes.since_unix_s;
        let restarts = notes.restarts;
        let wrapper = if status.session.is_watched {
            status.session.wrapper_pid.to_string()
        } else {
            UNWATCHED.to_owned()
        };
        rows.push([
            wrapper,
            pid.map_or("-".to_owned(), |pid| pid.to_string()),
            since.map_or(
                "?".to_owned(),
                |since| age(now_unix_s.saturating_sub(since)),
            ),
            kib(status.memory_kib),
            kib(notes.tier_1_kib),
            kib(notes.warn_kib),
            kib(notes.tier_2_kib),
            restarts.map_or("?".to_owned(), |restarts| restarts.to_string()),
            status.guard.unwrap_or("none").to_owned(),
            status.conversation.clone().unwrap_or("?".to_owned()),
        ]);
    }
    let mut text = if all.is_empty() {
        "no session is running\n".to_owned()
    } else {
        columns(&rows, 0)
    };
    for status in all {
        text.push_str(&tiers_in_words(status));
    }
    for (pid, kib) in daemons(all) {
        let memory = size(kib.saturating_mul(1024));
        text.push_str(&format!(
            "{pid}: claude's daemon, for all sessions: {memory}\n"
        ));
    }
    for complaint in complaints {
        text.push_str(&format!("{complaint}\n"));
    }
    text
}

/// What tier 0 and tier 1 do for a session, on a line that fits 80 columns.
fn tiers_in_words(status: &Status) -> String {
    let notes = &status.session.notes;
    let Some(contained) = &notes.contained else {
        return String::new();
    };
    let wrapper = status.session.wrapper_pid;
    let mut text = format!("{wrapper}: {contained}\n");
    if let Some(reclaim) = &notes.reclaim {
        text.push_str(&format!("{wrapper}: tier 1: {reclaim}"));
        let of = |kib: Option<u64>| size(kib.unwrap_or(0).saturating_mul(1024));
        if notes.given_kib.is_some_and(|kib| kib > 0) {
            let (given, back) = (of(notes.given_kib), of(notes.back_kib));
            text.push_str(&format!(" ({given} given back, {back} came back)"));
        }
        text.push('\n');
    }
    text
}

fn in_json(all: &[Status], complaints: &[String]) -> String {
    let bytes = |kib: Option<u64>| kib.map(|kib| kib.saturating_mul(1024));
    let sessions: Vec<Value> = all
        .iter()
        .map(|status| {
            let notes = &status.session.notes;
            json!({
                "wrapper_pid": status.session.wrapper_pid,
                "client_pid": status.session.client_pid(),
                "watched": status.session.is_watched,
                "since_unix_s": notes.since_unix_s,
                "client_since_unix_s": notes.client_since_unix_s,
                "restarts": notes.restarts,
                "memory_bytes": bytes(status.memory_kib),
                "tier_1_bytes": bytes(notes.tier_1_kib),
                "warn_bytes": bytes(notes.warn_kib),
                "tier_2_bytes": bytes(notes.tier_2_kib),
                "contained": notes.contained.as_ref(),
                "group_folder": notes.group_folder.as_ref().map(|folder| folder.to_string_lossy()),
                "reclaim": notes.reclaim.as_ref(),
                "given_back_bytes": bytes(notes.given_kib),
                "came_back_bytes": bytes(notes.back_kib),
                "guard": status.guard,
                "conversation": status.conversation.as_ref(),
            })
        })
        .collect();
    let daemons: Vec<Value> = daemons(all)
        .into_iter()
        .map(|(pid, kib)| json!({ "pid": pid, "memory_bytes": kib.saturating_mul(1024) }))
        .collect();
    json::text(&json!({ "sessions": sessions, "daemons": daemons, "complaints": complaints }))
}

#[cfg(test)]
mod tests {
    use super::super::page::fixture::full;
    use super::super::sessions::fixture::Running;
    use super::*;
    use crate::os::files::scratch::Scratch;
    use crate::os::page_bytes;
    use crate::state::{Notes, PAGE};
    use std::fs;

    const START: &str = "11111111-1111-4111-8111-111111111111";
    const HOOK: &str = "22222222-2222-4222-8222-222222222222";
    const OWN: &str = "33333333-3333-4333-8333-333333333333";

    fn json_of(running: &Running) -> Value {
        let request = Request {
            json: true,
            ..Request::default()
        };
        let answer = answer(running.find(), &request);
        assert_eq!(answer.code, exit::DONE, "{}", answer.text);
        let value: Value = serde_json::from_str(&answer.text).unwrap();
        value["sessions"][0].clone()
    }

    #[test]
    fn a_session_is_told_with_its_limits_in_bytes_and_in_words() {
        let scratch = Scratch::new();
        let running = Running::new(&scratch);
        running.tell(Notes {
            since_unix_s: Some(1_000),
            client_since_unix_s: Some(2_000),
            restarts: Some(3),
            tier_1_kib: Some(30 << 20),
            warn_kib: Some(45 << 20),
            tier_2_kib: Some(60 << 20),
            conversation: Some(START.to_owned()),
            contained: Some("own cgroup".to_owned()),
            group_folder: Some("/x".into()),
            reclaim: Some("idle: watching".to_owned()),
            given_kib: Some(2 << 20),
            back_kib: Some(1 << 20),
            ..Notes::default()
        });
        let page = page_bytes::of(&full(running.client_pid().cast_unsigned(), 1));
        fs::write(running.folder.path().join(PAGE), page).unwrap();
        let told = json_of(&running);
        let memory = told["memory_bytes"].as_u64().unwrap();
        assert!(memory > 0 && memory < 64 << 20, "{memory}");
        for (key, value) in [
            ("client_pid", json!(running.client_pid())),
            ("since_unix_s", json!(1_000)),
            ("client_since_unix_s", json!(2_000)),
            ("restarts", json!(3)),
            ("tier_1_bytes", json!(30_u64 << 30)),
            ("warn_bytes", json!(45_u64 << 30)),
            ("tier_2_bytes", json!(60_u64 << 30)),
            ("contained", json!("own cgroup")),
            ("group_folder", json!("/x")),
            ("reclaim", json!("idle: watching")),
            ("given_back_bytes", json!(2_u64 << 30)),
            ("came_back_bytes", json!(1_u64 << 30)),
            ("guard", json!("ACTIVE")),
            ("conversation", json!(START)),
        ] {
            assert_eq!(told[key], value, "{key}");
        }
        let all: Vec<Status> = running.find().running.into_iter().map(Status::of).collect();
        let text = in_words(&all, &[], 1_000 + 3 * 3600 + 12 * 60);
        assert!(text.contains(": own cgroup\n"), "{text}");
        assert!(
            text.contains(": tier 1: idle: watching (2048 MiB given back, 1024 MiB came back)\n"),
            "{text}"
        );
        for said in [
            "3 h 12 min",
            "30.0 GiB",
            "45.0 GiB",
            "60.0 GiB",
            "ACTIVE",
            START,
        ] {
            assert!(
                text.lines().nth(1).unwrap().contains(said),
                "{said} in {text}"
            );
        }
    }

    #[test]
    fn a_daemon_is_told_once_and_only_while_it_runs() {
        let scratch = Scratch::new();
        let running = Running::new(&scratch);
        let stat = Proc::new(Path::new("/proc"))
            .stat(running.client_pid(), None)
            .unwrap();
        // Any process of ours may stand for it.
        let with_start = |ticks| {
            running.tell(Notes {
                daemon_pid: Some(stat.id.pid),
                daemon_start_ticks: Some(ticks),
                ..Notes::default()
            });
            running
                .find()
                .running
                .into_iter()
                .map(Status::of)
                .collect::<Vec<_>>()
        };
        let mut all = with_start(stat.id.start_ticks);
        all.extend(with_start(stat.id.start_ticks));
        let text = in_words(&all, &[], 0);
        assert_eq!(
            text.matches("claude's daemon, for all sessions: ").count(),
            1,
            "{text}"
        );
        let told: Value = serde_json::from_str(&in_json(&all, &[])).unwrap();
        assert_eq!(told["daemons"][0]["pid"], json!(stat.id.pid));
        let other = with_start(stat.id.start_ticks + 1);
        assert!(!in_words(&other, &[], 0).contains("daemon"));
    }

    #[test]
    fn what_a_session_does_not_tell_is_not_made_up() {
        let scratch = Scratch::new();
        let running = Running::new(&scratch);
        running.tell(Notes {
            conversation: Some("\u{1b}[31mno id".to_owned()),
            ..Notes::default()
        });
        let told = json_of(&running);
        for key in [
            "since_unix_s",
            "restarts",
            "tier_1_bytes",
            "tier_2_bytes",
            "guard",
            "conversation",
        ] {
            assert_eq!(told[key], Value::Null, "{key}");
        }
        let request = Request::default();
        let answer = answer(Sessions::default(), &request);
        assert_eq!(
            (answer.text.as_str(), answer.code),
            ("no session is running\n", exit::DONE)
        );
    }

    #[test]
    fn the_conversation_is_the_one_that_the_client_holds_now() {
        let scratch = Scratch::new();
        let running = Running::new(&scratch);
        let folder = scratch.path().join("client");
        fs::create_dir_all(folder.join("sessions")).unwrap();
        let own = folder.join(format!("sessions/{}.json", running.client_pid()));
        let notes = Notes {
            client_since_unix_s: Some(1),
            conversation: Some(START.to_owned()),
            client_folder: Some(folder),
            ..Notes::default()
        };
        running.tell(notes.clone());
        assert_eq!(json_of(&running)["conversation"], START);
        // An old client's file names the start's conversation only.
        fs::write(&own, json!({ "sessionId": OWN }).to_string()).unwrap();
        assert_eq!(json_of(&running)["conversation"], START);
        running.folder.write("conversation", HOOK).unwrap();
        assert_eq!(json_of(&running)["conversation"], HOOK);
        fs::write(
            &own,
            json!({ "sessionId": OWN, "status": "idle" }).to_string(),
        )
        .unwrap();
        assert_eq!(json_of(&running)["conversation"], OWN);
        // Written before this client began: another process's.
        running.tell(Notes {
            client_since_unix_s: Some(u64::from(u32::MAX)),
            ..notes
        });
        assert_eq!(json_of(&running)["conversation"], HOOK);
    }
}
