//! Regions: raw memory as page descriptors, a bitmap of dirty pages and the pages themselves.
//!
//! ```text
//! | descriptors, 64 bytes a page | dirty bits | page 0 | page 1 | ... |
//! ```
//!
//! Both tables are valid as zeros, so a region of any size is set up without touching more than two
//! of its pages.

use core::ptr::{self, NonNull};

use crate::page::{PAGE, Page, PageId};

/// How many regions a heap can have.
pub const MAX_REGIONS: usize = PageId::REGIONS;

/// One region.
struct Region {
    /// The address of page 0.
    start: usize,
    /// Bytes of all pages.
    len: usize,
    /// Page 0, with the right to reach all pages.
    base: *mut u8,
    /// The descriptors, one per page.
    pages: NonNull<[Page]>,
    /// One bit per page that may hold something else than zeros.
    dirty: NonNull<[u64]>,
}

// SAFETY: the pointer reaches memory that belongs to the region alone.
unsafe impl Send for Region {}

/// All regions of a heap.
pub struct Regions {
    regions: [Region; MAX_REGIONS],
    count: usize,
}

impl Region {
    const EMPTY: Self = Self {
        start: 0,
        len: 0,
        base: ptr::null_mut(),
        pages: NonNull::slice_from_raw_parts(NonNull::dangling(), 0),
        dirty: NonNull::slice_from_raw_parts(NonNull::dangling(), 0),
    };

    /// Lays the tables out; `None` if no page would be left.
    ///
    /// # Safety
    /// As for [`Heap::add_region`](super::Heap::add_region).
    unsafe fn new(start: NonNull<u8>, len: usize) -> Option<Self> {
        let skip = start.align_offset(PAGE);
        // A page costs itself, its descriptor and one bit; what rounding takes is taken off below.
        let mut count = len.checked_sub(skip)? / (PAGE + size_of::<Page>());
        count = count.min(PageId::MAX_PAGES);
        loop {
            let words = count.div_ceil(64);
            let tables = (count * size_of::<Page>() + words * 8).next_multiple_of(PAGE);
            if count == 0 {
                return None;
            }
            if skip + tables + count * PAGE > len {
                count -= 1;
                continue;
            }
            // SAFETY: both tables and all pages lie inside the region, apart from each other and
            // aligned, since a page is a multiple of all alignments; zeros are valid descriptors.
            return Some(unsafe {
                let head = start.add(skip);
                let bits = head.add(count * size_of::<Page>());
                let base = head.add(tables).as_ptr();
                Self {
                    start: base.expose_provenance(),
                    len: count * PAGE,
                    base,
                    pages: NonNull::slice_from_raw_parts(head.cast(), count),
                    dirty: NonNull::slice_from_raw_parts(bits.cast(), words),
                }
            });
        }
    }

    #[inline]
    fn pages(&self) -> &[Page] {
        // SAFETY: the table is valid as zeros and reached through this region only.
        unsafe { self.pages.as_ref() }
    }

    #[inline]
    fn pages_mut(&mut self) -> &mut [Page] {
        // SAFETY: as above.
        unsafe { self.pages.as_mut() }
    }

    /// The pointer to `len` bytes at `address`, all inside this region's pages.
    #[inline]
    fn pointer(&self, address: usize, len: usize) -> *mut u8 {
        let offset = address.wrapping_sub(self.start);
        assert!(
            offset <= self.len && len <= self.len - offset,
            "an object inside its region"
        );
        self.base.wrapping_add(offset)
    }
}

impl Regions {
    /// No region.
    pub const EMPTY: Self = Self {
        regions: [Region::EMPTY; MAX_REGIONS],
        count: 0,
    };

    /// Adds a region: its first page and how many it has. `None` if it is too small for a page;
    /// the caller has seen to it that there is room.
    ///
    /// # Safety
    /// As for [`Heap::add_region`](super::Heap::add_region).
    pub unsafe fn add(&mut self, start: NonNull<u8>, len: usize) -> Option<(PageId, u32)> {
        // SAFETY: the caller's contract.
        let region = unsafe { Region::new(start, len) }?;
        let added = (PageId::new(self.count, 0), region.pages.len() as u32);
        self.regions[self.count] = region;
        self.count += 1;
        Some(added)
    }

    /// Whether no further region fits.
    pub fn is_full(&self) -> bool {
        self.count == MAX_REGIONS
    }

    /// The page that holds an address.
    #[inline]
    pub fn page_at(&self, address: usize) -> Option<PageId> {
        self.regions[..self.count]
            .iter()
            .enumerate()
            .find_map(|(number, region)| {
                let offset = address.wrapping_sub(region.start);
                (offset < region.len).then(|| PageId::new(number, (offset / PAGE) as u32))
            })
    }

    /// How many pages the region of `id` has.
    pub fn pages_beside(&self, id: PageId) -> u32 {
        self.regions[id.region()].pages.len() as u32
    }

    /// The address of a page.
    #[inline]
    pub fn address(&self, id: PageId) -> usize {
        self.regions[id.region()].start + id.index() as usize * PAGE
    }

    /// The descriptor of a page.
    #[inline]
    pub fn page(&self, id: PageId) -> &Page {
        &self.regions[id.region()].pages()[id.index() as usize]
    }

    /// The descriptor of a page.
    #[inline]
    pub fn page_mut(&mut self, id: PageId) -> &mut Page {
        &mut self.regions[id.region()].pages_mut()[id.index() as usize]
    }

    /// The dirty bits of the region of `id`.
    pub fn dirty_bits(&mut self, id: PageId) -> &mut [u64] {
        // SAFETY: the table is valid as zeros and reached through this region only.
        unsafe { self.regions[id.region()].dirty.as_mut() }
    }

    /// The pointer to a page, for the platform.
    pub fn pointer(&self, id: PageId, pages: u32) -> *mut u8 {
        self.regions[id.region()].pointer(self.address(id), pages as usize * PAGE)
    }

    /// Reads the guard word at `address`, in the region of `id`.
    #[inline]
    pub fn guard(&self, id: PageId, address: usize) -> u64 {
        let at = self.regions[id.region()].pointer(address, size_of::<u64>());
        // SAFETY: the pointer is inside the region, and guard words belong to the heap.
        unsafe { at.cast::<u64>().read_unaligned() }
    }

    /// Writes the guard word at `address`, in the region of `id`.
    #[inline]
    pub fn set_guard(&mut self, id: PageId, address: usize, word: u64) {
        let at = self.regions[id.region()].pointer(address, size_of::<u64>());
        // SAFETY: the pointer is inside the region, and guard words belong to the heap.
        unsafe { at.cast::<u64>().write_unaligned(word) };
    }

    /// Zeroes bytes that no object owns yet, in the region of `id`.
    pub fn zero(&mut self, id: PageId, address: usize, len: usize) {
        let at = self.regions[id.region()].pointer(address, len);
        // SAFETY: the range is inside the region and not yet given out.
        unsafe { at.write_bytes(0, len) };
    }

    /// Copies an object that is being moved, from the region of `from_id` to that of `to_id`.
    pub fn copy(&mut self, from_id: PageId, from: usize, to_id: PageId, to: usize, len: usize) {
        let source = self.regions[from_id.region()].pointer(from, len);
        let target = self.regions[to_id.region()].pointer(to, len);
        // SAFETY: both ranges are inside regions, and two objects never overlap. The source is
        // being given up by its owner, the target is not yet given out.
        unsafe { target.copy_from_nonoverlapping(source, len) };
    }

    /// The pointer to give out for an object at `address`, in any region.
    #[inline]
    pub fn object(&self, id: PageId, address: usize) -> *mut u8 {
        self.regions[id.region()].pointer(address, 1)
    }
}
