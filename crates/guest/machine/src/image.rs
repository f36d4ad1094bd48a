//! The guest's headers and notes, which the loader has placed at [`GUEST`].
//!
//! `kiln build` and the loader are trusted to have put a good image there; what is read is bounded all the same.

use kiln_abi::note::{self, AbiNote, DeviceNote};
use kiln_abi::{MAX_DEVICES, PAGE_SIZE, VERSION};

use crate::physical::{u16_at, u32_at, u64_at};

/// Physical address of the guest's address 0.
pub const GUEST: u64 = 0x20_0000;
/// Headers and notes lie in so many bytes.
pub const HEADERS: usize = 8192;

const MAX_SEGMENTS: usize = 8;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// One loadable segment, on whole pages, relative to the image's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// First address.
    pub start: u64,
    /// Address behind it.
    pub end: u64,
    /// The guest writes to it.
    pub writable: bool,
    /// The guest executes it.
    pub executable: bool,
}

/// What is known of the guest.
#[derive(Debug)]
pub struct Image<'a> {
    segments: [Segment; MAX_SEGMENTS],
    count: usize,
    /// What it needs.
    pub needs: AbiNote,
    headers: &'a [u8],
}

impl<'a> Image<'a> {
    /// Reads the first [`HEADERS`] bytes of an image.
    ///
    /// # Errors
    /// In words.
    pub fn parse(headers: &'a [u8]) -> Result<Self, &'static str> {
        let mut image = Self {
            segments: [Segment::default(); MAX_SEGMENTS],
            count: 0,
            needs: AbiNote {
                version: 0,
                flags: 0,
                stack_size: 0,
                min_memory: 0,
                entry: 0,
            },
            headers,
        };
        image
            .segments()
            .ok_or("there is no image where it should be")?;
        let abi = image
            .notes()
            .filter(|note| note.kind == note::TYPE_ABI)
            .find_map(|note| note.record::<AbiNote>())
            .ok_or("the image says nothing of itself")?;
        if abi.version != VERSION {
            return Err("the image is of another version of the ABI");
        }
        let entry = |s: &&Segment| s.executable && (s.start..s.end).contains(&abi.entry);
        image
            .loaded()
            .iter()
            .find(entry)
            .ok_or("the image's entry is no code")?;
        image.needs = abi;
        Ok(image)
    }

    fn program_headers(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let headers = self.headers;
        let start = u64_at(headers, 32).unwrap_or(u64::MAX) as usize;
        let count = usize::from(u16_at(headers, 56).unwrap_or(0));
        headers
            .get(start..)
            .unwrap_or_default()
            .chunks_exact(56)
            .take(count)
    }

    fn segments(&mut self) -> Option<()> {
        let magic = self.headers.starts_with(b"\x7fELF\x02\x01");
        let whole_pages = |a: u64| a.checked_next_multiple_of(PAGE_SIZE);
        for header in self.program_headers() {
            // The machine part itself is loaded below.
            if u32_at(header, 0)? != PT_LOAD || u64_at(header, 24)? < GUEST {
                continue;
            }
            let flags = u32_at(header, 4)?;
            let start = u64_at(header, 16)?;
            let end = whole_pages(start.checked_add(u64_at(header, 40)?)?)?;
            let previous = self.count.checked_sub(1).and_then(|i| self.segments.get(i));
            let good = start.is_multiple_of(PAGE_SIZE)
                && u64_at(header, 24)? == start.checked_add(GUEST)?
                && start >= previous.map_or(0, |p| p.end)
                && end > start
                && end < 1 << 32;
            if !good {
                return None;
            }
            *self.segments.get_mut(self.count)? = Segment {
                start,
                end,
                writable: flags & 2 != 0,
                executable: flags & 1 != 0,
            };
            self.count += 1;
        }
        (magic && self.count > 0).then_some(())
    }

    fn notes(&self) -> impl Iterator<Item = note::RawNote<'a>> {
        let headers = self.headers;
        self.program_headers()
            .filter(|header| u32_at(header, 0) == Some(PT_NOTE))
            .filter_map(move |header| {
                let start = u64_at(header, 8)? as usize;
                let len = u64_at(header, 32)? as usize;
                headers.get(start..start.checked_add(len)?)
            })
            .flat_map(|bytes| note::parse(bytes).map_while(Result::ok))
            .filter(|note| note.owner == note::OWNER.as_bytes())
    }

    /// The loadable segments in ascending order.
    pub fn loaded(&self) -> &[Segment] {
        self.segments.get(..self.count).unwrap_or_default()
    }

    /// Bytes from the first segment's start to the last one's end.
    pub fn size(&self) -> u64 {
        self.loaded().last().map_or(0, |s| s.end)
    }

    /// The range of the segments for which `which` holds.
    pub fn range_of(&self, which: impl Fn(&Segment) -> bool) -> (u64, u64) {
        let mut all = self.loaded().iter().filter(|s| which(s));
        let Some(first) = all.next() else {
            return (0, 0);
        };
        (first.start, all.last().unwrap_or(first).end)
    }

    /// The declared devices.
    pub fn devices(&self) -> impl Iterator<Item = DeviceNote> {
        self.notes()
            .filter(|note| note.kind == note::TYPE_DEVICE)
            .filter_map(|note| note.record::<DeviceNote>())
            .filter(|device| device.name().is_some())
            .take(MAX_DEVICES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_abi::DeviceKind;
    use kiln_abi::layout::Record;
    use std::vec;
    use std::vec::Vec;

    fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
        bytes[at..at + value.len()].copy_from_slice(value);
    }

    fn header(kind: u32, flags: u32, offset: u64, start: u64, len: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        let words = [offset, start, start.wrapping_add(GUEST), len, len, 4096];
        bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        bytes
    }

    fn note(kind: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [5, payload.len() as u32, kind] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(b"Kiln\0\0\0\0");
        bytes.extend(payload);
        bytes
    }

    fn image() -> Vec<u8> {
        let mut bytes = vec![0; HEADERS];
        put(&mut bytes, 0, b"\x7fELF\x02\x01\x01");
        put(&mut bytes, 32, &64u64.to_le_bytes());
        put(&mut bytes, 56, &5u16.to_le_bytes());
        let abi = AbiNote {
            version: VERSION,
            flags: 0,
            stack_size: 0,
            min_memory: 0,
            entry: 0x1800,
        };
        let mut notes = note(note::TYPE_ABI, abi.as_bytes());
        notes.extend(note(
            note::TYPE_DEVICE,
            DeviceNote::new(DeviceKind::Net, "net", 0).as_bytes(),
        ));
        let mut machine = header(PT_LOAD, 5, 0x4000, 0x5000, 0x100);
        put(&mut machine, 24, &0x10_0000u64.to_le_bytes());
        let headers = [
            header(PT_LOAD, 4, 0, 0, 0x400),
            header(PT_LOAD, 5, 0x1000, 0x1000, 0x1000),
            header(PT_LOAD, 6, 0x2000, 0x2000, 0x2f00),
            machine,
            header(PT_NOTE, 4, 0x200, 0x200, notes.len() as u64),
        ];
        for (index, header) in headers.iter().enumerate() {
            put(&mut bytes, 64 + index * 56, header);
        }
        put(&mut bytes, 0x200, &notes);
        bytes
    }

    #[test]
    fn an_image_is_read() {
        let bytes = image();
        let image = Image::parse(&bytes).unwrap();
        let segment = |start, end, writable, executable| Segment {
            start,
            end,
            writable,
            executable,
        };
        let expected = [
            segment(0, 0x1000, false, false),
            segment(0x1000, 0x2000, false, true),
            segment(0x2000, 0x5000, true, false),
        ];
        assert_eq!(image.loaded(), expected);
        assert_eq!((image.size(), image.needs.entry), (0x5000, 0x1800));
        assert_eq!(image.range_of(|s| s.writable), (0x2000, 0x5000));
        let names: Vec<_> = image
            .devices()
            .map(|d| d.name().map(std::string::String::from))
            .collect();
        assert_eq!(names, [Some("net".into())]);
    }

    #[test]
    fn no_byte_is_trusted() {
        let whole = image();
        for at in (0..0x300).chain(32..40) {
            for value in [0, 1, 5, 0x40, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                if let Ok(image) = Image::parse(&bytes) {
                    let _ = image.devices().count();
                }
            }
        }
        for len in 0..0x300 {
            let _ = Image::parse(&whole[..len]);
        }
    }
}
