//! All areas of an address space, by address, and the search for free ranges among them.
//!
//! Free ranges are searched from the top down. So that a program with tens of thousands of areas does not walk past all of them for each new one,
//! the search remembers where the last one ended and how large the largest hole is that it has walked past.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::area::{Area, AreaFlags};
use crate::platform::Access;
use crate::user::{PAGE, USER_START};

/// What is kept free below an area that grows down (`stack_guard_gap`).
pub const STACK_GUARD: u64 = 256 * PAGE;

/// Sums over all areas, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Everything: `VmSize`, what `RLIMIT_AS` limits.
    pub size: u64,
    /// Private and writable: `VmData`, what `RLIMIT_DATA` limits.
    pub data: u64,
    /// Executable: `VmExe` and `VmLib`.
    pub text: u64,
    /// Of stacks: `VmStk`.
    pub stack: u64,
    /// Locked: `VmLck`, what `RLIMIT_MEMLOCK` limits.
    pub locked: u64,
    /// Of files whose pages several mappings can share, mapped so.
    pub shared: u64,
    /// What the program may use at all: an upper bound of what is resident.
    pub usable: u64,
}

/// Areas by address.
#[derive(Debug, Default)]
pub struct Areas {
    by_start: BTreeMap<u64, Area>,
    totals: Totals,
    top: u64,
    search_from: u64,
    largest_skipped: u64,
}

impl Areas {
    /// No areas; searches start below `top`.
    pub fn new(top: u64) -> Self {
        Self {
            top,
            search_from: top,
            ..Self::default()
        }
    }

    /// Lets searches start below `top`.
    pub fn set_top(&mut self, top: u64) {
        self.top = top;
        self.search_from = top;
        self.largest_skipped = 0;
    }

    /// Sums over all areas.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_start.len()
    }

    /// The area that holds an address.
    pub fn find(&self, at: u64) -> Option<&Area> {
        let (_, area) = self.by_start.range(..=at).next_back()?;
        (at < area.end).then_some(area)
    }

    /// The last area that ends at `at` or before.
    pub fn before(&self, at: u64) -> Option<&Area> {
        let (_, area) = self.by_start.range(..at).next_back()?;
        (area.end <= at).then_some(area)
    }

    /// The first area that starts at `at` or behind.
    pub fn after(&self, at: u64) -> Option<&Area> {
        self.by_start.range(at..).next().map(|(_, area)| area)
    }

    /// All areas.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Area> {
        self.by_start.values()
    }

    /// Those that have a part in `start..end`.
    pub fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = &Area> {
        let first = self.find(start).map_or(start, |area| area.start);
        self.by_start
            .range(first..end.max(first))
            .map(|(_, area)| area)
    }

    /// True if nothing lies in `start..end`.
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        self.overlapping(start, end).next().is_none()
    }

    /// True if there is no hole in `start..end`.
    pub fn is_covered(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        for area in self.overlapping(start, end) {
            if area.start > at || !area.is_program() {
                return false;
            }
            at = area.end;
        }
        at >= end
    }

    /// Adds an area where none is; it becomes one with its neighbours if they are alike.
    pub fn insert(&mut self, mut area: Area) {
        self.count_area(&area, true);
        if let Some((&start, before)) = self.by_start.range(..area.start).next_back()
            && before.continues_in(&area)
        {
            area.offset = before.offset;
            area.start = start;
            self.by_start.remove(&start);
        }
        if let Some(next) = self.by_start.get(&area.end)
            && area.continues_in(next)
        {
            let (old, end) = (next.start, next.end);
            self.by_start.remove(&old);
            area.end = end;
        }
        self.by_start.insert(area.start, area);
    }

    /// Takes out what lies in `start..end`, cutting areas at its ends. What is reserved stays.
    pub fn take(&mut self, start: u64, end: u64) -> Vec<Area> {
        let mut taken = Vec::new();
        self.cut(start);
        self.cut(end);
        let starts: Vec<u64> = self
            .by_start
            .range(start..end.max(start))
            .filter(|(_, area)| area.is_program())
            .map(|(&start, _)| start)
            .collect();
        for start in starts {
            if let Some(area) = self.by_start.remove(&start) {
                self.count_area(&area, false);
                taken.push(area);
            }
        }
        if !taken.is_empty() {
            self.note_hole(start, end);
        }
        taken
    }

    /// Takes out everything.
    pub fn take_all(&mut self) -> Vec<Area> {
        let all = core::mem::take(&mut self.by_start);
        self.totals = Totals::default();
        self.search_from = self.top;
        self.largest_skipped = 0;
        all.into_values().collect()
    }

    /// Makes `at` a border between areas.
    fn cut(&mut self, at: u64) {
        if let Some((_, area)) = self.by_start.range_mut(..at).next_back()
            && area.end > at
            && area.is_program()
        {
            let rest = area.split_off(at);
            self.by_start.insert(at, rest);
        }
    }

    /// Remembers a hole that a search would have to know of. One that reaches down to where the next search begins is searched first: what is taken may be
    /// put back at once, with another access, and must not let the search begin from the top.
    fn note_hole(&mut self, start: u64, end: u64) {
        if end > self.search_from {
            let low = self.before(start).map_or(USER_START, |area| area.end);
            let high = self.after(end).map_or(self.top, |area| area.start);
            let high = high.min(self.top);
            if low <= self.search_from {
                self.search_from = self.search_from.max(high);
            } else {
                self.largest_skipped = self.largest_skipped.max(high.saturating_sub(low));
            }
        }
    }

    /// A free range of `len` bytes, below the top, its start a multiple of `align`.
    pub fn search(&mut self, len: u64, align: u64) -> Option<u64> {
        let padded = len.checked_add(align - PAGE)?;
        if padded <= self.largest_skipped {
            self.search_from = self.top;
            self.largest_skipped = 0;
        }
        let (mut found, skipped) = self.walk(self.search_from, USER_START, len, align);
        self.largest_skipped = self.largest_skipped.max(skipped);
        if found.is_none() && self.search_from != self.top {
            self.largest_skipped = 0;
            let (again, skipped) = self.walk(self.top, USER_START, len, align);
            found = again;
            self.largest_skipped = skipped;
        }
        if let Some(at) = found {
            self.search_from = at;
        }
        found
    }

    /// As [`search`](Self::search), between two addresses.
    pub fn search_within(&self, low: u64, high: u64, len: u64, align: u64) -> Option<u64> {
        self.walk(high, low, len, align).0
    }

    /// The highest place below `high`, and the largest hole that was too small.
    fn walk(&self, high: u64, low: u64, len: u64, align: u64) -> (Option<u64>, u64) {
        let mut skipped = 0;
        let mut top = high;
        if let Some(area) = self.find(high) {
            top = guarded_start(area);
        } else if let Some(area) = self.after(high)
            && area.flags.contains(AreaFlags::GROWS_DOWN)
        {
            top = top.min(guarded_start(area));
        }
        loop {
            let before = self.by_start.range(..top).next_back().map(|(_, area)| area);
            let bottom = before.map_or(low, |area| area.end.max(low));
            if let Some(start) = top.checked_sub(len) {
                let start = start & !(align - 1);
                if start >= bottom {
                    return (Some(start), skipped);
                }
            }
            skipped = skipped.max(top.saturating_sub(bottom));
            match before {
                Some(area) if area.start > low => top = guarded_start(area).min(top),
                _ => return (None, skipped),
            }
        }
    }

    fn count_area(&mut self, area: &Area, more: bool) {
        if !area.is_program() {
            return;
        }
        let len = area.len();
        let change = |sum: &mut u64, counts: bool| {
            if counts {
                *sum = if more {
                    sum.saturating_add(len)
                } else {
                    sum.saturating_sub(len)
                };
            }
        };
        let totals = &mut self.totals;
        change(&mut totals.size, true);
        change(&mut totals.data, area.is_private_writable());
        change(&mut totals.text, area.access.contains(Access::EXEC));
        change(
            &mut totals.stack,
            area.flags.contains(AreaFlags::GROWS_DOWN),
        );
        change(&mut totals.locked, area.flags.contains(AreaFlags::LOCKED));
        change(&mut totals.shared, area.shared_pages().is_some());
        let usable = !area.access.is_empty() && !area.flags.contains(AreaFlags::NORESERVE);
        change(&mut totals.usable, usable);
    }
}

/// Where the range that an area needs for itself starts.
fn guarded_start(area: &Area) -> u64 {
    if area.flags.contains(AreaFlags::GROWS_DOWN) {
        area.start.saturating_sub(STACK_GUARD)
    } else {
        area.start
    }
}

#[cfg(test)]
mod tests {
    use super::super::area::{Content, Purpose};
    use super::*;
    use alloc::vec;

    const TOP: u64 = 0x1000_0000;

    fn area(start: u64, end: u64) -> Area {
        Area {
            start,
            end,
            access: Access::READ | Access::WRITE,
            most: Access::all(),
            flags: AreaFlags::empty(),
            content: Content::Zero(Purpose::Ordinary),
            offset: 0,
        }
    }

    #[test]
    fn like_neighbours_become_one_and_can_be_cut_again() {
        let mut areas = Areas::new(TOP);
        areas.insert(area(0x20000, 0x30000));
        areas.insert(area(0x40000, 0x50000));
        areas.insert(area(0x30000, 0x40000));
        assert_eq!(areas.count(), 1);
        let taken = areas.take(0x28000, 0x48000);
        assert_eq!(taken.len(), 1);
        let left: vec::Vec<_> = areas.iter().map(|a| (a.start, a.end)).collect();
        assert_eq!(left, vec![(0x20000, 0x28000), (0x48000, 0x50000)]);
        assert_eq!(areas.totals().size, 0x10000);
    }

    #[test]
    fn searches_go_down_and_find_holes_that_appear_above() {
        let mut areas = Areas::new(TOP);
        let mut starts = vec![];
        for index in 0..100 {
            let at = areas.search(0x2000, PAGE).unwrap();
            assert_eq!(at, TOP - (index + 1) * 0x2000);
            areas.insert(area(at, at + 0x2000));
            starts.push(at);
        }
        areas.take(starts[10], starts[10] + 0x2000);
        assert_eq!(areas.search(0x3000, PAGE), Some(starts[99] - 0x3000));
        assert_eq!(areas.search(0x2000, PAGE), Some(starts[10]));
    }

    #[test]
    fn a_search_goes_on_below_what_only_changed_its_access() {
        let mut areas = Areas::new(TOP);
        for index in 0..100 {
            let at = areas.search(0x2000, PAGE).unwrap();
            assert_eq!(at, TOP - (index + 1) * 0x2000);
            areas.insert(area(at, at + 0x2000));
            let mut lower = areas.take(at, at + PAGE).remove(0);
            lower.access = Access::empty();
            areas.insert(lower);
            assert!(areas.search_from <= at + 0x2000, "it begins from the top");
            assert!(areas.largest_skipped < 0x2000);
        }
    }

    #[test]
    fn a_gap_stays_below_what_grows_down() {
        let mut areas = Areas::new(TOP);
        let mut stack = area(TOP - 0x4000, TOP);
        stack.flags = AreaFlags::GROWS_DOWN;
        areas.insert(stack);
        let at = areas.search(PAGE, PAGE).unwrap();
        assert_eq!(at, TOP - 0x4000 - STACK_GUARD - PAGE);
    }

    #[test]
    fn aligned_ranges_are_found() {
        let mut areas = Areas::new(TOP - 0x3000);
        let at = areas.search(0x20_0000, 0x20_0000).unwrap();
        assert_eq!(at, TOP - 0x40_0000);
        assert_eq!(areas.search_within(0x10000, 0x11000, 0x2000, PAGE), None);
    }

    #[test]
    fn too_much_is_not_found() {
        let mut areas = Areas::new(TOP);
        assert_eq!(areas.search(TOP, PAGE), None);
        assert_eq!(areas.search(u64::MAX, PAGE), None);
        assert!(areas.search(TOP - USER_START, PAGE).is_some());
    }
}
