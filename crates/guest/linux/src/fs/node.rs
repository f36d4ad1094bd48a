//! What names lead to: inodes, and what is told of them.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::RefCell;

use super::{File, Mapped, OpenFlags, Place};
use crate::io::{Sink, Source};
use crate::process::Thread;
use crate::{Errno, Result};

/// Kinds of inodes, with their bits in `st_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are those of inode(7)")]
pub enum Kind {
    /// Event descriptors have no type at all.
    Anonymous = 0,
    Fifo = 0o010_000,
    Character = 0o020_000,
    Directory = 0o040_000,
    Block = 0o060_000,
    #[default]
    Regular = 0o100_000,
    Link = 0o120_000,
    Socket = 0o140_000,
}

/// A point of time: nanoseconds since 1970.
pub type Time = u64;

/// What `statx(2)` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The file system's number.
    pub device: u64,
    /// Number within it.
    pub inode: u64,
    /// What it is.
    pub kind: Kind,
    /// Permissions, with the set-id and sticky bits.
    pub mode: u32,
    /// Names that lead to it.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// For device files: which device.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// 512-byte blocks in use.
    pub blocks: u64,
    /// Preferred length of a transfer.
    pub block_size: u32,
    /// Last access.
    pub accessed: Time,
    /// Last change of the content.
    pub modified: Time,
    /// Last change of the inode.
    pub changed: Time,
    /// When it was made.
    pub born: Time,
}

/// What to change of an inode; `None` leaves a thing as it is.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "as in `Metadata`")]
pub struct Changes {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub accessed: Option<Time>,
    pub modified: Option<Time>,
}

/// An entry of a folder.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The inode's number.
    pub inode: u64,
    /// What it is.
    pub kind: Kind,
    /// Where the next call goes on behind this entry: never the same for two entries of a folder, whatever is added or removed meanwhile.
    pub next: u64,
}

/// What a new inode is like.
#[derive(Clone, Debug)]
pub struct NewInode<'a> {
    /// What it is.
    pub kind: Kind,
    /// Permissions, umask applied.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// For device files.
    pub rdev: u64,
    /// For symbolic links: where it leads.
    pub target: &'a [u8],
}

/// What another module keeps with an inode.
pub type Attachment = RefCell<Option<Rc<dyn Any>>>;

/// What a name leads to.
///
/// Names are single path components. What a kind of inode does not have answers as Linux does for it (`ENOTDIR`, `EINVAL`, `EPERM`).
#[allow(clippy::missing_errors_doc, reason = "those of the system calls named")]
pub trait Inode: Any {
    /// `statx(2)`.
    fn metadata(&self) -> Result<Metadata>;
    /// `chmod(2)`, `chown(2)`, `utimensat(2)`.
    fn change(&self, _changes: Changes) -> Result {
        Err(Errno::EPERM)
    }
    /// The inode with this name in a folder.
    fn lookup(&self, _name: &[u8]) -> Result<Rc<dyn Inode>> {
        Err(Errno::ENOTDIR)
    }
    /// Inodes with these names, each in the one before, and what they are like, where asking for several is no dearer than for one: as far as the
    /// names lead, and then why not further. With `read` the last one will be opened for reading. `None` if there is no such way: the names
    /// are looked up one by one.
    #[allow(clippy::type_complexity, reason = "told in the words above")]
    fn lookup_many(
        &self,
        _names: &[&[u8]],
        _read: bool,
    ) -> Option<Vec<Result<(Rc<dyn Inode>, Metadata)>>> {
        None
    }
    /// Makes an inode in a folder; `EEXIST` if there is one of that name.
    fn create(&self, _name: &[u8], _new: &NewInode) -> Result<Rc<dyn Inode>> {
        Err(Errno::ENOTDIR)
    }
    /// `link(2)`.
    fn link(&self, _name: &[u8], _to: &Rc<dyn Inode>) -> Result {
        Err(Errno::EPERM)
    }
    /// `unlink(2)`, or with `folder` `rmdir(2)`.
    fn unlink(&self, _name: &[u8], _folder: bool) -> Result {
        Err(Errno::ENOTDIR)
    }
    /// `renameat2(2)`: `name` in this folder becomes `new_name` in `new_folder`, which belongs to the same file system.
    fn rename(
        &self,
        _name: &[u8],
        _new_folder: &Rc<dyn Inode>,
        _new_name: &[u8],
        _flags: u32,
    ) -> Result {
        Err(Errno::ENOTDIR)
    }
    /// `readlink(2)`.
    fn read_link(&self, _thread: &Rc<Thread>) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }
    /// Where a link leads that is not followed by its text: those in `/proc/self/fd`, `cwd`, `exe` (see [`place_of`](super::place_of)).
    fn follow(&self, _thread: &Rc<Thread>) -> Result<Option<Place>> {
        Ok(None)
    }
    /// Makes a regular file without a name in a folder (`O_TMPFILE`); it may get one by [`link`](Self::link).
    fn unnamed(&self, _new: &NewInode) -> Result<Rc<dyn Inode>> {
        Err(Errno::EOPNOTSUPP)
    }
    /// True if names found here stay what they are until they are changed by this trait's functions, so that they need not be looked up again.
    /// Folders whose entries come and go by themselves (`/proc`, volumes) say false.
    fn steady(&self) -> bool {
        false
    }
    /// A place for what other modules keep with an inode: the pipe behind a fifo, the socket behind a bound name.
    fn attachment(&self) -> Option<&Attachment> {
        None
    }
    /// Gives the entries from `from` on (0 at first, "." and ".." not among them) to `each` until it says false.
    fn entries(&self, _from: u64, _each: &mut dyn FnMut(&Entry) -> bool) -> Result {
        Err(Errno::ENOTDIR)
    }
    /// `open(2)` of an existing inode: `None` for one whose content is reached by [`read_at`](Self::read_at) and [`write_at`](Self::write_at), and
    /// for devices, fifos and sockets, which the VFS opens by their kind and number; else a file of its own.
    fn open(&self, _thread: &Rc<Thread>, _flags: OpenFlags) -> Result<Option<Rc<dyn File>>> {
        Ok(None)
    }
    /// Reads content.
    fn read_at(&self, _offset: u64, _to: &mut Sink) -> Result<usize> {
        Err(Errno::EINVAL)
    }
    /// Writes content.
    fn write_at(&self, _offset: u64, _from: &mut Source) -> Result<usize> {
        Err(Errno::EINVAL)
    }
    /// Writes behind the end (`O_APPEND`). Returns how many bytes, and where the end is then.
    fn append(&self, from: &mut Source) -> Result<(usize, u64)> {
        let end = self.metadata()?.size;
        let written = self.write_at(end, from)?;
        Ok((written, end.saturating_add(written as u64)))
    }
    /// The file system's number and the inode's, which are the same as long as the inode is there.
    fn identity(&self) -> Result<(u64, u64)> {
        let metadata = self.metadata()?;
        Ok((metadata.device, metadata.inode))
    }
    /// Where locks are taken towards others than this machine, for file systems that have such.
    fn outside(&self) -> Option<&dyn super::locks::Outside> {
        None
    }
    /// `ftruncate(2)`.
    fn resize(&self, _size: u64) -> Result {
        Err(Errno::EINVAL)
    }
    /// `fallocate(2)`.
    fn allocate(&self, _mode: u32, _offset: u64, _len: u64) -> Result {
        Err(Errno::EOPNOTSUPP)
    }
    /// `fsync(2)`.
    fn sync(&self, _data_only: bool) -> Result {
        Ok(())
    }
    /// `syncfs(2)`: everything of the file system that it belongs to.
    fn sync_all(&self) -> Result {
        Ok(())
    }
    /// `lseek(2)` with `SEEK_DATA` or `SEEK_HOLE`: where the next data, or the next hole, begins. `ENXIO` behind the last one.
    fn next_extent(&self, offset: u64, data: bool) -> Result<u64> {
        let size = self.metadata()?.size;
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        Ok(if data { offset } else { size })
    }
    /// How its content is mapped; `shared` says that what is written to the mapping must become the file's content, so the file was opened for
    /// writing.
    fn map(&self, _shared: bool) -> Result<Mapped> {
        Err(Errno::ENODEV)
    }
    /// `getxattr(2)`.
    fn xattr(&self, _name: &[u8]) -> Result<Vec<u8>> {
        Err(Errno::ENODATA)
    }
    /// `setxattr(2)`; `None` removes it.
    fn set_xattr(&self, _name: &[u8], _value: Option<&[u8]>, _flags: u32) -> Result {
        Err(Errno::EOPNOTSUPP)
    }
    /// `listxattr(2)`.
    fn xattrs(&self) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
    /// `statfs(2)` of the file system it belongs to.
    fn statistics(&self) -> Result<FsStatistics> {
        Ok(FsStatistics::default())
    }
    /// Itself, for a file system that wants to know its own inodes again.
    fn as_any(&self) -> &dyn Any;
}

/// What `statfs(2)` tells.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "as in statfs(2)")]
pub struct FsStatistics {
    pub magic: u64,
    pub block_size: u64,
    pub blocks: u64,
    pub free: u64,
    pub files: u64,
    pub files_free: u64,
    pub flags: u64,
}
