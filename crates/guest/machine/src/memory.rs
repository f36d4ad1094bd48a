//! The guest's memory: its ranges, and what it and devices may do with them.

use kiln_abi::boot::MemoryKind;
use kiln_abi::op::{OpError, Segment};
use kiln_abi::perform::Memory;

/// The most ranges of free memory.
pub const MAX_FREE: usize = 8;
/// The most ranges: image, boot record, two stacks, free memory, and with a program the root image.
pub const MAX_RANGES: usize = 4 + MAX_FREE + cfg!(feature = "program") as usize;

/// A range of the guest's addresses, contiguous in physical memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Physical address of the first byte.
    pub physical: u64,
    /// A [`MemoryKind`]; 0 for none.
    pub kind: u32,
}

impl Range {
    /// True if `len` bytes from `address` on lie inside.
    pub fn contains(&self, address: u64, len: u64) -> bool {
        let end = self.start.saturating_add(self.len);
        address >= self.start && address.checked_add(len).is_some_and(|e| e <= end)
    }
}

/// All of the guest's memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    /// The ranges, in ascending order of addresses; unused ones at the end.
    pub ranges: [Range; MAX_RANGES],
    /// How many there are.
    pub count: usize,
    /// The image's writable segments without the pages sealed at their start, a part of its range.
    pub data: Range,
    /// The image's executable segments, likewise.
    pub text: Range,
    /// The largest range of free memory, where most buffers lie.
    #[cfg(feature = "net")]
    most: Range,
}

impl Layout {
    /// No memory.
    pub const EMPTY: Self = {
        const NONE: Range = Range {
            start: 0,
            len: 0,
            physical: 0,
            kind: 0,
        };
        Self {
            ranges: [NONE; MAX_RANGES],
            count: 0,
            data: NONE,
            text: NONE,
            #[cfg(feature = "net")]
            most: NONE,
        }
    };

    /// Adds a range. One too many is left out.
    pub fn add(&mut self, kind: MemoryKind, start: u64, physical: u64, len: u64) {
        let mut new = Range {
            start,
            len,
            physical,
            kind: kind as u32,
        };
        if self.count >= MAX_RANGES {
            return;
        }
        #[cfg(feature = "net")]
        if kind == MemoryKind::Free && len > self.most.len {
            self.most = new;
        }
        for range in self.ranges.iter_mut().take(self.count) {
            if range.start > new.start {
                core::mem::swap(range, &mut new);
            }
        }
        if let Some(free) = self.ranges.get_mut(self.count) {
            *free = new;
            self.count += 1;
        }
    }

    /// The ranges.
    pub fn ranges(&self) -> &[Range] {
        self.ranges.get(..self.count).unwrap_or_default()
    }

    /// The range of a kind, the first if there are several.
    pub fn of(&self, kind: MemoryKind) -> Range {
        let found = self.ranges().iter().find(|r| r.kind == kind as u32);
        found.copied().unwrap_or_default()
    }

    /// Whether a range may be read, or written. Pages of stacks and free memory that the guest has protected since then count
    /// too.
    pub fn allows(&self, address: u64, len: u64, writable: bool) -> bool {
        // Several times for each frame.
        #[cfg(feature = "net")]
        if self.most.contains(address, len) || self.data.contains(address, len) {
            return true;
        }
        let holds = |range: &Range| {
            let read_only =
                range.kind == MemoryKind::Image as u32 || range.kind == MemoryKind::Boot as u32;
            let root = range.kind == MemoryKind::Root as u32;
            range.contains(address, len) && !(writable && read_only) && !root
        };
        self.ranges().iter().any(holds) || self.data.contains(address, len)
    }

    /// Whether a range is free memory.
    pub fn is_free(&self, address: u64, len: u64) -> bool {
        let free = |range: &&Range| range.kind == MemoryKind::Free as u32;
        self.ranges()
            .iter()
            .filter(free)
            .any(|range| range.contains(address, len))
    }

    /// The physical address of a byte, and how many bytes from there on are contiguous.
    pub fn translate(&self, address: u64) -> Option<(u64, u64)> {
        let range = self
            .ranges()
            .iter()
            .find(|range| range.contains(address, 1))?;
        let offset = address - range.start;
        Some((range.physical + offset, range.len - offset))
    }
}

/// The guest's memory, for the walk through a batch.
#[derive(Clone, Copy, Debug)]
pub struct GuestMemory<'a>(pub &'a Layout);

impl Memory for GuestMemory<'_> {
    #[allow(unsafe_code)]
    fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), OpError> {
        let len = into.len() as u64;
        self.check(Segment { addr, len }, false)?;
        // SAFETY: the range is mapped guest memory; should the guest have taken its own access away, the fault ends the
        // guest (see `trap`).
        unsafe { core::ptr::copy_nonoverlapping(addr as *const u8, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    #[allow(unsafe_code)]
    fn write(&self, addr: u64, from: &[u8]) -> Result<(), OpError> {
        let len = from.len() as u64;
        self.check(Segment { addr, len }, true)?;
        // SAFETY: as for reading.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), addr as *mut u8, from.len()) };
        Ok(())
    }

    fn check(&self, buffer: Segment, writable: bool) -> Result<(), OpError> {
        if buffer.len == 0 || self.0.allows(buffer.addr, buffer.len, writable) {
            Ok(())
        } else {
            Err(OpError::BadAddress)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_sorted_and_asked() {
        let mut layout = Layout::EMPTY;
        layout.add(MemoryKind::Free, 0x9000, 0x1000, 0x2000);
        layout.add(MemoryKind::Image, 0x1000, 0x20_0000, 0x3000);
        layout.add(MemoryKind::Boot, 0x6000, 0x8000, 0x1000);
        layout.data = Range {
            start: 0x3000,
            len: 0x1000,
            ..Range::default()
        };
        let starts: std::vec::Vec<_> = layout.ranges().iter().map(|r| r.start).collect();
        assert_eq!(starts, [0x1000, 0x6000, 0x9000]);
        assert!(layout.allows(0x1000, 0x3000, false) && !layout.allows(0x1000, 0x3001, false));
        assert!(layout.allows(0x3000, 0x1000, true) && !layout.allows(0x2fff, 2, true));
        assert!(!layout.allows(0x6000, 8, true) && layout.allows(0x9000, 0x2000, true));
        assert!(!layout.allows(u64::MAX, 2, false) && !layout.allows(0x9000, u64::MAX, false));
        assert_eq!(layout.translate(0x9008), Some((0x1008, 0x1ff8)));
        assert_eq!(layout.translate(0xb000), None);
        assert!(layout.is_free(0x9000, 0x2000) && !layout.is_free(0x6000, 1));
        for index in 0..20 {
            layout.add(MemoryKind::Free, 0x10_0000 + index * 0x10_0000, 0, 0x1000);
        }
        assert_eq!(layout.count, MAX_RANGES);
    }
}
