//! How a stack and its links are set up.
//!
//! A guest makes a [`LinkConfig`] from what the monitor says about each link ([`LinkConfig::from_device`]) and one
//! [`Config`] that says how much memory the network may take. Tests and other hosts build them by hand.
//!
//! # Memory
//!
//! From the budget follow the limits. Buffers grow with what is in them, so the limits of single connections add up to
//! more than the budget; when it is used up, memory is given back in the order that `pressure` describes.
//!
//! | budget | receive | send | of one connection at most |
//! | --- | --- | --- | --- |
//! | below 2 MiB | 32 KiB | 32 KiB | |
//! | below 16 MiB | 256 KiB | 256 KiB | |
//! | below 64 MiB | 1 MiB | 1 MiB | |
//! | above | 4 MiB | 4 MiB | |

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use kiln_abi::DeviceInfo;

use crate::tcp::congestion::Algorithm;

/// What the link does in the stack's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Frames may leave with incomplete TCP checksums.
    pub checksum: bool,
    /// TCP frames over IPv4 may leave unsegmented. Needs `checksum`.
    pub tso4: bool,
    /// The same over IPv6.
    pub tso6: bool,
}

/// Where the IPv4 address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv4Setup {
    /// No IPv4 on this link.
    Off,
    /// A fixed address.
    Static {
        /// The address.
        address: Ipv4Addr,
        /// Length of the network prefix, at most 32.
        prefix: u8,
        /// Default gateway.
        gateway: Option<Ipv4Addr>,
    },
    /// DHCP (RFC 2131).
    Dhcp,
}

/// Where IPv6 addresses come from. Unless off, the stack has a link-local address too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6Setup {
    /// No IPv6 on this link.
    Off,
    /// A fixed address.
    Static {
        /// The address.
        address: Ipv6Addr,
        /// Length of the network prefix, at most 128.
        prefix: u8,
        /// Default gateway.
        gateway: Option<Ipv6Addr>,
    },
    /// Stateless autoconfiguration (RFC 4862) with addresses made of the Ethernet address.
    Auto,
}

/// Buffers of one TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// Bytes received and not yet read. It is also the window offered to the peer.
    pub receive: usize,
    /// Bytes written and not yet acknowledged by the peer.
    pub send: usize,
}

/// A route by which more than the link's own network is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network.
    pub network: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
    /// The router, a neighbour on the link; of the network's family.
    pub gateway: IpAddr,
}

/// How a stack is set up. See the [module](self) for what follows from the memory budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Told to DHCP servers.
    pub hostname: String,
    /// Key of everything that must not be guessed. A second stack with the same seed is a security hole.
    pub seed: [u8; 32],
    /// Bytes that connections and queues may take together.
    pub memory_budget: usize,
    /// Limits of a connection's buffers, if not as follows from the budget.
    pub buffers: Option<Buffers>,
    /// Congestion control of TCP.
    pub congestion: Algorithm,
    /// How long `connect` tries.
    pub connect_timeout: Duration,
    /// How long the peer of a dropped connection may acknowledge nothing before it is reset; it is looked at as often.
    pub linger: Duration,
    /// How long an ended connection is remembered, RFC 9293's 2 MSL.
    pub time_wait: Duration,
}

/// How one link is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// The Ethernet address.
    pub mac: [u8; 6],
    /// Greatest IP packet in bytes that the link carries. Below 1280 there is no IPv6 (RFC 8200 section 5).
    pub mtu: u16,
    /// What the link does.
    pub offloads: Offloads,
    /// IPv4.
    pub ipv4: Ipv4Setup,
    /// IPv6.
    pub ipv6: Ipv6Setup,
    /// Routes besides the gateways of the setups.
    pub routes: Vec<Route>,
    /// DNS servers besides those learned from DHCP and router advertisements; asked first.
    pub dns: Vec<IpAddr>,
}

impl Config {
    /// A setup with the budget of a small guest (1 MiB).
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            hostname: String::new(),
            seed,
            memory_budget: 1 << 20,
            buffers: None,
            congestion: Algorithm::Cubic,
            connect_timeout: Duration::from_mins(1),
            linger: Duration::from_secs(30),
            time_wait: Duration::from_secs(30),
        }
    }

    /// Sets the name told to DHCP servers.
    #[must_use]
    pub fn hostname(mut self, name: &str) -> Self {
        self.hostname = name.into();
        self
    }

    /// Sets the bytes that connections and queues may take together.
    #[must_use]
    pub fn memory_budget(mut self, bytes: usize) -> Self {
        self.memory_budget = bytes;
        self
    }

    /// Sets the limits of a connection's buffers.
    #[must_use]
    pub fn buffers(mut self, buffers: Buffers) -> Self {
        self.buffers = Some(buffers);
        self
    }

    /// Makes the setup consistent.
    pub(crate) fn checked(mut self) -> Self {
        // RFC 1035 section 2.3.4.
        while self.hostname.len() > 63 {
            self.hostname.pop();
        }
        self.memory_budget = self.memory_budget.max(256 * 1024);
        self
    }

    pub(crate) fn tcp_buffers(&self) -> Buffers {
        const KIB: usize = 1024;
        let each = match self.memory_budget / (KIB * KIB) {
            0..2 => 32,
            2..16 => 256,
            16..64 => 1024,
            _ => 4096,
        };
        let derived = Buffers {
            receive: each * KIB,
            send: each * KIB,
        };
        let wanted = self.buffers.unwrap_or(derived);
        Buffers {
            // The protocol's limits: a window of at most 1 GiB (RFC 7323), and room for at least one segment.
            receive: wanted.receive.clamp(2 * KIB, 1 << 29),
            send: wanted.send.clamp(2 * KIB, 1 << 29),
        }
    }

    /// Bytes of frames that may wait for a link, data not counted.
    pub(crate) fn queue_limit(&self) -> usize {
        (self.memory_budget / 16).clamp(16 * 1024, 256 * 1024)
    }

    /// Bytes for datagrams in each direction of a UDP socket.
    pub(crate) fn udp_buffer(&self) -> usize {
        (self.memory_budget / 64).clamp(8 * 1024, 128 * 1024)
    }
}

impl LinkConfig {
    /// A link without addresses and offloads.
    pub fn new(mac: [u8; 6]) -> Self {
        Self {
            mac,
            mtu: 1500,
            offloads: Offloads::default(),
            ipv4: Ipv4Setup::Off,
            ipv6: Ipv6Setup::Off,
            routes: Vec::new(),
            dns: Vec::new(),
        }
    }

    /// What the monitor says about a link: static addresses where it gives them, else DHCP and autoconfiguration.
    pub fn from_device(device: &DeviceInfo) -> Self {
        let has = |bit| device.net_features & bit != 0;
        let checksum = has(DeviceInfo::NET_CSUM);
        let ipv4 = match device.prefix4 {
            0 => Ipv4Setup::Dhcp,
            prefix => Ipv4Setup::Static {
                address: device.address4.into(),
                prefix,
                gateway: given(Ipv4Addr::from(device.gateway4), Ipv4Addr::UNSPECIFIED),
            },
        };
        let ipv6 = if has(DeviceInfo::NET_NO_IPV6) {
            Ipv6Setup::Off
        } else if device.prefix6 == 0 {
            Ipv6Setup::Auto
        } else {
            Ipv6Setup::Static {
                address: device.address6.into(),
                prefix: device.prefix6,
                gateway: given(Ipv6Addr::from(device.gateway6), Ipv6Addr::UNSPECIFIED),
            }
        };
        let dns4 = given(Ipv4Addr::from(device.dns4), Ipv4Addr::UNSPECIFIED).map(IpAddr::V4);
        let dns6 = given(Ipv6Addr::from(device.dns6), Ipv6Addr::UNSPECIFIED).map(IpAddr::V6);
        Self {
            mtu: device.mtu,
            offloads: Offloads {
                checksum,
                tso4: checksum && has(DeviceInfo::NET_TSO4),
                tso6: checksum && has(DeviceInfo::NET_TSO6),
            },
            ipv4,
            ipv6,
            dns: dns4.into_iter().chain(dns6).collect(),
            ..Self::new(device.mac)
        }
    }

    /// Sets a static IPv4 address.
    #[must_use]
    pub fn ipv4(mut self, address: Ipv4Addr, prefix: u8, gateway: Option<Ipv4Addr>) -> Self {
        self.ipv4 = Ipv4Setup::Static {
            address,
            prefix,
            gateway,
        };
        self
    }

    /// Sets a static IPv6 address.
    #[must_use]
    pub fn ipv6(mut self, address: Ipv6Addr, prefix: u8, gateway: Option<Ipv6Addr>) -> Self {
        self.ipv6 = Ipv6Setup::Static {
            address,
            prefix,
            gateway,
        };
        self
    }

    /// Sets the offloads.
    #[must_use]
    pub fn offloads(mut self, offloads: Offloads) -> Self {
        self.offloads = offloads;
        self
    }

    /// Makes the setup consistent: values a hostile monitor or a careless caller may give must not lead to panics
    /// further down.
    pub(crate) fn checked(mut self) -> Self {
        // RFC 791: every host handles 576 bytes.
        self.mtu = self.mtu.max(576);
        self.mac[0] &= !1;
        if self.mac == [0; 6] {
            self.mac = [2, 0, 0, 0, 0, 1];
        }
        self.offloads.tso4 &= self.offloads.checksum;
        self.offloads.tso6 &= self.offloads.checksum;
        if let Ipv4Setup::Static {
            address, prefix, ..
        } = &mut self.ipv4
        {
            *prefix = (*prefix).min(32);
            if !is_host4(*address) {
                self.ipv4 = Ipv4Setup::Off;
            }
        }
        if let Ipv6Setup::Static {
            address, prefix, ..
        } = &mut self.ipv6
        {
            *prefix = (*prefix).min(128);
            if !is_host6(*address) {
                self.ipv6 = Ipv6Setup::Off;
            }
        }
        if self.mtu < 1280 {
            self.ipv6 = Ipv6Setup::Off;
        }
        for route in &mut self.routes {
            route.prefix = route
                .prefix
                .min(if route.network.is_ipv4() { 32 } else { 128 });
        }
        self
    }
}

fn given<T: PartialEq + Copy>(value: T, none: T) -> Option<T> {
    (value != none).then_some(value)
}

/// An address that a host may have on a link.
pub(crate) fn is_host4(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_broadcast()
        || address.is_multicast()
        || address.is_loopback())
}

/// An address that a host may have on a link.
pub(crate) fn is_host6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_without_addresses_means_dhcp_and_autoconfiguration() {
        let device = DeviceInfo {
            mac: [2, 0, 0, 0, 0, 9],
            mtu: 1500,
            net_features: DeviceInfo::NET_CSUM | DeviceInfo::NET_TSO4,
            dns4: [9, 9, 9, 9],
            ..DeviceInfo::default()
        };
        let config = LinkConfig::from_device(&device);
        assert_eq!(config.ipv4, Ipv4Setup::Dhcp);
        assert_eq!(config.ipv6, Ipv6Setup::Auto);
        assert_eq!(config.dns, [IpAddr::from([9, 9, 9, 9])]);
        assert!(config.offloads.tso4 && !config.offloads.tso6);
    }

    #[test]
    fn nonsense_from_the_monitor_is_made_harmless() {
        let device = DeviceInfo {
            mac: [0xff; 6],
            prefix4: 200,
            prefix6: 200,
            address4: [224, 0, 0, 1],
            address6: [0xff; 16],
            ..DeviceInfo::default()
        };
        let config = LinkConfig::from_device(&device).checked();
        assert_eq!(config.ipv4, Ipv4Setup::Off);
        assert_eq!(config.ipv6, Ipv6Setup::Off);
        assert_eq!(config.mac[0] & 1, 0);
        assert_eq!(config.mtu, 576);
    }
}
