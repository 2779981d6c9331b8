//! The lines in a start file that put the shim folder first on `PATH`, between two markers.
//!
//! Works on the bytes of a file, in whatever encoding. The first marker holds a checksum, and what
//! putting the block in took beside the block: taking it out gives back every byte. Never takes out
//! a block that somebody has edited: what was written into it would be lost.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Every line of ours that begins or ends a block has one of these.
const BEGIN: &[u8] = b">>> claude-safe shim";
const END: &[u8] = b"<<< claude-safe shim";

const LAST_LINE: &[u8] = b"# <<< claude-safe shim <<<\n";

/// What putting the block in took beside the block, as the first marker has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Added {
    Nothing,
    /// The file did not end in a newline.
    Newline,
    /// The file was not there, nor so many folders above it.
    File(u8),
}

impl Added {
    fn word(self) -> String {
        match self {
            Added::Nothing => String::new(),
            Added::Newline => "+newline".to_owned(),
            Added::File(folders) => format!("+file+{folders}"),
        }
    }

    fn of_word(word: &str) -> Option<Added> {
        match word {
            "" => Some(Added::Nothing),
            "+newline" => Some(Added::Newline),
            _ => word.strip_prefix("+file+")?.parse().ok().map(Added::File),
        }
    }
}

/// Whose language a start file is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    /// sh, dash, bash, ksh, zsh.
    Posix,
    Fish,
}

/// A block that is as it was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// What it puts first on `PATH`.
    pub(super) folder: PathBuf,
    /// Whether nothing stands behind it that could put another folder first.
    pub(super) is_last: bool,
}

/// A file without its block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Without {
    /// What is left.
    pub(super) left: Left,
    /// The block that was in it.
    pub(super) block: Option<Block>,
}

/// What is left of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    Content(Vec<u8>),
    /// No file: it was made for the block, and so many folders above it.
    NoFile(u8),
}

impl Left {
    pub(super) fn content(&self) -> Option<&[u8]> {
        match self {
            Left::Content(content) => Some(content),
            Left::NoFile(_) => None,
        }
    }
}

/// Markers between which nothing is to be touched, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage {
    line: usize,
    what: &'static str,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "line {}: {}", self.line, self.what)
    }
}

/// `found` with a block for `folder` at its end, wherever one was before.
pub(super) fn put(found: Left, folder: &Path, syntax: Syntax) -> Result<Vec<u8>, Damage> {
    let left = match found {
        Left::Content(content) => take(&content)?.left,
        Left::NoFile(_) => found,
    };
    let (mut whole, added) = match left {
        Left::NoFile(folders) => (Vec::new(), Added::File(folders)),
        Left::Content(content) if content.is_empty() || content.ends_with(b"\n") => {
            (content, Added::Nothing)
        }
        Left::Content(mut content) => {
            content.push(b'\n');
            (content, Added::Newline)
        }
    };
    let body = body(folder, syntax);
    whole.extend(first_line(added, &body));
    whole.extend(body);
    whole.extend(LAST_LINE);
    Ok(whole)
}

/// `content` without a block.
pub(super) fn take(content: &[u8]) -> Result<Without, Damage> {
    let damage = |line: usize, what| Err(Damage { line, what });
    let (mut begin, mut end, mut at) = (None, None, 0);
    for (index, line) in content.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        if has(line, BEGIN) {
            if begin.is_some() {
                return damage(number, "a second block of claude-safe begins");
            }
            begin = Some((number, at, line));
        }
        if has(line, END) {
            if begin.is_none() || end.is_some() {
                return damage(number, "a block of claude-safe ends that did not begin");
            }
            end = Some((at, line));
        }
        at += line.len();
    }
    let Some((number, begins_at, begin)) = begin else {
        return Ok(Without {
            left: Left::Content(content.to_vec()),
            block: None,
        });
    };
    let Some((ends_at, end)) = end else {
        return damage(number, "a block of claude-safe begins that does not end");
    };
    // One line with both markers leaves no room for anything between them.
    let body = content.get(begins_at + begin.len()..ends_at).unwrap_or(b"");
    let added = added_of(begin).filter(|added| begin == first_line(*added, body));
    let (Some(added), LAST_LINE, Some(folder)) = (added, end, folder_of(body)) else {
        return damage(number, "the block of claude-safe here was edited");
    };
    let mut before = &content[..begins_at];
    let behind = &content[ends_at + LAST_LINE.len()..];
    if added == Added::Newline && behind.is_empty() {
        // Lines that came behind the block later on need that newline.
        before = before.strip_suffix(b"\n").unwrap_or(before);
    }
    let left = match (added, [before, behind].concat()) {
        (Added::File(folders), left) if left.is_empty() => Left::NoFile(folders),
        (_, left) => Left::Content(left),
    };
    let is_last = behind.trim_ascii().is_empty();
    Ok(Without {
        left,
        block: Some(Block { folder, is_last }),
    })
}

fn has(line: &[u8], marker: &[u8]) -> bool {
    memchr::memmem::find(line, marker).is_some()
}

const FIRST_LINE: &str = "# >>> claude-safe shim ";

fn first_line(added: Added, body: &[u8]) -> Vec<u8> {
    let added = added.word();
    let checksum = checksum(added.as_bytes(), body);
    format!("{FIRST_LINE}{checksum:08x}{added} >>>\n").into_bytes()
}

/// What a first marker says; whether its checksum is right is another question.
fn added_of(line: &[u8]) -> Option<Added> {
    let line = std::str::from_utf8(line).ok()?;
    let word = line.strip_prefix(FIRST_LINE)?.get(8..)?;
    Added::of_word(word.strip_suffix(" >>>\n")?)
}

/// FNV-1a: against mistakes, not against somebody who wants to deceive.
fn checksum(added: &[u8], body: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    added.iter().chain(body).fold(0x811c_9dc5, step)
}

/// The second line of every body is `# FOLDER`, so that any version of us finds it.
fn folder_of(body: &[u8]) -> Option<PathBuf> {
    let line = body.split(|byte| *byte == b'\n').nth(1)?;
    let folder = line.strip_prefix(b"# ")?;
    Some(PathBuf::from(OsStr::from_bytes(folder)))
}

/// What stands between the markers. Any number of times in any order of files it leaves the folder on
/// `PATH` once, and first. Nothing of it fails under `set -eu`, and without the folder it does nothing.
fn body(folder: &Path, syntax: Syntax) -> Vec<u8> {
    let text: &[&[u8]] = match syntax {
        Syntax::Posix => &[
            b"_cs=",
            b"
if [ -x \"$_cs/claude\" ]; then
  _csp=\":${PATH-}:\"
  while case $_csp in *\":$_cs:\"*) ;; *) false ;; esac; do
    _csp=${_csp%%\":$_cs:\"*}:${_csp#*\":$_cs:\"}
  done
  _csp=${_csp#:}
  _csp=${_csp%:}
  PATH=$_cs${_csp:+:$_csp}
  export PATH
fi
unset _cs _csp
",
        ],
        Syntax::Fish => &[
            b"set -l _cs ",
            b"
if test -x $_cs/claude
  while set -l _csi (contains -i -- $_cs $PATH)
    set -e PATH[$_csi]
  end
  set -gx PATH $_cs $PATH
end
",
        ],
    };
    [
        b"# `claude-safectl shim remove` takes this block out. It puts first on PATH:\n# ",
        folder.as_os_str().as_bytes(),
        b"\n",
        text[0],
        &quoted(folder, syntax),
        text[1],
    ]
    .concat()
}

/// The one line for somebody who has to do it by hand.
pub(super) fn by_hand(folder: &Path, syntax: Syntax) -> String {
    let quoted = quoted(folder, syntax);
    let folder = String::from_utf8_lossy(&quoted);
    match syntax {
        Syntax::Posix => format!("export PATH={folder}:\"$PATH\""),
        Syntax::Fish => format!("set -gx PATH {folder} $PATH"),
    }
}

fn quoted(folder: &Path, syntax: Syntax) -> Vec<u8> {
    let mut text = vec![b'\''];
    for byte in folder.as_os_str().as_bytes() {
        match (byte, syntax) {
            (b'\'', Syntax::Posix) => text.extend(b"'\\''"),
            (b'\'' | b'\\', Syntax::Fish) => text.extend([b'\\', *byte]),
            _ => text.push(*byte),
        }
    }
    text.push(b'\'');
    text
}

/// What changes from `old` to `new`, as a diff without context; empty if nothing does.
pub(super) fn diff(name: &str, old: Option<&[u8]>, new: Option<&[u8]>) -> String {
    if old == new {
        return String::new();
    }
    let sides = [('-', old), ('+', new)];
    let lines = sides.map(|(_, content)| {
        let lines = content
            .unwrap_or(b"")
            .split_inclusive(|byte| *byte == b'\n');
        lines.collect::<Vec<_>>()
    });
    let most = lines[0].len().min(lines[1].len());
    let first = (0..most)
        .take_while(|at| lines[0][*at] == lines[1][*at])
        .count();
    let from_end = |side: usize, at: usize| lines[side][lines[side].len() - 1 - at];
    let last = (0..most - first)
        .take_while(|at| from_end(0, *at) == from_end(1, *at))
        .count();
    let file = |content: Option<&[u8]>| content.map_or("/dev/null", |_| name);
    let mut text = format!("--- {}\n+++ {}\n@@", file(old), file(new));
    let mut hunk = String::new();
    for ((sign, _), lines) in sides.iter().zip(&lines) {
        let changed = &lines[first..lines.len() - last];
        // A part without a line is named by the line ahead of it.
        let from = first + usize::from(!changed.is_empty());
        text.push_str(&format!(" {sign}{from},{}", changed.len()));
        for line in changed {
            hunk.push(*sign);
            hunk.push_str(&String::from_utf8_lossy(line));
            if !line.ends_with(b"\n") {
                hunk.push_str("\n\\ No newline at end of file\n");
            }
        }
    }
    text + " @@\n" + &hunk
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: &str = "/home/u/.local/share/claude-safe/bin";

    fn is(content: &[u8]) -> Left {
        Left::Content(content.to_vec())
    }

    fn put_in(content: &[u8], folder: &str) -> Vec<u8> {
        put(is(content), Path::new(folder), Syntax::Posix).unwrap()
    }

    fn left(content: &[u8]) -> Left {
        take(content).unwrap().left
    }

    #[test]
    fn what_was_put_in_is_taken_out_to_the_byte() {
        let long = b"x".repeat(100_000);
        for content in [
            &b""[..],
            b"\n",
            b"export A=1\n",
            b"no newline at the end",
            b"a\r\nb\r\n",
            b"a\r\nb",
            b"\xff\xfe\x00 not text \x80",
            b"continued \\\n",
            b"\n\n\n",
            &long,
        ] {
            for syntax in [Syntax::Posix, Syntax::Fish] {
                let folder = Path::new(FOLDER);
                let with = put(is(content), folder, syntax).unwrap();
                assert!(with.starts_with(content));
                let again = put(is(&with), folder, syntax).unwrap();
                assert_eq!(again, with, "a second time changes nothing");
                let without = take(&with).unwrap();
                assert_eq!(without.left, is(content));
                let block = without.block.unwrap();
                assert_eq!((block.folder.as_path(), block.is_last), (folder, true));
                assert_eq!(take(content).unwrap().block, None);
            }
        }
        let folder = Path::new(FOLDER);
        let made = put(Left::NoFile(2), folder, Syntax::Fish).unwrap();
        assert_eq!(left(&made), Left::NoFile(2));
        assert_eq!(put(is(&made), folder, Syntax::Fish).unwrap(), made);
        // It has become the user's file.
        assert_eq!(left(&[b"mine\n", &made[..]].concat()), is(b"mine\n"));
    }

    #[test]
    fn a_block_that_is_no_longer_last_moves_to_the_end() {
        for start in [&b"first\n"[..], b"first"] {
            let with = [&put_in(start, FOLDER)[..], b"later\n"].concat();
            assert!(!take(&with).unwrap().block.unwrap().is_last);
            let moved = put_in(&with, FOLDER);
            assert!(moved.starts_with(b"first\nlater\n# >>> claude-safe shim "));
            assert!(take(&moved).unwrap().block.unwrap().is_last);
            assert_eq!(left(&moved), is(b"first\nlater\n"));
        }
        let blank = [&put_in(b"first\n", FOLDER)[..], b" \n"].concat();
        assert!(take(&blank).unwrap().block.unwrap().is_last);
    }

    #[test]
    fn another_folder_takes_the_place_of_the_first() {
        let with = put_in(&put_in(b"a", FOLDER), "/other");
        assert_eq!(
            take(&with).unwrap().block.unwrap().folder,
            Path::new("/other")
        );
        assert_eq!(left(&with), is(b"a"));
    }

    #[test]
    fn markers_that_were_tampered_with_are_named_by_line_and_nothing_is_touched() {
        let good = String::from_utf8(put_in(b"one\ntwo", FOLDER)).unwrap();
        let marker = good.lines().nth(2).unwrap().to_owned() + "\n";
        let last = String::from_utf8(LAST_LINE.to_vec()).unwrap();
        let twice = [good.clone(), good.clone()].concat();
        for (text, says) in [
            (
                good.replace(&last, ""),
                "line 3: a block of claude-safe begins that does not end",
            ),
            (good.replace(&marker, ""), "ends that did not begin"),
            (twice, "a second block"),
            (format!("{good}{last}"), "ends that did not begin"),
            (
                format!("{last}{good}"),
                "line 1: a block of claude-safe ends",
            ),
            (
                good.replace("  export PATH", "  export PATH MINE=1"),
                "line 3: the block of claude-safe here was edited",
            ),
            (good.replace(FOLDER, "/other"), "edited"),
            (good.replace("+newline", ""), "edited"),
            (good.replace("+newline", "+file+0"), "edited"),
            (good.replace(&marker, &format!("  {marker}")), "edited"),
            (good.replace('\n', "\r\n"), "edited"),
            (good.trim_end().to_owned(), "edited"),
            (
                good.replace(&last, &format!("{} export A=1\n", last.trim_end())),
                "edited",
            ),
            (
                "# >>> claude-safe shim <<< claude-safe shim".to_owned(),
                "edited",
            ),
        ] {
            let damage = take(text.as_bytes()).unwrap_err().to_string();
            assert!(damage.contains(says), "{damage}: {text}");
            let put = put(is(text.as_bytes()), Path::new(FOLDER), Syntax::Posix);
            assert_eq!(put.unwrap_err().to_string(), damage);
        }
    }

    #[test]
    fn a_diff_shows_what_changes_and_no_more() {
        assert_eq!(diff("f", Some(b"a\n"), Some(b"a\n")), "");
        for (old, new, hunk) in [
            (&b"a\nb\n"[..], &b"a\nb\nc\n"[..], "@@ -2,0 +3,1 @@\n+c\n"),
            (b"a\nb\nc\n", b"a\nc\n", "@@ -2,1 +1,0 @@\n-b\n"),
            (b"a\nb\na\n", b"a\na\n", "@@ -2,1 +1,0 @@\n-b\n"),
            (
                b"a",
                b"a\nb\n",
                "@@ -1,1 +1,2 @@\n-a\n\\ No newline at end of file\n+a\n+b\n",
            ),
        ] {
            let whole = format!("--- f\n+++ f\n{hunk}");
            assert_eq!(diff("f", Some(old), Some(new)), whole);
        }
        let made = "--- /dev/null\n+++ f\n@@ -0,0 +1,1 @@\n+a\n";
        assert_eq!(diff("f", None, Some(b"a\n")), made);
        assert!(diff("f", Some(b"a\n"), None).starts_with("--- f\n+++ /dev/null\n"));
    }
}
