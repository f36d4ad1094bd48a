//! Signals (`signal(7)`).
//!
//! A signal is sent to a thread or to a process ([`send`]): it is noted in a [`Pending`] set, and a thread that may take it gets its attention flag
//! set and is woken. Sleeping calls then end with a restart error, and on the way back to the program [`before_return`] takes pending
//! signals, one after another, and does what the program has asked for ([`deliver`]): it ends or stops the process, or writes a frame
//! to the program's stack and lets the thread go on in a handler ([`frame`]).
//!
//! The return path of every call tests one cell, [`Thread::work`](crate::process::Thread::work); [`is_pending`] is what sleeping calls ask.

pub mod action;
pub mod deliver;
pub mod frame;
pub mod info;
pub mod mask;
pub mod number;
pub mod pending;
pub mod send;

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use crate::Result;
use crate::process::Thread;
use crate::wait::WaitQueue;

pub use action::{Action, Flags};
pub use deliver::before_return;
pub use info::Info;
pub use mask::{set_blocked, with_mask};
pub use pending::Pending;
pub use send::{fault, from_monitor, pipe, send_to_process, send_to_thread, take};

/// A set of signals: bit `n - 1` for signal `n`.
pub type Set = u64;

/// The set with one signal; empty for what is not a signal.
pub const fn bit(number: u32) -> Set {
    if number >= 1 && number <= number::LAST {
        1 << (number - 1)
    } else {
        0
    }
}

/// What nobody can block: `SIGKILL` and `SIGSTOP`.
pub const UNBLOCKABLE: Set = bit(number::KILL) | bit(number::STOP);

/// A process's half: what is done with each signal, and those that any thread may take.
#[derive(Debug, Default)]
pub struct ProcessSignals {
    /// What is done with each signal.
    pub actions: action::Actions,
    /// Sent to the process, and not taken yet.
    pub pending: Pending,
    /// Woken when a signal has come for the process or one of its threads: what `signalfd(2)` waits on.
    pub arrived: WaitQueue,
    /// The signal that has stopped the process, until `SIGCONT`.
    pub stopped: Cell<Option<u32>>,
    /// Woken when it goes on.
    pub continued: WaitQueue,
}

/// `sigaltstack(2)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AlternateStack {
    /// Lowest address.
    pub base: u64,
    /// Bytes; 0 if there is none.
    pub size: u64,
    /// `SS_AUTODISARM`: forgotten while a handler runs on it.
    pub auto_disarm: bool,
}

impl AlternateStack {
    /// True if a stack pointer lies in it. One that disarms itself is never in use.
    pub fn holds(&self, stack_pointer: u64) -> bool {
        !self.auto_disarm
            && stack_pointer > self.base
            && stack_pointer - self.base <= self.size
            && self.size > 0
    }
}

/// What the processor said of a thread's last fault, for `uc_mcontext`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultContext {
    /// Vector.
    pub trap: u64,
    /// Error code.
    pub error: u64,
    /// CR2.
    pub address: u64,
}

/// How an interrupted call goes on (`restart_syscall(2)`).
pub type Restart = Box<dyn FnOnce(&Rc<Thread>) -> Result<u64>>;

/// A thread's half.
#[derive(Default)]
pub struct ThreadSignals {
    /// Blocked signals, bit `n - 1` for signal `n`. Changed by [`set_blocked`] only.
    pub blocked: Cell<Set>,
    /// Sent to this thread, and not taken yet.
    pub pending: Pending,
    /// There may be something that a sleeping call has to end for.
    pub attention: Cell<bool>,
    /// The thread is to end: another one of its process starts another program.
    pub ending: Cell<bool>,
    /// The mask to go back to after a call that had one of its own (`sigsuspend(2)`, `ppoll(2)`).
    pub saved: Cell<Option<Set>>,
    /// What `sigtimedwait(2)` waits for.
    pub waiting: Cell<Set>,
    /// `sigaltstack(2)`.
    pub alternate: Cell<AlternateStack>,
    /// The last fault.
    pub fault: Cell<FaultContext>,
    /// How the interrupted call goes on.
    pub restart: RefCell<Option<Restart>>,
}

impl core::fmt::Debug for ThreadSignals {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ThreadSignals")
            .field("blocked", &self.blocked)
            .field("pending", &self.pending)
            .field("attention", &self.attention)
            .finish_non_exhaustive()
    }
}

/// True if a sleeping call of the thread has to end: a signal waits that it does not block, or the process ends or stops.
pub fn is_pending(thread: &Thread) -> bool {
    thread.signals.attention.get() && mask::look(thread)
}

/// True if nothing keeps the thread from ending: its process ends, or it is killed.
pub fn is_killed(thread: &Thread) -> bool {
    thread.process.status.get().is_some()
        || thread.signals.ending.get()
        || waiting_for(thread) >> (number::KILL - 1) & 1 != 0
}

/// True if the thread will end on its way back to the program: its process does, or a signal waits that ends it.
pub fn is_ending(thread: &Thread) -> bool {
    let process = &thread.process;
    if process.status.get().is_some() || thread.signals.ending.get() {
        return true;
    }
    if !thread.signals.attention.get() {
        return false;
    }
    let mut waiting = waiting_for(thread) & !thread.signals.blocked.get();
    while waiting != 0 {
        let number = waiting.trailing_zeros() + 1;
        waiting &= waiting - 1;
        let default = process.signals.actions.get(number).handler == action::DEFAULT;
        let ends = matches!(
            number::default(number),
            number::Default::Terminate | number::Default::Core
        );
        if default && ends {
            return true;
        }
    }
    false
}

/// All signals that wait for a thread, blocked or not: its own and its process's.
pub fn waiting_for(thread: &Thread) -> Set {
    thread.signals.pending.set() | thread.process.signals.pending.set()
}
