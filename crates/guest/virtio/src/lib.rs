//! Drivers for virtio 1.x devices, for the bottom of a guest: no heap, no threads, no panics.
//!
//! Whoever calls them (`kiln-machine`) finds the devices, maps their registers, hands in all memory and performs the
//! guest's operations with them:
//!
//! 1. [`Mmio::open`] or [`Pci::open`] gives a [`Transport`]; [`Transport::device_type`] says what it is.
//! 2. A driver's `new` takes the transport and [`Region`]s of memory, negotiates and starts the device.
//! 3. The driver's methods do the work. What has to wait (disks, console, random numbers, the balloon) waits in
//!    [`Platform::wait`]; links never wait: [`Net::listen`] says whether there is something to do and else asks for
//!    an interrupt.
//!
//! | module | what |
//! | --- | --- |
//! | [`transport`] | the two ways to a device's registers, as one type |
//! | [`mmio`], [`pci`] | virtio over MMIO (version 2) and over PCI (modern) |
//! | [`queue`] | split virtqueues with indirect descriptors and event index |
//! | [`net`], [`block`], [`console`], [`entropy`], [`balloon`] | the drivers |
//! | [`memory`], [`registers`] | the border: memory shared with devices, device registers |
//!
//! Nothing a device writes is trusted: indices, identifiers and lengths are checked against what the driver itself has
//! noted. A queue whose device breaks the rules is dead from then on, and its operations fail with
//! [`OpError::Io`](kiln_abi::OpError::Io).
//!
//! Section numbers are those of the OASIS specification "Virtual I/O Device (VIRTIO) Version 1.2".
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod balloon;
pub mod block;
pub mod console;
pub mod entropy;
pub mod memory;
pub mod mmio;
pub mod net;
pub mod pci;
pub mod queue;
pub mod registers;
pub mod transport;

#[cfg(test)]
#[allow(unsafe_code, reason = "the software on the other side of the border")]
mod tests;

pub use balloon::Balloon;
pub use block::Block;
pub use console::Console;
pub use entropy::Entropy;
pub use memory::{Buffers, Platform, Region};
pub use mmio::Mmio;
pub use net::Net;
pub use pci::Pci;
pub use registers::Registers;
pub use transport::{DeviceType, Transport};

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no virtio device here.
    NoDevice,
    /// The device speaks only the draft protocol from before virtio 1.0.
    Legacy,
    /// The device is of another type than the driver.
    WrongType,
    /// The device does not come back from a reset.
    Stuck,
    /// The device refuses the features that the driver chose.
    Features,
    /// A virtqueue that the device must have is missing.
    NoQueue,
    /// The memory handed in is too small or not aligned.
    Memory,
    /// PCI: a structure of the device is missing, or lies where it cannot be reached.
    Capability,
}

impl Error {
    /// The error in words, to follow the device's name.
    pub const fn message(self) -> &'static str {
        match self {
            Self::NoDevice => "is not there",
            Self::Legacy => "speaks only the draft protocol from before virtio 1.0",
            Self::WrongType => "is of another type",
            Self::Stuck => "does not come back from a reset",
            Self::Features => "refuses the features chosen",
            Self::NoQueue => "lacks a queue",
            Self::Memory => "got too little memory",
            Self::Capability => "lacks a PCI structure, or it cannot be reached",
        }
    }
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.message())
    }
}

impl core::error::Error for Error {}
