//! Which addresses the stack has, and where they come from.
//!
//! Static addresses are there from the start; DHCP and router advertisements add theirs when they come and take them
//! away when their time is over. Whatever the source, [`Core::apply_addresses`] makes the interface's list anew,
//! and connections from an address that is gone are aborted.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::task::Poll;

use kiln_abi::Instant;
use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::dhcpv4;
use smoltcp::time::Duration;
use smoltcp::wire::{
    DhcpOption, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv6Packet, Icmpv6Repr,
    IpAddress, IpCidr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscRepr,
};

use crate::autoconf::{Autoconf, link_local};
use crate::config::{Config, Ipv4Setup, Ipv6Setup, is_host4, is_host6};
use crate::error::Error;
use crate::frame::ETHERNET_HEADER;
use crate::link::Which;
use crate::stack::{Core, Stack};

const HOST_NAME_OPTION: u8 = 12;
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// An address of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Assigned {
    /// The address.
    pub address: IpAddr,
    /// Length of the network's prefix.
    pub prefix: u8,
}

/// What DHCP has given.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lease {
    address: Ipv4Addr,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
    servers: Vec<IpAddr>,
}

/// The sources of addresses.
pub(crate) struct Addresses {
    dhcp: Option<SocketHandle>,
    lease: Option<Lease>,
    autoconf: Option<Autoconf>,
}

impl Addresses {
    pub(crate) fn new(config: &Config, now: Instant) -> Self {
        let automatic = config.ipv6 == Ipv6Setup::Auto;
        Self {
            dhcp: None,
            lease: None,
            autoconf: automatic.then(|| Autoconf::new(config.mac, now)),
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.autoconf
            .as_ref()
            .map_or(Instant::FOREVER, Autoconf::deadline)
    }
}

impl Stack {
    /// Waits until the stack has an address that others than its neighbours can reach, of either family.
    ///
    /// With static addresses that is at once.
    pub async fn ready(&self) {
        poll_fn(|context| {
            self.with(|core| {
                if core.assigned().any(is_reachable) {
                    return Poll::Ready(());
                }
                core.configured.register(context.waker());
                Poll::Pending
            })
        })
        .await;
    }

    /// The addresses on the link, IPv4 first, the link-local one last. Loopback addresses are not listed.
    pub fn addresses(&self) -> Vec<Assigned> {
        self.with(|core| core.assigned().collect())
    }

    /// The DNS servers known now, in the order in which they are asked.
    pub fn name_servers(&self) -> Vec<IpAddr> {
        self.with(|core| core.name_servers())
    }
}

fn is_reachable(assigned: Assigned) -> bool {
    match assigned.address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

impl Core {
    fn assigned(&self) -> impl Iterator<Item = Assigned> {
        self.wire.iface.ip_addrs().iter().map(|cidr| Assigned {
            address: cidr.address().into(),
            prefix: cidr.prefix_len(),
        })
    }

    pub(crate) fn name_servers(&self) -> Vec<IpAddr> {
        let learned4 = self.addresses.lease.iter().flat_map(|lease| &lease.servers);
        let learned6 = self.addresses.autoconf.iter().flat_map(Autoconf::servers);
        let mut servers = self.config.dns.clone();
        for server in learned4.copied().chain(learned6.map(IpAddr::V6)) {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        servers
    }

    /// Brings up static addresses and starts the search for others.
    pub(crate) fn start_addresses(&mut self) {
        if self.config.ipv4 == Ipv4Setup::Dhcp {
            let mut socket = dhcpv4::Socket::new();
            let mut retry = dhcpv4::RetryConfig::default();
            // A guest's server is on the same machine or next to it: ask again soon if the first frame is lost.
            retry.discover_timeout = Duration::from_secs(1);
            retry.initial_request_timeout = Duration::from_secs(1);
            socket.set_retry_config(retry);
            if !self.config.hostname.is_empty() {
                // The protocol wants to borrow it for as long as the stack lives.
                let name: &'static str = Box::leak(self.config.hostname.clone().into());
                let options: &'static [DhcpOption] = Box::leak(Box::new([DhcpOption {
                    kind: HOST_NAME_OPTION,
                    data: name.as_bytes(),
                }]));
                socket.set_outgoing_options(options);
            }
            self.addresses.dhcp = Some(self.wire.sockets.add(socket));
        }
        self.apply_addresses();
    }

    /// Takes over what DHCP and autoconfiguration have found, and lets them ask.
    pub(crate) fn poll_addresses(&mut self) {
        let mut changed = false;
        if let Some(handle) = self.addresses.dhcp {
            let event = self
                .wire
                .sockets
                .get_mut::<dhcpv4::Socket>(handle)
                .poll()
                .map(|event| match event {
                    dhcpv4::Event::Deconfigured => None,
                    dhcpv4::Event::Configured(config) => Some(Lease {
                        address: config.address.address(),
                        prefix: config.address.prefix_len(),
                        gateway: config.router.filter(|router| is_host4(*router)),
                        servers: config.dns_servers.iter().copied().map(IpAddr::V4).collect(),
                    }),
                });
            if let Some(lease) = event {
                let lease = lease.filter(|lease| is_host4(lease.address));
                changed = lease != self.addresses.lease;
                self.addresses.lease = lease;
            }
        }
        let mut solicit = false;
        if let Some(autoconf) = &mut self.addresses.autoconf {
            changed |= autoconf.expire(self.now);
            solicit = self.wire.queue.has_room() && autoconf.solicit(self.now);
        }
        if changed {
            self.apply_addresses();
        }
        if solicit {
            self.send_solicitation();
        }
    }

    /// Takes in a router advertisement.
    pub(crate) fn router_advert(&mut self, router: Ipv6Addr, advert: &[u8]) {
        let now = self.now;
        if let Some(autoconf) = &mut self.addresses.autoconf
            && autoconf.advert(router, advert, now)
        {
            self.apply_addresses();
        }
    }

    fn apply_addresses(&mut self) {
        let (address4, gateway4) = match (&self.config.ipv4, &self.addresses.lease) {
            (
                Ipv4Setup::Static {
                    address,
                    prefix,
                    gateway,
                },
                _,
            ) => (Some((*address, *prefix)), *gateway),
            (Ipv4Setup::Dhcp, Some(lease)) => (Some((lease.address, lease.prefix)), lease.gateway),
            _ => (None, None),
        };
        let (address6, gateway6) = match (&self.config.ipv6, &self.addresses.autoconf) {
            (
                Ipv6Setup::Static {
                    address,
                    prefix,
                    gateway,
                },
                _,
            ) => (Some((*address, *prefix)), *gateway),
            (Ipv6Setup::Auto, Some(autoconf)) => (
                autoconf.address().map(|address| (address, 64)),
                autoconf.router(),
            ),
            _ => (None, None),
        };
        let local = (self.config.ipv6 != Ipv6Setup::Off).then(|| link_local(self.config.mac));
        let local = local.filter(|local| address6.is_none_or(|(address, _)| address != *local));
        let all = address4
            .map(|(address, prefix)| IpCidr::new(address.into(), prefix))
            .into_iter()
            .chain(address6.map(|(address, prefix)| IpCidr::new(address.into(), prefix)))
            .chain(local.map(|address| IpCidr::new(address.into(), 64)));
        if !self.wire.iface.ip_addrs().iter().copied().eq(all.clone()) {
            self.wire.iface.update_ip_addrs(|list| {
                list.clear();
                list.extend(all);
            });
        }
        let routes = self.wire.iface.routes_mut();
        routes.remove_default_ipv4_route();
        routes.remove_default_ipv6_route();
        // The table has room for four.
        if let Some(gateway) = gateway4 {
            let _ = routes.add_default_ipv4_route(gateway);
        }
        if let Some(gateway) = gateway6 {
            let _ = routes.add_default_ipv6_route(gateway);
        }
        self.abort_homeless();
        if self.assigned().any(is_reachable) {
            self.configured.wake();
        }
    }

    /// True for loopback addresses and the stack's own.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.wire.iface.has_ip_addr(IpAddress::from(address))
    }

    /// Over which link, and from which address, `remote` is reached. The unspecified address stands for this host, as
    /// on Linux.
    ///
    /// # Errors
    /// [`Error::AddressNotAvailable`] without an address of that family, [`Error::Unreachable`] without a route.
    pub(crate) fn route(&self, remote: IpAddr) -> Result<(Which, IpAddr), Error> {
        if self.is_own(remote) {
            return Ok((Which::Loopback, remote));
        }
        let source = match remote {
            IpAddr::V4(remote) => self
                .wire
                .iface
                .get_source_address_ipv4(&remote)
                .filter(|source| is_host4(*source))
                .map(IpAddr::V4),
            IpAddr::V6(remote) => Some(self.wire.iface.get_source_address_ipv6(&remote))
                .filter(|source| is_host6(*source))
                .map(IpAddr::V6),
        }
        .ok_or(Error::AddressNotAvailable)?;
        let target = IpAddress::from(remote);
        let on_link = self
            .wire
            .iface
            .ip_addrs()
            .iter()
            .any(|cidr| cidr.contains_addr(&target));
        let routes = self.wire.iface.routes();
        let gateway = match remote {
            IpAddr::V4(_) => routes.get_default_ipv4_route(),
            IpAddr::V6(_) => routes.get_default_ipv6_route(),
        };
        let everybody = remote.is_multicast() || remote == IpAddr::V4(Ipv4Addr::BROADCAST);
        if on_link || everybody || gateway.is_some() {
            Ok((Which::Wire, source))
        } else {
            Err(Error::Unreachable)
        }
    }

    /// RFC 4861 section 6.3.7.
    fn send_solicitation(&mut self) {
        let mac = EthernetAddress(self.config.mac);
        let source = link_local(self.config.mac);
        let solicit = Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit {
            lladdr: Some(mac.into()),
        });
        let header = Ipv6Repr {
            src_addr: source,
            dst_addr: ALL_ROUTERS,
            next_header: IpProtocol::Icmpv6,
            payload_len: solicit.buffer_len(),
            hop_limit: 255,
        };
        let length = ETHERNET_HEADER + header.buffer_len() + solicit.buffer_len();
        self.wire.queue.push(length, None, |bytes| {
            let mut frame = EthernetFrame::new_unchecked(bytes);
            frame.set_src_addr(mac);
            frame.set_dst_addr(EthernetAddress([0x33, 0x33, 0, 0, 0, 2]));
            frame.set_ethertype(EthernetProtocol::Ipv6);
            let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
            header.emit(&mut packet);
            solicit.emit(
                &source,
                &ALL_ROUTERS,
                &mut Icmpv6Packet::new_unchecked(packet.payload_mut()),
                &ChecksumCapabilities::default(),
            );
        });
    }
}

/// The unspecified address of a peer stands for this host.
pub(crate) fn peer(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        // An IPv4 address in IPv6 notation (RFC 4291 section 2.5.5.2) is reached over IPv4.
        IpAddr::V6(address) => address.to_ipv4_mapped().map_or(address.into(), IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}
