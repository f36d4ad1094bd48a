//! The tables of a program's memory, whose mappings come, go and change.
//!
//! Three differences to the library OS's memory: rights are any combination; absence is normal, and cheap to find over
//! ranges of terabytes; and what was there may be replaced. A table that was made stays for its 2 MiB of addresses, for a KVM that works by
//! page tables keeps shadows of tables by their place and is not told of changes that a monitor makes.

use kiln_abi::user::UserAccess;

use super::{
    ACCESSED_DIRTY, ADDRESS, ENTRIES, HUGE, LARGE, NO_EXECUTE, NoTable, PAGE, PRESENT, Tables,
    USER, WRITABLE,
};

/// What code in ring 3 may do with pages that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(u64);

impl Rights {
    /// Those of an access, `None` if nothing may be done. Whoever may write or execute may read.
    pub fn of(access: UserAccess) -> Option<Self> {
        let has = |one: UserAccess| access.bits() & one.bits() != 0;
        let write = if has(UserAccess::WRITE) { WRITABLE } else { 0 };
        let execute = if has(UserAccess::EXEC) { 0 } else { NO_EXECUTE };
        (access != UserAccess::NONE).then_some(Self(write | execute))
    }

    /// What both allow.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0 & WRITABLE | (self.0 | other.0) & NO_EXECUTE)
    }

    const fn bits(self) -> u64 {
        PRESENT | USER | ACCESSED_DIRTY | self.0
    }

    fn of_entry(entry: u64) -> Option<Self> {
        (entry & PRESENT != 0).then_some(Self(entry & (WRITABLE | NO_EXECUTE)))
    }
}

impl Tables<'_> {
    /// Maps `len` bytes (whole pages) at `virt` to `phys`, in place of what may be there. The two are the same modulo 2 MiB.
    ///
    /// # Errors
    /// [`NoTable`] if the pool is used up. A first part may have been mapped.
    pub fn open(&mut self, virt: u64, phys: u64, len: u64, rights: Rights) -> Result<(), NoTable> {
        let mut done = 0;
        while done < len {
            let (at, to) = (virt + done, phys + done);
            let step = (HUGE - at % HUGE).min(len - done);
            let slot = self.slot_of_block(at)?;
            let entry = *self.words.get(slot).ok_or(NoTable)?;
            let has_table = entry != 0 && entry & LARGE == 0;
            if step == HUGE && !has_table {
                *self.words.get_mut(slot).ok_or(NoTable)? = to | rights.bits() | LARGE;
            } else {
                let pages = self.pages(slot, at, step)?;
                for (page, next) in pages.iter_mut().zip(0..) {
                    *page = (to + next * PAGE) | rights.bits();
                }
            }
            done += step;
        }
        Ok(())
    }

    /// Takes `len` bytes (whole pages) at `virt` away, as far as they are there.
    ///
    /// # Errors
    /// [`NoTable`] if a large page must be divided and the pool is used up. Nothing has changed then but how pages are
    /// divided.
    pub fn close(&mut self, virt: u64, len: u64) -> Result<(), NoTable> {
        for edge in [virt, virt + len] {
            self.divide(edge)?;
        }
        let end = virt + len;
        let mut at = virt;
        while at < end {
            let (slot, size) = self.find(at);
            let Some(slot) = slot else {
                at = (at | (size - 1)) + 1;
                continue;
            };
            let step = (HUGE - at % HUGE).min(end - at);
            match self.words.get_mut(slot) {
                Some(entry) if *entry & LARGE != 0 => *entry = 0,
                _ => self.pages(slot, at, step)?.fill(0),
            }
            at += step;
        }
        Ok(())
    }

    /// What may be done at `virt`, and the number of bytes from there on, at most `len`, for which that holds at least.
    pub fn rights_at(&self, virt: u64, len: u64) -> (Option<Rights>, u64) {
        let (slot, size) = self.find(virt);
        let rest = (size - (virt & (size - 1))).min(len);
        let entry = slot.and_then(|slot| self.words.get(slot)).copied();
        let Some(entry) = entry else {
            return (None, rest);
        };
        if entry & LARGE != 0 {
            return (Rights::of_entry(entry), rest);
        }
        let pages = self.table_at(entry);
        let first = (virt / PAGE) as usize % ENTRIES;
        let pages = pages.get(first..).unwrap_or(&[]);
        let rights = pages.first().and_then(|&entry| Rights::of_entry(entry));
        let same = pages.iter().take_while(|&&e| Rights::of_entry(e) == rights);
        (rights, (same.count() as u64 * PAGE).max(PAGE).min(rest))
    }

    /// Where the entry for a block of 2 MiB lies, if all tables above it are there and it is not empty. With it the size of what is known:
    /// that of a block, or of what a missing table would map.
    fn find(&self, virt: u64) -> (Option<usize>, u64) {
        let mut table = 0;
        for level in (1..4u32).rev() {
            let shift = 12 + 9 * level;
            let size = 1 << shift;
            let slot = table * ENTRIES + (virt >> shift) as usize % ENTRIES;
            match self.words.get(slot) {
                None | Some(0) => return (None, size),
                Some(_) if level == 1 => return (Some(slot), size),
                Some(&entry) => table = self.index(entry),
            }
        }
        (None, HUGE)
    }

    /// The same, with the tables above it made as needed.
    fn slot_of_block(&mut self, virt: u64) -> Result<usize, NoTable> {
        let mut table = 0;
        for level in [3u32, 2] {
            let slot = table * ENTRIES + (virt >> (12 + 9 * level)) as usize % ENTRIES;
            let entry = *self.words.get(slot).ok_or(NoTable)?;
            table = if entry == 0 {
                self.link(slot)?
            } else {
                self.index(entry)
            };
        }
        Ok(table * ENTRIES + (virt / HUGE) as usize % ENTRIES)
    }

    /// The entries of `len` bytes at `virt`, which lie in one block, in the table that `slot` leads to or will lead to.
    fn pages(&mut self, slot: usize, virt: u64, len: u64) -> Result<&mut [u64], NoTable> {
        let entry = *self.words.get(slot).ok_or(NoTable)?;
        let table = match entry {
            0 => self.link(slot)?,
            entry if entry & LARGE != 0 => self.split(slot, entry)?,
            entry => self.index(entry),
        };
        let first = table * ENTRIES + (virt / PAGE) as usize % ENTRIES;
        let count = (len / PAGE) as usize;
        self.words.get_mut(first..first + count).ok_or(NoTable)
    }

    /// Divides the large page around `virt`, if there is one and it does not begin there.
    fn divide(&mut self, virt: u64) -> Result<(), NoTable> {
        let (Some(slot), _) = self.find(virt) else {
            return Ok(());
        };
        let entry = *self.words.get(slot).ok_or(NoTable)?;
        if entry & LARGE != 0 && !virt.is_multiple_of(HUGE) {
            self.split(slot, entry)?;
        }
        Ok(())
    }

    fn index(&self, entry: u64) -> usize {
        ((entry & ADDRESS).wrapping_sub(self.physical) / PAGE) as usize
    }

    fn table_at(&self, entry: u64) -> &[u64] {
        let first = self.index(entry) * ENTRIES;
        self.words.get(first..first + ENTRIES).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::super::tests::{pool, walk};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    const BASE: u64 = 0x10_0000;
    /// Virtual minus physical address: a multiple of 2 MiB.
    const APART: u64 = 0x5000_0000_0000 - (1 << 33);
    const READ: UserAccess = UserAccess::READ;

    fn rights(bits: u64) -> Rights {
        Rights::of(UserAccess::from_bits(bits).unwrap()).unwrap()
    }

    #[test]
    fn any_rights_but_none() {
        assert_eq!(Rights::of(UserAccess::NONE), None);
        let found = |bits| {
            let mut words = pool(8);
            let mut tables = Tables::new(&mut words, BASE, 1);
            let virt = APART + (1 << 33);
            tables.open(virt, 1 << 33, PAGE, rights(bits)).unwrap();
            let (_, write, user, execute) = walk(&words, virt).unwrap();
            assert!(user);
            (write, execute)
        };
        assert_eq!(found(1), (false, false));
        assert_eq!(found(3), (true, false));
        assert_eq!(found(4), (false, true));
        assert_eq!(found(7), (true, true));
        assert_eq!(rights(7).common(rights(1)), rights(1));
        assert_eq!(rights(5).common(rights(3)), rights(1));
    }

    #[test]
    fn terabytes_of_nothing_are_passed_quickly() {
        let mut words = pool(8);
        let mut tables = Tables::new(&mut words, BASE, 1);
        tables.close(0x1_0000, (1 << 47) - 0x1_0000).unwrap();
        assert_eq!(tables.used(), 1);
        assert_eq!(
            tables.rights_at(0x1_0000, 1 << 47),
            (None, (1 << 39) - 0x1_0000)
        );
    }

    #[test]
    fn the_end_of_the_pool_is_an_error_and_closing_changes_nothing_then() {
        let virt = APART + (1 << 33);
        let mut words = pool(3);
        let mut tables = Tables::new(&mut words, BASE, 1);
        tables.open(virt, 1 << 33, HUGE, rights(3)).unwrap();
        assert_eq!(tables.used(), 3);
        assert_eq!(tables.close(virt + PAGE, PAGE), Err(NoTable));
        assert_eq!(
            tables.rights_at(virt, HUGE),
            (Rights::of(UserAccess::from_bits(3).unwrap()), HUGE)
        );
        assert_eq!(
            tables.open(virt + HUGE, (1 << 33) + HUGE, PAGE, rights(3)),
            Err(NoTable)
        );
        tables.close(virt, HUGE).unwrap();
        assert_eq!(walk(&words, virt), None);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Open(u64, u64, u64),
        Close(u64, u64),
    }

    /// Pages from the start of four blocks of 2 MiB, mostly near their edges.
    fn page() -> impl Strategy<Value = u64> {
        (0..4u64, prop_oneof![Just(0), Just(511), 0..512u64]).prop_map(|(b, p)| b * 512 + p)
    }

    fn step() -> impl Strategy<Value = Step> {
        let len = || prop_oneof![1..4u64, Just(512), 1..1100u64];
        prop_oneof![
            (page(), len(), 1..8u64).prop_map(|(at, len, bits)| Step::Open(at, len, bits)),
            (page(), len()).prop_map(|(at, len)| Step::Close(at, len)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn tables_hold_what_a_list_of_pages_would(steps in proptest::collection::vec(step(), 1..20)) {
            let mut words = pool(16);
            let start = APART + (1 << 33);
            let mut model = BTreeMap::new();
            let mut tables = Tables::new(&mut words, BASE, 1);
            for step in &steps {
                match *step {
                    Step::Open(at, len, bits) => {
                        let phys = (1 << 33) + at * PAGE;
                        tables.open(start + at * PAGE, phys, len * PAGE, rights(bits)).unwrap();
                        model.extend((at..at + len).map(|page| (page, bits)));
                    }
                    Step::Close(at, len) => {
                        tables.close(start + at * PAGE, len * PAGE).unwrap();
                        model.retain(|page, _| !(at..at + len).contains(page));
                    }
                }
            }
            let all: Vec<_> = (0..4096u64).map(|page| tables.rights_at(start + page * PAGE, PAGE)).collect();
            for page in 0..4096u64 {
                let virt = start + page * PAGE;
                let expected = model.get(&page).map(|bits| (virt - APART, bits & 2 != 0, true, bits & 4 != 0));
                prop_assert_eq!(walk(&words, virt), expected, "page {}", page);
                let access = model.get(&page).map(|&bits| UserAccess::from_bits(bits | READ.bits()).unwrap());
                prop_assert_eq!(all[page as usize], (access.and_then(Rights::of), PAGE));
            }
        }
    }
}
