//! The conversation with a folder's server.

use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use kiln_ninep::{
    Attributes, GETATTR_BASIC, HEADER, NO_FID, Names, READ_HEADER, Reply, Request, Text, VERSION,
    WRITE_HEADER,
};

use super::node::Node;
use crate::platform;
use crate::{Errno, Result};

/// The longest message.
const MSIZE: usize = kiln_abi::user::MAX_NINEP as usize;

/// The fid of the root, which is kept.
const ROOT: u32 = 0;

/// The guest's side of a folder.
pub struct Client {
    device: u32,
    /// Number of the file system.
    pub number: u64,
    msize: usize,
    /// A request and its reply: one at a time.
    buffers: RefCell<(Vec<u8>, Vec<u8>)>,
    next: Cell<u32>,
    /// Fids that were given back.
    free: RefCell<Vec<u32>>,
    /// The inodes in use, by their numbers.
    pub(super) nodes: RefCell<BTreeMap<u64, Weak<Node>>>,
}

impl Client {
    /// Agrees with the server on how to talk.
    pub fn begin(device: u32, number: u64) -> Result<Self> {
        let mut client = Self {
            device,
            number,
            msize: MSIZE,
            buffers: RefCell::new((vec![0; MSIZE], vec![0; MSIZE])),
            next: Cell::new(ROOT + 1),
            free: RefCell::default(),
            nodes: RefCell::default(),
        };
        let version = Request::Version {
            msize: MSIZE as u32,
            version: Text(VERSION),
        };
        client.msize = client.ask(&version, |reply| match reply {
            Reply::Version { msize, version } if version.0 == VERSION => Some(*msize as usize),
            _ => None,
        })?;
        if !(4096..=MSIZE).contains(&client.msize) {
            return Err(Errno::EPROTO);
        }
        Ok(client)
    }

    /// The root, as user `uid`.
    pub fn attach(self: &Rc<Self>, uid: u32) -> Result<Rc<Node>> {
        let attach = Request::Attach {
            fid: ROOT,
            auth: NO_FID,
            user: Text(b""),
            tree: Text(b""),
            uid,
        };
        self.ask(&attach, |reply| {
            matches!(reply, Reply::Attach { .. }).then_some(())
        })?;
        let fid = self.walk(ROOT, None)?;
        Node::of(self, fid)
    }

    /// The most bytes of one read, and of one write.
    pub fn room(&self) -> usize {
        self.msize - WRITE_HEADER.max(READ_HEADER)
    }

    /// Asks, and lets `read` understand the reply. What it does not is the server's fault.
    pub fn ask<R>(
        &self,
        request: &Request<'_>,
        read: impl FnOnce(&Reply<'_>) -> Option<R>,
    ) -> Result<R> {
        const TAG: u16 = 1;
        let mut buffers = self.buffers.borrow_mut();
        let (message, reply) = &mut *buffers;
        let len = request
            .encode(TAG, message)
            .filter(|len| *len <= self.msize)
            .ok_or(Errno::ENAMETOOLONG)?;
        let message = message.get(..len).ok_or(Errno::EIO)?;
        let len = platform::ask_folder(self.device, message, reply)?;
        let reply = reply.get(..len).filter(|reply| reply.len() >= HEADER);
        match Reply::decode(reply.ok_or(Errno::EIO)?) {
            Ok((_, Reply::Error { errno })) => Err(error(errno)),
            Ok((TAG, reply)) => read(&reply).ok_or(Errno::EIO),
            _ => Err(Errno::EIO),
        }
    }

    /// The same, if only success counts.
    pub fn tell(&self, request: &Request<'_>) -> Result {
        self.ask(request, |_| Some(()))
    }

    fn take_fid(&self) -> Result<u32> {
        if let Some(fid) = self.free.borrow_mut().pop() {
            return Ok(fid);
        }
        let fid = self.next.get();
        self.next.set(fid.checked_add(1).ok_or(Errno::ENFILE)?);
        Ok(fid)
    }

    /// A new fid for what has this name in the folder `from`, or for `from` itself.
    pub fn walk(&self, from: u32, name: Option<&[u8]>) -> Result<u32> {
        let new = self.take_fid()?;
        let names = name.map(Text);
        let names = Names::new(names.as_slice()).ok_or(Errno::EINVAL)?;
        let walk = Request::Walk {
            fid: from,
            new,
            names,
        };
        let wanted = names.as_slice().len();
        let found = self.ask(&walk, |reply| match reply {
            Reply::Walk { qids } if qids.as_slice().len() == wanted => Some(()),
            _ => None,
        });
        if let Err(errno) = found {
            self.free.borrow_mut().push(new);
            return Err(errno);
        }
        Ok(new)
    }

    /// A new fid for the extended attribute `name` of a file, or for the list of all, and its length.
    pub fn walk_attribute(&self, fid: u32, name: &[u8]) -> Result<(u32, u64)> {
        let new = self.take_fid()?;
        let walk = Request::XattrWalk {
            fid,
            new,
            name: Text(name),
        };
        let size = self.ask(&walk, |reply| match reply {
            Reply::XattrWalk { size } => Some(*size),
            _ => None,
        });
        if size.is_err() {
            self.free.borrow_mut().push(new);
        }
        size.map(|size| (new, size))
    }

    /// Gives a fid back, and tells what the server says to that.
    pub fn give_back(&self, fid: u32) -> Result {
        let told = self.tell(&Request::Clunk { fid });
        self.free.borrow_mut().push(fid);
        told
    }

    /// Gives a fid back.
    pub fn clunk(&self, fid: u32) {
        // Whatever the server answers, it does not know the number any more.
        let _ = self.tell(&Request::Clunk { fid });
        self.free.borrow_mut().push(fid);
    }

    /// What `stat` tells.
    pub fn attributes(&self, fid: u32) -> Result<Attributes> {
        let mask = GETATTR_BASIC;
        self.ask(&Request::GetAttr { fid, mask }, |reply| match reply {
            Reply::GetAttr { attributes } => Some(*attributes),
            _ => None,
        })
    }
}

/// An error number of the server's, which is Linux' own.
fn error(number: u32) -> Errno {
    match i32::try_from(number) {
        Ok(number @ 1..=4095) => Errno(number),
        _ => Errno::EIO,
    }
}
