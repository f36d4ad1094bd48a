//! What was sent and has not been acknowledged: what of it has arrived, what is lost, and when to find out.
//!
//! [`Recovery`] is the sender's memory. It knows each range of sequence numbers on its way ([`scoreboard`]), decides what
//! is lost by time (RACK-TLP, RFC 8985; duplicates are counted as RFC 6675 and NewReno do where the peer has no SACK),
//! keeps the retransmission timer (RFC 6298), and asks [`congestion`](super::congestion) how much may be on its way. It does
//! not know data, windows of the peer, or segments: the connection tells it what left and what came back.
//!
//! SYN and FIN take sequence numbers and are treated as data of one byte.

use core::time::Duration;

use kiln_abi::Instant;

use super::congestion::{Algorithm, Congestion};
use super::rtt::Rtt;
use super::{Block, SackBlocks, Seq};

/// What an acknowledgement says, after the connection has found it acceptable.
#[derive(Clone, Copy, Debug)]
pub struct Ack<'a> {
    /// SEG.ACK, between SND.UNA and SND.NXT.
    pub ack: Seq,
    /// The blocks of its SACK option, as received: nothing about them has been checked. Empty if SACK is not in use.
    pub sack: &'a SackBlocks,
    /// SND.NXT.
    pub snd_nxt: Seq,
    /// The round-trip time by the echoed timestamp, if there is one and the segment acknowledges new data.
    pub echo_rtt: Option<Duration>,
    /// True if the echoed timestamp is older than the first retransmission: the original had arrived (Eifel, RFC 3522).
    /// Nothing without timestamps.
    pub echoed: Option<u32>,
    /// True if it is a duplicate acknowledgement by RFC 5681 section 2 (no data, no window change, nothing new).
    pub duplicate: bool,
    /// True if the sender was limited by the congestion window, not by the program or the peer's window.
    pub window_limited: bool,
}

/// What an acknowledgement has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes that were found to have arrived, cumulatively or selectively.
    pub delivered: u32,
    /// Bytes newly found lost.
    pub lost: u32,
    /// Everything in flight when recovery started has been acknowledged.
    pub recovered: bool,
    /// A reduction was taken back.
    pub undone: bool,
}

/// What a timer has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// Nothing was due.
    Nothing,
    /// Segments were found lost by time: [`Recovery::next_lost`] has them.
    Reordering,
    /// A tail-loss probe is to be sent (RFC 8985 section 7.3): one segment of new data if the peer's window allows,
    /// else the last one that was sent, again. Tell [`Recovery::sent`] with `probe`.
    Probe,
    /// The retransmission timeout: everything not selectively acknowledged counts as lost.
    Timeout,
}

/// How a range of sequence numbers left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// For the first time.
    New,
    /// Because it is lost.
    Again,
    /// As a tail-loss probe, new or again.
    Probe,
}

/// The sender's memory of one connection.
#[derive(Debug)]
pub struct Recovery {}

#[allow(unused_variables)]
impl Recovery {
    /// Before anything is sent. `sack`: the peer takes part in selective acknowledgement.
    pub fn new(algorithm: Algorithm, mss: u32, sack: bool) -> Self {
        todo!()
    }

    /// The handshake has told more.
    pub fn set_peer(&mut self, mss: u32, sack: bool) {
        todo!()
    }

    /// The largest segment has changed: data without options.
    pub fn set_mss(&mut self, mss: u32) {
        todo!()
    }

    /// Bytes on their way: sent, neither acknowledged, nor selectively acknowledged, nor lost (RFC 6675 "pipe").
    pub fn in_flight(&self) -> u32 {
        todo!()
    }

    /// Bytes that congestion control allows to be sent now, new or again: by window, or by proportional rate reduction.
    pub fn allowance(&self) -> u32 {
        todo!()
    }

    /// The first range that is lost and to be sent again. May be longer than a segment.
    pub fn next_lost(&self) -> Option<Block> {
        todo!()
    }

    /// The last segment's worth of what is on its way, for a probe that has nothing new to send.
    pub fn tail(&self) -> Option<Block> {
        todo!()
    }

    /// A range has left. `Again` and `Probe` may cover any part of what was sent before. `clock` is the value of the
    /// timestamp it carried, 0 without timestamps.
    pub fn sent(&mut self, block: Block, how: Sending, clock: u32, now: Instant) {
        todo!()
    }

    /// The link refused a range that was reported as sent.
    pub fn not_sent(&mut self, block: Block, now: Instant) {
        todo!()
    }

    /// An acknowledgement has arrived.
    pub fn acked(&mut self, ack: &Ack<'_>, now: Instant) -> Outcome {
        todo!()
    }

    /// The peer echoed a congestion mark (RFC 3168). At most one reduction per round trip. True if the window was reduced.
    pub fn marked(&mut self, snd_nxt: Seq, now: Instant) -> bool {
        todo!()
    }

    /// A measured round-trip time outside of acknowledgements of data: of the handshake.
    pub fn measured(&mut self, rtt: Duration, now: Instant) {
        todo!()
    }

    /// When a timer of this module is due (reordering, probe, retransmission), [`Instant::FOREVER`] with nothing on its way.
    pub fn deadline(&self) -> Instant {
        todo!()
    }

    /// Looks at the timers. `probe_allowed`: false while the peer's window is closed or the handshake is not done.
    pub fn expire(&mut self, snd_nxt: Seq, probe_allowed: bool, now: Instant) -> Expired {
        todo!()
    }

    /// The connection starts to send after a silence (RFC 5681 section 4.1).
    pub fn restart_after_idle(&mut self, now: Instant) {
        todo!()
    }

    /// True while lost data are being repaired.
    pub fn is_recovering(&self) -> bool {
        todo!()
    }

    /// Consecutive timeouts of the same data.
    pub fn timeouts_in_a_row(&self) -> u8 {
        todo!()
    }

    /// When the oldest data on their way left for the first time.
    pub fn oldest(&self) -> Option<Instant> {
        todo!()
    }

    /// The estimator.
    pub fn rtt(&self) -> &Rtt {
        todo!()
    }

    /// Congestion control.
    pub fn congestion(&self) -> &Congestion {
        todo!()
    }

    /// Segments sent again, timeouts, recoveries, reductions taken back: for [`Info`](super::Info).
    pub fn counters(&self) -> Counters {
        todo!()
    }
}

/// See [`Recovery::counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Ranges sent again, counted in segments.
    pub retransmits: u32,
    /// Retransmission timeouts.
    pub timeouts: u32,
    /// Recoveries entered.
    pub recoveries: u32,
    /// Reductions taken back.
    pub undone: u32,
    /// Tail-loss probes.
    pub probes: u32,
}
