//! `struct sockaddr`.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::{AF_INET, AF_INET6, AF_UNSPEC};
use crate::user::UserAddr;
use crate::{Errno, Result};

/// `sizeof(struct sockaddr_storage)`.
pub const LONGEST: usize = 128;
/// `sizeof(struct sockaddr_in)`.
const LEN4: usize = 16;
/// `sizeof(struct sockaddr_in6)`.
const LEN6: usize = 28;
/// The same without the scope, as RFC 2133 had it: still taken.
const LEN6_OLD: usize = 24;

/// An address of any family, as the program gave it or is to get it.
#[derive(Clone, Copy)]
pub struct Address {
    bytes: [u8; LONGEST],
    len: usize,
}

impl core::fmt::Debug for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Address({:x?})", self.bytes())
    }
}

impl Address {
    /// From bytes of the library OS, at most [`LONGEST`] of them.
    pub fn new(bytes: &[u8]) -> Self {
        let len = bytes.len().min(LONGEST);
        let mut all = [0; LONGEST];
        all[..len].copy_from_slice(&bytes[..len]);
        Self { bytes: all, len }
    }

    /// No address: a length of 0.
    pub fn none() -> Self {
        Self::new(&[])
    }

    /// Reads one from the program.
    ///
    /// # Errors
    /// `EINVAL` for a length that none has; `EFAULT`.
    pub fn read(at: UserAddr, len: u32) -> Result<Self> {
        let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
        let mut address = Self {
            bytes: [0; LONGEST],
            len,
        };
        let to = address.bytes.get_mut(..len).ok_or(Errno::EINVAL)?;
        at.read_bytes(to)?;
        Ok(address)
    }

    /// Writes it to `at`, cut to the length that `len` points to, and its true length to there.
    ///
    /// # Errors
    /// `EFAULT`; `EINVAL` for a negative length.
    pub fn write(&self, at: UserAddr, len: UserAddr) -> Result {
        let space = len.read::<i32>()?;
        let space = usize::try_from(space).map_err(|_| Errno::EINVAL)?;
        at.write_bytes(&self.bytes()[..self.len.min(space)])?;
        len.write(self.len as u32)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The family; `AF_UNSPEC` if it is too short for one.
    pub fn family(&self) -> u16 {
        match self.bytes() {
            [low, high, ..] => u16::from_ne_bytes([*low, *high]),
            _ => AF_UNSPEC,
        }
    }

    /// The address of IPv4 or IPv6, as a socket of `family` understands it. IPv4 in IPv6 notation is IPv4.
    ///
    /// # Errors
    /// `EINVAL` if it is too short; `EAFNOSUPPORT` if it is not the socket's.
    pub fn inet(&self, family: u16) -> Result<SocketAddr> {
        let bytes = self.bytes();
        if bytes.len() < 2 {
            return Err(Errno::EINVAL);
        }
        if family == AF_INET {
            if bytes.len() < LEN4 {
                return Err(Errno::EINVAL);
            }
            let any = self.family() == AF_UNSPEC && bytes[4..8] == [0; 4];
            if self.family() != AF_INET && !any {
                return Err(Errno::EAFNOSUPPORT);
            }
            return Ok(SocketAddr::new(ip4(bytes).into(), port(bytes)));
        }
        if self.family() == AF_INET && bytes.len() >= LEN4 {
            // RFC 3542 lets nobody do this, but Linux does for datagrams.
            return Ok(SocketAddr::new(ip4(bytes).into(), port(bytes)));
        }
        if self.family() != AF_INET6 {
            return Err(Errno::EAFNOSUPPORT);
        }
        if bytes.len() < LEN6_OLD {
            return Err(Errno::EINVAL);
        }
        let mut octets = [0; 16];
        octets.copy_from_slice(&bytes[8..24]);
        let address = Ipv6Addr::from(octets);
        Ok(match address.to_ipv4_mapped() {
            Some(address) => SocketAddr::new(IpAddr::V4(address), port(bytes)),
            None => {
                let scope = bytes.get(24..28).and_then(|b| b.try_into().ok());
                let scope = scope.map_or(0, u32::from_ne_bytes);
                SocketAddrV6::new(address, port(bytes), 0, scope).into()
            }
        })
    }

    /// As a socket of `family` shows it: IPv4 in IPv6 notation if need be.
    pub fn from_inet(family: u16, address: SocketAddr) -> Self {
        let mut bytes = [0; LEN6];
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match (family, address.ip()) {
            (AF_INET, IpAddr::V4(ip)) => {
                bytes[..2].copy_from_slice(&AF_INET.to_ne_bytes());
                bytes[4..8].copy_from_slice(&ip.octets());
                Self::new(&bytes[..LEN4])
            }
            (_, ip) => {
                let octets = match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                    IpAddr::V6(ip) => ip.octets(),
                };
                bytes[..2].copy_from_slice(&AF_INET6.to_ne_bytes());
                bytes[8..24].copy_from_slice(&octets);
                if let SocketAddr::V6(address) = address {
                    bytes[24..28].copy_from_slice(&address.scope_id().to_ne_bytes());
                }
                Self::new(&bytes)
            }
        }
    }
}

fn port(bytes: &[u8]) -> u16 {
    bytes
        .get(2..4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u16::from_be_bytes)
}

fn ip4(bytes: &[u8]) -> Ipv4Addr {
    let octets: Option<[u8; 4]> = bytes.get(4..8).and_then(|b| b.try_into().ok());
    octets.unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_addresses_are_written_as_the_sockets_family_has_them() {
        let address: SocketAddr = ([10, 0, 0, 1], 80).into();
        let four = Address::from_inet(AF_INET, address);
        assert_eq!(four.bytes().len(), 16);
        assert_eq!(four.bytes()[..8], [2, 0, 0, 80, 10, 0, 0, 1]);
        assert_eq!(four.inet(AF_INET), Ok(address));
        let six = Address::from_inet(AF_INET6, address);
        assert_eq!(six.bytes().len(), 28);
        assert_eq!(six.inet(AF_INET6), Ok(address));
        assert_eq!(six.inet(AF_INET), Err(Errno::EAFNOSUPPORT));
    }

    #[test]
    fn addresses_that_are_cut_short_are_refused() {
        assert_eq!(Address::none().inet(AF_INET), Err(Errno::EINVAL));
        assert_eq!(
            Address::new(&[2, 0, 0, 80]).inet(AF_INET),
            Err(Errno::EINVAL)
        );
        assert_eq!(
            Address::new(&[10, 0, 0, 80]).inet(AF_INET6),
            Err(Errno::EINVAL)
        );
        assert_eq!(
            Address::new(&[1, 0, 0]).inet(AF_INET6),
            Err(Errno::EAFNOSUPPORT)
        );
    }
}
