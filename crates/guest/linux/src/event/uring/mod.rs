//! `io_uring(7)`: calls that are asked for by entries in shared memory, and answered there.
//!
//! An entry is tried at once when it is submitted, as the system call of its name without waiting. If that would have to wait, the request becomes an
//! observer of the file's queue; a wake-up notes it, and it is tried again as soon as the processor is free for it: by a
//! timer that is due at once, so it does not matter what the program waits for meanwhile.
//!
//! | module | its part |
//! | --- | --- |
//! | [`memory`] | the rings |
//! | [`sqe`] | what an entry says |
//! | [`request`] | requests that wait, chains of them, timeouts, cancelling |
//! | [`issue`] | what each operation does |
//! | [`transfer`] | those that move bytes |
//! | [`buffers`] | buffers that reads choose from |
//! | [`cancel`] | ending and changing what waits |
//! | [`register`] | `io_uring_register(2)` |

mod buffers;
mod cancel;
mod issue;
mod memory;
mod register;
mod request;
pub mod sqe;
mod transfer;

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};

use crate::fs::{File, Kind, Mapped, Metadata, OpenFile};
use crate::io::IoVec;
use crate::process::Thread;
use crate::time::Timer;
use crate::wait::{self, Deadline, Events, WaitQueue};
use crate::{Errno, Result};
use buffers::Group;
use memory::{Layout, Region, Rings};
use request::{Chain, Request};
use sqe::Sqe;

/// The most entries (`IORING_MAX_ENTRIES`).
const MAX_ENTRIES: u32 = 32768;

/// `IORING_SETUP_*`
mod setup {
    pub const CQSIZE: u32 = 8;
    pub const CLAMP: u32 = 0x10;
    pub const ATTACH_WQ: u32 = 0x20;
    pub const R_DISABLED: u32 = 0x40;
    pub const SUBMIT_ALL: u32 = 0x80;
    pub const COOP_TASKRUN: u32 = 0x100;
    pub const TASKRUN_FLAG: u32 = 0x200;
    pub const SQE128: u32 = 0x400;
    pub const CQE32: u32 = 0x800;
    pub const SINGLE_ISSUER: u32 = 0x1000;
    pub const DEFER_TASKRUN: u32 = 0x2000;
    /// Those that polling of devices and a thread of its own would need are not among them.
    pub const KNOWN: u32 = CQSIZE
        | CLAMP
        | ATTACH_WQ
        | R_DISABLED
        | SUBMIT_ALL
        | COOP_TASKRUN
        | TASKRUN_FLAG
        | SQE128
        | CQE32
        | SINGLE_ISSUER
        | DEFER_TASKRUN;
}

/// `IORING_FEAT_*`: one mapping, no dropped completions, stable submissions, present positions and credentials, fast polling with 32 bits,
/// extended arguments, native workers, tags, skipped completions.
const FEATURES: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 | 0x400 | 0x800;

/// `IORING_SQ_CQ_OVERFLOW`: completions wait for room.
const SQ_CQ_OVERFLOW: u32 = 2;

/// `struct io_uring_params`, in words.
pub type Params = [u32; 30];

/// An instance.
pub struct Uring {
    me: Weak<Self>,
    layout: Layout,
    flags: u32,
    rings: Rc<Rings>,
    queue: WaitQueue,
    enabled: Cell<bool>,
    /// Requests that wait, by number.
    requests: RefCell<BTreeMap<u64, Rc<Request>>>,
    last_request: Cell<u64>,
    /// Those that start when all before them have ended.
    deferred: RefCell<VecDeque<Chain>>,
    /// Those that start now.
    todo: RefCell<VecDeque<Chain>>,
    running: Cell<bool>,
    /// Requests whose file may be ready.
    woken: RefCell<VecDeque<u64>>,
    timer: RefCell<Option<Timer>>,
    /// Completions for which there was no room.
    overflow: RefCell<VecDeque<(u64, i32, u32)>>,
    /// How many completions there have been.
    completed: Cell<u32>,
    eventfd: RefCell<Option<Rc<OpenFile>>>,
    files: RefCell<Vec<Option<Rc<OpenFile>>>>,
    buffers: RefCell<Vec<IoVec>>,
    /// Words that are posted when a registered file or buffer goes; 0 for none.
    file_tags: RefCell<Vec<u64>>,
    buffer_tags: RefCell<Vec<u64>>,
    /// Buffers that reads choose from, by the number of their group.
    groups: RefCell<BTreeMap<u16, Group>>,
    /// The only thread that may use it (`IORING_SETUP_SINGLE_ISSUER`).
    issuer: RefCell<Option<Weak<Thread>>>,
}

impl core::fmt::Debug for Uring {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Uring({} waiting)", self.requests.borrow().len())
    }
}

impl Uring {
    /// `io_uring_setup(2)`: the parameters are filled in.
    ///
    /// # Errors
    /// `EINVAL`, `ENOMEM`.
    pub fn new(entries: u32, params: &mut Params) -> Result<Rc<Self>> {
        let flags = params[2];
        if flags & !setup::KNOWN != 0 || entries == 0 || params[7..10] != [0; 3] {
            return Err(Errno::EINVAL);
        }
        let (deferred, single) = (setup::DEFER_TASKRUN, setup::SINGLE_ISSUER);
        let told = setup::COOP_TASKRUN | setup::DEFER_TASKRUN;
        if flags & deferred != 0 && flags & single == 0
            || flags & setup::TASKRUN_FLAG != 0 && flags & told == 0
        {
            return Err(Errno::EINVAL);
        }
        let clamp = |wanted: u32, most: u32| match wanted {
            0 => Err(Errno::EINVAL),
            wanted if wanted <= most => Ok(wanted.next_power_of_two()),
            _ if flags & setup::CLAMP != 0 => Ok(most),
            _ => Err(Errno::EINVAL),
        };
        let sq_entries = clamp(entries, MAX_ENTRIES)?;
        let cq_entries = if flags & setup::CQSIZE != 0 {
            clamp(params[1], 2 * MAX_ENTRIES)?
        } else {
            2 * sq_entries
        };
        if cq_entries < sq_entries {
            return Err(Errno::EINVAL);
        }
        let layout = Layout {
            sq_entries,
            cq_entries,
            sqe_size: if flags & setup::SQE128 != 0 { 128 } else { 64 },
            cqe_size: if flags & setup::CQE32 != 0 { 32 } else { 16 },
        };
        let ring = Region::new(layout.ring_bytes())?;
        ring.set(Layout::SQ_MASK, sq_entries - 1);
        ring.set(Layout::CQ_MASK, cq_entries - 1);
        ring.set(Layout::SQ_ENTRIES, sq_entries);
        ring.set(Layout::CQ_ENTRIES, cq_entries);
        let sqes = Region::new(layout.sqe_bytes())?;
        params[0] = sq_entries;
        params[1] = cq_entries;
        params[5] = FEATURES;
        let offsets = [
            Layout::SQ_HEAD,
            Layout::SQ_TAIL,
            Layout::SQ_MASK,
            Layout::SQ_ENTRIES,
            Layout::SQ_FLAGS,
            Layout::SQ_DROPPED,
            layout.array(),
            0,
            0,
            0,
            Layout::CQ_HEAD,
            Layout::CQ_TAIL,
            Layout::CQ_MASK,
            Layout::CQ_ENTRIES,
            Layout::CQ_OVERFLOW,
            Layout::CQES,
            Layout::CQ_FLAGS,
            0,
            0,
            0,
        ];
        for (to, from) in params[10..].iter_mut().zip(offsets) {
            *to = from as u32;
        }
        Ok(Rc::new_cyclic(|me| Self {
            me: me.clone(),
            layout,
            flags,
            rings: Rc::new(Rings { ring, sqes }),
            queue: WaitQueue::new(),
            enabled: Cell::new(flags & setup::R_DISABLED == 0),
            requests: RefCell::default(),
            last_request: Cell::new(0),
            deferred: RefCell::default(),
            todo: RefCell::default(),
            running: Cell::new(false),
            woken: RefCell::default(),
            timer: RefCell::default(),
            overflow: RefCell::default(),
            completed: Cell::new(0),
            eventfd: RefCell::default(),
            files: RefCell::default(),
            buffers: RefCell::default(),
            file_tags: RefCell::default(),
            buffer_tags: RefCell::default(),
            groups: RefCell::default(),
            issuer: RefCell::default(),
        }))
    }

    fn word(&self, offset: usize) -> u32 {
        self.rings.ring.word(offset)
    }

    fn set(&self, offset: usize, value: u32) {
        self.rings.ring.set(offset, value);
    }

    /// Completions that the program has not taken.
    fn available(&self) -> u32 {
        let ready = self
            .word(Layout::CQ_TAIL)
            .wrapping_sub(self.word(Layout::CQ_HEAD));
        ready.min(self.layout.cq_entries)
    }

    /// Puts a completion into the ring; false if it is full.
    fn put(&self, user_data: u64, result: i32, flags: u32) -> bool {
        if self.available() >= self.layout.cq_entries {
            return false;
        }
        let tail = self.word(Layout::CQ_TAIL);
        let index = (tail & (self.layout.cq_entries - 1)) as usize;
        let at = Layout::CQES + index * self.layout.cqe_size;
        self.set(at, user_data as u32);
        self.set(at + 4, (user_data >> 32) as u32);
        self.set(at + 8, result.cast_unsigned());
        self.set(at + 12, flags);
        self.set(Layout::CQ_TAIL, tail.wrapping_add(1));
        true
    }

    /// Tells the program of something.
    fn post(&self, user_data: u64, result: i32, flags: u32) {
        self.completed.set(self.completed.get().wrapping_add(1));
        let waits = !self.overflow.borrow().is_empty();
        if waits || !self.put(user_data, result, flags) {
            self.overflow
                .borrow_mut()
                .push_back((user_data, result, flags));
            let told = self.word(Layout::SQ_FLAGS) | SQ_CQ_OVERFLOW;
            self.set(Layout::SQ_FLAGS, told);
        }
        let kernel = crate::kernel();
        let outer = kernel.event.telling.replace(true);
        self.queue.wake(Events::READABLE);
        let eventfd = self.eventfd.borrow().clone();
        // IORING_CQ_EVENTFD_DISABLED
        if let Some(open) = eventfd.filter(|_| self.word(Layout::CQ_FLAGS) & 1 == 0)
            && let Some(counter) = open.downcast::<super::eventfd::EventFd>()
        {
            counter.signal(1);
        }
        kernel.event.telling.set(outer);
    }

    /// Puts waiting completions into the ring, as far as there is room now.
    fn flush_overflow(&self) {
        loop {
            let Some((user_data, result, flags)) = self.overflow.borrow().front().copied() else {
                let told = self.word(Layout::SQ_FLAGS) & !SQ_CQ_OVERFLOW;
                self.set(Layout::SQ_FLAGS, told);
                return;
            };
            if !self.put(user_data, result, flags) {
                return;
            }
            self.overflow.borrow_mut().pop_front();
        }
    }

    /// Takes up to `count` entries from the submission ring and starts them. Returns how many were taken.
    fn submit(&self, thread: &Rc<Thread>, count: u32) -> u32 {
        let mask = self.layout.sq_entries - 1;
        let mut taken = 0;
        let mut chain = VecDeque::new();
        loop {
            let head = self.word(Layout::SQ_HEAD);
            let there = self.word(Layout::SQ_TAIL).wrapping_sub(head);
            if taken >= count || there == 0 || there > self.layout.sq_entries {
                break;
            }
            let slot = self.layout.array() + (head & mask) as usize * 4;
            let index = self.word(slot);
            self.set(Layout::SQ_HEAD, head.wrapping_add(1));
            if index >= self.layout.sq_entries {
                let dropped = self.word(Layout::SQ_DROPPED).wrapping_add(1);
                self.set(Layout::SQ_DROPPED, dropped);
                break;
            }
            taken += 1;
            let sqe = Sqe::read(&self.rings.sqes, index as usize * self.layout.sqe_size);
            let refused = issue::refusal(&sqe);
            let goes_on = sqe.is_linked() && refused.is_none_or(|_| !sqe.unknown_flags);
            chain.push_back((sqe, refused));
            if goes_on {
                continue;
            }
            self.start_or_refuse(thread, core::mem::take(&mut chain));
            // A bad entry at the end ends the submission as well.
            if refused.is_some() && self.flags & setup::SUBMIT_ALL == 0 {
                break;
            }
        }
        if !chain.is_empty() {
            self.start_or_refuse(thread, chain);
        }
        taken
    }

    /// Starts a chain; one with a bad member fails as a whole.
    fn start_or_refuse(&self, thread: &Rc<Thread>, chain: VecDeque<(Sqe, Option<Errno>)>) {
        if chain.iter().all(|(_, refused)| refused.is_none()) {
            let entries = chain.into_iter().map(|(sqe, _)| sqe).collect();
            return self.start(Chain::new(thread, entries));
        }
        for (sqe, refused) in chain {
            let error = refused.unwrap_or(Errno::ECANCELED);
            self.post(sqe.user_data, -error.0, 0);
        }
    }

    /// Fails if the instance belongs to another thread.
    fn check_issuer(&self, thread: &Rc<Thread>) -> Result {
        let issuer = self.issuer.borrow();
        let other = issuer
            .as_ref()
            .is_some_and(|issuer| !core::ptr::eq(issuer.as_ptr(), Rc::as_ptr(thread)));
        if other {
            return Err(Errno::EEXIST);
        }
        Ok(())
    }

    /// From now on the instance belongs to this thread, if it was made to belong to one.
    pub fn belongs_to(&self, thread: &Rc<Thread>) {
        if self.flags & setup::SINGLE_ISSUER != 0 && self.enabled.get() {
            self.issuer.replace(Some(Rc::downgrade(thread)));
        }
    }

    /// `io_uring_enter(2)`.
    ///
    /// # Errors
    /// `EBADFD` while the rings are disabled, `EEXIST` for a thread that the instance does not belong to, `EINTR`, `ETIME`.
    pub fn enter(
        &self,
        thread: &Rc<Thread>,
        count: u32,
        wanted: Option<u32>,
        deadline: Deadline,
    ) -> Result<u32> {
        if !self.enabled.get() {
            return Err(Errno::EBADFD);
        }
        self.check_issuer(thread)?;
        let submitted = if count > 0 {
            self.submit(thread, count)
        } else {
            0
        };
        self.run_woken();
        let Some(wanted) = wanted else {
            return Ok(submitted);
        };
        self.flush_overflow();
        let wanted = wanted.min(self.layout.cq_entries);
        if self.available() >= wanted {
            super::look_outside_if_due();
        } else {
            super::look_outside();
        }
        self.run_woken();
        let slept = wait::sleep_until(thread, &[&self.queue], deadline, || {
            self.run_woken();
            (self.available() >= wanted).then_some(())
        });
        match slept {
            Err(_) if submitted > 0 => Ok(submitted),
            Err(Errno::ETIMEDOUT) => Err(Errno::ETIME),
            Err(_) => Err(Errno::EINTR),
            Ok(()) => Ok(submitted),
        }
    }

    /// A request may be able to go on: it is tried as soon as nothing else is being done.
    fn note_woken(&self, id: u64) {
        self.woken.borrow_mut().push_back(id);
        if self.timer.borrow().is_some() {
            return;
        }
        let me = self.me.clone();
        let run = Box::new(move || {
            if let Some(uring) = me.upgrade() {
                let done = uring.timer.take();
                drop(done);
                detached(|| uring.run_woken());
            }
        });
        let timer = crate::kernel().timers.at(0, run);
        self.timer.replace(Some(timer));
        // Who sleeps in io_uring_enter(2) can do it as well.
        self.queue.wake(Events::empty());
    }
}

/// Does what a timer has started: whichever thread runs is not the one that it is done for.
fn detached(work: impl FnOnce()) {
    let kernel = crate::kernel();
    let outer = kernel.event.detached.replace(true);
    work();
    kernel.event.detached.set(outer);
}

impl File for Uring {
    fn poll(&self, _open: &OpenFile) -> Events {
        let mut events = Events::empty();
        let ready = self.available() > 0 || !self.overflow.borrow().is_empty();
        events.set(Events::READABLE, ready);
        let used = self
            .word(Layout::SQ_TAIL)
            .wrapping_sub(self.word(Layout::SQ_HEAD));
        events.set(Events::WRITABLE, used < self.layout.sq_entries);
        events
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(super::anonymous_metadata(Kind::Anonymous, 1))
    }

    fn map(&self, _shared: bool) -> Result<Mapped> {
        Ok(Mapped::Pages(self.rings.clone()))
    }

    fn release(&self) {
        self.cancel_all();
    }

    fn describe(&self) -> Vec<u8> {
        b"anon_inode:[io_uring]".to_vec()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
