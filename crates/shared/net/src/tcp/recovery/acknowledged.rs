//! What acknowledgements say.

use core::time::Duration;

use kiln_abi::Instant;

use super::rack::Circumstances;
use super::scoreboard::Arrived;
use super::{Ack, DUPLICATES, Outcome, Phase, Recovery, Timer};
use crate::tcp::Block;
use crate::tcp::congestion::{Acked, Cause, Prr};

impl Recovery {
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
            if let Some(block) = self.take_blocks(ack, &mut arrived) {
                outcome.undone = self.take_late_report(ack, block, now);
            }
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
        if self.phase != Phase::Open && self.board.una >= self.point {
            self.finish();
            outcome.recovered = true;
        }
        if self.marked && self.board.una >= self.point {
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
            self.prr.on_acked(gone, self.in_flight(), safe, self.mss());
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

    /// A D-SACK has come after everything was acknowledged: the original was late, or the probe was for nothing. True if
    /// a reduction was taken back.
    #[inline(never)]
    fn take_late_report(&mut self, ack: &Ack<'_>, block: Block, now: Instant) -> bool {
        let needless = self.undo && self.was_needless(ack, &Arrived::default(), false, Some(block));
        if needless {
            self.take_back();
        }
        self.check_probe(ack, false, true, now);
        // While nothing new leaves, the round trip goes on: several reports are one.
        self.rack.on_repeated(self.board.una - 1, self.board.nxt);
        needless
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
        self.rack
            .on_arrived(arrived, self.board.una, &self.rtt, now);
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
            self.cautious &= self.board.una <= self.point;
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
            && echoed.wrapping_sub(self.undo_clock).cast_signed() < 0
        {
            return true;
        }
        // RFC 5682 section 3.
        if self.phase == Phase::Loss && self.doubtful && arrived.not_lost {
            return true;
        }
        // Every repetition was reported as such, RFC 3708. What is not acknowledged yet may have been doubled on its way, and says nothing
        // about others that were sent again.
        let una = self.board.una;
        match repeated {
            Some(block)
                if block.start >= self.undo_una && block.end <= una && self.undo_bytes > 0 =>
            {
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
    pub(super) fn detect(&mut self, advanced: bool, now: Instant) -> Option<Instant> {
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
    pub(super) fn bound_left(&mut self) {
        let out = self.board.outstanding() - self.board.lost;
        self.left = self.left.min(out);
    }

    /// Recovery starts; `outstanding` bytes had not been reported as arrived before.
    pub(super) fn enter(&mut self, outstanding: u32, now: Instant) {
        if !self.marked {
            self.reduce(Cause::Loss, now);
        }
        self.counters.recoveries += 1;
        self.phase = Phase::Recovery;
        self.point = self.board.nxt;
        self.marked = false;
        self.probed = false;
        self.prr = Prr::new(outstanding, self.congestion.threshold());
    }

    pub(super) fn reduce(&mut self, cause: Cause, now: Instant) {
        self.congestion
            .on_congestion(cause, self.board.outstanding(), now);
        self.remember();
    }

    /// From here on what is sent again is watched.
    pub(super) fn remember(&mut self) {
        self.undo = true;
        self.undo_una = self.board.una;
        self.undo_bytes = 0;
        self.undo_clock_set = false;
    }
}
