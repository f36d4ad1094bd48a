//! A program's system calls and ticks.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use kiln_abi::Op;
use kiln_abi::user::{UserBacking, UserOp};
use kiln_rt::{boot, console, time, trap};

use crate::start::{map, pages, peek, perform, user};

const CODE: u64 = 0x40_0000;
const STACK: u64 = 0x50_0000;

/// Registers at the entry: rax, rcx, r11, rsp, rdi, rsi, rdx, r10, r8, r9, flags.
static mut SEEN: [u64; 11] = [0; 11];
/// Where a trap returns to, and with which stack pointer.
static mut RESUME: [u64; 2] = [0; 2];
static DEFERRED: AtomicU64 = AtomicU64::new(0);
static TRAPS: AtomicU64 = AtomicU64::new(0);

global_asm!(
    ".pushsection .text.entry,\"ax\",@progbits",
    // Notes what it finds, and returns to the program with 42 in rax. Nothing but rax and flags is changed.
    "guest_entry:",
    "mov [rip + {seen}], rax",
    "mov [rip + {seen} + 8], rcx",
    "mov [rip + {seen} + 16], r11",
    "mov [rip + {seen} + 24], rsp",
    "mov [rip + {seen} + 32], rdi",
    "mov [rip + {seen} + 40], rsi",
    "mov [rip + {seen} + 48], rdx",
    "mov [rip + {seen} + 56], r10",
    "mov [rip + {seen} + 64], r8",
    "mov [rip + {seen} + 72], r9",
    "lea rsp, [rip + {seen} + 88]",
    "pushfq",
    "mov rsp, [rip + {seen} + 24]",
    "mov eax, 42",
    "jmp rcx",
    // Returns from a trap by loading the frame; sets r15 for the program to see.
    "guest_trap:",
    "inc qword ptr [rip + {traps}]",
    "mov rax, [rdi + 128]",
    "mov [rip + {resume}], rax",
    "mov rax, [rdi + 56]",
    "mov [rip + {resume} + 8], rax",
    "mov rcx, [rdi + 16]",
    "mov rax, [rdi]",
    "mov r15d, 1",
    "lea rsp, [rdi + 136]",
    "mov rdi, [rdi + 40]",
    "popfq",
    "mov rsp, [rip + {resume} + 8]",
    "jmp [rip + {resume}]",
    ".popsection",
    seen = sym SEEN,
    traps = sym TRAPS,
    resume = sym RESUME,
);

unsafe extern "C" {
    fn guest_entry();
    fn guest_trap();
}

/// Puts code of the program in place and takes its calls.
fn prepare(code: &[u8]) {
    assert_eq!(map(pages(CODE, 1), 7, UserBacking::Zero), Ok(0));
    assert_eq!(map(pages(STACK, 4), 3, UserBacking::Zero), Ok(0));
    // SAFETY: just mapped.
    unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), CODE as *mut u8, code.len()) };
    let entry = guest_entry as *const () as u64;
    let deferred = DEFERRED.as_ptr() as u64;
    assert_eq!(user(UserOp::SystemCalls { entry, deferred }), Ok(0));
    let trap = trap::registration_at(boot::info(), guest_trap as *const () as u64);
    assert_eq!(perform(trap), Ok(0));
}

/// Runs the program's code, which jumps back by `r14`. Returns what is in `rax` then, and `xmm0`.
fn run(rax: u64, vector: u64) -> (u64, u64) {
    let (mut result, mut after) = (rax, vector);
    // SAFETY: the code is the case's own; what it may change is told.
    unsafe {
        asm!(
            "movq xmm0, r9",
            "mov r9d, 6",
            "mov r13, rsp",
            "mov rsp, {stack}",
            "push rbx",
            "push rbp",
            "xor r15d, r15d",
            "lea r14, [rip + 2f]",
            "mov ebx, {code}",
            "jmp rbx",
            "2:",
            "pop rbp",
            "pop rbx",
            "mov rsp, r13",
            "movq r9, xmm0",
            stack = const STACK + 4 * 4096,
            code = const CODE,
            inout("rax") result,
            inout("r9") after,
            in("rdi") 1u64, in("rsi") 2u64, in("rdx") 3u64, in("r10") 4u64, in("r8") 5u64,
            out("rcx") _, out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _, out("xmm0") _,
        );
    }
    (result, after)
}

pub fn calls() {
    // std; stc; syscall; cld; jmp r14
    prepare(&[0xfd, 0xf9, 0x0f, 0x05, 0xfc, 0x41, 0xff, 0xe6]);
    // Kernels from 6.14 on handle `uretprobe` and `uprobe` before they look at a filter.
    for round in (0..1000).filter(|round| !(335..=336).contains(&(39 + round))) {
        assert_eq!(run(39 + round, 0x1234_5678), (42, 0x1234_5678), "{round}");
        // SAFETY: one thread.
        let seen = unsafe { (&raw const SEEN).read() };
        assert_eq!(seen[0], 39 + round, "the number");
        assert_eq!(seen[1], CODE + 4, "behind the instruction");
        assert_eq!(seen[2] & 0x401, 0x401, "the program's flags");
        assert_eq!(seen[3], STACK + 4 * 4096 - 16, "the program's stack");
        assert_eq!(&seen[4..10], &[1, 2, 3, 4, 5, 6]);
        assert_eq!(seen[10] & 0x4_0500, 0, "clear flags");
    }
    assert_eq!(peek(STACK), 0);
}

/// A hundred thousand system calls.
const LOOP: [u8; 17] = [
    0x49, 0xc7, 0xc4, 0xa0, 0x86, 0x01, 0x00, // mov r12, 100000
    0x0f, 0x05, // syscall
    0x49, 0xff, 0xcc, // dec r12
    0x75, 0xf9, // jnz
    0x41, 0xff, 0xe6, // jmp r14
];

/// How long a system call takes.
pub fn cost() {
    prepare(&LOOP);
    let before = time::now();
    run(39, 0);
    let nanos = time::now().as_nanos() - before.as_nanos();
    console::print(format_args!("{} ns\n", nanos / 100_000));
}

/// Calls and ticks at once: neither loses anything of the other's.
pub fn storm() {
    prepare(&LOOP);
    let tick = Op::Tick { period: 100_000 };
    assert_eq!(perform(tick), Ok(0));
    for _ in 0..10 {
        assert_eq!(run(39, 0x1234_5678), (42, 0x1234_5678));
    }
    assert_eq!(perform(Op::Tick { period: 0 }), Ok(0));
    assert!(TRAPS.load(Ordering::Relaxed) > 0 || DEFERRED.load(Ordering::Relaxed) > 0);
}

pub fn ticks() {
    // 1: test r15, r15; jz 1b; jmp r14
    prepare(&[0x4d, 0x85, 0xff, 0x74, 0xfb, 0x41, 0xff, 0xe6]);
    let tick = Op::Tick { period: 1_000_000 };
    assert_eq!(perform(tick), Ok(0));
    // In the library OS: noted.
    while DEFERRED.load(Ordering::Relaxed) == 0 {}
    assert_eq!(TRAPS.load(Ordering::Relaxed), 0);
    // In the program: a trap, also if its stack pointer is in the stack for traps.
    for _ in 0..20 {
        run(0, 0);
    }
    assert!(TRAPS.load(Ordering::Relaxed) >= 20);
    assert_eq!(perform(Op::Tick { period: 0 }), Ok(0));
}
