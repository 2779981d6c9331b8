//! `claude-safectl report [PID] [--svg FILE]`: an incident as plain text that can be pasted anywhere, of a session that
//! runs or of one that has ended. Tells names of programs and numbers. Never tells an argument, a value of the
//! environment that is not our own setting, the content of a file, or the name of the user's home.

use super::curve::{self, Frame};
use super::page::places;
use super::prom::write_whole;
use super::sessions::{Session, Sessions};
use super::status::{HOUR_MS, Status};
use super::style::{age, columns, moment, plain, size};
use super::{Answer, Flag, Request, doctor, exit, past, resident};
use crate::client::find::Client;
use crate::config::{Loaded, Origin, memory};
use crate::guard_page;
use crate::history::{Header, Incident, Kind, Past, Point};
use crate::os::wait;
use crate::picture::{Curve, Picture, Tone, svg};
use crate::stats_page::PoolState;
use crate::watch::proc_fs::Proc;
use crate::watch::{ProcessId, Sample};
use std::path::Path;

pub(super) static SVG: Flag = Flag {
    name: "svg",
    value: Some("FILE"),
    help: "draw the memory, the limits and the restarts of one session to FILE, and tell nothing else",
};

/// Between the two looks that tell who grows.
const BETWEEN_LOOKS_MS: u64 = 2_000;
/// Processes that are named.
const PROCESSES: usize = 12;
/// Incidents that are told, the latest ones.
const INCIDENTS: usize = 40;
/// How high and wide the curve is. ASCII: it goes into mails and issues.
const ROWS: usize = 8;
const WIDTH: usize = 80;

/// Whom the report is about.
enum Chosen {
    Running(Vec<Session>),
    Ended(Box<Past>),
    Nobody(String),
}

pub(super) fn run(request: &Request) -> Answer {
    let mut processes = Proc::new(Path::new("/proc"));
    let sessions = Sessions::of_this_user(&mut processes);
    let mut complaints = sessions.complaints;
    let folder = past::folder().unwrap_or_default();
    let chosen = choose(sessions.running, &folder, request.pid, &mut complaints);
    if let Some(file) = request.value(&SVG) {
        return draw(chosen, &folder, Path::new(file));
    }
    let mut text = String::new();
    let mut code = exit::DONE;
    match chosen {
        Chosen::Nobody(why) => {
            complaints.push(why);
        }
        Chosen::Ended(past) => text.push_str(&of_ended(&past, &folder, &mut complaints)),
        Chosen::Running(all) => {
            for session in all {
                text.push_str(&of_running(
                    session,
                    &folder,
                    &mut processes,
                    &mut complaints,
                ));
            }
        }
    }
    let (loaded, client, tiers) = doctor::tiers();
    let mut whole = machine(&loaded, client.as_ref());
    whole.push_str(&text);
    whole.push_str(&format!("\n## In force on this machine\n\n{tiers}"));
    if !complaints.is_empty() {
        code = exit::TROUBLE;
        whole.push('\n');
    }
    for complaint in complaints {
        whole.push_str(&format!("{complaint}\n"));
    }
    let home = std::env::var("HOME").unwrap_or_default();
    Answer {
        text: without_home(&whole, &home),
        code,
    }
}

/// Of a process: the session that it is of, or was of. Of none: all that run, else the last that ran.
fn choose(
    mut running: Vec<Session>,
    folder: &Path,
    pid: Option<i32>,
    complaints: &mut Vec<String>,
) -> Chosen {
    let is_meant = |session: &Session| pid.is_none_or(|pid| session.is_of(pid));
    if running.iter().any(is_meant) {
        running.retain(is_meant);
        return Chosen::Running(running);
    }
    let (mut ended, more) = past::ended(folder, &running);
    complaints.extend(more);
    ended.retain(|past| pid.is_none_or(|pid| was_of(past, pid)));
    match (ended.pop(), pid) {
        (Some(past), _) => Chosen::Ended(Box::new(past)),
        (None, Some(pid)) => Chosen::Nobody(format!(
            "no session of yours, running or remembered, has the process {pid}"
        )),
        (None, None) => Chosen::Nobody("no session is running, and none is remembered".to_owned()),
    }
}

/// Was this its claude-safe, or a client of it?
fn was_of(past: &Past, pid: i32) -> bool {
    let client = |point: &Point| point.client_pid == pid;
    past.header.wrapper.pid == pid || past.points.iter().any(client)
}

/// `text` with the home folder as `~`.
fn without_home(text: &str, home: &str) -> String {
    let home = home.trim_end_matches('/');
    if home.is_empty() {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split(home);
    out.push_str(parts.next().unwrap_or(""));
    let mut before_ends_name = !out.ends_with(is_of_name);
    for part in parts {
        // `/home/me` in `/home/meyer` or `/x/home/me` is another folder.
        let is_whole = before_ends_name && !part.starts_with(is_of_name);
        out.push_str(if is_whole { "~" } else { home });
        out.push_str(part);
        before_ends_name = !part.ends_with(is_of_name) && !part.is_empty();
    }
    out
}

fn is_of_name(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '-' | '_' | '.')
}

/// First line of a file of the system, without what would draw on a terminal.
fn line_of(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(plain(text.lines().next()?.trim()))
}

fn distribution() -> Option<String> {
    // os-release(5)
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let mut names = text
        .lines()
        .filter_map(|line| line.strip_prefix("PRETTY_NAME="));
    Some(plain(names.next()?.trim_matches('"')))
}

/// The version that a client's file tells by its place: `versions/2.1.329`, or the package.json of its package.
fn version_of(program: &Path) -> Option<String> {
    let path = std::fs::canonicalize(program).ok()?;
    let is_version = |word: &str| {
        let numbers: Vec<&str> = word.split('.').collect();
        let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        numbers.len() == 3 && numbers.iter().all(is_number)
    };
    let words = path.iter().rev().filter_map(|word| word.to_str());
    if let Some(word) = { words }.find(|word| is_version(word)) {
        return Some(word.to_owned());
    }
    let folders = path.ancestors().skip(1).take(3);
    let manifests = folders.map(|folder| folder.join("package.json"));
    { manifests }.find_map(|manifest| {
        let text = std::fs::read(manifest).ok()?;
        let told: serde_json::Value = serde_json::from_slice(&text).ok()?;
        let is_claude = told.get("name")?.as_str()?.contains("claude-code");
        let version = told.get("version")?.as_str()?;
        (is_claude && is_version(version)).then(|| version.to_owned())
    })
}

/// What does not depend on a session.
fn machine(loaded: &Loaded, client: Option<&Client>) -> String {
    let row = |name: &str, value: String| [name.to_owned(), value];
    let mut rows = vec![row("claude-safe", env!("CARGO_PKG_VERSION").to_owned())];
    rows.push(row(
        "claude",
        match client {
            None => "none found".to_owned(),
            Some(client) => {
                let program = client.kind.final_program.as_deref().unwrap_or(&client.path);
                let version = version_of(program).unwrap_or("version unknown".to_owned());
                format!(
                    "{version}, {}, {}",
                    client.kind.program,
                    client.path.display()
                )
            }
        },
    ));
    let kernel = line_of("/proc/sys/kernel/osrelease").unwrap_or("?".to_owned());
    rows.push(row(
        "kernel",
        format!("Linux {kernel}, {}", std::env::consts::ARCH),
    ));
    rows.extend(distribution().map(|name| row("system", name)));
    let all = memory::measure(Path::new("/proc")).map_or("?".to_owned(), |all| {
        let by = if all.limited_by.is_some() {
            ", by a cgroup"
        } else {
            ""
        };
        format!("{}{by}", size(all.bytes))
    });
    rows.push(row("memory", all));
    let swap = memory::swap_total_kib(Path::new("/proc"));
    rows.push(row(
        "swap",
        match swap {
            0 => "none".to_owned(),
            kib => size(kib.saturating_mul(1024)),
        },
    ));
    let mut text = format!("# claude-safe incident report\n\n{}", columns(&rows, 2));
    let settings: Vec<[String; 3]> = (loaded.settings.iter())
        .filter(|setting| setting.origin != Origin::Default)
        .map(|setting| {
            [
                setting.name.to_owned(),
                plain(&setting.value),
                format!("({})", setting.origin),
            ]
        })
        .collect();
    text.push_str("\n## Settings that are not the default\n\n");
    match settings.is_empty() {
        true => text.push_str("  none\n"),
        false => text.push_str(&columns(&settings, 2)),
    }
    text
}

fn curve_of(points: &[Point], header: &Header, now_unix_ms: u64, span_ms: u64) -> String {
    let frame = Frame {
        width: WIDTH,
        rows: ROWS,
        unicode: false,
        now_unix_ms,
        span_ms,
    };
    let lines = curve::draw(points, &curve::limits(header), frame);
    // A block that no Markdown changes.
    format!("\n```\n{}\n```\n", lines.join("\n"))
}

fn of_running(
    session: Session,
    folder: &Path,
    processes: &mut Proc,
    complaints: &mut Vec<String>,
) -> String {
    let status = Status::of(session, Some(folder));
    complaints.extend(status.complaint.clone());
    let mut text = format!("\n## {}\n\n", capital(&status.title()));
    text.push_str(&columns(&super::status::rows(&status, false), 2));
    if let Some(past) = &status.past {
        text.push_str("\n### The last hour\n");
        let mut points = past.points.clone();
        points.extend(status.recent(0).last());
        text.push_str(&curve_of(
            &points,
            &past.header,
            status.now_unix_ms,
            HOUR_MS,
        ));
    }
    text.push_str(&who_grew(&status, processes));
    if let Some(client) = status.session.client {
        text.push_str(&where_it_is(&status.session, client, processes));
    }
    text.push_str(&happened(folder, status.session.wrapper(), complaints));
    text
}

fn capital(text: &str) -> String {
    text.strip_prefix("claude")
        .map_or(text.to_owned(), |rest| format!("Claude{rest}"))
}

/// The biggest processes, and what they took more two seconds later.
fn who_grew(status: &Status, processes: &mut Proc) -> String {
    let Some(sample) = &status.sample else {
        return String::new();
    };
    let mut before = footprints(sample, processes);
    wait::wait(&[], Some(BETWEEN_LOOKS_MS));
    before.sort_unstable_by_key(|process| std::cmp::Reverse(process.kib));
    let more = before.len().saturating_sub(PROCESSES);
    let head = ["process", "program", "in memory", "in swap", "grown in 2 s"];
    let mut rows = vec![head.map(str::to_owned)];
    let of = |kib: u64| size(kib.saturating_mul(1024));
    for process in before.into_iter().take(PROCESSES) {
        let now = footprint(process.id, processes);
        let grown = match now.map(|now| now.kib.cast_signed() - process.kib.cast_signed()) {
            None => "ended".to_owned(),
            Some(kib) if kib < 0 => format!("-{}", of(kib.unsigned_abs())),
            Some(kib) => format!("+{}", of(kib.unsigned_abs())),
        };
        rows.push([
            process.id.pid.to_string(),
            process.name,
            of(process.kib.saturating_sub(process.swap_kib)),
            of(process.swap_kib),
            grown,
        ]);
    }
    let mut text = format!("\n### Who takes how much\n\n{}", columns(&rows, 2));
    if more > 0 {
        text.push_str(&format!("  and {more} smaller ones\n"));
    }
    text
}

struct Footprint {
    id: ProcessId,
    name: String,
    kib: u64,
    swap_kib: u64,
}

fn footprint(id: ProcessId, processes: &mut Proc) -> Option<Footprint> {
    let (kib, swap_kib) = processes.anon_and_swap_kib(id.pid).ok()?;
    let name = processes.name(id.pid).ok()?;
    let is_it = processes.stat(id.pid, None).is_ok_and(|stat| stat.id == id);
    is_it.then_some(Footprint {
        id,
        name,
        kib,
        swap_kib,
    })
}

fn footprints(sample: &Sample, processes: &mut Proc) -> Vec<Footprint> {
    let all = sample.processes.iter();
    all.filter_map(|process| footprint(process.id, processes))
        .collect()
}

/// What the client's memory is, by the regions that its guard knows.
fn where_it_is(session: &Session, client: ProcessId, processes: &mut Proc) -> String {
    let page = guard_page::read(&session.page()).ok();
    let page = page.filter(|page| page.snapshot.pid.cast_signed() == client.pid);
    let no_pool = PoolState::default();
    let (regions, pool) = match &page {
        Some(page) => (page.largest.as_slice(), &page.snapshot.pool),
        None => (&[][..], &no_pool),
    };
    let Some(now) = resident::of(processes, client, regions, pool) else {
        return String::new();
    };
    let places = places(&now).into_iter();
    let rows: Vec<[String; 2]> = places
        .map(|(name, bytes)| [name.to_owned(), size(bytes)])
        .collect();
    let known = match page {
        Some(_) => "",
        None => "  (no guard: its regions are not known)\n",
    };
    format!(
        "\n### Where the client's memory is\n\n{}{known}",
        columns(&rows, 2)
    )
}

fn happened(folder: &Path, id: ProcessId, complaints: &mut Vec<String>) -> String {
    let all = past::incidents(folder, id).unwrap_or_else(|complaint| {
        complaints.push(complaint);
        Vec::new()
    });
    let mut text = "\n### What happened\n\n".to_owned();
    if all.is_empty() {
        text.push_str("  nothing\n");
        return text;
    }
    let left_out = all.len().saturating_sub(INCIDENTS);
    if left_out > 0 {
        text.push_str(&format!("  ({left_out} earlier ones are left out)\n"));
    }
    let rows: Vec<[String; 4]> = all[left_out..].iter().map(row_of).collect();
    text.push_str(&columns(&rows, 2));
    text
}

fn row_of(incident: &Incident) -> [String; 4] {
    [
        moment(incident.at_unix_ms / 1000),
        incident.kind.word().to_owned(),
        size(incident.total_kib.saturating_mul(1024)),
        plain(&incident.text),
    ]
}

/// Of a session that is no more: what was kept.
fn of_ended(past: &Past, folder: &Path, complaints: &mut Vec<String>) -> String {
    let header = &past.header;
    let (first, last) = match (past.points.first(), past.points.last()) {
        (Some(first), Some(last)) => (first, last),
        _ => return String::new(),
    };
    let began = header.since_unix_s;
    let lasted = (last.at_unix_ms / 1000).saturating_sub(began);
    let most_kib = past.points.iter().map(|point| point.total_kib).max();
    let of = |kib: u64| size(kib.saturating_mul(1024));
    let limits = curve::limits(header).into_iter();
    let limits: Vec<String> = limits
        .map(|(name, kib)| format!("{name} {}", of(kib)))
        .collect();
    let row = |name: &str, value: String| [name.to_owned(), value];
    let rows = [
        row("began", moment(began)),
        row(
            "last seen",
            format!("{}, after {}", moment(last.at_unix_ms / 1000), age(lasted)),
        ),
        row("with", plain(&header.about)),
        row(
            "memory",
            format!(
                "{} at the end, {} at most",
                of(last.total_kib),
                of(most_kib.unwrap_or(0))
            ),
        ),
        row("limits", limits.join(", ")),
        row("restarts", last.restarts.to_string()),
    ];
    let mut text = format!(
        "\n## Claude {} (claude-safe {}), ended\n\n{}",
        last.client_pid,
        header.wrapper.pid,
        columns(&rows, 2)
    );
    if past.damaged > 0 {
        text.push_str(&format!(
            "  {} damaged samples are left out\n",
            past.damaged
        ));
    }
    let span_ms = last
        .at_unix_ms
        .saturating_sub(first.at_unix_ms)
        .clamp(60_000, HOUR_MS);
    text.push_str("\n### Its end\n");
    text.push_str(&curve_of(&past.points, header, last.at_unix_ms, span_ms));
    text.push_str(&happened(folder, header.wrapper, complaints));
    text
}

/// The picture of one session's history.
fn picture(past: &Past, incidents: &[Incident]) -> Picture {
    let from = past.points.first().map_or(0, |point| point.at_unix_ms);
    let since = |at_unix_ms: u64| at_unix_ms.saturating_sub(from);
    let curve = |name: &str, tone, of: fn(&Point) -> u64| Curve {
        name: name.to_owned(),
        tone,
        points: past
            .points
            .iter()
            .map(|point| (since(point.at_unix_ms), of(point)))
            .collect(),
    };
    let mut curves = vec![curve("memory of the session", Tone::Main, |point| {
        point.total_kib
    })];
    if past.points.iter().any(|point| point.given_kib > 0) {
        curves.push(curve("given back by tier 1", Tone::Aside, |point| {
            point.given_kib
        }));
    }
    let header = &past.header;
    let events = incidents
        .iter()
        .filter(|incident| incident.kind != Kind::Ended);
    Picture {
        title: format!(
            "claude-safe {}, from {}",
            header.wrapper.pid,
            moment(from / 1000)
        ),
        subtitle: String::new(),
        curves,
        limits: curve::limits(header)
            .into_iter()
            .map(|(name, kib)| (name.to_owned(), kib))
            .collect(),
        events: events
            .filter(|incident| incident.at_unix_ms >= from)
            .map(|incident| (since(incident.at_unix_ms), incident.kind.word().to_owned()))
            .collect(),
    }
}

fn draw(chosen: Chosen, folder: &Path, file: &Path) -> Answer {
    let trouble = |text: String| Answer {
        text: text + "\n",
        code: exit::TROUBLE,
    };
    let past = match chosen {
        Chosen::Nobody(why) => return trouble(why),
        Chosen::Ended(past) => Ok(Some(*past)),
        Chosen::Running(all) => match all.as_slice() {
            [session] => past::of(folder, session),
            all => {
                let pids: Vec<String> = all.iter().map(|one| one.wrapper_pid.to_string()).collect();
                return trouble(format!("which one? report PID: {}", pids.join(", ")));
            }
        },
    };
    let past = match past {
        Ok(Some(past)) => past,
        Ok(None) => return trouble("this session has no history yet".to_owned()),
        Err(complaint) => return trouble(complaint),
    };
    let incidents = past::incidents(folder, past.header.wrapper).unwrap_or_default();
    let drawn = svg(&picture(&past, &incidents));
    if file == Path::new("-") {
        return Answer {
            text: drawn,
            code: exit::DONE,
        };
    }
    match write_whole(file, drawn.as_bytes()) {
        Ok(()) => Answer {
            text: String::new(),
            code: exit::DONE,
        },
        Err(error) => Answer {
            text: format!("{} can't be written: {error}\n", file.display()),
            code: exit::NO_OUTPUT,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;

    #[test]
    fn the_home_folder_is_told_as_a_tilde_and_no_other() {
        for (text, says) in [
            ("/home/me/x and /home/me", "~/x and ~"),
            ("(/home/me)", "(~)"),
            ("/home/meyer/x", "/home/meyer/x"),
            ("/srv/home/me/x", "/srv~/x"),
            ("x/home/me", "x/home/me"),
            ("/home/me/home/me", "~/home/me"),
            ("nothing", "nothing"),
            ("", ""),
        ] {
            // A path in a path keeps what stands before it.
            let wanted = says.replace("/srv~", "/srv/home/me");
            assert_eq!(without_home(text, "/home/me/"), wanted, "{text}");
        }
        assert_eq!(without_home("/x", "/"), "/x");
        assert_eq!(without_home("/x", ""), "/x");
    }

    #[test]
    fn a_version_is_told_by_the_place_of_the_file() {
        let scratch = Scratch::new();
        let write = |name: &str, text: &str| {
            let path = scratch.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        let native = write("versions/2.1.329", "");
        assert_eq!(version_of(&native).as_deref(), Some("2.1.329"));
        write(
            "npm/package.json",
            r#"{"name":"@anthropic-ai/claude-code","version":"2.1.81"}"#,
        );
        let script = write("npm/cli.js", "");
        assert_eq!(version_of(&script).as_deref(), Some("2.1.81"));
        write(
            "other/package.json",
            r#"{"name":"left-pad","version":"1.0.0"}"#,
        );
        assert_eq!(version_of(&write("other/claude", "")), None);
        assert_eq!(version_of(Path::new("/none")), None);
    }

    fn past() -> Past {
        let header = Header {
            wrapper: ProcessId {
                pid: 7,
                start_ticks: 8,
            },
            since_unix_s: 1_700_000_000,
            tier_2_kib: 1 << 20,
            about: "claude-safe 0.1.0, /x/claude".to_owned(),
            ..Header::default()
        };
        let points = (0..100).map(|n| Point {
            at_unix_ms: 1_700_000_000_000 + n * 10_000,
            total_kib: n << 13,
            given_kib: n,
            restarts: 2,
            client_pid: 9,
            ..Point::default()
        });
        Past {
            header,
            points: points.collect(),
            damaged: 3,
        }
    }

    #[test]
    fn a_session_that_has_ended_is_told_from_what_was_kept() {
        let scratch = Scratch::new();
        let mut complaints = Vec::new();
        let text = of_ended(&past(), scratch.path(), &mut complaints);
        for said in [
            "## Claude 9 (claude-safe 7), ended\n",
            "  began      2023-11-14 22:13:20 UTC\n",
            "after 16 min\n",
            "  with       claude-safe 0.1.0, /x/claude\n",
            "  memory     792 MiB at the end, 792 MiB at most\n",
            "  limits     tier 2 1024 MiB\n",
            "  restarts   2\n",
            "3 damaged samples",
            "### What happened\n\n  nothing\n",
        ] {
            assert!(text.contains(said), "{said} in {text}");
        }
        assert_eq!(complaints, Vec::<String>::new());
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
    }

    #[test]
    fn the_picture_has_the_session_its_limits_and_what_happened() {
        let incident = |kind, at_s: u64| Incident {
            at_unix_ms: (1_700_000_000 + at_s) * 1000,
            session: past().header.wrapper,
            kind,
            total_kib: 1,
            text: String::new(),
        };
        let incidents = [incident(Kind::Ended, 5), incident(Kind::Restarted, 6)];
        let drawn = picture(&past(), &incidents);
        assert_eq!(drawn.curves.len(), 2);
        assert_eq!(drawn.curves[0].points[99], (990_000, 99 << 13));
        assert_eq!(drawn.limits, [("tier 2".to_owned(), 1 << 20)]);
        assert_eq!(drawn.events, [(6_000, "restarted".to_owned())]);
    }

    #[test]
    fn the_session_is_chosen_by_either_pid_and_the_last_one_without() {
        let scratch = Scratch::new();
        let folder = scratch.path();
        for (pid, at) in [(7, 2), (8, 1)] {
            let mut one = past();
            one.header.wrapper.pid = pid;
            let path = folder.join(format!("{pid}.8"));
            let mut writer = crate::history::ring::Writer::create(&path, &one.header).unwrap();
            let point = Point {
                at_unix_ms: at,
                client_pid: pid + 100,
                ..Point::default()
            };
            writer.append(&point).unwrap();
        }
        let chosen = |pid| match choose(Vec::new(), folder, pid, &mut Vec::new()) {
            Chosen::Ended(past) => Some(past.header.wrapper.pid),
            Chosen::Nobody(_) => None,
            Chosen::Running(_) => panic!("none runs"),
        };
        assert_eq!(chosen(None), Some(7));
        assert_eq!(chosen(Some(8)), Some(8));
        assert_eq!(chosen(Some(108)), Some(8));
        assert_eq!(chosen(Some(9)), None);
    }
}
