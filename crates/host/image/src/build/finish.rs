//! Divides what the linker made into an image and a debug file.
//!
//! The image keeps the bytes of the loadable segments exactly as they were linked, offsets included, and behind them
//! the machine part ([`machine_part`]), the sections that name them and the functions' names ([`symbols`]). The debug
//! file is the linked file unchanged. Both carry the same build id, and the image names the debug file in the way that
//! gdb looks for (`.gnu_debuglink`), so a debugger that gets the image finds it.

use std::error::Error;
use std::fs;
use std::path::Path;

use object::elf::{
    self, FileHeader64, ProgramHeader64, SectionFlags, SectionHeader64, SectionType, SymbolSection,
};
use object::endian::{LittleEndian, U16, U32, U64};
use object::pod;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

use super::machine_part;
use super::room::Room;
use super::{BuildError, Built, DEBUG_EXTENSION, replace};
use crate::image::{Fault, GUEST_ADDRESS, Layout};
use crate::symbols;

/// What is wrong with the linked file, for a message.
pub(super) type Malformed = Box<dyn Error + Send + Sync>;
pub(super) type Endian = LittleEndian;
pub(super) const E: Endian = LittleEndian;

/// Makes the image file `image` of the linked program `linked`, and a debug file beside it.
///
/// [`Builder::build`](super::Builder::build) does this; it is public for those who drive cargo themselves.
///
/// # Errors
/// If `linked` is not a Kiln program as the flags of this crate make them, or files cannot be read or written.
pub fn finish(linked: &Path, image: &Path) -> Result<Built, BuildError> {
    let bytes = fs::read(linked).map_err(|error| BuildError::io(linked, error))?;
    let debug = image.with_extension(DEBUG_EXTENSION);
    let debug_name = debug
        .file_name()
        .ok_or_else(|| BuildError::layout(image, &"the name of the image has no file name"))?;
    let finished = assemble(&bytes, debug_name.as_encoded_bytes())
        .map_err(|reason| BuildError::layout(linked, &reason))?;
    match Layout::parse(&finished, finished.len() as u64) {
        Ok(_) => {}
        Err(Fault::NoAbiNote) => return Err(BuildError::NotKiln(linked.to_owned())),
        Err(fault) => return Err(BuildError::layout(linked, &fault)),
    }
    if let Some(folder) = image.parent() {
        fs::create_dir_all(folder).map_err(|error| BuildError::io(folder, error))?;
    }
    replace(&debug, &bytes).map_err(|error| BuildError::io(&debug, error))?;
    replace(image, &finished).map_err(|error| BuildError::io(image, error))?;
    Ok(Built {
        name: image
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        image: image.to_owned(),
        debug,
        size: finished.len() as u64,
        linked_size: bytes.len() as u64,
    })
}

fn assemble(bytes: &[u8], debug_name: &[u8]) -> Result<Vec<u8>, Malformed> {
    let header = FileHeader64::<Endian>::parse(bytes)?;
    let mut segments = header.program_headers(E, bytes)?.to_vec();
    let loaded = segments
        .iter()
        .filter(|segment| segment.p_type(E) == elf::PT_LOAD)
        .map(|segment| segment.p_offset(E).saturating_add(segment.p_filesz(E)))
        .max()
        .and_then(|end| usize::try_from(end).ok());
    let out = loaded
        .and_then(|end| bytes.get(..end))
        .ok_or("no loadable segments inside the file")?
        .to_vec();
    // The machine part's header takes this one's place.
    segments
        .pop_if(|last| last.p_type(E) == elf::PT_NULL)
        .ok_or("no room for the machine part: not linked by the linker script of `kiln build`")?;
    drop_empty(&mut segments);
    place_physically(&mut segments);
    let mut file = Room::new(out, &segments);
    let pvh_entry = machine_part::join(&mut file, &mut segments)?;

    let mut sections = Sections::keep_loaded(header, bytes)?;
    let (name, symbols) = symbols::for_image(bytes)?;
    sections.add(&mut file, name.as_bytes(), elf::SHT_PROGBITS, &symbols, 1);
    let link = debug_link(debug_name, bytes);
    sections.add(&mut file, b".gnu_debuglink", elf::SHT_PROGBITS, &link, 4);
    let names = sections.add_names(&mut file);

    let mut file_header = *header;
    file_header.e_entry = U64::new(E, pvh_entry);
    file_header.e_shnum = U16::new(E, sections.headers.len() as u16);
    file_header.e_shstrndx = U16::new(E, SymbolSection(names));
    let sections = file.place(pod::bytes_of_slice(&sections.headers), 8);
    file_header.e_shoff = U64::new(E, sections as u64);
    let mut out = file.out;
    patch(&mut out, 0, pod::bytes_of(&file_header))?;
    patch(&mut out, header.e_phoff(E), pod::bytes_of_slice(&segments))?;
    machine_part::fill_notes(&mut out, &segments, header.e_entry(E), pvh_entry)?;
    Ok(out)
}

/// The content of `.gnu_debuglink`: the debug file's name and checksum.
fn debug_link(name: &[u8], debug: &[u8]) -> Vec<u8> {
    let mut link = name.to_vec();
    link.push(0);
    link.resize(link.len().next_multiple_of(4), 0);
    link.extend(crc32(debug).to_le_bytes());
    link
}

/// Physical addresses are those of a virtual machine's memory, behind the machine part's.
fn place_physically(segments: &mut [ProgramHeader64<Endian>]) {
    for segment in segments {
        if segment.p_memsz(E) != 0 {
            let address = segment.p_vaddr(E).saturating_add(GUEST_ADDRESS);
            segment.p_paddr = U64::new(E, address);
        }
    }
}

/// A program without variables, say, leaves a segment of no bytes. Marked as unused, it concerns no loader.
fn drop_empty(segments: &mut [ProgramHeader64<Endian>]) {
    for segment in segments {
        let kind = segment.p_type(E);
        if (kind == elf::PT_LOAD || kind == elf::PT_GNU_RELRO) && segment.p_memsz(E) == 0 {
            *segment = pod::from_bytes::<ProgramHeader64<Endian>>(&[0; 56])
                .map_or(*segment, |(unused, _)| *unused);
        }
    }
}

pub(super) fn patch(out: &mut [u8], at: u64, bytes: &[u8]) -> Result<(), Malformed> {
    usize::try_from(at)
        .ok()
        .and_then(|at| out.get_mut(at..at.checked_add(bytes.len())?))
        .ok_or("headers outside the loadable segments")?
        .copy_from_slice(bytes);
    Ok(())
}

/// The section headers of the image.
struct Sections {
    headers: Vec<SectionHeader64<Endian>>,
    names: Vec<u8>,
}

impl Sections {
    /// Starts with the sections that lie in segments, under their names.
    fn keep_loaded(header: &FileHeader64<Endian>, bytes: &[u8]) -> Result<Self, Malformed> {
        let all = header.sections(E, bytes)?;
        let mut sections = Self {
            headers: Vec::new(),
            names: vec![0],
        };
        for (index, section) in all.enumerate() {
            let null = index.0 == 0;
            if !null && (!section.sh_flags(E).contains(elf::SHF_ALLOC) || section.sh_size(E) == 0) {
                continue;
            }
            let mut copy = *section;
            if !null {
                copy.sh_name = sections.name(all.section_name(E, section)?);
            }
            // What it would name is not in the image.
            copy.sh_link = U32::new(E, 0);
            copy.sh_info = U32::new(E, 0);
            sections.headers.push(copy);
        }
        Ok(sections)
    }

    /// Adds the sections' names; nothing can be named afterwards. Returns the number of the new section.
    fn add_names(&mut self, file: &mut Room) -> u16 {
        let number = self.headers.len() as u16;
        let own = b".shstrtab";
        let mut names = self.names.clone();
        names.extend_from_slice(own);
        names.push(0);
        self.add(file, own, elf::SHT_STRTAB, &names, 1);
        number
    }

    /// Adds a section that is not loaded.
    fn add(&mut self, file: &mut Room, name: &[u8], kind: SectionType, bytes: &[u8], align: usize) {
        let offset = file.place(bytes, align);
        let header = SectionHeader64 {
            sh_name: self.name(name),
            sh_type: U32::new(E, kind),
            sh_flags: U64::new(E, SectionFlags(0)),
            sh_addr: U64::new(E, 0),
            sh_offset: U64::new(E, offset as u64),
            sh_size: U64::new(E, bytes.len() as u64),
            sh_link: U32::new(E, 0),
            sh_info: U32::new(E, 0),
            sh_addralign: U64::new(E, align as u64),
            sh_entsize: U64::new(E, 0),
        };
        self.headers.push(header);
    }

    fn name(&mut self, name: &[u8]) -> U32<Endian> {
        let at = self.names.len() as u32;
        self.names.extend_from_slice(name);
        self.names.push(0);
        U32::new(E, at)
    }
}

/// The checksum that `.gnu_debuglink` asks for (IEEE 802.3, reflected).
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = (value >> 1) ^ (0xedb8_8320 & (value & 1).wrapping_neg());
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |sum, &byte| {
        TABLE[usize::from(sum as u8 ^ byte)] ^ (sum >> 8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_debug_links() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
