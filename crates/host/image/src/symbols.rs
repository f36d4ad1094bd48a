//! Functions and source lines behind the addresses of an image.
//!
//! Opened only when somebody wants to read a stack: after a crash, in a profile. The best source is the debug file that
//! was made with the image: it knows source lines and inlined functions. It is recognised by the build id, so a
//! debug file of another build never misleads. Without it the image's own table (`compact`) names the functions.
//!
//! Neither file is trusted. What cannot be understood yields less information, never a panic, and names are
//! stripped of control characters, because they end up in terminals.

mod compact;
mod debug_file;
mod table;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use addr2line::Context;
use gimli::{self, EndianArcSlice, LittleEndian};
use object::elf;
use object::read::ReadCache;
use object::read::elf::{FileHeader, SectionHeader};
use object::{Object, ObjectSection};

use crate::image::{Image, MAX_SPAN};
use table::Table;

/// Greatest length in bytes of a file that symbols are read from.
const MAX_FILE: u64 = 1 << 30;

/// Greatest length in bytes of an image's own table.
const MAX_TABLE: u64 = 64 << 20;

/// The most sections of an image with such a table.
const MAX_SECTIONS: u32 = 1024;

/// The most functions that are reported for one address.
const MAX_INLINED: usize = 64;

type Reader = EndianArcSlice<LittleEndian>;
type ElfFile<'a> = object::read::elf::ElfFile64<'a, object::LittleEndian>;

/// What is known about one address: a function, or one that was inlined there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The function, demangled.
    pub function: Option<String>,
    /// The source file, under the name the compiler had for it.
    pub file: Option<String>,
    /// The line in it, from 1.
    pub line: Option<u32>,
    /// The function was inlined into the next frame's.
    pub inlined: bool,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.function.as_deref().unwrap_or("(unknown)"))?;
        if let Some(file) = &self.file {
            write!(f, " at {file}")?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
        }
        Ok(())
    }
}

/// The symbols of an image.
pub struct Symbols {
    lines: Option<Context<Reader>>,
    table: Table,
    debug_file: Option<PathBuf>,
}

impl fmt::Debug for Symbols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Symbols")
            .field("debug_file", &self.debug_file)
            .field("functions", &self.table.len())
            .finish_non_exhaustive()
    }
}

/// An image's own table. Of the file, which may be anybody's, only bounded parts are read.
fn own_table(file: &ReadCache<&fs::File>) -> Option<Table> {
    let header = elf::FileHeader64::<object::LittleEndian>::parse(file).ok()?;
    let endian = header.endian().ok()?;
    if header.shnum(endian, file).ok()? > MAX_SECTIONS {
        return None;
    }
    let sections = header.sections(endian, file).ok()?;
    let (_, section) = sections.section_by_name(endian, compact::SECTION.as_bytes())?;
    if section.sh_size(endian) > MAX_TABLE {
        return None;
    }
    Some(compact::decode(section.data(endian, file).ok()?))
}

impl Symbols {
    /// Reads the symbols of `image`. Its debug file is looked for beside it and in `folders`.
    ///
    /// A missing or damaged debug file is no error, and what cannot be read has no symbols.
    pub fn open(image: &Image, folders: &[&Path]) -> Self {
        if let Some(id) = image.build_id()
            && let Some((path, bytes)) = debug_file::find(image.path(), id, folders)
        {
            return Self {
                debug_file: Some(path),
                ..Self::from_debug_file(&bytes)
            };
        }
        // An image may be much larger than what is of use here.
        let file = ReadCache::new(image.file());
        let table = own_table(&file);
        // Line information that a stranger put into the image itself is none of ours.
        Self {
            lines: None,
            table: table.unwrap_or_default(),
            debug_file: None,
        }
    }

    /// The symbols in the bytes of a debug file; none if they are not understood.
    pub fn from_debug_file(bytes: &[u8]) -> Self {
        let file = ElfFile::parse(bytes).ok();
        Self {
            lines: file.as_ref().and_then(lines),
            table: file.as_ref().map(Table::read).unwrap_or_default(),
            debug_file: None,
        }
    }

    /// The debug file in use, if one was found.
    pub fn debug_file(&self) -> Option<&Path> {
        self.debug_file.as_deref()
    }

    /// What is at `address`, relative to where the image was placed: the innermost inlined function first, the
    /// function that contains it last. Empty if nothing is known.
    ///
    /// A return address points behind its call, perhaps into another line: ask for the address before it.
    pub fn frames(&self, address: u64) -> Vec<Frame> {
        if address >= MAX_SPAN {
            return Vec::new();
        }
        let mut frames = self.inlined(address).unwrap_or_default();
        let name = self.table.name(address).map(demangled);
        match frames.last_mut() {
            Some(outermost) => {
                if outermost.function.is_none() {
                    outermost.function = name;
                }
                outermost.inlined = false;
            }
            None => frames.extend(name.map(|name| Frame {
                function: Some(name),
                ..Frame::default()
            })),
        }
        frames
    }

    fn inlined(&self, address: u64) -> Option<Vec<Frame>> {
        let mut found = self
            .lines
            .as_ref()?
            .find_frames(address)
            .skip_all_loads()
            .ok()?;
        let mut frames = Vec::new();
        while frames.len() < MAX_INLINED {
            // Damaged information ends the list; the frames before are as good as ever.
            let Ok(Some(frame)) = found.next() else { break };
            let function = frame
                .function
                .and_then(|function| function.raw_name().ok().map(|name| demangled(&name)));
            let (file, line) = frame
                .location
                .map_or((None, None), |at| (at.file.map(printable), at.line));
            frames.push(Frame {
                function,
                file,
                line: line.filter(|&line| line != 0),
                inlined: true,
            });
        }
        Some(frames)
    }
}

fn lines(file: &ElfFile<'_>) -> Option<Context<Reader>> {
    let load = |id: gimli::SectionId| -> Result<Reader, gimli::Error> {
        let bytes = file
            .section_by_name(id.name())
            .and_then(|section| section.data().ok())
            .unwrap_or_default();
        Ok(EndianArcSlice::new(Arc::from(bytes), LittleEndian))
    };
    file.section_by_name(".debug_info")?;
    Context::from_dwarf(gimli::Dwarf::load(load).ok()?).ok()
}

/// A function's name as in its source, without the hash that tells versions of a crate apart, and without the unnamed
/// constants around it: `#[kiln::main]` and many derives put what they make into a `const _`.
fn demangled(name: &str) -> String {
    let mut name = format!("{:#}", rustc_demangle::demangle(name));
    while name.contains("::_::") {
        name = name.replace("::_::", "::");
    }
    printable(&name)
}

fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Name and content of the section that names the functions of the linked program `bytes` in its image.
pub(crate) fn for_image(bytes: &[u8]) -> Result<(&'static str, Vec<u8>), object::Error> {
    let file = ElfFile::parse(bytes)?;
    Ok((compact::SECTION, compact::encode(&Table::read(&file))))
}

/// Reads a file of bearable length.
fn read(path: &Path) -> Option<Vec<u8>> {
    let metadata = fs::metadata(path).ok()?;
    (metadata.is_file() && metadata.len() <= MAX_FILE)
        .then(|| fs::read(path).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::demangled;

    #[test]
    fn names_are_as_in_the_source() {
        for (name, expected) in [
            ("_ZN3app1_4main17h0123456789abcdefE", "app::main"),
            (
                "_RNCNvNvCsb4VtVI08Ln9_5hello1__4main0",
                "hello::main::{closure#0}",
            ),
            ("app::_::_::main", "app::main"),
            ("app::__private::_run", "app::__private::_run"),
            ("memcpy", "memcpy"),
        ] {
            assert_eq!(demangled(name), expected);
        }
    }
}
