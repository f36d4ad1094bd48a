//! Locks: `flock(2)`, and those on ranges (`fcntl_locking(2)`), of processes and of open file descriptions.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use super::OpenFile;
use crate::process::Thread;
use crate::wait::{self, Events, WaitQueue};
use crate::{Errno, Result};

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A process, by number.
    Process(u32),
    /// An open file description, by address.
    Description(usize),
}

/// A lock on a range of bytes; both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Whose it is.
    pub owner: Owner,
    /// First byte.
    pub start: u64,
    /// Last byte; `u64::MAX` for all that may follow.
    pub end: u64,
    /// It excludes others.
    pub exclusive: bool,
}

/// Device and number of an inode.
type Key = (u64, u64);

#[derive(Default)]
struct Held {
    ranges: Vec<Lock>,
    /// Of `flock(2)`.
    whole: Vec<(usize, bool)>,
    queue: Rc<WaitQueue>,
}

/// All locks, by device and number of the inode.
#[derive(Default)]
pub struct Locks {
    files: RefCell<BTreeMap<Key, Held>>,
    /// Processes that sleep for a lock that another one holds, for finding deadlocks.
    waiting: RefCell<BTreeMap<u32, u32>>,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.whole.is_empty() && self.queue.is_empty()
    }

    fn conflict(&self, lock: &Lock) -> Option<Lock> {
        let mut ranges = self.ranges.iter();
        ranges
            .find(|held| {
                held.owner != lock.owner
                    && held.start <= lock.end
                    && lock.start <= held.end
                    && (held.exclusive || lock.exclusive)
            })
            .copied()
    }

    /// Takes a range from what an owner holds.
    fn clear(&mut self, owner: Owner, start: u64, end: u64) {
        let mut rest = Vec::new();
        self.ranges.retain(|held| {
            if held.owner != owner || held.end < start || held.start > end {
                return true;
            }
            if held.start < start {
                rest.push(Lock {
                    end: start - 1,
                    ..*held
                });
            }
            if held.end > end {
                rest.push(Lock {
                    start: end + 1,
                    ..*held
                });
            }
            false
        });
        self.ranges.append(&mut rest);
    }

    fn set(&mut self, lock: Lock) {
        self.clear(lock.owner, lock.start, lock.end);
        // With neighbours of the same kind it becomes one.
        let mut lock = lock;
        self.ranges.retain(|held| {
            let touches = held.owner == lock.owner
                && held.exclusive == lock.exclusive
                && held.start <= lock.end.saturating_add(1)
                && lock.start <= held.end.saturating_add(1);
            if touches {
                lock.start = lock.start.min(held.start);
                lock.end = lock.end.max(held.end);
            }
            !touches
        });
        self.ranges.push(lock);
    }
}

fn key(open: &OpenFile) -> Result<Key> {
    let of = open.file.metadata()?;
    Ok((of.device, of.inode))
}

fn queue(key: Key) -> Rc<WaitQueue> {
    let kernel = crate::kernel();
    let mut files = kernel.vfs.locks.files.borrow_mut();
    files.entry(key).or_default().queue.clone()
}

/// Tells those who sleep for a lock of this file, or forgets the file.
fn wake(key: Key) {
    let kernel = crate::kernel();
    let queue = {
        let mut files = kernel.vfs.locks.files.borrow_mut();
        let Some(held) = files.get(&key) else { return };
        let queue = held.queue.clone();
        if held.is_empty() {
            files.remove(&key);
        }
        queue
    };
    queue.wake_all(Events::all());
}

/// What stands in the way of a lock (`F_GETLK`).
///
/// # Errors
/// Those of the file's metadata.
pub fn conflict(open: &OpenFile, lock: &Lock) -> Result<Option<Lock>> {
    let key = key(open)?;
    let kernel = crate::kernel();
    let files = kernel.vfs.locks.files.borrow();
    Ok(files.get(&key).and_then(|held| held.conflict(lock)))
}

/// Takes a lock; with `wait` it sleeps until it can have it.
///
/// # Errors
/// `EAGAIN` if another holds one that excludes it, `EDEADLK`, `ERESTARTSYS`.
pub fn acquire(thread: &Rc<Thread>, open: &OpenFile, lock: Lock, wait: bool) -> Result {
    let key = key(open)?;
    let kernel = crate::kernel();
    let locks = &kernel.vfs.locks;
    let attempt = || {
        let mut files = locks.files.borrow_mut();
        let held = files.entry(key).or_default();
        match held.conflict(&lock) {
            Some(other) => Err(other),
            None => {
                held.set(lock);
                Ok(())
            }
        }
    };
    let taken = match attempt() {
        Ok(()) => Ok(()),
        Err(_) if !wait => Err(Errno::EAGAIN),
        Err(other) => {
            if let (Owner::Process(own), Owner::Process(holder)) = (lock.owner, other.owner) {
                if locks.would_deadlock(own, holder) {
                    return Err(Errno::EDEADLK);
                }
                locks.waiting.borrow_mut().insert(own, holder);
            }
            let queue = queue(key);
            let slept = wait::sleep_until(thread, &[&queue], None, || attempt().ok());
            if let Owner::Process(own) = lock.owner {
                locks.waiting.borrow_mut().remove(&own);
            }
            slept
        }
    };
    if taken.is_ok() {
        // A weaker lock may let others in.
        wake(key);
        open.locked.set(true);
    }
    taken
}

/// Gives a range up.
///
/// # Errors
/// Those of the file's metadata.
pub fn give_up(open: &OpenFile, owner: Owner, start: u64, end: u64) -> Result {
    let key = key(open)?;
    let kernel = crate::kernel();
    if let Some(held) = kernel.vfs.locks.files.borrow_mut().get_mut(&key) {
        held.clear(owner, start, end);
    }
    wake(key);
    Ok(())
}

/// `flock(2)`: `None` gives the lock up.
///
/// # Errors
/// `EWOULDBLOCK`, `ERESTARTSYS`.
pub fn whole(thread: &Rc<Thread>, open: &OpenFile, exclusive: Option<bool>, wait: bool) -> Result {
    let key = key(open)?;
    let own = core::ptr::from_ref(open).addr();
    let kernel = crate::kernel();
    let locks = &kernel.vfs.locks;
    let attempt = || {
        let mut files = locks.files.borrow_mut();
        let held = files.entry(key).or_default();
        let Some(exclusive) = exclusive else {
            held.whole.retain(|&(owner, _)| owner != own);
            return Some(());
        };
        if held
            .whole
            .iter()
            .any(|&(owner, other)| owner != own && (exclusive || other))
        {
            return None;
        }
        held.whole.retain(|&(owner, _)| owner != own);
        held.whole.push((own, exclusive));
        Some(())
    };
    if attempt().is_none() {
        if !wait {
            return Err(Errno::EAGAIN);
        }
        // The lock that is held is given up before the new one is waited for.
        if let Some(held) = locks.files.borrow_mut().get_mut(&key) {
            held.whole.retain(|&(owner, _)| owner != own);
        }
        wake(key);
        let queue = queue(key);
        wait::sleep_until(thread, &[&queue], None, attempt)?;
    }
    open.locked.set(exclusive.is_some() || open.locked.get());
    wake(key);
    Ok(())
}

/// A description is no more: its locks go.
pub(super) fn release(open: &OpenFile) {
    let Ok(key) = key(open) else { return };
    let own = core::ptr::from_ref(open).addr();
    let kernel = crate::kernel();
    if let Some(held) = kernel.vfs.locks.files.borrow_mut().get_mut(&key) {
        held.whole.retain(|&(owner, _)| owner != own);
        held.clear(Owner::Description(own), 0, u64::MAX);
    }
    wake(key);
}

/// A process has closed a descriptor: all its locks on the file go, by whatever descriptor they were taken (`fcntl_locking(2)`).
pub fn closed(process: u32, open: &OpenFile) {
    let kernel = crate::kernel();
    if open.locked.get() || !kernel.vfs.locks.files.borrow().is_empty() {
        let _ = give_up(open, Owner::Process(process), 0, u64::MAX);
    }
}

impl Locks {
    /// True if `holder` sleeps, by whatever detour, for what `own` holds.
    fn would_deadlock(&self, own: u32, holder: u32) -> bool {
        let waiting = self.waiting.borrow();
        let mut next = Some(holder);
        for _ in 0..=waiting.len() {
            match next {
                Some(pid) if pid == own => return true,
                Some(pid) => next = waiting.get(&pid).copied(),
                None => return false,
            }
        }
        false
    }
}
