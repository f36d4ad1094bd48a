//! Which host address a destination of the guest stands for.
//!
//! This is the whole of what keeps a guest away from places that trust whoever can reach them: the host's loopback
//! interface, link-local neighbours, and the metadata services of clouds, most of which are link-local, too. Pure functions,
//! two tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Config;

/// Where a packet of the guest goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To this address, from an ordinary host socket.
    Host(IpAddr),
    /// To the link's DNS forwarder.
    Dns,
    /// To the gateway itself.
    Gateway,
    /// Nowhere.
    Refused,
}

/// Decides about one destination address.
pub(crate) fn route(config: &Config, target: IpAddr) -> Route {
    match target {
        IpAddr::V4(target) if target == config.gateway4 => gateway(config, Ipv4Addr::LOCALHOST),
        IpAddr::V4(target) if target == config.dns4 => Route::Dns,
        IpAddr::V4(target) if config.on_link4(target) || !reachable4(target) => Route::Refused,
        IpAddr::V4(target) => Route::Host(target.into()),
        IpAddr::V6(_) if !config.ipv6 => Route::Refused,
        IpAddr::V6(target) if target == config.gateway6 => gateway(config, Ipv6Addr::LOCALHOST),
        IpAddr::V6(target) if target == config.dns6 => Route::Dns,
        IpAddr::V6(target) if config.on_link6(target) || !reachable6(target) => Route::Refused,
        IpAddr::V6(target) => Route::Host(target.into()),
    }
}

fn gateway(config: &Config, loopback: impl Into<IpAddr>) -> Route {
    if config.host_loopback {
        Route::Host(loopback.into())
    } else {
        Route::Gateway
    }
}

/// The address under which the guest knows a peer that answered.
pub(crate) fn seen_by_guest(config: &Config, peer: SocketAddr) -> SocketAddr {
    let address = match peer.ip() {
        IpAddr::V4(address) if address.is_loopback() => config.gateway4.into(),
        IpAddr::V6(address) if address.is_loopback() => config.gateway6.into(),
        address => address,
    };
    SocketAddr::new(address, peer.port())
}

/// Whether a source address is one that the guest may use.
pub(crate) fn is_guest(config: &Config, source: IpAddr) -> bool {
    match source {
        IpAddr::V4(source) => source == config.guest4,
        // Autoconfigured addresses (RFC 4862, RFC 8981) are the guest's own choice within the prefix.
        IpAddr::V6(source) => {
            config.ipv6
                && config.on_link6(source)
                && source != config.gateway6
                && source != config.dns6
        }
    }
}

/// Services that tell a cloud's machines about themselves, often with credentials, at addresses that are not link-local.
/// A cloud answers there whoever asks from the machine.
const METADATA4: [Ipv4Addr; 3] = [
    // Azure, "What is IP address 168.63.129.16?": the platform's own services, the agent's among them. Resolvers of the host
    // are asked by the host, so that its name service at the same address still works for guests.
    Ipv4Addr::new(168, 63, 129, 16),
    // Alibaba Cloud, "Obtain instance metadata".
    Ipv4Addr::new(100, 100, 100, 200),
    // Oracle Compute Classic, "Retrieve Predefined Instance Metadata".
    Ipv4Addr::new(192, 0, 0, 192),
];

/// The same for IPv6. These prefixes are of the kind that everybody chooses for himself (RFC 4193), but not at random.
const METADATA6: [Ipv6Addr; 7] = [
    // Amazon EC2, "Instance Metadata Service".
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    // Amazon EKS, "Pod Identity Agent".
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    // Google Compute Engine, on machines with IPv6 alone.
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    // Oracle Cloud Infrastructure: its SDK's instance_principals_security_token_signer.py.
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    // Akamai (Linode), "Use the Metadata service API".
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1),
    // Alibaba Cloud: cloud-init's DataSourceAliYun.py.
    Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200),
    // Scaleway: cloud-init's DataSourceScaleway.py.
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];

fn reachable4(target: Ipv4Addr) -> bool {
    // 0.0.0.0/8 is on the list since Linux takes 0.0.0.0 for the loopback interface.
    !(target.octets()[0] == 0
        || target.is_loopback()
        || target.is_link_local()
        || target.is_multicast()
        || target.octets()[0] >= 240
        || METADATA4.contains(&target))
}

fn reachable6(target: Ipv6Addr) -> bool {
    let segments = target.segments();
    // ::/96 holds ::, ::1 and the old IPv4-compatible addresses; ::ffff:0:0/96 would reach IPv4 around the rules above,
    // as would NAT64's and 6to4's prefixes on a host that translates.
    let embeds4 = segments[..5] == [0; 5] && (segments[5] == 0 || segments[5] == 0xffff);
    let translated = segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] || segments[0] == 0x2002;
    let embedded_ok = if segments[0] == 0x2002 {
        reachable4(Ipv4Addr::from_bits(
            u32::from(segments[1]) << 16 | u32::from(segments[2]),
        ))
    } else {
        reachable4(Ipv4Addr::from_bits(
            u32::from(segments[6]) << 16 | u32::from(segments[7]),
        ))
    };
    // RFC 8215: a network translates here as it likes, so that the IPv4 address may be anywhere behind the prefix.
    let translated_somehow = segments[..3] == [0x64, 0xff9b, 1];
    !(embeds4
        || translated && !embedded_ok
        || translated_somehow
        || METADATA6.contains(&target)
        || target.is_unicast_link_local()
        || target.is_multicast()
        // Site-local, RFC 3879: deprecated, but scoped as link-local is.
        || segments[0] & 0xffc0 == 0xfec0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route_of(host_loopback: bool, target: &str) -> Route {
        let config = Config {
            host_loopback,
            ..Config::default()
        };
        route(&config, target.parse().unwrap())
    }

    #[test]
    fn the_host_is_out_of_bounds() {
        for target in [
            "127.0.0.1",
            "127.255.1.2",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "10.0.2.15",
            "10.0.2.255",
            "10.0.2.77",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "fd00:6b69:6c6e::15",
            "fd00:6b69:6c6e::99",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "64:ff9b::168.63.129.16",
            "64:ff9b:1::7f00:1",
            "64:ff9b:1:7f00:1::",
            "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
            "2002:6464:64c8::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fd00:a9fe:a9fe::1",
            "fd00:100::100:200",
            "fd00:42::42",
        ] {
            assert_eq!(route_of(true, target), Route::Refused, "{target}");
        }
    }

    #[test]
    fn the_world_is_not() {
        for target in [
            "1.1.1.1",
            "10.0.3.2",
            "192.168.1.1",
            "2606:4700::1111",
            "fd00::1",
            "64:ff9b::101:101",
            "64:ff9b:2::1",
            "168.63.129.17",
            "100.100.100.201",
            "fd00:ec2::1",
        ] {
            let address = target.parse().unwrap();
            assert_eq!(route_of(false, target), Route::Host(address), "{target}");
        }
    }

    #[test]
    fn the_gateway_is_the_host_only_on_demand() {
        assert_eq!(route_of(false, "10.0.2.2"), Route::Gateway);
        assert_eq!(
            route_of(true, "10.0.2.2"),
            Route::Host(Ipv4Addr::LOCALHOST.into())
        );
        assert_eq!(
            route_of(true, "fd00:6b69:6c6e::2"),
            Route::Host(Ipv6Addr::LOCALHOST.into())
        );
        assert_eq!(route_of(true, "10.0.2.3"), Route::Dns);
        assert_eq!(route_of(false, "fd00:6b69:6c6e::3"), Route::Dns);
    }
}
