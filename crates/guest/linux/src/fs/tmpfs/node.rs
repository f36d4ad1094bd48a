//! Inodes of the file system in memory.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};

use kiln_fs::erofs;

use super::folder::{Folder, Target};
use super::regular::{Regular, SEAL_FUTURE_WRITE, SEAL_WRITE};
use super::{MAGIC, PAGE, Tmpfs, lower};
use crate::fs::{
    Attachment, Changes, Entry, FsStatistics, Inode, Kind, Mapped, Metadata, NewInode, Pages, Run,
};
use crate::io::{Sink, Source};
use crate::platform;
use crate::process::Thread;
use crate::{Errno, Result, shortage};

/// `RENAME_NOREPLACE`
const NOREPLACE: u32 = 1;
/// `RENAME_EXCHANGE`
const EXCHANGE: u32 = 2;
/// `RENAME_WHITEOUT`
const WHITEOUT: u32 = 4;
/// Bytes that an extended attribute may have (`XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 65536;
/// Bytes of all attributes of an inode, names included.
const XATTRS_MAX: usize = 1 << 18;

enum Body {
    Regular(Regular),
    Folder(Folder),
    Link(Box<[u8]>),
    Other,
}

/// Extended attributes by name.
type Attributes = BTreeMap<Box<[u8]>, Vec<u8>>;

/// An inode.
pub struct Node {
    fs: Rc<Tmpfs>,
    this: Weak<Node>,
    facts: Cell<Metadata>,
    body: Body,
    /// Extended attributes; those of the tree below until they are changed.
    attributes: RefCell<Option<Attributes>>,
    below: Option<erofs::Inode<'static>>,
    attachment: Attachment,
}

impl Node {
    /// The file system that it belongs to.
    pub(super) fn file_system(&self) -> &Rc<Tmpfs> {
        &self.fs
    }

    pub(super) fn new(fs: &Rc<Tmpfs>, number: u64, new: &NewInode) -> Rc<Self> {
        let now = platform::wall();
        let body = match new.kind {
            Kind::Regular => Body::Regular(Regular::empty()),
            Kind::Directory => Body::Folder(Folder::new(None)),
            Kind::Link => Body::Link(new.target.into()),
            _ => Body::Other,
        };
        let facts = Metadata {
            device: fs.device,
            inode: number,
            kind: new.kind,
            mode: if new.kind == Kind::Link {
                0o777
            } else {
                new.mode & 0o7777
            },
            links: if new.kind == Kind::Directory { 2 } else { 1 },
            uid: new.uid,
            gid: new.gid,
            rdev: new.rdev,
            size: new.target.len() as u64,
            block_size: PAGE as u32,
            accessed: now,
            modified: now,
            changed: now,
            born: now,
            ..Metadata::default()
        };
        Self::with(fs, facts, body, None)
    }

    pub(super) fn below(fs: &Rc<Tmpfs>, inode: erofs::Inode<'static>) -> Rc<Self> {
        let kind = lower::kind(inode.kind());
        let body = match kind {
            Kind::Regular => Body::Regular(Regular::over(inode)),
            Kind::Directory => Body::Folder(Folder::new(Some(inode))),
            Kind::Link => {
                let mut target = Vec::new();
                loop {
                    let piece = inode.content(target.len() as u64);
                    if piece.is_empty() || target.len() > PAGE as usize {
                        break;
                    }
                    target.extend_from_slice(piece);
                }
                Body::Link(target.into())
            }
            _ => Body::Other,
        };
        let time = lower::time(inode.modified());
        let (major, minor) = inode.device();
        let facts = Metadata {
            device: fs.device,
            inode: inode.nid(),
            kind,
            mode: u32::from(inode.mode()),
            links: inode.links(),
            uid: inode.uid(),
            gid: inode.gid(),
            rdev: crate::fs::device_number(major, minor),
            size: inode.size(),
            block_size: PAGE as u32,
            accessed: time,
            modified: time,
            changed: time,
            born: time,
            ..Metadata::default()
        };
        Self::with(fs, facts, body, Some(inode))
    }

    fn with(
        fs: &Rc<Tmpfs>,
        facts: Metadata,
        body: Body,
        below: Option<erofs::Inode<'static>>,
    ) -> Rc<Self> {
        fs.nodes.set(fs.nodes.get() + 1);
        Rc::new_cyclic(|this| Self {
            fs: fs.clone(),
            this: this.clone(),
            facts: Cell::new(facts),
            body,
            attributes: RefCell::new(below.is_none().then(BTreeMap::new)),
            below,
            attachment: RefCell::default(),
        })
    }

    pub(super) fn number(&self) -> u64 {
        self.facts.get().inode
    }

    pub(super) fn kind(&self) -> Kind {
        self.facts.get().kind
    }

    pub(super) fn regular(&self) -> Option<&Regular> {
        match &self.body {
            Body::Regular(regular) => Some(regular),
            _ => None,
        }
    }

    fn folder(&self) -> Result<&Folder> {
        match &self.body {
            Body::Folder(folder) => Ok(folder),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn file(&self) -> Result<&Regular> {
        match &self.body {
            Body::Regular(regular) => Ok(regular),
            Body::Folder(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    fn update(&self, change: impl FnOnce(&mut Metadata, u64)) {
        let mut facts = self.facts.get();
        change(&mut facts, platform::wall());
        self.facts.set(facts);
    }

    /// Content or names have changed.
    fn touched(&self) {
        self.update(|facts, now| (facts.modified, facts.changed) = (now, now));
    }

    fn relink(&self, by: i32) {
        self.update(|facts, now| {
            facts.links = facts.links.saturating_add_signed(by);
            facts.changed = now;
        });
        if self.facts.get().links == 0 && self.below.is_some() {
            // It will not be met again.
            let known = self.fs.met.borrow_mut().remove(&self.number());
            drop(known);
        }
    }

    pub(super) fn set_links(&self, links: u32) {
        self.update(|facts, _| facts.links = links);
    }

    /// Its pages, as mappings have them.
    pub(super) fn pages(&self) -> Option<Rc<dyn Pages>> {
        Some(self.this.upgrade()?)
    }

    /// One of this file system's own inodes.
    fn own(&self, inode: &Rc<dyn Inode>) -> Result<Rc<Node>> {
        let node = inode.as_any().downcast_ref::<Node>().ok_or(Errno::EXDEV)?;
        if !Rc::ptr_eq(&node.fs, &self.fs) {
            return Err(Errno::EXDEV);
        }
        node.this.upgrade().ok_or(Errno::ENOENT)
    }

    /// Folders that were taken away do not get names any more.
    fn alive(&self) -> Result {
        if self.facts.get().links == 0 {
            return Err(Errno::ENOENT);
        }
        Ok(())
    }

    /// Takes the name `name` from `victim`, which may be taken away.
    fn forget(&self, folder: &Folder, name: &[u8], victim: &Node) {
        folder.remove(name);
        self.released(victim);
    }

    /// A name of `victim` in this folder is no more.
    fn released(&self, victim: &Node) {
        if victim.kind() == Kind::Directory {
            victim.relink(-2);
            self.relink(-1);
        } else {
            victim.relink(-1);
        }
        self.touched();
    }

    fn with_attributes<R>(
        &self,
        work: impl FnOnce(&mut BTreeMap<Box<[u8]>, Vec<u8>>) -> R,
    ) -> Result<R> {
        let mut attributes = self.attributes.borrow_mut();
        if let Some(own) = &mut *attributes {
            return Ok(work(own));
        }
        let mut own = BTreeMap::new();
        if let Some(below) = &self.below {
            for attribute in below.attributes().map_err(lower::damaged)? {
                let attribute = attribute.map_err(lower::damaged)?;
                own.insert(attribute.name().into(), attribute.value.to_vec());
            }
        }
        Ok(work(attributes.insert(own)))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.fs.nodes.set(self.fs.nodes.get().saturating_sub(1));
        if let Body::Regular(regular) = &self.body {
            regular.clear(&self.fs);
        }
    }
}

impl Inode for Node {
    fn metadata(&self) -> Result<Metadata> {
        let mut facts = self.facts.get();
        if let Body::Regular(regular) = &self.body {
            facts.size = regular.size.get();
            facts.blocks = regular.blocks();
        }
        Ok(facts)
    }

    fn change(&self, changes: Changes) -> Result {
        self.update(|facts, now| {
            facts.mode = changes.mode.map_or(facts.mode, |mode| mode & 0o7777);
            facts.uid = changes.uid.unwrap_or(facts.uid);
            facts.gid = changes.gid.unwrap_or(facts.gid);
            facts.accessed = changes.accessed.unwrap_or(facts.accessed);
            facts.modified = changes.modified.unwrap_or(facts.modified);
            facts.changed = now;
        });
        Ok(())
    }

    fn lookup(&self, name: &[u8]) -> Result<Rc<dyn Inode>> {
        let node = self.folder()?.find(&self.fs, name)?;
        Ok(node)
    }

    fn create(&self, name: &[u8], new: &NewInode) -> Result<Rc<dyn Inode>> {
        let folder = self.folder()?;
        self.alive()?;
        shortage::content(0, Errno::ENOSPC)?;
        folder.own()?;
        match folder.find(&self.fs, name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        let node = self.fs.make(new);
        folder.insert(name, Target::Node(node.clone()));
        if new.kind == Kind::Directory {
            self.relink(1);
        }
        self.touched();
        Ok(node)
    }

    fn unnamed(&self, new: &NewInode) -> Result<Rc<dyn Inode>> {
        self.folder()?;
        shortage::content(0, Errno::ENOSPC)?;
        let node = self.fs.make(new);
        node.set_links(0);
        Ok(node)
    }

    fn link(&self, name: &[u8], to: &Rc<dyn Inode>) -> Result {
        let folder = self.folder()?;
        shortage::content(0, Errno::ENOSPC)?;
        let node = self.own(to)?;
        if node.kind() == Kind::Directory {
            return Err(Errno::EPERM);
        }
        self.alive()?;
        folder.own()?;
        match folder.find(&self.fs, name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        node.relink(1);
        folder.insert(name, Target::Node(node));
        self.touched();
        Ok(())
    }

    fn unlink(&self, name: &[u8], is_folder: bool) -> Result {
        let folder = self.folder()?;
        folder.own()?;
        let victim = folder.find(&self.fs, name)?;
        match &victim.body {
            Body::Folder(_) if !is_folder => return Err(Errno::EISDIR),
            Body::Folder(content) if !content.is_empty()? => return Err(Errno::ENOTEMPTY),
            Body::Folder(_) => {}
            _ if is_folder => return Err(Errno::ENOTDIR),
            _ => {}
        }
        self.forget(folder, name, &victim);
        Ok(())
    }

    fn rename(
        &self,
        name: &[u8],
        new_folder: &Rc<dyn Inode>,
        new_name: &[u8],
        flags: u32,
    ) -> Result {
        let from = self.folder()?;
        let other = self.own(new_folder)?;
        let to = other.folder()?;
        other.alive()?;
        from.own()?;
        to.own()?;
        let node = from.find(&self.fs, name)?;
        let victim = match to.find(&self.fs, new_name) {
            Ok(victim) => Some(victim),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error),
        };
        let is_folder = node.kind() == Kind::Directory;
        if flags & EXCHANGE != 0 {
            let victim = victim.ok_or(Errno::ENOENT)?;
            let other_is_folder = victim.kind() == Kind::Directory;
            from.replace(name, Target::Node(victim));
            to.replace(new_name, Target::Node(node));
            if is_folder != other_is_folder {
                let by = if is_folder { 1 } else { -1 };
                self.relink(-by);
                other.relink(by);
            }
            self.touched();
            other.touched();
            return Ok(());
        }
        if let Some(victim) = &victim {
            if flags & NOREPLACE != 0 {
                return Err(Errno::EEXIST);
            }
            if Rc::ptr_eq(victim, &node) {
                return Ok(());
            }
            match &victim.body {
                Body::Folder(_) if !is_folder => return Err(Errno::EISDIR),
                Body::Folder(content) if !content.is_empty()? => return Err(Errno::ENOTEMPTY),
                Body::Folder(_) => {}
                _ if is_folder => return Err(Errno::ENOTDIR),
                _ => {}
            }
            other.forget(to, new_name, victim);
        }
        from.remove(name);
        to.insert(new_name, Target::Node(node.clone()));
        if flags & WHITEOUT != 0 {
            let whiteout = self.fs.make(&NewInode {
                kind: Kind::Character,
                mode: 0,
                uid: 0,
                gid: 0,
                rdev: 0,
                target: &[],
            });
            from.insert(name, Target::Node(whiteout));
        }
        if is_folder {
            self.relink(-1);
            other.relink(1);
        }
        node.update(|facts, now| facts.changed = now);
        self.touched();
        other.touched();
        Ok(())
    }

    fn read_link(&self, _thread: &Rc<Thread>) -> Result<Vec<u8>> {
        match &self.body {
            Body::Link(target) => Ok(target.to_vec()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn steady(&self) -> bool {
        true
    }

    fn attachment(&self) -> Option<&Attachment> {
        Some(&self.attachment)
    }

    fn entries(&self, from: u64, each: &mut dyn FnMut(&Entry) -> bool) -> Result {
        self.folder()?.entries(from, each)
    }

    fn read_at(&self, offset: u64, to: &mut Sink) -> Result<usize> {
        self.file()?.read(offset, to)
    }

    fn write_at(&self, offset: u64, from: &mut Source) -> Result<usize> {
        const SET_USER: u32 = 0o4000;
        const SET_GROUP: u32 = 0o2000;
        let written = self.file()?.write(&self.fs, offset, from)?;
        self.update(|facts, now| {
            (facts.modified, facts.changed) = (now, now);
            if from.keeps_ids() {
                return;
            }
            facts.mode &= !SET_USER;
            if facts.mode & 0o10 != 0 {
                facts.mode &= !SET_GROUP;
            }
        });
        Ok(written)
    }

    fn resize(&self, size: u64) -> Result {
        if self.metadata()?.size > size
            && let Some(pages) = self.this.upgrade()
        {
            // Who has mapped what goes gets SIGBUS from now on.
            let pages: Rc<dyn Pages> = pages;
            crate::mm::content_gone(&pages, size.div_ceil(PAGE), u64::MAX);
        }
        self.file()?.resize(&self.fs, size)?;
        self.touched();
        Ok(())
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result {
        let regular = self.regular().ok_or(Errno::ENODEV)?;
        regular.allocate(&self.fs, mode, offset, len)?;
        self.touched();
        Ok(())
    }

    fn next_extent(&self, offset: u64, data: bool) -> Result<u64> {
        self.file()?.next_extent(offset, data)
    }

    fn map(&self, shared: bool) -> Result<Mapped> {
        let regular = self.regular().ok_or(Errno::ENODEV)?;
        match regular.in_image() {
            Some(offset) if !shared => Ok(Mapped::Image(offset)),
            _ => Ok(Mapped::Pages(self.this.upgrade().ok_or(Errno::ENOENT)?)),
        }
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.with_attributes(|all| all.get(name).cloned())?
            .ok_or(Errno::ENODATA)
    }

    fn set_xattr(&self, name: &[u8], value: Option<&[u8]>, flags: u32) -> Result {
        const CREATE: u32 = 1;
        const REPLACE: u32 = 2;
        self.with_attributes(|all| {
            let there = all.contains_key(name);
            let Some(value) = value else {
                return all.remove(name).map(|_| ()).ok_or(Errno::ENODATA);
            };
            if flags & CREATE != 0 && there {
                return Err(Errno::EEXIST);
            }
            if flags & REPLACE != 0 && !there {
                return Err(Errno::ENODATA);
            }
            shortage::content(value.len() as u64, Errno::ENOSPC)?;
            let used: usize = all
                .iter()
                .map(|(name, value)| name.len() + value.len())
                .sum();
            if value.len() > XATTR_MAX || used + name.len() + value.len() > XATTRS_MAX {
                return Err(Errno::ENOSPC);
            }
            all.insert(name.into(), value.to_vec());
            Ok(())
        })??;
        self.update(|facts, now| facts.changed = now);
        Ok(())
    }

    fn xattrs(&self) -> Result<Vec<Vec<u8>>> {
        self.with_attributes(|all| all.keys().map(|name| name.to_vec()).collect())
    }

    fn statistics(&self) -> Result<FsStatistics> {
        let free = self.fs.limit.saturating_sub(self.fs.used.get());
        Ok(FsStatistics {
            magic: MAGIC,
            block_size: PAGE,
            blocks: self.fs.limit,
            free,
            files: self.fs.limit,
            files_free: self.fs.limit.saturating_sub(self.fs.nodes.get()),
            flags: 0,
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Pages for Node {
    fn run(&self, first: u64, count: u64) -> Result<Run> {
        self.file()?.run(&self.fs, first, count)
    }

    fn are_sealed(&self) -> bool {
        self.regular()
            .is_some_and(|regular| regular.seals.get() & (SEAL_WRITE | SEAL_FUTURE_WRITE) != 0)
    }
}
