//! Reading and writing IP headers, and the Internet checksum.
//!
//! Reading works on borrowed bytes of any content and fails only by returning a [`Fault`]. What is checked here needs no
//! knowledge of the interface: lengths, versions, the IPv4 header checksum, the chain of IPv6 extension headers. Whether
//! a packet is for us is for [`interface`](super::interface) to say, between [`ipv6`] and [`walk`]: no error is ever sent
//! about somebody else's packet.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ETHERNET_HEADER, Header, Outbound, UDP};
use crate::tcp::Ecn;

pub(crate) const ICMP: u8 = 1;
pub(super) const IGMP: u8 = 2;
pub(crate) const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;

/// Bytes of headers without options.
pub(super) const IPV4_HEADER: usize = 20;
/// See [`IPV4_HEADER`].
pub(super) const IPV6_HEADER: usize = 40;
/// Of an IPv6 fragment header.
pub(super) const FRAGMENT_HEADER: usize = 8;

/// Most extension headers of a packet, and most options in one (RFC 8504 section 5.3 allows limits).
const MAX_EXTENSIONS: usize = 8;
const MAX_OPTIONS: usize = 16;

pub(super) type Mac = [u8; 6];
pub(super) const BROADCAST_MAC: Mac = [0xff; 6];

/// Why a packet is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Malformed,
    Checksum,
    /// Too many headers or options.
    Unsupported,
    /// The packet says itself that it carries nothing, or that nothing is to be answered.
    Silent,
    /// The sender is to be told with an `ICMPv6` parameter problem of this code.
    Problem {
        code: u8,
        pointer: u32,
        /// Even if the packet went to a group (RFC 4443 section 2.4 e.3).
        groups_too: bool,
    },
}

/// The part of a datagram that a fragment carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    pub id: u32,
    /// In bytes.
    pub offset: usize,
    pub more: bool,
}

/// An IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'f> {
    pub header: Header,
    /// What is behind the header.
    pub payload: &'f [u8],
    /// Everything, without the padding of the link.
    pub whole: &'f [u8],
    /// IPv4 only; [`walk`] finds IPv6's.
    pub fragment: Option<Fragment>,
}

/// Where the extension headers of an IPv6 packet end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    /// The protocol behind them; of the fragmentable part if there is a `fragment`.
    pub protocol: u8,
    /// Where that starts.
    pub at: usize,
    /// Where the field stands that names it.
    pub named_at: usize,
    pub fragment: Option<Fragment>,
    /// There was a fragment header, of a fragment or an atomic one.
    pub fragmented: bool,
    /// There was a hop-by-hop header with a router alert (RFC 2711).
    pub alert: bool,
}

pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

#[inline]
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// `a == b` out of line, where few instructions matter more than the last nanosecond.
#[inline(never)]
pub(super) fn same(a: &IpAddr, b: &IpAddr) -> bool {
    a == b
}

/// Appends `part`.
#[inline(never)]
pub(super) fn append(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(part);
}

/// Copies `part` to where it fits.
#[inline]
pub(super) fn put(bytes: &mut [u8], at: usize, part: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + part.len()) {
        place.copy_from_slice(part);
    }
}

/// Reads an IPv4 header (RFC 791 section 3.1). Options are skipped.
#[inline]
pub(super) fn ipv4(bytes: &[u8]) -> Result<Packet<'_>, Fault> {
    let fixed: &[u8; IPV4_HEADER] = bytes.first_chunk().ok_or(Fault::Malformed)?;
    let header = usize::from(fixed[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if fixed[0] >> 4 != 4 || header < IPV4_HEADER || total < header {
        return Err(Fault::Malformed);
    }
    let whole = bytes.get(..total).ok_or(Fault::Malformed)?;
    let (head, payload) = whole.split_at_checked(header).ok_or(Fault::Malformed)?;
    let right = if header == IPV4_HEADER {
        sum_header(fixed)
    } else {
        sum(head)
    };
    if right != 0xffff {
        return Err(Fault::Checksum);
    }
    let position = u16::from_be_bytes([fixed[6], fixed[7]]);
    // The two flags and the offset but for "do not fragment".
    let fragment = (position & 0x3fff != 0).then(|| Fragment {
        id: u32::from(u16::from_be_bytes([fixed[4], fixed[5]])),
        offset: usize::from(position & 0x1fff) * 8,
        more: position & 0x2000 != 0,
    });
    let header = Header {
        source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]).into(),
        destination: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]).into(),
        protocol: fixed[9],
        ecn: Ecn::from_bits(fixed[1]),
        hop_limit: fixed[8],
    };
    Ok(Packet {
        header,
        payload,
        whole,
        fragment,
    })
}

/// Reads an IPv6 header (RFC 8200 section 3). `protocol` is what comes directly behind it, see [`is_extension`].
#[inline]
pub(super) fn ipv6(bytes: &[u8]) -> Result<Packet<'_>, Fault> {
    let (fixed, rest) = bytes
        .split_first_chunk::<IPV6_HEADER>()
        .ok_or(Fault::Malformed)?;
    let length = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    if fixed[0] >> 4 != 6 {
        return Err(Fault::Malformed);
    }
    let payload = rest.get(..length).ok_or(Fault::Malformed)?;
    let whole = bytes.get(..IPV6_HEADER + length).ok_or(Fault::Malformed)?;
    let address = |at| array::<16>(fixed, at).map_or(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from);
    let header = Header {
        source: address(8).into(),
        destination: address(24).into(),
        protocol: fixed[6],
        ecn: Ecn::from_bits(fixed[1] >> 4),
        hop_limit: fixed[7],
    };
    Ok(Packet {
        header,
        payload,
        whole,
        fragment: None,
    })
}

/// True if `protocol` is an IPv6 extension header, or the end of the packet.
#[inline]
pub(super) const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | NO_NEXT_HEADER | DESTINATION_OPTIONS
    )
}

/// Walks the extension headers (RFC 8200 section 4) in `bytes` from `at`, where one of kind `next` starts. `named_at` is
/// where that kind is named; 0 if not in these bytes.
pub(super) fn walk(
    bytes: &[u8],
    mut next: u8,
    mut at: usize,
    mut named_at: usize,
) -> Result<Walk, Fault> {
    let mut walk = Walk {
        protocol: next,
        at,
        named_at,
        fragment: None,
        fragmented: false,
        alert: false,
    };
    let first = at;
    for _ in 0..MAX_EXTENSIONS {
        match next {
            NO_NEXT_HEADER => return Err(Fault::Silent),
            // Only directly behind the IPv6 header.
            HOP_BY_HOP if at != first || at != IPV6_HEADER => {
                return Err(problem(1, named_at));
            }
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let [following, length] = array(bytes, at).ok_or(Fault::Malformed)?;
                let end = at + (usize::from(length) + 1) * 8;
                let header = bytes.get(at..end).ok_or(Fault::Malformed)?;
                if next == ROUTING {
                    // Nothing is left to visit, or the sender learns that this is no router (RFC 5095).
                    if header.get(3) != Some(&0) {
                        return Err(problem(0, at + 2));
                    }
                } else {
                    walk.alert |= options(header, at)? && next == HOP_BY_HOP;
                }
                (next, named_at, at) = (following, at, end);
            }
            FRAGMENT => {
                let header: [u8; FRAGMENT_HEADER] = array(bytes, at).ok_or(Fault::Malformed)?;
                let position = u16::from_be_bytes([header[2], header[3]]);
                let fragment = Fragment {
                    id: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
                    offset: usize::from(position & !7),
                    more: position & 1 != 0,
                };
                // A second one makes no sense, and could hide the first.
                if walk.fragmented {
                    return Err(Fault::Malformed);
                }
                walk.fragmented = true;
                (next, named_at, at) = (header[0], at, at + FRAGMENT_HEADER);
                // RFC 6946: one without offset and followers is complete.
                if fragment.offset != 0 || fragment.more {
                    walk.fragment = Some(fragment);
                    (walk.protocol, walk.at, walk.named_at) = (next, at, named_at);
                    return Ok(walk);
                }
            }
            _ => {
                (walk.protocol, walk.at, walk.named_at) = (next, at, named_at);
                return Ok(walk);
            }
        }
    }
    Err(Fault::Unsupported)
}

const fn problem(code: u8, pointer: usize) -> Fault {
    Fault::Problem {
        code,
        pointer: pointer as u32,
        groups_too: false,
    }
}

/// Looks at the options of a hop-by-hop or destination options header that starts at `at` (RFC 8200 section 4.2). True if
/// one is a router alert.
fn options(header: &[u8], at: usize) -> Result<bool, Fault> {
    let mut alert = false;
    let mut position = 2;
    for _ in 0..MAX_OPTIONS {
        let Some(&kind) = header.get(position) else {
            return Ok(alert);
        };
        if kind == 0 {
            position += 1;
            continue;
        }
        let length = *header.get(position + 1).ok_or(Fault::Malformed)?;
        let end = position + 2 + usize::from(length);
        if end > header.len() {
            return Err(Fault::Malformed);
        }
        match kind {
            // Padding.
            1 => {}
            5 => alert = true,
            _ => match kind >> 6 {
                0 => {}
                1 => return Err(Fault::Silent),
                action => {
                    return Err(Fault::Problem {
                        code: 2,
                        pointer: (at + position) as u32,
                        groups_too: action == 2,
                    });
                }
            },
        }
        position = end;
    }
    if position < header.len() {
        return Err(Fault::Unsupported);
    }
    Ok(alert)
}

/// Bytes of Ethernet and IP header together, for packets of this stack (no options).
pub(crate) const fn headers_len(v6: bool) -> usize {
    if v6 {
        ETHERNET_HEADER + IPV6_HEADER
    } else {
        ETHERNET_HEADER + IPV4_HEADER
    }
}

/// Writes Ethernet and IP header for `payload` bytes into exactly [`headers_len`] bytes. `macs` are source and
/// destination, in this order. IPv4: do not fragment, `id`.
#[inline]
pub(crate) fn write_headers(
    bytes: &mut [u8],
    outbound: &Outbound,
    macs: ([u8; 6], [u8; 6]),
    payload: usize,
    id: u16,
) {
    let Some((ethernet, ip)) = bytes.split_first_chunk_mut::<ETHERNET_HEADER>() else {
        return;
    };
    write_ethernet(ethernet, macs, outbound.destination.is_ipv6());
    write_ip_inline(ip, outbound, payload, id, 0x4000);
}

pub(super) fn write_ethernet(
    bytes: &mut [u8; ETHERNET_HEADER],
    (source, destination): (Mac, Mac),
    v6: bool,
) {
    put(bytes, 0, &destination);
    put(bytes, 6, &source);
    put(bytes, 12, if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
}

/// Writes an IP header. `position` is IPv4's field with flags and offset.
#[inline(never)]
pub(super) fn write_ip(
    bytes: &mut [u8],
    outbound: &Outbound,
    payload: usize,
    id: u16,
    position: u16,
) {
    write_ip_inline(bytes, outbound, payload, id, position);
}

/// As [`write_ip`], for each packet of a transport.
#[inline]
fn write_ip_inline(bytes: &mut [u8], outbound: &Outbound, payload: usize, id: u16, position: u16) {
    match (outbound.source, outbound.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let Some(header) = bytes.first_chunk_mut::<IPV4_HEADER>() else {
                return;
            };
            let [l0, l1] = ((IPV4_HEADER + payload) as u16).to_be_bytes();
            let [i0, i1] = id.to_be_bytes();
            let [p0, p1] = position.to_be_bytes();
            let [s0, s1, s2, s3] = source.octets();
            let [d0, d1, d2, d3] = destination.octets();
            let (ttl, protocol) = (outbound.hop_limit, outbound.protocol);
            *header = [
                0x45,
                outbound.ecn as u8,
                l0,
                l1,
                i0,
                i1,
                p0,
                p1,
                ttl,
                protocol,
                0,
                0,
                s0,
                s1,
                s2,
                s3,
                d0,
                d1,
                d2,
                d3,
            ];
            let [c0, c1] = (!sum_header(header)).to_be_bytes();
            (header[10], header[11]) = (c0, c1);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let Some(header) = bytes.first_chunk_mut::<IPV6_HEADER>() else {
                return;
            };
            let [l0, l1] = (payload as u16).to_be_bytes();
            header[..8].copy_from_slice(&[
                0x60,
                (outbound.ecn as u8) << 4,
                0,
                0,
                l0,
                l1,
                outbound.protocol,
                outbound.hop_limit,
            ]);
            header[8..24].copy_from_slice(&source.octets());
            header[24..].copy_from_slice(&destination.octets());
        }
        _ => {}
    }
}

/// The Internet checksum (RFC 1071) of a header without options, not complemented: for each packet, so in line.
#[inline]
fn sum_header(header: &[u8; IPV4_HEADER]) -> u16 {
    let words = header.as_chunks::<4>().0;
    let total = words
        .iter()
        .map(|word| u64::from(u32::from_ne_bytes(*word)));
    u16::to_be(fold(total.sum()))
}

/// The Internet checksum (RFC 1071) of `bytes`, not complemented.
#[inline(never)]
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let mut total: u128 = 0;
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        for word in block.as_chunks::<8>().0 {
            total += u128::from(u64::from_ne_bytes(*word));
        }
    }
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        total += u128::from(u64::from_ne_bytes(*word));
    }
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        total += u128::from(u32::from_ne_bytes(*word));
    }
    let (words, rest) = rest.as_chunks::<2>();
    for word in words {
        total += u128::from(u16::from_ne_bytes(*word));
    }
    if let &[last] = rest {
        total += u128::from(u16::from_ne_bytes([last, 0]));
    }
    let (low, high) = (total as u64, (total >> 64) as u64);
    // Three terms of 33 bits at most.
    u16::to_be(fold(
        (low >> 32) + (low & 0xffff_ffff) + (high & 0xffff_ffff),
    ))
}

/// Brings a sum of 32-bit words, with its carries, back to 16 bits.
#[inline]
const fn fold(mut total: u64) -> u16 {
    total = (total >> 32) + (total & 0xffff_ffff);
    // Below 2^34 now, and below 2^19 then.
    total = (total >> 16) + (total & 0xffff);
    total = (total >> 16) + (total & 0xffff);
    total = (total >> 16) + (total & 0xffff);
    total as u16
}

/// The sum of two sums.
pub(crate) const fn add_sums(a: u16, b: u16) -> u16 {
    fold(a as u64 + b as u64)
}

/// The sum over the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1), not complemented.
#[inline(never)]
pub(crate) fn pseudo_sum(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    fn words(address: IpAddr) -> u64 {
        match address {
            IpAddr::V4(address) => u64::from(u32::from_ne_bytes(address.octets())),
            IpAddr::V6(address) => {
                let octets = address.octets();
                let words = octets.as_chunks::<4>().0.iter();
                words.map(|word| u64::from(u32::from_ne_bytes(*word))).sum()
            }
        }
    }
    let rest = u64::from(u32::from(protocol).to_be()) + u64::from((length as u32).to_be());
    u16::to_be(fold(words(source) + words(destination) + rest))
}

/// Fills in the checksum of a UDP datagram.
pub(super) fn fill_udp_checksum(outbound: &Outbound, datagram: &mut [u8]) {
    put(datagram, 6, &[0, 0]);
    let pseudo = pseudo_sum(outbound.source, outbound.destination, UDP, datagram.len());
    let total = !add_sums(pseudo, sum(datagram));
    // A sum of zero says that there is none (RFC 768); this one means the same.
    let total = if total == 0 { 0xffff } else { total };
    put(datagram, 6, &total.to_be_bytes());
}

/// True if the transport checksum of a received packet is right.
pub(crate) fn checksum_is_right(header: &Header, payload: &[u8]) -> bool {
    // RFC 768: a zero says that there is none. IPv6 does not allow that (RFC 8200 section 8.1).
    if header.protocol == UDP && header.source.is_ipv4() && be16(payload, 6) == Some(0) {
        return true;
    }
    // A datagram may be shorter than the packet that carries it.
    let payload = match (header.protocol, be16(payload, 4)) {
        (UDP, Some(length)) if length >= 8 => payload.get(..length.into()).unwrap_or(payload),
        _ => payload,
    };
    let pseudo = pseudo_sum(
        header.source,
        header.destination,
        header.protocol,
        payload.len(),
    );
    (header.protocol != UDP || be16(payload, 6) != Some(0))
        && add_sums(pseudo, sum(payload)) == 0xffff
}

/// The Ethernet address of a group (RFC 1112 section 6.4, RFC 2464 section 7).
pub(super) const fn group_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// True for an Ethernet address that a host can have.
pub(super) fn is_host_mac(mac: Mac) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

#[cfg(test)]
mod tests;
