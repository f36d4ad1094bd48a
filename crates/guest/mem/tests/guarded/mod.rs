//! Memory between two pages that cannot be touched.

use std::ffi::c_void;
use std::ptr;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

const PAGE: usize = 4096;

/// Whole pages with an inaccessible page before and after them.
pub struct Guarded {
    map: *mut c_void,
    bytes: usize,
}

impl Guarded {
    /// Maps `pages` pages of zeros.
    pub fn new(pages: usize) -> Self {
        let bytes = pages * PAGE;
        // SAFETY: a fresh mapping touches nothing that exists; the protected part lies inside it.
        unsafe {
            let map = mmap_anonymous(
                ptr::null_mut(),
                bytes + 2 * PAGE,
                ProtFlags::empty(),
                MapFlags::PRIVATE,
            )
            .expect("address space");
            mprotect(
                map.byte_add(PAGE),
                bytes,
                MprotectFlags::READ | MprotectFlags::WRITE,
            )
            .expect("own mapping");
            Self { map, bytes }
        }
    }

    /// The first usable byte.
    pub fn first(&self) -> *mut u8 {
        self.map.cast::<u8>().wrapping_add(PAGE)
    }

    /// The start of the last `n` usable bytes.
    pub fn last(&self, n: usize) -> *mut u8 {
        self.first().wrapping_add(self.bytes - n)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it.
        unsafe { munmap(self.map, self.bytes + 2 * PAGE) }.expect("own mapping");
    }
}
