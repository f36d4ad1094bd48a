//! Virtual machines of other monitors: QEMU, Firecracker and Cloud Hypervisor.
//!
//! The image is booted as it is, by its *machine part* (see `docs/machine.md`), in a machine that another program
//! provides. That program is found on `PATH` and started with as little as it needs: the image and the devices as
//! descriptors, a console on its standard streams, nothing else of this process. What it does not leave to us (seccomp)
//! it is told to do itself.
//!
//! How a guest ends comes as the last words on its console, behind a word that only this run's guest knows. Program and
//! machine part are one trust domain: a program can say itself how it ended, but nothing of any other guest.
//!
//! | module | its part |
//! | --- | --- |
//! | [`words`] | the guest's command line |
//! | [`report`] | the guest's last words |
//! | [`plan`] | what a monitor is to be told |
//! | [`limits`] | how much that may be |
//! | [`qemu`], [`firecracker`], [`cloud_hypervisor`] | how each is told |
//! | [`child`] | from the fork to the monitor's first instruction |
//! | [`errors`] | what the monitor itself says |
//! | [`protections`] | what stands around a monitor, and what does not |
//! | [`input`] | what a program reads from its console |
//! | [`guest`] | the supervisor's handle |

pub mod child;
pub mod cloud_hypervisor;
pub mod errors;
pub mod firecracker;
pub mod guest;
pub mod input;
pub mod limits;
pub mod plan;
pub mod protections;
pub mod qemu;
pub mod report;
pub mod words;

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::backend::{Device, Launch, LinkEnds};
use crate::spec::QemuOptions;
use guest::ForeignGuest;
use plan::Plan;

/// Why a guest could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not installed.
    #[error("{program} is not installed: {advice}")]
    NotFound {
        /// Its name.
        program: &'static str,
        /// Where to get it.
        advice: &'static str,
    },
    /// It needs `/dev/kvm`, which cannot be used.
    #[error(
        "{monitor} needs /dev/kvm, which cannot be used ({}): {advice}",
        crate::error::describe(problem)
    )]
    NoKvm {
        /// The monitor.
        monitor: &'static str,
        /// The host's answer.
        problem: io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// It cannot do what is asked for. The text is complete.
    #[error("{0}")]
    Unable(String),
    /// It ended before the guest said anything.
    #[error("{monitor} could not start the guest: {said}")]
    Died {
        /// The monitor.
        monitor: &'static str,
        /// Its own last words.
        said: String,
    },
    /// `--strict`, and a protection cannot be had.
    #[error("--strict: no {name} ({reason}); run without --strict to go on without it")]
    Missing {
        /// Which protection.
        name: &'static str,
        /// Why not.
        reason: String,
    },
    /// The host refused a step.
    #[error("cannot {step}: {}", crate::error::describe(error))]
    Host {
        /// What was tried.
        step: &'static str,
        /// The host's answer.
        error: io::Error,
    },
}

impl Error {
    fn host<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Host {
            step,
            error: error.into(),
        }
    }
}

/// A monitor that is installed, with all about it decided.
#[derive(Debug)]
pub struct Monitor {
    program: PathBuf,
    kind: Kind,
}

/// Which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Qemu(qemu::Setup),
    Firecracker,
    CloudHypervisor,
}

impl Monitor {
    /// QEMU with what the user wants of it; the rest is chosen here.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NoKvm`] if that was asked for.
    pub fn qemu(options: QemuOptions) -> Result<Self, Error> {
        Ok(Self {
            program: find(qemu::PROGRAM, qemu::ADVICE)?,
            kind: Kind::Qemu(qemu::Setup::choose(options, usable_kvm)?),
        })
    }

    /// Firecracker.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::NoKvm`].
    pub fn firecracker() -> Result<Self, Error> {
        let program = find(firecracker::PROGRAM, firecracker::ADVICE)?;
        usable_kvm().map_err(needs_kvm("Firecracker"))?;
        Ok(Self {
            program,
            kind: Kind::Firecracker,
        })
    }

    /// Cloud Hypervisor.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::NoKvm`].
    pub fn cloud_hypervisor() -> Result<Self, Error> {
        let program = find(cloud_hypervisor::PROGRAM, cloud_hypervisor::ADVICE)?;
        usable_kvm().map_err(needs_kvm("Cloud Hypervisor"))?;
        Ok(Self {
            program,
            kind: Kind::CloudHypervisor,
        })
    }

    /// What it wants to be given of network links.
    pub fn link_ends(&self) -> LinkEnds {
        match self.kind {
            Kind::Qemu(_) => LinkEnds::Plain,
            Kind::Firecracker => LinkEnds::Names,
            Kind::CloudHypervisor => LinkEnds::Taps,
        }
    }

    /// Its name for people.
    pub fn title(&self) -> &'static str {
        match self.kind {
            Kind::Qemu(_) => "QEMU",
            Kind::Firecracker => "Firecracker",
            Kind::CloudHypervisor => "Cloud Hypervisor",
        }
    }

    /// Starts a guest. Returns when the monitor's process was made, or of QEMU, which is told the rest then, when its
    /// machine runs.
    ///
    /// # Errors
    /// [`Error`]; nothing is left behind then.
    pub fn start(&self, launch: Launch) -> Result<ForeignGuest, Error> {
        let token = words::token().map_err(Error::host("read random numbers"))?;
        if !self.has_folders() && launch.devices.iter().any(Device::is_folder) {
            return Err(Error::Unable(format!(
                "{} has no way for volumes: leave out -v, or use --backend process, kvm or qemu",
                self.title()
            )));
        }
        let files = plan::files(launch.image)?;
        let mut plan = Plan::new(&launch, &files, &token)?;
        let told = match self.kind {
            Kind::Qemu(setup) => qemu::tell(setup, &mut plan)?,
            Kind::Firecracker => firecracker::tell(&plan)?,
            Kind::CloudHypervisor => cloud_hypervisor::tell(&plan)?,
        };
        guest::start(self, told, launch, &files, &token)
    }

    /// Whether it can be given folders of the host.
    pub fn has_folders(&self) -> bool {
        self.is_qemu()
    }

    fn is_qemu(&self) -> bool {
        matches!(self.kind, Kind::Qemu(_))
    }

    /// Whether the processor is emulated rather than virtualised.
    fn emulates(&self) -> bool {
        matches!(self.kind, Kind::Qemu(setup) if setup.accel == crate::spec::Accel::Tcg)
    }
}

/// As `--backend` takes it.
impl fmt::Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Qemu(setup) => setup.fmt(f),
            Kind::Firecracker => f.write_str("firecracker"),
            Kind::CloudHypervisor => f.write_str("cloud-hypervisor"),
        }
    }
}

/// Finds a program on `PATH`.
fn find(program: &'static str, advice: &'static str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(|file| {
            file.metadata()
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        })
        .ok_or(Error::NotFound { program, advice })
}

/// Whether virtual machines of the host's kernel can be had.
fn usable_kvm() -> io::Result<()> {
    let mut options = std::fs::File::options();
    options.read(true).write(true).open("/dev/kvm").map(drop)
}

fn needs_kvm(monitor: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |problem| Error::NoKvm {
        monitor,
        problem,
        advice: "join the group kvm, or use --backend process",
    }
}
