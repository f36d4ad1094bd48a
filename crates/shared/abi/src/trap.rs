//! What a guest gets when its own code faults.
//!
//! A guest registers an entry point and a stack with [`Op::SetTrap`](crate::Op::SetTrap). When its code faults, the
//! monitor writes a [`TrapFrame`] at the top of that stack, points `rdi` at it, aligns `rsp` as at a function's first
//! instruction and continues at the entry point, with the direction flag clear and the FPU state as it was. No state
//! is left behind on the monitor's side: the guest may return to the interrupted code by loading the frame itself,
//! go on elsewhere, or exit.
//!
//! A fault with no entry registered, or while the frame cannot be written, or inside the entry's stack
//! (a fault in the handler of a fault) ends the guest with [`ExitReason::Fault`](crate::ExitReason::Fault).

/// The interrupted state of a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TrapFrame {
    /// General registers in the order rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8 to r15.
    pub registers: [u64; 16],
    /// Address of the interrupted instruction.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Kind of trap: the x86 exception vector (SDM volume 3, table 6-1), or [`TICK`](Self::TICK) or
    /// [`HOST_CALL`](Self::HOST_CALL).
    pub vector: u32,
    /// The exception's error code; for page faults bit 1 is set for a write, bit 4 for an instruction fetch.
    pub error: u32,
    /// For page faults: the address accessed. For [`HOST_CALL`](Self::HOST_CALL): the system-call number.
    pub address: u64,
    /// The signal number that a Linux process would see for it.
    pub signal: u32,
    /// Reserved, 0.
    pub reserved: u32,
    /// Host address of the saved FPU state, 0 if it is live in the registers.
    pub fpu: u64,
}

impl TrapFrame {
    /// Index of `rbp` in [`registers`](Self::registers).
    pub const RBP: usize = 6;
    /// Index of `rsp` in [`registers`](Self::registers).
    pub const RSP: usize = 7;
    /// Vector of a preemption tick ([`Op::Tick`](crate::Op::Tick)).
    pub const TICK: u32 = 0x100;
    /// Vector of a host system call attempted from outside the monitor's own code.
    pub const HOST_CALL: u32 = 0x101;
}
