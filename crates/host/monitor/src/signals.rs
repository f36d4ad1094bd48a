//! Signals as something to wait for beside everything else (`signalfd(2)`).
//!
//! The supervisor blocks the signals that ask it to end, those that are for a program, and the one that tells of its terminal's
//! size, before the guest starts, and reads them in its loop. All others keep their usual effect: Ctrl-Z stops the supervisor as it stops any program.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::Error;

/// What asks this process to end.
const ENDS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// What is for the program of a guest: two that mean what it likes, and that its terminal has another size.
const OTHERS: [libc::c_int; 3] = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH];

/// The blocked signals, readable.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

/// Blocks SIGINT, SIGTERM, SIGHUP and SIGQUIT for this process and makes them readable. Call it before a guest
/// starts, so that none is missed and a guest's process is not ended by one meant for the supervisor. Those that
/// whoever started this process had it ignore, as nohup(1) and shells do for jobs in the background, stay ignored,
/// SIGTERM apart: a blocked signal would come all the same (signal(7)).
///
/// # Errors
/// [`Error::Host`] if there is no descriptor left.
pub fn block() -> Result<Signals, Error> {
    block_these(&ENDS)
}

/// The same, and SIGUSR1, SIGUSR2 and SIGWINCH with them, for a supervisor.
///
/// # Errors
/// As [`block`].
pub fn block_for_guest() -> Result<Signals, Error> {
    block_these(&[&ENDS[..], &OTHERS].concat())
}

fn block_these(signals: &[libc::c_int]) -> Result<Signals, Error> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set, which the other calls then read; they keep no pointer to it. An action of zeroes
    // is a valid one. The
    // mask is this thread's, the only one of the process. `signalfd` returns a new descriptor that is ours alone.
    let fd = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in signals {
            let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            libc::sigaction(signal, std::ptr::null(), &raw mut action);
            if signal == libc::SIGTERM || action.sa_sigaction != libc::SIG_IGN {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
        }
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(Error::host(
            "watch for signals",
            std::io::Error::last_os_error(),
        ));
    }
    Ok(Signals {
        // SAFETY: it was just made and is not negative.
        fd: unsafe { OwnedFd::from_raw_fd(fd) },
    })
}

/// Who sent a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The kernel, for a key that was pressed at the terminal for example.
    Kernel,
    /// A process, this one alone or the whole group.
    Process,
}

impl Signals {
    /// The next signal that came, if any.
    pub fn next(&self) -> Option<u32> {
        Some(self.next_with_sender()?.0)
    }

    /// The next signal that came, if any, and who sent it.
    pub fn next_with_sender(&self) -> Option<(u32, Sender)> {
        // `struct signalfd_siginfo` begins with `ssi_signo`, `ssi_errno` and `ssi_code`, see signalfd(2).
        const CODE: usize = 8;
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        let word =
            |info: &[u8], at: usize| info[at..].first_chunk().map(|&b| u32::from_ne_bytes(b));
        match rustix::io::read(&self.fd, &mut info) {
            Ok(len) if len == info.len() => {
                let sender = match word(&info, CODE)?.cast_signed() {
                    libc::SI_KERNEL => Sender::Kernel,
                    _ => Sender::Process,
                };
                Some((word(&info, 0)?, sender))
            }
            _ => None,
        }
    }
}

impl Signals {
    /// Whether a signal has come that asks for the end. Others that came before it are dropped.
    pub fn ask_for_the_end(&self) -> bool {
        let ends = |signal: u32| ENDS.contains(&signal.cast_signed());
        std::iter::from_fn(|| self.next()).any(ends)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The names of signals 1 to 31 on x86-64 (signal(7)).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// The first and last real-time signal that the C library leaves to programs.
const REAL_TIME: std::ops::RangeInclusive<u32> = 34..=64;

/// The number of a signal by name or number, as `kiln kill --signal` takes it: `TERM`, `SIGTERM`, `15`, `RTMIN+3`.
pub fn parse(text: &str) -> Option<u32> {
    let is_signal = |number: &u32| (1..=31).contains(number) || REAL_TIME.contains(number);
    if let Ok(number) = text.parse() {
        return Some(number).filter(is_signal);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let of_real_time = |rest: &str, from: u32, add: bool| {
        let distance = match rest {
            "" => 0,
            rest => rest
                .strip_prefix(if add { '+' } else { '-' })?
                .parse()
                .ok()?,
        };
        let number = if add {
            from.checked_add(distance)
        } else {
            from.checked_sub(distance)
        };
        number.filter(|number| REAL_TIME.contains(number))
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return of_real_time(rest, *REAL_TIME.start(), true);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return of_real_time(rest, *REAL_TIME.end(), false);
    }
    let place = NAMES.iter().position(|one| *one == name)?;
    Some(place as u32 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(parse("TERM"), Some(15));
        assert_eq!(parse("sigint"), Some(2));
        assert_eq!(parse("9"), Some(9));
        assert_eq!(parse("WINCH"), Some(28));
        assert_eq!(parse("SIGRTMIN+3"), Some(37));
        assert_eq!(parse("RTMAX-1"), Some(63));
        for none in [
            "", "SIG", "0", "32", "65", "-1", "RTMIN+31", "RTMIN-1", "RTMAX+1", "NAME",
        ] {
            assert_eq!(parse(none), None, "{none}");
        }
    }
}
