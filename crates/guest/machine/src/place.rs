//! Where in the guest's address space things go: a pure function of their sizes and of chance.
//!
//! The image, the stacks with the boot record, and free memory go to different regions of 512 GiB, each chosen at random and
//! each thing at a random page in its own (free memory at a random large page). The first region stays to the machine part.

use crate::entropy::Pool;
use crate::paging::{LARGE_PAGE, PAGE};
#[cfg(feature = "program")]
use crate::reach::FIRST_REGION;
#[cfg(feature = "program")]
use kiln_abi::user::USER_END;

/// Bytes that one table of the highest level spans.
const REGION: u64 = 1 << 39;
/// Regions that are given away: all of ring 3's besides the first and the last, or with a program those above the program's own and
/// below those of [`reach`](crate::reach). They are divided into [`PARTS`].
#[cfg(not(feature = "program"))]
const REGIONS: core::ops::Range<u64> = 1..253;
/// The same.
#[cfg(feature = "program")]
const REGIONS: core::ops::Range<u64> = USER_END / REGION..FIRST_REGION;
const PARTS: u64 = if cfg!(feature = "program") { 4 } else { 3 };
/// Regions of each part.
const EACH: u64 = (REGIONS.end - REGIONS.start) / PARTS;
/// Between two neighbours lie 1 to so many pages that fault.
const MOST_GUARDS: u64 = 256;

/// Addresses of the guest's ranges, in an order of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// The image.
    pub image: u64,
    /// Boot record, trap stack, stack.
    pub others: [u64; 3],
    /// Where the first piece of free memory would be if its physical address were 0.
    pub free: u64,
    /// The same for the root image.
    #[cfg(feature = "program")]
    pub root: u64,
}

/// Chooses addresses for an image of `image` bytes, for three other things, and for memory of physical addresses below
/// `memory_end`. Sizes are multiples of the page size, and far below 512 GiB.
pub fn choose(pool: &mut Pool, image: u64, others: [u64; 3], memory_end: u64) -> Places {
    let turn = pool.below(PARTS);
    let region = |pool: &mut Pool, which: u64| {
        let part = (which + turn) % PARTS;
        (REGIONS.start + part * EACH + pool.below(EACH)) * REGION
    };
    // Room at both ends, so that guard pages never reach into a neighbour's region.
    let within = |pool: &mut Pool, size: u64, unit: u64| {
        let room = REGION.saturating_sub(size).saturating_sub(4 * LARGE_PAGE);
        LARGE_PAGE + pool.below(room / unit) * unit
    };
    let image_at = region(pool, 0) + within(pool, image, PAGE);
    let all = others.iter().sum::<u64>() + 3 * MOST_GUARDS * PAGE;
    let mut next = region(pool, 1) + within(pool, all, PAGE);
    let others = others.map(|size| {
        let at = next;
        next += size + (1 + pool.below(MOST_GUARDS)) * PAGE;
        at
    });
    Places {
        image: image_at,
        others,
        free: region(pool, 2) + within(pool, memory_end, LARGE_PAGE),
        #[cfg(feature = "program")]
        root: region(pool, 3) + within(pool, memory_end, LARGE_PAGE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overlaps_and_everything_is_in_reach_of_ring_3() {
        let mut pool = Pool::EMPTY;
        for round in 0..2000 {
            pool.add(round);
            let (image, others, memory) = (0x12_3000, [0x1000, 0x8000, 0x40_0000], 65 << 30);
            let places = choose(&mut pool, image, others, memory);
            let mut ranges = std::vec![(places.image, image), (places.free, memory)];
            #[cfg(feature = "program")]
            ranges.push((places.root, memory));
            ranges.extend(places.others.into_iter().zip(others));
            ranges.sort_unstable();
            for pair in ranges.windows(2) {
                assert!(pair[0].0 + pair[0].1 + PAGE <= pair[1].0, "{ranges:x?}");
            }
            assert!(
                ranges[0].0 > REGION
                    && ranges
                        .iter()
                        .all(|r| r.0 % PAGE == 0 && r.0 + r.1 < 1 << 47)
            );
            assert!(places.free.is_multiple_of(LARGE_PAGE));
            #[cfg(feature = "program")]
            assert!(
                ranges[0].0 >= USER_END && ranges.iter().all(|r| r.0 + r.1 < FIRST_REGION * REGION)
            );
        }
    }
}
