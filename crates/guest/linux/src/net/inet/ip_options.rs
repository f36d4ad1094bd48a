//! Options of the internet protocols: `IPPROTO_IP` (`ip(7)`) and `IPPROTO_IPV6` (`ipv6(7)`).
//!
//! What the stack has no part in is kept and told again, as on Linux where it has no effect either without routers or peers that care.

use alloc::vec::Vec;
use core::cell::RefCell;

use super::super::Socket;
use super::super::options::{int, number};
use super::{IPPROTO_IP, IPPROTO_IPV6};
use crate::{Errno, Result};

const IP_TOS: u32 = 1;
const IP_TTL: u32 = 2;
const IP_OPTIONS: u32 = 4;
/// `IP_PKTINFO`
pub const IP_PKTINFO: u32 = 8;
const IP_MTU_DISCOVER: u32 = 10;
/// `IP_RECVERR`
pub const IP_RECVERR: u32 = 11;
/// `IP_RECVTTL`
pub const IP_RECVTTL: u32 = 12;
/// `IP_RECVTOS`
pub const IP_RECVTOS: u32 = 13;
const IP_MTU: u32 = 14;
const IP_FREEBIND: u32 = 15;
const IP_TRANSPARENT: u32 = 19;
const IP_MINTTL: u32 = 21;
const IP_BIND_ADDRESS_NO_PORT: u32 = 24;
/// `IP_MULTICAST_IF`
pub const IP_MULTICAST_IF: u32 = 32;
/// `IP_MULTICAST_TTL`
pub const IP_MULTICAST_TTL: u32 = 33;
/// `IP_MULTICAST_LOOP`
pub const IP_MULTICAST_LOOP: u32 = 34;
const IP_MULTICAST_ALL: u32 = 49;
const IP_LOCAL_PORT_RANGE: u32 = 51;

const IPV6_UNICAST_HOPS: u32 = 16;
/// `IPV6_MULTICAST_IF`
pub const IPV6_MULTICAST_IF: u32 = 17;
/// `IPV6_MULTICAST_HOPS`
pub const IPV6_MULTICAST_HOPS: u32 = 18;
/// `IPV6_MULTICAST_LOOP`
pub const IPV6_MULTICAST_LOOP: u32 = 19;
const IPV6_MTU_DISCOVER: u32 = 23;
const IPV6_MTU: u32 = 24;
/// `IPV6_RECVERR`
pub const IPV6_RECVERR: u32 = 25;
/// `IPV6_V6ONLY`
pub const IPV6_V6ONLY: u32 = 26;
const IPV6_AUTOFLOWLABEL: u32 = 70;
/// `IPV6_RECVPKTINFO`
pub const IPV6_RECVPKTINFO: u32 = 49;
/// `IPV6_RECVHOPLIMIT`
pub const IPV6_RECVHOPLIMIT: u32 = 51;
const IPV6_RECVTCLASS: u32 = 66;
const IPV6_TCLASS: u32 = 67;
const IPV6_DONTFRAG: u32 = 62;
const IPV6_FREEBIND: u32 = 78;
const IPV6_TRANSPARENT: u32 = 75;
const IPV6_ADDR_PREFERENCES: u32 = 72;

/// Options below the transport.
#[derive(Clone, Debug, Default)]
pub struct IpOptions {
    kept: RefCell<Vec<(u32, u32, i32)>>,
}

/// What an option starts as, and the range of what it may be; `None` for one that there is not.
fn range(level: u32, name: u32) -> Option<(i32, i32, i32)> {
    const FLAG: (i32, i32, i32) = (0, i32::MIN, i32::MAX);
    Some(match (level, name) {
        (IPPROTO_IP, IP_TTL) => (64, 1, 255),
        (IPPROTO_IP, IP_MINTTL) => (0, 0, 255),
        (IPPROTO_IP, IP_MULTICAST_TTL) => (1, -1, 255),
        (IPPROTO_IP, IP_MULTICAST_LOOP | IP_MULTICAST_ALL) => (1, 0, 1),
        (IPPROTO_IP, IP_MTU_DISCOVER) => (1, 0, 5),
        (IPPROTO_IP, IP_TRANSPARENT | IP_OPTIONS) => return None,
        (
            IPPROTO_IP,
            IP_TOS
            | IP_PKTINFO
            | IP_RECVERR
            | IP_RECVTTL
            | IP_RECVTOS
            | IP_FREEBIND
            | IP_MULTICAST_IF
            | IP_BIND_ADDRESS_NO_PORT
            | IP_LOCAL_PORT_RANGE
            | 6
            | 7
            | 18
            | 20
            | 25,
        ) => FLAG,
        (IPPROTO_IPV6, IPV6_UNICAST_HOPS) => (64, -1, 255),
        (IPPROTO_IPV6, IPV6_MULTICAST_HOPS) => (1, -1, 255),
        (IPPROTO_IPV6, IPV6_MULTICAST_LOOP) => (1, 0, 1),
        (IPPROTO_IPV6, IPV6_MTU_DISCOVER) => (1, 0, 5),
        (IPPROTO_IPV6, IPV6_TCLASS) => (0, -1, 255),
        (IPPROTO_IPV6, IPV6_TRANSPARENT) => return None,
        (
            IPPROTO_IPV6,
            IPV6_MULTICAST_IF
            | IPV6_RECVERR
            | IPV6_RECVPKTINFO
            | IPV6_RECVHOPLIMIT
            | IPV6_RECVTCLASS
            | IPV6_AUTOFLOWLABEL
            | IPV6_DONTFRAG
            | IPV6_FREEBIND
            | IPV6_ADDR_PREFERENCES
            | IPV6_MTU
            | 33
            | 53
            | 56
            | 58
            | 60
            | 61
            | 74,
        ) => FLAG,
        _ => return None,
    })
}

impl IpOptions {
    /// What an option is set to.
    pub fn value(&self, level: u32, name: u32) -> i32 {
        let kept = self.kept.borrow();
        let found = kept.iter().find(|(l, n, _)| (*l, *n) == (level, name));
        match found {
            Some((_, _, value)) => *value,
            None => range(level, name).map_or(0, |(default, _, _)| default),
        }
    }

    /// True if an option is on.
    pub fn has(&self, level: u32, name: u32) -> bool {
        self.value(level, name) != 0
    }

    /// `setsockopt(2)`.
    pub fn set(&self, socket: &Socket, level: u32, name: u32, value: &[u8]) -> Result {
        if level == IPPROTO_IPV6 && socket.family != super::super::AF_INET6 {
            return Err(Errno::ENOPROTOOPT);
        }
        if level == IPPROTO_IP && name == IP_TRANSPARENT
            || level == IPPROTO_IPV6 && name == IPV6_TRANSPARENT
        {
            return Err(Errno::EPERM);
        }
        let (default, least, most) = range(level, name).ok_or(Errno::ENOPROTOOPT)?;
        // Options of IPv4 may be given as a byte.
        let given = match value {
            [] if level == IPPROTO_IP => 0,
            [byte] | [byte, _] | [byte, _, _] if level == IPPROTO_IP => i32::from(*byte),
            value => int(value)?,
        };
        let given = if given == -1 && name != IPV6_ADDR_PREFERENCES {
            default
        } else {
            given
        };
        if !(least..=most).contains(&given) {
            return Err(Errno::EINVAL);
        }
        self.keep(level, name, given);
        Ok(())
    }

    /// Keeps a number without looking at it.
    pub fn keep(&self, level: u32, name: u32, value: i32) {
        let mut kept = self.kept.borrow_mut();
        match kept.iter_mut().find(|(l, n, _)| (*l, *n) == (level, name)) {
            Some(place) => place.2 = value,
            None => kept.push((level, name, value)),
        }
    }

    /// `getsockopt(2)`.
    pub fn get(&self, _socket: &Socket, level: u32, name: u32, argument: &[u8]) -> Result<Vec<u8>> {
        if level == IPPROTO_IP && name == IP_MTU || level == IPPROTO_IPV6 && name == IPV6_MTU {
            return Ok(number(1500));
        }
        if level == IPPROTO_IP && name == IP_OPTIONS {
            return Ok(Vec::new());
        }
        range(level, name).ok_or(Errno::ENOPROTOOPT)?;
        let value = self.value(level, name);
        if level == IPPROTO_IP && argument.len() < 4 && (0..256).contains(&value) {
            return Ok(alloc::vec![value as u8]);
        }
        Ok(number(value.cast_unsigned()))
    }
}
