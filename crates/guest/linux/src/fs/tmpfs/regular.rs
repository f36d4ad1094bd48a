//! Content of regular files: pages over what lies in the image.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use kiln_fs::erofs;

use super::memory::{Chunk, Page};
use super::{Node, PAGE, Tmpfs};
use crate::fs::{Inode, Run};
use crate::io::{Sink, Source};
use crate::{Errno, Result};

/// `F_SEAL_SEAL`
pub const SEAL_SEAL: u32 = 1;
/// `F_SEAL_SHRINK`
pub const SEAL_SHRINK: u32 = 2;
/// `F_SEAL_GROW`
pub const SEAL_GROW: u32 = 4;
/// `F_SEAL_WRITE`
pub const SEAL_WRITE: u32 = 8;
/// `F_SEAL_FUTURE_WRITE`
pub const SEAL_FUTURE_WRITE: u32 = 0x10;
const ALL_SEALS: u32 = 0x3f;

/// Pages that one write makes at once at most.
const MAX_CHUNK: u64 = 512;

/// A regular file's content.
pub(super) struct Regular {
    pub(super) size: Cell<u64>,
    /// What shows through where there are no pages, up to `base_len`.
    base: Option<erofs::Inode<'static>>,
    base_len: Cell<u64>,
    pages: RefCell<BTreeMap<u64, Page>>,
    pub(super) seals: Cell<u32>,
}

impl Regular {
    pub(super) fn empty() -> Self {
        Self {
            size: Cell::new(0),
            base: None,
            base_len: Cell::new(0),
            pages: RefCell::default(),
            // Only files of memfd_create(2) can be sealed.
            seals: Cell::new(SEAL_SEAL),
        }
    }

    pub(super) fn over(base: erofs::Inode<'static>) -> Self {
        Self {
            size: Cell::new(base.size()),
            base: Some(base),
            base_len: Cell::new(base.size()),
            ..Self::empty()
        }
    }

    /// Where in the image all of the content lies, if it was never changed.
    pub(super) fn in_image(&self) -> Option<u64> {
        let base = self.base.as_ref()?;
        let unchanged = self.pages.borrow().is_empty()
            && self.base_len.get() == base.size()
            && self.size.get() == base.size();
        if unchanged { base.pages() } else { None }
    }

    /// Pages in memory.
    pub(super) fn count(&self) -> u64 {
        self.pages.borrow().len() as u64
    }

    /// 512-byte blocks that it takes.
    pub(super) fn blocks(&self) -> u64 {
        self.count() * (PAGE / 512) + self.base_len.get().div_ceil(512)
    }

    fn page(&self, index: u64) -> Option<Page> {
        self.pages.borrow().get(&index).cloned()
    }

    /// What shows through at an offset: bytes in one piece, empty behind the end.
    fn below(&self, offset: u64) -> &'static [u8] {
        let len = self.base_len.get().saturating_sub(offset);
        let bytes = self.base.as_ref().map_or(&[][..], |b| b.content(offset));
        let len = usize::try_from(len).map_or(bytes.len(), |len| len.min(bytes.len()));
        bytes.get(..len).unwrap_or(&[])
    }

    pub(super) fn read(&self, mut offset: u64, to: &mut Sink) -> Result<usize> {
        to.fill_pages();
        let before = to.done();
        let size = self.size.get();
        while offset < size && to.remaining() > 0 {
            let put = match self.piece(offset, size, to) {
                Ok(put) => put,
                Err(error) if to.done() == before => return Err(error),
                Err(_) => break,
            };
            if put == 0 {
                break;
            }
            offset += put as u64;
        }
        Ok(to.done() - before)
    }

    /// Puts what lies in one piece at an offset.
    fn piece(&self, offset: u64, size: u64, to: &mut Sink) -> Result<usize> {
        let left = usize::try_from(size - offset).unwrap_or(usize::MAX);
        let (index, at) = (offset / PAGE, (offset % PAGE) as usize);
        if let Some(page) = self.page(index) {
            let bytes = page.bytes()?;
            let rest = bytes.get(at..).unwrap_or(&[]);
            return to.put(&rest[..rest.len().min(left)]);
        }
        let next = self.pages.borrow().range(index..).next().map(|(&i, _)| i);
        let gap = next.map_or(left, |next| {
            usize::try_from(next * PAGE - offset).map_or(left, |gap| gap.min(left))
        });
        let below = self.below(offset);
        if below.is_empty() {
            return to.put_zeros(gap.min(to.remaining()));
        }
        to.put(&below[..below.len().min(gap)])
    }

    /// The page at an index, made if it is not there; with it up to `ahead` pages that are going to be needed. What lies below is copied
    /// unless all of it will be overwritten.
    fn make(&self, fs: &Tmpfs, index: u64, ahead: u64) -> Result<Page> {
        if let Some(page) = self.page(index) {
            return Ok(page);
        }
        let next = self.pages.borrow().range(index..).next().map(|(&i, _)| i);
        let room = next.map_or(u64::MAX, |next| next - index);
        let mut count = ahead.clamp(1, MAX_CHUNK).min(room);
        let chunk = loop {
            let made = fs
                .take(count)
                .and_then(|()| Chunk::new(count as usize).inspect_err(|_| fs.give_back(count)));
            match made {
                Ok(chunk) => break chunk,
                Err(_) if count > 1 => count = 1,
                Err(error) => return Err(error),
            }
        };
        let mut first = None;
        for number in 0..count {
            let page = Page {
                chunk: chunk.clone(),
                index: number as usize,
            };
            self.copy_up((index + number) * PAGE, &page)?;
            first.get_or_insert_with(|| page.clone());
            chunk.listed.set(chunk.listed.get() + 1);
            self.pages.borrow_mut().insert(index + number, page);
        }
        first.ok_or(Errno::ENOMEM)
    }

    /// Fills a new page with what lies below it.
    fn copy_up(&self, offset: u64, page: &Page) -> Result {
        if self.below(offset).is_empty() {
            return Ok(());
        }
        let mut bytes = page.bytes_mut()?;
        let mut to = &mut bytes[..];
        let mut offset = offset;
        while !to.is_empty() {
            let from = self.below(offset);
            let len = from.len().min(to.len());
            if len == 0 {
                break;
            }
            to[..len].copy_from_slice(&from[..len]);
            to = &mut to[len..];
            offset += len as u64;
        }
        Ok(())
    }

    pub(super) fn write(&self, fs: &Tmpfs, mut offset: u64, from: &mut Source) -> Result<usize> {
        if self.seals.get() & (SEAL_WRITE | SEAL_FUTURE_WRITE) != 0 {
            return Err(Errno::EPERM);
        }
        let end = offset.saturating_add(from.remaining() as u64);
        if self.seals.get() & SEAL_GROW != 0 && end > self.size.get() {
            return Err(Errno::EPERM);
        }
        from.take_pages();
        let before = from.done();
        while from.remaining() > 0 {
            let at = (offset % PAGE) as usize;
            let ahead = (at + from.remaining()).div_ceil(PAGE as usize) as u64;
            let taken = self.make(fs, offset / PAGE, ahead).and_then(|page| {
                let mut bytes = page.bytes_mut()?;
                from.take(bytes.get_mut(at..).unwrap_or(&mut []))
            });
            let taken = match taken {
                Ok(0) => break,
                Ok(taken) => taken,
                Err(error) if from.done() == before => {
                    self.trim(fs);
                    return Err(error);
                }
                Err(_) => break,
            };
            offset += taken as u64;
            self.size.set(self.size.get().max(offset));
        }
        if offset < end {
            self.trim(fs);
        }
        Ok(from.done() - before)
    }

    /// Gives back pages wholly behind the end that were made for a write that then took less.
    fn trim(&self, fs: &Tmpfs) {
        let end = self.size.get().div_ceil(PAGE);
        let behind = self.pages.borrow_mut().split_off(&end);
        self.drop_pages(fs, behind);
    }

    /// Gives pages back; those that are mapped are kept, as zeroes, so that whoever maps them sees what is written there later.
    fn drop_pages(&self, fs: &Tmpfs, pages: BTreeMap<u64, Page>) {
        let (mut freed, mut kept) = (0, BTreeMap::new());
        for (index, page) in pages {
            if page.is_held() {
                if let Ok(mut bytes) = page.bytes_mut() {
                    bytes.fill(0);
                }
                kept.insert(index, page);
            } else {
                page.chunk.listed.set(page.chunk.listed.get() - 1);
                freed += 1;
            }
        }
        self.pages.borrow_mut().append(&mut kept);
        fs.give_back(freed);
    }

    pub(super) fn resize(&self, fs: &Tmpfs, size: u64) -> Result {
        let old = self.size.get();
        if size < old && self.seals.get() & SEAL_SHRINK != 0
            || size > old && self.seals.get() & SEAL_GROW != 0
        {
            return Err(Errno::EPERM);
        }
        if size < old {
            let inside = size % PAGE;
            if inside != 0
                && let Some(page) = self.page(size / PAGE)
            {
                page.bytes_mut()?[inside as usize..].fill(0);
            }
            let behind = self.pages.borrow_mut().split_off(&size.div_ceil(PAGE));
            self.drop_pages(fs, behind);
            self.base_len.set(self.base_len.get().min(size));
        }
        self.size.set(size);
        Ok(())
    }

    /// `fallocate(2)`.
    pub(super) fn allocate(&self, fs: &Tmpfs, mode: u32, offset: u64, len: u64) -> Result {
        const KEEP_SIZE: u32 = 1;
        const PUNCH_HOLE: u32 = 2;
        const ZERO_RANGE: u32 = 0x10;
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        let seals = self.seals.get();
        match mode {
            0 | KEEP_SIZE => {
                if seals & SEAL_GROW != 0 && end > self.size.get() {
                    return Err(Errno::EPERM);
                }
                let (first, last) = (offset / PAGE, end.div_ceil(PAGE));
                let missing = (last - first)
                    .saturating_sub(self.pages.borrow().range(first..last).count() as u64);
                if missing > fs.limit.saturating_sub(fs.used.get()) {
                    return Err(Errno::ENOSPC);
                }
                let mut index = first;
                while index < last {
                    self.make(fs, index, last - index)?;
                    index += 1;
                }
                if mode == 0 {
                    self.size.set(self.size.get().max(end));
                }
                Ok(())
            }
            mode if mode & !KEEP_SIZE == PUNCH_HOLE || mode & !KEEP_SIZE == ZERO_RANGE => {
                if mode & !KEEP_SIZE == PUNCH_HOLE && mode & KEEP_SIZE == 0 {
                    return Err(Errno::EOPNOTSUPP);
                }
                if seals & (SEAL_WRITE | SEAL_FUTURE_WRITE) != 0 {
                    return Err(Errno::EPERM);
                }
                self.zero(fs, offset, end)?;
                if mode & KEEP_SIZE == 0 && end > self.size.get() {
                    self.resize(fs, end)?;
                }
                Ok(())
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Makes a range read as zeroes.
    fn zero(&self, fs: &Tmpfs, offset: u64, end: u64) -> Result {
        let end = end.min(self.size.get());
        let mut at = offset;
        while at < end {
            let index = at / PAGE;
            let stop = ((index + 1) * PAGE).min(end);
            let whole = at.is_multiple_of(PAGE) && (stop - at == PAGE || stop == self.size.get());
            if whole && self.below(at).is_empty() {
                let pages = self.pages.borrow_mut().remove(&index);
                if let Some(page) = pages {
                    self.drop_pages(fs, BTreeMap::from([(index, page)]));
                } else if let Some(next) = self.next_page(index) {
                    // Nothing up to the next page, or to what shows through.
                    at = stop.max((next * PAGE).min(end));
                    continue;
                } else {
                    break;
                }
            } else {
                let exists = self.page(index).is_some() || !self.below(at).is_empty();
                if exists {
                    let page = self.make(fs, index, 1)?;
                    let from = (at % PAGE) as usize;
                    page.bytes_mut()?[from..from + (stop - at) as usize].fill(0);
                }
            }
            at = stop;
        }
        Ok(())
    }

    fn next_page(&self, from: u64) -> Option<u64> {
        self.pages.borrow().range(from..).next().map(|(&i, _)| i)
    }

    /// `lseek(2)` with `SEEK_DATA` or `SEEK_HOLE`.
    pub(super) fn next_extent(&self, offset: u64, data: bool) -> Result<u64> {
        let size = self.size.get();
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        let base = self.base_len.get();
        let mut at = offset;
        loop {
            let is_data = at < base || self.page(at / PAGE).is_some();
            if is_data == data {
                return Ok(at);
            }
            at = if is_data {
                (at / PAGE + 1) * PAGE
            } else {
                match self.next_page(at / PAGE) {
                    Some(next) => next * PAGE,
                    None => size,
                }
            };
            if at >= size {
                return if data { Err(Errno::ENXIO) } else { Ok(size) };
            }
        }
    }

    /// Pages for a mapping.
    pub(super) fn run(&self, fs: &Tmpfs, first: u64, count: u64) -> Result<Run> {
        let end = self.size.get().div_ceil(PAGE);
        if first >= end {
            return Err(Errno::ENXIO);
        }
        let count = count.min(end - first);
        let page = self.make(fs, first, count)?;
        let mut pages = 1;
        while pages < count
            && self.page(first + pages).is_some_and(|next| {
                Rc::ptr_eq(&next.chunk, &page.chunk) && next.index == page.index + pages as usize
            })
        {
            pages += 1;
        }
        Ok(Run {
            address: page.address(),
            pages,
            hold: page.chunk,
        })
    }

    /// All pages go, with the file.
    pub(super) fn clear(&self, fs: &Tmpfs) {
        fs.give_back(self.count());
    }
}

/// `F_ADD_SEALS` and `F_GET_SEALS`.
///
/// # Errors
/// Those of `fcntl(2)`.
pub fn seals(inode: &Rc<dyn Inode>, command: u32, argument: u64) -> Result<u64> {
    const ADD: u32 = 1033;
    const GET: u32 = 1034;
    let node = inode.as_any().downcast_ref::<Node>();
    let regular = node.and_then(Node::regular).ok_or(Errno::EINVAL)?;
    match command {
        GET => Ok(u64::from(regular.seals.get())),
        ADD => {
            let new = argument as u32;
            if new & !ALL_SEALS != 0 {
                return Err(Errno::EINVAL);
            }
            if regular.seals.get() & SEAL_SEAL != 0 {
                return Err(Errno::EPERM);
            }
            if new & !regular.seals.get() & SEAL_WRITE != 0
                && let Some(pages) = node.and_then(Node::pages)
                && crate::mm::may_be_written(&pages)
            {
                return Err(Errno::EBUSY);
            }
            regular.seals.set(regular.seals.get() | new);
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}
