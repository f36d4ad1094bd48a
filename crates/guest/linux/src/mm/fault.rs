//! What an access that the processor has refused means.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::area::{Area, AreaFlags, Content, Source};
use super::areas::STACK_GUARD;
use super::files::AROUND;
use super::{AddressSpace, State};
use crate::fs::Run;
use crate::platform::{self, Access, Backing};
use crate::process::Thread;
use crate::user::PAGE;
use crate::{Errno, Result};

/// How much of a long mapping is asked for at once: what a machine gives as one.
const REACH: u64 = 64 << 20;

/// What becomes of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOutcome {
    /// The access will work when it is tried again.
    Resolved,
    /// `SIGSEGV`, `SEGV_MAPERR`: nothing is mapped there.
    NotMapped,
    /// `SIGSEGV`, `SEGV_ACCERR`: the mapping does not allow it.
    NotAllowed,
    /// `SIGBUS`, `BUS_ADRERR`: the file that is mapped there has no content at that place, or there is no memory left.
    NoContent,
}

impl FaultOutcome {
    /// The signal and its `si_code`; `None` if there is none.
    pub fn signal(self) -> Option<(u32, i32)> {
        const SIGBUS: u32 = 7;
        const SIGSEGV: u32 = 11;
        match self {
            Self::Resolved => None,
            Self::NotMapped => Some((SIGSEGV, 1)),
            Self::NotAllowed => Some((SIGSEGV, 2)),
            Self::NoContent => Some((SIGBUS, 2)),
        }
    }
}

impl AddressSpace {
    /// The processor has refused `access` at `at`: makes it possible, or says which signal the program gets.
    pub fn fault(&self, at: u64, access: Access) -> FaultOutcome {
        let copied = {
            let mut state = self.state.borrow_mut();
            let Some(area) = state.areas.find(at).filter(|area| area.is_program()) else {
                return match state.grow_down(at) {
                    Ok(()) => FaultOutcome::Resolved,
                    Err(_) => FaultOutcome::NotMapped,
                };
            };
            if !allows(area, access) {
                return FaultOutcome::NotAllowed;
            }
            if state.reach(at) {
                return FaultOutcome::Resolved;
            }
            match area.file().map(|file| &file.source) {
                Some(Source::Pages(_)) if !state.present.contains(at) => false,
                Some(Source::Copy) if !state.present.contains(at) => true,
                _ => return FaultOutcome::NoContent,
            }
        };
        if copied {
            return self.fault_copy(at);
        }
        let from = at & !(AROUND - 1);
        match self.map_pages(at, from, from.saturating_add(AROUND)) {
            Ok(()) => FaultOutcome::Resolved,
            Err(_) => FaultOutcome::NoContent,
        }
    }

    /// The same for a thread of the program, which holds nothing: what has to come from far away is waited for while others run.
    pub fn fault_of(&self, thread: &Rc<Thread>, at: u64, access: Access) -> FaultOutcome {
        let kept = thread.at_names(|| self.bring(at, access));
        let copied = {
            let state = self.state.borrow();
            let area = state.areas.find(at).filter(|area| area.is_program());
            area.is_some_and(|area| {
                let source = area.file().map(|file| &file.source);
                matches!(source, Some(Source::Copy))
                    && allows(area, access)
                    && !state.present.contains(at)
            })
        };
        let outcome = if copied {
            thread.at_names(|| self.fault_copy(at))
        } else {
            self.fault(at, access)
        };
        drop(kept);
        outcome
    }

    /// Asks a file far away for the pages that a fault will need. They stay as long as what is returned is kept.
    fn bring(&self, at: u64, access: Access) -> Vec<Run> {
        let (area, pages, gaps) = {
            let state = self.state.borrow();
            let Some(area) = state.areas.find(at).filter(|area| allows(area, access)) else {
                return Vec::new();
            };
            let pages = match area.file().map(|file| &file.source) {
                Some(Source::Pages(pages)) if pages.are_far() => pages.clone(),
                _ => return Vec::new(),
            };
            let from = (at & !(AROUND - 1)).max(area.start);
            let to = (at & !(AROUND - 1)).saturating_add(AROUND).min(area.end);
            let gaps = state.present.missing(from, to);
            (area.clone(), pages, gaps)
        };
        let mut kept = Vec::new();
        for (mut from, to) in gaps {
            while from < to {
                let wanted = (to - from) / PAGE;
                match pages.run(area.offset_of(from) / PAGE, wanted) {
                    Ok(run) if run.pages > 0 => {
                        from += run.pages.min(wanted) * PAGE;
                        kept.push(run);
                    }
                    // The fault tells.
                    _ => break,
                }
            }
        }
        kept
    }
}

/// True if the processor would let an access pass; what can be written or executed can be read too.
fn allows(area: &Area, access: Access) -> bool {
    let mut given = area.access;
    if !given.is_empty() {
        given |= Access::READ;
    }
    !given.is_empty() && given.contains(access)
}

impl State {
    /// Asks for what is mapped around `at` and not within reach: a machine gives of long mappings only what is touched. True if it is there now.
    fn reach(&self, at: u64) -> bool {
        let Some(area) = self.areas.find(at) else {
            return false;
        };
        let from = at & !(REACH - 1);
        let (from, to) = (area.start.max(from), area.end.min(from + REACH));
        let ranges = self.host_ranges(area, from, to);
        let here = ranges
            .into_iter()
            .find(|range| range.0 <= at && at < range.1);
        here.is_some_and(|(from, to)| platform::reach(from, to - from, area.access))
    }

    /// Extends the area above `at` down to it, if that is a stack.
    fn grow_down(&mut self, at: u64) -> Result {
        let start = at & !(PAGE - 1);
        let area = self.areas.after(at).ok_or(Errno::ENOMEM)?;
        if !area.flags.contains(AreaFlags::GROWS_DOWN) || area.access.is_empty() {
            return Err(Errno::ENOMEM);
        }
        let Content::Zero(_) = area.content else {
            return Err(Errno::ENOMEM);
        };
        if area.end - start > self.limits.stack {
            return Err(Errno::ENOMEM);
        }
        if let Some(below) = self.areas.before(at)
            && !below.access.is_empty()
            && !below.flags.contains(AreaFlags::GROWS_DOWN)
            && start.saturating_sub(below.end) < STACK_GUARD
        {
            return Err(Errno::ENOMEM);
        }
        let mut more = area.clone();
        more.end = area.start;
        more.start = start;
        self.check_limits(start, more.len(), more.access, more.flags)?;
        platform::map(start, more.len(), more.access, Backing::Zero)?;
        self.areas.insert(more);
        self.peak = self.peak.max(self.areas.totals().size);
        Ok(())
    }
}
