//! A first process for tests, with some memory of its own.

use alloc::rc::Rc;

use super::Thread;
use crate::platform::{self, Access, Backing, pretend};
use crate::syscalls::{self, Args};
use crate::user::{PAGE, UserAddr};

/// Where the memory of tests begins.
pub const MEMORY: UserAddr = UserAddr(0x10_0000);
/// Its length.
pub const MEMORY_LEN: u64 = 64 * PAGE;
/// The end of it, to be used as a stack.
pub const STACK: u64 = MEMORY.0 + MEMORY_LEN;

/// A machine with one process of one thread, which has [`MEMORY`].
pub fn first() -> Rc<Thread> {
    pretend::reset();
    let thread = crate::kernel().processes.first();
    let access = Access::READ | Access::WRITE;
    let mapped = platform::map(MEMORY.0, MEMORY_LEN, access, Backing::Zero);
    assert_eq!(mapped, Ok(()));
    let mut registers = thread.registers.get();
    registers.rsp = STACK - 1024;
    registers.rip = 0x40_0002;
    thread.registers.set(registers);
    thread
}

/// Makes a call as a program does, without what follows on the way back.
pub fn call<const N: usize>(thread: &Rc<Thread>, number: u64, given: [u64; N]) -> i64 {
    let mut args = [0; 6];
    args.iter_mut().zip(given).for_each(|(to, from)| *to = from);
    let mut registers = thread.registers.get();
    registers.orig_rax = number;
    thread.registers.set(registers);
    let result = syscalls::perform(thread, number, Args(args));
    let mut registers = thread.registers.get();
    registers.rax = result;
    thread.registers.set(registers);
    result.cast_signed()
}
