//! The last steps before the guest runs: unmap the monitor, install the filter, jump.

use core::arch::asm;

use kiln_abi::ExitReason;

use crate::state::{SIGNAL_STACK, State, state};
use crate::{sys, trap, vcpu};

/// Above the highest address a process can map on x86-64 with four-level page tables.
const TASK_END: u64 = 0x7fff_ffff_f000;
/// Exit code when the process could not be sealed: Kiln's own error, as docker's.
const CANNOT_SEAL: u32 = 125;

/// The blob's entry point: switches to a stack that stays and calls [`seal`].
///
/// # Safety
/// The monitor has filled the state in and mapped everything it names.
#[unsafe(export_name = "kiln_gate_start")]
pub unsafe extern "C" fn start() -> ! {
    // SAFETY: the caller's promise.
    let state = unsafe { state() };
    // A guest in a virtual machine uses its stack itself.
    let stack = if state.machine.run.is_null() {
        state.stack_top
    } else {
        (state.own_stack.as_ptr_range().end as u64) & !15
    };
    // SAFETY: the stack is mapped, unused and 16-byte aligned; `seal` never returns.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "call {seal}",
            "ud2",
            stack = in(reg) stack,
            seal = sym seal,
            options(noreturn),
        );
    }
}

/// Unmaps everything that is not to stay, sets the signal stack, installs the filter and starts the guest.
///
/// # Safety
/// As [`start`]; runs on the stack that it has chosen.
unsafe extern "C" fn seal() -> ! {
    // SAFETY: the caller's promise.
    let state = unsafe { state() };
    let mut from = 0;
    for keep in state.keep.iter().filter(|r| r.end > r.start) {
        if keep.start > from {
            // SAFETY: the monitor's own code and data, which nothing here uses any more.
            if unsafe { sys::munmap(from, keep.start) } < 0 {
                cannot_seal(state, "the monitor's memory cannot be unmapped");
            }
        }
        from = keep.end;
    }
    // SAFETY: likewise.
    if unsafe { sys::munmap(from, TASK_END) } < 0 {
        cannot_seal(state, "the monitor's memory cannot be unmapped");
    }
    // SAFETY: the signal stack is part of the state and used for nothing else.
    if unsafe { sys::sigaltstack(state.signal_stack.as_ptr() as u64, SIGNAL_STACK as u64) } < 0 {
        cannot_seal(state, "the signal stack is refused");
    }
    let filter = state.filter.get(..usize::from(state.filter_len));
    if filter.is_none_or(|filter| sys::set_filter(filter) < 0) {
        cannot_seal(state, "the seccomp filter is refused");
    }
    if !state.machine.run.is_null() {
        // SAFETY: the process is sealed, and a machine there means that the monitor has made one.
        unsafe { vcpu::run() }
    }
    // SAFETY: the monitor took the entry from a checked image and has mapped the image, stack and boot record. The
    // pushed zero is the return address that ends backtraces.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "push 0",
            "xor ebp, ebp",
            "cld",
            "jmp {entry}",
            stack = in(reg) state.stack_top,
            entry = in(reg) state.entry,
            in("rdi") state.boot,
            options(noreturn),
        );
    }
}

fn cannot_seal(state: &State, why: &str) -> ! {
    let exit = ExitReason::Boot as u32;
    trap::end_with(state, exit, CANNOT_SEAL, why)
}
