//! The guest's call, as [`kiln_abi::call`] describes it.
#![allow(unsafe_code)]

use kiln_abi::call::Call;
use kiln_abi::layout::Record;
use kiln_abi::op::Segment;
use kiln_abi::perform::{self, Memory, Pass};

use crate::devices::MachineDevices;
use crate::end;
use crate::memory::GuestMemory;
use crate::state::{State, state};

const BAD_RECORD: &[u8] = b"call record outside of writable memory";

/// What the guest calls. Its address is [`BootInfo::enter`](kiln_abi::BootInfo::enter).
///
/// A call record outside of writable guest memory ends the guest.
///
/// # Safety
/// Called by the guest only.
pub unsafe extern "C" fn enter(address: u64) {
    // SAFETY: the guest has one processor and waits; ticks do not interrupt a call.
    let state = unsafe { state() };
    let mut call = Call::default();
    let record = Segment {
        addr: address,
        len: Call::SIZE as u64,
    };
    let memory = GuestMemory(&state.layout);
    if memory.check(record, true).is_err() || memory.read(address, call.as_bytes_mut()).is_err() {
        end::with_fault(state, None, BAD_RECORD);
    }
    perform_and_wait(&mut call, state);
    #[cfg(feature = "program")]
    state.tell_missed_tick();
    if GuestMemory(&state.layout)
        .write(address, call.as_bytes())
        .is_err()
    {
        end::with_fault(state, None, BAD_RECORD);
    }
}

fn perform_and_wait(call: &mut Call, state: &mut State) {
    // The walk needs the memory while the devices need the rest; the layout does not change any more.
    let layout = state.layout;
    let memory = GuestMemory(&layout);
    let progress = perform::batch(call, Pass::First, &memory, &mut MachineDevices(state));
    if let Some(exit) = progress.exit {
        end::as_wished(state, &exit);
    }
    call.done = progress.done;
    call.event = 0;
    call.ready = 0;
    call.ready_send = 0;
    state.notify();
    if call.deadline != 0 {
        let wait = progress.received == 0 && call.deadline > 1;
        state.wait(call, if wait { call.deadline } else { 0 });
        if wait && call.flags & Call::RETRY != 0 && call.ready & call.wait_receive != 0 {
            perform::batch(call, Pass::Retry, &memory, &mut MachineDevices(state));
            state.notify();
        }
    }
    call.now = state.clock.now();
    call.wall = if call.flags & Call::WALL != 0 {
        state.clock.wall_at(call.now)
    } else {
        0
    };
}
