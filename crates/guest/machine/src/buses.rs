//! Access to buses: registers of devices, and PCI's configuration space.
#![allow(unsafe_code)]

use core::ptr::NonNull;

use kiln_virtio::pci::{Bus, Function};
use kiln_virtio::{Mmio, Registers};

use crate::cpu;
use crate::firmware::Region;
use crate::paging::{PAGE, Tables, access};
use crate::reach;
use crate::windows::Windows;

/// The machine's buses, at the start.
#[derive(Debug)]
pub struct Buses<'a, 'b> {
    /// What is mapped now.
    pub tables: &'a mut Tables<'b>,
    /// What the guest's page tables are to map.
    pub windows: &'a mut Windows,
    /// Memory, where no device is.
    pub memory: &'a [Region],
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
            return Some(reach::at(self.ecam + offset) as *mut u32);
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
                let _ = self.tables.map(reach::at(page), page, PAGE, access::DEVICE);
            }
        }
        self.windows.add(first, pages)?;
        // SAFETY: mapped now, and in the guest's page tables for being among the windows; no memory is there.
        Some(unsafe { Registers::new(NonNull::new(reach::at(phys) as *mut u8)?, len) })
    }
}
