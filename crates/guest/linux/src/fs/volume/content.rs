//! A file's content: reading, writing, and its pages while it is mapped shared.

use alloc::rc::Rc;
use alloc::vec::Vec;

use kiln_ninep::{APPEND, Data, GETATTR_BASIC, Reply, Request, set};

use super::cache::Cache;
use super::node::Node;
use super::replies::understand;
use crate::io::{Sink, Source};
use crate::{Errno, Result};

/// Bytes that asking for attributes takes in a packet.
const ROOM_TO_ASK: usize = 64;

impl Node {
    /// The pages, if the file is mapped shared.
    pub(super) fn cached(&self) -> Option<Rc<Cache>> {
        self.cache.borrow().upgrade()
    }

    /// The pages, for one more mapping.
    pub(super) fn pages(&self) -> Result<Rc<Cache>> {
        if let Some(cache) = self.cached() {
            return Ok(cache);
        }
        let cache = Rc::new(Cache::new(self.this.upgrade().ok_or(Errno::ESTALE)?));
        *self.cache.borrow_mut() = Rc::downgrade(&cache);
        Ok(cache)
    }

    /// Writes to the host what the program has written to mappings.
    pub(super) fn save(&self) -> Result {
        self.cached()
            .map_or(Ok(()), |cache| cache.save(0, u64::MAX))
    }

    /// How long the host's file is.
    pub(super) fn size(&self) -> Result<u64> {
        Ok(self.client.attributes(self.fid)?.size)
    }

    /// At most as many bytes as one message holds.
    fn piece(&self, fid: u32, offset: u64, wanted: usize) -> Result<Vec<u8>> {
        let request = Request::Read {
            fid,
            offset,
            count: wanted as u32,
        };
        self.client.ask(&request, |reply| match reply {
            Reply::Read { data } if data.0.len() <= wanted => Some(data.0.to_vec()),
            _ => None,
        })
    }

    /// Reads what the host has. Behind the end of the file `to` stays as it is.
    pub(super) fn fetch(&self, offset: u64, to: &mut [u8]) -> Result {
        let fid = self.reader()?;
        let mut done = 0;
        while let Some(rest) = to.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let wanted = rest.len().min(self.client.room());
            let piece = self.piece(fid, offset.saturating_add(done as u64), wanted)?;
            rest.iter_mut()
                .zip(&piece)
                .for_each(|(to, from)| *to = *from);
            done += piece.len();
            if piece.len() < wanted {
                break;
            }
        }
        Ok(())
    }

    /// Sends bytes, at most as many as one message holds; the host says how many it took.
    fn send(&self, fid: u32, offset: u64, bytes: &[u8]) -> Result<usize> {
        let request = Request::Write {
            fid,
            offset,
            data: Data(bytes),
        };
        self.client.ask(&request, |reply| match reply {
            Reply::Write { count } => Some((*count as usize).min(bytes.len())),
            _ => None,
        })
    }

    /// Writes what the program has written to a mapping.
    pub(super) fn store(&self, offset: u64, bytes: &[u8]) -> Result {
        let fid = self.writer()?;
        self.found.set(None);
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let piece = rest.get(..self.client.room()).unwrap_or(rest);
            match self.send(fid, offset.saturating_add(done as u64), piece)? {
                0 => return Err(Errno::EIO),
                sent => done += sent,
            }
        }
        Ok(())
    }

    pub(super) fn read_content(&self, offset: u64, to: &mut Sink) -> Result<usize> {
        let fid = self.reader()?;
        let cache = self.cached();
        if let Some(cache) = &cache {
            cache.save(offset, offset.saturating_add(to.remaining() as u64))?;
        }
        let mut done = 0;
        while to.remaining() > 0 {
            let at = offset.saturating_add(done as u64);
            let wanted = to.remaining().min(self.client.room());
            let before = cache.as_ref().map(|cache| cache.changes());
            // Copied: where it goes may be memory that has to be read from here first.
            let read = self.piece(fid, at, wanted);
            if let (Ok(read), Some(cache)) = (&read, &cache)
                // Else it is older than what is in the pages.
                && before == Some(cache.changes())
            {
                cache.show(at, read);
            }
            match read.and_then(|read| Ok((to.put(&read)?, read.len()))) {
                Ok((put, got)) => {
                    done += put;
                    if got < wanted || put < got {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    pub(super) fn write_content(&self, offset: u64, from: &mut Source) -> Result<usize> {
        let fid = self.writer()?;
        self.found.set(None);
        let mut done = 0;
        let mut piece = Vec::new();
        while from.remaining() > 0 {
            piece.clear();
            if let Err(errno) = from.append(&mut piece, self.client.room()) {
                return if done > 0 { Ok(done) } else { Err(errno) };
            }
            let at = offset.saturating_add(done as u64);
            let cache = self.cached();
            // Before they are sent: requests are performed in their order, and so the pages change in that order.
            if let Some(cache) = &cache {
                cache.wrote(at, &piece);
            }
            let written = self.send(fid, at, &piece);
            let taken = *written.as_ref().unwrap_or(&0);
            if let Some(cache) = cache
                && taken < piece.len()
            {
                // What the host did not take is not in the file.
                let _ = cache.refresh(at + taken as u64, at + piece.len() as u64);
            }
            match written {
                Ok(written) => {
                    done += written;
                    if written < piece.len() {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    /// Writes behind the end, wherever others put that meanwhile. What one message holds goes in one piece.
    pub(super) fn append_content(&self, from: &mut Source) -> Result<(usize, u64)> {
        let fid = self.writer()?;
        self.found.set(None);
        let mut done = 0;
        let mut end = None;
        let mut piece = Vec::new();
        let room = self.client.room() - ROOM_TO_ASK;
        while from.remaining() > 0 {
            piece.clear();
            let written = from.append(&mut piece, room).and_then(|_| {
                match self.send_and_look(fid, &piece) {
                    // The host cannot.
                    Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                        Ok((self.send(fid, self.size()?, &piece)?, None))
                    }
                    other => other,
                }
            });
            match written {
                Ok((written, size)) => {
                    done += written;
                    end = size;
                    if written < piece.len() {
                        break;
                    }
                }
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        if let Some(cache) = self.cached() {
            let (start, end) = cache.extent();
            cache.refresh(start, end)?;
        }
        match end {
            Some(end) => Ok((done, end)),
            None => Ok((done, self.size()?)),
        }
    }

    /// Writes behind the end, and asks where that is then.
    fn send_and_look(&self, fid: u32, bytes: &[u8]) -> Result<(usize, Option<u64>)> {
        let requests = [
            Request::Write {
                fid,
                offset: APPEND,
                data: Data(bytes),
            },
            Request::GetAttr {
                fid: self.fid,
                mask: GETATTR_BASIC,
            },
        ];
        self.client.ask_at_once(&requests, |replies| {
            let sent = understand(&replies.one()?, |reply| match reply {
                Reply::Write { count } => Some((*count as usize).min(bytes.len())),
                _ => None,
            })?;
            let size = match replies.one() {
                Ok(Reply::GetAttr { attributes }) => Some(attributes.size),
                _ => None,
            };
            Ok((sent, size))
        })
    }

    pub(super) fn resize_content(&self, size: u64) -> Result {
        self.found.set(None);
        if let Some(cache) = self.cached() {
            cache.save(0, u64::MAX)?;
            cache.cut(self.size()?, size);
        }
        self.client.tell(&Request::SetAttr {
            // The host may let this be done where opening once more would not be.
            fid: self.writer.get().unwrap_or(self.fid),
            valid: set::SIZE,
            mode: 0,
            uid: 0,
            gid: 0,
            size,
            atime: 0,
            atime_nanos: 0,
            mtime: 0,
            mtime_nanos: 0,
        })
    }
}
