//! Finding devices and agreeing with them.

use std::vec::Vec;

use super::bus::{Window, attach};
use super::device::VERSION_1;
use super::fronts::{FUNCTION, KINDS, Kind, MESSAGE, PciBus, Shared, mmio_window, open};
use super::memory::Memory;
use super::models::{Counter, Puppet, device};
use crate::mmio::Mmio;
use crate::pci::{Function, Pci, identify};
use crate::transport::{DeviceType, Transport};
use crate::{Entropy, Error, Net};

fn counter(memory: &Memory) -> Shared {
    let model = Counter { next: 0, most: 512 };
    device(memory, (4, 0), &[], &[8], model).0
}

fn start(memory: &Memory, transport: Transport) -> Result<Entropy, Error> {
    Entropy::new(transport, memory.region(Entropy::MEMORY))
}

#[test]
fn both_buses_tell_what_the_device_is() {
    for kind in KINDS {
        let memory = Memory::new();
        let transport = open(kind, &counter(&memory));
        assert_eq!(transport.device_type(), DeviceType::ENTROPY);
    }
}

#[test]
fn starting_goes_through_every_step() {
    for kind in KINDS {
        let memory = Memory::new();
        let device = counter(&memory);
        start(&memory, open(kind, &device)).expect("it starts");
        assert_eq!(device.borrow().core.status, 0xf);
        assert_eq!(device.borrow().core.chosen, VERSION_1);
    }
}

#[test]
fn a_driver_refuses_a_device_of_another_type() {
    let memory = Memory::new();
    let device = counter(&memory);
    let (receive, send) = (memory.region(0x8000), memory.region(0x8000));
    let net = Net::new(open(Kind::Mmio, &device), receive, send);
    assert_eq!(net.err(), Some(Error::WrongType));
    assert_eq!(device.borrow().core.status, 0x40, "left alone");
}

#[test]
fn devices_that_do_not_cooperate_are_told_apart() {
    for kind in KINDS {
        let memory = Memory::new();
        let fails = |change: &dyn Fn(&Shared)| {
            let device = counter(&memory);
            change(&device);
            let error = start(&memory, open(kind, &device)).expect_err("it must not start");
            (error, device.borrow().core.status & 0x84)
        };
        let stuck = fails(&|device| device.borrow_mut().core.stuck = true);
        assert_eq!(stuck, (Error::Stuck, 0));
        let refuses = fails(&|device| device.borrow_mut().core.refuses = true);
        assert_eq!(refuses, (Error::Features, 0x80));
        let old = fails(&|device| device.borrow_mut().core.offered = 0);
        assert_eq!(old, (Error::Legacy, 0x80));
        let no_queue = fails(&|device| device.borrow_mut().core.queues[0].limit = 0);
        assert_eq!(no_queue, (Error::NoQueue, 0));
    }
}

#[test]
fn too_little_memory_is_refused() {
    let memory = Memory::new();
    for len in [0, 100, Entropy::MEMORY / 2] {
        let transport = open(Kind::Mmio, &counter(&memory));
        let error = Entropy::new(transport, memory.region(len)).err();
        assert_eq!(error, Some(Error::Memory), "{len}");
    }
}

/// Registers that all read as the same.
struct Constant(u64);

impl Window for Constant {
    fn read(&mut self, _: usize, _: usize) -> u64 {
        self.0
    }

    fn write(&mut self, _: usize, _: usize, _: u64) {}
}

#[test]
fn mmio_tells_old_and_absent_devices() {
    let memory = Memory::new();
    let device = counter(&memory);
    let open = |version| Mmio::open(mmio_window(&device, version)).err();
    assert_eq!(open(1), Some(Error::Legacy));
    assert_eq!(open(2), None);
    assert_eq!(open(3), Some(Error::NoDevice));
    device.borrow_mut().core.kind = 0;
    assert_eq!(open(2), Some(Error::NoDevice), "a placeholder");
    for value in [0, u64::MAX] {
        let window = attach(
            0x200,
            std::rc::Rc::new(std::cell::RefCell::new(Constant(value))),
        );
        assert_eq!(Mmio::open(window).err(), Some(Error::NoDevice));
    }
}

#[test]
fn registers_outside_of_the_window_are_not_touched() {
    let window = attach(8, std::rc::Rc::new(std::cell::RefCell::new(Constant(0x11))));
    assert_eq!(window.read32(4), 0x11);
    assert_eq!(window.read32(8), u32::MAX);
    assert_eq!(window.read32(5), u32::MAX, "neither aligned nor inside");
    assert_eq!(window.read16(usize::MAX), u16::MAX);
    window.write32(8, 1);
}

#[test]
fn pci_functions_are_identified() {
    let memory = Memory::new();
    let mut bus = PciBus::new(&counter(&memory));
    let mut with = |id: u32, subsystem: u32| {
        bus.space[0] = id;
        bus.space[11] = subsystem;
        identify(&mut bus, FUNCTION)
    };
    assert_eq!(with(0x1041_1af4, 0), Some(DeviceType::NET));
    assert_eq!(with(0x1000_1af4, 0x0001_1af4), Some(DeviceType::NET));
    assert_eq!(with(0x1005_1af4, 0x0004_1af4), Some(DeviceType::ENTROPY));
    assert_eq!(with(0x1041_8086, 0), None);
    assert_eq!(with(0x1110_1af4, 0), None);
    let absent = Function {
        bus: 1,
        device: 0,
        function: 0,
    };
    assert_eq!(identify(&mut bus, absent), None);
}

#[test]
fn pci_messages_are_set_up() {
    let memory = Memory::new();
    let device = counter(&memory);
    let mut bus = PciBus::new(&device);
    let pci = Pci::open(&mut bus, FUNCTION, Some(MESSAGE)).expect("it opens");
    assert_eq!(bus.message(), [0xfee0_1000, 0, 0x31, 0], "unmasked too");
    assert_eq!(bus.space[0x98 / 4] >> 30, 2, "enabled, not masked");
    assert_eq!(bus.space[1] & 0x406, 0x406, "no pin, memory, master");
    start(&memory, pci.into()).expect("it starts");
    assert_eq!(device.borrow().core.queues[0].vector, 0);

    let device = counter(&memory);
    let mut bus = PciBus::new(&device);
    let pci = Pci::open(&mut bus, FUNCTION, None).expect("it opens");
    assert_eq!(bus.space[1] & 0x406, 0x6);
    start(&memory, pci.into()).expect("it starts");
    assert_eq!(device.borrow().core.queues[0].vector, 0xffff);
}

#[test]
fn a_device_without_messages_uses_its_pin() {
    let memory = Memory::new();
    let mut bus = PciBus::new(&counter(&memory));
    // The last capability is that of messages.
    bus.space[0x84 / 4] &= 0xffff_00ff;
    let pci = Pci::open(&mut bus, FUNCTION, Some(MESSAGE)).expect("it opens");
    assert!(!pci.uses_messages());
}

#[test]
fn broken_configuration_space_is_refused() {
    let memory = Memory::new();
    let device = counter(&memory);
    let open = |changes: &[(usize, u32)]| {
        let mut bus = PciBus::new(&device);
        for (at, value) in changes {
            bus.space[at / 4] = *value;
        }
        Pci::open(&mut bus, FUNCTION, Some(MESSAGE)).err()
    };
    assert_eq!(open(&[]), None);
    assert_eq!(open(&[(0, 0xffff_ffff)]), Some(Error::NoDevice));
    assert_eq!(open(&[(4, 0)]), Some(Error::Legacy), "no capabilities");
    assert_eq!(open(&[(0x34, 0)]), Some(Error::Legacy));
    assert_eq!(open(&[(0x34, 0x98)]), Some(Error::Legacy), "only messages");
    // The list runs in a circle, and only one structure is in it.
    assert_eq!(open(&[(0x40, 0x0110_4009)]), Some(Error::Capability));
    // BARs: not assigned, of ports, beyond the device, number 7, number 5 with 64 bits.
    assert_eq!(open(&[(0x20, 4), (0x24, 0)]), Some(Error::Capability));
    assert_eq!(open(&[(0x20, 0xc001)]), Some(Error::Capability));
    assert_eq!(open(&[(0x48, 0x5000)]), Some(Error::Capability));
    assert_eq!(open(&[(0x48, 0xffff_ffff)]), Some(Error::Capability));
    assert_eq!(open(&[(0x44, 7)]), Some(Error::Capability));
    assert_eq!(open(&[(0x44, 0x80)]), Some(Error::Capability));
    assert_eq!(open(&[(0x44, 5), (0x24, 4)]), Some(Error::Capability));
    assert_eq!(open(&[(0x24, 0xffff_ffff)]), Some(Error::Capability));
    assert_eq!(open(&[(0x48, 2)]), Some(Error::Capability), "not aligned");
    // A common structure that is too short, and one without length.
    assert_eq!(open(&[(0x4c, 55)]), Some(Error::Capability));
    assert_eq!(open(&[(0x4c, 0)]), Some(Error::Capability));
}

#[test]
fn a_queue_that_cannot_be_notified_is_refused() {
    let memory = Memory::new();
    let device = device(&memory, (5, 1 << 5), &[], &[8, 8, 8], Puppet).0;
    let balloon = |multiplier| {
        let mut bus = PciBus::new(&device);
        bus.space[0x60 / 4] = multiplier;
        let pci = Pci::open(&mut bus, FUNCTION, None).expect("it opens");
        crate::Balloon::new(pci.into(), memory.region(crate::Balloon::MEMORY)).err()
    };
    assert_eq!(balloon(4), None);
    assert_eq!(balloon(0x800), Some(Error::NoQueue));
    assert_eq!(balloon(u32::MAX), Some(Error::NoQueue));
}

#[test]
fn configuration_that_changes_is_read_again() {
    for kind in KINDS {
        let memory = Memory::new();
        let config: Vec<u8> = (0..16).collect();
        let device = device(&memory, (2, 0), &config, &[8], Puppet).0;
        let transport = open(kind, &device);
        device.borrow_mut().core.restless = 7;
        let value = transport.config64(0);
        assert_eq!(device.borrow().core.restless, 0);
        assert_eq!(
            value,
            u64::from_le_bytes(core::array::from_fn(|i| i as u8 + 7))
        );
        // One that never rests is left alone in the end.
        device.borrow_mut().core.restless = usize::MAX;
        transport.config64(0);
        assert!(usize::MAX - device.borrow().core.restless < 1000);
    }
}

#[test]
fn configuration_is_read_by_its_width() {
    for kind in KINDS {
        let memory = Memory::new();
        let config: Vec<u8> = (0x10..0x20).collect();
        let device = device(&memory, (2, 0), &config, &[8], Puppet).0;
        let transport = open(kind, &device);
        assert_eq!(transport.config8(3), 0x13);
        assert_eq!(transport.config16(10), 0x1b1a);
        assert_eq!(transport.config32(4), 0x1716_1514);
        assert_eq!(transport.config64(8), 0x1f1e_1d1c_1b1a_1918);
    }
}

#[test]
fn interrupt_requests_are_taken_back() {
    for (kind, cause) in KINDS.into_iter().zip([3, 3, 0]) {
        let memory = Memory::new();
        let device = counter(&memory);
        let transport = open(kind, &device);
        device.borrow_mut().core.interrupt = 3;
        assert_eq!(transport.acknowledge(), cause);
        let left = if kind == Kind::PciMessages { 3 } else { 0 };
        assert_eq!(
            device.borrow().core.interrupt,
            left,
            "messages need no taking back"
        );
        assert_eq!(transport.acknowledge(), 0);
    }
}
