//! Places for what is open but has no name: pipes, sockets, and the like, as the links in `/proc/self/fd` lead to them.

use alloc::rc::Rc;
use alloc::string::String;
use core::any::Any;
use core::cell::{Cell, RefCell};

use super::{Dentry, File, Inode, Metadata, Mount, OpenFile, OpenFlags, Place};
use crate::Result;
use crate::process::Thread;

struct Anonymous(Rc<OpenFile>);

impl Inode for Anonymous {
    fn metadata(&self) -> Result<Metadata> {
        self.0.file.metadata()
    }

    fn open(&self, thread: &Rc<Thread>, flags: OpenFlags) -> Result<Option<Rc<dyn File>>> {
        self.0.file.reopen(thread, flags).map(Some)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A place that leads to an open file.
pub(super) fn place(open: &Rc<OpenFile>) -> Result<Place> {
    let inode = Rc::new(Anonymous(open.clone()));
    let name = open.file.describe();
    Dentry::new(inode, mount(), None, &name).map(Place::of)
}

/// What is not mounted anywhere.
pub(super) fn mount() -> Rc<Mount> {
    Rc::new(Mount {
        id: 0,
        kind: "anon_inodefs".into(),
        source: b"none".as_slice().into(),
        options: RefCell::new(String::new()),
        read_only: Cell::new(false),
        flags: Cell::new(0),
        at: RefCell::new(None),
        since: 0,
    })
}

/// What `fstat(2)` tells of files that are nothing but a descriptor.
pub fn metadata() -> Metadata {
    Metadata {
        device: 0xe,
        inode: 1,
        mode: 0o600,
        links: 1,
        block_size: 4096,
        ..Metadata::default()
    }
}
