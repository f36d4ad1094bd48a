//! Signals that have been sent and not yet taken.

use alloc::collections::VecDeque;
use core::cell::{Cell, RefCell};

use super::{Info, Set, bit, number};

/// A set of pending signals. Standard signals are there once or not at all, but for one of each timer; real-time signals queue up, each with
/// what it carries.
#[derive(Debug, Default)]
pub struct Pending {
    set: Cell<Set>,
    queue: RefCell<VecDeque<Waiting>>,
}

/// One that carries something.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    info: Info,
    /// The timer that has sent it: what `info` says of that, programs can say too (`rt_sigqueueinfo(2)`).
    timer: Option<u32>,
}

impl Waiting {
    fn signal(&self) -> u32 {
        self.info.signal()
    }
}

impl Pending {
    /// Which are there.
    pub fn set(&self) -> Set {
        self.set.get()
    }

    /// How many carry something: what `RLIMIT_SIGPENDING` counts.
    pub fn queued(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Adds a signal. `false` if it is a standard signal that is there already.
    pub fn add(&self, info: Info) -> bool {
        let number = info.signal();
        if number < number::FIRST_REAL_TIME && self.set.get() & bit(number) != 0 {
            return false;
        }
        self.push(info, None);
        true
    }

    /// Adds the signal of a timer. `false` if one of the same timer is there already.
    pub fn add_timer(&self, info: Info, id: u32) -> bool {
        if self.has_timer(id) {
            return false;
        }
        self.push(info, Some(id));
        true
    }

    fn push(&self, info: Info, timer: Option<u32>) {
        self.add_bare(info.signal());
        self.queue.borrow_mut().push_back(Waiting { info, timer });
    }

    /// Adds a signal without what it carries: there was no room for that.
    pub fn add_bare(&self, number: u32) {
        self.set.set(self.set.get() | bit(number));
    }

    /// Takes the first of those in `wanted`: signals of instructions first, then by number, then by age.
    pub fn take(&self, wanted: Set) -> Option<Info> {
        let there = self.set.get() & wanted;
        if there == 0 {
            return None;
        }
        let synchronous = there & number::SYNCHRONOUS;
        let first = if synchronous == 0 { there } else { synchronous };
        let number = first.trailing_zeros() + 1;
        let mut queue = self.queue.borrow_mut();
        let at = queue.iter().position(|one| one.signal() == number);
        let info = at.and_then(|at| queue.remove(at)).map(|one| one.info);
        let more = at.is_some_and(|at| {
            let mut rest = queue.iter().skip(at);
            rest.any(|one| one.signal() == number)
        });
        if !more {
            self.set.set(self.set.get() & !bit(number));
        }
        Some(info.unwrap_or_else(|| Info::user(number, super::info::SI_USER, 0, 0)))
    }

    /// True if a timer's signal is still there.
    pub fn has_timer(&self, id: u32) -> bool {
        let queue = self.queue.borrow();
        queue.iter().any(|one| one.timer == Some(id))
    }

    /// Forgets a timer's signal.
    pub fn remove_timer(&self, id: u32) {
        self.retain(|one| one.timer != Some(id));
    }

    /// Forgets signals.
    pub fn remove(&self, gone: Set) {
        if self.set.get() & gone != 0 {
            self.set.set(self.set.get() & !gone);
            self.retain(|one| bit(one.signal()) & gone == 0);
        }
    }

    fn retain(&self, keep: impl Fn(&Waiting) -> bool) {
        let mut queue = self.queue.borrow_mut();
        let mut gone = 0;
        queue.retain(|one| {
            let kept = keep(one);
            if !kept {
                gone |= bit(one.signal());
            }
            kept
        });
        let left = queue.iter().fold(0, |set, one| set | bit(one.signal()));
        self.set.set(self.set.get() & !(gone & !left));
    }
}
