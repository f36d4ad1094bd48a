//! Segments of shared memory (`shmget(2)`, `shmop(2)`): files without a name, which are mapped.
//!
//! Who has attached a segment is not counted but looked up: it is a mapping like any other, and `munmap(2)` detaches too.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

use super::{Object, Owner, seconds};
use crate::fs::{self, OpenFile, OpenFlags};
use crate::mm::{AddressSpace, MapFlags, MapRequest, Purpose};
use crate::platform::Access;
use crate::process::Thread;
use crate::user::PAGE;
use crate::{Errno, Result, shortage};

/// The most segments (`/proc/sys/kernel/shmmni`).
pub const MOST: usize = 4096;
/// The longest segment in bytes, and the most pages of all (`shmmax`, `shmall`).
pub const LONGEST: u64 = u64::MAX - (1 << 24);

/// `SHM_DEST` in a mode: it goes when nobody has it any more.
const TO_GO: u32 = 0o1000;
/// `SHM_LOCKED`
const LOCKED: u32 = 0o2000;

/// A segment.
#[derive(Debug)]
pub struct Segment {
    owner: Cell<Owner>,
    /// Its content.
    file: Rc<OpenFile>,
    /// The same, as those have it who may only read.
    to_read: Rc<OpenFile>,
    /// Bytes, as they were asked for.
    pub size: u64,
    /// Seconds of the last `shmat(2)`.
    pub attached: Cell<u64>,
    /// Of the last `shmdt(2)`.
    pub detached: Cell<u64>,
    /// Of the last change.
    pub changed: Cell<u64>,
    /// Who made it.
    pub creator: u32,
    /// Who attached or detached it last.
    pub last_user: Cell<u32>,
}

impl Object for Segment {
    fn owner(&self) -> &Cell<Owner> {
        &self.owner
    }
}

impl Segment {
    /// `shmget(2)` of a new one.
    ///
    /// # Errors
    /// `EINVAL`, `ENOSPC`.
    pub fn new(thread: &Rc<Thread>, owner: Owner, size: u64) -> Result<Self> {
        if size == 0 || size > LONGEST {
            return Err(Errno::EINVAL);
        }
        shortage::room(0)?;
        let file = fs::segment_file(thread, owner.key)?;
        let place = file.place.as_ref().ok_or(Errno::ENOSPC)?;
        place.inode.resize(size.next_multiple_of(PAGE))?;
        let to_read = OpenFile::at(file.file.clone(), file.place.clone(), OpenFlags::LARGEFILE);
        Ok(Self {
            owner: Cell::new(owner),
            file,
            to_read,
            size,
            attached: Cell::new(0),
            detached: Cell::new(0),
            changed: Cell::new(seconds()),
            creator: thread.process.pid,
            last_user: Cell::new(0),
        })
    }

    /// Where it is attached: the addresses of its first byte there, in the memory of this process.
    pub fn places(&self, thread: &Thread) -> Vec<u64> {
        let pieces = self.pieces(&thread.process.memory);
        let mut places: Vec<u64> = pieces
            .iter()
            .map(|(start, _, offset)| start.wrapping_sub(*offset))
            .collect();
        places.dedup();
        places
    }

    /// Where pieces of it are mapped: first address, the one behind the last, and the offset.
    fn pieces(&self, memory: &AddressSpace) -> Vec<(u64, u64, u64)> {
        let mut pieces = memory.pieces_of(&self.file);
        pieces.extend(memory.pieces_of(&self.to_read));
        pieces.sort_unstable();
        pieces
    }

    /// Bytes that are present: what has been written to or read.
    pub fn present(&self) -> u64 {
        const BLOCK: u64 = 512;
        let metadata = self.file.file.metadata();
        metadata.map_or(0, |metadata| metadata.blocks * BLOCK)
    }

    /// `IPC_SET`.
    pub fn set(&self, new: &Owner) {
        let mut owner = self.owner.get();
        owner.set(new);
        self.owner.set(owner);
        self.changed.set(seconds());
    }

    /// `SHM_LOCK`, `SHM_UNLOCK`: kept, and shown.
    pub fn lock(&self, locked: bool) {
        let mut owner = self.owner.get();
        owner.mode = owner.mode & !LOCKED | if locked { LOCKED } else { 0 };
        self.owner.set(owner);
    }
}

/// `shmat(2)`; returns where.
///
/// # Errors
/// `EINVAL`, `EACCES`, `ENOMEM`.
pub fn attach(thread: &Rc<Thread>, id: i32, at: u64, flags: u32) -> Result<u64> {
    const READ_ONLY: u32 = 0o10000;
    const ROUND: u32 = 0o20000;
    const REMAP: u32 = 0o40000;
    const EXECUTE: u32 = 0o100_000;
    let segment = crate::kernel().ipc.segments.get(id)?;
    let mut at = at;
    if !at.is_multiple_of(PAGE) {
        if flags & ROUND == 0 {
            return Err(Errno::EINVAL);
        }
        at -= at % PAGE;
    }
    if at == 0 && flags & REMAP != 0 {
        return Err(Errno::EINVAL);
    }
    let mut access = Access::READ;
    let mut wanted = super::READ;
    let mut file = &segment.to_read;
    if flags & READ_ONLY == 0 {
        access |= Access::WRITE;
        wanted |= super::WRITE;
        file = &segment.file;
    }
    if flags & EXECUTE != 0 {
        access |= Access::EXEC;
        wanted |= 1;
    }
    segment.owner.get().permit(thread, wanted)?;
    let place = match (at, flags & REMAP) {
        (0, _) => MapFlags::empty(),
        (_, 0) => MapFlags::FIXED_NOREPLACE,
        _ => MapFlags::FIXED,
    };
    let request = MapRequest {
        at,
        len: segment.size,
        access,
        flags: place | MapFlags::SHARED,
        file: Some((file.clone(), 0)),
        purpose: Purpose::Ordinary,
    };
    let before = segment.places(thread).len();
    let mapped = thread.process.memory.map(thread, &request);
    let start = mapped.map_err(|error| match error {
        Errno::EEXIST | Errno::EPERM => Errno::EINVAL,
        other => other,
    })?;
    if segment.places(thread).len() <= before {
        // It has taken the place of one that was there.
        segment.detached.set(seconds());
    }
    segment.attached.set(seconds());
    segment.last_user.set(thread.process.pid);
    Ok(start)
}

/// `shmdt(2)`.
///
/// # Errors
/// `EINVAL` if nothing is attached there.
pub fn detach(thread: &Rc<Thread>, at: u64) -> Result {
    let memory = &thread.process.memory;
    for (id, segment) in crate::kernel().ipc.segments.all() {
        let mut found = false;
        for (start, end, offset) in segment.pieces(memory) {
            if start.wrapping_sub(offset) == at {
                memory.unmap(start, end - start)?;
                found = true;
            }
        }
        if found {
            segment.detached.set(seconds());
            segment.last_user.set(thread.process.pid);
            if segment.owner.get().mode & TO_GO != 0 {
                let_go(thread, id, &segment);
            }
            return Ok(());
        }
    }
    Err(Errno::EINVAL)
}

/// `IPC_RMID`: it has no key any more, and goes with the last who has attached it.
pub fn remove(thread: &Thread, id: u32, segment: &Segment) {
    let mut owner = segment.owner.get();
    owner.mode |= TO_GO;
    owner.key = super::PRIVATE;
    segment.owner.set(owner);
    let_go(thread, id, segment);
}

/// Takes one out of the list that is to go, if nobody has it.
fn let_go(thread: &Thread, id: u32, segment: &Segment) {
    if segment.places(thread).is_empty() {
        crate::kernel().ipc.segments.remove(id);
    }
}

/// Segments that are to go and that nobody has any more, because what was attached has been unmapped, go now.
pub fn tidy(thread: &Thread) {
    for (id, segment) in crate::kernel().ipc.segments.all() {
        if segment.owner.get().mode & TO_GO != 0 {
            let_go(thread, id, &segment);
        }
    }
}
