//! The links of a stack, as a personality shows them to programs.

use alloc::vec::Vec;
use core::net::IpAddr;

use crate::addresses::Assigned;
use crate::stack::{LOOPBACK, Stack};
use crate::stats::Stats;

/// What there is to know of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Its place: 0 is the loopback link, the others follow in the order in which they were attached.
    pub index: usize,
    /// The Ethernet address.
    pub mac: [u8; 6],
    /// The greatest IP packet that it carries.
    pub mtu: u16,
    /// Its addresses.
    pub addresses: Vec<Assigned>,
    /// The ways over it.
    pub routes: Vec<RouteState>,
    /// Its counters.
    pub stats: Stats,
}

/// A way over a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteState {
    /// The network that is reached.
    pub network: IpAddr,
    /// The length of its prefix.
    pub prefix: u8,
    /// By which router; nothing if its members are neighbours.
    pub gateway: Option<IpAddr>,
}

impl RouteState {
    /// True if `address` is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        crate::ip::in_network(address, self.network, self.prefix)
    }
}

/// The network that an address is in.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let shift = |bits: u32| bits.saturating_sub(u32::from(prefix));
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(shift(32)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(shift(128)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

impl Stack {
    /// All links, the loopback link first.
    pub fn links(&self) -> Vec<LinkState> {
        self.with(|core| {
            let ports = core.ports.iter().enumerate();
            ports
                .map(|(index, port)| LinkState {
                    index,
                    mac: if index == LOOPBACK {
                        [0; 6]
                    } else {
                        port.interface.mac()
                    },
                    mtu: port.interface.mtu(),
                    addresses: {
                        let addresses = port.interface.addresses();
                        addresses
                            .map(|(address, prefix)| Assigned { address, prefix })
                            .collect()
                    },
                    routes: {
                        let routes = port.interface.routes();
                        routes
                            .map(|(network, prefix, gateway)| RouteState {
                                network: masked(network, prefix),
                                prefix,
                                gateway,
                            })
                            .collect()
                    },
                    stats: port.snapshot(),
                })
                .collect()
        })
    }

    /// A handle whose sockets are bound to the link at this place.
    pub fn on_link(&self, index: usize) -> Option<Self> {
        let known = self.with(|core| index < core.ports.len());
        let only = u8::try_from(index).ok().filter(|_| known)?;
        let mut stack = self.clone();
        stack.only = Some(only);
        Some(stack)
    }
}
