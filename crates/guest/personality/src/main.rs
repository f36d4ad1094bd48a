//! The image of the Linux personality.
//!
//! It is built once and comes with `kiln`; `kiln build PROGRAM` appends a root file system to it. Its arguments are options of its own, then
//! `--`, then the program and what that is given ([`options`]). Everything starts here in one order:
//!
//! 1. the library OS below (`kiln-rt`): memory, clocks, random numbers;
//! 2. the kernel, with traps and system calls in its hands;
//! 3. the network, if the instance has a link;
//! 4. file systems, and the console as descriptors 0, 1 and 2;
//! 5. the program, as the first thread of process 1.
//!
//! When that process ends the machine ends, with its exit code or 128 plus the signal's number.
#![cfg_attr(kiln_guest, no_std, no_main)]

extern crate alloc;

mod options;
#[cfg(kiln_guest)]
mod start;

#[cfg(not(kiln_guest))]
fn main() {
    let _ = options::Options::parse([].into_iter());
}
