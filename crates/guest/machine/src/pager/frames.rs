//! The pages that the program's memory is made of: a pool of physical memory.
//!
//! Frames that were never given out are known by where they lie, those that were given back form a list through their
//! first words. So the pool needs no memory of its own.

use super::Ground;
use crate::firmware::Region;
use crate::memory::MAX_FREE;
use crate::paging::PAGE;

/// The pool.
#[derive(Clone, Copy, Debug)]
pub struct Frames {
    fresh: [Region; MAX_FREE],
    /// The first of those that were given back, 0 if there is none.
    returned: u64,
    /// How many can be had.
    left: u64,
    /// What may not hold zeroes.
    dirty: Region,
}

impl Frames {
    /// All pages of `regions`, of which those in `dirty` may hold anything, and the others zeroes.
    pub fn new(regions: [Region; MAX_FREE], dirty: Region) -> Self {
        let left = regions.iter().map(|r| (r.end - r.start) / PAGE).sum();
        Self {
            fresh: regions,
            returned: 0,
            left,
            dirty,
        }
    }

    /// How many can be had.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// A frame of zeroes.
    pub fn take(&mut self, ground: &mut impl Ground) -> Option<u64> {
        let (frame, clean) = self.take_any(ground)?;
        if !clean {
            ground.clear(frame);
        }
        Some(frame)
    }

    /// A frame that holds anything, and whether that is zeroes.
    pub fn take_any(&mut self, ground: &mut impl Ground) -> Option<(u64, bool)> {
        let frame = self.returned;
        if frame != 0 {
            self.returned = ground.load(frame);
            self.left -= 1;
            return Some((frame, false));
        }
        let region = self.fresh.iter_mut().find(|r| r.end > r.start)?;
        let frame = region.start;
        region.start += PAGE;
        self.left -= 1;
        Some((frame, !(self.dirty.start..self.dirty.end).contains(&frame)))
    }

    /// Takes a frame back.
    pub fn give(&mut self, ground: &mut impl Ground, frame: u64) {
        ground.store(frame, self.returned);
        self.returned = frame;
        self.left += 1;
    }
}
