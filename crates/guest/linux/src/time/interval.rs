//! A timer that a program sets: once or again and again, on any clock (`timerfd_create(2)`, `timer_create(2)`, `setitimer(2)`).
//!
//! A periodic timer that has run down rests until somebody has taken note of it ([`Interval::take`]), and then goes on in step, counting the
//! periods that have passed meanwhile. So a program that sets a timer to a nanosecond keeps nobody busy but itself.

use alloc::boxed::Box;
use alloc::rc::{Rc, Weak};
use core::cell::{Cell, RefCell};

use super::clock::Clock;
use super::queue::Timer;
use crate::platform;

/// How often a timer of processor time looks whether some has passed, in nanoseconds.
const LOOK_AGAIN: u64 = 4_000_000;

/// The timer.
pub struct Interval {
    clock: Clock,
    /// What the clock shows when it runs down; 0 while it is not set.
    at: Cell<u64>,
    period: Cell<u64>,
    expired: Cell<bool>,
    timer: RefCell<Option<Timer>>,
    action: Box<dyn Fn()>,
    myself: Weak<Self>,
}

impl core::fmt::Debug for Interval {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Interval")
            .field("clock", &self.clock)
            .field("at", &self.at)
            .field("period", &self.period)
            .finish_non_exhaustive()
    }
}

impl Interval {
    /// A timer that is not set. When it runs down, `action` is done, which must not sleep.
    pub fn new(clock: Clock, action: Box<dyn Fn()>) -> Rc<Self> {
        Rc::new_cyclic(|myself| Self {
            clock,
            at: Cell::new(0),
            period: Cell::new(0),
            expired: Cell::new(false),
            timer: RefCell::default(),
            action,
            myself: myself.clone(),
        })
    }

    /// The clock it goes by.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Sets it to run down when the clock shows `at`, and every `period` nanoseconds from then on unless that is 0.
    pub fn set(&self, at: u64, period: u64) {
        self.expired.set(false);
        self.at.set(at.max(1));
        self.period.set(period);
        if self.clock.now() >= self.at.get() {
            self.fire();
        } else {
            self.arm(0);
        }
    }

    /// Stops it.
    pub fn clear(&self) {
        self.at.set(0);
        self.period.set(0);
        self.expired.set(false);
        let old = self.timer.take();
        drop(old);
    }

    /// Nanoseconds until it runs down the next time, 0 if it is not set; and its period.
    pub fn remaining(&self) -> (u64, u64) {
        let (at, period, now) = (self.at.get(), self.period.get(), self.clock.now());
        if at == 0 || (self.expired.get() && period == 0) {
            return (0, period);
        }
        let left = match at.checked_sub(now) {
            Some(left) if left > 0 => left,
            // It is due, and would go on from here.
            _ if period > 0 => period - (now - at) % period,
            _ => 1,
        };
        (left, period)
    }

    /// True if it has run down and nobody has taken note.
    pub fn has_expired(&self) -> bool {
        self.expired.get()
    }

    /// How often it has run down since the last time; a periodic one goes on from here.
    pub fn take(&self) -> u64 {
        if !self.expired.replace(false) {
            return 0;
        }
        self.advance(0)
    }

    /// Nobody wants to know that it has run down: it goes on by itself, but not before `rest` nanoseconds have passed.
    pub fn skip(&self, rest: u64) {
        self.expired.set(false);
        self.advance(rest);
    }

    /// Moves a periodic timer to its next time, and stops another. Returns how many times have come.
    fn advance(&self, rest: u64) -> u64 {
        let (at, period) = (self.at.get(), self.period.get());
        if period == 0 {
            self.at.set(0);
            return 1;
        }
        let now = self.clock.now().saturating_add(rest);
        let count = now.saturating_sub(at) / period + 1;
        self.at.set(at.saturating_add(count.saturating_mul(period)));
        self.arm(0);
        count
    }

    /// Looks again when the time can have come, but not before `rest` nanoseconds have passed.
    fn arm(&self, rest: u64) {
        let earliest = platform::now().saturating_add(rest);
        let at = self.clock.deadline(self.at.get()).max(earliest);
        let myself = self.myself.clone();
        let fire = Box::new(move || {
            if let Some(timer) = myself.upgrade() {
                timer.fire();
            }
        });
        let timer = crate::kernel().timers.at(at, fire);
        let old = self.timer.replace(Some(timer));
        drop(old);
    }

    fn fire(&self) {
        if self.at.get() == 0 || self.expired.get() {
            return;
        }
        if self.clock.now() < self.at.get() {
            // Processor time has not passed as fast as it could, and may stand still.
            self.arm(LOOK_AGAIN);
            return;
        }
        self.expired.set(true);
        (self.action)();
    }
}
