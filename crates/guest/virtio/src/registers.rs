//! A device's registers.
//!
//! With [`memory`](crate::memory) one of the two modules that touch raw memory. Accesses outside of the window are not
//! made: they read as all ones, like a bus without a device, and writes are lost.
#![allow(unsafe_code)]

use core::ptr::NonNull;

/// A window of memory-mapped registers.
#[derive(Debug)]
pub struct Registers {
    base: NonNull<u8>,
    len: usize,
}

impl Registers {
    /// The window of `len` bytes at `base`.
    ///
    /// # Safety
    /// `base` is a multiple of 4. The window is mapped, uncached where the processor would otherwise cache it, for as long
    /// as the value exists, and holds registers of a device, accesses to which have no effect on memory that Rust knows of.
    pub const unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    /// A window without registers.
    pub const fn none() -> Self {
        Self {
            base: NonNull::<u32>::dangling().cast(),
            len: 0,
        }
    }

    /// The window's length in bytes.
    pub const fn size(&self) -> usize {
        self.len
    }

    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let end = offset.checked_add(size_of::<T>())?;
        let fits = end <= self.len && offset & (align_of::<T>() - 1) == 0;
        // SAFETY: `offset` lies inside of the window.
        fits.then(|| unsafe { self.base.as_ptr().add(offset) }.cast())
    }
}

macro_rules! access {
    ($read:ident, $write:ident, $int:ty, $bits:literal) => {
        impl Registers {
            // Not inlined: an access costs far more than the call, and there are many of them.
            #[inline(never)]
            #[doc = concat!("Reads the register of ", $bits, " bits at `offset`.")]
            pub fn $read(&self, offset: usize) -> $int {
                let Some(register) = self.at::<$int>(offset) else {
                    return <$int>::MAX;
                };
                #[cfg(test)]
                if let Some(value) = crate::tests::bus::read(register.addr(), size_of::<$int>()) {
                    return value as $int;
                }
                // SAFETY: `at` checked that the register lies in the window and is aligned; the window is mapped.
                unsafe { register.read_volatile() }
            }

            #[inline(never)]
            #[doc = concat!("Writes the register of ", $bits, " bits at `offset`.")]
            pub fn $write(&self, offset: usize, value: $int) {
                let Some(register) = self.at::<$int>(offset) else {
                    return;
                };
                #[cfg(test)]
                if crate::tests::bus::write(register.addr(), size_of::<$int>(), u64::from(value)) {
                    return;
                }
                // SAFETY: as above.
                unsafe { register.write_volatile(value) }
            }
        }
    };
}

access!(read8, write8, u8, "8");
access!(read16, write16, u16, "16");
access!(read32, write32, u32, "32");

impl Registers {
    /// Writes the register of 64 bits at `offset` by halves, as both buses want it.
    #[inline(never)]
    pub fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset.saturating_add(4), (value >> 32) as u32);
    }

    /// Reads 64 bits through a window of 32 at `offset`, which the register at `select` moves.
    #[inline(never)]
    pub fn read_windowed(&self, select: usize, offset: usize) -> u64 {
        self.write32(select, 0);
        let low = self.read32(offset);
        self.write32(select, 1);
        u64::from(low) | u64::from(self.read32(offset)) << 32
    }

    /// Writes 64 bits through a window of 32 at `offset`, which the register at `select` moves.
    #[inline(never)]
    pub fn write_windowed(&self, select: usize, offset: usize, value: u64) {
        self.write32(select, 0);
        self.write32(offset, value as u32);
        self.write32(select, 1);
        self.write32(offset, (value >> 32) as u32);
    }
}
