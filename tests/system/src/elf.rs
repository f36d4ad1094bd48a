//! Changing an image's headers and notes, byte by byte, as somebody hostile would.
//!
//! Offsets are those of the System V gABI for 64-bit files.

/// Length of a program header.
pub const PHDR: usize = 56;
/// `PT_LOAD`.
pub const LOAD: u32 = 1;
/// `PT_NOTE`.
pub const NOTE: u32 = 4;

/// Where a field of a program header lies in it, and how long it is.
#[derive(Clone, Copy, Debug)]
#[allow(
    missing_docs,
    reason = "the fields' names in the gABI, without their prefix"
)]
pub enum Field {
    Type,
    Flags,
    Offset,
    Vaddr,
    Paddr,
    Filesz,
    Memsz,
    Align,
}

/// An image to be changed.
#[derive(Clone, Debug)]
pub struct Elf(pub Vec<u8>);

impl Elf {
    /// Reads an image.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn read(path: &std::path::Path) -> Self {
        Self(std::fs::read(path).expect("a built image"))
    }

    /// Writes the changed image.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, path: &std::path::Path) {
        std::fs::write(path, &self.0).expect("room for an image");
    }

    /// Overwrites bytes.
    #[must_use]
    pub fn patched(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn word(&self, at: usize, len: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(&self.0[at..at + len]);
        u64::from_le_bytes(bytes)
    }

    /// Number of program headers.
    pub fn header_count(&self) -> usize {
        usize::try_from(self.word(56, 2)).expect("a small number")
    }

    /// Offset of the program headers in the file.
    pub fn headers_at(&self) -> usize {
        usize::try_from(self.word(32, 8)).expect("a small number")
    }

    fn place(&self, index: usize, field: Field) -> (usize, usize) {
        let (offset, len) = match field {
            Field::Type => (0, 4),
            Field::Flags => (4, 4),
            Field::Offset => (8, 8),
            Field::Vaddr => (16, 8),
            Field::Paddr => (24, 8),
            Field::Filesz => (32, 8),
            Field::Memsz => (40, 8),
            Field::Align => (48, 8),
        };
        (self.headers_at() + index * PHDR + offset, len)
    }

    /// A field of a program header.
    pub fn get(&self, index: usize, field: Field) -> u64 {
        let (at, len) = self.place(index, field);
        self.word(at, len)
    }

    /// The image with a field of a program header changed.
    #[must_use]
    pub fn with(self, index: usize, field: Field, value: u64) -> Self {
        let (at, len) = self.place(index, field);
        self.patched(at, &value.to_le_bytes()[..len])
    }

    /// Index of the n-th header of a type.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn nth(&self, kind: u32, n: usize) -> usize {
        let mut found =
            (0..self.header_count()).filter(|&i| self.get(i, Field::Type) == u64::from(kind));
        found.nth(n).expect("so many headers of the type")
    }

    /// Offsets of the notes with owner `Kiln`: of each, its header.
    pub fn notes(&self) -> Vec<usize> {
        let header = self.nth(NOTE, 0);
        let usize_of = |field| usize::try_from(self.get(header, field)).expect("a small number");
        let (mut at, end) = (
            usize_of(Field::Offset),
            usize_of(Field::Offset) + usize_of(Field::Filesz),
        );
        let mut found = Vec::new();
        while at + 12 <= end {
            let size = |offset| usize::try_from(self.word(at + offset, 4)).expect("a small number");
            if self.0[at + 12..].starts_with(b"Kiln\0") {
                found.push(at);
            }
            at += 12 + size(0).next_multiple_of(4) + size(4).next_multiple_of(4);
        }
        found
    }

    /// Offset of the payload of a note whose owner is `Kiln`.
    pub fn payload(note: usize) -> usize {
        note + 20
    }
}
