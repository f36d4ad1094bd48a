//! TCP without futures.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;

use super::{Ready, Watch};
use crate::connections::Connection;
use crate::error::Error;
use crate::pressure::SPARE_WRITTEN;
use crate::stack::{LOOPBACK, Orphan, Stack};
use crate::stream::Handle;
use crate::table::Key;
use crate::tcp::{Info, KeepAlive, SMALLEST_CHUNK, State};

/// With whom a bound address may be shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BindOptions {
    /// `SO_REUSEADDR` as Linux has it: with others that say so too and do not listen, and with connections that are left over.
    pub reuse_address: bool,
    /// `SO_REUSEPORT`: with others that say so too; connections are spread over those that listen.
    pub reuse_port: bool,
    /// `[::]` does not stand for IPv4 too.
    pub v6only: bool,
}

/// An address that a TCP socket has bound. Dropping it frees the address; connections not yet accepted are reset.
pub struct Binding {
    stack: Stack,
    id: u32,
    local: SocketAddr,
}

impl Binding {
    /// Binds to `address`: one of the stack's own or a loopback address, `0.0.0.0` for all of IPv4, or `[::]` for all of both
    /// families. Port 0 stands for a random free port.
    ///
    /// # Errors
    /// [`Error::AddressInUse`], also if no port is left to choose, or [`Error::AddressNotAvailable`].
    pub fn new(stack: &Stack, address: SocketAddr, options: BindOptions) -> Result<Self, Error> {
        let (id, local) = stack.with(|core| core.bind_tcp(address, options, stack.only))?;
        Ok(Self {
            stack: stack.clone(),
            id,
            local,
        })
    }

    /// Where it is bound, with the port that was chosen.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Changes with whom the address may be shared from now on.
    pub fn set_options(&self, options: BindOptions) {
        let (port, id) = (self.local.port(), self.id);
        self.stack
            .with(|core| core.set_bind_options(port, id, options));
    }

    /// Takes connections from now on; called again, changes how many may wait. `watch` is told of each that has come.
    ///
    /// # Errors
    /// [`Error::AddressInUse`] if another socket listens already.
    pub fn listen(&self, backlog: usize, watch: Rc<dyn Watch>) -> Result<(), Error> {
        let (port, id) = (self.local.port(), self.id);
        self.stack.with(|core| {
            core.start_listening(port, id, backlog)?;
            core.watch_listener(port, id, Some(watch));
            Ok(())
        })
    }

    /// Takes a connection that waits, if there is one, and the peer's address.
    pub fn accept(&self) -> Option<(Stream, SocketAddr)> {
        let (port, id) = (self.local.port(), self.id);
        let (key, peer) = self.stack.with(|core| core.try_accept(port, id))?;
        Some((Stream::new(&self.stack, key), peer))
    }

    /// Connections that wait to be accepted.
    pub fn waiting(&self) -> usize {
        let (port, id) = (self.local.port(), self.id);
        self.stack
            .with(|core| core.listeners.get(port, id).map_or(0, |l| l.complete.len()))
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        self.stack
            .release(Orphan::Listener(self.local.port(), self.id));
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Binding").field(&self.local).finish()
    }
}

/// A connection. Dropping it closes it gracefully in the background, or with a reset if received data have not been read.
pub struct Stream {
    handle: Handle,
    local: bool,
}

impl Stream {
    fn new(stack: &Stack, key: Key) -> Self {
        let port = |connection: &mut Connection| usize::from(connection.port);
        let local = stack.with(|core| core.connections.get(key).map(port)) == Some(LOOPBACK);
        let stack = stack.clone();
        Self {
            handle: Handle { stack, key },
            local,
        }
    }

    /// Starts to connect to `remote`, from what is `bound` if anything is. [`outcome`](Self::outcome) tells how it went.
    ///
    /// # Errors
    /// [`Error::Unreachable`] without a route, [`Error::AddressNotAvailable`] if the stack has no address of the family,
    /// [`Error::AddressInUse`] if there is such a connection, [`Error::Exhausted`] if no memory or port is left,
    /// [`Error::InvalidInput`] for port 0 and multicast.
    pub fn connect(
        stack: &Stack,
        bound: Option<SocketAddr>,
        remote: SocketAddr,
        watch: Rc<dyn Watch>,
    ) -> Result<Self, Error> {
        let key = stack.with(|core| core.connect_from(bound, remote, stack.only))?;
        let stream = Self::new(stack, key);
        stream.watch(watch);
        Ok(stream)
    }

    /// Who is told of every change from now on.
    pub fn watch(&self, watch: Rc<dyn Watch>) {
        let _ = self.handle.with(|connection, _| {
            connection.watch = Some(watch);
            Ok(())
        });
    }

    /// True if the peer is on this machine: what is written arrives as soon as the stack is polled.
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// Whether the connection has been established: `None` while that is not known.
    ///
    /// # Errors
    /// Why not.
    pub fn outcome(&self) -> Result<Option<()>, Error> {
        self.look(|connection| match connection.tcb.state() {
            State::SynSent | State::SynReceived => Ok(None),
            State::Closed => match connection.tcb.error() {
                Some(error) => Err(error),
                None => Ok(Some(())),
            },
            _ => Ok(Some(())),
        })
        .unwrap_or(Err(Error::NotConnected))
    }

    /// What it is ready for now. Whoever sees here that there is no room to write is told when there is.
    pub fn ready(&self) -> Ready {
        let closed = Ready::READ | Ready::WRITE | Ready::PEER_CLOSED | Ready::CLOSED;
        self.look(|connection| {
            let tcb = &connection.tcb;
            let mut ready = Ready::NONE;
            if tcb.readable() > 0 {
                ready = ready | Ready::READ;
            }
            match tcb.state() {
                State::SynSent | State::SynReceived => return ready,
                State::Closed => {
                    ready = ready | closed;
                    if tcb.error().is_some() {
                        ready = ready | Ready::ERROR;
                    }
                    return ready;
                }
                State::TimeWait | State::Closing | State::LastAck => ready = ready | closed,
                State::CloseWait => ready = ready | Ready::READ | Ready::PEER_CLOSED,
                State::FinWait1 | State::FinWait2 => ready = ready | Ready::WRITE,
                State::Established => {}
            }
            if has_room(connection) {
                ready = ready | Ready::WRITE;
            } else {
                connection.starved = true;
            }
            ready
        })
        .unwrap_or(closed)
    }

    /// Hands received bytes to `copy`, piece by piece and at most `most` of them, until it takes fewer than it was offered.
    /// `None`: there are none now. `Some(0)`: the end, or `copy` took nothing.
    ///
    /// # Errors
    /// Why the connection is over, once everything that arrived before has been read.
    pub fn read_with(
        &self,
        most: usize,
        mut copy: impl FnMut(&[u8]) -> usize,
    ) -> Result<Option<usize>, Error> {
        self.handle.stack.with(|core| {
            let now = core.now;
            let key = self.handle.key;
            let connection = core.connections.get(key).ok_or(Error::NotConnected)?;
            let tcb = &mut connection.tcb;
            if tcb.readable() == 0 {
                return match tcb.error() {
                    _ if tcb.at_end() => Ok(Some(0)),
                    Some(error) => Err(error),
                    None => Ok(None),
                };
            }
            let mut total = 0;
            let mut spare = None;
            while total < most {
                let bytes = tcb.peek();
                let bytes = bytes.get(..bytes.len().min(most - total)).unwrap_or(bytes);
                if bytes.is_empty() {
                    break;
                }
                let offered = bytes.len();
                let taken = copy(bytes).min(offered);
                spare = tcb.consume_all(taken, now).or(spare);
                total += taken;
                if taken < offered {
                    break;
                }
            }
            // The window may have to be announced.
            if tcb.wants_to_transmit(now) {
                core.make_ready(key);
            } else {
                core.connections.recount(key);
            }
            if let Some(chunk) = spare {
                core.connections.keep(chunk);
            }
            Ok(Some(total))
        })
    }

    /// As [`read_with`](Self::read_with), but leaves the bytes where they are, and only shows those behind the first `skip`.
    ///
    /// # Errors
    /// As [`read_with`](Self::read_with).
    pub fn peek_with(
        &self,
        skip: usize,
        most: usize,
        mut copy: impl FnMut(&[u8]) -> usize,
    ) -> Result<Option<usize>, Error> {
        let looked = self.look(|connection| {
            let tcb = &connection.tcb;
            if tcb.readable() <= skip {
                return match tcb.error() {
                    _ if tcb.at_end() || tcb.peer_has_closed() => Ok(Some(0)),
                    Some(error) => Err(error),
                    None => Ok(None),
                };
            }
            let (mut passed, mut total) = (0, 0);
            for bytes in tcb.received() {
                let from = skip.saturating_sub(passed).min(bytes.len());
                passed += bytes.len();
                let bytes = bytes.get(from..).unwrap_or_default();
                let bytes = bytes.get(..bytes.len().min(most - total)).unwrap_or(bytes);
                if bytes.is_empty() {
                    continue;
                }
                let taken = copy(bytes).min(bytes.len());
                total += taken;
                if taken < bytes.len() || total == most {
                    break;
                }
            }
            Ok(Some(total))
        });
        looked.unwrap_or(Err(Error::NotConnected))
    }

    /// Lets `fill` append at most `most` bytes to the send buffer, as many as it is asked for each time or fewer; it ends
    /// when it appends none. `None`: there is no room now, and the [`Watch`] is told when there is.
    ///
    /// # Errors
    /// [`Error::BrokenPipe`] after [`shutdown`](Self::shutdown), else why the connection is over.
    pub fn write_with(
        &self,
        most: usize,
        mut fill: impl FnMut(&mut Vec<u8>, usize) -> usize,
    ) -> Result<Option<usize>, Error> {
        self.handle.stack.with(|core| {
            let now = core.now;
            let crowded = core.is_full();
            let key = self.handle.key;
            let connections = &mut core.connections;
            let connection = connections.table.get_mut(key).ok_or(Error::NotConnected)?;
            let tcb = &mut connection.tcb;
            if crowded && tcb.unacknowledged() > SPARE_WRITTEN {
                connection.starved = true;
                return Ok(None);
            }
            if tcb.is_open() && tcb.writable() == 0 {
                connection.starved = true;
                return Ok(None);
            }
            if tcb.is_open()
                && tcb.unacknowledged() == 0
                && most <= SMALLEST_CHUNK
                && let Some(chunk) = connections.spare.pop()
            {
                tcb.lend(chunk);
            }
            let allowed = if crowded {
                most.min(SPARE_WRITTEN)
            } else {
                most
            };
            let count = tcb.write_with(allowed, &mut fill, now)?;
            connection.starved = count < most;
            core.connections.recount(key);
            core.make_ready(key);
            Ok(Some(count))
        })
    }

    /// Bytes that can be read now.
    pub fn readable(&self) -> usize {
        self.look(|connection| connection.tcb.readable())
            .unwrap_or(0)
    }

    /// Bytes written and not acknowledged yet.
    pub fn unacknowledged(&self) -> usize {
        self.look(|connection| connection.tcb.unacknowledged())
            .unwrap_or(0)
    }

    /// Shuts down the sending direction: the peer reads what was written, then the end.
    pub fn shutdown(&self) {
        self.handle.stack.with(|core| core.close(self.handle.key));
    }

    /// Ends the connection with a reset.
    pub fn abort(&self) {
        let key = self.handle.key;
        self.handle
            .stack
            .with(|core| core.abort(key, Error::ConnectionAborted));
    }

    /// Both ends: this one, and the peer's.
    ///
    /// # Errors
    /// [`Error::NotConnected`] if nothing is known of it any more.
    pub fn ends(&self) -> Result<(SocketAddr, SocketAddr), Error> {
        self.handle.ends()
    }

    /// The protocol's state.
    pub fn state(&self) -> State {
        self.look(|connection| connection.tcb.state())
            .unwrap_or_default()
    }

    /// Why the connection is over, if it did not end well.
    pub fn error(&self) -> Option<Error> {
        self.look(|connection| connection.tcb.error())
            .unwrap_or_default()
    }

    /// What the protocol knows of the connection.
    pub fn info(&self) -> Info {
        self.handle
            .with(|connection, now| Ok(connection.tcb.info(now)))
            .unwrap_or_default()
    }

    /// With `true`, small writes are not held back (the Nagle algorithm is off).
    pub fn set_nodelay(&self, on: bool) {
        self.change(|connection| connection.tcb.set_nodelay(on));
    }

    /// With `true`, only full segments leave until it is `false` again.
    pub fn set_cork(&self, on: bool) {
        self.change(|connection| connection.tcb.set_cork(on));
    }

    /// Limits of what may wait to be read, and to be acknowledged, in bytes; `None` leaves one as it is.
    pub fn set_limits(&self, receive: Option<u32>, send: Option<u32>) {
        self.change(|connection| {
            let (old_receive, old_send) = connection.tcb.limits();
            connection
                .tcb
                .set_limits(receive.unwrap_or(old_receive), send.unwrap_or(old_send));
        });
    }

    /// Those limits now: to receive, to send.
    pub fn limits(&self) -> (u32, u32) {
        self.look(|connection| connection.tcb.limits())
            .unwrap_or_default()
    }

    /// Probes of an idle peer.
    pub fn set_keepalive(&self, keepalive: Option<KeepAlive>) {
        let key = self.handle.key;
        self.handle
            .stack
            .with(|core| core.set_keepalive(key, keepalive));
    }

    /// How long written data may stay unacknowledged.
    pub fn set_user_timeout(&self, timeout: Option<Duration>) {
        let key = self.handle.key;
        self.handle
            .stack
            .with(|core| core.set_user_timeout(key, timeout));
    }

    fn look<R>(&self, f: impl FnOnce(&mut Connection) -> R) -> Option<R> {
        self.handle
            .stack
            .with(|core| core.connections.get(self.handle.key).map(f))
    }

    fn change(&self, f: impl FnOnce(&mut Connection)) {
        let _ = self.handle.with(|connection, _| {
            f(connection);
            Ok(())
        });
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stream").field(&self.handle.ends()).finish()
    }
}

/// True if a writer who was told of room would find enough of it to be worth his while, as Linux judges it: a third of the buffer.
pub(crate) fn has_room(connection: &Connection) -> bool {
    let held = connection.tcb.unacknowledged();
    let room = connection.tcb.writable();
    room > 0 && room >= held / 2
}
