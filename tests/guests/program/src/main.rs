//! The guest of the tests of what Linux programs need: the user range, the program's system calls, the console's input.
//!
//! The first argument names a case. There is no library OS here and no program: the cases do by hand what those would, with a few
//! bytes of machine code in the user range. Whatever is not as it should be is a failed assertion.
#![cfg_attr(kiln_guest, no_std, no_main)]
#![allow(missing_docs, reason = "a program, not a library")]

extern crate alloc;

#[cfg(kiln_guest)]
mod calls;
#[cfg(kiln_guest)]
mod console;
#[cfg(kiln_guest)]
mod memory;
#[cfg(kiln_guest)]
mod start;

#[cfg(not(kiln_guest))]
fn main() {}
