//! `memcmp`, which also serves as `bcmp`.
//!
//! Most calls compare a few bytes, and never the same number of them twice in a row, so up to 32
//! bytes nothing branches on the size: 32 bytes are read, and differences behind the range do not
//! count. Only next to the end of a page, where that could fault, short ranges compare as big-endian
//! integers instead: the bytes' order is then the numbers' order. Longer ranges look at whole blocks
//! for equality and return to a block byte by byte only if it differs.

use core::arch::asm;
use core::arch::x86_64::{
    __m128i, _mm_and_si128, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm256_and_si256, _mm256_cmpeq_epi8,
    _mm256_movemask_epi8,
};

use crate::cpu::{self, Features};
use crate::vector::{PAGE, at_cache_line, load16, load32, opaque, read};

/// From here on the 32-byte loop is worth asking the processor for.
const DETECT_MIN: usize = 512;

/// Compares `n` bytes: negative, zero or positive as the first differing byte of `a` is below that
/// of `b`, there is none, or it is above.
///
/// # Safety
/// `n` bytes must be readable at `a` and `b`.
#[cfg_attr(kiln_guest, unsafe(export_name = "memcmp"))]
pub unsafe extern "C" fn compare(a: *const u8, b: *const u8, n: usize) -> i32 {
    at_cache_line();
    // One branch sends both zero and more than 32 away, another ranges next to the end of a page.
    let (a_end, b_end) = (a.addr().wrapping_add(31), b.addr().wrapping_add(31));
    let crossing = (a_end ^ a.addr() | b_end ^ b.addr()) & PAGE;
    // SAFETY: the caller's contract; the 32 bytes lie on pages that the ranges touch.
    unsafe {
        if n.wrapping_sub(1) >= 32 {
            return compare_more(a, b, n);
        }
        if crossing != 0 {
            return compare_at_page_end(a, b, n);
        }
        // The number has 64 bits and so a one behind the 32 that count: no case for equality.
        let at = (!u64::from(equal32_beyond(a, b))).trailing_zeros() as usize;
        if at < n { difference(a, b, at) } else { 0 }
    }
}

/// The difference of the bytes at offset `at`.
#[inline(always)]
unsafe fn difference(a: *const u8, b: *const u8, at: usize) -> i32 {
    // SAFETY: the caller has more than `at` bytes in both ranges.
    unsafe { i32::from(*a.add(at)) - i32::from(*b.add(at)) }
}

/// No bytes, or more than 32.
#[inline(never)]
unsafe extern "C" fn compare_more(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: the caller's contract; each branch reads only offsets below `n`.
    unsafe {
        if n > 64 {
            return if cpu::known().has(Features::AVX2) {
                compare_long32(a, b, n)
            } else {
                compare_long16(a, b, n)
            };
        }
        if n == 0 {
            return 0;
        }
        let equal = _mm_and_si128(
            _mm_and_si128(equal16(a, b, 0), equal16(a, b, 16)),
            _mm_and_si128(equal16(a, b, n - 32), equal16(a, b, n - 16)),
        );
        if differs(equal) {
            order_ends(a, b, n, 32)
        } else {
            0
        }
    }
}

/// 1 to 32 bytes, without a look at what follows them.
#[cold]
#[inline(never)]
unsafe extern "C" fn compare_at_page_end(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: the caller's contract; each branch reads only offsets below `n`.
    unsafe {
        if n > 16 {
            order_ends(a, b, n, 16)
        } else {
            compare_short(a, b, n)
        }
    }
}

/// One bit per equal byte among the 32 at `a` and `b`, which need not all belong to the ranges.
///
/// Assembly, because the language does not allow its own loads to leave an object.
///
/// # Safety
/// The 32 bytes must lie on readable pages.
#[inline(always)]
unsafe fn equal32_beyond(a: *const u8, b: *const u8) -> u32 {
    let (first, second): (u32, u32);
    // SAFETY: the caller's contract; SSE2 is part of the baseline.
    unsafe {
        asm!("movdqu {x}, [{a}]", "movdqu {y}, [{b}]",
            "pcmpeqb {x}, {y}", "pmovmskb {first:e}, {x}",
            "movdqu {x}, [{a} + 16]", "movdqu {y}, [{b} + 16]",
            "pcmpeqb {x}, {y}", "pmovmskb {second:e}, {x}",
            a = in(reg) a, b = in(reg) b, x = out(xmm_reg) _, y = out(xmm_reg) _,
            first = out(reg) first, second = lateout(reg) second,
            options(pure, readonly, nostack, preserves_flags));
    }
    first | second << 16
}

/// 1 to 16 bytes: both ends as integers, overlapping in the middle.
#[inline(always)]
unsafe fn compare_short(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: the caller's contract; each branch reads only offsets below `n`.
    unsafe {
        let (x, y) = if n >= 8 {
            let (x, y) = (read::<u64>(a).swap_bytes(), read::<u64>(b).swap_bytes());
            if x == y {
                (
                    read::<u64>(a.add(n - 8)).swap_bytes(),
                    read::<u64>(b.add(n - 8)).swap_bytes(),
                )
            } else {
                (x, y)
            }
        } else if n >= 4 {
            (ends32(a, n), ends32(b, n))
        } else if n >= 2 {
            (ends16(a, n), ends16(b, n))
        } else {
            return difference(a, b, 0);
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
    u64::from((u32::from(first) | u32::from(last) << 16).swap_bytes())
}

/// Ranges of more than 64 bytes while no more than the baseline is known of the processor.
#[inline(never)]
unsafe extern "C" fn compare_long16(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: `at + 64` stays at most `n`.
    unsafe {
        if n >= DETECT_MIN && cpu::detected().has(Features::AVX2) {
            return compare_long32(a, b, n);
        }
        let mut at = 0;
        loop {
            let equal = _mm_and_si128(
                _mm_and_si128(equal16(a, b, at), equal16(a, b, at + 16)),
                _mm_and_si128(equal16(a, b, at + 32), equal16(a, b, at + 48)),
            );
            if differs(equal) {
                return order_ends(a.add(at), b.add(at), 64, 32);
            }
            if at == n - 64 {
                return 0;
            }
            // The last block overlaps the one before it instead of being a special case.
            at = opaque(at + 64).min(n - 64);
        }
    }
}

/// Ranges of more than 64 bytes with 32-byte vectors.
#[inline(never)]
#[target_feature(enable = "avx2")]
unsafe extern "C" fn compare_long32(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: every pair of offsets below `n - 32` is followed by 32 bytes in both ranges.
    unsafe {
        let equal32 = |at: usize| {
            let (a, b) = (a.wrapping_add(at), b.wrapping_add(at));
            _mm256_cmpeq_epi8(load32(a), load32(b))
        };
        let all = |at: [usize; 4]| {
            let [p, q, r, s] = at.map(equal32);
            let both = _mm256_and_si256(_mm256_and_si256(p, q), _mm256_and_si256(r, s));
            _mm256_movemask_epi8(both) == -1
        };
        if n <= 128 {
            if all([0, 32, n - 64, n - 32]) {
                return 0;
            }
            return order_ends(a, b, n, 64);
        }
        let block = |at: usize| all([at, at + 32, at + 64, at + 96]);
        let last = n - 128;
        let different = 'search: {
            let mut at = 0;
            if n > 256 {
                // Aligning one side halves the loads that cross cache lines.
                at = a.addr().wrapping_neg() % 32;
                if at != 0 && _mm256_movemask_epi8(equal32(0)) != -1 {
                    break 'search 0;
                }
            }
            while at < last {
                if !block(at) {
                    break 'search at;
                }
                at = opaque(at + 128);
            }
            if block(last) {
                return 0;
            }
            last
        };
        order_ends(a.add(different), b.add(different), 128, 64)
    }
}

/// Equality of 16 bytes at offset `at`, as a mask of bytes.
#[inline(always)]
unsafe fn equal16(a: *const u8, b: *const u8, at: usize) -> __m128i {
    // SAFETY: the caller has `at + 16` bytes in both ranges; SSE2 is part of the baseline.
    unsafe { _mm_cmpeq_epi8(load16(a.add(at)), load16(b.add(at))) }
}

/// One bit per equal byte.
#[inline(always)]
fn equalities(equal: __m128i) -> u32 {
    // SAFETY: SSE2 is part of the baseline.
    unsafe { _mm_movemask_epi8(equal).cast_unsigned() }
}

#[inline(always)]
fn differs(equal: __m128i) -> bool {
    equalities(equal) != 0xffff
}

/// The order of `n` bytes that the first and the last `part` of them cover, for when they are not
/// expected to be equal. `part` is a multiple of 16.
#[cold]
#[inline(never)]
unsafe extern "C" fn order_ends(a: *const u8, b: *const u8, n: usize, part: usize) -> i32 {
    for start in [0, n - part] {
        let mut at = start;
        while at < start + part {
            // SAFETY: the caller has `n` bytes in both ranges, and `at + 16` stays at most `n`.
            unsafe {
                let equal = equalities(equal16(a, b, at));
                if equal != 0xffff {
                    at += (!equal).trailing_zeros() as usize;
                    return difference(a, b, at);
                }
            }
            at = opaque(at + 16);
        }
    }
    0
}
