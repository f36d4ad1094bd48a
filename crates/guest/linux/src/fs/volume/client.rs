//! The conversation with a folder's server.
//!
//! A thread whose call may wait (it holds nothing that another thread could want, see [`Thread::may_wait`](crate::process::Thread::may_wait))
//! sleeps until its reply comes; others run meanwhile, and may ask too. All others keep the whole machine waiting: for one message there and
//! one back if nothing is on its way, else until their reply is among those that come.

use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use kiln_ninep::{
    Attributes, GETATTR_BASIC, HEADER, NO_FID, NO_TAG, Names, READ_HEADER, Reply, Request, Text,
    VERSION, WRITE_HEADER,
};

use super::node::Node;
use crate::platform;
use crate::process::{Thread, sched};
use crate::wait::{Events, Observer, WaitQueue};
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
    /// A request and a reply, for as long as they are sent and taken.
    buffers: RefCell<(Vec<u8>, Vec<u8>)>,
    /// Requests that are on their way, by tag, and what has come of them.
    under_way: RefCell<BTreeMap<u16, Option<Vec<u8>>>>,
    /// Who waits for that.
    came: WaitQueue,
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
            under_way: RefCell::default(),
            came: WaitQueue::new(),
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
    ///
    /// May sleep if the thread that runs [may wait](crate::process::Thread::may_wait).
    pub fn ask<R>(
        &self,
        request: &Request<'_>,
        read: impl FnOnce(&Reply<'_>) -> Option<R>,
    ) -> Result<R> {
        const TAG: u16 = 1;
        let sleeper = sleeper(request);
        if sleeper.is_some() || !self.under_way.borrow().is_empty() {
            let (tag, reply) = self.exchange(request, sleeper.as_ref())?;
            return understand(tag, &reply, read);
        }
        let mut buffers = self.buffers.borrow_mut();
        let (message, reply) = &mut *buffers;
        let message = self.encoded(TAG, request, message)?;
        let len = platform::ask_folder(self.device, message, reply)?;
        understand(TAG, reply.get(..len).unwrap_or_default(), read)
    }

    fn encoded<'a>(&self, tag: u16, request: &Request<'_>, into: &'a mut [u8]) -> Result<&'a [u8]> {
        let len = request
            .encode(tag, into)
            .filter(|len| *len <= self.msize)
            .ok_or(Errno::ENAMETOOLONG)?;
        into.get(..len).ok_or(Errno::EIO)
    }

    /// Sends a request and waits for its reply, while others may be on their way.
    fn exchange(
        &self,
        request: &Request<'_>,
        sleeper: Option<&Rc<Thread>>,
    ) -> Result<(u16, Vec<u8>)> {
        let tag = {
            let mut under_way = self.under_way.borrow_mut();
            let tag = (1..u16::MAX).find(|tag| !under_way.contains_key(tag));
            let tag = tag.ok_or(Errno::EAGAIN)?;
            under_way.insert(tag, None);
            tag
        };
        platform::await_folder(self.device, true);
        let sent = loop {
            let sent = {
                let mut buffers = self.buffers.borrow_mut();
                self.encoded(tag, request, &mut buffers.0)
                    .and_then(|message| platform::ask_folder(self.device, message, &mut []))
            };
            match sent {
                // The server is behind: it has others' requests.
                Err(Errno::EAGAIN) => self.wait(sleeper),
                other => break other,
            }
        };
        let reply = sent.map(|_| {
            loop {
                let came = self
                    .under_way
                    .borrow_mut()
                    .get_mut(&tag)
                    .and_then(Option::take);
                match came {
                    Some(reply) => break reply,
                    None => self.wait(sleeper),
                }
            }
        });
        let mut under_way = self.under_way.borrow_mut();
        under_way.remove(&tag);
        platform::await_folder(self.device, !under_way.is_empty());
        Ok((tag, reply?))
    }

    /// Waits until a reply may have come: the thread alone, or the machine.
    fn wait(&self, sleeper: Option<&Rc<Thread>>) {
        let Some(thread) = sleeper else {
            platform::stand_still_for(self.device);
            return self.take_replies();
        };
        let observer: Rc<dyn Observer> = thread.clone();
        self.came.add(observer.clone());
        // Signals do not end it: the request cannot be taken back.
        sched::park(thread, None);
        self.came.remove(&observer);
    }

    /// Takes the replies that have come to those who wait for them.
    pub fn take_replies(&self) {
        while self.under_way.borrow().values().any(Option::is_none) {
            let mut buffers = self.buffers.borrow_mut();
            match platform::ask_folder(self.device, &[], &mut buffers.1) {
                Ok(len) => {
                    let reply = buffers.1.get(..len).unwrap_or_default();
                    let tag = kiln_ninep::message::tag_of(reply).unwrap_or(NO_TAG);
                    // A tag that nobody uses is the server's fault.
                    if let Some(waiting) = self.under_way.borrow_mut().get_mut(&tag) {
                        *waiting = Some(reply.to_vec());
                    }
                }
                Err(Errno::EAGAIN) => break,
                // Nobody answers any more.
                Err(_) => {
                    for waiting in self.under_way.borrow_mut().values_mut() {
                        waiting.get_or_insert_default();
                    }
                    break;
                }
            }
        }
        self.came.wake_all(Events::all());
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

/// The thread that runs, if it may sleep until a reply comes, and that is of use. A machine with one thread has nobody to run meanwhile, and
/// waiting for a message without sleeping takes half the time: that is worth it but for what takes as long as a disk.
fn sleeper(request: &Request<'_>) -> Option<Rc<Thread>> {
    let thread = sched::running()?;
    let alone = crate::kernel().processes.is_alone();
    if alone && !matches!(request, Request::Fsync { .. }) {
        return None;
    }
    let may = thread.may_wait() && !crate::kernel().event.is_detached();
    (may && platform::is_current(&thread)).then_some(thread)
}

fn understand<R>(tag: u16, reply: &[u8], read: impl FnOnce(&Reply<'_>) -> Option<R>) -> Result<R> {
    if reply.len() < HEADER {
        return Err(Errno::EIO);
    }
    match Reply::decode(reply) {
        Ok((_, Reply::Error { errno })) => Err(error(errno)),
        Ok((told, reply)) if told == tag => read(&reply).ok_or(Errno::EIO),
        _ => Err(Errno::EIO),
    }
}

/// An error number of the server's, which is Linux' own.
fn error(number: u32) -> Errno {
    match i32::try_from(number) {
        Ok(number @ 1..=4095) => Errno(number),
        _ => Errno::EIO,
    }
}
