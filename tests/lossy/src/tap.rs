//! Opens tap devices without offloads. These requests are device controls (`ioctl`), hence the `unsafe` here.
//! Reference: Linux, Documentation/networking/tuntap.rst.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Updater, ioctl, opcode};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Error;

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;

const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
const TUNSETOFFLOAD: rustix::ioctl::Opcode = opcode::write::<u32>(b'T', 208);

/// `struct ifreq` with a flags member, 40 bytes.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Opens the device `name`, or makes it until it is closed. With `namespace`, the file of a network namespace, it is one
/// in there.
///
/// # Errors
/// [`Error::Namespace`] or [`Error::Tap`].
pub fn open(name: &str, namespace: Option<&Path>) -> Result<OwnedFd, Error> {
    let Some(path) = namespace else {
        return open_here(name);
    };
    let refused = |reason: io::Error| Error::Namespace {
        path: path.display().to_string(),
        reason,
    };
    let file = std::fs::File::open(path).map_err(refused)?;
    // A thread of its own enters the namespace; the others stay where they are.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|error| refused(error.into()))?;
            open_here(name)
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn open_here(name: &str) -> Result<OwnedFd, Error> {
    let refused = |error: Errno| Error::Tap {
        name: name.to_owned(),
        reason: error.into(),
    };
    if name.is_empty() || name.len() > 15 {
        return Err(refused(Errno::INVAL));
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let device = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).map_err(refused)?;
    let mut attempts = 0;
    loop {
        match attach(&device, name) {
            // Its last user is just ending.
            Err(Errno::BUSY) if attempts < 20 => std::thread::sleep(Duration::from_millis(5)),
            other => break other.map_err(refused)?,
        }
        attempts += 1;
    }
    // SAFETY: TUNSETOFFLOAD takes its argument as an integer.
    unsafe { ioctl(&device, IntegerSetter::<TUNSETOFFLOAD>::new_usize(0)) }.map_err(refused)?;
    Ok(device)
}

fn attach(device: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI,
        rest: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `InterfaceRequest` is in size and layout.
    unsafe {
        ioctl(
            device,
            Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request),
        )
    }
}
