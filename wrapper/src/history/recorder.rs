//! Keeps the history of one running session: which samples are written, and when the whole is switched off. Called
//! at each look; writes at most once there.

use super::ring::{Header, Point, Writer};
use super::{Incident, Kind, SESSIONS, incidents, make_folder};
use crate::os::clock::wall_ms;
use crate::state;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A sample is kept this long after the last one, milliseconds.
const KEEP_EVERY_MS: u64 = 10_000;
/// One that differs by more than a part in this many is kept earlier,
const CHANGE: u64 = 20;
/// but not within this time.
const AT_MOST_EVERY_MS: u64 = 1_000;
/// So long the first samples wait for their file: a short call makes none, and a start is not slowed.
const WAIT_MS: u64 = 10_000;
/// A session that was shorter than this and in which nothing happened leaves nothing, seconds.
const SHORT_S: u64 = 60;

/// What is told of a session.
pub type About = Header;

/// The history of this session.
#[derive(Debug)]
pub struct Recorder {
    /// `None`: off.
    folder: Option<PathBuf>,
    about: About,
    writer: Option<Writer>,
    /// Samples that wait for it, and since when.
    waiting: Vec<Point>,
    since_ms: Option<u64>,
    /// The last one that was kept, and when on the monotonic clock.
    kept: Option<(u64, Point)>,
    last_kib: u64,
    is_eventful: bool,
    trouble: Option<String>,
}

/// Is a sample to be kept after that one?
fn is_due(kept: Option<(u64, Point)>, now_ms: u64, point: &Point) -> bool {
    let Some((kept_ms, last)) = kept else {
        return true;
    };
    let since_ms = now_ms.saturating_sub(kept_ms);
    let changed_kib = point.total_kib.abs_diff(last.total_kib);
    since_ms >= KEEP_EVERY_MS
        || last.restarts != point.restarts
        || since_ms >= AT_MOST_EVERY_MS && changed_kib > last.total_kib / CHANGE
}

impl Recorder {
    /// Nothing is opened before something has happened or the session has lasted a while. `folder`: [`super::folder`]; `None`: there is no history.
    pub fn new(folder: Option<PathBuf>, about: About) -> Recorder {
        Recorder {
            folder,
            about,
            writer: None,
            waiting: Vec::new(),
            since_ms: None,
            kept: None,
            last_kib: 0,
            is_eventful: false,
            trouble: None,
        }
    }

    /// Takes a sample, at this time of the monotonic clock.
    pub fn take(&mut self, now_ms: u64, point: Point) {
        self.last_kib = point.total_kib;
        if self.folder.is_none() || !is_due(self.kept, now_ms, &point) {
            return;
        }
        self.kept = Some((now_ms, point));
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        self.waiting.push(point);
        if self.is_eventful || now_ms >= since_ms.saturating_add(WAIT_MS) {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if let Err(error) = self.write() {
            self.give_up(&error);
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let Some(path) = self.path() else {
                    return Ok(());
                };
                let folder = path.parent().unwrap_or(Path::new("/"));
                make_folder(folder)?;
                make_room(folder, SESSIONS - 1);
                self.writer.insert(Writer::create(&path, &self.about)?)
            }
        };
        self.waiting
            .drain(..)
            .try_for_each(|point| writer.append(&point))
    }

    /// Where this session's samples are.
    fn path(&self) -> Option<PathBuf> {
        let id = self.about.wrapper;
        Some(
            self.folder
                .as_ref()?
                .join(format!("{}.{}", id.pid, id.start_ticks)),
        )
    }

    /// Writes down what happened. Names of programs may stand in `text`, no arguments.
    pub fn incident(&mut self, kind: Kind, text: &str) {
        if !self.is_eventful {
            self.is_eventful = true;
            self.flush();
        }
        let Some(folder) = &self.folder else { return };
        let incident = Incident {
            at_unix_ms: wall_ms(),
            session: self.about.wrapper,
            kind,
            total_kib: self.last_kib,
            text: text.to_owned(),
        };
        let added = make_folder(folder).and_then(|()| incidents::add(folder, &incident));
        if let Err(error) = added {
            self.give_up(&error);
        }
    }

    /// The first failure is the last: a disk that is full is not tried again and again.
    fn give_up(&mut self, error: &io::Error) {
        self.trouble = Some(error.to_string());
        self.folder = None;
        self.writer = None;
        self.waiting = Vec::new();
    }

    /// Why nothing more is written, if so.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

impl Drop for Recorder {
    /// What nobody will ask for is removed, so that many short calls don't push a long session out.
    fn drop(&mut self) {
        let lasted_s = (wall_ms() / 1000).saturating_sub(self.about.since_unix_s);
        if self.writer.is_some()
            && !self.is_eventful
            && lasted_s < SHORT_S
            && let Some(path) = self.path()
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes the oldest files of sessions until no more than `keep` are there. A running session writes into its own,
/// so that is never among the oldest of so many.
fn make_room(folder: &Path, keep: usize) {
    let found = state::all(folder);
    if found.len() <= keep {
        return;
    }
    let mut files: Vec<(SystemTime, PathBuf)> = found
        .into_iter()
        .filter_map(|session| {
            let metadata = fs::symlink_metadata(&session.path).ok()?;
            Some((metadata.modified().ok()?, session.path))
        })
        .collect();
    files.sort_unstable();
    let too_many = files.len().saturating_sub(keep);
    for (_, path) in files.into_iter().take(too_many) {
        // A folder of that name is not ours, and stays.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::{self, CAPACITY, MOST_BYTES};
    use super::*;
    use crate::os::files::scratch::Scratch;
    use crate::watch::ProcessId;

    fn about(pid: i32) -> About {
        About {
            wrapper: ProcessId {
                pid,
                start_ticks: 3,
            },
            since_unix_s: 1,
            ..About::default()
        }
    }

    fn point(total_kib: u64) -> Point {
        Point {
            total_kib,
            ..Point::default()
        }
    }

    #[test]
    fn a_quiet_session_keeps_one_sample_in_ten_seconds_and_a_growing_one_one_a_second() {
        let kept = Some((1_000, point(1_000)));
        for (now_ms, kib, due) in [
            (1_000, 5_000, false),
            (1_999, 5_000, false),
            (2_000, 1_050, false),
            (2_000, 950, false),
            (2_000, 1_051, true),
            (2_000, 949, true),
            (10_999, 1_000, false),
            (11_000, 1_000, true),
            (0, 1_000, false),
        ] {
            assert_eq!(
                is_due(kept, now_ms, &point(kib)),
                due,
                "{now_ms} ms {kib} KiB"
            );
        }
        assert!(is_due(None, 0, &point(0)));
        let restarted = Point {
            restarts: 1,
            ..point(1_000)
        };
        assert!(is_due(kept, 1_000, &restarted));
    }

    #[test]
    fn a_million_samples_take_no_more_than_their_share() {
        let scratch = Scratch::new();
        let folder = scratch.path().join("state/history");
        let mut recorder = Recorder::new(Some(folder.clone()), about(7));
        for number in 0..1_000_000_u64 {
            // Ten looks a second, each second's twice or half of the one before: as much as is ever kept.
            let point = Point {
                at_unix_ms: number * 100,
                ..point(1_000 << (number / 10 % 2))
            };
            recorder.take(number * 100, point);
        }
        let file = folder.join("7.3");
        assert!(fs::metadata(&file).unwrap().len() <= MOST_BYTES as u64);
        let past = ring::read(&file).unwrap();
        assert_eq!((past.points.len(), past.damaged), (CAPACITY, 0));
        assert_eq!(past.points.last().unwrap().at_unix_ms, 99_999_000);
    }

    #[test]
    fn of_many_sessions_the_newest_are_kept_and_strangers_stay() {
        let scratch = Scratch::new();
        let folder = scratch.path().join("history");
        make_folder(&folder).unwrap();
        for name in ["keep-me", "1.x", ".7.3"] {
            fs::write(folder.join(name), "").unwrap();
        }
        fs::create_dir(folder.join("5.5")).unwrap();
        for pid in 0..100_i32 {
            let mut recorder = Recorder::new(Some(folder.clone()), about(1_000 + pid));
            recorder.take(0, point(1));
            recorder.take(WAIT_MS, point(1));
            let file = fs::File::options()
                .write(true)
                .open(recorder.path().unwrap());
            let day = u64::from(pid.unsigned_abs()) * 86_400;
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(day + 1);
            file.unwrap().set_modified(time).unwrap();
        }
        let mut kept: Vec<i32> = state::all(&folder).iter().map(|found| found.pid).collect();
        kept.sort_unstable();
        assert_eq!(kept.len(), SESSIONS);
        assert_eq!((kept[0], kept[SESSIONS - 1]), (5, 1_099));
        assert_eq!(kept[1], 1_100 - SESSIONS as i32 + 1);
        assert!(folder.join("keep-me").exists() && folder.join("1.x").exists());
    }

    #[test]
    fn a_short_session_leaves_a_file_only_if_something_happened() {
        let scratch = Scratch::new();
        let folder = scratch.path().join("history");
        let file = folder.join("9.3");
        let now = About {
            since_unix_s: wall_ms() / 1000,
            ..about(9)
        };
        let mut quiet = Recorder::new(Some(folder.clone()), now.clone());
        quiet.take(0, point(1));
        quiet.take(WAIT_MS - 1, point(9));
        assert!(!folder.exists(), "a short call leaves nothing at all");
        quiet.take(2 * WAIT_MS, point(1));
        assert_eq!(ring::read(&file).unwrap().points.len(), 3);
        drop(quiet);
        assert!(!file.exists());
        let mut eventful = Recorder::new(Some(folder.clone()), now);
        eventful.take(0, point(5));
        eventful.incident(Kind::Warned, "at 5");
        drop(eventful);
        assert_eq!(ring::read(&file).unwrap().points.len(), 1);
        let told = incidents::of_session(&folder, about(9).wrapper).unwrap();
        assert_eq!((told.len(), told[0].total_kib), (1, 5));
    }

    #[test]
    fn the_first_failure_is_the_last_and_is_told() {
        let scratch = Scratch::new();
        let in_the_way = scratch.write("file", "");
        let mut recorder = Recorder::new(Some(in_the_way.join("history")), about(1));
        assert_eq!(recorder.trouble(), None);
        recorder.take(0, point(1));
        recorder.take(WAIT_MS, point(1));
        let why = recorder.trouble().unwrap().to_owned();
        assert!(why.contains("exists") || why.contains("directory"), "{why}");
        fs::remove_file(&in_the_way).unwrap();
        recorder.take(60_000, point(1));
        recorder.incident(Kind::Warned, "");
        assert!(!in_the_way.exists());
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink(scratch.path(), &link).unwrap();
        let mut recorder = Recorder::new(Some(link), about(1));
        recorder.take(0, point(1));
        recorder.take(WAIT_MS, point(1));
        assert_eq!(recorder.trouble(), Some("is no folder"));
    }
}
