//! The lock around the heap's state.
//!
//! Held for tens of nanoseconds, except while large objects are zeroed or copied. A guest with one
//! processor never waits here unless it is preempted inside the heap, so its scheduler should
//! not switch threads while [`Lock::is_held`] (or must let the holder run on: waiters only spin).

use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};

/// A value that one caller at a time can reach.
pub struct Lock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the lock hands the value to one thread at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

/// Opens the lock again, also when the holder unwinds.
struct Held<'a>(&'a AtomicBool);

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<T> Lock<T> {
    /// An open lock around `value`.
    pub const fn new(value: T) -> Self {
        Self {
            held: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Runs `work` on the value, waiting for its turn. `work` must not come back here.
    #[inline]
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        while self.held.swap(true, Ordering::Acquire) {
            spin_loop();
        }
        let _held = Held(&self.held);
        // SAFETY: `held` was open and is ours until the guard is dropped.
        work(unsafe { &mut *self.value.get() })
    }

    /// Whether someone is inside.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }
}
