//! Endpoints: what others know of a socket.

use alloc::collections::VecDeque;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::super::{Address, Bell, SOCK_DGRAM, SOCK_STREAM, Shutdown};
use super::inbox::Inbox;
use super::name::Name;
use super::rights::Ucred;
use crate::fs::OpenFile;
use crate::wait::Events;
use crate::{Errno, Result, shortage};

/// Connections that nobody has accepted yet.
#[derive(Debug)]
struct Pending {
    queue: VecDeque<Rc<Endpoint>>,
    backlog: usize,
    credentials: Ucred,
}

/// What others know of a socket.
#[derive(Debug)]
pub struct Endpoint {
    /// `SOCK_STREAM` and the like.
    pub kind: u32,
    /// Who waits for the socket.
    pub bell: Rc<Bell>,
    /// What has been sent to it.
    pub inbox: Inbox,
    pub(super) bound: RefCell<Option<Name>>,
    pending: RefCell<Option<Pending>>,
    peer: RefCell<Weak<Endpoint>>,
    /// There is a peer, or was one.
    connected: Cell<bool>,
    /// The peer's address, known even when the peer has gone.
    peer_name: RefCell<Option<Rc<Address>>>,
    peer_credentials: Cell<Option<Ucred>>,
    read_shut: Cell<bool>,
    write_shut: Cell<bool>,
    error: Cell<Option<Errno>>,
    closed: Cell<bool>,
    /// Whose inbox, or queue of connections, had no room for what was sent last, until there is more of it.
    waits_for: RefCell<Weak<Endpoint>>,
    /// How much may be left in the inbox when a writer is told that there is room again.
    low: Cell<usize>,
    /// Who waits for room here.
    waiters: RefCell<Vec<Weak<Endpoint>>>,
}

impl Endpoint {
    /// One that nobody knows yet.
    pub fn new(kind: u32) -> Rc<Self> {
        Rc::new(Self {
            kind,
            bell: super::bell(),
            inbox: Inbox::default(),
            bound: RefCell::default(),
            pending: RefCell::default(),
            peer: RefCell::default(),
            connected: Cell::new(false),
            peer_name: RefCell::default(),
            peer_credentials: Cell::new(None),
            read_shut: Cell::new(false),
            write_shut: Cell::new(false),
            error: Cell::new(None),
            closed: Cell::new(false),
            waits_for: RefCell::default(),
            low: Cell::new(0),
            waiters: RefCell::default(),
        })
    }

    /// Makes two endpoints each other's peers; each learns who the other is.
    pub fn pair(a: &Rc<Self>, b: &Rc<Self>, of_a: Ucred, of_b: Ucred) {
        for (one, other, credentials) in [(a, b, of_b), (b, a, of_a)] {
            *one.peer.borrow_mut() = Rc::downgrade(other);
            one.connected.set(true);
            *one.peer_name.borrow_mut() = other.name();
            one.peer_credentials.set(Some(credentials));
        }
    }

    /// Its address, if it has one.
    pub fn name(&self) -> Option<Rc<Address>> {
        self.bound.borrow().as_ref().map(Name::address)
    }

    /// The peer's address.
    pub fn peer_name(&self) -> Option<Rc<Address>> {
        self.peer_name.borrow().clone()
    }

    /// Who the peer was when it connected or began to listen.
    pub fn peer_credentials(&self) -> Option<Ucred> {
        self.peer_credentials.get()
    }

    /// The peer, while it is there.
    pub fn peer(&self) -> Option<Rc<Endpoint>> {
        let peer = self.peer.borrow().upgrade()?;
        (!peer.closed.get()).then_some(peer)
    }

    /// True if there is a peer, or was one.
    pub fn was_connected(&self) -> bool {
        self.connected.get()
    }

    /// True while `getpeername(2)` has an answer.
    pub fn has_peer(&self) -> bool {
        self.connected.get()
    }

    /// True if nothing will arrive any more.
    pub fn is_read_shut(&self) -> bool {
        self.read_shut.get()
    }

    /// True if nothing may be sent any more.
    pub fn is_write_shut(&self) -> bool {
        self.write_shut.get()
    }

    /// True once it has been closed.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// An error that waits to be told.
    pub fn take_error(&self) -> Option<Errno> {
        self.error.take()
    }

    /// True if it listens.
    pub fn is_listening(&self) -> bool {
        self.pending.borrow().is_some()
    }

    /// Listens, or changes how many may wait.
    pub fn listen(&self, backlog: u32, credentials: Ucred) {
        let mut pending = self.pending.borrow_mut();
        let queue = pending.take().map_or(VecDeque::new(), |old| old.queue);
        *pending = Some(Pending {
            queue,
            backlog: backlog as usize,
            credentials,
        });
        drop(pending);
        self.make_room();
    }

    /// Connects to a listener: the new endpoint on its side waits to be accepted.
    ///
    /// # Errors
    /// `ECONNREFUSED`; `EAGAIN` if too many wait.
    pub fn connect_to(self: &Rc<Self>, listener: &Rc<Self>, credentials: Ucred) -> Result {
        let found = listener.pending.borrow().as_ref().map(|pending| {
            let full = pending.queue.len() > pending.backlog;
            (full, pending.credentials)
        });
        let (full, listeners) = found.ok_or(Errno::ECONNREFUSED)?;
        if listener.read_shut.get() || listener.closed.get() {
            return Err(Errno::ECONNREFUSED);
        }
        if full {
            self.wait_for(listener);
            return Err(Errno::EAGAIN);
        }
        shortage::object(Errno::ENOBUFS)?;
        let new = Self::new(self.kind);
        *new.bound.borrow_mut() = listener.name().map(Name::borrowed);
        Self::pair(self, &new, credentials, listeners);
        if let Some(pending) = listener.pending.borrow_mut().as_mut() {
            pending.queue.push_back(new);
        }
        listener.bell.queue.wake(Events::READABLE);
        Ok(())
    }

    /// Takes a connection that waits.
    ///
    /// # Errors
    /// `EINVAL` if it does not listen, `EAGAIN`.
    pub fn accept(&self) -> Result<Rc<Self>> {
        let next = {
            let mut pending = self.pending.borrow_mut();
            let pending = pending.as_mut().ok_or(Errno::EINVAL)?;
            pending.queue.pop_front()
        };
        let Some(next) = next else {
            return Err(if self.read_shut.get() {
                Errno::EINVAL
            } else {
                Errno::EAGAIN
            });
        };
        self.make_room();
        Ok(next)
    }

    /// Whom datagrams without an address go to.
    pub fn set_target(self: &Rc<Self>, target: &Rc<Self>) {
        *self.waits_for.borrow_mut() = Weak::new();
        *self.peer.borrow_mut() = Rc::downgrade(target);
        *self.peer_name.borrow_mut() = target.name();
        self.connected.set(true);
    }

    /// Forgets the peer.
    pub fn disconnect(&self) {
        *self.peer.borrow_mut() = Weak::new();
        *self.peer_name.borrow_mut() = None;
        self.connected.set(false);
    }

    /// True if it takes datagrams from `sender`: one that has a peer takes them from this alone.
    pub fn takes_from(&self, sender: &Rc<Self>) -> bool {
        !self.connected.get()
            || self
                .peer
                .borrow()
                .upgrade()
                .is_none_or(|peer| Rc::ptr_eq(&peer, sender))
    }

    /// The peer, to write to it.
    ///
    /// # Errors
    /// `ENOTCONN`, `EPIPE`, `ECONNREFUSED`, an error that waits to be told.
    pub fn peer_to_write(&self) -> Result<Rc<Self>> {
        if !self.connected.get() {
            return Err(Errno::ENOTCONN);
        }
        // Linux keeps a stream's error for its reader: whoever writes finds the pipe broken first.
        if self.kind != SOCK_STREAM
            && let Some(error) = self.error.take()
        {
            return Err(error);
        }
        if self.write_shut.get() {
            return Err(Errno::EPIPE);
        }
        match self.peer() {
            Some(peer) => Ok(peer),
            None if self.kind == SOCK_DGRAM => {
                self.disconnect();
                Err(Errno::ECONNREFUSED)
            }
            None => Err(Errno::EPIPE),
        }
    }

    /// Remembers that there was no room: [`has_read`](Self::has_read) rings the bell.
    pub fn wait_for(self: &Rc<Self>, other: &Rc<Self>) {
        other.low.set(other.inbox.held() / 4 * 3);
        *self.waits_for.borrow_mut() = Rc::downgrade(other);
        let mut waiters = other.waiters.borrow_mut();
        let known = waiters
            .iter()
            .any(|known| core::ptr::eq(known.as_ptr(), Rc::as_ptr(self)));
        if !known {
            waiters.retain(|waiter| waiter.strong_count() > 0);
            waiters.push(Rc::downgrade(self));
        }
    }

    /// Something was taken out of the inbox. Writers to a stream are told when there is enough room to be worth while, as of TCP.
    pub fn has_read(&self) {
        let waiting = !self.waiters.borrow().is_empty();
        if waiting && (self.kind != SOCK_STREAM || self.inbox.held() <= self.low.get()) {
            self.make_room();
        }
    }

    /// Tells those who wait that there is room.
    fn make_room(&self) {
        let waiters = core::mem::take(&mut *self.waiters.borrow_mut());
        for waiter in waiters {
            if let Some(waiter) = waiter.upgrade() {
                *waiter.waits_for.borrow_mut() = Weak::new();
                waiter.bell.queue.wake(Events::WRITABLE);
            }
        }
    }

    /// Ends directions, here and at the peer.
    pub fn shutdown(&self, how: Shutdown) {
        self.read_shut.set(self.read_shut.get() || how.read);
        self.write_shut.set(self.write_shut.get() || how.write);
        let mut events = Events::READABLE | Events::WRITABLE;
        events.set(Events::RDHUP, self.read_shut.get());
        events.set(Events::HUP, self.read_shut.get() && self.write_shut.get());
        *self.waits_for.borrow_mut() = Weak::new();
        if self.kind != SOCK_DGRAM
            && let Some(peer) = self.peer()
        {
            peer.read_shut.set(peer.read_shut.get() || how.write);
            peer.write_shut.set(peer.write_shut.get() || how.read);
            peer.ring_shut();
        }
        self.bell.queue.wake_all(events);
        self.make_room();
    }

    fn ring_shut(&self) {
        let mut events = Events::READABLE | Events::WRITABLE;
        events.set(Events::RDHUP, self.read_shut.get());
        events.set(Events::HUP, self.read_shut.get() && self.write_shut.get());
        events.set(Events::ERR, self.error.get().is_some());
        self.bell.queue.wake_all(events);
    }

    /// What ended directions make so.
    fn ends(&self) -> Events {
        match (self.read_shut.get(), self.write_shut.get()) {
            (true, true) => Events::READABLE | Events::RDHUP | Events::HUP,
            (true, false) => Events::READABLE | Events::RDHUP,
            _ => Events::empty(),
        }
    }

    /// What it is ready for; `limit` is what may wait with the peer.
    pub fn poll(&self, limit: usize) -> Events {
        let mut events = Events::empty();
        if let Some(pending) = &*self.pending.borrow() {
            events.set(Events::READABLE, !pending.queue.is_empty());
            return events | self.ends();
        }
        if !self.inbox.is_empty() {
            events |= Events::READABLE;
        }
        events |= self.ends();
        if self.error.get().is_some() {
            events |= Events::ERR;
        }
        let waits_for = self.waits_for.borrow().upgrade();
        let blocked = waits_for.filter(|other| !other.closed.get());
        // A record that had no room may be longer than one that has: whoever waits to send it would find that out again and again.
        if self.kind == SOCK_DGRAM {
            events.set(Events::WRITABLE, blocked.is_none());
            return events;
        }
        if !self.connected.get() {
            // Linux says so of a socket that has never been connected; one that waits to be is not ready.
            let waits = blocked.is_some_and(|other| other.is_full());
            return if waits {
                events
            } else {
                events | Events::WRITABLE | Events::HUP
            };
        }
        let writable = match self.peer() {
            Some(_) if self.kind != SOCK_STREAM && blocked.is_some() => false,
            Some(peer) => peer.inbox.held() <= limit / 4 * 3,
            None => true,
        };
        events.set(Events::WRITABLE, writable);
        events
    }

    fn is_full(&self) -> bool {
        let pending = self.pending.borrow();
        pending
            .as_ref()
            .is_some_and(|pending| pending.queue.len() > pending.backlog)
    }

    /// The socket was closed.
    pub fn close(self: &Rc<Self>) {
        if self.closed.replace(true) {
            return;
        }
        let name = self.bound.borrow_mut().take();
        if let Some(name) = name {
            name.release(self);
        }
        let pending = self.pending.borrow_mut().take();
        for never_accepted in pending.into_iter().flat_map(|pending| pending.queue) {
            never_accepted.end(true);
            never_accepted.forget_inbox();
        }
        self.end(!self.inbox.is_empty());
        self.forget_inbox();
        crate::kernel().network.in_flight.socket_closed();
    }

    /// Goes through the files that are on their way here, and to connections that wait to be accepted.
    pub(super) fn each_waiting_file(&self, each: &mut dyn FnMut(&Rc<OpenFile>)) {
        self.inbox.each_file(each);
        let pending = self.pending.borrow();
        for waiting in pending.iter().flat_map(|pending| &pending.queue) {
            waiting.inbox.each_file(each);
        }
    }

    /// Forgets what has been sent here, and to connections that wait to be accepted; files are closed when nothing is borrowed.
    pub(super) fn forget_inbox(&self) {
        let pending: Vec<_> = {
            let pending = self.pending.borrow();
            let all = pending.iter().flat_map(|pending| &pending.queue);
            all.cloned().collect()
        };
        for waiting in pending {
            drop(waiting.inbox.clear());
        }
        drop(self.inbox.clear());
    }

    /// The peer of a connection learns that this side has gone; with a reset if something was lost.
    fn end(self: &Rc<Self>, reset: bool) {
        self.closed.set(true);
        let peer = self.peer.borrow().upgrade();
        if let Some(peer) = peer
            && self.kind != SOCK_DGRAM
            && !peer.closed.get()
        {
            peer.read_shut.set(true);
            peer.write_shut.set(true);
            if reset {
                peer.error.set(Some(Errno::ECONNRESET));
            }
            peer.ring_shut();
        }
        self.make_room();
    }
}
