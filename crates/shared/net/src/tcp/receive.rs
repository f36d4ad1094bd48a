//! Received data: what the program can read, and what waits for a gap before it to be filled.
//!
//! Both are chunks of memory that grow with what arrives. Data behind a gap move to the readable ones as whole chunks when
//! the gap is filled. The chunk read next is held in the buffer itself, so a request that arrives in one segment needs one
//! allocation.
//!
//! A peer decides how data are cut. Chunks that touch are joined when the later one is not much larger than the earlier
//! one: each byte is copied a few times at most, and a stretch without gaps is in few chunks. What is left are chunks with
//! gaps between them; their number is limited, and each is charged more than its bytes.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::segment::{Block, SackBlocks};
use super::{Seq, chunk_size};

/// The largest chunk that others are joined to.
const LARGEST_CHUNK: usize = chunk_size(64 * 1024);
/// The most chunks behind gaps.
const MAX_PARTS: usize = 1024;
/// What a chunk behind a gap costs besides its bytes.
const PART_COST: u32 = 64;
/// Scaled windows are no larger (RFC 7323 section 2.3).
const MAX_LIMIT: u32 = 1 << 30;

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

impl Inserted {
    /// The first stretch that was there before counts.
    fn repeat(&mut self, start: Seq, len: u32) {
        match &mut self.duplicate {
            None => {
                self.duplicate = Some(Block {
                    start,
                    end: start + len,
                });
            }
            Some(block) if block.end == start => block.end += len,
            Some(_) => {}
        }
    }
}

/// Data behind a gap.
#[derive(Debug)]
struct Part {
    start: Seq,
    bytes: Vec<u8>,
}

impl Part {
    fn end(&self) -> Seq {
        self.start + self.bytes.len() as u32
    }

    fn cost(&self) -> u32 {
        PART_COST + self.bytes.capacity() as u32
    }
}

/// What is not needed while little is held.
#[derive(Debug, Default)]
struct More {
    /// Readable, behind the first chunk.
    chunks: VecDeque<Vec<u8>>,
    /// Behind gaps: sorted, without overlap.
    parts: VecDeque<Part>,
    /// Numbers in the parts that changed last, the last first.
    recent: [Seq; SackBlocks::MAX],
    recent_count: u8,
    /// What the parts cost together.
    cost: u32,
    /// Memory of all chunks.
    held: u32,
}

/// The buffer. Holds no memory while it is empty.
#[derive(Debug, Default)]
pub struct ReceiveBuffer {
    /// Read next. Empty only if nothing is readable.
    first: Vec<u8>,
    more: Option<Box<More>>,
    next: Seq,
    limit: u32,
    /// Bytes of the first chunk that have been read.
    read: u32,
    len: u32,
}

impl ReceiveBuffer {
    /// An empty buffer. At most `limit` bytes are held, in order and behind gaps together.
    pub fn new(next: Seq, limit: u32) -> Self {
        Self {
            next,
            limit: limit.min(MAX_LIMIT),
            ..Self::default()
        }
    }

    /// RCV.NXT without regard to a FIN.
    #[inline]
    pub fn next(&self) -> Seq {
        self.next
    }

    /// The next `count` bytes have gone to the reader without coming here. Only while none are held.
    pub fn pass(&mut self, count: u32) {
        debug_assert!(self.is_empty() && !self.has_gap());
        self.next += count;
    }

    /// Takes data that start at `seq`. What is before RCV.NXT or beyond the limit is cut off here.
    pub fn insert(&mut self, seq: Seq, data: &[u8]) -> Inserted {
        let mut result = Inserted::default();
        let mut start = seq;
        let mut data = data;
        let before = self.next.since(seq).min(data.len() as u32);
        if before > 0 {
            result.repeat(seq, before);
            data = data.get(before as usize..).unwrap_or_default();
            start += before;
        }
        let offset = start.since(self.next);
        if start < self.next || data.is_empty() {
            return result;
        }
        let room = self.room().saturating_sub(offset) as usize;
        if let Some((inside, outside)) = data.split_at_checked(room) {
            result.dropped = outside.len() as u32;
            data = inside;
        }
        if data.is_empty() {
            return result;
        }
        if offset > 0 {
            self.insert_behind(start, data, &mut result);
        } else if self.has_gap() {
            self.fill(data, &mut result);
        } else {
            self.append(data);
            result.advanced = data.len() as u32;
        }
        result
    }

    /// Bytes ready to be read.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// True if no byte is ready to be read.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that may arrive in order before the limit is reached.
    #[inline]
    pub fn room(&self) -> u32 {
        self.limit.saturating_sub(self.len)
    }

    /// Bytes held now, in order or not: memory rather than protocol.
    pub fn held(&self) -> usize {
        self.first.capacity() + self.more.as_ref().map_or(0, |more| more.held as usize)
    }

    /// Changes the limit. What is held is kept.
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = limit.min(MAX_LIMIT);
    }

    /// The limit.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Copies into `buffer` and forgets what was copied.
    pub fn read(&mut self, buffer: &mut [u8]) -> usize {
        let mut rest = buffer;
        let mut total = 0;
        loop {
            let bytes = self.peek();
            let count = bytes.len().min(rest.len());
            let (Some(source), Some((target, behind))) =
                (bytes.get(..count), rest.split_at_mut_checked(count))
            else {
                return total;
            };
            if count == 0 {
                return total;
            }
            target.copy_from_slice(source);
            rest = behind;
            total += count;
            self.consume(count);
        }
    }

    /// The bytes that come next, as many as lie together in memory.
    #[inline]
    pub fn peek(&self) -> &[u8] {
        self.first.get(self.read as usize..).unwrap_or_default()
    }

    /// All bytes that are ready to be read, in pieces.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let more = self.more.as_deref().into_iter();
        let chunks = more.flat_map(|more| more.chunks.iter().map(Vec::as_slice));
        core::iter::once(self.peek()).chain(chunks)
    }

    /// Memory for what arrives next, from somebody who has no use for it. Not taken while there is some.
    pub fn lend(&mut self, mut chunk: Vec<u8>) {
        if self.first.capacity() == 0 {
            chunk.clear();
            self.first = chunk;
        }
    }

    /// Frees memory that was lent and not needed.
    #[inline]
    pub fn free_unused(&mut self) {
        if self.first.is_empty() && self.first.capacity() > 0 {
            self.first = Vec::new();
        }
    }

    /// As [`consume`](Self::consume), and gives the memory of a single chunk that was read to its end, if it was.
    pub fn consume_all(&mut self, count: usize) -> Option<Vec<u8>> {
        if self.more.is_none() && count >= self.len() && count > 0 {
            self.len = 0;
            self.read = 0;
            return Some(core::mem::take(&mut self.first));
        }
        self.consume(count);
        None
    }

    /// Forgets the next `count` bytes.
    pub fn consume(&mut self, count: usize) {
        let mut count = count.min(self.len()) as u32;
        self.len -= count;
        loop {
            let here = (self.first.len() as u32).saturating_sub(self.read);
            if count < here {
                self.read += count;
                return;
            }
            count -= here;
            self.read = 0;
            self.first = Vec::new();
            let Some(more) = self.more.as_deref_mut() else {
                return;
            };
            match more.chunks.pop_front() {
                Some(chunk) => {
                    more.held -= chunk.capacity() as u32;
                    self.first = chunk;
                }
                None => more.chunks = VecDeque::new(),
            }
            self.forget_more();
            if count == 0 {
                return;
            }
        }
    }

    /// True if bytes wait behind a gap.
    #[inline]
    pub fn has_gap(&self) -> bool {
        self.more
            .as_ref()
            .is_some_and(|more| !more.parts.is_empty())
    }

    /// What has arrived behind gaps, the block with the most recent segment first, then in the order of RFC 2018
    /// section 4.
    pub fn sack(&self) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        let Some(more) = self.more.as_deref() else {
            return blocks;
        };
        for &seq in more.recent.iter().take(usize::from(more.recent_count)) {
            let known = |block: &Block| block.start <= seq && seq < block.end;
            if !blocks.as_slice().iter().any(known)
                && let Some(block) = more.stretch(seq)
            {
                blocks.push(block);
            }
        }
        // Those reported so long ago that they are not remembered.
        let mut next = more.parts.front().map(|part| part.start);
        while let Some(seq) = next
            && blocks.as_slice().len() < SackBlocks::WITH_TIMESTAMPS.min(more.parts.len())
            && let Some(block) = more.stretch(seq)
        {
            if !blocks.as_slice().contains(&block) {
                blocks.push(block);
            }
            let behind = more.parts.partition_point(|part| part.start < block.end);
            next = more.parts.get(behind).map(|part| part.start);
        }
        blocks
    }

    /// Gives up what waits behind gaps (allowed: RFC 2018 section 8). Returns how many bytes that were.
    pub fn drop_out_of_order(&mut self) -> usize {
        let Some(more) = self.more.as_deref_mut() else {
            return 0;
        };
        let parts = core::mem::take(&mut more.parts);
        more.recent_count = 0;
        more.cost = 0;
        more.held -= parts.iter().map(|p| p.bytes.capacity() as u32).sum::<u32>();
        self.forget_more();
        parts.iter().map(|part| part.bytes.len()).sum()
    }

    /// Frees what holds nothing.
    fn forget_more(&mut self) {
        if let Some(more) = &self.more
            && more.chunks.is_empty()
            && more.parts.is_empty()
        {
            self.more = None;
        }
    }

    /// Appends readable data.
    fn append(&mut self, data: &[u8]) {
        self.len += data.len() as u32;
        self.next += data.len() as u32;
        let last = match self.more.as_deref_mut().and_then(|m| m.chunks.back_mut()) {
            Some(chunk) => chunk,
            None => &mut self.first,
        };
        let spare = last.capacity() - last.len();
        let (now, rest) = data.split_at(data.len().min(spare));
        last.extend_from_slice(now);
        if rest.is_empty() {
            return;
        }
        // Twice as much each time the program does not read, up to the largest.
        let capacity = (2 * last.capacity()).min(LARGEST_CHUNK).max(rest.len());
        let mut chunk = Vec::with_capacity(chunk_size(capacity));
        chunk.extend_from_slice(rest);
        self.append_chunk(chunk);
    }

    /// Makes a chunk readable; the caller has counted its bytes.
    fn append_chunk(&mut self, chunk: Vec<u8>) {
        if self.first.is_empty() {
            self.first = chunk;
        } else {
            let more = self.more.get_or_insert_default();
            more.held += chunk.capacity() as u32;
            more.chunks.push_back(chunk);
        }
    }

    /// Takes data that start at RCV.NXT while others wait behind gaps.
    fn fill(&mut self, data: &[u8], result: &mut Inserted) {
        let before = self.next;
        result.filled_gap = true;
        let mut rest = data;
        while let Some(first) = self.more.as_deref().and_then(|more| more.parts.front()) {
            let (start, len) = (first.start, first.bytes.len());
            let gap = start.since(self.next) as usize;
            if gap > 0 {
                let (now, behind) = rest.split_at(rest.len().min(gap));
                self.append(now);
                rest = behind;
                if now.len() < gap {
                    break;
                }
            }
            if !rest.is_empty() {
                result.repeat(start, rest.len().min(len) as u32);
                rest = rest.get(len..).unwrap_or_default();
            }
            self.move_first_part();
        }
        self.append(rest);
        result.advanced = self.next.since(before);
        self.forget_more();
    }

    /// The first part has no gap before it any more.
    fn move_first_part(&mut self) {
        let Some(more) = self.more.as_deref_mut() else {
            return;
        };
        let Some(part) = more.parts.pop_front() else {
            return;
        };
        more.cost -= part.cost();
        more.held -= part.bytes.capacity() as u32;
        let last = more.chunks.back().unwrap_or(&self.first);
        if last.capacity() - last.len() >= part.bytes.len() {
            self.append(&part.bytes);
        } else {
            self.len += part.bytes.len() as u32;
            self.next += part.bytes.len() as u32;
            self.append_chunk(part.bytes);
        }
        let next = self.next;
        if let Some(more) = self.more.as_deref_mut() {
            more.forget_recent(|seq| seq < next);
        }
    }

    /// Takes data that start behind a gap.
    fn insert_behind(&mut self, start: Seq, data: &[u8], result: &mut Inserted) {
        // What is held costs more than it is: buffers grow by doubling, and each part has its own.
        let budget = 2 * self.room() + 64 * PART_COST;
        let more = self.more.get_or_insert_default();
        let mut index = more.parts.partition_point(|part| part.end() <= start);
        let first = index;
        let (mut at, mut rest) = (start, data);
        while !rest.is_empty() {
            let gap = match more.parts.get(index) {
                Some(part) if part.start <= at => {
                    let there = part.end().since(at).min(rest.len() as u32);
                    result.repeat(at, there);
                    rest = rest.get(there as usize..).unwrap_or_default();
                    at += there;
                    index += 1;
                    continue;
                }
                Some(part) => part.start.since(at) as usize,
                None => rest.len(),
            };
            let (now, behind) = rest.split_at(rest.len().min(gap));
            if more.put(&mut index, at, now, budget) {
                result.out_of_order = true;
            } else {
                result.dropped += now.len() as u32;
            }
            at += now.len() as u32;
            rest = behind;
        }
        while index > 0 {
            let mut joined = false;
            while more.join(index) {
                joined = true;
            }
            if !joined && index < first {
                break;
            }
            index -= 1;
        }
        // A segment that brought nothing new is the most recent one all the same.
        more.touch(start);
        self.forget_more();
    }
}

impl More {
    /// Keeps `data` before the part with number `index`, which becomes the number of the part behind. False if there is no
    /// budget left.
    fn put(&mut self, index: &mut usize, start: Seq, data: &[u8], budget: u32) -> bool {
        let count = self.parts.len();
        let before = index.checked_sub(1).and_then(|i| self.parts.get_mut(i));
        if let Some(part) = before
            && part.end() == start
            && part.bytes.len() + data.len() <= LARGEST_CHUNK
        {
            let capacity = part.bytes.capacity() as u32;
            if self.cost.saturating_add(data.len() as u32) > budget {
                return false;
            }
            let needed = part.bytes.len() + data.len();
            if needed > part.bytes.capacity() {
                let wanted = (2 * part.bytes.capacity()).clamp(needed, LARGEST_CHUNK);
                part.bytes.reserve_exact(wanted - part.bytes.len());
            }
            part.bytes.extend_from_slice(data);
            let grown = part.bytes.capacity() as u32 - capacity;
            self.cost += grown;
            self.held += grown;
        } else {
            let cost = PART_COST + data.len() as u32;
            if count >= MAX_PARTS || self.cost.saturating_add(cost) > budget {
                return false;
            }
            let part = Part {
                start,
                bytes: Vec::from(data),
            };
            self.cost += part.cost();
            self.held += part.bytes.capacity() as u32;
            self.parts.insert(*index, part);
            *index += 1;
        }
        true
    }

    /// Joins the part with number `index` to the one before it, if they touch and that costs little.
    fn join(&mut self, index: usize) -> bool {
        let (Some(later), Some(earlier)) = (
            self.parts.get(index),
            index.checked_sub(1).and_then(|i| self.parts.get(i)),
        ) else {
            return false;
        };
        let sum = earlier.bytes.len() + later.bytes.len();
        if earlier.end() != later.start
            || sum > LARGEST_CHUNK
            || 2 * earlier.bytes.len() < later.bytes.len()
        {
            return false;
        }
        let before = earlier.cost() + later.cost();
        let Some(later) = self.parts.remove(index) else {
            return false;
        };
        let Some(earlier) = self.parts.get_mut(index - 1) else {
            return false;
        };
        earlier.bytes.reserve_exact(later.bytes.len());
        earlier.bytes.extend_from_slice(&later.bytes);
        let after = earlier.cost();
        self.cost = self.cost + after - before;
        // One overhead less is charged, so the difference of the memory is larger by it.
        self.held = self.held + after + PART_COST - before;
        true
    }

    /// The stretch without gaps around `seq`.
    fn stretch(&self, seq: Seq) -> Option<Block> {
        let index = self.parts.partition_point(|part| part.end() <= seq);
        let part = self.parts.get(index)?;
        if part.start > seq {
            return None;
        }
        let mut block = Block {
            start: part.start,
            end: part.end(),
        };
        for part in self.parts.iter().take(index).rev() {
            if part.end() != block.start {
                break;
            }
            block.start = part.start;
        }
        for part in self.parts.iter().skip(index + 1) {
            if part.start != block.end {
                break;
            }
            block.end = part.end();
        }
        Some(block)
    }

    /// The stretch around `seq` is the most recent one.
    fn touch(&mut self, seq: Seq) {
        let Some(block) = self.stretch(seq) else {
            return;
        };
        self.forget_recent(|other| block.start <= other && other < block.end);
        self.recent.rotate_right(1);
        if let Some(first) = self.recent.first_mut() {
            *first = seq;
        }
        self.recent_count = (self.recent_count + 1).min(self.recent.len() as u8);
    }

    fn forget_recent(&mut self, forget: impl Fn(Seq) -> bool) {
        let mut kept = 0;
        for index in 0..usize::from(self.recent_count) {
            if let Some(&seq) = self.recent.get(index)
                && !forget(seq)
                && let Some(place) = self.recent.get_mut(kept)
            {
                *place = seq;
                kept += 1;
            }
        }
        self.recent_count = kept as u8;
    }
}

#[cfg(test)]
mod tests;
