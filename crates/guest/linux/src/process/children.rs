//! What becomes of child processes, and of threads that are looked at: who waits for them is told (`wait4(2)`).

use alloc::rc::Rc;

use super::{Process, Thread, trace};
use crate::wait::{Events, sleep_until};
use crate::{Errno, Result};

/// Whom `wait4(2)` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Any child.
    Any,
    /// The one with this number.
    Number(u32),
    /// Those of a process group.
    Group(u32),
}

impl Whom {
    /// As the call's first argument says it.
    pub fn of(pid: i32, own_group: u32) -> Self {
        match pid {
            -1 => Self::Any,
            0 => Self::Group(own_group),
            1.. => Self::Number(pid.unsigned_abs()),
            _ => Self::Group(pid.unsigned_abs()),
        }
    }

    fn is(self, number: u32, process: &Process) -> bool {
        match self {
            Self::Any => true,
            Self::Number(wanted) => wanted == number,
            Self::Group(group) => process.group.get() == group,
        }
    }
}

/// The number and the status of a child that has ended or a thread that has stopped; `None` if none has, and `wait` is false.
///
/// # Errors
/// `ECHILD` if there is none to wait for; `ERESTARTSYS`.
pub fn wait(thread: &Rc<Thread>, whom: Whom, wait: bool) -> Result<Option<(u32, u32)>> {
    let waiter = &thread.process;
    if let Some(found) = news(waiter, whom)? {
        return Ok(Some(found));
    }
    if !wait {
        return Ok(None);
    }
    let found = sleep_until(thread, &[&waiter.child_wait], None, || {
        news(waiter, whom).transpose()
    })?;
    found.map(Some)
}

/// What there is to tell, which is told once.
fn news(waiter: &Process, whom: Whom) -> Result<Option<(u32, u32)>> {
    const STOPPED: u32 = 0x7f;
    let processes = &crate::kernel().processes;
    let mut any = false;
    for process in processes.all() {
        for thread in process.all_threads() {
            if thread.tracing.tracer() == waiter.pid && whom.is(thread.tid, &process) {
                any = true;
                if let Some(signal) = thread.tracing.take_news() {
                    return Ok(Some((thread.tid, signal << 8 | STOPPED)));
                }
            }
        }
        if process.parent.get() != waiter.pid || !whom.is(process.pid, &process) {
            continue;
        }
        any = true;
        let gone = process.threads.borrow().is_empty();
        if let Some(status) = process.status.get().filter(|_| gone) {
            processes.forget(process.pid);
            return Ok(Some((process.pid, status)));
        }
    }
    if any { Ok(None) } else { Err(Errno::ECHILD) }
}

/// A process other than the first has ended: its children have another parent, whom it looked at goes on, and its own parent is told.
pub(super) fn ended(process: &Rc<Process>) {
    const FIRST: u32 = 1;
    let processes = &crate::kernel().processes;
    trace::tracer_ended(process);
    for other in processes.all() {
        if other.parent.get() == process.pid {
            other.parent.set(FIRST);
        }
    }
    let Some(parent) = processes.process(process.parent.get()) else {
        return;
    };
    if process.exit_signal.get() != 0 {
        let uid = process.credentials.borrow().uid;
        let info = crate::signal::Info::user(
            process.exit_signal.get(),
            crate::signal::info::SI_USER,
            process.pid,
            uid,
        );
        // A standard signal needs no room of its own: this cannot fail.
        let _ = crate::signal::send_to_process(&parent, info);
    }
    parent.child_wait.wake_all(Events::empty());
}
