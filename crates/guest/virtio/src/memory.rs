//! Memory that a device reads and writes.
//!
//! A [`Region`] is handed in by the machine and belongs to one driver. It knows its bytes by two addresses: the guest's,
//! through which the driver reaches them, and the physical one, which the device is told. Accesses outside of it are not
//! made: they read as 0, and writes are lost; no driver makes any, but what a driver computes from a device's answers need
//! not be proven to be inside.
#![allow(unsafe_code)]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use kiln_abi::op::Segment;

/// What the drivers ask of the machine below them.
///
/// # Safety
/// Devices write to the addresses that [`translate`](Self::translate) gives: they must be those of the bytes asked for.
pub unsafe trait Platform {
    /// The physical address of a byte of the guest, and how many bytes from there on are contiguous in physical memory
    /// too (at least 1). `None` if the address belongs to no memory.
    fn translate(&self, address: u64) -> Option<(u64, u64)>;

    /// Waits for an interrupt. It may return without one at any time: callers look and call again. An interrupt that
    /// came after interrupts were asked for and before this call ends the wait at once.
    fn wait(&mut self);
}

/// What both addresses of a region are multiples of.
pub const ALIGNMENT: usize = 16;

/// Memory shared with a device.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    phys: u64,
    len: usize,
}

impl Region {
    /// The region of `len` bytes at `start`, whose physical address is `phys`.
    ///
    /// Both addresses should be multiples of 4096: buffers that do not cross pages are cheaper for some devices.
    ///
    /// # Safety
    /// Both addresses are multiples of [`ALIGNMENT`]. The memory is mapped readable and writable, contiguous in physical memory, initialised, and nobody else uses it as
    /// long as the value or a device that was told of it exists.
    pub const unsafe fn new(start: NonNull<u8>, phys: u64, len: usize) -> Self {
        Self { start, phys, len }
    }

    /// The physical address of the first byte.
    pub const fn phys(&self) -> u64 {
        self.phys
    }

    /// The length in bytes.
    pub const fn size(&self) -> usize {
        self.len
    }

    /// Splits the region; `None` if it has fewer than `len` bytes, or `len` is not a multiple of [`ALIGNMENT`].
    pub fn split(self, len: usize) -> Option<(Self, Self)> {
        let rest = self.len.checked_sub(len)?;
        if len & (ALIGNMENT - 1) != 0 {
            return None;
        }
        // SAFETY: `len` lies inside of the region, or at its end.
        let behind = unsafe { self.start.add(len) };
        let second = Self {
            start: behind,
            phys: self.phys.wrapping_add(len as u64),
            len: rest,
        };
        Some((Self { len, ..self }, second))
    }

    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let aligned = offset & (align_of::<T>() - 1) == 0;
        let field = self.range(offset, size_of::<T>())?;
        aligned.then_some(field.cast())
    }

    fn range(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        // SAFETY: `offset` lies inside of the region, or at its end.
        (end <= self.len).then(|| unsafe { self.start.as_ptr().add(offset) })
    }

    /// Copies `bytes` to `offset`, all or nothing.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        if let Some(to) = self.range(offset, bytes.len()) {
            // SAFETY: the range lies in the region; `bytes` is Rust's memory and so cannot overlap it.
            unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
        }
    }

    /// Copies from `offset` to `bytes`, all or nothing.
    pub(crate) fn read(&self, offset: usize, bytes: &mut [u8]) {
        if let Some(from) = self.range(offset, bytes.len()) {
            // SAFETY: as in `write`.
            unsafe { core::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) }
        }
    }

    /// Copies up to `len` bytes from where the cursor stands to `offset`. Returns how many there were.
    pub(crate) fn gather(&self, offset: usize, len: usize, from: &mut Cursor<'_>) -> usize {
        let mut done = 0;
        while let Some((address, piece)) = from.next(len - done) {
            let Some(to) = self.range(offset + done, piece) else {
                break;
            };
            // SAFETY: `Buffers` vouches for the source, `range` for the destination, which nobody else uses.
            unsafe { core::ptr::copy_nonoverlapping(address as *const u8, to, piece) }
            done += piece;
        }
        done
    }

    /// Copies up to `len` bytes from `offset` to where the cursor stands. Returns how many there was room for.
    pub(crate) fn scatter(&self, offset: usize, len: usize, to: &mut Cursor<'_>) -> usize {
        let mut done = 0;
        while let Some((address, piece)) = to.next(len - done) {
            let Some(from) = self.range(offset + done, piece) else {
                break;
            };
            // SAFETY: as in `gather`, the other way round.
            unsafe { core::ptr::copy_nonoverlapping(from, address as *mut u8, piece) }
            done += piece;
        }
        done
    }
}

macro_rules! fields {
    ($load:ident, $store:ident, $int:ty, $atomic:ty) => {
        impl Region {
            /// The integer at `offset`.
            #[allow(dead_code, reason = "not every width is read")]
            pub(crate) fn $load(&self, offset: usize) -> $int {
                self.at::<$int>(offset).map_or(0, |field| {
                    // SAFETY: the field lies in the region and is aligned; device and driver access it only as a whole.
                    unsafe { <$atomic>::from_ptr(field) }.load(Ordering::Relaxed)
                })
            }

            /// Sets the integer at `offset`.
            pub(crate) fn $store(&self, offset: usize, value: $int) {
                if let Some(field) = self.at::<$int>(offset) {
                    // SAFETY: as above.
                    unsafe { <$atomic>::from_ptr(field) }.store(value, Ordering::Relaxed);
                }
            }
        }
    };
}

fields!(load16, store16, u16, AtomicU16);
fields!(load32, store32, u32, AtomicU32);
fields!(load64, store64, u64, AtomicU64);

/// Buffers of the guest that an operation reads or writes.
#[derive(Clone, Copy, Debug)]
pub struct Buffers<'a> {
    segments: &'a [Segment],
}

impl<'a> Buffers<'a> {
    /// The buffers named by `segments`.
    ///
    /// # Safety
    /// As long as the value exists, all segments are mapped memory, readable, and writable too for an operation that
    /// receives or reads; nobody else accesses them, and no [`Region`] overlaps them.
    pub const unsafe fn new(segments: &'a [Segment]) -> Self {
        Self { segments }
    }

    /// The bytes of all together.
    pub fn total(&self) -> u64 {
        self.segments
            .iter()
            .fold(0, |sum: u64, segment| sum.saturating_add(segment.len))
    }

    /// A position at their start.
    pub(crate) fn cursor(&self) -> Cursor<'a> {
        Cursor {
            segments: self.segments.iter(),
            current: Segment { addr: 0, len: 0 },
        }
    }
}

/// A position in [`Buffers`].
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    segments: core::slice::Iter<'a, Segment>,
    current: Segment,
}

impl Cursor<'_> {
    /// Address and length of the next bytes that lie together, at least 1; `None` at the end of the list.
    pub(crate) fn peek(&mut self) -> Option<(u64, u64)> {
        while self.current.len == 0 {
            self.current = *self.segments.next()?;
        }
        Some((self.current.addr, self.current.len))
    }

    /// Takes up to `most` of the bytes that [`peek`](Self::peek) names; `None` at the end of the list, or if `most` is 0.
    pub(crate) fn next(&mut self, most: usize) -> Option<(u64, usize)> {
        let (address, len) = self.peek()?;
        let piece = len.min(most as u64);
        self.current.addr = address.wrapping_add(piece);
        self.current.len -= piece;
        (piece != 0).then_some((address, piece as usize))
    }

    /// Takes `len` bytes, if there are so many.
    pub(crate) fn skip(&mut self, len: usize) {
        let mut left = len;
        while let Some((_, piece)) = self.next(left) {
            left -= piece;
        }
    }
}
