//! Records as bytes: the only `unsafe` code of the contract.
//!
//! [`Record`] is implemented for structures whose every bit pattern is a valid value and which have no padding, so
//! viewing one as bytes, and reading one out of bytes that a hostile peer wrote, is sound. Sizes, alignments and the
//! offsets that both sides rely on are asserted when this crate is compiled.
#![allow(unsafe_code)]

use core::mem::{align_of, offset_of, size_of};

use crate::boot::{BootInfo, DeviceInfo, MemoryRange};
use crate::call::Call;
use crate::metrics;
use crate::net::NetHeader;
use crate::note::{AbiNote, DeviceNote};
use crate::op::{OpHead, RawOp, Segment};
use crate::trap::TrapFrame;

/// A structure of the contract, as bytes.
///
/// # Safety
/// Implementors are `repr(C)`, have no padding bytes, and every bit pattern of their size is a valid value.
pub unsafe trait Record: Copy {
    /// The record's length in bytes.
    const SIZE: usize = size_of::<Self>();

    /// The record's bytes.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: a `Record` has no padding, so all its bytes are initialised; the borrow keeps it alive and unchanged.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// The record's bytes, to be overwritten.
    fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: a `Record` has no padding and takes every bit pattern; the borrow is exclusive.
        unsafe {
            core::slice::from_raw_parts_mut(core::ptr::from_mut(self).cast(), size_of::<Self>())
        }
    }

    /// The record at the start of `bytes`, whatever their alignment; `None` if they are too few.
    fn from_prefix(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked, the read is unaligned, and every bit pattern is a valid `Self`.
        Some(unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) })
    }
}

macro_rules! records {
    ($($record:ty: $size:expr, align $align:literal;)*) => {$(
        // SAFETY: `repr(C)`, built of integers and arrays of integers or of records, and the assertion below together
        // shows that the size is the sum of the fields' sizes, in their order: there are no padding bytes.
        unsafe impl Record for $record {}
        const _: () = assert!(size_of::<$record>() == $size && align_of::<$record>() == $align);
    )*};
}

records! {
    NetHeader: 1 + 1 + 5 * 2, align 2;
    RawOp: 2 + 2 + 4 + 8 + 6 * 8, align 8;
    OpHead: 2 + 2 + 4 + 8, align 8;
    Segment: 8 + 8, align 8;
    Call: 8 + 4 + 4 + 3 * 8 + 4 + 4 + 5 * 8, align 8;
    MemoryRange: 8 + 8 + 4 + 4, align 8;
    DeviceInfo: 4 + 4 + 24 + 6 + 2 + 4 + 1 + 1 + 2 + 3 * 4 + 4 + 3 * 16 + 8 + 4 + 4 + 4 * 8, align 8;
    BootInfo: 8 + 4 + 4 + 8 + 8 + 4 + 4 + 3 * 8 + 4 + 4 + 8 + 8 + 4 + 4 + 8 + 4 + 4 + 4 * 8 + 64 + 2 * 8 + 24 + 3 * 8, align 8;
    AbiNote: 4 + 4 + 8 + 8 + 8, align 8;
    DeviceNote: 4 + 4 + 24, align 4;
    metrics::Header: 4 + 2 + 2 + 4 + 4, align 4;
    TrapFrame: 16 * 8 + 8 + 8 + 4 + 4 + 8 + 4 + 4 + 8, align 8;
}

// What hand-written assembly on either side relies on.
const _: () = assert!(offset_of!(BootInfo, enter) == 24);
const _: () = assert!(offset_of!(Call, done) == 40);
const _: () = assert!(offset_of!(RawOp, args) == 16);
const _: () = assert!(offset_of!(TrapFrame, rip) == 128);

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn records_survive_bytes_at_odd_addresses() {
        let op = RawOp {
            code: 7,
            flags: 1,
            device: 3,
            result: -2,
            args: [1, 2, 3, 4, 5, 6],
        };
        let mut bytes = std::vec![0u8; 65];
        bytes[1..].copy_from_slice(op.as_bytes());
        assert_eq!(RawOp::from_prefix(&bytes[1..]), Some(op));
        assert_eq!(RawOp::from_prefix(&bytes[2..]), None);
    }

    #[test]
    fn writing_bytes_changes_the_record() {
        let mut call = Call::default();
        call.as_bytes_mut().fill(0xff);
        assert_eq!(call.ready, u64::MAX);
        assert_eq!(call.count, u32::MAX);
    }
}
