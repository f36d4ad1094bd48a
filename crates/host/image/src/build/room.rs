//! Where in an image file bytes go that are not the guest's.
//!
//! Segments start on pages, so there are holes between them in the file. What nobody loads goes there first: sections'
//! names, say. Holes behind code are left alone: a loader that maps whole pages would make their content executable.

use std::ops::Range;

use object::elf::{self, ProgramHeader64};
use object::read::elf::ProgramHeader;

use super::finish::{E, Endian};

/// An image file in the making: the guest's segments, holes between them, and what was put there and behind them.
pub(super) struct Room {
    pub out: Vec<u8>,
    holes: Vec<Range<usize>>,
}

impl Room {
    /// The file whose segments are in `out`, described by `segments`.
    pub fn new(out: Vec<u8>, segments: &[ProgramHeader64<Endian>]) -> Self {
        let mut used: Vec<(usize, usize, bool)> = segments
            .iter()
            .filter(|segment| segment.p_type(E) == elf::PT_LOAD)
            .map(|segment| {
                let start = segment.p_offset(E) as usize;
                let end = start.saturating_add(segment.p_filesz(E) as usize);
                (start, end, segment.p_flags(E).contains(elf::PF_X))
            })
            .collect();
        used.sort_unstable();
        let holes = used
            .windows(2)
            .filter(|pair| !pair[0].2)
            .map(|pair| pair[0].1..pair[1].0)
            .filter(|hole| hole.start < hole.end && hole.end <= out.len())
            .collect();
        Self { out, holes }
    }

    /// Puts `bytes` into the first hole that is large enough, or behind everything. Returns their offset in the file.
    pub fn place(&mut self, bytes: &[u8], align: usize) -> usize {
        for hole in &mut self.holes {
            let start = hole.start.next_multiple_of(align);
            let end = start.saturating_add(bytes.len());
            if end <= hole.end {
                self.out[start..end].copy_from_slice(bytes);
                hole.start = end;
                return start;
            }
        }
        self.out.resize(self.out.len().next_multiple_of(align), 0);
        let start = self.out.len();
        self.out.extend_from_slice(bytes);
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::endian::{U32, U64};

    fn segment(offset: u64, len: u64, flags: elf::ProgramFlags) -> ProgramHeader64<Endian> {
        ProgramHeader64 {
            p_type: U32::new(E, elf::PT_LOAD),
            p_flags: U32::new(E, flags),
            p_offset: U64::new(E, offset),
            p_vaddr: U64::new(E, offset),
            p_paddr: U64::new(E, offset),
            p_filesz: U64::new(E, len),
            p_memsz: U64::new(E, len),
            p_align: U64::new(E, 0x10),
        }
    }

    #[test]
    fn holes_are_used_first_but_not_those_behind_code() {
        let segments = [
            segment(0x40, 0x12, elf::PF_R | elf::PF_W),
            segment(0, 5, elf::PF_R),
            segment(0x20, 5, elf::PF_R | elf::PF_X),
            segment(0x60, 3, elf::PF_R | elf::PF_W),
        ];
        let mut room = Room::new(vec![0; 0x63], &segments);
        assert_eq!(room.place(&[1; 20], 4), 8);
        assert_eq!(room.place(&[2; 12], 4), 0x54);
        assert_eq!(room.place(&[3; 4], 4), 28);
        assert_eq!(room.place(&[4; 1], 4), 0x64);
        assert_eq!(room.out.len(), 0x65);
        assert_eq!(room.out[0x25..0x40], [0; 0x1b]);
    }
}
