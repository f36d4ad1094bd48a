//! The two buses in front of a device.

use std::cell::RefCell;
use std::rc::Rc;

use super::bus::{Window, attach};
use super::device::Device;
use crate::mmio::{self, Mmio};
use crate::pci::{Bus, Function, Message, Pci};
use crate::registers::Registers;
use crate::transport::Transport;

pub(super) type Shared = Rc<RefCell<Device>>;

/// Which bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Mmio,
    /// With an interrupt pin.
    Pci,
    /// With messages.
    PciMessages,
}

pub(super) const KINDS: [Kind; 3] = [Kind::Mmio, Kind::Pci, Kind::PciMessages];

pub(super) const MESSAGE: Message = Message {
    address: 0xfee0_1000,
    data: 0x31,
};

/// Opens a device on a bus.
pub(super) fn open(kind: Kind, device: &Shared) -> Transport {
    match kind {
        Kind::Mmio => Mmio::open(mmio_window(device, 2))
            .expect("it is there")
            .into(),
        Kind::Pci | Kind::PciMessages => {
            let message = (kind == Kind::PciMessages).then_some(MESSAGE);
            let pci = Pci::open(&mut PciBus::new(device), FUNCTION, message).expect("it is there");
            assert_eq!(pci.uses_messages(), message.is_some());
            pci.into()
        }
    }
}

fn set_low(value: &mut u64, low: u64) {
    *value = *value & !0xffff_ffff | low;
}

fn set_high(value: &mut u64, high: u64) {
    *value = *value & 0xffff_ffff | high << 32;
}

/// Registers of virtio-mmio.
struct MmioFront {
    device: Shared,
    version: u64,
    device_select: u64,
    driver_select: u64,
    queue: usize,
}

pub(super) fn mmio_window(device: &Shared, version: u64) -> Registers {
    attach(
        mmio::WINDOW,
        Rc::new(RefCell::new(MmioFront {
            device: device.clone(),
            version,
            device_select: 0,
            driver_select: 0,
            queue: 0,
        })),
    )
}

impl Window for MmioFront {
    fn read(&mut self, offset: usize, size: usize) -> u64 {
        let core = &mut self.device.borrow_mut().core;
        if offset >= 0x100 {
            return core.read_config(offset - 0x100, size);
        }
        assert_eq!(size, 4, "control registers have 32 bits");
        match offset {
            0x00 => 0x7472_6976,
            0x04 => self.version,
            0x08 => u64::from(core.kind),
            0x10 => core.offered >> (32 * self.device_select) & 0xffff_ffff,
            0x34 => core
                .queues
                .get(self.queue)
                .map_or(0, |queue| u64::from(queue.limit)),
            0x60 => u64::from(core.interrupt),
            0x70 => u64::from(core.status),
            0xfc => u64::from(core.generation),
            _ => panic!("register {offset:#x} is not readable"),
        }
    }

    fn write(&mut self, offset: usize, size: usize, value: u64) {
        let mut device = self.device.borrow_mut();
        assert_eq!(size, 4, "control registers have 32 bits");
        if offset == 0x50 {
            return device.notify(value as u16);
        }
        let core = &mut device.core;
        match offset {
            0x14 => self.device_select = value & 1,
            0x24 => self.driver_select = value & 1,
            0x20 if self.driver_select == 0 => set_low(&mut core.chosen, value),
            0x20 => set_high(&mut core.chosen, value),
            0x30 => self.queue = value as usize,
            0x64 => core.interrupt &= !(value as u8),
            0x70 => core.set_status(value as u8),
            0x44 => {
                assert_eq!(value, 1);
                core.enable(self.queue);
            }
            _ => {
                let queue = &mut core.queues[self.queue];
                match offset {
                    0x38 => queue.size = value as u16,
                    0x80 => set_low(&mut queue.descriptors, value),
                    0x84 => set_high(&mut queue.descriptors, value),
                    0x90 => set_low(&mut queue.available, value),
                    0x94 => set_high(&mut queue.available, value),
                    0xa0 => set_low(&mut queue.used, value),
                    0xa4 => set_high(&mut queue.used, value),
                    _ => panic!("register {offset:#x} is not writable"),
                }
            }
        }
    }
}

pub(super) const FUNCTION: Function = Function {
    bus: 0,
    device: 3,
    function: 0,
};

/// The BAR's place in physical memory, and its parts.
const BAR: u64 = 0x80_c000_0000;
const COMMON: usize = 0x0000;
const NOTIFY: usize = 0x1000;
const INTERRUPT: usize = 0x2000;
const CONFIG: usize = 0x3000;
const VECTORS: usize = 0x4000;
const BAR_LEN: usize = 0x5000;
const MULTIPLIER: u32 = 4;

/// Configuration space of one function, and its BAR.
pub(super) struct PciBus {
    pub(super) space: [u32; 64],
    device: Shared,
    table: Rc<RefCell<[u32; 4]>>,
}

impl PciBus {
    pub(super) fn new(device: &Shared) -> Self {
        let kind = device.borrow().core.kind;
        let mut space = [0; 64];
        space[0] = (0x1040 + kind) << 16 | 0x1af4;
        space[1] = 1 << 20;
        // The BAR has 64 bits and is number 4.
        space[8] = BAR as u32 | 4;
        space[9] = (BAR >> 32) as u32;
        space[13] = 0x40;
        let mut capability = |at: usize, next: usize, kind: u32, len: u32, words: &[u32]| {
            let next = (next as u32) << 8;
            space[at / 4] = kind << 24 | len << 16 | next | 0x09;
            space[at / 4 + 1..][..words.len()].copy_from_slice(words);
        };
        capability(0x40, 0x50, 1, 16, &[4, COMMON as u32, 56]);
        capability(0x50, 0x64, 2, 20, &[4, NOTIFY as u32, 0x1000, MULTIPLIER]);
        capability(0x64, 0x74, 3, 16, &[4, INTERRUPT as u32, 1]);
        capability(0x74, 0x84, 4, 16, &[4, CONFIG as u32, 0x100]);
        // A second common structure, in a BAR that is not there: the first one counts.
        capability(0x84, 0x98, 1, 16, &[1, 0, 56]);
        space[0x98 / 4] = 3 << 16 | 0x11;
        space[0x98 / 4 + 1] = VECTORS as u32 | 4;
        Self {
            space,
            device: device.clone(),
            table: Rc::default(),
        }
    }

    /// The first entry of the table of messages.
    pub(super) fn message(&self) -> [u32; 4] {
        *self.table.borrow()
    }
}

impl Bus for PciBus {
    fn read(&mut self, function: Function, offset: u8) -> u32 {
        assert!(offset.is_multiple_of(4));
        if function == FUNCTION {
            self.space[usize::from(offset / 4)]
        } else {
            u32::MAX
        }
    }

    fn write(&mut self, function: Function, offset: u8, value: u32) {
        assert_eq!(function, FUNCTION);
        match offset {
            // The upper half is cleared by ones.
            0x04 => self.space[1] = self.space[1] & 0xffff_0000 & !value | value & 0xffff,
            0x98 => self.space[0x98 / 4] = self.space[0x98 / 4] & 0x3fff_ffff | value & 0xc000_0000,
            _ => panic!("configuration space is not writable at {offset:#x}"),
        }
    }

    fn map(&mut self, phys: u64, len: usize) -> Option<Registers> {
        let start = phys.checked_sub(BAR)? as usize;
        assert!(self.space[1] & 6 == 6, "the device does not answer yet");
        (start + len <= BAR_LEN).then(|| {
            attach(
                len,
                Rc::new(RefCell::new(PciFront {
                    device: self.device.clone(),
                    table: self.table.clone(),
                    start,
                    device_select: 0,
                    driver_select: 0,
                    queue: 0,
                })),
            )
        })
    }
}

/// Registers in the BAR, from `start` on.
struct PciFront {
    device: Shared,
    table: Rc<RefCell<[u32; 4]>>,
    start: usize,
    device_select: u64,
    driver_select: u64,
    queue: usize,
}

impl Window for PciFront {
    fn read(&mut self, offset: usize, size: usize) -> u64 {
        let core = &mut self.device.borrow_mut().core;
        match self.start + offset {
            INTERRUPT => u64::from(core::mem::take(&mut core.interrupt)),
            at @ CONFIG..VECTORS => core.read_config(at - CONFIG, size),
            at @ COMMON..NOTIFY => match (at, size) {
                (4, 4) => core.offered >> (32 * self.device_select) & 0xffff_ffff,
                (18, 2) => core.queues.len() as u64,
                (20, 1) => u64::from(core.status),
                (21, 1) => u64::from(core.generation),
                (24, 2) => core
                    .queues
                    .get(self.queue)
                    .map_or(0, |queue| u64::from(queue.limit)),
                (26, 2) => u64::from(core.queues[self.queue].vector),
                (30, 2) => self.queue as u64,
                _ => panic!("{size} bytes at {at:#x} are not readable"),
            },
            at => panic!("{at:#x} is not readable"),
        }
    }

    fn write(&mut self, offset: usize, size: usize, value: u64) {
        let mut device = self.device.borrow_mut();
        let at = self.start + offset;
        if (NOTIFY..INTERRUPT).contains(&at) {
            assert_eq!(size, 2);
            assert_eq!(at - NOTIFY, value as usize * MULTIPLIER as usize);
            return device.notify(value as u16);
        }
        if at >= VECTORS {
            self.table.borrow_mut()[(at - VECTORS) / 4] = value as u32;
            return;
        }
        let core = &mut device.core;
        match (at, size) {
            (0, 4) => self.device_select = value,
            (8, 4) => self.driver_select = value,
            (12, 4) if self.driver_select == 0 => set_low(&mut core.chosen, value),
            (12, 4) => set_high(&mut core.chosen, value),
            (16, 2) => assert_eq!(value, 0xffff, "no interrupts for the configuration"),
            (20, 1) => core.set_status(value as u8),
            (22, 2) => self.queue = value as usize,
            (28, 2) => {
                assert_eq!(value, 1);
                core.enable(self.queue);
            }
            _ => {
                let queue = &mut core.queues[self.queue];
                match (at, size) {
                    (24, 2) => queue.size = value as u16,
                    (26, 2) => queue.vector = value as u16,
                    (32, 4) => set_low(&mut queue.descriptors, value),
                    (36, 4) => set_high(&mut queue.descriptors, value),
                    (40, 4) => set_low(&mut queue.available, value),
                    (44, 4) => set_high(&mut queue.available, value),
                    (48, 4) => set_low(&mut queue.used, value),
                    (52, 4) => set_high(&mut queue.used, value),
                    _ => panic!("{size} bytes at {at:#x} are not writable"),
                }
            }
        }
    }
}
