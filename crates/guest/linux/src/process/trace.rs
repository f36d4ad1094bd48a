//! Threads that another process looks at (`ptrace(2)`): attaching, stops, going on.
//!
//! What sanitizers do to find leaks: a child that shares the program's memory ([`clone`](super::clone)) stops every thread of the
//! program, reads its registers, and lets it go on.

use alloc::rc::Rc;
use core::cell::Cell;

use super::{Process, Registers, Thread, sched};
use crate::signal::{self, Info, number};
use crate::wait::Events;
use crate::{Errno, Result};

/// What is kept of a thread that is looked at.
#[derive(Debug, Default)]
pub struct Tracing {
    /// The process that looks at it; 0 if none does.
    tracer: Cell<u32>,
    /// The signal for which it has stopped.
    stopped: Cell<Option<u32>>,
    /// The tracer has been told of the stop.
    told: Cell<bool>,
    /// The signal that it goes on with; 0 for none.
    goes_on_with: Cell<u32>,
}

impl Tracing {
    /// The process that looks at the thread; 0 if none does.
    pub fn tracer(&self) -> u32 {
        self.tracer.get()
    }

    /// The signal of a stop that the tracer has not been told of; it has been now.
    pub fn take_news(&self) -> Option<u32> {
        let stopped = self.stopped.get()?;
        (!self.told.replace(true)).then_some(stopped)
    }
}

/// `PTRACE_ATTACH`: the thread will stop with `SIGSTOP`.
///
/// # Errors
/// `EPERM` for threads of the same process, those that are looked at already, and processes that do not allow it.
pub fn attach(tracer: &Rc<Thread>, thread: &Rc<Thread>) -> Result {
    let process = &thread.process;
    let uid = tracer.process.credentials.borrow().uid;
    let allowed = process.attributes.dumpable.get() == 1 || uid == 0;
    if Rc::ptr_eq(process, &tracer.process) || thread.tracing.tracer() != 0 || !allowed {
        return Err(Errno::EPERM);
    }
    thread.tracing.tracer.set(tracer.process.pid);
    let pid = tracer.process.pid;
    let stop = Info::user(number::STOP, signal::info::SI_USER, pid, uid);
    signal::send_to_thread(thread, stop).map(drop)
}

/// The thread, if the tracer looks at it and it has stopped.
///
/// # Errors
/// `ESRCH`.
pub fn stopped(tracer: &Thread, tid: u32) -> Result<Rc<Thread>> {
    let thread = crate::kernel().processes.thread(tid).ok_or(Errno::ESRCH)?;
    let tracing = &thread.tracing;
    if tracing.tracer() != tracer.process.pid || tracing.stopped.get().is_none() {
        return Err(Errno::ESRCH);
    }
    Ok(thread)
}

/// Lets a stopped thread go on, with a signal or with none (0).
pub fn go_on(thread: &Thread, signal: u32) {
    thread.tracing.goes_on_with.set(signal);
    thread.tracing.stopped.set(None);
    sched::wake(thread);
}

/// `PTRACE_DETACH`: nobody looks at the thread any more, and it goes on.
pub fn detach(thread: &Thread, signal: u32) {
    thread.tracing.tracer.set(0);
    go_on(thread, signal);
}

/// A thread that is looked at takes a signal: it stops, and its tracer decides what becomes of it. `None` if nothing does.
pub fn stop(thread: &Rc<Thread>, info: Info) -> Option<Info> {
    let tracing = &thread.tracing;
    let number = info.signal();
    if tracing.tracer() == 0 || number == number::KILL {
        return Some(info);
    }
    let Some(tracer) = crate::kernel().processes.process(tracing.tracer()) else {
        tracing.tracer.set(0);
        return Some(info);
    };
    tracing.goes_on_with.set(0);
    tracing.told.set(false);
    tracing.stopped.set(Some(number));
    tracer.child_wait.wake_all(Events::empty());
    while tracing.stopped.get().is_some() && !signal::is_killed(thread) {
        sched::park(thread, None);
    }
    tracing.stopped.set(None);
    match tracing.goes_on_with.get() {
        0 => None,
        same if same == number => Some(info),
        other => Some(Info::kernel(other)),
    }
}

/// In tests, where no second thread runs: the thread is as [`stop`] leaves it while it waits.
#[cfg(test)]
pub fn pretend_stop(thread: &Thread, signal: u32) {
    thread.tracing.told.set(false);
    thread.tracing.stopped.set(Some(signal));
}

/// A process has ended: whom it looked at goes on.
pub(super) fn tracer_ended(process: &Process) {
    for other in crate::kernel().processes.all() {
        for thread in other.all_threads() {
            if thread.tracing.tracer() == process.pid {
                detach(&thread, 0);
            }
        }
    }
}

/// Words of `struct user_regs_struct`.
pub const REGISTER_WORDS: usize = 27;

/// A thread's registers as debuggers have them (`struct user_regs_struct`).
pub fn registers(thread: &Thread) -> [u64; REGISTER_WORDS] {
    const CODE: u64 = 0x33;
    const STACK: u64 = 0x2b;
    let Registers {
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
        orig_rax,
        rip,
        rflags,
        rsp,
    } = thread.registers.get();
    let (fs, gs) = (thread.fs_base.get(), thread.gs_base.get());
    [
        r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip,
        CODE, rflags, rsp, STACK, fs, gs, 0, 0, 0, 0,
    ]
}
