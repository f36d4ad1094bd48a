//! Network links: what `--net` says, and the rootless one.
//!
//! `--net [NAME=]LINK`, where `LINK` is `none`, `user[,mac=M]` or
//! `tap:IFNAME[,ip=A/P][,gw=A][,ip6=A/P][,gw6=A][,dns=A][,mtu=N][,mac=M]`, or `packet:` with the same options. `NAME` is a device that the image declares
//! and may be left out when there is only one.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::str::FromStr;

use kiln_usernet::{Framing, PortForward, Usernet};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};

use super::island::{self, Island};
use crate::Error;
use crate::backend::{Device, Interface, LinkEnds};

/// Room for frames on their way to and from the rootless network, in bytes for each direction. A burst of 64 frames of
/// the greatest length fits; the host may allow less (`net.core.wmem_max`).
const LINK_BUFFER: usize = 4 << 20;

/// One `--net`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetOption {
    /// The declared device that it is for; any if there is only one.
    pub device: Option<String>,
    /// What the device is connected to.
    pub link: Link,
}

/// What a network device is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nothing.
    None,
    /// The rootless network.
    User {
        /// The guest's Ethernet address, if it matters.
        mac: Option<[u8; 6]>,
    },
    /// A tap device.
    Tap(LinkOptions),
    /// A network interface of the host, shared by a packet socket.
    Packet(LinkOptions),
}

/// What `tap:` and `packet:` say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkOptions {
    /// The name of the host's interface.
    pub interface: String,
    /// The guest's IPv4 address and the length of its network prefix; by DHCP if there is none.
    pub ip4: Option<(Ipv4Addr, u8)>,
    /// IPv4 gateway.
    pub gateway4: Option<Ipv4Addr>,
    /// The guest's IPv6 address and the length of its network prefix; by autoconfiguration if there is none.
    pub ip6: Option<(Ipv6Addr, u8)>,
    /// IPv6 gateway.
    pub gateway6: Option<Ipv6Addr>,
    /// DNS server's IPv4 address.
    pub dns4: Option<Ipv4Addr>,
    /// DNS server's IPv6 address.
    pub dns6: Option<Ipv6Addr>,
    /// Greatest IP packet in bytes; the interface's own if there is none.
    pub mtu: Option<u16>,
    /// The guest's Ethernet address; if there is none, random with `tap:` and the interface's own with `packet:`.
    pub mac: Option<[u8; 6]>,
}

impl FromStr for NetOption {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |problem: &str| Error::option("--net", text, problem);
        // `NAME=` comes before any ':' or ','; an '=' behind those belongs to the link's own options.
        let (device, link) = match text.find(['=', ':', ',']) {
            Some(at) if text.as_bytes()[at] == b'=' => (Some(&text[..at]), &text[at + 1..]),
            _ => (None, text),
        };
        if let Some(name) = device
            && !kiln_abi::note::valid_name(name.as_bytes())
        {
            return Err(bad(
                "a device name has 1 to 23 characters of a-z, 0-9, '-' and '_'",
            ));
        }
        let mut parts = link.split(',');
        let kind = parts.next().unwrap_or_default();
        let link = match kind {
            "none" => match parts.next() {
                None => Link::None,
                Some(_) => return Err(bad("none takes no options")),
            },
            "user" => Link::User {
                mac: user_options(parts).map_err(|problem| bad(&problem))?,
            },
            _ => {
                let Some((form @ ("tap" | "packet"), interface)) = kind.split_once(':') else {
                    return Err(bad("write user, none, tap:IFNAME or packet:IFNAME"));
                };
                let options =
                    link_options(form, interface, parts).map_err(|problem| bad(&problem))?;
                match form {
                    "tap" => Link::Tap(options),
                    _ => Link::Packet(options),
                }
            }
        };
        Ok(Self {
            device: device.map(str::to_owned),
            link,
        })
    }
}

fn user_options<'a>(options: impl Iterator<Item = &'a str>) -> Result<Option<[u8; 6]>, String> {
    let mut mac = None;
    for option in options {
        match option.split_once('=') {
            Some(("mac", value)) => mac = Some(parse_mac(value)?),
            _ => return Err(format!("unknown option {option:?}: user takes mac=")),
        }
    }
    Ok(mac)
}

fn link_options<'a>(
    form: &str,
    interface: &str,
    options: impl Iterator<Item = &'a str>,
) -> Result<LinkOptions, String> {
    // IFNAMSIZ is 16 with the terminating NUL.
    if interface.is_empty() || interface.len() > 15 || interface.contains(['/', ' ', '%']) {
        return Err(format!(
            "the interface's name has 1 to 15 characters: write {form}:IFNAME"
        ));
    }
    let mut link = LinkOptions {
        interface: interface.to_owned(),
        ..LinkOptions::default()
    };
    for option in options {
        let Some((key, value)) = option.split_once('=') else {
            return Err(format!("option {option:?} lacks a value: write KEY=VALUE"));
        };
        match key {
            "ip" => link.ip4 = Some(parse_cidr(value, 32, "10.0.0.2/24")?),
            "ip6" => link.ip6 = Some(parse_cidr(value, 128, "fd00::2/64")?),
            "gw" | "gw4" => link.gateway4 = Some(parse_address(key, value)?),
            "gw6" => link.gateway6 = Some(parse_address(key, value)?),
            "dns" if value.contains(':') => link.dns6 = Some(parse_address(key, value)?),
            "dns" => link.dns4 = Some(parse_address(key, value)?),
            "mtu" => match value.parse() {
                Ok(mtu @ 576..=65_520) => link.mtu = Some(mtu),
                _ => return Err("mtu is a number from 576 to 65520".to_owned()),
            },
            "mac" => link.mac = Some(parse_mac(value)?),
            _ => {
                return Err(format!(
                    "unknown option {key:?}: {form} takes ip, gw, ip6, gw6, dns, mtu and mac"
                ));
            }
        }
    }
    Ok(link)
}

fn parse_address<T: FromStr>(key: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{key}={value} is not an address"))
}

fn parse_cidr<T: FromStr>(value: &str, most: u8, example: &str) -> Result<(T, u8), String> {
    let parsed = value.split_once('/').and_then(|(address, prefix)| {
        let prefix = prefix.parse().ok().filter(|len| (1..=most).contains(len))?;
        Some((address.parse().ok()?, prefix))
    });
    parsed.ok_or_else(|| format!("{value} is not ADDRESS/PREFIX, for example {example}"))
}

fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2);
        *byte = part
            .and_then(|part| u8::from_str_radix(part, 16).ok())
            .ok_or_else(|| format!("mac={text} is not like 02:00:00:00:00:01"))?;
    }
    if parts.next().is_some() {
        return Err(format!("mac={text} is not like 02:00:00:00:00:01"));
    }
    if mac[0] & 1 != 0 {
        return Err(format!(
            "mac={text} is a group address: use one like 02:00:00:00:00:01"
        ));
    }
    Ok(mac)
}

/// Makes a rootless link. Returns the guest's device and the host's side, its ports bound.
///
/// The link is a socket pair; for a backend that can do with tap devices only, it is one in a network namespace of its
/// own ([`island`]).
///
/// # Errors
/// [`Error::Network`] when a port cannot be bound, [`Error::Host`] when the host has no sockets left.
// Not inlined, and boxed: what it takes of the stack, programs without a network need not have.
#[inline(never)]
pub fn open_user(
    device: &str,
    mac: Option<[u8; 6]>,
    hostname: &str,
    ports: &[PortForward],
    ends: LinkEnds,
) -> Result<(Device, Box<Usernet>), Error> {
    let mut config = kiln_usernet::Config {
        hostname: hostname.to_owned(),
        forwards: ports.to_vec(),
        ..kiln_usernet::Config::default()
    };
    if let Some(mac) = mac {
        config.guest_mac = mac;
    }
    config.framing = match ends {
        LinkEnds::Offloaded => Framing::Header,
        LinkEnds::Plain => Framing::Plain,
        LinkEnds::Taps | LinkEnds::Names => Framing::ShortHeader,
    };
    let mut info = config.device_info();
    info.name = super::padded(device);
    let (guest, host, interface) = match ends {
        LinkEnds::Offloaded | LinkEnds::Plain => {
            let (guest, host) = link_pair()?;
            (guest, host, None)
        }
        LinkEnds::Taps | LinkEnds::Names => {
            let opened = ends == LinkEnds::Taps;
            let island = Island::new(opened)?;
            let interface = Interface {
                name: island::INTERFACE.to_owned(),
                opened,
                namespace: Some(island.namespace),
            };
            (island.tap, island.wire, Some(interface))
        }
    };
    let usernet = Box::new(Usernet::new(config, host)?);
    let device = Device {
        info,
        host: guest,
        interface,
    };
    Ok((device, usernet))
}

/// The two ends of a link that carries one frame per message.
fn link_pair() -> Result<(OwnedFd, OwnedFd), Error> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (guest, host) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|error| Error::host("make a socket pair for the network", error))?;
    for end in [&guest, &host] {
        // What the host grants is enough to work with: a smaller buffer costs speed only. For this kind of socket the
        // sender's limit is the one that counts.
        let _ = sockopt::set_socket_send_buffer_size(end, LINK_BUFFER);
    }
    Ok((guest, host))
}

/// The forwarded ports with the numbers that the host chose, as `kiln ps` shows them.
pub fn bound_ports(usernet: &Usernet) -> Vec<String> {
    usernet.forwards().iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_with_and_without_a_device_name() {
        let plain: NetOption = "user".parse().unwrap();
        assert_eq!(plain.device, None);
        assert_eq!(plain.link, Link::User { mac: None });
        let named: NetOption = "eth0=user,mac=02:00:00:00:00:01".parse().unwrap();
        assert_eq!(named.device.as_deref(), Some("eth0"));
        let mac = Some([2, 0, 0, 0, 0, 1]);
        assert_eq!(named.link, Link::User { mac });
        assert_eq!("none".parse::<NetOption>().unwrap().link, Link::None);
    }

    #[test]
    fn taps_with_addresses() {
        let option: NetOption =
            "lan=tap:tap0,ip=10.0.0.2/24,gw=10.0.0.1,ip6=fd00::2/64,dns=fd00::1,mtu=9000"
                .parse()
                .unwrap();
        let Link::Tap(tap) = option.link else {
            panic!("not a tap");
        };
        assert_eq!(option.device.as_deref(), Some("lan"));
        assert_eq!(tap.interface, "tap0");
        assert_eq!(tap.ip4, Some((Ipv4Addr::new(10, 0, 0, 2), 24)));
        assert_eq!(tap.gateway4, Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(tap.dns6, Some("fd00::1".parse().unwrap()));
        assert_eq!(tap.mtu, Some(9000));
        let bare: NetOption = "tap:t,ip=10.0.0.2/8".parse().unwrap();
        assert_eq!(bare.device, None);
    }

    #[test]
    fn a_packet_socket_takes_what_a_tap_takes() {
        let option: NetOption = "packet:veth1,ip=10.0.0.2/24".parse().unwrap();
        let Link::Packet(options) = option.link else {
            panic!("not a packet socket");
        };
        assert_eq!(options.interface, "veth1");
        assert_eq!(options.ip4, Some((Ipv4Addr::new(10, 0, 0, 2), 24)));
    }

    #[test]
    fn nonsense_is_refused_with_the_right_form() {
        for (text, hint) in [
            ("bridge", "write user, none, tap:IFNAME or packet:IFNAME"),
            ("packet:e,speed=1", "packet takes ip"),
            ("tap:", "1 to 15 characters"),
            ("tap:averyveryverylongname", "1 to 15 characters"),
            ("tap:t,ip=10.0.0.2", "10.0.0.2/24"),
            ("tap:t,ip=10.0.0.2/33", "10.0.0.2/24"),
            ("tap:t,mac=01:00:00:00:00:00", "group address"),
            ("tap:t,speed=1", "unknown option"),
            ("tap:t,mtu=100000", "576 to 65520"),
            ("user,ip=1.2.3.4/8", "user takes mac="),
            ("ETH=user", "a-z"),
        ] {
            let error = text.parse::<NetOption>().unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn a_link_carries_whole_frames() {
        let (guest, host) = link_pair().unwrap();
        let frame = vec![7; 60_000];
        rustix::io::write(&guest, &frame).unwrap();
        rustix::io::write(&guest, &frame[..20]).unwrap();
        let mut buffer = vec![0; 65_600];
        assert_eq!(rustix::io::read(&host, &mut buffer).unwrap(), 60_000);
        assert_eq!(rustix::io::read(&host, &mut buffer).unwrap(), 20);
    }
}
