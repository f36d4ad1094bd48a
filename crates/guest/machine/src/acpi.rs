//! ACPI tables, as far as they tell of interrupts, of PCI and of how to switch the machine off.
//!
//! No byte of them is trusted; a table that makes no sense is as good as absent. Section numbers are those of the ACPI
//! specification 6.5.

use crate::physical::{Physical, u16_at, u32_at, u64_at};

/// The most I/O interrupt controllers that are kept.
pub const MAX_CONTROLLERS: usize = 4;
/// The most virtio-mmio devices that are kept.
pub const MAX_DEVICES: usize = 32;

/// An I/O interrupt controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controller {
    /// Physical address.
    pub address: u64,
    /// The global number of its first input.
    pub first: u32,
}

/// A virtio device of the differentiated description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mmio {
    /// Physical address of the registers.
    pub address: u64,
    /// Length of the window in bytes.
    pub size: u64,
    /// Global interrupt number.
    pub interrupt: u32,
}

/// How to switch the machine off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Sleep {
    /// There is no way.
    #[default]
    None,
    /// By two ports (the second 0 for none), with these values for S5.
    Ports {
        /// `PM1a_CNT_BLK` and `PM1b_CNT_BLK`.
        ports: [u16; 2],
        /// `SLP_TYPa` and `SLP_TYPb`.
        types: [u8; 2],
    },
    /// By the sleep control register of hardware-reduced ACPI: an address and whether it is a port's.
    Register {
        /// Where it is.
        address: u64,
        /// It is a port.
        port: bool,
        /// `SLP_TYP`.
        kind: u8,
    },
}

/// What the tables tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acpi {
    /// The I/O interrupt controllers.
    pub controllers: [Controller; MAX_CONTROLLERS],
    /// How many there are.
    pub controller_count: usize,
    /// Physical address of PCI's memory-mapped configuration space for bus 0, 0 for none.
    pub ecam: u64,
    /// The virtio-mmio devices.
    #[cfg(feature = "virtio")]
    pub devices: [Mmio; MAX_DEVICES],
    /// How many there are.
    #[cfg(feature = "virtio")]
    pub device_count: usize,
    /// How to switch off.
    pub sleep: Sleep,
    /// Port of the power management timer, 0 for none.
    pub timer: u16,
    /// Port of the fixed events (`PM1a_EVT_BLK`), 0 for none.
    pub events: u16,
    /// Global number of the interrupt that tells of events.
    pub interrupt: u16,
    /// Port and value that hand the hardware over to ACPI; port 0 if that is not needed.
    pub enable: (u16, u8),
    /// `PM1a_CNT_BLK`.
    pub control: u16,
    /// True if there are tables at all.
    pub present: bool,
}

const MAX_TABLE: usize = 1 << 20;

/// Reads the tables into `acpi`, which is empty. `rsdp` is the root pointer's address; 0 to look for it where PC firmware
/// leaves it.
pub fn read(acpi: &mut Acpi, memory: &impl Physical, rsdp: u64) {
    let rsdp = if rsdp == 0 { find(memory) } else { Some(rsdp) };
    if let Some(rsdp) = rsdp {
        acpi.present = acpi.root(memory, rsdp).is_some();
    }
}

/// Section 5.2.5.1.
fn find(memory: &impl Physical) -> Option<u64> {
    const AREA: u64 = 0xe_0000;
    let area = memory.bytes(AREA, 0x2_0000)?;
    let at = area
        .chunks_exact(16)
        .position(|c| c.starts_with(b"RSD PTR "))?;
    Some(AREA + at as u64 * 16)
}

/// The whole table at `address` if it has this signature; any, if that is empty.
fn table<'a>(memory: &'a impl Physical, address: u64, signature: &[u8]) -> Option<&'a [u8]> {
    let head = memory.bytes(address, 36)?;
    let len = u32_at(head, 4)? as usize;
    if !head.starts_with(signature) || !(36..=MAX_TABLE).contains(&len) {
        return None;
    }
    memory.bytes(address, len)
}

impl Acpi {
    /// No tables. All zeroes.
    pub const EMPTY: Self = Self {
        controllers: [Controller {
            address: 0,
            first: 0,
        }; MAX_CONTROLLERS],
        controller_count: 0,
        ecam: 0,
        #[cfg(feature = "virtio")]
        devices: [Mmio {
            address: 0,
            size: 0,
            interrupt: 0,
        }; MAX_DEVICES],
        #[cfg(feature = "virtio")]
        device_count: 0,
        sleep: Sleep::None,
        timer: 0,
        events: 0,
        interrupt: 0,
        enable: (0, 0),
        control: 0,
        present: false,
    };

    /// The I/O interrupt controllers.
    pub fn controllers(&self) -> &[Controller] {
        self.controllers
            .get(..self.controller_count)
            .unwrap_or_default()
    }

    /// The virtio-mmio devices.
    #[cfg(feature = "virtio")]
    pub fn devices(&self) -> &[Mmio] {
        self.devices.get(..self.device_count).unwrap_or_default()
    }

    fn root(&mut self, memory: &impl Physical, rsdp: u64) -> Option<()> {
        let root = memory.bytes(rsdp, 20)?;
        if !root.starts_with(b"RSD PTR ") {
            return None;
        }
        let extended = if root.get(15) >= Some(&2) {
            u64_at(memory.bytes(rsdp, 36)?, 24)?
        } else {
            0
        };
        if extended != 0 {
            for entry in table(memory, extended, b"XSDT")?.get(36..)?.chunks_exact(8) {
                self.table(memory, u64_at(entry, 0)?);
            }
        } else {
            let list = table(memory, u32_at(root, 16)?.into(), b"RSDT")?;
            for entry in list.get(36..)?.chunks_exact(4) {
                self.table(memory, u32_at(entry, 0)?.into());
            }
        }
        Some(())
    }

    fn table(&mut self, memory: &impl Physical, address: u64) -> Option<()> {
        let bytes = table(memory, address, b"")?;
        match bytes.first_chunk()? {
            b"APIC" => self.madt(bytes),
            #[cfg(feature = "virtio")]
            b"MCFG" => self.mcfg(bytes),
            b"FACP" => self.fadt(memory, bytes),
            _ => None,
        }
    }

    /// Section 5.2.12.
    fn madt(&mut self, table: &[u8]) -> Option<()> {
        let mut rest = table.get(44..)?;
        while let [kind, len, ..] = *rest {
            let (entry, behind) = rest.split_at_checked(usize::from(len).max(2))?;
            rest = behind;
            if kind == 1
                && let Some(slot) = self.controllers.get_mut(self.controller_count)
            {
                *slot = Controller {
                    address: u32_at(entry, 4)?.into(),
                    first: u32_at(entry, 8)?,
                };
                self.controller_count += 1;
            }
        }
        Some(())
    }

    /// PCI firmware specification 3.3, section 4.1.2.
    #[cfg(feature = "virtio")]
    fn mcfg(&mut self, table: &[u8]) -> Option<()> {
        for entry in table.get(44..)?.chunks_exact(16) {
            if u16_at(entry, 8)? == 0 && entry.get(10) == Some(&0) {
                self.ecam = u64_at(entry, 0)?;
            }
        }
        Some(())
    }

    /// Section 5.2.9.
    fn fadt(&mut self, memory: &impl Physical, table: &[u8]) -> Option<()> {
        const HARDWARE_REDUCED: u32 = 1 << 20;
        let dsdt = match u64_at(table, 140) {
            Some(address) if address != 0 => address,
            _ => u32_at(table, 40)?.into(),
        };
        let dsdt = self::table(memory, dsdt, b"DSDT").unwrap_or_default();
        let types = s5(dsdt);
        #[cfg(feature = "virtio")]
        self.mmio(dsdt);
        if u32_at(table, 112)? & HARDWARE_REDUCED != 0 {
            let register = table.get(244..256)?;
            let address = u64_at(register, 4)?;
            let space = *register.first()?;
            if address != 0 && space <= 1 {
                // Hardware-reduced machines tell nothing else worth knowing, and S5 is 5 on all that lack `_S5`.
                let [kind, _] = types.unwrap_or([5, 0]);
                self.sleep = Sleep::Register {
                    address,
                    port: space == 1,
                    kind,
                };
            }
            return Some(());
        }
        let port = |at| Some(u16::try_from(u32_at(table, at)?).unwrap_or(0));
        self.interrupt = u16_at(table, 46)?;
        self.events = port(56)?;
        self.timer = port(76)?;
        let ports = [port(64)?, port(68)?];
        self.enable = (port(48)?, *table.get(52)?);
        self.control = ports[0];
        if let Some(types) = types.filter(|_| self.control != 0) {
            self.sleep = Sleep::Ports { ports, types };
        }
        Some(())
    }

    /// Virtio devices, as QEMU and Firecracker describe them: the name, and soon behind it the resources, a fixed range of
    /// memory and an interrupt (sections 6.4.3.4 and 6.4.3.6). No AML is interpreted for that.
    #[cfg(feature = "virtio")]
    fn mmio(&mut self, dsdt: &[u8]) {
        let mut rest = dsdt;
        while let Some(at) = rest.windows(8).position(|w| w == b"LNRO0005") {
            rest = rest.get(at + 8..).unwrap_or_default();
            let near = rest.get(..rest.len().min(128)).unwrap_or_default();
            if let Some(device) = resources(near)
                && let Some(slot) = self.devices.get_mut(self.device_count)
            {
                *slot = device;
                self.device_count += 1;
            }
        }
    }
}

#[cfg(feature = "virtio")]
fn resources(bytes: &[u8]) -> Option<Mmio> {
    let memory = bytes.windows(3).position(|w| w == [0x86, 9, 0])?;
    let interrupt = bytes.get(memory + 12..)?;
    let behind = interrupt.windows(3).position(|w| w == [0x89, 6, 0])?;
    Some(Mmio {
        address: u32_at(bytes, memory + 4)?.into(),
        size: u32_at(bytes, memory + 8)?.into(),
        interrupt: u32_at(interrupt, behind + 5)?,
    })
}

/// The values for S5: the package named `_S5_` among the bytes of the DSDT (sections 7.4.2 and 20.2).
fn s5(dsdt: &[u8]) -> Option<[u8; 2]> {
    let at = dsdt.windows(5).position(|w| w == b"_S5_\x12")?;
    let package = dsdt.get(at + 5..)?;
    // The package's length takes one byte, and as many more as its two highest bits say; then comes the element count.
    let elements = package.get(usize::from(package.first()? >> 6) + 2..)?;
    let (first, rest) = integer(elements)?;
    Some([first, integer(rest).map_or(0, |(second, _)| second)])
}

/// A small integer and what follows it.
fn integer(bytes: &[u8]) -> Option<(u8, &[u8])> {
    match *bytes {
        [0x0a, value, ref rest @ ..] | [value @ (0 | 1), ref rest @ ..] => Some((value, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(memory: &impl Physical, rsdp: u64) -> Acpi {
        let mut acpi = Acpi::EMPTY;
        super::read(&mut acpi, memory, rsdp);
        acpi
    }
    use crate::physical::tests::Pieces;
    use std::vec;
    use std::vec::Vec;

    fn table(signature: &[u8], body: &[u8]) -> Vec<u8> {
        let mut bytes = signature.to_vec();
        bytes.extend((36 + body.len() as u32).to_le_bytes());
        bytes.resize(36, 0);
        bytes.extend(body);
        bytes
    }

    fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
        bytes[at..at + value.len()].copy_from_slice(value);
    }

    const RSDP: u64 = 0xf_5ad0;

    /// Tables as QEMU's q35 has them, with both interrupt controllers that microvm can have.
    fn machine() -> Pieces {
        let mut area = vec![0; 0x2_0000];
        let mut rsdp = b"RSD PTR ".to_vec();
        rsdp.resize(16, 0);
        rsdp.extend(0x10_0000u32.to_le_bytes());
        put(&mut area, (RSDP - 0xe_0000) as usize, &rsdp);
        let list: Vec<u8> = [0x10_1000u32, 0x10_2000, 0x10_3000, 0x10_9000]
            .iter()
            .flat_map(|a| a.to_le_bytes())
            .collect();
        let mut madt = vec![0; 8];
        madt.extend([0, 8, 0, 0, 1, 0, 0, 0]);
        madt.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        madt.extend([1, 12, 1, 0, 0, 0x10, 0xc0, 0xfe, 24, 0, 0, 0]);
        let mut mcfg = vec![0; 8];
        mcfg.extend(0xb000_0000u64.to_le_bytes());
        mcfg.extend([0, 0, 0, 255, 0, 0, 0, 0]);
        let mut fadt = vec![0; 244 - 36];
        put(&mut fadt, 40 - 36, &0x10_4000u32.to_le_bytes());
        put(&mut fadt, 46 - 36, &[9, 0]);
        put(&mut fadt, 56 - 36, &0x600u32.to_le_bytes());
        put(&mut fadt, 64 - 36, &0x604u32.to_le_bytes());
        put(&mut fadt, 76 - 36, &0x608u32.to_le_bytes());
        let mut dsdt = vec![7; 50];
        for number in 0..3u8 {
            dsdt.extend(b"\x08_HID\x0dLNRO0005\0\x08_UID\x0a\0\x08_CRS\x11\x1a\x0a\x17");
            dsdt.extend([0x86, 9, 0, 1, 0, 2 * number, 0xb0, 0xfe, 0, 2, 0, 0]);
            dsdt.extend([0x89, 6, 0, 3, 1, 16 + number, 0, 0, 0, 0x79, 0]);
        }
        dsdt.extend(b"\x08_S5_\x12\x06\x04\x0a\x07\x01\x00\x00");
        Pieces(vec![
            (0xe_0000, area),
            (0x10_0000, table(b"RSDT", &list)),
            (0x10_1000, table(b"APIC", &madt)),
            (0x10_2000, table(b"MCFG", &mcfg)),
            (0x10_3000, table(b"FACP", &fadt)),
            (0x10_4000, table(b"DSDT", &dsdt)),
        ])
    }

    #[test]
    fn tables_of_a_pc_are_read() {
        let acpi = read(&machine(), 0);
        assert!(acpi.present);
        let controller = |address, first| Controller { address, first };
        assert_eq!(
            acpi.controllers(),
            [controller(0xfec0_0000, 0), controller(0xfec0_1000, 24)]
        );
        assert_eq!(acpi.ecam, 0xb000_0000);
        let mmio = |address, interrupt| Mmio {
            address,
            size: 0x200,
            interrupt,
        };
        assert_eq!(
            acpi.devices(),
            [
                mmio(0xfeb0_0000, 16),
                mmio(0xfeb0_0200, 17),
                mmio(0xfeb0_0400, 18)
            ]
        );
        let off = Sleep::Ports {
            ports: [0x604, 0],
            types: [7, 1],
        };
        assert_eq!(
            (acpi.sleep, acpi.timer, acpi.events, acpi.interrupt),
            (off, 0x608, 0x600, 9)
        );
        assert_eq!(read(&machine(), RSDP), acpi);
    }

    #[test]
    fn a_hardware_reduced_machine_sleeps_by_its_register() {
        let mut memory = machine();
        let fadt = &mut memory.0[4].1;
        fadt.resize(268, 0);
        put(fadt, 4, &268u32.to_le_bytes());
        put(fadt, 112, &(1u32 << 20).to_le_bytes());
        put(fadt, 248, &0xfea0_0000u64.to_le_bytes());
        let expected = Sleep::Register {
            address: 0xfea0_0000,
            port: false,
            kind: 7,
        };
        assert_eq!(read(&memory, RSDP).sleep, expected);
    }

    #[test]
    fn no_byte_is_trusted() {
        let mut memory = machine();
        for piece in 1..6 {
            let whole = memory.0[piece].1.clone();
            for cut in 0..whole.len() {
                memory.0[piece].1.truncate(cut);
                let _ = read(&memory, RSDP);
                if cut >= 8 {
                    put(&mut memory.0[piece].1, 4, &(cut as u32).to_le_bytes());
                    let _ = read(&memory, RSDP);
                }
                memory.0[piece].1.clone_from(&whole);
            }
            for (at, byte) in whole.iter().enumerate() {
                for value in [0, 1, 0x12, 0x7f, 0x80, 0xff] {
                    memory.0[piece].1[at] = value;
                    let _ = read(&memory, RSDP);
                }
                memory.0[piece].1[at] = *byte;
            }
        }
        assert_eq!(read(&Pieces::default(), 0), Acpi::EMPTY);
        assert_eq!(read(&Pieces::default(), RSDP), Acpi::EMPTY);
    }
}
