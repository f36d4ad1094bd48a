//! `futex(2)` and its newer kin.

use alloc::rc::Rc;

use super::{Args, Call};
use crate::process::Thread;
use crate::process::futex::{self, ANY, WaitEntry};
use crate::time::{Clock, Timespec};
use crate::user::UserAddr;
use crate::wait::Deadline;
use crate::{Errno, Result};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::partly(
        202,
        "futex",
        6,
        futex,
        "words are told apart by address, so two mappings of one page do not meet; PI hands over without lending priority",
    ),
    Call::full(449, "futex_waitv", 5, futex_waitv),
    Call::full(454, "futex_wake", 4, futex_wake),
    Call::full(455, "futex_wait", 6, futex_wait),
    Call::full(456, "futex_requeue", 4, futex_requeue),
];

const WAIT: u32 = 0;
const WAKE: u32 = 1;
const REQUEUE: u32 = 3;
const CMP_REQUEUE: u32 = 4;
const WAKE_OP: u32 = 5;
const LOCK_PI: u32 = 6;
const UNLOCK_PI: u32 = 7;
const TRYLOCK_PI: u32 = 8;
const WAIT_BITSET: u32 = 9;
const WAKE_BITSET: u32 = 10;
const WAIT_REQUEUE_PI: u32 = 11;
const CMP_REQUEUE_PI: u32 = 12;
const LOCK_PI2: u32 = 13;

const PRIVATE: u32 = 128;
const CLOCK_REALTIME: u32 = 256;

fn futex(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let at = args.word(0);
    let operation = args.uint(1) & !(PRIVATE | CLOCK_REALTIME);
    let realtime = args.uint(1) & CLOCK_REALTIME != 0;
    let value = args.uint(2);
    // The same register is a time for those that wait and a count for others.
    let timeout = args.addr(3);
    let count = args.uint(3);
    let second = args.word(4);
    let third = args.uint(5);
    let takes_clock = matches!(operation, WAIT | WAIT_BITSET | WAIT_REQUEUE_PI | LOCK_PI2);
    if realtime && !takes_clock {
        return Err(Errno::ENOSYS);
    }
    // Counts are ints: a negative one is none, but one is always woken.
    let wake = value.cast_signed().max(1).cast_unsigned();
    match operation {
        WAIT => {
            let deadline = if realtime {
                absolute(timeout, true)?
            } else {
                relative(timeout)?
            };
            futex::wait(thread, at, value, ANY, deadline)
        }
        WAIT_BITSET => futex::wait(thread, at, value, third, absolute(timeout, realtime)?),
        WAKE => {
            aligned(at)?;
            Ok(futex::wake(thread, at, wake, ANY))
        }
        WAKE_BITSET => {
            aligned(at)?;
            if third == 0 {
                return Err(Errno::EINVAL);
            }
            Ok(futex::wake(thread, at, wake, third))
        }
        REQUEUE | CMP_REQUEUE => {
            let expected = (operation == CMP_REQUEUE).then_some(third);
            if value.cast_signed() < 0 || count.cast_signed() < 0 {
                return Err(Errno::EINVAL);
            }
            futex::requeue(thread, at, second, value, count, expected)
        }
        WAKE_OP => futex::wake_operation(thread, at, second, wake, count, third),
        LOCK_PI => futex::pi::lock(thread, at, absolute(timeout, true)?, false),
        LOCK_PI2 => futex::pi::lock(thread, at, absolute(timeout, realtime)?, false),
        TRYLOCK_PI => futex::pi::lock(thread, at, None, true),
        UNLOCK_PI => futex::pi::unlock(thread, at),
        WAIT_REQUEUE_PI => {
            let deadline = absolute(timeout, realtime)?;
            futex::pi::wait_then_lock(thread, at, value, ANY, second, deadline)
        }
        CMP_REQUEUE_PI => {
            if count.cast_signed() < 0 {
                return Err(Errno::EINVAL);
            }
            futex::pi::requeue(thread, at, second, value, count, third)
        }
        _ => Err(Errno::ENOSYS),
    }
}

fn aligned(at: u64) -> Result {
    if !at.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

fn relative(at: UserAddr) -> Result<Deadline> {
    match at.read_if::<Timespec>()? {
        Some(time) => time.deadline(),
        None => Ok(None),
    }
}

fn absolute(at: UserAddr, realtime: bool) -> Result<Deadline> {
    let Some(time) = at.read_if::<Timespec>()? else {
        return Ok(None);
    };
    let clock = if realtime {
        Clock::Wall
    } else {
        Clock::Monotonic
    };
    Ok(Some(clock.deadline(time.to_nanos()?)))
}

/// `clockid_t` of the newer calls.
fn absolute_of(at: UserAddr, clock: i32) -> Result<Deadline> {
    match clock {
        _ if at.is_null() => Ok(None),
        0 => absolute(at, true),
        1 => absolute(at, false),
        _ => Err(Errno::EINVAL),
    }
}

/// `FUTEX2_SIZE_U32`, the one size there is, and `FUTEX2_PRIVATE`.
fn check_flags(flags: u32) -> Result {
    if flags & !0x83 != 0 || flags & 3 != 2 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// `FUTEX_WAITV_MAX`.
const MOST_WORDS: u32 = 128;

fn futex_waitv(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let count = args.uint(1);
    if args.uint(2) != 0 || count == 0 || count > MOST_WORDS {
        return Err(Errno::EINVAL);
    }
    let deadline = absolute_of(args.addr(3), args.int(4))?;
    let words: alloc::vec::Vec<WaitEntry> = args.addr(0).read_array(count as usize)?;
    for word in &words {
        check_flags(word.flags)?;
        if word.reserved != 0 {
            return Err(Errno::EINVAL);
        }
    }
    futex::wait_any(thread, &words, deadline)
}

fn futex_wake(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    check_flags(args.uint(3))?;
    aligned(args.word(0))?;
    if args.uint(1) == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(futex::wake(
        thread,
        args.word(0),
        args.uint(2),
        args.uint(1),
    ))
}

fn futex_wait(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    check_flags(args.uint(3))?;
    let deadline = absolute_of(args.addr(4), args.int(5))?;
    futex::wait(thread, args.word(0), args.uint(1), args.uint(2), deadline)
}

fn futex_requeue(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    if args.uint(1) != 0 {
        return Err(Errno::EINVAL);
    }
    let [from, to]: [WaitEntry; 2] = match args.addr(0).read_array(2)?.try_into() {
        Ok(both) => both,
        Err(_) => return Err(Errno::EFAULT),
    };
    check_flags(from.flags)?;
    check_flags(to.flags)?;
    let expected = Some(from.value as u32);
    futex::requeue(thread, from.at, to.at, args.uint(2), args.uint(3), expected)
}
