//! Locks with an owner (`FUTEX_LOCK_PI`): the kernel hands them from one thread to the next.
//!
//! The word holds the owner's number. A thread that finds the lock taken stands in its queue here; the owner, on release,
//! makes the first of the queue the new owner. Nobody can slip in between, so a waiting thread cannot starve.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use core::cell::RefCell;

use super::{ANY, Key, OWNER_DIED, TID_MASK, WAITERS, Waiter, update};
use crate::process::Thread;
use crate::user::UserAddr;
use crate::wait::{self, Deadline};
use crate::{Errno, Result};

#[derive(Debug, Default)]
struct Lock {
    owner: u32,
    queue: VecDeque<Rc<Waiter>>,
}

/// Locks that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Locks {
    all: RefCell<BTreeMap<Key, Lock>>,
}

impl Locks {
    fn add(&self, key: Key, owner: u32, waiter: &Rc<Waiter>) {
        waiter.key.set(key);
        let mut all = self.all.borrow_mut();
        let lock = all.entry(key).or_default();
        lock.owner = owner;
        lock.queue.push_back(waiter.clone());
    }

    fn remove(&self, waiter: &Rc<Waiter>) {
        let key = waiter.key.get();
        let mut all = self.all.borrow_mut();
        if let Some(lock) = all.get_mut(&key) {
            lock.queue.retain(|other| !Rc::ptr_eq(other, waiter));
            if lock.queue.is_empty() {
                all.remove(&key);
            }
        }
    }

    fn is_waited_for(&self, key: Key) -> bool {
        self.all.borrow().contains_key(&key)
    }

    /// Takes out the one who is to have the lock now.
    fn next(&self, key: Key) -> Option<Rc<Waiter>> {
        let mut all = self.all.borrow_mut();
        let lock = all.get_mut(&key)?;
        let next = lock.queue.pop_front();
        lock.owner = next.as_ref().map_or(0, |waiter| waiter.thread.tid);
        if lock.queue.is_empty() {
            all.remove(&key);
        }
        next
    }

    fn owned_by(&self, tid: u32) -> Option<Key> {
        let all = self.all.borrow();
        let mut owned = all.iter().filter(|(_, lock)| lock.owner == tid);
        owned.next().map(|(key, _)| *key)
    }
}

/// What came of trying to take a lock for a thread.
enum Taken {
    Yes,
    /// By this thread.
    No(u32),
}

/// Takes the lock for `tid` if nobody has it; else notes in the word that somebody waits.
fn take(at: u64, tid: u32, wait: bool) -> Result<Taken> {
    let old = update(at, |old| {
        Ok(match old & TID_MASK {
            0 => old & (OWNER_DIED | WAITERS) | tid,
            _ if wait => old | WAITERS,
            _ => old,
        })
    })?;
    Ok(match old & TID_MASK {
        0 => Taken::Yes,
        owner => Taken::No(owner),
    })
}

/// Takes a lock, waiting for it until the deadline.
///
/// # Errors
/// `EDEADLK` if the thread has it; `ESRCH` if its owner is no thread; `EAGAIN` if it may not wait (`try_only`); `ETIMEDOUT`,
/// `EINVAL`, `EFAULT`; restarts.
pub fn lock(thread: &Rc<Thread>, at: u64, deadline: Deadline, try_only: bool) -> Result<u64> {
    let key = Key::of(thread, at)?;
    let owner = match take(at, thread.tid, !try_only)? {
        Taken::Yes => return Ok(0),
        Taken::No(owner) if owner == thread.tid => return Err(Errno::EDEADLK),
        Taken::No(_) if try_only => return Err(Errno::EAGAIN),
        Taken::No(owner) => owner,
    };
    let kernel = crate::kernel();
    if kernel.processes.thread(owner).is_none() {
        return Err(Errno::ESRCH);
    }
    let locks = &kernel.futexes.locks;
    let waiter = Waiter::new(thread, key, ANY, None);
    locks.add(key, owner, &waiter);
    let result = wait::sleep_until(thread, &[], deadline, || waiter.woken.get().then_some(()));
    if waiter.woken.get() {
        return Ok(0);
    }
    locks.remove(&waiter);
    match result {
        Err(Errno::ERESTARTSYS) => Err(Errno::ERESTARTNOINTR),
        Err(error) => Err(error),
        Ok(()) => Ok(0),
    }
}

/// Releases a lock: the first who waits has it then.
///
/// # Errors
/// `EPERM` if the thread does not have it; `EINVAL`, `EFAULT`.
pub fn unlock(thread: &Thread, at: u64) -> Result<u64> {
    let key = Key::of(thread, at)?;
    let word: u32 = UserAddr(at).read()?;
    if word & TID_MASK != thread.tid {
        return Err(Errno::EPERM);
    }
    hand_over(key, 0)?;
    Ok(0)
}

/// Gives the lock to the first who waits, or to nobody; `mark` is kept in the word.
fn hand_over(key: Key, mark: u32) -> Result {
    let kernel = crate::kernel();
    let locks = &kernel.futexes.locks;
    let next = locks.next(key);
    let owner = next.as_ref().map_or(0, |waiter| waiter.thread.tid);
    let more = if locks.is_waited_for(key) { WAITERS } else { 0 };
    let written = update(key.at, |_| Ok(owner | more | mark));
    if let Some(waiter) = next {
        waiter.wake();
    }
    written.map(drop)
}

/// The thread ends: the locks that it has and others wait for go to those.
pub(crate) fn owner_died(thread: &Thread) {
    let kernel = crate::kernel();
    while let Some(key) = kernel.futexes.locks.owned_by(thread.tid) {
        // If the word is gone, so is the lock; its waiters go on.
        let _ = hand_over(key, OWNER_DIED);
    }
}

/// `FUTEX_WAIT_REQUEUE_PI`: waits for a word, and then for the lock that the one who wakes it moves it to.
///
/// # Errors
/// As [`super::wait()`] and [`lock`].
pub fn wait_then_lock(
    thread: &Rc<Thread>,
    at: u64,
    value: u32,
    bits: u32,
    lock: u64,
    deadline: Deadline,
) -> Result<u64> {
    let (key, lock) = (Key::of(thread, at)?, Key::of(thread, lock)?);
    if bits == 0 || key == lock {
        return Err(Errno::EINVAL);
    }
    if UserAddr(at).read::<u32>()? != value {
        return Err(Errno::EAGAIN);
    }
    let kernel = crate::kernel();
    let futexes = &kernel.futexes;
    let waiter = Waiter::new(thread, key, bits, Some(lock));
    futexes.add(&waiter);
    let result = wait::sleep_until(thread, &[], deadline, || waiter.woken.get().then_some(()));
    if waiter.woken.get() {
        return Ok(0);
    }
    let was_moved = !futexes.remove(&waiter);
    if was_moved {
        futexes.locks.remove(&waiter);
    }
    match result {
        // Made again, the call would find another value.
        Err(Errno::ERESTARTSYS) if was_moved => Err(Errno::EAGAIN),
        Err(Errno::ERESTARTSYS) => Err(Errno::ERESTARTNOINTR),
        Err(error) => Err(error),
        Ok(()) => Ok(0),
    }
}

/// `FUTEX_CMP_REQUEUE_PI`: the first who waits for `from` gets the lock `to` if it is free; up to `move_most` others wait for it. Returns how
/// many were either.
///
/// # Errors
/// `EAGAIN` if the word does not hold `expected`; `EINVAL` for those who wait otherwise; `EFAULT`.
pub fn requeue(
    thread: &Thread,
    from: u64,
    to: u64,
    wake: u32,
    move_most: u32,
    expected: u32,
) -> Result<u64> {
    let (from_key, to_key) = (Key::of(thread, from)?, Key::of(thread, to)?);
    if wake != 1 || from_key == to_key {
        return Err(Errno::EINVAL);
    }
    if UserAddr(from).read::<u32>()? != expected {
        return Err(Errno::EAGAIN);
    }
    let kernel = crate::kernel();
    let futexes = &kernel.futexes;
    let mut at = 0;
    let mut done = 0;
    while done < u64::from(move_most).saturating_add(1) {
        let Some(waiter) = futexes.next(from_key, ANY, &mut at) else {
            break;
        };
        if waiter.then != Some(to_key) {
            futexes.add(&waiter);
            return Err(Errno::EINVAL);
        }
        match take(to, waiter.thread.tid, true) {
            Ok(Taken::Yes) => waiter.wake(),
            Ok(Taken::No(owner)) => futexes.locks.add(to_key, owner, &waiter),
            Err(error) => {
                futexes.add(&waiter);
                return Err(error);
            }
        }
        done += 1;
    }
    Ok(done)
}
