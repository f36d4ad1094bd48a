//! Operations that move bytes from or to an open file.

use alloc::rc::Rc;

use super::Uring;
use super::issue::{call, file_of, nr, register_result, with_descriptor};
use super::request::Request;
use super::sqe::{Flags, Sqe, op};
use crate::fs::OpenFile;
use crate::net::{SOCK_SEQPACKET, SOCK_STREAM, Socket};
use crate::process::Thread;
use crate::syscalls::transfer::splice_at;
use crate::user::UserAddr;
use crate::{Errno, Result};

/// `MSG_WAITALL`, `MSG_DONTWAIT`
const MSG_WAITALL: u32 = 0x100;
const MSG_DONTWAIT: u32 = 0x40;
/// `RWF_NOWAIT`
const RWF_NOWAIT: u32 = 8;
/// `IORING_ACCEPT_DONTWAIT`
const ACCEPT_DONTWAIT: u16 = 2;
/// `IORING_ACCEPT_MULTISHOT`
pub(super) const ACCEPT_MULTI: u16 = 1;
/// `IORING_RECV_MULTISHOT`
const RECV_MULTI: u16 = 2;
/// `SPLICE_F_FD_IN_FIXED`
const SPLICE_FIXED: u32 = 1 << 31;
/// Where vectors and their number lie in `struct msghdr`.
const VECTORS_AT: u64 = 16;

/// True if the entry says that it is not to wait. What the description says (`O_NONBLOCK`) does not count.
pub(super) fn must_not_wait(sqe: &Sqe) -> bool {
    match sqe.opcode {
        op::SEND | op::RECV | op::SENDMSG | op::RECVMSG => sqe.op_flags & MSG_DONTWAIT != 0,
        op::READ | op::WRITE | op::READV | op::WRITEV | op::READ_FIXED | op::WRITE_FIXED => {
            sqe.op_flags & RWF_NOWAIT != 0
        }
        op::ACCEPT => sqe.ioprio & ACCEPT_DONTWAIT != 0,
        _ => false,
    }
}

/// True if it goes on with the next message after each one.
pub(super) fn is_multishot_receive(sqe: &Sqe) -> bool {
    sqe.opcode == op::RECV && sqe.ioprio & RECV_MULTI != 0
}

/// True for one that goes on and cannot: a receive needs buffers to choose from, `recvmsg(2)` has no such form here, and an accept
/// has no more than one file for one place among the registered ones.
pub(super) fn refused_multishot(sqe: &Sqe) -> bool {
    match sqe.opcode {
        op::RECV if is_multishot_receive(sqe) => {
            !sqe.flags.contains(Flags::BUFFER_SELECT) || sqe.op_flags & MSG_WAITALL != 0
        }
        op::RECVMSG => sqe.ioprio & RECV_MULTI != 0,
        op::ACCEPT => {
            let any_place = sqe.file_index == u32::MAX;
            sqe.ioprio & ACCEPT_MULTI != 0 && sqe.file_index != 0 && !any_place
        }
        _ => false,
    }
}

/// True if all of its bytes are to be moved before it ends.
pub(super) fn wants_all(sqe: &Sqe) -> bool {
    matches!(sqe.opcode, op::SEND | op::RECV | op::SENDMSG | op::RECVMSG)
        && sqe.op_flags & MSG_WAITALL != 0
}

/// Bytes that the entry is about.
pub(super) fn length(sqe: &Sqe) -> Result<u64> {
    if !matches!(sqe.opcode, op::SENDMSG | op::RECVMSG) {
        return Ok(sqe.len.into());
    }
    let [at, count]: [u64; 2] = UserAddr(sqe.addr).add(VECTORS_AT).read()?;
    let vectors = crate::io::vectors(UserAddr(at), count)?;
    Ok(vectors.iter().map(|vector| vector.len).sum())
}

/// A transfer as the entry says, in a buffer of its group if it has none of its own.
pub(super) fn start(
    uring: &Uring,
    thread: &Rc<Thread>,
    request: &Request,
    open: &OpenFile,
    fd: u64,
) -> Result<u64> {
    let sqe = &request.sqe;
    if sqe.flags.contains(Flags::BUFFER_SELECT) {
        return into_chosen(uring, thread, request, fd);
    }
    if !wants_all(sqe) {
        return transfer(uring, thread, sqe, fd);
    }
    let whole = Sqe {
        op_flags: sqe.op_flags & !MSG_WAITALL,
        ..*sqe
    };
    let stream = open
        .downcast::<Socket>()
        .is_some_and(|socket| matches!(socket.kind, SOCK_STREAM | SOCK_SEQPACKET));
    if !stream {
        return transfer(uring, thread, &whole, fd);
    }
    let wanted = length(sqe)?;
    loop {
        let moved = u64::from(request.moved.get());
        let result = if moved == 0 {
            transfer(uring, thread, &whole, fd)
        } else {
            rest(thread, &whole, fd, moved)
        };
        match result {
            Ok(0) => return Ok(moved),
            Ok(more) if moved + more < wanted => request.moved.set((moved + more) as u32),
            Ok(more) => return Ok(moved + more),
            Err(Errno::EAGAIN) => return Err(Errno::EAGAIN),
            Err(_) if moved > 0 => return Ok(moved),
            Err(error) => return Err(error),
        }
    }
}

/// What follows the first `moved` bytes of a message, as far as one of its vectors goes.
fn rest(thread: &Rc<Thread>, sqe: &Sqe, fd: u64, moved: u64) -> Result<u64> {
    let flags = u64::from(sqe.op_flags);
    let (number, (at, len)) = match sqe.opcode {
        op::SEND => (nr::SENDTO, (sqe.addr + moved, u64::from(sqe.len) - moved)),
        op::RECV => (nr::RECVFROM, (sqe.addr + moved, u64::from(sqe.len) - moved)),
        opcode => {
            let [at, count]: [u64; 2] = UserAddr(sqe.addr).add(VECTORS_AT).read()?;
            let mut skip = moved;
            let vectors = crate::io::vectors(UserAddr(at), count)?;
            let next = vectors.iter().find(|vector| {
                let here = vector.len > skip;
                if !here {
                    skip -= vector.len;
                }
                here
            });
            let next = next.ok_or(Errno::EFAULT)?;
            let number = if opcode == op::SENDMSG {
                nr::SENDTO
            } else {
                nr::RECVFROM
            };
            (number, (next.base + skip, next.len - skip))
        }
    };
    call(thread, number, [fd, at, len, flags, 0, 0])
}

/// A read into the next buffer of the entry's group. Its number goes with the completion.
fn into_chosen(uring: &Uring, thread: &Rc<Thread>, request: &Request, fd: u64) -> Result<u64> {
    /// `IORING_CQE_F_BUFFER`
    const BUFFER: u32 = 1;
    const ID_SHIFT: u32 = 16;
    let sqe = &request.sqe;
    let buffer = uring.next_buffer(sqe.buf_index)?;
    // One vector at most says how long it may be.
    let vector = match sqe.opcode {
        op::READV if sqe.len == 1 => Some(UserAddr(sqe.addr)),
        op::READV => return Err(Errno::EINVAL),
        op::RECVMSG => {
            let [at, count]: [u64; 2] = UserAddr(sqe.addr).add(VECTORS_AT).read()?;
            if count != 1 {
                return Err(Errno::EINVAL);
            }
            Some(UserAddr(at))
        }
        _ => None,
    };
    let asked = match vector {
        Some(vector) => vector.add(8).read()?,
        None => u64::from(sqe.len),
    };
    let len = match asked {
        0 => buffer.len,
        asked => u32::try_from(asked).unwrap_or(u32::MAX).min(buffer.len),
    };
    let result = match (sqe.opcode, vector) {
        (op::RECVMSG, Some(vector)) => {
            // The record is the program's: it gets its vector back as it was.
            let before: [u64; 2] = vector.read()?;
            vector.write([buffer.address, u64::from(len)])?;
            let result = transfer(uring, thread, sqe, fd);
            vector.write(before)?;
            result
        }
        (opcode, _) => {
            let opcode = if opcode == op::READV {
                op::READ
            } else {
                opcode
            };
            let into = Sqe {
                opcode,
                addr: buffer.address,
                len,
                ..*sqe
            };
            transfer(uring, thread, &into, fd)
        }
    };
    let is_read = matches!(sqe.opcode, op::READ | op::READV);
    if result.as_ref().is_ok_and(|&moved| moved > 0 || is_read) {
        uring.take_buffer(sqe.buf_index);
        let named = BUFFER | (u32::from(buffer.id) << ID_SHIFT);
        request.cqe_flags.set(named);
    }
    result
}

/// The position that a transfer has of its own; `None` for the file's.
fn position(sqe: &Sqe) -> Option<u64> {
    (sqe.off != u64::MAX).then_some(sqe.off)
}

/// Reads or writes at a position, or where there are none, as it comes.
fn at_position(
    thread: &Rc<Thread>,
    sqe: &Sqe,
    positioned: u64,
    plain: u64,
    fd: u64,
) -> Result<u64> {
    let (addr, len) = (sqe.addr, u64::from(sqe.len));
    if let Some(off) = position(sqe) {
        match call(thread, positioned, [fd, addr, len, off, 0, 0]) {
            Err(Errno::ESPIPE) => {}
            other => return other,
        }
    }
    call(thread, plain, [fd, addr, len, 0, 0, 0])
}

/// The same with flags (`RWF_*`).
fn with_flags(thread: &Rc<Thread>, sqe: &Sqe, number: u64, fd: u64) -> Result<u64> {
    let (addr, len, flags) = (sqe.addr, u64::from(sqe.len), u64::from(sqe.op_flags));
    call(thread, number, [fd, addr, len, sqe.off, 0, flags])
}

/// A transfer from or to a registered buffer.
fn in_buffer(uring: &Uring, sqe: &Sqe) -> Result {
    let buffers = uring.buffers.borrow();
    let buffer = buffers
        .get(usize::from(sqe.buf_index))
        .ok_or(Errno::EFAULT)?;
    let end = sqe.addr.checked_add(sqe.len.into()).ok_or(Errno::EFAULT)?;
    if sqe.addr < buffer.base || end > buffer.base.saturating_add(buffer.len) {
        return Err(Errno::EFAULT);
    }
    Ok(())
}

/// Operations that are about a file.
fn transfer(uring: &Uring, thread: &Rc<Thread>, sqe: &Sqe, fd: u64) -> Result<u64> {
    let (addr, off, len) = (sqe.addr, sqe.off, u64::from(sqe.len));
    let flags = u64::from(sqe.op_flags);
    match sqe.opcode {
        op::READV if flags != 0 => with_flags(thread, sqe, nr::PREADV2, fd),
        op::WRITEV if flags != 0 => with_flags(thread, sqe, nr::PWRITEV2, fd),
        op::READV => at_position(thread, sqe, nr::PREADV, nr::READV, fd),
        op::WRITEV => at_position(thread, sqe, nr::PWRITEV, nr::WRITEV, fd),
        op::READ => at_position(thread, sqe, nr::PREAD, nr::READ, fd),
        op::WRITE => at_position(thread, sqe, nr::PWRITE, nr::WRITE, fd),
        op::READ_FIXED => {
            in_buffer(uring, sqe)?;
            at_position(thread, sqe, nr::PREAD, nr::READ, fd)
        }
        op::WRITE_FIXED => {
            in_buffer(uring, sqe)?;
            at_position(thread, sqe, nr::PWRITE, nr::WRITE, fd)
        }
        op::FSYNC => {
            let number = if flags & 1 != 0 {
                nr::FDATASYNC
            } else {
                nr::FSYNC
            };
            call(thread, number, [fd, 0, 0, 0, 0, 0])
        }
        op::SYNC_FILE_RANGE => call(thread, nr::SYNC_FILE_RANGE, [fd, off, len, flags, 0, 0]),
        op::SENDMSG => call(thread, nr::SENDMSG, [fd, addr, flags, 0, 0, 0]),
        op::RECVMSG => call(thread, nr::RECVMSG, [fd, addr, flags, 0, 0, 0]),
        op::SEND => call(thread, nr::SENDTO, [fd, addr, len, flags, 0, 0]),
        op::RECV => call(thread, nr::RECVFROM, [fd, addr, len, flags, 0, 0]),
        op::ACCEPT => {
            let accepted = call(thread, nr::ACCEPT4, [fd, addr, off, flags, 0, 0])?;
            register_result(uring, thread, sqe, accepted)
        }
        op::CONNECT => call(thread, nr::CONNECT, [fd, addr, off, 0, 0, 0]),
        op::SHUTDOWN => call(thread, nr::SHUTDOWN, [fd, len, 0, 0, 0, 0]),
        op::FALLOCATE if is_too_long(thread, sqe) => Err(Errno::EFBIG),
        op::FALLOCATE => call(thread, nr::FALLOCATE, [fd, len, off, addr, 0, 0]),
        op::FADVISE => call(thread, nr::FADVISE, [fd, off, len, flags, 0, 0]),
        op::SPLICE => {
            let to = thread.process.files.get(fd as i32)?;
            let from = source(uring, thread, sqe)?;
            let flags = sqe.op_flags & !SPLICE_FIXED;
            let positions = [addr, off].map(|at| (at != u64::MAX).then_some(at));
            splice_at(thread, (from, positions[0]), (to, positions[1]), len, flags)
        }
        op::TEE => {
            let from = source(uring, thread, sqe)?;
            let flags = u64::from(sqe.op_flags & !SPLICE_FIXED);
            with_descriptor(thread, &from, sqe.file_index.cast_signed(), |from| {
                call(thread, nr::TEE, [from, fd, len, flags, 0, 0])
            })
        }
        op::FSETXATTR => call(thread, nr::FSETXATTR, [fd, addr, off, len, flags, 0]),
        op::FGETXATTR => call(thread, nr::FGETXATTR, [fd, addr, off, len, 0, 0]),
        op::MSG_RING => {
            let open = thread.process.files.get(fd as i32)?;
            let other = open.downcast::<Uring>().ok_or(Errno::EBADFD)?;
            if addr != 0 {
                return Err(Errno::EINVAL);
            }
            other.post(off, sqe.len.cast_signed(), 0);
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// The end of a splice that bytes are taken from.
fn source(uring: &Uring, thread: &Rc<Thread>, sqe: &Sqe) -> Result<Rc<OpenFile>> {
    let fixed = sqe.op_flags & SPLICE_FIXED != 0;
    file_of(uring, thread, sqe.file_index.cast_signed(), fixed)
}

/// True for an allocation beyond `RLIMIT_FSIZE`. It is nobody's system call, so nobody gets a signal for it.
fn is_too_long(thread: &Rc<Thread>, sqe: &Sqe) -> bool {
    const FSIZE: usize = 1;
    const KEEP_SIZE: u32 = 1;
    let most = thread.process.limits.borrow()[FSIZE].0;
    sqe.len & KEEP_SIZE == 0 && sqe.off.saturating_add(sqe.addr) > most
}
