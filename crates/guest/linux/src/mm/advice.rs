//! `madvise(2)`, `msync(2)`, `mlock(2)` and their kin, `mincore(2)`.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::area::{Area, AreaFlags, Content, Source};
use super::map::round_up;
use super::{AddressSpace, Aftermath};
use crate::platform::{self, Access};
use crate::process::Thread;
use crate::user::{PAGE, USER_END, UserAddr};
use crate::{Errno, Result};

/// What `madvise(2)` is told, as far as it makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advice {
    /// Nothing has to be done.
    Hint,
    SetFlags(AreaFlags, AreaFlags),
    DontNeed,
    Free,
    Remove,
    WillNeed,
    PopulateRead,
    PopulateWrite,
}

impl Advice {
    fn from_number(number: u32) -> Result<Self> {
        use AreaFlags as F;
        let both = F::SEQUENTIAL | F::RANDOM;
        Ok(match number {
            0 => Self::SetFlags(both, F::empty()),
            1 => Self::SetFlags(both, F::RANDOM),
            2 => Self::SetFlags(both, F::SEQUENTIAL),
            3 => Self::WillNeed,
            4 | 24 => Self::DontNeed,
            8 => Self::Free,
            9 => Self::Remove,
            10 => Self::SetFlags(F::DONT_FORK, F::DONT_FORK),
            11 => Self::SetFlags(F::DONT_FORK, F::empty()),
            // Merging equal pages, cold pages, paging out, collapsing: the host decides.
            12 | 13 | 20 | 21 | 25 => Self::Hint,
            14 => Self::SetFlags(F::HUGE | F::NO_HUGE, F::HUGE),
            15 => Self::SetFlags(F::HUGE | F::NO_HUGE, F::NO_HUGE),
            16 => Self::SetFlags(F::DONT_DUMP, F::DONT_DUMP),
            17 => Self::SetFlags(F::DONT_DUMP, F::empty()),
            18 => Self::SetFlags(F::WIPE_ON_FORK, F::WIPE_ON_FORK),
            19 => Self::SetFlags(F::WIPE_ON_FORK, F::empty()),
            22 => Self::PopulateRead,
            23 => Self::PopulateWrite,
            _ => return Err(Errno::EINVAL),
        })
    }
}

/// The range that a call names: whole pages, `ENOMEM` if it goes too far.
fn range(at: u64, len: u64) -> Result<(u64, u64)> {
    if !at.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let end = round_up(len).and_then(|len| at.checked_add(len));
    let end = end.ok_or(Errno::EINVAL)?;
    Ok((at, end))
}

impl AddressSpace {
    /// `madvise(2)`.
    ///
    /// # Errors
    /// `EINVAL`; `ENOMEM` if there are holes, after what is mapped has been served.
    pub fn advise(&self, at: u64, len: u64, advice: u32) -> Result {
        let advice = Advice::from_number(advice)?;
        let (start, end) = range(at, len)?;
        if start == end {
            return Ok(());
        }
        let parts: Vec<Area> = {
            let state = self.state.borrow();
            let areas = state.areas.overlapping(start, end.min(USER_END));
            areas.filter(|area| area.is_program()).cloned().collect()
        };
        let covered = self.is_covered(start, end);
        for area in &parts {
            let (from, to) = (area.start.max(start), area.end.min(end));
            match advice {
                Advice::Hint => {}
                Advice::SetFlags(mask, set) => self.change_flags(from, to, mask, set)?,
                Advice::DontNeed => {
                    if area.flags.contains(AreaFlags::LOCKED) {
                        return Err(Errno::EINVAL);
                    }
                    self.discard(area, from, to)?;
                }
                Advice::Free => {
                    if !area.is_anonymous() || area.flags.contains(AreaFlags::SHARED) {
                        return Err(Errno::EINVAL);
                    }
                    self.discard(area, from, to)?;
                }
                Advice::Remove => self.punch(area, from, to)?,
                Advice::WillNeed => {}
                Advice::PopulateRead | Advice::PopulateWrite => {
                    let wanted = if advice == Advice::PopulateRead {
                        Access::READ
                    } else {
                        Access::WRITE
                    };
                    if !area.access.contains(wanted) {
                        return Err(Errno::EINVAL);
                    }
                    self.populate(from, to);
                }
            }
        }
        if covered { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    fn is_covered(&self, start: u64, end: u64) -> bool {
        self.state.borrow().areas.is_covered(start, end)
    }

    /// Lets private pages be as they were at first. What is shared stays as it is.
    fn discard(&self, area: &Area, from: u64, to: u64) -> Result {
        if area.flags.contains(AreaFlags::SHARED) {
            return Ok(());
        }
        match &area.content {
            Content::Zero(_) => platform::discard(from, to - from),
            Content::Own { .. } | Content::Reserved => Err(Errno::EINVAL),
            Content::File(file) => match &file.source {
                Source::Image { .. } => {
                    let ranges = self.state.borrow().host_ranges(area, from, to);
                    for (from, to) in ranges {
                        platform::discard(from, to - from)?;
                    }
                    if area.access.contains(Access::EXEC) {
                        self.text_changed(from, to);
                    }
                    Ok(())
                }
                Source::Pages(_) | Source::Copy => {
                    let mut aftermath = Aftermath::default();
                    let (ranges, pieces) = self.state.borrow_mut().present.remove(from, to);
                    for (from, to) in ranges {
                        platform::unmap(from, to - from)?;
                    }
                    aftermath.released.extend(pieces);
                    aftermath.settle(self);
                    Ok(())
                }
            },
        }
    }

    /// `MADV_REMOVE`: a hole in what is shared.
    fn punch(&self, area: &Area, from: u64, to: u64) -> Result {
        /// `FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE`
        const PUNCH: u32 = 3;
        if area.flags.contains(AreaFlags::LOCKED) {
            return Err(Errno::EINVAL);
        }
        if !area.flags.contains(AreaFlags::SHARED) || !area.most.contains(Access::WRITE) {
            return Err(Errno::EACCES);
        }
        match &area.content {
            Content::Zero(_) => platform::discard(from, to - from),
            Content::File(file) => {
                let place = file.open.place.as_ref().ok_or(Errno::EOPNOTSUPP)?;
                place.inode.allocate(PUNCH, area.offset_of(from), to - from)
            }
            Content::Own { .. } | Content::Reserved => Err(Errno::EINVAL),
        }
    }

    /// Changes flags of all areas in a range.
    fn change_flags(&self, start: u64, end: u64, mask: AreaFlags, set: AreaFlags) -> Result {
        let mut state = self.state.borrow_mut();
        let differs = state
            .areas
            .overlapping(start, end)
            .any(|area| area.flags & mask != set);
        if !differs {
            return Ok(());
        }
        if state.areas.count() + 2 >= super::MAX_AREAS {
            return Err(Errno::ENOMEM);
        }
        for mut area in state.areas.take(start, end) {
            area.flags = (area.flags - mask) | set;
            state.areas.insert(area);
        }
        Ok(())
    }

    /// `msync(2)`.
    ///
    /// # Errors
    /// `EINVAL`, `EBUSY`, `ENOMEM` for holes, and the file system's.
    pub fn sync(&self, thread: &Rc<Thread>, at: u64, len: u64, flags: u32) -> Result {
        const ASYNC: u32 = 1;
        const INVALIDATE: u32 = 2;
        const SYNC: u32 = 4;
        if flags & !(ASYNC | INVALIDATE | SYNC) != 0 || flags & (ASYNC | SYNC) == ASYNC | SYNC {
            return Err(Errno::EINVAL);
        }
        if !at.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let end = round_up(len).and_then(|len| at.checked_add(len));
        let end = end.ok_or(Errno::ENOMEM)?;
        if at == end {
            return Ok(());
        }
        if flags & INVALIDATE != 0 {
            let state = self.state.borrow();
            let mut areas = state.areas.overlapping(at, end);
            if areas.any(|area| area.flags.contains(AreaFlags::LOCKED)) {
                return Err(Errno::EBUSY);
            }
        }
        let covered = self.is_covered(at, end);
        self.write_changes(at, end)?;
        if flags & SYNC != 0 {
            self.sync_files(thread, at, end)?;
        }
        if covered { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    fn sync_files(&self, thread: &Rc<Thread>, start: u64, end: u64) -> Result {
        let files: Vec<_> = {
            let state = self.state.borrow();
            let areas = state.areas.overlapping(start, end);
            let shared = areas.filter(|area| area.flags.contains(AreaFlags::SHARED));
            shared.filter_map(|area| area.file().cloned()).collect()
        };
        for file in files {
            if let Some(place) = &file.open.place {
                thread.at_call(|| thread.at_file(|| place.inode.sync(true)))?;
            }
        }
        Ok(())
    }

    /// `mlock(2)`, `munlock(2)`.
    ///
    /// # Errors
    /// `ENOMEM` for holes or beyond the limit, `EPERM` if nothing may be locked.
    pub fn lock(&self, at: u64, len: u64, lock: bool) -> Result {
        let start = at & !(PAGE - 1);
        let end = at
            .checked_add(len)
            .and_then(round_up)
            .ok_or(Errno::EINVAL)?;
        if start == end {
            return Ok(());
        }
        if lock {
            let state = self.state.borrow();
            let already: u64 = state
                .areas
                .overlapping(start, end)
                .filter(|area| area.flags.contains(AreaFlags::LOCKED))
                .map(|area| area.end.min(end) - area.start.max(start))
                .sum();
            if state.limits.locked == 0 {
                return Err(Errno::EPERM);
            }
            let locked = state.areas.totals().locked - already;
            if locked.saturating_add(end - start) > state.limits.locked {
                return Err(Errno::ENOMEM);
            }
        }
        let set = if lock {
            AreaFlags::LOCKED
        } else {
            AreaFlags::empty()
        };
        if !self.is_covered(start, end) {
            return Err(Errno::ENOMEM);
        }
        self.change_flags(start, end, AreaFlags::LOCKED, set)
    }

    /// True if new mappings are locked (`MCL_FUTURE`).
    pub fn locks_all(&self) -> bool {
        self.state.borrow().lock_future
    }

    /// `mlockall(2)`, and with no flags `munlockall(2)`.
    ///
    /// # Errors
    /// `ENOMEM` beyond the limit, `EPERM` if nothing may be locked.
    pub fn lock_all(&self, current: bool, future: bool) -> Result {
        {
            let mut state = self.state.borrow_mut();
            if (current || future) && state.limits.locked == 0 {
                return Err(Errno::EPERM);
            }
            if current && state.areas.totals().size > state.limits.locked {
                return Err(Errno::ENOMEM);
            }
            state.lock_future = future;
        }
        let set = if current {
            AreaFlags::LOCKED
        } else {
            AreaFlags::empty()
        };
        if current || !future {
            self.change_flags(0, USER_END, AreaFlags::LOCKED, set)?;
        }
        Ok(())
    }

    /// `mincore(2)`: a byte for each page. Anonymous memory is said to be present: the host does not tell.
    ///
    /// # Errors
    /// `EINVAL`, `ENOMEM` for holes, `EFAULT`.
    pub fn residence(&self, at: u64, len: u64, to: UserAddr) -> Result {
        if !at.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let end = round_up(len).and_then(|len| at.checked_add(len));
        let end = end.filter(|&end| end <= USER_END).ok_or(Errno::ENOMEM)?;
        let mut page = at;
        while page < end {
            let until = end.min(page + (PAGE << 12));
            if !self.is_covered(page, until) {
                return Err(Errno::ENOMEM);
            }
            let mut bytes = alloc::vec![0u8; ((until - page) / PAGE) as usize];
            {
                let state = self.state.borrow();
                for area in state.areas.overlapping(page, until) {
                    let (from, end) = (area.start.max(page), area.end.min(until));
                    for (from, end) in state.host_ranges(area, from, end) {
                        let part = ((from - page) / PAGE) as usize..((end - page) / PAGE) as usize;
                        bytes.get_mut(part).unwrap_or_default().fill(1);
                    }
                }
            }
            to.add((page - at) / PAGE).write_bytes(&bytes)?;
            page = until;
        }
        Ok(())
    }
}
