//! Sockets without futures: for a layer that has its own way to sleep.
//!
//! A personality of another system does not run tasks: its calls either find what they want at once or put a thread to sleep in a
//! way of its own. For it every operation here ends at once, and says so if there is nothing to do ([`None`]). What has
//! become possible meanwhile is told to a [`Watch`], registered once for the life of a socket.
//!
//! Bytes are copied once: between the stack's buffers and a place that only the caller can reach, by a function that he hands
//! in. That function, and a [`Watch`], are called while the stack is at work and must not use it.
//!
//! | type | what it is |
//! | --- | --- |
//! | [`Binding`] | an address that a TCP socket holds, bound or listening |
//! | [`Stream`] | a TCP connection |
//! | [`Datagrams`] | a UDP socket |
//! | [`Pings`] | echo requests |
//! | [`LinkState`] | a link, to be shown |
//!
//! What is behind them is the same as behind the asynchronous sockets: connections, listeners, the table of UDP sockets.

mod links;
mod ping;
mod tcp;
mod udp;

pub use links::{LinkState, RouteState};
pub use ping::Pings;
pub(crate) use tcp::has_room;
pub use tcp::{BindOptions, Binding, Stream};
pub use udp::{Datagrams, Received, SendOptions};

use core::ops::BitOr;

use kiln_abi::Instant;

use crate::stack::Stack;
use crate::tcp::Changed;

/// What a socket is ready for, or may have become ready for. A set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready(pub u8);

impl Ready {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// There is something to read or to accept, or the end of what the peer sends, or an error.
    pub const READ: Self = Self(1);
    /// There is room to write, or a connection attempt has ended, or an error.
    pub const WRITE: Self = Self(2);
    /// The peer will send no more.
    pub const PEER_CLOSED: Self = Self(4);
    /// Both directions are closed.
    pub const CLOSED: Self = Self(8);
    /// An error waits to be told.
    pub const ERROR: Self = Self(16);

    /// True if any bit of `other` is set.
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// What a change of a connection may have made possible. Room to write is not among it: see `Connection::starved`.
    pub(crate) fn of_change(changed: Changed) -> Self {
        let mut ready = Self::NONE;
        if changed.any(Changed::READABLE) {
            ready = ready | Self::READ;
        }
        if changed.any(Changed::CONNECTED) {
            ready = ready | Self::WRITE;
        }
        if changed.any(Changed::TIME_WAIT) {
            ready = ready | Self::READ | Self::PEER_CLOSED | Self::CLOSED;
        }
        if changed.any(Changed::CLOSED) {
            ready = ready | Self::READ | Self::WRITE | Self::CLOSED | Self::ERROR;
        }
        ready
    }
}

impl BitOr for Ready {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Who is told when a socket may have become ready for something.
pub trait Watch {
    /// Called while the stack is at work: must not use it.
    fn changed(&self, ready: Ready);
}

impl Stack {
    /// Sets the stack's clock and lets local traffic arrive at once, as programs expect it of the loopback link: what one
    /// socket has sent the other can read.
    pub fn settle_local(&self, now: Instant) {
        self.poll(now);
    }
}
