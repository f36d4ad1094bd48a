//! Which signals a thread blocks, and who else then takes them.

use alloc::rc::Rc;

use super::{Set, UNBLOCKABLE, bit, waiting_for};
use crate::process::{Process, Thread};
use crate::{Errno, Result};

/// Looks whether the thread has something to attend to, and sets its flags accordingly.
pub(super) fn look(thread: &Thread) -> bool {
    let process = &thread.process;
    let due = waiting_for(thread) & !thread.signals.blocked.get() != 0
        || process.status.get().is_some()
        || thread.signals.ending.get()
        || process.signals.stopped.get().is_some();
    thread.signals.attention.set(due);
    if due {
        thread.work.set(true);
    }
    due
}

/// Tells a thread that it has something to attend to.
pub(crate) fn alert(thread: &Thread) {
    thread.signals.attention.set(true);
    thread.work.set(true);
    crate::process::sched::wake(thread);
}

/// Tells all threads of a process.
pub(crate) fn alert_all(process: &Process) {
    for thread in process.all_threads() {
        alert(&thread);
    }
}

/// Sets the thread's mask (`sigprocmask(2)`).
///
/// Signals of the process that this thread would have taken and now blocks are shown to the others.
pub fn set_blocked(thread: &Thread, blocked: Set) {
    let blocked = blocked & !UNBLOCKABLE;
    let before = thread.signals.blocked.replace(blocked);
    if before == blocked {
        return;
    }
    let mut handed_on = thread.process.signals.pending.set() & blocked & !before;
    while handed_on != 0 {
        let number = handed_on.trailing_zeros() + 1;
        handed_on &= !bit(number);
        if let Some(other) = super::send::taker(&thread.process, number) {
            alert(&other);
        }
    }
    look(thread);
}

/// Does `call` with another mask (`ppoll(2)`, `epoll_pwait(2)`, `sigsuspend(2)`), or with the present one if there is none.
///
/// If the call ends because of a signal, the other mask stays until that has been delivered: the handler is to run, although the mask that
/// it returns to may block its signal.
///
/// # Errors
/// Those of `call`.
pub fn with_mask<T>(
    thread: &Rc<Thread>,
    mask: Option<Set>,
    call: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let Some(mask) = mask else { return call() };
    let before = thread.signals.blocked.get();
    thread.signals.saved.set(Some(before));
    set_blocked(thread, mask);
    let result = call();
    let interrupted = matches!(
        result,
        Err(Errno::EINTR
            | Errno::ERESTARTSYS
            | Errno::ERESTARTNOINTR
            | Errno::ERESTARTNOHAND
            | Errno::ERESTART_RESTARTBLOCK)
    );
    if interrupted {
        thread.work.set(true);
    } else {
        thread.signals.saved.set(None);
        set_blocked(thread, before);
    }
    result
}

/// Shows the signals that wait for a process to the threads that may take them: one that would have has gone.
pub(crate) fn hand_on(process: &Process) {
    let mut left = process.signals.pending.set();
    while left != 0 {
        let number = left.trailing_zeros() + 1;
        left &= !bit(number);
        if let Some(thread) = super::send::taker(process, number) {
            alert(&thread);
        }
    }
}
