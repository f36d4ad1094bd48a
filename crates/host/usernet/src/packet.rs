//! Reading the guest's IP packets and writing our own.
//!
//! Reading trusts nothing: every length is checked against the frame, fragments and extension headers are not served.
//! Writing goes through [`Outbound::ip`], which sees to the link header and the checksums.

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, IpRepr, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, UdpPacket,
};

use crate::link::{Outbound, protocol};

/// One IP packet of the guest, with all lengths checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub source: IpAddr,
    pub target: IpAddr,
    pub protocol: u8,
    pub hop_limit: u8,
    /// The whole packet without what may follow it in the frame.
    pub bytes: &'a [u8],
    /// What follows the IP header.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads an IPv4 or IPv6 packet; `None` if it is malformed, a fragment, or has extension headers.
    ///
    /// Neither header checksums nor transport checksums are looked at: the packet has never left this machine.
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        match frame.first()? >> 4 {
            4 => {
                let packet = Ipv4Packet::new_checked(frame).ok()?;
                let header = usize::from(packet.header_len());
                if header < 20 || packet.more_frags() || packet.frag_offset() != 0 {
                    return None;
                }
                let bytes = &frame[..usize::from(packet.total_len())];
                Some(Self {
                    source: packet.src_addr().into(),
                    target: packet.dst_addr().into(),
                    protocol: packet.next_header().into(),
                    hop_limit: packet.hop_limit(),
                    bytes,
                    payload: bytes.get(header..)?,
                })
            }
            6 => {
                let packet = Ipv6Packet::new_checked(frame).ok()?;
                let bytes = &frame[..packet.total_len()];
                Some(Self {
                    source: packet.src_addr().into(),
                    target: packet.dst_addr().into(),
                    protocol: packet.next_header().into(),
                    hop_limit: packet.hop_limit(),
                    bytes,
                    payload: bytes.get(40..)?,
                })
            }
            _ => None,
        }
    }
}

/// One UDP datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram<'a> {
    pub source: SocketAddr,
    pub target: SocketAddr,
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    pub fn parse(packet: &Packet<'a>) -> Option<Self> {
        let udp = UdpPacket::new_checked(packet.payload).ok()?;
        if udp.src_port() == 0 || udp.dst_port() == 0 {
            return None;
        }
        Some(Self {
            source: SocketAddr::new(packet.source, udp.src_port()),
            target: SocketAddr::new(packet.target, udp.dst_port()),
            payload: udp.payload(),
        })
    }
}

/// Sends a datagram to the guest. False if it is longer than `mtu` allows or mixes address families.
pub(crate) fn send_udp(out: &mut Outbound, mtu: u16, datagram: Datagram<'_>) -> bool {
    let Datagram {
        source,
        target,
        payload,
    } = datagram;
    let length = 8 + payload.len();
    let Some(ip) = ip_header(source.ip(), target.ip(), IpProtocol::Udp, length, 64) else {
        return false;
    };
    if ip.buffer_len() > usize::from(mtu) {
        return false;
    }
    out.ip(ip.buffer_len(), false, |packet| {
        ip.emit(&mut *packet, &ChecksumCapabilities::default());
        let mut udp = UdpPacket::new_unchecked(&mut packet[ip.header_len()..]);
        udp.set_src_port(source.port());
        udp.set_dst_port(target.port());
        udp.set_len(length as u16);
        udp.set_checksum(0);
        udp.payload_mut().copy_from_slice(payload);
    });
    true
}

/// Sends an ICMP or `ICMPv6` message; its checksum is filled in here.
pub(crate) fn send_icmp(out: &mut Outbound, source: IpAddr, target: IpAddr, message: &[u8]) {
    let next = match source {
        IpAddr::V4(_) => IpProtocol::Icmp,
        IpAddr::V6(_) => IpProtocol::Icmpv6,
    };
    // Neighbor discovery is valid only with this hop limit, RFC 4861 section 7.1; for the rest it does no harm.
    let hops = if source.is_ipv6() { 255 } else { 64 };
    let Some(ip) = ip_header(source, target, next, message.len(), hops) else {
        return;
    };
    out.ip(ip.buffer_len(), false, |packet| {
        ip.emit(&mut *packet, &ChecksumCapabilities::default());
        let body = &mut packet[ip.header_len()..];
        body.copy_from_slice(message);
        match (source, target) {
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                Icmpv6Packet::new_unchecked(body).fill_checksum(&source, &target);
            }
            _ => Icmpv4Packet::new_unchecked(body).fill_checksum(),
        }
    });
}

/// Why a packet of the guest went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// No route, or no such host.
    Host,
    /// Nobody listens on the port.
    Port,
    /// Out of bounds for a guest.
    Prohibited,
}

/// Answers a packet of the guest with "destination unreachable", RFC 792 and RFC 4443 section 3.1.
pub(crate) fn send_unreachable(out: &mut Outbound, cause: &Packet<'_>, reason: Unreachable) {
    // No errors about errors or about what was meant for many, RFC 1122 section 3.2.2.
    let is_error = match cause.protocol {
        protocol::ICMP => cause.payload.first().is_none_or(|&kind| kind != 8),
        protocol::ICMPV6 => cause.payload.first().is_none_or(|&kind| kind < 128),
        _ => false,
    };
    if is_error || cause.target.is_multicast() || cause.source.is_unspecified() {
        return;
    }
    let caps = ChecksumCapabilities::ignored();
    match (cause.source, cause.target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            if target.is_broadcast() {
                return;
            }
            let Ok(original) = Ipv4Packet::new_checked(cause.bytes) else {
                return;
            };
            let Ok(header) = Ipv4Repr::parse(&original, &caps) else {
                return;
            };
            let repr = Icmpv4Repr::DstUnreachable {
                reason: match reason {
                    Unreachable::Host => Icmpv4DstUnreachable::HostUnreachable,
                    Unreachable::Port => Icmpv4DstUnreachable::PortUnreachable,
                    Unreachable::Prohibited => Icmpv4DstUnreachable::CommProhibited,
                },
                header,
                data: &cause.payload[..cause.payload.len().min(64)],
            };
            let mut message = vec![0; repr.buffer_len()];
            repr.emit(&mut Icmpv4Packet::new_unchecked(&mut message[..]), &caps);
            send_icmp(out, target.into(), source.into(), &message);
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let Ok(original) = Ipv6Packet::new_checked(cause.bytes) else {
                return;
            };
            let Ok(header) = Ipv6Repr::parse(&original) else {
                return;
            };
            let repr = Icmpv6Repr::DstUnreachable {
                reason: match reason {
                    Unreachable::Host => Icmpv6DstUnreachable::AddrUnreachable,
                    Unreachable::Port => Icmpv6DstUnreachable::PortUnreachable,
                    Unreachable::Prohibited => Icmpv6DstUnreachable::AdminProhibit,
                },
                header,
                data: &cause.payload[..cause.payload.len().min(1024)],
            };
            let mut message = vec![0; repr.buffer_len()];
            repr.emit(
                &target,
                &source,
                &mut Icmpv6Packet::new_unchecked(&mut message[..]),
                &caps,
            );
            send_icmp(out, target.into(), source.into(), &message);
        }
        _ => {}
    }
}

/// The IP header of a packet to the guest. `None` if it mixes address families.
pub(crate) fn ip_header(
    source: IpAddr,
    target: IpAddr,
    next_header: IpProtocol,
    payload_len: usize,
    hop_limit: u8,
) -> Option<IpRepr> {
    Some(match (source, target) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => IpRepr::Ipv4(Ipv4Repr {
            src_addr,
            dst_addr,
            next_header,
            payload_len,
            hop_limit,
        }),
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => IpRepr::Ipv6(Ipv6Repr {
            src_addr,
            dst_addr,
            next_header,
            payload_len,
            hop_limit,
        }),
        _ => return None,
    })
}
