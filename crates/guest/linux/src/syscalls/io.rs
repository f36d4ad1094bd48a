//! Reading and writing: `read(2)`, `write(2)`, `readv(2)`, `pread(2)`, `preadv2(2)` and their kin; `lseek(2)`.

use alloc::rc::Rc;

use super::{Args, Call};
use crate::fs::watch::{self, Mask};
use crate::fs::{OpenFile, OpenFlags, blocking};
use crate::io::{IoVec, MAX_TRANSFER, Sink, Source, vectors};
use crate::process::Thread;
use crate::wait::Events;
use crate::{Errno, Result};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::full(0, "read", 3, read),
    Call::full(1, "write", 3, write),
    Call::full(8, "lseek", 3, lseek),
    Call::full(17, "pread64", 4, pread64),
    Call::full(18, "pwrite64", 4, pwrite64),
    Call::full(19, "readv", 3, readv),
    Call::full(20, "writev", 3, writev),
    Call::full(295, "preadv", 5, preadv),
    Call::full(296, "pwritev", 5, pwritev),
    Call::full(327, "preadv2", 6, preadv2),
    Call::full(328, "pwritev2", 6, pwritev2),
];

/// One buffer.
fn vector(args: &Args) -> Result<[IoVec; 1]> {
    let len = args.word(2);
    if len > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    Ok([IoVec {
        base: args.word(1),
        len: len.min(MAX_TRANSFER),
    }])
}

fn readable(thread: &Rc<Thread>, fd: i32) -> Result<Rc<OpenFile>> {
    let open = thread.process.files.get(fd)?;
    if !open.flags.get().readable() {
        return Err(Errno::EBADF);
    }
    Ok(open)
}

fn writable(thread: &Rc<Thread>, fd: i32) -> Result<Rc<OpenFile>> {
    let open = thread.process.files.get(fd)?;
    if !open.flags.get().writable() {
        return Err(Errno::EBADF);
    }
    Ok(open)
}

/// Reads where the description stands.
pub(super) fn read_to(thread: &Rc<Thread>, open: &OpenFile, to: &mut Sink) -> Result<usize> {
    let deadline = open.file.deadline(true);
    blocking(thread, open, Events::READABLE, deadline, || {
        open.file.read(thread, open, to)
    })
}

/// Writes where the description stands; to streams everything, if it may wait.
pub(super) fn write_from(thread: &Rc<Thread>, open: &OpenFile, from: &mut Source) -> Result<usize> {
    let deadline = open.file.deadline(false);
    loop {
        let written = blocking(thread, open, Events::WRITABLE, deadline, || {
            open.file.write(thread, open, from)
        });
        match written {
            Err(error) if from.done() == 0 => return Err(error),
            Err(_) | Ok(0) => return Ok(from.done()),
            Ok(_) => {}
        }
        if from.remaining() == 0 || open.nonblocking() || !open.file.writes_all() {
            return Ok(from.done());
        }
    }
}

fn read(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = readable(thread, args.int(0))?;
    let vector = vector(&args)?;
    Ok(read_to(thread, &open, &mut Sink::user(&vector))? as u64)
}

fn write(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = writable(thread, args.int(0))?;
    let vector = vector(&args)?;
    Ok(write_from(thread, &open, &mut Source::user(&vector))? as u64)
}

fn readv(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = readable(thread, args.int(0))?;
    let vectors = vectors(args.addr(1), args.word(2))?;
    Ok(read_to(thread, &open, &mut Sink::user(&vectors))? as u64)
}

fn writev(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = writable(thread, args.int(0))?;
    let vectors = vectors(args.addr(1), args.word(2))?;
    Ok(write_from(thread, &open, &mut Source::user(&vectors))? as u64)
}

/// Reads at an offset.
pub(super) fn read_at(
    thread: &Rc<Thread>,
    open: &OpenFile,
    offset: i64,
    to: &mut Sink,
) -> Result<usize> {
    let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    let read = blocking(thread, open, Events::READABLE, None, || {
        open.file.read_at(thread, offset, to)
    })?;
    watch::tell_open(open, Mask::ACCESS);
    Ok(read)
}

/// Writes at an offset; with `O_APPEND` at the end all the same (`pwrite(2)`, "Bugs").
pub(super) fn write_at(
    thread: &Rc<Thread>,
    open: &OpenFile,
    offset: i64,
    from: &mut Source,
) -> Result<usize> {
    let mut offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    if open.flags.get().contains(OpenFlags::APPEND) {
        offset = open.file.metadata()?.size;
    }
    let written = blocking(thread, open, Events::WRITABLE, None, || {
        open.file.write_at(thread, offset, from)
    })?;
    watch::tell_open(open, Mask::MODIFY);
    Ok(written)
}

fn pread64(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let offset = args.long(3);
    if offset < 0 {
        return Err(Errno::EINVAL);
    }
    let open = readable(thread, args.int(0))?;
    let vector = vector(&args)?;
    Ok(read_at(thread, &open, offset, &mut Sink::user(&vector))? as u64)
}

fn pwrite64(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let offset = args.long(3);
    if offset < 0 {
        return Err(Errno::EINVAL);
    }
    let open = writable(thread, args.int(0))?;
    let vector = vector(&args)?;
    Ok(write_at(thread, &open, offset, &mut Source::user(&vector))? as u64)
}

fn preadv(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    if args.long(3) < 0 {
        return Err(Errno::EINVAL);
    }
    let open = readable(thread, args.int(0))?;
    let vectors = vectors(args.addr(1), args.word(2))?;
    Ok(read_at(thread, &open, args.long(3), &mut Sink::user(&vectors))? as u64)
}

fn pwritev(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    if args.long(3) < 0 {
        return Err(Errno::EINVAL);
    }
    let open = writable(thread, args.int(0))?;
    let vectors = vectors(args.addr(1), args.word(2))?;
    Ok(write_at(thread, &open, args.long(3), &mut Source::user(&vectors))? as u64)
}

/// `RWF_HIPRI`, `RWF_DSYNC`, `RWF_SYNC`: content is in memory, there is nothing to wait for.
const RWF_HARMLESS: u32 = 1 | 2 | 4;
/// `RWF_NOWAIT`
const RWF_NOWAIT: u32 = 8;
/// `RWF_APPEND`
const RWF_APPEND: u32 = 0x10;

fn preadv2(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = readable(thread, args.int(0))?;
    let (offset, flags) = (args.long(3), args.uint(5));
    if flags & !(RWF_HARMLESS | RWF_NOWAIT) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if offset < -1 {
        return Err(Errno::EINVAL);
    }
    let vectors = vectors(args.addr(1), args.word(2))?;
    let to = &mut Sink::user(&vectors);
    let read = if offset == -1 && flags & RWF_NOWAIT != 0 {
        open.file.read(thread, &open, to)?
    } else if offset == -1 {
        read_to(thread, &open, to)?
    } else {
        read_at(thread, &open, offset, to)?
    };
    Ok(read as u64)
}

fn pwritev2(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = writable(thread, args.int(0))?;
    let (mut offset, flags) = (args.long(3), args.uint(5));
    if flags & !(RWF_HARMLESS | RWF_NOWAIT | RWF_APPEND) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if offset < -1 {
        return Err(Errno::EINVAL);
    }
    let vectors = vectors(args.addr(1), args.word(2))?;
    let from = &mut Source::user(&vectors);
    let moves = offset == -1;
    if flags & RWF_APPEND != 0 {
        offset = open.file.metadata()?.size.cast_signed();
    }
    let written = if offset == -1 && flags & RWF_NOWAIT != 0 {
        open.file.write(thread, &open, from)?
    } else if offset == -1 {
        write_from(thread, &open, from)?
    } else {
        let written = write_at(thread, &open, offset, from)?;
        if moves {
            open.offset.set(offset.cast_unsigned() + written as u64);
        }
        written
    };
    Ok(written as u64)
}

fn lseek(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = thread.process.files.get(args.int(0))?;
    if open.flags.get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    if args.uint(2) > 4 {
        return Err(Errno::EINVAL);
    }
    open.file.seek(&open, args.long(1), args.uint(2))
}
