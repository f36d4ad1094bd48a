//! The `process` backend: a guest as a sandboxed Linux process.
//!
//! [`start`] forks. The child maps the image, the guest's memory and the [gate](kiln_gate) at random addresses, gives
//! away everything else it has (descriptors, privileges, namespaces, finally the monitor's own memory) and becomes the
//! guest. What it can still ask of the host is what the seccomp filter lets the gate ask ([`filter`]). It needs no
//! privilege, and works inside a container with the engine's default profile; protections that such a place does
//! not grant are listed as missing, or, with `--strict`, refuse the start.
//!
//! | module | its part |
//! | --- | --- |
//! | [`layout`] | where everything lies |
//! | [`boot`] | the boot record |
//! | [`blob`] | the gate's bytes |
//! | [`child`] | from the fork to the jump into the gate |
//! | [`setup`] | how far the child came, as child and supervisor share it |
//! | [`privileges`] | what the child gives up |
//! | [`filter`] | the seccomp filter |
//! | [`guest`] | the supervisor's handle |
//! | [`ring`] | copies of frames on their way from the gate |
//! | [`counters`] | the counters in the guest's memory |
//! | [`os`] | the few raw system calls |

#![allow(
    unsafe_code,
    reason = "this backend maps memory, forks and talks to the kernel"
)]
#![allow(
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "arguments of raw system calls are words"
)]

pub mod blob;
pub mod boot;
pub mod child;
pub mod counter;
pub mod counters;
pub mod filter;
pub mod guest;
pub mod layout;
pub(in crate::backends) mod os;
mod privileges;
pub mod ring;
pub mod setup;

use std::io;

use kiln_abi::note::AbiNote;
use kiln_gate::state::DeviceState;

use kvm_ioctls::Kvm;

use crate::backend::{Device, Launch, Protection};
use blob::Blob;
use child::Plan;
use counters::Counters;
use guest::{Parts, ProcessGuest};
use layout::Layout;
use ring::Ring;
use setup::Common;

/// The most devices of a guest that runs a program.
const MAX_PROGRAM_DEVICES: usize = kiln_abi::MAX_DEVICES - 1;

/// Why a guest could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program does not fit.
    #[error(
        "{} of memory are too little for this image: give it at least {} with --memory",
        crate::size::format(*memory),
        crate::size::format(needed.checked_next_multiple_of(64 * 1024).unwrap_or(*needed))
    )]
    MemoryTooSmall {
        /// What it was given, in bytes.
        memory: u64,
        /// The least it can start with, in bytes.
        needed: u64,
    },
    /// The image's writable segments do not lie side by side.
    #[error("the image has other segments between its writable ones: link it with `kiln build`")]
    ScatteredData,
    /// This host cannot run virtual machines.
    #[error(transparent)]
    Machine(#[from] crate::backends::kvm::Error),
    /// The processor or the host's kernel is too old for Linux programs.
    #[error(
        "this host does not let programs set their segment bases (FSGSBASE): Linux programs need a processor that has it and Linux 5.9 or newer"
    )]
    NoFsgsbase,
    /// One bit of the ready set is the console's.
    #[error("a Linux program can have at most {MAX_PROGRAM_DEVICES} devices")]
    TooManyDevices,
    /// The host refused a step.
    #[error("cannot {step}: {error}")]
    Host {
        /// What was tried.
        step: &'static str,
        /// The host's answer.
        error: io::Error,
    },
    /// `--strict`, and this host does not have a protection.
    #[error(
        "--strict: no {name} on this host ({reason}); run without --strict to go on without it"
    )]
    Missing {
        /// Which protection.
        name: &'static str,
        /// Why not.
        reason: String,
    },
}

impl Error {
    fn host(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Host { step, error }
    }
}

/// Starts a guest. Returns when the child was forked; whether it got to run is known from
/// [`ProcessGuest::wait_started`](guest::ProcessGuest::wait_started) or from its end.
///
/// # Errors
/// [`Error`]; nothing is left behind then.
pub fn start(launch: Launch) -> Result<ProcessGuest, Error> {
    start_in(launch, None)
}

/// Starts a guest, with `kvm` in a virtual machine inside of its process.
///
/// # Errors
/// As [`start`].
#[allow(
    clippy::needless_pass_by_value,
    reason = "the guest's descriptors are the child's from now on"
)]
pub fn start_in(launch: Launch, kvm: Option<Kvm>) -> Result<ProcessGuest, Error> {
    if launch.image.abi().flags & AbiNote::PROGRAM != 0 {
        if !os::has_fsgsbase() {
            return Err(Error::NoFsgsbase);
        }
        if launch.devices.len() > MAX_PROGRAM_DEVICES {
            return Err(Error::TooManyDevices);
        }
    }
    // Guests without a Linux program get the time from their calls, or from what KVM says of the counter.
    let counter = launch.counter;
    let blob = Blob::read();
    let mut random = [0u8; 48 + 64];
    os::random(&mut random).map_err(Error::host("read random numbers"))?;
    let mut picks = [0u64; 6];
    for (pick, bytes) in picks.iter_mut().zip(random.chunks_exact(8)) {
        *pick = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
    }
    let layout = Layout::new(
        launch.image,
        launch.memory,
        boot::size(&launch),
        &blob,
        kvm.is_some(),
        picks,
    )?;
    let facts = boot::HostFacts {
        now: os::monotonic(),
        wall: os::wall(),
        tsc_hz: counter.map_or(0, counter::Sample::frequency),
        entropy: random[48..].try_into().expect("64 bytes left"),
    };
    let boot = boot::record(&launch, &layout, &blob, &facts);
    let memory = os::memory_file(launch.memory).map_err(Error::host("make the guest's memory"))?;
    let common =
        os::Shared::<Common>::new(layout.report).map_err(Error::host("map shared memory"))?;
    let links = guest::outside(&launch.devices);
    let ring = match links {
        0 => None,
        _ => Some(
            os::Shared::<Ring>::new(layout.ring().start)
                .map_err(Error::host("map shared memory"))?,
        ),
    };
    let (control, control_write) = os::pipe().map_err(Error::host("make a pipe"))?;
    let devices: Vec<DeviceState> = launch.devices.iter().map(device_state).collect();
    let filter = filter::build(&layout.rules(&blob, &devices));
    let plan = Plan {
        filter: &filter,
        devices: &devices,
        launch: &launch,
        layout: &layout,
        blob: &blob,
        boot: &boot,
        memory: &memory,
        control,
        common: common.as_ptr(),
        ring: ring
            .as_ref()
            .map_or(std::ptr::null_mut(), os::Shared::as_ptr),
        parent: std::process::id(),
        kvm: kvm.as_ref(),
    };
    let forked = child::fork(&plan)?;
    Ok(ProcessGuest::new(Parts {
        forked,
        common,
        ring,
        links,
        counters: Counters::new(memory, &layout),
        control: control_write,
        image_start: layout.image.start,
        machine: kvm.is_some(),
        program: layout.program,
    }))
}

fn device_state(device: &Device) -> DeviceState {
    DeviceState {
        kind: device.info.kind,
        flags: device.info.flags,
        capacity: device.info.capacity,
        sector_size: device.info.sector_size,
        reserved: 0,
    }
}

/// What this host does not grant, with the reason for each, and what kind of virtual machine it has.
#[derive(Debug)]
struct Missing {
    /// Whether the processor runs virtual machines itself.
    hardware: bool,
    user: Option<String>,
    user_namespace: Option<String>,
    process_namespace: Option<String>,
    landlock: Option<String>,
}

/// The protections around every guest of this backend.
fn protections(missing: Missing, machine: bool) -> Vec<Protection> {
    let always = |name| Protection {
        name,
        missing: None,
    };
    let given = |name, missing| Protection { name, missing };
    let mut all = Vec::with_capacity(16);
    if machine {
        all.push(always(if missing.hardware {
            "virtual machine (by the processor)"
        } else {
            "virtual machine (by page tables)"
        }));
        all.push(always("page tables out of the guest's reach"));
    }
    all.extend([
        always("seccomp filter"),
        always("no new privileges"),
        always("monitor unmapped"),
        always("descriptors closed"),
        always("random addresses"),
        always("W^X"),
        always("guard pages"),
        given("not run as root", missing.user),
        given("user namespace", missing.user_namespace),
        given("process namespace", missing.process_namespace),
        given("no file system access (Landlock)", missing.landlock),
    ]);
    all
}
