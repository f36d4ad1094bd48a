//! `eventfd(2)`: a counter with a descriptor.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::Cell;

use crate::fs::{File, Kind, Metadata, OpenFile};
use crate::io::{Sink, Source};
use crate::process::Thread;
use crate::wait::{self, Events, WaitQueue};
use crate::{Errno, Result};

/// The counter.
#[derive(Debug)]
pub struct EventFd {
    count: Cell<u64>,
    semaphore: bool,
    queue: WaitQueue,
}

impl EventFd {
    /// A counter with this value. As a semaphore each read takes one.
    pub fn new(count: u64, semaphore: bool) -> Rc<Self> {
        Rc::new(Self {
            count: Cell::new(count),
            semaphore,
            queue: WaitQueue::new(),
        })
    }

    /// Adds to the counter as another part of the library OS does it (asynchronous I/O): it stays at its greatest value.
    pub fn signal(&self, by: u64) {
        self.count
            .set(self.count.get().saturating_add(by).min(u64::MAX - 1));
        self.queue.wake(Events::READABLE);
    }

    fn events(&self) -> Events {
        let count = self.count.get();
        let mut events = Events::empty();
        events.set(Events::READABLE, count > 0);
        events.set(Events::WRITABLE, count < u64::MAX - 1);
        events.set(Events::ERR, count == u64::MAX);
        events
    }
}

impl File for EventFd {
    fn read(&self, _thread: &Rc<Thread>, _open: &OpenFile, to: &mut Sink) -> Result<usize> {
        if to.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let count = self.count.get();
        if count == 0 {
            return Err(Errno::EAGAIN);
        }
        let taken = if self.semaphore { 1 } else { count };
        let put = to.put(&taken.to_ne_bytes())?;
        self.count.set(count - taken);
        self.queue.wake(Events::WRITABLE);
        Ok(put)
    }

    fn write(&self, thread: &Rc<Thread>, open: &OpenFile, from: &mut Source) -> Result<usize> {
        if from.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 8];
        from.take(&mut bytes)?;
        let added = u64::from_ne_bytes(bytes);
        if added == u64::MAX {
            return Err(Errno::EINVAL);
        }
        let fits = || added <= u64::MAX - 1 - self.count.get();
        if !fits() {
            if open.nonblocking() {
                return Err(Errno::EAGAIN);
            }
            // It waits here and not in the caller: only here is known how much room is enough.
            wait::sleep_until(thread, &[&self.queue], None, || fits().then_some(()))?;
        }
        self.count.set(self.count.get() + added);
        if added > 0 {
            self.queue.wake(Events::READABLE);
        }
        Ok(8)
    }

    fn poll(&self, _open: &OpenFile) -> Events {
        self.events()
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(super::anonymous_metadata(Kind::Anonymous, 1))
    }

    fn describe(&self) -> Vec<u8> {
        b"anon_inode:[eventfd]".to_vec()
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

    fn read(thread: &Rc<Thread>, open: &OpenFile) -> Result<u64> {
        let mut to = [0; 8];
        open.file.read(thread, open, &mut Sink::kernel(&mut to))?;
        Ok(u64::from_ne_bytes(to))
    }

    fn write(thread: &Rc<Thread>, open: &OpenFile, number: u64) -> Result<usize> {
        let bytes = number.to_ne_bytes();
        open.file.write(thread, open, &mut Source::kernel(&bytes))
    }

    #[test]
    fn reading_takes_the_whole_count() {
        let thread = testing::thread();
        let open = OpenFile::new(EventFd::new(3, false), OpenFlags::NONBLOCK);
        write(&thread, &open, 4).expect("room");
        assert_eq!(read(&thread, &open), Ok(7));
        assert_eq!(read(&thread, &open), Err(Errno::EAGAIN));
        assert_eq!(open.file.poll(&open), Events::WRITABLE);
    }

    #[test]
    fn a_semaphore_gives_one_at_a_time() {
        let thread = testing::thread();
        let open = OpenFile::new(EventFd::new(2, true), OpenFlags::NONBLOCK);
        assert_eq!(read(&thread, &open), Ok(1));
        assert_eq!(read(&thread, &open), Ok(1));
        assert_eq!(read(&thread, &open), Err(Errno::EAGAIN));
    }

    #[test]
    fn a_full_counter_makes_writers_wait() {
        let thread = testing::thread();
        let open = OpenFile::new(EventFd::new(0, false), OpenFlags::NONBLOCK);
        assert_eq!(write(&thread, &open, u64::MAX), Err(Errno::EINVAL));
        assert_eq!(write(&thread, &open, u64::MAX - 1), Ok(8));
        assert_eq!(open.file.poll(&open), Events::READABLE);
        assert_eq!(write(&thread, &open, 1), Err(Errno::EAGAIN));
        open.flags.set(OpenFlags::empty());
        assert_eq!(write(&thread, &open, 1), Err(Errno::ERESTARTSYS));
    }
}
