//! Physical addresses of a guest in a virtual machine.
//!
//! ```text
//!   0          descriptor tables and ring-0 stub | ring-0 stack | stubs | exception stack | page tables
//!   4 GiB      image, offset within 2 MiB as at its virtual address
//!   behind     window (boot record to end of free memory), likewise
//! ```
//! Each is one memory slot, whose host addresses are the guest's virtual ones.

use kiln_abi::PAGE_SIZE;
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

/// Where everything lies.
#[derive(Clone, Copy, Debug)]
pub struct Physical {
    /// The image's first byte.
    pub image: u64,
    /// The window's first byte.
    pub window: u64,
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
        let image = LOWEST_GUEST + layout.image.start % HUGE;
        let behind = (image + layout.image.end - layout.image.start).next_multiple_of(HUGE);
        Self {
            image,
            window: behind + window(layout).start % HUGE,
        }
    }
}

/// Bytes of the machine's own pages: the fixed ones and as many for page tables as can ever be used.
pub fn machine_size(image: u64, window: u64) -> u64 {
    (FIXED_PAGES + pool_pages(image + window + FIXED_PAGES * PAGE_SIZE, 3)) * PAGE_SIZE
}
