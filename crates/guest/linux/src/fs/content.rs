//! What the VFS makes of an inode that is opened: its content, or a folder's entries.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;

use super::watch::{self, Mask};
use super::{File, Inode, Kind, Mapped, Metadata, OpenFile, OpenFlags, tmpfs};
use crate::io::{Sink, Source};
use crate::process::Thread;
use crate::process::credentials::CAP_FSETID;
use crate::user::UserAddr;
use crate::{Errno, Result};

/// The greatest length of a file.
pub(super) const MAX_SIZE: u64 = i64::MAX as u64;

/// An inode's content.
pub struct InodeFile {
    /// The inode.
    pub inode: Rc<dyn Inode>,
    kind: Kind,
}

impl InodeFile {
    pub(super) fn new(inode: Rc<dyn Inode>, kind: Kind) -> Self {
        Self { inode, kind }
    }

    /// The right to move the description's offset, for a call that does it from outside.
    pub fn turn<'a>(&self, thread: &Rc<Thread>, open: &'a OpenFile) -> Turn<'a> {
        Turn::wait(thread, open)
    }

    fn not_folder(&self) -> Result {
        if self.kind == Kind::Directory {
            return Err(Errno::EISDIR);
        }
        Ok(())
    }

    fn write_within(&self, thread: &Rc<Thread>, offset: u64, from: &mut Source) -> Result<usize> {
        self.not_folder()?;
        if from.remaining() == 0 {
            return Ok(0);
        }
        let limit = limit(thread, offset)?;
        from.limit(usize::try_from(limit).unwrap_or(usize::MAX));
        from.set_keeps_ids(thread.process.credentials.borrow().can(CAP_FSETID));
        thread.at_file(|| self.inode.write_at(offset, from))
    }
}

/// The right to move a description's offset. Two calls on one description do not read the same bytes (`f_pos`, read(2)), also where one of
/// them sleeps meanwhile.
pub struct Turn<'a>(&'a OpenFile);

impl<'a> Turn<'a> {
    fn wait(thread: &Rc<Thread>, open: &'a OpenFile) -> Self {
        let kernel = crate::kernel();
        while open.in_use.get() && thread.at_file(|| thread.may_wait()) {
            let observer: Rc<dyn crate::wait::Observer> = thread.clone();
            kernel.vfs.turns.add(observer.clone());
            crate::process::sched::park(thread, None);
            kernel.vfs.turns.remove(&observer);
        }
        open.in_use.set(true);
        Self(open)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.in_use.set(false);
        let turns = &crate::kernel().vfs.turns;
        if !turns.is_empty() {
            turns.wake_all(crate::wait::Events::all());
        }
    }
}

/// How many bytes may be written at an offset (`RLIMIT_FSIZE`, the end of all files).
pub(super) fn limit(thread: &Rc<Thread>, offset: u64) -> Result<u64> {
    const FSIZE: usize = 1;
    const SIGXFSZ: u32 = 25;
    let soft = thread.process.limits.borrow()[FSIZE].0;
    if offset >= soft {
        super::raise(thread, SIGXFSZ);
        return Err(Errno::EFBIG);
    }
    if offset >= MAX_SIZE {
        return Err(Errno::EFBIG);
    }
    Ok(soft.min(MAX_SIZE) - offset)
}

impl File for InodeFile {
    fn read(&self, thread: &Rc<Thread>, open: &OpenFile, to: &mut Sink) -> Result<usize> {
        self.not_folder()?;
        let _turn = Turn::wait(thread, open);
        let offset = open.offset.get();
        let read = thread.at_file(|| self.inode.read_at(offset, to))?;
        open.offset.set(offset.saturating_add(read as u64));
        if read > 0 && watch::any() {
            watch::tell_open(open, Mask::ACCESS);
        }
        Ok(read)
    }

    fn write(&self, thread: &Rc<Thread>, open: &OpenFile, from: &mut Source) -> Result<usize> {
        let _turn = Turn::wait(thread, open);
        let written = if open.flags.get().contains(OpenFlags::APPEND) {
            let (written, end) = self.append(thread, from)?;
            open.offset.set(end);
            written
        } else {
            let offset = open.offset.get();
            let written = self.write_within(thread, offset, from)?;
            open.offset.set(offset.saturating_add(written as u64));
            written
        };
        if written > 0 && watch::any() {
            watch::tell_open(open, Mask::MODIFY);
        }
        Ok(written)
    }

    fn read_at(&self, thread: &Rc<Thread>, offset: u64, to: &mut Sink) -> Result<usize> {
        self.not_folder()?;
        thread.at_file(|| self.inode.read_at(offset, to))
    }

    fn write_at(&self, thread: &Rc<Thread>, offset: u64, from: &mut Source) -> Result<usize> {
        self.write_within(thread, offset, from)
    }

    fn append(&self, thread: &Rc<Thread>, from: &mut Source) -> Result<(usize, u64)> {
        const FSIZE: usize = 1;
        self.not_folder()?;
        if from.remaining() == 0 {
            return Ok((0, self.inode.metadata()?.size));
        }
        if thread.process.limits.borrow()[FSIZE].0 < MAX_SIZE {
            let limit = limit(thread, self.inode.metadata()?.size)?;
            from.limit(usize::try_from(limit).unwrap_or(usize::MAX));
        }
        from.set_keeps_ids(thread.process.credentials.borrow().can(CAP_FSETID));
        thread.at_file(|| self.inode.append(from))
    }

    fn seek(&self, open: &OpenFile, offset: i64, whence: u32) -> Result<u64> {
        let base = match whence {
            0 => 0,
            1 => open.offset.get(),
            2 if self.kind == Kind::Directory => return Err(Errno::EINVAL),
            2 => self.inode.metadata()?.size,
            3 | 4 if self.kind == Kind::Regular => {
                let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                let found = self.inode.next_extent(from, whence == 3)?;
                open.offset.set(found);
                return Ok(found);
            }
            _ => return Err(Errno::EINVAL),
        };
        let new = base
            .checked_add_signed(offset)
            .filter(|&new| new <= MAX_SIZE)
            .ok_or(Errno::EINVAL)?;
        open.offset.set(new);
        Ok(new)
    }

    fn ioctl(
        &self,
        _thread: &Rc<Thread>,
        open: &OpenFile,
        request: u32,
        argument: u64,
    ) -> Result<u64> {
        const FIONREAD: u32 = 0x541b;
        if request != FIONREAD || self.kind != Kind::Regular {
            return Err(Errno::ENOTTY);
        }
        let left = self
            .inode
            .metadata()?
            .size
            .saturating_sub(open.offset.get());
        UserAddr(argument).write(i32::try_from(left).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn fcntl(&self, _thread: &Rc<Thread>, command: u32, argument: u64) -> Result<u64> {
        tmpfs::seals(&self.inode, command, argument)
    }

    fn metadata(&self) -> Result<Metadata> {
        self.inode.metadata()
    }

    fn map(&self, shared: bool) -> Result<Mapped> {
        if self.kind != Kind::Regular {
            return Err(Errno::ENODEV);
        }
        self.inode.map(shared)
    }

    fn sync(&self, data_only: bool) -> Result {
        self.inode.sync(data_only)
    }

    fn describe(&self) -> Vec<u8> {
        b"inode".to_vec()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
