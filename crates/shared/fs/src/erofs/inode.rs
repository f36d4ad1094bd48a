//! Inodes and the content of files.

use super::{Attributes, COMPACT_SIZE, EXTENDED_SIZE, Error, Image, SLOT, u16_at, u32_at, u64_at};

/// The file types of `stat(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
}

impl Kind {
    /// The type in a `mode_t`.
    pub fn of_mode(mode: u16) -> Option<Self> {
        Some(match mode & 0xf000 {
            0x8000 => Self::File,
            0x4000 => Self::Directory,
            0xa000 => Self::Symlink,
            0x2000 => Self::CharDevice,
            0x6000 => Self::BlockDevice,
            0x1000 => Self::Fifo,
            0xc000 => Self::Socket,
            _ => return None,
        })
    }

    /// Its bits in a `mode_t`.
    pub fn mode(self) -> u16 {
        match self {
            Self::File => 0x8000,
            Self::Directory => 0x4000,
            Self::Symlink => 0xa000,
            Self::CharDevice => 0x2000,
            Self::BlockDevice => 0x6000,
            Self::Fifo => 0x1000,
            Self::Socket => 0xc000,
        }
    }

    /// `DT_*` of `getdents(2)`.
    pub fn directory_type(self) -> u8 {
        (self.mode() >> 12) as u8
    }

    /// The number in the entries of folders.
    #[cfg(feature = "std")]
    pub(super) fn entry_type(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Directory => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }

    pub(super) fn of_entry_type(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::File,
            2 => Self::Directory,
            3 => Self::CharDevice,
            4 => Self::BlockDevice,
            5 => Self::Fifo,
            6 => Self::Socket,
            7 => Self::Symlink,
            _ => return None,
        })
    }
}

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Seconds since 1970-01-01 UTC.
    pub seconds: i64,
    /// Nanoseconds of the second, below a milliard.
    pub nanos: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// All content from this offset of the image on.
    Plain(u64),
    /// Whole blocks from the first offset on, and the rest at the second.
    Inline(u64, u64),
}

/// An inode of an [`Image`].
#[derive(Clone, Copy, Debug)]
pub struct Inode<'a> {
    image: Image<'a>,
    nid: u64,
    kind: Kind,
    mode: u16,
    links: u32,
    uid: u32,
    gid: u32,
    size: u64,
    modified: Stamp,
    device: u32,
    layout: Layout,
    /// Where the extended attributes stand, and how many bytes.
    attributes: (u64, u64),
}

impl<'a> Inode<'a> {
    pub(super) fn read(image: Image<'a>, nid: u64) -> Result<Self, Error> {
        let bad = Error::Damaged("inode");
        let start = nid
            .checked_mul(SLOT)
            .and_then(|offset| offset.checked_add(image.meta))
            .ok_or(bad)?;
        let compact = image.slice(start, COMPACT_SIZE).ok_or(bad)?;
        let format = u16_at(compact, 0);
        let extended = format & 1 != 0;
        let record = if extended {
            image.slice(start, EXTENDED_SIZE).ok_or(bad)?
        } else {
            compact
        };
        let mode = u16_at(record, 4);
        let kind = Kind::of_mode(mode).ok_or(Error::Damaged("file type"))?;
        let address = u32_at(record, 16);
        let size = if extended {
            u64_at(record, 8)
        } else {
            u64::from(u32_at(record, 8))
        };
        let attributes_size = match u64::from(u16_at(record, 2)) {
            0 => 0,
            count => 12 + (count - 1) * 4,
        };
        // `start` lies in the image, so these sums are far from overflow.
        let attributes = start + record.len() as u64;
        let tail = attributes + attributes_size;
        let blocks = u64::from(address) << image.block_bits;
        let layout = match format >> 1 & 7 {
            0 => Layout::Plain(blocks),
            2 => Layout::Inline(blocks, tail),
            4 => return Err(Error::Unsupported("chunked files")),
            1 | 3 => return Err(Error::Unsupported("compressed files")),
            _ => return Err(Error::Unsupported("an unknown layout of files")),
        };
        let (links, uid, gid, modified) = if extended {
            let modified = Stamp {
                seconds: u64_at(record, 32).cast_signed(),
                nanos: u32_at(record, 40).min(999_999_999),
            };
            (
                u32_at(record, 44),
                u32_at(record, 24),
                u32_at(record, 28),
                modified,
            )
        } else {
            (
                u32::from(u16_at(record, 6)),
                u32::from(u16_at(record, 24)),
                u32::from(u16_at(record, 26)),
                image.epoch,
            )
        };
        let has_content = matches!(kind, Kind::File | Kind::Directory | Kind::Symlink);
        let inode = Self {
            image,
            nid,
            kind,
            mode: mode & 0xfff,
            links,
            uid,
            gid,
            size: if has_content { size } else { 0 },
            modified,
            device: if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
                address
            } else {
                0
            },
            layout,
            attributes: (attributes, attributes_size),
        };
        inode.check_content()?;
        Ok(inode)
    }

    /// All content lies in the image.
    fn check_content(&self) -> Result<(), Error> {
        let bad = Error::Damaged("content");
        if self.size == 0 {
            return Ok(());
        }
        let body = self.body();
        let start = match self.layout {
            Layout::Plain(start) | Layout::Inline(start, _) => start,
        };
        if body > 0 {
            self.image.slice(start, body).ok_or(bad)?;
        }
        if let Layout::Inline(_, tail) = self.layout {
            self.image.slice(tail, self.size - body).ok_or(bad)?;
        }
        Ok(())
    }

    /// How many bytes lie in blocks; the rest is the inline tail.
    fn body(&self) -> u64 {
        match self.layout {
            Layout::Plain(_) => self.size,
            // A size that is a multiple of the block size has no tail.
            Layout::Inline(..) => self.size >> self.image.block_bits << self.image.block_bits,
        }
    }

    /// Its number.
    pub fn nid(&self) -> u64 {
        self.nid
    }

    /// The image that it belongs to.
    pub fn image(&self) -> Image<'a> {
        self.image
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Permissions, with set-user-ID, set-group-ID and sticky bits; without the type.
    pub fn mode(&self) -> u16 {
        self.mode
    }

    /// How many names it has.
    pub fn links(&self) -> u32 {
        self.links
    }

    /// Owner.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Group.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Bytes of content; 0 for what has none.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// When the content changed last.
    pub fn modified(&self) -> Stamp {
        self.modified
    }

    /// Major and minor number of a device.
    pub fn device(&self) -> (u32, u32) {
        // As `new_encode_dev` of the kernel packs them.
        (
            self.device >> 8 & 0xfff,
            self.device & 0xff | self.device >> 12 & 0xf_ff00,
        )
    }

    /// Content from `offset` on: at least one byte, and as many as lie in one piece; empty from the end on. A file has at
    /// most two pieces, those that this crate writes one.
    pub fn content(&self, offset: u64) -> &'a [u8] {
        if offset >= self.size {
            return &[];
        }
        let body = self.body();
        let (start, len) = match self.layout {
            Layout::Inline(_, tail) if offset >= body => {
                (tail + (offset - body), self.size - offset)
            }
            Layout::Plain(start) | Layout::Inline(start, _) => (start + offset, body - offset),
        };
        // Both were checked when the inode was read.
        self.image.slice(start, len).unwrap_or(&[])
    }

    /// Where in the image the content lies if it can be mapped from there: from a page's start on, whole pages to its end.
    pub fn pages(&self) -> Option<u64> {
        const PAGE: u64 = 4096;
        let start = match self.layout {
            Layout::Plain(start) => start,
            Layout::Inline(start, _) if self.body() == self.size => start,
            Layout::Inline(..) => return None,
        };
        let len = self.size.checked_next_multiple_of(PAGE)?;
        (start.is_multiple_of(PAGE) && self.image.slice(start, len).is_some()).then_some(start)
    }

    /// The extended attributes.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn attributes(&self) -> Result<Attributes<'a>, Error> {
        let (start, len) = self.attributes;
        Attributes::read(self.image, start, len)
    }

    pub(super) fn block_bits(&self) -> u8 {
        self.image.block_bits
    }
}
