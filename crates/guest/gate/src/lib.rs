//! The sealed code between a guest and the host kernel, on the `process` and `kvm` backends.
//!
//! A guest of this backend is a Linux process that can make about a dozen system calls, and can make them from this
//! code only: the seccomp filter looks at the instruction pointer and the arguments. The monitor builds this crate as
//! a position-independent blob of a few KiB (`gate.ld`), copies it into the guest's process at a random address,
//! fills in its [`State`], and jumps to its start. From there on nothing of the monitor is left in that process: the
//! start code unmaps everything that the state does not list.
//!
//! What it does, all on the guest's own stack, the signal stack or, for a guest in a virtual machine, a stack of its own, without heap, thread-local storage or relocations:
//! - [`seal`]: the last steps before the guest runs;
//! - [`enter`]: the guest's call ([`kiln_abi::call`]), with [`devices`] and [`memory`] behind it;
//! - [`trap`]: host signals become trap frames of the guest ([`kiln_abi::trap`]);
//! - [`calls`]: a program's system calls on their way to the library OS;
//! - [`user`]: the memory and the console of guests that run a program ([`kiln_abi::user`]);
//! - [`vcpu`]: the same for a guest in a virtual machine, with its page tables in [`paging`] and its program's memory in [`pages`];
//! - [`traffic`]: what goes over the links, counted and, while somebody captures, copied;
//! - [`report`]: what the supervisor is left to read when the guest has ended.
//!
//! On the `process` backend it is one trust domain with the guest: a guest that breaks its own memory safety can jump in here. The host's
//! safety rests on the filter alone, never on a check made in this crate.
#![no_std]

pub mod calls;
pub mod devices;
pub mod enter;
pub mod memory;
pub mod pages;
pub mod paging;
pub mod report;
pub mod seal;
pub mod state;
pub mod sys;
pub mod traffic;
pub mod trap;
pub mod user;
pub mod vcpu;

pub use report::Report;
pub use state::State;
