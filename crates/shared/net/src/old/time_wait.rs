//! Ended connections that must be remembered for a while (RFC 9293 section 3.6.1, TIME-WAIT).
//!
//! Once both sides have closed, all that is left to do is to acknowledge the peer's FIN again should our
//! acknowledgement get lost, and to keep old segments away from a new connection with the same addresses and ports.
//! That needs the addresses and nothing else: the answer follows from the repeated FIN itself. So a connection's
//! buffers are freed here and an entry of 64 bytes remains, in a table of bounded size that forgets the oldest first.

use alloc::collections::VecDeque;
use core::net::SocketAddr;

use kiln_abi::Instant;

use crate::frame::Segment;

/// The most connections remembered.
const MAX: usize = 512;

struct Ended {
    local: SocketAddr,
    remote: SocketAddr,
    until: Instant,
}

/// What to do with a segment of an ended connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The segment is not of an ended connection.
    NotMine,
    /// Drop it.
    Nothing,
    /// Acknowledge it, with these numbers.
    Acknowledge { sequence: u32, acknowledgement: u32 },
}

/// The table.
#[derive(Default)]
pub(crate) struct TimeWait(VecDeque<Ended>);

impl TimeWait {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Remembers a connection until `until`.
    pub(crate) fn insert(&mut self, local: SocketAddr, remote: SocketAddr, until: Instant) {
        if self.0.len() == MAX {
            self.0.pop_front();
        }
        self.0.push_back(Ended {
            local,
            remote,
            until,
        });
    }

    /// Forgets what is over. Entries are in the order of their ends.
    pub(crate) fn expire(&mut self, now: Instant) {
        while self.0.front().is_some_and(|ended| ended.until <= now) {
            self.0.pop_front();
        }
    }

    pub(crate) fn contains(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.find(local, remote).is_some()
    }

    fn find(&self, local: SocketAddr, remote: SocketAddr) -> Option<usize> {
        self.0
            .iter()
            .position(|ended| ended.local == local && ended.remote == remote)
    }

    /// What to do with a received segment. A new SYN ends the wait (RFC 9293 section 3.6.1; sequence numbers start
    /// anywhere, so the old connection's need not be compared).
    pub(crate) fn answer(&mut self, segment: &Segment) -> Answer {
        let Some(index) = self.find(segment.destination, segment.source) else {
            return Answer::NotMine;
        };
        if segment.opens() {
            self.0.remove(index);
            return Answer::NotMine;
        }
        // RFC 1337: a reset does not end the wait.
        if segment.has(Segment::FIN | Segment::ACK) && !segment.has(Segment::RST) {
            return Answer::Acknowledge {
                sequence: segment.acknowledgement,
                acknowledgement: segment.sequence.wrapping_add(segment.length),
            };
        }
        Answer::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: SocketAddr = SocketAddr::new(
        core::net::IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 1)),
        80,
    );
    const REMOTE: SocketAddr = SocketAddr::new(
        core::net::IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 2)),
        50_000,
    );

    fn segment(flags: u8) -> Segment {
        Segment {
            source: REMOTE,
            destination: LOCAL,
            flags,
            sequence: 100,
            acknowledgement: 200,
            length: 1,
        }
    }

    #[test]
    fn a_repeated_fin_is_acknowledged_and_everything_else_is_dropped() {
        let mut table = TimeWait::default();
        let fin = segment(Segment::FIN | Segment::ACK);
        assert_eq!(table.answer(&fin), Answer::NotMine);
        table.insert(LOCAL, REMOTE, Instant::from_nanos(5));
        let expected = Answer::Acknowledge {
            sequence: 200,
            acknowledgement: 101,
        };
        assert_eq!(table.answer(&fin), expected);
        assert_eq!(table.answer(&segment(Segment::ACK)), Answer::Nothing);
        assert_eq!(table.answer(&segment(Segment::RST)), Answer::Nothing);
        table.expire(Instant::from_nanos(5));
        assert_eq!(table.answer(&fin), Answer::NotMine);
    }

    #[test]
    fn a_new_connection_ends_the_wait() {
        let mut table = TimeWait::default();
        table.insert(LOCAL, REMOTE, Instant::FOREVER);
        assert_eq!(table.answer(&segment(Segment::SYN)), Answer::NotMine);
        assert!(!table.contains(LOCAL, REMOTE));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = TimeWait::default();
        for port in 0..2000 {
            table.insert(LOCAL, SocketAddr::new(REMOTE.ip(), port), Instant::FOREVER);
        }
        assert_eq!(table.len(), MAX);
    }
}
