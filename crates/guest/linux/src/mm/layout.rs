//! Where things go: random bases (`randomize_va_space`, 2).
//!
//! From the bottom: programs that have an address of their own (0x400000), position-independent programs where Linux has them, their
//! heap behind them, then free ranges that are taken from the top down, the stack above them, the vDSO above that. What is below the
//! programs, and the middle of what is above, belongs to those with wishes: Go's arenas, shadow memory of sanitizers (up to 16 TiB, Go's up to
//! 64), their allocators (4 TiB at `0x5000_0000_0000` or `0x6000_0000_0000`).

use crate::platform;
use crate::user::{PAGE, USER_END};

/// Where position-independent programs start, without the random part: Linux's own place (`ELF_ET_DYN_BASE`).
pub const PROGRAM_BASE: u64 = 0x5555_5555_4000;

/// Addresses that random numbers are added to, and where the parts of the program came to lie (`proc(5)`, `stat`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Program text.
    pub start_code: u64,
    /// Behind it.
    pub end_code: u64,
    /// Program data.
    pub start_data: u64,
    /// Behind it.
    pub end_data: u64,
    /// The first stack pointer.
    pub start_stack: u64,
    /// Argument strings.
    pub arg_start: u64,
    /// Behind them.
    pub arg_end: u64,
    /// Environment strings.
    pub env_start: u64,
    /// Behind them.
    pub env_end: u64,
    /// The auxiliary vector.
    pub auxv: alloc::vec::Vec<u64>,
    /// The vDSO; 0 if there is none.
    pub vdso: u64,
}

/// The bases of one program run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bases {
    /// Where a position-independent program goes.
    pub program: u64,
    /// Free ranges are searched below this.
    pub mmap: u64,
    /// Behind the stack.
    pub stack_top: u64,
    /// Where the vDSO goes.
    pub vdso: u64,
    /// How far the heap starts behind the program.
    pub heap_gap: u64,
}

impl Bases {
    /// New ones, for a stack of at most `stack_limit` bytes.
    pub fn random(stack_limit: u64) -> Self {
        /// Around the stack: room for what `RLIMIT_STACK` may be (`mmap_base` in Linux).
        const LEAST_STACK_ROOM: u64 = 128 << 20;
        const MOST_STACK_ROOM: u64 = 4 << 40;
        let mut bytes = [0; 40];
        platform::random(&mut bytes);
        let mut words = bytes.chunks_exact(8).map(|word| {
            let mut number = [0; 8];
            number.copy_from_slice(word);
            u64::from_le_bytes(number)
        });
        let mut pages = |bits: u32| (words.next().unwrap_or(0) & ((1 << bits) - 1)) * PAGE;
        // 16 GiB at the very top are the vDSO's and what is random of the stack.
        let vdso = USER_END - (1 << 32) + pages(19);
        let stack_top = USER_END - (2 << 32) - pages(22);
        let room = stack_limit.clamp(LEAST_STACK_ROOM, MOST_STACK_ROOM) & !(PAGE - 1);
        let mmap = stack_top - room - super::areas::STACK_GUARD - pages(28);
        Self {
            program: PROGRAM_BASE + pages(28),
            mmap,
            stack_top,
            vdso,
            heap_gap: pages(13),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Bases;
    use crate::user::{PAGE, USER_END};

    #[test]
    fn bases_are_pages_in_order_and_differ() {
        let (a, b) = (Bases::random(8 << 20), Bases::random(u64::MAX));
        for bases in [a, b] {
            assert!(bases.program < bases.mmap && bases.mmap < bases.stack_top);
            assert!(bases.stack_top < bases.vdso && bases.vdso + (1 << 30) < USER_END);
            for base in [bases.program, bases.mmap, bases.stack_top, bases.vdso] {
                assert_eq!(base % PAGE, 0);
            }
        }
        assert_ne!(a.program, b.program);
        assert_ne!(a.stack_top, b.stack_top);
        assert!(b.stack_top - b.mmap >= 4 << 40);
    }
}
