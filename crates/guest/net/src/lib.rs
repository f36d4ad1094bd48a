//! The TCP/IP stack of Kiln guests.
//!
//! A [`Stack`] turns Ethernet frames into sockets. It has two sides and nothing else: no threads, no clock, no
//! executor, no platform code, no `unsafe`.
//!
//! - **The driver's side.** Whoever owns the link hands in every frame that arrives ([`Stack::receive`]), lets the
//!   protocols act ([`Stack::poll`]), takes all frames that are ready to leave in one batch ([`Stack::transmit`]) and
//!   asks how long it may sleep ([`Stack::deadline`]). Time comes in as an argument.
//! - **The program's side.** [`TcpListener`], [`TcpStream`], [`UdpSocket`] and [`Stack::lookup`] are named and behave
//!   as in `std` and tokio. Their futures need nothing but the wakers of [`core::task`]; they run under any executor.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`config`] | how the stack is set up: addresses, offloads, and what memory it may take |
//! | [`error`] | the one error type |
//! | [`stats`] | counters |
//! | `stack` | the handle and the driver's side |
//! | `ingress` | what happens to a frame before a protocol sees it |
//! | `frame` | reading headers: which connection, is the checksum right |
//! | `link` | one interface with its outgoing queue; there are two, the wire and the loopback |
//! | `queue` | frames waiting to leave; checksum and segmentation offload |
//! | `address` | which addresses the stack has, and where they come from |
//! | `autoconf` | IPv6 stateless autoconfiguration |
//! | `connections` | every TCP connection and every listener, and what programs do with them |
//! | `lifecycle` | what happens to them on the network: who is let in, when buffers are freed |
//! | `time_wait` | ended connections that must be remembered for a while |
//! | `tcp`, `udp`, `dns` | the program's side |
//! | `random` | unpredictable ports, sequence numbers and identifiers |
//! | `wait` | wakers and timers |
//!
//! The protocols proper are smoltcp's for now. No type of smoltcp appears in the interface of this crate.
//!
//! # Memory
//!
//! [`Config::memory_budget`](config::Config::memory_budget) bounds what connections and queues take together. A
//! connection costs its two buffers ([`Buffers`]) and under one KiB besides, from its first SYN to the end
//! of its closing handshake; TIME-WAIT costs 64 bytes. A SYN for which there is no room is ignored and counted.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(test)]
extern crate std;

mod address;
mod autoconf;
pub mod config;
mod connections;
mod dns;
pub mod error;
mod frame;
mod ingress;
mod lifecycle;
mod link;
mod queue;
mod random;
mod stack;
pub mod stats;
mod tcp;
mod time_wait;
mod udp;
mod wait;

#[cfg(test)]
mod tests;

pub use address::Assigned;
pub use config::{Buffers, Config, Ipv4Setup, Ipv6Setup, Offloads};
pub use error::Error;
pub use queue::Frames;
pub use stack::Stack;
pub use stats::Stats;
pub use tcp::{OwnedReadHalf, OwnedWriteHalf, TcpListener, TcpStream};
pub use udp::UdpSocket;
