//! Tests of futexes, by their calls.

use alloc::rc::Rc;

use crate::Errno;
use crate::kernel;
use crate::platform::{self, pretend};
use crate::process::testing::{MEMORY, call, first};
use crate::process::{RunState, Thread, exit_thread};
use crate::user::UserAddr;

const FUTEX: u64 = 202;
const PRIVATE: u64 = 128;
const WAIT: u64 = PRIVATE;
const WAKE: u64 = PRIVATE | 1;
const REQUEUE: u64 = PRIVATE | 3;
const CMP_REQUEUE: u64 = PRIVATE | 4;
const WAKE_OP: u64 = PRIVATE | 5;
const LOCK_PI: u64 = PRIVATE | 6;
const UNLOCK_PI: u64 = PRIVATE | 7;
const TRYLOCK_PI: u64 = PRIVATE | 8;
const WAIT_BITSET: u64 = PRIVATE | 9;
const WAKE_BITSET: u64 = PRIVATE | 10;
const WAIT_REQUEUE_PI: u64 = PRIVATE | 11;
const CMP_REQUEUE_PI: u64 = PRIVATE | 12;

const WORD: u64 = MEMORY.0;
const OTHER: u64 = MEMORY.0 + 64;
const TIME: u64 = MEMORY.0 + 128;

fn error(errno: Errno) -> i64 {
    -i64::from(errno.0)
}

fn set(at: u64, value: u32) {
    assert_eq!(UserAddr(at).write(value), Ok(()));
}

fn get(at: u64) -> u32 {
    UserAddr(at).read().expect("mapped")
}

/// Another thread of the process.
fn second(thread: &Rc<Thread>) -> Rc<Thread> {
    kernel().processes.add_thread(2, thread.process.clone())
}

#[test]
fn who_waits_is_woken() {
    let thread = first();
    let other = second(&thread);
    set(WORD, 7);
    pretend::while_asleep(move || {
        assert_eq!(call(&other, FUTEX, [WORD, WAKE, 1]), 1);
        assert_eq!(call(&other, FUTEX, [WORD, WAKE, 1]), 0);
    });
    assert_eq!(call(&thread, FUTEX, [WORD, WAIT, 7, 0]), 0);
    assert_eq!(kernel().futexes.waiting(), 0);
}

#[test]
fn another_value_is_not_waited_for() {
    let thread = first();
    set(WORD, 8);
    let waited = call(&thread, FUTEX, [WORD, WAIT, 7, 0]);
    assert_eq!(waited, error(Errno::EAGAIN));
    let misaligned = call(&thread, FUTEX, [WORD + 1, WAIT, 7, 0]);
    assert_eq!(misaligned, error(Errno::EINVAL));
    let unmapped = call(&thread, FUTEX, [0x5000_0000, WAIT, 7, 0]);
    assert_eq!(unmapped, error(Errno::EFAULT));
}

#[test]
fn a_wait_ends_at_its_time() {
    let thread = first();
    assert_eq!(UserAddr(TIME).write([2u64, 5]), Ok(()));
    let before = platform::now();
    let waited = call(&thread, FUTEX, [WORD, WAIT, 0, TIME]);
    assert_eq!(waited, error(Errno::ETIMEDOUT));
    assert_eq!(platform::now() - before, 2_000_000_005);
    // WAIT_BITSET takes the time itself.
    let waited = call(&thread, FUTEX, [WORD, WAIT_BITSET, 0, TIME, 0, 1]);
    assert_eq!(waited, error(Errno::ETIMEDOUT));
    assert_eq!(platform::now() - before, 2_000_000_005);
    assert_eq!(kernel().futexes.waiting(), 0);
}

#[test]
fn a_signal_interrupts_a_wait() {
    let thread = first();
    let waited = call(&thread, FUTEX, [WORD, WAIT, 0, 0]);
    assert_eq!(waited, error(Errno::ERESTARTSYS));
    assert_eq!(kernel().futexes.waiting(), 0);
}

#[test]
fn a_wait_with_a_time_goes_on_with_what_is_left() {
    let thread = first();
    assert_eq!(UserAddr(TIME).write([9u64, 0]), Ok(()));
    let begun = platform::now();
    let same = thread.clone();
    pretend::while_asleep(move || {
        pretend::advance(4_000_000_000);
        same.pretend_signal();
    });
    let waited = call(&thread, FUTEX, [WORD, WAIT, 0, TIME]);
    assert_eq!(waited, error(Errno::ERESTART_RESTARTBLOCK));
    let restart = thread.signals.restart.take().expect("set");
    // The imitated signal stays, so that only the deadline can show that it went on.
    pretend::advance(6_000_000_000);
    assert!(platform::now() > begun + 9_000_000_000);
    assert!(matches!(
        restart(&thread),
        Err(Errno::ETIMEDOUT | Errno::ERESTART_RESTARTBLOCK)
    ));
}

#[test]
fn bits_choose_who_is_woken() {
    let thread = first();
    let other = second(&thread);
    pretend::while_asleep(move || {
        assert_eq!(call(&other, FUTEX, [WORD, WAKE_BITSET, 9, 0, 0, 2]), 0);
        let none = call(&other, FUTEX, [WORD, WAKE_BITSET, 9, 0, 0, 0]);
        assert_eq!(none, error(Errno::EINVAL));
        assert_eq!(call(&other, FUTEX, [WORD, WAKE_BITSET, 9, 0, 0, 5]), 1);
    });
    assert_eq!(call(&thread, FUTEX, [WORD, WAIT_BITSET, 0, 0, 0, 4]), 0);
}

#[test]
fn waiters_are_moved_to_another_word() {
    let thread = first();
    let other = second(&thread);
    set(WORD, 3);
    pretend::while_asleep(move || {
        let moved = [WORD, CMP_REQUEUE, 0, 9, OTHER, 4];
        assert_eq!(call(&other, FUTEX, moved), error(Errno::EAGAIN));
        let moved = [WORD, CMP_REQUEUE, 0, 9, OTHER, 3];
        assert_eq!(call(&other, FUTEX, moved), 1);
        assert_eq!(call(&other, FUTEX, [WORD, WAKE, 1]), 0);
        // Moved to where it is, nobody moves.
        assert_eq!(call(&other, FUTEX, [OTHER, REQUEUE, 0, 9, OTHER]), 0);
        assert_eq!(call(&other, FUTEX, [OTHER, WAKE, 1]), 1);
    });
    assert_eq!(call(&thread, FUTEX, [WORD, WAIT, 3, 0]), 0);
}

#[test]
fn an_operation_changes_the_second_word_and_compares_its_old_value() {
    let thread = first();
    let other = second(&thread);
    set(OTHER, 5);
    pretend::while_asleep(move || {
        // Add 3; wake those of the second word if it was greater than 5: it was not.
        let add_if_greater = 1 << 28 | 4 << 24 | 3 << 12 | 5;
        let call_it = |op| call(&other, FUTEX, [WORD, WAKE_OP, 1, 1, OTHER, op]);
        assert_eq!(call_it(add_if_greater), 0);
        assert_eq!(get(OTHER), 8);
        // Set to 1 << 4; it was 8.
        let set_if_equal = 8 << 28 | 4 << 12 | 8;
        assert_eq!(call_it(set_if_equal), 1);
        assert_eq!(get(OTHER), 16);
        assert_eq!(call_it(7 << 28), error(Errno::ENOSYS));
    });
    assert_eq!(call(&thread, FUTEX, [OTHER, WAIT, 5, 0]), 0);
}

#[test]
fn an_owned_lock_is_handed_over() {
    let thread = first();
    let other = second(&thread);
    assert_eq!(call(&other, FUTEX, [WORD, LOCK_PI, 0, 0]), 0);
    assert_eq!(get(WORD), other.tid);
    let again = call(&other, FUTEX, [WORD, LOCK_PI, 0, 0]);
    assert_eq!(again, error(Errno::EDEADLK));
    let tried = call(&thread, FUTEX, [WORD, TRYLOCK_PI]);
    assert_eq!(tried, error(Errno::EAGAIN));
    let not_mine = call(&thread, FUTEX, [WORD, UNLOCK_PI]);
    assert_eq!(not_mine, error(Errno::EPERM));
    let owner = other.clone();
    pretend::while_asleep(move || {
        assert_eq!(get(WORD), super::WAITERS | owner.tid);
        assert_eq!(call(&owner, FUTEX, [WORD, UNLOCK_PI]), 0);
    });
    assert_eq!(call(&thread, FUTEX, [WORD, LOCK_PI, 0, 0]), 0);
    assert_eq!(get(WORD), thread.tid);
    assert_eq!(call(&thread, FUTEX, [WORD, UNLOCK_PI]), 0);
    assert_eq!(get(WORD), 0);
}

#[test]
fn a_lock_whose_owner_is_no_thread_is_not_waited_for() {
    let thread = first();
    set(WORD, 4711);
    let locked = call(&thread, FUTEX, [WORD, LOCK_PI, 0, 0]);
    assert_eq!(locked, error(Errno::ESRCH));
}

#[test]
fn a_thread_that_ends_leaves_its_locks() {
    let thread = first();
    let other = second(&thread);
    assert_eq!(call(&other, FUTEX, [WORD, LOCK_PI, 0, 0]), 0);
    pretend::while_asleep(move || exit_thread(&other, 0));
    assert_eq!(call(&thread, FUTEX, [WORD, LOCK_PI, 0, 0]), 0);
    assert_eq!(get(WORD), super::OWNER_DIED | thread.tid);
}

#[test]
fn a_waiter_of_a_condition_gets_the_lock() {
    let thread = first();
    let other = second(&thread);
    assert_eq!(call(&other, FUTEX, [OTHER, LOCK_PI, 0, 0]), 0);
    pretend::while_asleep(move || {
        let moved = [WORD, CMP_REQUEUE_PI, 1, 9, OTHER, 0];
        assert_eq!(call(&other, FUTEX, moved), 1);
        assert_eq!(get(OTHER), super::WAITERS | other.tid);
        assert_eq!(call(&other, FUTEX, [OTHER, UNLOCK_PI]), 0);
    });
    let waited = call(&thread, FUTEX, [WORD, WAIT_REQUEUE_PI, 0, 0, OTHER, 1]);
    // The bit set of this operation is the whole set whatever the register holds.
    assert_eq!(waited, 0);
    assert_eq!(get(OTHER), thread.tid);
}

#[test]
fn robust_locks_of_a_thread_that_ends_are_marked() {
    const SET_ROBUST_LIST: u64 = 273;
    let thread = first();
    let other = second(&thread);
    let (head, entry) = (MEMORY.0 + 256, MEMORY.0 + 512);
    // The word lies 16 bytes behind its entry.
    let list = UserAddr(head).write([entry, 16, 0]);
    assert_eq!((list, UserAddr(entry).write(head)), (Ok(()), Ok(())));
    set(entry + 16, super::WAITERS | other.tid);
    let short = call(&other, SET_ROBUST_LIST, [head, 16]);
    assert_eq!(short, error(Errno::EINVAL));
    assert_eq!(call(&other, SET_ROBUST_LIST, [head, 24]), 0);
    pretend::while_asleep(move || exit_thread(&other, 0));
    let held = u64::from(get(entry + 16));
    assert_eq!(call(&thread, FUTEX, [entry + 16, WAIT, held, 0]), 0);
    assert_eq!(get(entry + 16), super::WAITERS | super::OWNER_DIED);
}

#[test]
fn a_ring_of_robust_locks_without_an_end_is_left() {
    let thread = first();
    let other = second(&thread);
    let (head, entry) = (MEMORY.0 + 256, MEMORY.0 + 512);
    assert_eq!(UserAddr(head).write([entry, 16, 0]), Ok(()));
    assert_eq!(UserAddr(entry).write(entry), Ok(()));
    other.robust_list.set(head);
    exit_thread(&other, 0);
    assert_eq!(other.state.get(), RunState::Dead);
    assert_eq!(thread.process.threads.borrow().len(), 1);
}

#[test]
fn the_last_word_of_a_thread_wakes_who_joins_it() {
    const SET_TID_ADDRESS: u64 = 218;
    let thread = first();
    let other = second(&thread);
    assert_eq!(call(&other, SET_TID_ADDRESS, [WORD]), 2);
    set(WORD, 2);
    pretend::while_asleep(move || {
        const EXIT: u64 = 60;
        assert_eq!(call(&other, EXIT, [0]), 0);
        assert!(other.work.get());
        assert!(!crate::signal::before_return(&other));
    });
    assert_eq!(call(&thread, FUTEX, [WORD, 0, 2, 0]), 0);
    assert_eq!(get(WORD), 0);
}

#[test]
fn any_of_several_words_wakes() {
    const FUTEX_WAITV: u64 = 449;
    let thread = first();
    let other = second(&thread);
    let vector = MEMORY.0 + 1024;
    let entry = |at: u64| [0u64, at, 0x82];
    let written = UserAddr(vector).write(entry(WORD));
    let also = UserAddr(vector + 24).write(entry(OTHER));
    assert_eq!((written, also), (Ok(()), Ok(())));
    pretend::while_asleep(move || {
        assert_eq!(call(&other, FUTEX, [OTHER, WAKE, 1]), 1);
    });
    assert_eq!(call(&thread, FUTEX_WAITV, [vector, 2, 0, 0, 1]), 1);
    assert_eq!(kernel().futexes.waiting(), 0);
    let flags = call(&thread, FUTEX_WAITV, [vector, 2, 1, 0, 1]);
    assert_eq!(flags, error(Errno::EINVAL));
}

#[test]
fn a_word_of_a_shared_file_is_the_same_in_all_mappings() {
    const MMAP: u64 = 9;
    const FTRUNCATE: u64 = 77;
    const MEMFD_CREATE: u64 = 319;
    let thread = first();
    kernel().active_memory.set(&thread.process.memory);
    assert_eq!(UserAddr(OTHER).write(*b"word\0\0\0\0"), Ok(()));
    let file = call(&thread, MEMFD_CREATE, [OTHER, 0]);
    assert!(file >= 0, "{file}");
    let file = file as u64;
    assert_eq!(call(&thread, FTRUNCATE, [file, 4096]), 0);
    let map = |flags| call(&thread, MMAP, [0, 4096, 3, flags, file, 0]) as u64;
    let (one, two, own) = (map(1), map(1), map(2));
    assert_ne!(one, two);
    let waker = second(&thread);
    pretend::while_asleep(move || {
        assert_eq!(call(&waker, FUTEX, [own + 8, 1, 1]), 0, "a copy");
        assert_eq!(call(&waker, FUTEX, [two + 12, 1, 1]), 0, "another word");
        assert_eq!(call(&waker, FUTEX, [two + 8, 1, 1]), 1);
    });
    assert_eq!(call(&thread, FUTEX, [one + 8, 0, 0, 0]), 0);
}
