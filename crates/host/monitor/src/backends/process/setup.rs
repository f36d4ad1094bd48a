//! How far a guest's process came on its way from the fork to the gate: what child and supervisor share of it.

use std::io;

use kiln_gate::Report;
use kiln_gate::report::REPORT_SIZE;
use kiln_gate::traffic::Traffic;

use super::Error;

/// How far the child came, and what it had to do without. The gate unmaps this before the guest runs, so the guest cannot
/// change it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Setup {
    /// A [`Stage`], as [`Stage::from_raw`] reads it.
    pub stage: u32,
    /// The error number of the failed step.
    pub errno: u32,
    /// The error number if Landlock could not be used.
    pub landlock_errno: u32,
    /// The error number if root could not become somebody else.
    pub user_errno: u32,
    /// The error number if root's guest could not get a user namespace.
    pub namespace_errno: u32,
    /// 1 if there is a virtual machine that the processor runs itself.
    pub hardware: u32,
}

/// The memory that child and supervisor share: a page that stays for the gate's report, then one that does not. Zeroes are a
/// valid one.
#[derive(Debug)]
#[repr(C)]
pub struct Common {
    /// Written by the gate and, as far as anybody can tell, by the guest.
    pub report: Report,
    /// Likewise.
    pub traffic: Traffic,
    fill: [u8; REPORT_SIZE - size_of::<Report>() - size_of::<Traffic>()],
    /// Written by the child.
    pub setup: Setup,
}

/// How far the child came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not yet at its end.
    Preparing,
    /// About to jump into the gate.
    Sealed,
    /// A step failed.
    Failed(Step),
}

/// The number of [`Stage::Sealed`].
pub const SEALED: u32 = 100;

impl Stage {
    /// The stage with this number; unknown numbers count as [`Stage::Sealed`], since only a guest writes such.
    pub fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Preparing,
            number => Step::ALL
                .into_iter()
                .find(|&step| step as u32 == number)
                .map_or(Self::Sealed, Self::Failed),
        }
    }
}

/// The steps of the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Die when the supervisor does; a session of its own.
    Tie = 1,
    /// Descriptors to their places, all others closed.
    Descriptors = 2,
    /// Limits.
    Limits = 3,
    /// The image.
    Image = 4,
    /// The guest's memory.
    Memory = 5,
    /// The gate.
    Gate = 6,
    /// Signal handlers and the tick timer.
    Signals = 7,
    /// Privileges.
    Privileges = 8,
    /// Restartable sequences of the C library, whose memory is about to go.
    Rseq = 9,
    /// Landlock, which `--strict` does not do without.
    Landlock = 10,
    /// Not being root, likewise.
    User = 11,
    /// A user namespace for root's guest, likewise.
    Namespace = 12,
    /// The virtual machine.
    Machine = 13,
}

impl Step {
    const ALL: [Self; 13] = [
        Self::Tie,
        Self::Descriptors,
        Self::Limits,
        Self::Image,
        Self::Memory,
        Self::Gate,
        Self::Signals,
        Self::Privileges,
        Self::Rseq,
        Self::Landlock,
        Self::User,
        Self::Namespace,
        Self::Machine,
    ];

    /// The step's failure as the supervisor tells it.
    pub fn error(self, errno: u32) -> Error {
        let error = io::Error::from_raw_os_error(errno.cast_signed());
        let step = match self {
            Self::Tie => "tie the guest's process to its supervisor",
            Self::Descriptors => "arrange the guest's descriptors",
            Self::Limits => "set limits",
            Self::Image => "map the image",
            Self::Memory => "map the guest's memory",
            Self::Gate => "place the gate",
            Self::Signals => "install signal handlers",
            Self::Privileges => "give up privileges",
            Self::Machine => "make a virtual machine",
            Self::Rseq => "unregister restartable sequences",
            Self::Landlock | Self::User | Self::Namespace => {
                let name = match self {
                    Self::User => "unprivileged user",
                    Self::Namespace => "user namespace",
                    _ => "Landlock",
                };
                return Error::Missing {
                    name,
                    reason: error.to_string(),
                };
            }
        };
        Error::Host { step, error }
    }
}
