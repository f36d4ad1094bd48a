//! `io_uring_register(2)`.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use super::Uring;
use super::sqe::{Sqe, op};
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
    pub const BUFFERS_UPDATE: u32 = 16;
    pub const IOWQ_AFFINITY: u32 = 17;
    pub const UNREGISTER_IOWQ_AFFINITY: u32 = 18;
    pub const IOWQ_MAX_WORKERS: u32 = 19;
    pub const PBUF_RING: u32 = 22;
    pub const UNREGISTER_PBUF_RING: u32 = 23;
    pub const SYNC_CANCEL: u32 = 24;
}

impl Uring {
    /// `io_uring_register(2)`.
    ///
    /// # Errors
    /// `EINVAL` for what there is not; `EEXIST` for a thread that the instance does not belong to; `EBUSY`, `ENXIO`, `EBADF`, `EFAULT`.
    pub fn register(
        &self,
        thread: &Rc<Thread>,
        what: u32,
        at: UserAddr,
        count: u32,
    ) -> Result<u64> {
        self.check_issuer(thread)?;
        match what {
            code::BUFFERS => self.register_buffers(at, count, false, UserAddr(0)),
            code::BUFFERS2 => {
                let all = resources(at, count)?;
                self.register_buffers(all.data, all.count, all.sparse, all.tags)
            }
            code::BUFFERS_UPDATE => {
                let change = update(at, count)?;
                self.update_buffers(&change)
            }
            code::UNREGISTER_BUFFERS => {
                let gone = self.buffers.take();
                if gone.is_empty() {
                    return Err(Errno::ENXIO);
                }
                self.tell_gone(self.buffer_tags.take());
                Ok(0)
            }
            code::FILES => self.register_files(thread, at, count, false, UserAddr(0)),
            code::FILES2 => {
                let all = resources(at, count)?;
                self.register_files(thread, all.data, all.count, all.sparse, all.tags)
            }
            code::UNREGISTER_FILES => {
                let gone = self.files.take();
                if gone.is_empty() {
                    return Err(Errno::ENXIO);
                }
                drop(gone);
                self.tell_gone(self.file_tags.take());
                Ok(0)
            }
            code::FILES_UPDATE => {
                let change = Update {
                    first: at.read()?,
                    data: UserAddr(at.add(8).read()?),
                    tags: UserAddr(0),
                    count,
                };
                self.update_files(thread, &change)
            }
            code::FILES_UPDATE2 => {
                let change = update(at, count)?;
                self.update_files(thread, &change)
            }
            code::PBUF_RING => self.register_ring(at, count),
            code::UNREGISTER_PBUF_RING => self.unregister_ring(at, count),
            code::SYNC_CANCEL => super::cancel::cancel_now(self, thread, at, count),
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
                self.belongs_to(thread);
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

    fn register_buffers(
        &self,
        at: UserAddr,
        count: u32,
        sparse: bool,
        tags: UserAddr,
    ) -> Result<u64> {
        if !self.buffers.borrow().is_empty() {
            return Err(Errno::EBUSY);
        }
        if count == 0 || count > MAX_BUFFERS {
            return Err(Errno::EINVAL);
        }
        let tags = words(tags, count)?;
        let buffers: Vec<IoVec> = if sparse {
            vec![IoVec::default(); count as usize]
        } else {
            at.read_array(count as usize)?
        };
        for (buffer, &tag) in buffers.iter().zip(&tags) {
            check_buffer(buffer, tag)?;
        }
        self.buffers.replace(buffers);
        self.buffer_tags.replace(tags);
        Ok(0)
    }

    fn update_buffers(&self, change: &Update) -> Result<u64> {
        let (mut buffers, mut tags) = (self.buffers.borrow_mut(), self.buffer_tags.borrow_mut());
        let range = change.range(buffers.len())?;
        let new: Vec<IoVec> = change.data.read_array(range.len())?;
        let new_tags = words(change.tags, change.count)?;
        let mut gone = Vec::new();
        let mut outcome = Ok(0);
        for (place, (buffer, tag)) in range.zip(new.into_iter().zip(new_tags)) {
            if let Err(error) = check_buffer(&buffer, tag) {
                outcome = outcome.and_then(|done| if done > 0 { Ok(done) } else { Err(error) });
                break;
            }
            buffers[place] = buffer;
            gone.push(core::mem::replace(&mut tags[place], tag));
            outcome = outcome.map(|done| done + 1);
        }
        drop((buffers, tags));
        self.tell_gone(gone);
        outcome
    }

    fn register_files(
        &self,
        thread: &Rc<Thread>,
        at: UserAddr,
        count: u32,
        sparse: bool,
        tags: UserAddr,
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
        let tags = words(tags, count)?;
        let mut files = vec![None; count as usize];
        if !sparse {
            let numbers: Vec<i32> = at.read_array(count as usize)?;
            for ((place, fd), &tag) in files.iter_mut().zip(numbers).zip(&tags) {
                *place = registered(thread, fd)?;
                if place.is_none() && tag != 0 {
                    return Err(Errno::EINVAL);
                }
            }
        }
        self.files.replace(files);
        self.file_tags.replace(tags);
        Ok(0)
    }

    /// `IORING_OP_FILES_UPDATE`
    pub(super) fn update_files_of(&self, thread: &Rc<Thread>, sqe: &Sqe) -> Result<u64> {
        let change = Update {
            first: sqe.off as u32,
            data: UserAddr(sqe.addr),
            tags: UserAddr(0),
            count: sqe.len,
        };
        self.update_files(thread, &change)
    }

    /// Changes registered files; returns how many.
    fn update_files(&self, thread: &Rc<Thread>, change: &Update) -> Result<u64> {
        let range = change.range(self.files.borrow().len())?;
        let new: Vec<i32> = change.data.read_array(range.len())?;
        let tags = words(change.tags, change.count)?;
        let mut done = 0;
        for (place, (fd, tag)) in range.zip(new.into_iter().zip(tags)) {
            if fd != SKIP {
                let open = match registered(thread, fd) {
                    Ok(None) if tag != 0 => Err(Errno::EINVAL),
                    other => other,
                };
                let open = match open {
                    Ok(open) => open,
                    Err(error) if done == 0 => return Err(error),
                    Err(_) => return Ok(done),
                };
                let before = core::mem::replace(&mut self.files.borrow_mut()[place], open);
                let gone = core::mem::replace(&mut self.file_tags.borrow_mut()[place], tag);
                drop(before);
                self.tell_gone([gone]);
            }
            done += 1;
        }
        Ok(done)
    }

    /// Posts the words of what has gone.
    fn tell_gone(&self, tags: impl IntoIterator<Item = u64>) {
        for tag in tags.into_iter().filter(|&tag| tag != 0) {
            self.post(tag, 0, 0);
        }
    }
}

/// `struct io_uring_rsrc_register`
struct Resources {
    count: u32,
    sparse: bool,
    data: UserAddr,
    tags: UserAddr,
}

fn resources(at: UserAddr, size: u32) -> Result<Resources> {
    if size != 32 {
        return Err(Errno::EINVAL);
    }
    let [count, flags]: [u32; 2] = at.read()?;
    let [reserved, data, tags]: [u64; 3] = at.add(8).read()?;
    let sparse = flags & SPARSE != 0;
    if flags & !SPARSE != 0 || reserved != 0 || (sparse && data != 0) {
        return Err(Errno::EINVAL);
    }
    Ok(Resources {
        count,
        sparse,
        data: UserAddr(data),
        tags: UserAddr(tags),
    })
}

/// `struct io_uring_rsrc_update2`: which places are changed to what.
struct Update {
    first: u32,
    data: UserAddr,
    tags: UserAddr,
    count: u32,
}

impl Update {
    /// The places, of so many.
    fn range(&self, there: usize) -> Result<core::ops::Range<usize>> {
        if there == 0 {
            return Err(Errno::ENXIO);
        }
        let (first, count) = (self.first as usize, self.count as usize);
        if first + count > there {
            return Err(Errno::EINVAL);
        }
        Ok(first..first + count)
    }
}

fn update(at: UserAddr, size: u32) -> Result<Update> {
    if size != 32 {
        return Err(Errno::EINVAL);
    }
    let [first, reserved]: [u32; 2] = at.read()?;
    let [data, tags]: [u64; 2] = at.add(8).read()?;
    let [count, reserved2]: [u32; 2] = at.add(24).read()?;
    if count == 0 || reserved != 0 || reserved2 != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(Update {
        first,
        data: UserAddr(data),
        tags: UserAddr(tags),
        count,
    })
}

/// So many words at an address, or as many zeroes if there is none.
fn words(at: UserAddr, count: u32) -> Result<Vec<u64>> {
    if at.is_null() {
        return Ok(vec![0; count as usize]);
    }
    at.read_array(count as usize)
}

/// A buffer must be the program's memory; a place without one has no word to be told by.
fn check_buffer(buffer: &IoVec, tag: u64) -> Result {
    if buffer.base == 0 && buffer.len == 0 {
        return if tag == 0 { Ok(()) } else { Err(Errno::EINVAL) };
    }
    if buffer.base == 0 || buffer.len == 0 || buffer.len > 1 << 30 {
        return Err(Errno::EFAULT);
    }
    let end = buffer
        .base
        .checked_add(buffer.len)
        .ok_or(Errno::EOVERFLOW)?;
    // Its ends stand for all of it: what lies between may still be unmapped later.
    for at in [buffer.base, end - 1] {
        let _: u8 = UserAddr(at).read()?;
    }
    Ok(())
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
