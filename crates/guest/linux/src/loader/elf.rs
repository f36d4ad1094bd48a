//! ELF files (`elf(5)`), as far as starting a program needs them.
//!
//! The bytes are the program's, so nothing about them is believed: what this module answers has been checked to lie within the program's
//! address range and within the file's own numbers.

use alloc::vec::Vec;

use crate::platform::Access;
use crate::user::{PAGE, USER_END};

/// Bytes of the file header.
pub const HEADER_LEN: usize = 64;
/// Bytes of a program header.
pub const ENTRY_LEN: usize = 56;
/// The longest table of program headers, in bytes.
pub const MAX_TABLE: usize = 65536;

/// Why a file is not a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not an ELF file at all.
    NotElf,
    /// A program for another processor: `e_machine`, or 0 if the word size or byte order differs.
    WrongMachine(u16),
    /// An object file, a core dump.
    NotProgram,
    /// The headers contradict themselves or what a processor can do.
    Broken(&'static str),
}

/// What the file header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Position independent (`ET_DYN`).
    pub relocatable: bool,
    /// Where it starts.
    pub entry: u64,
    /// Offset of the program headers.
    pub table: u64,
    /// How many there are.
    pub count: u16,
}

/// A part of the file that belongs in memory (`PT_LOAD`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its address.
    pub address: u64,
    /// Bytes in memory, at least as many as in the file.
    pub memory_len: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub file_len: u64,
    /// What may be done with it.
    pub access: Access,
}

/// What the program headers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// In the file's order. There is at least one.
    pub segments: Vec<Segment>,
    /// Offset and length of the interpreter's path.
    pub interpreter: Option<(u64, u64)>,
    /// The stack is to be executable (`PT_GNU_STACK`).
    pub executable_stack: bool,
    /// Where the program headers are in memory, before the load bias.
    pub headers: u64,
    /// What the load bias is a multiple of.
    pub align: u64,
    /// The lowest address, rounded down to a page.
    pub start: u64,
    /// The highest one, rounded up.
    pub end: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let mut number = [0; 2];
    if let Some(from) = bytes.get(at..at + 2) {
        number.copy_from_slice(from);
    }
    u16::from_le_bytes(number)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    if let Some(from) = bytes.get(at..at + 4) {
        number.copy_from_slice(from);
    }
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    if let Some(from) = bytes.get(at..at + 8) {
        number.copy_from_slice(from);
    }
    u64::from_le_bytes(number)
}

impl Header {
    /// Reads the first bytes of a file.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        const CLASS_64: u8 = 2;
        const LITTLE_ENDIAN: u8 = 1;
        const X86_64: u16 = 62;
        const ET_EXEC: u16 = 2;
        const ET_DYN: u16 = 3;
        if bytes.get(..4) != Some(b"\x7fELF") {
            return Err(Fault::NotElf);
        }
        if bytes.len() < HEADER_LEN {
            return Err(Fault::Broken("its header is cut off"));
        }
        if bytes.get(4..6) != Some(&[CLASS_64, LITTLE_ENDIAN]) {
            return Err(Fault::WrongMachine(0));
        }
        let machine = u16_at(bytes, 18);
        if machine != X86_64 {
            return Err(Fault::WrongMachine(machine));
        }
        let kind = u16_at(bytes, 16);
        if kind != ET_EXEC && kind != ET_DYN {
            return Err(Fault::NotProgram);
        }
        let count = u16_at(bytes, 56);
        if usize::from(u16_at(bytes, 54)) != ENTRY_LEN
            || count == 0
            || usize::from(count) * ENTRY_LEN > MAX_TABLE
        {
            return Err(Fault::Broken("its table of program headers is impossible"));
        }
        Ok(Self {
            relocatable: kind == ET_DYN,
            entry: u64_at(bytes, 24),
            table: u64_at(bytes, 32),
            count,
        })
    }

    /// Bytes of the table of program headers.
    pub fn table_len(&self) -> usize {
        usize::from(self.count) * ENTRY_LEN
    }
}

impl Program {
    /// Reads the table of program headers.
    ///
    /// # Errors
    /// [`Fault::Broken`].
    pub fn parse(header: &Header, table: &[u8]) -> Result<Self, Fault> {
        const PT_LOAD: u32 = 1;
        const PT_INTERP: u32 = 3;
        const PT_PHDR: u32 = 6;
        const PT_GNU_STACK: u32 = 0x6474_e551;
        if table.len() < header.table_len() {
            return Err(Fault::Broken("its program headers are cut off"));
        }
        let mut program = Self {
            align: PAGE,
            start: u64::MAX,
            ..Self::default()
        };
        let mut said = None;
        let mut found = None;
        for entry in table.chunks_exact(ENTRY_LEN).take(header.count.into()) {
            let (kind, flags) = (u32_at(entry, 0), u32_at(entry, 4));
            let (offset, address) = (u64_at(entry, 8), u64_at(entry, 16));
            let (file_len, memory_len) = (u64_at(entry, 32), u64_at(entry, 40));
            match kind {
                PT_LOAD => {
                    let segment = Segment {
                        address,
                        memory_len,
                        offset,
                        file_len,
                        access: access_of(flags),
                    };
                    segment.check()?;
                    let align = u64_at(entry, 48);
                    if align.is_power_of_two() && align <= 1 << 30 {
                        program.align = program.align.max(align);
                    }
                    if memory_len == 0 {
                        continue;
                    }
                    program.start = program.start.min(segment.first_page());
                    program.end = program.end.max(segment.end_page());
                    let holds = offset <= header.table && header.table - offset < file_len;
                    if holds && found.is_none() {
                        found = address.checked_add(header.table - offset);
                    }
                    program.segments.push(segment);
                }
                PT_INTERP if program.interpreter.is_none() => {
                    if !(2..=4096).contains(&file_len) {
                        return Err(Fault::Broken("its interpreter has no possible name"));
                    }
                    program.interpreter = Some((offset, file_len));
                }
                PT_PHDR => said = Some(address),
                PT_GNU_STACK => {
                    program.executable_stack = access_of(flags).contains(Access::EXEC);
                }
                _ => {}
            }
        }
        if program.segments.is_empty() {
            return Err(Fault::Broken("nothing of it belongs in memory"));
        }
        program.headers = said.or(found).unwrap_or(0);
        Ok(program)
    }
}

fn access_of(flags: u32) -> Access {
    let mut access = Access::empty();
    access.set(Access::EXEC, flags & 1 != 0);
    access.set(Access::WRITE, flags & 2 != 0);
    access.set(Access::READ, flags & 4 != 0);
    access
}

impl Segment {
    fn check(&self) -> Result<(), Fault> {
        if self.file_len > self.memory_len {
            return Err(Fault::Broken(
                "a segment is longer in the file than in memory",
            ));
        }
        let end = self.address.checked_add(self.memory_len);
        if end.is_none_or(|end| end > USER_END - PAGE) {
            return Err(Fault::Broken(
                "a segment lies outside of what a program can address",
            ));
        }
        let file_end = self.offset.checked_add(self.file_len);
        if file_end.is_none_or(|end| end > i64::MAX as u64) {
            return Err(Fault::Broken("a segment lies outside of any file"));
        }
        if self.file_len > 0 && self.address % PAGE != self.offset % PAGE {
            return Err(Fault::Broken(
                "a segment cannot be mapped where it wants to be",
            ));
        }
        Ok(())
    }

    /// Its address rounded down.
    pub fn first_page(&self) -> u64 {
        self.address & !(PAGE - 1)
    }

    /// Behind what comes from the file.
    pub fn file_end(&self) -> u64 {
        self.address + self.file_len
    }

    /// Behind it.
    pub fn end(&self) -> u64 {
        self.address + self.memory_len
    }

    /// Behind it, rounded up.
    pub fn end_page(&self) -> u64 {
        (self.end() + PAGE - 1) & !(PAGE - 1)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use alloc::vec;

    /// A program header.
    pub fn entry(
        kind: u32,
        flags: u32,
        offset: u64,
        address: u64,
        lens: (u64, u64),
        align: u64,
    ) -> Vec<u8> {
        let mut bytes = vec![];
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        for word in [offset, address, address, lens.0, lens.1, align] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }

    /// A file: header, table, and then `rest` from 0x1000 on.
    pub fn file(kind: u16, entry_point: u64, table: &[Vec<u8>], rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
        bytes.resize(16, 0);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(62u16.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(entry_point.to_le_bytes());
        bytes.extend(64u64.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        for half in [64, 56, table.len() as u16, 64, 0, 0] {
            bytes.extend(half.to_le_bytes());
        }
        for entry in table {
            bytes.extend(entry);
        }
        bytes.resize(0x1000, 0);
        bytes.extend(rest);
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Program, Fault> {
        let header = Header::parse(bytes)?;
        Program::parse(&header, bytes.get(64..).unwrap_or_default())
    }

    #[test]
    fn a_program_is_what_its_headers_say() {
        let table = [
            entry(1, 5, 0, 0x40_0000, (0x1800, 0x1800), 0x1000),
            entry(1, 6, 0x1800, 0x40_2800, (0x100, 0x2000), 0x20_0000),
            entry(3, 4, 0x500, 0x40_0500, (9, 9), 1),
            entry(0x6474_e551, 6, 0, 0, (0, 0), 16),
        ];
        let bytes = file(2, 0x40_1000, &table, &[0; 0x900]);
        let header = Header::parse(&bytes).unwrap();
        assert!(!header.relocatable);
        assert_eq!(header.entry, 0x40_1000);
        let program = parse(&bytes).unwrap();
        assert_eq!(program.segments.len(), 2);
        assert_eq!((program.start, program.end), (0x40_0000, 0x40_5000));
        assert_eq!(program.headers, 0x40_0040);
        assert_eq!(program.interpreter, Some((0x500, 9)));
        assert_eq!(program.align, 0x20_0000);
        assert!(!program.executable_stack);
    }

    #[test]
    fn what_is_not_a_program_for_this_machine_is_told_apart() {
        let good = file(2, 0, &[entry(1, 5, 0, 0x40_0000, (0x1000, 0x1000), 1)], &[]);
        assert!(parse(&good).is_ok());
        assert_eq!(parse(b"#!/bin/sh\n"), Err(Fault::NotElf));
        assert_eq!(parse(b""), Err(Fault::NotElf));
        let mut other = good.clone();
        other[18] = 183;
        assert_eq!(parse(&other), Err(Fault::WrongMachine(183)));
        other = good.clone();
        other[4] = 1;
        assert_eq!(parse(&other), Err(Fault::WrongMachine(0)));
        other = good.clone();
        other[16] = 1;
        assert_eq!(parse(&other), Err(Fault::NotProgram));
        assert!(matches!(parse(&good[..40]), Err(Fault::Broken(_))));
        assert!(matches!(parse(&good[..100]), Err(Fault::Broken(_))));
    }

    #[test]
    fn absurd_segments_are_refused() {
        let broken = [
            entry(1, 5, 0, 0x40_0000, (0x2000, 0x1000), 1),
            entry(1, 5, 0, u64::MAX - 0xfff, (0x1000, 0x1000), 1),
            entry(1, 5, 0, 0, (0x1000, u64::MAX), 1),
            entry(1, 5, u64::MAX - 0xfff, 0x1000, (0x1000, 0x1000), 1),
            entry(1, 5, 0x10, 0x40_0000, (0x1000, 0x1000), 1),
            entry(1, 5, 0, 0x7fff_0000_0000, (0x1000, 0x1000), 1),
            entry(2, 5, 0, 0x40_0000, (0x1000, 0x1000), 1),
            entry(3, 5, 0, 0x40_0000, (1 << 40, 0x1000), 1),
        ];
        for entry in broken {
            let bytes = file(2, 0, &[entry], &[]);
            assert!(matches!(parse(&bytes), Err(Fault::Broken(_))));
        }
    }
}
