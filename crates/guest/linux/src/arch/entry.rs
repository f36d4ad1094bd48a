//! System calls: the way in and the way out.
//!
//! The entry is reached with the processor's convention for `syscall`, whether by a trap or from a stub of [`patch`](super::patch): the
//! number in `rax`, the return address in `rcx`, all else the program's own. Below the program's stack pointer lie 128 bytes that it
//! may use (System V ABI, section 3.2.2), so nothing is ever pushed on its stack: `rsp` moves right behind the thread's
//! [`Registers`](crate::process::Registers), and pushes fill them from their end.
//!
//! The return restores every register, `rcx` and `r11` too: it serves calls, traps and signal frames alike. The flags are loaded
//! before the stack pointer, and the last jump goes through memory, since no register is free for it.
//!
//! The lowest 272 bytes of what the entry takes of the kernel stack hold `xmm0` to `xmm15` and `mxcsr` ([`FRAME`]).

use core::arch::global_asm;

use super::{CPU, on_call};

/// Bytes that an entry puts on the empty kernel stack: sixteen vector registers, `mxcsr`, padding.
pub const FRAME: u64 = 272;
/// Where `mxcsr` lies in them.
pub const FRAME_MXCSR: u64 = 256;

/// `mxcsr` at a program's start: all exceptions masked.
pub static MXCSR: u32 = 0x1f80;

/// Goes to the empty kernel stack of the running thread and saves the vector registers there.
macro_rules! save_vectors {
    () => {
        concat!(
            "mov rsp, [rip + {cpu} + 8]\n",
            "sub rsp, 272\n",
            "movaps [rsp], xmm0\n",
            "movaps [rsp + 16], xmm1\n",
            "movaps [rsp + 32], xmm2\n",
            "movaps [rsp + 48], xmm3\n",
            "movaps [rsp + 64], xmm4\n",
            "movaps [rsp + 80], xmm5\n",
            "movaps [rsp + 96], xmm6\n",
            "movaps [rsp + 112], xmm7\n",
            "movaps [rsp + 128], xmm8\n",
            "movaps [rsp + 144], xmm9\n",
            "movaps [rsp + 160], xmm10\n",
            "movaps [rsp + 176], xmm11\n",
            "movaps [rsp + 192], xmm12\n",
            "movaps [rsp + 208], xmm13\n",
            "movaps [rsp + 224], xmm14\n",
            "movaps [rsp + 240], xmm15\n",
            "stmxcsr [rsp + 256]\n",
            "ldmxcsr [rip + {mxcsr}]\n",
            "xor ebp, ebp\n",
        )
    };
}
pub(super) use save_vectors;

global_asm!(
    ".pushsection .text.kiln_linux_entry,\"ax\",@progbits",
    ".p2align 6",
    ".globl kiln_linux_entry",
    ".hidden kiln_linux_entry",
    "kiln_linux_entry:",
    "mov [rip + {cpu} + 16], rsp",
    "mov rsp, [rip + {cpu}]",
    "push [rip + {cpu} + 16]",
    "pushfq",
    // As the instruction does.
    "mov r11, [rsp]",
    "inc qword ptr [rip + {cpu} + 88]",
    "1:",
    "push rcx",
    "push rax",
    "push rdi",
    "push rsi",
    "push rdx",
    "push rcx",
    "push rax",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov rdi, rsp",
    save_vectors!(),
    // Trap, direction and alignment-check flag.
    "test r11d, 0x40500",
    "jnz 3f",
    "2:",
    "call {on_call}",
    ".globl kiln_linux_return",
    ".hidden kiln_linux_return",
    "kiln_linux_return:",
    "mov rax, [rip + {cpu} + 8]",
    "mov rsp, [rip + {cpu}]",
    "ldmxcsr [rax - 272 + 256]",
    "movaps xmm0, [rax - 272]",
    "movaps xmm1, [rax - 272 + 16]",
    "movaps xmm2, [rax - 272 + 32]",
    "movaps xmm3, [rax - 272 + 48]",
    "movaps xmm4, [rax - 272 + 64]",
    "movaps xmm5, [rax - 272 + 80]",
    "movaps xmm6, [rax - 272 + 96]",
    "movaps xmm7, [rax - 272 + 112]",
    "movaps xmm8, [rax - 272 + 128]",
    "movaps xmm9, [rax - 272 + 144]",
    "movaps xmm10, [rax - 272 + 160]",
    "movaps xmm11, [rax - 272 + 176]",
    "movaps xmm12, [rax - 272 + 192]",
    "movaps xmm13, [rax - 272 + 208]",
    "movaps xmm14, [rax - 272 + 224]",
    "movaps xmm15, [rax - 272 + 240]",
    "mov rax, [rsp - 24]",
    "mov [rip + {cpu} + 24], rax",
    "sub rsp, 152",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rax",
    "pop rcx",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "lea rsp, [rsp + 16]",
    "popfq",
    "pop rsp",
    ".globl kiln_linux_return_jump",
    ".hidden kiln_linux_return_jump",
    "kiln_linux_return_jump:",
    "jmp [rip + {cpu} + 24]",
    "3:",
    "push 2",
    "popfq",
    "jmp 2b",
    // By a trap: the flags are in `r11`.
    ".globl kiln_linux_entry_trapped",
    ".hidden kiln_linux_entry_trapped",
    "kiln_linux_entry_trapped:",
    "mov [rip + {cpu} + 16], rsp",
    "mov rsp, [rip + {cpu}]",
    "push [rip + {cpu} + 16]",
    "push r11",
    "inc qword ptr [rip + {cpu} + 80]",
    "jmp 1b",
    ".popsection",
    cpu = sym CPU,
    mxcsr = sym MXCSR,
    on_call = sym on_call,
);

unsafe extern "C" {
    fn kiln_linux_entry();
    fn kiln_linux_entry_trapped();
    fn kiln_linux_return_jump();
}

/// Address of the entry for calls that came by a trap.
pub fn trapped_address() -> u64 {
    kiln_linux_entry_trapped as *const () as u64
}

/// Address of the entry for stubs.
pub fn address() -> u64 {
    kiln_linux_entry as *const () as u64
}

/// Address of a return's last instruction, with which the thread's registers are still those that it saved.
pub fn last_jump() -> u64 {
    kiln_linux_return_jump as *const () as u64
}
