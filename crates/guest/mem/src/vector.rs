//! Unaligned loads and stores, and what keeps the compiler from spoiling loops and jumps.
//!
//! Everything here is inlined into the routines. None of it knows about sizes or directions.

use core::arch::asm;
use core::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm_storeu_si128, _mm256_loadu_si256, _mm256_storeu_si256,
};

/// The unit in which memory is readable or not, in bytes.
pub const PAGE: usize = 4096;

/// Reads a `T` from any address.
///
/// # Safety
/// `size_of::<T>()` bytes at `at` must be readable and form a valid `T`.
#[inline(always)]
pub unsafe fn read<T: Copy>(at: *const u8) -> T {
    // SAFETY: the caller's contract.
    unsafe { at.cast::<T>().read_unaligned() }
}

/// Writes a `T` to any address.
///
/// # Safety
/// `size_of::<T>()` bytes at `at` must be writable.
#[inline(always)]
pub unsafe fn write<T: Copy>(at: *mut u8, value: T) {
    // SAFETY: the caller's contract.
    unsafe { at.cast::<T>().write_unaligned(value) }
}

/// Loads 16 bytes.
///
/// # Safety
/// 16 bytes at `at` must be readable.
#[inline(always)]
pub unsafe fn load16(at: *const u8) -> __m128i {
    // SAFETY: the caller's contract; SSE2 is part of the baseline.
    unsafe { _mm_loadu_si128(at.cast()) }
}

/// Stores 16 bytes.
///
/// # Safety
/// 16 bytes at `at` must be writable.
#[inline(always)]
pub unsafe fn store16(at: *mut u8, value: __m128i) {
    // SAFETY: the caller's contract; SSE2 is part of the baseline.
    unsafe { _mm_storeu_si128(at.cast(), value) }
}

/// Loads 32 bytes.
///
/// # Safety
/// 32 bytes at `at` must be readable.
#[inline]
#[target_feature(enable = "avx2")]
pub unsafe fn load32(at: *const u8) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe { _mm256_loadu_si256(at.cast()) }
}

/// Stores 32 bytes.
///
/// # Safety
/// 32 bytes at `at` must be writable.
#[inline]
#[target_feature(enable = "avx2")]
pub unsafe fn store32(at: *mut u8, value: __m256i) {
    // SAFETY: the caller's contract.
    unsafe { _mm256_storeu_si256(at.cast(), value) }
}

/// Hides where `index` came from.
///
/// A loop whose index passes through here is no induction the compiler can follow, so it cannot
/// replace the loop by a call of the very routine that contains it. Costs no instruction.
#[inline(always)]
pub fn opaque(mut index: usize) -> usize {
    // SAFETY: the assembly is empty.
    unsafe { asm!("/* {0} */", inout(reg) index, options(nomem, nostack, preserves_flags)) };
    index
}

/// Hides that `dst` is what the caller passed. Where the compiler knows that a routine returns its
/// argument, it keeps the argument across the call instead of leaving with a jump.
#[inline(always)]
pub fn returned(mut dst: *mut u8) -> *mut u8 {
    // SAFETY: the assembly is empty.
    unsafe { asm!("/* {0} */", inout(reg) dst, options(readonly, nostack, preserves_flags)) };
    dst
}

/// Lets the function that contains this start at a cache line, as far as it has a section of its own.
///
/// Where the first few instructions lie in two lines, short ranges take a cycle more. The language has no
/// attribute for it yet; the assembler aligns the section for the sake of this directive, which itself
/// adds no more than one byte.
#[inline(always)]
pub fn at_cache_line() {
    // SAFETY: aligns code.
    unsafe { asm!(".p2align 6, , 1", options(nomem, nostack, preserves_flags)) };
}
