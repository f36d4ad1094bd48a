//! Folders: names, in the order in which they came.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use kiln_fs::erofs;

use super::{Node, Tmpfs, lower};
use crate::fs::{Entry, Kind};
use crate::{Errno, Result};

/// What a name leads to.
#[derive(Clone)]
pub(super) enum Target {
    Node(Rc<Node>),
    /// An inode of the tree below that was not met yet.
    Below(u64, Kind),
}

struct Slot {
    /// Where `getdents(2)` goes on behind it; never used again in this folder.
    cookie: u64,
    target: Target,
}

/// A folder's names.
pub(super) struct Folder {
    names: RefCell<BTreeMap<Box<[u8]>, Slot>>,
    order: RefCell<BTreeMap<u64, Box<[u8]>>>,
    last: Cell<u64>,
    /// The folder of the tree below whose names are still to be taken over.
    below: Cell<Option<erofs::Inode<'static>>>,
}

impl Folder {
    pub(super) fn new(below: Option<erofs::Inode<'static>>) -> Self {
        Self {
            names: RefCell::default(),
            order: RefCell::default(),
            last: Cell::new(0),
            below: Cell::new(below),
        }
    }

    /// Takes over the names of the folder below.
    fn take_over(&self) -> Result {
        let Some(below) = self.below.get() else {
            return Ok(());
        };
        for entry in below.entries(0).map_err(lower::damaged)? {
            let entry = entry.map_err(lower::damaged)?;
            if !matches!(entry.name, b"." | b"..") {
                self.insert(
                    entry.name,
                    Target::Below(entry.nid, lower::kind(entry.kind)),
                );
            }
        }
        self.below.set(None);
        Ok(())
    }

    pub(super) fn find(&self, fs: &Rc<Tmpfs>, name: &[u8]) -> Result<Rc<Node>> {
        if let Some(below) = self.below.get() {
            let entry = below.lookup(name).map_err(lower::damaged)?;
            return fs.meet(entry.ok_or(Errno::ENOENT)?.nid);
        }
        let target = self.names.borrow().get(name).map(|s| s.target.clone());
        match target.ok_or(Errno::ENOENT)? {
            Target::Node(node) => Ok(node),
            Target::Below(nid, _) => fs.meet(nid),
        }
    }

    pub(super) fn is_empty(&self) -> Result<bool> {
        self.take_over()?;
        Ok(self.names.borrow().is_empty())
    }

    /// Makes ready to be changed.
    pub(super) fn own(&self) -> Result {
        self.take_over()
    }

    /// Gives a name to a node. What had it before goes.
    pub(super) fn insert(&self, name: &[u8], target: Target) {
        let cookie = self.last.get() + 1;
        self.last.set(cookie);
        let old = self
            .names
            .borrow_mut()
            .insert(name.into(), Slot { cookie, target });
        let mut order = self.order.borrow_mut();
        if let Some(old) = &old {
            order.remove(&old.cookie);
        }
        order.insert(cookie, name.into());
        drop(order);
        drop(old);
    }

    /// Puts another node behind a name, in its place.
    pub(super) fn replace(&self, name: &[u8], target: Target) {
        let old = match self.names.borrow_mut().get_mut(name) {
            Some(slot) => Some(core::mem::replace(&mut slot.target, target)),
            None => None,
        };
        drop(old);
    }

    pub(super) fn remove(&self, name: &[u8]) {
        let old = self.names.borrow_mut().remove(name);
        if let Some(old) = &old {
            self.order.borrow_mut().remove(&old.cookie);
        }
        drop(old);
    }

    pub(super) fn entries(&self, from: u64, each: &mut dyn FnMut(&Entry) -> bool) -> Result {
        self.take_over()?;
        let order = self.order.borrow();
        let names = self.names.borrow();
        for (&cookie, name) in order.range(from.saturating_add(1)..) {
            let Some(slot) = names.get(name) else {
                continue;
            };
            let (inode, kind) = match &slot.target {
                Target::Node(node) => (node.number(), node.kind()),
                Target::Below(nid, kind) => (*nid, *kind),
            };
            let entry = Entry {
                name,
                inode,
                kind,
                next: cookie,
            };
            if !each(&entry) {
                break;
            }
        }
        Ok(())
    }
}
