//! What is present of files that are made present piece by piece.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;

use super::ranges::Ranges;

/// Keeps memory of a file system where it is.
pub type Hold = Rc<dyn Any>;

/// A range that is present, and what keeps its memory.
pub type Piece = (u64, u64, Hold);

/// Ranges that are present, and what keeps their memory where it is.
#[derive(Default)]
pub struct Present {
    ranges: Ranges,
    holds: BTreeMap<u64, (u64, Hold)>,
}

impl core::fmt::Debug for Present {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Present({:?})", self.ranges)
    }
}

impl Present {
    /// `start..end` is present.
    pub fn insert(&mut self, start: u64, end: u64) {
        self.ranges.insert(start, end);
    }

    /// `start..end`, which was not, is present as long as `hold` is kept.
    pub fn insert_held(&mut self, start: u64, end: u64, hold: Hold) {
        self.ranges.insert(start, end);
        self.holds.insert(start, (end, hold));
    }

    /// `start..end` is not present any more. Returns the ranges that were, and what kept their memory: it may be dropped when nothing is borrowed.
    pub fn remove(&mut self, start: u64, end: u64) -> (Vec<(u64, u64)>, Vec<Piece>) {
        let ranges = self.ranges.remove(start, end);
        let before = self.holds.range(..start).next_back();
        let inside = self.holds.range(start..end.max(start));
        let keys: Vec<u64> = before
            .into_iter()
            .chain(inside)
            .filter(|(_, (until, _))| *until > start)
            .map(|(&key, _)| key)
            .collect();
        let mut pieces = Vec::new();
        for key in keys {
            let Some((until, hold)) = self.holds.remove(&key) else {
                continue;
            };
            if key < start {
                self.holds.insert(key, (start, hold.clone()));
            }
            if until > end {
                self.holds.insert(end, (until, hold.clone()));
            }
            pieces.push((key.max(start), until.min(end), hold));
        }
        (ranges, pieces)
    }

    /// What is present of `start..end` is at `to` from now on.
    pub fn shift(&mut self, start: u64, end: u64, to: u64) {
        let moved = |at: u64| at.wrapping_sub(start).wrapping_add(to);
        let (ranges, pieces) = self.remove(start, end);
        for (from, until) in ranges {
            self.ranges.insert(moved(from), moved(until));
        }
        for (from, until, hold) in pieces {
            self.holds.insert(moved(from), (moved(until), hold));
        }
    }

    /// The parts of `start..end` that are present.
    pub fn within(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        self.ranges.within(start, end)
    }

    /// The parts of `start..end` that are not.
    pub fn missing(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        self.ranges.missing(start, end)
    }

    /// True if an address is present.
    pub fn contains(&self, at: u64) -> bool {
        self.ranges.contains(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn memory_is_kept_until_its_last_part_has_gone() {
        let hold: Hold = Rc::new(1);
        let mut present = Present::default();
        present.insert_held(0x1000, 0x5000, hold.clone());
        let (ranges, pieces) = present.remove(0x2000, 0x3000);
        assert_eq!(ranges, vec![(0x2000, 0x3000)]);
        assert_eq!(pieces.len(), 1);
        drop(pieces);
        assert_eq!(Rc::strong_count(&hold), 3);
        present.shift(0x3000, 0x5000, 0x9000);
        assert_eq!(
            present.within(0, u64::MAX),
            vec![(0x1000, 0x2000), (0x9000, 0xb000)]
        );
        present.remove(0x9000, 0xb000);
        present.remove(0, 0x2000);
        assert_eq!(Rc::strong_count(&hold), 1);
    }
}
