//! Interfaces, addresses and routes (`rtnetlink(7)`).

use alloc::vec::Vec;
use core::net::IpAddr;

use kiln_net::direct::{Datagrams, LinkState, RouteState};

use super::super::inet::links;
use super::super::{AF_INET, AF_INET6};
use super::DUMP;
use super::build::{Message, Reply};
use crate::user::from_bytes;
use crate::{Errno, Result};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

/// `RT_TABLE_MAIN`
const MAIN: u8 = 254;
/// `RT_SCOPE_LINK`, `RT_SCOPE_HOST`
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
/// `RTPROT_KERNEL`, `RTPROT_BOOT`
const BY_KERNEL: u8 = 2;
const BY_BOOT: u8 = 3;
/// `IFA_F_PERMANENT`
const PERMANENT: u8 = 0x80;

/// Answers a request.
///
/// # Errors
/// `EPERM` for what would change something: interfaces are set up by the host; `ENODEV`, `ENETUNREACH`, `EOPNOTSUPP`.
pub fn answer(kind: u16, flags: u16, payload: &[u8], reply: &mut Reply) -> Result {
    let dump = flags & DUMP != 0;
    match kind {
        RTM_GETLINK if dump => {
            for (name, link) in links::all() {
                reply.add(RTM_NEWLINK, true, |message| describe(message, &name, &link));
            }
            Ok(())
        }
        RTM_GETLINK => one_link(payload, reply),
        RTM_GETADDR if dump => {
            let wanted = payload.first().copied().unwrap_or(0);
            for (name, link) in links::all() {
                addresses(wanted, &name, &link, reply);
            }
            Ok(())
        }
        RTM_GETROUTE if dump => {
            let wanted = payload.first().copied().unwrap_or(0);
            for (_, link) in links::all() {
                for route in &link.routes {
                    if is_wanted(wanted, route.network) {
                        reply.add(RTM_NEWROUTE, true, |message| {
                            write_route(message, &link, route);
                        });
                    }
                }
            }
            Ok(())
        }
        RTM_GETROUTE => one_route(payload, reply),
        // Neighbours, rules, queues: asked for, there are none to tell; changed, they may not be.
        kind if kind % 4 == 2 => {
            if dump {
                Ok(())
            } else {
                Err(Errno::EOPNOTSUPP)
            }
        }
        _ => Err(Errno::EPERM),
    }
}

fn is_wanted(family: u8, address: IpAddr) -> bool {
    family == 0 || u16::from(family) == family_of(address)
}

fn family_of(address: IpAddr) -> u16 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The attributes behind a request's record of `len` bytes.
fn attribute(payload: &[u8], len: usize, wanted: u16) -> Option<&[u8]> {
    let mut rest = payload.get(len..)?;
    loop {
        let size = usize::from(from_bytes::<u16>(rest)?);
        let kind = from_bytes::<u16>(rest.get(2..)?)?;
        let value = rest.get(4..size)?;
        if kind & 0x3fff == wanted {
            return Some(value);
        }
        rest = rest.get(size.next_multiple_of(4)..)?;
    }
}

fn one_link(payload: &[u8], reply: &mut Reply) -> Result {
    const IFLA_IFNAME: u16 = 3;
    let index = payload.get(4..).and_then(from_bytes::<i32>).unwrap_or(0);
    let name = attribute(payload, 16, IFLA_IFNAME).map(|name| {
        let end = name.iter().position(|&b| b == 0);
        &name[..end.unwrap_or(name.len())]
    });
    let mut all = links::all().into_iter();
    let found = all.find(|(known, link)| match (index, name) {
        (0, Some(name)) => known == name,
        (index, _) => links::number(link) == index,
    });
    let (name, link) = found.ok_or(Errno::ENODEV)?;
    reply.add(RTM_NEWLINK, false, |message| {
        describe(message, &name, &link);
    });
    Ok(())
}

/// `struct ifinfomsg` and its attributes.
fn describe(message: &mut Message, name: &[u8], link: &LinkState) {
    let loopback = link.index == 0;
    let kind: u16 = if loopback { 772 } else { 1 };
    let mut record = Vec::from([0, 0]);
    record.extend(kind.to_ne_bytes());
    record.extend(links::number(link).to_ne_bytes());
    record.extend(links::flags(link).to_ne_bytes());
    record.extend([0; 4]);
    message.put(&record);
    let mut text = name.to_vec();
    text.push(0);
    let broadcast = if loopback { [0; 6] } else { [0xff; 6] };
    let queue: &[u8] = if loopback { b"noqueue\0" } else { b"mq\0" };
    message
        .attribute(3, &text)
        .number(13, 1000)
        .attribute(16, &[if loopback { 0 } else { 6 }])
        .attribute(17, &[0])
        .number(4, u32::from(link.mtu))
        .number(27, 0)
        .number(30, 0)
        .number(31, 1)
        .number(32, 1)
        .attribute(33, &[1])
        .attribute(6, queue)
        .attribute(1, &link.mac)
        .attribute(2, &broadcast);
    let stats = &link.stats;
    let received = if loopback {
        (stats.frames_out, stats.bytes_out)
    } else {
        (stats.frames_in, stats.bytes_in)
    };
    let mut counters = [0_u64; 24];
    counters[0] = received.0;
    counters[1] = stats.frames_out;
    counters[2] = received.1;
    counters[3] = stats.bytes_out;
    counters[6] = stats.dropped_malformed + stats.dropped_unsupported;
    counters[7] = stats.dropped_queue_full;
    let wide: Vec<u8> = counters.iter().flat_map(|n| n.to_ne_bytes()).collect();
    let narrow: Vec<u8> = counters
        .iter()
        .flat_map(|n| (*n as u32).to_ne_bytes())
        .collect();
    message.attribute(23, &wide).attribute(7, &narrow);
}

/// `struct ifaddrmsg` and its attributes, for each address of the family.
fn addresses(wanted: u8, name: &[u8], link: &LinkState, reply: &mut Reply) {
    for assigned in &link.addresses {
        let address = assigned.address;
        if !is_wanted(wanted, address) {
            continue;
        }
        let scope = match address {
            _ if link.index == 0 => SCOPE_HOST,
            IpAddr::V6(address) if address.is_unicast_link_local() => SCOPE_LINK,
            _ => 0,
        };
        reply.add(RTM_NEWADDR, true, |message| {
            let family = family_of(address) as u8;
            message.put(&[family, assigned.prefix, PERMANENT, scope]);
            message.put(&links::number(link).to_ne_bytes());
            message.attribute(1, &octets(address));
            if let IpAddr::V4(address) = address {
                let mut label = name.to_vec();
                label.push(0);
                message.attribute(2, &address.octets());
                if link.index != 0 {
                    let host = u32::MAX
                        .checked_shr(u32::from(assigned.prefix))
                        .unwrap_or(0);
                    let broadcast = address.to_bits() | host;
                    message.attribute(4, &broadcast.to_be_bytes());
                }
                message.attribute(3, &label);
            }
            message.number(8, u32::from(PERMANENT));
            // Neither life ends, and it has always been there.
            let forever = [u32::MAX, u32::MAX, 0, 0];
            let cache: Vec<u8> = forever.iter().flat_map(|n| n.to_ne_bytes()).collect();
            message.attribute(6, &cache);
        });
    }
}

/// `struct rtmsg` and its attributes.
fn write_route(message: &mut Message, link: &LinkState, route: &RouteState) {
    let (scope, protocol) = match route.gateway {
        Some(_) => (0, BY_BOOT),
        None => (SCOPE_LINK, BY_KERNEL),
    };
    let family = family_of(route.network) as u8;
    let unicast = 1;
    message.put(&[family, route.prefix, 0, 0, MAIN, protocol, scope, unicast]);
    message.put(&[0; 4]);
    message.number(15, u32::from(MAIN));
    if route.prefix > 0 {
        message.attribute(1, &octets(route.network));
    }
    if let Some(gateway) = route.gateway {
        message.attribute(5, &octets(gateway));
    }
    let own = link
        .addresses
        .iter()
        .find(|assigned| assigned.address.is_ipv4() == route.network.is_ipv4());
    if let Some(own) = own
        && route.gateway.is_none()
        && own.address.is_ipv4()
    {
        message.attribute(7, &octets(own.address));
    }
    message.number(4, links::number(link).cast_unsigned());
}

/// By which way one address is reached.
fn one_route(payload: &[u8], reply: &mut Reply) -> Result {
    const RTA_DST: u16 = 1;
    let target = attribute(payload, 12, RTA_DST).ok_or(Errno::EINVAL)?;
    let target: IpAddr = match (<[u8; 4]>::try_from(target), <[u8; 16]>::try_from(target)) {
        (Ok(octets), _) => IpAddr::from(octets),
        (_, Ok(octets)) => IpAddr::from(octets),
        _ => return Err(Errno::EINVAL),
    };
    let kernel = crate::kernel();
    let stack = kernel.network.stack();
    let source = Datagrams::source_for(stack, target).map_err(|_| Errno::ENETUNREACH)?;
    let all = links::all();
    let owns = |link: &LinkState| link.addresses.iter().any(|a| a.address == source);
    let local = source == target || source.is_loopback();
    let found = all.iter().find(|(_, link)| owns(link) && !local);
    let (_, link) = found.or(all.first()).ok_or(Errno::ENETUNREACH)?;
    let contains = |route: &&RouteState| route.contains(target);
    let route = link
        .routes
        .iter()
        .filter(contains)
        .max_by_key(|route| route.prefix);
    reply.add(RTM_NEWROUTE, false, |message| {
        let family = family_of(target) as u8;
        let bits = if target.is_ipv4() { 32 } else { 128 };
        let kind = if local { 2 } else { 1 };
        message.put(&[family, bits, 0, 0, MAIN, 0, 0, kind]);
        message.put(&[0; 4]);
        message.number(15, u32::from(MAIN));
        message.attribute(1, &octets(target));
        if let Some(gateway) = route.and_then(|route| route.gateway) {
            message.attribute(5, &octets(gateway));
        }
        message.number(4, links::number(link).cast_unsigned());
        message.attribute(7, &octets(source));
    });
    Ok(())
}
