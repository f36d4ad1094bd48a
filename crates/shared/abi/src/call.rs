//! The call from a guest to its monitor.
//!
//! A guest fills in a [`Call`], points it at an array of [`RawOp`](crate::op::RawOp) and hands its address over:
//! by calling the function whose address is [`BootInfo::enter`](crate::BootInfo::enter)
//! (System V calling convention, the address in `rdi`, nothing returned, at least [`STACK_NEEDED`] bytes of stack
//! left, all but the callee-saved registers clobbered).
//!
//! The monitor then
//! 1. reads the first [`Call`] fields once;
//! 2. performs the operations in order and writes each one's result; an operation that fails does not stop the ones
//!    behind it;
//! 3. waits, if [`deadline`](Call::deadline) is later than now and no receive operation of the batch found a frame,
//!    until a device of [`wait_receive`](Call::wait_receive) or [`wait_send`](Call::wait_send) is ready, the deadline
//!    passes, or something arrives on the control channel;
//! 4. with [`Call::RETRY`], and if it waited, performs once more the receive operations that found nothing;
//! 5. writes the fields from [`done`](Call::done) on, and returns.
//!
//! The call blocks only in step 3, apart from the time the host's disks take for block operations.

/// The most operations of one batch.
pub const MAX_OPS: u32 = 1024;

/// Bytes of stack the callee may use.
pub const STACK_NEEDED: usize = 8 * 1024;

/// The bit of a ready set that stands for the control channel. It is always waited for.
pub const CONTROL: u64 = 1 << 63;

/// The bit of a ready set that stands for the console's input, in guests that run a program
/// ([`AbiNote::PROGRAM`](crate::note::AbiNote::PROGRAM)). Such a guest has one device less than others at the most.
pub const CONSOLE: u64 = 1 << 62;

/// The signal (`SIGWINCH`) that tells a guest that runs a program of its user's terminal: if bits 8 to 31 of [`Call::event`] are not 0, it has
/// another size now, with its columns in bits 8 to 19 and its rows in bits 20 to 31.
pub const RESIZED: u32 = 28;

/// The event that tells of a terminal's size.
pub fn resized(columns: u16, rows: u16) -> u32 {
    const MOST: u32 = (1 << 12) - 1;
    RESIZED | u32::from(columns).min(MOST) << 8 | u32::from(rows).min(MOST) << 20
}

/// One call: a batch, how long to wait afterwards, and what came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Call {
    /// Guest address of the first operation, 8-byte aligned.
    pub ops: u64,
    /// Number of operations, at most [`MAX_OPS`]. More are refused: none is performed and `done` is 0.
    pub count: u32,
    /// A set of [`WALL`](Self::WALL) and [`RETRY`](Self::RETRY). Other bits are ignored.
    pub flags: u32,
    /// Devices (by bit), and [`CONSOLE`], whose having something to receive ends the wait.
    pub wait_receive: u64,
    /// Devices (by bit) whose being able to take a frame ends the wait.
    pub wait_send: u64,
    /// Monotonic nanoseconds until which to wait at the most; `u64::MAX` means without limit. With a deadline in the
    /// past the monitor looks which devices are ready without waiting; with 0 it does not look.
    pub deadline: u64,
    /// Result: how many operations were performed, whether they succeeded or not.
    pub done: u32,
    /// Result: 0, or what the instance's owner asks for: in bits 0 to 7 the number of a signal (as on Linux: 2 interrupt, 15
    /// terminate). Bits 8 to 31 are 0 but for the signal [`RESIZED`]. Reported once for each request.
    pub event: u32,
    /// Result: what of `wait_receive` has something to receive, and [`CONTROL`] if `event` is not 0. 0 if
    /// `deadline` was 0.
    pub ready: u64,
    /// Result: devices of `wait_send` that can take a frame. 0 if `deadline` was 0.
    pub ready_send: u64,
    /// Result: monotonic nanoseconds when the monitor was done.
    pub now: u64,
    /// Result with [`WALL`](Self::WALL): nanoseconds since 1970-01-01 UTC, leap seconds not counted; else 0.
    pub wall: u64,
    /// Reserved: the guest writes 0, the monitor leaves it alone.
    pub reserved: u64,
}

impl Call {
    /// Report the wall clock too.
    pub const WALL: u32 = 1;
    /// After a wait, perform receive operations again that had found nothing.
    pub const RETRY: u32 = 2;
}
