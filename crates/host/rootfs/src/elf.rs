//! What an ELF file says about itself, as far as a loader wants to know.
//!
//! Nothing in the file is trusted, and only headers and the dynamic section are read. Source: System V ABI, chapters 4 and
//! 5.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;

/// Limits for what has no limit of its own in the format.
const MAX_DYNAMIC: u64 = 1 << 20;
const MAX_STRING: usize = 4096;

/// An ELF file's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A program at a fixed address.
    Fixed,
    /// A program for any address, or a library.
    Movable,
    /// Neither.
    Other,
}

/// What an ELF file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Elf {
    pub kind: Kind,
    /// The loader (`PT_INTERP`).
    pub interpreter: Option<String>,
    /// `DT_NEEDED`, in order.
    pub needed: Vec<String>,
    /// `DT_RPATH` and `DT_RUNPATH`.
    pub rpath: Option<String>,
    pub runpath: Option<String>,
    /// Where the first instruction is; 0 in most libraries.
    pub entry: u64,
}

/// What a file turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    Elf(Elf),
    /// An ELF file for another machine: its name.
    Foreign(String),
    /// An ELF file that contradicts itself: in what.
    Damaged(&'static str),
    /// Not ELF: its first bytes.
    Other(Vec<u8>),
}

/// Reads a file's headers.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn parse(file: &File) -> io::Result<Parsed> {
    let mut head = vec![0; 4096];
    let len = read_some(file, 0, &mut head)?;
    head.truncate(len);
    if !head.starts_with(b"\x7fELF") {
        return Ok(Parsed::Other(head));
    }
    let word = |at: usize| u16_at(&head, at);
    let (Some(machine), Some(kind)) = (word(18), word(16)) else {
        return Ok(Parsed::Damaged("its ELF header is incomplete"));
    };
    if head.get(4..6) != Some(&[2, 1]) || machine != 62 {
        return Ok(Parsed::Foreign(machine_name(
            machine,
            head.get(4) == Some(&1),
        )));
    }
    let (Some(entry), Some(table), Some(size), Some(count)) =
        (u64_at(&head, 24), u64_at(&head, 32), word(54), word(56))
    else {
        return Ok(Parsed::Damaged("its ELF header is incomplete"));
    };
    let mut elf = Elf {
        kind: match kind {
            2 => Kind::Fixed,
            3 => Kind::Movable,
            _ => Kind::Other,
        },
        interpreter: None,
        needed: Vec::new(),
        rpath: None,
        runpath: None,
        entry,
    };
    if elf.kind == Kind::Other {
        return Ok(Parsed::Elf(elf));
    }
    if size != 56 {
        return Ok(Parsed::Damaged("its program headers have a strange size"));
    }
    let mut headers = vec![0; usize::from(count) * 56];
    if read_some(file, table, &mut headers)? != headers.len() {
        return Ok(Parsed::Damaged("its program headers lie beyond its end"));
    }
    let headers: Vec<Segment> = headers
        .chunks_exact(56)
        .filter_map(Segment::parse)
        .collect();
    for header in &headers {
        match header.kind {
            PT_INTERP => match string(file, header.offset)? {
                Some(path) if !path.is_empty() => elf.interpreter = Some(path),
                _ => return Ok(Parsed::Damaged("its interpreter has no name")),
            },
            PT_DYNAMIC if !dynamic(file, header, &headers, &mut elf)? => {
                return Ok(Parsed::Damaged("its dynamic section cannot be read"));
            }
            _ => {}
        }
    }
    Ok(Parsed::Elf(elf))
}

/// Reads the dynamic section; false if it makes no sense.
fn dynamic(file: &File, header: &Segment, all: &[Segment], elf: &mut Elf) -> io::Result<bool> {
    if header.file_size > MAX_DYNAMIC {
        return Ok(false);
    }
    let mut bytes = vec![0; header.file_size as usize];
    if read_some(file, header.offset, &mut bytes)? != bytes.len() {
        return Ok(false);
    }
    let entries: Vec<(u64, u64)> = bytes
        .chunks_exact(16)
        .map(|entry| (u64_at(entry, 0).unwrap_or(0), u64_at(entry, 8).unwrap_or(0)))
        .take_while(|&(tag, _)| tag != 0)
        .collect();
    let strings = entries.iter().find(|(tag, _)| *tag == 5).map(|(_, at)| *at);
    // A program that is linked statically may have a dynamic section without strings.
    let Some(strings) = strings.and_then(|address| file_offset(all, address)) else {
        return Ok(!entries.iter().any(|(tag, _)| *tag == 1));
    };
    for (tag, value) in entries {
        if !matches!(tag, 1 | 15 | 29) {
            continue;
        }
        let Some(offset) = strings.checked_add(value) else {
            return Ok(false);
        };
        let Some(text) = string(file, offset)? else {
            return Ok(false);
        };
        match tag {
            1 => elf.needed.push(text),
            15 => elf.rpath = Some(text),
            _ => elf.runpath = Some(text),
        }
    }
    Ok(true)
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    file_size: u64,
}

impl Segment {
    fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            kind: u32::from_le_bytes(*bytes.first_chunk()?),
            offset: u64_at(bytes, 8)?,
            address: u64_at(bytes, 16)?,
            file_size: u64_at(bytes, 32)?,
        })
    }
}

fn file_offset(segments: &[Segment], address: u64) -> Option<u64> {
    segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .find_map(|segment| {
            let inside = address.checked_sub(segment.address)?;
            (inside < segment.file_size).then(|| segment.offset.checked_add(inside))?
        })
}

/// The text up to a NUL byte at `offset`; `None` if it has no end or is no UTF-8.
fn string(file: &File, offset: u64) -> io::Result<Option<String>> {
    let mut bytes = vec![0; MAX_STRING];
    let len = read_some(file, offset, &mut bytes)?;
    bytes.truncate(len);
    Ok(bytes
        .iter()
        .position(|&b| b == 0)
        .and_then(|end| String::from_utf8(bytes[..end].to_vec()).ok()))
}

fn read_some(file: &File, offset: u64, to: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < to.len() {
        let Some(at) = offset.checked_add(len as u64) else {
            break;
        };
        if i64::try_from(at).is_err() {
            break;
        }
        match file.read_at(&mut to[len..], at) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u16::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u64::from_le_bytes)
}

fn machine_name(number: u16, half: bool) -> String {
    match number {
        3 => "32-bit x86".to_owned(),
        8 => "MIPS".to_owned(),
        20 | 21 => "PowerPC".to_owned(),
        22 => "S/390".to_owned(),
        40 => "32-bit ARM".to_owned(),
        62 if half => "x32".to_owned(),
        183 => "ARM64".to_owned(),
        243 => "RISC-V".to_owned(),
        258 => "LoongArch".to_owned(),
        other => format!("machine number {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn of(bytes: &[u8]) -> Parsed {
        let path = std::env::temp_dir().join(format!(
            "kiln-elf-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        File::create(&path).unwrap().write_all(bytes).unwrap();
        let parsed = parse(&File::open(&path).unwrap()).unwrap();
        std::fs::remove_file(&path).unwrap();
        parsed
    }

    #[test]
    fn this_hosts_shell_is_understood() {
        let Ok(file) = File::open("/bin/sh") else {
            return;
        };
        let Parsed::Elf(elf) = parse(&file).unwrap() else {
            panic!("not ELF");
        };
        assert_ne!(elf.kind, Kind::Other);
        assert_eq!(elf.interpreter.is_some(), !elf.needed.is_empty());
    }

    #[test]
    fn other_files_are_told_apart() {
        assert_eq!(of(b"#!/bin/sh\n"), Parsed::Other(b"#!/bin/sh\n".to_vec()));
        assert_eq!(of(b""), Parsed::Other(Vec::new()));
        assert!(matches!(of(b"\x7fELF\x02\x01"), Parsed::Damaged(_)));
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(64, 0);
        bytes[16] = 3;
        bytes[18] = 183;
        assert_eq!(of(&bytes), Parsed::Foreign("ARM64".to_owned()));
        bytes[18] = 62;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[32] = 200;
        assert!(matches!(of(&bytes), Parsed::Damaged(_)));
    }

    #[test]
    fn spoilt_files_are_answered() {
        let Ok(good) = std::fs::read("/bin/sh") else {
            return;
        };
        let mut random = 1u64;
        for _ in 0..300 {
            let mut bytes = good[..good.len().min(20_000)].to_vec();
            for _ in 0..4 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let at = (random >> 33) as usize % 1024;
                bytes[at] = (random >> 56) as u8;
            }
            of(&bytes);
        }
    }
}
