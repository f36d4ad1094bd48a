//! What goes with a message besides its bytes: open files and who sent it (`unix(7)`, "Ancillary messages").

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::super::Outgoing;
use super::super::options::{SOL_SOCKET, int};
use crate::event::uring::Uring;
use crate::fs::OpenFile;
use crate::process::{Resource, Thread};
use crate::{Errno, Result, shortage};

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

/// Open files in a message, counted while they are on their way.
#[derive(Debug, Default)]
pub struct Files(Vec<Rc<OpenFile>>);

impl Files {
    /// Puts files into a message.
    pub fn new(files: Vec<Rc<OpenFile>>) -> Self {
        if !files.is_empty() {
            crate::kernel().network.in_flight.add(&files);
        }
        Self(files)
    }

    /// Takes them out.
    pub fn take(mut self) -> Vec<Rc<OpenFile>> {
        self.leave()
    }

    fn leave(&mut self) -> Vec<Rc<OpenFile>> {
        let files = core::mem::take(&mut self.0);
        if !files.is_empty() {
            crate::kernel().network.in_flight.remove(&files);
        }
        files
    }
}

impl core::ops::Deref for Files {
    type Target = [Rc<OpenFile>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Clone for Files {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let files = self.leave();
        if !files.is_empty() {
            crate::kernel().network.undelivered.close(files);
        }
    }
}

/// What goes with a message.
#[derive(Clone, Debug)]
pub struct Ancillary {
    /// Open files.
    pub files: Files,
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
/// `EBADF`; `ESRCH` for credentials with the number of no process; `EINVAL`, also for what cannot be sent: an `io_uring`; `EPERM` for credentials that are another's; `ETOOMANYREFS` if more files are on their
/// way than the process may have open (`RLIMIT_NOFILE`), unless it is the superuser's; `ENOMEM`.
pub fn of_message(thread: &Thread, message: &mut Outgoing) -> Result<Ancillary> {
    let mut files = Vec::new();
    let mut credentials = Ucred::of(thread);
    // Once: what is left of a long message goes without.
    for item in core::mem::take(&mut message.control) {
        match (item.level, item.kind) {
            (SOL_SOCKET, SCM_RIGHTS) => {
                let (numbers, _) = item.data.as_chunks::<4>();
                if files.len() + numbers.len() > MOST_FILES {
                    return Err(Errno::EINVAL);
                }
                for number in numbers {
                    let number = i32::from_ne_bytes(*number);
                    let open = thread.process.files.get(number)?;
                    if open.downcast::<Uring>().is_some() {
                        return Err(Errno::EINVAL);
                    }
                    files.push(open);
                }
            }
            (SOL_SOCKET, SCM_CREDENTIALS) => {
                credentials = given(thread, &item.data)?;
            }
            (SOL_SOCKET, _) => return Err(Errno::EINVAL),
            _ => {}
        }
    }
    if !files.is_empty() {
        crate::kernel().network.in_flight.about_to_send();
        shortage::object(Errno::ENOMEM)?;
        let most = thread.process.limit(Resource::Files).0;
        let on_their_way = crate::kernel().network.in_flight.total() as u64;
        let privileged = thread.process.credentials.borrow().euid == 0;
        if on_their_way > most && !privileged {
            return Err(Errno::ETOOMANYREFS);
        }
    }
    Ok(Ancillary {
        files: Files::new(files),
        credentials,
    })
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
    if own.euid != 0 && !is_own {
        return Err(Errno::EPERM);
    }
    let kernel = crate::kernel();
    let processes = &kernel.processes;
    if processes.process(wanted.pid).is_none() && processes.thread(wanted.pid).is_none() {
        return Err(Errno::ESRCH);
    }
    Ok(wanted)
}
