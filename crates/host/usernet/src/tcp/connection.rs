//! One TCP connection: a socket of the host on one side, a control block of our TCP core towards the guest on the other.
//!
//! Data move from the host's socket into the core's send buffer, and from its receive buffer to the host's socket. The
//! buffers are also the back-pressure: what the guest has not acknowledged fills one, and we stop reading from the host;
//! what the host does not take fills the other, and the guest's window closes. Each direction ends by itself
//! (half-close).
//!
//! This file knows one connection and does no bookkeeping; [`super::Tcp`] decides when a connection is served.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use kiln_net::tcp::{Changed, Segment, State, Tcb};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::chunks::{CHUNK, Chunks};
use crate::Stats;
use crate::poller::Flags;

/// The two ends of a connection as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub guest: SocketAddr,
    pub peer: SocketAddr,
}

// Reason: fields are hashed in fewer and larger parts than the derived implementation has; equal flows hash equally.
impl Hash for Flow {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for end in [self.guest, self.peer] {
            match end.ip() {
                IpAddr::V4(address) => {
                    let port = u64::from(end.port());
                    hasher.write_u64(u64::from(address.to_bits()) << 16 | port);
                }
                IpAddr::V6(address) => {
                    hasher.write_u128(address.to_bits());
                    hasher.write_u16(end.port());
                }
            }
        }
    }
}

/// How far a connection has come.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Outgoing: the host connects. The headers of the guest's SYN wait for the outcome.
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
    pub tcb: Option<Box<Tcb>>,
    /// The most that either of its buffers may come to hold, in bytes.
    buffer_size: u32,
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
}

impl Connection {
    pub fn new(flow: Flow, phase: Phase, host: OwnedFd) -> Self {
        Self {
            flow,
            phase,
            host,
            tcb: None,
            buffer_size: 0,
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
        }
    }

    /// Gives it buffers of `size` bytes each way. Returns how much memory they may take.
    pub fn reserve(&mut self, size: u32) -> usize {
        self.buffer_size = size;
        self.reserved()
    }

    /// Bytes of memory that its buffers may take.
    pub fn reserved(&self) -> usize {
        Self::memory(self.buffer_size)
    }

    /// Bytes of memory for buffers of `size` bytes: the core lets a little more arrive than it has asked for.
    pub const fn memory(size: u32) -> usize {
        let size = size as usize;
        2 * size + size / 8
    }

    pub fn buffer_size(&self) -> u32 {
        self.buffer_size
    }

    /// Notes what the host's socket is ready for.
    pub fn ready(&mut self, flags: Flags) {
        let gone = flags.intersects(Flags::RDHUP | Flags::HUP | Flags::ERR);
        self.hung_up |= gone;
        self.readable |= gone || flags.contains(Flags::IN);
        self.writable |= flags.intersects(Flags::OUT | Flags::ERR | Flags::HUP);
    }

    /// Takes a segment of the guest. Much data goes to the host from where it is, if the host takes it now.
    pub fn receive(
        &mut self,
        segment: &Segment<'_>,
        stats: &mut Stats,
        now: kiln_abi::Instant,
    ) -> Changed {
        let direct = self.writable
            && matches!(self.phase, Phase::Open)
            && segment.payload.len() >= LEAST_DIRECT;
        if direct && self.tcb.as_ref().is_some_and(|tcb| tcb.readable() != 0) {
            // What came in small pieces goes before it. Should the host have failed, the core is closed then, and tells.
            let _ = self.feed_host(stats, now);
        }
        let Some(tcb) = &mut self.tcb else {
            return Changed::default();
        };
        if !direct || !self.writable {
            return tcb.receive(segment, now);
        }
        tcb.receive_with(segment, now, &mut |text| {
            match send_to_host(&self.host, text) {
                Ok(sent) => {
                    stats.tcp_bytes_out += sent as u64;
                    self.writable = sent == text.len();
                    sent
                }
                Err(Errno::AGAIN) => {
                    self.writable = false;
                    0
                }
                // The next attempt, from the buffer, meets the same error.
                Err(_) => 0,
            }
        })
    }

    /// True if what a segment has changed gives [`splice`](Self::splice) or the way to the guest something to do.
    pub fn has_work(&self, changed: Changed) -> bool {
        if changed == Changed::WRITABLE && matches!(self.phase, Phase::Open) {
            return self.readable && !self.host_ended;
        }
        changed != Changed::default()
    }

    /// Moves all data that can be moved, and passes on ends and errors. `chunks` are for data from the host.
    pub fn splice(
        &mut self,
        stats: &mut Stats,
        chunks: &mut Chunks,
        now: kiln_abi::Instant,
    ) -> Verdict {
        let verdict = self.feed_host(stats, now);
        if verdict != Verdict::Alive {
            return verdict;
        }
        let verdict = self.feed_guest(stats, chunks, now);
        if verdict != Verdict::Alive {
            return verdict;
        }
        if self.hung_up && self.host_ended && !self.guest_ended && is_gone(&self.host) {
            return self.host_failed();
        }
        Verdict::Alive
    }

    fn feed_host(&mut self, stats: &mut Stats, now: kiln_abi::Instant) -> Verdict {
        let Some(tcb) = &mut self.tcb else {
            return Verdict::Alive;
        };
        self.guest_closed |= matches!(
            tcb.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        while self.writable {
            let data = tcb.peek();
            if data.is_empty() {
                break;
            }
            match send_to_host(&self.host, data) {
                Ok(sent) => {
                    stats.tcp_bytes_out += sent as u64;
                    self.writable = sent == data.len();
                    tcb.consume(sent, now);
                }
                Err(Errno::AGAIN) => self.writable = false,
                Err(Errno::INTR) => {}
                Err(_) => return self.host_failed(),
            }
        }
        if self.guest_closed && !self.guest_ended && tcb.readable() == 0 {
            self.guest_ended = true;
            // A peer that is gone already makes this fail; reading tells.
            let _ = rustix::net::shutdown(&self.host, Shutdown::Write);
        }
        Verdict::Alive
    }

    fn feed_guest(
        &mut self,
        stats: &mut Stats,
        chunks: &mut Chunks,
        now: kiln_abi::Instant,
    ) -> Verdict {
        let Some(tcb) = &mut self.tcb else {
            return Verdict::Alive;
        };
        // Whole chunks are not copied.
        let least = if self.buffer_size as usize >= 4 * CHUNK {
            CHUNK
        } else {
            LEAST_READ
        };
        while self.readable && !self.host_ended {
            let room = tcb.writable().min(CHUNK);
            // A little room will be more with the next acknowledgement.
            if room == 0 || room < least && tcb.unacknowledged() > least {
                break;
            }
            let wanted = &mut chunks.room()[..room];
            match rustix::net::recv(&self.host, wanted, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => {
                    self.host_ended = true;
                    tcb.close(now);
                }
                Ok((_, received)) => {
                    stats.tcp_bytes_in += received as u64;
                    // There was room, so that this fails only on a connection that is over, as its verdict tells.
                    let _ = if received == CHUNK {
                        tcb.write_shared(chunks.full(), 0, now)
                    } else {
                        tcb.write(&chunks.room()[..received], now)
                    };
                    // With edge-triggered events a short read means that nothing is left, unless an end was announced.
                    self.readable = received == room || self.hung_up;
                }
                Err(Errno::AGAIN) => self.readable = false,
                Err(Errno::INTR) => {}
                Err(_) => return self.host_failed(),
            }
        }
        Verdict::Alive
    }

    /// The host's side is dead: the guest is to see a reset.
    fn host_failed(&mut self) -> Verdict {
        if let Some(tcb) = &mut self.tcb {
            tcb.abort(kiln_net::Error::ConnectionReset);
        }
        Verdict::Broken
    }

    /// The state after data moved and segments went out.
    pub fn verdict(&self, now: kiln_abi::Instant) -> Verdict {
        let Some(tcb) = &self.tcb else {
            return Verdict::Alive;
        };
        let ended = self.guest_ended && self.host_ended;
        match tcb.state() {
            // A reset still has to go out.
            State::Closed if tcb.wants_to_transmit(now) => Verdict::Alive,
            // The host has not taken all of the guest's data yet.
            State::Closed if self.guest_closed && tcb.readable() != 0 => Verdict::Alive,
            State::Closed if ended => Verdict::Finished,
            State::Closed => Verdict::Broken,
            // The link loses nothing, so that nobody needs us to stay for the rest of TIME-WAIT. A guest whose FIN is
            // answered by a reset all the same has closed already.
            State::TimeWait if ended && !tcb.wants_to_transmit(now) => Verdict::Finished,
            _ => Verdict::Alive,
        }
    }

    /// True while the guest owes nothing but the last step of opening or closing. A guest that is slow to take data is
    /// not meant: it has all the time it wants.
    pub fn is_owed_a_step(&self) -> bool {
        self.tcb.as_ref().is_some_and(|tcb| {
            let last_steps = matches!(
                tcb.state(),
                State::SynReceived | State::FinWait1 | State::Closing | State::LastAck
            );
            last_steps && tcb.unacknowledged() == 0
        })
    }

    /// The client of a connection that is still being made has gone away.
    pub fn client_left(&self) -> bool {
        self.hung_up && is_gone(&self.host)
    }

    /// The host's socket has not taken all of the guest's data yet.
    pub fn owes_host(&self) -> bool {
        self.tcb.as_ref().is_some_and(|tcb| tcb.readable() != 0)
    }

    /// Makes the host's peer see a reset instead of an orderly end.
    pub fn reset_host(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.host, Some(Duration::ZERO));
    }
}

impl Drop for Connection {
    /// Without the guest's FIN, or with data before it that the host has not taken, a stream is cut, and must not look
    /// complete.
    fn drop(&mut self) {
        if !self.guest_ended {
            self.reset_host();
        }
    }
}

/// Less than this (a chunk, if the buffer has room for several) is not read from the host while the guest has more than
/// that to acknowledge.
const LEAST_READ: usize = 4096;

/// Less than this waits in the core's buffer until all frames that are there have been taken, so that small pieces leave
/// together.
const LEAST_DIRECT: usize = 4096;

fn send_to_host(host: &OwnedFd, data: &[u8]) -> Result<usize, Errno> {
    rustix::net::send(host, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
}

/// Both directions of a host's socket are dead: its peer reset it.
fn is_gone(host: &OwnedFd) -> bool {
    matches!(
        rustix::net::sockopt::socket_error(host),
        Ok(Err(_)) | Err(_)
    )
}
