//! `memset`.
//!
//! The same shape as the copy: overlapping stores up to 128 bytes, then an aligned loop between an
//! unaligned first and last block, then `rep stosb`.

use core::arch::asm;
use core::arch::x86_64::{__m128i, __m256i, _mm_set1_epi64x, _mm256_set1_epi64x};

use crate::cpu::{self, Features};
use crate::vector::{at_cache_line, opaque, returned, store16, store32, write};

/// From here on the 32-byte loop is worth asking the processor for.
const DETECT_MIN: usize = 512;
/// From here on `rep stosb` is the fastest way to fill.
const STRING_MIN: usize = 4096;

/// Sets `n` bytes at `dst` to the low byte of `value`. Returns `dst`.
///
/// # Safety
/// `n` bytes must be writable at `dst`.
#[cfg_attr(kiln_guest, unsafe(export_name = "memset"))]
pub unsafe extern "C" fn fill(dst: *mut u8, value: i32, n: usize) -> *mut u8 {
    at_cache_line();
    let word = u64::from(value.to_le_bytes()[0]) * 0x0101_0101_0101_0101;
    // SAFETY: each branch touches only offsets below `n`.
    unsafe {
        if n >= 16 {
            if n >= 64 {
                let features = cpu::known();
                return if features.has(Features::AVX512VL) && opaque(n) <= 256 {
                    fill_middle(dst, word, n);
                    dst
                } else if features.has(Features::AVX2) {
                    fill_long32(dst, word, n)
                } else {
                    fill_long16(dst, word, n)
                };
            }
            // From 32 bytes on the inner two stores lie 16 bytes further in; below they repeat the
            // outer ones, which is cheaper than a branch.
            let inner = (n & 32) / 2;
            let vector = broadcast(word);
            store16(dst, vector);
            store16(dst.add(inner), vector);
            store16(dst.add(n - 16 - inner), vector);
            store16(dst.add(n - 16), vector);
        } else if n >= 4 {
            // The same with words of four bytes.
            let inner = (n & 8) / 2;
            let word = word as u32;
            write(dst, word);
            write(dst.add(inner), word);
            write(dst.add(n - 4 - inner), word);
            write(dst.add(n - 4), word);
        } else if n > 0 {
            *dst = word as u8;
            *dst.add(n / 2) = word as u8;
            *dst.add(n - 1) = word as u8;
        }
    }
    dst
}

/// The word twice.
#[inline(always)]
fn broadcast(word: u64) -> __m128i {
    // SAFETY: SSE2 is part of the baseline.
    unsafe { _mm_set1_epi64x(word.cast_signed()) }
}

/// 64 to 256 bytes with AVX-512VL, in assembly for the reason given at `copy_middle`.
#[inline(always)]
unsafe fn fill_middle(dst: *mut u8, word: u64, n: usize) {
    // SAFETY: the caller has the feature; all stores lie within `n` bytes.
    unsafe {
        asm!("vpbroadcastq ymm16, {word}",
            "vmovdqu64 [{dst}], ymm16", "vmovdqu64 [{dst} + 32], ymm16",
            "vmovdqu64 [{dst} + {n} - 64], ymm16", "vmovdqu64 [{dst} + {n} - 32], ymm16",
            "cmp {n}, 128", "jbe 2f",
            "vmovdqu64 [{dst} + 64], ymm16", "vmovdqu64 [{dst} + 96], ymm16",
            "vmovdqu64 [{dst} + {n} - 128], ymm16", "vmovdqu64 [{dst} + {n} - 96], ymm16",
            "2:", word = in(reg) word, dst = in(reg) dst, n = in(reg) n, out("xmm16") _,
            options(nostack));
    }
}

/// 64 bytes or more while no more than the baseline is known of the processor.
#[inline(never)]
unsafe extern "C" fn fill_long16(dst: *mut u8, word: u64, n: usize) -> *mut u8 {
    // SAFETY: `n` is past each loop's minimum.
    unsafe {
        if n >= DETECT_MIN && cpu::detected().has(Features::AVX2) {
            return fill_long32(dst, word, n);
        }
        if n >= STRING_MIN && cpu::known().has(Features::FAST_STRINGS) {
            strings(dst, word, n);
        } else {
            fill16(dst, broadcast(word), n);
        }
    }
    returned(dst)
}

/// 64 bytes or more with 32-byte vectors.
#[inline(never)]
#[target_feature(enable = "avx2")]
unsafe extern "C" fn fill_long32(dst: *mut u8, word: u64, n: usize) -> *mut u8 {
    // SAFETY: `n` is past each loop's minimum.
    unsafe {
        if n >= STRING_MIN && cpu::known().has(Features::FAST_STRINGS) {
            strings(dst, word, n);
            return returned(dst);
        }
        let vector = _mm256_set1_epi64x(word.cast_signed());
        store32(dst, vector);
        store32(dst.add(32), vector);
        if n > 128 {
            store32(dst.add(64), vector);
            store32(dst.add(96), vector);
            if n > 256 {
                fill32(dst, vector, n);
            }
            store32(dst.add(n - 128), vector);
            store32(dst.add(n - 96), vector);
        }
        store32(dst.add(n - 64), vector);
        store32(dst.add(n - 32), vector);
    }
    returned(dst)
}

/// `rep stosb`.
#[inline(always)]
unsafe fn strings(dst: *mut u8, word: u64, n: usize) {
    // SAFETY: the range is valid; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep stosb", in("rax") word, inout("rdi") dst => _, inout("rcx") n => _,
            options(nostack, preserves_flags));
    }
}

/// Steps of 64 bytes between the first and the last 64; at least 64 bytes.
#[inline(always)]
unsafe fn fill16(dst: *mut u8, vector: __m128i, n: usize) {
    // SAFETY: `at + 64` stays below `n` inside the loop.
    unsafe {
        for i in [0, 16, 32, 48] {
            store16(dst.add(i), vector);
            store16(dst.add(n - 16 - i), vector);
        }
        let mut at = 64 - dst.addr() % 16;
        while at < n - 64 {
            at = opaque(at);
            for i in [0, 16, 32, 48] {
                store16(dst.add(at + i), vector);
            }
            at += 64;
        }
    }
}

/// Steps of 128 bytes between the first and the last 128, which the caller sets; at least 256.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn fill32(dst: *mut u8, vector: __m256i, n: usize) {
    // SAFETY: `at + 128` stays below `n` inside the loop.
    unsafe {
        let mut at = 128 - dst.addr() % 32;
        while at < n - 128 {
            at = opaque(at);
            for i in [0, 32, 64, 96] {
                store32(dst.add(at + i), vector);
            }
            at += 128;
        }
    }
}
