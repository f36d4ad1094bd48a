//! skeleton
#![no_std]
#![forbid(unsafe_code)]
#![allow(dead_code, unused, missing_docs)]

extern crate alloc;

#[cfg(test)]
extern crate std;

mod addresses;
pub mod config;
mod connections;
mod dns;
mod egress;
mod ended;
pub mod error;
mod ingress;
mod ip;
mod link;
mod listen;
mod listener;
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
