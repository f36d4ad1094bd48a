//! Copies of the frames on an instance's links, for `kiln capture`.
//!
//! ```text
//!   rootless network   (this process)       ─┐
//!   other links        gate ── ring ── poll ─┴─ hub ── queue ── control socket ── kiln capture ── pcapng
//! ```
//!
//! Frames are taken where the monitor moves them, so the guest needs to know nothing of it. Those of the rootless network
//! pass this process; those of other links pass the gate, which copies them to a ring of shared memory
//! ([`ring`](crate::backends::process::ring)). The [`hub`] hands them to everybody who captures, each with a bounded queue:
//! what does not fit is dropped and counted, nobody waits. While nobody captures none of this is there.
//!
//! | module | its part |
//! | --- | --- |
//! | [`hub`] | the supervisor's side: who captures what |
//! | [`stream`] | what goes over the control socket |
//! | [`pcapng`] | the file format |

pub mod hub;
pub mod pcapng;
pub mod stream;

use serde::{Deserialize, Serialize};

/// A network link of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its number.
    pub device: u32,
    /// Its name in the image.
    pub name: String,
    /// What it is on the host: `user`, `tap:tap0`.
    pub kind: String,
    /// The guest's Ethernet address.
    pub mac: [u8; 6],
}

/// Which way a frame went, seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// Into the guest.
    In = 1,
    /// Out of the guest.
    Out = 2,
}

impl Direction {
    /// The direction with this number.
    pub fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::In),
            2 => Some(Self::Out),
            _ => None,
        }
    }
}

/// One frame, or the first part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The link's number.
    pub device: u32,
    /// Which way it went.
    pub direction: Direction,
    /// Nanoseconds since 1970-01-01 UTC.
    pub time: u64,
    /// Its whole length in bytes. With offloads that is up to 64 KiB, and checksums are not complete.
    pub len: u32,
    /// Its first bytes.
    pub bytes: &'a [u8],
}

/// What a backend that copies frames hands out.
#[derive(Clone, Copy, Debug)]
pub enum Copied<'a> {
    /// A frame.
    Frame(Frame<'a>),
    /// Frames of a link for which there was no room.
    Lost {
        /// The link's number.
        device: u32,
        /// How many.
        frames: u32,
    },
}
