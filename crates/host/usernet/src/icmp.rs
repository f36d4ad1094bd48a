//! ICMP echo.
//!
//! The gateway and the DNS forwarder answer by themselves. Requests to the world go out through the kernel's
//! unprivileged ping sockets, one for each identifier of the guest; hosts allow them to the groups in
//! `net.ipv4.ping_group_range`. Where they do not, requests stay unanswered and are counted.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

use crate::context::Context;
use crate::packet::{Packet, Unreachable, send_icmp, send_unreachable};
use crate::policy::{Route, route, seen_by_guest};
use crate::poller::{Flags, Token};
use crate::table::{Key, Table};

const ECHO_REPLY4: u8 = 0;
const ECHO_REQUEST4: u8 = 8;
const ECHO_REQUEST6: u8 = 128;
const ECHO_REPLY6: u8 = 129;

/// How long a flow lives without a request.
const IDLE: Duration = Duration::from_mins(1);

/// Replies taken from one socket before others have their turn.
const SLICE: usize = 16;

struct Flow {
    guest: IpAddr,
    identifier: [u8; 2],
    fd: OwnedFd,
    used: Instant,
}

#[derive(Default)]
struct Denied {
    v4: bool,
    v6: bool,
}

pub(crate) struct Ping {
    flows: Table<Flow>,
    by_guest: HashMap<(IpAddr, [u8; 2]), Key>,
    /// The host said no; it is not asked for every packet again.
    denied: Denied,
}

impl Ping {
    pub fn new() -> Self {
        Self {
            flows: Table::new(),
            by_guest: HashMap::new(),
            denied: Denied::default(),
        }
    }

    /// True if the host refused a ping socket.
    pub fn denied(&self) -> bool {
        self.denied.v4 || self.denied.v6
    }

    /// An ICMP or `ICMPv6` message of the guest. False if it is no echo request.
    pub fn receive(&mut self, cx: &mut Context, packet: &Packet<'_>) -> bool {
        let (request, reply) = match packet.source {
            IpAddr::V4(_) => (ECHO_REQUEST4, ECHO_REPLY4),
            IpAddr::V6(_) => (ECHO_REQUEST6, ECHO_REPLY6),
        };
        let &[kind, 0, _, _, high, low, _, _, ..] = packet.payload else {
            return false;
        };
        if kind != request {
            return false;
        }
        cx.stats.ping_requests += 1;
        let own = [
            IpAddr::from(cx.config.gateway4),
            cx.config.gateway6.into(),
            cx.config.dns4.into(),
            cx.config.dns6.into(),
        ];
        if own.contains(&packet.target) {
            let mut message = packet.payload.to_vec();
            message[0] = reply;
            send_icmp(&mut cx.out, packet.target, packet.source, &message);
            return true;
        }
        let Route::Host(target) = route(&cx.config, packet.target) else {
            cx.stats.refused += 1;
            send_unreachable(&mut cx.out, packet, Unreachable::Prohibited);
            return true;
        };
        let Some(key) = self.flow(cx, packet.source, [high, low]) else {
            cx.stats.ping_denied += 1;
            return true;
        };
        let Some(flow) = self.flows.get_mut(key) else {
            return true;
        };
        flow.used = cx.now;
        // The kernel puts its own identifier and checksum into the message.
        let sent = rustix::net::sendto(
            &flow.fd,
            packet.payload,
            SendFlags::DONTWAIT,
            &SocketAddr::new(target, 0),
        );
        if let Err(Errno::NETUNREACH | Errno::HOSTUNREACH) = sent {
            send_unreachable(&mut cx.out, packet, Unreachable::Host);
        }
        true
    }

    /// Replies wait.
    pub fn event(&mut self, cx: &mut Context, key: Key) {
        for _ in 0..SLICE {
            let Some(flow) = self.flows.get_mut(key) else {
                return;
            };
            cx.scratch.clear();
            let room = spare_capacity(&mut cx.scratch);
            match rustix::net::recvfrom(&flow.fd, room, RecvFlags::DONTWAIT) {
                Ok((length, _, from)) => {
                    let Some(from) = from.and_then(|from| SocketAddr::try_from(from).ok()) else {
                        continue;
                    };
                    // The link may carry less than the host's.
                    let header = if flow.guest.is_ipv4() { 20 } else { 40 };
                    if length < 8 || header + length > usize::from(cx.config.mtu) {
                        continue;
                    }
                    let message = &mut cx.scratch[..length];
                    if message[0] != ECHO_REPLY4 && message[0] != ECHO_REPLY6 {
                        continue;
                    }
                    message[4..6].copy_from_slice(&flow.identifier);
                    let from = seen_by_guest(&cx.config, from).ip();
                    send_icmp(&mut cx.out, from, flow.guest, message);
                }
                Err(Errno::AGAIN) => return,
                Err(_) => {}
            }
        }
    }

    /// When the next flow ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.flows.iter().map(|(_, flow)| flow.used + IDLE).min()
    }

    /// Ends idle flows.
    pub fn expire(&mut self, now: Instant) {
        let old: Vec<_> = self
            .flows
            .iter()
            .filter(|(_, flow)| flow.used + IDLE <= now)
            .map(|(key, _)| key)
            .collect();
        for key in old {
            self.remove(key);
        }
    }

    fn flow(&mut self, cx: &Context, guest: IpAddr, identifier: [u8; 2]) -> Option<Key> {
        if let Some(&key) = self.by_guest.get(&(guest, identifier)) {
            return Some(key);
        }
        let denied = match guest {
            IpAddr::V4(_) => &mut self.denied.v4,
            IpAddr::V6(_) => &mut self.denied.v6,
        };
        if *denied {
            return None;
        }
        if self.flows.len() >= cx.config.limits.ping_flows {
            let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.used)?.0;
            self.remove(oldest);
        }
        let (family, protocol) = match guest {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = match rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(protocol)) {
            Ok(fd) => fd,
            Err(errno) => {
                if matches!(
                    errno,
                    Errno::ACCESS | Errno::PERM | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT
                ) {
                    match guest {
                        IpAddr::V4(_) => self.denied.v4 = true,
                        IpAddr::V6(_) => self.denied.v6 = true,
                    }
                }
                return None;
            }
        };
        let key = self.flows.insert(Flow {
            guest,
            identifier,
            fd,
            used: cx.now,
        });
        let flow = self.flows.get_mut(key)?;
        if cx
            .poller
            .add(&flow.fd, Token::Ping(key), Flags::IN)
            .is_err()
        {
            self.flows.remove(key);
            return None;
        }
        self.by_guest.insert((guest, identifier), key);
        Some(key)
    }

    fn remove(&mut self, key: Key) {
        if let Some(flow) = self.flows.remove(key) {
            self.by_guest.remove(&(flow.guest, flow.identifier));
        }
    }
}
