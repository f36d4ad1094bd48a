//! Sets of addresses, kept as ranges that do not touch.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// A set of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    by_start: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Adds `start..end`.
    pub fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (mut start, mut end) = (start, end);
        if let Some((&before, &until)) = self.by_start.range(..start).next_back()
            && until >= start
        {
            start = before;
            end = end.max(until);
        }
        while let Some((&next, &until)) = self.by_start.range(start..=end).next() {
            end = end.max(until);
            self.by_start.remove(&next);
        }
        self.by_start.insert(start, end);
    }

    /// Takes `start..end` out, and returns what of it was there.
    pub fn remove(&mut self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let there = self.within(start, end);
        for &(from, to) in &there {
            let Some((&first, &last)) = self.by_start.range(..=from).next_back() else {
                continue;
            };
            self.by_start.remove(&first);
            if first < from {
                self.by_start.insert(first, from);
            }
            if to < last {
                self.by_start.insert(to, last);
            }
        }
        there
    }

    /// The parts of `start..end` that are in the set.
    pub fn within(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        if start >= end {
            return Vec::new();
        }
        let before = self.by_start.range(..start).next_back();
        let inside = self.by_start.range(start..end);
        before
            .into_iter()
            .chain(inside)
            .map(|(&from, &to)| (from.max(start), to.min(end)))
            .filter(|(from, to)| from < to)
            .collect()
    }

    /// The parts of `start..end` that are not in the set.
    pub fn missing(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut at = start;
        for (from, to) in self.within(start, end) {
            if at < from {
                gaps.push((at, from));
            }
            at = to;
        }
        if at < end {
            gaps.push((at, end));
        }
        gaps
    }

    /// True if the address is in the set.
    pub fn contains(&self, at: u64) -> bool {
        let before = self.by_start.range(..=at).next_back();
        before.is_some_and(|(_, &end)| at < end)
    }
}

#[cfg(test)]
mod tests {
    use super::Ranges;
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn ranges_that_touch_become_one() {
        let mut set = Ranges::default();
        set.insert(10, 20);
        set.insert(30, 40);
        set.insert(20, 30);
        assert_eq!(set.within(0, 100), vec![(10, 40)]);
        assert!(set.contains(39) && !set.contains(40) && !set.contains(9));
    }

    #[test]
    fn taking_out_the_middle_leaves_both_ends() {
        let mut set = Ranges::default();
        set.insert(10, 40);
        assert_eq!(set.remove(15, 20), vec![(15, 20)]);
        assert_eq!(set.remove(0, 12), vec![(10, 12)]);
        assert_eq!(set.within(0, 100), vec![(12, 15), (20, 40)]);
        assert_eq!(set.missing(10, 45), vec![(10, 12), (15, 20), (40, 45)]);
    }

    #[test]
    fn random_changes_agree_with_a_table_of_bits() {
        let mut set = Ranges::default();
        let mut bits = [false; 64];
        let mut state = 7u64;
        for _ in 0..5000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let (a, b) = ((state >> 33) % 65, (state >> 43) % 65);
            let (start, end) = (a.min(b), a.max(b));
            let add = state >> 62 != 0 && state >> 61 & 1 == 0;
            if add {
                set.insert(start, end);
            } else {
                set.remove(start, end);
            }
            bits[start as usize..end as usize].fill(add);
            let same: Vec<bool> = (0..64).map(|at| set.contains(at)).collect();
            assert_eq!(same, bits);
        }
    }
}
