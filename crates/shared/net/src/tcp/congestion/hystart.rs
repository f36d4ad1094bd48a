//! `HyStart++`, RFC 9406: slow start ends when round-trip times grow, before packets are lost.
//!
//! Once they grow, slow start goes on slowly for five rounds (conservative slow start) and is resumed if they shrink
//! again. Times are in microseconds.

use core::time::Duration;

/// `MIN_RTT_THRESH`.
const MIN_THRESHOLD: u32 = 4_000;
/// `MAX_RTT_THRESH`.
const MAX_THRESHOLD: u32 = 16_000;
/// `MIN_RTT_DIVISOR`.
const DIVISOR: u32 = 8;
/// `N_RTT_SAMPLE`.
const SAMPLES: u8 = 8;
/// `CSS_GROWTH_DIVISOR`.
pub(super) const GROWTH_DIVISOR: u32 = 4;
/// `CSS_ROUNDS`.
const CONSERVATIVE_ROUNDS: u8 = 5;

#[derive(Clone, Debug)]
pub(super) struct HyStart {
    /// `lastRoundMinRTT`, [`u32::MAX`] if there was none.
    last: u32,
    /// `currentRoundMinRTT`.
    current: u32,
    /// `cssBaselineMinRtt`; [`u32::MAX`] outside of conservative slow start.
    baseline: u32,
    samples: u8,
    rounds: u8,
}

/// What slow start does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    Full,
    Conservative,
    /// Congestion avoidance starts.
    Over,
}

impl HyStart {
    pub(super) fn new() -> Self {
        Self {
            last: u32::MAX,
            current: u32::MAX,
            baseline: u32::MAX,
            samples: 0,
            rounds: 0,
        }
    }

    /// An acknowledgement in slow start.
    pub(super) fn on_acked(&mut self, rtt: Option<Duration>, round_ended: bool) -> Pace {
        if round_ended {
            self.last = self.current;
            self.current = u32::MAX;
            self.samples = 0;
            if self.baseline != u32::MAX {
                self.rounds += 1;
                if self.rounds >= CONSERVATIVE_ROUNDS {
                    return Pace::Over;
                }
            }
        }
        if let Some(rtt) = rtt {
            let seconds = rtt.as_secs().min(1000) as u32;
            self.current = self.current.min(seconds * 1_000_000 + rtt.subsec_micros());
            self.samples = self.samples.saturating_add(1);
        }
        if self.samples >= SAMPLES && self.current != u32::MAX {
            if self.baseline != u32::MAX {
                if self.current < self.baseline {
                    self.baseline = u32::MAX;
                }
            } else if self.last != u32::MAX {
                let threshold = (self.last / DIVISOR).clamp(MIN_THRESHOLD, MAX_THRESHOLD);
                if self.current >= self.last + threshold {
                    self.baseline = self.current;
                    self.rounds = 0;
                }
            }
        }
        if self.baseline == u32::MAX {
            Pace::Full
        } else {
            Pace::Conservative
        }
    }
}
