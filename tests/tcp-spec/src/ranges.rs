//! Places in a stream, and sets of them.
//!
//! Sequence numbers wrap around after 4 GiB; places do not. A stream's SYN is at [`ORIGIN`].

/// The place of a SYN. Not zero, so that there are places before it.
pub const ORIGIN: u64 = 1 << 32;

/// A place in a stream of sequence numbers.
pub type Place = u64;

/// The place of a sequence number that is nearest to `near`, a place of the same stream.
pub fn place(near: Place, isn: u32, seq: u32) -> Place {
    let there = isn.wrapping_add(near.wrapping_sub(ORIGIN) as u32);
    near.wrapping_add_signed(i64::from(seq.wrapping_sub(there).cast_signed()))
}

/// A set of places, as ranges that do not touch.
#[derive(Clone, Debug, Default)]
pub struct Ranges(Vec<(Place, Place)>);

impl Ranges {
    /// Adds the places from `start` up to, not including, `end`.
    pub fn insert(&mut self, start: Place, end: Place) {
        if start >= end {
            return;
        }
        let from = self.0.partition_point(|range| range.1 < start);
        let to = self.0.partition_point(|range| range.0 <= end);
        let merged = self.0[from..to].iter().fold((start, end), |all, range| {
            (all.0.min(range.0), all.1.max(range.1))
        });
        self.0.splice(from..to, [merged]);
    }

    /// Removes all below a place.
    pub fn remove_below(&mut self, place: Place) {
        self.0.retain_mut(|range| {
            range.0 = range.0.max(place);
            range.0 < range.1
        });
    }

    /// All of them are in the set.
    pub fn covers(&self, start: Place, end: Place) -> bool {
        start >= end || self.containing(start).is_some_and(|range| end <= range.1)
    }

    /// Any of them is in the set.
    pub fn touches(&self, start: Place, end: Place) -> bool {
        let at = self.0.partition_point(|range| range.1 <= start);
        start < end && self.0.get(at).is_some_and(|range| range.0 < end)
    }

    /// The range that a place is in.
    pub fn containing(&self, place: Place) -> Option<(Place, Place)> {
        let at = self.0.partition_point(|range| range.1 <= place);
        self.0.get(at).copied().filter(|range| range.0 <= place)
    }

    /// How many places are in the set.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|range| range.1 - range.0).sum()
    }

    /// One past the highest place.
    pub fn end(&self) -> Option<Place> {
        self.0.last().map(|range| range.1)
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = (Place, Place)> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_go_on_where_sequence_numbers_wrap() {
        let isn = 0xffff_ff00;
        assert_eq!(place(ORIGIN, isn, 0xffff_ff01), ORIGIN + 1);
        assert_eq!(place(ORIGIN, isn, 0x100), ORIGIN + 0x200);
        assert_eq!(
            place(ORIGIN + 0x1_0000_0000, isn, 0x100),
            ORIGIN + 0x1_0000_0200
        );
        assert_eq!(place(ORIGIN, isn, isn - 1), ORIGIN - 1);
    }

    #[test]
    fn ranges_merge() {
        let mut set = Ranges::default();
        set.insert(10, 20);
        set.insert(30, 40);
        assert!(!set.covers(15, 35) && set.touches(15, 35) && !set.touches(20, 30));
        set.insert(20, 30);
        assert!(set.covers(10, 40) && set.total() == 30);
        set.remove_below(35);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(35, 40)]);
    }
}
