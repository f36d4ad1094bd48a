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
use core::cell::{Cell, RefCell};

use crate::fs::{File, Kind, OpenFile, OpenFlags};
use crate::platform::Stream;
use crate::process::Thread;
use crate::{Errno, Result};

/// What the devices share.
#[derive(Debug, Default)]
pub struct State {
    console: RefCell<Option<Rc<console::Console>>>,
    ptys: RefCell<BTreeMap<u32, Weak<pty::Pty>>>,
    /// The user's terminal, if he sits at one.
    terminal: RefCell<Option<Rc<pty::Pty>>>,
    /// Standard error output is something else.
    errors_apart: Cell<bool>,
}

/// The user's terminal.
const TERMINAL: &[u8] = b"/dev/pts/0";

/// A device number, as `makedev(3)` puts it together for small ones.
pub const fn number(major: u64, minor: u64) -> u64 {
    (major << 8) | (minor & 0xff) | ((minor & !0xff) << 12)
}

fn the_console() -> Rc<console::Console> {
    let kernel = crate::kernel();
    let mut console = kernel.dev.console.borrow_mut();
    console.get_or_insert_with(console::Console::new).clone()
}

fn the_terminal() -> Option<Rc<pty::Pty>> {
    crate::kernel().dev.terminal.borrow().clone()
}

/// The console: what is read comes from the user, what is written goes to standard output.
pub fn console() -> Rc<dyn File> {
    match the_terminal() {
        Some(terminal) => terminal.terminal(),
        None => console::Side::new(&the_console(), Stream::Out),
    }
}

/// Descriptors 0, 1 and 2 of the first process. The third one writes to standard error output; at a terminal it is the
/// same as the others unless `errors_apart`.
///
/// # Errors
/// Those of opening the terminal.
pub fn standard(thread: &Rc<Thread>, errors_apart: bool) -> Result<[Rc<OpenFile>; 3]> {
    let side = |stream| -> Rc<dyn File> { console::Side::new(&the_console(), stream) };
    let errors = || OpenFile::new(side(Stream::Error), OpenFlags::WRONLY);
    crate::kernel().dev.errors_apart.set(errors_apart);
    if the_terminal().is_some() {
        // By its name, which `ttyname(3)` finds again.
        let both = crate::fs::open(thread, crate::fs::AT_FDCWD, TERMINAL, OpenFlags::RDWR, 0)?;
        let third = if errors_apart { errors() } else { both.clone() };
        return Ok([both.clone(), both, third]);
    }
    Ok([
        OpenFile::new(side(Stream::Out), OpenFlags::empty()),
        OpenFile::new(side(Stream::Out), OpenFlags::WRONLY),
        errors(),
    ])
}

/// Tells the user something that is not the program's, on standard error output.
pub fn tell_user(text: &str) {
    let raw = the_terminal().is_some() && !crate::kernel().dev.errors_apart.get();
    // A terminal in raw mode only goes down at the end of a line.
    let lines = raw.then(|| text.replace('\n', "\r\n"));
    let text = lines.as_deref().unwrap_or(text);
    crate::platform::console_write_all(Stream::Error, text.as_bytes());
}

/// The console has something to read: wakes who waits for it.
pub fn console_ready() {
    if let Some(terminal) = the_terminal() {
        return terminal.listen();
    }
    let console = crate::kernel().dev.console.borrow().clone();
    if let Some(console) = console {
        console.ready();
    }
}

/// The user sits at a terminal of this size, whose owner in here is `uid`: it is the first session's.
pub fn set_terminal(columns: u16, rows: u16, uid: u32) {
    let terminal = pty::Pty::of_host(columns, rows, uid);
    // From now on keys arrive, whether the program reads or not.
    terminal.listen();
    crate::kernel().dev.terminal.replace(Some(terminal));
}

/// The terminal at which the user sits has another size: its foreground group learns it (`SIGWINCH`).
pub fn resize_terminal(columns: u16, rows: u16) {
    if let Some(terminal) = the_terminal() {
        terminal.resize([rows, columns, 0, 0]);
    }
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
