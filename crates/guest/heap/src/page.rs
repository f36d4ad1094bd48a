//! Page descriptors: one cache line for each page of a region.
//!
//! A page that is neither the first nor the last of a run has the kind `Inner` and nothing else of
//! meaning, except in a slab, whose later pages say how far back it starts. So making, splitting
//! and merging runs touches two descriptors however long they are, and the descriptors of pages
//! never used are never written.

/// Bytes per page.
pub const PAGE: usize = 4096;
/// Bits of a [`PageId`] for the index inside the region.
const INDEX_BITS: u32 = 28;

/// A page of any region: region in the high bits, index of the page in the low ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageId(u32);

impl PageId {
    /// No page; ends lists.
    pub const NONE: Self = Self(u32::MAX);
    /// How many regions the type can tell apart.
    pub const REGIONS: usize = 1 << (u32::BITS - INDEX_BITS);
    /// More pages than this a region cannot have.
    pub const MAX_PAGES: usize = (1 << INDEX_BITS) - 1;

    /// The page `index` of a region.
    #[inline]
    pub fn new(region: usize, index: u32) -> Self {
        Self((region as u32) << INDEX_BITS | index)
    }

    /// The region's number.
    #[inline]
    pub fn region(self) -> usize {
        (self.0 >> INDEX_BITS) as usize
    }

    /// The index inside the region.
    #[inline]
    pub fn index(self) -> u32 {
        self.0 & ((1 << INDEX_BITS) - 1)
    }

    /// The page `pages` further up in the same region.
    #[inline]
    pub fn up(self, pages: u32) -> Self {
        Self(self.0 + pages)
    }

    /// The page `pages` further down in the same region.
    #[inline]
    pub fn down(self, pages: u32) -> Self {
        Self(self.0 - pages)
    }
}

/// What a page is. All descriptors start as zeros, hence as `Inner`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Inside a run, or the last page of a run in use.
    Inner = 0,
    /// The first page of a free run.
    Free,
    /// The last page of a free run of two pages or more.
    FreeEnd,
    /// The first page of a large object.
    Large,
    /// The first page of a slab.
    Slab,
    /// A later page of a slab.
    SlabRest,
}

/// The descriptor of one page.
#[repr(C, align(64))]
pub struct Page {
    /// Of a slab: one bit per free slot.
    free: [u64; 4],
    /// The next in the list of free runs of a bin, or of slabs with free slots of a class.
    pub next: PageId,
    /// The one before in that list.
    pub prev: PageId,
    /// Pages in the run that starts (or, if free, ends) here; for `SlabRest` the pages back to the
    /// start of the slab.
    pub pages: u32,
    /// Of a free run: pages that are not known to be zero.
    pub dirty: u32,
    /// Of a slab: free slots.
    pub free_slots: u16,
    /// What the page is.
    pub kind: Kind,
    /// Of a slab: its class.
    pub class: u8,
}

const _: () = assert!(size_of::<Page>() == 64);

impl Page {
    /// Marks `slots` slots as free and the others as not there.
    pub fn free_all_slots(&mut self, slots: u32) {
        for (i, word) in self.free.iter_mut().enumerate() {
            let here = slots.saturating_sub(64 * i as u32).min(64);
            *word = if here == 0 {
                0
            } else {
                u64::MAX >> (64 - here)
            };
        }
        self.free_slots = slots as u16;
    }

    /// Takes a free slot, searching from a random position. There must be one.
    #[inline]
    pub fn take_slot(&mut self, slots: u32, random: u64) -> u32 {
        // Only the words that exist take part, rounded up to a power of two.
        let last = (slots - 1) >> 6;
        let mask = if last > 1 { 3 } else { last };
        let first = random as u32 >> 6;
        let turn = random as u32 & 63;
        for i in 0..4 {
            let index = first.wrapping_add(i) & mask;
            let word = &mut self.free[index as usize & 3];
            if *word != 0 {
                let bit = (word.rotate_right(turn).trailing_zeros() + turn) & 63;
                *word &= !(1 << bit);
                self.free_slots -= 1;
                return index * 64 + bit;
            }
        }
        unreachable!("a slab on a list has a free slot")
    }

    /// Whether a slot is free.
    #[inline]
    pub fn slot_is_free(&self, slot: u32) -> bool {
        self.free[slot as usize >> 6 & 3] >> (slot & 63) & 1 != 0
    }

    /// Gives a slot back.
    #[inline]
    pub fn free_slot(&mut self, slot: u32) {
        self.free[slot as usize >> 6 & 3] |= 1 << (slot & 63);
        self.free_slots += 1;
    }
}
