//! Messages of 9P2000.L: how a guest asks for a folder of its host.
//!
//! The protocol is that of `diod` and of Linux' own client (`Documentation/filesystems/9p.rst`, and `protocol.md` of diod for the
//! Linux dialect). Both sides use this crate: the guest encodes a [`Request`] and decodes a [`Reply`], the server the other way
//! round. No byte of a message is trusted by either: decoding looks at lengths only, refuses what is too short or too long, and
//! leaves it to the caller what names and numbers mean. Nothing is allocated; texts and data are borrowed from the message.
//!
//! # Packets
//!
//! What is ours and not the protocol's: one packet may hold several messages, one behind the other ([`messages`](message::messages)). They are
//! performed in their order, each whatever became of those before it, and answered in one packet in the same order; they share a tag. So a
//! client asks in one go for what it would otherwise ask for one by one: the file with a name, what that is like, and to open it. A
//! [`Request::Clunk`] with [`NO_TAG`] is not answered.
//!
//! | module | what it defines |
//! | --- | --- |
//! | [`wire`] | integers, texts and records as bytes |
//! | [`message`] | requests and replies |
//! | [`directory`] | the entries in the data of a reply to [`Request::Readdir`] |
#![no_std]
#![forbid(unsafe_code)]

pub mod directory;
pub mod message;
pub mod wire;

pub use message::{Attributes, Malformed, Reply, Request};
pub use wire::{Data, Names, Qid, Qids, Statistics, Text};

/// The dialect, as both sides name it in [`Request::Version`].
pub const VERSION: &[u8] = b"9P2000.L";

/// Bytes before a message's own fields: size, type, tag.
pub const HEADER: usize = 7;

/// Bytes of a reply to [`Request::Read`] and [`Request::Readdir`] before the data.
pub const READ_HEADER: usize = HEADER + 4;

/// Bytes of a [`Request::Write`] before the data.
pub const WRITE_HEADER: usize = HEADER + 4 + 8 + 4;

/// The most names of one [`Request::Walk`].
pub const MAX_WALK: usize = 16;

/// The fid that is none: [`Request::Attach`] without authentication.
pub const NO_FID: u32 = u32::MAX;

/// The tag of [`Request::Version`], and of a [`Request::Clunk`] that is not to be answered.
pub const NO_TAG: u16 = u16::MAX;

/// The user that is none.
pub const NO_USER: u32 = u32::MAX;

/// In [`Request::Fsync`]: not one file, but everything of its file system.
pub const WHOLE: u32 = 2;

/// In [`Request::Write`], as the offset: behind whatever is the end of the file when the data is written, as `O_APPEND` does it. No file
/// has an offset like that, so it is free; a server that does not know it answers `EINVAL`.
pub const APPEND: u64 = u64::MAX;

/// Bits of [`Attributes::valid`] and [`Request::GetAttr`]: everything that `stat` tells.
pub const GETATTR_BASIC: u64 = 0x7ff;

/// Bits of [`Request::SetAttr`].
#[allow(missing_docs, reason = "each is the field it makes valid")]
pub mod set {
    pub const MODE: u32 = 1;
    pub const UID: u32 = 2;
    pub const GID: u32 = 4;
    pub const SIZE: u32 = 8;
    /// To the present time, unless [`ATIME_SET`] is there too.
    pub const ATIME: u32 = 0x10;
    /// Likewise.
    pub const MTIME: u32 = 0x20;
    pub const CTIME: u32 = 0x40;
    /// To the time that is told.
    pub const ATIME_SET: u32 = 0x80;
    pub const MTIME_SET: u32 = 0x100;
}

/// Answers to [`Request::Lock`].
#[allow(missing_docs, reason = "the names are the protocol's")]
pub mod lock {
    pub const SUCCESS: u8 = 0;
    pub const BLOCKED: u8 = 1;
    pub const ERROR: u8 = 2;
    pub const GRACE: u8 = 3;
    /// A bit of [`Request::Lock`](crate::Request::Lock)'s flags that the protocol does not have: a lock of `flock(2)`, which is on the whole
    /// file and has nothing to do with those on ranges.
    pub const WHOLE: u32 = 1 << 31;
}
