//! Folders.
//!
//! Each block of a folder starts with its entries, of 12 bytes each, and their names follow in the same order. Entries are
//! sorted by name within a block and from block to block; `.` and `..` are among them.

use super::{Error, Inode, Kind, byte_at, u16_at, u64_at};

const ENTRY: usize = 12;
/// `NAME_MAX`.
const MAX_NAME: usize = 255;

/// An entry of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The inode's number.
    pub nid: u64,
    /// What the folder says that it is.
    pub kind: Kind,
    /// Where to go on behind this entry: what `getdents(2)` calls `d_off`. Always the same for the same image.
    pub next: u64,
}

/// A block of a folder whose first entry has been checked.
#[derive(Clone, Copy)]
struct Block<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Block<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        let names = usize::from(u16_at(bytes, 8));
        if names < ENTRY || !names.is_multiple_of(ENTRY) || names > bytes.len() {
            return Err(Error::Damaged("folder"));
        }
        Ok(Self {
            bytes,
            count: names / ENTRY,
        })
    }

    fn name(&self, index: usize) -> Result<&'a [u8], Error> {
        let bad = Error::Damaged("folder");
        let start = usize::from(u16_at(self.bytes, index * ENTRY + 8));
        let last = index + 1 == self.count;
        let end = if last {
            self.bytes.len()
        } else {
            usize::from(u16_at(self.bytes, (index + 1) * ENTRY + 8))
        };
        if start < self.count * ENTRY {
            return Err(bad);
        }
        let mut name = self.bytes.get(start..end).ok_or(bad)?;
        if last {
            // The last name of a block that is not full is padded.
            let len = name.iter().position(|&b| b == 0);
            name = len.and_then(|len| name.get(..len)).unwrap_or(name);
        }
        if name.is_empty() || name.len() > MAX_NAME || name.iter().any(|b| matches!(b, 0 | b'/')) {
            return Err(bad);
        }
        Ok(name)
    }

    fn entry(&self, index: usize, next: u64) -> Result<Entry<'a>, Error> {
        let record = self.bytes.get(index * ENTRY..).unwrap_or(&[]);
        Ok(Entry {
            name: self.name(index)?,
            nid: u64_at(record, 0),
            kind: Kind::of_entry_type(byte_at(record, 10)).ok_or(Error::Damaged("folder"))?,
            next,
        })
    }
}

impl<'a> Inode<'a> {
    fn directory_block(&self, index: u64) -> Result<Block<'a>, Error> {
        let bits = self.block_bits();
        let content = self.content(index << bits);
        let len = content.len().min(1 << bits);
        Block::new(content.get(..len).unwrap_or(content))
    }

    fn directory_blocks(&self) -> u64 {
        self.size().div_ceil(1 << self.block_bits())
    }

    /// The entry called `name`, by binary search.
    ///
    /// # Errors
    /// [`Error::NotADirectory`], or [`Error::Damaged`].
    pub fn lookup(&self, name: &[u8]) -> Result<Option<Entry<'a>>, Error> {
        if self.kind() != Kind::Directory {
            return Err(Error::NotADirectory);
        }
        // The last block whose first name is not behind the one that is sought.
        let (mut low, mut high) = (0, self.directory_blocks());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.directory_block(middle)?.name(0)? <= name {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let Some(index) = low.checked_sub(1) else {
            return Ok(None);
        };
        let block = self.directory_block(index)?;
        let (mut low, mut high) = (0, block.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match block.name(middle)?.cmp(name) {
                core::cmp::Ordering::Equal => {
                    let next = self.cookie(index, middle + 1, block.count);
                    return block.entry(middle, next).map(Some);
                }
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// The entries from `cookie` on: 0, or the [`next`](Entry::next) of an entry. `.` and `..` are among them, in their
    /// places by name.
    ///
    /// # Errors
    /// [`Error::NotADirectory`].
    pub fn entries(&self, cookie: u64) -> Result<Entries<'a>, Error> {
        if self.kind() != Kind::Directory {
            return Err(Error::NotADirectory);
        }
        Ok(Entries {
            directory: *self,
            block: None,
            at: cookie,
        })
    }

    /// The cookie of the `entry`-th of `count` entries of a block.
    fn cookie(&self, block: u64, entry: usize, count: usize) -> u64 {
        if entry < count {
            (block << self.block_bits()) + (entry * ENTRY) as u64
        } else {
            (block + 1) << self.block_bits()
        }
    }
}

/// The entries of a folder, see [`Inode::entries`]. Ends behind the first error.
#[derive(Clone)]
pub struct Entries<'a> {
    directory: Inode<'a>,
    /// The block that `at` lies in, if it was looked at already.
    block: Option<(u64, Block<'a>)>,
    /// Offset in bytes in the folder.
    at: u64,
}

impl core::fmt::Debug for Entries<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Entries(from {})", self.at)
    }
}

impl<'a> Entries<'a> {
    fn step(&mut self) -> Result<Option<Entry<'a>>, Error> {
        let bits = self.directory.block_bits();
        while self.at < self.directory.size() {
            let index = self.at >> bits;
            let block = match self.block {
                Some((of, block)) if of == index => block,
                _ => self.directory.directory_block(index)?,
            };
            self.block = Some((index, block));
            // Rounded up: whoever invents a cookie gets whole entries all the same.
            let entry = ((self.at & ((1 << bits) - 1)) as usize).div_ceil(ENTRY);
            if entry < block.count {
                self.at = self.directory.cookie(index, entry + 1, block.count);
                return block.entry(entry, self.at).map(Some);
            }
            self.at = (index + 1) << bits;
        }
        Ok(None)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.at = u64::MAX;
        }
        step.transpose()
    }
}
