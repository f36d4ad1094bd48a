//! Calls of clocks and timers.

use alloc::boxed::Box;
use alloc::rc::Rc;

use super::{Args, Call};
use crate::process::Thread;
use crate::signal::bit;
use crate::time::clock::{self, number};
use crate::time::posix::Notify;
use crate::time::{Clock, Interval, SECOND, TICK, Timespec, Timeval};
use crate::user::{Plain, UserAddr};
use crate::{Errno, Result, platform, wait};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::full(35, "nanosleep", 2, nanosleep),
    Call::full(36, "getitimer", 2, getitimer),
    Call::full(37, "alarm", 1, alarm),
    Call::full(38, "setitimer", 3, setitimer),
    Call::full(96, "gettimeofday", 2, gettimeofday),
    Call::full(100, "times", 1, times),
    Call::partly(159, "adjtimex", 1, adjtimex, "reading only"),
    Call::answered(
        164,
        "settimeofday",
        2,
        not_permitted,
        "the clock is the host's",
    ),
    Call::full(201, "time", 1, time),
    Call::full(222, "timer_create", 3, timer_create),
    Call::full(223, "timer_settime", 4, timer_settime),
    Call::full(224, "timer_gettime", 2, timer_gettime),
    Call::full(225, "timer_getoverrun", 1, timer_getoverrun),
    Call::full(226, "timer_delete", 1, timer_delete),
    Call::answered(
        227,
        "clock_settime",
        2,
        clock_settime,
        "the clock is the host's",
    ),
    Call::full(228, "clock_gettime", 2, clock_gettime),
    Call::full(229, "clock_getres", 2, clock_getres),
    Call::full(230, "clock_nanosleep", 4, clock_nanosleep),
    Call::partly(305, "clock_adjtime", 2, clock_adjtime, "reading only"),
];

fn not_permitted(_thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    Err(Errno::EPERM)
}

fn clock_settime(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    args.addr(1).read::<Timespec>()?.to_nanos()?;
    match Clock::by_number(thread, args.int(0))? {
        Clock::Wall => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

fn clock_gettime(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let now = Clock::by_number(thread, args.int(0))?.now();
    args.addr(1).write(Timespec::from_nanos(now))?;
    Ok(0)
}

fn clock_getres(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    Clock::by_number(thread, args.int(0))?;
    let nanos = clock::resolution(args.int(0));
    args.addr(1).write_if(Timespec::from_nanos(nanos))?;
    Ok(0)
}

fn gettimeofday(_thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let now = Timeval::from_nanos(platform::wall());
    args.addr(0).write_if(now)?;
    // `struct timezone`: nobody's.
    args.addr(1).write_if([0i32; 2])?;
    Ok(0)
}

fn time(_thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let seconds = platform::wall() / SECOND;
    args.addr(0).write_if(seconds)?;
    Ok(seconds)
}

fn times(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let used = crate::process::usage::of_process(&thread.process) / TICK;
    // No difference is made between a program's time and that of its calls.
    args.addr(0).write_if([used, 0, 0, 0])?;
    Ok(platform::now() / TICK)
}

/// Sleeps until a moment of a clock.
fn sleep(thread: &Rc<Thread>, clock: Clock, until: u64) -> Result {
    loop {
        let deadline = clock.deadline(until);
        match wait::sleep_until(thread, &[], Some(deadline), || None::<()>) {
            // Processor time has not passed as fast as it could.
            Err(Errno::ETIMEDOUT) if clock.is_processor_time() && clock.now() < until => {}
            Err(Errno::ETIMEDOUT) => return Ok(()),
            other => return other,
        }
    }
}

/// A sleep whose rest is told, and goes on, if a signal interrupts it.
fn sleep_relative(thread: &Rc<Thread>, clock: Clock, until: u64, rest_at: UserAddr) -> Result<u64> {
    match sleep(thread, clock, until) {
        Err(Errno::ERESTARTSYS) => {
            let rest = until.saturating_sub(clock.now());
            rest_at.write_if(Timespec::from_nanos(rest))?;
            let again =
                Box::new(move |thread: &Rc<Thread>| sleep_relative(thread, clock, until, rest_at));
            *thread.signals.restart.borrow_mut() = Some(again);
            Err(Errno::ERESTART_RESTARTBLOCK)
        }
        other => other.map(|()| 0),
    }
}

fn nanosleep(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let time = args.addr(0).read::<Timespec>()?.to_nanos()?;
    let until = platform::now().saturating_add(time);
    sleep_relative(thread, Clock::Monotonic, until, args.addr(1))
}

/// `TIMER_ABSTIME`.
const ABSOLUTE: i32 = 1;

fn clock_nanosleep(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let clock = Clock::by_number(thread, args.int(0))?;
    if clock == Clock::Thread(thread.tid) {
        // It would never wake up.
        return Err(Errno::EINVAL);
    }
    let time = args.addr(2).read::<Timespec>()?.to_nanos()?;
    if args.int(1) & ABSOLUTE != 0 {
        return match sleep(thread, clock, time) {
            Err(Errno::ERESTARTSYS) => Err(Errno::ERESTARTNOHAND),
            other => other.map(|()| 0),
        };
    }
    // Relative times do not follow changes of the wall clock.
    let clock = if clock == Clock::Wall {
        Clock::Monotonic
    } else {
        clock
    };
    let until = clock.now().saturating_add(time);
    sleep_relative(thread, clock, until, args.addr(3))
}

/// `struct sigevent`, as far as the kernel reads it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Event {
    value: u64,
    signal: i32,
    notify: i32,
    tid: i32,
    padding: [i32; 11],
}

// SAFETY: `repr(C)`, integers; 64 bytes without padding between.
unsafe impl Plain for Event {}

fn timer_create(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const SIGNAL: i32 = 0;
    const NONE: i32 = 1;
    const THREAD: i32 = 2;
    const THREAD_ID: i32 = 4;
    let clock = Clock::by_number(thread, args.int(0))?;
    if matches!(
        args.int(0),
        number::MONOTONIC_RAW | number::REALTIME_COARSE | number::MONOTONIC_COARSE
    ) {
        return Err(Errno::EOPNOTSUPP);
    }
    let event: Option<Event> = args.addr(1).read_if()?;
    let process = &thread.process;
    let (notify, signal, value) = match event {
        None => (Notify::Process, crate::signal::number::ALRM, None),
        Some(event) => {
            let signal = event.signal.cast_unsigned();
            let notify = match event.notify {
                NONE => Notify::Nobody,
                SIGNAL | THREAD => Notify::Process,
                n if n == THREAD_ID || n == THREAD_ID | SIGNAL => {
                    let tid = event.tid.cast_unsigned();
                    let other = crate::kernel().processes.thread(tid);
                    let other = other.filter(|o| Rc::ptr_eq(&o.process, process));
                    Notify::Thread(Rc::downgrade(&other.ok_or(Errno::EINVAL)?))
                }
                _ => return Err(Errno::EINVAL),
            };
            if bit(signal) == 0 && !matches!(notify, Notify::Nobody) {
                return Err(Errno::EINVAL);
            }
            (notify, signal, Some(event.value))
        }
    };
    let id = process
        .timers
        .create(process, clock, notify, signal, value)?;
    let written = args.addr(2).write(id);
    if written.is_err() {
        process.timers.delete(process, id)?;
    }
    written.map(|()| 0)
}

/// `struct itimerspec`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct IntervalSpec {
    /// `it_interval`
    pub period: Timespec,
    /// `it_value`
    pub value: Timespec,
}

// SAFETY: four words.
unsafe impl Plain for IntervalSpec {}

impl IntervalSpec {
    /// What is left of a timer.
    pub fn of(timer: &Interval) -> Self {
        let (left, period) = timer.remaining();
        Self {
            period: Timespec::from_nanos(period),
            value: Timespec::from_nanos(left),
        }
    }

    /// Sets a timer as this says (`timer_settime(2)`, `timerfd_settime(2)`).
    ///
    /// # Errors
    /// `EINVAL` for times that are none.
    pub fn apply(&self, timer: &Interval, absolute: bool) -> Result {
        let (period, value) = (self.period.to_nanos()?, self.value.to_nanos()?);
        if value == 0 {
            timer.clear();
        } else if absolute {
            timer.set(value, period);
        } else {
            timer.set(timer.clock().now().saturating_add(value), period);
        }
        Ok(())
    }
}

fn timer_settime(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let timer = thread.process.timers.get(args.uint(0))?;
    let new: IntervalSpec = args.addr(2).read()?;
    let old = IntervalSpec::of(&timer.interval);
    // What the old setting has sent is not of interest any more.
    thread.process.signals.pending.remove_timer(args.uint(0));
    new.apply(&timer.interval, args.int(1) & ABSOLUTE != 0)?;
    timer.overrun.set(0);
    args.addr(3).write_if(old)?;
    Ok(0)
}

fn timer_gettime(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let timer = thread.process.timers.get(args.uint(0))?;
    args.addr(1).write(IntervalSpec::of(&timer.interval))?;
    Ok(0)
}

fn timer_getoverrun(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let timer = thread.process.timers.get(args.uint(0))?;
    Ok(u64::from(timer.overrun.get()))
}

fn timer_delete(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let process = &thread.process;
    process.timers.delete(process, args.uint(0))?;
    Ok(0)
}

/// `struct itimerval`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct IntervalValue {
    period: Timeval,
    value: Timeval,
}

// SAFETY: four words.
unsafe impl Plain for IntervalValue {}

impl IntervalValue {
    fn of(timer: &Interval) -> Self {
        let (left, period) = timer.remaining();
        // What is left is never told as nothing.
        let left = if left == 0 { 0 } else { left.max(1000) };
        Self {
            period: Timeval::from_nanos(period),
            value: Timeval::from_nanos(left),
        }
    }
}

fn getitimer(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let process = &thread.process;
    let timer = process.timers.itimer(process, args.uint(0))?;
    args.addr(1).write(IntervalValue::of(&timer))?;
    Ok(0)
}

fn setitimer(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let process = &thread.process;
    let timer = process.timers.itimer(process, args.uint(0))?;
    // A null pointer stops it, against POSIX (setitimer(2), bugs).
    let new: IntervalValue = args.addr(1).read_if()?.unwrap_or_default();
    let (period, value) = (new.period.to_nanos()?, new.value.to_nanos()?);
    let old = IntervalValue::of(&timer);
    if value == 0 {
        timer.clear();
    } else {
        timer.set(timer.clock().now().saturating_add(value), period);
    }
    args.addr(2).write_if(old)?;
    Ok(0)
}

fn alarm(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let process = &thread.process;
    let timer = process.timers.itimer(process, 0)?;
    let (left, _) = timer.remaining();
    let seconds = u64::from(args.uint(0));
    if seconds == 0 {
        timer.clear();
    } else {
        let at = timer.clock().now().saturating_add(seconds * SECOND);
        timer.set(at, 0);
    }
    // Rounded, but never to nothing.
    let rounded = (left + SECOND / 2) / SECOND;
    Ok(if left == 0 { 0 } else { rounded.max(1) })
}

/// `struct timex`, 208 bytes, as words: only those that are told have names.
fn adjust(at: UserAddr) -> Result<u64> {
    /// `TIME_OK`.
    const IN_STEP: u64 = 0;
    const WORDS: usize = 26;
    let modes: u32 = at.read()?;
    // `ADJ_OFFSET_SS_READ` only reads too.
    if modes != 0 && modes != 0xa001 {
        return Err(Errno::EPERM);
    }
    let now = platform::wall();
    let mut told = [0u64; WORDS];
    told[3] = 16_000_000; // maxerror
    told[4] = 16_000_000; // esterror
    told[6] = 2; // constant
    told[7] = 1; // precision
    told[8] = 32_768_000; // tolerance
    told[9] = now / SECOND;
    told[10] = now % SECOND / 1000;
    told[11] = 10_000; // tick
    at.write(told)?;
    Ok(IN_STEP)
}

fn adjtimex(_thread: &Rc<Thread>, args: Args) -> Result<u64> {
    adjust(args.addr(0))
}

fn clock_adjtime(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    match Clock::by_number(thread, args.int(0))? {
        Clock::Wall => adjust(args.addr(1)),
        _ => Err(Errno::EOPNOTSUPP),
    }
}
