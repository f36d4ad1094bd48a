//! What was sent and has not been acknowledged: what of it has arrived, what is lost, and when to find out.
//!
//! [`Recovery`] is the sender's memory. It knows each range of sequence numbers on its way ([`scoreboard`]), decides what
//! is lost by time (RACK-TLP, RFC 8985; duplicates are counted as RFC 6675 and NewReno do where the peer has no SACK),
//! keeps the retransmission timer (RFC 6298), and asks [`congestion`](super::congestion) how much may be on its way. It does
//! not know data, windows of the peer, or segments: the connection tells it what left and what came back.
//!
//! SYN and FIN take sequence numbers and are treated as data of one byte.

mod rack;
mod scoreboard;

use core::time::Duration;

use kiln_abi::Instant;

use rack::{Circumstances, Rack};
use scoreboard::{Arrived, Scoreboard, State};

use super::congestion::{Acked, Algorithm, Cause, Congestion, Prr};
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
    recovery_point: Seq,
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
    /// `recovery_point` lies ahead.
    marked: bool,
    /// A probe is on its way.
    probed: bool,
    /// It repeats data.
    probe_repeats: bool,
    /// Without SACK, duplicates say nothing before SND.UNA is beyond `recovery_point` (RFC 6582 section 3.2 step 1).
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
            recovery_point: Seq(0),
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
        let bytes = self.board.resend(block, now);
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

    /// An acknowledgement has arrived.
    pub fn acked(&mut self, ack: &Ack<'_>, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        let mut arrived = Arrived::default();
        let in_flight = self.in_flight();
        // What recovery would start with, RFC 9937 section 6.
        let outstanding = self.board.outstanding() - self.board.sacked;
        let una = self.board.una;
        let something = !self.board.is_empty();
        self.board.acknowledge(ack.ack, &mut arrived);
        if !something {
            return outcome;
        }
        let advanced = una < self.board.una;
        let repeated = self.take_blocks(ack, &mut arrived);
        let delivered = arrived.cumulative + arrived.selective;
        outcome.delivered = delivered;

        let rtt = self.measure(ack, &arrived, advanced, now);
        let gone = self.count_duplicates(ack, &arrived, advanced);
        if self.undo && self.was_needless(ack, &arrived, advanced, repeated) {
            self.take_back();
            outcome.undone = true;
        }
        if self.phase != Phase::Open && self.board.una >= self.recovery_point {
            self.finish();
            outcome.recovered = true;
        }
        if self.marked && self.board.una >= self.recovery_point {
            self.marked = false;
        }
        self.check_probe(ack, advanced, repeated.is_some(), now);
        if repeated.is_some() {
            self.rack.on_repeated(self.board.una, self.board.nxt);
        }

        let before = self.board.lost;
        let more = self.detect(advanced, now);
        outcome.lost = self.board.lost - before;
        if outcome.lost > 0 && self.phase == Phase::Open {
            self.enter(outstanding, now);
        }
        if self.phase == Phase::Recovery {
            let safe = advanced && outcome.lost == 0;
            self.prr
                .on_acked(gone, self.in_flight(), safe, self.mss());
        } else if (advanced || delivered > 0 && self.rack.reordering) && !self.marked {
            // Reports of a gap make no window grow unless gaps are known to close by themselves.
            let round_ended = self.board.una >= self.round_end;
            if round_ended {
                self.round_end = self.board.nxt;
            }
            let acked = Acked {
                bytes: delivered,
                in_flight,
                rtt,
                window_limited: ack.window_limited || self.phase == Phase::Loss,
                round_ended,
            };
            let smoothed = self.rtt.smoothed().unwrap_or_default();
            self.congestion.on_acked(&acked, smoothed, now);
        }
        if advanced {
            self.silent_since = now;
        }
        if advanced || delivered > 0 || self.timer == Timer::Reordering {
            self.set_timer(more, now);
        }
        outcome
    }

    /// Takes the blocks of an acknowledgement. Returns what a D-SACK (RFC 2883) names.
    fn take_blocks(&mut self, ack: &Ack<'_>, arrived: &mut Arrived) -> Option<Block> {
        if !self.sack || ack.sack.is_empty() {
            return None;
        }
        let (una, nxt) = (self.board.una, self.board.nxt);
        let blocks = ack.sack.as_slice();
        let mut repeated = None;
        for (index, block) in blocks.iter().enumerate() {
            let inside = |other: &Block| other.start <= block.start && block.end <= other.end;
            // All three: numbers wrap.
            if block.is_empty() || block.end > nxt || block.start >= nxt {
                continue;
            }
            if index == 0 && (block.end <= ack.ack || blocks.get(1).is_some_and(inside)) {
                repeated = Some(*block);
            } else if block.start > una {
                self.board.sack(*block, arrived);
            }
        }
        repeated
    }

    /// Measures the round trip and tells RACK what has arrived.
    fn measure(
        &mut self,
        ack: &Ack<'_>,
        arrived: &Arrived,
        advanced: bool,
        now: Instant,
    ) -> Option<Duration> {
        let least = self.rtt.minimum().unwrap_or_default();
        self.rack.on_arrived(arrived, self.board.una, least, now);
        // Karn's rule. A timestamp tells which transmission is meant; it counts milliseconds.
        let rtt = match arrived.sent_once {
            Some(sent) if !arrived.again => now.since(sent),
            _ if advanced => ack.echo_rtt?.max(Duration::from_millis(1)),
            _ => return None,
        };
        self.rtt.on_sample(rtt, now);
        if advanced {
            self.rtt.reset_back_off();
        }
        Some(rtt)
    }

    /// Counts duplicates. Returns how many bytes an acknowledgement without SACK stands for.
    fn count_duplicates(&mut self, ack: &Ack<'_>, arrived: &Arrived, advanced: bool) -> u32 {
        let news = arrived.cumulative + arrived.selective;
        if advanced {
            self.timeouts = 0;
            self.duplicates = 0;
            self.cautious &= self.board.una <= self.recovery_point;
            // One segment has filled the gap, the others had caused duplicates.
            let before = self.left;
            self.left = before.saturating_sub(news.saturating_sub(self.mss()));
            self.bound_left();
            return news.saturating_sub(before - self.left);
        }
        if self.sack {
            if arrived.selective > 0 {
                self.duplicates = self.duplicates.saturating_add(1);
            }
            return news;
        }
        if !ack.duplicate {
            return news;
        }
        self.duplicates = self.duplicates.saturating_add(1);
        let before = self.left;
        self.left = before.saturating_add(self.mss());
        self.bound_left();
        self.left.saturating_sub(before)
    }

    /// True if nothing had to be sent again: the original was acknowledged.
    fn was_needless(
        &mut self,
        ack: &Ack<'_>,
        arrived: &Arrived,
        advanced: bool,
        repeated: Option<Block>,
    ) -> bool {
        // Eifel detection, RFC 3522.
        if self.phase != Phase::Open
            && advanced
            && self.undo_clock_set
            && let Some(echoed) = ack.echoed
            && (echoed.wrapping_sub(self.undo_clock) as i32) < 0
        {
            return true;
        }
        // RFC 5682 section 3.
        if self.phase == Phase::Loss && self.doubtful && arrived.not_lost {
            return true;
        }
        // Every repetition was reported as such, RFC 3708.
        match repeated {
            Some(block) if block.start >= self.undo_una && self.undo_bytes > 0 => {
                self.undo_bytes = self.undo_bytes.saturating_sub(block.len());
                self.undo_bytes == 0
            }
            _ => false,
        }
    }

    /// Takes the last reduction back: nothing was lost.
    fn take_back(&mut self) {
        self.counters.undone += 1;
        self.congestion.undo();
        self.board.find_again();
        self.rack.reordering = true;
        self.rtt.reset_back_off();
        self.phase = Phase::Open;
        self.undo = false;
        self.doubtful = false;
        self.left = 0;
    }

    /// Everything in flight when recovery started has been acknowledged.
    fn finish(&mut self) {
        if self.phase == Phase::Recovery {
            self.congestion.on_recovered();
            self.rack.on_recovered();
        }
        self.phase = Phase::Open;
        self.doubtful = false;
        self.duplicates = 0;
        self.left = 0;
        self.cautious = true;
    }

    /// What a tail-loss probe has shown, RFC 8985 section 7.4.
    fn check_probe(&mut self, ack: &Ack<'_>, advanced: bool, repeated: bool, now: Instant) {
        if !self.probed || self.board.una < self.probe_end {
            return;
        }
        if !self.probe_repeats || repeated {
            self.probed = false;
        } else if self.board.una > self.probe_end {
            // Nobody has seen it twice: it has repaired a loss.
            self.probed = false;
            if self.phase == Phase::Open {
                self.reduce(Cause::Loss, now);
            }
        } else if !advanced && ack.duplicate && ack.sack.is_empty() {
            self.probed = false;
        }
    }

    /// Looks for losses. Returns when to look again.
    fn detect(&mut self, advanced: bool, now: Instant) -> Option<Instant> {
        if self.board.is_empty() {
            return None;
        }
        if self.sack {
            let circumstances = Circumstances {
                least_rtt: self.rtt.minimum().unwrap_or_default(),
                smoothed_rtt: self.rtt.smoothed().unwrap_or_default(),
                certain: self.phase != Phase::Open
                    || self.duplicates >= DUPLICATES
                    || self.board.sacked > self.mss().saturating_mul(2),
                now,
            };
            return self.rack.detect(&mut self.board, &circumstances);
        }
        // RFC 6582 section 3.2.
        let enough = self.phase == Phase::Open && self.duplicates >= DUPLICATES && !self.cautious;
        let partial = self.phase == Phase::Recovery && advanced;
        if enough || partial && self.board.lost == 0 {
            self.board.lose_first(self.mss());
            self.bound_left();
        }
        None
    }

    /// No more has left than is out.
    fn bound_left(&mut self) {
        let out = self.board.outstanding() - self.board.lost;
        self.left = self.left.min(out);
    }

    /// Recovery starts; `outstanding` bytes had not been reported as arrived before.
    fn enter(&mut self, outstanding: u32, now: Instant) {
        if !self.marked {
            self.reduce(Cause::Loss, now);
        }
        self.counters.recoveries += 1;
        self.phase = Phase::Recovery;
        self.recovery_point = self.board.nxt;
        self.marked = false;
        self.probed = false;
        self.prr = Prr::new(outstanding, self.congestion.threshold());
    }

    fn reduce(&mut self, cause: Cause, now: Instant) {
        self.congestion
            .on_congestion(cause, self.board.outstanding(), now);
        self.remember();
    }

    /// From here on what is sent again is watched.
    fn remember(&mut self) {
        self.undo = true;
        self.undo_una = self.board.una;
        self.undo_bytes = 0;
        self.undo_clock_set = false;
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
        self.recovery_point = snd_nxt;
        true
    }

    /// A measured round-trip time outside of acknowledgements of data: of the handshake.
    pub fn measured(&mut self, rtt: Duration, now: Instant) {
        self.rtt.on_sample(rtt, now);
    }

    /// When a timer of this module is due (reordering, probe, retransmission), [`Instant::FOREVER`] with nothing on its way.
    #[inline]
    pub fn deadline(&self) -> Instant {
        self.due
    }

    /// Sets the timer after an acknowledgement.
    fn set_timer(&mut self, reordering: Option<Instant>, now: Instant) {
        self.arm(now);
        if let Some(due) = reordering
            && due + REORDERING_SLACK < self.due
        {
            self.timer = Timer::Reordering;
            self.due = due + REORDERING_SLACK;
        }
    }

    /// Sets the timer for a probe or the retransmission timeout.
    fn arm(&mut self, now: Instant) {
        if self.board.is_empty() {
            self.timer = Timer::Off;
            self.due = Instant::FOREVER;
            return;
        }
        self.timer = Timer::Retransmission;
        self.due = self.silent_since + self.rtt.timeout();
        if self.sack
            && self.phase == Phase::Open
            && !self.probed
            && self.board.sacked == 0
            && self.board.lost == 0
            && let Some(smoothed) = self.rtt.smoothed()
        {
            // RFC 8985 section 7.2.
            let mut wait = smoothed * 2;
            if self.board.outstanding() <= self.mss() {
                wait += ACK_DELAY;
            }
            self.timer = Timer::Probe;
            self.due = self.due.min(now + wait.max(SHORTEST_PROBE));
        }
    }

    /// Looks at the timers. `probe_allowed`: false while the peer's window is closed or the handshake is not done.
    pub fn expire(&mut self, _snd_nxt: Seq, probe_allowed: bool, now: Instant) -> Expired {
        if now < self.due || self.board.is_empty() {
            return Expired::Nothing;
        }
        match self.timer {
            Timer::Off => return Expired::Nothing,
            Timer::Reordering => {
                let before = self.board.lost;
                let outstanding = self.board.outstanding() - self.board.sacked;
                let more = self.detect(false, now);
                let found = self.board.lost > before;
                if found && self.phase == Phase::Open {
                    self.enter(outstanding, now);
                    let in_flight = self.in_flight();
                    self.prr.on_acked(0, in_flight, false, self.mss());
                }
                self.set_timer(more, now);
                if found {
                    return Expired::Reordering;
                }
                if now < self.due {
                    return Expired::Nothing;
                }
            }
            Timer::Probe if probe_allowed => {
                self.counters.probes += 1;
                self.probed = true;
                self.probe_end = self.board.nxt;
                self.probe_repeats = false;
                self.silent_since = now;
                self.arm(now);
                return Expired::Probe;
            }
            Timer::Probe => {
                self.timer = Timer::Retransmission;
                self.due = self.silent_since + self.rtt.timeout();
                if now < self.due {
                    return Expired::Nothing;
                }
            }
            Timer::Retransmission => {}
        }
        self.time_out(now);
        Expired::Timeout
    }

    /// RFC 6298 section 5 (5.4) to (5.6).
    fn time_out(&mut self, now: Instant) {
        let first = match self.phase {
            Phase::Open => true,
            // The window was reduced for the same data.
            Phase::Recovery => false,
            Phase::Loss => self.timeouts == 0,
        };
        self.counters.timeouts += 1;
        self.timeouts = self.timeouts.saturating_add(1);
        self.rtt.back_off();
        if first {
            self.remember();
        }
        self.congestion
            .on_timeout(self.board.outstanding(), first, now);
        // RFC 2018 section 8: the peer may have dropped what it has reported. It surely has if that comes first.
        let reneged = self.board.first().is_some_and(|r| r.state == State::Sacked);
        let forget = reneged || self.timeouts > 1;
        if forget {
            self.board.forget_sacked();
        }
        self.doubtful = self.sack && !forget;
        self.board.lose_all();
        self.phase = Phase::Loss;
        self.recovery_point = self.board.nxt;
        self.duplicates = 0;
        self.left = 0;
        self.probed = false;
        self.marked = false;
        self.silent_since = now;
        self.arm(now);
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
