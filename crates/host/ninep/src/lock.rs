//! Locks on ranges of files, towards others on the host: those between processes of the guest are the guest's own.
//!
//! They belong to the open file, not to this process (`F_OFD_SETLK`, fcntl(2)), and are never waited for here. Those of `flock(2)` are a second
//! kind, on the host as in the guest: the one does not see the other.
#![allow(unsafe_code, reason = "rustix has no locks of ranges")]

use std::os::fd::AsRawFd;

use kiln_ninep::{Reply, Text, lock};
use rustix::io::Errno;

use crate::session::Session;

/// Kinds of locks in requests.
const KINDS: [i32; 3] = [libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK];

fn record(kind: u8, start: u64, length: u64) -> Result<libc::flock, Errno> {
    let kind = KINDS.get(usize::from(kind)).ok_or(Errno::INVAL)?;
    let place = |value: u64| i64::try_from(value).map_err(|_| Errno::INVAL);
    Ok(libc::flock {
        l_type: *kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: place(start)?,
        l_len: place(length)?,
        l_pid: 0,
    })
}

impl Session<'_> {
    /// `flock(2)`.
    pub(crate) fn lock_whole(&self, number: u32, kind: u8) -> Result<Reply<'static>, Errno> {
        use rustix::fs::FlockOperation as Lock;
        let file = self.fids.get(number)?.opened()?;
        let operation = match kind {
            0 => Lock::NonBlockingLockShared,
            1 => Lock::NonBlockingLockExclusive,
            2 => Lock::NonBlockingUnlock,
            _ => return Err(Errno::INVAL),
        };
        let status = match rustix::fs::flock(file, operation) {
            Ok(()) => lock::SUCCESS,
            Err(Errno::WOULDBLOCK) => lock::BLOCKED,
            Err(error) => return Err(error),
        };
        Ok(Reply::Lock { status })
    }

    pub(crate) fn lock(
        &self,
        number: u32,
        kind: u8,
        start: u64,
        length: u64,
    ) -> Result<Reply<'static>, Errno> {
        let file = self.fids.get(number)?.opened()?;
        let record = record(kind, start, length)?;
        // SAFETY: the kernel reads one record.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const record) };
        let status = match (result, last_error()) {
            (0.., _) => lock::SUCCESS,
            (_, Errno::AGAIN | Errno::ACCESS) => lock::BLOCKED,
            (_, error) => return Err(error),
        };
        Ok(Reply::Lock { status })
    }

    pub(crate) fn get_lock(
        &self,
        number: u32,
        kind: u8,
        start: u64,
        length: u64,
    ) -> Result<Reply<'static>, Errno> {
        let file = self.fids.get(number)?.opened()?;
        let mut record = record(kind, start, length)?;
        // SAFETY: the kernel reads and writes one record.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut record) };
        if result < 0 {
            return Err(last_error());
        }
        let kind = KINDS.iter().position(|kind| *kind == record.l_type.into());
        Ok(Reply::GetLock {
            kind: kind.unwrap_or(2) as u8,
            start: record.l_start.cast_unsigned(),
            length: record.l_len.cast_unsigned(),
            process: 0,
            client: Text(b""),
        })
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
