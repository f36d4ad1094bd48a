//! Private mappings of files that can only be read ([`Source::Copy`](super::area::Source::Copy)): those of volumes.
//!
//! Their content is copied into the program's memory, short ones when they are mapped, long ones piece by piece when they are touched. What
//! is written to the file afterwards does not show in what was copied before (mmap(2): "it is unspecified").

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use super::area::{Area, MappedFile};
use super::map::round_up;
use super::{AddressSpace, FaultOutcome};
use crate::Result;
use crate::io::Sink;
use crate::platform::{self, Access, Backing};
use crate::process::Thread;

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
            let Ok(content) = content_of(&thread, file, &area, from, to) else {
                return FaultOutcome::NoContent;
            };
            if !self.is_missing_still(&area, from, to) {
                // Others have run meanwhile and changed what is mapped: the access tells what there is now.
                return FaultOutcome::Resolved;
            }
            if self.install(&area, from, &content).is_err() {
                return FaultOutcome::NoContent;
            }
        }
        if self.state.borrow().present.contains(at) {
            FaultOutcome::Resolved
        } else {
            FaultOutcome::NoContent
        }
    }

    /// A thread whose memory this is, the running one if it is one: files want to know on whose behalf they are read, and who sleeps meanwhile.
    fn any_thread(&self) -> Option<Rc<Thread>> {
        let running = crate::process::sched::running();
        if let Some(thread) = running
            && core::ptr::eq(&raw const *thread.process.memory, self)
        {
            return Some(thread);
        }
        let all = platform::kernel().processes.all();
        let process = all
            .into_iter()
            .find(|process| core::ptr::eq(&raw const *process.memory, self))?;
        let threads = process.threads.borrow();
        threads.values().next().cloned()
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
        let content = content_of(thread, file, area, from, to)?;
        self.install(area, from, &content)
    }

    /// True if a range that was missing is so still, and belongs to the same mapping.
    fn is_missing_still(&self, area: &Area, from: u64, to: u64) -> bool {
        let state = self.state.borrow();
        let Some(now) = state.areas.find(from) else {
            return false;
        };
        let same = match (now.file(), area.file()) {
            (Some(now), Some(before)) => Rc::ptr_eq(&now.open, &before.open),
            _ => false,
        };
        same && now.offset_of(from) == area.offset_of(from)
            && now.access == area.access
            && now.end >= to
            && state.present.missing(from, to) == [(from, to)]
    }

    /// Puts content where it is missing.
    fn install(&self, area: &Area, from: u64, content: &[u8]) -> Result {
        let len = content.len() as u64;
        if len == 0 {
            return Ok(());
        }
        platform::map(from, len, Access::READ | Access::WRITE, Backing::Zero)?;
        let put = platform::copy_out(from, content)
            .and_then(|()| platform::protect(from, len, area.access));
        if let Err(error) = put {
            let _ = platform::unmap(from, len);
            return Err(error);
        }
        self.state.borrow_mut().present.insert(from, from + len);
        Ok(())
    }
}

/// A file's content for `from..to`, as far as the file goes; zeroes follow up to a page's end. Nothing may be borrowed: others may run meanwhile.
fn content_of(
    thread: &Rc<Thread>,
    file: &MappedFile,
    area: &Area,
    from: u64,
    to: u64,
) -> Result<Vec<u8>> {
    let size = file.open.file.metadata()?.size;
    let first = area.offset_of(from);
    let there = round_up(size.saturating_sub(first)).unwrap_or(0);
    let len = to.saturating_sub(from).min(there);
    let mut content = vec![0; len as usize];
    let mut done = 0;
    while let Some(rest) = content.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let offset = first + done as u64;
        match file
            .open
            .file
            .read_at(thread, offset, &mut Sink::kernel(rest))?
        {
            0 => break,
            more => done += more,
        }
    }
    Ok(content)
}
