//! Building page tables (SDM volume 3, section 4.5: four levels).
//!
//! The tables are values in a slice whose physical address is known; nothing here touches those in force.

/// Bits of an entry.
pub mod flag {
    /// The entry maps something.
    pub const PRESENT: u64 = 1;
    /// Writing is allowed.
    pub const WRITE: u64 = 1 << 1;
    /// Ring 3 has access.
    pub const USER: u64 = 1 << 2;
    /// Writes go through the caches.
    pub const WRITE_THROUGH: u64 = 1 << 3;
    /// The caches are not used.
    pub const UNCACHED: u64 = 1 << 4;
    /// The entry maps a large page, not a table.
    pub const LARGE: u64 = 1 << 7;
    /// Nothing is executed.
    pub const NO_EXECUTE: u64 = 1 << 63;
}

/// What a range may be used for.
pub mod access {
    use super::flag;

    /// Code of ring 3.
    pub const CODE: u64 = flag::PRESENT | flag::USER;
    /// Constants of ring 3.
    pub const CONSTANT: u64 = CODE | flag::NO_EXECUTE;
    /// Data of ring 3.
    pub const DATA: u64 = CONSTANT | flag::WRITE;
    /// Registers of devices.
    pub const DEVICE: u64 = DATA | flag::UNCACHED | flag::WRITE_THROUGH;
    /// Code of ring 0.
    pub const CODE0: u64 = flag::PRESENT;
    /// Data of ring 0.
    pub const DATA0: u64 = flag::PRESENT | flag::WRITE | flag::NO_EXECUTE;
    /// Everything, at the start.
    pub const ALL: u64 = CODE | flag::WRITE;
}

/// The bits of an entry that are an address.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bytes of a large page.
pub const LARGE_PAGE: u64 = 2 << 20;

/// One table.
pub type Table = [u64; 512];

/// Page tables under construction. The first table is the root.
#[derive(Debug)]
pub struct Tables<'a> {
    memory: &'a mut [Table],
    base: u64,
    used: usize,
}

impl<'a> Tables<'a> {
    /// Empty page tables, made of `tables` at physical address `base`.
    pub fn new(tables: &'a mut [Table], base: u64) -> Self {
        let mut new = Self {
            memory: tables,
            base,
            used: 0,
        };
        new.add();
        new
    }

    /// Physical address of the root.
    pub fn root(&self) -> u64 {
        self.base
    }

    /// Lets the addresses of an entry of the highest level be found by another one too.
    pub fn alias(&mut self, entry: u64, of: u64) {
        let root = self.memory.first_mut();
        let found =
            root.and_then(|root| Some((*root.get(of as usize)?, root.get_mut(entry as usize)?)));
        if let Some((from, to)) = found {
            *to = from;
        }
    }

    /// How many tables are in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// A new table's index.
    fn add(&mut self) -> Option<usize> {
        self.memory.get_mut(self.used)?.fill(0);
        self.used += 1;
        Some(self.used - 1)
    }

    /// Maps `len` bytes from `address` on to those from `physical` on, by large pages where all three fit. All are
    /// multiples of the page size. `None` if there are not enough tables, or something is mapped there already.
    pub fn map(&mut self, address: u64, physical: u64, len: u64, access: u64) -> Option<()> {
        let end = address.checked_add(len).filter(|end| *end <= 1 << 47)?;
        let (mut at, mut physical) = (address, physical);
        while at < end {
            // The last table on the way stays the same for 1 GiB, or 2 MiB.
            let large = (at | physical).is_multiple_of(LARGE_PAGE) && end - at >= LARGE_PAGE;
            let (level, size, kind) = if large {
                (1, LARGE_PAGE, flag::LARGE)
            } else {
                (0, PAGE, 0)
            };
            let table = self.table_for(at, level)?;
            let mut index = (at / size % 512) as usize;
            while index < 512 && end - at >= size {
                let next_large = (at | physical).is_multiple_of(LARGE_PAGE);
                if !large && next_large && end - at >= LARGE_PAGE {
                    break;
                }
                let entry = self.memory.get_mut(table)?.get_mut(index)?;
                if *entry != 0 {
                    return None;
                }
                *entry = physical | access | kind;
                at += size;
                physical += size;
                index += 1;
            }
        }
        Some(())
    }

    /// The table that holds entries of `level` (0: pages, 1: large pages) for `address`.
    fn table_for(&mut self, address: u64, level: u32) -> Option<usize> {
        let mut table = 0;
        for above in (level + 1..4).rev() {
            let index = (address >> (12 + 9 * above) & 511) as usize;
            let entry = *self.memory.get(table)?.get(index)?;
            table = if entry == 0 {
                let new = self.add()?;
                let physical = self.base + (new * size_of::<Table>()) as u64;
                *self.memory.get_mut(table)?.get_mut(index)? = physical | access::ALL;
                new
            } else if entry & flag::LARGE != 0 {
                return None;
            } else {
                ((entry & ADDRESS).checked_sub(self.base)? / size_of::<Table>() as u64) as usize
            };
        }
        Some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    const BASE: u64 = 0x70_0000;

    fn build(count: usize, maps: &[(u64, u64, u64, u64)]) -> (Vec<Table>, Option<()>) {
        let mut memory = vec![[0xabu64; 512]; count];
        let mut tables = Tables::new(&mut memory, BASE);
        let done = maps.iter().try_for_each(|m| tables.map(m.0, m.1, m.2, m.3));
        (memory, done)
    }

    /// What the processor would find: entry and size of the page.
    fn walk(memory: &[Table], address: u64) -> Option<(u64, u64)> {
        let mut table = BASE;
        for level in (0..4).rev() {
            let index = (address >> (12 + 9 * level) & 511) as usize;
            let entry = memory[((table - BASE) / 4096) as usize][index];
            if entry & flag::PRESENT == 0 {
                return None;
            }
            if level == 0 || entry & flag::LARGE != 0 {
                return Some((entry, 1 << (12 + 9 * level)));
            }
            table = entry & ADDRESS;
        }
        None
    }

    #[test]
    fn every_page_is_mapped_where_it_should_and_no_other() {
        let (start, physical, len) = (0x7f12_345f_d000, 0x89_fd000, 0x80_5000);
        let (memory, done) = build(8, &[(start, physical, len, access::DATA)]);
        assert_eq!(done, Some(()));
        let mut at = start;
        let mut large = 0;
        while at < start + len {
            let (entry, size) = walk(&memory, at).unwrap();
            let offset = at & (size - 1);
            assert_eq!(
                (entry & ADDRESS & !(size - 1)) + offset,
                physical + (at - start),
                "{at:x}"
            );
            assert_eq!(entry & access::DATA, access::DATA);
            large += u64::from(size == LARGE_PAGE);
            at += PAGE;
        }
        assert_eq!(large, 4 * 512);
        assert_eq!(walk(&memory, start - 1), None);
        assert_eq!(walk(&memory, start + len), None);
    }

    #[test]
    fn large_pages_need_both_addresses_aligned() {
        let (memory, done) = build(8, &[(0x4000_0000, 0x20_1000, 0x40_0000, access::CODE)]);
        assert_eq!(done, Some(()));
        assert_eq!(
            walk(&memory, 0x4000_0000),
            Some((0x20_1000 | access::CODE, PAGE))
        );
    }

    #[test]
    fn four_gibibytes_take_six_tables() {
        let (memory, done) = build(6, &[(0, 0, 1 << 32, access::ALL)]);
        assert_eq!(done, Some(()));
        assert_eq!(
            walk(&memory, 0xfee0_0000).map(|(e, _)| e & ADDRESS),
            Some(0xfee0_0000)
        );
        assert_eq!(build(5, &[(0, 0, 1 << 32, access::ALL)]).1, None);
    }

    #[test]
    fn nothing_is_mapped_twice_or_beyond_ring_3() {
        let data = access::DATA;
        assert_eq!(
            build(9, &[(0x1000, 0, 0x2000, data), (0x2000, 0, 0x1000, data)]).1,
            None
        );
        assert_eq!(
            build(9, &[(0, 0, 0x20_0000, data), (0x1000, 0, 0x1000, data)]).1,
            None
        );
        assert_eq!(build(9, &[(0x7fff_ffff_f000, 0, 0x2000, data)]).1, None);
        assert_eq!(build(9, &[(u64::MAX - 0xfff, 0, 0x2000, data)]).1, None);
        assert_eq!(build(0, &[(0, 0, 0x1000, data)]).1, None);
    }
}
