//! What `stat` tells, and changing it.

use kiln_ninep::{Attributes, GETATTR_BASIC, NO_USER, Reply, Request, set};
use rustix::fs::{AtFlags, CWD, FileType, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::fid::qid;
use crate::open::{permissions, reopen};
use crate::session::Session;

impl Session<'_> {
    pub(crate) fn get_attributes(&self, number: u32, mask: u64) -> Result<Reply<'static>, Errno> {
        let stat = rustix::fs::fstat(&*self.fids.get(number)?.at)?;
        Ok(Reply::GetAttr {
            attributes: self.attributes(&stat, mask & GETATTR_BASIC),
        })
    }

    fn attributes(&self, stat: &Stat, valid: u64) -> Attributes {
        let time = |seconds: i64| seconds.cast_unsigned();
        Attributes {
            valid,
            qid: qid(stat, self.device),
            mode: stat.st_mode,
            uid: self.to_guest(stat.st_uid, rustix::process::geteuid().as_raw()),
            gid: self.to_guest(stat.st_gid, rustix::process::getegid().as_raw()),
            links: stat.st_nlink,
            device: stat.st_rdev,
            size: time(stat.st_size),
            block_size: time(stat.st_blksize),
            blocks: time(stat.st_blocks),
            atime: time(stat.st_atime),
            atime_nanos: stat.st_atime_nsec,
            mtime: time(stat.st_mtime),
            mtime_nanos: stat.st_mtime_nsec,
            ctime: time(stat.st_ctime),
            ctime_nanos: stat.st_ctime_nsec,
            ..Attributes::default()
        }
    }

    /// A user or group of the host as the guest sees it: this process's own is the one that has attached.
    fn to_guest(&self, id: u32, own: u32) -> u32 {
        if id == own && self.user != NO_USER {
            self.user
        } else {
            id
        }
    }

    fn of_guest(&self, id: u32, own: u32) -> u32 {
        if id == self.user && self.user != NO_USER {
            own
        } else {
            id
        }
    }

    pub(crate) fn set_attributes(&self, request: &Request<'_>) -> Result<Reply<'static>, Errno> {
        let Request::SetAttr {
            fid,
            valid,
            mode,
            uid,
            gid,
            size,
            atime,
            atime_nanos,
            mtime,
            mtime_nanos,
        } = *request
        else {
            return Err(Errno::INVAL);
        };
        let fid = self.fids.get(fid)?;
        if valid & set::UID != 0 && uid == u32::MAX || valid & set::GID != 0 && gid == u32::MAX {
            return Err(Errno::INVAL);
        }
        if valid & (set::UID | set::GID) != 0 {
            let (own_user, own_group) = (rustix::process::geteuid(), rustix::process::getegid());
            let user = (valid & set::UID != 0)
                .then(|| Uid::from_raw(self.of_guest(uid, own_user.as_raw())));
            let group = (valid & set::GID != 0)
                .then(|| Gid::from_raw(self.of_guest(gid, own_group.as_raw())));
            rustix::fs::chownat(&*fid.at, "", user, group, AtFlags::EMPTY_PATH)?;
        }
        if valid & set::MODE != 0 {
            let mode = permissions(mode, fid.kind == FileType::Directory);
            rustix::fs::chmodat(CWD, fid.path()?, mode, AtFlags::empty())?;
        }
        if valid & set::SIZE != 0 {
            if fid.kind != FileType::RegularFile {
                return Err(Errno::INVAL);
            }
            let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
            // What is open for writing already may be a file that nobody else may write.
            let opened = fid
                .open
                .as_deref()
                .map(|file| rustix::fs::ftruncate(file, size));
            if !matches!(opened, Some(Ok(()))) {
                rustix::fs::ftruncate(reopen(fid, flags)?, size)?;
            }
        }
        if valid & (set::ATIME | set::MTIME) != 0 && fid.kind != FileType::Symlink {
            let time = |wanted: u32, told: u32, seconds: u64, nanos: u64| Timespec {
                tv_sec: seconds.cast_signed(),
                tv_nsec: match valid & (wanted | told) {
                    0 => rustix::fs::UTIME_OMIT,
                    both if both & told != 0 => nanos.min(999_999_999).cast_signed(),
                    _ => rustix::fs::UTIME_NOW,
                },
            };
            let times = Timestamps {
                last_access: time(set::ATIME, set::ATIME_SET, atime, atime_nanos),
                last_modification: time(set::MTIME, set::MTIME_SET, mtime, mtime_nanos),
            };
            rustix::fs::utimensat(CWD, fid.path()?, &times, AtFlags::empty())?;
        }
        Ok(Reply::SetAttr {})
    }
}
