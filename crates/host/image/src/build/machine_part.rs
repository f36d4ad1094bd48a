//! Joining the machine part to an image.
//!
//! It is compiled with this crate (`build.rs`), so every image of one `kiln` has the same. Its bytes go behind the
//! guest's segments; its program header, and the notes that tell where to enter the image, take the places that the
//! linker script keeps for them.

use kiln_abi::layout::Record;
use kiln_abi::note::{self, AbiNote};
use object::elf::{self, ProgramHeader64};
use object::endian::{U32, U64};
use object::read::elf::ProgramHeader;

use super::finish::{E, Endian, Malformed, patch};
use super::room::Room;
use crate::image::{MACHINE_ADDRESS, MachineHeader};

static PART: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/machine.bin"));

/// Appends the machine part to `file` and its header to `segments`. Returns the physical address of its PVH entry.
pub(super) fn join(
    file: &mut Room,
    segments: &mut Vec<ProgramHeader64<Endian>>,
) -> Result<u64, Malformed> {
    const ALIGN: usize = 16;
    let header = MachineHeader::parse(PART).ok_or("this kiln was built with a bad machine part")?;
    let address = segments
        .iter()
        .filter(|segment| segment.p_type(E) == elf::PT_LOAD)
        .map(|segment| segment.p_vaddr(E).saturating_add(segment.p_memsz(E)))
        .max()
        .and_then(|end| end.checked_next_multiple_of(kiln_abi::PAGE_SIZE))
        .ok_or("no loadable segments")?;
    let offset = file.place(PART, ALIGN);
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
    for segment in segments {
        if segment.p_type(E) != elf::PT_NOTE {
            continue;
        }
        let start = segment.p_offset(E);
        let bytes = usize::try_from(start)
            .ok()
            .zip(usize::try_from(segment.p_filesz(E)).ok())
            .and_then(|(start, len)| out.get(start..)?.get(..len))
            .ok_or("notes outside of the loadable segments")?
            .to_vec();
        for found in note::parse(&bytes).map_while(Result::ok) {
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
