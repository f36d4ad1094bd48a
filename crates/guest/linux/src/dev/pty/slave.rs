//! `/dev/pts/N`: the terminal, as the programs that run in it have it open.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;

use super::{MOST_OUTPUT, PIECE, Pty};
use crate::dev::{self, ioctl, tree};
use crate::fs::{File, Metadata, OpenFile, OpenFlags};
use crate::io::{Sink, Source};
use crate::platform;
use crate::process::Thread;
use crate::user::UserAddr;
use crate::wait::{self, Events, WaitQueue};
use crate::{Errno, Result};

/// The terminal.
#[derive(Debug)]
pub(super) struct Slave {
    pty: Rc<Pty>,
}

impl Slave {
    pub(super) fn new(pty: &Rc<Pty>) -> Rc<Self> {
        pty.slaves.set(pty.slaves.get() + 1);
        pty.hung_up.set(false);
        Rc::new(Self { pty: pty.clone() })
    }

    fn read_now(&self, to: &mut Sink) -> Result<usize> {
        let mut done = 0;
        loop {
            let mut piece = [0; PIECE];
            let len = to.remaining().min(PIECE);
            let (got, goes_on) = {
                let mut line = self.pty.line.borrow_mut();
                let before = line.readable();
                let got = line.read(&mut piece[..len]);
                // The rest of a line that did not fit into the piece.
                let goes_on = got == len && before > got && piece.get(got - 1) != Some(&b'\n');
                (got, goes_on)
            };
            match to.put(&piece[..got]) {
                Ok(put) => done += put,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            if !goes_on || to.remaining() == 0 {
                break;
            }
        }
        self.pty.master_queue.wake(Events::WRITABLE);
        self.pty.listen();
        Ok(done)
    }
}

impl Drop for Slave {
    fn drop(&mut self) {
        let pty = &self.pty;
        pty.slaves.set(pty.slaves.get().saturating_sub(1));
        if pty.slaves.get() == 0 {
            pty.hung_up.set(true);
            pty.master_queue.wake_all(Events::HUP | Events::READABLE);
        }
    }
}

impl File for Slave {
    fn read(&self, thread: &Rc<Thread>, open: &OpenFile, to: &mut Sink) -> Result<usize> {
        let pty = &self.pty;
        // What was typed before its user went is lost with it.
        if to.remaining() == 0 || !pty.master_open.get() {
            return Ok(0);
        }
        let mode = pty.line.borrow().minimum();
        let (minimum, time) = mode.unwrap_or((1, 0));
        let wanted = minimum.min(to.remaining());
        let enough = || {
            let line = pty.line.borrow();
            let have = line.readable();
            match mode {
                None => line.has_input(),
                Some(_) => have > 0 && have >= wanted,
            }
        };
        if !enough() {
            let some = pty.line.borrow().readable() > 0 && mode.is_some();
            if minimum == 0 && time == 0 {
                return Ok(0);
            }
            if open.nonblocking() {
                if !some {
                    return Err(Errno::EAGAIN);
                }
            } else if time == 0 {
                // `fs::blocking` would look again for less than what is wanted.
                wait::sleep_until(thread, &[&pty.slave_queue], None, || {
                    (enough() || !pty.master_open.get()).then_some(())
                })?;
            } else {
                self.wait_between(thread, wanted, minimum, time * 100_000_000)?;
            }
        }
        if !pty.master_open.get() || pty.line.borrow().readable() == 0 && mode.is_some() {
            // A read that times out, or a terminal that was hung up.
            return Ok(0);
        }
        if !pty.line.borrow().has_input() && mode.is_none() {
            return Ok(0);
        }
        self.read_now(to)
    }

    fn write(&self, _thread: &Rc<Thread>, _open: &OpenFile, from: &mut Source) -> Result<usize> {
        let pty = &self.pty;
        if !pty.master_open.get() {
            return Err(Errno::EIO);
        }
        let mut done = 0;
        while from.remaining() > 0 {
            if pty.line.borrow().is_stopped() || pty.output.borrow().len() >= MOST_OUTPUT {
                break;
            }
            let mut piece = [0; PIECE];
            let len = match from.take(&mut piece) {
                Err(error) if done == 0 => return Err(error),
                taken => taken.unwrap_or(0),
            };
            if len == 0 {
                break;
            }
            let mut shown = Vec::with_capacity(len);
            pty.line.borrow_mut().output(&piece[..len], &mut shown);
            pty.output.borrow_mut().extend(shown);
            pty.show();
            done += len;
        }
        if done == 0 && from.remaining() > 0 {
            return Err(Errno::EAGAIN);
        }
        pty.master_queue.wake(Events::READABLE);
        Ok(done)
    }

    fn poll(&self, _open: &OpenFile) -> Events {
        let pty = &self.pty;
        let line = pty.line.borrow();
        let mut events = Events::empty();
        let closed = !pty.master_open.get();
        events.set(Events::READABLE, line.has_input() || closed);
        let room = !line.is_stopped() && pty.output.borrow().len() < MOST_OUTPUT;
        events.set(Events::WRITABLE, room || closed);
        events.set(Events::HUP | Events::ERR, closed);
        events
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.pty.slave_queue)
    }

    fn ioctl(
        &self,
        thread: &Rc<Thread>,
        _open: &OpenFile,
        request: u32,
        argument: u64,
    ) -> Result<u64> {
        let pty = &self.pty;
        if !pty.master_open.get() {
            return Err(if request == ioctl::TIOCSPGRP {
                Errno::ENOTTY
            } else {
                Errno::EIO
            });
        }
        match request {
            ioctl::FIONREAD => {
                let len = pty.line.borrow().readable() as i32;
                UserAddr(argument).write(len)?;
                Ok(0)
            }
            ioctl::TIOCSTI => {
                let byte: u8 = UserAddr(argument).read()?;
                pty.type_in(&[byte]);
                Ok(0)
            }
            _ => pty.ioctl(thread, request, argument),
        }
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(self
            .pty
            .metadata(dev::number(tree::PTS_MAJOR, self.pty.index.into())))
    }

    fn reopen(&self, _thread: &Rc<Thread>, _flags: OpenFlags) -> Result<Rc<dyn File>> {
        Ok(Self::new(&self.pty))
    }

    fn describe(&self) -> Vec<u8> {
        format!("/dev/pts/{}", self.pty.index).into_bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Slave {
    /// Waits as `VTIME` wants it: at most so long at all if `VMIN` is 0, else at most so long between two characters.
    fn wait_between(
        &self,
        thread: &Rc<Thread>,
        wanted: usize,
        minimum: usize,
        nanos: u64,
    ) -> Result {
        let pty = &self.pty;
        let mut have = pty.line.borrow().readable();
        loop {
            let timed = minimum == 0 || have > 0;
            let deadline = timed.then(|| platform::now().saturating_add(nanos));
            let slept = wait::sleep_until(thread, &[&pty.slave_queue], deadline, || {
                let now = pty.line.borrow().readable();
                (now != have || !pty.master_open.get()).then_some(now)
            });
            match slept {
                Ok(now) => have = now,
                Err(Errno::ETIMEDOUT) => return Ok(()),
                Err(_) if have > 0 => return Ok(()),
                Err(error) => return Err(error),
            }
            if have >= wanted.max(1) || !pty.master_open.get() {
                return Ok(());
            }
        }
    }
}
