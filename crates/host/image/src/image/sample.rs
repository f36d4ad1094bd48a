//! A small ELF writer for tests: a good image whose every field can be spoilt.

use kiln_abi::note::{AbiNote, DeviceNote};
use kiln_abi::{DeviceKind, VERSION};

use super::elf::{self, PF_R, PF_W, PF_X, ProgramHeader};
use super::{GUEST_ADDRESS, MACHINE_ADDRESS};

/// The ABI note of the good image.
pub const ABI: AbiNote = AbiNote {
    version: VERSION,
    flags: 0,
    stack_size: 65536,
    min_memory: 0,
    entry: 0x1010,
};

/// Where the notes are in the file.
const NOTES: u64 = 0x400;

/// An image in pieces.
#[derive(Clone, Debug)]
pub struct Sample {
    pub ident: [u8; 7],
    pub kind: u16,
    pub machine: u16,
    pub entry: u64,
    pub header_offset: u64,
    pub header_size: u16,
    pub headers: Vec<ProgramHeader>,
    pub notes: Vec<u8>,
    pub size: usize,
}

impl Sample {
    /// A valid image: constants, code, a page to seal, and data with zeroes behind them.
    pub fn good() -> Self {
        let mut sample = Self {
            ident: *b"\x7fELF\x02\x01\x01",
            kind: elf::TYPE_MOVABLE,
            machine: 62,
            entry: MACHINE_ADDRESS + 0x14,
            header_offset: 64,
            header_size: 56,
            headers: vec![
                load(PF_R, 0, 0x900, 0x900),
                load(PF_R | PF_X, 0x1000, 0x1800, 0x1800),
                load(PF_R | PF_W, 0x3000, 0x1000, 0x1000),
                load(PF_R | PF_W, 0x4000, 0x10, 0x2345),
                header(elf::PT_GNU_RELRO, PF_R, 0x3000, 0x1000, 0x1000),
                header(elf::PT_GNU_STACK, PF_R | PF_W, 0, 0, 0),
                ProgramHeader {
                    offset: 0x4010,
                    physical: MACHINE_ADDRESS,
                    align: 16,
                    ..load(PF_R | PF_X, 0x7000, 0x100, 0x1000)
                },
            ],
            notes: Vec::new(),
            size: 0x4110,
        };
        sample.abi(ABI);
        sample.device(DeviceNote::new(DeviceKind::Net, "eth0", 0));
        sample.device(DeviceNote::new(
            DeviceKind::Block,
            "data",
            DeviceNote::OPTIONAL,
        ));
        sample.note(b"GNU\0", 3, &[0xab; 20]);
        sample
    }

    /// The same without notes.
    pub fn without_notes() -> Self {
        let mut sample = Self::good();
        sample.notes.clear();
        sample
    }

    pub fn abi(&mut self, abi: AbiNote) {
        use kiln_abi::layout::Record;
        self.note(b"Kiln\0", 1, abi.as_bytes());
    }

    pub fn device(&mut self, device: DeviceNote) {
        use kiln_abi::layout::Record;
        self.note(b"Kiln\0", 2, device.as_bytes());
    }

    pub fn note(&mut self, owner: &[u8], kind: u32, payload: &[u8]) {
        self.notes.extend((owner.len() as u32).to_le_bytes());
        self.notes.extend((payload.len() as u32).to_le_bytes());
        self.notes.extend(kind.to_le_bytes());
        for part in [owner, payload] {
            self.notes.extend(part);
            self.notes.resize(self.notes.len().next_multiple_of(4), 0);
        }
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut headers = self.headers.clone();
        let notes = self.notes.len() as u64;
        headers.push(header(elf::PT_NOTE, PF_R, NOTES, notes, notes));

        let mut out = self.ident.to_vec();
        out.resize(16, 0);
        out.extend(self.kind.to_le_bytes());
        out.extend(self.machine.to_le_bytes());
        out.extend(1u32.to_le_bytes());
        out.extend(self.entry.to_le_bytes());
        out.extend(self.header_offset.to_le_bytes());
        out.extend([0; 8 + 4]);
        out.extend(64u16.to_le_bytes());
        out.extend(self.header_size.to_le_bytes());
        out.extend((headers.len() as u16).to_le_bytes());
        out.extend([0; 6]);
        for header in headers {
            out.extend(header.kind.to_le_bytes());
            out.extend(header.flags.to_le_bytes());
            out.extend(header.offset.to_le_bytes());
            out.extend(header.address.to_le_bytes());
            out.extend(header.physical.to_le_bytes());
            out.extend(header.file_size.to_le_bytes());
            out.extend(header.memory_size.to_le_bytes());
            out.extend(header.align.to_le_bytes());
        }
        assert!(out.len() as u64 <= NOTES, "too many headers for a sample");
        out.resize(NOTES as usize, 0);
        out.extend(&self.notes);
        out.resize(self.size.max(out.len()), 0x90);
        out
    }
}

/// A segment whose offset in the file is its address.
pub fn load(flags: u32, address: u64, file_size: u64, memory_size: u64) -> ProgramHeader {
    header(elf::PT_LOAD, flags, address, file_size, memory_size)
}

/// Any program header.
pub fn header(
    kind: u32,
    flags: u32,
    address: u64,
    file_size: u64,
    memory_size: u64,
) -> ProgramHeader {
    ProgramHeader {
        kind,
        flags,
        offset: address,
        address,
        physical: GUEST_ADDRESS.wrapping_add(address),
        file_size,
        memory_size,
        align: if kind == elf::PT_LOAD { 4096 } else { 8 },
    }
}
