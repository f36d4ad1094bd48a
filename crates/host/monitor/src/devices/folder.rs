//! Folders of the host, for Linux programs.
//!
//! Each is served in a thread of its own ([`kiln_ninep_server`]): a file system may take its time, and the supervisor has others to look
//! after. The guest's end is a socket over which messages go one at a time.

use std::os::fd::OwnedFd;

use kiln_abi::{DeviceInfo, DeviceKind};
use kiln_ninep_server::{Export, serve};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::padded;
use crate::Error;
use crate::backend::Device;
use crate::spec::VolumeOption;

/// Descriptors that a supervisor needs for all else.
const OTHERS: u64 = 256;
/// The most that the rootless network has (`kiln_usernet::config::Limits`).
const NETWORK: u64 = 4096 + 1024 + 256 + 64;
/// The most descriptors for one folder.
const MOST: u64 = 1 << 16;
/// The least with which a program can do anything.
const LEAST: u64 = 64;

/// The host's side of a folder, not served yet.
#[derive(Debug)]
pub struct Folder {
    export: Export,
    socket: OwnedFd,
    name: String,
}

impl Folder {
    /// Lets the guest write at most so many bytes to it, in all.
    #[must_use]
    pub fn limited(self, bytes: u64) -> Self {
        let export = self.export.limited(bytes);
        Self { export, ..self }
    }

    /// Begins to serve it. Not before the guest's process was made: that is a copy of this one, which may have one thread then.
    ///
    /// # Errors
    /// [`Error::Host`] if there can be no more threads.
    pub fn serve(self) -> Result<(), Error> {
        let Self {
            export,
            socket,
            name,
        } = self;
        let thread = std::thread::Builder::new().name(name).stack_size(256 << 10);
        thread
            .spawn(move || serve(&export, &socket))
            .map(drop)
            .map_err(|error| Error::host("serve a folder", error))
    }
}

/// The folder with this number, of so many. Messages are no longer than `longest` bytes.
///
/// # Errors
/// [`Error::Device`] if there is no such folder.
pub fn open(
    option: &VolumeOption,
    number: usize,
    count: usize,
    longest: usize,
) -> Result<(Device, Folder), Error> {
    let name = VolumeOption::device(number);
    let descriptors = descriptors() / (count.max(1) as u64);
    let descriptors = descriptors.clamp(LEAST, MOST) as usize;
    let export = Export::open(&option.folder, option.read_only, descriptors)
        .map_err(|error| Error::file("open", &option.folder, error))?
        .with_messages_up_to(longest);
    let failed = |error| Error::host("make a pair of sockets", error);
    let (socket, host) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(failed)?;
    for end in [&socket, &host] {
        // A whole message at once, where the host's default is less.
        let wanted = 2 * kiln_abi::user::MAX_NINEP as usize;
        if sockopt::socket_send_buffer_size(end).is_ok_and(|size| size < wanted) {
            sockopt::set_socket_send_buffer_size(end, wanted).map_err(failed)?;
        }
    }
    let info = DeviceInfo {
        kind: DeviceKind::Files as u32,
        flags: if option.read_only {
            DeviceInfo::READ_ONLY
        } else {
            0
        },
        name: padded(&name),
        ..DeviceInfo::default()
    };
    let device = Device {
        info,
        host,
        interface: None,
    };
    Ok((
        device,
        Folder {
            export,
            socket,
            name,
        },
    ))
}

/// How many descriptors there are for folders, after asking for as many as this process may have.
fn descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(MOST);
    let raised = Rlimit {
        current: Some(most),
        maximum: limit.maximum,
    };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => most,
        Err(_) => limit.current.unwrap_or(LEAST + OTHERS),
    };
    let left = now.saturating_sub(OTHERS);
    left - NETWORK.min(left / 2)
}
