//! Addresses of the program, and copying to and from them.
//!
//! A program may hand over any number as an address. Nothing here follows one as a pointer: [`platform`] copies,
//! and answers `EFAULT` for what the program itself could not read or write.

use alloc::vec;
use alloc::vec::Vec;

use crate::platform;
use crate::{Errno, Result};

/// First address that a program may use.
pub const USER_START: u64 = 0x1_0000;
/// Behind the last one. The library OS and the monitor's parts lie above.
pub const USER_END: u64 = 0x7000_0000_0000;
/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// An address in the program's memory, of whatever value the program has chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct UserAddr(pub u64);

/// A plain record of the system-call interface: every bit pattern is valid, and there is no padding that would leak.
///
/// # Safety
/// The type is `repr(C)` or a primitive, has no padding, no pointers and no invalid values.
pub unsafe trait Plain: Copy + Default {}

macro_rules! plain {
    ($($type:ty),*) => { $(
        // SAFETY: integers.
        unsafe impl Plain for $type {}
    )* };
}
plain!(u8, i8, u16, i16, u32, i32, u64, i64, usize);

// SAFETY: an array of such.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] where [T; N]: Default {}

/// The bytes of a record.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: a plain value is initialized bytes throughout.
    unsafe { core::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }
}

/// The bytes of a record, to fill it.
pub fn bytes_of_mut<T: Plain>(value: &mut T) -> &mut [u8] {
    // SAFETY: likewise, and any bytes make a valid value.
    unsafe { core::slice::from_raw_parts_mut((&raw mut *value).cast(), size_of::<T>()) }
}

/// The bytes of records, to fill them.
fn bytes_of_all<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: likewise, one behind the other.
    unsafe { core::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// A record from the start of `bytes`; `None` if they are too few.
pub fn from_bytes<T: Plain>(bytes: &[u8]) -> Option<T> {
    let mut value = T::default();
    let to = bytes_of_mut(&mut value);
    to.copy_from_slice(bytes.get(..to.len())?);
    Some(value)
}

impl UserAddr {
    /// True for the null pointer.
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The address `bytes` further; wraps around, which the next access answers with `EFAULT`.
    #[must_use]
    pub const fn add(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Fills `to` from here.
    ///
    /// # Errors
    /// `EFAULT` if any byte cannot be read; `to` then holds anything.
    pub fn read_bytes(self, to: &mut [u8]) -> Result {
        platform::copy_in(self.0, to)
    }

    /// Writes `from` here.
    ///
    /// # Errors
    /// `EFAULT` if any byte cannot be written; some may have been.
    pub fn write_bytes(self, from: &[u8]) -> Result {
        platform::copy_out(self.0, from)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read<T: Plain>(self) -> Result<T> {
        let mut value = T::default();
        self.read_bytes(bytes_of_mut(&mut value))?;
        Ok(value)
    }

    /// Writes a record.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write<T: Plain>(self, value: T) -> Result {
        self.write_bytes(bytes_of(&value))
    }

    /// Reads a record, or nothing from a null pointer.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_if<T: Plain>(self) -> Result<Option<T>> {
        if self.is_null() {
            return Ok(None);
        }
        self.read().map(Some)
    }

    /// Writes a record, unless this is a null pointer.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write_if<T: Plain>(self, value: T) -> Result {
        if self.is_null() {
            return Ok(());
        }
        self.write(value)
    }

    /// Reads `count` records. The caller has limited the count.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_array<T: Plain>(self, count: usize) -> Result<Vec<T>> {
        let mut all = vec![T::default(); count];
        self.read_all(&mut all)?;
        Ok(all)
    }

    /// Fills `to` with records.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_all<T: Plain>(self, to: &mut [T]) -> Result {
        self.read_bytes(bytes_of_all(to))
    }

    /// Reads bytes up to a NUL, which is left out.
    ///
    /// # Errors
    /// `EFAULT`; `ENAMETOOLONG` if there is none among the first `limit` bytes.
    pub fn read_string(self, limit: usize) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut at = self;
        while text.len() < limit {
            // Not across a page: the next one may not be there.
            let rest = (PAGE - at.0 % PAGE) as usize;
            let mut piece = [0; 256];
            let len = rest.min(piece.len()).min(limit - text.len());
            let piece = &mut piece[..len];
            at.read_bytes(piece)?;
            if let Some(end) = piece.iter().position(|&b| b == 0) {
                text.extend_from_slice(&piece[..end]);
                return Ok(text);
            }
            text.extend_from_slice(piece);
            at = at.add(len as u64);
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// Reads a path.
    ///
    /// # Errors
    /// `EFAULT`, `ENAMETOOLONG`.
    pub fn read_path(self) -> Result<Vec<u8>> {
        self.read_string(4096)
    }

    /// Reads a path, an empty one from a null pointer.
    ///
    /// # Errors
    /// `EFAULT`, `ENAMETOOLONG`.
    pub fn read_if_path(self) -> Result<Vec<u8>> {
        if self.is_null() {
            return Ok(Vec::new());
        }
        self.read_path()
    }
}
