//! Round-trip times and the retransmission timeout, RFC 6298.
//!
//! Times are kept in microseconds with three fractional bits at most, in 32 bits each: five minutes fit, and a round trip over
//! memory (20 us) is still measured to one part in a hundred.

use core::time::Duration;

use kiln_abi::Instant;

/// The timeout before the first measurement, RFC 6298 (2.1).
const INITIAL: Duration = Duration::from_secs(1);
/// What is added to the smoothed time at least: delayed acknowledgements come within it.
const MINIMUM_US: u32 = 200_000;
/// The longest timeout, RFC 6298 (2.5).
const MAXIMUM: Duration = Duration::from_mins(1);
/// Longer measurements are taken for this one.
const LONGEST_US: u64 = 100_000_000;
/// Half of the time for which a minimum is remembered.
const HALF_WINDOW_S: u32 = 150;

/// The estimator of one connection.
#[derive(Clone, Debug)]
pub struct Rtt {
    /// SRTT in eighths of a microsecond; 0 before the first measurement.
    smoothed: u32,
    /// RTTVAR in quarters of a microsecond.
    variation: u32,
    /// The least of the current half window, in microseconds.
    least: u32,
    /// The least of the half window before.
    least_before: u32,
    /// When the current half window began, in seconds.
    since: u32,
    backed_off: u8,
}

impl Default for Rtt {
    fn default() -> Self {
        Self::new()
    }
}

impl Rtt {
    /// Before the first measurement: a timeout of one second.
    pub fn new() -> Self {
        Self {
            smoothed: 0,
            variation: 0,
            least: u32::MAX,
            least_before: u32::MAX,
            since: 0,
            backed_off: 0,
        }
    }

    /// Takes a measurement. `now` drives the windowed minimum.
    pub fn on_sample(&mut self, rtt: Duration, now: Instant) {
        let sample = micros(rtt);
        if self.smoothed == 0 {
            // (2.2): SRTT = R, RTTVAR = R / 2.
            self.smoothed = sample * 8;
            self.variation = sample * 2;
        } else {
            // (2.3), as Van Jacobson wrote it: beta = 1/4, alpha = 1/8.
            let error = sample.abs_diff(self.smoothed / 8);
            self.variation = self.variation - self.variation / 4 + error;
            self.smoothed = (self.smoothed - self.smoothed / 8 + sample).max(1);
        }
        let second = (now.as_nanos() / 1_000_000_000) as u32;
        let passed = second.wrapping_sub(self.since);
        if passed >= HALF_WINDOW_S || self.least == u32::MAX {
            self.least_before = if passed < 2 * HALF_WINDOW_S {
                self.least
            } else {
                u32::MAX
            };
            self.least = sample;
            self.since = second;
        } else {
            self.least = self.least.min(sample);
        }
    }

    /// The smoothed round-trip time, if one was measured.
    pub fn smoothed(&self) -> Option<Duration> {
        (self.smoothed != 0).then(|| nanos(u64::from(self.smoothed) * 125))
    }

    /// The mean deviation.
    pub fn variation(&self) -> Duration {
        nanos(u64::from(self.variation) * 250)
    }

    /// The smallest of the last minutes (RACK's `min_RTT`).
    pub fn minimum(&self) -> Option<Duration> {
        let least = self.least.min(self.least_before);
        (least != u32::MAX).then(|| nanos(u64::from(least) * 1000))
    }

    /// The timeout with its back-off: 200 ms more than the smoothed time at least (as Linux; RFC 6298 (2.4) says one
    /// second), 60 s at most.
    pub fn timeout(&self) -> Duration {
        let base = if self.smoothed == 0 {
            INITIAL.as_nanos() as u64
        } else {
            u64::from(self.smoothed / 8 + self.variation.max(MINIMUM_US)) * 1000
        };
        nanos((base << self.backed_off.min(10)).min(MAXIMUM.as_nanos() as u64))
    }

    /// The timeout has expired: the next is twice as long.
    pub fn back_off(&mut self) {
        self.backed_off = self.backed_off.saturating_add(1);
    }

    /// An acknowledgement of new data ends the back-off.
    pub fn reset_back_off(&mut self) {
        self.backed_off = 0;
    }

    /// How often it was doubled.
    pub fn backed_off(&self) -> u8 {
        self.backed_off
    }
}

/// Microseconds, at least one: a time of zero means "not measured" elsewhere.
fn micros(time: Duration) -> u32 {
    let seconds = time.as_secs().min(LONGEST_US / 1_000_000);
    (seconds * 1_000_000 + u64::from(time.subsec_micros())).clamp(1, LONGEST_US) as u32
}

fn nanos(nanoseconds: u64) -> Duration {
    Duration::from_nanos(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use std::vec::Vec;

    const MS: u64 = 1_000_000;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000 * MS)
    }

    #[test]
    fn the_first_sample_sets_everything() {
        let mut rtt = Rtt::new();
        assert_eq!(rtt.timeout(), ms(1000));
        assert_eq!((rtt.smoothed(), rtt.minimum()), (None, None));
        rtt.on_sample(ms(100), at(1));
        assert_eq!(rtt.smoothed(), Some(ms(100)));
        assert_eq!(rtt.variation(), ms(50));
        assert_eq!(rtt.minimum(), Some(ms(100)));
        assert_eq!(rtt.timeout(), ms(300));
        rtt.on_sample(ms(200), at(1));
        // 7/8 * 100 + 1/8 * 200, 3/4 * 50 + 1/4 * 100.
        assert_eq!(rtt.smoothed(), Some(Duration::from_micros(112_500)));
        assert_eq!(rtt.variation(), Duration::from_micros(62_500));
    }

    #[test]
    fn the_timeout_doubles_up_to_a_minute() {
        let mut rtt = Rtt::new();
        rtt.on_sample(Duration::from_micros(30), at(1));
        assert_eq!(rtt.timeout(), Duration::from_micros(200_030));
        rtt.back_off();
        assert_eq!(rtt.timeout(), Duration::from_micros(400_060));
        (0..300).for_each(|_| rtt.back_off());
        assert_eq!(rtt.timeout(), MAXIMUM);
        assert_eq!(rtt.backed_off(), u8::MAX);
        rtt.reset_back_off();
        assert_eq!(rtt.timeout(), Duration::from_micros(200_030));
    }

    #[test]
    fn a_minimum_is_forgotten_after_minutes() {
        let mut rtt = Rtt::new();
        rtt.on_sample(ms(10), at(1000));
        rtt.on_sample(ms(20), at(1100));
        assert_eq!(rtt.minimum(), Some(ms(10)));
        rtt.on_sample(ms(20), at(1160));
        assert_eq!(rtt.minimum(), Some(ms(10)));
        rtt.on_sample(ms(20), at(1320));
        assert_eq!(rtt.minimum(), Some(ms(20)));
        rtt.on_sample(ms(90), at(5000));
        assert_eq!(rtt.minimum(), Some(ms(90)));
    }

    proptest! {
        #[test]
        fn any_samples_give_a_sane_timeout(samples: Vec<(u64, u64)>) {
            let mut rtt = Rtt::new();
            for (sample, now) in samples {
                rtt.on_sample(Duration::from_nanos(sample), Instant::from_nanos(now));
                prop_assert!(rtt.timeout() >= ms(200) && rtt.timeout() <= MAXIMUM);
                prop_assert!(rtt.minimum().is_some() && rtt.smoothed().is_some());
            }
            rtt.on_sample(Duration::MAX, Instant::FOREVER);
        }
    }
}
