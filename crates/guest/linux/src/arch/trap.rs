//! Faults and ticks.
//!
//! The monitor continues here with a [`TrapFrame`], on a stack of its own. Where the trap happened decides:
//! - in a routine of [`copy`](super::copy): it returns "fault";
//! - elsewhere in the library OS: a tick is noted, anything else is a defect, and the guest ends as any Kiln guest does;
//! - in the program: its state is saved as a call's is, and the rest happens on the thread's kernel stack.
//!
//! A fault of the return's last jump is the program's: it goes to where no code can be.

use core::arch::global_asm;

use alloc::rc::Rc;
use kiln_abi::trap::TrapFrame;

use super::entry::{MXCSR, last_jump, save_vectors};
use super::{CPU, before_return, cpu, current, on_call, on_tick, vsyscall};
use crate::mm::FaultOutcome;
use crate::platform::Access;
use crate::process::{Registers, Thread};

global_asm!(
    ".pushsection .text.kiln_linux_trap,\"ax\",@progbits",
    ".globl kiln_linux_trap",
    ".hidden kiln_linux_trap",
    ".p2align 6",
    "kiln_linux_trap:",
    "mov rax, [rdi + 128]",
    "lea rcx, [rip + kiln_linux_copy_start]",
    "cmp rax, rcx",
    "jb 2f",
    "lea rcx, [rip + kiln_linux_copy_end]",
    "cmp rax, rcx",
    "jb 4f",
    "2:",
    "sub rax, [rip + {cpu} + 64]",
    "cmp rax, [rip + {cpu} + 72]",
    "jb 3f",
    "cmp qword ptr [rip + {cpu} + 8], 0",
    "je 3f",
    // `rdi` still points to the frame.
    save_vectors!(),
    "call {on_program}",
    "jmp kiln_linux_return",
    "3:",
    // A tick is noted, single steps end: nothing else may be touched on the way back.
    "cmp dword ptr [rdi + 144], 0x100",
    "jne 5f",
    "mov qword ptr [rip + {cpu} + 96], 1",
    "mov rax, rdi",
    "jmp kiln_linux_resume",
    "5:",
    "cmp dword ptr [rdi + 144], 1",
    "jne 6f",
    "and dword ptr [rdi + 136], ~0x100",
    "mov rax, rdi",
    "jmp kiln_linux_resume",
    "6:",
    "call {on_library}",
    // Only for the program's fault on return.
    "mov rsp, [rip + {cpu} + 8]",
    "sub rsp, 272",
    "xor ebp, ebp",
    "call {on_return}",
    "jmp kiln_linux_return",
    "4:",
    // A tick may come here too.
    "cmp dword ptr [rdi + 144], 0x100",
    "je 3b",
    "mov rcx, [rdi + 152]",
    "mov [rip + {cpu} + 48], rcx",
    "mov ecx, [rdi + 148]",
    "mov [rip + {cpu} + 56], rcx",
    "mov rsp, [rdi + 56]",
    "jmp kiln_linux_copy_fixup",
    //
    "kiln_linux_resume:",
    "mov rdi, rax",
    "mov rax, [rdi + 128]",
    "mov [rip + {cpu} + 32], rax",
    "mov rax, [rdi + 56]",
    "mov [rip + {cpu} + 40], rax",
    "mov rbx, [rdi + 8]",
    "mov rcx, [rdi + 16]",
    "mov rdx, [rdi + 24]",
    "mov rsi, [rdi + 32]",
    "mov rbp, [rdi + 48]",
    "mov r8, [rdi + 64]",
    "mov r9, [rdi + 72]",
    "mov r10, [rdi + 80]",
    "mov r11, [rdi + 88]",
    "mov r12, [rdi + 96]",
    "mov r13, [rdi + 104]",
    "mov r14, [rdi + 112]",
    "mov r15, [rdi + 120]",
    "mov rax, [rdi]",
    "lea rsp, [rdi + 136]",
    "mov rdi, [rdi + 40]",
    "popfq",
    "mov rsp, [rip + {cpu} + 40]",
    "jmp [rip + {cpu} + 32]",
    ".popsection",
    cpu = sym CPU,
    mxcsr = sym MXCSR,
    on_program = sym on_program,
    on_library = sym on_library,
    on_return = sym on_return,
);

unsafe extern "C" {
    fn kiln_linux_trap();
}

/// Address of the entry for traps.
pub fn address() -> u64 {
    kiln_linux_trap as *const () as u64
}

/// Vectors of the processor (SDM volume 3, table 6-1).
mod vector {
    pub const DIVISION: u32 = 0;
    pub const DEBUG: u32 = 1;
    pub const BREAKPOINT: u32 = 3;
    pub const OVERFLOW: u32 = 4;
    pub const INVALID_OPCODE: u32 = 6;
    pub const PAGE_FAULT: u32 = 14;
    pub const X87: u32 = 16;
    pub const ALIGNMENT: u32 = 17;
    pub const SIMD: u32 = 19;
}

/// A fault of the library OS, on the stack for traps: a defect, unless it is the program's fault on return.
extern "C" fn on_library(frame: &TrapFrame) {
    // SAFETY: invariant 1.
    let in_thread = unsafe { !(*cpu()).current.is_null() };
    if frame.rip != last_jump() || !in_thread {
        kiln_rt::trap::report(frame)
    }
}

/// The program was to go on at an address that no code can have. Its registers are still saved.
extern "C" fn on_return() {
    if let Some(thread) = current() {
        signal_fault(&thread, signal::SEGV, signal::SI_KERNEL, 0, 13, 0);
        before_return(&thread, false);
    }
}

/// A trap of the program, on the thread's kernel stack.
extern "C" fn on_program(frame: *const TrapFrame) {
    // SAFETY: the monitor's frame. It is copied before anything can fault: the next one lies in the same place.
    let frame = unsafe { *frame };
    let Some(thread) = current() else { return };
    let mut registers = saved(&frame);
    if super::patch::leave_stub(&mut registers) && frame.vector == vector::DEBUG {
        // A step inside of what takes the place of a call is none of the program's.
        thread.registers.set(saved(&frame));
        before_return(&thread, false);
        return;
    }
    if frame.vector == TrapFrame::HOST_CALL {
        // A monitor that does not know of the entry for calls.
        registers.orig_rax = frame.address;
        registers.rcx = registers.rip;
        registers.r11 = registers.rflags;
    }
    thread.registers.set(registers);
    if let Some(number) = vsyscall::call_of(&frame) {
        vsyscall::perform(&thread, number);
        before_return(&thread, false);
        return;
    }
    match frame.vector {
        TrapFrame::TICK => on_tick(&thread),
        TrapFrame::HOST_CALL => {
            on_call(thread.registers.as_ptr());
            return;
        }
        _ => on_fault(&thread, &frame),
    }
    before_return(&thread, false);
}

/// The registers in a frame.
fn saved(frame: &TrapFrame) -> Registers {
    let [
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rbp,
        rsp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
    ] = frame.registers;
    Registers {
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        orig_rax: u64::MAX,
        rip: frame.rip,
        rflags: frame.rflags,
        rsp,
    }
}

/// Signals and codes (`<asm-generic/siginfo.h>`).
mod signal {
    pub const ILL: u32 = 4;
    pub const TRAP: u32 = 5;
    pub const BUS: u32 = 7;
    pub const FPE: u32 = 8;
    pub const SEGV: u32 = 11;
    pub const SI_KERNEL: i32 = 0x80;
    pub const ILL_ILLOPN: i32 = 2;
    pub const TRAP_BRKPT: i32 = 1;
    pub const TRAP_TRACE: i32 = 2;
    pub const BUS_ADRALN: i32 = 1;
    pub const BUS_ADRERR: i32 = 2;
    pub const FPE_INTDIV: i32 = 1;
}

/// What a page fault's error code says about the access.
fn access(error: u32) -> Access {
    match error {
        error if error & 16 != 0 => Access::EXEC,
        error if error & 2 != 0 => Access::WRITE,
        _ => Access::READ,
    }
}

fn on_fault(thread: &Rc<Thread>, frame: &TrapFrame) {
    let rip = frame.rip;
    let (signo, code, address) = match frame.vector {
        vector::INVALID_OPCODE | vector::BREAKPOINT if super::patch::resume(thread, frame) => {
            return;
        }
        vector::PAGE_FAULT => match page_fault(thread, frame) {
            None => return,
            Some((signo, code)) => (signo, code, frame.address),
        },
        vector::DIVISION => (signal::FPE, signal::FPE_INTDIV, rip),
        vector::X87 | vector::SIMD => (
            signal::FPE,
            super::fpu::exception(thread, frame.vector),
            rip,
        ),
        vector::DEBUG => (signal::TRAP, debug_code(frame), rip),
        vector::BREAKPOINT => (signal::TRAP, signal::SI_KERNEL, 0),
        vector::INVALID_OPCODE => (signal::ILL, signal::ILL_ILLOPN, rip),
        vector::ALIGNMENT => (signal::BUS, signal::BUS_ADRALN, 0),
        vector::OVERFLOW => (signal::SEGV, signal::SI_KERNEL, 0),
        _ if frame.signal == signal::BUS => (signal::BUS, signal::BUS_ADRERR, frame.address),
        _ => (signal::SEGV, signal::SI_KERNEL, 0),
    };
    signal_fault(thread, signo, code, address, frame.vector, frame.error);
}

/// Single steps are told from the instruction that makes such a trap by itself (`int1`).
fn debug_code(frame: &TrapFrame) -> i32 {
    const TRAP_FLAG: u64 = 1 << 8;
    const INT1: u8 = 0xf1;
    // The processor goes on behind it; hosts that are virtual machines themselves may stay there.
    let is_there = |at: u64| {
        let mut byte = [0];
        crate::platform::copy_in(at, &mut byte).is_ok() && byte == [INT1]
    };
    let by_itself = is_there(frame.rip.wrapping_sub(1)) || is_there(frame.rip);
    if frame.rflags & TRAP_FLAG != 0 || !by_itself {
        signal::TRAP_TRACE
    } else {
        signal::TRAP_BRKPT
    }
}

/// `None` if memory was provided, else the signal and its code.
fn page_fault(thread: &Rc<Thread>, frame: &TrapFrame) -> Option<(u32, i32)> {
    if frame.signal == signal::BUS {
        return Some((signal::BUS, signal::BUS_ADRERR));
    }
    let memory = &thread.process.memory;
    let outcome = memory.fault_of(thread, frame.address, access(frame.error));
    outcome.signal()
}

/// Asks the address space whether there should be memory; true if there is now.
pub(super) fn provide(address: u64, wanted: Access) -> bool {
    current().is_some_and(|thread| {
        let outcome = thread.process.memory.fault(address, wanted);
        matches!(outcome, FaultOutcome::Resolved)
    })
}

fn signal_fault(thread: &Rc<Thread>, signo: u32, code: i32, address: u64, vector: u32, error: u32) {
    if crate::platform::kernel_ref().trace_calls.get() {
        let r = thread.registers.get();
        let (rip, rsp, tid) = (r.rip, r.rsp, thread.tid);
        kiln_rt::console::print(format_args!(
            "[{tid}] --- signal {signo} (code {code}) at {rip:#x}, stack {rsp:#x}: trap {vector}, error {error:#x}, address {address:#x} ---\n"
        ));
    }
    crate::signal::fault(
        thread,
        signo,
        code,
        address,
        u64::from(vector),
        u64::from(error),
    );
}
