//! Requests from their start to their completion: chains, waiting, timeouts, cancelling.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::Uring;
use super::issue::{self, Outcome};
use super::sqe::{Flags, Sqe, op};
use crate::fs::OpenFile;
use crate::platform;
use crate::process::Thread;
use crate::time::Timer;
use crate::user::UserAddr;
use crate::wait::{Events, Observer};
use crate::{Errno, Result};

/// `IORING_CQE_F_MORE`: the request goes on.
pub(super) const MORE: u32 = 2;

/// `IORING_TIMEOUT_*`
pub(super) mod timeout {
    pub const ABSOLUTE: u32 = 1;
    pub const UPDATE: u32 = 2;
    pub const BOOTTIME: u32 = 4;
    pub const REALTIME: u32 = 8;
    pub const LINK_UPDATE: u32 = 0x10;
    pub const ETIME_SUCCESS: u32 = 0x20;
    pub const KNOWN: u32 = ABSOLUTE | UPDATE | BOOTTIME | REALTIME | LINK_UPDATE | ETIME_SUCCESS;
}

/// Entries that start one after another.
pub(super) struct Chain {
    thread: Weak<Thread>,
    entries: VecDeque<Sqe>,
}

impl Chain {
    pub(super) fn new(thread: &Rc<Thread>, entries: VecDeque<Sqe>) -> Self {
        Self {
            thread: Rc::downgrade(thread),
            entries,
        }
    }
}

/// A request that has been started.
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) sqe: Sqe,
    uring: Weak<Uring>,
    me: Weak<Request>,
    thread: Weak<Thread>,
    /// The file that it is about, found when it was started.
    pub(super) open: RefCell<Option<Rc<OpenFile>>>,
    /// What it waits for.
    pub(super) wanted: Cell<Events>,
    /// It is an observer of its file.
    watching: Cell<bool>,
    woken: Cell<bool>,
    /// It was woken by a completion, so it ends with its next one although it could go on: it might wake itself for ever.
    last: Cell<bool>,
    /// What starts when it has ended.
    rest: RefCell<VecDeque<Sqe>>,
    /// When it ends if it is a timeout; the entry behind it that limits its time, and when that is over.
    timer: RefCell<Option<Timer>>,
    link_timeout: Cell<Option<Sqe>>,
    link_timer: RefCell<Option<Timer>>,
    /// A timeout ends too when so many completions have been posted.
    until: Cell<Option<u32>>,
    /// Bytes moved so far by one that waits for all of them.
    pub(super) moved: Cell<u32>,
    /// What its next completion says beside the result.
    pub(super) cqe_flags: Cell<u32>,
}

impl Observer for Request {
    fn notify(&self, events: Events) {
        if self.woken.get() || (!events.is_empty() && !events.intersects(self.wanted.get())) {
            return;
        }
        if crate::kernel().event.telling.get() {
            self.last.set(true);
        }
        self.woken.set(true);
        if let Some(uring) = self.uring.upgrade() {
            uring.note_woken(self.id);
        }
    }
}

impl Request {
    /// Waits for its file.
    fn watch(&self) {
        let open = self.open.borrow().clone();
        let queue = open.as_ref().and_then(|open| open.file.queue());
        if let (Some(queue), Some(me)) = (queue, self.me.upgrade())
            && !self.watching.replace(true)
        {
            queue.add(me);
        }
    }

    /// True if its file is as it is to be.
    fn is_ready(&self) -> bool {
        let open = self.open.borrow().clone();
        open.is_some_and(|open| open.file.poll(&open).intersects(self.wanted.get()))
    }

    fn unwatch(&self) {
        let open = self.open.borrow().clone();
        let queue = open.as_ref().and_then(|open| open.file.queue());
        if let (Some(queue), Some(me)) = (queue, self.me.upgrade())
            && self.watching.replace(false)
        {
            let observer: Rc<dyn Observer> = me;
            queue.remove(&observer);
        }
    }
}

/// A time that an entry points to, as monotonic nanoseconds.
pub(super) fn time_at(address: u64, flags: u32) -> Result<u64> {
    let [seconds, nanos]: [i64; 2] = UserAddr(address).read()?;
    let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
    let nanos = u64::try_from(nanos).map_err(|_| Errno::EINVAL)?;
    let time = seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    let now = platform::now();
    Ok(match flags & (timeout::ABSOLUTE | timeout::REALTIME) {
        0 | timeout::REALTIME => now.saturating_add(time),
        timeout::ABSOLUTE => time,
        _ => now.saturating_add(time.saturating_sub(platform::wall())),
    })
}

impl Uring {
    /// Starts a chain, or puts it behind those that wait for others to end.
    pub(super) fn start(&self, chain: Chain) {
        let drains = chain
            .entries
            .front()
            .is_some_and(|sqe| sqe.flags.contains(Flags::DRAIN));
        let waits = !self.deferred.borrow().is_empty() || !self.requests.borrow().is_empty();
        if (drains && waits) || !self.deferred.borrow().is_empty() {
            self.deferred.borrow_mut().push_back(chain);
            return;
        }
        self.todo.borrow_mut().push_back(chain);
        self.run();
    }

    /// Does what can be done. Completions lead to more of it, so it is a loop and not a recursion.
    fn run(&self) {
        if self.running.replace(true) {
            return;
        }
        loop {
            let next = self.todo.borrow_mut().pop_front();
            match next {
                Some(chain) => self.issue(chain),
                None if self.requests.borrow().is_empty() => {
                    let Some(chain) = self.deferred.borrow_mut().pop_front() else {
                        break;
                    };
                    self.issue(chain);
                }
                None => {
                    // Behind one that drains others may follow that do not.
                    let drains = |chain: &Chain| {
                        let first = chain.entries.front();
                        first.is_some_and(|sqe| sqe.flags.contains(Flags::DRAIN))
                    };
                    let next = {
                        let mut deferred = self.deferred.borrow_mut();
                        match deferred.front() {
                            Some(chain) if !drains(chain) => deferred.pop_front(),
                            _ => None,
                        }
                    };
                    let Some(chain) = next else { break };
                    self.issue(chain);
                }
            }
        }
        self.running.set(false);
    }

    fn issue(&self, mut chain: Chain) {
        let Some(sqe) = chain.entries.pop_front() else {
            return;
        };
        let Some(thread) = chain.thread.upgrade() else {
            return;
        };
        let id = self.last_request.get() + 1;
        self.last_request.set(id);
        let request = Rc::new_cyclic(|me| Request {
            id,
            sqe,
            uring: self.me.clone(),
            me: me.clone(),
            thread: chain.thread,
            open: RefCell::new(None),
            wanted: Cell::new(Events::empty()),
            watching: Cell::new(false),
            woken: Cell::new(false),
            last: Cell::new(false),
            rest: RefCell::new(chain.entries),
            timer: RefCell::new(None),
            link_timeout: Cell::new(None),
            link_timer: RefCell::new(None),
            until: Cell::new(None),
            moved: Cell::new(0),
            cqe_flags: Cell::new(0),
        });
        self.requests.borrow_mut().insert(id, request.clone());
        let outcome = issue::first_try(self, &thread, &request);
        self.settle(&request, &outcome);
        if matches!(outcome, Outcome::Wait(_)) && request.is_ready() {
            // It became so while it was tried, before anybody watched: an answer of this machine to itself.
            self.note_woken(id);
        }
        if !self.requests.borrow().contains_key(&id) {
            return;
        }
        let follows = request.rest.borrow().front().copied();
        if let Some(limit) = follows.filter(|sqe| sqe.opcode == op::LINK_TIMEOUT) {
            request.rest.borrow_mut().pop_front();
            request.link_timeout.set(Some(limit));
            match time_at(limit.addr, limit.op_flags) {
                Ok(at) => self.limit(&request, at),
                Err(_) => self.exceed(id),
            }
        }
    }

    /// Does with a request what its try has led to.
    fn settle(&self, request: &Rc<Request>, outcome: &Outcome) {
        match *outcome {
            Outcome::Done(result) => self.complete(request, result),
            // One that goes on ends where nobody takes what it says.
            Outcome::More(result) if request.last.get() || self.is_full() => {
                self.complete(request, result);
            }
            Outcome::More(result) => {
                let flags = MORE | request.cqe_flags.take();
                self.post(request.sqe.user_data, result, flags);
                request.watch();
            }
            Outcome::Wait(wanted) => {
                request.wanted.set(wanted | Events::ERR | Events::HUP);
                request.watch();
            }
            Outcome::Timeout { at, count } => {
                if count > 0 {
                    request
                        .until
                        .set(Some(self.completed.get().wrapping_add(count)));
                }
                self.arm(request, at);
            }
        }
    }

    fn arm(&self, request: &Rc<Request>, at: u64) {
        let (uring, id) = (self.me.clone(), request.id);
        let action = Box::new(move || {
            if let Some(uring) = uring.upgrade() {
                super::detached(|| uring.expire(id));
            }
        });
        let timer = crate::kernel().timers.at(at, action);
        let before = request.timer.replace(Some(timer));
        drop(before);
    }

    /// Ends a request at a time, if it has not ended before.
    fn limit(&self, request: &Rc<Request>, at: u64) {
        let (uring, id) = (self.me.clone(), request.id);
        let action = Box::new(move || {
            if let Some(uring) = uring.upgrade() {
                super::detached(|| uring.exceed(id));
            }
        });
        let timer = crate::kernel().timers.at(at, action);
        let before = request.link_timer.replace(Some(timer));
        drop(before);
    }

    /// The time of a timeout has come.
    fn expire(&self, id: u64) {
        let request = self.requests.borrow().get(&id).cloned();
        let Some(request) = request else { return };
        self.complete(&request, -Errno::ETIME.0);
        self.run();
    }

    /// A request has taken longer than the entry behind it allows.
    fn exceed(&self, id: u64) {
        let request = self.requests.borrow().get(&id).cloned();
        let Some(request) = request else { return };
        let Some(limit) = request.link_timeout.take() else {
            return;
        };
        self.post(limit.user_data, -Errno::ETIME.0, 0);
        self.complete(&request, -Errno::ECANCELED.0);
        self.run();
    }

    /// A time limit that did not come to count.
    fn drop_limit(&self, limit: &Sqe) {
        if !limit.flags.contains(Flags::SKIP_SUCCESS) {
            self.post(limit.user_data, -Errno::ECANCELED.0, 0);
        }
    }

    /// True if the next completion finds no room in the ring.
    fn is_full(&self) -> bool {
        !self.overflow.borrow().is_empty() || self.available() >= self.layout.cq_entries
    }

    /// A request has ended.
    fn complete(&self, request: &Rc<Request>, result: i32) {
        if self.requests.borrow_mut().remove(&request.id).is_none() {
            return;
        }
        request.unwatch();
        let timers = (request.timer.take(), request.link_timer.take());
        drop(timers);
        let sqe = &request.sqe;
        let moved = request.moved.get().cast_signed();
        let result = if result < 0 && moved > 0 {
            moved
        } else {
            result
        };
        let skips = sqe.flags.contains(Flags::SKIP_SUCCESS);
        let before = self.completed.get();
        if result < 0 || !skips {
            self.post(sqe.user_data, result, request.cqe_flags.take());
        }
        if sqe.opcode == op::TIMEOUT {
            // Timeouts are not among the completions that timeouts wait for.
            self.completed.set(before);
        }
        if let Some(limit) = request.link_timeout.take() {
            self.drop_limit(&limit);
        }
        let mut rest = request.rest.take();
        let expected = sqe.opcode == op::TIMEOUT
            && result == -Errno::ETIME.0
            && sqe.op_flags & timeout::ETIME_SUCCESS != 0;
        let failed = (result < 0 && !expected) || issue::is_short(sqe, result);
        if failed && !sqe.flags.contains(Flags::HARDLINK) {
            // Whoever wants no word of its success wants none of what does not follow either.
            for sqe in rest.drain(..).filter(|_| !skips) {
                self.post(sqe.user_data, -Errno::ECANCELED.0, 0);
            }
        } else if !rest.is_empty() {
            // The time limit of a request that has already ended.
            if rest
                .front()
                .is_some_and(|sqe| sqe.opcode == op::LINK_TIMEOUT)
                && let Some(limit) = rest.pop_front()
            {
                self.drop_limit(&limit);
            }
            self.todo.borrow_mut().push_back(Chain {
                thread: request.thread.clone(),
                entries: rest,
            });
        }
        self.end_timeouts();
    }

    /// Ends timeouts that have waited for so many completions.
    fn end_timeouts(&self) {
        loop {
            let completed = self.completed.get();
            let reached = |request: &&Rc<Request>| {
                let until = request.until.get();
                until.is_some_and(|until| completed.wrapping_sub(until).cast_signed() >= 0)
            };
            let request = self.requests.borrow().values().find(reached).cloned();
            let Some(request) = request else { return };
            request.until.set(None);
            self.complete(&request, 0);
        }
    }

    /// Tries requests again whose files have woken them.
    pub(super) fn run_woken(&self) {
        loop {
            let Some(id) = self.woken.borrow_mut().pop_front() else {
                break;
            };
            let request = self.requests.borrow().get(&id).cloned();
            let Some(request) = request else { continue };
            request.woken.set(false);
            let Some(thread) = request.thread.upgrade() else {
                self.complete(&request, -Errno::ECANCELED.0);
                continue;
            };
            let outcome = issue::retry(self, &thread, &request);
            self.settle(&request, &outcome);
        }
        self.run();
    }

    /// Requests that `matches`, the oldest first.
    pub(super) fn find(&self, matches: impl Fn(&Request) -> bool) -> Vec<Rc<Request>> {
        let requests = self.requests.borrow();
        let found = requests.values().filter(|request| matches(request));
        found.cloned().collect()
    }

    /// Cancels a request that waits.
    pub(super) fn cancel(&self, request: &Rc<Request>) {
        self.complete(request, -Errno::ECANCELED.0);
    }

    /// Puts another request in the place of one that waits: the same file, the same ones behind it.
    pub(super) fn replace(&self, request: &Rc<Request>, sqe: Sqe) {
        if self.requests.borrow_mut().remove(&request.id).is_none() {
            return;
        }
        request.unwatch();
        let mut entries = request.rest.take();
        if let Some(limit) = request.link_timeout.take() {
            entries.push_front(limit);
        }
        entries.push_front(sqe);
        self.todo.borrow_mut().push_back(Chain {
            thread: request.thread.clone(),
            entries,
        });
    }

    /// Changes the time of a timeout, or of a request's limit.
    pub(super) fn set_time(&self, request: &Rc<Request>, at: u64, limit: bool) {
        if limit {
            self.limit(request, at);
        } else {
            self.arm(request, at);
        }
    }

    /// True if this request has a limit with this name.
    pub(super) fn limits(request: &Request, user_data: u64) -> bool {
        let limit = request.link_timeout.get();
        limit.is_some_and(|limit| limit.user_data == user_data)
    }

    /// The instance is closed: nothing waits any more.
    pub(super) fn cancel_all(&self) {
        self.deferred.borrow_mut().clear();
        self.todo.borrow_mut().clear();
        let requests = core::mem::take(&mut *self.requests.borrow_mut());
        for request in requests.values() {
            request.unwatch();
            let timers = (request.timer.take(), request.link_timer.take());
            drop(timers);
        }
        let files = self.files.take();
        drop(files);
        let eventfd = self.eventfd.take();
        drop(eventfd);
    }
}
