//! Futexes (`futex(2)`): waiting for a word of memory.
//!
//! Those who wait stand in queues, found by a hash of what they wait for. The library OS is not preempted, so looking at the
//! word and standing in the queue are one step as far as the program can see.

pub mod pi;
pub mod robust;

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::{Thread, sched};
use crate::user::{Plain, UserAddr};
use crate::wait::{self, Deadline};
use crate::{Errno, Result, platform};

/// In a word that is a lock: others wait for it.
pub const WAITERS: u32 = 0x8000_0000;
/// Its owner has ended without releasing it.
pub const OWNER_DIED: u32 = 0x4000_0000;
/// The owner's thread number.
pub const TID_MASK: u32 = 0x3fff_ffff;
/// A bit set that meets all others (`FUTEX_BITSET_MATCH_ANY`).
pub const ANY: u32 = u32::MAX;

const BUCKETS: usize = 256;

/// What is waited for: a word of an address space, or of a file that is mapped shared, which is the same word wherever it is mapped (`futex(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    space: usize,
    at: u64,
}

impl Key {
    /// The word at an address of the thread's memory.
    ///
    /// # Errors
    /// `EINVAL` unless it is aligned.
    pub fn of(thread: &Thread, at: u64) -> Result<Self> {
        if !at.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let memory = &thread.process.memory;
        let own = || (Rc::as_ptr(memory).addr(), at);
        let (space, at) = memory.shared_word(at).unwrap_or_else(own);
        Ok(Self { space, at })
    }

    fn bucket(self) -> usize {
        // Fibonacci hashing: words of one cache line go to different buckets too.
        let mixed = (self.at >> 2 ^ self.space as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 56) as usize % BUCKETS
    }
}

/// One that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    thread: Rc<Thread>,
    key: Cell<Key>,
    bits: u32,
    woken: Cell<bool>,
    /// The lock that it wants to have next (`FUTEX_WAIT_REQUEUE_PI`).
    then: Option<Key>,
}

/// All who wait.
#[derive(Debug)]
pub struct Futexes {
    buckets: Box<[RefCell<VecDeque<Rc<Waiter>>>]>,
    locks: pi::Locks,
}

impl Default for Futexes {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| RefCell::default()).collect(),
            locks: pi::Locks::default(),
        }
    }
}

impl Futexes {
    fn bucket(&self, key: Key) -> &RefCell<VecDeque<Rc<Waiter>>> {
        &self.buckets[key.bucket()]
    }

    fn add(&self, waiter: &Rc<Waiter>) {
        let bucket = self.bucket(waiter.key.get());
        bucket.borrow_mut().push_back(waiter.clone());
    }

    fn remove(&self, waiter: &Rc<Waiter>) -> bool {
        let mut bucket = self.bucket(waiter.key.get()).borrow_mut();
        let at = bucket.iter().position(|other| Rc::ptr_eq(other, waiter));
        at.and_then(|at| bucket.remove(at)).is_some()
    }

    /// Takes out the next waiter of a word that meets `bits`, from `from` on in its bucket.
    fn next(&self, key: Key, bits: u32, from: &mut usize) -> Option<Rc<Waiter>> {
        let mut bucket = self.bucket(key).borrow_mut();
        let meets = |w: &Rc<Waiter>| w.key.get() == key && w.bits & bits != 0;
        let at = bucket.iter().skip(*from).position(meets)? + *from;
        *from = at;
        bucket.remove(at)
    }

    /// How many threads wait.
    pub fn waiting(&self) -> usize {
        self.buckets.iter().map(|b| b.borrow().len()).sum()
    }
}

impl Waiter {
    fn new(thread: &Rc<Thread>, key: Key, bits: u32, then: Option<Key>) -> Rc<Self> {
        Rc::new(Self {
            thread: thread.clone(),
            key: Cell::new(key),
            bits,
            woken: Cell::new(false),
            then,
        })
    }

    fn wake(&self) {
        self.woken.set(true);
        sched::wake(&self.thread);
    }
}

/// Waits until the word at `at`, which must hold `value`, is woken with a bit set that meets `bits`.
///
/// # Errors
/// `EAGAIN` if it holds something else; `ETIMEDOUT`; `EINVAL`, `EFAULT`; restarts.
pub fn wait(
    thread: &Rc<Thread>,
    at: u64,
    value: u32,
    bits: u32,
    deadline: Deadline,
) -> Result<u64> {
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    let key = Key::of(thread, at)?;
    if UserAddr(at).read::<u32>()? != value {
        return Err(Errno::EAGAIN);
    }
    let futexes = &crate::kernel().futexes;
    let waiter = Waiter::new(thread, key, bits, None);
    futexes.add(&waiter);
    let result = wait::sleep_until(thread, &[], deadline, || waiter.woken.get().then_some(()));
    let Err(error) = result else { return Ok(0) };
    if !futexes.remove(&waiter) {
        return Ok(0);
    }
    if error == Errno::ERESTARTSYS && deadline.is_some() {
        let again: crate::signal::Restart =
            Box::new(move |thread| wait(thread, at, value, bits, deadline));
        *thread.signals.restart.borrow_mut() = Some(again);
        return Err(Errno::ERESTART_RESTARTBLOCK);
    }
    Err(error)
}

/// Wakes up to `most` of those who wait for the word at `at` with a bit set that meets `bits`. Returns how many.
pub fn wake(thread: &Thread, at: u64, most: u32, bits: u32) -> u64 {
    Key::of(thread, at).map_or(0, |key| wake_key(key, most, bits))
}

fn wake_key(key: Key, most: u32, bits: u32) -> u64 {
    let kernel = crate::kernel();
    let mut from = 0;
    let mut woken = 0;
    while woken < u64::from(most) {
        let Some(waiter) = kernel.futexes.next(key, bits, &mut from) else {
            break;
        };
        waiter.wake();
        woken += 1;
    }
    woken
}

/// Wakes up to `wake` of those who wait for `from`, and lets up to `move_most` of the others wait for `to` instead. Returns how many were either.
///
/// # Errors
/// `EAGAIN` if the word does not hold `expected`; `EINVAL`, `EFAULT`.
pub fn requeue(
    thread: &Thread,
    from: u64,
    to: u64,
    wake: u32,
    move_most: u32,
    expected: Option<u32>,
) -> Result<u64> {
    let (from_key, to_key) = (Key::of(thread, from)?, Key::of(thread, to)?);
    if let Some(expected) = expected
        && UserAddr(from).read::<u32>()? != expected
    {
        return Err(Errno::EAGAIN);
    }
    let woken = wake_key(from_key, wake, ANY);
    if from_key == to_key {
        return Ok(woken);
    }
    let kernel = crate::kernel();
    let mut at = 0;
    let mut moved = 0;
    while moved < u64::from(move_most) {
        let Some(waiter) = kernel.futexes.next(from_key, ANY, &mut at) else {
            break;
        };
        waiter.key.set(to_key);
        kernel.futexes.add(&waiter);
        moved += 1;
    }
    Ok(woken + moved)
}

/// `FUTEX_WAKE_OP`: changes the second word, wakes those of the first, and of the second if its old value compares so.
///
/// # Errors
/// `ENOSYS` for an unknown operation or comparison; `EINVAL`, `EFAULT`.
pub fn wake_operation(
    thread: &Thread,
    first: u64,
    second: u64,
    most_first: u32,
    most_second: u32,
    encoded: u32,
) -> Result<u64> {
    let (first, second_key) = (Key::of(thread, first)?, Key::of(thread, second)?);
    // Sign-extended 12-bit fields.
    let argument = (encoded << 8).cast_signed() >> 20;
    let compared = (encoded << 20).cast_signed() >> 20;
    let argument = if encoded >> 28 & 8 == 0 {
        argument
    } else {
        1i32.wrapping_shl(argument.cast_unsigned())
    };
    let old = update(second, |old| {
        let argument = argument.cast_unsigned();
        Ok(match encoded >> 28 & 7 {
            0 => argument,
            1 => old.wrapping_add(argument),
            2 => old | argument,
            3 => old & !argument,
            4 => old ^ argument,
            _ => return Err(Errno::ENOSYS),
        })
    })?;
    let old = old.cast_signed();
    let holds = match encoded >> 24 & 15 {
        0 => old == compared,
        1 => old != compared,
        2 => old < compared,
        3 => old <= compared,
        4 => old > compared,
        5 => old >= compared,
        _ => return Err(Errno::ENOSYS),
    };
    let mut woken = wake_key(first, most_first, ANY);
    if holds {
        woken += wake_key(second_key, most_second, ANY);
    }
    Ok(woken)
}

/// Changes a word in one step; returns what it was.
fn update(at: u64, change: impl Fn(u32) -> Result<u32>) -> Result<u32> {
    let mut old: u32 = UserAddr(at).read()?;
    loop {
        let found = platform::compare_exchange(at, old, change(old)?)?;
        if found == old {
            return Ok(old);
        }
        old = found;
    }
}

/// One word of `futex_waitv(2)`: `struct futex_waitv`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct WaitEntry {
    /// What it must hold.
    pub value: u64,
    /// Where it is.
    pub at: u64,
    /// Its size and whether it is private.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, integers without padding.
unsafe impl Plain for WaitEntry {}

/// Waits until one of several words is woken. Returns the index of one that was.
///
/// # Errors
/// As [`wait()`].
pub fn wait_any(thread: &Rc<Thread>, words: &[WaitEntry], deadline: Deadline) -> Result<u64> {
    let futexes = &crate::kernel().futexes;
    let mut waiters = Vec::with_capacity(words.len());
    for word in words {
        let key = Key::of(thread, word.at)?;
        if UserAddr(word.at).read::<u32>()? != word.value as u32 {
            return Err(Errno::EAGAIN);
        }
        waiters.push(Waiter::new(thread, key, ANY, None));
    }
    for waiter in &waiters {
        futexes.add(waiter);
    }
    let woken = || waiters.iter().position(|waiter| waiter.woken.get());
    let result = wait::sleep_until(thread, &[], deadline, woken);
    for waiter in &waiters {
        futexes.remove(waiter);
    }
    match result {
        Ok(index) => Ok(index as u64),
        Err(error) => woken().map(|index| index as u64).ok_or(error),
    }
}
