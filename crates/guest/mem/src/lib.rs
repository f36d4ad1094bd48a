//! `memcpy`, `memmove`, `memset`, `memcmp`, `bcmp` and `strlen` for Kiln guests.
//!
//! The compiler turns moves of large values, slice copies and comparisons into calls of these
//! routines, and a guest has no C library to supply them. Under `cfg(kiln_guest)` the functions
//! here carry the C names; in an ordinary build they do not, so that the very same code runs beside
//! the C library in tests and benchmarks as [`copy`], [`fill`], [`compare`] and [`length`].
//!
//! What holds for all of them:
//!
//! - They need no initialisation, no relocation, no stack beyond a few words and no thread-local
//!   storage. Start code and trap handlers may call them.
//! - Up to 64 bytes ([`length`]: 31) they touch only `xmm` registers; longer ranges may use `ymm`
//!   registers (and clear their upper halves). A trap handler that moves more than that must have saved the extended
//!   state (`XSAVE`) of the code that it interrupted, or the guest must have ruled `ymm` registers
//!   out at its start with [`set_features`].
//! - They never write outside the given range. [`compare`] and [`length`] may read around it, but
//!   only on pages that it touches.
//! - No loop here may be recognised by the compiler as a `memcpy` of its own, which would call
//!   itself without end. [`vector::opaque`] sees to that.
//!
//! Sizes up to 128 bytes are handled by a few loads and stores that overlap in the middle, so that
//! one branch serves a whole range of sizes. Middle sizes take unrolled loops, 16 bytes a step at
//! first and 32 once the processor is known to have AVX2 ([`cpu`]). Large ones use the string
//! instructions where those are fast.

#![no_std]
// Reason: the routines are chains of small pieces that must become one body; a call between them,
// even in a debug build, would cost more than the work.
#![allow(clippy::inline_always)]
// Reason: `a`, `b` and `n` are the names these functions have had since the C standard.
#![allow(clippy::many_single_char_names)]

mod compare;
mod copy;
mod cpu;
mod fill;
mod length;
#[cfg(kiln_guest)]
mod symbols;
mod vector;

pub use compare::compare;
pub use copy::copy;
pub use cpu::{Features, set_features};
pub use fill::fill;
pub use length::length;
