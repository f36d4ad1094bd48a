//! The image as GRUB loads it: a fixed ELF32 file with a Multiboot2 header.
//!
//! GRUB refuses position-independent files. This one has the same bytes at the same physical addresses as the image, and
//! starts in the machine part's Multiboot2 entry. Sources: the Multiboot2 specification 2.0, section 3.1; System V ABI,
//! chapters 4 and 5.

use kiln_image::image::{GUEST_ADDRESS, MACHINE_ADDRESS, MachineHeader};
use kiln_image::{Access, Layout};

use crate::exit::Failure;

const HEADER_SIZE: u32 = 52;
const PROGRAM_HEADER_SIZE: u32 = 32;
const PAGE: usize = 4096;

const MAGIC: u32 = 0xe852_50d6;
/// 32-bit protected mode of an i386.
const ARCHITECTURE: u32 = 0;
/// Optional information request: command line, memory map, both kinds of ACPI root pointer.
const REQUEST: [u32; 4] = [1, 6, 14, 15];

/// One segment of the file.
struct Segment<'a> {
    address: u64,
    bytes: &'a [u8],
    memory_size: u64,
    flags: u32,
}

/// The file for `image`, which `layout` describes.
///
/// # Errors
/// If the image's machine part has no good header.
pub fn wrap(image: &[u8], layout: &Layout) -> Result<Vec<u8>, Failure> {
    let bad = || Failure::new("the image's machine part is damaged: build the image again");
    let part = |offset: u64, len: u64| {
        let start = usize::try_from(offset).ok()?;
        image.get(start..)?.get(..usize::try_from(len).ok()?)
    };
    let machine = layout.machine();
    let code = part(machine.file_offset, machine.file_size).ok_or_else(bad)?;
    let header = MachineHeader::parse(code).ok_or_else(bad)?;
    let mut segments = vec![Segment {
        address: MACHINE_ADDRESS,
        bytes: code,
        memory_size: machine.memory_size,
        flags: 5,
    }];
    for segment in layout.segments() {
        segments.push(Segment {
            address: GUEST_ADDRESS + segment.address,
            bytes: part(segment.file_offset, segment.file_size).ok_or_else(bad)?,
            memory_size: segment.memory_size,
            flags: match segment.access {
                Access::Read => 4,
                Access::ReadExecute => 5,
                Access::ReadWrite => 6,
            },
        });
    }
    Ok(write(&segments, header.multiboot_entry as u32))
}

fn write(segments: &[Segment<'_>], entry: u32) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0");
    // An executable for i386.
    halves(&mut out, [2, 3]);
    words(&mut out, [1, entry, HEADER_SIZE, 0, 0]);
    let count = segments.len() as u16;
    halves(
        &mut out,
        [
            HEADER_SIZE as u16,
            PROGRAM_HEADER_SIZE as u16,
            count,
            40,
            0,
            0,
        ],
    );
    let headers_end = HEADER_SIZE + PROGRAM_HEADER_SIZE * u32::from(count);
    let multiboot = headers_end.next_multiple_of(8) as usize;
    let header = multiboot_header();
    let mut offset = (multiboot + header.len()).next_multiple_of(PAGE);
    for segment in segments {
        let address = segment.address as u32;
        let size = segment.bytes.len() as u32;
        words(
            &mut out,
            [
                1,
                offset as u32,
                address,
                address,
                size,
                segment.memory_size as u32,
                segment.flags,
            ],
        );
        words(&mut out, [PAGE as u32]);
        offset = (offset + segment.bytes.len()).next_multiple_of(PAGE);
    }
    out.resize(multiboot, 0);
    out.extend(header);
    for segment in segments {
        out.resize(out.len().next_multiple_of(PAGE), 0);
        out.extend(segment.bytes);
    }
    out
}

fn multiboot_header() -> Vec<u8> {
    let mut tags = Vec::new();
    halves(&mut tags, [1, 1]);
    words(&mut tags, [8 + 4 * REQUEST.len() as u32]);
    words(&mut tags, REQUEST);
    // The end.
    halves(&mut tags, [0, 0]);
    words(&mut tags, [8]);
    let len = 16 + tags.len() as u32;
    let sum = MAGIC.wrapping_add(ARCHITECTURE).wrapping_add(len);
    let mut header = Vec::new();
    words(&mut header, [MAGIC, ARCHITECTURE, len, sum.wrapping_neg()]);
    header.extend(tags);
    header
}

fn words<const N: usize>(to: &mut Vec<u8>, words: [u32; N]) {
    to.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

fn halves<const N: usize>(to: &mut Vec<u8>, halves: [u16; N]) {
    to.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn segments_keep_their_bytes_and_addresses() {
        let segments = [
            Segment {
                address: 0x10_0000,
                bytes: b"machine",
                memory_size: 0x5000,
                flags: 5,
            },
            Segment {
                address: 0x20_3000,
                bytes: &[7; 5000],
                memory_size: 5001,
                flags: 6,
            },
        ];
        let file = write(&segments, 0x10_0020);
        assert_eq!(word(&file, 24), 0x10_0020);
        for (index, segment) in segments.iter().enumerate() {
            let at = 52 + 32 * index;
            let header: Vec<u32> = (0..8).map(|n| word(&file, at + 4 * n)).collect();
            let offset = header[1] as usize;
            assert_eq!(header[0], 1);
            assert_eq!(u64::from(header[2]), segment.address);
            assert_eq!(header[3], header[2]);
            assert_eq!(u64::from(header[5]), segment.memory_size);
            assert_eq!(&file[offset..][..header[4] as usize], segment.bytes);
            assert_eq!(offset % 4096, 0);
        }
    }

    #[test]
    fn the_multiboot_header_is_where_it_is_looked_for() {
        let file = write(&[], 0x10_0020);
        let at = (0..32768.min(file.len()) - 16)
            .step_by(8)
            .find(|&at| word(&file, at) == MAGIC)
            .unwrap();
        let sum = (0..4).fold(0u32, |sum, n| sum.wrapping_add(word(&file, at + 4 * n)));
        assert_eq!(sum, 0);
        let mut tag = at + 16;
        while word(&file, tag) != 0 {
            tag += (word(&file, tag + 4) as usize).next_multiple_of(8);
        }
        assert_eq!(tag + 8, at + word(&file, at + 8) as usize);
    }
}
