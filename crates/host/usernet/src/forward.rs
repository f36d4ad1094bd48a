//! Port forwards and how they are written.
//!
//! The notation is docker's: `[ADDR:]HOST:GUEST[/tcp|/udp]`, IPv6 addresses in brackets, `0` as host port for any free
//! one, and ranges of equal length on both sides (`8000-8002:80-82`). This file only reads text; the sockets are bound
//! by the TCP and UDP halves.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use crate::Error;

/// The transport protocol of a forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP, RFC 9293.
    Tcp,
    /// UDP, RFC 768.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One port of the host whose traffic goes to one port of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortForward {
    /// The transport protocol.
    pub protocol: Protocol,
    /// Where the host listens; port 0 lets the host choose a free one.
    pub host: SocketAddr,
    /// Listen on the same port of `[::]` too, if the host has IPv6. Set when no address was given.
    pub both_families: bool,
    /// The port in the guest, never 0.
    pub guest_port: u16,
}

impl PortForward {
    /// A TCP forward from one address of the host.
    pub const fn tcp(host: SocketAddr, guest_port: u16) -> Self {
        Self {
            protocol: Protocol::Tcp,
            host,
            both_families: false,
            guest_port,
        }
    }

    /// A UDP forward from one address of the host.
    pub const fn udp(host: SocketAddr, guest_port: u16) -> Self {
        Self {
            protocol: Protocol::Udp,
            host,
            both_families: false,
            guest_port,
        }
    }

    /// Reads one forward or a range of them.
    ///
    /// # Errors
    ///
    /// [`Error::Syntax`] says in one line what is wrong with the text.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, Error> {
        parse(text).map_err(|problem| Error::Syntax {
            text: text.to_owned(),
            problem,
        })
    }
}

impl FromStr for PortForward {
    type Err = Error;

    /// Reads exactly one forward; for ranges see [`PortForward::parse_list`].
    fn from_str(text: &str) -> Result<Self, Error> {
        match Self::parse_list(text)?.as_slice() {
            [one] => Ok(*one),
            many => Err(Error::Syntax {
                text: text.to_owned(),
                problem: format!("a range of {} ports where one is expected", many.len()),
            }),
        }
    }
}

impl fmt::Display for PortForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.both_families {
            write!(f, "{}", self.host.port())?;
        } else {
            write!(f, "{}", self.host)?;
        }
        write!(f, ":{}/{}", self.guest_port, self.protocol)
    }
}

fn parse(text: &str) -> Result<Vec<PortForward>, String> {
    let (ports, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some((_, other)) => return Err(format!("unknown protocol {other:?}")),
    };
    let Some((host, guest)) = ports.rsplit_once(':') else {
        return Err("the guest's port is missing".to_owned());
    };
    let (address, host) = split_address(host)?;
    let host = parse_range(host, "host")?;
    let guest = parse_range(guest, "guest")?;
    if guest.0 == 0 {
        return Err("the guest's port cannot be 0".to_owned());
    }
    let count = guest.1 - guest.0;
    let any_port = host == (0, 0);
    if host.0 == 0 && !any_port {
        return Err("a range of host ports cannot start at 0".to_owned());
    }
    if !any_port && host.1 - host.0 != count {
        return Err(format!(
            "{} host ports for {} guest ports",
            u32::from(host.1 - host.0) + 1,
            u32::from(count) + 1
        ));
    }
    Ok((0..=count)
        .map(|i| PortForward {
            protocol,
            host: SocketAddr::new(
                address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                if any_port { 0 } else { host.0 + i },
            ),
            both_families: address.is_none(),
            guest_port: guest.0 + i,
        })
        .collect())
}

/// Splits `ADDR:HOST`; no address means all of the host's.
fn split_address(text: &str) -> Result<(Option<IpAddr>, &str), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once("]:") else {
            return Err("an IPv6 address is written as [ADDR]:HOST:GUEST".to_owned());
        };
        return match address.parse() {
            Ok(address) => Ok((Some(IpAddr::V6(address)), port)),
            Err(_) => Err(format!("{address:?} is no IPv6 address")),
        };
    }
    match text.rsplit_once(':') {
        None => Ok((None, text)),
        Some((address, _)) if address.contains(':') => {
            Err(format!("write the IPv6 address in brackets: [{address}]"))
        }
        Some((address, port)) => match address.parse() {
            Ok(address) => Ok((Some(IpAddr::V4(address)), port)),
            Err(_) => Err(format!("{address:?} is no IP address")),
        },
    }
}

/// Reads `PORT` or `FIRST-LAST`.
fn parse_range(text: &str, side: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| {
        // `u16::from_str` would take a leading plus sign.
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("{text:?} is no {side} port"));
        }
        text.parse::<u16>()
            .map_err(|_| format!("{side} port {text} is above 65535"))
    };
    let Some((first, last)) = text.split_once('-') else {
        return port(text).map(|port| (port, port));
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("{side} port range {text} runs backwards"));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_address_all_of_the_host_is_meant() {
        let forward: PortForward = "8080:80".parse().unwrap();
        assert_eq!(
            forward,
            PortForward {
                protocol: Protocol::Tcp,
                host: "0.0.0.0:8080".parse().unwrap(),
                both_families: true,
                guest_port: 80
            }
        );
        assert_eq!(forward.to_string(), "8080:80/tcp");
    }

    #[test]
    fn addresses_protocols_and_free_ports() {
        let forward: PortForward = "127.0.0.1:0:53/udp".parse().unwrap();
        assert_eq!(
            forward,
            PortForward::udp("127.0.0.1:0".parse().unwrap(), 53)
        );
        let forward: PortForward = "[::1]:443:8443/tcp".parse().unwrap();
        assert_eq!(
            forward,
            PortForward::tcp("[::1]:443".parse().unwrap(), 8443)
        );
        assert_eq!(forward.to_string(), "[::1]:443:8443/tcp");
    }

    #[test]
    fn ranges_have_equal_length() {
        let list = PortForward::parse_list("8000-8002:80-82").unwrap();
        let ports: Vec<_> = list.iter().map(|f| (f.host.port(), f.guest_port)).collect();
        assert_eq!(ports, [(8000, 80), (8001, 81), (8002, 82)]);
        assert_eq!(PortForward::parse_list("0:80-82").unwrap().len(), 3);
        assert_eq!(
            PortForward::parse_list("1-65535:1-65535").unwrap().len(),
            65535
        );
        assert!("8000-8001:80-81".parse::<PortForward>().is_err());
    }

    #[test]
    fn bad_forwards_say_what_is_wrong() {
        for (text, problem) in [
            ("", "guest's port is missing"),
            ("80", "guest's port is missing"),
            ("80:", "\"\" is no guest port"),
            (":80", "\"\" is no host port"),
            ("80:0", "cannot be 0"),
            ("80:+1", "\"+1\" is no guest port"),
            ("80:70000", "above 65535"),
            ("80:80/sctp", "unknown protocol \"sctp\""),
            ("::1:80:80", "in brackets"),
            ("[::1:80:80", "[ADDR]:HOST:GUEST"),
            ("[x]:80:80", "no IPv6 address"),
            ("localhost:80:80", "no IP address"),
            ("80-82:80-81", "3 host ports for 2 guest ports"),
            ("82-80:80-82", "runs backwards"),
            ("0-2:80-82", "cannot start at 0"),
        ] {
            let error = PortForward::parse_list(text).unwrap_err().to_string();
            assert!(error.contains(problem), "{text:?} gave {error:?}");
            assert!(!error.contains('\n'));
        }
    }
}
