//! Pseudo-terminals (`pty(7)`): a terminal whose user is another program.
//!
//! What is written to the master is typed at the terminal, what is written to the terminal is read from the master. Between them
//! lies the line discipline ([`super::line`]).

use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};

use super::ioctl;
use super::line::{Discipline, Request};
use super::tree;
use crate::fs::{self, File, Kind, Metadata, OpenFile, OpenFlags};
use crate::io::{Sink, Source};
use crate::platform;
use crate::process::Thread;
use crate::signal::{self, Info, number};
use crate::user::UserAddr;
use crate::wait::{self, Events, WaitQueue};
use crate::{Errno, Result};

/// How much waits for the master to read.
const MOST_OUTPUT: usize = 64 << 10;
/// How many there may be (`/proc/sys/kernel/pty/max`).
const MOST_PTYS: u32 = 4096;
/// Bytes that are handled at once.
const PIECE: usize = 1024;

/// What packet mode tells before data (`ioctl_tty(2)`, `TIOCPKT`).
mod packet {
    pub const FLUSH_READ: u8 = 1;
    pub const STOP: u8 = 4;
    pub const START: u8 = 8;
}

/// A pair.
#[derive(Debug)]
pub struct Pty {
    index: u32,
    uid: u32,
    line: RefCell<Discipline>,
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
}

impl Pty {
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
                requests.extend(line.input(byte, &mut echo));
                taken += 1;
            }
        }
        if !echo.is_empty() {
            // Echo that nobody reads is lost, as on Linux.
            let mut output = self.output.borrow_mut();
            let room = (2 * MOST_OUTPUT).saturating_sub(output.len());
            output.extend(echo.into_iter().take(room));
            drop(output);
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

    fn ioctl(&self, thread: &Rc<Thread>, request: u32, argument: u64) -> Result<u64> {
        let at = UserAddr(argument);
        match request {
            ioctl::TCGETS => at.write(self.line.borrow().termios())?,
            ioctl::TCSETS | ioctl::TCSETSW | ioctl::TCSETSF => {
                let termios = at.read()?;
                let mut line = self.line.borrow_mut();
                if request == ioctl::TCSETSF {
                    line.flush_input();
                }
                line.set_termios(termios);
                drop(line);
                self.slave_queue.wake(Events::READABLE | Events::WRITABLE);
            }
            ioctl::TIOCGWINSZ => at.write(self.size.get())?,
            ioctl::TIOCSWINSZ => {
                let size = at.read()?;
                if self.size.replace(size) != size {
                    self.signal(number::WINCH);
                }
            }
            ioctl::TIOCGPGRP => at.write(self.group.get())?,
            ioctl::TIOCSPGRP => {
                let group: i32 = at.read()?;
                self.group
                    .set(u32::try_from(group).map_err(|_| Errno::EINVAL)?);
            }
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
                    self.tell(packet::FLUSH_READ);
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
    let pty = Rc::new(Pty {
        index,
        uid: thread.process.credentials.borrow().euid,
        line: RefCell::default(),
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
    });
    ptys.insert(index, Rc::downgrade(&pty));
    Ok(Rc::new(Master { pty }))
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
    let has_none = || Pty::controlling(thread).is_none() && !super::console_controls(thread);
    if leads && !flags.contains(OpenFlags::NOCTTY) && pty.session.get() == 0 && has_none() {
        pty.take_control(thread);
    }
    Ok(Slave::new(&pty))
}

/// The side of the program that is the terminal's user.
#[derive(Debug)]
struct Master {
    pty: Rc<Pty>,
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

impl Master {
    /// True if so many characters can be typed at once whatever they are.
    fn fits(&self, len: usize) -> bool {
        self.pty.line.borrow().readable() + len < 2048
    }
}

/// The terminal.
#[derive(Debug)]
struct Slave {
    pty: Rc<Pty>,
}

impl Slave {
    fn new(pty: &Rc<Pty>) -> Rc<Self> {
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
        if to.remaining() == 0 {
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
        if !enough() && pty.master_open.get() {
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
        if pty.line.borrow().readable() == 0 && mode.is_some() {
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
            .metadata(super::number(tree::PTS_MAJOR, self.pty.index.into())))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing::{self, PAGE_AT};

    struct Pair {
        thread: Rc<Thread>,
        master: Rc<OpenFile>,
        slave: Rc<OpenFile>,
    }

    fn pair() -> Pair {
        let thread = testing::thread();
        let flags = OpenFlags::RDWR | OpenFlags::NONBLOCK;
        let master = OpenFile::new(open_master(&thread).expect("room"), flags);
        assert_eq!(open_slave(&thread, 0, flags).err(), Some(Errno::EIO));
        UserAddr(PAGE_AT).write(0_i32).expect("memory");
        let unlocked = master
            .file
            .ioctl(&thread, &master, ioctl::TIOCSPTLCK, PAGE_AT);
        assert_eq!(unlocked, Ok(0));
        let slave = open_slave(&thread, 0, flags).expect("unlocked");
        Pair {
            slave: OpenFile::new(slave, flags),
            master,
            thread,
        }
    }

    impl Pair {
        fn write(&self, open: &OpenFile, bytes: &[u8]) -> Result<usize> {
            open.file
                .write(&self.thread, open, &mut Source::kernel(bytes))
        }

        fn read(&self, open: &OpenFile) -> Result<Vec<u8>> {
            let mut to = [0; 100];
            let got = open
                .file
                .read(&self.thread, open, &mut Sink::kernel(&mut to))?;
            Ok(to[..got].to_vec())
        }

        fn set_raw(&self, minimum: u8, time: u8) {
            let at = UserAddr(PAGE_AT);
            let mut termios = super::super::line::FRESH;
            termios[3] &= !0o12;
            let mut control = termios[5].to_ne_bytes();
            control[2] = time;
            control[3] = minimum;
            termios[5] = u32::from_ne_bytes(control);
            at.write(termios).expect("memory");
            let slave = &self.slave;
            let set = slave
                .file
                .ioctl(&self.thread, slave, ioctl::TCSETS, PAGE_AT);
            assert_eq!(set, Ok(0));
        }
    }

    #[test]
    fn what_is_typed_is_echoed_and_read_by_lines() {
        let pair = pair();
        assert_eq!(pair.write(&pair.master, b"ls"), Ok(2));
        assert_eq!(pair.read(&pair.slave), Err(Errno::EAGAIN));
        assert_eq!(pair.read(&pair.master), Ok(b"ls".to_vec()));
        assert_eq!(pair.write(&pair.master, b"\r"), Ok(1));
        assert_eq!(pair.read(&pair.slave), Ok(b"ls\n".to_vec()));
        assert_eq!(pair.write(&pair.slave, b"a\nb"), Ok(3));
        assert_eq!(pair.read(&pair.master), Ok(b"\r\na\r\nb".to_vec()));
    }

    #[test]
    fn each_side_sees_the_other_one_hang_up() {
        let one = pair();
        let closed = one.slave.clone();
        drop(one.slave);
        assert!(!one.master.file.poll(&one.master).contains(Events::HUP));
        drop(closed);
        assert!(one.master.file.poll(&one.master).contains(Events::HUP));
        let mut to = [0; 4];
        let got = one
            .master
            .file
            .read(&one.thread, &one.master, &mut Sink::kernel(&mut to));
        assert_eq!(got, Err(Errno::EIO));
        let two = pair();
        let Pair {
            thread,
            master,
            slave,
        } = two;
        drop(master);
        let got = slave.file.read(&thread, &slave, &mut Sink::kernel(&mut to));
        assert_eq!(got, Ok(0));
        let put = slave.file.write(&thread, &slave, &mut Source::kernel(b"x"));
        assert_eq!(put, Err(Errno::EIO));
        assert!(numbers().is_empty());
    }

    #[test]
    fn raw_reads_wait_for_their_minimum_or_their_time() {
        let pair = pair();
        pair.slave.flags.set(OpenFlags::RDWR);
        pair.set_raw(0, 0);
        assert_eq!(pair.read(&pair.slave), Ok(Vec::new()));
        pair.set_raw(0, 5);
        let before = platform::now();
        assert_eq!(pair.read(&pair.slave), Ok(Vec::new()));
        assert_eq!(platform::now() - before, 500_000_000);
        pair.set_raw(3, 2);
        pair.write(&pair.master, b"xy").expect("room");
        assert_eq!(pair.read(&pair.slave), Ok(b"xy".to_vec()));
        pair.set_raw(1, 0);
        pair.write(&pair.master, b"z").expect("room");
        assert_eq!(pair.read(&pair.slave), Ok(b"z".to_vec()));
    }

    #[test]
    fn echo_that_nobody_reads_does_not_pile_up() {
        let pair = pair();
        let line = [&[b'x'; 49][..], b"\n"].concat();
        for _ in 0..4000 {
            assert_eq!(pair.write(&pair.master, &line), Ok(50));
            assert_eq!(pair.read(&pair.slave), Ok(line.clone()));
        }
        let waits = UserAddr(PAGE_AT);
        pair.master
            .file
            .ioctl(&pair.thread, &pair.master, ioctl::FIONREAD, PAGE_AT)
            .expect("told");
        assert!(waits.read::<u32>().expect("memory") as usize <= 2 * MOST_OUTPUT);
    }

    #[test]
    fn control_characters_signal_the_foreground_group() {
        let pair = pair();
        pair.slave
            .file
            .ioctl(&pair.thread, &pair.slave, ioctl::TIOCSCTTY, 0)
            .expect("the leader may");
        signal::set_blocked(&pair.thread, signal::bit(number::INT));
        pair.write(&pair.master, b"\x03").expect("room");
        let pending = pair.thread.process.signals.pending.set();
        assert_eq!(pending, signal::bit(number::INT));
        assert!(Pty::controlling(&pair.thread).is_some());
    }

    #[test]
    fn packet_mode_tells_of_data_and_of_stops() {
        let pair = pair();
        UserAddr(PAGE_AT).write(1_i32).expect("memory");
        let master = &pair.master;
        master
            .file
            .ioctl(&pair.thread, master, ioctl::TIOCPKT, PAGE_AT)
            .expect("set");
        pair.write(&pair.slave, b"hi").expect("room");
        assert_eq!(pair.read(master), Ok(b"\0hi".to_vec()));
        pair.write(master, b"\x13").expect("room");
        assert!(master.file.poll(master).contains(Events::PRI));
        assert_eq!(pair.read(master), Ok(alloc::vec![packet::STOP]));
        assert_eq!(pair.write(&pair.slave, b"x"), Err(Errno::EAGAIN));
    }

    #[test]
    fn much_can_be_typed_without_losing_any() {
        let pair = pair();
        pair.set_raw(1, 0);
        let all: Vec<u8> = (0..10_000_u32).map(|n| b'a' + (n % 26) as u8).collect();
        let mut typed = 0;
        let mut got = Vec::new();
        for _ in 0..1000 {
            typed += pair.write(&pair.master, &all[typed..]).unwrap_or(0);
            got.extend(pair.read(&pair.slave).unwrap_or_default());
        }
        assert_eq!(got, all);
    }
}
