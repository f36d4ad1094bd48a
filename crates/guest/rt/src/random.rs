//! Random numbers: `ChaCha12`, seeded by the host at boot, reseeded by it while running.
//!
//! Fit for keys and nonces. A fresh seed of the host is mixed in after each [`RESEED_BYTES`] and [`RESEED_SECONDS`],
//! so that a leaked state is worth little for long.

use core::time::Duration;

use kiln_abi::Instant;
use kiln_abi::op::{Op, Segment};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::sync::Lock;
use crate::{monitor, time};

/// Output after which the host is asked again, in bytes.
pub const RESEED_BYTES: u64 = 1 << 20;
/// Age of the seed after which the host is asked again.
pub const RESEED_SECONDS: u64 = 300;

struct Generator {
    chacha: ChaCha12Rng,
    left: u64,
    seeded: Instant,
}

static GENERATOR: Lock<Option<Generator>> = Lock::new(None);

/// Seeds the generator with the host's boot entropy.
#[cfg_attr(not(kiln_guest), allow(dead_code))]
pub(crate) fn install(entropy: &[u8; 64]) {
    let mut seed = [0; 32];
    seed.copy_from_slice(&entropy[..32]);
    let generator = Generator {
        chacha: ChaCha12Rng::from_seed(seed),
        left: RESEED_BYTES,
        seeded: time::cached(),
    };
    GENERATOR.with(|slot| *slot = Some(generator));
}

/// Fills `bytes` with random numbers. Does not block.
///
/// # Panics
/// If the host has no random numbers, or outside of a running guest.
pub fn fill(bytes: &mut [u8]) {
    GENERATOR.with(|slot| {
        let generator = slot.as_mut().expect("not in a guest");
        let old = time::cached() - generator.seeded > Duration::from_secs(RESEED_SECONDS);
        if old || generator.left < bytes.len() as u64 {
            generator.reseed();
        }
        generator.left = generator.left.saturating_sub(bytes.len() as u64);
        generator.chacha.fill_bytes(bytes);
    });
}

/// A random number.
pub fn u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

impl Generator {
    /// The new seed is the old generator's output mixed with the host's numbers: never worse than either.
    fn reseed(&mut self) {
        let mut fresh = [0u8; 32];
        let buffer = Segment {
            addr: fresh.as_mut_ptr() as u64,
            len: fresh.len() as u64,
        };
        let mut op = [Op::Random { buffer }.encode()];
        monitor::perform(&mut op);
        assert!(op[0].outcome().is_ok(), "no random numbers from the host");
        let mut seed = [0u8; 32];
        self.chacha.fill_bytes(&mut seed);
        for (mixed, byte) in seed.iter_mut().zip(fresh) {
            *mixed ^= byte;
        }
        self.chacha = ChaCha12Rng::from_seed(seed);
        self.left = RESEED_BYTES;
        self.seeded = time::cached();
    }
}
