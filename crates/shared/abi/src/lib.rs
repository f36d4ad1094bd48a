//! The contract between a Kiln guest and its monitor.
//!
//! A guest is one ELF image. It finds out where it runs from one read-only record ([`BootInfo`]) and reaches the
//! world outside through one call ([`Call`]): *perform these operations in order; then, if I ask for it, wait until
//! a device is ready or a deadline passes; then tell me the time*. Everything nondeterministic enters a guest
//! through that call, and the monitor touches guest memory only while the guest waits in it.
//!
//! This crate is the whole contract as types, for both sides; `docs/abi.md` is the same contract as prose.
//!
//! | module | what it defines |
//! | --- | --- |
//! | [`boot`] | what the monitor tells the guest before its first instruction |
//! | [`call`] | the call itself: batch, deadline, what comes back |
//! | [`op`] | the operations of a batch, as a raw record and as a typed value |
//! | [`perform`] | the host's side: walking a batch of which no byte is trusted |
//! | [`net`] | the header before every network frame (checksum and segmentation offload) |
//! | [`metrics`] | counters that the monitor reads |
//! | [`exit`] | how a guest ends |
//! | [`trap`] | what the guest gets when its own code faults |
//! | [`user`] | what only guests need that run a Linux program |
//! | [`note`] | ELF notes of an image: ABI version, device manifest |
//! | [`time`] | instants on the monitor's monotonic clock |
//! | [`layout`] | the only `unsafe` here: records as bytes, with their sizes asserted |
//!
//! It is not a protocol over a wire: both sides run on the same machine, so all integers are in native
//! (little-endian) order. There is no allocation and no dependency.
#![no_std]
#![deny(unsafe_code)]

pub mod boot;
pub mod call;
pub mod exit;
pub mod layout;
pub mod metrics;
pub mod net;
pub mod note;
pub mod op;
pub mod perform;
pub mod time;
pub mod trap;
pub mod user;

pub use boot::{BootInfo, DeviceInfo, DeviceKind, MemoryRange};
pub use call::Call;
pub use exit::ExitReason;
pub use net::NetHeader;
pub use op::{Op, OpError, RawOp};
pub use time::Instant;

/// The version of this contract.
///
/// A monitor runs an image only if the image's [`note::AbiNote`] names the same version. There is no negotiation:
/// what can be extended without breaking older guests is guarded by bits in [`BootInfo::features`].
pub const VERSION: u32 = 2;

/// The size of a page in bytes. All memory ranges of the contract start and end on a multiple of it.
pub const PAGE_SIZE: u64 = 4096;

/// The greatest number of devices an instance can have. Bit 63 of a ready set belongs to the control channel.
pub const MAX_DEVICES: usize = 63;
