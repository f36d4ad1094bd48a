//! Randomness for addresses, for the guest's generator, and for the operation that asks for more.
//!
//! A pool of 64 bytes, stirred by the permutation of `ChaCha20` (RFC 8439, section 2.3). Sources are mixed in as they are
//! found: a virtio source of random numbers, the processor's `rdrand`, and time stamps of the start. What comes out is
//! the permuted pool with the pool added, which cannot be computed backwards, and the pool moves on with every output.
//! Without the first two sources it is as good as the jitter of some dozens of time stamps on a virtual machine: better
//! than nothing, not enough for keys. Give machines a virtio-rng device, or a processor with `rdrand`.

/// The pool.
#[derive(Clone, Debug)]
pub struct Pool {
    words: [u32; 16],
}

impl Pool {
    /// An empty pool.
    pub const EMPTY: Self = Self { words: [0; 16] };

    /// Mixes a number in.
    pub fn add(&mut self, value: u64) {
        let [first, second, ..] = &mut self.words;
        *first ^= value as u32;
        *second ^= (value >> 32) as u32;
        self.words = permute(&self.words, 4);
    }

    /// Mixes bytes in.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(piece) {
                *to = *from;
            }
            self.add(u64::from_le_bytes(word));
        }
    }

    /// The next 64 bytes.
    pub fn block(&mut self) -> [u8; 64] {
        let stirred = permute(&self.words, 10);
        let mut block = [0; 64];
        for (to, (a, b)) in block
            .chunks_exact_mut(4)
            .zip(stirred.iter().zip(&self.words))
        {
            for (to, from) in to.iter_mut().zip(a.wrapping_add(*b).to_le_bytes()) {
                *to = from;
            }
        }
        // Another permutation than that of the output.
        let [.., last] = &mut self.words;
        *last = last.wrapping_add(0x9e37_79b9);
        self.words = permute(&self.words, 10);
        block
    }

    /// A number below `limit`, which is far below 2^64; 0 if that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        let block = self.block();
        let number = block.first_chunk().map_or(0, |w| u64::from_le_bytes(*w));
        ((u128::from(number) * u128::from(limit)) >> 64) as u64
    }
}

/// The double rounds of `ChaCha20`.
fn permute(words: &[u32; 16], rounds: u32) -> [u32; 16] {
    /// The quarter rounds of a double round, four positions each.
    const ORDER: [[u8; 4]; 8] = [
        [0, 4, 8, 12],
        [1, 5, 9, 13],
        [2, 6, 10, 14],
        [3, 7, 11, 15],
        [0, 5, 10, 15],
        [1, 6, 11, 12],
        [2, 7, 8, 13],
        [3, 4, 9, 14],
    ];
    let mut x = *words;
    for _ in 0..rounds {
        for [a, b, c, d] in ORDER {
            for (a, b, d, turn) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
                let [a, b, d] = [a, b, d].map(usize::from);
                x[a & 15] = x[a & 15].wrapping_add(x[b & 15]);
                x[d & 15] = (x[d & 15] ^ x[a & 15]).rotate_left(turn);
            }
        }
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8439, section 2.3.2.
    #[test]
    fn the_permutation_is_chachas() {
        let mut words = [
            0x6170_7865,
            0x3320_646e,
            0x7962_2d32,
            0x6b20_6574,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            1,
            0x0900_0000,
            0x4a00_0000,
            0,
        ];
        for (index, word) in (0u32..8).zip(&mut words[4..12]) {
            let first = index * 4;
            *word = u32::from_le_bytes([first, first + 1, first + 2, first + 3].map(|b| b as u8));
        }
        let result = permute(&words, 10);
        assert_eq!(
            result[..4],
            [0x8377_78ab, 0xe238_d763, 0xa67a_e21e, 0x5950_bb2f]
        );
        assert_eq!(result[0].wrapping_add(words[0]), 0xe4e7_f110);
    }

    #[test]
    fn every_source_changes_everything_that_comes_out() {
        let mut first = Pool::EMPTY;
        first.add(1);
        let mut second = Pool::EMPTY;
        second.add_bytes(&[1]);
        assert_eq!(first.block(), second.block());
        assert_ne!(first.block(), first.block());
        second.add_bytes(b"123456789");
        let (a, b) = (first.block(), second.block());
        assert!(a.iter().zip(b).filter(|(a, b)| **a == *b).count() < 8);
        assert!((0..1000).all(|_| first.below(17) < 17));
        assert_eq!(first.below(0), 0);
    }
}
