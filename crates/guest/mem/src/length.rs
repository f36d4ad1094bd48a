//! `strlen`.
//!
//! Most strings are short, so 32 bytes are read at once wherever the string starts; next to the end
//! of a page, and from there on, reads are aligned. Neither ever touches a page that the string does
//! not, so reading past the terminator cannot fault. The reads are assembly because they may leave the
//! object, which the language does not allow its own loads.

use core::arch::asm;

use crate::cpu::{self, Features};
use crate::vector::{PAGE, at_cache_line};

/// The number of bytes before the first zero byte at `text`.
///
/// # Safety
/// `text` must point to a readable range that ends in a zero byte.
#[cfg_attr(kiln_guest, unsafe(export_name = "strlen"))]
pub unsafe extern "C" fn length(text: *const u8) -> usize {
    at_cache_line();
    // SAFETY: 32 bytes on the string's page are readable, wherever it ends: those at `text` unless
    // they cross into the next page, those of the aligned block around it in any case.
    unsafe {
        let misaligned = text.addr() % 32;
        let zeros = if (text.addr() ^ text.addr().wrapping_add(31)) & PAGE == 0 {
            zeros32(text)
        } else {
            zeros32(text.wrapping_sub(misaligned)) >> misaligned
        };
        if zeros != 0 {
            return zeros.trailing_zeros() as usize;
        }
        let block = text.wrapping_add(32 - misaligned);
        if !cpu::known().has(Features::AVX2) {
            return find16(block, text);
        }
        let (block, zeros) = find32(block);
        block.addr() - text.addr() + zeros.trailing_zeros() as usize
    }
}

/// The distance from `start` to the first zero byte at or after `block`.
///
/// # Safety
/// `block` must be aligned to 32 and point into a readable range that ends in a zero byte.
#[cold]
#[inline(never)]
unsafe extern "C" fn find16(mut block: *const u8, start: *const u8) -> usize {
    loop {
        // SAFETY: no terminator so far, so the range continues into this block.
        let zeros = unsafe { zeros32(block) };
        if zeros != 0 {
            return block.addr() - start.addr() + zeros.trailing_zeros() as usize;
        }
        block = block.wrapping_add(32);
    }
}

/// The first block of 32 bytes with a zero byte, from `block` on, and one bit per zero byte in it.
///
/// Four blocks one by one, then groups of four, aligned so that they do not cross a page, and the four
/// blocks of the group with the zero byte one by one again.
///
/// # Safety
/// As for [`find16`], and the processor must have AVX2.
#[inline(always)]
unsafe fn find32(mut block: *const u8) -> (*const u8, u32) {
    let zeros: u32;
    // SAFETY: no terminator before a block or a group, so the range continues into it.
    unsafe {
        asm!("vpxor xmm2, xmm2, xmm2",
            "2:",
            "vpcmpeqb ymm0, ymm2, [{block}]", "vpmovmskb {zeros:e}, ymm0",
            "test {zeros:e}, {zeros:e}", "jnz 7f",
            "vpcmpeqb ymm0, ymm2, [{block} + 32]", "vpmovmskb {zeros:e}, ymm0",
            "test {zeros:e}, {zeros:e}", "jnz 6f",
            "vpcmpeqb ymm0, ymm2, [{block} + 64]", "vpmovmskb {zeros:e}, ymm0",
            "test {zeros:e}, {zeros:e}", "jnz 5f",
            "vpcmpeqb ymm0, ymm2, [{block} + 96]", "vpmovmskb {zeros:e}, ymm0",
            "test {zeros:e}, {zeros:e}", "jnz 4f",
            "and {block}, -128",
            "3:",
            "sub {block}, -128",
            "vmovdqa ymm0, [{block}]", "vmovdqa ymm1, [{block} + 64]",
            "vpminub ymm0, ymm0, [{block} + 32]", "vpminub ymm1, ymm1, [{block} + 96]",
            "vpminub ymm0, ymm0, ymm1", "vpcmpeqb ymm0, ymm0, ymm2", "vpmovmskb {zeros:e}, ymm0",
            "test {zeros:e}, {zeros:e}", "jz 3b",
            "jmp 2b",
            "4: add {block}, 32", "5: add {block}, 32", "6: add {block}, 32",
            "7: vzeroupper",
            block = inout(reg) block, zeros = out(reg) zeros,
            out("xmm0") _, out("xmm1") _, out("xmm2") _,
            options(readonly, nostack));
    }
    (block, zeros)
}

/// One bit per zero byte among the 32 at `block`.
///
/// # Safety
/// The bytes must lie on readable pages.
#[inline(always)]
unsafe fn zeros32(block: *const u8) -> u32 {
    let (first, second): (u32, u32);
    // SAFETY: the caller's contract; SSE2 is part of the baseline.
    unsafe {
        asm!("pxor {z}, {z}",
            "movdqu {x}, [{block}]", "movdqu {y}, [{block} + 16]",
            "pcmpeqb {x}, {z}", "pcmpeqb {y}, {z}",
            "pmovmskb {first:e}, {x}", "pmovmskb {second:e}, {y}",
            block = in(reg) block,
            x = out(xmm_reg) _, y = out(xmm_reg) _, z = out(xmm_reg) _,
            first = out(reg) first, second = lateout(reg) second,
            options(pure, readonly, nostack, preserves_flags));
    }
    first | second << 16
}
