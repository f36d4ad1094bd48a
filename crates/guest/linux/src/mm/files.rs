//! The content of mapped files that the host does not make present by itself.
//!
//! Files whose pages a file system keeps ([`Source::Pages`]) are mapped a few pages at a time, when they are touched. What the program
//! writes to shared ones goes to where the file is kept on `msync(2)` and when the mapping goes. Those that can only
//! be read are the business of [`copies`](super::copies).

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::area::{Area, AreaFlags, Source};
use super::{AddressSpace, Aftermath};
use crate::fs::Pages;
use crate::platform::{self, Access, Backing};
use crate::process::Thread;
use crate::user::PAGE;
use crate::{Errno, Result};

/// Pages are made present together with their neighbours in such a piece.
pub const AROUND: u64 = 16 * PAGE;

/// The most that one copy to or from the program makes present before it is tried again.
const MOST_AT_ONCE: u64 = 16 << 20;

impl AddressSpace {
    /// Gives a new mapping of a file its first content.
    pub(super) fn fill(&self, thread: &Rc<Thread>, area: &Area) -> Result {
        let Some(file) = area.file() else {
            return Ok(());
        };
        match &file.source {
            Source::Image { .. } => Ok(()),
            Source::Pages(_) => {
                // What is not there yet will be when it is touched.
                let end = area.end.min(area.start + AROUND);
                let _ = self.map_pages(area.start, area.start, end);
                Ok(())
            }
            Source::Copy => {
                let end = area
                    .end
                    .min(area.start.saturating_add(super::copies::AT_ONCE));
                self.read_copy(thread, file, area, area.start, end)
            }
        }
    }

    /// Maps pages of a file between `from` and `to`, the one at `at` first, as far as its area and the content go.
    ///
    /// # Errors
    /// `ENXIO` if there is no content at `at`, `ENOMEM`, `EFAULT` if there is no such area.
    pub(super) fn map_pages(&self, at: u64, from: u64, to: u64) -> Result {
        let (area, pages, gaps) = {
            let state = self.state.borrow();
            let area = state.areas.find(at).ok_or(Errno::EFAULT)?.clone();
            let Some(Source::Pages(pages)) = area.file().map(|file| &file.source) else {
                return Err(Errno::EFAULT);
            };
            let pages = pages.clone();
            let gaps = state
                .present
                .missing(from.max(area.start), to.min(area.end));
            (area, pages, gaps)
        };
        let needed = at & !(PAGE - 1);
        if gaps.iter().any(|&(from, to)| (from..to).contains(&needed)) {
            self.map_run(&area, &pages, needed, needed + PAGE)?;
        }
        for (from, to) in gaps {
            for (from, to) in [(from, to.min(needed)), (from.max(needed + PAGE), to)] {
                if from < to && self.map_run(&area, &pages, from, to).is_err() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Maps the pages of a range of which none is present, neighbours in the library OS's memory at once.
    fn map_run(&self, area: &Area, pages: &Rc<dyn Pages>, from: u64, to: u64) -> Result {
        let mut at = from;
        while at < to {
            let run = pages.run(area.offset_of(at) / PAGE, (to - at) / PAGE)?;
            let len = run.pages.saturating_mul(PAGE).min(to - at);
            if len == 0 {
                return Err(Errno::ENXIO);
            }
            let backing = if area.flags.contains(AreaFlags::SHARED) {
                Backing::Shared(run.address)
            } else {
                Backing::Private(run.address)
            };
            platform::map(at, len, area.access, backing)?;
            let mut state = self.state.borrow_mut();
            state.present.insert_held(at, at + len, run.hold);
            at += len;
        }
        Ok(())
    }

    /// Brings what was written to shared mappings to where their files are kept: the process ends.
    ///
    /// # Errors
    /// The first of the file systems'; all pages are tried.
    pub fn save(&self) -> Result {
        self.write_changes(0, u64::MAX)
    }

    /// The same of a range whose mappings are about to go. What cannot be written is lost, as on Linux where nobody could be told either;
    /// `msync(2)` tells.
    pub(super) fn write_back(&self, start: u64, end: u64) {
        let _ = self.write_changes(start, end);
    }

    /// As [`write_back`](Self::write_back).
    ///
    /// # Errors
    /// The first of the file systems'; all pages are tried.
    pub(super) fn write_changes(&self, start: u64, end: u64) -> Result {
        let changed: Vec<(Rc<dyn Pages>, u64, u64)> = {
            let state = self.state.borrow();
            let areas = state.areas.overlapping(start, end);
            let pages = areas.filter_map(|area| {
                let written =
                    area.flags.contains(AreaFlags::SHARED) && area.most.contains(Access::WRITE);
                let Some(Source::Pages(pages)) = area.file().map(|file| &file.source) else {
                    return None;
                };
                let first = area.offset_of(area.start.max(start)) / PAGE;
                let count = (area.end.min(end) - area.start.max(start)) / PAGE;
                written.then(|| (pages.clone(), first, first + count))
            });
            pages.collect()
        };
        let mut result = Ok(());
        for (pages, first, last) in changed {
            result = result.and(pages.save(first, last));
        }
        result
    }

    /// Makes present what a copy of `len` bytes has found missing: pages of files, and room for a stack to grow. True if something
    /// was done, so that another try is worth it.
    pub fn make_present(&self, at: u64, len: u64, access: Access) -> bool {
        let end = at.saturating_add(len.min(MOST_AT_ONCE));
        let mut progress = false;
        let mut at = at;
        while at < end {
            let until = {
                let state = self.state.borrow();
                match state.areas.find(at) {
                    Some(area) if is_paged(area) => {
                        let until = area.end.min(end);
                        match state.present.missing(at & !(PAGE - 1), until).first() {
                            Some(&(from, _)) => at = at.max(from),
                            None => {
                                at = until;
                                continue;
                            }
                        }
                        None
                    }
                    Some(area) => Some(area.end),
                    None => None,
                }
            };
            if let Some(until) = until {
                at = until;
                continue;
            }
            if self.fault(at, access) != super::FaultOutcome::Resolved {
                return progress;
            }
            progress = true;
            at = (at & !(PAGE - 1)) + PAGE;
        }
        progress
    }

    /// Makes a range present that will be used (`MAP_POPULATE`, `MADV_POPULATE_READ`).
    pub fn populate(&self, start: u64, end: u64) {
        self.make_present(start, end - start, Access::empty());
        let state = self.state.borrow();
        for area in state.areas.overlapping(start, end) {
            if area.access.is_empty() {
                continue;
            }
            for (from, to) in state.host_ranges(area, area.start.max(start), area.end.min(end)) {
                platform::populate(from, to - from);
            }
        }
    }

    /// Pages of a file are about to go, those with the numbers from `first` up to before `last`: the file was cut, or a hole made. The program gets
    /// `SIGBUS` for them, or new pages, when it uses them again.
    pub fn content_gone(&self, pages: &Rc<dyn Pages>, first: u64, last: u64) {
        let mut aftermath = Aftermath::default();
        {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            for area in state.areas.iter() {
                let Some(file) = area.file() else { continue };
                let Source::Pages(of) = &file.source else {
                    continue;
                };
                if !core::ptr::addr_eq(Rc::as_ptr(of), Rc::as_ptr(pages)) {
                    continue;
                }
                let offset = |index: u64| index.saturating_mul(PAGE).saturating_sub(area.offset);
                let from = area.start.saturating_add(offset(first)).min(area.end);
                let to = area.start.saturating_add(offset(last)).min(area.end);
                let (ranges, pieces) = state.present.remove(from, to);
                for (from, to) in ranges {
                    let _ = platform::unmap(from, to - from);
                }
                aftermath.released.extend(pieces);
            }
        }
        aftermath.settle(self);
    }
}

/// As [`AddressSpace::content_gone`], for all processes: a file system calls it before it takes pages of a file away.
pub fn content_gone(pages: &Rc<dyn Pages>, first: u64, last: u64) {
    for process in platform::kernel().processes.all() {
        process.memory.content_gone(pages, first, last);
    }
}

/// True if a process has pages of a file in a shared mapping that it can write to, or could after `mprotect(2)`.
pub fn may_be_written(pages: &Rc<dyn Pages>) -> bool {
    let writes = |area: &Area| {
        area.most.contains(Access::WRITE)
            && area
                .shared_pages()
                .is_some_and(|of| core::ptr::addr_eq(Rc::as_ptr(of), Rc::as_ptr(pages)))
    };
    let mut processes = platform::kernel().processes.all().into_iter();
    processes.any(|process| process.memory.state.borrow().areas.iter().any(writes))
}

/// True if its pages are made present one by one.
fn is_paged(area: &Area) -> bool {
    area.file()
        .is_some_and(|file| !matches!(file.source, Source::Image { .. }))
}
