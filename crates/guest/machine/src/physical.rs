//! Reading what firmware and loader left in physical memory.

/// Physical memory as far as it can be read.
pub trait Physical {
    /// The `len` bytes from `address` on; `None` if they are not all there.
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]>;

    /// The integer at `address`.
    fn u32(&self, address: u64) -> Option<u32> {
        u32_at(self.bytes(address, 4)?, 0)
    }

    /// The integer at `address`.
    fn u64(&self, address: u64) -> Option<u64> {
        u64_at(self.bytes(address, 8)?, 0)
    }
}

/// The 16-bit integer at `offset` of `bytes`.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The 32-bit integer at `offset` of `bytes`.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The 64-bit integer at `offset` of `bytes`.
pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The machine's own memory below 4 GiB, which the start maps where it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity(());

impl Identity {
    /// Access to it.
    ///
    /// # Safety
    /// The identity map of the start is in force as long as the value and what is borrowed from it exist, and what is
    /// read is not written meanwhile.
    #[allow(unsafe_code)]
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

impl Physical for Identity {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        let end = address.checked_add(len as u64)?;
        if address == 0 || end > 1 << 32 {
            return None;
        }
        // SAFETY: mapped, by `new`'s promise. Where there is no memory the bus answers something, which is as good as what
        // a hostile loader would write.
        #[allow(unsafe_code)]
        Some(unsafe { core::slice::from_raw_parts(address as *const u8, len) })
    }
}

/// A piece of memory for tests.
#[cfg(test)]
pub mod tests {
    use super::Physical;
    use std::vec::Vec;

    /// Some bytes at an address.
    #[derive(Debug, Default)]
    pub struct Pieces(pub Vec<(u64, Vec<u8>)>);

    impl Physical for Pieces {
        fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
            self.0.iter().find_map(|(start, bytes)| {
                let at = usize::try_from(address.checked_sub(*start)?).ok()?;
                bytes.get(at..at.checked_add(len)?)
            })
        }
    }
}
