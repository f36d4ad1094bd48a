//! The end of threads and processes (`_exit(2)`, `exit_group(2)`).

use alloc::rc::Rc;

use super::{Process, RunState, Thread, futex};
use crate::platform;
use crate::user::UserAddr;
use crate::wait::Events;

/// In a status of `wait(2)`: memory was kept for a debugger.
pub const CORE_DUMPED: u32 = 0x80;

/// Bits of a status that hold the signal.
const SIGNAL: u32 = 0x7f;

/// Ends a thread; `code` is its process's exit code if it is the last one.
///
/// The thread is out of all lists afterwards and [`RunState::Dead`]. It still runs on its kernel stack: whoever takes it back to the program
/// finds [`work`](Thread::work) set, is told by [`before_return`](crate::signal::before_return), and gives the processor away for good.
pub fn exit_thread(thread: &Rc<Thread>, code: u32) {
    if thread.state.get() == RunState::Dead {
        return;
    }
    thread.work.set(true);
    futex::robust::walk(thread);
    futex::pi::owner_died(thread);
    let clear = thread.clear_tid.replace(0);
    if clear != 0 && UserAddr(clear).write(0u32).is_ok() {
        futex::wake(thread, clear, 1, u32::MAX);
    }
    let process = &thread.process;
    let used = process.used_before.get() + super::usage::of_thread(thread);
    process.used_before.set(used);
    if process.threads.borrow().len() == 1 {
        // Nobody is left to be told of an error.
        let _ = process.memory.save();
    }
    crate::kernel().processes.remove_thread(thread);
    thread.state.set(RunState::Dead);
    let tracer = thread.tracing.tracer();
    if let Some(tracer) = crate::kernel().processes.process(tracer) {
        tracer.child_wait.wake_all(Events::empty());
    }
    if process.threads.borrow().is_empty() {
        if process.status.get().is_none() {
            process.status.set(Some((code & 0xff) << 8));
        }
        ended(process);
    } else {
        // One that waits to be alone (execve(2)).
        let others = process.threads.borrow();
        if others.len() == 1
            && let Some(last) = others.values().next()
        {
            super::sched::wake(last);
        }
        drop(others);
        // Signals of the process that only this thread would have taken.
        crate::signal::mask::hand_on(process);
    }
}

/// Ends a process with all its threads. `status` is as `wait(2)` tells it: `code << 8`, or a signal's number with
/// [`CORE_DUMPED`] or without.
///
/// The first process takes the machine with it at once. The threads of others end on their way back to the program.
pub fn exit_group(process: &Rc<Process>, status: u32) {
    if process.status.get().is_some() {
        return;
    }
    process.status.set(Some(status));
    if process.pid == 1 {
        // Nobody is left to be told of an error.
        let _ = process.memory.save();
        ended(process);
    }
    process.signals.stopped.set(None);
    crate::signal::mask::alert_all(process);
}

/// The process has no threads any more.
fn ended(process: &Rc<Process>) {
    process.timers.clear();
    let first = process.pid == 1;
    // Descriptions are closed without the table being borrowed: closing may look at it. Others may have the same table.
    if first || Rc::strong_count(&process.files) == 1 {
        for fd in process.files.numbers() {
            drop(process.files.remove(fd));
        }
    }
    if first {
        platform::turn();
        let status = process.status.get().unwrap_or(0);
        let signal = status & SIGNAL;
        let code = if signal == 0 {
            (status >> 8) as u8
        } else {
            // As a shell shows it.
            128 + signal as u8
        };
        platform::end(code, signal);
    }
    super::children::ended(process);
}
