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

/// The signal that a Linux process sees for an exception of the processor.
pub fn signal_of(vector: u32) -> u32 {
    const SIGTRAP: u32 = 5;
    const SIGILL: u32 = 4;
    const SIGBUS: u32 = 7;
    const SIGFPE: u32 = 8;
    const SIGSEGV: u32 = 11;
    match vector {
        0 | 16 | 19 => SIGFPE,
        1 | 3 => SIGTRAP,
        6 => SIGILL,
        11 | 12 | 17 => SIGBUS,
        _ => SIGSEGV,
    }
}

/// Whether an exception at an instruction that begins with `code` is an attempt to call a host: `syscall`, `sysenter` or
/// `int 0x80` in a virtual machine, where nobody answers to them. The processor says that it does not know the
/// instruction, or that it is not allowed.
pub fn is_host_call(vector: u32, code: [u8; 2]) -> bool {
    const UNDEFINED: u32 = 6;
    const GENERAL_PROTECTION: u32 = 13;
    matches!(vector, UNDEFINED | GENERAL_PROTECTION)
        && matches!(code, [0x0f, 0x05 | 0x34] | [0xcd, 0x80])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_those_of_linux() {
        let expected = [
            (0, 8),
            (1, 5),
            (3, 5),
            (6, 4),
            (11, 7),
            (12, 7),
            (13, 11),
            (14, 11),
            (16, 8),
            (17, 7),
            (19, 8),
            (200, 11),
        ];
        for (vector, signal) in expected {
            assert_eq!(signal_of(vector), signal, "vector {vector}");
        }
    }

    #[test]
    fn host_calls_are_told_from_other_faults() {
        assert!(is_host_call(6, [0x0f, 0x05]));
        assert!(is_host_call(13, [0xcd, 0x80]));
        assert!(is_host_call(13, [0x0f, 0x34]));
        assert!(!is_host_call(14, [0x0f, 0x05]), "fetched, not executed");
        assert!(!is_host_call(13, [0xcd, 0x81]));
        assert!(!is_host_call(6, [0x0f, 0x0b]));
    }
}
