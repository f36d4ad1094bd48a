//! The addresses of an interface: which there are, how long they live, and which one is used as a source (RFC 4862
//! section 5.5.4, RFC 6724 section 5).
//!
//! An address is usable from the moment it is added. For a while it is tested: an IPv6 address by duplicate address
//! detection (RFC 4862 section 5.4, run optimistically as RFC 4429 describes, since a guest that waits a second before it
//! answers is a slow guest), an IPv4 address by announcing it, which makes another owner speak up (RFC 5227 section 2.3).

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use kiln_abi::Instant;

use super::packet::put;

/// Most addresses of an interface.
const MAX_ADDRESSES: usize = 12;
/// Of these, made of advertised prefixes: the others need room too.
const MAX_ADVERTISED: usize = 8;
/// Addresses that others have, and that are not tried again.
const MAX_DUPLICATES: usize = 8;
/// Messages that test an address, and the time behind each.
const CHECKS6: u8 = 1;
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// RFC 5227 section 1.1.
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// RFC 4862 section 5.5.3 e.
const TWO_HOURS: Duration = Duration::from_hours(2);

/// Where an address comes from. The order is that of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    Static,
    Dhcp,
    /// Made of an advertised prefix.
    Router,
    LinkLocal,
}

/// An address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub address: IpAddr,
    pub prefix: u8,
    pub origin: Origin,
    valid: Instant,
    preferred: Instant,
    deprecated: bool,
    /// Messages that are still to be sent to test it, and when.
    checks: u8,
    timer: Instant,
    /// When it was last defended.
    defended: Option<Instant>,
}

impl Own {
    /// True while another owner may still show up.
    fn is_checking(&self) -> bool {
        self.timer != Instant::FOREVER
    }
}

/// What time asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Announce an IPv4 address.
    Announce(Ipv4Addr),
    /// Ask whether somebody has an IPv6 address.
    Check(Ipv6Addr),
    /// The lifetime is over; the address is gone.
    Expired(IpAddr),
}

/// What is to be done about somebody else who uses an IPv4 address (RFC 5227 section 2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    /// Say once that it is ours.
    Defend,
    /// Nothing, an answer was given a moment ago.
    Bear,
    /// Two conflicts in a short time: give the address up.
    GiveUp,
}

/// The addresses of an interface, IPv4 first, link-local last.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    list: Vec<Own>,
    duplicates: Vec<Ipv6Addr>,
}

impl Addresses {
    /// True for an address of the interface.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.find(address).is_some()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Own> {
        self.list.iter()
    }

    /// True if the address is being checked.
    #[inline(never)]
    pub(super) fn is_checking(&self, address: IpAddr) -> bool {
        self.find(address).is_some_and(Own::is_checking)
    }

    #[inline(never)]
    fn find(&self, address: IpAddr) -> Option<&Own> {
        self.list.iter().find(|own| own.address == address)
    }

    /// Adds an address, or gives a known one new lifetimes. True if it is new.
    pub(super) fn add(
        &mut self,
        address: IpAddr,
        prefix: u8,
        origin: Origin,
        (valid, preferred): (Instant, Instant),
        now: Instant,
    ) -> bool {
        if let Some(own) = self.list.iter_mut().find(|own| own.address == address) {
            // What was configured by hand is not for others to end.
            if own.origin == origin {
                (own.prefix, own.valid, own.preferred) = (prefix, valid, preferred);
                own.deprecated = preferred <= now;
            }
            return false;
        }
        let duplicate = matches!(address, IpAddr::V6(v6) if self.duplicates.contains(&v6));
        if duplicate || self.list.len() >= MAX_ADDRESSES {
            return false;
        }
        let rank = |address: &IpAddr, origin: Origin| (address.is_ipv6(), origin);
        let at = self
            .list
            .partition_point(|own| rank(&own.address, own.origin) <= rank(&address, origin));
        self.list.insert(
            at,
            Own {
                address,
                prefix,
                origin,
                valid,
                preferred,
                deprecated: preferred <= now,
                checks: if address.is_ipv6() {
                    CHECKS6
                } else {
                    ANNOUNCEMENTS
                },
                timer: now,
                defended: None,
            },
        );
        true
    }

    /// A router has advertised the prefix that an address was made of (RFC 4862 section 5.5.3). True if it is new.
    pub(super) fn advertised(
        &mut self,
        address: Ipv6Addr,
        prefix: u8,
        (valid, preferred): (Instant, Instant),
        now: Instant,
    ) -> bool {
        let valid = match self.find(address.into()) {
            // An advertisement, which may be forged, shortens a lifetime to no less than two hours.
            Some(own) => valid.max(own.valid.min(now + TWO_HOURS)),
            None if valid <= now => return false,
            None if self.advertised_count() >= MAX_ADVERTISED => return false,
            None => valid,
        };
        self.add(
            address.into(),
            prefix,
            Origin::Router,
            (valid, preferred),
            now,
        )
    }

    fn advertised_count(&self) -> usize {
        let advertised = |own: &&Own| own.origin == Origin::Router;
        self.list.iter().filter(advertised).count()
    }

    /// Removes an address. True if it was there.
    pub(super) fn remove(&mut self, address: IpAddr) -> bool {
        let at = self.list.iter().position(|own| own.address == address);
        at.map(|at| self.list.remove(at)).is_some()
    }

    /// Somebody else has the address: removes it for good.
    pub(super) fn remove_duplicate(&mut self, address: Ipv6Addr) -> bool {
        if self.duplicates.len() >= MAX_DUPLICATES {
            self.duplicates.remove(0);
        }
        self.duplicates.push(address);
        self.remove(address.into())
    }

    /// Somebody else uses an IPv4 address of ours.
    pub(super) fn conflict(&mut self, address: IpAddr, now: Instant) -> Option<Conflict> {
        let own = self.list.iter_mut().find(|own| own.address == address)?;
        let recent = own
            .defended
            .is_some_and(|defended| now.since(defended) < DEFEND_INTERVAL);
        Some(match (recent, own.origin) {
            (false, _) => {
                own.defended = Some(now);
                Conflict::Defend
            }
            // One that was given by hand is never given up (RFC 5227 section 2.4 c): the server must stay where it is.
            (true, Origin::Static) => Conflict::Bear,
            (true, _) => Conflict::GiveUp,
        })
    }

    /// The source address for packets to `destination`: of the best ones the last.
    #[inline(never)]
    pub(super) fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        let mut best: Option<(u32, IpAddr)> = None;
        for own in &self.list {
            let rank = match (own.address, destination) {
                (IpAddr::V4(_), IpAddr::V4(_)) => {
                    let near = in_network(destination, own.address, own.prefix);
                    u32::from(near) << 8 | (0xff - own.origin as u32)
                }
                (IpAddr::V6(address), IpAddr::V6(destination)) => rank(address, own, destination),
                _ => continue,
            };
            if best.is_none_or(|(known, _)| known <= rank) {
                best = Some((rank, own.address));
            }
        }
        best.map(|(_, address)| address)
    }

    /// When [`advance`](Self::advance) has something to do.
    pub(super) fn deadline(&self) -> Instant {
        let each = self.list.iter().map(|own| {
            let preferred = if own.deprecated {
                Instant::FOREVER
            } else {
                own.preferred
            };
            own.timer.min(own.valid).min(preferred)
        });
        each.min().unwrap_or(Instant::FOREVER)
    }

    /// Does what is due.
    pub(super) fn advance(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        self.list.retain_mut(|own| {
            if own.valid <= now {
                events.push(Event::Expired(own.address));
                return false;
            }
            own.deprecated |= own.preferred <= now;
            if own.timer <= now && own.is_checking() {
                let interval = match own.address {
                    _ if own.checks == 0 => {
                        own.timer = Instant::FOREVER;
                        return true;
                    }
                    IpAddr::V4(address) => {
                        events.push(Event::Announce(address));
                        ANNOUNCE_INTERVAL
                    }
                    IpAddr::V6(address) => {
                        events.push(Event::Check(address));
                        CHECK_INTERVAL
                    }
                };
                own.checks -= 1;
                own.timer = now + interval;
            }
            true
        });
        events
    }
}

/// How good a source address is: the greater the better. Rules 1 to 3, 6 and 8 of RFC 6724 section 5; between 3 and 6
/// comes RFC 4429's, that one being checked should wait.
fn rank(source: Ipv6Addr, own: &Own, destination: Ipv6Addr) -> u32 {
    let (mine, wanted) = (scope(source), scope(destination));
    let fitting: u8 = if mine >= wanted { 100 - mine } else { mine };
    let common = (u128::from(source) ^ u128::from(destination)).leading_zeros();
    // The rules one behind the other, each with the bits that it needs.
    u32::from(source == destination) << 24
        | u32::from(fitting) << 16
        | u32::from(!own.deprecated) << 10
        | u32::from(!own.is_checking()) << 9
        | u32::from(label(source) == label(destination)) << 8
        | common.min(own.prefix.into())
}

/// RFC 4007; RFC 6724 section 3.1.
#[inline(never)]
pub(super) const fn scope(address: Ipv6Addr) -> u8 {
    let [first, second, ..] = address.octets();
    match first {
        0xff => second & 15,
        0xfe if second & 0xc0 == 0x80 => 2,
        0xfe if second & 0xc0 == 0xc0 => 5,
        _ if address.is_loopback() => 2,
        _ => 14,
    }
}

/// The labels of RFC 6724 section 2.1 that matter on links of today: unique local, 6to4, Teredo, all others.
#[inline(never)]
const fn label(address: Ipv6Addr) -> u8 {
    match address.segments() {
        [0xfc00..=0xfdff, ..] => 13,
        [0x2002, ..] => 2,
        [0x2001, 0, ..] => 5,
        _ => 1,
    }
}

/// True if `address` is in the network of the first `prefix` bits of `network`.
#[inline(never)]
pub(crate) fn in_network(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let prefix = u32::from(prefix);
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (u32::from(a) ^ u32::from(b)).leading_zeros() >= prefix.min(32)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (u128::from(a) ^ u128::from(b)).leading_zeros() >= prefix.min(128)
        }
        _ => false,
    }
}

/// The address for broadcasts in an IPv4 network (RFC 919); networks of up to two addresses have none (RFC 3021).
pub(super) fn broadcast_of(address: Ipv4Addr, prefix: u8) -> Option<Ipv4Addr> {
    let hosts = u32::MAX.checked_shr(prefix.into())?;
    (prefix < 31).then(|| Ipv4Addr::from(u32::from(address) | hosts))
}

/// The link-local address of an interface (RFC 4291 section 2.5.6).
pub(super) fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    autonomous(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), mac)
}

/// The address with a prefix of 64 bits and the identifier that is made of the Ethernet address (RFC 4291 appendix A).
pub(super) fn autonomous(prefix: Ipv6Addr, mac: [u8; 6]) -> Ipv6Addr {
    let mut bytes = prefix.octets();
    let [first, second, third, rest @ ..] = mac;
    put(&mut bytes, 8, &[first ^ 2, second, third, 0xff, 0xfe]);
    put(&mut bytes, 13, &rest);
    bytes.into()
}

#[cfg(test)]
mod tests;
