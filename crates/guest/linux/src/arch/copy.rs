//! Copying from and to the program's memory.
//!
//! The routines lie between two labels. A fault there means that the program's address was bad: the trap entry notes where it was and
//! continues at the fixup, as if the routine had returned 1. They keep nothing on the stack and change no register that a
//! caller relies on, so that this is sound at each of their instructions.

use core::arch::global_asm;

use super::cpu;
use crate::platform::Access;
use crate::user::{USER_END, USER_START};
use crate::{Errno, Result};

global_asm!(
    ".pushsection .text.kiln_linux_copy,\"ax\",@progbits",
    ".globl kiln_linux_copy_start",
    ".hidden kiln_linux_copy_start",
    ".globl kiln_linux_copy_end",
    ".hidden kiln_linux_copy_end",
    ".globl kiln_linux_copy_fixup",
    ".hidden kiln_linux_copy_fixup",
    ".globl kiln_linux_copy",
    ".hidden kiln_linux_copy",
    ".globl kiln_linux_exchange",
    ".hidden kiln_linux_exchange",
    ".p2align 6",
    "kiln_linux_copy_start:",
    // rdi to, rsi from, rdx length; 0 if it was copied.
    "kiln_linux_copy:",
    "cmp rdx, 32",
    "ja 3f",
    "cmp rdx, 16",
    "jae 2f",
    "cmp rdx, 8",
    "jae 1f",
    "cmp rdx, 4",
    "jae 4f",
    "test rdx, rdx",
    "jz 9f",
    "movzx eax, byte ptr [rsi]",
    "movzx ecx, byte ptr [rsi + rdx - 1]",
    "mov r9, rdx",
    "shr r9, 1",
    "movzx r8d, byte ptr [rsi + r9]",
    "mov [rdi + r9], r8b",
    "mov [rdi + rdx - 1], cl",
    "mov [rdi], al",
    "xor eax, eax",
    "ret",
    "4:",
    "mov eax, [rsi]",
    "mov ecx, [rsi + rdx - 4]",
    "mov [rdi], eax",
    "mov [rdi + rdx - 4], ecx",
    "xor eax, eax",
    "ret",
    "1:",
    "mov rax, [rsi]",
    "mov rcx, [rsi + rdx - 8]",
    "mov [rdi], rax",
    "mov [rdi + rdx - 8], rcx",
    "xor eax, eax",
    "ret",
    "2:",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + rdx - 16]",
    "movups [rdi], xmm0",
    "movups [rdi + rdx - 16], xmm1",
    "xor eax, eax",
    "ret",
    "3:",
    "cmp rdx, 512",
    "ja 6f",
    // The last 32 bytes first, then upward in steps of 32.
    "movups xmm2, [rsi + rdx - 32]",
    "movups xmm3, [rsi + rdx - 16]",
    "lea r8, [rdi + rdx - 32]",
    "5:",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + 16]",
    "movups [rdi], xmm0",
    "movups [rdi + 16], xmm1",
    "add rsi, 32",
    "add rdi, 32",
    "cmp rdi, r8",
    "jb 5b",
    "movups [r8], xmm2",
    "movups [r8 + 16], xmm3",
    "xor eax, eax",
    "ret",
    "6:",
    "mov rcx, rdx",
    "rep movsb",
    "9:",
    "xor eax, eax",
    "ret",
    // rdi word, esi expected, edx new, rcx where to put what was there.
    "kiln_linux_exchange:",
    "mov eax, esi",
    "lock cmpxchg [rdi], edx",
    "mov [rcx], eax",
    "xor eax, eax",
    "ret",
    "kiln_linux_copy_end:",
    "kiln_linux_copy_fixup:",
    "mov eax, 1",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    fn kiln_linux_copy(to: *mut u8, from: *const u8, len: usize) -> u64;
    fn kiln_linux_exchange(at: *mut u32, old: u32, new: u32, found: *mut u32) -> u64;
}

/// True if the range may be the program's.
fn in_user_range(at: u64, len: usize) -> bool {
    at >= USER_START
        && at
            .checked_add(len as u64)
            .is_some_and(|end| end <= USER_END)
}

/// Does `access` until it goes through or the program has no right to it: memory that grows on demand takes a second attempt.
fn attempt(wanted: Access, mut access: impl FnMut() -> bool) -> Result {
    let mut last = None;
    loop {
        if access() {
            return Ok(());
        }
        // SAFETY: invariant 1.
        let address = unsafe { (*cpu()).fault_address };
        if last.replace(address) == Some(address) || !super::trap::provide(address, wanted) {
            return Err(Errno::EFAULT);
        }
    }
}

/// Copies from the program's memory.
///
/// # Errors
/// `EFAULT`.
pub fn copy_in(from: u64, to: &mut [u8]) -> Result {
    if to.is_empty() {
        return Ok(());
    }
    if !in_user_range(from, to.len()) {
        return Err(Errno::EFAULT);
    }
    let (start, len) = (to.as_mut_ptr(), to.len());
    attempt(Access::READ, || {
        // SAFETY: `to` is writable; the source is the program's range, where a fault is caught.
        unsafe { kiln_linux_copy(start, from as *const u8, len) == 0 }
    })
}

/// Copies to the program's memory.
///
/// # Errors
/// `EFAULT`.
pub fn copy_out(to: u64, from: &[u8]) -> Result {
    if from.is_empty() {
        return Ok(());
    }
    if !in_user_range(to, from.len()) {
        return Err(Errno::EFAULT);
    }
    attempt(Access::WRITE, || {
        // SAFETY: as above, the other way round; nothing of the library OS lies in the program's range.
        unsafe { kiln_linux_copy(to as *mut u8, from.as_ptr(), from.len()) == 0 }
    })
}

/// Compares and exchanges a word of the program's memory.
///
/// # Errors
/// `EFAULT`.
pub fn compare_exchange(at: u64, old: u32, new: u32) -> Result<u32> {
    if !in_user_range(at, 4) || !at.is_multiple_of(4) {
        return Err(Errno::EFAULT);
    }
    let mut found = 0;
    attempt(Access::WRITE, || {
        // SAFETY: as above.
        unsafe { kiln_linux_exchange(at as *mut u32, old, new, &raw mut found) == 0 }
    })?;
    Ok(found)
}
