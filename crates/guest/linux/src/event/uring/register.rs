//! `io_uring_register(2)`.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use super::Uring;
use super::sqe::op;
use crate::fs::OpenFile;
use crate::io::IoVec;
use crate::process::Thread;
use crate::user::UserAddr;
use crate::{Errno, Result};

/// The most registered buffers and files.
const MAX_BUFFERS: u32 = 1 << 14;
const MAX_FILES: u32 = 1 << 15;
/// `IORING_REGISTER_FILES_SKIP`
const SKIP: i32 = -2;
/// `IORING_RSRC_REGISTER_SPARSE`
const SPARSE: u32 = 1;

/// `IORING_REGISTER_*`
mod code {
    pub const BUFFERS: u32 = 0;
    pub const UNREGISTER_BUFFERS: u32 = 1;
    pub const FILES: u32 = 2;
    pub const UNREGISTER_FILES: u32 = 3;
    pub const EVENTFD: u32 = 4;
    pub const UNREGISTER_EVENTFD: u32 = 5;
    pub const FILES_UPDATE: u32 = 6;
    pub const EVENTFD_ASYNC: u32 = 7;
    pub const PROBE: u32 = 8;
    pub const ENABLE_RINGS: u32 = 12;
    pub const FILES2: u32 = 13;
    pub const FILES_UPDATE2: u32 = 14;
    pub const BUFFERS2: u32 = 15;
    pub const IOWQ_AFFINITY: u32 = 17;
    pub const UNREGISTER_IOWQ_AFFINITY: u32 = 18;
    pub const IOWQ_MAX_WORKERS: u32 = 19;
}

impl Uring {
    /// `io_uring_register(2)`.
    ///
    /// # Errors
    /// `EINVAL` for what there is not; `EBUSY`, `ENXIO`, `EBADF`, `EFAULT`.
    pub fn register(
        &self,
        thread: &Rc<Thread>,
        what: u32,
        at: UserAddr,
        count: u32,
    ) -> Result<u64> {
        match what {
            code::BUFFERS => self.register_buffers(at, count, false),
            code::BUFFERS2 => {
                let (count, flags, data) = resources(at, count)?;
                self.register_buffers(data, count, flags & SPARSE != 0)
            }
            code::UNREGISTER_BUFFERS => {
                let gone = self.buffers.take();
                if gone.is_empty() {
                    return Err(Errno::ENXIO);
                }
                Ok(0)
            }
            code::FILES => self.register_files(thread, at, count, false),
            code::FILES2 => {
                let (count, flags, data) = resources(at, count)?;
                self.register_files(thread, data, count, flags & SPARSE != 0)
            }
            code::UNREGISTER_FILES => {
                let gone = self.files.take();
                if gone.is_empty() {
                    return Err(Errno::ENXIO);
                }
                drop(gone);
                Ok(0)
            }
            code::FILES_UPDATE => {
                let first: u32 = at.read()?;
                let data: u64 = at.add(8).read()?;
                self.update_files(thread, first, data, count)
            }
            code::FILES_UPDATE2 => {
                let first: u32 = at.read()?;
                let data: u64 = at.add(8).read()?;
                let count: u32 = at.add(24).read()?;
                self.update_files(thread, first, data, count)
            }
            code::EVENTFD | code::EVENTFD_ASYNC => {
                let open = thread.process.files.get(at.read()?)?;
                open.downcast::<crate::event::eventfd::EventFd>()
                    .ok_or(Errno::EINVAL)?;
                if self.eventfd.borrow().is_some() {
                    return Err(Errno::EBUSY);
                }
                self.eventfd.replace(Some(open));
                Ok(0)
            }
            code::UNREGISTER_EVENTFD => {
                let gone = self.eventfd.take().ok_or(Errno::ENXIO)?;
                drop(gone);
                Ok(0)
            }
            code::PROBE => probe(at, count),
            code::ENABLE_RINGS => {
                if self.enabled.replace(true) {
                    return Err(Errno::EBADFD);
                }
                Ok(0)
            }
            code::IOWQ_AFFINITY | code::UNREGISTER_IOWQ_AFFINITY => Ok(0),
            code::IOWQ_MAX_WORKERS => {
                // There are no workers; what was so before is told.
                at.write([0_u32; 2])?;
                Ok(0)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn register_buffers(&self, at: UserAddr, count: u32, sparse: bool) -> Result<u64> {
        if !self.buffers.borrow().is_empty() {
            return Err(Errno::EBUSY);
        }
        if count == 0 || count > MAX_BUFFERS {
            return Err(Errno::EINVAL);
        }
        let buffers: Vec<IoVec> = if sparse {
            vec![IoVec::default(); count as usize]
        } else {
            at.read_array(count as usize)?
        };
        if !sparse
            && buffers
                .iter()
                .any(|b| b.base == 0 || b.len == 0 || b.len > 1 << 30)
        {
            return Err(Errno::EFAULT);
        }
        self.buffers.replace(buffers);
        Ok(0)
    }

    fn register_files(
        &self,
        thread: &Rc<Thread>,
        at: UserAddr,
        count: u32,
        sparse: bool,
    ) -> Result<u64> {
        if !self.files.borrow().is_empty() {
            return Err(Errno::EBUSY);
        }
        if count == 0 {
            return Err(Errno::EINVAL);
        }
        if count > MAX_FILES {
            return Err(Errno::EMFILE);
        }
        let mut files = vec![None; count as usize];
        if !sparse {
            let numbers: Vec<i32> = at.read_array(count as usize)?;
            for (place, fd) in files.iter_mut().zip(numbers) {
                *place = registered(thread, fd)?;
            }
        }
        self.files.replace(files);
        Ok(0)
    }

    /// Changes registered files from `first` on; returns how many.
    pub(super) fn update_files(
        &self,
        thread: &Rc<Thread>,
        first: u32,
        data: u64,
        count: u32,
    ) -> Result<u64> {
        let there = self.files.borrow().len() as u64;
        if there == 0 {
            return Err(Errno::ENXIO);
        }
        if u64::from(first) + u64::from(count) > there {
            return Err(Errno::EINVAL);
        }
        for index in 0..count {
            let fd: i32 = UserAddr(data).add(u64::from(index) * 4).read()?;
            if fd == SKIP {
                continue;
            }
            let open = match registered(thread, fd) {
                Ok(open) => open,
                Err(error) if index == 0 => return Err(error),
                Err(_) => return Ok(index.into()),
            };
            let mut files = self.files.borrow_mut();
            let place = files.get_mut((first + index) as usize);
            let before = place.map(|place| core::mem::replace(place, open));
            drop(files);
            drop(before);
        }
        Ok(count.into())
    }
}

/// `struct io_uring_rsrc_register`: how many, flags, where.
fn resources(at: UserAddr, size: u32) -> Result<(u32, u32, UserAddr)> {
    if size != 32 {
        return Err(Errno::EINVAL);
    }
    let [count, flags]: [u32; 2] = at.read()?;
    let data: u64 = at.add(16).read()?;
    Ok((count, flags, UserAddr(data)))
}

/// What a number in a table of files stands for; -1 for nothing.
fn registered(thread: &Rc<Thread>, fd: i32) -> Result<Option<Rc<OpenFile>>> {
    if fd == -1 {
        return Ok(None);
    }
    let open = thread.process.files.get(fd)?;
    // An instance that holds itself would never be closed.
    if open.downcast::<Uring>().is_some() {
        return Err(Errno::EBADF);
    }
    Ok(Some(open))
}

/// `IORING_REGISTER_PROBE`: which operations there are.
fn probe(at: UserAddr, count: u32) -> Result<u64> {
    if count > 256 {
        return Err(Errno::EINVAL);
    }
    let count = count.min(op::END.into());
    // The last operation, and how many records follow: eight bytes each, with a flag for those that are supported.
    at.write([op::END - 1, count as u8])?;
    for number in 0..count as u8 {
        let flags = u16::from(op::is_known(number));
        let record = u64::from(number) | (u64::from(flags) << 16);
        at.add(16 + u64::from(number) * 8).write(record)?;
    }
    Ok(0)
}
