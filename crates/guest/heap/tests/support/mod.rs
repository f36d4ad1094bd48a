//! A heap over ordinary memory, with hooks that panic and record.

#![allow(dead_code)]

use std::alloc::{GlobalAlloc, Layout, alloc_zeroed, dealloc};
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_heap::{Heap, HeapError, Hooks};

const PAGE: usize = 4096;

/// How often pages were given back in this process.
pub static RELEASES: AtomicUsize = AtomicUsize::new(0);

/// A heap and the memory below it.
pub struct Arena {
    pub heap: Heap,
    regions: Vec<(*mut u8, Layout)>,
}

fn corrupted(error: HeapError) -> ! {
    std::panic::panic_any(error)
}

fn release(start: *mut u8, len: usize) -> bool {
    assert!(start.addr().is_multiple_of(PAGE) && len.is_multiple_of(PAGE) && len > 0);
    RELEASES.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the heap gives only free pages of its region back.
    unsafe { start.write_bytes(0, len) };
    true
}

impl Arena {
    /// A heap of `len` bytes.
    pub fn new(len: usize) -> Self {
        let mut arena = Self {
            heap: Heap::new(),
            regions: Vec::new(),
        };
        let start = arena.memory(len);
        let hooks = Hooks {
            corrupted,
            release: Some(release),
        };
        // SAFETY: the memory is zeroed and outlives the heap.
        unsafe { arena.heap.init(start, len, *b"a secret for all", hooks) }.expect("large enough");
        arena
    }

    /// Adds `len` bytes.
    pub fn add(&mut self, len: usize) {
        let start = self.memory(len);
        // SAFETY: the memory is zeroed and outlives the heap.
        unsafe { self.heap.add_region(start, len) }.expect("large enough");
    }

    fn memory(&mut self, len: usize) -> *mut u8 {
        // Not aligned to a page, to show that the heap does not need that.
        let layout = Layout::from_size_align(len, 64).expect("valid");
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(layout) };
        assert!(!start.is_null());
        self.regions.push((start, layout));
        start
    }

    pub fn alloc(&self, size: usize, align: usize) -> *mut u8 {
        // SAFETY: tests treat null as failure.
        unsafe { self.heap.alloc(layout(size, align)) }
    }

    pub fn free(&self, object: *mut u8, size: usize, align: usize) {
        // SAFETY: the heap detects what tests do wrong on purpose.
        unsafe { self.heap.dealloc(object, layout(size, align)) }
    }

    /// What freeing this object finds wrong.
    pub fn error_of(&self, work: impl FnOnce(&Self)) -> HeapError {
        let work = std::panic::AssertUnwindSafe(|| work(self));
        let panic = std::panic::catch_unwind(work).expect_err("corruption must be found");
        *panic.downcast::<HeapError>().expect("the hook's error")
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for &(start, layout) in &self.regions {
            // SAFETY: allocated above with this layout; the heap goes with it.
            unsafe { dealloc(start, layout) };
        }
    }
}

pub fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("valid")
}
