//! How a guest ends.

/// Why a guest has ended, as it says itself in [`Op::Exit`](crate::Op::Exit) or as its monitor found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ExitReason {
    /// The program returned; the code is its own.
    Exit = 0,
    /// The program panicked. The message and the stack come along; the exit code is 101, as with Rust programs
    /// elsewhere.
    Panic = 1,
    /// The guest's code faulted: bad memory access, illegal instruction, division by zero. The exit code is 128 plus
    /// the signal number that a Linux process would have died of.
    Fault = 2,
    /// The library OS found its own state damaged (smashed stack, corrupted heap) and stopped. Exit code 134.
    Corrupted = 3,
    /// The guest could not start: a [`BootInfo`](crate::BootInfo) it does not understand, or no memory. Exit code 125.
    Boot = 4,
    /// The guest's memory is used up, and what runs in it is not at fault: a Linux program has had the library OS keep too much, or has used up its own part where
    /// the guest divides its memory. Exit code 137, as of a process that Linux ends for that.
    OutOfMemory = 5,
}

impl ExitReason {
    /// The reason with this number.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::Exit,
            1 => Self::Panic,
            2 => Self::Fault,
            3 => Self::Corrupted,
            4 => Self::Boot,
            5 => Self::OutOfMemory,
            _ => return None,
        })
    }
}

/// The most return addresses an exit carries.
pub const MAX_FRAMES: usize = 64;

/// The most bytes of message an exit carries; the monitor cuts longer ones.
pub const MAX_MESSAGE: usize = 1024;
