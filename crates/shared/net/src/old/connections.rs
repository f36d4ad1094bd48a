//! Every TCP connection from its SYN to its end, and the listeners.
//!
//! A connection has a socket of the protocol, with buffers, from its first SYN until nothing more can happen, and a
//! [`Phase`] that says who cares for it:
//!
//! ```text
//! SYN arrives -> HalfOpen -> Queued -accept()-> Open -drop-> Lingering -> (time-wait table)
//!                            connect() ------->
//! ```
//!
//! A listener needs no socket. When a SYN for it arrives, a socket is made for exactly this SYN. What an
//! attacker can make the stack hold is limited three ways: half-open connections per listener (a stale one gives way, else
//! the new SYN is ignored),
//! complete connections nobody has accepted (new SYNs are ignored), and all connections together (new SYNs are
//! ignored, unless an old half-open connection can give way).

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use kiln_abi::Instant;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer};
use smoltcp::wire::IpEndpoint;

use crate::address;
use crate::error::Error;
use crate::lifecycle::discard_received;
use crate::link::Which;
use crate::stack::Core;
use crate::stats::Stats;
use crate::wait::WaitQueue;

/// First of the ephemeral ports, which go up to 65535. RFC 6056 section 3.2 advises a wide range.
const FIRST_EPHEMERAL: u16 = 32_768;
/// Ten segments, which any sender may send at once (RFC 6928). With a send buffer no greater than that there is never
/// more on its way, and the protocol's congestion control, which starts with two short segments, would only delay.
const INITIAL_WINDOW: usize = 16 * 1024;
/// Ports tried before giving up.
const PORT_ATTEMPTS: usize = 256;

/// Who cares for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A listener has it, the handshake is not complete.
    HalfOpen { listener: u32, since: Instant },
    /// A listener has it, complete.
    Queued { listener: u32 },
    /// The program has it.
    Open,
    /// Nobody but the stack.
    Lingering { until: Instant },
}

/// A connection.
pub(crate) struct Connection {
    pub id: u32,
    pub which: Which,
    pub handle: SocketHandle,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub phase: Phase,
    /// Why it ended, if the protocol does not remember.
    pub error: Option<Error>,
    pub user_timeout: Option<Duration>,
    pub keepalive: bool,
}

pub(crate) struct Listener {
    pub id: u32,
    pub local: SocketAddr,
    pub backlog: usize,
    pub complete: VecDeque<u32>,
    pub waiting: WaitQueue,
}

impl Listener {
    pub(crate) fn takes(&self, destination: SocketAddr) -> bool {
        self.local.port() == destination.port()
            && match self.local.ip() {
                IpAddr::V6(address) if address.is_unspecified() => true,
                IpAddr::V4(address) if address.is_unspecified() => destination.is_ipv4(),
                address => address == destination.ip(),
            }
    }
}

/// All connections and listeners.
pub(crate) struct Connections {
    pub all: Vec<Connection>,
    pub listeners: Vec<Listener>,
    pub max: usize,
}

impl Connections {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            all: Vec::new(),
            listeners: Vec::new(),
            max,
        }
    }

    /// The connection with these ends.
    pub(crate) fn find(&self, which: Which, local: SocketAddr, remote: SocketAddr) -> Option<u32> {
        self.all
            .iter()
            .find(|c| c.which == which && c.local == local && c.remote == remote)
            .map(|c| c.id)
    }

    pub(crate) fn get(&mut self, id: u32) -> Option<&mut Connection> {
        self.all.iter_mut().find(|connection| connection.id == id)
    }

    pub(crate) fn half_open(&self, of: Option<u32>) -> impl Iterator<Item = (u32, Instant)> {
        self.all.iter().filter_map(move |c| match c.phase {
            Phase::HalfOpen { listener, since } if of.is_none_or(|of| of == listener) => {
                Some((c.id, since))
            }
            _ => None,
        })
    }

    pub(crate) fn lingering(&self) -> impl Iterator<Item = (u32, Instant)> {
        self.all.iter().filter_map(|c| match c.phase {
            Phase::Lingering { until } => Some((c.id, until)),
            _ => None,
        })
    }

    pub(crate) fn count(&self, stats: &mut Stats) {
        stats.connections = self.all.len();
        stats.half_open = self.half_open(None).count();
        stats.lingering = self.lingering().count();
        stats.open = self.all.iter().filter(|c| c.phase == Phase::Open).count();
    }
}

/// True if two sockets cannot both be bound: same port, and addresses that overlap. `[::]` takes both families.
pub(crate) fn conflict(a: SocketAddr, b: SocketAddr) -> bool {
    let wildcard =
        |one: IpAddr, other: IpAddr| one.is_unspecified() && (one.is_ipv6() || other.is_ipv4());
    a.port() == b.port()
        && (a.ip() == b.ip() || wildcard(a.ip(), b.ip()) || wildcard(b.ip(), a.ip()))
}

impl Core {
    /// Starts to listen.
    pub(crate) fn listen(
        &mut self,
        local: SocketAddr,
        backlog: usize,
    ) -> Result<(u32, SocketAddr), Error> {
        let mut local = SocketAddr::new(local.ip(), local.port());
        if !local.ip().is_unspecified() && !self.is_own(local.ip()) {
            return Err(Error::AddressNotAvailable);
        }
        if local.port() == 0 {
            local.set_port(self.tcp_port(|core, port| {
                let candidate = SocketAddr::new(local.ip(), port);
                core.connections
                    .listeners
                    .iter()
                    .any(|listener| conflict(listener.local, candidate))
            })?);
        }
        let in_use = |listener: &Listener| conflict(listener.local, local);
        if self.connections.listeners.iter().any(in_use) {
            return Err(Error::AddressInUse);
        }
        let id = self.id();
        self.connections.listeners.push(Listener {
            id,
            local,
            backlog: backlog.clamp(1, self.connections.max.div_ceil(2)),
            complete: VecDeque::new(),
            waiting: WaitQueue::default(),
        });
        Ok((id, local))
    }

    /// Takes a complete connection from a listener, or remembers the waker.
    pub(crate) fn accept(
        &mut self,
        listener: u32,
        waker: &core::task::Waker,
    ) -> Option<(u32, SocketAddr)> {
        loop {
            let found = |known: &&mut Listener| known.id == listener;
            let known = self.connections.listeners.iter_mut().find(found)?;
            let Some(id) = known.complete.pop_front() else {
                known.waiting.register(waker);
                return None;
            };
            // Reset before it was accepted: as if it had never been.
            if self.is_over(id) {
                self.discard(id);
                continue;
            }
            let connection = self.connections.get(id)?;
            connection.phase = Phase::Open;
            return Some((id, connection.remote));
        }
    }

    /// Starts to connect.
    pub(crate) fn connect(&mut self, remote: SocketAddr) -> Result<u32, Error> {
        let remote = SocketAddr::new(address::peer(remote.ip()), remote.port());
        if remote.port() == 0 || remote.ip().is_multicast() {
            return Err(Error::InvalidInput);
        }
        let (which, source) = self.route(remote.ip())?;
        let port = self.tcp_port(|core, port| {
            let local = SocketAddr::new(source, port);
            core.connections.find(which, local, remote).is_some()
                || core.time_wait.contains(local, remote)
                || core.connections.listeners.iter().any(|l| l.takes(local))
        })?;
        if !self.make_room() {
            return Err(Error::Exhausted);
        }
        let local = SocketAddr::new(source, port);
        let mut socket = self.socket(which);
        socket.set_timeout(Some(self.config.connect_timeout.into()));
        let link = self.link(which);
        socket
            .connect(
                link.iface.context(),
                IpEndpoint::from(remote),
                IpEndpoint::from(local),
            )
            .map_err(|_| Error::InvalidInput)?;
        let handle = link.sockets.add(socket);
        self.stats.connected += 1;
        self.pending = true;
        Ok(self.enter(which, handle, local, remote, Phase::Open))
    }

    /// The protocol's socket of a connection, and why it ended if that is known. Connections that the program holds
    /// always have one.
    pub(crate) fn tcp(&mut self, id: u32) -> Option<(&mut Socket<'static>, Option<Error>)> {
        let connection = self.connections.all.iter().find(|c| c.id == id)?;
        let (which, handle, error) = (connection.which, connection.handle, connection.error);
        Some((self.link(which).sockets.get_mut::<Socket>(handle), error))
    }

    /// The two ends of a connection.
    pub(crate) fn ends(&mut self, id: u32) -> Option<(SocketAddr, SocketAddr)> {
        self.connections.get(id).map(|c| (c.local, c.remote))
    }

    /// Shuts down the sending direction.
    pub(crate) fn close(&mut self, id: u32) {
        self.pending = true;
        if let Some((socket, _)) = self.tcp(id) {
            socket.close();
        }
    }

    /// Ends a connection with a reset.
    pub(crate) fn abort(&mut self, id: u32, error: Error) {
        self.pending = true;
        if let Some(connection) = self.connections.get(id) {
            connection.error.get_or_insert(error);
        }
        if let Some((socket, _)) = self.tcp(id) {
            socket.abort();
        }
    }

    /// Sets how long written data may stay unacknowledged.
    pub(crate) fn set_user_timeout(&mut self, id: u32, timeout: Option<Duration>) {
        self.pending = true;
        if let Some(connection) = self.connections.get(id) {
            connection.user_timeout = timeout;
        }
    }

    /// Sets after how long an idle connection is probed.
    pub(crate) fn set_keepalive(&mut self, id: u32, interval: Option<Duration>) {
        self.pending = true;
        if let Some(connection) = self.connections.get(id) {
            connection.keepalive = interval.is_some();
        }
        if let Some((socket, _)) = self.tcp(id) {
            socket.set_keep_alive(interval.map(Into::into));
        }
    }

    /// The program has dropped a connection: it closes in its own time.
    pub(crate) fn release_connection(&mut self, id: u32) {
        let until = self.now + self.config.linger;
        let Some(connection) = self.connections.get(id) else {
            return;
        };
        connection.phase = Phase::Lingering { until };
        if self.is_opening(id) {
            self.discard(id);
        } else if let Some((socket, _)) = self.tcp(id) {
            socket.set_keep_alive(None);
            socket.set_timeout(None);
            discard_received(socket);
            socket.close();
        }
        if self.connections.lingering().count() > self.connections.max / 2 {
            self.drop_oldest_lingering();
        }
    }

    /// The program has dropped a listener: connections that it has not accepted are reset.
    pub(crate) fn release_listener(&mut self, id: u32) {
        self.connections.listeners.retain(|known| known.id != id);
        let until = self.now + self.config.linger;
        let mut orphans = Vec::new();
        for connection in &mut self.connections.all {
            if let Phase::HalfOpen { listener, .. } | Phase::Queued { listener } = connection.phase
                && listener == id
            {
                connection.phase = Phase::Lingering { until };
                orphans.push(connection.id);
            }
        }
        for id in orphans {
            self.abort(id, Error::ConnectionAborted);
        }
    }

    /// A random port that is not `taken`, RFC 6056 section 3.3.1.
    fn tcp_port(&mut self, taken: impl Fn(&Self, u16) -> bool) -> Result<u16, Error> {
        for _ in 0..PORT_ATTEMPTS {
            let port = self.ephemeral_port();
            if !taken(self, port) {
                return Ok(port);
            }
        }
        Err(Error::Exhausted)
    }

    pub(crate) fn ephemeral_port(&mut self) -> u16 {
        let range = u32::from(u16::MAX - FIRST_EPHEMERAL) + 1;
        FIRST_EPHEMERAL + self.random.below(range) as u16
    }

    pub(crate) fn socket(&self, which: Which) -> Socket<'static> {
        let buffer = |size| SocketBuffer::new(vec![0; size]);
        let mut socket = Socket::new(buffer(self.buffers.receive), buffer(self.buffers.send));
        let uncontrolled = which == Which::Loopback || self.buffers.send <= INITIAL_WINDOW;
        socket.set_congestion_control(if uncontrolled {
            CongestionControl::None
        } else {
            CongestionControl::Reno
        });
        socket
    }

    pub(crate) fn enter(
        &mut self,
        which: Which,
        handle: SocketHandle,
        local: SocketAddr,
        remote: SocketAddr,
        phase: Phase,
    ) -> u32 {
        let id = self.id();
        self.connections.all.push(Connection {
            id,
            which,
            handle,
            local,
            remote,
            phase,
            error: None,
            user_timeout: None,
            keepalive: false,
        });
        id
    }
}
