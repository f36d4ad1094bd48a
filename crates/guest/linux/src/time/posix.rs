//! Timers that send signals: `timer_create(2)` and `setitimer(2)`.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use core::cell::{Cell, RefCell};

use super::{Clock, Interval};
use crate::process::{Process, Thread};
use crate::signal::send::{self, Sent};
use crate::signal::{Info, info, number};
use crate::{Errno, Result};

/// Whom a timer tells.
#[derive(Clone, Debug)]
pub enum Notify {
    /// Nobody (`SIGEV_NONE`).
    Nobody,
    /// The process (`SIGEV_SIGNAL`, `SIGEV_THREAD`).
    Process,
    /// One thread of it (`SIGEV_THREAD_ID`).
    Thread(Weak<Thread>),
}

/// A timer of `timer_create(2)`.
#[derive(Debug)]
pub struct PosixTimer {
    /// When it runs down.
    pub interval: Rc<Interval>,
    /// How often it has run down since the last signal was made, beyond that signal.
    pub overrun: Cell<u32>,
}

/// What `setitimer(2)` knows.
pub const ITIMERS: usize = 3;

/// The timers of a process.
#[derive(Debug, Default)]
pub struct ProcessTimers {
    all: RefCell<BTreeMap<u32, Rc<PosixTimer>>>,
    last: Cell<u32>,
    /// `ITIMER_REAL`, `ITIMER_VIRTUAL`, `ITIMER_PROF`; each is made when it is first set.
    itimers: RefCell<[Option<Rc<Interval>>; ITIMERS]>,
}

/// More timers than this are refused to a process.
const MOST: usize = 32_768;

/// A periodic timer whose signal is ignored does not run down more often than this, in nanoseconds.
const REST: u64 = 1_000_000;

impl ProcessTimers {
    /// A timer by its number.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn get(&self, id: u32) -> Result<Rc<PosixTimer>> {
        let all = self.all.borrow();
        all.get(&id).cloned().ok_or(Errno::EINVAL)
    }

    /// Makes a timer that is not set; returns its number. `value` is what its signal carries, or the timer's number.
    ///
    /// # Errors
    /// `EAGAIN` if there are too many.
    pub fn create(
        &self,
        process: &Rc<Process>,
        clock: Clock,
        notify: Notify,
        signal: u32,
        value: Option<u64>,
    ) -> Result<u32> {
        if self.all.borrow().len() >= MOST {
            return Err(Errno::EAGAIN);
        }
        crate::shortage::object(Errno::EAGAIN)?;
        let mut id = self.last.get();
        while self.all.borrow().contains_key(&id) {
            id = id.wrapping_add(1) & 0x7fff_ffff;
        }
        self.last.set(id.wrapping_add(1) & 0x7fff_ffff);
        let process = Rc::downgrade(process);
        let value = value.unwrap_or(u64::from(id));
        let action = move || {
            if let Some(process) = process.upgrade() {
                process.timers.expired(&process, id, &notify, signal, value);
            }
        };
        let timer = Rc::new(PosixTimer {
            interval: Interval::new(clock, Box::new(action)),
            overrun: Cell::new(0),
        });
        self.all.borrow_mut().insert(id, timer);
        Ok(id)
    }

    fn expired(&self, process: &Rc<Process>, id: u32, notify: &Notify, signal: u32, value: u64) {
        let Ok(timer) = self.get(id) else { return };
        let info = Info::timer(signal, id, 0, value);
        let sent = match notify {
            Notify::Nobody => Ok(Sent::Ignored),
            Notify::Process => send::timer_to_process(process, info, id),
            Notify::Thread(thread) => match thread.upgrade() {
                Some(thread) => send::timer_to_thread(&thread, info, id),
                None => Ok(Sent::Ignored),
            },
        };
        // Whoever takes its signal, this one or one that was pending already, learns how often it has expired since.
        if !matches!(sent, Ok(Sent::Queued | Sent::Merged)) {
            timer.interval.skip(REST);
        }
    }

    /// Takes a timer away.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn delete(&self, process: &Process, id: u32) -> Result {
        let gone = self.all.borrow_mut().remove(&id).ok_or(Errno::EINVAL)?;
        gone.interval.clear();
        process.signals.pending.remove_timer(id);
        for thread in process.all_threads() {
            thread.signals.pending.remove_timer(id);
        }
        Ok(())
    }

    /// Takes those of `timer_create(2)` away (`execve(2)`).
    pub fn delete_all(&self, process: &Process) {
        let all: alloc::vec::Vec<u32> = self.all.borrow().keys().copied().collect();
        for id in all {
            let _ = self.delete(process, id);
        }
    }

    /// Takes all away.
    pub fn clear(&self) {
        let all = self.all.take();
        let itimers = self.itimers.take();
        for timer in all.values() {
            timer.interval.clear();
        }
        for timer in itimers.iter().flatten() {
            timer.clear();
        }
    }

    /// One of `setitimer(2)`.
    ///
    /// # Errors
    /// `EINVAL` if there is no such one.
    pub fn itimer(&self, process: &Rc<Process>, which: u32) -> Result<Rc<Interval>> {
        let (clock, signal) = match which {
            0 => (Clock::Monotonic, number::ALRM),
            // No difference is made between a program's time and that of its calls.
            1 => (Clock::Process(process.pid), number::VTALRM),
            2 => (Clock::Process(process.pid), number::PROF),
            _ => return Err(Errno::EINVAL),
        };
        let mut itimers = self.itimers.borrow_mut();
        let slot = itimers.get_mut(which as usize).ok_or(Errno::EINVAL)?;
        let new = || {
            let process = Rc::downgrade(process);
            Interval::new(
                clock,
                Box::new(move || {
                    if let Some(process) = process.upgrade() {
                        itimer_expired(&process, which, signal);
                    }
                }),
            )
        };
        Ok(slot.get_or_insert_with(new).clone())
    }

    fn itimer_of(&self, signal: u32) -> Option<Rc<Interval>> {
        let which = match signal {
            number::ALRM => 0,
            number::VTALRM => 1,
            number::PROF => 2,
            _ => return None,
        };
        self.itimers.borrow().get(which)?.clone()
    }
}

fn itimer_expired(process: &Rc<Process>, which: u32, signal: u32) {
    let sent = send::send_to_process(process, Info::kernel(signal));
    if let Ok(timer) = process.timers.itimer(process, which)
        && !matches!(sent, Ok(Sent::Queued))
    {
        timer.skip(REST);
    }
}

/// A signal is taken: the timer that has sent it goes on, and the signal tells how often it has run down meanwhile.
pub fn taken(process: &Process, info: Info) -> Info {
    let signal = info.signal();
    if info.code == info::SI_TIMER {
        let Ok(timer) = process.timers.get(info.pid()) else {
            return info;
        };
        let count = timer.interval.take().saturating_sub(1);
        let overrun = u32::try_from(count).unwrap_or(i32::MAX.cast_unsigned());
        let overrun = overrun.min(i32::MAX.cast_unsigned());
        timer.overrun.set(overrun);
        return info.with_overrun(overrun);
    }
    if let Some(timer) = process.timers.itimer_of(signal)
        && timer.has_expired()
    {
        timer.take();
    }
    info
}
