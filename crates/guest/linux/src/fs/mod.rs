//! Files.
//!
//! An [`Inode`] is what a name leads to; a [`File`] is what `open(2)` makes of it, or a pipe, a socket, an epoll instance. An [`OpenFile`] is an
//! open file description: a file with its offset and status flags, which several descriptors may share. A [`Place`] is a name in the tree
//! with its inode.

pub mod anonymous;
mod change;
mod content;
mod file;
pub mod flags;
pub mod locks;
mod mount;
mod names;
mod node;
mod open;
pub mod permission;
mod place;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod tmpfs;
pub mod volume;
mod walk;
pub mod watch;

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, OnceCell, RefCell};

use crate::Result;
use crate::process::Thread;

pub use change::{allocate, change, change_mode, change_owner, change_xattr, truncate};
pub use content::{InodeFile, Turn};
pub use file::{File, Mapped, OpenFile, Pages, Run, blocking};
pub use flags::{OpenFlags, Walk};
pub use mount::{memory_files, mount, mount_call, start, unmount};
pub use names::{exchange_or_rename, link, make_link, make_node, remove};
pub use node::{Attachment, Changes, Entry, FsStatistics, Inode, Kind, Metadata, NewInode, Time};
pub use open::{memory_file, open, open_how, open_place, read_whole, segment_file};
pub use permission::permit;
pub use place::{Dentry, Mount, Place};
pub use table::FdTable;
pub use walk::{place_of, resolve, working_directory};

/// A process's working directory, root and umask (`CLONE_FS`).
#[derive(Debug)]
pub struct FsContext {
    /// Working directory.
    pub cwd: RefCell<Option<Place>>,
    /// Root directory.
    pub root: RefCell<Option<Place>>,
    /// `umask(2)`.
    pub umask: Cell<u32>,
}

impl Default for FsContext {
    fn default() -> Self {
        Self {
            cwd: RefCell::default(),
            root: RefCell::default(),
            umask: Cell::new(0o022),
        }
    }
}

/// Opens a device by its number.
pub type OpenDevice = fn(&Rc<Thread>, Kind, u64, OpenFlags) -> Result<Rc<dyn File>>;

/// Opens a fifo, whose pipe is kept in the inode's [`Attachment`].
pub type OpenFifo = fn(&Rc<Thread>, &Rc<dyn Inode>, OpenFlags) -> Result<Rc<dyn File>>;

/// All mounted file systems.
#[derive(Default)]
pub struct Vfs {
    /// The folder at the top.
    root: RefCell<Option<Rc<Dentry>>>,
    /// What is mounted, in the order in which it was.
    mounts: RefCell<Vec<Rc<Mount>>>,
    last_mount: Cell<u32>,
    last_device: Cell<u32>,
    /// Where memory files live.
    memory: OnceCell<Rc<tmpfs::Tmpfs>>,
    locks: locks::Locks,
    watches: watch::Watches,
    /// Folders of the host.
    pub volumes: volume::Volumes,
    /// Who waits for a turn at an open file description.
    turns: crate::wait::WaitQueue,
    /// How device files are opened; set by the module that has the devices.
    pub open_device: Cell<Option<OpenDevice>>,
    /// How fifos are opened; set by the module that has the pipes.
    pub open_fifo: Cell<Option<OpenFifo>>,
}

impl Vfs {
    /// The inode at the top of the root file system.
    pub fn top(&self) -> Option<Rc<dyn Inode>> {
        self.root.borrow().as_ref().map(|top| top.inode.clone())
    }
}

impl core::fmt::Debug for Vfs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Vfs({} mounts)", self.mounts.borrow().len())
    }
}

impl Vfs {
    /// What is mounted, in the order in which it was.
    pub fn mounts(&self) -> Vec<Rc<Mount>> {
        self.mounts.borrow().clone()
    }

    /// The folder at the top of each.
    pub fn roots(&self) -> Vec<Rc<dyn Inode>> {
        let top = self.root.borrow().as_ref().map(|top| top.inode.clone());
        let covering = self.mounts().into_iter().filter_map(|mount| {
            let at = mount.at.borrow().clone()?;
            let root = at.covered.borrow();
            root.as_ref().map(|root| root.inode.clone())
        });
        top.into_iter().chain(covering).collect()
    }
}

/// `AT_FDCWD`
pub const AT_FDCWD: i32 = -100;

/// Number for the `st_dev` of a new file system.
pub fn new_device() -> u64 {
    let kernel = crate::kernel();
    let last = &kernel.vfs.last_device;
    last.set(last.get() + 1);
    device_number(0, last.get())
}

/// A device's number, as `makedev(3)` puts it together.
pub fn device_number(major: u32, minor: u32) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    (major & 0xfff) << 8 | (major & !0xfff) << 32 | minor & 0xff | (minor & !0xff) << 12
}

/// Sends a signal to the calling thread, as a call does besides failing.
fn raise(thread: &Rc<Thread>, signal: u32) {
    let _ = crate::signal::send_to_thread(thread, crate::signal::Info::kernel(signal));
}
