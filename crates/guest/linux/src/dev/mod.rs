//! Devices: the console, terminals, and the files without hardware behind them (`null(4)`, `random(4)`).
//!
//! The VFS opens a device file, wherever it lies, by its number ([`open_device`]); [`mount`] makes `/dev` with those that programs expect.

pub mod console;
pub mod ioctl;
pub mod line;
pub mod memory;
pub mod pty;
pub mod tree;

use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use core::cell::RefCell;

use crate::fs::{File, Kind, OpenFile, OpenFlags};
use crate::platform::Stream;
use crate::process::Thread;
use crate::{Errno, Result};

/// What the devices share.
#[derive(Debug, Default)]
pub struct State {
    console: RefCell<Option<Rc<console::Console>>>,
    ptys: RefCell<BTreeMap<u32, Weak<pty::Pty>>>,
}

/// A device number, as `makedev(3)` puts it together for small ones.
pub const fn number(major: u64, minor: u64) -> u64 {
    (major << 8) | (minor & 0xff) | ((minor & !0xff) << 12)
}

fn the_console() -> Rc<console::Console> {
    let kernel = crate::kernel();
    let mut console = kernel.dev.console.borrow_mut();
    console.get_or_insert_with(console::Console::new).clone()
}

/// The console: what is read comes from the user, what is written goes to standard output.
pub fn console() -> Rc<dyn File> {
    console::Side::new(&the_console(), Stream::Out)
}

/// Descriptors 0, 1 and 2 of the first process. The third one writes to standard error output.
pub fn standard() -> [Rc<OpenFile>; 3] {
    let console = the_console();
    let side = |stream| -> Rc<dyn File> { console::Side::new(&console, stream) };
    if console.is_terminal() {
        let both = OpenFile::new(side(Stream::Out), OpenFlags::RDWR);
        return [both.clone(), both.clone(), both];
    }
    [
        OpenFile::new(side(Stream::Out), OpenFlags::empty()),
        OpenFile::new(side(Stream::Out), OpenFlags::WRONLY),
        OpenFile::new(side(Stream::Error), OpenFlags::WRONLY),
    ]
}

/// The console has something to read: wakes who waits for it.
pub fn console_ready() {
    let console = crate::kernel().dev.console.borrow().clone();
    if let Some(console) = console {
        console.ready();
    }
}

/// The user sits at a terminal of this size: the console is one for the program too.
pub fn set_terminal(columns: u16, rows: u16) {
    the_console().set_terminal(columns, rows);
}

/// True if the console is the controlling terminal of a thread: of the first session, if it is a terminal.
fn console_controls(thread: &Thread) -> bool {
    the_console().is_terminal() && thread.process.session.get() == 1
}

/// Opens a device by its number.
///
/// # Errors
/// `ENXIO` if there is none.
pub fn open_device(
    thread: &Rc<Thread>,
    kind: Kind,
    rdev: u64,
    flags: OpenFlags,
) -> Result<Rc<dyn File>> {
    if kind != Kind::Character {
        return Err(Errno::ENXIO);
    }
    if let Some(memory) = memory::Memory::by_number(rdev) {
        return Ok(Rc::new(memory));
    }
    let (major, minor) = ((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & !0xff));
    match rdev {
        tree::CONSOLE => Ok(console()),
        tree::ERROR => Ok(console::Side::new(&the_console(), Stream::Error)),
        tree::PTMX => pty::open_master(thread),
        tree::TTY => match pty::Pty::controlling(thread) {
            Some(pty) => Ok(pty.terminal()),
            None if console_controls(thread) => Ok(console()),
            None => Err(Errno::ENXIO),
        },
        _ if major == tree::PTS_MAJOR => {
            let index = u32::try_from(minor).map_err(|_| Errno::ENXIO)?;
            pty::open_slave(thread, index, flags)
        }
        _ => Err(Errno::ENXIO),
    }
}

/// Makes `/dev`, and tells the VFS how devices and FIFOs are opened.
///
/// # Errors
/// Those of mounting.
pub fn mount() -> Result {
    let kernel = crate::kernel();
    kernel.vfs.open_device.set(Some(open_device));
    let open_fifo = crate::event::fifo::fifo_open;
    kernel.vfs.open_fifo.set(Some(open_fifo));
    crate::fs::mount(b"/dev", tree::root()?, "devtmpfs", b"udev")?;
    crate::fs::mount(b"/dev/pts", tree::terminals(), "devpts", b"devpts")
}
