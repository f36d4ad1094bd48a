//! What has been sent to an endpoint and not been received yet: a stream of bytes, or records.
//!
//! In a stream, files and a change of sender are kept as marks beside the bytes; a read ends before the next one.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::super::Address;
use super::rights::{Ancillary, Files, Ucred};
use crate::Result;
use crate::fs::OpenFile;
use crate::io::{Sink, Source};

/// The most records that wait (`net.unix.max_dgram_qlen`).
const MOST_RECORDS: usize = 512;
/// What a record costs besides its bytes.
const OVERHEAD: usize = 64;
/// Memory that an empty stream keeps for the next bytes.
const KEPT: usize = 64 << 10;

/// A message that keeps its borders.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its bytes.
    pub data: Vec<u8>,
    /// What came with it.
    pub ancillary: Ancillary,
    /// The sender's address, if it has one.
    pub from: Option<Rc<Address>>,
}

/// What has arrived.
#[derive(Debug, Default)]
pub struct Inbox {
    records: RefCell<VecDeque<Record>>,
    stream: RefCell<Stream>,
    held: Cell<usize>,
}

#[derive(Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    /// Bytes of those that have been read.
    read: usize,
    /// Where in `bytes` something begins that goes with them.
    marks: VecDeque<(usize, Ancillary)>,
    /// Who sent the last bytes.
    last: Option<Ucred>,
}

impl Inbox {
    /// Bytes that wait.
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.held.get() == 0 && self.records.borrow().is_empty()
    }

    /// Bytes that a stream still takes.
    pub fn room(&self, limit: usize) -> usize {
        limit.saturating_sub(self.held.get())
    }

    /// True if a record of this length is taken.
    pub fn takes(&self, len: usize, limit: usize) -> bool {
        let count = self.records.borrow().len();
        count == 0 || count < MOST_RECORDS && self.held.get() + len + count * OVERHEAD <= limit
    }

    /// The length of the next record.
    pub fn next_len(&self) -> usize {
        self.records.borrow().front().map_or(0, |r| r.data.len())
    }

    /// Adds a record.
    pub fn push(&self, data: Vec<u8>, ancillary: Ancillary, from: Option<Rc<Address>>) {
        self.held.set(self.held.get() + data.len());
        self.records.borrow_mut().push_back(Record {
            data,
            ancillary,
            from,
        });
    }

    /// The next record, which stays if it is only looked at.
    pub fn take_record(&self, peeks: bool) -> Option<Record> {
        let mut records = self.records.borrow_mut();
        if peeks {
            return records.front().cloned();
        }
        let record = records.pop_front()?;
        self.held
            .set(self.held.get().saturating_sub(record.data.len()));
        Some(record)
    }

    /// Adds at most `most` bytes to the stream.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn append(&self, from: &mut Source, most: usize, ancillary: Ancillary) -> Result<usize> {
        let mut stream = self.stream.borrow_mut();
        let stream = &mut *stream;
        if stream.read > 0 && stream.bytes.capacity() - stream.bytes.len() < most {
            stream.compact();
        }
        let at = stream.bytes.len();
        let taken = from.append(&mut stream.bytes, most)?;
        if taken > 0 && (!ancillary.files.is_empty() || stream.last != Some(ancillary.credentials))
        {
            // What follows files begins anew: a read that has brought files ends there.
            let alone = ancillary.files.is_empty();
            stream.last = alone.then_some(ancillary.credentials);
            stream.marks.push_back((at, ancillary));
        }
        self.held.set(self.held.get() + taken);
        Ok(taken)
    }

    /// Reads from the stream: up to the next message with files, and with `by_sender` up to where the sender changes. Returns the bytes, and
    /// what goes with them.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read(&self, to: &mut Sink, peeks: bool, by_sender: bool) -> Result<(usize, Ancillary)> {
        let mut stream = self.stream.borrow_mut();
        let stream = &mut *stream;
        let start = stream.read;
        let mut current = Ancillary {
            files: Files::default(),
            credentials: stream.current(),
        };
        let mut end = stream.bytes.len();
        let mut passed = 0;
        for (at, mark) in &stream.marks {
            let here = *at <= start;
            let new_sender = by_sender && mark.credentials != current.credentials;
            if !here && (!mark.files.is_empty() || !current.files.is_empty() || new_sender) {
                end = *at;
                break;
            }
            if here {
                current = mark.clone();
            }
            passed += 1;
        }
        let bytes = stream.bytes.get(start..end).unwrap_or_default();
        let count = to.put(bytes)?;
        if peeks || count == 0 {
            return Ok((count, current));
        }
        stream.read += count;
        self.held.set(self.held.get().saturating_sub(count));
        // Files go with the first byte that is read.
        let read = stream.read;
        let mut over = None;
        for _ in 0..passed {
            if stream.marks.front().is_some_and(|(at, _)| *at < read) {
                over = stream.marks.pop_front();
            }
        }
        if let Some((at, mark)) = over {
            // Who sent the rest of it must still be known.
            let files = Files::default();
            let credentials = mark.credentials;
            if read < stream.bytes.len() {
                stream
                    .marks
                    .push_front((at, Ancillary { files, credentials }));
            }
        }
        if stream.read == stream.bytes.len() {
            stream.bytes.clear();
            stream.read = 0;
            stream.marks.clear();
            stream.last = None;
            if stream.bytes.capacity() > KEPT {
                stream.bytes = Vec::new();
            }
        }
        Ok((count, current))
    }

    /// Goes through the files that are on their way here.
    pub fn each_file(&self, each: &mut dyn FnMut(&Rc<OpenFile>)) {
        for record in &*self.records.borrow() {
            record.ancillary.files.iter().for_each(&mut *each);
        }
        for (_, mark) in &self.stream.borrow().marks {
            mark.files.iter().for_each(&mut *each);
        }
    }

    /// Forgets everything; gives back the files that were on their way, to be closed when nothing is borrowed.
    pub fn clear(&self) -> (VecDeque<Record>, Vec<Ancillary>) {
        self.held.set(0);
        let stream = core::mem::take(&mut *self.stream.borrow_mut());
        let records = core::mem::take(&mut *self.records.borrow_mut());
        let marks = stream.marks.into_iter().map(|(_, mark)| mark).collect();
        (records, marks)
    }
}

impl Stream {
    /// Who sent the bytes that are read next.
    fn current(&self) -> Ucred {
        let front = self.marks.front().filter(|(at, _)| *at <= self.read);
        front.map_or(self.last.unwrap_or(Ucred::NOBODY), |(_, mark)| {
            mark.credentials
        })
    }

    /// Moves what has not been read to the start of the memory.
    fn compact(&mut self) {
        let read = core::mem::take(&mut self.read);
        self.bytes.drain(..read.min(self.bytes.len()));
        for (at, _) in &mut self.marks {
            *at = at.saturating_sub(read);
        }
    }
}
