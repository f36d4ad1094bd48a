//! Sockets of the internet protocols, on the network stack.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`tcp`], `tcp_options` | TCP |
//! | [`udp`], `multicast` | UDP |
//! | [`ping`] | ICMP |
//! | `ip_options` | options of the protocols below them |
//! | [`links`] | network interfaces: names, numbers, addresses |
//! | [`ioctl`] | `SIOCGIF*`, `FIONREAD` |

pub mod ioctl;
mod ip_options;
pub mod links;
mod multicast;
mod notices;
pub mod ping;
pub mod tcp;
mod tcp_options;
pub mod udp;

use alloc::boxed::Box;
use alloc::rc::Rc;

use kiln_net::Error;

pub use tcp_options::state_number;

use super::options::Options;
use super::{AF_INET, Bell, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, Socket};
use crate::process::Thread;
use crate::{Errno, Result};

/// What TCP's buffers are told to hold before the program sets them (`net.ipv4.tcp_rmem`, `tcp_wmem`); they grow beyond.
const TCP_RECEIVE: u32 = 131_072;
const TCP_SEND: u32 = 16_384;
/// `CAP_NET_RAW`
const CAP_NET_RAW: u32 = 13;
/// `IPPROTO_IP`
pub const IPPROTO_IP: u32 = 0;
/// `IPPROTO_ICMP`
pub const IPPROTO_ICMP: u32 = 1;
/// `IPPROTO_TCP`
pub const IPPROTO_TCP: u32 = 6;
/// `IPPROTO_UDP`
pub const IPPROTO_UDP: u32 = 17;
/// `IPPROTO_IPV6`
pub const IPPROTO_IPV6: u32 = 41;
/// `IPPROTO_ICMPV6`
pub const IPPROTO_ICMPV6: u32 = 58;

/// `socket(2)` of these families.
///
/// # Errors
/// `EPROTONOSUPPORT`, `ESOCKTNOSUPPORT`, `EPERM`.
pub fn create(thread: &Thread, family: u16, kind: u32, protocol: u32) -> Result<Socket> {
    let bell = Rc::new(Bell::default());
    match (kind, protocol) {
        (SOCK_STREAM, 0 | IPPROTO_TCP) => Ok(Socket::assemble(
            (family, kind, IPPROTO_TCP),
            Options::with_buffers(TCP_RECEIVE, TCP_SEND),
            bell,
            Box::new(tcp::Tcp::new()),
        )),
        (SOCK_DGRAM, 0 | IPPROTO_UDP) => Ok(Socket::assemble(
            (family, kind, IPPROTO_UDP),
            Options::default(),
            bell,
            Box::new(udp::Udp::new()),
        )),
        (SOCK_DGRAM | SOCK_RAW, IPPROTO_ICMP | IPPROTO_ICMPV6) => {
            let expected = if family == AF_INET {
                IPPROTO_ICMP
            } else {
                IPPROTO_ICMPV6
            };
            if protocol != expected {
                return Err(Errno::EPROTONOSUPPORT);
            }
            if kind == SOCK_RAW && !thread.process.credentials.borrow().can(CAP_NET_RAW) {
                return Err(Errno::EPERM);
            }
            Ok(Socket::assemble(
                (family, kind, protocol),
                Options::default(),
                bell,
                Box::new(ping::Ping::new()),
            ))
        }
        (SOCK_RAW, _) => Err(Errno::EPERM),
        (SOCK_STREAM | SOCK_DGRAM, _) => Err(Errno::EPROTONOSUPPORT),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

/// The number for an error of the stack.
pub fn errno(error: Error) -> Errno {
    match error {
        Error::ConnectionRefused => Errno::ECONNREFUSED,
        Error::ConnectionReset => Errno::ECONNRESET,
        Error::ConnectionAborted => Errno::ECONNABORTED,
        Error::TimedOut => Errno::ETIMEDOUT,
        Error::Unreachable => Errno::EHOSTUNREACH,
        Error::AddressInUse => Errno::EADDRINUSE,
        Error::AddressNotAvailable => Errno::EADDRNOTAVAIL,
        Error::NotConnected => Errno::ENOTCONN,
        Error::BrokenPipe => Errno::EPIPE,
        Error::MessageTooLong => Errno::EMSGSIZE,
        Error::Exhausted => Errno::ENOBUFS,
        _ => Errno::EINVAL,
    }
}

/// Lets the scheduler know that frames wait to leave, or, over the loopback interface, lets them arrive.
fn has_sent(local: bool) {
    let kernel = crate::kernel();
    if local {
        kernel.network.settle_local();
    } else {
        kernel.scheduler.frames_queued();
    }
}
