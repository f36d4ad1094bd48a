//! Frames waiting to leave a link.
//!
//! The headers of all frames, and the whole of frames that are short, lie one behind the other in one buffer. Data of
//! TCP are not copied: such a frame names the connection and the range of its send buffer, and the bytes are looked up
//! when the driver asks for them. Nothing is allocated per frame. The buffer is empty again, and starts from its
//! beginning, each time the driver has taken everything, which is the rule.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;

use kiln_abi::NetHeader;

use crate::tcp::Outgoing;

/// Data of a connection that belong behind a frame's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Borrowed {
    /// Which connection, see `table`.
    pub connection: u64,
    /// Which data.
    pub outgoing: Outgoing,
}

/// A frame that waits.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub header: NetHeader,
    /// Its first bytes, in the queue's buffer.
    pub head: Range<usize>,
    /// The others, in a connection's.
    pub tail: Option<Borrowed>,
}

impl Waiting {
    /// Bytes of the frame.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.tail.map_or(0, |tail| tail.outgoing.len as usize)
    }
}

/// Frames waiting to leave, oldest first.
pub(crate) struct Queue {
    bytes: Vec<u8>,
    frames: VecDeque<Waiting>,
    end: usize,
    limit: usize,
    /// Frames that were ever added, and their bytes.
    added: (u64, u64),
}

/// Most frames that wait.
const MAX_FRAMES: usize = 1024;
/// Room that data leave for answers of the protocols below.
const RESERVE: usize = 4096;

impl Queue {
    /// A queue of at most `limit` bytes, borrowed data not counted.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            frames: VecDeque::new(),
            end: 0,
            limit,
            added: (0, 0),
        }
    }

    /// True if TCP may add a frame.
    pub(crate) fn has_room(&self) -> bool {
        self.end + RESERVE < self.limit && self.frames.len() < MAX_FRAMES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Appends a complete frame of `len` bytes that `fill` writes; they are 0 before. False if there is no room.
    pub(crate) fn frame(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        if self.end + len > self.limit || self.frames.len() >= MAX_FRAMES {
            return false;
        }
        self.append(len, None, |bytes| {
            bytes.fill(0);
            fill(bytes);
            NetHeader::PLAIN
        });
        true
    }

    /// Appends a frame whose first `len` bytes `fill` writes, every one of them; it returns how the link is to treat the
    /// frame. The caller has asked whether there is room.
    pub(crate) fn append(
        &mut self,
        len: usize,
        tail: Option<Borrowed>,
        fill: impl FnOnce(&mut [u8]) -> NetHeader,
    ) {
        let head = self.end..self.end + len;
        if self.bytes.len() < head.end {
            self.bytes.resize(head.end, 0);
        }
        let header = fill(&mut self.bytes[head.clone()]);
        self.end = head.end;
        let waiting = Waiting { header, head, tail };
        self.added = (self.added.0 + 1, self.added.1 + waiting.len() as u64);
        self.frames.push_back(waiting);
    }

    /// The frames.
    pub(crate) fn frames(&self) -> impl ExactSizeIterator<Item = &Waiting> {
        self.frames.iter()
    }

    /// The first bytes of a frame.
    pub(crate) fn head(&self, frame: &Waiting) -> &[u8] {
        &self.bytes[frame.head.clone()]
    }

    /// How many frames were ever added, and how many bytes they had.
    pub(crate) fn added(&self) -> (u64, u64) {
        self.added
    }

    /// Forgets the first `count` frames.
    pub(crate) fn take(&mut self, count: usize) {
        self.frames.drain(..count.min(self.frames.len()));
        match self.frames.front() {
            None => self.end = 0,
            // The link is slow: what waits moves to the front once that is worth it.
            Some(first) if first.head.start > self.limit / 2 => {
                let start = first.head.start;
                self.bytes.copy_within(start..self.end, 0);
                self.end -= start;
                for frame in &mut self.frames {
                    frame.head = frame.head.start - start..frame.head.end - start;
                }
            }
            Some(_) => {}
        }
    }
}
