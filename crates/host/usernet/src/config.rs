//! What a network looks like: addresses, limits, forwards.
//!
//! The defaults are the ones that rootless networks have had for twenty years (`10.0.2.0/24`, as QEMU's "user" network)
//! plus a unique local IPv6 prefix. Nothing here touches the host except [`Limits::for_this_process`].

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use kiln_abi::layout::Record;
use kiln_abi::{DeviceInfo, DeviceKind, NetHeader};

use crate::{Error, PortForward};

/// The IPv6 prefix of the link, RFC 4193; "kiln" in hexadecimal stands in it.
const PREFIX6: [u16; 4] = [0xfd00, 0x6b69, 0x6c6e, 0];

const fn in_prefix6(last: u16) -> Ipv6Addr {
    let [a, b, c, d] = PREFIX6;
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, last)
}

/// What stands before each frame on the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// A [`NetHeader`](kiln_abi::NetHeader), 12 bytes. The link is a `SOCK_SEQPACKET` socket.
    #[default]
    Header,
    /// The first ten bytes of one: `struct virtio_net_hdr`, as packet sockets with `PACKET_VNET_HDR` have it
    /// (packet(7)). The link is such a socket.
    ShortHeader,
    /// Nothing: checksums are complete, and no frame is longer than the MTU allows. The link is a `SOCK_SEQPACKET` or
    /// `SOCK_DGRAM` socket.
    Plain,
}

impl Framing {
    /// Length of the header in bytes.
    pub(crate) const fn header(self) -> usize {
        match self {
            Self::Header => NetHeader::SIZE,
            Self::ShortHeader => 10,
            Self::Plain => 0,
        }
    }
}

/// Everything that a [`Usernet`](crate::Usernet) is told when it is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// The guest's Ethernet address.
    pub guest_mac: [u8; 6],
    /// The Ethernet address behind which everything else is.
    pub gateway_mac: [u8; 6],
    /// The guest's IPv4 address.
    pub guest4: Ipv4Addr,
    /// Length of the IPv4 network prefix in bits.
    pub prefix4: u8,
    /// The IPv4 gateway; it also stands for the host itself, see [`host_loopback`](Self::host_loopback).
    pub gateway4: Ipv4Addr,
    /// The DNS forwarder's IPv4 address.
    pub dns4: Ipv4Addr,
    /// The guest's IPv6 address. Its network prefix is 64 bits long, as SLAAC wants it.
    pub guest6: Ipv6Addr,
    /// The IPv6 gateway.
    pub gateway6: Ipv6Addr,
    /// The DNS forwarder's IPv6 address.
    pub dns6: Ipv6Addr,
    /// Offer IPv6 to the guest: router advertisements, and IPv6 flows to the outside.
    pub ipv6: bool,
    /// Greatest IP packet on the link in bytes, 1280 to 65520. Both ends are on this machine, so that the greatest is best.
    pub mtu: u16,
    /// The name that DHCP gives the guest; empty for none.
    pub hostname: String,
    /// Ports of the host that lead into the guest.
    pub forwards: Vec<PortForward>,
    /// Where DNS queries go. Empty means: what `/etc/resolv.conf` says, re-read when it changes.
    pub resolvers: Vec<SocketAddr>,
    /// The gateway's addresses lead to the host's loopback interface. Off by default, since what listens there usually
    /// trusts every local client. Loopback and link-local addresses themselves are never reachable.
    pub host_loopback: bool,
    /// What stands before each frame on the link.
    pub framing: Framing,
    /// Leave transport checksums to be completed by whoever lets a frame leave this machine
    /// ([`NetHeader::NEEDS_CSUM`](kiln_abi::NetHeader::NEEDS_CSUM)). Off for guests that cannot take such frames, and
    /// on links that cannot say so ([`Framing::Plain`]).
    pub checksum_offload: bool,
    /// Bounds on what one guest may use of the host.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            guest_mac: *b"\x02kiln\x15",
            gateway_mac: *b"\x02kiln\x02",
            guest4: Ipv4Addr::new(10, 0, 2, 15),
            prefix4: 24,
            gateway4: Ipv4Addr::new(10, 0, 2, 2),
            dns4: Ipv4Addr::new(10, 0, 2, 3),
            guest6: in_prefix6(0x15),
            gateway6: in_prefix6(2),
            dns6: in_prefix6(3),
            ipv6: true,
            mtu: 65_520,
            hostname: String::new(),
            forwards: Vec::new(),
            resolvers: Vec::new(),
            host_loopback: false,
            framing: Framing::Header,
            checksum_offload: true,
            limits: Limits::for_this_process(),
        }
    }
}

impl Config {
    /// What the guest is told about the link at boot: static addresses, so that it needs no DHCP round trip.
    ///
    /// TCP segmentation by this side is offered because a segment of any size is taken as it is. The device's name is
    /// left empty for the caller to fill in.
    pub fn device_info(&self) -> DeviceInfo {
        let mut info = DeviceInfo {
            kind: DeviceKind::Net as u32,
            mac: self.guest_mac,
            mtu: self.mtu,
            net_features: 0,
            prefix4: self.prefix4,
            address4: self.guest4.octets(),
            gateway4: self.gateway4.octets(),
            dns4: self.dns4.octets(),
            ..DeviceInfo::default()
        };
        let offloads = self.framing != Framing::Plain;
        if offloads {
            info.net_features |= DeviceInfo::NET_CSUM | DeviceInfo::NET_TSO4;
        }
        if self.leaves_checksums() {
            info.net_features |= DeviceInfo::NET_GRO;
        }
        if self.ipv6 {
            if offloads {
                info.net_features |= DeviceInfo::NET_TSO6;
            }
            info.prefix6 = 64;
            info.address6 = self.guest6.octets();
            info.gateway6 = self.gateway6.octets();
            info.dns6 = self.dns6.octets();
        } else {
            info.net_features |= DeviceInfo::NET_NO_IPV6;
        }
        info
    }

    /// Whether frames to the guest have checksums that are still open.
    pub(crate) fn leaves_checksums(&self) -> bool {
        self.checksum_offload && self.framing != Framing::Plain
    }

    /// Whether an IPv4 address lies in the link's network.
    pub(crate) fn on_link4(&self, address: Ipv4Addr) -> bool {
        let mask = self.mask4().to_bits();
        address.to_bits() & mask == self.guest4.to_bits() & mask
    }

    /// Whether an IPv6 address lies in the link's network.
    pub(crate) fn on_link6(&self, address: Ipv6Addr) -> bool {
        address.segments()[..4] == self.guest6.segments()[..4]
    }

    /// The IPv4 network mask.
    pub(crate) fn mask4(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX << (32 - u32::from(self.prefix4)))
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if !(8..=30).contains(&self.prefix4) {
            return Err(Error::Config("the IPv4 prefix must be 8 to 30 bits long"));
        }
        if !(1280..=65_520).contains(&self.mtu) {
            return Err(Error::Config("the MTU must be 1280 to 65520 bytes"));
        }
        if !self.on_link4(self.gateway4) || !self.on_link4(self.dns4) {
            return Err(Error::Config(
                "gateway and DNS server must lie in the guest's IPv4 network",
            ));
        }
        if !self.on_link6(self.gateway6) || !self.on_link6(self.dns6) {
            return Err(Error::Config(
                "gateway and DNS server must lie in the guest's IPv6 network",
            ));
        }
        if self.guest4 == self.gateway4 || self.guest6 == self.gateway6 {
            return Err(Error::Config(
                "guest and gateway must have different addresses",
            ));
        }
        if (self.guest_mac[0] | self.gateway_mac[0]) & 1 != 0 {
            return Err(Error::Config("Ethernet addresses must be unicast"));
        }
        if self.hostname.len() > 64 {
            return Err(Error::Config("the host name must be at most 64 bytes long"));
        }
        Ok(())
    }
}

/// Bounds on what one guest may use of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections at a time, both directions together.
    pub connections: usize,
    /// Bytes of all TCP buffers together. Connections may use 1 MiB each way while there is plenty, then less, and none
    /// can be made once it is used up.
    pub buffer_bytes: usize,
    /// UDP flows at a time, for each direction. The longest idle makes room for a new one.
    pub udp_flows: usize,
    /// DNS queries under way.
    pub dns_queries: usize,
    /// ICMP echo flows.
    pub ping_flows: usize,
    /// Bytes of frames that wait for the guest to read its link.
    pub link_bytes: usize,
}

impl Limits {
    /// Generous limits that fit into this process's present limit on open files (`RLIMIT_NOFILE`).
    pub fn for_this_process() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile)
            .current
            .unwrap_or(1 << 20);
        Self::for_files(usize::try_from(files).unwrap_or(usize::MAX))
    }

    /// Limits that need at most `files` descriptors, less some that are left to the rest of the process.
    pub fn for_files(files: usize) -> Self {
        let share = files.saturating_sub(128) / 4;
        Self {
            connections: (2 * share).clamp(16, 4096),
            buffer_bytes: 256 << 20,
            udp_flows: (share / 2).clamp(8, 1024),
            dns_queries: (share / 4).clamp(8, 256),
            ping_flows: (share / 8).clamp(4, 64),
            link_bytes: 1 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_sound() {
        let config = Config::default();
        config.check().unwrap();
        let info = config.device_info();
        assert_eq!(info.address4, [10, 0, 2, 15]);
        assert_eq!(info.prefix4, 24);
        assert_eq!(
            Ipv6Addr::from(info.gateway6),
            "fd00:6b69:6c6e::2".parse::<Ipv6Addr>().unwrap()
        );
        assert_eq!(config.mask4(), Ipv4Addr::new(255, 255, 255, 0));
    }

    #[test]
    fn a_plain_link_offers_nothing_that_needs_a_header() {
        let config = Config {
            framing: Framing::Plain,
            ..Config::default()
        };
        assert_eq!(config.device_info().net_features, 0);
        assert!(Config::default().device_info().net_features & DeviceInfo::NET_GRO != 0);
    }

    #[test]
    fn limits_fit_the_descriptors() {
        for files in [256, 1024, 20_000, 1 << 20] {
            let limits = Limits::for_files(files);
            let used =
                limits.connections + limits.udp_flows + limits.dns_queries + limits.ping_flows;
            assert!(used < files, "{used} of {files}");
        }
        assert_eq!(Limits::for_files(1 << 20).connections, 4096);
    }

    #[test]
    fn contradictions_are_refused() {
        let config = Config {
            mtu: 1000,
            ..Config::default()
        };
        assert!(config.check().unwrap_err().to_string().contains("1280"));
        let config = Config {
            gateway4: Ipv4Addr::new(10, 0, 3, 2),
            ..Config::default()
        };
        assert!(config.check().is_err());
    }
}
