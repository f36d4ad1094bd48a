//! The guest's call, as [`kiln_abi::call`] describes it.

use kiln_abi::call::{CONSOLE, CONTROL, Call};
use kiln_abi::layout::Record;
use kiln_abi::op::Segment;
use kiln_abi::perform::{self, Memory, Pass};
use kiln_abi::{DeviceKind, MAX_DEVICES};

use crate::devices::HostDevices;
use crate::memory::GuestMemory;
use crate::state::{CONTROL_FD, FIRST_DEVICE_FD, State, state};
use crate::sys::{self, PollFd, Timespec, errno};
use crate::trap;

/// What the guest calls. Its address is [`BootInfo::enter`](kiln_abi::BootInfo::enter).
///
/// A call record outside of writable guest memory ends the guest.
///
/// # Safety
/// Called by the guest only, after the process was sealed.
#[unsafe(export_name = "kiln_gate_enter")]
pub unsafe extern "C" fn enter(address: u64) {
    let mut call = Call::default();
    let record = Segment {
        addr: address,
        len: Call::SIZE as u64,
    };
    if GuestMemory.check(record, true).is_err()
        || GuestMemory.read(address, call.as_bytes_mut()).is_err()
    {
        trap::end_with_fault(None, "call record outside of writable memory");
    }
    // SAFETY: the monitor has filled the state in. `GuestMemory` takes a reference of its own meanwhile, but only
    // reads fields that nothing writes once the guest runs.
    let state = unsafe { state() };
    perform_and_wait(&mut call, state);
    if GuestMemory.write(address, call.as_bytes()).is_err() {
        trap::end_with_fault(None, "call record outside of writable memory");
    }
}

fn perform_and_wait(call: &mut Call, state: &State) {
    let report = state.report;
    let mut devices = HostDevices::new(state);
    let progress = perform::batch(call, Pass::First, &GuestMemory, &mut devices);
    let mut host_calls = devices.host_calls + 1;
    call.done = progress.done;
    call.event = 0;
    call.ready = 0;
    call.ready_send = 0;
    if call.deadline != 0 {
        let wait = progress.exit.is_none() && progress.received == 0;
        // The clock is past 1 since the host has booted: no need to look at it.
        let wait = wait && call.deadline > 1;
        host_calls += wait_for_devices(call, state, if wait { call.deadline } else { 0 });
        if wait && call.flags & Call::RETRY != 0 && call.ready & call.wait_receive != 0 {
            let mut devices = HostDevices::new(state);
            perform::batch(call, Pass::Retry, &GuestMemory, &mut devices);
            host_calls += devices.host_calls;
        }
    }
    call.now = sys::clock(sys::CLOCK_MONOTONIC);
    if call.flags & Call::WALL != 0 {
        call.wall = sys::clock(sys::CLOCK_REALTIME);
        host_calls += 1;
    } else {
        call.wall = 0;
    }
    // SAFETY: the report is mapped for the process's life; the supervisor only reads it.
    unsafe {
        (*report).calls += 1;
        (*report).operations += u64::from(progress.done);
        (*report).host_calls += host_calls;
    }
    if let Some(exit) = progress.exit {
        trap::end(&exit);
    }
}

/// Polls until something is ready or the deadline has passed. Returns the number of host calls made.
fn wait_for_devices(call: &mut Call, state: &State, deadline: u64) -> u64 {
    let mut fds = [PollFd::default(); MAX_DEVICES + 1];
    let mut count = 0;
    let interest = |device: u32| {
        let bit = 1u64 << device;
        let receive = if call.wait_receive & bit != 0 {
            sys::POLLIN
        } else {
            0
        };
        let send = if call.wait_send & bit != 0 {
            sys::POLLOUT
        } else {
            0
        };
        receive | send
    };
    let is_socket = |device: u32| {
        let state = state.devices.get(device as usize);
        state
            .is_some_and(|d| d.kind == DeviceKind::Net as u32 || d.kind == DeviceKind::Files as u32)
    };
    let control = core::iter::once((CONTROL_FD, sys::POLLIN));
    let devices = (0..state.device_count.min(MAX_DEVICES as u32))
        .filter(|&d| is_socket(d))
        .map(|d| (FIRST_DEVICE_FD + d.cast_signed(), interest(d)))
        .filter(|&(_, events)| events != 0);
    let input = (state.program.runs && call.wait_receive & CONSOLE != 0)
        .then_some((state.program.input_fd, sys::POLLIN));
    for (slot, (fd, events)) in fds.iter_mut().zip(control.chain(input).chain(devices)) {
        *slot = PollFd {
            fd,
            events,
            revents: 0,
        };
        count += 1;
    }
    let Some(fds) = fds.get_mut(..count) else {
        return 0;
    };
    let mut host_calls = 0;
    loop {
        let mut timeout = Timespec::default();
        let timeout = if deadline == u64::MAX {
            None
        } else {
            if deadline != 0 {
                let now = sys::clock(sys::CLOCK_MONOTONIC);
                timeout = Timespec::from_nanos(deadline.saturating_sub(now));
                host_calls += 1;
            }
            Some(&mut timeout)
        };
        host_calls += 1;
        if sys::ppoll(fds, timeout) != errno::EINTR {
            break;
        }
    }
    for slot in fds {
        if slot.revents == 0 {
            continue;
        }
        if slot.fd == CONTROL_FD {
            let mut event = [0u8; 4];
            // SAFETY: four bytes of ours. The end of the pipe means that nobody is left to wait for the guest.
            let got = unsafe { sys::read(CONTROL_FD, event.as_mut_ptr(), event.len()) };
            host_calls += 1;
            call.event = if got == 4 {
                u32::from_le_bytes(event)
            } else {
                15
            };
            call.ready |= CONTROL;
            continue;
        }
        if state.program.runs && slot.fd == state.program.input_fd {
            call.ready |= CONSOLE;
            continue;
        }
        let bit = 1u64 << ((slot.fd - FIRST_DEVICE_FD).cast_unsigned() & 63);
        // Errors and hang-ups count as both, so that the guest comes to see them.
        if slot.revents & !sys::POLLOUT != 0 {
            call.ready |= bit & call.wait_receive;
        }
        if slot.revents & !sys::POLLIN != 0 {
            call.ready_send |= bit & call.wait_send;
        }
    }
    host_calls
}
