//! What a guest asks of its page tables, checked by walking them as a processor does.
//!
//! After any number of changes each page has the rights that were set for it last, none is writable and executable, and
//! none leads outside of the memory it was mapped to.
#![no_main]

use kiln_gate::paging::{Access, HUGE, Tables, pool_pages};
use libfuzzer_sys::fuzz_target;

const PAGE: u64 = 4096;
const POOL: u64 = 0x10_0000;
const VIRTUAL: u64 = 0x3100_0000_0000 + 3 * PAGE;
const PHYSICAL: u64 = 0x1_0000_0000 + 3 * PAGE;
const LENGTH: u64 = 3 * HUGE + 7 * PAGE;

fuzz_target!(|operations: Vec<(u16, u16, u8)>| {
    let pages = LENGTH / PAGE;
    let mut words = vec![0; pool_pages(LENGTH, 1) as usize * 512];
    let mut expected = vec![Access::ReadWrite; pages as usize];
    let mut tables = Tables::new(&mut words, POOL, 1);
    tables
        .map(VIRTUAL, PHYSICAL, LENGTH, Access::ReadWrite, true)
        .expect("the pool is enough for a start");
    let mut used = tables.used();
    for (first, count, access) in operations {
        let first = u64::from(first) % pages;
        let count = (1 + u64::from(count)).min(pages - first);
        let access = match access % 3 {
            0 => Access::None,
            1 => Access::Read,
            _ => Access::ReadWrite,
        };
        let mut tables = Tables::new(&mut words, POOL, used);
        tables
            .protect(VIRTUAL + first * PAGE, count * PAGE, access)
            .expect("the pool is enough for anything");
        used = tables.used();
        expected[first as usize..(first + count) as usize].fill(access);
    }
    for (page, &access) in (0u64..).zip(&expected) {
        let found = walk(&words, VIRTUAL + page * PAGE);
        match access {
            Access::None => assert_eq!(found, None),
            Access::Read => assert_eq!(found, Some((PHYSICAL + page * PAGE, false))),
            _ => assert_eq!(found, Some((PHYSICAL + page * PAGE, true))),
        }
    }
    assert_eq!(walk(&words, VIRTUAL - PAGE), None);
    assert_eq!(walk(&words, VIRTUAL + LENGTH), None);
});

/// The physical address and whether it may be written, for ring 3; nothing here may be executed.
fn walk(words: &[u64], at: u64) -> Option<(u64, bool)> {
    let mut table = 0;
    let (mut writable, mut executable) = (true, true);
    for level in (0..4).rev() {
        let entry = words[table * 512 + (at >> (12 + 9 * level)) as usize % 512];
        if entry & 1 == 0 {
            return None;
        }
        assert!(entry & 4 != 0, "a supervisor page");
        writable &= entry & 2 != 0;
        executable &= entry >> 63 == 0;
        let size = PAGE << (9 * level);
        let address = entry & 0x000f_ffff_ffff_f000;
        if level == 0 || entry & 0x80 != 0 {
            assert!(!executable);
            return Some(((address & !(size - 1)) + at % size, writable));
        }
        table = ((address - POOL) / PAGE) as usize;
    }
    None
}
