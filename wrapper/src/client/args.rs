//! Claude's command line, as far as a restart must understand it. Never decides what claude may be
//! asked: every word goes to it as typed; here is only decided whether a flag of ours may be put ahead.
//!
//! There is no list of subcommands, because claude owns those words and invents new ones. A first
//! word that could be one of them means: keep your hands off. Whether it was a prompt after all,
//! the client itself tells later (`sessions/PID.json`).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// How many words an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    One,
    /// The next word, unless it begins with `-`.
    Optional,
    /// All words up to the next that begins with `-`.
    Many,
}

/// What an option means for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Kept at a restart.
    Plain,
    /// Dropped at a restart: it chooses a session, and `--resume ID` does that.
    Chooses,
    /// The start is not a session in this terminal.
    Elsewhere,
}

struct Known {
    names: &'static [&'static str],
    takes: Takes,
    meaning: Meaning,
}

const fn option(names: &'static [&'static str], takes: Takes, meaning: Meaning) -> Known {
    Known {
        names,
        takes,
        meaning,
    }
}

/// The options of 2.1.110 to 2.1.329 (`claude --help` and the hidden ones of its documentation). An option
/// that is missing here costs the automatic resume at most, never the start.
const OPTIONS: &[Known] = &[
    option(&["--add-dir"], Takes::Many, Meaning::Plain),
    option(&["--agent"], Takes::One, Meaning::Plain),
    option(&["--agents"], Takes::One, Meaning::Plain),
    option(&["--advisor"], Takes::One, Meaning::Plain),
    option(
        &["--allow-dangerously-skip-permissions"],
        Takes::Nothing,
        Meaning::Plain,
    ),
    option(
        &["--allowedTools", "--allowed-tools"],
        Takes::Many,
        Meaning::Plain,
    ),
    option(&["--append-system-prompt"], Takes::One, Meaning::Plain),
    option(&["--append-system-prompt-file"], Takes::One, Meaning::Plain),
    option(&["--autocompact"], Takes::One, Meaning::Plain),
    option(&["--ax-screen-reader"], Takes::Nothing, Meaning::Plain),
    option(&["--bare"], Takes::Nothing, Meaning::Plain),
    option(&["--betas"], Takes::Many, Meaning::Plain),
    option(
        &["--bg", "--background"],
        Takes::Nothing,
        Meaning::Elsewhere,
    ),
    option(&["--brief"], Takes::Nothing, Meaning::Plain),
    option(&["--chrome"], Takes::Nothing, Meaning::Plain),
    option(&["--cloud"], Takes::Optional, Meaning::Elsewhere),
    option(&["--channels"], Takes::Many, Meaning::Plain),
    option(&["-c", "--continue"], Takes::Nothing, Meaning::Chooses),
    option(
        &["--dangerously-skip-permissions"],
        Takes::Nothing,
        Meaning::Plain,
    ),
    option(&["-d", "--debug"], Takes::Optional, Meaning::Plain),
    option(&["--debug-file"], Takes::One, Meaning::Plain),
    option(&["--desktop"], Takes::Nothing, Meaning::Elsewhere),
    option(
        &["--disable-slash-commands"],
        Takes::Nothing,
        Meaning::Plain,
    ),
    option(
        &["--disallowedTools", "--disallowed-tools"],
        Takes::Many,
        Meaning::Plain,
    ),
    option(&["--effort"], Takes::One, Meaning::Plain),
    option(&["--environment"], Takes::One, Meaning::Elsewhere),
    option(
        &["--exclude-dynamic-system-prompt-sections"],
        Takes::Nothing,
        Meaning::Plain,
    ),
    option(&["--fallback-model"], Takes::One, Meaning::Plain),
    option(&["--fast-mode"], Takes::One, Meaning::Plain),
    option(&["--file"], Takes::Many, Meaning::Plain),
    option(&["--fork-session"], Takes::Nothing, Meaning::Chooses),
    option(&["--forward-subagent-text"], Takes::Nothing, Meaning::Plain),
    option(&["--from-pr"], Takes::Optional, Meaning::Chooses),
    option(&["-h", "--help"], Takes::Nothing, Meaning::Elsewhere),
    option(&["--ide"], Takes::Nothing, Meaning::Plain),
    option(&["--include-hook-events"], Takes::Nothing, Meaning::Plain),
    option(
        &["--include-partial-messages"],
        Takes::Nothing,
        Meaning::Plain,
    ),
    option(&["--init"], Takes::Nothing, Meaning::Chooses),
    option(&["--init-only"], Takes::Nothing, Meaning::Elsewhere),
    option(&["--input-format"], Takes::One, Meaning::Plain),
    option(&["--json-schema"], Takes::One, Meaning::Plain),
    option(&["--maintenance"], Takes::Nothing, Meaning::Chooses),
    option(&["--max-budget-usd"], Takes::One, Meaning::Plain),
    option(&["--max-thinking-tokens"], Takes::One, Meaning::Plain),
    option(&["--max-turns"], Takes::One, Meaning::Plain),
    option(&["--mcp-config"], Takes::Many, Meaning::Plain),
    option(&["--mcp-debug"], Takes::Nothing, Meaning::Plain),
    option(&["--model"], Takes::One, Meaning::Plain),
    option(&["-n", "--name"], Takes::One, Meaning::Plain),
    option(&["--no-chrome"], Takes::Nothing, Meaning::Plain),
    option(
        &["--no-session-persistence"],
        Takes::Nothing,
        Meaning::Plain,
    ),
    option(&["--output-format"], Takes::One, Meaning::Plain),
    option(&["--permission-mode"], Takes::One, Meaning::Plain),
    option(&["--permission-prompt-tool"], Takes::One, Meaning::Plain),
    option(&["--permission-prompts"], Takes::One, Meaning::Plain),
    option(&["--plugin-dir"], Takes::One, Meaning::Plain),
    option(&["--plugin-dir-no-mcp"], Takes::One, Meaning::Plain),
    option(&["--plugin-url"], Takes::One, Meaning::Plain),
    option(&["--pool"], Takes::One, Meaning::Elsewhere),
    option(&["--prefill"], Takes::One, Meaning::Chooses),
    option(&["--prefill-b64"], Takes::One, Meaning::Chooses),
    option(&["-p", "--print"], Takes::Nothing, Meaning::Plain),
    option(&["--prompt-suggestions"], Takes::Optional, Meaning::Plain),
    option(&["--rc"], Takes::Optional, Meaning::Plain),
    option(&["--remote"], Takes::Optional, Meaning::Elsewhere),
    option(&["--remote-control"], Takes::Optional, Meaning::Plain),
    option(
        &["--remote-control-session-name-prefix"],
        Takes::One,
        Meaning::Plain,
    ),
    option(&["--replay-user-messages"], Takes::Nothing, Meaning::Plain),
    option(&["--restricted"], Takes::Nothing, Meaning::Plain),
    option(&["--resume-drops-turn"], Takes::Nothing, Meaning::Chooses),
    option(&["--resume-session-at"], Takes::One, Meaning::Chooses),
    option(&["--rewind-files"], Takes::One, Meaning::Elsewhere),
    option(&["-r", "--resume"], Takes::Optional, Meaning::Chooses),
    option(&["--safe-mode"], Takes::Nothing, Meaning::Plain),
    option(&["--sdk-url"], Takes::One, Meaning::Elsewhere),
    option(&["--session-id"], Takes::One, Meaning::Chooses),
    option(&["--setting-sources"], Takes::One, Meaning::Plain),
    option(&["--settings"], Takes::One, Meaning::Plain),
    option(&["--strict-mcp-config"], Takes::Nothing, Meaning::Plain),
    option(&["--system-prompt"], Takes::One, Meaning::Plain),
    option(&["--system-prompt-file"], Takes::One, Meaning::Plain),
    option(&["--system-prompt-snapshot"], Takes::One, Meaning::Plain),
    option(&["--task-budget"], Takes::One, Meaning::Plain),
    option(&["--teammate-mode"], Takes::One, Meaning::Plain),
    option(&["--teleport"], Takes::Optional, Meaning::Elsewhere),
    option(&["--thinking"], Takes::One, Meaning::Plain),
    option(&["--thinking-display"], Takes::One, Meaning::Plain),
    option(&["--tmux"], Takes::Nothing, Meaning::Elsewhere),
    option(&["--tools"], Takes::Many, Meaning::Plain),
    option(&["--verbose"], Takes::Nothing, Meaning::Plain),
    option(&["-v", "--version"], Takes::Nothing, Meaning::Elsewhere),
    option(&["-w", "--worktree"], Takes::Optional, Meaning::Chooses),
    option(&["--workload"], Takes::One, Meaning::Plain),
];

/// Which session the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionChoice {
    /// A new one, without a word about its id.
    Fresh,
    /// `--session-id ID`.
    Given(String),
    /// `--resume`, with an id if one was given; `None` for a picker, a name, a pull request.
    Resumes(Option<String>),
    /// `--continue`: the latest one of this folder.
    Continues,
}

/// Does the command line start a session in this terminal?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartsSession {
    /// Interactive or `-p`.
    Yes,
    /// A word of it could be a prompt, or a subcommand of some version.
    Perhaps,
    /// A question (`--version`) or a session elsewhere (`--background`).
    No,
}

/// What a word of the command line is for, at a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Keep,
    /// Chooses the session.
    Choice,
    Prompt,
    /// The `--` ahead of the prompt.
    Separator,
}

/// A command line, understood.
#[derive(Clone, Debug)]
pub struct Invocation {
    arguments: Vec<OsString>,
    /// The same words, without the letters in `-pc` that choose a session.
    trimmed: Vec<OsString>,
    roles: Vec<Role>,
    starts_session: StartsSession,
    print: bool,
    session: SessionChoice,
    forks: bool,
    keeps_no_transcript: bool,
    reads_stream_json: bool,
    writes_stream_json: bool,
    makes_worktree: bool,
}

/// Could this be a subcommand of some version? One word of letters, digits, `-` and `_`.
fn could_be_subcommand(word: &OsStr) -> bool {
    let bytes = word.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn looks_like_option(word: &OsStr) -> bool {
    let bytes = word.as_bytes();
    bytes.len() > 1 && bytes[0] == b'-'
}

/// `--name=value` and `-rvalue` hold their value in the same word.
fn split(word: &[u8]) -> (&[u8], Option<OsString>) {
    let cut = |at: usize, skip: usize| {
        (
            &word[..at],
            Some(OsString::from_vec(word[at + skip..].to_vec())),
        )
    };
    if word.starts_with(b"--") {
        return word
            .iter()
            .position(|b| *b == b'=')
            .map_or((word, None), |equals| cut(equals, 1));
    }
    let attached = word.len() > 2 && known(&word[..2]).is_some_and(|o| o.takes != Takes::Nothing);
    if attached { cut(2, 0) } else { (word, None) }
}

fn known(name: &[u8]) -> Option<&'static Known> {
    OPTIONS
        .iter()
        .find(|o| o.names.iter().any(|n| n.as_bytes() == name))
}

impl Invocation {
    /// Understands the words behind `argv[0]`. Never fails: what is not understood is left alone.
    pub fn parse(arguments: &[OsString]) -> Self {
        let mut this = Self {
            arguments: arguments.to_vec(),
            trimmed: arguments.to_vec(),
            roles: vec![Role::Keep; arguments.len()],
            starts_session: StartsSession::Yes,
            print: false,
            session: SessionChoice::Fresh,
            forks: false,
            keeps_no_transcript: false,
            reads_stream_json: false,
            writes_stream_json: false,
            makes_worktree: false,
        };
        this.read();
        this
    }

    fn read(&mut self) {
        let mut at = 0;
        let mut prompt_seen = false;
        while let Some(word) = self.arguments.get(at).cloned() {
            let bytes = word.as_bytes();
            if bytes == b"--" {
                self.roles[at] = Role::Separator;
                self.roles[at + 1..].fill(Role::Prompt);
                // claude looks for a subcommand behind `--` too.
                if !prompt_seen
                    && self
                        .arguments
                        .get(at + 1)
                        .is_some_and(|w| could_be_subcommand(w))
                {
                    self.doubt();
                }
                return;
            }
            if !looks_like_option(&word) {
                if !prompt_seen && could_be_subcommand(&word) {
                    self.doubt();
                }
                prompt_seen = true;
                self.roles[at] = Role::Prompt;
                at += 1;
                continue;
            }
            let (name, inline) = split(bytes);
            let Some(option) = known(name) else {
                at += self
                    .short_cluster(at)
                    .unwrap_or_else(|| self.unknown_option(at, inline.is_some()));
                continue;
            };
            let first_value = at + 1;
            let values = if inline.is_some() {
                0
            } else {
                self.count_values(option.takes, first_value)
            };
            let value =
                inline.or_else(|| (values > 0).then(|| self.arguments[first_value].clone()));
            self.note(option, value.as_deref());
            if option.meaning == Meaning::Chooses {
                self.roles[at..first_value + values].fill(Role::Choice);
            }
            at = first_value + values;
        }
    }

    fn doubt(&mut self) {
        if self.starts_session == StartsSession::Yes {
            self.starts_session = StartsSession::Perhaps;
        }
    }

    /// The word behind an unknown option may be its value, the prompt or a subcommand: it is kept,
    /// as a value.
    fn unknown_option(&mut self, at: usize, has_value: bool) -> usize {
        match self.arguments.get(at + 1) {
            Some(next) if !has_value && !looks_like_option(next) => {
                self.doubt();
                2
            }
            _ => 1,
        }
    }

    fn count_values(&self, takes: Takes, from: usize) -> usize {
        let plain = |word: &&OsString| !looks_like_option(word);
        match takes {
            Takes::Nothing => 0,
            // A value may begin with `-`: commander takes the word whatever it is.
            Takes::One => usize::from(self.arguments.get(from).is_some()),
            Takes::Optional => usize::from(self.arguments.get(from).as_ref().is_some_and(plain)),
            Takes::Many => self.arguments[from.min(self.arguments.len())..]
                .iter()
                .take_while(plain)
                .count(),
        }
    }

    fn note(&mut self, option: &Known, value: Option<&OsStr>) {
        let text = value.and_then(OsStr::to_str);
        match option.names[option.names.len() - 1] {
            "--print" => self.print = true,
            "--session-id" => {
                self.session = text.map_or(SessionChoice::Resumes(None), |t| {
                    SessionChoice::Given(t.to_owned())
                });
            }
            "--resume" => {
                self.session =
                    SessionChoice::Resumes(text.filter(|t| is_uuid(t)).map(str::to_owned));
            }
            "--from-pr" => self.session = SessionChoice::Resumes(None),
            "--continue" => self.session = SessionChoice::Continues,
            "--fork-session" => self.forks = true,
            "--no-session-persistence" => self.keeps_no_transcript = true,
            "--input-format" => self.reads_stream_json = text == Some("stream-json"),
            "--output-format" => self.writes_stream_json = text == Some("stream-json"),
            "--worktree" => self.makes_worktree = true,
            _ => {}
        }
        if option.meaning == Meaning::Elsewhere {
            self.starts_session = StartsSession::No;
        }
    }

    /// `-pc`, `-pr ID` and the like: several short options in one word, of which the last may take
    /// the next word. Returns how many words that were; `None`: no such word.
    fn short_cluster(&mut self, at: usize) -> Option<usize> {
        let letters = self.arguments[at].as_bytes()[1..].to_vec();
        let options: Vec<_> = letters.iter().map_while(|b| known(&[b'-', *b])).collect();
        let (last, before) = options.split_last()?;
        if options.len() != letters.len() || before.iter().any(|o| o.takes != Takes::Nothing) {
            return None;
        }
        let values = self.count_values(last.takes, at + 1);
        let value = (values > 0).then(|| self.arguments[at + 1].clone());
        let mut kept = vec![b'-'];
        for (letter, option) in letters.iter().zip(&options) {
            let value = if std::ptr::eq(*option, *last) {
                value.as_deref()
            } else {
                None
            };
            self.note(option, value);
            if option.meaning != Meaning::Chooses {
                kept.push(*letter);
            }
        }
        if kept.len() == 1 {
            self.roles[at] = Role::Choice;
        }
        if last.meaning == Meaning::Chooses {
            self.roles[at + 1..at + 1 + values].fill(Role::Choice);
        }
        self.trimmed[at] = OsString::from_vec(kept);
        Some(1 + values)
    }

    /// The words as typed.
    pub fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// The session that is asked for.
    pub fn session(&self) -> &SessionChoice {
        &self.session
    }

    /// Does it start a session in this terminal?
    pub fn starts_session(&self) -> StartsSession {
        self.starts_session
    }

    /// Does it draw on the terminal, as far as the words tell?
    pub fn is_interactive(&self) -> bool {
        !self.print && self.starts_session != StartsSession::No
    }

    /// `-p`: one answer on standard output.
    pub fn is_print(&self) -> bool {
        self.print
    }

    /// `--fork-session`: the conversation gets an id that we don't know.
    pub fn forks_session(&self) -> bool {
        self.forks
    }

    /// `--no-session-persistence`.
    pub fn keeps_no_transcript(&self) -> bool {
        self.keeps_no_transcript
    }

    /// `--input-format stream-json`: a program on the other side of standard input.
    pub fn reads_stream_json(&self) -> bool {
        self.reads_stream_json
    }

    /// Does a program read each event of the session (`--output-format stream-json`)?
    pub fn writes_stream_json(&self) -> bool {
        self.writes_stream_json
    }

    /// `--worktree`: the session runs in a folder that its start makes.
    pub fn makes_worktree(&self) -> bool {
        self.makes_worktree
    }

    /// The words with `--session-id ID` ahead; `None` where it has no business: not a fresh session.
    pub fn with_session_id(&self, id: &str) -> Option<Vec<OsString>> {
        let fresh = self.starts_session == StartsSession::Yes
            && self.session == SessionChoice::Fresh
            && !self.forks;
        fresh.then(|| self.ahead(&["--session-id", id], |_| true))
    }

    /// The words for a start from anew under the same id: nothing was saved, so the prompt goes along.
    pub fn anew(&self, id: &str) -> Vec<OsString> {
        self.ahead(&["--session-id", id], |role| role != Role::Choice)
    }

    /// The words that take conversation `id` up again, with a prompt that is submitted at once. Both
    /// stand ahead of the user's own, where no option of many values can swallow them.
    pub fn resume(&self, id: &str, prompt: Option<&str>) -> Vec<OsString> {
        let mut ours = vec!["--resume", id];
        ours.extend(prompt);
        self.ahead(&ours, |role| role == Role::Keep)
    }

    fn ahead(&self, ours: &[&str], keep: impl Fn(Role) -> bool) -> Vec<OsString> {
        let mut words: Vec<OsString> = ours.iter().map(OsString::from).collect();
        for (word, role) in self.trimmed.iter().zip(&self.roles) {
            if keep(*role) {
                words.push(word.clone());
            }
        }
        words
    }
}

/// Is this a UUID in its usual form?
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "12345678-1234-1234-1234-123456789abc";
    const OURS: &str = "abcdefab-1234-1234-1234-123456789abc";

    fn words(text: &[&str]) -> Vec<OsString> {
        text.iter().map(OsString::from).collect()
    }

    fn parse(text: &[&str]) -> Invocation {
        Invocation::parse(&words(text))
    }

    #[test]
    fn session_starts_are_told_from_everything_else() {
        use StartsSession::{No, Perhaps, Yes};
        let cases: &[(&[&str], StartsSession, bool)] = &[
            (&[], Yes, false),
            (&["fix the bug"], Yes, false),
            (&["-p", "fix the bug"], Yes, true),
            (&["fix the bug", "-p"], Yes, true),
            (&["--model", "sonnet"], Yes, false),
            (&["--model=sonnet", "what is this?"], Yes, false),
            (&["--permission-mode", "plan", "-c"], Yes, false),
            (&["--", "mcp"], Perhaps, false),
            (&["--", "fix the bug"], Yes, false),
            (&["--allowedTools", "Bash", "Edit"], Yes, false),
            (&["--debug", "api", "-p", "x y"], Yes, true),
            (&["-pc"], Yes, true),
            (&["mcp", "list"], Perhaps, false),
            (&["doctor"], Perhaps, false),
            (&["some-new-word", "--flag"], Perhaps, false),
            (&["-p", "hello"], Perhaps, true),
            (&["--model", "sonnet", "update"], Perhaps, false),
            (&["--new-option", "word"], Perhaps, false),
            (&["--new-option", "two words"], Perhaps, false),
            (&["--new-option=word"], Yes, false),
            (&["--version"], No, false),
            (&["-v"], No, false),
            (&["--help"], No, false),
            (&["--bg", "do it"], No, false),
            (&["--worktree", "x", "--tmux"], No, false),
        ];
        for (line, starts, print) in cases {
            let invocation = parse(line);
            assert_eq!(invocation.starts_session(), *starts, "{line:?}");
            assert_eq!(invocation.is_print(), *print, "{line:?}");
        }
    }

    #[test]
    fn the_session_that_was_asked_for_is_known() {
        use SessionChoice::{Continues, Fresh, Given, Resumes};
        let cases: &[(&[&str], SessionChoice)] = &[
            (&[], Fresh),
            (&["--session-id", ID], Given(ID.into())),
            (
                &["--session-id=12345678-1234-1234-1234-123456789abc"],
                Given(ID.into()),
            ),
            (&["--resume", ID], Resumes(Some(ID.into()))),
            (&["-r", ID, "go on"], Resumes(Some(ID.into()))),
            (
                &["-r12345678-1234-1234-1234-123456789abc"],
                Resumes(Some(ID.into())),
            ),
            (&["--resume"], Resumes(None)),
            (&["--resume", "my title"], Resumes(None)),
            (&["--resume", "--model", "x"], Resumes(None)),
            (&["-c"], Continues),
            (&["-pc", "x y"], Continues),
            (&["-pr", ID], Resumes(Some(ID.into()))),
            (&["--from-pr", "12"], Resumes(None)),
            (&["--model", "--continue"], Fresh),
            (&["--", "--continue"], Fresh),
        ];
        for (line, session) in cases {
            assert_eq!(parse(line).session(), session, "{line:?}");
        }
    }

    #[test]
    fn an_id_is_given_to_fresh_sessions_only_and_nothing_else_changes() {
        let line = ["--model", "opus", "--add-dir", "a", "b", "-p", "say hi"];
        let mut expected = words(&["--session-id", ID]);
        expected.extend(words(&line));
        assert_eq!(parse(&line).with_session_id(ID), Some(expected));
        for line in [
            &["mcp", "list"][..],
            &["doctor"],
            &["--version"],
            &["-c"],
            &["-r"],
            &["--resume", ID],
            &["--session-id", ID],
            &["-p", "hello"],
            &["--fork-session"],
        ] {
            assert_eq!(parse(line).with_session_id(OURS), None, "{line:?}");
            assert_eq!(parse(line).arguments(), words(line));
        }
    }

    #[test]
    fn a_resume_keeps_the_flags_and_drops_choice_and_prompt() {
        let cases: &[(&[&str], &[&str])] = &[
            (&[], &[]),
            (&["the prompt"], &[]),
            (
                &["--model", "opus", "the prompt", "--verbose"],
                &["--model", "opus", "--verbose"],
            ),
            (&["--session-id", ID, "-p", "x y"], &["-p"]),
            (
                &["--resume=12345678-1234-1234-1234-123456789abc", "-p"],
                &["-p"],
            ),
            (&["-c", "--fork-session", "--ide"], &["--ide"]),
            (&["-pc", "x y"], &["-p"]),
            (&["-pr", ID, "x y"], &["-p"]),
            (&["-pw", "tree", "x y"], &["-p"]),
            (&["-pn", "name", "x y"], &["-pn", "name"]),
            (&["-c"], &[]),
            (
                &["--allowedTools", "Bash(git *)", "Edit"],
                &["--allowedTools", "Bash(git *)", "Edit"],
            ),
            (&["-w", "tree", "--model", "m"], &["--model", "m"]),
            (&["--verbose", "--", "--not-a-flag"], &["--verbose"]),
            (
                &["--new", "value", "--newer=x", "the prompt"],
                &["--new", "value", "--newer=x"],
            ),
            (&["-p", "hello"], &["-p"]),
            (
                &["--append-system-prompt", "-careful", "x y"],
                &["--append-system-prompt", "-careful"],
            ),
        ];
        for (line, kept) in cases {
            let mut expected = words(&["--resume", OURS, "go on"]);
            expected.extend(words(kept));
            assert_eq!(
                parse(line).resume(OURS, Some("go on")),
                expected,
                "{line:?}"
            );
        }
    }

    #[test]
    fn a_start_from_anew_keeps_the_prompt() {
        assert_eq!(
            parse(&["--model", "m", "-p", "the prompt"]).anew(OURS),
            words(&["--session-id", OURS, "--model", "m", "-p", "the prompt"])
        );
        assert_eq!(
            parse(&["--", "-x"]).anew(OURS),
            words(&["--session-id", OURS, "--", "-x"])
        );
    }

    #[test]
    fn words_that_are_no_text_stay_what_they_are() {
        let odd = OsString::from_vec(vec![b'x', b' ', 0xff]);
        let line = vec![OsString::from("--model"), odd.clone(), odd];
        let invocation = Invocation::parse(&line);
        assert_eq!(invocation.arguments(), line);
        assert_eq!(invocation.resume(OURS, None)[2..], line[..2]);
    }
}
