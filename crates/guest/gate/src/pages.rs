//! A program's memory in a virtual machine.
//!
//! What the program has at an address this process has at the same address, just as on the `process` backend: the host makes pages
//! when they are first touched, shares those of files and takes them back. What is said here is only how the guest comes to them.
//! The user range is divided into *chunks*. When something in one may be accessed for the first time, it becomes a memory slot of
//! the machine, whatever is mapped there now and later; and the guest's tables say what may be done with each page.
//!
//! Programs reserve many times what a machine can have (shadow memory of 16 TiB), and touch little of it. Of what one operation
//! opens that is longer than [`LONG`] only those chunks are opened that are memory slots already; the guest asks for
//! others when it faults on them, by protecting a part as it is.

use core::cell::Cell;

use kiln_abi::op::{OpError, Segment};
use kiln_abi::user::{LONG, USER_END, UserAccess};

use crate::paging::program::Rights;
use crate::paging::{HUGE, NoTable};
use crate::state::State;
use crate::sys;
use crate::vcpu::{Machine, vcpu_fd};

/// Bytes of a chunk.
pub const CHUNK: u64 = 64 << 20;
/// Chunks of the user range.
pub const CHUNKS: u64 = USER_END / CHUNK;
const _: () = assert!(USER_END.is_multiple_of(CHUNK) && CHUNK.is_multiple_of(HUGE));

/// The program's memory, of a guest that is in a machine.
#[derive(Clone, Copy, Debug)]
pub struct Pages<'a> {
    machine: &'a Machine,
    machine_fd: i32,
}

impl<'a> Pages<'a> {
    /// That of a guest, if it is in a machine.
    pub fn of(state: &'a State) -> Option<Self> {
        let machine = &state.machine;
        (!machine.run.is_null()).then(|| Self {
            machine,
            machine_fd: vcpu_fd(state.device_count, state.program.runs) + 1,
        })
    }

    /// Makes sure that the guest can be given what lies in the range. Before the host is asked: what fails here has changed
    /// nothing.
    ///
    /// # Errors
    /// [`OpError::NoSpace`] if there are too many chunks.
    pub fn prepare(self, range: Segment, access: UserAccess) -> Result<(), OpError> {
        if access == UserAccess::NONE || range.len > LONG {
            return Ok(());
        }
        // All or none: a reservation that is refused must not leave nothing for the next.
        let chunks = &self.machine.chunks;
        let left = u64::from(chunks.most.saturating_sub(chunks.used.get()));
        let mut new = 0;
        for (piece, _) in pieces(range) {
            new += u64::from(self.place(piece)?.get() == 0);
            if new > left {
                return Err(OpError::NoSpace);
            }
        }
        for (piece, _) in pieces(range) {
            self.physical(piece)?;
        }
        Ok(())
    }

    /// Says what may be done with the range, in place of what was said before.
    ///
    /// # Errors
    /// [`OpError::NoSpace`] if there is no room for tables.
    pub fn allow(self, range: Segment, access: UserAccess) -> Result<(), OpError> {
        match Rights::of(access) {
            Some(rights) => self.open(range, rights),
            None => self.close(range),
        }
    }

    /// Takes the range away.
    ///
    /// # Errors
    /// [`OpError::NoSpace`] if there is no room for tables; nothing has changed then.
    pub fn close(self, range: Segment) -> Result<(), OpError> {
        self.machine
            .change(|tables| tables.close(range.addr, range.len))
            .map_err(no_room)
    }

    /// Makes sure that what lies in the range can be given to the guest at `to`.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn prepare_move(self, range: Segment, to: u64) -> Result<(), OpError> {
        self.each_run(range, |at, len, rights| match rights {
            Some(_) => {
                let there = Segment {
                    addr: to + (at - range.addr),
                    len,
                };
                self.prepare(there, UserAccess::READ)
            }
            None => Ok(()),
        })
    }

    /// Says of `to` what was said of the range, which is taken away.
    ///
    /// # Errors
    /// [`OpError::NoSpace`] if there is no room for tables.
    pub fn relocate(self, range: Segment, to: u64) -> Result<(), OpError> {
        self.close(Segment {
            addr: to,
            len: range.len,
        })?;
        self.each_run(range, |at, len, rights| {
            let Some(rights) = rights else {
                return Ok(());
            };
            let there = Segment {
                addr: to + (at - range.addr),
                len,
            };
            self.open(there, rights)
        })?;
        self.close(range)
    }

    /// Takes away what goes beyond `access`: a change of the host's mappings has failed, and it may have come to some pages.
    ///
    /// # Errors
    /// [`OpError::NoSpace`] if there is no room for tables.
    pub fn restrict(self, range: Segment, access: UserAccess) -> Result<(), OpError> {
        let Some(most) = Rights::of(access) else {
            return self.close(range);
        };
        self.each_run(range, |addr, len, rights| match rights {
            Some(rights) => self.open(Segment { addr, len }, rights.common(most)),
            None => Ok(()),
        })
    }

    fn open(self, range: Segment, rights: Rights) -> Result<(), OpError> {
        for (at, len) in pieces(range) {
            // Nothing is open in a chunk that has never been a slot.
            if range.len > LONG && self.place(at)?.get() == 0 {
                continue;
            }
            let physical = self.physical(at)?;
            self.machine
                .change(|tables| tables.open(at, physical, len, rights))
                .map_err(no_room)?;
        }
        Ok(())
    }

    /// Calls `each` with parts of the range of which the same is said, in order.
    fn each_run(
        self,
        range: Segment,
        mut each: impl FnMut(u64, u64, Option<Rights>) -> Result<(), OpError>,
    ) -> Result<(), OpError> {
        let end = range.addr + range.len;
        let mut at = range.addr;
        while at < end {
            let look = |at: u64| self.machine.change(|tables| tables.rights_at(at, end - at));
            let (rights, mut len) = look(at);
            while at + len < end {
                let (next, more) = look(at + len);
                if next != rights {
                    break;
                }
                len += more;
            }
            each(at, len, rights)?;
            at += len;
        }
        Ok(())
    }

    /// The physical address of what lies at `addr`, whose chunk becomes a memory slot if it is none yet.
    fn physical(self, addr: u64) -> Result<u64, OpError> {
        let chunks = &self.machine.chunks;
        let place = self.place(addr)?;
        let at = |place: u32| chunks.physical + u64::from(place) * CHUNK;
        let known = u32::from(place.get());
        if let Some(known) = known.checked_sub(1) {
            return Ok(at(known) + addr % CHUNK);
        }
        let next = chunks.used.get();
        if next >= chunks.most {
            return Err(OpError::NoSpace);
        }
        let slot = chunks.slot + next;
        let start = addr / CHUNK * CHUNK;
        if sys::kvm_add_memory(self.machine_fd, slot, at(next), CHUNK, start) < 0 {
            return Err(OpError::NoSpace);
        }
        chunks.used.set(next + 1);
        place.set((next + 1) as u16);
        Ok(at(next) + addr % CHUNK)
    }

    /// What is known of the chunk around `addr`.
    fn place(self, addr: u64) -> Result<&'a Cell<u16>, OpError> {
        let index = addr / CHUNK;
        if index >= CHUNKS {
            return Err(OpError::Invalid);
        }
        // SAFETY: the monitor has mapped as many for this, and nobody else uses them.
        Ok(unsafe { &*self.machine.chunks.places.add(index as usize) })
    }
}

fn no_room(_: NoTable) -> OpError {
    OpError::NoSpace
}

/// A range cut where chunks end: address and length of each piece.
fn pieces(range: Segment) -> impl Iterator<Item = (u64, u64)> {
    let end = range.addr + range.len;
    let mut at = range.addr;
    core::iter::from_fn(move || {
        let len = (CHUNK - at % CHUNK).min(end - at);
        let piece = (len > 0).then_some((at, len));
        at += len;
        piece
    })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn pieces_end_with_chunks() {
        let cut = |addr, len| pieces(Segment { addr, len }).collect::<Vec<_>>();
        assert_eq!(cut(0x1_0000, 4096), [(0x1_0000, 4096)]);
        assert_eq!(
            cut(CHUNK - 4096, CHUNK + 8192),
            [(CHUNK - 4096, 4096), (CHUNK, CHUNK), (2 * CHUNK, 4096)]
        );
        assert_eq!(cut(CHUNK, CHUNK), [(CHUNK, CHUNK)]);
    }
}
