//! CUBIC, RFC 9438, in integers.
//!
//! Windows are bytes, times are ticks of 1/1024 s. `C` is 0.4 segments per second cubed.

use core::time::Duration;

use kiln_abi::Instant;

/// Nanoseconds of a tick.
const TICK: u64 = 1_000_000_000 / 1024;
/// No connection stays longer than two minutes on one curve's rising end: it has long left every window by then.
const LONGEST: u32 = 1 << 17;

/// Ticks since the start of the clock. They wrap after 48 days; only differences are used.
fn ticks(now: Instant) -> u32 {
    (now.as_nanos() / TICK) as u32
}

/// The state of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Cubic {
    /// `W_max`; 0 before the first reduction.
    pub(super) maximum: u32,
    /// `cwnd_prior`.
    prior: u32,
    /// `K`, in ticks.
    k: u32,
    /// When the current stage of congestion avoidance began.
    epoch: u32,
    /// When the last acknowledgement came.
    seen: u32,
    /// `W_est`; 0 if no stage has begun.
    estimate: u32,
    /// What it has not grown by yet, in parts of a byte: so many by the window.
    estimate_credit: u32,
}

impl Cubic {
    /// The window was reduced from `window`. Gives the new threshold (section 4.6).
    pub(super) fn reduced(&mut self, window: u32) -> u32 {
        // Fast convergence, section 4.7: a window that did not get back to the last one gives way to others.
        self.maximum = if window < self.maximum {
            share(window, 17, 20)
        } else {
            window
        };
        self.prior = window;
        self.estimate = 0;
        share(window, 7, 10)
    }

    /// The curve starts anew at the window that congestion avoidance begins with: `K` is 0 (section 4.8).
    pub(super) fn forget(&mut self) {
        self.maximum = 0;
        self.estimate = 0;
    }

    /// The next acknowledgement begins a stage.
    pub(super) fn restart(&mut self) {
        self.estimate = 0;
    }

    /// Time that passes while the program sends less than it may is no time of the curve, section 5.8.
    pub(super) fn pause(&mut self, now: Instant) {
        let now = ticks(now);
        self.epoch = self.epoch.wrapping_add(now.wrapping_sub(self.seen));
        self.seen = now;
    }

    /// By how much the window grows for `bytes` acknowledged in congestion avoidance.
    pub(super) fn growth(
        &mut self,
        credit: &mut u32,
        bytes: u32,
        window: u32,
        mss: u32,
        rtt: Duration,
        now: Instant,
    ) -> u32 {
        let now = ticks(now);
        self.seen = now;
        if self.estimate == 0 {
            self.begin(window, mss, now);
        }
        let elapsed = now.wrapping_sub(self.epoch).min(LONGEST);
        self.grow_estimate(bytes, window, mss);
        if self.at(elapsed, mss) < self.estimate {
            // The Reno-friendly region, section 4.3.
            return self.estimate.saturating_sub(window);
        }
        let rtt = (rtt.as_secs().min(100) * 1024) as u32 + rtt.subsec_nanos() / TICK as u32;
        // Sections 4.4 and 4.5.
        let target = self
            .at(elapsed + rtt, mss)
            .clamp(window, window.saturating_add(window / 2));
        let earned = u64::from(bytes.min(window)) * u64::from(target - window) + u64::from(*credit);
        *credit = (earned % u64::from(window)) as u32;
        (earned / u64::from(window)) as u32
    }

    fn begin(&mut self, window: u32, mss: u32, now: u32) {
        self.epoch = now;
        self.estimate = window;
        self.estimate_credit = 0;
        if self.maximum <= window {
            self.maximum = window;
            self.k = 0;
        } else {
            // K^3 = (W_max - cwnd_epoch) / C, in ticks cubed.
            let cubed = (u64::from(self.maximum - window) * 5) << 29;
            self.k = cube_root(cubed / u64::from(mss.max(1)));
        }
    }

    /// `W_est`, section 4.3: alpha is 9/17, and 1 from where the last reduction happened. It grows with each acknowledgement:
    /// where losses are frequent a stage ends before a whole segment has been earned, and what was earned would be lost.
    fn grow_estimate(&mut self, bytes: u32, window: u32, mss: u32) {
        let mut earned = u64::from(bytes.min(window)) * u64::from(mss);
        if self.estimate < self.prior {
            earned = earned * 9 / 17;
        }
        earned += u64::from(self.estimate_credit);
        self.estimate_credit = (earned % u64::from(window)) as u32;
        let grown = (earned / u64::from(window)) as u32;
        self.estimate = self.estimate.saturating_add(grown);
    }

    /// `W_cubic(t)`, section 4.2.
    fn at(&self, elapsed: u32, mss: u32) -> u32 {
        let distance = u64::from(elapsed.abs_diff(self.k).min(LONGEST));
        // In 1024ths of a second cubed, so nothing overflows: 2^31 at most.
        let cubed = (((distance * distance) >> 10) * distance) >> 10;
        // 0.4 is 410 / 1024 with an error of one in a thousand.
        let bytes = ((cubed * u64::from(mss) * 410) >> 20).min(u64::from(u32::MAX >> 1)) as u32;
        if elapsed < self.k {
            self.maximum.saturating_sub(bytes)
        } else {
            self.maximum.saturating_add(bytes)
        }
    }
}

/// `value * numerator / denominator`.
fn share(value: u32, numerator: u32, denominator: u32) -> u32 {
    (u64::from(value) * u64::from(numerator) / u64::from(denominator)) as u32
}

/// The integer cube root, rounded down, digit by digit: it runs once in each stage.
fn cube_root(mut value: u64) -> u32 {
    let mut root = 0u64;
    let mut shift = 63;
    loop {
        root *= 2;
        let step = 3 * root * (root + 1) + 1;
        if value >> shift >= step {
            value -= step << shift;
            root += 1;
        }
        if shift == 0 {
            return root as u32;
        }
        shift -= 3;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cube_roots_are_exact(value: u64) {
            let root = u128::from(cube_root(value));
            prop_assert!(root.pow(3) <= u128::from(value) && (root + 1).pow(3) > u128::from(value));
        }
    }

    /// W follows the function of section 4.2, here computed as it stands there.
    #[test]
    #[allow(clippy::cast_sign_loss, reason = "times and windows are positive")]
    fn the_window_follows_the_function() {
        const MSS: f64 = 1448.0;
        for (segments, rtt_ms) in [
            (100.0, 100.0),
            (1000.0, 50.0),
            (50.0, 200.0),
            (5000.0, 20.0),
        ] {
            let mut cubic = Cubic::default();
            let maximum = segments * MSS;
            let mut window = cubic.reduced(maximum as u32);
            assert!((f64::from(window) - 0.7 * maximum).abs() < 1.0);
            let k = (maximum * 0.3 / MSS / 0.4).cbrt();
            let (mut credit, mut elapsed) = (0, 0.0);
            let start = f64::from(window) / MSS;
            let mut estimate = start;
            let rtt = Duration::from_millis(rtt_ms as u64);
            while elapsed < 2.0 * k {
                let now = Instant::from_nanos(7_000_000_000 + (elapsed * 1e9) as u64);
                let expected = 0.4 * (elapsed - k).powi(3) + segments;
                let expected = expected.max(start).max(estimate);
                let is = f64::from(window) / MSS;
                // Growth lags one round trip behind at most; W_est is a lower bound.
                let before = 0.4 * (elapsed - rtt.as_secs_f64() - k).powi(3) + segments;
                assert!(
                    is < expected * 1.02 + 3.0 && is > before.max(start) * 0.98 - 3.0,
                    "{segments} {elapsed}: {is} instead of {expected}"
                );
                let mut acked = 0;
                let flight = window;
                while acked < flight {
                    window += cubic.growth(&mut credit, 2896, window, 1448, rtt, now);
                    acked += 2896;
                    let alpha = if estimate < segments { 9.0 / 17.0 } else { 1.0 };
                    estimate += alpha * 2.0 / (f64::from(window) / MSS);
                }
                elapsed += rtt.as_secs_f64();
            }
        }
    }

    /// Nine seventeenths of a segment in a round trip: after half a round trip, half of that.
    #[test]
    fn the_reno_friendly_window_grows_with_each_acknowledgement() {
        let mut cubic = Cubic::default();
        let mut window = cubic.reduced(10_000);
        let (start, mut credit) = (window, 0);
        let (rtt, now) = (Duration::from_millis(20), Instant::from_nanos(1 << 33));
        for _ in 0..7 {
            window += cubic.growth(&mut credit, 500, window, 1000, rtt, now);
        }
        assert!((255..=265).contains(&(window - start)), "{window}");
    }

    #[test]
    fn a_shrinking_window_gives_way() {
        let mut cubic = Cubic::default();
        assert_eq!(cubic.reduced(100_000), 70_000);
        assert_eq!(cubic.maximum, 100_000);
        assert_eq!(cubic.reduced(90_000), 63_000);
        assert_eq!(cubic.maximum, 76_500);
    }
}
