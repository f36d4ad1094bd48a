//! What happens to connections on the network: SYNs, completed handshakes, resets, ends.
//!
//! The table itself, and what the program does with it, is in `connections`. Here is its other side: who is let in,
//! what the protocol made of a segment, and when a socket and its buffers are freed.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use kiln_abi::Instant;
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::wire::IpListenEndpoint;

use crate::connections::{Listener, Phase};
use crate::error::Error;
use crate::frame::Segment;
use crate::link::Which;
use crate::stack::Core;

/// How long a half-open connection is safe from others that need its room.
const STALE: Duration = Duration::from_secs(1);

/// How long a peer may take to complete the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

impl Core {
    /// Makes a socket for a SYN. `Ok(None)` if it is to be refused, `Err` if it is to be ignored: a peer whose SYN is
    /// ignored tries again a second later, one that is refused gives up or, worse, tries again at once.
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
        let half_open = self.connections.half_open(Some(listener)).count();
        if half_open >= backlog && !self.drop_stale_half_open(Some(listener)) {
            self.stats.backlog_overflows += 1;
            return Err(());
        }
        if !self.make_room() && !self.drop_stale_half_open(None) {
            self.stats.refused += 1;
            return Err(());
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
    pub(crate) fn make_room(&mut self) -> bool {
        self.connections.all.len() < self.connections.max || self.drop_oldest_lingering()
    }

    pub(crate) fn drop_oldest_lingering(&mut self) -> bool {
        let Some(id) = oldest(self.connections.lingering()) else {
            return false;
        };
        self.discard(id);
        true
    }

    /// Forgets the oldest half-open connection, if its peer has had its chance to answer. One that may be about to
    /// keeps its place, or a burst of honest clients would push each other out.
    fn drop_stale_half_open(&mut self, of: Option<u32>) -> bool {
        let half_open = self.connections.half_open(of);
        let Some((id, since)) = half_open.min_by_key(|(_, since)| *since) else {
            return false;
        };
        if self.now - since < STALE {
            return false;
        }
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
pub(crate) fn discard_received(socket: &mut Socket<'_>) {
    while matches!(socket.recv(|data| (data.len(), data.len())), Ok(1..)) {}
}

fn oldest(candidates: impl Iterator<Item = (u32, Instant)>) -> Option<u32> {
    candidates.min_by_key(|(_, time)| *time).map(|(id, _)| id)
}
