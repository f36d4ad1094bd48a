//! A durable key-value store: everything but sockets and the disk's driver.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`storage`] | what the store needs of a disk |
//! | [`format`](mod@format) | what lies on the disk: superblocks, frames, operations |
//! | [`map`] | what lies in memory: all keys and values |
//! | [`recovery`] | opening a disk: formatting it, or finding what was acknowledged |
//! | [`writer`] | committing operations, compaction |
//! | [`resp`] | the protocol: commands in, replies out |
//! | [`command`] | which commands there are |
//! | [`crc`] | CRC-32C |
//!
//! # How the log works
//!
//! The disk holds two halves behind two superblocks. One half is active: it starts with a snapshot of all keys, behind
//! which each commit appends one frame that holds the operations of every client that waited for it. A frame begins at
//! a sector and is checksummed as a whole, so after a crash it is there or it is not, and sectors that hold acknowledged
//! data are never written again. When the half is full a snapshot goes to the other half; once that is on stable storage
//! a superblock makes the other half the active one.
//!
//! What makes a frame count, besides its checksum: the *store*, a random number from when the disk was formatted, the
//! *generation*, one more with each snapshot, and its *number*, which leaves no gap. Two rules keep what was never
//! acknowledged from coming back: a frame is written only when the one before is on stable storage, and the first of a
//! generation only when its superblock is. So whatever a crash or a failed write leaves behind lies at the tail, where the
//! next frame overwrites its beginning.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod command;
pub mod crc;
pub mod format;
pub mod map;
pub mod recovery;
pub mod resp;
pub mod storage;
pub mod writer;

#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;
