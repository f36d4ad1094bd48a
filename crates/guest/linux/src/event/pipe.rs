//! Pipes (`pipe(7)`): a ring of bytes with a reading and a writing end.
//!
//! Writes of at most [`ATOMIC`] bytes go in whole or not at all. With `O_DIRECT` each write is a packet. FIFOs ([`super::fifo`]) are pipes
//! whose ends are opened by name.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};

use super::ring::Ring;
use crate::fs::{File, Kind, Metadata, OpenFile, OpenFlags};
use crate::io::{Sink, Source};
use crate::process::Thread;
use crate::user::UserAddr;
use crate::wait::{self, Events, WaitQueue};
use crate::{Errno, Result};

/// `PIPE_BUF`.
pub const ATOMIC: usize = 4096;
/// What a pipe holds at first.
pub const DEFAULT_CAPACITY: usize = 65536;
/// `/proc/sys/fs/pipe-max-size`.
pub const MAX_CAPACITY: usize = 1 << 20;

const FIONREAD: u32 = 0x541b;
const F_SETPIPE_SZ: u32 = 1031;
const F_GETPIPE_SZ: u32 = 1032;

/// A stretch of the ring: bytes of a stream, or one packet.
#[derive(Clone, Copy, Debug)]
struct Mark {
    len: usize,
    packet: bool,
}

#[derive(Debug)]
struct Content {
    ring: Ring,
    /// Empty while no packet is in the ring: all is one stream.
    marks: VecDeque<Mark>,
}

impl Content {
    fn add(&mut self, len: usize, packet: bool) {
        if self.marks.is_empty() {
            if !packet {
                return;
            }
            let before = self.ring.len() - len;
            if before > 0 {
                self.marks.push_back(Mark {
                    len: before,
                    packet: false,
                });
            }
        }
        match self.marks.back_mut() {
            Some(last) if !packet && !last.packet => last.len += len,
            _ => self.marks.push_back(Mark { len, packet }),
        }
    }

    fn skip(&mut self, mut count: usize) {
        self.ring.skip(count);
        while let Some(first) = self.marks.front_mut() {
            if count < first.len {
                first.len -= count;
                break;
            }
            count -= first.len;
            self.marks.pop_front();
        }
    }

    fn drain(&mut self, to: &mut Sink) -> Result<usize> {
        let mut done = 0;
        if self.marks.is_empty() {
            return self.ring.drain(to, usize::MAX);
        }
        while let Some(&first) = self.marks.front() {
            if first.packet && done > 0 {
                break;
            }
            let got = match self.ring.drain(to, first.len) {
                Ok(got) => got,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            };
            done += got;
            if first.packet {
                // What does not fit into the reader's buffer is lost (pipe(2), O_DIRECT).
                self.ring.skip(first.len - got);
                self.marks.pop_front();
                break;
            }
            if got < first.len {
                if let Some(first) = self.marks.front_mut() {
                    first.len -= got;
                }
                break;
            }
            self.marks.pop_front();
        }
        Ok(done)
    }
}

/// What lies between the ends.
#[derive(Debug)]
pub struct Pipe {
    content: RefCell<Content>,
    inode: u64,
    readers: Cell<u32>,
    writers: Cell<u32>,
    /// A call moves bytes out of it, or into it, and waits for the other side meanwhile: other readers, or writers, wait for that call.
    claimed: Cell<(bool, bool)>,
    /// How often each end was opened, for those who wait for the other one.
    opened: Cell<(u64, u64)>,
    queue: WaitQueue,
}

impl Pipe {
    /// A pipe without ends.
    pub fn new() -> Rc<Self> {
        Self::with_inode(super::anonymous_inode())
    }

    /// The same, with the number of the inode that names it.
    pub fn with_inode(inode: u64) -> Rc<Self> {
        Rc::new(Self {
            content: RefCell::new(Content {
                ring: Ring::new(DEFAULT_CAPACITY),
                marks: VecDeque::new(),
            }),
            inode,
            readers: Cell::new(0),
            writers: Cell::new(0),
            claimed: Cell::new((false, false)),
            opened: Cell::new((0, 0)),
            queue: WaitQueue::new(),
        })
    }

    /// Bytes that can be read.
    pub fn len(&self) -> usize {
        self.content.borrow().ring.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that can be written.
    pub fn room(&self) -> usize {
        self.content.borrow().ring.room()
    }

    /// True if somebody can read.
    pub fn has_readers(&self) -> bool {
        self.readers.get() > 0
    }

    /// True if somebody can write.
    pub fn has_writers(&self) -> bool {
        self.writers.get() > 0
    }

    /// Who waits for either end.
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// True if no other call is in the middle of taking bytes out.
    pub fn may_read(&self) -> bool {
        !self.claimed.get().0
    }

    /// True if no other call is in the middle of putting bytes in.
    pub fn may_write(&self) -> bool {
        !self.claimed.get().1
    }

    /// Takes the reading or the writing side for one call, or gives it back.
    pub fn claim(&self, reads: bool, on: bool) {
        let (reading, writing) = self.claimed.get();
        self.claimed
            .set(if reads { (on, writing) } else { (reading, on) });
        if !on {
            self.queue.wake_all(Events::READABLE | Events::WRITABLE);
        }
    }

    pub(super) fn opened(&self) -> (u64, u64) {
        self.opened.get()
    }

    /// `fcntl(F_GETPIPE_SZ)`.
    pub fn capacity(&self) -> usize {
        self.content.borrow().ring.limit()
    }

    /// `fcntl(F_SETPIPE_SZ)`: rounded up to a power of two of pages.
    ///
    /// # Errors
    /// `EINVAL` for 0 or more than 2 GiB, `EPERM` for more than [`MAX_CAPACITY`], `EBUSY` if more is in it.
    pub fn set_capacity(&self, bytes: u64) -> Result<usize> {
        if bytes > 1 << 31 {
            return Err(Errno::EINVAL);
        }
        let size = (bytes as usize).max(ATOMIC).next_power_of_two();
        if size > MAX_CAPACITY {
            return Err(Errno::EPERM);
        }
        if !self.content.borrow_mut().ring.set_limit(size) {
            return Err(Errno::EBUSY);
        }
        self.queue.wake(Events::WRITABLE);
        Ok(size)
    }

    /// Reads without waiting: 0 at the end.
    ///
    /// # Errors
    /// `EAGAIN` if it is empty and has writers; `EFAULT`.
    pub fn read(&self, to: &mut Sink) -> Result<usize> {
        if to.remaining() == 0 {
            return Ok(0);
        }
        if !self.may_read() {
            return Err(Errno::EAGAIN);
        }
        let (got, now_writable) = {
            let mut content = self.content.borrow_mut();
            if content.ring.is_empty() {
                return if self.has_writers() {
                    Err(Errno::EAGAIN)
                } else {
                    Ok(0)
                };
            }
            let full = content.ring.room() < ATOMIC;
            let got = content.drain(to)?;
            (got, full && content.ring.room() >= ATOMIC)
        };
        if now_writable {
            self.queue.wake(Events::WRITABLE);
        }
        Ok(got)
    }

    /// Writes what there is room for.
    ///
    /// # Errors
    /// `EPIPE` without readers, `EAGAIN` without room, `EFAULT`.
    pub fn write(&self, from: &mut Source, packets: bool) -> Result<usize> {
        if !self.has_readers() {
            return Err(Errno::EPIPE);
        }
        let mut done = 0;
        {
            let mut content = self.content.borrow_mut();
            while from.remaining() > 0 {
                let most = if packets { ATOMIC } else { usize::MAX };
                let len = from.remaining().min(most);
                let room = content.ring.room();
                if room < len.min(ATOMIC) {
                    break;
                }
                let before = from.done();
                match content.ring.fill(from, len) {
                    Ok(0) => break,
                    Ok(added) => {
                        content.add(added, packets);
                        done += added;
                    }
                    Err(error) if done == 0 && before == from.done() => return Err(error),
                    Err(_) => break,
                }
                if !packets {
                    break;
                }
            }
        }
        if done > 0 {
            self.queue.wake(Events::READABLE);
            return Ok(done);
        }
        if from.remaining() == 0 {
            return Ok(0);
        }
        Err(Errno::EAGAIN)
    }

    /// Copies from `offset` on without reading (`tee(2)`, `splice(2)`).
    pub fn peek(&self, offset: usize, to: &mut [u8]) -> usize {
        self.content.borrow().ring.copy(offset, to)
    }

    /// Forgets the first `count` bytes, which were taken by [`peek`](Self::peek).
    pub fn skip(&self, count: usize) {
        let now_writable = {
            let mut content = self.content.borrow_mut();
            let full = content.ring.room() < ATOMIC;
            content.skip(count);
            full && content.ring.room() >= ATOMIC
        };
        if now_writable {
            self.queue.wake(Events::WRITABLE);
        }
    }
}

/// An end of a pipe, or both (a FIFO opened for reading and writing).
#[derive(Debug)]
pub struct PipeEnd {
    pipe: Rc<Pipe>,
    reads: bool,
    writes: bool,
    /// Of a FIFO: what its inode tells.
    named: bool,
}

impl PipeEnd {
    /// Opens an end.
    pub fn new(pipe: &Rc<Pipe>, reads: bool, writes: bool, named: bool) -> Rc<Self> {
        let (mut read_opened, mut write_opened) = pipe.opened.get();
        if reads {
            pipe.readers.set(pipe.readers.get() + 1);
            read_opened += 1;
        }
        if writes {
            pipe.writers.set(pipe.writers.get() + 1);
            write_opened += 1;
        }
        pipe.opened.set((read_opened, write_opened));
        pipe.queue.wake(Events::empty());
        Rc::new(Self {
            pipe: pipe.clone(),
            reads,
            writes,
            named,
        })
    }

    /// What it is an end of.
    pub fn pipe(&self) -> &Rc<Pipe> {
        &self.pipe
    }

    /// True if it is a FIFO's.
    pub fn is_named(&self) -> bool {
        self.named
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let pipe = &self.pipe;
        if self.reads {
            pipe.readers.set(pipe.readers.get() - 1);
        }
        if self.writes {
            pipe.writers.set(pipe.writers.get() - 1);
        }
        if pipe.readers.get() == 0 {
            pipe.queue.wake_all(Events::ERR | Events::WRITABLE);
        }
        if pipe.writers.get() == 0 {
            pipe.queue.wake_all(Events::HUP | Events::READABLE);
        }
    }
}

impl File for PipeEnd {
    fn read(&self, _thread: &Rc<Thread>, _open: &OpenFile, to: &mut Sink) -> Result<usize> {
        if !self.reads {
            return Err(Errno::EBADF);
        }
        self.pipe.read(to)
    }

    fn write(&self, thread: &Rc<Thread>, open: &OpenFile, from: &mut Source) -> Result<usize> {
        if !self.writes {
            return Err(Errno::EBADF);
        }
        let packets = open.flags.get().contains(OpenFlags::DIRECT);
        let mut done = 0;
        loop {
            let tried = if self.pipe.may_write() {
                self.pipe.write(from, packets)
            } else {
                Err(Errno::EAGAIN)
            };
            match tried {
                Ok(count) => done += count,
                Err(Errno::EPIPE) => {
                    crate::signal::pipe(thread);
                    return if done > 0 {
                        Ok(done)
                    } else {
                        Err(Errno::EPIPE)
                    };
                }
                Err(error) if done == 0 => return Err(error),
                Err(Errno::EAGAIN) => {}
                Err(_) => return Ok(done),
            }
            if from.remaining() == 0 || open.nonblocking() {
                return Ok(done);
            }
            // A blocking write ends when all is written, or a signal comes.
            let slept = wait::sleep_until(thread, &[&self.pipe.queue], None, || {
                let room = self.pipe.room() >= from.remaining().min(ATOMIC);
                (!self.pipe.has_readers() || room && self.pipe.may_write()).then_some(())
            });
            if slept.is_err() {
                return Ok(done);
            }
        }
    }

    fn poll(&self, _open: &OpenFile) -> Events {
        let content = self.pipe.content.borrow();
        let mut events = Events::empty();
        if self.reads {
            let readable = !content.ring.is_empty() && self.pipe.may_read();
            events.set(Events::READABLE, readable);
            // A FIFO that never had a writer has not hung up (poll(2) on FIFOs).
            let had_writer = self.pipe.opened.get().1 > 0;
            events.set(Events::HUP, !self.pipe.has_writers() && had_writer);
        }
        if self.writes {
            let room = content.ring.room() >= ATOMIC && self.pipe.may_write();
            events.set(Events::WRITABLE, room);
            events.set(Events::ERR, !self.pipe.has_readers());
        }
        events
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.pipe.queue)
    }

    fn ioctl(
        &self,
        _thread: &Rc<Thread>,
        _open: &OpenFile,
        request: u32,
        argument: u64,
    ) -> Result<u64> {
        match request {
            FIONREAD => {
                let len = self.pipe.len() as i32;
                UserAddr(argument).write(len)?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn fcntl(&self, _thread: &Rc<Thread>, command: u32, argument: u64) -> Result<u64> {
        match command {
            F_GETPIPE_SZ => Ok(self.pipe.capacity() as u64),
            F_SETPIPE_SZ => Ok(self.pipe.set_capacity(argument)? as u64),
            _ => Err(Errno::EINVAL),
        }
    }

    fn reopen(&self, _thread: &Rc<Thread>, flags: OpenFlags) -> Result<Rc<dyn File>> {
        let end = Self::new(&self.pipe, flags.readable(), flags.writable(), self.named);
        Ok(end)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(super::anonymous_metadata(Kind::Fifo, self.pipe.inode))
    }

    fn describe(&self) -> Vec<u8> {
        format!("pipe:[{}]", self.pipe.inode).into_bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The two ends of a new pipe: for reading, for writing.
pub fn pair(flags: OpenFlags) -> (Rc<OpenFile>, Rc<OpenFile>) {
    let pipe = Pipe::new();
    let flags = flags & (OpenFlags::NONBLOCK | OpenFlags::DIRECT);
    let reader = PipeEnd::new(&pipe, true, false, false);
    let writer = PipeEnd::new(&pipe, false, true, false);
    (
        OpenFile::new(reader, flags),
        OpenFile::new(writer, flags | OpenFlags::WRONLY),
    )
}

/// The pipe behind a description, for `splice(2)`, `tee(2)` and `fcntl(F_SETPIPE_SZ)`.
pub fn of(open: &OpenFile) -> Option<&Rc<Pipe>> {
    open.downcast::<PipeEnd>().map(PipeEnd::pipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing;

    fn write(thread: &Rc<Thread>, open: &OpenFile, bytes: &[u8]) -> Result<usize> {
        open.file.write(thread, open, &mut Source::kernel(bytes))
    }

    fn read(thread: &Rc<Thread>, open: &OpenFile, len: usize) -> Result<Vec<u8>> {
        let mut to = alloc::vec![0; len];
        let got = open.file.read(thread, open, &mut Sink::kernel(&mut to))?;
        to.truncate(got);
        Ok(to)
    }

    #[test]
    fn bytes_go_through_and_the_end_is_seen() {
        let thread = testing::thread();
        let (reader, writer) = pair(OpenFlags::NONBLOCK);
        assert_eq!(read(&thread, &reader, 10), Err(Errno::EAGAIN));
        assert_eq!(reader.file.poll(&reader), Events::empty());
        assert_eq!(write(&thread, &writer, b"hello"), Ok(5));
        assert!(reader.file.poll(&reader).contains(Events::IN));
        assert_eq!(read(&thread, &reader, 3), Ok(b"hel".to_vec()));
        drop(writer);
        assert_eq!(read(&thread, &reader, 3), Ok(b"lo".to_vec()));
        assert_eq!(reader.file.poll(&reader), Events::HUP);
        assert_eq!(read(&thread, &reader, 3), Ok(Vec::new()));
    }

    #[test]
    fn writing_without_readers_is_a_broken_pipe() {
        let thread = testing::thread();
        let (reader, writer) = pair(OpenFlags::NONBLOCK);
        drop(reader);
        assert_eq!(write(&thread, &writer, b"x"), Err(Errno::EPIPE));
        assert!(writer.file.poll(&writer).contains(Events::ERR));
    }

    #[test]
    fn short_writes_are_atomic_and_long_ones_are_cut() {
        let thread = testing::thread();
        let (reader, writer) = pair(OpenFlags::NONBLOCK);
        let almost = alloc::vec![1; DEFAULT_CAPACITY - 100];
        assert_eq!(write(&thread, &writer, &almost), Ok(almost.len()));
        assert_eq!(write(&thread, &writer, &[2; 200]), Err(Errno::EAGAIN));
        assert_eq!(write(&thread, &writer, &[2; 100]), Ok(100));
        assert!(!writer.file.poll(&writer).contains(Events::OUT));
        read(&thread, &reader, 5000).expect("bytes");
        assert_eq!(write(&thread, &writer, &[3; 9000]), Ok(5000));
    }

    #[test]
    fn packets_keep_their_bounds_and_lose_what_does_not_fit() {
        let thread = testing::thread();
        let (reader, writer) = pair(OpenFlags::NONBLOCK | OpenFlags::DIRECT);
        write(&thread, &writer, b"first").expect("room");
        write(&thread, &writer, b"second").expect("room");
        assert_eq!(read(&thread, &reader, 100), Ok(b"first".to_vec()));
        assert_eq!(read(&thread, &reader, 3), Ok(b"sec".to_vec()));
        writer.flags.set(OpenFlags::WRONLY | OpenFlags::NONBLOCK);
        write(&thread, &writer, b"stream").expect("room");
        write(&thread, &writer, b"ing").expect("room");
        assert_eq!(read(&thread, &reader, 100), Ok(b"streaming".to_vec()));
    }

    #[test]
    fn the_capacity_can_be_changed() {
        let _thread = testing::thread();
        let (reader, _writer) = pair(OpenFlags::empty());
        let pipe = of(&reader).expect("a pipe");
        assert_eq!(pipe.set_capacity(5000), Ok(8192));
        assert_eq!(pipe.capacity(), 8192);
        assert_eq!(pipe.set_capacity(2 << 20), Err(Errno::EPERM));
    }

    #[test]
    fn a_blocking_write_that_a_signal_ends_tells_what_it_wrote() {
        let thread = testing::thread();
        let (_reader, writer) = pair(OpenFlags::empty());
        let long = alloc::vec![1; DEFAULT_CAPACITY + 1];
        assert_eq!(write(&thread, &writer, &long), Ok(DEFAULT_CAPACITY));
    }
}
