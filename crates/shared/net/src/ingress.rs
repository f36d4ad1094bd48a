//! What happens to a received frame: from the link to the connection or socket that it is for.
//!
//! The interface below has looked at link and internet headers. Here the transport's checksum is verified (unless the host
//! has done it), the connection found, and the segment given to it. Answers leave with the next poll, so that a batch of
//! segments is answered once.

use alloc::borrow::Cow;

use core::net::SocketAddr;

use kiln_abi::NetHeader;

use crate::connections::Phase;
use crate::ip::{self, Header, Input, Outbound, Trouble, TroubleKind};
use crate::stack::{Core, LOOPBACK};
use crate::table::{Key, Pair};
use crate::tcp::time_wait::Verdict;
use crate::tcp::{Changed, Flags, Outgoing, Segment, reset_for};

/// The hop limit of what is sent, RFC 1700.
pub(crate) const HOP_LIMIT: u8 = 64;
/// Data that a connection may hold unread even when memory is short.
const SPARE_READABLE: usize = 4096;

impl Core {
    /// Takes in a frame.
    pub(crate) fn receive(&mut self, port: usize, header: NetHeader, frame: &[u8]) {
        let now = self.now;
        let (interface, mut context) = self.port(port);
        let trusted = header.checksum_trusted();
        match interface.receive(frame, trusted, now, &mut context) {
            Input::Done | Input::Echo => {}
            Input::Packet(packet, payload) if matches!(packet.protocol, ip::ICMP | ip::ICMPV6) => {
                self.receive_echo(port, &packet, &payload);
            }
            Input::Packet(packet, payload) => {
                // The host vouches for what it has seen, which is not what was put together here.
                let trusted = trusted && matches!(payload, Cow::Borrowed(_));
                if !trusted && !ip::checksum_is_right(&packet, &payload) {
                    self.ports[port].stats.dropped_checksum += 1;
                    return;
                }
                match packet.protocol {
                    ip::TCP => self.receive_segment(port, &packet, &payload, header.gso_size),
                    _ => self.receive_datagram(port, &packet, &payload),
                }
            }
            Input::Trouble(trouble) => self.trouble(port, &trouble),
        }
    }

    fn receive_segment(&mut self, port: usize, header: &Header, bytes: &[u8], gso_size: u16) {
        let Some((source, destination, mut segment)) = Segment::parse(bytes) else {
            self.ports[port].stats.dropped_malformed += 1;
            return;
        };
        segment.ecn = header.ecn;
        if gso_size > 0 {
            let joined = segment.payload.len().div_ceil(usize::from(gso_size));
            segment.joined = joined.clamp(1, usize::from(u16::MAX)) as u16;
        }
        self.stats.segments_in += u64::from(segment.joined.max(1));
        self.stats.resets_received += u64::from(segment.flags.has(Flags::RST));
        let pair = Pair {
            local: SocketAddr::new(header.destination, destination),
            remote: SocketAddr::new(header.source, source),
        };
        if let Some(key) = self.connections.table.find(&pair) {
            // Whoever knows a connection's ends cannot use it from another link.
            let known = self.connections.get(key);
            if known.is_some_and(|connection| usize::from(connection.port) == port) {
                self.segment_for(key, &segment);
            } else {
                self.ports[port].stats.dropped_martian += 1;
            }
            return;
        }
        let iss = match self.ended.receive(&pair, &segment, self.now) {
            None => None,
            Some(Verdict::Ignore) => return,
            Some(Verdict::Answer(answer)) => return self.send_segment(port, &pair, &answer),
            Some(Verdict::Reopen(after)) => Some(self.iss(&pair).max(after)),
        };
        if !self.admit(port, &pair, &segment, iss)
            && let Some(reset) = reset_for(&segment)
        {
            self.send_segment(port, &pair, &reset);
        }
    }

    /// Gives a segment to its connection.
    pub(crate) fn segment_for(&mut self, key: Key, segment: &Segment<'_>) {
        let now = self.now;
        let short = !segment.payload.is_empty() && self.is_full();
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let stripped;
        let mut segment = segment;
        if short && connection.tcb.readable() > SPARE_READABLE {
            self.stats.dropped_memory += 1;
            stripped = segment.without_text();
            segment = &stripped;
        }
        if let Phase::HalfOpen { port, listener } = connection.phase
            && !segment.flags.has(Flags::RST)
            && self
                .listeners
                .get(port, listener)
                .is_some_and(|known| known.is_full())
        {
            // The peer is told again, until there is room or its time is over.
            self.stats.backlog_overflows += 1;
            return;
        }
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let before = connection.tcb.counters();
        let changed = connection.tcb.receive(segment, now);
        let after = connection.tcb.counters();
        self.stats.add_tcp(&before, &after);
        if changed.any(Changed::WRITABLE)
            && let Some(port) = self.ports.get_mut(usize::from(connection.port))
        {
            // New data were acknowledged: the neighbour hears us (RFC 4861 section 7.3.1).
            port.interface.confirm(connection.next_hop, now);
        }
        self.apply(key, changed);
    }

    /// Sends a segment of which nothing is kept: a reset, an answer for an ended connection, a cookie.
    pub(crate) fn send_segment(&mut self, port: usize, pair: &Pair, outgoing: &Outgoing) {
        let Some(next_hop) = self.way_back(port, pair.remote.ip()) else {
            return;
        };
        let outbound = Outbound {
            source: pair.local.ip(),
            destination: pair.remote.ip(),
            protocol: ip::TCP,
            hop_limit: HOP_LIMIT,
            ecn: outgoing.ecn,
        };
        let now = self.now;
        let (interface, mut context) = self.port(port);
        let length = outgoing.header_len();
        let fill = |bytes: &mut [u8]| {
            outgoing.emit(pair.local.port(), pair.remote.port(), bytes);
            let sum = ip::checksum_of(&outbound, bytes, core::iter::empty());
            bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        };
        // If it does not fit the peer will ask again.
        let sent = interface.send(outbound, next_hop, length, fill, now, &mut context);
        context.stats.dropped_queue_full += u64::from(sent == Err(crate::Error::Exhausted));
        if sent.is_ok() {
            self.stats.segments_out += 1;
            self.stats.resets_sent += u64::from(outgoing.flags.has(Flags::RST));
        }
        self.pending |= port == LOOPBACK;
    }

    /// An ICMP error about something that was sent from here.
    fn trouble(&mut self, port: usize, trouble: &Trouble) {
        if trouble.protocol != ip::TCP {
            self.datagram_trouble(port, trouble);
            return;
        }
        let pair = Pair {
            local: trouble.local,
            remote: trouble.remote,
        };
        // Without a sequence number in flight nobody is believed (RFC 5927).
        let (Some(key), Some(seq)) = (self.connections.table.find(&pair), trouble.seq) else {
            return;
        };
        let now = self.now;
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let ip_header = if pair.remote.is_ipv4() { 20 } else { 40 };
        if !connection.tcb.is_on_its_way(seq) {
            return;
        }
        let changed = match trouble.kind {
            TroubleKind::Hard(error) | TroubleKind::Soft(error) => {
                connection.tcb.icmp_error(error, seq, now)
            }
            TroubleKind::TooBig { mtu, length } => {
                let interface = &mut self.ports[port].interface;
                let Some(mtu) = interface.too_big(pair.remote.ip(), mtu, length, now) else {
                    return;
                };
                let room = mtu.saturating_sub(ip_header);
                connection.tcb.packet_too_big(room, seq, now)
            }
        };
        self.apply(key, changed);
    }

    /// Addresses or routes have changed: aborts the connections whose local address is gone, and finds the way of the
    /// others again.
    pub(crate) fn reroute(&mut self) {
        let keys: alloc::vec::Vec<Key> =
            self.connections.table.iter().map(|(key, _)| key).collect();
        for key in keys {
            let Some(connection) = self.connections.table.get(key) else {
                continue;
            };
            let (port, pair) = (usize::from(connection.port), connection.pair);
            if port == LOOPBACK {
                continue;
            }
            let is_there = self.ports[port].interface.has(pair.local.ip());
            let way = self.ports[port].interface.way(pair.remote.ip());
            let Some(connection) = self.connections.table.get_mut(key) else {
                continue;
            };
            match way {
                _ if !is_there => {
                    let nobody = !matches!(connection.phase, Phase::Open | Phase::Queued { .. });
                    connection.tcb.abort(crate::Error::ConnectionAborted);
                    self.apply(key, Changed::CLOSED);
                    if nobody {
                        self.remove(key);
                    }
                }
                Some(way) => connection.next_hop = way.next_hop,
                // What cannot be sent is as good as lost; the route may come back.
                None => {}
            }
        }
    }
}
