//! The guest's one call, as a trait.
//!
//! [`Hypervisor`] is the ABI as Rust. On every backend it is the same function pointer, [`Gate`]; what lies behind it
//! differs. The rest of the guest uses `perform` for
//! operations whose result is needed at once, and [`enter`] (from the reactor) for batches and waiting.

use core::sync::atomic::{AtomicUsize, Ordering};

use kiln_abi::call::Call;
use kiln_abi::{BootInfo, RawOp};

use crate::time;

/// How a guest reaches its monitor.
pub trait Hypervisor {
    /// Performs a call ([`kiln_abi::call`]). Blocks as long as the call's deadline says.
    ///
    /// # Safety
    /// `call` and the operations it points to describe buffers that live until the return and that the monitor may
    /// write to where the operations say so.
    unsafe fn enter(&self, call: &mut Call);
}

/// The function that the monitor has put into the guest's address space.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    enter: usize,
}

impl Hypervisor for Gate {
    unsafe fn enter(&self, call: &mut Call) {
        // SAFETY: the monitor gave this address as that of a function of this type.
        let enter: extern "C" fn(*mut Call) = unsafe { core::mem::transmute(self.enter) };
        enter(call);
    }
}

static GATE: AtomicUsize = AtomicUsize::new(0);

/// # Safety
/// `info` is the monitor's boot record.
#[cfg_attr(not(kiln_guest), allow(dead_code))]
pub(crate) unsafe fn install(info: &BootInfo) {
    GATE.store(info.enter as usize, Ordering::Relaxed);
}

/// Calls the monitor and takes note of the time it tells.
///
/// # Safety
/// As for [`Hypervisor::enter`].
pub unsafe fn enter(call: &mut Call) {
    let gate = Gate {
        enter: GATE.load(Ordering::Relaxed),
    };
    // SAFETY: the caller's.
    unsafe { gate.enter(call) };
    time::note(call.now);
}

/// Performs operations without waiting.
///
/// This is for operations whose buffers are borrowed by the caller for the length of the call; it is safe because
/// the typed constructors around it ([`console`](crate::console), [`block`](crate::block), ...) make them from
/// references.
pub(crate) fn perform(ops: &mut [RawOp]) {
    let mut call = Call {
        ops: ops.as_mut_ptr() as u64,
        count: ops.len() as u32,
        ..Call::default()
    };
    // SAFETY: the operations are borrowed; their buffers are the callers' responsibility, all in this crate.
    unsafe { enter(&mut call) };
}
