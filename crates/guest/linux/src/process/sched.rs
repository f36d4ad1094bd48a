//! Which thread runs.
//!
//! There is one virtual CPU. A thread runs until it sleeps, yields or its time slice is over; those that can run take turns by
//! *virtual runtime*: the processor time that a thread has used, weighed by its niceness. The one with the least is next, so each
//! gets its share whatever the others do. A thread that wakes up starts at most [`BONUS`] behind those that ran meanwhile: it gets the
//! processor soon, but does not make up for all of its sleep.
//!
//! What really changes threads is [`platform::switch`]: it asks [`next`], and waits for devices and timers while there is none.
//!
//! A thread ends by becoming [`RunState::Dead`]: when its call returns it leaves the processor for good.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use super::{RunState, Thread};
use crate::platform;
use crate::wait::Deadline;
use crate::{Errno, Result};

/// A time slice in nanoseconds: how often the processor is taken from a thread to look who else can run.
pub const SLICE: u64 = 4_000_000;

/// How far behind the others a thread may be that wakes up, in nanoseconds.
const BONUS: u64 = SLICE;

/// How much longer the running thread may have run than one that wakes up before it gives way at once, in nanoseconds.
const GRANULARITY: u64 = 1_000_000;

/// How long frames that a call has queued may wait for others to leave with, in nanoseconds.
pub const FRAMES_MAY_WAIT: u64 = 50_000;

/// The same where it costs much to let them leave: so many times what that takes, so that it never takes most of the time.
const FRAMES_WAIT_TIMES: u64 = 8;

/// But never longer than this, in nanoseconds.
const FRAMES_MAY_WAIT_MOST: u64 = 500_000;

/// The weight of niceness 0.
const NORMAL: u64 = 1024;

/// What the scheduler keeps of a thread.
#[derive(Debug, Default)]
pub struct Entity {
    /// Weighed processor time in nanoseconds.
    vruntime: Cell<u64>,
    /// In the run queue, with this key.
    queued: Cell<bool>,
}

/// The run queue.
#[derive(Debug, Default)]
pub struct Scheduler {
    /// Threads that can run but do not, by virtual runtime and number.
    ready: RefCell<BTreeMap<(u64, u32), Rc<Thread>>>,
    /// No thread in the queue has less, nor had for a while: where new ones begin.
    floor: Cell<u64>,
    /// Until when the running thread's time has been accounted for.
    accounted: Cell<u64>,
    /// The running thread's number; 0 while there is none.
    running: Cell<u32>,
    /// The running thread is to give way when its call returns.
    resched: Cell<bool>,
    /// Until which [`moment`](platform::moment) frames may wait to leave; 0 if there are none.
    frames_until: Cell<u64>,
    /// What it takes to let frames leave, as [`moment`](platform::moment) counts: the least of late.
    frames_take: Cell<u64>,
}

/// Puts the running thread to sleep until it is woken, a signal comes or the deadline (monotonic nanoseconds) passes. It may come back without
/// any of those: callers look again ([`sleep_until`](crate::wait::sleep_until)).
pub fn park(thread: &Rc<Thread>, deadline: Deadline) {
    thread.state.set(RunState::Asleep);
    let timer = deadline.map(|at| crate::kernel().timers.wake_at(at, thread));
    platform::switch(thread);
    drop(timer);
    if thread.state.get() == RunState::Asleep {
        thread.state.set(RunState::Ready);
    }
}

/// Lets a sleeping thread run again. Does nothing to others.
pub fn wake(thread: &Thread) {
    if thread.state.get() != RunState::Asleep {
        return;
    }
    thread.state.set(RunState::Ready);
    let kernel = crate::kernel();
    let scheduler = &kernel.scheduler;
    let entity = &thread.entity;
    let least = scheduler.floor.get().saturating_sub(BONUS);
    entity.vruntime.set(entity.vruntime.get().max(least));
    scheduler.enqueue(thread);
    let running = scheduler.running.get();
    if running != 0
        && running != thread.tid
        && let Some(other) = kernel.processes.thread(running)
        && entity.vruntime.get().saturating_add(GRANULARITY) < other.entity.vruntime.get()
    {
        scheduler.resched.set(true);
    }
}

/// Makes a new thread one of those that can run. Its registers are those that it starts with ([`platform::prepare`]).
pub fn start(thread: &Thread) {
    let kernel = crate::kernel();
    let floor = kernel.scheduler.floor.get();
    thread.entity.vruntime.set(floor);
    thread.state.set(RunState::Ready);
    kernel.scheduler.enqueue(thread);
}

/// Lets the others run first (`sched_yield(2)`).
pub fn yield_now(thread: &Rc<Thread>) {
    let kernel = crate::kernel();
    let scheduler = &kernel.scheduler;
    account(thread);
    let last = scheduler.ready.borrow().last_key_value().map(|(k, _)| k.0);
    let Some(last) = last else { return };
    let entity = &thread.entity;
    entity.vruntime.set(entity.vruntime.get().max(last + 1));
    scheduler.enqueue(thread);
    platform::switch(thread);
}

/// Gives the processor to another thread if one has more right to it: at the end of a time slice, and when a call returns during
/// which such a thread has woken up.
pub fn give_way(thread: &Rc<Thread>) {
    let kernel = crate::kernel();
    let scheduler = &kernel.scheduler;
    scheduler.resched.set(false);
    account(thread);
    let first = scheduler.ready.borrow().first_key_value().map(|(k, _)| k.0);
    if first.is_some_and(|first| first < thread.entity.vruntime.get()) {
        scheduler.enqueue(thread);
        platform::switch(thread);
    }
}

/// For calls that take long: if a tick has come meanwhile, does what it is for, so that timers fire and others run. Nothing may be borrowed.
///
/// # Errors
/// `EINTR` if the thread is about to end: the call has nobody left to work for.
pub fn breathe(thread: &Rc<Thread>) -> Result {
    if crate::kernel().event.is_detached() || !platform::is_current(thread) {
        return Ok(());
    }
    platform::breathe(thread);
    if crate::signal::is_ending(thread) {
        return Err(Errno::EINTR);
    }
    Ok(())
}

/// Takes the thread that is to run next out of the queue; it counts as the running one from now on.
pub fn next() -> Option<Rc<Thread>> {
    let kernel = crate::kernel();
    let scheduler = &kernel.scheduler;
    loop {
        let ((vruntime, _), thread) = scheduler.ready.borrow_mut().pop_first()?;
        thread.entity.queued.set(false);
        if thread.state.get() == RunState::Ready {
            scheduler.floor.set(scheduler.floor.get().max(vruntime));
            return Some(thread);
        }
    }
}

/// Adds to the running thread's time what has passed since it was last done.
pub fn account(thread: &Thread) {
    let kernel = crate::kernel();
    let now = platform::now();
    let scheduler = &kernel.scheduler;
    let passed = now.saturating_sub(scheduler.accounted.replace(now));
    thread.used.set(thread.used.get().saturating_add(passed));
    let weighed = passed.saturating_mul(NORMAL) / weight(thread.nice.get());
    let vruntime = thread.entity.vruntime.get().saturating_add(weighed);
    thread.entity.vruntime.set(vruntime);
}

/// Notes that from now on this thread uses the processor, or nobody.
pub fn begin(thread: Option<&Thread>) {
    let kernel = crate::kernel();
    kernel.scheduler.accounted.set(platform::now());
    kernel.scheduler.running.set(thread.map_or(0, |t| t.tid));
}

/// The thread that runs; `None` before the first one does.
pub fn running() -> Option<Rc<Thread>> {
    let kernel = crate::kernel();
    kernel.processes.thread(kernel.scheduler.running.get())
}

/// Nanoseconds of processor time that a thread has used, up to now.
pub fn used(thread: &Thread) -> u64 {
    if crate::kernel().scheduler.running.get() == thread.tid {
        account(thread);
    }
    thread.used.get()
}

impl Scheduler {
    /// True if the running thread is to [`give_way`].
    pub fn must_give_way(&self) -> bool {
        self.resched.get()
    }

    /// Threads that can run but do not.
    pub fn waiting(&self) -> usize {
        self.ready.borrow().len()
    }

    /// Notes that a call has queued frames: they leave when the thread sleeps, asks what is ready, or after [`FRAMES_MAY_WAIT`], which is longer
    /// where letting them leave takes long.
    pub fn frames_queued(&self) {
        if self.frames_until.get() != 0 {
            return;
        }
        let mut until = platform::moment(FRAMES_MAY_WAIT);
        let wait = self.frames_take.get().saturating_mul(FRAMES_WAIT_TIMES);
        let worth = platform::moment(0).saturating_add(wait);
        if worth > until {
            until = worth.min(platform::moment(FRAMES_MAY_WAIT_MOST));
        }
        self.frames_until.set(until);
    }

    /// Notes how long it took to let frames leave, as [`moment`](platform::moment) counts.
    pub fn frames_took(&self, time: u64) {
        let known = self.frames_take.get();
        // Much of a long time was for the number of frames, or the host did something else.
        let known = if known == 0 {
            time
        } else {
            known + known / 16 + 1
        };
        self.frames_take.set(known.min(time));
    }

    /// Until which [`moment`](platform::moment) frames may wait; 0 if there are none.
    pub fn frames_until(&self) -> u64 {
        self.frames_until.get()
    }

    /// Notes that all have left.
    pub fn frames_left(&self) {
        self.frames_until.set(0);
    }

    fn enqueue(&self, thread: &Thread) {
        if thread.entity.queued.get() {
            return;
        }
        if let Some(thread) = thread.myself.upgrade() {
            thread.entity.queued.set(true);
            let key = (thread.entity.vruntime.get(), thread.tid);
            self.ready.borrow_mut().insert(key, thread);
        }
    }
}

/// What a thread's share is proportional to: each step of niceness is a factor of 1.25 (`sched(7)`).
fn weight(nice: i8) -> u64 {
    let steps = i32::from(nice.clamp(-20, 19));
    let mut weight = NORMAL;
    for _ in 0..steps.abs() {
        weight = if steps > 0 {
            weight * 4 / 5
        } else {
            weight * 5 / 4
        };
    }
    weight.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread() -> Rc<Thread> {
        platform::pretend::reset();
        crate::kernel().processes.first()
    }

    #[test]
    fn the_thread_with_the_least_runtime_is_next() {
        let first = thread();
        let kernel = crate::kernel();
        let second = kernel.processes.add_thread(2, first.process.clone());
        begin(Some(&first));
        start(&second);
        platform::pretend::advance(SLICE);
        account(&first);
        kernel.scheduler.enqueue(&first);
        assert_eq!(next().map(|t| t.tid), Some(2));
        assert_eq!(next().map(|t| t.tid), Some(1));
        assert!(next().is_none());
        assert_eq!(first.used.get(), SLICE);
    }

    #[test]
    fn a_nice_thread_pays_more_for_its_time() {
        assert!(weight(19) < weight(10) && weight(10) < weight(0));
        assert!(weight(0) == NORMAL && weight(-20) > 80_000);
        let first = thread();
        first.nice.set(5);
        begin(Some(&first));
        platform::pretend::advance(1_000);
        account(&first);
        assert!(first.entity.vruntime.get() > 3_000);
        assert_eq!(first.used.get(), 1_000);
    }

    #[test]
    fn who_sleeps_long_is_not_owed_all_of_it() {
        let first = thread();
        let kernel = crate::kernel();
        kernel.scheduler.floor.set(100 * SLICE);
        first.state.set(RunState::Asleep);
        wake(&first);
        wake(&first);
        assert_eq!(first.entity.vruntime.get(), 99 * SLICE);
        assert_eq!(kernel.scheduler.waiting(), 1);
    }

    #[test]
    fn frames_wait_longer_where_they_leave_slowly() {
        thread();
        let kernel = crate::kernel();
        let scheduler = &kernel.scheduler;
        let wait = || {
            scheduler.frames_left();
            scheduler.frames_queued();
            scheduler.frames_until() - platform::moment(0)
        };
        assert_eq!(wait(), FRAMES_MAY_WAIT);
        scheduler.frames_took(1_000);
        assert_eq!(wait(), FRAMES_MAY_WAIT);
        for _ in 0..100 {
            scheduler.frames_took(20_000);
        }
        assert_eq!(wait(), 8 * 20_000);
        // One that took long says little.
        scheduler.frames_took(10_000_000);
        assert!(wait() < 9 * 20_000);
        for _ in 0..200 {
            scheduler.frames_took(10_000_000);
        }
        assert_eq!(wait(), FRAMES_MAY_WAIT_MOST);
        scheduler.frames_took(1_000);
        assert_eq!(wait(), FRAMES_MAY_WAIT);
    }

    #[test]
    fn a_dead_thread_is_never_next() {
        let first = thread();
        start(&first);
        first.state.set(RunState::Dead);
        assert!(next().is_none());
    }
}
