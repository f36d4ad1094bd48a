//! Locks: `flock(2)` and the locking commands of `fcntl(2)`.

use alloc::rc::Rc;

use super::{Args, Call};
use crate::fs::locks::{self, Lock, Owner};
use crate::fs::{OpenFile, OpenFlags};
use crate::process::Thread;
use crate::user::UserAddr;
use crate::{Errno, Result};

/// The calls.
pub const CALLS: &[Call] = &[Call::full(73, "flock", 2, flock)];

fn flock(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const SHARED: u32 = 1;
    const EXCLUSIVE: u32 = 2;
    const DO_NOT_BLOCK: u32 = 4;
    const UNLOCK: u32 = 8;
    let open = thread.process.files.get(args.int(0))?;
    if open.flags.get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    let operation = args.uint(1);
    let exclusive = match operation & !DO_NOT_BLOCK {
        SHARED => Some(false),
        EXCLUSIVE => Some(true),
        UNLOCK => None,
        _ => return Err(Errno::EINVAL),
    };
    locks::whole(thread, &open, exclusive, operation & DO_NOT_BLOCK == 0)?;
    Ok(0)
}

const READ: u16 = 0;
const WRITE: u16 = 1;
const UNLOCK: u16 = 2;

/// `F_GETLK`, `F_SETLK`, `F_SETLKW`, and those for open file descriptions.
pub(super) fn ranges(
    thread: &Rc<Thread>,
    open: &Rc<OpenFile>,
    command: u32,
    at: UserAddr,
) -> Result<u64> {
    let of_description = command >= 36;
    // struct flock: type and whence, start, length, process.
    let [kinds, start, len, pid] = at.read::<[u64; 4]>()?;
    let (kind, whence) = (kinds as u16, (kinds >> 16) as u16);
    if of_description && pid as u32 != 0 {
        return Err(Errno::EINVAL);
    }
    let (first, last) = range(open, whence, start.cast_signed(), len.cast_signed())?;
    let owner = if of_description {
        Owner::Description(Rc::as_ptr(open).addr())
    } else {
        Owner::Process(thread.process.pid)
    };
    let lock = Lock {
        owner,
        start: first,
        end: last,
        exclusive: kind == WRITE,
    };
    if kind > UNLOCK {
        return Err(Errno::EINVAL);
    }
    if matches!(command, 5 | 36) {
        if kind == UNLOCK {
            return Err(Errno::EINVAL);
        }
        let answer = match locks::conflict(open, &lock)? {
            None => [kinds & !0xffff | u64::from(UNLOCK), start, len, pid],
            Some(other) => {
                let kind = if other.exclusive { WRITE } else { READ };
                let len = if other.end == u64::MAX {
                    0
                } else {
                    other.end - other.start + 1
                };
                let pid = match other.owner {
                    Owner::Process(pid) => u64::from(pid),
                    Owner::Description(_) | Owner::Elsewhere => u64::from(u32::MAX),
                };
                [u64::from(kind), other.start, len, pid]
            }
        };
        at.write(answer)?;
        return Ok(0);
    }
    let flags = open.flags.get();
    match kind {
        READ if !flags.readable() => return Err(Errno::EBADF),
        WRITE if !flags.writable() => return Err(Errno::EBADF),
        UNLOCK => locks::give_up(open, owner, first, last)?,
        _ => locks::acquire(thread, open, lock, matches!(command, 7 | 38))?,
    }
    Ok(0)
}

/// First and last byte of a range.
fn range(open: &OpenFile, whence: u16, start: i64, len: i64) -> Result<(u64, u64)> {
    let base = match whence {
        0 => 0,
        1 => open.offset.get(),
        2 => open.file.metadata()?.size,
        _ => return Err(Errno::EINVAL),
    };
    let start = base
        .cast_signed()
        .checked_add(start)
        .ok_or(Errno::EOVERFLOW)?;
    let (first, last) = match len {
        0 => (start, i64::MAX),
        1.. => (start, start.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?),
        _ => (start.checked_add(len).ok_or(Errno::EINVAL)?, start - 1),
    };
    let first = u64::try_from(first).map_err(|_| Errno::EINVAL)?;
    let last = if last == i64::MAX {
        u64::MAX
    } else {
        u64::try_from(last).map_err(|_| Errno::EINVAL)?
    };
    Ok((first, last))
}
