//! Exceptions and ticks become trap frames of the guest ([`kiln_abi::trap`]).
#![allow(unsafe_code)]

use kiln_abi::layout::Record;
use kiln_abi::perform::Memory;
use kiln_abi::trap::{TrapFrame, is_host_call, signal_of};

use crate::cpu::MAILBOX;
use crate::end;
use crate::memory::GuestMemory;
use crate::state::{State, state};

/// What the gates leave on the stack for traps.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Saved {
    /// rax, rbx, rcx, rdx, rsi, rdi, rbp, r8 to r15.
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Index of `rdi` among the saved registers.
const RDI: usize = 5;
/// Trap flag, direction flag, alignment check: off in a trap entry.
const CLEARED_FLAGS: u64 = 1 << 8 | 1 << 10 | 1 << 18;

const PAGE_FAULT: u32 = 14;

/// The handler of all exceptions and ticks. It changes where the interrupted code goes on, and returns.
///
/// # Safety
/// Called by the gates only.
pub unsafe extern "C" fn trap(saved: &mut Saved) {
    // SAFETY: code of the machine part that was interrupted may hold a reference too, but then this ends the machine:
    // ticks never interrupt it.
    let state = unsafe { state() };
    // SAFETY: the mailbox is written by the stub only, before it comes here.
    let (tick, address) = unsafe {
        let mailbox = MAILBOX.get();
        let tick = (&raw mut (*mailbox).tick).replace(0) != 0;
        (tick, (&raw const (*mailbox).address).read_volatile())
    };
    #[cfg(feature = "program")]
    if !tick && saved.vector == u64::from(PAGE_FAULT) && state.resolve(address, saved.error) {
        state.tell_missed_tick();
        return;
    }
    #[cfg(feature = "program")]
    let in_program = state.in_program(saved.rip);
    #[cfg(not(feature = "program"))]
    let in_program = false;
    #[cfg(feature = "program")]
    if tick && !in_program && state.defer_tick() {
        return;
    }
    let stack = state.trap_stack;
    let below_top = saved.rsp.wrapping_sub(1).wrapping_sub(stack.addr);
    // A program's stack pointer may hold anything.
    let in_trap = below_top < stack.len && !in_program;
    if tick && (in_trap || state.trap_entry == 0) {
        return;
    }
    let frame = describe(state, saved, address, tick);
    let in_machine = (0x10_0000..state.code_end).contains(&saved.rip) || !state.running;
    if in_machine || in_trap || state.trap_entry == 0 {
        end::with_fault(state, Some(&frame), b"");
    }
    if !tick {
        // Should the guest end by it, the registers can be told.
        state.registers = frame;
    }
    let at = (stack.addr + stack.len - TrapFrame::SIZE as u64) & !15;
    if GuestMemory(&state.layout)
        .write(at, frame.as_bytes())
        .is_err()
    {
        end::with_fault(state, Some(&frame), b"");
    }
    if let Some(rdi) = saved.registers.get_mut(RDI) {
        *rdi = at;
    }
    // As behind a call: 8 bytes off the 16-byte alignment.
    saved.rsp = at - 8;
    saved.rip = state.trap_entry;
    saved.rflags &= !CLEARED_FLAGS;
}

fn describe(state: &mut State, saved: &Saved, address: u64, tick: bool) -> TrapFrame {
    let mut frame = TrapFrame {
        rip: saved.rip,
        rflags: saved.rflags,
        vector: saved.vector as u32,
        error: saved.error as u32,
        signal: signal_of(saved.vector as u32),
        ..TrapFrame::default()
    };
    let (low, high) = frame.registers.split_at_mut(TrapFrame::RSP);
    let (saved_low, saved_high) = saved.registers.split_at(TrapFrame::RSP);
    low.copy_from_slice(saved_low);
    if let Some((rsp, high)) = high.split_first_mut() {
        *rsp = saved.rsp;
        for (to, from) in high.iter_mut().zip(saved_high) {
            *to = *from;
        }
    }
    if tick {
        frame.vector = TrapFrame::TICK;
        frame.signal = 14;
    } else if frame.vector == PAGE_FAULT {
        frame.address = address;
    } else if is_system_call(state, &frame) {
        frame.vector = TrapFrame::HOST_CALL;
        frame.signal = 31;
        frame.address = saved.registers.first().map_or(0, |rax| rax & 0xffff_ffff);
    }
    frame
}

/// Whether the instruction that faulted is a system call: `syscall`, `int 0x80` or `sysenter`.
fn is_system_call(state: &mut State, frame: &TrapFrame) -> bool {
    #[cfg(feature = "program")]
    if let Some(code) = state.code_at(frame.rip) {
        return is_host_call(frame.vector, code) && code == [0x0f, 0x05];
    }
    if !state.layout.text.contains(frame.rip, 2) {
        return false;
    }
    // SAFETY: the image's code, which is always mapped.
    let code = unsafe { (frame.rip as *const [u8; 2]).read() };
    is_host_call(frame.vector, code)
}
