//! Making, renaming and removing.

use kiln_ninep::{Qid, Reply};
use rustix::fs::{AtFlags, CWD, FileType};
use rustix::io::Errno;

use crate::fid::{Fid, checked, qid};
use crate::open::permissions;
use crate::session::{Session, find};

/// `AT_REMOVEDIR`, as it stands in requests.
const REMOVE_FOLDER: u32 = 0x200;

impl Session<'_> {
    /// The folder with this number.
    fn folder(&self, number: u32) -> Result<&Fid, Errno> {
        let fid = self.fids.get(number)?;
        if fid.kind == FileType::Directory && fid.attribute.is_none() {
            Ok(fid)
        } else {
            Err(Errno::NOTDIR)
        }
    }

    /// What has this name now; nothing if somebody has taken it away again. It was made all the same.
    fn made(&self, folder: &Fid, name: &[u8]) -> Qid {
        find(folder, name).map_or_else(|_| Qid::default(), |(_, stat)| qid(&stat, self.device))
    }

    pub(crate) fn make_folder(
        &self,
        folder: u32,
        name: &[u8],
        mode: u32,
    ) -> Result<Reply<'static>, Errno> {
        let folder = self.folder(folder)?;
        rustix::fs::mkdirat(&*folder.at, checked(name)?, permissions(mode, true))?;
        Ok(Reply::Mkdir {
            qid: self.made(folder, name),
        })
    }

    /// The target is text to this side: it is never followed here.
    pub(crate) fn make_symlink(
        &self,
        folder: u32,
        name: &[u8],
        target: &[u8],
    ) -> Result<Reply<'static>, Errno> {
        let folder = self.folder(folder)?;
        rustix::fs::symlinkat(target, &*folder.at, checked(name)?)?;
        Ok(Reply::Symlink {
            qid: self.made(folder, name),
        })
    }

    pub(crate) fn make_node(
        &self,
        folder: u32,
        name: &[u8],
        mode: u32,
    ) -> Result<Reply<'static>, Errno> {
        let kind = FileType::from_raw_mode(mode);
        let kind = match kind {
            FileType::RegularFile | FileType::Fifo | FileType::Socket => kind,
            // `mknod` without a type.
            FileType::Unknown => FileType::RegularFile,
            _ => return Err(Errno::PERM),
        };
        let folder = self.folder(folder)?;
        let permissions = permissions(mode, false);
        rustix::fs::mknodat(&*folder.at, checked(name)?, kind, permissions, 0)?;
        Ok(Reply::Mknod {
            qid: self.made(folder, name),
        })
    }

    pub(crate) fn link(
        &self,
        folder: u32,
        number: u32,
        name: &[u8],
    ) -> Result<Reply<'static>, Errno> {
        let folder = self.folder(folder)?;
        let file = self.fids.get(number)?;
        if matches!(file.kind, FileType::CharacterDevice | FileType::BlockDevice) {
            return Err(Errno::PERM);
        }
        let follow = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(CWD, file.path()?, &*folder.at, checked(name)?, follow)?;
        Ok(Reply::Link {})
    }

    pub(crate) fn rename(
        &self,
        from: u32,
        old: &[u8],
        to: u32,
        new: &[u8],
    ) -> Result<Reply<'static>, Errno> {
        let (from, to) = (self.folder(from)?, self.folder(to)?);
        rustix::fs::renameat(&*from.at, checked(old)?, &*to.at, checked(new)?)?;
        Ok(Reply::RenameAt {})
    }

    pub(crate) fn unlink(
        &self,
        folder: u32,
        name: &[u8],
        flags: u32,
    ) -> Result<Reply<'static>, Errno> {
        let flags = match flags {
            0 => AtFlags::empty(),
            REMOVE_FOLDER => AtFlags::REMOVEDIR,
            _ => return Err(Errno::INVAL),
        };
        let folder = self.folder(folder)?;
        rustix::fs::unlinkat(&*folder.at, checked(name)?, flags)?;
        Ok(Reply::UnlinkAt {})
    }
}
