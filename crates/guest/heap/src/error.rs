//! What can be found wrong when an object comes back.

use core::fmt;

/// Corruption found by the heap. Carries the address that was freed or resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeapError {
    /// The address lies in no region of the heap.
    NotHeapMemory {
        /// The address given.
        address: usize,
    },
    /// The address lies in the heap, but no object starts there: it was never allocated, or it was
    /// part of a large object.
    NotAllocated {
        /// The address given.
        address: usize,
    },
    /// The object was freed before.
    FreedTwice {
        /// The address given.
        address: usize,
    },
    /// The address points into an object instead of at its start.
    InsideObject {
        /// The address given.
        address: usize,
        /// Where the object starts.
        object: usize,
    },
    /// The size given is not the one the object was allocated with.
    WrongSize {
        /// The address given.
        address: usize,
        /// The size given, in bytes.
        size: usize,
        /// The bytes that the object really occupies, with its guard word.
        occupied: usize,
    },
    /// The guard word behind the object is gone.
    Overflow {
        /// The address given.
        address: usize,
        /// The size of the object in bytes.
        size: usize,
    },
}

impl fmt::Display for HeapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotHeapMemory { address } => {
                write!(
                    f,
                    "heap corruption: {address:#x} was freed but is not heap memory"
                )
            }
            Self::NotAllocated { address } => write!(
                f,
                "heap corruption: {address:#x} was freed but no object starts there \
                 (never allocated, or freed before)"
            ),
            Self::FreedTwice { address } => {
                write!(
                    f,
                    "heap corruption: the object at {address:#x} was freed twice"
                )
            }
            Self::InsideObject { address, object } => write!(
                f,
                "heap corruption: {address:#x} was freed but points {} bytes into the object at \
                 {object:#x}",
                address - object
            ),
            Self::WrongSize {
                address,
                size,
                occupied,
            } => write!(
                f,
                "heap corruption: the object at {address:#x} was freed as {size} bytes but \
                 occupies {occupied}"
            ),
            Self::Overflow { address, size } => write!(
                f,
                "heap corruption: the program wrote past the end of the {size}-byte object at \
                 {address:#x} (or freed it with a wrong size)"
            ),
        }
    }
}

impl core::error::Error for HeapError {}
