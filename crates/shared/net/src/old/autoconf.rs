//! IPv6 stateless autoconfiguration (RFC 4862, RFC 4861 section 6, RFC 8106).
//!
//! A pure state machine: router advertisements and the time go in, what is now known of the link comes out. Routers
//! are asked three times when the link comes up, four seconds apart, and then listened to.
//!
//! One prefix, one router and three DNS servers are kept; a guest has one uplink. Addresses are made of the prefix and
//! the Ethernet address. Duplicates are not looked for: the monitor gives out Ethernet addresses.

use alloc::vec::Vec;
use core::net::Ipv6Addr;
use core::time::Duration;

use kiln_abi::Instant;

use crate::config::is_host6;

const SOLICITATIONS: u8 = 3;
const SOLICITATION_INTERVAL: Duration = Duration::from_secs(4);
const MAX_SERVERS: usize = 3;

/// Something that routers said, and until when it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Learned {
    address: Ipv6Addr,
    until: Instant,
}

/// What is known of the link.
#[derive(Debug, Default)]
pub(crate) struct Autoconf {
    interface_id: [u8; 8],
    solicitations: u8,
    next_solicitation: Instant,
    address: Option<Learned>,
    router: Option<Learned>,
    servers: Vec<Learned>,
}

impl Autoconf {
    pub(crate) fn new(mac: [u8; 6], now: Instant) -> Self {
        Self {
            interface_id: interface_id(mac),
            solicitations: SOLICITATIONS,
            next_solicitation: now,
            ..Self::default()
        }
    }

    /// The address made of the advertised prefix; its length is always 64.
    pub(crate) fn address(&self) -> Option<Ipv6Addr> {
        self.address.map(|learned| learned.address)
    }

    pub(crate) fn router(&self) -> Option<Ipv6Addr> {
        self.router.map(|learned| learned.address)
    }

    pub(crate) fn servers(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.servers.iter().map(|learned| learned.address)
    }

    /// Takes in a router advertisement, from its `ICMPv6` type byte on. True if anything is different now.
    pub(crate) fn advert(&mut self, router: Ipv6Addr, advert: &[u8], now: Instant) -> bool {
        let before = (self.address(), self.router(), self.servers.clone());
        let Some((header, options)) = advert.split_first_chunk::<16>() else {
            return false;
        };
        self.solicitations = 0;
        let lifetime = seconds(u16::from_be_bytes([header[6], header[7]]).into());
        if !lifetime.is_zero() {
            self.router = Some(Learned {
                address: router,
                until: now + lifetime,
            });
        } else if self.router() == Some(router) {
            self.router = None;
        }
        for option in Options(options) {
            match option {
                // Prefix information: length, flags, valid lifetime, preferred lifetime, reserved, prefix.
                [3, _, 64, flags, rest @ ..] if flags & 0x40 != 0 => self.prefix(rest, now),
                // Recursive DNS servers: reserved, lifetime, addresses.
                [25, _, _, _, rest @ ..] => self.name_servers(rest, now),
                _ => {}
            }
        }
        before != (self.address(), self.router(), self.servers.clone())
    }

    fn prefix(&mut self, option: &[u8], now: Instant) {
        let (Some(valid), Some(prefix)) = (be32(option, 0), option.get(12..20)) else {
            return;
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(prefix);
        bytes[8..].copy_from_slice(&self.interface_id);
        let address = Ipv6Addr::from(bytes);
        if !is_host6(address) || address.is_unicast_link_local() {
            return;
        }
        let until = match valid {
            u32::MAX => Instant::FOREVER,
            valid => now + seconds(valid),
        };
        match &mut self.address {
            Some(known) if known.address == address => {
                // RFC 4862 section 5.5.3 e: an advertisement, which may be forged, shortens a lifetime to no less
                // than two hours.
                let least = known.until.min(now + seconds(2 * 3600));
                known.until = until.max(least);
            }
            None if valid > 0 => self.address = Some(Learned { address, until }),
            _ => {}
        }
    }

    fn name_servers(&mut self, option: &[u8], now: Instant) {
        let (Some(lifetime), Some(list)) = (be32(option, 0), option.get(4..)) else {
            return;
        };
        let until = match lifetime {
            u32::MAX => Instant::FOREVER,
            lifetime => now + seconds(lifetime),
        };
        for bytes in list.as_chunks::<16>().0 {
            let address = Ipv6Addr::from(*bytes);
            self.servers.retain(|known| known.address != address);
            if lifetime > 0 && is_host6(address) && self.servers.len() < MAX_SERVERS {
                self.servers.push(Learned { address, until });
            }
        }
    }

    /// Forgets what no longer holds. True if anything was forgotten.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let holds = |learned: &Learned| learned.until > now;
        let before = (self.address, self.router, self.servers.len());
        self.address = self.address.filter(holds);
        self.router = self.router.filter(holds);
        self.servers.retain(holds);
        before != (self.address, self.router, self.servers.len())
    }

    /// True, once, when a router solicitation is to be sent.
    pub(crate) fn solicit(&mut self, now: Instant) -> bool {
        let due = self.solicitations > 0 && self.next_solicitation <= now;
        if due {
            self.solicitations -= 1;
            self.next_solicitation = now + SOLICITATION_INTERVAL;
        }
        due
    }

    /// When [`expire`](Self::expire) or [`solicit`](Self::solicit) will have something to do.
    pub(crate) fn deadline(&self) -> Instant {
        let solicitation = match self.solicitations {
            0 => Instant::FOREVER,
            _ => self.next_solicitation,
        };
        let learned = self.address.iter().chain(&self.router).chain(&self.servers);
        learned
            .map(|learned| learned.until)
            .fold(solicitation, Instant::min)
    }
}

/// The link-local address of an interface (RFC 4291 section 2.5.6).
pub(crate) fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let mut bytes = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes[8..].copy_from_slice(&interface_id(mac));
    bytes.into()
}

/// Modified EUI-64 (RFC 4291 appendix A).
fn interface_id(mac: [u8; 6]) -> [u8; 8] {
    [
        mac[0] ^ 2,
        mac[1],
        mac[2],
        0xff,
        0xfe,
        mac[3],
        mac[4],
        mac[5],
    ]
}

/// The options of a neighbour discovery message. Ends at the first that makes no sense (RFC 4861 section 4.6).
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(*self.0.get(1)?) * 8;
        if length == 0 {
            return None;
        }
        let (option, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(option)
    }
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(count.into())
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A router advertisement for `2001:db8:1::/64` with a DNS server.
    pub(crate) fn advert(router_lifetime: u16, valid: u32) -> Vec<u8> {
        let mut bytes = std::vec![134, 0, 0, 0, 64, 0];
        bytes.extend(router_lifetime.to_be_bytes());
        bytes.extend([0; 8]);
        bytes.extend([3, 4, 64, 0xc0]);
        bytes.extend(valid.to_be_bytes());
        bytes.extend(valid.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(
            "2001:db8:1::"
                .parse::<Ipv6Addr>()
                .expect("an address")
                .octets(),
        );
        bytes.extend([25, 3, 0, 0]);
        bytes.extend(600u32.to_be_bytes());
        bytes.extend(
            "2001:db8::53"
                .parse::<Ipv6Addr>()
                .expect("an address")
                .octets(),
        );
        bytes
    }

    const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn at(secs: u64) -> Instant {
        Instant::from_nanos(secs * 1_000_000_000)
    }

    #[test]
    fn solicits_three_times_and_then_listens() {
        let mut autoconf = Autoconf::new(MAC, at(0));
        let sent = (0..100).filter(|&second| autoconf.solicit(at(second)));
        assert_eq!(sent.collect::<Vec<_>>(), [0, 4, 8]);
        assert_eq!(autoconf.deadline(), Instant::FOREVER);
    }

    #[test]
    fn an_advertisement_gives_address_router_and_server_for_their_lifetimes() {
        let mut autoconf = Autoconf::new(MAC, at(0));
        assert!(autoconf.advert(ROUTER, &advert(1800, 7200), at(1)));
        assert!(!autoconf.solicit(at(4)));
        let expected: Ipv6Addr = "2001:db8:1::ff:fe00:7".parse().expect("an address");
        assert_eq!(autoconf.address(), Some(expected));
        assert_eq!(autoconf.router(), Some(ROUTER));
        assert_eq!(autoconf.servers().count(), 1);
        assert_eq!(autoconf.deadline(), at(601));
        assert!(autoconf.expire(at(601)));
        assert_eq!(autoconf.servers().count(), 0);
        assert!(autoconf.expire(at(1801)));
        assert_eq!(autoconf.router(), None);
        assert!(autoconf.expire(at(7201)));
        assert_eq!(autoconf.address(), None);
    }

    #[test]
    fn a_forged_short_lifetime_does_not_take_the_address_away() {
        let mut autoconf = Autoconf::new(MAC, at(0));
        autoconf.advert(ROUTER, &advert(1800, 86_400), at(0));
        autoconf.advert(ROUTER, &advert(1800, 1), at(10));
        autoconf.expire(at(7000));
        assert!(autoconf.address().is_some());
    }

    #[test]
    fn a_multicast_prefix_is_ignored() {
        let mut autoconf = Autoconf::new(MAC, at(0));
        let mut bytes = advert(0, 7200);
        bytes[32] = 0xff;
        autoconf.advert(ROUTER, &bytes, at(0));
        assert_eq!(autoconf.address(), None);
    }
}
