//! TCP: the protocol, without sockets, links or clocks.
//!
//! A [`Tcb`] is one connection from its first SYN to its end. Everything that can happen to it is a method: a segment
//! arrives ([`Tcb::receive`]), time passes ([`Tcb::advance`]), the program writes, reads, closes or aborts. What the
//! connection wants said is asked for, one segment after the other ([`Tcb::transmit`]), when there is room on the link,
//! so nothing is queued here but data. The time always comes in as an argument; randomness comes in once, as the
//! initial sequence number and the timestamp offset.
//!
//! Whoever owns connections (the stack of a guest, the address translation of a host) finds the one that a segment
//! belongs to, keeps a timer for [`Tcb::deadline`], and answers segments of no connection with [`reset_for`].
//!
//! | RFC 9293 | where |
//! | --- | --- |
//! | 3.4 sequence numbers | [`Seq`] |
//! | 3.1, 3.2 header and options | [`segment`] |
//! | 3.5 establishing a connection, 3.10.7.1 to 3.10.7.3 | `handshake` |
//! | 3.5.2 reset generation | [`reset_for`] |
//! | 3.6 closing | `tcb`, `input` |
//! | 3.10.7.4 segment arrives, other states | `input`, in the order of its steps |
//! | 3.8.1 retransmission timeout (RFC 6298) | [`rtt`], `timers` |
//! | 3.8.2 congestion control (RFC 5681, 9438, 9406) | [`congestion`] |
//! | 3.8.4 keep-alives, 3.8.3 user timeout, 3.8.6.1 zero-window probes | `timers` |
//! | 3.8.6.2 silly window avoidance, sender and Nagle (3.7.4) | `output` |
//! | 3.8.6.2.2 silly window avoidance, receiver | `window` |
//! | RFC 2018, 2883, 6675 SACK; RFC 8985 RACK-TLP | `scoreboard`, `recovery` |
//! | RFC 7323 timestamps and PAWS, 5961 blind attacks | `input` |
//! | RFC 8899, 1191, 8201 path MTU | `pmtu` |
//! | RFC 3168 ECN | `input`, `output` |
//! | 3.6.1 TIME-WAIT, RFC 1337, 6191 | [`time_wait`] |
//! | RFC 4987 SYN cookies | [`cookie`] |

pub mod congestion;
pub mod cookie;
mod handshake;
mod info;
mod input;
mod marks;
mod output;
mod pmtu;
pub mod receive;
pub mod recovery;
pub mod rtt;
pub mod segment;
pub mod send;
mod seq;
mod settings;
mod tcb;
#[cfg(test)]
mod tests;
pub mod time_wait;
mod timers;
mod window;

/// What allocators keep with each piece of memory, in bytes: with it, chunks fill the allocator's own sizes.
const KEPT_WITH_MEMORY: usize = 8;

/// A size for a chunk of data that holds at least `bytes`.
const fn chunk_size(bytes: usize) -> usize {
    (bytes + KEPT_WITH_MEMORY).next_multiple_of(512) - KEPT_WITH_MEMORY
}

pub use handshake::synack_for_cookie;
pub(crate) use info::Counters;
pub use info::{Changed, Info, State};
pub use segment::{Block, Ecn, Flags, Options, Outgoing, SackBlocks, Segment, Timestamps};
pub(crate) use send::SMALLEST_CHUNK;
pub use seq::Seq;
pub use settings::{KeepAlive, Settings};
pub use tcb::{Payload, Tcb, reset_for};
