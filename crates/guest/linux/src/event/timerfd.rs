//! `timerfd_create(2)`: a timer with a descriptor.

use alloc::boxed::Box;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::any::Any;

use crate::fs::{File, Kind, Metadata, OpenFile};
use crate::io::Sink;
use crate::platform;
use crate::process::Thread;
use crate::time::clock::number;
use crate::time::{Clock, Interval};
use crate::wait::{Events, WaitQueue};
use crate::{Errno, Result};

/// The clock with a number, if timers with a descriptor have it.
///
/// # Errors
/// `EINVAL`.
pub fn clock(number: i32) -> Result<Clock> {
    match number {
        number::REALTIME | number::REALTIME_ALARM => Ok(Clock::Wall),
        number::MONOTONIC | number::BOOTTIME | number::BOOTTIME_ALARM => Ok(Clock::Monotonic),
        _ => Err(Errno::EINVAL),
    }
}

/// When a timer expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Nanoseconds until the next time, or the time itself; 0 disarms.
    pub value: u64,
    /// Nanoseconds between two times; 0 for once.
    pub interval: u64,
}

/// A timer.
#[derive(Debug)]
pub struct TimerFd {
    timer: Rc<Interval>,
    queue: WaitQueue,
}

impl TimerFd {
    /// A timer that is not armed.
    pub fn new(clock: Clock) -> Rc<Self> {
        Rc::new_cyclic(|me: &Weak<Self>| {
            let me = me.clone();
            let expired = Box::new(move || {
                if let Some(timer) = me.upgrade() {
                    timer.queue.wake(Events::READABLE);
                }
            });
            Self {
                timer: Interval::new(clock, expired),
                queue: WaitQueue::new(),
            }
        })
    }

    /// Nanoseconds until the next time, and the interval (`timerfd_gettime(2)`).
    pub fn setting(&self) -> Setting {
        let (value, interval) = self.timer.remaining();
        Setting { value, interval }
    }

    /// Arms or disarms it, and gives what was so before (`timerfd_settime(2)`).
    pub fn set(&self, new: Setting, absolute: bool) -> Setting {
        let before = self.setting();
        match new.value {
            0 => self.timer.clear(),
            at if absolute => self.timer.set(at, new.interval),
            after => {
                let at = self.timer.clock().now().saturating_add(after);
                self.timer.set(at, new.interval);
            }
        }
        before
    }
}

impl File for TimerFd {
    fn read(&self, _thread: &Rc<Thread>, _open: &OpenFile, to: &mut Sink) -> Result<usize> {
        if to.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        if !self.timer.has_expired() {
            // Its time may have come since timers were looked at.
            crate::kernel().timers.fire(platform::now());
        }
        match self.timer.take() {
            0 => Err(Errno::EAGAIN),
            expired => to.put(&expired.to_ne_bytes()),
        }
    }

    fn poll(&self, _open: &OpenFile) -> Events {
        if self.timer.has_expired() {
            Events::READABLE
        } else {
            Events::empty()
        }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(super::anonymous_metadata(Kind::Anonymous, 1))
    }

    fn describe(&self) -> Vec<u8> {
        b"anon_inode:[timerfd]".to_vec()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing;
    use crate::fs::OpenFlags;
    use crate::platform::pretend;

    fn read(thread: &Rc<Thread>, open: &OpenFile) -> Result<u64> {
        let mut to = [0; 8];
        open.file.read(thread, open, &mut Sink::kernel(&mut to))?;
        Ok(u64::from_ne_bytes(to))
    }

    fn every(value: u64, interval: u64) -> Setting {
        Setting { value, interval }
    }

    #[test]
    fn times_are_counted_until_they_are_read() {
        let thread = testing::thread();
        let timer = TimerFd::new(Clock::Monotonic);
        let open = OpenFile::new(timer.clone(), OpenFlags::NONBLOCK);
        assert_eq!(timer.set(every(100, 50), false), every(0, 0));
        assert_eq!(read(&thread, &open), Err(Errno::EAGAIN));
        pretend::advance(210);
        crate::kernel().timers.fire(platform::now());
        assert_eq!(open.file.poll(&open), Events::READABLE);
        assert_eq!(read(&thread, &open), Ok(3));
        assert_eq!(timer.setting(), every(40, 50));
        assert_eq!(timer.set(every(0, 0), false), every(40, 50));
        pretend::advance(1000);
        assert_eq!(read(&thread, &open), Err(Errno::EAGAIN));
    }

    #[test]
    fn a_time_of_the_wall_clock_that_has_passed_expires_at_once() {
        let thread = testing::thread();
        let timer = TimerFd::new(Clock::Wall);
        let open = OpenFile::new(timer.clone(), OpenFlags::NONBLOCK);
        timer.set(every(platform::wall() - 5, 0), true);
        assert_eq!(read(&thread, &open), Ok(1));
        timer.set(every(platform::wall() + 5, 0), true);
        assert_eq!(timer.setting().value, 5);
    }

    #[test]
    fn a_reader_sleeps_until_it_expires() {
        let thread = testing::thread();
        let timer = TimerFd::new(Clock::Monotonic);
        let open = OpenFile::new(timer.clone(), OpenFlags::empty());
        timer.set(every(1_000_000, 0), false);
        let before = platform::now();
        let times = crate::fs::blocking(&thread, &open, Events::IN, None, || read(&thread, &open));
        assert_eq!(times, Ok(1));
        assert_eq!(platform::now() - before, 1_000_000);
    }
}
