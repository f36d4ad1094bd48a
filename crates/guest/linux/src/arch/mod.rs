//! Entry, return, traps and thread switches, on x86-64.
//!
//! A program and the library OS run in one address space and at the same privilege. What divides them are the entries of this module:
//!
//! | module | its part |
//! | --- | --- |
//! | [`entry`] | system calls: from the program to [`on_call`] and back, register by register |
//! | [`trap`] | faults and ticks |
//! | [`mod@switch`] | kernel stacks, and going from one thread to another |
//! | [`fpu`] | the program's FPU state |
//! | [`copy`] | the program's memory, with a way out of faults |
//! | [`patch`] | system calls without a trap |
//!
//! The library OS uses general registers and the lower halves of vector registers (SSE2) only, both saved at every entry. Everything
//! else of the processor's state stays where it is while a call is served, and is exchanged only when another thread returns to its
//! program. For the same reason it has no thread-local storage: FS and GS are the program's throughout.
//!
//! Invariants that the `unsafe` code here rests on:
//! 1. There is one virtual CPU, and the library OS is not preempted: [`CPU`] and the other statics have one user at a time.
//! 2. A thread that was [prepared](switch::prepare) holds a reference on itself until its kernel stack is given back, so [`Cpu::current`] is
//!    valid while any of its frames is.
//! 3. [`Cpu::registers_end`] and [`Cpu::stack_top`] are those of [`Cpu::current`].

pub mod copy;
pub mod entry;
pub mod fpu;
pub mod patch;
pub mod switch;
pub mod trap;
mod vsyscall;

use alloc::rc::Rc;
use core::cell::{Cell, UnsafeCell};
use core::mem::{ManuallyDrop, offset_of};

use crate::process::{Registers, RunState, Thread, sched};
use crate::syscalls::Args;

/// A static that only the one virtual CPU uses.
#[repr(transparent)]
pub struct OneCpu<T>(UnsafeCell<T>);

// SAFETY: invariant 1.
unsafe impl<T> Sync for OneCpu<T> {}

impl<T> OneCpu<T> {
    /// With this value.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Where it lies.
    pub const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// What the entries need at hand. Assembly knows the places of the fields.
#[repr(C)]
pub struct Cpu {
    /// Behind the running thread's [`Registers`].
    pub registers_end: u64,
    /// Upper end of its kernel stack.
    pub stack_top: u64,
    /// The program's stack pointer, between an entry's first instruction and the third.
    pub saved_rsp: u64,
    /// Where the last jump of a return goes.
    pub return_rip: u64,
    /// The same for the return from a trap in the library OS.
    pub trap_rip: u64,
    /// Its stack pointer.
    pub trap_rsp: u64,
    /// The address of the last fault while copying.
    pub fault_address: u64,
    /// What that access was: the processor's error code.
    pub fault_error: u64,
    /// Where the image lies.
    pub image_start: u64,
    /// Its length.
    pub image_size: u64,
    /// Calls that came by a trap.
    pub trapped: u64,
    /// Calls that came from a stub.
    pub direct: u64,
    /// Not 0 if a tick came while the library OS ran: the monitor writes it.
    pub deferred: u64,
    /// The running thread; null while there is none.
    pub current: *const Thread,
    /// Whose state the upper halves of the vector registers, the mask and x87 registers are; null if nobody's.
    pub fpu_owner: *const Thread,
    /// The FS base that was loaded last.
    pub fs_loaded: u64,
    /// The GS base that was loaded last.
    pub gs_loaded: u64,
}

/// There is one.
pub static CPU: OneCpu<Cpu> = OneCpu::new(Cpu {
    registers_end: 0,
    stack_top: 0,
    saved_rsp: 0,
    return_rip: 0,
    trap_rip: 0,
    trap_rsp: 0,
    fault_address: 0,
    fault_error: 0,
    image_start: 0,
    image_size: 0,
    trapped: 0,
    direct: 0,
    deferred: 0,
    current: core::ptr::null(),
    fpu_owner: core::ptr::null(),
    fs_loaded: 0,
    gs_loaded: 0,
});

const _: () = {
    assert!(offset_of!(Cpu, registers_end) == 0 && offset_of!(Cpu, stack_top) == 8);
    assert!(offset_of!(Cpu, saved_rsp) == 16 && offset_of!(Cpu, return_rip) == 24);
    assert!(offset_of!(Cpu, trap_rip) == 32 && offset_of!(Cpu, trap_rsp) == 40);
    assert!(offset_of!(Cpu, fault_address) == 48 && offset_of!(Cpu, fault_error) == 56);
    assert!(offset_of!(Cpu, trapped) == 80 && offset_of!(Cpu, direct) == 88);
    assert!(offset_of!(Cpu, deferred) == 96);
    assert!(offset_of!(Cpu, image_start) == 64 && offset_of!(Cpu, image_size) == 72);
    // The entries push these from the end.
    assert!(size_of::<Registers>() == 19 * 8);
    assert!(offset_of!(Registers, r15) == 0 && offset_of!(Registers, rdi) == 14 * 8);
    assert!(offset_of!(Registers, orig_rax) == 15 * 8 && offset_of!(Registers, rip) == 16 * 8);
    assert!(offset_of!(Registers, rflags) == 17 * 8 && offset_of!(Registers, rsp) == 18 * 8);
};

/// What is kept of a thread.
#[derive(Debug, Default)]
pub struct ThreadState {
    /// Its kernel stack; 0 before it is prepared.
    pub(crate) stack: Cell<u64>,
    /// The stack pointer while another thread runs.
    pub(crate) rsp: Cell<u64>,
    /// Its FPU state while another thread's is in the processor.
    pub(crate) fpu: fpu::Area,
}

/// The processor's state.
pub(crate) fn cpu() -> *mut Cpu {
    CPU.get()
}

/// The running thread.
pub(crate) fn current() -> Option<ManuallyDrop<Rc<Thread>>> {
    // SAFETY: invariant 2; the count is not touched.
    unsafe {
        let current = (*cpu()).current;
        (!current.is_null()).then(|| ManuallyDrop::new(Rc::from_raw(current)))
    }
}

/// A program's system call. Called by [`entry`] on the thread's kernel stack.
extern "C" fn on_call(registers: *mut Registers) {
    // SAFETY: the entry is only reached from a thread, and these are its registers.
    let (current, number, args) = unsafe {
        let r = &*registers;
        let args = Args([r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]);
        ((*cpu()).current, r.orig_rax, args)
    };
    // SAFETY: invariant 2.
    let thread = ManuallyDrop::new(unsafe { Rc::from_raw(current) });
    patch::look(&thread, registers);
    let result = crate::syscalls::perform(&thread, number, args);
    // SAFETY: as above; nobody holds a reference to them.
    unsafe { (*registers).rax = result };
    let restart = (-516..=-512).contains(&result.cast_signed());
    before_return(&thread, restart);
}

/// What there is to do before a thread goes on in its program.
fn before_return(thread: &Rc<Thread>, restart: bool) {
    let mut restart = restart;
    loop {
        if thread.state.get() == RunState::Dead {
            switch::leave(thread);
        }
        if take_deferred() {
            on_tick(thread);
        }
        crate::platform::plan_tick_if_earlier();
        crate::platform::frames_leave_if_late();
        if crate::platform::kernel_ref().scheduler.must_give_way() {
            sched::give_way(thread);
        }
        if !restart && !thread.work.get() {
            break;
        }
        restart = false;
        let mut registers = thread.registers.get();
        if patch::leave_stub(&mut registers) {
            thread.registers.set(registers);
        }
        if !crate::signal::before_return(thread) {
            switch::leave(thread);
        }
        patch::enter_stub(thread);
    }
    fpu::own(thread);
    switch::load_bases(thread);
}

/// True if a tick has come since this was asked last.
pub(crate) fn take_deferred() -> bool {
    // SAFETY: the monitor writes whole words of it, at moments when nothing here runs.
    unsafe { (&raw mut (*cpu()).deferred).replace_volatile(0) != 0 }
}

/// The end of a time slice, or the time of a timer.
pub(crate) fn on_tick(thread: &Rc<Thread>) {
    sched::account(thread);
    crate::platform::look_around();
    crate::platform::plan_tick();
    crate::process::usage::check_limit(&thread.process);
    crate::process::rseq::preempted(thread);
    sched::give_way(thread);
}

trait ReplaceVolatile<T> {
    unsafe fn replace_volatile(self, value: T) -> T;
}

impl ReplaceVolatile<u64> for *mut u64 {
    unsafe fn replace_volatile(self, value: u64) -> u64 {
        // SAFETY: the caller's.
        unsafe {
            let old = self.read_volatile();
            if old != value {
                self.write_volatile(value);
            }
            old
        }
    }
}
