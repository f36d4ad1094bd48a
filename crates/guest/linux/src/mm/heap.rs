//! The program break (`brk(2)`).

use core::cmp::Ordering;

use super::area::{Area, AreaFlags, Content, Purpose};
use super::map::round_up;
use super::{AddressSpace, Aftermath, State};
use crate::platform::Access;
use crate::user::USER_END;
use crate::{Errno, Result};

/// Where the heap starts and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heap {
    /// Its first address, page aligned.
    pub start: u64,
    /// The break: not page aligned.
    pub end: u64,
}

impl AddressSpace {
    /// Starts an empty heap.
    pub fn start_heap(&self, at: u64) {
        let at = round_up(at).unwrap_or(0);
        self.state.borrow_mut().heap = Heap { start: at, end: at };
    }

    /// Where the heap is.
    pub fn heap(&self) -> Heap {
        self.state.borrow().heap
    }

    /// `brk(2)`: moves the break if that is possible, and returns where it is.
    pub fn set_break(&self, to: u64) -> u64 {
        let old = self.state.borrow().heap;
        if old.start == 0 || to < old.start || to > USER_END {
            return old.end;
        }
        let (Some(page_end), Some(new_end)) = (round_up(old.end), round_up(to)) else {
            return old.end;
        };
        let moved = match new_end.cmp(&page_end) {
            Ordering::Less => self.unmap(new_end, page_end - new_end),
            Ordering::Equal => Ok(()),
            Ordering::Greater => {
                let mut aftermath = Aftermath::default();
                let result = self
                    .state
                    .borrow_mut()
                    .grow_heap(page_end, new_end, &mut aftermath);
                aftermath.settle(self);
                result
            }
        };
        match moved {
            Ok(()) => {
                self.state.borrow_mut().heap.end = to;
                to
            }
            Err(_) => old.end,
        }
    }
}

impl State {
    fn grow_heap(&mut self, from: u64, to: u64, aftermath: &mut Aftermath) -> Result {
        if !self.areas.is_free(from, to) {
            return Err(Errno::ENOMEM);
        }
        // A stack above keeps its gap.
        if self.areas.after(to).is_some_and(|area| {
            area.flags.contains(AreaFlags::GROWS_DOWN)
                && area.start - to < super::areas::STACK_GUARD
        }) {
            return Err(Errno::ENOMEM);
        }
        let access = Access::READ | Access::WRITE;
        let mut flags = AreaFlags::empty();
        flags.set(AreaFlags::LOCKED, self.lock_future);
        self.check_limits(from, to - from, access, flags)?;
        let area = Area {
            start: from,
            end: to,
            access,
            most: Access::all(),
            flags,
            content: Content::Zero(Purpose::Heap),
            offset: 0,
        };
        self.put(area, aftermath)
    }
}
