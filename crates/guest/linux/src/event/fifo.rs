//! FIFOs (`fifo(7)`): pipes that are opened by name.

use alloc::rc::{Rc, Weak};

use super::pipe::{Pipe, PipeEnd};
use crate::fs::{File, Inode, OpenFlags};
use crate::process::Thread;
use crate::wait;
use crate::{Errno, Result};

/// The pipe behind an inode, while somebody has it open.
fn pipe_of(inode: &Rc<dyn Inode>) -> Result<Rc<Pipe>> {
    if let Some(attachment) = inode.attachment() {
        let mut attachment = attachment.borrow_mut();
        let there = attachment
            .as_ref()
            .and_then(|any| any.downcast_ref::<Weak<Pipe>>());
        if let Some(pipe) = there.and_then(Weak::upgrade) {
            return Ok(pipe);
        }
        let new = Pipe::new();
        *attachment = Some(Rc::new(Rc::downgrade(&new)));
        return Ok(new);
    }
    // An inode of a file system that keeps nothing for others is known by its numbers.
    let metadata = inode.metadata()?;
    let key = (metadata.device, metadata.inode);
    let kernel = crate::kernel();
    let mut fifos = kernel.event.fifos.borrow_mut();
    fifos.retain(|_, pipe| pipe.strong_count() > 0);
    if let Some(pipe) = fifos.get(&key).and_then(Weak::upgrade) {
        return Ok(pipe);
    }
    let new = Pipe::with_inode(metadata.inode);
    fifos.insert(key, Rc::downgrade(&new));
    Ok(new)
}

/// Opens a FIFO. Opening one end waits until the other is opened, unless both are opened at once or `O_NONBLOCK` is given.
///
/// # Errors
/// `ENXIO` when it is opened for writing only, without waiting, and nobody reads; `ERESTARTSYS`.
pub fn fifo_open(
    thread: &Rc<Thread>,
    inode: &Rc<dyn Inode>,
    flags: OpenFlags,
) -> Result<Rc<dyn File>> {
    let pipe = pipe_of(inode)?;
    let (reads, writes) = (flags.readable(), flags.writable());
    let nonblocking = flags.contains(OpenFlags::NONBLOCK);
    if writes && !reads && nonblocking && !pipe.has_readers() {
        return Err(Errno::ENXIO);
    }
    let (readers_before, writers_before) = pipe.opened();
    let waits = !nonblocking
        && ((reads && !writes && !pipe.has_writers()) || (writes && !reads && !pipe.has_readers()));
    let end = PipeEnd::new(&pipe, reads, writes, true);
    if waits {
        // Who opened the other end may have closed it again before this thread ran: counts tell.
        wait::sleep_until(thread, &[pipe.queue()], None, || {
            let (readers, writers) = pipe.opened();
            let other = if reads {
                writers != writers_before
            } else {
                readers != readers_before
            };
            other.then_some(())
        })?;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing;
    use crate::fs::{Attachment, Metadata, OpenFile};
    use crate::io::{Sink, Source};

    struct Named(Attachment);

    impl Inode for Named {
        fn metadata(&self) -> Result<Metadata> {
            Ok(Metadata::default())
        }
        fn attachment(&self) -> Option<&Attachment> {
            Some(&self.0)
        }
        fn as_any(&self) -> &dyn core::any::Any {
            self
        }
    }

    #[test]
    fn both_ends_find_each_other_by_the_inode() {
        let thread = testing::thread();
        let nonblocking = OpenFlags::NONBLOCK;
        let inode: Rc<dyn Inode> = Rc::new(Named(Attachment::default()));
        let write = nonblocking | OpenFlags::WRONLY;
        assert_eq!(fifo_open(&thread, &inode, write).err(), Some(Errno::ENXIO));
        let reader = fifo_open(&thread, &inode, nonblocking).expect("a reader");
        let writer = fifo_open(&thread, &inode, write).expect("a writer");
        let reader = OpenFile::new(reader, nonblocking);
        let writer = OpenFile::new(writer, write);
        writer
            .file
            .write(&thread, &writer, &mut Source::kernel(b"x"))
            .expect("room");
        let mut to = [0; 4];
        let got = reader
            .file
            .read(&thread, &reader, &mut Sink::kernel(&mut to));
        assert_eq!((got, to[0]), (Ok(1), b'x'));
    }

    #[test]
    fn opening_waits_for_the_other_end() {
        let thread = testing::thread();
        let inode: Rc<dyn Inode> = Rc::new(Named(Attachment::default()));
        let alone = fifo_open(&thread, &inode, OpenFlags::empty());
        assert_eq!(alone.err(), Some(Errno::ERESTARTSYS));
        let both = fifo_open(&thread, &inode, OpenFlags::RDWR);
        assert!(both.is_ok());
    }
}
