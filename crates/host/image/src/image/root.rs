//! What an image of a Linux program has besides the library OS: a root file system, and how to start the program.
//!
//! Both lie behind everything that is loaded, each described by a program header of a type of Kiln's own; loaders that do
//! not know them pass them over. The monitor maps the root file system into the guest, which reads it as hostile input;
//! the configuration is for whoever starts the image.

use kiln_abi::PAGE_SIZE;

use super::elf::{PF_R, ProgramHeader};
use super::{Fault, LoadSegment, MachinePart};

/// Type of the program header that describes the root file system ("kiln", in the range for operating systems).
pub(crate) const PT_ROOT: u32 = 0x6b69_6c6e;
/// Type of the one that describes the configuration.
pub(crate) const PT_CONFIG: u32 = 0x6b69_6c6f;

/// The most bytes that a configuration may have.
pub const MAX_CONFIG: u64 = 1 << 20;

/// A part of an image file that no loader maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilePart {
    /// Offset in bytes in the file.
    pub offset: u64,
    /// Bytes, at least one.
    pub len: u64,
}

impl FilePart {
    /// A part whose bytes are all in the file, none of them loaded.
    fn of(
        header: &ProgramHeader,
        segments: &[LoadSegment],
        machine: MachinePart,
        file_size: u64,
    ) -> Option<Self> {
        let part = Self {
            offset: header.offset,
            len: header.file_size,
        };
        let end = part.offset.checked_add(part.len)?;
        let apart =
            |offset: u64, len: u64| end <= offset || offset.saturating_add(len) <= part.offset;
        let good = part.len > 0
            && end <= file_size
            && header.flags == PF_R
            && header.memory_size == 0
            && apart(machine.file_offset, machine.file_size)
            && segments
                .iter()
                .all(|segment| apart(segment.file_offset, segment.file_size));
        good.then_some(part)
    }
}

/// Checks the header of the root file system: whole pages.
pub(super) fn check_root(
    header: &ProgramHeader,
    segments: &[LoadSegment],
    machine: MachinePart,
    file_size: u64,
) -> Result<FilePart, Fault> {
    FilePart::of(header, segments, machine, file_size)
        .filter(|part| part.offset.is_multiple_of(PAGE_SIZE) && part.len.is_multiple_of(PAGE_SIZE))
        .ok_or(Fault::BadRoot)
}

/// Checks the header of the configuration.
pub(super) fn check_config(
    header: &ProgramHeader,
    segments: &[LoadSegment],
    machine: MachinePart,
    file_size: u64,
) -> Result<FilePart, Fault> {
    FilePart::of(header, segments, machine, file_size)
        .filter(|part| part.len <= MAX_CONFIG)
        .ok_or(Fault::BadConfig)
}
