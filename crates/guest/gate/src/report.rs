//! What the supervisor reads when a guest has ended, and while it runs.
//!
//! It lies on memory shared between the supervisor and the guest's process. To the supervisor every byte of it is
//! hostile: it copies the record out once ([`Report`] is plain data) and checks each count.

use crate::traffic::Traffic;
use kiln_abi::exit::{MAX_FRAMES, MAX_MESSAGE};
use kiln_abi::trap::TrapFrame;

/// The shared record.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Report {
    /// Calls made by the guest.
    pub calls: u64,
    /// System calls made by the gate.
    pub host_calls: u64,
    /// Operations performed.
    pub operations: u64,
    /// 1 once the fields below are filled in.
    pub ended: u32,
    /// An [`ExitReason`](kiln_abi::ExitReason).
    pub reason: u32,
    /// The exit code.
    pub code: u32,
    /// 1 if `registers` is filled in.
    pub has_registers: u32,
    /// How many of `frames` are filled in.
    pub frame_count: u32,
    /// How many bytes of `message` are filled in.
    pub message_len: u32,
    /// The guest's registers when it faulted.
    pub registers: TrapFrame,
    /// Return addresses, innermost first.
    pub frames: [u64; MAX_FRAMES],
    /// What the guest had to say.
    pub message: [u8; MAX_MESSAGE],
}

/// Bytes of shared memory for a [`Report`] and the [`Traffic`] behind it, whole pages: one, since every instance has it.
pub const REPORT_SIZE: usize = (size_of::<Report>() + size_of::<Traffic>()).next_multiple_of(4096);
const _: () = assert!(REPORT_SIZE == 4096);
