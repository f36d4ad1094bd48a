//! The transmission control block: one connection.

use core::time::Duration;

use kiln_abi::Instant;

use super::congestion::Algorithm;
use super::cookie::Remembered;
use super::send::Pieces;
use super::time_wait::TimeWait;
use super::{Outgoing, Segment, Seq};
use crate::error::Error;

/// The states of RFC 9293 section 3.3.2. LISTEN is the owner's business; CLOSED is a connection that is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the RFC's names")]
pub enum State {
    #[default]
    Closed,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
}

/// Keep-alive probes, RFC 9293 section 3.8.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between probes that are not answered.
    pub interval: Duration,
    /// Probes that are not answered before the connection is given up.
    pub probes: u8,
}

/// How connections are set up. Shared by many, given when one is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The largest segment that the link can bring: its MTU without IP and TCP headers.
    pub mss: u16,
    /// The most that may be received and not read, in bytes. Decides the window scale.
    pub receive_limit: u32,
    /// The most that may be written and not acknowledged, in bytes.
    pub send_limit: u32,
    /// Congestion control.
    pub algorithm: Algorithm,
    /// Offer and accept window scaling and timestamps (RFC 7323).
    pub timestamps: bool,
    /// Offer and accept SACK (RFC 2018).
    pub sack: bool,
    /// Offer and accept ECN (RFC 3168).
    pub ecn: bool,
    /// Small writes leave at once (RFC 9293 section 3.7.4, the Nagle algorithm, is off).
    pub nodelay: bool,
    /// Keep-alive probes.
    pub keepalive: Option<KeepAlive>,
    /// RFC 9293 section 3.8.3: how long sent data may stay unacknowledged.
    pub user_timeout: Option<Duration>,
    /// How long the handshake may take.
    pub handshake_timeout: Duration,
    /// How long the peer may take to close its direction after this end has closed both (FIN-WAIT-2 of an orphan).
    pub linger: Duration,
    /// 2 MSL.
    pub time_wait: Duration,
    /// Search for the path MTU with probes (RFC 8899).
    pub probe_mtu: bool,
}

/// What an event has changed for the connection's owner. A set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed(pub u8);

impl Changed {
    /// There is more to read, or the end of it.
    pub const READABLE: Self = Self(1);
    /// There is room to write.
    pub const WRITABLE: Self = Self(2);
    /// The handshake is complete.
    pub const CONNECTED: Self = Self(4);
    /// The connection is over ([`State::Closed`]); see [`Tcb::error`]. What must leave is still to be asked for with
    /// [`Tcb::transmit`].
    pub const CLOSED: Self = Self(8);
    /// The connection has reached TIME-WAIT; see [`Tcb::time_wait`].
    pub const TIME_WAIT: Self = Self(16);
    /// [`Tcb::transmit`] may have something now.
    pub const OUTPUT: Self = Self(32);

    /// True if any bit of `other` is set.
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// The bytes of an [`Outgoing`], looked up.
pub type Payload<'a> = Pieces<'a>;

/// What there is to know of a connection, like Linux's `TCP_INFO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// The state.
    pub state: State,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Its mean deviation.
    pub rtt_variation: Duration,
    /// The smallest of the last minutes.
    pub rtt_minimum: Duration,
    /// The retransmission timeout.
    pub retransmission_timeout: Duration,
    /// Congestion window in bytes.
    pub congestion_window: u32,
    /// Slow-start threshold in bytes.
    pub slow_start_threshold: u32,
    /// The peer's window in bytes.
    pub send_window: u32,
    /// The window last offered to the peer in bytes.
    pub receive_window: u32,
    /// The largest segment sent.
    pub mss: u32,
    /// Bytes sent and neither acknowledged nor lost.
    pub in_flight: u32,
    /// Bytes sent for the first time and acknowledged.
    pub bytes_acked: u64,
    /// Bytes received in order.
    pub bytes_received: u64,
    /// Segments sent, as they are on the wire.
    pub segments_out: u64,
    /// Segments received, as they were on the wire.
    pub segments_in: u64,
    /// Segments sent again.
    pub retransmits: u32,
    /// Retransmission timeouts.
    pub timeouts: u32,
    /// Recoveries entered.
    pub recoveries: u32,
    /// Reductions that were taken back.
    pub undone: u32,
    /// Segments received that lay behind a gap.
    pub out_of_order: u32,
    /// Duplicate segments received.
    pub duplicates: u32,
    /// Options in use.
    pub timestamps: bool,
    /// SACK in use.
    pub sack: bool,
    /// ECN in use.
    pub ecn: bool,
    /// Shifts of the peer's and of the own window.
    pub window_scale: (u8, u8),
}

/// A connection.
#[derive(Debug)]
pub struct Tcb {}

impl Tcb {
    /// Opens actively: SYN-SENT. `iss` is the initial sequence number (RFC 6528), `clock_offset` is added to the
    /// timestamp clock (RFC 7323 section 5.4); both are chosen by the owner so that they cannot be guessed.
    pub fn connect(_settings: &Settings, _iss: Seq, _clock_offset: u32, _now: Instant) -> Self {
        todo!()
    }

    /// Opens passively for a SYN: SYN-RECEIVED.
    pub fn accept(
        _settings: &Settings,
        _syn: &Segment<'_>,
        _iss: Seq,
        _clock_offset: u32,
        _now: Instant,
    ) -> Self {
        todo!()
    }

    /// A connection whose SYN was answered with a cookie: the segment that acknowledges it has been checked and is to be
    /// given to [`receive`](Self::receive) next.
    pub fn from_cookie(
        _settings: &Settings,
        _remembered: &Remembered,
        _ack: &Segment<'_>,
        _clock_offset: u32,
        _now: Instant,
    ) -> Self {
        todo!()
    }

    /// SEGMENT ARRIVES.
    pub fn receive(&mut self, _segment: &Segment<'_>, _now: Instant) -> Changed {
        todo!()
    }

    /// Does what is due. Call when [`deadline`](Self::deadline) has passed; does no harm at other times.
    pub fn advance(&mut self, _now: Instant) -> Changed {
        todo!()
    }

    /// When [`advance`](Self::advance) has something to do, [`Instant::FOREVER`] if nothing is due.
    pub fn deadline(&self) -> Instant {
        todo!()
    }

    /// The next segment to leave, if any. It counts as sent. Data beyond one segment are given together, up to
    /// `longest` bytes, if the link can cut them apart; else `longest` is 0.
    pub fn transmit(&mut self, _longest: u32, _now: Instant) -> Option<Outgoing> {
        todo!()
    }

    /// True if [`transmit`](Self::transmit) may have something to say now.
    pub fn wants_to_transmit(&self, _now: Instant) -> bool {
        todo!()
    }

    /// The data of a segment that [`transmit`](Self::transmit) gave. Nothing if they have been acknowledged meanwhile
    /// or the connection was reset: the segment need not leave any more.
    pub fn payload(&self, _outgoing: &Outgoing) -> Option<Payload<'_>> {
        todo!()
    }

    /// The link refused a segment that [`transmit`](Self::transmit) gave: it counts as lost.
    pub fn not_sent(&mut self, _outgoing: &Outgoing, _now: Instant) {
        todo!()
    }

    /// Copies received data into `buffer`. `Ok(0)`: nothing there now. See [`at_end`](Self::at_end).
    ///
    /// # Errors
    /// Why the connection is over, once everything that arrived before has been read.
    pub fn read(&mut self, _buffer: &mut [u8], _now: Instant) -> Result<usize, Error> {
        todo!()
    }

    /// Received data that come next, as many as lie together, without taking them.
    pub fn peek(&self) -> &[u8] {
        todo!()
    }

    /// Takes `count` bytes that [`peek`](Self::peek) showed.
    pub fn consume(&mut self, _count: usize, _now: Instant) {
        todo!()
    }

    /// Bytes that can be read now.
    pub fn readable(&self) -> usize {
        todo!()
    }

    /// True once the peer has closed and everything was read.
    pub fn at_end(&self) -> bool {
        todo!()
    }

    /// Copies as much of `data` as the send buffer takes.
    ///
    /// # Errors
    /// [`Error::BrokenPipe`] after [`close`](Self::close), else why the connection is over.
    pub fn write(&mut self, _data: &[u8], _now: Instant) -> Result<usize, Error> {
        todo!()
    }

    /// As [`write`](Self::write) without a copy.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_static(&mut self, _data: &'static [u8], _now: Instant) -> Result<usize, Error> {
        todo!()
    }

    /// Room in the send buffer; 0 also when nothing may be written any more.
    pub fn writable(&self) -> usize {
        todo!()
    }

    /// Bytes written and not acknowledged yet.
    pub fn unacknowledged(&self) -> usize {
        todo!()
    }

    /// CLOSE: the sending direction ends after what was written.
    pub fn close(&mut self, _now: Instant) {
        todo!()
    }

    /// Nobody will read any more, [`close`](Self::close) included: FIN-WAIT-2 is left after `linger`, data that arrive
    /// are answered with a reset (RFC 9293 section 3.6.1, RFC 1122 section 4.2.2.13).
    pub fn orphan(&mut self, _now: Instant) {
        todo!()
    }

    /// ABORT: the connection is over with `error`; a reset is to be sent.
    pub fn abort(&mut self, _error: Error) {
        todo!()
    }

    /// An ICMP error about a segment of this connection with sequence number `seq`. Soft errors are remembered, hard ones
    /// end a connection that is opening (RFC 9293 section 3.9.2.2, RFC 5927).
    pub fn icmp_error(&mut self, _error: Error, _seq: Seq, _now: Instant) -> Changed {
        todo!()
    }

    /// A router said that packets of more than `mtu` bytes of TCP (header and data) do not get through (RFC 1191, 8201).
    pub fn packet_too_big(&mut self, _tcp_bytes: u32, _seq: Seq, _now: Instant) -> Changed {
        todo!()
    }

    /// The state.
    pub fn state(&self) -> State {
        todo!()
    }

    /// Why it is over, if it did not end well.
    pub fn error(&self) -> Option<Error> {
        todo!()
    }

    /// What is to be remembered, in [`State::TimeWait`].
    pub fn time_wait(&self) -> Option<TimeWait> {
        todo!()
    }

    /// Statistics.
    pub fn info(&self, _now: Instant) -> Info {
        todo!()
    }

    /// Memory held in buffers now, in bytes.
    pub fn held(&self) -> usize {
        todo!()
    }

    /// Memory is short: gives back what can be asked for again (data behind gaps). Returns the bytes freed.
    pub fn shed(&mut self) -> usize {
        todo!()
    }

    /// Changes the Nagle algorithm.
    pub fn set_nodelay(&mut self, _nodelay: bool) {
        todo!()
    }

    /// Changes keep-alive.
    pub fn set_keepalive(&mut self, _keepalive: Option<KeepAlive>, _now: Instant) {
        todo!()
    }

    /// Changes the user timeout.
    pub fn set_user_timeout(&mut self, _timeout: Option<Duration>, _now: Instant) {
        todo!()
    }

    /// Changes the limits of the buffers.
    pub fn set_limits(&mut self, _receive: u32, _send: u32) {
        todo!()
    }
}

/// The answer to a segment that belongs to no connection, RFC 9293 section 3.5.2 and 3.10.7.1: nothing to a reset.
pub fn reset_for(_segment: &Segment<'_>) -> Option<Outgoing> {
    todo!()
}

/// The stateless answer to a SYN.
pub fn synack_for_cookie(
    cookies: &super::cookie::Cookies,
    settings: &Settings,
    local: core::net::SocketAddr,
    remote: core::net::SocketAddr,
    syn: &Segment<'_>,
    clock_offset: u32,
    now: Instant,
) -> Outgoing {
    todo!()
}
