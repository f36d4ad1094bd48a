//! `mremap(2)`.

use alloc::rc::Rc;

use super::area::{Area, AreaFlags, Source};
use super::flags::{MapFlags, RemapFlags};
use super::map::{MapRequest, round_up};
use super::{AddressSpace, Aftermath, State};
use crate::platform::{self, Backing};
use crate::process::Thread;
use crate::user::{PAGE, USER_END};
use crate::{Errno, Result};

impl AddressSpace {
    /// `mremap(2)`: returns where the mapping is now.
    ///
    /// # Errors
    /// Those of `mremap(2)`.
    pub fn remap(
        &self,
        thread: &Rc<Thread>,
        at: u64,
        old_len: u64,
        new_len: u64,
        flags: RemapFlags,
        to: u64,
    ) -> Result<u64> {
        let fixed = flags.contains(RemapFlags::FIXED);
        let keep = flags.contains(RemapFlags::DONTUNMAP);
        let may_move = flags.contains(RemapFlags::MAYMOVE);
        if !at.is_multiple_of(PAGE) || ((fixed || keep) && !may_move) {
            return Err(Errno::EINVAL);
        }
        let old_len = round_up(old_len).ok_or(Errno::EINVAL)?;
        let new_len = round_up(new_len).ok_or(Errno::EINVAL)?;
        if new_len == 0 || new_len > USER_END || (keep && old_len != new_len) {
            return Err(Errno::EINVAL);
        }
        if at.checked_add(old_len).is_none_or(|end| end > USER_END) {
            return Err(Errno::EFAULT);
        }
        if fixed {
            let end = to.checked_add(new_len).filter(|&end| end <= USER_END);
            let end = end.ok_or(Errno::EINVAL)?;
            let apart = end <= at || at + old_len <= to;
            if !to.is_multiple_of(PAGE) || !apart {
                return Err(Errno::EINVAL);
            }
        }
        let area = {
            let state = self.state.borrow();
            let area = state.areas.find(at).filter(|area| area.is_program());
            area.cloned().ok_or(Errno::EFAULT)?
        };
        if old_len == 0 {
            // A second mapping of the same pages, which only shared ones have.
            if !area.flags.contains(AreaFlags::SHARED) || !may_move || area.is_anonymous() {
                return Err(Errno::EINVAL);
            }
            return self.duplicate(thread, &area, at, new_len, fixed.then_some(to));
        }
        if at + old_len > area.end {
            return Err(Errno::EFAULT);
        }
        if keep && area.file().is_some() {
            return Err(Errno::EINVAL);
        }
        if !fixed && !keep {
            if new_len < old_len {
                self.unmap(at + new_len, old_len - new_len)?;
                return Ok(at);
            }
            if new_len == old_len {
                return Ok(at);
            }
            if at + old_len == area.end && self.extend(thread, &area, at, old_len, new_len)? {
                return Ok(at);
            }
            if !may_move {
                return Err(Errno::ENOMEM);
            }
        }
        self.relocate(
            thread,
            &area,
            at,
            old_len,
            new_len,
            fixed.then_some(to),
            keep,
        )
    }

    /// Makes an area longer where it is; false if something is in its way.
    fn extend(
        &self,
        thread: &Rc<Thread>,
        area: &Area,
        at: u64,
        old_len: u64,
        new_len: u64,
    ) -> Result<bool> {
        let (from, to) = (area.end, at + new_len);
        let mut more = area.clone();
        more.start = from;
        more.end = to;
        more.offset = area.offset_of(from);
        let mut aftermath = Aftermath::default();
        let result = {
            let mut state = self.state.borrow_mut();
            if to > USER_END || !state.areas.is_free(from, to) {
                return Ok(false);
            }
            state.check_limits(from, new_len - old_len, area.access, area.flags)?;
            state.put(more.clone(), &mut aftermath)
        };
        aftermath.settle(self);
        result?;
        self.fill(thread, &more)?;
        if area.flags.contains(AreaFlags::LOCKED) {
            self.populate(from, to);
        }
        Ok(true)
    }

    /// Maps the pages that an area shares once more.
    fn duplicate(
        &self,
        thread: &Rc<Thread>,
        area: &Area,
        at: u64,
        len: u64,
        to: Option<u64>,
    ) -> Result<u64> {
        let mut copy = area.clone();
        copy.offset = area.offset_of(at);
        if let Some(to) = to {
            self.write_back(to, to.saturating_add(len));
        }
        let mut aftermath = Aftermath::default();
        let result = {
            let mut state = self.state.borrow_mut();
            state.target(to, len).and_then(|start| {
                state.check_limits(start, len, area.access, area.flags)?;
                copy.start = start;
                copy.end = start + len;
                state.put(copy.clone(), &mut aftermath)
            })
        };
        aftermath.settle(self);
        result?;
        self.fill(thread, &copy)?;
        Ok(copy.start)
    }

    /// Moves a mapping.
    #[allow(clippy::too_many_arguments, reason = "those of mremap(2)")]
    fn relocate(
        &self,
        thread: &Rc<Thread>,
        area: &Area,
        at: u64,
        old_len: u64,
        new_len: u64,
        to: Option<u64>,
        keep: bool,
    ) -> Result<u64> {
        if let Some(to) = to {
            self.unmap(to, new_len)?;
        }
        let moved_len = old_len.min(new_len);
        if old_len > new_len {
            self.unmap(at + new_len, old_len - new_len)?;
        }
        let mut aftermath = Aftermath::default();
        let result =
            self.state
                .borrow_mut()
                .move_area(at, moved_len, new_len, to, keep, &mut aftermath);
        aftermath.settle(self);
        let start = result?;
        if new_len > moved_len {
            let mut more = area.clone();
            more.start = start + moved_len;
            more.end = start + new_len;
            more.offset = area.offset_of(at + moved_len);
            let mut aftermath = Aftermath::default();
            let result = self.state.borrow_mut().put(more.clone(), &mut aftermath);
            aftermath.settle(self);
            result?;
            self.fill(thread, &more)?;
        }
        if area.flags.contains(AreaFlags::LOCKED) {
            self.populate(start, start + new_len);
        }
        Ok(start)
    }
}

impl State {
    /// Where a moved mapping goes.
    fn target(&mut self, to: Option<u64>, len: u64) -> Result<u64> {
        let request = MapRequest {
            at: to.unwrap_or(0),
            flags: MapFlags::empty(),
            ..MapRequest::default()
        };
        self.choose(&request, len, to.is_some())
    }

    fn move_area(
        &mut self,
        at: u64,
        len: u64,
        new_len: u64,
        to: Option<u64>,
        keep: bool,
        aftermath: &mut Aftermath,
    ) -> Result<u64> {
        let start = self.target(to, new_len)?;
        let old = self.areas.find(at).ok_or(Errno::EFAULT)?;
        let more = if keep { len } else { new_len - len };
        self.check_limits(start, more, old.access, old.flags)?;
        let taken = self.areas.take(at, at + len);
        for area in taken {
            let ranges = self.host_ranges(&area, area.start, area.end);
            let to = start + (area.start - at);
            let moved = |from: u64| from - area.start + to;
            let paged = area
                .file()
                .is_some_and(|file| !matches!(file.source, Source::Image { .. }));
            for (from, end) in ranges {
                if let Err(error) = platform::relocate(from, end - from, moved(from)) {
                    self.areas.insert(area);
                    return Err(error);
                }
                if paged {
                    self.present.shift(from, end, moved(from));
                }
            }
            if area.access.contains(platform::Access::EXEC) {
                aftermath.text.push((area.start, area.end));
            }
            let mut new = area.clone();
            new.start = to;
            new.end = to + area.len();
            self.areas.insert(new);
            if keep {
                platform::map(area.start, area.len(), area.access, Backing::Zero)?;
                self.areas.insert(area);
            }
        }
        self.peak = self.peak.max(self.areas.totals().size);
        Ok(start)
    }
}
