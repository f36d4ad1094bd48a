//! Which commands there are, and what they answer.
//!
//! A command is either answered from memory at once, or it is a change, whose answer waits until it is on stable
//! storage.

use alloc::vec::Vec;
use core::fmt;

use crate::format::Op;
use crate::map::Map;
use crate::resp::Replies;
use crate::writer::Outcome;

/// What a command wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'w> {
    /// Something that is known at once.
    Ask(Question<'w>),
    /// Something that has to be written first.
    Change(Change),
    /// The end of the connection.
    Quit,
    /// Nothing that is possible.
    Wrong(Wrong<'w>),
}

/// Why a command is not possible. Its text is the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong<'w> {
    /// No words.
    Empty,
    /// There is no command of this name.
    Unknown(&'w [u8]),
    /// The command of this name takes more words, or fewer.
    Arguments(&'w [u8]),
    /// `SET` with an option.
    Option,
    /// Another database than 0.
    Database,
}

impl fmt::Display for Wrong<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("ERR empty command"),
            Self::Unknown(name) => {
                let name = &name[..name.len().min(64)];
                write!(f, "ERR unknown command '{}'", name.escape_ascii())
            }
            Self::Arguments(name) => {
                let name = name.escape_ascii();
                write!(f, "ERR wrong number of arguments for '{name}' command")
            }
            Self::Option => f.write_str("ERR syntax error: SET takes no options here"),
            Self::Database => f.write_str("ERR DB index is out of range"),
        }
    }
}

/// What can be answered from memory.
#[derive(Debug, PartialEq, Eq)]
pub enum Question<'w> {
    /// `GET`
    Get(&'w [u8]),
    /// `EXISTS`
    Exists(Vec<&'w [u8]>),
    /// `DBSIZE`
    Size,
    /// `PING`, with or without a message.
    Ping(Option<&'w [u8]>),
    /// `COMMAND`: clients ask when they connect, and make do without an answer.
    Commands,
    /// `SELECT 0`: there is one database.
    Select,
}

/// A change, as one unit: all of it is on the disk or nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// What it does.
    pub ops: Vec<Op>,
    /// How it is answered.
    pub answer: Answer,
}

/// How a change is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With `OK`.
    Ok,
    /// With the number of keys that were there.
    Count,
}

/// Makes a command of words.
pub fn command<'w>(words: &[&'w [u8]]) -> Command<'w> {
    let Some((name, arguments)) = words.split_first() else {
        return Command::Wrong(Wrong::Empty);
    };
    let mut upper = [0; 8];
    let Some(upper) = upper.get_mut(..name.len()) else {
        return Command::Wrong(Wrong::Unknown(name));
    };
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    match (&*upper, arguments) {
        (b"GET", &[key]) => Command::Ask(Question::Get(key)),
        (b"SET", &[key, value]) => Command::Change(Change {
            ops: [Op::Set {
                key: key.into(),
                value: value.into(),
            }]
            .into(),
            answer: Answer::Ok,
        }),
        (b"SET", &[_, _, ..]) => Command::Wrong(Wrong::Option),
        (b"DEL", keys @ [_, ..]) => Command::Change(Change {
            ops: keys
                .iter()
                .map(|&key| Op::Delete { key: key.into() })
                .collect(),
            answer: Answer::Count,
        }),
        (b"EXISTS", keys @ [_, ..]) => Command::Ask(Question::Exists(keys.into())),
        (b"DBSIZE", []) => Command::Ask(Question::Size),
        (b"PING", []) => Command::Ask(Question::Ping(None)),
        (b"PING", &[message]) => Command::Ask(Question::Ping(Some(message))),
        (b"FLUSHALL", [] | [_]) => Command::Change(Change {
            ops: [Op::Clear].into(),
            answer: Answer::Ok,
        }),
        (b"COMMAND", _) => Command::Ask(Question::Commands),
        (b"SELECT", [b"0"]) => Command::Ask(Question::Select),
        (b"SELECT", [_]) => Command::Wrong(Wrong::Database),
        (b"QUIT", _) => Command::Quit,
        (
            b"GET" | b"SET" | b"DEL" | b"EXISTS" | b"DBSIZE" | b"PING" | b"FLUSHALL" | b"SELECT",
            _,
        ) => Command::Wrong(Wrong::Arguments(name)),
        _ => Command::Wrong(Wrong::Unknown(name)),
    }
}

impl Question<'_> {
    /// Answers it.
    pub fn answer(&self, map: &Map, replies: &mut Replies<'_>) {
        match self {
            Self::Get(key) => replies.bulk(map.get(key)),
            Self::Exists(keys) => {
                let there = keys.iter().filter(|key| map.get(key).is_some());
                replies.integer(there.count() as u64);
            }
            Self::Size => replies.integer(map.len() as u64),
            Self::Ping(None) => replies.simple("PONG"),
            Self::Ping(message) => replies.bulk(*message),
            Self::Commands => replies.empty_array(),
            Self::Select => replies.simple("OK"),
        }
    }
}

impl Answer {
    /// Answers a change, when its outcome is known.
    pub fn give(self, outcomes: &[Outcome], replies: &mut Replies<'_>) {
        let mut count = 0;
        for outcome in outcomes {
            match outcome {
                Outcome::Done { existed } => count += u64::from(*existed),
                Outcome::Refused(refusal) => return replies.error(refusal),
            }
        }
        match self {
            Self::Ok => replies.simple("OK"),
            Self::Count => replies.integer(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Fault;
    use crate::writer::Refusal;
    use std::string::{String, ToString};

    fn wrong(words: &[&[u8]]) -> String {
        match command(words) {
            Command::Wrong(wrong) => wrong.to_string(),
            other => panic!("{other:?}"),
        }
    }

    fn given(answer: Answer, outcomes: &[Outcome]) -> String {
        let mut out = Vec::new();
        answer.give(outcomes, &mut Replies(&mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn names_are_of_either_case() {
        assert_eq!(
            command(&[b"gEt", b"Key"]),
            Command::Ask(Question::Get(b"Key"))
        );
        assert_eq!(command(&[b"ping"]), Command::Ask(Question::Ping(None)));
        assert_eq!(command(&[b"quit"]), Command::Quit);
    }

    #[test]
    fn changes_are_units() {
        let Command::Change(change) = command(&[b"DEL", b"a", b"b"]) else {
            panic!("DEL changes something");
        };
        assert_eq!(change.ops.len(), 2);
        assert_eq!(change.answer, Answer::Count);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(
            wrong(&[b"GET"]),
            "ERR wrong number of arguments for 'GET' command"
        );
        assert_eq!(wrong(&[b"INCR", b"a"]), "ERR unknown command 'INCR'");
        assert_eq!(
            wrong(&[b"HGETALLORNOTHING"]),
            "ERR unknown command 'HGETALLORNOTHING'"
        );
        assert!(wrong(&[b"SET", b"a", b"b", b"NX"]).starts_with("ERR syntax error"));
        assert!(wrong(&[]).starts_with("ERR"));
    }

    #[test]
    fn changes_are_answered_by_their_outcome() {
        let done = |existed| Outcome::Done { existed };
        assert_eq!(given(Answer::Ok, &[done(true)]), "+OK\r\n");
        assert_eq!(
            given(Answer::Count, &[done(true), done(false), done(true)]),
            ":2\r\n"
        );
        let failed = Outcome::Refused(Refusal::Storage(Fault::Full));
        assert!(
            given(Answer::Count, &[done(true), failed])
                .starts_with("-ERR not stored: the host has no space")
        );
    }
}
