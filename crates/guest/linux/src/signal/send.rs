//! Sending signals, and taking them without a handler.

use alloc::rc::Rc;

use super::action::DEFAULT;
use super::mask::{alert, alert_all};
use super::{Action, FaultContext, Info, Set, bit, info, number};
use crate::process::{Process, Resource, Thread};
use crate::wait::Events;
use crate::{Errno, Result};

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It waits to be taken.
    Queued,
    /// It waits already: this one is one with the one before.
    Merged,
    /// The process ignores it.
    Ignored,
}

/// Sends a signal to a process: any of its threads may take it.
///
/// # Errors
/// `EAGAIN` if it carries something and too many signals wait (`RLIMIT_SIGPENDING`).
pub fn send_to_process(process: &Rc<Process>, info: Info) -> Result<Sent> {
    to_process(process, info, None)
}

/// The same for the signal of a timer, of which there is one for each at a time.
///
/// # Errors
/// `EAGAIN` as [`send_to_process`].
pub fn timer_to_process(process: &Rc<Process>, info: Info, id: u32) -> Result<Sent> {
    to_process(process, info, Some(id))
}

fn to_process(process: &Rc<Process>, info: Info, timer: Option<u32>) -> Result<Sent> {
    let number = info.signal();
    if bit(number) == 0 || process.status.get().is_some() {
        return Ok(Sent::Ignored);
    }
    prepare(process, number);
    let waiting = taker(process, number);
    let blocked_by_all = waiting.is_none();
    if is_dropped(process, number, blocked_by_all) {
        // One that waits for it in sigtimedwait(2) takes it although it is ignored.
        let awaited = waiting
            .as_ref()
            .is_some_and(|t| t.signals.waiting.get() & bit(number) != 0);
        if !awaited {
            return Ok(Sent::Ignored);
        }
    }
    let sent = queue(process, &process.signals.pending, info, timer)?;
    if let Some(thread) = waiting {
        alert(&thread);
    }
    process.signals.arrived.wake_all(Events::READABLE);
    Ok(sent)
}

/// Sends a signal to one thread.
///
/// # Errors
/// `EAGAIN` as [`send_to_process`].
pub fn send_to_thread(thread: &Rc<Thread>, info: Info) -> Result<Sent> {
    to_thread(thread, info, None)
}

/// The same for the signal of a timer.
///
/// # Errors
/// `EAGAIN` as [`send_to_process`].
pub fn timer_to_thread(thread: &Rc<Thread>, info: Info, id: u32) -> Result<Sent> {
    to_thread(thread, info, Some(id))
}

fn to_thread(thread: &Rc<Thread>, info: Info, timer: Option<u32>) -> Result<Sent> {
    let number = info.signal();
    let process = &thread.process;
    if bit(number) == 0 || process.status.get().is_some() {
        return Ok(Sent::Ignored);
    }
    prepare(process, number);
    let blocked = thread.signals.blocked.get() & bit(number) != 0;
    let awaited = thread.signals.waiting.get() & bit(number) != 0;
    if !awaited && is_dropped(process, number, blocked) {
        return Ok(Sent::Ignored);
    }
    let sent = queue(process, &thread.signals.pending, info, timer)?;
    if !blocked || awaited {
        alert(thread);
    }
    process.signals.arrived.wake_all(Events::READABLE);
    Ok(sent)
}

/// An instruction of the thread has failed: the signal cannot be put off. If the thread blocks or ignores it, the process ends by it.
///
/// `trap` and `error` are what the processor said, `address` is `si_addr`.
pub fn fault(thread: &Rc<Thread>, number: u32, code: i32, address: u64, trap: u64, error: u64) {
    thread.signals.fault.set(FaultContext {
        trap,
        error,
        // CR2 is of page faults only.
        address: if trap == 14 { address } else { 0 },
    });
    force(thread, Info::fault(number, code, address));
}

/// Sends a signal that the thread can neither block nor ignore.
pub fn force(thread: &Rc<Thread>, info: Info) {
    let number = info.signal();
    let actions = &thread.process.signals.actions;
    let blocked = thread.signals.blocked.get();
    let action = actions.get(number);
    if blocked & bit(number) != 0 || action.handler == super::action::IGNORE {
        actions.set(number, Action::default());
        super::set_blocked(thread, blocked & !bit(number));
    }
    thread.signals.pending.add(info);
    alert(thread);
}

/// `SIGPIPE` for a thread that writes to where nobody reads.
pub fn pipe(thread: &Rc<Thread>) {
    let process = &thread.process;
    let uid = process.credentials.borrow().uid;
    let info = Info::user(number::PIPE, info::SI_USER, process.pid, uid);
    // A standard signal needs no room of its own: this cannot fail.
    let _ = send_to_thread(thread, info);
}

/// The monitor hands a signal to the program: a request to stop, or one from the terminal.
pub fn from_monitor(number: u32) {
    if let Some(process) = crate::kernel().processes.process(1) {
        let _ = send_to_process(&process, Info::kernel(number));
    }
}

/// Takes a pending signal of those in `wanted`, the thread's own before its process's.
pub fn take(thread: &Thread, wanted: Set) -> Option<Info> {
    let own = thread.signals.pending.take(wanted);
    let info = own.or_else(|| thread.process.signals.pending.take(wanted))?;
    Some(crate::time::taken(&thread.process, info))
}

/// The thread that takes a signal of the process: the first one that wants it, the leader before others.
pub(super) fn taker(process: &Process, number: u32) -> Option<Rc<Thread>> {
    let wants = |thread: &&Rc<Thread>| {
        let signals = &thread.signals;
        signals.blocked.get() & bit(number) == 0 || signals.waiting.get() & bit(number) != 0
    };
    let threads = process.threads.borrow();
    let idle = |thread: &&Rc<Thread>| wants(thread) && !thread.signals.attention.get();
    let found = threads.values().find(idle);
    found.or_else(|| threads.values().find(wants)).cloned()
}

/// Stopping and going on: each takes the other's signals back.
fn prepare(process: &Rc<Process>, number: u32) {
    let gone = match number {
        number::CONT => number::STOPPING,
        number::STOP | number::TSTP | number::TTIN | number::TTOU => bit(number::CONT),
        number::KILL => 0,
        _ => return,
    };
    process.signals.pending.remove(gone);
    for thread in process.all_threads() {
        thread.signals.pending.remove(gone);
    }
    let goes_on = matches!(number, number::CONT | number::KILL);
    if goes_on && process.signals.stopped.take().is_some() {
        process.signals.continued.wake_all(Events::empty());
        alert_all(process);
    }
}

/// True if the signal need not be noted at all.
fn is_dropped(process: &Process, number: u32, blocked: bool) -> bool {
    !blocked && process.signals.actions.get(number).ignores(number)
}

fn queue(
    process: &Process,
    pending: &super::Pending,
    info: Info,
    timer: Option<u32>,
) -> Result<Sent> {
    let number = info.signal();
    let room = process.limit(Resource::SignalsPending).0;
    let queued = pending.queued() as u64;
    let full = queued >= room || crate::shortage::object(Errno::EAGAIN).is_err();
    if number >= number::FIRST_REAL_TIME && full {
        // What is sent by kill(2) comes without its particulars; others are told that there is no room.
        if info.code == info::SI_USER || info.code == info::SI_KERNEL {
            pending.add_bare(number);
            return Ok(Sent::Queued);
        }
        return Err(Errno::EAGAIN);
    }
    let added = match timer {
        Some(id) => pending.add_timer(info, id),
        None => pending.add(info),
    };
    Ok(if added { Sent::Queued } else { Sent::Merged })
}

/// Sets what is done with a signal (`sigaction(2)`). If it is now ignored, those that wait are forgotten.
pub fn set_action(process: &Process, number: u32, action: Action) {
    let keep = bit(number::KILL) | bit(number::STOP);
    let action = Action {
        mask: action.mask & !keep,
        ..action
    };
    process.signals.actions.set(number, action);
    if action.handler == DEFAULT && !action.ignores(number) {
        return;
    }
    if action.ignores(number) {
        process.signals.pending.remove(bit(number));
        for thread in process.all_threads() {
            thread.signals.pending.remove(bit(number));
        }
    }
}
