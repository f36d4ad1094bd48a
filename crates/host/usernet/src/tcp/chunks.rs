//! Memory into which the host writes what its sockets have received.
//!
//! A full chunk becomes a part of a connection's send buffer as it is, without a copy, and comes back when the guest has
//! acknowledged it. What does not fill a chunk is copied, so that no connection holds more memory than it has data.

use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of a chunk.
pub(super) const CHUNK: usize = 64 << 10;

/// Chunks that are kept, in use or not.
const KEPT: usize = 32;

/// Chunks that are looked at for one that nobody uses any more, the oldest first.
const LOOKED_AT: usize = 4;

pub(super) struct Chunks {
    /// Nobody else uses it. Empty until one is wanted.
    current: Arc<[u8]>,
    /// The longest in use first.
    shared: VecDeque<Arc<[u8]>>,
}

impl Chunks {
    pub fn new() -> Self {
        Self {
            current: Arc::default(),
            shared: VecDeque::new(),
        }
    }

    /// Room for one chunk.
    pub fn room(&mut self) -> &mut [u8] {
        if Arc::get_mut(&mut self.current).is_none_or(|chunk| chunk.is_empty()) {
            self.current = make();
        }
        Arc::get_mut(&mut self.current).unwrap_or_default()
    }

    /// What [`room`](Self::room) was filled with, to be shared. The next call of `room` gives another chunk.
    pub fn full(&mut self) -> &Arc<[u8]> {
        let next = self.unused().unwrap_or_else(make);
        self.shared
            .push_back(std::mem::replace(&mut self.current, next));
        if self.shared.len() > KEPT {
            self.shared.pop_front();
        }
        self.shared.back().unwrap_or(&self.current)
    }

    fn unused(&mut self) -> Option<Arc<[u8]>> {
        let index = self
            .shared
            .iter()
            .take(LOOKED_AT)
            .position(|chunk| Arc::strong_count(chunk) == 1)?;
        self.shared.remove(index)
    }
}

fn make() -> Arc<[u8]> {
    std::iter::repeat_n(0, CHUNK).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_comes_back_when_nobody_uses_it() {
        let mut chunks = Chunks::new();
        chunks.room().fill(1);
        let first = Arc::clone(chunks.full());
        chunks.room().fill(2);
        let second = Arc::clone(chunks.full());
        assert!(first.iter().all(|&byte| byte == 1) && second[0] == 2);
        let address = first.as_ptr();
        drop(first);
        chunks.room();
        chunks.full();
        assert_eq!(chunks.room().as_ptr(), address);
        assert_eq!(second[0], 2);
    }

    #[test]
    fn few_are_kept() {
        let mut chunks = Chunks::new();
        let fill = |_| {
            chunks.room().fill(1);
            Arc::clone(chunks.full())
        };
        let all: Vec<_> = (0..3 * KEPT).map(fill).collect();
        assert_eq!(chunks.shared.len(), KEPT);
        assert_eq!(
            all.iter()
                .filter(|chunk| Arc::strong_count(chunk) == 1)
                .count(),
            2 * KEPT
        );
    }
}
