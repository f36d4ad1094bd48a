//! Opening, reading and writing.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use kiln_ninep::{APPEND, Reply, WHOLE};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use crate::fid::{Attribute, Fid, checked, qid};
use crate::session::{Session, find};

/// Flags of Linux on x86-64, as they stand in requests.
mod flag {
    pub const ACCESS: u32 = 0o3;
    pub const READ_ONLY: u32 = 0;
    pub const WRITE_ONLY: u32 = 0o1;
    pub const READ_WRITE: u32 = 0o2;
    pub const EXCLUSIVE: u32 = 0o200;
    pub const TRUNCATE: u32 = 0o1000;
    pub const APPEND: u32 = 0o2000;
    pub const DATA_SYNC: u32 = 0o1_0000;
    pub const FOLDER: u32 = 0o20_0000;
    pub const SYNC: u32 = 0o401_0000;
}

/// What of a request's flags is passed on. Whatever is about this process is not.
fn flags_of(flags: u32) -> Result<OFlags, Errno> {
    let mut all = match flags & flag::ACCESS {
        flag::READ_ONLY => OFlags::RDONLY,
        flag::WRITE_ONLY => OFlags::WRONLY,
        flag::READ_WRITE => OFlags::RDWR,
        _ => return Err(Errno::INVAL),
    };
    for (bit, meaning) in [
        (flag::TRUNCATE, OFlags::TRUNC),
        (flag::APPEND, OFlags::APPEND),
        (flag::FOLDER, OFlags::DIRECTORY),
        (flag::DATA_SYNC, OFlags::DSYNC),
    ] {
        if flags & bit != 0 {
            all |= meaning;
        }
    }
    if flags & flag::SYNC == flag::SYNC {
        all |= OFlags::SYNC;
    }
    Ok(all | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK)
}

/// Permissions of a new file or folder: nothing that would lend the user's identity.
pub fn permissions(mode: u32, folder: bool) -> Mode {
    let kept = if folder { 0o3777 } else { 0o1777 };
    Mode::from_raw_mode(mode & kept)
}

/// `PROC_SUPER_MAGIC`.
const PROC: i64 = 0x9fa0;

/// Opens an ordinary file or a folder anew. Not the files of `proc(5)`, which pass for ordinary ones: among them is the memory of this process,
/// and a guest that was given all of the host's files was still not given that.
pub fn reopen(fid: &Fid, flags: OFlags) -> Result<OwnedFd, Errno> {
    match fid.kind {
        FileType::RegularFile if rustix::fs::fstatfs(&*fid.at)?.f_type == PROC => {
            return Err(Errno::NXIO);
        }
        FileType::Directory | FileType::RegularFile => {}
        FileType::Symlink => return Err(Errno::LOOP),
        // Devices of the host, and pipes and sockets, at whose other end would be somebody of the host.
        _ => return Err(Errno::NXIO),
    }
    rustix::fs::openat(CWD, fid.path()?, flags, Mode::empty())
}

/// Writes behind the end of a file, wherever others put that meanwhile (`RWF_APPEND`, pwritev2(2)).
///
/// # Errors
/// `EOPNOTSUPP` of file systems and of hosts (before Linux 4.16) that cannot.
fn append(file: &OwnedFd, data: &[u8]) -> Result<usize, Errno> {
    let data = [std::io::IoSlice::new(data)];
    rustix::io::pwritev2(file, &data, 0, ReadWriteFlags::APPEND)
}

impl Session<'_> {
    pub(crate) fn open(&mut self, number: u32, flags: u32) -> Result<Reply<'static>, Errno> {
        let device = self.device;
        let read_only = self.export.read_only;
        let fid = self.fids.get_mut(number)?;
        if fid.open.is_some() || fid.attribute.is_some() {
            return Err(Errno::BADF);
        }
        if read_only && (flags & flag::ACCESS != flag::READ_ONLY || flags & flag::TRUNCATE != 0) {
            return Err(Errno::ROFS);
        }
        let opened = reopen(fid, flags_of(flags)?)?;
        let stat = rustix::fs::fstat(&opened)?;
        fid.open = Some(Arc::new(opened));
        Ok(Reply::Open {
            qid: qid(&stat, device),
            unit: 0,
        })
    }

    pub(crate) fn create(
        &mut self,
        number: u32,
        name: &[u8],
        flags: u32,
        mode: u32,
    ) -> Result<Reply<'static>, Errno> {
        let device = self.device;
        let folder = self.fids.get_mut(number)?;
        if folder.open.is_some() || folder.attribute.is_some() {
            return Err(Errno::BADF);
        }
        let wanted = flags_of(flags & !flag::FOLDER)?;
        let exclusive = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let name = checked(name)?;
        let mode = permissions(mode, false);
        let opened = match rustix::fs::openat(&*folder.at, name, wanted | exclusive, mode) {
            Err(Errno::EXIST) if flags & flag::EXCLUSIVE == 0 => {
                let (at, stat) = find(folder, name)?;
                reopen(&Fid::new(at, &stat), wanted)?
            }
            result => result?,
        };
        let stat = rustix::fs::fstat(&opened)?;
        let mut fid = Fid::new(opened, &stat);
        fid.open = Some(fid.at.clone());
        *folder = fid;
        Ok(Reply::Create {
            qid: qid(&stat, device),
            unit: 0,
        })
    }

    pub(crate) fn read(&self, number: u32, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let fid = self.fids.get(number)?;
        match &fid.attribute {
            Some(Attribute::Value(value)) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = value.get(from..).unwrap_or(&[]);
                let len = rest.len().min(into.len());
                into.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                return Ok(len);
            }
            Some(Attribute::New { .. }) => return Err(Errno::BADF),
            None => {}
        }
        let file = fid.opened()?;
        if fid.kind == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *into, offset))
    }

    pub(crate) fn write(
        &mut self,
        number: u32,
        offset: u64,
        data: &[u8],
    ) -> Result<Reply<'static>, Errno> {
        self.export.spend(room_on_disk(offset, data.len()))?;
        let fid = self.fids.get_mut(number)?;
        let count = if let Some(attribute) = &mut fid.attribute {
            crate::xattr::append(attribute, offset, data)?
        } else {
            let file = fid.open.as_deref().ok_or(Errno::BADF)?;
            if offset == APPEND {
                rustix::io::retry_on_intr(|| append(file, data))?
            } else {
                rustix::io::retry_on_intr(|| rustix::io::pwrite(file, data, offset))?
            }
        };
        Ok(Reply::Write {
            count: count as u32,
        })
    }

    pub(crate) fn sync(&self, number: u32, how: u32) -> Result<Reply<'static>, Errno> {
        sync(self.fids.get(number)?.opened()?, how)?;
        Ok(Reply::Fsync {})
    }
}

/// Makes a file durable, as [`Request::Fsync`](kiln_ninep::Request::Fsync) says how. This takes as long as the disk does.
pub fn sync(file: &OwnedFd, how: u32) -> Result<(), Errno> {
    match how {
        0 => rustix::fs::fsync(file),
        WHOLE => rustix::fs::syncfs(file),
        _ => rustix::fs::fdatasync(file),
    }
}

/// Bytes that a write may take of a disk: whole blocks.
fn room_on_disk(offset: u64, len: usize) -> u64 {
    const BLOCK: u64 = 4096;
    let len = len as u64;
    // Where the end of a file is, is not known.
    let start = if offset == APPEND {
        BLOCK - 1
    } else {
        offset % BLOCK
    };
    (start + len).next_multiple_of(BLOCK)
}
