//! Counters that the host can read while the guest runs, without asking it.
//!
//! Whoever counts has a block ([`kiln_abi::metrics::NetBlock`] for a network stack) and hands it over once with [`register`].
//! From then on the block is only counted in: what the counters say, `kiln stats --format prometheus` shows. It costs no call
//! to the monitor, and where the monitor does not read counters, nothing at all.

use alloc::vec::Vec;

use kiln_abi::metrics::Block;
use kiln_abi::op::{MAX_SEGMENTS, Op, OpError, Segment, SegmentList};

use crate::monitor;
use crate::sync::Lock;

/// All blocks. The monitor reads this list too, so it is replaced as a whole.
static BLOCKS: Lock<Vec<Segment>> = Lock::new(Vec::new());

/// Lets the host read a block from now on.
///
/// # Errors
/// [`OpError::Unsupported`] where nobody can read it, which is no reason to stop; [`OpError::Invalid`] if there are too many
/// blocks already.
pub fn register<const COUNT: usize>(block: &'static Block<COUNT>) -> Result<(), OpError> {
    let segment = Segment {
        addr: core::ptr::from_ref(block) as u64,
        len: size_of_val(block) as u64,
    };
    BLOCKS.with(|blocks| {
        if blocks.len() as u64 >= MAX_SEGMENTS {
            return Err(OpError::Invalid);
        }
        let mut more = Vec::with_capacity(blocks.len() + 1);
        more.extend_from_slice(blocks);
        more.push(segment);
        let list = SegmentList {
            addr: more.as_ptr() as u64,
            count: more.len() as u32,
        };
        let mut op = [Op::Metrics { blocks: list }.encode()];
        monitor::perform(&mut op);
        op[0].outcome()?;
        // The old list goes only now that the monitor knows the new one.
        *blocks = more;
        Ok(())
    })
}
