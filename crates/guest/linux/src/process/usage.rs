//! Processor time.

use alloc::rc::Rc;

use super::limits::INFINITY;
use super::{Process, Resource, Thread};
use crate::signal::{self, Info, number};

const SECOND: u64 = 1_000_000_000;

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

/// Tells a process that has used up its processor time: `SIGXCPU` each second beyond the soft limit, `SIGKILL` at the hard one (`getrlimit(2)`,
/// `RLIMIT_CPU`). To be asked now and then.
pub fn check_limit(process: &Rc<Process>) {
    let (soft, hard) = process.limit(Resource::Cpu);
    if soft == INFINITY && hard == INFINITY {
        return;
    }
    let seconds = of_process(process) / SECOND;
    // A process that has ended, or has been told already, is told nothing.
    if seconds >= hard {
        let _ = signal::send_to_process(process, Info::kernel(number::KILL));
    } else if seconds >= soft && seconds >= process.told_of_time.get() {
        process.told_of_time.set(seconds + 1);
        let _ = signal::send_to_process(process, Info::kernel(number::XCPU));
    }
}
