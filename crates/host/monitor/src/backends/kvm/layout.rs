//! Physical addresses of a guest in a virtual machine.
//!
//! ```text
//!   4 GiB      image, offset within 2 MiB as at its virtual address
//!   behind     descriptor tables and ring-0 stub | ring-0 stack | stubs | exception stack | page tables
//!              window (boot record to end of free memory), as far behind as in this process, likewise
//!   behind     root image of a guest that runs a program, likewise
//!   behind     chunks of the program's memory, in the order of their first use (`kiln_gate::pages`)
//! ```
//! Each is one memory slot, and each chunk another; their host addresses are the guest's virtual ones, but for the machine's own
//! pages. The machine's own pages and the window share one: for each slot KVM waits until all of the host's processors have been seen to be
//! done with the former list, which takes milliseconds if they have other things to do. Of a guest that runs a program only the first [`HEAD`] bytes of the
//! window are in it, and the rest is a slot of its own as soon as the guest comes to it ([`kiln_gate::vcpu::Rest`]).

use kiln_abi::PAGE_SIZE;
use kiln_gate::pages::{CHUNK, CHUNKS};
use kiln_gate::paging::{HUGE, pool_pages};
use kiln_gate::state::Range;

use crate::backends::process::layout::Layout;

/// Bytes of a window that are a program's guest's from the start.
pub const HEAD: u64 = 64 << 20;
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
    /// The first of the machine's own pages.
    pub machine: u64,
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
    /// Chooses addresses so that 2 MiB pages are possible wherever the virtual addresses allow them. The machine's own pages begin
    /// at `own`.
    pub fn new(layout: &Layout, own: u64) -> Self {
        let mut behind = LOWEST_GUEST;
        let mut place = |range: Range| {
            let start = behind + range.start % HUGE;
            behind = (start + range.end - range.start).next_multiple_of(HUGE);
            start
        };
        let image = place(layout.image);
        let window = window(layout);
        let machine = place(Range {
            start: own,
            end: window.end,
        });
        Self {
            image,
            machine,
            window: machine + (window.start - own),
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

/// The part of the window that the guest has from the start, and what it gets later.
pub fn divided(layout: &Layout) -> (Range, Range) {
    let window = window(layout);
    let middle = if layout.program {
        let least = (window.start + HEAD).max(layout.free.start);
        least.next_multiple_of(HUGE).min(window.end)
    } else {
        window.end
    };
    let head = Range {
        end: middle,
        ..window
    };
    let rest = Range {
        start: middle,
        ..window
    };
    (head, rest)
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
