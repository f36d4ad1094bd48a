//! What the loader tells: PVH's `hvm_start_info` (Xen, `arch-x86/hvm/start_info.h`) or Multiboot2's information.

use crate::physical::{Physical, u32_at, u64_at};

/// Magic number of `hvm_start_info`.
pub const PVH_MAGIC: u32 = 0x336e_c578;
/// What Multiboot2 leaves in `eax`.
pub const MULTIBOOT_MAGIC: u32 = 0x36d7_6289;

/// The most regions of memory that are kept.
pub const MAX_REGIONS: usize = 32;
/// The most bytes of command line.
pub const MAX_COMMAND_LINE: usize = 4096;

/// A region of memory that the machine may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Physical address.
    pub start: u64,
    /// Address behind it.
    pub end: u64,
}

/// The loader's answers.
#[derive(Clone, Debug)]
pub struct Firmware {
    /// Which protocol it was.
    pub magic: u32,
    /// Usable memory.
    pub regions: [Region; MAX_REGIONS],
    /// How many of them there are.
    pub count: usize,
    /// The command line, a copy: where the loader has it will be the guest's memory.
    line: [u8; MAX_COMMAND_LINE],
    line_len: usize,
    /// Physical address of ACPI's root pointer, 0 if it was not told.
    pub rsdp: u64,
    /// What was loaded beside the image; not usable memory. The root image of a program.
    #[cfg(feature = "program")]
    pub module: Region,
}

/// What the loader told wrongly, in words.
pub type Fault = &'static str;

impl Firmware {
    /// Nothing was told. All zeroes.
    pub const EMPTY: Self = Self {
        magic: 0,
        regions: [Region { start: 0, end: 0 }; MAX_REGIONS],
        count: 0,
        line: [0; MAX_COMMAND_LINE],
        line_len: 0,
        rsdp: 0,
        #[cfg(feature = "program")]
        module: Region { start: 0, end: 0 },
    };

    /// Reads what `magic` says lies at `address`.
    ///
    /// # Errors
    /// In words.
    pub fn read(&mut self, memory: &impl Physical, magic: u32, address: u64) -> Result<(), Fault> {
        self.magic = magic;
        match magic {
            PVH_MAGIC => self.pvh(memory, address),
            MULTIBOOT_MAGIC => self.multiboot(memory, address),
            _ => None,
        }
        .ok_or("the loader tells nothing of this machine")?;
        if self.count == 0 {
            return Err("the loader tells of no memory");
        }
        if self.line_len == MAX_COMMAND_LINE {
            return Err("the command line is longer than 4095 bytes");
        }
        Ok(())
    }

    /// The command line without the NUL byte.
    pub fn command_line(&self) -> &[u8] {
        self.line.get(..self.line_len).unwrap_or_default()
    }

    /// Takes over the bytes up to a NUL byte.
    fn keep(&mut self, text: &[u8]) {
        self.line_len = 0;
        for (to, &from) in self.line.iter_mut().zip(text) {
            if from == 0 {
                break;
            }
            *to = from;
            self.line_len += 1;
        }
    }

    /// The regions.
    pub fn regions(&self) -> &[Region] {
        self.regions.get(..self.count).unwrap_or_default()
    }

    #[cfg(feature = "program")]
    fn add(&mut self, start: u64, len: u64) {
        let end = start.saturating_add(len);
        let module = self.module;
        if module.start < module.end && start < module.end && module.start < end {
            self.add_region(start, module.start);
            self.add_region(module.end.max(start), end);
        } else {
            self.add_region(start, end);
        }
    }

    #[cfg(not(feature = "program"))]
    fn add(&mut self, start: u64, len: u64) {
        self.add_region(start, start.saturating_add(len));
    }

    fn add_region(&mut self, start: u64, end: u64) {
        const PAGE: u64 = kiln_abi::PAGE_SIZE;
        let end = end & !(PAGE - 1);
        let start = start.saturating_add(PAGE - 1) & !(PAGE - 1);
        if end > start
            && let Some(region) = self.regions.get_mut(self.count)
        {
            *region = Region { start, end };
            self.count += 1;
        }
    }

    fn pvh(&mut self, memory: &impl Physical, address: u64) -> Option<()> {
        let info = memory.bytes(address, 40)?;
        if u32_at(info, 0)? != PVH_MAGIC {
            return None;
        }
        let command_line = u64_at(info, 24)?;
        if command_line != 0 {
            let mut most = MAX_COMMAND_LINE;
            while most > 0 {
                if let Some(text) = memory.bytes(command_line, most) {
                    self.keep(text);
                    break;
                }
                most /= 2;
            }
        }
        self.rsdp = u64_at(info, 32)?;
        #[cfg(feature = "program")]
        if u32_at(info, 12)? != 0 {
            let module = memory.bytes(u64_at(info, 16)?, 16)?;
            self.module = Region {
                start: u64_at(module, 0)?,
                end: u64_at(module, 0)?.checked_add(u64_at(module, 8)?)?,
            };
        }
        // Version 0 knows no memory map.
        if u32_at(info, 4)? >= 1 {
            let table = memory.bytes(address, 52)?;
            let entries = u64_at(table, 40)?;
            for index in 0..u64::from(u32_at(table, 48)?).min(1024) {
                let entry = memory.bytes(entries.checked_add(index * 24)?, 24)?;
                if u32_at(entry, 16)? == 1 {
                    self.add(u64_at(entry, 0)?, u64_at(entry, 8)?);
                }
            }
        }
        Some(())
    }

    fn multiboot(&mut self, memory: &impl Physical, address: u64) -> Option<()> {
        let size = memory.u32(address)? as usize;
        let info = memory.bytes(address, size)?;
        let mut at = 8;
        while let Some(kind) = u32_at(info, at) {
            let len = u32_at(info, at + 4)? as usize;
            let tag = info.get(at..at.checked_add(len.max(8))?)?;
            match kind {
                0 => break,
                1 => self.keep(tag.get(8..)?),
                6 => {
                    let entry_size = (u32_at(tag, 8)? as usize).max(24);
                    for entry in tag.get(16..)?.chunks_exact(entry_size) {
                        if u32_at(entry, 16)? == 1 {
                            self.add(u64_at(entry, 0)?, u64_at(entry, 8)?);
                        }
                    }
                }
                // A copy of ACPI's root pointer, old or new.
                14 | 15 => self.rsdp = address + at as u64 + 8,
                _ => {}
            }
            at = at.checked_add(len.max(8).checked_next_multiple_of(8)?)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::physical::tests::Pieces;
    use std::vec;
    use std::vec::Vec;

    fn read(memory: &impl Physical, magic: u32, address: u64) -> Result<Firmware, Fault> {
        let mut found = Firmware::EMPTY;
        found.read(memory, magic, address).map(|()| found)
    }

    fn words(list: &[u64]) -> Vec<u8> {
        list.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    fn pvh() -> Pieces {
        let mut info = vec![0u8; 56];
        info[..4].copy_from_slice(&PVH_MAGIC.to_le_bytes());
        info[4] = 1;
        info[24..32].copy_from_slice(&0x3000u64.to_le_bytes());
        info[32..40].copy_from_slice(&0xf_0000u64.to_le_bytes());
        info[40..48].copy_from_slice(&0x4000u64.to_le_bytes());
        info[48] = 3;
        let map = words(&[0, 0x9_fc00, 1, 0x9_fc00, 0x400, 2, 0x10_0000, 0x3f0_0000, 1]);
        Pieces(vec![
            (0x2000, info),
            (0x3000, b"kiln.name=a b\0rest".to_vec()),
            (0x4000, map),
        ])
    }

    #[test]
    fn a_pvh_start_is_read() {
        let memory = pvh();
        let found = read(&memory, PVH_MAGIC, 0x2000).unwrap();
        let region = |start, end| Region { start, end };
        let expected = [region(0, 0x9_f000), region(0x10_0000, 0x400_0000)];
        assert_eq!(found.regions(), expected);
        assert_eq!(found.command_line(), b"kiln.name=a b");
        assert_eq!(found.rsdp, 0xf_0000);
    }

    #[test]
    fn a_command_line_without_end_is_refused() {
        let mut memory = pvh();
        memory.0[1].1 = vec![b'x'; MAX_COMMAND_LINE];
        assert!(read(&memory, PVH_MAGIC, 0x2000).is_err_and(|fault| fault.contains("4095")));
        memory.0[1].1[MAX_COMMAND_LINE - 1] = 0;
        let found = read(&memory, PVH_MAGIC, 0x2000).unwrap();
        assert_eq!(found.command_line().len(), MAX_COMMAND_LINE - 1);
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let mut memory = pvh();
        assert!(read(&memory, PVH_MAGIC, 0x2008).is_err());
        assert!(read(&memory, 0, 0x2000).is_err());
        memory.0[2].1.truncate(30);
        assert!(read(&memory, PVH_MAGIC, 0x2000).is_err());
        memory.0[0].1[4] = 0;
        assert!(read(&memory, PVH_MAGIC, 0x2000).is_err());
        memory.0[0].1.truncate(20);
        assert!(read(&memory, PVH_MAGIC, 0x2000).is_err());
    }

    fn multiboot() -> Vec<u8> {
        let mut tags = words(&[0]);
        tags.extend(1u32.to_le_bytes());
        tags.extend(13u32.to_le_bytes());
        tags.extend(b"a=b\0rest");
        tags.extend(words(&[6 | 40 << 32, 24, 0x10_0000, 0x10_0000, 1]));
        tags.extend(words(&[15 | 16 << 32, 0, 8 << 32]));
        let len = tags.len() as u32;
        tags[..4].copy_from_slice(&len.to_le_bytes());
        tags
    }

    #[test]
    fn multiboot_information_is_read() {
        let memory = Pieces(vec![(0x8000, multiboot())]);
        let found = read(&memory, MULTIBOOT_MAGIC, 0x8000).unwrap();
        assert_eq!(found.command_line(), b"a=b");
        assert_eq!(
            found.regions(),
            [Region {
                start: 0x10_0000,
                end: 0x20_0000
            }]
        );
        assert_eq!(found.rsdp, 0x8000 + 8 + 16 + 40 + 8);
    }

    #[test]
    fn truncated_or_overlong_tags_do_no_harm() {
        let whole = multiboot();
        for len in 0..whole.len() {
            let mut part = whole[..len].to_vec();
            let _ = read(
                &Pieces(vec![(0x8000, part.clone())]),
                MULTIBOOT_MAGIC,
                0x8000,
            );
            if len >= 4 {
                part[..4].copy_from_slice(&(len as u32).to_le_bytes());
                let _ = read(&Pieces(vec![(0x8000, part)]), MULTIBOOT_MAGIC, 0x8000);
            }
        }
        for at in (8..whole.len()).step_by(4) {
            for value in [0u32, 1, 7, u32::MAX, u32::MAX - 7, 1 << 31] {
                let mut bytes = whole.clone();
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
                let _ = read(&Pieces(vec![(0x8000, bytes)]), MULTIBOOT_MAGIC, 0x8000);
            }
        }
    }
}
