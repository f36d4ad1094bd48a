//! What routers advertise (RFC 4861 section 6.3, RFC 4191, RFC 8106), and asking them to (RFC 7559).
//!
//! Prefixes for addresses are handed on, see [`Advert`]. Everything is bounded, and what came first stays: a neighbour that
//! invents routers or prefixes cannot displace those that are in use.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use kiln_abi::Instant;
use smoltcp::wire::{Icmpv6Packet, NdiscOption, NdiscPrefixInfoFlags, NdiscRouterFlags};

use super::neighbor::options;
use super::packet::{array, be32};
use super::route::{MEDIUM, Route};
use crate::config::is_host6;
use crate::random::Random;

const MAX_ROUTERS: usize = 4;
const MAX_PREFIXES: usize = 8;
const MAX_ROUTES: usize = 8;
const MAX_SERVERS: usize = 3;

/// RFC 7559 section 2: the first interval, and the longest.
const SOLICIT_FIRST: Duration = Duration::from_secs(4);
const SOLICIT_MOST: Duration = Duration::from_hours(1);

const ROUTE_INFORMATION: u8 = 24;
const RECURSIVE_DNS: u8 = 25;

/// Something that holds until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Until<T> {
    what: T,
    until: Instant,
}

/// A prefix and its router, if it has one.
type Known = Until<Route>;

/// A prefix to make an address of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    pub network: Ipv6Addr,
    pub valid: Instant,
    pub preferred: Instant,
}

/// What others have to do about an advertisement.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Advert {
    /// Prefixes for addresses, at most eight.
    pub prefixes: Vec<Prefix>,
    pub reachable: Option<Duration>,
    pub retrans: Option<Duration>,
    pub mtu: Option<u32>,
    pub hop_limit: Option<u8>,
    /// There is more to be learned from DHCP.
    pub dhcp: bool,
}

/// What is known from routers.
#[derive(Debug, Default)]
pub(super) struct Routers {
    /// Default routes.
    defaults: Vec<Known>,
    /// Networks on the link.
    prefixes: Vec<Known>,
    /// Other routes.
    routes: Vec<Known>,
    servers: Vec<Until<Ipv6Addr>>,
    /// When to ask next, and how long the interval was.
    solicit: Option<(Instant, Duration)>,
}

impl Routers {
    /// Nothing is known, and routers are to be asked at once. RFC 4861 section 6.3.7 wants a random delay before, against
    /// many hosts that start together; monitors start guests one by one.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            solicit: Some((now, Duration::ZERO)),
            ..Self::default()
        }
    }

    /// Takes in an advertisement whose IP header was in order. Nothing if it is malformed.
    pub(super) fn receive(
        &mut self,
        router: Ipv6Addr,
        message: &Icmpv6Packet<&[u8]>,
        now: Instant,
    ) -> Option<Advert> {
        let options = options(message.payload())?;
        let bytes: &[u8] = message.as_ref();
        let lifetime: u16 = array(bytes, 6).map(u16::from_be_bytes)?;
        let millis = |at| match be32(bytes, at) {
            None | Some(0) => None,
            Some(millis) => Some(Duration::from_millis(millis.into())),
        };
        let flags = message.router_flags();
        let mut advert = Advert {
            reachable: millis(8),
            retrans: millis(12),
            hop_limit: Some(message.current_hop_limit()).filter(|limit| *limit != 0),
            dhcp: flags.intersects(NdiscRouterFlags::OTHER | NdiscRouterFlags::MANAGED),
            ..Advert::default()
        };
        let gateway = Some(IpAddr::V6(router));
        let everything = Route {
            preference: preference(*bytes.get(5)?).unwrap_or(MEDIUM),
            ..Route::new(Ipv6Addr::UNSPECIFIED.into(), 0, gateway)
        };
        let until = now + Duration::from_secs(lifetime.into());
        learn(&mut self.defaults, MAX_ROUTERS, everything, until, now);
        if lifetime > 0 {
            self.solicit = None;
        }
        for option in options {
            self.option(router, &option, now, &mut advert);
        }
        Some(advert)
    }

    fn option(
        &mut self,
        router: Ipv6Addr,
        option: &NdiscOption<&[u8]>,
        now: Instant,
        advert: &mut Advert,
    ) {
        let data = option.data();
        let kind = u8::from(option.option_type());
        let until = |at| match be32(data, at) {
            None => now,
            Some(u32::MAX) => Instant::FOREVER,
            Some(seconds) => now + Duration::from_secs(seconds.into()),
        };
        match kind {
            // Prefix information.
            3 => {
                let prefix = option.prefix();
                let (valid, preferred) = (until(2), until(6));
                if !is_host6(prefix) || prefix.is_unicast_link_local() {
                    return;
                }
                let flags = option.prefix_flags();
                let length = option.prefix_len();
                if flags.contains(NdiscPrefixInfoFlags::ON_LINK) && length <= 128 {
                    let route = Route::new(prefix.into(), length, None);
                    learn(&mut self.prefixes, MAX_PREFIXES, route, valid, now);
                }
                if flags.contains(NdiscPrefixInfoFlags::ADDRCONF)
                    && length == 64
                    && preferred <= valid
                    && advert.prefixes.len() < MAX_PREFIXES
                {
                    advert.prefixes.push(Prefix {
                        network: prefix,
                        valid,
                        preferred,
                    });
                }
            }
            5 => advert.mtu = Some(option.mtu()),
            ROUTE_INFORMATION => {
                let [length, flags] = array(data, 0).unwrap_or([255, 0]);
                let mut prefix = [0; 16];
                let given = data.get(6..).unwrap_or_default();
                for (place, byte) in prefix.iter_mut().zip(given) {
                    *place = *byte;
                }
                // Section 2.3: as many bytes of the prefix as its length needs, and no reserved preference.
                if length <= 128
                    && given.len() * 8 >= usize::from(length)
                    && let Some(preference) = preference(flags)
                {
                    let gateway = Some(IpAddr::V6(router));
                    let route = Route {
                        preference,
                        ..Route::new(Ipv6Addr::from(prefix).into(), length, gateway)
                    };
                    learn(&mut self.routes, MAX_ROUTES, route, until(2), now);
                }
            }
            RECURSIVE_DNS => {
                let list = data.get(6..).unwrap_or_default();
                for bytes in list.as_chunks::<16>().0 {
                    let server = Ipv6Addr::from(*bytes);
                    if is_host6(server) {
                        learn(&mut self.servers, MAX_SERVERS, server, until(2), now);
                    }
                }
            }
            _ => {}
        }
    }

    /// The neighbour says that it is no router any more (RFC 4861 section 7.2.5).
    pub(super) fn remove(&mut self, router: IpAddr) {
        self.defaults
            .retain(|known| known.what.gateway != Some(router));
        self.routes
            .retain(|known| known.what.gateway != Some(router));
    }

    /// All routes.
    pub(super) fn routes(&self) -> impl Iterator<Item = Route> {
        let all = self
            .prefixes
            .iter()
            .chain(&self.routes)
            .chain(&self.defaults);
        all.map(|known| known.what)
    }

    /// The DNS servers.
    pub(super) fn servers(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.servers.iter().map(|known| known.what)
    }

    /// Forgets what no longer holds. True if anything was forgotten.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let lengths = |routers: &Self| {
            routers.defaults.len()
                + routers.prefixes.len()
                + routers.routes.len()
                + routers.servers.len()
        };
        let before = lengths(self);
        for list in [&mut self.defaults, &mut self.prefixes, &mut self.routes] {
            list.retain(|known| known.until > now);
        }
        self.servers.retain(|known| known.until > now);
        lengths(self) != before
    }

    /// True, once, when routers are to be asked.
    pub(super) fn solicit(&mut self, now: Instant, random: &mut Random) -> bool {
        let Some((due, last)) = self.solicit else {
            return false;
        };
        if now < due {
            return false;
        }
        let interval = if last.is_zero() {
            SOLICIT_FIRST
        } else {
            last * 2
        };
        let interval = vary(interval.min(SOLICIT_MOST), random);
        self.solicit = Some((now + interval, interval));
        true
    }

    /// When [`expire`](Self::expire) or [`solicit`](Self::solicit) will have something to do.
    pub(super) fn deadline(&self) -> Instant {
        let known = self
            .prefixes
            .iter()
            .chain(&self.routes)
            .chain(&self.defaults);
        let known = known.map(|known| known.until);
        let servers = self.servers.iter().map(|known| known.until);
        let solicit = self.solicit.map(|(due, _)| due);
        known
            .chain(servers)
            .chain(solicit)
            .min()
            .unwrap_or(Instant::FOREVER)
    }
}

/// Notes that `what` holds until then; not at all if that is now.
fn learn<T: Same>(list: &mut Vec<Until<T>>, most: usize, what: T, until: Instant, now: Instant) {
    let at = list.iter().position(|known| known.what.same(&what));
    match at {
        Some(at) if until <= now => drop(list.remove(at)),
        Some(at) => list[at] = Until { what, until },
        None if until > now && list.len() < most => list.push(Until { what, until }),
        None => {}
    }
}

/// Whether new information is about the same thing.
trait Same {
    fn same(&self, other: &Self) -> bool;
}

impl Same for Route {
    fn same(&self, other: &Self) -> bool {
        (self.network, self.prefix, self.gateway) == (other.network, other.prefix, other.gateway)
    }
}

impl Same for Ipv6Addr {
    fn same(&self, other: &Self) -> bool {
        self == other
    }
}

/// RFC 4191 section 2.1: the signed two bits, from 0 for low to 2 for high; nothing for the reserved value.
const fn preference(flags: u8) -> Option<u8> {
    match flags >> 3 & 3 {
        0 => Some(1),
        1 => Some(2),
        3 => Some(0),
        _ => None,
    }
}

/// A tenth more or less (RFC 8415 section 15).
pub(super) fn vary(interval: Duration, random: &mut Random) -> Duration {
    interval / 10 * 9 + interval / 5 / 1024 * random.below(1025)
}
