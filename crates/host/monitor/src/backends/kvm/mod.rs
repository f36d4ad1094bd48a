//! The `kvm` backend: a guest as a virtual machine.
//!
//! It is the [`process`] backend with one difference: what the sealed process runs in itself there, it
//! runs on a virtual CPU here. The same child maps the same memory at the same addresses, gives up the same privileges,
//! unmaps the monitor and installs the same seccomp filter with one call more; the same [gate](kiln_gate) performs the
//! guest's calls. So the monitor of a virtual machine is the gate: some ten KiB of code without heap, in a process that
//! can reach nothing but its devices and its virtual CPU. The guest, in turn, cannot reach the gate.
//!
//! All guest code runs in ring 3 ([decision 0009](../../../../../docs/decisions/0009-ring-three.md)): natively on every
//! kind of KVM, on hardware as well as on hosts whose KVM works by page tables and emulates ring 0. Page tables and
//! descriptor tables lie on supervisor pages, next to a ring-0 stub of six instructions that flushes the TLB.
//!
//! | module | its part |
//! | --- | --- |
//! | [`host`] | what this host's KVM can do |
//! | [`layout`] | physical addresses of the guest, and which of them the machine itself takes |
//! | [`stub`] | the machine's own pages in the guest: descriptor tables, entry points of exceptions, the ring-0 stub |
//! | [`processor`] | what the guest's processor says of itself |
//! | [`machine`] | making the virtual machine and its CPU's first state |

pub mod host;
pub mod layout;
pub mod machine;
pub mod processor;
pub mod stub;

use crate::backend::Launch;
use crate::backends::process;
use crate::backends::process::guest::ProcessGuest;

pub use host::Error;

/// Starts a guest in a virtual machine. As [`process::start`].
///
/// # Errors
/// [`process::Error`], among them [`Error`] if this host cannot run virtual machines; nothing is left behind then.
pub fn start(launch: Launch) -> Result<ProcessGuest, process::Error> {
    let kvm = host::open(launch.memory)?;
    process::start_in(launch, Some(kvm))
}
