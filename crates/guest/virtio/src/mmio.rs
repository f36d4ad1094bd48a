//! Virtio over MMIO, version 2 (section 4.2).

use crate::Error;
use crate::registers::Registers;
use crate::transport::{DeviceType, QueueAddresses};

/// The length of the register window that is looked at, in bytes: control registers and configuration.
pub const WINDOW: usize = 0x200;

/// "virt".
const MAGIC: u32 = 0x7472_6976;

/// Offsets of the registers (table 4.1).
mod at {
    pub const MAGIC: usize = 0x00;
    pub const VERSION: usize = 0x04;
    pub const DEVICE: usize = 0x08;
    pub const DEVICE_FEATURES: usize = 0x10;
    pub const DEVICE_FEATURES_SELECT: usize = 0x14;
    pub const DRIVER_FEATURES: usize = 0x20;
    pub const DRIVER_FEATURES_SELECT: usize = 0x24;
    pub const QUEUE_SELECT: usize = 0x30;
    pub const QUEUE_SIZE_MAX: usize = 0x34;
    pub const QUEUE_SIZE: usize = 0x38;
    pub const QUEUE_READY: usize = 0x44;
    pub const QUEUE_NOTIFY: usize = 0x50;
    pub const INTERRUPT_STATUS: usize = 0x60;
    pub const INTERRUPT_ACK: usize = 0x64;
    pub const STATUS: usize = 0x70;
    pub const QUEUE_DESCRIPTORS: usize = 0x80;
    pub const QUEUE_AVAILABLE: usize = 0x90;
    pub const QUEUE_USED: usize = 0xa0;
    pub const CONFIG_GENERATION: usize = 0xfc;
    pub const CONFIG: usize = 0x100;
}

/// A memory-mapped device.
#[derive(Debug)]
pub struct Mmio {
    registers: Registers,
}

impl Mmio {
    /// The device with these registers, a window of [`WINDOW`] bytes.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if there are no virtio registers or only a placeholder; [`Error::Legacy`] for version 1.
    pub fn open(registers: Registers) -> Result<Self, Error> {
        if registers.read32(at::MAGIC) != MAGIC {
            return Err(Error::NoDevice);
        }
        match registers.read32(at::VERSION) {
            1 => Err(Error::Legacy),
            2 if registers.read32(at::DEVICE) != 0 => Ok(Self { registers }),
            _ => Err(Error::NoDevice),
        }
    }

    pub(crate) fn device_type(&self) -> DeviceType {
        DeviceType(self.registers.read32(at::DEVICE))
    }

    pub(crate) fn status(&self) -> u8 {
        self.registers.read32(at::STATUS) as u8
    }

    pub(crate) fn set_status(&mut self, status: u8) {
        self.registers.write32(at::STATUS, u32::from(status));
    }

    pub(crate) fn offered(&self) -> u64 {
        self.registers
            .read_windowed(at::DEVICE_FEATURES_SELECT, at::DEVICE_FEATURES)
    }

    pub(crate) fn choose(&mut self, features: u64) {
        self.registers
            .write_windowed(at::DRIVER_FEATURES_SELECT, at::DRIVER_FEATURES, features);
    }

    pub(crate) fn queue_limit(&mut self, queue: u16) -> u16 {
        self.registers.write32(at::QUEUE_SELECT, u32::from(queue));
        let limit = self.registers.read32(at::QUEUE_SIZE_MAX);
        limit.min(0x8000) as u16
    }

    #[allow(
        clippy::unnecessary_wraps,
        reason = "the same as for PCI, where it can fail"
    )]
    pub(crate) fn enable_queue(
        &mut self,
        queue: u16,
        size: u16,
        at: QueueAddresses,
    ) -> Result<usize, Error> {
        self.registers.write32(at::QUEUE_SELECT, u32::from(queue));
        self.registers.write32(at::QUEUE_SIZE, u32::from(size));
        self.registers
            .write64(at::QUEUE_DESCRIPTORS, at.descriptors);
        self.registers.write64(at::QUEUE_AVAILABLE, at.available);
        self.registers.write64(at::QUEUE_USED, at.used);
        self.registers.write32(at::QUEUE_READY, 1);
        Ok(at::QUEUE_NOTIFY)
    }

    pub(crate) fn notify(&self, queue: u16, place: usize) {
        self.registers.write32(place, u32::from(queue));
    }

    pub(crate) fn acknowledge(&self) -> u8 {
        let status = self.registers.read32(at::INTERRUPT_STATUS);
        if status != 0 {
            self.registers.write32(at::INTERRUPT_ACK, status);
        }
        status as u8
    }

    pub(crate) fn generation(&self) -> u32 {
        self.registers.read32(at::CONFIG_GENERATION)
    }

    /// The window that holds the configuration, and the offset in it.
    pub(crate) fn config(&self, offset: usize) -> (&Registers, usize) {
        (&self.registers, offset.saturating_add(at::CONFIG))
    }
}
