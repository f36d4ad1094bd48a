//! Private mappings of files that can only be read ([`Source::Copy`](super::area::Source::Copy)): those of volumes.
//!
//! Their content is copied into the program's memory, short ones when they are mapped, long ones piece by piece when they are touched. What
//! is written to the file afterwards does not show in what was copied before (mmap(2): "it is unspecified").

use alloc::rc::Rc;
use alloc::vec;

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
        self.state.borrow_mut().present.insert(from, to);
        Ok(())
    }
}

/// Copies a file's content to memory that is there and can be written.
fn copy_content(thread: &Rc<Thread>, file: &MappedFile, area: &Area, from: u64, to: u64) -> Result {
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
        at += want as u64;
    }
    Ok(())
}
