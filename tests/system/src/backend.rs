//! The backend that the tests run guests on: `process`, or what the environment variable `KILN_TEST_BACKEND` says.
//!
//! Whatever a guest can observe is the same on every backend, so nearly all tests hold on all of them. A test about what
//! stands around the guest says where it holds, by [`only_on`]. Tests about the virtual machines of other programs run on all that
//! [are here](is_here).

use std::fs::File;
use std::sync::OnceLock;

use crate::host::find_program;
use crate::skip;

/// As `kiln run --backend` takes it.
pub fn name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| std::env::var("KILN_TEST_BACKEND").unwrap_or_else(|_| "process".to_owned()))
}

/// The backend without its options.
pub fn kind() -> &'static str {
    name().split(',').next().unwrap_or_default()
}

/// True if the test holds on the backend of this run. Else says that it is skipped, and why.
pub fn only_on(backends: &[&str], reason: &str) -> bool {
    let holds = backends.contains(&kind());
    if !holds {
        skip(format_args!("on {}: {reason}", name()));
    }
    holds
}

/// True if the guest runs in a virtual machine.
pub fn is_machine() -> bool {
    kind() != "process"
}

/// Whether the monitor of a backend other than Kiln's own can be used on this machine. Else says why not.
pub fn is_here(backend: &str) -> bool {
    let program = match backend {
        "firecracker" | "cloud-hypervisor" => backend,
        _ => "qemu-system-x86_64",
    };
    if find_program(&[program]).is_none() {
        skip(format_args!("{program} is not installed"));
        return false;
    }
    let needs_kvm = !backend.contains("accel=tcg");
    let kvm = File::options().read(true).write(true).open("/dev/kvm");
    if needs_kvm && let Err(error) = kvm {
        skip(format_args!("/dev/kvm: {error}"));
        return false;
    }
    true
}
