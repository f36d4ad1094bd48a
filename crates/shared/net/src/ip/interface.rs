//! The interface: what happens to a frame, and what time asks for.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kiln_abi::Instant;
use smoltcp::wire::{Icmpv6Packet, NdiscRepr, RawHardwareAddress};

use super::address::{self, Addresses, Conflict, Origin, broadcast_of, link_local};
use super::icmp::Limit;
use super::neighbor::{self, Evidence, Neighbors};
use super::packet::{self, Fault, Mac, Packet, group_mac};
use super::path_mtu::PathMtus;
use super::route::{Route, Routes};
use super::router::Routers;
use super::{Changes, Context, ETHERNET_HEADER, Header, Input, TCP, UDP};
use crate::config::{Ipv4Setup, Ipv6Setup, LinkConfig, is_host4, is_host6};

/// One link as the internet protocols see it.
pub(crate) struct Interface {
    pub(super) loopback: bool,
    pub(super) mac: Mac,
    mtu: u16,
    mtu4: u16,
    mtu6: u16,
    hop_limit6: u8,
    config: LinkConfig,
    pub(super) addresses: Addresses,
    pub(super) neighbors: Neighbors,
    pub(super) routes: Routes,
    pub(super) routers: Routers,
    pub(super) path_mtus: PathMtus,
    pub(super) errors: Limit,
    pub(super) changes: Changes,
    /// Nothing is to be done earlier.
    pub(super) due: Instant,
}

/// To whom a packet is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cast {
    Own,
    Group,
    Broadcast,
    Other,
}

/// What is known about a received packet besides its header.
#[derive(Clone, Copy)]
pub(super) struct Origins<'a> {
    pub cast: Cast,
    /// The Ethernet address that it came from.
    pub from: Mac,
    /// The packet as it came; empty if it was put together from fragments.
    pub whole: &'a [u8],
    /// Where in it the protocol is named.
    pub named_at: usize,
    /// There was an IPv6 fragment header.
    pub fragmented: bool,
    /// There was a router alert.
    pub alert: bool,
}

impl Interface {
    /// An interface that comes up now. `config` has been checked.
    pub(crate) fn new(config: &LinkConfig, now: Instant, cx: &mut Context<'_>) -> Self {
        let mut interface = Self {
            mac: config.mac,
            config: config.clone(),
            neighbors: Neighbors::new(cx.random.next_u32()),
            ..Self::bare(config.mtu)
        };
        if let Ipv4Setup::Static {
            address, prefix, ..
        } = config.ipv4
        {
            interface.add_forever(address.into(), prefix, Origin::Static, now);
        }
        match config.ipv6 {
            Ipv6Setup::Off => {}
            Ipv6Setup::Static {
                address, prefix, ..
            } => interface.add_forever(address.into(), prefix, Origin::Static, now),
            Ipv6Setup::Auto => interface.routers = Routers::new(now),
        }
        if config.ipv6 != Ipv6Setup::Off {
            interface.add_forever(link_local(config.mac).into(), 64, Origin::LinkLocal, now);
        }
        interface.rebuild_routes();
        interface.due = now;
        interface.advance(now, cx);
        interface
    }

    /// The loopback interface: 127.0.0.0/8 and `::1`, no neighbours; frames have an Ethernet header of zeros, and
    /// everything that arrives is taken, since only this stack sends here.
    pub(crate) fn loopback(mtu: u16) -> Self {
        let mut interface = Self::bare(mtu);
        interface.loopback = true;
        interface
    }

    fn bare(mtu: u16) -> Self {
        Self {
            loopback: false,
            mac: [0; 6],
            mtu,
            mtu4: mtu,
            mtu6: mtu,
            hop_limit6: 64,
            config: LinkConfig::new([0; 6]),
            addresses: Addresses::default(),
            neighbors: Neighbors::new(0),
            routes: Routes::default(),
            routers: Routers::default(),
            path_mtus: PathMtus::default(),
            errors: Limit::default(),
            changes: Changes::default(),
            due: Instant::FOREVER,
        }
    }

    /// Takes in a frame.
    pub(crate) fn receive<'f>(
        &mut self,
        frame: &'f [u8],
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Input<'f> {
        let Some((ethernet, bytes)) = frame.split_first_chunk::<ETHERNET_HEADER>() else {
            cx.stats.dropped_malformed += 1;
            return Input::Done;
        };
        let [a, b, c, d, e, f, from @ .., kind0, kind1] = *ethernet;
        let to_group = a & 1 == 1;
        let kind = match bytes.first() {
            Some(first) if self.loopback => match first >> 4 {
                4 => [0x08, 0x00],
                _ => [0x86, 0xdd],
            },
            _ => {
                // Bridges flood: only what is for this host, or for many, is worth a look.
                if !to_group && [a, b, c, d, e, f] != self.mac {
                    return Input::Done;
                }
                [kind0, kind1]
            }
        };
        let outcome = match kind {
            [0x08, 0x00] => self.receive4(bytes, to_group, from, now, cx),
            [0x86, 0xdd] => self.receive6(bytes, to_group, from, now, cx),
            [0x08, 0x06] => {
                self.receive_arp(frame, bytes, now, cx);
                Ok(Input::Done)
            }
            _ => Ok(Input::Done),
        };
        match outcome {
            Ok(input) => input,
            Err(fault) => {
                match fault {
                    Fault::Malformed => cx.stats.dropped_malformed += 1,
                    Fault::Checksum => cx.stats.dropped_checksum += 1,
                    Fault::Unsupported => cx.stats.dropped_unsupported += 1,
                    Fault::Silent | Fault::Problem { .. } => {}
                }
                Input::Done
            }
        }
    }

    fn receive4<'f>(
        &mut self,
        bytes: &'f [u8],
        to_group: bool,
        from: Mac,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Result<Input<'f>, Fault> {
        let packet = packet::ipv4(bytes)?;
        let Some(cast) = self.admit(&packet, to_group, cx) else {
            return Ok(Input::Done);
        };
        let about = Origins {
            cast,
            from,
            whole: packet.whole,
            named_at: 9,
            fragmented: false,
            alert: false,
        };
        if packet.fragment.is_some() {
            return Err(Fault::Unsupported);
        }
        Ok(self.deliver(packet.header, Cow::Borrowed(packet.payload), &about, now, cx))
    }

    fn receive6<'f>(
        &mut self,
        bytes: &'f [u8],
        to_group: bool,
        from: Mac,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Result<Input<'f>, Fault> {
        let packet = packet::ipv6(bytes)?;
        let Some(cast) = self.admit(&packet, to_group, cx) else {
            return Ok(Input::Done);
        };
        let mut about = Origins {
            cast,
            from,
            whole: packet.whole,
            named_at: 6,
            fragmented: false,
            alert: false,
        };
        let mut header = packet.header;
        let mut payload = packet.payload;
        if packet::is_extension(header.protocol) {
            let walk = match packet::walk(packet.whole, header.protocol, packet::IPV6_HEADER, 6) {
                Ok(walk) => walk,
                Err(fault) => {
                    self.problem(&header, &about, fault, now, cx);
                    return Err(fault);
                }
            };
            header.protocol = walk.protocol;
            payload = packet.whole.get(walk.at..).ok_or(Fault::Malformed)?;
            about.named_at = walk.named_at;
            about.fragmented = walk.fragmented;
            about.alert = walk.alert;
            if walk.fragment.is_some() {
                return Err(Fault::Unsupported);
            }
        }
        Ok(self.deliver(header, Cow::Borrowed(payload), &about, now, cx))
    }

    /// To whom a packet is addressed; nothing if it is not for us, or cannot come from outside.
    fn admit(
        &mut self,
        packet: &Packet<'_>,
        to_group: bool,
        cx: &mut Context<'_>,
    ) -> Option<Cast> {
        if self.loopback {
            return Some(Cast::Own);
        }
        let Header {
            source,
            destination,
            protocol,
            ..
        } = packet.header;
        let plausible = match source {
            // RFC 1122 section 3.2.1.3. Snooping switches query groups without an address (RFC 4541 section 2.1.1).
            IpAddr::V4(source) => {
                is_host4(source) && source.octets()[0] < 240 && !self.is_broadcast(source.into())
                    || (source.is_unspecified() && protocol == packet::IGMP)
            }
            // RFC 4291 section 2.5.5.2: mapped addresses are not for the wire. Without an address one can only ask.
            IpAddr::V6(source) => {
                is_host6(source) && source.to_ipv4_mapped().is_none()
                    || (source.is_unspecified() && protocol == packet::ICMPV6)
            }
        };
        let cast = self.cast(destination);
        // Another owner of an address advertises it from that address; `receive_icmp6` lets nothing else pass.
        let ours = self.addresses.has(source) && protocol != packet::ICMPV6;
        if !plausible || ours || destination.is_loopback() {
            cx.stats.dropped_martian += 1;
            return None;
        }
        match cast {
            Cast::Other => None,
            // RFC 1122 section 3.3.6: who sends to all with an address of one is up to no good.
            Cast::Own if to_group => {
                cx.stats.dropped_martian += 1;
                None
            }
            cast => Some(cast),
        }
    }

    fn cast(&self, destination: IpAddr) -> Cast {
        if self.addresses.has(destination) {
            Cast::Own
        } else if destination.is_multicast() {
            if self.in_group(destination) {
                Cast::Group
            } else {
                Cast::Other
            }
        } else if self.is_broadcast(destination) {
            Cast::Broadcast
        } else {
            Cast::Other
        }
    }

    fn in_group(&self, group: IpAddr) -> bool {
        match group {
            IpAddr::V4(group) => group == Ipv4Addr::new(224, 0, 0, 1),
            IpAddr::V6(group) => {
                group == neighbor::ALL_NODES
                    || self.addresses.iter().any(|own| match own.address {
                        IpAddr::V6(address) => neighbor::solicited_node(address) == group,
                        IpAddr::V4(_) => false,
                    })
            }
        }
    }

    /// True for an address that means everybody in an IPv4 network of the link.
    pub(super) fn is_broadcast(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else {
            return false;
        };
        address.is_broadcast()
            || self.addresses.iter().any(|own| match own.address {
                IpAddr::V4(mine) => broadcast_of(mine, own.prefix) == Some(address),
                IpAddr::V6(_) => false,
            })
    }

    /// Hands a complete packet to whom it is for.
    fn deliver<'f>(
        &mut self,
        header: Header,
        payload: Cow<'f, [u8]>,
        about: &Origins<'_>,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Input<'f> {
        match (header.protocol, header.source) {
            // RFC 9293 section 3.9.2.3: connections are between two.
            (TCP, _) if about.cast == Cast::Own => Input::Packet(header, payload),
            (TCP, _) => Input::Done,
            (UDP, _) => Input::Packet(header, payload),
            (packet::ICMP, IpAddr::V4(_)) => self.receive_icmp4(&header, &payload, about, now, cx),
            (packet::ICMPV6, IpAddr::V6(_)) => {
                self.receive_icmp6(&header, &payload, about, now, cx)
            }
            _ => {
                cx.stats.dropped_unsupported += 1;
                self.protocol_unreachable(&header, &payload, about, now, cx);
                Input::Done
            }
        }
    }

    /// Does what is due.
    pub(crate) fn advance(&mut self, now: Instant, cx: &mut Context<'_>) {
        if now < self.due {
            return;
        }
        for event in self.addresses.advance(now) {
            match event {
                address::Event::Announce(address) => self.announce(address, cx),
                address::Event::Check(address) => self.check_address(address, now, cx),
                address::Event::Expired(address) => self.address_gone(address, now, cx),
            }
        }
        for event in self.neighbors.advance(now) {
            match event {
                neighbor::Event::Solicit(address, mac) => self.solicit(address, mac, now, cx),
                neighbor::Event::Failed(address) => {
                    self.changes.neighbors = true;
                    self.routes.lose(address);
                    cx.stats.neighbors_failed += 1;
                }
            }
        }
        if self.routers.expire(now) {
            self.rebuild_routes();
        }
        if self.routers.solicit(now, cx.random) {
            self.send_router_solicitation(now, cx);
        }
        self.reschedule();
    }

    /// Notes when [`advance`](Self::advance) has something to do.
    fn reschedule(&mut self) {
        self.due = self
            .addresses
            .deadline()
            .min(self.neighbors.deadline())
            .min(self.routers.deadline());
    }

    /// When [`advance`](Self::advance) has something to do.
    pub(crate) fn deadline(&self) -> Instant {
        self.due
    }

    /// What has changed since the last call.
    pub(crate) fn changes(&mut self) -> Changes {
        core::mem::take(&mut self.changes)
    }

    /// The addresses that may be used, with the lengths of their prefixes: IPv4 first, link-local last; tentative ones are
    /// not there.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        const LOOPBACK: [(IpAddr, u8); 2] = [
            (IpAddr::V4(Ipv4Addr::LOCALHOST), 8),
            (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
        ];
        let loopback = if self.loopback { &LOOPBACK[..] } else { &[] };
        let own = self.addresses.iter().map(|own| (own.address, own.prefix));
        loopback.iter().copied().chain(own)
    }

    /// True for an address of this interface that may be used.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        if self.loopback {
            address.is_loopback()
        } else {
            self.addresses.has(address)
        }
    }

    /// The DNS servers learned or configured, in the order in which they are to be asked.
    pub(crate) fn name_servers(&self) -> impl Iterator<Item = IpAddr> {
        let learned6 = self.routers.servers().map(IpAddr::V6);
        self.config.dns.iter().copied().chain(learned6)
    }

    /// An upper layer has evidence that the neighbour hears us (RFC 4861 section 7.3.1).
    pub(crate) fn confirm(&mut self, next_hop: IpAddr, now: Instant) {
        self.neighbors.confirm(next_hop, now);
    }

    /// The MTU of the link.
    pub(crate) fn mtu(&self) -> u16 {
        self.mtu
    }

    /// The Ethernet address.
    pub(crate) fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The hop limit for packets of this host, as routers advise it.
    pub(crate) fn hop_limit(&self, v6: bool) -> u8 {
        if v6 { self.hop_limit6 } else { 64 }
    }

    /// The greatest packet that gets through to `remote`, as far as is known.
    pub(crate) fn path_mtu(&self, remote: IpAddr, now: Instant) -> u16 {
        let link = if remote.is_ipv4() { self.mtu4 } else { self.mtu6 };
        self.path_mtus
            .get(remote, now)
            .map_or(link, |mtu| mtu.min(link))
    }

    fn add_forever(&mut self, address: IpAddr, prefix: u8, origin: Origin, now: Instant) {
        let forever = (Instant::FOREVER, Instant::FOREVER);
        self.addresses.add(address, prefix, origin, forever, now);
        self.changes.addresses = true;
    }

    /// Makes the list of routes from everything that is known.
    pub(super) fn rebuild_routes(&mut self) {
        let mut list = Vec::new();
        let mut default4 = None;
        let mut default6 = None;
        for own in self.addresses.iter() {
            match own.origin {
                Origin::LinkLocal => list.push(Route::new(own.address, 10, None)),
                Origin::Router => {}
                Origin::Static | Origin::Dhcp => {
                    list.push(Route::new(own.address, own.prefix, None));
                }
            }
        }
        if let Ipv4Setup::Static { gateway, .. } = self.config.ipv4 {
            default4 = gateway;
        }
        if let Ipv6Setup::Static { gateway, .. } = self.config.ipv6 {
            default6 = gateway;
        }
        for route in &self.config.routes {
            if route.network.is_ipv4() == route.gateway.is_ipv4() {
                let gateway = Some(route.gateway);
                list.push(Route::new(route.network, route.prefix, gateway));
            }
        }
        let v4 = default4.map(|gateway| {
            Route::new(Ipv4Addr::UNSPECIFIED.into(), 0, Some(gateway.into()))
        });
        let v6 = default6.map(|gateway| {
            Route::new(Ipv6Addr::UNSPECIFIED.into(), 0, Some(gateway.into()))
        });
        list.extend(v4.into_iter().chain(v6).chain(self.routers.routes()));
        self.changes.addresses |= self.routes.replace(list);
    }

    fn address_added(&mut self, address: IpAddr, _now: Instant, _cx: &mut Context<'_>) {
        let _ = address;
        self.changes.addresses = true;
    }

    fn address_gone(&mut self, address: IpAddr, _now: Instant, _cx: &mut Context<'_>) {
        let _ = address;
        self.changes.addresses = true;
        self.rebuild_routes();
    }

    /// Somebody else has an address that was being checked (RFC 4862 section 5.4.5).
    pub(super) fn duplicate(&mut self, address: Ipv6Addr, now: Instant, cx: &mut Context<'_>) {
        cx.stats.address_conflicts += 1;
        if self.addresses.remove_duplicate(address) {
            self.address_gone(address.into(), now, cx);
        }
    }

    /// Somebody else uses an IPv4 address of ours.
    pub(super) fn conflict(&mut self, address: IpAddr, now: Instant, cx: &mut Context<'_>) {
        cx.stats.address_conflicts += 1;
        let IpAddr::V4(v4) = address else {
            return;
        };
        match self.addresses.conflict(address, now) {
            Some((_, Conflict::Defend)) => self.announce(v4, cx),
            Some((_, Conflict::GiveUp)) => {
                self.addresses.remove(address);
                self.address_gone(address, now, cx);
            }
            Some((_, Conflict::Bear)) | None => {}
        }
    }

    /// Takes in a router advertisement; its checksum and hop limit have been checked.
    pub(super) fn receive_router_advert(
        &mut self,
        header: &Header,
        message: &Icmpv6Packet<&[u8]>,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let IpAddr::V6(router) = header.source else {
            return;
        };
        if !router.is_unicast_link_local() || message.msg_code() != 0 {
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
        self.neighbors.set_times(advert.reachable, advert.retrans, random);
        if let Some(limit) = advert.hop_limit {
            self.hop_limit6 = limit;
        }
        if let Some(mtu) = advert.mtu
            && (1280..=u32::from(self.mtu)).contains(&mtu)
        {
            self.mtu6 = mtu as u16;
        }
        for prefix in advert.prefixes {
            let address = address::autonomous(prefix.prefix, self.mac);
            let lifetimes = (prefix.valid, prefix.preferred);
            if self.addresses.advertised(address, 64, lifetimes, now) {
                self.address_added(address.into(), now, cx);
            }
        }
        self.rebuild_routes();
        let mac = neighbor::link_layer(message.payload(), 1);
        self.heard(router.into(), mac, Evidence::Asks, now, cx);
        self.neighbors.set_router(router.into());
        // New addresses are to be checked.
        self.reschedule();
        self.advance(now, cx);
    }

    fn send_router_solicitation(&mut self, now: Instant, cx: &mut Context<'_>) {
        let to = neighbor::ALL_ROUTERS;
        let source = match self.addresses.source_for(to.into()) {
            Some(IpAddr::V6(source)) => source,
            _ => Ipv6Addr::UNSPECIFIED,
        };
        // RFC 4429 section 3.2: nothing that would change a router's cache before the address is checked.
        let checked = !source.is_unspecified() && !self.addresses.is_checking(source.into());
        let message = NdiscRepr::RouterSolicit {
            lladdr: checked.then(|| RawHardwareAddress::from_bytes(&self.mac)),
        };
        self.send_ndp(&message, source, to, group_mac(to.into()), now, cx);
    }
}
