//! Instants on the monitor's monotonic clock.
//!
//! The clock starts at an arbitrary point, never runs backwards and does not jump when somebody sets the wall clock.
//! It is what Linux calls `CLOCK_MONOTONIC`.

use core::ops::{Add, Sub};
use core::time::Duration;

/// A point on the monotonic clock, in nanoseconds since an arbitrary point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Instant(u64);

impl Instant {
    /// The start of the clock; as a deadline it means "do not wait".
    pub const ZERO: Self = Self(0);
    /// Later than every other instant; as a deadline it means "wait without limit".
    pub const FOREVER: Self = Self(u64::MAX);

    /// The instant `nanoseconds` after the start of the clock.
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the start of the clock.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero when `earlier` is the later one.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at [`Instant::FOREVER`].
    fn add(self, rhs: Duration) -> Self {
        // Not `as_nanos`: numbers of 128 bits take more code wherever this is used.
        let seconds = rhs.as_secs().saturating_mul(1_000_000_000);
        let nanos = seconds.saturating_add(u64::from(rhs.subsec_nanos()));
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// As [`Instant::since`].
    fn sub(self, rhs: Self) -> Duration {
        self.since(rhs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(
            Instant::from_nanos(5) - Instant::from_nanos(9),
            Duration::ZERO
        );
        assert_eq!(Instant::from_nanos(5) + Duration::MAX, Instant::FOREVER);
        assert_eq!(
            (Instant::from_nanos(5) + Duration::from_nanos(7)).as_nanos(),
            12
        );
    }
}
