//! The hardened heap of Kiln guests: what stands behind a guest's `#[global_allocator]`.
//!
//! [`Heap`] manages regions of memory given by the platform. Small objects live in slabs of equal
//! slots, large ones in runs of whole pages. All bookkeeping lies at the start of each region, in
//! one descriptor per page, and never beside user bytes, so that an overflow cannot reach it.
//!
//! What is always detected, and reported to [`Hooks::corrupted`] as a [`HeapError`]:
//!
//! - freeing twice, freeing what was never allocated, freeing the middle of an object: an occupancy
//!   bit per slot and a kind per page tell;
//! - freeing with a size of another class: the page knows its class;
//! - writing past the end: eight bytes derived from a secret and the address follow the requested
//!   size and are checked when the object is freed or resized.
//!
//! What is not: reads past the end, and use after free. Neighbours are made hard to predict
//! instead: a slab hands its slots out from random positions.
//!
//! The crate knows no platform. The host's tests run it over ordinary memory. All `unsafe` is in
//! [`border`]; the logic above it works with addresses as numbers.

#![no_std]
#![deny(unsafe_code)]

mod border;
mod class;
mod error;
mod page;
mod runs;
mod secret;
mod slabs;
mod state;
mod statistics;

pub use border::{Heap, MAX_REGIONS, RegionError};
pub use error::HeapError;
pub use state::Hooks;
pub use statistics::Statistics;
