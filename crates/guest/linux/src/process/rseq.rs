//! Restartable sequences (`rseq(2)`).
//!
//! A thread has an area of its own memory registered in which it says that it is in a sequence that must run without interruption on its
//! processor. There is one processor: a sequence is interrupted when another thread has run or a handler runs. The thread then goes on
//! at the address that it has named for that.

use super::Thread;
use crate::user::UserAddr;
use crate::{Errno, Result};

/// What a thread has registered; no area if its address is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Area {
    /// Where it is.
    pub at: u64,
    /// Its length.
    pub len: u32,
    /// What stands before each abort address.
    pub signature: u32,
}

/// Bytes of the first version of `struct rseq`, the shortest that is taken.
pub const MIN_LEN: u32 = 32;

/// Offsets in `struct rseq`: `cpu_id_start`, `cpu_id`, `rseq_cs`, `node_id`, `mm_cid`.
const CPU_ID_START: u64 = 0;
const CPU_ID: u64 = 4;
const SEQUENCE: u64 = 8;
const NODE_ID: u64 = 20;
const MM_CID: u64 = 24;
/// `RSEQ_CPU_ID_UNINITIALIZED`.
const NO_CPU: u32 = u32::MAX;

/// Registers an area.
///
/// # Errors
/// `EFAULT`.
pub fn register(thread: &Thread, area: Area) -> Result {
    let at = UserAddr(area.at);
    at.add(CPU_ID_START).write(0u32)?;
    at.add(CPU_ID).write(0u32)?;
    if area.len >= MIN_LEN {
        at.add(NODE_ID).write(0u32)?;
        at.add(MM_CID).write(0u32)?;
    }
    thread.rseq.set(area);
    Ok(())
}

/// Takes it back.
///
/// # Errors
/// `EFAULT`.
pub fn unregister(thread: &Thread) -> Result {
    let at = UserAddr(thread.rseq.get().at);
    at.add(CPU_ID_START).write(0u32)?;
    at.add(CPU_ID).write(NO_CPU)?;
    thread.rseq.set(Area::default());
    Ok(())
}

/// The thread has lost the processor outside a call: a sequence it is in is not whole any more.
pub fn preempted(thread: &Thread) {
    if thread.rseq.get().at != 0 {
        thread.work.set(true);
    }
}

/// Lets an interrupted sequence go on where its author wants that.
pub fn before_return(thread: &Thread) {
    if thread.rseq.get().at != 0 && abort(thread).is_err() {
        thread.rseq.set(Area::default());
        let info = crate::signal::Info::kernel(crate::signal::number::SEGV);
        thread.signals.pending.add(info);
        thread.signals.attention.set(true);
    }
}

fn abort(thread: &Thread) -> Result {
    let area = thread.rseq.get();
    let slot = UserAddr(area.at).add(SEQUENCE);
    let sequence: u64 = slot.read()?;
    if sequence == 0 {
        return Ok(());
    }
    // `struct rseq_cs`: version and flags, start, length, abort address.
    let [_, start, len, target]: [u64; 4] = UserAddr(sequence).read()?;
    let mut registers = thread.registers.get();
    slot.write(0u64)?;
    if registers.rip.wrapping_sub(start) >= len {
        return Ok(());
    }
    let signature: u32 = UserAddr(target.wrapping_sub(4)).read()?;
    if signature != area.signature {
        return Err(Errno::EINVAL);
    }
    registers.rip = target;
    thread.registers.set(registers);
    Ok(())
}
