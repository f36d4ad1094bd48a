//! `strlen`.
//!
//! Reads aligned blocks of 16 bytes, then whole lines of 64: neither ever crosses a page, so reading
//! past the terminator cannot fault. The reads are assembly because they may leave the object, which the
//! language does not allow its own loads.

use core::arch::asm;

/// The number of bytes before the first zero byte at `text`.
///
/// # Safety
/// `text` must point to a readable range that ends in a zero byte.
#[cfg_attr(kiln_guest, unsafe(export_name = "strlen"))]
pub unsafe extern "C" fn length(text: *const u8) -> usize {
    let misaligned = text.addr() % 16;
    let mut block = text.wrapping_sub(misaligned);
    // SAFETY: the block holds the byte at `text`, so its page is readable.
    let mut zeros = unsafe { zeros16(block) } >> misaligned << misaligned;
    while zeros == 0 {
        block = block.wrapping_add(16);
        if block.addr().is_multiple_of(64) {
            // SAFETY: no terminator so far, so the range continues into this line, and a line never
            // crosses a page.
            while !unsafe { any_zero64(block) } {
                block = block.wrapping_add(64);
            }
        }
        // SAFETY: no terminator so far, so the range continues into this block.
        zeros = unsafe { zeros16(block) };
    }
    block.addr() + zeros.trailing_zeros() as usize - text.addr()
}

/// Whether any of the 64 bytes at `line` is zero.
///
/// # Safety
/// `line` must be aligned to 64 and lie on a readable page.
#[inline(always)]
unsafe fn any_zero64(line: *const u8) -> bool {
    let zeros: u32;
    // SAFETY: the caller's contract; SSE2 is part of the baseline.
    unsafe {
        asm!("movdqa {low}, [{line}]", "movdqa {high}, [{line} + 32]",
            "pminub {low}, [{line} + 16]", "pminub {high}, [{line} + 48]",
            "pminub {low}, {high}", "pxor {high}, {high}", "pcmpeqb {low}, {high}",
            "pmovmskb {zeros:e}, {low}", low = out(xmm_reg) _, high = out(xmm_reg) _,
            line = in(reg) line, zeros = out(reg) zeros,
            options(pure, readonly, nostack, preserves_flags));
    }
    zeros != 0
}

/// One bit per zero byte among the 16 at `block`.
///
/// # Safety
/// `block` must be aligned to 16 and lie on a readable page.
#[inline(always)]
unsafe fn zeros16(block: *const u8) -> u32 {
    let zeros: u32;
    // SAFETY: the caller's contract; SSE2 is part of the baseline.
    unsafe {
        asm!("pxor {scratch}, {scratch}", "pcmpeqb {scratch}, [{block}]",
            "pmovmskb {zeros:e}, {scratch}", scratch = out(xmm_reg) _, block = in(reg) block,
            zeros = out(reg) zeros, options(pure, readonly, nostack, preserves_flags));
    }
    zeros
}
