//! Stateless DHCP for IPv6 (RFC 8415 section 18.2.6): asks for DNS servers when a router says that there is more to learn.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use kiln_abi::Instant;

use super::interface::Interface;
use super::packet::{array, be16, be32, checksum_is_right, fill_udp_checksum, group_mac, put};
use super::router::vary;
use super::{Context, Header, Outbound, UDP};
use crate::config::is_host6;
use crate::random::Random;
use crate::tcp::Ecn;

pub(super) const CLIENT_PORT: u16 = 546;
const SERVER_PORT: u16 = 547;
const UDP_HEADER: usize = 8;
const SERVERS_AND_RELAYS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

const MAX_SERVERS: usize = 3;
/// Section 7.6.
const MAX_DELAY: Duration = Duration::from_secs(1);
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TIMEOUT: Duration = Duration::from_hours(1);
const REFRESH: Duration = Duration::from_hours(24);
const LEAST_REFRESH: Duration = Duration::from_mins(10);

const REPLY: u8 = 7;
const INFORMATION_REQUEST: u8 = 11;
const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const OPTION_REQUEST: u16 = 6;
const ELAPSED_TIME: u16 = 8;
const DNS_SERVERS: u16 = 23;
const REFRESH_TIME: u16 = 32;

/// The client.
#[derive(Debug)]
pub(super) struct Client {
    mac: [u8; 6],
    /// 24 bits.
    id: u32,
    /// Nothing if no answer is awaited.
    since: Option<Instant>,
    interval: Duration,
    due: Instant,
    servers: Vec<Ipv6Addr>,
}

impl Client {
    /// A client that asks soon: after a random time, against many hosts that hear the same router.
    pub(super) fn new(mac: [u8; 6], now: Instant, random: &mut Random) -> Self {
        Self {
            mac,
            id: 0,
            since: None,
            interval: Duration::ZERO,
            due: now + MAX_DELAY / 1000 * random.below(1000),
            servers: Vec::new(),
        }
    }

    /// When [`advance`](Self::advance) has something to do.
    pub(super) fn deadline(&self) -> Instant {
        self.due
    }

    /// The message to send, if one is due: from the UDP header on, without its checksum.
    fn advance(&mut self, now: Instant, random: &mut Random) -> Option<Vec<u8>> {
        if now < self.due {
            return None;
        }
        let since = *self.since.get_or_insert_with(|| {
            self.interval = Duration::ZERO;
            self.id = random.next_u32() & 0x00ff_ffff;
            now
        });
        let next = if self.interval.is_zero() {
            FIRST_TIMEOUT
        } else {
            self.interval * 2
        };
        self.interval = vary(next.min(MAX_TIMEOUT), random);
        self.due = now + self.interval;
        let elapsed = now.since(since).as_millis() / 10;
        let elapsed = u16::try_from(elapsed).unwrap_or(u16::MAX);
        Some(self.request(elapsed))
    }

    fn request(&self, elapsed: u16) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(
            [CLIENT_PORT, SERVER_PORT, 0, 0]
                .map(u16::to_be_bytes)
                .as_flattened(),
        );
        bytes.extend((u32::from(INFORMATION_REQUEST) << 24 | self.id).to_be_bytes());
        // The identifier is that of the Ethernet address, type 3 (section 11.4).
        bytes.extend([CLIENT_ID, 10, 3, 1].map(u16::to_be_bytes).as_flattened());
        bytes.extend(self.mac);
        let rest = [
            OPTION_REQUEST,
            4,
            DNS_SERVERS,
            REFRESH_TIME,
            ELAPSED_TIME,
            2,
            elapsed,
        ];
        bytes.extend(rest.map(u16::to_be_bytes).as_flattened());
        let length = bytes.len() as u16;
        put(&mut bytes, 4, &length.to_be_bytes());
        bytes
    }

    /// Takes in a message. True if the servers are others now.
    fn receive(&mut self, message: &[u8], now: Instant) -> bool {
        if self.since.is_none() || be32(message, 0) != Some(u32::from(REPLY) << 24 | self.id) {
            return false;
        }
        let mut servers = Vec::new();
        let mut refresh = REFRESH;
        let mut identified = false;
        let mut rest = message.get(4..).unwrap_or_default();
        while let (Some(kind), Some(length)) = (be16(rest, 0), be16(rest, 2)) {
            let end = 4 + usize::from(length);
            let Some(data) = rest.get(4..end) else {
                return false;
            };
            match kind {
                // Section 16.10: for another client.
                CLIENT_ID
                    if array(data, 0) != Some([0, 3, 0, 1]) || data.get(4..) != Some(&self.mac) =>
                {
                    return false;
                }
                SERVER_ID => identified = true,
                DNS_SERVERS => {
                    let list = data
                        .as_chunks::<16>()
                        .0
                        .iter()
                        .map(|bytes| Ipv6Addr::from(*bytes));
                    servers.extend(list.filter(|server| is_host6(*server)).take(MAX_SERVERS));
                }
                REFRESH_TIME => {
                    if let Some(seconds) = be32(data, 0) {
                        refresh = Duration::from_secs(seconds.into()).max(LEAST_REFRESH);
                    }
                }
                _ => {}
            }
            rest = rest.get(end..).unwrap_or_default();
        }
        if !identified || !rest.is_empty() {
            return false;
        }
        servers.truncate(MAX_SERVERS);
        self.since = None;
        self.due = now + refresh;
        let changed = servers != self.servers;
        self.servers = servers;
        changed
    }
}

impl Interface {
    /// A router says that DHCP knows more.
    pub(super) fn start_dhcp6(&mut self, now: Instant, cx: &mut Context<'_>) {
        let mac = self.mac;
        let client = self
            .dhcp6
            .get_or_insert_with(|| Box::new(Client::new(mac, now, cx.random)));
        self.due = self.due.min(client.deadline());
    }

    /// Takes in a datagram for the client's port.
    pub(super) fn receive_dhcp6(
        &mut self,
        header: &Header,
        datagram: &[u8],
        trusted: bool,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        if !trusted && !checksum_is_right(header, datagram) {
            cx.stats.dropped_checksum += 1;
            return;
        }
        if let Some(client) = &mut self.dhcp6
            && let Some(message) = datagram.get(UDP_HEADER..)
        {
            self.changes.addresses |= client.receive(message, now);
            self.due = self.due.min(client.deadline());
        }
    }

    /// Does what is due.
    pub(super) fn advance_dhcp6(&mut self, now: Instant, cx: &mut Context<'_>) {
        let Some(client) = &mut self.dhcp6 else {
            return;
        };
        let Some(mut datagram) = client.advance(now, cx.random) else {
            return;
        };
        let outbound = Outbound {
            source: self.link_source(true),
            destination: SERVERS_AND_RELAYS.into(),
            protocol: UDP,
            hop_limit: 64,
            ecn: Ecn::NotEct,
        };
        fill_udp_checksum(&outbound, &mut datagram);
        let mac = group_mac(outbound.destination);
        let sent = self.transmit(&outbound, mac, datagram.len(), now, cx, &mut |bytes| {
            bytes.copy_from_slice(&datagram);
        });
        cx.stats.dropped_queue_full += u64::from(sent.is_err());
    }

    /// The DNS servers that DHCP knows.
    pub(super) fn dhcp6_servers(&self) -> impl Iterator<Item = IpAddr> {
        let servers = self
            .dhcp6
            .as_ref()
            .map_or(&[][..], |client| &client.servers);
        servers.iter().copied().map(IpAddr::V6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn reply(id: u32) -> Vec<u8> {
        let mut bytes = (7 << 24 | id).to_be_bytes().to_vec();
        bytes.extend([0, 1, 0, 10, 0, 3, 0, 1]);
        bytes.extend(MAC);
        bytes.extend([0, 2, 0, 2, 9, 9]);
        bytes.extend([0, 23, 0, 16]);
        bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53]);
        bytes.extend([0, 32, 0, 4, 0, 0, 0x0e, 0x10]);
        bytes
    }

    #[test]
    fn asks_until_it_is_answered_and_again_when_the_answer_is_old() {
        let mut random = Random::new([1; 32]);
        let mut client = Client::new(MAC, at(0), &mut random);
        let mut times = Vec::new();
        for _ in 0..5 {
            let now = client.deadline();
            times.push(now.since(Instant::ZERO).as_secs());
            let request = client.advance(now, &mut random).expect("due");
            assert_eq!(request[8], 11);
        }
        assert!(times[0] < 1 && times[4] >= 13, "{times:?}");
        assert!(!client.receive(&reply(client.id + 1), at(20)));
        assert!(client.receive(&reply(client.id), at(20)));
        assert_eq!(
            client.servers,
            ["2001:db8::53".parse::<Ipv6Addr>().expect("an address")]
        );
        assert_eq!(client.deadline(), at(20 + 3600));
        // Nothing is awaited any more.
        assert!(!client.receive(&reply(client.id), at(21)));
        assert!(client.advance(at(3620), &mut random).is_some());
    }

    #[test]
    fn replies_that_make_no_sense_are_ignored() {
        let mut random = Random::new([1; 32]);
        let mut client = Client::new(MAC, at(0), &mut random);
        client.advance(at(1), &mut random);
        let good = reply(client.id);
        for cut in 0..good.len() {
            let mut client = Client {
                servers: Vec::new(),
                ..clone(&client)
            };
            if client.receive(&good[..cut], at(2)) {
                assert_eq!(cut, good.len() - 8, "cut behind an option");
            }
        }
        let mut others = good.clone();
        others[15] ^= 1;
        assert!(!client.receive(&others, at(2)));
    }

    fn clone(client: &Client) -> Client {
        Client {
            mac: client.mac,
            id: client.id,
            since: client.since,
            interval: client.interval,
            due: client.due,
            servers: Vec::new(),
        }
    }
}
