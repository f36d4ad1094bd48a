//! Finding devices, and putting drivers to those that the machine part uses and those that the guest declares.
#![allow(unsafe_code)]

use core::ptr::NonNull;

use kiln_abi::note::DeviceNote;
use kiln_abi::{DeviceInfo, DeviceKind};
#[cfg(feature = "block")]
use kiln_virtio::Block;
#[cfg(feature = "net")]
use kiln_virtio::Net;
use kiln_virtio::pci::{self, Bus, Function, Message};
use kiln_virtio::{Balloon, Console, DeviceType, Entropy, Pci, Region, Transport};

use crate::buses::Buses;
use crate::cmdline::{self, Word};
use crate::cpu::{self, vector};
use crate::image::Image;
use crate::interrupts;
use crate::paging::PAGE;
use crate::reach;
use crate::start::{Failure, Start};
use crate::state::{Driver, Slot};

/// Bytes for a link's received frames, and for those to send.
const RECEIVE: usize = 256 * 1024;
const SEND: usize = 128 * 1024;
/// The most virtio devices that are kept for the guest.
pub const MAX_FOUND: usize = 64;

/// A device that the guest may have declared.
#[derive(Debug)]
pub struct Found {
    kind: DeviceKind,
    transport: Transport,
}

impl<'a> Start<'a> {
    fn buses(&mut self) -> Buses<'_, 'a> {
        Buses {
            tables: &mut self.tables,
            windows: self.windows,
            memory: self.firmware.regions(),
            ecam: self.ecam,
        }
    }

    /// Finds virtio devices by command line or ACPI, and on PCI's first bus. The machine part's own are started.
    ///
    /// # Errors
    /// If there is too little memory for their drivers.
    pub fn find_devices(&mut self, line: &[u8]) -> Result<(), Failure> {
        let mut told = false;
        for word in cmdline::words(line) {
            if let Word::Mmio {
                address,
                size,
                interrupt,
            } = word
            {
                told = true;
                self.find_mmio(address, size, interrupt)?;
            }
        }
        // Some monitors say it twice.
        let acpi = self.acpi;
        for device in acpi.devices().iter().filter(|_| !told) {
            self.find_mmio(device.address, device.size, device.interrupt)?;
        }
        let mut buses = self.buses();
        if !buses.find_pci(acpi.ecam) {
            return Ok(());
        }
        self.ecam = buses.ecam;
        let (address, data) = interrupts::message(vector::DEVICE);
        for number in 0..=255u8 {
            let function = Function {
                bus: 0,
                device: number >> 3,
                function: number & 7,
            };
            if function.function != 0 && !self.has_functions(function) {
                continue;
            }
            if pci::identify(&mut self.buses(), function).is_none() {
                continue;
            }
            let message = Some(Message { address, data });
            if let Ok(device) = Pci::open(&mut self.buses(), function, message) {
                self.state.polling |= !device.uses_messages();
                self.found(Transport::from(device))?;
            }
        }
        Ok(())
    }

    fn find_mmio(&mut self, address: u64, size: u64, interrupt: u32) -> Result<(), Failure> {
        if let Some(device) = self.buses().mmio(address, size) {
            interrupts::route(self.acpi.controllers(), interrupt, vector::DEVICE);
            self.found(Transport::from(device))?;
        }
        Ok(())
    }

    /// Whether a device has more functions than its first.
    fn has_functions(&mut self, function: Function) -> bool {
        let first = Function {
            function: 0,
            ..function
        };
        let header = self.buses().read(first, 12);
        header != u32::MAX && header >> 23 & 1 != 0
    }

    /// Takes a device into service, or notes it for the guest.
    fn found(&mut self, transport: Transport) -> Result<(), Failure> {
        self.state.pool.add(cpu::tsc());
        let kind = match transport.device_type() {
            #[cfg(feature = "net")]
            DeviceType::NET => DeviceKind::Net,
            #[cfg(feature = "block")]
            DeviceType::BLOCK => DeviceKind::Block,
            // A device of ours that does not work is as good as absent.
            DeviceType::CONSOLE => {
                let memory = self.region(Console::MEMORY)?;
                if let Ok(console) = Console::new(transport, memory) {
                    self.state.console.virtio.fill(console);
                }
                return Ok(());
            }
            DeviceType::ENTROPY => {
                let memory = self.region(Entropy::MEMORY)?;
                if let Ok(entropy) = Entropy::new(transport, memory) {
                    self.state.entropy.fill(entropy);
                }
                return Ok(());
            }
            DeviceType::BALLOON => {
                let memory = self.region(Balloon::MEMORY)?;
                if let Ok(balloon) = Balloon::new(transport, memory) {
                    self.state.balloon.fill(balloon);
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        if let Some(slot) = self.found.get_mut(self.found_count) {
            slot.fill(Found { kind, transport });
            self.found_count += 1;
        }
        Ok(())
    }

    /// Memory for a driver.
    fn region(&mut self, len: usize) -> Result<Region, Failure> {
        let len = (len as u64).next_multiple_of(PAGE);
        let start = self.frames.take(len)?;
        let place = NonNull::new(reach::at(start) as *mut u8).ok_or("too little memory")?;
        if self.dirty.start == 0 {
            // SAFETY: as below.
            unsafe { place.write_bytes(0, len as usize) };
        }
        // SAFETY: whole pages behind the image that nobody else was given, mapped where they are, now and for the guest.
        Ok(unsafe { Region::new(place, start, len as usize) })
    }

    /// Starts the devices that the guest declares, with those found, kind by kind in order.
    ///
    /// # Errors
    /// If a device is missing, broken or badly configured, or there is too little memory for its driver.
    pub fn attach(&mut self, image: &Image<'_>, line: &[u8]) -> Result<(), Failure> {
        for declared in image.devices() {
            let Some(kind) = DeviceKind::from_raw(declared.kind) else {
                continue;
            };
            #[cfg(feature = "program")]
            if kind == DeviceKind::Net
                && declared.flags & DeviceNote::OPTIONAL != 0
                && self.free_links() <= folders(line).count()
            {
                // Those that are left are for folders.
                continue;
            }
            let of_kind =
                |slot: &&mut Slot<Found>| slot.peek().is_some_and(|found| found.kind == kind);
            let slot = self.found.iter_mut().find(of_kind);
            let Some(found) = slot.and_then(Slot::take) else {
                if declared.flags & DeviceNote::OPTIONAL != 0 {
                    continue;
                }
                return Err(Failure(
                    "a declared device is not attached: ",
                    declared.name,
                ));
            };
            let info = DeviceInfo {
                kind: declared.kind,
                name: declared.name,
                ..DeviceInfo::default()
            };
            self.attach_one(kind, found.transport, info, line)?;
        }
        #[cfg(feature = "program")]
        self.attach_folders(line)?;
        Ok(())
    }

    /// Folders of the host: network devices that carry messages of 9P instead of frames. Images do not declare them.
    #[cfg(feature = "program")]
    fn attach_folders(&mut self, line: &[u8]) -> Result<(), Failure> {
        for (device, settings) in folders(line) {
            let mut info = DeviceInfo {
                kind: DeviceKind::Files as u32,
                flags: if settings == b"ro" {
                    DeviceInfo::READ_ONLY
                } else {
                    0
                },
                ..DeviceInfo::default()
            };
            for (to, from) in info.name.iter_mut().zip(device) {
                *to = *from;
            }
            let is_net = |slot: &&mut Slot<Found>| {
                slot.peek()
                    .is_some_and(|found| found.kind == DeviceKind::Net)
            };
            let found = self.found.iter_mut().find(is_net).and_then(Slot::take);
            let Some(found) = found else {
                return Err(Failure("a folder is not attached: ", info.name));
            };
            self.attach_one(DeviceKind::Files, found.transport, info, line)?;
        }
        Ok(())
    }

    /// Network devices that nobody has taken.
    #[cfg(feature = "program")]
    fn free_links(&self) -> usize {
        let found = self.found.iter().filter_map(Slot::peek);
        found.filter(|found| found.kind == DeviceKind::Net).count()
    }

    fn attach_one(
        &mut self,
        kind: DeviceKind,
        transport: Transport,
        mut info: DeviceInfo,
        line: &[u8],
    ) -> Result<(), Failure> {
        let broken = |error: kiln_virtio::Error| Failure(error.message(), [0; 24]);
        let driver = match kind {
            #[cfg(feature = "net")]
            DeviceKind::Net => {
                let receive = self.region(RECEIVE)?;
                let send = self.region(SEND)?;
                let network = Net::new(transport, receive, send).map_err(broken)?;
                network.describe(&mut info);
                for word in cmdline::words(line) {
                    if let Word::Net(device, settings) = word
                        && info.name().is_some_and(|name| name.as_bytes() == device)
                    {
                        cmdline::configure(settings, &mut info)
                            .ok_or(Failure("kiln.net= makes no sense for ", info.name))?;
                    }
                }
                Driver::Net(network)
            }
            #[cfg(feature = "program")]
            DeviceKind::Files => {
                let receive = self.region(RECEIVE)?;
                let send = self.region(SEND)?;
                let mut network = Net::new(transport, receive, send).map_err(broken)?;
                network.carry_messages();
                Driver::Net(network)
            }
            #[cfg(feature = "block")]
            DeviceKind::Block => {
                let memory = self.region(Block::MEMORY)?;
                let disk = Block::new(transport, memory).map_err(broken)?;
                disk.describe(&mut info);
                Driver::Block(disk)
            }
            #[allow(unreachable_patterns, reason = "not every machine part has all kinds")]
            _ => return Ok(()),
        };
        let index = self.state.device_count;
        if let (Some(slot), Some(to)) = (
            self.state.devices.get_mut(index),
            self.state.infos.get_mut(index),
        ) {
            slot.fill(driver);
            *to = info;
            self.state.device_count += 1;
        }
        Ok(())
    }
}

/// The folders of a command line, and their settings.
#[cfg(feature = "program")]
fn folders(line: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    cmdline::words(line).filter_map(|word| match word {
        Word::Folder(device, settings) => Some((device, settings)),
        _ => None,
    })
}
