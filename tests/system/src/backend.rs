//! The backend that the tests run guests on: `process`, or what the environment variable `KILN_TEST_BACKEND` says.
//!
//! Whatever a guest can observe is the same on every backend, so nearly all tests hold on all of them. A test about what
//! stands around the guest says where it holds, by [`only_on`].

use std::sync::OnceLock;

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
        crate::skip(format_args!("on {}: {reason}", name()));
    }
    holds
}

/// True if the guest runs in a virtual machine.
pub fn is_machine() -> bool {
    kind() != "process"
}
