//! A file or folder of the host.

use alloc::boxed::Box;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};

use kiln_ninep::directory::entries;
use kiln_ninep::{Attributes, Data, Reply, Request, Text, set};

use super::cache::Cache;
use super::client::Client;
use crate::fs::locks::Outside;
use crate::fs::{
    Attachment, Changes, Entry, File, FsStatistics, Inode, Kind, Mapped, Metadata, NewInode,
    OpenFlags, Time,
};
use crate::io::{Sink, Source};
use crate::process::Thread;
use crate::{Errno, Result};

/// Flags of `open(2)` on x86-64, as the server takes them.
const READ_WRITE: u32 = 0o2;
const CREATE_NEW: u32 = 0o300;
/// `AT_REMOVEDIR`
const REMOVE_FOLDER: u32 = 0x200;
const RENAME_NOREPLACE: u32 = 1;
const SECOND: u64 = 1_000_000_000;

/// An inode.
pub struct Node {
    pub(super) client: Rc<Client>,
    pub(super) fid: u32,
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
    /// The inode behind a fid, which is its own from now on: the one that is in use already, or a new one.
    pub fn of(client: &Rc<Client>, fid: u32) -> Result<Rc<Self>> {
        let told = client
            .attributes(fid)
            .and_then(|told| Ok((told, kind_of(told.mode)?)));
        let (attributes, kind) = match told {
            Ok(told) => told,
            Err(errno) => {
                client.clunk(fid);
                return Err(errno);
            }
        };
        let number = attributes.qid.path;
        let known = client.nodes.borrow().get(&number).cloned();
        // A number may be another file's by now.
        if let Some(known) = known.and_then(|known| known.upgrade())
            && known.kind == kind
        {
            client.clunk(fid);
            known.found.set(Some(attributes));
            return Ok(known);
        }
        let node = Rc::new_cyclic(|this| Self {
            client: client.clone(),
            fid,
            number,
            kind,
            found: Cell::new(Some(attributes)),
            reader: Cell::new(None),
            writer: Cell::new(None),
            locker: Cell::new(None),
            attachment: Attachment::default(),
            cache: RefCell::default(),
            this: this.clone(),
        });
        client
            .nodes
            .borrow_mut()
            .insert(number, Rc::downgrade(&node));
        Ok(node)
    }

    pub(super) fn attributes(&self) -> Result<Attributes> {
        match self.found.take() {
            Some(found) => Ok(found),
            None => self.client.attributes(self.fid),
        }
    }

    /// A fid that is open for reading.
    pub(super) fn reader(&self) -> Result<u32> {
        if let Some(open) = self.reader.get().or(self.writer.get()) {
            return Ok(open);
        }
        let open = self.opened(0)?;
        self.reader.set(Some(open));
        Ok(open)
    }

    /// A fid that is open for writing.
    pub(super) fn writer(&self) -> Result<u32> {
        if let Some(open) = self.writer.get() {
            return Ok(open);
        }
        let open = self.opened(READ_WRITE)?;
        self.writer.set(Some(open));
        Ok(open)
    }

    fn opened(&self, flags: u32) -> Result<u32> {
        let fid = self.client.walk(self.fid, None)?;
        let opened = self.client.tell(&Request::Open { fid, flags });
        if let Err(errno) = opened {
            self.client.clunk(fid);
            return Err(errno);
        }
        Ok(fid)
    }

    fn child(&self, name: &[u8]) -> Result<Rc<Self>> {
        Self::of(&self.client, self.client.walk(self.fid, Some(name))?)
    }

    /// The value of an extended attribute, or the names of all for an empty name.
    fn read_attribute(&self, name: &[u8]) -> Result<Vec<u8>> {
        const MOST: u64 = 65536;
        let (new, size) = self.client.walk_attribute(self.fid, name)?;
        let mut value = Vec::new();
        let mut outcome = if size > MOST {
            Err(Errno::E2BIG)
        } else {
            Ok(())
        };
        while outcome.is_ok() && (value.len() as u64) < size {
            let request = Request::Read {
                fid: new,
                offset: value.len() as u64,
                count: (size - value.len() as u64).min(self.client.room() as u64) as u32,
            };
            let read = self.client.ask(&request, |reply| match reply {
                Reply::Read { data } => Some(data.0.to_vec()),
                _ => None,
            });
            match read {
                Ok(piece) if piece.is_empty() => break,
                Ok(piece) => value.extend_from_slice(&piece),
                Err(errno) => outcome = Err(errno),
            }
        }
        self.client.clunk(new);
        outcome.map(|()| value)
    }

    /// Makes a regular file; gives a fid that is open for reading and writing, whatever the file's permissions say.
    fn make_file(&self, name: &[u8], new: &NewInode<'_>) -> Result<u32> {
        let fid = self.client.walk(self.fid, None)?;
        let made = self.client.tell(&Request::Create {
            fid,
            name: Text(name),
            flags: READ_WRITE | CREATE_NEW,
            mode: new.mode,
            gid: new.gid,
        });
        if let Err(errno) = made {
            self.client.clunk(fid);
            return Err(errno);
        }
        Ok(fid)
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
            Kind::Regular | Kind::Character | Kind::Block => Err(Errno::EPERM),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for fid in [self.reader.get(), self.writer.get(), Some(self.fid)]
            .into_iter()
            .flatten()
        {
            self.client.clunk(fid);
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

fn time(seconds: u64, nanos: u64) -> Time {
    seconds.saturating_mul(SECOND).saturating_add(nanos)
}

fn same(inode: &Rc<dyn Inode>) -> Result<&Node> {
    inode.as_any().downcast_ref().ok_or(Errno::EXDEV)
}

impl Inode for Node {
    fn metadata(&self) -> Result<Metadata> {
        let told = self.attributes()?;
        Ok(Metadata {
            device: self.client.number,
            inode: told.qid.path,
            kind: self.kind,
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
        })
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

    fn create(&self, name: &[u8], new: &NewInode) -> Result<Rc<dyn Inode>> {
        if self.kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        if new.kind != Kind::Regular {
            self.make(name, new)?;
            return Ok(self.child(name)?);
        }
        let open = self.make_file(name, new)?;
        let file = self.child(name).inspect_err(|_| self.client.clunk(open))?;
        // A file that is just made is nobody's yet; if it is, what is open may hold locks.
        if file.writer.get().is_some() {
            self.client.clunk(open);
        } else {
            file.writer.set(Some(open));
        }
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
            RENAME_NOREPLACE => match to.child(new_name) {
                Err(Errno::ENOENT) => {}
                Ok(_) => return Err(Errno::EEXIST),
                Err(errno) => return Err(errno),
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
            let count = self.client.room().min(16 << 10) as u32;
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
        const REPLACE: u32 = 2;
        // An attribute of no length is one that is removed: the protocol has no other way to say so.
        let (value, flags) = match value {
            Some(value) => (value, flags),
            None => (&[][..], REPLACE),
        };
        self.found.set(None);
        let fid = self.client.walk(self.fid, None)?;
        let create = Request::XattrCreate {
            fid,
            name: Text(name),
            size: value.len() as u64,
            flags,
        };
        let mut written = self.client.tell(&create);
        for (index, piece) in value.chunks(self.client.room()).enumerate() {
            written = written.and_then(|()| {
                self.client.tell(&Request::Write {
                    fid,
                    offset: (index * self.client.room()) as u64,
                    data: Data(piece),
                })
            });
        }
        // It is set when the fid is given back, so that is where the answer comes from.
        let set = self.client.give_back(fid);
        written.and(set)
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
