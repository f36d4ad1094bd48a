//! The client's numbers for files: how they are had, and given back.

use alloc::vec;
use alloc::vec::Vec;

use kiln_ninep::{Attributes, GETATTR_BASIC, NO_TAG, Names, Reply, Request, Text};

use super::client::Client;
use super::replies::understand;
use crate::platform;
use crate::{Errno, Result};

/// The server is told of fids that nobody needs when there are so many: what they lead to is kept by it until then.
const MOST_UNNEEDED: usize = 32;

/// Packets that bring no answer are sent at most so many between two that do.
const MOST_UNANSWERED: u32 = 8;

/// Flags of `open(2)` on x86-64, as the server takes them.
pub const READ_WRITE: u32 = 0o2;
const CREATE_NEW: u32 = 0o300;

/// A file that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Its new fid.
    pub fid: u32,
    /// What it is like.
    pub attributes: Attributes,
    /// The fid is open, as was asked for.
    pub open: bool,
}

/// A name that led to nothing that can be used, and whether its fid was made.
struct Lost {
    errno: Errno,
    made: bool,
}

impl Client {
    fn take_fid(&self) -> Result<u32> {
        if let Some(fid) = self.free.borrow_mut().pop() {
            return Ok(fid);
        }
        let fid = self.next.get();
        self.next.set(fid.checked_add(1).ok_or(Errno::ENFILE)?);
        Ok(fid)
    }

    /// A new fid for the same file.
    pub fn walk(&self, from: u32) -> Result<u32> {
        self.new_fid(from, &[])
    }

    /// A new fid for the same file, and what is asked of it at once by the requests behind the walk, `more`: all of it has to succeed.
    fn new_fid(&self, from: u32, more: &[fn(u32) -> Request<'static>]) -> Result<u32> {
        let new = self.take_fid()?;
        let mut requests = vec![walk(from, new, None)?];
        requests.extend(more.iter().map(|request| request(new)));
        let mut made = false;
        let done = self.ask_at_once(&requests, |replies| {
            understand(&replies.one()?, |reply| walked(reply, 0))?;
            made = true;
            replies.try_for_each(|reply| reply.map(drop))
        });
        match done {
            Ok(()) => Ok(new),
            Err(errno) => {
                self.not_taken(new, made);
                Err(errno)
            }
        }
    }

    /// A new fid for the same file, opened.
    pub fn open(&self, from: u32, flags: u32) -> Result<u32> {
        let open: fn(u32) -> Request<'static> = match flags {
            0 => |fid| Request::Open { fid, flags: 0 },
            _ => |fid| Request::Open {
                fid,
                flags: READ_WRITE,
            },
        };
        self.new_fid(from, &[open])
    }

    /// A fid that was to be made and is not wanted.
    pub fn not_taken(&self, fid: u32, made: bool) {
        if made {
            self.give_back_later([fid]);
        } else {
            self.free.borrow_mut().push(fid);
        }
    }

    /// What the names lead to, each from the one before, beginning in the folder `from`: as far as they lead, and then the error. With `read`
    /// the last one is opened for reading.
    pub fn find(&self, from: u32, names: &[&[u8]], read: bool) -> Vec<Result<Found>> {
        let mut fids = Vec::new();
        let asked = self.ask_for(from, names, read, &mut fids);
        let mut found = match asked {
            Ok(found) => found,
            Err(errno) => {
                // Whether they were made is not known if no answer came; if nobody answers any more that is all the same.
                self.give_back_later(fids);
                return vec![Err(errno)];
            }
        };
        // What lies behind an error was not looked for, or was found by a name that leads elsewhere by now.
        let good = found.iter().take_while(|one| one.is_ok()).count();
        for (fid, one) in fids.iter().zip(&found).skip(good) {
            self.not_taken(*fid, one.as_ref().map_or_else(|lost| lost.made, |_| true));
        }
        found.truncate(good + 1);
        found
            .into_iter()
            .map(|one| one.map_err(|lost| lost.errno))
            .collect()
    }

    fn ask_for(
        &self,
        from: u32,
        names: &[&[u8]],
        read: bool,
        fids: &mut Vec<u32>,
    ) -> Result<Vec<core::result::Result<Found, Lost>>> {
        let mut requests = Vec::with_capacity(2 * names.len() + 1);
        let mut at = from;
        for name in names {
            let new = self.take_fid()?;
            fids.push(new);
            requests.push(walk(at, new, Some(name))?);
            let mask = GETATTR_BASIC;
            requests.push(Request::GetAttr { fid: new, mask });
            at = new;
        }
        if read {
            requests.push(Request::Open { fid: at, flags: 0 });
        }
        self.ask_at_once(&requests, |replies| {
            let mut found = Vec::with_capacity(fids.len());
            for &fid in fids.iter() {
                let made = replies
                    .one()
                    .and_then(|reply| understand(&reply, |reply| walked(reply, 1)));
                let told = replies.one().and_then(|reply| {
                    understand(&reply, |reply| match reply {
                        Reply::GetAttr { attributes } => Some(*attributes),
                        _ => None,
                    })
                });
                found.push(match (made, told) {
                    (Ok(()), Ok(attributes)) => Ok(Found {
                        fid,
                        attributes,
                        open: false,
                    }),
                    (Ok(()), Err(errno)) => Err(Lost { errno, made: true }),
                    (Err(errno), _) => Err(Lost { errno, made: false }),
                });
            }
            if read && let Some(Ok(last)) = found.last_mut() {
                last.open = matches!(replies.next(), Some(Ok(Reply::Open { .. })));
            }
            Ok(found)
        })
    }

    /// Makes a file in the folder `from`, open for reading and writing, whatever its permissions say.
    pub fn create(&self, from: u32, name: &[u8], mode: u32, gid: u32) -> Result<Found> {
        let fid = self.take_fid()?;
        let requests = [
            walk(from, fid, None)?,
            Request::Create {
                fid,
                name: Text(name),
                flags: READ_WRITE | CREATE_NEW,
                mode,
                gid,
            },
            Request::GetAttr {
                fid,
                mask: GETATTR_BASIC,
            },
        ];
        let mut made = false;
        let created = self.ask_at_once(&requests, |replies| {
            understand(&replies.one()?, |reply| walked(reply, 0))?;
            made = true;
            replies.one()?;
            understand(&replies.one()?, |reply| match reply {
                Reply::GetAttr { attributes } => Some(*attributes),
                _ => None,
            })
        });
        match created {
            Ok(attributes) => Ok(Found {
                fid,
                attributes,
                open: true,
            }),
            Err(errno) => {
                self.not_taken(fid, made);
                Err(errno)
            }
        }
    }

    /// A new fid for the extended attribute `name` of a file, or for the list of all, and its length.
    pub fn walk_attribute(&self, fid: u32, name: &[u8]) -> Result<(u32, u64)> {
        let new = self.take_fid()?;
        let walk = Request::XattrWalk {
            fid,
            new,
            name: Text(name),
        };
        let size = self.ask(&walk, |reply| match reply {
            Reply::XattrWalk { size } => Some(*size),
            _ => None,
        });
        if size.is_err() {
            self.free.borrow_mut().push(new);
        }
        size.map(|size| (new, size))
    }

    /// Gives a fid back, and tells what the server says to that.
    pub fn give_back(&self, fid: u32) -> Result {
        let told = self.tell(&Request::Clunk { fid });
        self.not_taken(fid, told.is_err());
        told
    }

    /// Gives fids back without waiting for the server. They go with what is asked next, or before the machine rests.
    pub fn give_back_later(&self, fids: impl IntoIterator<Item = u32>) {
        let waiting = {
            let mut unneeded = self.unneeded.borrow_mut();
            unneeded.extend(fids);
            unneeded.len()
        };
        crate::kernel().vfs.volumes.unneeded.set(true);
        if waiting >= MOST_UNNEEDED {
            self.give_back_now();
        }
    }

    /// Whether the server has to be told of fids.
    pub fn has_unneeded(&self) -> bool {
        !self.unneeded.borrow().is_empty()
    }

    /// Tells the server of fids that nobody needs, and does not wait for it. If it is behind they go later.
    pub fn give_back_now(&self) {
        let Ok(mut buffers) = self.buffers.try_borrow_mut() else {
            return;
        };
        // Where nobody answers, nobody who waits for room would be woken: so little is sent unanswered that there is always room.
        if self.unneeded.borrow().is_empty() || self.unanswered.get() >= MOST_UNANSWERED {
            return;
        }
        let sent = self
            .packet(NO_TAG, &[], &mut buffers.0)
            .and_then(|(message, given_back)| {
                platform::ask_folder(self.device, message, &mut [])?;
                Ok(given_back)
            });
        if let Ok(given_back) = sent {
            self.gone(given_back);
            self.unanswered.set(self.unanswered.get() + 1);
        }
    }
}

fn walk(fid: u32, new: u32, name: Option<&[u8]>) -> Result<Request<'_>> {
    let names = Names::new(name.map(Text).as_slice()).ok_or(Errno::EINVAL)?;
    Ok(Request::Walk { fid, new, names })
}

fn walked(reply: &Reply<'_>, names: usize) -> Option<()> {
    matches!(reply, Reply::Walk { qids } if qids.as_slice().len() == names).then_some(())
}
