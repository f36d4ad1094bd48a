//! What happens to a frame that arrives.
//!
//! The order is that of RFC 1122 section 3.2.1: is the header in order, is the packet for this host, can it come from
//! outside, are fragments missing, whom is it for.

use alloc::borrow::Cow;
use core::net::IpAddr;

use kiln_abi::Instant;

use super::address::broadcast_of;
use super::interface::Interface;
use super::packet::{self, Fault, Fragment, Mac, Packet, be16};
use super::reassembly::Outcome;
use super::{Context, ETHERNET_HEADER, Header, Input, TCP, UDP, dhcp4, dhcp6};
use crate::config::{is_host4, is_host6};

/// To whom a packet is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cast {
    Own,
    Group,
    Broadcast,
    Other,
}

/// What is known about a received packet besides its header.
#[derive(Clone, Copy)]
pub(super) struct Origins<'a> {
    pub cast: Cast,
    /// The transport's checksum need not be verified.
    pub trusted: bool,
    /// The Ethernet address that it came from.
    pub from: Mac,
    /// The packet as it came; empty if it was put together from fragments.
    pub whole: &'a [u8],
    /// Where in it the protocol is named.
    pub named_at: usize,
    /// There was an IPv6 fragment header.
    pub fragmented: bool,
    /// There was a router alert.
    pub alert: bool,
}

impl Interface {
    /// Takes in a frame. `trusted` if its transport's checksum need not be verified: the host has, or has left it out.
    pub(crate) fn receive<'f>(
        &mut self,
        frame: &'f [u8],
        trusted: bool,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Input<'f> {
        let Some((ethernet, bytes)) = frame.split_first_chunk::<ETHERNET_HEADER>() else {
            cx.stats.dropped_malformed += 1;
            return Input::Done;
        };
        let [.., kind0, kind1] = *ethernet;
        let [to, from] = [0, 6].map(|at| packet::array::<6>(ethernet, at).unwrap_or_default());
        let to_group = to[0] & 1 == 1;
        let kind = match bytes.first() {
            Some(first) if self.loopback => match first >> 4 {
                4 => [0x08, 0x00],
                _ => [0x86, 0xdd],
            },
            _ => {
                // Bridges flood: only what is for this host, or for many, is worth a look.
                if !to_group && to != self.mac {
                    return Input::Done;
                }
                [kind0, kind1]
            }
        };
        let outcome = match kind {
            [0x08, 0x00] => self.receive4(bytes, to_group, trusted, from, now, cx),
            [0x86, 0xdd] => self.receive6(bytes, to_group, trusted, from, now, cx),
            [0x08, 0x06] => {
                self.receive_arp(frame, bytes, now, cx);
                Ok(Input::Done)
            }
            _ => Ok(Input::Done),
        };
        match outcome {
            Ok(input) => input,
            Err(fault) => {
                match fault {
                    Fault::Malformed => cx.stats.dropped_malformed += 1,
                    Fault::Checksum => cx.stats.dropped_checksum += 1,
                    Fault::Unsupported => cx.stats.dropped_unsupported += 1,
                    Fault::Silent | Fault::Problem { .. } => {}
                }
                Input::Done
            }
        }
    }

    fn receive4<'f>(
        &mut self,
        bytes: &'f [u8],
        to_group: bool,
        trusted: bool,
        from: Mac,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Result<Input<'f>, Fault> {
        let packet = packet::ipv4(bytes)?;
        let Some(cast) = self.admit(&packet, to_group, cx) else {
            return Ok(Input::Done);
        };
        let about = Origins {
            cast,
            trusted,
            from,
            whole: packet.whole,
            named_at: 9,
            fragmented: false,
            alert: false,
        };
        if let Some(fragment) = packet.fragment {
            return self.reassemble(&packet.header, fragment, packet.payload, &about, now, cx);
        }
        Ok(self.deliver(
            packet.header,
            Cow::Borrowed(packet.payload),
            &about,
            now,
            cx,
        ))
    }

    fn receive6<'f>(
        &mut self,
        bytes: &'f [u8],
        to_group: bool,
        trusted: bool,
        from: Mac,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Result<Input<'f>, Fault> {
        let packet = packet::ipv6(bytes)?;
        let Some(cast) = self.admit(&packet, to_group, cx) else {
            return Ok(Input::Done);
        };
        let mut about = Origins {
            cast,
            trusted,
            from,
            whole: packet.whole,
            named_at: 6,
            fragmented: false,
            alert: false,
        };
        let mut header = packet.header;
        let mut payload = packet.payload;
        if packet::is_extension(header.protocol) {
            let walk = match packet::walk(packet.whole, header.protocol, packet::IPV6_HEADER, 6) {
                Ok(walk) => walk,
                Err(fault) => {
                    self.problem(&header, &about, fault, now, cx);
                    return Err(fault);
                }
            };
            header.protocol = walk.protocol;
            payload = packet.whole.get(walk.at..).ok_or(Fault::Malformed)?;
            about.named_at = walk.named_at;
            about.fragmented = walk.fragmented;
            about.alert = walk.alert;
            if let Some(fragment) = walk.fragment {
                return self.reassemble(&header, fragment, payload, &about, now, cx);
            }
        }
        Ok(self.deliver(header, Cow::Borrowed(payload), &about, now, cx))
    }

    /// Takes in a fragment; about a complete datagram happens what happens to a packet.
    fn reassemble<'f>(
        &mut self,
        header: &Header,
        fragment: Fragment,
        data: &[u8],
        about: &Origins<'_>,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Result<Input<'f>, Fault> {
        cx.stats.fragments_in += 1;
        if let Some(fault) = fragment_fault(header, fragment, data, about) {
            self.problem(header, about, fault, now, cx);
            return Err(Fault::Malformed);
        }
        let outcome = self
            .reassembly
            .add(header, fragment, data, about.whole, now);
        self.due = self.due.min(self.reassembly.deadline());
        let (mut header, mut payload) = match outcome {
            Outcome::Waiting => return Ok(Input::Done),
            Outcome::Broken => {
                cx.stats.reassembly_failed += 1;
                return Ok(Input::Done);
            }
            Outcome::Complete(header, payload) => (header, payload),
        };
        cx.stats.reassembled += 1;
        if header.source.is_ipv6() && packet::is_extension(header.protocol) {
            let walk = packet::walk(&payload, header.protocol, 0, 0)?;
            if walk.fragmented {
                return Err(Fault::Malformed);
            }
            header.protocol = walk.protocol;
            payload.drain(..walk.at.min(payload.len()));
        }
        let about = Origins {
            // The host has seen only the fragments.
            trusted: false,
            whole: &[],
            fragmented: true,
            ..*about
        };
        Ok(self.deliver(header, Cow::Owned(payload), &about, now, cx))
    }

    /// To whom a packet is addressed; nothing if it is not for us, or cannot come from outside.
    fn admit(&mut self, packet: &Packet<'_>, to_group: bool, cx: &mut Context<'_>) -> Option<Cast> {
        if self.loopback {
            return Some(Cast::Own);
        }
        let Header {
            source,
            destination,
            protocol,
            ..
        } = packet.header;
        let plausible = match source {
            // RFC 1122 section 3.2.1.3. Snooping switches query groups without an address (RFC 4541 section 2.1.1).
            IpAddr::V4(source) => {
                is_host4(source) && source.octets()[0] < 240 && !self.is_broadcast(source.into())
                    || (source.is_unspecified() && protocol == packet::IGMP)
            }
            // RFC 4291 section 2.5.5.2: mapped addresses are not for the wire. Without an address one can only ask.
            IpAddr::V6(source) => {
                is_host6(source) && source.to_ipv4_mapped().is_none()
                    || (source.is_unspecified() && protocol == packet::ICMPV6)
            }
        };
        let cast = self.cast(destination);
        // Another owner of an address advertises it from that address; `receive_icmp6` lets nothing else pass.
        let ours = self.addresses.has(source) && protocol != packet::ICMPV6;
        if !plausible || ours || destination.is_loopback() {
            cx.stats.dropped_martian += 1;
            return None;
        }
        match cast {
            // The server may send the answer to the address that it gives.
            Cast::Other if !to_group && protocol == UDP && self.awaits_lease() => Some(cast),
            Cast::Other => None,
            // RFC 1122 section 3.3.6: who sends to all with an address of one is up to no good.
            Cast::Own if to_group => {
                cx.stats.dropped_martian += 1;
                None
            }
            cast => Some(cast),
        }
    }

    fn cast(&self, destination: IpAddr) -> Cast {
        if self.addresses.has(destination) {
            Cast::Own
        } else if destination.is_multicast() {
            if self.groups.has(destination) {
                Cast::Group
            } else {
                Cast::Other
            }
        } else if self.is_broadcast(destination) {
            Cast::Broadcast
        } else {
            Cast::Other
        }
    }

    /// True for an address that means everybody in an IPv4 network of the link.
    pub(super) fn is_broadcast(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else {
            return false;
        };
        address.is_broadcast()
            || self.addresses.iter().any(|own| match own.address {
                IpAddr::V4(mine) => broadcast_of(mine, own.prefix) == Some(address),
                IpAddr::V6(_) => false,
            })
    }

    /// Hands a complete packet to whom it is for.
    fn deliver<'f>(
        &mut self,
        header: Header,
        payload: Cow<'f, [u8]>,
        about: &Origins<'_>,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Input<'f> {
        let to_port = |port| be16(&payload, 2) == Some(port);
        match (header.protocol, header.source) {
            // RFC 9293 section 3.9.2.3: connections are between two.
            (TCP, _) if about.cast == Cast::Own => Input::Packet(header, payload),
            (TCP, _) => Input::Done,
            (UDP, IpAddr::V4(_)) if self.dhcp4.is_some() && to_port(dhcp4::CLIENT_PORT) => {
                self.receive_dhcp4(&header, &payload, about.trusted, now, cx);
                Input::Done
            }
            (UDP, IpAddr::V6(_)) if self.dhcp6.is_some() && to_port(dhcp6::CLIENT_PORT) => {
                self.receive_dhcp6(&header, &payload, about.trusted, now, cx);
                Input::Done
            }
            _ if about.cast == Cast::Other => Input::Done,
            (UDP, _) => Input::Packet(header, payload),
            (packet::IGMP, IpAddr::V4(_)) => {
                self.receive_igmp(&payload, now, cx);
                Input::Done
            }
            (packet::ICMP, IpAddr::V4(_)) => {
                match self.receive_icmp4(&header, &payload, about, now, cx) {
                    Input::Echo => Input::Packet(header, payload),
                    other => other,
                }
            }
            (packet::ICMPV6, IpAddr::V6(_)) => {
                match self.receive_icmp6(&header, &payload, about, now, cx) {
                    Input::Echo => Input::Packet(header, payload),
                    other => other,
                }
            }
            _ => {
                cx.stats.dropped_unsupported += 1;
                self.protocol_unreachable(&header, &payload, about, now, cx);
                Input::Done
            }
        }
    }
}

/// What is wrong with a fragment, if anything is (RFC 8200 section 4.5, RFC 7112).
fn fragment_fault(
    header: &Header,
    fragment: Fragment,
    data: &[u8],
    about: &Origins<'_>,
) -> Option<Fault> {
    let problem = |code, pointer: usize| Fault::Problem {
        code,
        pointer: pointer as u32,
        groups_too: false,
    };
    let v6 = header.source.is_ipv6();
    // Of the whole datagram: IPv4's length counts the header.
    let most = if v6 {
        65_535
    } else {
        65_535 - packet::IPV4_HEADER
    };
    let start = about.whole.len() - data.len().min(about.whole.len());
    if data.is_empty() {
        return Some(Fault::Malformed);
    }
    if fragment.more && !data.len().is_multiple_of(8) {
        return Some(problem(0, 4));
    }
    if fragment.offset + data.len() > most {
        // The field with the offset.
        return Some(problem(0, start.saturating_sub(6)));
    }
    if v6 && fragment.offset == 0 {
        // Filters must be able to see what it is: all headers are in the first fragment.
        let walk = packet::walk(about.whole, header.protocol, start, 0);
        let complete = walk.is_ok_and(|walk| walk.at < about.whole.len());
        return (!complete).then(|| problem(3, 0));
    }
    None
}
