//! The machine part of an image: what stands below the guest where the image is a virtual machine of its own.
//!
//! Kiln's own monitor has no use for it and never maps it; it is checked all the same, so that an image that runs here
//! starts elsewhere too. `docs/machine.md` describes it.

use super::elf::{PF_R, PF_W, PF_X, ProgramHeader};
use super::{Fault, MAX_SPAN};

/// Physical address of the machine part.
pub const MACHINE_ADDRESS: u64 = 0x10_0000;
/// Physical address of the guest's address 0; the machine part's memory ends below it.
pub const GUEST_ADDRESS: u64 = 0x20_0000;

/// Where the machine part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachinePart {
    /// Offset in bytes in the file.
    pub file_offset: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Bytes of memory from [`MACHINE_ADDRESS`] on; those behind `file_size` are zero.
    pub memory_size: u64,
    /// Physical address at which other monitors enter the image.
    pub entry: u64,
}

/// True if a loadable segment is the machine part and not the guest's.
pub(super) fn is_machine(header: &ProgramHeader) -> bool {
    header.physical < GUEST_ADDRESS
}

/// Checks the machine part's header in a file of `file_size` bytes. The guest's own memory ends at `guest_end`.
pub(super) fn check(
    header: &ProgramHeader,
    entry: u64,
    guest_end: u64,
    file_size: u64,
) -> Result<MachinePart, Fault> {
    if header.flags & (PF_R | PF_W | PF_X) != PF_R | PF_X {
        return Err(Fault::MachineAccess);
    }
    let room = GUEST_ADDRESS - MACHINE_ADDRESS;
    if header.physical != MACHINE_ADDRESS || header.memory_size > room {
        return Err(Fault::MachineAddress(header.physical));
    }
    if header.address < guest_end || header.address > MAX_SPAN {
        return Err(Fault::MachineOverlap);
    }
    let end = header.offset.checked_add(header.file_size);
    if header.file_size > header.memory_size || end.is_none_or(|end| end > file_size) {
        return Err(Fault::MachineOutsideFile);
    }
    let part = MachinePart {
        file_offset: header.offset,
        file_size: header.file_size,
        memory_size: header.memory_size,
        entry,
    };
    if !part.holds(entry) {
        return Err(Fault::MachineEntry(entry));
    }
    Ok(part)
}

impl MachinePart {
    /// True if the physical address `address` is one of a byte in the file.
    fn holds(&self, address: u64) -> bool {
        address
            .checked_sub(MACHINE_ADDRESS)
            .is_some_and(|offset| offset < self.file_size)
    }
}

/// The words at the machine part's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineHeader {
    /// Physical address of the PVH entry.
    pub pvh_entry: u64,
    /// Physical address of the Multiboot2 entry.
    pub multiboot_entry: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Bytes of memory.
    pub memory_size: u64,
}

impl MachineHeader {
    const MAGIC: u32 = 0x4843_4d4b;

    /// The header of a whole machine part; `None` if it is none.
    pub fn parse(part: &[u8]) -> Option<Self> {
        let word = |index: usize| {
            let bytes = part.get(index * 4..)?.first_chunk()?;
            Some(u32::from_le_bytes(*bytes))
        };
        let offset = |index: usize| u64::from(word(index)?).checked_sub(MACHINE_ADDRESS);
        let header = Self {
            pvh_entry: word(1)?.into(),
            multiboot_entry: word(2)?.into(),
            file_size: offset(3)?,
            memory_size: offset(4)?,
        };
        let code = 20..header.file_size;
        let good = word(0)? == Self::MAGIC
            && header.file_size == part.len() as u64
            && (header.file_size..=GUEST_ADDRESS - MACHINE_ADDRESS).contains(&header.memory_size)
            && code.contains(&offset(1)?)
            && code.contains(&offset(2)?);
        good.then_some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(words: [u32; 5], len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(len, 0);
        bytes
    }

    const GOOD: [u32; 5] = [0x4843_4d4b, 0x10_0014, 0x10_0020, 0x10_0040, 0x10_5000];

    #[test]
    fn a_header_is_read() {
        assert_eq!(
            MachineHeader::parse(&part(GOOD, 0x40)),
            Some(MachineHeader {
                pvh_entry: 0x10_0014,
                multiboot_entry: 0x10_0020,
                file_size: 0x40,
                memory_size: 0x5000
            })
        );
    }

    #[test]
    fn a_header_that_contradicts_its_part_is_none() {
        for (index, word) in [
            (0, 0x4843_4d4c),
            (1, 0x10_0013),
            (1, 0x10_0040),
            (2, 0),
            (3, 0x10_0041),
            (3, 0x0f_ffff),
            (4, 0x10_003f),
            (4, 0x20_0001),
        ] {
            let mut words = GOOD;
            words[index] = word;
            assert_eq!(MachineHeader::parse(&part(words, 0x40)), None, "{index}");
        }
        assert_eq!(MachineHeader::parse(&part(GOOD, 0x3f)), None);
        assert_eq!(MachineHeader::parse(&[]), None);
    }
}
