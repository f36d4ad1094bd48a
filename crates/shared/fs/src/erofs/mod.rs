//! EROFS, Linux's enhanced read-only file system, uncompressed.
//!
//! The format is that of the kernel (`Documentation/filesystems/erofs.rst`, `fs/erofs/erofs_fs.h`), so that images can be
//! mounted on the host, and images that `mkfs.erofs` made can be given to a guest. Read are compact and extended inodes,
//! flat files with and without an inline tail, inline and shared extended attributes; compressed and chunked files are
//! refused with [`Error::Unsupported`].
//!
//! | offset | what |
//! | --- | --- |
//! | 1024 | the super block ([`Image::new`]) |
//! | its `meta_blkaddr` | inodes, in slots of 32 bytes numbered from 0: the number is the inode's name, its *nid* |
//! | behind an inode | its extended attributes, then the tail of its content if that is inline |
//! | anywhere | blocks of content; those of a folder hold entries ([`Inode::lookup`], [`Inode::entries`]) |
//!
//! With feature `std` there is the way back: a `Tree` of files, written as an image.
//!
//! The reader works on bytes that it does not trust: whatever they hold, it answers or fails, in time that is bounded by
//! their number.

mod attribute;
mod directory;
mod inode;
#[cfg(feature = "std")]
mod sparse;
#[cfg(feature = "std")]
mod tree;
#[cfg(feature = "std")]
mod write;

use core::fmt;

pub use attribute::{Attribute, Attributes};
pub use directory::{Entries, Entry};
pub use inode::{Inode, Kind, Stamp};
#[cfg(feature = "std")]
pub use tree::{Meta, Misplaced, Source, Tree};
#[cfg(feature = "std")]
pub use write::Summary;

/// Where the super block stands.
const SUPER_OFFSET: u64 = 1024;
const SUPER_SIZE: u64 = 128;
const MAGIC: u32 = 0xe0f5_e1e2;
/// Bytes of an inode slot.
const SLOT: u64 = 32;
const COMPACT_SIZE: u64 = 32;
const EXTENDED_SIZE: u64 = 64;

/// `feature_incompat`: says only how compressed clusters are padded.
const ZERO_PADDING: u32 = 1;

/// Why an image or a part of it cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The bytes are not an EROFS image.
    NotErofs,
    /// The image uses what this reader has not: the word says what.
    Unsupported(&'static str),
    /// The image contradicts itself: the word says where.
    Damaged(&'static str),
    /// A folder was expected.
    NotADirectory,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotErofs => f.write_str("not an EROFS image"),
            Self::Unsupported(what) => write!(f, "EROFS with {what}, which is not supported"),
            Self::Damaged(what) => write!(f, "damaged EROFS image: bad {what}"),
            Self::NotADirectory => f.write_str("not a directory"),
        }
    }
}

impl core::error::Error for Error {}

/// An EROFS image in memory.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    bytes: &'a [u8],
    block_bits: u8,
    root: u64,
    /// Offset of slot 0 and of the shared attributes, in bytes.
    meta: u64,
    attributes: u64,
    /// Modification time of compact inodes.
    epoch: Stamp,
    /// As the super block tells them.
    inodes: u64,
    blocks: u32,
}

impl fmt::Debug for Image<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({} bytes)", self.bytes.len())
    }
}

impl<'a> Image<'a> {
    /// Reads the super block. `bytes` may be longer than the image.
    ///
    /// # Errors
    /// If it is none, a damaged one, or one with features that are not read here.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        let block = slice(bytes, SUPER_OFFSET, SUPER_SIZE).ok_or(Error::NotErofs)?;
        if u32_at(block, 0) != MAGIC {
            return Err(Error::NotErofs);
        }
        let block_bits = byte_at(block, 12);
        if !(9..=16).contains(&block_bits) {
            return Err(Error::Unsupported("blocks of this size"));
        }
        if byte_at(block, 90) != 0 {
            return Err(Error::Unsupported("directory blocks of another size"));
        }
        if u32_at(block, 80) & !ZERO_PADDING != 0 {
            return Err(Error::Unsupported("compression, chunks or devices"));
        }
        let image = Self {
            bytes,
            block_bits,
            root: u64::from(u16_at(block, 14)),
            meta: u64::from(u32_at(block, 40)) << block_bits,
            attributes: u64::from(u32_at(block, 44)) << block_bits,
            epoch: Stamp {
                seconds: u64_at(block, 24).cast_signed(),
                nanos: u32_at(block, 32).min(999_999_999),
            },
            inodes: u64_at(block, 16),
            blocks: u32_at(block, 36),
        };
        if image.root()?.kind() != Kind::Directory {
            return Err(Error::Damaged("root folder"));
        }
        Ok(image)
    }

    /// The folder at the top.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn root(&self) -> Result<Inode<'a>, Error> {
        self.inode(self.root)
    }

    /// The inode with number `nid`, as entries name it.
    ///
    /// # Errors
    /// [`Error::Damaged`] or [`Error::Unsupported`].
    pub fn inode(&self, nid: u64) -> Result<Inode<'a>, Error> {
        Inode::read(*self, nid)
    }

    /// Bytes of a block.
    pub fn block_size(&self) -> u32 {
        1 << self.block_bits
    }

    /// How many blocks the image says that it has.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// How many inodes the image says that it has.
    pub fn inodes(&self) -> u64 {
        self.inodes
    }

    /// The inode that `path` leads to from the root, without following symbolic links; for tools and tests.
    ///
    /// # Errors
    /// As of [`Inode::lookup`].
    pub fn find(&self, path: &[u8]) -> Result<Option<Inode<'a>>, Error> {
        let mut here = self.root()?;
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            match here.lookup(name)? {
                Some(entry) => here = self.inode(entry.nid)?,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    fn slice(&self, offset: u64, len: u64) -> Option<&'a [u8]> {
        slice(self.bytes, offset, len)
    }
}

fn slice(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let end = offset.checked_add(len)?;
    bytes.get(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)
}

// Fields of records whose length was checked; beyond their end they read as zero.

fn byte_at(record: &[u8], at: usize) -> u8 {
    record.get(at).copied().unwrap_or(0)
}

fn array_at<const N: usize>(record: &[u8], at: usize) -> [u8; N] {
    record
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

fn u16_at(record: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(record, at))
}

fn u32_at(record: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(record, at))
}

fn u64_at(record: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(record, at))
}
