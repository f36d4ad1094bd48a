//! Data that the program has written and the peer has not acknowledged.
//!
//! A list of pieces: copies of what was written, and borrowed pieces that live for ever or are shared, which are never
//! copied on their way to the link.

use alloc::rc::Rc;

/// The buffer. Holds no memory while it is empty.
#[derive(Debug, Default)]
pub struct SendBuffer {}

impl SendBuffer {
    /// An empty buffer of at most `limit` bytes.
    pub fn new(_limit: usize) -> Self {
        todo!()
    }

    /// Copies as much of `data` as there is room for. Returns how much.
    pub fn write(&mut self, _data: &[u8]) -> usize {
        todo!()
    }

    /// As [`write`](Self::write) without copying. Small pieces are copied all the same.
    pub fn write_static(&mut self, _data: &'static [u8]) -> usize {
        todo!()
    }

    /// As [`write`](Self::write) without copying: `data` from `start` on.
    pub fn write_shared(&mut self, _data: &Rc<[u8]>, _start: usize) -> usize {
        todo!()
    }

    /// Bytes in the buffer.
    pub fn len(&self) -> usize {
        todo!()
    }

    /// True if there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that may be written.
    pub fn room(&self) -> usize {
        todo!()
    }

    /// Changes the limit. What is held is kept.
    pub fn set_limit(&mut self, _limit: usize) {
        todo!()
    }

    /// The limit.
    pub fn limit(&self) -> usize {
        todo!()
    }

    /// Memory held by copies now.
    pub fn held(&self) -> usize {
        todo!()
    }

    /// The `len` bytes from `offset` on, in pieces. Nothing is yielded beyond the end.
    pub fn pieces(&self, _offset: usize, _len: usize) -> Pieces<'_> {
        todo!()
    }

    /// The peer has acknowledged the first `count` bytes.
    pub fn consume(&mut self, _count: usize) {
        todo!()
    }
}

/// See [`SendBuffer::pieces`].
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    _buffer: &'a SendBuffer,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        todo!()
    }
}
