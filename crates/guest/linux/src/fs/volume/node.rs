//! A file or folder of the host.

use alloc::boxed::Box;
use alloc::rc::{Rc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};

use kiln_ninep::directory::entries;
use kiln_ninep::{Attributes, NO_FID, Reply, Request, Text, set};

use super::cache::Cache;
use super::client::Client;
use super::fids::{Found, READ_WRITE};
use crate::fs::locks::Outside;
use crate::fs::{
    Attachment, Changes, Entry, File, FsStatistics, Inode, Kind, Mapped, Metadata, NewInode,
    OpenFlags, Time,
};
use crate::io::{Sink, Source};
use crate::process::Thread;
use crate::{Errno, Result};

/// `AT_REMOVEDIR`
const REMOVE_FOLDER: u32 = 0x200;
const RENAME_NOREPLACE: u32 = 1;
const SECOND: u64 = 1_000_000_000;
/// Bytes of entries that are asked for at once: what goes into the buffer of the C library's `readdir(3)`.
const ENTRIES: usize = 32 << 10;

/// How a fid is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// For reading.
    Read,
    /// For reading and writing.
    Write,
}

/// An inode.
pub struct Node {
    pub(super) client: Rc<Client>,
    pub(super) fid: u32,
    /// That fid itself is open, or about to be.
    is_open: Cell<bool>,
    /// The number by which the server knows it.
    number: u64,
    kind: Kind,
    /// What was told when it was found, for whoever asks first.
    pub(super) found: Cell<Option<Attributes>>,
    /// Fids that are open for reading, and for reading and writing.
    reader: Cell<Option<u32>>,
    pub(super) writer: Cell<Option<u32>>,
    /// The one of them that has the locks.
    pub(super) locker: Cell<Option<u32>>,
    attachment: Attachment,
    /// Its pages, while it is mapped shared.
    pub(super) cache: RefCell<Weak<Cache>>,
    pub(super) this: Weak<Self>,
}

fn kind_of(mode: u32) -> Result<Kind> {
    const ALL: [Kind; 7] = [
        Kind::Fifo,
        Kind::Character,
        Kind::Directory,
        Kind::Block,
        Kind::Regular,
        Kind::Link,
        Kind::Socket,
    ];
    let found = ALL
        .into_iter()
        .find(|kind| *kind as u32 == mode & 0o170_000);
    found.ok_or(Errno::EIO)
}

impl Node {
    /// The inode behind a fid that was found, which is its own from now on: the one that is in use already, or a new one. If the fid is open,
    /// it is so in this way.
    pub fn of(client: &Rc<Client>, found: Found, way: Way) -> Result<Rc<Self>> {
        let Found {
            fid,
            attributes,
            open,
        } = found;
        let kind = match kind_of(attributes.mode) {
            Ok(kind) => kind,
            Err(errno) => {
                client.give_back_later([fid]);
                return Err(errno);
            }
        };
        let number = attributes.qid.path;
        let known = client.nodes.borrow().get(&number).cloned();
        // A number may be another file's by now.
        if let Some(known) = known.and_then(|known| known.upgrade())
            && known.kind == kind
        {
            if !open || !known.take_opened(fid, way) {
                client.give_back_later([fid]);
            }
            return Ok(known);
        }
        let node = Self::new(client, fid, number, kind, None);
        node.is_open.set(open);
        if open {
            node.take_opened(fid, way);
        }
        client
            .nodes
            .borrow_mut()
            .insert(number, Rc::downgrade(&node));
        Ok(node)
    }

    /// What was made here and is gone: nobody can do anything with it.
    fn lost(&self, new: &NewInode<'_>) -> Rc<Self> {
        let told = Attributes {
            mode: new.kind as u32 | new.mode,
            ..Attributes::default()
        };
        Self::new(&self.client, NO_FID, u64::MAX, new.kind, Some(told))
    }

    fn new(
        client: &Rc<Client>,
        fid: u32,
        number: u64,
        kind: Kind,
        found: Option<Attributes>,
    ) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            client: client.clone(),
            fid,
            is_open: Cell::new(false),
            number,
            kind,
            found: Cell::new(found),
            reader: Cell::new(None),
            writer: Cell::new(None),
            locker: Cell::new(None),
            attachment: Attachment::default(),
            cache: RefCell::default(),
            this: this.clone(),
        })
    }

    /// A fid that is open in this way is the one to be used, if there is none; else it is not taken, since locks may be held by the one there is.
    fn take_opened(&self, fid: u32, way: Way) -> bool {
        let place = match way {
            Way::Read => &self.reader,
            Way::Write => &self.writer,
        };
        if place.get().is_some() || way == Way::Read && self.writer.get().is_some() {
            return false;
        }
        place.set(Some(fid));
        true
    }

    pub(super) fn attributes(&self) -> Result<Attributes> {
        match self.found.take() {
            Some(found) => Ok(found),
            None => self.client.attributes(self.fid),
        }
    }

    /// A fid that is open for reading.
    pub(super) fn reader(&self) -> Result<u32> {
        match self.reader.get().or(self.writer.get()) {
            Some(open) => Ok(open),
            None => self.opened(Way::Read),
        }
    }

    /// A fid that is open for writing.
    pub(super) fn writer(&self) -> Result<u32> {
        match self.writer.get() {
            Some(open) => Ok(open),
            None => self.opened(Way::Write),
        }
    }

    fn opened(&self, way: Way) -> Result<u32> {
        let flags = match way {
            Way::Read => 0,
            Way::Write => READ_WRITE,
        };
        // Its own fid, unless that is open in another way; others may run meanwhile and want it too.
        let fid = if self.is_open.replace(true) {
            self.client.open(self.fid, flags)?
        } else {
            let fid = self.fid;
            let opened = self.client.tell(&Request::Open { fid, flags });
            opened.inspect_err(|_| self.is_open.set(false))?;
            fid
        };
        if self.take_opened(fid, way) {
            return Ok(fid);
        }
        // Somebody else was faster.
        if fid != self.fid {
            self.client.give_back_later([fid]);
        }
        let there = match way {
            Way::Read => self.reader.get().or(self.writer.get()),
            Way::Write => self.writer.get(),
        };
        there.ok_or(Errno::EIO)
    }

    /// What the names lead to, each in the one before, with what it is like. With `read` the last one is opened for reading.
    fn descend(&self, names: &[&[u8]], read: bool) -> Vec<Result<(Rc<Self>, Attributes)>> {
        let found = self.client.find(self.fid, names, read).into_iter();
        found
            .map(|one| {
                one.and_then(|one| {
                    let told = one.attributes;
                    Ok((Self::of(&self.client, one, Way::Read)?, told))
                })
            })
            .collect()
    }

    fn child(&self, name: &[u8]) -> Result<Rc<Self>> {
        let found = self.descend(&[name], false).pop();
        let (child, told) = found.unwrap_or(Err(Errno::EIO))?;
        child.found.set(Some(told));
        Ok(child)
    }

    fn make(&self, name: &[u8], new: &NewInode<'_>) -> Result {
        let (folder, name) = (self.fid, Text(name));
        let (mode, gid) = (new.mode, new.gid);
        match new.kind {
            Kind::Directory => self.client.tell(&Request::Mkdir {
                folder,
                name,
                mode,
                gid,
            }),
            Kind::Link => self.client.tell(&Request::Symlink {
                folder,
                name,
                target: Text(new.target),
                gid,
            }),
            Kind::Fifo | Kind::Socket => self.client.tell(&Request::Mknod {
                folder,
                name,
                mode: mode | new.kind as u32,
                major: 0,
                minor: 0,
                gid,
            }),
            Kind::Anonymous | Kind::Regular | Kind::Character | Kind::Block => Err(Errno::EPERM),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let writer = self.writer.get();
        let others = [
            self.reader.get().filter(|fid| *fid != self.fid),
            Some(self.fid).filter(|fid| *fid != NO_FID),
        ];
        let others = others.into_iter().flatten();
        self.client
            .give_back_later(others.filter(|fid| Some(*fid) != writer));
        if let Some(writer) = writer {
            // The host may execute the file now, or have others see what is in it.
            let _ = self.client.give_back(writer);
        } else if self.locker.get().is_some() {
            // Others may wait for what is left of its locks.
            self.client.give_back_now();
        }
        let mut nodes = self.client.nodes.borrow_mut();
        if nodes
            .get(&self.number)
            .is_some_and(|known| known.strong_count() == 0)
        {
            nodes.remove(&self.number);
        }
    }
}

fn metadata_of(told: &Attributes, device: u64, kind: Kind) -> Metadata {
    Metadata {
        device,
        inode: told.qid.path,
        kind,
        mode: told.mode & 0o7777,
        links: u32::try_from(told.links).unwrap_or(u32::MAX),
        uid: told.uid,
        gid: told.gid,
        rdev: told.device,
        size: told.size,
        blocks: told.blocks,
        block_size: 1 << 17,
        accessed: time(told.atime, told.atime_nanos),
        modified: time(told.mtime, told.mtime_nanos),
        changed: time(told.ctime, told.ctime_nanos),
        born: time(told.ctime, told.ctime_nanos),
    }
}

fn time(seconds: u64, nanos: u64) -> Time {
    seconds.saturating_mul(SECOND).saturating_add(nanos)
}

fn same(inode: &Rc<dyn Inode>) -> Result<&Node> {
    inode.as_any().downcast_ref().ok_or(Errno::EXDEV)
}

impl Inode for Node {
    fn metadata(&self) -> Result<Metadata> {
        let told = self.attributes()?;
        Ok(metadata_of(&told, self.client.number, self.kind))
    }

    fn change(&self, changes: Changes) -> Result {
        let mut valid = 0;
        let mut given = |value: Option<u32>, bit: u32| {
            valid |= value.map_or(0, |_| bit);
            value.unwrap_or(0)
        };
        let mode = given(changes.mode, set::MODE);
        let uid = given(changes.uid, set::UID);
        let gid = given(changes.gid, set::GID);
        let mut at = |value: Option<Time>, bits: u32| {
            valid |= value.map_or(0, |_| bits);
            let value = value.unwrap_or(0);
            (value / SECOND, value % SECOND)
        };
        let (atime, atime_nanos) = at(changes.accessed, set::ATIME | set::ATIME_SET);
        let (mtime, mtime_nanos) = at(changes.modified, set::MTIME | set::MTIME_SET);
        self.found.set(None);
        self.client.tell(&Request::SetAttr {
            fid: self.fid,
            valid,
            mode,
            uid,
            gid,
            size: 0,
            atime,
            atime_nanos,
            mtime,
            mtime_nanos,
        })
    }

    fn lookup(&self, name: &[u8]) -> Result<Rc<dyn Inode>> {
        if self.kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        Ok(self.child(name)?)
    }

    fn lookup_many(
        &self,
        names: &[&[u8]],
        read: bool,
    ) -> Option<Vec<Result<(Rc<dyn Inode>, Metadata)>>> {
        if self.kind != Kind::Directory {
            return Some(vec![Err(Errno::ENOTDIR)]);
        }
        let found = self.descend(names, read).into_iter();
        let told = found.map(|one| {
            one.map(|(node, told)| {
                let metadata = metadata_of(&told, self.client.number, node.kind);
                (node as Rc<dyn Inode>, metadata)
            })
        });
        Some(told.collect())
    }

    fn create(&self, name: &[u8], new: &NewInode) -> Result<Rc<dyn Inode>> {
        if self.kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        if new.kind != Kind::Regular {
            self.make(name, new)?;
            return match self.child(name) {
                Ok(made) => Ok(made),
                // Somebody has taken it away again, and it was made all the same.
                Err(Errno::ENOENT) => Ok(self.lost(new)),
                Err(errno) => Err(errno),
            };
        }
        let made = self.client.create(self.fid, name, new.mode, new.gid)?;
        let told = made.attributes;
        let file = Self::of(&self.client, made, Way::Write)?;
        file.found.set(Some(told));
        Ok(file)
    }

    fn link(&self, name: &[u8], to: &Rc<dyn Inode>) -> Result {
        let to = same(to)?;
        to.found.set(None);
        self.client.tell(&Request::Link {
            folder: self.fid,
            fid: to.fid,
            name: Text(name),
        })
    }

    fn unlink(&self, name: &[u8], folder: bool) -> Result {
        let flags = if folder { REMOVE_FOLDER } else { 0 };
        self.client.tell(&Request::UnlinkAt {
            folder: self.fid,
            name: Text(name),
            flags,
        })
    }

    fn rename(
        &self,
        name: &[u8],
        new_folder: &Rc<dyn Inode>,
        new_name: &[u8],
        flags: u32,
    ) -> Result {
        let to = same(new_folder)?;
        if !Rc::ptr_eq(&self.client, &to.client) {
            return Err(Errno::EXDEV);
        }
        match flags {
            0 => {}
            RENAME_NOREPLACE => match to.descend(&[new_name], false).pop() {
                Some(Err(Errno::ENOENT)) => {}
                Some(Err(errno)) => return Err(errno),
                Some(Ok(_)) | None => return Err(Errno::EEXIST),
            },
            _ => return Err(Errno::EINVAL),
        }
        self.client.tell(&Request::RenameAt {
            from: self.fid,
            old: Text(name),
            to: to.fid,
            new: Text(new_name),
        })
    }

    fn read_link(&self, _thread: &Rc<Thread>) -> Result<Vec<u8>> {
        let request = Request::Readlink { fid: self.fid };
        self.client.ask(&request, |reply| match reply {
            Reply::Readlink { target } => Some(target.0.to_vec()),
            _ => None,
        })
    }

    fn attachment(&self) -> Option<&Attachment> {
        Some(&self.attachment)
    }

    fn entries(&self, from: u64, each: &mut dyn FnMut(&Entry) -> bool) -> Result {
        if self.kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let fid = self.reader()?;
        let mut offset = from;
        loop {
            let count = self.client.room().min(ENTRIES) as u32;
            // Copied, since `each` may ask the server too.
            let request = Request::Readdir { fid, offset, count };
            let data = self.client.ask(&request, |reply| match reply {
                Reply::Readdir { data } => Some(Box::<[u8]>::from(data.0)),
                _ => None,
            })?;
            if data.is_empty() {
                return Ok(());
            }
            let before = offset;
            for entry in entries(&data) {
                if entry.is_end() {
                    return Ok(());
                }
                offset = entry.next;
                let kind = kind_of(u32::from(entry.kind) << 12).unwrap_or(Kind::Regular);
                let entry = Entry {
                    name: entry.name.0,
                    inode: entry.qid.path,
                    kind,
                    next: entry.next,
                };
                if !each(&entry) {
                    return Ok(());
                }
            }
            // A server that does not get on would keep the machine for ever.
            if offset == before {
                return Err(Errno::EIO);
            }
        }
    }

    /// Asks the host now whether it lets the file be opened so, and not at the first read or write.
    fn open(&self, _thread: &Rc<Thread>, flags: OpenFlags) -> Result<Option<Rc<dyn File>>> {
        if matches!(self.kind, Kind::Regular | Kind::Directory) {
            if flags.writable() {
                self.writer()?;
            } else {
                self.reader()?;
            }
        }
        Ok(None)
    }

    fn identity(&self) -> Result<(u64, u64)> {
        Ok((self.client.number, self.number))
    }

    fn read_at(&self, offset: u64, to: &mut Sink) -> Result<usize> {
        self.read_content(offset, to)
    }

    fn write_at(&self, offset: u64, from: &mut Source) -> Result<usize> {
        self.write_content(offset, from)
    }

    fn append(&self, from: &mut Source) -> Result<(usize, u64)> {
        self.append_content(from)
    }

    fn resize(&self, size: u64) -> Result {
        self.resize_content(size)
    }

    fn sync(&self, data_only: bool) -> Result {
        self.save()?;
        self.client.tell(&Request::Fsync {
            fid: self.reader()?,
            data_only: data_only.into(),
        })
    }

    fn sync_all(&self) -> Result {
        let all: Vec<_> = self.client.nodes.borrow().values().cloned().collect();
        let mut saved = Ok(());
        for node in all.iter().filter_map(Weak::upgrade) {
            saved = saved.and(node.save());
        }
        let synced = self.client.tell(&Request::Fsync {
            fid: self.reader()?,
            data_only: kiln_ninep::WHOLE,
        });
        saved.and(synced)
    }

    fn map(&self, shared: bool) -> Result<Mapped> {
        if shared {
            Ok(Mapped::Pages(self.pages()?))
        } else {
            Ok(Mapped::Copy)
        }
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result {
        // The protocol has nothing for it: what can be done is to make the file long enough.
        if mode != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        if end > self.metadata()?.size {
            return self.resize(end);
        }
        Ok(())
    }

    fn outside(&self) -> Option<&dyn Outside> {
        (self.kind == Kind::Regular || self.kind == Kind::Directory).then_some(self)
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.read_attribute(name)
    }

    fn set_xattr(&self, name: &[u8], value: Option<&[u8]>, flags: u32) -> Result {
        self.write_attribute(name, value, flags)
    }

    fn xattrs(&self) -> Result<Vec<Vec<u8>>> {
        let list = self.read_attribute(b"")?;
        let names = list.split(|&b| b == 0).filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    fn statistics(&self) -> Result<FsStatistics> {
        const V9FS_MAGIC: u64 = 0x0102_1997;
        let request = Request::StatFs { fid: self.fid };
        let told = self.client.ask(&request, |reply| match reply {
            Reply::StatFs { statistics } => Some(*statistics),
            _ => None,
        })?;
        Ok(FsStatistics {
            magic: V9FS_MAGIC,
            block_size: told.block_size.into(),
            blocks: told.blocks,
            free: told.available,
            files: told.files,
            files_free: told.files_free,
            flags: 0,
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
