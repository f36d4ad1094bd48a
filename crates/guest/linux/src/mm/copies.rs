//! Mapped files that can only be read and written ([`Source::Copy`]): those of volumes.
//!
//! Their content is copied into the program's memory, short ones when they are mapped, long ones piece by piece when they are touched. Pages of
//! shared mappings that have changed since are written back by `msync(2)`, `munmap(2)`, when somebody reads that part of the file, and when the
//! process ends; what is written to the file shows in its shared mappings at once.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use super::area::{Area, AreaFlags, MappedFile, Source};
use super::map::round_up;
use super::{AddressSpace, FaultOutcome};
use crate::Result;
use crate::io::{Sink, Source as Bytes};
use crate::platform::{self, Access, Backing};
use crate::process::Thread;
use crate::user::PAGE;

/// What is read at once.
pub const AT_ONCE: u64 = 256 << 10;

impl AddressSpace {
    /// Reads what is missing around an address that the program has touched.
    pub(super) fn fault_copy(&self, at: u64) -> FaultOutcome {
        let (area, gaps) = {
            let state = self.state.borrow();
            let Some(area) = state.areas.find(at).cloned() else {
                return FaultOutcome::NotMapped;
            };
            let from = (at & !(AT_ONCE - 1)).max(area.start);
            let to = from.saturating_add(AT_ONCE).min(area.end);
            let gaps = state.present.missing(from, to);
            (area, gaps)
        };
        let (Some(file), Some(thread)) = (area.file(), self.any_thread()) else {
            return FaultOutcome::NoContent;
        };
        for (from, to) in gaps {
            if self.read_copy(&thread, file, &area, from, to).is_err() {
                return FaultOutcome::NoContent;
            }
        }
        if self.state.borrow().present.contains(at) {
            FaultOutcome::Resolved
        } else {
            FaultOutcome::NoContent
        }
    }

    /// A thread of the process whose memory this is: files want to know on whose behalf they are read.
    fn any_thread(&self) -> Option<Rc<Thread>> {
        let all = platform::kernel().processes.all();
        let process = all
            .into_iter()
            .find(|process| core::ptr::eq(&raw const *process.memory, self))?;
        let threads = process.threads.borrow();
        threads.values().next().cloned()
    }

    /// Shared mappings of a file's bytes `start..end`: each with the part of it that is present.
    fn shared_copies(
        &self,
        device: u64,
        inode: u64,
        start: u64,
        end: u64,
    ) -> Vec<(Area, u64, u64)> {
        let state = self.state.borrow();
        let mut found = Vec::new();
        for area in state.areas.iter() {
            let Some(file) = area.file() else { continue };
            if !area.flags.contains(AreaFlags::SHARED)
                || !matches!(file.source, Source::Copy(_))
                || (file.device, file.inode) != (device, inode)
            {
                continue;
            }
            let place = |offset: u64| {
                let into = offset.saturating_sub(area.offset).min(area.len());
                area.start + into
            };
            let (from, to) = (place(start) & !(PAGE - 1), place(end));
            let to = round_up(to).unwrap_or(area.end).min(area.end);
            for (from, to) in state.present.within(from, to) {
                found.push((area.clone(), from, to));
            }
        }
        found
    }

    /// Shows bytes that were written to a file in its shared mappings.
    fn show_written(&self, device: u64, inode: u64, offset: u64, bytes: &[u8]) {
        let end = offset.saturating_add(bytes.len() as u64);
        for (area, from, to) in self.shared_copies(device, inode, offset, end) {
            let Some(Source::Copy(seen)) = area.file().map(|file| &file.source) else {
                continue;
            };
            let hidden = !area.access.contains(Access::READ | Access::WRITE);
            let open = Access::READ | Access::WRITE;
            if hidden && platform::protect(from, to - from, open).is_err() {
                continue;
            }
            let mut page = vec![0; PAGE as usize];
            let mut at = from;
            while at < to {
                let first = area.offset_of(at);
                let index = first / PAGE;
                let clean = platform::copy_in(at, &mut page).is_ok()
                    && seen.borrow().get(&index) == Some(&fingerprint(&page));
                let (low, high) = (offset.max(first), end.min(first.saturating_add(PAGE)));
                if low < high {
                    let part = (low - offset) as usize..(high - offset) as usize;
                    let part = bytes.get(part).unwrap_or_default();
                    let _ = platform::copy_out(at + (low - first), part);
                }
                if clean && platform::copy_in(at, &mut page).is_ok() {
                    seen.borrow_mut().insert(index, fingerprint(&page));
                }
                at += PAGE;
            }
            if hidden {
                let _ = platform::protect(from, to - from, area.access);
            }
        }
    }

    /// Reads a file's content to `from..to`, as far as the file goes.
    pub(super) fn read_copy(
        &self,
        thread: &Rc<Thread>,
        file: &MappedFile,
        area: &Area,
        from: u64,
        to: u64,
    ) -> Result {
        let size = file.open.file.metadata()?.size;
        let first = area.offset_of(from);
        let there = round_up(size.saturating_sub(first)).unwrap_or(0);
        let to = to.min(from.saturating_add(there));
        if from >= to {
            return Ok(());
        }
        platform::map(from, to - from, Access::READ | Access::WRITE, Backing::Zero)?;
        let read = copy_content(thread, file, area, from, to);
        let read = read.and_then(|()| platform::protect(from, to - from, area.access));
        if let Err(error) = read {
            let _ = platform::unmap(from, to - from);
            return Err(error);
        }
        // Not before: what is present and has changed is written to the file.
        self.state.borrow_mut().present.insert(from, to);
        Ok(())
    }

    /// Writes changed pages of all shared mappings of files that were copied back: the process ends, or asks for what it has
    /// written to be made durable.
    ///
    /// # Errors
    /// The first of the file system's; all pages are tried.
    pub fn save(&self, thread: &Rc<Thread>) -> Result {
        self.write_changes(thread, 0, u64::MAX)
    }

    /// Writes changed pages of shared mappings in the range back to files that were copied: the mappings are about to go.
    /// What cannot be written is lost, as on Linux where nobody could be told either; `msync(2)` tells.
    pub(super) fn write_back(&self, thread: &Rc<Thread>, start: u64, end: u64) {
        let _ = self.write_changes(thread, start, end);
    }

    /// As [`write_back`](Self::write_back).
    ///
    /// # Errors
    /// The first of the file system's; all pages are tried.
    pub(super) fn write_changes(&self, thread: &Rc<Thread>, start: u64, end: u64) -> Result {
        let copies: Vec<Area> = {
            let state = self.state.borrow();
            let areas = state.areas.overlapping(start, end);
            areas
                .filter(|area| is_written_back(area))
                .cloned()
                .collect()
        };
        let mut result = Ok(());
        for area in copies {
            let ranges = {
                let state = self.state.borrow();
                state
                    .present
                    .within(area.start.max(start), area.end.min(end))
            };
            for (from, to) in ranges {
                let written = write_range(thread, &area, from, to);
                result = result.and(written);
            }
        }
        result
    }
}

/// Copies a file's content to memory that is there and can be written, and remembers what each page was.
fn copy_content(thread: &Rc<Thread>, file: &MappedFile, area: &Area, from: u64, to: u64) -> Result {
    let shared = area.flags.contains(AreaFlags::SHARED);
    let mut buffer = vec![0; 64 << 10];
    let mut at = from;
    while at < to {
        let want = buffer.len().min((to - at) as usize);
        let piece = buffer.get_mut(..want).unwrap_or_default();
        let mut done = 0;
        while done < want {
            let offset = area.offset_of(at) + done as u64;
            let mut sink = Sink::kernel(piece.get_mut(done..).unwrap_or_default());
            match file.open.file.read_at(thread, offset, &mut sink)? {
                0 => break,
                more => done += more,
            }
        }
        piece.get_mut(done..).unwrap_or_default().fill(0);
        platform::copy_out(at, piece)?;
        if shared && let Source::Copy(seen) = &file.source {
            let mut seen = seen.borrow_mut();
            let index = area.offset_of(at) / PAGE;
            for (page, bytes) in (index..).zip(piece.chunks(PAGE as usize)) {
                seen.insert(page, fingerprint(bytes));
            }
        }
        at += want as u64;
    }
    Ok(())
}

/// Bytes were written to a file that can only be copied: its shared mappings show them. The file system calls it.
pub fn content_written(device: u64, inode: u64, offset: u64, bytes: &[u8]) {
    for process in platform::kernel().processes.all() {
        process.memory.show_written(device, inode, offset, bytes);
    }
}

/// A part of a file that can only be copied is about to be read: what shared mappings have changed of it is written first. The file system
/// calls it.
pub fn content_wanted(device: u64, inode: u64, offset: u64, len: u64) {
    for process in platform::kernel().processes.all() {
        let end = offset.saturating_add(len);
        let copies = process.memory.shared_copies(device, inode, offset, end);
        let Some(thread) = process.memory.any_thread() else {
            continue;
        };
        for (area, from, to) in copies {
            if area.most.contains(Access::WRITE) {
                let _ = write_range(&thread, &area, from, to);
            }
        }
    }
}

/// True for a mapping whose changes have to be written.
fn is_written_back(area: &Area) -> bool {
    area.flags.contains(AreaFlags::SHARED)
        && area.most.contains(Access::WRITE)
        && area
            .file()
            .is_some_and(|file| matches!(file.source, Source::Copy(_)))
}

/// Writes the changed pages of a range.
fn write_range(thread: &Rc<Thread>, area: &Area, from: u64, to: u64) -> Result {
    let Some(file) = area.file() else {
        return Ok(());
    };
    let Source::Copy(seen) = &file.source else {
        return Ok(());
    };
    let hidden = !area.access.contains(Access::READ);
    if hidden {
        platform::protect(from, to - from, Access::READ)?;
    }
    let mut result = Ok(());
    let size = file.open.file.metadata()?.size;
    let mut page = vec![0; PAGE as usize];
    let mut at = from;
    while at < to {
        let offset = area.offset_of(at);
        let len = size.saturating_sub(offset).min(PAGE) as usize;
        if platform::copy_in(at, &mut page).is_ok() && len > 0 {
            let now = fingerprint(&page);
            let before = seen.borrow_mut().insert(offset / PAGE, now);
            if before != Some(now) {
                let mut from = Bytes::kernel(page.get(..len).unwrap_or_default());
                let mut done = 0;
                while from.remaining() > 0 {
                    match file.open.file.write_at(thread, offset + done, &mut from) {
                        Ok(0) => break,
                        Ok(more) => done += more as u64,
                        Err(error) => {
                            seen.borrow_mut().remove(&(offset / PAGE));
                            result = result.and(Err(error));
                            break;
                        }
                    }
                }
            }
        }
        at += PAGE;
    }
    if hidden {
        platform::protect(from, to - from, area.access)?;
    }
    result
}

/// A number that tells a page from what it was. Not against an adversary: the program would only deceive itself.
fn fingerprint(bytes: &[u8]) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    for word in bytes.chunks(8) {
        let mut number = [0; 8];
        if let Some(to) = number.get_mut(..word.len()) {
            to.copy_from_slice(word);
        }
        sum = (sum ^ u64::from_le_bytes(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sum ^= sum >> 29;
    }
    sum
}
