//! ICMP: echo, errors that come in, errors that go out (RFC 792, RFC 1122 section 3.2.2, RFC 4443).

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;

use kiln_abi::Instant;

use super::input::{Cast, Origins};
use super::interface::Interface;
use super::packet::{
    self, FRAGMENT, Fault, ICMP, ICMPV6, IPV4_HEADER, IPV6_HEADER, add_sums, append, array, be16,
    be32, pseudo_sum, put, sum, write_ip,
};
use super::{Context, Header, Input, Outbound, TCP, Trouble, TroubleKind};
use crate::error::Error;
use crate::tcp::{Ecn, Seq};

/// Bytes of a message before its content.
const HEADER: usize = 8;
/// Most bytes of packets with errors: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 c.
const MOST4: usize = 576;
const MOST6: usize = 1280;
/// Errors that may go out at once, and the time in which one more is allowed (RFC 4443 section 2.4 f).
const BURST: u32 = 32;
const INTERVAL: Duration = Duration::from_millis(5);

const ECHO_REPLY4: u8 = 0;
const UNREACHABLE4: u8 = 3;
const ECHO_REQUEST4: u8 = 8;
const TIME_EXCEEDED4: u8 = 11;
const PROBLEM4: u8 = 12;
const UNREACHABLE6: u8 = 1;
const TOO_BIG6: u8 = 2;
const TIME_EXCEEDED6: u8 = 3;
const PROBLEM6: u8 = 4;
const ECHO_REQUEST6: u8 = 128;
const ECHO_REPLY6: u8 = 129;
const LISTENER_QUERY: u8 = 130;
const ROUTER_ADVERT: u8 = 134;
const NEIGHBOR_SOLICIT: u8 = 135;
const NEIGHBOR_ADVERT: u8 = 136;

/// A bucket that fills with time: how many errors may still go out.
#[derive(Debug, Default)]
pub(super) struct Limit {
    spent: u32,
    since: Instant,
}

impl Limit {
    fn take(&mut self, now: Instant) -> bool {
        let steps = now.since(self.since).as_nanos() / INTERVAL.as_nanos();
        let regained = u32::try_from(steps).unwrap_or(u32::MAX);
        if regained > 0 {
            self.spent = self.spent.saturating_sub(regained);
            self.since = now;
        }
        let allowed = self.spent < BURST;
        self.spent += u32::from(allowed);
        allowed
    }
}

/// A packet of ours that an error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quoted {
    protocol: u8,
    local: SocketAddr,
    remote: SocketAddr,
    seq: Option<Seq>,
    /// Bytes that the whole packet had.
    length: u32,
}

/// Reads the packet that an error quotes, cut off somewhere behind the ports.
fn quoted(v6: bool, bytes: &[u8]) -> Option<Quoted> {
    let (source, destination, protocol, at, length): (IpAddr, IpAddr, _, _, _) = if v6 {
        let mut protocol = *bytes.get(6)?;
        let mut at = IPV6_HEADER;
        // This stack sends no other extension headers.
        if protocol == FRAGMENT {
            if be16(bytes, at + 2)? & !7 != 0 {
                return None;
            }
            protocol = *bytes.get(at)?;
            at += packet::FRAGMENT_HEADER;
        }
        let source = Ipv6Addr::from(array::<16>(bytes, 8)?);
        let destination = Ipv6Addr::from(array::<16>(bytes, 24)?);
        let length = u32::from(be16(bytes, 4)?) + IPV6_HEADER as u32;
        (source.into(), destination.into(), protocol, at, length)
    } else {
        let header = usize::from(*bytes.first()? & 15) * 4;
        if header < IPV4_HEADER || be16(bytes, 6)? & 0x1fff != 0 {
            return None;
        }
        let source = Ipv4Addr::from(array::<4>(bytes, 12)?);
        let destination = Ipv4Addr::from(array::<4>(bytes, 16)?);
        let length = u32::from(be16(bytes, 2)?);
        (
            source.into(),
            destination.into(),
            *bytes.get(9)?,
            header,
            length,
        )
    };
    if *bytes.first()? >> 4 != if v6 { 6 } else { 4 } {
        return None;
    }
    let seq = match protocol {
        TCP => Some(Seq(be32(bytes, at + 4)?)),
        _ => None,
    };
    Some(Quoted {
        protocol,
        local: SocketAddr::new(source, be16(bytes, at)?),
        remote: SocketAddr::new(destination, be16(bytes, at + 2)?),
        seq,
        length,
    })
}

/// What an error means for a transport. Sizes are handled apart.
const fn meaning(v6: bool, kind: u8, code: u8) -> Option<TroubleKind> {
    let soft = TroubleKind::Soft(Error::Unreachable);
    let refused = TroubleKind::Hard(Error::ConnectionRefused);
    let forbidden = TroubleKind::Hard(Error::Unreachable);
    Some(match (v6, kind, code) {
        // Protocol and port.
        (false, UNREACHABLE4, 2 | 3) | (true, UNREACHABLE6, 4) | (true, PROBLEM6, 1) => refused,
        (false, UNREACHABLE4, 9 | 10 | 13) | (true, UNREACHABLE6, 1 | 5 | 6) => forbidden,
        (false, UNREACHABLE4 | TIME_EXCEEDED4 | PROBLEM4, _)
        | (true, UNREACHABLE6 | TIME_EXCEEDED6 | PROBLEM6, _) => soft,
        _ => return None,
    })
}

impl Interface {
    /// Takes in an ICMP message.
    pub(super) fn receive_icmp4<'f>(
        &mut self,
        header: &Header,
        message: &[u8],
        about: &Origins<'_>,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Input<'f> {
        cx.stats.icmp_in += 1;
        if sum(message) != 0xffff || message.len() < HEADER {
            cx.stats.dropped_checksum += 1;
            return Input::Done;
        }
        match message {
            // RFC 1122 section 3.2.2.6 allows to leave broadcast requests alone.
            [ECHO_REQUEST4, 0, ..] if about.cast == Cast::Own => {
                self.echo(header, message, ECHO_REPLY4, now, cx);
                Input::Done
            }
            [UNREACHABLE4 | TIME_EXCEEDED4 | PROBLEM4, ..] => {
                self.receive_error(false, message, cx)
            }
            [ECHO_REPLY4, 0, ..] if about.cast == Cast::Own => Input::Echo,
            _ => Input::Done,
        }
    }

    /// Takes in an `ICMPv6` message.
    pub(super) fn receive_icmp6<'f>(
        &mut self,
        header: &Header,
        message: &[u8],
        about: &Origins<'_>,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Input<'f> {
        cx.stats.icmp_in += 1;
        let pseudo = pseudo_sum(header.source, header.destination, ICMPV6, message.len());
        if add_sums(pseudo, sum(message)) != 0xffff {
            cx.stats.dropped_checksum += 1;
            return Input::Done;
        }
        if self.addresses.has(header.source) && message.first() != Some(&NEIGHBOR_ADVERT) {
            cx.stats.dropped_martian += 1;
            return Input::Done;
        }
        match message {
            [ECHO_REQUEST6, 0, ..]
                if about.cast == Cast::Own && !header.source.is_unspecified() =>
            {
                self.echo(header, message, ECHO_REPLY6, now, cx);
            }
            [ECHO_REPLY6, 0, ..] if about.cast == Cast::Own => return Input::Echo,
            [UNREACHABLE6..=PROBLEM6, ..] => return self.receive_error(true, message, cx),
            // RFC 3810 section 6.2: from the link, and seen by routers.
            [LISTENER_QUERY, ..] => {
                let local = matches!(header.source, IpAddr::V6(v6) if v6.is_unicast_link_local());
                if local && header.hop_limit == 1 && about.alert {
                    self.receive_mld(message, now, cx);
                }
            }
            [ROUTER_ADVERT..=NEIGHBOR_ADVERT, ..] => {
                // A hop limit of 255 shows that no router has forwarded it; RFC 6980 forbids fragments.
                if header.hop_limit != 255 || about.fragmented {
                    cx.stats.dropped_malformed += 1;
                    return Input::Done;
                }
                match message.first() {
                    Some(&NEIGHBOR_SOLICIT) => {
                        self.receive_solicitation(header, message, about.from, now, cx);
                    }
                    Some(&NEIGHBOR_ADVERT) => {
                        self.receive_advertisement(header, message, about.from, now, cx);
                    }
                    _ => self.receive_router_advert(header, message, now, cx),
                }
            }
            _ => {}
        }
        Input::Done
    }

    /// Answers a ping.
    fn echo(
        &mut self,
        header: &Header,
        message: &[u8],
        kind: u8,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        // Answers to many must not take the room of those to one.
        if !cx.queue.has_room() {
            cx.stats.dropped_queue_full += 1;
            return;
        }
        let outbound = self.reply_to(header);
        self.answer(&outbound, message.len(), now, cx, &mut |bytes| {
            bytes.copy_from_slice(message);
            put(bytes, 0, &[kind]);
            checksum(&outbound, bytes);
        });
    }

    fn reply_to(&self, header: &Header) -> Outbound {
        let v6 = header.source.is_ipv6();
        Outbound {
            source: header.destination,
            destination: header.source,
            protocol: if v6 { ICMPV6 } else { ICMP },
            hop_limit: self.hop_limit(v6),
            ecn: Ecn::NotEct,
        }
    }

    fn receive_error<'f>(&self, v6: bool, message: &[u8], cx: &mut Context<'_>) -> Input<'f> {
        cx.stats.icmp_errors_in += 1;
        let (Some([kind, code]), Some(quote)) = (array(message, 0), message.get(HEADER..)) else {
            return Input::Done;
        };
        let Some(quoted) = quoted(v6, quote) else {
            return Input::Done;
        };
        // Only packets that this host can have sent.
        if !self.loopback && !self.addresses.has(quoted.local.ip()) {
            return Input::Done;
        }
        let kind = match (v6, kind, code) {
            (false, UNREACHABLE4, 4) | (true, TOO_BIG6, _) => {
                let mtu = if v6 {
                    be32(message, 4).unwrap_or(0)
                } else {
                    be16(message, 6).unwrap_or(0).into()
                };
                // Whoever sends this may have made it up: the transport knows better (RFC 5927 section 7, RFC 8201
                // section 4).
                Some(TroubleKind::TooBig {
                    mtu,
                    length: quoted.length,
                })
            }
            _ => meaning(v6, kind, code),
        };
        match kind {
            Some(kind) => Input::Trouble(Trouble {
                protocol: quoted.protocol,
                local: quoted.local,
                remote: quoted.remote,
                kind,
                seq: quoted.seq,
            }),
            None => Input::Done,
        }
    }

    /// A packet came for a port of this host that nobody has: answers with "port unreachable", within a rate limit.
    pub(crate) fn port_unreachable(
        &mut self,
        header: &Header,
        payload: &[u8],
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        // RFC 1122 section 3.2.2: not about what went to many.
        if !self.loopback && !self.addresses.has(header.destination) {
            return;
        }
        let quote = rebuilt(header, payload);
        let kind = if header.source.is_ipv6() {
            [UNREACHABLE6, 4]
        } else {
            [UNREACHABLE4, 3]
        };
        self.send_error(header, kind, 0, &quote, now, cx);
    }

    /// Answers a packet of a protocol that is not here.
    pub(super) fn protocol_unreachable(
        &mut self,
        header: &Header,
        payload: &[u8],
        about: &Origins<'_>,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        if about.cast != Cast::Own {
            return;
        }
        let built;
        let (quote, named_at) = if about.whole.is_empty() {
            built = rebuilt(header, payload);
            (&built[..], 6)
        } else {
            (about.whole, about.named_at)
        };
        if header.source.is_ipv6() {
            self.send_error(header, [PROBLEM6, 1], named_at as u32, quote, now, cx);
        } else {
            self.send_error(header, [UNREACHABLE4, 2], 0, quote, now, cx);
        }
    }

    /// Answers a packet whose extension headers are wrong, if that is to be answered.
    pub(super) fn problem(
        &mut self,
        header: &Header,
        about: &Origins<'_>,
        fault: Fault,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let Fault::Problem {
            code,
            pointer,
            groups_too,
        } = fault
        else {
            return;
        };
        if header.source.is_ipv4() {
            return;
        }
        let mut header = *header;
        if about.cast != Cast::Own {
            let source = self.addresses.source_for(header.source);
            match source.filter(|_| groups_too) {
                Some(source) => header.destination = source,
                None => return,
            }
        }
        self.send_error(&header, [PROBLEM6, code], pointer, about.whole, now, cx);
    }

    /// The time for the fragments of a datagram is over, and the first is there: `quote` starts with it.
    pub(super) fn reassembly_failed(
        &mut self,
        header: &Header,
        quote: &[u8],
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        if !self.loopback && !self.addresses.has(header.destination) {
            return;
        }
        let kind = if header.source.is_ipv6() {
            TIME_EXCEEDED6
        } else {
            TIME_EXCEEDED4
        };
        self.send_error(header, [kind, 1], 0, quote, now, cx);
    }

    /// Sends an error about a packet, which `quote` starts with, to its source.
    fn send_error(
        &mut self,
        header: &Header,
        kind: [u8; 2],
        word: u32,
        quote: &[u8],
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let v6 = header.source.is_ipv6();
        if header.source.is_unspecified() || is_error(header.protocol, quote) {
            return;
        }
        if !cx.queue.has_room() || !self.errors.take(now) {
            cx.stats.icmp_errors_limited += 1;
            return;
        }
        let most = if v6 {
            MOST6 - IPV6_HEADER - HEADER
        } else {
            MOST4 - IPV4_HEADER - HEADER
        };
        let quote = quote.get(..most).unwrap_or(quote);
        let outbound = self.reply_to(header);
        cx.stats.icmp_errors_out += 1;
        self.answer(&outbound, HEADER + quote.len(), now, cx, &mut |bytes| {
            put(bytes, 0, &kind);
            put(bytes, 4, &word.to_be_bytes());
            put(bytes, HEADER, quote);
            checksum(&outbound, bytes);
        });
    }
}

/// Writes the checksum of a message.
pub(super) fn checksum(outbound: &Outbound, message: &mut [u8]) {
    put(message, 2, &[0, 0]);
    let mut total = sum(message);
    if outbound.protocol == ICMPV6 {
        let pseudo = pseudo_sum(outbound.source, outbound.destination, ICMPV6, message.len());
        total = add_sums(total, pseudo);
    }
    put(message, 2, &(!total).to_be_bytes());
}

/// The start of a packet as it came, but for what [`Header`] does not hold.
#[inline(never)]
fn rebuilt(header: &Header, payload: &[u8]) -> Vec<u8> {
    let start = if header.source.is_ipv6() {
        IPV6_HEADER
    } else {
        IPV4_HEADER
    };
    let kept = payload.get(..MOST6).unwrap_or(payload);
    let mut bytes = alloc::vec![0; start];
    let outbound = Outbound {
        source: header.source,
        destination: header.destination,
        protocol: header.protocol,
        hop_limit: header.hop_limit,
        ecn: header.ecn,
    };
    write_ip(&mut bytes, &outbound, payload.len(), 0, 0);
    append(&mut bytes, kept);
    bytes
}

/// True if a packet of `protocol` that starts as `packet` is an ICMP error, or cut so short that it may be one.
fn is_error(protocol: u8, packet: &[u8]) -> bool {
    let v4 = packet.first().is_some_and(|byte| byte >> 4 == 4);
    match protocol {
        ICMP if v4 => {
            let header = packet.first().map_or(0, |byte| usize::from(byte & 15) * 4);
            !matches!(packet.get(header), Some(&(ECHO_REPLY4 | ECHO_REQUEST4)))
        }
        // Behind whatever extension headers: the types of errors have the first bit clear.
        ICMPV6 if !v4 => match packet::walk(packet, *packet.get(6).unwrap_or(&0), IPV6_HEADER, 6) {
            Ok(walk) => packet.get(walk.at).is_none_or(|kind| kind & 0x80 == 0),
            Err(_) => true,
        },
        _ => false,
    }
}
