//! Joining the machine part to an image.
//!
//! It is compiled with this crate (`build.rs`) in variants, of which an image gets the one with drivers for the kinds of
//! devices that it declares. Its bytes go behind the guest's segments; its program header, and the notes that tell where to enter the image, take the places that the
//! linker script keeps for them.

use kiln_abi::DeviceKind;
use kiln_abi::layout::Record;
use kiln_abi::note::{self, AbiNote, DeviceNote};
use object::elf::{self, ProgramHeader64};
use object::endian::{U32, U64};
use object::read::elf::ProgramHeader;

use super::finish::{E, Endian, Malformed, patch};
use super::room::Room;
use crate::image::{MACHINE_ADDRESS, MachineHeader};

/// The machine part with drivers for no devices, links, disks, both; the last is for Linux programs, which may have links.
static PARTS: [&[u8]; 5] = [
    include_bytes!(concat!(env!("OUT_DIR"), "/machine.bin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/machine-net.bin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/machine-block.bin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/machine-net-block.bin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/machine-program.bin")),
];

/// The machine part for an image with these segments.
fn part_for(file: &[u8], segments: &[ProgramHeader64<Endian>]) -> Result<&'static [u8], Malformed> {
    let mut which = 0;
    for (_, notes) in notes(file, segments)? {
        for found in note::parse(notes).map_while(Result::ok) {
            if found.owner == note::OWNER.as_bytes()
                && found.kind == note::TYPE_DEVICE
                && let Some(device) = found.record::<DeviceNote>()
            {
                which |= match DeviceKind::from_raw(device.kind) {
                    Some(DeviceKind::Net) => 1,
                    Some(DeviceKind::Block) => 2,
                    Some(DeviceKind::Files) | None => 0,
                };
            }
            if found.owner == note::OWNER.as_bytes()
                && found.kind == note::TYPE_ABI
                && let Some(abi) = found.record::<AbiNote>()
                && abi.flags & AbiNote::PROGRAM != 0
            {
                return Ok(PARTS[4]);
            }
        }
    }
    Ok(PARTS[which])
}

/// The segments of notes: their offsets in the file and their bytes.
fn notes<'a>(
    file: &'a [u8],
    segments: &[ProgramHeader64<Endian>],
) -> Result<Vec<(u64, &'a [u8])>, Malformed> {
    segments
        .iter()
        .filter(|segment| segment.p_type(E) == elf::PT_NOTE)
        .map(|segment| {
            let start = segment.p_offset(E);
            let bytes = usize::try_from(start)
                .ok()
                .zip(usize::try_from(segment.p_filesz(E)).ok())
                .and_then(|(start, len)| file.get(start..)?.get(..len))
                .ok_or("notes outside of the loadable segments")?;
            Ok((start, bytes))
        })
        .collect()
}

/// Appends the machine part to `file` and its header to `segments`. Returns the physical address of its PVH entry.
pub(super) fn join(
    file: &mut Room,
    segments: &mut Vec<ProgramHeader64<Endian>>,
) -> Result<u64, Malformed> {
    const ALIGN: usize = 16;
    let part = part_for(&file.out, segments)?;
    let header = MachineHeader::parse(part).ok_or("this kiln was built with a bad machine part")?;
    let address = segments
        .iter()
        .filter(|segment| segment.p_type(E) == elf::PT_LOAD)
        .map(|segment| segment.p_vaddr(E).saturating_add(segment.p_memsz(E)))
        .max()
        .and_then(|end| end.checked_next_multiple_of(kiln_abi::PAGE_SIZE))
        .ok_or("no loadable segments")?;
    let offset = file.place(part, ALIGN);
    segments.push(ProgramHeader64 {
        p_type: U32::new(E, elf::PT_LOAD),
        p_flags: U32::new(E, elf::PF_R | elf::PF_X),
        p_offset: U64::new(E, offset as u64),
        p_vaddr: U64::new(E, address),
        p_paddr: U64::new(E, MACHINE_ADDRESS),
        p_filesz: U64::new(E, header.file_size),
        p_memsz: U64::new(E, header.memory_size),
        // Less than a page: the file would need as many bytes of padding.
        p_align: U64::new(E, ALIGN as u64),
    });
    Ok(header.pvh_entry)
}

/// Writes both entries into their notes. A program without Kiln's note is somebody else's to refuse.
pub(super) fn fill_notes(
    out: &mut [u8],
    segments: &[ProgramHeader64<Endian>],
    entry: u64,
    pvh_entry: u64,
) -> Result<(), Malformed> {
    let file = out.to_vec();
    for (start, bytes) in notes(&file, segments)? {
        for found in note::parse(bytes).map_while(Result::ok) {
            let at = start + (found.payload.as_ptr() as usize - bytes.as_ptr() as usize) as u64;
            if found.owner == note::OWNER.as_bytes()
                && found.kind == note::TYPE_ABI
                && let Some(abi) = found.record::<AbiNote>()
            {
                patch(out, at, AbiNote { entry, ..abi }.as_bytes())?;
            }
            if found.owner == note::PVH_OWNER.as_bytes()
                && found.kind == note::TYPE_PVH_ENTRY
                && found.payload.len() == size_of::<u64>()
            {
                patch(out, at, &pvh_entry.to_le_bytes())?;
            }
        }
    }
    Ok(())
}
