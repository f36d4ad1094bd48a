//! File system formats of Kiln.
//!
//! The root file system of a Linux program is an EROFS image, appended to the personality's own image and mapped by the
//! monitor; [`erofs::Image`] reads it where it lies.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod erofs;
