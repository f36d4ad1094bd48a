//! A tap device in a network namespace of its own, for monitors that take tap devices only: the rootless network at one
//! end, a virtual machine at the other, and nothing else that could be reached from there.
//!
//! A child makes a user and a network namespace, in which it may do everything, the tap device in it, and a packet socket
//! on that, and sends their descriptors back. The namespaces live as long as one of these. What the virtual machine sends
//! arrives at the socket, what is written to the socket arrives at the virtual machine, each behind a
//! `virtio_net_hdr` (packet(7), `PACKET_VNET_HDR`), so that checksums and segmentation are left undone as they should be.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::tap;
use crate::Error;
use crate::backends::foreign::child::is_for_everybody;

/// The tap device's name.
pub const INTERFACE: &str = "kiln0";

/// The greatest IP packet that the rootless network makes.
const MTU: i32 = 65_520;

/// Room for frames that nobody has taken yet, in bytes for each direction.
const BUFFER: i32 = 4 << 20;

/// Descriptors that the child sends.
const SENT: usize = 3;

/// Both ends of the link.
#[derive(Debug)]
pub struct Island {
    /// The tap device, or if it is to be opened by name, a descriptor of no meaning.
    pub tap: OwnedFd,
    /// The packet socket.
    pub wire: OwnedFd,
    /// The network namespace.
    pub namespace: OwnedFd,
}

/// What the child was doing when it failed.
type Failed = (Step, Errno);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Namespace = 1,
    Tap = 2,
    Interface = 3,
    Socket = 4,
}

impl Island {
    /// Makes one. `opened` tells whether its tap device is wanted as a descriptor.
    ///
    /// # Errors
    /// [`Error::Device`] if this host does not let its users make network namespaces, or has no tap devices.
    pub fn new(opened: bool) -> Result<Self, Error> {
        let failed = |error| Error::host("make a network for the virtual machine", error);
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(failed)?;
        // SAFETY: this process has one thread, so the child has a consistent copy of everything. It ends without
        // running anything of its parent's.
        let pid = match unsafe { libc::fork() } {
            -1 => return Err(Error::host("start a process", io::Error::last_os_error())),
            0 => {
                drop(ours);
                let code = i32::from(child(&theirs, opened).is_err());
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(code) }
            }
            pid => pid,
        };
        drop(theirs);
        let received = receive(&ours);
        // SAFETY: our own child; its status does not matter.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        received.map_err(failed)?.map_err(refused)
    }
}

/// What to tell of a step that failed.
fn refused((step, error): (u8, Errno)) -> Error {
    let why = crate::error::describe(&error.into());
    let advice = "use --net tap:IFNAME, or --backend qemu or process";
    Error::Device(match step {
        step if step == Step::Namespace as u8 => format!(
            "this host does not let you make the network namespace that this backend needs for --net user ({why}): {advice}"
        ),
        step if step == Step::Tap as u8 => format!(
            "this host does not let you make the tap device that this backend needs for --net user (/dev/net/tun: {why}): {advice}"
        ),
        _ => format!(
            "cannot set up the network that this backend needs for --net user ({why}): {advice}"
        ),
    })
}

/// The child: makes everything and sends it, or what went wrong.
fn child(parent: &OwnedFd, opened: bool) -> rustix::io::Result<()> {
    match make(opened) {
        Ok(island) => {
            let fds = [
                island.tap.as_fd(),
                island.wire.as_fd(),
                island.namespace.as_fd(),
            ];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SENT))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
            let message = [io::IoSlice::new(&[0])];
            sendmsg(parent, &message, &mut ancillary, SendFlags::NOSIGNAL).map(drop)
        }
        Err((step, error)) => {
            let mut message = vec![step as u8];
            message.extend(error.raw_os_error().to_ne_bytes());
            rustix::net::send(parent, &message, SendFlags::NOSIGNAL).map(drop)
        }
    }
}

/// What the child sends: descriptors, or a step and why it failed.
fn receive(from: &OwnedFd) -> rustix::io::Result<Result<Island, (u8, Errno)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SENT))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 8];
    let length = {
        let mut message = [io::IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        rustix::io::retry_on_intr(|| recvmsg(from, &mut message, &mut ancillary, flags))?.bytes
    };
    let mut fds = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    if let Some(mut fds) = fds.next()
        && let (Some(tap), Some(wire), Some(namespace)) = (fds.next(), fds.next(), fds.next())
    {
        return Ok(Ok(Island {
            tap,
            wire,
            namespace,
        }));
    }
    if length < 5 {
        return Err(Errno::CHILD);
    }
    let number = i32::from_ne_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
    Ok(Err((bytes[0], Errno::from_raw_os_error(number))))
}

/// Makes nobody the owner of namespaces that are made from here on. This process keeps its rights until then, and its
/// access to files for good.
///
/// Who is to enter a namespace must own it or have power over its owner: root's monitors become nobody first.
fn own_as_nobody() -> Result<(), Errno> {
    const NOBODY: libc::uid_t = 65534;
    const KEEP: libc::uid_t = libc::uid_t::MAX;
    // SAFETY: integers only, in a child with one thread. Raw calls: the C library's would look for other threads.
    unsafe {
        // Rights do not go with the user. Who may not even say that needs none to make a namespace, or gets none.
        libc::prctl(
            libc::PR_SET_SECUREBITS,
            libc::SECBIT_NO_SETUID_FIXUP,
            0,
            0,
            0,
        );
        checked(libc::syscall(libc::SYS_setresuid, KEEP, NOBODY, KEEP) as libc::c_int)?;
        // It gives the user from before, and the kernel allows it since that is still the real one.
        libc::syscall(libc::SYS_setfsuid, 0);
    }
    Ok(())
}

/// Whether a monitor that opens the devices of such a machine can be nobody.
fn is_for_nobody(opened: bool) -> bool {
    let devices = ["/dev/kvm", "/dev/net/tun"];
    let devices = &devices[..if opened { 1 } else { 2 }];
    rustix::process::geteuid().is_root() && devices.iter().all(|path| is_for_everybody(path))
}

fn make(opened: bool) -> Result<Island, Failed> {
    let at = |step: Step| move |error: Errno| (step, error);
    if is_for_nobody(opened) {
        // Where that is refused, the monitor cannot become nobody either.
        let _ = own_as_nobody();
    }
    // SAFETY: gives this process, a child with one thread, namespaces of its own.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) } != 0 {
        return Err((Step::Namespace, last_error()));
    }
    let namespace = rustix::fs::open(
        "/proc/self/ns/net",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(at(Step::Namespace))?;
    let tap = tap::create(INTERFACE, !opened).map_err(at(Step::Tap))?;
    let index = bring_up().map_err(at(Step::Interface))?;
    let wire = packet_socket(index).map_err(at(Step::Socket))?;
    let tap = if opened {
        tap
    } else {
        namespace
            .try_clone()
            .map_err(|_| (Step::Tap, Errno::MFILE))?
    };
    Ok(Island {
        tap,
        wire,
        namespace,
    })
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn checked(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result < 0 {
        Err(last_error())
    } else {
        Ok(result)
    }
}

/// Sets the interface's MTU, makes it silent on its own account and brings it up. Returns its index.
fn bring_up() -> Result<libc::c_int, Errno> {
    // The host's side of the interface must not speak. Where there is no IPv6 there is no such file.
    let _ = std::fs::write(
        format!("/proc/sys/net/ipv6/conf/{INTERFACE}/disable_ipv6"),
        "1",
    );
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: all fields of ifreq are plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(INTERFACE.bytes()) {
        *to = from.cast_signed();
    }
    let fd = socket.as_raw_fd();
    // SAFETY: each of these reads one ifreq, the last also writes it (netdevice(7)), and the union's member read is
    // the one that was written.
    unsafe {
        request.ifr_ifru.ifru_mtu = MTU;
        checked(libc::ioctl(fd, libc::SIOCSIFMTU, &raw const request))?;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_NOARP) as libc::c_short;
        checked(libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request))?;
        checked(libc::ioctl(fd, libc::SIOCGIFINDEX, &raw mut request))?;
        Ok(request.ifr_ifru.ifru_ifindex)
    }
}

/// A socket that gets every frame that comes out of the interface, and puts frames into it.
fn packet_socket(index: libc::c_int) -> Result<OwnedFd, Errno> {
    const PACKET_VNET_HDR: libc::c_int = 15;
    const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: makes a descriptor; protocol 0 means that nothing arrives before it is bound.
    let fd = checked(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: just made, and ours.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let set = |level, name, value: libc::c_int| {
        // SAFETY: these options take one int.
        checked(unsafe {
            libc::setsockopt(
                fd,
                level,
                name,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        })
    };
    set(libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
    // Kernels before 4.20 do not have it, and this socket is the only one that sends here.
    let _ = set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
    for name in [
        libc::SO_RCVBUFFORCE,
        libc::SO_SNDBUFFORCE,
        libc::SO_RCVBUF,
        libc::SO_SNDBUF,
    ] {
        // What the host grants is enough to work with.
        let _ = set(libc::SOL_SOCKET, name, BUFFER);
    }
    // SAFETY: all fields of sockaddr_ll are plain data.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index;
    // SAFETY: reads one sockaddr_ll.
    checked(unsafe {
        libc::bind(
            fd,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    })?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do_instead() {
        for step in 1..=4 {
            let error = refused((step, Errno::PERM)).to_string();
            assert!(error.contains("--net tap:IFNAME"), "{error}");
            assert!(!error.contains('\n'));
        }
    }

    /// The owner of the user namespace that a network namespace belongs to (`ioctl_nsfs(2)`).
    fn owner(namespace: &OwnedFd) -> libc::uid_t {
        const NS_GET_USERNS: libc::c_ulong = 0xb701;
        const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;
        let mut owner = 0;
        // SAFETY: the first makes a descriptor, the second writes one user id.
        unsafe {
            let user = checked(libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS)).unwrap();
            let user = OwnedFd::from_raw_fd(user);
            checked(libc::ioctl(
                user.as_raw_fd(),
                NS_GET_OWNER_UID,
                &raw mut owner,
            ))
            .unwrap();
        }
        owner
    }

    #[test]
    fn it_belongs_to_whom_the_monitor_will_be() {
        let Ok(island) = Island::new(true) else {
            return;
        };
        let monitor = if is_for_nobody(true) {
            65534
        } else {
            rustix::process::geteuid().as_raw()
        };
        assert_eq!(owner(&island.namespace), monitor);
    }

    /// Where this host lets us make one.
    #[test]
    fn frames_cross_in_both_directions() {
        let Ok(island) = Island::new(true) else {
            return;
        };
        let mut frame = [0; 10 + 60];
        frame[10..16].fill(0xff);
        frame[22..24].copy_from_slice(&[0x08, 0x00]);
        frame[30] = 7;
        rustix::net::send(&island.wire, &frame, SendFlags::DONTWAIT).unwrap();
        let mut with_header = [0; 100];
        let length = rustix::io::read(&island.tap, &mut with_header).unwrap();
        assert_eq!((length, with_header[12 + 20]), (12 + 60, 7));
        rustix::io::write(&island.tap, &with_header[..length]).unwrap();
        let mut back = [0; 100];
        let (length, _) =
            rustix::net::recv(&island.wire, &mut back[..], RecvFlags::empty()).unwrap();
        assert_eq!((length, back[10 + 20]), (10 + 60, 7));
    }
}
