//! Guest memory as the gate sees it: the same addresses, after a look at the ranges.

use kiln_abi::op::{OpError, Segment};
use kiln_abi::perform::Memory;

use crate::state::{Range, state};

/// The guest's memory.
#[derive(Clone, Copy, Debug)]
pub struct GuestMemory;

impl Memory for GuestMemory {
    fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), OpError> {
        let buffer = Segment {
            addr,
            len: into.len() as u64,
        };
        self.check(buffer, false)?;
        // SAFETY: the range is mapped guest memory; should the guest have taken its own access away, the fault ends
        // the guest (see `trap`).
        unsafe { core::ptr::copy_nonoverlapping(addr as *const u8, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    fn write(&self, addr: u64, from: &[u8]) -> Result<(), OpError> {
        let buffer = Segment {
            addr,
            len: from.len() as u64,
        };
        self.check(buffer, true)?;
        // SAFETY: as for reading.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), addr as *mut u8, from.len()) };
        Ok(())
    }

    fn check(&self, buffer: Segment, writable: bool) -> Result<(), OpError> {
        // SAFETY: the monitor has filled the state in; the reference ends with this function.
        let state = unsafe { state() };
        let ranges = if writable {
            &state.writable
        } else {
            &state.readable
        };
        if buffer.len == 0 || ranges.iter().any(|r| r.contains(buffer.addr, buffer.len)) {
            Ok(())
        } else {
            Err(OpError::BadAddress)
        }
    }
}

/// True if `range` lies in one of `ranges`.
pub fn inside(ranges: &[Range], range: Segment) -> bool {
    ranges.iter().any(|r| r.contains(range.addr, range.len))
}
