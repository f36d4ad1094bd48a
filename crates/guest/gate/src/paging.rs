//! Page tables of a guest in a virtual machine (Intel SDM volume 3, section 4.5: four-level paging).
//!
//! The monitor builds them before the guest runs, with the same code that later changes protections in them. They lie in
//! memory that is the guest's physical memory but that no guest code can reach: all tables are on supervisor pages.
//! Pages of the pool are handed out in order and never come back; the pool is made so large that even a guest that
//! protects every single page finds room ([`pool_pages`]). What maps a program's memory comes from the same pool, and an
//! operation for which that is too small fails ([`program`]).

pub mod program;

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Bytes that an entry of the second-lowest level maps when it is a page itself.
pub const HUGE: u64 = 2 << 20;
const ENTRIES: usize = 512;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Set from the start, so that the processor never writes to the tables.
const ACCESSED_DIRTY: u64 = 1 << 5 | 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What code in ring 3 may do with a page, or, for the last two, code in ring 0 only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
    /// Read and execute in ring 0.
    SupervisorReadExecute,
    /// Read and write in ring 0.
    SupervisorReadWrite,
}

impl Access {
    const fn bits(self) -> u64 {
        match self {
            Self::None => USER | NO_EXECUTE,
            Self::Read => PRESENT | USER | NO_EXECUTE,
            Self::ReadWrite => PRESENT | USER | WRITABLE | NO_EXECUTE,
            Self::ReadExecute => PRESENT | USER,
            Self::SupervisorReadExecute => PRESENT,
            Self::SupervisorReadWrite => PRESENT | WRITABLE | NO_EXECUTE,
        }
    }
}

/// The pool is used up, or an address is not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTable;

/// Page tables in a pool of pages, the first of which is the root.
#[derive(Debug)]
pub struct Tables<'a> {
    /// The pool, whole pages, zeroed.
    words: &'a mut [u64],
    /// Physical address of the pool.
    physical: u64,
    /// Pages handed out.
    used: usize,
}

impl<'a> Tables<'a> {
    /// The tables in `words`, which lie at `physical` in the guest, with `used` pages handed out so far, at least the
    /// root.
    pub fn new(words: &'a mut [u64], physical: u64, used: usize) -> Self {
        Self {
            words,
            physical,
            used: used.max(1),
        }
    }

    /// Pages handed out.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Maps `len` bytes (whole pages) at `virt` to `phys`. With `huge`, parts that are aligned in both use 2 MiB pages.
    ///
    /// # Errors
    /// [`NoTable`] if the pool is too small.
    pub fn map(
        &mut self,
        virt: u64,
        phys: u64,
        len: u64,
        access: Access,
        huge: bool,
    ) -> Result<(), NoTable> {
        let mut done = 0;
        while done < len {
            let (at, to) = (virt + done, phys + done);
            let large =
                huge && at.is_multiple_of(HUGE) && to.is_multiple_of(HUGE) && len - done >= HUGE;
            let (level, step, size) = if large {
                (1, HUGE, LARGE)
            } else {
                (0, PAGE, 0)
            };
            let entry = self.entry(at, level)?;
            *entry = (to & ADDRESS) | access.bits() | ACCESSED_DIRTY | size;
            done += step;
        }
        Ok(())
    }

    /// Changes what may be done with `len` bytes (whole pages) at `virt`, which are mapped. The caller flushes the TLB.
    ///
    /// # Errors
    /// [`NoTable`] if a page is not mapped.
    pub fn protect(&mut self, virt: u64, len: u64, access: Access) -> Result<(), NoTable> {
        let mut done = 0;
        while done < len {
            let at = virt + done;
            let whole = at.is_multiple_of(HUGE) && len - done >= HUGE;
            if whole {
                let entry = self.entry(at, 1)?;
                if *entry & LARGE != 0 {
                    *entry = (*entry & (ADDRESS | LARGE | ACCESSED_DIRTY)) | access.bits();
                    done += HUGE;
                    continue;
                }
            }
            let entry = self.entry(at, 0)?;
            if *entry & ADDRESS == 0 {
                return Err(NoTable);
            }
            *entry = (*entry & (ADDRESS | ACCESSED_DIRTY)) | access.bits();
            done += PAGE;
        }
        Ok(())
    }

    /// The entry for `virt` in the table of `level` (0 the lowest), with the tables above it made as needed.
    fn entry(&mut self, virt: u64, level: u32) -> Result<&mut u64, NoTable> {
        let mut table = 0usize;
        let mut at = 3;
        loop {
            let index = (virt >> (12 + 9 * at)) as usize % ENTRIES;
            let slot = table * ENTRIES + index;
            if at == level {
                return self.words.get_mut(slot).ok_or(NoTable);
            }
            let entry = *self.words.get(slot).ok_or(NoTable)?;
            table = if entry == 0 {
                self.link(slot)?
            } else if entry & LARGE != 0 && at == 1 {
                self.split(slot, entry)?
            } else {
                ((entry & ADDRESS).wrapping_sub(self.physical) / PAGE) as usize
            };
            at -= 1;
        }
    }

    /// Replaces a 2 MiB page by a table of 4 KiB pages with the same rights.
    fn split(&mut self, slot: usize, entry: u64) -> Result<usize, NoTable> {
        let page = self.take()?;
        let table = self
            .words
            .get_mut(page * ENTRIES..(page + 1) * ENTRIES)
            .ok_or(NoTable)?;
        let mut next = entry & !LARGE;
        for small in table {
            *small = next;
            next += PAGE;
        }
        *self.words.get_mut(slot).ok_or(NoTable)? = self.leading_to(page);
        Ok(page)
    }

    /// A new, empty table behind an entry.
    fn link(&mut self, slot: usize) -> Result<usize, NoTable> {
        let page = self.take()?;
        *self.words.get_mut(slot).ok_or(NoTable)? = self.leading_to(page);
        Ok(page)
    }

    /// An entry that leads to a table. Rights are decided by the lowest entry alone.
    fn leading_to(&self, page: usize) -> u64 {
        (self.physical + page as u64 * PAGE) | PRESENT | WRITABLE | USER | ACCESSED_DIRTY
    }

    fn take(&mut self) -> Result<usize, NoTable> {
        let page = self.used;
        if (page + 1) * ENTRIES > self.words.len() {
            return Err(NoTable);
        }
        self.used += 1;
        Ok(page)
    }
}

/// Pages that are enough for tables of `parts` separate ranges of `bytes` in all, whatever protections are set.
pub const fn pool_pages(bytes: u64, parts: u64) -> u64 {
    // For each level, what the range fills and one more at either end.
    1 + parts * 6
        + bytes.div_ceil(HUGE)
        + bytes.div_ceil(HUGE * 512)
        + bytes.div_ceil(HUGE * 512 * 512)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;
    use std::vec::Vec;

    const BASE: u64 = 0x10_0000;

    /// What the processor would find: physical address and the rights that all levels agree on.
    pub(super) fn walk(words: &[u64], virt: u64) -> Option<(u64, bool, bool, bool)> {
        let mut table = 0;
        let (mut write, mut user, mut execute) = (true, true, true);
        for level in (0..4).rev() {
            let entry = words[table * 512 + (virt >> (12 + 9 * level)) as usize % 512];
            if entry & PRESENT == 0 {
                return None;
            }
            write &= entry & WRITABLE != 0;
            user &= entry & USER != 0;
            execute &= entry & NO_EXECUTE == 0;
            let size = PAGE << (9 * level);
            if level == 0 || entry & LARGE != 0 {
                let address = entry & ADDRESS & !(size - 1);
                return Some((address + virt % size, write, user, execute));
            }
            table = ((entry & ADDRESS) - BASE) as usize / 4096;
        }
        None
    }

    pub(super) fn pool(pages: u64) -> Vec<u64> {
        vec![0; pages as usize * 512]
    }

    #[test]
    fn pages_are_found_with_their_rights() {
        let mut words = pool(20);
        let mut tables = Tables::new(&mut words, BASE, 1);
        let text = 0x1234_5678_9000;
        tables
            .map(text, 0x1_0000_0000, 0x3000, Access::ReadExecute, false)
            .unwrap();
        tables
            .map(
                text + 0x3000,
                0x1_0000_3000,
                0x1000,
                Access::ReadWrite,
                false,
            )
            .unwrap();
        tables
            .map(
                text + 0x5000,
                0x1_0000_5000,
                0x1000,
                Access::SupervisorReadWrite,
                false,
            )
            .unwrap();
        assert_eq!(
            walk(&words, text + 0x2fff),
            Some((0x1_0000_2fff, false, true, true))
        );
        assert_eq!(
            walk(&words, text + 0x3001),
            Some((0x1_0000_3001, true, true, false))
        );
        assert_eq!(walk(&words, text + 0x4000), None, "a gap");
        assert_eq!(
            walk(&words, text + 0x5000),
            Some((0x1_0000_5000, true, false, false))
        );
        assert_eq!(walk(&words, 0), None);
    }

    #[test]
    fn large_pages_are_used_where_they_fit_and_split_when_protected() {
        let mut words = pool(20);
        let (virt, phys) = (0x7000_0000_0000 - PAGE, 0x2_0000_0000 - PAGE);
        let len = 2 * HUGE + 2 * PAGE;
        let mut tables = Tables::new(&mut words, BASE, 1);
        tables
            .map(virt, phys, len, Access::ReadWrite, true)
            .unwrap();
        let before = tables.used();
        tables
            .protect(virt + PAGE + HUGE + 5 * PAGE, PAGE, Access::None)
            .unwrap();
        assert_eq!(tables.used(), before + 1, "one table for the pieces");
        for page in 0..len / PAGE {
            let at = virt + page * PAGE;
            let hole = page == 1 + 512 + 5;
            let expected = (!hole).then_some((phys + page * PAGE, true, true, false));
            assert_eq!(walk(&words, at), expected, "page {page}");
        }
        Tables::new(&mut words, BASE, before + 1)
            .protect(virt, len, Access::Read)
            .unwrap();
        for page in 0..len / PAGE {
            let found = walk(&words, virt + page * PAGE);
            assert_eq!(found, Some((phys + page * PAGE, false, true, false)));
        }
    }

    #[test]
    fn what_is_not_mapped_cannot_be_protected() {
        let mut words = pool(8);
        let mut tables = Tables::new(&mut words, BASE, 1);
        tables
            .map(0x1000_0000, 0x5000, PAGE, Access::Read, false)
            .unwrap();
        assert_eq!(
            tables.protect(0x1000_1000, PAGE, Access::Read),
            Err(NoTable)
        );
    }

    #[test]
    fn the_pool_is_enough_for_the_worst_and_its_end_is_an_error() {
        let len = 5 * HUGE + 3 * PAGE;
        for virt in [0, PAGE, HUGE - PAGE, (1 << 39) - PAGE] {
            let mut words = pool(pool_pages(len, 1));
            let mut tables = Tables::new(&mut words, BASE, 1);
            tables
                .map(virt, HUGE, len, Access::ReadWrite, true)
                .unwrap();
            for page in 0..len / PAGE {
                tables
                    .protect(virt + page * PAGE, PAGE, Access::None)
                    .unwrap();
            }
        }
        let mut words = pool(3);
        let mut tables = Tables::new(&mut words, BASE, 1);
        assert_eq!(
            tables.map(PAGE, PAGE, PAGE, Access::Read, false),
            Err(NoTable)
        );
    }
}
