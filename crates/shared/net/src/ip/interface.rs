//! The interface: its parts, and what time asks of them. `input` is what happens to frames, `output` how packets leave,
//! `configure` where addresses come from.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kiln_abi::Instant;

use super::address::{self, Addresses, Origin, link_local};
use super::group::Groups;
use super::icmp::Limit;
use super::neighbor::{self, Neighbors};
use super::packet::Mac;
use super::path_mtu::PathMtus;
use super::reassembly::Reassembly;
use super::route::Routes;
use super::router::Routers;
use super::{Changes, Context, dhcp4, dhcp6};
use crate::config::{Ipv4Setup, Ipv6Setup, LinkConfig};

/// One link as the internet protocols see it.
pub(crate) struct Interface {
    pub(super) loopback: bool,
    pub(super) mac: Mac,
    mtu: u16,
    /// What DHCP and routers say.
    pub(super) mtu4: u16,
    pub(super) mtu6: u16,
    pub(super) hop_limit6: u8,
    pub(super) config: LinkConfig,
    pub(super) addresses: Addresses,
    pub(super) neighbors: Neighbors,
    pub(super) routes: Routes,
    pub(super) routers: Routers,
    pub(super) groups: Groups,
    pub(super) dhcp4: Option<Box<dhcp4::Client>>,
    pub(super) dhcp6: Option<Box<dhcp6::Client>>,
    pub(super) reassembly: Reassembly,
    pub(super) path_mtus: PathMtus,
    pub(super) errors: Limit,
    pub(super) changes: Changes,
    /// Nothing is to be done earlier.
    pub(super) due: Instant,
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
        match config.ipv4 {
            Ipv4Setup::Off => {}
            Ipv4Setup::Static {
                address, prefix, ..
            } => interface.add_forever(address.into(), prefix, Origin::Static, now),
            Ipv4Setup::Dhcp => {
                interface.dhcp4 = Some(Box::new(dhcp4::Client::new(config.mac, now)));
            }
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
            groups: Groups::default(),
            dhcp4: None,
            dhcp6: None,
            reassembly: Reassembly::default(),
            path_mtus: PathMtus::default(),
            errors: Limit::default(),
            changes: Changes::default(),
            due: Instant::FOREVER,
        }
    }

    /// Does what is due.
    pub(crate) fn advance(&mut self, now: Instant, cx: &mut Context<'_>) {
        if now < self.due {
            return;
        }
        // Switches are told about groups before the messages that depend on them (RFC 4862 section 5.4.2).
        self.advance_groups(now, cx);
        for event in self.addresses.advance(now) {
            match event {
                address::Event::Announce(address) => self.announce(address, cx),
                address::Event::Check(address) => self.check_address(address, now, cx),
                address::Event::Expired(address) => self.address_gone(address, now),
            }
        }
        for event in self.neighbors.advance(now) {
            match event {
                neighbor::Event::Solicit(address, mac) => self.solicit(address, mac, now, cx),
                neighbor::Event::Failed(address) => {
                    self.changes.neighbors = true;
                    self.changes.addresses |= self.routes.is_router(address);
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
        self.advance_dhcp4(now, cx);
        self.advance_dhcp6(now, cx);
        let failed = &mut cx.stats.reassembly_failed;
        for expired in self.reassembly.advance(now, failed) {
            self.reassembly_failed(&expired.header, &expired.quote, now, cx);
        }
        self.reschedule();
    }

    /// Notes when [`advance`](Self::advance) has something to do.
    pub(super) fn reschedule(&mut self) {
        self.due = self
            .addresses
            .deadline()
            .min(self.neighbors.deadline())
            .min(self.routers.deadline())
            .min(self.groups.deadline())
            .min(self.reassembly.deadline());
        if let Some(client) = &self.dhcp4 {
            self.due = self.due.min(client.deadline());
        }
        if let Some(client) = &self.dhcp6 {
            self.due = self.due.min(client.deadline());
        }
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

    /// What is known of the ways over this interface: networks with their prefixes, and by which gateway they are reached.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (IpAddr, u8, Option<IpAddr>)> {
        let routes = self.routes.iter();
        routes.map(|route| (route.network, route.prefix, route.gateway))
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
        let learned6 = self.routers.servers();
        let learned6 = learned6.chain(self.dhcp6_servers());
        let mut servers: Vec<IpAddr> = Vec::new();
        let configured = self.config.dns.iter().copied();
        for server in configured.chain(self.lease_servers()).chain(learned6) {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        servers.into_iter()
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

    /// A router said that a packet of `length` bytes to `remote` is too big for a link that carries `mtu`, and the packet
    /// can have been sent. Returns what is believed; nothing if it makes no sense.
    pub(crate) fn too_big(
        &mut self,
        remote: IpAddr,
        mtu: u32,
        length: u32,
        now: Instant,
    ) -> Option<u32> {
        self.path_mtus.too_big(remote, mtu, length, now)
    }

    /// The greatest packet that gets through to `remote`, as far as is known.
    pub(crate) fn path_mtu(&self, remote: IpAddr, now: Instant) -> u16 {
        let link = if remote.is_ipv4() {
            self.mtu4
        } else {
            self.mtu6
        };
        self.path_mtus
            .get(remote, now)
            .map_or(link, |mtu| mtu.min(link))
    }
}
