//! Faults of the guest's own code.
//!
//! A native guest has nothing to go back to: the handler says what happened and where, and ends the guest.

use core::fmt::Write;

use kiln_abi::op::{Op, Segment};
use kiln_abi::trap::TrapFrame;
use kiln_abi::{BootInfo, ExitReason};

use crate::panic::Text;
use crate::{backtrace, boot};

/// How far below a stack an access still counts as that stack's overflow, in bytes.
const OVERFLOW_REACH: u64 = 64 * 1024;

/// The operation that sends traps to this module.
#[cfg_attr(not(kiln_guest), allow(dead_code))]
pub(crate) fn registration(info: &BootInfo) -> Op {
    registration_at(info, entry as *const () as u64)
}

/// The operation that sends traps to an entry of somebody who can do more than report them ([`report`]), on the stack for traps.
pub fn registration_at(info: &BootInfo, entry: u64) -> Op {
    // SAFETY: the monitor's promise: an array of ranges.
    let ranges = unsafe {
        core::slice::from_raw_parts(
            info.memory as *const kiln_abi::MemoryRange,
            info.memory_count as usize,
        )
    };
    let stack = ranges
        .iter()
        .find(|r| r.start + r.len == info.trap_stack_top);
    Op::SetTrap {
        entry,
        stack: stack.map_or(Segment::default(), |r| Segment {
            addr: r.start,
            len: r.len,
        }),
    }
}

/// Where the monitor continues after a fault, on the stack for traps.
extern "C" fn entry(frame: &TrapFrame) -> ! {
    report(frame)
}

/// Ends the guest, saying what happened and where.
pub fn report(frame: &TrapFrame) -> ! {
    let mut text = Text::new();
    describe(frame, &mut text);
    let frames = backtrace::of_trap(frame);
    crate::start::end(
        ExitReason::Fault,
        128 + frame.signal,
        frames.as_slice(),
        text.as_str(),
    )
}

fn describe(frame: &TrapFrame, text: &mut Text) {
    const BREAKPOINT: u32 = 3;
    const PAGE_FAULT: u32 = 14;
    let address = frame.address;
    // Writing to the text cannot fail.
    let _ = match frame.vector {
        0 => text.write_str("division error"),
        BREAKPOINT => text.write_str("breakpoint"),
        6 => text.write_str("illegal instruction"),
        13 => text.write_str("general protection fault"),
        PAGE_FAULT => {
            let bottom = backtrace::stack_bottom(boot::info().stack_top);
            if (bottom.saturating_sub(OVERFLOW_REACH)..bottom).contains(&address) {
                write!(text, "stack overflow")
            } else {
                let access = match frame.error {
                    error if error & 16 != 0 => "execution",
                    error if error & 2 != 0 => "write",
                    _ => "read",
                };
                write!(text, "page fault: {access} at address {address:#x}")
            }
        }
        16 | 19 => text.write_str("floating-point exception"),
        17 => text.write_str("misaligned access"),
        TrapFrame::HOST_CALL => write!(text, "host system call {address} attempted by the program"),
        vector => write!(text, "exception {vector}"),
    };
}
