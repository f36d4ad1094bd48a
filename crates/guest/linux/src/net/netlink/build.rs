//! Writing netlink messages: headers, attributes.

use alloc::vec::Vec;

/// Bytes of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// `NLMSG_ERROR`
const ERROR: u16 = 2;
/// `NLMSG_DONE`
const DONE: u16 = 3;
/// `NLM_F_MULTI`
const MULTI: u16 = 2;
/// Messages are gathered into datagrams up to this length: what every program has room for.
const LONGEST: usize = 4096;

/// The answer to one request.
#[derive(Debug)]
pub struct Reply {
    sequence: u32,
    port: u32,
    done: Vec<Vec<u8>>,
    current: Vec<u8>,
}

/// A message that is being written.
#[derive(Debug)]
pub struct Message(Vec<u8>);

impl Message {
    /// Adds bytes, and what aligns them.
    pub fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let len = (4 + value.len()) as u16;
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.put(value)
    }

    /// Adds an attribute that is a number.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }
}

impl Reply {
    /// An answer to the request with this number, for the socket with this port.
    pub fn new(sequence: u32, port: u32) -> Self {
        Self {
            sequence,
            port,
            done: Vec::new(),
            current: Vec::new(),
        }
    }

    /// Adds a message, whose body `write` writes; one of several, or the only one.
    pub fn add(&mut self, kind: u16, several: bool, write: impl FnOnce(&mut Message)) {
        self.message(kind, if several { MULTI } else { 0 }, write);
    }

    fn message(&mut self, kind: u16, flags: u16, write: impl FnOnce(&mut Message)) {
        let mut message = Message(Vec::from([0; HEADER]));
        write(&mut message);
        let mut bytes = message.0;
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        bytes[12..HEADER].copy_from_slice(&self.port.to_ne_bytes());
        if !self.current.is_empty() && self.current.len() + bytes.len() > LONGEST {
            self.done.push(core::mem::take(&mut self.current));
        }
        self.current.extend(bytes);
    }

    /// All of several have been told.
    pub fn done(&mut self) {
        if !self.current.is_empty() {
            self.done.push(core::mem::take(&mut self.current));
        }
        self.message(DONE, MULTI, |message| {
            message.put(&0_u32.to_ne_bytes());
        });
    }

    /// An error, or with 0 that all is well.
    pub fn error(&mut self, number: i32, request: &[u8]) {
        self.message(ERROR, 0, |message| {
            message.put(&(-number).to_ne_bytes());
            let quoted = if number == 0 { HEADER } else { request.len() };
            message.put(request.get(..quoted).unwrap_or(request));
        });
    }

    /// The datagrams.
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}
