//! Locks towards others than this machine: the host's programs, other machines with the same folder.
//!
//! The server takes them for one of the file's fids, always the same: so the machine is one owner, and who of it has what is its own
//! business ([`locks`](crate::fs::locks)). A lock makes what is in memory agree with the file, as a client of NFS does it: what was written is
//! sent before a lock is given up or made weaker, and pages that are mapped are read again when one was taken.

use kiln_ninep::{Reply, Request, Text, lock};

use super::node::Node;
use crate::fs::locks::{Outside, Wish};
use crate::{Errno, Result};

/// Longer content that is mapped is not read again for a lock if the file does not look changed.
const ALWAYS_READ: u64 = 1 << 20;

impl Node {
    /// The fid that has the locks.
    fn locker(&self, exclusive: bool) -> Result<u32> {
        if let Some(locker) = self.locker.get()
            && (!exclusive || Some(locker) == self.writer.get())
        {
            return Ok(locker);
        }
        let locker = if exclusive {
            self.writer()?
        } else {
            self.writer().or_else(|_| self.reader())?
        };
        self.locker.set(Some(locker));
        Ok(locker)
    }

    /// Nobody else runs meanwhile: whoever keeps the locks of this machine has borrowed them.
    fn lock(&self, wish: Wish, start: u64, length: u64, flags: u32) -> Result<bool> {
        at_any_time(|| self.lock_at_once(wish, start, length, flags))
    }

    fn lock_at_once(&self, wish: Wish, start: u64, length: u64, flags: u32) -> Result<bool> {
        let kind = match wish {
            Wish::Shared => 0,
            Wish::Exclusive => 1,
            Wish::None => 2,
        };
        if wish != Wish::Exclusive {
            self.save()?;
        }
        // A lock of flock(2) may be exclusive on a file that is open for reading.
        let exclusive = wish == Wish::Exclusive && flags & lock::WHOLE == 0;
        let request = Request::Lock {
            fid: self.locker(exclusive)?,
            kind,
            flags,
            start,
            length,
            process: 1,
            client: Text(b""),
        };
        let status = self.client.ask(&request, |reply| match reply {
            Reply::Lock { status } => Some(*status),
            _ => None,
        })?;
        match status {
            lock::SUCCESS => {}
            lock::BLOCKED => return Ok(false),
            _ => return Err(Errno::ENOLCK),
        }
        if wish != Wish::None {
            // Without it others' changes would not be seen, but the lock is held.
            let _ = self.see_others();
        }
        Ok(true)
    }

    /// Reads pages again that others may have changed: those of this file, and those of the folder's others that look changed.
    fn see_others(&self) -> Result {
        let all: alloc::vec::Vec<_> = self.client.nodes.borrow().values().cloned().collect();
        for node in all.iter().filter_map(alloc::rc::Weak::upgrade) {
            let Some(cache) = node.cached() else { continue };
            let (start, end) = cache.extent();
            if start == end {
                continue;
            }
            let own = core::ptr::eq(&raw const *node, self) && end - start <= ALWAYS_READ;
            let told = node.client.attributes(node.fid)?;
            if cache.looks_changed(&told) || own {
                cache.refresh(start, end)?;
            }
        }
        Ok(())
    }
}

fn at_any_time<R>(work: impl FnOnce() -> R) -> R {
    match crate::process::sched::running() {
        Some(thread) => thread.at_any_time(work),
        None => work(),
    }
}

/// First byte and number of bytes, 0 for all that follow.
fn range(start: u64, end: u64) -> (u64, u64) {
    let length = if end >= i64::MAX as u64 {
        0
    } else {
        end - start + 1
    };
    (start, length)
}

impl Outside for Node {
    fn lock_range(&self, wish: Wish, start: u64, end: u64) -> Result<bool> {
        let (start, length) = range(start, end);
        self.lock(wish, start, length, 0)
    }

    fn lock_whole(&self, wish: Wish) -> Result<bool> {
        self.lock(wish, 0, 0, lock::WHOLE)
    }

    fn conflict(&self, exclusive: bool, start: u64, end: u64) -> Result<Option<(u64, u64, bool)>> {
        let (start, length) = range(start, end);
        let request = Request::GetLock {
            fid: at_any_time(|| self.locker(false))?,
            kind: exclusive.into(),
            start,
            length,
            process: 1,
            client: Text(b""),
        };
        let asked = at_any_time(|| {
            self.client.ask(&request, |reply| match reply {
                Reply::GetLock {
                    kind,
                    start,
                    length,
                    ..
                } => Some((*kind, *start, *length)),
                _ => None,
            })
        });
        let (kind, start, length) = asked?;
        if kind > 1 {
            return Ok(None);
        }
        let end = length
            .checked_sub(1)
            .map_or(u64::MAX, |more| start.saturating_add(more));
        Ok(Some((start, end, kind == 1)))
    }
}
