//! Memory that held something before: the guest is promised zeroes.
#![allow(unsafe_code)]

use kiln_abi::boot::MemoryKind;

use crate::firmware::{PVH_MAGIC, Region};
use crate::image::GUEST;
use crate::memory::Layout;
use crate::paging::PAGE;
use crate::physical::Physical;

/// The page between the machine part and the guest. It survives a reset, and tells the next start of this one.
const MARK_PLACE: u64 = GUEST - PAGE;
const MARK: u64 = u64::from_le_bytes(*b"KILN WAS");

/// Which memory was in use before. The guest is promised zeroes, and machines begin with them; but boot loaders use what
/// they like, and a reset keeps everything. `SeaBIOS` works right below the last 16 MiB under 4 GiB, in some 130 KiB, and
/// tells nobody, so four times that are looked through; `low_end` is the end of the usable part of memory there.
pub fn dirty(memory: &impl Physical, magic: u32, low_end: u64) -> Region {
    const MIB: u64 = 1 << 20;
    if magic != PVH_MAGIC || memory.u64(MARK_PLACE) == Some(MARK) {
        return Region {
            start: 0,
            end: u64::MAX,
        };
    }
    // A far jump, and behind it a date.
    let is_bios = matches!(
        memory.bytes(0xf_fff0, 16),
        Some([0xea, _, _, _, _, _, _, b'/', ..])
    );
    let end = low_end.next_multiple_of(MIB).saturating_sub(16 * MIB);
    let start = end.saturating_sub(if is_bios { MIB / 2 } else { 0 });
    Region { start, end }
}

/// Leaves the mark.
///
/// # Safety
/// The identity map of the start is in force.
pub unsafe fn mark() {
    // SAFETY: mapped, and nobody's.
    unsafe { (MARK_PLACE as *mut u64).write_volatile(MARK) };
}

/// Makes memory hold zeroes, touching only what does not.
pub fn clean(layout: &Layout, dirty: Region) {
    for range in layout
        .ranges()
        .iter()
        .filter(|r| r.kind == MemoryKind::Free as u32)
    {
        let start = range.physical.max(dirty.start);
        let end = (range.physical + range.len).min(dirty.end);
        for at in (start..end).step_by(PAGE as usize) {
            let page = (range.start + (at - range.physical)) as *mut [u64; 512];
            // SAFETY: a page of free memory, which the guest's page tables map, and the guest does not run yet.
            let page = unsafe { &mut *page };
            if page.iter().any(|word| *word != 0) {
                page.fill(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firmware::MULTIBOOT_MAGIC;
    use crate::physical::tests::Pieces;
    use std::vec;

    #[test]
    fn memory_is_dirty_behind_boot_loaders_resets_and_firmware() {
        let all = Region {
            start: 0,
            end: u64::MAX,
        };
        let mut bios = b"\xea\x5b\xe0\x00\xf006/23/99\0\0\0".to_vec();
        let mut memory = Pieces(vec![(0xf_fff0, bios.clone()), (MARK_PLACE, vec![0; 8])]);
        assert_eq!(dirty(&memory, MULTIBOOT_MAGIC, 0x3fe_0000), all);
        let band = Region {
            start: 0x2f8_0000,
            end: 0x300_0000,
        };
        assert_eq!(dirty(&memory, PVH_MAGIC, 0x3fe_0000), band);
        bios[0] = 0xe9;
        memory.0[0].1 = bios;
        let none = dirty(&memory, PVH_MAGIC, 0x3fe_0000);
        assert_eq!(none.start, none.end);
        memory.0[1].1 = b"KILN WAS".to_vec();
        assert_eq!(dirty(&memory, PVH_MAGIC, 0x3fe_0000), all);
    }
}
