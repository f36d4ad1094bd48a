//! Sequence numbers.

use core::cmp::Ordering;
use core::ops::{Add, AddAssign, Sub};

/// A TCP sequence number, RFC 9293 section 3.4.
///
/// Numbers wrap, and `<` means "before" for numbers less than 2^31 apart, so comparisons read as in the RFC but are no
/// order: do not sort by them beyond one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seq(pub u32);

impl Seq {
    /// Bytes from `earlier` to `self`; 0 if `self` is the earlier one.
    #[inline]
    pub const fn since(self, earlier: Self) -> u32 {
        let distance = self.0.wrapping_sub(earlier.0);
        if distance >> 31 == 0 { distance } else { 0 }
    }

    /// The later of two.
    #[inline]
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        if self < other { other } else { self }
    }

    /// The earlier of two.
    #[inline]
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        if other < self { other } else { self }
    }
}

impl PartialOrd for Seq {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.0.wrapping_sub(other.0).cast_signed().cmp(&0))
    }
}

impl Add<u32> for Seq {
    type Output = Self;

    #[inline]
    fn add(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl AddAssign<u32> for Seq {
    #[inline]
    fn add_assign(&mut self, bytes: u32) {
        *self = *self + bytes;
    }
}

impl Sub<u32> for Seq {
    type Output = Self;

    #[inline]
    fn sub(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparison_goes_across_the_wrap() {
        let last = Seq(u32::MAX);
        assert!(last < last + 1 && last + 1 == Seq(0));
        assert!(Seq(5) > last && Seq(5) >= Seq(5));
        assert_eq!(Seq(3).since(last), 4);
        assert_eq!(last.since(Seq(3)), 0);
        assert_eq!(last.max(Seq(2)), Seq(2));
        assert_eq!(last.min(Seq(2)), last);
    }
}
