//! Calls at fixed addresses (`vsyscall`), which old static programs make: `gettimeofday(2)`, `time(2)` and `getcpu(2)`.
//!
//! Most hosts still answer at these addresses and turn each into the system call, which then arrives as any other. On those that do not,
//! and where the host's addresses are not there at all, the program faults there, and this does what the host would have done.

use alloc::rc::Rc;

use kiln_abi::trap::TrapFrame;

use crate::process::Thread;
use crate::syscalls::{self, Args};
use crate::user::UserAddr;

const PAGE_FAULT: u32 = 14;
/// Where they are, with the numbers of the system calls.
const CALLS: [(u64, u64); 3] = [
    (0xffff_ffff_ff60_0000, 96),
    (0xffff_ffff_ff60_0400, 201),
    (0xffff_ffff_ff60_0800, 309),
];

/// The system call that a fault stands for.
pub(super) fn call_of(frame: &TrapFrame) -> Option<u64> {
    if frame.vector != PAGE_FAULT || frame.address != frame.rip {
        return None;
    }
    let call = CALLS.iter().find(|(at, _)| *at == frame.rip);
    call.map(|&(_, number)| number)
}

/// Makes it, and goes back to the caller.
pub(super) fn perform(thread: &Rc<Thread>, number: u64) {
    let mut registers = thread.registers.get();
    let Ok(back) = UserAddr(registers.rsp).read::<u64>() else {
        crate::signal::fault(thread, 11, 1, registers.rsp, u64::from(PAGE_FAULT), 4);
        return;
    };
    registers.rip = back;
    registers.rsp = registers.rsp.wrapping_add(8);
    thread.registers.set(registers);
    let args = Args([registers.rdi, registers.rsi, registers.rdx, 0, 0, 0]);
    let result = syscalls::perform(thread, number, args);
    let mut registers = thread.registers.get();
    registers.rax = result;
    thread.registers.set(registers);
}
