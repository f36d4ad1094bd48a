//! Reading the headers of a received frame.
//!
//! The protocols read frames again, by themselves. This is the look that the stack takes before: which connection is
//! it about, may it be let in at all, is the transport checksum right. Checking here and not in the protocols is what
//! allows some frames to be trusted (the host has checked them) and others not.
//!
//! Everything works on borrowed bytes of any content; nothing here can fail but by returning a [`Fault`].

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::wire::{IpAddress, IpProtocol, checksum};

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET_HEADER: usize = 14;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;

/// Why a frame must not be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Malformed,
    Checksum,
    Unsupported,
}

/// What an Ethernet frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ethernet<'a> {
    /// Who says that it has the IPv4 address.
    Arp {
        sender: Ipv4Addr,
    },
    Ip(&'a [u8]),
    Other,
}

/// The parts of a TCP header that the stack itself looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub flags: u8,
    pub sequence: u32,
    pub acknowledgement: u32,
    /// Length in sequence space: payload, SYN and FIN.
    pub length: u32,
}

impl Segment {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const ACK: u8 = 16;

    pub(crate) const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// The first segment of a connection that the peer opens.
    pub(crate) const fn opens(&self) -> bool {
        self.flags & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    Tcp(Segment),
    Udp {
        destination: SocketAddr,
    },
    /// A part of a UDP datagram.
    Fragment,
    /// An `ICMPv6` router advertisement, from its type byte on.
    RouterAdvert(&'a [u8]),
    /// A router or host says that `remote` cannot be reached from `local` with TCP.
    Unreachable {
        local: SocketAddr,
        remote: SocketAddr,
    },
    Other,
}

/// An IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub content: Content<'a>,
}

/// Reads an Ethernet header.
pub(crate) fn ethernet(frame: &[u8]) -> Result<Ethernet<'_>, Fault> {
    let (header, payload) = frame
        .split_at_checked(ETHERNET_HEADER)
        .ok_or(Fault::Malformed)?;
    Ok(match [header[12], header[13]] {
        [0x08, 0x00] | [0x86, 0xdd] => Ethernet::Ip(payload),
        [0x08, 0x06] => Ethernet::Arp {
            sender: array::<4>(payload, 14)?.into(),
        },
        _ => Ethernet::Other,
    })
}

/// Reads an IP packet and verifies its transport checksum unless it is `trusted`.
///
/// `reassembly_limit` is the greatest length of a fragmented datagram that is let in.
pub(crate) fn packet(
    packet: &[u8],
    trusted: bool,
    reassembly_limit: usize,
) -> Result<Packet<'_>, Fault> {
    match packet.first().ok_or(Fault::Malformed)? >> 4 {
        4 => ipv4(packet, trusted, reassembly_limit),
        6 => ipv6(packet, trusted),
        _ => Err(Fault::Malformed),
    }
}

fn ipv4(packet: &[u8], trusted: bool, reassembly_limit: usize) -> Result<Packet<'_>, Fault> {
    let header = usize::from(packet[0] & 15) * 4;
    let total = usize::from(be16(packet, 2)?);
    if header < 20 || total < header {
        return Err(Fault::Malformed);
    }
    let payload = packet.get(header..total).ok_or(Fault::Malformed)?;
    let source = Ipv4Addr::from(array::<4>(packet, 12)?);
    let destination = Ipv4Addr::from(array::<4>(packet, 16)?);
    let fragment = be16(packet, 6)?;
    let protocol = packet[9];
    let content = if fragment & 0x3fff != 0 {
        // Bit 13 is "more fragments", the lower bits are the offset in units of eight bytes.
        let end = usize::from(fragment & 0x1fff) * 8 + payload.len();
        if protocol == TCP || end > reassembly_limit {
            return Err(Fault::Unsupported);
        }
        Content::Fragment
    } else {
        transport(
            source.into(),
            destination.into(),
            protocol,
            payload,
            trusted,
        )?
    };
    Ok(Packet {
        source: source.into(),
        destination: destination.into(),
        content,
    })
}

fn ipv6(packet: &[u8], trusted: bool) -> Result<Packet<'_>, Fault> {
    let end = 40 + usize::from(be16(packet, 4)?);
    let payload = packet.get(40..end).ok_or(Fault::Malformed)?;
    let source = Ipv6Addr::from(array::<16>(packet, 8)?);
    let destination = Ipv6Addr::from(array::<16>(packet, 24)?);
    let hop_limit = packet[7];
    let content = match packet[6] {
        // Multicast listener queries come with hop-by-hop options. A transport header behind them would reach the
        // protocols without having been looked at here.
        HOP_BY_HOP if payload.first() != Some(&ICMPV6) => return Err(Fault::Unsupported),
        HOP_BY_HOP => Content::Other,
        // Router advertisements count only from the same link (RFC 4861 section 6.1.2).
        ICMPV6 if payload.first() == Some(&134) => {
            verify(source.into(), destination.into(), ICMPV6, payload)?;
            if hop_limit == 255 && source.is_unicast_link_local() {
                Content::RouterAdvert(payload)
            } else {
                Content::Other
            }
        }
        protocol => transport(
            source.into(),
            destination.into(),
            protocol,
            payload,
            trusted,
        )?,
    };
    Ok(Packet {
        source: source.into(),
        destination: destination.into(),
        content,
    })
}

fn transport(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &[u8],
    trusted: bool,
) -> Result<Content<'_>, Fault> {
    let ports = |payload| -> Result<(SocketAddr, SocketAddr), Fault> {
        Ok((
            SocketAddr::new(source, be16(payload, 0)?),
            SocketAddr::new(destination, be16(payload, 2)?),
        ))
    };
    match protocol {
        TCP => {
            if !trusted {
                verify(source, destination, TCP, payload)?;
            }
            let (source, destination) = ports(payload)?;
            let flags = *payload.get(13).ok_or(Fault::Malformed)?;
            let header = usize::from(payload[12] >> 4) * 4;
            let data = payload.len().checked_sub(header).ok_or(Fault::Malformed)?;
            let controls =
                u32::from(flags & Segment::FIN != 0) + u32::from(flags & Segment::SYN != 0);
            Ok(Content::Tcp(Segment {
                source,
                destination,
                flags,
                sequence: be32(payload, 4)?,
                acknowledgement: be32(payload, 8)?,
                length: data as u32 + controls,
            }))
        }
        UDP => {
            let length = usize::from(be16(payload, 4)?);
            let datagram = payload.get(..length.max(8)).ok_or(Fault::Malformed)?;
            match (be16(payload, 6)?, source) {
                // RFC 768: no checksum. RFC 8200 section 8.1: not with IPv6.
                (0, IpAddr::V4(_)) => {}
                (0, IpAddr::V6(_)) if !trusted => return Err(Fault::Checksum),
                _ if trusted => {}
                _ => verify(source, destination, UDP, datagram)?,
            }
            let (_, destination) = ports(payload)?;
            Ok(Content::Udp { destination })
        }
        // Destination unreachable; code 4 is about the packet's size, which TCP does not learn from here.
        ICMP if matches!(payload, [3, code, ..] if *code != 4) => {
            if checksum::data(payload) != 0xffff {
                return Err(Fault::Checksum);
            }
            Ok(unreachable(payload))
        }
        ICMPV6 if payload.first() == Some(&1) => {
            verify(source, destination, ICMPV6, payload)?;
            Ok(unreachable(payload))
        }
        _ => Ok(Content::Other),
    }
}

/// Reads the packet that an ICMP error quotes: one of ours, cut off somewhere behind the ports.
fn unreachable(icmp: &[u8]) -> Content<'_> {
    let quoted = || -> Result<Content<'_>, Fault> {
        let inner = icmp.get(8..).ok_or(Fault::Malformed)?;
        let (protocol, source, destination, ports): (u8, IpAddr, IpAddr, usize) =
            match inner.first().ok_or(Fault::Malformed)? >> 4 {
                4 => (
                    array::<1>(inner, 9)?[0],
                    array::<4>(inner, 12)?.into(),
                    array::<4>(inner, 16)?.into(),
                    usize::from(inner[0] & 15) * 4,
                ),
                6 => (
                    array::<1>(inner, 6)?[0],
                    array::<16>(inner, 8)?.into(),
                    array::<16>(inner, 24)?.into(),
                    40,
                ),
                _ => return Err(Fault::Malformed),
            };
        if protocol != TCP {
            return Ok(Content::Other);
        }
        Ok(Content::Unreachable {
            local: SocketAddr::new(source, be16(inner, ports)?),
            remote: SocketAddr::new(destination, be16(inner, ports + 2)?),
        })
    };
    quoted().unwrap_or(Content::Other)
}

/// The sum over the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1), not complemented.
pub(crate) fn pseudo_sum(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    checksum::pseudo_header(
        &IpAddress::from(source),
        &IpAddress::from(destination),
        IpProtocol::from(protocol),
        length as u32,
    )
}

fn verify(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Result<(), Fault> {
    let pseudo = pseudo_sum(source, destination, protocol, payload.len());
    match checksum::combine(&[pseudo, checksum::data(payload)]) {
        0xffff => Ok(()),
        _ => Err(Fault::Checksum),
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Fault> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or(Fault::Malformed)
}

fn be16(bytes: &[u8], at: usize) -> Result<u16, Fault> {
    array(bytes, at).map(u16::from_be_bytes)
}

fn be32(bytes: &[u8], at: usize) -> Result<u32, Fault> {
    array(bytes, at).map(u32::from_be_bytes)
}
