//! What goes with a message besides its bytes: open files and who sent it (`unix(7)`, "Ancillary messages").

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::super::Outgoing;
use super::super::options::{SOL_SOCKET, int};
use crate::fs::OpenFile;
use crate::process::Thread;
use crate::{Errno, Result};

/// `SCM_RIGHTS`
pub const SCM_RIGHTS: u32 = 1;
/// `SCM_CREDENTIALS`
pub const SCM_CREDENTIALS: u32 = 2;
/// `SCM_MAX_FD`: the most files of a message.
const MOST_FILES: usize = 253;

/// `struct ucred`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ucred {
    /// Process.
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Ucred {
    /// What is told of somebody who is not known.
    pub const NOBODY: Self = Self {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };

    /// Those of a thread's process.
    pub fn of(thread: &Thread) -> Self {
        let credentials = thread.process.credentials.borrow();
        Self {
            pid: thread.process.pid,
            uid: credentials.euid,
            gid: credentials.egid,
        }
    }

    /// As the program reads them.
    pub fn bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.pid.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.uid.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.gid.to_ne_bytes());
        bytes
    }
}

/// What goes with a message.
#[derive(Clone, Debug)]
pub struct Ancillary {
    /// Open files.
    pub files: Vec<Rc<OpenFile>>,
    /// Who sent it.
    pub credentials: Ucred,
}

/// Files that were on their way to sockets that have been closed.
///
/// They are closed one after another and not by recursion: each may be a socket to which other files are on their way, and a chain of those
/// can be as long as a program likes.
#[derive(Debug, Default)]
pub struct Undelivered {
    files: RefCell<Vec<Rc<OpenFile>>>,
    closing: Cell<bool>,
}

impl Undelivered {
    /// Closes files, or leaves that to whoever is at it already.
    pub fn close(&self, files: Vec<Rc<OpenFile>>) {
        self.files.borrow_mut().extend(files);
        if self.closing.replace(true) {
            return;
        }
        loop {
            let next = self.files.borrow_mut().pop();
            let Some(next) = next else { break };
            drop(next);
        }
        self.closing.set(false);
    }
}

/// What a message to be sent brings along.
///
/// # Errors
/// `EBADF`, `EINVAL`, `EPERM` for credentials that are another's.
pub fn of_message(thread: &Thread, message: &mut Outgoing) -> Result<Ancillary> {
    let mut ancillary = Ancillary {
        files: Vec::new(),
        credentials: Ucred::of(thread),
    };
    // Once: what is left of a long message goes without.
    for item in core::mem::take(&mut message.control) {
        match (item.level, item.kind) {
            (SOL_SOCKET, SCM_RIGHTS) => {
                let (numbers, _) = item.data.as_chunks::<4>();
                if ancillary.files.len() + numbers.len() > MOST_FILES {
                    return Err(Errno::EINVAL);
                }
                for number in numbers {
                    let number = i32::from_ne_bytes(*number);
                    ancillary.files.push(thread.process.files.get(number)?);
                }
            }
            (SOL_SOCKET, SCM_CREDENTIALS) => {
                ancillary.credentials = given(thread, &item.data)?;
            }
            (SOL_SOCKET, _) => return Err(Errno::EINVAL),
            _ => {}
        }
    }
    Ok(ancillary)
}

/// Credentials that a program gives: its own, unless it is the superuser's.
fn given(thread: &Thread, data: &[u8]) -> Result<Ucred> {
    let word = |at: usize| int(data.get(at..).unwrap_or_default()).map(i32::cast_unsigned);
    let wanted = Ucred {
        pid: word(0)?,
        uid: word(4)?,
        gid: word(8)?,
    };
    let own = thread.process.credentials.borrow();
    let uids = [own.uid, own.euid, own.suid];
    let gids = [own.gid, own.egid, own.sgid];
    let is_own = wanted.pid == thread.process.pid
        && uids.contains(&wanted.uid)
        && gids.contains(&wanted.gid);
    if own.euid == 0 || is_own {
        Ok(wanted)
    } else {
        Err(Errno::EPERM)
    }
}
