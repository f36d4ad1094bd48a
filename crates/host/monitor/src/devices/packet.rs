//! Links over any network interface of the host, by a packet socket.
//!
//! A packet socket sees every frame that arrives at an interface and sends what it is given. With `PACKET_VNET_HDR_SZ`
//! (Linux 6.4) each frame has a `virtio_net_hdr_v1` before it, as with a tap device, so 64 KiB of TCP data cross it as one
//! frame. Made for an interface that belongs to one guest, such as a container's end of a `veth` pair: the host's own
//! stack still sees the frames, and keeps silent only if the interface has no address. Reference: packet(7).
//!
//! Unlike tap devices, packet sockets can reorder frames that the host receives on several processors.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use kiln_abi::NetHeader;
use kiln_abi::layout::Record;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};

use super::net::LinkOptions;
use super::tap;
use crate::Error;
use crate::backend::{Device, LinkEnds};

/// `linux/if_packet.h`; not in every version of the C library's headers.
const PACKET_IGNORE_OUTGOING: c_int = 23;
const PACKET_VNET_HDR_SZ: c_int = 24;
/// Bytes of the header before each frame.
const HEADER: c_int = 12;
const _: () = assert!(NetHeader::SIZE == HEADER as usize);
/// Room for frames that the guest has not taken yet, in bytes; the host may allow less.
const RECEIVE_BUFFER: c_int = 4 << 20;

/// Opens a packet socket on the interface for the guest's device `name`.
///
/// # Errors
/// [`Error::Device`] if there is no such interface, it may not be used or the host is too old; [`Error::Host`] otherwise.
pub fn open(name: &str, options: &LinkOptions, ends: LinkEnds) -> Result<Device, Error> {
    let interface = &options.interface;
    if ends != LinkEnds::Offloaded {
        return Err(Error::Device(format!(
            "--net packet:{interface} works with the backends process and kvm: use --net tap:IFNAME with this one"
        )));
    }
    let Some(index) = index_of(interface)? else {
        return Err(Error::Device(format!(
            "this host has no network interface {interface}: `ip link` lists them"
        )));
    };
    let host = open_socket().map_err(|error| match error {
        Errno::PERM | Errno::ACCESS => Error::Device(format!(
            "no permission for packets of {interface}: that takes root (CAP_NET_RAW); --net user takes no permissions"
        )),
        error => Error::host("open a packet socket", error),
    })?;
    set(&host, PACKET_VNET_HDR_SZ, HEADER).map_err(|error| match error {
        Errno::NOPROTOOPT => Error::Device(
            "packet links take Linux 6.4 or later on the host: use --net tap:IFNAME".to_owned(),
        ),
        error => Error::host("set up a packet socket", error),
    })?;
    let failed = |error| Error::host("set up a packet socket", error);
    set(&host, PACKET_IGNORE_OUTGOING, 1).map_err(failed)?;
    // Less is enough to work with.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&host, RECEIVE_BUFFER as usize);
    bind(&host, index).map_err(failed)?;
    let own = own_mac(&host);
    if options.mac.is_some_and(|mac| Some(mac) != own) {
        // Frames for another address than the interface's own would not come in.
        listen_to_all(&host, index).map_err(failed)?;
    }
    Ok(Device {
        info: tap::info(name, options, || own.unwrap_or([2, 0, 0, 0, 0, 1])),
        host,
        interface: None,
    })
}

/// The number of an interface, if there is one of that name.
///
/// # Errors
/// [`Error::Host`] if the host has no sockets left.
pub(super) fn index_of(name: &str) -> Result<Option<u32>, Error> {
    let failed = |error| Error::host("look up network interfaces", error);
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).map_err(failed)?;
    match rustix::net::netdevice::name_to_index(&socket, name) {
        Ok(index) => Ok(Some(index)),
        Err(Errno::NODEV) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// A socket that receives nothing yet: without a protocol, until it is bound to one interface.
fn open_socket() -> Result<OwnedFd, Errno> {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: makes a descriptor; no memory is involved.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    result(fd)?;
    // SAFETY: the descriptor was made just now and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set(socket: &OwnedFd, option: c_int, value: c_int) -> Result<(), Errno> {
    // SAFETY: the option reads one `int`, which `value` is.
    result(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    })
}

fn bind(socket: &OwnedFd, index: u32) -> Result<(), Errno> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is a whole `sockaddr_ll`.
    result(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    })
}

/// Puts the interface into promiscuous mode for as long as the socket is open.
fn listen_to_all(socket: &OwnedFd, index: u32) -> Result<(), Errno> {
    let request = libc::packet_mreq {
        mr_ifindex: index.cast_signed(),
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    // SAFETY: the option reads one `packet_mreq`.
    result(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const request).cast(),
            size_of::<libc::packet_mreq>() as libc::socklen_t,
        )
    })
}

fn result(returned: c_int) -> Result<(), Errno> {
    if returned < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}

/// The Ethernet address of the interface that a socket is bound to.
fn own_mac(socket: &OwnedFd) -> Option<[u8; 6]> {
    // SAFETY: all bytes 0 is a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the call writes at most `length` bytes into `address`.
    let returned = unsafe {
        libc::getsockname(
            socket.as_raw_fd(),
            (&raw mut address).cast(),
            &raw mut length,
        )
    };
    result(returned).ok()?;
    (address.sll_halen == 6).then_some(*address.sll_addr.first_chunk()?)
}

/// The MTU of an interface in bytes.
pub(super) fn mtu_of(name: &str) -> Option<u16> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    // SAFETY: all bytes 0 is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(15)) {
        *place = byte.cast_signed();
    }
    // SAFETY: SIOCGIFMTU reads and writes one `ifreq`.
    result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) }).ok()?;
    // SAFETY: the call has succeeded and set this member.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u16::try_from(mtu).ok()
}
