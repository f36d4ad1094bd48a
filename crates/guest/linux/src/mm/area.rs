//! An area: a range of addresses that has the same access and the same kind of content throughout (Linux calls it a VMA).

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::fs::{OpenFile, Pages};
use crate::platform::Access;

bitflags::bitflags! {
    /// What else there is to know about an area.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct AreaFlags: u32 {
        /// `MAP_SHARED`
        const SHARED = 1;
        /// `MAP_GROWSDOWN`
        const GROWS_DOWN = 2;
        /// `MAP_NORESERVE`
        const NORESERVE = 4;
        /// `mlock(2)`
        const LOCKED = 8;
        /// `MADV_DONTDUMP`
        const DONT_DUMP = 0x10;
        /// `MADV_DONTFORK`
        const DONT_FORK = 0x20;
        /// `MADV_WIPEONFORK`
        const WIPE_ON_FORK = 0x40;
        /// `MADV_HUGEPAGE`
        const HUGE = 0x80;
        /// `MADV_NOHUGEPAGE`
        const NO_HUGE = 0x100;
        /// `MADV_SEQUENTIAL`
        const SEQUENTIAL = 0x200;
        /// `MADV_RANDOM`
        const RANDOM = 0x400;
    }
}

/// What an anonymous area is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// Whatever the program wants.
    #[default]
    Ordinary,
    /// Below the program break.
    Heap,
    /// The first thread's stack.
    Stack,
}

/// What lies in an area.
#[derive(Clone, Debug)]
pub enum Content {
    /// Zeroes at first.
    Zero(Purpose),
    /// A file.
    File(Rc<MappedFile>),
    /// Pages of the library OS from this address on, under this name.
    Own {
        /// Address of the first page.
        address: u64,
        /// As `/proc/self/maps` shows it.
        name: &'static str,
        /// Written pages become the program's own.
        private: bool,
    },
    /// Nothing of the program's: the range is kept for the library OS's code stubs.
    Reserved,
}

/// A file that is mapped.
pub struct MappedFile {
    /// It stays open as long as it is mapped.
    pub open: Rc<OpenFile>,
    /// The file system's number.
    pub device: u64,
    /// The inode's.
    pub inode: u64,
    /// As `/proc/self/maps` shows it.
    pub path: Vec<u8>,
    /// Where its content comes from.
    pub source: Source,
}

/// Where a mapped file's content comes from.
pub enum Source {
    /// The root image at this offset; the file has `size` bytes.
    Image {
        /// Offset in the image.
        at: u64,
        /// Bytes of the file.
        size: u64,
    },
    /// Pages that the file system keeps.
    Pages(Rc<dyn Pages>),
    /// It is read when it is mapped or touched.
    Copy,
}

impl core::fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let path = alloc::string::String::from_utf8_lossy(&self.path);
        write!(f, "MappedFile({path})")
    }
}

/// A range with the same access and the same kind of content.
#[derive(Clone, Debug)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// Behind the last.
    pub end: u64,
    /// What the program may do with it.
    pub access: Access,
    /// What `mprotect(2)` may give it at most.
    pub most: Access,
    /// More about it.
    pub flags: AreaFlags,
    /// What lies in it.
    pub content: Content,
    /// Of files: offset in bytes of the first page.
    pub offset: u64,
}

impl Area {
    /// The pages of a file that this and other mappings share.
    pub fn shared_pages(&self) -> Option<&Rc<dyn Pages>> {
        match self.file().map(|file| &file.source) {
            Some(Source::Pages(pages)) if self.flags.contains(AreaFlags::SHARED) => Some(pages),
            _ => None,
        }
    }

    /// Bytes: at least a page.
    #[allow(clippy::len_without_is_empty, reason = "no area is empty")]
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Takes everything from `at` on off, which lies within.
    #[must_use]
    pub fn split_off(&mut self, at: u64) -> Self {
        let mut rest = self.clone();
        rest.start = at;
        rest.offset = self.offset_of(at);
        self.end = at;
        rest
    }

    /// The offset in the content of an address within.
    pub fn offset_of(&self, at: u64) -> u64 {
        match self.content {
            Content::File(_) | Content::Own { .. } => {
                self.offset.wrapping_add(at.wrapping_sub(self.start))
            }
            Content::Zero(_) | Content::Reserved => 0,
        }
    }

    /// True if `next`, which starts where this ends, is more of the same.
    pub fn continues_in(&self, next: &Self) -> bool {
        self.end == next.start
            && self.access == next.access
            && self.most == next.most
            && self.flags == next.flags
            && match (&self.content, &next.content) {
                (Content::Zero(a), Content::Zero(b)) => a == b,
                (Content::File(a), Content::File(b)) => {
                    Rc::ptr_eq(a, b) && self.offset_of(self.end) == next.offset
                }
                _ => false,
            }
    }

    /// True if what is written is the program's own and counts as its data.
    pub fn is_private_writable(&self) -> bool {
        self.access.contains(Access::WRITE) && !self.flags.contains(AreaFlags::SHARED)
    }

    /// True if it belongs to the program.
    pub fn is_program(&self) -> bool {
        !matches!(self.content, Content::Reserved)
    }

    /// True if it starts with zeroes and is private: what `MADV_FREE` wants.
    pub fn is_anonymous(&self) -> bool {
        matches!(self.content, Content::Zero(_))
    }

    /// The file.
    pub fn file(&self) -> Option<&Rc<MappedFile>> {
        match &self.content {
            Content::File(file) => Some(file),
            _ => None,
        }
    }
}

/// An area as `/proc/self/maps` and `smaps` show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Behind the last.
    pub end: u64,
    /// What the program may do with it.
    pub access: Access,
    /// More about it.
    pub flags: AreaFlags,
    /// Offset in the file.
    pub offset: u64,
    /// The file system's number; 0 for none.
    pub device: u64,
    /// The inode's; 0 for none.
    pub inode: u64,
    /// Path, or `[heap]` and the like, or nothing.
    pub name: Box<[u8]>,
    /// True if it has no file.
    pub anonymous: bool,
}

impl From<&Area> for Region {
    fn from(area: &Area) -> Self {
        let (offset, device, inode, name): (u64, u64, u64, &[u8]) = match &area.content {
            Content::Zero(Purpose::Heap) => (0, 0, 0, b"[heap]"),
            Content::Zero(Purpose::Stack) => (0, 0, 0, b"[stack]"),
            Content::Zero(Purpose::Ordinary) if area.flags.contains(AreaFlags::SHARED) => {
                (0, 1, 1, b"/dev/zero (deleted)")
            }
            Content::Zero(Purpose::Ordinary) | Content::Reserved => (0, 0, 0, b""),
            Content::Own { name, .. } => (0, 0, 0, name.as_bytes()),
            Content::File(file) => (area.offset, file.device, file.inode, &file.path),
        };
        Self {
            start: area.start,
            end: area.end,
            access: area.access,
            flags: area.flags,
            offset,
            device,
            inode,
            name: name.into(),
            anonymous: area.is_anonymous(),
        }
    }
}
