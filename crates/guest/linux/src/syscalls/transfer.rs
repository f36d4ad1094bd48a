//! From one descriptor to another: `sendfile(2)`, `splice(2)`, `tee(2)`, `vmsplice(2)`, `copy_file_range(2)`.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use super::io::{read_to, write_from};
use super::{Args, Call};
use crate::event::pipe::{self, Pipe};
use crate::fs::{Kind, OpenFile, OpenFlags, blocking};
use crate::io::{MAX_TRANSFER, Sink, Source, vectors};
use crate::process::{Thread, sched};
use crate::user::UserAddr;
use crate::wait::{self, Events};
use crate::{Errno, Result};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::full(40, "sendfile", 4, sendfile),
    Call::full(275, "splice", 6, splice),
    Call::full(276, "tee", 4, tee),
    Call::full(278, "vmsplice", 4, vmsplice),
    Call::full(326, "copy_file_range", 6, copy_file_range),
];

/// Bytes that are carried at once.
const PIECE: usize = 1 << 16;

/// `SPLICE_F_MOVE`, `SPLICE_F_NONBLOCK`, `SPLICE_F_MORE`, `SPLICE_F_GIFT`
const SPLICE_FLAGS: u32 = 0xf;
/// `SEEK_CUR`
const SEEK_CUR: u32 = 1;
/// `SPLICE_F_NONBLOCK`
const NONBLOCK: u32 = 2;

fn source(thread: &Rc<Thread>, fd: i32) -> Result<Rc<OpenFile>> {
    let open = thread.process.files.get(fd)?;
    if !open.flags.get().readable() {
        return Err(Errno::EBADF);
    }
    Ok(open)
}

fn target(thread: &Rc<Thread>, fd: i32) -> Result<Rc<OpenFile>> {
    let open = thread.process.files.get(fd)?;
    if !open.flags.get().writable() {
        return Err(Errno::EBADF);
    }
    Ok(open)
}

/// Where a transfer reads or writes: at an offset that the caller keeps, or where the description stands.
struct Position {
    kept_at: UserAddr,
    offset: Option<u64>,
}

impl Position {
    fn read(kept_at: UserAddr) -> Result<Self> {
        let offset = match kept_at.read_if::<i64>()? {
            Some(offset) => Some(u64::try_from(offset).map_err(|_| Errno::EINVAL)?),
            None => None,
        };
        Ok(Self { kept_at, offset })
    }

    fn advance(&mut self, by: usize) {
        if let Some(offset) = &mut self.offset {
            *offset = offset.saturating_add(by as u64);
        }
    }

    fn store(&self) -> Result {
        match self.offset {
            Some(offset) => self.kept_at.write(offset),
            None => Ok(()),
        }
    }
}

/// Reads without moving anything if there is no need to.
fn fetch(
    thread: &Rc<Thread>,
    open: &OpenFile,
    position: &Position,
    to: &mut [u8],
) -> Result<usize> {
    let to = &mut Sink::kernel(to);
    match position.offset {
        Some(offset) => open.file.read_at(thread, offset, to),
        None => read_to(thread, open, to),
    }
}

fn store(thread: &Rc<Thread>, open: &OpenFile, position: &Position, from: &[u8]) -> Result<usize> {
    let from = &mut Source::kernel(from);
    match position.offset {
        Some(offset) => blocking(thread, open, Events::WRITABLE, None, || {
            open.file.write_at(thread, offset, from)
        }),
        None => write_from(thread, open, from),
    }
}

/// Memory that content passes through. Short ones are kept for the next call: servers make many.
struct Passage(Vec<u8>);

/// The longest that is kept, in bytes.
const KEPT_PASSAGE: usize = 16 << 10;

impl Passage {
    /// At least `len` bytes with anything in them.
    fn of(len: usize) -> Self {
        let kept = crate::kernel().passage.take();
        Self(if kept.len() < len { vec![0; len] } else { kept })
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if self.0.len() <= KEPT_PASSAGE {
            crate::kernel()
                .passage
                .replace(core::mem::take(&mut self.0));
        }
    }
}

/// What was done so far counts more than what then failed.
fn settle(done: usize, outcome: Result) -> Result<u64> {
    match outcome {
        Err(error) if done == 0 => Err(error),
        _ => Ok(done as u64),
    }
}

fn sendfile(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let from = source(thread, args.int(1))?;
    let to = target(thread, args.int(0))?;
    let mut position = Position::read(args.addr(2))?;
    let count = usize::try_from(args.word(3).min(MAX_TRANSFER)).map_err(|_| Errno::EINVAL)?;
    let of = from.file.metadata()?;
    let can_be_sent = match of.kind {
        Kind::Regular | Kind::Block => true,
        // Those that can be moved about in, and have something to read.
        Kind::Character => {
            of.rdev != crate::dev::tree::NULL && from.file.seek(&from, 0, SEEK_CUR).is_ok()
        }
        _ => false,
    };
    if !can_be_sent || to.flags.get().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    let kept = position.offset.is_some();
    let start = position.offset.unwrap_or(from.offset.get());
    position.offset = Some(start);
    let mut passage = Passage::of(PIECE.min(count));
    let buffer = &mut passage.0;
    let mut done = 0;
    let mut outcome = Ok(());
    while done < count {
        let most = buffer.len().min(count - done);
        let piece = &mut buffer[..most];
        let step = fetch(thread, &from, &position, piece).and_then(|read| {
            let none = Position::read(UserAddr(0))?;
            let written = store(thread, &to, &none, &piece[..read])?;
            Ok((read, written))
        });
        match step {
            Ok((read, written)) => {
                done += written;
                position.advance(written);
                if read == 0 || written < read || sched::breathe(thread).is_err() {
                    break;
                }
            }
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    if kept {
        position.store()?;
    } else {
        from.offset.set(start.saturating_add(done as u64));
    }
    settle(done, outcome)
}

/// Sleeps until a pipe has something to read; false at its end.
fn wait_for_content(thread: &Rc<Thread>, pipe: &Rc<Pipe>, may_wait: bool) -> Result<bool> {
    if (pipe.is_empty() && pipe.has_writers() || !pipe.may_read()) && !may_wait {
        return Err(Errno::EAGAIN);
    }
    wait::sleep_until(thread, &[pipe.queue()], None, || {
        let content = !pipe.is_empty() && pipe.may_read();
        (content || pipe.is_empty() && !pipe.has_writers()).then_some(())
    })?;
    Ok(!pipe.is_empty())
}

/// Sleeps until a pipe has room.
fn wait_for_room(thread: &Rc<Thread>, pipe: &Rc<Pipe>, may_wait: bool) -> Result {
    if pipe.has_readers() && (pipe.room() == 0 || !pipe.may_write()) && !may_wait {
        return Err(Errno::EAGAIN);
    }
    wait::sleep_until(thread, &[pipe.queue()], None, || {
        (pipe.room() > 0 && pipe.may_write() || !pipe.has_readers()).then_some(())
    })?;
    if !pipe.has_readers() {
        crate::signal::pipe(thread);
        return Err(Errno::EPIPE);
    }
    Ok(())
}

fn splice(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let flags = args.uint(5);
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let len = usize::try_from(args.word(4).min(MAX_TRANSFER)).map_err(|_| Errno::EINVAL)?;
    if len == 0 {
        return Ok(0);
    }
    let from = source(thread, args.int(0))?;
    let to = target(thread, args.int(2))?;
    let (from_pipe, to_pipe) = (pipe::of(&from).cloned(), pipe::of(&to).cloned());
    if from_pipe.is_some() && !args.addr(1).is_null()
        || to_pipe.is_some() && !args.addr(3).is_null()
    {
        return Err(Errno::ESPIPE);
    }
    let mut in_position = Position::read(args.addr(1))?;
    let mut out_position = Position::read(args.addr(3))?;
    let from = (from, &mut in_position);
    let to = (to, &mut out_position);
    let done = splice_between(thread, from, to, len, flags)?;
    in_position.store()?;
    out_position.store()?;
    Ok(done)
}

/// `splice(2)` with positions that are kept nowhere; `None` for the file's own.
pub(crate) fn splice_at(
    thread: &Rc<Thread>,
    from: (Rc<OpenFile>, Option<u64>),
    to: (Rc<OpenFile>, Option<u64>),
    len: u64,
    flags: u32,
) -> Result<u64> {
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    if !from.0.flags.get().readable() || !to.0.flags.get().writable() {
        return Err(Errno::EBADF);
    }
    for (open, at) in [&from, &to] {
        if at.is_some() && pipe::of(open).is_some() {
            return Err(Errno::ESPIPE);
        }
    }
    let len = usize::try_from(len.min(MAX_TRANSFER)).map_err(|_| Errno::EINVAL)?;
    if len == 0 {
        return Ok(0);
    }
    let position = |offset| Position {
        kept_at: UserAddr(0),
        offset,
    };
    let (mut in_position, mut out_position) = (position(from.1), position(to.1));
    let from = (from.0, &mut in_position);
    let to = (to.0, &mut out_position);
    splice_between(thread, from, to, len, flags)
}

fn splice_between(
    thread: &Rc<Thread>,
    (from, in_position): (Rc<OpenFile>, &mut Position),
    (to, out_position): (Rc<OpenFile>, &mut Position),
    len: usize,
    flags: u32,
) -> Result<u64> {
    let (from_pipe, to_pipe) = (pipe::of(&from).cloned(), pipe::of(&to).cloned());
    let wait_in = flags & NONBLOCK == 0 && !from.nonblocking();
    let wait_out = flags & NONBLOCK == 0 && !to.nonblocking();
    let done = match (from_pipe, to_pipe) {
        (Some(from), Some(to)) => {
            if Rc::ptr_eq(&from, &to) {
                return Err(Errno::EINVAL);
            }
            let Some(moved) = join(thread, &from, &to, (wait_in, wait_out), len)? else {
                return Ok(0);
            };
            from.skip(moved);
            moved
        }
        (Some(from), None) => {
            if to.flags.get().contains(OpenFlags::APPEND) {
                return Err(Errno::EINVAL);
            }
            if !wait_for_content(thread, &from, wait_in)? {
                return Ok(0);
            }
            let _readers = Claim::reading(thread, &from, wait_in)?;
            let mut buffer = vec![0; PIECE.min(len)];
            let mut done = 0;
            while done < len && !from.is_empty() {
                let most = buffer.len().min(len - done);
                let had = from.peek(0, &mut buffer[..most]);
                let written = match store(thread, &to, out_position, &buffer[..had]) {
                    Ok(written) => written,
                    Err(error) if done == 0 => return Err(error),
                    Err(_) => break,
                };
                from.skip(written);
                out_position.advance(written);
                done += written;
                if written < had || had == 0 {
                    break;
                }
            }
            done
        }
        (None, Some(to)) => {
            // What has been taken out of the source must find the room that was seen.
            wait_for_room(thread, &to, wait_out)?;
            let _writers = Claim::writing(thread, &to, wait_out)?;
            let mut buffer = vec![0; PIECE.min(len).min(to.room())];
            let read = fetch(thread, &from, in_position, &mut buffer)?;
            let written = to.write(&mut Source::kernel(&buffer[..read]), false);
            let written = if read == 0 { 0 } else { written? };
            in_position.advance(written);
            written
        }
        (None, None) => return Err(Errno::EINVAL),
    };
    Ok(done as u64)
}

/// Waits until one pipe has content and the other one room, both at the same time, and copies as much as is there and fits, without taking it. `None`
/// at the first one's end.
fn join(
    thread: &Rc<Thread>,
    from: &Rc<Pipe>,
    to: &Rc<Pipe>,
    (wait_in, wait_out): (bool, bool),
    len: usize,
) -> Result<Option<usize>> {
    loop {
        if !wait_for_content(thread, from, wait_in)? {
            return Ok(None);
        }
        wait_for_room(thread, to, wait_out)?;
        // Another reader may have been faster while this one waited for room.
        if !from.is_empty() && from.may_read() && to.may_write() {
            return carry(from, to, len).map(Some);
        }
    }
}

/// Keeps other readers, or other writers, away from a pipe while this call waits for the file at the other side.
struct Claim<'a> {
    pipe: &'a Pipe,
    reads: bool,
}

impl<'a> Claim<'a> {
    fn reading(thread: &Rc<Thread>, pipe: &'a Pipe, may_wait: bool) -> Result<Self> {
        Self::new(thread, pipe, may_wait, true)
    }

    fn writing(thread: &Rc<Thread>, pipe: &'a Pipe, may_wait: bool) -> Result<Self> {
        Self::new(thread, pipe, may_wait, false)
    }

    fn new(thread: &Rc<Thread>, pipe: &'a Pipe, may_wait: bool, reads: bool) -> Result<Self> {
        let free = || {
            if reads {
                pipe.may_read()
            } else {
                pipe.may_write()
            }
        };
        if !free() && !may_wait {
            return Err(Errno::EAGAIN);
        }
        wait::sleep_until(thread, &[pipe.queue()], None, || free().then_some(()))?;
        pipe.claim(reads, true);
        Ok(Self { pipe, reads })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.pipe.claim(self.reads, false);
    }
}

/// Copies from one pipe to another as much as is there and fits, without taking it.
fn carry(from: &Rc<Pipe>, to: &Rc<Pipe>, len: usize) -> Result<usize> {
    let mut buffer = vec![0; len.min(to.room()).min(from.len())];
    let had = from.peek(0, &mut buffer);
    to.write(&mut Source::kernel(&buffer[..had]), false)
}

fn tee(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let (len, flags) = (args.word(2), args.uint(3));
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let (from, to) = (source(thread, args.int(0))?, target(thread, args.int(1))?);
    let may_wait = flags & NONBLOCK == 0;
    let from_pipe = pipe::of(&from).ok_or(Errno::EINVAL)?;
    let to_pipe = pipe::of(&to).ok_or(Errno::EINVAL)?;
    if Rc::ptr_eq(from_pipe, to_pipe) {
        return Err(Errno::EINVAL);
    }
    let may_wait = (
        may_wait && !from.nonblocking(),
        may_wait && !to.nonblocking(),
    );
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    Ok(join(thread, from_pipe, to_pipe, may_wait, len)?.unwrap_or(0) as u64)
}

fn vmsplice(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let flags = args.uint(3);
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let open = thread.process.files.get(args.int(0))?;
    let pipe = pipe::of(&open).ok_or(Errno::EBADF)?;
    let vectors = vectors(args.addr(1), args.word(2))?;
    let may_wait = flags & NONBLOCK == 0 && !open.nonblocking();
    if open.flags.get().writable() {
        let from = &mut Source::user(&vectors);
        if from.remaining() == 0 {
            return Ok(0);
        }
        wait_for_room(thread, pipe, may_wait)?;
        if may_wait {
            return Ok(write_from(thread, &open, from)? as u64);
        }
        if !pipe.may_write() {
            return Err(Errno::EAGAIN);
        }
        return Ok(pipe.write(from, false)? as u64);
    }
    let to = &mut Sink::user(&vectors);
    if to.remaining() == 0 || !wait_for_content(thread, pipe, may_wait)? {
        return Ok(0);
    }
    Ok(pipe.read(to)? as u64)
}

fn copy_file_range(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let from = source(thread, args.int(0))?;
    let to = target(thread, args.int(2))?;
    if args.uint(5) != 0 {
        return Err(Errno::EINVAL);
    }
    if to.flags.get().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF);
    }
    let (of_from, of_to) = (from.file.metadata()?, to.file.metadata()?);
    if of_from.kind == Kind::Directory || of_to.kind == Kind::Directory {
        return Err(Errno::EISDIR);
    }
    if of_from.kind != Kind::Regular || of_to.kind != Kind::Regular {
        return Err(Errno::EINVAL);
    }
    let mut in_position = Position::read(args.addr(1))?;
    let mut out_position = Position::read(args.addr(3))?;
    let in_start = in_position.offset.unwrap_or(from.offset.get());
    let out_start = out_position.offset.unwrap_or(to.offset.get());
    let len = args.word(4).min(MAX_TRANSFER);
    let (in_end, out_end) = (
        in_start.checked_add(len).ok_or(Errno::EOVERFLOW)?,
        out_start.checked_add(len).ok_or(Errno::EOVERFLOW)?,
    );
    let same = (of_from.device, of_from.inode) == (of_to.device, of_to.inode);
    if same && in_start < out_end && out_start < in_end {
        return Err(Errno::EINVAL);
    }
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    let mut buffer: Vec<u8> = vec![0; PIECE.min(len)];
    let mut done = 0;
    let mut outcome = Ok(());
    while done < len {
        let most = buffer.len().min(len - done);
        let piece = &mut buffer[..most];
        let step = fetch(thread, &from, &in_position, piece)
            .and_then(|read| store(thread, &to, &out_position, &piece[..read]));
        match step {
            Ok(0) => break,
            Ok(written) => {
                in_position.advance(written);
                out_position.advance(written);
                done += written;
                if sched::breathe(thread).is_err() {
                    break;
                }
            }
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    in_position.store()?;
    out_position.store()?;
    settle(done, outcome)
}
