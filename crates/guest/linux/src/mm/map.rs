//! `mmap(2)`, `munmap(2)`, `mprotect(2)`.

use alloc::rc::Rc;

use super::area::{Area, AreaFlags, Content, MappedFile, Purpose, Source};
use super::flags::MapFlags;
use super::{AddressSpace, Aftermath, MAX_AREAS, State};
use crate::fs::OpenFile;
use crate::platform::{self, Access, Backing};
use crate::process::Thread;
use crate::user::{PAGE, USER_END, USER_START};
use crate::{Errno, Result, shortage};

/// The size of a large page: long mappings start at a multiple of it, so that the host can use such pages.
pub const LARGE_PAGE: u64 = 2 << 20;

/// Where mappings go that are to lie low (`MAP_32BIT`).
const LOW_START: u64 = 0x4000_0000;
const LOW_END: u64 = 0x8000_0000;

/// What `mmap(2)` is asked for.
#[derive(Clone, Debug, Default)]
pub struct MapRequest {
    /// Where; 0 for anywhere.
    pub at: u64,
    /// Bytes.
    pub len: u64,
    /// What the program may do with it.
    pub access: Access,
    /// The flags, `MAP_SHARED_VALIDATE` resolved.
    pub flags: MapFlags,
    /// The file and the offset in bytes in it.
    pub file: Option<(Rc<OpenFile>, u64)>,
    /// What an anonymous mapping is for.
    pub purpose: Purpose,
}

/// The next multiple of the page size.
pub fn round_up(value: u64) -> Option<u64> {
    value.checked_add(PAGE - 1).map(|value| value & !(PAGE - 1))
}

/// The range that `at` and `len` name, if it is whole pages of the program.
fn range(at: u64, len: u64, error: Errno) -> Result<(u64, u64)> {
    if !at.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let len = round_up(len).ok_or(error)?;
    let end = at.checked_add(len).ok_or(error)?;
    if end > USER_END {
        return Err(error);
    }
    Ok((at, end))
}

impl AddressSpace {
    /// `mmap(2)`: returns where the mapping is. What is to be present at once (`MAP_POPULATE`, locked memory) is the caller's to [populate](Self::populate).
    ///
    /// # Errors
    /// Those of `mmap(2)`.
    pub fn map(&self, thread: &Rc<Thread>, request: &MapRequest) -> Result<u64> {
        if request.len == 0 {
            return Err(Errno::EINVAL);
        }
        let len = round_up(request.len).ok_or(Errno::ENOMEM)?;
        if len > USER_END - USER_START {
            return Err(Errno::ENOMEM);
        }
        let shared = request.flags.contains(MapFlags::SHARED);
        let fixed = request
            .flags
            .intersects(MapFlags::FIXED | MapFlags::FIXED_NOREPLACE);
        let (content, offset, most) = content_of(request, len, shared)?;
        let mut flags = AreaFlags::empty();
        flags.set(AreaFlags::SHARED, shared);
        flags.set(
            AreaFlags::GROWS_DOWN,
            request.flags.contains(MapFlags::GROWSDOWN),
        );
        flags.set(
            AreaFlags::NORESERVE,
            request.flags.contains(MapFlags::NORESERVE),
        );
        let lock = request.flags.contains(MapFlags::LOCKED) || self.state.borrow().lock_future;
        flags.set(AreaFlags::LOCKED, lock);

        let start = self.state.borrow_mut().choose(request, len, fixed)?;
        let end = start + len;
        self.state
            .borrow()
            .check_limits(start, len, request.access, flags)?;
        if request.flags.contains(MapFlags::FIXED) {
            self.write_back(start, end);
        }
        let area = Area {
            start,
            end,
            access: request.access,
            most,
            flags,
            content,
            offset,
        };
        let mut aftermath = Aftermath::default();
        let result = self.state.borrow_mut().put(area.clone(), &mut aftermath);
        aftermath.settle(self);
        result?;
        if let Err(error) = self.fill(thread, &area) {
            let _ = self.unmap(start, len);
            return Err(error);
        }
        Ok(start)
    }

    /// Maps pages of the library OS, such as the vDSO's: at `hint` or the next free place. Returns where.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn map_own(
        &self,
        hint: u64,
        len: u64,
        access: Access,
        address: u64,
        private: bool,
        name: &'static str,
    ) -> Result<u64> {
        let len = round_up(len).ok_or(Errno::ENOMEM)?;
        let mut aftermath = Aftermath::default();
        let request = MapRequest {
            at: hint,
            ..MapRequest::default()
        };
        let mut state = self.state.borrow_mut();
        let start = state.choose(&request, len, false)?;
        let area = Area {
            start,
            end: start + len,
            access,
            most: Access::READ | Access::EXEC,
            flags: AreaFlags::DONT_DUMP,
            content: Content::Own {
                address,
                name,
                private,
            },
            offset: 0,
        };
        let result = state.put(area, &mut aftermath);
        drop(state);
        aftermath.settle(self);
        result.map(|()| start)
    }

    /// `munmap(2)`.
    ///
    /// # Errors
    /// `EINVAL` for a range that is not whole pages of the program; `ENOMEM` if there would be too many areas.
    pub fn unmap(&self, at: u64, len: u64) -> Result {
        let (start, end) = range(at, len, Errno::EINVAL)?;
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        self.write_back(start, end);
        let mut aftermath = Aftermath::default();
        let result = self
            .state
            .borrow_mut()
            .take_away(start, end, &mut aftermath);
        aftermath.settle(self);
        result
    }

    /// `mprotect(2)`. With `grows_down` (`PROT_GROWSDOWN`) the range is extended to the start of an area that does.
    ///
    /// # Errors
    /// `EINVAL`, `ENOMEM` for holes, `EACCES` for a file that was not opened so. What lies before the hole is changed.
    pub fn protect(&self, at: u64, len: u64, access: Access, grows_down: bool) -> Result {
        let (mut start, end) = range(at, len, Errno::ENOMEM)?;
        if start == end {
            return Ok(());
        }
        let mut aftermath = Aftermath::default();
        let mut state = self.state.borrow_mut();
        if grows_down {
            let area = state.areas.find(start).ok_or(Errno::ENOMEM)?;
            if !area.flags.contains(AreaFlags::GROWS_DOWN) {
                return Err(Errno::EINVAL);
            }
            start = area.start;
        }
        let result = state.reprotect(start, end, access, &mut aftermath);
        drop(state);
        aftermath.settle(self);
        result
    }
}

/// What a mapping will hold, where in it the mapping starts, and what access it may ever have.
fn content_of(request: &MapRequest, len: u64, shared: bool) -> Result<(Content, u64, Access)> {
    let Some((open, offset)) = &request.file else {
        if shared && request.flags.contains(MapFlags::GROWSDOWN) {
            return Err(Errno::EINVAL);
        }
        return Ok((Content::Zero(request.purpose), 0, Access::all()));
    };
    if !offset.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    if offset
        .checked_add(len)
        .is_none_or(|end| end > i64::MAX as u64)
    {
        return Err(Errno::EOVERFLOW);
    }
    let opened = open.flags.get();
    if !opened.readable() {
        return Err(Errno::EACCES);
    }
    let mut most = Access::all();
    if shared && !opened.writable() {
        most -= Access::WRITE;
    }
    if !most.contains(request.access) {
        return Err(Errno::EACCES);
    }
    if request.flags.contains(MapFlags::GROWSDOWN) {
        return Err(Errno::EINVAL);
    }
    let mapped = open.file.map(shared)?;
    let metadata = open.file.metadata()?;
    let source = match mapped {
        crate::fs::Mapped::Zero => return Ok((Content::Zero(Purpose::Ordinary), 0, most)),
        crate::fs::Mapped::Image(at) => Source::Image {
            at,
            size: metadata.size,
        },
        crate::fs::Mapped::Pages(pages) => {
            if shared && opened.writable() {
                if pages.are_sealed() {
                    if request.access.contains(Access::WRITE) {
                        return Err(Errno::EPERM);
                    }
                    most -= Access::WRITE;
                } else {
                    pages.expect_writes()?;
                }
            }
            Source::Pages(pages)
        }
        crate::fs::Mapped::Copy if shared => return Err(Errno::ENODEV),
        crate::fs::Mapped::Copy => Source::Copy,
    };
    let path = match &open.place {
        Some(place) => place.path(),
        None => open.file.describe(),
    };
    let file = MappedFile {
        open: open.clone(),
        device: metadata.device,
        inode: metadata.inode,
        path,
        source,
    };
    Ok((Content::File(Rc::new(file)), *offset, most))
}

impl State {
    /// Where a mapping goes.
    pub(super) fn choose(&mut self, request: &MapRequest, len: u64, fixed: bool) -> Result<u64> {
        if fixed {
            let start = request.at;
            if !start.is_multiple_of(PAGE) {
                return Err(Errno::EINVAL);
            }
            let end = start.checked_add(len).filter(|&end| end <= USER_END);
            let end = end.ok_or(Errno::ENOMEM)?;
            if start < USER_START {
                return Err(Errno::EPERM);
            }
            if request.flags.contains(MapFlags::FIXED_NOREPLACE) && !self.areas.is_free(start, end)
            {
                return Err(Errno::EEXIST);
            }
            let mut there = self.areas.overlapping(start, end);
            if there.any(|area| !area.is_program()) {
                return Err(Errno::ENOMEM);
            }
            return Ok(start);
        }
        // A wish is followed also where a range below is asked for: what ends in it is low enough.
        let low = request.flags.contains(MapFlags::LOW_2G);
        let most = if low { LOW_END } else { USER_END };
        let hint = request.at & !(PAGE - 1);
        if hint >= USER_START
            && let Some(end) = hint.checked_add(len).filter(|&end| end <= most)
            && self.areas.is_free(hint, end)
            && !self.is_guarded(end)
        {
            return Ok(hint);
        }
        if low {
            let found = self.areas.search_within(LOW_START, LOW_END, len, PAGE);
            return found.ok_or(Errno::ENOMEM);
        }
        let large = request.flags.contains(MapFlags::HUGETLB)
            || (request.file.is_none() && len.is_multiple_of(LARGE_PAGE));
        let align = if large { LARGE_PAGE } else { PAGE };
        let found = self.areas.search(len, align);
        let found = found.or_else(|| self.areas.search(len, PAGE));
        // Above the base there is only room that nobody has asked for.
        let found = found.or_else(|| self.areas.search_within(USER_START, USER_END, len, PAGE));
        found.ok_or(Errno::ENOMEM)
    }

    /// True if what ends here would lie in the gap below a stack.
    fn is_guarded(&self, end: u64) -> bool {
        self.areas.after(end).is_some_and(|area| {
            area.flags.contains(AreaFlags::GROWS_DOWN)
                && area.start - end < super::areas::STACK_GUARD
        })
    }

    /// `RLIMIT_AS`, `RLIMIT_DATA`, `RLIMIT_MEMLOCK`, for what will replace what is in the range.
    pub(super) fn check_limits(
        &self,
        at: u64,
        len: u64,
        access: Access,
        flags: AreaFlags,
    ) -> Result {
        let totals = self.areas.totals();
        let (mut size, mut data) = (0, 0);
        for area in self.areas.overlapping(at, at.saturating_add(len)) {
            let part = area.end.min(at.saturating_add(len)) - area.start.max(at);
            size += part;
            data += if area.is_private_writable() { part } else { 0 };
        }
        let grown = |sum: u64, less: u64| sum.saturating_sub(less).saturating_add(len);
        if grown(totals.size, size) > self.limits.size {
            return Err(Errno::ENOMEM);
        }
        let is_data = access.contains(Access::WRITE) && !flags.contains(AreaFlags::SHARED);
        if is_data && grown(totals.data, data) > self.limits.data {
            return Err(Errno::ENOMEM);
        }
        if flags.contains(AreaFlags::LOCKED) && grown(totals.locked, 0) > self.limits.locked {
            return Err(Errno::EAGAIN);
        }
        Ok(())
    }

    /// Puts an area where it belongs, in place of what is there.
    pub(super) fn put(&mut self, area: Area, aftermath: &mut Aftermath) -> Result {
        if self.areas.count() >= MAX_AREAS {
            return Err(Errno::ENOMEM);
        }
        shortage::mapping()?;
        let (start, end) = (area.start, area.end);
        for old in self.areas.take(start, end) {
            aftermath.note_gone(&old, &mut self.present);
            aftermath.removed.push(old);
        }
        if let Err(error) = map_on_host(&area) {
            let _ = platform::unmap(start, end - start);
            return Err(error);
        }
        self.areas.insert(area);
        self.peak = self.peak.max(self.areas.totals().size);
        Ok(())
    }

    /// Takes what is in a range away.
    pub(super) fn take_away(&mut self, start: u64, end: u64, aftermath: &mut Aftermath) -> Result {
        // Both ends may cut an area in two.
        if self.areas.count() + 1 >= MAX_AREAS && !self.is_border(start) && !self.is_border(end) {
            return Err(Errno::ENOMEM);
        }
        let mut result = Ok(());
        for area in self.areas.take(start, end) {
            // What could not be unmapped is still there, and so are its pages.
            if result.is_ok() {
                result = platform::unmap(area.start, area.len());
            }
            if result.is_err() {
                self.areas.insert(area);
                continue;
            }
            aftermath.note_gone(&area, &mut self.present);
            aftermath.removed.push(area);
        }
        result
    }

    /// True if no area goes across an address.
    fn is_border(&self, at: u64) -> bool {
        self.areas.find(at).is_none_or(|area| area.start == at)
    }

    /// Changes the access of a range, area by area up to the first hole.
    fn reprotect(
        &mut self,
        start: u64,
        end: u64,
        access: Access,
        aftermath: &mut Aftermath,
    ) -> Result {
        let mut at = start;
        while at < end {
            let area = self.areas.find(at).filter(|area| area.is_program());
            let area = area.ok_or(Errno::ENOMEM)?;
            let until = area.end.min(end);
            if area.access == access {
                at = until;
                continue;
            }
            if !area.most.contains(access) {
                return Err(Errno::EACCES);
            }
            let becomes_data = access.contains(Access::WRITE)
                && !area.is_private_writable()
                && !area.flags.contains(AreaFlags::SHARED);
            let data = self.areas.totals().data.saturating_add(until - at);
            let splits = area.start != at || area.end != until;
            if (becomes_data && data > self.limits.data)
                || (splits && self.areas.count() + 1 >= MAX_AREAS)
                || (splits && shortage::mapping().is_err())
            {
                return Err(Errno::ENOMEM);
            }
            for mut area in self.areas.take(at, until) {
                let (from, to) = (area.start, area.end);
                let protected = self.host_ranges(&area, from, to).into_iter();
                let result = protected
                    .map(|(from, to)| platform::protect(from, to - from, access))
                    .find(Result::is_err);
                if let Some(Err(error)) = result {
                    self.areas.insert(area);
                    return Err(error);
                }
                let was_text = area.access.contains(Access::EXEC);
                if was_text && (access.contains(Access::WRITE) || !access.contains(Access::EXEC)) {
                    aftermath.text.push((from, to));
                }
                area.access = access;
                self.areas.insert(area);
            }
            at = until;
        }
        Ok(())
    }
}

/// Maps what the host makes present by itself.
pub(super) fn map_on_host(area: &Area) -> Result {
    let (start, len) = (area.start, area.len());
    match &area.content {
        Content::Zero(_) => platform::map(start, len, area.access, Backing::Zero),
        Content::Own {
            address, private, ..
        } => {
            let from = address.wrapping_add(area.offset);
            let backing = if *private {
                Backing::Private(from)
            } else {
                Backing::Shared(from)
            };
            platform::map(start, len, area.access, backing)
        }
        Content::File(file) => match file.source {
            Source::Image { at, size } => {
                let there = image_len(area.offset, size).min(len);
                if there > 0 {
                    let backing = Backing::Image(at + area.offset);
                    platform::map(start, there, area.access, backing)?;
                }
                if there < len {
                    platform::unmap(start + there, len - there)?;
                }
                Ok(())
            }
            // Filled afterwards, or on a fault.
            Source::Pages(_) | Source::Copy => platform::unmap(start, len),
        },
        Content::Reserved => Ok(()),
    }
}

/// Bytes of whole pages that a file of `size` bytes has behind `offset`.
fn image_len(offset: u64, size: u64) -> u64 {
    round_up(size).unwrap_or(size).saturating_sub(offset)
}

impl State {
    /// The parts of `from..to`, which lies in the area, that the host has mapped.
    pub(super) fn host_ranges(
        &self,
        area: &Area,
        from: u64,
        to: u64,
    ) -> alloc::vec::Vec<(u64, u64)> {
        match &area.content {
            Content::Zero(_) | Content::Own { .. } => alloc::vec![(from, to)],
            Content::Reserved => alloc::vec![],
            Content::File(file) => match file.source {
                Source::Image { size, .. } => {
                    let end = area.start + image_len(area.offset, size).min(area.len());
                    if from < end {
                        alloc::vec![(from, to.min(end))]
                    } else {
                        alloc::vec![]
                    }
                }
                Source::Pages(_) | Source::Copy => self.present.within(from, to),
            },
        }
    }
}

impl Aftermath {
    /// Notes what has to be told when an area, or a part of one, has gone.
    pub(super) fn note_gone(&mut self, area: &Area, present: &mut super::present::Present) {
        if area.access.contains(Access::EXEC) {
            self.text.push((area.start, area.end));
        }
        let Some(file) = area.file() else { return };
        if matches!(file.source, Source::Image { .. }) {
            return;
        }
        self.released.extend(present.remove(area.start, area.end).1);
    }
}

impl AddressSpace {
    /// A range of `len` bytes where nothing is, from the top down; its start is a multiple of `align`, a power of two.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn find_free(&self, len: u64, align: u64) -> Result<u64> {
        let len = round_up(len).ok_or(Errno::ENOMEM)?;
        let mut state = self.state.borrow_mut();
        let found = state.areas.search(len.max(PAGE), align.max(PAGE));
        found.ok_or(Errno::ENOMEM)
    }

    /// True if nothing lies in `start..end`, and the program could map something there.
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        USER_START <= start
            && start <= end
            && end <= USER_END
            && self.state.borrow().areas.is_free(start, end)
    }

    /// Lets free ranges be searched below `top`, a multiple of the page size.
    pub fn set_search_top(&self, top: u64) {
        self.state.borrow_mut().areas.set_top(top);
    }
}
