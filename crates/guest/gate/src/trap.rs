//! Host signals become trap frames of the guest; and how a guest's process ends.

use kiln_abi::ExitReason;
use kiln_abi::exit::{MAX_FRAMES, MAX_MESSAGE};
use kiln_abi::layout::Record;
use kiln_abi::perform::{Exit, Memory};
use kiln_abi::trap::TrapFrame;

use crate::memory::GuestMemory;
use crate::report::Report;
use crate::state::{State, TICK_SIGNAL, state};
use crate::{sys, vcpu};

/// Indices into the registers of `ucontext_t` (`<sys/ucontext.h>`).
mod greg {
    pub const R11: usize = 3;
    pub const RDI: usize = 8;
    pub const RCX: usize = 14;
    pub const RSP: usize = 15;
    pub const RIP: usize = 16;
    pub const EFL: usize = 17;
    /// `cs`, `gs`, `fs` and `ss`, 16 bits each.
    pub const SEGMENTS: usize = 18;
    pub const ERR: usize = 19;
    pub const TRAPNO: usize = 20;
    pub const CR2: usize = 22;
    /// Where the registers of a `TrapFrame` (rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8 to r15) are found.
    pub const IN_ORDER: [usize; 16] = [13, 11, 14, 12, 9, 8, 10, 15, 0, 1, 2, 3, 4, 5, 6, 7];
}

/// `ucontext_t` as far as it is used.
#[derive(Debug)]
#[repr(C)]
pub struct Context {
    head: [u64; 5],
    registers: [u64; 23],
    fpu: u64,
}

/// `siginfo_t` as far as it is used.
#[derive(Debug)]
#[repr(C)]
pub struct Info {
    signal: i32,
    errno: i32,
    code: i32,
    pad: i32,
    address: u64,
    system_call: i32,
    architecture: u32,
}

const SIGTRAP: i32 = 5;
const SIGSYS: i32 = 31;
/// Vector of single steps.
const DEBUG: u64 = 1;
/// `SYS_SECCOMP`: the filter's doing, not somebody's who sends signals.
const SYS_SECCOMP: i32 = 1;
/// `AUDIT_ARCH_X86_64`
const ARCHITECTURE: u32 = 0xc000_003e;
const SIGSEGV: u32 = 11;
const GENERAL_PROTECTION: u32 = 13;
/// `int 0x80` and `sysenter` are as long.
const CALL_LEN: u64 = 2;
/// What the processor says of `int 0x80` where its gate is not for programs: the vector, times 8, in the descriptor table of interrupts.
const NO_32_BIT_CALLS: u32 = 0x80 << 3 | 2;
/// `__USER_CS` and `__USER_DS`: 64-bit code.
const CODE_SEGMENT: u64 = 0x33;
const STACK_SEGMENT: u64 = 0x2b;
/// Trap flag, direction flag, alignment check: off in a trap entry.
pub const CLEARED_FLAGS: u64 = 1 << 8 | 1 << 10 | 1 << 18;

/// The handler of every signal that reaches the guest's process, behind [`calls`](crate::calls).
///
/// Leaves signal context at once: it changes where the interrupted thread goes on and returns.
///
/// # Safety
/// Called by the kernel only, with `SA_SIGINFO | SA_ONSTACK`, or by [`calls`](crate::calls).
pub unsafe extern "C" fn signal(signal: i32, info: *const Info, context: *mut Context) {
    // SAFETY: the kernel hands over valid records for the time of the handler.
    let (info, context) = unsafe { (&*info, &mut *context) };
    // SAFETY: the monitor has filled the state in. Code of the gate that was interrupted may hold a reference too,
    // but then this handler either returns at once or ends the process.
    let state = unsafe { state() };
    let registers = &mut context.registers;
    let rip = registers[greg::RIP];
    let tick = signal == TICK_SIGNAL;
    if tick && !state.machine.run.is_null() {
        vcpu::kick(state);
        return;
    }
    let in_gate = state.code.contains(rip, 1);
    let in_program = in_program(state, rip);
    let calls = state.program.calls.get();
    if signal == SIGTRAP && registers[greg::TRAPNO] == DEBUG && state.program.runs {
        // A program that is stepped through: the library OS's last instructions on the way back to it are not to be seen, nor is the
        // arrival itself, but the instruction after that.
        if state.text.contains(rip, 1) {
            state.program.arriving.set(true);
            return;
        }
        if in_program && state.program.arriving.replace(false) {
            return;
        }
    }
    let by_filter = signal == SIGSYS && info.code == SYS_SECCOMP;
    let narrow = by_filter && info.architecture != ARCHITECTURE;
    // What `calls` leaves.
    if by_filter && !narrow && calls != 0 && in_program {
        // What the instruction itself does.
        registers[greg::RCX] = rip;
        registers[greg::R11] = registers[greg::EFL];
        registers[greg::RIP] = calls;
        registers[greg::EFL] &= !CLEARED_FLAGS;
        return;
    }
    if tick && calls != 0 && !in_program {
        defer_tick(state);
        return;
    }
    let busy = in_trap(state, registers[greg::RSP]) && !in_program;
    if tick && (in_gate || busy || state.trap_entry.get() == 0) {
        return;
    }
    let mut frame = TrapFrame {
        rip,
        rflags: registers[greg::EFL],
        vector: registers[greg::TRAPNO] as u32,
        error: registers[greg::ERR] as u32,
        address: registers[greg::CR2],
        signal: signal.cast_unsigned(),
        ..TrapFrame::default()
    };
    for (to, from) in frame.registers.iter_mut().zip(greg::IN_ORDER) {
        if let Some(value) = registers.get(from) {
            *to = *value;
        }
    }
    if tick {
        frame.vector = TrapFrame::TICK;
    } else if narrow && in_program {
        // As of a kernel that has no calls of 32-bit programs.
        frame.vector = GENERAL_PROTECTION;
        frame.error = NO_32_BIT_CALLS;
        frame.address = 0;
        frame.signal = SIGSEGV;
        frame.rip = rip.wrapping_sub(CALL_LEN);
    } else if signal == SIGSYS {
        frame.vector = TrapFrame::HOST_CALL;
        frame.address = u64::from(info.system_call.cast_unsigned());
    }
    if in_gate && state.machine.run.is_null() {
        end_with_fault(Some(&frame), "");
    }
    if in_gate {
        // What the gate could not access is the guest's own doing: a stack it has closed, a file cut short.
        let what = "memory that the call needs cannot be accessed";
        end_with_fault(Some(&vcpu::caller(state)), what);
    }
    let entry = deliver(state, &frame);
    // A program may have gone to a segment of 32-bit code.
    registers[greg::SEGMENTS] =
        registers[greg::SEGMENTS] & 0xffff_ffff_0000 | CODE_SEGMENT | STACK_SEGMENT << 48;
    registers[greg::RDI] = entry.frame;
    registers[greg::RSP] = entry.stack;
    registers[greg::RIP] = entry.code;
    registers[greg::EFL] &= !CLEARED_FLAGS;
}

/// True if code at `rip` is not the library OS's but that of the program it runs.
pub fn in_program(state: &State, rip: u64) -> bool {
    let others = [state.text, state.code, state.machine.own];
    state.program.runs && !others.iter().any(|other| other.contains(rip, 1))
}

/// Tells a guest with a program of a tick that has come where none can be delivered.
pub fn defer_tick(state: &State) {
    // SAFETY: the guest has given an aligned word of its writable memory; should it have taken its own access away, the fault
    // ends it.
    unsafe { (state.program.deferred.get() as *mut u64).write_volatile(1) };
}

/// True if `stack` is a stack pointer into the stack for traps.
pub fn in_trap(state: &State, stack: u64) -> bool {
    state.trap_stack.get().contains(stack.wrapping_sub(1), 1)
}

/// How the guest's trap entry is reached.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// First argument: the trap frame's address.
    pub frame: u64,
    /// Stack pointer.
    pub stack: u64,
    /// The entry's address.
    pub code: u64,
}

/// Writes a trap frame for the guest. Ends the guest if it has no entry for traps or is in it already. A program's stack pointer
/// may hold anything and says nothing of that.
pub fn deliver(state: &State, frame: &TrapFrame) -> Entry {
    let [.., stack, _, _, _, _, _, _, _, _] = frame.registers;
    let again = in_trap(state, stack) && !in_program(state, frame.rip);
    if again || state.trap_entry.get() == 0 {
        end_with_fault(Some(frame), "");
    }
    if frame.vector != TrapFrame::TICK {
        // Should the guest end by it, the supervisor can tell the registers.
        // SAFETY: mapped for the process's life.
        unsafe {
            (*state.report).registers = *frame;
            (*state.report).has_registers = 1;
        }
    }
    let top = state.trap_stack.get().end - TrapFrame::SIZE as u64;
    let at = top & !15;
    if GuestMemory.write(at, frame.as_bytes()).is_err() {
        end_with_fault(Some(frame), "");
    }
    Entry {
        frame: at,
        // As behind a call: 8 bytes off the 16-byte alignment.
        stack: at - 8,
        code: state.trap_entry.get(),
    }
}

/// Ends the guest as it wishes.
pub fn end(exit: &Exit) -> ! {
    // SAFETY: the process ends here; whoever else holds a reference does not come to use it again.
    let state = unsafe { state() };
    // SAFETY: mapped for the process's life.
    let report = unsafe { &mut *state.report };
    if !state.ending.replace(true) {
        // First what is certain: a buffer that cannot be read ends this in `end_with_fault`.
        report.reason = exit.reason;
        report.code = exit.code;
        report.ended = 1;
        let frames = (exit.frames.len / 8).min(MAX_FRAMES as u64);
        for (index, to) in report.frames.iter_mut().take(frames as usize).enumerate() {
            let mut word = [0; 8];
            let addr = exit.frames.addr.saturating_add(index as u64 * 8);
            if GuestMemory.read(addr, &mut word).is_err() {
                break;
            }
            *to = u64::from_le_bytes(word);
            report.frame_count = index as u32 + 1;
        }
        let len = exit.message.len.min(MAX_MESSAGE as u64) as usize;
        if let Some(to) = report.message.get_mut(..len)
            && GuestMemory.read(exit.message.addr, to).is_ok()
        {
            report.message_len = len as u32;
        }
    }
    sys::exit(exit.code & 0xff)
}

/// Ends a guest that faulted where no trap can be delivered. `frame` is its state, if it is known; `what` is told else.
pub fn end_with_fault(frame: Option<&TrapFrame>, what: &str) -> ! {
    // SAFETY: as in `end`.
    let state = unsafe { state() };
    // A fault while ending: what the guest wished holds.
    let again = state.ending.replace(true);
    let mut code = 128 + 11;
    // SAFETY: mapped for the process's life.
    let report = unsafe { &mut *state.report };
    if again {
        code = report.code;
    } else {
        if let Some(frame) = frame {
            code = 128 + frame.signal;
            report.registers = *frame;
            report.has_registers = 1;
            report.frames[0] = frame.rip;
            report.frame_count = 1;
        }
        report.reason = ExitReason::Fault as u32;
        report.code = code;
        say(report, what);
        report.ended = 1;
    }
    sys::exit(code & 0xff)
}

/// Ends a process that is not a guest yet.
pub fn end_with(state: &State, reason: u32, code: u32, message: &str) -> ! {
    // SAFETY: mapped for the process's life.
    let report = unsafe { &mut *state.report };
    report.reason = reason;
    report.code = code;
    say(report, message);
    report.ended = 1;
    sys::exit(code)
}

fn say(report: &mut Report, message: &str) {
    for (to, from) in report.message.iter_mut().zip(message.bytes()) {
        *to = from;
        report.message_len += 1;
    }
}
