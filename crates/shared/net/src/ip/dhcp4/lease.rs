//! What a DHCP server gives (RFC 2132, RFC 3442).

use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use kiln_abi::Instant;

use super::{COOKIE, COOKIE_AT, END};
use crate::config::is_host4;
use crate::ip::packet::{append, be32};

const MAX_ROUTES: usize = 16;
const MAX_SERVERS: usize = 3;
/// Most bytes of one option that comes in parts (RFC 3396).
const MAX_OPTION: usize = 512;

const SUBNET_MASK: u8 = 1;
const ROUTER: u8 = 3;
const DNS_SERVERS: u8 = 6;
const INTERFACE_MTU: u8 = 26;
const LEASE_TIME: u8 = 51;
const RENEW_TIME: u8 = 58;
const REBIND_TIME: u8 = 59;
const STATIC_ROUTES: u8 = 121;

/// A route that came with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ip) struct Learned {
    pub network: Ipv4Addr,
    pub prefix: u8,
    /// Nothing if the network is on the link.
    pub gateway: Option<Ipv4Addr>,
}

/// An address with everything that came with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ip) struct Lease {
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub server: Ipv4Addr,
    pub routes: Vec<Learned>,
    pub servers: Vec<Ipv4Addr>,
    pub mtu: Option<u16>,
    /// T1.
    pub renew: Instant,
    /// T2.
    pub rebind: Instant,
    pub expires: Instant,
}

impl Lease {
    /// Reads an acknowledgement of `address`. Nothing if it makes no sense.
    pub(super) fn new(
        message: &[u8],
        address: Ipv4Addr,
        server: Ipv4Addr,
        now: Instant,
    ) -> Option<Self> {
        let prefix = prefix(word(message, SUBNET_MASK), address)?;
        if !is_host4(address) {
            return None;
        }
        let seconds = word(message, LEASE_TIME).filter(|seconds| *seconds > 0)?;
        let mut routes = static_routes(&option(message, STATIC_ROUTES));
        if routes.is_empty() {
            // RFC 3442: who gives these routes means them instead of the gateway.
            if let Some(gateway) = self::address(message, ROUTER) {
                routes.push(Learned {
                    network: Ipv4Addr::UNSPECIFIED,
                    prefix: 0,
                    gateway: Some(gateway),
                });
            }
        }
        let mut servers = Vec::new();
        for bytes in option(message, DNS_SERVERS).as_chunks().0 {
            let server = Ipv4Addr::from_octets(*bytes);
            if is_host4(server) && servers.len() < MAX_SERVERS {
                servers.push(server);
            }
        }
        let mtu = match option(message, INTERFACE_MTU)[..] {
            [a, b] => Some(u16::from_be_bytes([a, b])).filter(|mtu| *mtu >= 576),
            _ => None,
        };
        let (renew, rebind, expires) = times(seconds, message, now);
        Some(Self {
            address,
            prefix,
            server,
            routes,
            servers,
            mtu,
            renew,
            rebind,
            expires,
        })
    }

    /// True if nothing differs that matters to others: it may come from another server and hold for another time.
    pub(super) fn gives_the_same(&self, other: &Self) -> bool {
        (self.address, self.prefix, self.mtu) == (other.address, other.prefix, other.mtu)
            && self.routes == other.routes
            && self.servers == other.servers
    }
}

/// T1, T2 and the end, as the server wants them if that makes sense (RFC 2131 section 4.4.5).
fn times(seconds: u32, message: &[u8], now: Instant) -> (Instant, Instant, Instant) {
    if seconds == u32::MAX {
        return (Instant::FOREVER, Instant::FOREVER, Instant::FOREVER);
    }
    let rebind = word(message, REBIND_TIME)
        .filter(|rebind| *rebind > 0 && *rebind < seconds)
        .unwrap_or(seconds - seconds / 8);
    let renew = word(message, RENEW_TIME)
        .filter(|renew| *renew > 0 && *renew < rebind)
        .unwrap_or(rebind.min(seconds / 2));
    let after = |seconds: u32| now + Duration::from_secs(seconds.max(1).into());
    (after(renew), after(rebind), after(seconds))
}

/// The length of the prefix that a mask means; without one, that of the address's class (RFC 791 section 3.2).
fn prefix(mask: Option<u32>, address: Ipv4Addr) -> Option<u8> {
    let Some(mask) = mask else {
        return Some(match address.octets()[0] {
            0..128 => 8,
            128..192 => 16,
            _ => 24,
        });
    };
    let ones = mask.leading_ones();
    (ones > 0 && ones + mask.trailing_zeros().min(32 - ones) == 32).then_some(ones as u8)
}

/// All parts of an option in a row. Called for each option by itself: that is rare, and short.
#[inline(never)]
pub(super) fn option(message: &[u8], kind: u8) -> Vec<u8> {
    let mut found = Vec::new();
    let mut rest = message.get(COOKIE_AT + COOKIE.len()..).unwrap_or_default();
    while let [code, behind @ ..] = rest {
        rest = behind;
        if *code == 0 {
            continue;
        }
        let Some((length, behind)) = behind.split_first() else {
            break;
        };
        let Some((data, behind)) = behind.split_at_checked((*length).into()) else {
            break;
        };
        if *code == END {
            break;
        }
        if *code == kind {
            append(&mut found, data);
        }
        rest = behind;
    }
    found.truncate(MAX_OPTION);
    found
}

/// The number in an option.
#[inline(never)]
fn word(message: &[u8], kind: u8) -> Option<u32> {
    be32(&option(message, kind), 0)
}

/// The first address in an option, if a host can have it.
pub(super) fn address(message: &[u8], kind: u8) -> Option<Ipv4Addr> {
    let address = Ipv4Addr::from(word(message, kind)?);
    is_host4(address).then_some(address)
}

/// Reads classless static routes up to the first that makes no sense.
fn static_routes(mut bytes: &[u8]) -> Vec<Learned> {
    let mut routes = Vec::new();
    while let Some((&prefix, rest)) = bytes.split_first()
        && routes.len() < MAX_ROUTES
    {
        let significant = usize::from(prefix.div_ceil(8));
        let Some((network, rest)) = rest.split_at_checked(significant) else {
            break;
        };
        let Some((gateway, rest)) = rest.split_first_chunk::<4>() else {
            break;
        };
        let mut octets = [0; 4];
        if prefix > 32 {
            break;
        }
        for (place, octet) in octets.iter_mut().zip(network) {
            *place = *octet;
        }
        let gateway = Ipv4Addr::from(*gateway);
        let direct = gateway.is_unspecified();
        if direct || is_host4(gateway) {
            routes.push(Learned {
                network: octets.into(),
                prefix,
                gateway: (!direct).then_some(gateway),
            });
        }
        bytes = rest;
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_become_prefixes() {
        let address = Ipv4Addr::new(10, 0, 0, 7);
        let of = |mask: [u8; 4]| prefix(Some(u32::from_be_bytes(mask)), address);
        assert_eq!(of([255, 255, 255, 0]), Some(24));
        assert_eq!(of([255, 255, 255, 255]), Some(32));
        assert_eq!(of([128, 0, 0, 0]), Some(1));
        assert_eq!(of([255, 0, 255, 0]), None);
        assert_eq!(of([0, 0, 0, 0]), None);
        assert_eq!(prefix(None, address), Some(8));
        assert_eq!(prefix(None, [192, 0, 2, 1].into()), Some(24));
    }

    #[test]
    fn static_routes_are_read_as_rfc_3442_shows_them() {
        let bytes = [
            0, 10, 0, 0, 1, 24, 192, 0, 2, 10, 0, 0, 2, 32, 169, 254, 169, 254, 0, 0, 0, 0, 33, 1,
        ];
        let routes = static_routes(&bytes);
        let expected = [
            ([0, 0, 0, 0], 0, Some([10, 0, 0, 1])),
            ([192, 0, 2, 0], 24, Some([10, 0, 0, 2])),
            ([169, 254, 169, 254], 32, None),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(network, prefix, gateway)| Learned {
                network: network.into(),
                prefix,
                gateway: gateway.map(Ipv4Addr::from),
            })
            .collect();
        assert_eq!(routes, expected);
    }
}
