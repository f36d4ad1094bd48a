//! One guest's conversation: requests in, replies out.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use kiln_ninep::message::{frame_data, messages, tag_of};
use kiln_ninep::{
    NO_TAG, NO_USER, Names, Qids, READ_HEADER, Reply, Request, Statistics, Text, VERSION, lock,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::Export;
use crate::fid::{Fid, Fids, checked, qid};

/// What a new file counts where there is a limit, in bytes.
const NEW_FILE: u64 = 1 << 20;

/// The shortest messages that make sense: a name and a little data.
pub(crate) const MIN_MESSAGE: u32 = 4096;

/// The shortest reply, which is that of an error.
const SHORTEST: usize = kiln_ninep::HEADER + 4;

/// What a guest has said so far.
#[derive(Debug)]
pub struct Session<'a> {
    pub(crate) export: &'a Export,
    pub(crate) fids: Fids,
    /// The device of the root.
    pub(crate) device: u64,
    /// Whom the guest takes for the owner of this process's files.
    pub(crate) user: u32,
    /// The longest message, as agreed.
    msize: usize,
}

/// What became of a request.
#[allow(clippy::large_enum_variant, reason = "one at a time")]
enum Done {
    /// A reply without data.
    Reply(Reply<'static>),
    /// So many bytes of data lie in the reply already, behind its header.
    Data(usize),
    /// The same, entries of a folder.
    Entries(usize),
    /// Where a symbolic link leads.
    Target(Vec<u8>),
}

impl<'a> Session<'a> {
    /// At its beginning.
    pub fn new(export: &'a Export) -> Self {
        Self {
            export,
            fids: Fids::new(export.descriptors),
            device: rustix::fs::fstat(&export.root).map_or(0, |stat| stat.st_dev),
            user: NO_USER,
            msize: export.longest,
        }
    }

    /// Does what the messages of a packet say, one after the other, and writes the replies. Returns how long they are: 0 if there is nothing to
    /// be said.
    pub fn answer(&mut self, packet: &[u8], into: &mut [u8]) -> usize {
        // All of them together: they go in one packet, too.
        let most = self.msize.min(into.len());
        let into = into.get_mut(..most).unwrap_or(&mut []);
        let mut len = 0;
        for message in messages(packet) {
            let room = into.get_mut(len..).unwrap_or(&mut []);
            if room.len() < SHORTEST {
                break;
            }
            len += self.answer_one(message, room);
        }
        len
    }

    fn answer_one(&mut self, message: &[u8], into: &mut [u8]) -> usize {
        let tag = tag_of(message).unwrap_or(NO_TAG);
        let most = self.msize.min(into.len());
        let into = into.get_mut(..most).unwrap_or(&mut []);
        let done = match Request::decode(message) {
            Ok((NO_TAG, Request::Clunk { fid })) => {
                // Nobody asks what became of it.
                let _ = self.clunk(fid);
                return 0;
            }
            Ok((_, request)) => self.perform(&request, into),
            Err(_) => Err(Errno::PROTO),
        };
        let written = match done {
            Ok(Done::Reply(reply)) => reply.encode(tag, into),
            Ok(Done::Data(len)) => frame_data(tag, false, len, into),
            Ok(Done::Entries(len)) => frame_data(tag, true, len, into),
            Ok(Done::Target(target)) => {
                let target = Text(&target);
                Reply::Readlink { target }.encode(tag, into)
            }
            Err(error) => failure(error).encode(tag, into),
        };
        // What does not fit into the messages that the guest has agreed to.
        written
            .or_else(|| failure(Errno::MSGSIZE).encode(tag, into))
            .unwrap_or(0)
    }

    /// If a message asks for a file to be made durable: its tag, the file, and how. That may be done elsewhere and later than what comes behind it,
    /// since it changes nothing.
    pub(crate) fn to_sync(&self, message: &[u8]) -> Option<(u16, Arc<OwnedFd>, u32)> {
        let Ok((tag, Request::Fsync { fid, data_only })) = Request::decode(message) else {
            return None;
        };
        let file = self.fids.get(fid).ok()?.open.clone()?;
        Some((tag, file, data_only))
    }

    fn perform(&mut self, request: &Request<'_>, into: &mut [u8]) -> Result<Done, Errno> {
        if self.export.read_only && changes(request) {
            return Err(Errno::ROFS);
        }
        if self.export.left.is_some() {
            // It is for a few ordinary files.
            match request {
                Request::Create { .. } => self.export.spend(NEW_FILE)?,
                Request::Symlink { .. }
                | Request::Mknod { .. }
                | Request::Link { .. }
                | Request::Mkdir { .. }
                | Request::Rename { .. }
                | Request::RenameAt { .. }
                | Request::XattrCreate { .. } => return Err(Errno::PERM),
                _ => {}
            }
        }
        let reply = match *request {
            Request::Version { msize, version } => self.begin(msize, version)?,
            Request::Attach { fid, uid, .. } => self.attach(fid, uid)?,
            Request::Walk { fid, new, names } => self.walk(fid, new, &names)?,
            Request::Clunk { fid } => self.clunk(fid)?,
            Request::Flush { .. } => Reply::Flush {},
            Request::StatFs { fid } => self.statfs(fid)?,
            Request::GetAttr { fid, mask } => self.get_attributes(fid, mask)?,
            Request::SetAttr { .. } => self.set_attributes(request)?,
            Request::Open { fid, flags } => self.open(fid, flags)?,
            Request::Create {
                fid,
                name,
                flags,
                mode,
                ..
            } => self.create(fid, name.0, flags, mode)?,
            Request::Read { fid, offset, count } => {
                return self
                    .read(fid, offset, data_room(into, count))
                    .map(Done::Data);
            }
            Request::Write { fid, offset, data } => self.write(fid, offset, data.0)?,
            Request::Fsync { fid, data_only } => self.sync(fid, data_only)?,
            Request::Readdir { fid, offset, count } => {
                let room = data_room(into, count);
                return self.entries(fid, offset, room).map(Done::Entries);
            }
            Request::Readlink { fid } => return self.read_link(fid),
            Request::Mkdir {
                folder, name, mode, ..
            } => self.make_folder(folder, name.0, mode)?,
            Request::Symlink {
                folder,
                name,
                target,
                ..
            } => self.make_symlink(folder, name.0, target.0)?,
            Request::Mknod {
                folder, name, mode, ..
            } => self.make_node(folder, name.0, mode)?,
            Request::Link { folder, fid, name } => self.link(folder, fid, name.0)?,
            Request::RenameAt { from, old, to, new } => self.rename(from, old.0, to, new.0)?,
            Request::UnlinkAt {
                folder,
                name,
                flags,
            } => self.unlink(folder, name.0, flags)?,
            Request::Lock {
                fid, kind, flags, ..
            } if flags & lock::WHOLE != 0 => self.lock_whole(fid, kind)?,
            Request::Lock {
                fid,
                kind,
                start,
                length,
                ..
            } => self.lock(fid, kind, start, length)?,
            Request::GetLock {
                fid,
                kind,
                start,
                length,
                ..
            } => self.get_lock(fid, kind, start, length)?,
            Request::XattrWalk { fid, new, name } => self.walk_attribute(fid, new, name.0)?,
            Request::XattrCreate {
                fid,
                name,
                size,
                flags,
            } => self.create_attribute(fid, name.0, size, flags)?,
            // Superseded, or nothing that is done here.
            Request::Auth { .. } | Request::Rename { .. } | Request::Remove { .. } => {
                return Err(Errno::OPNOTSUPP);
            }
        };
        Ok(Done::Reply(reply))
    }

    /// Also the end of whatever was before.
    fn begin(&mut self, msize: u32, version: Text<'_>) -> Result<Reply<'static>, Errno> {
        self.fids.clear();
        if msize < MIN_MESSAGE {
            return Err(Errno::INVAL);
        }
        let msize = msize.min(self.export.longest as u32);
        self.msize = msize as usize;
        let version = if version.0 == VERSION {
            Text(VERSION)
        } else {
            Text(b"unknown")
        };
        Ok(Reply::Version { msize, version })
    }

    fn attach(&mut self, number: u32, user: u32) -> Result<Reply<'static>, Errno> {
        let root = rustix::io::fcntl_dupfd_cloexec(&self.export.root, 0)?;
        let stat = rustix::fs::fstat(&root)?;
        self.fids.add(number, Fid::new(root, &stat))?;
        self.user = user;
        Ok(Reply::Attach {
            qid: qid(&stat, self.device),
        })
    }

    /// As far as the names lead; the new fid is made only if that is to the end.
    fn walk(&mut self, number: u32, new: u32, names: &Names<'_>) -> Result<Reply<'static>, Errno> {
        let from = self.fids.get(number)?;
        if from.attribute.is_some() {
            return Err(Errno::INVAL);
        }
        let mut at = Fid {
            open: None,
            ..from.clone()
        };
        let mut found = Vec::with_capacity(names.as_slice().len());
        for name in names.as_slice() {
            match find(&at, name.0) {
                Ok((next, stat)) => {
                    found.push(qid(&stat, self.device));
                    at = Fid::new(next, &stat);
                }
                Err(error) if found.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        if found.len() == names.as_slice().len() {
            if new == number {
                self.fids.replace(number, at)?;
            } else {
                self.fids.add(new, at)?;
            }
        }
        let qids = Qids::new(&found).ok_or(Errno::INVAL)?;
        Ok(Reply::Walk { qids })
    }

    fn clunk(&mut self, number: u32) -> Result<Reply<'static>, Errno> {
        let fid = self.fids.remove(number)?;
        crate::xattr::finish(&fid)?;
        Ok(Reply::Clunk {})
    }

    fn statfs(&self, number: u32) -> Result<Reply<'static>, Errno> {
        let stat = rustix::fs::fstatfs(&*self.fids.get(number)?.at)?;
        let word = |value: i64| value.cast_unsigned();
        Ok(Reply::StatFs {
            statistics: Statistics {
                kind: word(stat.f_type) as u32,
                block_size: word(stat.f_bsize) as u32,
                blocks: stat.f_blocks,
                free: stat.f_bfree,
                available: stat.f_bavail,
                files: stat.f_files,
                files_free: stat.f_ffree,
                id: 0,
                name_len: word(stat.f_namelen) as u32,
            },
        })
    }

    fn read_link(&self, number: u32) -> Result<Done, Errno> {
        let target = rustix::fs::readlinkat(&*self.fids.get(number)?.at, "", Vec::new())?;
        Ok(Done::Target(target.into_bytes()))
    }
}

/// Opens what has this name in the folder `at`, for nothing.
pub fn find(at: &Fid, name: &[u8]) -> Result<(OwnedFd, rustix::fs::Stat), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&*at.at, checked(name)?, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    Ok((fd, stat))
}

/// Room for the data of a reply, at most `count` bytes.
fn data_room(into: &mut [u8], count: u32) -> &mut [u8] {
    let room = into.get_mut(READ_HEADER..).unwrap_or(&mut []);
    let len = room.len().min(count as usize);
    room.get_mut(..len).unwrap_or(&mut [])
}

pub(crate) fn failure(error: Errno) -> Reply<'static> {
    Reply::Error {
        errno: error.raw_os_error().cast_unsigned(),
    }
}

/// Whether a request is about changing something. Opening for writing is looked at where files are opened.
fn changes(request: &Request<'_>) -> bool {
    matches!(
        request,
        Request::Create { .. }
            | Request::Symlink { .. }
            | Request::Mknod { .. }
            | Request::Rename { .. }
            | Request::SetAttr { .. }
            | Request::XattrCreate { .. }
            | Request::Link { .. }
            | Request::Mkdir { .. }
            | Request::RenameAt { .. }
            | Request::UnlinkAt { .. }
            | Request::Write { .. }
            | Request::Remove { .. }
    )
}
