//! [`Heap`]: the state behind its lock, as Rust's `GlobalAlloc`.

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::{self, NonNull};

use super::Lock;
use crate::error::HeapError;
use crate::state::{Hooks, Object, State};
use crate::statistics::Statistics;

/// A region could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionError {
    /// The region does not hold one page and its bookkeeping.
    TooSmall,
    /// The heap has [`MAX_REGIONS`](crate::MAX_REGIONS) regions.
    TooMany,
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooSmall => "the memory region is too small for the heap (12 KiB are enough)",
            Self::TooMany => "the heap has as many memory regions as it can manage",
        })
    }
}

impl core::error::Error for RegionError {}

/// A heap, fit to be a `#[global_allocator]`.
///
/// Until [`init`](Self::init) every allocation fails. All methods may be called from any thread;
/// none may be called from inside a hook that the heap has called, except from
/// [`Hooks::corrupted`], which runs with the heap in working order.
pub struct Heap {
    state: Lock<State>,
}

impl Heap {
    /// A heap without memory.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: Lock::new(State::new()),
        }
    }

    /// Gives the heap its first region, the secret behind guard words and slot positions, and its
    /// hooks. To be called once, before the first allocation.
    ///
    /// # Errors
    /// The region is too small.
    ///
    /// # Safety
    /// As for [`add_region`](Self::add_region).
    pub unsafe fn init(
        &self,
        start: *mut u8,
        len: usize,
        secret: [u8; 16],
        hooks: Hooks,
    ) -> Result<(), RegionError> {
        self.state.with(|state| state.configure(secret, hooks));
        // SAFETY: the caller's contract.
        unsafe { self.add_region(start, len) }
    }

    /// Gives the heap `len` more bytes at `start`. About 1.6 % of them hold the bookkeeping.
    ///
    /// # Errors
    /// The region is too small, or there are too many.
    ///
    /// # Safety
    /// The memory must be readable, writable and all zeros, and belong to the heap for ever.
    pub unsafe fn add_region(&self, start: *mut u8, len: usize) -> Result<(), RegionError> {
        let start = NonNull::new(start).ok_or(RegionError::TooSmall)?;
        self.state.with(|state| {
            if state.regions.is_full() {
                return Err(RegionError::TooMany);
            }
            // SAFETY: the caller's contract.
            let added = unsafe { state.regions.add(start, len) };
            let (first, pages) = added.ok_or(RegionError::TooSmall)?;
            state.add_pages(first, pages);
            Ok(())
        })
    }

    /// The counters as they are now.
    pub fn statistics(&self) -> Statistics {
        self.state.with(|state| state.statistics())
    }

    /// Bytes in pages that hold nothing: [`Statistics::free`] without the rest.
    #[inline]
    pub fn free_bytes(&self) -> usize {
        self.state.with(|state| state.free_bytes())
    }

    /// Gives everything that is free back to the host: empty slabs and free runs of 64 KiB or more.
    /// For a guest that goes idle or is about to be saved.
    pub fn release_free(&self) {
        self.state.with(State::release_free);
    }

    /// Whether someone is inside the heap. A scheduler should not preempt then, and a trap handler
    /// that finds this `true` must not allocate.
    pub fn is_busy(&self) -> bool {
        self.state.is_held()
    }

    /// Reports corruption. The lock is open again, so that the hook may allocate.
    #[cold]
    fn corrupted(&self, error: HeapError) -> ! {
        let hook = self.state.with(|state| state.hooks().corrupted);
        hook(error)
    }
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

/// The pointer for an object, or null.
#[inline]
fn pointer(state: &State, object: Option<Object>) -> *mut u8 {
    object.map_or(ptr::null_mut(), |object| {
        state.regions.object(object.page, object.address)
    })
}

// SAFETY: the state gives out ranges inside its regions that are large and aligned enough and
// overlap no other live object, and never unwinds.
unsafe impl GlobalAlloc for Heap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.state.with(|state| {
            let object = state.allocate(layout.size(), layout.align(), false);
            pointer(state, object)
        })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.state.with(|state| {
            let object = state.allocate(layout.size(), layout.align(), true);
            pointer(state, object)
        })
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        let freed = self
            .state
            .with(|state| state.free(ptr.addr(), layout.size(), layout.align()));
        if let Err(error) = freed {
            self.corrupted(error);
        }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let resized = self.state.with(|state| {
            state
                .resize(ptr.addr(), layout.size(), layout.align(), new_size)
                .map(|object| pointer(state, object))
        });
        match resized {
            Ok(pointer) => pointer,
            Err(error) => self.corrupted(error),
        }
    }
}
