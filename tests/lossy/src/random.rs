//! The same numbers from the same seed (splitmix64).

/// A generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`, or zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.bits() % limit }
    }

    /// True with a probability.
    pub fn happens(&mut self, probability: f64) -> bool {
        // One draw whatever the probability, so that changing one leaves the others' draws alone.
        #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
        let drawn = (self.bits() >> 11) as f64 / (1u64 << 53) as f64;
        drawn < probability
    }
}
