//! The file system in memory: `tmpfs(5)`, and with a tree below it the root.
//!
//! A tree below is the read-only root image ([`lower`]). Its inodes become nodes here when they are looked up, under the numbers that they have there;
//! their content stays in the image until it is written, page by page, and folders are taken over entirely before they are changed, so that
//! whiteouts are not needed: what was taken away is not in the folder any more.

mod folder;
mod lower;
pub(super) mod memory;
mod node;
mod regular;

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use kiln_fs::erofs;

use super::{Inode, Kind, NewInode};
use crate::{Errno, Result};

pub use node::Node;
pub use regular::{SEAL_FUTURE_WRITE, SEAL_GROW, SEAL_SEAL, SEAL_SHRINK, SEAL_WRITE, seals};

/// Bytes of a page.
const PAGE: u64 = 4096;

/// `TMPFS_MAGIC`
const MAGIC: u64 = 0x0102_1994;

/// Inode numbers of what is made here, above all that an image can have.
const FIRST_OWN: u64 = 1 << 40;

/// A file system in memory.
pub struct Tmpfs {
    /// Its number in `st_dev`.
    device: u64,
    /// Pages that files may have.
    limit: u64,
    used: Cell<u64>,
    next_inode: Cell<u64>,
    nodes: Cell<u64>,
    below: Option<erofs::Image<'static>>,
    /// Nodes of the tree below that have been met, by their numbers.
    met: RefCell<BTreeMap<u64, Rc<Node>>>,
}

impl core::fmt::Debug for Tmpfs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Tmpfs({} of {} pages)", self.used.get(), self.limit)
    }
}

impl Tmpfs {
    fn with(limit: u64, below: Option<erofs::Image<'static>>) -> Rc<Self> {
        let device = super::new_device();
        Rc::new(Self {
            device,
            limit,
            used: Cell::new(0),
            next_inode: Cell::new(if below.is_some() { FIRST_OWN } else { 1 }),
            nodes: Cell::new(0),
            below,
            met: RefCell::default(),
        })
    }

    /// An empty file system for at most `limit` pages of content: its top folder.
    pub fn empty(limit: u64, mode: u32) -> Rc<dyn Inode> {
        let fs = Self::with(limit, None);
        fs.make(&NewInode {
            kind: Kind::Directory,
            mode,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: &[],
        })
    }

    /// A file system whose content at first is that of an image, with at most `limit` pages of changes.
    ///
    /// # Errors
    /// `EUCLEAN` for a damaged image.
    pub fn over(image: erofs::Image<'static>, limit: u64) -> Result<Rc<dyn Inode>> {
        let root = image.root().map_err(lower::damaged)?;
        let fs = Self::with(limit, Some(image));
        Ok(fs.meet(root.nid())?)
    }

    /// A file system for files that are in no folder.
    pub fn without_names(limit: u64) -> Rc<Self> {
        Self::with(limit, None)
    }

    /// A file that is in no folder (`memfd_create(2)`).
    pub fn memory_file(self: &Rc<Self>, uid: u32, gid: u32, seals: u32) -> Rc<dyn Inode> {
        let node = self.make(&NewInode {
            kind: Kind::Regular,
            mode: 0o777,
            uid,
            gid,
            rdev: 0,
            target: &[],
        });
        node.set_links(0);
        if let Some(regular) = node.regular() {
            regular.seals.set(seals);
        }
        node
    }

    fn make(self: &Rc<Self>, new: &NewInode) -> Rc<Node> {
        let number = self.next_inode.get();
        self.next_inode.set(number + 1);
        Node::new(self, number, new)
    }

    /// The node of an inode of the tree below.
    fn meet(self: &Rc<Self>, nid: u64) -> Result<Rc<Node>> {
        if let Some(node) = self.met.borrow().get(&nid) {
            return Ok(node.clone());
        }
        let image = self.below.ok_or(Errno::ENOENT)?;
        let node = Node::below(self, image.inode(nid).map_err(lower::damaged)?);
        self.met.borrow_mut().insert(nid, node.clone());
        Ok(node)
    }

    /// Takes pages for content.
    fn take(&self, pages: u64) -> Result {
        let used = self.used.get().saturating_add(pages);
        if used > self.limit {
            return Err(Errno::ENOSPC);
        }
        crate::shortage::content(pages.saturating_mul(PAGE), Errno::ENOSPC)?;
        self.used.set(used);
        Ok(())
    }

    fn give_back(&self, pages: u64) {
        self.used.set(self.used.get().saturating_sub(pages));
    }
}

/// Numbers of the inodes of the tree below `root` that somebody asked for by name.
pub fn met(root: &dyn Inode) -> alloc::vec::Vec<u64> {
    match root.as_any().downcast_ref::<Node>() {
        Some(node) => node.file_system().met.borrow().keys().copied().collect(),
        None => alloc::vec::Vec::new(),
    }
}
