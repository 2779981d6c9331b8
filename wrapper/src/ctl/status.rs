//! `claude-safectl status`: the running sessions, with their last hour. Memory is counted as the watcher counts it, but
//! in a single look: what an ended parent has left behind is not seen.

use super::clean::{self, Waiting};
use super::curve::{self, Frame};
use super::sessions::{Session, Sessions, UNWATCHED};
use super::style::{Style, Tone, age, columns, growth, size};
use super::{Answer, Request, exit, past, prom};
use crate::client::args::is_uuid;
use crate::descriptors;
use crate::guard_page::{self, state_in_words};
use crate::history::{Past, Point, analysis};
use crate::json::{self, json};
use crate::os::clock::wall_ms;
use crate::os::process::now_ms;
use crate::state;
use crate::supervise::conversation::own_words;
use crate::supervise::transcript::Turn;
use crate::watch::proc_fs::Proc;
use crate::watch::{Look, ProcessId, Sample, Watcher};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What the curve shows, milliseconds.
pub(super) const HOUR_MS: u64 = 3_600_000;
/// Growth is told over this too.
const TEN_MINUTES_MS: u64 = 600_000;
/// Lines of the curve.
const ROWS: usize = 4;
/// Values of the last hour for programs: one a minute.
const MINUTES: usize = 60;

pub(super) fn run(request: &Request) -> Answer {
    let proc_root = Path::new("/proc");
    let sessions = Sessions::of_this_user(&mut Proc::new(proc_root));
    answer(
        sessions,
        past::folder().as_deref(),
        clean::what_would_go,
        request,
    )
}

/// One session, as it is now.
pub(super) struct Status {
    pub(super) session: Session,
    /// Of the whole tree.
    pub(super) memory_kib: Option<u64>,
    /// What was seen of it.
    pub(super) sample: Option<Sample>,
    /// Open descriptors of the tree, and the masters of pseudo-terminals among them.
    pub(super) held: Option<(u64, u64)>,
    /// The guard's state, where it has a page.
    pub(super) guard: Option<&'static str>,
    pub(super) conversation: Option<String>,
    /// What was kept of it.
    pub(super) past: Option<Past>,
    /// Or why that is not told.
    pub(super) complaint: Option<String>,
    pub(super) now_unix_ms: u64,
}

impl Status {
    pub(super) fn of(session: Session, history: Option<&Path>) -> Status {
        let limit_kib = session.notes.tier_2_kib.unwrap_or(0);
        let client = session.client_pid();
        let sample = client.and_then(|pid| look_at(pid, session.notes.daemon(), limit_kib));
        let page = guard_page::read(&session.page()).ok();
        let past = history.map_or(Ok(None), |folder| past::of(folder, &session));
        Status {
            memory_kib: sample.as_ref().map(|sample| sample.total_kib),
            held: sample.as_ref().map(|sample| {
                descriptors::of_all(sample.processes.iter().map(|process| process.id.pid))
            }),
            sample,
            guard: page.map(|reading| state_in_words(reading.snapshot.state)),
            conversation: conversation(&session),
            complaint: past.as_ref().err().cloned(),
            past: past.ok().flatten(),
            now_unix_ms: wall_ms(),
            session,
        }
    }

    /// The samples of the last so many milliseconds, and what is seen now as the last one.
    pub(super) fn recent(&self, span_ms: u64) -> Vec<Point> {
        let Some(past) = &self.past else {
            return Vec::new();
        };
        let mut recent = analysis::recent(&past.points, self.now_unix_ms, span_ms);
        if let (Some(kib), Some(last)) = (self.memory_kib, past.points.last()) {
            recent.push(Point {
                at_unix_ms: self.now_unix_ms,
                total_kib: kib,
                ..*last
            });
        }
        recent
    }

    /// KiB an hour, over the last ten minutes and over the last hour.
    pub(super) fn growth_kib_h(&self) -> [Option<i64>; 2] {
        [TEN_MINUTES_MS, HOUR_MS].map(|span_ms| analysis::growth_kib_h(&self.recent(span_ms)))
    }

    /// Its last hour, if there is a history, without the names of the session.
    pub(super) fn curve(&self, width: usize, rows: usize, unicode: bool) -> Vec<String> {
        let Some(past) = &self.past else {
            return Vec::new();
        };
        let frame = Frame {
            width,
            rows,
            unicode,
            now_unix_ms: self.now_unix_ms,
            span_ms: HOUR_MS,
        };
        // One that is older than the hour tells where the curve begins.
        let mut points = past.points.clone();
        points.extend(self.recent(0).last());
        analysis::in_order_of_time(&mut points);
        curve::draw(&points, &curve::limits(&past.header), frame)
    }

    /// Who it is and for how long, on one line.
    pub(super) fn title(&self) -> String {
        let notes = &self.session.notes;
        let mut title = match self.session.client_pid() {
            Some(pid) => format!("claude {pid}"),
            None => "no claude at this moment".to_owned(),
        };
        title.push_str(&match self.session.is_watched {
            true => format!(" (claude-safe {})", self.session.wrapper_pid),
            false => format!(", {UNWATCHED}"),
        });
        if let Some(since) = notes.since_unix_s {
            let seconds = (self.now_unix_ms / 1000).saturating_sub(since);
            title.push_str(&format!(", for {}", age(seconds)));
        }
        match notes.restarts {
            None | Some(0) => {}
            Some(1) => title.push_str(", restarted once"),
            Some(times) => title.push_str(&format!(", restarted {times} times")),
        }
        title
    }

    /// Memory and its growth.
    pub(super) fn memory_in_words(&self) -> String {
        let mut text = in_bytes(self.memory_kib).map_or("?".to_owned(), size);
        let [ten_minutes, hour] = self.growth_kib_h().map(growth);
        for (growth, of) in [(ten_minutes, "the last 10 min"), (hour, "the last hour")] {
            if let Some(growth) = growth {
                text.push_str(&format!(", {growth} in {of}"));
            }
        }
        text
    }

    /// What tier 1 by the kernel does.
    pub(super) fn reclaim_in_words(&self) -> Option<String> {
        let notes = &self.session.notes;
        let mut text = notes.reclaim.clone()?;
        if notes.given_kib.is_some_and(|kib| kib > 0) {
            let of = |kib| size(in_bytes(kib).unwrap_or(0));
            let (given, back) = (of(notes.given_kib), of(notes.back_kib));
            text.push_str(&format!(" ({given} given back, {back} came back)"));
        }
        Some(text)
    }
}

fn in_bytes(kib: Option<u64>) -> Option<u64> {
    kib.map(|kib| kib.saturating_mul(1024))
}

/// Who has this pid now, and its tree without the daemon.
fn look_at(pid: i32, daemon: Option<ProcessId>, limit_kib: u64) -> Option<Sample> {
    let mut watcher = Watcher::new(Path::new("/proc"), pid, Vec::new());
    watcher.set_apart(daemon.as_slice());
    match watcher.look(now_ms(), limit_kib) {
        Look::Running(sample) => Some(sample.clone()),
        Look::ClientGone(_) => None,
    }
}

/// The daemons that these sessions started and that run, each once, with their memory in KiB.
pub(super) fn daemons(all: &[Status]) -> Vec<(i32, u64)> {
    let mut ids: Vec<_> = all
        .iter()
        .filter_map(|status| status.session.notes.daemon())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter()
        .filter_map(|id| {
            let found = look_at(id.pid, None, 0)?;
            (found.client == id).then_some((id.pid, found.total_kib))
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

fn answer(
    sessions: Sessions,
    history: Option<&Path>,
    look: impl FnOnce() -> Waiting,
    request: &Request,
) -> Answer {
    let mut complaints = sessions.complaints;
    let running = sessions.running.into_iter();
    let all: Vec<Status> = running
        .map(|session| Status::of(session, history))
        .collect();
    complaints.extend(all.iter().filter_map(|status| status.complaint.clone()));
    let code = if complaints.is_empty() {
        exit::DONE
    } else {
        exit::TROUBLE
    };
    if let Some(file) = request.value(&prom::PROM) {
        return prom::answer(&all, Path::new(file), code);
    }
    let temporary = look();
    let text = if request.json {
        in_json(&all, &temporary, &complaints)
    } else {
        in_words(&all, &temporary, &complaints, request.style)
    };
    Answer { text, code }
}

fn in_words(all: &[Status], temporary: &Waiting, complaints: &[String], style: Style) -> String {
    let mut text = String::new();
    for status in all {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&style.paint(Tone::Heading, &status.title()));
        text.push('\n');
        text.push_str(&columns(&rows(status, true), 2));
        for line in status.curve(style.width.min(MOST_WIDE), ROWS, style.unicode) {
            text.push_str(&format!("{line}\n"));
        }
    }
    if all.is_empty() {
        text.push_str("no session is running\n");
    }
    for (pid, kib) in daemons(all) {
        let memory = size(kib.saturating_mul(1024));
        text.push_str(&format!(
            "{pid}: claude's daemon, for all sessions: {memory}\n"
        ));
    }
    if temporary.count > 0 {
        let (count, bytes) = (temporary.count, size(temporary.bytes));
        let at_least = if temporary.is_all { "" } else { "at least " };
        text.push_str(&format!(
            "temporary folder: {at_least}{count} files of dead sessions, {bytes}: claude-safectl clean\n"
        ));
    }
    for complaint in complaints {
        text.push_str(&format!("{complaint}\n"));
    }
    text
}

/// A curve gets no wider: an hour in more columns shows nothing more.
const MOST_WIDE: usize = 100;

/// What is told of a session, line by line; its conversation, if that is wanted.
pub(super) fn rows(status: &Status, with_conversation: bool) -> Vec<[String; 2]> {
    let notes = &status.session.notes;
    let mut rows = Vec::new();
    let mut row = |name: &str, value: Option<String>| {
        rows.extend(value.map(|value| [name.to_owned(), value]));
    };
    row("memory", Some(status.memory_in_words()));
    let marks = [
        ("tier 1", notes.tier_1_kib),
        ("warning", notes.warn_kib),
        ("tier 2", notes.tier_2_kib),
    ];
    let marks: Vec<String> = marks
        .into_iter()
        .filter_map(|(name, kib)| Some(format!("{name} {}", size(in_bytes(kib)?))))
        .collect();
    row("limits", (!marks.is_empty()).then(|| marks.join(", ")));
    let held = |(open, ptmx)| format!("{open} open, pseudo-terminals among them: {ptmx}");
    row("descriptors", status.held.map(held));
    row("tier 0", notes.contained.clone());
    row("tier 1", status.reclaim_in_words());
    row("guard", Some(status.guard.unwrap_or("none").to_owned()));
    if with_conversation {
        row(
            "conversation",
            Some(status.conversation.clone().unwrap_or("?".to_owned())),
        );
    }
    row("no history", notes.no_history.clone());
    if let Some(past) = status.past.as_ref().filter(|past| past.damaged > 0) {
        row(
            "history",
            Some(format!("{} damaged samples are left out", past.damaged)),
        );
    }
    rows
}

fn in_json(all: &[Status], temporary: &Waiting, complaints: &[String]) -> String {
    let bytes = in_bytes;
    let sessions: Vec<Value> = all
        .iter()
        .map(|status| {
            let notes = &status.session.notes;
            let [ten_minutes, hour] = status.growth_kib_h();
            let of_hour = |kib: Option<i64>| kib.map(|kib| kib.saturating_mul(1024));
            let minutes = analysis::columns(
                status.past.as_ref().map_or(&[], |past| &past.points),
                status.now_unix_ms,
                HOUR_MS,
                MINUTES,
            );
            json!({
                "wrapper_pid": status.session.wrapper_pid,
                "client_pid": status.session.client_pid(),
                "watched": status.session.is_watched,
                "since_unix_s": notes.since_unix_s,
                "client_since_unix_s": notes.client_since_unix_s,
                "restarts": notes.restarts,
                "memory_bytes": bytes(status.memory_kib),
                "growth_10_min_bytes_per_h": of_hour(ten_minutes),
                "growth_1_h_bytes_per_h": of_hour(hour),
                "last_hour_bytes": minutes.into_iter().map(bytes).collect::<Vec<_>>(),
                "descriptors": status.held.map(|held| held.0),
                "pseudo_terminals": status.held.map(|held| held.1),
                "tier_1_bytes": bytes(notes.tier_1_kib),
                "warn_bytes": bytes(notes.warn_kib),
                "tier_2_bytes": bytes(notes.tier_2_kib),
                "contained": notes.contained.as_ref(),
                "group_folder": notes.group_folder.as_ref().map(|folder| folder.to_string_lossy()),
                "reclaim": notes.reclaim.as_ref(),
                "given_back_bytes": bytes(notes.given_kib),
                "came_back_bytes": bytes(notes.back_kib),
                "no_history": notes.no_history.as_ref(),
                "guard": status.guard,
                "conversation": status.conversation.as_ref(),
            })
        })
        .collect();
    let daemons: Vec<Value> = daemons(all)
        .into_iter()
        .map(|(pid, kib)| json!({ "pid": pid, "memory_bytes": kib.saturating_mul(1024) }))
        .collect();
    let temporary = json!({
        "folder": temporary.folder.to_string_lossy(),
        "removable": temporary.count,
        "bytes": temporary.bytes,
        "all_seen": temporary.is_all,
    });
    json::text(&json!({
        "sessions": sessions,
        "daemons": daemons,
        "temporary": temporary,
        "complaints": complaints,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::page::fixture::full;
    use super::super::sessions::fixture::Running;
    use super::*;
    use crate::history::Header;
    use crate::history::ring::Writer;
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
        let answer = answer(running.find(), None, Waiting::default, &request);
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
        let mut all = statuses(&running, None);
        all[0].now_unix_ms = 1_000 * (1_000 + 3 * 3600 + 12 * 60);
        let text = in_words(&all, &Waiting::default(), &[], Style::default());
        for said in [
            "), for 3 h 12 min, restarted 3 times\n",
            "  limits        tier 1 30.0 GiB, warning 45.0 GiB, tier 2 60.0 GiB\n",
            "  tier 0        own cgroup\n",
            "  tier 1        idle: watching (2048 MiB given back, 1024 MiB came back)\n",
            "  guard         ACTIVE\n",
            START,
        ] {
            assert!(text.contains(said), "{said} in {text}");
        }
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }

    fn statuses(running: &Running, history: Option<&Path>) -> Vec<Status> {
        let all = running.find().running.into_iter();
        all.map(|session| Status::of(session, history)).collect()
    }

    #[test]
    fn the_last_hour_is_told_with_its_growth_in_words_and_numbers() {
        let scratch = Scratch::new();
        let running = Running::new(&scratch);
        let history = scratch.path().join("history");
        running.tell(Notes {
            since_unix_s: Some(7),
            ..Notes::default()
        });
        let id = running.find().running[0].wrapper();
        crate::os::private::folder(&history).unwrap();
        let header = Header {
            wrapper: id,
            since_unix_s: 7,
            tier_2_kib: 1 << 20,
            ..Header::default()
        };
        let file = history.join(format!("{}.{}", id.pid, id.start_ticks));
        let mut writer = Writer::create(&file, &header).unwrap();
        let now = wall_ms();
        for minute in 0..60 {
            let point = Point {
                at_unix_ms: now - (60 - minute) * 60_000,
                total_kib: (300 + 5 * minute) << 10,
                ..Point::default()
            };
            writer.append(&point).unwrap();
        }
        let mut all = statuses(&running, Some(&history));
        all[0].memory_kib = Some(600 << 10);
        let text = in_words(&all, &Waiting::default(), &[], Style::default());
        assert!(
            text.contains(
                "  memory        600 MiB, +300 MiB/h in the last 10 min, +300 MiB/h in the last hour\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("  1024 MiB |----") && text.contains(" tier 2\n"),
            "{text}"
        );
        assert!(text.contains("-60 min"), "{text}");
        let told: Value = serde_json::from_str(&in_json(&all, &Waiting::default(), &[])).unwrap();
        let told = &told["sessions"][0];
        let growth = told["growth_1_h_bytes_per_h"].as_u64().unwrap();
        assert!(growth.abs_diff(300 << 20) < 1 << 20, "{growth}");
        assert_eq!(told["last_hour_bytes"].as_array().unwrap().len(), 60);
        assert_eq!(told["last_hour_bytes"][59], json!(595_u64 << 20));
        // Of another session with this number: nobody's.
        running.tell(Notes {
            since_unix_s: Some(8),
            ..Notes::default()
        });
        assert!(statuses(&running, Some(&history))[0].past.is_none());
        std::fs::write(&file, "junk").unwrap();
        let request = Request::default();
        let refused = answer(running.find(), Some(&history), Waiting::default, &request);
        assert_eq!(refused.code, exit::TROUBLE);
        assert!(
            refused
                .text
                .contains("is not used: is no history of a session")
        );
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
            statuses(&running, None)
        };
        let mut all = with_start(stat.id.start_ticks);
        all.extend(with_start(stat.id.start_ticks));
        let text = in_words(&all, &Waiting::default(), &[], Style::default());
        assert_eq!(
            text.matches("claude's daemon, for all sessions: ").count(),
            1,
            "{text}"
        );
        let told: Value = serde_json::from_str(&in_json(&all, &Waiting::default(), &[])).unwrap();
        assert_eq!(told["daemons"][0]["pid"], json!(stat.id.pid));
        let other = with_start(stat.id.start_ticks + 1);
        assert!(!in_words(&other, &Waiting::default(), &[], Style::default()).contains("daemon"));
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
        let answer = answer(Sessions::default(), None, Waiting::default, &request);
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

    #[test]
    fn what_waits_in_the_temporary_folder_and_what_a_session_holds_is_told() {
        let scratch = Scratch::new();
        let running = Running::new(&scratch);
        let running_now = running.find().running.into_iter();
        let all: Vec<Status> = running_now
            .map(|session| Status::of(session, None))
            .collect();
        let (open, ptmx) = all[0].held.unwrap();
        assert!(open >= 3 && ptmx == 0, "{open} {ptmx}");
        let waiting = |is_all| Waiting {
            folder: "/x".into(),
            count: 12,
            bytes: 40 << 20,
            is_all,
        };
        let text = in_words(&all, &waiting(true), &[], Style::default());
        assert!(text.contains(&format!("{open} open, pseudo-terminals among them: 0")));
        assert!(text.contains("temporary folder: 12 files of dead sessions, 40 MiB: "));
        let text = in_words(&[], &waiting(false), &[], Style::default());
        assert!(
            text.contains("temporary folder: at least 12 files"),
            "{text}"
        );
        let text = in_words(&[], &Waiting::default(), &[], Style::default());
        assert!(!text.contains("temporary"), "{text}");
        let told: Value = serde_json::from_str(&in_json(&all, &waiting(true), &[])).unwrap();
        assert_eq!(told["sessions"][0]["descriptors"], open);
        assert_eq!(told["sessions"][0]["pseudo_terminals"], 0);
        assert_eq!(told["temporary"]["removable"], 12);
        assert_eq!(told["temporary"]["bytes"], 40 << 20);
    }
}
