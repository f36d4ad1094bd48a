//! How an interface comes to its addresses and routes, and loses them.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kiln_abi::Instant;

use super::address::{Conflict, Origin, Own, autonomous, link_local};
use super::interface::Interface;
use super::neighbor::{self, Evidence, solicited_node};
use super::packet::group_mac;
use super::route::Route;
use super::router::Routers;
use super::{Context, Header};
use crate::config::{Ipv4Setup, Ipv6Setup};

impl Interface {
    /// Adds an address that no time ends. The caller rebuilds the routes.
    pub(super) fn add_forever(
        &mut self,
        address: IpAddr,
        prefix: u8,
        origin: Origin,
        now: Instant,
    ) {
        let forever = (Instant::FOREVER, Instant::FOREVER);
        if self.addresses.add(address, prefix, origin, forever, now) {
            self.address_added(address, now);
        }
    }

    /// True if the interface has the family.
    pub(super) fn speaks(&self, v6: bool) -> bool {
        if v6 {
            self.config.ipv6 != Ipv6Setup::Off
        } else {
            self.config.ipv4 != Ipv4Setup::Off
        }
    }

    /// The source for messages that stay on the link; unspecified if there is none.
    pub(super) fn link_source(&self, v6: bool) -> IpAddr {
        let (group, none): (IpAddr, IpAddr) = if v6 {
            (neighbor::ALL_NODES.into(), Ipv6Addr::UNSPECIFIED.into())
        } else {
            (Ipv4Addr::BROADCAST.into(), Ipv4Addr::UNSPECIFIED.into())
        };
        let local = |address: &IpAddr| match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        self.addresses
            .source_for(group)
            .filter(local)
            .unwrap_or(none)
    }

    /// Makes the list of routes from everything that is known.
    pub(super) fn rebuild_routes(&mut self) {
        let mut list = Vec::new();
        let mut add = |network: IpAddr, prefix: u8, gateway: Option<IpAddr>| {
            list.push(Route::new(network, prefix, gateway));
        };
        let add: &mut dyn FnMut(IpAddr, u8, Option<IpAddr>) = &mut add;
        for own in self.addresses.iter() {
            match own.origin {
                Origin::LinkLocal => add(own.address, 10, None),
                Origin::Router => {}
                Origin::Static | Origin::Dhcp => add(own.address, own.prefix, None),
            }
        }
        for route in &self.config.routes {
            if route.network.is_ipv4() == route.gateway.is_ipv4() {
                add(route.network, route.prefix, Some(route.gateway));
            }
        }
        if let Ipv4Setup::Static {
            gateway: Some(gateway),
            ..
        } = self.config.ipv4
        {
            add(Ipv4Addr::UNSPECIFIED.into(), 0, Some(gateway.into()));
        }
        if let Ipv6Setup::Static {
            gateway: Some(gateway),
            ..
        } = self.config.ipv6
        {
            add(Ipv6Addr::UNSPECIFIED.into(), 0, Some(gateway.into()));
        }
        let lease = self.dhcp4.as_ref().and_then(|client| client.lease());
        for learned in lease.iter().flat_map(|lease| &lease.routes) {
            let gateway = learned.gateway.map(IpAddr::V4);
            add(learned.network.into(), learned.prefix, gateway);
        }
        list.extend(self.routers.routes());
        self.changes.addresses |= self.routes.replace(list);
    }

    fn address_added(&mut self, address: IpAddr, now: Instant) {
        if let IpAddr::V6(address) = address {
            self.need_group(solicited_node(address), true, now);
        }
        self.changes.addresses = true;
        // It is to be announced or checked.
        self.due = now;
    }

    /// An address is not in the list any more.
    #[inline(never)]
    pub(super) fn address_gone(&mut self, address: IpAddr, now: Instant) {
        if let IpAddr::V6(address) = address {
            self.need_group(solicited_node(address), false, now);
        }
        self.changes.addresses = true;
        self.due = now;
        self.rebuild_routes();
    }

    /// The lease is another one, or gone.
    pub(super) fn lease_changed(&mut self, now: Instant) {
        let lease = self.dhcp4.as_ref().and_then(|client| client.lease());
        let new = lease.map(|lease| (IpAddr::V4(lease.address), lease.prefix));
        let mtu = lease.and_then(|lease| lease.mtu).unwrap_or(u16::MAX);
        self.mtu4 = self.mtu().min(mtu);
        let old = self.addresses.iter().find(|own| own.origin == Origin::Dhcp);
        let old = old.map(|own| own.address);
        if let Some(old) = old.filter(|old| Some(*old) != new.map(|new| new.0))
            && self.addresses.remove(old)
        {
            self.address_gone(old, now);
        }
        if let Some((address, prefix)) = new {
            self.add_forever(address, prefix, Origin::Dhcp, now);
        }
        self.changes.addresses = true;
        self.rebuild_routes();
    }

    /// Somebody else has an address that was being checked (RFC 4862 section 5.4.5).
    pub(super) fn duplicate(&mut self, address: Ipv6Addr, now: Instant, cx: &mut Context<'_>) {
        cx.stats.address_conflicts += 1;
        if !self.addresses.remove_duplicate(address) {
            return;
        }
        self.address_gone(address.into(), now);
        if address == link_local(self.mac) && self.config.ipv6 == Ipv6Setup::Auto {
            // Two have the same Ethernet address: all addresses made of it are duplicates.
            self.config.ipv6 = Ipv6Setup::Off;
            self.routers = Routers::default();
            let made = |own: &&Own| own.origin == Origin::Router;
            let made: Vec<IpAddr> = self
                .addresses
                .iter()
                .filter(made)
                .map(|own| own.address)
                .collect();
            for address in made {
                self.addresses.remove(address);
                self.address_gone(address, now);
            }
        }
    }

    /// Somebody else uses an IPv4 address of ours.
    pub(super) fn conflict(&mut self, address: IpAddr, now: Instant, cx: &mut Context<'_>) {
        cx.stats.address_conflicts += 1;
        let IpAddr::V4(v4) = address else {
            return;
        };
        match self.addresses.conflict(address, now) {
            Some(Conflict::Defend) => self.announce(v4, cx),
            Some(Conflict::GiveUp) => self.decline_dhcp4(now, cx),
            Some(Conflict::Bear) | None => {}
        }
    }

    /// Takes in a router advertisement; its checksum and hop limit have been checked.
    pub(super) fn receive_router_advert(
        &mut self,
        header: &Header,
        message: &[u8],
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let IpAddr::V6(router) = header.source else {
            return;
        };
        if !router.is_unicast_link_local() || message.get(1) != Some(&0) {
            cx.stats.dropped_malformed += 1;
            return;
        }
        // With static addresses, routes are static too.
        if self.config.ipv6 != Ipv6Setup::Auto {
            return;
        }
        let Some(advert) = self.routers.receive(router, message, now) else {
            cx.stats.dropped_malformed += 1;
            return;
        };
        let random = cx.random.next_u32();
        self.neighbors
            .set_times(advert.reachable, advert.retrans, random);
        if let Some(limit) = advert.hop_limit {
            self.hop_limit6 = limit;
        }
        if let Some(mtu) = advert.mtu
            && (1280..=u32::from(self.mtu())).contains(&mtu)
        {
            self.mtu6 = mtu as u16;
        }
        for prefix in advert.prefixes {
            let address = autonomous(prefix.network, self.mac);
            let lifetimes = (prefix.valid, prefix.preferred);
            if self.addresses.advertised(address, 64, lifetimes, now) {
                self.address_added(address.into(), now);
            }
        }
        if advert.dhcp {
            self.start_dhcp6(now, cx);
        }
        self.rebuild_routes();
        let mac = neighbor::link_layer(message.get(16..).unwrap_or_default(), 1);
        self.heard(router.into(), mac, Evidence::Asks, now, cx);
        self.neighbors.set_router(router.into());
        // New addresses are to be checked.
        self.reschedule();
        self.advance(now, cx);
    }

    /// Asks routers to advertise themselves.
    pub(super) fn send_router_solicitation(&mut self, now: Instant, cx: &mut Context<'_>) {
        let to = neighbor::ALL_ROUTERS;
        let IpAddr::V6(source) = self.link_source(true) else {
            return;
        };
        // RFC 4429 section 3.2: nothing that would change a router's cache before the address is checked.
        let checked = !source.is_unspecified() && !self.addresses.is_checking(source.into());
        let message = neighbor::Message {
            kind: neighbor::ROUTER_SOLICITATION,
            flags: 0,
            target: None,
            option: checked.then_some(1),
        };
        self.send_ndp(&message, source, to, group_mac(to.into()), now, cx);
    }
}
