//! TCP out of the guest.
//!
//! A SYN of the guest first makes the host connect; only when that has worked is the SYN answered. So the guest sees
//! what a program on the host would see: refused connections are reset, unreachable networks give an ICMP message, and
//! hosts that do not answer give nothing, until the guest's own patience ends.

use std::net::SocketAddr;

use kiln_net::tcp::Segment;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::connection::{Connection, Flow, Phase};
use super::{EVENTS, Tcp, refuse, segment};
use crate::context::Context;
use crate::dns;
use crate::packet::{Packet, Unreachable, send_unreachable};
use crate::policy::{Route, route};
use crate::poller::Token;
use crate::table::Key;

impl Tcp {
    /// A SYN of the guest that belongs to no connection.
    pub(super) fn open(
        &mut self,
        cx: &mut Context,
        flow: Flow,
        (packet, segment): (&Packet<'_>, &Segment<'_>),
        resolver: Option<SocketAddr>,
    ) {
        let to_dns = resolver.filter(|_| flow.peer.port() == dns::PORT);
        let target = match (route(&cx.config, packet.target), to_dns) {
            (Route::Host(address), _) => SocketAddr::new(address, flow.peer.port()),
            (Route::Dns, Some(resolver)) => resolver,
            // Nobody listens there, as far as the guest is concerned.
            (Route::Dns | Route::Gateway, _) => return refuse(cx, packet),
            (Route::Refused, _) => {
                cx.stats.refused += 1;
                send_unreachable(&mut cx.out, packet, Unreachable::Prohibited);
                return;
            }
        };
        if self.connections.len() >= cx.config.limits.connections {
            cx.stats.tcp_limited += 1;
            return refuse(cx, packet);
        }
        let syn = segment::headers(packet, segment);
        match self.connect(cx, flow, syn, target) {
            Ok(()) => cx.stats.tcp_opened += 1,
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                cx.stats.tcp_limited += 1;
                refuse(cx, packet);
            }
            Err(errno) => fail(cx, packet.bytes, errno),
        }
    }

    fn connect(
        &mut self,
        cx: &Context,
        flow: Flow,
        syn: Box<[u8]>,
        target: SocketAddr,
    ) -> Result<(), Errno> {
        let family = if target.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let host = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        sockopt::set_tcp_nodelay(&host, true)?;
        sockopt::set_socket_keepalive(&host, true)?;
        match rustix::net::connect(&host, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        let connection = Connection::new(flow, Phase::Connecting { syn }, host);
        // The caller has looked whether the flow exists.
        let key = self.insert(connection).ok_or(Errno::EXIST)?;
        let added = match self.connections.get_mut(key) {
            // Registering reports a connection that is up already, too.
            Some(connection) => cx.poller.add(&connection.host, Token::Tcp(key), EVENTS),
            None => Ok(()),
        };
        if added.is_err() {
            self.remove(key);
        }
        added
    }

    /// The host's socket of a connecting flow reported something.
    pub(super) fn connected(&mut self, cx: &mut Context, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let outcome = match sockopt::socket_error(&connection.host) {
            Ok(outcome) => outcome,
            Err(errno) => Err(errno),
        };
        // Without an error and without a peer it is still on its way.
        if outcome.is_ok() && rustix::net::getpeername(&connection.host).is_err() {
            return;
        }
        let Phase::Connecting { syn } = std::mem::replace(&mut connection.phase, Phase::Open)
        else {
            return;
        };
        if let Err(errno) = outcome {
            self.remove(key);
            return fail(cx, &syn, errno);
        }
        let Some(packet) = Packet::parse(&syn) else {
            return self.remove(key);
        };
        let size = self.buffer_size(cx);
        let (Some(size), Some((flow, segment))) = (size, segment::parse(&packet)) else {
            self.remove(key);
            cx.stats.tcp_limited += 1;
            return refuse(cx, &packet);
        };
        let tcb = self.opening.answer(cx, flow, &segment, size);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.tcb = Some(tcb);
            self.reserved += connection.reserve(size);
        }
    }
}

/// Tells the guest why its connection cannot be.
fn fail(cx: &mut Context, syn: &[u8], errno: Errno) {
    cx.stats.tcp_failed += 1;
    let Some(packet) = Packet::parse(syn) else {
        return;
    };
    match errno {
        // The guest's own time-out says it best.
        Errno::TIMEDOUT => {}
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN | Errno::HOSTDOWN => {
            send_unreachable(&mut cx.out, &packet, Unreachable::Host);
        }
        Errno::ACCESS | Errno::PERM => {
            send_unreachable(&mut cx.out, &packet, Unreachable::Prohibited);
        }
        _ => refuse(cx, &packet),
    }
}
