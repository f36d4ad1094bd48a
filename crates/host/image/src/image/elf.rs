//! The ELF headers of a file, as numbers.
//!
//! Only reading, no judgement: which values an image may have is decided in [`layout`](super::layout) and
//! [`segments`](super::segments). Source: System V ABI, chapters 4 and 5, with the x86-64 supplement.

use super::Fault;

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: u16 = 56;

/// `ET_EXEC`: a program at a fixed address.
pub const TYPE_FIXED: u16 = 2;
/// `ET_DYN`: a program for any address, or a library.
pub const TYPE_MOVABLE: u16 = 3;

pub const PT_LOAD: u32 = 1;
pub const PT_INTERP: u32 = 3;
pub const PT_NOTE: u32 = 4;
pub const PT_TLS: u32 = 7;
pub const PT_GNU_STACK: u32 = 0x6474_e551;
pub const PT_GNU_RELRO: u32 = 0x6474_e552;

pub const PF_X: u32 = 1;
pub const PF_W: u32 = 2;
pub const PF_R: u32 = 4;

/// What a file's ELF header says.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub kind: u16,
    pub entry: u64,
    program_headers: u64,
    program_header_count: u16,
}

/// One program header.
#[derive(Clone, Copy, Debug)]
pub struct ProgramHeader {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub address: u64,
    pub physical: u64,
    pub file_size: u64,
    pub memory_size: u64,
    pub align: u64,
}

impl Header {
    /// Reads the header at the start of a file.
    pub fn parse(head: &[u8]) -> Result<Self, Fault> {
        match head {
            [] => return Err(Fault::Empty),
            [b'#', b'!', ..] => return Err(Fault::Script),
            _ if !head.starts_with(b"\x7fELF") => return Err(Fault::NotElf),
            _ => {}
        }
        let header = head.get(..HEADER_SIZE).ok_or(Fault::Truncated)?;
        // Class, byte order and version of the format.
        if header[4..7] != [2, 1, 1] {
            return Err(Fault::OtherMachine);
        }
        let reader = Reader(header);
        if reader.u16(18)? != 62 {
            return Err(Fault::OtherMachine);
        }
        let program_header_count = reader.u16(56)?;
        if program_header_count != 0 && reader.u16(54)? != PROGRAM_HEADER_SIZE {
            return Err(Fault::Truncated);
        }
        Ok(Self {
            kind: reader.u16(16)?,
            entry: reader.u64(24)?,
            program_headers: reader.u64(32)?,
            program_header_count,
        })
    }

    /// The program headers. They must lie in `head` completely.
    pub fn program_headers(
        self,
        head: &[u8],
    ) -> Result<impl Iterator<Item = ProgramHeader> + Clone, Fault> {
        let size = usize::from(PROGRAM_HEADER_SIZE);
        let table = usize::try_from(self.program_headers)
            .ok()
            .and_then(|start| {
                head.get(start..)?
                    .get(..usize::from(self.program_header_count) * size)
            })
            .ok_or(Fault::ScatteredHeaders)?;
        Ok(table
            .chunks_exact(size)
            .filter_map(|bytes| ProgramHeader::parse(bytes).ok()))
    }
}

impl ProgramHeader {
    fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let reader = Reader(bytes);
        Ok(Self {
            kind: reader.u32(0)?,
            flags: reader.u32(4)?,
            offset: reader.u64(8)?,
            address: reader.u64(16)?,
            physical: reader.u64(24)?,
            file_size: reader.u64(32)?,
            memory_size: reader.u64(40)?,
            align: reader.u64(48)?,
        })
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], Fault> {
        self.0
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .ok_or(Fault::Truncated)
    }

    fn u16(&self, at: usize) -> Result<u16, Fault> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Result<u32, Fault> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, Fault> {
        self.bytes(at).map(u64::from_le_bytes)
    }
}
