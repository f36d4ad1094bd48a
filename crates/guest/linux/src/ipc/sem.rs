//! Sets of semaphores (`semget(2)`, `semop(2)`).
//!
//! `SEM_UNDO` takes effect when a process ends. The machine ends with its first process, and the others share everything with it, so there is
//! nobody to see that; it is accepted and nothing is kept.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::{NO_WAIT, Object, Owner, seconds};
use crate::process::Thread;
use crate::user::Plain;
use crate::wait::{Deadline, Events, WaitQueue, sleep_until};
use crate::{Errno, Result};

/// The most semaphores of a set, sets, operations of a call (`/proc/sys/kernel/sem`).
pub const MOST_OF_A_SET: u64 = 32_000;
/// The most sets.
pub const MOST_SETS: usize = 32_000;
/// The most operations of one call.
pub const MOST_OPERATIONS: u64 = 500;
/// The greatest value.
pub const GREATEST: i32 = 32_767;

/// One semaphore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Semaphore {
    /// Its value.
    pub value: u16,
    /// Who changed it last.
    pub last_user: u32,
    /// Threads that wait for it to grow.
    pub waiting_to_take: u32,
    /// Threads that wait for it to be 0.
    pub waiting_for_zero: u32,
}

/// A set.
#[derive(Debug)]
pub struct Set {
    owner: Cell<Owner>,
    /// The semaphores.
    pub all: RefCell<Vec<Semaphore>>,
    /// Seconds of the last `semop(2)`.
    pub operated: Cell<u64>,
    /// Of the last change otherwise.
    pub changed: Cell<u64>,
    removed: Cell<bool>,
    wait: WaitQueue,
}

impl Object for Set {
    fn owner(&self) -> &Cell<Owner> {
        &self.owner
    }
}

/// `struct sembuf`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Operation {
    /// Which semaphore.
    pub number: u16,
    /// What is added; 0 to wait until it is 0.
    pub change: i16,
    /// `IPC_NOWAIT`, `SEM_UNDO`.
    pub flags: i16,
}

// SAFETY: integers without gaps.
unsafe impl Plain for Operation {}

/// Why a list of operations cannot be done now.
enum Obstacle {
    Error(Errno),
    /// The operation with this index has to wait.
    Wait(usize),
}

impl Set {
    /// A new one, of zeroes.
    pub fn new(owner: Owner, count: u64) -> Self {
        Self {
            owner: Cell::new(owner),
            all: RefCell::new(vec![Semaphore::default(); count as usize]),
            operated: Cell::new(0),
            changed: Cell::new(seconds()),
            removed: Cell::new(false),
            wait: WaitQueue::new(),
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.all.borrow().len() as u64
    }

    /// `IPC_SET`.
    pub fn set(&self, new: &Owner) {
        let mut owner = self.owner.get();
        owner.set(new);
        self.owner.set(owner);
        self.changed.set(seconds());
    }

    /// `SETVAL`, `SETALL`: new values from the semaphore with number `first` on.
    ///
    /// # Errors
    /// `ERANGE`.
    pub fn assign(&self, thread: &Thread, first: usize, values: &[u16]) -> Result {
        if values.iter().any(|&value| i32::from(value) > GREATEST) {
            return Err(Errno::ERANGE);
        }
        for (one, &value) in self.all.borrow_mut().iter_mut().skip(first).zip(values) {
            one.value = value;
            one.last_user = thread.process.pid;
        }
        self.changed.set(seconds());
        self.wait.wake_all(Events::empty());
        Ok(())
    }

    /// `IPC_RMID`: who waits is told.
    pub fn remove(&self) {
        self.removed.set(true);
        self.wait.wake_all(Events::empty());
    }

    /// `semop(2)`: all of the operations, or none.
    ///
    /// # Errors
    /// `EFBIG`, `ERANGE`, `EAGAIN` if it may not wait or the time is over, `EIDRM`, `EINTR`.
    pub fn operate(
        &self,
        thread: &Rc<Thread>,
        operations: &[Operation],
        deadline: Deadline,
    ) -> Result {
        let waits_for = match self.attempt(thread, operations) {
            Ok(()) => return Ok(()),
            Err(Obstacle::Error(error)) => return Err(error),
            Err(Obstacle::Wait(index)) => index,
        };
        self.count_waiting(operations, waits_for, 1);
        let mut last = waits_for;
        let result = sleep_until(thread, &[&self.wait], deadline, || {
            if self.removed.get() {
                return Some(Err(Errno::EIDRM));
            }
            match self.attempt(thread, operations) {
                Ok(()) => Some(Ok(())),
                Err(Obstacle::Error(error)) => Some(Err(error)),
                Err(Obstacle::Wait(index)) => {
                    self.count_waiting(operations, last, -1);
                    self.count_waiting(operations, index, 1);
                    last = index;
                    None
                }
            }
        });
        self.count_waiting(operations, last, -1);
        match result {
            Ok(result) => result,
            Err(Errno::ETIMEDOUT) => Err(Errno::EAGAIN),
            // It is never made again (`signal(7)`).
            Err(Errno::ERESTARTSYS) => Err(Errno::EINTR),
            Err(error) => Err(error),
        }
    }

    fn count_waiting(&self, operations: &[Operation], index: usize, by: i32) {
        let Some(operation) = operations.get(index) else {
            return;
        };
        if let Some(one) = self.all.borrow_mut().get_mut(usize::from(operation.number)) {
            let count = if operation.change == 0 {
                &mut one.waiting_for_zero
            } else {
                &mut one.waiting_to_take
            };
            *count = count.saturating_add_signed(by);
        }
    }

    fn attempt(
        &self,
        thread: &Thread,
        operations: &[Operation],
    ) -> core::result::Result<(), Obstacle> {
        let mut new = self.all.borrow().clone();
        for (index, operation) in operations.iter().enumerate() {
            let one = new.get_mut(usize::from(operation.number));
            let one = one.ok_or(Obstacle::Error(Errno::EFBIG))?;
            let value = i32::from(one.value) + i32::from(operation.change);
            let blocked = value < 0 || operation.change == 0 && one.value != 0;
            if blocked && operation.flags.cast_unsigned() & NO_WAIT as u16 != 0 {
                return Err(Obstacle::Error(Errno::EAGAIN));
            }
            if blocked {
                return Err(Obstacle::Wait(index));
            }
            if value > GREATEST {
                return Err(Obstacle::Error(Errno::ERANGE));
            }
            one.value = value as u16;
            one.last_user = thread.process.pid;
        }
        *self.all.borrow_mut() = new;
        self.operated.set(seconds());
        if operations.iter().any(|operation| operation.change != 0) {
            self.wait.wake_all(Events::empty());
        }
        Ok(())
    }
}
