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
    Attributes, GETATTR_BASIC, NO_FID, NO_TAG, READ_HEADER, Reply, Request, Text, VERSION,
    WRITE_HEADER,
};

use super::fids::Found;
use super::node::{Node, Way};
use super::replies::{Replies, understand};
use crate::platform;
use crate::process::{Thread, sched};
use crate::wait::{Events, Observer, WaitQueue};
use crate::{Errno, Result};

/// The longest message.
const MSIZE: usize = kiln_abi::user::MAX_NINEP as usize;

/// So many fids that nobody needs go along with a packet.
const MOST_WITH_A_PACKET: usize = 64;

/// The fid of the root, which is kept.
const ROOT: u32 = 0;

/// The guest's side of a folder.
pub struct Client {
    pub(super) device: u32,
    /// Number of the file system.
    pub number: u64,
    msize: usize,
    /// A request and a reply, for as long as they are sent and taken.
    pub(super) buffers: RefCell<(Vec<u8>, Vec<u8>)>,
    /// Requests that are on their way, by tag, and what has come of them.
    under_way: RefCell<BTreeMap<u16, Option<Vec<u8>>>>,
    /// Who waits for that.
    came: WaitQueue,
    pub(super) next: Cell<u32>,
    /// Fids that were given back.
    pub(super) free: RefCell<Vec<u32>>,
    /// Fids that nobody needs, of which the server has not been told yet.
    pub(super) unneeded: RefCell<Vec<u32>>,
    /// Packets that bring no answer, sent since the last that did.
    pub(super) unanswered: Cell<u32>,
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
            unneeded: RefCell::default(),
            unanswered: Cell::new(0),
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
        let fid = self.walk(ROOT)?;
        let attributes = self.attributes(fid)?;
        let root = Found {
            fid,
            attributes,
            open: false,
        };
        Node::of(self, root, Way::Read)
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
        self.ask_at_once(core::slice::from_ref(request), |replies| {
            understand(&replies.one()?, read)
        })
    }

    /// Asks several things in one packet: they are done one after the other, each whatever became of those before it. `read` gets the replies in
    /// the same order.
    ///
    /// May sleep as [`ask`](Self::ask) does.
    pub fn ask_at_once<R>(
        &self,
        requests: &[Request<'_>],
        read: impl FnOnce(&mut Replies<'_>) -> Result<R>,
    ) -> Result<R> {
        const TAG: u16 = 1;
        let sleeper = sleeper(requests);
        if sleeper.is_some() || !self.under_way.borrow().is_empty() {
            let (tag, reply) = self.exchange(requests, sleeper.as_ref())?;
            return read(&mut Replies::of(tag, &reply));
        }
        let mut buffers = self.buffers.borrow_mut();
        let (message, reply) = &mut *buffers;
        let (message, given_back) = self.packet(TAG, requests, message)?;
        let len = platform::ask_folder(self.device, message, reply)?;
        self.unanswered.set(0);
        self.gone(given_back);
        read(&mut Replies::of(TAG, reply.get(..len).unwrap_or_default()))
    }

    /// The requests as they are sent, behind as many fids that nobody needs as there is room for. They come first, so that the server has room for
    /// what is asked for.
    pub(super) fn packet<'a>(
        &self,
        tag: u16,
        requests: &[Request<'_>],
        into: &'a mut [u8],
    ) -> Result<(&'a [u8], usize)> {
        let unneeded = self.unneeded.borrow();
        // What waits for a disk comes alone, so that nothing has to wait behind it.
        let most = if requests.iter().any(waits_for_disk) {
            0
        } else {
            unneeded.len().min(MOST_WITH_A_PACKET)
        };
        for given_back in [most, 0] {
            let clunks = unneeded.iter().take(given_back);
            let clunks = clunks.map(|&fid| (NO_TAG, Request::Clunk { fid }));
            let all = clunks.chain(requests.iter().map(|request| (tag, *request)));
            let mut len = 0;
            let fits = { all }.all(|(tag, request)| {
                let end = into
                    .get_mut(len..self.msize)
                    .and_then(|room| request.encode(tag, room));
                len += end.unwrap_or(0);
                end.is_some()
            });
            if fits {
                return Ok((into.get(..len).ok_or(Errno::EIO)?, given_back));
            }
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// The first of the fids that nobody needs have been sent: whatever is sent from now on comes behind that, so they are free.
    pub(super) fn gone(&self, given_back: usize) {
        let mut unneeded = self.unneeded.borrow_mut();
        let sent = given_back.min(unneeded.len());
        self.free.borrow_mut().extend(unneeded.drain(..sent));
    }

    /// Sends requests and waits for their replies, while others may be on their way.
    fn exchange(
        &self,
        requests: &[Request<'_>],
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
                self.packet(tag, requests, &mut buffers.0)
                    .and_then(|(message, given_back)| {
                        platform::ask_folder(self.device, message, &mut [])?;
                        self.gone(given_back);
                        Ok(())
                    })
            };
            match sent {
                // The server is behind: it has others' requests.
                Err(Errno::EAGAIN) => self.wait(sleeper),
                other => break other,
            }
        };
        let reply = sent.map(|()| {
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
                    self.unanswered.set(0);
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
fn sleeper(requests: &[Request<'_>]) -> Option<Rc<Thread>> {
    let thread = sched::running()?;
    let alone = crate::kernel().processes.is_alone();
    if alone && !requests.iter().any(waits_for_disk) {
        return None;
    }
    let may = thread.may_wait() && !crate::kernel().event.is_detached();
    (may && platform::is_current(&thread)).then_some(thread)
}

fn waits_for_disk(request: &Request<'_>) -> bool {
    matches!(request, Request::Fsync { .. })
}
