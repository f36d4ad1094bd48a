//! The border: the only module with `unsafe` code.
//!
//! Below it is raw memory, above it numbers. Three things cross: a region's memory becomes its page
//! descriptors, its bitmap of dirty pages and a base address ([`region`]); threads reach the state
//! one at a time ([`lock`]); and `GlobalAlloc` turns layouts and pointers into sizes and addresses
//! ([`global`]).
//!
//! The invariant that all of it rests on: the bytes of a region belong to the heap from
//! [`Heap::init`] or [`Heap::add_region`] on, for good, and the part behind the bookkeeping is
//! touched by the heap only where no live object lies, plus the guard word that each object has.

#![allow(unsafe_code)]

mod global;
mod lock;
mod region;

pub use global::{Heap, RegionError};
pub use lock::Lock;
pub use region::{MAX_REGIONS, Regions};
