//! What connections have to say, into frames.
//!
//! The connections that are ready take turns, a frame each. A frame of data is headers here and a name for the data (see
//! `queue`); with segmentation offload it stands for up to 64 KiB of them.

use alloc::collections::VecDeque;

use core::net::IpAddr;

use kiln_abi::NetHeader;

use crate::ingress::HOP_LIMIT;
use crate::ip::{self, Context, Outbound, Resolved};
use crate::link::{MAX_PIECES, Port};
use crate::queue::Borrowed;
use crate::stack::{Core, LOOPBACK};
use crate::table::Key;
use crate::tcp::{Flags, Outgoing, Tcb};

/// Data up to this length are copied behind the headers: looking them up later would cost more.
const COPIED: u32 = 1024;
/// Where the checksum stands in a TCP header.
const TCP_CHECKSUM: usize = 16;

/// What became of a connection's turn.
enum Turn {
    /// A frame left; there may be more.
    More,
    /// It has nothing to say.
    Done,
    /// The link's queue is full.
    Blocked,
    /// The neighbour's address is being looked for.
    Unresolved,
}

impl Core {
    /// Lets all connections that are ready say what they have to say.
    pub(crate) fn send_ready(&mut self) {
        let mut blocked = VecDeque::new();
        while let Some(key) = self.connections.ready.pop_front() {
            match self.take_turn(key) {
                Turn::More => self.connections.ready.push_back(key),
                Turn::Blocked => {
                    self.settle(key);
                    blocked.push_back(key);
                }
                turn => {
                    let Some(connection) = self.connections.table.get_mut(key) else {
                        continue;
                    };
                    connection.is_ready = false;
                    if let Turn::Unresolved = turn {
                        let port = usize::from(connection.port);
                        self.ports[port].unresolved.push(key);
                    }
                    self.settle(key);
                }
            }
        }
        if !blocked.is_empty() {
            self.connections.ready = blocked;
        }
        if self.is_short() {
            self.relieve();
        }
    }

    fn take_turn(&mut self, key: Key) -> Turn {
        let now = self.now;
        let Some(connection) = self.connections.table.get_mut(key) else {
            return Turn::Done;
        };
        if !connection.tcb.may_have_output() {
            return Turn::Done;
        }
        let index = usize::from(connection.port);
        let port = &mut self.ports[index];
        if !port.queue.has_room() {
            port.blocked = true;
            return Turn::Blocked;
        }
        let mut context = Context {
            queue: &mut port.queue,
            random: &mut self.random,
            stats: &mut port.stats,
            hostname: &self.config.hostname,
        };
        let neighbor = match port
            .interface
            .resolve(connection.next_hop, now, &mut context)
        {
            Resolved::Known(address) => Some(address),
            Resolved::Wait => return Turn::Unresolved,
            Resolved::Failed => None,
        };
        let pair = connection.pair;
        let longest = port.longest(pair.remote.ip());
        let before = connection.tcb.counters();
        let Some(outgoing) = connection.tcb.transmit(longest, now) else {
            return Turn::Done;
        };
        let after = connection.tcb.counters();
        self.stats.add_tcp(&before, &after);
        let Some(neighbor) = neighbor else {
            // As if it had been lost on the way: the protocol tries again, and gives up in the end.
            let changed = connection
                .tcb
                .icmp_error(crate::Error::Unreachable, outgoing.seq, now);
            self.apply(key, changed);
            return Turn::More;
        };
        self.stats.segments_out += u64::from(outgoing.segments());
        self.stats.resets_sent += u64::from(outgoing.flags.has(Flags::RST));
        let outbound = Outbound {
            source: pair.local.ip(),
            destination: pair.remote.ip(),
            protocol: ip::TCP,
            hop_limit: HOP_LIMIT,
            ecn: outgoing.ecn,
        };
        let ends = (pair.local.port(), pair.remote.port());
        port.push_segment(key, &connection.tcb, &outbound, neighbor, ends, &outgoing);
        self.pending |= index == LOOPBACK;
        if connection.tcb.may_have_output() {
            Turn::More
        } else {
            Turn::Done
        }
    }
}

impl Port {
    /// Data that one frame may carry, 0 if the link does not cut frames.
    fn longest(&self, remote: IpAddr) -> u32 {
        let (cuts, headers) = match remote {
            IpAddr::V4(_) => (self.offloads.tso4, 20 + 60),
            IpAddr::V6(_) => (self.offloads.tso6, 40 + 60),
        };
        if cuts {
            u32::from(u16::MAX) - headers
        } else {
            0
        }
    }

    fn push_segment(
        &mut self,
        key: Key,
        tcb: &Tcb,
        outbound: &Outbound,
        neighbor: [u8; 6],
        (source, destination): (u16, u16),
        outgoing: &Outgoing,
    ) {
        let v6 = outbound.source.is_ipv6();
        let start = ip::headers_len(v6);
        let header_len = outgoing.header_len();
        let headers = start + header_len;
        let tcp_len = header_len + outgoing.len as usize;
        let mut copied = outgoing.len <= COPIED;
        if !copied {
            let pieces = tcb.payload(outgoing).map_or(0, Iterator::count);
            copied = pieces >= MAX_PIECES;
        }
        let tail = (!copied).then(|| Borrowed {
            connection: key.bits(),
            outgoing: *outgoing,
        });
        let len = headers + if copied { outgoing.len as usize } else { 0 };
        let macs = (self.interface.mac(), neighbor);
        let id = self.packet_id;
        self.packet_id = id.wrapping_add(outgoing.segments() as u16);
        let offloads = self.offloads;
        let put_sum = |bytes: &mut [u8], sum: u16| {
            let at = start + TCP_CHECKSUM;
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        };
        self.queue.append(len, tail, |bytes| {
            ip::write_headers(bytes, outbound, macs, tcp_len, id);
            let (tcp, data) = bytes[start..].split_at_mut(header_len);
            outgoing.emit(source, destination, tcp);
            if copied {
                let mut at = 0;
                for piece in tcb.payload(outgoing).into_iter().flatten() {
                    data[at..at + piece.len()].copy_from_slice(piece);
                    at += piece.len();
                }
            }
            if !offloads.checksum {
                let sum = if copied {
                    // All of it lies together.
                    ip::checksum_of(outbound, &bytes[start..], core::iter::empty())
                } else {
                    let pieces = tcb.payload(outgoing).into_iter().flatten();
                    ip::checksum_of(outbound, &bytes[start..], pieces)
                };
                put_sum(bytes, sum);
                return NetHeader::PLAIN;
            }
            let sum = ip::pseudo_sum(outbound.source, outbound.destination, ip::TCP, tcp_len);
            put_sum(bytes, sum);
            let header = NetHeader {
                flags: NetHeader::NEEDS_CSUM,
                csum_start: start as u16,
                csum_offset: TCP_CHECKSUM as u16,
                ..NetHeader::PLAIN
            };
            if outgoing.segments() == 1 {
                return header;
            }
            NetHeader {
                gso_type: if v6 {
                    NetHeader::GSO_TCPV6
                } else {
                    NetHeader::GSO_TCPV4
                },
                hdr_len: headers as u16,
                gso_size: outgoing.segment_size,
                ..header
            }
        });
    }
}
