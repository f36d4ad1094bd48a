//! Received data: what the program can read, and what waits for a gap before it to be filled.

use super::segment::{Block, SackBlocks};
use super::Seq;

/// What a segment's data have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inserted {
    /// Bytes by which RCV.NXT has advanced.
    pub advanced: u32,
    /// Bytes of the segment that had been received before, for a D-SACK (RFC 2883).
    pub duplicate: Option<Block>,
    /// True if bytes were kept that lie behind a gap.
    pub out_of_order: bool,
    /// True if the segment filled (a part of) a gap: it must be acknowledged at once (RFC 9293 section 3.10.7.4,
    /// RFC 5681 section 4.2).
    pub filled_gap: bool,
    /// Bytes dropped since they were beyond the limit, or the budget for bytes behind gaps was used up.
    pub dropped: u32,
}

/// The buffer. Holds no memory while it is empty.
#[derive(Debug, Default)]
pub struct ReceiveBuffer {}

impl ReceiveBuffer {
    /// An empty buffer. At most `limit` bytes are held, in order and behind gaps together.
    pub fn new(_next: Seq, _limit: u32) -> Self {
        todo!()
    }

    /// RCV.NXT without regard to a FIN.
    pub fn next(&self) -> Seq {
        todo!()
    }

    /// Takes data that start at `seq`, after what is before RCV.NXT and what is beyond the limit has been cut off.
    pub fn insert(&mut self, _seq: Seq, _data: &[u8]) -> Inserted {
        todo!()
    }

    /// Bytes ready to be read.
    pub fn len(&self) -> usize {
        todo!()
    }

    /// True if no byte is ready to be read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that may arrive in order before the limit is reached.
    pub fn room(&self) -> u32 {
        todo!()
    }

    /// Bytes held now, in order or not: memory rather than protocol.
    pub fn held(&self) -> usize {
        todo!()
    }

    /// Changes the limit. What is held is kept.
    pub fn set_limit(&mut self, _limit: u32) {
        todo!()
    }

    /// The limit.
    pub fn limit(&self) -> u32 {
        todo!()
    }

    /// Copies into `buffer` and forgets what was copied.
    pub fn read(&mut self, _buffer: &mut [u8]) -> usize {
        todo!()
    }

    /// The bytes that come next, as many as lie together in memory.
    pub fn peek(&self) -> &[u8] {
        todo!()
    }

    /// Forgets the next `count` bytes.
    pub fn consume(&mut self, _count: usize) {
        todo!()
    }

    /// True if bytes wait behind a gap.
    pub fn has_gap(&self) -> bool {
        todo!()
    }

    /// What has arrived behind gaps, the block with the most recent segment first, then in the order of RFC 2018
    /// section 4.
    pub fn sack(&self) -> SackBlocks {
        todo!()
    }

    /// Gives up what waits behind gaps (allowed: RFC 2018 section 8). Returns how many bytes that were.
    pub fn drop_out_of_order(&mut self) -> usize {
        todo!()
    }
}
