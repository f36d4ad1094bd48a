//! Neighbour solicitations and advertisements (RFC 4861 section 7), and the detection of duplicate addresses with them
//! (RFC 4862 section 5.4, optimistic as in RFC 4429).
//!
//! While an address is being checked it is used, but nobody's cache is changed in its favour: solicitations from it carry
//! no Ethernet address and advertisements for it do not override.

use core::net::{IpAddr, Ipv6Addr};

use kiln_abi::Instant;

use super::Evidence;
use crate::ip::icmp::checksum;
use crate::ip::interface::Interface;
use crate::ip::packet::{ICMPV6, Mac, array, group_mac, is_host_mac, put};
use crate::ip::{Context, Header, Outbound};
use crate::tcp::Ecn;

pub(in crate::ip) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub(in crate::ip) const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Types of messages.
pub(in crate::ip) const ROUTER_SOLICITATION: u8 = 133;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Flags of advertisements.
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// A message of neighbour discovery that this host sends.
#[derive(Clone, Copy, Debug)]
pub(in crate::ip) struct Message {
    pub kind: u8,
    pub flags: u8,
    /// Nothing in router solicitations.
    pub target: Option<Ipv6Addr>,
    /// Our Ethernet address, in an option of this type.
    pub option: Option<u8>,
}

/// The options of a neighbour discovery message that is in order (RFC 4861 section 4.6): nothing if one has length 0 or is
/// cut short, since such a message is to be dropped whole.
pub(in crate::ip) fn options(mut bytes: &[u8]) -> Option<Options<'_>> {
    let all = bytes;
    while !bytes.is_empty() {
        let length = usize::from(*bytes.get(1)?) * 8;
        bytes = bytes.get(length..).filter(|_| length > 0)?;
    }
    Some(Options(all))
}

/// See [`options`]: types, and options from the type on.
pub(in crate::ip) struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [kind, length] = array(self.0, 0)?;
        let (option, rest) = self.0.split_at_checked(usize::from(length) * 8)?;
        self.0 = rest;
        Some((kind, option))
    }
}

/// The Ethernet address in a source (1) or target (2) link-layer address option.
#[inline(never)]
pub(in crate::ip) fn link_layer(options: &[u8], kind: u8) -> Option<Mac> {
    let (_, option) = self::options(options)?.find(|option| option.0 == kind)?;
    array(option, 2).filter(|mac| is_host_mac(*mac))
}

/// The address that a solicitation or advertisement is about, and its options; nothing if it is malformed.
#[inline(never)]
fn read(message: &[u8]) -> Option<(Ipv6Addr, &[u8])> {
    let target = Ipv6Addr::from(array::<16>(message, 8)?);
    let behind = message.get(24..)?;
    let valid = message.get(1) == Some(&0) && !target.is_multicast();
    (valid && options(behind).is_some()).then_some((target, behind))
}

/// The group of those whose addresses end like this one (RFC 4291 section 2.7.1).
pub(in crate::ip) const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | a as u16,
        u16::from_be_bytes([b, c]),
    )
}

impl Interface {
    /// Takes in a neighbour solicitation; its checksum and hop limit have been checked.
    pub(in crate::ip) fn receive_solicitation(
        &mut self,
        header: &Header,
        message: &[u8],
        from: Mac,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (header.source, header.destination)
        else {
            return;
        };
        let Some((target, options)) = read(message) else {
            cx.stats.dropped_malformed += 1;
            return;
        };
        let mac = link_layer(options, 1);
        if source.is_unspecified() && (mac.is_some() || destination != solicited_node(target)) {
            cx.stats.dropped_malformed += 1;
            return;
        }
        if !self.has(target.into()) {
            return;
        }
        let checking = self.addresses.is_checking(target.into());
        if source.is_unspecified() {
            // Our own solicitation, come back from a bridge, is no duplicate.
            if from == self.mac {
                return;
            }
            if checking {
                self.duplicate(target, now, cx);
                return;
            }
        } else if let Some(mac) = mac {
            self.heard(source.into(), Some(mac), Evidence::Asks, now, cx);
        }
        let mut flags = if checking { 0 } else { OVERRIDE };
        let to = if source.is_unspecified() {
            ALL_NODES
        } else {
            flags |= SOLICITED;
            source
        };
        let answer = Message {
            kind: ADVERTISEMENT,
            flags,
            target: Some(target),
            option: Some(2),
        };
        // Who asks wants the answer at once; its Ethernet address is in the frame even if not in the option.
        let mac = if to == ALL_NODES {
            group_mac(to.into())
        } else {
            mac.unwrap_or(from)
        };
        self.send_ndp(&answer, target, to, mac, now, cx);
    }

    /// Takes in a neighbour advertisement; its checksum and hop limit have been checked.
    pub(in crate::ip) fn receive_advertisement(
        &mut self,
        header: &Header,
        message: &[u8],
        from: Mac,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let flags = message.get(4).copied().unwrap_or(0);
        let solicited = flags & SOLICITED != 0;
        let contradicts = header.destination.is_multicast() && solicited;
        let Some((target, options)) = read(message).filter(|_| !contradicts) else {
            cx.stats.dropped_malformed += 1;
            return;
        };
        if self.has(target.into()) {
            if from == self.mac {
            } else if self.addresses.is_checking(target.into()) {
                self.duplicate(target, now, cx);
            } else {
                cx.stats.address_conflicts += 1;
            }
            return;
        }
        let evidence = Evidence::Advert {
            solicited,
            replace: flags & OVERRIDE != 0,
            router: flags & ROUTER != 0,
        };
        let mac = link_layer(options, 2);
        self.heard(target.into(), mac, evidence, now, cx);
    }

    /// Asks for the Ethernet address of `target`.
    pub(in crate::ip) fn send_solicitation(
        &mut self,
        source: Ipv6Addr,
        target: Ipv6Addr,
        mac: Option<Mac>,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let group = solicited_node(target);
        let (to, mac) = mac.map_or_else(|| (group, group_mac(group.into())), |mac| (target, mac));
        let checked = !source.is_unspecified() && !self.addresses.is_checking(source.into());
        let message = Message {
            kind: SOLICITATION,
            flags: 0,
            target: Some(target),
            option: checked.then_some(1),
        };
        self.send_ndp(&message, source, to, mac, now, cx);
    }

    /// Asks whether somebody else has an address of ours.
    pub(in crate::ip) fn check_address(
        &mut self,
        address: Ipv6Addr,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        self.send_solicitation(Ipv6Addr::UNSPECIFIED, address, None, now, cx);
    }

    /// Sends a message of neighbour discovery.
    pub(in crate::ip) fn send_ndp(
        &mut self,
        message: &Message,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        mac: Mac,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let outbound = Outbound {
            source: source.into(),
            destination: destination.into(),
            protocol: ICMPV6,
            hop_limit: 255,
            ecn: Ecn::NotEct,
        };
        let own = self.mac;
        let option_at = if message.target.is_some() { 24 } else { 8 };
        let length = option_at + if message.option.is_some() { 8 } else { 0 };
        let sent = self.transmit(&outbound, mac, length, now, cx, &mut |bytes| {
            put(bytes, 0, &[message.kind]);
            put(bytes, 4, &[message.flags]);
            if let Some(target) = message.target {
                put(bytes, 8, &target.octets());
            }
            if let Some(kind) = message.option {
                put(bytes, option_at, &[kind, 1]);
                put(bytes, option_at + 2, &own);
            }
            checksum(&outbound, bytes);
        });
        cx.stats.dropped_queue_full += u64::from(sent.is_err());
    }
}
