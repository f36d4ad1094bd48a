//! Names in the tree of all mounted file systems.
//!
//! A [`Place`] is a name together with the inode it leads to. It stays right when folders above it are renamed: each name is a
//! [`Dentry`], which knows its parent. The names of steady folders are kept, so that a path that was walked once is found without asking
//! the file system again.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::{Inode, Kind, Metadata, Time};
use crate::process::Thread;
use crate::{Errno, Result};

/// A mounted file system.
pub struct Mount {
    /// Its number in `/proc/self/mountinfo`.
    pub id: u32,
    /// What kind: `tmpfs`.
    pub kind: Box<str>,
    /// What it was mounted from.
    pub source: Box<[u8]>,
    /// Options, as `/proc/mounts` shows them behind `rw` or `ro`.
    pub options: RefCell<String>,
    /// Nothing may be changed.
    pub read_only: Cell<bool>,
    /// Flags as `statfs(2)` tells them (`ST_NOSUID`, `ST_NODEV`, `ST_NOEXEC`).
    pub flags: Cell<u64>,
    /// The name that its root covers; `None` for the root of all.
    pub(super) at: RefCell<Option<Rc<Dentry>>>,
    /// When it was mounted.
    pub since: Time,
}

impl Mount {
    /// The path from the root where it is mounted.
    pub fn path(&self) -> Vec<u8> {
        match &*self.at.borrow() {
            Some(at) => at.path(None),
            None => b"/".to_vec(),
        }
    }
}

impl core::fmt::Debug for Mount {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Mount({}, {})", self.id, self.kind)
    }
}

/// A name in a folder.
pub struct Dentry {
    pub(super) inode: Rc<dyn Inode>,
    pub(super) kind: Kind,
    pub(super) mount: Rc<Mount>,
    /// The folder; `None` for the root of a file system, and for what has no name.
    pub(super) parent: RefCell<Option<Rc<Dentry>>>,
    pub(super) name: RefCell<Box<[u8]>>,
    /// Names in it that are known.
    pub(super) children: RefCell<BTreeMap<Box<[u8]>, Rc<Dentry>>>,
    /// The root of the file system that is mounted on it.
    pub(super) covered: RefCell<Option<Rc<Dentry>>>,
    /// The name was taken away.
    pub(super) gone: Cell<bool>,
    /// The same, and those who watch the inode are to be told when nobody uses the name any more.
    pub(super) deleted: Cell<bool>,
    /// It stands for a file without a name that may get one (`O_TMPFILE`).
    pub(super) nameable: Cell<bool>,
    /// What was told when the name was found, if it may be something else later ([`Inode::steady`]): only for the call that has found it.
    told: Cell<Option<Metadata>>,
}

impl Dentry {
    pub(super) fn new(
        inode: Rc<dyn Inode>,
        mount: Rc<Mount>,
        parent: Option<Rc<Dentry>>,
        name: &[u8],
    ) -> Result<Rc<Self>> {
        let told = inode.metadata()?;
        Ok(Self::described(inode, told, mount, parent, name))
    }

    /// With what was told of the inode right now.
    fn described(
        inode: Rc<dyn Inode>,
        told: Metadata,
        mount: Rc<Mount>,
        parent: Option<Rc<Dentry>>,
        name: &[u8],
    ) -> Rc<Self> {
        let passes = parent.as_ref().is_some_and(|in_| !in_.inode.steady());
        Rc::new(Self {
            inode,
            kind: told.kind,
            told: Cell::new(passes.then_some(told)),
            mount,
            parent: RefCell::new(parent),
            name: RefCell::new(name.into()),
            children: RefCell::default(),
            covered: RefCell::default(),
            gone: Cell::new(false),
            deleted: Cell::new(false),
            nameable: Cell::new(false),
        })
    }

    /// What the inode is like, as far as the call is concerned that has just found this name.
    pub(super) fn metadata(&self) -> Result<Metadata> {
        self.told.get().map_or_else(|| self.inode.metadata(), Ok)
    }

    /// What was told is told to another call than the one that comes now.
    pub(super) fn ask_again(&self) {
        self.told.set(None);
    }

    /// A name in this folder, just found, and what the inode is like. For folders whose names are not kept.
    pub(super) fn found(self: &Rc<Self>, one: (Rc<dyn Inode>, Metadata), name: &[u8]) -> Rc<Self> {
        Self::described(one.0, one.1, self.mount.clone(), Some(self.clone()), name)
    }

    /// The name in this folder, looked up if it is not known.
    pub(super) fn child(self: &Rc<Self>, name: &[u8]) -> Result<Rc<Dentry>> {
        if let Some(known) = self.children.borrow().get(name) {
            return Ok(known.clone());
        }
        if self.gone.get() {
            return Err(Errno::ENOENT);
        }
        let inode = self.inode.lookup(name)?;
        self.adopt(inode, name)
    }

    /// A name in this folder for an inode that is known to be there.
    pub(super) fn adopt(self: &Rc<Self>, inode: Rc<dyn Inode>, name: &[u8]) -> Result<Rc<Dentry>> {
        let child = Self::new(inode, self.mount.clone(), Some(self.clone()), name)?;
        if self.inode.steady() {
            self.children
                .borrow_mut()
                .insert(name.into(), child.clone());
        }
        Ok(child)
    }

    /// The name was taken away.
    pub(super) fn forget(self: &Rc<Self>, name: &[u8], child: Option<&Rc<Dentry>>) {
        let known = self.children.borrow_mut().remove(name);
        for child in known.iter().chain(child) {
            child.gone.set(true);
        }
    }

    /// The child has another name now, in `folder`.
    pub(super) fn moved(self: &Rc<Self>, child: &Rc<Dentry>, folder: &Rc<Dentry>, name: &[u8]) {
        let old = child.name.borrow().clone();
        let known = self.children.borrow_mut().remove(&old);
        *child.name.borrow_mut() = name.into();
        let above = child.parent.borrow_mut().replace(folder.clone());
        if folder.inode.steady() || child.leads_to_mounts() {
            let replaced = folder
                .children
                .borrow_mut()
                .insert(name.into(), child.clone());
            drop(replaced);
        }
        drop((known, above));
    }

    /// In a folder whose names are not kept: whether this one is, for a file system is mounted here or below.
    pub(super) fn leads_to_mounts(&self) -> bool {
        self.covered.borrow().is_some() || !self.children.borrow().is_empty()
    }

    /// True if this is `other` or lies below it.
    pub(super) fn is_below(self: &Rc<Self>, other: &Rc<Dentry>) -> bool {
        let mut here = Some(self.clone());
        while let Some(dentry) = here {
            if Rc::ptr_eq(&dentry, other) {
                return true;
            }
            here = dentry.above();
        }
        false
    }

    /// The folder it is in, over the borders of file systems; `None` at the root of all.
    pub(super) fn above(self: &Rc<Self>) -> Option<Rc<Dentry>> {
        let mut here = self.clone();
        loop {
            let parent = here.parent.borrow().clone();
            if parent.is_some() {
                return parent;
            }
            let at = here.mount.at.borrow().clone()?;
            here = at;
        }
    }

    /// What is seen at this name: itself, or the root of what is mounted there.
    pub(super) fn top(self: &Rc<Self>) -> Rc<Dentry> {
        let mut here = self.clone();
        loop {
            let covered = here.covered.borrow().clone();
            match covered {
                Some(root) => here = root,
                None => return here,
            }
        }
    }

    /// The path from `root`, or from the root of all. What does not lie below `root` is shown from the root of all.
    pub(super) fn path(self: &Rc<Self>, root: Option<&Rc<Dentry>>) -> Vec<u8> {
        let mut parts: Vec<Box<[u8]>> = Vec::new();
        let mut here = self.clone();
        let mut len = 0;
        while !root.is_some_and(|root| Rc::ptr_eq(root, &here)) {
            let name = {
                // The name of a file system's root is that of the place it covers.
                let mut named = here.clone();
                while named.parent.borrow().is_none() {
                    let at = named.mount.at.borrow().clone();
                    match at {
                        Some(at) => named = at,
                        None => break,
                    }
                }
                named.name.borrow().clone()
            };
            let Some(above) = here.above() else {
                if !name.is_empty() {
                    // Something without a place in the tree, like a pipe.
                    return name.into_vec();
                }
                break;
            };
            len += name.len() + 1;
            parts.push(name);
            here = above;
        }
        let mut path = Vec::with_capacity(len + 10);
        for part in parts.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(part);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        path
    }
}

impl Drop for Dentry {
    /// Takes long chains of folders apart one by one, not by recursion.
    fn drop(&mut self) {
        if self.deleted.get() {
            super::watch::tell_unused(&self.inode);
        }
        let mut next = self.parent.get_mut().take();
        while let Some(parent) = next {
            next = match Rc::try_unwrap(parent) {
                Ok(mut parent) => parent.parent.get_mut().take(),
                Err(_) => None,
            };
        }
    }
}

/// A name and the inode it leads to.
#[derive(Clone)]
pub struct Place {
    /// The inode.
    pub inode: Rc<dyn Inode>,
    pub(super) dentry: Rc<Dentry>,
}

impl Place {
    pub(super) fn of(dentry: Rc<Dentry>) -> Self {
        Self {
            inode: dentry.inode.clone(),
            dentry,
        }
    }

    /// The path from the root of all file systems.
    pub fn path(&self) -> Vec<u8> {
        self.dentry.path(None)
    }

    /// The path as a thread sees it, from its own root, with ` (deleted)` behind it if the name is gone: what the links in `/proc/self/fd` show.
    pub fn seen_by(&self, thread: &Rc<Thread>) -> Vec<u8> {
        let root = thread.process.fs.root.borrow().clone();
        let mut path = self.dentry.path(root.as_ref().map(|root| &root.dentry));
        if self.is_deleted() {
            path.extend_from_slice(b" (deleted)");
        }
        path
    }

    /// What the inode is like, for the call that has just found this place.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn metadata(&self) -> Result<Metadata> {
        self.dentry.metadata()
    }

    /// True if the name was taken away since.
    pub fn is_deleted(&self) -> bool {
        self.dentry.gone.get()
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.dentry.kind
    }

    /// True if it is the top folder of a file system.
    pub fn is_mount_root(&self) -> bool {
        self.dentry.parent.borrow().is_none() && self.dentry.mount.id != 0
    }

    /// Number of the folder it is in, its own at the root.
    ///
    /// # Errors
    /// Those of the folder's metadata.
    pub fn above_inode(&self) -> Result<u64> {
        let above = self.dentry.above();
        let inode = above.map_or_else(|| self.inode.clone(), |above| above.inode.clone());
        Ok(inode.identity()?.1)
    }

    /// The file system it belongs to.
    pub fn mount(&self) -> &Rc<Mount> {
        &self.dentry.mount
    }

    /// True if both are the same name.
    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.dentry, &other.dentry)
    }
}

impl core::fmt::Debug for Place {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Place({})", String::from_utf8_lossy(&self.path()))
    }
}
