//! The system calls.
//!
//! Each family has a file here with its functions and a list `CALLS` of them; [`table`] puts the lists together. A function takes the thread and its
//! [`Args`], checks them, does what it can by the module that owns the matter, and answers with a number or an [`Errno`].

pub mod directory;
pub mod epoll;
pub mod event;
pub mod exec;
pub mod futex;
pub mod identity;
pub mod inotify;
pub mod io;
pub mod lock;
pub mod memory;
mod message;
pub mod metadata;
pub mod open;
pub mod pipe;
pub mod poll;
pub mod process;
pub mod ptrace;
pub mod sched;
pub mod sem;
pub mod shm;
pub mod signal;
pub mod signature;
pub mod socket;
pub mod system;
pub mod table;
pub mod thread;
pub mod time;
pub mod transfer;
pub mod xattr;

#[cfg(test)]
mod tests;
pub mod trace;
pub mod uring;

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::cell::RefCell;

use crate::process::Thread;
use crate::user::UserAddr;
use crate::{Errno, Result};

/// The six arguments of a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Args(pub [u64; 6]);

impl Args {
    /// A descriptor, or another `int`.
    pub fn int(&self, index: usize) -> i32 {
        self.0[index] as i32
    }

    /// An `unsigned int`.
    pub fn uint(&self, index: usize) -> u32 {
        self.0[index] as u32
    }

    /// A `long`.
    pub fn long(&self, index: usize) -> i64 {
        self.0[index].cast_signed()
    }

    /// A `size_t` or `unsigned long`.
    pub fn word(&self, index: usize) -> u64 {
        self.0[index]
    }

    /// An address.
    pub fn addr(&self, index: usize) -> UserAddr {
        UserAddr(self.0[index])
    }
}

/// What performs a call.
pub type Handler = fn(&Rc<Thread>, Args) -> Result<u64>;

/// How far a call is implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All that programs use of it.
    Full,
    /// Some of it; the text says what is missing.
    Partly(&'static str),
    /// It answers, but does nothing; the text says why that is right.
    Answered(&'static str),
}

/// One system call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its number on x86-64.
    pub number: u16,
    /// Its name.
    pub name: &'static str,
    /// How many arguments it has, for traces.
    pub arguments: u8,
    /// How far it is implemented.
    pub state: State,
    /// What performs it.
    pub handler: Handler,
    /// It turns to files with nothing borrowed, so that those of volumes may sleep ([`Thread::may_wait`]).
    pub may_wait: bool,
}

impl Call {
    /// A call that is implemented fully.
    pub const fn full(number: u16, name: &'static str, arguments: u8, handler: Handler) -> Self {
        Self {
            number,
            name,
            arguments,
            state: State::Full,
            handler,
            may_wait: false,
        }
    }

    /// One that is implemented in part.
    pub const fn partly(
        number: u16,
        name: &'static str,
        arguments: u8,
        handler: Handler,
        missing: &'static str,
    ) -> Self {
        Self {
            number,
            name,
            arguments,
            state: State::Partly(missing),
            handler,
            may_wait: false,
        }
    }

    /// The same call, which turns to files with nothing borrowed.
    #[must_use]
    pub const fn may_wait(self) -> Self {
        Self {
            may_wait: true,
            ..self
        }
    }

    /// One that answers without doing anything.
    pub const fn answered(
        number: u16,
        name: &'static str,
        arguments: u8,
        handler: Handler,
        why: &'static str,
    ) -> Self {
        Self {
            number,
            name,
            arguments,
            state: State::Answered(why),
            handler,
            may_wait: false,
        }
    }
}

/// The thread with a number, or the calling one for 0.
///
/// # Errors
/// `ESRCH` if there is none, `EINVAL` for negative numbers.
pub fn thread_or_self(thread: &Rc<Thread>, tid: i32) -> Result<Rc<Thread>> {
    match u32::try_from(tid) {
        Ok(0) => Ok(thread.clone()),
        Ok(tid) => crate::kernel().processes.thread(tid).ok_or(Errno::ESRCH),
        Err(_) => Err(Errno::EINVAL),
    }
}

/// Reads a record that grows from version to version (`clone3(2)`, `openat2(2)`): what is missing is zero, and what is too much has to be.
///
/// # Errors
/// `E2BIG` if it is longer than a page or has more in it than is known; `EFAULT`.
pub fn read_sized<T: crate::user::Plain>(at: UserAddr, size: u64) -> Result<T> {
    if size > crate::user::PAGE {
        return Err(Errno::E2BIG);
    }
    let mut given = alloc::vec![0; size as usize];
    at.read_bytes(&mut given)?;
    let mut value = T::default();
    let known = size_of::<T>();
    if given.iter().skip(known).any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    given.resize(known, 0);
    crate::user::bytes_of_mut(&mut value).copy_from_slice(&given);
    Ok(value)
}

/// What is counted of calls.
#[derive(Debug, Default)]
pub struct Counters {
    /// Calls without an implementation, by number; those that Linux does not have either count as one.
    pub missing: RefCell<BTreeMap<u64, u64>>,
    /// Traced calls.
    pub trace: trace::Trace,
}

impl Counters {
    /// Counts a call that has no implementation, for `--strace` and for those who look from outside.
    fn count_missing(&self, number: u64) {
        let mut missing = self.missing.borrow_mut();
        *missing.entry(number.min(table::COUNT as u64)).or_default() += 1;
        // Each has its place in the order of numbers; those behind the last place are only in the trace.
        for (place, (&number, &count)) in missing.iter().enumerate() {
            let name = signature::find(number).map_or("unknown", |(_, name, _)| name);
            crate::platform::show_missing(place, name, count);
        }
    }
}

/// Performs a call and gives what its register is to hold. Restarts (`ERESTARTSYS` and its kin) are still in it: signal
/// delivery resolves them.
#[inline]
pub fn perform(thread: &Rc<Thread>, number: u64, args: Args) -> u64 {
    let kernel = crate::kernel();
    if kernel.watch.active.get()
        && let Err(error) = kernel.watch.admit(number)
    {
        return error.to_register();
    }
    if kernel.trace_calls.get() {
        return perform_and_tell(thread, number, args);
    }
    perform_silently(thread, number, args)
}

#[cold]
fn perform_and_tell(thread: &Rc<Thread>, number: u64, args: Args) -> u64 {
    trace::enter(thread, number, args);
    let result = perform_silently(thread, number, args);
    trace::leave(thread, number, args, result);
    result
}

#[inline]
fn perform_silently(thread: &Rc<Thread>, number: u64, args: Args) -> u64 {
    let result = match table::find(number) {
        Some(call) if call.may_wait => thread.at_names(|| (call.handler)(thread, args)),
        Some(call) => (call.handler)(thread, args),
        None => {
            crate::kernel().counters.count_missing(number);
            Err(Errno::ENOSYS)
        }
    };
    match result {
        Ok(value) => value,
        Err(error) => error.to_register(),
    }
}
