//! Segments on the link: what the TCP core reads and writes, with the IP header around it.

use std::net::{IpAddr, SocketAddr};

use kiln_abi::NetHeader;
use kiln_net::tcp::segment::MAX_HEADER;
use kiln_net::tcp::{Outgoing, Segment};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::IpProtocol;

use super::connection::Flow;
use crate::link::{ETHERNET, Outbound};
use crate::packet::{Packet, ip_header};

/// Hop limit of what we send, as recommended by RFC 1700.
const HOPS: u8 = 64;

/// The greatest IP packet that one frame may carry.
const GREATEST: u16 = u16::MAX;

/// Segments with so many bytes of data count as more than one. Two of the greatest may never come together: a guest that
/// sends as much as its buffer holds waits for the first one's acknowledgement, which must not wait for a second one.
const BULK: usize = 4096;

/// Reads a TCP packet of the guest. `None` if it is malformed.
pub(super) fn parse<'a>(packet: &Packet<'a>) -> Option<(Flow, Segment<'a>)> {
    let (from, to, mut segment) = Segment::parse(packet.payload)?;
    if from == 0 || to == 0 {
        return None;
    }
    if segment.payload.len() >= BULK {
        segment.joined = 2;
    }
    let flow = Flow {
        guest: SocketAddr::new(packet.source, from),
        peer: SocketAddr::new(packet.target, to),
    };
    Some((flow, segment))
}

/// A copy of a packet that is to be kept, without its data: at most 120 bytes. Data that come with a SYN may be left
/// unacknowledged, and come again (RFC 9293 section 3.4).
pub(super) fn headers(packet: &Packet<'_>, segment: &Segment<'_>) -> Box<[u8]> {
    let length = packet.bytes.len().saturating_sub(segment.payload.len());
    let mut bytes: Box<[u8]> = packet.bytes[..length].into();
    let (at, counted) = match packet.source {
        IpAddr::V4(_) => (2, length),
        IpAddr::V6(_) => (4, length - 40),
    };
    bytes[at..at + 2].copy_from_slice(&(counted as u16).to_be_bytes());
    bytes
}

/// Bytes of data in the largest segment that fits into a packet of `mtu` bytes.
pub(super) fn largest(flow: Flow, mtu: u16) -> u16 {
    mtu - if flow.guest.is_ipv4() { 40 } else { 60 }
}

/// Bytes of data that one frame may carry when it stands for many segments; 0 if it must not.
pub(super) fn longest(flow: Flow, out: &Outbound) -> u32 {
    let headers = MAX_HEADER + if flow.guest.is_ipv4() { 20 } else { 40 };
    if out.joins_segments() {
        u32::from(GREATEST) - headers as u32
    } else {
        0
    }
}

/// Sends one segment, or several as one frame, to the guest. `data` are `outgoing.len` bytes.
///
/// It is queued if the link is full; the caller has looked at [`Outbound::blocked`] before.
pub(super) fn send<'a>(
    out: &mut Outbound,
    flow: Flow,
    outgoing: &Outgoing,
    data: impl Iterator<Item = &'a [u8]> + Clone,
) {
    let header_len = outgoing.header_len();
    let length = header_len + outgoing.len as usize;
    let (from, to) = (flow.peer, flow.guest);
    // Both ends of a flow are of one family.
    let Some(ip) = ip_header(from.ip(), to.ip(), IpProtocol::Tcp, length, HOPS) else {
        return;
    };
    let start = ip.header_len();
    let head = start + header_len;
    let cutting = if outgoing.segments() == 1 {
        NetHeader::PLAIN
    } else {
        NetHeader {
            gso_type: if from.is_ipv4() {
                NetHeader::GSO_TCPV4
            } else {
                NetHeader::GSO_TCPV6
            },
            hdr_len: (ETHERNET + head) as u16,
            gso_size: outgoing.segment_size,
            ..NetHeader::PLAIN
        }
    };
    out.gathered((head, outgoing.len as usize), cutting, data, |packet| {
        ip.emit(&mut *packet, &ChecksumCapabilities::default());
        outgoing.emit(from.port(), to.port(), &mut packet[start..]);
    });
}
