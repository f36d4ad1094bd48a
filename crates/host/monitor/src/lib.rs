//! Kiln's monitor: everything on the host between the `kiln` command and a running guest.
//!
//! An *instance* is one guest with its supervisor. The supervisor is the process that the command itself becomes (or,
//! with `--detach`, a child of it): there is no daemon. It opens the devices, lets a backend start the guest, serves
//! the guest's console and rootless network, answers other commands on a control socket, and records how it ended.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`spec`] | what the user asks for, and the texts of its options |
//! | [`devices`] | from options and the image's manifest to open devices |
//! | [`backend`], [`backends`] | what runs a guest, and the kinds of it |
//! | [`run`] | from a [`spec::Spec`] to a running guest, in the foreground or detached |
//! | [`supervise`] | the event loop beside a running guest |
//! | [`console`] | the guest's output: log, log reading, the user's terminal |
//! | [`control`] | requests to a running instance over its socket |
//! | [`capture`] | copies of the frames on its links |
//! | [`registry`] | the state folder: which instances exist and how they are |
//! | [`report`] | how a guest ended, in words |
//!
//! Start-up time is a feature here. On the way to a guest's first instruction there are no threads, no async runtime
//! and few system calls; whatever others only need to see later is written while the guest already runs.
#![deny(unsafe_code)]

pub mod backend;
#[allow(
    unsafe_code,
    reason = "running foreign code in a process of its own is what they are for"
)]
pub mod backends;
pub mod capture;
pub mod clock;
pub mod console;
pub mod control;
pub mod devices;
pub mod error;
pub mod names;
pub mod registry;
pub mod report;
pub mod run;
pub mod signals;
pub mod size;
pub mod spec;
pub mod supervise;

pub use error::Error;
pub use kiln_abi::VERSION as ABI_VERSION;
pub use kiln_abi::metrics;
pub use kiln_abi::net::MAX_FRAME;
pub use kiln_usernet as usernet;
pub use spec::Spec;
