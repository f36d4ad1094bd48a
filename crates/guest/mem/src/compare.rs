//! `memcmp`, which also serves as `bcmp`.
//!
//! Short ranges compare as big-endian integers: the bytes' order is then the numbers' order. Longer
//! ones look at whole blocks for equality and return to a block byte by byte only if it differs.

use core::arch::x86_64::{
    __m128i, _mm_and_si128, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm256_and_si256,
    _mm256_cmpeq_epi8, _mm256_movemask_epi8,
};

use crate::cpu::{self, Features};
use crate::vector::{load16, load32, opaque, read};

/// From here on 32-byte vectors are used if the processor is known to have them.
const VECTOR32_MIN: usize = 256;
/// From here on the processor is asked.
const DETECT_MIN: usize = 1024;

/// Compares `n` bytes: negative, zero or positive as the first differing byte of `a` is below that
/// of `b`, there is none, or it is above.
///
/// # Safety
/// `n` bytes must be readable at `a` and `b`.
#[cfg_attr(kiln_guest, unsafe(export_name = "memcmp"))]
pub unsafe extern "C" fn compare(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: each branch reads only offsets below `n`.
    unsafe {
        if n <= 16 {
            return compare_short(a, b, n);
        }
        if n > 64 {
            return compare_long(a, b, n);
        }
        if n > 32 {
            let equal = _mm_and_si128(equal16(a, b, 0), equal16(a, b, 16));
            if differs(equal) {
                return order32(a, b, 0);
            }
            return order32(a, b, n - 32);
        }
        let first = differences(equal16(a, b, 0));
        if first != 0 {
            return order_at(a, b, first);
        }
        let last = differences(equal16(a, b, n - 16));
        if last != 0 { order_at(a.add(n - 16), b.add(n - 16), last) } else { 0 }
    }
}

/// Up to 16 bytes: both ends as integers, overlapping in the middle.
#[inline(always)]
unsafe fn compare_short(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: the caller's contract; each branch reads only offsets below `n`.
    unsafe {
        let (x, y) = if n >= 8 {
            let (x, y) = (read::<u64>(a).swap_bytes(), read::<u64>(b).swap_bytes());
            if x == y {
                (read::<u64>(a.add(n - 8)).swap_bytes(), read::<u64>(b.add(n - 8)).swap_bytes())
            } else {
                (x, y)
            }
        } else if n >= 4 {
            (ends32(a, n), ends32(b, n))
        } else if n >= 2 {
            (ends16(a, n), ends16(b, n))
        } else if n == 1 {
            return i32::from(*a) - i32::from(*b);
        } else {
            return 0;
        };
        i32::from(x > y) - i32::from(x < y)
    }
}

/// The first four bytes above the last four, for 4 to 8 bytes.
#[inline(always)]
unsafe fn ends32(at: *const u8, n: usize) -> u64 {
    // SAFETY: the caller has `4 <= n`.
    let (first, last) = unsafe { (read::<u32>(at), read::<u32>(at.add(n - 4))) };
    u64::from(first.swap_bytes()) << 32 | u64::from(last.swap_bytes())
}

/// The first two bytes above the last two, for 2 to 4 bytes.
#[inline(always)]
unsafe fn ends16(at: *const u8, n: usize) -> u64 {
    // SAFETY: the caller has `2 <= n`.
    let (first, last) = unsafe { (read::<u16>(at), read::<u16>(at.add(n - 2))) };
    u64::from(first.swap_bytes()) << 16 | u64::from(last.swap_bytes())
}

/// Ranges of more than 64 bytes: picks the loop.
#[inline(never)]
unsafe extern "C" fn compare_long(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: `n` is past each loop's minimum.
    unsafe {
        if n >= VECTOR32_MIN {
            let features = if n >= DETECT_MIN { cpu::detected() } else { cpu::known() };
            if features.has(Features::AVX2) {
                return compare32(a, b, n);
            }
        }
        let mut at = 0;
        loop {
            let equal = _mm_and_si128(
                _mm_and_si128(equal16(a, b, at), equal16(a, b, at + 16)),
                _mm_and_si128(equal16(a, b, at + 32), equal16(a, b, at + 48)),
            );
            if differs(equal) {
                return order64(a, b, at);
            }
            if at == n - 64 {
                return 0;
            }
            // The last block overlaps the one before it instead of being a special case.
            at = opaque(at + 64).min(n - 64);
        }
    }
}

/// Steps of 128 bytes; at least 128 bytes.
#[target_feature(enable = "avx2")]
unsafe fn compare32(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: `at + 128` stays at most `n`.
    unsafe {
        let equal32 =
            |at: usize| _mm256_cmpeq_epi8(load32(a.wrapping_add(at)), load32(b.wrapping_add(at)));
        let mut at = 0;
        loop {
            let equal = _mm256_and_si256(
                _mm256_and_si256(equal32(at), equal32(at + 32)),
                _mm256_and_si256(equal32(at + 64), equal32(at + 96)),
            );
            if _mm256_movemask_epi8(equal) != -1 {
                let low = order64(a, b, at);
                return if low != 0 { low } else { order64(a, b, at + 64) };
            }
            if at == n - 128 {
                return 0;
            }
            at = opaque(at + 128).min(n - 128);
        }
    }
}

/// Equality of 16 bytes at offset `at`, as a mask of bytes.
#[inline(always)]
unsafe fn equal16(a: *const u8, b: *const u8, at: usize) -> __m128i {
    // SAFETY: the caller has `at + 16` bytes in both ranges; SSE2 is part of the baseline.
    unsafe { _mm_cmpeq_epi8(load16(a.add(at)), load16(b.add(at))) }
}

/// One bit per byte that is not equal.
#[inline(always)]
fn differences(equal: __m128i) -> u32 {
    // SAFETY: SSE2 is part of the baseline.
    unsafe { _mm_movemask_epi8(equal) as u32 ^ 0xffff }
}

#[inline(always)]
fn differs(equal: __m128i) -> bool {
    differences(equal) != 0
}

/// The order of 32 bytes at offset `at`.
#[inline(always)]
unsafe fn order32(a: *const u8, b: *const u8, at: usize) -> i32 {
    // SAFETY: the caller has `at + 32` bytes in both ranges.
    unsafe {
        let mask =
            differences(equal16(a, b, at)) | differences(equal16(a, b, at + 16)) << 16;
        if mask == 0 { 0 } else { order_at(a.add(at), b.add(at), mask) }
    }
}

/// The order of 64 bytes at offset `at`.
#[inline(never)]
unsafe extern "C" fn order64(a: *const u8, b: *const u8, at: usize) -> i32 {
    // SAFETY: the caller has `at + 64` bytes in both ranges.
    unsafe {
        let low = order32(a, b, at);
        if low != 0 { low } else { order32(a, b, at + 32) }
    }
}

/// The order of the first pair of bytes whose bit is set in `mask`, which is not zero.
#[inline(always)]
unsafe fn order_at(a: *const u8, b: *const u8, mask: u32) -> i32 {
    let at = mask.trailing_zeros() as usize;
    // SAFETY: the mask has bits only for bytes that the caller has read.
    unsafe { i32::from(*a.add(at)) - i32::from(*b.add(at)) }
}
