//! Reading and writing: `read(2)`, `write(2)`, `readv(2)`, `pread(2)`, `preadv2(2)` and their kin; `lseek(2)`.

use alloc::rc::Rc;

use super::{Args, Call};
use crate::fs::watch::{self, Mask};
use crate::fs::{OpenFile, OpenFlags, blocking};
use crate::io::{IoVec, MAX_TRANSFER, Sink, Source, vectors};
use crate::process::{Thread, sched};
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

/// Bytes that a call moves before it lets others run, if it moves more.
const PIECE: usize = 1 << 20;

/// True for files that do as much as they are asked for at once: those that nobody waits for.
fn is_long(open: &OpenFile, bytes: usize) -> bool {
    bytes > PIECE && open.file.queue().is_none()
}

/// Keeps a description's position for one call that is made in pieces; others wait, as on Linux.
struct Turn<'a>(&'a OpenFile);

impl<'a> Turn<'a> {
    fn take(thread: &Rc<Thread>, open: &'a OpenFile) -> Result<Self> {
        wait_for_turn(thread, open)?;
        open.in_pieces.set(true);
        Ok(Self(open))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.in_pieces.set(false);
    }
}

/// Lets others run until none of them is in the middle of a long call that moves the description's position.
#[inline]
fn wait_for_turn(thread: &Rc<Thread>, open: &OpenFile) -> Result {
    if open.in_pieces.get() {
        wait_for_others(thread, open)?;
    }
    Ok(())
}

#[cold]
fn wait_for_others(thread: &Rc<Thread>, open: &OpenFile) -> Result {
    while open.in_pieces.get() {
        if crate::kernel().event.is_detached() || !crate::platform::is_current(thread) {
            return Err(Errno::EAGAIN);
        }
        sched::yield_now(thread);
        sched::breathe(thread)?;
    }
    Ok(())
}

/// What became of a piece: how far it went, and how far it was to go.
enum Piece {
    Whole,
    Part,
}

/// Makes a long call piece by piece, until one is cut short.
fn in_pieces(
    thread: &Rc<Thread>,
    mut piece: impl FnMut() -> Result<(usize, Piece)>,
) -> Result<usize> {
    let mut done = 0;
    loop {
        match piece() {
            Err(error) if done == 0 => return Err(error),
            Err(_) => return Ok(done),
            Ok((count, Piece::Part)) => return Ok(done + count),
            Ok((count, Piece::Whole)) => done += count,
        }
        if sched::breathe(thread).is_err() {
            return Ok(done);
        }
    }
}

fn read_piece(
    to: &mut Sink,
    read: impl FnOnce(&mut Sink) -> Result<usize>,
) -> Result<(usize, Piece)> {
    let kept = to.hold_back(PIECE);
    let room = to.remaining();
    let result = read(to);
    to.give_back(kept);
    let count = result?;
    let whole = count == room && kept > 0;
    Ok((count, if whole { Piece::Whole } else { Piece::Part }))
}

fn write_piece(
    from: &mut Source,
    write: impl FnOnce(&mut Source) -> Result<usize>,
) -> Result<(usize, Piece)> {
    let kept = from.hold_back(PIECE);
    let there = from.remaining();
    let result = write(from);
    from.give_back(kept);
    let count = result?;
    let whole = count == there && kept > 0;
    Ok((count, if whole { Piece::Whole } else { Piece::Part }))
}

/// Reads where the description stands.
pub(super) fn read_to(thread: &Rc<Thread>, open: &OpenFile, to: &mut Sink) -> Result<usize> {
    wait_for_turn(thread, open)?;
    if is_long(open, to.remaining()) {
        let _turn = Turn::take(thread, open)?;
        return in_pieces(thread, || {
            read_piece(to, |to| open.file.read(thread, open, to))
        });
    }
    let deadline = open.file.deadline(true);
    blocking(thread, open, Events::READABLE, deadline, || {
        open.file.read(thread, open, to)
    })
}

/// Writes where the description stands; to streams everything, if it may wait.
pub(super) fn write_from(thread: &Rc<Thread>, open: &OpenFile, from: &mut Source) -> Result<usize> {
    wait_for_turn(thread, open)?;
    // What is appended stays in one piece, whoever else appends.
    let appends = open.flags.get().contains(OpenFlags::APPEND);
    if is_long(open, from.remaining()) && !appends {
        let _turn = Turn::take(thread, open)?;
        return in_pieces(thread, || {
            write_piece(from, |from| open.file.write(thread, open, from))
        });
    }
    let deadline = open.file.deadline(false);
    // What was written: a file that then fails may have taken more from the program's buffers.
    let mut done = 0;
    loop {
        let written = blocking(thread, open, Events::WRITABLE, deadline, || {
            open.file.write(thread, open, from)
        });
        let written = written.and_then(|written| {
            durable(thread, open, 0)?;
            Ok(written)
        });
        match written {
            Err(error) if done == 0 => return Err(error),
            Err(_) | Ok(0) => return Ok(done),
            Ok(written) => done += written,
        }
        if from.remaining() == 0 || open.nonblocking() || !open.file.writes_all() {
            return Ok(done);
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
    let read = if is_long(open, to.remaining()) {
        let mut at = offset;
        in_pieces(thread, || {
            let piece = read_piece(to, |to| open.file.read_at(thread, at, to))?;
            at = at.saturating_add(piece.0 as u64);
            Ok(piece)
        })?
    } else {
        blocking(thread, open, Events::READABLE, None, || {
            open.file.read_at(thread, offset, to)
        })?
    };
    if read > 0 {
        watch::tell_open(open, Mask::ACCESS);
    }
    Ok(read)
}

/// Writes at an offset; with `O_APPEND` at the end all the same (`pwrite(2)`, "Bugs").
pub(super) fn write_at(
    thread: &Rc<Thread>,
    open: &OpenFile,
    offset: i64,
    from: &mut Source,
) -> Result<usize> {
    let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    if open.flags.get().contains(OpenFlags::APPEND) {
        return append(thread, open, from).map(|(written, _)| written);
    }
    let appends = open.flags.get().contains(OpenFlags::APPEND);
    let written = if is_long(open, from.remaining()) && !appends {
        let mut at = offset;
        in_pieces(thread, || {
            let piece = write_piece(from, |from| open.file.write_at(thread, at, from))?;
            at = at.saturating_add(piece.0 as u64);
            Ok(piece)
        })?
    } else {
        blocking(thread, open, Events::WRITABLE, None, || {
            open.file.write_at(thread, offset, from)
        })?
    };
    if written > 0 {
        watch::tell_open(open, Mask::MODIFY);
    }
    durable(thread, open, 0)?;
    Ok(written)
}

/// Writes behind the end. Returns how many bytes, and where the end is then.
fn append(thread: &Rc<Thread>, open: &OpenFile, from: &mut Source) -> Result<(usize, u64)> {
    let written = blocking(thread, open, Events::WRITABLE, None, || {
        open.file.append(thread, from)
    })?;
    if written.0 > 0 {
        watch::tell_open(open, Mask::MODIFY);
    }
    durable(thread, open, 0)?;
    Ok(written)
}

/// `O_SYNC` and `O_DSYNC` (open(2)): what was written is where the file is kept before the call returns. `flags`: `RWF_SYNC`, `RWF_DSYNC`.
fn durable(thread: &Rc<Thread>, open: &OpenFile, flags: u32) -> Result {
    let opened = open.flags.get();
    let whole = opened.contains(OpenFlags::SYNC) || flags & RWF_SYNC != 0;
    let data = opened.contains(OpenFlags::DSYNC) || flags & RWF_DSYNC != 0;
    if !(whole || data) || open.downcast::<crate::fs::InodeFile>().is_none() {
        return Ok(());
    }
    thread.at_call(|| thread.at_file(|| open.file.sync(!whole)))
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

/// `RWF_DSYNC`
const RWF_DSYNC: u32 = 2;
/// `RWF_SYNC`
const RWF_SYNC: u32 = 4;
/// `RWF_HIPRI` is a hint, the others are about writing only.
const RWF_HARMLESS: u32 = 1 | RWF_DSYNC | RWF_SYNC;
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
    let (offset, flags) = (args.long(3), args.uint(5));
    if flags & !(RWF_HARMLESS | RWF_NOWAIT | RWF_APPEND) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if offset < -1 {
        return Err(Errno::EINVAL);
    }
    let vectors = vectors(args.addr(1), args.word(2))?;
    let from = &mut Source::user(&vectors);
    let moves = offset == -1;
    let written = if flags & RWF_APPEND != 0 {
        let (written, end) = append(thread, &open, from)?;
        if moves {
            open.offset.set(end);
        }
        written
    } else if moves && flags & RWF_NOWAIT != 0 {
        open.file.write(thread, &open, from)?
    } else if moves {
        write_from(thread, &open, from)?
    } else {
        write_at(thread, &open, offset, from)?
    };
    durable(thread, &open, flags)?;
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
