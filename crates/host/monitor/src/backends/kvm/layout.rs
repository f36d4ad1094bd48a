//! Physical addresses of a guest in a virtual machine.
//!
//! ```text
//!   0          descriptor tables and ring-0 stub | ring-0 stack | stubs | exception stack | page tables
//!   4 GiB      image, offset within 2 MiB as at its virtual address
//!   behind     window (boot record to end of free memory), likewise
//!   behind     root image of a guest that runs a program, likewise
//!   behind     chunks of the program's memory, in the order of their first use (`kiln_gate::pages`)
//! ```
//! Each is one memory slot, and each chunk another; their host addresses are the guest's virtual ones.

use kiln_abi::PAGE_SIZE;
use kiln_gate::pages::{CHUNK, CHUNKS};
use kiln_gate::paging::{HUGE, pool_pages};
use kiln_gate::state::Range;

use crate::backends::process::layout::Layout;

/// Where the machine's own pages lie.
pub const MACHINE: u64 = 0;
/// Pages before the page tables.
pub const FIXED_PAGES: u64 = 4;
/// Descriptor tables and the ring-0 stub.
pub const DESCRIPTORS: u64 = 0;
/// The ring-0 stub's stack.
pub const SUPERVISOR_STACK: u64 = PAGE_SIZE;
/// What guest code calls and where exceptions arrive.
pub const STUBS: u64 = 2 * PAGE_SIZE;
/// The stack on which they arrive.
pub const EXCEPTION_STACK: u64 = 3 * PAGE_SIZE;
/// The first physical address of what is the guest's own: above everything that processors or KVM treat specially.
pub const LOWEST_GUEST: u64 = 4 << 30;

/// Pages for the tables of a program's memory: enough for 32 GiB mapped in the smallest pieces.
const PROGRAM_TABLES: u64 = 16 * 1024;
/// Memory slots that KVM has room for, all but a few of them (`KVM_USER_MEM_SLOTS`).
const MOST_CHUNKS: u64 = 32_000;
const _: () = assert!(MOST_CHUNKS <= u16::MAX as u64);

/// Where everything lies.
#[derive(Clone, Copy, Debug)]
pub struct Physical {
    /// The image's first byte.
    pub image: u64,
    /// The window's first byte.
    pub window: u64,
    /// The root image's.
    pub root: u64,
    /// That of the program's first chunk.
    pub chunks: u64,
}

/// The window: from the boot record to the end of free memory, with the gaps in between.
pub fn window(layout: &Layout) -> Range {
    Range {
        start: layout.boot.start,
        end: layout.free.end,
    }
}

impl Physical {
    /// Chooses addresses so that 2 MiB pages are possible wherever the virtual addresses allow them.
    pub fn new(layout: &Layout) -> Self {
        let mut behind = LOWEST_GUEST;
        let mut place = |range: Range| {
            let start = behind + range.start % HUGE;
            behind = (start + range.end - range.start).next_multiple_of(HUGE);
            start
        };
        Self {
            image: place(layout.image),
            window: place(window(layout)),
            root: place(layout.root),
            chunks: behind,
        }
    }

    /// How many chunks there may be if physical addresses have `bits` bits.
    pub fn most_chunks(&self, bits: u32) -> u32 {
        let end = 1u64.checked_shl(bits).unwrap_or(u64::MAX);
        (end.saturating_sub(self.chunks) / CHUNK).min(MOST_CHUNKS) as u32
    }
}

/// Bytes of the machine's own pages: the fixed ones and as many for page tables as can ever be used, and as are kept for a program's
/// memory if there is one.
pub fn machine_size(image: u64, window: u64, root: u64, program: bool) -> u64 {
    let mapped = image + window + root + FIXED_PAGES * PAGE_SIZE;
    let program = if program { PROGRAM_TABLES } else { 0 };
    (FIXED_PAGES + pool_pages(mapped, 4) + program) * PAGE_SIZE
}

/// Bytes behind them for the list of a program's chunks.
pub const CHUNK_LIST: u64 = (CHUNKS * size_of::<u16>() as u64).next_multiple_of(PAGE_SIZE);
