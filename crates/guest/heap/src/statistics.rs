//! Figures about a heap.

/// A snapshot of a heap's counters. Sizes are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Requested by the program and not yet freed.
    pub in_use: usize,
    /// The highest `in_use` so far.
    pub peak: usize,
    /// Of the pages for objects: what may have been written since the host last gave it as zeros.
    pub committed: usize,
    /// Of the pages for objects: all there are.
    pub capacity: usize,
    /// Of the pages for objects: those that hold nothing. Free slots of slabs are not among them, so somewhat more can be had.
    pub free: usize,
    /// Successful allocations so far. A resize that moves counts as one and a free.
    pub allocations: u64,
    /// Frees so far.
    pub frees: u64,
    /// Requests that could not be met.
    pub failures: u64,
    /// Given back to the host so far.
    pub released: u64,
}
