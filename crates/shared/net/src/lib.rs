//! skeleton
#![no_std]
#![forbid(unsafe_code)]
#![allow(dead_code, unused, missing_docs)]

extern crate alloc;

#[cfg(test)]
extern crate std;

pub mod config;
pub mod error;
mod ip;
mod queue;
mod random;
pub mod stats;
pub mod tcp;
mod wait;

pub use error::Error;
