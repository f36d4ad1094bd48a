//! The C names that have no body of their own.
//!
//! `memcpy`, `memset`, `memcmp` and `strlen` are the export names of [`copy`](crate::copy),
//! [`fill`](crate::fill), [`compare`](crate::compare) and [`length`](crate::length). The two names
//! here mean the same: `memmove` because [`copy`](crate::copy) allows overlap anyway, `bcmp` because
//! an order is as cheap to find as a difference.

/// C `memmove`: copies `n` bytes between ranges that may overlap.
///
/// # Safety
/// As for [`copy`](crate::copy).
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(dst: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the contract is the same.
    unsafe { crate::copy(dst, src, n) }
}

/// POSIX `bcmp`: zero exactly if the ranges are equal.
///
/// # Safety
/// As for [`compare`](crate::compare).
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: the contract is the same.
    unsafe { crate::compare(a, b, n) }
}
