//! Round-trip times and the retransmission timeout, RFC 6298.

use core::time::Duration;

use kiln_abi::Instant;

/// The estimator of one connection.
#[derive(Clone, Debug)]
pub struct Rtt {}

impl Rtt {
    /// Before the first measurement: a timeout of one second.
    pub fn new() -> Self {
        todo!()
    }

    /// Takes a measurement. `now` drives the windowed minimum.
    pub fn on_sample(&mut self, _rtt: Duration, _now: Instant) {
        todo!()
    }

    /// The smoothed round-trip time, if one was measured.
    pub fn smoothed(&self) -> Option<Duration> {
        todo!()
    }

    /// The mean deviation.
    pub fn variation(&self) -> Duration {
        todo!()
    }

    /// The smallest of the last minutes (RACK's `min_RTT`).
    pub fn minimum(&self) -> Option<Duration> {
        todo!()
    }

    /// The timeout with its back-off: 200 ms at least (as Linux; RFC 6298 (2.4) says one second), 60 s at most.
    pub fn timeout(&self) -> Duration {
        todo!()
    }

    /// The timeout has expired: the next is twice as long.
    pub fn back_off(&mut self) {
        todo!()
    }

    /// An acknowledgement of new data ends the back-off.
    pub fn reset_back_off(&mut self) {
        todo!()
    }

    /// How often it was doubled.
    pub fn backed_off(&self) -> u8 {
        todo!()
    }
}
