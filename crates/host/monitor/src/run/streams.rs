//! The standard streams of this process, as a program finds them that runs in the foreground.
//!
//! A program's input is the very descriptor that this process has: what it does not read is left for whoever reads next, as
//! with any program that is started from a shell. The guest's process can do nothing with it but read.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::stdio;

use super::console;
use crate::Error;

/// The streams besides standard output.
#[derive(Debug, Default)]
pub struct Standard {
    /// Standard error output, if it is not the same as standard output: read end, write end.
    pub errors: Option<(OwnedFd, OwnedFd)>,
    /// Standard input, if there is one to read.
    pub input: Option<OwnedFd>,
    /// Input and output are a terminal, and the program gets one.
    pub terminal: bool,
}

/// This process's.
///
/// # Errors
/// [`Error::Host`] if there are no descriptors left.
pub fn standard() -> Result<Standard, Error> {
    // One stream keeps the order in which a program writes to the two.
    let errors = if is_same(stdio::stdout(), stdio::stderr()) {
        None
    } else {
        Some(console()?)
    };
    let stdin = stdio::stdin();
    let input = if is_for_others(stdin) {
        None
    } else {
        // It may be closed: then there is nothing to read.
        fcntl_dupfd_cloexec(stdin, 3).ok()
    };
    let terminal = input.is_some()
        && rustix::termios::isatty(stdin)
        && rustix::termios::isatty(stdio::stdout());
    Ok(Standard {
        errors,
        input,
        terminal,
    })
}

/// Whether both are the same file, pipe, socket or terminal.
fn is_same(one: impl AsFd, other: impl AsFd) -> bool {
    match (rustix::fs::fstat(one), rustix::fs::fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

/// A terminal that was given to another job: what is typed there is not for a command in the background.
fn is_for_others(stdin: BorrowedFd<'_>) -> bool {
    rustix::termios::isatty(stdin)
        && rustix::termios::tcgetpgrp(stdin)
            .is_ok_and(|foreground| foreground != rustix::process::getpgrp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn streams_are_told_apart_by_what_is_behind_them() {
        let null = File::open("/dev/null").unwrap();
        let again = File::open("/dev/null").unwrap();
        let zero = File::open("/dev/zero").unwrap();
        assert!(is_same(&null, &again));
        assert!(!is_same(&null, &zero));
    }
}
