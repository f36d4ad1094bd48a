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
    /// The gateway does not answer.
    pub lost: bool,
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
            lost: false,
        }
    }
}

/// The routes of an interface. Whoever contributes some limits their number.
#[derive(Debug, Default)]
pub(super) struct Routes {
    list: Vec<Route>,
}

impl Routes {
    /// Replaces all routes. What is known about gateways stays known. True if they differ from before.
    pub(super) fn replace(&mut self, mut list: Vec<Route>) -> bool {
        for route in &mut list {
            route.lost = self
                .list
                .iter()
                .any(|old| old.lost && old.gateway == route.gateway);
        }
        let changed = list != self.list;
        self.list = list;
        changed
    }

    /// The route to `remote`: that with the longest prefix, of these one whose gateway answers, of these the preferred one.
    pub(super) fn find(&self, remote: IpAddr) -> Option<&Route> {
        let mut best: Option<&Route> = None;
        let rank = |route: &Route| (route.prefix, !route.lost, route.preference);
        for route in &self.list {
            if in_network(remote, route.network, route.prefix)
                && best.is_none_or(|best| rank(route) > rank(best))
            {
                best = Some(route);
            }
        }
        best
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

    /// A gateway does not answer any more. Among equals others are tried before it is its turn again.
    pub(super) fn lose(&mut self, gateway: IpAddr) {
        let mut behind = Vec::new();
        self.list.retain_mut(|route| {
            let lost = route.gateway == Some(gateway);
            if lost {
                route.lost = true;
                behind.push(*route);
            }
            !lost
        });
        self.list.append(&mut behind);
    }

    /// A neighbour was heard.
    pub(super) fn regain(&mut self, gateway: IpAddr) {
        for route in &mut self.list {
            route.lost &= route.gateway != Some(gateway);
        }
    }
}
