//! `claude-safectl stats [PID]`: what the guards of the running sessions count, from their statistics pages, and what
//! is resident now, from the kernel. No signal is sent, nothing is written.

use super::page::{self, Rates, View};
use super::resident::{self, Resident};
use super::sessions::{Session, Sessions, UNWATCHED};
use super::style::Tone;
use super::{Answer, Request, exit};
use crate::guard_page::{self, NoPage, Reading};
use crate::json::{self, json};
use crate::os::wait;
use crate::stats_page::CLASSES;
use crate::watch::proc_fs::Proc;
use serde_json::Value;
use std::path::Path;

/// Between the two looks that a rate takes.
const BETWEEN_LOOKS_MS: u64 = 1_000;

pub(super) fn run(request: &Request) -> Answer {
    let mut processes = Proc::new(Path::new("/proc"));
    let sessions = Sessions::of_this_user(&mut processes);
    answer(sessions, &mut processes, request, || {
        wait::wait(&[], Some(BETWEEN_LOOKS_MS));
    })
}

/// What was seen of one session's page.
struct Seen {
    session: Session,
    page: Result<Reading, NoPage>,
    rates: Rates,
    /// Of the client, if the page is its own.
    now: Option<Resident>,
}

fn answer(
    sessions: Sessions,
    processes: &mut Proc,
    request: &Request,
    pause: impl FnOnce(),
) -> Answer {
    let Sessions {
        mut running,
        mut complaints,
    } = sessions;
    let mut is_well = complaints.is_empty();
    if let Some(pid) = request.pid {
        running.retain(|session| session.is_of(pid));
        if running.is_empty() {
            complaints.push(format!("no running session of yours has the process {pid}"));
            is_well = false;
        }
    }
    let mut seen = look(running, pause);
    for seen in &mut seen {
        seen.look_at_memory(processes);
    }
    is_well &= !(seen.iter()).any(|seen| matches!(&seen.page, Err(why) if why.is_trouble()));
    let text = if request.json {
        in_json(&seen, &complaints)
    } else {
        in_words(&seen, &complaints, request)
    };
    Answer {
        text,
        code: if is_well { exit::DONE } else { exit::TROUBLE },
    }
}

impl Seen {
    fn look_at_memory(&mut self, processes: &mut Proc) {
        if let (Ok(reading), Some(client)) = (&self.page, self.session.client)
            && reading.snapshot.pid.cast_signed() == client.pid
        {
            self.now = resident::of(processes, client, &reading.largest, &reading.snapshot.pool);
        }
    }

    /// `None`: there is no page.
    fn view(&self) -> Option<View<'_>> {
        Some(View {
            reading: self.page.as_ref().ok()?,
            rates: &self.rates,
            now: self.now.as_ref(),
        })
    }
}

/// Reads every page, and again after a pause where that tells how fast it grows.
fn look(running: Vec<Session>, pause: impl FnOnce()) -> Vec<Seen> {
    let mut seen: Vec<Seen> = running
        .into_iter()
        .map(|session| Seen {
            page: guard_page::read(&session.page()),
            session,
            rates: [None; CLASSES],
            now: None,
        })
        .collect();
    if !seen
        .iter()
        .any(|seen| seen.page.as_ref().is_ok_and(page::can_grow))
    {
        return seen;
    }
    pause();
    for seen in &mut seen {
        // One that has ended meanwhile is told as it was.
        if let (Ok(first), Ok(second)) = (&seen.page, guard_page::read(&seen.session.page())) {
            seen.rates = page::rates(first, &second);
            seen.page = Ok(second);
        }
    }
    seen
}

fn in_words(seen: &[Seen], complaints: &[String], request: &Request) -> String {
    let style = request.style;
    let mut text = String::new();
    for seen in seen {
        let client = match seen.session.client_pid() {
            Some(pid) => format!("claude {pid}"),
            None => "no claude at this moment".to_owned(),
        };
        let title = if seen.session.is_watched {
            format!("{client} (claude-safe {})", seen.session.wrapper_pid)
        } else {
            format!("{client}: {UNWATCHED}")
        };
        text.push_str(&style.paint(Tone::Heading, &title));
        text.push('\n');
        if let Some(view) = seen.view() {
            text.push_str(&page::in_words(&view, style));
        } else if let Err(why) = &seen.page {
            text.push_str(&format!("  {why}\n"));
        }
    }
    if seen.is_empty() && request.pid.is_none() {
        text.push_str("no session is running\n");
    }
    for complaint in complaints {
        text.push_str(&format!("{complaint}\n"));
    }
    text
}

fn in_json(seen: &[Seen], complaints: &[String]) -> String {
    let sessions: Vec<Value> = seen
        .iter()
        .map(|seen| {
            json!({
                "wrapper_pid": seen.session.wrapper_pid,
                "client_pid": seen.session.client_pid(),
                "watched": seen.session.is_watched,
                "guard": seen.view().map(|view| page::in_json(&view)),
                "no_guard": seen.page.as_ref().err().map(ToString::to_string),
            })
        })
        .collect();
    json::text(&json!({ "sessions": sessions, "complaints": complaints }))
}

#[cfg(test)]
mod tests {
    use super::super::page::fixture::full;
    use super::super::sessions::fixture::Running;
    use super::*;
    use crate::os::files::scratch::Scratch;
    use crate::os::{page_bytes, process};
    use crate::state::PAGE;
    use crate::stats_page::LEN;
    use std::fs;

    fn request(pid: Option<i32>, json: bool) -> Request {
        Request {
            json,
            pid,
            ..Request::default()
        }
    }

    fn answer(sessions: Sessions, request: &Request, pause: impl FnOnce()) -> Answer {
        super::answer(sessions, &mut Proc::new(Path::new("/proc")), request, pause)
    }

    fn no_pause() {
        panic!("there is nothing to wait for");
    }

    #[test]
    fn a_running_session_is_told_with_the_rate_of_what_grew_meanwhile() {
        let scratch = Scratch::new();
        let running = Running::new(&scratch);
        let client = running.client_pid();
        let file = running.folder.path().join(PAGE);
        let write =
            |live| fs::write(&file, page_bytes::of(&full(client.cast_unsigned(), live))).unwrap();
        for pid in [None, Some(client), Some(process::own_pid())] {
            write(1_000);
            let answer = answer(running.find(), &request(pid, true), || {
                write(2_000);
                wait::wait(&[], Some(20));
            });
            assert_eq!(answer.code, exit::DONE);
            let value: Value = serde_json::from_str(&answer.text).unwrap();
            let session = &value["sessions"][0];
            assert_eq!(session["client_pid"], client);
            assert_eq!(session["wrapper_pid"], process::own_pid());
            assert_eq!(session["no_guard"], Value::Null);
            assert_eq!(session["guard"]["pid"], client);
            let class = &session["guard"]["classes"][0];
            assert_eq!(class["live"], 2_000);
            // 1000 more in 20 ms or longer.
            let rate = class["live_per_s"].as_i64().unwrap();
            assert!((1..=50_000).contains(&rate), "{rate}");
        }
        let answer = answer(running.find(), &request(None, false), || {});
        assert!(
            answer.text.starts_with(&format!(
                "claude {client} (claude-safe {})\n  guard    ACTIVE",
                process::own_pid()
            )),
            "{}",
            answer.text
        );
    }

    #[test]
    fn without_anything_to_read_it_says_so_and_does_not_wait() {
        let scratch = Scratch::new();
        let running = Running::new(&scratch);
        let file = running.folder.path().join(PAGE);
        let mut cut = page_bytes::of(&full(1, 1));
        cut.truncate(LEN / 2);
        for (bytes, says, code) in [
            (None, "no guard in this session", exit::DONE),
            (Some(vec![0; LEN]), "no guard has taken", exit::DONE),
            (Some(cut), "damaged", exit::TROUBLE),
        ] {
            if let Some(bytes) = bytes {
                fs::write(&file, bytes).unwrap();
            }
            for json in [false, true] {
                let answer = answer(running.find(), &request(None, json), no_pause);
                assert!(answer.text.contains(says), "{}", answer.text);
                assert_eq!(answer.code, code, "{}", answer.text);
            }
        }
        let nobody = answer(Sessions::default(), &request(None, false), no_pause);
        assert_eq!(
            (nobody.text.as_str(), nobody.code),
            ("no session is running\n", exit::DONE)
        );
        let nobody = answer(running.find(), &request(Some(1), false), no_pause);
        assert_eq!(nobody.code, exit::TROUBLE);
        assert_eq!(
            nobody.text,
            "no running session of yours has the process 1\n"
        );
        let nobody = answer(running.find(), &request(Some(1), true), no_pause);
        let value: Value = serde_json::from_str(&nobody.text).unwrap();
        assert_eq!(value["sessions"], json!([]));
        assert_eq!(value["complaints"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_session_that_ends_between_the_looks_is_told_as_it_was() {
        let scratch = Scratch::new();
        let running = Running::new(&scratch);
        let file = running.folder.path().join(PAGE);
        fs::write(&file, page_bytes::of(&full(9, 77))).unwrap();
        let answer = answer(running.find(), &request(None, true), || {
            fs::remove_file(&file).unwrap();
        });
        let value: Value = serde_json::from_str(&answer.text).unwrap();
        let class = &value["sessions"][0]["guard"]["classes"][0];
        assert_eq!(
            (&class["live"], &class["live_per_s"]),
            (&json!(77), &Value::Null)
        );
    }
}
