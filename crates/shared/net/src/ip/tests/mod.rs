//! Dialogues with an interface, in virtual time.

mod fragments;
mod groups;
mod hosts;
mod links;
mod robust;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;
use std::borrow::ToOwned;
use std::fmt::Write;
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use kiln_abi::Instant;

use super::packet::{ICMP, ICMPV6, add_sums, pseudo_sum, put, sum};
use super::{Context, Header, Input, Interface, Outbound, UDP, headers_len, write_headers};
use crate::config::{Ipv4Setup, Ipv6Setup, LinkConfig};
use crate::queue::Queue;
use crate::random::Random;
use crate::stats::Stats;
use crate::tcp::Ecn;

pub(super) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
pub(super) const PEER: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const ALL: [u8; 6] = [0xff; 6];

/// An interface and the link that it is on.
pub(super) struct Host {
    pub interface: Interface,
    pub queue: Queue,
    pub random: Random,
    pub stats: Stats,
    pub now: Instant,
}

/// What [`Host::receive`] returns, without borrowing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    Nothing,
    Packet(Header, Vec<u8>),
    Trouble(super::Trouble),
}

pub(super) fn v4(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

pub(super) fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl Host {
    pub(super) fn new(config: LinkConfig) -> Self {
        let mut queue = Queue::new(256 * 1024);
        let mut random = Random::new([7; 32]);
        let mut stats = Stats::default();
        let now = Instant::from_nanos(1_000_000_000_000);
        let mut cx = Context {
            queue: &mut queue,
            random: &mut random,
            stats: &mut stats,
            hostname: "kiln",
        };
        let interface = Interface::new(&config.checked(), now, &mut cx);
        Self {
            interface,
            queue,
            random,
            stats,
            now,
        }
    }

    /// 10.0.0.7/24 with the gateway 10.0.0.1 and nothing else; what it said at first is forgotten.
    pub(super) fn v4() -> Self {
        let config = LinkConfig::new(MAC).ipv4(v4("10.0.0.7"), 24, Some(v4("10.0.0.1")));
        let mut host = Self::new(config);
        host.after(10);
        host.sent();
        host
    }

    /// `2001:db8::7/64` with the gateway `fe80::1`; what it said at first is forgotten.
    pub(super) fn v6() -> Self {
        let config = LinkConfig::new(MAC).ipv6(v6("2001:db8::7"), 64, Some(v6("fe80::1")));
        let mut host = Self::new(config);
        host.after(10);
        host.sent();
        host
    }

    /// IPv6 by autoconfiguration.
    pub(super) fn auto() -> Self {
        let mut config = LinkConfig::new(MAC);
        config.ipv6 = Ipv6Setup::Auto;
        Self::new(config)
    }

    pub(super) fn dhcp() -> Self {
        let mut config = LinkConfig::new(MAC);
        config.ipv4 = Ipv4Setup::Dhcp;
        Self::new(config)
    }

    pub(super) fn with<T>(
        &mut self,
        what: impl FnOnce(&mut Interface, Instant, &mut Context<'_>) -> T,
    ) -> T {
        let mut cx = Context {
            queue: &mut self.queue,
            random: &mut self.random,
            stats: &mut self.stats,
            hostname: "kiln",
        };
        what(&mut self.interface, self.now, &mut cx)
    }

    pub(super) fn receive(&mut self, frame: &[u8]) -> Got {
        self.receive_from(frame, false)
    }

    /// As [`receive`](Self::receive); `trusted` if the link vouches for the transport's checksum.
    pub(super) fn receive_from(&mut self, frame: &[u8], trusted: bool) -> Got {
        self.with(
            |interface, now, cx| match interface.receive(frame, trusted, now, cx) {
                Input::Done | Input::Echo => Got::Nothing,
                Input::Packet(header, payload) => Got::Packet(header, payload.into_owned()),
                Input::Trouble(trouble) => Got::Trouble(trouble),
            },
        )
    }

    /// Lets time pass, event by event.
    pub(super) fn after(&mut self, seconds: u64) {
        self.after_millis(seconds * 1000);
    }

    pub(super) fn after_millis(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        let mut events = 0;
        while self.interface.deadline() <= end {
            self.now = self.now.max(self.interface.deadline());
            self.with(Interface::advance);
            events += 1;
            assert!(events < 100_000, "time does not pass");
        }
        self.now = end;
    }

    /// The frames that wait to leave, which are taken.
    pub(super) fn sent(&mut self) -> Vec<Vec<u8>> {
        let frames: Vec<_> = self
            .queue
            .frames()
            .map(|frame| self.queue.head(frame).to_owned())
            .collect();
        self.queue.take(frames.len());
        frames
    }

    /// The same in words.
    pub(super) fn said(&mut self) -> Vec<String> {
        self.sent().iter().map(|frame| describe(frame)).collect()
    }

    /// Sends a datagram of `size` bytes.
    pub(super) fn send(&mut self, to: &str, size: usize) -> Result<(), crate::Error> {
        let destination = ip(to);
        let way = self
            .interface
            .way(destination)
            .ok_or(crate::Error::Unreachable)?;
        let outbound = Outbound {
            source: way.source,
            destination,
            protocol: UDP,
            hop_limit: 64,
            ecn: Ecn::NotEct,
        };
        self.with(|interface, now, cx| {
            interface.send(outbound, way.next_hop, size, pattern, now, cx)
        })
    }
}

/// Bytes that differ from place to place, with ports 1 and 2 in front.
pub(super) fn pattern(bytes: &mut [u8]) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = (index / 7 + index) as u8;
    }
    put(bytes, 0, &[0, 1, 0, 2]);
}

/// A frame from `PEER`.
pub(super) fn frame(
    to: [u8; 6],
    (source, destination): (&str, &str),
    protocol: u8,
    hop_limit: u8,
    payload: &[u8],
) -> Vec<u8> {
    let outbound = Outbound {
        source: ip(source),
        destination: ip(destination),
        protocol,
        hop_limit,
        ecn: Ecn::NotEct,
    };
    let headers = headers_len(outbound.source.is_ipv6());
    let mut bytes = vec![0; headers];
    write_headers(&mut bytes, &outbound, (PEER, to), payload.len(), 0);
    bytes.extend(payload);
    bytes
}

/// As [`frame`], with a message whose checksum is filled in.
pub(super) fn icmp(to: [u8; 6], addresses: (&str, &str), hop_limit: u8, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_owned();
    put(&mut message, 2, &[0, 0]);
    let (source, destination) = (ip(addresses.0), ip(addresses.1));
    let protocol = if source.is_ipv6() { ICMPV6 } else { ICMP };
    let mut total = sum(&message);
    if source.is_ipv6() {
        let pseudo = pseudo_sum(source, destination, protocol, message.len());
        total = add_sums(total, pseudo);
    }
    put(&mut message, 2, &(!total).to_be_bytes());
    frame(to, addresses, protocol, hop_limit, &message)
}

pub(super) fn arp(to: [u8; 6], operation: u8, mac: [u8; 6], sender: &str, target: &str) -> Vec<u8> {
    let mut bytes = to.to_vec();
    bytes.extend(mac);
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    bytes.extend(mac);
    bytes.extend(v4(sender).octets());
    bytes.extend(if to == ALL { [0; 6] } else { to });
    bytes.extend(v4(target).octets());
    // The least that Ethernet carries.
    bytes.resize(60, 0);
    bytes
}

/// A neighbour solicitation (135) or advertisement (136) with its option (1 or 2).
pub(super) fn ndp(kind: u8, flags: u8, target: &str, option: Option<(u8, [u8; 6])>) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    bytes.extend(v6(target).octets());
    if let Some((kind, mac)) = option {
        bytes.extend([kind, 1]);
        bytes.extend(mac);
    }
    bytes
}

fn mac(bytes: &[u8]) -> String {
    match bytes {
        _ if bytes == PEER => "peer".into(),
        _ if bytes == MAC => "us".into(),
        _ if bytes == ALL => "all".into(),
        _ => bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .join(":"),
    }
}

fn address6(bytes: &[u8]) -> Ipv6Addr {
    let bytes: [u8; 16] = bytes.try_into().expect("16 bytes");
    bytes.into()
}

fn address4(bytes: &[u8]) -> Ipv4Addr {
    let bytes: [u8; 4] = bytes.try_into().expect("4 bytes");
    bytes.into()
}

/// A frame in words, with its checksums verified.
pub(super) fn describe(frame: &[u8]) -> String {
    let to = mac(&frame[..6]);
    assert_eq!(&frame[6..12], MAC, "the source is us");
    let packet = &frame[14..];
    match frame[12..14] {
        [8, 6] => {
            let (sender, target) = (address4(&packet[14..18]), address4(&packet[24..28]));
            match packet[7] {
                1 => format!("arp who-has {target} tell {sender} > {to}"),
                _ => format!(
                    "arp {sender} is-at {} for {target} > {to}",
                    mac(&packet[8..14])
                ),
            }
        }
        [8, 0] => {
            let length = usize::from(packet[0] & 15) * 4;
            assert_eq!(sum(&packet[..length]), 0xffff, "header checksum");
            assert_eq!(
                usize::from(u16::from_be_bytes([packet[2], packet[3]])),
                packet.len()
            );
            let payload = &packet[length..];
            let position = u16::from_be_bytes([packet[6], packet[7]]);
            let addresses = format!(
                "{} > {}",
                address4(&packet[12..16]),
                address4(&packet[16..20])
            );
            let what = if position & 0x3fff != 0 {
                fragment(
                    usize::from(position & 0x1fff) * 8,
                    payload.len(),
                    position & 0x2000 != 0,
                )
            } else {
                match packet[9] {
                    1 => {
                        assert_eq!(sum(payload), 0xffff, "ICMP checksum");
                        format!("icmp {}.{} +{}", payload[0], payload[1], payload.len() - 8)
                    }
                    2 => {
                        assert_eq!(sum(payload), 0xffff, "IGMP checksum");
                        igmp(payload)
                    }
                    17 => format!("udp +{}", payload.len()),
                    other => format!("protocol {other}"),
                }
            };
            format!("{addresses} {what} > {to}")
        }
        _ => {
            assert_eq!(
                usize::from(u16::from_be_bytes([packet[4], packet[5]])),
                packet.len() - 40
            );
            let (source, destination) = (address6(&packet[8..24]), address6(&packet[24..40]));
            let mut payload = &packet[40..];
            let mut next = packet[6];
            let mut prefix = String::new();
            if next == 0 {
                assert_eq!(payload[..8], [58, 0, 5, 2, 0, 0, 1, 0], "router alert");
                assert_eq!(packet[7], 1);
                next = payload[0];
                payload = &payload[8..];
                prefix = "alert ".into();
            }
            let what = match next {
                44 => {
                    let position = u16::from_be_bytes([payload[2], payload[3]]);
                    fragment(
                        usize::from(position & !7),
                        payload.len() - 8,
                        position & 1 == 1,
                    )
                }
                58 => {
                    let pseudo = pseudo_sum(source.into(), destination.into(), 58, payload.len());
                    assert_eq!(add_sums(pseudo, sum(payload)), 0xffff, "ICMPv6 checksum");
                    icmp6(payload, packet[7])
                }
                17 => format!("udp +{}", payload.len()),
                other => format!("protocol {other}"),
            };
            format!("{source} > {destination} {prefix}{what} > {to}")
        }
    }
}

fn fragment(offset: usize, length: usize, more: bool) -> String {
    format!(
        "fragment {offset}+{length}{}",
        if more { "..." } else { "" }
    )
}

fn icmp6(message: &[u8], hop_limit: u8) -> String {
    let option = |at: usize| match message.get(at..at + 8) {
        Some([kind, 1, address @ ..]) => format!(" option {kind} {}", mac(address)),
        _ => String::new(),
    };
    if (133..=137).contains(&message[0]) {
        assert_eq!(hop_limit, 255);
    }
    match message[0] {
        133 => format!("router solicitation{}", option(8)),
        135 => format!("who-has {}{}", address6(&message[8..24]), option(24)),
        136 => {
            let flags: String = [(0x80, 'R'), (0x40, 'S'), (0x20, 'O')]
                .iter()
                .filter(|(bit, _)| message[4] & bit != 0)
                .map(|(_, letter)| letter)
                .collect();
            format!(
                "{} is-at [{flags}]{}",
                address6(&message[8..24]),
                option(24)
            )
        }
        131 => format!("mld1 report {}", address6(&message[8..24])),
        132 => format!("mld1 done {}", address6(&message[8..24])),
        143 => {
            let mut text = String::from("mld2");
            for record in message[8..].chunks(20) {
                let _ = write!(text, " {}:{}", record[0], address6(&record[4..20]));
            }
            text
        }
        kind => format!("icmp {kind}.{} +{}", message[1], message.len() - 8),
    }
}

fn igmp(message: &[u8]) -> String {
    match message[0] {
        0x22 => {
            let mut text = String::from("igmp3");
            for record in message[8..].chunks(8) {
                let _ = write!(text, " {}:{}", record[0], address4(&record[4..8]));
            }
            text
        }
        kind => format!("igmp {kind:#x} {}", address4(&message[4..8])),
    }
}
