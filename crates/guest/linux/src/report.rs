//! What a program used, and what it may use: for `kiln build --trace` and `--lock-syscalls`.
//!
//! While a program is watched, the system calls that it makes are noted; at the machine's end their names and the inodes of
//! the root image that it met are written to standard error output, in lines that begin with [`MARK`], for the command that
//! asked for them. A program that is locked gets `ENOSYS` for every call that is not on its list.

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt::Write;

use crate::fs::tmpfs;
use crate::platform::{self, Stream};
use crate::syscalls::table;
use crate::{Errno, Result};

/// What a line of a report begins with; no text does.
pub const MARK: &str = "\x1ekiln-report ";

/// Calls without which no program ends, or comes back from a signal.
const ALWAYS: [&str; 4] = ["exit", "exit_group", "restart_syscall", "rt_sigreturn"];

/// So many numbers in a line.
const IN_A_LINE: usize = 200;

const WORDS: usize = table::COUNT.div_ceil(64);

/// A set of system calls.
type Calls = [u64; WORDS];

/// What is watched and locked.
#[derive(Debug, Default)]
pub struct Watch {
    /// Calls are looked at.
    pub active: Cell<bool>,
    report: Cell<bool>,
    used: Cell<Calls>,
    only: Cell<Option<Calls>>,
}

impl Watch {
    /// Reports at the end.
    pub fn report(&self) {
        self.report.set(true);
        self.active.set(true);
    }

    /// Allows calls by their names, separated by commas, and those that every program needs. Names that are not known are
    /// passed over.
    pub fn lock(&self, names: &[u8]) {
        let mut only = Calls::default();
        for call in table::all() {
            let named = names
                .split(|&b| b == b',')
                .any(|name| name == call.name.as_bytes());
            if named || ALWAYS.contains(&call.name) {
                add(&mut only, u64::from(call.number));
            }
        }
        self.only.set(Some(only));
        self.active.set(true);
    }

    /// Notes a call.
    ///
    /// # Errors
    /// `ENOSYS` if the program may not make it.
    pub fn admit(&self, number: u64) -> Result {
        if let Some(only) = self.only.get()
            && !has(&only, number)
        {
            return Err(Errno::ENOSYS);
        }
        if self.report.get() {
            let mut used = self.used.get();
            add(&mut used, number);
            self.used.set(used);
        }
        Ok(())
    }
}

fn add(calls: &mut Calls, number: u64) {
    if let Some(word) = calls.get_mut((number / 64) as usize) {
        *word |= 1 << (number % 64);
    }
}

fn has(calls: &Calls, number: u64) -> bool {
    calls
        .get((number / 64) as usize)
        .is_some_and(|word| word & 1 << (number % 64) != 0)
}

/// Writes the report if one was asked for.
pub fn finish() {
    let kernel = crate::kernel();
    if !kernel.watch.report.get() {
        return;
    }
    let used = kernel.watch.used.get();
    let names: Vec<&str> = table::all()
        .filter(|call| has(&used, u64::from(call.number)))
        .map(|call| call.name)
        .collect();
    let mut text = String::from("\n");
    for part in names.chunks(IN_A_LINE) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{MARK}calls {}", part.join(","));
    }
    let top = kernel.vfs.top();
    let met = top.map_or_else(Vec::new, |top| tmpfs::met(&*top));
    for part in met.chunks(IN_A_LINE) {
        let _ = write!(text, "{MARK}files ");
        for nid in part {
            let _ = write!(text, "{nid:x},");
        }
        text.push('\n');
    }
    let _ = writeln!(text, "{MARK}end");
    platform::console_write_all(Stream::Error, text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing;
    use crate::platform::pretend;
    use crate::syscalls::{Args, perform};

    const GETPID: u64 = 39;
    const UNAME: u64 = 63;

    #[test]
    fn a_locked_program_makes_no_other_calls() {
        let thread = testing::thread();
        crate::kernel().watch.lock(b"getpid,surely_not_a_call");
        assert_eq!(perform(&thread, GETPID, Args::default()), 1);
        let refused = Errno::ENOSYS.to_register();
        assert_eq!(perform(&thread, UNAME, Args::default()), refused);
        assert_eq!(perform(&thread, u64::MAX, Args::default()), refused);
        assert!(crate::kernel().watch.admit(231).is_ok(), "exit_group");
    }

    #[test]
    fn calls_are_reported_at_the_end() {
        let thread = testing::thread();
        finish();
        assert_eq!(pretend::take_output(), b"");
        crate::kernel().watch.report();
        perform(&thread, GETPID, Args::default());
        perform(&thread, u64::MAX, Args::default());
        finish();
        let text = String::from_utf8(pretend::take_output()).expect("text");
        assert!(text.contains("\n\x1ekiln-report calls getpid\n"), "{text}");
        assert!(text.ends_with("\x1ekiln-report end\n"));
    }
}
