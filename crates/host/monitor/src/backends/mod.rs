//! The backends. Each is one folder with the same shape: `start` takes a [`Launch`] and gives a [`Guest`].
//!
//! | backend | what runs the guest |
//! | --- | --- |
//! | [`process`] | a sandboxed process of Kiln's own |
//! | [`kvm`] | the same process, with a virtual CPU |
//! | [`foreign`] | QEMU, Firecracker or Cloud Hypervisor |
//!
//! [`choose`] is the only place that knows them all.

pub mod foreign;
pub mod kvm;
pub mod process;

use std::fmt;

use crate::Error;
use crate::backend::{Guest, Launch, LinkEnds};
use crate::spec::BackendChoice;
use foreign::Monitor;

/// A backend that this host has.
#[derive(Debug)]
pub enum Backend {
    /// See [`process`].
    Process,
    /// See [`kvm`].
    Kvm,
    /// See [`foreign`].
    Foreign(Monitor),
}

/// Finds the backend that the user wants, or for [`BackendChoice::Auto`] the best one that works here.
///
/// # Errors
/// [`Error::Foreign`] if a program it needs is not installed.
pub fn choose(choice: BackendChoice) -> Result<Backend, Error> {
    Ok(match choice {
        BackendChoice::Auto if kvm::host::is_worthwhile() => Backend::Kvm,
        BackendChoice::Auto | BackendChoice::Process => Backend::Process,
        BackendChoice::Kvm => Backend::Kvm,
        BackendChoice::Qemu(options) => Backend::Foreign(Monitor::qemu(options)?),
        BackendChoice::Firecracker => Backend::Foreign(Monitor::firecracker()?),
        BackendChoice::CloudHypervisor => Backend::Foreign(Monitor::cloud_hypervisor()?),
    })
}

impl Backend {
    /// What it wants to be given of network links.
    pub fn link_ends(&self) -> LinkEnds {
        match self {
            Self::Process | Self::Kvm => LinkEnds::Offloaded,
            Self::Foreign(monitor) => monitor.link_ends(),
        }
    }

    /// Guests can be given folders of the host.
    pub fn has_folders(&self) -> bool {
        match self {
            Self::Foreign(monitor) => monitor.has_folders(),
            _ => true,
        }
    }

    /// Starts a guest. Returns when its process was made; whether it got to run is known from
    /// [`Guest::wait_started`] or from its end.
    ///
    /// # Errors
    /// The backend's; nothing is left behind then.
    pub fn start(&self, launch: Launch) -> Result<Box<dyn Guest>, Error> {
        Ok(match self {
            Self::Process => Box::new(process::start(launch)?),
            Self::Kvm => Box::new(kvm::start(launch)?),
            Self::Foreign(monitor) => Box::new(monitor.start(launch)?),
        })
    }
}

/// As it is recorded: the `--backend` that gives the same one again.
impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => f.write_str("process"),
            Self::Kvm => f.write_str("kvm"),
            Self::Foreign(monitor) => monitor.fmt(f),
        }
    }
}
