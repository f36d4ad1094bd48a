//! The bytes a host has sent: a retransmission must repeat them.

use crate::ranges::Place;

/// How much is kept below what the peer has acknowledged.
const KEPT: u64 = 1 << 20;

/// The bytes of one direction.
#[derive(Default)]
pub struct Stream {
    /// The place of the first byte kept.
    base: Place,
    bytes: Vec<u8>,
}

impl Stream {
    /// Adds what is new of `payload`, and says where it first differs from what was sent before.
    ///
    /// What lies beyond a hole is not kept: another rule tells of the hole.
    pub fn add(&mut self, start: Place, payload: &[u8]) -> Option<Place> {
        if self.bytes.is_empty() {
            self.base = start;
        }
        let known = self.base + self.bytes.len() as u64;
        if start > known {
            self.bytes.clear();
            self.base = start;
            self.bytes.extend_from_slice(payload);
            return None;
        }
        let differs = (start..).zip(payload).find(|(at, byte)| {
            (self.base..known).contains(at) && self.bytes[(*at - self.base) as usize] != **byte
        });
        let new = (known - start).min(payload.len() as u64) as usize;
        self.bytes.extend_from_slice(&payload[new..]);
        differs.map(|(at, _)| at)
    }

    /// Forgets what will not be sent again.
    pub fn acknowledged(&mut self, una: Place) {
        let keep = una.saturating_sub(KEPT);
        if keep > self.base + KEPT {
            let gone = ((keep - self.base) as usize).min(self.bytes.len());
            self.bytes.drain(..gone);
            self.base += gone as u64;
        }
    }
}
