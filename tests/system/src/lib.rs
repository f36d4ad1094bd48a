//! What the whole-system tests share: the command, guests' images, instances with a state folder of their own.
//!
//! The tests in `tests/*.rs` drive the real `kiln` command as a user does and look at it from outside: exit codes,
//! output, `/proc`, sockets. Nothing here links against Kiln's monitor; only building guests uses the library, since a
//! test run builds many.
//!
//! ```text
//! cargo test -p kiln-system-tests                   # all of it, about three minutes
//! cargo test -p kiln-system-tests --test faults     # one subject
//! KILN=/usr/bin/kiln cargo test -p kiln-system-tests
//! KILN_TEST_BACKEND=kvm cargo test -p kiln-system-tests --test faults   # guests as virtual machines
//! ```
//!
//! Without `KILN` the command is built from this workspace. What a machine cannot do (tap devices without root, a
//! missing program) is skipped, and the test says so in a line that starts with `skipped:`.
//!
//! | module | its part |
//! | --- | --- |
//! | [`backend`] | which backend the tests run guests on |
//! | [`artifacts`] | builds the command and the guests, once for all test processes |
//! | [`session`] | a state folder, commands in it, and the end of everything that was started there |
//! | [`process`] | a running command: its output as it comes, signals, a bounded wait |
//! | [`program`] | ordinary Linux programs as guests |
//! | [`host`] | `/proc`, free ports, what this machine can do |
//! | [`elf`] | changing an image's headers |
//! | [`lossy`] | a host under test at a lossy link, judged by the specification of TCP |
//! | [`nested`] | a Linux in QEMU with virtual machines of its own |
//! | [`netns`] | network namespaces with a tap device |
//! | [`service`] | an example that serves, and connections to it |
//! | [`http`], [`resp`] | clients of the examples `web` and `kv` |
//! | [`random`] | the same random numbers in every run |

pub mod artifacts;
pub mod backend;
pub mod elf;
pub mod host;
pub mod http;
pub mod lossy;
pub mod nested;
pub mod netns;
pub mod process;
pub mod program;
pub mod random;
pub mod resp;
pub mod service;
pub mod session;

pub use artifacts::{guest, kiln};
pub use process::{Outcome, Running};
pub use session::{Session, probe, probe_with};

/// Says why a test does not test anything on this machine. The line is seen whether the test harness captures output
/// or not: it captures what macros print, and this is no macro.
pub fn skip(reason: impl std::fmt::Display) {
    use std::io::Write;
    let name = std::thread::current();
    let name = name.name().unwrap_or("a test").to_owned();
    // A closed standard error is no reason to fail.
    let _ = writeln!(std::io::stderr(), "skipped: {reason} ({name})");
}
