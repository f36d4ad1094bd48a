//! The socket, and what is served on it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use kiln_ninep::Reply;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::open::sync;
use crate::session::{MIN_MESSAGE, Session, failure};

/// The longest message in bytes, header included.
pub const MAX_MESSAGE: usize = 128 << 10;

/// Files that wait for a disk at a time; with more, what comes behind them waits, too.
const MOST_SYNCS: usize = 16;

/// A folder that is served.
#[derive(Debug)]
pub struct Export {
    pub(crate) root: OwnedFd,
    pub(crate) read_only: bool,
    /// The most descriptors that a guest can make this process hold.
    pub(crate) descriptors: usize,
    /// The longest message in bytes.
    pub(crate) longest: usize,
    /// How many bytes may still be written, if that is limited.
    pub(crate) left: Option<AtomicU64>,
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
            longest: MAX_MESSAGE,
            left: None,
        })
    }

    /// Agrees to no longer messages than of `longest` bytes (at least 4096), for sockets that cannot carry [`MAX_MESSAGE`].
    #[must_use]
    pub fn with_messages_up_to(mut self, longest: usize) -> Self {
        self.longest = longest.clamp(MIN_MESSAGE as usize, MAX_MESSAGE);
        self
    }

    /// Lets at most so many bytes be written, in all; what would be more fails with `ENOSPC`.
    #[must_use]
    pub fn limited(self, bytes: u64) -> Self {
        Self {
            left: Some(AtomicU64::new(bytes)),
            ..self
        }
    }

    /// Takes so many bytes of what may be written.
    pub(crate) fn spend(&self, bytes: u64) -> Result<(), Errno> {
        let Some(left) = &self.left else {
            return Ok(());
        };
        let take = |left: u64| left.checked_sub(bytes);
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .map(drop)
            .map_err(|_| Errno::NOSPC)
    }
}

/// Answers what comes on `socket` (`SOCK_SEQPACKET`, blocking), until its other end is closed. For a thread of its own: files may take
/// their time. What waits for a disk (`Tfsync`) is done by one more thread, so that what comes behind it need not wait too.
///
/// Gives the thread a creation mask of its own, so that new files have the permissions that the guest says.
pub fn serve(export: &Export, socket: &OwnedFd) {
    unshare_mask();
    std::thread::scope(|scope| {
        let (to_sync, syncs) = mpsc::sync_channel::<Sync>(MOST_SYNCS);
        let syncer = std::thread::Builder::new().stack_size(256 << 10);
        let syncer = syncer.spawn_scoped(scope, move || {
            for (tag, file, how) in syncs {
                let reply = sync(&file, how).map_or_else(failure, |()| Reply::Fsync {});
                // The guest is gone if it cannot be told, which the other thread finds, too.
                let mut message = [0; 64];
                let len = reply.encode(tag, &mut message).unwrap_or(0);
                if !send(socket, message.get(..len).unwrap_or(&[])) {
                    break;
                }
            }
        });
        // The other thread ends with its sender.
        let to_sync = syncer.is_ok().then_some(to_sync);
        answer_all(export, socket, to_sync.as_ref());
        drop(to_sync);
    });
}

/// Tag of the request, file, and how.
type Sync = (u16, Arc<OwnedFd>, u32);

fn answer_all(export: &Export, socket: &OwnedFd, to_sync: Option<&mpsc::SyncSender<Sync>>) {
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
        if let (Some(to_sync), Some(sync)) = (to_sync, session.to_sync(message))
            && to_sync.try_send(sync).is_ok()
        {
            continue;
        }
        let len = session.answer(message, &mut reply);
        if len > 0 && !send(socket, reply.get(..len).unwrap_or(&[])) {
            return;
        }
    }
}

/// False if nobody is left to hear it.
fn send(socket: &OwnedFd, message: &[u8]) -> bool {
    loop {
        match rustix::net::send(socket.as_fd(), message, SendFlags::NOSIGNAL) {
            Ok(_) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
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
