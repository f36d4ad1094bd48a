//! How much may be in flight.
//!
//! The bound is that of the fastest sender the RFCs know: slow start without delay, CUBIC's beta at each loss, and
//! afterwards half a window more per round trip. Whoever is slower is right too.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Area, View, rules};
use crate::connection::Placed;
use crate::ranges::{ORIGIN, Place};
use crate::report::Findings;
use crate::segment::{Flags, Time};

rules! {
    INITIAL Error "initial-window", "RFC 6928 2", "at most ten segments are sent before the first acknowledgment";
    SLOW_START Error "slow-start", "RFC 5681 3.1", "the window grows by no more than what is acknowledged";
    DECREASE Error "multiplicative-decrease", "RFC 9438 4.6", "after a loss the window is at most 0.7 of what it was";
    LOSS_WINDOW Error "loss-window", "RFC 5681 3.1", "after a time-out one segment is sent, then slow start begins";
    IDLE Warning "idle-restart", "RFC 5681 4.1", "after an idle time-out no more than the initial window is sent at once";
}

/// What is forgiven everywhere: a burst of a few segments (limited transmit, RFC 3042; rounding).
const ALLOWANCE: u64 = 4;

/// How soon after the last segment a probe of the tail may leave. No time-out is shorter than 10 ms, but what went before may
/// have waited on its way to the capture, when the machine was busy; what goes in one burst follows within microseconds.
const LEAST_PROBE: Duration = Duration::from_millis(1);

/// How late a recovery may prove a mistake.
const UNDONE_WITHIN: Duration = Duration::from_secs(2);

/// A recovery from loss.
struct Recovery {
    /// It ends when this is acknowledged.
    until: Place,
    /// The bound before it, should it prove to be a mistake, and how often there had been a loss.
    bound_before: u64,
    losses_before: u32,
    /// Bytes delivered when it began.
    delivered: u64,
    /// When it began.
    began: Time,
    /// `TSval` of its first retransmission: an answer to an older one answers the original.
    value: Option<u32>,
}

/// A time-out that has expired.
struct TimedOut {
    at: Time,
    /// Bytes delivered when it did.
    delivered: u64,
    /// Bytes sent since, the first retransmission included.
    sent: u64,
    /// What was outstanding.
    until: Place,
    /// One past what was sent again.
    again: Place,
    answered: bool,
}

/// See [`RULES`].
#[derive(Default)]
pub struct Congestion {
    /// The largest congestion window that any sender may have.
    bound: u64,
    delivered: u64,
    losses: u32,
    recovery: Option<Recovery>,
    /// Recoveries before, which may still prove mistakes.
    ended: VecDeque<Recovery>,
    timed_out: Option<TimedOut>,
    /// When a time-out expired last: what was sent before it is sent again as acknowledgments come.
    expired: Option<Time>,
    /// The host has a reason to take the reductions of late back.
    undo: bool,
    /// After an idle time: when something was sent last, and how much in one go since.
    idle: Option<(Time, u64)>,
    received: Time,
}

impl Congestion {
    fn initial(full: u64) -> u64 {
        (10 * full).min(14600.max(2 * full))
    }

    /// The largest pipe for now.
    fn limit(&self, full: u64) -> u64 {
        let during = self
            .recovery
            .as_ref()
            .map_or(0, |recovery| recovery.bound_before);
        self.bound.max(during) + ALLOWANCE * full
    }
}

impl Area for Congestion {
    fn received(&mut self, view: &View, placed: &Placed, _: &mut Findings) {
        // The effect on the connection shows with the next segment; only arrival matters here.
        self.received = view.now;
        let advances = placed
            .ack
            .is_some_and(|ack| ack > view.connection.output.una());
        if let (Some(recovery), Some((_, echo))) =
            (&self.recovery, placed.segment.options.timestamps)
            && recovery
                .value
                .is_some_and(|value| echo.wrapping_sub(value).cast_signed() < 0)
            && advances
        {
            self.undo = true;
        }
        if let (Some(timed_out), Some(ack)) = (&mut self.timed_out, placed.ack) {
            timed_out.answered = true;
            let spurious = ack > timed_out.again && ack <= view.connection.output.max;
            if spurious || ack >= timed_out.until {
                self.timed_out = None;
            }
        }
    }

    fn passed(&mut self, view: &View, _: &mut Findings) {
        let output = &view.connection.output;
        let grown = output.delivered - self.delivered;
        self.delivered = output.delivered;
        self.bound += if self.losses == 0 {
            grown
        } else {
            grown.div_ceil(2)
        };
        while self
            .ended
            .front()
            .is_some_and(|recovery| recovery.began + UNDONE_WITHIN < view.now)
        {
            self.ended.pop_front();
        }
        // What proves a recovery a mistake: a D-SACK (RFC 3708), also after its end, or a timestamp (RFC 3522).
        let reported = output.duplicate_reported;
        let mut recoveries = self.ended.iter().chain(&self.recovery);
        if self.undo
            || recoveries.any(|recovery| reported.is_some_and(|then| then >= recovery.began))
        {
            self.take_back();
        }
        let known = output.una_known(view.now, view.config);
        if self
            .recovery
            .as_ref()
            .is_some_and(|recovery| known >= recovery.until)
        {
            self.ended.extend(self.recovery.take());
        }
    }

    fn sent(&mut self, view: &View, placed: &Placed, findings: &mut Findings) {
        let (connection, output) = (view.connection, &view.connection.output);
        let full = connection.segment_size();
        if placed.segment.flags.any(Flags::RST | Flags::SYN) {
            self.bound = Self::initial(full);
            return;
        }
        let length = placed.segment.payload.len() as u64;
        if length == 0 || !connection.synchronized() {
            return;
        }
        if self.bound == 0 || output.max == ORIGIN + 1 {
            self.bound = Self::initial(full);
        }
        let again = placed.start < output.max;
        if again {
            self.lost(view, placed);
        }
        self.after_timeout(view, placed, full, findings);
        if !again {
            let pipe = output.pipe() + length;
            // One segment more may probe the tail (RFC 8985 section 7.3), no sooner than that may be.
            let is_late = output.last_sent + LEAST_PROBE <= view.now;
            let probe = if is_late { full } else { 0 };
            self.idle(view, length, full, findings);
            if output.una() <= ORIGIN + 1 && output.sacked.total() == 0 {
                // Nothing acknowledged but the SYN.
                if pipe > Self::initial(full) + probe && self.losses == 0 {
                    findings.add(&INITIAL, format!("{pipe} bytes, segments of {full}"));
                }
            } else if pipe > self.limit(full) + probe {
                let rule = if self.losses == 0 {
                    &SLOW_START
                } else {
                    &DECREASE
                };
                findings.add(
                    rule,
                    format!("{pipe} bytes are in flight, {} may be", self.limit(full)),
                );
            }
        }
    }
}

impl Congestion {
    /// As if the recoveries of late had not been: which of them was the mistake does not show.
    fn take_back(&mut self) {
        self.undo = false;
        for recovery in self.ended.iter().chain(&self.recovery) {
            let grown = self.delivered - recovery.delivered;
            let grown = if recovery.losses_before == 0 {
                grown
            } else {
                grown.div_ceil(2)
            };
            self.bound = self.bound.max(recovery.bound_before + grown);
            self.losses = self.losses.min(recovery.losses_before);
        }
        self.ended.clear();
        if let Some(recovery) = &mut self.recovery {
            // It goes on, but nothing is reduced.
            recovery.bound_before = self.bound;
            recovery.delivered = self.delivered;
        }
    }

    fn lost(&mut self, view: &View, placed: &Placed) {
        let output = &view.connection.output;
        let una = output.una();
        let Some(last) = output.transmission(placed.start.max(una)) else {
            return;
        };
        let waited = view.now.saturating_sub(last.time);
        let signs = output
            .evidence
            .is_some_and(|then| then + view.config.lag >= last.time);
        // The bound before cannot have been used further than what was in flight and one doubling more.
        let before = self.bound;
        let head = placed.start <= output.una_known(view.now, view.config).max(una)
            && placed.start >= una.saturating_sub(1);
        let continues = self
            .expired
            .is_some_and(|then| last.time < then && self.received > then);
        let timer = !signs && !continues && head && waited >= view.config.least_rto;
        if timer
            && self
                .timed_out
                .as_ref()
                .is_none_or(|timed_out| timed_out.at + view.config.least_rto < view.now)
        {
            self.expired = Some(view.now);
            self.timed_out = Some(TimedOut {
                at: view.now,
                delivered: output.delivered,
                sent: 0,
                until: output.max,
                again: placed.end,
                answered: false,
            });
        }
        let probe = !signs && placed.end == output.max && !timer;
        if self.recovery.is_none() && !probe {
            self.recovery = Some(Recovery {
                until: output.max,
                bound_before: before,
                losses_before: self.losses,
                delivered: output.delivered,
                began: view.now,
                value: placed.segment.options.timestamps.map(|(value, _)| value),
            });
            let full = view.connection.segment_size();
            self.losses += 1;
            self.bound = (before * 7 / 10).max(2 * full);
        }
    }

    fn after_timeout(&mut self, view: &View, placed: &Placed, full: u64, findings: &mut Findings) {
        let output = &view.connection.output;
        let Some(timed_out) = &mut self.timed_out else {
            return;
        };
        if output
            .duplicate_reported
            .is_some_and(|then| then >= timed_out.at)
        {
            self.timed_out = None;
            return;
        }
        let length = placed.segment.payload.len() as u64;
        timed_out.sent += length;
        timed_out.again = timed_out.again.max(placed.end.min(timed_out.until));
        // An acknowledgment on its way when the timer expired is answered too.
        let delivered = output.delivered - timed_out.delivered;
        let limit = if timed_out.answered {
            (1 + ALLOWANCE) * full + 2 * delivered
        } else {
            full
        };
        if timed_out.sent > limit {
            let sent = timed_out.sent;
            findings.add(&LOSS_WINDOW, format!("{sent} bytes since, {limit} may be"));
            self.timed_out = None;
        }
    }

    fn idle(&mut self, view: &View, length: u64, full: u64, findings: &mut Findings) {
        let output = &view.connection.output;
        let rto = output
            .longest_rtt
            .map_or(Duration::from_secs(1), |longest| longest * 3);
        let rto = rto.max(Duration::from_secs(1));
        let nothing_outstanding = output.una() == output.max;
        if nothing_outstanding && output.last_sent + rto < view.now && output.max > ORIGIN + 1 {
            self.idle = Some((view.now, 0));
        }
        if let Some((since, sent)) = &mut self.idle {
            if self.received > *since {
                self.idle = None;
                return;
            }
            *sent += length;
            if *sent > Self::initial(full) {
                findings.add(&IDLE, format!("{sent} bytes"));
                self.idle = None;
            }
        }
    }
}
