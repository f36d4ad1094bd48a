//! Guard words and random slots, both from the secret given at start.
//!
//! Neither is cryptography. An attacker who can read heap memory can read guard words; the secret
//! keeps one who can only write from forging them, and slot positions from being the same in any
//! two runs.

/// The per-boot secret and the state of the slot generator.
pub struct Secret {
    mask: u64,
    factor: u64,
    state: u64,
}

impl Secret {
    /// The secret before the heap has one.
    pub const EMPTY: Self = Self {
        mask: 0,
        factor: 1,
        state: 0,
    };

    /// Splits 16 random bytes.
    pub fn new(secret: [u8; 16]) -> Self {
        let whole = u128::from_le_bytes(secret);
        let (mask, factor) = (whole as u64, (whole >> 64) as u64 | 1);
        Self {
            mask,
            factor,
            state: fold(mask, factor),
        }
    }

    /// The guard word for an object that ends at `end`.
    #[inline]
    pub fn guard(&self, end: usize) -> u64 {
        // The low byte comes first in memory. It is never zero, so that the commonest overflow of
        // all, one terminating zero, always shows.
        fold(end as u64 ^ self.mask, self.factor) | 1
    }

    /// The next random number.
    #[inline]
    pub fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        fold(self.state, self.factor)
    }
}

/// Both halves of the product, combined.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_depend_on_secret_and_address() {
        let (one, two) = (Secret::new([0x5a; 16]), Secret::new([0xa5; 16]));
        assert_ne!(one.guard(0x1000), two.guard(0x1000));
        assert_ne!(one.guard(0x1000), one.guard(0x1008));
        assert_ne!(one.guard(0x1000) as u8, 0);
    }
}
