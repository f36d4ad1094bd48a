//! Tests of clocks and timers, by their calls.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use super::clock::number as clock;
use super::{SECOND, Timers};
use crate::process::Thread;
use crate::process::testing::{MEMORY, call, first};
use crate::signal::{self, Action, Info, bit, info, number};
use crate::user::UserAddr;
use crate::{Errno, kernel, platform, platform::pretend};

const NANOSLEEP: u64 = 35;
const GETITIMER: u64 = 36;
const ALARM: u64 = 37;
const SETITIMER: u64 = 38;
const TIMER_CREATE: u64 = 222;
const TIMER_SETTIME: u64 = 223;
const TIMER_GETTIME: u64 = 224;
const TIMER_GETOVERRUN: u64 = 225;
const TIMER_DELETE: u64 = 226;
const CLOCK_SETTIME: u64 = 227;
const CLOCK_GETTIME: u64 = 228;
const CLOCK_GETRES: u64 = 229;
const CLOCK_NANOSLEEP: u64 = 230;

const OUT: UserAddr = MEMORY.add(1024);

fn error(errno: Errno) -> i64 {
    -i64::from(errno.0)
}

fn arg(number: i32) -> u64 {
    i64::from(number).cast_unsigned()
}

/// Something for each signal, so that it is not dropped, and all of them blocked.
fn blocking() -> Rc<Thread> {
    let thread = first();
    for number in 1..=number::LAST {
        let action = Action {
            handler: 0x40_1000,
            ..Action::default()
        };
        thread.process.signals.actions.set(number, action);
    }
    signal::set_blocked(&thread, u64::MAX);
    thread
}

/// Lets time pass and timers do their work.
fn pass(nanos: u64) {
    pretend::advance(nanos);
    kernel().timers.fire(platform::now());
}

#[test]
fn timers_come_in_the_order_of_their_times() {
    let timers = Timers::default();
    let done = Rc::new(RefCell::new(Vec::new()));
    let mut kept = Vec::new();
    for at in [50, 10, 30, 20, 40, 10] {
        let done = done.clone();
        let action = alloc::boxed::Box::new(move || done.borrow_mut().push(at));
        kept.push(timers.at(at, action));
    }
    assert_eq!(timers.next(), Some(10));
    // Taken back: 30.
    drop(kept.remove(2));
    timers.fire(20);
    assert_eq!(*done.borrow(), [10, 10, 20]);
    assert_eq!(timers.next(), Some(40));
    timers.fire(100);
    assert_eq!(*done.borrow(), [10, 10, 20, 40, 50]);
    assert_eq!(timers.next(), None);
    drop(kept);
}

#[test]
fn many_timers_are_taken_back_in_any_order() {
    let timers = Timers::default();
    let done = Rc::new(RefCell::new(Vec::new()));
    let mut kept = Vec::new();
    for n in 0u64..500 {
        let at = n * 7919 % 1009;
        let done = done.clone();
        let action = alloc::boxed::Box::new(move || done.borrow_mut().push(at));
        kept.push(timers.at(at, action));
    }
    let mut left = Vec::new();
    for (n, timer) in kept.into_iter().enumerate() {
        if n % 3 == 0 {
            left.push(timer);
        }
    }
    timers.fire(u64::MAX);
    let done = done.borrow();
    assert_eq!(done.len(), left.len());
    assert!(done.is_sorted());
}

#[test]
fn clocks_show_their_time() {
    let thread = first();
    let read = |number: i32| {
        assert_eq!(call(&thread, CLOCK_GETTIME, [arg(number), OUT.0]), 0);
        let [seconds, nanos]: [u64; 2] = OUT.read().expect("there");
        seconds * SECOND + nanos
    };
    assert_eq!(read(clock::MONOTONIC), platform::now());
    assert_eq!(read(clock::BOOTTIME), platform::now());
    assert_eq!(read(clock::REALTIME), platform::wall());
    assert_eq!(read(clock::TAI), platform::wall());
    assert_eq!(read(clock::PROCESS_CPUTIME), 0);
    // pthread_getcpuclockid(3) of thread 1.
    assert_eq!(read(!1 << 3 | 6), 0);
    for unknown in [10, 12, !77 << 3 | 6, !1 << 3 | 3] {
        let read = call(&thread, CLOCK_GETTIME, [arg(unknown), OUT.0]);
        assert_eq!(read, error(Errno::EINVAL));
    }
    assert_eq!(call(&thread, CLOCK_GETRES, [1, OUT.0]), 0);
    assert_eq!(OUT.read(), Ok([0u64, 1]));
    assert_eq!(OUT.write([1u64, 0]), Ok(()));
    let set = call(&thread, CLOCK_SETTIME, [0, OUT.0]);
    assert_eq!(set, error(Errno::EPERM));
}

#[test]
fn sleeps_end_at_their_time() {
    let thread = first();
    let begun = platform::now();
    assert_eq!(MEMORY.write([1u64, 500]), Ok(()));
    assert_eq!(call(&thread, NANOSLEEP, [MEMORY.0, 0]), 0);
    assert_eq!(platform::now() - begun, SECOND + 500);
    let absolute = [platform::wall() / SECOND + 10, 0];
    assert_eq!(MEMORY.write(absolute), Ok(()));
    assert_eq!(call(&thread, CLOCK_NANOSLEEP, [0, 1, MEMORY.0, 0]), 0);
    assert_eq!(platform::wall(), absolute[0] * SECOND);
    for [seconds, nanos] in [[0, SECOND], [u64::MAX, 0], [0, u64::MAX]] {
        assert_eq!(MEMORY.write([seconds, nanos]), Ok(()));
        let slept = call(&thread, NANOSLEEP, [MEMORY.0, 0]);
        assert_eq!(slept, error(Errno::EINVAL));
    }
}

#[test]
fn an_interrupted_sleep_tells_what_is_left() {
    let thread = first();
    let same = thread.clone();
    pretend::while_asleep(move || {
        pretend::advance(2 * SECOND);
        same.pretend_signal();
    });
    assert_eq!(MEMORY.write([5u64, 0]), Ok(()));
    let slept = call(&thread, NANOSLEEP, [MEMORY.0, OUT.0]);
    assert_eq!(slept, error(Errno::ERESTART_RESTARTBLOCK));
    assert_eq!(OUT.read(), Ok([3u64, 0]));
}

#[test]
fn an_alarm_rings_once() {
    let thread = blocking();
    assert_eq!(call(&thread, ALARM, [10]), 0);
    pretend::advance(4 * SECOND);
    assert_eq!(call(&thread, ALARM, [3]), 6);
    pass(3 * SECOND);
    assert_eq!(signal::waiting_for(&thread), bit(number::ALRM));
    assert!(signal::take(&thread, bit(number::ALRM)).is_some());
    pass(100 * SECOND);
    assert_eq!(signal::waiting_for(&thread), 0);
    assert_eq!(call(&thread, ALARM, [0]), 0);
}

#[test]
fn an_interval_timer_goes_on_when_its_signal_is_taken() {
    let thread = blocking();
    // Every 10 ms, the first time after 5.
    assert_eq!(MEMORY.write([0u64, 10_000, 0, 5_000]), Ok(()));
    assert_eq!(call(&thread, SETITIMER, [0, MEMORY.0, OUT.0]), 0);
    assert_eq!(OUT.read(), Ok([0u64; 4]));
    pass(5_000_000);
    assert!(signal::take(&thread, bit(number::ALRM)).is_some());
    assert_eq!(call(&thread, GETITIMER, [0, OUT.0]), 0);
    assert_eq!(OUT.read(), Ok([0u64, 10_000, 0, 10_000]));
    // Nobody takes it for a while; then it is in step again.
    pass(10_000_000);
    pass(10_000_000);
    pass(3_000_000);
    assert!(signal::take(&thread, bit(number::ALRM)).is_some());
    assert_eq!(call(&thread, GETITIMER, [0, OUT.0]), 0);
    assert_eq!(OUT.read(), Ok([0u64, 10_000, 0, 7_000]));
    let none = call(&thread, GETITIMER, [3, OUT.0]);
    assert_eq!(none, error(Errno::EINVAL));
}

/// A timer with a signal; `OUT` has its number.
fn create(thread: &Rc<Thread>, event: [u64; 8]) -> u64 {
    assert_eq!(MEMORY.write(event), Ok(()));
    assert_eq!(call(thread, TIMER_CREATE, [1, MEMORY.0, OUT.0]), 0);
    u64::from(OUT.read::<u32>().expect("there"))
}

#[test]
fn a_timer_sends_its_signal_with_its_value() {
    let thread = blocking();
    // sigev_value, then signal and notify (SIGEV_SIGNAL) in one word.
    let id = create(&thread, [0xabc, 34, 0, 0, 0, 0, 0, 0]);
    assert_eq!(MEMORY.write([0u64, 1_000, 0, 1_000]), Ok(()));
    assert_eq!(call(&thread, TIMER_SETTIME, [id, 0, MEMORY.0, 0]), 0);
    assert_eq!(call(&thread, TIMER_GETTIME, [id, OUT.0]), 0);
    assert_eq!(OUT.read(), Ok([0u64, 1_000, 0, 1_000]));
    pass(1_000);
    pass(5_500);
    let taken = signal::take(&thread, bit(34)).expect("sent");
    assert_eq!(taken, Info::timer(34, id as u32, 5, 0xabc));
    assert_eq!(taken.code, info::SI_TIMER);
    assert_eq!(call(&thread, TIMER_GETOVERRUN, [id]), 5);
    assert!(signal::take(&thread, bit(34)).is_none());
    pass(500);
    let taken = signal::take(&thread, bit(34)).expect("sent again");
    assert_eq!(taken.uid(), 0);
    pass(1_000);
    assert_eq!(call(&thread, TIMER_DELETE, [id]), 0);
    assert_eq!(signal::waiting_for(&thread), 0);
    for gone in [TIMER_DELETE, TIMER_GETOVERRUN] {
        assert_eq!(call(&thread, gone, [id]), error(Errno::EINVAL));
    }
}

#[test]
fn the_signals_of_two_timers_and_of_kill_are_three() {
    let thread = blocking();
    let usr1 = u64::from(number::USR1);
    let timers = [7, 8].map(|value| create(&thread, [value, usr1, 0, 0, 0, 0, 0, 0]));
    let info = Info::user(number::USR1, info::SI_USER, 1, 0);
    assert!(signal::send_to_process(&thread.process, info).is_ok());
    for id in timers {
        assert_eq!(MEMORY.write([0u64, 0, 0, 1_000]), Ok(()));
        assert_eq!(call(&thread, TIMER_SETTIME, [id, 0, MEMORY.0, 0]), 0);
    }
    pass(1_000);
    // Whoever sends it now sends none: it waits already.
    assert!(signal::send_to_process(&thread.process, info).is_ok());
    let wanted = bit(number::USR1);
    let taken = [7, 8].map(|value| {
        let first = signal::take(&thread, wanted).expect("there");
        if first.code == info::SI_USER {
            assert_eq!(value, 7);
            return signal::take(&thread, wanted).expect("a timer's");
        }
        first
    });
    for ((taken, value), id) in taken.into_iter().zip([7, 8]).zip(timers) {
        assert_eq!(taken, Info::timer(number::USR1, id as u32, 0, value));
    }
    assert_eq!(signal::waiting_for(&thread), 0);
    assert!(signal::take(&thread, wanted).is_none());
}

#[test]
fn a_timer_may_tell_one_thread_or_nobody() {
    let thread = blocking();
    let other = kernel().processes.add_thread(2, thread.process.clone());
    signal::set_blocked(&other, u64::MAX);
    // SIGEV_THREAD_ID is 4, the thread's number lies behind it.
    let id = create(&thread, [0, 4 << 32 | 35, 2, 0, 0, 0, 0, 0]);
    assert_eq!(MEMORY.write([0u64, 0, 0, 7]), Ok(()));
    assert_eq!(call(&thread, TIMER_SETTIME, [id, 0, MEMORY.0, 0]), 0);
    pass(7);
    assert_eq!(signal::waiting_for(&thread), 0);
    assert_eq!(signal::waiting_for(&other), bit(35));
    let id = create(&thread, [0, 1 << 32, 0, 0, 0, 0, 0, 0]);
    assert_eq!(MEMORY.write([0u64, 0, 0, 7]), Ok(()));
    assert_eq!(call(&thread, TIMER_SETTIME, [id, 0, MEMORY.0, 0]), 0);
    pass(7);
    assert_eq!(call(&thread, TIMER_GETTIME, [id, OUT.0]), 0);
    assert_eq!(OUT.read(), Ok([0u64; 4]));
    // SIGEV_THREAD_ID of another process's thread, a signal that is none, an unknown way.
    for event in [[0u64, 4 << 32 | 35, 77], [0, 65, 0], [0, 9 << 32 | 35, 0]] {
        assert_eq!(MEMORY.write(event), Ok(()));
        let made = call(&thread, TIMER_CREATE, [1, MEMORY.0, OUT.0]);
        assert_eq!(made, error(Errno::EINVAL));
    }
}

#[test]
fn a_timer_of_processor_time_waits_for_that() {
    let thread = blocking();
    assert_eq!(MEMORY.write([0u64, 0, 1, 0]), Ok(()));
    assert_eq!(call(&thread, SETITIMER, [2, MEMORY.0, 0]), 0);
    // Real time passes, but the process has not run.
    pass(2 * SECOND);
    assert_eq!(signal::waiting_for(&thread), 0);
    thread.process.used_before.set(SECOND);
    pass(2 * SECOND);
    assert_eq!(signal::waiting_for(&thread), bit(number::PROF));
}

#[test]
fn a_timer_whose_signal_is_ignored_keeps_nobody_busy() {
    let thread = first();
    let ignore = Action {
        handler: 1,
        ..Action::default()
    };
    thread.process.signals.actions.set(number::ALRM, ignore);
    assert_eq!(MEMORY.write([0u64, 1, 0, 1]), Ok(()));
    assert_eq!(call(&thread, SETITIMER, [0, MEMORY.0, 0]), 0);
    pass(1_000);
    let next = kernel().timers.next().expect("it goes on");
    assert!(next > platform::now() + 900_000);
}

#[test]
fn a_timer_of_processor_time_lets_an_idle_process_sleep() {
    let thread = blocking();
    // A microsecond of it, which never passes.
    assert_eq!(MEMORY.write([0u64, 0, 0, 1]), Ok(()));
    assert_eq!(call(&thread, SETITIMER, [2, MEMORY.0, 0]), 0);
    pass(1_000);
    let next = kernel().timers.next().expect("it looks again");
    assert!(next >= platform::now() + 4_000_000);
}

#[test]
fn a_timer_that_is_set_to_the_past_runs_down_at_once() {
    let thread = blocking();
    let id = create(&thread, [0, 36, 0, 0, 0, 0, 0, 0]);
    assert_eq!(MEMORY.write([0u64, 0, 0, 1]), Ok(()));
    assert_eq!(call(&thread, TIMER_SETTIME, [id, 1, MEMORY.0, 0]), 0);
    assert_eq!(signal::waiting_for(&thread), bit(36));
}

#[test]
fn a_process_that_has_used_its_time_is_told_and_then_ended() {
    const SETRLIMIT: u64 = 160;
    const SIGXCPU: u32 = 24;
    let thread = first();
    let process = &thread.process;
    assert_eq!(MEMORY.write([1_u64, 3]), Ok(()));
    assert_eq!(call(&thread, SETRLIMIT, [0, MEMORY.0]), 0);
    crate::process::sched::begin(Some(&thread));
    let check = |nanos| {
        pretend::advance(nanos);
        crate::process::usage::check_limit(process);
        let set = crate::signal::waiting_for(&thread);
        process.signals.pending.remove(crate::signal::bit(SIGXCPU));
        set
    };
    let xcpu = crate::signal::bit(SIGXCPU);
    assert_eq!(check(900_000_000), 0);
    assert_eq!(check(200_000_000), xcpu);
    assert_eq!(check(200_000_000), 0, "once a second");
    assert_eq!(check(900_000_000), xcpu);
    assert_eq!(check(900_000_000), crate::signal::bit(9));
}
