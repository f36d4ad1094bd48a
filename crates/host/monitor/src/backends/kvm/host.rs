//! What this host's KVM can do.

use std::io;

use kvm_ioctls::{Cap, Kvm};

/// What KVM is for: `/dev/kvm`.
const DEVICE: &std::ffi::CStr = c"/dev/kvm";
/// The version of KVM's interface, the same since Linux 2.6.22.
const API_VERSION: i32 = 12;
/// Up to here no processor of the last fifteen years has to be asked how long its physical addresses are.
const SURELY_FITS: u64 = 32 << 30;

/// Why this host cannot run a guest in a virtual machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no KVM.
    #[error(
        "there is no /dev/kvm here: load the module kvm_intel or kvm_amd (or, in a virtual machine, switch nested \
         virtualization on), or use --backend process"
    )]
    Absent,
    /// There is, but not for this user.
    #[error(
        "no permission to open /dev/kvm: become a member of the group `kvm` (usermod -aG kvm USER, then log in anew), \
         or use --backend process"
    )]
    Permission,
    /// It cannot be opened for another reason.
    #[error("cannot open /dev/kvm: {0}; use --backend process")]
    Open(io::Error),
    /// It does not have what is needed.
    #[error("the KVM of this host lacks {0}: it needs Linux 4.17 or later; use --backend process")]
    TooOld(&'static str),
    /// More memory than the processor has addresses.
    #[error("{} of memory are more than a virtual machine can have on this host ({})", crate::size::format(*given), crate::size::format(*most))]
    TooMuchMemory {
        /// What was asked for, in bytes.
        given: u64,
        /// What there can be.
        most: u64,
    },
}

/// Opens KVM and makes sure that it has all that this backend needs.
///
/// # Errors
/// [`Error`].
pub fn open(memory: u64) -> Result<Kvm, Error> {
    let kvm = Kvm::new_with_path(DEVICE).map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => Error::Absent,
        libc::EACCES | libc::EPERM => Error::Permission,
        errno => Error::Open(io::Error::from_raw_os_error(errno)),
    })?;
    if kvm.get_api_version() != API_VERSION {
        return Err(Error::TooOld("the interface of version 12"));
    }
    for (capability, name) in [
        (Cap::UserMemory, "memory slots"),
        (Cap::SyncRegs, "shared registers (KVM_CAP_SYNC_REGS)"),
        (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    ] {
        if !kvm.check_extension(capability) {
            return Err(Error::TooOld(name));
        }
    }
    if memory > SURELY_FITS {
        let most = addressable() - super::layout::LOWEST_GUEST - SURELY_FITS;
        if memory > most {
            return Err(Error::TooMuchMemory {
                given: memory,
                most,
            });
        }
    }
    Ok(kvm)
}

/// How many bytes this processor's physical addresses tell apart.
fn addressable() -> u64 {
    let bits = std::arch::x86_64::__cpuid(0x8000_0008).eax & 0xff;
    1u64.checked_shl(bits).unwrap_or(u64::MAX).max(1 << 36)
}

/// True if a virtual machine is the better choice where the user has none: if the host's processor runs them itself (VMX
/// or SVM), and KVM lets this user make one. Where KVM works by page tables, exits cost ten times as much, and a
/// sandboxed process is faster.
pub fn is_worthwhile() -> bool {
    super::processor::has_virtualization() && open(0).is_ok_and(|kvm| kvm.create_vm().is_ok())
}
