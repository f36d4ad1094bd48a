//! TCP/IP for servers: the network stack of Kiln guests, and the TCP of the host's address translation.
//!
//! A [`Stack`] turns Ethernet frames into sockets. It has two sides and nothing else: no threads, no clock, no
//! executor, no platform code, no `unsafe`.
//!
//! - **The driver's side.** Whoever owns a link attaches it ([`Stack::attach`]), hands in every frame that arrives
//!   ([`Link::receive`]), lets the protocols act ([`Stack::poll`]), takes all frames that are ready to leave in one batch
//!   ([`Link::transmit`]) and asks how long it may sleep ([`Stack::deadline`]). Time comes in as an argument.
//! - **The program's side.** [`TcpListener`], [`TcpStream`], [`UdpSocket`] and [`Stack::lookup`] are named and behave
//!   as in `std` and tokio. Their futures need nothing but the wakers of [`core::task`]; they run under any executor.
//!
//! # From a frame to a program and back
//!
//! ```text
//! Link::receive -> ip::Interface::receive   link and internet headers, neighbours, fragments, ICMP, DHCP, ...
//!               -> ingress                  checksum, the connection by a keyed hash of its ends
//!               -> tcp::Tcb::receive        the protocol; nothing is answered yet
//!               -> a task is woken, the connection is "ready"
//!    (the next frame of the batch; then the program's tasks read and write)
//! Stack::poll   -> egress                   each ready connection says what it has to say, a frame at a time
//!               -> queue                    headers are written, data stay in the connection's buffer
//! Link::transmit -> the driver              points the monitor, or the device, at headers and data
//! ```
//!
//! So a batch of segments is answered once, a request and its answer are copied once each, and a connection on which
//! nothing happens costs its memory and nothing else: no scan goes over all of them.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`tcp`] | the protocol TCP: pure, a connection at a time |
//! | `ip` | all that is between a link and the transports |
//! | `stack`, `link` | the handle, time, the driver's side |
//! | `ingress`, `egress`, `queue` | the way of frames, in and out |
//! | `connections`, `listen`, `ended` | every connection, who is let in, TIME-WAIT |
//! | `table`, `wheel` | finding a connection by its ends, and by time |
//! | `pressure` | what gives way when memory is short |
//! | `stream`, `listener`, `udp`, `dns`, `addresses` | the program's side |
//! | `ping` | echo requests of programs |
//! | [`direct`] | the same without futures, for a layer that sleeps in its own way |
//! | [`config`], [`error`], [`stats`] | set-up, the one error type, counters |
//! | `random`, `wait` | unpredictable numbers; wakers and timers of tasks |
//!
//! TCP headers are read and written by `smoltcp::wire`, which is also the second opinion in the tests of all other formats;
//! those are read where they lie, which takes less code. None of its types appears in the interface of this crate.
//!
//! # Memory
//!
//! [`Config::memory_budget`] bounds what connections hold together. Buffers grow with what is in them and are given back
//! when they are empty: an idle connection takes less than one KiB, TIME-WAIT some 200 bytes. What happens when the
//! budget is used up is described in `pressure`; nothing is without a limit, and each limit has a counter in [`Stats`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(test)]
extern crate std;

mod addresses;
pub mod config;
mod connections;
pub mod direct;
mod dns;
mod egress;
mod ended;
pub mod error;
mod ingress;
mod ip;
mod link;
mod listen;
mod listener;
mod ping;
mod ports;
mod pressure;
mod queue;
mod random;
mod stack;
pub mod stats;
mod stream;
mod table;
pub mod tcp;
mod udp;
mod wait;
mod wheel;

#[cfg(test)]
mod tests;

pub use addresses::Assigned;
pub use config::{Buffers, Config, Ipv4Setup, Ipv6Setup, LinkConfig, Offloads, Route};
pub use error::Error;
pub use link::{Frame, Frames, Link, MAX_PIECES};
pub use listen::ListenOptions;
pub use listener::TcpListener;
pub use stack::Stack;
pub use stats::Stats;
pub use stream::{OwnedReadHalf, OwnedWriteHalf, TcpStream};
pub use udp::UdpSocket;
