//! Wakers and timers.
//!
//! Futures of this crate wait for two things: that something of the stack changes ([`WaitQueue`]) or that
//! a time comes ([`Timers`]). Both only remember wakers; a woken future looks at the stack again, so waking one too
//! often does no harm and registrations need not be taken back.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::task::Waker;

use kiln_abi::Instant;

use crate::direct::{Ready, Watch};

/// Tasks that wait for the same thing.
#[derive(Default)]
pub(crate) struct WaitQueue {
    tasks: Vec<Waker>,
    watches: Vec<Rc<dyn Watch>>,
}

impl WaitQueue {
    /// Remembers a task until the next [`wake`](Self::wake).
    pub(crate) fn register(&mut self, waker: &Waker) {
        if !self.tasks.iter().any(|known| known.will_wake(waker)) {
            self.tasks.push(waker.clone());
        }
    }

    /// Remembers somebody who is told of room to write, with the next [`wake`](Self::wake).
    pub(crate) fn watch(&mut self, watch: &Rc<dyn Watch>) {
        if !self.watches.iter().any(|known| Rc::ptr_eq(known, watch)) {
            self.watches.push(watch.clone());
        }
    }

    /// Wakes and forgets all.
    pub(crate) fn wake(&mut self) {
        for waker in self.tasks.drain(..) {
            waker.wake();
        }
        for watch in self.watches.drain(..) {
            watch.changed(Ready::WRITE);
        }
    }
}

/// Tasks that wait for a time.
#[derive(Default)]
pub(crate) struct Timers(Vec<(Instant, Waker)>);

impl Timers {
    /// Wakes the task at `deadline`, once.
    pub(crate) fn register(&mut self, deadline: Instant, waker: &Waker) {
        let known = |(at, known): &(Instant, Waker)| *at == deadline && known.will_wake(waker);
        if !self.0.iter().any(known) {
            self.0.push((deadline, waker.clone()));
        }
    }

    /// The earliest deadline, [`Instant::FOREVER`] if there is none.
    pub(crate) fn next(&self) -> Instant {
        self.0
            .iter()
            .map(|(at, _)| *at)
            .min()
            .unwrap_or(Instant::FOREVER)
    }

    /// Wakes the tasks whose time has come.
    pub(crate) fn fire(&mut self, now: Instant) {
        let mut index = 0;
        while index < self.0.len() {
            if self.0[index].0 <= now {
                self.0.swap_remove(index).1.wake();
            } else {
                index += 1;
            }
        }
    }
}
