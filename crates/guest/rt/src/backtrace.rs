//! Walking the stack by frame pointers.
//!
//! Guests are compiled with frame pointers and without unwind tables; the monitor turns the addresses found here into
//! names and lines with the image's symbols.

use kiln_abi::exit::MAX_FRAMES;

use kiln_abi::trap::TrapFrame;

use core::sync::atomic::{AtomicU64, Ordering};

use crate::boot;

/// The lowest address and the end of a stack of the program's own making on which it runs now.
static OTHER: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Says that the caller goes on on a stack of its own making. All of it must be readable.
///
/// # Safety
/// It is, until another one is named.
pub unsafe fn on_stack(bottom: u64, top: u64) {
    OTHER[0].store(bottom, Ordering::Relaxed);
    OTHER[1].store(top, Ordering::Relaxed);
}

/// Return addresses, innermost first.
#[derive(Debug)]
pub struct Frames {
    addresses: [u64; MAX_FRAMES],
    len: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            addresses: [0; MAX_FRAMES],
            len: 0,
        }
    }
}

impl Frames {
    /// The addresses.
    pub fn as_slice(&self) -> &[u64] {
        &self.addresses[..self.len]
    }

    fn push(&mut self, address: u64) -> bool {
        let room = self.len < MAX_FRAMES;
        if room {
            self.addresses[self.len] = address;
            self.len += 1;
        }
        room
    }
}

/// The stack of the caller.
#[inline(never)]
pub fn here() -> Frames {
    let rbp: u64;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags));
    }
    walk(Frames::default(), rbp)
}

/// The stack of a trap, the interrupted instruction first.
pub fn of_trap(trap: &TrapFrame) -> Frames {
    const INSTRUCTION_FETCH: u32 = 1 << 4;
    let mut frames = Frames::default();
    frames.push(trap.rip);
    let stack = trap.registers[TrapFrame::RSP];
    // A call into nowhere has pushed its return address and set up no frame yet.
    if trap.vector == 14 && trap.error & INSTRUCTION_FETCH != 0 {
        let top = boot::info().stack_top;
        if stack.is_multiple_of(8) && (stack_bottom(top)..top).contains(&stack) {
            // SAFETY: an aligned word of the main stack.
            frames.push(unsafe { *(stack as *const u64) });
        }
    }
    walk(frames, trap.registers[TrapFrame::RBP])
}

/// Follows a chain of frame pointers, none of which is trusted.
fn walk(mut frames: Frames, mut frame: u64) -> Frames {
    // Chains start on one of the stacks and only go up. Stacks are mapped as a whole.
    let info = boot::info();
    let [other, other_top] = [0, 1].map(|end: usize| OTHER[end].load(Ordering::Relaxed));
    let (mut lowest, top) = if (other..other_top).contains(&frame) {
        (other, other_top)
    } else if frame < info.stack_top {
        (stack_bottom(info.stack_top), info.stack_top)
    } else {
        (stack_bottom(info.trap_stack_top), info.trap_stack_top)
    };
    while frame >= lowest && frame.is_multiple_of(8) && frame <= top - 16 {
        // SAFETY: both words lie on the stack.
        let [next, back] = unsafe { *(frame as *const [u64; 2]) };
        if back == 0 || !frames.push(back) || next <= frame {
            break;
        }
        lowest = frame;
        frame = next;
    }
    frames
}

/// The lowest mapped address of the stack that ends at `top`.
pub(crate) fn stack_bottom(top: u64) -> u64 {
    let info = boot::info();
    // SAFETY: the monitor's promise: an array of ranges.
    let ranges = unsafe {
        core::slice::from_raw_parts(
            info.memory as *const kiln_abi::MemoryRange,
            info.memory_count as usize,
        )
    };
    let range = ranges.iter().find(|r| r.start + r.len == top);
    range.map_or(top, |r| r.start)
}
