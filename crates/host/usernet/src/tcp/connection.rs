//! One TCP connection: a socket of the host on one side, a smoltcp socket towards the guest on the other.
//!
//! Data move from the host's socket straight into smoltcp's buffer and back, without a stop between them. The buffers
//! are also the back-pressure: what the guest has not acknowledged fills one, and we stop reading from the host; what
//! the host does not take fills the other, and the guest's window closes. Each direction ends by itself (half-close).
//!
//! This file knows one connection and does no bookkeeping; [`super::Tcp`] decides when a connection is served.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use smoltcp::iface::{SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Duration as SmolDuration;

use crate::Stats;
use crate::poller::Flags;

/// The two ends of a connection as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    pub guest: SocketAddr,
    pub peer: SocketAddr,
}

/// How far a connection has come.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Outgoing: the host connects. The guest's SYN waits for the outcome.
    Connecting { syn: Box<[u8]> },
    /// Incoming: the guest has not answered yet.
    Dialing {
        /// When the client is told that nobody answers.
        give_up: Instant,
        /// When it is told that the guest refuses.
        refused_until: Instant,
        /// When to try again after a refusal.
        retry: Option<Instant>,
        /// How long to wait after the next refusal.
        pause: Duration,
    },
    /// Data may flow.
    Open,
}

/// The socket towards the guest, alone in its set.
pub(crate) struct GuestSide {
    pub set: SocketSet<'static>,
    handle: SocketHandle,
    /// Bytes of both buffers.
    pub buffer_bytes: usize,
}

impl GuestSide {
    /// Makes a closed socket with `size` bytes for each direction. The memory is zero-filled by the host on first use,
    /// so that an idle connection costs little of it.
    pub fn new(size: usize) -> Self {
        let mut set = SocketSet::new(vec![SocketStorage::EMPTY]);
        let socket = Socket::new(
            SocketBuffer::new(vec![0; size]),
            SocketBuffer::new(vec![0; size]),
        );
        let handle = set.add(socket);
        Self {
            set,
            handle,
            buffer_bytes: 2 * size,
        }
    }

    pub fn socket(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(self.handle)
    }

    /// Sets what a previous connection over the same socket may have changed.
    pub fn prepare(&mut self) {
        let socket = self.socket();
        // Whoever wrote the data has decided how to batch them.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(Some(ACK_DELAY));
        // With timestamps a guest can tell a new connection from one that it still holds in TIME-WAIT (RFC 6191);
        // busy forwards reuse port numbers within seconds.
        socket.set_tsval_generator(Some(timestamp));
    }
}

/// Small segments are acknowledged with the next data or after this time. It must be short: a guest with Nagle's
/// algorithm waits for it.
const ACK_DELAY: SmolDuration = SmolDuration::from_millis(2);

/// Segments from this size on belong to bulk transfers and are acknowledged at once, in bytes.
const BULK: usize = 4096;

/// Milliseconds since some moment, for TCP timestamps.
fn timestamp() -> u32 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u32
}

/// What a connection came to after some work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on.
    Alive,
    /// Both directions ended properly.
    Finished,
    /// One side broke off, and the other has been or must be told.
    Broken,
}

// Reason: each flag is an event of its own that may come in any order with the others.
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Connection {
    pub flow: Flow,
    pub phase: Phase,
    pub host: OwnedFd,
    /// `None` only while the host connects.
    pub guest: Option<GuestSide>,
    /// Which forward it came through.
    pub forward: Option<u32>,
    /// In the list of connections to be served.
    pub queued: bool,
    /// Its entry in the timer queue.
    pub timer: Option<Instant>,
    /// When to give up waiting for the guest to end the connection.
    pub close_by: Option<Instant>,
    readable: bool,
    writable: bool,
    /// The host's socket may report an end or error that a short read does not show.
    hung_up: bool,
    host_ended: bool,
    /// The guest's FIN has come; data before it may still wait for the host.
    guest_closed: bool,
    /// The guest's FIN has been passed on.
    guest_ended: bool,
    parked: bool,
}

impl Connection {
    pub fn new(flow: Flow, phase: Phase, host: OwnedFd) -> Self {
        Self {
            flow,
            phase,
            host,
            guest: None,
            forward: None,
            queued: false,
            timer: None,
            close_by: None,
            readable: true,
            writable: true,
            hung_up: false,
            host_ended: false,
            guest_closed: false,
            guest_ended: false,
            parked: false,
        }
    }

    /// Notes what the host's socket is ready for.
    pub fn ready(&mut self, flags: Flags) {
        let gone = flags.intersects(Flags::RDHUP | Flags::HUP | Flags::ERR);
        self.hung_up |= gone;
        self.readable |= gone || flags.contains(Flags::IN);
        self.writable |= flags.intersects(Flags::OUT | Flags::ERR | Flags::HUP);
    }

    /// Called before a segment with `payload` bytes goes to smoltcp.
    pub fn expect(&mut self, payload: usize) {
        if let Some(guest) = &mut self.guest {
            let delay = (payload < BULK).then_some(ACK_DELAY);
            guest.socket().set_ack_delay(delay);
        }
    }

    /// Moves all data that can be moved, and passes on ends and errors.
    pub fn splice(&mut self, stats: &mut Stats) -> Verdict {
        let Some(guest) = &mut self.guest else {
            return Verdict::Alive;
        };
        let socket = guest.set.get_mut::<Socket>(guest.handle);
        self.guest_closed |= matches!(
            socket.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );

        while self.writable && socket.can_recv() {
            let host = &self.host;
            let sent = socket.recv(|data| {
                let result =
                    rustix::net::send(host, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
                (result.unwrap_or(0), result.map(|n| (n, data.len())))
            });
            match sent {
                Ok(Ok((sent, offered))) => {
                    stats.tcp_bytes_out += sent as u64;
                    self.writable = sent == offered;
                }
                Ok(Err(Errno::AGAIN)) => self.writable = false,
                Ok(Err(Errno::INTR)) => {}
                Ok(Err(_)) => {
                    socket.abort();
                    return Verdict::Broken;
                }
                Err(_) => break,
            }
        }
        if self.guest_closed && !self.guest_ended && !socket.can_recv() {
            self.guest_ended = true;
            // A peer that is gone already makes this fail; reading tells.
            let _ = rustix::net::shutdown(&self.host, Shutdown::Write);
        }

        while self.readable && !self.host_ended && socket.can_send() {
            let host = &self.host;
            let received = socket.send(|room| {
                let wanted = room.len();
                let result = rustix::net::recv(host, room, RecvFlags::DONTWAIT);
                let length = result.as_ref().map_or(0, |&(length, _)| length);
                (length, result.map(|(length, _)| (length, wanted)))
            });
            match received {
                Ok(Ok((0, _))) => {
                    self.host_ended = true;
                    socket.close();
                }
                Ok(Ok((received, wanted))) => {
                    stats.tcp_bytes_in += received as u64;
                    // With edge-triggered events a short read means that nothing is left, unless an end was announced.
                    self.readable = received == wanted || self.hung_up;
                }
                Ok(Err(Errno::AGAIN)) => self.readable = false,
                Ok(Err(Errno::INTR)) => {}
                Ok(Err(_)) => {
                    socket.abort();
                    return Verdict::Broken;
                }
                Err(_) => break,
            }
        }
        if self.hung_up && self.host_ended && !self.guest_ended && is_gone(&self.host) {
            socket.abort();
            return Verdict::Broken;
        }
        Verdict::Alive
    }

    /// The state after data moved and segments went out.
    pub fn verdict(&mut self) -> Verdict {
        let Some(guest) = &mut self.guest else {
            return Verdict::Alive;
        };
        let socket = guest.set.get_mut::<Socket>(guest.handle);
        let ended = self.guest_ended && self.host_ended;
        match socket.state() {
            // A reset still has to go out.
            State::Closed if socket.remote_endpoint().is_some() => Verdict::Alive,
            // The host has not taken all of the guest's data yet.
            State::Closed if self.guest_closed && socket.can_recv() => Verdict::Alive,
            State::Closed if ended => Verdict::Finished,
            State::Closed | State::Listen => Verdict::Broken,
            // The link loses nothing, so that nobody needs us to stay for the rest of TIME-WAIT. A guest whose FIN is
            // answered by a reset all the same has closed already.
            State::TimeWait if ended && !socket.can_recv() => Verdict::Finished,
            _ => Verdict::Alive,
        }
    }

    /// True while the guest owes nothing but the last step of opening or closing. A guest that is slow to take data is
    /// not meant: it has all the time it wants.
    pub fn is_owed_a_step(&mut self) -> bool {
        self.guest.as_mut().is_some_and(|guest| {
            let socket = guest.socket();
            socket.send_queue() == 0
                && matches!(
                    socket.state(),
                    State::SynReceived | State::FinWait1 | State::Closing | State::LastAck
                )
        })
    }

    /// The client of a connection that is still being made has gone away.
    pub fn client_left(&self) -> bool {
        self.hung_up && is_gone(&self.host)
    }

    /// Called when smoltcp has sent all that it wants to send at present.
    pub fn sent_all(&mut self) {
        if let Some(guest) = &mut self.guest {
            let socket = guest.socket();
            self.parked = socket.state() == State::TimeWait && socket.can_recv();
        }
    }

    /// The connection is over for the guest, and only the host has data to take. smoltcp must not be asked to send any
    /// more, since it would throw those away at the end of TIME-WAIT.
    pub fn is_parked(&self) -> bool {
        self.parked
    }

    /// Makes the host's peer see a reset instead of an orderly end.
    pub fn reset_host(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.host, Some(Duration::ZERO));
    }
}

/// Both directions of a host's socket are dead: its peer reset it.
fn is_gone(host: &OwnedFd) -> bool {
    matches!(
        rustix::net::sockopt::socket_error(host),
        Ok(Err(_)) | Err(_)
    )
}
