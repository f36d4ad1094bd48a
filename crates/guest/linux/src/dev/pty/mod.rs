//! Pseudo-terminals (`pty(7)`): a terminal whose user is another program.
//!
//! What is written to the master is typed at the terminal, what is written to the terminal is read from the master. Between them
//! lies the line discipline ([`super::line`]). Here is what both sides share; [`master`] and [`slave`] are the files of each.

mod host;
mod master;
mod settings;
mod slave;
#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::ioctl;
use super::line::{Discipline, Request};
use crate::fs::{File, Kind, Metadata, OpenFlags};
use crate::process::Thread;
use crate::signal::{self, Info, number};
use crate::user::UserAddr;
use crate::wait::{Events, WaitQueue};
use crate::{Errno, Result};
use host::Host;
use master::Master;
use slave::Slave;

/// How much waits for the master to read.
const MOST_OUTPUT: usize = 64 << 10;
/// How many there may be (`/proc/sys/kernel/pty/max`).
const MOST_PTYS: u32 = 4096;
/// Bytes that are handled at once.
const PIECE: usize = 1024;

/// What packet mode tells before data (`ioctl_tty(2)`, `TIOCPKT`).
mod packet {
    pub const FLUSH_READ: u8 = 1;
    pub const FLUSH_WRITE: u8 = 2;
    pub const STOP: u8 = 4;
    pub const START: u8 = 8;
    pub const NO_STOP: u8 = 16;
    pub const DO_STOP: u8 = 32;
}

/// A pair.
#[derive(Debug)]
pub struct Pty {
    index: u32,
    uid: u32,
    line: RefCell<Discipline>,
    /// Of input and output, in bits a second: numbers without a meaning.
    speeds: Cell<[u32; 2]>,
    /// For the master to read.
    output: RefCell<VecDeque<u8>>,
    /// Rows, columns, and pixels.
    size: Cell<[u16; 4]>,
    locked: Cell<bool>,
    master_open: Cell<bool>,
    slaves: Cell<u32>,
    /// The terminal was open, and is no more.
    hung_up: Cell<bool>,
    packets: Cell<bool>,
    status: Cell<u8>,
    /// Foreground process group.
    group: Cell<u32>,
    /// The session whose controlling terminal it is.
    session: Cell<u32>,
    master_queue: WaitQueue,
    slave_queue: WaitQueue,
    /// The master is the host.
    host: Option<Host>,
}

impl Pty {
    /// Makes one and lists it, locked.
    fn new(index: u32, uid: u32, host: Option<Host>) -> Rc<Self> {
        let pty = Rc::new(Self {
            index,
            uid,
            line: RefCell::new(fresh_line()),
            speeds: Cell::new(settings::FRESH_SPEEDS),
            output: RefCell::default(),
            size: Cell::default(),
            locked: Cell::new(true),
            master_open: Cell::new(true),
            slaves: Cell::new(0),
            hung_up: Cell::new(false),
            packets: Cell::new(false),
            status: Cell::new(0),
            group: Cell::new(0),
            session: Cell::new(0),
            master_queue: WaitQueue::new(),
            slave_queue: WaitQueue::new(),
            host,
        });
        let kernel = crate::kernel();
        kernel
            .dev
            .ptys
            .borrow_mut()
            .insert(index, Rc::downgrade(&pty));
        pty
    }

    fn find(index: u32) -> Option<Rc<Self>> {
        let kernel = crate::kernel();
        let ptys = kernel.dev.ptys.borrow();
        ptys.get(&index).and_then(Weak::upgrade)
    }

    /// The controlling terminal of a thread's session.
    pub(super) fn controlling(thread: &Thread) -> Option<Rc<Self>> {
        let session = thread.process.session.get();
        let kernel = crate::kernel();
        let ptys = kernel.dev.ptys.borrow();
        let mut open = ptys.values().filter_map(Weak::upgrade);
        open.find(|pty| pty.session.get() == session && session != 0)
    }

    /// Opens the terminal once more (`/dev/tty`).
    pub(super) fn terminal(self: &Rc<Self>) -> Rc<dyn File> {
        Slave::new(self)
    }

    fn signal(&self, number: u32) {
        let group = self.group.get();
        for process in crate::kernel().processes.all() {
            if group != 0 && process.group.get() == group {
                // A process that has gone meanwhile needs no signal.
                let _ = signal::send_to_process(&process, Info::kernel(number));
            }
        }
    }

    fn tell(&self, status: u8) {
        if self.packets.get() {
            self.status.set(self.status.get() | status);
            self.master_queue.wake(Events::READABLE | Events::PRI);
        }
    }

    /// Types bytes at the terminal; returns how many it took.
    fn type_in(&self, bytes: &[u8]) -> usize {
        let mut requests = Vec::new();
        let mut echo = Vec::new();
        let mut taken = 0;
        {
            let mut line = self.line.borrow_mut();
            for &byte in bytes {
                if !line.has_room() {
                    break;
                }
                let before = echo.len();
                let request = line.input(byte, &mut echo);
                requests.extend(request);
                taken += 1;
                if !request.is_some_and(is_signal) {
                    continue;
                }
                if line.termios()[3] & settings::NOFLSH == 0 {
                    // What was typed before is dropped, and so is its echo.
                    echo.drain(..before);
                    self.tell(packet::FLUSH_READ | packet::FLUSH_WRITE);
                }
                if line.is_stopped() && line.termios()[0] & settings::IXON != 0 {
                    line.set_stopped(false);
                    requests.push(Request::Start);
                }
            }
        }
        if !echo.is_empty() {
            // Echo that nobody reads is lost, as on Linux.
            let mut output = self.output.borrow_mut();
            let room = (2 * MOST_OUTPUT).saturating_sub(output.len());
            output.extend(echo.into_iter().take(room));
            drop(output);
            self.show();
            self.master_queue.wake(Events::READABLE);
        }
        for request in requests {
            match request {
                Request::Interrupt => self.signal(number::INT),
                Request::Quit => self.signal(number::QUIT),
                Request::Suspend => self.signal(number::TSTP),
                Request::Stop => self.tell(packet::STOP),
                Request::Start => {
                    self.tell(packet::START);
                    self.slave_queue.wake(Events::WRITABLE);
                }
            }
        }
        if self.line.borrow().has_input() {
            self.slave_queue.wake(Events::READABLE);
        }
        taken
    }

    /// Rows, columns, width and height.
    pub(super) fn resize(&self, size: [u16; 4]) {
        if self.size.replace(size) != size {
            self.signal(number::WINCH);
        }
    }

    fn ioctl(&self, thread: &Rc<Thread>, request: u32, argument: u64) -> Result<u64> {
        let at = UserAddr(argument);
        match request {
            ioctl::TCGETS => at.write(self.line.borrow().termios())?,
            ioctl::TCSETS | ioctl::TCSETSW => self.set_termios(at, false)?,
            ioctl::TCSETSF => self.set_termios(at, true)?,
            settings::TCGETS2 => self.get_termios2(at)?,
            settings::TCSETS2 | settings::TCSETSW2 => self.set_termios2(at, false)?,
            settings::TCSETSF2 => self.set_termios2(at, true)?,
            ioctl::TIOCGWINSZ => at.write(self.size.get())?,
            ioctl::TIOCSWINSZ => {
                self.resize(at.read()?);
            }
            ioctl::TIOCGPGRP => at.write(self.group.get())?,
            ioctl::TIOCSPGRP => self.set_group(thread, at.read()?)?,
            ioctl::TIOCGSID => at.write(self.session.get())?,
            ioctl::TIOCSCTTY => {
                let process = &thread.process;
                let session = process.session.get();
                if session != process.pid {
                    return Err(Errno::EPERM);
                }
                if self.session.get() != 0 && self.session.get() != session && argument != 1 {
                    return Err(Errno::EPERM);
                }
                self.take_control(thread);
            }
            ioctl::TIOCNOTTY => {
                if self.session.get() != thread.process.session.get() {
                    return Err(Errno::ENOTTY);
                }
                self.session.set(0);
                self.group.set(0);
            }
            ioctl::TCFLSH => {
                if argument != 1 {
                    self.line.borrow_mut().flush_input();
                    self.forget_typed();
                    self.tell(packet::FLUSH_READ);
                    self.listen();
                }
                if argument != 0 {
                    self.output.borrow_mut().clear();
                }
            }
            ioctl::TCXONC => match argument {
                0 | 1 => {
                    self.line.borrow_mut().set_stopped(argument == 0);
                    self.slave_queue.wake(Events::WRITABLE);
                }
                2 | 3 => {}
                _ => return Err(Errno::EINVAL),
            },
            ioctl::TIOCOUTQ => at.write(0_i32)?,
            ioctl::TIOCGETD => at.write(0_i32)?,
            ioctl::TCSBRK | ioctl::TCSBRKP | ioctl::TIOCEXCL | ioctl::TIOCNXCL => {}
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    /// `tcsetpgrp(3)`: a group of the session whose terminal it is becomes the one in the foreground.
    fn set_group(&self, thread: &Thread, group: i32) -> Result {
        let session = thread.process.session.get();
        if session == 0 || self.session.get() != session {
            return Err(Errno::ENOTTY);
        }
        let group = u32::try_from(group).map_err(|_| Errno::EINVAL)?;
        let all = crate::kernel().processes.all();
        let member = all.iter().find(|process| process.group.get() == group);
        let member = member.or_else(|| all.iter().find(|process| process.pid == group));
        if member.ok_or(Errno::ESRCH)?.session.get() != session {
            return Err(Errno::EPERM);
        }
        self.group.set(group);
        Ok(())
    }

    fn take_control(&self, thread: &Thread) {
        self.session.set(thread.process.session.get());
        self.group.set(thread.process.group.get());
    }

    fn metadata(&self, rdev: u64) -> Metadata {
        Metadata {
            rdev,
            mode: 0o620,
            uid: self.uid,
            gid: 5,
            ..crate::event::anonymous_metadata(Kind::Character, rdev)
        }
    }
}

/// True if it is about a signal.
fn is_signal(request: Request) -> bool {
    matches!(
        request,
        Request::Interrupt | Request::Quit | Request::Suspend
    )
}

/// A line discipline as a pseudo-terminal has it at first.
fn fresh_line() -> Discipline {
    let mut line = Discipline::default();
    let mut termios = line.termios();
    termios[0] &= !settings::IUTF8;
    line.set_termios(termios);
    line
}

/// The numbers of those that are open.
pub(super) fn numbers() -> Vec<u32> {
    let kernel = crate::kernel();
    let ptys = kernel.dev.ptys.borrow();
    let open = ptys.iter().filter(|(_, pty)| pty.strong_count() > 0);
    open.map(|(&index, _)| index).collect()
}

/// Opens `/dev/ptmx`: makes a new pair.
///
/// # Errors
/// `ENOSPC` if there are too many.
pub(super) fn open_master(thread: &Thread) -> Result<Rc<dyn File>> {
    let kernel = crate::kernel();
    let mut ptys = kernel.dev.ptys.borrow_mut();
    ptys.retain(|_, pty| pty.strong_count() > 0);
    let index = (0..MOST_PTYS).find(|index| !ptys.contains_key(index));
    let index = index.ok_or(Errno::ENOSPC)?;
    drop(ptys);
    let uid = thread.process.credentials.borrow().euid;
    Ok(Master::new(Pty::new(index, uid, None)))
}

/// Opens `/dev/pts/INDEX`.
///
/// # Errors
/// `ENXIO` if there is none, `EIO` while it is locked or its master is closed.
pub(super) fn open_slave(
    thread: &Rc<Thread>,
    index: u32,
    flags: OpenFlags,
) -> Result<Rc<dyn File>> {
    let pty = Pty::find(index).ok_or(Errno::ENXIO)?;
    if pty.locked.get() || !pty.master_open.get() {
        return Err(Errno::EIO);
    }
    let process = &thread.process;
    let leads = process.session.get() == process.pid;
    let has_none = || Pty::controlling(thread).is_none();
    if leads && !flags.contains(OpenFlags::NOCTTY) && pty.session.get() == 0 && has_none() {
        pty.take_control(thread);
    }
    Ok(Slave::new(&pty))
}
