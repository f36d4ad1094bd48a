//! What descriptors refer to: files, and open file descriptions.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::Cell;

use super::{Metadata, OpenFlags, Place};
use crate::io::{Sink, Source};
use crate::process::Thread;
use crate::wait::{Events, WaitQueue};
use crate::{Errno, Result};

/// How a file's content is mapped (`mmap(2)`).
pub enum Mapped {
    /// It lies in the root image from this offset in bytes on.
    Image(u64),
    /// Its pages are memory of the library OS.
    Pages(Rc<dyn Pages>),
    /// It has to be read. Not for shared mappings.
    Copy,
    /// As `/dev/zero`.
    Zero,
}

/// Content that lies in whole pages of the library OS's own memory.
pub trait Pages {
    /// Memory that holds the pages from `first` on, as many as lie side by side but at most `count` (which is not 0). What is missing is made.
    ///
    /// # Errors
    /// `ENOMEM`, `ENOSPC`; `ENXIO` if `first` lies behind the end of the content (the program gets `SIGBUS`).
    fn run(&self, first: u64, count: u64) -> Result<Run>;
    /// True if what is missing has to come from far away, so that who holds nothing had better wait for it first.
    fn are_far(&self) -> bool {
        false
    }
    /// A mapping is made through which the program may write.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn expect_writes(&self) -> Result {
        Ok(())
    }
    /// True if nobody may begin to write to them through shared mappings (`F_SEAL_WRITE`, `F_SEAL_FUTURE_WRITE`).
    fn are_sealed(&self) -> bool {
        false
    }
    /// Brings what was written to the pages with numbers from `first` up to before `last` to where the file is kept, if that is elsewhere.
    ///
    /// # Errors
    /// The file system's; all pages are tried.
    fn save(&self, _first: u64, _last: u64) -> Result {
        Ok(())
    }
}

/// Pages that lie side by side.
#[derive(Clone)]
pub struct Run {
    /// Address of the first byte.
    pub address: u64,
    /// How many.
    pub pages: u64,
    /// The memory stays where it is, and remains the file's, at least as long as this is kept: keep it while any of it is mapped.
    pub hold: Rc<dyn Any>,
}

impl core::fmt::Debug for Run {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Run({:#x}, {} pages)", self.address, self.pages)
    }
}

/// What a descriptor can do that is not an inode's content: pipes, sockets, devices, epoll.
///
/// Calls that find nothing to do answer `EAGAIN` and never sleep: the system call sleeps on [`queue`](Self::queue) until [`poll`](Self::poll)
/// says that it is worth another try, unless the description is non-blocking.
#[allow(clippy::missing_errors_doc, reason = "those of the system calls named")]
pub trait File: Any {
    /// `read(2)`. Files without an offset of their own ignore it.
    fn read(&self, _thread: &Rc<Thread>, _open: &OpenFile, _to: &mut Sink) -> Result<usize> {
        Err(Errno::EINVAL)
    }
    /// `write(2)`.
    fn write(&self, _thread: &Rc<Thread>, _open: &OpenFile, _from: &mut Source) -> Result<usize> {
        Err(Errno::EINVAL)
    }
    /// True for streams, to which a `write(2)` that may wait writes everything: [`write`](Self::write) is called again until it has.
    fn writes_all(&self) -> bool {
        false
    }
    /// When a call that begins now gives up waiting to read or to write (`SO_RCVTIMEO`, `SO_SNDTIMEO`).
    fn deadline(&self, _reads: bool) -> crate::wait::Deadline {
        None
    }
    /// `pread(2)`.
    fn read_at(&self, _thread: &Rc<Thread>, _offset: u64, _to: &mut Sink) -> Result<usize> {
        Err(Errno::ESPIPE)
    }
    /// `pwrite(2)`.
    fn write_at(&self, _thread: &Rc<Thread>, _offset: u64, _from: &mut Source) -> Result<usize> {
        Err(Errno::ESPIPE)
    }
    /// Writes behind the end (`O_APPEND`). Returns how many bytes, and where the end is then.
    fn append(&self, thread: &Rc<Thread>, from: &mut Source) -> Result<(usize, u64)> {
        let end = self.metadata()?.size;
        let written = self.write_at(thread, end, from)?;
        Ok((written, end.saturating_add(written as u64)))
    }
    /// `lseek(2)`.
    fn seek(&self, _open: &OpenFile, _offset: i64, _whence: u32) -> Result<u64> {
        Err(Errno::ESPIPE)
    }
    /// What it is ready for now. Files that are always ready keep this.
    fn poll(&self, _open: &OpenFile) -> Events {
        Events::READABLE | Events::WRITABLE
    }
    /// Who wants to know when that changes; `None` if it never does (epoll answers `EPERM` for those that cannot be polled).
    fn queue(&self) -> Option<&WaitQueue> {
        None
    }
    /// `ioctl(2)`, behind those that every file has (`FIONBIO`, `FIOCLEX`).
    fn ioctl(
        &self,
        _thread: &Rc<Thread>,
        _open: &OpenFile,
        _request: u32,
        _argument: u64,
    ) -> Result<u64> {
        Err(Errno::ENOTTY)
    }
    /// `fstat(2)`.
    fn metadata(&self) -> Result<Metadata>;
    /// How it is mapped; `shared` says that what is written to the mapping must become the file's content: the mapping is shared and the file is
    /// open for writing.
    fn map(&self, _shared: bool) -> Result<Mapped> {
        Err(Errno::ENODEV)
    }
    /// `open(2)` of `/proc/self/fd/N`: the file that a new description is made of. Sockets answer `ENXIO`.
    fn reopen(&self, _thread: &Rc<Thread>, _flags: OpenFlags) -> Result<Rc<dyn File>> {
        Err(Errno::ENXIO)
    }
    /// `fcntl(2)` with commands that only some files have (`F_GETPIPE_SZ`, `F_ADD_SEALS`).
    fn fcntl(&self, _thread: &Rc<Thread>, _command: u32, _argument: u64) -> Result<u64> {
        Err(Errno::EINVAL)
    }
    /// `fsync(2)`; `EINVAL` for what has no storage.
    fn sync(&self, _data_only: bool) -> Result {
        Err(Errno::EINVAL)
    }
    /// The status flags were changed (`fcntl(F_SETFL)`).
    fn flags_changed(&self, _flags: OpenFlags) {}
    /// The last descriptor was closed.
    fn release(&self) {}
    /// What `/proc/self/fd` shows, as in `socket:[17]`.
    fn describe(&self) -> Vec<u8>;
    /// Itself, for calls that are made for one kind of file.
    fn as_any(&self) -> &dyn Any;
}

/// An open file description.
pub struct OpenFile {
    /// What is open; for inodes whose content is their own, a file that the VFS makes.
    pub file: Rc<dyn File>,
    /// The name it was opened by; `None` for pipes and the like.
    pub place: Option<Place>,
    /// Access mode and status flags.
    pub flags: Cell<OpenFlags>,
    /// Where the next read or write starts.
    pub offset: Cell<u64>,
    /// `fcntl(F_SETOWN)`.
    pub owner: Cell<i32>,
    /// `fcntl(F_SETSIG)`.
    pub signal: Cell<i32>,
    /// A long call that moves `offset` is being made piece by piece.
    pub in_pieces: Cell<bool>,
    /// It has locks, to be given up with it.
    pub(super) locked: Cell<bool>,
    /// A call that moves the offset sleeps.
    pub(super) in_use: Cell<bool>,
}

impl OpenFile {
    /// A description of a file that has no name.
    pub fn new(file: Rc<dyn File>, flags: OpenFlags) -> Rc<Self> {
        Self::at(file, None, flags)
    }

    /// A description of a file that was reached by a name.
    pub fn at(file: Rc<dyn File>, place: Option<Place>, flags: OpenFlags) -> Rc<Self> {
        Rc::new(Self {
            file,
            place,
            flags: Cell::new(flags),
            offset: Cell::new(0),
            owner: Cell::new(0),
            signal: Cell::new(0),
            in_pieces: Cell::new(false),
            locked: Cell::new(false),
            in_use: Cell::new(false),
        })
    }

    /// True if calls on it do not wait.
    pub fn nonblocking(&self) -> bool {
        self.flags.get().contains(OpenFlags::NONBLOCK)
    }

    /// The file as a certain kind.
    pub fn downcast<T: 'static>(&self) -> Option<&T> {
        self.file.as_any().downcast_ref()
    }
}

impl core::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "OpenFile({})",
            alloc::string::String::from_utf8_lossy(&self.file.describe())
        )
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if self.locked.get() {
            super::locks::release(self);
        }
        if super::watch::any() {
            super::watch::closed(self);
        }
        self.file.release();
    }
}

/// Does `attempt` until it is not `EAGAIN` any more, sleeping meanwhile if the description allows it.
///
/// Nothing may be borrowed: files of volumes sleep during the attempt ([`Thread::may_wait`]).
///
/// # Errors
/// The attempt's; `ERESTARTSYS`; `EAGAIN` also when `deadline` passes (as `SO_RCVTIMEO` wants it).
pub fn blocking<T>(
    thread: &Rc<Thread>,
    open: &OpenFile,
    wanted: Events,
    deadline: crate::wait::Deadline,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut patience = crate::wait::Patience::default();
    loop {
        match thread.at_call(&mut attempt) {
            Err(Errno::EAGAIN) if !open.nonblocking() => {}
            other => return other,
        }
        let Some(queue) = open.file.queue() else {
            return Err(Errno::EAGAIN);
        };
        let wanted = wanted | Events::ERR | Events::HUP;
        let slept = patience.wait(thread, queue, deadline, || {
            open.file.poll(open).intersects(wanted)
        });
        match slept {
            Err(Errno::ETIMEDOUT) => return Err(Errno::EAGAIN),
            // signal(7): calls on a socket with a timeout are not restarted.
            Err(_) if deadline.is_some() => return Err(Errno::EINTR),
            other => other?,
        }
    }
}
