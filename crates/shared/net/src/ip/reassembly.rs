//! Putting fragments together (RFC 791, RFC 8200 section 4.5).
//!
//! What overlaps is dropped with everything else of its datagram, in IPv4 as RFC 5722 demands it for IPv6: only attackers
//! send it. The numbers of datagrams and of bytes are limited; the oldest datagram gives way.

use alloc::vec::Vec;
use core::time::Duration;

use kiln_abi::Instant;

use super::Header;
use super::packet::{Fragment, append, same};
use crate::tcp::Ecn;

/// Most datagrams at once, fragments of one, and bytes of all.
const MAX_DATAGRAMS: usize = 16;
const MAX_PIECES: usize = 128;
const MAX_BYTES: usize = 256 * 1024;
/// What a fragment costs besides its data.
const OVERHEAD: usize = 64;
/// RFC 1122 section 3.3.2 wants 60 s or more, and Linux has shown 30 s to be enough; RFC 8200 section 4.5.
const TIME4: Duration = Duration::from_secs(30);
const TIME6: Duration = Duration::from_mins(1);
/// Most bytes of the first fragment that are kept for an error.
const MAX_QUOTE: usize = 1232;

#[derive(Debug)]
struct Piece {
    start: usize,
    data: Vec<u8>,
}

/// A datagram of which fragments are missing.
#[derive(Debug)]
struct Datagram {
    /// Of the first fragment, as soon as it has arrived.
    header: Header,
    id: u32,
    until: Instant,
    /// The start of the first fragment's packet; empty until it has arrived.
    quote: Vec<u8>,
    /// By place.
    pieces: Vec<Piece>,
    /// Known once the last fragment has arrived.
    total: Option<usize>,
    received: usize,
    congested: bool,
    not_capable: bool,
    /// Something was wrong: nothing of it is kept, nor taken any more.
    broken: bool,
}

/// A datagram that was given up because its time was over, and its first fragment was there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expired {
    pub header: Header,
    pub quote: Vec<u8>,
}

/// What a fragment has led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Waiting,
    /// Everything is there: header of the first fragment, payload.
    Complete(Header, Vec<u8>),
    /// The datagram was given up.
    Broken,
}

/// Datagrams of which fragments are missing.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    /// The oldest first.
    list: Vec<Datagram>,
    bytes: usize,
}

impl Datagram {
    fn cost(&self) -> usize {
        self.received + self.pieces.len() * OVERHEAD + self.quote.len()
    }

    fn give_up(&mut self) {
        self.broken = true;
        self.pieces = Vec::new();
        self.quote = Vec::new();
        self.received = 0;
    }

    /// Takes in a piece. False if it contradicts others.
    fn add(&mut self, fragment: Fragment, data: &[u8]) -> bool {
        let start = fragment.offset;
        let end = start + data.len();
        if !fragment.more {
            if self.total.is_some_and(|total| total != end) {
                return false;
            }
            self.total = Some(end);
        }
        let beyond = |total: usize| {
            end > total
                || self
                    .pieces
                    .last()
                    .is_some_and(|last| last.start + last.data.len() > total)
        };
        if self.total.is_some_and(beyond) || self.pieces.len() >= MAX_PIECES {
            return false;
        }
        let at = self.pieces.partition_point(|piece| piece.start < start);
        if let Some(next) = self.pieces.get(at) {
            // The network may duplicate packets.
            if next.start == start && next.data == data {
                return true;
            }
            if next.start < end {
                return false;
            }
        }
        let before = at.checked_sub(1).and_then(|before| self.pieces.get(before));
        if before.is_some_and(|before| before.start + before.data.len() > start) {
            return false;
        }
        let piece = Piece {
            start,
            data: data.to_vec(),
        };
        self.pieces.insert(at, piece);
        self.received += data.len();
        true
    }

    /// The datagram, of which everything is there. It is broken if routers have marked only some of the fragments of a sender that
    /// knows nothing of congestion marks (RFC 3168 section 5.3).
    fn complete(&self) -> Outcome {
        if self.congested && self.not_capable {
            return Outcome::Broken;
        }
        let mut header = self.header;
        let mut bytes = Vec::with_capacity(self.received);
        for piece in &self.pieces {
            append(&mut bytes, &piece.data);
        }
        if self.congested {
            header.ecn = Ecn::Ce;
        }
        Outcome::Complete(header, bytes)
    }
}

impl Reassembly {
    /// Takes in a fragment with its data. `whole` is the packet that it came in.
    pub(super) fn add(
        &mut self,
        header: &Header,
        fragment: Fragment,
        data: &[u8],
        whole: &[u8],
        now: Instant,
    ) -> Outcome {
        let v6 = header.source.is_ipv6();
        // IPv4 numbers datagrams for each protocol.
        let its = |datagram: &Datagram| {
            datagram.id == fragment.id
                && (v6 || datagram.header.protocol == header.protocol)
                && same(&datagram.header.source, &header.source)
                && same(&datagram.header.destination, &header.destination)
        };
        let mut at = self.list.iter().position(its);
        // Room first: this datagram may be the one that gives way.
        while self.bytes + data.len() + OVERHEAD + MAX_QUOTE > MAX_BYTES
            || (at.is_none() && self.list.len() >= MAX_DATAGRAMS)
        {
            if self.list.is_empty() {
                return Outcome::Broken;
            }
            self.forget(0);
            at = match at {
                Some(0) => return Outcome::Broken,
                other => other.map(|at| at - 1),
            };
        }
        let at = at.unwrap_or_else(|| {
            self.list.push(Datagram {
                header: *header,
                id: fragment.id,
                until: now + if v6 { TIME6 } else { TIME4 },
                quote: Vec::new(),
                pieces: Vec::new(),
                total: None,
                received: 0,
                congested: false,
                not_capable: false,
                broken: false,
            });
            self.list.len() - 1
        });
        let Some(datagram) = self.list.get_mut(at) else {
            return Outcome::Broken;
        };
        if datagram.broken {
            return Outcome::Waiting;
        }
        self.bytes -= datagram.cost();
        if !datagram.add(fragment, data) {
            // It stays in the list: the fragments that are still on their way must not start it anew.
            datagram.give_up();
            return Outcome::Broken;
        }
        datagram.congested |= header.ecn == Ecn::Ce;
        datagram.not_capable |= header.ecn == Ecn::NotEct;
        if fragment.offset == 0 && datagram.quote.is_empty() {
            datagram.header = *header;
            append(&mut datagram.quote, whole.get(..MAX_QUOTE).unwrap_or(whole));
        }
        self.bytes += datagram.cost();
        if datagram.total != Some(datagram.received) {
            return Outcome::Waiting;
        }
        let outcome = datagram.complete();
        self.forget(at);
        outcome
    }

    /// The datagram at this place is done with. Returns it if it had its first fragment.
    #[inline(never)]
    fn forget(&mut self, at: usize) -> Option<Expired> {
        let Datagram { header, quote, .. } = {
            let datagram = self.list.remove(at);
            self.bytes -= datagram.cost();
            datagram
        };
        (!quote.is_empty()).then_some(Expired { header, quote })
    }

    /// When [`advance`](Self::advance) has something to do.
    pub(super) fn deadline(&self) -> Instant {
        let times = self.list.iter().map(|datagram| datagram.until);
        times.min().unwrap_or(Instant::FOREVER)
    }

    /// Gives up what is too old. How many were given up is counted in `failed`.
    pub(super) fn advance(&mut self, now: Instant, failed: &mut u64) -> Vec<Expired> {
        let mut expired = Vec::new();
        let mut at = 0;
        while let Some(datagram) = self.list.get(at) {
            if now < datagram.until {
                at += 1;
                continue;
            }
            *failed += u64::from(!datagram.broken);
            expired.extend(self.forget(at));
        }
        expired
    }
}

#[cfg(test)]
mod tests;
