//! What a monitor is to be told, before it is put in any monitor's words.

use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use kiln_abi::note::AbiNote;
use kiln_abi::{DeviceInfo, DeviceKind};
use kiln_image::Image;
use rustix::fs::{FileType, MemfdFlags};

use super::{Error, words};
use crate::backend::Launch;

/// Where an image is placed: below lies its machine part (`docs/machine.md`, section 1).
const IMAGE_AT: u64 = 2 << 20;

/// What the machine part uses for itself beyond page tables: queues, buffers, its own pages.
const OVERHEAD: u64 = 2 << 20;

/// What it uses for the queues and buffers of a folder.
const PER_FOLDER: u64 = 512 << 10;

const MIB: u64 = 1 << 20;

/// A machine and its devices. Descriptors are those of this process, and will be the monitor's under the same numbers.
#[derive(Debug)]
pub struct Plan {
    /// The image.
    pub kernel: RawFd,
    /// The root image of a Linux program.
    pub root: Option<RawFd>,
    /// Memory of the machine in MiB.
    pub memory_mib: u64,
    /// The guest's command line.
    pub line: String,
    /// In the order in which the guest will number them.
    pub devices: Vec<Planned>,
}

/// One device.
#[derive(Debug)]
pub struct Planned {
    /// What the guest is to know of it.
    pub info: DeviceInfo,
    /// What kind it is.
    pub kind: Planning,
    /// Its host end.
    pub fd: RawFd,
}

/// What kind a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planning {
    /// A link whose descriptor is a socket.
    Socket,
    /// A link whose descriptor is a tap device.
    Tap,
    /// A link over the tap device of this name.
    Named(String),
    /// A disk that is a file.
    File,
    /// A disk that is a block device of the host.
    BlockDevice,
}

impl Plan {
    /// From what was launched, with [`files`] of its image.
    ///
    /// # Errors
    /// [`Error::Host`] if the host does not tell what a descriptor is.
    pub fn new(launch: &Launch, files: &Files, token: &str) -> Result<Self, Error> {
        let mut devices = Vec::with_capacity(launch.devices.len());
        for device in &launch.devices {
            let stat = rustix::fs::fstat(&device.host)
                .map_err(Error::host("look at a device's descriptor"))?;
            let kind = match (DeviceKind::from_raw(device.info.kind), &device.interface) {
                (Some(DeviceKind::Block), _) => match FileType::from_raw_mode(stat.st_mode) {
                    FileType::BlockDevice => Planning::BlockDevice,
                    _ => Planning::File,
                },
                (_, Some(interface)) if !interface.opened => {
                    Planning::Named(interface.name.clone())
                }
                _ => match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Socket => Planning::Socket,
                    _ => Planning::Tap,
                },
            };
            devices.push(Planned {
                info: device.info,
                kind,
                fd: device.host.as_raw_fd(),
            });
        }
        let folders = launch.devices.iter().filter(|device| device.is_folder());
        let folders = folders.count();
        Ok(Self {
            kernel: files.kernel.as_raw_fd(),
            root: files.root.as_ref().map(AsRawFd::as_raw_fd),
            memory_mib: memory(launch.image, launch.memory)
                .saturating_add(PER_FOLDER * folders as u64)
                .div_ceil(MIB),
            line: words::line(launch, token, crate::backends::process::os::wall()),
            devices,
        })
    }

    /// The links, in their order.
    pub fn links(&self) -> impl Iterator<Item = &Planned> {
        self.devices.iter().filter(|device| device.is_link())
    }

    /// The disks, in their order.
    pub fn disks(&self) -> impl Iterator<Item = &Planned> {
        self.devices.iter().filter(|device| !device.is_link())
    }
}

impl Planned {
    fn is_link(&self) -> bool {
        !matches!(self.kind, Planning::File | Planning::BlockDevice)
    }

    /// The Ethernet address as everybody writes it.
    pub fn mac(&self) -> String {
        let bytes = self.info.mac.map(|byte| format!("{byte:02x}"));
        bytes.join(":")
    }

    /// Whether the guest may only read.
    pub fn is_read_only(&self) -> bool {
        self.info.flags & DeviceInfo::READ_ONLY != 0
    }
}

/// The bytes that a machine needs for an image of `image` bytes whose guest may use `memory` bytes: these two, the
/// machine part, and page tables, of which there is one for 512 pages, one for as many of those, and so on.
pub fn machine_memory(image: u64, memory: u64) -> u64 {
    let guest = image.saturating_add(memory);
    let tables = guest / 512 + guest / (512 * 512) + (64 << 10);
    guest.saturating_add(IMAGE_AT + OVERHEAD + tables)
}

/// The bytes that a machine needs for an image whose guest may use `memory` bytes. A root image lies in its memory, too.
pub fn memory(image: &Image, memory: u64) -> u64 {
    let machine = machine_memory(image.layout().memory_size(), memory);
    if image.abi().flags & AbiNote::PROGRAM == 0 {
        return machine;
    }
    let root = image.root().map_or(0, |root| root.len);
    // The list of the program's mappings, and tables for all memory a second time.
    let own = memory / 256 + OVERHEAD;
    machine.saturating_add(root).saturating_add(own)
}

/// What a machine is started with.
#[derive(Debug)]
pub struct Files {
    /// The image.
    pub kernel: OwnedFd,
    /// The root image of a Linux program.
    pub root: Option<OwnedFd>,
}

/// Copies of the image's parts in memory. The monitor may run as a user who cannot open the file, and whoever changes the file
/// meanwhile changes nothing.
///
/// # Errors
/// [`Error::Host`].
pub fn files(image: &Image) -> Result<Files, Error> {
    let mut file = image.file();
    let Some(root) = image.root() else {
        let kernel = memory_file("kiln-image", &mut io::BufReader::new(file))?;
        return Ok(Files { kernel, root: None });
    };
    let failed = || Error::host("read the image");
    // Nothing but the root image lies behind its start.
    file.seek(io::SeekFrom::Start(0)).map_err(failed())?;
    let kernel = memory_file("kiln-image", &mut file.take(root.offset))?;
    file.seek(io::SeekFrom::Start(root.offset))
        .map_err(failed())?;
    let root = memory_file("kiln-root", &mut file.take(root.len))?;
    Ok(Files {
        kernel,
        root: Some(root),
    })
}

/// A file in memory.
///
/// # Errors
/// [`Error::Host`].
pub fn memory_file(name: &str, content: &mut impl io::Read) -> Result<OwnedFd, Error> {
    let failed = Error::host("make a file in memory");
    let made = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).map_err(io::Error::from);
    let filled = made.and_then(|fd| {
        let mut file = std::fs::File::from(fd);
        io::copy(content, &mut file)?;
        Ok(file.into())
    });
    filled.map_err(failed)
}

/// How a program finds one of its own descriptors by path.
pub fn by_path(fd: RawFd) -> String {
    format!("/proc/self/fd/{fd}")
}

/// For the tests of what is told.
#[cfg(test)]
pub mod testing {
    use super::*;

    /// A plan with a device of each of these kinds.
    pub fn plan(kinds: &[Planning]) -> Plan {
        let device = |(index, kind): (usize, &Planning)| Planned {
            info: DeviceInfo {
                mac: [2, 0, 0, 0, 0, index as u8],
                mtu: 1500,
                capacity: 1 << 20,
                sector_size: 512,
                ..DeviceInfo::default()
            },
            kind: kind.clone(),
            fd: 10 + RawFd::try_from(index).unwrap(),
        };
        Plan {
            kernel: 9,
            root: None,
            memory_mib: 70,
            line: "kiln.name=web kiln.memory=67108864".into(),
            devices: kinds.iter().enumerate().map(device).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_what_its_guest_may_use_and_a_little_more() {
        let mib = |memory| machine_memory(1 << 20, memory).div_ceil(MIB);
        assert_eq!(mib(64 << 20), 70);
        let large = mib(64 << 30);
        assert!((65_536 + 128..65_536 + 256).contains(&large), "{large}");
        assert_eq!(machine_memory(1 << 20, u64::MAX), u64::MAX);
    }

    #[test]
    fn a_file_in_memory_can_be_opened_again() {
        use std::io::Read;
        let fd = memory_file("test", &mut &b"content"[..]).unwrap();
        let mut text = String::new();
        let mut again = std::fs::File::open(by_path(fd.as_raw_fd())).unwrap();
        again.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
    }
}
