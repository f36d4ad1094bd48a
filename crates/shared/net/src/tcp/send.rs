//! Data that the program has written and the peer has not acknowledged.
//!
//! A list of pieces: copies of what was written, and borrowed pieces that live for ever or are shared, which are never
//! copied on their way to the link.
//!
//! A piece knows its place in the stream, so the bytes of a segment are found by binary search. The piece written last is
//! held in the buffer itself: a request with its answer in one piece needs one allocation.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::chunk_size;

/// The smallest memory for copies.
pub(crate) const SMALLEST_CHUNK: usize = chunk_size(512);
/// The same behind [`FREE_PIECES`].
const SMALLEST_CHUNK_LATER: usize = chunk_size(2 * 1024);
/// The largest.
const LARGEST_CHUNK: usize = chunk_size(64 * 1024);
/// So many pieces may be of any size; those behind them are large, so that 64 KiB are never in more than 30.
const FREE_PIECES: usize = 12;
/// Borrowed pieces below are copied.
const SMALLEST_BORROWED: usize = 2 * 1024;
/// The same behind [`FREE_PIECES`].
const SMALLEST_BORROWED_LATER: usize = 8 * 1024;
/// Places in the stream are compared in 32 bits.
const MAX_LIMIT: usize = 1 << 30;

/// Where the bytes of a piece are.
#[derive(Debug)]
enum Data {
    Copied(Vec<u8>),
    Static(&'static [u8]),
    Shared(Arc<[u8]>),
}

/// A part of the stream. It ends where the next one begins.
#[derive(Debug)]
struct Piece {
    /// Where in the stream it begins, modulo 2^32.
    position: u32,
    /// Bytes of `data` before it.
    skip: u32,
    data: Data,
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Copied(bytes) => bytes,
            Data::Static(bytes) => bytes,
            Data::Shared(bytes) => bytes,
        }
    }

    fn held(&self) -> u32 {
        match &self.data {
            Data::Copied(bytes) => bytes.capacity() as u32,
            _ => 0,
        }
    }
}

/// The buffer. Holds no memory while it is empty.
#[derive(Debug, Default)]
pub struct SendBuffer {
    /// All pieces but the one written last. Never empty.
    #[allow(clippy::box_collection, reason = "one piece is the rule")]
    older: Option<Box<VecDeque<Piece>>>,
    newest: Option<Piece>,
    /// The position of the first byte, modulo 2^32.
    start: u32,
    len: u32,
    limit: u32,
    held: u32,
}

impl SendBuffer {
    /// An empty buffer of at most `limit` bytes (1 GiB at most).
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.min(MAX_LIMIT) as u32,
            ..Self::default()
        }
    }

    /// Copies as much of `data` as there is room for. Returns how much.
    pub fn write(&mut self, data: &[u8]) -> usize {
        let (data, _) = data.split_at(data.len().min(self.room()));
        let mut rest = data;
        while !rest.is_empty() {
            let mut taken = self.append(rest);
            if taken == 0 {
                // Twice as much each time, so small writes end in few pieces.
                let before = self.newest.as_ref().map_or(0, Piece::held) as usize;
                self.push_chunk(rest.len().max(2 * before));
                taken = self.append(rest);
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
        data.len()
    }

    /// As [`write`](Self::write) of at most `most` bytes that `fill` appends to the memory it is given, as many as it was
    /// asked for or fewer. Ends when it appends none.
    pub fn write_with(
        &mut self,
        most: usize,
        fill: &mut dyn FnMut(&mut Vec<u8>, usize) -> usize,
    ) -> usize {
        let most = most.min(self.room());
        let mut total = 0;
        while total < most {
            let before = self.newest.as_ref().map_or(0, Piece::held) as usize;
            let used_up = match &self.newest {
                Some(Piece {
                    data: Data::Copied(bytes),
                    ..
                }) => bytes.len() == bytes.capacity(),
                _ => true,
            };
            if used_up {
                self.push_chunk((most - total).max(2 * before));
            }
            let Some(Piece {
                data: Data::Copied(bytes),
                ..
            }) = &mut self.newest
            else {
                break;
            };
            let (start, capacity) = (bytes.len(), bytes.capacity());
            let wanted = (most - total).min(capacity - start);
            fill(bytes, wanted);
            // Whatever it did, what was there stays, and no more is there than was asked for.
            bytes.truncate(start + wanted);
            let count = bytes.len().saturating_sub(start);
            self.held = self.held - capacity as u32 + bytes.capacity() as u32;
            self.len += count as u32;
            total += count;
            if count == 0 {
                break;
            }
        }
        if self.len == 0 {
            self.consume(0);
        }
        total
    }

    /// As [`write`](Self::write) without copying. Small pieces are copied all the same.
    pub fn write_static(&mut self, data: &'static [u8]) -> usize {
        let count = data.len().min(self.room());
        if count < self.smallest_borrowed() {
            return self.write(data);
        }
        self.push(Data::Static(data), 0, count);
        count
    }

    /// As [`write`](Self::write) without copying: `data` from `start` on.
    pub fn write_shared(&mut self, data: &Arc<[u8]>, start: usize) -> usize {
        let bytes = data.get(start..).unwrap_or_default();
        let count = bytes.len().min(self.room());
        if count < self.smallest_borrowed() || start > MAX_LIMIT {
            return self.write(bytes);
        }
        self.push(Data::Shared(Arc::clone(data)), start as u32, count);
        count
    }

    /// Bytes in the buffer.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// True if there is no byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that may be written.
    #[inline]
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.len) as usize
    }

    /// Changes the limit. What is held is kept.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(MAX_LIMIT) as u32;
    }

    /// The limit.
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Memory held by copies now.
    pub fn held(&self) -> usize {
        self.held as usize
    }

    /// The `len` bytes from `offset` on, in pieces. Nothing is yielded beyond the end.
    pub fn pieces(&self, offset: usize, len: usize) -> Pieces<'_> {
        let behind = self.len().saturating_sub(offset);
        let position = self.start.wrapping_add(offset.min(self.len()) as u32);
        let index = match self.older.as_deref() {
            None => 0,
            Some(older) => {
                let behind =
                    |piece: &Piece| piece.position.wrapping_sub(position).cast_signed() > 0;
                match self.newest.as_ref() {
                    Some(newest) if !behind(newest) => older.len(),
                    _ => older
                        .partition_point(|piece| !behind(piece))
                        .saturating_sub(1),
                }
            }
        };
        Pieces {
            buffer: self,
            index,
            position,
            remaining: len.min(behind) as u32,
        }
    }

    /// Memory for what is written next, from somebody who has no use for it: of [`SMALLEST_CHUNK`] bytes. Only while the buffer
    /// is empty.
    pub fn lend(&mut self, mut chunk: Vec<u8>) {
        if self.newest.is_none() {
            chunk.clear();
            self.push(Data::Copied(chunk), 0, 0);
        }
    }

    /// As [`consume`](Self::consume), and gives the memory if it is of the smallest size and nothing is left in it.
    pub fn consume_all(&mut self, count: usize) -> Option<Vec<u8>> {
        if count < self.len() || self.older.is_some() {
            self.consume(count);
            return None;
        }
        let newest = self.newest.take();
        self.consume(count);
        match newest?.data {
            Data::Copied(chunk) if chunk.capacity() == SMALLEST_CHUNK => Some(chunk),
            _ => None,
        }
    }

    /// The peer has acknowledged the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.len()) as u32;
        self.start = self.start.wrapping_add(count);
        self.len -= count;
        if self.len == 0 {
            self.older = None;
            self.newest = None;
            self.held = 0;
            return;
        }
        let start = self.start;
        let Some(older) = self.older.as_deref_mut() else {
            return;
        };
        loop {
            let end = match (older.get(1), &self.newest) {
                (Some(next), _) | (None, Some(next)) => next.position,
                (None, None) => return,
            };
            if end.wrapping_sub(start).cast_signed() > 0 {
                return;
            }
            if let Some(piece) = older.pop_front() {
                self.held -= piece.held();
            }
            if older.is_empty() {
                self.older = None;
                return;
            }
        }
    }

    /// Copies what fits into the memory of the newest piece.
    fn append(&mut self, data: &[u8]) -> usize {
        let Some(Piece {
            data: Data::Copied(bytes),
            ..
        }) = &mut self.newest
        else {
            return 0;
        };
        let count = data.len().min(bytes.capacity() - bytes.len());
        bytes.extend_from_slice(data.get(..count).unwrap_or_default());
        self.len += count as u32;
        count
    }

    /// Adds memory for copies of about `wanted` bytes.
    fn push_chunk(&mut self, wanted: usize) {
        let smallest = if self.has_many_pieces() {
            SMALLEST_CHUNK_LATER
        } else {
            SMALLEST_CHUNK
        };
        let capacity = chunk_size(wanted.clamp(smallest, LARGEST_CHUNK));
        self.push(Data::Copied(Vec::with_capacity(capacity)), 0, 0);
    }

    fn push(&mut self, data: Data, skip: u32, count: usize) {
        let piece = Piece {
            position: self.start.wrapping_add(self.len),
            skip,
            data,
        };
        self.len += count as u32;
        self.held += piece.held();
        if let Some(last) = self.newest.replace(piece) {
            self.older.get_or_insert_default().push_back(last);
        }
    }

    fn smallest_borrowed(&self) -> usize {
        if self.has_many_pieces() {
            SMALLEST_BORROWED_LATER
        } else {
            SMALLEST_BORROWED
        }
    }

    fn has_many_pieces(&self) -> bool {
        let older = self.older.as_ref().map_or(0, |older| older.len());
        older + 2 > FREE_PIECES
    }

    fn piece(&self, index: usize) -> Option<&Piece> {
        let older = self.older.as_deref();
        let count = older.map_or(0, VecDeque::len);
        match index.checked_sub(count) {
            None => older?.get(index),
            Some(0) => self.newest.as_ref(),
            Some(_) => None,
        }
    }
}

/// See [`SendBuffer::pieces`].
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    buffer: &'a SendBuffer,
    index: usize,
    position: u32,
    remaining: u32,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.remaining == 0 {
            return None;
        }
        let piece = self.buffer.piece(self.index)?;
        self.index += 1;
        let end = match self.buffer.piece(self.index) {
            Some(next) => next.position,
            None => self.buffer.start.wrapping_add(self.buffer.len),
        };
        let count = end.wrapping_sub(self.position).min(self.remaining);
        let from = piece.skip as usize + self.position.wrapping_sub(piece.position) as usize;
        self.position = self.position.wrapping_add(count);
        self.remaining -= count;
        piece.bytes().get(from..from + count as usize)
    }
}

#[cfg(test)]
mod tests;
