//! Virtio over PCI, the modern interface (section 4.1).
//!
//! Transitional devices are driven through their modern interface too. The device's BARs must have been assigned, by
//! firmware or by the virtual machine monitor.

use crate::Error;
use crate::registers::Registers;
use crate::transport::{DeviceType, QueueAddresses};

/// A function on the PCI bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

/// Access to the PCI bus.
pub trait Bus {
    /// Reads the 32 bits at `offset` of a function's configuration space; `offset` is a multiple of 4 below 256. All
    /// ones if there is no such function.
    fn read(&mut self, function: Function, offset: u8) -> u32;

    /// Writes the same.
    fn write(&mut self, function: Function, offset: u8, value: u32);

    /// Maps `len` bytes of device registers at the physical address `phys`, uncached and for good: the window's first
    /// byte is that at `phys`. `None` if that is not possible, or if the range holds memory. `phys` is a multiple of 4, not
    /// of pages, and the same page may be asked for several times.
    fn map(&mut self, phys: u64, len: usize) -> Option<Registers>;
}

/// What a device sends as its interrupt: one write of `data` to `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Physical address, for instance of the local interrupt controller.
    pub address: u64,
    /// What is written there.
    pub data: u32,
}

/// What virtio device a function is; `None` if it is none.
pub fn identify(bus: &mut dyn Bus, function: Function) -> Option<DeviceType> {
    let id = bus.read(function, 0);
    if id & 0xffff != VENDOR {
        return None;
    }
    match id >> 16 {
        // Transitional devices have their type in the subsystem's identifier.
        0x1000..0x1040 => Some(DeviceType(bus.read(function, SUBSYSTEM) >> 16)),
        modern @ 0x1040..0x1080 => Some(DeviceType(modern - 0x1040)),
        _ => None,
    }
}

const VENDOR: u32 = 0x1af4;

/// Offsets in configuration space.
const COMMAND: u8 = 0x04;
const BARS: u8 = 0x10;
const SUBSYSTEM: u8 = 0x2c;
const CAPABILITIES: u8 = 0x34;

const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_MASTER: u32 = 1 << 2;
const COMMAND_NO_INTX: u32 = 1 << 10;
const STATUS_CAPABILITIES: u32 = 1 << (16 + 4);

/// Capability identifiers.
const VENDOR_SPECIFIC: u32 = 0x09;
const MSIX: u32 = 0x11;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_MASK_ALL: u32 = 1 << 30;

/// No more capabilities than fit into configuration space.
const MOST_CAPABILITIES: u32 = 48;

/// Longer structures are mapped only up to here; nothing of interest lies behind.
const MOST_MAPPED: u32 = 0x1_0000;

/// The vector that says "no interrupt".
const NO_VECTOR: u16 = 0xffff;

/// Offsets in the common configuration (section 4.1.4.3).
mod at {
    pub const DEVICE_FEATURES_SELECT: usize = 0;
    pub const DEVICE_FEATURES: usize = 4;
    pub const DRIVER_FEATURES_SELECT: usize = 8;
    pub const DRIVER_FEATURES: usize = 12;
    pub const CONFIG_VECTOR: usize = 16;
    pub const STATUS: usize = 20;
    pub const GENERATION: usize = 21;
    pub const QUEUE_SELECT: usize = 22;
    pub const QUEUE_SIZE: usize = 24;
    pub const QUEUE_VECTOR: usize = 26;
    pub const QUEUE_ENABLE: usize = 28;
    pub const QUEUE_NOTIFY_OFFSET: usize = 30;
    pub const QUEUE_DESCRIPTORS: usize = 32;
    pub const QUEUE_AVAILABLE: usize = 40;
    pub const QUEUE_USED: usize = 48;
    pub const END: usize = 56;
}

/// A PCI device.
#[derive(Debug)]
pub struct Pci {
    device: DeviceType,
    common: Registers,
    notify: Registers,
    notify_multiplier: u32,
    interrupt: Registers,
    config: Registers,
    messages: bool,
}

impl Pci {
    /// Opens a virtio function: finds its structures, maps them, makes it answer to memory accesses and lets it access
    /// memory. With a `message`, and if the device can, all its queues interrupt by it; otherwise by its interrupt pin
    /// (see [`uses_messages`](Self::uses_messages)).
    ///
    /// # Errors
    /// [`Error::NoDevice`] if it is no virtio function, [`Error::Legacy`] if it has no modern interface,
    /// [`Error::Capability`] if a structure is missing or cannot be mapped.
    pub fn open(
        bus: &mut dyn Bus,
        function: Function,
        message: Option<Message>,
    ) -> Result<Self, Error> {
        let device = identify(bus, function).ok_or(Error::NoDevice)?;
        let mut found = Structures::default();
        let mut modern = false;
        let mut msix = None;
        let mut pointer = if bus.read(function, COMMAND) & STATUS_CAPABILITIES == 0 {
            0
        } else {
            bus.read(function, CAPABILITIES) as u8 & !3
        };
        let command = bus.read(function, COMMAND) & 0xffff;
        bus.write(function, COMMAND, command | COMMAND_MEMORY | COMMAND_MASTER);
        for _ in 0..MOST_CAPABILITIES {
            if pointer < 0x40 {
                break;
            }
            let head = bus.read(function, pointer);
            match head & 0xff {
                VENDOR_SPECIFIC => modern |= found.note(bus, function, pointer, head),
                MSIX if msix.is_none() => msix = Some((pointer, head)),
                _ => {}
            }
            pointer = (head >> 8) as u8 & !3;
        }
        if !modern {
            return Err(Error::Legacy);
        }
        let [Some(common), Some(notify), Some(interrupt), config] = found.windows else {
            return Err(Error::Capability);
        };
        if common.size() < at::END {
            return Err(Error::Capability);
        }
        let messages = match (message, msix) {
            (Some(message), Some((pointer, head))) => {
                enable_messages(bus, function, pointer, head, message)
            }
            _ => false,
        };
        if messages {
            let command = bus.read(function, COMMAND) & 0xffff;
            bus.write(function, COMMAND, command | COMMAND_NO_INTX);
        }
        Ok(Self {
            device,
            common,
            notify,
            notify_multiplier: found.notify_multiplier,
            interrupt,
            config: config.unwrap_or(Registers::none()),
            messages,
        })
    }

    /// Whether the device interrupts by the message given to [`open`](Self::open).
    pub const fn uses_messages(&self) -> bool {
        self.messages
    }

    pub(crate) fn device_type(&self) -> DeviceType {
        self.device
    }

    pub(crate) fn status(&self) -> u8 {
        self.common.read8(at::STATUS)
    }

    pub(crate) fn set_status(&mut self, status: u8) {
        self.common.write8(at::STATUS, status);
    }

    pub(crate) fn offered(&self) -> u64 {
        self.common
            .read_windowed(at::DEVICE_FEATURES_SELECT, at::DEVICE_FEATURES)
    }

    pub(crate) fn choose(&mut self, features: u64) {
        self.common
            .write_windowed(at::DRIVER_FEATURES_SELECT, at::DRIVER_FEATURES, features);
    }

    pub(crate) fn queue_limit(&mut self, queue: u16) -> u16 {
        self.common.write16(at::QUEUE_SELECT, queue);
        self.common.read16(at::QUEUE_SIZE)
    }

    pub(crate) fn enable_queue(
        &mut self,
        queue: u16,
        size: u16,
        at: QueueAddresses,
    ) -> Result<usize, Error> {
        self.common.write16(at::CONFIG_VECTOR, NO_VECTOR);
        self.common.write16(at::QUEUE_SELECT, queue);
        self.common.write16(at::QUEUE_SIZE, size);
        let vector = if self.messages { 0 } else { NO_VECTOR };
        self.common.write16(at::QUEUE_VECTOR, vector);
        if self.messages && self.common.read16(at::QUEUE_VECTOR) != vector {
            return Err(Error::NoQueue);
        }
        self.common.write64(at::QUEUE_DESCRIPTORS, at.descriptors);
        self.common.write64(at::QUEUE_AVAILABLE, at.available);
        self.common.write64(at::QUEUE_USED, at.used);
        let place = u64::from(self.common.read16(at::QUEUE_NOTIFY_OFFSET))
            * u64::from(self.notify_multiplier);
        if place + 2 > self.notify.size() as u64 {
            return Err(Error::NoQueue);
        }
        self.common.write16(at::QUEUE_ENABLE, 1);
        Ok(place as usize)
    }

    pub(crate) fn notify(&self, queue: u16, place: usize) {
        self.notify.write16(place, queue);
    }

    pub(crate) fn acknowledge(&self) -> u8 {
        if self.messages {
            0
        } else {
            self.interrupt.read8(0)
        }
    }

    pub(crate) fn generation(&self) -> u32 {
        u32::from(self.common.read8(at::GENERATION))
    }

    /// The window that holds the configuration, and the offset in it.
    pub(crate) fn config(&self, offset: usize) -> (&Registers, usize) {
        (&self.config, offset)
    }
}

/// What the capability list gave so far.
#[derive(Default)]
struct Structures {
    /// Common, notify, interrupt status and device configuration.
    windows: [Option<Registers>; 4],
    notify_multiplier: u32,
}

impl Structures {
    /// Looks at one virtio capability (`struct virtio_pci_cap`). The first usable one of each kind counts. Returns
    /// whether it is one of the modern interface.
    fn note(&mut self, bus: &mut dyn Bus, function: Function, pointer: u8, head: u32) -> bool {
        let kind = (head >> 24) as u8;
        let Some(window) = self.windows.get_mut(usize::from(kind.wrapping_sub(1))) else {
            return false;
        };
        if window.is_none() {
            let bar = bus.read(function, pointer.wrapping_add(4)) as u8;
            let offset = bus.read(function, pointer.wrapping_add(8));
            let len = bus.read(function, pointer.wrapping_add(12));
            *window = map(bus, function, bar, offset, len);
            if kind == 2 && window.is_some() {
                self.notify_multiplier = bus.read(function, pointer.wrapping_add(16));
            }
        }
        true
    }
}

/// Maps a part of a BAR.
fn map(bus: &mut dyn Bus, function: Function, bar: u8, offset: u32, len: u32) -> Option<Registers> {
    let place = BARS + bar.checked_mul(4).filter(|place| *place < 24)?;
    let low = bus.read(function, place);
    let high = match low & 7 {
        0 => 0,
        4 if bar < 5 => bus.read(function, place + 4),
        _ => return None,
    };
    let base = u64::from(low & !15) | u64::from(high) << 32;
    if base == 0 || len == 0 || offset & 3 != 0 {
        return None;
    }
    let len = len.min(MOST_MAPPED) as usize;
    bus.map(base.checked_add(u64::from(offset))?, len)
}

/// Writes the message into the first entry of the device's table and enables messages. Returns whether that worked.
fn enable_messages(
    bus: &mut dyn Bus,
    function: Function,
    pointer: u8,
    head: u32,
    message: Message,
) -> bool {
    let table = bus.read(function, pointer.wrapping_add(4));
    let Some(entry) = map(bus, function, table as u8 & 7, table & !7, 16) else {
        return false;
    };
    // Enabled but masked while the entry is written.
    bus.write(function, pointer, head | MSIX_ENABLE | MSIX_MASK_ALL);
    entry.write64(0, message.address);
    entry.write32(8, message.data);
    entry.write32(12, 0);
    bus.write(function, pointer, head & !MSIX_MASK_ALL | MSIX_ENABLE);
    true
}
