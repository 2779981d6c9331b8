//! The format of a configuration file: that of systemd's `EnvironmentFile=` (systemd.exec(5)).
//!
//! Turns bytes into assignments. Knows no variable, judges no value, reads no file.

/// One `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The line on which it begins, from 1.
    pub line: usize,
    /// The name: letters, digits and `_`, no digit first.
    pub key: String,
    /// The value after quotes, escapes and continued lines are undone. Any bytes but NUL.
    pub value: Vec<u8>,
}

/// A line that is no assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it, in words that follow "FILE:LINE: ".
    pub what: &'static str,
}

/// All that a file says, in its order. A key may occur more than once: the last one holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The assignments.
    pub assignments: Vec<Assignment>,
    /// The lines that are none; they are left out, the others hold.
    pub flaws: Vec<Flaw>,
}

/// Reads the text of a file.
///
/// Blank lines and lines that begin with `#` or `;` are nothing. White space around key and value
/// is dropped. `'…'` is literal; in `"…"` a backslash escapes `"`, `\`, `` ` `` and `$`; outside of
/// quotes it escapes anything. A backslash at the end of a line continues it. CRLF is a line end.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut reader = Reader {
        bytes: bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes),
        at: 0,
        line: 1,
    };
    let mut parsed = Parsed::default();
    while let Some(byte) = reader.peek() {
        match byte {
            b'#' | b';' => reader.skip_line(),
            byte if byte.is_ascii_whitespace() => reader.advance(),
            _ => match reader.assignment() {
                Ok(assignment) => parsed.assignments.push(assignment),
                Err(flaw) => parsed.flaws.push(flaw),
            },
        }
    }
    parsed
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn advance(&mut self) {
        if self.peek() == Some(b'\n') {
            self.line += 1;
        }
        self.at += 1;
    }

    fn at_line_end(&self) -> bool {
        match self.peek() {
            None | Some(b'\n') => true,
            Some(b'\r') => matches!(self.bytes.get(self.at + 1), None | Some(b'\n')),
            _ => false,
        }
    }

    fn skip_line(&mut self) {
        while !matches!(self.peek(), None | Some(b'\n')) {
            self.at += 1;
        }
    }

    /// Goes past a line end, be it LF or CRLF.
    fn pass_line_end(&mut self) {
        if self.peek() == Some(b'\r') {
            self.at += 1;
        }
        if self.peek().is_some() {
            self.advance();
        }
    }

    fn flaw(&mut self, line: usize, what: &'static str) -> Flaw {
        self.skip_line();
        Flaw { line, what }
    }

    fn assignment(&mut self) -> Result<Assignment, Flaw> {
        let line = self.line;
        let start = self.at;
        while !self.at_line_end() && self.peek() != Some(b'=') {
            self.at += 1;
        }
        if self.peek() != Some(b'=') {
            return Err(self.flaw(line, "there is no = in this line, it is ignored"));
        }
        let key = self.bytes[start..self.at].trim_ascii_end();
        let Some(key) = name_of(key) else {
            return Err(self.flaw(
                line,
                "what stands before the = is no name, the line is ignored",
            ));
        };
        self.at += 1;
        let value = self.value(line)?;
        if value.contains(&0) {
            return Err(Flaw {
                line,
                what: "there is a NUL in the value, the line is ignored",
            });
        }
        Ok(Assignment { line, key, value })
    }

    fn value(&mut self, line: usize) -> Result<Vec<u8>, Flaw> {
        let mut value = Vec::new();
        // Quotes mean something only at the beginning of the value or after a quoted part, as in
        // systemd; within a word they are themselves.
        let mut quotes_count = true;
        // The length up to the last byte that is not trailing white space.
        let mut solid = 0;
        loop {
            if self.at_line_end() {
                self.pass_line_end();
                value.truncate(solid);
                return Ok(value);
            }
            let byte = self.bytes[self.at];
            match byte {
                b'\\' => {
                    self.at += 1;
                    if self.at_line_end() {
                        self.pass_line_end();
                    } else if let Some(escaped) = self.peek() {
                        value.push(escaped);
                        solid = value.len();
                        self.at += 1;
                    }
                    quotes_count = false;
                }
                b'\'' | b'"' if quotes_count => {
                    self.quoted(line, &mut value)?;
                    solid = value.len();
                }
                byte if byte.is_ascii_whitespace() => {
                    if !quotes_count {
                        value.push(byte);
                    }
                    self.at += 1;
                }
                _ => {
                    value.push(byte);
                    solid = value.len();
                    quotes_count = false;
                    self.at += 1;
                }
            }
        }
    }

    /// Takes a quoted part, from its opening quote to its closing one.
    fn quoted(&mut self, line: usize, value: &mut Vec<u8>) -> Result<(), Flaw> {
        let quote = self.bytes[self.at];
        let (opened_at, opened_line) = (self.at, self.line);
        self.at += 1;
        while let Some(byte) = self.peek() {
            if byte == quote {
                self.at += 1;
                return Ok(());
            }
            if byte == b'\r' && self.bytes.get(self.at + 1) == Some(&b'\n') {
                self.at += 1;
            } else if byte == b'\\' && quote == b'"' {
                self.at += 1;
                if self.at_line_end() {
                    self.pass_line_end();
                } else if let Some(escaped) = self.peek() {
                    if !matches!(escaped, b'"' | b'\\' | b'`' | b'$') {
                        value.push(b'\\');
                    }
                    value.push(escaped);
                    self.at += 1;
                }
            } else {
                value.push(byte);
                self.advance();
            }
        }
        // Nothing closes it. Only this line is lost: the rest of the file is read as lines again.
        self.at = opened_at;
        self.line = opened_line;
        Err(self.flaw(line, "its quote is never closed, the line is ignored"))
    }
}

fn name_of(key: &[u8]) -> Option<String> {
    let well_formed = key
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        && key.first().is_some_and(|first| !first.is_ascii_digit());
    if !well_formed {
        return None;
    }
    std::str::from_utf8(key).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<(usize, String, String)> {
        let parsed = parse(text.as_bytes());
        assert_eq!(parsed.flaws, [], "{text:?}");
        parsed
            .assignments
            .into_iter()
            .map(|a| (a.line, a.key, String::from_utf8(a.value).unwrap()))
            .collect()
    }

    fn only(text: &str) -> String {
        let all = values(text);
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].2.clone()
    }

    #[test]
    fn each_form_of_a_value_is_read_as_systemd_reads_it() {
        for (text, value) in [
            ("A=1", "1"),
            ("A = 1 ", "1"),
            ("\t A\t=\t1\t\n", "1"),
            ("A=", ""),
            ("A=\n", ""),
            ("A=a b  c  ", "a b  c"),
            ("A=a=b", "a=b"),
            ("A='a b'", "a b"),
            ("A='a\\n'", "a\\n"),
            ("A=\"a 'b' c\"", "a 'b' c"),
            (r#"A="a\"b\\c\$d\`e\nf""#, r#"a"b\c$d`e\nf"#),
            ("A=\" a \"", " a "),
            ("A=' a' \"b \"", " ab "),
            ("A='a'b'c'", "ab'c'"),
            ("A=it's", "it's"),
            ("A=a\\ b\\\\c\\d", "a b\\cd"),
            ("A=a\\ ", "a "),
            ("A=one\\\ntwo", "onetwo"),
            ("A=one\\\r\ntwo", "onetwo"),
            ("A=\"one\\\ntwo\"", "onetwo"),
            ("A=\"one\ntwo\"", "one\ntwo"),
            ("A=\"one\r\ntwo\"", "one\ntwo"),
            ("A=1\r\n", "1"),
            ("A=1\r", "1"),
            ("A=a#b ;c", "a#b ;c"),
            ("\u{feff}A=1", "1"),
            ("A=\\", ""),
            ("A=$HOME", "$HOME"),
        ] {
            assert_eq!(only(text), value, "{text:?}");
        }
    }

    #[test]
    fn lines_are_counted_through_comments_and_continued_values() {
        let text = "# one\n; two \\\n\nA=x\\\ny\n  # six\nB=\"p\nq\"\nC=3\r\nD=4";
        let names: Vec<(usize, String)> = values(text)
            .into_iter()
            .map(|(line, key, _)| (line, key))
            .collect();
        let want = [(4, "A"), (7, "B"), (9, "C"), (10, "D")];
        assert_eq!(names, want.map(|(line, key)| (line, key.to_owned())));
    }

    #[test]
    fn a_bad_line_is_named_and_the_others_hold() {
        for (bad, says) in [
            ("just words", "no ="),
            ("export A=1", "no name"),
            ("1A=2", "no name"),
            ("=2", "no name"),
            ("\u{e4}=2", "no name"),
            ("A=a\0b", "NUL"),
            ("A='open", "never closed"),
            ("A=\"open\\\"", "never closed"),
        ] {
            let parsed = parse(format!("X=1\n{bad}\nY=2\n").as_bytes());
            let keys: Vec<&str> = parsed.assignments.iter().map(|a| a.key.as_str()).collect();
            assert_eq!(keys, ["X", "Y"], "{bad:?}");
            assert_eq!(parsed.flaws.len(), 1, "{bad:?}");
            assert_eq!(parsed.flaws[0].line, 2, "{bad:?}");
            assert!(
                parsed.flaws[0].what.contains(says),
                "{bad:?}: {}",
                parsed.flaws[0].what
            );
            assert_eq!(parsed.assignments[1].line, 3, "{bad:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_utf_8_are_kept_in_values() {
        let parsed = parse(b"A=/tmp/\xff\n");
        assert_eq!(parsed.assignments[0].value, b"/tmp/\xff");
    }

    #[test]
    fn no_input_of_three_bytes_breaks_the_reader() {
        let alphabet = b"A=\\'\"\n\r \t#\0\xff1";
        for a in alphabet {
            for b in alphabet {
                for c in alphabet {
                    for tail in [&b""[..], b"=", b"\nB=1\n"] {
                        let text = [&[b'K', b'=', *a, *b, *c][..], tail].concat();
                        parse(&text);
                        parse(&text[2..]);
                    }
                }
            }
        }
    }
}
