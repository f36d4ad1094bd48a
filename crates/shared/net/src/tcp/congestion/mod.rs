//! Congestion control: how much may be on its way.
//!
//! Pure arithmetic on bytes. The owner reports what happened; [`Congestion::window`] is the answer. What counts as lost
//! and what is on its way is decided elsewhere (`recovery`).

mod cubic;
mod hystart;
mod prr;
mod reno;

use core::time::Duration;

use kiln_abi::Instant;

use cubic::Cubic;
use hystart::{GROWTH_DIVISOR, HyStart, Pace};
pub use prr::Prr;

/// No window is larger: the largest that a header can say is 1 GiB.
const LARGEST: u32 = 1 << 30;
/// No segment carries more.
const LARGEST_SEGMENT: u32 = 1 << 16;
/// What one acknowledgement may add in slow start, in segments: `L` of RFC 9406 section 4.2.
const SLOW_START_SEGMENTS: u32 = 8;
/// The same in bytes if that is more: a peer's link may join so much before it acknowledges.
const SLOW_START_BYTES: u32 = 64 * 1024;

/// Which algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// CUBIC, RFC 9438, with `HyStart++`, RFC 9406.
    #[default]
    Cubic,
    /// Reno, RFC 5681 and 6582.
    Reno,
}

/// Data that an acknowledgement has newly reported as arrived.
#[derive(Clone, Copy, Debug)]
pub struct Acked {
    /// Bytes newly acknowledged, cumulatively or selectively.
    pub bytes: u32,
    /// Bytes on their way before this acknowledgement.
    pub in_flight: u32,
    /// A round-trip time measured by it, if there is one.
    pub rtt: Option<Duration>,
    /// True if the sender was limited by the window, not by the program or the peer: only then may it grow
    /// (RFC 9438 section 5.8, RFC 7661).
    pub window_limited: bool,
    /// True if everything sent before the round's start has been acknowledged: a round trip has passed (`HyStart++`).
    pub round_ended: bool,
}

/// Why the window must be reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Lost segments were found.
    Loss,
    /// The peer echoed a mark, RFC 3168 section 6.1.2.
    Mark,
}

/// What was before the last reduction.
#[derive(Clone, Debug)]
struct Prior {
    window: u32,
    threshold: u32,
    maximum: u32,
}

/// The state of one connection's congestion control.
#[derive(Clone, Debug)]
pub struct Congestion {
    window: u32,
    threshold: u32,
    mss: u32,
    /// Acknowledged bytes that have not made the window grow yet, in the unit of the algorithm.
    credit: u32,
    prior: Prior,
    cubic: Cubic,
    start: HyStart,
    algorithm: Algorithm,
    can_undo: bool,
}

impl Congestion {
    /// At the start, with the initial window of RFC 6928. `mss` counts data without options.
    pub fn new(algorithm: Algorithm, mss: u32) -> Self {
        let mss = mss.clamp(1, LARGEST_SEGMENT);
        Self {
            window: initial_window(mss),
            threshold: u32::MAX,
            mss,
            credit: 0,
            prior: Prior {
                window: 0,
                threshold: 0,
                maximum: 0,
            },
            cubic: Cubic::default(),
            start: HyStart::new(),
            algorithm,
            can_undo: false,
        }
    }

    /// Which algorithm it is.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The largest segment, at least 1.
    #[inline]
    pub fn mss(&self) -> u32 {
        self.mss
    }

    /// The congestion window in bytes, at least one segment.
    #[inline]
    pub fn window(&self) -> u32 {
        self.window
    }

    /// The slow-start threshold in bytes; [`u32::MAX`] before the first loss.
    pub fn threshold(&self) -> u32 {
        self.threshold
    }

    /// True in slow start (or the conservative slow start of RFC 9406).
    pub fn in_slow_start(&self) -> bool {
        self.window < self.threshold
    }

    /// The largest segment has changed; windows in bytes are kept, bounds follow.
    pub fn set_mss(&mut self, mss: u32) {
        self.mss = mss.clamp(1, LARGEST_SEGMENT);
        self.window = self.window.max(self.mss);
    }

    /// Data have been acknowledged, outside of recovery.
    pub fn on_acked(&mut self, acked: &Acked, smoothed_rtt: Duration, now: Instant) {
        let slow_start = self.in_slow_start();
        let mut pace = Pace::Full;
        if slow_start && self.threshold == u32::MAX && self.algorithm == Algorithm::Cubic {
            pace = self.start.on_acked(acked.rtt, acked.round_ended);
        }
        if pace == Pace::Over {
            self.threshold = self.window;
        }
        if !acked.window_limited {
            self.cubic.pause(now);
            return;
        }
        let growth = if slow_start && pace != Pace::Over {
            let most = SLOW_START_BYTES.max(self.mss.saturating_mul(SLOW_START_SEGMENTS));
            let bytes = acked.bytes.min(most);
            let bytes = if pace == Pace::Conservative {
                bytes / GROWTH_DIVISOR
            } else {
                bytes
            };
            bytes.min(self.threshold - self.window)
        } else if self.algorithm == Algorithm::Reno {
            reno::growth(&mut self.credit, acked.bytes, self.window, self.mss)
        } else {
            self.cubic.growth(
                &mut self.credit,
                acked.bytes,
                self.window,
                self.mss,
                smoothed_rtt,
                now,
            )
        };
        self.window = self.window.saturating_add(growth).min(LARGEST);
    }

    /// The window is reduced, once per window of data: the caller sees to that. The new window is the new threshold;
    /// during recovery the caller limits what is sent by proportional rate reduction ([`Prr`]). `in_flight` is
    /// `FlightSize`: everything sent and not acknowledged cumulatively.
    pub fn on_congestion(&mut self, _cause: Cause, in_flight: u32, _now: Instant) {
        self.reduce(in_flight);
        self.window = self.threshold;
    }

    /// The retransmission timer has expired for data: the loss window, RFC 5681 section 3.1 equation 4. `first` is
    /// false when the same data time out again.
    pub fn on_timeout(&mut self, in_flight: u32, first: bool, _now: Instant) {
        if first {
            self.reduce(in_flight);
        }
        self.cubic.forget();
        self.window = self.mss;
    }

    /// The last reduction was found to be for nothing (RFC 4015, RFC 9438 section 4.9): what was before is restored.
    pub fn undo(&mut self) {
        if !self.can_undo {
            return;
        }
        self.can_undo = false;
        self.window = self.window.max(self.prior.window);
        self.threshold = self.threshold.max(self.prior.threshold);
        self.cubic.maximum = self.prior.maximum;
        self.cubic.restart();
    }

    /// Recovery is over: the window is the threshold.
    pub fn on_recovered(&mut self) {
        self.window = self.threshold.clamp(self.mss, LARGEST);
    }

    /// Nothing was sent for longer than a retransmission timeout: the restart window, RFC 5681 section 4.1.
    pub fn on_idle(&mut self) {
        if self.threshold != u32::MAX {
            // As much as is known to be sustainable, RFC 7661 section 4.4.3.
            self.threshold = self.threshold.max(self.window - self.window / 4);
        }
        self.window = self.window.min(initial_window(self.mss));
        self.cubic.restart();
    }

    /// The handshake needed more than one retransmission: one segment is the initial window (RFC 6928 section 2).
    pub fn on_slow_handshake(&mut self) {
        self.window = self.mss;
    }

    fn reduce(&mut self, in_flight: u32) {
        self.prior = Prior {
            window: self.window,
            threshold: self.threshold,
            maximum: self.cubic.maximum,
        };
        self.can_undo = true;
        self.credit = 0;
        let reduced = match self.algorithm {
            // RFC 9438 section 4.6 allows the window in the place of the flight size where it only grows when it is
            // used up, which is so here.
            Algorithm::Cubic => self.cubic.reduced(self.window),
            Algorithm::Reno => reno::reduced(in_flight.min(self.window)),
        };
        self.threshold = reduced.max(2 * self.mss).min(LARGEST);
    }
}

/// RFC 6928 section 2.
fn initial_window(mss: u32) -> u32 {
    mss.saturating_mul(10)
        .min(14_600.max(mss.saturating_mul(2)))
        .min(LARGEST)
}

#[cfg(test)]
mod tests;
