//! Datagrams with the address of this host that they came to, and answers from that address.
//!
//! A host has many addresses, and a socket that is bound to all of them answers from whichever the route back suggests. A
//! client takes answers only from the address that it asked, so that this must be asked for with each datagram and given
//! with each answer: `IP_PKTINFO` (ip(7)) and `IPV6_PKTINFO` (RFC 3542 section 4). rustix has neither, so this file makes
//! the three calls itself; it is the only one of the crate with `unsafe`. What the calls read and write are bytes, laid out
//! here in safe code as Linux has them (`linux/in.h`, `linux/in6.h`, `linux/socket.h`).

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;

/// Length of `struct cmsghdr`: a length, a level and a type.
const HEAD: usize = size_of::<usize>() + 8;

/// Room for one control message of ours.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Room for a `struct sockaddr_in` or `sockaddr_in6`.
#[repr(C, align(8))]
struct Name([u8; 32]);

/// A datagram that was received.
pub(crate) struct Received {
    pub length: usize,
    pub from: Option<SocketAddr>,
    /// The address that it was sent to, if it is one of this host and [`tell`] was called for the socket.
    pub local: Option<IpAddr>,
}

/// Makes a socket tell the address that each datagram came to.
pub(crate) fn tell(fd: &OwnedFd, is_v6: bool) -> Result<(), Errno> {
    let (level, option) = if is_v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    let on: c_int = 1;
    // SAFETY: the kernel reads a c_int, which lives as long as the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    check(result as isize).map(drop)
}

/// Takes one datagram into the memory of `buffer`.
pub(crate) fn receive(fd: &OwnedFd, buffer: &mut Vec<u8>) -> Result<Received, Errno> {
    buffer.clear();
    let spare = buffer.spare_capacity_mut();
    let mut part = libc::iovec {
        iov_base: spare.as_mut_ptr().cast(),
        iov_len: spare.len(),
    };
    let mut name = Name([0; 32]);
    let mut control = Control([0; 64]);
    let mut message = message(&mut name, size_of::<Name>(), &mut part);
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: the message points to memory of ours that lives as long as the call, with the lengths that it has; nothing
    // else uses it meanwhile.
    let result = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let name_length = message.msg_namelen as usize;
    let length = check(result)?;
    // SAFETY: without MSG_TRUNC the result is how many bytes the kernel has written, at most the buffer's capacity.
    unsafe { buffer.set_len(length) };
    Ok(Received {
        length,
        from: name.0.get(..name_length).and_then(read_name),
        // Without a control message it is still zero.
        local: read_control(&control.0),
    })
}

/// Sends a datagram from one of this host's addresses.
pub(crate) fn send(
    fd: &OwnedFd,
    payload: &[u8],
    to: SocketAddr,
    local: IpAddr,
) -> Result<(), Errno> {
    let mut part = libc::iovec {
        iov_base: payload.as_ptr().cast_mut().cast(),
        iov_len: payload.len(),
    };
    let (mut name, name_length) = write_name(to);
    let (mut control, control_length) = write_control(local);
    let mut message = message(&mut name, name_length, &mut part);
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = control_length as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the message points to memory that lives as long as the call, with the lengths that it has; the kernel only
    // reads it.
    let result = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) };
    check(result).map(drop)
}

/// A message of one part without control messages.
fn message(name: &mut Name, name_length: usize, part: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: a struct of integers and raw pointers, which may be zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = ptr::from_mut(name).cast();
    message.msg_namelen = name_length as libc::socklen_t;
    message.msg_iov = ptr::from_mut(part);
    message.msg_iovlen = 1;
    message
}

fn check(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| {
        let error = io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}

/// The bytes at `start`; `None` if there are not so many.
fn at<const N: usize>(bytes: &[u8], start: usize) -> Option<[u8; N]> {
    bytes.get(start..start + N)?.try_into().ok()
}

fn read_name(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(at(name, 0)?);
    let port = u16::from_be_bytes(at(name, 2)?);
    match c_int::from(family) {
        libc::AF_INET => {
            let address = Ipv4Addr::from(at::<4>(name, 4)?);
            Some(SocketAddr::new(address.into(), port))
        }
        libc::AF_INET6 => {
            let flow = u32::from_ne_bytes(at(name, 4)?);
            let address = Ipv6Addr::from(at::<16>(name, 8)?);
            let scope = u32::from_ne_bytes(at(name, 24)?);
            Some(SocketAddrV6::new(address, port, flow, scope).into())
        }
        _ => None,
    }
}

fn write_name(address: SocketAddr) -> (Name, usize) {
    let mut name = [0; 32];
    name[2..4].copy_from_slice(&address.port().to_be_bytes());
    let (family, length) = match address {
        SocketAddr::V4(address) => {
            name[4..8].copy_from_slice(&address.ip().octets());
            (libc::AF_INET as u16, 16)
        }
        SocketAddr::V6(address) => {
            name[4..8].copy_from_slice(&address.flowinfo().to_ne_bytes());
            name[8..24].copy_from_slice(&address.ip().octets());
            name[24..28].copy_from_slice(&address.scope_id().to_ne_bytes());
            (libc::AF_INET6 as u16, 28)
        }
    };
    name[..2].copy_from_slice(&family.to_ne_bytes());
    (Name(name), length)
}

/// Reads the only control message that was asked for.
fn read_control(control: &[u8]) -> Option<IpAddr> {
    let level = c_int::from_ne_bytes(at(control, size_of::<usize>())?);
    let kind = c_int::from_ne_bytes(at(control, size_of::<usize>() + 4)?);
    let local: IpAddr = match (level, kind) {
        // The interface, the address to answer from (for a broadcast, the interface's own), the header's address.
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => Ipv4Addr::from(at::<4>(control, HEAD + 4)?).into(),
        // The header's address, the interface.
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => Ipv6Addr::from(at::<16>(control, HEAD)?).into(),
        _ => return None,
    };
    (!local.is_multicast() && !local.is_unspecified()).then_some(local)
}

/// Says which address a datagram leaves from; the interface is the route's choice.
fn write_control(local: IpAddr) -> (Control, usize) {
    let mut control = [0; 64];
    let (level, kind, length, space) = match local {
        IpAddr::V4(address) => {
            control[HEAD + 4..HEAD + 8].copy_from_slice(&address.octets());
            (libc::IPPROTO_IP, libc::IP_PKTINFO, HEAD + 12, HEAD + 16)
        }
        IpAddr::V6(address) => {
            control[HEAD..HEAD + 16].copy_from_slice(&address.octets());
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, HEAD + 20, HEAD + 24)
        }
    };
    let word = size_of::<usize>();
    control[..word].copy_from_slice(&length.to_ne_bytes());
    control[word..word + 4].copy_from_slice(&level.to_ne_bytes());
    control[word + 4..HEAD].copy_from_slice(&kind.to_ne_bytes());
    (Control(control), space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_control_messages_are_read_as_they_are_written() {
        for text in ["127.0.0.2:53", "[fe80::1%3]:5353", "[::1]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let (name, length) = write_name(address);
            assert_eq!(read_name(&name.0[..length]), Some(address));
            assert_eq!(read_name(&name.0[..7]), None);
            let (control, length) = write_control(address.ip());
            assert_eq!(read_control(&control.0[..length]), Some(address.ip()));
            assert_eq!(read_control(&control.0[..=HEAD]), None);
        }
        assert_eq!(read_control(&[0; 64]), None);
        // Nobody can answer from a group's address.
        let (control, length) = write_control("ff02::1".parse().unwrap());
        assert_eq!(read_control(&control.0[..length]), None);
    }
}
