//! Runs of whole pages.
//!
//! Free runs hang in 64 bins by length: one bin per length up to 16 pages, then two per doubling. A
//! request takes the first run of the first bin in which every run is long enough, found with one
//! look at a bitmap. Neighbouring free runs are always merged.
//!
//! Pages written since the host gave them as zeros are *dirty*, one bit a page. Free dirty pages
//! are given back when there are more of them than a threshold. Pages that are needed again soon
//! after show the threshold to be too low, and double it; long quiet lets it sink again.

use crate::border::Regions;
use crate::page::{Kind, PAGE, PageId};
use crate::state::ReleaseHook;

const BINS: usize = 64;
/// Shorter free runs are not given back.
const RELEASE_MIN: u32 = (64 << 10) / PAGE as u32;
/// The lowest threshold, in pages.
const THRESHOLD_MIN: u32 = (1 << 20) / PAGE as u32;
/// The highest threshold, in pages.
const THRESHOLD_MAX: u32 = 1 << 27;
/// Needed again within so many operations on runs is *soon*.
const SOON: u32 = 64;
/// No release for so many operations on runs is *quiet*.
const QUIET: u32 = 4096;

/// The free runs of a heap.
pub struct Runs {
    heads: [PageId; BINS],
    /// One bit per bin that is not empty.
    filled: u64,
    /// Dirty pages in free runs.
    dirty_free: u32,
    /// Dirty pages in all.
    dirty: u32,
    /// Pages in free runs.
    free: u32,
    threshold: u32,
    /// Operations since the last release, as far as it matters.
    since_release: u32,
    /// Pages given back so far.
    released: u64,
}

impl Runs {
    /// No runs.
    pub const EMPTY: Self = Self {
        heads: [PageId::NONE; BINS],
        filled: 0,
        dirty_free: 0,
        dirty: 0,
        free: 0,
        threshold: THRESHOLD_MIN,
        since_release: QUIET,
        released: 0,
    };

    /// Pages that may hold something else than zeros.
    pub fn dirty_pages(&self) -> u32 {
        self.dirty
    }

    /// Pages in free runs: what a new slab or a large object can be made of.
    #[inline]
    pub fn free_pages(&self) -> u32 {
        self.free
    }

    /// Pages given back to the host so far.
    pub fn released_pages(&self) -> u64 {
        self.released
    }

    /// Adds the zeroed pages of a new region.
    pub fn add(&mut self, regions: &mut Regions, id: PageId, pages: u32) {
        self.insert(regions, id, pages, 0);
    }

    /// Takes a run of `pages` that starts at a multiple of `align` pages. With `zero`, all its
    /// pages are zeros. The caller sets the first page's kind.
    pub fn allocate(
        &mut self,
        regions: &mut Regions,
        pages: u32,
        align: u32,
        zero: bool,
    ) -> Option<PageId> {
        let run = self.find(regions, pages + align - 1)?;
        let (len, dirty) = self.remove(regions, run);
        let misaligned = (regions.address(run) / PAGE) as u32 & (align - 1);
        let front = if misaligned == 0 {
            0
        } else {
            align - misaligned
        };
        let id = run.up(front);
        let mut rest_dirty = dirty;
        if front > 0 {
            let front_dirty = count_dirty(regions, run, front);
            self.insert(regions, run, front, front_dirty);
            rest_dirty -= front_dirty;
        }
        rest_dirty -= self.take_pages(regions, id, pages, zero);
        if len > front + pages {
            self.insert(regions, id.up(pages), len - front - pages, rest_dirty);
        }
        Some(id)
    }

    /// Gives a run, or the later part of one, back. All its pages count as dirty.
    pub fn free(
        &mut self,
        regions: &mut Regions,
        id: PageId,
        pages: u32,
        release: Option<ReleaseHook>,
    ) {
        let (mut id, mut pages, mut dirty) = (id, pages, pages);
        self.dirty_free += dirty;
        regions.page_mut(id).kind = Kind::Inner;
        if id.index() + pages < regions.pages_beside(id)
            && regions.page(id.up(pages)).kind == Kind::Free
        {
            let (more, more_dirty) = self.remove(regions, id.up(pages));
            pages += more;
            dirty += more_dirty;
        }
        if id.index() > 0 {
            let before = regions.page(id.down(1));
            if matches!(before.kind, Kind::Free | Kind::FreeEnd) {
                // A free run of one page is its own end, and says so with the same field.
                id = id.down(before.pages);
                let (more, more_dirty) = self.remove(regions, id);
                pages += more;
                dirty += more_dirty;
            }
        }
        self.insert(regions, id, pages, dirty);
        self.since_release = self.since_release.saturating_add(1);
        if self.dirty_free > self.threshold
            && let Some(release) = release
        {
            if self.since_release > QUIET {
                self.threshold = (self.threshold / 2).max(THRESHOLD_MIN);
            }
            self.release(regions, release);
        }
    }

    /// Lengthens the run `id` from `pages` by `more`, if the pages behind it are free.
    pub fn extend(&mut self, regions: &mut Regions, id: PageId, pages: u32, more: u32) -> bool {
        if id.index() + pages >= regions.pages_beside(id) {
            return false;
        }
        let next = id.up(pages);
        if regions.page(next).kind != Kind::Free || regions.page(next).pages < more {
            return false;
        }
        let (len, dirty) = self.remove(regions, next);
        let rest_dirty = dirty - self.take_pages(regions, next, more, false);
        if len > more {
            self.insert(regions, next.up(more), len - more, rest_dirty);
        }
        true
    }

    /// Gives the dirty pages of all longer free runs back to the host.
    pub fn release(&mut self, regions: &mut Regions, release: ReleaseHook) {
        self.since_release = 0;
        for bin in (bin_of(RELEASE_MIN)..BINS).rev() {
            let mut run = self.heads[bin];
            while run != PageId::NONE {
                let page = regions.page(run);
                let (next, pages, dirty) = (page.next, page.pages, page.dirty);
                if dirty > 0 {
                    let cleaned = release_dirty(regions, run, pages, dirty, release);
                    regions.page_mut(run).dirty -= cleaned;
                    self.dirty -= cleaned;
                    self.dirty_free -= cleaned;
                    self.released += u64::from(cleaned);
                }
                run = next;
            }
        }
    }

    /// Marks pages of a run just removed as dirty and returns how many were so before.
    fn take_pages(&mut self, regions: &mut Regions, id: PageId, pages: u32, zero: bool) -> u32 {
        let mut were_dirty = 0;
        for_each_word(id.index(), pages, |word, mask| {
            let bits = &mut regions.dirty_bits(id)[word];
            let old = *bits & mask;
            *bits |= mask;
            were_dirty += old.count_ones();
            if zero && old != 0 {
                for bit in (0..64).filter(|bit| old >> bit & 1 != 0) {
                    let page = PageId::new(id.region(), word as u32 * 64 + bit);
                    let address = regions.address(page);
                    regions.zero(page, address, PAGE);
                }
            }
        });
        let fresh = pages - were_dirty;
        self.dirty_free -= were_dirty;
        self.dirty += fresh;
        if fresh >= RELEASE_MIN && self.since_release < SOON {
            self.threshold = (self.threshold * 2).min(THRESHOLD_MAX);
            self.since_release = SOON;
        }
        were_dirty
    }

    /// A free run of at least `pages`, still in its bin.
    fn find(&self, regions: &Regions, pages: u32) -> Option<PageId> {
        let own = bin_of(pages);
        // Runs in the request's own bin may be shorter than it, unless it is the shortest there.
        let sure = if pages == shortest_in(own) {
            own
        } else {
            own + 1
        };
        let candidates = u64::MAX.checked_shl(sure as u32).unwrap_or(0) & self.filled;
        if candidates != 0 {
            return Some(self.heads[candidates.trailing_zeros() as usize]);
        }
        // Nearly out of memory: look at each run of the own bin before giving up.
        let mut run = self.heads[own];
        while run != PageId::NONE && regions.page(run).pages < pages {
            run = regions.page(run).next;
        }
        (run != PageId::NONE).then_some(run)
    }

    fn insert(&mut self, regions: &mut Regions, id: PageId, pages: u32, dirty: u32) {
        self.free += pages;
        let bin = bin_of(pages);
        let next = self.heads[bin];
        let page = regions.page_mut(id);
        page.kind = Kind::Free;
        page.pages = pages;
        page.dirty = dirty;
        page.next = next;
        page.prev = PageId::NONE;
        if pages > 1 {
            let end = regions.page_mut(id.up(pages - 1));
            end.kind = Kind::FreeEnd;
            end.pages = pages;
        }
        if next != PageId::NONE {
            regions.page_mut(next).prev = id;
        }
        self.heads[bin] = id;
        self.filled |= 1 << bin;
    }

    /// Takes a run out of its bin: its length and how many of its pages are dirty.
    fn remove(&mut self, regions: &mut Regions, id: PageId) -> (u32, u32) {
        let page = regions.page_mut(id);
        page.kind = Kind::Inner;
        let (pages, dirty, next, prev) = (page.pages, page.dirty, page.next, page.prev);
        self.free -= pages;
        regions.page_mut(id.up(pages - 1)).kind = Kind::Inner;
        if next != PageId::NONE {
            regions.page_mut(next).prev = prev;
        }
        if prev == PageId::NONE {
            let bin = bin_of(pages);
            self.heads[bin] = next;
            if next == PageId::NONE {
                self.filled &= !(1 << bin);
            }
        } else {
            regions.page_mut(prev).next = next;
        }
        (pages, dirty)
    }
}

/// The bin for free runs of `pages`.
fn bin_of(pages: u32) -> usize {
    if pages <= 16 {
        return pages as usize - 1;
    }
    let log2 = pages.ilog2();
    16 + (log2 as usize - 4) * 2 + (pages >> (log2 - 1) & 1) as usize
}

/// The length of the shortest runs in a bin.
fn shortest_in(bin: usize) -> u32 {
    match bin {
        0..16 => bin as u32 + 1,
        16 => 17,
        _ => (2 + (bin as u32 & 1)) << (3 + (bin - 16) / 2),
    }
}

/// Calls `visit` with each word of a bitmap that bits `first..first + count` touch, and the mask of
/// those bits in it.
fn for_each_word(first: u32, count: u32, mut visit: impl FnMut(usize, u64)) {
    let (mut at, end) = (first, first + count);
    while at < end {
        let bit = at % 64;
        let here = (64 - bit).min(end - at);
        visit(at as usize / 64, u64::MAX >> (64 - here) << bit);
        at += here;
    }
}

fn count_dirty(regions: &mut Regions, id: PageId, pages: u32) -> u32 {
    let bits = regions.dirty_bits(id);
    let mut count = 0;
    for_each_word(id.index(), pages, |word, mask| {
        count += (bits[word] & mask).count_ones();
    });
    count
}

/// The first index in `from..end` whose bit, after `flip` is applied, is set; else `end`.
fn next_bit(bits: &[u64], from: u32, end: u32, flip: u64) -> u32 {
    let mut at = from;
    while at < end {
        let rest = (bits[at as usize / 64] ^ flip) >> (at % 64);
        if rest != 0 {
            return (at + rest.trailing_zeros()).min(end);
        }
        at = (at / 64 + 1) * 64;
    }
    end
}

/// Gives the dirty stretches of a free run back; returns how many dirty pages became clean.
fn release_dirty(
    regions: &mut Regions,
    run: PageId,
    pages: u32,
    dirty: u32,
    release: ReleaseHook,
) -> u32 {
    let end = run.index() + pages;
    let (mut at, mut cleaned) = (run.index(), 0);
    while cleaned < dirty {
        let bits = regions.dirty_bits(run);
        let first = next_bit(bits, at, end, 0);
        at = next_bit(bits, first, end, u64::MAX);
        // One call for stretches that lie close together is cheaper than two.
        loop {
            let next = next_bit(bits, at, end, 0);
            if next == end || next - at > RELEASE_MIN {
                break;
            }
            at = next_bit(bits, next, end, u64::MAX);
        }
        let start = PageId::new(run.region(), first);
        let stretch = count_dirty(regions, start, at - first);
        if !release(
            regions.pointer(start, at - first),
            (at - first) as usize * PAGE,
        ) {
            break;
        }
        let bits = regions.dirty_bits(run);
        for_each_word(first, at - first, |word, mask| bits[word] &= !mask);
        cleaned += stretch;
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_ordered_and_cover_all_lengths() {
        for pages in 1..100_000 {
            let bin = bin_of(pages);
            assert!(shortest_in(bin) <= pages, "{pages}");
            assert!(shortest_in(bin + 1) > pages, "{pages}");
        }
        assert!(bin_of(PageId::MAX_PAGES as u32) < BINS);
    }

    #[test]
    fn bits_are_found_across_words() {
        let bits = [1 << 63, 0, 0b100];
        assert_eq!(next_bit(&bits, 0, 192, 0), 63);
        assert_eq!(next_bit(&bits, 64, 192, 0), 130);
        assert_eq!(next_bit(&bits, 64, 120, 0), 120);
        assert_eq!(next_bit(&bits, 63, 192, u64::MAX), 64);
    }
}
