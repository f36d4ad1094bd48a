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
//! attacker can make the stack hold is limited three ways: half-open connections per listener (the oldest gives way),
//! complete connections nobody has accepted (new SYNs are ignored), and all connections together (new SYNs are refused).

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use kiln_abi::Instant;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::wire::{IpEndpoint, IpListenEndpoint};

use crate::address;
use crate::error::Error;
use crate::frame::Segment;
use crate::link::Which;
use crate::stack::Core;
use crate::stats::Stats;
use crate::wait::WaitQueue;

/// How long a peer may take to complete the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// First of the ephemeral ports, which go up to 65535. RFC 6056 section 3.2 advises a wide range.
const FIRST_EPHEMERAL: u16 = 32_768;
/// Ten segments, which any sender may send at once (RFC 6928). With a send buffer no greater than that there is never
/// more on its way, and the protocol's congestion control, which starts with two short segments, would only delay.
const INITIAL_WINDOW: usize = 16 * 1024;
/// Ports tried before giving up.
const PORT_ATTEMPTS: usize = 256;

/// Who cares for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
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
    id: u32,
    which: Which,
    handle: SocketHandle,
    local: SocketAddr,
    remote: SocketAddr,
    phase: Phase,
    /// Why it ended, if the protocol does not remember.
    error: Option<Error>,
    user_timeout: Option<Duration>,
    keepalive: bool,
}

struct Listener {
    id: u32,
    local: SocketAddr,
    backlog: usize,
    complete: VecDeque<u32>,
    waiting: WaitQueue,
}

impl Listener {
    fn takes(&self, destination: SocketAddr) -> bool {
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
    all: Vec<Connection>,
    listeners: Vec<Listener>,
    max: usize,
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

    fn get(&mut self, id: u32) -> Option<&mut Connection> {
        self.all.iter_mut().find(|connection| connection.id == id)
    }

    fn half_open(&self, of: Option<u32>) -> impl Iterator<Item = (u32, Instant)> {
        self.all.iter().filter_map(move |c| match c.phase {
            Phase::HalfOpen { listener, since } if of.is_none_or(|of| of == listener) => {
                Some((c.id, since))
            }
            _ => None,
        })
    }

    fn lingering(&self) -> impl Iterator<Item = (u32, Instant)> {
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

fn oldest(candidates: impl Iterator<Item = (u32, Instant)>) -> Option<u32> {
    candidates.min_by_key(|(_, time)| *time).map(|(id, _)| id)
}

/// True if two sockets cannot both be bound: same port, and addresses that overlap. `[::]` takes both families.
pub(crate) fn conflict(a: SocketAddr, b: SocketAddr) -> bool {
    let wildcard =
        |one: IpAddr, other: IpAddr| one.is_unspecified() && (one.is_ipv6() || other.is_ipv4());
    a.port() == b.port()
        && (a.ip() == b.ip() || wildcard(a.ip(), b.ip()) || wildcard(b.ip(), a.ip()))
}

/// What the program's side asks for.
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

    fn socket(&self, which: Which) -> Socket<'static> {
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

    fn enter(
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

/// What happens on the network.
impl Core {
    /// Makes a socket for a SYN. `Ok(None)` if it is to be refused, `Err` if it is to be ignored.
    pub(crate) fn admit(&mut self, which: Which, segment: &Segment) -> Result<Option<u32>, ()> {
        let (local, remote) = (segment.destination, segment.source);
        let peer_ok = !remote.ip().is_multicast() && !remote.ip().is_unspecified();
        if !peer_ok || remote.port() == 0 || !self.is_own(local.ip()) {
            return Ok(None);
        }
        let takes = |listener: &&Listener| listener.takes(local);
        let Some(listener) = self.connections.listeners.iter().find(takes) else {
            return Ok(None);
        };
        let (listener, backlog, complete) =
            (listener.id, listener.backlog, listener.complete.len());
        if complete >= backlog {
            self.stats.backlog_overflows += 1;
            return Err(());
        }
        if self.connections.half_open(Some(listener)).count() >= backlog {
            self.drop_oldest_half_open(Some(listener));
        }
        if !self.make_room() && !self.drop_oldest_half_open(None) {
            self.stats.refused += 1;
            return Ok(None);
        }
        let mut socket = self.socket(which);
        let endpoint = IpListenEndpoint::from(local);
        socket.listen(endpoint).map_err(|_| ())?;
        let handle = self.link(which).sockets.add(socket);
        let since = self.now;
        let phase = Phase::HalfOpen { listener, since };
        Ok(Some(self.enter(which, handle, local, remote, phase)))
    }

    /// Looks at a socket that was made for a SYN and has got it.
    pub(crate) fn settle(&mut self, id: u32) {
        let state = self.tcp(id).map(|(socket, _)| socket.state());
        if state != Some(State::SynReceived) {
            self.discard(id);
        }
    }

    /// Looks at a connection that has got a segment.
    ///
    /// `opening` says that it was waiting for the answer to its SYN.
    pub(crate) fn observe(&mut self, id: u32, segment: &Segment, opening: bool) {
        let before = self.connections.get(id).map(|connection| connection.phase);
        let Some((socket, _)) = self.tcp(id) else {
            return;
        };
        let state = socket.state();
        match before {
            Some(Phase::HalfOpen { listener, .. }) => match state {
                State::SynReceived => {}
                State::Listen | State::Closed => self.discard(id),
                _ => self.complete(id, listener),
            },
            Some(Phase::Lingering { .. }) => discard_received(socket),
            Some(Phase::Open | Phase::Queued { .. })
                if state == State::Closed && segment.has(Segment::RST) =>
            {
                let error = if opening {
                    Error::ConnectionRefused
                } else {
                    Error::ConnectionReset
                };
                if let Some(connection) = self.connections.get(id) {
                    connection.error.get_or_insert(error);
                }
            }
            _ => {}
        }
    }

    fn complete(&mut self, id: u32, listener: u32) {
        let Some(connection) = self.connections.get(id) else {
            return;
        };
        connection.phase = Phase::Queued { listener };
        let found = |known: &&mut Listener| known.id == listener;
        if let Some(known) = self.connections.listeners.iter_mut().find(found) {
            known.complete.push_back(id);
            known.waiting.wake();
            self.stats.accepted += 1;
        }
    }

    /// A router says that a peer cannot be reached. Only a connection that is being opened believes it (RFC 5461).
    pub(crate) fn unreachable(&mut self, which: Which, local: SocketAddr, remote: SocketAddr) {
        let Some(id) = self.connections.find(which, local, remote) else {
            return;
        };
        if let Some((socket, _)) = self.tcp(id)
            && socket.state() == State::SynSent
        {
            self.abort(id, Error::Unreachable);
        }
    }

    /// Aborts the connections whose local address the stack no longer has.
    pub(crate) fn abort_homeless(&mut self) {
        let homeless: Vec<u32> = self
            .connections
            .all
            .iter()
            .filter(|c| c.which == Which::Wire && !self.is_own(c.local.ip()))
            .map(|c| c.id)
            .collect();
        for id in homeless {
            self.abort(id, Error::ConnectionAborted);
        }
    }

    /// True if a connection waits for the answer to its SYN.
    pub(crate) fn is_opening(&mut self, id: u32) -> bool {
        self.tcp(id)
            .is_some_and(|(socket, _)| socket.state() == State::SynSent)
    }

    /// True if nothing more can happen on a connection but its being forgotten.
    pub(crate) fn is_over(&mut self, id: u32) -> bool {
        self.tcp(id)
            .is_none_or(|(socket, _)| matches!(socket.state(), State::Closed | State::TimeWait))
            && self
                .connections
                .get(id)
                .is_none_or(|c| c.phase != Phase::Open)
    }

    /// Frees what is over, and says when there will be something to free next.
    pub(crate) fn reap(&mut self) -> Instant {
        let mut next = Instant::FOREVER;
        let mut index = 0;
        while let Some(connection) = self.connections.all.get(index) {
            let (id, phase) = (connection.id, connection.phase);
            let (user_timeout, keepalive) = (connection.user_timeout, connection.keepalive);
            let (local, remote) = (connection.local, connection.remote);
            let now = self.now;
            let Some((socket, _)) = self.tcp(id) else {
                break;
            };
            let deadline = match phase {
                Phase::HalfOpen { since, .. } => since + HANDSHAKE_TIMEOUT,
                Phase::Lingering { until } => until,
                Phase::Queued { .. } => Instant::FOREVER,
                Phase::Open => {
                    limit_silence(socket, user_timeout, keepalive);
                    Instant::FOREVER
                }
            };
            let state = socket.state();
            let nothing_to_say = socket.remote_endpoint().is_none();
            let lingering = matches!(phase, Phase::Lingering { .. });
            if lingering && state == State::TimeWait {
                let until = now + self.config.time_wait;
                self.time_wait.insert(local, remote, until);
                self.discard(id);
            } else if lingering && state == State::Closed && nothing_to_say {
                self.discard(id);
            } else if deadline <= now {
                // A peer with something more to say gets a reset for it, having no socket any more.
                if matches!(phase, Phase::HalfOpen { .. }) {
                    self.stats.half_open_dropped += 1;
                }
                self.discard(id);
            } else {
                next = next.min(deadline);
                index += 1;
            }
        }
        next
    }

    /// Forgets a connection and frees its socket.
    pub(crate) fn discard(&mut self, id: u32) {
        let Some(index) = self.connections.all.iter().position(|c| c.id == id) else {
            return;
        };
        let connection = self.connections.all.swap_remove(index);
        self.link(connection.which)
            .sockets
            .remove(connection.handle);
        if let Phase::Queued { listener } = connection.phase
            && let Some(known) = self
                .connections
                .listeners
                .iter_mut()
                .find(|known| known.id == listener)
        {
            known.complete.retain(|queued| *queued != id);
        }
    }

    /// Makes sure that one more connection fits, at the expense of those that nobody holds any more.
    fn make_room(&mut self) -> bool {
        self.connections.all.len() < self.connections.max || self.drop_oldest_lingering()
    }

    fn drop_oldest_lingering(&mut self) -> bool {
        let Some(id) = oldest(self.connections.lingering()) else {
            return false;
        };
        self.discard(id);
        true
    }

    fn drop_oldest_half_open(&mut self, of: Option<u32>) -> bool {
        let Some(id) = oldest(self.connections.half_open(of)) else {
            return false;
        };
        self.stats.half_open_dropped += 1;
        self.discard(id);
        true
    }
}

/// Makes the protocol's time limit apply only while the peer owes an answer. By itself it would end connections that
/// are merely idle.
fn limit_silence(socket: &mut Socket<'_>, timeout: Option<Duration>, keepalive: bool) {
    if socket.state() == State::SynSent {
        return;
    }
    let owed = socket.send_queue() > 0 || keepalive;
    socket.set_timeout(timeout.filter(|_| owed).map(Into::into));
}

/// Nobody will read it, but the peer's FIN comes behind it.
fn discard_received(socket: &mut Socket<'_>) {
    while matches!(socket.recv(|data| (data.len(), data.len())), Ok(1..)) {}
}
