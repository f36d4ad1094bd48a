//! Congestion control: how much may be on its way.
//!
//! Pure arithmetic on bytes. The owner reports what happened; [`Congestion::window`] is the answer. What counts as lost
//! and what is on its way is decided elsewhere (`recovery`).

use core::time::Duration;

use kiln_abi::Instant;

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

/// The state of one connection's congestion control.
#[derive(Clone, Debug)]
pub struct Congestion {}

impl Congestion {
    /// At the start, with the initial window of RFC 6928. `mss` counts data without options.
    pub fn new(_algorithm: Algorithm, _mss: u32) -> Self {
        todo!()
    }

    /// Which algorithm it is.
    pub fn algorithm(&self) -> Algorithm {
        todo!()
    }

    /// The congestion window in bytes, at least one segment.
    pub fn window(&self) -> u32 {
        todo!()
    }

    /// The slow-start threshold in bytes; [`u32::MAX`] before the first loss.
    pub fn threshold(&self) -> u32 {
        todo!()
    }

    /// True in slow start (or the conservative slow start of RFC 9406).
    pub fn in_slow_start(&self) -> bool {
        todo!()
    }

    /// The largest segment has changed; windows in bytes are kept, bounds follow.
    pub fn set_mss(&mut self, _mss: u32) {
        todo!()
    }

    /// Data have been acknowledged, outside of recovery.
    pub fn on_acked(&mut self, _acked: &Acked, _smoothed_rtt: Duration, _now: Instant) {
        todo!()
    }

    /// The window is reduced, once per window of data: the caller sees to that. The new window is the new threshold;
    /// during recovery the caller limits what is sent by proportional rate reduction ([`Prr`]).
    pub fn on_congestion(&mut self, _cause: Cause, _in_flight: u32, _now: Instant) {
        todo!()
    }

    /// The retransmission timer has expired for data: the loss window, RFC 5681 section 3.1 equation 4. `first` is
    /// false when the same data time out again.
    pub fn on_timeout(&mut self, _in_flight: u32, _first: bool, _now: Instant) {
        todo!()
    }

    /// The last reduction was found to be for nothing (RFC 4015, RFC 9438 section 4.9): what was before is restored.
    pub fn undo(&mut self) {
        todo!()
    }

    /// Recovery is over: the window is the threshold.
    pub fn on_recovered(&mut self) {
        todo!()
    }

    /// Nothing was sent for longer than a retransmission timeout: the restart window, RFC 5681 section 4.1.
    pub fn on_idle(&mut self) {
        todo!()
    }
}

/// Proportional rate reduction during recovery, RFC 9937.
#[derive(Clone, Debug)]
pub struct Prr {}

impl Prr {
    /// When recovery starts: `in_flight` is RFC 9937's `RecoverFS`.
    pub fn new(_in_flight: u32, _threshold: u32) -> Self {
        todo!()
    }

    /// An acknowledgement has arrived that reports `delivered` bytes as newly arrived (and whether it moved SND.UNA
    /// without reporting more loss, which allows the slow-start bound). `in_flight` is what is on its way now.
    pub fn on_acked(&mut self, _delivered: u32, _in_flight: u32, _safe: bool, _mss: u32) {
        todo!()
    }

    /// Bytes were sent.
    pub fn on_sent(&mut self, _bytes: u32) {
        todo!()
    }

    /// How many bytes may be sent now.
    pub fn allowance(&self) -> u32 {
        todo!()
    }
}
