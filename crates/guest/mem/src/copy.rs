//! `memcpy` and `memmove`, which are one routine here.
//!
//! Up to 128 bytes (256 with wide vectors) everything is loaded before anything is stored, so overlap needs no thought.
//! Beyond that a loop runs away from the overlap. What the loop cannot cover without reading its
//! own output, the unaligned first vector and the last block (or, running backward, the reverse),
//! is loaded before it starts and stored after it ends.

use core::arch::asm;

use crate::cpu::{self, Features};
use crate::vector::{
    at_cache_line, load16, load32, opaque, read, returned, store16, store32, write,
};

/// From here on the 32-byte loops are worth asking the processor for.
const DETECT_MIN: usize = 512;
/// From here on `rep movsb` is the fastest way to copy ranges that do not overlap.
const STRING_MIN: usize = 4096;

/// Copies `n` bytes from `src` to `dst`; the ranges may overlap. Returns `dst`.
///
/// # Safety
/// `n` bytes must be readable at `src` and writable at `dst`.
#[cfg_attr(kiln_guest, unsafe(export_name = "memcpy"))]
pub unsafe extern "C" fn copy(dst: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    at_cache_line();
    // SAFETY: each branch touches only offsets below `n`, and loads all it needs before storing.
    unsafe {
        if n <= 16 {
            if n >= 8 {
                copy_ends::<u64>(dst, src, n);
            } else if n >= 4 {
                copy_ends::<u32>(dst, src, n);
            } else if n >= 2 {
                copy_ends::<u16>(dst, src, n);
            } else if n == 1 {
                *dst = *src;
            }
            return dst;
        }
        if n <= 32 {
            let (first, last) = (load16(src), load16(src.add(n - 16)));
            store16(dst, first);
            store16(dst.add(n - 16), last);
            return dst;
        }
        if n <= 64 {
            let (a, b) = (load16(src), load16(src.add(16)));
            let (c, d) = (load16(src.add(n - 32)), load16(src.add(n - 16)));
            store16(dst, a);
            store16(dst.add(16), b);
            store16(dst.add(n - 32), c);
            store16(dst.add(n - 16), d);
            return dst;
        }
        let features = cpu::known();
        if features.has(Features::AVX512VL) && opaque(n) <= 256 {
            copy_middle(dst, src, n);
            dst
        } else if features.has(Features::AVX2) {
            copy_long32(dst, src, n)
        } else {
            copy_long16(dst, src, n)
        }
    }
}

/// Copies the first and the last `T` of the range, which together cover it.
#[inline(always)]
unsafe fn copy_ends<T: Copy>(dst: *mut u8, src: *const u8, n: usize) {
    let last = n - size_of::<T>();
    // SAFETY: the caller has `size_of::<T>() <= n`.
    unsafe {
        let (head, tail) = (read::<T>(src), read::<T>(src.add(last)));
        write(dst, head);
        write(dst.add(last), tail);
    }
}

/// 64 to 256 bytes with AVX-512VL.
///
/// Assembly, because it has to be the upper registers: writing to them never slows down code that
/// uses the lower ones in their SSE form, so nothing has to be cleaned up.
#[inline(always)]
unsafe fn copy_middle(dst: *mut u8, src: *const u8, n: usize) {
    // SAFETY: the caller has the feature; each half of the loads and stores lies within `n` bytes.
    unsafe {
        if n <= 128 {
            asm!("vmovdqu64 ymm16, [{src}]", "vmovdqu64 ymm17, [{src} + 32]",
                "vmovdqu64 ymm18, [{src} + {n} - 64]", "vmovdqu64 ymm19, [{src} + {n} - 32]",
                "vmovdqu64 [{dst}], ymm16", "vmovdqu64 [{dst} + 32], ymm17",
                "vmovdqu64 [{dst} + {n} - 64], ymm18", "vmovdqu64 [{dst} + {n} - 32], ymm19",
                src = in(reg) src, dst = in(reg) dst, n = in(reg) n,
                out("xmm16") _, out("xmm17") _, out("xmm18") _, out("xmm19") _,
                options(nostack, preserves_flags));
        } else {
            asm!("vmovdqu64 ymm16, [{src}]", "vmovdqu64 ymm17, [{src} + 32]",
                "vmovdqu64 ymm18, [{src} + 64]", "vmovdqu64 ymm19, [{src} + 96]",
                "vmovdqu64 ymm20, [{src} + {n} - 128]", "vmovdqu64 ymm21, [{src} + {n} - 96]",
                "vmovdqu64 ymm22, [{src} + {n} - 64]", "vmovdqu64 ymm23, [{src} + {n} - 32]",
                "vmovdqu64 [{dst}], ymm16", "vmovdqu64 [{dst} + 32], ymm17",
                "vmovdqu64 [{dst} + 64], ymm18", "vmovdqu64 [{dst} + 96], ymm19",
                "vmovdqu64 [{dst} + {n} - 128], ymm20", "vmovdqu64 [{dst} + {n} - 96], ymm21",
                "vmovdqu64 [{dst} + {n} - 64], ymm22", "vmovdqu64 [{dst} + {n} - 32], ymm23",
                src = in(reg) src, dst = in(reg) dst, n = in(reg) n,
                out("xmm16") _, out("xmm17") _, out("xmm18") _, out("xmm19") _,
                out("xmm20") _, out("xmm21") _, out("xmm22") _, out("xmm23") _,
                options(nostack, preserves_flags));
        }
    }
}

/// Ranges of more than 64 bytes while no more than the baseline is known of the processor.
#[inline(never)]
unsafe extern "C" fn copy_long16(dst: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    // SAFETY: `n` is past each loop's minimum, and the forward loop never runs with `dst` inside
    // the source range behind `src`.
    unsafe {
        if n <= 128 {
            let front = [0, 16, 32, 48].map(|at| load16(src.add(at)));
            let back = [64, 48, 32, 16].map(|at| load16(src.add(n - at)));
            for (i, vector) in front.into_iter().enumerate() {
                store16(dst.add(16 * i), vector);
            }
            for (i, vector) in back.into_iter().enumerate() {
                store16(dst.add(n - 64 + 16 * i), vector);
            }
            return returned(dst);
        }
        if n >= DETECT_MIN && cpu::detected().has(Features::AVX2) {
            return copy_long32(dst, src, n);
        }
        if dst.addr().wrapping_sub(src.addr()) < n {
            backward16(dst, src, n);
        } else if n >= STRING_MIN && strings_suit(dst, src, n) {
            strings(dst, src, n);
        } else {
            forward16(dst, src, n);
        }
    }
    returned(dst)
}

/// Ranges of more than 64 bytes with 32-byte vectors.
#[inline(never)]
#[target_feature(enable = "avx2")]
unsafe extern "C" fn copy_long32(dst: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    // SAFETY: as in `copy_long16`.
    unsafe {
        if n <= 128 {
            let front = [0, 32].map(|at| load32(src.add(at)));
            let back = [64, 32].map(|at| load32(src.add(n - at)));
            store32(dst, front[0]);
            store32(dst.add(32), front[1]);
            store32(dst.add(n - 64), back[0]);
            store32(dst.add(n - 32), back[1]);
            return returned(dst);
        }
        if n <= 256 {
            let front = [0, 32, 64, 96].map(|at| load32(src.add(at)));
            let back = [128, 96, 64, 32].map(|at| load32(src.add(n - at)));
            for (i, vector) in front.into_iter().enumerate() {
                store32(dst.add(32 * i), vector);
            }
            for (i, vector) in back.into_iter().enumerate() {
                store32(dst.add(n - 128 + 32 * i), vector);
            }
            return returned(dst);
        }
        if dst.addr().wrapping_sub(src.addr()) < n {
            backward32(dst, src, n);
        } else if n >= STRING_MIN && strings_suit(dst, src, n) {
            strings(dst, src, n);
        } else {
            forward32(dst, src, n);
        }
    }
    returned(dst)
}

/// Whether `rep movsb` is fast here: never when the ranges overlap.
#[inline(always)]
fn strings_suit(dst: *mut u8, src: *const u8, n: usize) -> bool {
    cpu::known().has(Features::FAST_STRINGS) && src.addr().wrapping_sub(dst.addr()) >= n
}

/// `rep movsb`: microcode moves whole cache lines once the destination is aligned.
#[inline(always)]
unsafe fn strings(dst: *mut u8, src: *const u8, n: usize) {
    // SAFETY: the ranges are valid and disjoint; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rdi") dst => _, inout("rsi") src => _, inout("rcx") n => _,
            options(nostack, preserves_flags));
    }
}

/// Upward in steps of 64 bytes; at least 80 bytes.
#[inline(always)]
unsafe fn forward16(dst: *mut u8, src: *const u8, n: usize) {
    // SAFETY: `at + 64` stays at most `n` inside the loop.
    unsafe {
        let head = load16(src);
        let tail = [64, 48, 32, 16].map(|back| load16(src.add(n - back)));
        let mut at = 16 - dst.addr() % 16;
        while at < n - 64 {
            at = opaque(at);
            let block = [0, 16, 32, 48].map(|i| load16(src.add(at + i)));
            for (i, vector) in block.into_iter().enumerate() {
                store16(dst.add(at + 16 * i), vector);
            }
            at += 64;
        }
        for (i, vector) in tail.into_iter().enumerate() {
            store16(dst.add(n - 64 + 16 * i), vector);
        }
        store16(dst, head);
    }
}

/// Downward in steps of 64 bytes; at least 80 bytes.
#[inline(always)]
unsafe fn backward16(dst: *mut u8, src: *const u8, n: usize) {
    // SAFETY: `at - 64` stays at least zero inside the loop.
    unsafe {
        let head = [0, 16, 32, 48].map(|i| load16(src.add(i)));
        let tail = load16(src.add(n - 16));
        let mut at = n - dst.addr().wrapping_add(n) % 16;
        while at > 64 {
            at = opaque(at);
            let block = [64, 48, 32, 16].map(|i| load16(src.add(at - i)));
            for (i, vector) in block.into_iter().enumerate() {
                store16(dst.add(at - 64 + 16 * i), vector);
            }
            at -= 64;
        }
        for (i, vector) in head.into_iter().enumerate() {
            store16(dst.add(16 * i), vector);
        }
        store16(dst.add(n - 16), tail);
    }
}

/// Upward in steps of 128 bytes; at least 160 bytes.
#[target_feature(enable = "avx2")]
unsafe fn forward32(dst: *mut u8, src: *const u8, n: usize) {
    // SAFETY: `at + 128` stays at most `n` inside the loop.
    unsafe {
        let head = load32(src);
        let tail = [128, 96, 64, 32].map(|back| load32(src.add(n - back)));
        let mut at = 32 - dst.addr() % 32;
        while at < n - 128 {
            at = opaque(at);
            let block = [0, 32, 64, 96].map(|i| load32(src.add(at + i)));
            for (i, vector) in block.into_iter().enumerate() {
                store32(dst.add(at + 32 * i), vector);
            }
            at += 128;
        }
        for (i, vector) in tail.into_iter().enumerate() {
            store32(dst.add(n - 128 + 32 * i), vector);
        }
        store32(dst, head);
    }
}

/// Downward in steps of 128 bytes; at least 160 bytes.
#[target_feature(enable = "avx2")]
unsafe fn backward32(dst: *mut u8, src: *const u8, n: usize) {
    // SAFETY: `at - 128` stays at least zero inside the loop.
    unsafe {
        let head = [0, 32, 64, 96].map(|i| load32(src.add(i)));
        let tail = load32(src.add(n - 32));
        let mut at = n - dst.addr().wrapping_add(n) % 32;
        while at > 128 {
            at = opaque(at);
            let block = [128, 96, 64, 32].map(|i| load32(src.add(at - i)));
            for (i, vector) in block.into_iter().enumerate() {
                store32(dst.add(at - 128 + 32 * i), vector);
            }
            at -= 128;
        }
        for (i, vector) in head.into_iter().enumerate() {
            store32(dst.add(32 * i), vector);
        }
        store32(dst.add(n - 32), tail);
    }
}
