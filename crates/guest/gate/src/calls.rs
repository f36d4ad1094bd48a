//! A program's system calls on their way to the library OS.
//!
//! The filter turns each into SIGSYS. This is where the kernel then goes on: on the signal stack, with what was interrupted in a
//! record ([`Context`](crate::trap::Context)). Returning as from a signal would cost one more call of the kernel, with its filter; so the
//! few instructions here do what it would: they load the FPU's state and the registers from the record and jump to the entry that the
//! library OS has named. That leaves signal context as far as the kernel is concerned, since SIGSYS blocks no signals while
//! it is handled, and the kernel finds out by the stack pointer whether the signal stack is in use.
//!
//! A tick that comes meanwhile finds code of the gate, and is noted. All other signals, and what is rare, go to
//! [`signal`](crate::trap::signal).

use core::arch::global_asm;
use core::mem::offset_of;

use crate::state::{Program, Range, State};
use crate::trap;

global_asm!(
    ".pushsection .text.kiln_gate_signal,\"ax\",@progbits",
    ".globl kiln_gate_signal",
    ".p2align 6",
    "kiln_gate_signal:",
    "cmp edi, 31",
    "jne 9f",
    // `si_code` is `SYS_SECCOMP`: nobody has just sent a signal.
    "cmp dword ptr [rsi + 8], 1",
    "jne 9f",
    // `si_arch` is `AUDIT_ARCH_X86_64`: it was no 32-bit call.
    "cmp dword ptr [rsi + 28], 0xc000003e",
    "jne 9f",
    "cmp qword ptr [rip + kiln_gate_state + {calls}], 0",
    "je 9f",
    // `UC_FP_XSTATE`: there is a state that `xrstor` understands.
    "test dword ptr [rdx], 1",
    "jz 9f",
    // The alignment check stays set in a handler.
    "test dword ptr [rdx + 176], 0x40000",
    "jnz 9f",
    // The library OS itself.
    "mov rcx, [rdx + 168]",
    "cmp rcx, [rip + kiln_gate_state + {text_start}]",
    "jb 2f",
    "cmp rcx, [rip + kiln_gate_state + {text_end}]",
    "jb 9f",
    "2:",
    "mov rbx, [rdx + 224]",
    "mov rsp, rdx",
    "mov eax, -1",
    "mov edx, -1",
    "xrstor64 [rbx]",
    "mov r8, [rsp + 40]",
    "mov r9, [rsp + 48]",
    "mov r10, [rsp + 56]",
    "mov r12, [rsp + 72]",
    "mov r13, [rsp + 80]",
    "mov r14, [rsp + 88]",
    "mov r15, [rsp + 96]",
    "mov rdi, [rsp + 104]",
    "mov rsi, [rsp + 112]",
    "mov rbp, [rsp + 120]",
    "mov rbx, [rsp + 128]",
    "mov rdx, [rsp + 136]",
    "mov rax, [rsp + 144]",
    // What the instruction itself does. The kernel has cleared the direction and the trap flag.
    "mov r11, [rsp + 176]",
    "mov rsp, [rsp + 160]",
    "jmp [rip + kiln_gate_state + {calls}]",
    "9:",
    // What comes now is compiled, and may access memory that is not aligned.
    "pushfq",
    "and dword ptr [rsp], ~0x40000",
    "popfq",
    "jmp {signal}",
    ".popsection",
    calls = const offset_of!(State, program) + offset_of!(Program, calls),
    text_start = const offset_of!(State, text) + offset_of!(Range, start),
    text_end = const offset_of!(State, text) + offset_of!(Range, end),
    signal = sym trap::signal,
);
