//! The loadable segments of an image.
//!
//! What comes out of [`check`] can be mapped by a loop: whole pages, in order, apart from each other, inside the file,
//! never writable and executable at once. Only writable segments may be longer in memory than in the file.

use std::ops::Range;

use kiln_abi::PAGE_SIZE;

use super::elf::{PF_R, PF_W, PF_X, ProgramHeader};
use super::{Fault, GUEST_ADDRESS, MAX_ALIGNMENT, MAX_SPAN};

/// What a guest may do with a segment's memory. No segment is writable and executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and execute.
    ReadExecute,
    /// Read and write.
    ReadWrite,
}

/// A part of the file and where it belongs in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadSegment {
    /// Offset in bytes in the file, page aligned.
    pub file_offset: u64,
    /// Bytes of the file; 0 for a segment of zeroes only.
    pub file_size: u64,
    /// Address relative to where the image is placed, page aligned.
    pub address: u64,
    /// Bytes of memory, at least `file_size`; those behind `file_size`, up to the end of the page, are zero.
    pub memory_size: u64,
    /// What the guest may do with it.
    pub access: Access,
}

impl LoadSegment {
    /// Address of the first byte behind the segment's last page.
    pub fn page_end(&self) -> u64 {
        (self.address + self.memory_size).next_multiple_of(PAGE_SIZE)
    }

    /// True if the segment's pages hold all bytes of `range`.
    pub fn holds(&self, range: &Range<u64>) -> bool {
        self.address <= range.start && range.start <= range.end && range.end <= self.page_end()
    }
}

/// Segments and the alignment that the image as a whole needs.
#[derive(Clone, Debug)]
pub(super) struct Segments {
    pub list: Vec<LoadSegment>,
    pub alignment: u64,
}

impl Segments {
    /// Address of the first byte behind the last page.
    pub fn end(&self) -> u64 {
        self.list.last().map_or(PAGE_SIZE, LoadSegment::page_end)
    }
}

/// Checks the `PT_LOAD` headers of the guest, in their order, of a file of `file_size` bytes.
pub(super) fn check(
    headers: impl Iterator<Item = ProgramHeader>,
    file_size: u64,
) -> Result<Segments, Fault> {
    let mut list: Vec<LoadSegment> = Vec::with_capacity(4);
    let mut alignment = PAGE_SIZE;
    for (index, header) in headers.enumerate() {
        let segment = one(index, &header, file_size)?;
        match list.last() {
            None if segment.address != 0 => return Err(Fault::NotAtZero(segment.address)),
            Some(before) if segment.address < before.page_end() => {
                return Err(Fault::Overlap(index));
            }
            _ => {}
        }
        if header.physical != GUEST_ADDRESS + segment.address {
            return Err(Fault::NotPhysical(index));
        }
        alignment = alignment.max(header.align);
        list.push(segment);
    }
    if list.is_empty() {
        return Err(Fault::NoSegments);
    }
    Ok(Segments { list, alignment })
}

fn one(index: usize, header: &ProgramHeader, file_size: u64) -> Result<LoadSegment, Fault> {
    let ProgramHeader {
        flags,
        offset,
        address,
        align,
        ..
    } = *header;
    let access = match (flags & PF_R != 0, flags & PF_W != 0, flags & PF_X != 0) {
        (_, true, true) => return Err(Fault::WritableCode(index)),
        (false, ..) => return Err(Fault::Unreadable(index)),
        (true, false, false) => Access::Read,
        (true, false, true) => Access::ReadExecute,
        (true, true, false) => Access::ReadWrite,
    };
    if !align.is_power_of_two()
        || !(PAGE_SIZE..=MAX_ALIGNMENT).contains(&align)
        || !address.is_multiple_of(PAGE_SIZE)
        || !offset.is_multiple_of(PAGE_SIZE)
    {
        return Err(Fault::Misaligned(index));
    }
    if header.file_size > header.memory_size {
        return Err(Fault::LongerInFile(index));
    }
    if access != Access::ReadWrite && header.file_size < header.memory_size {
        return Err(Fault::ReadOnlyZeroes(index));
    }
    if offset
        .checked_add(header.file_size)
        .is_none_or(|end| end > file_size)
    {
        return Err(Fault::OutsideFile(index));
    }
    if address
        .checked_add(header.memory_size)
        .is_none_or(|end| end > MAX_SPAN)
    {
        return Err(Fault::TooLarge);
    }
    Ok(LoadSegment {
        file_offset: offset,
        file_size: header.file_size,
        address,
        memory_size: header.memory_size,
        access,
    })
}

/// Checks the range that is to be read-only after relocation: whole pages of one writable segment.
pub(super) fn check_relro(
    header: &ProgramHeader,
    segments: &[LoadSegment],
) -> Result<Range<u64>, Fault> {
    let end = header
        .address
        .checked_add(header.memory_size)
        .ok_or(Fault::BadRelro)?;
    let range = header.address..end;
    let whole = range.start.is_multiple_of(PAGE_SIZE) && range.end.is_multiple_of(PAGE_SIZE);
    let inside = segments
        .iter()
        .any(|segment| segment.access == Access::ReadWrite && segment.holds(&range));
    if whole && inside {
        Ok(range)
    } else {
        Err(Fault::BadRelro)
    }
}
