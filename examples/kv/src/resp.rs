//! The protocol: RESP, version 2, as redis speaks it. Commands are arrays of bulk strings, or lines of words for those who
//! type them into `nc`.

use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::format::{MAX_KEY, MAX_VALUE};

/// The longest command, in bytes: room for the longest key and value and for something beside, so that a value that is
/// a little too long gets a proper answer.
pub const MAX_COMMAND: usize = MAX_KEY + 2 * MAX_VALUE;
/// The most words of a command.
const MAX_WORDS: usize = 1024;
/// The longest number in the protocol, with its end of line.
const MAX_NUMBER: usize = 16;

/// Why what was sent is no command. There is no telling where the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ERR Protocol error: {}", self.0)
    }
}

/// The words of a command, and its length in bytes.
pub type Parsed<'i> = (Vec<&'i [u8]>, usize);

/// The words of the command at the start of `input`, and its length. `None` if there is more to come. Without words
/// it is an empty line, which is skipped.
///
/// # Errors
/// [`Malformed`].
pub fn parse(input: &[u8]) -> Result<Option<Parsed<'_>>, Malformed> {
    let parsed = match input.first() {
        None => Ok(None),
        Some(b'*') => array(input),
        Some(_) => Ok(inline(input)),
    }?;
    if parsed.is_none() && input.len() >= MAX_COMMAND {
        return Err(Malformed("the command is too long"));
    }
    Ok(parsed)
}

fn inline(input: &[u8]) -> Option<Parsed<'_>> {
    let end = input.iter().position(|&b| b == b'\n')?;
    let words = input[..end]
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    Some((words.take(MAX_WORDS).collect(), end + 1))
}

fn array(input: &[u8]) -> Result<Option<Parsed<'_>>, Malformed> {
    let Some((count, mut at)) = number(input, 1)? else {
        return Ok(None);
    };
    if count > MAX_WORDS {
        return Err(Malformed("invalid multibulk length"));
    }
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        match input.get(at) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(_) => return Err(Malformed("expected '$'")),
        }
        let Some((len, start)) = number(input, at + 1)? else {
            return Ok(None);
        };
        if len > MAX_COMMAND {
            return Err(Malformed("invalid bulk length"));
        }
        let end = start + len;
        let Some(tail) = input.get(end..end + 2) else {
            return Ok(None);
        };
        if tail != b"\r\n" {
            return Err(Malformed("expected the end of a line behind a bulk string"));
        }
        words.push(&input[start..end]);
        at = end + 2;
    }
    Ok(Some((words, at)))
}

/// The number in the line that begins at `from`, and where the next line begins. Negative numbers, which mean "nothing",
/// count as zero words.
fn number(input: &[u8], from: usize) -> Result<Option<(usize, usize)>, Malformed> {
    let line = &input[from.min(input.len())..];
    let Some(end) = line.iter().take(MAX_NUMBER).position(|&b| b == b'\n') else {
        return if line.len() >= MAX_NUMBER {
            Err(Malformed("expected a number"))
        } else {
            Ok(None)
        };
    };
    let digits = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
    let text = str::from_utf8(digits).ok();
    let number: Option<i64> = text.and_then(|text| text.parse().ok());
    match number {
        Some(number) => Ok(Some((usize::try_from(number).unwrap_or(0), from + end + 1))),
        None => Err(Malformed("expected a number")),
    }
}

/// Writes replies.
#[derive(Debug)]
pub struct Replies<'o>(pub &'o mut Vec<u8>);

impl Replies<'_> {
    /// A short text.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// An error; its text begins with its kind in capitals.
    pub fn error(&mut self, error: impl fmt::Display) {
        self.0.push(b'-');
        // Writing to a vector never fails.
        let _ = write!(Line(self.0), "{error}");
        self.0.extend_from_slice(b"\r\n");
    }

    /// A number.
    pub fn integer(&mut self, number: u64) {
        self.number(b':', number);
    }

    /// Bytes, or nothing.
    pub fn bulk(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => {
                self.number(b'$', bytes.len() as u64);
                self.0.extend_from_slice(bytes);
                self.0.extend_from_slice(b"\r\n");
            }
            None => self.0.extend_from_slice(b"$-1\r\n"),
        }
    }

    /// A list without members.
    pub fn empty_array(&mut self) {
        self.0.extend_from_slice(b"*0\r\n");
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.0.push(kind);
        self.0.extend_from_slice(text);
        self.0.extend_from_slice(b"\r\n");
    }

    fn number(&mut self, kind: u8, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.line(kind, &digits[at..]);
    }
}

/// A line while it is written: an end of line inside would end the reply there.
struct Line<'o>(&'o mut Vec<u8>);

impl Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let printable = text.bytes().map(|b| if b < b' ' { b' ' } else { b });
        self.0.extend(printable);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{format, vec};

    fn words(input: &[u8]) -> Vec<&[u8]> {
        let (words, len) = parse(input).unwrap().unwrap();
        assert_eq!(len, input.len());
        words
    }

    #[test]
    fn arrays_hold_any_bytes() {
        let input = b"*3\r\n$3\r\nSET\r\n$2\r\n\r\n\r\n$0\r\n\r\n";
        assert_eq!(words(input), [&b"SET"[..], b"\r\n", b""]);
        for len in 0..input.len() {
            assert_eq!(parse(&input[..len]).unwrap(), None);
        }
        assert!(words(b"*0\r\n").is_empty());
        assert!(words(b"*-1\r\n").is_empty());
    }

    #[test]
    fn lines_are_split_at_white_space() {
        assert_eq!(words(b"  GET\t key \r\n"), [&b"GET"[..], b"key"]);
        assert_eq!(words(b"PING\n"), [b"PING"]);
        assert!(words(b"\r\n").is_empty());
        assert_eq!(parse(b"PING").unwrap(), None);
    }

    #[test]
    fn only_the_first_command_is_taken() {
        assert_eq!(parse(b"PING\r\nPING\r\n").unwrap().unwrap().1, 6);
    }

    #[test]
    fn what_can_never_become_a_command() {
        for input in [
            &b"*x\r\n"[..],
            b"*1\r\nGET",
            b"*1\r\n$x\r\n",
            b"*1\r\n$1\r\nab\r\n",
            b"*1\r\n$99999999\r\n",
            b"*99999\r\n",
            b"*11111111111111111",
        ] {
            assert!(parse(input).is_err(), "{input:?}");
        }
        assert!(parse(&vec![b'a'; MAX_COMMAND]).is_err());
    }

    #[test]
    fn replies() {
        let mut out = Vec::new();
        let mut replies = Replies(&mut out);
        replies.simple("OK");
        replies.error("ERR a\r\nb");
        replies.integer(1024);
        replies.bulk(Some(b"a\r\nb"));
        replies.bulk(None);
        replies.empty_array();
        assert_eq!(
            out,
            b"+OK\r\n-ERR a  b\r\n:1024\r\n$4\r\na\r\nb\r\n$-1\r\n*0\r\n"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(input in "[*$0-9a\r\n\\-]{0,60}") {
            let _ = parse(input.as_bytes());
        }

        #[test]
        fn what_clients_encode_is_what_arrives(
            words in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..8),
        ) {
            let mut input = format!("*{}\r\n", words.len()).into_bytes();
            for word in &words {
                input.extend(format!("${}\r\n", word.len()).bytes());
                input.extend(word);
                input.extend(b"\r\n");
            }
            prop_assert_eq!(self::words(&input), words);
        }
    }
}
