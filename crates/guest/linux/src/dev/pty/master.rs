//! `/dev/ptmx`: the side of the program that is the terminal's user.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;

use super::{PIECE, Pty};
use crate::dev::{ioctl, tree};
use crate::fs::{self, File, Metadata, OpenFile, OpenFlags};
use crate::io::{Sink, Source};
use crate::process::Thread;
use crate::signal::number;
use crate::user::UserAddr;
use crate::wait::{Events, WaitQueue};
use crate::{Errno, Result};

/// The side of the program that is the terminal's user.
#[derive(Debug)]
pub(super) struct Master {
    pty: Rc<Pty>,
}

impl Master {
    /// The user's side of a new pair.
    pub(super) fn new(pty: Rc<Pty>) -> Rc<Self> {
        Rc::new(Self { pty })
    }

    /// True if so many characters can be typed at once whatever they are.
    fn fits(&self, len: usize) -> bool {
        self.pty.line.borrow().readable() + len < 2048
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let pty = &self.pty;
        pty.master_open.set(false);
        pty.slave_queue.wake_all(Events::HUP | Events::READABLE);
        if pty.session.get() != 0 {
            pty.signal(number::HUP);
            pty.signal(number::CONT);
        }
        crate::kernel().dev.ptys.borrow_mut().remove(&pty.index);
    }
}

impl File for Master {
    fn read(&self, _thread: &Rc<Thread>, _open: &OpenFile, to: &mut Sink) -> Result<usize> {
        let pty = &self.pty;
        if to.remaining() == 0 {
            return Ok(0);
        }
        let mut done = 0;
        if pty.packets.get() {
            let status = pty.status.replace(0);
            if status != 0 || !pty.output.borrow().is_empty() {
                done = to.put(&[status])?;
            }
            if status != 0 {
                return Ok(done);
            }
        }
        let mut output = pty.output.borrow_mut();
        if output.is_empty() {
            if pty.hung_up.get() {
                return Err(Errno::EIO);
            }
            return Err(Errno::EAGAIN);
        }
        while to.remaining() > 0 && !output.is_empty() {
            let put = match to.put(output.as_slices().0) {
                Err(error) if done == 0 => return Err(error),
                put => put.unwrap_or(0),
            };
            if put == 0 {
                break;
            }
            output.drain(..put);
            done += put;
        }
        drop(output);
        pty.slave_queue.wake(Events::WRITABLE);
        Ok(done)
    }

    fn write(&self, _thread: &Rc<Thread>, _open: &OpenFile, from: &mut Source) -> Result<usize> {
        let mut done = 0;
        while from.remaining() > 0 {
            // Only as much is taken from the source as surely goes in: what is taken cannot be put back.
            let mut byte = [0; PIECE];
            let room = usize::from(self.pty.line.borrow().has_room());
            let len = if from.remaining() <= PIECE && self.fits(from.remaining()) {
                from.remaining()
            } else {
                room
            };
            if len == 0 {
                break;
            }
            let len = match from.take(&mut byte[..len]) {
                Err(error) if done == 0 => return Err(error),
                taken => taken.unwrap_or(0),
            };
            if len == 0 {
                break;
            }
            done += self.pty.type_in(&byte[..len]);
        }
        if done == 0 && from.remaining() > 0 {
            return Err(Errno::EAGAIN);
        }
        Ok(done)
    }

    fn poll(&self, _open: &OpenFile) -> Events {
        let pty = &self.pty;
        let mut events = Events::empty();
        let told = pty.packets.get() && pty.status.get() != 0;
        events.set(Events::READABLE, told || !pty.output.borrow().is_empty());
        events.set(Events::PRI, told);
        events.set(Events::WRITABLE, pty.line.borrow().has_room());
        events.set(Events::HUP, pty.hung_up.get());
        events
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.pty.master_queue)
    }

    fn ioctl(
        &self,
        thread: &Rc<Thread>,
        _open: &OpenFile,
        request: u32,
        argument: u64,
    ) -> Result<u64> {
        let pty = &self.pty;
        let at = UserAddr(argument);
        match request {
            ioctl::TIOCGPTN => at.write(pty.index)?,
            ioctl::TIOCSPTLCK => pty.locked.set(at.read::<i32>()? != 0),
            ioctl::TIOCGPTLCK => at.write(i32::from(pty.locked.get()))?,
            ioctl::TIOCPKT => {
                pty.packets.set(at.read::<i32>()? != 0);
                pty.status.set(0);
            }
            ioctl::TIOCGPKT => at.write(i32::from(pty.packets.get()))?,
            ioctl::TIOCSIG => match u32::try_from(argument) {
                Ok(number @ (number::INT | number::QUIT | number::TSTP)) => pty.signal(number),
                _ => return Err(Errno::EINVAL),
            },
            ioctl::TIOCGPTPEER => {
                let flags = OpenFlags::from_bits_truncate(argument as u32);
                let path = format!("/dev/pts/{}", pty.index);
                let open = fs::open(thread, fs::AT_FDCWD, path.as_bytes(), flags, 0)?;
                let close_on_exec = flags.contains(OpenFlags::CLOEXEC);
                let fd = thread.process.files.add(open, close_on_exec, 0)?;
                return Ok(u64::from(fd.cast_unsigned()));
            }
            ioctl::FIONREAD => at.write(pty.output.borrow().len() as i32)?,
            ioctl::TIOCSCTTY | ioctl::TIOCNOTTY => return Err(Errno::ENOTTY),
            _ => return pty.ioctl(thread, request, argument),
        }
        Ok(0)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(self.pty.metadata(tree::PTMX))
    }

    fn describe(&self) -> Vec<u8> {
        b"/dev/ptmx".to_vec()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
