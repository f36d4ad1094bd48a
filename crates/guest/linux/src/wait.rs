//! Sleeping and waking.
//!
//! Whatever can become ready has a [`WaitQueue`]. Those who want to know are its [`Observer`]s: a sleeping thread, an entry of an
//! epoll instance. A wake-up says what may have become so ([`Events`]); who is woken looks for himself.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use crate::process::{RunState, Thread, sched};
use crate::{Errno, Result};

bitflags::bitflags! {
    /// What a descriptor is ready for (`poll(2)`; epoll uses the same numbers).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Events: u32 {
        /// `POLLIN`
        const IN = 0x1;
        /// `POLLPRI`
        const PRI = 0x2;
        /// `POLLOUT`
        const OUT = 0x4;
        /// `POLLERR`
        const ERR = 0x8;
        /// `POLLHUP`
        const HUP = 0x10;
        /// `POLLNVAL`
        const NVAL = 0x20;
        /// `POLLRDNORM`
        const RDNORM = 0x40;
        /// `POLLRDBAND`
        const RDBAND = 0x80;
        /// `POLLWRNORM`
        const WRNORM = 0x100;
        /// `POLLWRBAND`
        const WRBAND = 0x200;
        /// `POLLRDHUP`
        const RDHUP = 0x2000;
    }
}

impl Events {
    /// Ready to read, by all its names.
    pub const READABLE: Self = Self::IN.union(Self::RDNORM);
    /// Ready to write, by all its names.
    pub const WRITABLE: Self = Self::OUT.union(Self::WRNORM);
}

/// Somebody who wants to know.
pub trait Observer {
    /// Something may have become so. Must not sleep, and not borrow what the waker may have borrowed: note it and go.
    fn notify(&self, events: Events);

    /// True if one of several such observers is enough to be told (`wake_one`).
    fn is_exclusive(&self) -> bool {
        false
    }

    /// Of an exclusive observer: true if telling it of these events will make somebody look; if not, the next one is told too.
    fn will_look(&self, _events: Events) -> bool {
        true
    }

    /// True if it will never want to know anything again: queues forget it when they grow.
    fn is_gone(&self) -> bool {
        false
    }
}

/// Those who wait for something.
#[derive(Default)]
pub struct WaitQueue {
    observers: RefCell<Vec<Rc<dyn Observer>>>,
}

impl core::fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "WaitQueue({})", self.observers.borrow().len())
    }
}

impl WaitQueue {
    /// A queue nobody waits on.
    pub const fn new() -> Self {
        Self {
            observers: RefCell::new(Vec::new()),
        }
    }

    /// True if nobody waits.
    pub fn is_empty(&self) -> bool {
        self.observers.borrow().is_empty()
    }

    /// Adds an observer, at the end.
    pub fn add(&self, observer: Rc<dyn Observer>) {
        let mut observers = self.observers.borrow_mut();
        if observers.len() == observers.capacity() {
            observers.retain(|observer| !observer.is_gone());
        }
        observers.push(observer);
    }

    /// Takes an observer out again; nothing happens if it is not there.
    pub fn remove(&self, observer: &Rc<dyn Observer>) {
        let mut observers = self.observers.borrow_mut();
        if let Some(at) = observers.iter().position(|o| same(o, observer)) {
            observers.remove(at);
        }
    }

    /// Tells all observers; of the exclusive ones only the first that [will look](Observer::will_look).
    pub fn wake(&self, events: Events) {
        let mut exclusive_told = false;
        self.tell(|observer| {
            if observer.is_exclusive() {
                if exclusive_told {
                    return;
                }
                exclusive_told = observer.will_look(events);
            }
            observer.notify(events);
        });
    }

    /// Tells every observer.
    pub fn wake_all(&self, events: Events) {
        self.tell(|observer| observer.notify(events));
    }

    /// Observers take themselves out of queues while they are told, so none is borrowed meanwhile.
    fn tell(&self, mut each: impl FnMut(&Rc<dyn Observer>)) {
        let mut next = 0;
        loop {
            let observer = self.observers.borrow().get(next).cloned();
            let Some(observer) = observer else { break };
            each(&observer);
            let still_there = self
                .observers
                .borrow()
                .get(next)
                .is_some_and(|o| same(o, &observer));
            next += usize::from(still_there);
        }
    }
}

fn same(a: &Rc<dyn Observer>, b: &Rc<dyn Observer>) -> bool {
    core::ptr::addr_eq(Rc::as_ptr(a), Rc::as_ptr(b))
}

/// Until when to sleep: monotonic nanoseconds, or without end.
pub type Deadline = Option<u64>;

/// Sleeps until `ready` gives something, looking again whenever one of `queues` is woken.
///
/// `ready` must not leave anything borrowed.
///
/// # Errors
/// `ERESTARTSYS` if a signal is there to be handled: the caller passes it on, or turns it into `EINTR` where the call is never
/// restarted (`signal(7)`). `ETIMEDOUT` when the deadline has passed. `EAGAIN` at once if it is not this thread that runs, as in requests that
/// an `io_uring` does for it later.
pub fn sleep_until<T>(
    thread: &Rc<Thread>,
    queues: &[&WaitQueue],
    deadline: Deadline,
    ready: impl FnMut() -> Option<T>,
) -> Result<T> {
    let observer: Rc<dyn Observer> = thread.clone();
    sleep_as(thread, &observer, queues, deadline, ready)
}

/// A sleeping thread that shares out what comes with others: one of them is enough to be told.
struct OneOfSeveral(Rc<Thread>);

impl Observer for OneOfSeveral {
    fn notify(&self, _events: Events) {
        sched::wake(&self.0);
    }

    fn is_exclusive(&self) -> bool {
        true
    }

    fn will_look(&self, _events: Events) -> bool {
        self.0.state.get() == RunState::Asleep
    }
}

fn sleep_as<T>(
    thread: &Rc<Thread>,
    observer: &Rc<dyn Observer>,
    queues: &[&WaitQueue],
    deadline: Deadline,
    mut ready: impl FnMut() -> Option<T>,
) -> Result<T> {
    if let Some(value) = ready() {
        return Ok(value);
    }
    if crate::kernel().event.is_detached() || !crate::platform::is_current(thread) {
        return Err(Errno::EAGAIN);
    }
    for queue in queues {
        queue.add(observer.clone());
    }
    let result = loop {
        if let Some(value) = ready() {
            break Ok(value);
        }
        if thread.has_signal_to_handle() {
            break Err(Errno::ERESTARTSYS);
        }
        if deadline.is_some_and(|deadline| crate::platform::now() >= deadline) {
            break Err(Errno::ETIMEDOUT);
        }
        sched::park(thread, deadline);
    };
    for queue in queues {
        queue.remove(observer);
    }
    result
}

/// For calls that try, wait until they are told that trying again is worth it, and try again.
///
/// What is ready may still have nothing for this call: an error queue that nobody reads, say. Such a call must not go round for ever, since
/// nobody else would run: it sleeps until something changes.
#[derive(Debug, Default)]
pub struct Patience {
    in_vain: u32,
    one_of_several: bool,
}

impl Patience {
    /// How often it is tried again without sleeping.
    const MOST: u32 = 2;

    /// For calls of which one of several that wait is enough to be told: whoever is, takes what there is and tells the next one if there is more.
    pub fn of_one_of_several() -> Self {
        Self {
            one_of_several: true,
            ..Self::default()
        }
    }

    /// Sleeps until `is_ready`, or if that has been so in vain, until `queue` is woken.
    ///
    /// # Errors
    /// Those of [`sleep_until`].
    pub fn wait(
        &mut self,
        thread: &Rc<Thread>,
        queue: &WaitQueue,
        deadline: Deadline,
        is_ready: impl Fn() -> bool,
    ) -> Result {
        let observer: Rc<dyn Observer> = if self.one_of_several {
            Rc::new(OneOfSeveral(thread.clone()))
        } else {
            thread.clone()
        };
        if !is_ready() {
            self.in_vain = 0;
            let ready = || is_ready().then_some(());
            return sleep_as(thread, &observer, &[queue], deadline, ready);
        }
        if self.in_vain < Self::MOST {
            self.in_vain += 1;
            return Ok(());
        }
        // It is asked twice before it sleeps.
        let mut asked = 0;
        sleep_as(thread, &observer, &[queue], deadline, || {
            asked += 1;
            (asked > 2).then_some(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform;

    #[test]
    fn who_is_told_in_vain_sleeps_until_something_changes() {
        platform::pretend::reset();
        let thread = crate::kernel().processes.first();
        let queue = WaitQueue::new();
        let mut patience = Patience::default();
        let start = platform::now();
        let mut rounds = 0;
        let deadline = Some(start + 1000);
        while patience.wait(&thread, &queue, deadline, || true).is_ok() && rounds < 100 {
            rounds += 1;
        }
        assert!(rounds <= 3, "{rounds}");
        assert_eq!(platform::now(), start + 1000);
    }

    #[test]
    fn one_of_several_is_told_and_the_next_one_if_it_is_awake() {
        platform::pretend::reset();
        let first = crate::kernel().processes.first();
        let second = crate::kernel()
            .processes
            .add_thread(2, first.process.clone());
        let queue = WaitQueue::new();
        for thread in [&first, &second] {
            thread.state.set(RunState::Asleep);
            queue.add(Rc::new(OneOfSeveral(thread.clone())));
        }
        let states = || (first.state.get(), second.state.get());
        queue.wake(Events::READABLE);
        assert_eq!(states(), (RunState::Ready, RunState::Asleep));
        queue.wake(Events::READABLE);
        assert_eq!(states(), (RunState::Ready, RunState::Ready));
    }
}
