//! Divides what the linker made into an image and a debug file.
//!
//! The image keeps the bytes of the loadable segments exactly as they were linked, offsets included, and behind them
//! only the sections that name them and a short symbol table (see [`symbol_table`](super::symbol_table)). The debug
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

use super::symbol_table::{self, SymbolTable};
use super::{BuildError, Built, DEBUG_EXTENSION, replace};
use crate::image::{Fault, Layout};

/// What is wrong with the linked file, for a message.
type Malformed = Box<dyn Error + Send + Sync>;
type Endian = LittleEndian;
const E: Endian = LittleEndian;

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
    let mut out = loaded
        .and_then(|end| bytes.get(..end))
        .ok_or("no loadable segments inside the file")?
        .to_vec();
    drop_empty(&mut segments);
    patch(&mut out, header.e_phoff(E), pod::bytes_of_slice(&segments))?;

    let mut sections = Sections::keep_loaded(header, bytes)?;
    let symbols = symbol_table::essential(header, bytes, &sections.kept)?;
    sections.add_symbols(&mut out, &symbols);
    sections.add_debug_link(&mut out, debug_name, bytes);
    let names = sections.add_names(&mut out);

    align(&mut out, 8);
    let mut file_header = *header;
    file_header.e_shoff = U64::new(E, out.len() as u64);
    file_header.e_shnum = U16::new(E, sections.headers.len() as u16);
    file_header.e_shstrndx = U16::new(E, SymbolSection(names));
    out.extend_from_slice(pod::bytes_of_slice(&sections.headers));
    patch(&mut out, 0, pod::bytes_of(&file_header))?;
    Ok(out)
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

fn patch(out: &mut [u8], at: u64, bytes: &[u8]) -> Result<(), Malformed> {
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
    /// For each section of the linked file, its number in the image.
    kept: Vec<Option<u16>>,
}

impl Sections {
    /// Starts with the sections that lie in segments, under their names.
    fn keep_loaded(header: &FileHeader64<Endian>, bytes: &[u8]) -> Result<Self, Malformed> {
        let all = header.sections(E, bytes)?;
        let mut sections = Self {
            headers: Vec::new(),
            names: vec![0],
            kept: vec![None; all.len()],
        };
        for (index, section) in all.enumerate() {
            let null = index.0 == 0;
            if !null && !section.sh_flags(E).contains(elf::SHF_ALLOC) {
                continue;
            }
            let mut copy = *section;
            if !null {
                copy.sh_name = sections.name(all.section_name(E, section)?);
            }
            sections.kept[index.0] = Some(sections.headers.len() as u16);
            sections.headers.push(copy);
        }
        for section in &mut sections.headers {
            let link = section.sh_link(E) as usize;
            let link = sections.kept.get(link).copied().flatten().unwrap_or(0);
            section.sh_link = U32::new(E, u32::from(link));
        }
        Ok(sections)
    }

    fn add_symbols(&mut self, out: &mut Vec<u8>, table: &SymbolTable) {
        let strings = self.headers.len() as u32 + 1;
        align(out, 8);
        let offset = out.len();
        out.extend_from_slice(pod::bytes_of_slice(&table.symbols));
        let symbols = self.add(b".symtab", elf::SHT_SYMTAB, 8, offset, out.len());
        symbols.sh_entsize = U64::new(E, 24);
        symbols.sh_link = U32::new(E, strings);
        symbols.sh_info = U32::new(E, table.locals);
        let offset = out.len();
        out.extend_from_slice(&table.strings);
        self.add(b".strtab", elf::SHT_STRTAB, 1, offset, out.len());
    }

    fn add_debug_link(&mut self, out: &mut Vec<u8>, name: &[u8], debug: &[u8]) {
        align(out, 4);
        let offset = out.len();
        out.extend_from_slice(name);
        out.push(0);
        align(out, 4);
        out.extend_from_slice(&crc32(debug).to_le_bytes());
        self.add(b".gnu_debuglink", elf::SHT_PROGBITS, 4, offset, out.len());
    }

    /// Adds the sections' names; nothing can be named afterwards. Returns the number of the new section.
    fn add_names(&mut self, out: &mut Vec<u8>) -> u16 {
        let offset = out.len();
        let number = self.headers.len() as u16;
        self.add(b".shstrtab", elf::SHT_STRTAB, 1, offset, 0);
        out.extend_from_slice(&self.names);
        if let Some(last) = self.headers.last_mut() {
            last.sh_size = U64::new(E, self.names.len() as u64);
        }
        number
    }

    fn add(
        &mut self,
        name: &[u8],
        kind: SectionType,
        align: u64,
        start: usize,
        end: usize,
    ) -> &mut SectionHeader64<Endian> {
        let header = SectionHeader64 {
            sh_name: self.name(name),
            sh_type: U32::new(E, kind),
            sh_flags: U64::new(E, SectionFlags(0)),
            sh_addr: U64::new(E, 0),
            sh_offset: U64::new(E, start as u64),
            sh_size: U64::new(E, end.saturating_sub(start) as u64),
            sh_link: U32::new(E, 0),
            sh_info: U32::new(E, 0),
            sh_addralign: U64::new(E, align),
            sh_entsize: U64::new(E, 0),
        };
        let at = self.headers.len();
        self.headers.push(header);
        &mut self.headers[at]
    }

    fn name(&mut self, name: &[u8]) -> U32<Endian> {
        let at = self.names.len() as u32;
        self.names.extend_from_slice(name);
        self.names.push(0);
        U32::new(E, at)
    }
}

fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
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
