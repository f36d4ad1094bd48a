//! Watching files and folders (`inotify(7)`).

#![allow(missing_docs, reason = "the names are those of inotify(7)")]

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};

use super::{Dentry, File, Inode, Kind, Metadata, OpenFile, OpenFlags};
use crate::io::Sink;
use crate::process::Thread;
use crate::user::UserAddr;
use crate::wait::{Events, WaitQueue};
use crate::{Errno, Result, shortage};

bitflags::bitflags! {
    /// What happened, and how to watch.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[allow(missing_docs, reason = "the names are those of inotify(7)")]
    pub struct Mask: u32 {
        const ACCESS = 1;
        const MODIFY = 2;
        const ATTRIB = 4;
        const CLOSE_WRITE = 8;
        const CLOSE_NOWRITE = 0x10;
        const OPEN = 0x20;
        const MOVED_FROM = 0x40;
        const MOVED_TO = 0x80;
        const CREATE = 0x100;
        const DELETE = 0x200;
        const DELETE_SELF = 0x400;
        const MOVE_SELF = 0x800;
        const UNMOUNT = 0x2000;
        const Q_OVERFLOW = 0x4000;
        const IGNORED = 0x8000;
        const ONLYDIR = 0x100_0000;
        const DONT_FOLLOW = 0x200_0000;
        const EXCL_UNLINK = 0x400_0000;
        const MASK_CREATE = 0x1000_0000;
        const MASK_ADD = 0x2000_0000;
        const ISDIR = 0x4000_0000;
        const ONESHOT = 0x8000_0000;
    }
}

/// What can be watched for.
const WATCHABLE: Mask = Mask::from_bits_truncate(0xfff);

/// `fs.inotify.max_queued_events`
const MAX_QUEUED: usize = 16384;

/// `fs.inotify.max_user_watches`
const MAX_WATCHES: usize = 8192;

/// Bytes of an event without its name.
const HEADER: usize = 16;

/// Device and number: which inode it is.
type Key = (u64, u64);

/// An instance and the number it gave.
type Watcher = (Weak<Inotify>, i32);

/// Who watches what.
#[derive(Default)]
pub struct Watches {
    count: Cell<usize>,
    by_inode: RefCell<BTreeMap<Key, Vec<Watcher>>>,
    cookie: Cell<u32>,
}

#[derive(Clone, PartialEq, Eq)]
struct Event {
    watch: i32,
    mask: u32,
    cookie: u32,
    name: Vec<u8>,
}

impl Event {
    /// Bytes that it takes in a buffer, and how many of them for its name.
    fn len(&self) -> (usize, usize) {
        let name = match self.name.len() {
            0 => 0,
            len => (len + 1).next_multiple_of(HEADER),
        };
        (HEADER + name, name)
    }
}

struct Watch {
    key: Key,
    mask: Mask,
    /// Numbers are not used again while they are watched.
    _inode: Rc<dyn Inode>,
}

/// An inotify instance.
pub struct Inotify {
    this: Weak<Inotify>,
    watches: RefCell<BTreeMap<i32, Watch>>,
    last: Cell<i32>,
    events: RefCell<VecDeque<Event>>,
    queue: WaitQueue,
}

/// True if anything is watched at all.
pub(super) fn any() -> bool {
    crate::kernel().vfs.watches.count.get() > 0
}

/// A number that ties the two halves of a rename together.
pub(super) fn cookie() -> u32 {
    let kernel = crate::kernel();
    let cookie = &kernel.vfs.watches.cookie;
    cookie.set(cookie.get().wrapping_add(1).max(1));
    cookie.get()
}

fn key(inode: &Rc<dyn Inode>) -> Option<(Key, Kind)> {
    let of = inode.metadata().ok()?;
    Some(((of.device, of.inode), of.kind))
}

/// What is told.
#[derive(Clone, Copy)]
struct News<'a> {
    mask: Mask,
    cookie: u32,
    name: &'a [u8],
    /// It was done by a name that has been taken away, which `IN_EXCL_UNLINK` leaves out.
    unlinked: bool,
}

fn deliver(key: Key, news: News) {
    let kernel = crate::kernel();
    let watchers = kernel.vfs.watches.by_inode.borrow().get(&key).cloned();
    for (instance, watch) in watchers.into_iter().flatten() {
        if let Some(instance) = instance.upgrade() {
            instance.tell(watch, news);
        }
    }
}

/// Something happened to an inode itself.
fn deliver_self(key: Key, mask: Mask) {
    let news = News {
        mask,
        cookie: 0,
        name: &[],
        unlinked: false,
    };
    deliver(key, news);
}

/// Something happened to an inode, and thereby in the folder that it was reached by.
pub(super) fn tell(inode: &Rc<dyn Inode>, at: Option<&Rc<Dentry>>, mask: Mask) {
    if !any() {
        return;
    }
    let Some((key, kind)) = key(inode) else {
        return;
    };
    let mask = if kind == Kind::Directory {
        mask | Mask::ISDIR
    } else {
        mask
    };
    // What is done to an inode through a description is done by its name.
    let by_name = Mask::ACCESS | Mask::MODIFY | Mask::OPEN | Mask::CLOSE_WRITE;
    let by_name = mask.intersects(by_name | Mask::CLOSE_NOWRITE);
    let unlinked = by_name && at.is_some_and(|at| at.gone.get());
    // Nothing stays borrowed: the file system may let others run.
    let parent = at.and_then(|at| at.parent.borrow().clone());
    if let (Some(at), Some(parent)) = (at, parent)
        && let Some((key, _)) = self::key(&parent.inode)
    {
        let name = at.name.borrow().clone();
        let news = News {
            mask,
            cookie: 0,
            name: &name,
            unlinked,
        };
        deliver(key, news);
    }
    let news = News {
        mask,
        cookie: 0,
        name: &[],
        unlinked,
    };
    deliver(key, news);
}

/// Something happened to a name in a folder.
pub(super) fn tell_folder(folder: &Rc<Dentry>, name: &[u8], mask: Mask, cookie: u32) {
    if any()
        && let Some((key, _)) = key(&folder.inode)
    {
        let news = News {
            mask,
            cookie,
            name,
            unlinked: false,
        };
        deliver(key, news);
    }
}

/// Something happened to what is open.
pub fn tell_open(open: &OpenFile, mask: Mask) {
    if let Some(place) = &open.place
        && any()
    {
        tell(&place.inode, Some(&place.dentry), mask);
    }
}

/// An inode has another place now. Of folders, too, this is told without saying that they are.
pub(super) fn tell_moved(inode: &Rc<dyn Inode>) {
    if any()
        && let Some((key, _)) = key(inode)
    {
        deliver_self(key, Mask::MOVE_SELF);
    }
}

/// A name of an inode was taken away, which `child` stands for, found in `folder`: its number of links has changed. When it has none and nobody
/// uses the name any more, those who watch it are told so, and their watches end.
pub(super) fn unlinked(child: &Dentry, folder: &Dentry) {
    if folder.inode.steady() {
        child.deleted.set(true);
    } else if any() {
        // Others who use this name cannot be known.
        tell_unused(&child.inode);
    }
}

/// Nobody uses a name of an inode any more that was taken away.
pub(super) fn tell_unused(inode: &Rc<dyn Inode>) {
    if !any() {
        return;
    }
    let Ok(of) = inode.metadata() else { return };
    if of.links > 0 && of.kind != Kind::Directory {
        return;
    }
    let key = (of.device, of.inode);
    deliver_self(key, Mask::DELETE_SELF);
    let kernel = crate::kernel();
    let watchers = kernel.vfs.watches.by_inode.borrow().get(&key).cloned();
    for (instance, watch) in watchers.into_iter().flatten() {
        if let Some(instance) = instance.upgrade() {
            let _ = instance.remove(watch);
        }
    }
}

/// The last descriptor of a description was closed.
pub(super) fn closed(open: &OpenFile) {
    if open.flags.get().contains(OpenFlags::PATH) {
        return;
    }
    let mask = if open.flags.get().writable() {
        Mask::CLOSE_WRITE
    } else {
        Mask::CLOSE_NOWRITE
    };
    tell_open(open, mask);
}

impl Inotify {
    /// An instance that watches nothing.
    pub fn new() -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            this: this.clone(),
            watches: RefCell::default(),
            last: Cell::new(0),
            events: RefCell::default(),
            queue: WaitQueue::new(),
        })
    }

    /// `inotify_add_watch(2)`.
    ///
    /// # Errors
    /// `EINVAL`, `EEXIST`, `ENOSPC`.
    pub fn add(&self, inode: &Rc<dyn Inode>, mask: Mask) -> Result<i32> {
        if !mask.intersects(WATCHABLE) || mask.contains(Mask::MASK_ADD | Mask::MASK_CREATE) {
            return Err(Errno::EINVAL);
        }
        let (key, _) = key(inode).ok_or(Errno::ENOENT)?;
        let kept = mask & (WATCHABLE | Mask::ONESHOT | Mask::EXCL_UNLINK);
        let mut watches = self.watches.borrow_mut();
        if let Some((&number, watch)) = watches.iter_mut().find(|(_, watch)| watch.key == key) {
            if mask.contains(Mask::MASK_CREATE) {
                return Err(Errno::EEXIST);
            }
            watch.mask = if mask.contains(Mask::MASK_ADD) {
                watch.mask | kept
            } else {
                kept
            };
            return Ok(number);
        }
        if watches.len() >= MAX_WATCHES {
            return Err(Errno::ENOSPC);
        }
        shortage::object(Errno::ENOSPC)?;
        let number = self.last.get().checked_add(1).ok_or(Errno::ENOSPC)?;
        self.last.set(number);
        watches.insert(
            number,
            Watch {
                key,
                mask: kept,
                _inode: inode.clone(),
            },
        );
        let kernel = crate::kernel();
        let all = &kernel.vfs.watches;
        all.count.set(all.count.get() + 1);
        all.by_inode
            .borrow_mut()
            .entry(key)
            .or_default()
            .push((self.this.clone(), number));
        Ok(number)
    }

    /// `inotify_rm_watch(2)`.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn remove(&self, number: i32) -> Result {
        let watch = self.watches.borrow_mut().remove(&number);
        let watch = watch.ok_or(Errno::EINVAL)?;
        self.forget(watch.key, number);
        self.push(Event {
            watch: number,
            mask: Mask::IGNORED.bits(),
            cookie: 0,
            name: Vec::new(),
        });
        Ok(())
    }

    fn forget(&self, key: Key, number: i32) {
        let kernel = crate::kernel();
        let all = &kernel.vfs.watches;
        let mut by_inode = all.by_inode.borrow_mut();
        if let Some(list) = by_inode.get_mut(&key) {
            list.retain(|(instance, watch)| {
                !(core::ptr::eq(instance.as_ptr(), self) && *watch == number)
            });
            if list.is_empty() {
                by_inode.remove(&key);
            }
        }
        all.count.set(all.count.get().saturating_sub(1));
    }

    fn tell(&self, number: i32, news: News) {
        let wanted = {
            let watches = self.watches.borrow();
            let Some(watch) = watches.get(&number) else {
                return;
            };
            watch.mask
        };
        let left_out = news.unlinked && wanted.contains(Mask::EXCL_UNLINK);
        if left_out || !wanted.intersects(news.mask & WATCHABLE) {
            return;
        }
        self.push(Event {
            watch: number,
            mask: news.mask.bits(),
            cookie: news.cookie,
            name: news.name.to_vec(),
        });
        if wanted.contains(Mask::ONESHOT) {
            let _ = self.remove(number);
        }
    }

    fn push(&self, event: Event) {
        {
            let mut events = self.events.borrow_mut();
            if events.back() == Some(&event) {
                return;
            }
            if events.len() >= MAX_QUEUED {
                let overflow = Mask::Q_OVERFLOW.bits();
                if events.back().is_none_or(|last| last.mask != overflow) {
                    events.push_back(Event {
                        watch: -1,
                        mask: overflow,
                        cookie: 0,
                        name: Vec::new(),
                    });
                }
            } else {
                events.push_back(event);
            }
        }
        self.queue.wake(Events::READABLE);
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        let watches = core::mem::take(self.watches.get_mut());
        for (number, watch) in watches {
            self.forget(watch.key, number);
        }
    }
}

impl File for Inotify {
    fn read(&self, _thread: &Rc<Thread>, _open: &OpenFile, to: &mut Sink) -> Result<usize> {
        if self.events.borrow().is_empty() {
            return Err(Errno::EAGAIN);
        }
        let before = to.done();
        loop {
            let (event, len, padded) = {
                let events = self.events.borrow();
                let Some(event) = events.front() else { break };
                let (len, padded) = event.len();
                (event.clone(), len, padded)
            };
            if len > to.remaining() {
                if to.done() == before {
                    return Err(Errno::EINVAL);
                }
                break;
            }
            let mut record = Vec::with_capacity(len);
            record.extend_from_slice(&event.watch.to_ne_bytes());
            record.extend_from_slice(&event.mask.to_ne_bytes());
            record.extend_from_slice(&event.cookie.to_ne_bytes());
            record.extend_from_slice(&(padded as u32).to_ne_bytes());
            record.extend_from_slice(&event.name);
            record.resize(len, 0);
            match to.put(&record) {
                Ok(put) if put == len => {}
                Err(error) if to.done() == before => return Err(error),
                _ => break,
            }
            self.events.borrow_mut().pop_front();
        }
        Ok(to.done() - before)
    }

    fn poll(&self, _open: &OpenFile) -> Events {
        if self.events.borrow().is_empty() {
            Events::empty()
        } else {
            Events::READABLE
        }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn ioctl(
        &self,
        _thread: &Rc<Thread>,
        _open: &OpenFile,
        request: u32,
        argument: u64,
    ) -> Result<u64> {
        const FIONREAD: u32 = 0x541b;
        if request != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let bytes: usize = self.events.borrow().iter().map(|e| e.len().0).sum();
        UserAddr(argument).write(bytes as u32)?;
        Ok(0)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(super::anonymous::metadata())
    }

    fn describe(&self) -> Vec<u8> {
        b"anon_inode:inotify".to_vec()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
