//! Where the machine part finds physical addresses: memory behind the image, page tables, registers of devices.
//!
//! Where there is no program that is where they are. A program may map whatever it likes below the end of the user range, so
//! with one they are found at the upper end of ring 3's addresses, in sixteen regions of 512 GiB each. The machine part
//! itself stays where it is linked to, below the second MiB: that is not the program's ([`pager::TAKEN`](crate::pager::TAKEN)).

/// The first of the highest level's entries that lead to physical addresses.
pub const FIRST_REGION: u64 = 240;

/// Where a physical address is found.
#[cfg(feature = "program")]
pub const fn at(physical: u64) -> u64 {
    (FIRST_REGION + (physical >> 39 & 15)) << 39 | physical & ((1 << 39) - 1)
}

/// Where a physical address is found.
#[cfg(not(feature = "program"))]
pub const fn at(physical: u64) -> u64 {
    physical
}
