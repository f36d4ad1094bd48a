//! Locks: `flock(2)`, and those on ranges (`fcntl_locking(2)`), of processes and of open file descriptions.
//!
//! Who of this machine has what is known here. Files of volumes belong to others too: towards them the machine is one owner ([`Outside`]), which has
//! what any of its own has. Nobody tells when others give a lock up, so who waits for theirs asks again and again, ever less often.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use super::{InodeFile, OpenFile};
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
    /// Somebody who is not of this machine.
    Elsewhere,
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

/// What is wanted of a lock towards others than this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To read together with others.
    Shared,
    /// To have it alone.
    Exclusive,
    /// To give it up.
    None,
}

/// Locks of a file towards others than this machine, for which the machine is one owner. None of these wait.
#[allow(clippy::missing_errors_doc, reason = "those of fcntl(2) and flock(2)")]
pub trait Outside {
    /// Takes, changes or gives up what the machine has of a range (both ends belong to it). False if somebody else has a lock that excludes it.
    fn lock_range(&self, wish: Wish, start: u64, end: u64) -> Result<bool>;
    /// The same for `flock(2)`.
    fn lock_whole(&self, wish: Wish) -> Result<bool>;
    /// A lock of somebody else's that stands in the way: first byte, last byte, and whether it is exclusive.
    fn conflict(&self, exclusive: bool, start: u64, end: u64) -> Result<Option<(u64, u64, bool)>>;
}

/// How soon a lock that others have is asked for again, in nanoseconds, and how late at the most.
const ASK_AGAIN: (u64, u64) = (1_000_000, 64_000_000);

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

    /// The parts of a range that nobody has.
    fn free(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut held: Vec<_> = self
            .ranges
            .iter()
            .map(|lock| (lock.start, lock.end))
            .collect();
        held.sort_unstable();
        let mut free = Vec::new();
        let mut next = Some(start);
        for (from, to) in held {
            let Some(at) = next.filter(|&at| at <= end) else {
                return free;
            };
            if to < at {
                continue;
            }
            if from > at {
                free.push((at, end.min(from - 1)));
            }
            next = to.checked_add(1);
        }
        free.extend(next.filter(|&at| at <= end).map(|at| (at, end)));
        free
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
    if let Some(content) = open.downcast::<InodeFile>() {
        return content.inode.identity();
    }
    let of = open.file.metadata()?;
    Ok((of.device, of.inode))
}

fn outside(open: &OpenFile) -> Option<&dyn Outside> {
    open.downcast::<InodeFile>()?.inode.outside()
}

/// Sleeps until `attempt` says yes, asking again when somebody of this machine gives a lock up, and from time to time if others may.
fn persist(
    thread: &Rc<Thread>,
    key: Key,
    asks_others: bool,
    mut attempt: impl FnMut() -> Result<bool>,
) -> Result {
    let queue = queue(key);
    let (mut pause, longest) = ASK_AGAIN;
    loop {
        let deadline = asks_others.then(|| crate::platform::now().saturating_add(pause));
        let ready = || match attempt() {
            Ok(false) => None,
            Ok(true) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        };
        match wait::sleep_until(thread, &[&queue], deadline, ready) {
            Err(Errno::ETIMEDOUT) => pause = (pause * 2).min(longest),
            Ok(outcome) => return outcome,
            Err(error) => return Err(error),
        }
    }
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
    let own = {
        let kernel = crate::kernel();
        let files = kernel.vfs.locks.files.borrow();
        files.get(&key).and_then(|held| held.conflict(lock))
    };
    let (None, Some(outside)) = (own, outside(open)) else {
        return Ok(own);
    };
    let other = outside.conflict(lock.exclusive, lock.start, lock.end)?;
    Ok(other.map(|(start, end, exclusive)| Lock {
        owner: Owner::Elsewhere,
        start,
        end,
        exclusive,
    }))
}

/// Takes a lock; with `wait` it sleeps until it can have it.
///
/// # Errors
/// `EAGAIN` if another holds one that excludes it, `EDEADLK`, `ERESTARTSYS`, `ENOLCK` if memory is short.
pub fn acquire(thread: &Rc<Thread>, open: &OpenFile, lock: Lock, wait: bool) -> Result {
    crate::shortage::object(Errno::ENOLCK)?;
    let key = key(open)?;
    let kernel = crate::kernel();
    let locks = &kernel.vfs.locks;
    let outside = outside(open);
    let wish = if lock.exclusive {
        Wish::Exclusive
    } else {
        Wish::Shared
    };
    // True if it was taken, and if not, who of this machine has it.
    let attempt = || {
        let own = {
            let mut files = locks.files.borrow_mut();
            files.entry(key).or_default().conflict(&lock)
        };
        if own.is_some() {
            return Ok((false, own));
        }
        if let Some(outside) = outside
            && !outside.lock_range(wish, lock.start, lock.end)?
        {
            return Ok((false, None));
        }
        locks.files.borrow_mut().entry(key).or_default().set(lock);
        Ok((true, None))
    };
    let taken = match attempt() {
        Ok((true, _)) => Ok(()),
        Ok(_) if !wait => Err(Errno::EAGAIN),
        Ok((false, other)) => {
            if let (Owner::Process(own), Some(Owner::Process(holder))) =
                (lock.owner, other.map(|other| other.owner))
            {
                if locks.would_deadlock(own, holder) {
                    return Err(Errno::EDEADLK);
                }
                locks.waiting.borrow_mut().insert(own, holder);
            }
            let slept = persist(thread, key, outside.is_some(), || {
                attempt().map(|(taken, _)| taken)
            });
            if let Owner::Process(own) = lock.owner {
                locks.waiting.borrow_mut().remove(&own);
            }
            slept
        }
        Err(error) => Err(error),
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
    let free = {
        let mut files = kernel.vfs.locks.files.borrow_mut();
        let Some(held) = files.get_mut(&key) else {
            return Ok(());
        };
        let had = held.ranges.iter().any(|lock| lock.owner == owner);
        held.clear(owner, start, end);
        if had {
            held.free(start, end)
        } else {
            Vec::new()
        }
    };
    let told = outside(open).map_or(Ok(()), |outside| {
        let mut told = Ok(());
        for (start, end) in free {
            told = told.and(outside.lock_range(Wish::None, start, end).map(drop));
        }
        told
    });
    wake(key);
    told
}

/// `flock(2)`: `None` gives the lock up.
///
/// # Errors
/// `EWOULDBLOCK`, `ERESTARTSYS`, `ENOLCK` if memory is short.
pub fn whole(thread: &Rc<Thread>, open: &OpenFile, exclusive: Option<bool>, wait: bool) -> Result {
    if exclusive.is_some() {
        crate::shortage::object(Errno::ENOLCK)?;
    }
    let key = key(open)?;
    let own = core::ptr::from_ref(open).addr();
    let kernel = crate::kernel();
    let locks = &kernel.vfs.locks;
    let outside = outside(open);
    let Some(exclusive) = exclusive else {
        locks.forget_whole(key, own);
        let told = locks.whole_given_up(key, outside);
        wake(key);
        return told;
    };
    let wish = if exclusive {
        Wish::Exclusive
    } else {
        Wish::Shared
    };
    let attempt = || {
        let taken = {
            let mut files = locks.files.borrow_mut();
            let whole = &files.entry(key).or_default().whole;
            whole
                .iter()
                .any(|&(owner, other)| owner != own && (exclusive || other))
        };
        if taken {
            return Ok(false);
        }
        if let Some(outside) = outside
            && !outside.lock_whole(wish)?
        {
            return Ok(false);
        }
        locks.forget_whole(key, own);
        let mut files = locks.files.borrow_mut();
        files.entry(key).or_default().whole.push((own, exclusive));
        Ok(true)
    };
    if !attempt()? {
        if !wait {
            return Err(Errno::EAGAIN);
        }
        // The lock that is held is given up before the new one is waited for.
        locks.forget_whole(key, own);
        locks.whole_given_up(key, outside)?;
        wake(key);
        persist(thread, key, outside.is_some(), attempt)?;
    }
    open.locked.set(true);
    wake(key);
    Ok(())
}

/// A description is no more: its locks go.
pub(super) fn release(open: &OpenFile) {
    let Ok(key) = key(open) else { return };
    let own = core::ptr::from_ref(open).addr();
    let kernel = crate::kernel();
    let locks = &kernel.vfs.locks;
    let had = locks.forget_whole(key, own);
    if had {
        // Nobody is left to be told.
        let _ = locks.whole_given_up(key, outside(open));
    }
    let _ = give_up(open, Owner::Description(own), 0, u64::MAX);
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
    /// Takes a description's `flock(2)` away; true if it had one.
    fn forget_whole(&self, key: Key, own: usize) -> bool {
        let mut files = self.files.borrow_mut();
        let Some(held) = files.get_mut(&key) else {
            return false;
        };
        let before = held.whole.len();
        held.whole.retain(|&(owner, _)| owner != own);
        held.whole.len() < before
    }

    /// Tells others that nobody of this machine has a lock of `flock(2)` any more, if that is so.
    fn whole_given_up(&self, key: Key, outside: Option<&dyn Outside>) -> Result {
        let files = self.files.borrow();
        let kept = files.get(&key).is_some_and(|held| !held.whole.is_empty());
        drop(files);
        match outside {
            Some(outside) if !kept => outside.lock_whole(Wish::None).map(drop),
            _ => Ok(()),
        }
    }

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
