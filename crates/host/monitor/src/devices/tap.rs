//! Links over a tap device of the host.
//!
//! The device carries each frame behind a `virtio_net_hdr_v1`, with checksum and segmentation offload in both
//! directions, so that 64 KiB of TCP data cross it as one frame. Reference: Linux, Documentation/networking/tuntap.rst.
//! These requests are device controls (`ioctl`), hence the `unsafe` here.
#![allow(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::Duration;

use kiln_abi::layout::Record;
use kiln_abi::{DeviceInfo, DeviceKind, NetHeader};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Setter, Updater, ioctl, opcode};

use super::net::LinkOptions;
use crate::Error;
use crate::backend::{Device, Interface, LinkEnds};

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
const TUNSETPERSIST: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 203);
const TUNSETOFFLOAD: rustix::ioctl::Opcode = opcode::write::<u32>(b'T', 208);
const TUNSETVNETHDRSZ: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 216);

const TUN_F_CSUM: usize = 1;
const TUN_F_TSO4: usize = 2;
const TUN_F_TSO6: usize = 4;

/// Bytes of a [`NetHeader`], as the device's control takes them.
const HEADER: i32 = 12;
const _: () = assert!(NetHeader::SIZE == 12);

/// How often and how far apart to ask again for a device that is in use: one whose last user is just ending.
const RETRIES: u32 = 20;
const RETRY_AFTER: Duration = Duration::from_millis(5);

/// `struct ifreq` with a flags member, 40 bytes.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Opens the tap device for the guest's device `name`. With [`LinkEnds::Names`] it is left to be opened by another.
///
/// # Errors
/// [`Error::Device`] if there is no such device, it is in use or may not be used; [`Error::Host`] otherwise.
pub fn open(name: &str, options: &LinkOptions, ends: LinkEnds) -> Result<Device, Error> {
    // For a privileged user the host would make a device that does not exist, with nothing connected to it.
    let host = rustix::fs::open(
        "/dev/net/tun",
        OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )
    .map_err(|error| refused(options, error))?;
    if super::packet::index_of(&options.interface)?.is_none() {
        let name = &options.interface;
        return Err(Error::Device(format!(
            "this host has no network interface {name}: make one with `ip tuntap add {name} mode tap vnet_hdr`"
        )));
    }
    let info = info(name, options, random_mac);
    let opened = ends != LinkEnds::Names;
    if opened {
        attach(&host, options)?;
        set_up(&host).map_err(|error| Error::host("set up the tap device", error))?;
    }
    Ok(Device {
        info,
        host,
        interface: Some(Interface {
            name: options.interface.clone(),
            opened,
            namespace: None,
        }),
    })
}

/// Makes a tap device in the present network namespace. If it is `lasting` it stays when the descriptor is closed, for
/// somebody else to open it by name.
pub(super) fn create(interface: &str, lasting: bool) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let host = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    attach_once(&host, interface)?;
    if lasting {
        // SAFETY: TUNSETPERSIST takes its argument as an integer.
        unsafe { ioctl(&host, IntegerSetter::<TUNSETPERSIST>::new_usize(1))? };
    } else {
        set_up(&host)?;
    }
    Ok(host)
}

fn attach_once(host: &OwnedFd, interface: &str) -> rustix::io::Result<()> {
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
        rest: [0; 22],
    };
    request.name[..interface.len()].copy_from_slice(interface.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `InterfaceRequest` is in size and layout.
    unsafe {
        ioctl(
            host,
            Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request),
        )
    }
}

fn attach(host: &OwnedFd, options: &LinkOptions) -> Result<(), Error> {
    for attempt in 0.. {
        match attach_once(host, &options.interface) {
            Err(Errno::BUSY) if attempt < RETRIES => std::thread::sleep(RETRY_AFTER),
            other => return other.map_err(|error| refused(options, error)),
        }
    }
    Ok(())
}

fn set_up(host: &OwnedFd) -> rustix::io::Result<()> {
    let offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    // SAFETY: TUNSETVNETHDRSZ reads one `int`; TUNSETOFFLOAD takes its argument as an integer.
    unsafe {
        ioctl(host, Setter::<TUNSETVNETHDRSZ, i32>::new(HEADER))?;
        ioctl(host, IntegerSetter::<TUNSETOFFLOAD>::new_usize(offloads))
    }
}

fn refused(options: &LinkOptions, error: Errno) -> Error {
    let name = &options.interface;
    Error::Device(match error {
        Errno::NOENT | Errno::NXIO | Errno::NODEV => {
            "this host has no tap devices (/dev/net/tun is missing): use --net user".to_owned()
        }
        Errno::BUSY => format!("the tap device {name} is in use: stop the other user of it"),
        Errno::INVAL => format!(
            "{name} is not a tap device for one user: make one with `ip tuntap add {name} mode tap vnet_hdr`"
        ),
        Errno::PERM | Errno::ACCESS => format!(
            "no permission for the tap device {name}: as root, `ip tuntap add {name} mode tap vnet_hdr user $USER`"
        ),
        error => return Error::host("open the tap device", error),
    })
}

/// What the guest is told about a link over an interface of the host. `own` is its Ethernet address, if none was asked
/// for.
pub(super) fn info(name: &str, options: &LinkOptions, own: impl FnOnce() -> [u8; 6]) -> DeviceInfo {
    let mut info = DeviceInfo {
        kind: DeviceKind::Net as u32,
        name: super::padded(name),
        mac: options.mac.unwrap_or_else(own),
        mtu: options
            .mtu
            .or_else(|| super::packet::mtu_of(&options.interface))
            .unwrap_or(1500),
        net_features: DeviceInfo::NET_CSUM
            | DeviceInfo::NET_TSO4
            | DeviceInfo::NET_TSO6
            | DeviceInfo::NET_GRO,
        ..DeviceInfo::default()
    };
    if let Some((address, prefix)) = options.ip4 {
        (info.address4, info.prefix4) = (address.octets(), prefix);
    }
    if let Some((address, prefix)) = options.ip6 {
        (info.address6, info.prefix6) = (address.octets(), prefix);
    }
    info.gateway4 = options.gateway4.map_or([0; 4], |address| address.octets());
    info.gateway6 = options.gateway6.map_or([0; 16], |address| address.octets());
    info.dns4 = options.dns4.map_or([0; 4], |address| address.octets());
    info.dns6 = options.dns6.map_or([0; 16], |address| address.octets());
    info
}

/// A random address with the "locally administered" bit set and the "group" bit clear (IEEE 802).
fn random_mac() -> [u8; 6] {
    let mut mac = crate::registry::random();
    mac[0] = mac[0] & 0xfc | 2;
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_size_of_ifreq() {
        assert_eq!(size_of::<InterfaceRequest>(), size_of::<libc::ifreq>());
    }

    #[test]
    fn static_addresses_reach_the_guest() {
        let options = LinkOptions {
            interface: "none0".into(),
            ip4: Some(("10.1.2.3".parse().unwrap(), 8)),
            gateway4: Some("10.0.0.1".parse().unwrap()),
            ..LinkOptions::default()
        };
        let info = info("eth0", &options, random_mac);
        assert_eq!((info.address4, info.prefix4), ([10, 1, 2, 3], 8));
        assert_eq!(info.gateway4, [10, 0, 0, 1]);
        assert_eq!(info.prefix6, 0, "autoconfiguration");
        assert_eq!(info.mtu, 1500);
        assert_eq!(info.mac[0] & 3, 2);
    }
}
