//! What an image needs where it is a virtual machine of its own, with no Kiln monitor below it.
//!
//! `docs/machine.md` is the specification. Every image carries this crate as a flat blob (`machine.ld`, `blob.rs`), which
//! QEMU, Firecracker, Cloud Hypervisor or a boot loader enter in 32-bit protected mode. It is to such a machine what the
//! gate is to a sandboxed process, and lives under the same rules: no heap, no initialised data, no path that panics.
//!
//! From the first instruction to the guest's:
//! - `entry.rs` (assembly, part of the blob only): into ring 3 of long mode; the ring-0 stub; the gates of interrupts;
//! - [`start`]: the order of everything else, with [`firmware`], [`acpi`], [`cmdline`], [`image`] to read what there is,
//!   [`buses`] and [`attach`] to find devices, [`world`], [`place`], [`paging`] and [`record`] to make the guest's world,
//!   [`clean`] to keep the promise of zeroes.
//!
//! Afterwards:
//! - [`enter`]: the guest's call, with [`devices`] and [`memory`] behind it and [`wait`] to wait;
//! - [`trap`]: exceptions and ticks become trap frames of the guest;
//! - [`end`], [`report`], [`power`]: how the machine ends.
//!
//! Like the gate it is one trust domain with the guest, in ring 3 and on the same page tables: what contains the
//! guest is the virtual machine.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod acpi;
#[cfg(feature = "virtio")]
pub mod attach;
#[cfg(feature = "virtio")]
pub mod buses;
pub mod clean;
pub mod clock;
pub mod cmdline;
pub mod console;
pub mod cpu;
pub mod devices;
pub mod end;
pub mod enter;
pub mod entropy;
pub mod firmware;
pub mod image;
#[cfg(feature = "program")]
pub mod input;
pub mod interrupts;
pub mod memory;
#[cfg(feature = "program")]
pub mod pager;
pub mod paging;
pub mod physical;
pub mod place;
pub mod power;
#[cfg(feature = "program")]
pub mod program;
pub mod reach;
pub mod record;
pub mod report;
pub mod start;
pub mod state;
pub mod trap;
pub mod wait;
pub mod windows;
pub mod world;
