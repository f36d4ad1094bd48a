//! Extended attributes.
//!
//! They stand behind their inode: a header of 12 bytes whose fifth byte counts the numbers of shared attributes that
//! follow, then attributes of the inode's own. An attribute is an entry of 4 bytes, the name without its prefix, and the
//! value, together padded to 4 bytes; shared ones stand in an area of their own and are numbered by their offset in words.

use alloc::vec::Vec;

use super::{Error, Image, byte_at, u16_at, u32_at};

const HEADER: u64 = 12;
const ENTRY: u64 = 4;

/// An extended attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// What stands before the name, as in `user.`.
    pub prefix: &'static [u8],
    /// The rest of the name.
    pub suffix: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The whole name.
    pub fn name(&self) -> Vec<u8> {
        [self.prefix, self.suffix].concat()
    }

    /// True if that is its name.
    pub fn is(&self, name: &[u8]) -> bool {
        name.strip_prefix(self.prefix) == Some(self.suffix)
    }

    /// The attribute at `offset`, and the bytes it takes.
    fn read(image: Image<'a>, offset: u64) -> Option<(Self, u64)> {
        let entry = image.slice(offset, ENTRY)?;
        let name_len = u64::from(byte_at(entry, 0));
        let value_len = u64::from(u16_at(entry, 2));
        let name_at = offset + ENTRY;
        let attribute = Self {
            prefix: prefix(byte_at(entry, 1))?,
            suffix: image.slice(name_at, name_len)?,
            value: image.slice(name_at + name_len, value_len)?,
        };
        Some((
            attribute,
            (ENTRY + name_len + value_len).next_multiple_of(ENTRY),
        ))
    }
}

/// The prefix with a number of `erofs_fs.h`.
fn prefix(number: u8) -> Option<&'static [u8]> {
    Some(match number {
        0 => b"",
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        5 => b"lustre.",
        6 => b"security.",
        _ => return None,
    })
}

/// The extended attributes of an inode. Ends behind the first error.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    image: Image<'a>,
    /// Numbers of shared ones that are still to come.
    shared: &'a [u8],
    /// Where the next of its own stands, and where they end.
    at: u64,
    end: u64,
}

impl<'a> Attributes<'a> {
    pub(super) fn read(image: Image<'a>, start: u64, len: u64) -> Result<Self, Error> {
        let bad = Error::Damaged("extended attributes");
        let mut attributes = Self {
            image,
            shared: &[],
            at: start,
            end: start,
        };
        if len > 0 {
            let header = image.slice(start, HEADER).ok_or(bad)?;
            let shared = u64::from(byte_at(header, 4)) * 4;
            if HEADER + shared > len {
                return Err(bad);
            }
            attributes.shared = image.slice(start + HEADER, shared).ok_or(bad)?;
            attributes.at = start + HEADER + shared;
            attributes.end = start + len;
        }
        Ok(attributes)
    }

    /// The value of attribute `name`.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn value(self, name: &[u8]) -> Result<Option<&'a [u8]>, Error> {
        for attribute in self {
            let attribute = attribute?;
            if attribute.is(name) {
                return Ok(Some(attribute.value));
            }
        }
        Ok(None)
    }

    fn step(&mut self) -> Result<Option<Attribute<'a>>, Error> {
        let bad = Error::Damaged("extended attributes");
        if let Some((number, rest)) = self.shared.split_at_checked(4) {
            self.shared = rest;
            let offset = u64::from(u32_at(number, 0)) * 4;
            let offset = self.image.attributes.checked_add(offset).ok_or(bad)?;
            let (attribute, _) = Attribute::read(self.image, offset).ok_or(bad)?;
            return Ok(Some(attribute));
        }
        if self.at + ENTRY > self.end {
            return Ok(None);
        }
        let (attribute, len) = Attribute::read(self.image, self.at).ok_or(bad)?;
        if len > self.end - self.at {
            return Err(bad);
        }
        self.at += len;
        Ok(Some(attribute))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.shared = &[];
            self.at = self.end;
        }
        step.transpose()
    }
}
