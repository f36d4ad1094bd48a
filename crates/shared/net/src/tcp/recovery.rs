//! What was sent and has not been acknowledged: what of it has arrived, what is lost, and when to find out.
//!
//! [`Recovery`] is the sender's memory. It knows each range of sequence numbers on its way ([`scoreboard`]), decides what
//! is lost by time (RACK-TLP, RFC 8985; duplicates are counted as RFC 6675 and `NewReno` do where the peer has no SACK),
//! keeps the retransmission timer (RFC 6298), and asks [`congestion`](super::congestion) how much may be on its way. It does
//! not know data, windows of the peer, or segments: the connection tells it what left and what came back.
//!
//! SYN and FIN take sequence numbers and are treated as data of one byte.

mod acknowledged;
mod rack;
mod scoreboard;
mod timers;

use core::time::Duration;

use kiln_abi::Instant;

use rack::Rack;
use scoreboard::Scoreboard;

use super::congestion::{Algorithm, Cause, Congestion, Prr};
use super::rtt::Rtt;
use super::{Block, SackBlocks, Seq};

/// Acknowledgements that report data behind a gap before it counts as a loss (RFC 5681 section 3.2).
const DUPLICATES: u8 = 3;
/// How long a peer may wait with the acknowledgement of a single segment: `TLP.max_ack_delay` of RFC 8985.
const ACK_DELAY: Duration = Duration::from_millis(200);
/// Probes wait at least so long: a peer needs time to run, however short the way is.
const SHORTEST_PROBE: Duration = Duration::from_millis(10);
/// What timers for reordering wait longer than they must, for the same reason.
const REORDERING_SLACK: Duration = Duration::from_millis(1);

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
    /// The echoed timestamp, nothing without timestamps: if it is older than the first retransmission, the original had
    /// arrived (Eifel, RFC 3522).
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

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing special.
    Open,
    /// Fast recovery.
    Recovery,
    /// Slow start after a retransmission timeout.
    Loss,
}

/// What the timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    Off,
    Reordering,
    Probe,
    Retransmission,
}

/// The sender's memory of one connection.
#[derive(Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub struct Recovery {
    board: Scoreboard,
    rtt: Rtt,
    congestion: Congestion,
    rack: Rack,
    prr: Prr,
    counters: Counters,
    timer: Timer,
    due: Instant,
    /// Since when the peer has said nothing new: where the retransmission timer started.
    silent_since: Instant,
    /// Bytes that duplicate acknowledgements stand for, without SACK (RFC 5681 section 3.2 step 4).
    left: u32,
    /// SND.NXT when recovery started, or when a mark made the window smaller.
    point: Seq,
    /// SND.NXT when this round trip started.
    round_end: Seq,
    /// Behind the tail-loss probe, see `probed`.
    probe_end: Seq,
    /// SND.UNA when the last reduction happened.
    undo_una: Seq,
    /// Bytes sent again since then that no D-SACK has named.
    undo_bytes: u32,
    /// The timestamp of the first of them, if `undo_clock_set`.
    undo_clock: u32,
    timeouts: u8,
    duplicates: u8,
    phase: Phase,
    sack: bool,
    /// A reduction may be taken back.
    undo: bool,
    undo_clock_set: bool,
    /// The timeout may be found to be for nothing by what arrives (F-RTO, RFC 5682).
    doubtful: bool,
    /// `point` lies ahead.
    marked: bool,
    /// A probe is on its way.
    probed: bool,
    /// It repeats data.
    probe_repeats: bool,
    /// Without SACK, duplicates say nothing before SND.UNA is beyond `point` (RFC 6582 section 3.2 step 1).
    cautious: bool,
    /// Something was sent before.
    begun: bool,
}

impl Recovery {
    /// Before anything is sent. `sack`: the peer takes part in selective acknowledgement.
    pub fn new(algorithm: Algorithm, mss: u32, sack: bool) -> Self {
        Self {
            board: Scoreboard::default(),
            rtt: Rtt::new(),
            congestion: Congestion::new(algorithm, mss),
            rack: Rack::new(),
            prr: Prr::default(),
            counters: Counters::default(),
            timer: Timer::Off,
            due: Instant::FOREVER,
            silent_since: Instant::ZERO,
            left: 0,
            point: Seq(0),
            round_end: Seq(0),
            probe_end: Seq(0),
            undo_una: Seq(0),
            undo_bytes: 0,
            undo_clock: 0,
            timeouts: 0,
            duplicates: 0,
            phase: Phase::Open,
            sack,
            undo: false,
            undo_clock_set: false,
            doubtful: false,
            marked: false,
            probed: false,
            probe_repeats: false,
            cautious: false,
            begun: false,
        }
    }

    /// The handshake has told more. To be called before the acknowledgement of the SYN is given: the window starts anew
    /// with what the peer can take.
    pub fn set_peer(&mut self, mss: u32, sack: bool) {
        self.sack = sack;
        self.congestion = Congestion::new(self.congestion.algorithm(), mss);
        if self.timeouts > 1 {
            self.congestion.on_slow_handshake();
        }
        self.phase = Phase::Open;
        self.undo = false;
    }

    /// The largest segment has changed: data without options.
    pub fn set_mss(&mut self, mss: u32) {
        self.congestion.set_mss(mss);
    }

    fn mss(&self) -> u32 {
        self.congestion.mss()
    }

    /// Bytes on their way: sent, neither acknowledged, nor selectively acknowledged, nor lost (RFC 6675 "pipe").
    #[inline]
    pub fn in_flight(&self) -> u32 {
        let gone = self.board.sacked + self.board.lost;
        (self.board.outstanding().saturating_sub(gone)).saturating_sub(self.left)
    }

    /// Bytes that congestion control allows to be sent now, new or again: by window, or by proportional rate reduction.
    #[inline]
    pub fn allowance(&self) -> u32 {
        if self.phase == Phase::Recovery {
            self.prr.allowance()
        } else {
            self.congestion.window().saturating_sub(self.in_flight())
        }
    }

    /// The first range that is lost and to be sent again. May be longer than a segment.
    #[inline]
    pub fn next_lost(&self) -> Option<Block> {
        self.board.next_lost()
    }

    /// The last segment's worth of what is on its way, for a probe that has nothing new to send.
    pub fn tail(&self) -> Option<Block> {
        self.board.tail(self.mss())
    }

    /// A range has left. `Again` and `Probe` may cover any part of what was sent before. `clock` is the value of the
    /// timestamp it carried, 0 without timestamps.
    pub fn sent(&mut self, block: Block, how: Sending, clock: u32, now: Instant) {
        if block.is_empty() {
            return;
        }
        if self.board.is_empty() {
            self.begin(block.start, now);
        }
        if self.phase == Phase::Recovery {
            self.prr.on_sent(block.len());
        }
        let next = self.board.nxt;
        let old = Block {
            start: block.start.max(self.board.una),
            end: block.end.min(next),
        };
        if !old.is_empty() {
            self.sent_again(old, clock, now);
        }
        if how == Sending::Probe {
            self.probed = true;
            self.probe_end = block.end.max(next);
            self.probe_repeats = block.end <= next;
        }
        if next < block.end {
            self.board.push(block.end, now);
            if matches!(self.timer, Timer::Off | Timer::Probe) {
                self.arm(now);
            }
        } else if self.timer == Timer::Off {
            self.arm(now);
        }
    }

    /// The first data after everything was acknowledged.
    fn begin(&mut self, start: Seq, now: Instant) {
        if !self.begun {
            self.begun = true;
            self.round_end = start;
            self.rack.farthest = start;
        }
        self.board.start_at(start);
        self.silent_since = now;
    }

    fn sent_again(&mut self, block: Block, clock: u32, now: Instant) {
        let bytes = self.board.resend(block, self.sack, now);
        self.counters.retransmits += bytes.div_ceil(self.mss());
        if self.undo {
            self.undo_bytes = self.undo_bytes.saturating_add(bytes);
            if !self.undo_clock_set && clock != 0 {
                self.undo_clock_set = true;
                self.undo_clock = clock;
            }
        }
        if block.start == self.board.una && self.timer != Timer::Reordering {
            // The first lost segment: its acknowledgement is what is waited for now.
            self.silent_since = now;
            self.arm(now);
        }
    }

    /// The link refused a range that was reported as sent: it is to be sent again. This is no sign of congestion in the
    /// network.
    pub fn not_sent(&mut self, block: Block, now: Instant) {
        let block = Block {
            start: block.start.max(self.board.una),
            end: block.end.min(self.board.nxt),
        };
        if !block.is_empty() {
            self.board.not_sent(block);
            self.bound_left();
            self.arm(now);
        }
    }

    /// The peer echoed a congestion mark (RFC 3168). At most one reduction per round trip. True if the window was reduced.
    pub fn marked(&mut self, snd_nxt: Seq, now: Instant) -> bool {
        if self.phase != Phase::Open || self.marked {
            return false;
        }
        self.congestion
            .on_congestion(Cause::Mark, self.board.outstanding(), now);
        self.undo = false;
        self.marked = true;
        self.point = snd_nxt;
        true
    }

    /// A measured round-trip time outside of acknowledgements of data: of the handshake.
    pub fn measured(&mut self, rtt: Duration, now: Instant) {
        self.rtt.on_sample(rtt, now);
    }

    /// The connection starts to send after a silence (RFC 5681 section 4.1).
    pub fn restart_after_idle(&mut self, _now: Instant) {
        self.congestion.on_idle();
    }

    /// True while lost data are being repaired.
    pub fn is_recovering(&self) -> bool {
        self.phase != Phase::Open
    }

    /// Consecutive timeouts of the same data.
    pub fn timeouts_in_a_row(&self) -> u8 {
        self.timeouts
    }

    /// When the oldest data on their way left for the first time.
    pub fn oldest(&self) -> Option<Instant> {
        self.board.oldest()
    }

    /// The estimator.
    pub fn rtt(&self) -> &Rtt {
        &self.rtt
    }

    /// Congestion control.
    pub fn congestion(&self) -> &Congestion {
        &self.congestion
    }

    /// Segments sent again, timeouts, recoveries, reductions taken back: for [`Info`](super::Info).
    pub fn counters(&self) -> Counters {
        self.counters
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

#[cfg(test)]
mod tests;
