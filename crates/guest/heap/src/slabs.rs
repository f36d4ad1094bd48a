//! Slabs: runs of pages cut into equal slots.
//!
//! Slabs with free slots hang in one list per class; full ones in none. Some slabs of each class whose
//! last object has gone are kept: the next objects would need them again. More are given back.

use crate::border::Regions;
use crate::class::{CLASSES, Class};
use crate::page::{Kind, PageId};
use crate::runs::Runs;
use crate::state::ReleaseHook;

/// The slabs of a heap that have free slots.
pub struct Slabs {
    heads: [PageId; CLASSES],
    /// How many slabs of each class have no objects.
    empty: [u8; CLASSES],
}

/// So many pages in empty slabs of a class are kept, or one slab.
const KEPT_PAGES: u32 = 4;

impl Slabs {
    /// No slabs.
    pub const EMPTY: Self = Self {
        heads: [PageId::NONE; CLASSES],
        empty: [0; CLASSES],
    };

    /// Takes a slot near a random position: its slab and its address. `None` if all slabs of the
    /// class are full.
    #[inline]
    pub fn take(
        &mut self,
        regions: &mut Regions,
        class: Class,
        random: u64,
    ) -> Option<(PageId, usize)> {
        let id = self.heads[class.index()];
        if id == PageId::NONE {
            return None;
        }
        let shape = class.shape();
        let page = regions.page_mut(id);
        if u32::from(page.free_slots) == shape.slots {
            self.empty[class.index()] -= 1;
        }
        let slot = page.take_slot(shape.slots, random);
        if page.free_slots == 0 {
            self.unlink(regions, class, id);
        }
        Some((
            id,
            regions.address(id) + slot as usize * shape.size as usize,
        ))
    }

    /// Adds a slab to a class. `false` if there are no pages.
    #[inline(never)]
    pub fn grow(&mut self, regions: &mut Regions, runs: &mut Runs, class: Class) -> bool {
        let shape = class.shape();
        let Some(id) = runs.allocate(regions, shape.pages, 1, false) else {
            return false;
        };
        for back in 1..shape.pages {
            let page = regions.page_mut(id.up(back));
            page.kind = Kind::SlabRest;
            page.pages = back;
        }
        let page = regions.page_mut(id);
        page.kind = Kind::Slab;
        page.pages = shape.pages;
        page.class = class.to_byte();
        page.free_all_slots(shape.slots);
        self.empty[class.index()] += 1;
        self.link(regions, class, id);
        true
    }

    /// Gives a slot of the slab `id`, known to be in use, back.
    #[inline]
    pub fn free(
        &mut self,
        regions: &mut Regions,
        runs: &mut Runs,
        (id, slot): (PageId, u32),
        release: Option<ReleaseHook>,
    ) {
        let page = regions.page_mut(id);
        let class = Class::from_byte(page.class);
        page.free_slot(slot);
        let free = u32::from(page.free_slots);
        if free == 1 {
            self.link(regions, class, id);
        }
        if free == class.shape().slots {
            let empty = &mut self.empty[class.index()];
            *empty += 1;
            let more = u32::from(*empty) - 1;
            if more > 0 && more * class.shape().pages >= KEPT_PAGES {
                self.dissolve(regions, runs, class, id, release);
            }
        }
    }

    /// Gives all slabs without objects back; whether there were any.
    pub fn free_empty(
        &mut self,
        regions: &mut Regions,
        runs: &mut Runs,
        release: Option<ReleaseHook>,
    ) -> bool {
        let mut any = false;
        for index in 0..CLASSES {
            let class = Class::from_byte(index as u8);
            let mut id = self.heads[index];
            while id != PageId::NONE {
                let page = regions.page(id);
                let next = page.next;
                if u32::from(page.free_slots) == class.shape().slots {
                    self.dissolve(regions, runs, class, id, release);
                    any = true;
                }
                id = next;
            }
        }
        any
    }

    #[inline(never)]
    fn dissolve(
        &mut self,
        regions: &mut Regions,
        runs: &mut Runs,
        class: Class,
        id: PageId,
        release: Option<ReleaseHook>,
    ) {
        self.unlink(regions, class, id);
        self.empty[class.index()] -= 1;
        let pages = class.shape().pages;
        for back in 1..pages {
            regions.page_mut(id.up(back)).kind = Kind::Inner;
        }
        runs.free(regions, id, pages, release);
    }

    fn link(&mut self, regions: &mut Regions, class: Class, id: PageId) {
        let next = self.heads[class.index()];
        let page = regions.page_mut(id);
        page.next = next;
        page.prev = PageId::NONE;
        if next != PageId::NONE {
            regions.page_mut(next).prev = id;
        }
        self.heads[class.index()] = id;
    }

    fn unlink(&mut self, regions: &mut Regions, class: Class, id: PageId) {
        let page = regions.page(id);
        let (next, prev) = (page.next, page.prev);
        if next != PageId::NONE {
            regions.page_mut(next).prev = prev;
        }
        if prev == PageId::NONE {
            self.heads[class.index()] = next;
        } else {
            regions.page_mut(prev).next = next;
        }
    }
}
