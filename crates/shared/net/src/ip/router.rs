//! What routers advertise (RFC 4861 section 6.3, RFC 4191, RFC 8106), and asking them to (RFC 7559).
//!
//! Prefixes for addresses are handed on, see [`Advert`]. Everything is bounded, and what came first stays: a neighbour that
//! invents routers or prefixes cannot displace those that are in use.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use kiln_abi::Instant;

use super::neighbor::options;
use super::packet::{array, be32, same};
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

/// Bytes of an advertisement before its options.
const HEADER: usize = 16;
/// Flags of advertisements: addresses, and other things, come from DHCP.
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
/// Flags of prefixes.
const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;

const PREFIX_INFORMATION: u8 = 3;
const MTU: u8 = 5;
const ROUTE_INFORMATION: u8 = 24;
const RECURSIVE_DNS: u8 = 25;

/// What something that a router said is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A default route.
    Default,
    /// A network on the link.
    Prefix,
    /// Another route.
    Route,
    /// A DNS server: the "route" is its address.
    Server,
}

impl Kind {
    const fn most(self) -> usize {
        match self {
            Self::Default => MAX_ROUTERS,
            Self::Prefix => MAX_PREFIXES,
            Self::Route => MAX_ROUTES,
            Self::Server => MAX_SERVERS,
        }
    }
}

/// Something that holds until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    kind: Kind,
    what: Route,
    until: Instant,
}

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
    /// At most so many of each kind.
    known: Vec<Known>,
    /// When to ask next, and how long the interval was.
    solicit: Option<(Instant, Duration)>,
}

impl Routers {
    /// Nothing is known, and routers are to be asked at once. RFC 4861 section 6.3.7 wants a random delay before, against
    /// many hosts that start together; monitors start guests one by one.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            known: Vec::new(),
            solicit: Some((now, Duration::ZERO)),
        }
    }

    /// Takes in an advertisement whose IP header was in order. Nothing if it is malformed.
    #[inline(never)]
    pub(super) fn receive(
        &mut self,
        router: Ipv6Addr,
        message: &[u8],
        now: Instant,
    ) -> Option<Advert> {
        let options = options(message.get(HEADER..)?)?;
        let [_, _, _, _, limit, flags, lifetime @ ..]: [u8; 8] = array(message, 0)?;
        let lifetime = u16::from_be_bytes(lifetime);
        let millis = |at| match be32(message, at) {
            None | Some(0) => None,
            Some(millis) => Some(Duration::from_millis(millis.into())),
        };
        let mut advert = Advert {
            reachable: millis(8),
            retrans: millis(12),
            hop_limit: Some(limit).filter(|limit| *limit != 0),
            dhcp: flags & (MANAGED | OTHER) != 0,
            ..Advert::default()
        };
        let gateway = Some(IpAddr::V6(router));
        let mut everything = Route::new(Ipv6Addr::UNSPECIFIED.into(), 0, gateway);
        everything.preference = preference(flags).unwrap_or(MEDIUM);
        let until = now + Duration::from_secs(lifetime.into());
        self.learn(Kind::Default, everything, until, now);
        if lifetime > 0 {
            self.solicit = None;
        } else if self.solicit.is_none() && !self.has_router() {
            self.solicit = Some((now, Duration::ZERO));
        }
        for (kind, option) in options {
            self.option(router, kind, option, now, &mut advert);
        }
        Some(advert)
    }

    /// Takes in an option that has its length; others have looked at no more of it.
    #[inline(never)]
    fn option(
        &mut self,
        router: Ipv6Addr,
        kind: u8,
        option: &[u8],
        now: Instant,
        advert: &mut Advert,
    ) {
        let until = |at| match be32(option, at) {
            None => now,
            Some(u32::MAX) => Instant::FOREVER,
            Some(seconds) => now + Duration::from_secs(seconds.into()),
        };
        let [_, _, length, flags] = array(option, 0).unwrap_or_default();
        match kind {
            PREFIX_INFORMATION => {
                let Some(prefix) = array::<16>(option, 16).map(Ipv6Addr::from) else {
                    return;
                };
                let (valid, preferred) = (until(4), until(8));
                if !is_host6(prefix) || prefix.is_unicast_link_local() {
                    return;
                }
                if flags & ON_LINK != 0 && length <= 128 {
                    let route = Route::new(prefix.into(), length, None);
                    self.learn(Kind::Prefix, route, valid, now);
                }
                if flags & AUTONOMOUS != 0
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
            MTU => advert.mtu = be32(option, 4),
            ROUTE_INFORMATION => {
                let mut prefix = [0; 16];
                let given = option.get(8..).unwrap_or_default();
                for (place, byte) in prefix.iter_mut().zip(given) {
                    *place = *byte;
                }
                // Section 2.3: as many bytes of the prefix as its length needs, and no reserved preference.
                if length <= 128
                    && given.len() * 8 >= usize::from(length)
                    && let Some(preference) = preference(flags)
                {
                    let network = Ipv6Addr::from(prefix).into();
                    let mut route = Route::new(network, length, Some(router.into()));
                    route.preference = preference;
                    self.learn(Kind::Route, route, until(4), now);
                }
            }
            RECURSIVE_DNS => {
                let list = option.get(8..).unwrap_or_default();
                for bytes in list.as_chunks::<16>().0 {
                    let server = Ipv6Addr::from(*bytes);
                    if is_host6(server) {
                        let route = Route::new(server.into(), 128, None);
                        self.learn(Kind::Server, route, until(4), now);
                    }
                }
            }
            _ => {}
        }
    }

    /// Notes that `what` holds until then; not at all if that is now.
    #[inline(never)]
    fn learn(&mut self, kind: Kind, what: Route, until: Instant, now: Instant) {
        let mut count = 0;
        for (at, known) in self.known.iter_mut().enumerate() {
            if known.kind != kind {
                continue;
            }
            count += 1;
            let old = &known.what;
            if old.prefix == what.prefix
                && same(&old.network, &what.network)
                && old.gateway == what.gateway
            {
                if until <= now {
                    self.known.remove(at);
                } else {
                    (known.what, known.until) = (what, until);
                }
                return;
            }
        }
        if until > now && count < kind.most() {
            self.known.push(Known { kind, what, until });
        }
    }

    /// The neighbour says that it is no router any more (RFC 4861 section 7.2.5).
    pub(super) fn remove(&mut self, router: IpAddr) {
        self.keep(&|known| known.what.gateway != Some(router));
    }

    /// All routes.
    pub(super) fn routes(&self) -> impl Iterator<Item = Route> {
        let routes = self.known.iter();
        let routes = routes.filter(|known| known.kind != Kind::Server);
        routes.map(|known| known.what)
    }

    /// The DNS servers.
    pub(super) fn servers(&self) -> impl Iterator<Item = IpAddr> {
        let servers = self.known.iter();
        let servers = servers.filter(|known| known.kind == Kind::Server);
        servers.map(|known| known.what.network)
    }

    /// Forgets what no longer holds; with the last router, asks for others. True if anything was forgotten.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let (before, had_router) = (self.known.len(), self.has_router());
        self.keep(&|known| known.until > now);
        if had_router && !self.has_router() {
            // RFC 7559 section 2: until somebody answers. Its advertisements may have been lost, or were not sent to all.
            self.solicit = Some((now, Duration::ZERO));
        }
        self.known.len() != before
    }

    fn has_router(&self) -> bool {
        let mut known = self.known.iter();
        known.any(|known| known.kind == Kind::Default)
    }

    fn keep(&mut self, wanted: &dyn Fn(&Known) -> bool) {
        self.known.retain(|known| wanted(known));
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
        let mut first = self.solicit.map_or(Instant::FOREVER, |(due, _)| due);
        for known in &self.known {
            first = first.min(known.until);
        }
        first
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
#[inline(never)]
pub(super) fn vary(interval: Duration, random: &mut Random) -> Duration {
    let nanos = nanos(interval);
    Duration::from_nanos(nanos - nanos / 10 + nanos / 5 / 1024 * u64::from(random.below(1025)))
}

/// A random part of a duration, in steps of a thousandth.
#[inline(never)]
pub(super) fn part_of(time: Duration, random: &mut Random) -> Duration {
    Duration::from_nanos(nanos(time) / 1000 * u64::from(random.below(1000)))
}

/// Durations here are far from the greatest.
const fn nanos(time: Duration) -> u64 {
    time.as_secs() * 1_000_000_000 + time.subsec_nanos() as u64
}
