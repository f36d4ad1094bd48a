//! The next hop.
//!
//! One list holds everything that says where packets go: the networks of the addresses, prefixes that routers call on-link,
//! configured routes, gateways, routers, what DHCP and route information options (RFC 4191) add. It is made anew when any
//! of these changes, which is rare; finding a route walks it once.
//!
//! Redirects (RFC 792, RFC 4861 section 8) are ignored. They save a hop when the first router was a bad choice, everything
//! arrives without them, and any neighbour can forge them.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::address::in_network;

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub network: IpAddr,
    pub prefix: u8,
    /// Nothing if the network is on the link.
    pub gateway: Option<IpAddr>,
    /// RFC 4191 section 2.1, the greater the better. Ordinary ones have [`MEDIUM`].
    pub preference: u8,
    /// The gateway does not answer; the greater the number, the later that was found out. 0 if it does.
    pub lost: u32,
}

/// See [`Route::preference`].
pub(super) const MEDIUM: u8 = 1;

impl Route {
    pub(super) const fn new(network: IpAddr, prefix: u8, gateway: Option<IpAddr>) -> Self {
        Self {
            network,
            prefix,
            gateway,
            preference: MEDIUM,
            lost: 0,
        }
    }
}

/// The routes of an interface. Whoever contributes some limits their number.
#[derive(Debug, Default)]
pub(super) struct Routes {
    list: Vec<Route>,
    /// How often a gateway was lost.
    losses: u32,
}

impl Routes {
    /// Replaces all routes. What is known about gateways stays known. True if they differ from before.
    pub(super) fn replace(&mut self, mut list: Vec<Route>) -> bool {
        for route in &mut list {
            let old = self.list.iter().find(|old| old.gateway == route.gateway);
            route.lost = old.map_or(0, |old| old.lost);
        }
        let changed = list != self.list;
        self.list = list;
        changed
    }

    /// The route to `remote`: that with the longest prefix, of these one whose gateway answers, of these the preferred one.
    /// Among equals it is the first, or the one that was lost first: they take turns.
    pub(super) fn find(&self, remote: IpAddr) -> Option<&Route> {
        let mut best: Option<(u64, &Route)> = None;
        for route in &self.list {
            let rank = u64::from(route.prefix) << 48
                | u64::from(route.lost == 0) << 40
                | u64::from(route.preference) << 32
                | u64::from(!route.lost);
            if in_network(remote, route.network, route.prefix)
                && best.is_none_or(|(known, _)| rank > known)
            {
                best = Some((rank, route));
            }
        }
        best.map(|(_, route)| route)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.list.iter()
    }

    /// True if `address` is in a network of the link.
    pub(super) fn is_on_link(&self, address: IpAddr) -> bool {
        self.list.iter().any(|route| {
            route.gateway.is_none() && in_network(address, route.network, route.prefix)
        })
    }

    /// True for the gateway of a route.
    pub(super) fn is_router(&self, address: IpAddr) -> bool {
        self.list.iter().any(|route| route.gateway == Some(address))
    }

    /// A gateway does not answer any more.
    pub(super) fn lose(&mut self, gateway: IpAddr) {
        self.losses += 1;
        self.set_lost(gateway, self.losses);
    }

    /// A neighbour was heard.
    pub(super) fn regain(&mut self, gateway: IpAddr) {
        self.set_lost(gateway, 0);
    }

    #[inline(never)]
    fn set_lost(&mut self, gateway: IpAddr, lost: u32) {
        for route in &mut self.list {
            if route.gateway == Some(gateway) {
                route.lost = lost;
            }
        }
    }
}
