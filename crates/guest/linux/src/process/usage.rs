//! Processor time.

use super::{Process, Thread};

/// Nanoseconds that a thread has run.
pub fn of_thread(thread: &Thread) -> u64 {
    super::sched::used(thread)
}

/// Nanoseconds that all threads of a process have run, those that are gone too.
pub fn of_process(process: &Process) -> u64 {
    let threads = process.threads.borrow();
    let running: u64 = threads.values().map(|thread| of_thread(thread)).sum();
    process.used_before.get() + running
}
