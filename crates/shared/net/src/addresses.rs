//! Which addresses the stack has, and over which link a destination is reached.

use alloc::vec::Vec;
use core::future::poll_fn;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::task::Poll;

use crate::error::Error;
use crate::ip::Way;
use crate::stack::{Core, LOOPBACK, Stack};

/// An address of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Assigned {
    /// The address.
    pub address: IpAddr,
    /// Length of the network's prefix.
    pub prefix: u8,
}

impl Stack {
    /// Waits until the stack has an address that others than its neighbours can reach, of either family.
    ///
    /// With static addresses that is at once.
    pub async fn ready(&self) {
        poll_fn(|context| {
            self.with(|core| {
                if core.assigned(self.only).any(is_reachable) {
                    return Poll::Ready(());
                }
                core.configured.register(context.waker());
                Poll::Pending
            })
        })
        .await;
    }

    /// The addresses on the links, of each link IPv4 first and the link-local one last. Loopback addresses are not listed.
    pub fn addresses(&self) -> Vec<Assigned> {
        self.with(|core| core.assigned(self.only).collect())
    }

    /// The DNS servers known now, in the order in which they are asked.
    pub fn name_servers(&self) -> Vec<IpAddr> {
        self.with(|core| {
            let mut servers = Vec::new();
            for port in &core.ports {
                for server in port.interface.name_servers() {
                    if !servers.contains(&server) {
                        servers.push(server);
                    }
                }
            }
            servers
        })
    }
}

fn is_reachable(assigned: Assigned) -> bool {
    match assigned.address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

impl Core {
    fn assigned(&self, only: Option<u8>) -> impl Iterator<Item = Assigned> {
        let wanted = move |index: usize| match only {
            Some(only) => usize::from(only) == index,
            None => index != LOOPBACK,
        };
        self.ports
            .iter()
            .enumerate()
            .filter(move |(index, _)| wanted(*index))
            .flat_map(|(_, port)| port.interface.addresses())
            .map(|(address, prefix)| Assigned { address, prefix })
    }

    /// Addresses or routes are different now.
    pub(crate) fn addresses_changed(&mut self) {
        self.reroute();
        if self.assigned(None).any(is_reachable) {
            self.configured.wake();
        }
    }

    /// True for loopback addresses and the stack's own.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.ports.iter().any(|port| port.interface.has(address))
    }

    /// Over which link, by which neighbour and from which address `remote` is reached. The longest prefix wins, then the
    /// link that was attached first.
    ///
    /// # Errors
    /// [`Error::AddressNotAvailable`] without an address of that family, [`Error::Unreachable`] without a route.
    pub(crate) fn route(&self, remote: IpAddr, only: Option<u8>) -> Result<(usize, Way), Error> {
        if self.is_own(remote) {
            let way = Way {
                prefix: 128,
                next_hop: remote,
                source: remote,
            };
            return Ok((LOOPBACK, way));
        }
        let allowed = |index: usize| match only {
            Some(only) => usize::from(only) == index,
            None => index != LOOPBACK,
        };
        let mut best: Option<(usize, Way)> = None;
        for (index, port) in self.ports.iter().enumerate() {
            if allowed(index)
                && let Some(way) = port.interface.way(remote)
                && best.is_none_or(|(_, known)| known.prefix < way.prefix)
            {
                best = Some((index, way));
            }
        }
        best.ok_or_else(|| {
            let same_family = |assigned: Assigned| assigned.address.is_ipv4() == remote.is_ipv4();
            if self.assigned(only).any(same_family) {
                Error::Unreachable
            } else {
                Error::AddressNotAvailable
            }
        })
    }

    /// The neighbour by which somebody is answered over the link that he was heard from.
    pub(crate) fn way_back(&self, port: usize, remote: IpAddr) -> Option<IpAddr> {
        if port == LOOPBACK {
            return Some(remote);
        }
        let way = self.ports.get(port)?.interface.way(remote)?;
        Some(way.next_hop)
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
