//! Kernel stacks, and going from one thread to another.
//!
//! Every thread has a stack in the library OS, on which its calls run; below it lies a page that faults. A thread that sleeps in a call leaves
//! there what it needs to go on. [`to_next`] waits for devices on the stack of whoever gave up the processor last, so a thread that is
//! woken before another one has run goes on without any switch.

use alloc::alloc::{Layout, alloc, dealloc};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::arch::{asm, global_asm};
use core::mem::ManuallyDrop;

use super::entry::FRAME;
use super::{OneCpu, before_return, cpu, current, fpu};
use crate::process::{Registers, RunState, Thread, sched};
use crate::{Errno, Result, platform};

/// Bytes of a kernel stack, the page below it included.
const SIZE: usize = 64 * 1024;
const PAGE: usize = 4096;
/// Unused stacks that are kept.
const KEPT: usize = 32;

const LAYOUT: Layout = match Layout::from_size_align(SIZE, PAGE) {
    Ok(layout) => layout,
    Err(_) => panic!("a constant"),
};

static POOL: OneCpu<Vec<u64>> = OneCpu::new(Vec::new());

/// The thread that has left the processor for good, whose stack is given back by the next one.
static LEFT: OneCpu<*const Thread> = OneCpu::new(core::ptr::null());

global_asm!(
    ".pushsection .text.kiln_linux_switch,\"ax\",@progbits",
    ".globl kiln_linux_switch",
    ".hidden kiln_linux_switch",
    // rdi where to leave the stack pointer, rsi the other's.
    "kiln_linux_switch:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rdi], rsp",
    "mov rsp, rsi",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    // Where a new thread begins, its stack as an entry leaves it.
    "kiln_linux_begin:",
    "xor ebp, ebp",
    "call {begun}",
    "jmp kiln_linux_return",
    ".globl kiln_linux_begin",
    ".hidden kiln_linux_begin",
    ".popsection",
    begun = sym begun,
);

unsafe extern "C" {
    fn kiln_linux_switch(save: *mut u64, load: u64);
    fn kiln_linux_begin();
}

/// Upper end of the stack that begins at `stack`.
pub(super) const fn top(stack: u64) -> u64 {
    stack + SIZE as u64
}

fn take_stack() -> Option<u64> {
    // SAFETY: invariant 1.
    if let Some(stack) = unsafe { (*POOL.get()).pop() } {
        return Some(stack);
    }
    // SAFETY: not of size zero.
    let stack = unsafe { alloc(LAYOUT) };
    if stack.is_null() {
        return None;
    }
    platform::guard(stack as u64, PAGE as u64, true);
    Some(stack as u64)
}

fn give_stack(stack: u64) {
    // SAFETY: invariant 1.
    let pool = unsafe { &mut *POOL.get() };
    if pool.len() < KEPT {
        pool.push(stack);
        return;
    }
    platform::guard(stack, PAGE as u64, false);
    // SAFETY: allocated with this layout; its thread has left it.
    unsafe { dealloc(stack as *mut u8, LAYOUT) };
}

/// Gives a thread a kernel stack from which it goes to its program, with the registers that it has then. It holds a reference on itself
/// until it has [left](leave).
pub(crate) fn prepare(thread: &Rc<Thread>) -> Result {
    let state = &thread.arch;
    if state.stack.get() != 0 {
        return Ok(());
    }
    let stack = take_stack().ok_or(Errno::ENOMEM)?;
    state.stack.set(stack);
    fpu::inherit(thread);
    let words: [u64; 7] = [0, 0, 0, 0, 0, 0, kiln_linux_begin as *const () as u64];
    let rsp = top(stack) - FRAME - size_of_val(&words) as u64;
    // SAFETY: inside of the new stack, below the entry's part of it.
    unsafe { (rsp as *mut [u64; 7]).write(words) };
    state.rsp.set(rsp);
    // Given back in `reap`.
    let _held = ManuallyDrop::new(thread.clone());
    Ok(())
}

/// The first steps of a new thread.
extern "C" fn begun() {
    reap();
    if let Some(thread) = current() {
        before_return(&thread, false);
    }
}

/// Gives the processor to the thread that is next; comes back when it is this one's turn again.
pub(crate) fn to_next(thread: &Rc<Thread>) {
    sched::account(thread);
    let next = platform::wait_for_next();
    sched::begin(Some(&next));
    if Rc::ptr_eq(&next, thread) {
        return;
    }
    let save = thread.arch.rsp.as_ptr();
    go(next, save);
    reap();
}

/// The thread has ended: it gives the processor away for good.
pub(super) fn leave(thread: &Rc<Thread>) -> ! {
    sched::account(thread);
    sched::begin(None);
    thread.state.set(RunState::Dead);
    let next = platform::wait_for_next();
    sched::begin(Some(&next));
    fpu::forget(Rc::as_ptr(thread));
    // SAFETY: invariant 1.
    unsafe { *LEFT.get() = Rc::as_ptr(thread) };
    go(next, thread.arch.rsp.as_ptr());
    unreachable!("a thread that has left is never next");
}

/// Starts with the first thread, from the stack of the boot.
pub(crate) fn begin_with(thread: &Rc<Thread>) -> ! {
    static BOOT: OneCpu<u64> = OneCpu::new(0);
    sched::begin(Some(thread));
    go(thread.clone(), BOOT.get());
    unreachable!("nobody goes back to the boot");
}

fn go(next: Rc<Thread>, save: *mut u64) {
    // SAFETY: invariants 1 to 3; the thread's stack was prepared, or left by this function.
    unsafe {
        let cpu = cpu();
        if !(*cpu).current.is_null() {
            keep_bases(&*(*cpu).current);
        }
        (*cpu).current = Rc::as_ptr(&next);
        (*cpu).registers_end = next.registers.as_ptr() as u64 + size_of::<Registers>() as u64;
        (*cpu).stack_top = top(next.arch.stack.get());
        let load = next.arch.rsp.get();
        let stack = next.arch.stack.get();
        kiln_rt::backtrace::on_stack(stack + PAGE as u64, top(stack));
        // It holds itself.
        drop(next);
        kiln_linux_switch(save, load);
    }
}

/// Gives back the stack of a thread that has left.
fn reap() {
    // SAFETY: invariant 1; the reference is the one that `prepare` has kept.
    unsafe {
        let left = core::mem::replace(&mut *LEFT.get(), core::ptr::null());
        if !left.is_null() {
            let thread = Rc::from_raw(left);
            give_stack(thread.arch.stack.replace(0));
            drop(thread);
        }
    }
}

fn fs_base() -> u64 {
    let base: u64;
    // SAFETY: the instruction is allowed: the monitor looks.
    unsafe { asm!("rdfsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) };
    base
}

fn gs_base() -> u64 {
    let base: u64;
    // SAFETY: likewise.
    unsafe { asm!("rdgsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) };
    base
}

/// Takes note of bases that the program has loaded by itself.
fn keep_bases(thread: &Thread) {
    let (fs, gs) = (fs_base(), gs_base());
    // SAFETY: invariant 1.
    unsafe {
        if fs != (*cpu()).fs_loaded {
            thread.fs_base.set(fs);
            (*cpu()).fs_loaded = fs;
        }
        if gs != (*cpu()).gs_loaded {
            thread.gs_base.set(gs);
            (*cpu()).gs_loaded = gs;
        }
    }
}

/// Loads the thread's bases if they are not those loaded last.
pub(super) fn load_bases(thread: &Thread) {
    let (fs, gs) = (thread.fs_base.get(), thread.gs_base.get());
    // SAFETY: invariant 1; the library OS uses neither segment. Whoever sets a base checks that it is canonical; if not, none is loaded.
    unsafe {
        if fs != (*cpu()).fs_loaded && fs < 1 << 47 {
            asm!("wrfsbase {}", in(reg) fs, options(nostack, preserves_flags));
            (*cpu()).fs_loaded = fs;
        }
        if gs != (*cpu()).gs_loaded && gs < 1 << 47 {
            asm!("wrgsbase {}", in(reg) gs, options(nostack, preserves_flags));
            (*cpu()).gs_loaded = gs;
        }
    }
}
