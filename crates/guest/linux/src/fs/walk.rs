//! Walking paths (`path_resolution(7)`).

use alloc::borrow::Cow;
use alloc::rc::Rc;
use alloc::vec::Vec;

use super::permission::{EXECUTE, permit_at};
use super::{AT_FDCWD, Dentry, Inode, Kind, Metadata, OpenFile, Place, Walk, anonymous};
use crate::process::Thread;
use crate::{Errno, Result};

/// Links that a walk follows at most (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;
/// Names that are asked for at once at most.
const MOST_AHEAD: usize = 8;
/// Bytes of a name at most.
pub(super) const NAME_MAX: usize = 255;

/// What the end of a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// An ordinary name.
    Name,
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// Nothing: the path was `/`, or empty, or ended with a link that is followed to what is open.
    Nothing,
}

/// Where a walk has come to.
pub(super) struct Found {
    /// The folder that the last name is in.
    pub parent: Rc<Dentry>,
    /// The last name.
    pub name: Vec<u8>,
    /// What kind of name that is.
    pub last: Last,
    /// What the name leads to, if it is there.
    pub dentry: Option<Rc<Dentry>>,
    /// The path ended with a slash: it means a folder.
    pub slash: bool,
}

impl Found {
    /// What is there.
    pub(super) fn existing(self) -> Result<Rc<Dentry>> {
        let dentry = self.dentry.ok_or(Errno::ENOENT)?;
        if self.slash && dentry.kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        Ok(dentry)
    }
}

/// A thread's root.
pub(super) fn root_of(thread: &Rc<Thread>) -> Result<Rc<Dentry>> {
    if let Some(root) = &*thread.process.fs.root.borrow() {
        return Ok(root.dentry.clone());
    }
    let root = crate::kernel().vfs.root.borrow().clone();
    root.map(|root| root.top()).ok_or(Errno::ENOENT)
}

/// A thread's working directory.
pub(super) fn cwd_of(thread: &Rc<Thread>) -> Result<Rc<Dentry>> {
    if let Some(cwd) = &*thread.process.fs.cwd.borrow() {
        return Ok(cwd.dentry.clone());
    }
    root_of(thread)
}

/// A thread's working directory.
///
/// # Errors
/// `ENOENT` if nothing is mounted.
pub fn working_directory(thread: &Rc<Thread>) -> Result<Place> {
    cwd_of(thread).map(Place::of)
}

/// Walks a path to what is there.
///
/// # Errors
/// Those of `path_resolution(7)`.
pub fn resolve(thread: &Rc<Thread>, folder: i32, path: &[u8], walk: Walk) -> Result<Place> {
    find(thread, folder, path, walk)?.existing().map(Place::of)
}

/// Walks a path to its last name, which need not be there.
pub(super) fn find(thread: &Rc<Thread>, folder: i32, path: &[u8], walk: Walk) -> Result<Found> {
    let scoped = walk.intersects(Walk::BENEATH | Walk::IN_ROOT);
    if path.is_empty() {
        if !walk.contains(Walk::EMPTY) {
            return Err(Errno::ENOENT);
        }
        let here = if folder == AT_FDCWD {
            cwd_of(thread)?
        } else {
            place_of(&thread.process.files.get(folder)?)?.dentry
        };
        here.ask_again();
        return Ok(Found {
            parent: here.clone(),
            name: Vec::new(),
            last: Last::Nothing,
            dentry: Some(here),
            slash: false,
        });
    }
    let mut root = root_of(thread)?;
    let start = if path[0] == b'/' && !scoped {
        root.clone()
    } else if folder == AT_FDCWD {
        cwd_of(thread)?
    } else {
        let open = thread.process.files.get(folder)?;
        let place = open.place.as_ref().ok_or(Errno::ENOTDIR)?;
        if place.dentry.kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        place.dentry.clone()
    };
    if path[0] == b'/' && walk.contains(Walk::BENEATH) {
        return Err(Errno::EXDEV);
    }
    if scoped {
        root = start.clone();
    }
    start.ask_again();
    root.ask_again();
    Walker {
        thread,
        root,
        walk,
        links: 0,
        superuser: thread.process.credentials.borrow().fsuid == 0,
        ahead: Ahead::default(),
    }
    .go(start, path)
}

struct Walker<'a> {
    thread: &'a Rc<Thread>,
    root: Rc<Dentry>,
    walk: Walk,
    links: u32,
    superuser: bool,
    ahead: Ahead,
}

/// What was found together with a name before it ([`Inode::lookup_many`]).
#[derive(Default)]
struct Ahead {
    /// In which folder the next one is.
    folder: Option<Rc<dyn Inode>>,
    found: alloc::vec::IntoIter<Result<(Rc<dyn Inode>, Metadata)>>,
}

impl Ahead {
    /// What was found in this folder, if that was asked for.
    fn in_folder(&mut self, folder: &Rc<dyn Inode>) -> Option<Result<(Rc<dyn Inode>, Metadata)>> {
        let is_here = |known: Rc<dyn Inode>| Rc::ptr_eq(&known, folder);
        let next = if self.folder.take().is_some_and(is_here) {
            self.found.next()
        } else {
            None
        };
        match &next {
            Some(Ok((inode, _))) => self.folder = Some(inode.clone()),
            _ => self.found = Vec::new().into_iter(),
        }
        next
    }
}

impl Walker<'_> {
    fn go(&mut self, start: Rc<Dentry>, path: &[u8]) -> Result<Found> {
        let mut here = start;
        let mut path = Cow::Borrowed(path);
        let mut at = 0;
        loop {
            at += path[at..].iter().take_while(|&&b| b == b'/').count();
            if at == path.len() {
                return Ok(Found {
                    parent: here.clone(),
                    name: Vec::new(),
                    last: Last::Nothing,
                    dentry: Some(here),
                    slash: true,
                });
            }
            let len = path[at..].iter().take_while(|&&b| b != b'/').count();
            let slashes = path[at + len..].iter().take_while(|&&b| b == b'/').count();
            let next = at + len + slashes;
            let is_last = next == path.len();
            let slash = slashes > 0;
            if here.kind != Kind::Directory {
                return Err(Errno::ENOTDIR);
            }
            if !self.superuser {
                permit_at(self.thread, &here, EXECUTE)?;
            }
            let name = &path[at..at + len];
            let (dentry, last) = match name {
                b"." => (here.clone(), Last::Dot),
                b".." => (self.up(&here)?, Last::DotDot),
                _ => {
                    if len > NAME_MAX {
                        return Err(Errno::ENAMETOOLONG);
                    }
                    match self.child(&here, name, &path[at..]) {
                        Ok(child) => (self.down(&here, &child)?, Last::Name),
                        Err(Errno::ENOENT) if is_last => {
                            return Ok(Found {
                                name: name.to_vec(),
                                parent: here,
                                last: Last::Name,
                                dentry: None,
                                slash,
                            });
                        }
                        Err(error) => return Err(error),
                    }
                }
            };
            let follow = !is_last
                || self.walk.contains(Walk::FOLLOW)
                || (slash && !self.walk.contains(Walk::LAST));
            if dentry.kind == Kind::Link && follow {
                let (from, target) = self.follow(&here, &dentry)?;
                here = from;
                let Some(mut target) = target else {
                    if is_last {
                        return Ok(Found {
                            parent: here.clone(),
                            name: Vec::new(),
                            last: Last::Nothing,
                            dentry: Some(here),
                            slash,
                        });
                    }
                    at = next;
                    continue;
                };
                target.extend_from_slice(&path[at + len..]);
                path = Cow::Owned(target);
                at = 0;
                continue;
            }
            if is_last {
                return Ok(Found {
                    name: name.to_vec(),
                    parent: here,
                    last,
                    dentry: Some(dentry),
                    slash,
                });
            }
            here = dentry;
            at = next;
        }
    }

    /// The name in this folder, with which `path` begins. Folders that are far away are asked for the names behind it, too.
    fn child(&mut self, here: &Rc<Dentry>, name: &[u8], path: &[u8]) -> Result<Rc<Dentry>> {
        if here.inode.steady() || here.gone.get() {
            return here.child(name);
        }
        // Where names are not kept, those are that lead to what is mounted there or below.
        let kept = here.children.borrow().get(name).cloned();
        let Some(kept) = kept else {
            return self.distant_child(here, name, path);
        };
        if kept.covered.borrow().is_none() {
            let now = self.distant_child(here, name, path)?;
            let of_kept = kept.inode.metadata().map(|known| known.inode);
            if of_kept != now.metadata().map(|found| found.inode) {
                // Somebody has put another in its place.
                return Ok(now);
            }
        }
        kept.ask_again();
        Ok(kept)
    }

    fn distant_child(&mut self, here: &Rc<Dentry>, name: &[u8], path: &[u8]) -> Result<Rc<Dentry>> {
        if let Some(found) = self.ahead.in_folder(&here.inode) {
            return Ok(here.found(found?, name));
        }
        let all = path.split(|&b| b == b'/').filter(|name| !name.is_empty());
        let is_plain = |name: &&[u8]| !matches!(*name, b"." | b"..") && name.len() <= NAME_MAX;
        let names: Vec<&[u8]> = all.clone().take(MOST_AHEAD).take_while(is_plain).collect();
        let read = self.walk.contains(Walk::READ) && all.count() == names.len();
        let Some(found) = here.inode.lookup_many(&names, read) else {
            return here.child(name);
        };
        self.ahead = Ahead {
            folder: Some(here.inode.clone()),
            found: found.into_iter(),
        };
        let found = self.ahead.in_folder(&here.inode);
        Ok(here.found(found.unwrap_or(Err(Errno::ENOENT))?, name))
    }

    fn up(&self, here: &Rc<Dentry>) -> Result<Rc<Dentry>> {
        if Rc::ptr_eq(here, &self.root) {
            return if self.walk.contains(Walk::BENEATH) {
                Err(Errno::EXDEV)
            } else {
                Ok(here.clone())
            };
        }
        let above = here.above().unwrap_or_else(|| here.clone());
        above.ask_again();
        self.border(here, &above)?;
        Ok(above)
    }

    fn down(&self, here: &Rc<Dentry>, child: &Rc<Dentry>) -> Result<Rc<Dentry>> {
        let top = child.top();
        if !Rc::ptr_eq(&top, child) {
            top.ask_again();
        }
        self.border(here, &top)?;
        Ok(top)
    }

    fn border(&self, from: &Rc<Dentry>, to: &Rc<Dentry>) -> Result {
        if self.walk.contains(Walk::NO_XDEV) && !Rc::ptr_eq(&from.mount, &to.mount) {
            return Err(Errno::EXDEV);
        }
        Ok(())
    }

    /// Where a link leads: from where to go on, and by which path.
    fn follow(
        &mut self,
        here: &Rc<Dentry>,
        link: &Rc<Dentry>,
    ) -> Result<(Rc<Dentry>, Option<Vec<u8>>)> {
        self.links += 1;
        if self.links > MAX_LINKS || self.walk.contains(Walk::NO_LINKS) {
            return Err(Errno::ELOOP);
        }
        if let Some(place) = link.inode.follow(self.thread)? {
            if self.walk.contains(Walk::NO_MAGIC) {
                return Err(Errno::ELOOP);
            }
            if self.walk.intersects(Walk::BENEATH | Walk::IN_ROOT) {
                return Err(Errno::EXDEV);
            }
            self.border(here, &place.dentry)?;
            place.dentry.ask_again();
            return Ok((place.dentry, None));
        }
        let target = link.inode.read_link(self.thread)?;
        match target.first() {
            None => Err(Errno::ENOENT),
            Some(b'/') if self.walk.contains(Walk::BENEATH) => Err(Errno::EXDEV),
            Some(b'/') => {
                self.border(here, &self.root)?;
                Ok((self.root.clone(), Some(target)))
            }
            Some(_) => Ok((here.clone(), Some(target))),
        }
    }
}

/// The place of an open file, for links that lead to what is open rather than to a name ([`Inode::follow`](super::Inode::follow)).
///
/// # Errors
/// Those of the file's metadata.
pub fn place_of(open: &Rc<OpenFile>) -> Result<Place> {
    match &open.place {
        Some(place) => Ok(place.clone()),
        None => anonymous::place(open),
    }
}
