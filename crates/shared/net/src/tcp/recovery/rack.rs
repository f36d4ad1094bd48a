//! RACK, RFC 8985: what was sent long enough before something that has arrived is lost.

use core::time::Duration;

use kiln_abi::Instant;

use super::scoreboard::{Arrived, Scoreboard, State};
use crate::tcp::rtt::Rtt;
use crate::tcp::{Block, Seq};

/// So many recoveries without a D-SACK make the reordering window small again (section 6.2 step 4).
const PERSIST: u8 = 16;
/// The largest multiple of a quarter of the smallest round-trip time; SRTT limits it further.
const MAX_MULTIPLE: u8 = 32;

/// The variables of RFC 8985 section 5.2.
#[derive(Debug)]
pub(super) struct Rack {
    /// `RACK.xmit_ts`: when that left which was sent last, of what has arrived.
    sent: Instant,
    /// `RACK.end_seq`.
    end: Seq,
    /// `RACK.fack`: the end of what has arrived, gaps included.
    pub(super) farthest: Seq,
    /// `RACK.dsack_round`.
    dsack_round: Seq,
    /// `RACK.rtt`, in microseconds.
    rtt: u32,
    multiple: u8,
    persist: u8,
    /// `RACK.reordering_seen`.
    pub(super) reordering: bool,
    widened: bool,
}

/// What is to be known of the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    pub(super) least_rtt: Duration,
    pub(super) smoothed_rtt: Duration,
    /// Losses are being repaired, or enough has arrived behind a gap to say that it is one.
    pub(super) certain: bool,
    pub(super) now: Instant,
}

impl Rack {
    pub(super) fn new() -> Self {
        Self {
            sent: Instant::ZERO,
            end: Seq(0),
            farthest: Seq(0),
            dsack_round: Seq(0),
            rtt: 0,
            multiple: 1,
            persist: 0,
            reordering: false,
            widened: false,
        }
    }

    /// Section 6.2 steps 2 and 3.
    pub(super) fn on_arrived(&mut self, arrived: &Arrived, una: Seq, rtts: &Rtt, now: Instant) {
        if let Some(lowest) = arrived.lowest
            && lowest < self.farthest
        {
            self.reordering = true;
        }
        self.farthest = self.farthest.max(arrived.highest.unwrap_or(una)).max(una);
        if let Some((sent, end, again)) = arrived.latest {
            let rtt = now.since(sent);
            // Faster than possible: it is the first transmission that has arrived.
            if again && rtt < rtts.minimum().unwrap_or_default() {
                return;
            }
            if self.sent < sent || self.sent == sent && self.end < end {
                self.sent = sent;
                self.end = end;
                self.rtt = (rtt.as_nanos() as u64 / 1000).min(u64::from(u32::MAX)) as u32;
            }
        }
    }

    /// A D-SACK: something was sent again needlessly. The window grows once in a round trip.
    pub(super) fn on_repeated(&mut self, una: Seq, nxt: Seq) {
        if self.widened && una < self.dsack_round {
            return;
        }
        self.widened = true;
        self.dsack_round = nxt;
        self.multiple = (self.multiple + 1).min(MAX_MULTIPLE);
        self.persist = PERSIST;
    }

    /// A recovery is over.
    pub(super) fn on_recovered(&mut self) {
        self.persist = self.persist.saturating_sub(1);
        if self.persist == 0 {
            self.multiple = 1;
            self.widened = false;
        }
    }

    /// `RACK_update_reo_wnd`, section 6.2 step 4.
    fn window(&self, at: &Circumstances) -> Duration {
        if !self.reordering && at.certain && self.multiple == 1 {
            return Duration::ZERO;
        }
        (at.least_rtt * u32::from(self.multiple) / 4).min(at.smoothed_rtt)
    }

    /// Section 6.2 step 5: marks what is lost. Returns when more may be found lost, if that depends on time alone.
    ///
    /// What was sent once is in the order of time, so a place in it is remembered; so is what was sent again, in a list
    /// of its own. Each record is looked at until it is judged, and then no more.
    pub(super) fn detect(&mut self, board: &mut Scoreboard, at: &Circumstances) -> Option<Instant> {
        if self.sent == Instant::ZERO {
            return None;
        }
        let patience = Duration::from_micros(u64::from(self.rtt)) + self.window(at);
        let mut next = None;
        let mut index = board.find(board.judged.max(board.una));
        while let Some(record) = board.get(index) {
            let (sent, end) = (record.sent, record.end);
            if record.state == State::Flying && !record.resent {
                if !self.is_later_than(sent, end) {
                    break;
                }
                if sent + patience > at.now {
                    next = Some(sent + patience);
                    break;
                }
                board.lose(index);
            }
            board.judged = end;
            index += 1;
        }
        while let Some(&first) = board.resent.as_deref().and_then(|resent| resent.front()) {
            if first.sent > self.sent {
                break;
            }
            if first.block.end > board.una {
                if first.sent + patience > at.now {
                    if first.sent < self.sent {
                        let due = first.sent + patience;
                        next = Some(next.map_or(due, |next| due.min(next)));
                    }
                    break;
                }
                if !self.lose_resent(board, first.block, first.sent) {
                    break;
                }
            }
            if let Some(resent) = board.resent.as_deref_mut() {
                resent.pop_front();
                if resent.is_empty() {
                    board.resent = None;
                }
            }
        }
        next
    }

    /// Marks what is still on its way since `sent`. False if some of it may still arrive.
    fn lose_resent(&self, board: &mut Scoreboard, block: Block, sent: Instant) -> bool {
        let mut index = board.find(block.start);
        while let Some(record) = board.get(index)
            && record.start < block.end
        {
            if record.state == State::Flying && record.sent == sent {
                if !self.is_later_than(sent, record.end) {
                    return false;
                }
                board.lose(index);
            }
            index += 1;
        }
        true
    }

    /// The reordering window, in quarters of the smallest round-trip time.
    #[cfg(test)]
    pub(super) fn multiple(&self) -> u8 {
        self.multiple
    }

    /// `RACK_sent_after`: what has arrived left after this.
    fn is_later_than(&self, sent: Instant, end: Seq) -> bool {
        sent < self.sent || sent == self.sent && end < self.end
    }
}
