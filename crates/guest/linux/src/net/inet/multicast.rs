//! Joining and leaving groups (`ip(7)`, `ipv6(7)`).

use alloc::rc::Rc;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kiln_net::direct::Datagrams;

use super::super::options::int;
use super::super::{AF_INET, AF_INET6, Address};
use super::ip_options::{IP_MULTICAST_IF, IPV6_MULTICAST_IF, IpOptions};
use super::udp::link_index;
use super::{IPPROTO_IP, IPPROTO_IPV6, errno, links};
use crate::{Errno, Result};

const IP_ADD_MEMBERSHIP: u32 = 35;
const IP_DROP_MEMBERSHIP: u32 = 36;
const MCAST_JOIN_GROUP: u32 = 42;
const MCAST_LEAVE_GROUP: u32 = 45;
const IPV6_ADD_MEMBERSHIP: u32 = 20;
const IPV6_DROP_MEMBERSHIP: u32 = 21;

/// True for the options that are dealt with here.
pub fn is_option(level: u32, name: u32) -> bool {
    match level {
        IPPROTO_IP => matches!(
            name,
            IP_MULTICAST_IF
                | IP_ADD_MEMBERSHIP
                | IP_DROP_MEMBERSHIP
                | MCAST_JOIN_GROUP
                | MCAST_LEAVE_GROUP
        ),
        IPPROTO_IPV6 => matches!(
            name,
            IPV6_ADD_MEMBERSHIP | IPV6_DROP_MEMBERSHIP | MCAST_JOIN_GROUP | MCAST_LEAVE_GROUP
        ),
        _ => false,
    }
}

/// Over which link datagrams to a group are sent, if the program has said so.
pub fn link_of(options: &IpOptions, group: IpAddr) -> Option<u8> {
    let number = if group.is_ipv4() {
        options.value(IPPROTO_IP, IP_MULTICAST_IF)
    } else {
        options.value(IPPROTO_IPV6, IPV6_MULTICAST_IF)
    };
    link_index(number).ok().flatten()
}

/// The number of the interface with this address; 0 for none.
fn interface_with(address: Ipv4Addr) -> Result<i32> {
    if address.is_unspecified() {
        return Ok(0);
    }
    let all = links::all();
    let has = |link: &kiln_net::direct::LinkState| {
        link.addresses
            .iter()
            .any(|assigned| assigned.address == IpAddr::V4(address))
    };
    let found = all.iter().find(|(_, link)| has(link));
    found
        .map(|(_, link)| links::number(link))
        .ok_or(Errno::EADDRNOTAVAIL)
}

fn ip4(value: &[u8], at: usize) -> Ipv4Addr {
    let octets = value
        .get(at..at + 4)
        .and_then(|b| <[u8; 4]>::try_from(b).ok());
    octets.unwrap_or_default().into()
}

/// `setsockopt(2)`.
pub fn set(
    options: &IpOptions,
    level: u32,
    name: u32,
    value: &[u8],
    bound: impl FnOnce() -> Result<Rc<Datagrams>>,
) -> Result {
    let (group, interface, joins): (IpAddr, i32, bool) = match (level, name) {
        (IPPROTO_IP, IP_MULTICAST_IF) => {
            let number = match value.len() {
                12.. => match int(&value[8..])? {
                    0 => interface_with(ip4(value, 4))?,
                    number => number,
                },
                8.. => interface_with(ip4(value, 4))?,
                4.. => interface_with(ip4(value, 0))?,
                _ => return Err(Errno::EINVAL),
            };
            link_index(number)?;
            options.keep(level, name, number);
            return Ok(());
        }
        (IPPROTO_IP, IP_ADD_MEMBERSHIP | IP_DROP_MEMBERSHIP) => {
            let number = match value.len() {
                12.. => int(&value[8..])?,
                8.. => 0,
                _ => return Err(Errno::EINVAL),
            };
            let number = match number {
                0 => interface_with(ip4(value, 4))?,
                number => number,
            };
            (ip4(value, 0).into(), number, name == IP_ADD_MEMBERSHIP)
        }
        (IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP | IPV6_DROP_MEMBERSHIP) => {
            let group: &[u8; 16] = value.first_chunk().ok_or(Errno::EINVAL)?;
            let group = Ipv6Addr::from(*group);
            let joins = name == IPV6_ADD_MEMBERSHIP;
            (group.into(), int(&value[16..])?, joins)
        }
        _ => {
            let number = int(value)?;
            let family = if level == IPPROTO_IP {
                AF_INET
            } else {
                AF_INET6
            };
            let address = Address::new(value.get(8..).ok_or(Errno::EINVAL)?);
            let group = address.inet(family)?.ip();
            (group, number, name == MCAST_JOIN_GROUP)
        }
    };
    if !group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    let link = link_index(interface)?;
    let bound = bound()?;
    if joins {
        bound.join(group, link).map_err(|error| match error {
            kiln_net::Error::Unreachable | kiln_net::Error::AddressNotAvailable => Errno::ENODEV,
            error => errno(error),
        })
    } else {
        bound.leave(group).map_err(|_| Errno::EADDRNOTAVAIL)
    }
}
