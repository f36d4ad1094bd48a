//! Memory: `mmap(2)` and its kin.

use alloc::rc::Rc;

use kiln_abi::user::LONG as LONG_RANGE;

use super::{Args, Call};
use crate::mm::{MapFlags, MapRequest, MemoryLimits, Purpose, RemapFlags};
use crate::platform::{self, Access};
use crate::process::{Thread, sched};
use crate::user::{PAGE, USER_END};
use crate::{Errno, Result};

/// The calls of this family.
pub const CALLS: &[Call] = &[
    Call::full(9, "mmap", 6, mmap),
    Call::full(10, "mprotect", 3, mprotect),
    Call::full(11, "munmap", 2, munmap),
    Call::full(12, "brk", 1, brk),
    Call::partly(
        25,
        "mremap",
        5,
        mremap,
        "shared memory of no file cannot be mapped a second time (an old length of 0)",
    ),
    Call::full(26, "msync", 3, msync),
    Call::full(27, "mincore", 3, mincore),
    Call::full(28, "madvise", 3, madvise),
    Call::partly(
        149,
        "mlock",
        2,
        mlock,
        "limits are kept; the host may page all the same",
    ),
    Call::full(150, "munlock", 2, munlock),
    Call::partly(
        151,
        "mlockall",
        1,
        mlockall,
        "limits are kept; the host may page all the same",
    ),
    Call::full(152, "munlockall", 0, munlockall),
    Call::partly(
        325,
        "mlock2",
        3,
        mlock2,
        "limits are kept; the host may page all the same",
    ),
];

/// `PROT_READ | PROT_WRITE | PROT_EXEC`
const PROTECTION: u64 = 7;

/// Bytes of a long range that are dealt with at once, to begin with.
const PIECE: u64 = 32 << 20;
/// The most, where hardly anything is present.
const MOST: u64 = 16 << 30;

/// Does something with a long range piece by piece, and lets others run in between. How long a piece takes depends on what is present there:
/// the next one is shorter if that was long, and longer if it was nothing.
///
/// No piece is shorter than `least`.
fn in_pieces_of(
    least: u64,
    thread: &Rc<Thread>,
    at: u64,
    len: u64,
    mut each: impl FnMut(u64, u64) -> Result,
) -> Result {
    const LONG: u64 = 4_000_000;
    const SHORT: u64 = 500_000;
    let end = at.checked_add(len).filter(|&end| end <= USER_END);
    let Some(end) = end.filter(|_| len > PIECE && at.is_multiple_of(PAGE)) else {
        return each(at, len);
    };
    let (mut at, mut piece) = (at, PIECE.max(least));
    loop {
        let left = end - at;
        let count = if left.saturating_sub(piece) < least {
            left
        } else {
            piece
        };
        let began = platform::now();
        each(at, count)?;
        at += count;
        if at >= end {
            return Ok(());
        }
        piece = match platform::now().saturating_sub(began) {
            took if took > LONG => (piece / 2).max(least),
            took if took < SHORT => (piece * 2).min(MOST),
            _ => piece,
        };
        sched::breathe(thread)?;
    }
}

/// The same with pieces of any length.
fn in_pieces(
    thread: &Rc<Thread>,
    at: u64,
    len: u64,
    each: impl FnMut(u64, u64) -> Result,
) -> Result {
    in_pieces_of(PAGE, thread, at, len, each)
}

/// Memory calls look at the limits that hold now.
pub(super) fn with_limits(thread: &Rc<Thread>) {
    let memory = &thread.process.memory;
    memory.set_limits(MemoryLimits::of(&thread.process));
}

fn mmap(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    /// `MAP_TYPE`
    const TYPE: u64 = 0xf;
    const SHARED: u64 = 1;
    const PRIVATE: u64 = 2;
    const SHARED_VALIDATE: u64 = 3;
    let (number, offset) = (args.word(3), args.word(5));
    if !offset.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let mut flags = MapFlags::from_bits_truncate(number as u32 & !(TYPE as u32));
    let file = if flags.contains(MapFlags::ANONYMOUS) {
        None
    } else {
        Some((thread.process.files.get(args.int(4))?, offset))
    };
    match number & TYPE {
        SHARED => flags |= MapFlags::SHARED,
        PRIVATE => flags |= MapFlags::PRIVATE,
        SHARED_VALIDATE if file.is_some() => {
            let known = u64::from(MapFlags::all().bits()) | TYPE;
            if number & !known != 0 || flags.contains(MapFlags::SYNC) {
                return Err(Errno::EOPNOTSUPP);
            }
            flags |= MapFlags::SHARED;
        }
        _ => return Err(Errno::EINVAL),
    }
    with_limits(thread);
    let request = MapRequest {
        at: args.word(0),
        len: args.word(1),
        access: Access::from_bits_truncate((args.word(2) & PROTECTION) as u32),
        flags,
        file,
        purpose: Purpose::Ordinary,
    };
    let memory = &thread.process.memory;
    let start = memory.map(thread, &request)?;
    if flags.intersects(MapFlags::POPULATE | MapFlags::LOCKED) || memory.locks_all() {
        populate(thread, start, request.len)?;
    }
    Ok(start)
}

/// Makes a range present.
fn populate(thread: &Rc<Thread>, at: u64, len: u64) -> Result {
    let memory = &thread.process.memory;
    in_pieces(thread, at, len, |at, len| {
        memory.populate(at, at + len.next_multiple_of(PAGE));
        Ok(())
    })
}

fn mprotect(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    /// `PROT_SEM`
    const SEM: u64 = 8;
    const GROWSDOWN: u64 = 0x0100_0000;
    const GROWSUP: u64 = 0x0200_0000;
    let protection = args.word(2);
    let grows_down = protection & GROWSDOWN != 0;
    if grows_down && protection & GROWSUP != 0 {
        return Err(Errno::EINVAL);
    }
    if protection & !(PROTECTION | SEM | GROWSDOWN | GROWSUP) != 0 {
        return Err(Errno::EINVAL);
    }
    with_limits(thread);
    let access = Access::from_bits_truncate((protection & PROTECTION) as u32);
    let memory = &thread.process.memory;
    let (at, len) = (args.word(0), args.word(1));
    if grows_down {
        memory.protect(at, len, access, true)?;
    } else {
        // Of what is long, monitors only open what is used; they must not take its pieces for something short.
        let least = if len > LONG_RANGE {
            LONG_RANGE + PAGE
        } else {
            PAGE
        };
        in_pieces_of(least, thread, at, len, |at, len| {
            memory.protect(at, len, access, false)
        })?;
    }
    Ok(0)
}

fn munmap(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let memory = &thread.process.memory;
    in_pieces(thread, args.word(0), args.word(1), |at, len| {
        memory.unmap(at, len)
    })?;
    Ok(0)
}

fn brk(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    with_limits(thread);
    Ok(thread.process.memory.set_break(args.word(0)))
}

fn mremap(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let flags = u32::try_from(args.word(3)).ok();
    let flags = flags.and_then(RemapFlags::from_bits).ok_or(Errno::EINVAL)?;
    with_limits(thread);
    let memory = &thread.process.memory;
    let (at, old_len, new_len) = (args.word(0), args.word(1), args.word(2));
    memory.remap(thread, at, old_len, new_len, flags, args.word(4))
}

fn msync(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let memory = &thread.process.memory;
    memory.sync(thread, args.word(0), args.word(1), args.uint(2))?;
    Ok(0)
}

fn mincore(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let memory = &thread.process.memory;
    memory.residence(args.word(0), args.word(1), args.addr(2))?;
    Ok(0)
}

fn madvise(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let memory = &thread.process.memory;
    let mut hole = false;
    in_pieces(thread, args.word(0), args.word(1), |at, len| {
        match memory.advise(at, len, args.uint(2)) {
            // What is mapped behind is served all the same.
            Err(Errno::ENOMEM) => {
                hole = true;
                Ok(())
            }
            result => result,
        }
    })?;
    if hole { Err(Errno::ENOMEM) } else { Ok(0) }
}

fn mlock(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    with_limits(thread);
    let memory = &thread.process.memory;
    memory.lock(args.word(0), args.word(1), true)?;
    populate_around(thread, args)?;
    Ok(0)
}

fn mlock2(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const ONFAULT: u32 = 1;
    if args.uint(2) & !ONFAULT != 0 {
        return Err(Errno::EINVAL);
    }
    with_limits(thread);
    let memory = &thread.process.memory;
    memory.lock(args.word(0), args.word(1), true)?;
    if args.uint(2) & ONFAULT == 0 {
        populate_around(thread, args)?;
    }
    Ok(0)
}

/// Makes the pages present that a range touches, which need not begin at a page's start.
fn populate_around(thread: &Rc<Thread>, args: Args) -> Result {
    let start = args.word(0) & !(PAGE - 1);
    populate(thread, start, args.word(0) - start + args.word(1))
}

fn munlock(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let memory = &thread.process.memory;
    memory.lock(args.word(0), args.word(1), false)?;
    Ok(0)
}

fn mlockall(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const CURRENT: u32 = 1;
    const FUTURE: u32 = 2;
    const ONFAULT: u32 = 4;
    let flags = args.uint(0);
    if flags & !(CURRENT | FUTURE | ONFAULT) != 0 || flags & (CURRENT | FUTURE) == 0 {
        return Err(Errno::EINVAL);
    }
    with_limits(thread);
    let memory = &thread.process.memory;
    memory.lock_all(flags & CURRENT != 0, flags & FUTURE != 0)?;
    if flags & CURRENT != 0 && flags & ONFAULT == 0 {
        for region in memory.regions() {
            populate(thread, region.start, region.end - region.start)?;
        }
    }
    Ok(0)
}

fn munlockall(thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    thread.process.memory.lock_all(false, false)?;
    Ok(0)
}
