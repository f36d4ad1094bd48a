//! The lock around the library OS's own state.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// A value behind a lock that is held for the length of a closure.
///
/// With one virtual CPU the lock is never contended; taking it twice is a mistake in the library OS and panics.
#[derive(Debug)]
pub struct Lock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `with` hands the value to one caller at a time.
unsafe impl<T> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self {
            held: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Runs `work` on the value.
    ///
    /// # Panics
    /// If the lock is held already.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        self.try_with(work).expect("lock taken twice")
    }

    /// Runs `work` on the value, unless the lock is held already.
    pub fn try_with<R>(&self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        struct Release<'a>(&'a AtomicBool);
        impl Drop for Release<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Release);
            }
        }
        if self.held.swap(true, Ordering::Acquire) {
            return None;
        }
        let _release = Release(&self.held);
        // SAFETY: the flag was clear and is set now, so nobody else has the value.
        Some(work(unsafe { &mut *self.value.get() }))
    }
}
