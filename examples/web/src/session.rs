//! One connection: bytes in, requests one after the other, replies out.
//!
//! A client may send requests without waiting for the replies to earlier ones (pipelining); they are answered in order,
//! and the caller gathers the replies to those that have arrived together.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::answer::{Reply, answer, refuse};
use crate::date::HttpDate;
use crate::reply::Status;
use crate::request::{MAX_HEAD, parse};

/// Memory for a connection's input at first. Most requests are shorter; with what the heap keeps it takes 1 KiB.
const FIRST_ROOM: usize = 1024 - 8;

/// What a connection does next.
#[derive(Debug)]
pub enum Next {
    /// Sends what was written, then the reply's body; ends if the reply says so.
    Reply(Reply),
    /// Reads: no complete request is there.
    Read,
}

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expecting {
    /// The first byte of a request.
    Request,
    /// The rest of one.
    Rest,
}

/// A connection's state.
#[derive(Debug)]
pub struct Session {
    /// All of it may be written to: [`FIRST_ROOM`] or [`MAX_HEAD`].
    buffer: Vec<u8>,
    filled: Range<usize>,
    /// Bytes still to come of a body that nobody reads.
    skip: u64,
    /// The last request in the words of its first line, for the log.
    line: Range<usize>,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// A new connection.
    pub fn new() -> Self {
        Self {
            buffer: vec![0; FIRST_ROOM],
            filled: 0..0,
            skip: 0,
            line: 0..0,
        }
    }

    /// Room for what arrives: never empty after [`next`](Self::next) said [`Next::Read`].
    pub fn room(&mut self) -> &mut [u8] {
        if self.filled.end == self.buffer.len() {
            self.make_room();
        } else if self.filled.is_empty() {
            self.filled = 0..0;
        }
        &mut self.buffer[self.filled.end..]
    }

    #[inline(never)]
    fn make_room(&mut self) {
        // Happens once for each buffer full of pipelined requests, and moves less than one request.
        self.buffer.copy_within(self.filled.clone(), 0);
        self.filled = 0..self.filled.len();
        // A long request, or many at once: the next will be no shorter.
        self.buffer.resize(MAX_HEAD, 0);
    }

    /// Takes note that so many bytes have arrived in the [`room`](Self::room).
    pub fn received(&mut self, count: usize) {
        self.filled.end = (self.filled.end + count).min(self.buffer.len());
    }

    /// What the client owes.
    pub fn expecting(&self) -> Expecting {
        if self.filled.is_empty() && self.skip == 0 {
            Expecting::Request
        } else {
            Expecting::Rest
        }
    }

    /// Answers the next request, if it is there, at the end of `out`. With `last` it is the last.
    pub fn next(&mut self, last: bool, date: &HttpDate, out: &mut Vec<u8>) -> Next {
        self.drop_body();
        if self.filled.is_empty() {
            return Next::Read;
        }
        let input = &self.buffer[self.filled.clone()];
        match parse(input) {
            Ok(None) => Next::Read,
            Ok(Some((request, len))) => {
                self.line = self.filled.start..self.filled.start + len;
                self.filled.start += len;
                self.skip = request.body_len;
                Next::Reply(answer(&request, last, date, out))
            }
            Err(status) => {
                self.line = self.filled.clone();
                Next::Reply(refuse(status, date, out))
            }
        }
    }

    /// Answers a client that did not send the rest of a request in time. `None` if it began none: the connection
    /// just ends.
    pub fn time_out(&mut self, date: &HttpDate, out: &mut Vec<u8>) -> Option<Reply> {
        if self.expecting() == Expecting::Request || self.skip > 0 {
            return None;
        }
        self.line = self.filled.clone();
        Some(refuse(Status::RequestTimeout, date, out))
    }

    /// The first line of the request that was answered last, as far as it is text. Valid until more is received.
    pub fn request_line(&self) -> &str {
        let head = &self.buffer[self.line.clone()];
        let start = head.iter().position(|b| !matches!(b, b'\r' | b'\n'));
        let line = &head[start.unwrap_or(head.len())..];
        let end = line.iter().position(|b| !matches!(b, b' '..=b'~'));
        str::from_utf8(&line[..end.unwrap_or(line.len())]).unwrap_or_default()
    }

    fn drop_body(&mut self) {
        let count = (self.filled.len() as u64).min(self.skip);
        self.filled.start += count as usize;
        self.skip -= count;
    }
}
