//! Which conversation a session holds, and how the next life of the client takes it up. Reads what
//! the client writes about itself; never writes there.
//!
//! Sources of the id, the surest first: what the client says of its own process
//! (`sessions/PID.json`; 2.1.110 writes it once, later versions follow `/clear` and `/resume`), what its
//! SessionStart hook told us, the transcript of a `/clear` beside ours, the id we gave at the start.

use super::transcript::{self, Turn};
use super::{MemoryEnd, Setup};
use crate::client::args::{SessionChoice, StartsSession, is_uuid};
use crate::os::process;
use serde_json::Value;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a turn that was cut off is taken up with.
const PROMPT: &str = "The session was restarted by claude-safe because memory ran short; a tool call may have been cut off. \
Go on exactly where you left off; look whether an interrupted command did its work before you run it again. \
If the task was finished, give your final answer again.";

/// How a life of the client begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// As the user typed it.
    First,
    /// `--resume ID`.
    Resume,
    /// As typed, with the same id: nothing was saved yet.
    Anew,
}

/// One start of the client.
pub struct Start {
    /// Its arguments, without `argv[0]`.
    pub arguments: Vec<OsString>,
    /// Standard input instead of ours.
    pub stdin: Option<File>,
    /// Working folder instead of ours.
    pub folder: Option<PathBuf>,
    how: How,
    id: Option<String>,
    is_another_way: bool,
    transcript_bytes: u64,
    resumes_turn: bool,
}

impl Start {
    /// The line that tells of it.
    pub fn announcement(&self, restarts: u32) -> String {
        let id = self.id.as_deref().unwrap_or("?");
        match self.how {
            How::Resume => {
                format!("restarting claude and resuming conversation {id} (restart {restarts})")
            }
            _ => format!(
                "restarting claude; conversation {id} begins anew, nothing of it was saved yet (restart {restarts})"
            ),
        }
    }

    /// The conversation that it begins with, where it is known.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Is it a start of ours, not the user's?
    pub fn is_a_restart(&self) -> bool {
        self.how != How::First
    }

    /// What the user can do himself.
    pub fn by_hand(&self) -> String {
        by_hand(self.id.as_deref())
    }
}

fn by_hand(id: Option<&str>) -> String {
    match id {
        Some(id) => format!("the conversation is kept: claude --resume {id}"),
        None => "the conversation is kept: claude --resume".to_owned(),
    }
}

/// What is known of the session at one moment.
pub struct Observed {
    /// The conversation.
    pub id: Option<String>,
    /// Its turn.
    pub turn: Turn,
    /// Since when, by the clock of the file that tells: when it was written last.
    pub since: Option<SystemTime>,
}

/// What a client says of itself in `sessions/PID.json`, written by newer clients; one left by an earlier
/// process of this pid, before `life_began`, is not this one's.
pub fn own_words(
    client_folder: &Path,
    client_pid: i32,
    life_began: SystemTime,
) -> Option<Observed> {
    let path = client_folder.join(format!("sessions/{client_pid}.json"));
    let written = fs::metadata(&path).ok()?.modified().ok()?;
    if written < life_began {
        return None;
    }
    let told: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let text = |key: &str| told.get(key).and_then(Value::as_str);
    if text("kind").is_some_and(|kind| kind != "interactive") {
        return None;
    }
    let turn = match text("status") {
        Some("idle") => Turn::Idle,
        Some(_) => Turn::Busy,
        None => Turn::Unknown,
    };
    Some(Observed {
        id: text("sessionId")
            .filter(|id| is_uuid(id))
            .map(str::to_owned),
        turn,
        since: Some(written),
    })
}

/// Follows the conversation of one session.
pub struct Conversation<'a> {
    setup: &'a Setup<'a>,
    /// The id in use as far as the command lines tell: given by the user, by us, or by a restart.
    id: Option<String>,
    stdin_start: Option<u64>,
    life_began: SystemTime,
}

impl<'a> Conversation<'a> {
    /// Before the first start.
    pub fn new(setup: &'a Setup<'a>) -> Self {
        // Where a file that is our standard input stands now: a start from anew reads it again.
        let stdin_start = process::stdin_copy()
            .filter(|f| f.metadata().is_ok_and(|m| m.is_file()))
            .and_then(|mut f| f.stream_position().ok());
        Self {
            setup,
            id: None,
            stdin_start,
            life_began: SystemTime::now(),
        }
    }

    /// The start that the user asked for; a fresh session gets an id that we know.
    pub fn first_start(&mut self) -> Start {
        let invocation = self.setup.invocation;
        let mut arguments = invocation.arguments().to_vec();
        match invocation.session() {
            SessionChoice::Given(id) | SessionChoice::Resumes(Some(id))
                if !invocation.forks_session() =>
            {
                self.id = Some(id.clone());
            }
            SessionChoice::Fresh if self.setup.knows_session_id => {
                let id = process::random_uuid();
                if let Some(with_id) = invocation.with_session_id(&id) {
                    arguments = with_id;
                    self.id = Some(id);
                }
            }
            _ => {}
        }
        self.start(How::First, arguments)
    }

    fn start(&mut self, how: How, arguments: Vec<OsString>) -> Start {
        self.life_began = SystemTime::now();
        let ours = self
            .setup
            .hook_plugin
            .iter()
            .flat_map(|p| ["--plugin-dir".into(), p.clone().into()]);
        let arguments = ours.chain(arguments).collect();
        let id = self.id.clone();
        let transcript_bytes = id.as_deref().map_or(0, |id| self.transcript_bytes(id));
        Start {
            arguments,
            stdin: None,
            folder: None,
            how,
            id,
            is_another_way: false,
            transcript_bytes,
            resumes_turn: false,
        }
    }

    /// Why this session can't be started again in place, if so: known from its command line alone.
    pub fn obstacle(&self) -> Option<&'static str> {
        let invocation = self.setup.invocation;
        if invocation.starts_session() == StartsSession::No {
            Some("this command line holds no conversation in this terminal")
        } else if invocation.reads_stream_json() {
            Some(
                "a program feeds this session through stdin (--input-format stream-json) and must start it again itself",
            )
        } else if invocation.keeps_no_transcript() {
            Some("--no-session-persistence leaves nothing to resume")
        } else if invocation.is_print() && !self.setup.config.continue_turn {
            Some("CLAUDE_SAFE_CONTINUE=never, and -p has no turn without a prompt")
        } else {
            None
        }
    }

    /// What the client says of itself just now.
    pub fn observe(&mut self, client_pid: i32) -> Observed {
        let told = self.own_words(client_pid);
        // Without a status (2.1.110) the file names the conversation of the start, for ever.
        let current = told
            .as_ref()
            .filter(|t| t.turn != Turn::Unknown)
            .and_then(|t| t.id.clone());
        if self.id.is_none() {
            self.id = told.as_ref().and_then(|t| t.id.clone());
        }
        let id = current
            .or_else(|| self.hook_told())
            .or_else(|| self.cleared_into())
            .or_else(|| self.id.clone());
        self.id.clone_from(&id);
        let (turn, since) = match told {
            Some(told) if told.turn != Turn::Unknown => (told.turn, told.since),
            _ => match id.as_deref().and_then(|id| self.transcript(id)) {
                Some(path) => {
                    let written = fs::metadata(&path).and_then(|data| data.modified());
                    (transcript::turn_of(&path), written.ok())
                }
                None => (Turn::Unknown, None),
            },
        };
        Observed { id, turn, since }
    }

    /// Does the transcript end with the model's last word? In `-p` the client's own file says "busy"
    /// to the end.
    pub fn has_answered(&mut self, client_pid: i32) -> bool {
        let id = self.observe(client_pid).id;
        id.and_then(|id| self.transcript(&id))
            .is_some_and(|path| transcript::turn_of(&path) == Turn::Idle)
    }

    fn own_words(&self, client_pid: i32) -> Option<Observed> {
        own_words(
            self.setup.client_folder.as_ref()?,
            client_pid,
            self.life_began,
        )
    }

    /// What `claude-safectl hook session-start` wrote into the session's folder.
    fn hook_told(&self) -> Option<String> {
        let told = self.setup.folder.as_ref()?.read("conversation")?;
        Some(told.trim().to_owned()).filter(|id| is_uuid(id))
    }

    /// The transcript of conversation ID: `projects/*/ID.jsonl`, whichever folder holds it.
    fn transcript(&self, id: &str) -> Option<PathBuf> {
        let projects = self.setup.client_folder.as_ref()?.join("projects");
        let name = format!("{id}.jsonl");
        fs::read_dir(projects)
            .ok()?
            .flatten()
            .map(|e| e.path().join(&name))
            .find(|p| p.is_file())
    }

    fn transcript_bytes(&self, id: &str) -> u64 {
        self.transcript(id)
            .and_then(|p| fs::metadata(p).ok())
            .map_or(0, |m| m.len())
    }

    /// The last resort after a `/clear` in a client that tells nothing: a transcript beside ours
    /// whose first entry is that `/clear`, with the id of the last prompt of ours. Followed through
    /// as many as there were.
    fn cleared_into(&self) -> Option<String> {
        let mut at = self.transcript(self.id.as_deref()?)?;
        let mut found = None;
        for _ in 0..1000 {
            let Some(next) = self.successor(&at) else {
                break;
            };
            found = next.file_stem().and_then(|s| s.to_str()).map(str::to_owned);
            at = next;
        }
        found
    }

    fn successor(&self, ours: &Path) -> Option<PathBuf> {
        let written = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
        let (ours_written, prompt_id) = (written(ours)?, transcript::last_prompt_id(ours)?);
        fs::read_dir(ours.parent()?)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path != ours
                    && path
                        .file_stem()
                        .and_then(|s| s.to_str())
                        .is_some_and(is_uuid)
                    && written(path).is_some_and(|w| w > ours_written && w > self.life_began)
                    && transcript::head_of(path)
                        .is_some_and(|h| h.cleared && h.prompt_id.as_ref() == Some(&prompt_id))
            })
            .max_by_key(|path| written(path))
    }

    /// How to take up what was cut off.
    ///
    /// # Errors
    /// Why it can't be, as one line.
    pub fn next_start(&mut self, end: &MemoryEnd, last: &Start) -> Result<Start, String> {
        if let Some(why) = self.obstacle() {
            return Err(format!("{why}; {}", by_hand(end.id.as_deref())));
        }
        let Some(id) = end.id.clone() else {
            return Err("it told no conversation that could be resumed".to_owned());
        };
        self.id = Some(id.clone());
        let how = if self.transcript(&id).is_some() {
            How::Resume
        } else {
            How::Anew
        };
        // A life that took up a turn and was ended before it wrote anything: still that turn.
        let cut_off = match end.turn {
            Turn::Busy => true,
            Turn::Idle => false,
            Turn::Unknown => last.resumes_turn,
        };
        self.begin(how, &id, cut_off, false)
    }

    /// A client that was started for a restart and ended at once with an error: it knew no such
    /// conversation, or it knew one where we saw none (its folder may be another than we think). The
    /// other way is tried, once; not after it wrote anything, which was then no refusal.
    pub fn after_refusal(&mut self, last: &Start) -> Option<Start> {
        let id = last.id.clone()?;
        if last.is_another_way || self.transcript_bytes(&id) > last.transcript_bytes {
            return None;
        }
        let how = match (last.how, self.transcript(&id).is_some()) {
            (How::Resume, false) => How::Anew,
            (How::Anew, _) => How::Resume,
            _ => return None,
        };
        self.begin(how, &id, last.resumes_turn, true).ok()
    }

    fn begin(
        &mut self,
        how: How,
        id: &str,
        cut_off: bool,
        is_another_way: bool,
    ) -> Result<Start, String> {
        let invocation = self.setup.invocation;
        let print = invocation.is_print();
        let resumes_turn =
            how == How::Resume && (print || cut_off) && self.setup.config.continue_turn;
        let arguments = match how {
            How::Resume => invocation.resume(id, resumes_turn.then_some(PROMPT)),
            _ => invocation.anew(id),
        };
        let mut start = self.start(how, arguments);
        start.is_another_way = is_another_way;
        start.resumes_turn = resumes_turn;
        if print && !crate::os::terminal::is_terminal(0) {
            start.stdin = self.stdin_for(how)?;
        }
        if invocation.makes_worktree() {
            start.folder = self.transcript(id).and_then(|p| transcript::folder_of(&p));
        }
        Ok(start)
    }

    /// Standard input of a restarted `-p`: what it held is in the conversation already, or must be read again.
    fn stdin_for(&self, how: How) -> Result<Option<File>, String> {
        if how == How::Resume {
            return Ok(File::open("/dev/null").ok());
        }
        match (self.stdin_start, process::stdin_copy()) {
            (Some(offset), Some(mut file)) => {
                file.seek(SeekFrom::Start(offset)).map_err(|e| format!("stdin can't be read again: {e}"))?;
                Ok(None)
            }
            (None, Some(file)) if !is_null_device(&file) => Err(
                "what stdin held was read and nothing of the conversation is saved yet; start it again".to_owned(),
            ),
            _ => Ok(None),
        }
    }
}

fn is_null_device(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let null = fs::metadata("/dev/null").map(|m| m.rdev());
    matches!((file.metadata(), null), (Ok(m), Ok(null)) if m.rdev() == null)
}

/// The folder in which the client keeps what it knows, from its environment.
pub fn client_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    folder("CLAUDE_CONFIG_DIR").or_else(|| folder("HOME").map(|home| home.join(".claude")))
}
