//! A small client of redis' protocol, version 2 (RESP).
//!
//! It knows the kinds of reply that the example `kv` gives, no arrays among them. A store may be killed while a command
//! is under way, and that is what some tests are about: [`Store::send`], [`Store::command`] and [`Store::receive`] return
//! errors, and only [`Store::ask`] takes it for granted that the store lives.
//!
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};

use crate::service;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `+`: a word such as `OK`.
    Simple(String),
    /// `-`: what went wrong.
    Error(String),
    /// `:`: a count.
    Integer(u64),
    /// `$`: any bytes.
    Bulk(Vec<u8>),
    /// `$-1`: no such key.
    Nothing,
}

impl Value {
    /// A simple string.
    pub fn simple(text: &str) -> Self {
        Self::Simple(text.to_owned())
    }
}

/// A connection to a store.
#[derive(Debug)]
pub struct Store(BufReader<TcpStream>);

impl Store {
    /// Connects to a store.
    ///
    /// # Panics
    /// If there is no answer at the address.
    #[track_caller]
    pub fn connect(to: SocketAddr) -> Self {
        Self(BufReader::new(service::connect(to)))
    }

    /// Sends bytes, be they a command or not.
    ///
    /// # Errors
    /// What the host says, if the store is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Sends a command as an array of bulk strings and reads the reply.
    ///
    /// # Errors
    /// Like [`send`](Self::send) and [`receive`](Self::receive).
    pub fn command(&mut self, words: &[&[u8]]) -> Result<Value> {
        self.send(&encode(words))?;
        self.receive()
    }

    /// The same for those whose store lives.
    ///
    /// # Panics
    /// If there is no reply.
    #[track_caller]
    pub fn ask<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Value {
        let words: Vec<&[u8]> = words.iter().map(AsRef::as_ref).collect();
        self.command(&words).expect("a reply")
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// If the store is gone before the reply is whole, or what comes is none ([`ErrorKind::InvalidData`]).
    pub fn receive(&mut self) -> Result<Value> {
        let line = self.line()?;
        let rest = line.get(1..).unwrap_or_default();
        let strange = || Error::new(ErrorKind::InvalidData, format!("no reply: {line:?}"));
        match line.as_bytes().first() {
            Some(b'+') => Ok(Value::Simple(rest.to_owned())),
            Some(b'-') => Ok(Value::Error(rest.to_owned())),
            Some(b':') => rest.parse().map(Value::Integer).map_err(|_| strange()),
            Some(b'$') if rest == "-1" => Ok(Value::Nothing),
            Some(b'$') => {
                let len: usize = rest.parse().map_err(|_| strange())?;
                let mut bytes = vec![0; len + 2];
                self.0.read_exact(&mut bytes)?;
                if bytes.split_off(len) != b"\r\n" {
                    return Err(strange());
                }
                Ok(Value::Bulk(bytes))
            }
            _ => Err(strange()),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        // A store that is killed may leave half a line.
        let whole = line.strip_suffix("\r\n").map(str::to_owned);
        whole.ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    /// True if the store has ended the connection.
    pub fn has_ended(&mut self) -> bool {
        self.0.fill_buf().is_ok_and(<[u8]>::is_empty)
    }
}

/// A command as an array of bulk strings.
pub fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend_from_slice(word);
        bytes.extend(b"\r\n");
    }
    bytes
}
