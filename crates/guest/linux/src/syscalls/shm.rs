//! Shared memory of System V: `shmget(2)`, `shmat(2)`, `shmdt(2)`, `shmctl(2)`.

use alloc::rc::Rc;

use super::{Args, Call};
use crate::ipc::shm::{self, LONGEST, MOST, Segment};
use crate::ipc::{self, Object, Owner, command};
use crate::process::Thread;
use crate::user::{PAGE, Plain, UserAddr};
use crate::{Errno, Result};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::full(29, "shmget", 3, shmget),
    Call::full(30, "shmat", 3, shmat),
    Call::full(31, "shmctl", 3, shmctl),
    Call::full(67, "shmdt", 1, shmdt),
];

fn shmget(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let (key, size, flags) = (args.int(0), args.word(1), args.uint(2));
    let fits = |segment: &Segment| {
        if size > segment.size {
            Err(Errno::EINVAL)
        } else {
            Ok(())
        }
    };
    let kernel = crate::kernel();
    shm::tidy(thread);
    kernel
        .ipc
        .segments
        .find_or_make(thread, (key, flags), MOST, fits, |owner| {
            Segment::new(thread, owner, size)
        })
}

fn shmat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    super::memory::with_limits(thread);
    shm::tidy(thread);
    shm::attach(thread, args.int(0), args.word(1), args.uint(2))
}

fn shmdt(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    shm::detach(thread, args.word(0))?;
    Ok(0)
}

/// `struct shmid64_ds`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Record {
    owner: Owner,
    size: u64,
    attached: u64,
    detached: u64,
    changed: u64,
    creator: u32,
    last_user: u32,
    attaches: u64,
    unused: [u64; 2],
}

// SAFETY: integers without gaps.
unsafe impl Plain for Record {}

fn record(thread: &Thread, segment: &Segment) -> Record {
    Record {
        owner: segment.owner().get(),
        size: segment.size,
        attached: segment.attached.get(),
        detached: segment.detached.get(),
        changed: segment.changed.get(),
        creator: segment.creator,
        last_user: segment.last_user.get(),
        attaches: segment.places(thread).len() as u64,
        unused: [0; 2],
    }
}

fn shmctl(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const LOCK: u32 = 11;
    const UNLOCK: u32 = 12;
    const STAT_AT: u32 = 13;
    const INFO_OF_ALL: u32 = 14;
    const STAT_ANY: u32 = 15;
    let (id, at) = (args.int(0), args.addr(2));
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let kernel = crate::kernel();
    let segments = &kernel.ipc.segments;
    shm::tidy(thread);
    match args.uint(1) {
        command::INFO => {
            at.write([LONGEST, 1, MOST as u64, MOST as u64, LONGEST, 0, 0, 0, 0])?;
            return Ok(segments.last());
        }
        INFO_OF_ALL => {
            info_of_all(at)?;
            return Ok(segments.last());
        }
        command::STAT => {
            let segment = segments.get(id)?;
            segment.owner().get().permit(thread, ipc::READ)?;
            at.write(record(thread, &segment))?;
        }
        kind @ (STAT_AT | STAT_ANY) => {
            let (number, segment) = segments.at(id)?;
            if kind == STAT_AT {
                segment.owner().get().permit(thread, ipc::READ)?;
            }
            at.write(record(thread, &segment))?;
            return Ok(number.into());
        }
        command::SET => {
            let new: Record = at.read()?;
            let segment = segments.get(id)?;
            segment.owner().get().own(thread)?;
            segment.set(&new.owner);
        }
        command::RMID => {
            let segment = segments.get(id)?;
            segment.owner().get().own(thread)?;
            shm::remove(thread, id.unsigned_abs(), &segment);
        }
        LOCK | UNLOCK => {
            let segment = segments.get(id)?;
            segment.owner().get().own(thread)?;
            segment.lock(args.uint(1) == LOCK);
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `struct shm_info`.
fn info_of_all(at: UserAddr) -> Result {
    let all = crate::kernel().ipc.segments.all();
    let pages = |bytes: u64| bytes.div_ceil(PAGE);
    let total: u64 = all.iter().map(|(_, segment)| pages(segment.size)).sum();
    let present: u64 = all
        .iter()
        .map(|(_, segment)| pages(segment.present()))
        .sum();
    at.write([all.len() as u64, total, present, 0, 0, 0])
}
