//! Ending or changing requests that wait: `IORING_OP_ASYNC_CANCEL`, `POLL_REMOVE`, `TIMEOUT_REMOVE`,
//! `IORING_REGISTER_SYNC_CANCEL`.

use alloc::rc::Rc;

use super::Uring;
use super::issue::file_of;
use super::request::{self, timeout};
use super::sqe::{Sqe, op};
use crate::process::Thread;
use crate::user::UserAddr;
use crate::{Errno, Result};

/// Flags of `POLL_REMOVE` that change a request.
const POLL_MULTI: u32 = 1;
const POLL_UPDATE_EVENTS: u32 = 2;
const POLL_UPDATE_USER_DATA: u32 = 4;

/// `IORING_ASYNC_CANCEL_*`
const CANCEL_ALL: u32 = 1;
const CANCEL_FD: u32 = 2;
const CANCEL_ANY: u32 = 4;
const CANCEL_FD_FIXED: u32 = 8;
const CANCEL_KNOWN: u32 = CANCEL_ALL | CANCEL_FD | CANCEL_ANY | CANCEL_FD_FIXED;

/// What is to be canceled: by name, by file, or all.
struct Choice {
    user_data: u64,
    fd: i32,
    flags: u32,
}

pub(super) fn cancel(uring: &Uring, thread: &Rc<Thread>, sqe: &Sqe) -> Result<u64> {
    let choice = Choice {
        user_data: sqe.addr,
        fd: sqe.fd,
        flags: sqe.op_flags,
    };
    cancel_chosen(uring, thread, &choice)
}

/// `IORING_REGISTER_SYNC_CANCEL`: `struct io_uring_sync_cancel_reg`. What is canceled has ended when the call returns, so its
/// time limit does not matter.
pub(super) fn cancel_now(
    uring: &Uring,
    thread: &Rc<Thread>,
    at: UserAddr,
    count: u32,
) -> Result<u64> {
    if count != 1 {
        return Err(Errno::EINVAL);
    }
    let user_data: u64 = at.read()?;
    let [fd, flags]: [u32; 2] = at.add(8).read()?;
    let reserved: [u64; 4] = at.add(32).read()?;
    if reserved != [0; 4] {
        return Err(Errno::EINVAL);
    }
    let choice = Choice {
        user_data,
        fd: fd.cast_signed(),
        flags,
    };
    cancel_chosen(uring, thread, &choice)
}

fn cancel_chosen(uring: &Uring, thread: &Rc<Thread>, choice: &Choice) -> Result<u64> {
    let flags = choice.flags;
    if flags & !CANCEL_KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let open = if flags & CANCEL_FD != 0 {
        let fixed = flags & CANCEL_FD_FIXED != 0;
        Some(file_of(uring, thread, choice.fd, fixed)?)
    } else {
        None
    };
    let found = uring.find(|request| {
        // Not itself, which is among the requests while it is tried.
        if request.sqe.opcode == op::ASYNC_CANCEL {
            return false;
        }
        if flags & CANCEL_ANY != 0 {
            return true;
        }
        match &open {
            Some(open) => {
                let its = request.open.borrow();
                its.as_ref().is_some_and(|its| Rc::ptr_eq(its, open))
            }
            None => request.sqe.user_data == choice.user_data,
        }
    });
    let all = flags & (CANCEL_ALL | CANCEL_ANY) != 0;
    let chosen = if all {
        &found[..]
    } else {
        found.get(..1).unwrap_or_default()
    };
    for request in chosen {
        uring.cancel(request);
    }
    match (chosen.len(), all) {
        (count, true) => Ok(count as u64),
        (0, false) => Err(Errno::ENOENT),
        _ => Ok(0),
    }
}

pub(super) fn remove_poll(uring: &Uring, sqe: &Sqe) -> Result<u64> {
    let changes = sqe.len & (POLL_UPDATE_EVENTS | POLL_UPDATE_USER_DATA);
    if sqe.len & !(POLL_MULTI | changes) != 0 || (changes == 0 && sqe.len != 0) {
        return Err(Errno::EINVAL);
    }
    let found = uring
        .find(|request| request.sqe.opcode == op::POLL_ADD && request.sqe.user_data == sqe.addr);
    let request = found.first().ok_or(Errno::ENOENT)?;
    if changes == 0 {
        uring.cancel(request);
        return Ok(0);
    }
    // A request is what its entry says: one that has been changed takes its place.
    let mut changed = request.sqe;
    if changes & POLL_UPDATE_EVENTS != 0 {
        changed.op_flags = sqe.op_flags;
        changed.len = sqe.len & POLL_MULTI;
    }
    if changes & POLL_UPDATE_USER_DATA != 0 {
        changed.user_data = sqe.off;
    }
    uring.replace(request, changed);
    Ok(0)
}

pub(super) fn remove_timeout(uring: &Uring, sqe: &Sqe) -> Result<u64> {
    let limit = sqe.op_flags & timeout::LINK_UPDATE != 0;
    let found = uring.find(|request| {
        if limit {
            Uring::limits(request, sqe.addr)
        } else {
            request.sqe.opcode == op::TIMEOUT && request.sqe.user_data == sqe.addr
        }
    });
    let request = found.first().ok_or(Errno::ENOENT)?;
    if sqe.op_flags & (timeout::UPDATE | timeout::LINK_UPDATE) != 0 {
        let at = request::time_at(sqe.off, sqe.op_flags)?;
        uring.set_time(request, at, limit);
    } else {
        uring.cancel(request);
    }
    Ok(0)
}
