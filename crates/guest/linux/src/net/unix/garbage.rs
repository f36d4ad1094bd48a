//! Sockets that nobody can reach any more.
//!
//! A message can carry a socket, and that socket's inbox a message that carries the first one: when the last descriptors of both are closed, each is
//! kept open by the other for ever. So what is on its way is counted here, and when sockets are closed while others are on their way, those
//! are looked for that only messages hold, and of them those that can be received by nobody: not by a descriptor, nor by way of a socket
//! that somebody else can receive. Their inboxes are emptied, which closes them.
//!
//! This is the reference-counting way of finding cycles; it needs no list of all sockets.

use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::super::Socket;
use super::Unix;
use super::endpoint::Endpoint;
use crate::fs::OpenFile;

/// A search is made when as many sockets have been closed since the last one as this part of those on their way, so that its cost is shared.
const PART: usize = 8;

/// A message with files makes a search if so many sockets are on their way, and twice as many as the last search has left.
const TRIGGER: usize = 256;

/// What is on its way.
#[derive(Debug, Default)]
pub struct InFlight {
    /// Files in messages.
    total: Cell<usize>,
    /// Those of them that are sockets of this family, by address, and how many messages hold each.
    sockets: RefCell<BTreeMap<usize, (Weak<OpenFile>, usize)>>,
    /// Sockets closed since the last search.
    closed: Cell<usize>,
    /// With so many sockets on their way the next message with files makes a search.
    trigger: Cell<usize>,
    searching: Cell<bool>,
}

/// A candidate: what is known of a socket that only messages hold.
struct Candidate {
    endpoint: Rc<Endpoint>,
    /// Messages that hold it and lie in no candidate's inbox.
    outside: usize,
    reachable: bool,
}

fn endpoint(open: &OpenFile) -> Option<&Rc<Endpoint>> {
    let socket = open.downcast::<Socket>()?;
    let unix = socket.protocol.as_any().downcast_ref::<Unix>()?;
    Some(&unix.endpoint)
}

impl InFlight {
    /// How many files are on their way.
    pub fn total(&self) -> usize {
        self.total.get()
    }

    /// Counts files that a message holds from now on.
    pub fn add(&self, files: &[Rc<OpenFile>]) {
        self.total.set(self.total.get() + files.len());
        let mut sockets = self.sockets.borrow_mut();
        for open in files.iter().filter(|open| endpoint(open).is_some()) {
            let key = Rc::as_ptr(open).addr();
            let entry = sockets
                .entry(key)
                .or_insert_with(|| (Rc::downgrade(open), 0));
            entry.1 += 1;
        }
    }

    /// Takes back what [`add`](Self::add) has counted.
    pub fn remove(&self, files: &[Rc<OpenFile>]) {
        self.total.set(self.total.get().saturating_sub(files.len()));
        let mut sockets = self.sockets.borrow_mut();
        for open in files {
            let key = Rc::as_ptr(open).addr();
            let Some(entry) = sockets.get_mut(&key) else {
                continue;
            };
            entry.1 -= 1;
            if entry.1 == 0 {
                sockets.remove(&key);
            }
        }
    }

    /// A message with files is about to be sent. A socket that is sent over itself is closed by nobody: the descriptor goes, and the message stays.
    pub fn about_to_send(&self) {
        let count = self.sockets.borrow().len();
        if count >= TRIGGER.max(self.trigger.get()) && !self.searching.get() {
            self.collect();
            self.trigger.set(self.sockets.borrow().len() * 2);
        }
    }

    /// A socket has been closed: others may be out of reach now.
    pub fn socket_closed(&self) {
        let count = self.sockets.borrow().len();
        if count == 0 || self.searching.get() {
            return;
        }
        self.closed.set(self.closed.get() + 1);
        if self.closed.get() * PART >= count {
            self.collect();
        }
    }

    /// Closes the sockets that nobody can reach.
    pub fn collect(&self) {
        self.closed.set(0);
        self.searching.set(true);
        let garbage = self.find();
        for endpoint in garbage {
            endpoint.forget_inbox();
        }
        self.searching.set(false);
    }

    fn find(&self) -> Vec<Rc<Endpoint>> {
        let mut candidates = BTreeMap::new();
        for (&key, (open, messages)) in &*self.sockets.borrow() {
            // Nobody else holds it: the count includes the messages and no more.
            if open.strong_count() == *messages
                && let Some(open) = open.upgrade()
                && let Some(endpoint) = endpoint(&open)
            {
                let candidate = Candidate {
                    endpoint: endpoint.clone(),
                    outside: *messages,
                    reachable: false,
                };
                candidates.insert(key, candidate);
            }
        }
        if candidates.is_empty() {
            return Vec::new();
        }
        let held: BTreeMap<usize, Vec<usize>> = candidates
            .iter()
            .map(|(&key, candidate)| {
                let mut inside = Vec::new();
                candidate.endpoint.each_waiting_file(&mut |open| {
                    inside.push(Rc::as_ptr(open).addr());
                });
                (key, inside)
            })
            .collect();
        for key in held.values().flatten() {
            if let Some(candidate) = candidates.get_mut(key) {
                candidate.outside = candidate.outside.saturating_sub(1);
            }
        }
        let from_outside = candidates.iter().filter(|(_, c)| c.outside > 0);
        let mut next: Vec<usize> = from_outside.map(|(&key, _)| key).collect();
        while let Some(key) = next.pop() {
            let Some(candidate) = candidates.get_mut(&key) else {
                continue;
            };
            if !core::mem::replace(&mut candidate.reachable, true) {
                next.extend(held.get(&key).into_iter().flatten());
            }
        }
        candidates
            .into_values()
            .filter(|candidate| !candidate.reachable)
            .map(|candidate| candidate.endpoint)
            .collect()
    }
}
