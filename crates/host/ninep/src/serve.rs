//! The socket, and what is served on it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::session::Session;

/// The longest message in bytes, header included.
pub const MAX_MESSAGE: usize = 128 << 10;

/// A folder that is served.
#[derive(Debug)]
pub struct Export {
    pub(crate) root: OwnedFd,
    pub(crate) read_only: bool,
    /// The most descriptors that a guest can make this process hold.
    pub(crate) descriptors: usize,
}

impl Export {
    /// The folder at `path`, for at most `descriptors` open descriptors at a time.
    ///
    /// # Errors
    /// The host's, if there is no such folder or it may not be looked at.
    pub fn open(path: &Path, read_only: bool, descriptors: usize) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        Ok(Self {
            root,
            read_only,
            descriptors,
        })
    }
}

/// Answers what comes on `socket` (`SOCK_SEQPACKET`, blocking), until its other end is closed. For a thread of its own: files may take
/// their time.
///
/// Gives the thread a creation mask of its own, so that new files have the permissions that the guest says.
pub fn serve(export: &Export, socket: &OwnedFd) {
    unshare_mask();
    let mut session = Session::new(export);
    let mut request = vec![0; MAX_MESSAGE];
    let mut reply = vec![0; MAX_MESSAGE];
    loop {
        let len = match rustix::net::recv(socket.as_fd(), &mut request[..], RecvFlags::TRUNC) {
            Ok((_, 0)) => return,
            Ok((_, len)) => len,
            Err(Errno::INTR) => continue,
            Err(_) => return,
        };
        // A message that is longer than the buffer was cut, and its size does not fit.
        let message = request.get(..len).unwrap_or(&[]);
        let len = session.answer(message, &mut reply);
        let reply = reply.get(..len).unwrap_or(&[]);
        loop {
            match rustix::net::send(socket.as_fd(), reply, SendFlags::NOSIGNAL) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// A creation mask that is this thread's alone, and lets everything through. If the host refuses, new files have fewer permissions.
#[allow(unsafe_code, reason = "rustix's `unshare` covers descriptors too")]
fn unshare_mask() {
    // SAFETY: separates root folder, working folder and creation mask of this thread from those of the others; no memory and no
    // descriptor is touched.
    let separate = unsafe { libc::unshare(libc::CLONE_FS) } == 0;
    if separate {
        rustix::process::umask(Mode::empty());
    }
}
