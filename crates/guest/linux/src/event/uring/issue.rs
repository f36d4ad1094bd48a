//! What each operation does: nearly all of them are the system call of their name, without waiting.

use alloc::rc::Rc;

use super::request::{self, Request, timeout};
use super::sqe::{Flags, Sqe, op};
use super::{Uring, cancel, transfer};
use crate::fs::{OpenFile, OpenFlags};
use crate::process::Thread;
use crate::syscalls::{Args, table};
use crate::wait::Events;
use crate::{Errno, Result};

/// What a try has led to.
pub(super) enum Outcome {
    /// It has ended with this result.
    Done(i32),
    /// It has this result, and goes on.
    More(i32),
    /// It waits for its file.
    Wait(Events),
    /// It waits for a time, or for so many completions.
    Timeout { at: u64, count: u32 },
}

/// `IORING_POLL_ADD_MULTI`
const POLL_MULTI: u32 = 1;

/// Numbers of system calls.
pub(super) mod nr {
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const CLOSE: u64 = 3;
    pub const PREAD: u64 = 17;
    pub const PWRITE: u64 = 18;
    pub const READV: u64 = 19;
    pub const WRITEV: u64 = 20;
    pub const MADVISE: u64 = 28;
    pub const SOCKET: u64 = 41;
    pub const CONNECT: u64 = 42;
    pub const SENDTO: u64 = 44;
    pub const RECVFROM: u64 = 45;
    pub const SENDMSG: u64 = 46;
    pub const RECVMSG: u64 = 47;
    pub const SHUTDOWN: u64 = 48;
    pub const FSYNC: u64 = 74;
    pub const FDATASYNC: u64 = 75;
    pub const SETXATTR: u64 = 188;
    pub const FSETXATTR: u64 = 190;
    pub const GETXATTR: u64 = 191;
    pub const FGETXATTR: u64 = 193;
    pub const FADVISE: u64 = 221;
    pub const EPOLL_CTL: u64 = 233;
    pub const OPENAT: u64 = 257;
    pub const MKDIRAT: u64 = 258;
    pub const UNLINKAT: u64 = 263;
    pub const LINKAT: u64 = 265;
    pub const SYMLINKAT: u64 = 266;
    pub const TEE: u64 = 276;
    pub const SYNC_FILE_RANGE: u64 = 277;
    pub const FALLOCATE: u64 = 285;
    pub const ACCEPT4: u64 = 288;
    pub const PREADV: u64 = 295;
    pub const PWRITEV: u64 = 296;
    pub const RENAMEAT2: u64 = 316;
    pub const PREADV2: u64 = 327;
    pub const PWRITEV2: u64 = 328;
    pub const STATX: u64 = 332;
    pub const OPENAT2: u64 = 437;
}

/// Why an entry is refused before anything of its chain starts.
pub(super) fn refusal(sqe: &Sqe) -> Option<Errno> {
    if !op::is_known(sqe.opcode) || sqe.unknown_flags || sqe.personality != 0 {
        return Some(Errno::EINVAL);
    }
    let chooses = matches!(sqe.opcode, op::READ | op::READV | op::RECV | op::RECVMSG);
    if sqe.flags.contains(Flags::BUFFER_SELECT) && !chooses {
        return Some(Errno::EOPNOTSUPP);
    }
    let is_timeout = matches!(sqe.opcode, op::TIMEOUT | op::LINK_TIMEOUT);
    let bad = (is_timeout && (sqe.len != 1 || sqe.op_flags & !timeout::KNOWN != 0))
        || (sqe.opcode == op::LINK_TIMEOUT && sqe.off != 0)
        || !priority_is_valid(sqe)
        || transfer::refused_multishot(sqe);
    bad.then_some(Errno::EINVAL)
}

/// What `ioprio` may say: flags of sockets' operations, a priority (`ioprio_set(2)`) of reads and writes, nothing of the others.
fn priority_is_valid(sqe: &Sqe) -> bool {
    const CLASS_SHIFT: u16 = 13;
    const LEVELS: u16 = 8;
    match sqe.opcode {
        op::ACCEPT | op::SEND | op::RECV | op::SENDMSG | op::RECVMSG => true,
        op::READ | op::WRITE | op::READV | op::WRITEV | op::READ_FIXED | op::WRITE_FIXED => {
            let level = sqe.ioprio & ((1 << CLASS_SHIFT) - 1);
            match sqe.ioprio >> CLASS_SHIFT {
                0 => level == 0,
                1 | 2 => level < LEVELS,
                3 => true,
                _ => false,
            }
        }
        _ => sqe.ioprio == 0,
    }
}

/// True if a transfer has moved less than it was to, which breaks a chain.
pub(super) fn is_short(sqe: &Sqe, result: i32) -> bool {
    let one = matches!(
        sqe.opcode,
        op::READ | op::WRITE | op::READ_FIXED | op::WRITE_FIXED
    );
    let wanted = if one {
        sqe.len.into()
    } else if transfer::wants_all(sqe) {
        transfer::length(sqe).unwrap_or(0)
    } else {
        return false;
    };
    u64::try_from(result).is_ok_and(|moved| moved < wanted)
}

/// True for operations that are about the file `fd`.
fn has_file(opcode: u8) -> bool {
    matches!(
        opcode,
        op::READV
            | op::WRITEV
            | op::FSYNC
            | op::READ_FIXED
            | op::WRITE_FIXED
            | op::POLL_ADD
            | op::SYNC_FILE_RANGE
            | op::SENDMSG
            | op::RECVMSG
            | op::ACCEPT
            | op::CONNECT
            | op::FALLOCATE
            | op::READ
            | op::WRITE
            | op::FADVISE
            | op::SEND
            | op::RECV
            | op::SPLICE
            | op::TEE
            | op::SHUTDOWN
            | op::FSETXATTR
            | op::FGETXATTR
            | op::MSG_RING
    )
}

/// What an operation waits for when it cannot be done at once.
fn waits_for(opcode: u8) -> Option<Events> {
    Some(match opcode {
        op::READV | op::READ_FIXED | op::READ | op::RECV | op::RECVMSG | op::ACCEPT => {
            Events::READABLE
        }
        op::WRITEV | op::WRITE_FIXED | op::WRITE | op::SEND | op::SENDMSG | op::CONNECT => {
            Events::WRITABLE
        }
        _ => return None,
    })
}

/// Makes a system call.
pub(super) fn call(thread: &Rc<Thread>, number: u64, args: [u64; 6]) -> Result<u64> {
    let call = table::find(number).ok_or(Errno::EINVAL)?;
    (call.handler)(thread, Args(args))
}

/// Makes a call about an open file that may not have a descriptor, or not the one it had when the request came.
pub(super) fn with_descriptor<T>(
    thread: &Rc<Thread>,
    open: &Rc<OpenFile>,
    fd: i32,
    work: impl FnOnce(u64) -> Result<T>,
) -> Result<T> {
    let files = &thread.process.files;
    let has_it = files.get(fd).is_ok_and(|there| Rc::ptr_eq(&there, open));
    if has_it {
        return work(u64::from(fd.cast_unsigned()));
    }
    let own = files.add(open.clone(), true, 0)?;
    let result = work(u64::from(own.cast_unsigned()));
    let gone = files.remove(own);
    drop(gone);
    result
}

/// Does something with a description that does not wait meanwhile.
fn without_waiting<T>(open: &OpenFile, work: impl FnOnce() -> T) -> T {
    let before = open.flags.get();
    open.flags.set(before | OpenFlags::NONBLOCK);
    let result = work();
    if !before.contains(OpenFlags::NONBLOCK) {
        open.flags.set(open.flags.get() - OpenFlags::NONBLOCK);
    }
    result
}

/// The file that a number stands for: a descriptor, or a place among the registered files.
pub(super) fn file_of(
    uring: &Uring,
    thread: &Rc<Thread>,
    fd: i32,
    fixed: bool,
) -> Result<Rc<OpenFile>> {
    if !fixed {
        return thread.process.files.get(fd);
    }
    let files = uring.files.borrow();
    let slot = usize::try_from(fd).ok().and_then(|fd| files.get(fd));
    slot.cloned().flatten().ok_or(Errno::EBADF)
}

/// A request for the first time.
pub(super) fn first_try(uring: &Uring, thread: &Rc<Thread>, request: &Request) -> Outcome {
    let sqe = &request.sqe;
    if has_file(sqe.opcode) {
        let fixed = sqe.flags.contains(Flags::FIXED_FILE);
        match file_of(uring, thread, sqe.fd, fixed) {
            Ok(open) => {
                request.open.replace(Some(open));
            }
            Err(error) => return Outcome::Done(-error.0),
        }
    }
    retry(uring, thread, request)
}

/// A request whose file may be ready.
pub(super) fn retry(uring: &Uring, thread: &Rc<Thread>, request: &Request) -> Outcome {
    let sqe = &request.sqe;
    let open = request.open.borrow().clone();
    match sqe.opcode {
        op::NOP => return Outcome::Done(0),
        op::POLL_ADD => return poll(request, open.as_ref()),
        op::TIMEOUT => {
            return match request::time_at(sqe.addr, sqe.op_flags) {
                Ok(at) => Outcome::Timeout {
                    at,
                    count: sqe.off as u32,
                },
                Err(error) => Outcome::Done(-error.0),
            };
        }
        // A limit without anything in front of it.
        op::LINK_TIMEOUT => return Outcome::Done(-Errno::EINVAL.0),
        _ => {}
    }
    let result = match &open {
        Some(open) => without_waiting(open, || {
            with_descriptor(thread, open, sqe.fd, |fd| {
                transfer::start(uring, thread, request, open, fd)
            })
        }),
        None => other(uring, thread, sqe),
    };
    // A description that does not wait (`O_NONBLOCK`) makes no difference: the request waits, not the thread.
    let waits = waits_for(sqe.opcode).filter(|_| {
        let has_queue = open
            .as_ref()
            .is_some_and(|open| open.file.queue().is_some());
        has_queue && !transfer::must_not_wait(sqe)
    });
    match (result, waits) {
        (Err(Errno::EAGAIN | Errno::EINPROGRESS | Errno::EALREADY), Some(wanted)) => {
            Outcome::Wait(wanted)
        }
        (Err(Errno::EISCONN), Some(_)) if request.wanted.get() != Events::empty() => {
            // It was made while the request waited.
            Outcome::Done(0)
        }
        (Ok(value), Some(wanted)) if goes_on(sqe, value) => {
            request.wanted.set(wanted | Events::ERR | Events::HUP);
            // More may be there already: it is looked at again.
            uring.note_woken(request.id);
            Outcome::More(value as i32)
        }
        (Ok(value), _) => Outcome::Done(i32::try_from(value).unwrap_or(i32::MAX)),
        (Err(Errno::ERESTARTSYS | Errno::ERESTARTNOINTR | Errno::ERESTARTNOHAND), _) => {
            Outcome::Done(-Errno::EINTR.0)
        }
        (Err(error), _) => Outcome::Done(-error.0),
    }
}

/// True if another result follows this one.
fn goes_on(sqe: &Sqe, result: u64) -> bool {
    match sqe.opcode {
        op::ACCEPT => sqe.ioprio & transfer::ACCEPT_MULTI != 0,
        // Behind the end of a stream nothing comes.
        _ => transfer::is_multishot_receive(sqe) && result > 0,
    }
}

fn poll(request: &Request, open: Option<&Rc<OpenFile>>) -> Outcome {
    let sqe = &request.sqe;
    let Some(open) = open else {
        return Outcome::Done(-Errno::EBADF.0);
    };
    let wanted = Events::from_bits_truncate(sqe.op_flags) | Events::ERR | Events::HUP;
    let found = open.file.poll(open) & wanted;
    if found.is_empty() {
        if open.file.queue().is_none() {
            return Outcome::Done(-Errno::EINVAL.0);
        }
        return Outcome::Wait(wanted);
    }
    let found = found.bits().cast_signed();
    if sqe.len & POLL_MULTI != 0 {
        request.wanted.set(wanted);
        return Outcome::More(found);
    }
    Outcome::Done(found)
}

/// Gives a new descriptor's file to the registered ones, if the entry asks for that.
pub(super) fn register_result(
    uring: &Uring,
    thread: &Rc<Thread>,
    sqe: &Sqe,
    fd: u64,
) -> Result<u64> {
    let Some(slot) = sqe.file_index.checked_sub(1) else {
        return Ok(fd);
    };
    let descriptor = thread.process.files.remove(fd as i32)?;
    let mut files = uring.files.borrow_mut();
    if files.is_empty() {
        return Err(Errno::ENXIO);
    }
    let slot = if sqe.file_index == u32::MAX {
        // IORING_FILE_INDEX_ALLOC
        let free = files.iter().position(Option::is_none);
        free.ok_or(Errno::ENFILE)?
    } else {
        slot as usize
    };
    let place = files.get_mut(slot).ok_or(Errno::EINVAL)?;
    let before = place.replace(descriptor.open);
    drop(files);
    drop(before);
    Ok(if sqe.file_index == u32::MAX {
        slot as u64
    } else {
        0
    })
}

/// Operations that are not about a file that is open.
fn other(uring: &Uring, thread: &Rc<Thread>, sqe: &Sqe) -> Result<u64> {
    let fd = u64::from(sqe.fd.cast_unsigned());
    let (addr, off, len) = (sqe.addr, sqe.off, u64::from(sqe.len));
    let flags = u64::from(sqe.op_flags);
    match sqe.opcode {
        op::OPENAT => {
            let opened = call(thread, nr::OPENAT, [fd, addr, flags, len, 0, 0])?;
            register_result(uring, thread, sqe, opened)
        }
        op::OPENAT2 => {
            let opened = call(thread, nr::OPENAT2, [fd, addr, off, len, 0, 0])?;
            register_result(uring, thread, sqe, opened)
        }
        op::SOCKET => {
            let made = call(thread, nr::SOCKET, [fd, off, len, 0, 0, 0])?;
            register_result(uring, thread, sqe, made)
        }
        op::CLOSE => match sqe.file_index.checked_sub(1) {
            None => {
                // An instance is not closed by itself, nor by another one.
                let open = thread.process.files.get(sqe.fd)?;
                if open.downcast::<Uring>().is_some() {
                    return Err(Errno::EBADF);
                }
                call(thread, nr::CLOSE, [fd, 0, 0, 0, 0, 0])
            }
            Some(slot) => {
                let mut files = uring.files.borrow_mut();
                let place = files.get_mut(slot as usize).ok_or(Errno::EINVAL)?;
                let gone = place.take().ok_or(Errno::EBADF)?;
                drop(files);
                drop(gone);
                Ok(0)
            }
        },
        op::STATX => call(thread, nr::STATX, [fd, addr, flags, len, off, 0]),
        op::MADVISE => call(thread, nr::MADVISE, [addr, len, flags, 0, 0, 0]),
        op::EPOLL_CTL => call(thread, nr::EPOLL_CTL, [fd, len, off, addr, 0, 0]),
        op::RENAMEAT => call(thread, nr::RENAMEAT2, [fd, addr, len, off, flags, 0]),
        op::UNLINKAT => call(thread, nr::UNLINKAT, [fd, addr, flags, 0, 0, 0]),
        op::MKDIRAT => call(thread, nr::MKDIRAT, [fd, addr, len, 0, 0, 0]),
        op::SYMLINKAT => call(thread, nr::SYMLINKAT, [addr, fd, off, 0, 0, 0]),
        op::LINKAT => call(thread, nr::LINKAT, [fd, addr, len, off, flags, 0]),
        op::SETXATTR => call(thread, nr::SETXATTR, [sqe.addr3, addr, off, len, flags, 0]),
        op::GETXATTR => call(thread, nr::GETXATTR, [sqe.addr3, addr, off, len, 0, 0]),
        op::FILES_UPDATE => uring.update_files_of(thread, sqe),
        op::PROVIDE_BUFFERS => uring.provide_buffers(sqe),
        op::REMOVE_BUFFERS => uring.remove_buffers(sqe),
        op::ASYNC_CANCEL => cancel::cancel(uring, thread, sqe),
        op::POLL_REMOVE => cancel::remove_poll(uring, sqe),
        op::TIMEOUT_REMOVE => cancel::remove_timeout(uring, sqe),
        _ => Err(Errno::EINVAL),
    }
}
