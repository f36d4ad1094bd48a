//! The life of leases, in virtual time.

use super::*;
use smoltcp::wire::DhcpPacket;
use std::string::String;
use std::vec::Vec;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

/// A message of a server.
fn answer(client: &Client, kind: u8, seconds: u32, more: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[..3].copy_from_slice(&[2, 1, 6]);
    bytes[4..8].copy_from_slice(&client.id.to_be_bytes());
    bytes[16..20].copy_from_slice(&ADDRESS.octets());
    bytes[28..34].copy_from_slice(&MAC);
    bytes[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    bytes.extend([53, 1, kind, 54, 4]);
    bytes.extend(HOST.octets());
    bytes.extend([1, 4, 255, 255, 255, 0, 51, 4]);
    bytes.extend(seconds.to_be_bytes());
    bytes.extend(more);
    bytes.push(255);
    bytes
}

struct Dialogue {
    client: Client,
    random: Random,
    /// What the client said: second and message.
    said: Vec<(u64, Message)>,
    /// How often others were told.
    changes: usize,
}

impl Dialogue {
    fn new() -> Self {
        Self {
            client: Client::new(MAC, at(0)),
            random: Random::new([3; 32]),
            said: Vec::new(),
            changes: 0,
        }
    }

    fn note(&mut self, step: &Step, now: Instant) {
        let second = now.since(Instant::ZERO).as_secs();
        self.said
            .extend(step.message.map(|message| (second, message)));
        self.changes += usize::from(step.changed);
    }

    /// Lets time pass until then.
    fn until(&mut self, second: u64) {
        while self.client.deadline() <= at(second) {
            let now = self.client.deadline();
            let step = self.client.advance(now, &mut self.random);
            self.note(&step, now);
            assert!(self.said.len() < 100_000, "time does not pass");
        }
    }

    fn hear(&mut self, kind: u8, seconds: u32, second: u64) {
        let bytes = answer(&self.client, kind, seconds, &[]);
        self.hear_bytes(&bytes, second);
    }

    fn hear_bytes(&mut self, bytes: &[u8], second: u64) {
        let step = self.client.receive(bytes, at(second), &mut self.random);
        self.note(&step, at(second));
    }

    fn bind(&mut self, seconds: u32) {
        self.until(0);
        self.hear(OFFER, seconds, 0);
        self.hear(ACK, seconds, 0);
        assert!(self.client.lease().is_some());
        self.said.clear();
    }

    fn kinds(&self) -> Vec<(u64, Kind)> {
        self.said
            .iter()
            .map(|(second, message)| (*second, message.kind))
            .collect()
    }
}

#[test]
fn four_messages_make_a_lease() {
    let mut dialogue = Dialogue::new();
    dialogue.until(0);
    dialogue.hear(OFFER, 3600, 0);
    dialogue.hear(ACK, 3600, 0);
    assert_eq!(dialogue.kinds(), [(0, Kind::Discover), (0, Kind::Request)]);
    let request = dialogue.said[1].1;
    assert_eq!(
        (request.requested, request.server),
        (Some(ADDRESS), Some(HOST))
    );
    assert_eq!((request.to, request.broadcast), (None, false));
    let lease = dialogue.client.lease().expect("a lease");
    assert_eq!((lease.address, lease.prefix), (ADDRESS, 24));
    assert_eq!(
        (lease.renew, lease.rebind, lease.expires),
        (at(1800), at(3150), at(3600))
    );
    assert_eq!(dialogue.changes, 1);
}

#[test]
fn without_a_server_it_is_asked_for_again_and_again() {
    let mut dialogue = Dialogue::new();
    dialogue.until(600);
    let times: Vec<u64> = dialogue.said.iter().map(|said| said.0).collect();
    assert!(times[1] <= 1 && times[2] <= 3 && times[3] <= 7, "{times:?}");
    assert!((12..20).contains(&times.len()), "{times:?}");
    assert!(!dialogue.said[1].1.broadcast && dialogue.said[2].1.broadcast);
    assert!(
        dialogue
            .said
            .iter()
            .all(|said| said.1.kind == Kind::Discover)
    );
}

#[test]
fn an_offer_that_is_not_acknowledged_is_forgotten() {
    let mut dialogue = Dialogue::new();
    dialogue.until(0);
    dialogue.hear(OFFER, 3600, 0);
    dialogue.until(20);
    let kinds: Vec<_> = dialogue.said.iter().map(|said| said.1.kind).collect();
    assert_eq!(kinds[1..5], [Kind::Request; 4]);
    assert_eq!(kinds[5], Kind::Discover);
}

#[test]
fn a_lease_lives_for_days_when_it_is_renewed() {
    let mut dialogue = Dialogue::new();
    dialogue.bind(7200);
    let mut second = 0;
    for _ in 0..100 {
        dialogue.until(second + 3600);
        let (asked, message) = *dialogue.said.last().expect("a renewal");
        assert_eq!(
            (asked, message.client, message.to),
            (second + 3600, ADDRESS, Some(HOST))
        );
        assert_eq!((message.requested, message.server), (None, None));
        second = asked + 1;
        dialogue.hear(ACK, 7200, second);
    }
    assert_eq!(dialogue.said.len(), 100);
    assert_eq!(dialogue.changes, 1);
}

#[test]
fn a_lease_that_is_not_renewed_ends() {
    let mut dialogue = Dialogue::new();
    dialogue.bind(8000);
    dialogue.until(7999);
    assert!(dialogue.client.lease().is_some());
    // Renewals go to the server, from T2 on everybody is asked; neither more often than once a minute.
    let times: Vec<u64> = dialogue.said.iter().map(|said| said.0).collect();
    let often = |pair: &[u64]| pair[1] - pair[0] < 59 && pair[1] != 7000;
    assert!(!times.windows(2).any(often), "{times:?}");
    for (second, message) in &dialogue.said {
        assert_eq!(
            message.to.is_some(),
            (4000..7000).contains(second),
            "{second}"
        );
        assert_eq!(message.client, ADDRESS);
    }
    dialogue.until(8000);
    assert!(dialogue.client.lease().is_none());
    assert_eq!(dialogue.changes, 2);
    assert_eq!(dialogue.kinds().last(), Some(&(8000, Kind::Discover)));
}

#[test]
fn anybody_may_extend_a_lease_that_is_rebinding() {
    let mut dialogue = Dialogue::new();
    dialogue.bind(8000);
    dialogue.until(7100);
    let mut bytes = answer(&dialogue.client, ACK, 8000, &[]);
    bytes[248] = 9;
    dialogue.hear_bytes(&bytes, 7100);
    assert_eq!(
        dialogue.client.lease().expect("a lease").expires,
        at(15_100)
    );
    assert_eq!(
        dialogue.client.lease().expect("a lease").server,
        Ipv4Addr::new(10, 0, 0, 9)
    );
    assert_eq!(dialogue.changes, 1);
}

#[test]
fn a_refusal_starts_anew_but_not_in_a_storm() {
    let mut dialogue = Dialogue::new();
    dialogue.bind(8000);
    dialogue.until(4000);
    dialogue.hear(NAK, 0, 4000);
    assert!(dialogue.client.lease().is_none());
    assert_eq!(dialogue.changes, 2);
    // A server that refuses what it has offered.
    let mut second = 4001;
    dialogue.said.clear();
    for _ in 0..10 {
        dialogue.until(second);
        dialogue.hear(OFFER, 3600, second);
        dialogue.hear(NAK, 0, second);
        second = dialogue.client.deadline().since(Instant::ZERO).as_secs();
    }
    assert!(second > 4300, "{second}");
}

#[test]
fn a_lease_can_be_declined() {
    let mut dialogue = Dialogue::new();
    dialogue.bind(8000);
    let step = dialogue.client.decline(at(10), &mut dialogue.random);
    let message = step.message.expect("a message");
    assert_eq!(message.kind, Kind::Decline);
    assert_eq!(
        (message.requested, message.server),
        (Some(ADDRESS), Some(HOST))
    );
    assert!(step.changed);
    dialogue.until(25);
    assert_eq!(dialogue.kinds()[0], (20, Kind::Discover));
}

#[test]
fn a_lease_without_end_is_never_renewed() {
    let mut dialogue = Dialogue::new();
    dialogue.bind(u32::MAX);
    assert_eq!(dialogue.client.deadline(), Instant::FOREVER);
}

#[test]
fn answers_to_others_are_ignored() {
    let mut dialogue = Dialogue::new();
    dialogue.until(0);
    for place in [0, 4, 28, 236] {
        let mut bytes = answer(&dialogue.client, OFFER, 3600, &[]);
        bytes[place] ^= 1;
        dialogue.hear_bytes(&bytes, 0);
        assert_eq!(dialogue.client.state, State::Selecting, "{place}");
    }
    // An acknowledgement of nothing.
    dialogue.hear(ACK, 3600, 0);
    assert!(dialogue.client.lease().is_none());
    dialogue.hear(OFFER, 3600, 0);
    // From a server that was not asked.
    let mut bytes = answer(&dialogue.client, ACK, 3600, &[]);
    bytes[248] = 9;
    dialogue.hear_bytes(&bytes, 0);
    assert!(dialogue.client.lease().is_none());
}

#[test]
fn times_that_make_no_sense_are_replaced() {
    for (lease, more, expected) in [
        (
            1000,
            [58, 4, 0, 0, 0, 100, 59, 4, 0, 0, 0, 200],
            (100, 200, 1000),
        ),
        (
            1000,
            [58, 4, 0, 0, 3, 232, 59, 4, 0, 0, 0, 200],
            (200, 200, 1000),
        ),
        (
            1000,
            [58, 4, 0, 0, 0, 0, 59, 4, 255, 0, 0, 0],
            (500, 875, 1000),
        ),
        (1, [58, 4, 0, 0, 0, 0, 59, 4, 255, 0, 0, 0], (1, 1, 1)),
    ] {
        let mut dialogue = Dialogue::new();
        dialogue.until(0);
        dialogue.hear(OFFER, lease, 0);
        let bytes = answer(&dialogue.client, ACK, lease, &more);
        dialogue.hear_bytes(&bytes, 0);
        let lease = dialogue.client.lease().expect("a lease");
        let (renew, rebind, expires) = expected;
        assert_eq!(
            (lease.renew, lease.rebind, lease.expires),
            (at(renew), at(rebind), at(expires))
        );
        dialogue.until(5000);
    }
}

#[test]
fn everything_that_comes_with_a_lease_is_read() {
    let mut dialogue = Dialogue::new();
    dialogue.until(0);
    dialogue.hear(OFFER, 3600, 0);
    let mut more = vec![3, 8, 10, 0, 0, 1, 10, 0, 0, 2, 6, 8, 9, 9, 9, 9, 8, 8, 8, 8];
    more.extend([26, 2, 5, 120]);
    let bytes = answer(&dialogue.client, ACK, 3600, &more);
    dialogue.hear_bytes(&bytes, 0);
    let lease = dialogue.client.lease().expect("a lease");
    assert_eq!(lease.servers.len(), 2);
    assert_eq!(lease.mtu, Some(1400));
    let route = lease.routes[0];
    assert_eq!((route.prefix, route.gateway), (0, Some(HOST)));
}

#[test]
fn messages_have_the_form_that_servers_expect() {
    let mut dialogue = Dialogue::new();
    dialogue.until(0);
    let message = dialogue.said[0].1;
    let bytes = dialogue.client.emit(&message, "kiln", 1500);
    assert_eq!(bytes.len(), UDP_HEADER + LEAST);
    let packet = DhcpPacket::new_checked(&bytes[UDP_HEADER..]).expect("a message");
    let kinds: Vec<u8> = packet.options().map(|option| option.kind).collect();
    for kind in [53, 55, 57, 61, 12] {
        assert!(kinds.contains(&kind), "{kind}");
    }
    let name = packet
        .options()
        .find(|option| option.kind == 12)
        .expect("a name");
    assert_eq!(String::from_utf8_lossy(name.data), "kiln");
}
