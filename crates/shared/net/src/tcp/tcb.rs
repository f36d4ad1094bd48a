//! The transmission control block: one connection, and what its program may call.
//!
//! Segments come in through `input` and `handshake`, leave through `output`; `timers` does what time brings. The
//! bookkeeping of what is on its way is [`Recovery`]'s.

use alloc::sync::Arc;
use core::time::Duration;

use kiln_abi::Instant;

use super::info::State;
use super::marks::Marks;
use super::pmtu::PathMtu;
use super::receive::ReceiveBuffer;
use super::recovery::Recovery;
use super::send::{Pieces, SendBuffer};
use super::settings::KeepAlive;
use super::time_wait::{Challenges, TimeWait};
use super::window::Tuning;
use super::{Block, Changed, Flags, Outgoing, Segment, Seq};
use crate::error::Error;

/// The bytes of an [`Outgoing`], looked up.
pub type Payload<'a> = Pieces<'a>;

/// A connection.
#[derive(Debug)]
pub struct Tcb {
    pub(super) state: State,
    pub(super) error: Option<Error>,
    /// What ICMP said, to be reported if the connection times out.
    pub(super) soft_error: Option<Error>,
    pub(super) marks: Marks,

    // The send sequence space, RFC 9293 section 3.3.1.
    pub(super) iss: Seq,
    pub(super) snd_una: Seq,
    pub(super) snd_nxt: Seq,
    pub(super) snd_wnd: u32,
    pub(super) snd_wl1: Seq,
    /// RFC 5961 section 5.2 and RFC 9293 section 3.8.6.2.1.
    pub(super) max_snd_wnd: u32,
    /// Behind the last segment that was not full, for Minshall's variant of the Nagle algorithm.
    pub(super) small_end: Seq,

    // The receive sequence space.
    pub(super) irs: Seq,
    pub(super) rcv_nxt: Seq,
    /// Behind the last number that the peer may send: the right edge of the window as offered.
    pub(super) rcv_adv: Seq,
    /// RCV.NXT as the peer has last been told it, RFC 7323's `Last.ACK.sent`.
    pub(super) last_ack_sent: Seq,
    /// The number of the peer's FIN, once it is known.
    pub(super) peer_fin: Seq,
    /// The most recent duplicate that arrived.
    pub(super) duplicate: Block,

    // RFC 7323.
    pub(super) ts_recent: u32,
    /// When that was set, see [`days`](super::input).
    pub(super) ts_recent_at: u32,
    pub(super) ts_offset: u32,
    pub(super) snd_scale: u8,
    pub(super) rcv_scale: u8,

    // Acknowledgements.
    pub(super) unacked_segments: u8,
    pub(super) quick_acks: u8,
    pub(super) persist_backoff: u8,
    pub(super) unanswered_probes: u8,
    pub(super) keepalive_probes: u8,
    pub(super) ack_at: Instant,
    pub(super) challenges: Challenges,

    pub(super) path: PathMtu,
    pub(super) tuning: Tuning,

    // Timers.
    /// The end of the handshake, of FIN-WAIT-2 or of TIME-WAIT.
    pub(super) state_until: Instant,
    pub(super) persist_at: Instant,
    pub(super) last_heard: Instant,
    /// When data left, or the first of several probes that were not answered.
    pub(super) last_sent: Instant,
    pub(super) keepalive_idle: Milliseconds,
    pub(super) keepalive_interval: Milliseconds,
    pub(super) keepalive_limit: u8,
    pub(super) ack_delay: Milliseconds,
    pub(super) user_timeout: Milliseconds,
    pub(super) linger: Milliseconds,
    pub(super) time_wait: Milliseconds,

    /// The sequence number of a reset that is to leave.
    pub(super) reset: Option<Seq>,

    pub(super) bytes_acked: u64,
    pub(super) bytes_received: u64,
    pub(super) segments_out: u64,
    pub(super) segments_in: u64,
    pub(super) out_of_order: u32,
    pub(super) duplicates: u32,

    pub(super) send: SendBuffer,
    pub(super) receive: ReceiveBuffer,
    pub(super) recovery: Recovery,
}

/// A duration in four bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Milliseconds(pub(super) u32);

impl Milliseconds {
    /// The duration.
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.0 as u64)
    }
}

impl From<Duration> for Milliseconds {
    /// At least one, since zero means "none".
    fn from(duration: Duration) -> Self {
        let milliseconds = duration
            .as_secs()
            .saturating_mul(1000)
            .saturating_add(u64::from(duration.subsec_millis()));
        Self(u32::try_from(milliseconds).unwrap_or(u32::MAX).max(1))
    }
}

impl Tcb {
    /// SEGMENT ARRIVES, RFC 9293 section 3.10.7.
    pub fn receive(&mut self, segment: &Segment<'_>, now: Instant) -> Changed {
        self.receive_with(segment, now, &mut |_| 0)
    }

    /// As [`receive`](Self::receive) without a copy for a reader who is ready: text that comes next, while none is
    /// buffered, is offered to `sink`, which returns how many bytes it has taken. They count as read; what is left is
    /// buffered. [`Changed::READABLE`] tells of both. May be called in the very moment in which the handshake completes.
    pub fn receive_with(
        &mut self,
        segment: &Segment<'_>,
        now: Instant,
        sink: &mut dyn FnMut(&[u8]) -> usize,
    ) -> Changed {
        self.segments_in += u64::from(segment.joined.max(1));
        let mut changed = Changed::default();
        match self.state {
            State::Closed => {}
            State::SynSent => self.syn_sent(segment, now, &mut changed),
            State::TimeWait => self.in_time_wait(segment, now),
            _ => self.segment_arrives(segment, now, sink, &mut changed),
        }
        self.settle(now);
        if self.may_have_output() {
            changed |= Changed::OUTPUT;
        }
        changed
    }

    /// The data of a segment that [`transmit`](Self::transmit) gave. Nothing if they have been acknowledged meanwhile
    /// or the connection was reset: the segment need not leave any more.
    pub fn payload(&self, outgoing: &Outgoing) -> Option<Payload<'_>> {
        if outgoing.len == 0 {
            return Some(self.send.pieces(0, 0));
        }
        let base = self.data_start();
        if self.state == State::Closed || outgoing.seq < base {
            return None;
        }
        let offset = outgoing.seq.since(base) as usize;
        let end = offset.checked_add(outgoing.len as usize)?;
        (end <= self.send.len()).then(|| self.send.pieces(offset, outgoing.len as usize))
    }

    /// Copies received data into `buffer`. `Ok(0)`: nothing there now. See [`at_end`](Self::at_end).
    ///
    /// # Errors
    /// Why the connection is over, once everything that arrived before has been read.
    pub fn read(&mut self, buffer: &mut [u8], now: Instant) -> Result<usize, Error> {
        let count = self.receive.read(buffer);
        if count > 0 {
            self.has_read(count, now);
            return Ok(count);
        }
        match self.error {
            Some(error) if !buffer.is_empty() => Err(error),
            _ => Ok(0),
        }
    }

    /// Received data that come next, as many as lie together, without taking them.
    pub fn peek(&self) -> &[u8] {
        self.receive.peek()
    }

    /// Takes `count` bytes that [`peek`](Self::peek) showed.
    pub fn consume(&mut self, count: usize, now: Instant) {
        let count = count.min(self.receive.len());
        if count > 0 {
            self.receive.consume(count);
            self.has_read(count, now);
        }
    }

    /// As [`consume`](Self::consume), and gives memory that is not needed any more.
    pub(crate) fn consume_all(
        &mut self,
        count: usize,
        now: Instant,
    ) -> Option<alloc::vec::Vec<u8>> {
        let count = count.min(self.receive.len());
        if count == 0 {
            return None;
        }
        let chunk = self.receive.consume_all(count);
        self.has_read(count, now);
        chunk
    }

    /// Memory of the smallest size for what is written next; not needed if something is in the buffer.
    pub(crate) fn lend(&mut self, chunk: alloc::vec::Vec<u8>) {
        self.send.lend(chunk);
    }

    /// Bytes that can be read now.
    pub fn readable(&self) -> usize {
        self.receive.len()
    }

    /// True once the peer has closed and everything was read.
    pub fn at_end(&self) -> bool {
        let over = self.state == State::Closed && self.error.is_none();
        self.receive.is_empty() && (over || self.marks.has(Marks::PEER_FIN))
    }

    /// SEND: copies as much of `data` as the send buffer takes.
    ///
    /// # Errors
    /// [`Error::BrokenPipe`] after [`close`](Self::close), else why the connection is over.
    pub fn write(&mut self, data: &[u8], now: Instant) -> Result<usize, Error> {
        self.before_write(now)?;
        let count = self.send.write(data);
        self.settle(now);
        Ok(count)
    }

    /// As [`write`](Self::write) of at most `most` bytes that `fill` appends to the memory it is given.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_with(
        &mut self,
        most: usize,
        fill: &mut dyn FnMut(&mut alloc::vec::Vec<u8>, usize) -> usize,
        now: Instant,
    ) -> Result<usize, Error> {
        self.before_write(now)?;
        let count = self.send.write_with(most, fill);
        self.settle(now);
        Ok(count)
    }

    /// As [`write`](Self::write) without a copy.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_static(&mut self, data: &'static [u8], now: Instant) -> Result<usize, Error> {
        self.before_write(now)?;
        let count = self.send.write_static(data);
        self.settle(now);
        Ok(count)
    }

    /// As [`write`](Self::write) without a copy: `data` from `start` on.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_shared(
        &mut self,
        data: &Arc<[u8]>,
        start: usize,
        now: Instant,
    ) -> Result<usize, Error> {
        self.before_write(now)?;
        let count = self.send.write_shared(data, start);
        self.settle(now);
        Ok(count)
    }

    /// Room in the send buffer; 0 also when nothing may be written any more.
    pub fn writable(&self) -> usize {
        if self.state == State::Closed || self.marks.has(Marks::CLOSING) {
            0
        } else {
            self.send.room()
        }
    }

    /// Bytes written and not acknowledged yet.
    pub fn unacknowledged(&self) -> usize {
        self.send.len()
    }

    /// CLOSE: the sending direction ends after what was written. RFC 9293 section 3.10.4.
    pub fn close(&mut self, now: Instant) {
        if self.marks.has(Marks::CLOSING) {
            return;
        }
        match self.state {
            State::SynSent => self.end(None),
            State::SynReceived => self.marks.set(Marks::CLOSING),
            State::Established => {
                self.marks.set(Marks::CLOSING);
                self.state = State::FinWait1;
            }
            State::CloseWait => {
                self.marks.set(Marks::CLOSING);
                self.state = State::LastAck;
            }
            _ => {}
        }
        self.settle(now);
    }

    /// Nobody will read any more, [`close`](Self::close) included: FIN-WAIT-2 is left after `linger`, data that arrive
    /// are answered with a reset, as are data that nobody has read (RFC 9293 section 3.6.1, RFC 1122 section 4.2.2.13).
    pub fn orphan(&mut self, now: Instant) {
        if self.state == State::Closed {
            self.receive = ReceiveBuffer::default();
            return;
        }
        if self.state == State::TimeWait {
            self.receive = ReceiveBuffer::new(self.rcv_nxt, 0);
            return;
        }
        if !self.receive.is_empty() {
            self.abort(Error::ConnectionAborted);
            return;
        }
        self.close(now);
        self.marks.set(Marks::ORPHAN);
        if self.state == State::FinWait2 {
            self.state_until = now + self.linger.get();
        }
    }

    /// ABORT, RFC 9293 section 3.10.5: the connection is over with `error`; a reset is to be sent.
    pub fn abort(&mut self, error: Error) {
        let owes_reset = match self.state {
            State::Closed | State::SynSent | State::TimeWait => false,
            // Without a FIN the peer would wait for more for ever.
            State::Closing | State::LastAck => self.fin_unsent(),
            _ => true,
        };
        if self.state == State::Closed {
            return;
        }
        self.end(Some(error));
        self.receive = ReceiveBuffer::new(self.rcv_nxt, 0);
        if owes_reset {
            self.reset = Some(self.snd_nxt);
            self.marks.set(Marks::RESET_ACKS);
        }
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it is over, if it did not end well.
    pub fn error(&self) -> Option<Error> {
        self.error
    }

    /// What is to be remembered, in [`State::TimeWait`].
    pub fn time_wait(&self) -> Option<TimeWait> {
        let timestamps = self.marks.has(Marks::TIMESTAMPS);
        (self.state == State::TimeWait).then(|| TimeWait {
            snd_nxt: self.snd_nxt,
            rcv_nxt: self.rcv_nxt,
            window: self.window_to_offer(self.rcv_scale).0,
            timestamps: timestamps.then_some((self.ts_recent, self.ts_offset)),
            until: self.state_until,
            period: self.time_wait,
            challenges: self.challenges,
        })
    }

    /// Memory held in buffers now, in bytes.
    pub fn held(&self) -> usize {
        self.receive.held() + self.send.held()
    }

    /// Memory is short: gives back what can be asked for again (data behind gaps). Returns the bytes freed.
    pub fn shed(&mut self) -> usize {
        self.receive.drop_out_of_order()
    }

    /// Changes the Nagle algorithm.
    pub fn set_nodelay(&mut self, nodelay: bool) {
        self.marks.put(Marks::NODELAY, nodelay);
    }

    /// Holds back what does not fill a segment.
    pub fn set_cork(&mut self, cork: bool) {
        self.marks.put(Marks::CORK, cork);
    }

    /// True if the program may write.
    pub fn is_open(&self) -> bool {
        self.state != State::Closed && !self.marks.has(Marks::CLOSING)
    }

    /// True once everything up to the peer's FIN has arrived, read or not.
    pub fn peer_has_closed(&self) -> bool {
        self.marks.has(Marks::PEER_FIN)
    }

    /// What can be read, in pieces, without taking it.
    pub fn received(&self) -> impl Iterator<Item = &[u8]> {
        self.receive.pieces()
    }

    /// The limits of the buffers: to receive, to send.
    pub fn limits(&self) -> (u32, u32) {
        (self.tuning.limit, self.send.limit() as u32)
    }

    /// Changes keep-alive. The silence counts from the last segment that arrived.
    pub fn set_keepalive(&mut self, keepalive: Option<KeepAlive>, _now: Instant) {
        self.keepalive_probes = 0;
        match keepalive {
            Some(keepalive) => {
                self.keepalive_idle = keepalive.idle.into();
                self.keepalive_interval = keepalive.interval.into();
                self.keepalive_limit = keepalive.probes;
            }
            None => self.keepalive_idle = Milliseconds(0),
        }
    }

    /// Changes the user timeout.
    pub fn set_user_timeout(&mut self, timeout: Option<Duration>, _now: Instant) {
        self.user_timeout = timeout.map_or(super::timers::USER_TIMEOUT, Milliseconds::from);
    }

    /// Changes the limits of the buffers. What has been offered to the peer and what was written stays.
    pub fn set_limits(&mut self, receive: u32, send: u32) {
        self.send.set_limit(send as usize);
        self.set_receive_limit(receive);
    }

    /// The number of the first byte in the send buffer.
    #[inline]
    pub(super) fn data_start(&self) -> Seq {
        let opening = matches!(self.state, State::SynSent | State::SynReceived);
        if opening && self.snd_una == self.iss {
            self.iss + 1
        } else {
            self.snd_una
        }
    }

    /// The number behind the last byte in the send buffer: that of the FIN, if one follows.
    #[inline]
    pub(super) fn data_end(&self) -> Seq {
        self.data_start() + self.send.len() as u32
    }

    /// Bytes written and never sent.
    #[inline]
    pub(super) fn unsent(&self) -> u32 {
        self.data_end().since(self.snd_nxt)
    }

    /// True if a FIN is to be sent for the first time.
    #[inline]
    pub(super) fn fin_unsent(&self) -> bool {
        self.marks.has(Marks::CLOSING) && !self.marks.has(Marks::FIN_SENT)
    }

    /// The timestamp clock, RFC 7323 section 5.4: milliseconds from a secret start.
    #[inline]
    pub(super) fn clock(&self, now: Instant) -> u32 {
        timestamp_clock(now).wrapping_add(self.ts_offset)
    }

    /// CLOSED. What was received in order can still be read.
    pub(super) fn end(&mut self, error: Option<Error>) {
        self.state = State::Closed;
        self.error = error;
        self.send = SendBuffer::default();
        self.receive.drop_out_of_order();
        self.marks
            .clear(Marks::ACK_NOW.and(Marks::SYN).and(Marks::PROBE));
        self.ack_at = Instant::FOREVER;
        self.persist_at = Instant::FOREVER;
        self.state_until = Instant::FOREVER;
    }

    /// What a write depends on, and what it means after a silence (RFC 5681 section 4.1).
    #[inline]
    fn before_write(&mut self, now: Instant) -> Result<(), Error> {
        if self.state == State::Closed || self.marks.has(Marks::CLOSING) {
            return Err(self.error.unwrap_or(Error::BrokenPipe));
        }
        if self.snd_una == self.snd_nxt
            && self.send.is_empty()
            && now.since(self.last_sent) > self.recovery.rtt().timeout()
        {
            self.recovery.restart_after_idle(now);
        }
        Ok(())
    }
}

/// Milliseconds of the clock, as timestamps count them.
pub(super) fn timestamp_clock(now: Instant) -> u32 {
    (now.as_nanos() / 1_000_000) as u32
}

/// The answer to a segment that belongs to no connection, RFC 9293 section 3.5.2 and 3.10.7.1: nothing to a reset.
pub fn reset_for(segment: &Segment<'_>) -> Option<Outgoing> {
    if segment.flags.has(Flags::RST) {
        return None;
    }
    let mut reset = Outgoing {
        flags: Flags::RST,
        ..Outgoing::default()
    };
    if segment.flags.has(Flags::ACK) {
        reset.seq = segment.ack;
    } else {
        reset.flags |= Flags::ACK;
        reset.ack = segment.end();
    }
    Some(reset)
}
