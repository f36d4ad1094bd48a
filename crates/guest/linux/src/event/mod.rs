//! Descriptors that stand for events: pipes, `eventfd(2)`, `timerfd_create(2)`, `signalfd(2)`, and waiting for many descriptors at once by
//! `epoll(7)`, `poll(2)` and `select(2)`.
//!
//! Everything here is built on [`WaitQueue`](crate::wait::WaitQueue): who can become ready wakes his queue, and entries of an epoll instance are observers of it.

pub mod epoll;
pub mod eventfd;
pub mod fifo;
pub mod pipe;
pub mod poll;
pub mod ring;
pub mod signalfd;
pub mod timerfd;
pub mod uring;

use core::cell::Cell;

use alloc::collections::BTreeMap;
use alloc::rc::Weak;
use core::cell::RefCell;

use crate::fs::{Kind, Metadata};
use crate::platform;

/// For how long a busy program may find events ready before the network is looked at nevertheless: nanoseconds.
const LOOK_AT_NETWORK_AFTER: u64 = 50_000;

/// What descriptors for events share.
#[derive(Debug, Default)]
pub struct State {
    last_inode: Cell<u64>,
    looked: Cell<u64>,
    /// A completion of an `io_uring` is being told.
    telling: Cell<bool>,
    /// Requests of an `io_uring` are being done on nobody's behalf, so that nobody can sleep in them.
    detached: Cell<bool>,
    /// FIFOs that are open, by device and inode.
    fifos: RefCell<BTreeMap<(u64, u64), Weak<pipe::Pipe>>>,
}

impl State {
    /// True while what is done must not sleep: no thread does it.
    pub fn is_detached(&self) -> bool {
        self.detached.get()
    }
}

/// A number for a file that has no name, for `fstat(2)` and the texts of `/proc/self/fd`.
pub fn anonymous_inode() -> u64 {
    let kernel = crate::kernel();
    let next = kernel.event.last_inode.get() + 1;
    kernel.event.last_inode.set(next);
    next
}

/// Device number of files without a name.
const ANONYMOUS_DEVICE: u64 = 0xe;

/// What `fstat(2)` tells of them.
pub fn anonymous_metadata(kind: Kind, inode: u64) -> Metadata {
    let now = platform::wall();
    Metadata {
        device: ANONYMOUS_DEVICE,
        inode,
        kind,
        mode: 0o600,
        links: 1,
        block_size: 4096,
        accessed: now,
        modified: now,
        changed: now,
        ..Metadata::default()
    }
}

/// Reads a signal mask that a call may have as an argument.
///
/// # Errors
/// `EINVAL` for a wrong size, `EFAULT`.
pub fn mask_argument(at: crate::user::UserAddr, size: u64) -> crate::Result<Option<u64>> {
    if at.is_null() {
        return Ok(None);
    }
    if size != 8 {
        return Err(crate::Errno::EINVAL);
    }
    Ok(Some(at.read()?))
}

/// Takes what has arrived from outside, before a call finds that nothing is ready and sleeps.
pub fn look_outside() {
    let kernel = crate::kernel();
    kernel.event.looked.set(platform::now());
    platform::turn();
}

/// The same for a call that has found something ready, if the last look is long ago: a program that is never idle sees new frames all the same.
pub fn look_outside_if_due() {
    let now = platform::now();
    let kernel = crate::kernel();
    if now.saturating_sub(kernel.event.looked.get()) >= LOOK_AT_NETWORK_AFTER {
        kernel.event.looked.set(now);
        platform::turn();
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A first process with a page of memory, for tests.

    use alloc::rc::Rc;

    use crate::platform::{self, Access, Backing, pretend};
    use crate::process::Thread;

    /// Where the page lies.
    pub const PAGE_AT: u64 = 0x10_0000;

    /// A new machine with one thread that has 16 pages of memory at [`PAGE_AT`].
    pub fn thread() -> Rc<Thread> {
        pretend::reset();
        let thread = crate::kernel().processes.first();
        let access = Access::READ | Access::WRITE;
        platform::map(PAGE_AT, 16 * 4096, access, Backing::Zero).expect("memory");
        thread
    }
}
