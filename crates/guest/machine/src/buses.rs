//! Access to buses: windows of device registers, and PCI's configuration space.
#![allow(unsafe_code)]

use core::ptr::NonNull;

use kiln_virtio::pci::{Bus, Function};
use kiln_virtio::{Mmio, Registers};

use crate::cpu;
use crate::firmware::{MAX_REGIONS, Region};
use crate::paging::{PAGE, Tables, access};

/// The most windows.
const MAX_WINDOWS: usize = 128;

/// Windows of device registers, on whole pages, mapped where they are.
#[derive(Debug)]
pub struct Windows {
    pages: [(u64, u64); MAX_WINDOWS],
    count: usize,
}

impl Windows {
    /// None.
    pub const EMPTY: Self = Self {
        pages: [(0, 0); MAX_WINDOWS],
        count: 0,
    };

    /// Start and end of each, in ascending order and apart from each other.
    pub fn pages(&self) -> &[(u64, u64)] {
        self.pages.get(..self.count).unwrap_or_default()
    }

    /// Adds the pages of `len` bytes at `start`. `None` if there are too many.
    pub fn add(&mut self, start: u64, len: u64) -> Option<()> {
        let mut new = (
            start & !(PAGE - 1),
            start.checked_add(len)?.checked_next_multiple_of(PAGE)?,
        );
        // Those that touch it become part of it.
        let mut kept = 0;
        for index in 0..self.count {
            let old = *self.pages.get(index)?;
            if old.0 <= new.1 && new.0 <= old.1 {
                new = (old.0.min(new.0), old.1.max(new.1));
            } else {
                *self.pages.get_mut(kept)? = old;
                kept += 1;
            }
        }
        self.count = kept;
        for old in self.pages.iter_mut().take(kept) {
            if old.0 > new.0 {
                core::mem::swap(old, &mut new);
            }
        }
        *self.pages.get_mut(kept)? = new;
        self.count += 1;
        Some(())
    }
}

/// The machine's buses, at the start.
#[derive(Debug)]
pub struct Buses<'a, 'b> {
    /// What is mapped now.
    pub tables: &'a mut Tables<'b>,
    /// What the guest's page tables are to map.
    pub windows: &'a mut Windows,
    /// Memory, where no device is.
    pub memory: [Region; MAX_REGIONS],
    /// Physical address of PCI's memory-mapped configuration space, 0 for access by ports.
    pub ecam: u64,
}

impl Buses<'_, '_> {
    /// Chooses the way to PCI's configuration space; false if there is no PCI. `ecam` is 0 or an address below 4 GiB.
    pub fn find_pci(&mut self, ecam: u64) -> bool {
        const HOST: Function = Function {
            bus: 0,
            device: 0,
            function: 0,
        };
        self.ecam = 0;
        let mut exists = || !matches!(self.read(HOST, 0) & 0xffff, 0 | 0xffff);
        if exists() {
            return true;
        }
        if (1..0xfff0_0000).contains(&ecam) {
            self.ecam = ecam;
            return !matches!(self.read(HOST, 0) & 0xffff, 0 | 0xffff);
        }
        false
    }

    /// The virtio device with these registers.
    pub fn mmio(&mut self, address: u64, size: u64) -> Option<Mmio> {
        let len = usize::try_from(size).ok()?.min(kiln_virtio::mmio::WINDOW);
        Mmio::open(self.map(address, len)?).ok()
    }

    fn select(&self, function: Function, offset: u8) -> Option<*mut u32> {
        let place = u32::from(function.bus) << 16
            | u32::from(function.device & 31) << 11
            | u32::from(function.function & 7) << 8;
        if self.ecam != 0 {
            let offset = (u64::from(place) << 4) + u64::from(offset & !3);
            return Some((self.ecam + offset) as *mut u32);
        }
        cpu::out32(0xcf8, 1 << 31 | place | u32::from(offset & !3));
        None
    }
}

impl Bus for Buses<'_, '_> {
    fn read(&mut self, function: Function, offset: u8) -> u32 {
        match self.select(function, offset) {
            // SAFETY: configuration space below 4 GiB, which the start maps; 256 buses of it end below.
            Some(register) => unsafe { register.read_volatile() },
            None => cpu::in32(0xcfc),
        }
    }

    fn write(&mut self, function: Function, offset: u8, value: u32) {
        match self.select(function, offset) {
            // SAFETY: as in `read`.
            Some(register) => unsafe { register.write_volatile(value) },
            None => cpu::out32(0xcfc, value),
        }
    }

    fn map(&mut self, phys: u64, len: usize) -> Option<Registers> {
        const FOUR_GIB: u64 = 1 << 32;
        let end = phys.checked_add(len as u64)?;
        let overlaps = |region: &Region| phys < region.end && region.start < end;
        if phys == 0 || end > 1 << 46 || self.memory.iter().any(overlaps) {
            return None;
        }
        let first = phys & !(PAGE - 1);
        let pages = end.checked_next_multiple_of(PAGE)? - first;
        if first >= FOUR_GIB {
            for page in (first..first + pages).step_by(PAGE as usize) {
                // Another window may have needed the page already.
                let _ = self.tables.map(page, page, PAGE, access::DEVICE);
            }
        }
        self.windows.add(first, pages)?;
        // SAFETY: mapped now, and in the guest's page tables for being among the windows; no memory is there.
        Some(unsafe { Registers::new(NonNull::new(phys as *mut u8)?, len) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_touch_become_one() {
        let mut windows = Windows::EMPTY;
        for (start, len) in [
            (0x9000, 0x10),
            (0x3200, 0x200),
            (0x3000, 8),
            (0x5ff8, 8),
            (0x4000, 0x1000),
        ] {
            windows.add(start, len).unwrap();
        }
        assert_eq!(windows.pages(), [(0x3000, 0x6000), (0x9000, 0xa000)]);
        windows.add(0x2000, 0x9000).unwrap();
        assert_eq!(windows.pages(), [(0x2000, 0xb000)]);
        assert_eq!(windows.add(u64::MAX, 2), None);
        assert_eq!(
            (1..200u64)
                .filter(|n| windows.add(n * 0x10_0000, 1).is_some())
                .count(),
            MAX_WINDOWS - 1
        );
    }
}
