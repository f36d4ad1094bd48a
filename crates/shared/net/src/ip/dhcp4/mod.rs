//! The DHCP client (RFC 2131) as a state machine: messages and the time go in, messages and leases come out.
//!
//! The address of a lease is used as soon as the server has acknowledged it, and announced; if another owner speaks up,
//! the lease is declined ([`Client::decline`]). Asking with ARP first, as section 4.4.1 advises, would cost seconds.
//!
//! Not here: INIT-REBOOT (a guest remembers nothing), RELEASE (a guest may end at any time), and options that overflow into
//! the fields for boot servers.

mod lease;

#[cfg(test)]
mod tests;

use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use kiln_abi::Instant;

pub(super) use lease::Lease;

use super::interface::Interface;
use super::packet::{
    BROADCAST_MAC, append, array, be16, be32, checksum_is_right, fill_udp_checksum, put,
};
use super::router::vary;
use super::{Context, Header, Outbound, UDP};
use crate::config::is_host4;
use crate::random::Random;
use crate::tcp::Ecn;

pub(super) const SERVER_PORT: u16 = 67;
pub(super) const CLIENT_PORT: u16 = 68;
const UDP_HEADER: usize = 8;
/// Some relays drop less: the length of a BOOTP message (RFC 1542 section 2.1).
const LEAST: usize = 300;

/// A guest's server is on the same machine or next to it: ask again soon if the first frame is lost. Section 4.1 doubles
/// up to 64 seconds.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(64);
/// Requests for an offer until another is looked for.
const REQUESTS: u8 = 4;
/// Section 4.4.5: renewals are not repeated faster.
const RENEW_RETRY: Duration = Duration::from_mins(1);
/// Section 3.1 number 5: after a refused address.
const AFTER_DECLINE: Duration = Duration::from_secs(10);
/// From this try on, answers are to be broadcast: perhaps the server cannot reach an address that is not there yet.
const BROADCAST_FROM: u8 = 2;

/// Subnet mask, router, DNS servers, host name, MTU, lease time, server, T1, T2, classless static routes.
const PARAMETERS: [u8; 10] = [1, 121, 3, 6, 12, 26, 51, 54, 58, 59];

/// Codes of the field `op`, and of Ethernet in the next.
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ETHERNET: u8 = 1;
/// What options follow (RFC 2132 section 2).
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
const COOKIE_AT: usize = 236;
/// Options.
const HOST_NAME: u8 = 12;
const REQUESTED_ADDRESS: u8 = 50;
const MESSAGE_TYPE: u8 = 53;
const SERVER: u8 = 54;
const PARAMETER_LIST: u8 = 55;
const MOST_BYTES: u8 = 57;
const CLIENT: u8 = 61;
const END: u8 = 255;

/// Messages of servers.
const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// Messages of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Discover = 1,
    Request = 3,
    Decline = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Asks for offers; before the first time nothing is said.
    Selecting,
    /// Asks for an offered address.
    Requesting {
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
    Bound,
    Renewing,
    Rebinding,
}

/// A message to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub kind: Kind,
    id: u32,
    seconds: u16,
    broadcast: bool,
    /// The address that the client has.
    pub client: Ipv4Addr,
    pub requested: Option<Ipv4Addr>,
    pub server: Option<Ipv4Addr>,
    /// To this server; to all if there is none.
    pub to: Option<Ipv4Addr>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    pub message: Option<Message>,
    /// The lease is another one, or gone.
    pub changed: bool,
}

/// The client.
#[derive(Debug)]
pub(super) struct Client {
    mac: [u8; 6],
    state: State,
    id: u32,
    tries: u8,
    /// Leases that were refused, one after the other.
    failures: u8,
    /// When it started to look for a lease.
    since: Instant,
    due: Instant,
    lease: Option<Lease>,
}

impl Client {
    /// A client without a lease that starts now.
    pub(super) fn new(mac: [u8; 6], now: Instant) -> Self {
        Self {
            mac,
            state: State::Selecting,
            id: 0,
            tries: 0,
            failures: 0,
            since: now,
            due: now,
            lease: None,
        }
    }

    /// What the server has given.
    pub(super) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// When [`advance`](Self::advance) has something to do.
    pub(super) fn deadline(&self) -> Instant {
        self.due
    }

    /// Does what is due.
    pub(super) fn advance(&mut self, now: Instant, random: &mut Random) -> Step {
        let mut step = Step::default();
        if now < self.due {
            return step;
        }
        if self
            .lease
            .as_ref()
            .is_some_and(|lease| lease.expires <= now)
        {
            self.lease = None;
            step.changed = true;
            self.start(now);
        }
        let times = self
            .lease
            .as_ref()
            .map(|lease| (lease.rebind, lease.expires));
        match (self.state, times) {
            (State::Requesting { .. }, _) if self.tries >= REQUESTS => {
                self.start(now);
            }
            (State::Bound, Some(_)) => {
                self.state = State::Renewing;
                self.since = now;
                self.id = random.next_u32();
            }
            (State::Renewing, Some((rebind, _))) if rebind <= now => {
                self.state = State::Rebinding;
                self.id = random.next_u32();
            }
            (State::Bound | State::Renewing | State::Rebinding, None) => self.start(now),
            _ => {}
        }
        if self.state == State::Selecting && self.tries == 0 {
            self.since = now;
            self.id = random.next_u32();
        }
        step.message = Some(self.message(now));
        self.due = match (self.state, times) {
            (State::Renewing, Some((rebind, _))) => half_way(now, rebind),
            (State::Rebinding, Some((_, expires))) => half_way(now, expires),
            _ => {
                let interval = FIRST_RETRY * (1 << self.tries.min(6));
                now + vary(interval.min(LAST_RETRY), random)
            }
        };
        self.tries = self.tries.saturating_add(1);
        step
    }

    fn start(&mut self, now: Instant) {
        self.state = State::Selecting;
        self.tries = 0;
        self.due = now;
    }

    /// What the state wants said.
    fn message(&self, now: Instant) -> Message {
        let leased = self
            .lease
            .as_ref()
            .map(|lease| (lease.address, lease.server));
        let message = Message {
            kind: Kind::Request,
            id: self.id,
            seconds: u16::try_from(now.since(self.since).as_secs()).unwrap_or(u16::MAX),
            broadcast: false,
            client: Ipv4Addr::UNSPECIFIED,
            requested: None,
            server: None,
            to: None,
        };
        let broadcast = self.tries >= BROADCAST_FROM;
        match (self.state, leased) {
            (State::Requesting { address, server }, _) => Message {
                requested: Some(address),
                server: Some(server),
                broadcast,
                ..message
            },
            (State::Bound | State::Renewing | State::Rebinding, Some((client, server))) => {
                Message {
                    client,
                    to: (self.state != State::Rebinding).then_some(server),
                    ..message
                }
            }
            _ => Message {
                kind: Kind::Discover,
                broadcast,
                ..message
            },
        }
    }

    /// Takes in a message of a server.
    pub(super) fn receive(&mut self, message: &[u8], now: Instant, random: &mut Random) -> Step {
        let nothing = Step::default();
        let from_server = array(message, 0) == Some([REPLY, ETHERNET, self.mac.len() as u8])
            && be32(message, 4) == Some(self.id)
            && array(message, 28) == Some(self.mac)
            && array(message, COOKIE_AT) == Some(COOKIE);
        let server = lease::address(message, SERVER);
        let (true, Some(server)) = (from_server && self.tries > 0, server) else {
            return nothing;
        };
        let offered = array(message, 16).map_or(Ipv4Addr::UNSPECIFIED, <[u8; 4]>::into);
        let kind = lease::option(message, MESSAGE_TYPE);
        match (kind.first().copied().unwrap_or(0), self.state) {
            (OFFER, State::Selecting) if is_host4(offered) => {
                self.state = State::Requesting {
                    address: offered,
                    server,
                };
                self.tries = 0;
                self.due = now;
                self.advance(now, random)
            }
            (ACK, State::Selecting | State::Bound) => nothing,
            (ACK, state) => {
                if matches!(state, State::Requesting { server: chosen, .. } if chosen != server) {
                    return nothing;
                }
                let Some(lease) = Lease::new(message, offered, server, now) else {
                    return nothing;
                };
                let changed = !self
                    .lease
                    .as_ref()
                    .is_some_and(|old| old.gives_the_same(&lease));
                self.due = lease.renew;
                self.lease = Some(lease);
                self.state = State::Bound;
                self.tries = 0;
                self.failures = 0;
                Step {
                    message: None,
                    changed,
                }
            }
            (NAK, State::Requesting { .. } | State::Renewing | State::Rebinding) => {
                let changed = self.lease.take().is_some();
                self.start(now + FIRST_RETRY * (1 << self.failures.min(6)));
                self.failures = self.failures.saturating_add(1);
                Step {
                    message: None,
                    changed,
                }
            }
            _ => nothing,
        }
    }

    /// Somebody else has the address of the lease: tells the server, and starts anew.
    pub(super) fn decline(&mut self, now: Instant, random: &mut Random) -> Step {
        let Some(lease) = self.lease.take() else {
            return Step::default();
        };
        self.start(now + AFTER_DECLINE);
        self.id = random.next_u32();
        let message = Message {
            kind: Kind::Decline,
            requested: Some(lease.address),
            server: Some(lease.server),
            ..self.message(now)
        };
        Step {
            message: Some(message),
            changed: true,
        }
    }

    /// The bytes of a message, from the UDP header on, without its checksum.
    fn emit(&self, message: &Message, hostname: &str, mtu: u16) -> Vec<u8> {
        let mut bytes = vec![0; UDP_HEADER + COOKIE_AT];
        put(&mut bytes, 0, &CLIENT_PORT.to_be_bytes());
        put(&mut bytes, 2, &SERVER_PORT.to_be_bytes());
        put(&mut bytes, 8, &[REQUEST, ETHERNET, self.mac.len() as u8]);
        put(&mut bytes, 12, &message.id.to_be_bytes());
        put(&mut bytes, 16, &message.seconds.to_be_bytes());
        put(&mut bytes, 18, &[u8::from(message.broadcast) << 7]);
        put(&mut bytes, 20, &message.client.octets());
        put(&mut bytes, 36, &self.mac);
        append(&mut bytes, &COOKIE);
        let mut option = |kind, data: &[u8]| {
            if let Ok(length) = u8::try_from(data.len()) {
                append(&mut bytes, &[kind, length]);
                append(&mut bytes, data);
            }
        };
        let mut identifier = [ETHERNET; 7];
        put(&mut identifier, 1, &self.mac);
        option(MESSAGE_TYPE, &[message.kind as u8]);
        option(CLIENT, &identifier);
        for (kind, address) in [
            (REQUESTED_ADDRESS, message.requested),
            (SERVER, message.server),
        ] {
            if let Some(address) = address {
                option(kind, &address.octets());
            }
        }
        if message.kind != Kind::Decline {
            option(MOST_BYTES, &mtu.to_be_bytes());
            option(PARAMETER_LIST, &PARAMETERS);
            if !hostname.is_empty() {
                option(HOST_NAME, hostname.as_bytes());
            }
        }
        append(&mut bytes, &[END]);
        let length = bytes.len().max(UDP_HEADER + LEAST);
        bytes.resize(length, 0);
        put(&mut bytes, 4, &(length as u16).to_be_bytes());
        bytes
    }
}

/// Half of the time that is left, but not too often (section 4.4.5).
fn half_way(now: Instant, end: Instant) -> Instant {
    let wait = (end.since(now) / 2).max(RENEW_RETRY);
    (now + wait).min(end)
}

impl Interface {
    /// Takes in a datagram for the client's port.
    pub(super) fn receive_dhcp4(
        &mut self,
        header: &Header,
        datagram: &[u8],
        trusted: bool,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let Some(client) = &mut self.dhcp4 else {
            return;
        };
        if be16(datagram, 0) != Some(SERVER_PORT) {
            return;
        }
        if !trusted && !checksum_is_right(header, datagram) {
            cx.stats.dropped_checksum += 1;
            return;
        }
        let step = client.receive(
            datagram.get(UDP_HEADER..).unwrap_or_default(),
            now,
            cx.random,
        );
        self.take_step(&step, now, cx);
    }

    /// Does what is due.
    pub(super) fn advance_dhcp4(&mut self, now: Instant, cx: &mut Context<'_>) {
        if let Some(client) = &mut self.dhcp4 {
            let step = client.advance(now, cx.random);
            self.take_step(&step, now, cx);
        }
    }

    /// The address of the lease belongs to somebody else.
    pub(super) fn decline_dhcp4(&mut self, now: Instant, cx: &mut Context<'_>) {
        if let Some(client) = &mut self.dhcp4 {
            let step = client.decline(now, cx.random);
            self.take_step(&step, now, cx);
        }
    }

    fn take_step(&mut self, step: &Step, now: Instant, cx: &mut Context<'_>) {
        if step.changed {
            self.lease_changed(now);
        }
        let Some(client) = &self.dhcp4 else {
            return;
        };
        self.due = self.due.min(client.deadline());
        let Some(message) = &step.message else {
            return;
        };
        let mut datagram = client.emit(message, cx.hostname, self.mtu());
        let outbound = Outbound {
            source: message.client.into(),
            destination: message.to.unwrap_or(Ipv4Addr::BROADCAST).into(),
            protocol: UDP,
            hop_limit: 64,
            ecn: Ecn::NotEct,
        };
        fill_udp_checksum(&outbound, &mut datagram);
        let fill = &mut |bytes: &mut [u8]| bytes.copy_from_slice(&datagram);
        if message.to.is_some() {
            self.answer(&outbound, datagram.len(), now, cx, fill);
        } else {
            let sent = self.transmit(&outbound, BROADCAST_MAC, datagram.len(), now, cx, fill);
            cx.stats.dropped_queue_full += u64::from(sent.is_err());
        }
    }

    /// True while an answer may come to an address that is not there yet.
    pub(super) fn awaits_lease(&self) -> bool {
        self.dhcp4
            .as_ref()
            .is_some_and(|client| client.lease().is_none())
    }

    /// The DNS servers of the lease.
    pub(super) fn lease_servers(&self) -> impl Iterator<Item = IpAddr> {
        let lease = self.dhcp4.as_ref().and_then(|client| client.lease());
        let servers = lease.map_or(&[][..], |lease| &lease.servers);
        servers.iter().copied().map(IpAddr::V4)
    }
}
