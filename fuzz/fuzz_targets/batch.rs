//! A call whose batch, segment lists and buffers are arbitrary bytes.
//!
//! The input is a guest's memory: a read-only range and a writable one behind it, with the call at its start. The devices
//! do nothing but check what they are promised: buffers inside the right memory, headers inside frames, block ranges
//! inside the disk. Only the batch itself may change in memory.
#![no_main]

use std::cell::{Cell, RefCell};

use kiln_abi::call::MAX_OPS;
use kiln_abi::layout::Record;
use kiln_abi::net::MAX_FRAME;
use kiln_abi::op::{
    MAX_BLOCK_TRANSFER, MAX_RANDOM, MAX_SEGMENTS, Protection, Segment, SegmentList, Stream,
};
use kiln_abi::perform::{Devices, Memory, Pass, batch};
use kiln_abi::user::MAX_NINEP;
use kiln_abi::{Call, NetHeader, OpError, RawOp};
use libfuzzer_sys::{Corpus, fuzz_target};

/// Where the guest's memory is. It is small, so that random addresses have a chance to hit it.
const BASE: u64 = 0x1000;
/// The first bytes cannot be written.
const READ_ONLY: u64 = 256;
/// Capacity and sector size of the disk.
const DISK: (u64, u32) = (1 << 16, 512);

struct Guest {
    bytes: RefCell<Vec<u8>>,
    /// What may be written to: the batch.
    ops: (u64, u64),
    accesses: Cell<u64>,
}

impl Guest {
    fn offset(&self, buffer: Segment, writable: bool) -> Result<usize, OpError> {
        let start = if writable { BASE + READ_ONLY } else { BASE };
        let end = BASE + self.bytes.borrow().len() as u64;
        let behind = buffer
            .addr
            .checked_add(buffer.len)
            .ok_or(OpError::BadAddress)?;
        if buffer.addr < start || behind > end {
            return Err(OpError::BadAddress);
        }
        Ok((buffer.addr - BASE) as usize)
    }

    fn count(&self) {
        self.accesses.set(self.accesses.get() + 1);
    }
}

impl Memory for Guest {
    fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), OpError> {
        self.count();
        let len = into.len() as u64;
        let at = self.offset(Segment { addr, len }, false)?;
        into.copy_from_slice(&self.bytes.borrow()[at..][..into.len()]);
        Ok(())
    }

    fn write(&self, addr: u64, from: &[u8]) -> Result<(), OpError> {
        self.count();
        let len = from.len() as u64;
        assert!(
            self.ops.0 <= addr && addr + len <= self.ops.1,
            "written outside of the batch"
        );
        let at = self.offset(Segment { addr, len }, true)?;
        self.bytes.borrow_mut()[at..][..from.len()].copy_from_slice(from);
        Ok(())
    }

    fn check(&self, buffer: Segment, writable: bool) -> Result<(), OpError> {
        self.count();
        self.offset(buffer, writable).map(|_| ())
    }
}

struct Checker<'a> {
    guest: &'a Guest,
    performed: u64,
}

impl Checker<'_> {
    fn buffers(&mut self, buffers: &[Segment], writable: bool) -> u64 {
        self.performed += 1;
        assert!((1..=MAX_SEGMENTS as usize).contains(&buffers.len()));
        for buffer in buffers {
            assert!(
                self.guest.offset(*buffer, writable).is_ok(),
                "unchecked buffer"
            );
        }
        buffers.iter().map(|buffer| buffer.len).sum()
    }

    fn block(&self, offset: u64, len: u64, most: u64) {
        let (capacity, sector) = (DISK.0, u64::from(DISK.1));
        assert!(
            offset.is_multiple_of(sector) && len.is_multiple_of(sector) && len > 0 && len <= most
        );
        assert!(offset.checked_add(len).is_some_and(|end| end <= capacity));
    }

    fn net(device: u32) -> Result<(), OpError> {
        (device == 0).then_some(()).ok_or(OpError::NoDevice)
    }
}

impl Devices for Checker<'_> {
    const METRICS: bool = true;
    const PROGRAMS: bool = true;

    fn console_write(&mut self, _: Stream, text: Segment) -> Result<u64, OpError> {
        Ok(self.buffers(&[text], false))
    }

    fn net_send(
        &mut self,
        device: u32,
        header: NetHeader,
        frame: &[Segment],
    ) -> Result<(), OpError> {
        let len = self.buffers(frame, false);
        assert!((14..=MAX_FRAME as u64).contains(&len));
        if header.flags & NetHeader::NEEDS_CSUM != 0 {
            assert!(u64::from(header.csum_start) + u64::from(header.csum_offset) + 2 <= len);
        }
        if header.gso_type != NetHeader::GSO_NONE {
            assert!(header.gso_size > 0 && u64::from(header.hdr_len) <= len);
        }
        Self::net(device)
    }

    fn net_receive(&mut self, device: u32, into: &[Segment]) -> Result<(u64, NetHeader), OpError> {
        let room = self.buffers(into, true);
        Self::net(device)?;
        // Every third time there is nothing.
        if self.performed.is_multiple_of(3) {
            return Err(OpError::Again);
        }
        Ok((room.min(60), NetHeader::PLAIN))
    }

    fn block_geometry(&self, device: u32) -> Result<(u64, u32), OpError> {
        match device {
            1 => Ok(DISK),
            2 => Ok((0, 0)),
            _ => Err(OpError::NoDevice),
        }
    }

    fn block_read(&mut self, device: u32, offset: u64, into: &[Segment]) -> Result<(), OpError> {
        assert_eq!(device, 1);
        let len = self.buffers(into, true);
        self.block(offset, len, MAX_BLOCK_TRANSFER);
        Ok(())
    }

    fn block_write(&mut self, device: u32, offset: u64, from: &[Segment]) -> Result<(), OpError> {
        assert_eq!(device, 1);
        let len = self.buffers(from, false);
        self.block(offset, len, MAX_BLOCK_TRANSFER);
        Ok(())
    }

    fn block_flush(&mut self, _device: u32) -> Result<(), OpError> {
        Ok(())
    }

    fn block_discard(&mut self, device: u32, offset: u64, len: u64) -> Result<(), OpError> {
        assert_eq!(device, 1);
        self.block(offset, len, u64::MAX);
        Ok(())
    }

    fn random(&mut self, buffer: Segment) -> Result<(), OpError> {
        assert!(self.buffers(&[buffer], true) <= MAX_RANDOM);
        Ok(())
    }

    fn memory_release(&mut self, _range: Segment) -> Result<(), OpError> {
        Ok(())
    }

    fn memory_protect(&mut self, _range: Segment, _protection: Protection) -> Result<(), OpError> {
        Ok(())
    }

    fn tick(&mut self, _period: u64) -> Result<(), OpError> {
        Ok(())
    }

    fn set_trap(&mut self, _entry: u64, stack: Segment) -> Result<(), OpError> {
        assert!(self.buffers(&[stack], true) >= 2048);
        Ok(())
    }

    fn system_calls(&mut self, _entry: u64, deferred: u64) -> Result<(), OpError> {
        assert!(deferred.is_multiple_of(8));
        let word = Segment {
            addr: deferred,
            len: 8,
        };
        self.buffers(&[word], true);
        Ok(())
    }

    fn console_read(&mut self, buffer: Segment) -> Result<u64, OpError> {
        assert!(buffer.len > 0);
        Ok(self.buffers(&[buffer], true))
    }

    fn ninep(&mut self, device: u32, request: Segment, reply: Segment) -> Result<u64, OpError> {
        assert!((1..=MAX_NINEP).contains(&request.len.max(reply.len)));
        for (part, writable) in [(request, false), (reply, true)] {
            if part.len > 0 {
                self.buffers(&[part], writable);
            }
        }
        (device == 3).then_some(reply.len).ok_or(OpError::NoDevice)
    }

    fn metrics(&mut self, blocks: SegmentList) -> Result<(), OpError> {
        assert!((1..=MAX_SEGMENTS).contains(&u64::from(blocks.count)));
        let list = Segment {
            addr: blocks.addr,
            len: u64::from(blocks.count) * Segment::SIZE as u64,
        };
        self.buffers(&[list], false);
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Some(call) = Call::from_prefix(bytes) else {
        return Corpus::Reject;
    };
    let batch_len = u64::from(call.count).saturating_mul(RawOp::SIZE as u64);
    let guest = Guest {
        bytes: RefCell::new(bytes.to_vec()),
        ops: (call.ops, call.ops.saturating_add(batch_len)),
        accesses: Cell::new(0),
    };
    let mut devices = Checker {
        guest: &guest,
        performed: 0,
    };
    for pass in [Pass::First, Pass::Retry] {
        let progress = batch(&call, pass, &guest, &mut devices);
        assert!(progress.done <= call.count.min(MAX_OPS));
    }
    // For each operation: read it, its segments twice, write it; for two passes.
    let most = 2 * u64::from(MAX_OPS) * (2 + 2 * MAX_SEGMENTS);
    assert!(guest.accesses.get() <= most, "unbounded work");
    let after = guest.bytes.borrow();
    for (index, (before, after)) in bytes.iter().zip(after.iter()).enumerate() {
        let addr = BASE + index as u64;
        let in_batch = guest.ops.0 <= addr && addr < guest.ops.1;
        assert!(in_batch || before == after, "changed outside of the batch");
    }
    Corpus::Keep
});
