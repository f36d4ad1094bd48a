//! UDP in both directions.
//!
//! Out of the guest: each source port of the guest has one host socket, whatever it talks to (endpoint-independent
//! mapping, RFC 4787 section 4.1). Datagrams come back only from addresses that the guest has sent to (address-dependent
//! filtering, section 5).
//!
//! Into the guest: each client of a forwarded port is shown to the guest as a port of the gateway, so that answers find
//! the right client. They leave from the address of this host that the client asked. Both tables are bounded; idle flows end after [`IDLE`], and the longest idle one makes room for a
//! new one when a table is full.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

use crate::Error;
use crate::context::Context;
use crate::local;
use crate::packet::{Datagram, Packet, Unreachable, send_udp, send_unreachable};
use crate::policy::{Route, route, seen_by_guest};
use crate::poller::{Flags, Token};
use crate::table::{Key, Table};

/// How long a flow lives without traffic. RFC 4787 section 4.3 wants two minutes at least.
const IDLE: Duration = Duration::from_mins(2);

/// How often idle flows are looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// Datagrams taken from one socket before others have their turn.
const SLICE: usize = 64;

/// Addresses that one flow of the guest may hear from.
const PEERS: usize = 64;

/// Ports of the gateway that stand for clients begin here.
const FIRST_PORT: u16 = 1024;

/// A forwarded port: one or two host sockets lead to it, each with an entry of its own.
struct Forward {
    fd: OwnedFd,
    guest_port: u16,
}

/// What tells clients of forwarded ports apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Asker {
    forward: u32,
    address: SocketAddr,
    /// The address of this host that it asked, if the forward has more than one.
    local: Option<IpAddr>,
}

/// A client of a forwarded port.
struct Client {
    asker: Asker,
    /// The gateway's port that stands for it.
    port: u16,
    used: Instant,
}

/// A source port of the guest.
struct Flow {
    guest: SocketAddr,
    fd: OwnedFd,
    /// Addresses that may answer, the latest last.
    peers: Vec<IpAddr>,
    used: Instant,
}

pub(crate) struct Udp {
    forwards: Vec<Forward>,
    clients: Table<Client>,
    by_client: HashMap<Asker, Key>,
    by_port: HashMap<u16, Key>,
    flows: Table<Flow>,
    by_guest: HashMap<SocketAddr, Key>,
    last_port: u16,
    sweep: Option<Instant>,
}

impl Udp {
    pub fn new() -> Self {
        Self {
            forwards: Vec::new(),
            clients: Table::new(),
            by_client: HashMap::new(),
            by_port: HashMap::new(),
            flows: Table::new(),
            by_guest: HashMap::new(),
            last_port: FIRST_PORT,
            sweep: None,
        }
    }

    /// Starts taking datagrams from a bound socket.
    pub fn listen(&mut self, cx: &Context, fd: OwnedFd, guest_port: u16) -> Result<(), Error> {
        let bound = rustix::net::getsockname(&fd).and_then(SocketAddr::try_from);
        let bound = bound.map_err(Error::host("learn what a socket is bound to"))?;
        if bound.ip().is_unspecified() {
            local::tell(&fd, bound.is_ipv6())
                .map_err(Error::host("learn to which address a datagram is sent"))?;
        }
        let token = Token::UdpForward(self.forwards.len() as u32);
        cx.poller
            .add(&fd, token, Flags::IN)
            .map_err(Error::host("wait for datagrams on a forwarded port"))?;
        self.forwards.push(Forward { fd, guest_port });
        Ok(())
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.clients.len() + self.flows.len()
    }

    /// When idle flows are looked for next.
    pub fn deadline(&self) -> Option<Instant> {
        self.sweep
    }

    /// A datagram of the guest that is for none of the link's own services.
    pub fn receive(&mut self, cx: &mut Context, packet: &Packet<'_>, datagram: Datagram<'_>) {
        let to_gateway = datagram.target.ip() == IpAddr::V4(cx.config.gateway4);
        if to_gateway && self.answer_client(cx, datagram) {
            return;
        }
        let target = match route(&cx.config, datagram.target.ip()) {
            Route::Host(address) => SocketAddr::new(address, datagram.target.port()),
            Route::Dns | Route::Gateway => {
                send_unreachable(&mut cx.out, packet, Unreachable::Port);
                return;
            }
            Route::Refused => {
                cx.stats.refused += 1;
                send_unreachable(&mut cx.out, packet, Unreachable::Prohibited);
                return;
            }
        };
        let Some(key) = self.flow(cx, datagram.source) else {
            cx.stats.udp_dropped += 1;
            return;
        };
        let Some(flow) = self.flows.get_mut(key) else {
            return;
        };
        flow.used = cx.now;
        if flow.peers.last() != Some(&target.ip()) {
            flow.peers.retain(|peer| *peer != target.ip());
            if flow.peers.len() == PEERS {
                flow.peers.remove(0);
            }
            flow.peers.push(target.ip());
        }
        match rustix::net::sendto(&flow.fd, datagram.payload, SendFlags::DONTWAIT, &target) {
            Ok(_) => cx.stats.udp_out += 1,
            Err(Errno::NETUNREACH | Errno::HOSTUNREACH) => {
                send_unreachable(&mut cx.out, packet, Unreachable::Host);
            }
            Err(_) => cx.stats.udp_dropped += 1,
        }
    }

    /// Datagrams wait on a forwarded port.
    pub fn forward_event(&mut self, cx: &mut Context, index: u32) {
        for _ in 0..SLICE {
            let Some(forward) = self.forwards.get(index as usize) else {
                return;
            };
            let guest_port = forward.guest_port;
            let received = match local::receive(&forward.fd, &mut cx.scratch) {
                Ok(received) => received,
                Err(Errno::AGAIN) => return,
                // The ICMP error of an earlier answer: reading it has cleared it.
                Err(_) => continue,
            };
            let length = received.length;
            let Some(address) = received.from else {
                continue;
            };
            let asker = Asker {
                forward: index,
                address,
                local: received.local,
            };
            let Some(port) = self.client_port(cx, asker) else {
                cx.stats.udp_dropped += 1;
                continue;
            };
            let datagram = Datagram {
                source: SocketAddr::new(cx.config.gateway4.into(), port),
                target: SocketAddr::new(cx.config.guest4.into(), guest_port),
                payload: &cx.scratch[..length],
            };
            if send_udp(&mut cx.out, cx.config.mtu, datagram) {
                cx.stats.udp_in += 1;
            } else {
                cx.stats.udp_dropped += 1;
            }
        }
    }

    /// Datagrams wait on a flow of the guest.
    pub fn flow_event(&mut self, cx: &mut Context, key: Key) {
        for _ in 0..SLICE {
            let Some(flow) = self.flows.get_mut(key) else {
                return;
            };
            let Some((length, peer)) = receive(&flow.fd, &mut cx.scratch) else {
                return;
            };
            let Some(peer) = peer else {
                continue;
            };
            if !flow.peers.contains(&peer.ip()) {
                cx.stats.udp_dropped += 1;
                continue;
            }
            flow.used = cx.now;
            let datagram = Datagram {
                source: seen_by_guest(&cx.config, peer),
                target: flow.guest,
                payload: &cx.scratch[..length],
            };
            if send_udp(&mut cx.out, cx.config.mtu, datagram) {
                cx.stats.udp_in += 1;
            } else {
                cx.stats.udp_dropped += 1;
            }
        }
    }

    /// Ends flows that were idle for too long.
    pub fn expire(&mut self, cx: &Context) {
        if self.sweep.is_none_or(|sweep| sweep > cx.now) {
            return;
        }
        let old = |used: Instant| used + IDLE <= cx.now;
        let clients: Vec<_> = self.clients.iter().filter(|(_, c)| old(c.used)).collect();
        let clients: Vec<_> = clients.into_iter().map(|(key, _)| key).collect();
        for key in clients {
            self.remove_client(key);
        }
        let flows: Vec<_> = self.flows.iter().filter(|(_, f)| old(f.used)).collect();
        let flows: Vec<_> = flows.into_iter().map(|(key, _)| key).collect();
        for key in flows {
            self.remove_flow(key);
        }
        self.sweep = (self.len() != 0).then(|| cx.now + SWEEP);
    }

    /// Sends an answer of the guest to the client that the gateway's port stands for. False if it stands for none.
    fn answer_client(&mut self, cx: &mut Context, datagram: Datagram<'_>) -> bool {
        let Some(&key) = self.by_port.get(&datagram.target.port()) else {
            return false;
        };
        let Some(client) = self.clients.get_mut(key) else {
            return false;
        };
        let asker = client.asker;
        let Some(forward) = self.forwards.get(asker.forward as usize) else {
            return false;
        };
        if forward.guest_port != datagram.source.port() {
            return false;
        }
        client.used = cx.now;
        let (payload, to) = (datagram.payload, asker.address);
        let sent = match asker.local {
            Some(local) => local::send(&forward.fd, payload, to, local),
            None => rustix::net::sendto(&forward.fd, payload, SendFlags::DONTWAIT, &to).map(|_| ()),
        };
        match sent {
            Ok(()) => cx.stats.udp_out += 1,
            Err(_) => cx.stats.udp_dropped += 1,
        }
        true
    }

    /// The gateway's port for a client, a new one if need be.
    fn client_port(&mut self, cx: &mut Context, asker: Asker) -> Option<u16> {
        if let Some(&key) = self.by_client.get(&asker) {
            let client = self.clients.get_mut(key)?;
            client.used = cx.now;
            return Some(client.port);
        }
        if self.clients.len() >= cx.config.limits.udp_flows {
            let oldest = self.clients.iter().min_by_key(|(_, c)| c.used)?.0;
            self.remove_client(oldest);
            cx.stats.udp_evicted += 1;
        }
        let port = (0..=u16::MAX).find_map(|_| {
            self.last_port = self.last_port.checked_add(1).unwrap_or(FIRST_PORT);
            (!self.by_port.contains_key(&self.last_port)).then_some(self.last_port)
        })?;
        let key = self.clients.insert(Client {
            asker,
            port,
            used: cx.now,
        });
        self.by_client.insert(asker, key);
        self.by_port.insert(port, key);
        self.sweep.get_or_insert(cx.now + SWEEP);
        Some(port)
    }

    /// The flow of a source port of the guest, a new one if need be.
    fn flow(&mut self, cx: &mut Context, guest: SocketAddr) -> Option<Key> {
        if let Some(&key) = self.by_guest.get(&guest) {
            return Some(key);
        }
        if self.flows.len() >= cx.config.limits.udp_flows {
            let oldest = self.flows.iter().min_by_key(|(_, f)| f.used)?.0;
            self.remove_flow(oldest);
            cx.stats.udp_evicted += 1;
        }
        let fd = open(guest).ok()?;
        let key = self.flows.insert(Flow {
            guest,
            fd,
            peers: Vec::new(),
            used: cx.now,
        });
        let flow = self.flows.get_mut(key)?;
        if cx
            .poller
            .add(&flow.fd, Token::UdpFlow(key), Flags::IN)
            .is_err()
        {
            self.flows.remove(key);
            return None;
        }
        self.by_guest.insert(guest, key);
        self.sweep.get_or_insert(cx.now + SWEEP);
        Some(key)
    }

    fn remove_client(&mut self, key: Key) {
        if let Some(client) = self.clients.remove(key) {
            self.by_client.remove(&client.asker);
            self.by_port.remove(&client.port);
        }
    }

    fn remove_flow(&mut self, key: Key) {
        if let Some(flow) = self.flows.remove(key) {
            self.by_guest.remove(&flow.guest);
        }
    }
}

/// A socket for a flow of the guest. It is bound before it sends so that the poller sees nothing odd.
fn open(guest: SocketAddr) -> Result<OwnedFd, Errno> {
    let (family, any): (_, IpAddr) = match guest {
        SocketAddr::V4(_) => (AddressFamily::INET, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (AddressFamily::INET6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
    if guest.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&fd, true)?;
    }
    rustix::net::bind(&fd, &SocketAddr::new(any, 0))?;
    Ok(fd)
}

/// Takes one datagram. `None` if there is none; the sender is `None` for a pending error that was cleared.
fn receive(fd: &OwnedFd, buffer: &mut Vec<u8>) -> Option<(usize, Option<SocketAddr>)> {
    buffer.clear();
    match rustix::net::recvfrom(fd, spare_capacity(buffer), RecvFlags::DONTWAIT) {
        Ok((length, _, from)) => Some((length, from.and_then(|from| from.try_into().ok()))),
        Err(Errno::AGAIN) => None,
        // An earlier datagram's ICMP error: reading it has cleared it.
        Err(_) => Some((0, None)),
    }
}
