//! Pages of a file that is mapped shared.
//!
//! As long as a file of the host is mapped so, its pages that were touched lie here, one set for all mappings. What the program writes to them
//! nobody tells of, so of each page there is a *twin*, which holds what the host's file holds as far as is known: where the two differ the
//! program has written. That part, and no more, goes to the host ([`Cache::save`]): when the file is read, synchronized (`msync(2)`,
//! `fsync(2)`) or unlocked, and when a mapping goes. What is read from the host meanwhile ([`Cache::show`]) comes into the pages
//! where they do not differ. So two machines may change different bytes of one page and neither undoes what the other has done, if they
//! lock what they change, as databases do.
//!
//! The host does not say when somebody else has changed a file. A mapping shows such changes after the file was read with `read(2)`, or
//! after a lock on it was taken ([`Cache::refresh`]).

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use kiln_ninep::Attributes;

use super::node::Node;
use crate::fs::tmpfs::memory::{Chunk, Page};
use crate::fs::{Pages, Run};
use crate::user::PAGE;
use crate::{Errno, Result};

const BYTES: usize = PAGE as usize;

/// Pages that are read at once: as many as one message holds, less one for its header.
const AT_ONCE: u64 = 31;

/// A page of which more pieces than this have changed is written as a whole.
const MOST_PIECES: usize = 64;

type Twin = Box<[u8; BYTES]>;

struct Cached {
    page: Page,
    /// Only if the program may write the page.
    twin: Option<Twin>,
}

/// The pages of one file.
pub struct Cache {
    node: Rc<Node>,
    pages: RefCell<BTreeMap<u64, Cached>>,
    /// There is, or was, a mapping that may be written.
    written: Cell<bool>,
    /// How often the guest has changed the host's file.
    changes: Cell<u64>,
    /// The host's file when somebody looked last: length and time of its last change.
    seen: Cell<(u64, u64, u64)>,
}

impl Cache {
    /// No pages yet.
    pub fn new(node: Rc<Node>) -> Self {
        Self {
            node,
            pages: RefCell::default(),
            written: Cell::new(false),
            changes: Cell::new(0),
            seen: Cell::default(),
        }
    }

    /// True if the host's file is not what it was when this was asked last.
    pub fn looks_changed(&self, told: &Attributes) -> bool {
        let now = (told.size, told.mtime, told.mtime_nanos);
        self.seen.replace(now) != now
    }

    /// A number that is another one after the guest has changed the file.
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// Writes what the program has changed between two offsets in bytes to the host.
    ///
    /// # Errors
    /// The first of the host's; the rest is tried. What could not be written stays changed.
    pub fn save(&self, start: u64, end: u64) -> Result {
        if !self.written.get() {
            return Ok(());
        }
        let pieces = self.changed(start, end);
        if pieces.is_empty() {
            return Ok(());
        }
        // What lies behind the end of the file is nobody's.
        let size = self.node.size()?;
        let mut result = Ok(());
        for (offset, mut bytes) in pieces {
            let room = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
            bytes.truncate(room);
            if bytes.is_empty() {
                continue;
            }
            // Before it is sent: what comes meanwhile is compared with it.
            self.stored(offset, &bytes);
            if let Err(errno) = self.node.store(offset, &bytes) {
                self.not_stored(offset, &bytes);
                result = result.and(Err(errno));
            }
        }
        result
    }

    /// The pieces that differ from their twins, those side by side as one.
    fn changed(&self, start: u64, end: u64) -> Vec<(u64, Vec<u8>)> {
        let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
        let pages = self.pages.borrow();
        for (&index, cached) in pages.range(start / PAGE..end.div_ceil(PAGE)) {
            let (Some(twin), Ok(bytes)) = (&cached.twin, cached.page.bytes()) else {
                continue;
            };
            for (from, to) in differences(&bytes, twin) {
                let offset = index * PAGE + from as u64;
                let piece = bytes.get(from..to).unwrap_or_default();
                match pieces.last_mut() {
                    Some((at, last)) if *at + last.len() as u64 == offset => {
                        last.extend_from_slice(piece);
                    }
                    _ => pieces.push((offset, piece.to_vec())),
                }
            }
        }
        pieces
    }

    /// The host did not take these bytes: they count as changed, whatever the program makes of them.
    fn not_stored(&self, offset: u64, bytes: &[u8]) {
        let others: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
        self.stored(offset, &others);
    }

    /// The host has these bytes now.
    fn stored(&self, offset: u64, bytes: &[u8]) {
        self.changes.set(self.changes.get() + 1);
        self.each(offset, bytes, |cached, at, part| {
            if let Some(twin) = &mut cached.twin
                && let Some(to) = twin.get_mut(at..at + part.len())
            {
                to.copy_from_slice(part);
            }
        });
    }

    /// The guest writes these bytes to the file by other ways: its pages have them at once.
    pub fn wrote(&self, offset: u64, bytes: &[u8]) {
        self.changes.set(self.changes.get() + 1);
        self.each(offset, bytes, |cached, at, part| {
            if let Ok(mut page) = cached.page.bytes_mut()
                && let Some(to) = page.get_mut(at..at + part.len())
            {
                to.copy_from_slice(part);
            }
            if let Some(twin) = &mut cached.twin
                && let Some(to) = twin.get_mut(at..at + part.len())
            {
                to.copy_from_slice(part);
            }
        });
    }

    /// The host's file holds these bytes: pages show them where the program has not written.
    pub fn show(&self, offset: u64, bytes: &[u8]) {
        self.each(offset, bytes, |cached, at, part| {
            let Ok(mut page) = cached.page.bytes_mut() else {
                return;
            };
            let Some(to) = page.get_mut(at..at + part.len()) else {
                return;
            };
            let Some(twin) = &mut cached.twin else {
                to.copy_from_slice(part);
                return;
            };
            let Some(twin) = twin.get_mut(at..at + part.len()) else {
                return;
            };
            if to == twin {
                to.copy_from_slice(part);
            } else {
                for ((to, twin), new) in to.iter_mut().zip(&*twin).zip(part) {
                    if to == twin {
                        *to = *new;
                    }
                }
            }
            twin.copy_from_slice(part);
        });
    }

    /// Goes through the pages that are here of a range: each with where in it the range's part begins, and that part.
    fn each(&self, offset: u64, bytes: &[u8], mut work: impl FnMut(&mut Cached, usize, &[u8])) {
        let end = offset.saturating_add(bytes.len() as u64);
        let mut pages = self.pages.borrow_mut();
        for (&index, cached) in pages.range_mut(offset / PAGE..end.div_ceil(PAGE)) {
            let from = offset.max(index * PAGE);
            let to = end.min((index + 1) * PAGE);
            let part = (from - offset) as usize..(to - offset) as usize;
            if let Some(part) = bytes.get(part) {
                work(cached, (from % PAGE) as usize, part);
            }
        }
    }

    /// Reads pages between two offsets in bytes from the host again.
    ///
    /// # Errors
    /// The host's.
    pub fn refresh(&self, start: u64, end: u64) -> Result {
        let mut at = start / PAGE;
        let last = end.div_ceil(PAGE);
        let mut buffer = Vec::new();
        loop {
            let run = {
                let pages = self.pages.borrow();
                let mut here = pages.range(at..last).map(|(&index, _)| index);
                let Some(first) = here.next() else {
                    return Ok(());
                };
                let more = here.zip(first + 1..).take_while(|(a, b)| a == b);
                (first, 1 + more.take(AT_ONCE as usize - 1).count() as u64)
            };
            let (first, count) = run;
            buffer.clear();
            buffer.resize((count * PAGE) as usize, 0);
            let before = self.changes.get();
            // Behind the end of the file there are zeroes.
            self.node.fetch(first * PAGE, &mut buffer)?;
            // Else it is older than what is here.
            if self.changes.get() == before {
                self.show(first * PAGE, &buffer);
                at = first + count;
            }
        }
    }

    /// The bytes that are here, as a range from the first page's first to the last one's last.
    pub fn extent(&self) -> (u64, u64) {
        let pages = self.pages.borrow();
        let first = pages.first_key_value().map_or(0, |(&index, _)| index);
        let last = pages.last_key_value().map_or(0, |(&index, _)| index + 1);
        (first * PAGE, last * PAGE)
    }

    /// The file will end at `size` instead of `old`: what lies behind the nearer of them is zero, and no page wholly behind the new end is here
    /// any more.
    pub fn cut(self: &Rc<Self>, old: u64, size: u64) {
        self.changes.set(self.changes.get() + 1);
        let end = old.min(size);
        if !end.is_multiple_of(PAGE) {
            let rest = (PAGE - end % PAGE) as usize;
            self.wrote(end, &vec![0; rest]);
        }
        if size < old {
            let this: Rc<dyn Pages> = self.clone();
            crate::mm::content_gone(&this, size.div_ceil(PAGE), u64::MAX);
            let gone = self.pages.borrow_mut().split_off(&size.div_ceil(PAGE));
            drop(gone);
        }
    }

    fn twin_of(&self, page: &Page) -> Result<Option<Twin>> {
        if !self.written.get() {
            return Ok(None);
        }
        Ok(Some(Box::new(*page.bytes()?)))
    }

    /// Reads pages that are not here.
    fn bring(&self, first: u64, count: u64) -> Result {
        let size = self.node.size()?;
        let end = size.div_ceil(PAGE);
        if first >= end {
            return Err(Errno::ENXIO);
        }
        let next = {
            let pages = self.pages.borrow();
            pages.range(first..).next().map_or(end, |(&index, _)| index)
        };
        let count = count.clamp(16, AT_ONCE).min(next.min(end) - first);
        let chunk = Chunk::new(count as usize).or_else(|_| Chunk::new(1))?;
        let mut buffer = vec![0; count as usize * BYTES];
        loop {
            let before = self.changes.get();
            self.node.fetch(first * PAGE, &mut buffer)?;
            // Else it is older than what the file has by now.
            if self.changes.get() == before {
                break;
            }
            buffer.fill(0);
        }
        for (number, bytes) in buffer.chunks_exact(BYTES).enumerate() {
            // Others may have been here meanwhile, and what they have brought may be mapped.
            if self.here(first + number as u64).is_some() {
                continue;
            }
            let page = Page {
                chunk: chunk.clone(),
                index: number,
            };
            // Memory may have been there for the first only.
            let Ok(mut to) = page.bytes_mut() else { break };
            to.copy_from_slice(bytes);
            drop(to);
            let twin = self.twin_of(&page)?;
            let cached = Cached { page, twin };
            self.pages
                .borrow_mut()
                .insert(first + number as u64, cached);
        }
        Ok(())
    }

    pub(super) fn here(&self, index: u64) -> Option<Page> {
        let pages = self.pages.borrow();
        pages.get(&index).map(|cached| cached.page.clone())
    }
}

impl Pages for Cache {
    fn run(&self, first: u64, count: u64) -> Result<Run> {
        let page = if let Some(page) = self.here(first) {
            page
        } else {
            self.bring(first, count)?;
            self.here(first).ok_or(Errno::ENOMEM)?
        };
        let mut pages = 1;
        while pages < count
            && self.here(first + pages).is_some_and(|next| {
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

    fn are_far(&self) -> bool {
        true
    }

    fn expect_writes(&self) -> Result {
        if self.written.replace(true) {
            return Ok(());
        }
        for cached in self.pages.borrow_mut().values_mut() {
            cached.twin = Some(Box::new(*cached.page.bytes()?));
        }
        Ok(())
    }

    fn save(&self, first: u64, last: u64) -> Result {
        Self::save(self, first.saturating_mul(PAGE), last.saturating_mul(PAGE))
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        // Who unmapped it last has been told of errors, or could not be.
        let _ = Self::save(self, 0, u64::MAX);
    }
}

/// The ranges of bytes in which two pages differ; all of the page if that would be too many.
fn differences(new: &[u8; BYTES], old: &[u8; BYTES]) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    if new == old {
        return found;
    }
    for (at, (new, old)) in new.iter().zip(old).enumerate() {
        if new == old {
            continue;
        }
        match found.last_mut() {
            Some((_, end)) if *end == at => *end = at + 1,
            _ => found.push((at, at + 1)),
        }
        if found.len() > MOST_PIECES {
            return vec![(0, BYTES)];
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_found() {
        let old = [0; BYTES];
        let mut new = old;
        assert_eq!(differences(&new, &old), []);
        new[5] = 1;
        new[6] = 2;
        new[BYTES - 1] = 3;
        assert_eq!(differences(&new, &old), [(5, 7), (BYTES - 1, BYTES)]);
        for at in (0..BYTES).step_by(2) {
            new[at] = 1;
        }
        assert_eq!(differences(&new, &old), [(0, BYTES)]);
    }
}
