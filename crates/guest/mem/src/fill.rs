//! `memset`.
//!
//! The same shape as the copy: overlapping stores up to 128 bytes, then an aligned loop between an
//! unaligned first and last block, then `rep stosb`.

use core::arch::asm;
use core::arch::x86_64::{__m128i, _mm_set1_epi8, _mm256_broadcastb_epi8};

use crate::cpu::{self, Features};
use crate::vector::{opaque, store16, store32, write};

/// From here on the 32-byte loop is worth a look at the processor's features.
const VECTOR32_MIN: usize = 512;
/// From here on `rep stosb` is the fastest way to fill.
const STRING_MIN: usize = 4096;

/// Sets `n` bytes at `dst` to the low byte of `value`. Returns `dst`.
///
/// # Safety
/// `n` bytes must be writable at `dst`.
#[cfg_attr(kiln_guest, unsafe(export_name = "memset"))]
pub unsafe extern "C" fn fill(dst: *mut u8, value: i32, n: usize) -> *mut u8 {
    let byte = value as u8;
    // SAFETY: each branch touches only offsets below `n`.
    unsafe {
        if n < 16 {
            let word = u64::from(byte) * 0x0101_0101_0101_0101;
            if n >= 8 {
                write(dst, word);
                write(dst.add(n - 8), word);
            } else if n >= 4 {
                write(dst, word as u32);
                write(dst.add(n - 4), word as u32);
            } else if n >= 2 {
                write(dst, word as u16);
                write(dst.add(n - 2), word as u16);
            } else if n == 1 {
                *dst = byte;
            }
            return dst;
        }
        let vector = _mm_set1_epi8(byte.cast_signed());
        if n > 128 {
            fill_long(dst, vector, n);
            return dst;
        }
        if n > 64 {
            for at in [16, 32, 48] {
                store16(dst.add(at), vector);
                store16(dst.add(n - 16 - at), vector);
            }
        } else if n > 32 {
            store16(dst.add(16), vector);
            store16(dst.add(n - 32), vector);
        }
        store16(dst, vector);
        store16(dst.add(n - 16), vector);
    }
    dst
}

/// Ranges of more than 128 bytes: picks the loop.
#[inline(never)]
unsafe extern "C" fn fill_long(dst: *mut u8, vector: __m128i, n: usize) {
    // SAFETY: `n` is past each loop's minimum.
    unsafe {
        if n < VECTOR32_MIN {
            return fill16(dst, vector, n);
        }
        let features = cpu::detected();
        if n >= STRING_MIN && features.has(Features::FAST_STRINGS) {
            strings(dst, vector, n);
        } else if features.has(Features::AVX2) {
            fill32(dst, vector, n);
        } else {
            fill16(dst, vector, n);
        }
    }
}

/// `rep stosb`.
#[inline(always)]
unsafe fn strings(dst: *mut u8, vector: __m128i, n: usize) {
    // SAFETY: the range is valid; the direction flag is clear by the ABI.
    unsafe {
        asm!("movd eax, {vector}", "rep stosb", vector = in(xmm_reg) vector, out("eax") _,
            inout("rdi") dst => _, inout("rcx") n => _, options(nostack, preserves_flags));
    }
}

/// Steps of 64 bytes; at least 80 bytes.
#[inline(always)]
unsafe fn fill16(dst: *mut u8, vector: __m128i, n: usize) {
    // SAFETY: `at + 64` stays at most `n` inside the loop.
    unsafe {
        store16(dst, vector);
        let mut at = 16 - dst.addr() % 16;
        while at < n - 64 {
            at = opaque(at);
            for i in [0, 16, 32, 48] {
                store16(dst.add(at + i), vector);
            }
            at += 64;
        }
        for i in [64, 48, 32, 16] {
            store16(dst.add(n - i), vector);
        }
    }
}

/// Steps of 128 bytes; at least 160 bytes.
#[target_feature(enable = "avx2")]
unsafe fn fill32(dst: *mut u8, vector: __m128i, n: usize) {
    let vector = _mm256_broadcastb_epi8(vector);
    // SAFETY: `at + 128` stays at most `n` inside the loop.
    unsafe {
        store32(dst, vector);
        let mut at = 32 - dst.addr() % 32;
        while at < n - 128 {
            at = opaque(at);
            for i in [0, 32, 64, 96] {
                store32(dst.add(at + i), vector);
            }
            at += 128;
        }
        for i in [128, 96, 64, 32] {
            store32(dst.add(n - i), vector);
        }
    }
}
