//! ELF notes of an image.
//!
//! Every image carries, in a `PT_NOTE` segment, one [`AbiNote`] and one [`DeviceNote`] for each device the program
//! declares, all under the owner name [`OWNER`]. A monitor refuses to start an image when a declared device is not
//! attached, or an attached one is not declared.
//!
//! Other monitors look for one more: owner `Xen`, type 18 (`XEN_ELFNOTE_PHYS32_ENTRY`), the PVH entry.

use crate::DeviceKind;
use crate::layout::Record;

/// Owner of Kiln's notes, without the terminating NUL.
pub const OWNER: &str = "Kiln";
/// Note type of an [`AbiNote`].
pub const TYPE_ABI: u32 = 1;
/// Note type of a [`DeviceNote`].
pub const TYPE_DEVICE: u32 = 2;
/// Owner of the PVH note.
pub const PVH_OWNER: &str = "Xen";
/// Note type of the PVH entry: a physical address below 4 GiB, in 8 bytes.
pub const TYPE_PVH_ENTRY: u32 = 18;

/// The longest device name in bytes.
pub const MAX_NAME: usize = 23;

/// What an image needs of its monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AbiNote {
    /// [`VERSION`](crate::VERSION) the guest was built for.
    pub version: u32,
    /// [`PROGRAM`](Self::PROGRAM) or 0.
    pub flags: u32,
    /// Bytes of stack the program wants; 0 leaves the choice to the monitor.
    pub stack_size: u64,
    /// Bytes of memory below which the program cannot start; 0 if it does not know.
    pub min_memory: u64,
    /// Address of the first instruction, relative to where the image is placed. Programs leave it 0; `kiln build`
    /// fills in what the linker decided, because the ELF header's entry is the machine part's.
    pub entry: u64,
}

impl AbiNote {
    /// The image runs a Linux program: it needs the operations in [`user`](crate::user), and the monitor keeps the user range
    /// free. A monitor that cannot do so refuses the image.
    pub const PROGRAM: u32 = 1;
}

/// One device that a program declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DeviceNote {
    /// A [`DeviceKind`].
    pub kind: u32,
    /// [`OPTIONAL`](Self::OPTIONAL) or 0.
    pub flags: u32,
    /// The name, padded with NUL bytes, at least one of them.
    pub name: [u8; MAX_NAME + 1],
}

impl DeviceNote {
    /// The program starts without the device too.
    pub const OPTIONAL: u32 = 1;

    /// A declaration of device `name`.
    ///
    /// # Panics
    /// If the name is not valid by [`valid_name`]; in a `static` this is a compile-time error.
    pub const fn new(kind: DeviceKind, name: &str, flags: u32) -> Self {
        assert!(
            valid_name(name.as_bytes()),
            "a device name has 1 to 23 characters of a-z, 0-9, '-' and '_'"
        );
        let mut padded = [0; MAX_NAME + 1];
        let bytes = name.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            padded[i] = bytes[i];
            i += 1;
        }
        Self {
            kind: kind as u32,
            flags,
            name: padded,
        }
    }

    /// The name as text; `None` if it is not valid by [`valid_name`] or not padded with NUL bytes.
    pub fn name(&self) -> Option<&str> {
        name_of(&self.name)
    }
}

/// The text in a NUL-padded name field, if it is a valid name.
pub fn name_of(field: &[u8; MAX_NAME + 1]) -> Option<&str> {
    let len = field.iter().position(|&b| b == 0)?;
    let (name, padding) = field.split_at(len);
    if !valid_name(name) || padding.iter().any(|&b| b != 0) {
        return None;
    }
    core::str::from_utf8(name).ok()
}

/// True for 1 to [`MAX_NAME`] characters of `a-z`, `0-9`, `-` and `_`.
pub const fn valid_name(name: &[u8]) -> bool {
    if name.is_empty() || name.len() > MAX_NAME {
        return false;
    }
    let mut i = 0;
    while i < name.len() {
        if !matches!(name[i], b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_') {
            return false;
        }
        i += 1;
    }
    true
}

/// A note as it stands in an image: header, owner name, payload. Programs place statics of it in the section
/// `.note.kiln`; see the facade crate's macros.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4))]
pub struct ElfNote<const N: usize> {
    name_size: u32,
    payload_size: u32,
    kind: u32,
    name: [u8; 8],
    payload: [u8; N],
}

impl ElfNote<32> {
    /// The note that carries `abi`.
    pub const fn abi(abi: AbiNote) -> Self {
        let mut payload = [0; 32];
        put(&mut payload, 0, &abi.version.to_le_bytes());
        put(&mut payload, 4, &abi.flags.to_le_bytes());
        put(&mut payload, 8, &abi.stack_size.to_le_bytes());
        put(&mut payload, 16, &abi.min_memory.to_le_bytes());
        put(&mut payload, 24, &abi.entry.to_le_bytes());
        Self::new(TYPE_ABI, payload)
    }

    /// The note that carries `device`.
    pub const fn device(device: DeviceNote) -> Self {
        let mut payload = [0; 32];
        put(&mut payload, 0, &device.kind.to_le_bytes());
        put(&mut payload, 4, &device.flags.to_le_bytes());
        put(&mut payload, 8, &device.name);
        Self::new(TYPE_DEVICE, payload)
    }
}

impl<const N: usize> ElfNote<N> {
    const fn new(kind: u32, payload: [u8; N]) -> Self {
        Self {
            name_size: 5,
            payload_size: N as u32,
            kind,
            name: *b"Kiln\0\0\0\0",
            payload,
        }
    }
}

const fn put(to: &mut [u8], at: usize, from: &[u8]) {
    let mut i = 0;
    while i < from.len() {
        to[at + i] = from[i];
        i += 1;
    }
}

/// One note as read from an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawNote<'a> {
    /// Owner without the terminating NUL.
    pub owner: &'a [u8],
    /// Type, to be understood together with the owner.
    pub kind: u32,
    /// The note's content.
    pub payload: &'a [u8],
}

impl RawNote<'_> {
    /// The payload as a record, if its length is exactly the record's.
    pub fn record<T: Record>(&self) -> Option<T> {
        (self.payload.len() == T::SIZE)
            .then(|| T::from_prefix(self.payload))
            .flatten()
    }
}

/// A note segment ends in the middle of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TruncatedNote;

/// The notes in the bytes of a note segment with 4-byte alignment. Nothing in `bytes` is trusted.
pub fn parse(bytes: &[u8]) -> impl Iterator<Item = Result<RawNote<'_>, TruncatedNote>> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some((note, after)) = parse_one(rest) {
            rest = after;
            Some(Ok(note))
        } else {
            rest = &[];
            Some(Err(TruncatedNote))
        }
    })
}

fn parse_one(bytes: &[u8]) -> Option<(RawNote<'_>, &[u8])> {
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    let name_size = word(0)? as usize;
    let payload_size = word(4)? as usize;
    let kind = word(8)?;
    let name = bytes.get(12..12usize.checked_add(name_size)?)?;
    let payload_at = 12usize.checked_add(name_size.checked_next_multiple_of(4)?)?;
    let payload_end = payload_at.checked_add(payload_size)?;
    let payload = bytes.get(payload_at..payload_end)?;
    // The padding of the last note may be missing.
    let next = payload_end.checked_next_multiple_of(4)?.min(bytes.len());
    let owner = name.strip_suffix(&[0]).unwrap_or(name);
    Some((
        RawNote {
            owner,
            kind,
            payload,
        },
        &bytes[next..],
    ))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn bytes_of<const N: usize>(note: &ElfNote<N>) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(note.name_size.to_le_bytes());
        out.extend(note.payload_size.to_le_bytes());
        out.extend(note.kind.to_le_bytes());
        out.extend(note.name);
        out.extend(note.payload);
        assert_eq!(out.len(), size_of::<ElfNote<N>>());
        out
    }

    #[test]
    fn notes_are_read_back() {
        let abi = AbiNote {
            version: 1,
            flags: 0,
            stack_size: 65536,
            min_memory: 1 << 20,
            entry: 0x1234,
        };
        let device = DeviceNote::new(DeviceKind::Block, "data", DeviceNote::OPTIONAL);
        let mut bytes = bytes_of(&ElfNote::abi(abi));
        bytes.extend(bytes_of(&ElfNote::device(device)));
        let notes: Vec<_> = parse(&bytes).map(Result::unwrap).collect();
        assert_eq!(notes.len(), 2);
        assert_eq!(notes[0].owner, OWNER.as_bytes());
        assert_eq!(notes[0].record(), Some(abi));
        assert_eq!(notes[1].record(), Some(device));
        assert_eq!(device.name(), Some("data"));
    }

    #[test]
    fn every_truncation_is_reported() {
        let note = ElfNote::device(DeviceNote::new(DeviceKind::Net, "eth0", 0));
        let bytes = bytes_of(&note);
        for len in 1..bytes.len() {
            assert!(
                parse(&bytes[..len]).any(|n| n.is_err()),
                "{len} bytes were taken for a note"
            );
        }
    }

    #[test]
    fn sizes_that_overflow_are_truncations() {
        let mut bytes = bytes_of(&ElfNote::device(DeviceNote::new(DeviceKind::Net, "n", 0)));
        bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(parse(&bytes).collect::<Vec<_>>(), [Err(TruncatedNote)]);
    }

    #[test]
    fn names_are_checked() {
        let mut note = DeviceNote::new(DeviceKind::Net, "eth0", 0);
        note.name[6] = b'x';
        assert_eq!(note.name(), None, "text behind the padding");
        note.name = [b'a'; 24];
        assert_eq!(note.name(), None, "no padding");
        assert!(!valid_name(b"Eth0"));
        assert!(!valid_name(b""));
        assert!(!valid_name(b"a/b"));
    }
}
