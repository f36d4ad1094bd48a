//! The heap's logic: objects, which are slots or runs, each with its guard word.
//!
//! Everything here runs under the heap's lock. Corruption is returned, never acted upon: the caller
//! opens the lock before it tells anyone.

use crate::border::Regions;
use crate::class::{CLASSES, Class, GUARD, Placement};
use crate::error::HeapError;
use crate::page::{Kind, PAGE, PageId};
use crate::runs::Runs;
use crate::secret::Secret;
use crate::slabs::Slabs;
use crate::statistics::Statistics;

/// Takes pages (address, bytes; both whole pages) back from the guest. Returns whether they will
/// read as zeros from now on. Runs under the heap's lock and must not allocate.
pub type ReleaseHook = fn(*mut u8, usize) -> bool;

/// What the platform does for the heap.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// Called when corruption is found. The heap itself is intact and may be used.
    pub corrupted: fn(HeapError) -> !,
    /// Called, rarely, with pages that are no longer needed. `None` if the platform keeps them.
    pub release: Option<ReleaseHook>,
}

/// An object: its address and a page of its region.
#[derive(Clone, Copy)]
pub struct Object {
    /// The slab's or the run's first page.
    pub page: PageId,
    /// The first byte.
    pub address: usize,
}

/// What a pointer that came back refers to.
#[derive(Clone, Copy)]
enum Found {
    Slot(PageId, u32),
    Run(PageId),
}

/// All of a heap.
pub struct State {
    /// The memory.
    pub regions: Regions,
    runs: Runs,
    slabs: Slabs,
    secret: Secret,
    hooks: Hooks,
    figures: Statistics,
}

const _: () = assert!(CLASSES <= 1 << u8::BITS);

impl State {
    /// A heap without memory.
    pub const fn new() -> Self {
        Self {
            regions: Regions::EMPTY,
            runs: Runs::EMPTY,
            slabs: Slabs::EMPTY,
            secret: Secret::EMPTY,
            hooks: Hooks {
                corrupted: |error| panic!("{error}"),
                release: None,
            },
            figures: Statistics {
                in_use: 0,
                peak: 0,
                committed: 0,
                capacity: 0,
                free: 0,
                allocations: 0,
                frees: 0,
                failures: 0,
                released: 0,
            },
        }
    }

    /// Sets what every heap is given once.
    pub fn configure(&mut self, secret: [u8; 16], hooks: Hooks) {
        self.secret = Secret::new(secret);
        self.hooks = hooks;
    }

    /// Makes the pages of a new region available.
    pub fn add_pages(&mut self, first: PageId, pages: u32) {
        self.runs.add(&mut self.regions, first, pages);
        self.figures.capacity += pages as usize * PAGE;
    }

    /// What the platform does for this heap.
    pub fn hooks(&self) -> Hooks {
        self.hooks
    }

    /// The counters.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            committed: self.runs.dirty_pages() as usize * PAGE,
            free: self.free_bytes(),
            released: self.runs.released_pages() * PAGE as u64,
            ..self.figures
        }
    }

    /// Bytes in pages that hold nothing.
    #[inline]
    pub fn free_bytes(&self) -> usize {
        self.runs.free_pages() as usize * PAGE
    }

    /// Gives empty slabs and longer free runs back.
    pub fn release_free(&mut self) {
        self.slabs
            .free_empty(&mut self.regions, &mut self.runs, None);
        if let Some(release) = self.hooks.release {
            self.runs.release(&mut self.regions, release);
        }
    }

    /// Allocates, or returns `None` when there is no room.
    #[inline(never)]
    pub fn allocate(&mut self, size: usize, align: usize, zero: bool) -> Option<Object> {
        let placement = Placement::of(size, align);
        if let Placement::Slot(class) = placement {
            let random = self.secret.random();
            if let Some((page, address)) = self.slabs.take(&mut self.regions, class, random) {
                if zero {
                    self.regions.zero(page, address, size);
                }
                return Some(self.given_out(Object { page, address }, size));
            }
        }
        self.allocate_pages(placement, size, align, zero)
    }

    /// Allocations that need pages: a new slab, or a run.
    #[inline(never)]
    fn allocate_pages(
        &mut self,
        placement: Placement,
        size: usize,
        align: usize,
        zero: bool,
    ) -> Option<Object> {
        let mut object = self.place(placement, size, align, zero);
        if object.is_none()
            && self
                .slabs
                .free_empty(&mut self.regions, &mut self.runs, self.hooks.release)
        {
            object = self.place(placement, size, align, zero);
        }
        let Some(object) = object else {
            self.figures.failures += 1;
            return None;
        };
        Some(self.given_out(object, size))
    }

    fn place(
        &mut self,
        placement: Placement,
        size: usize,
        align: usize,
        zero: bool,
    ) -> Option<Object> {
        let Self {
            regions,
            runs,
            slabs,
            secret,
            ..
        } = self;
        let (pages, align) = match placement {
            Placement::Impossible => return None,
            Placement::Run { pages, align } => (pages, align),
            Placement::Slot(class) => {
                if slabs.grow(regions, runs, class) {
                    let (page, address) = slabs.take(regions, class, secret.random())?;
                    if zero {
                        regions.zero(page, address, size);
                    }
                    return Some(Object { page, address });
                }
                // A slab spans several pages where this object alone may need fewer.
                debug_assert!(align <= PAGE, "slots are aligned to a page at most");
                ((size.max(1) + GUARD).div_ceil(PAGE) as u32, 1)
            }
        };
        let page = runs.allocate(regions, pages, align, zero)?;
        let first = regions.page_mut(page);
        first.kind = Kind::Large;
        first.pages = pages;
        Some(Object {
            page,
            address: regions.address(page),
        })
    }

    /// Guards and counts a new object.
    #[inline]
    fn given_out(&mut self, object: Object, size: usize) -> Object {
        let figures = &mut self.figures;
        figures.allocations += 1;
        figures.in_use += size;
        figures.peak = figures.peak.max(figures.in_use);
        self.set_guard(object.page, object.address + size);
        object
    }

    #[inline]
    fn set_guard(&mut self, page: PageId, end: usize) {
        self.regions.set_guard(page, end, self.secret.guard(end));
    }

    /// Removes the guard word of an object that ends here no longer, so that no later occupant of
    /// the place can be freed with this one's size, and none can read the word.
    #[inline]
    fn clear_guard(&mut self, found: Found, end: usize) {
        let (Found::Slot(page, _) | Found::Run(page)) = found;
        self.regions.set_guard(page, end, 0);
    }

    /// Frees an object.
    #[inline]
    pub fn free(&mut self, address: usize, size: usize, align: usize) -> Result<(), HeapError> {
        let found = self.check(address, size, Placement::of(size, align))?;
        self.clear_guard(found, address + size);
        self.take_back(found, size);
        Ok(())
    }

    #[inline(never)]
    fn take_back(&mut self, found: Found, size: usize) {
        let Self {
            regions,
            runs,
            slabs,
            hooks,
            figures,
            ..
        } = self;
        figures.frees += 1;
        figures.in_use -= size;
        match found {
            Found::Slot(id, slot) => slabs.free(regions, runs, (id, slot), hooks.release),
            Found::Run(id) => {
                let pages = regions.page(id).pages;
                runs.free(regions, id, pages, hooks.release);
            }
        }
    }

    /// Resizes an object, in place if possible. `Ok(None)` when there is no room: the object is
    /// then as it was.
    pub fn resize(
        &mut self,
        address: usize,
        size: usize,
        align: usize,
        new_size: usize,
    ) -> Result<Option<Object>, HeapError> {
        let old = Placement::of(size, align);
        let new = Placement::of(new_size, align);
        let found = self.check(address, size, old)?;
        let (Found::Slot(page, _) | Found::Run(page)) = found;
        // Before anything else: a run that shrinks may lose the page that holds the word.
        self.clear_guard(found, address + size);
        let in_place = match (found, new) {
            (Found::Slot(..), Placement::Slot(_)) => old == new,
            (Found::Run(id), Placement::Run { pages, .. }) => self.resize_run(id, pages),
            _ => false,
        };
        if in_place {
            self.figures.in_use = self.figures.in_use - size + new_size;
            self.figures.peak = self.figures.peak.max(self.figures.in_use);
            self.set_guard(page, address + new_size);
            return Ok(Some(Object { page, address }));
        }
        let Some(moved) = self.allocate(new_size, align, false) else {
            self.set_guard(page, address + size);
            return Ok(None);
        };
        self.regions
            .copy(page, address, moved.page, moved.address, size.min(new_size));
        self.take_back(found, size);
        Ok(Some(moved))
    }

    /// Shortens or lengthens a run where it is.
    fn resize_run(&mut self, id: PageId, pages: u32) -> bool {
        let Self {
            regions,
            runs,
            hooks,
            ..
        } = self;
        let old = regions.page(id).pages;
        if pages > old && !runs.extend(regions, id, old, pages - old) {
            return false;
        }
        regions.page_mut(id).pages = pages;
        if pages < old {
            runs.free(regions, id.up(pages), old - pages, hooks.release);
        }
        true
    }

    /// Finds the object that a pointer and a size claim to be, or says what is wrong.
    #[inline(never)]
    fn check(&self, address: usize, size: usize, claim: Placement) -> Result<Found, HeapError> {
        let regions = &self.regions;
        let Some(mut id) = regions.page_at(address) else {
            return Err(HeapError::NotHeapMemory { address });
        };
        if regions.page(id).kind == Kind::SlabRest {
            id = id.down(regions.page(id).pages);
        }
        let page = regions.page(id);
        let offset = address - regions.address(id);
        let found = if page.kind == Kind::Slab {
            let class = Class::from_byte(page.class);
            let (slot, inside) = class.shape().slot_at(offset);
            if slot >= class.shape().slots {
                return Err(HeapError::NotAllocated { address });
            }
            if page.slot_is_free(slot) {
                return Err(free_slot_error(address, inside));
            }
            if inside != 0 {
                return Err(HeapError::InsideObject {
                    address,
                    object: address - inside,
                });
            }
            if claim != Placement::Slot(class) {
                let occupied = class.shape().size as usize;
                return Err(HeapError::WrongSize {
                    address,
                    size,
                    occupied,
                });
            }
            Found::Slot(id, slot)
        } else {
            self.check_run(id, address, size)?;
            Found::Run(id)
        };
        let end = address + size;
        if regions.guard(id, end) != self.secret.guard(end) {
            return Err(HeapError::Overflow { address, size });
        }
        Ok(found)
    }

    /// The part of [`check`](Self::check) for addresses outside slabs.
    #[inline(never)]
    fn check_run(&self, id: PageId, address: usize, size: usize) -> Result<(), HeapError> {
        let page = self.regions.page(id);
        let object = self.regions.address(id);
        match page.kind {
            Kind::Large if address != object => Err(HeapError::InsideObject { address, object }),
            Kind::Large if size.saturating_add(GUARD).div_ceil(PAGE) != page.pages as usize => {
                let occupied = page.pages as usize * PAGE;
                Err(HeapError::WrongSize {
                    address,
                    size,
                    occupied,
                })
            }
            Kind::Large => Ok(()),
            Kind::Free if address == object => Err(HeapError::FreedTwice { address }),
            _ => Err(HeapError::NotAllocated { address }),
        }
    }
}

#[cold]
fn free_slot_error(address: usize, inside: usize) -> HeapError {
    if inside == 0 {
        HeapError::FreedTwice { address }
    } else {
        HeapError::NotAllocated { address }
    }
}
