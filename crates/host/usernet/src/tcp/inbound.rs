//! TCP into the guest: forwarded ports of the host.
//!
//! Each accepted client becomes a connection from the gateway's address and a port of ours. A program that is still
//! starting refuses it; as long as its port has never answered, the attempt is repeated for a short time, so that
//! `kiln run -p ... & curl ...` works. A port that once answered and refuses now is refused to the client at once.

use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::connection::{Connection, Flow, Phase};
use super::{EVENTS, Tcp};
use crate::context::Context;
use crate::poller::{Flags, Token};
use crate::{Error, PortForward, Protocol};

/// How long a client waits for a program that refuses it because it is still starting.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a client waits for a guest that says nothing: one without room ignores a SYN and takes a later one.
const SILENCE: Duration = Duration::from_secs(30);

/// The first pause after a refusal; each further one is longer by a sixteenth, up to [`LONGEST_PAUSE`]. So a client waits little longer
/// than the program needs to start, whether that takes milliseconds or seconds.
const FIRST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The pause behind this one.
fn longer(pause: Duration) -> Duration {
    (pause + pause / 16).min(LONGEST_PAUSE)
}

/// How long no client is taken after the host or our limits refused one.
const REST: Duration = Duration::from_millis(50);

/// Clients taken per event; level-triggered events bring the rest.
const ACCEPTS: usize = 64;

/// Ports from here on stand for clients.
const FIRST_PORT: u16 = 1024;

/// One listening socket.
pub(super) struct Listener {
    fd: OwnedFd,
    guest_port: u16,
    /// Some connection through it was answered.
    pub served: bool,
    /// No clients are taken until then.
    resting: Option<Instant>,
}

/// Binds one forward, on one or two addresses, and returns the sockets and what they are bound to.
pub(crate) fn bind(forward: &PortForward) -> Result<Vec<(OwnedFd, SocketAddr)>, Error> {
    // With a port of the host's choice the second family may find it taken; another choice then helps.
    let attempts = if forward.host.port() == 0 { 8 } else { 1 };
    let mut attempt = 1;
    loop {
        let first = bind_one(forward.protocol, forward.host)
            .map_err(|errno| Error::listen(errno, forward.host))?;
        if !forward.both_families {
            return Ok(vec![first]);
        }
        let other = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), first.1.port());
        match bind_one(forward.protocol, other) {
            Ok(second) => return Ok(vec![first, second]),
            // A host without IPv6.
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => return Ok(vec![first]),
            Err(Errno::ADDRINUSE) if attempt < attempts => attempt += 1,
            Err(errno) => return Err(Error::listen(errno, other)),
        }
    }
}

fn bind_one(protocol: Protocol, address: SocketAddr) -> Result<(OwnedFd, SocketAddr), Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let (kind, ip_protocol) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, kind, flags, Some(ip_protocol))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections of a previous run in TIME-WAIT must not keep the port busy.
        sockopt::set_socket_reuseaddr(&fd, true)?;
        // Accepted sockets inherit both: data go on as they come, and clients that died are noticed.
        sockopt::set_tcp_nodelay(&fd, true)?;
        sockopt::set_socket_keepalive(&fd, true)?;
    }
    rustix::net::bind(&fd, &address)?;
    if protocol == Protocol::Tcp {
        rustix::net::listen(&fd, 4096)?;
    }
    let bound = SocketAddr::try_from(rustix::net::getsockname(&fd)?)?;
    Ok((fd, bound))
}

impl Tcp {
    /// Starts taking clients from a bound socket.
    pub fn listen(&mut self, cx: &Context, fd: OwnedFd, guest_port: u16) -> Result<(), Error> {
        let token = Token::Listener(self.listeners.len() as u32);
        cx.poller
            .add(&fd, token, Flags::IN)
            .map_err(Error::host("wait for clients of a forwarded port"))?;
        self.listeners.push(Listener {
            fd,
            guest_port,
            served: false,
            resting: None,
        });
        Ok(())
    }

    /// Takes no clients any more; those that wait are refused.
    pub fn close_listeners(&mut self) {
        self.listeners.clear();
    }

    /// Takes waiting clients.
    pub fn accept(&mut self, cx: &mut Context, index: u32) {
        for _ in 0..ACCEPTS {
            let Some(listener) = self.listeners.get_mut(index as usize) else {
                return;
            };
            if self.connections.len() >= cx.config.limits.connections {
                // Clients wait in the host's backlog meanwhile.
                rest(cx, listener, index);
                return;
            }
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match rustix::net::accept_with(&listener.fd, flags) {
                Ok(client) => {
                    let guest_port = listener.guest_port;
                    self.dial(cx, client, index, guest_port);
                }
                Err(Errno::AGAIN) => return,
                // The client has gone away again.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => {
                    rest(cx, listener, index);
                    return;
                }
            }
        }
    }

    /// Wakes listeners whose rest is over.
    pub fn wake_listeners(&mut self, cx: &Context) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if listener.resting.is_some_and(|until| until <= cx.now) {
                listener.resting = None;
                let token = Token::Listener(index as u32);
                let _ = cx.poller.modify(&listener.fd, token, Flags::IN);
            }
        }
    }

    /// When the next listener wakes.
    pub fn next_listener(&self) -> Option<Instant> {
        self.listeners.iter().filter_map(|l| l.resting).min()
    }

    fn dial(&mut self, cx: &mut Context, client: OwnedFd, index: u32, guest_port: u16) {
        let guest = SocketAddr::new(cx.config.guest4.into(), guest_port);
        let Some(flow) = self.free_flow(cx, guest) else {
            cx.stats.tcp_limited += 1;
            return;
        };
        let Some(size) = self.buffer_size(cx) else {
            cx.stats.tcp_limited += 1;
            return;
        };
        let mut connection = Connection::new(
            flow,
            Phase::Dialing {
                give_up: cx.now + SILENCE,
                refused_until: cx.now + PATIENCE,
                retry: None,
                pause: FIRST_PAUSE,
            },
            client,
        );
        connection.forward = Some(index);
        self.reserved += connection.reserve(size);
        cx.stats.tcp_accepted += 1;
        let Some(key) = self.insert(connection) else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(key) {
            if cx
                .poller
                .add(&connection.host, Token::Tcp(key), EVENTS)
                .is_err()
            {
                self.remove(key);
                return;
            }
            connection.tcb = Some(self.opening.dial(cx, flow, size));
        }
        self.enqueue(key);
    }

    /// Deals with the guest's refusal of an incoming connection. False if the client must be refused too.
    pub(super) fn redial(&mut self, cx: &Context, key: crate::table::Key) -> bool {
        let Some(connection) = self.connections.get_mut(key) else {
            return false;
        };
        let served = connection
            .forward
            .and_then(|index| self.listeners.get(index as usize))
            .is_some_and(|listener| listener.served);
        let Phase::Dialing {
            refused_until,
            retry,
            pause,
            ..
        } = &mut connection.phase
        else {
            return false;
        };
        if served || cx.now >= *refused_until {
            return false;
        }
        match *retry {
            None => {
                *retry = Some((cx.now + *pause).min(*refused_until));
                *pause = longer(*pause);
            }
            Some(at) if at <= cx.now => {
                *retry = None;
                let size = connection.buffer_size();
                connection.tcb = Some(self.opening.dial(cx, connection.flow, size));
            }
            Some(_) => {}
        }
        true
    }

    /// A source port of the gateway that no connection to `guest` uses.
    fn free_flow(&mut self, cx: &Context, guest: SocketAddr) -> Option<Flow> {
        for _ in 0..4096 {
            self.last_port = self.last_port.checked_add(1).unwrap_or(FIRST_PORT);
            let peer = SocketAddr::new(cx.config.gateway4.into(), self.last_port);
            let flow = Flow { guest, peer };
            if !self.by_flow.contains_key(&flow) {
                return Some(flow);
            }
        }
        None
    }
}

fn rest(cx: &Context, listener: &mut Listener, index: u32) {
    listener.resting = Some(cx.now + REST);
    let _ = cx
        .poller
        .modify(&listener.fd, Token::Listener(index), Flags::empty());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_waits_little_longer_than_a_program_needs_to_start() {
        let (mut at, mut pause) = (Duration::ZERO, FIRST_PAUSE);
        while at < PATIENCE {
            // A program that listens right behind an attempt is found by the next one.
            assert!(pause <= FIRST_PAUSE + at / 8, "{pause:?} at {at:?}");
            at += pause;
            pause = longer(pause);
        }
    }
}
