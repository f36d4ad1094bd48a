//! `epoll(7)`.
//!
//! An instance has an [`Item`] for each descriptor that it watches, and the item is an observer of the file's queue: a wake-up puts it into
//! the instance's ready list and does nothing else. `epoll_wait(2)` goes through that list only, asks each file there what is so now, and tells of those that
//! are ready; its cost does not depend on how many descriptors are watched. Items that are level-triggered stay in the list until a look
//! finds them not ready. Nothing is allocated on that way: the list has room for every item from when it was added.
//!
//! Items refer weakly to the open file description, so a description's last close ends the watching (epoll(7), questions and answers, 6).

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};

use crate::fs::{File, Kind, Metadata, OpenFile};
use crate::process::Thread;
use crate::user::UserAddr;
use crate::wait::{self, Deadline, Events, Observer, WaitQueue};
use crate::{Errno, Result, shortage};

/// Bytes of a `struct epoll_event`, which is packed on x86-64.
pub const EVENT_SIZE: usize = 12;
/// The most events of one call (`EP_MAX_EVENTS`).
pub const MAX_EVENTS: usize = i32::MAX as usize / EVENT_SIZE;
/// How deep instances may watch each other (`EP_MAX_NESTS`).
const MAX_NESTING: usize = 4;
/// Events that one pass gathers before it copies them out.
const BATCH: usize = 256;

const EXCLUSIVE: u32 = 1 << 28;
const ONESHOT: u32 = 1 << 30;
const EDGE: u32 = 1 << 31;
/// `EPOLLEXCLUSIVE` goes with these only.
const EXCLUSIVE_OK: u32 = Events::IN.bits()
    | Events::OUT.bits()
    | Events::ERR.bits()
    | Events::HUP.bits()
    | WAKEUP
    | EDGE
    | EXCLUSIVE;
const WAKEUP: u32 = 1 << 29;

/// What is to be told of a descriptor: `struct epoll_event`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Events and options.
    pub events: u32,
    /// What the program wants back.
    pub data: u64,
}

impl Interest {
    /// From the program's memory.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read(at: UserAddr) -> Result<Self> {
        let mut bytes = [0; EVENT_SIZE];
        at.read_bytes(&mut bytes)?;
        let (events, data) = bytes.split_at(4);
        Ok(Self {
            events: u32::from_ne_bytes(events.try_into().map_err(|_| Errno::EFAULT)?),
            data: u64::from_ne_bytes(data.try_into().map_err(|_| Errno::EFAULT)?),
        })
    }

    /// Errors and ends are told whether they are asked for or not.
    fn with_ends(self) -> Self {
        Self {
            events: self.events | (Events::ERR | Events::HUP).bits(),
            ..self
        }
    }

    fn wanted(self) -> Events {
        Events::from_bits_truncate(self.events)
    }

    /// After a one-shot event only options are left.
    fn is_disabled(self) -> bool {
        self.events & !(EXCLUSIVE | WAKEUP | ONESHOT | EDGE) == 0
    }
}

/// A descriptor that is watched.
struct Item {
    me: Weak<Item>,
    epoll: Weak<Epoll>,
    open: Weak<OpenFile>,
    interest: Cell<Interest>,
    /// It is in the ready list.
    listed: Cell<bool>,
    exclusive: bool,
}

impl Item {
    fn wants(&self, events: Events) -> bool {
        let interest = self.interest.get();
        (events.is_empty() || events.intersects(interest.wanted())) && !interest.is_disabled()
    }
}

impl Observer for Item {
    fn notify(&self, events: Events) {
        if !self.wants(events) {
            return;
        }
        if let (Some(epoll), Some(me)) = (self.epoll.upgrade(), self.me.upgrade()) {
            if self.listed.get() {
                // An instance above that watches for edges is told of each.
                epoll.ring();
            } else {
                epoll.list(me);
            }
        }
    }

    fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// Somebody sleeps on the instance. One that is busy elsewhere would leave the others asleep.
    fn will_look(&self, events: Events) -> bool {
        let epoll = self.epoll.upgrade();
        self.wants(events) && epoll.is_some_and(|epoll| !epoll.queue.is_empty())
    }

    fn is_gone(&self) -> bool {
        self.open.strong_count() == 0 || self.epoll.strong_count() == 0
    }
}

/// An epoll instance.
pub struct Epoll {
    /// By descriptor and description.
    items: RefCell<BTreeMap<(i32, usize), Rc<Item>>>,
    ready: RefCell<VecDeque<Rc<Item>>>,
    queue: WaitQueue,
    /// How many instances above this one watch each other, at the most there ever were.
    above: Cell<usize>,
    /// Where events are gathered for the one copy to the program.
    gathered: RefCell<Vec<u8>>,
    me: Weak<Epoll>,
}

impl core::fmt::Debug for Epoll {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Epoll({} watched)", self.items.borrow().len())
    }
}

impl Epoll {
    /// An instance that watches nothing.
    pub fn new() -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            items: RefCell::default(),
            ready: RefCell::default(),
            queue: WaitQueue::new(),
            above: Cell::new(0),
            gathered: RefCell::new(Vec::with_capacity(BATCH * EVENT_SIZE)),
            me: me.clone(),
        })
    }

    /// Puts an item into the ready list, which has room for it.
    fn list(&self, item: Rc<Item>) {
        item.listed.set(true);
        // The list is never borrowed while somebody is told of something.
        self.ready.borrow_mut().push_back(item);
        self.ring();
    }

    fn ring(&self) {
        if !self.queue.is_empty() {
            self.queue.wake(Events::READABLE);
        }
    }

    /// Lists an item if its file is ready now.
    fn look(&self, item: &Rc<Item>, open: &OpenFile) {
        let interest = item.interest.get();
        if !item.listed.get()
            && !interest.is_disabled()
            && open.file.poll(open).intersects(interest.wanted())
        {
            self.list(item.clone());
        }
    }

    /// `EPOLL_CTL_ADD`.
    ///
    /// # Errors
    /// `EPERM` for files that cannot be polled, `EEXIST`, `EINVAL`, `ELOOP`.
    pub fn add(&self, fd: i32, open: &Rc<OpenFile>, interest: Interest) -> Result {
        let queue = open.file.queue().ok_or(Errno::EPERM)?;
        let exclusive = interest.events & EXCLUSIVE != 0;
        let inner = open.downcast::<Epoll>();
        if exclusive && (interest.events & !EXCLUSIVE_OK != 0 || inner.is_some()) {
            return Err(Errno::EINVAL);
        }
        if let Some(inner) = inner {
            let left = MAX_NESTING.checked_sub(self.above.get());
            if inner.leads_to(self, left.ok_or(Errno::ELOOP)?)? {
                return Err(Errno::ELOOP);
            }
        }
        shortage::object(Errno::ENOMEM)?;
        let item = Rc::new_cyclic(|me| Item {
            me: me.clone(),
            epoll: self.me.clone(),
            open: Rc::downgrade(open),
            interest: Cell::new(interest.with_ends()),
            listed: Cell::new(false),
            exclusive,
        });
        {
            let mut items = self.items.borrow_mut();
            let mut gone = items
                .range((fd, 0)..=(fd, usize::MAX))
                .filter(|(_, item)| item.open.strong_count() == 0)
                .map(|(&key, _)| key)
                .collect::<Vec<_>>();
            for key in gone.drain(..) {
                items.remove(&key);
            }
            let key = (fd, Rc::as_ptr(open).addr());
            if items.contains_key(&key) {
                return Err(Errno::EEXIST);
            }
            items.insert(key, item.clone());
            let mut ready = self.ready.borrow_mut();
            let missing = items.len().saturating_sub(ready.len());
            ready.reserve(missing);
        }
        if let Some(inner) = inner {
            inner.lower(self.above.get() + 1);
        }
        queue.add(item.clone());
        self.look(&item, open);
        Ok(())
    }

    /// Notes that so many instances lie above this one, and what that means for those below. There are at most [`MAX_NESTING`] of those.
    fn lower(&self, above: usize) {
        if above <= self.above.get() {
            return;
        }
        self.above.set(above);
        for open in self.watched() {
            if let Some(inner) = open.downcast::<Epoll>() {
                inner.lower(above + 1);
            }
        }
    }

    fn watched(&self) -> Vec<Rc<OpenFile>> {
        let items = self.items.borrow();
        let open = items.values().filter_map(|item| item.open.upgrade());
        open.collect()
    }

    fn find(&self, fd: i32, open: &Rc<OpenFile>) -> Result<Rc<Item>> {
        let items = self.items.borrow();
        let item = items.get(&(fd, Rc::as_ptr(open).addr()));
        item.cloned().ok_or(Errno::ENOENT)
    }

    /// `EPOLL_CTL_MOD`.
    ///
    /// # Errors
    /// `ENOENT`; `EINVAL` for exclusive ones.
    pub fn modify(&self, fd: i32, open: &Rc<OpenFile>, interest: Interest) -> Result {
        let item = self.find(fd, open)?;
        if item.exclusive || interest.events & EXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        item.interest.set(interest.with_ends());
        self.look(&item, open);
        Ok(())
    }

    /// `EPOLL_CTL_DEL`.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn remove(&self, fd: i32, open: &Rc<OpenFile>) -> Result {
        let key = (fd, Rc::as_ptr(open).addr());
        let item = self.items.borrow_mut().remove(&key).ok_or(Errno::ENOENT)?;
        if let Some(queue) = open.file.queue() {
            let observer: Rc<dyn Observer> = item.clone();
            queue.remove(&observer);
        }
        if item.listed.get() {
            self.ready.borrow_mut().retain(|i| !Rc::ptr_eq(i, &item));
        }
        Ok(())
    }

    /// True if this instance watches `other`, itself or by others.
    fn leads_to(&self, other: &Epoll, depth: usize) -> Result<bool> {
        if core::ptr::eq(self, other) {
            return Ok(true);
        }
        for open in &self.watched() {
            if let Some(epoll) = open.downcast::<Epoll>() {
                let deeper = depth.checked_sub(1).ok_or(Errno::ELOOP)?;
                if epoll.leads_to(other, deeper)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Takes up to `most` events that are so now, and copies them to `to`. Returns their number.
    ///
    /// # Errors
    /// `EFAULT`; the events are told again then.
    fn collect(&self, to: UserAddr, most: usize) -> Result<usize> {
        // Those who are put back must not be met again.
        let mut left = self.ready.borrow().len();
        let mut done = 0;
        while left > 0 && done < most {
            let mut gathered = self.gathered.take();
            gathered.clear();
            let first = done;
            while left > 0 && done < most && done - first < BATCH {
                left -= 1;
                let Some(item) = self.ready.borrow_mut().pop_front() else {
                    left = 0;
                    break;
                };
                if let Some((events, data)) = self.examine(item) {
                    gathered.extend_from_slice(&events.to_ne_bytes());
                    gathered.extend_from_slice(&data.to_ne_bytes());
                    done += 1;
                }
            }
            let copied = to.add((first * EVENT_SIZE) as u64).write_bytes(&gathered);
            self.gathered.replace(gathered);
            match copied {
                Ok(()) => {}
                Err(error) if first == 0 => return Err(error),
                Err(_) => return Ok(first),
            }
        }
        Ok(done)
    }

    /// Asks an item that was in the ready list, and puts it back if it has to stay there.
    fn examine(&self, item: Rc<Item>) -> Option<(u32, u64)> {
        item.listed.set(false);
        let open = item.open.upgrade()?;
        let interest = item.interest.get();
        if interest.is_disabled() {
            return None;
        }
        let events = open.file.poll(&open) & interest.wanted();
        if events.is_empty() {
            return None;
        }
        if interest.events & ONESHOT != 0 {
            item.interest.set(Interest {
                events: interest.events & (EXCLUSIVE | WAKEUP | ONESHOT | EDGE),
                ..interest
            });
        } else if interest.events & EDGE == 0 && !item.listed.replace(true) {
            // Unless asking has listed it already.
            self.ready.borrow_mut().push_back(item);
        }
        Some((events.bits(), interest.data))
    }

    /// True if something in the ready list is ready; what is not leaves it.
    fn is_ready(&self) -> bool {
        let mut left = self.ready.borrow().len();
        while left > 0 {
            left -= 1;
            let Some(item) = self.ready.borrow().front().cloned() else {
                break;
            };
            if let Some(open) = item.open.upgrade() {
                let interest = item.interest.get();
                if !interest.is_disabled() && open.file.poll(&open).intersects(interest.wanted()) {
                    return true;
                }
            }
            let mut ready = self.ready.borrow_mut();
            if let Some(at) = ready.iter().position(|i| Rc::ptr_eq(i, &item)) {
                item.listed.set(false);
                ready.remove(at);
            }
        }
        false
    }

    /// `epoll_wait(2)`.
    ///
    /// # Errors
    /// `EFAULT`; `EINTR` when a signal comes: it is never restarted (signal(7)).
    pub fn wait(
        &self,
        thread: &Rc<Thread>,
        to: UserAddr,
        most: usize,
        deadline: Deadline,
    ) -> Result<usize> {
        // Who sleeps makes the machine look when nobody else can run; who asks again and again does not.
        if !self.ready.borrow().is_empty() {
            super::look_outside_if_due();
        } else if deadline == Some(0) {
            super::look_outside();
        }
        let found = self.collect(to, most)?;
        if found > 0 {
            return Ok(found);
        }
        if deadline == Some(0) {
            return Ok(0);
        }
        loop {
            let slept = wait::sleep_until(thread, &[&self.queue], deadline, || {
                (!self.ready.borrow().is_empty()).then_some(())
            });
            match slept {
                Ok(()) => {}
                Err(Errno::ETIMEDOUT) => return Ok(0),
                Err(_) => return Err(Errno::EINTR),
            }
            let found = self.collect(to, most)?;
            if found > 0 {
                return Ok(found);
            }
        }
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        for item in core::mem::take(&mut *self.items.borrow_mut()).into_values() {
            if let Some(open) = item.open.upgrade()
                && let Some(queue) = open.file.queue()
            {
                let observer: Rc<dyn Observer> = item;
                queue.remove(&observer);
            }
        }
    }
}

impl File for Epoll {
    fn poll(&self, _open: &OpenFile) -> Events {
        if self.is_ready() {
            Events::READABLE
        } else {
            Events::empty()
        }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(super::anonymous_metadata(Kind::Anonymous, 1))
    }

    fn describe(&self) -> Vec<u8> {
        b"anon_inode:[eventpoll]".to_vec()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
