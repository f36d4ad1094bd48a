//! Unpredictable numbers: ports, sequence number seeds, DNS identifiers.
//!
//! `ChaCha20` (RFC 8439 section 2.3) as a counter-mode generator, keyed once with the seed from the configuration. Who
//! sees some outputs cannot tell others, which is what RFC 6056 (ports) and RFC 5452 (DNS) ask for. It is not
//! meant for keys: it does not reseed and keeps no secret from somebody who can read the guest's memory.

/// A keyed generator.
pub(crate) struct Random {
    key: [u32; 8],
    counter: u64,
    block: [u32; 16],
    used: usize,
}

impl Random {
    /// A generator whose outputs are determined by `seed`.
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let mut key = [0; 8];
        for (word, bytes) in key.iter_mut().zip(seed.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Self {
            key,
            counter: 0,
            block: [0; 16],
            used: 16,
        }
    }

    /// 32 random bits.
    pub(crate) fn next_u32(&mut self) -> u32 {
        if self.used == self.block.len() {
            self.block = chacha20_block(&self.key, self.counter);
            self.counter = self.counter.wrapping_add(1);
            self.used = 0;
        }
        let word = self.block[self.used];
        self.used += 1;
        word
    }

    /// 64 random bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) << 32 | u64::from(self.next_u32())
    }

    /// 16 random bits.
    pub(crate) fn next_u16(&mut self) -> u16 {
        self.next_u32() as u16
    }

    /// A number below `bound`, which is not 0. The bias is below 2^-16 for the bounds used here (numbers of ports).
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.next_u32()) * u64::from(bound)) >> 32) as u32
    }
}

/// RFC 8439 section 2.3.1, with a 64-bit counter and a zero nonce.
fn chacha20_block(key: &[u32; 8], counter: u64) -> [u32; 16] {
    let mut initial = [0u32; 16];
    initial[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
    initial[4..12].copy_from_slice(key);
    initial[12] = counter as u32;
    initial[13] = (counter >> 32) as u32;
    let mut state = initial;
    for _ in 0..10 {
        for [a, b, c, d] in [
            [0, 4, 8, 12],
            [1, 5, 9, 13],
            [2, 6, 10, 14],
            [3, 7, 11, 15],
            [0, 5, 10, 15],
            [1, 6, 11, 12],
            [2, 7, 8, 13],
            [3, 4, 9, 14],
        ] {
            quarter_round(&mut state, a, b, c, d);
        }
    }
    for (word, start) in state.iter_mut().zip(initial) {
        *word = word.wrapping_add(start);
    }
    state
}

#[allow(clippy::many_single_char_names, reason = "the names of RFC 8439")]
fn quarter_round(state: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    for (x, y, z, bits) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
        state[x] = state[x].wrapping_add(state[y]);
        state[z] = (state[z] ^ state[x]).rotate_left(bits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_block_of_the_zero_key_is_the_published_one() {
        // RFC 8439 appendix A.1, test vector 1.
        let block = chacha20_block(&[0; 8], 0);
        assert_eq!(block[0], 0xade0_b876);
        assert_eq!(block[15], 0x8665_eeb2);
    }

    #[test]
    fn numbers_stay_below_their_bound_and_differ() {
        let mut random = Random::new([7; 32]);
        let numbers: std::vec::Vec<u32> = (0..1000).map(|_| random.below(100)).collect();
        assert!(numbers.iter().all(|&n| n < 100));
        assert!((0..100).filter(|n| numbers.contains(n)).count() > 90);
    }
}
