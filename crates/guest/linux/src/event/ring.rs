//! A ring of bytes that grows as it is filled, up to a limit.

use alloc::boxed::Box;
use alloc::vec;

use crate::io::{Sink, Source};
use crate::{Errno, Result, shortage};

/// What a ring has at first, unless its limit is smaller.
const FIRST: usize = 4096;

/// Bytes, first in first out.
#[derive(Debug)]
pub struct Ring {
    bytes: Box<[u8]>,
    start: usize,
    len: usize,
    limit: usize,
}

impl Ring {
    /// An empty ring for at most `limit` bytes. It takes memory when it is written to.
    pub fn new(limit: usize) -> Self {
        Self {
            bytes: Box::default(),
            start: 0,
            len: 0,
            limit,
        }
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that can be added.
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.len)
    }

    /// The most bytes it will hold.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Changes that. False if more bytes are in it already.
    pub fn set_limit(&mut self, limit: usize) -> bool {
        if limit < self.len {
            return false;
        }
        self.limit = limit;
        if self.bytes.len() > limit && self.has_room_to_move(limit).is_ok() {
            self.reserve_exactly(limit);
        }
        true
    }

    fn reserve_exactly(&mut self, size: usize) {
        let mut bytes = vec![0; size].into_boxed_slice();
        let (first, second) = self.parts(0, self.len);
        bytes[..first.len()].copy_from_slice(first);
        bytes[first.len()..first.len() + second.len()].copy_from_slice(second);
        self.bytes = bytes;
        self.start = 0;
    }

    fn has_room_to_move(&self, size: usize) -> Result {
        shortage::content(size as u64, Errno::ENOMEM)
    }

    fn reserve(&mut self, more: usize) -> Result {
        let needed = (self.len + more).min(self.limit);
        if needed > self.bytes.len() {
            let size = needed.max(self.bytes.len() * 2).max(FIRST).min(self.limit);
            self.has_room_to_move(size)?;
            self.reserve_exactly(size);
        }
        Ok(())
    }

    /// The bytes from `offset` on, at most `len`, in two pieces.
    fn parts(&self, offset: usize, len: usize) -> (&[u8], &[u8]) {
        let size = self.bytes.len();
        let offset = offset.min(self.len);
        let len = len.min(self.len - offset);
        if len == 0 {
            return (&[], &[]);
        }
        let from = (self.start + offset) % size;
        let first = len.min(size - from);
        (&self.bytes[from..from + first], &self.bytes[..len - first])
    }

    /// Adds at most `most` bytes of `from`, and returns how many.
    ///
    /// # Errors
    /// Those of [`Source::take`]; `ENOMEM` if nothing fits into the memory that it has and it can have no more.
    pub fn fill(&mut self, from: &mut Source, most: usize) -> Result<usize> {
        let mut wanted = most.min(from.remaining()).min(self.room());
        if let Err(error) = self.reserve(wanted) {
            wanted = wanted.min(self.bytes.len() - self.len);
            if wanted == 0 {
                return Err(error);
            }
        }
        let mut added = 0;
        while added < wanted {
            let size = self.bytes.len();
            let at = (self.start + self.len) % size;
            let piece = (wanted - added).min(size - at);
            match from.take(&mut self.bytes[at..at + piece]) {
                Ok(0) => break,
                Ok(taken) => {
                    self.len += taken;
                    added += taken;
                }
                Err(error) if added == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(added)
    }

    /// Takes at most `most` bytes out to `to`, and returns how many.
    ///
    /// # Errors
    /// Those of [`Sink::put`].
    pub fn drain(&mut self, to: &mut Sink, most: usize) -> Result<usize> {
        let (first, second) = self.parts(0, most);
        let mut done = to.put(first)?;
        if done == first.len() && !second.is_empty() {
            done += to.put(second).unwrap_or(0);
        }
        self.skip(done);
        Ok(done)
    }

    /// Copies bytes from `offset` on without taking them out.
    pub fn copy(&self, offset: usize, to: &mut [u8]) -> usize {
        let (first, second) = self.parts(offset, to.len());
        to[..first.len()].copy_from_slice(first);
        to[first.len()..first.len() + second.len()].copy_from_slice(second);
        first.len() + second.len()
    }

    /// Forgets the first `count` bytes.
    pub fn skip(&mut self, count: usize) {
        let count = count.min(self.len);
        self.len -= count;
        self.start = match self.bytes.len() {
            0 => 0,
            // An empty ring starts at its beginning, so that short messages stay in one piece and in the cache.
            _ if self.len == 0 => 0,
            size => (self.start + count) % size,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(ring: &mut Ring, bytes: &[u8]) -> usize {
        ring.fill(&mut Source::kernel(bytes), usize::MAX)
            .expect("kernel memory")
    }

    fn get(ring: &mut Ring, len: usize) -> alloc::vec::Vec<u8> {
        let mut to = vec![0; len];
        let got = ring
            .drain(&mut Sink::kernel(&mut to), usize::MAX)
            .expect("kernel memory");
        to.truncate(got);
        to
    }

    #[test]
    fn bytes_come_out_in_order_around_the_end() {
        let mut ring = Ring::new(10);
        assert_eq!(put(&mut ring, b"abcdefgh"), 8);
        assert_eq!(get(&mut ring, 6), b"abcdef");
        assert_eq!(put(&mut ring, b"0123456789"), 8);
        assert_eq!(ring.room(), 0);
        let mut copy = [0; 4];
        assert_eq!(ring.copy(1, &mut copy), 4);
        assert_eq!(&copy, b"h012");
        assert_eq!(get(&mut ring, 100), b"gh01234567");
        assert!(ring.is_empty());
    }

    #[test]
    fn it_grows_only_as_far_as_it_is_filled() {
        let mut ring = Ring::new(1 << 20);
        put(&mut ring, &[1; 10]);
        assert_eq!(ring.bytes.len(), FIRST);
        put(&mut ring, &[2; 5000]);
        assert_eq!(ring.bytes.len(), 2 * FIRST);
        assert!(!ring.set_limit(100));
        assert!(ring.set_limit(5010));
        assert_eq!(ring.room(), 0);
        let all = get(&mut ring, 10_000);
        assert_eq!(all.len(), 5010);
        assert_eq!((all[9], all[10]), (1, 2));
    }
}
