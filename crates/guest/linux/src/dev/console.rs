//! The console: what `kiln run` connects with the user's standard input, output and error output.
//!
//! It is like a pipe: `isatty(3)` is false, so programs do not colour what goes to a file. If the user sits at a terminal, the program has a
//! [terminal](super::pty) instead.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};

use super::ioctl::FIONREAD;
use crate::fs::{File, Kind, Metadata, OpenFile, OpenFlags};
use crate::io::{Sink, Source};
use crate::platform::{self, Stream};
use crate::process::Thread;
use crate::user::UserAddr;
use crate::wait::{Events, WaitQueue};
use crate::{Errno, Result};

/// What is asked of the host at once.
const PIECE: usize = 4096;

/// The console.
#[derive(Debug)]
pub struct Console {
    /// What has been read from the host and not by the program.
    input: RefCell<Vec<u8>>,
    ended: Cell<bool>,
    queue: WaitQueue,
}

impl Console {
    /// A console of which nothing was read.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            input: RefCell::default(),
            ended: Cell::new(false),
            queue: WaitQueue::new(),
        })
    }

    pub(super) fn ready(&self) {
        self.queue.wake(Events::READABLE);
    }

    /// Takes what the host has, if nothing is left; true if a read would not wait.
    fn fetch(&self) -> bool {
        if !self.input.borrow().is_empty() || self.ended.get() {
            return true;
        }
        let mut piece = [0; PIECE];
        match platform::console_read(&mut piece) {
            Ok(0) => self.ended.set(true),
            Ok(len) => self.input.borrow_mut().extend_from_slice(&piece[..len]),
            Err(_) => return false,
        }
        true
    }

    fn read(&self, to: &mut Sink) -> Result<usize> {
        if to.remaining() == 0 {
            return Ok(0);
        }
        if !self.fetch() {
            return Err(Errno::EAGAIN);
        }
        let mut input = self.input.borrow_mut();
        if input.is_empty() {
            return Ok(0);
        }
        let put = to.put(&input)?;
        input.drain(..put);
        Ok(put)
    }
}

/// The console as one of the descriptors has it: what is written goes to one of its streams.
#[derive(Debug)]
pub struct Side {
    console: Rc<Console>,
    stream: Stream,
}

impl Side {
    pub(super) fn new(console: &Rc<Console>, stream: Stream) -> Rc<Self> {
        Rc::new(Self {
            console: console.clone(),
            stream,
        })
    }
}

impl File for Side {
    fn read(&self, _thread: &Rc<Thread>, _open: &OpenFile, to: &mut Sink) -> Result<usize> {
        self.console.read(to)
    }

    fn write(&self, thread: &Rc<Thread>, _open: &OpenFile, from: &mut Source) -> Result<usize> {
        let mut done = 0;
        while from.remaining() > 0 {
            let mut piece = [0; PIECE];
            let len = match from.take(&mut piece) {
                Err(error) if done == 0 => return Err(error),
                other => other.unwrap_or(0),
            };
            if len == 0 {
                break;
            }
            let mut rest = &piece[..len];
            while !rest.is_empty() {
                match platform::console_write(self.stream, rest) {
                    Ok(taken) => {
                        rest = &rest[taken..];
                        done += taken;
                    }
                    // As with a pipe: what went counts all the same.
                    Err(error) => {
                        crate::signal::pipe(thread);
                        return if done > 0 { Ok(done) } else { Err(error) };
                    }
                }
            }
        }
        Ok(done)
    }

    fn poll(&self, _open: &OpenFile) -> Events {
        let mut events = Events::WRITABLE;
        events.set(Events::READABLE, self.console.fetch());
        events.set(
            Events::HUP,
            self.console.ended.get() && self.console.input.borrow().is_empty(),
        );
        events
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.console.queue)
    }

    fn ioctl(
        &self,
        _thread: &Rc<Thread>,
        _open: &OpenFile,
        request: u32,
        argument: u64,
    ) -> Result<u64> {
        if request != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        self.console.fetch();
        let len = self.console.input.borrow().len() as i32;
        UserAddr(argument).write(len)?;
        Ok(0)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(crate::event::anonymous_metadata(Kind::Fifo, 1))
    }

    fn reopen(&self, _thread: &Rc<Thread>, _flags: OpenFlags) -> Result<Rc<dyn File>> {
        Ok(Self::new(&self.console, self.stream))
    }

    fn describe(&self) -> Vec<u8> {
        match self.stream {
            Stream::Out => b"pipe:[1]".to_vec(),
            Stream::Error => b"pipe:[2]".to_vec(),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing;
    use crate::platform::pretend;

    fn read(thread: &Rc<Thread>, open: &OpenFile, len: usize) -> Result<Vec<u8>> {
        let mut to = alloc::vec![0; len];
        let got = open.file.read(thread, open, &mut Sink::kernel(&mut to))?;
        to.truncate(got);
        Ok(to)
    }

    #[test]
    fn what_is_typed_can_be_read_and_waited_for() {
        let thread = testing::thread();
        let [input, output, _] = super::super::standard(&thread, false).expect("no terminal");
        assert_eq!(read(&thread, &input, 10), Err(Errno::EAGAIN));
        assert_eq!(input.file.poll(&input), Events::WRITABLE);
        pretend::type_input(b"hello");
        assert!(input.file.poll(&input).contains(Events::IN));
        assert_eq!(read(&thread, &input, 3), Ok(b"hel".to_vec()));
        assert_eq!(read(&thread, &input, 10), Ok(b"lo".to_vec()));
        let mut text = Source::kernel(b"answer");
        assert_eq!(output.file.write(&thread, &output, &mut text), Ok(6));
        assert_eq!(pretend::take_output(), b"answer");
    }

    #[test]
    fn output_that_nobody_reads_is_a_broken_pipe() {
        let thread = testing::thread();
        let [_, output, _] = super::super::standard(&thread, false).expect("no terminal");
        pretend::close_output();
        let mut text = Source::kernel(b"answer");
        let result = output.file.write(&thread, &output, &mut text);
        assert_eq!(result, Err(Errno::EPIPE));
        let pending = thread.signals.pending.set();
        assert_eq!(pending, crate::signal::bit(crate::signal::number::PIPE));
    }
}
